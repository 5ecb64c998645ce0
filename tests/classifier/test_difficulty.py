"""Difficulty is learned within sources: their means say nothing, length keeps its prior, the rest is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from classifier.difficulty import (
    FREE,
    LEAST_LAYOUT_ROWS,
    LENGTH_COLUMN,
    OPTIONS_COLUMN,
    SUBJECT_PRIOR,
    Difficulty,
    drawn,
    layouts,
    slice_means,
)
from classifier.features import STRUCTURE_NAMES
from classifier.pipeline import _logistic, _shares

ROWS = 800
BRACKETS = STRUCTURE_NAMES.index("brackets_log")
BLANK = sparse.csr_array((ROWS, 1))


def fitted(benefits: np.ndarray, sources: list[str], structure: np.ndarray, **settings: float) -> Difficulty:
    return Difficulty(**settings).fit(structure, BLANK, benefits, np.ones(ROWS), sources)


def a_structure() -> np.ndarray:
    """Free tasks whose columns are drawn."""
    drawn_columns = np.abs(np.random.default_rng(3).normal(3.0, 1.0, (ROWS, len(STRUCTURE_NAMES))))
    drawn_columns[:, OPTIONS_COLUMN] = 0.0
    return drawn_columns


def test_what_only_tells_sources_apart_weighs_nothing() -> None:
    """One source always needs the strong model, the other never, and a column names the source: no difficulty."""
    structure, sources = a_structure(), ["a", "b"] * (ROWS // 2)
    structure[:, BRACKETS] = np.arange(ROWS) % 2 * 3.0
    found = fitted(np.arange(ROWS) % 2 * 1.0, sources, structure, length_weight=0.0, tree_scale=5.0)
    assert np.abs(found.decision_function(structure, BLANK)).max() < 1e-6


@pytest.mark.parametrize("tree_scale", [0.0, 5.0])
def test_what_makes_tasks_hard_within_their_source_is_found(tree_scale: float) -> None:
    """Harder with brackets in both sources: rows with more of them score higher, also in a source of its own."""
    structure, sources = a_structure(), ["a", "b"] * (ROWS // 2)
    benefits = (structure[:, BRACKETS] > 3.0) * 0.5 + (np.arange(ROWS) % 2) * 0.3
    found = fitted(benefits, sources, structure, tree_scale=tree_scale)
    few, many = structure.copy(), structure.copy()
    few[:, BRACKETS], many[:, BRACKETS] = 1.0, 5.0
    assert np.all(found.decision_function(many, BLANK) > found.decision_function(few, BLANK) + 0.5)


@pytest.mark.parametrize(("options", "gain"), [(0.0, 0.4), (4.0, 0.4 / 3), (10.0, 0.4 / 3)])
def test_longer_is_harder_where_no_answers_say_otherwise(options: float, gain: float) -> None:
    """Benefits that depend on nothing leave exactly the prior: all of it for free tasks, a third for a layout of which
    no answers are known."""
    structure = a_structure()
    found = fitted(np.full(ROWS, 0.2), ["a"] * ROWS, structure, length_weight=0.4)
    structure[:, OPTIONS_COLUMN] = options
    longer = structure.copy()
    longer[:, LENGTH_COLUMN] += 1.0
    gained = found.decision_function(longer, BLANK) - found.decision_function(structure, BLANK)
    assert gained == pytest.approx(np.full(ROWS, gain), abs=1e-9)


def test_words_may_say_different_things_of_different_layouts() -> None:
    """A word marks the hard questions with four options and the easy ones with ten: each layout has its own table;
    free tasks have none, and of known layouts the prior on length says nothing."""
    rows = 2 * LEAST_LAYOUT_ROWS + 100
    number = np.arange(rows)
    structure = np.ones((rows, len(STRUCTURE_NAMES)))
    structure[:, OPTIONS_COLUMN] = np.where(number % 2, 4.0, 10.0)
    structure[-80:, OPTIONS_COLUMN] = 0.0
    has = number // 2 % 2
    words = sparse.csr_array(np.column_stack([has, 1 - has]).astype(np.float64))
    benefits = np.where(number % 2, has, 1 - has) * 0.5
    found = Difficulty().fit(structure, words, benefits, np.ones(rows), ["a"] * rows)
    free, few, many = found.words_
    assert few[0] - few[1] > 3.0
    assert many[0] - many[1] < -3.0
    assert not free.any()
    assert found.structure_[:, LENGTH_COLUMN] == pytest.approx([2.0, 0.0, 0.0])


@pytest.mark.parametrize(("options", "layout"), [(0.0, FREE), (1.0, 1), (5.0, 1), (6.0, 2), (12.0, 2)])
def test_layouts_are_told_by_the_number_of_options(options: float, layout: int) -> None:
    """Free, one of few, one of many."""
    structure = np.zeros((1, len(STRUCTURE_NAMES)))
    structure[0, OPTIONS_COLUMN] = options
    assert layouts(structure).tolist() == [layout]


def test_ranks_are_drawn_to_their_subject_and_subjects_to_their_source() -> None:
    """By the share that is not a row's own, and by a few rows' worth; a row without a subject keeps its own."""
    ranks = np.array([1.0, 1.0, 0.0, 0.0, 0.6])
    mean = float(ranks.mean())
    top = (2.0 + SUBJECT_PRIOR * mean) / (2 + SUBJECT_PRIOR)
    low = SUBJECT_PRIOR * mean / (2 + SUBJECT_PRIOR)
    found = drawn(ranks, np.array([0.0, 1.0, 0.0, 0.5, 0.0]), ["a", "a", "b", "b", None], ["s"] * 5)
    assert found == pytest.approx([top, 1.0, low, low / 2, 0.6])
    apart = drawn(ranks, np.zeros(5), ["a"] * 5, ["s", "t", "t", "t", "u"])
    assert apart[0] > apart[1] == apart[2]


def test_shares_of_need_stand_where_answers_are_many() -> None:
    """Per layout, drawn to all with options: one of which nothing is known has their share; few answers have none."""
    layout = np.repeat([FREE, 1], [50, 3 * LEAST_LAYOUT_ROWS])
    targets = np.where(layout == FREE, 0.9, 0.25)
    free, few, many = _shares(layout, targets, np.ones(len(layout)))
    assert np.isnan(free)
    assert few == many == pytest.approx(np.log(1.0 / 3.0))
    assert np.isfinite(_shares(layout, np.zeros(len(layout)), np.ones(len(layout)))[1:]).all()
    assert np.isnan(_shares(layout[:900], targets[:900], np.ones(900))).all()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5), st.sampled_from("abc")), min_size=1, max_size=30)
)
def test_rows_less_their_slice_mean_sum_to_zero(rows: list[tuple[float, float, str]]) -> None:
    """Weighted deviations from a slice's mean cancel in every slice."""
    values, weights = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    slices = [row[2] for row in rows]
    rest = (values - slice_means(values, weights, slices)) * weights
    for name in set(slices):
        assert rest[[one == name for one in slices]].sum() == pytest.approx(0.0, abs=1e-9)


def test_offsets_take_the_place_of_what_is_known() -> None:
    """A regression on top of offsets that explain the targets learns next to nothing; without them it learns it."""
    generator = np.random.default_rng(1)
    columns = sparse.csr_array(generator.normal(size=(400, 3)))
    known = columns @ np.array([2.0, 0.0, 0.0])
    targets = 1.0 / (1.0 + np.exp(-known))
    with_offsets, _ = _logistic(columns, targets, np.ones(400), known, 1.0, 200)
    without, _ = _logistic(columns, targets, np.ones(400), np.zeros(400), 1.0, 200)
    assert np.abs(with_offsets).max() < 1e-3
    assert without[0] > 1.5
