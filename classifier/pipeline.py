"""Features -> arrays -> a calibrated classifier: the scikit-learn side of the model.

Rule: every column has a name and a fixed place (words, then names, then structure), and everything learned is
linear in the columns but for the length of the word row, the small trees of `difficulty` and the final sigmoid;
that is what lets `model` serve it without scikit-learn. Estimators follow scikit-learn's house style: `__init__`
stores, `fit` learns attributes ending in `_`.

It does not know files, splits or reports. Import it in training only: serving must not load scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from classifier import encoder
from classifier.array_file import Array
from classifier.difficulty import LEAST_SOURCE_ROWS, Difficulty, served_trees, slice_means
from classifier.features import DETAIL_NAMES, NAME_BUCKETS, NGRAM_BUCKETS, STRUCTURE_NAMES, Features

LINEAR_NAMES: Final = tuple(name for name in STRUCTURE_NAMES if name not in DETAIL_NAMES)
"""Structure columns the logistic regression weighs; `difficulty` reads all of them."""

_LINEAR: Final = np.array([STRUCTURE_NAMES.index(name) for name in LINEAR_NAMES])

Ints = npt.NDArray[np.int64]


def column_names() -> list[str]:
    """Names of the columns `FeatureColumns` makes, in order."""
    return [
        *(f"ngram#{bucket}" for bucket in range(NGRAM_BUCKETS)),
        *(f"name#{bucket}" for bucket in range(NAME_BUCKETS)),
        *LINEAR_NAMES,
        *(f"encoder#{place}" for place in range(encoder.COLUMNS)),
    ]


class FeatureColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn features into one sparse row each.

    Words are binary, weighted by smoothed inverse document frequency and scaled to length `ngram_scale`;
    names are `name_scale` or 0; structure is centred and divided by its standard deviation, but by no less
    than `scale_floor`, so that a column that hardly varies in the labels cannot shout in traffic where it
    does. Embeddings of a text encoder have length about `encoder_scale`; they are zeros where there is none.

    Args:
        ngram_scale: Length of a row's word part, > 0.
        name_scale: Value of a name's column, > 0.
        scale_floor: Least divisor of a structure column, > 0.
        encoder_scale: Length of an embedding, > 0.

    Attributes:
        idf_: ndarray of shape (NGRAM_BUCKETS,), all >= 1.
        means_, scales_: ndarrays of shape (len(LINEAR_NAMES),).
    """

    def __init__(
        self,
        ngram_scale: float = 1.0,
        name_scale: float = 1.0,
        scale_floor: float = 0.3,
        encoder_scale: float = 1.0,
    ) -> None:
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor
        self.encoder_scale = encoder_scale

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
                sparse.csr_array(_embeddings(X) * self.encoder_scale),
            ],
            format="csr",
        )

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Column names, as scikit-learn asks for them."""
        return np.asarray(column_names(), dtype=object)


class RouteClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on `FeatureColumns`, plus `Difficulty`: does this sample need Opus?

    The regression tells kinds of requests apart, the difficulty orders the tasks of one kind. So that the first does
    not learn difficulty by the words that name a benchmark, `between_share` of a row's target is its source's mean.

    Args:
        C: Inverse strength of the L2 penalty, > 0.
        ngram_scale, name_scale, scale_floor, encoder_scale: As in `FeatureColumns`.
        max_iter: Bound on the solver's steps.
        tree_scale, layout_scale, word_scale, length_weight: As in `Difficulty`.
        between_share: Share of the source's mean in the regression's targets, in [0, 1].

    Attributes:
        classes_: ndarray [0, 1].
        columns_: The fitted `FeatureColumns`.
        coef_: ndarray of shape (n_columns,).
        intercept_: float.
        difficulty_: The fitted `Difficulty`, or None if too few rows have a source.
    """

    def __init__(
        self,
        C: float = 1.0,  # noqa: N803
        ngram_scale: float = 1.0,
        name_scale: float = 1.0,
        scale_floor: float = 0.3,
        max_iter: int = 200,
        tree_scale: float = 5.0,
        layout_scale: float = 7.0,
        word_scale: float = 5.0,
        length_weight: float = 0.2,
        between_share: float = 0.7,
        encoder_scale: float = 1.0,
    ) -> None:
        self.C = C
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor
        self.max_iter = max_iter
        self.tree_scale = tree_scale
        self.layout_scale = layout_scale
        self.word_scale = word_scale
        self.length_weight = length_weight
        self.between_share = between_share
        self.encoder_scale = encoder_scale

    def fit(
        self,
        X: Sequence[Features],  # noqa: N803
        y: Any,
        sample_weight: Any = None,
        slices: Sequence[str | None] | None = None,
    ) -> Self:
        """Fit columns, weights and difficulty.

        Args:
            X: Features of n samples.
            y: Chance per sample that Opus is needed, in [0, 1]; 0 and 1 are labels like any other.
            sample_weight: Weight per sample, or None for equal ones.
            slices: What a sample's target may be compared within (its source), or None for a row that says nothing of
                difficulty.
        """
        self.columns_ = FeatureColumns(
            ngram_scale=self.ngram_scale,
            name_scale=self.name_scale,
            scale_floor=self.scale_floor,
            encoder_scale=self.encoder_scale,
        ).fit(X)
        columns = self.columns_.transform(X)
        targets = np.array(y, dtype=np.float64)
        weights = np.ones(len(targets)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        offsets = np.zeros(len(targets))
        self.difficulty_ = None
        rows = [index for index, name in enumerate(slices or ()) if name is not None]
        if len(rows) >= LEAST_SOURCE_ROWS:
            sources = [str((slices or ())[row]) for row in rows]
            self.difficulty_ = self._difficulty().fit(
                _structure(X)[rows], self._words(columns)[rows], targets[rows], weights[rows], sources
            )
            means = slice_means(targets[rows], weights[rows], sources)
            targets[rows] += self.between_share * (means - targets[rows])
            # What the difficulty learned says of rows it was not fitted on is known before the regression is: commands
            # that look hard by their words are taken back. Within the sources it is centred, and flattered by the fit.
            # The prior stays out: that commands are short must not cost other kinds their length.
            others = np.setdiff1d(np.arange(len(targets)), rows)
            if len(others):
                offsets[others] = self.difficulty_.learned(
                    _structure(X)[others], self._words(columns)[others]
                )
        # A column that is zero in every row gets weight zero under the penalty: leaving it out of the fit
        # is the same optimum in less time.
        used = np.unique(columns.indices)
        self.coef_: Array = np.zeros(columns.shape[1])
        self.coef_[used], self.intercept_ = _logistic(
            columns[:, used], targets, weights, offsets, self.C, self.max_iter
        )
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Raw scores, ndarray of shape (n_samples,); positive speaks for Opus."""
        columns = self.columns_.transform(X)
        raw = np.asarray(columns @ self.coef_, dtype=np.float64) + self.intercept_
        if self.difficulty_ is not None:
            raw += self.difficulty_.decision_function(_structure(X), self._words(columns))
        return raw

    def _difficulty(self) -> Difficulty:
        return Difficulty(
            tree_scale=self.tree_scale,
            layout_scale=self.layout_scale,
            word_scale=self.word_scale,
            length_weight=self.length_weight,
            scale_floor=self.scale_floor,
        )

    def _words(self, columns: Any) -> Any:
        """The word columns, at length 1."""
        return columns[:, :NGRAM_BUCKETS] / self.ngram_scale

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
    count for the sigmoid, if there are `LEAST_SOURCE_ROWS` of them.

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
    counts = measured if measured.sum() >= LEAST_SOURCE_ROWS else np.ones(len(named), dtype=np.bool_)
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
    columns, difficulty = classifier.columns_, classifier.difficulty_
    bounds = np.cumsum([NGRAM_BUCKETS, NAME_BUCKETS, len(LINEAR_NAMES)])
    ngram, name, linear, embedded = np.split(classifier.coef_, bounds)
    words = ngram * columns.ngram_scale
    structure, means = np.zeros(len(STRUCTURE_NAMES)), np.zeros(len(STRUCTURE_NAMES))
    structure[_LINEAR] = linear / columns.scales_
    bias = classifier.intercept_
    if difficulty is not None:
        means[:] = difficulty.means_
    means[_LINEAR] = columns.means_
    if difficulty is not None:
        words = words + difficulty.words_
        layout = difficulty.layout_ + difficulty.prior_
        structure += layout
        # Both parts are centred, at different means: one set is served, the bias takes the rest.
        bias += difficulty.intercept_ + float(layout @ (means - difficulty.means_))
    arrays = {
        "ngram_weights": words,
        "ngram_idf": columns.idf_,
        "name_weights": name * columns.name_scale,
        "structure_weights": structure,
        "structure_means": means,
        "encoder_weights": embedded * columns.encoder_scale,
        **served_trees(None if difficulty is None else difficulty.trees_, classifier.tree_scale),
    }
    return arrays, bias, calibrated.slope, calibrated.intercept


def _logistic(
    columns: Any, targets: Array, weights: Array, offsets: Array, inverse_penalty: float, max_iter: int
) -> tuple[Array, float]:
    """Logistic regression for targets that are chances, on top of `offsets`; coefficients and free intercept.

    scikit-learn's own knows no offsets.
    """
    transposed = columns.T.tocsr()

    def loss(parameters: Array) -> tuple[float, Array]:
        raw = columns @ parameters[:-1] + parameters[-1] + offsets
        slack = weights * (expit(raw) - targets)
        value = weights @ (np.logaddexp(0.0, raw) - targets * raw)
        penalty = parameters[:-1] @ parameters[:-1] / (2.0 * inverse_penalty)
        gradient = np.append(transposed @ slack + parameters[:-1] / inverse_penalty, slack.sum())
        return float(value + penalty), gradient

    found = minimize(
        loss,
        np.zeros(columns.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iter, "ftol": 1e-9},
    )
    return found.x[:-1], float(found.x[-1])


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
    return _structure(features)[:, _LINEAR]


def _embeddings(features: Sequence[Features]) -> Array:
    """Shape (len(features), COLUMNS); zeros for rows without an embedding."""
    found = np.zeros((len(features), encoder.COLUMNS))
    for index, row in enumerate(features):
        if row.embedding:
            found[index] = encoder.numbers(row.embedding)
    return found


def _structure(features: Sequence[Features]) -> Array:
    return np.asarray([row.structure for row in features], dtype=np.float64).reshape(
        len(features), len(STRUCTURE_NAMES)
    )
