"""What filler cost: the question to the ledger, apart from the calls it lies in.

The rule: as in `queries`. Padding is a part of the input of a call and of its cost; here it is summed by itself, over
the calls that answered a user, so that it can stand beside the calls that are overhead as a whole without being
counted twice. Padding of unknown cost is counted beside the sum; a call whose padding itself is not known (it was
interrupted) is one of unknown cost in any case and is left to that count.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.ledger.database import Database
from router.ledger.groups import CALL_GROUPS, Filter, conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Filler in users' calls.

    Attributes:
        calls: Calls with filler.
        tokens: Part of their input that is filler.
        cost_nano_usd: What it cost, where that is known.
        unknown_calls: Calls with filler of unknown cost.
    """

    calls: int
    tokens: int
    cost_nano_usd: int
    unknown_calls: int


def padding(connection: Database, where: Filter | None = None) -> Padding:
    """Sum the filler of the calls that answered users."""
    condition, bound = conditions(where, CALL_GROUPS)
    row = connection.execute(
        "SELECT count(*), coalesce(sum(padding_tokens), 0), coalesce(sum(padding_nano_usd), 0),"
        f" count(*) - count(padding_nano_usd) FROM calls WHERE padding_tokens > 0 AND {condition}"
        " AND role = 'answer'",
        bound,
    ).fetchone()
    calls, tokens, cost, unknown = row
    return Padding(calls=calls, tokens=tokens, cost_nano_usd=cost, unknown_calls=unknown)
