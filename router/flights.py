"""Requests that would write the same cold prefix wait for the first of them: the shell of `cache.flight`.

The rule: before an attempt on Opus is opened, so before its intent is journalled and its start is noted. A request
that waits has spent nothing and may be cancelled without a trace in the books, and what it then asks is planned by
what is warm by then. It waits while the expected wait is worth it (`cache.flight.worth_s`), never beyond the limit the
operator set nor into the second half of what the caller's deadline leaves, and then goes without the breakpoints that
would write what is being written already, unless writing its own part behind them is worth more than that costs.

Where somebody could wait for it, a unary request is asked as a stream: its first byte is then known when it comes,
instead of with the last. A warm takes part like a request: who comes while it writes waits for its first byte, which is
its only one, and it waits for who writes already. This module knows neither how attempts are made nor what they cost.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from cache.economics import Rates
from cache.first_byte import FirstByte, prior_of
from cache.flight import Ahead, FlightLock, Signal, Ticket, scope_tag, worth_s
from cache.plan import Breakpoint
from cache.prompt import CacheScope, Layer
from classifier.route import Route
from router.attempts import USEFUL_TIME_S
from router.beliefs import Beliefs, CacheView
from router.clock import Clock
from router.preparation import Prepared
from router.pricing import PriceTable, UnknownPrice
from router.settlement import Purpose, Settlement

SHARE_OF_DEADLINE = 0.5
"""Most of a caller's remaining time that waiting for another may take."""
_SLACK_S = 0.25
"""Least time that a lead may be late before another takes over."""
_LATE_SHARE = 0.5
"""... and the share of its expected time."""
_FEMTO_PER_USD = 1e15
_LIST_RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)
_CONTEXT = Layer.CONTEXT


class Handle(Protocol):
    """What is due, and may be called off."""

    def cancel(self) -> Any:
        """Call it off."""
        ...


class Timer(Protocol):
    """Spans of time: monotonic seconds, and calls that become due."""

    def now(self) -> float:
        """Seconds since some instant."""
        ...

    def later(self, delay_s: float, call: Callable[[], None]) -> Handle:
        """Let `call` be called once `delay_s` have passed."""
        ...


class LoopTimer:
    """The running event loop's own."""

    def now(self) -> float:
        """Seconds of the loop's clock."""
        return asyncio.get_running_loop().time()

    def later(self, delay_s: float, call: Callable[[], None]) -> Handle:
        """As `loop.call_later`."""
        return asyncio.get_running_loop().call_later(delay_s, call)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightSettings:
    """What the operator sets.

    Attributes:
        limit_s: Longest wait, seconds.
        second_usd: What a second of a caller's waiting costs, USD; 0 makes any wait within the limit worth it.
    """

    limit_s: float = 3.0
    second_usd: float = 0.01


class FlightWatch(Protocol):
    """Who is told of waits."""

    def flight_wait(self) -> AbstractContextManager[Any]:
        """Span around one wait."""
        ...

    def record_flight(self, outcome: str, waited_s: float) -> None:
        """Count one request that met another's write: "landed", "promoted", "gave_up" or "cancelled"."""
        ...

    def record_lead(self, purpose: str) -> None:
        """Count one call that began to write a cold prefix which nobody else was writing."""
        ...


