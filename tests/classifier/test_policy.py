"""The decision: rules in order, limits never broken, monotone in the score, deterministic."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from classifier.exploration import draw_of
from classifier.policy import (
    NO_BUDGET,
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
    decide,
    threshold_of,
)
from classifier.route import Route, Score

FLASH, OPUS = Route.FLASH, Route.OPUS
COSTS = RouteCosts(flash_nano_usd=1_000, opus_nano_usd=9_000, opus_cold_nano_usd=20_000)
FREE = Constraints()
NEW = SessionState()
SETTINGS = PolicySettings()


def scored(value: float) -> Score:
    return Score(value=value, raw=0.0, model_digest="abc")


costs_of_a_route = st.none() | st.integers(0, 10**6)
maybe_route = st.none() | st.sampled_from(Route)
costs = st.builds(
    RouteCosts,
    flash_nano_usd=costs_of_a_route,
    opus_nano_usd=costs_of_a_route,
    opus_leaves_nano_usd=st.integers(0, 10**5),
)
constraints = st.builds(
    Constraints,
    forced_route=maybe_route,
    quality_floor=st.none() | st.floats(0, 1),
    cost_ceiling_nano_usd=st.none() | st.integers(0, 10**6),
    fallback_allowed=st.booleans(),
    incapable=st.sets(st.sampled_from(Route), max_size=2).map(
        lambda routes: tuple(Incapable(route=route, why="too long") for route in sorted(routes))
    ),
    open_circuits=st.frozensets(st.sampled_from(Route)),
)
sessions = st.builds(
    SessionState,
    previous_route=maybe_route,
    tool_loop_route=maybe_route,
    turn_index=st.integers(0, 9),
    is_follow_up=st.booleans(),
)
settings_ = st.builds(
    PolicySettings,
    threshold=st.floats(0, 1),
    default_route=st.sampled_from(Route),
    answer_value_nano_usd=st.none() | st.integers(1, 10**6),
    follow_cost_inversion=st.booleans(),
)
scores = st.none() | st.floats(0, 1).map(scored)


def attempt(
    score: Score | None, c: RouteCosts, k: Constraints, s: SessionState, p: PolicySettings
) -> Decision | NoRoute:
    try:
        return decide(score, c, k, s, p)
    except NoRoute as error:
        return error


@given(scores, costs, constraints, sessions, settings_)
def test_a_decision_never_breaks_a_limit(
    score: Score | None, c: RouteCosts, k: Constraints, s: SessionState, p: PolicySettings
) -> None:
    """Neither route nor fallback is incapable, cut off or above the ceiling, and a forced route is obeyed."""
    decision = attempt(score, c, k, s, p)
    assume(isinstance(decision, Decision))
    assert isinstance(decision, Decision)
    for route in filter(None, (decision.route, decision.fallback)):
        assert k.why_incapable(route) is None
        assert route not in k.open_circuits
        if k.cost_ceiling_nano_usd is not None:
            cost = c.of(route)
            assert cost is not None
            assert cost <= k.cost_ceiling_nano_usd
    assert decision.fallback is not decision.route
    assert k.forced_route in (None, decision.route)
    assert k.fallback_allowed or decision.fallback is None


@given(scores, costs, constraints, sessions, settings_)
def test_no_route_is_reported_only_when_none_is_left(
    score: Score | None, c: RouteCosts, k: Constraints, s: SessionState, p: PolicySettings
) -> None:
    """A refusal means: no route passes the limits, or the forced one does not."""
    outcome = attempt(score, c, k, s, p)

    def passes(route: Route) -> bool:
        cost, ceiling = c.of(route), k.cost_ceiling_nano_usd
        affordable = ceiling is None or (cost is not None and cost <= ceiling)
        return k.why_incapable(route) is None and route not in k.open_circuits and affordable

    wanted = [k.forced_route] if k.forced_route is not None else list(Route)
    assert isinstance(outcome, NoRoute) == (not any(passes(route) for route in wanted))


@given(st.floats(0, 1), st.floats(0, 1), costs, constraints, sessions, settings_)
def test_decision_is_monotone_in_the_score(
    one: float, two: float, c: RouteCosts, k: Constraints, s: SessionState, p: PolicySettings
) -> None:
    """A higher score never moves a request from Opus to Flash."""
    low, high = sorted((one, two))
    lower, higher = attempt(scored(low), c, k, s, p), attempt(scored(high), c, k, s, p)
    if isinstance(lower, Decision) and lower.route is OPUS:
        assert isinstance(higher, Decision)
        assert higher.route is OPUS


@given(st.floats(0, 1).map(scored), constraints, sessions, settings_, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_quality_floor_never_moves_to_flash(
    score: Score, k: Constraints, s: SessionState, p: PolicySettings, one: float, two: float
) -> None:
    """Asking for more quality sends no request to the weaker route."""
    low, high = sorted((one, two))
    lower = attempt(score, COSTS, msgspec.structs.replace(k, quality_floor=low), s, p)
    higher = attempt(score, COSTS, msgspec.structs.replace(k, quality_floor=high), s, p)
    if isinstance(lower, Decision) and lower.route is OPUS:
        assert isinstance(higher, Decision)
        assert higher.route is OPUS


@given(scores, costs, constraints, sessions, settings_)
def test_decision_is_deterministic_and_tells_its_reason(
    score: Score | None, c: RouteCosts, k: Constraints, s: SessionState, p: PolicySettings
) -> None:
    """Equal inputs give equal decisions; the reason is not among what was overridden."""
    first, second = attempt(score, c, k, s, p), attempt(score, c, k, s, p)
    if isinstance(first, NoRoute):
        assert isinstance(second, NoRoute)
        assert (first.reason, str(first)) == (second.reason, str(second))
        return
    assert first == second
    assert first.reason not in first.overridden
    assert (first.margin is None) == (score is None)
    if first.reason is Reason.SCORE_ABOVE_THRESHOLD:
        assert first.margin is not None
        assert first.margin >= 0


@given(scores, costs, sessions, settings_)
def test_forcing_the_other_route_always_flips(
    score: Score | None, c: RouteCosts, s: SessionState, p: PolicySettings
) -> None:
    """What `flips` promises of a forced route holds."""
    decision = decide(score, c, FREE, s, p)
    other = decision.route.other
    assert f"forced route {other}" in decision.flips
    assert decide(score, c, Constraints(forced_route=other), s, p).route is other


LOOP = SessionState(tool_loop_route=OPUS, previous_route=FLASH, is_follow_up=True)


@pytest.mark.parametrize(
    ("score", "c", "k", "s", "p", "route", "reason"),
    [
        (0.9, COSTS, Constraints(forced_route=FLASH), LOOP, SETTINGS, FLASH, Reason.FORCED),
        (
            0.1,
            COSTS,
            Constraints(incapable=(Incapable(route=FLASH, why="pdf"),)),
            NEW,
            SETTINGS,
            OPUS,
            Reason.CAPABILITY,
        ),
        (
            0.9,
            COSTS,
            Constraints(open_circuits=frozenset({OPUS})),
            LOOP,
            SETTINGS,
            FLASH,
            Reason.OPEN_CIRCUIT,
        ),
        (0.9, COSTS, Constraints(cost_ceiling_nano_usd=5_000), LOOP, SETTINGS, FLASH, Reason.COST_CEILING),
        (0.1, COSTS, FREE, LOOP, SETTINGS, OPUS, Reason.TOOL_LOOP),
        (
            0.1,
            COSTS,
            FREE,
            SessionState(previous_route=OPUS, is_follow_up=True),
            SETTINGS,
            OPUS,
            Reason.FOLLOW_UP,
        ),
        (0.1, COSTS, FREE, SessionState(previous_route=OPUS), SETTINGS, FLASH, Reason.SCORE_BELOW_THRESHOLD),
        (0.1, COSTS, FREE, SessionState(is_follow_up=True), SETTINGS, FLASH, Reason.SCORE_BELOW_THRESHOLD),
        (
            0.1,
            RouteCosts(flash_nano_usd=5, opus_nano_usd=5),
            FREE,
            NEW,
            SETTINGS,
            OPUS,
            Reason.COST_INVERSION,
        ),
        (
            0.1,
            RouteCosts(flash_nano_usd=None, opus_nano_usd=5),
            FREE,
            NEW,
            SETTINGS,
            FLASH,
            Reason.SCORE_BELOW_THRESHOLD,
        ),
        (0.5, COSTS, FREE, NEW, SETTINGS, OPUS, Reason.SCORE_ABOVE_THRESHOLD),
        (0.1, COSTS, Constraints(quality_floor=0.95), NEW, SETTINGS, OPUS, Reason.SCORE_ABOVE_THRESHOLD),
        (0.3, COSTS, Constraints(quality_floor=0.2), NEW, SETTINGS, FLASH, Reason.SCORE_BELOW_THRESHOLD),
        (None, COSTS, FREE, NEW, SETTINGS, FLASH, Reason.NO_SCORE),
        (None, COSTS, FREE, NEW, PolicySettings(default_route=OPUS), OPUS, Reason.NO_SCORE),
    ],
)
def test_the_first_rule_that_binds_decides(
    score: float | None,
    c: RouteCosts,
    k: Constraints,
    s: SessionState,
    p: PolicySettings,
    route: Route,
    reason: Reason,
) -> None:
    """Limits before continuity before money before the score."""
    decision = decide(None if score is None else scored(score), c, k, s, p)
    assert (decision.route, decision.reason) == (route, reason)


@pytest.mark.parametrize(
    ("k", "reason", "may_pass"),
    [
        (
            Constraints(incapable=(Incapable(route=FLASH, why="a"), Incapable(route=OPUS, why="b"))),
            NoRouteReason.INCAPABLE,
            False,
        ),
        (
            Constraints(forced_route=OPUS, incapable=(Incapable(route=OPUS, why="b"),)),
            NoRouteReason.FORCED_INCAPABLE,
            False,
        ),
        (Constraints(open_circuits=frozenset(Route)), NoRouteReason.CIRCUITS_OPEN, True),
        (
            Constraints(forced_route=OPUS, open_circuits=frozenset({OPUS})),
            NoRouteReason.FORCED_CIRCUIT_OPEN,
            True,
        ),
        (Constraints(cost_ceiling_nano_usd=999), NoRouteReason.OVER_CEILING, False),
        (
            Constraints(forced_route=OPUS, cost_ceiling_nano_usd=5_000),
            NoRouteReason.FORCED_OVER_CEILING,
            False,
        ),
        (
            Constraints(cost_ceiling_nano_usd=5_000, open_circuits=frozenset({FLASH})),
            NoRouteReason.CIRCUITS_OPEN,
            True,
        ),
    ],
)
def test_conflicts_are_typed(k: Constraints, reason: NoRouteReason, may_pass: bool) -> None:
    """A request that no route can serve says why, and whether waiting may help."""
    with pytest.raises(NoRoute) as caught:
        decide(scored(0.5), COSTS, k, NEW, SETTINGS)
    assert (caught.value.reason, caught.value.may_pass) == (reason, may_pass)


def test_an_unknown_cost_cannot_keep_a_ceiling() -> None:
    """Unknown is not zero: without a price a route is out under a ceiling, and in without one."""
    unknown = RouteCosts(flash_nano_usd=10)
    assert decide(scored(0.9), unknown, FREE, NEW, SETTINGS).route is OPUS
    capped = decide(scored(0.9), unknown, Constraints(cost_ceiling_nano_usd=10**9), NEW, SETTINGS)
    assert (capped.route, capped.reason, capped.fallback) == (FLASH, Reason.COST_CEILING, None)


def test_threshold_is_the_extra_cost_in_units_of_an_answer() -> None:
    """With a value per answer the cut is where the benefit pays the marginal cost, cache left warm
    included."""
    valued = PolicySettings(answer_value_nano_usd=10_000)
    assert threshold_of(COSTS, FREE, valued) == pytest.approx(0.8)
    assert threshold_of(
        msgspec.structs.replace(COSTS, opus_leaves_nano_usd=3_000), FREE, valued
    ) == pytest.approx(0.5)
    assert threshold_of(msgspec.structs.replace(COSTS, opus_leaves_nano_usd=99_000), FREE, valued) == 0.0
    assert threshold_of(msgspec.structs.replace(COSTS, opus_nano_usd=None), FREE, valued) == valued.threshold
    assert threshold_of(COSTS, Constraints(quality_floor=0.9), valued) == pytest.approx(0.1)


def test_overridden_rules_and_flips_are_told() -> None:
    """A tool loop kept on Opus against follow-up and score says so, and what would end it."""
    decision = decide(scored(0.1), COSTS, FREE, LOOP, SETTINGS)
    assert decision.overridden == (Reason.FOLLOW_UP, Reason.SCORE_BELOW_THRESHOLD)
    assert decision.flips == ("no tool loop in progress: follow_up would choose flash", "forced route flash")
    assert decision.model_digest == "abc"
    close = decide(scored(0.4), COSTS, FREE, NEW, SETTINGS)
    assert close.flips[0] == "a score at or above 0.500 (it is 0.400): opus"
    assert close.margin == pytest.approx(-0.1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_scores_and_settings_outside_their_range_are_refused(value: float) -> None:
    """A probability is within [0, 1], wherever it enters."""
    with pytest.raises(ValueError, match="within"):
        scored(value)
    with pytest.raises(ValueError, match="threshold"):
        PolicySettings(threshold=value)
    with pytest.raises(ValueError, match="quality_floor"):
        Constraints(quality_floor=value)


def test_a_forced_route_that_cannot_is_not_sent_to_one_that_cannot_either() -> None:
    """The advice is one that helps; where none does, both reasons are told."""
    opus = Incapable(route=OPUS, why="too long for Opus")
    for incapable, words in (
        ((opus,), "force flash or leave"),
        ((opus, Incapable(route=FLASH, why="too long for Flash")), "nor can flash: too long for Flash"),
    ):
        with pytest.raises(NoRoute, match=words):
            decide(scored(0.5), COSTS, Constraints(forced_route=OPUS, incapable=incapable), NEW, SETTINGS)


budgets = st.builds(Budget, answer_value_nano_usd=st.none() | st.integers(1, 10**6), opus_fits=st.booleans())
draws = st.none() | st.floats(0, 1, exclude_max=True)


@given(scores, costs, constraints, sessions, settings_, budgets, draws, st.floats(0, 1))
def test_neither_budget_nor_draw_breaks_a_limit(
    score: Score | None,
    c: RouteCosts,
    k: Constraints,
    s: SessionState,
    p: PolicySettings,
    b: Budget,
    draw: float | None,
    share: float,
) -> None:
    """Whatever money and chance say: limits hold, forced routes and loops stay, nobody is refused for money."""
    p = replace(p, exploration_share=share)
    plain = attempt(score, c, k, s, p)
    if isinstance(plain, NoRoute):
        with pytest.raises(NoRoute) as caught:
            decide(score, c, k, s, p, b, draw)
        assert caught.value.reason is plain.reason
        return
    decision = decide(score, c, k, s, p, b, draw)
    assert k.forced_route in (None, decision.route)
    for route in filter(None, (decision.route, decision.fallback)):
        assert k.why_incapable(route) is None
        assert route not in k.open_circuits
        ceiling, cost = k.cost_ceiling_nano_usd, c.of(route)
        assert ceiling is None or (cost is not None and cost <= ceiling)
    assert decision.fallback is not decision.route
    if plain.reason in (Reason.FORCED, Reason.CAPABILITY, Reason.OPEN_CIRCUIT, Reason.TOOL_LOOP):
        assert (decision.route, decision.reason) == (plain.route, plain.reason)
    if decision.reason is Reason.BUDGET and not b.opus_fits:
        assert decision.route is FLASH
    assert decision.flips is not None


@given(
    st.floats(0, 1).map(scored),
    costs,
    constraints,
    sessions,
    settings_,
    st.integers(1, 10**6),
    st.integers(1, 10**6),
)
def test_a_lower_value_never_adds_opus(
    score: Score, c: RouteCosts, k: Constraints, s: SessionState, p: PolicySettings, one: int, two: int
) -> None:
    """Worth less, no request moves from Flash to Opus; nor does an exhausted budget move any."""
    assume(c.opus_nano_usd is not None and c.flash_nano_usd is not None)
    low, high = sorted((one, two))
    try:
        rich = decide(score, c, k, s, p, Budget(high))
    except NoRoute:
        return
    poor, broke = (decide(score, c, k, s, p, b) for b in (Budget(low), Budget(high, opus_fits=False)))
    assert (poor.route is OPUS) <= (rich.route is OPUS)
    assert (broke.route is OPUS) <= (rich.route is OPUS)


@given(
    st.floats(0, 1).map(scored), costs, settings_, budgets, st.floats(1e-6, 1), st.none() | st.floats(0, 1)
)
def test_propensities_of_both_outcomes_sum_to_one(
    score: Score, c: RouteCosts, p: PolicySettings, b: Budget, share: float, band: float | None
) -> None:
    """Drawn or not, a route's propensity is its chance under the mix; over draws each comes out that often."""
    p = replace(p, exploration_share=share, exploration_band=band)
    greedy = decide(score, c, FREE, NEW, p, b)
    outcomes = [decide(score, c, FREE, NEW, p, b, (i + 0.5) / 1000) for i in range(0, 1000, 7)]
    outcomes += [decide(score, c, FREE, NEW, p, b, draw) for draw in (0.0, share / 2, min(share, 1 - 1e-9))]
    chances = {each.route: each.propensity for each in outcomes}
    if not greedy.explorable:
        assert set(chances.items()) == {(greedy.route, 1.0)}
        assert not any(each.explored for each in outcomes)
        return
    assert greedy.propensity == chances[greedy.route] == 1 - share / 2
    assert chances[greedy.route.other] == share / 2
    assert sum(chances.values()) == pytest.approx(1)
    for each in outcomes:
        assert each.explored == (each.reason is Reason.EXPLORATION)
        assert each.explored or each.route is greedy.route


