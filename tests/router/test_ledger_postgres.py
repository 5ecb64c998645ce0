"""A ledger on PostgreSQL: several routers on one database, a server that goes away, roles, and no password anywhere."""

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from router.errors import LedgerUnavailable
from router.feedback import Feedback, Received, Verdict
from router.ledger import (
    Filter,
    Ledger,
    LedgerReader,
    LedgerSettings,
    SchemaTooNew,
    Server,
    StoreError,
    place_of,
    postgres,
    recovery,
)
from router.ledger.codec import SETTLEMENT, IntentRecord, SettlementRecord, encode
from router.ledger.journal import Journal
from router.ledger.ledger import owner_of
from router.ledger.past import past_costs
from router.ledger.postgres import ABANDONED_S, PostgresStore
from router.ledger.postgres_schema import migrate_server
from router.ledger.readers import IDLE_LIMIT
from router.ledger.schema import MIGRATIONS
from router.ledger.store import NOTHING_BROUGHT, Brought
from router.page import figures_of, page
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

QUICK = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False)
SECRET = "5ecret-w0rd"


@pytest.fixture
def server(postgres_schemas):
    """A schema with empty tables."""
    url = postgres_schemas.take()
    yield Server(url)
    postgres_schemas.give_back(url)


def opened(directory, server, now_s=START_S, **changes):
    """Open the ledger of a router whose journal is in `directory`."""
    return Ledger.open(directory, clock=StillClock(now_s), settings=replace(QUICK, **changes), server=server)


def kept(settlement):
    """The settlement as the store takes it."""
    return SettlementRecord(settlement, encode(settlement))


def an_open_call(store, request_id="slow"):
    """Keep the intent of a call that is still running."""
    intent = an_intent(request_id=request_id)
    store.write((), [IntentRecord(intent, encode(intent))], START_S)
    return intent


def interrupted(server):
    """Ids of the calls listed as interrupted."""
    with LedgerReader.open(server) as reader:
        return [each.intent.request_id for each in reader.interrupted()]


# --- several routers
# --------------------------------------------------------------------------------------------------------------


async def test_a_router_that_starts_leaves_what_others_are_doing_alone(tmp_path, server):
    """An open call of a running router is not interrupted by another's start; both write to one bill."""
    first = opened(tmp_path / "a", server, segment_bytes=1)
    first.journal_intent(an_intent(request_id="slow"))
    first.journal_intent(an_intent(request_id="next"))
    await first.flush()
    second = opened(tmp_path / "b", server)
    assert second.recovery.interrupted == 0
    second.settle(a_settlement(an_intent(request_id="other")))
    await second.flush()
    first.settle(a_settlement(an_intent(request_id="slow")))
    first.settle(a_settlement(an_intent(request_id="next")))
    assert (await first.totals()).calls == 3
    assert await second.interrupted() == []
    await first.close()
    await second.close()
    third = opened(tmp_path / "c", server)
    assert third.recovery.interrupted == 0
    third.close_blocking()


def test_a_router_finds_its_own_calls_again(tmp_path, server):
    """The id lies beside the journal: the next process of that directory takes over, nobody else need."""
    store = PostgresStore(server, "own", START_S)
    an_open_call(store)
    store._connection.close()  # killed: nobody said that it is gone
    found = {}
    for owner in ("another", "own"):
        store = PostgresStore(server, owner, START_S + 60)
        found[owner] = [record.key for record in store.open_intents()]
        store.close()
    assert found == {"another": [], "own": [("slow", 1)]}


def test_what_a_router_left_open_is_listed_by_the_next_to_start(tmp_path, server):
    """Scaled down for good: its last open calls do not wait for a process that never comes."""
    first = opened(tmp_path / "a", server)
    first.journal_intent(an_intent(request_id="cut"))
    first.close_blocking()
    second = opened(tmp_path / "b", server, START_S + 60)
    assert second.recovery.interrupted == 1
    second.close_blocking()
    assert interrupted(server) == ["cut"]


