"""The router's ledger against the providers' invoice: equal to the nano-dollar, per answer and in sum.

What the router cannot know (a call that nobody answered) is listed with a bound and is never 0. Where a provider tells
what it bills only at the end, an answer that broke off is a floor: listed, and bounded from above.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from router.config import CacheConfig
from router.ledger import Ledger
from router.report import Reconciliation, summarise
from router.sandbox import Fault, InvoiceLine, SandboxSettings, VirtualClock
from router.settlement import Outcome, Settlement
from router.tables import render, summary_tables
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import (
    FLASH,
    OPUS,
    START_TIME_S,
    as_stream,
    config,
    context_of,
    generate,
    said,
    user,
)
from tests.e2e.service import TIMEOUT_S, Service, serving

UPSTREAMS = {OPUS: "anthropic", FLASH: "gemini"}

LATE_USAGE = SandboxSettings(tool_call_chance=0.0, interim_usage=False)
"""A world where a stream of Anthropic's tells its output, thinking included, only at its end."""

THINK = "[[sandbox thinking=150]]"
"""Makes the model think before it writes, so that a stream can break off with thinking billed and never told."""


@pytest.fixture
async def ledger() -> AsyncIterator[Ledger]:
    """A ledger that outlives the service, so that it can be read when both books are closed."""
    opened = Ledger.temporary(clock=VirtualClock(START_TIME_S))
    yield opened
    await opened.close()


async def booked(ledger: Ledger) -> list[Settlement]:
    """Everything in the ledger."""
    await ledger.flush()
    return [settlement async for settlement in ledger.settlements()]


async def assert_reconciled(ledger: Ledger, invoice: tuple[InvoiceLine, ...]) -> list[Settlement]:
    """Every billed answer is booked once, in the same tokens and at the same price, and nothing else is.

    A settlement without a known cost must be bounded, and stands for at most the lines nobody could match.
    """
    settlements = await booked(ledger)
    known = [each for each in settlements if each.cost is not None and each.cost.total_nano_usd]
    unknown = [each for each in settlements if each.cost is None and each.outcome is not Outcome.REFUSED]
    lines = {line.response_id: line for line in invoice}
    assert len(lines) == len(invoice)
    for each in known:
        line = lines.pop(each.response_id)
        assert each.usage is not None
        assert each.cost is not None
        assert (each.usage.input_tokens, each.usage.output_tokens) == (
            line.input_tokens,
            line.output_tokens,
        ), each
        assert each.cost.total_nano_usd == line.cost_nano_usd, each
    totals = await ledger.totals()
    assert totals.cost.total_nano_usd == sum(each.cost.total_nano_usd for each in known if each.cost)
    assert totals.incomplete_calls == len(floors(settlements))
    assert totals.unknown_calls == len(unknown)
    assert totals.unbounded_calls == 0
    assert totals.unknown_bound_nano_usd == sum(each.intent.cost_bound_nano_usd or 0 for each in unknown)
    left_over = sum(line.cost_nano_usd for line in lines.values())
    assert len(lines) <= len(unknown), f"billed and not even listed as unknown: {lines}"
    assert left_over <= totals.unknown_bound_nano_usd
    assert totals.cost.total_nano_usd + left_over == sum(line.cost_nano_usd for line in invoice)
    return settlements


def floors(settlements: list[Settlement]) -> list[Settlement]:
    """Settlements whose answer broke off: what they cost is at least what is booked."""
    return [each for each in settlements if each.cost and each.usage and not each.usage.complete]


async def assert_bounded(ledger: Ledger, invoice: tuple[InvoiceLine, ...]) -> list[Settlement]:
    """Whole answers are booked exactly, broken-off ones as a floor with a bound, per call and in sum.

    Return the settlements that are booked with less than was billed.
    """
    settlements = await booked(ledger)
    lines = {line.response_id: line for line in invoice}
    short, room_nano_usd = [], 0
    for each in settlements:
        if each.usage is None or each.cost is None:
            assert each.cost is None or not each.cost.total_nano_usd, each  # unknown, or free: never sent
            continue
        billed, cost = lines.pop(each.response_id).cost_nano_usd, each.cost.total_nano_usd
        if each.usage.complete:
            assert cost == billed, each
            continue
        assert each.intent.cost_bound_nano_usd is not None
        assert cost <= billed <= each.intent.cost_bound_nano_usd, each
        room_nano_usd += each.intent.cost_bound_nano_usd - cost
        if cost < billed:
            short.append(each)
    totals = await ledger.totals()
    assert totals.incomplete_calls == len(floors(settlements))
    assert totals.incomplete_bound_nano_usd == room_nano_usd
    assert totals.unbounded_calls == 0
    assert len(lines) <= totals.unknown_calls, f"billed and not even listed as unknown: {lines}"
    total = sum(line.cost_nano_usd for line in invoice)
    most = totals.cost.total_nano_usd + totals.incomplete_bound_nano_usd + totals.unknown_bound_nano_usd
    assert totals.cost.total_nano_usd <= total <= most
    return short


