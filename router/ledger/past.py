"""Calls that are not kept any more: their sums by day, and what takes them away.

The rule: a call is in `calls` or in the sums of `past`, never in both and never in neither; what moves it moves it in
one transaction, with misses, judgements and prefix, which no sum keeps. Days are UTC and whole: calls go when the day
of their start has ended long enough ago. `pruned` says up to when; whatever began before and is stored again (a journal
replayed twice) is in the sums already. Sums keep route, role, purpose, upstream, model, tenant and application; users,
sessions, labels and single calls are gone, and a question by these cannot be answered for the past.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.ledger import warms
from router.ledger.database import Database
from router.ledger.groups import CALL_GROUPS, DAY_S, Filter, conditions, expressions
from router.ledger.sums import NAMES, SUMS, CostRow, cost_row

SINCE = 6
"""Schema version from which there is a past."""
_KEYS = ("route", "role", "purpose", "upstream", "model", "tenant", "application")
_PAST_GROUPS = {name: name for name in _KEYS} | {
    "day": "strftime('%Y-%m-%d', day_s, 'unixepoch')",
    "month": "strftime('%Y-%m', day_s, 'unixepoch')",
}
PAST_GROUPS = frozenset(_PAST_GROUPS)
"""What the past can be grouped and filtered by."""

_ADD = (
    f"INSERT INTO past (day_s, {', '.join((*_KEYS, *NAMES))})"
    f" SELECT CAST(started_time_s / {DAY_S} AS INTEGER) * {DAY_S}, {', '.join(CALL_GROUPS[key] for key in _KEYS)},"
    f" {', '.join(SUMS)} FROM calls WHERE started_time_s <= ? GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
    f" ON CONFLICT (day_s, {', '.join(_KEYS)}) DO UPDATE SET"
    f" {', '.join(f'{name} = past.{name} + excluded.{name}' for name in NAMES)}"
)
_TAKE_AWAY = (
    "DELETE FROM misses WHERE (request_id, attempt) IN"
    " (SELECT request_id, attempt FROM calls WHERE started_time_s <= ?)",
    "DELETE FROM prefixes WHERE call IN (SELECT id FROM calls WHERE started_time_s <= ?)",
    "DELETE FROM feedback WHERE request_id IN (SELECT request_id FROM calls AS gone WHERE gone.started_time_s <= ?"
    " AND NOT EXISTS (SELECT 1 FROM calls AS left_over WHERE left_over.request_id = gone.request_id"
    " AND left_over.started_time_s > ?))",
    "DELETE FROM calls WHERE started_time_s <= ?",
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What has been taken away so far.

    Attributes:
        before_s: Calls that began before are in the sums, seconds since the epoch; a day's beginning.
        calls: How many.
    """

    before_s: float
    calls: int


@dataclass(frozen=True, slots=True)
class Past:
    """What a question's window has lost to the sums.

    Attributes:
        before_s: Calls that began before are not kept, seconds since the epoch.
        sums: Of those the question is about; None when that cannot be told any more, as of a part of a day.
    """

    before_s: float
    sums: CostRow | None


def whole_days(before_s: float) -> float:
    """Return the beginning of the day, UTC, that an instant lies in."""
    return float(before_s // DAY_S * DAY_S)


def prune(connection: Database, before_s: float, limit: int) -> int:
    """Move about `limit` of the oldest calls that began before into the sums, inside the caller's transaction.

    Verdicts on warms go with the calls of their time, the last ones when no call is left.

    Args:
        before_s: A day's beginning, seconds since the epoch.
        limit: >= 1; calls that began at the same instant go together.

    Returns:
        How many were moved; 0 when none is left.
    """
    found = connection.execute(
        "SELECT started_time_s FROM calls WHERE started_time_s < ? ORDER BY started_time_s LIMIT 1 OFFSET ?",
        (before_s, limit - 1),
    ).fetchone()
    if found is None:
        found = connection.execute(
            "SELECT max(started_time_s) FROM calls WHERE started_time_s < ?", (before_s,)
        ).fetchone()
    (last_s,) = found
    if last_s is None:
        if warms.prune(connection, before_s):
            _note(connection, before_s, 0)
        return 0
    connection.execute(_ADD, (last_s,))
    for statement in _TAKE_AWAY:
        count = connection.execute(statement, (last_s,) * statement.count("?")).rowcount
    warms.prune(connection, last_s)
    _note(connection, before_s, count)
    return int(count)


def _note(connection: Database, before_s: float, count: int) -> None:
    connection.execute(
        "INSERT INTO pruned (id, before_time_s, calls) VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " before_time_s = CASE WHEN excluded.before_time_s > pruned.before_time_s THEN excluded.before_time_s"
        " ELSE pruned.before_time_s END, calls = pruned.calls + excluded.calls",
        (before_s, count),
    )


def pruned(connection: Database) -> Pruned | None:
    """Return what has been taken away, None when nothing was."""
    row = connection.execute("SELECT before_time_s, calls FROM pruned WHERE id = 1").fetchone()
    return None if row is None else Pruned(*row)


def past_costs(
    connection: Database, group_by: Sequence[str] = (), where: Filter | None = None
) -> list[CostRow]:
    """Return the sums of calls that are not kept, one row per group, by the groups' values.

    A day counts when it begins within the window; which of its calls did is not known any more.

    Raises:
        ValueError: A group or filter name is not one of `PAST_GROUPS`.
    """
    for name in (*group_by, *(() if where is None else where.equal)):
        if name not in PAST_GROUPS:
            raise ValueError(
                f"{name!r} is not a group of calls that are not kept; use one of {sorted(PAST_GROUPS)}"
            )
    keys, values = expressions(group_by, _PAST_GROUPS)
    condition, bound = conditions(where, _PAST_GROUPS)
    positions = ", ".join(str(index + 1) for index in range(len(keys)))
    sums = (f"coalesce(sum({name}), 0)" for name in NAMES)
    rows = connection.execute(
        f"SELECT {', '.join([*keys, *sums])} FROM (SELECT *, day_s AS started_time_s FROM past) AS past"
        f" WHERE {condition}" + (f" GROUP BY {positions} ORDER BY {positions}" if keys else ""),
        (*values, *bound),
    )
    return [cost_row(tuple(group_by), row) for row in rows]


def _cuts(connection: Database, where: Filter, before_s: float) -> bool:
    """Whether the window begins or ends within a day of which calls are gone: nobody knows how many it holds."""
    for bound_s in (where.since_s, where.until_s):
        if bound_s is None or bound_s >= before_s or bound_s == whole_days(bound_s):
            continue
        day_s = whole_days(bound_s)
        (cut,) = past_costs(connection, (), replace(where, since_s=day_s, until_s=day_s + DAY_S))
        if cut.calls:
            return True
    return False


def past_of(connection: Database, where: Filter | None = None) -> Past | None:
    """Return what a question about kept calls leaves out, None for nothing."""
    gone = pruned(connection)
    if gone is None or (where is not None and where.since_s is not None and where.since_s >= gone.before_s):
        return None
    if where is not None and not PAST_GROUPS.issuperset(where.equal):
        return Past(gone.before_s, None)
    if where is not None and _cuts(connection, where, gone.before_s):
        return Past(gone.before_s, None)
    (sums,) = past_costs(connection, (), where)
    return Past(gone.before_s, sums) if sums.calls else None
