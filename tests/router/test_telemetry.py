"""Spans and metrics as they leave the process: over OTLP to a collector, over HTTP to a scraper."""

import asyncio
import http.server
import socket
import threading
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import INVALID_SPAN, get_current_span, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.parser import text_string_to_metric_families

from cache.diagnose import MissCause
from cache.index import Calibration, CalibrationBin
from cache.regret import Regret, Tried
from cache.schedule import Trigger
from router import attributes as names
from router import telemetry as telemetry_module
from router.call import Call, Effort, Identity, Message, Role, Text, Tool
from router.cost import Cost, Counterfactuals
from router.settlement import CacheRecord, DecisionRecord, Intent, MissRecord, Outcome, Purpose, Settlement
from router.telemetry import Telemetry, TelemetrySettings, from_environ, spans
from router.telemetry.aggregates import Counter, Distribution, Histogram
from router.telemetry.gen_ai_metrics import ChunkTimer
from router.telemetry.metrics import Metrics
from router.telemetry.providers import sampler_of
from router.telemetry.settings import DEFAULT_SAMPLE_RATIO, GRPC, HTTP
from router.usage import Usage
from tests.otlp_collector import attributes_of, otlp_collector

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "do not tell anyone"


@dataclass(frozen=True)
class Target:
    """An upstream as telemetry sees it."""

    name: str = "anthropic"
    provider_name: str = "anthropic"
    operation: str = "chat"
    model: str = "claude-opus-5-5"
    server_address: str = "api.anthropic.com"
    server_port: int = 443


FLASH = Target(
    name="gemini",
    provider_name="gcp.gemini",
    operation="generate_content",
    model="gemini-3.8-flash",
    server_address="generativelanguage.googleapis.com",
)

USAGE = Usage(
    input_tokens=10_000,
    cache_read_tokens=8_000,
    cache_write_5m_tokens=300,
    cache_write_1h_tokens=700,
    output_tokens=500,
    thinking_tokens=200,
)
COST = Cost(
    uncached_input_nano_usd=5_000_001,
    cache_write_5m_nano_usd=1_875_000,
    cache_write_1h_nano_usd=7_000_000,
    cache_read_nano_usd=4_000_000,
    output_text_nano_usd=7_500_000,
    thinking_nano_usd=5_000_000,
)
DECISION = DecisionRecord(
    route="opus",
    reason="score_above_threshold",
    score=0.83,
    threshold=0.5,
    propensity=1.0,
    model_digest="sha256:77",
    expected_flash_nano_usd=1_000,
    expected_opus_nano_usd=30_000_000,
)


def intent(**changes):
    base = Intent(
        request_id="req-1",
        attempt=1,
        purpose=Purpose.USER,
        route="opus",
        upstream="anthropic",
        model="claude-opus-5-5",
        tenant="acme",
        application="assistant",
        user="u-1",
        session="s-1",
        labels={},
        stream=True,
        started_time_s=1000.0,
        cost_bound_nano_usd=90_000_000,
    )
    return replace(base, **changes)


def settlement(intent_changes=None, **changes):
    base = Settlement(
        intent=intent(**(intent_changes or {})),
        outcome=Outcome.OK,
        settled_time_s=1002.0,
        duration_s=2.0,
        first_byte_s=0.4,
        usage=USAGE,
        cost=COST,
        counterfactuals=Counterfactuals(
            no_caching_nano_usd=62_500_000, all_opus_no_caching_nano_usd=62_500_000
        ),
        answered_model="claude-opus-5-5-20260901",
        response_id="msg_1",
        upstream_request_id="req_up_1",
        finish_reason="end_turn",
        decision=DECISION,
        cache=CacheRecord(
            strategy="auto", breakpoint_count=3, expected_read_tokens=9_000, miss_cause="layer_changed"
        ),
    )
    return replace(base, **changes)


FAILED = {"usage": None, "cost": None, "counterfactuals": None, "finish_reason": "", "first_byte_s": None}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def exporting(sampler="always_on", old_cache_write_name=True, **environ):
    """Telemetry that exports to a collector when flushed, and the collector."""
    async with otlp_collector() as collector:
        settings = from_environ(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                "OTEL_TRACES_SAMPLER": sampler,
                "OTEL_BSP_SCHEDULE_DELAY": "600000",
                "OTEL_METRIC_EXPORT_INTERVAL": "600000",
                **environ,
            },
            old_cache_write_name=old_cache_write_name,
        )
        telemetry = Telemetry.build(settings)
        try:
            yield telemetry, collector
        finally:
            await telemetry.shutdown()


@asynccontextmanager
async def scraped(**settings):
    """Telemetry on a free port, and a function that scrapes it into {sample name: [(labels, value)]}.

    Counters that stand at 0 are left out unless asked for: what is looked at here is what was counted.
    """
    port = free_port()
    telemetry = Telemetry.build(TelemetrySettings(prometheus_port=port, **settings))
    telemetry.add_target(Target(), "opus")
    telemetry.add_target(FLASH, "flash")

    async def scrape(*, started=False):
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.value or started or not sample.name.endswith("_total"):
                    found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    try:
        yield telemetry, scrape
    finally:
        await telemetry.shutdown()


def _get(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return answer.read().decode()


def value_of(samples, name, **labels):
    """The one sample of `name` whose labels include `labels`."""
    (found,) = [value for own, value in samples[name] if labels.items() <= own.items()]
    return found


# --- inference spans ---


async def traced(settled, call=None, stream=True, **options):
    """Export one server span with one inference span below it; return both."""
    async with exporting(**options) as (telemetry, collector):
        server = telemetry.start_server_span("router.v1.RouterService/Generate", TRACEPARENT, "", lambda: "")
        with use_span(server):
            inference = telemetry.start_inference(Target(), call, route="opus", stream=stream)
        telemetry.end_inference(inference, settled)
        telemetry.annotate_server_span(server, DECISION, [settled], application="assistant", tenant="acme")
        telemetry.end_server_span(server, "OK", "")
        assert await telemetry.flush()
        await collector.wait_for_spans(2)
        return collector.span("router.v1.RouterService/Generate"), collector.span("chat claude-opus-5-5")


async def test_inference_span_follows_the_genai_conventions():
    """Name, kind, parent, identity, usage with inclusive counts, response and time to first chunk."""
    server, span = await traced(settlement())
    assert (span.kind, span.status, span.parent_span_id) == ("CLIENT", "UNSET", server.span_id)
    assert span.trace_id == server.trace_id == TRACEPARENT[3:35]
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "claude-opus-5-5",
        "gen_ai.request.stream": True,
        "server.address": "api.anthropic.com",
        "server.port": 443,
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.model": "claude-opus-5-5-20260901",
        "gen_ai.response.finish_reasons": ["end_turn"],
        "gen_ai.response.time_to_first_chunk": 0.4,
        "gen_ai.usage.input_tokens": 10_000,
        "gen_ai.usage.output_tokens": 500,
        "gen_ai.usage.cache_read.input_tokens": 8_000,
        "gen_ai.usage.cache_write.input_tokens": 1_000,
        "gen_ai.usage.cache_creation.input_tokens": 1_000,
        "gen_ai.usage.reasoning.output_tokens": 200,
        "gen_ai.usage.cost.currency": "USD",
        "gen_ai.usage.cost.source": "local",
    }
    assert expected.items() <= span.attributes.items()
    assert span.attributes["gen_ai.usage.cost.amount"] == pytest.approx(0.030375001, abs=1e-15)
    assert "error.type" not in span.attributes
    assert span.events == ()


