"""How long a request may still take: the caller's deadline less a margin, as an instant of the loop's clock.

The rule: we answer before the caller's own timer does. A margin is kept back so that our status, with
its reason and its cost, arrives instead of the client's bare DEADLINE_EXCEEDED, and work that cannot
finish is refused while nothing has been spent. Every timeout further down is derived from a Deadline;
none is added up on the way.

This module reads no clock: callers pass the loop's monotonic time (`asyncio.get_running_loop().time()`),
so a test drives it by hand. It knows no gRPC: the edge passes what `context.time_remaining()` said.
"""

from dataclasses import dataclass

import msgspec

from router.errors import DeadlineTooShort

MARGIN_S = 0.020
"""Kept back from the caller's deadline: serialising the status and one network round trip
(letsencrypt/boulder keeps the same 20 ms)."""

MINIMUM_S = 0.100
"""Least time worth starting a call with; below it nothing a provider does comes back in time."""

DEFAULT_S = 300.0
"""For a caller that sends no deadline: long enough for a long Opus answer, short enough not to leak
requests."""

MAXIMUM_S = 3600.0
"""Longest deadline honoured; a caller asking for more is held to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePolicy:
    """What deadlines this deployment grants, seconds.

    Attributes:
        margin_s: Kept back for our own answer, >= 0.
        minimum_s: A request with less left (after the margin) is refused, >= 0.
        default_s: Granted when the caller sends no deadline, > margin_s + minimum_s.
        maximum_s: Upper bound whatever the caller sends, >= default_s.
    """

    margin_s: float = MARGIN_S
    minimum_s: float = MINIMUM_S
    default_s: float = DEFAULT_S
    maximum_s: float = MAXIMUM_S

    def __post_init__(self) -> None:
        if self.margin_s < 0 or self.minimum_s < 0:
            raise ValueError("margin_s and minimum_s must not be negative")
        if self.default_s <= self.margin_s + self.minimum_s:
            raise ValueError(f"default_s={self.default_s:g} leaves no time after margin_s and minimum_s")
        if self.maximum_s < self.default_s:
            raise ValueError(f"maximum_s={self.maximum_s:g} is below default_s={self.default_s:g}")

    def start(self, remaining_s: float | None, now_s: float) -> "Deadline":
        """Turn what the caller grants into the instant by which we answer.

        Args:
            remaining_s: Seconds until the caller's deadline, None when it sent none.
            now_s: Monotonic loop time, seconds.

        Raises:
            DeadlineTooShort: Less than `minimum_s` would be left after the margin.
        """
        granted_s = min(self.default_s if remaining_s is None else remaining_s, self.maximum_s)
        deadline = Deadline(at_s=now_s + granted_s - self.margin_s, minimum_s=self.minimum_s)
        deadline.require(now_s)
        return deadline


class Deadline(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The instant by which our answer must be ready.

    Attributes:
        at_s: Monotonic loop time, seconds; the margin is already taken off.
        minimum_s: Least time a further attempt may be started with.
    """

    at_s: float
    minimum_s: float = MINIMUM_S

    def remaining_s(self, now_s: float) -> float:
        """Seconds left at `now_s`, never negative: the timeout of whatever starts now."""
        left_s = self.at_s - now_s
        return left_s if left_s > 0 else 0.0

    def require(self, now_s: float, needed_s: float | None = None) -> float:
        """Return the seconds left, or refuse.

        Args:
            now_s: Monotonic loop time, seconds.
            needed_s: Least time that makes sense; None for the deadline's own minimum.

        Raises:
            DeadlineTooShort: Fewer than `needed_s` seconds are left.
        """
        needed_s = self.minimum_s if needed_s is None else needed_s
        left_s = self.remaining_s(now_s)
        if left_s < needed_s or left_s == 0.0:
            raise DeadlineTooShort(left_s, needed_s)
        return left_s
