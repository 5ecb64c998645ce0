"""An optional text encoder (a sentence-embedding model of the operator's) behind one small protocol.

Rule: an encoder turns a turn's text into one vector; what is kept of it is `COLUMNS` numbers, a fixed random projection
of the vector scaled to length 1, in half precision, after a tag that names the encoder. The model weighs these numbers
linearly, like any other columns. They are made the same way in training and in serving, they are what a ledger keeps,
and they score exactly as their request did; so retraining needs neither the text nor the encoder. A request that was
not encoded (the encoder was late, or nobody had one then) has no embedding, which adds nothing to its score.

A model fitted with an encoder names it, its dimensions and the embedding of one probe text; it serves only beside an
encoder that gives the same (`require`). None is on by default and none is a dependency: the operator's factory is named
as `package.module:factory`. It does not know models' weights, and no artifact can name code: only the operator does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

COLUMNS: Final = 64
"""Numbers kept of an embedding: inner products of unit vectors survive such a projection to about .1."""

TAG_BYTES: Final = 8
EMBEDDING_BYTES: Final = TAG_BYTES + 2 * COLUMNS
"""A tag and `COLUMNS` half-precision numbers, little endian."""

MAX_DIMENSIONS: Final = 16_384
BATCH: Final = 64
"""Texts given to an encoder at once in training."""

PROBE: Final = "Which of the two plans costs less over five years, and why?"
LEAST_LIKENESS: Final = 0.999
"""Least cosine between a model's probe and an encoder's: another version of an encoder is another encoder, another
processor's rounding is not."""


class TextEncoder(Protocol):
    """What an operator's factory returns; called from one thread at a time."""

    @property
    def name(self) -> str:
        """Of the encoder and its version, e.g. "all-MiniLM-L6-v2"; two encoders never share one."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors, in [1, `MAX_DIMENSIONS`]."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One finite vector per text, float32 of shape (len(texts), dimensions); the same text, the same vector."""


class EncoderError(Exception):
    """An encoder cannot be used, or is not the one a model was fitted with; the message names which and why."""


class EncoderEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model's manifest says of its encoder.

    Attributes:
        name, dimensions: As the encoder tells them.
        digest: Of both and of the projection, hex; the tag of its embeddings.
        probe: Embedding of `PROBE`, `COLUMNS` numbers.
    """

    name: str
    dimensions: int
    digest: str
    probe: list[float]


class Embedder:
    """An encoder with its projection: text -> embedding as it is kept."""

    def __init__(self, encoder: TextEncoder) -> None:
        """Check the encoder and embed the probe.

        Raises:
            EncoderError: It has no usable name or dimensions, or does not give what it says.
        """
        name, dimensions = encoder.name, encoder.dimensions
        if not isinstance(name, str) or not 0 < len(name) <= 256:
            raise EncoderError("a text encoder needs a name of 1 to 256 characters")
        if not isinstance(dimensions, int) or not 0 < dimensions <= MAX_DIMENSIONS:
            raise EncoderError(
                f"text encoder {name}: dimensions must be within [1, {MAX_DIMENSIONS}], got {dimensions!r:.40}"
            )
        digest = hashlib.sha256(f"{name}\x00{dimensions}\x00{COLUMNS}\x001".encode()).digest()[:TAG_BYTES]
        self._encoder, self._tag = encoder, digest
        self._projection = _projection(digest, dimensions)
        self.name, self.dimensions = name, dimensions
        self.entry = EncoderEntry(
            name=name,
            dimensions=dimensions,
            digest=digest.hex(),
            probe=numbers(self.embed([PROBE])[0]).tolist(),
        )

    def embed(self, texts: Sequence[str]) -> list[bytes]:
        """Embeddings as they are kept, `EMBEDDING_BYTES` each; of an empty text b"".

        Raises:
            EncoderError: The encoder failed or gave something else than it says.
        """
        asked = [text for text in texts if text]
        found: list[bytes] = []
        for start in range(0, len(asked), BATCH):
            found += self._batch(asked[start : start + BATCH])
        each = iter(found)
        return [next(each) if text else b"" for text in texts]

    def _batch(self, texts: list[str]) -> list[bytes]:
        try:
            vectors = np.asarray(self._encoder.encode(texts))
        except Exception as error:  # whatever the operator's code raises; its message may hold text
            raise EncoderError(f"text encoder {self.name} failed: {type(error).__name__}") from error
        if vectors.shape != (len(texts), self.dimensions) or vectors.dtype.kind != "f":
            raise EncoderError(
                f"text encoder {self.name} gave {vectors.dtype} of shape {vectors.shape} for {len(texts)} texts, not "
                f"float32 of shape ({len(texts)}, {self.dimensions})"
            )
        wide = vectors.astype(np.float64)
        if not np.isfinite(wide).all():
            raise EncoderError(f"text encoder {self.name} gave numbers that are not finite")
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        kept = (wide / np.where(lengths > 0.0, lengths, 1.0)) @ self._projection
        return [self._tag + row.tobytes() for row in kept.astype("<f2")]


def numbers(embedding: bytes) -> npt.NDArray[np.float64]:
    """The numbers of an embedding, shape (`COLUMNS`,); zeros for none."""
    if not embedding:
        return np.zeros(COLUMNS)
    return np.frombuffer(embedding, "<f2", COLUMNS, TAG_BYTES).astype(np.float64)


def tag(embedding: bytes) -> str:
    """Digest of the encoder an embedding is from, "" for none."""
    return embedding[:TAG_BYTES].hex()


def is_embedding(raw: bytes) -> bool:
    """Whether these bytes have the form of an embedding of finite numbers."""
    return len(raw) == EMBEDDING_BYTES and bool(np.isfinite(numbers(raw)).all())


def load_encoder(spec: str) -> Embedder:
    """Call the factory `spec` names and check what it returns.

    Args:
        spec: "package.module:factory"; the factory takes no arguments.

    Raises:
        EncoderError: There is no such factory, or it gave no usable encoder.
    """
    module, _, factory = spec.partition(":")
    if not module or not factory:
        raise EncoderError(f"a text encoder is named as package.module:factory, got {spec!r:.80}")
    try:
        made = getattr(import_module(module), factory)()
    except Exception as error:
        raise EncoderError(f"text encoder {spec} cannot be made: {type(error).__name__}: {error}") from error
    for attribute in ("name", "dimensions", "encode"):
        if not hasattr(made, attribute):
            raise EncoderError(f"text encoder {spec} has no {attribute}")
    return Embedder(made)


def require(entry: EncoderEntry | None, embedder: Embedder | None, digest: str) -> None:
    """Refuse a model that would score without the encoder it was fitted with.

    Args:
        entry: Of the model's manifest.
        digest: Of the model, for the message.

    Raises:
        EncoderError: The encoder is missing, is another, or does not give what it gave when the model was fitted.
    """
    if entry is None:
        return
    named = f"classifier {digest} was fitted with text encoder {entry.name} ({entry.dimensions} dimensions)"
    if embedder is None:
        raise EncoderError(f"{named}; name its factory in classifier.encoder (or --encoder)")
    mine = embedder.entry
    if mine.digest != entry.digest:
        raise EncoderError(f"{named}, not with {mine.name} ({mine.dimensions} dimensions)")
    own, theirs = np.asarray(mine.probe), np.asarray(entry.probe)
    scale = float(np.linalg.norm(own) * np.linalg.norm(theirs))
    if own.shape != theirs.shape or not scale or float(own @ theirs) / scale < LEAST_LIKENESS:
        raise EncoderError(f"{named}; the one here has its name and gives other vectors")


def _projection(seed: bytes, dimensions: int) -> npt.NDArray[np.float64]:
    """Matrix of shape (dimensions, COLUMNS): orthonormal columns, or the vector itself with zeros where it is short."""
    if dimensions <= COLUMNS:
        return np.eye(dimensions, COLUMNS)
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
    columns, _ = np.linalg.qr(generator.standard_normal((dimensions, COLUMNS)))
    # A random subspace keeps COLUMNS / dimensions of a squared length: scale it back.
    return np.asarray(columns * np.sqrt(dimensions / COLUMNS))
