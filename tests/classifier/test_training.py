"""Training: repeatable, honest about what it has not seen, and the shipped model is what the labels give."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from classifier.answers import read_answers
from classifier.dataset import Dataset, LabelledSample
from classifier.evaluation import auroc
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.pipeline import FeatureColumns, RouteClassifier, column_names
from classifier.recipe import CARD_NAME, assemble
from classifier.sample import Sample
from classifier.training import (
    DEFAULT_SEED,
    TrainedModel,
    TrainingError,
    TrainingSettings,
    cross_scores,
    fit,
    train,
)
from tests.classifier.samples import sample_of

DATA = os.environ.get("HYBRID_ROUTER_DATA", "")
"""Folder with `labels*.jsonl.gz` and `requests_by_kind*.jsonl.gz`, which the package may not carry."""


def test_shipped_model_is_the_one_that_was_reviewed() -> None:
    """The artifact's digest stands in its card, and its settings are today's: neither changes without the other."""
    shipped = Model.default()
    written = (DEFAULT_DIRECTORY / CARD_NAME).read_text(encoding="utf-8")
    assert written.startswith(f"# Model card: routing classifier {shipped.digest}\n")
    assert shipped.manifest.settings == asdict(TrainingSettings())
    assert shipped.manifest.data_digest[:12] in written
    for source in ("CC BY 3.0", "Apache-2.0", "MIT", "Larson et al. 2019"):
        assert source in written


@pytest.mark.skipif(not DATA, reason="HYBRID_ROUTER_DATA names no folder with the public data")
def test_shipped_model_is_what_its_data_give(seed_dataset: Dataset) -> None:
    """With the public data at hand, the documented command gives the shipped scores again."""
    folder = Path(DATA)
    answers = [row for path in sorted(folder.glob("labels*.jsonl.gz")) for row in read_answers(path)]
    dataset = assemble(answers, sorted(folder.glob("requests_by_kind*.jsonl.gz")), seed_dataset.rows)
    shipped = Model.default()
    assert shipped.manifest.data_digest == dataset.digest()
    fresh = fit(dataset, TrainingSettings(), shipped.manifest.seed).to_model("t")
    for row in dataset.rows[::50]:
        assert shipped.score_features(row.extracted()).value == pytest.approx(
            fresh.score_features(row.extracted()).value, abs=1e-3
        )


def test_seed_set_alone_gives_a_model(retrained: TrainedModel, seed_dataset: Dataset) -> None:
    """Who has nothing but the shipped labels can train from them; the model tells the two labels apart."""
    scores = retrained.predict([sample_of(row) for row in seed_dataset.rows])
    found = auroc(scores, np.asarray(seed_dataset.labels, dtype=np.bool_))
    assert found is not None
    assert found > 0.95
    assert retrained.calibrated.estimator.difficulty_ is None


def test_shipped_metrics_beat_prompt_length() -> None:
    """The recorded held-out ranking beats length with its whole interval, and probabilities are honest."""
    metrics = Model.default().manifest.metrics
    assert metrics["auroc_low"] > metrics["length_auroc"] + 0.05
    assert metrics["ece"] < 0.06
    assert metrics["brier"] < metrics["base_brier"]


def test_targets_count_as_weighted_labels(small_dataset: Dataset) -> None:
    """A target of one half pulls a model's scores towards one half, whatever the row's label."""
    soft = Dataset(
        tuple(replace(row, target=0.5) for row in small_dataset.rows[::2]) + small_dataset.rows[1::2]
    )
    features = [row.extracted() for row in soft.rows]
    hard = RouteClassifier().fit(features, soft.labels).predict_proba(features)[::2, 1]
    targets = [float(row.label) if row.target is None else row.target for row in soft.rows]
    softened = RouteClassifier().fit(features, targets).predict_proba(features)[::2, 1]
    assert np.abs(softened - 0.5).mean() < np.abs(hard - 0.5).mean() - 0.1


def test_kinds_left_out_are_scored_by_models_that_never_saw_them(seed_dataset: Dataset) -> None:
    """Rows of the kind get scores, others none; an unknown label in it cannot matter to them."""
    flipped = Dataset(
        tuple(replace(row, label=1 - row.label) if row.kind == "lookup" else row for row in seed_dataset.rows)
    )
    settings = TrainingSettings(folds=3)
    scores, fold = cross_scores(seed_dataset, settings, 1, leave_out_kinds=["lookup"])
    again, _ = cross_scores(flipped, settings, 1, leave_out_kinds=["lookup"])
    mine = np.array([row.kind == "lookup" for row in seed_dataset.rows])
    assert np.isfinite(scores[mine]).all()
    assert np.isnan(scores[~mine]).all()
    assert (fold >= 0).tolist() == mine.tolist()
    assert scores[mine].tolist() == pytest.approx(again[mine].tolist())


def test_shipped_labels_are_many_and_diverse(seed_dataset: Dataset) -> None:
    """At least 400 rows of both labels, many kinds, and some in other languages."""
    kinds = {row.kind for row in seed_dataset.rows}
    foreign = [row for row in seed_dataset.rows if row.kind == "multilingual"]
    assert len(seed_dataset) >= 400
    assert 0.25 < sum(seed_dataset.labels) / len(seed_dataset) < 0.5
    assert len(kinds) >= 15
    assert len(foreign) >= 36
    assert {row.label for row in foreign} == {0, 1}


def test_training_repeats(small_dataset: Dataset, trained: TrainedModel) -> None:
    """Equal rows, settings and seed give equal scores."""
    again = fit(small_dataset, TrainingSettings(folds=3), DEFAULT_SEED)
    chosen = [sample_of(row) for row in small_dataset.rows[:20]]
    assert again.predict(chosen).tolist() == pytest.approx(trained.predict(chosen).tolist(), abs=1e-9)


def test_report_is_from_unseen_groups(small_dataset: Dataset) -> None:
    """The report judges held-out folds: it is worse than the fit on its own rows, and progress is told."""
    steps: list[tuple[int, int]] = []
    model, report = train(
        small_dataset, TrainingSettings(folds=3), 1, lambda done, total, what: steps.append((done, total))
    )
    own = model.predict([sample_of(row) for row in small_dataset.rows])
    labels = np.asarray(small_dataset.labels)
    assert report.held_out.brier > float(np.mean((own - labels) ** 2))
    assert report.held_out.rows == report.rows == len(small_dataset)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert model.metrics == report.to_dict()["held_out"]


def test_copies_of_one_group_do_not_leak() -> None:
    """Labels that depend on nothing but the group's own words cannot be predicted for unseen groups."""
    generator = np.random.default_rng(5)
    rows = []
    for group in range(60):
        word = "".join(chr(97 + letter) for letter in generator.integers(0, 26, 9))
        label = int(generator.random() < 0.5)
        rows += [
            LabelledSample(
                id=f"{group}.{copy}",
                group=f"g{group}",
                label=label,
                sample=Sample.bounded(text=f"tell me about {word}"),
            )
            for copy in range(4)
        ]
    report = None
    with contextlib.suppress(TrainingError):  # the other honest answer: nothing to learn
        _, report = train(Dataset(tuple(rows)), TrainingSettings(folds=3), 1)
    assert report is None or report.held_out.auroc is None or report.held_out.auroc < 0.7


