"""The operator's limits in the running service: asked without effect, taught by what goes out and what it cost."""

import pytest

from classifier.policy import Decision, Reason, RouteCosts
from classifier.profile import DAY_S, HOUR_S
from classifier.route import Route, Score
from router.cost import Cost
from router.settlement import Intent, Outcome, Purpose, Settlement
from router.spending import Limits, Spending

NOON_S = 20_000.0 * DAY_S + 12 * HOUR_S
COSTS = RouteCosts(flash_nano_usd=2_000_000, opus_nano_usd=20_000_000)


def decision(route: Route = Route.OPUS, *, reason: Reason = Reason.SCORE_ABOVE_THRESHOLD) -> Decision:
    """A decision by score."""
    score = Score(value=0.6, raw=0.0, model_digest="m")
    return Decision(route=route, reason=reason, score=score, threshold=0.5, margin=0.1, fallback=None)


def settlement(
    cost_nano_usd: int | None,
    outcome: Outcome = Outcome.OK,
    *,
    bound: int | None = None,
    at_s: float = NOON_S,
) -> Settlement:
    """A settled call."""
    intent = Intent(
        request_id="r",
        attempt=1,
        purpose=Purpose.USER,
        route="opus",
        upstream="anthropic",
        model="m",
        tenant="",
        application="",
        user="",
        session="",
        labels={},
        stream=False,
        started_time_s=at_s,
        cost_bound_nano_usd=bound,
    )
    cost = None if cost_nano_usd is None else Cost(output_text_nano_usd=cost_nano_usd)
    return Settlement(intent=intent, outcome=outcome, settled_time_s=at_s, duration_s=1.0, cost=cost)


def test_money_that_is_spent_in_progress_or_primed_leaves_no_room_for_opus() -> None:
    """The ledger's spend of today, what is on its way and this request together stay within the day's budget."""
    spending = Spending(Limits(day_nano_usd=100_000_000), NOON_S)
    spending.prime(NOON_S, 50_000_000)
    assert spending.budget(COSTS, NOON_S).opus_fits
    reserved = spending.sent(decision(), 40_000_000, 2_000_000)
    assert not spending.budget(COSTS, NOON_S).opus_fits
    spending.settled(settlement(10_000_000), reserved)
    assert spending.budget(COSTS, NOON_S).opus_fits
    assert spending.day is not None
    assert (spending.day.spent_nano_usd, spending.day.open_nano_usd) == (60_000_000, 0)
    assert spending.budget(COSTS, NOON_S + DAY_S / 2).opus_fits
    assert spending.day.spent_nano_usd == 0


def test_every_attempt_in_progress_holds_its_money_and_counts_one_request() -> None:
    """An escalation holds what Opus is expected to cost until it is booked, so that a herd of them cannot overdraw."""
    spending = Spending(Limits(day_nano_usd=100_000_000), NOON_S)
    assert spending.fits(60_000_000, NOON_S)
    assert not spending.fits(None, NOON_S)
    assert not spending.budget(RouteCosts(flash_nano_usd=2_000_000), NOON_S).opus_fits, "unknown is not zero"
    flash = spending.sent(decision(Route.FLASH), 2_000_000, 2_000_000)
    again = spending.sent_again(60_000_000)
    assert again == 60_000_000
    assert not spending.fits(60_000_000, NOON_S)
    assert spending.day is not None
    assert (spending.day.open_nano_usd, spending.day.step_requests) == (62_000_000, 1)
    for reserved, cost in ((flash, 1_000_000), (again, 20_000_000)):
        spending.settled(settlement(cost), reserved)
    assert (spending.day.spent_nano_usd, spending.day.open_nano_usd) == (21_000_000, 0)
    assert spending.day.step_spent_nano_usd == 21_000_000
    assert spending.fits(60_000_000, NOON_S)


def test_without_a_budget_everything_fits() -> None:
    """Unknown costs too: nothing holds money back."""
    spending = Spending(Limits(opus_share=0.2), NOON_S)
    assert spending.fits(None, NOON_S)
    assert spending.sent_again(60_000_000) == 0


