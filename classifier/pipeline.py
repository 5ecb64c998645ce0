"""Features -> arrays -> a calibrated classifier: the scikit-learn side of the model.

Rule: every column has a name and a fixed place (words, then names, then structure), and everything learned is
linear in the columns but for the length of the word row and the final sigmoid; that is what lets `model`
serve it without scikit-learn. Estimators follow scikit-learn's house style: `__init__` stores, `fit` learns
attributes ending in `_`.

It does not know files, splits or reports. Import it in training only: serving must not load scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from classifier.artifact import Array
from classifier.features import NAME_BUCKETS, NGRAM_BUCKETS, STRUCTURE_NAMES, Features

Ints = npt.NDArray[np.int64]


def column_names() -> list[str]:
    """Names of the columns `FeatureColumns` makes, in order."""
    return [
        *(f"ngram#{bucket}" for bucket in range(NGRAM_BUCKETS)),
        *(f"name#{bucket}" for bucket in range(NAME_BUCKETS)),
        *STRUCTURE_NAMES,
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
        means_, scales_: ndarrays of shape (len(STRUCTURE_NAMES),).
    """

    def __init__(self, ngram_scale: float = 1.0, name_scale: float = 1.0, scale_floor: float = 0.3) -> None:
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor

    def fit(self, X: Sequence[Features], y: Any = None) -> Self:  # noqa: N803
        """Learn document frequencies, means and scales."""
        self._tfidf = TfidfTransformer(norm="l2", use_idf=True, smooth_idf=True).fit(_ngrams(X))
        self.idf_: Array = np.asarray(self._tfidf.idf_, dtype=np.float64)
        structure = _structure(X)
        self.means_: Array = structure.mean(axis=0)
        self.scales_: Array = np.maximum(structure.std(axis=0), self.scale_floor)
        return self

    def transform(self, X: Sequence[Features]) -> Any:  # noqa: N803
        """Sparse matrix of shape (n_samples, n_columns), CSR, float64."""
        return sparse.hstack(
            [
                self._tfidf.transform(_ngrams(X)) * self.ngram_scale,
                _names(X) * self.name_scale,
                sparse.csr_array((_structure(X) - self.means_) / self.scales_),
            ],
            format="csr",
        )

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Column names, as scikit-learn asks for them."""
        return np.asarray(column_names(), dtype=object)


class RouteClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on `FeatureColumns`: does this sample need Opus?

    Args:
        C: Inverse strength of the L2 penalty, > 0.
        ngram_scale, name_scale, scale_floor: As in `FeatureColumns`.
        max_iter: Bound on the solver's steps.

    Attributes:
        classes_: ndarray [0, 1].
        columns_: The fitted `FeatureColumns`.
        coef_: ndarray of shape (n_columns,).
        intercept_: float.
    """

    def __init__(
        self,
        C: float = 1.0,  # noqa: N803
        ngram_scale: float = 1.0,
        name_scale: float = 1.0,
        scale_floor: float = 0.3,
        max_iter: int = 2_000,
    ) -> None:
        self.C = C
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor
        self.max_iter = max_iter

    def fit(self, X: Sequence[Features], y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit columns and weights.

        Args:
            X: Features of n samples.
            y: 0 or 1 per sample; both must occur.
            sample_weight: Weight per sample, or None for equal ones.
        """
        self.columns_ = FeatureColumns(
            ngram_scale=self.ngram_scale, name_scale=self.name_scale, scale_floor=self.scale_floor
        ).fit(X)
        columns = self.columns_.transform(X)
        # A column that is zero in every row gets weight zero under the penalty: leaving it out of the fit
        # is the same optimum in half the time.
        used = np.unique(columns.indices)
        linear = LogisticRegression(C=self.C, max_iter=self.max_iter, tol=1e-6)
        linear.fit(columns[:, used], np.asarray(y), sample_weight=sample_weight)
        self.coef_: Array = np.zeros(columns.shape[1])
        self.coef_[used] = linear.coef_[0]
        self.intercept_ = float(linear.intercept_[0])
        self.classes_ = linear.classes_
        return self

    def decision_function(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Raw scores, ndarray of shape (n_samples,); positive speaks for Opus."""
        return np.asarray(self.columns_.transform(X) @ self.coef_, dtype=np.float64) + self.intercept_

    def predict_proba(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Uncalibrated probabilities of Flash and Opus, ndarray of shape (n_samples, 2)."""
        probabilities = expit(self.decision_function(X))
        return np.column_stack([1.0 - probabilities, probabilities])

    def predict(self, X: Sequence[Features]) -> Ints:  # noqa: N803
        """0 or 1 per sample by the sign of the raw score."""
        return np.asarray(self.decision_function(X) > 0.0, dtype=np.int64)


def fit_calibrated(
    classifier: RouteClassifier,
    features: Sequence[Features],
    labels: Sequence[int],
    weights: Sequence[float],
    folds: Sequence[tuple[Ints, Ints]],
) -> CalibratedClassifierCV:
    """Fit `classifier` on everything and its sigmoid on scores of held-out folds.

    Each row is scored by a classifier that saw none of its group; the sigmoid is fitted on these scores, and
    the classifier is then fitted on all rows (`ensemble=False`). With few labels this wastes none on
    calibration.

    Args:
        folds: (train, held-out) row indices; the held-out parts partition the rows, groups never span both.
    """
    calibrated = CalibratedClassifierCV(classifier, method="sigmoid", cv=list(folds), ensemble=False)
    return calibrated.fit(list(features), np.asarray(labels), sample_weight=np.asarray(weights))


def served_arrays(calibrated: CalibratedClassifierCV) -> tuple[dict[str, Array], float, float, float]:
    """What serving needs of a fitted classifier.

    Returns:
        The arrays of `artifact.ARRAYS`, the bias, and the sigmoid's slope and intercept.
    """
    (fitted,) = calibrated.calibrated_classifiers_
    classifier, (calibrator,) = fitted.estimator, fitted.calibrators
    columns = classifier.columns_
    weights = classifier.coef_
    ngram, name, structure = np.split(weights, [NGRAM_BUCKETS, NGRAM_BUCKETS + NAME_BUCKETS])
    arrays = {
        "ngram_weights": ngram * columns.ngram_scale,
        "ngram_idf": columns.idf_,
        "name_weights": name * columns.name_scale,
        "structure_weights": structure / columns.scales_,
        "structure_means": columns.means_,
    }
    # scikit-learn's sigmoid is 1 / (1 + exp(a * raw + b)).
    return arrays, classifier.intercept_, -float(calibrator.a_), -float(calibrator.b_)


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


def _structure(features: Sequence[Features]) -> Array:
    return np.asarray([row.structure for row in features], dtype=np.float64).reshape(
        len(features), len(STRUCTURE_NAMES)
    )
