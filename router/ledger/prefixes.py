"""What prompts consist of, beside the calls they were sent with (schema version 7): rows in, pages of calls out.

The rule: a call has one row or none, put in with it in one transaction and taken away with it. A row builds on an
earlier row of the same router (`router.prompt_body`), found by the name of its prompt; among several of one name the
first is taken, and only one that came before, so that what is followed ends. A name means the same whoever wrote it,
because all routers of a ledger name under its one key. What a row builds on and cannot be found (it was pruned, or
never written) leaves it unknown, never guessed at.

The key is drawn by whoever opens the ledger first. It is never shown and never exported. This module knows no bytes of
a prompt and does not read what a row says.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from router.ledger.codec import Key
from router.ledger.database import Database, Value
from router.ledger.groups import CALL_GROUPS, Filter, conditions
from router.prompt_body import prompt_name

SINCE = 7
"""Schema version from which there are any."""
KEY_BYTES = 32
COLUMNS = ("request_id", "attempt", "prompt_name", "body")


class PromptCall(NamedTuple):
    """A user's call with what its prompt consists of.

    Attributes:
        number: Of the call in the ledger; later ones were settled later, by one router.
        session: "" when it had none.
        model: Asked; `answered_model` is what answered, "" when unknown.
        finish_reason: As `router.call.FinishReason`, "" when unknown.
        input_tokens: All input; None when the provider never told, like the parts below.
        cost_nano_usd: None when unknown.
        score: Chance given beforehand that it needed Opus; None where nothing scored.
        body: For `router.prompt_body.decode`; None when nothing is kept.
    """

    started_s: float
    number: int
    route: str
    outcome: str
    tenant: str
    application: str
    session: str
    model: str
    answered_model: str
    strategy: str
    finish_reason: str
    duration_s: float | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_5m_tokens: int | None
    cache_write_1h_tokens: int | None
    output_tokens: int | None
    cost_nano_usd: int | None
    score: float | None
    body: bytes | None


_PAGE = (
    "SELECT started_time_s, id, route, outcome, tenant, application, session, model, answered_model, strategy,"
    " finish_reason, duration_s, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
    " output_tokens, cost_nano_usd, score, body FROM calls LEFT JOIN prefixes ON prefixes.call = calls.id"
    " WHERE kind = 'settled' AND purpose = 'user'"
)


def row_of(key: Key, body: bytes) -> tuple[Value, ...]:
    """Return the columns of a call's prompt, in the order of `COLUMNS`."""
    return (*key, prompt_name(body), body)


def key_of(connection: Database) -> bytes:
    """Return the key prompts are named under, which is drawn now if there is none."""
    found = connection.execute("SELECT key FROM prefix_key WHERE id = 1").fetchone()
    if found is None:
        connection.execute(
            "INSERT INTO prefix_key (id, key) VALUES (1, ?) ON CONFLICT DO NOTHING",
            (secrets.token_bytes(KEY_BYTES),),
        )
        found = connection.execute("SELECT key FROM prefix_key WHERE id = 1").fetchone()
    return bytes(found[0])


def last_number(connection: Database) -> int:
    """Return the number of the call settled last; a later question up to it sees the same calls."""
    (found,) = connection.execute("SELECT coalesce(max(id), 0) FROM calls").fetchone()
    return int(found)


def page(
    connection: Database, where: Filter, until_number: int, after: tuple[float, int] | None, limit: int
) -> list[PromptCall]:
    """Return at most `limit` settled calls of users behind (start, number), by start."""
    condition, bound = conditions(where, CALL_GROUPS)
    if after is not None:
        condition, bound = f"{condition} AND (started_time_s, id) > (?, ?)", (*bound, *after)
    rows = connection.execute(
        f"{_PAGE} AND {condition} AND id <= ? ORDER BY started_time_s, id LIMIT ?",
        (*bound, until_number, limit),
    )
    return [PromptCall._make(row) for row in rows]


def named(connection: Database, prompt: int, before_number: int) -> tuple[int, bytes] | None:
    """Return number and body of the first call whose prompt has this name; None where none came before that number."""
    found = connection.execute(
        "SELECT call, body FROM prefixes WHERE prompt_name = ? AND call < ? ORDER BY call LIMIT 1",
        (prompt, before_number),
    ).fetchone()
    return None if found is None else (found[0], bytes(found[1]))
