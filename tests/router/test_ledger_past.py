"""Calls that are not kept any more: in the sums of their day, once, whatever is replayed; nobody waits for it."""

import asyncio
from dataclasses import fields

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.app import running, sandbox_upstreams
from router.config import ConfigError, LedgerConfig, load_config
from router.cost import Cost, Counterfactuals
from router.feedback import Received
from router.ledger import (
    DATABASE,
    Comparison,
    Filter,
    Ledger,
    LedgerReader,
    LedgerSettings,
    StoreError,
    Tokens,
    codec,
)
from router.ledger.codec import IntentRecord, SettlementRecord
from router.ledger.groups import DAY_S
from router.ledger.past import PAST_GROUPS, SINCE, Pruned, past_costs, pruned, whole_days
from router.ledger.sqlite import SqliteStore
from router.ledger.writer import PRUNE_CALLS
from router.sandbox import Sandbox, VirtualClock
from router.settlement import Outcome, Purpose
from router.usage import Usage
from router.v1 import operator_service_pb2 as pb
from router.v1.operator_service_pb2_grpc import OperatorServiceStub
from tests.e2e.builders import config
from tests.router.ledger_old import an_old_database
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent
from tests.router.report_calls import KINDS_OF_CALLS, UNKNOWN, book
from tests.router.test_ledger_feedback import judgement

QUICK = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False)
DAY = float(DAY_S)


def kept(settlement):
    """The settlement as the store takes it."""
    return SettlementRecord(settlement, codec.encode(settlement))


def read(path, question):
    """Ask a ledger's database."""
    with LedgerReader.open(path) as reader:
        return question(reader)


def both(path, group_by=(), where=None):
    """Sums over what is kept and what is not, by group."""
    with LedgerReader.open(path) as reader:
        rows = [*reader.costs(group_by, where), *reader.ask(lambda c: past_costs(c, group_by, where))]
    found = {}
    for row in rows:
        key = tuple(row.group.values())
        found[key] = added(found[key], row) if key in found else row
    return {key: row for key, row in found.items() if row.calls}


def added(one, other):
    """Two rows of one group as one."""
    return type(one)(
        **{each.name: _added(getattr(one, each.name), getattr(other, each.name)) for each in fields(one)}
    )


def _added(one, other):
    match one:
        case dict():
            return one
        case Comparison() | Tokens():
            return type(one)(*(getattr(one, f.name) + getattr(other, f.name) for f in fields(one)))
        case Cost():
            return Cost(
                **{name: getattr(one, name) + getattr(other, name) for name in Cost.__struct_fields__}
            )
        case _:
            return one + other


def test_every_kind_of_call_adds_up_as_before(tmp_path):
    """Whatever it is, unknown, floor, overhead or answer: the sums of both are what they were."""
    book(tmp_path, *KINDS_OF_CALLS)
    path = tmp_path / DATABASE
    before = {name: both(path, (name,)) for name in PAST_GROUPS}
    store = SqliteStore(path, START_S)
    while store.prune(START_S + DAY, 3):
        pass
    store.close()
    assert read(path, lambda reader: reader.totals().calls) == 1
    assert {name: both(path, (name,)) for name in PAST_GROUPS} == before
    assert read(path, lambda reader: reader.ask(pruned)) == Pruned(START_S + DAY, len(KINDS_OF_CALLS) - 1)


nano = st.none() | st.integers(0, 10**12)
calls = st.lists(
    st.builds(
        lambda start, route, tenant, outcome, cost, bound, usage, other: (
            {
                "started_time_s": START_S + start,
                "route": route,
                "tenant": tenant,
                "cost_bound_nano_usd": bound,
            },
            {"outcome": outcome, "cost": cost, "usage": usage, "counterfactuals": other},
        ),
        st.integers(0, 4 * DAY_S),
        st.sampled_from(["opus", "flash"]),
        st.sampled_from(["acme", "bolt"]),
        st.sampled_from(Outcome),
        st.none() | st.builds(Cost, uncached_input_nano_usd=st.integers(0, 10**12)),
        nano,
        st.none() | st.builds(Usage, input_tokens=st.integers(0, 10**6), complete=st.booleans()),
        st.none() | st.builds(Counterfactuals, no_caching_nano_usd=nano, never_switch_nano_usd=nano),
    ),
    max_size=10,
)


@settings(max_examples=25, deadline=None)
@given(calls=calls, limits=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=6))
def test_pruning_in_any_steps_loses_and_doubles_nothing(tmp_path_factory, calls, limits):
    """By every group and day, after every step, and when everything is stored once more."""
    path = tmp_path_factory.mktemp("past") / DATABASE
    store = SqliteStore(path, START_S)
    records = [
        kept(a_settlement(an_intent(request_id=f"r{n}", **intent), **rest))
        for n, (intent, rest) in enumerate(calls)
    ]
    store.write(records, (), START_S)
    before = both(path, ("day", "route", "tenant"))
    for days, limit in limits:
        moved = store.prune(START_S + days * DAY, limit)
        assert moved == 0 or moved >= min(limit, 1)
        assert both(path, ("day", "route", "tenant")) == before
        written = store.write(records, (), START_S)
        assert (written.stored, written.repeated) == (0, len(records))
    assert both(path, ("day", "route", "tenant")) == before
    store.close()


