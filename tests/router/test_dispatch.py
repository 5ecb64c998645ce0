"""One request's life, with scripted providers: whatever happens at whatever await, each attempt is closed once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from classifier.policy import Reason
from classifier.route import Route
from router import errors
from router.app import sandbox_upstreams
from router.attempts import RetryLimits
from router.call import FinishReason, Text
from router.circuit import CircuitSettings, State
from router.config import Config
from router.deadline import Deadline
from router.dispatch import Decided, Dispatch, Life
from router.escalation import Cascade, Cascades, Signal
from router.hedge import Hedging
from router.outcome import Answered
from router.reply import Chunk, Finished, Reply, Started, TextDelta
from router.sandbox import Sandbox
from router.settlement import Outcome
from router.usage import Usage
from tests.router.rig import Rig, asked, rigged

USAGE = Usage(input_tokens=100, output_tokens=3)
BEGUN = Usage(input_tokens=100, output_tokens=1, complete=False)
STEPS = Started("m", "id", "req", BEGUN), TextDelta(0, "one "), TextDelta(0, "two "), TextDelta(0, "three")


class Scripted:
    """A provider that spells like the real one and answers as told: errors to raise, None for an answer.

    Attributes:
        asked: Times it was asked.
        left_open: Streams that were begun and not closed.
        holding: Numbers of the unary calls, from 1, that are not answered before `let_go` is set.
    """

    def __init__(self, real, script: list[errors.UpstreamError | None]) -> None:
        self.name, self.model = real.name, real.model
        self.provider_name, self.operation = real.provider_name, real.operation
        self.server_address, self.server_port = real.server_address, real.server_port
        self.render, self.close = real.render, real.close
        self.script = script
        self.asked = self.left_open = 0
        self.break_after: int | None = None
        self.refuses = False
        self.holding: set[int] = set()
        self.let_go = asyncio.Event()

    def _next(self) -> None:
        self.asked += 1
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error

    async def generate(self, rendered, plan, timeout_s: float) -> Reply:
        await asyncio.sleep(0)
        if self.asked + 1 in self.holding:
            self.asked += 1
            await self.let_go.wait()
            self.asked -= 1
        self._next()
        await asyncio.sleep(0)
        return self._reply()

    async def stream(self, rendered, plan, timeout_s: float, *, waits: bool = False) -> AsyncIterator[Chunk]:
        await asyncio.sleep(0)
        self._next()
        self.left_open += 1
        try:
            for index, chunk in enumerate(STEPS[:1] if self.refuses else STEPS):
                if index == self.break_after:
                    raise errors.UpstreamInterrupted(self.name, "broke", usage=BEGUN)
                await asyncio.sleep(0)
                yield chunk
            await asyncio.sleep(0)
            yield Finished(self._reply())
        finally:
            self.left_open -= 1

    async def count_output(self, text: str, timeout_s: float) -> int | None:
        return len(text.split())

    def _reply(self) -> Reply:
        return Reply(
            parts=() if self.refuses else (Text("one two three"),),
            finish_reason=FinishReason.REFUSAL if self.refuses else FinishReason.END_TURN,
            usage=USAGE,
            model=self.model,
            response_id="id",
        )


class Stage:
    """A dispatch over scripted providers; waits are noted, not waited."""

    def __init__(self, rig: Rig, opus: Scripted, flash: Scripted, hedging: Hedging) -> None:
        self.rig, self.opus, self.flash = rig, opus, flash
        self.waits: list[float] = []
        self.events: list = []
        self.dispatch = Dispatch(
            preparation=rig.preparation,
            settler=rig.settler,
            limits=RetryLimits(retry_limit=1, wait_limit_s=2.0),
            hedging=hedging,
            cascades=Cascades(Cascade(frozenset(Signal))),
            draw=lambda: 0.0,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    async def emit(self, event) -> None:
        """Take an event as a client would, which takes a turn of the loop."""
        await asyncio.sleep(0)
        self.events.append(event)

    def life(self, route: Route | None = None, **demands) -> Life:
        """A decided request."""
        return Life(self.dispatch.prepare(asked(route=route, **demands)))

    def deadline(self, seconds: float = 60.0) -> Deadline:
        """A deadline from now."""
        return Deadline(at_s=asyncio.get_running_loop().time() + seconds)

    async def stream(self, life: Life) -> None:
        """Stream to `emit`."""
        await self.dispatch.stream(life, self.deadline(), "t", self.emit)

    async def closed(self, life: Life) -> list:
        """All settlements, once background counting is done; each opened attempt must have exactly one, in order."""
        settlements = await self.closed_in_any_order(life)
        assert [each.intent.attempt for each in settlements] == [
            attempt.intent.attempt for attempt in life.attempts
        ]
        return settlements

    async def closed_in_any_order(self, life: Life) -> list:
        """As `closed`, where two attempts were made at once."""
        await self.rig.tasks.drain(5.0)
        settlements = await self.rig.settlements()
        assert sorted(each.intent.attempt for each in settlements) == [
            attempt.intent.attempt for attempt in life.attempts
        ]
        stats = self.rig.ledger.stats()
        assert stats.intents == stats.settlements == len(settlements)
        assert self.opus.left_open == self.flash.left_open == 0
        return settlements


@pytest.fixture
async def make() -> AsyncIterator[Callable]:
    """Build a stage from what each provider is to do."""
    opened = []

    async def build(
        opus=(),
        flash=(),
        *,
        circuit: CircuitSettings = CircuitSettings(),  # noqa: B008 (frozen)
        hedging: Hedging = Hedging(),  # noqa: B008 (frozen)
    ) -> Stage:
        real = sandbox_upstreams(Config(), Sandbox())
        scripted = {
            Route.OPUS: Scripted(real[Route.OPUS], list(opus)),
            Route.FLASH: Scripted(real[Route.FLASH], list(flash)),
        }
        context = rigged(upstreams=scripted, circuit=circuit)
        rig = await context.__aenter__()
        opened.append(context)
        return Stage(rig, scripted[Route.OPUS], scripted[Route.FLASH], hedging)

    yield build
    for context in opened:
        await context.__aexit__(None, None, None)


def busy(retry_after_s: float | None = None) -> errors.UpstreamError:
    """A refusal that may pass."""
    return errors.UpstreamOverloaded("x", "busy", retry_after_s=retry_after_s)


async def test_an_answer_comes_with_its_bill(make):
    """One attempt, its usage and its cost."""
    stage = await make()
    life = stage.life(Route.OPUS)
    answered = await stage.dispatch.generate(life, stage.deadline(), "t")
    (settlement,) = await stage.closed(life)
    assert (answered.route, answered.fell_back, answered.bill.usage) == (Route.OPUS, False, USAGE)
    assert answered.bill.total_nano_usd == settlement.cost.total_nano_usd > 0


async def test_a_stream_is_the_decision_the_pieces_and_the_bill(make):
    """In this order, and nothing of the provider's bookkeeping between."""
    stage = await make()
    life = stage.life(Route.FLASH)
    await stage.stream(life)
    kinds = [type(event) for event in stage.events]
    assert kinds == [Decided, TextDelta, TextDelta, TextDelta, Answered]
    (settlement,) = await stage.closed(life)
    assert settlement.usage == stage.events[-1].bill.usage == USAGE