def test_a_router_that_was_not_seen_for_long_is_gone_and_may_come_back(tmp_path, server):
    """Its open calls are interrupted; a settlement that comes after all takes the interruption's place."""
    lost = PostgresStore(server, "lost", START_S)
    intent = an_open_call(lost)
    early = opened(tmp_path / "a", server, START_S + ABANDONED_S)
    assert early.recovery.interrupted == 0
    early.close_blocking()
    late = opened(tmp_path / "b", server, START_S + ABANDONED_S + 1)
    assert late.recovery.interrupted == 1
    late.close_blocking()
    assert lost.write([kept(a_settlement(intent))], (), START_S + ABANDONED_S + 2).stored == 1
    assert interrupted(server) == []
    with LedgerReader.open(server) as reader:
        assert reader.totals().calls == 1
    lost.close()


def test_routers_that_start_at_once_make_the_tables_once(tmp_path, postgres_url):
    """One does it, the others wait and find it done."""
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda n: PostgresStore(Server(postgres_url), f"r{n}", START_S), range(6)))
    assert stores[0].write([kept(a_settlement())], (), START_S).stored == 1
    versions = stores[1]._connection.execute("SELECT version FROM schema_version ORDER BY 1").fetchall()
    assert [version for (version,) in versions] == list(range(1, len(MIGRATIONS) + 1))
    for store in stores:
        store.close()


def test_of_two_routers_that_are_told_the_same_one_is_first(server):
    """Judgements are taken in turn, whichever router they reach."""
    stores = [PostgresStore(server, name, START_S) for name in "ab"]
    stores[0].write([kept(a_settlement(an_intent(request_id=f"r{n}"))) for n in range(20)], (), START_S)
    said = [
        Feedback(
            request_id=f"r{n}", tenant="acme", source="u", verdict=Verdict.BAD, score=None, time_s=START_S
        )
        for n in range(20)
    ]
    with ThreadPoolExecutor(2) as pool:
        tasks = zip(stores, (said, said[::-1]), strict=True)
        answers = list(pool.map(lambda task: task[0].keep_feedback(task[1], {}, 0), tasks))
    for one, other in zip(answers[0], answers[1][::-1], strict=True):
        assert {one.received, other.received} == {Received.RECORDED, Received.REPEATED}
    for store in stores:
        store.close()


def test_routers_that_prune_at_once_sum_each_call_once(server):
    """One at a time; a call that is settled meanwhile is neither lost nor counted twice."""
    stores = [PostgresStore(server, name, START_S) for name in "abc"]
    calls = [a_settlement(an_intent(request_id=f"r{n}", started_time_s=START_S + n)) for n in range(60)]
    stores[2].write([kept(each) for each in calls[:40]], (), START_S)

    def prune(store):
        return sum(iter(lambda: store.prune(START_S + 86_400.0, 4), 0))

    with ThreadPoolExecutor(3) as pool:
        pruned = [pool.submit(prune, store) for store in stores[:2]]
        for each in calls[40:]:
            stores[2].write([kept(each)], (), START_S)
    moved = sum(each.result() for each in pruned)
    moved += prune(stores[0])
    with LedgerReader.open(server) as reader:
        (sums,) = reader.ask(past_costs)
        assert (sums.calls, reader.totals().calls, moved) == (60, 0, 60)
    assert sums.cost.total_nano_usd == 60 * 23_750_000
    for store in stores:
        store.close()


