"""Sums of the ledger for a page about a window of time: a dozen questions to the index that holds all they ask.

The rule: as in `queries`, sums are exact integers and what is unknown is counted beside them. A call is an answer or
overhead by its role (`told`). Of a window as a whole the index is asked (`schema`), a span of time at a time where sums
are by time: sorting a million calls at once takes twice as long. A choice by more than time is read once, into a
temporary table of this connection's own, for what is chosen by may lie in the rows alone. Latencies are told to a tenth
of a millisecond, rounded down; scores and chances by tenth or twentieth of [0, 1]. This module reads; it judges
nothing and lays nothing out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from router.ledger.database import Database, Rows
from router.ledger.groups import CALL_GROUPS, Comparison, Filter, conditions

PERCENTS = (50, 90, 99)
SCORE_BINS = 20
CHANCE_BINS = 10
_TICKS_PER_S = 10_000

_SLIM = f"""
SELECT started_time_s, request_id, attempt, kind, outcome, error, purpose, route, tenant, application, session,
    {CALL_GROUPS["model"]} AS model,
    role,
    cost_nano_usd AS cost,
    cost_bound_nano_usd AS bound,
    cost_nano_usd IS NULL AND outcome <> 'refused' AS unknown,
    cost_nano_usd IS NOT NULL AND usage_complete = 0 AS floor,
    input_tokens, cache_read_tokens AS read_tokens, padding_tokens, padding_nano_usd,
    no_caching_nano_usd AS no_caching, all_opus_nano_usd AS all_opus, all_flash_nano_usd AS all_flash,
    all_opus_no_caching_nano_usd AS all_opus_no_caching, never_switch_nano_usd AS never_switch,
    duration_s, first_byte_s,
    score, explored, p_hit, held
