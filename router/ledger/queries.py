"""Questions to the ledger: what was spent, on what, by whom, what is unknown, what it might have cost.

The rule: sums are exact integers, and a sum never hides what it lacks: calls of unknown cost are counted
beside it with the most they can have cost, and calls whose cost is a floor (the answer broke off before the
provider's final count) with the most they can have cost beyond what is booked. A call is placed in time by its
start, when the money was committed. A refused call without usage cost nothing; every other call without a cost
is unknown, interrupted ones included.

Readers open the database read-only, on a connection of their own, from any process, while it is written to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from router.feedback import Feedback
from router.ledger import codec, judged, misses, warms
from router.ledger.database import Database
from router.ledger.groups import CALL_GROUPS, Filter, conditions, expressions
from router.ledger.judged import DecidedRequest
from router.ledger.misses import CachingRow, DearMiss, MissRow
from router.ledger.past import SINCE, Past, past_of
from router.ledger.place import Place, Server, driver
from router.ledger.recent import LastCall, PastFirstByte, Turn, first_bytes, last_calls, last_turns
from router.ledger.schema import MIGRATIONS, WARMS_SINCE
from router.ledger.sqlite import as_store_error
from router.ledger.store import StoreError
from router.ledger.sums import SUMS, CostRow, cost_row
from router.ledger.warms import PastWarm, WarmRow
from router.settlement import Intent, Settlement

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A call whose process ended before it settled the call: outcome and cost unknown.

    Attributes:
        found_time_s: When the ledger was opened again, seconds since the epoch.
    """

    intent: Intent
    found_time_s: float


