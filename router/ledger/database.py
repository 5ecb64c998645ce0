"""What the ledger's statements need of a connection, whichever database is behind it.

The rule: statements are written once, as SQLite takes them; a connection to another database rewrites them itself
(`dialect`). A connection of `sqlite3` is a `Database` as it is. This module knows no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

Value = str | int | float | bytes | None
"""What a column holds."""


class Rows(Protocol):
    """What came of a statement."""

    @property
    def rowcount(self) -> int:
        """Rows it inserted, changed or deleted."""
        ...

    def fetchone(self) -> Any:
        """Return the next row as a tuple, None when there is none."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows that are left, as tuples."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """A connection in autocommit mode: a transaction is what stands between BEGIN and COMMIT or ROLLBACK."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, a failed one included."""
        ...

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement with "?" for each parameter."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Run one statement once for each set of parameters."""
        ...

    def close(self) -> None:
        """Release it; a transaction that is open is given up."""
        ...
