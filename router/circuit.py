"""The circuit breaker: one state machine per upstream and model, fed with outcomes, asked before every attempt.

The rule: a call that is likely to fail is not made while it is likely to fail. Only what is the provider's own counts:
load, faults, silence, lost connections, broken answers, and a limit that asks for a longer wait than a retry may take.
What the caller brought (a refused request, its own hurry, its leaving) and what the operator must mend (credential,
model) say nothing about the provider and count as nothing.

    CLOSED     --  failures in a row, or their share of enough recent calls         -->  OPEN
    OPEN       --  its time passes; longer each time it opens again, and jittered    -->  HALF_OPEN
    HALF_OPEN  --  enough probes answered                                            -->  CLOSED
    HALF_OPEN  --  a probe failed                                                    -->  OPEN

A probe is an ordinary request of a user, let through one of few places; a probe that is still unanswered after the
circuit's own open time gives its place up, so that one slow answer cannot hold everybody off. A warming call neither
opens a circuit nor probes one: it is sent only while the circuit is closed, and its outcome is not told here.

An outcome counts only in the state in which its attempt began: what was sent before a circuit opened must not close it.
Time and chance are passed in; this module knows no provider, no request and no money.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from classifier.route import Route
from router import errors
from router.settlement import Purpose

BUCKETS: Final = 10
"""Parts of the window; it forgets by whole parts, so what is counted is between 90 and 100 % of it old."""
BACKOFF_FACTOR: Final = 2.0
JITTER: Final = 0.2
"""An open time is stretched by up to this share, so that the processes of one service do not probe together."""
NOT_COUNTED: Final = -1
"""Permit of an attempt whose outcome says nothing: a warm, or any call while the breaker is switched off."""


class State(StrEnum):
    """Where a circuit stands."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Signal(StrEnum):
    """What an outcome says about the provider."""

    WELL = "well"
    ILL = "ill"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitSettings:
    """What the operator allows.

    Attributes:
        enabled: Whether circuits open at all.
        window_s: Recent time whose calls are counted, > 0.
        minimum_calls: Calls in it below which their share of failures says nothing, >= 1.
        failure_share: Share of failures that opens, in (0, 1].
        failures_in_a_row: Failures without an answer between that open, however far apart, >= 1.
        open_s: How long a circuit stays open the first time, > 0.
        open_limit_s: Longest it stays open, >= open_s.
        probe_limit: Probes under way at a time, and answers that close, >= 1.
        slow_s: A timeout counts only if the provider had at least this long; a hurried caller says nothing.
        wait_limit_s: A rate limit counts only if it asks for a longer wait than this.
    """

    enabled: bool = True
    window_s: float = 30.0
    minimum_calls: int = 20
    failure_share: float = 0.5
    failures_in_a_row: int = 10
    open_s: float = 10.0
    open_limit_s: float = 120.0
    probe_limit: int = 2
    slow_s: float = 30.0
    wait_limit_s: float = 2.0


class CircuitReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One circuit as it stands, for Explain, metrics and people.

    Attributes:
        retry_after_s: Time until the next probe may be sent; 0 unless OPEN.
        calls: Counted outcomes in the window.
        failures: Those of them that were the provider's own failures.
    """

    route: Route
    upstream: str
    model: str
    state: State
    retry_after_s: float
    calls: int
    failures: int


def signal_of(error: errors.UpstreamError, waited_s: float, settings: CircuitSettings) -> Signal:
    """What a failure says about the provider.

    Args:
        error: How the attempt failed.
        waited_s: How long the provider had.
        settings: What counts as long.
    """
    match error:
        case errors.UpstreamTimeout():
            return Signal.ILL if waited_s >= settings.slow_s else Signal.NOTHING
        case errors.UpstreamRateLimited():
            wait_s = error.retry_after_s
            return Signal.ILL if wait_s is not None and wait_s > settings.wait_limit_s else Signal.NOTHING
        case errors.UpstreamInterrupted():
            # An answer that flowed until its caller's time was up is no sign of a broken provider.
            return Signal.NOTHING if issubclass(error.cause, errors.UpstreamTimeout) else Signal.ILL
        case _:
            return Signal.ILL if isinstance(error, _PROVIDERS_OWN) else Signal.NOTHING


_PROVIDERS_OWN = (
    errors.UpstreamOverloaded,
    errors.UpstreamFailed,
    errors.UpstreamUnreachable,
    errors.UpstreamMalformed,
    errors.UpstreamSpendLimited,
)
"""Besides those whose circumstances decide. A spent cap is a rate limit whose wait nobody names."""


class Circuit:
    """The state machine of one upstream and model. Not for threads; reading `report` from one is harmless."""

    __slots__ = (
        "_closed_s",
        "_epoch",
        "_open_s",
        "_opened_s",
        "_probes",
        "_probes_s",
        "_row",
        "_settings",
        "_state",
        "_until_s",
        "_well",
        "_window",
    )

    def __init__(self, settings: CircuitSettings) -> None:
        """Begin closed."""
        self._settings = settings
        self._state = State.CLOSED
        self._epoch = 0
        self._window: deque[list[int]] = deque()  # [part of time, calls, failures], oldest first
        self._row = 0
        self._open_s = 0.0
        self._opened_s = self._until_s = 0.0
        self._closed_s: float | None = None
        self._probes = self._well = 0
        self._probes_s = 0.0

    def held_for_s(self, now_s: float) -> float | None:
        """Time until an attempt may be made, None when one may be made now. Changes nothing.

        While probes are out it is the time until their places are given to others, at least.
        """
        if self._state is State.CLOSED:
            return None
        if self._state is State.OPEN:
            return None if self._is_due(now_s) else self._until_s - now_s
        if self._probes < self._settings.probe_limit or self._is_late(now_s):
            return None
        return self._probes_s + self._open_s - now_s

    def admit(self, now_s: float, purpose: Purpose = Purpose.USER) -> int | None:
        """Ask to make an attempt; its outcome must then be told with `report`, once.

        Returns:
            The permit to report with; None when the attempt may not be made.
        """
        if not self._settings.enabled:
            return NOT_COUNTED
        if purpose is Purpose.WARM:
            return NOT_COUNTED if self._state is State.CLOSED else None
        if self._state is State.CLOSED:
            return self._epoch
        if self.held_for_s(now_s) is not None:
            return None
        if self._state is State.OPEN:
            self._go(State.HALF_OPEN)
            self._probes = self._well = 0
        elif self._probes >= self._settings.probe_limit:
            self._probes = 0  # those that are late have given their places up
        self._probes += 1
        self._probes_s = now_s
        return self._epoch

    def report(self, permit: int, signal: Signal, now_s: float, jitter: float) -> None:
        """Tell what came of an attempt.

        Args:
            permit: As `admit` gave it.
            signal: What the outcome says; NOTHING gives a probe's place back.
            now_s: Now.
            jitter: In [0, 1), stretches the open time if this opens the circuit.
        """
        if permit != self._epoch:
            return
        if self._state is State.HALF_OPEN:
            self._probed(signal, now_s, jitter)
        elif self._state is State.CLOSED and signal is not Signal.NOTHING:
            self._counted(signal, now_s, jitter)

    def state(self, now_s: float) -> State:
        """Where it stands; an open circuit whose time has passed is half open."""
        if self._state is State.OPEN and self._is_due(now_s):
            return State.HALF_OPEN
        return self._state

    def counts(self, now_s: float) -> tuple[int, int]:
        """Calls and failures in the window, as far as they are remembered."""
        first = self._part(now_s) - BUCKETS
        recent = [part for part in tuple(self._window) if part[0] > first]
        return sum(part[1] for part in recent), sum(part[2] for part in recent)

    def _counted(self, signal: Signal, now_s: float, jitter: float) -> None:
        part = self._part(now_s)
        window = self._window
        if not window or window[-1][0] != part:
            # A clock that was set back begins anew rather than counting in a past that will not end.
            while window and not part - BUCKETS < window[0][0] <= part:
                window.popleft()
            window.append([part, 0, 0])
        window[-1][1] += 1
        if signal is Signal.WELL:
            self._row = 0
            return
        window[-1][2] += 1
        self._row += 1
        settings = self._settings
        if self._row >= settings.failures_in_a_row:
            self._open(now_s, jitter)
            return
        calls, failures = self.counts(now_s)
        if calls >= settings.minimum_calls and failures >= settings.failure_share * calls:
            self._open(now_s, jitter)

    def _probed(self, signal: Signal, now_s: float, jitter: float) -> None:
        self._probes = max(0, self._probes - 1)
        match signal:
            case Signal.ILL:
                self._open(now_s, jitter)
            case Signal.WELL:
                self._well += 1
                if self._well >= self._settings.probe_limit:
                    self._go(State.CLOSED)
                    self._closed_s = now_s
                    self._row = 0
                    self._window.clear()

    def _open(self, now_s: float, jitter: float) -> None:
        settings = self._settings
        # One that closed only just now was closed too soon: its backoff goes on.
        again = self._state is State.HALF_OPEN or (
            self._closed_s is not None and now_s - self._closed_s < settings.window_s
        )
        open_s = self._open_s * BACKOFF_FACTOR if again else settings.open_s
        self._open_s = min(open_s, settings.open_limit_s)
        self._opened_s = now_s
        self._until_s = now_s + self._open_s * (1.0 + JITTER * jitter)
        self._go(State.OPEN)

    def _go(self, state: State) -> None:
        self._state = state
        self._epoch += 1

    def _is_due(self, now_s: float) -> bool:
        """Whether the open time is over; also when the clock was set back, or it would be open until it comes round."""
        return not self._opened_s <= now_s < self._until_s

    def _is_late(self, now_s: float) -> bool:
        return not self._probes_s <= now_s < self._probes_s + self._open_s

    def _part(self, now_s: float) -> int:
        return int(now_s * BUCKETS / self._settings.window_s)


class Circuits:
    """The circuits of all routes, with the clock's reading and the dice passed in once."""

    def __init__(
        self,
        targets: Mapping[Route, tuple[str, str]],
        settings: CircuitSettings,
        *,
        draw: Callable[[], float],
    ) -> None:
        """Begin with every circuit closed.

        Args:
            targets: Upstream name and model id of each route.
            settings: The same for all.
            draw: Gives jitter in [0, 1).
        """
        self.settings = settings
        self._targets = dict(targets)
        self._circuits = {route: Circuit(settings) for route in targets}
        self._draw = draw

    @classmethod
    def off(cls) -> "Circuits":
        """Circuits that never open."""
        return cls({}, CircuitSettings(enabled=False), draw=lambda: 0.0)

    def held_for_s(self, route: Route, now_s: float) -> float | None:
        """Time until an attempt on `route` may be made; None when one may be made now. Changes nothing."""
        circuit = self._circuits.get(route)
        return None if circuit is None else circuit.held_for_s(now_s)

    def admit(self, route: Route, now_s: float, purpose: Purpose = Purpose.USER) -> int:
        """Ask to make an attempt; tell its outcome with `report`, once.

        Raises:
            CircuitOpen: It may not be made; nothing is to be sent.
        """
        circuit = self._circuits.get(route)
        if circuit is None:
            return NOT_COUNTED
        permit = circuit.admit(now_s, purpose)
        if permit is None:
            raise self.refusal({route: circuit.held_for_s(now_s) or 0.0})
        return permit

    def refusal(self, waits_s: Mapping[Route, float]) -> errors.CircuitOpen:
        """The error when every route of `waits_s`, at least one, is held back: who, and how long until a probe."""
        names = " and ".join("{} ({})".format(*self._targets[route]) for route in waits_s)
        return errors.CircuitOpen(names, min(waits_s.values()))

    def report(self, route: Route, permit: int, signal: Signal, now_s: float) -> None:
        """Tell what came of an admitted attempt."""
        if permit != NOT_COUNTED:
            self._circuits[route].report(permit, signal, now_s, self._draw())

    def failed(
        self, route: Route, permit: int, error: errors.UpstreamError, waited_s: float, now_s: float
    ) -> None:
        """Tell that an admitted attempt failed, and how long the provider had."""
        self.report(route, permit, signal_of(error, waited_s, self.settings), now_s)

    def snapshot(self, now_s: float) -> tuple[CircuitReport, ...]:
        """Every circuit as it stands; from any thread."""
        return tuple(self._report(route, circuit, now_s) for route, circuit in self._circuits.items())

    def _report(self, route: Route, circuit: Circuit, now_s: float) -> CircuitReport:
        upstream, model = self._targets[route]
        calls, failures = circuit.counts(now_s)
        state = circuit.state(now_s)
        held_s = circuit.held_for_s(now_s) if state is State.OPEN else None
        return CircuitReport(
            route=route,
            upstream=upstream,
            model=model,
            state=state,
            retry_after_s=held_s or 0.0,
            calls=calls,
            failures=failures,
        )
