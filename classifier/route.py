"""The two routes and the score between them: the words every other module of the package speaks.

Rule: a route is one of two upstream families, never a model id; a score is a calibrated probability or
absent. This module does not know which models stand behind a route, what they cost, or how a score was
computed.
"""

from __future__ import annotations

from enum import StrEnum
from math import isfinite

import msgspec


class Route(StrEnum):
    """Where a request goes; the values are wire-stable."""

    FLASH = "flash"
    OPUS = "opus"

    @property
    def other(self) -> Route:
        """The route that is not this one."""
        return Route.OPUS if self is Route.FLASH else Route.FLASH


class Score(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a model says of one sample.

    Attributes:
        value: Calibrated probability in [0, 1] that Opus is needed (Flash would not do and Opus would).
        raw: The linear model's decision value before calibration; finite, unbounded.
        model_digest: Digest of the artifact that scored, as in `Model.digest`.
    """

    value: float
    raw: float
    model_digest: str

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"score value must be within [0, 1], got {self.value!r}")
        if not isfinite(self.raw):
            raise ValueError(f"raw score must be finite, got {self.raw!r}")
