"""The decision: score, costs, constraints and session in, one route with its reason out.

Rule: hard limits first, then continuity, then money, then the score; the first rule that binds is the reason.

    forced          the caller names the route; if that route cannot serve, there is no route
    capability      a route that cannot take the request is out (context window, media type, tools)
    open circuit    a route whose upstream is failing is out
    cost ceiling    a route whose expected cost is above the caller's ceiling, or unknown, is out
    tool loop       a tool loop in progress stays where it began
    follow-up       a bare follow-up ("yes", "go on") inherits the route of its session
    cost inversion  Opus is expected to cost no more than Flash: take Opus
    score           at or above the threshold: Opus; below: Flash
    no score        the configured default

The first four remove routes and are promises to the caller, so they stand before continuity: a tool loop
moves rather than break a ceiling. The threshold is the lowest of what the settings, the caller's quality
floor and the value of an answer ask for (see `threshold_of`).

Pure and deterministic. It does not know how a score or a cost was computed, which models stand behind a
route, nor whether the call will succeed; exploration is the caller's, who then records the propensity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from classifier.route import Route, Score


class Reason(StrEnum):
    """The rule that chose the route; the values are wire-stable."""

    FORCED = "forced"
    CAPABILITY = "capability"
    OPEN_CIRCUIT = "open_circuit"
    COST_CEILING = "cost_ceiling"
    TOOL_LOOP = "tool_loop"
    FOLLOW_UP = "follow_up"
    COST_INVERSION = "cost_inversion"
    SCORE_ABOVE_THRESHOLD = "score_above_threshold"
    SCORE_BELOW_THRESHOLD = "score_below_threshold"
    NO_SCORE = "no_score"


class NoRouteReason(StrEnum):
    """Why no route can serve; the service maps each to one status."""

    INCAPABLE = "incapable"
    FORCED_INCAPABLE = "forced_incapable"
    CIRCUITS_OPEN = "circuits_open"
    FORCED_CIRCUIT_OPEN = "forced_circuit_open"
    OVER_CEILING = "over_ceiling"
    FORCED_OVER_CEILING = "forced_over_ceiling"


class NoRoute(Exception):
    """No route can serve this request under its constraints.

    `INCAPABLE`, `FORCED_INCAPABLE`, `OVER_CEILING` and `FORCED_OVER_CEILING` are the request's to change;
    `CIRCUITS_OPEN` and `FORCED_CIRCUIT_OPEN` may pass by themselves, so a later try can work.
    """

    def __init__(self, reason: NoRouteReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def may_pass(self) -> bool:
        """Whether the same request may find a route later, unchanged."""
        return self.reason in (NoRouteReason.CIRCUITS_OPEN, NoRouteReason.FORCED_CIRCUIT_OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCosts:
    """Expected cost of this request on each route in nano-USD, given what is believed warm; None is unknown.

    Attributes:
        flash_nano_usd: On Flash.
        opus_nano_usd: On Opus with the planned breakpoints.
        opus_cold_nano_usd: On Opus if nothing were warm; for explanation only.
        opus_leaves_nano_usd: Expected value of the Opus cache this call would leave warm (economics: G), >=
            0.
    """

    flash_nano_usd: int | None = None
    opus_nano_usd: int | None = None
    opus_cold_nano_usd: int | None = None
    opus_leaves_nano_usd: int = 0

    def of(self, route: Route) -> int | None:
        """Expected cost of one route in nano-USD, or None if unknown."""
        return self.opus_nano_usd if route is Route.OPUS else self.flash_nano_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Incapable:
    """A route that cannot take the request, and why (one clause, no prompt text)."""

    route: Route
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What the caller, the request and the upstreams' state allow.

    Attributes:
        forced_route: The caller's own choice, or None.
        quality_floor: Least acceptable chance in [0, 1] that the chosen route's answer will do, or None.
        cost_ceiling_nano_usd: Most this request may be expected to cost, inclusive, or None.
        fallback_allowed: Whether the other route may be tried when the chosen one fails.
        incapable: Routes that cannot take the request; at most one entry per route.
        open_circuits: Routes whose upstream is refused for now.
    """

    forced_route: Route | None = None
    quality_floor: float | None = None
    cost_ceiling_nano_usd: int | None = None
    fallback_allowed: bool = True
    incapable: tuple[Incapable, ...] = ()
    open_circuits: frozenset[Route] = frozenset()

    def __post_init__(self) -> None:
        if self.quality_floor is not None and not 0.0 <= self.quality_floor <= 1.0:
            raise ValueError(f"quality_floor must be within [0, 1], got {self.quality_floor!r}")
        if self.cost_ceiling_nano_usd is not None and self.cost_ceiling_nano_usd < 0:
            raise ValueError(f"cost_ceiling_nano_usd must be >= 0, got {self.cost_ceiling_nano_usd!r}")

    def why_incapable(self, route: Route) -> str | None:
        """Why `route` cannot take the request, or None if it can."""
        return next((entry.why for entry in self.incapable if entry.route is route), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What of the session binds the route.

    Attributes:
        previous_route: Route of the session's last answered turn, or None.
        tool_loop_route: Route on which the running tool loop began, or None when none runs.
        turn_index: 0-based turn of this request.
        is_follow_up: Whether the turn is a bare follow-up (`classifier.followup.is_bare_follow_up`).
    """

    previous_route: Route | None = None
    tool_loop_route: Route | None = None
    turn_index: int = 0
    is_follow_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """What the operator sets.

    Attributes:
        threshold: Score at or above which a request goes to Opus, in [0, 1].
        default_route: Route when there is no score (no model loaded, or scoring failed).
        answer_value_nano_usd: What one needed Opus answer is worth (economics: V), > 0; None = fixed
            threshold.
        follow_cost_inversion: Whether Opus is taken when it is expected to cost no more than Flash.
    """

    threshold: float = 0.5
    default_route: Route = Route.FLASH
    answer_value_nano_usd: int | None = None
    follow_cost_inversion: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be within [0, 1], got {self.threshold!r}")
        if self.answer_value_nano_usd is not None and self.answer_value_nano_usd <= 0:
            raise ValueError(f"answer_value_nano_usd must be > 0, got {self.answer_value_nano_usd!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The route, why, and what would have changed it.

    Attributes:
        route: Where to call.
        reason: The first rule that bound.
        score: The model's score, or None if there was none.
        threshold: Cut that applied to the score, in [0, 1].
        margin: score.value - threshold; >= 0 is Opus's side; None without a score.
        fallback: Route to try if the chosen one fails, or None.
        propensity: Chance in (0, 1] with which this route was chosen; 1 unless the caller explored.
        overridden: Later rules that would have chosen the other route, in rule order.
        flips: Sentences, each naming one change that would flip the route; empty if nothing could.
        model_digest: Digest of the model that scored, or None.
    """

    route: Route
    reason: Reason
    score: Score | None
    threshold: float
    margin: float | None
    fallback: Route | None
    propensity: float = 1.0
    overridden: tuple[Reason, ...] = ()
    flips: tuple[str, ...] = field(default=())
    model_digest: str | None = None


def decide(
    score: Score | None,
    costs: RouteCosts,
    constraints: Constraints,
    session: SessionState,
    settings: PolicySettings,
) -> Decision:
    """Choose the route of one request.

    Raises:
        NoRoute: No route is left under the constraints, or the forced one cannot serve.
    """
    barred = {route: rule for route in Route if (rule := _bar(route, costs, constraints)) is not None}
    threshold = threshold_of(costs, constraints, settings)
    forced = constraints.forced_route
    if forced is not None and forced in barred:
        raise _no_forced_route(forced, barred[forced], costs, constraints)
    if len(barred) == len(Route):
        raise _no_route(barred, costs, constraints)

    (reason, route), *later = _preferences(score, costs, constraints, session, settings, barred, threshold)
    fallback = route.other if constraints.fallback_allowed and forced is None else None
    return Decision(
        route=route,
        reason=reason,
        score=score,
        threshold=threshold,
        margin=None if score is None else score.value - threshold,
        fallback=None if fallback in barred else fallback,
        overridden=tuple(rule for rule, choice in later if choice is not route),
        flips=_flips(reason, route, score, threshold, later, constraints, barred),
        model_digest=None if score is None else score.model_digest,
    )


def threshold_of(costs: RouteCosts, constraints: Constraints, settings: PolicySettings) -> float:
    """The cut on the score for one request, in [0, 1].

    With a value per answer V and both costs known it is (opus - flash - what Opus leaves warm) / V, the point
    where the expected benefit of Opus pays its extra cost (economics 5.1); otherwise the fixed threshold. A
    quality floor q can only lower it, to 1 - q: Flash's answer does with chance 1 - score, which must be at
    least q.
    """
    threshold = settings.threshold
    if (
        settings.answer_value_nano_usd is not None
        and costs.opus_nano_usd is not None
        and costs.flash_nano_usd is not None
    ):
        extra = costs.opus_nano_usd - costs.flash_nano_usd - costs.opus_leaves_nano_usd
        threshold = min(1.0, max(0.0, extra / settings.answer_value_nano_usd))
    if constraints.quality_floor is not None:
        threshold = min(threshold, 1.0 - constraints.quality_floor)
    return threshold


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
    barred: dict[Route, Reason],
    threshold: float,
) -> Iterator[tuple[Reason, Route]]:
    """Every rule that has an opinion, in order; the first one decides, the last always has one."""
    if constraints.forced_route is not None:
        yield Reason.FORCED, constraints.forced_route
    for route, rule in barred.items():
        yield rule, route.other
    if session.tool_loop_route is not None:
        yield Reason.TOOL_LOOP, session.tool_loop_route
    if session.is_follow_up and session.previous_route is not None:
        yield Reason.FOLLOW_UP, session.previous_route
    if (
        settings.follow_cost_inversion
        and costs.opus_nano_usd is not None
        and costs.flash_nano_usd is not None
        and costs.opus_nano_usd <= costs.flash_nano_usd
    ):
        yield Reason.COST_INVERSION, Route.OPUS
    if score is None:
        yield Reason.NO_SCORE, settings.default_route
    elif score.value >= threshold:
        yield Reason.SCORE_ABOVE_THRESHOLD, Route.OPUS
    else:
        yield Reason.SCORE_BELOW_THRESHOLD, Route.FLASH