async def test_cost_parts_on_the_span_are_exact_and_add_up():
    """Nano-USD ints sum to the total exactly; the doubles say the same in USD."""
    _, span = await traced(settlement())
    prefix = names.COST_PART_PREFIX
    nano = {key: value for key, value in span.attributes.items() if key.endswith("_nano_usd")}
    total = nano.pop(f"{prefix}total_nano_usd")
    assert total == sum(nano.values()) == COST.total_nano_usd
    assert nano[f"{prefix}cache_write_1h_nano_usd"] == 7_000_000
    assert span.attributes[f"{prefix}cache_write_1h_usd"] == pytest.approx(0.007)
    assert f"{prefix}tools_nano_usd" not in nano


async def test_server_span_carries_what_people_search_for():
    """Route, reason, score, cost, saving and cache outcome, in our namespace only: never a gen_ai key."""
    server, _ = await traced(settlement())
    expected = {
        "hybrid_router.route": "opus",
        "hybrid_router.reason": "score_above_threshold",
        "hybrid_router.score": 0.83,
        "hybrid_router.threshold": 0.5,
        "hybrid_router.model": "claude-opus-5-5-20260901",
        "hybrid_router.outcome": "ok",
        "hybrid_router.attempt_count": 1,
        "hybrid_router.application": "assistant",
        "hybrid_router.tenant": "acme",
        "hybrid_router.cache.hit_rate": 0.8,
        "hybrid_router.cache.read_tokens": 8_000,
        "hybrid_router.cache.write_tokens": 1_000,
        "hybrid_router.cache.miss_cause": "layer_changed",
    }
    assert expected.items() <= server.attributes.items()
    assert server.attributes["hybrid_router.cost_usd"] == pytest.approx(0.030375001)
    assert server.attributes["hybrid_router.saving_usd"] == pytest.approx(0.032124999)
    assert not [key for key in server.attributes if key.startswith("gen_ai.")]


def test_request_cost_is_the_sum_of_its_attempts():
    """A failed attempt that was billed counts; a refused one costs nothing; the saving is after both."""
    billed = settlement(outcome=Outcome.INTERRUPTED, cost=Cost(uncached_input_nano_usd=1_000_000_000))
    refused = settlement(outcome=Outcome.REFUSED, **FAILED)
    found = spans.server_span(DECISION, [refused, billed, settlement()])
    assert found[names.COST_USD] == pytest.approx(1.030375001)
    assert found[names.SAVING_USD] == pytest.approx(0.0625 - 1.030375001)
    assert found[names.ATTEMPT_COUNT] == 3


def test_unknown_cost_is_not_shown_as_a_sum():
    """When one attempt's cost is unknown the request's is too; no number is made up."""
    lost = settlement(outcome=Outcome.UNKNOWN, **FAILED)
    found = spans.server_span(DECISION, [lost, settlement()])
    assert found[names.COST_UNKNOWN] is True
    assert names.COST_USD not in found
    assert names.SAVING_USD not in found


async def test_old_cache_write_name_can_be_dropped():
    """The name of before 2026 is a setting; the current one always stays."""
    _, span = await traced(settlement(), old_cache_write_name=False)
    assert "gen_ai.usage.cache_creation.input_tokens" not in span.attributes
    assert span.attributes["gen_ai.usage.cache_write.input_tokens"] == 1_000


@pytest.mark.parametrize(
    ("outcome", "error", "status", "error_type"),
    [
        (Outcome.REFUSED, "UPSTREAM_RATE_LIMITED", "ERROR", "UPSTREAM_RATE_LIMITED"),
        (Outcome.INTERRUPTED, "UPSTREAM_INTERRUPTED", "ERROR", "UPSTREAM_INTERRUPTED"),
        (Outcome.UNKNOWN, "", "ERROR", "unknown"),
        (Outcome.CANCELLED, "", "UNSET", "cancelled"),
    ],
)
async def test_failed_attempt_has_an_error_type_and_no_numbers(outcome, error, status, error_type):
    """Unknown usage and cost are absent, not 0; a caller that left is not the model's failure."""
    failed = settlement(outcome=outcome, error=error, answered_model="", response_id="", **FAILED)
    _, span = await traced(failed)
    assert (span.status, span.attributes["error.type"]) == (status, error_type)
    assert span.attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert not [key for key in span.attributes if key.startswith(("gen_ai.usage", names.COST_PART_PREFIX))]
    assert "gen_ai.response.time_to_first_chunk" not in span.attributes
    assert (names.COST_UNKNOWN in span.attributes) is (outcome is not Outcome.REFUSED)


@pytest.mark.parametrize("stream", [True, False])
async def test_stream_attributes_are_for_streams_only(stream):
    """gen_ai.request.stream and time to first chunk are absent on a unary call."""
    _, span = await traced(settlement({"stream": stream}), stream=stream)
    assert ("gen_ai.request.stream" in span.attributes) is stream
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is stream


@pytest.mark.parametrize("session", ["", "s-77"])
async def test_conversation_id_only_if_the_caller_gave_one(session):
    """A conversation id is never invented."""
    _, span = await traced(settlement(), call(session=session))
    assert span.attributes.get("gen_ai.conversation.id", "") == session
    assert span.attributes["gen_ai.request.max_tokens"] == 4096
    assert span.attributes["gen_ai.request.reasoning.level"] == "high"
    assert span.attributes["gen_ai.output.type"] == "json"


async def test_no_content_reaches_a_span():
    """Prompt, system, context, tools, schema and stop sequences stay inside."""
    server, span = await traced(settlement(), call())
    assert SECRET not in str(server) + str(span) + str(server.resource)


def call(session=""):
    """A call with a secret wherever a caller may put text."""
    return Call(
        identity=Identity(request_id="req-1", session=session),
        tools=(Tool("lookup", SECRET, f'{{"description": "{SECRET}"}}'),),
        system=(SECRET,),
        context=(SECRET,),
        messages=(Message(Role.USER, (Text(SECRET),)),),
        max_output_tokens=4096,
        stop_sequences=(SECRET,),
        effort=Effort.HIGH,
        output_schema_json=f'{{"title": "{SECRET}"}}',
    )


# --- other spans and sampling ---


@pytest.mark.parametrize("by_hand", [True, False])
async def test_stages_are_children_of_the_server_span(by_hand):
    """classify, plan and settle sit below the RPC; a failing stage says why, without the exception's text.

    Whether we make the finished spans, or the SDK does, where its tracer has another shape.
    """
    async with exporting() as (telemetry, collector):
        if not by_hand:
            telemetry._light = None
        server = telemetry.start_server_span(
            "router.v1.RouterService/Generate", "", "", lambda: "unix:/run/x"
        )
        with use_span(server):
            with telemetry.classify(), telemetry.plan():
                pass
            with pytest.raises(ValueError, match=SECRET), telemetry.settle():
                raise ValueError(SECRET)
        telemetry.end_server_span(server, "OK", "")
        await telemetry.flush()
        await collector.wait_for_spans(4)
        root = collector.span("router.v1.RouterService/Generate")
        for name in (names.SPAN_CLASSIFY, names.SPAN_PLAN, names.SPAN_SETTLE):
            assert (collector.span(name).parent_span_id, collector.span(name).kind) == (
                root.span_id,
                "INTERNAL",
            )
        failed = collector.span(names.SPAN_SETTLE)
        assert (failed.status, failed.attributes["error.type"], failed.events) == ("ERROR", "ValueError", ())
        assert root.attributes[names.PEER_ADDRESS] == "/run/x"
        assert SECRET not in str(failed)


