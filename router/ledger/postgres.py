"""The ledger's store on PostgreSQL: many routers, one bill.

The rule: a commit is on the server's disk when it returns (`synchronous_commit`), so a journal segment may go as soon
as its records are committed. A server that is away, or a connection that breaks, is a `StoreError`: the writer tries
again, each time on a new connection if need be. A commit whose answer was lost is written again, which changes nothing.
Every router has a journal of its own and an id that lies beside it; the intents it keeps here carry that id, and only
those of routers that are gone are taken over. No message holds a password or a row. (psycopg 3.3, PostgreSQL 15, read
2026-11.)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from os import dup
from socket import SHUT_RDWR, socket
from threading import Event, Timer
from typing import Any

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import NumericBinaryLoader

from router.ledger import past, prefixes
from router.ledger.codec import IntentRecord
from router.ledger.database import Database, Rows, Value
from router.ledger.dialect import postgres
from router.ledger.place import Server
from router.ledger.postgres_schema import migrate_server, version_of
from router.ledger.store import NOTHING_BROUGHT, Brought, StoreError, Unstorable
from router.ledger.tables import Row, TableStore, intents_of

_LOG = logging.getLogger("router.ledger")

ABANDONED_S = 86_400.0
"""A router that has not been seen for so long is gone: its open intents are interrupted calls. Should it come back
with a settlement after all, that takes the interruption's place."""

