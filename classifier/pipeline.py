"""Features -> arrays -> a calibrated classifier: the scikit-learn side of the model.

Rule: every column has a name and a fixed place (words, then names, then structure), and everything learned is
linear in the columns, by one table for each layout of a task, but for the length of the word row, the small trees of
`difficulty` and the final sigmoid; that is what lets `model` serve it without scikit-learn. Estimators follow
scikit-learn's house style: `__init__` stores, `fit` learns attributes ending in `_`.

It does not know files, splits or reports. Import it in training only: serving must not load scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from classifier import encoder
from classifier.array_file import Array
from classifier.artifact import LAYOUTS
from classifier.difficulty import (
    FREE,
    LEAST_LAYOUT_ROWS,
    LEAST_SOURCE_ROWS,
    Difficulty,
    drawn,
    layouts,
    served_trees,
    slice_means,
)
from classifier.features import DETAIL_NAMES, NAME_BUCKETS, NGRAM_BUCKETS, STRUCTURE_NAMES, Features

LINEAR_NAMES: Final = tuple(name for name in STRUCTURE_NAMES if name not in DETAIL_NAMES)
"""Structure columns the logistic regression weighs; `difficulty` reads all of them."""

_LINEAR: Final = np.array([STRUCTURE_NAMES.index(name) for name in LINEAR_NAMES])

_KNOWN_SHARE: Final = 0.4
"""Of what the difficulty says of requests nobody answered, how much the regression knows before it is fitted. Knowing
all, it takes the prior on length back; knowing nothing, it lets function calls rise with their length."""

_LEAST_CHANCE: Final = 0.005
"""Bound on the share of needed rows of a layout, and of the others, for a logit."""

Ints = npt.NDArray[np.int64]


class Task(NamedTuple):
    """What is known of a sample's difficulty, because both routes' answers to it are.

    Attributes:
        source: What its rank may be compared within.
        rank: (1 + benefit of Opus) / 2, in [0, 1].
        subject: What it is about, or None.
        own_share: Share of its own rank in what is fitted; the rest is its subject's mean.
    """

    source: str
    rank: float
    subject: str | None = None
    own_share: float = 1.0


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
    not learn difficulty by the words that name a benchmark, it sees the mean of a measured row's source for its target.

    Where answers to `LEAST_LAYOUT_ROWS` tasks with answer options are known, the regression says nothing of such tasks
    and learns nothing from them: there are no kinds of request to tell apart among them, and all that its words add is
    noise. A share of need stands in its place, one for each layout.

    Args:
        C: Inverse strength of the L2 penalty, > 0.
        ngram_scale, name_scale, scale_floor, encoder_scale: As in `FeatureColumns`.
        max_iter: Bound on the solver's steps.
        difficulty_scale: `Difficulty`'s scale.
        tree_scale, length_weight, shared_share: As in `Difficulty`.

    Attributes:
        classes_: ndarray [0, 1].
        columns_: The fitted `FeatureColumns`.
        coef_: ndarray of shape (n_columns,).
        intercept_: float.
        difficulty_: The fitted `Difficulty`, or None if too few rows have a task.
        shares_: Logit of the share of need where it stands in for the regression, ndarray of shape (LAYOUTS,); NaN
            where the regression speaks.
    """

    def __init__(
        self,
        C: float = 1.0,  # noqa: N803
        ngram_scale: float = 1.0,
        name_scale: float = 1.0,
        scale_floor: float = 0.3,
        max_iter: int = 200,
        difficulty_scale: float = 8.0,
        tree_scale: float = 0.0,
        length_weight: float = 2.0,
        shared_share: float = 0.4,
        encoder_scale: float = 1.0,
    ) -> None:
        self.C = C
        self.ngram_scale = ngram_scale
        self.name_scale = name_scale
        self.scale_floor = scale_floor
        self.max_iter = max_iter
        self.difficulty_scale = difficulty_scale
        self.tree_scale = tree_scale
        self.length_weight = length_weight
        self.shared_share = shared_share
        self.encoder_scale = encoder_scale

    def fit(
        self,
        X: Sequence[Features],  # noqa: N803
        y: Any,
        sample_weight: Any = None,
        tasks: Sequence[Task | None] | None = None,
    ) -> Self:
        """Fit columns, weights and difficulty.

        Args:
            X: Features of n samples.
            y: Chance per sample that Opus is needed, in [0, 1]; 0 and 1 are labels like any other.
            sample_weight: Weight per sample, or None for equal ones.
            tasks: What orders a sample among those of its source, or None for one that says nothing of difficulty.
        """
        self.columns_ = FeatureColumns(
            ngram_scale=self.ngram_scale,
            name_scale=self.name_scale,
            scale_floor=self.scale_floor,
            encoder_scale=self.encoder_scale,
        ).fit(X)
        columns, structure = self.columns_.transform(X), _structure(X)
        targets = np.array(y, dtype=np.float64)
        weights = np.ones(len(targets)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        offsets, told = np.zeros(len(targets)), np.ones(len(targets), dtype=np.bool_)
        self.difficulty_ = None
        self.shares_: Array = np.full(LAYOUTS, np.nan)
        found = [(index, task) for index, task in enumerate(tasks or ()) if task is not None]
        if len(found) >= LEAST_SOURCE_ROWS:
            rows, sources = np.array([index for index, _ in found]), [task.source for _, task in found]
            benefits = drawn(
                np.array([2.0 * task.rank - 1.0 for _, task in found]),
                np.array([task.own_share for _, task in found]),
                [task.subject for _, task in found],
                sources,
            )
            words = self._words(columns)
            self.difficulty_ = self._difficulty().fit(
                structure[rows], words[rows], benefits, weights[rows], sources
            )
            self.shares_ = _shares(layouts(structure[rows]), targets[rows], weights[rows])
            told = np.isnan(self.shares_)[layouts(structure)]
            # What the difficulty says is known before the regression is fitted: in part where nobody answered, so that
            # commands that look hard by their words are taken back; by its mean within a source, which is all that the
            # regression is to learn of one.
            said = self.difficulty_.decision_function(structure, words)
            offsets = _KNOWN_SHARE * said
            offsets[rows] = slice_means(said[rows], weights[rows], sources)
            targets[rows] = slice_means(targets[rows], weights[rows], sources)
        # A column that is zero in every row gets weight zero under the penalty: leaving it out of the fit
        # is the same optimum in less time.
        used = np.unique(columns[told].indices)
        self.coef_: Array = np.zeros(columns.shape[1])
        self.coef_[used], self.intercept_ = _logistic(
            columns[told][:, used], targets[told], weights[told], offsets[told], self.C, self.max_iter
        )
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Raw scores, ndarray of shape (n_samples,); positive speaks for Opus."""
        columns, structure = self.columns_.transform(X), _structure(X)
        raw = np.asarray(columns @ self.coef_, dtype=np.float64) + self.intercept_
        if self.difficulty_ is None:
            return raw
        shares = self.shares_[layouts(structure)]
        base = np.where(np.isnan(shares), raw, shares)
        return base + self.difficulty_.decision_function(structure, self._words(columns))

    def _difficulty(self) -> Difficulty:
        return Difficulty(
            scale=self.difficulty_scale,
            tree_scale=self.tree_scale,
            length_weight=self.length_weight,
            shared_share=self.shared_share,
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
    """A fitted `RouteClassifier` under a sigmoid for each layout of a task: what `CalibratedClassifierCV` gives with
    `ensemble=False`, for targets that are chances.

    Attributes:
        estimator_: The classifier.
        slopes, intercepts: value = sigmoid(slope * raw + intercept), ndarrays of shape (LAYOUTS,).
        classes_: ndarray [0, 1].
    """

    def __init__(self, estimator: RouteClassifier, slopes: Array, intercepts: Array) -> None:
        self.estimator = estimator
        self.slopes = slopes
        self.intercepts = intercepts
        self.classes_ = np.array([0, 1])

    def predict_proba(self, X: Sequence[Features]) -> Array:  # noqa: N803
        """Calibrated probabilities of Flash and Opus, ndarray of shape (n_samples, 2)."""
        layout = layouts(_structure(X))
        raw = self.estimator.decision_function(X)
        probabilities = expit(self.slopes[layout] * raw + self.intercepts[layout])
        return np.column_stack([1.0 - probabilities, probabilities])


def fit_calibrated(
    classifier: RouteClassifier,
    features: Sequence[Features],
    targets: Sequence[float],
    weights: Sequence[float],
    folds: Sequence[tuple[Ints, Ints]],
    tasks: Sequence[Task | None] | None = None,
) -> CalibratedRouteClassifier:
    """Fit `classifier` on everything and its sigmoids on scores of held-out folds.

    Each row is scored by a classifier that saw none of its group; the sigmoids are fitted on these scores, and
    the classifier is then fitted on all rows. With few labels this wastes none on calibration. Only rows with a task
    count for the sigmoids, if there are `LEAST_SOURCE_ROWS` of them, and their sources by how many they are.

    Args:
        targets: Chance per row that Opus is needed, in [0, 1].
        folds: (train, held-out) row indices; the held-out parts partition the rows, groups never span both.
        tasks: As `RouteClassifier.fit`.
    """
    wanted, counted = np.asarray(targets, np.float64), np.array(weights, np.float64)
    named: Sequence[Task | None] = [None] * len(features) if tasks is None else tasks
    held = np.empty(len(features))

    def fitted(rows: Ints) -> RouteClassifier:
        fresh: RouteClassifier = clone(classifier)
        return fresh.fit(
            [features[row] for row in rows], wanted[rows], counted[rows], [named[row] for row in rows]
        )

    for kept, left_out in folds:
        held[left_out] = fitted(kept).decision_function([features[row] for row in left_out])
    measured = np.array([task is not None for task in named])
    whole = fitted(np.arange(len(features)))
    if measured.sum() < LEAST_SOURCE_ROWS:
        slope, intercept = _sigmoid(held, wanted, counted)
        return CalibratedRouteClassifier(whole, np.full(LAYOUTS, slope), np.full(LAYOUTS, intercept))
    # Where outcomes were measured, a chance can be checked; assumed labels of other rows must not bend it. How loud a
    # source is in the fit says nothing of how often it is met.
    sources = [task.source for task in named if task is not None]
    ones = np.ones(len(sources))
    counted[measured] /= slice_means(counted[measured], ones, sources)
    layout = layouts(_structure(features))
    slope, intercept = _sigmoid(held[measured], wanted[measured], counted[measured])
    slopes, intercepts = np.full(LAYOUTS, slope), np.full(LAYOUTS, intercept)
    # Trees are served for all layouts at one scale, so with them there is one sigmoid.
    alone = whole.difficulty_ is None or whole.difficulty_.trees_ is not None
    for each in () if alone else range(LAYOUTS):
        mine = measured & (layout == each)
        if mine.sum() < (LEAST_SOURCE_ROWS if each == FREE else LEAST_LAYOUT_ROWS):
            continue
        if each == FREE and (others := ~measured & (layout == FREE)).any():
            # Kinds that nobody answered are told apart here as well: one half of what counts, or the sigmoid that suits
            # two benchmarks makes all of them alike.
            counted[others] *= counted[mine].sum() / counted[others].sum()
            mine |= others
        slope, intercept = _sigmoid(held[mine], wanted[mine], counted[mine])
        if slope > 0.0:  # else the layout's scores do not rise with its labels, and all rows know better
            slopes[each], intercepts[each] = slope, intercept
    return CalibratedRouteClassifier(whole, slopes, intercepts)


def _sigmoid(raw: Array, targets: Array, weights: Array) -> tuple[float, float]:
    """Slope and intercept of the sigmoid that turns raw scores into the chances they were seen to have."""
    yes, no = np.nonzero(targets > 0.0)[0], np.nonzero(targets < 1.0)[0]
    found = LogisticRegression(C=np.inf, tol=1e-8, max_iter=500).fit(
        np.concatenate([raw[yes], raw[no]])[:, None],
        np.concatenate([np.ones(len(yes), np.int64), np.zeros(len(no), np.int64)]),
        sample_weight=np.concatenate([weights[yes] * targets[yes], weights[no] * (1.0 - targets[no])]),
    )
    return float(found.coef_[0, 0]), float(found.intercept_[0])


def served_arrays(calibrated: CalibratedRouteClassifier) -> tuple[dict[str, Array], float, float, float]:
    """What serving needs of a fitted classifier.

    Returns:
        The arrays of `artifact.ARRAYS`, the bias, and the sigmoid's slope and intercept for tasks answered freely; the
        sigmoids of other layouts are in their tables.
    """
    classifier = calibrated.estimator
    columns, difficulty = classifier.columns_, classifier.difficulty_
    bounds = np.cumsum([NGRAM_BUCKETS, NAME_BUCKETS, len(LINEAR_NAMES)])
    ngram, name, linear, embedded = np.split(classifier.coef_, bounds)
    regressed = np.isnan(classifier.shares_)
    by_layout = regressed[:, None].astype(np.float64)
    words = by_layout * (ngram * columns.ngram_scale)
    structure, means = np.zeros((LAYOUTS, len(STRUCTURE_NAMES))), np.zeros(len(STRUCTURE_NAMES))
    structure[:, _LINEAR] = by_layout * (linear / columns.scales_)
    biases = np.where(regressed, classifier.intercept_, classifier.shares_)
    if difficulty is not None:
        means[:] = difficulty.means_
    means[_LINEAR] = columns.means_
    if difficulty is not None:
        words = words + difficulty.words_
        structure += difficulty.structure_
        # Both parts are centred, at different means: one set is served, the biases take the rest.
        biases = biases + difficulty.intercepts_ + difficulty.structure_ @ (means - difficulty.means_)
    slope, intercept = float(calibrated.slopes[FREE]), float(calibrated.intercepts[FREE])
    spread = calibrated.slopes / slope
    biases = spread * biases + (calibrated.intercepts - intercept) / slope
    spread = spread[:, None]
    arrays = {
        "ngram_weights": (spread * words).ravel(),
        "ngram_idf": columns.idf_,
        "name_weights": (spread * by_layout * (name * columns.name_scale)).ravel(),
        "structure_weights": (spread * structure).ravel(),
        "structure_means": means,
        "layout_biases": biases - biases[FREE],
        "encoder_weights": (spread * by_layout * (embedded * columns.encoder_scale)).ravel(),
        **served_trees(None if difficulty is None else difficulty.trees_, classifier.tree_scale),
    }
    return arrays, float(biases[FREE]), slope, intercept


def _shares(layout: Ints, targets: Array, weights: Array) -> Array:
    """Logit of the share of need by layout, those of few rows drawn to the share of all with options; NaN for FREE, and
    for all where too few rows have options; shape (LAYOUTS,).
    """
    shares = np.full(LAYOUTS, np.nan)
    offered = layout != FREE
    if offered.sum() < LEAST_LAYOUT_ROWS:
        return shares
    middle = np.average(targets[offered], weights=weights[offered])
    for each in range(FREE + 1, LAYOUTS):
        mine = layout == each
        mean = np.average(targets[mine], weights=weights[mine]) if mine.any() else middle
        share = (mine.sum() * mean + LEAST_LAYOUT_ROWS * middle) / (mine.sum() + LEAST_LAYOUT_ROWS)
        shares[each] = logit(np.clip(share, _LEAST_CHANCE, 1.0 - _LEAST_CHANCE))
    return shares


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
