"""Training: repeatable, honest about what it has not seen, and the shipped model is what the labels give."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from classifier.dataset import Dataset, LabelledSample
from classifier.model import Model
from classifier.pipeline import FeatureColumns, RouteClassifier, column_names
from classifier.sample import Sample
from classifier.training import DEFAULT_SEED, TrainedModel, TrainingError, TrainingSettings, fit, train
from tests.classifier.samples import sample_of


def test_shipped_model_is_what_the_shipped_labels_give(
    retrained: TrainedModel, seed_dataset: Dataset
) -> None:
    """Labels, features or recipe cannot change without the artifact: its digest of the data and its scores
    agree."""
    shipped, fresh = Model.default(), retrained.to_model("t")
    assert shipped.manifest.data_digest == seed_dataset.digest()
    assert shipped.manifest.settings == fresh.manifest.settings
    assert shipped.manifest.seed == fresh.manifest.seed
    for row in seed_dataset.rows:
        assert shipped.score(sample_of(row)).value == pytest.approx(
            fresh.score(sample_of(row)).value, abs=1e-3
        )


def test_shipped_metrics_beat_prompt_length() -> None:
    """The recorded held-out ranking beats length with its whole interval, and probabilities are honest."""
    metrics = Model.default().manifest.metrics
    assert metrics["auroc_low"] > metrics["length_auroc"] + 0.05
    assert metrics["ece"] < 0.06
    assert metrics["brier"] < 0.5 * metrics["base_brier"]


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


@pytest.mark.parametrize("change", [{"folds": 1}, {"inverse_penalty": 0.0}, {"waste_per_miss": float("nan")}])
def test_settings_outside_their_range_are_refused(change: dict[str, float]) -> None:
    """A setting that means nothing is refused by name."""
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainingSettings(**change)  # type: ignore[arg-type]


def test_threshold_follows_the_harms() -> None:
    """On a calibrated score the least harmful cut is waste / (1 + waste)."""
    assert TrainingSettings().threshold == 0.5
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
