"""The ledger: every call once, nothing sent without its intent, trouble counted and told."""

import asyncio
import logging
import shutil
import sqlite3
import threading
from dataclasses import replace

import pytest

from router.errors import LedgerUnavailable
from router.ledger import Ledger, LedgerLocked, LedgerSettings, StoreError
from router.ledger.journal import segments
from router.ledger.ledger import DATABASE, JOURNAL
from router.ledger.schema import MIGRATIONS, SchemaTooNew, migrate
from tests.router.ledger_homes import SqliteHome
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

QUICK = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False)


@pytest.fixture
def clock():
    return StillClock()


@pytest.fixture
def ledger(home, tmp_path, clock):
    ledger = opened(home, tmp_path / "ledger", clock)
    yield ledger
    ledger.close_blocking()


def opened(home, path, clock, store=None, **changes):
    """Open the ledger at `path` with quick settings."""
    return home.open(path, clock=clock, settings=replace(QUICK, **changes), store=store)


def break_journal(ledger, monkeypatch):
    """Let every write to the journal fail as on a full disk."""

    def full(kind, body):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger._journal, "append", full)


class Troubled:
    """The real store behind a gate: it fails while `troubled`, and `write` waits while `gate` is closed."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.troubled = False
        self.gate = threading.Event()
        self.gate.set()

    def write(self, settled, open_intents, now_s, **told):
        self.gate.wait()
        if self.troubled:
            raise StoreError("the ledger's database failed: disk is full")
        return super().write(settled, open_intents, now_s, **told)


@pytest.fixture
def store(home, tmp_path):
    return home.store(tmp_path / "ledger", Troubled)


@pytest.fixture
def troubled(home, tmp_path, clock, store):
    """A ledger on the troubled store, at most 10 records pending."""
    ledger = opened(home, tmp_path / "ledger", clock, store, max_pending=10)
    yield ledger
    store.troubled = False
    store.gate.set()
    ledger.close_blocking()


async def test_a_settled_call_is_in_the_store_once(ledger):
    """Intent, then settlement: one call, with its cost, and nothing interrupted."""
    ledger.journal_intent(an_intent())
    ledger.settle(a_settlement())
    totals = await ledger.totals()
    assert (totals.calls, totals.cost.total_nano_usd, totals.unknown_calls) == (1, 23_750_000, 0)
    assert [settlement async for settlement in ledger.settlements()] == [a_settlement()]
    assert await ledger.interrupted() == []


async def test_settling_the_same_again_does_nothing(ledger):
    """Settle is idempotent by (request_id, attempt), in one batch and across batches."""
    ledger.settle(a_settlement())
    ledger.settle(a_settlement())
    await ledger.flush()
    ledger.settle(a_settlement())
    assert (await ledger.totals()).calls == 1
    stats = ledger.stats()
    assert (stats.stored, stats.repeated, stats.conflicting) == (1, 2, 0)


async def test_settling_otherwise_is_kept_aside(home, ledger, tmp_path, caplog):
    """A contradiction never changes the bill and never disappears: the first wins, the other is kept."""
    ledger.settle(a_settlement())
    ledger.settle(a_settlement(duration_s=9.0))
    assert (await ledger.totals()).calls == 1
    assert [s.duration_s async for s in ledger.settlements()] == [2.5]
    assert ledger.stats().conflicting == 1
    assert "contradict" in caplog.text
    with home.read(tmp_path / "ledger") as reader:
        assert reader.aside() == [("r1", 1, "settled before, differently")]


async def test_attempts_of_one_request_are_calls_of_their_own(ledger):
    """A retry is another call: it may be billed as well."""
    for attempt in (1, 2):
        ledger.journal_intent(an_intent(attempt=attempt))
        ledger.settle(a_settlement(an_intent(attempt=attempt)))
    assert (await ledger.totals()).calls == 2


async def test_a_contradiction_does_not_hold_up_its_batch(ledger):
    """The other settlements of the batch are stored as usual."""
    for number in range(5):
        ledger.settle(a_settlement(an_intent(request_id=f"r{number}")))
    ledger.settle(a_settlement(an_intent(request_id="r3"), duration_s=9.0))
    ledger.settle(a_settlement(an_intent(request_id="r9")))
    assert (await ledger.totals()).calls == 6


async def test_a_record_that_cannot_be_stored_does_not_hold_up_the_rest(home, ledger, tmp_path):
    """A record that the database will never take is put aside; the ones behind it get through."""
    ledger.settle(a_settlement(an_intent(request_id="broken"), usage="none"))
    ledger.settle(a_settlement(an_intent(request_id="fine")))
    assert (await ledger.totals()).calls == 1
    assert ledger.stats().conflicting == 1
    with home.read(tmp_path / "ledger") as reader:
        assert reader.aside() == [("broken", 1, "cannot be stored: AttributeError")]


def test_without_a_journal_nothing_is_sent(ledger, monkeypatch):
    """The intent is refused, and what was refused leaves no trace."""
    break_journal(ledger, monkeypatch)
    with pytest.raises(LedgerUnavailable, match="No space left"):
        ledger.journal_intent(an_intent())
    ledger.flush_blocking()
    assert (ledger.stats().refused, ledger.stats().intents, ledger.stats().pending) == (1, 0, 0)


async def test_a_settlement_without_a_journal_still_reaches_the_store(ledger, monkeypatch, caplog):
    """The money is spent, so the settlement is held in memory for the store, counted, and nothing raises."""
    ledger.journal_intent(an_intent())
    break_journal(ledger, monkeypatch)
    ledger.settle(a_settlement())
    assert (await ledger.totals()).calls == 1
    assert ledger.stats().unjournalled == 1
    assert "in memory only" in caplog.text


def test_an_unwritable_settlement_never_raises(ledger, caplog):
    """Settling happens in `finally`; a record that has no bytes is logged and shows as interrupted."""
    ledger.journal_intent(an_intent())
    ledger.settle(a_settlement(extra={"count": object()}))
    assert ledger.stats().dropped == 1
    assert "r1/1 cannot be kept" in caplog.text


async def test_a_failing_store_is_tried_again(troubled, store, caplog):
    """Records wait in memory and journal while the store fails, and are stored once it works."""
    store.troubled = True
    troubled.journal_intent(an_intent())
    troubled.settle(a_settlement())
    with pytest.raises(LedgerUnavailable, match="disk is full"):
        await troubled.flush()
    assert troubled.stats().pending == 1
    store.troubled = False
    await troubled.flush()
    stats = troubled.stats()
    assert (stats.stored, stats.pending) == (1, 0)
    assert stats.failures >= 1
    assert "1 records wait" in caplog.text


def test_intents_are_refused_when_too_much_waits(troubled, store):
    """Back-pressure: no new money while the store is far behind, but what was spent is still taken."""
    store.gate.clear()
    for number in range(10):
        troubled.journal_intent(an_intent(request_id=f"r{number}"))
        troubled.settle(a_settlement(an_intent(request_id=f"r{number}")))
        if troubled.stats().pending >= 10:
            break
    with pytest.raises(LedgerUnavailable, match="10 records wait"):
        troubled.journal_intent(an_intent(request_id="one too many"))
    before = troubled.stats()
    troubled.settle(a_settlement(an_intent(request_id="spent")))
    assert (troubled.stats().dropped, troubled.stats().refused) == (0, 1)
    store.gate.set()
    troubled.flush_blocking()
    assert troubled.stats().stored == before.settlements + 1


def test_settlements_beyond_memory_come_back_from_the_journal(home, tmp_path, clock, store, caplog):
    """Memory is bounded: what does not fit is in the journal and is replayed by the next opening."""
    ledger = opened(home, tmp_path / "ledger", clock, store, max_pending=2)
    store.gate.clear()
    for number in range(40):
        ledger.settle(a_settlement(an_intent(request_id=f"r{number}")))
    dropped = ledger.stats().dropped
    assert dropped >= 30
    assert "the next opening replays it" in caplog.text
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path / "ledger" / JOURNAL, crashed / JOURNAL)
    store.gate.set()
    ledger.close_blocking()
    again = opened(home, crashed, clock)
    assert again.recovery.settlements == 40
    again.close_blocking()


def test_one_writer_at_a_time(home, ledger, tmp_path, clock):
    """A second opening is refused and names the process that has the ledger."""
    with pytest.raises(LedgerLocked, match=r"open in process \d+"):
        opened(home, tmp_path / "ledger", clock)
    ledger.close_blocking()
    opened(home, tmp_path / "ledger", clock).close_blocking()


def test_a_failed_opening_gives_the_lock_back(tmp_path, clock):
    """What cannot be opened can be opened once it is repaired, without a restart."""
    (tmp_path / DATABASE).write_bytes(b"this is not a database, it is a text of some length" * 100)
    with pytest.raises(StoreError):
        opened(SqliteHome(), tmp_path, clock)
    (tmp_path / DATABASE).unlink()
    opened(SqliteHome(), tmp_path, clock).close_blocking()


async def test_closing_in_order_leaves_no_journal(home, ledger, tmp_path, clock):
    """A clean shutdown moves everything into the store; the next opening has nothing to replay."""
    ledger.journal_intent(an_intent())
    ledger.settle(a_settlement())
    await ledger.close()
    assert segments(tmp_path / "ledger" / JOURNAL) == []
    again = opened(home, tmp_path / "ledger", clock)
    assert (again.recovery.segments, again.recovery.interrupted) == (0, 0)
    assert (await again.totals()).calls == 1
    await again.close()


async def test_a_call_open_at_closing_shows_as_interrupted(home, ledger, tmp_path, clock):
    """A shutdown that cuts a call off leaves its intent, which the next opening lists with its bound."""
    ledger.journal_intent(an_intent())
    await ledger.close()
    clock.now_s += 60
    again = opened(home, tmp_path / "ledger", clock)
    (found,) = await again.interrupted()
    assert (found.intent, found.found_time_s) == (an_intent(), START_S + 60)
    totals = await again.totals()
    assert (totals.calls, totals.unknown_calls, totals.unknown_bound_nano_usd) == (1, 1, 90_000_000)
    await again.close()


async def test_a_call_in_progress_is_not_interrupted(ledger):
    """Only the death of its process interrupts a call, not its being slow."""
    ledger.journal_intent(an_intent())
    assert await ledger.interrupted() == []
    assert (await ledger.totals()).calls == 0


async def test_an_intent_outlives_its_segment(home, tmp_path, clock):
    """Segments go while a slow call is open; its intent is kept by the store until it is settled."""
    ledger = opened(home, tmp_path, clock, segment_bytes=2_000)
    slow = an_intent(request_id="slow")
    lost = an_intent(request_id="lost")
    ledger.journal_intent(slow)
    ledger.journal_intent(lost)
    for number in range(50):
        ledger.journal_intent(an_intent(request_id=f"r{number}"))
        ledger.settle(a_settlement(an_intent(request_id=f"r{number}")))
        await ledger.flush()
    assert len(segments(tmp_path / JOURNAL)) <= 2
    ledger.settle(a_settlement(slow))
    await ledger.flush()
    with home.read(tmp_path) as reader:
        kept = reader.ask(lambda database: database.execute("SELECT request_id FROM intents").fetchall())
    assert kept == [("lost",)]
    await ledger.close()
    again = opened(home, tmp_path, clock)
    assert [found.intent for found in await again.interrupted()] == [lost]
    assert (await again.totals()).calls == 52
    await again.close()


async def test_a_segment_stays_until_the_store_has_it_durably(home, tmp_path, clock):
    """A power cut must find every record in the journal or on the disk of the store."""

    class Hesitant:
        durable = False

        def make_durable(self):
            return super().make_durable() and self.durable

    store = home.store(tmp_path, Hesitant)
    ledger = home.open(tmp_path, clock=clock, settings=replace(QUICK, segment_bytes=2_000), store=store)
    for number in range(6):
        ledger.settle(a_settlement(an_intent(request_id=f"r{number}")))
    await ledger.flush()
    waiting = segments(tmp_path / JOURNAL)
    assert len(waiting) > 2
    store.durable = True
    ledger.settle(a_settlement(an_intent(request_id="last")))
    await ledger.flush()
    assert segments(tmp_path / JOURNAL) == waiting[-1:]
    await ledger.close()


async def test_after_closing_nothing_is_taken(ledger, caplog):
    """A closed ledger refuses intents and flushes; a late settlement is logged, not raised."""
    await ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.journal_intent(an_intent())
    with pytest.raises(LedgerUnavailable, match="closed"):
        await ledger.flush()
    with caplog.at_level(logging.ERROR):
        ledger.settle(a_settlement())
    assert "after the ledger was closed" in caplog.text
    await ledger.close()


async def test_a_cancelled_flush_harms_no_one(troubled, store):
    """Who waits for a flush may be cancelled; the writer goes on."""
    store.gate.clear()
    troubled.settle(a_settlement())
    waiting = asyncio.ensure_future(troubled.flush())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.gate.set()
    await troubled.flush()
    assert troubled.stats().stored == 1


async def test_closing_while_the_store_fails_keeps_the_journal(home, tmp_path, clock, store, caplog):
    """What the store did not take is there for the next opening."""
    ledger = opened(home, tmp_path / "ledger", clock, store)
    store.troubled = True
    ledger.journal_intent(an_intent())
    ledger.settle(a_settlement())
    await ledger.close()
    assert "the journal has the rest" in caplog.text
    again = opened(home, tmp_path / "ledger", clock)
    assert (again.recovery.settlements, again.recovery.interrupted) == (1, 0)
    await again.close()


async def test_a_temporary_ledger_leaves_nothing(clock):
    """For tests and replays: a whole ledger whose directory goes with it."""
    ledger = Ledger.temporary(clock=clock)
    directory = ledger._directory
    ledger.settle(a_settlement())
    assert (await ledger.totals()).calls == 1
    await ledger.close()
    assert not directory.exists()


async def test_threads_may_share_the_ledger(ledger):
    """Calls from several threads neither lose nor tear a record."""

    def some(start):
        for number in range(start, start + 50):
            ledger.journal_intent(an_intent(request_id=f"r{number}"))
            ledger.settle(a_settlement(an_intent(request_id=f"r{number}")))

    async with asyncio.TaskGroup() as group:
        for start in (0, 100, 200, 300):
            group.create_task(asyncio.to_thread(some, start))
    totals = await ledger.totals()
    assert (totals.calls, ledger.stats().conflicting) == (200, 0)


def test_a_ledger_of_a_newer_release_is_refused(tmp_path, clock):
    """An older release does not guess at tables it does not know."""
    opened(SqliteHome(), tmp_path, clock).close_blocking()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("INSERT INTO schema_version VALUES (?, 0)", (len(MIGRATIONS) + 1,))
    connection.close()
    with pytest.raises(SchemaTooNew, match="newer release"):
        opened(SqliteHome(), tmp_path, clock)


def test_migrations_run_once_and_whole(tmp_path):
    """A migration is applied once; one that fails half way leaves the version before it."""
    connection = sqlite3.connect(tmp_path / "x.sqlite3", isolation_level=None)
    assert migrate(connection, START_S) == len(MIGRATIONS)
    more = (*MIGRATIONS, "CREATE TABLE extra (a); CREATE TABLE calls (a)")
    with pytest.raises(sqlite3.OperationalError, match="calls already exists"):
        migrate(connection, START_S, more)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "extra" not in tables
    fixed = (*MIGRATIONS, "CREATE TABLE extra (a)")
    assert migrate(connection, START_S + 5, fixed) == migrate(connection, START_S + 9, fixed)
    versions = list(connection.execute("SELECT version, applied_time_s FROM schema_version ORDER BY version"))
    assert versions[-1] == (len(fixed), START_S + 5)
    connection.close()


async def test_lag_is_the_age_of_the_oldest_settlement_the_store_lacks(home, tmp_path, clock):
    """An operator sees how far the database is behind the journal; nothing waiting is no lag."""
    ledger = opened(home, tmp_path / "ledger", clock, interval_s=3600.0)
    assert ledger.lag_s() == 0.0
    ledger.journal_intent(an_intent())
    ledger.settle(a_settlement())
    clock.now_s += 7.0
    assert ledger.lag_s() == 7.0
    await ledger.flush()
    assert ledger.lag_s() == 0.0
    await ledger.close()
