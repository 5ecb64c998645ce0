"""Misses in the ledger: kept once with their call, summed exactly, never hiding what nobody knows."""

import asyncio
import sqlite3
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.cost import Cost
from router.ledger import DATABASE, GROUPS, MISS_GROUPS, Filter, LedgerReader, StoreError
from router.ledger.codec import IntentRecord, SettlementRecord, decode_settlement, encode
from router.ledger.schema import MIGRATIONS, migrate
from router.ledger.sqlite import SqliteStore
from router.settlement import MissRecord, Outcome, Purpose
from router.usage import Usage
from tests.router.ledger_samples import START_S, a_settlement, an_intent


@pytest.fixture
def ledger(home):
    ledger = home.temporary()
    yield ledger
    ledger.close_blocking()


@pytest.fixture
def store(home, tmp_path):
    store = home.store(tmp_path)
    yield store
    store.close()


def a_miss(cause="system", **changes):
    """Return a miss of 1,000 tokens that lost 4.5 million nano-USD."""
    miss = MissRecord(cause=cause, layer="system", missed_tokens=1_000, lost_nano_usd=4_500_000)
    return replace(miss, **changes)


def missing(*misses, request_id="r1", of_intent=None, **changes):
    """Return the settlement of a call with these misses, dearest first."""
    settlement = a_settlement(an_intent(request_id=request_id, **(of_intent or {})), **changes)
    cause = misses[0].cause if misses else ""
    cache = replace(settlement.cache, misses=misses, miss_cause=cause)
    return replace(settlement, cache=cache)


def kept(settlement):
    """Return the settlement as the store takes it."""
    return SettlementRecord(settlement, encode(settlement))


def rows(store):
    """Return what the store holds of misses."""
    return list(store._connection.execute("SELECT * FROM misses ORDER BY request_id, attempt, rank"))


misses = st.lists(
    st.builds(
        MissRecord,
        cause=st.sampled_from(["system", "ttl_lapsed", "unknown"]),
        layer=st.sampled_from(["system", "history", ""]),
        missed_tokens=st.integers(1, 10**9),
        lost_nano_usd=st.none() | st.integers(0, 10**12),
    ),
    max_size=3,
).map(tuple)
calls = st.lists(
    st.tuples(st.sampled_from(["desk", ""]), st.sampled_from(["acme", "bolt"]), misses), max_size=8
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=calls)
def test_misses_add_up_exactly(home, made):
    """Each group sums its own misses; a call with several of one group is one call of it; unknown is not 0."""
    expected = defaultdict(lambda: {"calls": set(), "misses": 0, "tokens": 0, "lost": 0, "unknown": set()})
    ledger = home.temporary()
    for number, (application, tenant, of_call) in enumerate(made):
        of_intent = {
            "application": application,
            "tenant": tenant,
            "labels": {"team": "x"} if number % 2 else {},
        }
        ledger.settle(missing(*of_call, request_id=f"r{number}", of_intent=of_intent))
        for miss in of_call:
            for group in ((miss.cause, application, "x" if number % 2 else ""), ()):
                sums = expected[group]
                sums["calls"].add(number)
                sums["misses"] += 1
                sums["tokens"] += miss.missed_tokens
                sums["lost"] += miss.lost_nano_usd or 0
                if miss.lost_nano_usd is None:
                    sums["unknown"].add(number)

    async def ask():
        return await ledger.misses(("cause", "application", "label:team")), await ledger.misses()

    grouped, total = asyncio.run(ask())
    ledger.close_blocking()
    assert {
        tuple(row.group.values()): (
            row.calls,
            row.misses,
            row.missed_tokens,
            row.lost_nano_usd,
            row.unknown_loss_calls,
        )
        for row in (*grouped, *total)
    } == {
        group: (
            len(sums["calls"]),
            sums["misses"],
            sums["tokens"],
            sums["lost"],
            len(sums["unknown"]),
        )
        for group, sums in expected.items()
    }


@pytest.mark.parametrize("name", sorted(MISS_GROUPS))
async def test_misses_can_be_grouped_and_filtered_by_every_name(ledger, name):
    """Grouping by a name and filtering by the value it shows give the same misses."""
    ledger.settle(missing(a_miss(), a_miss("herd", layer=""), request_id="a"))
    ledger.settle(missing(a_miss("evicted"), request_id="b", of_intent={"tenant": "bolt"}))
    grouped = await ledger.misses((name,))
    assert sum(row.misses for row in grouped) == 3
    for row in grouped:
        (same,) = await ledger.misses((), Filter(equal={name: row.group[name]}))
        assert (same.misses, same.lost_nano_usd) == (row.misses, row.lost_nano_usd)


async def test_a_group_of_misses_is_no_group_of_calls(ledger):
    """A call has no layer: asking for one is an error, not an empty answer."""
    assert {"cause", "layer", "provider_cause"} == MISS_GROUPS - GROUPS
    for ask in (ledger.costs, ledger.caching):
        with pytest.raises(ValueError, match="not a group"):
            await ask(("layer",))
    with pytest.raises(ValueError, match="not a group"):
        await ledger.misses(("colour",))


