"""The population stability index: nothing for the same, more for the further, an alarm that chance seldom raises."""

from __future__ import annotations

import json
import random
from math import isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.drift import (
    ALARM_PSI,
    BINS,
    FIGURES,
    METRIC,
    alarm_psi,
    figures_of,
    psi,
    reference_of,
    references_from,
    references_of,
    to_metrics,
)
from classifier.features import STRUCTURE_NAMES

figures = st.floats(-1e6, 1e6, allow_nan=False)


def counts(reference, values):
    """A histogram over a reference's bins."""
    found = [0] * len(reference.counts)
    for value in values:
        found[reference.bin_of(value)] += 1
    return found


@given(st.lists(figures, min_size=1, max_size=200))
def test_a_reference_holds_every_value_once(values):
    """At most ten bins, edges ascending, every value in the bin that its own lookup names, none of them empty."""
    reference = reference_of(values)
    assert len(reference.counts) == len(reference.edges) + 1 <= BINS
    assert list(reference.edges) == sorted(set(reference.edges))
    assert list(reference.counts) == counts(reference, values)
    assert min(reference.counts) > 0


@given(
    st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=400).filter(lambda each: len(set(each)) == 2)
)
def test_a_figure_of_two_values_has_two_bins(values):
    """However rare one of them is, a share has its bin: else it could not be seen to grow."""
    assert len(reference_of(values).counts) == 2


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=10))
def test_the_index_is_symmetric_and_never_negative(pairs):
    """PSI(p, q) = PSI(q, p) >= 0, and 0 where the shares are equal."""
    then, now = zip(*pairs, strict=True)
    assert psi(then, now) >= 0.0
    assert isclose(psi(then, now), psi(now, then), abs_tol=1e-12)
    assert psi(then, then) == 0.0


def test_the_index_is_what_the_formula_says():
    """Two bins, 50:50 then and 60:40 now, of many: .1 ln 1.2 + -.1 ln .8."""
    assert isclose(psi((500_000, 500_000), (600_000, 400_000)), 0.0405465, rel_tol=1e-4)


def test_the_alarm_is_above_what_chance_explains():
    """Four times (B-1)(1/n+1/m), and never below .1."""
    assert alarm_psi(10, 2_000, 2_000) == ALARM_PSI
    assert isclose(alarm_psi(10, 200, 200), 4 * 9 * (1 / 200 + 1 / 200))
    assert alarm_psi(2, 0, 0) == ALARM_PSI


def test_chance_alone_seldom_raises_the_alarm_and_a_shift_does():
    """Of 2,000 pairs of samples of one distribution none or one alarms; moved by half a deviation, every one does."""
    chance = random.Random(7)
    reference = reference_of([chance.gauss(0, 1) for _ in range(2_000)])
    limit = alarm_psi(len(reference.counts), 2_000, 300)

    def index(shift):
        return psi(reference.counts, counts(reference, [chance.gauss(shift, 1) for _ in range(300)]))

    assert sum(index(0.0) >= limit for _ in range(500)) <= 1
    assert all(index(0.6) >= limit for _ in range(50))


@settings(max_examples=30)
@given(st.integers(1, 40))
def test_the_index_grows_with_the_share_that_moved(step):
    """The further a share moves from where it was, the larger the index."""
    near, far = 500 + 10 * step, 500 + 10 * step + 10
    then = (500, 500)
    assert psi(then, (near, 1_000 - near)) < psi(then, (far, 1_000 - far))


structures = st.lists(figures, min_size=len(STRUCTURE_NAMES), max_size=len(STRUCTURE_NAMES))
rows = st.lists(st.tuples(st.floats(0, 1), st.booleans(), structures), min_size=1, max_size=20)


@settings(max_examples=30)
@given(rows)
def test_references_travel_in_a_manifest(requests):
    """What a trainer lays beside a model is read back as it was, through JSON."""
    references = references_of([figures_of(*each) for each in requests])
    assert list(references) == list(FIGURES)
    travelled = json.loads(json.dumps({"auroc": 0.8} | to_metrics(references)))
    assert references_from(travelled) == references
    assert references_from({"auroc": 0.8}) is None


@pytest.mark.parametrize(
    "found",
    [
        7,
        {"score": {"edges": [], "counts": [1]}},
        dict.fromkeys(FIGURES, 1),
        {name: {"edges": [2, 1], "counts": [1, 1, 1]} for name in FIGURES},
        {name: {"edges": [1], "counts": [1]} for name in FIGURES},
        {name: {"edges": [], "counts": [0]} for name in FIGURES},
    ],
)
def test_other_references_are_refused(found):
    """Other figures, or no histograms: a ValueError, never a comparison with nonsense."""
    with pytest.raises(ValueError, match=METRIC):
        references_from({METRIC: found})
