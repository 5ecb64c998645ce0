"""`hybrid-router health`: ask a running router whether it takes work, as a balancer or a probe would.

The rule: the answer is the standard one of gRPC health checking (grpc.health.v1), and whoever starts the command reads
its exit code. It is 0 for SERVING and 1 for anything else, a router that does not answer included: container engines
know no third result. What the providers do is no part of it; a router whose provider fails still takes work.
"""

import json
from typing import Annotated, Any, Final

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"


def health(
    address: Annotated[str, typer.Option(help="host:port of the router.")] = DEFAULT_ADDRESS,
    service: Annotated[
        str, typer.Option(help="Full name of one service, as in router.v1.RouterService; empty: the whole.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to wait for the answer.")] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print address, service and status as JSON.")
    ] = False,
) -> None:
    """Print SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNREACHABLE; exit with 0 only for SERVING.

    A router that drains after SIGTERM says NOT_SERVING.

    Example: hybrid-router health --address 127.0.0.1:50051
    """
    status = status_of(address, service, timeout)
    if as_json:
        print(json.dumps({"address": address, "service": service, "status": status}))
    else:
        print(status)
    if status != "SERVING":
        raise typer.Exit(1)


def status_of(address: str, service: str, timeout_s: float) -> str:
    """Return the router's own word for its state, or UNREACHABLE with no answer within `timeout_s`."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            # The stub's methods are made at run time; its type declares none.
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            # The health protocol answers Check for a name it does not know with this status, not with a message.
            unknown = error.code() is grpc.StatusCode.NOT_FOUND
            return "SERVICE_UNKNOWN" if unknown else "UNREACHABLE"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
