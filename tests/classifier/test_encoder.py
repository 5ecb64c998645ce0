"""The optional text encoder: one embedding in training, serving and ledger; a model serves only beside its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.artifact import load
from classifier.dataset import Dataset, LabelledFeatures, LabelledSample
from classifier.encoded import encoded
from classifier.encoder import (
    COLUMNS,
    EMBEDDING_BYTES,
    TAG_BYTES,
    Embedder,
    EncoderError,
    is_embedding,
    load_encoder,
    numbers,
    require,
)
from classifier.features import Features, extract
from classifier.logged import collect
from classifier.model import ENCODER_NAME, Model
from classifier.retraining import RetrainingSettings, retrain
from classifier.sample import Sample
from classifier.search import BASE
from classifier.training import DEFAULT_SEED, TrainedModel, TrainingSettings, fit
from tests.classifier.drifted import served
from tests.classifier.samples import any_text, samples
from tests.classifier.text_encoders import HashingEncoder

TIME = "2026-11-23T00:00:00Z"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(HashingEncoder())


@pytest.fixture(scope="module")
def trained_with(small_dataset: Dataset, embedder: Embedder) -> TrainedModel:
    """A model of the small set fitted beside the encoder."""
    rows = encoded(small_dataset, embedder)
    return fit(rows, TrainingSettings(folds=3), DEFAULT_SEED, embedder.entry)


class Wrong(HashingEncoder):
    """Gives something else than it says."""

    def __init__(self, given: object, dimensions: int = 8) -> None:
        super().__init__("wrong", dimensions)
        self._given = given

    def encode(self, texts):  # type: ignore[no-untyped-def]
        if isinstance(self._given, Exception):
            raise self._given
        return self._given


def likeness(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


@pytest.mark.parametrize("dimensions", [COLUMNS // 2, COLUMNS, 4 * COLUMNS])
def test_likeness_survives_what_is_kept(dimensions: int) -> None:
    """Exactly up to half precision where a vector fits, to about a tenth where it is projected."""
    encoder = HashingEncoder(dimensions=dimensions)
    texts = ["sum up the report for the board", "sum up the report for the press", "book a table for two"]
    whole = [vector.astype(np.float64) for vector in encoder.encode(texts)]
    kept = [numbers(each) for each in Embedder(encoder).embed(texts)]
    slack = 2e-3 if dimensions <= COLUMNS else 0.3
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert likeness(kept[left], kept[right]) == pytest.approx(
            likeness(whole[left], whole[right]), abs=slack
        )
    assert likeness(kept[0], kept[1]) > likeness(kept[0], kept[2]) + 0.2


@given(st.lists(any_text, max_size=5))
def test_embedding_is_the_same_alone_and_in_company(texts: list[str]) -> None:
    """Training embeds in batches, serving one at a time; an empty text has none."""
    embedder = Embedder(HashingEncoder(dimensions=32))
    together = embedder.embed(texts)
    assert together == [embedder.embed([text])[0] for text in texts]
    assert all(
        is_embedding(each) if text else each == b"" for each, text in zip(together, texts, strict=True)
    )


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (np.zeros((1, 9), np.float32), "of shape"),
        (np.zeros((1, 8), np.int64), "int64"),
        (np.full((1, 8), np.nan, np.float32), "finite"),
        (KeyError("secret words of a text"), "failed: KeyError$"),
    ],
)
def test_an_encoder_that_does_not_keep_its_word_is_refused(given: object, fault: str) -> None:
    """At start, when the probe is embedded; what it raises may hold text and is not repeated."""
    with pytest.raises(EncoderError, match=fault):
        Embedder(Wrong(given))


@pytest.mark.parametrize(("name", "dimensions"), [("", 8), ("x", 0), ("x", 10**6)])
def test_an_encoder_needs_a_name_and_a_length(name: str, dimensions: int) -> None:
    """Both tell embeddings of different encoders apart."""
    with pytest.raises(EncoderError, match=r"name|dimensions"):
        Embedder(HashingEncoder(name, dimensions))


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("numpy", "package.module:factory"),
        ("no_such_package:factory", "ModuleNotFoundError"),
        ("tests.classifier.text_encoders:missing", "AttributeError"),
        ("tests.classifier.text_encoders:broken", "no such model"),
        ("tests.classifier.text_encoders:shapeless", "has no name"),
    ],
)
def test_a_factory_that_cannot_be_used_is_told(spec: str, fault: str) -> None:
    """Which factory, and what is wrong with it."""
    with pytest.raises(EncoderError, match=fault):
        load_encoder(spec)


@given(
    samples(),
    st.binary(min_size=TAG_BYTES, max_size=TAG_BYTES),
    st.lists(st.floats(width=16), max_size=COLUMNS),
)
def test_features_keep_their_embedding(sample: Sample, tag: bytes, values: list[float]) -> None:
    """In rows and in packed form; one of numbers that are not finite is refused."""
    held = np.zeros(COLUMNS, "<f2")
    held[: len(values)] = values
    features = extract(sample).encoded(tag + held.tobytes())
    if np.isfinite(held).all():
        assert Features.unpack(features.pack()) == features
        assert Features.from_row(features.to_row()) == features
    else:
        with pytest.raises(ValueError, match="out of range"):
            Features.unpack(features.pack())
        with pytest.raises(ValueError, match="form"):
            Features.from_row(features.to_row())


def test_a_cut_embedding_is_refused(embedder: Embedder) -> None:
    """Nothing but a whole one."""
    features = extract(Sample.bounded(text="hi")).encoded(embedder.embed(["hi"])[0][:-2])
    with pytest.raises(ValueError, match="length"):
        Features.unpack(features.pack())
    assert len(embedder.embed(["hi"])[0]) == EMBEDDING_BYTES


def test_served_score_equals_scikit_learn_with_an_encoder(
    trained_with: TrainedModel, embedder: Embedder, tmp_path: Path
) -> None:
    """With embeddings, without, from text and from stored features, before and after the disk."""
    trained_with.save(tmp_path, TIME)
    loaded = Model.load(tmp_path, embedder)
    assert loaded.manifest.encoder == embedder.entry
    texts = [
        "Prove that the series converges",
        "turn off the lights",
        "Compare both contracts clause by clause",
    ]
    features = [extract(Sample.bounded(text=text)) for text in texts]
    rows = [row.encoded(each) for row, each in zip(features, embedder.embed(texts), strict=True)]
    for row, text, theirs in zip(rows, texts, trained_with.predict_features(rows), strict=True):
        assert loaded.score_features(row).value == pytest.approx(theirs, abs=1e-6)
        assert loaded.score(Sample.bounded(text=text)).value == loaded.score_features(row).value
        judged, measures = loaded.judge(Sample.bounded(text=text), row.embedding)
        assert judged.value == loaded.score_features(Features.unpack(measures.pack())).value
    for row, theirs in zip(features, trained_with.predict_features(features), strict=True):
        assert loaded.score_features(row).value == pytest.approx(theirs, abs=1e-6)
    assert any(
        loaded.score_features(a).value != loaded.score_features(b).value
        for a, b in zip(rows, features, strict=True)
    )


def test_an_explanation_names_the_encoder_and_adds_up(trained_with: TrainedModel, embedder: Embedder) -> None:
    """Its part stands beside words and columns."""
    model = Model(trained_with.to_model(TIME).artifact, embedder)
    sample = Sample.bounded(text="Compare both contracts clause by clause")
    said = {each.name: each.contribution for each in model.explain(sample, top_count=500)}
    assert said[ENCODER_NAME] != 0.0
    assert sum(said.values()) + model.manifest.bias == pytest.approx(model.score(sample).raw)


def test_a_model_fitted_with_an_encoder_serves_only_beside_it(
    trained_with: TrainedModel, embedder: Embedder, tmp_path: Path
) -> None:
    """Missing, another, of the same name with other vectors: each is told; stored features still score."""
    trained_with.save(tmp_path, TIME)
    alone = Model.load(tmp_path)
    with pytest.raises(
        EncoderError, match=r"hashing \(128 dimensions\); name its factory in classifier.encoder"
    ):
        alone.score(Sample.bounded(text="hello"))
    entry = load(tmp_path).manifest.encoder
    with pytest.raises(EncoderError, match="not with other"):
        require(entry, Embedder(HashingEncoder("other")), "d")
    with pytest.raises(EncoderError, match="gives other vectors"):
        Model.load(tmp_path, Embedder(HashingEncoder(salt=1)))
    row = extract(Sample.bounded(text="hello"))
    assert alone.score_features(row) == Model.load(tmp_path, embedder).score_features(row)


def test_embeddings_of_another_encoder_count_for_nothing(
    trained_with: TrainedModel, small_dataset: Dataset
) -> None:
    """Neither in a score nor in a fit."""
    model, other = trained_with.to_model(TIME), Embedder(HashingEncoder("other"))
    plain = extract(Sample.bounded(text="hello there"))
    assert model.score_features(plain.encoded(other.embed(["hello there"])[0])) == model.score_features(plain)
    foreign = fit(encoded(small_dataset, other), TrainingSettings(folds=3), DEFAULT_SEED)
    assert foreign.to_model(TIME).manifest.encoder is None
    assert not foreign.to_model(TIME).artifact.arrays["encoder_weights"].any()


def test_rows_keep_what_they_say_when_they_are_encoded(small_dataset: Dataset, embedder: Embedder) -> None:
    """Text goes, label and group stay; stored features stay as they are."""
    rows = encoded(small_dataset, embedder).rows
    for before, after in zip(small_dataset.rows, rows, strict=True):
        assert isinstance(before, LabelledSample)
        assert isinstance(after, LabelledFeatures)
        assert (after.id, after.label, after.group, after.kind) == (
            before.id,
            before.label,
            before.group,
            before.kind,
        )
        assert after.features.encoded(b"") == before.extracted()
        assert bool(after.features.embedding) is bool(before.sample.text)
    assert encoded(Dataset(rows), embedder).rows == rows
    assert encoded(small_dataset, None) is small_dataset


def test_the_loop_is_closed_without_text_and_encoder(trained_with: TrainedModel, embedder: Embedder) -> None:
    """A ledger's embeddings retrain a model that was fitted with the encoder: the candidate keeps it and weighs it."""
    champion = trained_with.to_model(TIME)
    log = collect(served(champion, 900, embedder=embedder))
    settings = RetrainingSettings(grid=(BASE,), least_outcomes=40)
    candidate = retrain(log, champion, None, settings, TIME).candidate
    assert candidate.manifest.encoder == embedder.entry
    weights = candidate.artifact.arrays["encoder_weights"]
    assert weights.any()
    assert not np.array_equal(weights, champion.artifact.arrays["encoder_weights"])


def test_labels_of_text_beside_the_log_need_the_encoder(
    trained_with: TrainedModel, embedder: Embedder, small_dataset: Dataset
) -> None:
    """Half the rows with embeddings and half without would teach that one half is empty."""
    champion = trained_with.to_model(TIME)
    log = collect(served(champion, 900, embedder=embedder))
    settings = RetrainingSettings(grid=(BASE,), least_outcomes=40)
    with pytest.raises(EncoderError, match="name its factory"):
        retrain(log, champion, small_dataset, settings, TIME)
    assert retrain(log, champion, small_dataset, settings, TIME, embedder=embedder).candidate.manifest.encoder
