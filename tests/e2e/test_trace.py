"""One request's trace, read back through a real OTLP/gRPC collector, and what must never be in it."""

import logging
from pathlib import Path

import grpc
import pytest

from router import attributes as names
from router.ledger import Ledger
from router.sandbox import Fault, InvoiceLine
from router.settlement import Outcome
from router.v1 import router_service_pb2 as pb
from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.builders import (
    APPLICATION,
    FLASH,
    OPUS,
    as_stream,
    context_of,
    generate,
    tool_call,
    tool_result,
    user,
)
from tests.e2e.collector import Span, Tap, tapped
from tests.e2e.service import TIMEOUT_S, WatchedClock, serving

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN_ID = "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"),)
CANARY = "Zanzibar-Quetzal-7741"
COST_TRIPLE = {names.GEN_AI_COST_AMOUNT, names.GEN_AI_COST_CURRENCY, names.GEN_AI_COST_SOURCE}


async def traced(route: int, *, stream: bool) -> tuple[dict[str, Span], InvoiceLine]:
    """Spans by name of one call of `route` that carries a caller's traceparent, and its line on the invoice."""
    request = generate(
        user("Which tickets are overdue?"), route=route, session="s-1", context=(context_of("ann"),)
    )
    async with tapped() as tap:
        async with serving(environ=tap.environ) as service:
            if stream:
                call = service.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S, metadata=SAMPLED)
                events = [event async for event in call]
                trace_id = events[0].decided.trace_id
            else:
                response = await service.router.Generate(request, timeout=TIMEOUT_S, metadata=SAMPLED)
                trace_id = response.trace_id
            (line,) = service.invoice.lines
        assert trace_id == TRACE_ID
        spans = tap.spans()
    by_name = {span.name: span for span in spans}
    assert len(by_name) == len(spans) == 5
    return by_name, line


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "inference"), [(OPUS, "chat claude-opus-5-5"), (FLASH, "generate_content gemini-3.8-flash")]
)
async def test_a_call_is_one_trace(route: int, inference: str, stream: bool) -> None:
    """Server span below the caller's; score, plan, model call and settlement below the server span."""
    method = f"router.v1.RouterService/{'StreamGenerate' if stream else 'Generate'}"
    spans, line = await traced(route, stream=stream)
    assert set(spans) == {method, "classify", "plan", inference, "settle"}
    server = spans[method]
    assert (server.kind, server.parent_span_id) == ("SERVER", CALLER_SPAN_ID)
    assert spans[inference].kind == "CLIENT"
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert {span.parent_span_id for span in spans.values()} == {CALLER_SPAN_ID, server.span_id}
    assert {span.status for span in spans.values()} == {"UNSET"}
    assert spans[inference].attributes[names.GEN_AI_RESPONSE_ID] == line.response_id


@pytest.mark.parametrize(("route", "prefix"), [(OPUS, "chat"), (FLASH, "generate_content")])
async def test_the_inference_span_bills_what_the_provider_bills(route: int, prefix: str) -> None:
    """Inclusive tokens, both names of the cache-write count, and the cost triple, as on the invoice."""
    spans, line = await traced(route, stream=False)
    (found,) = [span.attributes for name, span in spans.items() if name.startswith(prefix)]
    assert found[names.GEN_AI_INPUT_TOKENS] == line.input_tokens
    assert found[names.GEN_AI_OUTPUT_TOKENS] == line.output_tokens
    assert found[names.GEN_AI_CACHE_READ_TOKENS] == line.read_tokens
    written = line.write_5m_tokens + line.write_1h_tokens
    assert found["gen_ai.usage.cache_write.input_tokens"] == written
    assert found["gen_ai.usage.cache_creation.input_tokens"] == written
    assert found[names.GEN_AI_COST_AMOUNT] == pytest.approx(line.cost_nano_usd / 1e9, abs=1e-12)
    assert found["hybrid_router.cost.total_nano_usd"] == line.cost_nano_usd
    assert found[names.GEN_AI_COST_CURRENCY] == "USD"
    assert found[names.GEN_AI_PROVIDER] == {"chat": "anthropic", "generate_content": "gcp.gemini"}[prefix]
    assert found[names.GEN_AI_CONVERSATION_ID] == "s-1"


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_the_server_span_is_found_by_route_and_cost(route: int) -> None:
    """Route, reason and cost of the request are on the server span, and no gen_ai key is, so nothing counts twice."""
    spans, line = await traced(route, stream=False)
    found = spans["router.v1.RouterService/Generate"].attributes
    assert found[names.ROUTE] == {OPUS: "opus", FLASH: "flash"}[route]
    assert found[names.REASON] == "forced"
    assert found[names.COST_USD] == pytest.approx(line.cost_nano_usd / 1e9, abs=1e-12)
    assert found[names.APPLICATION] == APPLICATION
    assert found[names.RPC_STATUS_CODE] == "OK"
    assert not [key for key in found if key.startswith("gen_ai.")]
    others = [span for span in spans.values() if not span.name.startswith(("chat", "generate_content"))]
    assert not COST_TRIPLE & {key for span in others for key in span.attributes}


async def test_unsampled_callers_are_not_exported_but_get_their_trace_id() -> None:
    """A caller that decided against sampling is obeyed; its trace id still links answer and ledger."""
    unsampled = (("traceparent", f"00-{TRACE_ID}-{CALLER_SPAN_ID}-00"),)
    async with tapped() as tap:
        async with serving(environ=tap.environ) as service:
            request = generate(user("Which tickets are overdue?"))
            response = await service.router.Generate(request, timeout=TIMEOUT_S, metadata=unsampled)
            (settlement,) = await service.settlements()
        assert tap.spans() == []
    assert response.trace_id == settlement.intent.trace_id == TRACE_ID


