"""Single flight on a cold prefix: one request writes it, the others wait for its first byte, within reason.

The rule: an entry can be read only once the first response to the request that writes it has begun (page "prompt
caching", read 2026-11), so N cold requests at once pay N writes. Each request brings the prefixes it would write, one
per cold breakpoint. It leads those that nobody leads yet and waits for the deepest that somebody else does: entries
exist at breakpoints only, so nothing between two of them is worth waiting for.

    land        the lead's answer has begun: all who wait may read
    leave       it was refused, broke off, was cancelled, or goes without its breakpoint: exactly one who waits takes
                over, the one that came first
    overdue     its first byte should have been there long ago: one takes over, the others wait for whichever of the
                two begins first

A request waits only for one that came before it. So whoever waits for whom has no cycle, however leads change: of
those who wait, the first to come takes over, and all others came later. Nobody waits for longer than the wait is worth
(`worth_s`), which the caller of this module sees to, with its own clock: nothing here waits, reads a clock or spends.

It holds what is in flight and nothing else: a lane lives from the start of its lead to its first byte.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from math import inf
from typing import NamedTuple, Protocol

from cache.economics import Rates
from cache.prompt import CacheScope

MOST_LANES = 50_000
"""Prefixes in flight at once beyond which requests lead nothing and go as if alone: four breakpoints each of the
thousands of calls one process can have under way."""


FlightKey = bytes
"""A prefix that may be being written: equal keys mean one cache entry. Made by `scope_tag` + its digest."""


def scope_tag(scope: CacheScope) -> bytes:
    """What the keys of one cache scope begin with; self-delimiting, so no two scopes share a key."""
    named = "\x00".join((scope.upstream, scope.workspace, scope.model)).encode()
    return len(named).to_bytes(2, "big") + named


class Signal(StrEnum):
    """What ends a wait."""

    LANDED = "landed"
    """The prefix can be read."""
    PROMOTED = "promoted"
    """It cannot, and this request now leads it."""


Wake = Callable[[Signal], None]


class Ticket:
    """One request's part in what is in flight; made by `join`, changed by the book alone.

    Attributes:
        number: Place in the order of arrival.
        keys: What it would write, shallowest first.
        led: The part of it that it leads.
        expected_at: Instant at which its first byte is expected.
        overdue_at: Instant from which it is given up as lead.
    """

    __slots__ = ("expected_at", "keys", "lane", "led", "number", "overdue_at", "wake")

    def __init__(self, number: int, keys: tuple[FlightKey, ...]) -> None:
        """Begin, leading and awaiting nothing."""
        self.number = number
        self.keys = keys
        self.led: list[FlightKey] = []
        self.lane: _Lane | None = None
        self.wake: Wake | None = None
        self.expected_at = 0.0
        self.overdue_at = 0.0


class Ahead(NamedTuple):
    """What a request would wait for.

    Attributes:
        place: Of the prefix among the request's keys.
        expected_at: Instant at which its lead's first byte is expected.
        overdue_at: Instant from which its lead is given up.
    """

    place: int
    expected_at: float
    overdue_at: float


class FlightLock(Protocol):
    """Who writes which cold prefix. In one process `FlightBook`; a shared one serves several."""

    def join(self, keys: Sequence[FlightKey]) -> Ticket:
        """Begin a request that would write `keys`, shallowest first; it leads what nobody leads."""
        ...

    def ahead(self, ticket: Ticket) -> Ahead | None:
        """The deepest of its keys that an earlier request leads; None when there is nothing to wait for."""
        ...

    def wait(self, ticket: Ticket, index: int, wake: Wake) -> None:
        """Wait for a key that is ahead; `wake` is called at most once, then the wait is over."""
        ...

    def stop_waiting(self, ticket: Ticket) -> None:
        """End its wait without a signal."""
        ...

    def overdue(self, ticket: Ticket, now: float) -> None:
        """Let somebody take over what it waits for, if the lead is overdue; whoever does is woken."""
        ...

    def expect(self, ticket: Ticket, expected_at: float, overdue_at: float) -> None:
        """Note when its first byte is expected, and when it is to be given up; infinity for "cannot be foreseen"."""
        ...

    def land(self, ticket: Ticket) -> None:
        """Note its first byte: all who wait for what it wrote are woken."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """End its part: what it led and did not land goes to the next. May be called at any time, and again."""
        ...


class _Lane:
    """One prefix in flight.

    Attributes:
        lead: Who writes it.
        given_up: Overdue leads that may land all the same.
        waiting: Who waits.
    """

    __slots__ = ("given_up", "key", "lead", "waiting")

    def __init__(self, key: FlightKey, lead: Ticket) -> None:
        self.key = key
        self.lead = lead
        self.given_up: list[Ticket] = []
        self.waiting: dict[Ticket, None] = {}


class FlightBook:
    """What is in flight in one process. Not thread-safe; time is passed in."""

    def __init__(self, most_lanes: int = MOST_LANES) -> None:
        """Start with nothing in flight."""
        self._most_lanes = most_lanes
        self._lanes: dict[FlightKey, _Lane] = {}
        self._arrivals = 0
        self.promotions = 0
        """Times that somebody took over since the start."""

    def __len__(self) -> int:
        """Prefixes in flight."""
        return len(self._lanes)

    def join(self, keys: Sequence[FlightKey]) -> Ticket:
        """As `FlightLock.join`."""
        self._arrivals += 1
        ticket = Ticket(self._arrivals, tuple(keys))
        lanes = self._lanes
        for key in ticket.keys:
            if key not in lanes and len(lanes) < self._most_lanes:
                lanes[key] = _Lane(key, ticket)
                ticket.led.append(key)
        return ticket

    def ahead(self, ticket: Ticket) -> Ahead | None:
        """As `FlightLock.ahead`."""
        for index in range(len(ticket.keys) - 1, -1, -1):
            lane = self._lanes.get(ticket.keys[index])
            if lane is not None and lane.lead.number < ticket.number:
                return Ahead(index, lane.lead.expected_at, lane.lead.overdue_at)
        return None

    def wait(self, ticket: Ticket, index: int, wake: Wake) -> None:
        """As `FlightLock.wait`.

        Raises:
            ValueError: The key is not ahead, or the request waits already.
        """
        lane = self._lanes.get(ticket.keys[index])
        if ticket.lane is not None or lane is None or lane.lead.number >= ticket.number:
            raise ValueError("a request waits for one prefix at a time, which an earlier one leads")
        lane.waiting[ticket] = None
        ticket.lane, ticket.wake = lane, wake

    def stop_waiting(self, ticket: Ticket) -> None:
        """As `FlightLock.stop_waiting`."""
        if ticket.lane is not None:
            ticket.lane.waiting.pop(ticket, None)
            ticket.lane = ticket.wake = None

    def overdue(self, ticket: Ticket, now: float) -> None:
        """As `FlightLock.overdue`."""
        lane = ticket.lane
        if lane is not None and now >= lane.lead.overdue_at:
            self._take_over(lane, given_up=lane.lead)

    def expect(self, ticket: Ticket, expected_at: float, overdue_at: float) -> None:
        """As `FlightLock.expect`."""
        ticket.expected_at, ticket.overdue_at = expected_at, overdue_at

    def land(self, ticket: Ticket) -> None:
        """As `FlightLock.land`."""
        led, ticket.led = ticket.led, []
        for key in led:
            lane = self._lanes.get(key)
            if lane is None or (lane.lead is not ticket and ticket not in lane.given_up):
                continue
            del self._lanes[key]
            waiting, lane.waiting = tuple(lane.waiting), {}
            for follower in waiting:
                _wake(follower, Signal.LANDED)

    def leave(self, ticket: Ticket) -> None:
        """As `FlightLock.leave`."""
        self.stop_waiting(ticket)
        led, ticket.led = ticket.led, []
        for key in led:
            lane = self._lanes.get(key)
            if lane is None:
                continue
            if ticket in lane.given_up:
                lane.given_up.remove(ticket)
            elif lane.lead is ticket:
                self._take_over(lane, given_up=None)

    def _take_over(self, lane: _Lane, *, given_up: Ticket | None) -> None:
        """Let the first to come of those who wait lead; without one the lead stays, or the lane ends."""
        if not lane.waiting:
            if given_up is not None:
                return
            if lane.given_up:
                lane.lead = lane.given_up.pop()
            else:
                del self._lanes[lane.key]
            return
        if given_up is not None:
            lane.given_up.append(given_up)
        first = min(lane.waiting, key=_number)
        del lane.waiting[first]
        # Until it says when its own first byte is expected, which it does as soon as it runs, nobody gives it up.
        first.expected_at = first.overdue_at = inf
        lane.lead = first
        first.led.append(lane.key)
        self.promotions += 1
        _wake(first, Signal.PROMOTED)


def _number(ticket: Ticket) -> int:
    return ticket.number


def _wake(ticket: Ticket, signal: Signal) -> None:
    wake = ticket.wake
    ticket.lane = ticket.wake = None
    if wake is not None:
        wake(signal)


# --- what a wait is worth
# --------------------------------------------------------------------------------------------


def worth_s(
    tokens: float, rates: Rates, token_usd: float, second_usd: float, prefill_s_per_token: float
) -> float:
    """Longest expected wait for a prefix that is worth it, seconds.

    Waiting reads the prefix where going without its breakpoint pays for it as ordinary input, and spares the
    request's own prefill: hold iff E[wait] < (1 - r) S p/v + kappa S.

    Args:
        tokens: Tokens of the prefix that only the other request will have written (S), >= 0.
        token_usd: Price of one uncached input token (p), USD.
        second_usd: What a second of the caller's waiting costs (v), USD, >= 0; 0 makes any wait worth it.
        prefill_s_per_token: Seconds of prefill per uncached token (kappa).
    """
    if second_usd <= 0:
        return inf
    return (1 - rates.read) * tokens * token_usd / second_usd + prefill_s_per_token * tokens