async def test_stages_lie_within_their_trace_and_time():
    """A stage has its request's trace, an id of its own, and the time it took; a caller who leaves is no error."""
    async with exporting() as (telemetry, collector):
        server = telemetry.start_server_span("m", TRACEPARENT, "", lambda: "unix:/run/x")
        with use_span(server, record_exception=False, set_status_on_exception=False):
            with telemetry.classify(), telemetry.plan():
                pass
            with pytest.raises(asyncio.CancelledError), telemetry.settle():
                raise asyncio.CancelledError
        telemetry.end_server_span(server, "OK", "")
        await telemetry.flush()
        await collector.wait_for_spans(4)
        root, outer, inner = (collector.span(name) for name in ("m", names.SPAN_CLASSIFY, names.SPAN_PLAN))
        assert {span.trace_id for span in collector.spans} == {TRACEPARENT[3:35]}
        assert len({span.span_id for span in collector.spans}) == 4
        assert 0 <= inner.duration_ns <= outer.duration_ns <= root.duration_ns
        assert outer.parent_span_id == inner.parent_span_id == root.span_id
        left = collector.span(names.SPAN_SETTLE)
        assert (left.status, left.attributes["error.type"]) == ("UNSET", "CancelledError")


HEX = st.text("0123456789abcdefABCDEF-gz \n", max_size=60)


@given(
    st.one_of(
        HEX,
        st.from_regex("(00|01|ff|0)-[0-9a-f]{31,33}-[0-9a-f]{16}-[0-9a-fA-F]{2}(-x)?[ \n]?", fullmatch=True),
        st.sampled_from(
            [TRACEPARENT, TRACEPARENT.upper(), f" {TRACEPARENT}", f"00-{'0' * 32}-{'1' * 16}-01"]
        ),
    )
)
def test_trace_context_is_read_as_the_sdk_reads_it(traceparent):
    """Ours is a shortcut: whatever a caller sends, the same span is the parent."""
    carrier = {"traceparent": traceparent}
    theirs = get_current_span(TraceContextTextMapPropagator().extract(carrier, Context()))
    assert telemetry_module._caller(traceparent, "").get_span_context() == theirs.get_span_context()


async def test_our_own_calls_are_roots_of_their_own():
    """A warm has no RPC above it; its span starts a trace and says its purpose."""
    async with exporting() as (telemetry, collector):
        span = telemetry.start_inference(Target(), route="opus", purpose=Purpose.WARM)
        telemetry.end_inference(span, settlement({"purpose": Purpose.WARM}))
        await telemetry.flush()
        (found,) = await collector.wait_for_spans(1)
        assert found.parent_span_id == ""
        assert found.attributes[names.PURPOSE] == "warm"


async def test_unsampled_request_builds_no_attributes(monkeypatch):
    """Below an unsampled span nothing is started and no attribute is put together."""

    def refuse(*args, **kwargs):
        raise AssertionError("attributes were built for a span nobody records")

    for builder in ("inference_start", "inference_end", "server_span"):
        monkeypatch.setattr(spans, builder, refuse)
    async with exporting(sampler="parentbased_always_on") as (telemetry, collector):
        server = telemetry.start_server_span("m", TRACEPARENT[:-1] + "0", "", refuse)
        with use_span(server):
            inference = telemetry.start_inference(Target(), call(), route="opus")
            with telemetry.plan() as stage:
                assert stage is inference is INVALID_SPAN
        telemetry.end_inference(inference, settlement())
        telemetry.annotate_server_span(server, DECISION, [settlement()])
        telemetry.end_server_span(server, "OK", "")
        await telemetry.flush()
        assert collector.spans == []


async def test_a_warm_that_an_unsampled_request_orders_is_recorded_by_itself():
    """Its trace is its own: what is current in the request has no say in it, and has its way again behind it."""
    async with exporting(sampler="parentbased_always_on") as (telemetry, collector):
        server = telemetry.start_server_span("m", TRACEPARENT[:-1] + "0", "", lambda: "")
        entered = telemetry.enter(server)
        with telemetry.plan() as before:
            pass
        with telemetry.warm("idle", None):
            with telemetry.plan():
                pass
            telemetry.end_inference(telemetry.start_inference(Target(), call(), route="opus"), settlement())
        with telemetry.plan() as after:
            pass
        telemetry.leave(entered)
        assert before is after is INVALID_SPAN
        with telemetry.plan():
            pass  # outside of any request
        await telemetry.flush()
        assert len(collector.spans) == 4
        assert {each.trace_id for each in collector.spans}.isdisjoint({TRACEPARENT[3:35]})


@pytest.mark.parametrize(
    ("variable", "description"),
    [
        ({}, f"ParentBased{{root:TraceIdRatioBased{{{DEFAULT_SAMPLE_RATIO}}}"),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, "ParentBased{root:TraceIdRatioBased{0.25}"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, "TraceIdRatioBased{1.0}"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "AlwaysOnSampler"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "AlwaysOffSampler"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "ParentBased{root:AlwaysOffSampler"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, "ParentBased{root:AlwaysOnSampler"),
    ],
)
def test_samplers_go_by_their_standard_names(variable, description):
    """The default is parent-based with the documented ratio; each standard name gives its sampler."""
    assert sampler_of(from_environ(variable)).get_description().startswith(description)


# --- settings ---


def test_nothing_is_exported_unless_asked():
    """An empty environment means no spans, no metrics, no port."""
    settings = from_environ({})
    assert (settings.traces, settings.metrics, settings.prometheus_port) == (None, None, 0)
    assert settings.resource == {"service.name": "hybrid-router"}


@pytest.mark.parametrize(
    ("variables", "endpoint", "protocol"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "http://c:4317", GRPC),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4317", GRPC),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/", "OTEL_EXPORTER_OTLP_PROTOCOL": HTTP},
            "http://c:4318/v1/traces",
            HTTP,
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": HTTP},
            "http://c/t",
            HTTP,
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": HTTP},
            "http://localhost:4318/v1/traces",
            HTTP,
        ),
    ],
)
def test_otlp_variables_name_the_target(variables, endpoint, protocol):
    """The shared endpoint gets the signal's path over HTTP, the signal's own is taken as it is."""
    target = from_environ(variables).traces
    assert (target.endpoint, target.protocol) == (endpoint, protocol)


def test_metrics_are_pushed_only_when_asked():
    """An endpoint alone is usually Jaeger's, which takes no metrics."""
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}
    assert from_environ(endpoint).metrics is None
    assert from_environ({**endpoint, "OTEL_METRICS_EXPORTER": "otlp"}).metrics.endpoint == "http://c:4317"
    assert from_environ({**endpoint, "OTEL_TRACES_EXPORTER": "none"}).traces is None