_LIFTED = {
    Reason.FORCED: "no forced route",
    Reason.CAPABILITY: "a request that {other} can take",
    Reason.OPEN_CIRCUIT: "a closed circuit on {other}",
    Reason.COST_CEILING: "a cost ceiling that admits {other}",
    Reason.TOOL_LOOP: "no tool loop in progress",
    Reason.FOLLOW_UP: "a turn that stands on its own",
    Reason.COST_INVERSION: "Opus expected to cost more than Flash",
}


def _flips(
    reason: Reason,
    route: Route,
    score: Score | None,
    threshold: float,
    later: list[tuple[Reason, Route]],
    constraints: Constraints,
    barred: dict[Route, Reason],
) -> tuple[str, ...]:
    """Single changes that would send this request the other way.

    The deciding rule flips when lifting it lets the next one choose otherwise; forcing the other route always
    does, if that route can serve; a decision by score names the distance.
    """
    found: list[str] = []
    other = route.other
    if later:
        rule, choice = later[0]
        if choice is not route:
            found.append(f"{_LIFTED[reason].format(other=other)}: {rule} would choose {choice}")
    elif score is not None:
        side = "below" if route is Route.OPUS else "at or above"
        found.append(f"a score {side} {threshold:.3f} (it is {score.value:.3f}): {other}")
    else:
        found.append("a score: there is no model")
    if constraints.forced_route is None and other not in barred:
        found.append(f"forced route {other}")
    return tuple(found)


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
