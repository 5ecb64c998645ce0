"""Where a ledger under test lives: the same calls for SQLite and for PostgreSQL, one database to a directory.

A directory holds the journal; its database is the file in it, or a schema of the private server's that is its own.
"""

import tempfile
from pathlib import Path

from router.ledger import DATABASE, Ledger, LedgerReader, LedgerSettings, Server
from router.ledger.ledger import owner_of
from router.ledger.postgres import PostgresStore
from router.ledger.sqlite import SqliteStore
from tests.postgres import PostgresSchemas
from tests.router.ledger_samples import START_S, StillClock


class SqliteHome:
    """Ledgers in files."""

    name = "sqlite"
    store_class = SqliteStore

    def open(self, directory, *, clock, settings=None, store=None):
        """Open the ledger of a directory."""
        return Ledger.open(directory, clock=clock, settings=settings, store=store)

    def temporary(self):
        """Open an empty ledger that goes when it is closed."""
        return Ledger.temporary(clock=StillClock())

    def store(self, directory, mixin=None):
        """Open the store of a directory alone, with what `mixin` makes of it."""
        Path(directory).mkdir(exist_ok=True)
        return _mixed(SqliteStore, mixin)(Path(directory) / DATABASE, START_S)

    def place(self, directory):
        """The database of a directory."""
        return Path(directory) / DATABASE

    def read(self, directory):
        """Open the database of a directory for reading."""
        return LedgerReader.open(self.place(directory))

    def url(self, directory):
        """What another process needs beside the directory; "" for nothing."""
        return ""

    def close(self):
        """Forget everything."""


class PostgresHome(SqliteHome):
    """Ledgers on the private server."""

    name = "postgres"
    store_class = PostgresStore

    def __init__(self, schemas: PostgresSchemas) -> None:
        self._schemas = schemas
        self._urls = {}
        self._temporary = None

    def open(self, directory, *, clock, settings=None, store=None):
        return Ledger.open(
            directory, clock=clock, settings=settings, store=store, server=self.place(directory)
        )

    def temporary(self):
        directory = Path(tempfile.mkdtemp(prefix="router-ledger-"))
        # The last one is closed; its schema is used again.
        if self._temporary in self._urls:
            self._schemas.give_back(self._urls.pop(self._temporary))
        self._temporary = directory
        return Ledger.open(
            directory,
            clock=StillClock(),
            settings=LedgerSettings(sync=False),
            server=self.place(directory),
            remove=True,
        )

    def store(self, directory, mixin=None):
        Path(directory).mkdir(exist_ok=True)
        return _mixed(PostgresStore, mixin)(self.place(directory), owner_of(Path(directory)), START_S)

    def place(self, directory):
        return Server(self.url(directory))

    def url(self, directory):
        key = Path(directory).absolute()
        if key not in self._urls:
            self._urls[key] = self._schemas.take()
        return self._urls[key]

    def close(self):
        while self._urls:
            self._schemas.give_back(self._urls.popitem()[1])


def _mixed(store, mixin):
    return store if mixin is None else type(mixin.__name__, (mixin, store), {})
