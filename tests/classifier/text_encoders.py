"""A small deterministic text encoder: every word's vector is drawn from its checksum, a text's is their sum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

from classifier.words import words

Vectors = npt.NDArray[np.float32]


@lru_cache(maxsize=65_536)
def _vector(word: str, dimensions: int, salt: int) -> Vectors:
    return np.random.default_rng((crc32(word.encode("utf-8", "replace")), salt)).standard_normal(
        dimensions, dtype=np.float32
    )


class HashingEncoder:
    """Words as random vectors; texts that share words are alike."""

    def __init__(self, name: str = "hashing", dimensions: int = 128, salt: int = 0) -> None:
        self.name, self.dimensions, self._salt = name, dimensions, salt
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One vector per text; notes what it was asked."""
        self.texts += texts
        zero = np.zeros(self.dimensions, np.float32)
        return np.stack(
            [
                sum((_vector(word, self.dimensions, self._salt) for word in words(text)), zero)
                for text in texts
            ]
        )


def factory() -> HashingEncoder:
    """As an operator names it: `tests.classifier.text_encoders:factory`."""
    return HashingEncoder()


def broken() -> HashingEncoder:
    """A factory that fails."""
    raise RuntimeError("no such model")


def shapeless() -> object:
    """A factory of something else."""
    return object()
