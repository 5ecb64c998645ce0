"""Features -> arrays -> a calibrated classifier: the scikit-learn side of the model.

Rule: every column has a name and a fixed place (words, then names, then structure), and everything learned is
linear in the columns but for the length of the word row, small trees of fixed depth on the structure and the
final sigmoid; that is what lets `model` serve it without scikit-learn. Estimators follow scikit-learn's house
style: `__init__` stores, `fit` learns attributes ending in `_`.

It does not know files, splits or reports. Import it in training only: serving must not load scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from classifier.artifact import ALWAYS_LEFT, TREE_LEAVES, TREE_NODES, TREES, Array
from classifier.features import DETAIL_COLUMNS, NAME_BUCKETS, NGRAM_BUCKETS, STRUCTURE_NAMES, Features

LINEAR_NAMES: Final = STRUCTURE_NAMES[:-DETAIL_COLUMNS]
"""Structure columns the logistic regression weighs; the trees read all of them."""

LEAST_TREE_ROWS: Final = 400
"""Rows with a slice below which no trees are fitted: they would learn the rows."""

Ints = npt.NDArray[np.int64]


def column_names() -> list[str]:
    """Names of the columns `FeatureColumns` makes, in order."""
    return [
        *(f"ngram#{bucket}" for bucket in range(NGRAM_BUCKETS)),
        *(f"name#{bucket}" for bucket in range(NAME_BUCKETS)),
        *LINEAR_NAMES,
    ]


class FeatureColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn features into one sparse row each.

    Words are binary, weighted by smoothed inverse document frequency and scaled to length `ngram_scale`;
    names are `name_scale` or 0; structure is centred and divided by its standard deviation, but by no less
    than `scale_floor`, so that a column that hardly varies in the labels cannot shout in traffic where it
    does.

    Args:
        ngram_scale: Length of a row's word part, > 0.
        name_scale: Value of a name's column, > 0.
        scale_floor: Least divisor of a structure column, > 0.

    Attributes:
        idf_: ndarray of shape (NGRAM_BUCKETS,), all >= 1.
        means_, scales_: ndarrays of shape (len(LINEAR_NAMES),).
    """

    def __init__(self, ngram_scale: float = 1.0, name_scale: float = 1.0, scale_floor: float = 0.3) -> None:
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor

    def fit(self, X: Sequence[Features], y: Any = None) -> Self:  # noqa: N803
        """Learn document frequencies, means and scales."""
        self._tfidf = TfidfTransformer(norm="l2", use_idf=True, smooth_idf=True).fit(_ngrams(X))
        self.idf_: Array = np.asarray(self._tfidf.idf_, dtype=np.float64)
        structure = _linear(X)
        self.means_: Array = structure.mean(axis=0)
        self.scales_: Array = np.maximum(structure.std(axis=0), self.scale_floor)
        return self

    def transform(self, X: Sequence[Features]) -> Any:  # noqa: N803
        """Sparse matrix of shape (n_samples, n_columns), CSR, float64."""
        return sparse.hstack(
            [
                self._tfidf.transform(_ngrams(X)) * self.ngram_scale,
                _names(X) * self.name_scale,
                sparse.csr_array((_linear(X) - self.means_) / self.scales_),
            ],
            format="csr",
        )

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Column names, as scikit-learn asks for them."""
        return np.asarray(column_names(), dtype=object)


class RouteClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on `FeatureColumns`, and small trees on the structure: does this sample need Opus?

    The trees learn what makes one task harder than another OF ITS KIND: they are fitted to targets less the mean of
    the slice, and only on rows that have one, so that which benchmark a question comes from cannot stand in for
    difficulty. The logistic regression tells kinds apart and weighs words.

    Args:
        C: Inverse strength of the L2 penalty, > 0.
        ngram_scale, name_scale, scale_floor: As in `FeatureColumns`.
        max_iter: Bound on the solver's steps.
        tree_scale: Raw score per unit of the trees' target, >= 0; 0 for none.

    Attributes:
        classes_: ndarray [0, 1].
        columns_: The fitted `FeatureColumns`.
        coef_: ndarray of shape (n_columns,).
        intercept_: float.
        trees_: The fitted HistGradientBoostingRegressor, or None.
    """

    def __init__(
        self,
        C: float = 1.0,  # noqa: N803
        ngram_scale: float = 1.0,
        name_scale: float = 1.0,
        scale_floor: float = 0.3,
        max_iter: int = 200,
        tree_scale: float = 6.0,
    ) -> None:
        self.C = C
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor
        self.max_iter = max_iter
        self.tree_scale = tree_scale

    def fit(
        self,
        X: Sequence[Features],  # noqa: N803
        y: Any,
        sample_weight: Any = None,
        slices: Sequence[str | None] | None = None,
    ) -> Self:
        """Fit columns, weights and trees.

        Args:
            X: Features of n samples.
            y: Chance per sample that Opus is needed, in [0, 1]; 0 and 1 are labels like any other.
            sample_weight: Weight per sample, or None for equal ones.
            slices: What a sample's target may be compared within (its source), or None for a row the trees leave out.
        """
        self.columns_ = FeatureColumns(
            ngram_scale=self.ngram_scale, name_scale=self.name_scale, scale_floor=self.scale_floor
        ).fit(X)
        columns = self.columns_.transform(X)
        targets = np.asarray(y, dtype=np.float64)
        weights = np.ones(len(targets)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        # A column that is zero in every row gets weight zero under the penalty: leaving it out of the fit
        # is the same optimum in half the time.
        used = np.unique(columns.indices)
        # A chance is a yes and a no, weighted.
        yes, no = np.nonzero(targets > 0.0)[0], np.nonzero(targets < 1.0)[0]
        linear = LogisticRegression(
            C=self.C, max_iter=self.max_iter, tol=1e-3, solver="liblinear", intercept_scaling=10.0
        )
        linear.fit(
            columns[np.concatenate([yes, no])][:, used],
            np.concatenate([np.ones(len(yes), np.int64), np.zeros(len(no), np.int64)]),
            sample_weight=np.concatenate([weights[yes] * targets[yes], weights[no] * (1.0 - targets[no])]),
        )
        self.coef_: Array = np.zeros(columns.shape[1])
        self.coef_[used] = linear.coef_[0]
        self.intercept_ = float(linear.intercept_[0])
        self.classes_ = linear.classes_
        self.trees_ = _fit_trees(X, targets, weights, slices) if self.tree_scale > 0.0 else None
        return self

    def decision_function(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Raw scores, ndarray of shape (n_samples,); positive speaks for Opus."""
        raw = np.asarray(self.columns_.transform(X) @ self.coef_, dtype=np.float64) + self.intercept_
        if self.trees_ is not None:
            raw += self.tree_scale * self.trees_.predict(_structure(X))
        return raw

    def predict_proba(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Uncalibrated probabilities of Flash and Opus, ndarray of shape (n_samples, 2)."""
        probabilities = expit(self.decision_function(X))
        return np.column_stack([1.0 - probabilities, probabilities])

    def predict(self, X: Sequence[Features]) -> Ints:  # noqa: N803
        """0 or 1 per sample by the sign of the raw score."""
        return np.asarray(self.decision_function(X) > 0.0, dtype=np.int64)


class CalibratedRouteClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted `RouteClassifier` under a sigmoid: what `CalibratedClassifierCV(ensemble=False)` gives, for targets that
    are chances.

    Attributes:
        estimator_: The classifier.
        slope_, intercept_: value = sigmoid(slope * raw + intercept).
        classes_: ndarray [0, 1].
    """

    def __init__(self, estimator: RouteClassifier, slope: float, intercept: float) -> None:
        self.estimator = estimator
        self.slope = slope
        self.intercept = intercept
        self.classes_ = np.array([0, 1])

    def predict_proba(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Calibrated probabilities of Flash and Opus, ndarray of shape (n_samples, 2)."""
        probabilities = expit(self.slope * self.estimator.decision_function(X) + self.intercept)
        return np.column_stack([1.0 - probabilities, probabilities])


def fit_calibrated(
    classifier: RouteClassifier,
    features: Sequence[Features],
    targets: Sequence[float],
    weights: Sequence[float],
    folds: Sequence[tuple[Ints, Ints]],
    slices: Sequence[str | None] | None = None,
) -> CalibratedRouteClassifier:
    """Fit `classifier` on everything and its sigmoid on scores of held-out folds.

    Each row is scored by a classifier that saw none of its group; the sigmoid is fitted on these scores, and
    the classifier is then fitted on all rows. With few labels this wastes none on calibration. Only rows with a slice
    count for the sigmoid, if there are `LEAST_TREE_ROWS` of them.

    Args:
        targets: Chance per row that Opus is needed, in [0, 1].
        folds: (train, held-out) row indices; the held-out parts partition the rows, groups never span both.
        slices: As `RouteClassifier.fit`.
    """
    wanted, counted = np.asarray(targets, np.float64), np.asarray(weights, np.float64)
    named: Sequence[str | None] = [None] * len(features) if slices is None else slices
    held = np.empty(len(features))

    def fitted(rows: Ints) -> RouteClassifier:
        fresh: RouteClassifier = clone(classifier)
        return fresh.fit(
            [features[row] for row in rows], wanted[rows], counted[rows], [named[row] for row in rows]
        )

    for kept, left_out in folds:
        held[left_out] = fitted(kept).decision_function([features[row] for row in left_out])
    measured = np.array([name is not None for name in named])
    # Where outcomes were measured, a chance can be checked; assumed labels of other rows must not bend it.
    counts = measured if measured.sum() >= LEAST_TREE_ROWS else np.ones(len(named), dtype=np.bool_)
    yes, no = np.nonzero(counts & (wanted > 0.0))[0], np.nonzero(counts & (wanted < 1.0))[0]
    sigmoid = LogisticRegression(C=np.inf, tol=1e-8, max_iter=500).fit(
        np.concatenate([held[yes], held[no]])[:, None],
        np.concatenate([np.ones(len(yes), np.int64), np.zeros(len(no), np.int64)]),
        sample_weight=np.concatenate([counted[yes] * wanted[yes], counted[no] * (1.0 - wanted[no])]),
    )
    return CalibratedRouteClassifier(
        fitted(np.arange(len(features))), float(sigmoid.coef_[0, 0]), float(sigmoid.intercept_[0])
    )


def served_arrays(calibrated: CalibratedRouteClassifier) -> tuple[dict[str, Array], float, float, float]:
    """What serving needs of a fitted classifier.

    Returns:
        The arrays of `artifact.ARRAYS`, the bias, and the sigmoid's slope and intercept.
    """
    classifier = calibrated.estimator
    columns = classifier.columns_
    weights = classifier.coef_
    ngram, name, structure = np.split(weights, [NGRAM_BUCKETS, NGRAM_BUCKETS + NAME_BUCKETS])
    padded = np.zeros(len(STRUCTURE_NAMES))
    padded[: len(structure)] = structure / columns.scales_
    means = np.zeros(len(STRUCTURE_NAMES))
    means[: len(structure)] = columns.means_
    arrays = {
        "ngram_weights": ngram * columns.ngram_scale,
        "ngram_idf": columns.idf_,
        "name_weights": name * columns.name_scale,
        "structure_weights": padded,
        "structure_means": means,
        **_served_trees(classifier.trees_, classifier.tree_scale),
    }
    return arrays, classifier.intercept_, calibrated.slope, calibrated.intercept


def _fit_trees(
    features: Sequence[Features], targets: Array, weights: Array, slices: Sequence[str | None] | None
) -> HistGradientBoostingRegressor | None:
    """Trees for the targets less their slice's mean; None if fewer than `LEAST_TREE_ROWS` rows have a slice."""
    named = np.asarray(["" if name is None else name for name in slices or ()], dtype=object)
    rows: list[int] = np.nonzero(named != "")[0].tolist()
    if len(rows) < LEAST_TREE_ROWS:
        return None
    centred = targets.copy()
    for name in sorted(set(named[rows].tolist())):
        mine = named == name
        centred[mine] -= np.average(targets[mine], weights=weights[mine])
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
        return trees.fit(
            _structure([features[row] for row in rows]), centred[rows], sample_weight=weights[rows]
        )


def _served_trees(trees: HistGradientBoostingRegressor | None, scale: float) -> dict[str, Array]:
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


def _fill(nodes: Any, node: int, place: int, columns: Array, thresholds: Array, leaves: Array) -> None:
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


def _ngrams(features: Sequence[Features]) -> Any:
    return _binary([sorted(row.ngrams) for row in features], NGRAM_BUCKETS)


def _names(features: Sequence[Features]) -> Any:
    return _binary([sorted(set(row.names)) for row in features], NAME_BUCKETS)


def _binary(rows: Sequence[Sequence[int]], width: int) -> Any:
    """CSR matrix of shape (len(rows), width) with ones at the given columns."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    columns = np.fromiter(
        (column for row in rows for column in row), dtype=np.int64, count=int(lengths.sum())
    )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((np.ones(len(columns)), columns, starts), shape=(len(rows), width))


def _linear(features: Sequence[Features]) -> Array:
    return _structure(features)[:, : len(LINEAR_NAMES)]


def _structure(features: Sequence[Features]) -> Array:
    return np.asarray([row.structure for row in features], dtype=np.float64).reshape(
        len(features), len(STRUCTURE_NAMES)
    )
