"""Labels in, a model and an honest report out.

Rule: what is served is fitted on every row; what is reported comes only from rows whose group the reporting
model never saw. So training runs twice: once per outer fold (fit, calibrate, score the fold) for the report,
and once over everything for the model. Both use the same function. Equal rows, settings and seed give equal
models.

It does not know the clock (the time of creation is passed in), nor whether the new model should replace the
old one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy
import sklearn
from sklearn.model_selection import StratifiedGroupKFold

from classifier import artifact as artifacts
from classifier.array_file import Array
from classifier.artifact import Artifact, Manifest
from classifier.dataset import Dataset, Labelled
from classifier.encoder import EncoderEntry, tag
from classifier.evaluation import Evaluation, evaluate
from classifier.features import FEATURE_VERSION, Features, extract
from classifier.model import Model
from classifier.pipeline import (
    CalibratedRouteClassifier,
    Ints,
    RouteClassifier,
    Task,
    fit_calibrated,
    served_arrays,
)
from classifier.sample import SAMPLE_VERSION, Sample

SEED_PATH: Final = Path(__file__).parent / "data" / "seed.jsonl"
"""The labelled set shipped with the package."""

DEFAULT_SEED: Final = 20261122
"""Seed of the shipped model's folds."""

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what was done)."""


class TrainingError(Exception):
    """The labels cannot carry a model; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How to fit.

    Attributes:
        inverse_penalty: Inverse strength of the L2 penalty, > 0.
        ngram_scale: Length of the word part against structure columns of unit deviation, > 0.
        name_scale: Value of a name's column, > 0.
        scale_floor: Least divisor of a structure column, > 0.
        difficulty_scale: Raw score per unit of benefit that `difficulty` foresees, > 0; it needs rows with both
            qualities.
        tree_scale: The same for its trees on the structure, >= 0; 0 for none.
        length_weight: Raw score per unit of the natural logarithm of a text's length, > 0; a prior, there with the
            difficulty.
        shared_share: Share of what words say of difficulty that holds for all layouts with options, in (0, 1].
        encoder_scale: Length of a text encoder's embedding, > 0; says nothing of rows without one.
        folds: Group folds for calibration and for the report, >= 2.
        waste_per_miss: Harm of a needless Opus answer in units of the harm of a needed one withheld, > 0; the
            suggested threshold is waste / (1 + waste), the least harmful cut on a calibrated score.
    """

    inverse_penalty: float = 0.5
    ngram_scale: float = 2.0
    name_scale: float = 1.0
    scale_floor: float = 0.3
    difficulty_scale: float = 8.0
    tree_scale: float = 0.0
    length_weight: float = 2.0
    shared_share: float = 0.4
    encoder_scale: float = 2.0
    folds: int = 5
    waste_per_miss: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        for name in (
            "inverse_penalty",
            "ngram_scale",
            "name_scale",
            "scale_floor",
            "difficulty_scale",
            "length_weight",
            "shared_share",
            "encoder_scale",
            "waste_per_miss",
        ):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)!r}")
        if self.shared_share > 1.0:
            raise ValueError(f"shared_share must be <= 1, got {self.shared_share!r}")
        if not self.tree_scale >= 0.0:
            raise ValueError(f"tree_scale must be >= 0, got {self.tree_scale!r}")
        if self.folds < 2:
            raise ValueError(f"folds must be >= 2, got {self.folds}")

    @property
    def threshold(self) -> float:
        """The threshold these settings suggest, in (0, 1)."""
        return self.waste_per_miss / (1.0 + self.waste_per_miss)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What was trained on and how good it is on groups it had not seen; `scores` are those it is judged by, per row."""

    rows: int
    positive_rows: int
    groups: int
    data_digest: str
    threshold: float
    held_out: Evaluation
    scores: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {
            "rows": self.rows,
            "positive_rows": self.positive_rows,
            "groups": self.groups,
            "data_digest": self.data_digest,
            "threshold": self.threshold,
            "held_out": self.held_out.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A fitted classifier before it is an artifact.

    Attributes:
        calibrated: The scikit-learn object, for comparison; not saved.
        settings, seed: As given.
        dataset: What it was fitted on.
        metrics: The report's figures, or empty if it was not judged.
        encoder: The text encoder whose embeddings the rows hold, None for none.
    """

    calibrated: CalibratedRouteClassifier
    settings: TrainingSettings
    seed: int
    dataset: Dataset
    metrics: dict[str, Any]
    encoder: EncoderEntry | None = None

    def predict(self, samples: Sequence[Sample]) -> Array:
        """Calibrated scores by scikit-learn itself, ndarray of shape (n_samples,)."""
        return self.predict_features([extract(sample) for sample in samples])

    def predict_features(self, features: Sequence[Features]) -> Array:
        """The same of features, which may hold embeddings."""
        return np.asarray(self.calibrated.predict_proba(features)[:, 1])

    def save(self, directory: Path, created_time: str) -> Artifact:
        """Write the artifact.

        Args:
            directory: See `artifact.save`.
            created_time: RFC 3339 time to record.
        """
        manifest, arrays = self._parts(created_time)
        return artifacts.save(directory, manifest, arrays)

    def to_model(self, created_time: str) -> Model:
        """The served form without touching a disk."""
        manifest, arrays = self._parts(created_time)
        packed = artifacts.encode_manifest(manifest)
        return Model(Artifact(manifest=manifest, digest=artifacts.digest_of(packed), arrays=arrays))

    def _parts(self, created_time: str) -> tuple[Manifest, dict[str, Array]]:
        arrays, bias, slope, intercept = served_arrays(self.calibrated)
        manifest = Manifest(
            format=artifacts.FORMAT,
            schema_version=artifacts.SCHEMA_VERSION,
            sample_version=SAMPLE_VERSION,
            feature_version=FEATURE_VERSION,
            created_time=created_time,
            libraries={
                "numpy": np.__version__,
                "scikit-learn": sklearn.__version__,
                "scipy": scipy.__version__,
            },
            seed=self.seed,
            settings=asdict(self.settings),
            data_digest=self.dataset.digest(),
            rows=len(self.dataset),
            positive_rows=sum(self.dataset.labels),
            groups=self.dataset.group_count,
            bias=bias,
            calibration_slope=slope,
            calibration_intercept=intercept,
            threshold=self.settings.threshold,
            metrics=self.metrics,
            encoder=self.encoder,
            **artifacts.arrays_entry(artifacts.pack_arrays(arrays)),
        )
        return manifest, arrays


def train(
    dataset: Dataset,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
    encoder: EncoderEntry | None = None,
) -> tuple[TrainedModel, TrainingReport]:
    """Fit the model on all rows and judge the recipe on groups held out.

    Args:
        dataset: Both labels must occur in at least 2 x `settings.folds` groups each.
        settings: See there.
        seed: Of folds and bootstrap.
        progress: Told of each finished step, if given.
        encoder: The text encoder whose embeddings the rows hold (`classifier.encoded`); None: no embedding counts.

    Raises:
        TrainingError: Too few groups of a label, or scores that do not rank the labels at all.
    """
    _require_groups(dataset, settings.folds)
    features = _extracted(dataset, encoder)
    report = _judge(dataset, features, settings, seed, progress)
    trained = _fit(dataset, features, settings, seed, report.to_dict()["held_out"], encoder)
    if progress is not None:
        progress(settings.folds + 1, settings.folds + 1, "fitted on every row")
    return trained, report


def fit(
    dataset: Dataset, settings: TrainingSettings, seed: int, encoder: EncoderEntry | None = None
) -> TrainedModel:
    """Fit the model on all rows without judging it: the same model as `train` gives, several times sooner.

    Raises:
        TrainingError: As `train`.
    """
    _require_groups(dataset, settings.folds)
    return _fit(dataset, _extracted(dataset, encoder), settings, seed, {}, encoder)


def _extracted(dataset: Dataset, encoder: EncoderEntry | None) -> list[Features]:
    """Features of the rows, with the embeddings of this encoder and of no other."""
    found = [row.extracted() for row in dataset.rows]
    mine = "" if encoder is None else encoder.digest
    return [row if not row.embedding or tag(row.embedding) == mine else row.encoded(b"") for row in found]


def cross_scores(
    dataset: Dataset,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
    *,
    features: Sequence[Features] | None = None,
    leave_out_kinds: Sequence[str] = (),
    encoder: EncoderEntry | None = None,
) -> tuple[Array, Ints]:
    """Score every row by a model that saw none of its group.

    Args:
        features: Of the rows, if they are computed already.
        encoder: As for `fit`.
        leave_out_kinds: Instead of group folds, leave each of these kinds out wholly, with every group it shares; rows
            of other kinds get NaN.

    Returns:
        Scores and fold numbers, each of shape (rows,).

    Raises:
        TrainingError: As `train`.
    """
    found = _extracted(dataset, encoder) if features is None else features
    if leave_out_kinds:
        splits = [_kind_split(dataset, kind) for kind in leave_out_kinds]
    else:
        _require_groups(dataset, settings.folds)
        splits = _folds(dataset, settings.folds, seed)
    scores, fold = np.full(len(dataset), np.nan), np.full(len(dataset), -1, dtype=np.int64)
    for step, (train_rows, held_out) in enumerate(splits, start=1):
        kept = Dataset(tuple(dataset.rows[row] for row in train_rows))
        fitted = _fit(kept, [found[row] for row in train_rows], settings, seed, {})
        scores[held_out] = fitted.calibrated.predict_proba([found[row] for row in held_out])[:, 1]
        fold[held_out] = step - 1
        if progress is not None:
            progress(step, len(splits) + 1, f"judged fold {step} of {len(splits)}")
    return scores, fold


def _kind_split(dataset: Dataset, kind: str) -> tuple[Ints, Ints]:
    """(train, held-out) rows: all of `kind` against all rows that share no group with it."""
    groups = {row.group for row in dataset.rows if row.kind == kind}
    held = [index for index, row in enumerate(dataset.rows) if row.kind == kind]
    kept = [index for index, row in enumerate(dataset.rows) if row.group not in groups]
    return np.asarray(kept, dtype=np.int64), np.asarray(held, dtype=np.int64)


def _judge(
    dataset: Dataset,
    features: Sequence[Features],
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None,
) -> TrainingReport:
    """Score every row by a model that saw none of its group, and evaluate these scores."""
    scores, _ = cross_scores(dataset, settings, seed, progress, features=features)
    return TrainingReport(
        rows=len(dataset),
        positive_rows=sum(dataset.labels),
        groups=dataset.group_count,
        data_digest=dataset.digest(),
        threshold=settings.threshold,
        held_out=evaluate(dataset.rows, scores.tolist(), settings.threshold, seed=seed),
        scores=tuple(scores.tolist()),
    )


def _fit(
    dataset: Dataset,
    features: Sequence[Features],
    settings: TrainingSettings,
    seed: int,
    metrics: dict[str, Any],
    encoder: EncoderEntry | None = None,
) -> TrainedModel:
    classifier = RouteClassifier(
        C=settings.inverse_penalty,
        ngram_scale=settings.ngram_scale,
        name_scale=settings.name_scale,
        scale_floor=settings.scale_floor,
        difficulty_scale=settings.difficulty_scale,
        tree_scale=settings.tree_scale,
        length_weight=settings.length_weight,
        shared_share=settings.shared_share,
        encoder_scale=settings.encoder_scale,
    )
    weights = [row.weight for row in dataset.rows]
    folds = _folds(dataset, settings.folds, seed)
    targets = [float(row.label) if row.target is None else row.target for row in dataset.rows]
    calibrated = fit_calibrated(classifier, features, targets, weights, folds, list(map(_task, dataset.rows)))
    slope = float(calibrated.slopes.min())
    if not slope > 0.0:
        raise TrainingError(
            f"scores of held-out groups do not rise with the labels (sigmoid slope {slope:.3g}): these "
            "features can learn nothing from them; check the labels, or add groups"
        )
    return TrainedModel(
        calibrated=calibrated, settings=settings, seed=seed, dataset=dataset, metrics=metrics, encoder=encoder
    )


def _task(row: Labelled) -> Task | None:
    """Both routes' answers are known: how hard the request was within its kind can be learned from it."""
    if row.flash_quality is None or row.kind is None:
        return None
    chance = float(row.label) if row.target is None else row.target
    rank = (1.0 + chance) / 2.0 if row.rank is None else row.rank
    return Task(row.kind, rank, row.subject, row.own_share)


def _require_groups(dataset: Dataset, folds: int) -> None:
    """Refuse labels too few to hold one fold out and still calibrate on the rest."""
    for label in (0, 1):
        found = len({row.group for row in dataset.rows if row.label == label})
        if found < 2 * folds:
            raise TrainingError(
                f"label {label} occurs in {found} groups; {folds} folds need {2 * folds} of each label"
            )


def _folds(dataset: Dataset, count: int, seed: int) -> list[tuple[Ints, Ints]]:
    """(train, held-out) row indices of `count` folds; groups whole, labels spread as evenly as they allow."""
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    blank = np.zeros(len(dataset))
    return [
        (np.asarray(kept, dtype=np.int64), np.asarray(held, dtype=np.int64))
        for kept, held in splitter.split(blank, dataset.labels, groups=dataset.groups)
    ]