def test_what_is_replayed_after_it_went_is_not_counted_again(tmp_path, caplog):
    """Settled or interrupted: a journal may come back after a crash between pruning and its own end."""
    path = tmp_path / DATABASE
    store = SqliteStore(path, START_S)
    lost = IntentRecord(an_intent(request_id="lost"), codec.encode(an_intent(request_id="lost")))
    store.write([kept(a_settlement())], (), START_S)
    store.interrupt([lost], START_S)
    assert store.prune(START_S + DAY, 10) == 2
    store.close()
    again = SqliteStore(path, START_S)
    assert again.write([kept(a_settlement())], (), START_S).repeated == 1
    assert again.interrupt([lost], START_S) == 0
    assert [record.message.split(" began")[0] for record in caplog.records] == [
        "1 settlements",
        "1 interrupted calls",
    ]
    again.close()
    (row,) = both(path).values()
    assert (row.calls, row.unknown_calls, row.cost.total_nano_usd) == (2, 1, 23_750_000)


async def test_misses_and_judgements_go_with_their_calls_and_no_sooner(tmp_path):
    """A request half of whose tries are kept keeps its judgements; a pruned one is as unknown as any other."""
    midnight = START_S + DAY
    ledger = Ledger.open(tmp_path, clock=StillClock(START_S + 60), settings=QUICK)
    missed = dict(KINDS_OF_CALLS[-1][3])
    for request_id, attempt, start in (("r1", 1, START_S), ("r2", 1, midnight - 1), ("r2", 2, midnight + 1)):
        intent = an_intent(request_id=request_id, attempt=attempt, started_time_s=start)
        ledger.settle(a_settlement(intent, **missed))
        await ledger.feedback(judgement(request_id=request_id))
    assert ledger.prune_blocking(midnight) == 2
    assert ledger.prune_blocking(midnight) == 0
    assert set(await ledger.feedback_for(["r1", "r2"])) == {"r2"}
    assert [row.misses for row in await ledger.misses()] == [1]
    assert (await ledger.feedback(judgement(request_id="r1"))).received is Received.UNKNOWN
    await ledger.close()


def test_days_are_whole(tmp_path):
    """A day that is not over cannot be summed yet."""
    ledger = Ledger.open(tmp_path, clock=StillClock(), settings=QUICK)
    with pytest.raises(ValueError, match="whole days"):
        ledger.prune_blocking(START_S + 1)
    ledger.close_blocking()
    assert whole_days(START_S + 86_399.9) == START_S
    with pytest.raises(ValueError, match="a day at least"):
        LedgerSettings(keep_s=3_600.0)


async def test_a_running_ledger_keeps_to_its_days(tmp_path):
    """The thread moves what is too old, also while nothing is asked of it; a call of today stays."""
    clock = StillClock(START_S)
    keeping = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False, keep_s=2 * DAY)
    ledger = Ledger.open(tmp_path, clock=clock, settings=keeping)
    count = 2 * PRUNE_CALLS + 7
    for number in range(count):
        ledger.settle(a_settlement(an_intent(request_id=f"r{number}", started_time_s=START_S + number)))
    await ledger.flush()
    clock.now_s = START_S + 3 * DAY
    ledger.settle(a_settlement(an_intent(request_id="today", started_time_s=clock.now_s)))
    while ledger.stats().pruned < count:
        await ledger.flush()
    assert (await ledger.totals()).calls == 1
    await ledger.close()
    assert both(tmp_path / DATABASE)[()].calls == count + 1


async def test_pruning_that_fails_holds_nothing_up(tmp_path, caplog):
    """The store works but for this: settlements go in, the log says what does not."""

    class Store(SqliteStore):
        def prune(self, before_s, limit):
            raise StoreError("the ledger's database failed: no room for sums")

    clock = StillClock(START_S)
    keeping = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False, keep_s=DAY)
    ledger = Ledger.open(tmp_path, clock=clock, settings=keeping, store=Store(tmp_path / DATABASE, START_S))
    ledger.settle(a_settlement())
    await ledger.flush()
    assert (await ledger.totals()).calls == 1
    await ledger.close()
    assert "could not be moved into sums" in caplog.text
    assert ledger.stats().failures == 0