def test_calls_of_a_router_that_was_away_for_longer_than_calls_are_kept_are_in_the_sums_once(
    tmp_path, server
):
    """What only a dead router's journal had is booked when it comes back, though its day has been summed by then.

    What it had brought before, or what the journal says twice, is not.
    """
    day_s, directory = 86_400.0, tmp_path / "a"
    calls = [a_settlement(an_intent(request_id=f"r{n}", started_time_s=START_S + n)) for n in range(4)]
    calls.append(a_settlement(an_intent(request_id="new", started_time_s=START_S + 40 * day_s)))
    journal = directory / "journal"
    journal.mkdir(parents=True)
    written = Journal(journal, first=1, segment_bytes=1 << 20)
    for each in calls:
        written.append(SETTLEMENT, encode(each))
    written.close(remove=False)
    (segment,) = journal.iterdir()
    raw = segment.read_bytes()
    dead = PostgresStore(server, owner_of(directory), START_S)
    dead.write([kept(each) for each in calls[:2]], (), START_S, brought=Brought.of(kept(calls[1])))
    an_open_call(dead)
    dead._connection.close()  # killed
    other = PostgresStore(server, "other", START_S)
    assert other.prune(START_S + 30 * day_s, 100) == 2
    for stored, repeated, lost in ((3, 2, 1), (0, 5, 0)):
        segment.write_bytes(raw)
        again = opened(directory, server, START_S + 41 * day_s)
        found = again.recovery
        assert (found.settlements, found.repeated, found.interrupted) == (stored, repeated, lost)
        again.close_blocking()
        other.prune(START_S + 30 * day_s, 100)
        with LedgerReader.open(server) as reader:
            (sums,) = reader.ask(past_costs)
            assert (sums.calls, sums.unknown_calls, reader.totals().calls) == (5, 1, 1)
            assert sums.cost.total_nano_usd == 4 * 23_750_000
    other.close()


def a_journal_of(directory, calls):
    """Write a journal that holds these settlements, as a router leaves it that is killed."""
    journal = directory / "journal"
    journal.mkdir(parents=True, exist_ok=True)
    written = Journal(journal, first=1, segment_bytes=1 << 20)
    for each in calls:
        written.append(SETTLEMENT, encode(each))
    written.close(remove=False)


def summed(server):
    """Calls in the sums by day, and calls that are kept."""
    with LedgerReader.open(server) as reader:
        return sum(each.calls for each in reader.ask(past_costs)), reader.totals().calls


