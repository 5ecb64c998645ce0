"""Padding a prefix that is too short: break-even, evidence before money, and no flapping."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cache.economics import Rates, pad_saving, pad_threshold
from cache.padding import (
    BAND,
    HOLD_S,
    MINIMUM_GAPS,
    RETRY_LIMIT_S,
    TESTS_TO_STOP,
    Evidence,
    PadReason,
    PadSize,
    Standing,
    Traffic,
    bare_rate,
    decide,
    needed_hit_share,
    retry_wait_s,
    saving_units,
)
from cache.rules import TTL_1H_S, TTL_5M_S

R10 = Rates(1.25, 2.0, 0.1)
MINIMUM = 4096
NOW_S = 1_795_168_800.0
UNPADDED = Standing()
RATES = st.sampled_from([R10, Rates(1.25, 2.0, 0.05), Rates(1.25, 2.0, 0.025), Rates(1.0, 1.0, 0.0)])
SHARES = st.floats(0, 1)
SIZES = st.builds(
    lambda shared, margin: PadSize(shared, round(MINIMUM * (1 + margin)), MINIMUM),
    st.integers(1, MINIMUM - 1),
    st.floats(0.0, 0.3),
)
TTLS = st.sampled_from([(TTL_5M_S,), (TTL_5M_S, TTL_1H_S)])


def evidence(hit_share: float, *, gap_count: int = 57, bare: float = 1.0) -> Evidence:
    """Gaps of which a share is short, and all within the hour."""
    return Evidence(gap_count, hit_share, 1.0, bare)


def decided(size, seen, standing=UNPADDED, rates=R10, ttls_s=(TTL_5M_S,), now_s=NOW_S):
    """The decision at one instant."""
    return decide(size, seen, standing, rates=rates, ttls_s=ttls_s, now_s=now_s)


@given(RATES, st.integers(1, MINIMUM - 1))
def test_break_even_is_that_of_the_economics(rates, shared):
    """Padded just to the minimum, with nothing cached before, the five-minute break-even is the known one."""
    size = PadSize(shared, MINIMUM, MINIMUM)
    assert needed_hit_share(rates, TTL_5M_S, size) == pad_threshold(rates, shared, MINIMUM)


@given(RATES, SIZES, SHARES, st.sampled_from([TTL_5M_S, TTL_1H_S]), st.floats(0.01, 1.0))
def test_the_saving_changes_its_sign_at_break_even(rates, size, hit_share, ttl_s, bare):
    """Money saved and hit share needed are one rule."""
    needed = needed_hit_share(rates, ttl_s, size, bare)
    saving = saving_units(rates, ttl_s, size, hit_share, bare)
    if needed is None:
        assert saving <= 1e-6
    elif abs(hit_share - needed) > 1e-9:
        assert (saving > 0) == (hit_share > needed)


@given(st.integers(500, MINIMUM - 1), SHARES)
def test_the_saving_is_that_of_the_economics(shared, hit_share):
    """As a share of the unpadded cost."""
    size = PadSize(shared, MINIMUM, MINIMUM)
    share = saving_units(R10, TTL_5M_S, size, hit_share) / shared
    assert share == pytest.approx(pad_saving(R10, shared, MINIMUM, hit_share))


@given(RATES, SIZES, SHARES, TTLS, st.floats(0.05, 1.0))
def test_pads_iff_the_expected_saving_is_positive(rates, size, hit_share, ttls_s, bare):
    """From either standing, once evidence is there and the last change is old: outside the band by the sign alone."""
    seen = evidence(hit_share, bare=bare)
    best = max(saving_units(rates, ttl_s, size, seen.hit_share(ttl_s), bare) for ttl_s in ttls_s)
    for standing in (Standing(), Standing(False, NOW_S - HOLD_S), Standing(True, NOW_S - HOLD_S)):
        found = decided(size, seen, standing, rates, ttls_s)
        assert found.saving_units == pytest.approx(best)
        if found.needed_hit_share is None or abs(found.hit_share - found.needed_hit_share) > BAND:
            assert found.pad is (best > 0)
        else:
            assert found.pad is standing.padded or found.pad is (best > 0)


@given(RATES, SHARES, st.integers(1, MINIMUM - 1), TTLS)
def test_never_where_the_prefix_is_so_short_that_even_reads_cost_more(rates, hit_share, shared, ttls_s):
    """rho <= r: reading the padded prefix costs as much as sending the short one."""
    assume(shared / MINIMUM <= rates.read)
    found = decided(PadSize(shared, MINIMUM, MINIMUM), evidence(hit_share), rates=rates, ttls_s=ttls_s)
    assert (found.pad, found.reason) == (False, PadReason.NEVER_PAYS)


@given(RATES, SIZES, SHARES, st.integers(0, MINIMUM_GAPS - 1))
def test_nothing_is_spent_before_evidence(rates, size, hit_share, gap_count):
    """However good the first gaps look."""
    assert not decided(size, evidence(hit_share, gap_count=gap_count), rates=rates).pad


@given(
    SIZES,
    st.lists(st.tuples(SHARES, st.floats(0, 1200)), min_size=1, max_size=80),
    TTLS,
)
def test_the_prefix_does_not_flap(size, steps, ttls_s):
    """Whatever hit shares are seen and when: an hour lies between two changes, and each passes the band."""
    standing, now_s, changes = Standing(), NOW_S, []
    for hit_share, wait_s in steps:
        now_s += wait_s
        found = decided(size, evidence(hit_share), standing, ttls_s=ttls_s, now_s=now_s)
        if found.pad is not standing.padded:
            needed = 2.0 if found.needed_hit_share is None else found.needed_hit_share
            assert abs(found.hit_share - needed) > BAND
            assert (found.saving_units > 0) is found.pad
            changes.append(now_s)
            standing = Standing(found.pad, now_s)
    assert all(after - before >= HOLD_S for before, after in pairwise(changes))


def test_a_change_is_held_for_an_hour():
    """Far from break-even in either direction, it waits until the last change is old enough, to the second."""
    size = PadSize(3100, MINIMUM, MINIMUM)
    for padded, share in ((True, 0.0), (False, 1.0)):
        for age_s, changes in ((HOLD_S - 1, False), (HOLD_S, True)):
            found = decided(size, evidence(share), Standing(padded, NOW_S - age_s))
            assert (found.pad is not padded) is changes
            assert (found.reason is PadReason.RECENTLY_CHANGED) is not changes


def test_a_refusal_ends_it_until_it_is_forgotten():
    """No test is waited for; what was seen of it does not weigh on the next try."""
    traffic = Traffic()
    for _ in range(MINIMUM_GAPS):
        traffic.gap(30.0)
    traffic.test(False)
    traffic.refuse()
    size, standing = PadSize(3100, 4100, MINIMUM), Standing(True, NOW_S - 60)
    assert decided(size, traffic.evidence(), standing).reason is PadReason.NOT_CACHED
    traffic.forget_tests()
    assert traffic.evidence() == Evidence(MINIMUM_GAPS, 1.0, 1.0)
    assert decided(size, traffic.evidence(), standing).pad


def test_tries_get_rarer_up_to_once_a_day():
    """An hour after the first refusal, twice as long after each more."""
    waits_s = [retry_wait_s(count) for count in (1, 2, 3, 5, 6, 1000)]
    assert waits_s == [HOLD_S, 2 * HOLD_S, 4 * HOLD_S, 16 * HOLD_S, RETRY_LIMIT_S, RETRY_LIMIT_S]


def test_a_wobble_around_break_even_changes_nothing():
    """3,100 of 4,096 tokens need 0.43: shares on either side of it leave both standings as they are."""
    size = PadSize(3100, MINIMUM, MINIMUM)
    for share in (0.40, 0.42, 0.44, 0.47):
        for padded in (False, True):
            assert decided(size, evidence(share), Standing(padded, 0.0)).pad is padded


def test_the_decision_says_why_in_one_line():
    """Size, break-even, what was seen of it, and the verdict."""
    size = PadSize(3100, MINIMUM, MINIMUM)
    shown = {
        str(decided(size, evidence(0.81))): "padding: 3,100 of 4,096 tokens, needs hit share 0.43, "
        "observed 0.81 over 57 gaps: pad",
        str(decided(size, evidence(0.2))): "padding: 3,100 of 4,096 tokens, needs hit share 0.43, "
        "observed 0.20 over 57 gaps: leave",
        str(
            decided(size, evidence(0.81, gap_count=3))
        ): "padding: 3,100 of 4,096 tokens, needs hit share 0.43, "
        "observed 0.81 over 3 gaps: leave (too few gaps seen)",
        str(
            decided(PadSize(300, MINIMUM, MINIMUM), evidence(1.0))
        ): "padding: 300 of 4,096 tokens: leave (never pays at these prices)",
        str(
            decided(PadSize(5000, 5000, MINIMUM), evidence(1.0))
        ): "padding: 5,000 of 4,096 tokens: leave (reaches the minimum by itself)",
    }
    for found, expected in shown.items():
        assert found == expected


def test_slow_steady_traffic_pads_for_the_hour():
    """Gaps of ten minutes never hit within five, and always within the hour."""
    seen = evidence(0.0)
    assert not decided(PadSize(2800, 4300, MINIMUM), seen).pad
    found = decided(PadSize(2800, 4300, MINIMUM), seen, ttls_s=(TTL_5M_S, TTL_1H_S))
    assert (found.pad, found.ttl_s) == (True, TTL_1H_S)
    assert "needs hit share 0.71 within 3600 s, observed 1.00" in str(found)


def test_a_filler_that_does_not_reach_is_not_sent():
    """Half a padding costs and caches nothing."""
    found = decided(PadSize(2000, 4000, MINIMUM), evidence(1.0))
    assert (found.pad, found.reason) == (False, PadReason.FILLER_TOO_SHORT)


def test_padding_that_nobody_caches_stops_at_once():
    """The estimate was wrong: uses that should have read did not, so there is no cached prefix to protect."""
    traffic = Traffic()
    for _ in range(MINIMUM_GAPS):
        traffic.gap(30.0)
    size, standing = PadSize(3100, 4100, MINIMUM), Standing(True, NOW_S - 60)
    for _ in range(TESTS_TO_STOP):
        assert decided(size, traffic.evidence(), standing).pad
        traffic.test(False)
    found = decided(size, traffic.evidence(), standing)
    assert (found.pad, found.reason) == (False, PadReason.NOT_CACHED)
    assert not decided(size, traffic.evidence(), Standing(False, NOW_S - 60), now_s=NOW_S + 2 * HOLD_S).pad


def test_entries_dropped_early_lower_the_hit_share():
    """Short gaps are no hits where half of what should be read is not, also once it is unpadded again."""
    traffic = Traffic()
    for number in range(100):
        traffic.gap(30.0)
        traffic.test(number % 2 == 0)
    assert traffic.evidence().within_5m == 1.0
    assert 0.45 < traffic.evidence().hit_share(TTL_5M_S) < 0.55


def test_a_prefix_that_has_grown_past_the_minimum_is_unpadded():
    """It can be cached as it is; the filler would only be read with it."""
    found = decided(PadSize(4400, 5900, MINIMUM), evidence(1.0), Standing(True, NOW_S - HOLD_S))
    assert not found.pad


@pytest.mark.parametrize(
    ("read", "write_5m", "write_1h", "prefix", "filler", "expected"),
    [
        (0, 0, 0, 2800, 0, 1.0),  # nothing cached
        (6000, 500, 0, 2800, 0, 0.1),  # a long conversation is read, the shared layers with it
        (0, 6000, 0, 2800, 0, 1.25),
        (0, 0, 6000, 2800, 0, 2.0),
        (4300, 0, 0, 4300, 1500, 1.0),  # padded: the shared entry is read, which there would not be
        (4300, 900, 0, 4300, 1500, 1.0),  # a short conversation behind it would still be under the minimum
        (4300, 6000, 0, 4300, 1500, 1.25),  # a long one would be written with the shared layers
        (9000, 300, 0, 4300, 1500, 0.1),  # and read
        (5640, 0, 0, 5590, 1500, 1.0),  # a boundary a little off is still the shared one
    ],
)
def test_what_a_shared_token_costs_without_padding(read, write_5m, write_1h, prefix, filler, expected):
    """Told from the bill of a request, padded or not."""
    assert (
        bare_rate(
            R10,
            read_tokens=read,
            write_5m_tokens=write_5m,
            write_1h_tokens=write_1h,
            prefix_tokens=prefix,
            padding_tokens=filler,
            minimum_tokens=MINIMUM,
        )
        == expected
    )


def test_long_conversations_do_not_need_padding():
    """Where the shared layers are read with a conversation most of the time, reading a filler too only costs."""
    size = PadSize(2800, 4300, MINIMUM)
    assert decided(size, evidence(1.0)).pad
    assert not decided(size, evidence(1.0, bare=0.15)).pad