@pytest.mark.parametrize(
    ("booked", "reserved", "spent"),
    [
        (settlement(None, Outcome.UNKNOWN, bound=9_000_000), 4_000_000, 4_000_000),
        (settlement(None, Outcome.UNKNOWN, bound=9_000_000), 0, 9_000_000),
        (settlement(None, Outcome.REFUSED, bound=9_000_000), 4_000_000, 0),
        (settlement(5_000_000, Outcome.CANCELLED), 4_000_000, 5_000_000),
    ],
)
def test_unknown_costs_count_as_expected_or_as_bounded(booked: Settlement, reserved: int, spent: int) -> None:
    """Never as nothing, unless the provider refused."""
    spending = Spending(Limits(day_nano_usd=10**9), NOON_S)
    if reserved:
        assert spending.sent(decision(), reserved, 1_000) == reserved
    spending.settled(booked, reserved)
    assert spending.day is not None
    assert (spending.day.spent_nano_usd, spending.day.open_nano_usd) == (spent, 0)


def test_asking_changes_nothing() -> None:
    """`Explain` asks as often as it likes."""
    spending = Spending(Limits(day_nano_usd=10**9, opus_share=0.2, quality_floor=0.9), NOON_S)
    first = spending.budget(COSTS, NOON_S)
    before = spending.day
    assert [spending.budget(COSTS, NOON_S) for _ in range(5)] == [first] * 5
    assert spending.day == before


def test_limits_only_lower_what_an_answer_is_worth_and_a_floor_raises_it() -> None:
    """Worth $0.02: a limit asks for less and never pays more; a missed floor pays more; money has the last word."""
    worth = Limits(answer_value_nano_usd=20_000_000)

    def after(limits: Limits, route: Route, count: int) -> int | None:
        spending = Spending(limits, NOON_S)
        for _ in range(count):
            spending.sent(decision(route, reason=Reason.SCORE_BELOW_THRESHOLD), 1_000, 1_000)
        return spending.budget(COSTS, NOON_S).answer_value_nano_usd

    assert after(worth, Route.OPUS, 500) == 20_000_000
    lowered = after(worth._replace(opus_share=0.1), Route.OPUS, 500)
    assert lowered is not None
    assert lowered < 20_000_000
    assert after(worth._replace(opus_share=0.9), Route.FLASH, 500) == 20_000_000
    raised = after(worth._replace(quality_floor=0.9), Route.FLASH, 500)
    assert raised is not None
    assert raised > 20_000_000
    both = after(worth._replace(quality_floor=0.9, day_nano_usd=10**9), Route.FLASH, 500)
    assert both == 20_000_000


def test_the_shape_of_a_day_is_taken_from_the_ledger() -> None:
    """Three days busy from 8 to 10 only: the plan for noon keeps little for the night."""
    midnight_s = NOON_S - 12 * HOUR_S
    hours = [
        (midnight_s + day * DAY_S + hour * HOUR_S, 3_000 if hour in (8, 9) else 30)
        for day in (-3, -2, -1, 0)
        for hour in range(24)
        if day < 0 or hour < 12
    ]
    early = midnight_s + 8 * HOUR_S
    spending = Spending(Limits(day_nano_usd=10**9), early)
    spending.prime(early, 0, [each for each in hours if each[0] < early])
    assert spending.day is not None
    busy = spending.day.planned_nano_usd
    spending.prime(midnight_s, 0, [each for each in hours if each[0] < midnight_s])
    assert busy > 5 * spending.day.planned_nano_usd


def test_limits_other_than_money_need_no_day() -> None:
    """Nothing is set aside, nothing is booked."""
    spending = Spending(Limits(opus_share=0.2), NOON_S)
    spending.prime(NOON_S, 5)
    assert spending.day is None
    assert spending.sent(decision(), 1_000, 1_000) == 0
    spending.settled(settlement(1_000), 0)
    assert spending.budget(COSTS, NOON_S).opus_fits
