"""An OTLP/gRPC collector that keeps the very bytes it is sent, so that a test can search them for what must not be
there, and decodes the spans for the rest.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.otlp_collector import attributes_of


@dataclass(frozen=True, slots=True)
class Span:
    """One exported span; ids in hex, kind as OTLP names it; links are (trace id, span id)."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str
    attributes: dict[str, Any]
    events: int
    status: str
    links: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Tap:
    """Everything exported so far.

    Attributes:
        endpoint: What to give an exporter.
        exports: (method, request bytes) in order of arrival.
    """

    endpoint: str = ""
    exports: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """Standard variables that send spans and metrics here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        }

    def spans(self) -> list[Span]:
        """Every span, in order of arrival."""
        return [
            _decoded(span)
            for method, data in self.exports
            if method.endswith("TraceService/Export")
            for resource in ExportTraceServiceRequest.FromString(data).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metric_names(self) -> set[str]:
        """Names of every metric that came."""
        return {
            metric.name
            for method, data in self.exports
            if method.endswith("MetricsService/Export")
            for resource in ExportMetricsServiceRequest.FromString(data).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@asynccontextmanager
async def tapped() -> AsyncIterator[Tap]:
    """Serve a collector on a free loopback port for the length of the block."""
    tap = Tap()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Everything(tap),))
    tap.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield tap
    finally:
        await server.stop(0)


class _Everything(grpc.GenericRpcHandler):
    """Takes any unary call as bytes and answers with an empty message."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def keep(request: bytes, context: object) -> bytes:
            self._tap.exports.append((handler_call_details.method, request))
            return b""

        return grpc.unary_unary_rpc_method_handler(keep)


def _decoded(span: Any) -> Span:
    return Span(
        name=span.name,
        kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        attributes=attributes_of(span.attributes),
        events=len(span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        status=type(span.status).StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
    )
