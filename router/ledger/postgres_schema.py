"""The ledger's tables on PostgreSQL: the schema of `schema`, in this dialect, with what several writers need.

The rule: a database is made at VERSION at once, because none is older; later versions follow one by one, each in a
transaction of its own, translated from the same text. Whoever migrates holds an advisory lock, so of several routers
that start together one does it and the others find it done. A database that a newer release made is refused. A role
that may not create tables can open one that is up to date.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from router.ledger import told
from router.ledger.database import Database
from router.ledger.dialect import postgres_schema
from router.ledger.schema import FIRST, MIGRATIONS, SchemaTooNew, too_new
from router.ledger.store import StoreError

VERSION = 6
"""Schema version a database begins with: that of the release that could first be kept here."""

_ASIDE = "UNIQUE (request_id, attempt, record)"
_OWN = """
CREATE UNIQUE INDEX aside_once ON aside (request_id, attempt, sha256(record));
ALTER TABLE intents ADD COLUMN owner TEXT NOT NULL;
CREATE INDEX intents_by_owner ON intents (owner);
CREATE TABLE owners (
    owner TEXT PRIMARY KEY,
    seen_time_s REAL NOT NULL,
    gone INTEGER NOT NULL CHECK (gone IN (0, 1))
);
ALTER TABLE calls SET (toast_tuple_target = 256);
"""
"""What is here alone. A record is longer than an index takes, so what is aside is told apart by its digest. Intents
belong to the journal that they came from: `owners` says which of them nobody will settle any more. Records are kept
apart from their rows (from 256 bytes on, instead of 2 kB), so that questions to the columns read an eighth as much."""

_OWN_SINCE = {
    7: "ALTER TABLE owners ADD COLUMN request_id TEXT; ALTER TABLE owners ADD COLUMN attempt INTEGER;"
    " ALTER TABLE owners ADD COLUMN settled_time_s REAL"
}
"""What a version brings here alone. Of each journal the last settlement it brought (`LedgerStore.last_brought`): NULL
for journals of releases before."""

_KEY = "hashtextextended('hybrid-router ledger ' || current_schema(), 1)"


def migrate_server(connection: Database, now_s: float, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Bring a database to the version of `migrations`; return that version.

    Args:
        now_s: Time noted beside each version, seconds since the epoch.

    Raises:
        SchemaTooNew: The database is ahead of `migrations`.
        StoreError: A migration failed; the database is at the version before it.
    """
    if version_of(connection) < len(migrations):
        connection.execute(f"SELECT pg_advisory_lock({_KEY})")
        try:
            # Another may have done it while this one waited.
            while (current := version_of(connection)) < len(migrations):
                _lead_on(connection, current, now_s, migrations)
        finally:
            with suppress(StoreError):  # a connection that broke has let go of it
                connection.execute(f"SELECT pg_advisory_unlock({_KEY})")
    if (current := version_of(connection)) > len(migrations):
        raise SchemaTooNew(too_new(current, len(migrations)))
    return current


def version_of(connection: Database) -> int:
    """Return the schema version, 0 where there is no ledger."""
    if connection.execute("SELECT to_regclass('schema_version')").fetchone()[0] is None:
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(version)


def _lead_on(connection: Database, current: int, now_s: float, migrations: Sequence[str]) -> None:
    """Lead from a version to the next, or from nothing to VERSION."""
    versions = [current + 1] if current else list(range(1, VERSION + 1))
    if current and versions[0] in FIRST:
        FIRST[versions[0]](connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _made_at_once() if not current else _statements(migrations[current]):
            connection.execute(postgres_schema(statement))
        for statement in _statements(_OWN_SINCE.get(versions[-1], "")):
            connection.execute(postgres_schema(statement))
        for version in versions:
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (version, now_s))
        connection.execute("COMMIT")
    except BaseException:
        with suppress(StoreError):
            connection.execute("ROLLBACK")
        raise


def _made_at_once() -> Iterator[str]:
    """Yield what makes the tables of VERSION; what versions up to it do to rows is left out, for there are none."""
    yield "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_time_s REAL NOT NULL)"
    for text in (*MIGRATIONS[:3], told.ADD, *MIGRATIONS[3:VERSION]):
        for statement in _statements(text):
            if statement.split()[0] in {"CREATE", "ALTER", "DROP"}:
                yield statement.replace(f",\n    {_ASIDE}", "")
    yield from _statements(_OWN)


def _statements(text: str) -> list[str]:
    return [each.strip() for each in text.split(";") if each.strip()]