def test_resource_and_headers_are_decoded():
    """Percent-encoding is undone, OTEL_SERVICE_NAME wins, and headers stay out of the repr."""
    settings = from_environ(
        {
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=a,deployment.environment.name=pre%20prod",
            "OTEL_SERVICE_NAME": "b",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
            "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=s%3Dcret",
        },
        service_version="1.2.3",
    )
    assert settings.resource == {
        "service.name": "b",
        "service.version": "1.2.3",
        "deployment.environment.name": "pre prod",
    }
    assert settings.traces.headers == {"api-key": "s=cret"}
    assert "cret" not in repr(settings)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_SAMPLER": "sometimes"},
        {"OTEL_TRACES_SAMPLER_ARG": "1.5"},
        {"OTEL_TRACES_SAMPLER_ARG": "many"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"},
        {"OTEL_RESOURCE_ATTRIBUTES": "novalue"},
        {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"},
    ],
)
def test_value_we_do_not_honour_is_refused_by_name(variables):
    """A setting is honoured or refused, never silently ignored."""
    with pytest.raises(ValueError, match="OTEL_"):
        from_environ(variables)


# --- exporters ---


async def test_headers_and_resource_reach_the_collector():
    """Exports carry the configured headers; spans carry the resource."""
    variables = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=k1", "OTEL_RESOURCE_ATTRIBUTES": "region=eu"}
    async with exporting(**variables) as (telemetry, collector):
        telemetry.end_server_span(telemetry.start_server_span("m", "", "", lambda: ""), "OK", "")
        await telemetry.flush()
        (span,) = await collector.wait_for_spans(1)
        assert collector.headers[0]["api-key"] == "k1"
        assert (span.resource["service.name"], span.resource["region"]) == ("hybrid-router", "eu")


async def test_shutdown_exports_what_is_left():
    """The last spans of a process are not lost."""
    async with exporting() as (telemetry, collector):
        telemetry.end_server_span(telemetry.start_server_span("last", "", "", lambda: ""), "OK", "")
        await telemetry.shutdown()
        assert [span.name for span in collector.spans] == ["last"]


async def test_dead_collector_does_not_hold_up_shutdown():
    """With nobody listening, shutdown gives up after its timeout instead of the exporter's retries."""
    settings = from_environ(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "50",
            "OTEL_TRACES_SAMPLER": "always_on",
        }
    )
    telemetry = Telemetry.build(settings)
    telemetry.end_server_span(telemetry.start_server_span("m", "", "", lambda: ""), "OK", "")
    async with asyncio.timeout(10):
        await telemetry.shutdown(timeout_s=0.1)


async def test_http_protobuf_exports_the_same_spans():
    """The other standard protocol: POST /v1/traces with the same message."""
    received = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        settings = from_environ(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": HTTP,
                "OTEL_TRACES_SAMPLER": "always_on",
            }
        )
        telemetry = Telemetry.build(settings)
        telemetry.end_server_span(telemetry.start_server_span("over/http", "", "", lambda: ""), "OK", "")
        await telemetry.shutdown()
        server.shutdown()
        serving.join()
    ((path, body),) = received
    (resource_spans,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert path == "/v1/traces"
    assert attributes_of(resource_spans.resource.attributes)["service.name"] == "hybrid-router"
    assert resource_spans.scope_spans[0].spans[0].name == "over/http"


async def test_telemetry_off_does_nothing_and_breaks_nothing():
    """Every method of the facade works without exporters, starts no thread and returns inert spans."""
    before = threading.active_count()
    telemetry = Telemetry.build(
        from_environ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"})
    )
    telemetry.add_target(Target())
    telemetry.watch("x", "1", "", lambda: 1)
    telemetry.record_decision(DECISION)
    telemetry.record_settlement(settlement(), telemetry.chunk_timer())
    telemetry.record_rpc("m", "OK", "", 0.1)
    span = telemetry.start_inference(Target(), route="opus")
    telemetry.end_inference(span, settlement())
    with telemetry.classify() as stage:
        assert stage is span is INVALID_SPAN
    assert threading.active_count() == before
    assert await telemetry.flush()
    await telemetry.shutdown()
    assert Telemetry.off().start_inference(Target(), route="opus") is INVALID_SPAN


# --- metrics ---


async def test_scrape_shows_calls_tokens_and_cost():
    """One settlement, scraped over HTTP: every count with its labels, money to the nano-dollar."""
    async with scraped(applications=frozenset({"assistant"})) as (telemetry, scrape):
        telemetry.record_decision(DECISION)
        telemetry.record_settlement(settlement())
        samples = await scrape()
    labels = {
        "hybrid_router_route": "opus",
        "hybrid_router_upstream": "anthropic",
        "hybrid_router_model": "claude-opus-5-5",
        "hybrid_router_purpose": "user",
        "hybrid_router_outcome": "ok",
    }
    assert samples["hybrid_router_calls_total"] == [(labels, 1.0)]
    kinds = {own["hybrid_router_kind"]: value for own, value in samples["hybrid_router_tokens_total"]}
    assert kinds == {
        "uncached_input": 1_000,
        "cache_write_5m": 300,
        "cache_write_1h": 700,
        "cache_read": 8_000,
        "output_text": 300,
        "thinking": 200,
    }
    parts = {own["hybrid_router_part"]: value for own, value in samples["hybrid_router_cost_total"]}
    assert parts["uncached_input"] == pytest.approx(0.005000001, abs=1e-12)
    assert sum(parts.values()) == pytest.approx(COST.total_nano_usd / 1e9, abs=1e-12)
    assert value_of(samples, "hybrid_router_saving") == pytest.approx(0.032124999)
    assert value_of(
        samples, "hybrid_router_counterfactual_cost_total", hybrid_router_scenario="all_opus_no_caching"
    ) == pytest.approx(0.0625)
    booked = {"hybrid_router_application": "assistant", "hybrid_router_tenant": "other"}
    assert value_of(samples, "hybrid_router_booked_cost_total", **booked) == pytest.approx(0.030375001)
    decided = {"hybrid_router_reason": "score_above_threshold", "hybrid_router_route": "opus"}
    assert samples["hybrid_router_decisions_total"] == [(decided, 1.0)]
    assert value_of(samples, "hybrid_router_decision_score_bucket", le="0.85") == 1.0
    assert value_of(samples, "hybrid_router_decision_score_bucket", le="0.8") == 0.0
    assert value_of(samples, "target_info", service_name="hybrid-router") == 1.0


async def test_genai_histograms_have_the_conventions_names_and_buckets():
    """The four client histograms: inclusive token counts, seconds, the boundaries of the convention."""
    chunks = ChunkTimer()
    for now_s in (10.0, 10.02, 10.05, 15.05):
        chunks.tick(now_s)
    async with scraped() as (telemetry, scrape):
        telemetry.record_settlement(settlement(), chunks)
        samples = await scrape()
    common = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "anthropic",
        "gen_ai_request_model": "claude-opus-5-5",
        "gen_ai_response_model": "claude-opus-5-5-20260901",
        "server_address": "api.anthropic.com",
        "server_port": "443",
        "hybrid_router_route": "opus",
    }
    duration = "gen_ai_client_operation_duration_seconds"
    assert value_of(samples, f"{duration}_sum", **common) == 2.0
    bounds = [own["le"] for own, _ in samples[f"{duration}_bucket"]]
    assert bounds == [str(bound) for bound in names.GEN_AI_DURATION_BOUNDARIES] + ["+Inf"]
    usage = "gen_ai_client_token_usage"
    assert value_of(samples, f"{usage}_sum", **common, gen_ai_token_type="input") == 10_000
    assert value_of(samples, f"{usage}_sum", **common, gen_ai_token_type="output") == 500
    assert samples[f"{usage}_bucket"][0][0]["le"] == "1.0"
    first = "gen_ai_client_operation_time_to_first_chunk_seconds"
    assert value_of(samples, f"{first}_sum", **common) == 0.4
    gap = "gen_ai_client_operation_time_per_output_chunk_seconds"
    assert value_of(samples, f"{gap}_count", **common) == 3
    assert value_of(samples, f"{gap}_sum", **common) == pytest.approx(5.05)


