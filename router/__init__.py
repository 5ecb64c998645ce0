"""The routing service: gRPC edge, upstreams, dispatch, cost, ledger, telemetry, command line and sandbox."""
