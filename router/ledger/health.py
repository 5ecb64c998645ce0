"""Whether a ledger's tables agree with themselves: what must hold of every row, counted where it does not.

The rule: each fault is a count and one example; none of them is repaired here. What is merely worth knowing (calls in
progress, interrupted, set aside) is told apart from what is wrong. This module reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.ledger.database import Database

_PARTS = (
    "uncached_input_nano_usd + cache_write_5m_nano_usd + cache_write_1h_nano_usd + cache_read_nano_usd"
    " + output_text_nano_usd + thinking_nano_usd + tools_nano_usd"
)
_FAULTS = {
    "calls whose parts are not their cost": f"calls WHERE cost_nano_usd <> {_PARTS}"
    f" OR (cost_nano_usd IS NULL) <> ({_PARTS} IS NULL)",
    "calls with a cost below zero": "calls WHERE cost_nano_usd < 0",
    "calls that read and wrote more than they sent": "calls WHERE"
    " cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens > input_tokens",
    "interrupted calls with a cost": "calls WHERE kind = 'interrupted' AND cost_nano_usd IS NOT NULL",
    "calls without a role": "calls WHERE role = ''",
    "answers that another try followed": "calls WHERE role = 'answer' AND EXISTS (SELECT 1 FROM calls AS later"
    " WHERE later.request_id = calls.request_id AND later.attempt > calls.attempt)",
    "misses of calls that are not there": "misses WHERE NOT EXISTS (SELECT 1 FROM calls"
    " WHERE calls.request_id = misses.request_id AND calls.attempt = misses.attempt)",
    "prompts of calls that are not there": "prefixes LEFT JOIN calls ON calls.id = prefixes.call"
    " WHERE calls.id IS NULL",
    "calls that are settled and open at once": "intents WHERE EXISTS (SELECT 1 FROM calls"
    " WHERE calls.request_id = intents.request_id AND calls.attempt = intents.attempt AND calls.kind = 'settled')",
}
_NOTES = {
    "calls": "calls",
    "interrupted calls": "calls WHERE kind = 'interrupted'",
    "calls of unknown cost": "calls WHERE cost_nano_usd IS NULL AND outcome <> 'refused'",
    "intents kept beyond their journal's segment": "intents",
    "settlements set aside": "aside",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Rows of which something holds.

    Attributes:
        example: Request id of one of them, "" where there is none.
    """

    name: str
    count: int
    example: str = ""


def faults(connection: Database) -> list[Finding]:
    """Return what must not be, those that are; a few seconds for a million calls."""
    found = []
    for name, where in _FAULTS.items():
        count, example = connection.execute(
            f"SELECT count(*), coalesce(min(request_id), 'unknown') FROM {where}"
        ).fetchone()
        if count:
            found.append(Finding(name, count, example))
    return found


def notes(connection: Database) -> list[Finding]:
    """Return what is worth knowing."""
    return [
        Finding(name, connection.execute(f"SELECT count(*) FROM {where}").fetchone()[0])
        for name, where in _NOTES.items()
    ]
