"""Counters and histograms that cost well under a microsecond to record, exported as OpenTelemetry points.

The rule: recording touches one dict and one list; names, units and attributes are put together when someone
collects. OpenTelemetry's own instruments take 6 to 8 us per record (copy, validate and hash the attributes;
measured with opentelemetry-sdk 1.45.2), and a request records about twenty, more than this service may spend
on telemetry altogether. The points are the SDK's public data model, so every reader and exporter takes them.

Series are told apart by a tuple of label values in the order of `labels`; an empty value means the attribute
is absent. However odd the values, an instrument never holds more than `limit` series: what comes later is
added to one overflow series, as the SDK does, so sums over all series stay right.

One thread records (the event loop's), any thread collects. A point collected while its series is being
recorded may miss that last record in its sum and have it in its buckets; the next collection has both.
Temporality is always cumulative. Nothing here knows what is being measured.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from time import time_ns
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData

from router import attributes as names

Label = str | int
Labels = tuple[Label, ...]

Cell = list[int]
"""The sum of one series: a list of one number, changed in place."""
_EMPTY: Final[tuple[int]] = (0,)

SERIES_LIMIT = 2000
"""Series one instrument holds before it overflows; the SDK's own default."""

_OVERFLOW: Labels = (names.OVERFLOW,)
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class Counter:
    """A sum per series.

    Args:
        labels: Attribute names, in the order of the label values given to `add`.
        monotonic: False for a sum that may fall (Prometheus: a gauge).
        divisor: Amounts are ints in a small unit and exported divided by this (nano-USD to USD: 10**9).
    """

    __slots__ = (
        "_cells",
        "_shared",
        "_start_ns",
        "_values",
        "description",
        "divisor",
        "labels",
        "limit",
        "monotonic",
        "name",
        "unit",
    )

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        labels: Sequence[str],
        *,
        monotonic: bool = True,
        divisor: int = 1,
        limit: int = SERIES_LIMIT,
    ) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.labels = tuple(labels)
        self.monotonic = monotonic
        self.divisor = divisor
        self.limit = limit
        self._values: dict[Labels, int] = {}
        self._cells: dict[Labels, Cell] = {}
        self._shared = 0
        """Series that have both a value and a cell: one each, as whoever collects sees them."""
        self._start_ns = time_ns()

    def cell(self, labels: Labels) -> Cell:
        """Where whoever counts in one series again and again adds by itself: `cell[0] += amount`.

        A cell is shown once something is in it.
        """
        cell = self._cells.get(labels)
        if cell is None:
            if labels not in self._values and not self._has_room():
                labels = _OVERFLOW
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._cells[labels] = [0]
                self._shared += labels in self._values
        return cell

    def _has_room(self) -> bool:
        return len(self._values) + len(self._cells) - self._shared < self.limit

    def _begin(self, labels: Labels, amount: int) -> None:
        self._values[labels] = amount
        self._shared += labels in self._cells

    def add(self, labels: Labels, amount: int = 1) -> None:
        """Add `amount` (>= 0 when monotonic) to the series of `labels`."""
        values = self._values
        known = values.get(labels)
        if known is not None:
            values[labels] = known + amount
        elif self._has_room() or labels in self._cells:
            self._begin(labels, amount)
        elif _OVERFLOW in values:
            values[_OVERFLOW] += amount
        else:
            self._begin(_OVERFLOW, amount)

    def start(self, labels: Labels) -> None:
        """Begin the series of `labels` at 0, so that who looks at its growth sees the first count, too."""
        if labels not in self._values and self._has_room():
            self._begin(labels, 0)

    def value(self, labels: Labels) -> int:
        """Return the sum of one series, 0 when nothing was added."""
        return self._values.get(labels, 0) + self._cells.get(labels, _EMPTY)[0]

    def sums(self) -> dict[Labels, int]:
        """Return the sums of all series."""
        found = self._values.copy()
        for labels, (amount,) in self._cells.copy().items():
            if amount:
                found[labels] = found.get(labels, 0) + amount
        return found

    def collect(self, now_ns: int) -> Metric | None:
        """Return every series as one metric, None when there is none."""
        sums = self.sums()
        if not sums:
            return None
        points = [
            NumberDataPoint(
                attributes=_attributes(self.labels, labels),
                start_time_unix_nano=self._start_ns,
                time_unix_nano=now_ns,
                value=amount if self.divisor == 1 else amount / self.divisor,
            )
            for labels, amount in sums.items()
        ]
        data = Sum(data_points=points, aggregation_temporality=_CUMULATIVE, is_monotonic=self.monotonic)
        return Metric(name=self.name, description=self.description, unit=self.unit, data=data)


