"""The ledger's store in tables: what both databases do alike, each with a connection of its own.

The rule: one transaction, idempotent by (request_id, attempt). A batch goes in at once; only when one of its records is
there already, contradicts one, or cannot be stored, is it gone through one by one. What differs between databases is
how a transaction is begun, how rows go in, who else may have intents, and when a write survives a power cut.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from math import inf
from typing import ClassVar

from router.feedback import Feedback, Receipt, Received
from router.ledger import codec, judged, past, prefixes, warms
from router.ledger.codec import IntentRecord, Key, SettlementRecord
from router.ledger.database import Database, Value
from router.ledger.rows import COLUMNS, MISS_COLUMNS, interrupted_row, miss_rows, settled_row
from router.ledger.store import Brought, Unstorable, Written
from router.ledger.told import note_retried
from router.settlement import Intent
from router.warm_verdict import WarmVerdict

_LOG = logging.getLogger("router.ledger")

Row = tuple[Value, ...]


class TableStore(ABC):
    """A `LedgerStore` over a `Database`; the subclass opens it."""

    impossible: ClassVar[tuple[type[Exception], ...]] = (
        AttributeError,
        TypeError,
        ValueError,
        OverflowError,
        Unstorable,
    )
    """What a record that can never be stored raises; trying again would hold up every other one behind it."""
    _turn_to_judge: ClassVar[str] = ""
    """Statement that waits until nobody else is judging; none where nobody else can be."""
    _connection: Database
    _pruned_before_s: float = -inf
    _kept: set[Key]
    """Calls whose intents the store has from this process."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[None]:
        """Run the body in one transaction.

        Raises:
            StoreError: Nothing was written, or nobody knows whether it was.
        """

    @abstractmethod
    def _insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> int:
        """Insert rows whose keys are not there; return how many were not."""

    @abstractmethod
    def _insert_prefixes(self, rows: Sequence[Row]) -> None:
        """Insert rows of `prefixes.COLUMNS` for calls that are there."""

    @abstractmethod
    def _keep_intents(self, intents: Sequence[IntentRecord], now_s: float) -> None:
        """Keep intents in progress, instead of what is kept under their ids, as of `now_s`."""

    @abstractmethod
    def open_intents(self) -> list[IntentRecord]:
        """Return the intents kept by `write` that no running process will settle."""

    @abstractmethod
    def make_durable(self) -> bool:
        """Make everything written survive a power cut; False when it could not be finished now."""

    def break_off(self) -> None:  # noqa: B027 - a file answers, or fails by itself
        """Make a write that waits for a database that does not answer fail now; from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Release the store."""

    @property
    def pruned_before_s(self) -> float:
        """Calls that began before are kept as sums by day; see `LedgerStore.pruned_before_s`."""
        return self._pruned_before_s

    def last_brought(self) -> Brought | None:
        """Return the last settlement that this journal brought, None for unknown: one process alone need not ask."""
        return None

    def _note_brought(self, last: Brought) -> None:  # noqa: B027 - as `last_brought`
        """Note the last settlement of this journal, in the transaction that stores it."""

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

        Raises:
            StoreError: Nothing was written, or all of it, and writing it again is harmless.
        """
        before_s = -inf if late else self._pruned_before_s
        news = [each for each in settled if each.settlement.intent.started_time_s >= before_s]
        repeated = len(settled) - len(news)
        self._say_taken_for_summed(repeated, "settlements")
        with self._transaction():
            written = self._insert(news, now_s)
            if repeated:
                written = replace(written, repeated=written.repeated + repeated)
            if written.stored:
                note_retried(self._connection, [record.settlement.intent.request_id for record in settled])
            known = [record.key for record in settled if record.key in self._kept]
            self._forget(known)
            if open_intents:
                self._keep_intents(open_intents, now_s)
            if brought is not None:
                self._note_brought(brought)
        self._kept.difference_update(known)
        self._kept.update(record.key for record in open_intents)
        return written

    def prefix_key(self) -> bytes:
        """Return the key under which prompts are named here; see `LedgerStore.prefix_key`.

        Raises:
            StoreError: As `write`.
        """
        return prefixes.key_of(self._connection)

    def keep_feedback(
        self, feedback: Sequence[Feedback], open_requests: Mapping[str, str], oldest_s: float
    ) -> list[Receipt]:
        """Keep judgements of requests that are known; see `LedgerStore.keep_feedback`.

        Raises:
            StoreError: As `write`.
        """
        with self._transaction():
            if self._turn_to_judge:
                self._connection.execute(self._turn_to_judge)
            return [self._keep_judgement(each, open_requests, oldest_s) for each in feedback]

    def keep_warms(self, verdicts: Sequence[WarmVerdict]) -> int:
        """Keep what decisions to warm came to; see `LedgerStore.keep_warms`.

        Raises:
            StoreError: As `write`.
        """
        with self._transaction():
            # One that was decided before is in the sums already: it came from a journal that is replayed again.
            return sum(
                [
                    self._keep_warm(verdict)
                    for verdict in verdicts
                    if verdict.decided_time_s >= self._pruned_before_s
                ]
            )

    def prune(self, before_s: float, limit: int) -> int:
        """Move about `limit` of the oldest calls that began before into sums by day; see `LedgerStore.prune`.

        Raises:
            StoreError: As `write`.
        """
        with self._transaction():
            count = past.prune(self._connection, before_s, limit)
        self._note_pruned()
        return count

    def _note_pruned(self) -> None:
        """Look up to when calls are not kept any more."""
        pruned = past.pruned(self._connection)
        self._pruned_before_s = -inf if pruned is None else pruned.before_s

    def interrupt(self, intents: Sequence[IntentRecord], found_time_s: float, *, late: bool = False) -> int:
        """Store intents whose process died as interrupted calls, cost unknown; return how many are new.

        Raises:
            StoreError: As `write`.
        """
        new = 0
        before_s = -inf if late else self._pruned_before_s
        news = [each for each in intents if each.intent.started_time_s >= before_s]
        self._say_taken_for_summed(len(intents) - len(news), "interrupted calls")
        with self._transaction():
            for record in news:
                if self._insert_rows("calls", COLUMNS, [interrupted_row(record, found_time_s)]):
                    new += 1
                elif not self._accounted_for(record.intent):
                    self._put_aside(
                        record.key, "an interrupted call has the id of another", record.body, found_time_s
                    )
                    new += 1
            keys = [record.key for record in intents]
            note_retried(self._connection, [request_id for request_id, _ in keys])
            self._forget(keys)
        self._kept.difference_update(keys)
        return new

    def _say_taken_for_summed(self, count: int, what: str) -> None:
        """Say what is left out: of a router that was away for longer than calls are kept, sums may lack it."""
        if count:
            _LOG.warning(
                "%d %s began before the day up to which calls are kept as sums; they are taken for part of them",
                count,
                what,
            )

    def _insert(self, settled: Sequence[SettlementRecord], now_s: float) -> Written:
        """Insert settlements; when one is repeated, conflicting or impossible, go through them one by one."""
        if not settled:
            return Written(0, 0, 0)
        self._connection.execute("SAVEPOINT batch")
        try:
            stored = self._insert_rows("calls", COLUMNS, [settled_row(record) for record in settled])
            if stored == len(settled):
                self._insert_misses(settled)
                self._note_prefixes(settled)
        except self.impossible:
            stored = -1
        if stored != len(settled):
            self._connection.execute("ROLLBACK TO batch")
        self._connection.execute("RELEASE batch")
        if stored == len(settled):
            return Written(stored, 0, 0)
        counts = {"stored": 0, "repeated": 0, "conflicting": 0}
        for record in settled:
            counts[self._insert_one(record, now_s)] += 1
        return Written(**counts)

    def _insert_misses(self, settled: Sequence[SettlementRecord]) -> None:
        """Insert what settlements that are new have missed."""
        rows: list[Row] = []
        for record in settled:
            cache = record.settlement.cache
            if cache is not None and (cache.miss_cause or cache.misses):
                rows += miss_rows(record.key, cache)
        if rows:
            self._insert_rows("misses", MISS_COLUMNS, rows)

    def _note_prefixes(self, settled: Sequence[SettlementRecord]) -> None:
        """Insert what the prompts of settlements that are new consist of, where that is kept."""
        rows = [
            prefixes.row_of(record.key, record.settlement.prefix)
            for record in settled
            if record.settlement.prefix
        ]
        if rows:
            self._insert_prefixes(rows)

    def _insert_one(self, record: SettlementRecord, now_s: float) -> str:
        """Insert one settlement; return what came of it, as a field of `Written`."""
        self._connection.execute("SAVEPOINT one")
        try:
            came_of_it = self._settle(record)
            reason = "settled before, differently"
        except self.impossible as error:
            self._connection.execute("ROLLBACK TO one")
            came_of_it, reason = "conflicting", f"cannot be stored: {_named(error)}"
        self._connection.execute("RELEASE one")
        if came_of_it == "conflicting":
            self._put_aside(record.key, reason, record.body, now_s)
        return came_of_it

    def _settle(self, record: SettlementRecord) -> str:
        """Insert one settlement with its misses, or say why not, as a field of `Written`."""
        row = settled_row(record)
        if self._insert_rows("calls", COLUMNS, [row]):
            self._insert_misses((record,))
            self._note_prefixes((record,))
            return "stored"
        kind, started_time_s, body = self._connection.execute(
            "SELECT kind, started_time_s, record FROM calls WHERE request_id = ? AND attempt = ?", record.key
        ).fetchone()
        if kind == "settled" and body == record.body:
            return "repeated"
        if kind == "interrupted" and started_time_s == record.settlement.intent.started_time_s:
            # Given up for lost and yet settled: the settlement knows more.
            self._connection.execute("DELETE FROM calls WHERE request_id = ? AND attempt = ?", record.key)
            self._insert_rows("calls", COLUMNS, [row])
            self._insert_misses((record,))
            self._note_prefixes((record,))
            return "stored"
        return "conflicting"

    def _keep_judgement(
        self, feedback: Feedback, open_requests: Mapping[str, str], oldest_s: float
    ) -> Receipt:
        """Keep one judgement; one that no column takes is of no request here, and must not hold up the others."""
        self._connection.execute("SAVEPOINT one")
        try:
            receipt = judged.keep(self._connection, feedback, open_requests, oldest_s)
        except self.impossible as error:
            self._connection.execute("ROLLBACK TO one")
            receipt = Receipt(received=Received.UNKNOWN, time_s=feedback.time_s)
            _LOG.error("a judgement cannot be stored, and is left out: %s", _named(error))
        self._connection.execute("RELEASE one")
        return receipt

    def _keep_warm(self, verdict: WarmVerdict) -> int:
        """Keep one verdict; return 1 if it is new."""
        self._connection.execute("SAVEPOINT one")
        try:
            new = self._connection.execute(warms.INSERT, warms.row_of(verdict)).rowcount
        except self.impossible as error:
            self._connection.execute("ROLLBACK TO one")
            new = 0
            _LOG.error(
                "the verdict on %s cannot be stored, and is left out: %s", verdict.warm_id, _named(error)
            )
        self._connection.execute("RELEASE one")
        return new

    def _accounted_for(self, intent: Intent) -> bool:
        """Whether the row of the intent's id is the row of this very intent."""
        found = self._connection.execute(
            "SELECT started_time_s FROM calls WHERE request_id = ? AND attempt = ?",
            (intent.request_id, intent.attempt),
        ).fetchone()
        return found is not None and found[0] == intent.started_time_s

    def _put_aside(self, key: Key, reason: str, body: bytes, now_s: float) -> None:
        self._connection.execute(
            "INSERT INTO aside (request_id, attempt, reason, found_time_s, record)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (*key, reason, now_s, body),
        )

    def _forget(self, keys: Sequence[Key]) -> None:
        if keys:
            self._connection.executemany("DELETE FROM intents WHERE request_id = ? AND attempt = ?", keys)


def _named(error: Exception) -> str:
    """Return the kind of a failure, without its words, which may hold values."""
    return type(error.__cause__ or error).__name__


def intents_of(bodies: Iterable[bytes]) -> list[IntentRecord]:
    """Return intents as `write` was given them."""
    return [IntentRecord(codec.decode_intent(body), body) for body in bodies]
