"""An OTLP/gRPC collector inside the test: what a real exporter sends, decoded, and awaited without sleeping.

It speaks the protocol of Jaeger's port 4317 on a free port and keeps every span and metric it was sent.
Waiting is for an event (an export arriving), bounded by a timeout that fails the test with what did arrive.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One span as it came over the wire; ids in hex, kind and status by the names OTLP gives them."""

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str
    kind: str
    status: str
    attributes: Mapping[str, Any]
    events: tuple[str, ...]
    duration_ns: int
    scope: str
    resource: Mapping[str, Any] = field(repr=False)


class OtlpCollector:
    """Everything received so far, newest last; `endpoint` is what to give an exporter."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans: list[CollectedSpan] = []
        self.metrics: dict[str, Metric] = {}
        self.headers: list[Mapping[str, str]] = []
        self._arrived = asyncio.Condition()

    async def wait_for_spans(self, count: int, *, timeout_s: float = 10.0) -> list[CollectedSpan]:
        """Return all spans once there are at least `count`."""
        await self.wait_for(lambda: len(self.spans) >= count, timeout_s=timeout_s)
        return list(self.spans)

    async def wait_for(self, ready: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        """Return once `ready` holds; it is asked again after every export."""
        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(ready)
        except TimeoutError:
            names = [span.name for span in self.spans]
            raise AssertionError(
                f"not in {timeout_s:g} s; spans {names}, metrics {sorted(self.metrics)}"
            ) from None

    def span(self, name: str) -> CollectedSpan:
        """Return the only span of that name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    async def _notify(self, context: Any) -> None:
        self.headers.append(dict(context.invocation_metadata() or ()))
        async with self._arrived:
            self._arrived.notify_all()


@asynccontextmanager
async def otlp_collector() -> AsyncIterator[OtlpCollector]:
    """Serve a collector on a free loopback port for the length of the block."""
    collector = OtlpCollector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(collector), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(collector), server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.endpoint = f"http://127.0.0.1:{port}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: OtlpCollector) -> None:
        self._collector = collector

    async def Export(self, request: Any, context: Any) -> Any:
        for resource_spans in request.resource_spans:
            resource = attributes_of(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    self._collector.spans.append(_decoded(span, scope_spans.scope.name, resource))
        await self._collector._notify(context)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, collector: OtlpCollector) -> None:
        self._collector = collector

    async def Export(self, request: Any, context: Any) -> Any:
        for resource_metrics in request.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    self._collector.metrics[metric.name] = metric
        await self._collector._notify(context)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Decode OTLP key-values into plain Python values, arrays into lists."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _decoded(span: Any, scope: str, resource: Mapping[str, Any]) -> CollectedSpan:
    return CollectedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        status=type(span.status).StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        attributes=attributes_of(span.attributes),
        events=tuple(event.name for event in span.events),
        duration_ns=span.end_time_unix_nano - span.start_time_unix_nano,
        scope=scope,
        resource=resource,
    )


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            pairs: list[KeyValue] = list(value.kvlist_value.values)
            return attributes_of(pairs)
        case kind:
            return getattr(value, kind)
