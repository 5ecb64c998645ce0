"""OpenTelemetry SDK wiring: samplers, exporters, readers and the Prometheus endpoint, built from settings.

The rule: everything is built in the process that uses it, after any fork, because exporters own threads and
channels; nothing is registered globally, so tests and workers can hold several. Whatever blocks (flush,
shutdown) is a plain function for a thread; `router.telemetry` keeps it off the event loop.

This module knows no request, route or settlement.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, start_http_server

from router import attributes as names
from router.telemetry.settings import GRPC, OtlpTarget, TelemetrySettings
from router.telemetry.span_encoding import SpanExporter as GrpcSpanExporter

Collect = Callable[[], Sequence[Metric]]
ObserveEach = Callable[[], Iterable[tuple[dict[str, str], float | int]]]
"""Gives a gauge's values by labels when someone collects; called in another thread, must be quick."""
Observe = Callable[[], float | int | None]
"""Gives a gauge's value when someone collects, None for none; called in another thread, must be quick."""

_SCOPE = InstrumentationScope(names.SCOPE)


def sampler_of(settings: TelemetrySettings) -> Sampler:
    """Return the sampler the settings name."""
    match settings.sampler:
        case "always_on":
            return ALWAYS_ON
        case "always_off":
            return ALWAYS_OFF
        case "traceidratio":
            return TraceIdRatioBased(settings.sample_ratio)
        case "parentbased_always_on":
            return ParentBased(ALWAYS_ON)
        case "parentbased_always_off":
            return ParentBased(ALWAYS_OFF)
        case _:
            return ParentBasedTraceIdRatio(settings.sample_ratio)


@dataclass(frozen=True, slots=True)
class Tracing:
    """A tracer provider with what is behind it."""

    provider: TracerProvider
    exporter: SpanExporter
    processor: BatchSpanProcessor

    def flush(self, timeout_s: float) -> bool:
        """Export what is queued; blocks. False when the provider is closed."""
        return self.provider.force_flush(int(timeout_s * 1e3))

    def shutdown(self, timeout_s: float) -> None:
        """Export what is queued within `timeout_s`, drop the rest, stop the threads; blocks."""
        # The SDK takes no timeout here; closing the exporter interrupts its retries and the call on the wire.
        cut_off = threading.Timer(timeout_s, self.exporter.shutdown)
        cut_off.daemon = True
        cut_off.start()
        try:
            self.provider.shutdown()
        finally:
            cut_off.cancel()


def build_tracing(settings: TelemetrySettings, target: OtlpTarget) -> Tracing:
    """Start exporting spans to `target`."""
    exporter = _span_exporter(target)
    provider = TracerProvider(
        sampler=sampler_of(settings),
        resource=Resource.create(dict(settings.resource)),
        shutdown_on_exit=False,
    )
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=settings.queue_size,
        schedule_delay_millis=settings.schedule_delay_s * 1e3,
        max_export_batch_size=settings.batch_size,
        export_timeout_millis=target.timeout_s * 1e3,
    )
    provider.add_span_processor(processor)
    return Tracing(provider, exporter, processor)


@dataclass(frozen=True, slots=True)
class Metering:
    """A meter provider for gauges, readers that add our aggregates, and the scrape endpoint."""

    provider: MeterProvider
    endpoint: "PrometheusEndpoint | None"

    def gauge(self, name: str, unit: str, description: str, observe: Observe) -> None:
        """Have `observe` called whenever someone collects."""

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            value = observe()
            return () if value is None else (Observation(value),)

        self.provider.get_meter(names.SCOPE).create_observable_gauge(
            name, callbacks=[callback], unit=unit, description=description
        )

    def gauges(self, name: str, unit: str, description: str, observe: ObserveEach) -> None:
        """Have `observe` called whenever someone collects, for a value by labels."""

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for labels, value in observe()]

        self.provider.get_meter(names.SCOPE).create_observable_gauge(
            name, callbacks=[callback], unit=unit, description=description
        )

    def flush(self, timeout_s: float) -> bool:
        """Push what has been counted; blocks."""
        return self.provider.force_flush(timeout_s * 1e3)

    def shutdown(self, timeout_s: float) -> None:
        """Push once more, stop the readers and close the endpoint; blocks."""
        self.provider.shutdown(timeout_s * 1e3)
        if self.endpoint is not None:
            self.endpoint.close()


