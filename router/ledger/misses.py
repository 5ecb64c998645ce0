"""Questions to the ledger about the cache on Opus: what was read, what caching saved, what was missed and why.

The rule: as in `queries`, sums are exact integers and never hide what they lack. A miss whose tokens or loss nobody
knows is counted beside the sums, not in them as 0; so is a miss that a release before schema version 2 noted, which
kept the cause alone. A call with several misses of one group is one call of that group. This module reads; it does not
judge (see `router.doctor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.ledger.database import Database
from router.ledger.groups import CALL_GROUPS, Comparison, Filter, conditions, expressions

_MISS_GROUPS = {
    **CALL_GROUPS,
    "cause": "misses.cause",
    "layer": "misses.layer",
    "provider_cause": "misses.provider_cause",
}
MISS_GROUPS = frozenset(_MISS_GROUPS)
"""What misses can be grouped and filtered by, besides `label:NAME`."""

_FROM = "misses JOIN calls USING (request_id, attempt)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingRow:
    """What the cache did for one group of calls on Opus, whatever came of them.

    Attributes:
        group: Group name to its value, in the order asked for.
        calls: Calls in the group.
        usage_calls: Calls whose tokens are known; the token sums are over these.
        input_tokens: All input; reads and writes are parts of it.
        priced_calls: Calls whose cost is known; `input_nano_usd` and `cost_nano_usd` are over these.
        input_nano_usd: What input cost: uncached, written and read.
        no_caching: The same calls with all input uncached, over those where both costs are known.
        padding_tokens: Part of the input that is the operator's filler.
        padding_nano_usd: What it cost, where that is known.
    """

    group: Mapping[str, str]
    calls: int
    usage_calls: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    priced_calls: int
    input_nano_usd: int
    cost_nano_usd: int
    no_caching: Comparison
    padding_tokens: int
    padding_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MissRow:
    """What one group of misses lost.

    Attributes:
        group: Group name to its value, in the order asked for; "" where there is none.
        calls: Calls with at least one of these misses.
        misses: Misses; a call can have several.
        missed_tokens: Sum over the misses whose tokens are known.
        unknown_token_misses: The others.
        lost_nano_usd: Sum over the misses whose loss is known.
        unknown_loss_calls: Calls with a miss whose loss is not.
    """

    group: Mapping[str, str]
    calls: int
    misses: int
    missed_tokens: int
    unknown_token_misses: int
    lost_nano_usd: int
    unknown_loss_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DearMiss:
    """One of the dearest misses of its group.

    Attributes:
        group: Group name to its value, in the order asked for.
        missed_tokens: None when not known; the loss likewise.
    """

    group: Mapping[str, str]
    request_id: str
    attempt: int
    started_time_s: float
    cause: str
    layer: str
    missed_tokens: int | None
    lost_nano_usd: int | None


_CACHING_SUMS = (
    "count(*)",
    "count(input_tokens)",
    "coalesce(sum(input_tokens), 0)",
    "coalesce(sum(cache_read_tokens), 0)",
    "coalesce(sum(cache_write_5m_tokens + cache_write_1h_tokens), 0)",
    "count(cost_nano_usd)",
    "coalesce(sum(uncached_input_nano_usd + cache_write_5m_nano_usd + cache_write_1h_nano_usd"
    " + cache_read_nano_usd), 0)",
    "coalesce(sum(cost_nano_usd), 0)",
    "count(no_caching_nano_usd + cost_nano_usd)",
    "coalesce(sum(no_caching_nano_usd) FILTER (WHERE cost_nano_usd IS NOT NULL), 0)",
    "coalesce(sum(cost_nano_usd) FILTER (WHERE no_caching_nano_usd IS NOT NULL), 0)",
    "coalesce(sum(padding_tokens), 0)",
    "coalesce(sum(padding_nano_usd), 0)",
)
_MISS_SUMS = (
    "count(DISTINCT calls.id)",
    "count(*)",
    "coalesce(sum(missed_tokens), 0)",
    "count(*) - count(missed_tokens)",
    "coalesce(sum(lost_nano_usd), 0)",
    "count(DISTINCT calls.id) FILTER (WHERE lost_nano_usd IS NULL)",
)


def caching(connection: Database, group_by: Sequence[str], where: Filter | None) -> list[CachingRow]:
    """Return one row per group of the calls on Opus, by the groups' values; see `LedgerReader.caching`."""
    keys, values = expressions(group_by, CALL_GROUPS)
    condition, bound = conditions(where, CALL_GROUPS)
    # The literal lets SQLite use the index that is kept for this route alone.
    sql = (
        f"SELECT {', '.join([*keys, *_CACHING_SUMS])} FROM calls"
        f" WHERE route = 'opus' AND {condition}{_by_position(len(keys))}"
    )
    return [_caching_row(tuple(group_by), row) for row in connection.execute(sql, (*values, *bound))]


