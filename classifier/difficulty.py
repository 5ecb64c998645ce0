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
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from classifier.array_file import Array
from classifier.artifact import ALWAYS_LEFT, TREE_LEAVES, TREE_NODES, TREES
from classifier.features import STRUCTURE_NAMES

LEAST_SOURCE_ROWS: Final = 400
"""Rows with a source below which no difficulty is fitted: it would learn the rows."""

LENGTH_COLUMN: Final = STRUCTURE_NAMES.index("text_characters_log")

_LAYOUT_PENALTY: Final = 400.0
_WORD_PENALTY: Final = 3.0


class Difficulty(BaseEstimator):  # type: ignore[misc]
    """Trees, two ridges and a prior on length; raw score = their weighted sum.

    Args:
        tree_scale, layout_scale, word_scale: Raw score per unit of target, for the trees, the ridge on the structure
            and the ridge on the words, >= 0.
        length_weight: Raw score per standard deviation of the logarithm of a text's length, >= 0.
        scale_floor: Least divisor of a structure column, > 0.

    Attributes:
        trees_: The fitted HistGradientBoostingRegressor.
        layout_: Raw score per unit of each structure column, ndarray of shape (len(STRUCTURE_NAMES),).
        prior_: The same for the prior: zeros but for length.
        words_: Raw score per unit of each word column, ndarray of shape (n_words,).
        means_: Structure means of the rows fitted on.
        intercept_: float.
    """

    def __init__(
        self,
        tree_scale: float = 5.0,
        layout_scale: float = 7.0,
        word_scale: float = 5.0,
        length_weight: float = 0.2,
        scale_floor: float = 0.3,
    ) -> None:
        self.tree_scale = tree_scale
        self.layout_scale = layout_scale
        self.word_scale = word_scale
        self.length_weight = length_weight
        self.scale_floor = scale_floor

    def fit(
        self, structure: Array, words: Any, targets: Array, weights: Array, sources: Sequence[str]
    ) -> Self:
        """Fit all parts.

        Args:
            structure: ndarray of shape (n_samples, len(STRUCTURE_NAMES)).
            words: CSR matrix of shape (n_samples, n_words), rows of length 1 or 0.
            targets: Chance per row that Opus is needed.
            sources: What a row's target may be compared within.
        """
        centred = targets - slice_means(targets, weights, sources)
        self.means_: Array = structure.mean(axis=0)
        deviations = structure.std(axis=0)
        scales = np.maximum(deviations, self.scale_floor)
        layout = Ridge(alpha=_LAYOUT_PENALTY).fit(
            (structure - self.means_) / scales, centred, sample_weight=weights
        )
        self.layout_: Array = self.layout_scale * layout.coef_ / scales
        self.prior_: Array = np.zeros(len(self.layout_))
        self.prior_[LENGTH_COLUMN] = self.length_weight / scales[LENGTH_COLUMN]
        used = np.unique(words.indices)  # a column of zeros gets weight zero: leave it out
        by_word = Ridge(alpha=_WORD_PENALTY).fit(words[:, used], centred, sample_weight=weights)
        self.words_: Array = np.zeros(words.shape[1])
        self.words_[used] = self.word_scale * by_word.coef_
        self.intercept_ = float(self.layout_scale * layout.intercept_ + self.word_scale * by_word.intercept_)
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

    def decision_function(self, structure: Array, words: Any) -> Array:
        """Raw scores, ndarray of shape (n_samples,); positive for what is harder than its like."""
        prior: Array = (structure - self.means_) @ self.prior_
        return self.learned(structure, words) + prior

    def learned(self, structure: Array, words: Any) -> Array:
        """Raw scores without the prior."""
        linear = (structure - self.means_) @ self.layout_ + words @ self.words_ + self.intercept_
        return np.asarray(linear + self.tree_scale * self.trees_.predict(structure), dtype=np.float64)


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
