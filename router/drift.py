"""What today's traffic looks like to the classifier, against what it looked like when the classifier was young.

The rule: of every request that was scored a few figures are put into bins: the score, whether Opus was taken, and the
structure that tells kind and length. The last `window` requests are compared with a reference by `classifier.drift`.
The reference is the one that came with the model; where none did, it is the first `REFERENCE_REQUESTS` after the
model was loaded: drift is then seen from there on, and what was different from training on the first day is not.

Only bin numbers are kept. It does not know what to do about drift: it shows it.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from classifier.drift import (
    ACT_PSI,
    ALARM_PSI,
    FIGURES,
    Reference,
    alarm_psi,
    figures_of,
    psi,
    references_of,
)

REFERENCE_REQUESTS = 2_000
"""Requests that make a reference: ten bins then differ from another 2,000 by about .009 by chance."""
MINIMUM_REQUESTS = 200
"""Fewest to compare: below, the alarm of ten bins would stand above the level at which to act."""


class Level(IntEnum):
    """What a figure's drift calls for."""

    NONE = 0
    LOOK = 1
    ACT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFigure:
    """How far one figure has moved.

    Attributes:
        psi: Population stability index, None while there are too few requests or no reference.
        alarm_psi: At or above it chance does not explain the difference.
        request_count: Requests compared.
    """

    name: str
    psi: float | None
    alarm_psi: float
    request_count: int

    @property
    def level(self) -> Level:
        """What the drift calls for."""
        if self.psi is None or self.psi < self.alarm_psi:
            return Level.NONE
        return Level.ACT if self.psi >= ACT_PSI else Level.LOOK


class DriftWatch:
    """Bins of the last requests beside the reference; written on the event loop, read from anywhere.

    Args:
        window: Requests compared with the reference, the last ones.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._gathered: list[tuple[float, ...]] = []
        self._references: tuple[Reference, ...] = ()
        self._edges: tuple[tuple[float, ...], ...] = ()
        self._recent: deque[tuple[int, ...]] = deque()
        self._counts: tuple[list[int], ...] = ()

    def begin(self, references: Mapping[str, Reference] | None = None) -> None:
        """Start anew, for another model.

        Args:
            references: What came with the model, every one of `FIGURES`; None: gather one.
        """
        self._gathered, self._references = [], ()
        self._recent.clear()
        if references is not None:
            self._compare_with(tuple(references[name] for name in FIGURES))

    def observe(self, score: float, opus: bool, structure: Sequence[float]) -> None:
        """Note one scored request.

        Args:
            structure: One number per `STRUCTURE_NAMES`.
        """
        values = figures_of(score, opus, structure)
        if not self._references:
            self._gathered.append(values)
            if len(self._gathered) >= REFERENCE_REQUESTS:
                self._compare_with(tuple(references_of(self._gathered).values()))
                self._gathered = []
            return
        bins = tuple(map(bisect_right, self._edges, values))
        for counts, index in zip(self._counts, bins):  # noqa: B905 (of one length, and strict costs)
            counts[index] += 1
        self._recent.append(bins)
        if len(self._recent) > self._window:
            for counts, index in zip(self._counts, self._recent.popleft()):  # noqa: B905
                counts[index] -= 1

    def figures(self) -> tuple[DriftFigure, ...]:
        """How far every figure has moved."""
        references, columns = self._references, tuple(map(tuple, self._counts))
        if not references:
            return tuple(
                DriftFigure(name=name, psi=None, alarm_psi=ALARM_PSI, request_count=0) for name in FIGURES
            )
        return tuple(map(_figure, FIGURES, references, columns))

    def _compare_with(self, references: tuple[Reference, ...]) -> None:
        self._references = references
        self._edges = tuple(each.edges for each in references)
        self._counts = tuple([0] * len(each.counts) for each in references)


def _figure(name: str, reference: Reference, counts: tuple[int, ...]) -> DriftFigure:
    count = sum(counts)
    # A figure that never varied has one bin, and one bin cannot move; that it varies now shows in the others.
    return DriftFigure(
        name=name,
        psi=psi(reference.counts, counts) if count >= MINIMUM_REQUESTS else None,
        alarm_psi=alarm_psi(len(counts), reference.sample_count, max(count, MINIMUM_REQUESTS)),
        request_count=count,
    )
