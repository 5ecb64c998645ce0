"""Where a ledger's database is: a directory with SQLite's file in it, or a PostgreSQL server.

The rule: a server shows itself by host and database, never by user or password, so whatever prints a place prints no
secret. psycopg is loaded only when a server is asked for; it is an extra of the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, unquote

from router.ledger.store import StoreError

DATABASE = "ledger.sqlite3"
"""Name of SQLite's file in a ledger's directory."""
SCHEMES = ("postgresql://", "postgres://")


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """A database on a PostgreSQL server.

    Attributes:
        url: As libpq reads it: postgresql://user@host:port/database?sslmode=verify-full, ...
        password: For a URL without one; "" leaves it to libpq (PGPASSWORD, ~/.pgpass).

    Raises:
        ValueError: The URL is none of PostgreSQL's.
    """

    url: str
    password: str = ""

    def __post_init__(self) -> None:
        if not is_url(self.url):
            raise ValueError("the URL of a ledger's server begins with postgresql://")

    def __str__(self) -> str:
        rest = self.url.partition("://")[2]
        address, _, query = rest.partition("?")
        # Without a user a password can still come before the last "@", and in the query.
        host, _, database = address.rpartition("@")[2].partition("/")
        asked = parse_qs(query)
        host = unquote(host) or asked.get("host", ["localhost"])[0]
        return f"postgresql://{host}/{unquote(database) or asked.get('dbname', [''])[0]}"

    __repr__ = __str__


Place = Path | Server
"""SQLite's file, or a server."""


def is_url(text: str) -> bool:
    """Whether a text names a server rather than a directory."""
    return text.startswith(SCHEMES)


def place_of(text: str) -> Place:
    """Return the place that a directory, a database file or a URL names."""
    if is_url(text):
        return Server(text)
    path = Path(text)
    return path if path.is_file() else path / DATABASE


def driver() -> ModuleType:
    """Return the module that speaks to PostgreSQL.

    Raises:
        StoreError: psycopg is not installed.
    """
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise StoreError(
            "a ledger on PostgreSQL needs psycopg: install hybrid-router with its extra,"
            f" hybrid-router[postgres] ({error})"
        ) from error
    return import_module("router.ledger.postgres")
