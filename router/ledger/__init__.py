"""Durable truth about every call: journalled before money is spent, settled once, never silent after a crash.

See README.md beside this file for the design, its guarantees and its measured cost.
"""

from router.ledger.groups import GROUPS, Comparison, Filter
from router.ledger.judged import DecidedAttempt, DecidedRequest
from router.ledger.ledger import Ledger, LedgerLocked, LedgerSettings, LedgerStats
from router.ledger.misses import MISS_GROUPS, CachingRow, DearMiss, MissRow
from router.ledger.place import DATABASE, Place, Server, place_of
from router.ledger.queries import Interrupted, LedgerReader
from router.ledger.recent import PastFirstByte, Turn
from router.ledger.recovery import Recovery
from router.ledger.schema import WARMS_SINCE, SchemaTooNew
from router.ledger.store import LedgerStore, StoreError
from router.ledger.sums import CostRow, Tokens
from router.ledger.warms import WARM_GROUPS, PastWarm, WarmRow

__all__ = [
    "DATABASE",
    "GROUPS",
    "MISS_GROUPS",
    "WARMS_SINCE",
    "WARM_GROUPS",
    "CachingRow",
    "Comparison",
    "CostRow",
    "DearMiss",
    "DecidedAttempt",
    "DecidedRequest",
    "Filter",
    "Interrupted",
    "Ledger",
    "LedgerLocked",
    "LedgerReader",
    "LedgerSettings",
    "LedgerStats",
    "LedgerStore",
    "MissRow",
    "PastFirstByte",
    "PastWarm",
    "Place",
    "Recovery",
    "SchemaTooNew",
    "Server",
    "StoreError",
    "Tokens",
    "Turn",
    "WarmRow",
    "place_of",
]
