"""The figures of a report, asked of a ledger at one instant; what is unknown stays apart from what is known.

The rule: every figure is a sum of the ledger or a quotient of two. One ledger and one window give one result: no clock
is read, and what ends the list of the dearest is decided by name where costs are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from router.ledger import Comparison, Filter, LedgerReader, MissRow
from router.ledger.database import Database
from router.ledger.padding import Padding
from router.ledger.past import SINCE, Past, past_of
from router.ledger.reports import Bin, Cell, Group, Judged, Money, Quantiles, Seen, Spans, seen
from router.ledger.warms import WARM_GROUPS, WarmRow
from router.money import ratio
from router.overhead import ANSWER, KINDS, Kind

TOP = 10
"""Applications and sessions shown."""
HOUR_S, DAY_S, WEEK_S = 3_600, 86_400, 604_800
_MONDAY_S = 4 * DAY_S
"""1970-01-05 was a Monday; weeks begin there."""

COMPARISONS: dict[str, Callable[[Cell], Comparison]] = {
    "no_caching": lambda cell: cell.no_caching,
    "all_opus": lambda cell: cell.all_opus,
    "all_flash": lambda cell: cell.all_flash,
    "all_opus_no_caching": lambda cell: cell.all_opus_no_caching,
    "never_switch": lambda cell: cell.never_switch,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One span of time.

    Attributes:
        start_s: When it begins, seconds since the epoch.
        spent_nano_usd: Known cost by series: each route's answers, and "overhead".
        answers: Answers by route.
        input_tokens, read_tokens: Of answers on Opus whose usage is known.
        saved: Answers against all calls on Opus, uncached.
        overhead_nano_usd: Known cost of overhead calls.
    """

    start_s: int
    spent_nano_usd: dict[str, int]
    answers: dict[str, int]
    input_tokens: int
    read_tokens: int
    saved: Comparison
    overhead_nano_usd: int
    unknown_calls: int

    @property
    def net_nano_usd(self) -> int | None:
        """Saving less overhead; None when no answer could be compared."""
        return self.saved.saving_nano_usd - self.overhead_nano_usd if self.saved.calls else None

    @property
    def hit_rate(self) -> Fraction | None:
        """Cache reads per input token on Opus; None without input."""
        return ratio(self.read_tokens, self.input_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that the page shows.

    Attributes:
        since_s, until_s: The window, half open; the ledger's own first and last start where none was asked for.
        width_s: Length of a moment.
        moments: Consecutive, without a gap.
        total: Money of all calls.
        answers: Money of answers by route.
        overhead: By kind; `padding` lies within answers.
        explored: Route, answers drawn to it, and what the other route would have cost.
        savings: Answers against each counterfactual, by its name.
        misses: By cause, dearest first.
        first_byte, duration: Percentiles by route.
        beliefs: Chances that prefixes are warm, and `belief_brier` their mean squared error.
        unknown: Calls of unknown cost or with a floor by (kind, outcome, route).
        warms: What decisions to warm came to, by tenant and application, dearest first.
        past: What the window has lost to sums by day; in no other figure.
    """

    since_s: float
    until_s: float
    width_s: int
    moments: tuple[Moment, ...]
    total: Money
    answers: dict[str, Money]
    overhead: tuple[Kind, ...]
    padding: Padding
    explored: tuple[tuple[str, int, Comparison], ...]
    savings: dict[str, Comparison]
    misses: tuple[MissRow, ...]
    scores: tuple[Bin, ...]
    beliefs: tuple[Bin, ...]
    belief_brier: float | None
    judged: Judged
    first_byte: tuple[Quantiles, ...]
    duration: tuple[Quantiles, ...]
    applications: tuple[Group, ...]
    sessions: tuple[Group, ...]
    models: tuple[Group, ...]
    errors: tuple[Group, ...]
    unknown: tuple[Group, ...]
    filters: dict[str, str] = field(default_factory=dict)
    warms: tuple[WarmRow, ...] = ()
    past: Past | None = None

    @property
    def overhead_nano_usd(self) -> int:
        """Known cost of overhead calls; padding, which lies within answers, is not in it."""
        return sum(kind.cost_nano_usd for kind in self.overhead)

    def net_nano_usd(self, name: str) -> int | None:
        """Saving against a counterfactual less overhead; None when nothing could be compared."""
        compared = self.savings[name]
        return compared.saving_nano_usd - self.overhead_nano_usd if compared.calls else None

    @property
    def hit_rate(self) -> Fraction | None:
        """Cache reads per input token over answers of Opus with known usage."""
        read = sum(moment.read_tokens for moment in self.moments)
        return ratio(read, sum(moment.input_tokens for moment in self.moments))


def figures_of(reader: LedgerReader, where: Filter | None = None) -> Figures | None:
    """Ask the ledger; None when the window holds no call.

    Raises:
        ValueError: A filter name is unknown.
        StoreError: The ledger is of an older release, or cannot be read.
    """
    where = where or Filter()
    with reader.snapshot():
        misses = sorted(
            reader.misses(("cause",), where), key=lambda row: (-row.lost_nano_usd, row.group["cause"])
        )
        found = reader.ask(lambda connection: _read(connection, where, misses), version=SINCE)
        return None if found is None else replace(found, warms=_warms(reader, where))


def _warms(reader: LedgerReader, where: Filter) -> tuple[WarmRow, ...]:
    """Ask for decisions to warm; a choice by what they do not know leaves none."""
    if not WARM_GROUPS.issuperset(where.equal):
        return ()
    rows = reader.warms(("tenant", "application"), where)
    return tuple(sorted(rows, key=lambda row: -row.cost_nano_usd))


def _read(connection: Database, where: Filter, misses: list[MissRow]) -> Figures | None:
    with seen(connection, where) as found:
        extent = found.extent()
        return (
            None
            if extent is None
            else replace(_figures(found, where, extent, misses), past=past_of(connection, where))
        )


def spans_of(since_s: float, until_s: float) -> Spans:
    """Cut a window into at most about a hundred spans: hours, days, or weeks from Monday, all UTC."""
    days = (until_s - since_s) / DAY_S
    if days <= 3:
        return Spans(width_s=HOUR_S)
    if days <= 100:
        return Spans(width_s=DAY_S)
    return Spans(width_s=WEEK_S, shift_s=_MONDAY_S)


def _figures(found: Seen, where: Filter, extent: tuple[float, float], misses: list[MissRow]) -> Figures:
    since_s = extent[0] if where.since_s is None else where.since_s
    until_s = extent[1] if where.until_s is None else where.until_s
    spans = spans_of(*extent)
    cells = found.cells(spans)
    answers = [cell for cell in cells if cell.role == ANSWER]
    beliefs, brier = found.beliefs()
    calls, tokens, cost, unknown = found.padding()
    return Figures(
        since_s=since_s,
        until_s=until_s,
        width_s=spans.width_s,
        moments=tuple(_moments(cells, spans)),
        total=added(cell.money for cell in cells),
        answers={
            route: added(cell.money for cell in answers if cell.route == route)
            for route in sorted({cell.route for cell in answers})
        },
        overhead=tuple(_kind(name, cells) for name in KINDS),
        padding=Padding(calls=calls, tokens=tokens, cost_nano_usd=cost, unknown_calls=unknown),
        explored=tuple(found.explored()),
        savings={name: compared(of(cell) for cell in answers) for name, of in COMPARISONS.items()},
        misses=tuple(misses),
        scores=tuple(found.scores()),
        beliefs=tuple(beliefs),
        belief_brier=brier,
        judged=found.judged(),
        first_byte=tuple(found.latencies("first_byte_s")),
        duration=tuple(found.latencies("duration_s")),
        applications=tuple(found.groups(("application",), TOP)),
        sessions=tuple(found.groups(("tenant", "session"), TOP, "session <> ''")),
        models=tuple(found.groups(("model",), TOP)),
        errors=tuple(found.groups(("error", "route"), 1_000, "error <> ''")),
        unknown=tuple(found.unknown()),
        filters=dict(where.equal),
    )


def added(parts: Iterable[Money]) -> Money:
    """Add money up."""
    found = list(parts)
    return Money(
        calls=sum(each.calls for each in found),
        cost_nano_usd=sum(each.cost_nano_usd for each in found),
        unknown_calls=sum(each.unknown_calls for each in found),
        unknown_bound_nano_usd=sum(each.unknown_bound_nano_usd for each in found),
        floor_calls=sum(each.floor_calls for each in found),
        floor_bound_nano_usd=sum(each.floor_bound_nano_usd for each in found),
        unbounded_calls=sum(each.unbounded_calls for each in found),
    )


def compared(parts: Iterable[Comparison]) -> Comparison:
    """Add comparisons up."""
    found = list(parts)
    return Comparison(
        sum(each.calls for each in found),
        sum(each.baseline_nano_usd for each in found),
        sum(each.cost_nano_usd for each in found),
    )


def _kind(name: str, cells: list[Cell]) -> Kind:
    money = added(cell.money for cell in cells if cell.role == name)
    return Kind(
        name=name,
        calls=money.calls,
        cost_nano_usd=money.cost_nano_usd,
        unknown_calls=money.unknown_calls,
        unknown_bound_nano_usd=money.unknown_bound_nano_usd,
        floor_calls=money.floor_calls,
        floor_bound_nano_usd=money.floor_bound_nano_usd,
        unbounded_calls=money.unbounded_calls,
    )


def _moments(cells: list[Cell], spans: Spans) -> Iterable[Moment]:
    by_span: dict[int, list[Cell]] = {}
    for cell in cells:
        by_span.setdefault(cell.span, []).append(cell)
    for span in range(min(by_span), max(by_span) + 1):
        yield _moment(spans.start_s(span), by_span.get(span, []))


def _moment(start_s: int, cells: list[Cell]) -> Moment:
    answers = [cell for cell in cells if cell.role == ANSWER]
    ours = sum(cell.money.cost_nano_usd for cell in cells if cell.role != ANSWER)
    opus = [cell for cell in answers if cell.route == "opus"]
    return Moment(
        start_s=start_s,
        spent_nano_usd={cell.route: cell.money.cost_nano_usd for cell in answers} | {"overhead": ours},
        answers={cell.route: cell.money.calls for cell in answers},
        input_tokens=sum(cell.input_tokens for cell in opus),
        read_tokens=sum(cell.read_tokens for cell in opus),
        saved=compared(cell.all_opus_no_caching for cell in answers),
        overhead_nano_usd=ours,
        unknown_calls=sum(cell.money.unknown_calls for cell in cells),
    )