def test_too_few_groups_are_refused(small_dataset: Dataset) -> None:
    """Folds need groups of both labels; the message counts them."""
    ones = [row for row in small_dataset.rows if row.label == 1][:4]
    zeros = [row for row in small_dataset.rows if row.label == 0]
    with pytest.raises(TrainingError, match="label 1 occurs in 4 groups; 3 folds need 6"):
        fit(Dataset((*zeros, *ones)), TrainingSettings(folds=3), 1)


@pytest.mark.parametrize(
    "change",
    [
        {"folds": 1},
        {"inverse_penalty": 0.0},
        {"waste_per_miss": float("nan")},
        {"tree_scale": -1.0},
        {"shared_share": 1.5},
    ],
)
def test_settings_outside_their_range_are_refused(change: dict[str, float]) -> None:
    """A setting that means nothing is refused by name."""
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainingSettings(**change)  # type: ignore[arg-type]


def test_threshold_follows_the_harms() -> None:
    """On a calibrated score the least harmful cut is waste / (1 + waste)."""
    assert TrainingSettings().threshold == pytest.approx(0.25)
    assert TrainingSettings(waste_per_miss=1.0).threshold == 0.5
    assert TrainingSettings(waste_per_miss=0.25).threshold == pytest.approx(0.2)


def test_weights_count_as_copies(small_dataset: Dataset) -> None:
    """A weighted fit differs from an unweighted one in the direction of the weight."""
    features = [row.extracted() for row in small_dataset.rows]
    plain = RouteClassifier().fit(features, small_dataset.labels)
    heavy = RouteClassifier().fit(
        features, small_dataset.labels, [1.0 + 4.0 * y for y in small_dataset.labels]
    )
    assert (heavy.decision_function(features) - plain.decision_function(features)).mean() > 0.1


def test_columns_are_named_and_bounded(small_dataset: Dataset) -> None:
    """Every column has a name; the word part of a row has the length asked for."""
    features = [row.extracted() for row in small_dataset.rows]
    columns = FeatureColumns(ngram_scale=4.0).fit(features)
    matrix = columns.transform(features)
    assert matrix.shape == (len(features), len(column_names()))
    assert len(set(column_names())) == len(column_names())
    assert list(columns.get_feature_names_out()) == column_names()
    lengths = np.sqrt(matrix[:, : len(columns.idf_)].power(2).sum(axis=1))
    with_words = np.array([bool(row.ngrams) for row in features])
    assert lengths[with_words] == pytest.approx(4.0)
