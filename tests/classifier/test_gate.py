"""The gate: each condition refuses alone, better evidence never turns a pass into a refusal, everything is told."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.gate import CalibrationError, Evidence, GateSettings, Slice, harmed_slices, judge
from classifier.offpolicy import Estimate, Lift


def between(low, high):
    return Estimate(value=(low + high) / 2, low=low, high=high)


def a_lift(low=0.01, high=0.05, always_valid=(-0.02, 0.08), unsupported=0.0):
    one = between(low, high)
    return Lift(
        ips=one,
        snips=one,
        dr=one,
        dm=0.03,
        always_valid=always_valid,
        rows=2_000,
        sessions=700,
        differ_share=0.2,
        supported_rows=400,
        unsupported_share=unsupported,
    )


GOOD = Evidence(
    quality=a_lift(),
    cost_nano_usd=between(-3e5, -1e5),
    champion_cost_nano_usd=4e6,
    answer_value_nano_usd=None,
    candidate_error=CalibrationError(error=0.05, by_chance=0.04),
    champion_error=CalibrationError(error=0.05, by_chance=0.04),
    outcomes=(400, 200),
    slices=(Slice(dimension="kind", name="code", rows=300, lift=between(-0.03, 0.05)),),
    golden_rows=40,
    golden_flips=(),
)
SETTINGS = GateSettings()


def failed(evidence, settings=SETTINGS):
    return [condition.name for condition in judge(evidence, settings).conditions if not condition.passed]


def test_good_evidence_passes_and_every_condition_is_told():
    """Five conditions, each with figures."""
    verdict = judge(GOOD, SETTINGS)
    assert verdict.passed
    assert [each.name for each in verdict.conditions] == [
        "outcomes",
        "quality",
        "calibration",
        "slices",
        "golden",
    ]
    assert all(each.figures for each in verdict.conditions)
    assert "+3.00 points [+1.00, +5.00] at -5.0% cost" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"outcomes": (400, 19)}, "outcomes"),
        ({"quality": None}, "quality"),
        ({"cost_nano_usd": None}, "quality"),
        ({"champion_cost_nano_usd": None}, "quality"),
        ({"quality": a_lift(-0.006, 0.05)}, "quality"),
        ({"cost_nano_usd": between(0.0, 4e5)}, "quality"),
        ({"candidate_error": CalibrationError(error=0.2, by_chance=0.04)}, "calibration"),
        ({"candidate_error": CalibrationError(error=0.071, by_chance=0.04)}, "calibration"),
        ({"candidate_error": None}, "calibration"),
        (
            {"slices": (Slice(dimension="kind", name="law", rows=90, lift=between(-0.12, -0.05)),)},
            "slices",
        ),
        ({"golden_flips": ("must_opus-03",)}, "golden"),
    ],
)
def test_each_condition_refuses_alone(changes, name):
    """And the reason names it."""
    evidence = replace(GOOD, **changes)
    assert failed(evidence) == [name]
    assert judge(evidence, SETTINGS).reason.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("low", "cost", "passes"),
    [
        (-0.004, -1e5, True),
        (-0.004, 0.0, True),
        (-0.004, 4e4, False),
        (-0.006, -1e6, False),
        (0.001, 7e4, True),
        (0.001, 9e4, False),
    ],
)
def test_quality_against_cost(low, cost, passes):
    """Not worse at equal or lower cost, or better at equal cost; equal is within 2 % of 4,000,000."""
    evidence = replace(GOOD, quality=a_lift(low, 0.1), cost_nano_usd=between(cost, cost))
    assert (failed(evidence) == []) is passes


def test_a_dearer_candidate_passes_when_it_is_worth_its_price():
    """One point of quality at 300,000,000 a needed answer is worth 3,000,000 a request."""
    dearer = replace(GOOD, quality=a_lift(0.01, 0.05), cost_nano_usd=between(2e6, 2.9e6))
    assert failed(dearer) == ["quality"]
    assert failed(replace(dearer, answer_value_nano_usd=3e8)) == []
    assert failed(replace(dearer, answer_value_nano_usd=2e8)) == ["quality"]


def test_daily_looks_go_by_the_wider_bounds():
    """With always_valid the same evidence is not enough."""
    assert failed(GOOD, replace(SETTINGS, always_valid=True)) == ["quality"]
    sure = replace(GOOD, quality=a_lift(always_valid=(0.001, 0.06)))
    assert failed(sure, replace(SETTINGS, always_valid=True)) == []


def test_what_was_never_explored_is_told():
    """The operator learns why the interval is wide."""
    evidence = replace(GOOD, quality=a_lift(-0.2, 0.2, unsupported=0.2))
    assert "on 20.0% without enough exploration" in judge(evidence, SETTINGS).reason


def test_holm_asks_more_of_one_among_many():
    """A slice that would be proved harmed alone is not among forty that look like chance."""
    bad = Slice(dimension="kind", name="law", rows=90, lift=between(-0.12, -0.015))
    fine = [Slice(dimension="kind", name=str(n), rows=90, lift=between(-0.05, 0.05)) for n in range(39)]
    assert harmed_slices([bad], 0.02, 0.05) == (bad,)
    assert harmed_slices([bad, *fine], 0.02, 0.05) == ()


def test_holm_goes_on_after_the_first():
    """Two clearly harmed slices are both named."""
    bad = [Slice(dimension="kind", name=str(n), rows=90, lift=between(-0.2, -0.1)) for n in range(2)]
    fine = Slice(dimension="kind", name="x", rows=90, lift=between(-0.05, 0.05))
    assert set(harmed_slices([fine, *bad], 0.02, 0.05)) == set(bad)


shares = st.floats(-0.3, 0.3)
evidences = st.builds(
    lambda low, width, cost, error, champion, outcomes, parts, flips, worth: replace(
        GOOD,
        quality=a_lift(low, low + width, always_valid=(low - width, low + 2 * width)),
        cost_nano_usd=between(cost, cost),
        candidate_error=CalibrationError(error=error, by_chance=0.02),
        champion_error=CalibrationError(error=champion, by_chance=0.02),
        outcomes=outcomes,
        slices=tuple(
            Slice(dimension="kind", name=str(n), rows=50, lift=between(value - 0.05, value + 0.05))
            for n, value in enumerate(parts)
        ),
        golden_flips=tuple(flips),
        answer_value_nano_usd=worth,
    ),
    shares,
    st.floats(0.0, 0.3),
    st.floats(-1e6, 1e6),
    st.floats(0.0, 0.2),
    st.floats(0.0, 0.2),
    st.tuples(st.integers(0, 100), st.integers(0, 100)),
    st.lists(shares, max_size=5),
    st.lists(st.sampled_from(["a", "b"]), max_size=2),
    st.none() | st.floats(1e6, 1e9),
)
rules = st.builds(replace, st.just(SETTINGS), always_valid=st.booleans())


@given(evidences, rules, st.floats(0.0, 0.2), st.floats(0.0, 1e6), st.floats(0.0, 0.1))
def test_better_evidence_never_turns_a_pass_into_a_refusal(evidence, settings, more, cheaper, calmer):
    """Higher quality everywhere, lower cost, better calibration, fewer flips: what passed passes."""
    quality, cost, error = evidence.quality, evidence.cost_nano_usd, evidence.candidate_error
    better = replace(
        evidence,
        quality=a_lift(
            quality.dr.low + more,
            quality.dr.high + more,
            always_valid=tuple(bound + more for bound in quality.always_valid),
        ),
        cost_nano_usd=between(cost.low - cheaper, cost.high - cheaper),
        candidate_error=CalibrationError(error=max(0.0, error.error - calmer), by_chance=error.by_chance),
        golden_flips=evidence.golden_flips[1:],
        outcomes=(evidence.outcomes[0] + 5, evidence.outcomes[1] + 5),
        slices=tuple(
            replace(each, lift=between(each.lift.low + more, each.lift.high + more))
            for each in evidence.slices
        ),
    )
    before, after = judge(evidence, settings), judge(better, settings)
    for one, other in zip(before.conditions, after.conditions, strict=True):
        assert other.passed or not one.passed


@given(evidences, rules)
def test_a_verdict_is_the_conjunction_and_repeats(evidence, settings):
    """Equal evidence, equal verdict; passed iff every condition is; flips always refuse."""
    verdict = judge(evidence, settings)
    assert verdict == judge(evidence, settings)
    assert verdict.passed == all(condition.passed for condition in verdict.conditions)
    assert verdict.reason
    if evidence.golden_flips or min(evidence.outcomes) < settings.least_outcomes:
        assert not verdict.passed