async def test_failed_call_is_counted_with_its_error_and_without_tokens():
    """Duration carries error.type; unknown usage and cost add nothing but the count of unknown calls."""
    lost = settlement(outcome=Outcome.UNKNOWN, error="UPSTREAM_TIMEOUT", answered_model="", **FAILED)
    refused = settlement(outcome=Outcome.REFUSED, error="UPSTREAM_RATE_LIMITED", answered_model="", **FAILED)
    async with scraped() as (telemetry, scrape):
        telemetry.record_settlement(lost)
        telemetry.record_settlement(refused)
        samples = await scrape()
    duration = "gen_ai_client_operation_duration_seconds_count"
    errors = {own["error_type"] for own, _ in samples[duration]}
    assert errors == {"UPSTREAM_TIMEOUT", "UPSTREAM_RATE_LIMITED"}
    assert value_of(samples, "hybrid_router_cost_unknown_calls_total", hybrid_router_outcome="unknown") == 1.0
    assert len(samples["hybrid_router_cost_unknown_calls_total"]) == 1
    assert "hybrid_router_tokens_total" not in samples
    assert "hybrid_router_cost_total" not in samples


async def test_cache_outcome_and_belief_are_counted():
    """Hits and writes; what was believed and what was read. A shortfall that nobody explained is no miss."""
    miss = settlement(usage=Usage(input_tokens=9_000, cache_write_5m_tokens=9_000))
    async with scraped() as (telemetry, scrape):
        telemetry.record_settlement(settlement())
        telemetry.record_settlement(miss)
        samples = await scrape()
    results = {own["hybrid_router_cache_result"]: n for own, n in samples["hybrid_router_cache_calls_total"]}
    assert results == {"hit": 1.0, "write": 1.0}
    belief = {own["hybrid_router_kind"]: n for own, n in samples["hybrid_router_cache_belief_tokens_total"]}
    assert belief == {"expected": 18_000.0, "read": 8_000.0}
    assert "hybrid_router_cache_missed_tokens_total" not in samples


MISSED = CacheRecord(
    strategy="auto",
    breakpoint_count=3,
    expected_read_tokens=9_000,
    miss_cause="ttl_lapsed",
    misses=(
        MissRecord(cause="ttl_lapsed", layer="history", missed_tokens=3_000, lost_nano_usd=2_000_000_000),
        MissRecord(cause="ttl_lapsed", layer="system", missed_tokens=1_000, lost_nano_usd=500_000_000),
        MissRecord(cause="unknown", missed_tokens=70, lost_nano_usd=None),
    ),
    p_hit=0.97,
    held=False,
    padding_tokens=400,
    padding_nano_usd=1_500_000,
)


async def test_misses_are_counted_in_tokens_and_dollars_by_cause_and_layer():
    """As they were diagnosed, not as belief less read; a miss without a price is in the tokens and in no dollars."""
    async with scraped() as (telemetry, scrape):
        telemetry.record_settlement(settlement(cache=MISSED))
        telemetry.record_settlement(settlement(cache=MISSED))
        samples = await scrape()

    def by(name):
        return {
            (own["hybrid_router_cache_miss_cause"], own["hybrid_router_cache_miss_layer"]): value
            for own, value in samples[name]
        }

    history, system, unknown = ("ttl_lapsed", "history"), ("ttl_lapsed", "system"), ("unknown", "")
    assert by("hybrid_router_cache_misses_total") == {history: 2, system: 2, unknown: 2}
    assert by("hybrid_router_cache_missed_tokens_total") == {history: 6_000, system: 2_000, unknown: 140}
    assert by("hybrid_router_cache_lost_cost_total") == {history: 4.0, system: 1.0}


async def test_filler_is_on_the_bill_by_application():
    """What the operator's own padding cost is a figure of its own; an unknown one adds nothing."""
    async with scraped(applications=frozenset({"assistant"})) as (telemetry, scrape):
        telemetry.record_settlement(settlement(cache=MISSED))
        telemetry.record_settlement(settlement({"application": "else"}, cache=MISSED))
        telemetry.record_settlement(settlement(cache=replace(MISSED, padding_nano_usd=None)))
        samples = await scrape()
    cost = {
        own["hybrid_router_application"]: value
        for own, value in samples["hybrid_router_cache_padding_cost_total"]
    }
    assert cost == {"assistant": 0.0015, "other": 0.0015}


async def test_what_is_known_beforehand_starts_at_0():
    """rate() and increase() see no first count of a series that it makes: settling makes none of a user's."""
    settings = {"bucket_label": "team", "buckets": frozenset({"search"})}
    async with scraped(**settings) as (telemetry, scrape):
        before = await scrape(started=True)
        telemetry.record_settlement(settlement(cache=MISSED))
        telemetry.record_settlement(settlement({"labels": {"team": "search"}}, cache=MISSED))
        telemetry.record_settlement(
            settlement({"labels": {"team": "new"}}, **{**FAILED, "outcome": Outcome.UNKNOWN})
        )
        flash = {"route": "flash", "upstream": "gemini", "model": FLASH.model}
        telemetry.record_settlement(settlement(flash, answered_model=FLASH.model, cache=None))
        after = await scrape(started=True)

    def series(samples):
        return {
            (name, tuple(sorted(own.items())))
            for name, found in samples.items()
            if name.startswith("hybrid_router") and name.endswith("_total")
            for own, _ in found
        }

    new = {name for name, _ in series(after) - series(before)}
    assert new == {"hybrid_router_booked_cost_total", "hybrid_router_cache_padding_cost_total"}
    assert all(value == 0 for name, found in before.items() if name.endswith("_total") for _, value in found)
    assert 200 <= len(series(before)) <= 320


def test_every_cause_of_a_miss_starts_at_0_and_is_a_label_of_its_own():
    """Also where so many odd words came before that the vocabulary is full; a cause of a change has its layers only."""
    metrics = Metrics()
    for number in range(1_000):
        metrics.gen_ai.record_rpc("m", "OK", f"E{number}", 0.1)
    started = {labels[2:] for labels in metrics.cache.lost._values}
    assert {cause for cause, _ in started} == {cause.value for cause in MissCause}
    assert {layer for cause, layer in started if cause == "system"} == {"system"}
    for cause, layer in started:
        miss = MissRecord(cause=cause, layer=layer, missed_tokens=10, lost_nano_usd=1)
        metrics.record_settlement(settlement(cache=replace(MISSED, misses=(miss,))))
    assert {labels[2:] for labels in metrics.cache.lost._values} == started
    assert set(metrics.cache.lost._values.values()) == {1}


