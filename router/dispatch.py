"""One request's life: prepare, attempt, fall back if allowed, settle, answer.

The rule: control flow only. What to do is decided by pure functions (`preparation`, `attempts`), what it used and
cost is the settler's; this module awaits. Every attempt that was opened is closed before control leaves it, whether
it answered, failed, or the caller went away; of two that were made at once, the one that lost too.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import cast

import msgspec

from classifier.route import Route
from router.attempts import USEFUL_TIME_S, Next, RetryLimits, Step, after_failure
from router.deadline import Deadline
from router.errors import CircuitOpen, InvalidRequest, LedgerUnavailable, NotSupported, UpstreamError
from router.hedge import Hedging, first_answer
from router.held_session import Held
from router.outcome import Answered, AttemptReport, Bill
from router.preparation import Preparation, Prepared
from router.reply import Chunk, Finished, Reply, Started, UsageSeen
from router.request import Request
from router.settlement import Settlement
from router.settler import Attempt, Settler


class Decided(msgspec.Struct, frozen=True):
    """A route was chosen; the first event of a stream, and again when a fallback is taken."""

    prepared: Prepared
    route: Route
    fell_back: bool


Event = Decided | Chunk | Answered
Emit = Callable[[Event], Awaitable[None]]


class Life:
    """One request in progress; what its interceptors and service need afterwards."""

    __slots__ = ("attempts", "prepared", "route")

    def __init__(self, prepared: Prepared) -> None:
        """Begin with the decision."""
        self.prepared = prepared
        self.route = prepared.decision.route
        self.attempts: list[Attempt] = []

    @property
    def settlements(self) -> tuple[Settlement, ...]:
        """Settlements of the attempts that are closed, oldest first."""
        return tuple(attempt.settlement for attempt in self.attempts if attempt.settlement is not None)

    @property
    def fell_back(self) -> bool:
        """Whether another route than the decided one is being taken."""
        return self.route is not self.prepared.decision.route


class Dispatch:
    """Carries requests out."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        settler: Settler,
        limits: RetryLimits,
        hedging: Hedging = Hedging(),  # noqa: B008 (frozen)
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep references; `draw` gives a number in [0, 1) for jitter."""
        self._preparation = preparation
        self._settler = settler
        self._limits = limits
        self._hedging = hedging
        self._draw = draw
        self._sleep = sleep

    def prepare(self, request: Request, held: Held | None = None) -> Prepared:
        """Decide without calling; what `generate` and `stream` would do now.

        Args:
            held: As for `Preparation.prepare`.

        Raises:
            RouterError: As `Preparation.prepare`.
        """
        return self._preparation.prepare(request, self._settler.clock.now(), held)

    async def generate(self, life: Life, deadline: Deadline, trace_id: str) -> Answered:
        """Get the whole answer.

        Raises:
            UpstreamError: The last attempt's, when every allowed attempt failed.
            CircuitOpen, LedgerUnavailable: Nothing was sent.
        """

        async def once(attempt: Attempt, timeout_s: float) -> Reply:
            rendered = self._preparation.rendered_for(life.prepared, life.route)
            upstream = self._settler.upstreams[life.route]
            return await upstream.generate(rendered, life.prepared.plan_for(life.route), timeout_s)

        return await self._until_answered(life, deadline, trace_id, once, stream=False)

    async def stream(self, life: Life, deadline: Deadline, trace_id: str, emit: Emit) -> None:
        """Get the answer in chunks, each handed to `emit` before the next is read; the last event is Answered.

        Raises:
            UpstreamError, CircuitOpen, LedgerUnavailable: As `generate`; after content was emitted only
                UpstreamInterrupted.
        """

        async def once(attempt: Attempt, timeout_s: float) -> Reply:
            return await self._relay(life, attempt, timeout_s, emit)

        await emit(Decided(life.prepared, life.route, False))
        answered = await self._until_answered(
            life,
            deadline,
            trace_id,
            once,
            stream=True,
            on_fallback=lambda: emit(Decided(life.prepared, life.route, True)),
        )
        await emit(answered)

    async def _relay(self, life: Life, attempt: Attempt, timeout_s: float, emit: Emit) -> Reply:
        rendered = self._preparation.rendered_for(life.prepared, life.route)
        upstream = self._settler.upstreams[life.route]
        chunks = upstream.stream(rendered, life.prepared.plan_for(life.route), timeout_s)
        reply: Reply | None = None
        # Closing the generator closes the provider's connection at once, however this is left.
        async with aclosing(cast("AsyncGenerator[Chunk, None]", chunks)) as source:
            async for chunk in source:
                attempt.see(chunk)
                match chunk:
                    case Started() | UsageSeen():
                        pass
                    case Finished(whole):
                        reply = whole
                    case _:
                        attempt.answer_begun = True
                        attempt.handing_on = True
                        await emit(chunk)
                        attempt.handing_on = False
        assert reply is not None, "an upstream's stream ends with Finished or raises"
        return reply

    async def _until_answered(
        self,
        life: Life,
        deadline: Deadline,
        trace_id: str,
        once: Callable[[Attempt, float], Awaitable[Reply]],
        *,
        stream: bool,
        on_fallback: Callable[[], Awaitable[None]] | None = None,
    ) -> Answered:
        loop = asyncio.get_running_loop()
        started_s = perf_counter()
        tries_on_route = 0
        fallback = life.prepared.decision.fallback
        failure: UpstreamError | None = None
        while True:
            deadline.require(loop.time())
            tries_on_route += 1
            try:
                if stream or tries_on_route > 1 or not self._hedging.on(life.route):
                    ended = await self._attempt(life, deadline, trace_id, once, stream=stream)
                else:
                    ended = await self._hedged(life, deadline, trace_id, once)
            except CircuitOpen:
                # Held back since the decision, by what others met: nothing was sent.
                if fallback is None or not self._can_render(life.prepared, fallback):
                    if failure is not None:
                        raise failure from None  # what was met says more, and whether it may be billed
                    raise
                step = Step(Next.OTHER_ROUTE, 0.0, "held back")
            except UpstreamError as error:
                failure = error
                # A hedge was a further try.
                tries_on_route = sum(each.intent.route == life.route.value for each in life.attempts)
                step = self._step(life, error, tries_on_route, fallback, deadline.remaining_s(loop.time()))
                if step.next is Next.GIVE_UP:
                    raise
            else:
                return _answered(life, ended, perf_counter() - started_s)
            if step.next is Next.OTHER_ROUTE:
                assert fallback is not None
                life.route, fallback, tries_on_route = fallback, None, 0
                if on_fallback is not None:
                    await on_fallback()
            elif step.wait_s > 0:
                await self._sleep(step.wait_s)

    async def _attempt(
        self,
        life: Life,
        deadline: Deadline,
        trace_id: str,
        once: Callable[[Attempt, float], Awaitable[Reply]],
        *,
        stream: bool,
    ) -> "_Ended":
        """Make one attempt on the life's route and close it, however it ends."""
        attempt = self._open(life, trace_id, stream=stream)
        return await self._closed(attempt, once, deadline)

    def _open(self, life: Life, trace_id: str, *, stream: bool) -> Attempt:
        attempt = self._settler.open(
            life.prepared,
            life.route,
            number=len(life.attempts) + 1,
            stream=stream,
            trace_id=trace_id,
            fell_back=life.fell_back,
        )
        life.attempts.append(attempt)
        return attempt

    async def _closed(
        self, attempt: Attempt, once: Callable[[Attempt, float], Awaitable[Reply]], deadline: Deadline
    ) -> "_Ended":
        try:
            reply = await once(attempt, deadline.remaining_s(asyncio.get_running_loop().time()))
        except UpstreamError as error:
            attempt.failed(error)
            raise
        except BaseException as error:
            # Cancelled, or a bug: either way the provider may have been asked, so the attempt is settled.
            attempt.left(error)
            raise
        return _Ended(attempt, reply, attempt.answered(reply))

    async def _hedged(
        self,
        life: Life,
        deadline: Deadline,
        trace_id: str,
        once: Callable[[Attempt, float], Awaitable[Reply]],
    ) -> "_Ended":
        """Make an attempt, and one more when it is slow; each is booked, the first answer is taken."""

        def second() -> Awaitable[_Ended] | None:
            if deadline.remaining_s(asyncio.get_running_loop().time()) < USEFUL_TIME_S:
                return None
            try:
                attempt = self._open(life, trace_id, stream=False)
            except (CircuitOpen, LedgerUnavailable):
                return None  # the first may still answer
            return self._closed(attempt, once, deadline)

        attempt = self._open(life, trace_id, stream=False)
        return await first_answer(
            lambda: self._closed(attempt, once, deadline),
            second,
            after=lambda: self._sleep(self._hedging.after_s),
        )

    def _can_render(self, prepared: Prepared, route: Route) -> bool:
        """Whether the fallback's adapter can spell the request at all."""
        try:
            self._preparation.rendered_for(prepared, route)
        except (InvalidRequest, NotSupported):
            return False
        return True

    def _step(
        self,
        life: Life,
        error: UpstreamError,
        tries_on_route: int,
        fallback: Route | None,
        remaining_s: float,
    ) -> Step:
        """Choose what follows; the other route only if it can be asked at all, else the first failure is the answer."""
        circuits, now_s = self._settler.circuits, self._settler.clock.now()
        if fallback is not None and (
            circuits.held_for_s(fallback, now_s) is not None or not self._can_render(life.prepared, fallback)
        ):
            fallback = None
        return after_failure(
            error,
            tries_on_route=tries_on_route,
            fallback=fallback,
            held_back=circuits.held_for_s(life.route, now_s) is not None,
            answer_begun=life.attempts[-1].answer_begun,
            remaining_s=remaining_s,
            jitter=self._draw(),
            limits=self._limits,
        )


