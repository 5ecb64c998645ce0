"""One request's life: prepare, attempt, fall back or escalate if allowed, settle, answer.

The rule: control flow only. What to do is decided by pure functions (`preparation`, `attempts`), what it used and
cost is the settler's; this module awaits. Every attempt that was opened is closed before control leaves it, whether
it answered, failed, or the caller went away; of two that were made at once, the one that lost too.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from time import perf_counter
from typing import cast

import msgspec

from classifier.route import Route
from router.attempts import USEFUL_TIME_S, Next, RetryLimits, Step, after_failure, timeout_s
from router.deadline import Deadline
from router.errors import (
    CircuitOpen,
    DeadlineTooShort,
    InvalidRequest,
    LedgerUnavailable,
    NotSupported,
    UpstreamError,
    UpstreamInterrupted,
)
from router.escalation import Cascade, Cascades, Circumstances, Failure, Signal, objection, signal_of
from router.flights import Flight, Flights
from router.hedge import Hedging, first_answer
from router.held_session import Held
from router.outcome import Answered, AttemptReport, Bill
from router.patience import whole_answer_s
from router.preparation import Preparation, Prepared
from router.reply import Chunk, Finished, Reply, Started, UsageSeen
from router.request import Request
from router.settlement import DecisionRecord, Settlement
from router.settler import Attempt, Settler, decision_record
from router.stack import stack_of

logger = logging.getLogger(__name__)
_ROUTES = {str(route): route for route in Route}


class Decided(msgspec.Struct, frozen=True):
    """A route was chosen; the first event of a stream, and again whenever another is taken."""

    prepared: Prepared
    route: Route
    fell_back: bool
    escalated: bool = False


Event = Decided | Chunk | Answered
Emit = Callable[[Event], Awaitable[None]]


class Life:
    """One request in progress; what its interceptors and service need afterwards.

    Attributes:
        flight_wait_s: Time waited for other requests that were writing the same cold prefix.
    """

    __slots__ = ("attempts", "escalated", "flight_wait_s", "prepared", "route")

    def __init__(self, prepared: Prepared) -> None:
        """Begin with the decision."""
        self.prepared = prepared
        self.route = prepared.decision.route
        self.escalated = False
        """Whether Opus is being asked because Flash's answer failed."""
        self.attempts: list[Attempt] = []
        self.flight_wait_s = 0.0

    @property
    def settlements(self) -> tuple[Settlement, ...]:
        """Settlements of the attempts that are closed, oldest first."""
        return tuple([attempt.settlement for attempt in self.attempts if attempt.settlement is not None])

    @property
    def fell_back(self) -> bool:
        """Whether another route than the decided one is being taken because that failed to answer."""
        return self.route is not self.prepared.decision.route and not self.escalated

    def decision_record(self) -> DecisionRecord:
        """The decision as it stands now; the last attempt's own where it was made on this route."""
        settlement = self.attempts[-1].settlement if self.attempts else None
        if settlement is not None and settlement.decision is not None:
            record, route = settlement.decision, str(self.route)
            if record.route == route:
                return record
        return decision_record(self.prepared, self.route, fell_back=self.fell_back, escalated=self.escalated)

    def decided(self) -> Decided:
        """The route being taken, as an event."""
        return Decided(self.prepared, self.route, self.fell_back, self.escalated)


