"""The gRPC server: services, limits, health, and how it ends.

The rule: it starts healthy only when everything behind it is up, and ends in order: report NOT_SERVING, wait for
balancers, refuse new calls, let running ones finish, then settle what they left. What runs behind it is the app's.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from router.config import ServerConfig
from router.interceptors import ServerInterceptor
from router.registration import Registering
from router.v1 import (
    feedback_service_pb2,
    feedback_service_pb2_grpc,
    operator_service_pb2,
    operator_service_pb2_grpc,
    router_service_pb2,
    router_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

logger = logging.getLogger(__name__)

CLIENT_PING_INTERVAL_MS = 30_000
"""Clients may ping this often; the default of five minutes ends calls with "Too many pings"."""
METADATA_BYTES_LIMIT = 16 << 10
IDLE_TIMEOUT_S = 10.0
"""Bound on waiting for cancelled handlers to have settled."""


@dataclass(frozen=True, slots=True)
class Services:
    """The servicers of one process; `operator` None leaves that service out."""

    router: router_service_pb2_grpc.RouterServiceServicer
    session: session_service_pb2_grpc.SessionServiceServicer
    feedback: feedback_service_pb2_grpc.FeedbackServiceServicer
    operator: operator_service_pb2_grpc.OperatorServiceServicer | None


class Server:
    """One listening gRPC server."""

    def __init__(self, config: ServerConfig, services: Services, interceptor: ServerInterceptor) -> None:
        """Register services; nothing listens yet."""
        self._config = config
        self._server = grpc.aio.server(options=_options(config))
        names = _register(interceptor.before(self._server), services)
        self._interceptor = interceptor
        self._health = HealthServicer()
        bare: Any = Registering(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, bare)
        self._names = ("", *names)
        if config.reflection:
            known = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME
            described = reflection.aio.ReflectionServicer((*names, *known))
            register: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
            register(described, bare)
        self.address = ""

    async def start(self) -> str:
        """Listen, report SERVING, and return the address with the port really bound.

        Raises:
            OSError: The address cannot be bound.
        """
        host, _, _ = self._config.listen.rpartition(":")
        try:
            port = self._server.add_insecure_port(self._config.listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._config.listen}: {error}") from error
        await self._server.start()
        for name in self._names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.address = f"{host}:{port}"
        return self.address

    async def drain(self) -> None:
        """End in order; returns when no call is running."""
        logger.info("draining for %g s, then %g s of grace", self._config.drain_s, self._config.grace_s)
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._config.drain_s)
        await self._server.stop(self._config.grace_s)
        # Calls that outlived the grace are cancelled, but their handlers have yet to hear of it, and to settle.
        if not await self._interceptor.idle(IDLE_TIMEOUT_S):
            logger.error(
                "%d calls did not end within %g s of grace", self._interceptor.in_flight, IDLE_TIMEOUT_S
            )

    async def wait(self) -> None:
        """Wait until the server has ended."""
        await self._server.wait_for_termination()


def _register(server: Any, services: Services) -> Sequence[str]:
    router_service_pb2_grpc.add_RouterServiceServicer_to_server(services.router, server)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(services.session, server)
    feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server(services.feedback, server)
    modules: list[Any] = [router_service_pb2, session_service_pb2, feedback_service_pb2]
    if services.operator is not None:
        operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(services.operator, server)
        modules.append(operator_service_pb2)
    return [
        service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()
    ]


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.message_bytes_limit),
        ("grpc.max_metadata_size", METADATA_BYTES_LIMIT),
        ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # A second server on the same port would silently share its connections: be told instead.
        ("grpc.so_reuseport", 0),
    ]
