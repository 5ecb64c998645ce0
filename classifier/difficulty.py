"""How hard a task is among its own kind: the part of the score that recorded answers teach (scikit-learn, training
only).

Rule: everything here is fitted to benefits LESS THE MEAN OF THEIR SOURCE, on rows that have a source, so that which
benchmark a question comes from cannot stand in for difficulty. A ridge weighs the structure; for tasks answered by one
of several options another weighs words, too: a table for each layout, drawn to what the layouts share. Optional small
trees on the structure are added, and a fixed prior that longer texts are harder where no answers say otherwise: for
tasks answered freely, and for a layout that few answers are known of. The prior is not fitted: within one source the
fit spends length on whatever it goes with there, and a source left out then ranks below plain length.

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

from classifier.array_file import Array
from classifier.artifact import ALWAYS_LEFT, FEW_OPTIONS, LAYOUTS, TREE_LEAVES, TREE_NODES, TREES
from classifier.features import STRUCTURE_NAMES

Ints = npt.NDArray[np.int64]

LEAST_SOURCE_ROWS: Final = 400
"""Rows with a source below which no difficulty is fitted: it would learn the rows."""

LEAST_LAYOUT_ROWS: Final = 1_000
"""Rows of a layout below which it has no words of its own: a few hundred are learned by heart, and rank others of their
kind at chance or below it."""

SUBJECT_PRIOR: Final = 5.0
"""Rows of its source that a subject's mean is drawn to it by: a subject of ten rows is two thirds its own."""

LENGTH_COLUMN: Final = STRUCTURE_NAMES.index("text_characters_log")
OPTIONS_COLUMN: Final = STRUCTURE_NAMES.index("options")

FREE: Final = 0
"""The layout of a task without answer options."""

_OPTIONS_LENGTH: Final = 1.0 / 3.0
"""Of the prior on length, what holds for a layout with options that few answers are known of."""

_PENALTY: Final = 2.0
_STRUCTURE_SHARE: Final = 0.3
"""Squared length of an average row's structure in the ridge, against 1 of its words."""

_MOST_WEIGHT: Final = 3.0
"""Most that a row weighs: the few rows of a source must be heard, not learned by heart."""