def test_the_past_is_asked_by_what_it_keeps(tmp_path):
    """A user or a label cannot be told any more; a window takes the days that begin in it."""
    book(tmp_path, *KINDS_OF_CALLS, ("unknown", 1, {"purpose": Purpose.USER}, UNKNOWN))
    store = SqliteStore(tmp_path / DATABASE, START_S)
    store.prune(START_S + 2 * DAY, 1_000)
    store.close()
    with LedgerReader.open(tmp_path / DATABASE) as reader:
        for name in ("user", "label:team", "session"):
            with pytest.raises(ValueError, match="is not a group"):
                reader.ask(lambda c, name=name: past_costs(c, (name,)))

        def calls(**where):
            return reader.ask(lambda c: past_costs(c, (), Filter(**where)))[0].calls

        assert calls(since_s=START_S, until_s=START_S + DAY) == len(KINDS_OF_CALLS)
        assert calls(since_s=START_S + 1) == 1
        assert calls(equal={"tenant": "<bolt> & co"}) == 1
        assert calls(equal={"role": "warm", "day": "2026-11-22"}) == 1


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"since_s": 3_600.0, "until_s": 7_200.0}, None),
        ({"since_s": 3_600.0}, None),
        ({"until_s": 7_200.0}, None),
        ({"since_s": -0.5 * DAY, "until_s": DAY}, 1),
        ({"since_s": 0.0, "until_s": 1.5 * DAY}, 1),
        ({"until_s": 7_200.0, "equal": {"tenant": "nobody"}}, "nothing"),
    ],
    ids=["within", "since", "until", "cut before there were any", "cut after", "of others"],
)
def test_a_part_of_a_day_that_is_gone_is_not_answered_by_nothing(tmp_path, where, told):
    """A window that cuts such a day says that it cannot be told, rather than that there was nothing, or all of it."""
    begun_s = whole_days(START_S)
    store = SqliteStore(tmp_path / DATABASE, START_S)
    store.write([kept(a_settlement(an_intent(started_time_s=begun_s + 5_000)))], (), START_S)
    store.prune(begun_s + 2 * DAY, 10)
    store.close()
    bounds = {name: begun_s + value for name, value in where.items() if name != "equal"}
    past = read(tmp_path / DATABASE, lambda reader: reader.past(Filter(**{**where, **bounds})))
    if told == "nothing":
        assert past is None
    else:
        assert (past.sums and past.sums.calls) == told


def test_an_older_ledger_has_no_past_yet(tmp_path):
    """It is made when the ledger is opened for writing; until then the question names the way."""
    path = tmp_path / DATABASE
    an_old_database(path, SINCE - 1, [a_settlement()])
    with LedgerReader.open(path) as reader, pytest.raises(StoreError, match=f"needs {SINCE}"):
        reader.ask(pruned, version=SINCE)
    SqliteStore(path, START_S).close()
    assert read(path, lambda reader: reader.ask(pruned, version=SINCE)) is None


def test_taking_away_looks_up_what_goes(tmp_path):
    """A batch must not read every miss and judgement there is."""
    store = SqliteStore(tmp_path / DATABASE, START_S)
    for table, columns in (("misses", "(request_id, attempt)"), ("feedback", "request_id")):
        plan = store._connection.execute(
            f"EXPLAIN QUERY PLAN DELETE FROM {table} WHERE {columns} IN"
            f" (SELECT {columns.strip('()')} FROM calls WHERE started_time_s <= 9.0)"
        )
        assert f"SEARCH {table} USING" in " ".join(row[3] for row in plan)
    store.close()


@pytest.mark.parametrize(("keep_days", "gone"), [(1, len(KINDS_OF_CALLS)), (0, 0)])
async def test_a_service_keeps_calls_as_long_as_its_settings_say(tmp_path, keep_days, gone):
    """keep_days under [ledger]; 0, the default, is for ever."""
    book(tmp_path, *KINDS_OF_CALLS)
    asked = config(ledger=LedgerConfig(path=str(tmp_path), keep_days=keep_days))
    clock = VirtualClock(START_S + 9 * DAY)
    upstreams = sandbox_upstreams(asked, Sandbox(clock=clock))
    async with running(asked, upstreams=upstreams, environ={}, clock=clock) as app:
        async with asyncio.timeout(10):
            while app.ledger.stats().pruned < gone:
                await app.ledger.flush()
        assert (await app.ledger.totals()).calls == len(KINDS_OF_CALLS) - gone
        async with grpc.aio.insecure_channel(app.address) as channel:
            told = await OperatorServiceStub(channel).GetCosts(pb.GetCostsRequest(), timeout=10)
        assert told.HasField("pruned") is bool(gone)
        assert told.pruned.total.call_count == gone
        assert told.total.call_count == len(KINDS_OF_CALLS) - gone


def test_days_to_keep_are_checked(tmp_path):
    """By name, as every setting."""
    with pytest.raises(ConfigError, match="keep_days"):
        load_config(None, {"HYBRID_ROUTER__LEDGER__KEEP_DAYS": "-1"})
    assert load_config(None, {"HYBRID_ROUTER__LEDGER__KEEP_DAYS": "400"}).ledger.keep_days == 400