async def test_the_dearest_are_named_per_group(home, ledger):
    """Dearest first; a loss nobody knows comes last, and ties go to the earlier call."""
    for number, lost in enumerate((5, None, 9, 7, 9)):
        ledger.settle(missing(a_miss(lost_nano_usd=lost), request_id=f"r{number}"))
    ledger.settle(missing(a_miss("herd", lost_nano_usd=1), request_id="other"))
    await ledger.flush()
    with home.read(ledger._directory) as reader:
        found = reader.dearest_misses(("cause",), limit=4)
        assert [(each.group["cause"], each.request_id) for each in found] == [
            ("herd", "other"),
            ("system", "r2"),
            ("system", "r4"),
            ("system", "r3"),
            ("system", "r0"),
        ]
        last = reader.dearest_misses((), Filter(equal={"cause": "system"}), limit=9)[-1]
    assert (last.request_id, last.lost_nano_usd, last.missed_tokens) == ("r1", None, 1_000)


async def test_caching_is_summed_over_opus_alone(ledger):
    """Reads per input over calls with usage, savings where both costs are known, own calls told apart by purpose."""
    usage = Usage(input_tokens=1_000, cache_read_tokens=600, cache_write_5m_tokens=100, output_tokens=5)
    cost = Cost(
        uncached_input_nano_usd=30, cache_read_nano_usd=6, cache_write_5m_nano_usd=12, tools_nano_usd=2
    )
    ledger.settle(missing(request_id="a", usage=usage, cost=cost))
    ledger.settle(missing(request_id="b", usage=None, cost=None, outcome=Outcome.UNKNOWN))
    ledger.settle(missing(request_id="c", of_intent={"route": "flash"}))
    ledger.settle(missing(request_id="d", of_intent={"purpose": Purpose.WARM}, usage=usage, cost=cost))
    by_purpose = {row.group["purpose"]: row for row in await ledger.caching(("purpose",))}
    user = by_purpose["user"]
    assert set(by_purpose) == {"user", "warm"}
    assert (user.calls, user.usage_calls, user.input_tokens, user.cache_read_tokens) == (2, 1, 1_000, 600)
    assert (user.cache_write_tokens, user.priced_calls, user.input_nano_usd, user.cost_nano_usd) == (
        100,
        1,
        48,
        50,
    )
    # The sample's counterfactual: 35,000,000 without caching.
    assert (user.no_caching.calls, user.no_caching.saving_nano_usd) == (1, 35_000_000 - 50)
    assert sum(row.calls for row in await ledger.caching(("application",))) == 3


async def test_padding_is_summed_and_unknown_for_who_never_settled(ledger):
    """The filler is a part of the cost; an interrupted call may have been padded."""
    settlement = missing(request_id="a")
    padded = replace(settlement.cache, padding_tokens=700, padding_nano_usd=350_000)
    ledger.settle(replace(settlement, cache=padded))
    ledger.settle(missing(request_id="b"))
    (row,) = await ledger.caching()
    assert (row.padding_tokens, row.padding_nano_usd) == (700, 350_000)


def test_misses_are_stored_once_with_their_call(store):
    """A batch again, or in another order, or one by one: each call's misses are there once."""
    first, second = kept(missing(a_miss(), a_miss("herd"))), kept(missing(a_miss("evicted"), request_id="r2"))
    assert store.write([first, second], (), START_S).stored == 2
    once = rows(store)
    assert [(row[0], row[2], row[3]) for row in once] == [
        ("r1", 0, "system"),
        ("r1", 1, "herd"),
        ("r2", 0, "evicted"),
    ]
    again = store.write([second, first, kept(missing(request_id="r3"))], (), START_S)
    assert (again.stored, again.repeated) == (1, 2)
    assert rows(store) == once


def test_a_conflicting_settlement_adds_no_misses(store):
    """Its call stands as it was settled first, and so does what that call missed."""
    store.write([kept(missing(a_miss()))], (), START_S)
    written = store.write([kept(missing(a_miss("herd"), a_miss("model")))], (), START_S)
    assert written.conflicting == 1
    assert [row[3] for row in rows(store)] == ["system"]


def test_a_call_given_up_for_lost_gets_its_misses_when_it_settles(store):
    """The interrupted row makes way for the settlement, which brings its misses."""
    settlement = missing(a_miss())
    intent = settlement.intent
    store.interrupt([IntentRecord(intent, encode(intent))], START_S)
    assert rows(store) == []
    assert store.write([kept(settlement)], (), START_S).stored == 1
    assert [row[3] for row in rows(store)] == ["system"]


