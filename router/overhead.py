"""What the router spends on its own account, and what routing and caching saved once that is taken off.

The rule: pure. Rows of the ledger go in; every figure is a sum of the ledger or a difference of two, exact and signed.
Each call counts once: as an answer to a user, or as overhead of one kind. Padding is a part of an answer's cost, named
by itself. Exploration is no cost of its own either: the same request would have been answered on the other route, so
it is set against that. What nobody knows is counted beside the sums, with its bound.

Words used:
    warm, probe, shadow  calls that no user asked for, by purpose
    discarded            answers that showed a failure and were not handed on
    retried              tries that another try of the same request followed
    explored             answers whose route was drawn at random, for training
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.ledger import Comparison, CostRow, Filter, LedgerReader
from router.ledger.padding import Padding, padding

KINDS = ("warm", "probe", "shadow", "discarded", "retried")
"""Roles of calls that are overhead, in the order they are shown."""
ANSWER = "answer"
COMPARISONS: Mapping[str, Callable[[CostRow], Comparison]] = {
    "no_caching": lambda row: row.no_caching,
    "all_opus": lambda row: row.all_opus,
    "all_flash": lambda row: row.all_flash,
    "all_opus_no_caching": lambda row: row.all_opus_no_caching,
    "never_switch": lambda row: row.never_switch,
}
"""What a row is compared with, by the name of the counterfactual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Calls of one kind of overhead.

    Attributes:
        known_calls: Calls whose cost is in `cost_nano_usd`, refused ones that cost nothing included.
        unknown_calls: The others; `unknown_bound_nano_usd` is the most those with a bound can have cost.
        floor_calls: Calls in the sum with a floor; `floor_bound_nano_usd` is the most they can have cost beyond it.
        unbounded_calls: Calls of either kind without a bound.
    """

    name: str
    calls: int = 0
    cost_nano_usd: int = 0
    unknown_calls: int = 0
    unknown_bound_nano_usd: int = 0
    floor_calls: int = 0
    floor_bound_nano_usd: int = 0
    unbounded_calls: int = 0

    @property
    def known_calls(self) -> int:
        """Calls whose cost is in the sum."""
        return self.calls - self.unknown_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """Answers of one route that was drawn at random, beside what the other route would have cost.

    Attributes:
        calls: Answers; `other_route` compares those where both costs are known.
    """

    route: str
    calls: int
    cost_nano_usd: int
    unknown_calls: int
    other_route: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class NetSaving:
    """A counterfactual beside what users' answers cost, and what is left once overhead is taken off.

    Attributes:
        name: Counterfactual, as in `MEANINGS`.
        answers: Over the answers where both costs are known.
        overhead_nano_usd: All overhead of known cost; a router that neither routed nor cached would have had none.
    """

    name: str
    answers: Comparison
    overhead_nano_usd: int

    @property
    def net_nano_usd(self) -> int | None:
        """Saving less overhead, negative when it cost more; None when nothing could be compared."""
        return self.answers.saving_nano_usd - self.overhead_nano_usd if self.answers.calls else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """All of it, over one selection of calls.

    Attributes:
        answers: Calls that answered users.
        answered_nano_usd: What those of known cost did cost.
        padding: Filler within those answers.
    """

    answers: int
    answered_nano_usd: int
    kinds: tuple[Kind, ...]
    padding: Padding
    explored: tuple[Exploration, ...]
    savings: tuple[NetSaving, ...]

    @property
    def calls_nano_usd(self) -> int:
        """Known cost of calls that are overhead as a whole."""
        return sum(kind.cost_nano_usd for kind in self.kinds)

    @property
    def total_nano_usd(self) -> int:
        """Known cost of overhead, padding within answers included."""
        return self.calls_nano_usd + self.padding.cost_nano_usd

    @property
    def spent_nano_usd(self) -> int:
        """Known cost of everything."""
        return self.answered_nano_usd + self.calls_nano_usd

    @property
    def unknown_calls(self) -> int:
        """Overhead calls of unknown cost."""
        return sum(kind.unknown_calls for kind in self.kinds)


def overhead_of(reader: LedgerReader, where: Filter | None = None) -> Overhead:
    """Ask the ledger, all of one instant.

    Raises:
        ValueError: A filter name is unknown.
        StoreError: The ledger is of an older release, or cannot be read.
    """
    with reader.snapshot():
        rows = reader.costs(("role", "explored", "route"), where)
        filler = reader.ask(lambda connection: padding(connection, where))
    return overhead(rows, filler)


def overhead(rows: Sequence[CostRow], filler: Padding) -> Overhead:
    """Sum up rows by "role", "explored" and "route"."""
    answers = [row for row in rows if row.group["role"] == ANSWER]
    kinds = tuple(_kind(name, [row for row in rows if row.group["role"] == name]) for name in KINDS)
    spent = sum(kind.cost_nano_usd for kind in kinds)
    return Overhead(
        answers=sum(row.calls for row in answers),
        answered_nano_usd=sum(row.cost.total_nano_usd for row in answers),
        kinds=kinds,
        padding=filler,
        explored=tuple(_explored(row) for row in answers if row.group["explored"] == "yes"),
        savings=tuple(
            NetSaving(name=name, answers=_sum([of(row) for row in answers]), overhead_nano_usd=spent)
            for name, of in COMPARISONS.items()
        ),
    )


def overhead_json(found: Overhead) -> dict[str, Any]:
    """Return it as a JSON object: money in nano-USD, unknown as null."""
    return {
        "answers": {"calls": found.answers, "cost_nano_usd": found.answered_nano_usd},
        "overhead": {
            kind.name: {
                "calls": kind.calls,
                "cost_nano_usd": kind.cost_nano_usd if kind.known_calls or not kind.calls else None,
                "unknown_calls": kind.unknown_calls,
                "unknown_bound_nano_usd": kind.unknown_bound_nano_usd,
                "floor_calls": kind.floor_calls,
                "floor_bound_nano_usd": kind.floor_bound_nano_usd,
                "unbounded_calls": kind.unbounded_calls,
            }
            for kind in found.kinds
        },
        "padding": {
            "calls": found.padding.calls,
            "tokens": found.padding.tokens,
            "cost_nano_usd": found.padding.cost_nano_usd,
            "unknown_calls": found.padding.unknown_calls,
        },
        "total_nano_usd": found.total_nano_usd,
        "explored": [
            {
                "route": each.route,
                "calls": each.calls,
                "cost_nano_usd": each.cost_nano_usd,
                "unknown_calls": each.unknown_calls,
                "compared_calls": each.other_route.calls,
                "other_route_nano_usd": each.other_route.baseline_nano_usd
                if each.other_route.calls
                else None,
                "extra_nano_usd": -each.other_route.saving_nano_usd if each.other_route.calls else None,
            }
            for each in found.explored
        ],
        "savings": [
            {
                "against": each.name,
                "compared_calls": each.answers.calls,
                "counterfactual_nano_usd": each.answers.baseline_nano_usd if each.answers.calls else None,
                "cost_nano_usd": each.answers.cost_nano_usd if each.answers.calls else None,
                "saving_nano_usd": each.answers.saving_nano_usd if each.answers.calls else None,
                "overhead_nano_usd": each.overhead_nano_usd,
                "net_saving_nano_usd": each.net_nano_usd,
            }
            for each in found.savings
        ],
    }


def _kind(name: str, rows: Sequence[CostRow]) -> Kind:
    return Kind(
        name=name,
        calls=sum(row.calls for row in rows),
        cost_nano_usd=sum(row.cost.total_nano_usd for row in rows),
        unknown_calls=sum(row.unknown_calls for row in rows),
        unknown_bound_nano_usd=sum(row.unknown_bound_nano_usd for row in rows),
        floor_calls=sum(row.incomplete_calls for row in rows),
        floor_bound_nano_usd=sum(row.incomplete_bound_nano_usd for row in rows),
        unbounded_calls=sum(row.unbounded_calls for row in rows),
    )


def _explored(row: CostRow) -> Exploration:
    route = row.group["route"]
    return Exploration(
        route=route,
        calls=row.calls,
        cost_nano_usd=row.cost.total_nano_usd,
        unknown_calls=row.unknown_calls,
        other_route=row.all_flash if route == "opus" else row.all_opus,
    )


def _sum(comparisons: Sequence[Comparison]) -> Comparison:
    return Comparison(
        sum(each.calls for each in comparisons),
        sum(each.baseline_nano_usd for each in comparisons),
        sum(each.cost_nano_usd for each in comparisons),
    )
