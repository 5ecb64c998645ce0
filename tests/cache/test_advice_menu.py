"""Every way to keep a prefix warm, with its value, by the gaps that were seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.advice import advise
from cache.advice_menu import AHEAD, CONVERSATION, SHARED
from cache.observed import Lane, Observed
from tests.cache.test_advice import R05, facts_of

TOKENS = 30_000


def told(gaps_s, **more):
    """The ways of one session's requests after another, by prefix and name."""
    observed = Observed([Lane(minimum_tokens=512)])
    at_s = 0.0
    for number, gap_s in enumerate((0.0, *gaps_s)):
        at_s += gap_s
        observed.add(at_s, "u", "s", TOKENS + 10 * number)
    advice = advise(facts_of(observed, rates=R05, **more))
    return {(way.prefix, way.way): way for way in advice.ways}


@given(gaps_s=st.lists(st.floats(1, 20_000), min_size=1, max_size=40))
def test_nothing_costs_what_is_sent_and_the_best_is_the_cheapest_that_may_be_done(gaps_s):
    """Of shared layers and of a conversation: values are against doing nothing, whatever the gaps."""
    ways = told(gaps_s)
    assert ways[SHARED, "nothing"].units == 2_000
    for prefix in (SHARED, CONVERSATION):
        own = [way for (whose, _), way in ways.items() if whose == prefix]
        nothing = ways[prefix, "nothing"].units
        assert all(way.units + way.value_units == pytest.approx(nothing) for way in own)
        (best,) = [way for way in own if way.best]
        assert best.units == min(way.units for way in own if not way.needs_fact)


def test_each_way_is_best_where_its_gaps_are():
    """Under five minutes, under the hour, over it, hardly ever; and the upgrade ping where they spread over it."""
    for gap_s, name in (
        (60.0, "5 minutes"),
        (500.0, "1 hour"),
        (4_000.0, "1 hour, up to 1 keep-alive"),
        (90_000.0, "nothing"),
    ):
        ways = told([gap_s] * 40)
        assert ways[CONVERSATION, name].best, name
    spread = told([400.0 + 80 * number for number in range(38)])
    assert spread[CONVERSATION, "5 minutes, then the upgrade ping"].value_units > 0
    assert (
        spread[CONVERSATION, "5 minutes, then the upgrade ping"].units
        < spread[CONVERSATION, "5 minutes, up to 3 keep-alives"].units
    )


def test_warming_ahead_is_told_per_warm_and_with_the_chance_it_needs():
    """In money alone no chance is enough; where time is worth something, its price."""
    assert "no chance is enough" in told([60.0] * 5)[AHEAD, "warm now, per warm"].inputs
    assert (
        "pays from a chance of 0." in told([60.0] * 5, latency_value=2.0)[AHEAD, "warm now, per warm"].inputs
    )
