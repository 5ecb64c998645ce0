"""What an operator finds in a real Jaeger v2 after mixed traffic through a real server process.

Skipped aloud where no Jaeger is at hand (`tests.jaeger` says how to get one); the in-process collector of
`test_trace.py` holds the same spans everywhere.
"""

import signal
from collections import defaultdict
from pathlib import Path

import grpc
import pytest

from router import attributes as names
from router.clock import SystemClock
from router.ledger import Ledger
from router.settlement import Outcome, Settlement
from tests import jaeger
from tests.e2e.builders import FLASH, OPUS, as_stream, context_of, generate, user
from tests.e2e.process import ServerProcess, server_process, write_config
from tests.e2e.service import TIMEOUT_S

SERVICE = "hybrid-router"
UNARY = "router.v1.RouterService/Generate"
STREAM = "router.v1.RouterService/StreamGenerate"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN_ID = "b7ad6b7169203331"
UNSAMPLED_TRACE_ID = "1af7651916cd43dd8448eb211c80319c"

pytestmark = pytest.mark.timeout(jaeger.INSTALL_TIMEOUT_S + 300)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jaeger's program; the reason is told where there is none."""
    try:
        return jaeger.find(tmp_path_factory.mktemp("go"))
    except jaeger.NoJaeger as absent:
        pytest.skip(str(absent))