class Difficulty(BaseEstimator):  # type: ignore[misc]
    """Ridges on structure and words, optional trees and a prior on length; raw score = their sum.

    Args:
        scale: Raw score per unit of benefit the ridges foresee, > 0.
        tree_scale: The same for the trees; 0 for none.
        length_weight: Raw score per unit of the natural logarithm of a free text's length, >= 0.
        shared_share: Share of what words say that holds for all layouts with options, in (0, 1].
        scale_floor: Least divisor of a structure column, > 0.

    Attributes:
        words_: Raw score per unit of each word column by layout, ndarray of shape (LAYOUTS, n_words); zeros where FREE.
        structure_: Raw score per unit of each structure column by layout, the prior included, ndarray of shape
            (LAYOUTS, len(STRUCTURE_NAMES)).
        means_: Structure means of the rows fitted on.
        intercepts_: By layout, ndarray of shape (LAYOUTS,).
        trees_: The fitted HistGradientBoostingRegressor, or None.
    """

    def __init__(
        self,
        scale: float = 8.0,
        tree_scale: float = 0.0,
        length_weight: float = 2.0,
        shared_share: float = 0.4,
        scale_floor: float = 0.3,
    ) -> None:
        self.scale = scale
        self.tree_scale = tree_scale
        self.length_weight = length_weight
        self.shared_share = shared_share
        self.scale_floor = scale_floor

    def fit(
        self, structure: Array, words: Any, benefits: Array, weights: Array, sources: Sequence[str]
    ) -> Self:
        """Fit all parts.

        Args:
            structure: ndarray of shape (n_samples, len(STRUCTURE_NAMES)).
            words: CSR matrix of shape (n_samples, n_words), rows of length 1 or 0.
            benefits: Of Opus per row, in [-1, 1]; see `drawn`.
            weights: > 0; above a bound they count no more.
            sources: What a row's benefit may be compared within.
        """
        counted = np.minimum(weights, _MOST_WEIGHT)
        centred = benefits - slice_means(benefits, counted, sources)
        layout = layouts(structure)
        self.means_: Array = structure.mean(axis=0)
        scales = np.maximum(structure.std(axis=0), self.scale_floor)
        told = np.sqrt(_STRUCTURE_SHARE / structure.shape[1]) / scales
        columns = sparse.csr_array((structure - self.means_) * told)
        weighed, intercept = self._ridge(columns, centred, counted)
        self.structure_: Array = np.tile(weighed * told, (LAYOUTS, 1))
        self.intercepts_: Array = np.full(LAYOUTS, intercept)
        self.words_: Array = np.zeros((LAYOUTS, words.shape[1]))
        known = [each for each in range(FREE + 1, LAYOUTS) if (layout == each).sum() >= LEAST_LAYOUT_ROWS]
        offered = layout != FREE
        if offered.sum() >= LEAST_SOURCE_ROWS:
            weighed = self._by_layout(
                columns[offered], words[offered], layout[offered], centred[offered], counted[offered], known
            )
            self.structure_[FREE + 1 :] = weighed * told
        for each in set(range(LAYOUTS)) - set(known):
            share = 1.0 if each == FREE else _OPTIONS_LENGTH
            self.structure_[each, LENGTH_COLUMN] += share * self.length_weight
        self.trees_ = self._trees(structure, centred, counted) if self.tree_scale > 0.0 else None
        return self

    def _ridge(self, columns: Any, centred: Array, weights: Array) -> tuple[Array, float]:
        """Raw score per unit of each column, and the intercept."""
        ridge = Ridge(alpha=_PENALTY, solver="lsqr", tol=1e-7).fit(columns, centred, sample_weight=weights)
        return self.scale * ridge.coef_, float(self.scale * ridge.intercept_)

    def _by_layout(
        self, laid: Any, words: Any, layout: Ints, centred: Array, weights: Array, known: Sequence[int]
    ) -> Array:
        """A ridge on the structure, on the words of all rows with options, and on the words of each known layout: sets
        words and intercepts, returns the weights of the structure.
        """
        shared, own = np.sqrt(self.shared_share), np.sqrt(1.0 - self.shared_share)
        blocks = [shared * words, *(sparse.diags_array(own * (layout == each)) @ words for each in known)]
        used = [np.unique(block.nonzero()[1]) for block in blocks]  # a column of zeros gets weight zero
        kept = [block.tocsc()[:, columns] for block, columns in zip(blocks, used, strict=True)]
        weighed, intercept = self._ridge(sparse.hstack([laid, *kept], format="csr"), centred, weights)
        structure, *said = np.split(
            weighed, np.cumsum([laid.shape[1], *(len(columns) for columns in used[:-1])])
        )
        self.intercepts_[FREE + 1 :] = intercept
        self.words_[FREE + 1 :, used[0]] = shared * said[0]
        for each, columns, part in zip(known, used[1:], said[1:], strict=True):
            self.words_[each, columns] += own * part
        return structure

    def _trees(self, structure: Array, centred: Array, weights: Array) -> HistGradientBoostingRegressor:
        trees = HistGradientBoostingRegressor(
            max_iter=TREES,
            max_depth=3,
            learning_rate=0.08,
            min_samples_leaf=40,
            l2_regularization=10.0,
            early_stopping=False,
            random_state=0,
        )
        with _one_thread():
            return trees.fit(structure, centred, sample_weight=weights)

    def decision_function(self, structure: Array, words: Any) -> Array:
        """Raw scores, ndarray of shape (n_samples,); positive for what is harder than its like."""
        layout = layouts(structure)
        said = np.take_along_axis(words @ self.words_.T, layout[:, None], axis=1)[:, 0]
        raw = (
            ((structure - self.means_) * self.structure_[layout]).sum(axis=1)
            + said
            + self.intercepts_[layout]
        )
        if self.trees_ is not None:
            with _one_thread():
                raw = raw + self.tree_scale * self.trees_.predict(structure)
        return np.asarray(raw, dtype=np.float64)


def _one_thread() -> threadpool_limits:
    """On a shared machine OpenMP threads wait for each other far longer than these trees take."""
    return threadpool_limits(limits=1, user_api="openmp")


def layouts(structure: Array) -> Ints:
    """Per row how its task is answered: freely, by one of few options, or by one of many."""
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