async def test_a_passing_failure_is_waited_for_as_asked(make):
    """The provider's own wait, then the same route again; the refused attempt is free and on the bill."""
    stage = await make(opus=[busy(1.5)])
    life = stage.life(Route.OPUS)
    answered = await stage.dispatch.generate(life, stage.deadline(), "t")
    assert stage.waits == [1.5]
    assert [report.outcome for report in answered.bill.attempts] == ["UPSTREAM_OVERLOADED", "ok"]
    assert [each.outcome for each in await stage.closed(life)] == [Outcome.REFUSED, Outcome.OK]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_route_is_left_for_the_other_once(make, stream: bool):
    """Retry, then the other route with its own retry, then give up with the last failure; never back again."""
    stage = await make(opus=[busy() for _ in range(9)], flash=[busy() for _ in range(9)])
    life = stage.life()
    with pytest.raises(errors.UpstreamOverloaded):
        await (stage.stream(life) if stream else stage.dispatch.generate(life, stage.deadline(), "t"))
    first = life.prepared.decision.route
    routes = [each.intent.route for each in await stage.closed(life)]
    assert routes == [first.value] * 2 + [first.other.value] * 2
    if stream:
        assert [(event.route, event.fell_back) for event in stage.events] == [
            (first, False),
            (first.other, True),
        ]


async def test_a_forced_route_is_kept(make):
    """A caller that forces a route hears of its failure; the other one is not asked."""
    stage = await make(opus=[errors.UpstreamFailed("x", "broke")] * 2)
    life = stage.life(Route.OPUS, fallback_allowed=False)
    with pytest.raises(errors.UpstreamFailed):
        await stage.dispatch.generate(life, stage.deadline(), "t")
    assert (stage.opus.asked, stage.flash.asked) == (2, 0)
    await stage.closed(life)


