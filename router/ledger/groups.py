"""What questions to the ledger can be grouped and filtered by, as SQL over its tables.

The rule: names come from a fixed list, labels and values are bound, so nothing a caller sends becomes SQL. A call is
placed in time by its start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DAY_S = 86_400

CALL_GROUPS = {
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
    "discarded": "discarded",
    "role": "role",
    "reason": "coalesce(reason, '')",
    "explored": "CASE WHEN explored = 1 THEN 'yes' ELSE 'no' END",
    "request": "request_id",
    "minute": "strftime('%Y-%m-%dT%H:%MZ', CAST(started_time_s AS INTEGER), 'unixepoch')",
    "hour": "strftime('%Y-%m-%dT%H:00Z', CAST(started_time_s AS INTEGER), 'unixepoch')",
    "day": "strftime('%Y-%m-%d', CAST(started_time_s AS INTEGER), 'unixepoch')",
    "month": "strftime('%Y-%m', CAST(started_time_s AS INTEGER), 'unixepoch')",
}
"""The SQL over `calls` behind each group's name. Times are cut to the second: SQLite would round to the nearest
thousandth, and so put the last half of one before midnight into the next day, other than a filter does. "discarded" is
the failure of an answer nobody got; what a role is, is told in `told`. Users, labels, strategies, causes of misses,
reasons and requests are not in the index that reports are answered from: a second or two for a million calls instead of
a part of one."""
GROUPS = frozenset(CALL_GROUPS)
"""What costs can be grouped and filtered by, besides `label:NAME`; minutes, hours, days and months are UTC."""

_LABEL = re.compile(r'label:([^"\\\x00-\x1f]{1,128})')


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


def expressions(names: Sequence[str], groups: Mapping[str, str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the SQL of groups and the values bound in it.

    Raises:
        ValueError: A name is neither in `groups` nor a label.
    """
    found, values = [], []
    for name in names:
        if name in groups:
            found.append(groups[name])
        elif match := _LABEL.fullmatch(name):
            found.append("coalesce(json_extract(labels, ?), '')")
            values.append(f'$."{match[1]}"')
        else:
            raise ValueError(f"{name!r} is not a group; use one of {sorted(groups)} or label:NAME")
    return found, tuple(values)


def conditions(where: Filter | None, groups: Mapping[str, str]) -> tuple[str, tuple[str | float, ...]]:
    """Return the SQL of a filter and the values bound in it.

    Raises:
        ValueError: A name is neither in `groups` nor a label.
    """
    if where is None:
        return "TRUE", ()
    found: list[str] = ["TRUE"]
    bound: list[str | float] = []
    if where.since_s is not None:
        found.append("started_time_s >= ?")
        bound.append(where.since_s)
    if where.until_s is not None:
        found.append("started_time_s < ?")
        bound.append(where.until_s)
    for name, value in where.equal.items():
        (expression,), values = expressions((name,), groups)
        found.append(f"{expression} = ?")
        bound += [*values, value]
    return " AND ".join(found), tuple(bound)
