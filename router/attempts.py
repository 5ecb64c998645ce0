"""What to do after a failed attempt: again, the other route, or give up. A value from a pure function.

The rule: never a second answer after the first byte, never a wait that outlives the deadline, never a retry of what
will be refused again, nor of what the circuit breaker holds back. Who kept silent until the attempt was given up is
not asked again where the other route may be: the same silence would use up its time. A provider that asks for a longer
wait than ours is not waited for: the other route or the caller is told instead, because a caller can use thirty seconds
better than we can.
"""

from dataclasses import dataclass
from enum import StrEnum

from classifier.route import Route
from router.errors import UpstreamError, UpstreamTimeout

BACKOFF_BASE_S = 0.25
"""First wait when the provider names none; doubles with each retry."""
USEFUL_TIME_S = 0.5
"""A retry that would start with less than this before the deadline is not worth its price."""


class Next(StrEnum):
    """What follows a failed attempt."""

    AGAIN = "again"
    OTHER_ROUTE = "other_route"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Step:
    """The next step.

    Attributes:
        wait_s: Time to wait first; 0 for none.
        reason: Why, for the trace.
    """

    next: Next
    wait_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """What the operator allows.

    Attributes:
        retry_limit: Further tries on the same route.
        wait_limit_s: Longest wait before a retry.
        attempt_share: Share of the time left that a unary attempt may use when another could follow; 0 for all.
    """

    retry_limit: int
    wait_limit_s: float
    attempt_share: float = 0.0


def after_failure(
    error: UpstreamError,
    *,
    tries_on_route: int,
    fallback: Route | None,
    held_back: bool,
    answer_begun: bool,
    remaining_s: float,
    jitter: float,
    limits: RetryLimits,
) -> Step:
    """Choose what follows a failed attempt.

    Args:
        error: How it failed.
        tries_on_route: Attempts made on this route, this one included.
        fallback: Route that may be taken instead and has not been tried; None for none.
        held_back: Whether the circuit breaker holds calls to this route back now.
        answer_begun: Whether the caller has already received content.
        remaining_s: Time left before the deadline.
        jitter: Drawn in [0, 1], so that callers spread out: scales the backoff between half and whole, and puts off a
            wait the provider named by up to BACKOFF_BASE_S.
        limits: What the operator allows.
    """
    if answer_begun:
        return Step(Next.GIVE_UP, 0.0, "the answer had begun")
    is_silent = isinstance(error, UpstreamTimeout) and fallback is not None
    if error.retryable and not held_back and not is_silent and tries_on_route <= limits.retry_limit:
        wait_s = _wait_s(error.retry_after_s, tries_on_route, jitter, limits)
        if wait_s <= limits.wait_limit_s and wait_s + USEFUL_TIME_S <= remaining_s:
            return Step(Next.AGAIN, wait_s, f"{error.reason} may pass")
    if fallback is not None and error.other_route_may_help and remaining_s >= USEFUL_TIME_S:
        return Step(Next.OTHER_ROUTE, 0.0, f"{error.reason}: the other route is allowed")
    return Step(Next.GIVE_UP, 0.0, f"{error.reason}: nothing else is allowed in the time left")


def timeout_s(remaining_s: float, share: float, answer_s: float) -> float:
    """How long a unary attempt may take that another could follow.

    Args:
        remaining_s: Time left before the deadline.
        share: Part of it that the attempt may use, in [0, 1]; 0 for all.
        answer_s: Longest that a healthy provider may need: the attempt gets that in any case, if it is there.
    """
    if not share:
        return remaining_s
    return min(remaining_s, max(share * remaining_s, answer_s))


def _wait_s(told_s: float | None, tries_on_route: int, jitter: float, limits: RetryLimits) -> float:
    """The provider's own wait or, when it names none, a backoff that doubles with each try."""
    if told_s is None:
        return BACKOFF_BASE_S * 2.0 ** (tries_on_route - 1) * (0.5 + jitter / 2)
    told_s = max(told_s, 0.0)
    # Everybody it refused was told the same: they must not come back in one instant, nor be turned away for jitter.
    return (
        told_s if told_s > limits.wait_limit_s else min(told_s + jitter * BACKOFF_BASE_S, limits.wait_limit_s)
    )