@pytest.mark.parametrize("break_after", [1, 2, 3])
async def test_after_the_first_piece_there_is_no_second_answer(make, break_after: int):
    """Broken after content: the interruption is told and billed. Before any content: another attempt may answer."""
    stage = await make()
    stage.flash.break_after = break_after
    life = stage.life(Route.FLASH, fallback_allowed=False)
    with pytest.raises(errors.UpstreamInterrupted):
        await stage.stream(life)
    settlements = await stage.closed(life)
    assert stage.flash.asked == len(settlements) == 1
    assert settlements[0].outcome is Outcome.INTERRUPTED
    assert sum(isinstance(event, TextDelta) for event in stage.events) == break_after - 1


async def test_a_spent_deadline_starts_no_attempt(make):
    """Nothing is journalled and nobody asked when too little time is left."""
    stage = await make()
    life = stage.life(Route.OPUS)
    with pytest.raises(errors.DeadlineTooShort):
        await stage.dispatch.generate(life, stage.deadline(0.01), "t")
    assert life.attempts == []
    assert stage.opus.asked == 0


async def test_no_ledger_no_call(make):
    """When the intent cannot be journalled, nothing is sent."""
    stage = await make()
    life = stage.life(Route.OPUS)
    await stage.rig.ledger.close()
    with pytest.raises(errors.LedgerUnavailable):
        await stage.dispatch.generate(life, stage.deadline(), "t")
    assert stage.opus.asked == 0


SCENARIOS = {
    "stream": ((), (), True, None),
    "unary": ((), (), False, None),
    "retry": ((), (busy(),), True, None),
    "unary retry": ((), (busy(),), False, None),
    "fallback": ((), (busy(), busy()), True, None),
    "broken": ((), (), True, 2),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_caller_may_leave_at_every_await(make, name: str):
    """Cancelled after every number of turns of the loop until the end: closed once, source closed, nothing lost."""
    opus, flash, stream, break_after = SCENARIOS[name]
    turn, finished = 1, False
    while not finished:
        stage = await make(opus, flash)
        stage.flash.break_after = break_after
        life = stage.life()
        assert life.prepared.decision.route is Route.FLASH
        work = stage.stream(life) if stream else stage.dispatch.generate(life, stage.deadline(), "t")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_quiet(work))
            for _ in range(turn):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
        settlements = await stage.closed(life)
        for each in settlements[:-1]:
            assert each.outcome is Outcome.REFUSED
        if settlements and not finished:
            assert settlements[-1].outcome in (
                Outcome.CANCELLED,
                Outcome.OK,
                Outcome.REFUSED,
                Outcome.INTERRUPTED,
            )
            if settlements[-1].outcome is Outcome.CANCELLED:
                assert settlements[-1].cost is None or settlements[-1].cost.total_nano_usd > 0
        turn += 1
        assert turn < 60
    assert turn > 3


async def _quiet(work) -> None:
    with contextlib.suppress(errors.UpstreamError):
        await work


async def test_a_caller_that_cannot_be_written_to_is_settled(make):
    """`emit` fails in mid-answer: the provider's stream is closed at once and what came is booked."""
    stage = await make()
    life = stage.life(Route.OPUS)

    async def emit(event) -> None:
        if isinstance(event, TextDelta):
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await stage.dispatch.stream(life, stage.deadline(), "t", emit)
    (settlement,) = await stage.closed(life)
    assert settlement.outcome is Outcome.CANCELLED
    assert settlement.usage.input_tokens == 100