def build_metering(settings: TelemetrySettings, collect: Collect) -> Metering:
    """Start serving and pushing metrics, as far as the settings ask.

    Args:
        collect: Gives our aggregates; called in exporters' threads.

    Raises:
        OSError: The Prometheus port is taken.
    """
    readers: list[MetricReader] = []
    registry = None
    if settings.metrics is not None:
        exporter = _metric_exporter(settings.metrics)
        readers.append(_PushReader(exporter, settings.metrics_period_s * 1e3, collect))
    if settings.prometheus_port:
        # A registry of its own: the global one belongs to no one and refuses a second reader.
        registry = CollectorRegistry()
        readers.append(_ScrapeReader(registry, collect))
    provider = MeterProvider(
        metric_readers=readers, resource=Resource.create(dict(settings.resource)), shutdown_on_exit=False
    )
    if registry is None:
        return Metering(provider, None)
    try:
        endpoint = PrometheusEndpoint(settings.prometheus_host, settings.prometheus_port, registry)
    except OSError:
        provider.shutdown()
        raise
    return Metering(provider, endpoint)


class PrometheusEndpoint:
    """`/metrics` over HTTP, in a thread of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._server: WSGIServer
        self._thread: threading.Thread
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)

    def close(self) -> None:
        """Stop serving and free the port; blocks until the thread is gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _PushReader(PeriodicExportingMetricReader):
    """Pushes instruments of the SDK and our aggregates together."""

    def __init__(self, exporter: MetricExporter, period_ms: float, collect: Collect) -> None:
        # Before the base class: it starts the thread that may collect.
        self._own = collect
        super().__init__(exporter, export_interval_millis=period_ms)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        super()._receive_metrics(_joined(metrics_data, self._own()), timeout_millis, **kwargs)


class _ScrapeReader(PrometheusMetricReader):
    """Serves instruments of the SDK and our aggregates together."""

    def __init__(self, registry: CollectorRegistry, collect: Collect) -> None:
        self._own = collect
        super().__init__(scope_info_enabled=False, registry=registry)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        super()._receive_metrics(_joined(metrics_data, self._own()), timeout_millis, **kwargs)


def _joined(data: MetricsData, own: Sequence[Metric]) -> MetricsData:
    """Add our aggregates to what the SDK collected, under the same resource."""
    if not own:
        return data
    first, *rest = data.resource_metrics
    scopes = [*first.scope_metrics, ScopeMetrics(scope=_SCOPE, metrics=own, schema_url="")]
    joined = ResourceMetrics(
        resource=first.resource, scope_metrics=_by_scope(scopes), schema_url=first.schema_url
    )
    return MetricsData(resource_metrics=[joined, *rest])


def _by_scope(scopes: Sequence[ScopeMetrics]) -> list[ScopeMetrics]:
    """Merge entries of one scope: the OTLP encoder keeps only the last one of each."""
    merged: dict[InstrumentationScope, ScopeMetrics] = {}
    for entry in scopes:
        known = merged.get(entry.scope)
        metrics = [*known.metrics, *entry.metrics] if known else entry.metrics
        merged[entry.scope] = ScopeMetrics(scope=entry.scope, metrics=metrics, schema_url=entry.schema_url)
    return list(merged.values())


def _span_exporter(target: OtlpTarget) -> SpanExporter:
    headers = dict(target.headers) or None
    if target.protocol == GRPC:
        return GrpcSpanExporter(endpoint=target.endpoint, headers=headers, timeout=target.timeout_s)
    return HttpSpanExporter(endpoint=target.endpoint, headers=headers, timeout=target.timeout_s)


def _metric_exporter(target: OtlpTarget) -> MetricExporter:
    headers = dict(target.headers) or None
    if target.protocol == GRPC:
        return GrpcMetricExporter(endpoint=target.endpoint, headers=headers, timeout=target.timeout_s)
    return HttpMetricExporter(endpoint=target.endpoint, headers=headers, timeout=target.timeout_s)
