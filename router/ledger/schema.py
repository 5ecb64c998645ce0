"""The ledger's tables in SQLite, version by version.

The rule: a database is brought to the current version when it is opened, one migration at a time, each in its
own transaction; one made by a newer release is refused, never guessed at. The record column is the truth (the
JSON of `codec`), the other columns are what queries filter, group and add up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from router.ledger import told
from router.ledger.database import Database

VERSION_1 = """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('settled', 'interrupted')),
    outcome TEXT NOT NULL,
    purpose TEXT NOT NULL,
    route TEXT NOT NULL,
    upstream TEXT NOT NULL,
    model TEXT NOT NULL,
    answered_model TEXT NOT NULL,
    tenant TEXT NOT NULL,
    application TEXT NOT NULL,
    user TEXT NOT NULL,
    session TEXT NOT NULL,
    labels TEXT NOT NULL,
    strategy TEXT NOT NULL,
    miss_cause TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    error TEXT NOT NULL,
    started_time_s REAL NOT NULL,
    settled_time_s REAL NOT NULL,
    duration_s REAL,
    first_byte_s REAL,
    input_tokens INTEGER,
    cache_read_tokens INTEGER,
    cache_write_5m_tokens INTEGER,
    cache_write_1h_tokens INTEGER,
    output_tokens INTEGER,
    thinking_tokens INTEGER,
    usage_complete INTEGER CHECK (usage_complete IN (0, 1)),
    uncached_input_nano_usd INTEGER,
    cache_write_5m_nano_usd INTEGER,
    cache_write_1h_nano_usd INTEGER,
    cache_read_nano_usd INTEGER,
    output_text_nano_usd INTEGER,
    thinking_nano_usd INTEGER,
    tools_nano_usd INTEGER,
    cost_nano_usd INTEGER,
    cost_bound_nano_usd INTEGER,
    no_caching_nano_usd INTEGER,
    all_opus_nano_usd INTEGER,
    all_flash_nano_usd INTEGER,
    all_opus_no_caching_nano_usd INTEGER,
    record BLOB NOT NULL,
    UNIQUE (request_id, attempt)
);
CREATE INDEX calls_by_start ON calls (started_time_s);
CREATE TABLE intents (
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (request_id, attempt)
) WITHOUT ROWID;
CREATE TABLE aside (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    reason TEXT NOT NULL,
    found_time_s REAL NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (request_id, attempt, record)
);
"""

VERSION_2 = """
ALTER TABLE calls ADD COLUMN padding_tokens INTEGER DEFAULT 0;
ALTER TABLE calls ADD COLUMN padding_nano_usd INTEGER DEFAULT 0;
CREATE TABLE misses (
    request_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    cause TEXT NOT NULL,
    layer TEXT NOT NULL,
    block_index INTEGER,
    missed_tokens INTEGER,
    lost_nano_usd INTEGER,
    provider_cause TEXT NOT NULL,
    PRIMARY KEY (request_id, attempt, rank)
) WITHOUT ROWID;
INSERT INTO misses
    SELECT request_id, attempt, 0, miss_cause, '', NULL, NULL, NULL, ''
    FROM calls WHERE kind = 'settled' AND miss_cause <> '';
