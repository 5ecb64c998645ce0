"""Questions to the ledger: what was spent, on what, by whom, what is unknown, what it might have cost.

The rule: sums are exact integers, and a sum never hides what it lacks: calls of unknown cost are counted
beside it with the most they can have cost, and calls whose cost is a floor (the answer broke off before the
provider's final count) with the most they can have cost beyond what is booked. A call is placed in time by its
start, when the money was committed. A refused call without usage cost nothing; every other call without a cost
is unknown, interrupted ones included.

Readers open the database read-only, on a connection of their own, from any process, while it is written to.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from router.cost import Cost
from router.ledger import codec
from router.settlement import Intent, Settlement

_GROUPS = {
    "route": "route",
    "upstream": "upstream",
    "model": "CASE WHEN answered_model <> '' THEN answered_model ELSE model END",
    "tenant": "tenant",
    "application": "application",
    "user": "user",
    "session": "session",
    "purpose": "purpose",
    "outcome": "outcome",
    "error": "error",
    "strategy": "strategy",
    "miss_cause": "miss_cause",
    "request": "request_id",
    "hour": "strftime('%Y-%m-%dT%H:00Z', started_time_s, 'unixepoch')",
    "day": "strftime('%Y-%m-%d', started_time_s, 'unixepoch')",
    "month": "strftime('%Y-%m', started_time_s, 'unixepoch')",
}
GROUPS = frozenset(_GROUPS)
"""What costs can be grouped and filtered by, besides `label:NAME`; hours, days and months are UTC."""

_LABEL = re.compile(r'label:([^"\\\x00-\x1f]{1,128})')
_UNKNOWN = "cost_nano_usd IS NULL AND outcome <> 'refused'"
_INCOMPLETE = "cost_nano_usd IS NOT NULL AND usage_complete = 0"
# A bound that the booked part alone exceeds was too low and bounds nothing; it must not shrink the sum either.
_INCOMPLETE_UNBOUNDED = "(cost_bound_nano_usd IS NULL OR cost_bound_nano_usd < cost_nano_usd)"
_TOKENS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "thinking_tokens",
)
_PARTS = (
    "uncached_input_nano_usd",
    "cache_write_5m_nano_usd",
    "cache_write_1h_nano_usd",
    "cache_read_nano_usd",
    "output_text_nano_usd",
    "thinking_nano_usd",
    "tools_nano_usd",
)
_BASELINES = (
    "no_caching_nano_usd",
    "all_opus_nano_usd",
    "all_flash_nano_usd",
    "all_opus_no_caching_nano_usd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which calls to look at; every condition must hold.

    Attributes:
        since_s: Earliest start, seconds since the epoch, inclusive; None for no limit.
        until_s: Latest start, exclusive.
        equal: Exact values by group name (`GROUPS` or `label:NAME`), e.g. {"tenant": "acme", "label:team":
            "search"}.
    """

    since_s: float | None = None
    until_s: float | None = None
    equal: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sums of tokens over the calls whose usage is known; cache counts are parts of the input.

    Attributes:
        thinking_tokens: Part of the output, as far as providers told.
    """

    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    thinking_tokens: int

    @property
    def uncached_input_tokens(self) -> int:
        """Input tokens neither read from nor written to the cache."""
        written = self.cache_write_5m_tokens + self.cache_write_1h_tokens
        return self.input_tokens - self.cache_read_tokens - written


@dataclass(frozen=True, slots=True)
class Comparison:
    """A counterfactual beside what it replaces, over the calls where both are known.

    Attributes:
        calls: Calls compared.
        baseline_nano_usd: What they would have cost.
        cost_nano_usd: What they did cost.
    """

    calls: int
    baseline_nano_usd: int
    cost_nano_usd: int

    @property
    def saving_nano_usd(self) -> int:
        """Baseline minus cost; negative when the calls cost more."""
        return self.baseline_nano_usd - self.cost_nano_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What one group of calls used and cost.

    Attributes:
        group: Group name to its value, in the order asked for; "" where a call has none.
        calls: Calls in the group, unknown and interrupted ones included.
        cost: Sums by part over the calls of known cost, those that are floors included.
        unknown_calls: Calls whose cost is not known and that may have been billed.
        unknown_bound_nano_usd: The most those of them with a bound can have cost.
        incomplete_calls: Calls in `cost` whose cost is a floor: the answer broke off, and the provider may
            have billed more output than was seen.
        incomplete_bound_nano_usd: The most those of them with a bound can have cost beyond what is in `cost`.
        unbounded_calls: Calls of either kind, unknown or incomplete, without a bound, or with one that what is
            booked already exceeds.
        usage_calls: Calls whose tokens are in `tokens`.
    """

    group: Mapping[str, str]
    calls: int
    cost: Cost
    unknown_calls: int
    unknown_bound_nano_usd: int
    incomplete_calls: int
    incomplete_bound_nano_usd: int
    unbounded_calls: int
    usage_calls: int
    tokens: Tokens
    no_caching: Comparison
    all_opus: Comparison
    all_flash: Comparison
    all_opus_no_caching: Comparison


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A call whose process ended before it settled the call: outcome and cost unknown.

    Attributes:
        found_time_s: When the ledger was opened again, seconds since the epoch.
    """

    intent: Intent
    found_time_s: float


class LedgerReader:
    """Read-only view of a ledger's database; a context manager, for one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database file at `path` for reading.

        Raises:
            FileNotFoundError: There is none.
        """
        if not path.exists():
            raise FileNotFoundError(f"there is no ledger database at {path}")
        uri = f"{path.absolute().as_uri()}?mode=ro"
        return cls(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def costs(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[CostRow]:
        """Return one row per group, ordered by the groups' values.

        Args:
            group_by: Names from `GROUPS` or `label:NAME`; none for one row over all calls.
            where: Which calls, None for all.

        Raises:
            ValueError: A group or filter name is unknown.
        """
        keys, values = _expressions(group_by)
        conditions, bound = _conditions(where)
        columns = [*keys, *_SUMS]
        positions = ", ".join(str(i + 1) for i in range(len(keys)))
        sql = f"SELECT {', '.join(columns)} FROM calls WHERE {conditions}"
        if keys:
            sql += f" GROUP BY {positions} ORDER BY {positions}"
        rows = self._connection.execute(sql, (*values, *bound))
        return [_cost_row(tuple(group_by), row) for row in rows]

    def totals(self, where: Filter | None = None) -> CostRow:
        """Return the sum over all calls of `where`."""
        return self.costs((), where)[0]

    def interrupted(self, where: Filter | None = None) -> list[Interrupted]:
        """Return the calls whose process died before it settled them, oldest first."""
        conditions, bound = _conditions(where)
        rows = self._connection.execute(
            f"SELECT record, settled_time_s FROM calls WHERE kind = 'interrupted' AND {conditions}"
            " ORDER BY started_time_s, id",
            bound,
        )
        return [Interrupted(codec.decode_intent(body), found_time_s) for body, found_time_s in rows]

    def settlements(self, where: Filter | None = None) -> Iterator[Settlement]:
        """Yield settlements as they were made, by start time; interrupted calls have none."""
        after: tuple[float, int] | None = None
        while rows := self.settlement_page(where, after, 500):
            yield from (settlement for _, settlement in rows)
            after = rows[-1][0]

    def settlement_page(
        self, where: Filter | None, after: tuple[float, int] | None, limit: int
    ) -> list[tuple[tuple[float, int], Settlement]]:
        """Return at most `limit` settlements behind the position `after`, each with its own position."""
        conditions, bound = _conditions(where)
        if after is not None:
            conditions += " AND (started_time_s, id) > (?, ?)"
            bound = (*bound, *after)
        rows = self._connection.execute(
            f"SELECT started_time_s, id, record FROM calls WHERE kind = 'settled' AND {conditions}"
            " ORDER BY started_time_s, id LIMIT ?",
            (*bound, limit),
        )
        return [((started_s, number), codec.decode_settlement(body)) for started_s, number, body in rows]

    def aside(self) -> list[tuple[str, int, str]]:
        """Return (request_id, attempt, reason) of the settlements that were kept aside."""
        return list(self._connection.execute("SELECT request_id, attempt, reason FROM aside ORDER BY id"))


def _expressions(names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the SQL of groups and the values bound in it."""
    expressions, values = [], []
    for name in names:
        if name in _GROUPS:
            expressions.append(_GROUPS[name])
        elif match := _LABEL.fullmatch(name):
            expressions.append("coalesce(json_extract(labels, ?), '')")
            values.append(f'$."{match[1]}"')
        else:
            raise ValueError(f"{name!r} is not a group; use one of {sorted(GROUPS)} or label:NAME")
    return expressions, tuple(values)


