"""Verdicts on warms in the ledger: each once, whatever dies when; sums as exact as the decisions behind them."""

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cache.regret import Moments, Result, Settled, estimate
from router.cli import app
from router.ledger import DATABASE, Filter, LedgerReader, LedgerSettings, StoreError, codec
from router.ledger.codec import SettlementRecord
from router.ledger.journal import segments
from router.ledger.ledger import JOURNAL
from router.ledger.schema import MIGRATIONS, WARMS_SINCE, migrate
from router.ledger.sqlite import SqliteStore
from router.settlement import Purpose
from router.warm_verdict import verdict_of
from tests.router.ledger_samples import START_S, StillClock, a_settlement, a_verdict, an_intent
from tests.router.test_ledger_recovery import crash, opened

ROUND = Moments(0, 0.0, 0.0, 0.0)
"""In the place of sums of floats, which differ by the order of adding."""
QUICK = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False)


@pytest.fixture
def ledger(home, tmp_path):
    ledger = home.open(tmp_path / "ledger", clock=StillClock(START_S + 600), settings=QUICK)
    yield ledger
    ledger.close_blocking()


async def test_a_verdict_is_kept_once_and_the_first_stands(ledger):
    """Noted twice, or otherwise, it is the one row it was."""
    for verdict in (a_verdict(), a_verdict(), a_verdict(result=Result.WASTED, benefit_nano_usd=-4_000_000)):
        ledger.warm(verdict)
    (row,) = await ledger.warms()
    assert (row.used, row.wasted, row.decisions) == (1, 0, 1)
    assert (row.cost_nano_usd, row.benefit_nano_usd, row.gain_nano_usd) == (
        4_000_000,
        96_000_000,
        100_000_000,
    )