async def fails(service: Service, request: pb.GenerateRequest, *, stream: bool) -> grpc.StatusCode:
    """Send a request that must fail; return how."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (service.stream(request) if stream else service.generate(request))
    return caught.value.code()


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_whole_answers(ledger: Ledger, route: int) -> None:
    """Unary and streamed, cold and warm: the bill is what the response says and what the provider billed."""
    async with serving(ledger=ledger) as service:
        talk = [user("List the open invoices of Northwind.")]
        for turn in range(6):
            request = generate(*talk, route=route, session="s", context=(context_of("ann"),))
            if turn % 2:
                finished = (await service.stream(request))[-1].finished
                answer, accounting = finished.answer, finished.accounting
            else:
                response = await service.generate(request)
                answer, accounting = response.answer, response.accounting
            line = service.invoice.find(answer.response_id)
            assert line is not None
            assert accounting.cost.total_nano_usd == accounting.total_nano_usd == line.cost_nano_usd > 0
            talk += [said(answer), user(f"And those of month {turn}?")]
            service.clock.advance(40)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert [each.outcome for each in settlements] == [Outcome.OK] * 6


@pytest.mark.parametrize("route", [OPUS, FLASH])
@pytest.mark.parametrize("after_events", [1, 2, 3, 4, 5, 8, 13])
async def test_a_stream_the_caller_leaves(ledger: Ledger, route: int, after_events: int) -> None:
    """The provider holds after some events, the caller hangs up there: what was generated so far is booked."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(Fault(kind="stall", after_events=after_events))
        request = generate(user("Tell the whole story of the account."), route=route)
        call = service.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
        await service.clock.held()
        call.cancel()
        await service.settled(1)
        invoice = service.invoice.lines
    (only,) = await assert_reconciled(ledger, invoice)
    assert only.outcome is Outcome.CANCELLED
    assert only.usage is not None
    assert not only.usage.complete


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_callers_that_leave_while_the_answer_flows(ledger: Ledger, route: int) -> None:
    """Hanging up after the k-th piece, at whatever point the router then is: nothing is lost or booked twice."""
    async with serving(ledger=ledger) as service:
        async with asyncio.TaskGroup() as group:
            for wanted in range(1, 13):
                group.create_task(_leave_after(service, route, wanted))
        await service.settled(12)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert len({each.intent.request_id for each in settlements}) == 12


async def _leave_after(service: Service, route: int, wanted: int) -> None:
    """Hang up after `wanted` pieces, at least one: before the first nothing need have been sent."""
    request = generate(user(f"Tell story {wanted} of the account."), route=route)
    call = service.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
    seen = -1  # the decision comes first
    async for _ in call:
        seen += 1
        if seen >= wanted:
            break
    call.cancel()


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_a_unary_call_the_caller_leaves(ledger: Ledger, route: int) -> None:
    """Nobody knows whether a held call is billed when its caller leaves: listed as unknown, bounded, and not 0."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(Fault(kind="stall"))
        call = service.router.Generate(generate(user("Sum up the year."), route=route), timeout=TIMEOUT_S)
        await service.clock.held()
        call.cancel()
        await service.settled(1)
        await service.generate(generate(user("And the month?"), route=route))
        invoice = service.invoice.lines
    left, answered = await assert_reconciled(ledger, invoice)
    assert (left.outcome, left.cost, left.usage) == (Outcome.CANCELLED, None, None)
    assert left.intent.cost_bound_nano_usd > invoice[0].cost_nano_usd
    assert answered.outcome is Outcome.OK
    totals = await ledger.totals()
    assert (totals.calls, totals.unknown_calls) == (2, 1)


REFUSALS = [
    (Fault(kind="rate_limit", times=2), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Fault(kind="overloaded", times=2), grpc.StatusCode.UNAVAILABLE),
    (Fault(kind="internal", times=2), grpc.StatusCode.UNAVAILABLE),
    (Fault(kind="spend_cap"), grpc.StatusCode.RESOURCE_EXHAUSTED),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", [OPUS, FLASH])
@pytest.mark.parametrize(("fault", "code"), REFUSALS, ids=lambda value: getattr(value, "kind", ""))
async def test_a_refusal_is_free(
    ledger: Ledger, fault: Fault, code: grpc.StatusCode, route: int, stream: bool
) -> None:
    """429, 5xx before an answer: tried again where that may help, then told to the caller, and billed nothing."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(fault)
        request = generate(user("Which tickets are open?"), route=route, no_fallback=True)
        assert await fails(service, request, stream=stream) is code
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert [each.outcome for each in settlements] == [Outcome.REFUSED] * fault.times
    assert invoice == ()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_short_rate_limit_is_waited_for(ledger: Ledger, stream: bool) -> None:
    """One 429 that asks for no wait: the second attempt answers, on the same route, and only it is billed."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(Fault(kind="rate_limit", retry_after_s=0.0))
        request = generate(user("Which tickets are open?"), route=OPUS)
        accounting = await _accounting(service, request, stream=stream)
        invoice = service.invoice.lines
    first, second = await assert_reconciled(ledger, invoice)
    assert (first.outcome, second.outcome) == (Outcome.REFUSED, Outcome.OK)
    assert [attempt.outcome for attempt in accounting.attempts] == ["UPSTREAM_RATE_LIMITED", "ok"]
    assert accounting.total_nano_usd == invoice[0].cost_nano_usd


@pytest.mark.parametrize("stream", [False, True])
async def test_the_other_route_answers_for_one_that_is_down(ledger: Ledger, stream: bool) -> None:
    """Fallback: the decided route refuses twice, the other one answers, and the bill holds its price alone."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(Fault(kind="overloaded", upstream="gemini", times=2))
        request = generate(user("Which tickets are open?"))
        accounting = await _accounting(service, request, stream=stream)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert [each.intent.route for each in settlements] == ["flash", "flash", "opus"]
    assert [line.upstream for line in invoice] == ["anthropic"]
    assert [attempt.route for attempt in accounting.attempts] == [FLASH, FLASH, OPUS]
    assert accounting.total_nano_usd == invoice[0].cost_nano_usd