def test_many_buckets_leave_room_for_what_is_counted():
    """Beyond fifty, buckets begin with their first count; none is pushed into the overflow by empty ones."""
    buckets = [f"b{number:03}" for number in range(240)]
    metrics = Metrics(bucket_label="team", buckets=buckets)
    assert len(metrics.buckets.calls._values) == 52 * 8
    for bucket in buckets:
        metrics.record_settlement(settlement({"labels": {"team": bucket}}))
    assert all(metrics.buckets.calls.value((bucket, "opus", "hit")) == 1 for bucket in buckets)


def test_a_series_started_twice_keeps_its_count():
    """And one past the limit is not started, so that it takes no place from what is counted."""
    counter = Counter("c", "1", "", ("a",), limit=1)
    counter.start(("x",))
    counter.add(("x",), 3)
    counter.start(("x",))
    counter.start(("y",))
    assert counter._values == {("x",): 3}


AMOUNTS = st.integers(0, 10**9)
KNOWN = st.one_of(st.none(), AMOUNTS)


@st.composite
def usages(draw):
    read, write_5m, write_1h, uncached, thinking, text = (draw(st.integers(0, 10**6)) for _ in range(6))
    return Usage(
        input_tokens=read + write_5m + write_1h + uncached,
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=thinking + text,
        thinking_tokens=draw(st.sampled_from([None, thinking])),
    )


COSTS = st.builds(Cost, **dict.fromkeys(Cost.__struct_fields__, AMOUNTS))
OTHERWISE = st.builds(Counterfactuals, **dict.fromkeys(Counterfactuals.__struct_fields__, KNOWN))


@st.composite
def settlements(draw):
    """Half of them with an answer and all figures, as most settlements are."""
    plain = draw(st.booleans())
    unknown = st.nothing() if plain else st.none()
    miss = MissRecord(cause="evicted", layer="tools", missed_tokens=7, lost_nano_usd=draw(KNOWN))
    intent_changes = {
        "route": draw(st.sampled_from(["opus", "flash"])),
        "application": draw(st.sampled_from(["assistant", "unheard of"])),
        "tenant": draw(st.sampled_from(["acme", ""])),
        "labels": draw(st.sampled_from([{}, {"team": "search"}, {"team": "other"}])),
        "purpose": Purpose.USER if plain else draw(st.sampled_from(Purpose)),
        "stream": draw(st.booleans()),
    }
    return settlement(
        intent_changes,
        outcome=Outcome.OK if plain else draw(st.sampled_from(Outcome)),
        usage=draw(st.one_of(unknown, usages())),
        cost=draw(st.one_of(unknown, COSTS)),
        counterfactuals=draw(st.one_of(unknown, OTHERWISE)),
        discarded="" if plain else draw(st.sampled_from(["", "refusal"])),
        cache=draw(
            st.one_of(
                unknown,
                st.builds(
                    CacheRecord,
                    strategy=st.just("auto"),
                    breakpoint_count=st.just(1),
                    expected_read_tokens=AMOUNTS,
                    misses=st.sampled_from([(), (miss,)]),
                    padding_nano_usd=KNOWN,
                ),
            )
        ),
    )


@settings(max_examples=30)
@given(st.lists(settlements(), max_size=8))
def test_answered_calls_add_up_to_the_same_as_each_figure_counted_by_its_labels(found):
    """The cells of a sort of call are a shorter way to the same series, and show none that nothing was counted in."""
    short, long = (
        Metrics(("assistant",), ("acme",), bucket_label="team", buckets=("search",)) for _ in range(2)
    )
    for each in found:
        short.record_settlement(each)
        long._record_any(each, None)

    def counted(metrics):
        return {
            instrument.name: {labels: amount for labels, amount in instrument.sums().items() if amount}
            if isinstance(instrument, Counter)
            else {labels: series.counts for labels, series in instrument._series.items()}
            for instrument in metrics.instruments()
        }

    assert counted(short) == counted(long)
    # A series of 0 is one that was there from the start, or that a call of no cost was counted in by its labels.
    for mine, other in zip(short.instruments(), long.instruments(), strict=True):
        if isinstance(mine, Counter):
            assert all(amount or labels in other.sums() for labels, amount in mine.sums().items())


def test_cells_and_counts_of_one_counter_share_its_room():
    """However a series is counted, past the limit it is the overflow's, and a sum over all series stays right."""
    counter = Counter("c", "1", "", ("a",), limit=2)
    counter.cell(("x",))[0] += 1
    counter.add(("x",), 2)
    counter.add(("y",), 3)
    counter.cell(("z",))[0] += 4
    counter.add(("w",), 5)
    assert counter.value(("x",)) == 3
    assert sum(counter.sums().values()) == 15
    assert set(counter.sums()) == {("x",), ("y",), (names.OVERFLOW,)}
    (metric,) = [counter.collect(1)]
    assert sum(point.value for point in metric.data.data_points) == 15


def test_a_span_tells_what_was_missed_and_how_sure_we_were():
    """Tokens of all misses, dollars only when all are known, the dearest one's cause and layer."""
    found = spans.inference_end(settlement(cache=MISSED), old_cache_write_name=False)
    assert found[names.CACHE_MISS_CAUSE] == "ttl_lapsed"
    assert found[names.CACHE_MISS_LAYER] == "history"
    assert found[names.CACHE_MISS_TOKENS] == 4_070
    assert names.CACHE_MISS_USD not in found
    assert (found[names.CACHE_P_HIT], found[names.CACHE_HELD]) == (0.97, False)
    assert found[names.CACHE_PADDING_TOKENS] == 400
    priced = replace(MISSED, misses=MISSED.misses[:2])
    found = spans.server_span(None, [settlement(cache=priced)])
    assert (found[names.CACHE_MISS_TOKENS], found[names.CACHE_MISS_USD]) == (4_000, 2.5)


def bucketed(samples, name, label):
    """{(bucket, value of `label`): value} of one counter; `label` "" for none."""
    return {(own["hybrid_router_bucket"], own.get(label, "")): value for own, value in samples.get(name, [])}