class Distribution:
    """Counts of values by bucket; mergeable, so that a stream collects its own and adds it once.

    Args:
        boundaries: Inclusive upper bounds, ascending; one more bucket takes the rest.
    """

    __slots__ = ("boundaries", "counts", "maximum", "minimum", "total")

    def __init__(self, boundaries: tuple[float, ...]) -> None:
        self.boundaries = boundaries
        self.counts = [0] * (len(boundaries) + 1)
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def record(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.boundaries, value)] += 1
        self.total += value
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value

    def merge(self, other: "Distribution") -> None:
        """Add all values of `other`, which has the same boundaries."""
        if other.boundaries != self.boundaries:
            raise ValueError("distributions with different boundaries cannot be merged")
        for index, count in enumerate(other.counts):
            self.counts[index] += count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)


class Histogram:
    """A `Distribution` per series; the arguments are as for `Counter`."""

    __slots__ = ("_series", "_start_ns", "boundaries", "description", "labels", "limit", "name", "unit")

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        labels: Sequence[str],
        boundaries: tuple[float, ...],
        *,
        limit: int = SERIES_LIMIT,
    ) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.labels = tuple(labels)
        self.boundaries = boundaries
        self.limit = limit
        self._series: dict[Labels, Distribution] = {}
        self._start_ns = time_ns()

    def record(self, labels: Labels, value: float) -> None:
        """Count one value in the series of `labels`."""
        self.series(labels).record(value)

    def series(self, labels: Labels) -> Distribution:
        """The series of `labels`, for whoever counts in it again and again; it is shown from now on."""
        found = self._series.get(labels)
        return self._new(labels) if found is None else found

    def merge(self, labels: Labels, values: Distribution) -> None:
        """Add a whole distribution to the series of `labels`."""
        series = self._series.get(labels)
        if series is None:
            series = self._new(labels)
        series.merge(values)

    def collect(self, now_ns: int) -> Metric | None:
        """Return every series as one metric, None when there is none."""
        if not self._series:
            return None
        points = []
        for labels, series in self._series.copy().items():
            counts = series.counts.copy()
            points.append(
                HistogramDataPoint(
                    attributes=_attributes(self.labels, labels),
                    start_time_unix_nano=self._start_ns,
                    time_unix_nano=now_ns,
                    count=sum(counts),
                    sum=series.total,
                    bucket_counts=counts,
                    explicit_bounds=self.boundaries,
                    min=series.minimum,
                    max=series.maximum,
                )
            )
        data = HistogramData(data_points=points, aggregation_temporality=_CUMULATIVE)
        return Metric(name=self.name, description=self.description, unit=self.unit, data=data)

    def _new(self, labels: Labels) -> Distribution:
        if len(self._series) >= self.limit:
            labels = _OVERFLOW
        return self._series.setdefault(labels, Distribution(self.boundaries))


class Observed:
    """What another module counts: asked for when someone collects, at no cost to requests.

    Args:
        observe: Gives the series and their values; called in the collecting thread, must be quick. The number of
            series is the observed module's to bound.
        monotonic: True for a sum that never falls, False for a value of the moment (a gauge).
    """

    __slots__ = ("_observe", "_start_ns", "description", "labels", "monotonic", "name", "unit")

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        labels: Sequence[str],
        observe: Callable[[], Iterable[tuple[Labels, float]]],
        *,
        monotonic: bool,
    ) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.labels = tuple(labels)
        self.monotonic = monotonic
        self._observe = observe
        self._start_ns = time_ns()

    def collect(self, now_ns: int) -> Metric | None:
        """Return every series as one metric, None when there is none."""
        points = [
            NumberDataPoint(
                attributes=_attributes(self.labels, labels),
                start_time_unix_nano=self._start_ns,
                time_unix_nano=now_ns,
                value=value,
            )
            for labels, value in self._observe()
        ]
        if not points:
            return None
        data: Sum | Gauge = Gauge(data_points=points)
        if self.monotonic:
            data = Sum(data_points=points, aggregation_temporality=_CUMULATIVE, is_monotonic=True)
        return Metric(name=self.name, description=self.description, unit=self.unit, data=data)


class Vocabulary:
    """The values a label may take; anything else becomes "other".

    Args:
        known: Values from configuration or code.
        learn: How many values beyond `known` are admitted, first come, for vocabularies closed in code
        or by a
            provider but not listed here; 0 for anything a caller can choose.
    """

    __slots__ = ("_known", "_room")

    def __init__(self, known: Sequence[str] = (), *, learn: int = 0) -> None:
        self._known = {"", *known}
        self._room = learn

    def __call__(self, value: str) -> str:
        """Return `value` when it may be a label, "other" otherwise; "" (absent) always may."""
        if value in self._known:
            return value
        if self._room > 0:
            self._room -= 1
            self._known.add(value)
            return value
        return names.OTHER

    def admit(self, value: str) -> None:
        """Add a value from configuration."""
        self._known.add(value)


def _attributes(keys: tuple[str, ...], labels: Labels) -> dict[str, Label | bool]:
    if labels is _OVERFLOW or labels == _OVERFLOW:
        return {names.OVERFLOW: True}
    return {key: value for key, value in zip(keys, labels, strict=True) if value != ""}
