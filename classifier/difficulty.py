"""How hard a task is among its own kind: the part of the score that recorded answers teach (scikit-learn, training
only).

Rule: everything here is fitted to targets LESS THE MEAN OF THEIR SOURCE, on rows that have a source, so that which
benchmark a question comes from cannot stand in for difficulty. Four parts are added, because each carries to sources
nobody trained on where the others fail: small trees on the structure, a ridge on the structure, a ridge on the words,
and a fixed prior that longer texts are harder. The prior is not fitted: within one source the fit spends length on
whatever it goes with there, and a source left out then ranks below plain length.

It does not know what kind of request a row is: commands against analyses is the logistic regression's part
(`pipeline`). All parts but the trees are linear in columns the served model has anyway, so they cost nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from classifier.artifact import (
    ALWAYS_LEFT,
    FEW_OPTIONS,
    TREE_LEAVES,
    TREE_NODES,
    TREES,
    WORD_TABLES,
    Array,
)
from classifier.features import STRUCTURE_NAMES

Ints = npt.NDArray[np.int64]

LEAST_SOURCE_ROWS: Final = 400
"""Rows with a source below which no difficulty is fitted: it would learn the rows."""

SUBJECT_PRIOR: Final = 5.0
"""Rows of its source that a subject's mean is drawn to it by: a subject of ten rows is two thirds its own."""

LAYOUTS: Final = WORD_TABLES
OPTIONS_COLUMN: Final = STRUCTURE_NAMES.index("options")
LENGTH_COLUMN: Final = STRUCTURE_NAMES.index("text_characters_log")
FREE_LENGTH_COLUMN: Final = STRUCTURE_NAMES.index("free_length")

LEAST_LAYOUT_ROWS: Final = 1_000
"""Rows of a layout below which its words say nothing of difficulty: a few hundred are learned by heart, and rank others
of their kind at chance or below it."""

_LAYOUT_PENALTY: Final = 400.0
_WORD_PENALTY: Final = 1.0
_WORD_WEIGHT: Final = 3.0
"""Most that a row weighs in the ridge on the words."""


class Difficulty(BaseEstimator):  # type: ignore[misc]
    """Trees, two ridges and a prior on length; raw score = their weighted sum.

    Args:
        tree_scale, layout_scale, word_scale: Raw score per unit of target, for the trees, the ridge on the structure
            and the ridge on the words, >= 0.
        length_weight: Raw score per standard deviation of the logarithm of a text's length, >= 0.
        free_length_weight: What is added to it for texts without answer options, whose words say nothing, >= 0.
        scale_floor: Least divisor of a structure column, > 0.
        shared_share: Share of what words say that holds for all layouts of a task, in (0, 1].

    Attributes:
        trees_: The fitted HistGradientBoostingRegressor.
        layout_: Raw score per unit of each structure column, ndarray of shape (len(STRUCTURE_NAMES),).
        prior_: The same for the prior: zeros but for length.
        words_: Raw score per unit of each word column by layout, ndarray of shape (LAYOUTS, n_words).
        means_: Structure means of the rows fitted on.
        intercept_: float.
    """

    def __init__(
        self,
        tree_scale: float = 5.0,
        layout_scale: float = 5.0,
        word_scale: float = 15.0,
        length_weight: float = 0.3,
        free_length_weight: float = 0.3,
        scale_floor: float = 0.3,
        shared_share: float = 0.5,
    ) -> None:
        self.tree_scale = tree_scale
        self.layout_scale = layout_scale
        self.word_scale = word_scale
        self.length_weight = length_weight
        self.free_length_weight = free_length_weight
        self.scale_floor = scale_floor
        self.shared_share = shared_share

    def fit(
        self, structure: Array, words: Any, benefits: Array, weights: Array, sources: Sequence[str]
    ) -> Self:
        """Fit all parts.

        Args:
            structure: ndarray of shape (n_samples, len(STRUCTURE_NAMES)).
            words: CSR matrix of shape (n_samples, n_words), rows of length 1 or 0.
            benefits: Of Opus per row, in [-1, 1]; see `drawn`.
            sources: What a row's benefit may be compared within.
        """
        centred = benefits - slice_means(benefits, weights, sources)
        self.means_: Array = structure.mean(axis=0)
        deviations = structure.std(axis=0)
        scales = np.maximum(deviations, self.scale_floor)
        layout = Ridge(alpha=_LAYOUT_PENALTY).fit(
            (structure - self.means_) / scales, centred, sample_weight=weights
        )
        self.layout_: Array = self.layout_scale * layout.coef_ / scales
        self.prior_: Array = np.zeros(len(self.layout_))
        self.prior_[LENGTH_COLUMN] = self.length_weight / scales[LENGTH_COLUMN]
        self.prior_[FREE_LENGTH_COLUMN] = self.free_length_weight / scales[LENGTH_COLUMN]
        by_word, intercept = self._by_word(layouts(structure), words, centred, weights)
        self.words_: Array = self.word_scale * by_word
        self.intercept_ = float(self.layout_scale * layout.intercept_ + self.word_scale * intercept)
        trees = HistGradientBoostingRegressor(
            max_iter=TREES,
            max_depth=3,
            learning_rate=0.08,
            min_samples_leaf=40,
            l2_regularization=10.0,
            early_stopping=False,
            random_state=0,
        )
        # One thread: on a shared machine OpenMP threads wait for each other far longer than these trees take.
        with threadpool_limits(limits=1, user_api="openmp"):
            self.trees_ = trees.fit(structure, centred, sample_weight=weights)
        return self

    def _by_word(self, layout: Ints, words: Any, centred: Array, weights: Array) -> tuple[Array, float]:
        """Weight per layout and word, and the intercept: a ridge on the words, and on the words of each layout.

        What the layouts share is worth `shared_share` of the squared length of a row. A layout of few rows is left out,
        and its words weigh nothing.
        """
        found = np.zeros((LAYOUTS, words.shape[1]))
        counted = [each for each in range(LAYOUTS) if (layout == each).sum() >= LEAST_LAYOUT_ROWS]
        rows = np.isin(layout, counted)
        if not counted:
            return found, 0.0
        shared, own = np.sqrt(self.shared_share), np.sqrt(1.0 - self.shared_share)
        blocks = [shared * words[rows]]
        blocks += [sparse.diags_array(own * (layout[rows] == each)) @ words[rows] for each in counted]
        used = [np.unique(block.nonzero()[1]) for block in blocks]  # a column of zeros gets weight zero
        columns = sparse.hstack(
            [block.tocsc()[:, kept] for block, kept in zip(blocks, used, strict=True)], format="csr"
        )
        # Few rows of a source must be heard among the columns of the structure; among words they are learned by heart.
        ridge = Ridge(alpha=_WORD_PENALTY).fit(
            columns, centred[rows], sample_weight=np.minimum(weights[rows], _WORD_WEIGHT)
        )
        parts = np.split(ridge.coef_, np.cumsum([len(kept) for kept in used])[:-1])
        for each, kept, part in zip(counted, used[1:], parts[1:], strict=True):
            found[each, used[0]] += shared * parts[0]
            found[each, kept] += own * part
        return found, float(ridge.intercept_)

    def decision_function(self, structure: Array, words: Any) -> Array:
        """Raw scores, ndarray of shape (n_samples,); positive for what is harder than its like."""
        prior: Array = (structure - self.means_) @ self.prior_
        return self.learned(structure, words) + prior

    def learned(self, structure: Array, words: Any) -> Array:
        """Raw scores without the prior."""
        said = np.take_along_axis(words @ self.words_.T, layouts(structure)[:, None], axis=1)[:, 0]
        linear = (structure - self.means_) @ self.layout_ + said + self.intercept_
        return np.asarray(linear + self.tree_scale * self.trees_.predict(structure), dtype=np.float64)


