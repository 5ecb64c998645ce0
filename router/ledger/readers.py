"""A running service's questions to its ledger: which connection each is asked on.

The rule: one question at a time per connection, from whatever thread. SQLite's file is opened for each question, which
costs microseconds; a connection to a server costs milliseconds and a process there, so a few are kept. One that broke
while it was idle costs its question a second try, on a new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from router.ledger.place import Place, Server
from router.ledger.queries import LedgerReader
from router.ledger.store import StoreError

_T = TypeVar("_T")

IDLE_LIMIT = 4
"""Connections to a server that are kept when nobody asks."""


class Readers:
    """Readers of one place; `ask` may be called from any thread."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._idle: deque[LedgerReader] = deque()
        self._asked: set[LedgerReader] = set()
        self._closed = False

    def ask(self, question: Callable[[LedgerReader], _T]) -> _T:
        """Return the answer to a question that may be asked twice.

        Raises:
            StoreError: The database failed.
        """
        if not isinstance(self._place, Server):
            with LedgerReader.open(self._place) as reader:
                return question(reader)
        try:
            reader = self._idle.pop()
        except IndexError:
            return self._ask(LedgerReader.open(self._place), question)
        try:
            return self._ask(reader, question)
        except StoreError:
            if not reader.broken:
                raise
        return self._ask(LedgerReader.open(self._place), question)

    def close(self) -> None:
        """Release what is idle, and break off what a server has not answered: nobody waits for it any more."""
        self._closed = True
        for reader in list(self._asked):
            reader.break_off()
        while self._idle:
            self._idle.pop().close()

    def _ask(self, reader: LedgerReader, question: Callable[[LedgerReader], _T]) -> _T:
        self._asked.add(reader)
        try:
            return question(reader)
        finally:
            self._asked.discard(reader)
            if reader.broken or self._closed or len(self._idle) >= IDLE_LIMIT:
                reader.close()
            else:
                self._idle.append(reader)
