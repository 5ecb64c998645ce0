"""The decision: score, costs, constraints and session in, one route with its reason out.

Rule: hard limits first, then continuity, then money, then the score; the first rule that binds is the reason.

    forced          the caller names the route; if that route cannot serve, there is no route
    capability      a route that cannot take the request is out (context window, media type, tools)
    open circuit    a route whose upstream is failing is out
    cost ceiling    a route whose expected cost is above the caller's ceiling, or unknown, is out
    tool loop       a tool loop in progress stays where it began
    budget          the operator's budget has no room for Opus: Flash, unless Opus is expected to cost no more
    follow-up       a bare follow-up ("yes", "go on") inherits the route of its session
    cost inversion  Opus is expected to cost no more than Flash: take Opus
    score           at or above the threshold: Opus; below: Flash; `budget` when it was a budget's shadow price that
                    put the score on this side of the configured cut
    no score        the configured default
    exploration     of what the score decided, a small share is drawn evenly at random (`classifier.exploration`)

The first four remove routes and are promises to the caller, so they stand before continuity: a tool loop
moves rather than break a ceiling. A budget never refuses a request and never ends a tool loop: forced routes, loops and
requests that only Opus can take are served, and counted. The threshold is the lowest of what the settings, the caller's
quality floor and the value of an answer ask for (see `classifier.thresholds`).

Pure and deterministic: the draw is passed in. It does not know how a score or a cost was computed, which models stand
behind a route, nor whether the call will succeed.
"""

from __future__ import annotations

from classifier.decision import (
    NO_BUDGET,
    Basis,
    Budget,
    Constraints,
    Decision,
    Incapable,
    NoRoute,
    NoRouteReason,
    PolicySettings,
    Reason,
    RouteCosts,
    SessionState,
)
from classifier.exploration import explored
from classifier.route import Route, Score
from classifier.thresholds import threshold_at, threshold_of

__all__ = [
    "NO_BUDGET",
    "Budget",
    "Constraints",
    "Decision",
    "Incapable",
    "NoRoute",
    "NoRouteReason",
    "PolicySettings",
    "Reason",
    "RouteCosts",
    "SessionState",
    "decide",
    "threshold_of",
]

# Looking a member up on its enum costs 60 ns on Python 3.11, a global 6 ns, and every request passes here.
FLASH, OPUS = Route.FLASH, Route.OPUS
BUDGET, ABOVE, BELOW = Reason.BUDGET, Reason.SCORE_ABOVE_THRESHOLD, Reason.SCORE_BELOW_THRESHOLD
_FREE: dict[Route, Reason] = {}


def decide(
    score: Score | None,
    costs: RouteCosts,
    constraints: Constraints,
    session: SessionState,
    settings: PolicySettings,
    budget: Budget = NO_BUDGET,
    draw: float | None = None,
) -> Decision:
    """Choose the route of one request.

    Args:
        budget: What the operator's budget says of it.
        draw: Number in [0, 1) that decides exploration; None gives the decision without a draw, at the same chance.

    Raises:
        NoRoute: No route is left under the constraints, or the forced one cannot serve.
    """
    barred = _barred(costs, constraints)
    forced = constraints.forced_route
    if barred:
        if forced is not None and forced in barred:
            raise _no_forced_route(forced, barred[forced], costs, constraints)
        if len(barred) == 2:
            raise _no_route(barred, costs, constraints)
    value = budget.answer_value_nano_usd
    if value is None:
        value = settings.answer_value_nano_usd
    threshold = threshold_at(costs, constraints, settings, value)
    preferences = _preferences(score, costs, constraints, session, settings, budget, barred, threshold)
    reason, route = preferences[0]
    fallback = route.other if constraints.fallback_allowed and forced is None else None
    decision = Decision(
        route=route,
        reason=reason,
        score=score,
        threshold=threshold,
        margin=None if score is None else score.value - threshold,
        fallback=None if fallback in barred else fallback,
        overridden=tuple([rule for rule, choice in preferences[1:] if choice is not route])
        if len(preferences) > 1
        else (),
        model_digest=None if score is None else score.model_digest,
        answer_value_nano_usd=value,
        opus_leaves_nano_usd=costs.opus_leaves_nano_usd,
        basis=Basis(tuple(preferences[1:]), forced is not None, route.other in barred),
    )
    if settings.exploration_share and constraints.exploration_allowed and len(preferences) == 1:
        return explored(decision, settings, draw)
    return decision


def _barred(costs: RouteCosts, constraints: Constraints) -> dict[Route, Reason]:
    """The routes that are out, each by the first rule that removes it."""
    if (
        not constraints.incapable
        and not constraints.open_circuits
        and constraints.cost_ceiling_nano_usd is None
    ):
        return _FREE
    return {route: rule for route in Route if (rule := _bar(route, costs, constraints)) is not None}


