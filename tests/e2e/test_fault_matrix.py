"""Every way a provider fails x unary and streamed x both providers x fallback allowed or not: one table.

What the caller is told, which attempts were made, what was waited for, and both books are read from the running
service and compared with `tests/golden/fault_matrix.txt` (written anew with UPDATE_GOLDEN=1). Time is virtual: waits
move the clock, and where a provider stalls the loop's own clock is put on, a silence at a time, until the request ends.
"""

import asyncio
from dataclasses import dataclass
from itertools import product

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from router.app import running, sandbox_upstreams
from router.config import CacheConfig, Config, RoutingConfig
from router.ledger import Ledger
from router.sandbox import Fault, Sandbox
from router.settlement import Outcome, Settlement
from router.v1.operator_service_pb2_grpc import OperatorServiceStub
from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.builders import START_TIME_S, config, generate, user
from tests.e2e.service import TALK_ONLY, TIMEOUT_S, Service, WatchedClock, detail, status_of
from tests.e2e.test_ledger_is_the_invoice import assert_reconciled
from tests.golden.compare import DIRECTORY, assert_golden, table

AT_ONCE = 12
"""Cells under way at a time."""
SILENCE_S = 61.0
"""What the loop's clock is put on where a provider stalls: longer than any silence that the settings allow."""
LONG_S = 300.0
"""Deadline of requests to a provider that stalls: room for attempts that are given up for their silence."""
ALWAYS = 9
"""More failures than any cell has attempts."""


@dataclass(frozen=True, eq=False, slots=True)
class Trouble:
    """A way to fail.

    Attributes:
        times: Tries that fail; `ALWAYS` for an outage.
    """

    name: str
    fault: dict[str, object]
    times: int = ALWAYS