def _conditions(where: Filter | None) -> tuple[str, tuple[str | float, ...]]:
    """Return the SQL of a filter and the values bound in it."""
    if where is None:
        return "1", ()
    conditions: list[str] = ["1"]
    bound: list[str | float] = []
    if where.since_s is not None:
        conditions.append("started_time_s >= ?")
        bound.append(where.since_s)
    if where.until_s is not None:
        conditions.append("started_time_s < ?")
        bound.append(where.until_s)
    for name, value in where.equal.items():
        (expression,), values = _expressions((name,))
        conditions.append(f"{expression} = ?")
        bound += [*values, value]
    return " AND ".join(conditions), tuple(bound)


def _comparison_sums(baseline: str) -> tuple[str, str, str]:
    both = f"FILTER (WHERE {baseline} IS NOT NULL AND cost_nano_usd IS NOT NULL)"
    return (
        f"count(*) {both}",
        f"coalesce(sum({baseline}) {both}, 0)",
        f"coalesce(sum(cost_nano_usd) {both}, 0)",
    )


_SUMS = (
    "count(*)",
    f"count(*) FILTER (WHERE {_UNKNOWN})",
    f"coalesce(sum(cost_bound_nano_usd) FILTER (WHERE {_UNKNOWN}), 0)",
    f"count(*) FILTER (WHERE {_INCOMPLETE})",
    "coalesce(sum(cost_bound_nano_usd - cost_nano_usd)"
    f" FILTER (WHERE {_INCOMPLETE} AND NOT {_INCOMPLETE_UNBOUNDED}), 0)",
    f"count(*) FILTER (WHERE ({_UNKNOWN} AND cost_bound_nano_usd IS NULL)"
    f" OR ({_INCOMPLETE} AND {_INCOMPLETE_UNBOUNDED}))",
    "count(input_tokens)",
    *(f"coalesce(sum({column}), 0)" for column in (*_TOKENS, *_PARTS)),
    *(part for baseline in _BASELINES for part in _comparison_sums(baseline)),
)


def _cost_row(names: tuple[str, ...], row: Sequence[str | int]) -> CostRow:
    """Name the columns of a row of `costs`."""
    values = iter(row)
    group = {name: str(next(values)) for name in names}
    numbers = [int(value) for value in values]
    calls, unknown, unknown_bound, incomplete, incomplete_bound, unbounded, usage_calls = numbers[:7]
    tokens = numbers[7:13]
    parts = numbers[13:20]
    comparisons = [Comparison(*numbers[i : i + 3]) for i in range(20, 32, 3)]
    no_caching, all_opus, all_flash, all_opus_no_caching = comparisons
    return CostRow(
        group=group,
        calls=calls,
        cost=Cost(**dict(zip(_PARTS, parts, strict=True))),
        unknown_calls=unknown,
        unknown_bound_nano_usd=unknown_bound,
        incomplete_calls=incomplete,
        incomplete_bound_nano_usd=incomplete_bound,
        unbounded_calls=unbounded,
        usage_calls=usage_calls,
        tokens=Tokens(*tokens),
        no_caching=no_caching,
        all_opus=all_opus,
        all_flash=all_flash,
        all_opus_no_caching=all_opus_no_caching,
    )