@pytest.mark.parametrize("opus", [(), (busy(),)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_may_leave_at_every_await_of_an_escalation(make, stream: bool, opus: tuple):
    """Whenever that is: Flash's failed answer is booked with its cost, and Opus's attempt is closed as it stood."""
    turn, finished = 1, False
    while not finished:
        stage = await make(opus)
        stage.flash.refuses = True
        life = stage.life()
        work = stage.stream(life) if stream else stage.dispatch.generate(life, stage.deadline(), "t")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_quiet(work))
            for _ in range(turn):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
        settlements = await stage.closed(life)
        if settlements and settlements[0].outcome is Outcome.OK:
            assert (settlements[0].discarded, settlements[0].usage) == ("refusal", USAGE)
            assert all(each.intent.route == "opus" for each in settlements[1:])
        turn += 1
        assert turn < 60
    assert [each.outcome for each in settlements][-1] is Outcome.OK
    assert stage.opus.asked == 1 + len(opus)
    assert (life.route, life.escalated, life.fell_back) == (Route.OPUS, True, False)


async def test_a_discarded_answer_is_not_the_sessions(make):
    """The book counts one answer, Opus's; when Opus fails, Flash's after all."""
    for opus, route in (((), Route.OPUS), ([errors.UpstreamRejected("x", "no")], Route.FLASH)):
        stage = await make(opus)
        stage.flash.refuses = True
        life = Life(stage.dispatch.prepare(asked(session="s")))
        answered = await stage.dispatch.generate(life, stage.deadline(), "t")
        remembered = stage.rig.memory.recall("acme", "s")
        assert (answered.route, remembered.route, remembered.request_count) == (route, route, 1)


async def test_of_two_hedged_answers_the_first_is_judged(make):
    """A second call is under way when the first refuses: it is left and booked, and Opus answers."""
    stage = await make(hedging=Hedging(after_s=1.0, routes=frozenset({Route.FLASH})))
    stage.flash.refuses = True
    stage.flash.holding = {1}
    life = stage.life()
    answered = await stage.dispatch.generate(life, stage.deadline(), "t")
    settlements = await stage.closed_in_any_order(life)
    assert (answered.route, answered.escalated) == (Route.OPUS, True)
    assert sorted(each.discarded for each in settlements) == ["", "", "refusal"]
    assert [each.outcome for each in settlements].count(Outcome.CANCELLED) == 1
    assert [each.discarded for each in answered.bill.attempts].count(True) == 1


async def test_a_fault_in_judging_loses_no_answer(make, monkeypatch, caplog):
    """It is logged, and the answer is handed on and booked."""
    stage = await make()
    stage.flash.refuses = True
    monkeypatch.setattr("router.dispatch.signal_of", lambda reply, call: 1 / 0)
    answered = await asked_once(stage)
    assert (answered.route, answered.bill.attempts[0].outcome) == (Route.FLASH, "ok")
    assert "judging the answer" in caplog.text


async def test_an_open_circuit_forbids_an_escalation(make):
    """Opus is held back: Flash's refusal is the answer, and nothing is sent."""
    stage = await make([busy(), busy()], circuit=EAGER)
    with pytest.raises(errors.UpstreamOverloaded):
        await asked_once(stage, Route.OPUS, fallback_allowed=False)
    stage.flash.refuses = True
    life = stage.life()
    await stage.dispatch.generate(life, stage.deadline(), "t")
    assert [each.settlement.extra for each in life.attempts] == [
        {"failure": "refusal", "kept": "unavailable"}
    ]
    assert stage.opus.asked == 2


EAGER = CircuitSettings(failures_in_a_row=2, open_s=10.0, probe_limit=1)
"""A circuit that opens at two failures in a row and closes at one answer."""


def state_of(stage: Stage, route: Route) -> State:
    """Where the circuit of `route` stands now."""
    reports = stage.rig.settler.circuits.snapshot(stage.rig.clock.now())
    return next(report.state for report in reports if report.route is route)


async def until_asked(upstream: Scripted, count: int) -> None:
    """Give others turns until `upstream` has been asked so often; fails if that never comes."""
    for _ in range(1000):
        if upstream.asked >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"asked {upstream.asked} times, not {count}")


async def asked_once(stage: Stage, route: Route | None = None, **demands):
    """One unary request from the decision on."""
    life = stage.life(route, **demands)
    return await stage.dispatch.generate(life, stage.deadline(), "t")


async def test_an_open_circuit_sends_requests_the_other_way_until_a_probe_answers(make):
    """The first request finds out, the next ones are decided by it, and after its time one request tries again."""
    stage = await make(flash=[busy(), busy()], circuit=EAGER)
    assert (await asked_once(stage)).fell_back
    assert state_of(stage, Route.FLASH) is State.OPEN
    prepared = stage.life().prepared
    assert (prepared.decision.route, prepared.decision.reason) == (Route.OPUS, Reason.OPEN_CIRCUIT)
    assert prepared.decision.fallback is None
    assert "circuit is open" in prepared.estimates[Route.FLASH].unavailable
    assert not (await asked_once(stage)).fell_back
    assert (stage.flash.asked, stage.opus.asked) == (2, 2)
    stage.rig.clock.advance(10.0)
    assert state_of(stage, Route.FLASH) is State.HALF_OPEN
    assert (await asked_once(stage, Route.FLASH)).route is Route.FLASH
    assert state_of(stage, Route.FLASH) is State.CLOSED