def _bar(route: Route, costs: RouteCosts, constraints: Constraints) -> Reason | None:
    """The first rule that removes `route`, or None if it may serve."""
    if constraints.incapable and constraints.why_incapable(route) is not None:
        return Reason.CAPABILITY
    if route in constraints.open_circuits:
        return Reason.OPEN_CIRCUIT
    ceiling = constraints.cost_ceiling_nano_usd
    if ceiling is not None:
        cost = costs.of(route)
        if cost is None or cost > ceiling:  # unknown is not zero: it cannot be shown to keep the promise
            return Reason.COST_CEILING
    return None


def _preferences(
    score: Score | None,
    costs: RouteCosts,
    constraints: Constraints,
    session: SessionState,
    settings: PolicySettings,
    budget: Budget,
    barred: dict[Route, Reason],
    threshold: float,
) -> list[tuple[Reason, Route]]:
    """Every rule that has an opinion, in order; the first one decides, the last always has one."""
    found: list[tuple[Reason, Route]] = []
    if constraints.forced_route is not None:
        found.append((Reason.FORCED, constraints.forced_route))
    for route, rule in barred.items():
        found.append((rule, route.other))
    if session.tool_loop_route is not None:
        found.append((Reason.TOOL_LOOP, session.tool_loop_route))
    opus, flash = costs.opus_nano_usd, costs.flash_nano_usd
    inverted = settings.follow_cost_inversion and opus is not None and flash is not None and opus <= flash
    if not budget.opus_fits and not inverted:
        found.append((BUDGET, FLASH))
    if session.is_follow_up and session.previous_route is not None:
        found.append((Reason.FOLLOW_UP, session.previous_route))
    if inverted:
        found.append((Reason.COST_INVERSION, OPUS))
    if score is None:
        found.append((Reason.NO_SCORE, settings.default_route))
        return found
    above = score.value >= threshold
    reason = ABOVE if above else BELOW
    if budget.answer_value_nano_usd is not None and budget.opus_fits:
        configured = threshold_at(costs, constraints, settings, settings.answer_value_nano_usd)
        if (score.value >= configured) is not above:
            reason = BUDGET
    found.append((reason, OPUS if above else FLASH))
    return found


def _no_forced_route(route: Route, rule: Reason, costs: RouteCosts, constraints: Constraints) -> NoRoute:
    """The error for a forced route that is barred."""
    match rule:
        case Reason.CAPABILITY:
            why_other = constraints.why_incapable(route.other)
            advice = f"force {route.other} or leave the route open"
            if why_other:
                advice = f"nor can {route.other}: {why_other}"
            return NoRoute(
                NoRouteReason.FORCED_INCAPABLE,
                f"the forced route {route} cannot take this request: {constraints.why_incapable(route)}; {advice}",
            )
        case Reason.OPEN_CIRCUIT:
            return NoRoute(
                NoRouteReason.FORCED_CIRCUIT_OPEN,
                f"the upstream of the forced route {route} is failing; retry later or leave the route open",
            )
        case _:
            return NoRoute(
                NoRouteReason.FORCED_OVER_CEILING,
                f"the forced route {route} is expected to cost {_nano(costs.of(route))}, the ceiling is "
                f"{constraints.cost_ceiling_nano_usd} nano-USD; raise the ceiling or leave the route open",
            )


def _no_route(barred: dict[Route, Reason], costs: RouteCosts, constraints: Constraints) -> NoRoute:
    """The error when every route is barred; an open circuit wins, because then a later try may work."""
    rules = set(barred.values())
    if Reason.OPEN_CIRCUIT in rules:
        reason = NoRouteReason.CIRCUITS_OPEN
    elif Reason.COST_CEILING in rules:
        reason = NoRouteReason.OVER_CEILING
    else:
        reason = NoRouteReason.INCAPABLE
    parts = []
    for route, rule in barred.items():
        match rule:
            case Reason.CAPABILITY:
                parts.append(f"{route} cannot take this request ({constraints.why_incapable(route)})")
            case Reason.OPEN_CIRCUIT:
                parts.append(f"{route}'s upstream is failing")
            case _:
                parts.append(f"{route} is expected to cost {_nano(costs.of(route))}")
    ceiling = constraints.cost_ceiling_nano_usd
    limit = f"; the ceiling is {ceiling} nano-USD" if Reason.COST_CEILING in rules else ""
    return NoRoute(reason, f"no route can serve: {' and '.join(parts)}{limit}")


def _nano(cost: int | None) -> str:
    return "an unknown amount" if cost is None else f"{cost} nano-USD"
