"""The cost-quality curve of logged traffic: what is known is used, what is chosen meets the demand."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.curve import (
    Setting,
    Traffic,
    curve,
    for_quality,
    for_share,
    for_spend,
    intervals,
    point,
    rests_on,
    traffic_of,
)
from classifier.logged import LoggedRequest


def row(number: int, **fields: object) -> LoggedRequest:
    """A logged request on Flash, decided by score."""
    given = {
        "request_id": f"r-{number}",
        "session": f"s-{number // 3}",
        "time_s": number * 10.0,
        "tenant": "t",
        "application": "a",
        "kind": "",
        "features": "",
        "score": 0.3,
        "threshold": 0.5,
        "opus": False,
        "propensity": 1.0,
        "explored": False,
        "reason": "score_below_threshold",
        "model_digest": "m",
        "cost_nano_usd": 2_000_000,
        "flash_nano_usd": 2_000_000,
        "opus_nano_usd": 20_000_000,
    }
    return LoggedRequest(**(given | fields))  # type: ignore[arg-type]


def traffic(count: int = 3_000, seed: int = 1, feedback: float = 0.0, off: float = 0.0) -> Traffic:
    """Scores that are right but for `off`, costs that differ by request; a share with feedback."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        score = rng.betavariate(0.7, 1.8)
        told = rng.random() < feedback
        rows.append(
            row(
                number,
                score=score,
                opus_nano_usd=round(rng.lognormvariate(16.9, 0.6)) + 2_000_000,
                label=int(rng.random() < max(0.0, score - off)) if told else None,
                weight=1.0 if told else 0.0,
            )
        )
    return traffic_of(rows, days=1.0)


def test_a_curve_runs_from_all_flash_to_all_opus_and_rises() -> None:
    """More Opus is more quality and more money, by threshold and by value; the ends are the ends."""
    found = traffic()
    for by_value in (False, True):
        points = curve(found, by_value=by_value)
        assert points[0].opus_share == 0.0
        assert points[-1].opus_share == pytest.approx(
            1, abs=0.01
        )  # a score of next to nothing is worth no value
        assert points[-1].quality == pytest.approx(1, abs=1e-4)
        for before, after in pairwise(points):
            assert after.opus_share >= before.opus_share
            assert after.usd_per_day >= before.usd_per_day - 1e-9
            assert after.quality >= before.quality - 1e-12


def test_deciding_by_value_buys_more_quality_for_the_same_money() -> None:
    """Where costs differ, the same spend by V beats the fixed threshold: greedy is the optimal knapsack."""
    found = traffic()
    budget = 0.5 * (point(found, Setting(threshold=0.0)).usd_per_day)
    fixed, valued = (for_spend(curve(found, by_value=by_value), budget) for by_value in (False, True))
    assert fixed is not None
    assert valued is not None
    assert valued.usd_per_day <= budget
    assert valued.quality > fixed.quality + 0.005


@given(st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_what_is_chosen_meets_the_demand(target: float) -> None:
    """Share and spend are not passed, quality is reached; nothing is chosen where nothing does."""
    found = traffic(600)
    for by_value in (False, True):
        points = curve(found, by_value=by_value)
        share, quality = for_share(points, target), for_quality(points, 0.6 + 0.4 * target)
        assert share is not None
        assert share.opus_share <= target
        assert quality is not None
        assert quality.quality >= 0.6 + 0.4 * target
        assert for_spend(points, 0.0) is None


def test_requests_the_score_did_not_decide_stay_where_they_were() -> None:
    """A forced route costs what it costs under every setting."""
    rows = [row(number, threshold=None, opus=True, cost_nano_usd=20_000_000) for number in range(10)]
    found = traffic_of([*rows, row(11)], days=1.0)
    assert point(found, Setting(threshold=1.0)).opus_share == pytest.approx(10 / 11)


def test_costs_are_corrected_by_what_was_booked() -> None:
    """Flash booked twice what was expected: the curve says so; what was never booked is left as expected."""
    found = traffic_of([row(number, cost_nano_usd=4_000_000) for number in range(10)], days=2.0)
    assert found.corrections == (2.0, 1.0)
    assert point(found, Setting(threshold=1.0)).usd_per_day == pytest.approx(10 * 0.004 / 2)


def test_feedback_outweighs_the_score_and_the_difference_is_told() -> None:
    """Scores ten points too high: where feedback is, quality follows it, and the gap's interval says so."""
    found = traffic(feedback=0.4, off=0.1)
    basis = rests_on(found)
    assert basis.labelled == pytest.approx(1_200, abs=120)
    assert basis.difference is not None
    assert basis.difference.low <= basis.difference.value <= basis.difference.high < 0
    told = point(found, Setting(threshold=1.0)).quality
    assert told > point(traffic(), Setting(threshold=1.0)).quality
    none = rests_on(traffic())
    assert (none.labelled, none.difference) == (0, None)


def test_intervals_hold_the_estimate_and_shrink_with_more_sessions() -> None:
    """A bootstrap over sessions: the point is inside, ten times the traffic gives a narrower one."""
    setting = Setting(threshold=0.4)
    few, many = (intervals(traffic(count), setting) for count in (300, 3_000))
    for small, large in zip(few, many, strict=True):
        assert small.low <= small.value <= small.high
        assert large.low <= large.value <= large.high
    assert few[2].high - few[2].low > 2 * (many[2].high - many[2].low)


def test_traffic_without_a_choice_is_refused() -> None:
    """No prices, or nothing decided by score: there is no curve."""
    with pytest.raises(ValueError, match="decided by its score"):
        traffic_of([row(1, opus_nano_usd=None)])
    with pytest.raises(ValueError, match="decided by its score"):
        traffic_of([row(1, threshold=None)])
    assert traffic_of([row(1), row(2, opus_nano_usd=None)]).skipped == 1


def test_what_opus_leaves_warm_counts_for_a_value_and_not_as_cost() -> None:
    """At the value the log was decided by, each request goes where the policy sent it."""
    value, extra = 50_000_000, 18_000_000
    rows = []
    for number, leaves in enumerate((0, 6_000_000, 12_000_000, 17_000_000) * 5):
        threshold = (extra - leaves) / value
        opus = threshold <= 0.15
        cost = 20_000_000 if opus else 2_000_000
        rows.append(
            row(
                number, score=0.15, threshold=threshold, opus=opus, cost_nano_usd=cost,
                answer_value_nano_usd=value, opus_leaves_nano_usd=leaves,
            )
        )  # fmt: skip
    told = traffic_of(rows)
    found = point(told, Setting(value_nano_usd=float(value)))
    assert 0 < found.opus_share < 1
    assert found.opus_share == np.mean([each.opus for each in rows])
    spent = sum(each.cost_nano_usd or 0 for each in rows)
    assert found.usd_per_day == pytest.approx(spent / 1e9 / told.days)
