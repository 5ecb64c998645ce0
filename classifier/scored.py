"""Logged requests with what two models say of them: where each would have sent them, and in which parts they fall.

The rule: a score meets the cut that held for that very request. Where that cut was the champion's own suggestion, the
candidate's takes its place; where a value, a budget or a caller's floor set it, it holds for both; where the score did
not decide, both do what was done. It does not know what came of the requests: nothing here looks at outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from classifier.array_file import Array
from classifier.features import STRUCTURE_NAMES, Features
from classifier.logged import LoggedRequest
from classifier.model import Model
from classifier.offpolicy import Bools, Ints

LEAST_SLICE_ROWS: Final = 60
MOST_SLICES: Final = 12
"""Of one dimension, the largest; what is smaller cannot be judged."""

_LENGTH: Final = STRUCTURE_NAMES.index("text_characters_log")


@dataclass(frozen=True, slots=True)
class Scored:
    """Requests with what both models say of them; arrays of shape (n,).

    Attributes:
        candidate, champion: Scores.
        thresholds: What (candidate, champion) suggest.
    """

    rows: Sequence[LoggedRequest]
    features: Sequence[Features]
    candidate: Array
    champion: Array
    thresholds: tuple[float, float]

    def part(self, rows: Bools) -> Scored:
        """Only some requests."""
        kept = np.nonzero(rows)[0].tolist()
        return Scored(
            [self.rows[row] for row in kept],
            [self.features[row] for row in kept],
            self.candidate[rows],
            self.champion[rows],
            self.thresholds,
        )

    @property
    def cuts(self) -> Array:
        """The cut that held for each request; not a number where the score did not decide."""
        return np.asarray([np.nan if row.threshold is None else row.threshold for row in self.rows])

    @property
    def suggested(self) -> Bools:
        """Whether the cut was the champion's own suggestion, so that the candidate's would take its place."""
        fixed = np.asarray([row.answer_value_nano_usd is None for row in self.rows], dtype=np.bool_)
        return fixed & (np.abs(self.cuts - self.thresholds[1]) < 1e-9)

    @property
    def one(self) -> Bools:
        """Whether the candidate would have sent each request to Opus."""
        return self._sent(self.candidate, np.where(self.suggested, self.thresholds[0], self.cuts))

    @property
    def other(self) -> Bools:
        """Whether the champion would have."""
        return self._sent(self.champion, self.cuts)

    def _sent(self, scores: Array, cuts: Array) -> Bools:
        stayed = np.asarray([row.opus for row in self.rows], dtype=np.bool_)
        return np.where(np.isnan(cuts), stayed, scores >= cuts)


def scored(rows: Sequence[LoggedRequest], candidate: Model, champion: Model) -> Scored:
    """Score each request by both models; rows must have features."""
    features = [Features.unpack(row.features) for row in rows]
    return Scored(
        rows,
        features,
        np.asarray([candidate.score_features(each).value for each in features]),
        np.asarray([champion.score_features(each).value for each in features]),
        (candidate.manifest.threshold, champion.manifest.threshold),
    )


def equal_cost_threshold(rows: Sequence[LoggedRequest], candidate: Model, champion: Model) -> float:
    """The cut at which the candidate is expected to spend on Opus what the champion did at its own suggestion.

    It is found from scores and expected costs alone, never from outcomes, so it may be found on the rows that judge.
    Where no row was cut at the champion's suggestion it is the candidate's own threshold.
    """
    every = scored(rows, candidate, champion)
    extra = np.asarray(
        [
            0.0
            if row.opus_nano_usd is None or row.flash_nano_usd is None
            else row.opus_nano_usd - row.flash_nano_usd
            for row in rows
        ]
    )[every.suggested]
    if not extra.sum() > 0.0:
        return candidate.manifest.threshold
    spent = extra[every.other[every.suggested]].sum()
    scores = every.candidate[every.suggested]
    order = np.argsort(-scores, kind="stable")
    sent = int(np.searchsorted(np.cumsum(extra[order]), spent, side="right"))
    bounds = np.concatenate([[1.0], scores[order], [0.0]])
    return float(np.clip((bounds[sent] + bounds[sent + 1]) / 2.0, 0.01, 0.99))


def parts_of(rows: Sequence[LoggedRequest]) -> list[tuple[str, str, Bools]]:
    """(dimension, name, rows) of every part large enough, the largest of each dimension first."""
    found: list[tuple[str, str, Bools]] = []
    for dimension in ("application", "kind"):
        names = np.asarray([getattr(row, dimension) for row in rows])
        values, counts = np.unique(names, return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:MOST_SLICES]
        found += [
            (dimension, str(values[place]), names == values[place])
            for place in largest
            if counts[place] >= LEAST_SLICE_ROWS and values[place]
        ]
    return found


def log_length(features: Features) -> float:
    """Log length of the text."""
    return features.structure[_LENGTH]


def session_numbers(rows: Sequence[LoggedRequest]) -> Ints:
    """One number from 0 on per session, ndarray of shape (n,)."""
    return np.unique(np.asarray([row.session for row in rows]), return_inverse=True)[1].astype(np.int64)
