"""The ledger's store in SQLite: write-ahead log, one connection, group commit.

The rule: `synchronous=NORMAL`. A commit survives a kill of the process but not surely a power cut, and need
not: the journal has the same records and is synced at the same cadence. A journal segment goes only after a
checkpoint, which does sync the write-ahead log and the database file (https://www.sqlite.org/wal.html, read
2026-11). This module does not know about threads or journals; its caller uses it from one thread at a time.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from math import inf
from pathlib import Path

from router.feedback import Feedback, Receipt
from router.ledger import codec, judged, past, warms
from router.ledger.codec import IntentRecord, Key, SettlementRecord
from router.ledger.schema import migrate
from router.ledger.store import StoreError, Written
from router.ledger.told import TOLD, note_retried, told, told_of_none
from router.settlement import CacheRecord, Intent, Outcome
from router.warm_verdict import WarmVerdict

_LOG = logging.getLogger("router.ledger")

_COLUMNS = (
    "request_id", "attempt", "kind", "outcome", "purpose", "route", "upstream", "model", "answered_model",
    "tenant", "application", "user", "session", "labels", "strategy", "miss_cause", "finish_reason", "error",
    "started_time_s", "settled_time_s", "duration_s", "first_byte_s",
    "input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "thinking_tokens", "usage_complete",
    "uncached_input_nano_usd", "cache_write_5m_nano_usd", "cache_write_1h_nano_usd", "cache_read_nano_usd",
    "output_text_nano_usd", "thinking_nano_usd", "tools_nano_usd", "cost_nano_usd", "cost_bound_nano_usd",
    "no_caching_nano_usd", "all_opus_nano_usd", "all_flash_nano_usd", "all_opus_no_caching_nano_usd",
    "padding_tokens", "padding_nano_usd", *TOLD, "record",
)  # fmt: skip
_MISS_COLUMNS = (
    "request_id", "attempt", "rank", "cause", "layer", "block_index", "missed_tokens", "lost_nano_usd",
    "provider_cause",
)  # fmt: skip

PAGE_BYTES = 16_384
"""Of a database made now; one that is there keeps its own. A call is a row of 2.3 kB and more, so that pages of 4 kB
hold one each and are half empty (4.2 kB a call instead of 2.5, and 34 us of CPU instead of 25; measured)."""

Statements = Sequence[tuple[int, str]]


def _inserts_of(table: str, columns: Sequence[str], tail: str = "") -> Statements:
    """Return statements by the rows they take, most first.

    Every one of them hands the interpreter's lock to the event loop and takes it back, so that a row at a time costs
    the loop more than the database.
    """
    row = f"({', '.join('?' * len(columns))})"
    head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
    return tuple((count, head + ", ".join([row] * count) + tail) for count in (32, 8, 1))


_INSERTS = _inserts_of("calls", _COLUMNS, " ON CONFLICT (request_id, attempt) DO NOTHING")
_INSERT = _INSERTS[-1][1]
_MISS_INSERTS = _inserts_of("misses", _MISS_COLUMNS)
_NO_TOKENS: tuple[None, ...] = (None,) * 7
_NO_COST: tuple[None, ...] = (None,) * 8
_NO_COUNTERFACTUALS: tuple[None, ...] = (None,) * 4

_IMPOSSIBLE = (
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a record that can never be stored raises; trying again would hold up every other one behind it."""

Value = str | int | float | bytes | None


