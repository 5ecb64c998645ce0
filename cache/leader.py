"""What each way of keeping one prefix would have cost, from its gaps.

The rule: a gap between two uses, once seen, prices every fixed policy (no caching, 5 minutes, 1 hour) whatever was
done at the time, so nothing has to be tried out to be judged. The costs are linear in three counts (gaps within
5 minutes, within the hour, in all), so the counts are kept, discounted, and any price list can be applied later.
The leader is the policy with the smallest sum. It does not know keep-alives, nor which prefix it is about.
"""

from dataclasses import dataclass
from typing import NamedTuple

from cache.economics import Rates
from cache.forecast import Forecast
from cache.rules import TTL_1H_S, TTL_5M_S

DISCOUNT = 0.99
"""Weight a gap keeps after the next one: the last hundred decide, so a change of use shows within a day's work."""
PRIOR_GAPS = 5.0
"""Gaps the prior counts for."""


class PolicyCosts(NamedTuple):
    """Units per token and gap that each fixed policy would have paid, discounted sum."""

    none: float
    ttl_5m: float
    ttl_1h: float


@dataclass(slots=True)
class Gaps:
    """Discounted counts of one prefix's gaps."""

    seen: float = 0.0
    within_5m: float = 0.0
    within_1h: float = 0.0

    def add(self, gap_s: float, kept: float = 1.0) -> None:
        """Count a gap, in seconds, between the starts of two uses.

        Args:
            kept: Weight in [0, 1] that age leaves to the gaps before it.
        """
        kept *= DISCOUNT
        self.seen = self.seen * kept + 1
        self.within_5m = self.within_5m * kept + (gap_s < TTL_5M_S)
        self.within_1h = self.within_1h * kept + (gap_s < TTL_1H_S)

    def costs(self, rates: Rates) -> PolicyCosts:
        """What every policy of the menu would have cost over these gaps."""
        return PolicyCosts(
            self.seen,
            rates.read * self.within_5m + rates.write_5m * (self.seen - self.within_5m),
            rates.read * self.within_1h + rates.write_1h * (self.seen - self.within_1h),
        )

    def leader(self, rates: Rates) -> int | None:
        """TTL of the cheapest policy in seconds; None: not to cache, which also wins ties."""
        costs = self.costs(rates)
        best = min(costs)
        if costs.none <= best:
            return None
        return TTL_5M_S if costs.ttl_5m <= best else TTL_1H_S

    def forecast(self, prior_5m: float, prior_1h: float, kept: float = 1.0) -> Forecast:
        """The shares as chances, shrunk to the prior's; the planner's expected values then choose as the leader does.

        Args:
            kept: Weight in [0, 1] that age leaves to the gaps.
        """
        whole = self.seen * kept + PRIOR_GAPS
        p_5m = (self.within_5m * kept + PRIOR_GAPS * prior_5m) / whole
        p_1h = (self.within_1h * kept + PRIOR_GAPS * prior_1h) / whole
        return Forecast(p_5m, p_1h if p_1h > p_5m else p_5m)
