"""One request's life: prepare, attempt, fall back if allowed, settle, answer.

The rule: control flow only. What to do is decided by pure functions (`preparation`, `attempts`), what it used and
cost is the settler's; this module awaits. Every attempt that was opened is closed before control leaves it, whether
it answered, failed, or the caller went away.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import cast

import msgspec

from classifier.route import Route
from router.attempts import Next, RetryLimits, Step, after_failure
from router.deadline import Deadline
from router.errors import InvalidRequest, NotSupported, UpstreamError
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
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep references; `draw` gives a number in [0, 1) for jitter."""
        self._preparation = preparation
        self._settler = settler
        self._limits = limits
        self._draw = draw
        self._sleep = sleep

    def prepare(self, request: Request) -> Prepared:
        """Decide without calling; what `generate` and `stream` would do now.

        Raises:
            RouterError: As `Preparation.prepare`.
        """
        return self._preparation.prepare(request, self._settler.clock.now())

    async def generate(self, life: Life, deadline: Deadline, trace_id: str) -> Answered:
        """Get the whole answer.

        Raises:
            UpstreamError: The last attempt's, when every allowed attempt failed.
            LedgerUnavailable: Nothing was sent.
        """

        async def once(attempt: Attempt, timeout_s: float) -> Reply:
            rendered = self._preparation.rendered_for(life.prepared, life.route)
            upstream = self._settler.upstreams[life.route]
            return await upstream.generate(rendered, life.prepared.plan_for(life.route), timeout_s)

        return await self._until_answered(life, deadline, trace_id, once, stream=False)

    async def stream(self, life: Life, deadline: Deadline, trace_id: str, emit: Emit) -> None:
        """Get the answer in chunks, each handed to `emit` before the next is read; the last event is Answered.

        Raises:
            UpstreamError, LedgerUnavailable: As `generate`; after content was emitted only UpstreamInterrupted.
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
        while True:
            timeout_s = deadline.require(loop.time())
            tries_on_route += 1
            attempt = self._settler.open(
                life.prepared,
                life.route,
                number=len(life.attempts) + 1,
                stream=stream,
                trace_id=trace_id,
                fell_back=life.fell_back,
            )
            life.attempts.append(attempt)
            try:
                reply = await once(attempt, timeout_s)
            except UpstreamError as error:
                attempt.failed(error)
                step = self._step(error, attempt, tries_on_route, fallback, deadline.remaining_s(loop.time()))
                if step.next is Next.GIVE_UP:
                    raise
                if step.next is Next.OTHER_ROUTE:
                    assert fallback is not None
                    if not self._can_render(life.prepared, fallback):
                        raise
                    life.route, fallback, tries_on_route = fallback, None, 0
                    if on_fallback is not None:
                        await on_fallback()
                elif step.wait_s > 0:
                    await self._sleep(step.wait_s)
            except BaseException as error:
                # Cancelled, or a bug: either way the provider may have been asked, so the attempt is settled.
                attempt.left(error)
                raise
            else:
                settlement = attempt.answered(reply)
                return _answered(life, reply, settlement, perf_counter() - started_s, attempt)

    def _can_render(self, prepared: Prepared, route: Route) -> bool:
        """Whether the fallback's adapter can spell the request at all; if not, the first failure is the answer."""
        try:
            self._preparation.rendered_for(prepared, route)
        except (InvalidRequest, NotSupported):
            return False
        return True

    def _step(
        self,
        error: UpstreamError,
        attempt: Attempt,
        tries_on_route: int,
        fallback: Route | None,
        remaining_s: float,
    ) -> Step:
        return after_failure(
            error,
            tries_on_route=tries_on_route,
            fallback=fallback,
            answer_begun=attempt.answer_begun,
            remaining_s=remaining_s,
            jitter=self._draw(),
            limits=self._limits,
        )


def _answered(
    life: Life, reply: Reply, settlement: Settlement, duration_s: float, attempt: Attempt
) -> Answered:
    reports = tuple(_report(each) for each in life.attempts)
    costs = [report.cost_nano_usd for report in reports]
    return Answered(
        reply=reply,
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
            misses=attempt.misses,
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
