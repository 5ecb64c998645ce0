"""The chance that a prefix is used again soon, per layer: what the planner needs to know of the future.

The rule: a forecast is of the gap from this request's start to the next use of the same prefix on the same
route. Where nobody has observed anything, the priors here hold. They sit below break-even for a
conversation's first turn and above it from the second on: on recorded chat three quarters of conversations
never came back within five minutes (P = 0.185 after the first turn), while those that did mostly went on. Of the
longer gaps, 36 % are taken to end within the hour: a little below the break-even of the hour's dearer write (0.385
to 0.395), so that nothing is written for an hour before evidence, and little evidence is needed.
`cache.demand` replaces them by what it counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cache.prompt import Layer, Prompt
from cache.rules import TTL_1H_S


class Kept(NamedTuple):
    """What a token is worth at the first gap of more than 5 minutes, keep-alives and their cost included, in units.

    Attributes:
        five: Of one written for 5 minutes, at least 0.
        hour: Of one written for an hour, its dearer write taken off.
    """

    five: float
    hour: float


class Forecast(NamedTuple):
    """Chance of the next use of one prefix.

    Attributes:
        p_5m: P(gap < 5 minutes).
        p_1h: P(gap < 1 hour), at least `p_5m`.
        kept: What keep-alives change about that; None where none are sent.
    """

    p_5m: float
    p_1h: float
    kept: Kept | None = None

    def reads(self, ttl_s: int) -> float:
        """Expected reads after one write before it lapses, each restarting the clock; at most 1,000."""
        p = self.p_1h if ttl_s >= TTL_1H_S else self.p_5m
        return min(1000.0, p / (1 - p)) if p < 1 else 1000.0


Forecasts = Sequence[Forecast]
"""One forecast per layer, indexed by `Layer`."""

_SHARED = Forecast(0.80, 0.95)
FIRST_TURN: Forecasts = (_SHARED, _SHARED, Forecast(0.20, 0.30), Forecast(0.185, 0.48), Forecast(0.185, 0.48))
"""Before anything is known, for a prompt without history."""
LATER_TURN: Forecasts = (_SHARED, _SHARED, Forecast(0.55, 0.66), Forecast(0.50, 0.68), Forecast(0.50, 0.68))
"""Before anything is known, for a prompt with history."""


def prior_forecasts(prompt: Prompt) -> Forecasts:
    """Forecasts for a prompt nobody has seen the like of."""
    return FIRST_TURN if prompt.ends[Layer.HISTORY] < 0 else LATER_TURN
