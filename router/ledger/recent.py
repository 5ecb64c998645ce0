"""The last calls of recent sessions, for a service that has just started and remembers nothing.

The rule: bounded both ways, so that reading it costs a start some tenths of a second at most, off the loop, however
large the ledger: only so many of the newest rows are looked at, and columns are read, no record is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from router.ledger.database import Database

ROWS_LOOKED_AT = 10_000
"""Newest calls of any route that are looked at."""

_SQL = """
WITH newest AS (SELECT id FROM calls WHERE started_time_s >= ? ORDER BY started_time_s DESC LIMIT ?),
ranked AS (
    SELECT id, started_time_s,
        row_number() OVER (PARTITION BY tenant, session ORDER BY started_time_s DESC, id DESC) AS place
    FROM calls
    WHERE id IN (SELECT id FROM newest) AND kind = 'settled' AND route = ? AND purpose = 'user' AND session <> ''
        AND input_tokens IS NOT NULL
),
last AS (SELECT id FROM ranked WHERE place = 1 ORDER BY started_time_s DESC LIMIT ?)
SELECT tenant, session, model, calls.started_time_s, input_tokens,
       cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens,
       coalesce(json_extract(CAST(record AS TEXT), '$.response_id'), '')
FROM last JOIN calls USING (id) ORDER BY 4 DESC
"""


_TURNS = """
SELECT request_id, route, tenant, application, session, started_time_s, finish_reason,
       coalesce(cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens, 0),
       score, input_tokens, output_tokens, duration_s
FROM calls WHERE started_time_s >= ? AND kind = 'settled' AND purpose = 'user' AND session <> '' AND outcome = 'ok'
ORDER BY started_time_s DESC, id DESC LIMIT ?
"""


class Turn(NamedTuple):
    """A user's call of a session that was answered.

    Attributes:
        finish_reason: As `router.call.FinishReason`; "tool_call" where the next turn of the session brings results.
        cached_tokens: Input read from or written to the cache.
        score: Chance given beforehand that Opus was needed; None when nothing scored.
        input_tokens: All input; None when it is not known, likewise of the output and the seconds it took.
    """

    request_id: str
    route: str
    tenant: str
    application: str
    session: str
    started_s: float
    finish_reason: str
    cached_tokens: int
    score: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_s: float | None = None


_FIRST_BYTES = """
SELECT model, input_tokens - cache_read_tokens, first_byte_s,
       coalesce(json_extract(CAST(record AS TEXT), '$.intent.stream'), '')
FROM calls
WHERE id IN (SELECT id FROM calls WHERE started_time_s >= ? ORDER BY started_time_s DESC LIMIT ?)
    AND kind = 'settled' AND purpose = 'user' AND outcome = 'ok' AND route = ? AND first_byte_s IS NOT NULL
    AND input_tokens IS NOT NULL AND cache_read_tokens IS NOT NULL
ORDER BY started_time_s DESC, id DESC LIMIT ?
"""


class PastFirstByte(NamedTuple):
    """How long a streamed answer took to begin.

    Attributes:
        model: That was asked.
        uncached_tokens: Input that was read anew, what was written included.
        seconds: To its first byte.
    """

    model: str
    uncached_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LastCall:
    """A session's last call with known usage.

    Attributes:
        model: Model asked.
        input_tokens: All input, cached parts included.
        cached_tokens: Part of it that was read from or written to the cache.
        response_id: Provider's id of the answer, "" when it gave none.
    """

    tenant: str
    session: str
    model: str
    started_s: float
    input_tokens: int
    cached_tokens: int
    response_id: str


def last_calls(connection: Database, route: str, since_s: float, limit: int) -> list[LastCall]:
    """Return the last call on `route` of at most `limit` sessions that called since `since_s`, newest first."""
    rows = connection.execute(_SQL, (since_s, ROWS_LOOKED_AT, route, limit))
    return [LastCall(*row) for row in rows]


def last_turns(connection: Database, since_s: float, limit: int) -> list[Turn]:
    """Return the last `limit` answered turns of sessions since `since_s`, oldest first."""
    rows = connection.execute(_TURNS, (since_s, limit)).fetchall()
    return [Turn._make(row) for row in reversed(rows)]


def first_bytes(connection: Database, route: str, since_s: float, limit: int) -> list[PastFirstByte]:
    """Return those of the last `limit` answers to users on `route` since `since_s` that were streamed, oldest first.

    A whole answer begins when it ends, and says nothing of how long reading took.
    """
    rows = connection.execute(_FIRST_BYTES, (since_s, ROWS_LOOKED_AT, route, limit)).fetchall()
    # One store gives a truth of JSON as a number, the other as its word.
    return [PastFirstByte(*row[:3]) for row in reversed(rows) if str(row[3]).lower() in ("1", "true")]
