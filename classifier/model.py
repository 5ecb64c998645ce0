"""One sample in, one calibrated score out, in tens of microseconds and without scikit-learn.

Rule: the served score is the trained pipeline's own arithmetic with everything constant folded in at load: a
bias, one weight per structure column, one per name bucket, two per word bucket (weight x idf, and idf squared
for the length of the row), all of them by the layout of the task, small trees walked all at once where there are any,
and the two numbers of the sigmoid. It equals
the pipeline's `predict_proba` to 1e-6; a property test over arbitrary text holds it.

It does not know thresholds, costs or routes: that is `policy`. Loading reads arrays and JSON only
(`artifact`). A `Model` is immutable and safe to share between threads; to swap models, swap the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, sqrt
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from classifier import artifact as artifacts
from classifier.array_file import Array, ArtifactError
from classifier.artifact import FEW_OPTIONS, LAYOUTS, TREE_LEAVES, TREE_NODES, TREES, Artifact, Manifest
from classifier.encoder import Embedder, numbers, require
from classifier.features import (
    STRUCTURE_NAMES,
    Buckets,
    Features,
    Measures,
    extract,
    measure,
    name_buckets,
    name_surfaces,
    ngram_surfaces,
    top,
)
from classifier.route import Score
from classifier.sample import Sample

DEFAULT_DIRECTORY: Final = Path(__file__).parent / "data" / "default"
"""The artifact shipped with the package; its MODEL_CARD.md says what it was trained from."""

TREES_NAME: Final = "task_layout"
"""Name of the trees' part in an explanation: what the layout of the task says of its difficulty."""

ENCODER_NAME: Final = "text_encoder"
"""Name of the embedding's part in an explanation."""

LAYOUT_NAME: Final = "answer_options"
"""Name of what the layout of the task alone says: that it is answered by one of few options, or of many."""

_OPTIONS: Final = STRUCTURE_NAMES.index("options")

_TREE_STARTS: Final = np.arange(TREES, dtype=np.int64) * TREE_LEAVES
_TREE_BITS: Final = TREE_NODES + 1
"""A tree's nodes fill a byte but one bit; that one stands for a node nothing passes."""


def _leaf(decisions: int) -> int:
    """The leaf of a tree of depth 3 whose nodes, breadth first, go right where their bit of `decisions` is set."""
    node = 0
    while node < TREE_NODES:
        node = 2 * node + 1 + (decisions >> node & 1)
    return node - TREE_NODES


_LEAVES: Final = np.array([_leaf(decisions) for decisions in range(1 << _TREE_BITS)])