TROUBLES = (
    Trouble("429 short, once", {"kind": "rate_limit", "retry_after_s": 1.0}, 1),
    Trouble("429 short", {"kind": "rate_limit", "retry_after_s": 1.0}),
    Trouble("429 long", {"kind": "rate_limit", "retry_after_s": 30.0}),
    Trouble("429 spent cap", {"kind": "spend_cap"}),
    Trouble("529/503, once", {"kind": "overloaded"}, 1),
    Trouble("529/503", {"kind": "overloaded"}),
    Trouble("529, do not retry", {"kind": "overloaded", "should_retry": False}),
    Trouble("500", {"kind": "internal"}),
    Trouble("reset before headers", {"kind": "reset"}),
    Trouble("stall", {"kind": "stall"}),
    Trouble("stall after 1 event", {"kind": "stall", "after_events": 1}),
    Trouble("stall after 5 events", {"kind": "stall", "after_events": 5}),
    Trouble("cut after 1 event", {"kind": "cut", "after_events": 1}),
    Trouble("cut after 5 events", {"kind": "cut", "after_events": 5}),
    Trouble("error event", {"kind": "error_event", "after_events": 5}),
    Trouble("malformed JSON", {"kind": "malformed", "after_events": 5}),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the matrix."""

    upstream: str
    stream: bool
    trouble: Trouble
    fallback: bool

    @property
    def stalls(self) -> bool:
        """Whether only a deadline ends it."""
        return self.trouble.fault["kind"] == "stall"


CELLS = tuple(
    Cell(upstream, stream, trouble, fallback)
    for upstream, stream, trouble, fallback in product(
        ("anthropic", "gemini"), (False, True), TROUBLES, (True, False)
    )
)
HEADER = ("upstream", "call", "failure", "fallback", "status", "told", "waited", "attempts", "books")


def settings_of(cell: Cell) -> Config:
    """A router that sends everything to the cell's upstream first, by threshold: a forced route has no fallback."""
    return config(
        routing=RoutingConfig(threshold=0.0 if cell.upstream == "anthropic" else 1.0),
        cache=CacheConfig(
            single_flight=False
        ),  # else a unary request that writes the system prompt is streamed
    )


class LoopClock:
    """The loop's own clock, which can be put on; no other work may be waiting on it then."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._ahead_s, real = 0.0, loop.time
        patch.setattr(loop, "time", lambda: real() + self._ahead_s)

    def put_on(self, seconds: float) -> None:
        """Make every deadline within `seconds` pass now."""
        self._ahead_s += seconds


async def played(cell: Cell, loop_clock: LoopClock) -> tuple[str, ...]:
    """Play one cell on a service of its own and read its row."""
    settings, clock, waits = settings_of(cell), WatchedClock(START_TIME_S), []
    sandbox, ledger = Sandbox(TALK_ONLY, clock), Ledger.temporary(clock=clock)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    sandbox.inject(Fault(**cell.trouble.fault, upstream=cell.upstream, times=cell.trouble.times))
    try:
        async with (
            running(
                settings,
                upstreams=sandbox_upstreams(settings, sandbox),
                environ={},
                clock=clock,
                ledger=ledger,
                draw=lambda: 0.0,
                sleep=sleep,
            ) as app,
            grpc.aio.insecure_channel(app.address) as channel,
        ):
            stubs = RouterServiceStub(channel), OperatorServiceStub(channel)
            service = Service(app, sandbox, clock, ledger, channel, *stubs)
            async with asyncio.TaskGroup() as group:
                answer = group.create_task(asked(service, cell))
                if cell.stalls:
                    await passed_by(answer, clock, loop_clock)
            status, told = answer.result()
            invoice = sandbox.invoice.lines
        settlements = await assert_reconciled(ledger, invoice)
        stats = ledger.stats()
        assert stats.intents == stats.settlements == len(settlements), cell
        assert len(sandbox.invoice.lines) == len(invoice), "nothing is billed once the service has ended"
    finally:
        await ledger.close()
    return (
        cell.upstream,
        "stream" if cell.stream else "unary",
        cell.trouble.name,
        "allowed" if cell.fallback else "no",
        status,
        told,
        " + ".join(f"{seconds:g} s" for seconds in waits) or "-",
        " ".join(attempt_of(each) for each in settlements),
        books_of(settlements, len(invoice)),
    )


async def passed_by(answer: asyncio.Task, clock: WatchedClock, loop_clock: LoopClock) -> None:
    """Let silence after silence pass until the request has ended."""
    while True:
        async with asyncio.TaskGroup() as group:
            held = group.create_task(clock.held())
            await asyncio.wait({answer, held}, return_when=asyncio.FIRST_COMPLETED)
            held.cancel()
        if answer.done():
            return
        loop_clock.put_on(SILENCE_S)
        for _ in range(200):  # whoever is cancelled by that goes, before the next one is looked for
            if answer.done() or not clock.sleepers:
                break
            await asyncio.sleep(0)


async def asked(service: Service, cell: Cell) -> tuple[str, str]:
    """Send the cell's request; return status and what was told beside it."""
    request = generate(user("Tell the whole story of the account."), no_fallback=not cell.fallback)
    send = service.stream if cell.stream else service.generate
    try:
        answer = await send(request, timeout_s=LONG_S if cell.stalls else TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        status = status_of(error)
        told = detail(status, ErrorInfo).reason
        retry = detail(status, RetryInfo)
        return error.code().name, told if retry is None else f"{told}, retry in {retry.retry_delay.seconds} s"
    finished = answer[-1].finished if cell.stream else answer
    assert finished.answer.parts
    return "OK", finished.answer.model


def attempt_of(settlement: Settlement) -> str:
    """Route and outcome of an attempt, with the reason less its UPSTREAM_."""
    outcome, reason = settlement.outcome.value, settlement.error.removeprefix("UPSTREAM_").lower()
    return f"{settlement.intent.route}:{outcome}{f'({reason})' if reason else ''}"


def books_of(settlements: list[Settlement], line_count: int) -> str:
    """How ledger and invoice agree; that they do has been asserted to the nano-dollar."""
    unknown = sum(each.cost is None for each in settlements)
    floors = sum(each.usage is not None and not each.usage.complete for each in settlements)
    exact = len(settlements) - unknown - floors
    parts = [
        f"{count} {what}"
        for count, what in ((exact, "exact"), (floors, "broken off, equal"), (unknown, "unknown, bounded"))
        if count
    ]
    return f"{', '.join(parts)}; {line_count} billed"


async def test_the_fault_matrix_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcome, status, attempts and books of every cell; both books agree in each, and nothing is left behind."""
    before, loop_clock = asyncio.all_tasks(), LoopClock(monkeypatch)
    places, rows = asyncio.Semaphore(AT_ONCE), {}

    async def play(cell: Cell) -> None:
        async with places:
            try:
                rows[cell] = await played(cell, loop_clock)
            except Exception as error:
                error.add_note(f"in {cell}")
                raise

    async with asyncio.TaskGroup() as group:
        for cell in CELLS:
            if not cell.stalls:
                group.create_task(play(cell))
    for cell in CELLS:
        if cell.stalls:
            await play(cell)  # alone: the loop has one clock
    assert asyncio.all_tasks() == before, "no task outlives its service"
    assert_golden("fault_matrix.txt", table(HEADER, [rows[cell] for cell in CELLS]))


def cells_where(rows: list[dict[str, str]], **wanted: str) -> list[dict[str, str]]:
    """Rows of the golden table with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def golden() -> list[dict[str, str]]:
    """The table as it is filed."""
    header, rule, *lines = (DIRECTORY / "fault_matrix.txt").read_text(encoding="utf-8").splitlines()
    starts = [
        index for index in range(len(rule)) if rule[index] == "-" and (index == 0 or rule[index - 1] == " ")
    ]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    names = [header[start:end].strip() for start, end in spans]
    return [
        dict(zip(names, (line[start:end].strip() for start, end in spans), strict=True)) for line in lines
    ]


def test_the_table_keeps_the_rules(golden: list[dict[str, str]]) -> None:
    """What a reader would check by eye, of every row: the rules of retry, fallback, waiting and billing."""
    assert len(golden) == len(CELLS) == 2 * 2 * 2 * len(TROUBLES)
    for row in golden:
        first = {"anthropic": "opus", "gemini": "flash"}[row["upstream"]]
        attempts = [tuple(attempt.partition("(")[0].split(":")) for attempt in row["attempts"].split()]
        routes = [route for route, _ in attempts]
        assert routes[0] == first, row
        assert routes == sorted(routes, key=lambda route: route != first), f"never back again: {row}"
        assert routes.count(first) <= 2, row
        if row["fallback"] == "no":
            assert set(routes) == {first}, row
        assert (row["status"] == "OK") == (attempts[-1][1] == Outcome.OK.value), row
        assert all(outcome != Outcome.OK.value for _, outcome in attempts[:-1]), row
        assert "30 s" not in row["waited"], f"a long wait is never slept: {row}"
        billed = any(outcome in ("unknown", "interrupted") for _, outcome in attempts)
        assert row["status"] != "UNAVAILABLE" or not billed, f"a channel retries UNAVAILABLE by itself: {row}"
    (told,) = {row["told"] for row in cells_where(golden, failure="429 long", fallback="no")}
    assert told == "UPSTREAM_RATE_LIMITED, retry in 30 s"
    assert {row["status"] for row in cells_where(golden, failure="429 long", fallback="allowed")} == {"OK"}
    for call, failure in product(("unary", "stream"), ("429 short, once", "529/503, once")):
        assert {row["status"] for row in cells_where(golden, call=call, failure=failure)} == {"OK"}
    told_not_to = cells_where(golden, upstream="anthropic", failure="529, do not retry")
    assert {row["waited"] for row in told_not_to} == {"-"}
    silent = cells_where(golden, call="stream", failure="stall", fallback="allowed")
    assert {(row["status"], row["waited"]) for row in silent} == {("OK", "-")}, (
        "silence leads to the other route"
    )
    begun = cells_where(golden, call="stream", failure="cut after 5 events")
    assert {row["status"] for row in begun} == {"ABORTED"}, "no second answer after the first content"
