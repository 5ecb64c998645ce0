"""Comparison with recorded outcomes: perfect orderings win, ties are fair, baselines are honest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.answers import NEED_PAIRS, Answered
from classifier.comparison import apgr_exact, compare, ridge_scores, share_for
from classifier.recipe import assemble, card
from classifier.training import TrainedModel

PAIR = NEED_PAIRS["mmlu_pro"]
benefits = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=60).filter(lambda v: sum(v) > 0)


def answered(count: int) -> list[Answered]:
    """Prompts whose word says who is right: `hard` ones need the strong model."""
    generator = np.random.default_rng(1)
    hard = generator.random(count) < 0.4
    return [
        Answered(
            id=f"q{n}",
            source="mmlu_pro",
            kind="mcq",
            prompt=f"{'entropy' if hard[n] else 'colour'} " + "x" * int(generator.integers(1, 50)),
            scores={PAIR.weak: float(not hard[n]), PAIR.strong: 1.0},
        )
        for n in range(count)
    ]


@given(benefits)
def test_equal_scores_recover_half(gains: list[float]) -> None:
    """A scorer that says nothing is a coin: APGR .5 exactly, and 80 % of the gap needs 80 % of the calls."""
    values = np.array(gains)
    assert apgr_exact(np.zeros(len(values)), values) == pytest.approx(0.5)
    assert share_for(np.zeros(len(values)), values, 0.8) == pytest.approx(0.8)


@given(benefits)
def test_no_ordering_beats_the_oracle(gains: list[float]) -> None:
    """Ordering by the benefit itself is best, its reverse worst."""
    values = np.array(gains)
    best = apgr_exact(values, values)
    other = apgr_exact(np.arange(len(values), dtype=np.float64), values)
    assert best + 1e-9 >= other >= apgr_exact(-values, values) - 1e-9


def test_good_scores_beat_length_with_their_interval() -> None:
    """Scores that know the hard word recover the gap; length does not; the interval of the difference says so."""
    rows = answered(300)
    scores = {row.id: 0.9 if row.prompt.startswith("entropy") else 0.1 for row in rows}
    (figures,) = compare(rows, scores, {row.id: n % 5 for n, row in enumerate(rows)})
    assert figures.source == "mmlu_pro"
    assert figures.over_length[0] > 0.1
    assert figures.ridge_apgr == pytest.approx(figures.apgr, abs=0.02)  # the word is all there is to know
    assert figures.ece == pytest.approx(0.1, abs=0.01)


def test_ridge_never_sees_the_fold_it_scores() -> None:
    """Labels that depend on a prompt's own word cannot be predicted for other prompts."""
    rows = [
        Answered(id=f"q{n}", source="mmlu_pro", kind="mcq", prompt=f"tell word{n}", scores={PAIR.weak: 0.0})
        for n in range(100)
    ]
    needed = np.arange(100) % 2 == 0
    scores = ridge_scores(rows, needed, {row.id: n % 5 for n, row in enumerate(rows)})
    assert np.abs(scores - 0.5).max() < 0.1


def test_card_names_sources_licences_and_figures(answered_trained: TrainedModel) -> None:
    """The card of a model tells what it was trained from, under which licence, and how good it was."""
    rows = answered(60)
    dataset = assemble(rows, (), answered_trained.dataset.rows[:3])
    compared = [figures.to_dict() for figures in compare(rows, {row.id: 0.5 for row in rows})]
    text = card(answered_trained.to_model("2026-11-23T00:00:00Z").manifest, "abc", dataset, compared)
    assert "| mmlu_pro | 60 | gpt-4o-2024-05-13 right and gemini-1.5-flash-002 wrong | MIT" in text
    assert "| own labels | 3 |" in text
    assert "| flash15_gpt4o | mmlu_pro | 60 |" in text
