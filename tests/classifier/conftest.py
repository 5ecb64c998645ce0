"""What several classifier tests share: a small labelled set and models fitted once."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from classifier.dataset import Dataset, Labelled, LabelledSample, read
from classifier.difficulty import LEAST_LAYOUT_ROWS
from classifier.model import Model
from classifier.sample import Sample
from classifier.training import DEFAULT_SEED, SEED_PATH, TrainedModel, TrainingSettings, fit

CREATED_TIME = "2026-11-22T00:00:00Z"


@pytest.fixture(scope="session")
def seed_dataset() -> Dataset:
    """The shipped labels."""
    return read(SEED_PATH)


@pytest.fixture(scope="session")
def small_dataset(seed_dataset: Dataset) -> Dataset:
    """Every fourth shipped label: enough to fit, quick to fit."""
    return Dataset(seed_dataset.rows[::4])


@pytest.fixture(scope="session")
def trained(small_dataset: Dataset) -> TrainedModel:
    """A model of the small set with its scikit-learn object."""
    return fit(small_dataset, TrainingSettings(folds=3), DEFAULT_SEED)


@pytest.fixture(scope="session")
def model(trained: TrainedModel) -> Model:
    """The same model in its served form."""
    return trained.to_model(CREATED_TIME)


@pytest.fixture(scope="session")
def retrained(seed_dataset: Dataset) -> TrainedModel:
    """The shipped labels fitted afresh by the shipped recipe."""
    return fit(seed_dataset, TrainingSettings(), DEFAULT_SEED)


@pytest.fixture(scope="session")
def answered_trained(seed_dataset: Dataset) -> TrainedModel:
    """A model whose rows carry both routes' qualities, so that it has trees."""
    rows = [
        replace(
            row, kind="asked", flash_quality=1.0 - row.label, opus_quality=1.0, target=0.1 + 0.8 * row.label
        )
        for row in seed_dataset.rows
    ]
    return fit(Dataset(tuple(rows)), TrainingSettings(folds=3, tree_scale=5.0), DEFAULT_SEED)


@pytest.fixture(scope="session")
def questions_trained(small_dataset: Dataset) -> TrainedModel:
    """A model that knows answers to questions with few and with many options, so that each layout has its tables."""
    generator = random.Random(4)
    rows: list[Labelled] = list(small_dataset.rows)
    for number in range(2 * LEAST_LAYOUT_ROWS):
        many, asked = (
            number % 2,
            " ".join(generator.choices(["field", "ring", "cell", "law", "force", "tort"], k=4)),
        )
        label = int(generator.random() < (0.7 if ("ring" in asked) != bool(many) else 0.1))
        listed = "".join(
            f"\n{letter}) {generator.randrange(99)}" for letter in "ABCDEFGHIJ"[: 10 if many else 4]
        )
        rows.append(
            LabelledSample(
                id=f"q{number}",
                sample=Sample.bounded(text=f"Which {asked}?{listed}"),
                label=label,
                group=f"q{number}",
                kind="many" if many else "few",
                subject=asked.split()[0],
                own_share=0.5,
                flash_quality=1.0 - label,
                opus_quality=1.0,
            )
        )
    return fit(Dataset(tuple(rows)), TrainingSettings(folds=2), DEFAULT_SEED)
