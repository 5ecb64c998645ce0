"""How services are registered with a `grpc.aio` server: as generic handlers, wrapped beforehand.

The rule: nothing is registered by its method. For each method registered so, and for all others together, gRPC's
server keeps a task that waits for the next call, and when one has come it waits for all of them anew: with our
seventeen methods every RPC set and took back eighteen callbacks (grpcio 1.85; 50 Python calls, .02 to .03 ms of CPU).
Generic handlers share one such task, and finding a method is one look-up in a dict for each service before its own.

It does not know what handlers are wrapped in: that is `interceptors`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc

Wrap = Callable[[str, Any], Any]
"""Makes a handler of `package.Service/Method` and a handler."""


class Registering:
    """Takes the place of a server while a service is registered with it by generated code."""

    def __init__(self, server: grpc.aio.Server, wrap: Wrap | None = None) -> None:
        """Keep references; without `wrap` handlers are registered as they are."""
        self._server = server
        self._wrap = wrap

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Nothing: generated code gives every handler a second time, by its method."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register a service's handlers."""
        wrap = self._wrap
        served = {
            method: handler if wrap is None else wrap(f"{service}/{method}", handler)
            for method, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, served),))