class SqliteStore:
    """A `LedgerStore` in one SQLite file.

    Args:
        path: The database file; made when it does not exist.
        now_s: Time noted beside schema versions applied now.

    Raises:
        StoreError: The file cannot be opened or is not a database.
        SchemaTooNew: A newer release made it.
    """

    def __init__(self, path: Path, now_s: float) -> None:
        try:
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            migrate(self._connection, now_s)
            self._kept = set(self._connection.execute("SELECT request_id, attempt FROM intents"))
            pruned = past.pruned(self._connection)
            self._pruned_before_s = -inf if pruned is None else pruned.before_s
        except sqlite3.Error as error:
            raise StoreError(f"the ledger's database cannot be opened: {error}") from error

    def write(
        self, settled: Sequence[SettlementRecord], open_intents: Sequence[IntentRecord], now_s: float
    ) -> Written:
        """Store settlements, forget their intents, keep `open_intents`; all or nothing.

        Raises:
            StoreError: Nothing was written.
        """
        news = [each for each in settled if each.settlement.intent.started_time_s >= self._pruned_before_s]
        repeated = len(settled) - len(news)
        with self._transaction():
            written = self._insert(news, now_s)
            if repeated:
                written = replace(written, repeated=written.repeated + repeated)
            if written.stored:
                note_retried(self._connection, [record.settlement.intent.request_id for record in settled])
            known = [record.key for record in settled if record.key in self._kept]
            self._forget(known)
            self._connection.executemany(
                "INSERT OR REPLACE INTO intents VALUES (?, ?, ?)",
                [(*record.key, record.body) for record in open_intents],
            )
        self._kept.difference_update(known)
        self._kept.update(record.key for record in open_intents)
        return written

    def keep_feedback(
        self, feedback: Sequence[Feedback], open_requests: Mapping[str, str], oldest_s: float
    ) -> list[Receipt]:
        """Keep judgements of requests that are known; see `LedgerStore.keep_feedback`.

        Raises:
            StoreError: Nothing was written.
        """
        with self._transaction():
            return [judged.keep(self._connection, each, open_requests, oldest_s) for each in feedback]

    def keep_warms(self, verdicts: Sequence[WarmVerdict]) -> int:
        """Keep what decisions to warm came to; see `LedgerStore.keep_warms`.

        Raises:
            StoreError: Nothing was written.
        """
        with self._transaction():
            return sum([self._keep_warm(verdict) for verdict in verdicts])

    def open_intents(self) -> list[IntentRecord]:
        """Return the intents kept by `write` and not settled since."""
        with as_store_error():
            bodies = [body for (body,) in self._connection.execute("SELECT record FROM intents")]
        return [IntentRecord(codec.decode_intent(body), body) for body in bodies]

    def interrupt(self, intents: Sequence[IntentRecord], found_time_s: float) -> int:
        """Store intents whose process died as interrupted calls, cost unknown; return how many are new.

        Raises:
            StoreError: Nothing was written.
        """
        new = 0
        with self._transaction():
            for record in intents:
                if record.intent.started_time_s < self._pruned_before_s:
                    continue
                row = _interrupted_row(record, found_time_s)
                if self._connection.execute(_INSERT, row).rowcount == 1:
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

    def _keep_warm(self, verdict: WarmVerdict) -> int:
        """Keep one verdict; return 1 if it is new."""
        try:
            return self._connection.execute(warms.INSERT, warms.row_of(verdict)).rowcount
        except _IMPOSSIBLE as error:
            _LOG.error(
                "the verdict on %s cannot be stored, and is left out: %s",
                verdict.warm_id,
                type(error).__name__,
            )
            return 0

    def prune(self, before_s: float, limit: int) -> int:
        """Move about `limit` of the oldest calls that began before into sums by day; see `LedgerStore.prune`.

        Raises:
            StoreError: Nothing was moved.
        """
        with self._transaction():
            count = past.prune(self._connection, before_s, limit)
        if count:
            self._pruned_before_s = max(self._pruned_before_s, before_s)
        return count

    def make_durable(self) -> bool:
        """Copy the write-ahead log into the database and sync both; False while a reader holds it back."""
        with as_store_error():
            busy, in_log, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(busy == 0 and in_log == copied)

    def close(self) -> None:
        """Release the file; SQLite checkpoints when no one else has it open."""
        self._connection.close()

    def _insert(self, settled: Sequence[SettlementRecord], now_s: float) -> Written:
        """Insert settlements; when one is repeated, conflicting or impossible, go through them one by one."""
        if not settled:
            return Written(0, 0, 0)
        self._connection.execute("SAVEPOINT batch")
        try:
            stored = self._insert_rows(_INSERTS, [_settled_row(record) for record in settled])
            if stored == len(settled):
                self._insert_misses(settled)
        except _IMPOSSIBLE:
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

    def _insert_rows(self, statements: Statements, rows: Sequence[tuple[Value, ...]]) -> int:
        """Insert rows, many to a statement; return how many are new."""
        stored = start = 0
        for row_count, statement in statements:
            while start + row_count <= len(rows):
                values = chain.from_iterable(rows[start : start + row_count])
                stored += self._connection.execute(statement, tuple(values)).rowcount
                start += row_count
        return stored

    def _insert_misses(self, settled: Sequence[SettlementRecord]) -> None:
        """Insert what settlements that are new have missed."""
        rows: list[tuple[Value, ...]] = []
        for record in settled:
            cache = record.settlement.cache
            if cache is not None and (cache.miss_cause or cache.misses):
                rows += _miss_rows(record.key, cache)
        if rows:
            self._insert_rows(_MISS_INSERTS, rows)

    def _insert_one(self, record: SettlementRecord, now_s: float) -> str:
        """Insert one settlement; return what came of it, as a field of `Written`."""
        self._connection.execute("SAVEPOINT one")
        try:
            came_of_it = self._settle(record)
            reason = "settled before, differently"
        except _IMPOSSIBLE as error:
            self._connection.execute("ROLLBACK TO one")
            came_of_it, reason = "conflicting", f"cannot be stored: {type(error).__name__}"
        self._connection.execute("RELEASE one")
        if came_of_it == "conflicting":
            self._put_aside(record.key, reason, record.body, now_s)
        return came_of_it

    def _settle(self, record: SettlementRecord) -> str:
        """Insert one settlement with its misses, or say why not, as a field of `Written`."""
        row = _settled_row(record)
        if self._connection.execute(_INSERT, row).rowcount == 1:
            self._insert_misses((record,))
            return "stored"
        kind, started_time_s, body = self._connection.execute(
            "SELECT kind, started_time_s, record FROM calls WHERE request_id = ? AND attempt = ?", record.key
        ).fetchone()
        if kind == "settled" and body == record.body:
            return "repeated"
        if kind == "interrupted" and started_time_s == record.settlement.intent.started_time_s:
            # Given up for lost and yet settled: the settlement knows more.
            self._connection.execute("DELETE FROM calls WHERE request_id = ? AND attempt = ?", record.key)
            self._connection.execute(_INSERT, row)
            self._insert_misses((record,))
            return "stored"
        return "conflicting"

    def _accounted_for(self, intent: Intent) -> bool:
        """Whether the row of the intent's id is the row of this very intent."""
        found = self._connection.execute(
            "SELECT started_time_s FROM calls WHERE request_id = ? AND attempt = ?",
            (intent.request_id, intent.attempt),
        ).fetchone()
        return found is not None and found[0] == intent.started_time_s

    def _put_aside(self, key: Key, reason: str, body: bytes, now_s: float) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO aside (request_id, attempt, reason, found_time_s, record)"
            " VALUES (?, ?, ?, ?, ?)",
            (*key, reason, now_s, body),
        )

    def _forget(self, keys: Iterable[Key]) -> None:
        self._connection.executemany("DELETE FROM intents WHERE request_id = ? AND attempt = ?", keys)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the body in one transaction."""
        with as_store_error():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def as_store_error() -> Iterator[None]:
    """Turn what SQLite raises into `StoreError`; also a decorator."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the ledger's database failed: {error}") from error