class Dispatch:
    """Carries requests out."""

    def __init__(
        self,
        *,
        preparation: Preparation,
        settler: Settler,
        limits: RetryLimits,
        hedging: Hedging = Hedging(),  # noqa: B008 (frozen)
        cascades: Cascades = Cascades(),  # noqa: B008 (frozen)
        flights: Flights | None = None,
        answered: Callable[[Prepared, Settlement, Reply], None] | None = None,
        draw: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep references; `draw` gives a number in [0, 1) for jitter. Without `flights` nobody waits for another;
        `answered` is told of every request that was answered, and how.
        """
        self._preparation = preparation
        self._settler = settler
        self._limits = limits
        self._hedging = hedging
        self._cascades = cascades
        self._flights = flights
        self._tell_answered = answered
        self._draw = draw
        self._sleep = sleep

    def prepare(
        self, request: Request, held: Held | None = None, *, draw: bool = True, embedding: bytes = b""
    ) -> Prepared:
        """Decide without calling; what `generate` and `stream` would do now.

        Args:
            held: As for `Preparation.prepare`, and `draw` and `embedding`.

        Raises:
            RouterError: As `Preparation.prepare`.
        """
        return self._preparation.prepare(
            request, self._settler.clock.now(), held, draw=draw, embedding=embedding
        )

    def cascade_of(self, prepared: Prepared) -> Cascade:
        """For which failures of Flash's answer Opus would be asked."""
        return self._cascades.of(prepared.request.call.identity.application)

    async def generate(self, life: Life, deadline: Deadline, trace_id: str) -> Answered:
        """Get the whole answer.

        Raises:
            UpstreamError: The last attempt's, when every allowed attempt failed.
            CircuitOpen, LedgerUnavailable: Nothing was sent.
        """

        async def once(attempt: Attempt, timeout_s: float) -> Reply:
            if attempt.intent.stream:  # others wait for its first byte
                try:
                    return await self._relay(life, attempt, timeout_s, None)
                except UpstreamInterrupted as error:
                    raise _as_unary(error) from error
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

        await emit(life.decided())
        answered = await self._until_answered(
            life, deadline, trace_id, once, stream=True, on_turn=lambda: emit(life.decided())
        )
        await emit(answered)

    async def _relay(self, life: Life, attempt: Attempt, timeout_s: float, emit: Emit | None) -> Reply:
        rendered = self._preparation.rendered_for(life.prepared, life.route)
        upstream = self._settler.upstreams[life.route]
        # Whoever asked for the whole answer has not said how long it may be silent, so a stream made of it may be, too.
        chunks = upstream.stream(rendered, life.prepared.plan_for(life.route), timeout_s, waits=emit is None)
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
                    case _ if emit is None:
                        pass
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
        on_turn: Callable[[], Awaitable[None]] | None = None,
    ) -> Answered:
        """Get an answer from the route decided or its fallback and, where it shows a failure, from Opus.

        Args:
            on_turn: Hears of every change of route before it is taken.
        """
        started_s = perf_counter()
        ended = await self._on_routes(
            life, deadline, trace_id, once, life.prepared.decision.fallback, stream=stream, on_turn=on_turn
        )
        if ended.discarded is not None:

            async def on_routes(fallback: Route | None) -> _Ended:
                return await self._on_routes(
                    life, deadline, trace_id, once, fallback, stream=stream, on_turn=on_turn
                )

            ended = await self._escalated(life, ended, ended.discarded, on_routes, on_turn)
        return _answered(life, ended, perf_counter() - started_s)

    async def _escalated(
        self,
        life: Life,
        first: "_Ended",
        signal: Signal,
        on_routes: Callable[[Route | None], Awaitable["_Ended"]],
        on_turn: Callable[[], Awaitable[None]] | None,
    ) -> "_Ended":
        """Ask Opus in the place of a failed answer; when it cannot answer, that one is handed on after all."""
        result = "left"
        try:
            life.route, life.escalated = Route.OPUS, True
            if on_turn is not None:
                await on_turn()
            try:
                ended = await on_routes(None)
            except (UpstreamError, CircuitOpen, LedgerUnavailable, DeadlineTooShort):
                result = "failed"
                if life.attempts[-1].answer_begun:
                    raise  # the caller holds the beginning of another answer
                life.route, life.escalated = Route.FLASH, False
                first.attempt.keep()
                if on_turn is not None:
                    await on_turn()
                return first
            result = "answered"
            return ended
        finally:
            application = life.prepared.request.call.identity.application
            self._settler.telemetry.record_escalation(application, signal.value, result)

    async def _on_routes(
        self,
        life: Life,
        deadline: Deadline,
        trace_id: str,
        once: Callable[[Attempt, float], Awaitable[Reply]],
        fallback: Route | None,
        *,
        stream: bool,
        on_turn: Callable[[], Awaitable[None]] | None,
    ) -> "_Ended":
        """Get an answer from the life's route, by retries, or from `fallback`."""
        loop = asyncio.get_running_loop()
        tries_on_route = 0
        failure: UpstreamError | None = None
        while True:
            deadline.require(loop.time())
            tries_on_route += 1
            answer_s = None if stream else self._answer_s(life, tries_on_route, fallback)
            flight = (
                None
                if self._flights is None
                else self._flights.board(life.prepared, life.route, stream=stream)
            )
            try:
                if flight is not None:
                    await self._held(life, flight, deadline)
                if stream or tries_on_route > 1 or not self._hedging.on(life.route):
                    attempt = self._open(life, trace_id, flight, stream=stream)
                    ended = await self._closed(life, attempt, once, deadline, answer_s)
                else:
                    ended = await self._hedged(life, deadline, trace_id, once, answer_s, flight)
            except CircuitOpen:
                # Held back since the decision, by what others met: nothing was sent.
                if fallback is None or not self._can_render(life.prepared, fallback):
                    if failure is not None:
                        raise failure from None  # what was met says more, and whether it may be billed
                    raise
                step = Step(Next.OTHER_ROUTE, 0.0, "held back")
            except UpstreamError as error:
                failure = error
                if error.about_thinking and self._without_thinking(life):
                    continue
                # A hedge was a further try.
                tries_on_route = sum(each.intent.route == life.route.value for each in life.attempts)
                step = self._step(life, error, tries_on_route, fallback, deadline.remaining_s(loop.time()))
                if step.next is Next.GIVE_UP:
                    raise
            else:
                if self._flights is not None and life.route is Route.OPUS:
                    self._flights.learn(ended.settlement)
                if self._tell_answered is not None:
                    self._tell_answered(life.prepared, ended.settlement, ended.reply)
                return ended
            finally:
                if flight is not None:
                    flight.close()
            if step.next is Next.OTHER_ROUTE:
                assert fallback is not None
                life.route, fallback, tries_on_route = fallback, None, 0
                if on_turn is not None:
                    await on_turn()
            elif step.wait_s > 0:
                await self._sleep(step.wait_s)

    def _without_thinking(self, life: Life) -> bool:
        """Leave the thinking out that Opus refused, once; False when there is none left to leave out.

        It is bound to what precedes it (A-THINK, 2026-11): an edit of a system prompt by the operator would otherwise
        end every conversation that holds any.
        """
        if life.route is not Route.OPUS:
            return False
        freed = self._preparation.without_thinking(life.prepared, self._settler.clock.now())
        if freed is None:
            return False
        life.prepared = freed
        return True

    async def _held(self, life: Life, flight: Flight, deadline: Deadline) -> None:
        """Let whoever writes the same prefix go first, as long as that is worth it; then plan by what is warm."""
        try:
            await flight.hold(deadline.remaining_s(asyncio.get_running_loop().time()))
        finally:
            life.flight_wait_s += flight.waited_s
        if flight.met:
            now_s = self._settler.clock.now()
            life.prepared = self._preparation.replanned(life.prepared, now_s, flight.ends_before)

    def _answer_s(self, life: Life, tries_on_route: int, fallback: Route | None) -> float | None:
        """Longest that a healthy answer may take, None where the attempt has all the time: no other could follow."""
        if not self._limits.attempt_share:
            return None
        followed = tries_on_route <= self._limits.retry_limit
        if not followed and (fallback is None or not self._can_render(life.prepared, fallback)):
            return None
        tokens = life.prepared.estimates[life.route].input_tokens
        return whole_answer_s(tokens, life.prepared.request.call.max_output_tokens)

    def _open(self, life: Life, trace_id: str, flight: Flight | None = None, *, stream: bool) -> Attempt:
        attempt = self._settler.open(
            life.prepared,
            life.route,
            number=len(life.attempts) + 1,
            stream=stream or (flight is not None and flight.streams),
            trace_id=trace_id,
            fell_back=life.fell_back,
            escalated=life.escalated,
        )
        if flight is not None:
            attempt.on_first_byte = flight.landed
        life.attempts.append(attempt)
        return attempt

    async def _closed(
        self,
        life: Life,
        attempt: Attempt,
        once: Callable[[Attempt, float], Awaitable[Reply]],
        deadline: Deadline,
        answer_s: float | None,
    ) -> "_Ended":
        try:
            time_s = deadline.remaining_s(asyncio.get_running_loop().time())
            if answer_s is not None:
                time_s = timeout_s(time_s, self._limits.attempt_share, answer_s)
            reply = await once(attempt, time_s)
        except UpstreamError as error:
            attempt.failed(error)
            raise
        except BaseException as error:
            # Cancelled, or a bug: either way the provider may have been asked, so the attempt is settled.
            attempt.left(error)
            raise
        failure = self._failure(life, attempt, reply, deadline)
        settlement = attempt.answered(reply, failure)
        return _Ended(attempt, reply, settlement, None if failure is None or failure.kept else failure.signal)

    def _failure(self, life: Life, attempt: Attempt, reply: Reply, deadline: Deadline) -> Failure | None:
        """Say whether Flash's answer failed, and whether it is discarded for that.

        The answer does not hang on it: a fault in here is logged and the answer handed on.
        """
        application = life.prepared.request.call.identity.application
        cascade = self.cascade_of(life.prepared)
        if not cascade.on or attempt.intent.route != Route.FLASH:
            return None
        try:
            signal = signal_of(reply, life.prepared.request.call)
            if signal is None or signal not in cascade.on:
                return None
            remaining_s = deadline.remaining_s(asyncio.get_running_loop().time())
            kept = objection(self._circumstances(life, attempt, reply, remaining_s), cascade.needed_s)
        except Exception as error:
            logger.error(
                "judging the answer to request %s failed\n%s", attempt.intent.request_id, stack_of(error)
            )
            return None
        if kept is not None:
            self._settler.telemetry.record_escalation(application, signal.value, kept.value)
        return Failure(signal, kept)

    def _circumstances(self, life: Life, attempt: Attempt, reply: Reply, remaining_s: float) -> Circumstances:
        prepared, opus = life.prepared, Route.OPUS
        demands, estimate = prepared.request.demands, prepared.estimates[opus]
        now_s, spending = self._settler.clock.now(), self._settler.spending
        held_for_s = self._settler.circuits.held_for_s(opus, now_s)
        costs = [_cost_nano_usd(each) for each in life.attempts if each is not attempt]
        costs.append(attempt.cost_nano_usd(reply))
        return Circumstances(
            begun=attempt.answer_begun,
            allowed=demands.escalation_allowed,
            forced=demands.forced_route is not None,
            tool_loop=prepared.sample.tool_loop,
            fell_back=life.fell_back,
            opus_available=not estimate.unavailable
            and held_for_s is None
            and self._can_render(prepared, opus),
            ceiling_nano_usd=demands.cost_ceiling_nano_usd,
            spent_nano_usd=_sum(costs),
            expected_nano_usd=estimate.expected_nano_usd,
            budget_fits=spending is None or spending.fits(estimate.expected_nano_usd, now_s),
            remaining_s=remaining_s,
        )

    async def _hedged(
        self,
        life: Life,
        deadline: Deadline,
        trace_id: str,
        once: Callable[[Attempt, float], Awaitable[Reply]],
        answer_s: float | None,
        flight: Flight | None,
    ) -> "_Ended":
        """Make an attempt, and one more when it is slow; each is booked, the first answer is taken."""

        def second() -> Awaitable[_Ended] | None:
            if deadline.remaining_s(asyncio.get_running_loop().time()) < USEFUL_TIME_S:
                return None
            try:
                attempt = self._open(life, trace_id, stream=False)
            except (CircuitOpen, LedgerUnavailable):
                return None  # the first may still answer
            return self._closed(life, attempt, once, deadline, answer_s)

        attempt = self._open(life, trace_id, flight, stream=False)
        return await first_answer(
            lambda: self._closed(life, attempt, once, deadline, answer_s),
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
    """An attempt that answered, closed; `discarded` says for what its answer is not to be handed on."""

    attempt: Attempt
    reply: Reply
    settlement: Settlement
    discarded: Signal | None = None


def _sum(costs: list[int | None]) -> int | None:
    """The sum of costs, None when one of them is unknown."""
    return None if None in costs else sum([cost for cost in costs if cost is not None])


def _cost_nano_usd(attempt: Attempt) -> int | None:
    """What a closed attempt cost, None when that is unknown or not settled yet."""
    cost = None if attempt.settlement is None else attempt.settlement.cost
    return None if cost is None else cost.total_nano_usd


def _as_unary(error: UpstreamInterrupted) -> UpstreamError:
    """What broke an answer of which the caller has nothing: it may be tried again, and its usage is still booked."""
    broken = error.cause(
        error.upstream,
        str(error).removeprefix(f"{error.upstream}: "),
        model=error.model,
        http_status=error.http_status,
        upstream_request_id=error.upstream_request_id,
        retry_after_s=error.retry_after_s,
        usage=error.usage,
    )
    # It had begun, so it is billed: a channel that retries UNAVAILABLE by itself must not pay for it twice.
    broken.may_be_billed = True
    return broken


def _answered(life: Life, ended: _Ended, duration_s: float) -> Answered:
    reports = tuple([_report(each, each is not ended.attempt) for each in life.attempts])
    settlement = ended.settlement
    return Answered(
        reply=ended.reply,
        route=life.route,
        fell_back=life.fell_back,
        escalated=life.escalated,
        bill=Bill(
            usage=settlement.usage,
            cost=settlement.cost,
            priced_model=settlement.answered_model,
            counterfactuals=settlement.counterfactuals,
            attempts=reports,
            total_nano_usd=_sum([report.cost_nano_usd for report in reports]),
            first_byte_s=settlement.first_byte_s,
            duration_s=duration_s,
            plan=life.prepared.plan_for(life.route),
            misses=ended.attempt.misses,
            padding_tokens=0 if settlement.cache is None else settlement.cache.padding_tokens,
            padding_nano_usd=0 if settlement.cache is None else settlement.cache.padding_nano_usd,
            flight_wait_s=life.flight_wait_s or None,
        ),
    )


def _report(attempt: Attempt, is_other: bool) -> AttemptReport:
    """Report an attempt; `is_other` says that another one gave the answer."""
    settlement = attempt.settlement
    route = _ROUTES[attempt.intent.route]
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
        outcome=settlement.error or str(settlement.outcome),
        duration_s=settlement.duration_s,
        cost_nano_usd=_cost_nano_usd(attempt),
        discarded=is_other and bool(settlement.discarded),
    )
