"""Open facts: an assumption holds until a fresh measurement on the same model decided otherwise."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.facts import ASSUMED, VERDICTS, Answer, FactId, Facts, Verdict, facts_for
from cache.rules import TTL_5M_S, OpenFacts

MODEL = "claude-opus-5-5"
NOW_S = 1_795_168_800.0
DAY_S = 86_400.0
LIMIT_S = 90 * DAY_S


def answer(fact, verdict, *, age_s=0.0, model=MODEL, live=True):
    numbers = (55e-6, 0.7) if verdict is Verdict.MEASURED else (None, None)
    return Answer(fact, model, verdict, NOW_S - age_s, live, *numbers)


ANSWERS = st.sampled_from(list(FactId)).flatmap(
    lambda fact: st.builds(
        answer,
        st.just(fact),
        st.sampled_from(sorted(VERDICTS[fact])),
        age_s=st.floats(-10 * DAY_S, 200 * DAY_S),
        model=st.sampled_from([MODEL, "claude-opus-5"]),
        live=st.booleans(),
    )
)


def read(answers):
    return facts_for(MODEL, answers, now_s=NOW_S, age_limit_s=LIMIT_S)


def test_nothing_measured_is_what_was_always_assumed():
    """Page and date of each stand in `cache.facts`; the values are those of 2026-11-22."""
    assert read([]).facts == ASSUMED == Facts()
    assert OpenFacts is Facts
    assert ASSUMED.implicit_ttl_s == TTL_5M_S
    assert not ASSUMED.verified
    assert not ASSUMED.upgrade_ping_verified
    assert ASSUMED.warm_output_tokens == 0


@pytest.mark.parametrize(
    ("fact", "verdict", "change"),
    [
        (FactId.A1_MARKED, Verdict.NO, {"deep_hit_refreshes_shallower_marked": False}),
        (FactId.A1_UNMARKED, Verdict.YES, {"deep_hit_refreshes_shallower_unmarked": True}),
        (FactId.A2, Verdict.YES, {"hour_mark_extends_read_prefix": True}),
        (FactId.A3, Verdict.FREE, {"hour_mark_upgrades_entry": True}),
        (FactId.A3, Verdict.BILLED, {}),
        (FactId.A4, Verdict.MEASURED, {"prefill_s_per_token": 55e-6, "first_byte_s": 0.7}),
        (FactId.A5, Verdict.YES, {"stripped_request_harms": True}),
        (FactId.A6, Verdict.NO, {"zero_output_with_adaptive_thinking": False}),
    ],
)
def test_an_answer_replaces_its_assumption_and_no_other(fact, verdict, change):
    """One field (A4: two), and the mark that it was verified."""
    assert read([answer(fact, verdict)]).facts == replace(ASSUMED, verified=frozenset({fact}), **change)


def test_the_upgrade_ping_needs_the_measurement_not_the_belief():
    """A2 believed is not A2 seen; seen on another model, on an emulator, or long ago, it is not seen either."""
    yes = answer(FactId.A2, Verdict.YES)
    assert read([yes]).facts.upgrade_ping_verified
    assert not Facts(hour_mark_extends_read_prefix=True).upgrade_ping_verified
    for other in (
        yes._replace(model="claude-opus-5"),
        yes._replace(live=False),
        yes._replace(measured_time_s=NOW_S - LIMIT_S - 1),
        yes._replace(verdict=Verdict.NO),
        yes._replace(verdict=Verdict.UNKNOWN),
    ):
        assert not read([other]).facts.upgrade_ping_verified


def test_a_newer_unknown_takes_a_decision_back():
    """What was seen in spring and could not be seen again today is assumed, not known."""
    found = read([answer(FactId.A2, Verdict.UNKNOWN), answer(FactId.A2, Verdict.YES, age_s=DAY_S)])
    assert found.facts == ASSUMED
    assert {why for _, why in found.ignored} == {
        "undecided, so the assumption stays",
        "a newer answer replaces it",
    }


@given(st.lists(ANSWERS, max_size=12))
def test_every_answer_is_used_or_refused_with_a_reason(answers):
    """Nothing vanishes; what is used is live, fresh, of the model, decided, and the newest of its fact."""
    found = read(answers)
    assert sorted(map(str, [*found.used, *(each for each, _ in found.ignored)])) == sorted(map(str, answers))
    assert all(why for _, why in found.ignored)
    assert found.facts.verified == {each.fact for each in found.used}
    for each in found.used:
        assert each.live
        assert each.model == MODEL
        assert each.verdict is not Verdict.UNKNOWN
        assert -3600.0 <= NOW_S - each.measured_time_s <= LIMIT_S
        rivals = [
            other for other in answers if other.fact is each.fact and other.model == MODEL and other.live
        ]
        fresh = [other for other in rivals if -3600.0 <= NOW_S - other.measured_time_s <= LIMIT_S]
        assert each.measured_time_s == max(other.measured_time_s for other in fresh)


@given(st.lists(ANSWERS, max_size=12))
def test_what_is_not_verified_is_as_assumed(answers):
    """A field differs from its default only under a verified fact."""
    facts = read(answers).facts
    changed = {
        each.name for each in fields(Facts) if getattr(facts, each.name) != getattr(ASSUMED, each.name)
    }
    of_fact = {
        "deep_hit_refreshes_shallower_marked": FactId.A1_MARKED,
        "deep_hit_refreshes_shallower_unmarked": FactId.A1_UNMARKED,
        "hour_mark_extends_read_prefix": FactId.A2,
        "hour_mark_upgrades_entry": FactId.A3,
        "prefill_s_per_token": FactId.A4,
        "first_byte_s": FactId.A4,
        "stripped_request_harms": FactId.A5,
        "zero_output_with_adaptive_thinking": FactId.A6,
    }
    assert {of_fact[name] for name in changed - {"verified"}} <= facts.verified


@pytest.mark.parametrize(
    ("fact", "verdict"), [(FactId.A2, Verdict.FREE), (FactId.A4, Verdict.YES), (FactId.A3, Verdict.YES)]
)
def test_a_verdict_of_another_question_is_refused(fact, verdict):
    """A file edited by hand is named, not half believed."""
    with pytest.raises(ValueError, match="cannot be"):
        read([answer(fact, verdict)])


def test_a_measurement_without_its_numbers_is_refused():
    """A4 measured means two numbers."""
    with pytest.raises(ValueError, match="numbers"):
        read([answer(FactId.A4, Verdict.MEASURED)._replace(first_byte_s=None)])