async def test_a_forced_route_that_is_held_back_is_refused_with_a_time(make):
    """Nothing is journalled or sent; the wait is the time to the next probe."""
    stage = await make(flash=[busy(), busy()], circuit=EAGER)
    await asked_once(stage)
    stage.rig.clock.advance(4.0)
    with pytest.raises(errors.CircuitOpen) as caught:
        stage.life(Route.FLASH)
    assert caught.value.retry_after_s == pytest.approx(6.0)
    assert stage.rig.ledger.stats().intents == 3


async def test_both_circuits_open_names_both_and_the_sooner_probe(make):
    """No route is left: the caller hears when the first of the two may be tried."""
    stage = await make(opus=[busy()] * 2, flash=[busy()] * 2, circuit=EAGER)
    with pytest.raises(errors.UpstreamOverloaded):
        await asked_once(stage)
    with pytest.raises(errors.CircuitOpen, match=r"anthropic .* and gemini|gemini .* and anthropic"):
        stage.life()


async def test_no_retry_is_waited_for_once_the_circuit_is_open(make):
    """The second failure opens it: with retries left the request goes the other way at once."""
    stage = await make(flash=[busy()] * 9, circuit=CircuitSettings(failures_in_a_row=1))
    assert (await asked_once(stage)).fell_back
    assert (stage.waits, stage.flash.asked) == ([], 1)


@pytest.mark.parametrize("fallback_allowed", [True, False])
async def test_a_circuit_that_opens_after_the_decision_holds_the_request_back(make, fallback_allowed: bool):
    """Decided, then others fail: the request takes the other route, or is refused; it is not sent into the trouble."""
    stage = await make(flash=[busy()] * 2, circuit=EAGER)
    late = stage.life(fallback_allowed=fallback_allowed)
    await asked_once(stage)
    asked_before = stage.flash.asked
    if fallback_allowed:
        answered = await stage.dispatch.generate(late, stage.deadline(), "t")
        assert (answered.route, answered.fell_back) == (Route.OPUS, True)
    else:
        with pytest.raises(errors.CircuitOpen):
            await stage.dispatch.generate(late, stage.deadline(), "t")
        assert late.attempts == []
    assert stage.flash.asked == asked_before


async def test_what_was_met_is_told_when_the_circuit_opens_under_a_retry(make):
    """The first try failed, then others opened the circuit while it waited: its own failure is the answer."""
    stage = await make(flash=[errors.UpstreamFailed("x", "mine"), busy(), busy()], circuit=EAGER)
    life = stage.life(fallback_allowed=False)
    circuits, clock = stage.rig.settler.circuits, stage.rig.clock

    async def sleep(seconds: float) -> None:
        for _ in range(2):
            permit = circuits.admit(Route.FLASH, clock.now())
            circuits.failed(Route.FLASH, permit, busy(), 0.1, clock.now())
            if state_of(stage, Route.FLASH) is State.OPEN:
                break

    stage.dispatch._sleep = sleep
    with pytest.raises(errors.UpstreamFailed, match="mine"):
        await stage.dispatch.generate(life, stage.deadline(), "t")
    assert len(await stage.closed(life)) == 1


async def test_a_caller_that_leaves_gives_its_probe_back(make):
    """Cancelled probes say nothing: the next request may probe."""
    stage = await make(flash=[busy(), busy()], circuit=EAGER)
    await asked_once(stage)
    stage.rig.clock.advance(10.0)
    stage.flash.holding = {3}
    async with asyncio.TaskGroup() as group:
        probe = group.create_task(asked_once(stage, Route.FLASH))
        await until_asked(stage.flash, 3)
        with pytest.raises(errors.CircuitOpen):
            stage.life(Route.FLASH)  # its place is taken
        probe.cancel()
    assert (await asked_once(stage, Route.FLASH)).route is Route.FLASH
    assert state_of(stage, Route.FLASH) is State.CLOSED


async def test_a_ledger_that_refuses_gives_the_probe_back(make):
    """The permit is asked before the intent is journalled; without an intent there is no attempt."""
    stage = await make(flash=[busy(), busy()], circuit=EAGER)
    await asked_once(stage)
    stage.rig.clock.advance(10.0)
    life = stage.life(Route.FLASH)
    await stage.rig.ledger.close()
    for _ in range(3):
        with pytest.raises(errors.LedgerUnavailable):
            await stage.dispatch.generate(life, stage.deadline(), "t")