async def test_buckets_hold_hit_rate_and_saving():
    """By the configured label: calls, input tokens by kind, input cost and what it would have been uncached."""
    telling = Counterfactuals(no_caching_nano_usd=62_500_000)
    settings = {"bucket_label": "team", "buckets": frozenset({"search"})}
    async with scraped(**settings) as (telemetry, scrape):
        telemetry.record_settlement(settlement({"labels": {"team": "search"}}, counterfactuals=telling))
        telemetry.record_settlement(
            settlement({"labels": {"team": "search"}}, usage=Usage(input_tokens=5_000), counterfactuals=None)
        )
        telemetry.record_settlement(settlement({"labels": {"team": "unheard of"}}))
        telemetry.record_settlement(settlement({"labels": {"other": "search"}}))
        samples = await scrape()
    kind, result = "hybrid_router_kind", "hybrid_router_cache_result"
    tokens = bucketed(samples, "hybrid_router_bucket_input_tokens_total", kind)
    assert {key: value for key, value in tokens.items() if key[0] == "search"} == {
        ("search", "uncached_input"): 6_000,
        ("search", "cache_write_5m"): 300,
        ("search", "cache_write_1h"): 700,
        ("search", "cache_read"): 8_000,
    }
    assert {bucket for bucket, _ in tokens} == {"search", "other", "none"}
    calls = bucketed(samples, "hybrid_router_bucket_calls_total", result)
    assert calls == {("search", "hit"): 1, ("search", "none"): 1, ("other", "hit"): 1, ("none", "hit"): 1}
    paid = bucketed(samples, "hybrid_router_bucket_input_cost_total", "")
    baseline = bucketed(samples, "hybrid_router_bucket_baseline_input_cost_total", "")
    assert paid["search", ""] == COST.input_nano_usd / 1e9
    assert baseline["search", ""] - paid["search", ""] == pytest.approx(
        (62_500_000 - COST.total_nano_usd) / 1e9, abs=1e-12
    )


async def test_buckets_leave_out_what_is_not_the_users():
    """Our own calls and refused ones are in no hit rate; a call without usage is counted as unknown."""
    async with scraped() as (telemetry, scrape):
        telemetry.record_settlement(settlement({"purpose": Purpose.WARM}))
        telemetry.record_settlement(settlement(**{**FAILED, "outcome": Outcome.REFUSED, "cost": Cost()}))
        telemetry.record_settlement(settlement(**{**FAILED, "outcome": Outcome.UNKNOWN}))
        samples = await scrape()
    assert bucketed(samples, "hybrid_router_bucket_calls_total", "hybrid_router_cache_result") == {
        ("none", "unknown"): 1.0
    }
    assert "hybrid_router_bucket_input_tokens_total" not in samples
    assert "hybrid_router_bucket_input_cost_total" not in samples


def test_buckets_without_a_label_are_refused():
    """A list of values of nothing is a mistake, told at start."""
    with pytest.raises(ValueError, match="bucket_label"):
        TelemetrySettings(buckets=frozenset({"search"}))


async def test_calibration_is_a_reliability_table_and_a_score():
    """Per model and tenth: how many beliefs, the sum of their chances, how many held; the mean Brier score."""
    bins = (CalibrationBin(),) * 5 + (CalibrationBin(4, 2.1, 3),) + (CalibrationBin(),) * 3
    told = Calibration((*bins, CalibrationBin(6, 5.8, 6)), brier=1.5)
    async with scraped() as (telemetry, scrape):
        telemetry.watch_calibration(lambda: [("claude-opus-5-5", told), ("gemini-3.8-flash", Calibration())])
        samples = await scrape(started=True)

    def table(name):
        return {
            own["hybrid_router_bin"]: value
            for own, value in samples[name]
            if own["hybrid_router_model"] == "claude-opus-5-5" and value
        }

    assert table("hybrid_router_cache_belief_tested_total") == {"0.5": 4.0, "0.9": 6.0}
    assert table("hybrid_router_cache_belief_predicted_total") == {"0.5": 2.1, "0.9": 5.8}
    assert table("hybrid_router_cache_belief_held_total") == {"0.5": 3.0, "0.9": 6.0}
    assert samples["hybrid_router_cache_belief_brier"] == [({"hybrid_router_model": "claude-opus-5-5"}, 0.15)]
    assert len(samples["hybrid_router_cache_belief_tested_total"]) == 20


async def test_our_own_calls_do_not_count_as_savings():
    """A warm costs, under its purpose; it has no counterfactual, or warming would look like saving."""
    async with scraped() as (telemetry, scrape):
        telemetry.record_settlement(settlement({"purpose": Purpose.WARM}))
        samples = await scrape()
    assert {own["hybrid_router_purpose"] for own, _ in samples["hybrid_router_cost_total"]} == {"warm"}
    assert "hybrid_router_saving" not in samples
    assert "hybrid_router_counterfactual_cost_total" not in samples


async def test_gauges_are_asked_when_scraped():
    """In flight, ledger lag and any gauge of another module; None is no sample, not 0."""
    state = SimpleNamespace(in_flight=3, lag_s=None)
    async with scraped() as (telemetry, scrape):
        telemetry.watch_in_flight(lambda: state.in_flight)
        telemetry.watch_ledger_lag(lambda: state.lag_s)
        telemetry.watch("hybrid_router.warm_prefixes", "{prefix}", "Prefixes believed warm", lambda: 7)
        first = await scrape()
        state.in_flight, state.lag_s = 4, 0.25
        second = await scrape()
    assert value_of(first, "hybrid_router_in_flight") == 3
    assert "hybrid_router_ledger_lag_seconds" not in first
    assert value_of(first, "hybrid_router_warm_prefixes") == 7
    assert value_of(second, "hybrid_router_in_flight") == 4
    assert value_of(second, "hybrid_router_ledger_lag_seconds") == 0.25


async def test_labels_stay_bounded_whatever_callers_send():
    """Ten thousand tenants, applications, models, errors: few series, and their sums stay right."""
    async with scraped(applications=frozenset({"a1", "a2"}), tenants=frozenset({"t1"})) as (
        telemetry,
        scrape,
    ):
        for number in range(10_000):
            who = {"tenant": f"t{number}", "application": f"a{number}", "session": str(number)}
            odd = {"model": f"m{number}"} if number % 2 else {}
            telemetry.record_settlement(
                settlement(
                    {**who, **odd}, answered_model=f"v{number}", outcome=Outcome.UNKNOWN, error=f"E{number}"
                )
            )
            telemetry.record_decision(replace(DECISION, reason=f"r{number}"))
            telemetry.record_rpc(f"svc/m{number}", "OK", "", 0.1)
        samples = await scrape()
    booked = samples["hybrid_router_booked_cost_total"]
    assert {own["hybrid_router_application"] for own, _ in booked} == {"a1", "a2", "other"}
    assert {own["hybrid_router_tenant"] for own, _ in booked} == {"t1", "other"}
    assert sum(value for _, value in booked) == pytest.approx(10_000 * COST.total_nano_usd / 1e9)
    for name, series in samples.items():
        points = {tuple(sorted(own.items() - {("le", own.get("le"))})) for own, _ in series}
        assert len(points) <= 2_001, name
    assert sum(value for _, value in samples["hybrid_router_decisions_total"]) == 10_000
    assert len(samples["hybrid_router_decisions_total"]) <= 129
    counts = samples["gen_ai_client_operation_duration_seconds_count"]
    assert sum(value for _, value in counts) == 10_000
    models = {own.get("gen_ai_response_model") for own, _ in counts}
    assert len(models) <= 20


async def test_two_services_in_one_process_do_not_meet():
    """Registries are their own: two telemetries serve different counts on different ports."""
    async with scraped() as (one, scrape_one), scraped() as (two, scrape_two):
        one.record_decision(DECISION)
        two.record_decision(DECISION)
        two.record_decision(DECISION)
        assert value_of(await scrape_one(), "hybrid_router_decisions_total") == 1
        assert value_of(await scrape_two(), "hybrid_router_decisions_total") == 2