def _settled_row(record: SettlementRecord) -> tuple[Value, ...]:
    """Return the columns of a settlement, in the order of `_COLUMNS`."""
    settlement = record.settlement
    usage, cost, other = settlement.usage, settlement.cost, settlement.counterfactuals
    cache = settlement.cache
    return (
        *_identity(settlement.intent, "settled", settlement.outcome, settlement.answered_model),
        cache.strategy if cache is not None else "",
        cache.miss_cause if cache is not None else "",
        settlement.finish_reason,
        settlement.error,
        settlement.intent.started_time_s,
        settlement.settled_time_s,
        settlement.duration_s,
        settlement.first_byte_s,
        *(
            _NO_TOKENS
            if usage is None
            else (
                usage.input_tokens,
                usage.cache_read_tokens,
                usage.cache_write_5m_tokens,
                usage.cache_write_1h_tokens,
                usage.output_tokens,
                usage.thinking_tokens,
                int(usage.complete),
            )
        ),
        *(
            _NO_COST
            if cost is None
            else (
                cost.uncached_input_nano_usd,
                cost.cache_write_5m_nano_usd,
                cost.cache_write_1h_nano_usd,
                cost.cache_read_nano_usd,
                cost.output_text_nano_usd,
                cost.thinking_nano_usd,
                cost.tools_nano_usd,
                cost.total_nano_usd,
            )
        ),
        settlement.intent.cost_bound_nano_usd,
        *(
            _NO_COUNTERFACTUALS
            if other is None
            else (
                other.no_caching_nano_usd,
                other.all_opus_nano_usd,
                other.all_flash_nano_usd,
                other.all_opus_no_caching_nano_usd,
            )
        ),
        *((0, 0) if cache is None else (cache.padding_tokens, cache.padding_nano_usd)),
        *told(settlement.intent.purpose, settlement),
        record.body,
    )


def _miss_rows(key: Key, cache: CacheRecord) -> list[tuple[Value, ...]]:
    """Return the columns of a call's misses, in the order of `_MISS_COLUMNS`, dearest first."""
    if not cache.misses:  # a release that noted the cause alone
        return [(*key, 0, cache.miss_cause, "", None, None, None, "")]
    return [
        (
            *key,
            rank,
            miss.cause,
            miss.layer,
            miss.block_index,
            miss.missed_tokens,
            miss.lost_nano_usd,
            miss.provider_cause,
        )
        for rank, miss in enumerate(cache.misses)
    ]


def _interrupted_row(record: IntentRecord, found_time_s: float) -> tuple[Value, ...]:
    """Return the columns of an intent whose process died; what it used, cost and took is not known."""
    intent = record.intent
    return (
        *_identity(intent, "interrupted", Outcome.UNKNOWN, ""),
        *("", "", "", ""),
        intent.started_time_s,
        found_time_s,
        *(None, None),
        *_NO_TOKENS,
        *_NO_COST,
        intent.cost_bound_nano_usd,
        *_NO_COUNTERFACTUALS,
        *(None, None),
        *told_of_none(intent.purpose),
        record.body,
    )


def _identity(intent: Intent, kind: str, outcome: Outcome, answered_model: str) -> tuple[Value, ...]:
    """Return the columns that say whose call it was and how it ended."""
    return (
        intent.request_id,
        intent.attempt,
        kind,
        outcome.value,
        intent.purpose.value,
        intent.route,
        intent.upstream,
        intent.model,
        answered_model,
        intent.tenant,
        intent.application,
        intent.user,
        intent.session,
        codec.encode(intent.labels).decode(),
    )
