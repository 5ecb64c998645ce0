"""What is done for an idle prefix: as `keep_alive` says step by step, and the TTL that favours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.economics import Rates, hour_threshold, hour_value
from cache.hazard import Path
from cache.idle import IdlePlan, KeptByKind, idle_plan, kept
from cache.returns import WINDOW_S, WINDOWS, Returns
from cache.schedule import FIXED_PINGS, Policy, Prefix, Worth, keep_alive

RATES = Rates(1.25, 2.0, 0.1)
WORTH = Worth(RATES, 5e-6)
PATH: Path = (("", "turn"),)
shares = st.floats(0.0, 1.0, allow_nan=False)


def prefix(tokens=10_000, share=1.0, ttl_s=300):
    return Prefix(b"k", tokens, max(1, int(tokens * share)), ttl_s, False)


@given(
    st.lists(shares, min_size=WINDOWS, max_size=WINDOWS),
    st.integers(1, 200_000),
    st.floats(0.05, 1.0),
    st.sampled_from([300, 3600]),
    st.sampled_from([0.025, 0.05, 0.1]),
    st.floats(0.0, 50.0),
)
def test_the_plan_is_what_is_decided_keep_alive_by_keep_alive(
    hazards, tokens, share, ttl_s, read, call_units
):
    """With the same hazards, whatever prices and sizes are: the service, which asks each time, sends as many."""
    worth = WORTH._replace(rates=Rates(1.25, 2.0, read), call_units=call_units)
    one = prefix(tokens, share, ttl_s)
    step, sent = (1 if ttl_s == 300 else 12), 0
    while keep_alive(Policy.AUTO, one, worth, hazards[step * (sent + 1) :], sent).fires:
        sent += 1
    assert idle_plan(Policy.AUTO, one, worth, hazards).pings == sent


def test_nothing_is_done_before_evidence():
    """At the prior: no keep-alive, no upgrade, no hour; at 0.05 as at 0.1."""
    for read in (0.05, 0.1):
        worth = WORTH._replace(rates=Rates(1.25, 2.0, read))
        returns = Returns()
        for ttl_s in (300, 3600):
            done = idle_plan(
                Policy.AUTO,
                prefix(ttl_s=ttl_s),
                worth,
                returns.hazards(PATH),
                answer_tokens=50,
                hour_hazards=returns.hour_hazards(PATH),
            )
            assert done == (0, False, 0.0)
        found = kept(worth, returns.run_hazards(PATH), upgrades=True)
        assert found.five == 0.0
        assert found.hour < 0


def test_the_policy_that_counts_sends_as_many_whatever_is_expected():
    """Three, and no upgrade ping."""
    found = idle_plan(Policy.KEEP_ALIVE, prefix(), WORTH, [0.0] * WINDOWS, answer_tokens=50)
    assert found == IdlePlan(FIXED_PINGS, False, 0.0)


def test_the_upgrade_ping_follows_where_returns_spread_over_the_hour():
    """A tenth come in each window: one read and the answer's write buy all; a long answer is too dear."""
    hazards = [0.5] + [0.1] * (WINDOWS - 1)
    assert idle_plan(Policy.AUTO, prefix(), WORTH, hazards, answer_tokens=100).upgrades
    assert not idle_plan(Policy.AUTO, prefix(), WORTH, hazards, answer_tokens=20_000).upgrades
    assert not idle_plan(Policy.AUTO, prefix(), WORTH, hazards).upgrades
    assert not idle_plan(Policy.AUTO, prefix(ttl_s=3600), WORTH, hazards, answer_tokens=100).upgrades


@given(shares, st.sampled_from([0.025, 0.05, 0.1]))
def test_an_hour_pays_over_five_minutes_from_its_threshold_on(survives, read):
    """Without keep-alives both say the same."""
    rates = Rates(1.25, 2.0, read)
    if abs(survives - hour_threshold(rates)) > 1e-9:
        assert (hour_value(rates, survives) > 0) == (survives > hour_threshold(rates))


def test_known_waits_favour_five_minutes_and_a_keep_alive_pauses_over_the_hour_the_hour():
    """Nine in ten come in the second window; or as many somewhere within the hour."""
    soon = [0.5, 0.6] + [0.0] * (WINDOWS - 2)
    assert kept(WORTH, soon).five > kept(WORTH, soon).hour > 0
    late = [0.5] + [0.17] * 12 + [0.0] * (WINDOWS - 13)
    assert kept(WORTH, late).hour > kept(WORTH, late).five


def test_a_turns_fate_is_that_of_the_longer_gaps_after_it():
    """Quick turns before a long wait are credited with it; a turn never followed by one is not."""
    returns, quick, last = Returns(), (("quick",),), (("last",),)
    for number in range(200):
        start = number * 10_000.0
        first, second, third = (b"%d %d" % (number, turn) for turn in range(3))
        returns.quiet(first, quick, start)
        run = returns.returned(first, start + 20)
        returns.quiet(second, last, start + 20, run=run)
        run = returns.returned(second, start + 420)
        returns.quiet(third, (("end",),), start + 420, run=run)
    returns.close(1e9)
    assert returns.hazards(quick)[1] < 0.05, "nobody is idle after the first turn"
    assert returns.run_hazards(quick)[1] == pytest.approx(0.5, abs=0.05), "one wait ends, the last does not"
    assert returns.run_hazards(last)[1] == pytest.approx(0.5, abs=0.05)
    assert returns.run_hazards((("end",),))[1] < 0.01


def test_a_conversation_that_goes_on_from_elsewhere_does_not_come_back():
    """It ends the wait: no return, and no window after it."""
    returns = Returns()
    for number in range(100):
        returns.quiet(b"%d" % number, PATH, 0.0)
        returns.returned(b"%d" % number, 400.0, reused=False)
    returns.close(WINDOW_S * WINDOWS)
    assert returns.hazards(PATH)[1] < 0.01
    assert returns.hazards(PATH)[2] == Returns().hazards(PATH)[2]


def test_what_keep_alives_are_worth_follows_what_is_learnt():
    """By kind of turn, worked out anew only when enough windows have closed."""
    returns = Returns()
    by_kind = KeptByKind(lambda: WORTH, returns)
    before = by_kind(PATH)
    assert by_kind(PATH) is before
    for number in range(100):
        returns.quiet(b"%d" % number, PATH, number * 1.0)
        returns.returned(b"%d" % number, number + 400.0)
    returns.close(2000.0)
    assert by_kind(PATH).five > before.five
