"""Rounds to figures: medians over rounds, ratios to a floor of the same round, a table and JSON.

The rule: a shared machine drifts, so figures of different rounds are never divided by each other. Every ratio and
difference is taken within its round, where all cases ran within seconds, and the median of those is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One case in one round; milliseconds unless named otherwise, None where it does not apply.

    Attributes:
        per_s: Calls per second, saturated.
        cpu_ms: CPU of the server process per call, saturated, all its threads.
        busy: CPU seconds of the server per second, saturated; well under 1, something else was the limit.
        p50_ms, p99_ms: Latency one call at a time.
        loaded_p50_ms, loaded_p99_ms: Latency saturated.
        first_ms: Streams: median time to the first text, one at a time.
    """

    per_s: float | None = None
    cpu_ms: float
    busy: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    loaded_p50_ms: float | None = None
    loaded_p99_ms: float | None = None
    first_ms: float | None = None


FIELDS = tuple(Measured.__dataclass_fields__)


def percentile_ms(values_s: Sequence[float], percent: int) -> float:
    """A percentile of seconds, in milliseconds."""
    if len(values_s) < 2:
        return values_s[0] * 1e3
    return quantiles(values_s, n=100, method="inclusive")[percent - 1] * 1e3


class Rounds:
    """What was measured, by case, one entry per round."""

    def __init__(self) -> None:
        """Begin empty."""
        self._found: dict[str, list[Measured]] = {}

    def add(self, case: str, measured: Measured) -> None:
        """Note a case of the current round."""
        self._found.setdefault(case, []).append(measured)

    def medians(self, case: str) -> dict[str, float | None]:
        """Median over rounds of every field."""
        rounds = self._found[case]
        return {field: _median([getattr(each, field) for each in rounds]) for field in FIELDS}

    def against(
        self, case: str, floor: str, field: str, compare: Callable[[float, float], float]
    ) -> float | None:
        """Median over rounds of `compare(case, floor)`, None when either was not measured."""
        if floor not in self._found:
            return None
        pairs = [
            (getattr(mine, field), getattr(theirs, field))
            for mine, theirs in zip(self._found[case], self._found[floor], strict=True)
        ]
        return _median([None if None in pair else compare(*pair) for pair in pairs])

    def to_json(self, floors: Mapping[str, str]) -> dict[str, Any]:
        """Medians, comparisons and every round."""
        return {
            case: {
                **self.medians(case),
                **({} if floor is None else {"floor": floor, **self._compared(case, floor)}),
                "rounds": [asdict(each) for each in rounds],
            }
            for case, rounds in self._found.items()
            for floor in [floors.get(case)]
        }

    def _compared(self, case: str, floor: str) -> dict[str, float | None]:
        return {
            "cpu_added_ms": self.against(case, floor, "cpu_ms", lambda mine, theirs: mine - theirs),
            "cpu_ratio": self.against(case, floor, "cpu_ms", lambda mine, theirs: mine / theirs),
            "per_s_ratio": self.against(case, floor, "per_s", lambda mine, theirs: mine / theirs),
            "p50_added_ms": self.against(case, floor, "p50_ms", lambda mine, theirs: mine - theirs),
            "first_added_ms": self.against(case, floor, "first_ms", lambda mine, theirs: mine - theirs),
        }

    def table(self, floors: Mapping[str, str], *, stream: bool) -> str:
        """The cases of `floors`' keys in order, one line each."""
        heads = [
            "per s",
            "CPU ms",
            "busy",
            "p50",
            "p99",
            "p50 sat",
            "p99 sat",
            *(["first"] if stream else []),
        ]
        lines = [
            f"{'':34}"
            + "".join(f"{head:>9}" for head in heads)
            + f"{'added':>9}{'ratio':>8}{'speed':>8}  floor"
        ]
        for case in self._found:
            if case not in floors or ("stream" in case) is not stream:
                continue
            found = self.medians(case)
            shown = [found[field] for field in FIELDS[: 8 if stream else 7]]
            cells = "".join(f"{_cell(value):>9}" for value in shown)
            floor = floors[case]
            if floor:
                compared = self._compared(case, floor)
                told = (compared["cpu_ratio"], compared["per_s_ratio"])
                cells += f"{_cell(compared['cpu_added_ms']):>9}" + "".join(
                    f"{_cell(each):>8}" for each in told
                )
                cells += f"  {floor}"
            lines.append(f"{case:34}{cells}")
        return "\n".join(lines)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
