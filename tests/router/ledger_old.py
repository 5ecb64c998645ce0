"""Databases as releases before this one left them, with calls in them, for tests of migrations."""

import sqlite3

from router.ledger import codec
from router.ledger.codec import IntentRecord, SettlementRecord
from router.ledger.rows import COLUMNS, interrupted_row, settled_row
from router.ledger.schema import MIGRATIONS, migrate
from tests.router.ledger_samples import START_S


def an_old_database(path, version, settlements=(), intents=()):
    """Make a database of schema `version` with settled and interrupted calls, in the columns there were."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    migrate(connection, START_S, MIGRATIONS[:version])
    there = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
    rows = [settled_row(SettlementRecord(each, codec.encode(each))) for each in settlements]
    rows += [interrupted_row(IntentRecord(each, codec.encode(each)), START_S) for each in intents]
    for row in rows:
        columns = {name: value for name, value in zip(COLUMNS, row, strict=True) if name in there}
        connection.execute(
            f"INSERT INTO calls ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            tuple(columns.values()),
        )
    connection.close()
