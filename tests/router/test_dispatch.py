"""One request's life, with scripted providers: whatever happens at whatever await, each attempt is closed once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from classifier.route import Route
from router import errors
from router.app import sandbox_upstreams
from router.attempts import RetryLimits
from router.call import FinishReason, Text
from router.config import Config
from router.deadline import Deadline
from router.dispatch import Decided, Dispatch, Life
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
    """

    def __init__(self, real, script: list[errors.UpstreamError | None]) -> None:
        self.name, self.model = real.name, real.model
        self.provider_name, self.operation = real.provider_name, real.operation
        self.server_address, self.server_port = real.server_address, real.server_port
        self.render, self.close = real.render, real.close
        self.script = script
        self.asked = self.left_open = 0
        self.break_after: int | None = None

    def _next(self) -> None:
        self.asked += 1
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error

    async def generate(self, rendered, plan, timeout_s: float) -> Reply:
        await asyncio.sleep(0)
        self._next()
        await asyncio.sleep(0)
        return self._reply()

    async def stream(self, rendered, plan, timeout_s: float) -> AsyncIterator[Chunk]:
        await asyncio.sleep(0)
        self._next()
        self.left_open += 1
        try:
            for index, chunk in enumerate(STEPS):
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
            parts=(Text("one two three"),),
            finish_reason=FinishReason.END_TURN,
            usage=USAGE,
            model=self.model,
            response_id="id",
        )


class Stage:
    """A dispatch over scripted providers; waits are noted, not waited."""

    def __init__(self, rig: Rig, opus: Scripted, flash: Scripted) -> None:
        self.rig, self.opus, self.flash = rig, opus, flash
        self.waits: list[float] = []
        self.events: list = []
        self.dispatch = Dispatch(
            preparation=rig.preparation,
            settler=rig.settler,
            limits=RetryLimits(retry_limit=1, wait_limit_s=2.0),
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
        """All settlements, once background counting is done; each opened attempt must have exactly one."""
        await self.rig.tasks.drain(5.0)
        settlements = await self.rig.settlements()
        assert [each.intent.attempt for each in settlements] == [
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

    async def build(opus=(), flash=()) -> Stage:
        real = sandbox_upstreams(Config(), Sandbox())
        scripted = {
            Route.OPUS: Scripted(real[Route.OPUS], list(opus)),
            Route.FLASH: Scripted(real[Route.FLASH], list(flash)),
        }
        context = rigged(upstreams=scripted)
        rig = await context.__aenter__()
        opened.append(context)
        return Stage(rig, scripted[Route.OPUS], scripted[Route.FLASH])

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
