"""Spans made without the SDK's machinery: they reach a collector as its own would, and say no exception's text."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import INVALID_SPAN, SpanKind, Status, StatusCode, use_span

from router import attributes as names
from router.telemetry import Telemetry, from_environ
from router.telemetry.light_spans import LightSpan, LightSpans, are_allowed
from tests.otlp_collector import OtlpCollector, otlp_collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, RANDOM, UNSAMPLED = (f"00-{TRACE}-b7ad6b7169203331-{flags}" for flags in ("01", "03", "00"))
SECRET = "the merger is on Friday"


class Target:
    """An upstream, as far as spans name it."""

    name, provider_name, operation, model = "anthropic", "anthropic", "chat", "claude-opus-5-5"
    server_address, server_port = "api.anthropic.com", 443


@asynccontextmanager
async def exporting(sampler: str, *, light: bool) -> AsyncIterator[tuple[Telemetry, OtlpCollector]]:
    """Telemetry whose spans are made here, or by the SDK, and the collector they go to."""
    async with otlp_collector() as collector:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_TRACES_SAMPLER": sampler,
            "OTEL_TRACES_SAMPLER_ARG": "1.0",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
        }
        telemetry = Telemetry.build(from_environ(environ))
        assert telemetry._light is not None
        if not light:
            telemetry._light = None
        try:
            yield telemetry, collector
        finally:
            await telemetry.shutdown()


async def _request(telemetry: Telemetry, traceparent: str, tracestate: str) -> None:
    """What the spans of one request go through: two stages, one of which fails, an attempt, and the RPC around them."""
    server = telemetry.start_server_span("m", traceparent, tracestate, lambda: "ipv4:127.0.0.1:50")
    server.set_attribute(names.REQUEST_ID, "r")
    entered = telemetry.enter(server)
    try:
        with telemetry.classify():
            pass
        with pytest.raises(ValueError, match=SECRET), telemetry.settle():
            raise ValueError(SECRET)
        attempt = telemetry.start_inference(Target(), route="opus")
        attempt.set_attributes({"count": 3, "share": 0.5, "kept": True, "reasons": ("stop",)})
        attempt.set_status(Status(StatusCode.ERROR))
        attempt.end()
    finally:
        telemetry.end_server_span(server, "UNAVAILABLE", "UNAVAILABLE")
        telemetry.leave(entered)


@pytest.mark.parametrize("sampler", ["parentbased_traceidratio", "always_on", "parentbased_always_on"])
@pytest.mark.parametrize("traceparent", [SAMPLED, RANDOM, UNSAMPLED, "", "malformed"])
@pytest.mark.parametrize("tracestate", ["", "vendor=1"])
async def test_what_is_exported_is_what_the_sdk_would_have_exported(
    sampler: str, traceparent: str, tracestate: str
) -> None:
    """Whatever a caller's trace context says: the same spans, attributes, kinds, states and relations."""
    seen = []
    for light in (True, False):
        async with exporting(sampler, light=light) as (telemetry, collector):
            await _request(telemetry, traceparent, tracestate)
            await telemetry.flush()
            spans = {span.span_id: span for span in collector.spans}
            seen.append(
                sorted(
                    (
                        span.name,
                        span.trace_id == TRACE,
                        spans[span.parent_span_id].name
                        if span.parent_span_id in spans
                        else span.parent_span_id,
                        span.kind,
                        span.status,
                        sorted(span.attributes.items(), key=str),
                        span.scope,
                        sorted(span.resource.items(), key=str),
                    )
                    for span in spans.values()
                )
            )
            assert SECRET not in str(collector.spans)
    assert seen[0] == seen[1]
    recorded = not (traceparent == UNSAMPLED and sampler.startswith("parentbased"))
    assert len(seen[0]) == (4 if recorded else 0)


class _Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


def _makers(share: float = 1.0) -> tuple[LightSpans, _Kept, TracerProvider]:
    kept = _Kept()
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(share), shutdown_on_exit=False)
    processor = BatchSpanProcessor(kept, schedule_delay_millis=600_000)
    provider.add_span_processor(processor)
    scope = provider.get_tracer(names.SCOPE)._instrumentation_scope  # type: ignore[attr-defined]
    return LightSpans(provider, processor, scope), kept, provider