def misses(connection: Database, group_by: Sequence[str], where: Filter | None) -> list[MissRow]:
    """Return one row per group of misses, by the groups' values; see `LedgerReader.misses`."""
    keys, values = expressions(group_by, _MISS_GROUPS)
    condition, bound = conditions(where, _MISS_GROUPS)
    sql = f"SELECT {', '.join([*keys, *_MISS_SUMS])} FROM {_FROM} WHERE {condition}{_by_position(len(keys))}"
    count = len(keys)
    return [
        MissRow(
            group=dict(zip(group_by, map(str, row[:count]), strict=True)),
            calls=row[count],
            misses=row[count + 1],
            missed_tokens=row[count + 2],
            unknown_token_misses=row[count + 3],
            lost_nano_usd=row[count + 4],
            unknown_loss_calls=row[count + 5],
        )
        for row in connection.execute(sql, (*values, *bound))
        if row[count]
    ]


def dearest(
    connection: Database, group_by: Sequence[str], where: Filter | None, limit: int
) -> list[DearMiss]:
    """Return the `limit` dearest misses of each group, dearest first; see `LedgerReader.dearest_misses`."""
    keys, values = expressions(group_by, _MISS_GROUPS)
    condition, bound = conditions(where, _MISS_GROUPS)
    names = [f"group_{index}" for index in range(len(keys))]
    grouped = ", ".join(f"{key} AS {name}" for key, name in zip(keys, names, strict=True))
    partition = f"PARTITION BY {', '.join(names)} " if names else ""
    sql = (
        f"SELECT * FROM (SELECT *, row_number() OVER ({partition}ORDER BY lost_nano_usd DESC NULLS LAST,"
        " missed_tokens DESC NULLS LAST, started_time_s, request_id, attempt, rank) AS place"
        f" FROM (SELECT {grouped + ', ' if grouped else ''}request_id, attempt, started_time_s,"
        " misses.cause AS cause, misses.layer AS layer, missed_tokens, lost_nano_usd, rank"
        f" FROM {_FROM} WHERE {condition}) AS found) AS ranked WHERE place <= ? ORDER BY {', '.join([*names, 'place'])}"
    )
    count = len(keys)
    return [
        DearMiss(
            group=dict(zip(group_by, map(str, row[:count]), strict=True)),
            request_id=row[count],
            attempt=row[count + 1],
            started_time_s=row[count + 2],
            cause=row[count + 3],
            layer=row[count + 4],
            missed_tokens=row[count + 5],
            lost_nano_usd=row[count + 6],
        )
        for row in connection.execute(sql, (*values, *bound, limit))
    ]


def _by_position(count: int) -> str:
    """Return the clauses that group and order by the first `count` columns."""
    positions = ", ".join(str(index + 1) for index in range(count))
    return f" GROUP BY {positions} ORDER BY {positions}" if count else ""


def _caching_row(names: tuple[str, ...], row: Sequence[str | int]) -> CachingRow:
    """Name the columns of a row of `caching`."""
    group = dict(zip(names, map(str, row[: len(names)]), strict=True))
    numbers = [int(value) for value in row[len(names) :]]
    return CachingRow(
        group=group,
        calls=numbers[0],
        usage_calls=numbers[1],
        input_tokens=numbers[2],
        cache_read_tokens=numbers[3],
        cache_write_tokens=numbers[4],
        priced_calls=numbers[5],
        input_nano_usd=numbers[6],
        cost_nano_usd=numbers[7],
        no_caching=Comparison(*numbers[8:11]),
        padding_tokens=numbers[11],
        padding_nano_usd=numbers[12],
    )
