"""What the ledger needs of a database: a small protocol, so that another one can take SQLite's place.

The rule: `write` is one transaction and idempotent by (request_id, attempt), so replaying a journal, whole or
in part, any number of times, leaves every call in the store exactly once. Calls come from one thread at a
time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from router.feedback import Feedback, Receipt
from router.ledger.codec import IntentRecord, SettlementRecord
from router.warm_verdict import WarmVerdict


class Brought(NamedTuple):
    """The last settlement of a journal that the store took.

    Attributes:
        settled_time_s: Seconds since the epoch; tells what came after it where the journal has lost its line.
    """

    request_id: str
    attempt: int
    settled_time_s: float

    @classmethod
    def of(cls, record: SettlementRecord) -> Brought:
        """That settlement."""
        return cls(*record.key, record.settlement.settled_time_s)


NOTHING_BROUGHT = Brought("", 0, 0.0)
"""No settlement's."""


class StoreError(Exception):
    """The store could not do it now (disk full, locked, away); the same request may work later."""


class Unstorable(StoreError):
    """A value that no column takes; the same will never work."""


@dataclass(frozen=True, slots=True)
class Written:
    """What came of a batch.

    Attributes:
        stored: Settlements that are new in the store.
        repeated: Settlements it already had, byte for byte.
        conflicting: Settlements of a call that is settled differently, or that cannot be stored; kept aside.
    """

    stored: int
    repeated: int
    conflicting: int


class LedgerStore(Protocol):
    """Durable home of settlements and of intents that outlive their journal segment."""

    @property
    def pruned_before_s(self) -> float:
        """Calls that began before are kept as sums by day, seconds since the epoch; -inf for none."""
        ...

    def last_brought(self) -> Brought | None:
        """Return the last settlement that this journal is known to have brought; NOTHING_BROUGHT where it is known to
        have brought none, None where that is not known.
        """
        ...

    def write(
        self,
        settled: Sequence[SettlementRecord],
        open_intents: Sequence[IntentRecord],
        now_s: float,
        *,
        brought: Brought | None = None,
        late: bool = False,
    ) -> Written:
        """Store settlements, forget their intents, keep `open_intents`; all or nothing.

        Args:
            brought: The last of these in the journal's order, when all before it have been brought; see `last_brought`.
            late: Whether these are known to be in no sum, so that one that began before the day up to which calls are
                kept as sums is stored all the same, to be moved there in its turn.

        Raises:
            StoreError: Nothing was written.
        """
        ...

    def keep_feedback(
        self, feedback: Sequence[Feedback], open_requests: Mapping[str, str], oldest_s: float
    ) -> list[Receipt]:
        """Keep judgements of requests that are known, one transaction for all; say of each what came of it.

        The same again changes nothing, and an older one never takes the place of a newer, so replaying is harmless.

        Args:
            open_requests: Users' requests in progress that the store need not know yet: id to tenant.
            oldest_s: Requests that began before are past being judged, seconds since the epoch.

        Raises:
            StoreError: Nothing was written.
        """
        ...

    def keep_warms(self, verdicts: Sequence[WarmVerdict]) -> int:
        """Keep what decisions to warm came to, one transaction for all; return how many are new.

        The first verdict on a decision (`warm_id`) stands, so replaying is harmless. One that cannot be stored at all
        is logged and left out.

        Raises:
            StoreError: Nothing was written.
        """
        ...

    def prune(self, before_s: float, limit: int) -> int:
        """Move about `limit` of the oldest calls that began before into sums by day, one transaction; see `past`.

        From then on a call that began before is in the sums, and storing it (again) is a repetition.

        Args:
            before_s: A day's beginning, UTC, seconds since the epoch.

        Returns:
            How many were moved; 0 when none is left.

        Raises:
            StoreError: Nothing was moved.
        """
        ...

    def prefix_key(self) -> bytes:
        """Return the key under which prompts are named here, drawn when it is asked for the first time; see `prefixes`.

        Raises:
            StoreError: It can be neither read nor kept.
        """
        ...

    def open_intents(self) -> list[IntentRecord]:
        """Return the intents kept by `write` and not settled since, but for those of other processes that still run."""
        ...

    def interrupt(self, intents: Sequence[IntentRecord], found_time_s: float, *, late: bool = False) -> int:
        """Store intents whose process died as interrupted calls, cost unknown; return how many are new.

        Args:
            late: As for `write`.

        Raises:
            StoreError: Nothing was written.
        """
        ...

    def make_durable(self) -> bool:
        """Make everything written survive a power cut; False when it could not be finished now."""
        ...

    def break_off(self) -> None:
        """Make a write that waits for a database that does not answer fail now; from any thread."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...
