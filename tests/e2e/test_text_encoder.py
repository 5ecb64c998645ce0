"""A router with an operator's text encoder, over real gRPC: served, kept, explained; refused without it."""

from pathlib import Path

import pytest

from classifier.artifact import save
from classifier.dataset import Dataset, read
from classifier.encoded import encoded
from classifier.encoder import load_encoder, tag
from classifier.features import Features
from classifier.model import Model
from classifier.training import DEFAULT_SEED, SEED_PATH, TrainingSettings, fit
from router.config import ClassifierConfig, ConfigError, RoutingConfig
from tests.e2e.builders import config, generate, user
from tests.e2e.service import serving

FACTORY = "tests.classifier.text_encoders:factory"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    """A model fitted beside the encoder."""
    embedder = load_encoder(FACTORY)
    rows = encoded(Dataset(read(SEED_PATH).rows[::4]), embedder)
    made = (
        fit(rows, TrainingSettings(folds=3), DEFAULT_SEED, embedder.entry)
        .to_model("2026-11-23T00:00:00Z")
        .artifact
    )
    directory = tmp_path_factory.mktemp("encoded")
    save(directory, made.manifest, made.arrays)
    return directory


def settings(artifact: Path, encoder: str):
    return config(
        routing=RoutingConfig(classifier=str(artifact)),
        classifier=ClassifierConfig(encoder=encoder, encoder_wait_s=5.0),
    )


async def test_requests_are_scored_with_their_embedding_and_the_ledger_keeps_it(artifact):
    """The decision's features hold it, so that the next model is fitted without text and encoder."""
    async with serving(settings(artifact, FACTORY)) as service:
        request = generate(user("Compare both contracts clause by clause."))
        await service.generate(request)
        explained = await service.explain(request)
        (settlement,) = await service.settled(1)
    assert settlement.decision is not None
    kept = Features.unpack(settlement.decision.features)
    assert tag(kept.embedding) == load_encoder(FACTORY).entry.digest
    scored = Model.load(artifact).score_features(kept)
    assert settlement.decision.score == scored.value
    assert explained.decision.score == pytest.approx(scored.value)
    assert scored.value != Model.load(artifact).score_features(kept.encoded(b"")).value


async def test_a_router_without_the_encoder_does_not_start(artifact):
    """It would score everything wrongly, in silence."""
    with pytest.raises(ConfigError, match=r"fitted with text encoder hashing .* name its factory"):
        async with serving(settings(artifact, "")):
            pass
