"""Where a ledger's database is: a directory with SQLite's file in it, or a PostgreSQL server.

The rule: a server shows itself by host and database, never by user or password, so whatever prints a place prints no
secret; what cannot be told apart from a password is not shown either. What looks like the address of a server and is
none is refused without repeating it. psycopg is loaded only when a server is asked for; it is an extra of the
distribution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, unquote

from router.ledger.store import StoreError

DATABASE = "ledger.sqlite3"
"""Name of SQLite's file in a ledger's directory."""
SCHEMES = ("postgresql://", "postgres://")
_ADDRESS = re.compile(r"://|^\s*postgres\w*(\+\w+)?:|\bpassword\s*=", re.IGNORECASE)
"""How addresses look that are no URL of PostgreSQL's: other schemes, key=value pairs."""
_HOSTS = re.compile(r"((\[[\w:.%]*\]|[^\s:@&=\[\],]*)(:\d*)?(,|$))*")
_DATABASE = re.compile(r"[^\s:/@&=?]*")


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
        address, query = self._parts()
        # Without a user a password can still come before the last "@", and in the query.
        host, _, database = address.rpartition("@")[2].partition("/")
        if "@" in query or not _HOSTS.fullmatch(host) or not _DATABASE.fullmatch(database):
            return "postgresql://(not shown, for it may hold a password)"
        asked = parse_qs(query)
        host = unquote(host) or asked.get("host", ["localhost"])[0]
        return f"postgresql://{host}/{unquote(database) or asked.get('dbname', [''])[0]}"

    @property
    def ambiguous(self) -> bool:
        """Whether libpq would take part of the password for a host, port or database, and say so in its errors."""
        address, query = self._parts()
        user, _, rest = address.rpartition("@")
        host = rest.partition("/")[0]
        return "@" in user or "/" in user or "@" in query or not _HOSTS.fullmatch(host)

    def _parts(self) -> tuple[str, str]:
        """Return what comes before and after the question mark."""
        address, _, query = self.url.partition("://")[2].partition("?")
        return address, query

    __repr__ = __str__


Place = Path | Server
"""SQLite's file, or a server."""


def is_url(text: str) -> bool:
    """Whether a text names a server rather than a directory."""
    return text.startswith(SCHEMES)


def place_of(text: str) -> Place:
    """Return the place that a directory, a database file or a URL names.

    Raises:
        ValueError: It looks like the address of a server, and is no URL of PostgreSQL's; the message does not hold it.
    """
    if is_url(text):
        return Server(text)
    if _ADDRESS.search(text):
        raise ValueError(
            "the ledger is neither a directory nor a URL that begins with postgresql://, e.g. postgresql://user@host/name"
        )
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