async def _send(server: ServerProcess) -> None:
    """Both routes, unary and streamed: cache reads, a refusal, a fallback, a caller that leaves, one unsampled."""
    router = server.router
    for number in range(4):
        asked = generate(
            user(f"Case {number}: which tickets are overdue?"),
            route=OPUS,
            session=f"s-{number}",
            context=(context_of("ann"),),
        )
        await router.Generate(asked, timeout=TIMEOUT_S)
    sampled = (("traceparent", f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"),)
    await router.Generate(
        generate(user("And of last week?"), route=OPUS), timeout=TIMEOUT_S, metadata=sampled
    )
    for number in range(2):
        asked = generate(user(f"Thanks, {number}."), route=FLASH)
        assert [event async for event in router.StreamGenerate(as_stream(asked), timeout=TIMEOUT_S)]
    refused = generate(user("Thanks. [[sandbox fault=overloaded times=9]]"), route=FLASH, no_fallback=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await router.Generate(refused, timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    fallen_back = generate(user("Hello! [[sandbox fault=overloaded times=9 upstream=gemini]]"))
    await router.Generate(fallen_back, timeout=TIMEOUT_S)
    left = router.StreamGenerate(
        as_stream(
            generate(
                user("Tell the whole story. [[sandbox fault=stall after_events=8 stall_s=60]]"),
                route=OPUS,
                no_fallback=True,
            )
        ),
        timeout=TIMEOUT_S,
    )
    while not (await left.read()).HasField("delta"):
        pass
    left.cancel()
    unsampled = (("traceparent", f"00-{UNSAMPLED_TRACE_ID}-{CALLER_SPAN_ID}-00"),)
    await router.Generate(generate(user("Quietly."), route=FLASH), timeout=TIMEOUT_S, metadata=unsampled)


async def _booked(directory: Path) -> list[Settlement]:
    ledger = Ledger.open(directory / "ledger", clock=SystemClock())
    try:
        return [settlement async for settlement in ledger.settlements()]
    finally:
        await ledger.close()


def _nano_by_route(settlements: list[Settlement]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for settlement in settlements:
        assert settlement.cost is not None or settlement.outcome is Outcome.REFUSED
        sums[settlement.intent.route] += settlement.cost.total_nano_usd if settlement.cost else 0
    return dict(sums)


async def test_an_operator_finds_requests_by_tag_and_their_cost_is_the_ledgers(
    program: Path, tmp_path: Path
) -> None:
    """Searches by route, error and miss find the right requests; every trace is whole and costs what was booked."""
    async with jaeger.running(program, tmp_path) as store:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": store.endpoint,
            "OTEL_TRACES_SAMPLER": "parentbased_always_on",
        }
        async with server_process(write_config(tmp_path), **variables) as server:
            await _send(server)
            # The end flushes what is queued, so the spans are in Jaeger once the process is gone.
            server.process.send_signal(signal.SIGTERM)
            assert await server.ended() == 0, server.errors.decode()
        settlements = await _booked(tmp_path)
        assert await store.services() == [SERVICE]

        opus = await store.search(SERVICE, UNARY, hybrid_router__route="opus")
        flash = await store.search(SERVICE, STREAM, hybrid_router__route="flash")
        failed = await store.search(SERVICE, UNARY, rpc__status_code="UNAVAILABLE")
        fallen_back = await store.search(
            SERVICE, UNARY, hybrid_router__route="opus", hybrid_router__reason="fallback"
        )
        cancelled = await store.search(SERVICE, STREAM, rpc__status_code="CANCELLED")
        assert (len(opus), len(flash), len(failed), len(cancelled)) == (6, 2, 1, 1)
        assert TRACE_ID in opus
        assert len(fallen_back) == 1
        assert fallen_back < opus
        assert not await store.trace(UNSAMPLED_TRACE_ID)

        everything = await store.search(SERVICE)
        traces = {trace_id: await store.trace(trace_id) for trace_id in everything}
        assert everything == opus | flash | failed | cancelled
        booked: dict[str, list[Settlement]] = defaultdict(list)
        for settlement in settlements:
            booked[settlement.intent.trace_id].append(settlement)
        assert set(booked) == everything | {UNSAMPLED_TRACE_ID}

        total: dict[str, int] = defaultdict(int)
        for trace_id, spans in traces.items():
            _check_shape(spans, CALLER_SPAN_ID if trace_id == TRACE_ID else "")
            billed = _check_cost(spans, booked[trace_id])
            for route, nano_usd in billed.items():
                total[route] += nano_usd
        sampled = [each for each in settlements if each.intent.trace_id != UNSAMPLED_TRACE_ID]
        assert dict(total) == _nano_by_route(sampled)
        assert total["opus"] > total["flash"] > 0
        # What sampling left out is booked all the same: costs never come from spans.
        assert _nano_by_route(settlements)["flash"] > total["flash"]


def _check_shape(spans: list[jaeger.StoredSpan], parent_span_id: str) -> None:
    """One server span, everything else right below it, model calls of kind CLIENT, and no gen_ai key elsewhere."""
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert server.parent_span_id == parent_span_id
    assert server.resource["service.name"] == SERVICE
    below = [span for span in spans if span is not server]
    assert {span.parent_span_id for span in below} == {server.span_id}
    calls = [span for span in below if span.kind == "CLIENT"]
    assert calls
    assert {span.name for span in below} - {span.name for span in calls} == {"classify", "plan", "settle"}
    for span in spans:
        has = any(key.startswith("gen_ai.") for key in span.attributes)
        assert has == (span in calls), span.name
    if server.attributes[names.RPC_STATUS_CODE] != "CANCELLED":
        assert server.attributes[names.ATTEMPT_COUNT] == len(calls)


def _check_cost(spans: list[jaeger.StoredSpan], booked: list[Settlement]) -> dict[str, int]:
    """The attempts of one trace cost what the ledger says, to the nano-dollar; return it by route."""
    calls = [span for span in spans if span.kind == "CLIENT"]
    (server,) = [span for span in spans if span.kind == "SERVER"]
    by_route: dict[str, int] = defaultdict(int)
    for span in calls:
        by_route[span.attributes[names.ROUTE]] += span.attributes.get(
            f"{names.COST_PART_PREFIX}total_nano_usd", 0
        )
    assert len(calls) == len(booked)
    assert dict(by_route) == _nano_by_route(booked)
    # A call that its caller left is settled after its server span has ended; its cost is on the model call only.
    if server.attributes[names.RPC_STATUS_CODE] == "CANCELLED":
        assert names.COST_USD not in server.attributes
    else:
        assert server.attributes[names.COST_USD] == pytest.approx(sum(by_route.values()) / 1e9, abs=1e-12)
    return dict(by_route)