__all__ = ["DEFAULT_DIRECTORY", "ArtifactError", "Contribution", "Model", "Score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one feature added to a sample's raw score.

    Attributes:
        name: Structure column, `ngram#<bucket>` or `name#<bucket>`.
        value: The feature's value: structure less its training mean, or the word's share of its row.
        contribution: Value x weight, in units of the raw score; positive speaks for Opus.
        own_text: The words of the request itself that fall into the bucket. Derived from the caller's text:
            show it to the caller, never store or log it. Empty for structure.
    """

    name: str
    value: float
    contribution: float
    own_text: tuple[str, ...] = ()


class Model:
    """A loaded artifact, ready to score."""

    __slots__ = (
        "_embedder",
        "_encoder_tag",
        "_encoder_weights",
        "_intercept",
        "_name_weights",
        "_ngrams",
        "_slope",
        "_start",
        "_structure_rows",
        "_structure_weights",
        "_tree_columns",
        "_tree_leaves",
        "_tree_thresholds",
        "artifact",
        "digest",
    )

    def __init__(self, artifact: Artifact, embedder: Embedder | None = None) -> None:
        """Fold a checked artifact (from `artifact.load` or `training.to_artifact`) into lookup lists.

        Args:
            embedder: The text encoder, for models fitted with one. Without it they score features that hold their
                embeddings, and no samples.

        Raises:
            EncoderError: It is not the one the model was fitted with.
        """
        arrays, manifest = artifact.arrays, artifact.manifest
        self.artifact = artifact
        self.digest = artifact.digest
        idf = arrays["ngram_idf"]
        # One gather for both sums: real part weight x idf, imaginary part idf squared.
        self._ngrams: list[npt.NDArray[np.complex128]] = [
            weights * idf + 1j * (idf * idf) for weights in _tables(arrays["ngram_weights"])
        ]
        self._name_weights: list[list[float]] = _tables(arrays["name_weights"]).tolist()
        structure = _tables(arrays["structure_weights"])
        self._structure_rows: list[Array] = list(structure)
        self._structure_weights: list[list[float]] = structure.tolist()
        self._start: list[float] = (
            manifest.bias + arrays["layout_biases"] - structure @ arrays["structure_means"]
        ).tolist()
        self._tree_columns, self._tree_thresholds, self._tree_leaves = _tree_arrays(arrays)
        self._slope, self._intercept = manifest.calibration_slope, manifest.calibration_intercept
        entry = manifest.encoder
        self._encoder_weights: Array | None = None if entry is None else _tables(arrays["encoder_weights"])
        self._encoder_tag = b"" if entry is None else bytes.fromhex(entry.digest)
        self._embedder = None if entry is None else embedder
        if self._embedder is not None:
            require(entry, self._embedder, self.digest)

    @classmethod
    def load(cls, directory: Path | str, embedder: Embedder | None = None) -> Model:
        """Load the artifact in `directory`.

        Args:
            embedder: As for the constructor.

        Raises:
            ArtifactError: It is missing, damaged, foreign or of another version.
            EncoderError: As the constructor.
        """
        return cls(artifacts.load(Path(directory)), embedder)

    @classmethod
    def default(cls) -> Model:
        """Load the artifact shipped with the package."""
        return cls.load(DEFAULT_DIRECTORY)

    @property
    def manifest(self) -> Manifest:
        """What the model was made from and how good it was."""
        return self.artifact.manifest

    def judge(self, sample: Sample, embedding: bytes = b"") -> tuple[Score, Measures]:
        """The score, and what it was computed from, for a ledger that keeps it: nothing is measured twice.

        Args:
            embedding: Of the sample's text, where there is a text encoder; b"" adds nothing to the score.
        """
        measures = Measures(*measure(sample), name_buckets(sample), embedding)
        return self._score(*measures), measures

    def score(self, sample: Sample) -> Score:
        """Score one sample: its measures, three dot products, one sigmoid.

        Raises:
            EncoderError: The model was fitted with a text encoder and has none here, or it failed.
        """
        return self._score(*measure(sample), name_buckets(sample), self._embedded(sample))

    def _embedded(self, sample: Sample) -> bytes:
        if self._encoder_weights is None:
            return b""
        if self._embedder is None:
            require(self.manifest.encoder, None, self.digest)
        assert self._embedder is not None, "`require` refuses a missing one"
        return self._embedder.embed([sample.text])[0]

    def score_measures(self, measures: Measures) -> Score:
        """Score what another model's `judge` measured: features are the same for all models of this release."""
        return self._score(*measures)

    def score_features(self, features: Features) -> Score:
        """Score features computed before, by `extract` or read back from a ledger."""
        buckets = np.fromiter(features.ngrams, np.uint16, len(features.ngrams))
        buckets.sort()
        return self._score(buckets, features.structure, features.names, features.embedding)

    def _score(
        self, buckets: Buckets, structure: tuple[float, ...], names: tuple[int, ...], embedding: bytes = b""
    ) -> Score:
        """The score from distinct buckets in ascending order: the order of a sum shows in its last digits."""
        layout = _layout(structure)
        row = np.array(structure)
        raw = self._start[layout] + float(self._structure_rows[layout].dot(row))
        if len(buckets):
            summed = self._ngram_sum(buckets, layout)
            raw += summed.real / sqrt(summed.imag)
        for bucket in names:
            raw += self._name_weights[layout][bucket]
        if self._tree_leaves is not None:
            raw += self._tree_sum(row)
        if embedding and self._encoder_weights is not None:
            raw += self._encoder_sum(embedding, layout)
        return Score(value=_sigmoid(self._slope * raw + self._intercept), raw=raw, model_digest=self.digest)

    def _tree_sum(self, row: Array) -> float:
        """What all trees say: every node is decided at once, a tree's decisions are the bits of a byte, and that names
        its leaf; 7 us.
        """
        assert self._tree_leaves is not None
        right = row.take(self._tree_columns) > self._tree_thresholds  # (trees, bits)
        leaf = _LEAVES.take(np.packbits(right, bitorder="little")) + _TREE_STARTS
        return float(np.add.reduce(self._tree_leaves.take(leaf)))

    def _encoder_sum(self, embedding: bytes, layout: int) -> float:
        """What the embedding adds; another encoder's says nothing here."""
        assert self._encoder_weights is not None
        if not embedding.startswith(self._encoder_tag):
            return 0.0
        return float(numbers(embedding) @ self._encoder_weights[layout])

    def _ngram_sum(self, buckets: Buckets, layout: int) -> complex:
        """Sum of (weight x idf) + i idf^2 over distinct buckets."""
        return complex(np.add.reduce(self._ngrams[layout].take(buckets)))

    def explain(
        self, sample: Sample, top_count: int = 10, embedding: bytes | None = None
    ) -> tuple[Contribution, ...]:
        """The features that moved this sample's raw score most, largest magnitude first.

        All contributions together are the raw score less the manifest's bias, which is the score of a sample
        with average structure and no words.

        Args:
            sample: The caller's own request.
            top_count: Most contributions to return, >= 1.
            embedding: As it was scored with; None asks the encoder, if the model has one.

        Raises:
            EncoderError: As `score`, without an embedding.
        """
        features = extract(sample)
        kept = self._embedded(sample) if embedding is None else embedding
        arrays = self.artifact.arrays
        means = arrays["structure_means"]
        layout = _layout(features.structure)
        ngrams, structure_weights = self._ngrams[layout], self._structure_weights[layout]
        values: dict[str, tuple[float, float]] = {}
        if layout:
            values[LAYOUT_NAME] = (features.structure[_OPTIONS], float(arrays["layout_biases"][layout]))
        for index, name in enumerate(STRUCTURE_NAMES):
            value = features.structure[index] - float(means[index])
            values[name] = (value, value * structure_weights[index])
        own_text: dict[str, tuple[str, ...]] = {}
        if features.ngrams:
            length = sqrt(sum(ngrams.item(bucket).imag for bucket in features.ngrams))
            surfaces = ngram_surfaces(sample.text)
            for bucket in features.ngrams:
                name = f"ngram#{bucket}"
                values[name] = (
                    float(arrays["ngram_idf"][bucket]) / length,
                    ngrams.item(bucket).real / length,
                )
                own_text[name] = tuple(surfaces.get(bucket, ()))
        if self._tree_leaves is not None:
            says = self._tree_sum(np.array(features.structure))
            values[TREES_NAME] = (says, says)
        if kept and self._encoder_weights is not None:
            says = self._encoder_sum(kept, layout)
            values[ENCODER_NAME] = (says, says)
        for bucket, names in name_surfaces(sample).items():
            values[f"name#{bucket}"] = (1.0, self._name_weights[layout][bucket])
            own_text[f"name#{bucket}"] = tuple(names)
        order = {index: contribution for index, (_, contribution) in enumerate(values.values())}
        keys = list(values)
        return tuple(
            Contribution(
                name=keys[index],
                value=values[keys[index]][0],
                contribution=contribution,
                own_text=own_text.get(keys[index], ()),
            )
            for index, contribution in top(order, top_count)
        )


def _tree_arrays(
    arrays: Mapping[str, Array],
) -> tuple[npt.NDArray[np.intp], Array, Array | None]:
    """Columns and thresholds by node, shape (trees, bits), and the leaves; None for leaves that are all 0."""
    columns = np.zeros((TREES, _TREE_BITS), np.intp)
    thresholds = np.full((TREES, _TREE_BITS), np.inf)
    columns[:, :TREE_NODES] = arrays["tree_columns"].reshape(TREES, TREE_NODES)
    thresholds[:, :TREE_NODES] = arrays["tree_thresholds"].reshape(TREES, TREE_NODES)
    leaves = arrays["tree_leaves"]
    return columns, thresholds, leaves if leaves.any() else None


def _tables(array: Array) -> Array:
    """One row of weights for each layout of a task."""
    return array.reshape(LAYOUTS, -1)


def _layout(structure: tuple[float, ...]) -> int:
    """How the task is answered: freely (0), by one of few options (1), by one of many (2)."""
    options = structure[_OPTIONS]
    return 0 if options <= 0.0 else 1 if options <= FEW_OPTIONS else 2


def _sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)) without overflow."""
    if logit >= 0.0:
        return 1.0 / (1.0 + exp(-logit))
    grown = exp(logit)
    return grown / (1.0 + grown)