ANSWER_S = 30.0
"""How long a start waits for the answers to its first questions, a migration apart."""
_CONNECTING = {
    "application_name": "hybrid-router",
    "connect_timeout": "5",
    "client_encoding": "utf8",
    # A server that is gone without a word is noticed within half a minute.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""What the URL may set otherwise."""
_WRITING = (
    "SET statement_timeout = '30s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'"
)
_READING = "SET statement_timeout = '300s'; SET default_transaction_read_only = on"
_TOO_LARGE = "54000"
"""SQLSTATE of a value that no index takes."""
_JUDGING = "SELECT pg_advisory_xact_lock(hashtextextended('hybrid-router feedback ' || current_schema(), 1))"
_PRUNING = "hashtextextended('hybrid-router pruning ' || current_schema(), 1)"
_NUL_MARK = "\ufffd"
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_PREFIXES = (
    "INSERT INTO prefixes SELECT id, given.prompt_name, given.body FROM json_to_recordset(?)"
    " AS given(request_id text, attempt bigint, prompt_name bigint, body bytea)"
    " JOIN calls ON calls.request_id = given.request_id AND calls.attempt = given.attempt ORDER BY id"
)
_NO_CONFLICT = {"calls": " ON CONFLICT (request_id, attempt) DO NOTHING", "misses": ""}


class PostgresStore(TableStore):
    """A `LedgerStore` in a database on a server.

    Args:
        server: Where it is; the tables go to the first schema of its search path.
        owner: Id of the journal that this store's intents come from, the same whenever that journal is opened.
        now_s: Time noted beside schema versions applied now, and at which routers are gone.

    Raises:
        StoreError: The server is away, refuses, or has no UTF-8 database; psycopg cannot read the URL.
        SchemaTooNew: A newer release made the tables.
    """

    # One router judges at a time, so that what stands does not change between looking and writing.
    _turn_to_judge = _JUDGING
    _connection: Connection

    def __init__(self, server: Server, owner: str, now_s: float) -> None:
        self._server = server
        self._owner = owner
        self._connection = _connected(server)
        try:
            with _answering(self._connection, server):
                version_of(self._connection)
            migrate_server(self._connection, now_s)  # which may take its time
            with _answering(self._connection, server):
                _begin_writing(self._connection, server)
                self._note_seen(now_s)
                kept = self._connection.execute(
                    "SELECT request_id, attempt FROM intents WHERE owner = ?", (owner,)
                )
                self._kept = set(kept)
                self._note_pruned()
            self._opened_time_s = now_s
        except BaseException:
            self._connection.close()
            raise

    def open_intents(self) -> list[IntentRecord]:
        """Return the intents of this journal's last process, and those of routers that are gone."""
        rows = self._connection.execute(
            "SELECT record FROM intents LEFT JOIN owners USING (owner)"
            " WHERE owner = ? OR gone = 1 OR seen_time_s IS NULL OR seen_time_s < ?",
            (self._owner, self._opened_time_s - ABANDONED_S),
        )
        return intents_of(body for (body,) in rows)

    def prune(self, before_s: float, limit: int) -> int:
        """Move old calls into sums, one router at a time; see `TableStore.prune`."""
        self._ready()
        self._connection.execute(f"SELECT pg_advisory_lock({_PRUNING})")
        try:
            # All statements see the calls of one instant: one that comes meanwhile is neither summed nor taken away.
            self._connection.execute("BEGIN")
            try:
                count = past.prune(self._connection, before_s, limit)
                self._connection.commit()
            except BaseException:
                self._connection.give_up()
                raise
        finally:
            with suppress(StoreError):  # a connection that broke has let go of it
                self._connection.execute(f"SELECT pg_advisory_unlock({_PRUNING})")
        self._note_pruned()
        return count

    def last_brought(self) -> Brought | None:
        """Return the last settlement that this journal is known to have brought."""
        request_id, attempt, settled_time_s = self._connection.execute(
            "SELECT request_id, attempt, settled_time_s FROM owners WHERE owner = ?", (self._owner,)
        ).fetchone()
        return None if request_id is None else Brought(request_id, attempt, settled_time_s)

    def make_durable(self) -> bool:
        """Nothing is left to do: every commit waited for the server's disk."""
        return True

    def break_off(self) -> None:
        """Make a write that waits for a server that does not answer fail now; from any thread."""
        self._connection.break_off()

    def close(self) -> None:
        """Say that this router is gone, so that others may take over what it left open, and release the connection.

        One that never brought anything (`hybrid-router ledger prune`) leaves nothing to say.
        """
        with suppress(StoreError):
            self._connection.execute("UPDATE owners SET gone = 1 WHERE owner = ?", (self._owner,))
            self._connection.execute(
                "DELETE FROM owners WHERE owner = ? AND request_id = ''"
                " AND NOT EXISTS (SELECT 1 FROM intents WHERE intents.owner = owners.owner)",
                (self._owner,),
            )
        self._connection.close()

    def _insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> int:
        """Insert rows by one statement with one parameter, whatever their number; return how many are new."""
        payload = _as_json(columns, rows)
        if "\\u0000" in payload:  # PostgreSQL's text holds no NUL; the record keeps it
            payload = _as_json(columns, [_without_nul(columns, row) for row in rows])
        return self._connection.execute(_insert_of(table, tuple(columns)), (payload,)).rowcount

    def _insert_prefixes(self, rows: Sequence[Row]) -> None:
        self._connection.execute(_PREFIXES, (_as_json(prefixes.COLUMNS, rows),))

    def _keep_intents(self, intents: Sequence[IntentRecord], now_s: float) -> None:
        self._note_seen(now_s)
        self._connection.executemany(
            "INSERT INTO intents (request_id, attempt, record, owner) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (request_id, attempt) DO UPDATE SET record = excluded.record, owner = excluded.owner",
            [(*record.key, record.body, self._owner) for record in intents],
        )

    def _note_seen(self, now_s: float) -> None:
        self._connection.execute(
            "INSERT INTO owners (owner, seen_time_s, gone, request_id, attempt, settled_time_s)"
            " VALUES (?, ?, 0, ?, ?, ?)"
            " ON CONFLICT (owner) DO UPDATE SET seen_time_s = excluded.seen_time_s, gone = 0",
            (self._owner, now_s, *NOTHING_BROUGHT),
        )

    def _note_brought(self, last: Brought) -> None:
        self._connection.execute(
            "UPDATE owners SET request_id = ?, attempt = ?, settled_time_s = ? WHERE owner = ?",
            (*last, self._owner),
        )

    def _ready(self) -> None:
        """Connect again when the connection broke."""
        if self._connection.closed:
            self._connection = _writing(self._server)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the body in one transaction, on a new connection when the last one broke."""
        self._ready()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.commit()
        except BaseException:
            connection.give_up()
            raise


class Connection:
    """A `Database` on a server; what psycopg raises becomes `StoreError`, or `Unstorable` for a value's sake."""

    def __init__(self, raw: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._raw = raw

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, a failed one included."""
        return self._raw.info.transaction_status is not TransactionStatus.IDLE

    @property
    def closed(self) -> bool:
        """Whether it was closed, or broke."""
        return self._raw.closed

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement with "?" for each parameter.

        Raises:
            Unstorable: A value fits no column, or breaks a constraint.
            StoreError: Any other failure.
        """
        with _as_store_error():
            # Records come as they are, not as text of twice their length.
            return self._raw.execute(postgres(sql).encode(), _bound(parameters), binary=True)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Run one statement once for each set of parameters, without waiting for the answers in between."""
        with _as_store_error():
            cursor = self._raw.cursor()
            cursor.executemany(postgres(sql).encode(), [_bound(each) for each in parameters])
            return cursor

    def run(self, script: str) -> None:
        """Run statements that are this module's own and bind nothing."""
        with _as_store_error():
            self._raw.execute(script.encode())

    def commit(self) -> None:
        """End the transaction; a failed one, which the server would take back without a word, is an error."""
        if self._raw.info.transaction_status is not TransactionStatus.INTRANS:
            raise StoreError("the ledger's database failed: the transaction cannot be committed")
        self.execute("COMMIT")

    def give_up(self) -> None:
        """Take the transaction back; a connection that cannot do so is closed."""
        try:
            if self.in_transaction:
                self.execute("ROLLBACK")
        except StoreError:
            self.close()

    def break_off(self) -> None:
        """End the connection under whoever waits on it; from any thread.

        A server that is there and does not answer (its disk hangs) keeps the connection alive and bounds no statement.
        """
        with suppress(psycopg.Error, OSError), socket(fileno=dup(self._raw.fileno())) as wire:
            wire.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Release it; a transaction that is open is given up."""
        with suppress(psycopg.Error):
            self._raw.close()


class _Exact(NumericBinaryLoader):
    """Sums of whole numbers are NUMERIC and come as whole numbers; a mean of them does not."""

    def load(self, data: Any) -> int | float:  # type: ignore[override]
        value = super().load(data)
        return float(value) if value.as_tuple().exponent else int(value)


def reading(server: Server) -> Database:
    """Connect for reading; a statement outside of a snapshot cannot write.

    Raises:
        StoreError: As `PostgresStore`.
    """
    connection = _connected(server)
    connection.run(_READING)
    return connection


def _writing(server: Server) -> Connection:
    connection = _connected(server)
    _begin_writing(connection, server)
    return connection


@contextmanager
def _answering(connection: Connection, server: Server) -> Iterator[None]:
    """Give up a server that takes the connection and does not answer, which no setting of the server's bounds."""
    late = Event()

    def give_up() -> None:
        late.set()
        connection.break_off()

    timer = Timer(ANSWER_S, give_up)
    timer.start()
    try:
        yield
    except StoreError as error:
        if not late.is_set():
            raise
        raise StoreError(f"the ledger's server {server} did not answer within {ANSWER_S:g} s") from error
    finally:
        timer.cancel()


def _begin_writing(connection: Connection, server: Server) -> None:
    """Set what every statement is bounded by, and that a commit waits for the disk."""
    connection.run(_WRITING)
    (level,) = connection.execute("SELECT current_setting('synchronous_commit')").fetchone()
    if level == "off":
        connection.run("SET synchronous_commit = on")
    (synced,) = connection.execute("SELECT current_setting('fsync')").fetchone()
    if synced == "off":
        _LOG.warning("the server of the ledger %s has fsync=off: a power cut may damage it", server)


def _connected(server: Server) -> Connection:
    if server.ambiguous:
        raise StoreError(
            f"the URL of the ledger's server {server} cannot be read: a port is a number, and '/', '@' and '?' in a"
            " user or password are written %2F, %40 and %3F"
        )
    try:
        given = conninfo_to_dict(server.url)
    except (psycopg.ProgrammingError, UnicodeError):
        # libpq quotes the part that it cannot read, which may be the password.
        raise StoreError(f"the URL of the ledger's server {server} cannot be read") from None
    if server.password:
        given.setdefault("password", server.password)
    try:
        raw = psycopg.connect(
            make_conninfo("", **{**_CONNECTING, **given}), autocommit=True, prepare_threshold=None
        )
    except (psycopg.Error, UnicodeError) as error:
        raise StoreError(f"the ledger's server {server} cannot be reached: {_reason(error)}") from error
    if (encoding := raw.info.parameter_status("server_encoding")) != "UTF8":
        raw.close()
        raise StoreError(f"the database of the ledger {server} is in {encoding}; it has to be in UTF8")
    raw.adapters.register_loader("numeric", _Exact)
    return Connection(raw)


@contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        unstorable = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
        kind = Unstorable if unstorable or error.sqlstate == _TOO_LARGE else StoreError
        raise kind(f"the ledger's database failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what the server or libpq says without the details, which may quote a row."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return primary or "; ".join(line.strip() for line in str(error).splitlines())[:400]


@cache
def _insert_of(table: str, columns: tuple[str, ...]) -> str:
    # psycopg's executemany would send as many statements as rows, and VALUES would be parsed anew for every number of
    # them; a record set is one short statement and one parameter.
    names = ", ".join(columns)
    return (
        f"INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, ?)"
        f"{_NO_CONFLICT[table]}"
    )


def _as_json(columns: Sequence[str], rows: Sequence[Row]) -> str:
    return msgspec.json.encode([dict(zip(columns, map(_plain, row), strict=True)) for row in rows]).decode()


def _plain(value: Value) -> str | int | float | None:
    """Return a value as a record set holds it."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return int(value) if isinstance(value, bool) else value


def _bound(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return values with the mark that a row has for every NUL, so that whoever asks for one finds it."""
    return tuple(
        value.replace("\0", _NUL_MARK) if isinstance(value, str) and "\0" in value else value
        for value in values
    )


def _without_nul(columns: Sequence[str], row: Row) -> Row:
    """Return a row with a mark for every NUL in its text, and in the text that its labels are JSON of."""
    return tuple(
        value
        if not isinstance(value, str)
        else _ESCAPED_NUL.sub(r"\1\\ufffd", value)
        if name == "labels"
        else value.replace("\0", _NUL_MARK)
        for name, value in zip(columns, row, strict=True)
    )
