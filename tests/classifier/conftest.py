"""What several classifier tests share: a small labelled set and models fitted once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from classifier.dataset import Dataset, read
from classifier.model import Model
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
    return fit(Dataset(tuple(rows)), TrainingSettings(folds=3), DEFAULT_SEED)
