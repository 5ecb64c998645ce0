"""Whether a new model does worse than the one before, by bounds that hold however often one looks.

Every decision of a model is a trial; it is bad when what followed says so (`router.guard` says what). Of `count` trials
`bad` were bad. Robbins' mixture gives an interval for the share p of bad ones that holds at every count at once: the
ratio

    M(p) = integral of q^k (1-q)^(n-k) dBeta(q; 1/2, 1/2)  /  p^k (1-p)^(n-k)

is a martingale of mean 1 when p is the share, whatever the count is stopped at, so (Ville) it exceeds 1/alpha ever with
chance alpha at most; the interval is where it does not. Half of alpha goes to each model, so the worsening

    lower end of the new one's share - upper end of the old one's

is above the true worsening, ever, with chance alpha at most, though it is computed after every single outcome.

Rule: pure arithmetic. Outcomes that are not known yet count as not bad; they are missing more of the new model than of
the old, which makes it look better: a rollback is late by that, never early. The two models saw different hours of
traffic: what changed in the traffic at the same time is laid at the new model's door.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma, log
from typing import Final

ALPHA: Final = 0.05
"""Chance that a model no worse than the one before is ever judged to be."""
_BISECTIONS: Final = 40
_PRIOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Tally:
    """Trials of one model.

    Attributes:
        count: Decisions.
        bad: Those of them known to have turned out badly.
    """

    count: int
    bad: int


def interval(tally: Tally, alpha: float) -> tuple[float, float]:
    """Bounds in [0, 1] of the share of bad trials that hold at all counts together with chance 1 - alpha."""
    count, bad = tally.count, tally.bad
    if count == 0:
        return 0.0, 1.0
    limit = _log_beta(bad + _PRIOR, count - bad + _PRIOR) - _log_beta(_PRIOR, _PRIOR) + log(alpha)

    def excluded(share: float) -> bool:
        return _log_likelihood(share, bad, count) < limit

    seen = bad / count
    low = _crossing(0.0, seen, excluded) if bad else 0.0
    high = _crossing(1.0, seen, excluded) if bad < count else 1.0
    return low, high


def worsening(before: Tally, after: Tally, alpha: float = ALPHA) -> float:
    """Lower bound in [-1, 1] of how much larger the share of bad trials is after than before."""
    _, before_high = interval(before, alpha / 2)
    after_low, _ = interval(after, alpha / 2)
    return after_low - before_high


def _crossing(outside: float, inside: float, excluded: Callable[[float], bool]) -> float:
    """The end of the interval between a share outside it and the one observed, on the outer side."""
    if not excluded(outside):
        return outside
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_likelihood(share: float, bad: int, count: int) -> float:
    if share <= 0.0:
        return 0.0 if bad == 0 else float("-inf")
    if share >= 1.0:
        return 0.0 if bad == count else float("-inf")
    return bad * log(share) + (count - bad) * log(1.0 - share)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
