"""The ledger's store in SQLite: write-ahead log, one connection, group commit.

The rule: `synchronous=NORMAL`. A commit survives a kill of the process but not surely a power cut, and need
not: the journal has the same records and is synced at the same cadence. A journal segment goes only after a
checkpoint, which does sync the write-ahead log and the database file (https://www.sqlite.org/wal.html, read
2026-11). This module does not know about threads or journals; its caller uses it from one thread at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import ClassVar

from router.ledger.codec import IntentRecord
from router.ledger.schema import migrate
from router.ledger.store import StoreError
from router.ledger.tables import Row, TableStore, intents_of

PAGE_BYTES = 16_384
"""Of a database made now; one that is there keeps its own. A call is a row of 2.3 kB and more, so that pages of 4 kB
hold one each and are half empty (4.2 kB a call instead of 2.5, and 34 us of CPU instead of 25; measured)."""

_PREFIXES = tuple(
    (
        count,
        f"INSERT INTO prefixes SELECT id, column3, column4 FROM (VALUES {', '.join(['(?, ?, ?, ?)'] * count)})"
        " JOIN calls ON request_id = column1 AND attempt = column2 ORDER BY id",
    )
    for count in (32, 8, 1)
)
"""As `_inserts_of`, for rows that are told by the call's id and kept under its number."""
_KEYS = {"calls": " ON CONFLICT (request_id, attempt) DO NOTHING", "misses": ""}


class SqliteStore(TableStore):
    """A `LedgerStore` in one SQLite file.

    Args:
        path: The database file; made when it does not exist.
        now_s: Time noted beside schema versions applied now.

    Raises:
        StoreError: The file cannot be opened or is not a database.
        SchemaTooNew: A newer release made it.
    """

    impossible: ClassVar = (
        *TableStore.impossible,
        sqlite3.IntegrityError,
        sqlite3.DataError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
    )

    def __init__(self, path: Path, now_s: float) -> None:
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._connection = connection
            connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            migrate(connection, now_s)
            self._kept = set(connection.execute("SELECT request_id, attempt FROM intents"))
            self._note_pruned()
        except sqlite3.Error as error:
            raise StoreError(f"the ledger's database cannot be opened: {error}") from error

    def open_intents(self) -> list[IntentRecord]:
        """Return the intents kept by `write` and not settled since; one process has the file, so they are its own."""
        with as_store_error():
            return intents_of(body for (body,) in self._connection.execute("SELECT record FROM intents"))

    def make_durable(self) -> bool:
        """Copy the write-ahead log into the database and sync both; False while a reader holds it back."""
        with as_store_error():
            busy, in_log, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return bool(busy == 0 and in_log == copied)

    def close(self) -> None:
        """Release the file; SQLite checkpoints when no one else has it open."""
        self._connection.close()

    def _insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> int:
        """Insert rows, many to a statement; return how many are new."""
        stored = start = 0
        for row_count, statement in _inserts_of(table, tuple(columns)):
            while start + row_count <= len(rows):
                values = chain.from_iterable(rows[start : start + row_count])
                stored += self._connection.execute(statement, tuple(values)).rowcount
                start += row_count
        return stored

    def _insert_prefixes(self, rows: Sequence[Row]) -> None:
        start = 0
        for row_count, statement in _PREFIXES:
            while start + row_count <= len(rows):
                self._connection.execute(
                    statement, tuple(chain.from_iterable(rows[start : start + row_count]))
                )
                start += row_count

    def _keep_intents(self, intents: Sequence[IntentRecord], now_s: float) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO intents VALUES (?, ?, ?)",
            [(*record.key, record.body) for record in intents],
        )

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


@cache
def _inserts_of(table: str, columns: tuple[str, ...]) -> Sequence[tuple[int, str]]:
    """Return statements by the rows they take, most first.

    Every one of them hands the interpreter's lock to the event loop and takes it back, so that a row at a time costs
    the loop more than the database.
    """
    row = f"({', '.join('?' * len(columns))})"
    head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
    return tuple((count, head + ", ".join([row] * count) + _KEYS[table]) for count in (32, 8, 1))


@contextmanager
def as_store_error() -> Iterator[None]:
    """Turn what SQLite raises into `StoreError`; also a decorator."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the ledger's database failed: {error}") from error