def test_a_draw_takes_each_route_as_often_as_its_propensity_says() -> None:
    """Over the ids of ten thousand requests, at 20 %: a fifth is marked, half of it on the other route."""
    p = PolicySettings(exploration_share=0.2)
    found = [decide(scored(0.1), COSTS, FREE, NEW, p, NO_BUDGET, draw_of(f"r-{i}")) for i in range(10_000)]
    assert sum(each.explored for each in found) == pytest.approx(2_000, abs=120)
    assert sum(each.route is OPUS for each in found) == pytest.approx(1_000, abs=90)
    other = next(each for each in found if each.route is OPUS)
    assert (other.propensity, other.overridden, other.fallback) == (
        0.1,
        (Reason.SCORE_BELOW_THRESHOLD,),
        FLASH,
    )
    assert other.flips[0] == "no draw: score_below_threshold would choose flash"


@pytest.mark.parametrize(
    ("k", "s", "p", "b"),
    [
        (Constraints(forced_route=OPUS), NEW, SETTINGS, NO_BUDGET),
        (Constraints(exploration_allowed=False), NEW, SETTINGS, NO_BUDGET),
        (Constraints(open_circuits=frozenset({OPUS})), NEW, SETTINGS, NO_BUDGET),
        (Constraints(cost_ceiling_nano_usd=5_000), NEW, SETTINGS, NO_BUDGET),
        (FREE, LOOP, SETTINGS, NO_BUDGET),
        (FREE, SessionState(previous_route=OPUS, is_follow_up=True), SETTINGS, NO_BUDGET),
        (FREE, NEW, SETTINGS, Budget(opus_fits=False)),
        (FREE, NEW, PolicySettings(exploration_band=0.2), NO_BUDGET),
    ],
)
def test_only_safe_requests_are_drawn(k: Constraints, s: SessionState, p: PolicySettings, b: Budget) -> None:
    """What anything but the score bound, what the caller forbade, and what is far from the cut stays as decided."""
    decision = decide(scored(0.1), COSTS, k, s, replace(p, exploration_share=1.0), b, 0.0)
    assert (decision.explorable, decision.explored, decision.propensity) == (False, False, 1.0)