def test_a_miss_that_cannot_be_stored_takes_its_call_aside_alone(home, store):
    """What fits no column is kept aside whole; its neighbours, and a call given up for lost, are untouched."""
    odd = missing(a_miss(), request_id="odd")
    impossible = replace(odd, cache=replace(odd.cache, misses=(a_miss(missed_tokens=2**64),)))
    intent = odd.intent
    store.interrupt([IntentRecord(intent, encode(intent))], START_S)
    written = store.write(
        [SettlementRecord(impossible, b"{}"), kept(missing(a_miss(), request_id="good"))], (), START_S
    )
    assert (written.stored, written.conflicting) == (1, 1)
    assert [row[0] for row in rows(store)] == ["good"]
    assert list(store._connection.execute("SELECT request_id, kind FROM calls ORDER BY id")) == [
        ("odd", "interrupted"),
        ("good", "settled"),
    ]
    ((request_id, reason),) = store._connection.execute("SELECT request_id, reason FROM aside")
    said = {"sqlite": "OverflowError", "postgres": "NumericValueOutOfRange"}[home.name]
    assert (request_id, reason) == ("odd", f"cannot be stored: {said}")


def test_a_record_of_the_release_before_is_read_and_counted_as_unknown(store):
    """Such a record has a cause and no misses: one miss of unknown size, not none and not one of 0 tokens."""
    body = encode(missing(a_miss())).replace(
        b'"misses":[{"cause":"system","layer":"system","block_index":null,"missed_tokens":1000,'
        b'"lost_nano_usd":4500000,"provider_cause":""}],"p_hit":null,"held":null,"padding_tokens":0,'
        b'"padding_nano_usd":0',
        b'"old":1',
    )
    assert b"misses" not in body
    settlement = decode_settlement(body)
    assert (settlement.cache.misses, settlement.cache.padding_tokens) == ((), 0)
    store.write([SettlementRecord(settlement, body)], (), START_S)
    assert rows(store) == [("r1", 1, 0, "system", "", None, None, None, "")]


def a_database_of_version_1(path):
    """Make a database as the first release left it: one call with a miss, one without, one interrupted."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    migrate(connection, START_S, MIGRATIONS[:1])
    for request_id, kind, cause in (
        ("a", "settled", "system"),
        ("b", "settled", ""),
        ("c", "interrupted", ""),
    ):
        columns = {
            "request_id": request_id, "attempt": 1, "kind": kind, "outcome": "ok", "purpose": "user",
            "route": "opus", "upstream": "anthropic", "model": "claude-opus-5-5", "answered_model": "",
            "tenant": "acme", "application": "desk", "user": "", "session": "", "labels": "{}", "strategy": "c",
            "miss_cause": cause, "finish_reason": "", "error": "", "started_time_s": START_S,
            "settled_time_s": START_S, "input_tokens": 100, "cache_read_tokens": 40, "record": b"{}",
        }  # fmt: skip
        connection.execute(
            f"INSERT INTO calls ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            tuple(columns.values()),
        )
    connection.close()


def test_a_database_of_version_1_is_brought_up_to_date(tmp_path):
    """Its calls stay, the causes it noted become misses of unknown size, and new calls go in beside them."""
    path = tmp_path / DATABASE
    a_database_of_version_1(path)
    store = SqliteStore(path, START_S)
    store.write([kept(missing(a_miss()))], (), START_S)
    store.close()
    with LedgerReader.open(path) as reader:
        (row,) = reader.misses(("cause",))
        assert (row.calls, row.misses, row.missed_tokens, row.unknown_token_misses) == (2, 2, 1_000, 1)
        assert (row.lost_nano_usd, row.unknown_loss_calls) == (4_500_000, 1)
        assert reader.caching()[0].calls == 4
        assert reader.caching()[0].input_tokens == 300 + 3_000
    again = sqlite3.connect(path)
    assert again.execute("SELECT count(*) FROM schema_version").fetchone() == (len(MIGRATIONS),)
    again.close()


def test_a_database_that_nobody_migrated_says_what_to_do(tmp_path):
    """A reader cannot write: it names the way."""
    path = tmp_path / DATABASE
    a_database_of_version_1(path)
    with LedgerReader.open(path) as reader:
        for ask in (reader.totals, reader.misses, reader.caching, reader.dearest_misses, reader.interrupted):
            with pytest.raises(StoreError, match="schema version 1"):
                ask()


async def test_a_snapshot_answers_as_of_its_first_question(home, ledger):
    """Totals and parts of one report agree although calls are settled meanwhile."""
    ledger.settle(missing(a_miss(), request_id="before"))
    await ledger.flush()
    with home.read(ledger._directory) as reader:
        with reader.snapshot():
            before = reader.misses()
            ledger.settle(missing(a_miss(), request_id="meanwhile"))
            await ledger.flush()
            assert reader.misses() == before
        assert reader.misses()[0].calls == 2


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "asked",
    [
        "purpose, sum(input_tokens), sum(no_caching_nano_usd) FROM calls WHERE route = 'opus' AND 1",
        "role, route, sum(cost_nano_usd), avg(p_hit - held), max(duration_s) FROM calls WHERE score >= 0",
    ],
)
@pytest.mark.parametrize("window", ["", " AND started_time_s >= 0.0 AND tenant = 'acme'"])
def test_what_is_asked_of_many_calls_is_answered_from_the_index(store, asked, window):
    """A row of calls is mostly its record: sums must not read a million of them."""
    plan = store._connection.execute(f"EXPLAIN QUERY PLAN SELECT {asked}{window} GROUP BY 1")
    assert "COVERING INDEX calls_in_brief" in " ".join(row[3] for row in plan)
