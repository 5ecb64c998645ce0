"""The bound on how much worse a model does: holds however often one looks, and finds what is plainly worse."""

from __future__ import annotations

import random
from math import exp, lgamma, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.guard import ALPHA, Tally, interval, worsening


@st.composite
def tallies(draw):
    """Any tally."""
    count = draw(st.integers(0, 5_000))
    return Tally(count, draw(st.integers(0, count)))


@given(tallies(), st.floats(1e-6, 0.5))
def test_an_interval_holds_what_was_seen(tally, alpha):
    """Within [0, 1], around the observed share, wider for less risk."""
    low, high = interval(tally, alpha)
    assert 0.0 <= low <= high <= 1.0
    if tally.count:
        assert low <= tally.bad / tally.count <= high
    wider_low, wider_high = interval(tally, alpha / 10)
    assert wider_low <= low
    assert high <= wider_high


@given(tallies())
def test_good_and_bad_are_mirror_images(tally):
    """Counting good outcomes instead of bad ones mirrors the interval."""
    low, high = interval(tally, ALPHA)
    mirrored = interval(Tally(tally.count, tally.count - tally.bad), ALPHA)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(st.integers(1, 60), st.data())
def test_the_ends_are_where_the_martingale_reaches_the_bound(count, data):
    """M(p) = 1/alpha at an end inside (0, 1): the definition, computed another way."""
    bad = data.draw(st.integers(1, count))
    low, _ = interval(Tally(count, bad), 0.05)
    log_mixture = (
        lgamma(bad + 0.5) + lgamma(count - bad + 0.5) - lgamma(count + 1) - (2 * lgamma(0.5) - lgamma(1))
    )
    if low > 0:
        log_ratio = log_mixture - bad * log(low) - (count - bad) * log(1 - low)
        assert exp(log_ratio) == pytest.approx(1 / 0.05, rel=1e-3)


@given(tallies(), tallies())
def test_the_bound_never_exceeds_what_was_seen(before, after):
    """A lower bound of the worsening lies below the difference of the observed shares."""
    if before.count and after.count:
        assert worsening(before, after) <= after.bad / after.count - before.bad / before.count + 1e-9


def test_nothing_is_known_of_a_model_without_decisions():
    """Without a model before, or without outcomes, nothing is ever judged worse."""
    assert worsening(Tally(0, 0), Tally(1_000, 1_000)) < 0.0
    assert worsening(Tally(1_000, 0), Tally(0, 0)) < 0.0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_looking_after_every_outcome_seldom_raises_a_false_alarm(share):
    """Of 400 pairs of equal models, looked at after each bad outcome for 1,500 decisions, 5 % at most seem worse."""
    chance = random.Random(round(share * 1_000))
    alarms = 0
    for _ in range(400):
        before = Tally(1_000, sum(chance.random() < share for _ in range(1_000)))
        bad = 0
        _, high = interval(before, ALPHA / 2)
        for count in range(1, 1_501):
            if chance.random() < share:
                bad += 1
                # The new one's end alone: the old one's does not change.
                if bad / count > high and interval(Tally(count, bad), ALPHA / 2)[0] > high:
                    alarms += 1
                    break
    assert alarms <= 400 * ALPHA


def test_a_plainly_worse_model_is_found_within_a_hundred_outcomes():
    """From 5 % to 45 % bad: the bound passes a margin of 5 points soon."""
    chance = random.Random(3)
    before, bad, count = Tally(1_000, 50), 0, 0
    while worsening(before, Tally(count, bad)) <= 0.05:
        count += 1
        bad += chance.random() < 0.45
        assert count < 100