def settled_in_turn(count):
    """Calls a second apart."""
    return [
        a_settlement(
            an_intent(request_id=f"r{n}", started_time_s=START_S + n), settled_time_s=START_S + n + 0.5
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("known", [1, 3])
def test_a_journal_that_lost_the_line_of_the_last_call_it_brought_doubles_none(tmp_path, server, known):
    """A power cut takes the journal's last lines, the server has their calls; which others it has is told by time."""
    day_s, directory = 86_400.0, tmp_path / "a"
    calls = settled_in_turn(4)
    a_journal_of(directory, [each for n, each in enumerate(calls) if n != known])
    dead = PostgresStore(server, owner_of(directory), START_S)
    brought = Brought.of(kept(calls[known]))
    dead.write([kept(each) for each in calls[: known + 1]], (), START_S, brought=brought)
    dead._connection.close()  # killed
    other = PostgresStore(server, "other", START_S)
    assert other.prune(START_S + 30 * day_s, 100) == known + 1
    again = opened(directory, server, START_S + 41 * day_s)
    assert (again.recovery.settlements, again.recovery.repeated) == (3 - known, known)
    again.close_blocking()
    other.prune(START_S + 30 * day_s, 100)
    assert summed(server) == (4, 0)
    other.close()


def test_a_start_that_dies_in_the_replay_does_not_double_what_is_summed_before_the_next(
    tmp_path, server, monkeypatch
):
    """How far the journal has been brought is noted with each batch of a replay, not by the writer alone."""
    day_s, directory = 86_400.0, tmp_path / "a"
    a_journal_of(directory, settled_in_turn(4))
    monkeypatch.setattr(recovery, "_BATCH", 3)

    def dies(*_):
        raise StoreError("killed")

    with monkeypatch.context() as dying:
        dying.setattr(PostgresStore, "make_durable", dies)
        with pytest.raises(StoreError, match="killed"):
            opened(directory, server)
    assert summed(server) == (0, 4)
    other = PostgresStore(server, "other", START_S)
    assert other.prune(START_S + 30 * day_s, 100) == 4
    again = opened(directory, server, START_S + 41 * day_s)
    assert (again.recovery.settlements, again.recovery.repeated) == (0, 4)
    again.close_blocking()
    assert summed(server) == (4, 0)
    other.close()


def test_a_prune_by_command_leaves_no_router_behind(tmp_path, server):
    """What opened the ledger and brought nothing is not kept as a router; one that brought a call is."""
    first = opened(tmp_path / "a", server)
    first.settle(a_settlement())
    first.close_blocking()
    second = opened(tmp_path / "b", server, START_S + 5 * 86_400.0)
    assert second.prune_blocking(START_S + 86_400.0) == 1
    second.close_blocking()
    store = PostgresStore(server, "looking", START_S)
    owners = [owner for (owner,) in store._connection.execute("SELECT owner FROM owners ORDER BY 1")]
    assert sorted(owners) == sorted([owner_of(tmp_path / "a"), "looking"])
    store.close()


def test_a_start_does_not_wait_for_ever_for_a_server_that_hangs(server, monkeypatch):
    """A server that takes the connection and never answers is given up, by name."""
    PostgresStore(server, "a", START_S).close()
    monkeypatch.setattr(postgres, "ANSWER_S", 0.05)
    with psycopg.connect(server.url) as other:
        other.execute("LOCK TABLE schema_version IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreError, match=r"did not answer within 0\.05 s"):
            PostgresStore(server, "a", START_S)


def test_a_ledger_of_the_release_before_learns_who_brought_what(server):
    """Version 6 on a server is led on; a journal of which nothing is known is treated as it was."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        for table in ("prefixes", "prefix_key", "past_warms"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute(
            "ALTER TABLE owners DROP COLUMN request_id, DROP COLUMN attempt, DROP COLUMN settled_time_s"
        )
        connection.execute("DELETE FROM schema_version WHERE version > 6")
        connection.execute(f"INSERT INTO owners VALUES ('old', {START_S}, 0)")
    store = PostgresStore(server, "old", START_S)
    assert store.last_brought() is None
    brought = Brought("r1", 1, START_S)
    store.write([kept(a_settlement())], (), START_S, brought=brought)
    assert store.last_brought() == brought
    fresh = PostgresStore(server, "fresh", START_S)
    assert fresh.last_brought() == NOTHING_BROUGHT
    fresh.close()
    store.close()


# --- a server that goes away
# --------------------------------------------------------------------------------------------------------------


async def test_a_server_that_goes_away_loses_nothing(tmp_path, postgres_server, server, caplog):
    """Records wait in memory and journal; when the server is back they are stored, and questions answered."""
    ledger = opened(tmp_path, server)
    ledger.settle(a_settlement(an_intent(request_id="before")))
    assert (await ledger.totals()).calls == 1
    postgres_server.stop()
    try:
        ledger.journal_intent(an_intent(request_id="while"))
        ledger.settle(a_settlement(an_intent(request_id="while")))
        with pytest.raises(LedgerUnavailable, match="database failed"):
            await ledger.flush()
        assert ledger.stats().pending == 1
        with pytest.raises(StoreError, match="cannot be reached"):
            opened(tmp_path / "other", server)
    finally:
        postgres_server.start()
    for _ in range(50):  # the first connection after a crash may still be refused
        try:
            await ledger.flush()
            break
        except LedgerUnavailable:
            continue
    assert (await ledger.totals()).calls == 2
    assert ledger.stats().failures >= 1
    assert "records wait in memory and journal" in caplog.text
    await ledger.close()


async def test_a_connection_that_breaks_is_made_anew(tmp_path, postgres_server, server):
    """The writer's with its next batch, a reader's at once."""
    ledger = opened(tmp_path, server)
    assert (await ledger.totals()).calls == 0
    postgres_server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hybrid-router'"
    )
    ledger.settle(a_settlement())
    with pytest.raises(LedgerUnavailable, match="terminating connection"):
        await ledger.flush()
    assert (await ledger.totals()).calls == 1
    await ledger.close()


def test_a_server_that_does_not_answer_does_not_hold_up_the_end(tmp_path, server):
    """The writer, and a question in progress, are broken off; the next opening replays what the server lacks."""
    ledger = opened(tmp_path, server, close_s=0.05)
    with psycopg.connect(server.url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("LOCK TABLE calls IN ACCESS EXCLUSIVE MODE")
        question = pool.submit(ledger._readers.ask, lambda reader: reader.totals())
        ledger.settle(a_settlement())
        while not ledger._readers._asked:
            pass
        ledger.close_blocking()
        with pytest.raises(StoreError):
            question.result(5)
    again = opened(tmp_path, server)
    assert again.recovery.settlements == 1
    again.close_blocking()


def test_a_commit_whose_answer_is_lost_is_not_doubled(tmp_path, server, monkeypatch):
    """Nobody knows whether it was written, so it is written again, and counts once."""
    store = PostgresStore(server, "r", START_S)
    commit = type(store._connection).commit

    def lost(connection):
        commit(connection)
        connection.close()
        raise StoreError("the answer was lost")

    said = Feedback(
        request_id="r1", tenant="acme", source="u", verdict=Verdict.BAD, score=None, time_s=START_S
    )
    with monkeypatch.context() as broken:
        broken.setattr(type(store._connection), "commit", lost)
        for ask in (
            lambda: store.write([kept(a_settlement())], (), START_S),
            lambda: store.keep_feedback([said], {}, 0),
        ):
            with pytest.raises(StoreError, match="lost"):
                ask()
    assert store.write([kept(a_settlement())], (), START_S).repeated == 1
    assert store.keep_feedback([said], {}, 0)[0].received is Received.REPEATED
    store.close()


async def test_few_connections_are_kept_for_questions(tmp_path, server):
    """However many ask at once, and none when the ledger is closed."""
    ledger = opened(tmp_path, server)
    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(lambda _: ledger._readers.ask(LedgerReader.totals), range(40)))
    assert {row.calls for row in totals} == {0}
    assert len(ledger._readers._idle) <= IDLE_LIMIT
    idle = [reader._connection for reader in ledger._readers._idle]
    await ledger.close()
    assert all(connection.closed for connection in idle)


# --- tables and roles
# --------------------------------------------------------------------------------------------------------------


def test_a_database_of_a_newer_release_is_refused(tmp_path, postgres_url):
    """It is never guessed at, neither for writing nor for reading."""
    opened(tmp_path, Server(postgres_url)).close_blocking()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"INSERT INTO schema_version VALUES ({len(MIGRATIONS) + 1}, 0)")
    with pytest.raises(SchemaTooNew, match="newer release"):
        opened(tmp_path, Server(postgres_url))
    with pytest.raises(StoreError, match="newer release"):
        LedgerReader.open(Server(postgres_url))


def test_later_versions_follow_whole_and_once(postgres_url):
    """A migration is translated from the same text; one that fails half way leaves the version before it."""
    store = PostgresStore(Server(postgres_url), "r", START_S)
    connection = store._connection
    more = (*MIGRATIONS, "CREATE TABLE extra (id INTEGER PRIMARY KEY, a REAL); CREATE TABLE calls (a TEXT)")
    with pytest.raises(StoreError, match="already exists"):
        migrate_server(connection, START_S, more)
    assert connection.execute("SELECT to_regclass('extra')").fetchone() == (None,)
    fixed = (*MIGRATIONS, "CREATE TABLE extra (id INTEGER PRIMARY KEY, a REAL)")
    assert migrate_server(connection, START_S + 5, fixed) == migrate_server(connection, START_S + 9, fixed)
    applied = connection.execute("SELECT max(version), max(applied_time_s) FROM schema_version").fetchone()
    assert applied == (len(fixed), START_S + 5)
    store.close()


def test_an_empty_database_and_anothers_are_refused_for_reading(postgres_url):
    """A reader makes nothing."""
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be read as a ledger's database"):
            LedgerReader.open(Server(postgres_url))
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS calls (a int)")


def test_text_that_is_not_utf_8_is_refused(postgres_server):
    """Records are UTF-8; another encoding would refuse some of them one day."""
    postgres_server.run("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with pytest.raises(StoreError, match="is in LATIN1; it has to be in UTF8"):
            PostgresStore(Server(postgres_server.url("latin")), "r", START_S)
    finally:
        postgres_server.run("DROP DATABASE latin")


def test_who_writes_need_not_own_the_tables_and_who_reads_need_not_write(tmp_path, postgres_url):
    """Three roles: one makes the tables, the routers' has the rows, the reports' may only look."""
    opened(tmp_path / "owner", Server(postgres_url)).close_blocking()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for role, rights in (("writes", "SELECT, INSERT, UPDATE, DELETE"), ("looks", "SELECT")):
            connection.execute(f"DROP ROLE IF EXISTS {role}")
            connection.execute(f"CREATE ROLE {role} LOGIN")
            connection.execute(f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {role}")
    writes, looks = (Server(postgres_url.replace("router@", f"{role}@")) for role in ("writes", "looks"))
    ledger = opened(tmp_path / "writes", writes)
    ledger.journal_intent(an_intent(request_id="lost"))
    ledger.settle(a_settlement())
    ledger.close_blocking()
    opened(tmp_path / "again", writes).close_blocking()
    with LedgerReader.open(looks) as reader:
        assert (reader.totals().calls, len(reader.interrupted())) == (2, 1)
        assert "<svg" in page(figures_of(reader), title="t")
    with pytest.raises(StoreError, match="permission denied"):
        opened(tmp_path / "looks", looks)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY writes, looks; DROP ROLE writes, looks")


def test_text_with_a_nul_is_booked_all_the_same(server):
    """PostgreSQL's text has no NUL; the columns show a mark instead, the record is as it was."""
    store = PostgresStore(server, "r", START_S)
    odd = a_settlement(an_intent(user="a\0b", labels={"team": "x\0"}), finish_reason="\\u0000")
    assert store.write([kept(odd)], (), START_S).stored == 1
    with LedgerReader.open(server) as reader:
        assert list(reader.settlements()) == [odd]
        assert [row.group["user"] for row in reader.costs(("user",))] == ["a\ufffdb"]
        assert reader.costs(("label:team",))[0].group["label:team"] == "x\ufffd"
        for asked in ({"user": "a\0b"}, {"label:team": "x\0"}):
            assert reader.totals(Filter(equal=asked)).calls == 1, "whoever asks for it finds it"
    store.close()


def test_an_id_with_a_nul_is_an_id_like_any_other(server):
    """What is kept under it is found under it: no batch fails for it, again and again."""
    store = PostgresStore(server, "r", START_S)
    for attempt in (1, 2):
        odd = an_intent(request_id="r\0", attempt=attempt)
        store.write((), [IntentRecord(odd, encode(odd))], START_S)
        assert store.write([kept(a_settlement(odd))], (), START_S).stored == 1
        assert store.write([kept(a_settlement(odd))], (), START_S).repeated == 1
    assert store.open_intents() == []
    store.close()


# --- what is shown
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            f"postgresql://u:{SECRET}@db.internal:5433/bill?sslmode=require",
            "postgresql://db.internal:5433/bill",
        ),
        (f"postgres://u:{SECRET}@a:1,b:2/bill", "postgresql://a:1,b:2/bill"),
        (f"postgresql:///bill?host=/run/pg&password={SECRET}", "postgresql:///run/pg/bill"),
        (f"postgresql://u:a@{SECRET}@db/bill", "postgresql://db/bill"),
        (f"postgresql://:{SECRET}@/bill", "postgresql://localhost/bill"),
    ],
)
def test_a_server_is_shown_without_user_and_password(url, shown):
    """Whatever prints a place prints no secret."""
    server = Server(url, SECRET)
    assert str(server) == repr(server) == f"{server}" == shown
    assert SECRET not in f"{[server]}"
    assert place_of(url) == Server(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}%zz@127.0.0.1:1/x",
        f"postgresql://u:{SECRET}@127.0.0.1:1/x?{SECRET}=1",
        f"postgresql://u:{SECRET}@127.0.0.1:1/x",
        f"postgresql://u:{SECRET}@127.0.0.1:port/x",
        f"postgresql://u@127.0.0.1:1/x?password={SECRET}&connect_timeout=1",
    ],
)
def test_no_error_and_no_log_line_holds_the_password(tmp_path, url, caplog):
    """A URL that cannot be read, a server that cannot be reached: named by host and database, with every cause."""
    caplog.set_level(logging.DEBUG)
    for open_it in (
        lambda: PostgresStore(Server(url, SECRET), "r", START_S),
        lambda: LedgerReader.open(Server(url)),
    ):
        with pytest.raises(StoreError, match=r"cannot be (read|reached)") as caught:
            open_it()
        error = caught.value
        while error is not None:
            assert SECRET not in repr(error)
            error = error.__cause__
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://u:a?{SECRET}@127.0.0.1:1/bill",
        f"postgresql://u:{SECRET}?a@127.0.0.1:1/bill",
        f"postgresql://u:{SECRET}",
        f"postgresql://u:{SECRET}/bill",
        f"postgresql://u:a@{SECRET}@127.0.0.1:1/bill",
        f"postgresql://u:a/{SECRET}@127.0.0.1:1/bill",
        f"postgresql://u:1/{SECRET}@127.0.0.1:1/bill",
        f"postgresql://u@127.0.0.1:1/bill&password={SECRET}",
        f"POSTGRESQL://u:{SECRET}@db/bill",
        f"postgresql+psycopg://u:{SECRET}@db/bill",
        f" postgresql://u:{SECRET}@db/bill",
        f"postgresql:/u:{SECRET}@db/bill",
        f"host=db user=u password={SECRET}",
        f"mysql://u:{SECRET}@db/bill",
        "postgresql:///\udcff",
    ],
)
def test_no_misspelt_address_is_repeated(text):
    """libpq takes what is left of a password for a host, and a path is named where it is missing."""
    with pytest.raises((StoreError, ValueError)) as refused:
        LedgerReader.open(place_of(text))
    assert SECRET not in str(refused.value)
    assert not isinstance(refused.value, UnicodeError)