async def _accounting(service: Service, request: pb.GenerateRequest, *, stream: bool):
    if stream:
        return (await service.stream(request))[-1].finished.accounting
    return (await service.generate(request)).accounting


@pytest.mark.parametrize("route", [OPUS, FLASH])
@pytest.mark.parametrize(
    ("kind", "after_events"),
    [(kind, after) for kind in ("cut", "reset", "error_event", "malformed") for after in (1, 2, 4, 7)],
)
async def test_a_stream_the_provider_breaks(ledger: Ledger, route: int, kind: str, after_events: int) -> None:
    """A stream cut, reset or ended by an error in its midst: ABORTED once content was sent, billed as generated."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(Fault(kind=kind, after_events=after_events, times=2))
        request = generate(user("Tell the whole story of the account."), route=route, no_fallback=True)
        code = await fails(service, request, stream=True)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert code is grpc.StatusCode.ABORTED
    assert settlements[-1].outcome is Outcome.INTERRUPTED
    assert len(settlements) == len(invoice)


@pytest.mark.parametrize("route", [OPUS, FLASH])
@pytest.mark.parametrize("kind", ["cut", "malformed"])
async def test_a_whole_answer_lost_on_its_way(ledger: Ledger, route: int, kind: str) -> None:
    """The provider generated and billed, and its answer never arrived whole: unknown with a bound, never free."""
    alone = config(cache=CacheConfig(single_flight=False))
    async with serving(alone, ledger=ledger) as service:
        service.sandbox.inject(Fault(kind=kind, times=2))
        await fails(service, generate(user("Sum up."), route=route, no_fallback=True), stream=False)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert invoice
    assert {each.outcome for each in settlements} == {Outcome.UNKNOWN}
    assert all(each.intent.cost_bound_nano_usd for each in settlements)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_a_connection_that_breaks_before_the_answer(ledger: Ledger, route: int, stream: bool) -> None:
    """Sent and never answered: the provider may have worked on it, so it is unknown with a bound, not free."""
    async with serving(ledger=ledger) as service:
        service.sandbox.inject(Fault(kind="reset", times=2))
        request = generate(user("Sum up."), route=route, no_fallback=True)
        assert await fails(service, request, stream=stream) is grpc.StatusCode.ABORTED
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert [each.outcome for each in settlements] == [Outcome.UNKNOWN] * 2
    assert all(each.intent.cost_bound_nano_usd for each in settlements)


async def test_a_mixed_day(ledger: Ledger) -> None:
    """Forty calls of every kind at once, some left, some failing: both books agree in every line and in sum."""
    async with serving(ledger=ledger) as service:
        for index in range(4):
            upstream = ("anthropic", "gemini")[index % 2]
            service.sandbox.inject(Fault(kind="overloaded", upstream=upstream))
            service.sandbox.inject(Fault(kind="cut", upstream=upstream, after_events=3))
            service.sandbox.inject(Fault(kind="error_event", upstream=upstream, after_events=5))
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(_one_of_many(service, number))
        await service.settled(40)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert len({each.intent.request_id for each in settlements}) == 40
    assert {each.outcome for each in settlements} >= {Outcome.OK, Outcome.REFUSED}


async def _one_of_many(service: Service, number: int, order: str = "") -> None:
    route = (OPUS, FLASH, 0)[number % 3]
    request = generate(
        user(f"Case {number}: compare the two offers and say which one we should take. {order}"),
        route=route,
        session=f"s{number % 5}",
        person=f"u{number % 5}",
        context=(context_of(f"person {number % 5}"),),
    )
    match number % 4:
        case 0:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await _leave_after(service, route, 1 + number % 7)
        case 1:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await service.generate(request)
        case _:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await service.stream(request)


@pytest.mark.parametrize("kind", ["cut", "reset", "error_event", "malformed"])
@pytest.mark.parametrize(
    ("after_events", "thought"), [(1, False), (3, False), (4, True), (7, True), (13, True)]
)
async def test_a_broken_stream_whose_thinking_was_never_told(
    ledger: Ledger, kind: str, after_events: int, thought: bool
) -> None:
    """Thinking that was billed and never reported is not in the ledger; the ledger says that it may be missing."""
    async with serving(ledger=ledger, settings=LATE_USAGE) as service:
        service.sandbox.inject(Fault(kind=kind, after_events=after_events, times=2))
        request = generate(user(f"Tell the whole story. {THINK}"), route=OPUS, no_fallback=True)
        assert await fails(service, request, stream=True) is grpc.StatusCode.ABORTED
        invoice = service.invoice.lines
    short = await assert_bounded(ledger, invoice)
    assert len(short) == sum(line.thinking_tokens > 0 for line in invoice)
    assert bool(short) is thought
    assert (await ledger.totals()).incomplete_calls == len(invoice)


@pytest.mark.parametrize("route", [OPUS, FLASH])
@pytest.mark.parametrize("after_events", [1, 4, 5, 8, 13])
async def test_a_stream_the_caller_leaves_before_usage_is_told(
    ledger: Ledger, route: int, after_events: int
) -> None:
    """Who hangs up early never hears what was billed: the one call is listed as a floor, whatever its provider."""
    async with serving(ledger=ledger, settings=LATE_USAGE) as service:
        service.sandbox.inject(Fault(kind="stall", after_events=after_events))
        request = generate(user(f"Tell the whole story. {THINK}"), route=route)
        call = service.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
        await service.clock.held()
        call.cancel()
        await service.settled(1)
        (line,) = service.invoice.lines
    short = await assert_bounded(ledger, (line,))
    # Gemini's chunks each carry the count so far, so there only Opus falls short, and only once it has thought.
    assert len(short) == (route == OPUS and line.thinking_tokens > 0)
    assert (await ledger.totals()).incomplete_calls == 1


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_whole_answers_are_exact_however_late_usage_is_told(ledger: Ledger, route: int) -> None:
    """A stream that ends tells everything: no floor, no bound, equal to the nano-dollar."""
    async with serving(ledger=ledger, settings=LATE_USAGE) as service:
        for number in range(4):
            await service.stream(generate(user(f"Story {number}. {THINK}"), route=route))
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    totals = await ledger.totals()
    assert len(settlements) == 4
    assert (totals.incomplete_calls, totals.incomplete_bound_nano_usd) == (0, 0)


async def test_a_mixed_day_with_late_usage(ledger: Ledger) -> None:
    """Whole, cut and left streams at once: the invoice lies between the books and the books plus their bounds."""
    async with serving(ledger=ledger, settings=LATE_USAGE) as service:
        for after_events in (3, 5, 7, 9):
            service.sandbox.inject(Fault(kind="cut", upstream="anthropic", after_events=after_events))
            service.sandbox.inject(Fault(kind="error_event", upstream="gemini", after_events=after_events))
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(_one_of_many(service, number, THINK))
        await service.settled(40)
        invoice = service.invoice.lines
    await assert_bounded(ledger, invoice)
    totals = await ledger.totals()
    assert 0 < totals.incomplete_calls < totals.calls
    entry = Reconciliation(
        ledger_nano_usd=totals.cost.total_nano_usd,
        invoice_nano_usd=sum(line.cost_nano_usd for line in invoice),
        unknown_bound_nano_usd=totals.unknown_bound_nano_usd,
        incomplete_bound_nano_usd=totals.incomplete_bound_nano_usd,
        incomplete_count=totals.incomplete_calls,
    )
    assert entry.agrees
    assert entry.difference_nano_usd > 0
    told = f"{totals.incomplete_calls} broken-off calls may have cost beyond what was seen"
    assert told in render(summary_tables(summarise([], entry)), width=400)
