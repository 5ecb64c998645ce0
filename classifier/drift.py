"""How far a figure's distribution has moved from where it was when the model was young: population stability index.

    PSI = sum over bins of (p - q) ln(p / q),  p now, q then

Rule: a figure is cut into at most `BINS` bins at the quantiles of its reference, so that each holds about as much of
it; a figure with few values has as many bins as values. Half a sample is added to every bin, so that one that is empty
on one side weighs something and not everything. Two samples of one distribution differ too: on the average by about
(B - 1)(1/n + 1/m), so the alarm is raised at four times that, and never below `ALARM_PSI`. By chance alone ten bins
pass it once in 25,000 independent looks: the index is about chi-squared with B - 1 degrees, times (1/n + 1/m).

What is watched is the score, the share of Opus, and of the structure what tells kind and length. A trainer may lay the
references of its training data beside the model: `references_of` its rows, `to_metrics` into the manifest's metrics.

PSI moves with the mix of traffic, without anything being wrong with the model: it asks for a look, not for a rollback.
It does not know where requests come from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from operator import itemgetter
from typing import Any, Final

from classifier.features import STRUCTURE_NAMES

BINS: Final = 10
ALARM_PSI: Final = 0.1
ACT_PSI: Final = 0.25
"""At or above it the model should not be trusted with this traffic before somebody has looked."""
_EXPECTATIONS: Final = 4.0
METRIC: Final = "drift_reference"
"""Name of the references among a manifest's metrics."""

_COLUMNS: Final = {
    "length": "text_characters_log",
    "turn": "turn_index_log",
    "tools": "tools_offered",
    "tool_loop": "tool_loop",
    "code": "code_words",
    "commands": "opens_with_command",
    "analysis": "analysis_words",
}
"""Figure -> column of the structure it is."""
FIGURES: Final = ("score", "opus_share", *_COLUMNS)
_WATCHED: Final = itemgetter(*map(STRUCTURE_NAMES.index, _COLUMNS.values()))


@dataclass(frozen=True, slots=True)
class Reference:
    """A figure's distribution to compare with.

    Attributes:
        edges: Ascending; bin i holds values in [edges[i - 1], edges[i]), the first and last are open.
        counts: Samples in each bin, `len(edges) + 1` of them.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def sample_count(self) -> int:
        """Samples it was made of."""
        return sum(self.counts)

    def bin_of(self, value: float) -> int:
        """Index of the bin that holds `value`."""
        return bisect_right(self.edges, value)


def reference_of(values: Sequence[float], bins: int = BINS) -> Reference:
    """Cut `values` at their quantiles.

    Args:
        values: At least one, finite.
        bins: Most bins, >= 2.
    """
    ordered = sorted(values)
    count = len(ordered)
    # An edge is the lowest value of the bin above it; one at the very bottom would leave the first bin empty.
    found = {ordered[count * number // bins] for number in range(1, bins)} - {ordered[0]}
    if not found and ordered[0] != ordered[-1]:
        found = {next(value for value in ordered if value != ordered[0])}
    edges = tuple(sorted(found))
    counts = [0] * (len(edges) + 1)
    for value in ordered:
        counts[bisect_right(edges, value)] += 1
    return Reference(edges, tuple(counts))


def figures_of(score: float, opus: bool, structure: Sequence[float]) -> tuple[float, ...]:
    """What is watched of one request, in the order of `FIGURES`.

    Args:
        structure: One number per `STRUCTURE_NAMES`.
    """
    return (score, 1.0 if opus else 0.0, *_WATCHED(structure))


def references_of(rows: Iterable[tuple[float, ...]]) -> dict[str, Reference]:
    """References of all figures from rows of `figures_of`, at least one of them."""
    return {name: reference_of(column) for name, column in zip(FIGURES, zip(*rows, strict=True), strict=True)}


def to_metrics(references: Mapping[str, Reference]) -> dict[str, Any]:
    """References as an entry of a manifest's metrics; `references_from` reads it."""
    return {
        METRIC: {
            name: {"edges": list(each.edges), "counts": list(each.counts)}
            for name, each in references.items()
        }
    }


def references_from(metrics: Mapping[str, Any]) -> dict[str, Reference] | None:
    """References of all `FIGURES` that a manifest's metrics carry; None when they carry none.

    Raises:
        ValueError: They are not what `to_metrics` wrote, or of other figures.
    """
    found = metrics.get(METRIC)
    if found is None:
        return None
    if not isinstance(found, Mapping) or set(found) != set(FIGURES):
        raise ValueError(f"{METRIC} is not of the figures {', '.join(FIGURES)}")
    references = {}
    for name, each in found.items():
        try:
            edges, counts = tuple(map(float, each["edges"])), tuple(map(int, each["counts"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"{METRIC} of {name} has no edges and counts") from error
        if (
            len(counts) != len(edges) + 1
            or list(edges) != sorted(set(edges))
            or min(counts) < 0
            or not sum(counts)
        ):
            raise ValueError(f"{METRIC} of {name} is no histogram")
        references[name] = Reference(edges, counts)
    return references


def psi(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The index between two histograms over the same bins, >= 0; both hold at least one sample."""
    then_total = sum(reference) + 0.5 * len(reference)
    now_total = sum(counts) + 0.5 * len(counts)
    total = 0.0
    for then, now in zip(reference, counts, strict=True):
        q, p = (then + 0.5) / then_total, (now + 0.5) / now_total
        total += (p - q) * log(p / q)
    return total


def alarm_psi(bins: int, reference_count: int, count: int) -> float:
    """The index at which two samples of these sizes differ by more than chance explains."""
    expected = (bins - 1) * (1 / reference_count + 1 / count) if reference_count and count else 0.0
    return max(ALARM_PSI, _EXPECTATIONS * expected)
