"""Figures: right where they can be checked by hand, None where the data cannot carry them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.dataset import LabelledSample
from classifier.evaluation import apgr, auroc, calibration_error, confusion, evaluate
from classifier.sample import Sample


def row(index: int, label: int, group: str | None = None, **fields: float) -> LabelledSample:
    return LabelledSample(
        id=str(index),
        group=group or str(index),
        label=label,
        kind="even" if index % 2 == 0 else "odd",
        sample=Sample.bounded(text="x" * (index + 1)),
        **fields,
    )


pairs = st.lists(st.tuples(st.integers(0, 5).map(lambda n: n / 5), st.booleans()), min_size=2, max_size=30)


@given(pairs)
def test_auroc_is_the_chance_of_a_right_pair(chosen: list[tuple[float, bool]]) -> None:
    """The rank formula equals counting pairs, ties as halves."""
    positives = [score for score, needed in chosen if needed]
    negatives = [score for score, needed in chosen if not needed]
    found = auroc(np.array([s for s, _ in chosen]), np.array([n for _, n in chosen]))
    if not positives or not negatives:
        assert found is None
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found == pytest.approx(wins / (len(positives) * len(negatives)))


def test_calibration_error_is_zero_only_for_honest_scores() -> None:
    """Scores equal to the share needed have no error; certainty about a coin has .5."""
    needed = np.array([True, False] * 150)
    assert calibration_error(np.full(300, 0.5), needed) == pytest.approx(0.0)
    assert calibration_error(np.full(300, 1.0), needed) == pytest.approx(0.5)


def test_apgr_rewards_order() -> None:
    """The best order recovers more than random, the worst less, and no gap gives no figure."""
    flash, opus = np.array([1.0, 0.0] * 50), np.ones(100)
    assert apgr(1.0 - flash, flash, opus) == pytest.approx(0.75, abs=0.01)
    assert apgr(flash, flash, opus) == pytest.approx(0.25, abs=0.01)
    assert apgr(flash, opus, flash) is None


def test_confusion_counts_every_row_once() -> None:
    """At or above the threshold is sent."""
    table = confusion(np.array([0.5, 0.4, 0.9, 0.1]), np.array([True, True, False, False]), 0.5)
    assert (table.needed_and_sent, table.needed_not_sent, table.sent_needlessly, table.rightly_kept) == (
        1,
        1,
        1,
        1,
    )
    assert table.opus_share == 0.5


def test_evaluation_reports_length_and_kinds() -> None:
    """Length is the baseline beside every AUROC; kinds are broken out."""
    rows = [row(index, int(index >= 5)) for index in range(10)]
    found = evaluate(rows, [0.0] * 5 + [1.0] * 5, 0.5, seed=1, draws=50)
    assert found.auroc == found.length_auroc == 1.0
    assert found.brier == 0.0
    assert found.apgr is None
    assert [(kind.kind, kind.rows) for kind in found.kinds] == [("even", 5), ("odd", 5)]
    assert found.to_dict()["confusion"]["needed_and_sent"] == 5


def test_interval_widens_when_rows_are_paraphrases() -> None:
    """Twenty copies of four requests are four pieces of evidence."""
    generator = np.random.default_rng(3)
    scores = np.repeat(generator.random(12), 10).tolist()
    labels = np.repeat(np.array([0, 1] * 6), 10)
    alone = evaluate([row(i, int(y)) for i, y in enumerate(labels)], scores, 0.5, seed=1)
    grouped = evaluate(
        [row(i, int(y), group=f"g{i // 10}") for i, y in enumerate(labels)], scores, 0.5, seed=1
    )
    widths = [
        e.auroc_high - e.auroc_low for e in (alone, grouped) if e.auroc_high and e.auroc_low is not None
    ]
    assert widths[1] > 1.5 * widths[0]


def test_apgr_needs_both_qualities_everywhere() -> None:
    """One row without measured quality makes the figure unknown."""
    full = [row(i, i % 2, flash_quality=float(i % 2 == 0), opus_quality=1.0) for i in range(20)]
    scores = [i % 2 * 0.5 + 0.2 for i in range(20)]
    assert evaluate(full, scores, 0.5, seed=1, draws=0).apgr == pytest.approx(0.75, abs=0.05)
    assert evaluate([*full, row(20, 0)], [*scores, 0.1], 0.5, seed=1, draws=0).apgr is None


def test_one_score_per_row_is_required() -> None:
    """A shifted or empty list of scores is refused."""
    with pytest.raises(ValueError, match="one score per row"):
        evaluate([row(0, 1)], [], 0.5, seed=1)
