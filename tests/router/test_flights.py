"""The shell of single flight around real dispatch: whoever is cancelled, wherever, nothing stays in flight."""

import asyncio
from collections.abc import Callable
from time import perf_counter

import pytest

from cache.flight import FlightBook
from classifier.route import Route
from router import errors
from router.attempts import RetryLimits
from router.deadline import Deadline
from router.dispatch import Dispatch, Life
from router.flights import Flights, FlightSettings
from router.upstreams.base import Upstream
from tests.router.rig import Rig, asked, rigged, said
from tests.router.test_dispatch import Scripted

SYSTEM = ("Answer from the records you are shown and name the record for every figure you give.\n" * 120,)


class ManualTimer:
    """Spans that end when the test says so."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def now(self) -> float:
        return self.at_s

    def later(self, delay_s: float, call: Callable[[], None]) -> "ManualTimer.Entry":
        entry = (self.at_s + delay_s, call)
        self.due.append(entry)
        return self.Entry(self, entry)

    class Entry:
        def __init__(self, timer: "ManualTimer", entry: tuple[float, Callable[[], None]]) -> None:
            self.timer, self.entry = timer, entry

        def cancel(self) -> None:
            if self.entry in self.timer.due:
                self.timer.due.remove(self.entry)

    def advance(self, seconds: float) -> None:
        self.at_s += seconds
        for entry in sorted(self.due, key=lambda each: each[0]):
            if entry[0] <= self.at_s and entry in self.due:
                self.due.remove(entry)
                entry[1]()


class Hangar:
    """A dispatch with flights over a scripted Opus."""

    def __init__(self, rig: Rig, opus: Scripted, settings: FlightSettings) -> None:
        self.rig, self.opus = rig, opus
        self.timer, self.book = ManualTimer(), FlightBook()
        self.told: list[tuple[str, float]] = []
        self.flights = Flights(
            self.book,
            settings,
            beliefs=rig.beliefs,
            prices=rig.settler.prices,
            clock=rig.clock,
            timer=self.timer,
        )
        self.flights.watch.record_flight = lambda outcome, waited_s: self.told.append((outcome, waited_s))
        self.dispatch = Dispatch(
            preparation=rig.preparation,
            settler=rig.settler,
            limits=RetryLimits(retry_limit=0, wait_limit_s=2.0),
            flights=self.flights,
            draw=lambda: 0.0,
        )

    def start(self, number: int, *, seconds: float = 60.0) -> tuple[Life, asyncio.Task]:
        """Begin a unary request over the shared system prompt."""
        request = asked(
            said(f"Question {number}?"),
            route=Route.OPUS,
            request_id=f"r-{number}",
            system=SYSTEM,
            fallback_allowed=False,
        )
        life = Life(self.dispatch.prepare(request))
        deadline = Deadline(at_s=asyncio.get_running_loop().time() + seconds)
        return life, asyncio.get_running_loop().create_task(self.dispatch.generate(life, deadline, "t"))


class Held(Scripted):
    """An Opus whose streams do not begin before they are let go."""

    async def stream(self, rendered, plan, timeout_s: float, *, waits: bool = False):
        await self.let_go.wait()
        async for chunk in super().stream(rendered, plan, timeout_s):
            yield chunk


async def turns(count: int) -> None:
    """Let others run."""
    for _ in range(count):
        await asyncio.sleep(0)


def upstreams_of(kind: type[Scripted], script: list) -> Callable[[], dict[Route, Upstream]]:
    from router.app import sandbox_upstreams
    from router.config import Config
    from router.sandbox import Sandbox

    real = sandbox_upstreams(Config(), Sandbox())
    return {Route.OPUS: kind(real[Route.OPUS], script), Route.FLASH: Scripted(real[Route.FLASH], [])}


async def run(kind: type[Scripted], script: list, act, settings: FlightSettings | None = None) -> None:
    """Give `act` a hangar; afterwards nothing is in flight and no timer is left."""
    upstreams = upstreams_of(kind, script)
    async with rigged(upstreams=upstreams) as rig:
        hangar = Hangar(rig, upstreams[Route.OPUS], settings or FlightSettings())
        await act(hangar)
        assert len(hangar.book) == 0
        assert hangar.timer.due == []


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("steps", range(24))
async def test_cancelled_at_any_await_nothing_stays_in_flight(victim: int, steps: int) -> None:
    """Lead or follower, before, while or after it waits: the others are answered, one wrote."""

    async def act(hangar: Hangar) -> None:
        started = [hangar.start(number) for number in range(3)]
        await turns(2)
        hangar.opus.let_go.set()
        await turns(steps)
        started[victim][1].cancel()
        results = await asyncio.wait_for(
            asyncio.gather(*(task for _, task in started), return_exceptions=True), 10
        )
        others = [result for number, result in enumerate(results) if number != victim]
        assert not any(isinstance(result, BaseException) for result in others)

    await run(Held, [], act)


async def test_every_lead_refused_each_is_promoted_in_turn() -> None:
    """Three refusals: the second and third are promoted one after the other, the fourth answers the rest."""
    refusals = [errors.UpstreamOverloaded("anthropic", "overloaded") for _ in range(3)]

    async def act(hangar: Hangar) -> None:
        started = [hangar.start(number) for number in range(5)]
        await turns(2)
        hangar.opus.let_go.set()
        results = await asyncio.wait_for(
            asyncio.gather(*(task for _, task in started), return_exceptions=True), 10
        )
        refused = [isinstance(result, errors.UpstreamOverloaded) for result in results]
        assert refused == [True, True, True, False, False]
        assert [outcome for outcome, _ in hangar.told] == ["promoted", "promoted", "promoted", "landed"]

    await run(Held, refusals, act)


async def test_wait_is_bounded_by_the_limit_and_ends_without_the_mark() -> None:
    """A lead that does not begin, and one follower that took over and does not either: the third gives up at 3 s."""

    async def act(hangar: Hangar) -> None:
        started = [hangar.start(number) for number in range(3)]
        await turns(4)
        for _ in range(40):
            hangar.timer.advance(0.1)
            await turns(6)
        assert [outcome for outcome, _ in hangar.told] == ["promoted", "gave_up"]
        assert hangar.told[1][1] == pytest.approx(3.0, abs=0.11)
        life = started[2][0]
        assert life.prepared.plan_for(Route.OPUS).breakpoints == ()
        skipped = life.prepared.plan_for(Route.OPUS).skipped
        assert any("another request is writing" in left.reason for left in skipped)
        hangar.opus.let_go.set()
        answers = await asyncio.gather(*(task for _, task in started))
        assert answers[2].bill.flight_wait_s == pytest.approx(3.0, abs=0.11)

    await run(Held, [], act, FlightSettings(second_usd=0.0))


async def test_wait_not_worth_it_is_not_begun() -> None:
    """A dear second: the follower goes at once, without the mark."""

    async def act(hangar: Hangar) -> None:
        started = [hangar.start(number) for number in range(2)]
        await turns(6)
        assert hangar.told == [("gave_up", 0.0)]
        hangar.opus.let_go.set()
        await asyncio.gather(*(task for _, task in started))

    await run(Held, [], act, FlightSettings(second_usd=10.0))


async def test_boarding_costs_microseconds() -> None:
    """Guards the figures in the README, loosely: machines differ by a factor of ten."""

    async def act(hangar: Hangar) -> None:
        hangar.opus.let_go.set()
        life, task = hangar.start(0)
        await task
        view, now_s = life.prepared.views[Route.OPUS], hangar.rig.clock.now()

        def spent_us() -> float:
            started = perf_counter()
            for _ in range(1000):
                flight = hangar.flights.board(life.prepared, Route.OPUS, stream=True)
                if flight is not None:
                    flight.close()
            return (perf_counter() - started) * 1e3

        cold_us = spent_us()
        hangar.rig.beliefs.begin(view, now_s)
        hangar.rig.beliefs.first_byte(view, now_s, now_s)
        assert hangar.flights.board(life.prepared, Route.OPUS, stream=True) is None
        warm_us = spent_us()
        print(f"board: {warm_us:.2f} us with nothing cold, {cold_us:.2f} us alone on a cold prefix")
        assert warm_us < 50
        assert cold_us < 200

    await run(Scripted, [], act)
