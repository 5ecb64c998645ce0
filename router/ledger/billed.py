"""The ledger as a bill: calls with the ids providers know them by, and sums by day, upstream and model.

The rule: as in `queries`. A call is told with what it can have cost, so that whoever compares it with an invoice sees a
floor, an unknown and a free call apart. Days are UTC and go by the start of the call. This module reads; what a
difference means is `router.reconcile`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from router.ledger.database import Database
from router.ledger.groups import CALL_GROUPS, Filter, conditions

PARTS = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "tools")
"""What providers itemise; thinking is output."""
PAGE_CALLS = 5_000
"""Calls read at a time: memory is bounded however long the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledCall:
    """One attempt as its provider may have billed it.

    Attributes:
        response_id, upstream_request_id: The provider's own ids, "" where none came.
        model: Model that answered, else the one asked.
        ended_time_s: When it was settled, or found interrupted.
        cost_nano_usd: None when unknown; 0 for a refused call.
        complete: Whether the provider told its final count; None without usage.
    """

    request_id: str
    attempt: int
    upstream: str
    model: str
    outcome: str
    started_time_s: float
    ended_time_s: float
    cost_nano_usd: int | None
    bound_nano_usd: int | None
    complete: bool | None
    input_tokens: int | None
    output_tokens: int | None
    response_id: str
    upstream_request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledSum:
    """Calls of one day, upstream and model.

    Attributes:
        day: First second of the day, UTC, seconds since the epoch.
        parts_nano_usd, tokens: By PARTS; tools have no tokens.
        room_nano_usd: The most that unknown calls and floors with a bound can have cost beyond the parts.
        unknown_calls, floor_calls, unbounded_calls: As in `CostRow`.
    """

    day: int
    upstream: str
    model: str
    calls: int
    parts_nano_usd: dict[str, int]
    tokens: dict[str, int]
    unknown_calls: int
    floor_calls: int
    unbounded_calls: int
    room_nano_usd: int


_FREE = "outcome = 'refused' AND cost_nano_usd IS NULL"
_UNKNOWN = "cost_nano_usd IS NULL AND outcome <> 'refused'"
_FLOOR = "cost_nano_usd IS NOT NULL AND usage_complete = 0"


def billed_calls(connection: Database, where: Filter | None = None) -> Iterator[BilledCall]:
    """Yield calls by start, reading a page of them at a time."""
    condition, bound = conditions(where, CALL_GROUPS)
    place: tuple[float, int] | None = None
    while rows := _page(connection, condition, bound, place):
        yield from map(_billed_call, rows)
        place = (rows[-1][5], rows[-1][14])


def _page(
    connection: Database, condition: str, bound: tuple[str | float, ...], after: tuple[float, int] | None
) -> list[tuple[Any, ...]]:
    """Return at most PAGE_CALLS rows behind the position `after`."""
    if after is not None:
        condition += " AND (started_time_s, id) > (?, ?)"
        bound = (*bound, *after)
    return connection.execute(
        f"SELECT request_id, attempt, upstream, {CALL_GROUPS['model']}, outcome, started_time_s, settled_time_s,"
        f" CASE WHEN {_FREE} THEN 0 ELSE cost_nano_usd END, cost_bound_nano_usd, usage_complete, input_tokens,"
        " output_tokens, coalesce(json_extract(CAST(record AS TEXT), '$.response_id'), ''),"
        " coalesce(json_extract(CAST(record AS TEXT), '$.upstream_request_id'), ''), id"
        f" FROM calls WHERE {condition} ORDER BY started_time_s, id LIMIT ?",
        (*bound, PAGE_CALLS),
    ).fetchall()


def _billed_call(row: tuple[Any, ...]) -> BilledCall:
    return BilledCall(
        request_id=row[0],
        attempt=row[1],
        upstream=row[2],
        model=row[3],
        outcome=row[4],
        started_time_s=row[5],
        ended_time_s=row[6],
        cost_nano_usd=row[7],
        bound_nano_usd=row[8],
        complete=None if row[9] is None else bool(row[9]),
        input_tokens=row[10],
        output_tokens=row[11],
        response_id=row[12],
        upstream_request_id=row[13],
    )


def billed_sums(connection: Database, where: Filter | None = None) -> list[BilledSum]:
    """Return sums by day, upstream and model, in that order."""
    condition, bound = conditions(where, CALL_GROUPS)
    money = (
        "uncached_input_nano_usd",
        "cache_write_5m_nano_usd",
        "cache_write_1h_nano_usd",
        "cache_read_nano_usd",
        "output_text_nano_usd + thinking_nano_usd",
        "tools_nano_usd",
    )
    tokens = (
        "input_tokens - cache_read_tokens - cache_write_5m_tokens - cache_write_1h_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "cache_read_tokens",
        "output_tokens",
    )
    sums = ", ".join(f"coalesce(sum({column}), 0)" for column in (*money, *tokens))
    rows = connection.execute(
        f"SELECT CAST(started_time_s / 86400 AS INTEGER) * 86400, upstream, {CALL_GROUPS['model']}, count(*), {sums},"
        f" count(*) FILTER (WHERE {_UNKNOWN}), count(*) FILTER (WHERE {_FLOOR}),"
        f" count(*) FILTER (WHERE ({_UNKNOWN} AND cost_bound_nano_usd IS NULL) OR"
        f" ({_FLOOR} AND (cost_bound_nano_usd IS NULL OR cost_bound_nano_usd < cost_nano_usd))),"
        f" coalesce(sum(cost_bound_nano_usd) FILTER (WHERE {_UNKNOWN}), 0)"
        " + coalesce(sum(cost_bound_nano_usd - cost_nano_usd)"
        f" FILTER (WHERE {_FLOOR} AND cost_bound_nano_usd >= cost_nano_usd), 0)"
        f" FROM calls WHERE {condition} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        bound,
    )
    return [
        BilledSum(
            day=row[0],
            upstream=row[1],
            model=row[2],
            calls=row[3],
            parts_nano_usd=dict(zip(PARTS, row[4:10], strict=True)),
            tokens=dict(zip(PARTS[:5], row[10:15], strict=True)),
            unknown_calls=row[15],
            floor_calls=row[16],
            unbounded_calls=row[17],
            room_nano_usd=row[18],
        )
        for row in rows
    ]
