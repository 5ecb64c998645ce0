"""Foresight served: a session's history in, hazards of its next request and the chance that it goes to Opus out.

The rule: linear in the columns that are on (`columns`), one set of weights for each group of windows, and a sigmoid:

    P(the next request comes in window j | none before)   sigmoid(base_j + sum of weights of group(j))
    P(it goes to Opus | it comes in window j)             sigmoid(route base of group(j) + sum of route weights)

One that was fitted on a single route knows nothing of the second line: it then gives the share of the session's own
turns (`history.opus_share`).

Pure: equal histories give equal forecasts, to the bit. It does not know the clock, prefixes or prices.
"""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from classifier.foresight import artifact as artifacts
from classifier.foresight.artifact import Artifact
from classifier.foresight.columns import COLUMNS, active
from classifier.foresight.history import History, opus_share
from classifier.foresight.windows import COUNT, GROUP_COUNT, GROUPS, chance_within, keep_alive_hazards

MOST: Final = 700.0
"""Log odds past which a chance is 0 or 1 to a float, and its exponential none."""


class Forecast(NamedTuple):
    """What is foreseen of one session, from the start of its last turn on.

    Attributes:
        hazards: Chance of a request in each window, given none before it.
        shares: Chance that a request that comes in the window goes to Opus.
    """

    hazards: tuple[float, ...]
    shares: tuple[float, ...]

    def opus_within(self, span_s: float, idle_s: float = 0.0) -> float:
        """Chance that the next request comes within `span_s` and goes to Opus, given none for `idle_s`, seconds."""
        return chance_within(self.hazards, self.shares, span_s, idle_s)

    def within(self, span_s: float, idle_s: float = 0.0) -> float:
        """The same on whatever route."""
        return chance_within(self.hazards, _CERTAIN, span_s, idle_s)

    def keep_alive_hazards(self, ahead_s: float = 0.0) -> tuple[float, ...]:
        """Hazards of a return on Opus as `cache.returns` counts them; see `windows.keep_alive_hazards`."""
        return keep_alive_hazards(self.hazards, self.shares, ahead_s)


_CERTAIN: Final = (1.0,) * COUNT


class Foresight:
    """A fitted foresight."""

    def __init__(self, artifact: Artifact) -> None:
        """Take a proved artifact."""
        self.artifact = artifact
        arrays = artifact.arrays
        # One row per column, one number per group: a forecast adds up a few rows.
        self._weights = np.ascontiguousarray(
            np.vstack(
                [
                    arrays["window_weights"].reshape(GROUP_COUNT, len(COLUMNS)),
                    arrays["route_weights"].reshape(1, len(COLUMNS)),
                ]
            ).T
        )
        self._bases = list(zip(arrays["window_bases"].tolist(), GROUPS, strict=True))
        self._route_bases = arrays["route_bases"].tolist()

    @classmethod
    def load(cls, directory: Path | str) -> Foresight:
        """Read and prove an artifact.

        Raises:
            ArtifactError: It is missing, damaged, foreign or of another version.
        """
        return cls(artifacts.load(Path(directory)))

    @property
    def digest(self) -> str:
        """Name of the model, from its manifest."""
        return self.artifact.digest

    def forecast(self, history: History) -> Forecast:
        """What comes after the last turn of `history`."""
        sums = self._weights[active(history)].sum(axis=0).tolist()
        hazards = _sigmoids([base + sums[group] for base, group in self._bases])
        if not self.artifact.manifest.routes_known:
            return Forecast(hazards, (opus_share(history),) * COUNT)
        route = sums[GROUP_COUNT]
        by_group = _sigmoids([base + route for base in self._route_bases])
        return Forecast(hazards, tuple([by_group[group] for group in GROUPS]))


def _sigmoids(values: list[float]) -> tuple[float, ...]:
    return tuple(
        [
            1.0 / (1.0 + exp(-value)) if -MOST < value < MOST else 1.0 if value > 0.0 else 0.0
            for value in values
        ]
    )
