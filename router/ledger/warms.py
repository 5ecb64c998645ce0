"""Questions to the ledger about warms: what became of the decisions, what they cost, what they brought.

The rule: one row per decision that is settled; a decision is placed in time by itself, not by its end. Those of days
that are kept as sums go with their day's calls into sums of their own (`past_warms`), from which every question is
answered as from the rows; a decision is then placed at its day's beginning, UTC. Sums are exact integers; whether
warms earn their keep is told by `cache.regret`, against those held out at random, with an interval, and not at all
without two of each. Warms that an operator ordered are judged by nobody and have no verdict; decisions that were open
when a process died have none either: what they cost is in `calls`, by purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache.regret import Estimate, Moments, Owner, Result, estimate_of
from router.ledger.database import Database
from router.ledger.groups import DAY_S, Filter
from router.warm_verdict import WarmVerdict

_COLUMNS = (
    "warm_id", "tenant", "application", "trigger_name", "policy", "decided_time_s", "from_time_s", "until_time_s",
    "settled_time_s", "result", "came", "gain_nano_usd", "cost_nano_usd", "benefit_nano_usd", "benefit_s", "foresight",
)  # fmt: skip
INSERT = (
    f"INSERT INTO warms ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
    " ON CONFLICT (warm_id) DO NOTHING"
)

_GROUPS = {
    "tenant": "tenant",
    "application": "application",
    "trigger": "trigger_name",
    "policy": "policy",
    "result": "result",
    "foresight": "foresight",
    "hour": "strftime('%Y-%m-%dT%H:00Z', CAST(decided_time_s AS INTEGER), 'unixepoch')",
    "day": "strftime('%Y-%m-%d', CAST(decided_time_s AS INTEGER), 'unixepoch')",
    "month": "strftime('%Y-%m', CAST(decided_time_s AS INTEGER), 'unixepoch')",
}
WARM_GROUPS = frozenset(_GROUPS)
"""What decisions to warm can be grouped and filtered by; hours, days and months are UTC."""

PAST_SINCE = 7
"""Schema version from which verdicts on warms become sums."""
_RESULTS = tuple(result.value for result in Result)
_NANO = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRow:
    """What one group of decisions to warm came to; the sums leave out those held out, but for `held`.

    Attributes:
        group: Group name to its value, in the order asked for.
        used: Warms that a request read.
        wasted: Warms that nothing read before they lapsed.
        superfluous: Warms of a prefix that traffic had kept warm anyway.
        held_out: Decisions not carried out, at random.
        came: Of all decisions, those in whose window a request came.
        gain_nano_usd: What requests in the windows would have saved if all had come, as predicted.
        cost_nano_usd: What the warms cost.
        benefit_nano_usd: What they brought by their own prediction, cost taken off; negative when they lost: then it is
            regret. `estimate` corrects it by those held out.
        warmed, held: Sums behind `estimate`, USD.
    """

    group: Mapping[str, str]
    used: int
    wasted: int
    superfluous: int
    held_out: int
    came: int
    gain_nano_usd: int
    cost_nano_usd: int
    benefit_nano_usd: int
    warmed: Moments
    held: Moments

    @property
    def decisions(self) -> int:
        """All that were settled."""
        return self.used + self.wasted + self.superfluous + self.held_out

    @property
    def held_out_share(self) -> float | None:
        """Share held out, in [0, 1]; None without decisions."""
        return self.held_out / self.decisions if self.decisions else None

    @property
    def estimate(self) -> Estimate | None:
        """Mean benefit of a warm against the hold-out, USD, with its 95 % interval; None without two of each."""
        return estimate_of(self.warmed, self.held)


@dataclass(frozen=True, slots=True)
class PastWarm:
    """A settled decision as far as a process that has just started asks.

    Attributes:
        held_out: Whether no call was made.
    """

    owner: Owner
    trigger: str
    decided_s: float
    settled_s: float
    held_out: bool
    came: bool
    benefit_usd: float
    benefit_s: float


def row_of(verdict: WarmVerdict) -> tuple[str | int | float, ...]:
    """Return the columns of a verdict, in the order of `INSERT`."""
    return (
        verdict.warm_id,
        verdict.tenant,
        verdict.application,
        verdict.trigger,
        verdict.policy,
        verdict.decided_time_s,
        verdict.from_time_s,
        verdict.until_time_s,
        verdict.settled_time_s,
        verdict.result.value,
        int(verdict.came),
        verdict.gain_nano_usd,
        verdict.cost_nano_usd,
        verdict.benefit_nano_usd,
        verdict.benefit_s,
        verdict.foresight,
    )


_KEYS = ("tenant", "application", "trigger_name", "policy", "result", "foresight")
_SUMMED = (
    "decisions", "came", "gain_nano_usd", "cost_nano_usd", "benefit_nano_usd", "benefit_usd", "benefit_usd_squared",
    "benefit_s",
)  # fmt: skip
_OF_ROWS = (
    f"SELECT {', '.join(_KEYS)}, decided_time_s, 1 AS decisions, came, gain_nano_usd, cost_nano_usd, benefit_nano_usd,"
    " benefit_nano_usd / 1e9 AS benefit_usd,"
    " (benefit_nano_usd / 1e9) * (benefit_nano_usd / 1e9) AS benefit_usd_squared, benefit_s FROM warms"
)
_OF_DAYS = f"SELECT {', '.join(_KEYS)}, day_s AS decided_time_s, {', '.join(_SUMMED)} FROM past_warms"
_ADD = (
    f"INSERT INTO past_warms (day_s, {', '.join((*_KEYS, *_SUMMED))})"
    f" SELECT CAST(decided_time_s / {DAY_S} AS INTEGER) * {DAY_S}, {', '.join(_KEYS)},"
    f" {', '.join(f'sum({name})' for name in _SUMMED)} FROM ({_OF_ROWS}) AS warms WHERE decided_time_s < ?"
    " GROUP BY 1, 2, 3, 4, 5, 6, 7"
    f" ON CONFLICT (day_s, {', '.join(_KEYS)}) DO UPDATE SET"
    f" {', '.join(f'{name} = past_warms.{name} + excluded.{name}' for name in _SUMMED)}"
)
_SUMS = (
    *(f"coalesce(sum(decisions) FILTER (WHERE result = '{result}'), 0)" for result in _RESULTS),
    "coalesce(sum(came), 0)",
    *(
        f"coalesce(sum({column}) FILTER (WHERE result <> 'held_out'), 0)"
        for column in ("gain_nano_usd", "cost_nano_usd", "benefit_nano_usd")
    ),
    *(
        f"coalesce(sum({column}) FILTER (WHERE result {which} 'held_out'), 0.0)"
        for which in ("<>", "=")
        for column in ("benefit_usd", "benefit_usd_squared", "benefit_s")
    ),
)


def prune(connection: Database, before_s: float) -> int:
    """Move decisions from before into the sums by day, inside the caller's transaction; return how many rows went."""
    (some,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM warms WHERE decided_time_s < ?)", (before_s,)
    ).fetchone()
    if not some:
        return 0
    connection.execute(_ADD, (before_s,))
    return connection.execute("DELETE FROM warms WHERE decided_time_s < ?", (before_s,)).rowcount


