"""What a call's record tells of it in columns (schema version 4), and filling them for calls booked before.

The rule: a column says what the record says, never more; where the record says nothing it is NULL. Filling goes by
the calls' numbers, a batch to a transaction, so that a ledger of any size takes bounded memory and log; a process that
dies on the way leaves what it did and the next one goes on from there. Only the role of a call depends on others: it is
"answer" for the last try made for a user, "retried" for one that another followed, "discarded" for an answer nobody
got, and the purpose for a call that no user asked for. All but the first are overhead of our own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from router.ledger.database import Database
from router.settlement import Purpose, Settlement

_LOG = logging.getLogger("router.ledger")
_BATCH = 5_000
_IDS_AT_ONCE = (64, 16, 4, 1)
_SAID_EVERY = 100_000
"""Calls between two words in the log."""

ANSWER, RETRIED, DISCARDED = "answer", "retried", "discarded"

TOLD = (
    "role", "discarded", "reason", "score", "threshold", "propensity", "explored", "p_hit", "held",
    "never_switch_nano_usd",
)  # fmt: skip
"""The columns, in the order `told` gives them."""

ADD = """
ALTER TABLE calls ADD COLUMN discarded TEXT NOT NULL DEFAULT '';
ALTER TABLE calls ADD COLUMN reason TEXT;
ALTER TABLE calls ADD COLUMN score REAL;
ALTER TABLE calls ADD COLUMN threshold REAL;
ALTER TABLE calls ADD COLUMN propensity REAL;
ALTER TABLE calls ADD COLUMN explored INTEGER CHECK (explored IN (0, 1));
ALTER TABLE calls ADD COLUMN p_hit REAL;
ALTER TABLE calls ADD COLUMN held INTEGER CHECK (held IN (0, 1));
ALTER TABLE calls ADD COLUMN never_switch_nano_usd INTEGER;
CREATE INDEX calls_again ON calls (request_id, attempt) WHERE attempt > 1;
ALTER TABLE calls ADD COLUMN role TEXT NOT NULL DEFAULT '';
"""
"""Role comes last: a table that has it has them all."""

_RETRIED = f"UPDATE calls SET role = '{RETRIED}' WHERE role = '{ANSWER}' AND id IN"
_ALL_RETRIED = (
    f"{_RETRIED} (SELECT earlier.id FROM calls AS later JOIN calls AS earlier"
    " ON earlier.request_id = later.request_id AND earlier.attempt < later.attempt WHERE later.attempt > 1)"
)

Value = str | int | float | None


class _Decision(msgspec.Struct, gc=False):
    reason: str
    score: float | None
    threshold: float | None
    propensity: float
    explored: bool = False


class _Cache(msgspec.Struct, gc=False):
    p_hit: float | None = None
    held: bool | None = None


class _Otherwise(msgspec.Struct, gc=False):
    never_switch_nano_usd: int | None = None


class _Record(msgspec.Struct, gc=False):
    """As much of a settlement as columns hold; an intent has none of it."""

    discarded: str = ""
    decision: _Decision | None = None
    cache: _Cache | None = None
    counterfactuals: _Otherwise | None = None


_DECODER = msgspec.json.Decoder(_Record)


def told(purpose: str, record: Settlement | _Record) -> tuple[Value, ...]:
    """Return the columns of a call, as if no other try of its request were known."""
    decision, cache, other = record.decision, record.cache, record.counterfactuals
    discarded = record.discarded
    return (
        role_of(purpose, discarded),
        discarded,
        *(
            (None, None, None, None, None)
            if decision is None
            else (
                decision.reason,
                decision.score,
                decision.threshold,
                decision.propensity,
                decision.explored,
            )
        ),
        *((None, None) if cache is None else (cache.p_hit, cache.held)),
        None if other is None else other.never_switch_nano_usd,
    )


def told_of_none(purpose: str) -> tuple[Value, ...]:
    """Return the columns of a call that was never settled."""
    return (role_of(purpose, ""), "", *(None,) * 8)


def role_of(purpose: str, discarded: str) -> str:
    """Return the role of a call that no other followed."""
    if purpose != Purpose.USER:
        return purpose
    return DISCARDED if discarded else ANSWER


def note_retried(connection: Database, request_ids: Iterable[str]) -> None:
    """Give the tries of these requests that another followed their role, in whatever order tries were stored."""
    again = [
        request_id
        for ids in _batches(list(dict.fromkeys(request_ids)))
        for (request_id,) in connection.execute(
            f"SELECT DISTINCT request_id FROM calls WHERE attempt > 1 AND request_id IN ({_marks(ids)})", ids
        )
    ]
    for ids in _batches(again):
        connection.execute(
            f"{_RETRIED} (SELECT earlier.id FROM calls AS earlier JOIN calls AS later"
            " ON later.request_id = earlier.request_id AND later.attempt > earlier.attempt"
            f" WHERE earlier.request_id IN ({_marks(ids)}))",
            ids,
        )


def fill(connection: Database) -> None:
    """Add the columns and fill them for the calls that are there; what was done before is not done again.

    Raises:
        sqlite3.Error, StoreError: It failed; what was filled by then stays.
    """
    if "role" not in {row[1] for row in connection.execute("PRAGMA table_info(calls)")}:
        with _transaction(connection):
            for statement in ADD.split(";"):
                if statement.strip():
                    connection.execute(statement)
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM calls").fetchone()
    if last > _SAID_EVERY:
        _LOG.warning("the ledger is brought to schema version 4: about %d calls, once", last)
    after = done = 0
    while rows := connection.execute(
        "SELECT id, purpose, record FROM calls WHERE id > ? AND role = '' ORDER BY id LIMIT ?",
        (after, _BATCH),
    ).fetchall():
        with _transaction(connection):
            connection.executemany(
                f"UPDATE calls SET {', '.join(f'{name} = ?' for name in TOLD)} WHERE id = ?",
                [(*told(purpose, _decoded(body)), number) for number, purpose, body in rows],
            )
        after, done = rows[-1][0], done + len(rows)
        if done % _SAID_EVERY < _BATCH and done >= _SAID_EVERY:
            _LOG.warning("schema version 4: %d of about %d calls", done, last)
    with _transaction(connection):
        connection.execute(_ALL_RETRIED)


def _decoded(body: bytes) -> _Record:
    """Return what a record tells; nothing where it cannot be read, as whatever reads the record itself will say."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError):
        return _Record()


def _batches(ids: list[str]) -> Iterator[tuple[str, ...]]:
    """Cut ids into tuples of few lengths, so that few statements are ever compiled; the last may repeat an id."""
    for start in range(0, len(ids), _IDS_AT_ONCE[0]):
        batch = ids[start : start + _IDS_AT_ONCE[0]]
        length = min(length for length in _IDS_AT_ONCE if length >= len(batch))
        yield (*batch, *batch[-1:] * (length - len(batch)))


def _marks(ids: tuple[str, ...]) -> str:
    return ", ".join("?" * len(ids))


@contextmanager
def _transaction(connection: Database) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