async def test_taken_port_is_an_error_at_start():
    """A scrape endpoint that cannot be served is said at once; the port is free again after shutdown."""
    port = free_port()
    telemetry = Telemetry.build(TelemetrySettings(prometheus_port=port))
    with pytest.raises(OSError, match="use"):
        Telemetry.build(TelemetrySettings(prometheus_port=port))
    await telemetry.shutdown()
    again = Telemetry.build(TelemetrySettings(prometheus_port=port))
    await again.shutdown()


async def test_push_carries_the_same_metrics():
    """Over OTLP: counters, histograms and gauges together, in one scope, cumulative."""
    async with exporting(OTEL_METRICS_EXPORTER="otlp") as (telemetry, collector):
        telemetry.add_target(Target())
        telemetry.record_settlement(settlement())
        assert await telemetry.flush()
        await collector.wait_for(lambda: names.IN_FLIGHT in collector.metrics)
    cost = collector.metrics[names.COST]
    assert (cost.unit, cost.sum.is_monotonic, cost.sum.aggregation_temporality) == ("{USD}", True, 2)
    assert sum(point.as_double for point in cost.sum.data_points) == pytest.approx(0.030375001)
    (point,) = collector.metrics[names.GEN_AI_OPERATION_DURATION].histogram.data_points
    assert (point.count, point.sum, point.min, point.max) == (1, 2.0, 2.0, 2.0)
    assert attributes_of(point.attributes)[names.SERVER_PORT] == 443
    assert list(point.explicit_bounds) == list(names.GEN_AI_DURATION_BOUNDARIES)


# --- aggregates ---


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 10**12))), st.integers(1, 4))
def test_counter_loses_nothing_beyond_its_limit(additions, limit):
    """However many series are asked for, at most limit + 1 exist, and they sum to all that was added."""
    counter = Counter("c", "1", "", ("key",), limit=limit)
    for key, amount in additions:
        counter.add((key,), amount)
    metric = counter.collect(1)
    points = metric.data.data_points if metric else []
    assert len(points) <= limit + 1
    assert sum(point.value for point in points) == sum(amount for _, amount in additions)


@given(st.lists(st.floats(0, 100, allow_nan=False)), st.lists(st.floats(0, 100, allow_nan=False)))
def test_histogram_counts_each_value_in_its_bucket(first, second):
    """Bucket i holds the values in (bound i-1, bound i]; merging is the same as recording."""
    bounds = (0.5, 1.0, 50.0)
    histogram = Histogram("h", "s", "", ("key",), bounds)
    for value in first:
        histogram.record(("k",), value)
    streamed = Distribution(bounds)
    for value in second:
        streamed.record(value)
    histogram.merge(("k",), streamed)
    values = first + second
    metric = histogram.collect(1)
    (point,) = metric.data.data_points
    expected = [sum(low < value <= high for value in values) for low, high in pairwise((-1.0, *bounds, inf))]
    assert point.bucket_counts == expected
    assert point.count == len(values)
    assert point.sum == pytest.approx(sum(values))
    if values:
        assert (point.min, point.max) == (min(values), max(values))


def test_histograms_with_different_bounds_do_not_merge():
    """Adding buckets that mean something else is refused."""
    with pytest.raises(ValueError, match="boundaries"):
        Distribution((1.0,)).merge(Distribution((2.0,)))


WARM_SERIES = {
    "orders": 4,
    "cost": 3,
    "saving": 1,
    "overstated": 1,
}
"""Series by trigger."""


def test_what_warms_come_to_is_counted_in_a_bounded_number_of_series():
    """Cost and saving of those sent, what was overstated of those held out; all series are there from the start."""
    metrics = Metrics()
    metrics.warms.start()
    before = {name: len(getattr(metrics.warms, name)._values) for name in WARM_SERIES}
    assert before == {name: len(Trigger) * count for name, count in WARM_SERIES.items()}
    regret = Regret()
    for number in range(400):
        tried = Tried(
            owner=(f"tenant {number}", f"application {number}"),
            trigger=("idle", "session_start")[number % 2],
            held_out=number % 4 == 0,
            from_s=number,
            until_s=number + 300.0,
            tokens=20_000,
            private_tokens=16_000,
            gain_usd=0.1,
            gain_s=0.8,
            name=f"warm-{number}",
        )
        key = f"{number}".encode()
        regret.tried(key, tried, number)
        regret.spent(key, 0.004)
        for settled in regret.used([key], 20_000 if number % 3 else 4_000, number + 1.0):
            metrics.warms.record_verdict(settled)
    assert {name: len(getattr(metrics.warms, name)._values) for name in WARM_SERIES} == before
    totals = {name: sum(getattr(metrics.warms, name)._values.values()) for name in WARM_SERIES}
    used = sum(number % 4 != 0 and number % 3 != 0 for number in range(400))
    overstated = sum(number % 4 == 0 and number % 3 != 0 for number in range(400))
    assert totals == {
        "orders": 400,
        "cost": 300 * 4_000_000,
        "saving": used * 100_000_000,
        "overstated": overstated * 100_000_000,
    }


def test_every_instrument_is_collected():
    """An instrument that records and is not exported would be silent: each appears once it has a value."""
    metrics = Metrics()
    metrics.add_target(Target())
    chunks = ChunkTimer()
    chunks.tick(1.0)
    chunks.tick(2.0)
    metrics.gen_ai.record_rpc("m", "OK", "", 0.1)
    metrics.decisions.record_decision(DECISION)
    metrics.cache.record_flight("landed", 0.8)
    metrics.warms.start()
    metrics.warms.record("idle", "paced")
    metrics.warms.record_unwarmable("idle", "too_short")
    metrics.cache.record_lead("user")
    metrics.decisions.record_embedding("used")
    metrics.cache.watch_promotions(lambda: 1)
    metrics.record_settlement(settlement(cache=MISSED), chunks)
    metrics.record_settlement(settlement(outcome=Outcome.UNKNOWN, **FAILED))
    metrics.record_settlement(settlement(discarded="refusal"))
    metrics.decisions.record_escalation("app", "refusal", "answered")
    metrics.cache.watch_calibration(lambda: [("m", Calibration((CalibrationBin(1, 0.9, 1),) * 10, 0.1))])
    instruments = list(metrics.instruments())
    assert {metric.name for metric in metrics.collect()} == {instrument.name for instrument in instruments}
    assert len(instruments) == 42


@given(
    st.lists(st.tuples(st.sampled_from(["add", "cell", "start"]), st.integers(0, 6)), max_size=30),
    st.integers(1, 5),
)
def test_a_series_begun_by_both_ways_takes_one_place(steps: list[tuple[str, int]], limit: int) -> None:
    """Those that start at 0 get a cell with their first call: counted twice, half the series would be all there are."""
    counter = Counter("calls", "{call}", "Calls.", ("kind",), limit=limit)
    added = 0
    for step, kind in steps:
        if step == "start":
            counter.start((str(kind),))
        elif step == "add":
            counter.add((str(kind),), 1)
            added += 1
        else:
            counter.cell((str(kind),))[0] += 1
            added += 1
    sums = counter.sums()
    own = {labels for labels in sums if labels in {(str(kind),) for kind in range(7)}}
    assert sum(sums.values()) == added
    assert len(own) <= limit
    distinct = {kind for _, kind in steps}
    if len(distinct) <= limit:
        assert own == sums.keys()