class LedgerReader:
    """Read-only view of a ledger's database; a context manager, for one thread.

    Every question raises `StoreError` when the database fails, e.g. on a damaged page or a failing disk.
    """

    def __init__(self, connection: Database) -> None:
        self._connection = connection

    @classmethod
    def open(cls, place: Place) -> Self:
        """Open a database for reading: SQLite's file, or one on a server.

        Raises:
            FileNotFoundError: There is no such file.
            StoreError: It cannot be read, is no ledger's, or a newer release made it.
        """
        connection = driver().reading(place) if isinstance(place, Server) else _reading(place)
        try:
            _check_version(connection, place)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def broken(self) -> bool:
        """Whether nothing more can be asked: the connection to a server is lost, or a transaction was left open."""
        return self._connection.in_transaction or bool(getattr(self._connection, "closed", False))

    def break_off(self) -> None:
        """Make a question that waits for a server that does not answer fail now; from any thread."""
        getattr(self._connection, "break_off", lambda: None)()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @as_store_error()
    def costs(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[CostRow]:
        """Return one row per group, ordered by the groups' values.

        Args:
            group_by: Names from `GROUPS` or `label:NAME`; none for one row over all calls.
            where: Which calls, None for all.

        Raises:
            ValueError: A group or filter name is unknown.
            StoreError: The database is of an older release.
        """
        self._require(4)
        keys, values = expressions(group_by, CALL_GROUPS)
        condition, bound = conditions(where, CALL_GROUPS)
        columns = [*keys, *SUMS]
        positions = ", ".join(str(i + 1) for i in range(len(keys)))
        sql = f"SELECT {', '.join(columns)} FROM calls WHERE {condition}"
        if keys:
            sql += f" GROUP BY {positions} ORDER BY {positions}"
        rows = self._connection.execute(sql, (*values, *bound))
        return [cost_row(tuple(group_by), row) for row in rows]

    def totals(self, where: Filter | None = None) -> CostRow:
        """Return the sum over all calls of `where`."""
        return self.costs((), where)[0]

    @as_store_error()
    def interrupted(self, where: Filter | None = None) -> list[Interrupted]:
        """Return the calls whose process died before it settled them, oldest first."""
        self._require(4)
        condition, bound = conditions(where, CALL_GROUPS)
        rows = self._connection.execute(
            f"SELECT record, settled_time_s FROM calls WHERE kind = 'interrupted' AND {condition}"
            " ORDER BY started_time_s, id",
            bound,
        )
        return [Interrupted(codec.decode_intent(body), found_time_s) for body, found_time_s in rows]

    def settlements(self, where: Filter | None = None) -> Iterator[Settlement]:
        """Yield settlements as they were made, by start time; interrupted calls have none."""
        after: tuple[float, int] | None = None
        while rows := self.settlement_page(where, after, 500):
            yield from (settlement for _, settlement in rows)
            after = rows[-1][0]

    @as_store_error()
    def settlement_page(
        self, where: Filter | None, after: tuple[float, int] | None, limit: int
    ) -> list[tuple[tuple[float, int], Settlement]]:
        """Return at most `limit` settlements behind the position `after`, each with its own position."""
        self._require(4)
        condition, bound = conditions(where, CALL_GROUPS)
        if after is not None:
            condition += " AND (started_time_s, id) > (?, ?)"
            bound = (*bound, *after)
        rows = self._connection.execute(
            f"SELECT started_time_s, id, record FROM calls WHERE kind = 'settled' AND {condition}"
            " ORDER BY started_time_s, id LIMIT ?",
            (*bound, limit),
        )
        return [((started_s, number), codec.decode_settlement(body)) for started_s, number, body in rows]

    @as_store_error()
    def caching(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[CachingRow]:
        """Return what the cache did for the calls on Opus, one row per group, by the groups' values.

        Args:
            group_by: Names from `GROUPS` or `label:NAME`; none for one row over all of them.
            where: Which calls, None for all.

        Raises:
            ValueError: A group or filter name is unknown.
            StoreError: The database is of an older release.
        """
        self._require(4)
        return misses.caching(self._connection, group_by, where)

    @as_store_error()
    def misses(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[MissRow]:
        """Return what was missed, one row per group that missed anything, by the groups' values.

        Args:
            group_by: Names from `MISS_GROUPS` or `label:NAME`; none for one row over all misses.
            where: Which misses, None for all; filters by the same names.

        Raises:
            ValueError: A group or filter name is unknown.
            StoreError: The database is of an older release.
        """
        self._require(4)
        return misses.misses(self._connection, group_by, where)

    def past(self, where: Filter | None = None) -> Past | None:
        """Return what a question's window has lost to sums by day, None when nothing.

        Raises:
            StoreError: The database is of an older release.
        """
        return self.ask(lambda connection: past_of(connection, where), version=SINCE)

    @as_store_error()
    def warms(self, group_by: Sequence[str] = (), where: Filter | None = None) -> list[WarmRow]:
        """Return what decisions to warm came to, one row per group, by the groups' values.

        Args:
            group_by: Names from `WARM_GROUPS`; none for one row over all, which may count nothing.
            where: Which decisions, None for all; filters by the same names.

        Raises:
            ValueError: A group or filter name is unknown.
            StoreError: The database is of an older release.
        """
        self._require(WARMS_SINCE)
        past = self.version >= warms.PAST_SINCE
        return warms.warms(self._connection, group_by, where, past=past)

    @as_store_error()
    def last_warms(self, limit: int) -> list[PastWarm]:
        """Return the last `limit` decisions to warm that were settled, in that order.

        Raises:
            StoreError: The database is of an older release.
        """
        self._require(WARMS_SINCE)
        return warms.last_warms(self._connection, limit)

    @as_store_error()
    def dearest_misses(
        self, group_by: Sequence[str] = (), where: Filter | None = None, *, limit: int = 3
    ) -> list[DearMiss]:
        """Return the `limit` dearest misses of each group, dearest first; unknown losses come last.

        Raises:
            ValueError: A group or filter name is unknown.
            StoreError: The database is of an older release.
        """
        self._require(4)
        return misses.dearest(self._connection, group_by, where, limit)

    @as_store_error()
    def feedback_for(self, request_ids: Sequence[str]) -> dict[str, tuple[Feedback, ...]]:
        """Return the judgements of requests, by source; requests that nobody judged are left out.

        Raises:
            StoreError: The database is of an older release.
        """
        self._require(3)
        return judged.feedback_for(self._connection, request_ids)

    def decided(
        self, since_s: float | None = None, until_s: float | None = None, *, batch: int = 500
    ) -> Iterator[DecidedRequest]:
        """Yield users' requests that were decided and settled, by start time, each with how it turned out.

        Memory is that of one batch. Requests whose first attempt was interrupted have no decision and are left out.

        Args:
            since_s: Earliest start, inclusive, seconds since the epoch; None for no limit.
            until_s: Latest start, exclusive.
            batch: Requests read at a time, >= 1.

        Raises:
            StoreError: The database is of an older release.
        """
        after: tuple[float, int] | None = None
        while rows := self.decided_page(since_s, until_s, after, batch):
            yield from (request for _, request in rows)
            after = rows[-1][0]

    @as_store_error()
    def decided_page(
        self, since_s: float | None, until_s: float | None, after: tuple[float, int] | None, limit: int
    ) -> list[tuple[tuple[float, int], DecidedRequest]]:
        """Return at most `limit` decided requests behind the position `after`, each with its own position."""
        self._require(4)
        return judged.decided_page(self._connection, since_s, until_s, after, limit)

    @as_store_error()
    def ask(self, question: Callable[[Database], _T], *, version: int = 4) -> _T:
        """Answer a question of another module, which reads and changes nothing but its own temporary tables.

        Raises:
            StoreError: The database is of a schema before `version`.
        """
        self._require(version)
        return question(self._connection)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Make every question asked inside see the ledger as it is at the first of them."""
        with as_store_error():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            # An error of SQLite's may have ended the transaction already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @property
    def version(self) -> int:
        """Schema version of the database."""
        (found,) = self._connection.execute("SELECT max(version) FROM schema_version").fetchone()
        return int(found)

    def _require(self, version: int) -> None:
        """Refuse a database that lacks the tables of `version`; a reader cannot bring it up to date."""
        found = self.version
        if found < version:
            raise StoreError(
                f"the ledger has schema version {found}, this question needs {version};"
                " open it once with this release's service, which brings it up to date"
            )

    @as_store_error()
    def last_calls(self, route: str, since_s: float, limit: int) -> list[LastCall]:
        """Return the last call on `route` of at most `limit` sessions that called since `since_s`, newest first."""
        return last_calls(self._connection, route, since_s, limit)

    @as_store_error()
    def last_turns(self, since_s: float, limit: int) -> list[Turn]:
        """Return the last `limit` answered turns of sessions since `since_s`, oldest first."""
        return last_turns(self._connection, since_s, limit)

    @as_store_error()
    def first_bytes(self, route: str, since_s: float, limit: int) -> list[PastFirstByte]:
        """Return those of the last `limit` answers to users on `route` since `since_s` that were streamed, oldest
        first."""
        return first_bytes(self._connection, route, since_s, limit)

    @as_store_error()
    def aside(self) -> list[tuple[str, int, str]]:
        """Return (request_id, attempt, reason) of the settlements that were kept aside."""
        return list(self._connection.execute("SELECT request_id, attempt, reason FROM aside ORDER BY id"))


def _reading(path: Path) -> Database:
    """Open SQLite's file for reading."""
    if not path.exists():
        raise FileNotFoundError(f"there is no ledger database at {path}")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False)
    except sqlite3.Error as error:
        raise StoreError(f"the ledger's database {path} cannot be opened: {error}") from error


def _check_version(connection: Database, place: Place) -> None:
    """Refuse what is no ledger's database and what a newer release made; an older one answers what it can."""
    try:
        (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    except (sqlite3.Error, StoreError) as error:
        raise StoreError(f"{place} cannot be read as a ledger's database: {error}") from error
    if version < 1:
        raise StoreError(f"{place} is a ledger's database without tables; open it once with the service")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{place} has schema version {version}, this release knows {len(MIGRATIONS)}; run a newer release"
        )
