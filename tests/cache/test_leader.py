"""The full-information leader: a gap prices every policy, whichever was in force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.economics import Rates, hour_threshold, write_threshold
from cache.leader import DISCOUNT, Gaps

R10 = Rates(1.25, 2.0, 0.1)
GAPS = st.lists(
    st.sampled_from([10.0, 299.9, 300.0, 1200.0, 3599.0, 3600.0, 90_000.0]), min_size=1, max_size=60
)


def counted(gaps_s):
    gaps = Gaps()
    for gap_s in gaps_s:
        gaps.add(gap_s)
    return gaps


def charge(gap_s, ttl_s):
    """What one gap costs a fixed policy: a read if the entry lived, else a write; 1 without caching."""
    if ttl_s is None:
        return 1.0
    return R10.read if gap_s < ttl_s else R10.write(ttl_s)


@given(GAPS)
def test_costs_are_those_of_replaying_every_policy(gaps_s):
    """Three counts are enough: the discounted sums of charges come out the same."""
    found = counted(gaps_s).costs(R10)
    for ttl_s, cost in zip((None, 300, 3600), found, strict=True):
        expected = 0.0
        for gap_s in gaps_s:
            expected = expected * DISCOUNT + charge(gap_s, ttl_s)
        assert cost == pytest.approx(expected)


@given(GAPS)
def test_the_leader_is_the_cheapest_in_hindsight(gaps_s):
    """And without a gap to go by, nothing is cached."""
    gaps = counted(gaps_s)
    costs = gaps.costs(R10)
    named = {None: costs.none, 300: costs.ttl_5m, 3600: costs.ttl_1h}
    assert named[gaps.leader(R10)] == min(costs)
    assert Gaps().leader(R10) is None


@given(GAPS)
def test_the_planners_thresholds_choose_as_the_leader_does(gaps_s):
    """Taken as chances, the counts lead to the same choice: write iff P > (w-1)/(w-r), an hour by the hour's rule."""
    gaps = counted(gaps_s)
    costs = gaps.costs(R10)
    p_5m, p_1h = gaps.within_5m / gaps.seen, gaps.within_1h / gaps.seen
    if abs(p_5m - write_threshold(R10)) > 1e-9:
        assert (p_5m > write_threshold(R10)) == (costs.ttl_5m < costs.none)
    if p_5m < 1 and abs((p_1h - p_5m) / (1 - p_5m) - hour_threshold(R10)) > 1e-9:
        assert ((p_1h - p_5m) / (1 - p_5m) > hour_threshold(R10)) == (costs.ttl_1h < costs.ttl_5m)


def test_a_layer_that_loses_is_switched_off():
    """Used every two hours: caching costs a write each time, and after a few gaps the chances say so."""
    gaps = counted([7200.0] * 30)
    assert gaps.leader(R10) is None
    found = gaps.forecast(0.8, 0.95)
    assert found.p_5m < write_threshold(R10)
    assert found.p_1h < write_threshold(R10, 3600)


def test_old_gaps_yield_to_new_ones():
    """A hundred lively gaps a week ago weigh less than five slow ones today."""
    gaps = counted([30.0] * 100)
    for _ in range(5):
        gaps.add(86_400.0, kept=0.05)
    assert gaps.leader(R10) is None