async def test_sums_are_by_group_and_time_of_the_decision(ledger):
    """Tenant, trigger and day; a filter takes part of them; what is held out costs nothing."""
    for number in range(6):
        ledger.warm(
            a_verdict(
                warm_id=f"w{number}",
                tenant=("acme", "globex")[number % 2],
                decided_time_s=START_S + 86_400 * (number // 2),
                result=Result.HELD_OUT if number == 5 else Result.USED,
                cost_nano_usd=0 if number == 5 else 4_000_000,
            )
        )
    rows = await ledger.warms(("tenant", "day"))
    assert [(row.group["tenant"], row.group["day"], row.decisions) for row in rows] == [
        (tenant, day, 1)
        for tenant in ("acme", "globex")
        for day in ("2026-11-22", "2026-11-23", "2026-11-24")
    ]
    (row,) = await ledger.warms((), Filter(since_s=START_S + 86_400, equal={"tenant": "globex"}))
    assert (row.used, row.held_out, row.held_out_share, row.cost_nano_usd) == (1, 1, 0.5, 4_000_000)
    with pytest.raises(ValueError, match="'color' is not a group of warms"):
        await ledger.warms(("color",))


async def test_costs_say_what_warms_came_to(home, ledger):
    """Counts, spending, what they brought by prediction and against the hold-out; by tenant; not where it cannot be."""
    ledger.settle(a_settlement())
    for number in range(8):
        held = number > 5
        ledger.warm(
            a_verdict(
                warm_id=f"w{number}",
                result=Result.HELD_OUT if held else Result.USED,
                cost_nano_usd=0 if held else 4_000_000,
                benefit_nano_usd=0 if held else 96_000_000 + number * 1_000_000,
            )
        )
    await ledger.flush()
    asked = ["costs", "--ledger", home.url(ledger._directory) or str(ledger._directory)]
    shown = " ".join(CliRunner().invoke(app, asked).stdout.split())
    assert "Warms: 6 used, 0 wasted, 0 superfluous, 2 held out; they cost $0.024" in shown
    assert "brought $0.591" in shown
    assert "against the hold-out one brings $0.0985" in shown
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["warms"]
    assert (found["used_count"], found["spent_nano_usd"], found["brought_nano_usd"]) == (
        "6",
        "24000000",
        "591000000",
    )
    other = CliRunner().invoke(app, [*asked, "--tenant", "other"])
    assert "Warms:" not in other.stdout
    assert "Warms:" not in CliRunner().invoke(app, [*asked, "--only", "route=opus"]).stdout


async def test_an_empty_ledger_has_one_row_of_nothing(ledger):
    """No decisions: zeros, no share, no estimate."""
    (row,) = await ledger.warms()
    assert (row.decisions, row.held_out_share, row.estimate) == (0, None, None)
    assert await ledger.warms(("tenant",)) == []
    assert await ledger.last_warms(10) == []


SETTLED = st.builds(
    Settled,
    time_s=st.floats(0, 1e6),
    owner=st.tuples(st.sampled_from(["a", "b"]), st.just("desk")),
    trigger=st.sampled_from(["idle", "shared"]),
    result=st.sampled_from(Result),
    cost_usd=st.integers(0, 10**8).map(lambda nano: nano / 1e9),
    benefit_usd=st.integers(-(10**8), 10**9).map(lambda nano: nano / 1e9),
    benefit_s=st.floats(-2, 2),
    name=st.uuids().map(str),
    foresight=st.just(""),
    decided_s=st.floats(0, 1e6),
    until_s=st.floats(0, 1e6),
    settled_s=st.floats(0, 1e6),
    came=st.booleans(),
    gain_usd=st.integers(0, 10**9).map(lambda nano: nano / 1e9),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(decisions=st.lists(SETTLED, max_size=30, unique_by=lambda each: each.name))
def test_the_table_says_what_the_decisions_say(home, tmp_path, decisions):
    """Counts and sums are exact, and the estimate from the table's sums is that of the decisions themselves."""
    store = home.store(tmp_path)
    store._connection.execute("DELETE FROM warms")
    verdicts = [verdict_of(each, "auto") for each in decisions]
    assert store.keep_warms(verdicts) == len(verdicts)
    assert store.keep_warms(verdicts) == 0
    store.close()
    with home.read(tmp_path) as reader:
        (row,) = reader.warms()
        last = reader.last_warms(5)
    sent = [each for each in verdicts if each.result is not Result.HELD_OUT]
    assert row.decisions == len(decisions)
    assert row.came == sum(each.came for each in decisions)
    assert row.cost_nano_usd == sum(each.cost_nano_usd for each in sent)
    assert row.benefit_nano_usd == sum(each.benefit_nano_usd for each in sent)
    expected = estimate(decisions)
    assert (row.estimate is None) == (expected is None)
    if expected is not None:
        assert row.estimate == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert [(each.owner, each.settled_s, each.came) for each in last] == [
        (each.owner, each.settled_s, each.came) for each in decisions[-5:]
    ]


@pytest.mark.parametrize(
    "home", ["sqlite"], indirect=True
)  # a copy of what died needs a copy of its database
async def test_a_verdict_in_a_dead_journal_is_brought_home(home, tmp_path):
    """What the store lacked is kept at the next opening, what it had stays one; then the journal is empty."""
    first, second, third = (tmp_path / name for name in ("live", "dead", "dead again"))
    ledger = opened(home, first)
    ledger.warm(a_verdict())
    ledger.warm(a_verdict(warm_id="warm-2"))
    again = opened(home, crash(ledger, first, second))
    assert (again.recovery.warms, again.recovery.damaged_lines) == (2, 0)
    again.warm(a_verdict())
    last = opened(home, crash(again, second, third))
    assert last.recovery.warms == 0
    await last.flush()
    (row,) = await last.warms()
    assert row.used == 2
    await last.close()
    assert segments(third / JOURNAL) == []


async def test_a_verdict_that_cannot_be_stored_holds_up_nothing(ledger, caplog):
    """A number of more than 64 bits is left out and logged; what came with it is kept."""
    ledger.warm(a_verdict(warm_id="w1"))
    ledger.warm(a_verdict(warm_id="w2", gain_nano_usd=2**63))
    ledger.warm(a_verdict(warm_id="w3"))
    (row,) = await ledger.warms()
    assert row.used == 2
    assert "the verdict on w2 cannot be stored" in caplog.text


def test_a_verdict_without_a_journal_is_in_memory_only(home, ledger, monkeypatch, caplog):
    """A full disk loses no warm's verdict while the process lives, and raises nothing; nor does a closed ledger."""

    def full(kind, body):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger._journal, "append", full)
    ledger.warm(a_verdict())
    ledger.flush_blocking()
    assert "in memory only" in caplog.text
    with home.read(ledger._directory) as reader:
        assert reader.warms()[0].used == 1
    ledger.close_blocking()
    ledger.warm(a_verdict(warm_id="late"))
    assert "came after the ledger was closed" in caplog.text


def test_an_older_database_says_so_and_is_brought_up(tmp_path):
    """Before the table there are no verdicts to ask for; opened for writing, there is the table."""
    connection = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    migrate(connection, START_S, MIGRATIONS[: WARMS_SINCE - 1])
    connection.close()
    with LedgerReader.open(tmp_path / DATABASE) as reader, pytest.raises(StoreError, match="version"):
        reader.warms()
    SqliteStore(tmp_path / DATABASE, START_S).close()
    with LedgerReader.open(tmp_path / DATABASE) as reader:
        assert reader.warms()[0].decisions == 0


async def test_turns_are_read_oldest_first_and_bounded(ledger):
    """Answered calls of sessions, whatever the route, the newest where there are more."""
    for number in range(5):
        intent = an_intent(request_id=f"r{number}", started_time_s=START_S + number)
        ledger.settle(a_settlement(intent, finish_reason="tool_call"))
    ledger.settle(a_settlement(an_intent(request_id="alone", session="")))
    ledger.settle(a_settlement(an_intent(request_id="flash", route="flash", started_time_s=START_S + 5)))
    ledger.settle(a_settlement(an_intent(request_id="warm", purpose=Purpose.WARM)))
    turns = await ledger.last_turns(START_S, 3)
    assert [turn.started_s - START_S for turn in turns] == [3, 4, 5]
    assert turns[0][:5] == ("r3", "opus", "acme", "helpdesk", "s1")
    assert turns[-1].route == "flash"
    assert (turns[0].finish_reason, turns[0].cached_tokens) == ("tool_call", 2_500)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from([Result.USED, Result.WASTED, Result.HELD_OUT]),
            st.integers(-(10**9), 10**9),
        ),
        max_size=12,
    ),
    st.integers(0, 4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_verdicts_become_sums_that_say_the_same(home, tmp_path, decided, days):
    """Whatever days are pruned, how often, and replayed after it: by group and in sum, nothing changes."""
    verdicts = [
        a_verdict(
            warm_id=f"w{number}",
            tenant=("acme", "globex")[number % 2],
            decided_time_s=START_S + 86_400.0 * day + number,
            result=result,
            cost_nano_usd=0 if result is Result.HELD_OUT else 4_000_000,
            benefit_nano_usd=benefit,
        )
        for number, (day, result, benefit) in enumerate(decided)
    ]
    store = home.store(tmp_path)
    for table in ("warms", "past_warms", "pruned"):  # of the example before
        store._connection.execute(f"DELETE FROM {table}")
    store._note_pruned()
    store.keep_warms(verdicts)

    def told():
        with home.read(tmp_path) as reader:
            return [reader.warms(by) for by in ((), ("tenant", "day"), ("result",))]

    before = told()
    store.prune(START_S + 86_400.0 * days, 2)
    store.keep_warms(verdicts)
    assert store.prune(START_S + 86_400.0 * days, 2) == 0
    for rows, was in zip(told(), before, strict=True):
        assert [replace(row, warmed=ROUND, held=ROUND) for row in rows] == [
            replace(row, warmed=ROUND, held=ROUND) for row in was
        ]
        for row, other in zip(rows, was, strict=True):
            assert row.warmed == pytest.approx(other.warmed)
            assert row.held == pytest.approx(other.held)
    left = store._connection.execute("SELECT count(*) FROM warms").fetchone()
    assert left == (sum(day >= days for day, _, _ in decided),)
    store.close()


def test_verdicts_go_with_the_calls_of_their_time(home, tmp_path):
    """A batch of calls takes the verdicts before its last call with it; the rest goes with the last batch."""
    store = home.store(tmp_path)
    calls = [a_settlement(an_intent(request_id=f"r{n}", started_time_s=START_S + n)) for n in range(4)]
    store.write([SettlementRecord(each, codec.encode(each)) for each in calls], (), START_S)
    store.keep_warms([a_verdict(warm_id=f"w{n}", decided_time_s=START_S + n + 0.5) for n in range(4)])

    def left():
        return store._connection.execute("SELECT count(*) FROM warms").fetchone()[0]

    counts = []
    while moved := store.prune(START_S + 86_400.0, 2):
        counts.append((moved, left()))
    assert counts == [(2, 3), (2, 1)]
    assert left() == 0
    with home.read(tmp_path) as reader:
        assert reader.warms()[0].used == 4
    store.close()