class _Ended(msgspec.Struct, frozen=True, gc=False):
    """An attempt that answered, closed."""

    attempt: Attempt
    reply: Reply
    settlement: Settlement


def _answered(life: Life, ended: _Ended, duration_s: float) -> Answered:
    reports = tuple(_report(each) for each in life.attempts)
    costs = [report.cost_nano_usd for report in reports]
    settlement = ended.settlement
    return Answered(
        reply=ended.reply,
        route=life.route,
        fell_back=life.fell_back,
        bill=Bill(
            usage=settlement.usage,
            cost=settlement.cost,
            priced_model=settlement.answered_model,
            counterfactuals=settlement.counterfactuals,
            attempts=reports,
            total_nano_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
            first_byte_s=settlement.first_byte_s,
            duration_s=duration_s,
            plan=life.prepared.plan_for(life.route),
            misses=ended.attempt.misses,
            padding_tokens=0 if settlement.cache is None else settlement.cache.padding_tokens,
            padding_nano_usd=0 if settlement.cache is None else settlement.cache.padding_nano_usd,
        ),
    )


def _report(attempt: Attempt) -> AttemptReport:
    settlement = attempt.settlement
    route = Route(attempt.intent.route)
    if settlement is None:  # its tokens are still being counted
        return AttemptReport(
            number=attempt.intent.attempt,
            route=route,
            model=attempt.intent.model,
            outcome="interrupted",
            duration_s=0.0,
            cost_nano_usd=None,
        )
    return AttemptReport(
        number=attempt.intent.attempt,
        route=route,
        model=settlement.answered_model or attempt.intent.model,
        outcome=settlement.error or settlement.outcome.value,
        duration_s=settlement.duration_s,
        cost_nano_usd=None if settlement.cost is None else settlement.cost.total_nano_usd,
    )
