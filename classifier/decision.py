"""The values a decision is made of: costs, constraints, session, settings and budget in; a decision out.

The rule: frozen values, checked where they are made; nothing here decides. Money is whole nano-USD (1e-9 USD), None is
unknown and never 0. What is made for every request is a msgspec Struct, which costs a third of a dataclass.
`classifier.policy` holds the rules over them and gives them all under its own name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

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
    BUDGET = "budget"
    EXPLORATION = "exploration"
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


class RouteCosts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


class Constraints(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the caller, the request and the upstreams' state allow.

    Attributes:
        forced_route: The caller's own choice, or None.
        quality_floor: Least acceptable chance in [0, 1] that the chosen route's answer will do, or None.
        cost_ceiling_nano_usd: Most this request may be expected to cost, inclusive, or None.
        fallback_allowed: Whether the other route may be tried when the chosen one fails.
        incapable: Routes that cannot take the request; at most one entry per route.
        open_circuits: Routes whose upstream is refused for now.
        exploration_allowed: Whether the route may be drawn at random.
    """

    forced_route: Route | None = None
    quality_floor: float | None = None
    cost_ceiling_nano_usd: int | None = None
    fallback_allowed: bool = True
    incapable: tuple[Incapable, ...] = ()
    open_circuits: frozenset[Route] = frozenset()
    exploration_allowed: bool = True

    def __post_init__(self) -> None:
        if self.quality_floor is not None and not 0.0 <= self.quality_floor <= 1.0:
            raise ValueError(f"quality_floor must be within [0, 1], got {self.quality_floor!r}")
        if self.cost_ceiling_nano_usd is not None and self.cost_ceiling_nano_usd < 0:
            raise ValueError(f"cost_ceiling_nano_usd must be >= 0, got {self.cost_ceiling_nano_usd!r}")

    def why_incapable(self, route: Route) -> str | None:
        """Why `route` cannot take the request, or None if it can."""
        return next((entry.why for entry in self.incapable if entry.route is route), None)


class SessionState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
        exploration_share: Share of the requests decided by score whose route is drawn evenly at random, in [0, 1].
        exploration_band: Draw only where the score is at most this far from the threshold; None: everywhere.
    """

    threshold: float = 0.5
    default_route: Route = Route.FLASH
    answer_value_nano_usd: int | None = None
    follow_cost_inversion: bool = True
    exploration_share: float = 0.0
    exploration_band: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be within [0, 1], got {self.threshold!r}")
        if self.answer_value_nano_usd is not None and self.answer_value_nano_usd <= 0:
            raise ValueError(f"answer_value_nano_usd must be > 0, got {self.answer_value_nano_usd!r}")
        if not 0.0 <= self.exploration_share <= 1.0:
            raise ValueError(f"exploration_share must be within [0, 1], got {self.exploration_share!r}")
        if self.exploration_band is not None and not 0.0 <= self.exploration_band <= 1.0:
            raise ValueError(f"exploration_band must be within [0, 1], got {self.exploration_band!r}")


class Budget(NamedTuple):
    """What a budget, a share or a quality floor held over many requests says of this one.

    Attributes:
        answer_value_nano_usd: Its shadow price: what one needed Opus answer may cost now, > 0; None: it has no say.
        opus_fits: Whether Opus may be paid for at all; False sends what is free to choose to Flash.
    """

    answer_value_nano_usd: int | None = None
    opus_fits: bool = True


NO_BUDGET = Budget()


class Basis(NamedTuple):
    """What a decision was made of, kept to say what would have changed it."""

    later: tuple[tuple[Reason, Route], ...]
    forced: bool
    other_barred: bool


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The route, why, and what would have changed it.

    Attributes:
        route: Where to call.
        reason: The first rule that bound.
        score: The model's score, or None if there was none.
        threshold: Cut that applied to the score, in [0, 1].
        margin: score.value - threshold; >= 0 is Opus's side; None without a score.
        fallback: Route to try if the chosen one fails, or None.
        propensity: Chance in (0, 1] with which this route was chosen; 1 unless the request could be explored.
        overridden: Later rules that would have chosen the other route, in rule order.
        model_digest: Digest of the model that scored, or None.
        explored: Whether the route was drawn at random.
        explorable: Whether it could have been.
        answer_value_nano_usd: What one needed Opus answer was taken to be worth; None under a fixed threshold.
        opus_leaves_nano_usd: Expected value of the cache that Opus would leave warm, >= 0.
        basis: What `flips` is made from.
    """

    route: Route
    reason: Reason
    score: Score | None
    threshold: float
    margin: float | None
    fallback: Route | None
    propensity: float = 1.0
    overridden: tuple[Reason, ...] = ()
    model_digest: str | None = None
    explored: bool = False
    explorable: bool = False
    answer_value_nano_usd: int | None = None
    opus_leaves_nano_usd: int = 0
    basis: Basis = Basis((), False, False)

    @property
    def by_score(self) -> bool:
        """Whether the score was compared with the threshold, and that chose the route or would have but for a draw."""
        return self.margin is not None and (
            self.explorable
            or self.reason in (Reason.SCORE_ABOVE_THRESHOLD, Reason.SCORE_BELOW_THRESHOLD)
            or (self.reason is Reason.BUDGET and not self.basis.later)
        )

    @property
    def flips(self) -> tuple[str, ...]:
        """Sentences, each naming one change that would flip the route; made when they are read.

        The deciding rule flips when lifting it lets the next one choose otherwise; forcing the other route always does,
        if that route can serve; a decision by score names the distance.
        """
        found: list[str] = []
        other = self.route.other
        if self.basis.later:
            rule, choice = self.basis.later[0]
            if choice is not self.route:
                found.append(f"{_LIFTED[self.reason].format(other=other)}: {rule} would choose {choice}")
        elif self.score is not None:
            side = "below" if self.route is Route.OPUS else "at or above"
            found.append(f"a score {side} {self.threshold:.3f} (it is {self.score.value:.3f}): {other}")
        else:
            found.append("a score: there is no model")
        if not self.basis.forced and not self.basis.other_barred:
            found.append(f"forced route {other}")
        return tuple(found)


_LIFTED = {
    Reason.FORCED: "no forced route",
    Reason.CAPABILITY: "a request that {other} can take",
    Reason.OPEN_CIRCUIT: "a closed circuit on {other}",
    Reason.COST_CEILING: "a cost ceiling that admits {other}",
    Reason.TOOL_LOOP: "no tool loop in progress",
    Reason.BUDGET: "a budget with room for Opus",
    Reason.FOLLOW_UP: "a turn that stands on its own",
    Reason.COST_INVERSION: "Opus expected to cost more than Flash",
    Reason.EXPLORATION: "no draw",
}