def warms(
    connection: Database, group_by: Sequence[str], where: Filter | None, *, past: bool = True
) -> list[WarmRow]:
    """Return one row per group of settled decisions, by the groups' values; see `LedgerReader.warms`.

    Args:
        past: Whether the database has sums by day.
    """
    keys = [_expression(name) for name in group_by]
    condition, bound = _condition(where)
    positions = ", ".join(str(index + 1) for index in range(len(keys)))
    clauses = f" GROUP BY {positions} ORDER BY {positions}" if keys else ""
    rows = f"{_OF_ROWS} UNION ALL {_OF_DAYS}" if past else _OF_ROWS
    sql = f"SELECT {', '.join([*keys, *_SUMS])} FROM ({rows}) AS warms WHERE {condition}{clauses}"
    return [_row(tuple(group_by), row) for row in connection.execute(sql, bound)]


def last_warms(connection: Database, limit: int) -> list[PastWarm]:
    """Return the last `limit` decisions that were settled, in that order."""
    rows = connection.execute(
        "SELECT tenant, application, trigger_name, decided_time_s, settled_time_s, result, came, benefit_nano_usd,"
        " benefit_s FROM (SELECT * FROM warms ORDER BY id DESC LIMIT ?) AS latest ORDER BY id",
        (limit,),
    )
    return [
        PastWarm(
            (tenant, application),
            trigger,
            decided_s,
            settled_s,
            result == Result.HELD_OUT.value,
            bool(came),
            benefit / _NANO,
            benefit_s,
        )
        for tenant, application, trigger, decided_s, settled_s, result, came, benefit, benefit_s in rows
    ]


def _expression(name: str) -> str:
    if name not in _GROUPS:
        raise ValueError(f"{name!r} is not a group of warms; use one of {sorted(WARM_GROUPS)}")
    return _GROUPS[name]


def _condition(where: Filter | None) -> tuple[str, tuple[str | float, ...]]:
    """Return the SQL of a filter and the values bound in it."""
    found, bound = ["1 = 1"], list[str | float]()
    if where is None:
        return found[0], ()
    for operator, limit in ((">=", where.since_s), ("<", where.until_s)):
        if limit is not None:
            found.append(f"decided_time_s {operator} ?")
            bound.append(limit)
    for name, value in where.equal.items():
        found.append(f"{_expression(name)} = ?")
        bound.append(value)
    return " AND ".join(found), tuple(bound)


def _row(names: tuple[str, ...], row: Sequence[str | float]) -> WarmRow:
    count = len(names)
    used, wasted, superfluous, held_out, came, gain, cost, benefit = map(int, row[count : count + 8])
    usd, squares, seconds, off_usd, off_squares, off_seconds = map(float, row[count + 8 :])
    return WarmRow(
        group=dict(zip(names, map(str, row[:count]), strict=True)),
        used=used,
        wasted=wasted,
        superfluous=superfluous,
        held_out=held_out,
        came=came,
        gain_nano_usd=gain,
        cost_nano_usd=cost,
        benefit_nano_usd=benefit,
        warmed=Moments(used + wasted + superfluous, usd, squares, seconds),
        held=Moments(held_out, off_usd, off_squares, off_seconds),
    )