class _Unwatched:
    def flight_wait(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def record_flight(self, outcome: str, waited_s: float) -> None:
        pass

    def record_lead(self, purpose: str) -> None:
        pass


_UNWATCHED = _Unwatched()


class Flights:
    """What the requests of this service have in flight on Opus."""

    def __init__(
        self,
        lock: FlightLock,
        settings: FlightSettings,
        *,
        beliefs: Beliefs,
        prices: PriceTable,
        clock: Clock,
        timer: Timer,
        watch: FlightWatch | None = None,
    ) -> None:
        """Keep references; `clock` is that of the beliefs, `timer` that of waits."""
        self.lock = lock
        self.settings = settings
        self.beliefs = beliefs
        self.clock = clock
        self.timer = timer
        self.watch: FlightWatch = _Unwatched() if watch is None else watch
        self._prices = prices
        self._tags: dict[CacheScope, bytes] = {}
        self._first_bytes: dict[str, FirstByte] = {}
        # One task sends warms, one after the other, so these are few.
        self._warms: dict[Ticket, tuple[CacheView, tuple[Breakpoint, ...]]] = {}

    def board(
        self, prepared: Prepared, route: Route, *, stream: bool, purpose: Purpose = Purpose.USER
    ) -> "Flight | None":
        """Begin an attempt's part; None when it would write nothing that is cold.

        Args:
            stream: Whether its answer is asked for in chunks anyway.
            purpose: A warm has no output: its answer, begun, is whole, and its waits are no user's.
        """
        if route is not Route.OPUS:
            return None
        view = prepared.views.get(route)
        if view is None or not (view.plan.breakpoints or self._warms):
            return None
        minimum, now_s = view.plan.minimum_tokens, self.clock.now()
        points = view.plan.breakpoints
        known = self.beliefs.index.belief(view.scope, [point.digest for point in points])
        cold = [
            point
            for point, belief in zip(points, known, strict=True)
            if point.prefix_tokens >= minimum and (belief is None or not belief.p_warm(now_s))
        ]
        if self._warms and purpose is not Purpose.WARM:
            self._note_warm(view, cold)
        if not cold:
            return None
        tag = self._tags.get(view.scope)
        if tag is None:
            tag = self._tags[view.scope] = scope_tag(view.scope)
        ticket = self.lock.join([tag + point.digest for point in cold])
        flight = Flight(self, ticket, prepared, view, cold, stream=stream, warms=purpose is Purpose.WARM)
        flight.expect()
        if purpose is Purpose.WARM:
            self._warms[ticket] = view, tuple(cold)
        if ticket.led:
            self.watch.record_lead(purpose.value)
        return flight

    def _note_warm(self, view: CacheView, cold: list[Breakpoint]) -> None:
        """Add the deepest prefix of a request that a warm is writing, though the request marks nothing there.

        Once it is written the request reads it, and it would not have been marked while it was cold.
        """
        for other, points in self._warms.values():
            if other.scope != view.scope:
                continue
            for point in reversed(points):
                if point.position < len(view.digests) and view.digests[point.position] == point.digest:
                    if all(each.digest != point.digest for each in cold):
                        cold.append(point)
                        cold.sort(key=_position)
                    break

    def ended(self, ticket: Ticket) -> None:
        """A call has begun to be answered, or ended: if it is a warm, nobody waits for it any more."""
        self._warms.pop(ticket, None)

    def learn(self, settlement: Settlement) -> None:
        """Learn how long answers take to begin from an attempt that was streamed to its end."""
        usage, seconds = settlement.usage, settlement.first_byte_s
        if not settlement.intent.stream or usage is None or seconds is None:
            return
        self.first_byte(settlement.intent.model).observe(
            usage.input_tokens - usage.cache_read_tokens, seconds
        )

    def first_byte(self, model: str) -> FirstByte:
        """What is known of the model's time to the first byte; only configured models are asked about."""
        found = self._first_bytes.get(model)
        if found is None:
            found = self._first_bytes[model] = prior_of(self.beliefs.facts)
        return found

    def worth_s(self, model: str, tokens: int) -> float:
        """Longest expected wait for `tokens` of a prefix that is worth it."""
        now_s = self.clock.now()
        try:
            price = self._prices.price(model, now_s)
            rates, token_usd = price.rates(), price.femto_usd[0] / _FEMTO_PER_USD
        except UnknownPrice:
            rates, token_usd = _LIST_RATES, 0.0
        _, kappa_s = self.first_byte(model).line()
        return worth_s(tokens, rates, token_usd, self.settings.second_usd, kappa_s)

    def rates(self, model: str) -> Rates:
        """Rates of the model now."""
        try:
            return self._prices.rates(model, self.clock.now())
        except UnknownPrice:
            return _LIST_RATES


class Flight:
    """One attempt's part in what is in flight: hold, then send, then `landed`; `close` however it ends.

    Attributes:
        streams: Whether the attempt is to be asked for in chunks.
        waited_s: How long it waited.
        outcome: What ended the wait, "" when it met nobody.
        ends_before: Position at and past which it must not mark; None for no bound.
    """

    __slots__ = (
        "_cold",
        "_flights",
        "_prepared",
        "_signal",
        "_ticket",
        "_view",
        "_warms",
        "ends_before",
        "outcome",
        "streams",
        "waited_s",
    )

    def __init__(
        self,
        flights: Flights,
        ticket: Ticket,
        prepared: Prepared,
        view: CacheView,
        cold: list[Breakpoint],
        *,
        stream: bool,
        warms: bool = False,
    ) -> None:
        """Made by `Flights.board`."""
        self._flights = flights
        self._ticket = ticket
        self._prepared = prepared
        self._view = view
        self._cold = cold
        self._signal: Signal | None = None
        self._warms = warms
        self.streams = not warms and (stream or self._leads_shared())
        self.waited_s = 0.0
        self.outcome = ""
        self.ends_before: int | None = None

    @property
    def met(self) -> bool:
        """Whether another request was writing the same, so that what to send is to be planned anew."""
        return bool(self.outcome)

    def expect(self, after: float | None = None) -> None:
        """Say when the first byte is expected, if it is sent now or at `after`."""
        flights = self._flights
        if not self.streams and not self._warms:
            flights.lock.expect(self._ticket, inf, inf)
            return
        plan = self._view.plan
        expected_s = flights.first_byte(self._view.scope.model).expected_s(
            max(0, plan.total_tokens - plan.full_read_tokens)
        )
        expected_at = (flights.timer.now() if after is None else after) + expected_s
        flights.lock.expect(self._ticket, expected_at, expected_at + max(_SLACK_S, _LATE_SHARE * expected_s))

    async def hold(self, remaining_s: float) -> None:
        """Wait while another request's write is worth waiting for.

        Args:
            remaining_s: What the caller's deadline leaves; at most `SHARE_OF_DEADLINE` of it is waited.
        """
        lock = self._flights.lock
        if lock.ahead(self._ticket) is None:
            return
        flights, timer = self._flights, self._flights.timer
        watch = _UNWATCHED if self._warms else flights.watch
        began_at = timer.now()
        usable_s = min(remaining_s * SHARE_OF_DEADLINE, remaining_s - USEFUL_TIME_S)
        limit_at = began_at + max(0.0, min(flights.settings.limit_s, usable_s))
        self.outcome = "cancelled"
        try:
            with watch.flight_wait():
                self.outcome = await self._until(limit_at)
        finally:
            self.waited_s = timer.now() - began_at
            watch.record_flight(self.outcome, self.waited_s)
        if self._warms:
            self.expect()  # given up, it is not sent at all: it was wanted for nothing but this write
            return
        if self.outcome == "gave_up":
            self._go_without()
        self.streams = self.streams or self._leads_shared()
        self.expect()

    def _leads_shared(self) -> bool:
        """Whether it leads what ends with the context or before it: others may wait for that, seldom for more."""
        led = self._ticket.led
        return bool(led) and any(
            point.layer <= _CONTEXT and key in led
            for point, key in zip(self._cold, self._ticket.keys, strict=True)
        )

    def landed(self) -> None:
        """The first byte is here: what the attempt wrote can be read."""
        self._flights.ended(self._ticket)
        self._flights.lock.land(self._ticket)

    def close(self) -> None:
        """End the part; what it led and did not land is another's now."""
        self._flights.ended(self._ticket)
        self._flights.lock.leave(self._ticket)

    async def _until(self, limit_at: float) -> str:
        """Wait; say what ended it."""
        lock, timer = self._flights.lock, self._flights.timer
        while True:
            ahead = lock.ahead(self._ticket)
            if ahead is None:
                return self._signal.value if self._signal is not None else Signal.LANDED.value
            now = timer.now()
            until = min(limit_at, ahead.expected_at + self._worth_s(ahead))
            if ahead.expected_at > limit_at or ahead.expected_at - now > self._worth_s(ahead) or now >= until:
                return "gave_up"
            self.expect(ahead.expected_at)
            await self._wake(ahead, until - now, ahead.overdue_at - now)
            if self._signal is None:
                lock.overdue(self._ticket, timer.now())
            if self._signal is Signal.LANDED:
                return Signal.LANDED.value
            lock.stop_waiting(self._ticket)

    async def _wake(self, ahead: Ahead, until_s: float, overdue_s: float) -> None:
        """Wait for a signal, the end of patience, or the lead's being overdue."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def due() -> None:
            if not woken.done():
                woken.set_result(None)

        def wake(signal: Signal) -> None:
            self._signal = signal
            due()

        self._signal = None
        self._flights.lock.wait(self._ticket, ahead.place, wake)
        handle = self._flights.timer.later(max(0.0, min(until_s, overdue_s)), due)
        try:
            await woken
        finally:
            handle.cancel()

    def _worth_s(self, ahead: Ahead) -> float:
        """What waiting for the prefix ahead is worth: its tokens less what can be read without.

        A warm has all the time it may take: nobody waits for it.
        """
        if self._warms:
            return inf
        tokens = self._cold[ahead.place].prefix_tokens - self._view.plan.full_read_tokens
        return self._flights.worth_s(self._view.scope.model, max(0, tokens))

    def _go_without(self) -> None:
        """Leave out the breakpoints that would write what others write, unless what stands behind is worth it."""
        flights, view = self._flights, self._view
        led = set(self._ticket.led)
        now_s = flights.clock.now()
        known = flights.beliefs.index.belief(view.scope, [point.digest for point in self._cold])
        others = [
            point
            for point, key, belief in zip(self._cold, self._ticket.keys, known, strict=True)
            if key not in led and (belief is None or not belief.p_warm(now_s))
        ]
        if not others or self._worth_behind(others[-1]) > 0:
            return
        self.ends_before = others[0].position
        self.streams = False
        flights.lock.leave(self._ticket)

    def _worth_behind(self, last: Breakpoint) -> float:
        """Units gained by writing what stands behind the last prefix that others write, and that prefix with it."""
        view, request = self._view, self._prepared.request
        rates = self._flights.rates(view.scope.model)
        forecasts = self._flights.beliefs.demand.forecasts(
            view.scope,
            view.prompt,
            view.digests,
            self._flights.clock.now(),
            request.application.name,
            view.counts,
        )
        # Nobody knows how much of the other's prefix will be there by then, so all of it is taken for written again.
        gain, start = -(rates.write_5m - 1) * last.prefix_tokens, last.prefix_tokens
        for point in view.plan.breakpoints:
            if point.position > last.position:
                forecast = forecasts[point.layer]
                p_next = forecast.p_5m if point.ttl_s <= 300 else forecast.p_1h
                write = rates.write(point.ttl_s)
                gain += (p_next * (write - rates.read) - (write - 1)) * (point.prefix_tokens - start)
                start = point.prefix_tokens
        return gain


def _position(point: Breakpoint) -> int:
    return point.position