FROM calls WHERE
"""
_MONEY = (
    "count(*)",
    "coalesce(sum(cost), 0)",
    "count(*) FILTER (WHERE unknown)",
    "coalesce(sum(bound) FILTER (WHERE unknown), 0)",
    "count(*) FILTER (WHERE floor)",
    "coalesce(sum(bound - cost) FILTER (WHERE floor AND bound >= cost), 0)",
    "count(*) FILTER (WHERE (unknown AND bound IS NULL) OR (floor AND (bound IS NULL OR bound < cost)))",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """What some calls cost, and what is not known of it.

    Attributes:
        cost_nano_usd: Sum over the calls of known cost, floors included.
        unknown_calls: Calls that may have been billed and whose cost is not known.
        unknown_bound_nano_usd: The most those of them with a bound can have cost.
        floor_calls: Calls in the sum with what was seen before they broke off.
        floor_bound_nano_usd: The most those with a bound can have cost beyond it.
        unbounded_calls: Calls of either kind without a bound that holds.
    """

    calls: int
    cost_nano_usd: int
    unknown_calls: int
    unknown_bound_nano_usd: int
    floor_calls: int
    floor_bound_nano_usd: int
    unbounded_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Calls of one span of time, route and role.

    Attributes:
        span: Number of the span, counted from the epoch's shifted start (see `Spans`).
        usage_calls: Calls whose tokens are known; the token sums are over these.
    """

    span: int
    route: str
    role: str
    money: Money
    usage_calls: int
    input_tokens: int
    read_tokens: int
    no_caching: Comparison
    all_opus: Comparison
    all_flash: Comparison
    all_opus_no_caching: Comparison
    never_switch: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Money of one group of calls, e.g. an application; `key` holds the groups' values."""

    key: tuple[str, ...]
    money: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Latencies of answers that ended well, on one route; nearest rank, by PERCENTS, seconds."""

    route: str
    calls: int
    at: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Chances that fell into one part of [0, 1].

    Attributes:
        number: 0-based number of the part.
        route: "" where it does not matter.
        count: How many.
        mean: Mean chance given.
        came_true: Mean of the outcomes, None where there are none to be had.
    """

    number: int
    route: str
    count: int
    mean: float
    came_true: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How a classifier's scores did against feedback.

    Attributes:
        bins: By tenth of the score; `came_true` is the share that needed Opus.
        requests: Requests whose judgement says whether Opus was needed.
        silent: Judged requests whose judgement does not say (a score alone, or an opinion on an answer of Opus).
        brier: Mean squared difference, None without a request.
    """

    bins: tuple[Bin, ...]
    requests: int
    silent: int
    brier: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """How time is cut: spans of `width_s`, the first of them beginning `shift_s` after the epoch."""

    width_s: int
    shift_s: int = 0

    def start_s(self, span: int) -> int:
        """When a span begins, seconds since the epoch."""
        return span * self.width_s + self.shift_s


class Seen:
    """The calls of a window; ask while the block of `seen` lasts.

    Args:
        source: SQL of the calls, as a table named `seen`.
        bound: Values bound in it.
    """

    def __init__(self, connection: Database, source: str, bound: tuple[str | float, ...]) -> None:
        self._connection = connection
        self._source = source
        self._bound = bound

    def extent(self) -> tuple[float, float] | None:
        """Return the first and the last start in the window, None when it holds no call."""
        # One at a time, either is found at an end of the index.
        ((first,),) = self._ask("SELECT min(started_time_s)")
        ((last,),) = self._ask("SELECT max(started_time_s)")
        return None if first is None else (first, last)

    def cells(self, spans: Spans) -> list[Cell]:
        """Return sums by span, route and role, in that order."""
        columns = [*_MONEY, "count(input_tokens)", "coalesce(sum(input_tokens), 0)"]
        columns.append("coalesce(sum(read_tokens), 0)")
        for name in ("no_caching", "all_opus", "all_flash", "all_opus_no_caching", "never_switch"):
            columns += _comparison(name)
        extent = self.extent()
        if extent is None:
            return []
        first, last = (int((start_s - spans.shift_s) // spans.width_s) for start_s in extent)
        return [
            _cell((span, *row))
            for span in range(first, last + 1)
            for row in self._ask(
                f"SELECT route, role, {', '.join(columns)}",
                "WHERE started_time_s >= ? AND started_time_s < ? GROUP BY 1, 2 ORDER BY 1, 2",
                (spans.start_s(span), spans.start_s(span + 1)),
            )
        ]

    def groups(self, names: Sequence[str], limit: int, where: str = "TRUE") -> list[Group]:
        """Return the `limit` dearest groups by columns of the table, dearest first, and by name where equal."""
        keys = ", ".join(names)
        rows = self._ask(
            f"SELECT {keys}, {', '.join(_MONEY)}",
            f"WHERE {where} GROUP BY {keys}"
            f" ORDER BY {len(names) + 2} DESC, {len(names) + 1} DESC, {keys} LIMIT ?",
            (limit,),
        )
        count = len(names)
        return [Group(key=tuple(row[:count]), money=_money(row[count:])) for row in rows]

    def unknown(self) -> list[Group]:
        """Return calls of unknown cost or with a floor by (kind, outcome, route)."""
        return self.groups(("kind", "outcome", "route"), 1_000, "unknown OR floor")

    def padding(self) -> tuple[int, int, int, int]:
        """Return calls, tokens, known nano-USD and calls of unknown cost of filler in answers."""
        ((calls, tokens, cost, unknown),) = self._ask(
            "SELECT count(*), coalesce(sum(padding_tokens), 0), coalesce(sum(padding_nano_usd), 0),"
            " count(*) - count(padding_nano_usd)",
            "WHERE padding_tokens > 0 AND role = 'answer'",
        )
        return calls, tokens, cost, unknown

    def explored(self) -> list[tuple[str, int, Comparison]]:
        """Return route, answers drawn to it, and what the other route would have cost."""
        other = "CASE route WHEN 'opus' THEN all_flash ELSE all_opus END"
        rows = self._ask(
            f"SELECT route, count(*), {', '.join(_comparison(other))}",
            "WHERE role = 'answer' AND explored = 1 GROUP BY route ORDER BY route",
        )
        return [(row[0], row[1], Comparison(*row[2:])) for row in rows]

    def latencies(self, column: str) -> list[Quantiles]:
        """Return percentiles of "duration_s" or "first_byte_s" by route."""
        # Counted here and not there: grouping sorts, and these are nearly as many as the calls.
        counted = Counter(
            self._ask(
                f"SELECT route, CAST({column} * {_TICKS_PER_S} AS INTEGER)",
                f"WHERE role = 'answer' AND outcome = 'ok' AND {column} IS NOT NULL",
            )
        )
        found: dict[str, list[tuple[int, int]]] = {}
        for (route, tick), count in sorted(counted.items()):
            found.setdefault(route, []).append((tick, count))
        return [
            Quantiles(route=route, calls=sum(n for _, n in ticks), at=_nearest_ranks(ticks))
            for route, ticks in found.items()
        ]

    def scores(self) -> list[Bin]:
        """Return answers by twentieth of their score and route."""
        return self._bins("score", SCORE_BINS, "route", "NULL", "role = 'answer' AND score IS NOT NULL")

    def beliefs(self) -> tuple[list[Bin], float | None]:
        """Return how the chances that a prefix is warm did, by tenth, and their Brier score."""
        tested = "p_hit IS NOT NULL AND held IS NOT NULL"
        ((brier,),) = self._ask("SELECT avg((p_hit - held) * (p_hit - held))", f"WHERE {tested}")
        return self._bins("p_hit", CHANCE_BINS, "''", "avg(held)", tested), brier

    def judged(self) -> Judged:
        """Return how scores did against feedback.

        Whether Opus was needed is what "opus_needed" and "flash_sufficed" say of any answer, "bad" and "good" of an
        answer of Flash. Sources that disagree count by their share.
        """
        self._connection.execute("DROP TABLE IF EXISTS temp.judged")
        self._connection.execute(
            "CREATE TEMP TABLE judged AS SELECT max(score) AS score, avg(CASE WHEN verdict = 'opus_needed' THEN 1.0"
            " WHEN verdict = 'flash_sufficed' THEN 0.0 WHEN route = 'flash' AND verdict = 'bad' THEN 1.0"
            " WHEN route = 'flash' AND verdict = 'good' THEN 0.0 END) AS needed FROM"
            " (SELECT seen.request_id AS request_id, seen.score AS score, route, verdict FROM feedback AS said"
            # Crossed, so that the few judgements look up their calls and not every call its judgements.
            f" CROSS JOIN {self._source} WHERE seen.request_id = said.request_id"
            " AND seen.role = 'answer' AND seen.score IS NOT NULL) AS found GROUP BY request_id",
            self._bound,
        )
        rows = self._connection.execute(
            f"SELECT min(CAST(score * {CHANCE_BINS} AS INTEGER), {CHANCE_BINS - 1}), count(*), avg(score), avg(needed)"
            " FROM judged WHERE needed IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        bins = tuple(Bin(number=n, route="", count=c, mean=m, came_true=t) for n, c, m, t in rows)
        silent, brier = self._connection.execute(
            "SELECT count(*) - count(needed), avg((score - needed) * (score - needed)) FROM judged"
        ).fetchone()
        return Judged(bins=bins, requests=sum(each.count for each in bins), silent=silent, brier=brier)

    def _bins(self, column: str, bins: int, route: str, outcome: str, where: str) -> list[Bin]:
        rows = self._ask(
            f"SELECT min(CAST({column} * {bins} AS INTEGER), {bins - 1}), {route}, count(*), avg({column}), {outcome}",
            f"WHERE {where} GROUP BY 1, 2 ORDER BY 1, 2",
        )
        return [Bin(number=n, route=r, count=c, mean=m, came_true=t) for n, r, c, m, t in rows]

    def _ask(self, select: str, rest: str = "", bound: tuple[str | float, ...] = ()) -> Rows:
        """Put a question to the calls of the window; `bound` goes into `rest`."""
        return self._connection.execute(f"{select} FROM {self._source} {rest}", (*self._bound, *bound))


@contextmanager
def seen(connection: Database, where: Filter | None = None) -> Iterator[Seen]:
    """Look at the calls of `where`; what was kept to do so goes when the block ends."""
    condition, bound = conditions(where, CALL_GROUPS)
    outer = connection.in_transaction
    if not outer:
        connection.execute("BEGIN")
    try:
        connection.execute("DROP TABLE IF EXISTS temp.seen")
        if where is None or not where.equal:
            yield Seen(connection, f"({_SLIM}{condition}) AS seen", bound)
        else:
            connection.execute(f"CREATE TEMP TABLE seen AS {_SLIM}{condition}", bound)
            yield Seen(connection, "temp.seen AS seen", ())
        connection.execute("DROP TABLE IF EXISTS temp.judged")
        connection.execute("DROP TABLE IF EXISTS temp.seen")
    finally:
        # After an error what was kept goes with the transaction, at the latest with the next page.
        if not outer and connection.in_transaction:
            connection.execute("ROLLBACK")


def _comparison(baseline: str) -> list[str]:
    both = f"FILTER (WHERE ({baseline}) IS NOT NULL AND cost IS NOT NULL)"
    return [
        f"count(*) {both}",
        f"coalesce(sum({baseline}) {both}, 0)",
        f"coalesce(sum(cost) {both}, 0)",
    ]


def _money(row: Sequence[int]) -> Money:
    calls, cost, unknown, unknown_bound, floors, floor_bound, unbounded = row
    return Money(
        calls=calls,
        cost_nano_usd=cost,
        unknown_calls=unknown,
        unknown_bound_nano_usd=unknown_bound,
        floor_calls=floors,
        floor_bound_nano_usd=floor_bound,
        unbounded_calls=unbounded,
    )


def _cell(row: Sequence[int]) -> Cell:
    return Cell(
        span=row[0],
        route=str(row[1]),
        role=str(row[2]),
        money=_money(row[3:10]),
        usage_calls=row[10],
        input_tokens=row[11],
        read_tokens=row[12],
        no_caching=Comparison(*row[13:16]),
        all_opus=Comparison(*row[16:19]),
        all_flash=Comparison(*row[19:22]),
        all_opus_no_caching=Comparison(*row[22:25]),
        never_switch=Comparison(*row[25:28]),
    )


def _nearest_ranks(ticks: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Return the values at PERCENTS of (value, count) pairs in ascending order."""
    total = sum(count for _, count in ticks)
    found = []
    for percent in PERCENTS:
        rank, below = -(-total * percent // 100), 0
        for tick, count in ticks:
            below += count
            if below >= rank:
                found.append(tick / _TICKS_PER_S)
                break
    return tuple(found)