CREATE INDEX calls_on_opus ON calls (
    started_time_s, purpose, tenant, application, route,
    input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
    uncached_input_nano_usd, cache_write_5m_nano_usd, cache_write_1h_nano_usd, cache_read_nano_usd,
    cost_nano_usd, no_caching_nano_usd, padding_tokens, padding_nano_usd
) WHERE route = 'opus';
"""
"""Misses by themselves, because a call can have several, of different causes; `rank` 0 is the dearest. What a release
before this one noted was the cause alone: tokens and loss of such a miss are unknown, not 0. Padding is unknown for an
interrupted call and 0 for every call settled before there was any. The index holds all that is asked of calls on Opus
as a whole: a row of `calls` fills half a page with its record, and reading a million of them would take seconds."""

VERSION_3 = """
CREATE TABLE feedback (
    request_id TEXT NOT NULL,
    source TEXT NOT NULL,
    tenant TEXT NOT NULL,
    verdict TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 0 AND 1),
    time_s REAL NOT NULL,
    replaced_count INTEGER NOT NULL,
    CHECK (verdict <> '' OR score IS NOT NULL),
    PRIMARY KEY (request_id, source)
) WITHOUT ROWID;
"""
"""How requests turned out, one row per request and source; `verdict` is '' when only a score was given. A request is
found by its id, in the index that `calls` has anyway; nothing is asked of feedback by its own time."""

VERSION_4 = """
DROP INDEX IF EXISTS calls_in_brief;
CREATE INDEX calls_in_brief ON calls (
    started_time_s, role, route, purpose, kind, outcome, error, tenant, application, session, upstream,
    model, answered_model, explored, score, p_hit, held, duration_s, first_byte_s, usage_complete,
    input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, thinking_tokens,
    uncached_input_nano_usd, cache_write_5m_nano_usd, cache_write_1h_nano_usd, cache_read_nano_usd,
    output_text_nano_usd, thinking_nano_usd, tools_nano_usd, cost_nano_usd, cost_bound_nano_usd,
    no_caching_nano_usd, all_opus_nano_usd, all_flash_nano_usd, all_opus_no_caching_nano_usd, never_switch_nano_usd,
    padding_tokens, padding_nano_usd
);
DROP INDEX calls_by_start;
DROP INDEX calls_on_opus
"""
"""What the record alone told, in columns (`told`, which adds and fills them first). The index holds all that reports
ask of many calls at once, by start: it is a sixth of the table, whose rows carry their records. It does what the index
by start and the one of calls on Opus did."""

VERSION_5 = """
CREATE TABLE warms (
    id INTEGER PRIMARY KEY,
    warm_id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    application TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    policy TEXT NOT NULL,
    decided_time_s REAL NOT NULL,
    from_time_s REAL NOT NULL,
    until_time_s REAL NOT NULL,
    settled_time_s REAL NOT NULL,
    result TEXT NOT NULL CHECK (result IN ('used', 'wasted', 'superfluous', 'held_out')),
    came INTEGER NOT NULL CHECK (came IN (0, 1)),
    gain_nano_usd INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    benefit_nano_usd INTEGER NOT NULL,
    benefit_s REAL NOT NULL,
    foresight TEXT NOT NULL
);
CREATE INDEX warms_by_decision ON warms (decided_time_s);
"""
"""What decisions to warm came to, one row each, in the order in which they were settled: `warm_id` is the request id of
the warm's call, which `calls` has, or a name of its own where the decision was held out. `foresight` is the digest of
the model that foresaw the request, '' where none did."""

VERSION_6 = """
CREATE TABLE past (
    day_s INTEGER NOT NULL,
    route TEXT NOT NULL,
    role TEXT NOT NULL,
    purpose TEXT NOT NULL,
    upstream TEXT NOT NULL,
    model TEXT NOT NULL,
    tenant TEXT NOT NULL,
    application TEXT NOT NULL,
    calls INTEGER NOT NULL,
    unknown_calls INTEGER NOT NULL,
    unknown_bound_nano_usd INTEGER NOT NULL,
    incomplete_calls INTEGER NOT NULL,
    incomplete_bound_nano_usd INTEGER NOT NULL,
    unbounded_calls INTEGER NOT NULL,
    usage_calls INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    thinking_tokens INTEGER NOT NULL,
    uncached_input_nano_usd INTEGER NOT NULL,
    cache_write_5m_nano_usd INTEGER NOT NULL,
    cache_write_1h_nano_usd INTEGER NOT NULL,
    cache_read_nano_usd INTEGER NOT NULL,
    output_text_nano_usd INTEGER NOT NULL,
    thinking_nano_usd INTEGER NOT NULL,
    tools_nano_usd INTEGER NOT NULL,
    no_caching_nano_usd_calls INTEGER NOT NULL,
    no_caching_nano_usd INTEGER NOT NULL,
    no_caching_nano_usd_cost INTEGER NOT NULL,
    all_opus_nano_usd_calls INTEGER NOT NULL,
    all_opus_nano_usd INTEGER NOT NULL,
    all_opus_nano_usd_cost INTEGER NOT NULL,
    all_flash_nano_usd_calls INTEGER NOT NULL,
    all_flash_nano_usd INTEGER NOT NULL,
    all_flash_nano_usd_cost INTEGER NOT NULL,
    all_opus_no_caching_nano_usd_calls INTEGER NOT NULL,
    all_opus_no_caching_nano_usd INTEGER NOT NULL,
    all_opus_no_caching_nano_usd_cost INTEGER NOT NULL,
    never_switch_nano_usd_calls INTEGER NOT NULL,
    never_switch_nano_usd INTEGER NOT NULL,
    never_switch_nano_usd_cost INTEGER NOT NULL,
    PRIMARY KEY (day_s, route, role, purpose, upstream, model, tenant, application)
) WITHOUT ROWID;
CREATE TABLE pruned (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    before_time_s REAL NOT NULL,
    calls INTEGER NOT NULL
);
"""
"""Sums by day of calls that are not kept any more, and up to when they are not (`past`)."""

VERSION_7 = """
CREATE TABLE prefixes (
    call INTEGER PRIMARY KEY,
    prompt_name INTEGER,
    body BLOB NOT NULL
);
CREATE INDEX prefixes_by_name ON prefixes (prompt_name) WHERE prompt_name IS NOT NULL;
CREATE TABLE prefix_key (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    key BLOB NOT NULL
);
CREATE TABLE past_warms (
    day_s INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    application TEXT NOT NULL,
    trigger_name TEXT NOT NULL,
    policy TEXT NOT NULL,
    result TEXT NOT NULL,
    foresight TEXT NOT NULL,
    decisions INTEGER NOT NULL,
    came INTEGER NOT NULL,
    gain_nano_usd INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    benefit_nano_usd INTEGER NOT NULL,
    benefit_usd REAL NOT NULL,
    benefit_usd_squared REAL NOT NULL,
    benefit_s REAL NOT NULL,
    PRIMARY KEY (day_s, tenant, application, trigger_name, policy, result, foresight)
) WITHOUT ROWID;
"""
"""What prompts consist of (`prefixes`): a row for a call that has it, under the call's number. In a table of their own,
because a replay reads all of them and no record: a twentieth of the bytes. Calls booked before have none. And sums by
day of verdicts on warms that are not kept any more."""

MIGRATIONS: Sequence[str] = (VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6, VERSION_7)
"""Statements that lead from version i to i + 1; released ones are never changed, only added to."""
FIRST: Mapping[int, Callable[[Database], None]] = {4: told.fill}
"""What is done before the statements that lead to a version, in transactions of its own; doing it again is harmless."""
WARMS_SINCE = MIGRATIONS.index(VERSION_5) + 1
"""Version from which there are verdicts on warms."""


class SchemaTooNew(Exception):
    """The database was made by a newer release than this one."""


def too_new(found: int, known: int) -> str:
    """Say that a database is ahead of this release."""
    return f"the ledger has schema version {found}, this release knows {known}; run a newer release"


def migrate(connection: sqlite3.Connection, now_s: float, migrations: Sequence[str] = MIGRATIONS) -> int:
    """Bring a database to the version of `migrations`; return that version.

    Args:
        connection: In autocommit mode.
        now_s: Time noted beside each version, seconds since the epoch.

    Raises:
        SchemaTooNew: The database is ahead of `migrations`.
        sqlite3.Error: A migration failed; the database is at the version before it.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (version INTEGER PRIMARY KEY, applied_time_s REAL NOT NULL)"
    )
    (current,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    if current > len(migrations):
        raise SchemaTooNew(too_new(current, len(migrations)))
    for version in range(current + 1, len(migrations) + 1):
        if version in FIRST:
            FIRST[version](connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migrations[version - 1].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (version, now_s))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    return len(migrations)
