"""The cut on the score: fixed, or where the expected benefit of Opus pays what it costs in this cache state.

The rule (economics 5.1): with V nano-USD per needed Opus answer, and b the calibrated chance that one is needed,

    Opus iff  V b >= c_O - c_G - G,    so the cut on b is (c_O - c_G - G) / V

c_O and c_G are what the request is expected to cost on each route given what is warm there now, G is what the cache
that Opus leaves warm is expected to save the session's next turn. The three together make the router stay where it is
warm: threshold(cold) - threshold(warm) = (w - r) p_O H / V for a history of H tokens, and no rule about switching is
needed.

G is one step ahead, no more: it supposes that the next turn finds nothing warm unless this one leaves it (economics
5.1 measured full look-ahead as no better). It knows no clock and no cache; all money comes in.
"""

from __future__ import annotations

from classifier.decision import Constraints, PolicySettings, RouteCosts


def threshold_of(costs: RouteCosts, constraints: Constraints, settings: PolicySettings) -> float:
    """The cut on the score for one request by the settings, in [0, 1].

    With a value per answer V and both costs known it is (opus - flash - what Opus leaves warm) / V; otherwise the fixed
    threshold. A quality floor q can only lower it, to 1 - q: Flash's answer does with chance 1 - score, which must be
    at least q.
    """
    return threshold_at(costs, constraints, settings, settings.answer_value_nano_usd)


def threshold_at(
    costs: RouteCosts, constraints: Constraints, settings: PolicySettings, value_nano_usd: int | None
) -> float:
    """The same at another value per answer, e.g. a budget's shadow price; None is the fixed threshold."""
    threshold = settings.threshold
    if value_nano_usd is not None:
        opus, flash = costs.opus_nano_usd, costs.flash_nano_usd
        if opus is not None and flash is not None:
            extra = opus - flash - costs.opus_leaves_nano_usd
            threshold = 0.0 if extra <= 0 else 1.0 if extra >= value_nano_usd else extra / value_nano_usd
    if constraints.quality_floor is not None:
        threshold = min(threshold, 1.0 - constraints.quality_floor)
    return threshold


def leaves_warm_nano_usd(write_premium_nano_usd: int, p_opus_next: float) -> int:
    """G: what the private cache that Opus leaves is expected to save the next turn, whole nano-USD.

    Args:
        write_premium_nano_usd: Sum over the private breakpoints of P(another turn before it expires) times (w - r)
            times Opus's input price times the tokens it adds, >= 0.
        p_opus_next: Chance in [0, 1] that this next turn goes to Opus (`wanted_next`).
    """
    return round(write_premium_nano_usd * p_opus_next)


PRIOR_WISH = 0.25
"""Mean score before any of a session was seen: 15 to 30 % of the shipped workload goes to Opus."""
PRIOR_WEIGHT = 1.0
"""Turns the prior counts for: difficulty persists within a session, so it is soon outweighed."""
MEMORY_TURNS = 4
"""Turns the running mean remembers, so that a conversation that changes its subject is followed."""


def wanted_next(score: float | None, mean: float, turn_count: int) -> float:
    """P(the session's next turn wants Opus), by the running mean of its scores, shrunk to the prior.

    Args:
        score: Of this turn, in [0, 1]; None when it says nothing (no model, a bare follow-up).
        mean: Running mean of the session's earlier scores (`mean_score`); any number when there were none.
        turn_count: Scored turns before this one.
    """
    weight = float(min(turn_count, MEMORY_TURNS))
    total = PRIOR_WEIGHT * PRIOR_WISH + weight * mean
    weight += PRIOR_WEIGHT
    if score is not None:
        total, weight = total + score, weight + 1.0
    return total / weight


def mean_score(mean: float, turn_count: int, score: float) -> float:
    """The running mean with one more score; older turns than `MEMORY_TURNS` fade."""
    return mean + (score - mean) / min(turn_count + 1, MEMORY_TURNS)