def layouts(structure: Array) -> Ints:
    """Per row the table of words that is read: of tasks answered freely, by one of few options, by one of many."""
    options = structure[:, OPTIONS_COLUMN]
    return (options > 0.0).astype(np.int64) + (options > FEW_OPTIONS)


def drawn(values: Array, own_shares: Array, subjects: Sequence[str | None], sources: Sequence[str]) -> Array:
    """Values drawn to the mean of their subject, itself drawn to its source's by `SUBJECT_PRIOR` rows.

    Args:
        own_shares: Share of a row's own value that stays.
        subjects: Within a source; None for a row without, which keeps its own.
    """
    found = values.copy()
    members: dict[tuple[str, str], list[int]] = {}
    by_source: dict[str, list[int]] = {}
    for index, (subject, source) in enumerate(zip(subjects, sources, strict=True)):
        by_source.setdefault(source, []).append(index)
        if subject is not None:
            members.setdefault((source, subject), []).append(index)
    middle = {source: float(values[rows].mean()) for source, rows in by_source.items()}
    for (source, _), rows in members.items():
        mean = (values[rows].sum() + SUBJECT_PRIOR * middle[source]) / (len(rows) + SUBJECT_PRIOR)
        found[rows] = own_shares[rows] * values[rows] + (1.0 - own_shares[rows]) * mean
    return found


def slice_means(values: Array, weights: Array, slices: Sequence[str]) -> Array:
    """Weighted mean of a row's slice, per row."""
    names = np.asarray(slices, dtype=object)
    means = np.empty(len(values))
    for name in sorted(set(names.tolist())):
        mine = names == name
        means[mine] = np.average(values[mine], weights=weights[mine])
    return means


def served_trees(trees: HistGradientBoostingRegressor | None, scale: float) -> dict[str, Array]:
    """The trees as complete trees of depth 3, times `scale`; the baseline is spread over their leaves."""
    columns = np.zeros((TREES, TREE_NODES))
    thresholds = np.full((TREES, TREE_NODES), ALWAYS_LEFT)
    leaves = np.zeros((TREES, TREE_LEAVES))
    if trees is not None:
        base = float(np.ravel(trees._baseline_prediction)[0]) / TREES
        for index, (predictor,) in enumerate(trees._predictors):
            _fill(predictor.nodes, 0, 0, columns[index], thresholds[index], leaves[index])
            leaves[index] += base
    return {
        "tree_columns": columns.ravel(),
        "tree_thresholds": thresholds.ravel(),
        "tree_leaves": leaves.ravel() * scale,
    }


def _fill(
    nodes: Any, node: int, place: int, columns: Array, thresholds: Array, leaves: npt.NDArray[np.float64]
) -> None:
    """Copy one of scikit-learn's nodes to `place` of a complete tree; a shallow leaf fills all places under it."""
    if place >= TREE_NODES:
        leaves[place - TREE_NODES] = nodes[node]["value"]
        return
    if nodes[node]["is_leaf"]:
        left = right = node
    else:
        columns[place], thresholds[place] = nodes[node]["feature_idx"], nodes[node]["num_threshold"]
        left, right = int(nodes[node]["left"]), int(nodes[node]["right"])
    _fill(nodes, left, 2 * place + 1, columns, thresholds, leaves)
    _fill(nodes, right, 2 * place + 2, columns, thresholds, leaves)
