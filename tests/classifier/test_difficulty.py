"""Difficulty is learned within sources: their means say nothing, length keeps its prior, the rest is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from classifier.difficulty import LENGTH_COLUMN, Difficulty, slice_means
from classifier.features import STRUCTURE_NAMES
from classifier.pipeline import _logistic

ROWS = 800
BRACKETS = STRUCTURE_NAMES.index("brackets_log")


def fitted(targets: np.ndarray, sources: list[str], structure: np.ndarray, **settings: float) -> Difficulty:
    words = sparse.csr_array(np.ones((ROWS, 1)))
    return Difficulty(**settings).fit(structure, words, targets, np.ones(ROWS), sources)


def drawn() -> np.ndarray:
    return np.abs(np.random.default_rng(3).normal(3.0, 1.0, (ROWS, len(STRUCTURE_NAMES))))


def test_what_only_tells_sources_apart_weighs_nothing() -> None:
    """One source always needs the strong model, the other never, and a column names the source: no difficulty."""
    structure, sources = drawn(), ["a", "b"] * (ROWS // 2)
    structure[:, BRACKETS] = np.arange(ROWS) % 2 * 3.0
    found = fitted(np.arange(ROWS) % 2 * 1.0, sources, structure, length_weight=1e-9)
    scores = found.decision_function(structure, sparse.csr_array(np.ones((ROWS, 1))))
    assert np.abs(scores).max() < 1e-6


def test_what_makes_tasks_hard_within_their_source_is_found() -> None:
    """Harder with brackets in both sources: rows with more of them score higher, also in a source of its own."""
    structure, sources = drawn(), ["a", "b"] * (ROWS // 2)
    targets = (structure[:, BRACKETS] > 3.0) * 0.5 + (np.arange(ROWS) % 2) * 0.3
    found = fitted(targets, sources, structure)
    few, many = structure.copy(), structure.copy()
    few[:, BRACKETS], many[:, BRACKETS] = 1.0, 5.0
    words = sparse.csr_array(np.ones((ROWS, 1)))
    assert np.all(found.decision_function(many, words) > found.decision_function(few, words) + 0.5)


def test_longer_is_harder_unless_answers_say_otherwise() -> None:
    """Targets that do not depend on anything leave exactly the prior: its weight per standard deviation of length."""
    structure = drawn()
    found = fitted(np.full(ROWS, 0.2), ["a"] * ROWS, structure, length_weight=0.4)
    longer = structure.copy()
    longer[:, LENGTH_COLUMN] += structure[:, LENGTH_COLUMN].std()
    words = sparse.csr_array(np.ones((ROWS, 1)))
    gained = found.decision_function(longer, words) - found.decision_function(structure, words)
    assert gained == pytest.approx(np.full(ROWS, 0.4), abs=1e-9)


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