HEDGED = Hedging(after_s=0.5, routes=frozenset({Route.FLASH}))


async def test_a_slow_call_is_asked_once_more_and_the_first_answer_is_taken(make):
    """Two attempts, both on the bill: the winner with its cost, the one that was cancelled as unknown."""
    stage = await make(hedging=HEDGED)
    stage.flash.holding = {1}
    life = stage.life()
    answered = await stage.dispatch.generate(life, stage.deadline(), "t")
    assert [(report.number, report.outcome) for report in answered.bill.attempts] == [
        (1, "CANCELLED"),
        (2, "ok"),
    ]
    assert answered.bill.usage == USAGE
    assert answered.bill.total_nano_usd is None, "nobody knows whether the loser is billed"
    first, second = sorted(await stage.closed_in_any_order(life), key=lambda each: each.intent.attempt)
    assert (first.outcome, first.cost) == (Outcome.CANCELLED, None)
    assert first.intent.cost_bound_nano_usd > 0
    assert second.outcome is Outcome.OK
    assert stage.waits == [0.5]


async def test_the_first_call_may_still_win(make):
    """The second is cancelled and booked."""
    stage = await make(hedging=HEDGED)
    stage.flash.holding = {1, 2}
    life = stage.life()
    async with asyncio.TaskGroup() as group:
        work = group.create_task(stage.dispatch.generate(life, stage.deadline(), "t"))
        await until_asked(stage.flash, 2)
        stage.flash.holding = set()
        stage.flash.let_go.set()
    assert work.result().reply.parts
    outcomes = {each.outcome for each in await stage.closed_in_any_order(life)}
    assert Outcome.OK in outcomes
    assert len(life.attempts) == 2


@pytest.mark.parametrize(
    ("route", "hedging"),
    [(Route.OPUS, HEDGED), (Route.FLASH, Hedging()), (Route.FLASH, Hedging(after_s=0.5))],
)
async def test_only_what_the_operator_named_is_hedged(make, route: Route, hedging: Hedging):
    """Off by default, and per route."""
    stage = await make(hedging=hedging)
    life = stage.life(route)
    await stage.dispatch.generate(life, stage.deadline(), "t")
    assert (len(life.attempts), stage.waits) == (1, [])


async def test_streams_are_not_hedged(make):
    """A stream that began cannot be exchanged."""
    stage = await make(hedging=HEDGED)
    life = stage.life(Route.FLASH)
    await stage.stream(life)
    assert (len(life.attempts), stage.waits) == (1, [])


async def test_both_failing_is_one_failure_with_its_retry_spent(make):
    """The second call was the further try: what follows is the other route."""
    stage = await make(flash=[busy(), busy()], hedging=HEDGED)
    stage.flash.holding = {1, 2}
    life = stage.life()
    async with asyncio.TaskGroup() as group:
        work = group.create_task(stage.dispatch.generate(life, stage.deadline(), "t"))
        await until_asked(stage.flash, 2)
        stage.flash.let_go.set()
    assert work.result().fell_back
    assert stage.waits == [0.5], "no third try on the same route"
    settlements = await stage.closed_in_any_order(life)
    assert sorted(each.intent.route for each in settlements) == ["flash", "flash", "opus"]


async def test_a_quick_failure_is_not_hedged(make):
    """It is retried as ever."""
    stage = await make(flash=[busy()], hedging=HEDGED)
    stage.dispatch._sleep = lambda seconds: asyncio.Event().wait() if seconds == 0.5 else asyncio.sleep(0)
    life = stage.life()
    await stage.dispatch.generate(life, stage.deadline(), "t")
    assert [each.outcome for each in await stage.closed(life)] == [Outcome.REFUSED, Outcome.OK]


async def test_a_caller_may_leave_a_hedged_call_at_every_await(make):
    """Both attempts are closed once, whatever turn it was."""
    turn, finished = 1, False
    while not finished:
        stage = await make(hedging=HEDGED)
        stage.flash.holding = {1}
        life = stage.life()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stage.dispatch.generate(life, stage.deadline(), "t"))
            for _ in range(turn):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
        for each in await stage.closed_in_any_order(life):
            assert each.outcome in (Outcome.CANCELLED, Outcome.OK)
        turn += 1
        assert turn < 60
    assert turn > 5