def test_a_budget_is_the_reason_only_where_it_changed_the_outcome() -> None:
    """The same side as the configured cut: the score's own reason; the other: the budget's. Its price is told."""
    poor, rich = Budget(8_000), Budget(80_000)  # cuts at 1 and .1
    for value, b, route, reason in (
        (0.6, poor, FLASH, Reason.BUDGET),
        (0.6, rich, OPUS, Reason.SCORE_ABOVE_THRESHOLD),
        (0.3, rich, OPUS, Reason.BUDGET),
        (0.3, poor, FLASH, Reason.SCORE_BELOW_THRESHOLD),
    ):
        decision = decide(scored(value), COSTS, FREE, NEW, SETTINGS, b)
        assert (decision.route, decision.reason) == (route, reason)
        assert decision.by_score
        assert decision.answer_value_nano_usd == b.answer_value_nano_usd


def test_an_exhausted_budget_takes_flash_but_keeps_promises() -> None:
    """Free requests go to Flash; loops, forced routes, what only Opus can do or does no dearer are served."""
    out = Budget(opus_fits=False)
    cheap = RouteCosts(flash_nano_usd=5, opus_nano_usd=4)
    only_opus = Constraints(incapable=(Incapable(route=FLASH, why="pdf"),))
    cases = (
        (COSTS, FREE, NEW, FLASH, Reason.BUDGET),
        (COSTS, FREE, SessionState(previous_route=OPUS, is_follow_up=True), FLASH, Reason.BUDGET),
        (COSTS, FREE, LOOP, OPUS, Reason.TOOL_LOOP),
        (COSTS, Constraints(forced_route=OPUS), NEW, OPUS, Reason.FORCED),
        (COSTS, only_opus, NEW, OPUS, Reason.CAPABILITY),
        (cheap, FREE, NEW, OPUS, Reason.COST_INVERSION),
    )
    for c, k, s, route, reason in cases:
        decision = decide(scored(0.9), c, k, s, SETTINGS, out)
        assert (decision.route, decision.reason) == (route, reason)
    exhausted = decide(scored(0.9), COSTS, FREE, NEW, SETTINGS, out)
    assert not exhausted.by_score
    assert exhausted.flips[0] == "a budget with room for Opus: score_above_threshold would choose opus"
