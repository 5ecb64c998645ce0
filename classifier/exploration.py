"""Exploration: of the requests that the score decides, a small share is drawn evenly at random.

The rule: with chance e (`exploration_share`) the route is drawn, each with chance one half; else the decision stands.
So the decided route is taken with chance 1 - e/2 and the other with e/2, and that is the propensity of EVERY request
that could have been drawn, drawn or not: an estimate of what another policy would have cost divides by it.

Only safe ones are drawn: both routes can serve, are within the caller's ceiling and the operator's budget, and nothing
but the score spoke (no forced route, tool loop, follow-up or cost inversion), and the caller did not forbid it. With a
band, only where the score is close to the threshold: there a wrong route costs least and an answer teaches most. What
was drawn is marked, also where the draw gave the route that was decided: those marked are a fair sample of both.

The draw is made from the id the request is booked under (`draw_of`), so that it can be checked from the ledger years
later; a caller cannot choose it, because an id of the caller's own gets a random suffix before. Pure.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec.structs import replace

from classifier.decision import Decision, PolicySettings, Reason

_BY_SCORE = frozenset({Reason.SCORE_ABOVE_THRESHOLD, Reason.SCORE_BELOW_THRESHOLD, Reason.BUDGET})


def explored(decision: Decision, settings: PolicySettings, draw: float | None) -> Decision:
    """The decision after the draw, or as it is when it may not be drawn.

    Args:
        decision: One that a single rule made: nothing else had an opinion.
        draw: Number in [0, 1); None: no draw is made, only its chance is told.
    """
    share, band = settings.exploration_share, settings.exploration_band
    margin = decision.margin
    if margin is None or decision.reason not in _BY_SCORE or (band is not None and abs(margin) > band):
        return decision
    propensity = 1.0 - share / 2
    if draw is None or draw >= share:
        return replace(decision, propensity=propensity, explorable=True)
    basis = decision.basis._replace(later=((decision.reason, decision.route),))
    if draw >= share / 2:
        return replace(
            decision,
            reason=Reason.EXPLORATION,
            propensity=propensity,
            explored=True,
            explorable=True,
            basis=basis,
        )
    route = decision.route.other
    return replace(
        decision,
        route=route,
        reason=Reason.EXPLORATION,
        fallback=None if decision.fallback is None else decision.route,
        propensity=share / 2,
        explored=True,
        explorable=True,
        overridden=(decision.reason,),
        basis=basis,
    )


def draw_of(request_id: str) -> float:
    """The request's number in [0, 1): uniform over ids, the same for the same id on every machine."""
    return int.from_bytes(blake2b(request_id.encode(), digest_size=7).digest(), "big") / (1 << 56)