def test_a_root_is_recorded_iff_the_sampler_says_so_of_its_trace() -> None:
    """Other services that see the trace id decide alike; what is not recorded still carries it."""
    makers, _, provider = _makers(0.5)
    try:
        spans = [makers.start_root("m", SpanKind.SERVER, {}) for _ in range(64)]
        for span in spans:
            context = span.get_span_context()
            said = provider.sampler.should_sample(Context(), context.trace_id, "m").decision.is_recording()
            assert span.is_recording() == bool(context.trace_flags.sampled) == said
            assert context.is_valid
            assert context.trace_flags.random_trace_id
        assert 5 < sum(span.is_recording() for span in spans) < 59
    finally:
        provider.shutdown()


@given(
    st.lists(
        st.one_of(
            st.sampled_from(list(StatusCode)),
            st.builds(Status, st.sampled_from(list(StatusCode))),
            st.tuples(st.sampled_from("abc"), st.sampled_from(["v", 1, 0.5, True])),
            st.sampled_from(["end", "rename", "event"]),
        ),
        max_size=12,
    )
)
def test_whatever_is_said_to_a_span_it_ends_as_the_sdks_does(said: list[Any]) -> None:
    """Status, attributes, name and events: OK is final, the end is heard once, and nothing after it."""
    makers, kept, provider = _makers()
    try:
        theirs = provider.get_tracer("x").start_span("m", context=Context(), kind=SpanKind.CLIENT)
        ours = makers.start_root("m", SpanKind.CLIENT, {})
        assert isinstance(ours, LightSpan)
        for span in (ours, theirs):
            for each in (*said, "end"):
                match each:
                    case "end":
                        span.end()
                    case "rename":
                        span.update_name("n")
                    case "event":
                        span.add_event("e")
                    case (str(key), value):
                        span.set_attribute(key, value)
                    case _:
                        span.set_status(each)
            assert not span.is_recording()
        provider.force_flush()
        ours_done, theirs_done = kept.spans
        for name in ("name", "kind", "parent"):
            assert getattr(ours_done, name) == getattr(theirs_done, name)
        assert dict(ours_done.attributes) == dict(theirs_done.attributes)
        assert ours_done.status.status_code is theirs_done.status.status_code
        assert [event.name for event in ours_done.events] == [event.name for event in theirs_done.events]
    finally:
        provider.shutdown()


def test_an_exception_is_told_by_its_type_alone() -> None:
    """The API's own context manager records exceptions; their text may quote a prompt."""
    makers, kept, provider = _makers()
    try:
        with (
            pytest.raises(ValueError, match=SECRET),
            use_span(makers.start_root("m", SpanKind.SERVER, {})) as span,
        ):
            raise ValueError(SECRET)
        span.end()
        provider.force_flush()
        (done,) = kept.spans
        assert [dict(event.attributes) for event in done.events] == [{"exception.type": "ValueError"}]
        assert SECRET not in str([dict(event.attributes) for event in done.events])
    finally:
        provider.shutdown()


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (SpanLimits(), True),
        (SpanLimits(max_span_attributes=20), False),
        (SpanLimits(max_attribute_length=100), False),
        (SpanLimits(max_span_attribute_length=100), False),
    ],
)
def test_limits_from_the_environment_are_the_sdks_business(limits: SpanLimits, allowed: bool) -> None:
    """Nothing is counted or cut here, so where something would have to be, the SDK makes the spans."""
    assert are_allowed(limits) is allowed


async def test_nothing_below_an_unsampled_span_is_made() -> None:
    """Stages and attempts know it without looking up a span, in tasks of the request, too."""
    async with exporting("parentbased_always_on", light=True) as (telemetry, _):
        entered = telemetry.enter(telemetry.start_server_span("m", UNSAMPLED, "", lambda: ""))

        async def below() -> None:
            with telemetry.plan() as stage:
                assert stage is INVALID_SPAN
            assert telemetry.start_inference(Target(), route="opus") is INVALID_SPAN
            assert telemetry.current_trace_id() == TRACE

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(below())
        telemetry.leave(entered)
        assert telemetry.current_trace_id() == ""