def test_a_wrong_password_is_told_without_it(postgres_server, server):
    """The server's own words, which name the role only."""
    with pytest.raises(StoreError, match='role "nobody_here" does not exist'):
        LedgerReader.open(Server(server.url.replace("router@", f"nobody_here:{SECRET}@")))


def test_the_password_of_a_file_is_used_for_a_url_without_one(monkeypatch):
    """It goes to libpq, and not over one that the URL has."""
    asked = []

    def connect(conninfo, **_):
        asked.append(psycopg.conninfo.conninfo_to_dict(conninfo))
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(psycopg, "connect", connect)
    for url in ("postgresql://u@db/x", "postgresql://u:own@db/x?connect_timeout=1"):
        with pytest.raises(StoreError, match="away"):
            LedgerReader.open(Server(url, SECRET))
    assert [each["password"] for each in asked] == [SECRET, "own"]
    assert [each["connect_timeout"] for each in asked] == ["5", "1"]


def test_without_psycopg_the_extra_is_named(monkeypatch):
    """PostgreSQL is an extra of the distribution; SQLite needs nothing."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"hybrid-router\[postgres\]"):
        LedgerReader.open(Server("postgresql://db/x"))


def test_what_is_no_url_is_a_directory_or_refused(tmp_path):
    """A place is one or the other."""
    assert place_of(str(tmp_path)) == tmp_path / "ledger.sqlite3"
    (tmp_path / "copy.sqlite3").touch()
    assert place_of(str(tmp_path / "copy.sqlite3")) == tmp_path / "copy.sqlite3"
    with pytest.raises(ValueError, match="postgresql://"):
        Server("mysql://u@db/x")