async def test_a_stream_that_its_caller_leaves_is_whole_in_the_trace() -> None:
    """The server span ends as cancelled and no error; the model call's span ends too, with what was booked for it."""
    async with tapped() as tap:
        async with serving(environ=tap.environ) as service:
            service.sandbox.inject(Fault(kind="stall", after_events=8))
            request = as_stream(generate(user("Tell the whole story."), route=OPUS, no_fallback=True))
            call = service.router.StreamGenerate(request, timeout=TIMEOUT_S, metadata=SAMPLED)
            while not (await call.read()).HasField("delta"):
                pass
            call.cancel()
            (settlement,) = await service.settled(1)
        spans = {span.name: span for span in tap.spans()}
    server, model_call = spans["router.v1.RouterService/StreamGenerate"], spans["chat claude-opus-5-5"]
    assert (server.attributes[names.RPC_STATUS_CODE], server.status) == ("CANCELLED", "UNSET")
    assert server.attributes[names.ROUTE] == "opus"
    assert (model_call.attributes[names.OUTCOME], model_call.status) == ("cancelled", "UNSET")
    assert model_call.attributes["hybrid_router.cost.total_nano_usd"] == settlement.cost.total_nano_usd > 0
    assert model_call.parent_span_id == server.span_id
    assert {span.events for span in spans.values()} == {0}


async def test_a_caller_that_stops_reading_is_no_incident(caplog: pytest.LogCaptureFixture) -> None:
    """Its deadline passes while a message waits to be written: that is an expired deadline, and is logged as no fault
    of ours; what came is booked once, as cancelled."""
    async with tapped() as tap:
        async with serving(environ=tap.environ) as service:
            long = user("Tell the whole story. [[sandbox tokens=60000]]")
            request = as_stream(generate(long, route=OPUS, max_output_tokens=64_000, no_fallback=True))
            # A channel that takes in little ahead of its reader, so that the answer cannot be over before the deadline.
            narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 12)]
            async with grpc.aio.insecure_channel(service.app.address, options=narrow) as channel:
                call = RouterServiceStub(channel).StreamGenerate(request, timeout=1.0, metadata=SAMPLED)
                assert (await call.read()).HasField("decided")
                (settlement,) = await service.settled(1)
        (server,) = [span for span in tap.spans() if span.kind == "SERVER"]
    assert server.attributes[names.RPC_STATUS_CODE] == "DEADLINE_EXCEEDED"
    assert names.INCIDENT not in server.attributes
    assert settlement.outcome is Outcome.CANCELLED
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


def _secret_requests() -> list[pb.GenerateRequest]:
    """The canary wherever a prompt may hold text, on both routes."""
    found = []
    for route in (OPUS, FLASH):
        request = generate(
            user(f"First {CANARY}"),
            tool_call("call-1", "search_tickets", f'{{"account":"{CANARY}"}}'),
            tool_result("call-1", f"found {CANARY}"),
            user(f'What of {CANARY}? [[sandbox say="The answer is {CANARY}"]]'),
            route=route,
            context=(f"Profile of {CANARY}",),
            person="u-1",
            no_fallback=True,
        )
        del request.prompt.messages[3:]
        request.prompt.messages[
            2
        ].parts.add().text.text = f'What of it? [[sandbox say="The answer is {CANARY}"]]'
        request.prompt.system.append(f"Never mention {CANARY}.")
        request.prompt.stop_sequences.append(f"stop {CANARY}")
        found.append(request)
    return found


async def _send_all(service, tap: Tap) -> None:
    """Every way a request can end: answered, streamed, refused by us, refused and broken by the provider."""
    for request in _secret_requests():
        response = await service.router.Generate(request, timeout=TIMEOUT_S, metadata=SAMPLED)
        assert CANARY in response.answer.parts[-1].text.text, "the canary was not even answered"
        await service.stream(request)
        await service.explain(request)
        for fault in ("overloaded", "malformed", "error_event"):
            service.sandbox.inject(Fault(kind=fault, times=4, message=f"cannot {fault}"))
            for method in (service.generate, service.stream):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await method(request)
                assert CANARY not in str(caught.value)
            service.sandbox.reset()
        bad = pb.GenerateRequest()
        bad.CopyFrom(request)
        bad.prompt.output_schema_json = f'{{"{CANARY}"'
        bad_tool = pb.GenerateRequest()
        bad_tool.CopyFrom(request)
        bad_tool.prompt.messages[1].parts[0].tool_call.arguments_json = f'["{CANARY}"]'
        for refused in (bad, bad_tool):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.generate(refused)
            assert CANARY not in str(caught.value)


async def test_no_prompt_text_leaves_by_spans_metrics_logs_or_ledger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A canary in every text of the prompt and in the answer: not in one exported byte, log line or ledger file."""
    caplog.set_level(logging.DEBUG, logger="router")
    caplog.set_level(logging.INFO)
    ledger = Ledger.open(tmp_path / "ledger", clock=WatchedClock(0.0))
    try:
        async with tapped() as tap:
            async with serving(
                environ=tap.environ | {"OTEL_TRACES_SAMPLER": "always_on"}, ledger=ledger
            ) as service:
                await _send_all(service, tap)
            assert len(tap.spans()) > 40
            assert names.COST in tap.metric_names()
            assert not [method for method, data in tap.exports if CANARY.encode() in data]
    finally:
        await ledger.close()
    assert CANARY not in caplog.text
    files = [path for path in (tmp_path / "ledger").rglob("*") if path.is_file()]
    assert any(b"claude-opus-5-5" in path.read_bytes() for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
