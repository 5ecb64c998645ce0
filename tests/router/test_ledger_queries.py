"""Queries: exact sums that show what they lack, by any group, for any part of the calls."""

import asyncio
import sqlite3
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.cost import Cost, Counterfactuals
from router.ledger import GROUPS, Filter, Ledger, LedgerReader, StoreError
from router.ledger.ledger import DATABASE
from router.ledger.schema import MIGRATIONS, migrate
from router.settlement import Outcome, Purpose
from router.usage import Usage
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

DAY_S = 86_400.0


@pytest.fixture
def ledger(home):
    ledger = home.temporary()
    yield ledger
    ledger.close_blocking()


def settle(ledger, *calls):
    """Settle calls r0, r1, ..., each given as changes of the intent and changes of the settlement."""
    for number, (of_intent, of_settlement) in enumerate(calls):
        intent = an_intent(request_id=f"r{number}", **of_intent)
        ledger.settle(a_settlement(intent, **of_settlement))


nano = st.integers(0, 10**12)
calls = st.lists(
    st.tuples(
        st.sampled_from(["flash", "opus"]),
        st.sampled_from(["acme", "bolt", ""]),
        st.sampled_from([{}, {"team": "search"}, {"team": "ads", "env": "prod"}]),
        st.none() | st.builds(Cost, uncached_input_nano_usd=nano, thinking_nano_usd=nano),
        st.none() | st.builds(Counterfactuals, no_caching_nano_usd=st.none() | nano),
        st.none()
        | st.builds(
            Usage,
            input_tokens=st.integers(0, 10**9),
            output_tokens=st.integers(0, 10**6),
            complete=st.booleans(),
        ),
        st.none() | nano,
        st.sampled_from(Outcome),
    ),
    max_size=12,
)


def expected(rows):
    """Sum (cost, counterfactual, usage, bound, outcome) rows in plain Python."""
    unknown = [bound for cost, _, _, bound, outcome in rows if cost is None and outcome != Outcome.REFUSED]
    room = [
        None if bound is None or bound < cost.total_nano_usd else bound - cost.total_nano_usd
        for cost, _, usage, bound, _ in rows
        if cost is not None and usage is not None and not usage.complete
    ]
    compared = [
        (other.no_caching_nano_usd, cost.total_nano_usd)
        for cost, other, _, _, _ in rows
        if cost is not None and other is not None and other.no_caching_nano_usd is not None
    ]
    return {
        "calls": len(rows),
        "cost": sum(cost.total_nano_usd for cost, *_ in rows if cost is not None),
        "thinking": sum(cost.thinking_nano_usd for cost, *_ in rows if cost is not None),
        "unknown": len(unknown),
        "bound": sum(bound for bound in unknown if bound is not None),
        "incomplete": len(room),
        "room": sum(most for most in room if most is not None),
        "unbounded": sum(most is None for most in (*unknown, *room)),
        "input": sum(usage.input_tokens for _, _, usage, _, _ in rows if usage is not None),
        "saving": sum(baseline - cost for baseline, cost in compared),
        "compared": len(compared),
    }


def found(row):
    """Return the same sums of a row of the ledger."""
    return {
        "calls": row.calls,
        "cost": row.cost.total_nano_usd,
        "thinking": row.cost.thinking_nano_usd,
        "unknown": row.unknown_calls,
        "bound": row.unknown_bound_nano_usd,
        "incomplete": row.incomplete_calls,
        "room": row.incomplete_bound_nano_usd,
        "unbounded": row.unbounded_calls,
        "input": row.tokens.input_tokens,
        "saving": row.no_caching.saving_nano_usd,
        "compared": row.no_caching.calls,
    }


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=calls)
def test_groups_add_up_exactly(home, rows):
    """Whatever is unknown, each group's sums are those of its calls, and the groups sum to the totals."""
    groups = defaultdict(list)
    ledger = home.temporary()
    for number, (route, tenant, labels, cost, other, usage, bound, outcome) in enumerate(rows):
        intent = an_intent(
            request_id=str(number), route=route, tenant=tenant, labels=labels, cost_bound_nano_usd=bound
        )
        ledger.settle(a_settlement(intent, cost=cost, counterfactuals=other, usage=usage, outcome=outcome))
        groups[route, tenant, labels.get("team", "")].append((cost, other, usage, bound, outcome))

    async def ask():
        by_group = await ledger.costs(("route", "tenant", "label:team"))
        return by_group, await ledger.totals()

    by_group, totals = asyncio.run(ask())
    ledger.close_blocking()
    assert {tuple(row.group.values()): found(row) for row in by_group} == {
        group: expected(of_group) for group, of_group in groups.items()
    }
    assert found(totals) == expected([row for of_group in groups.values() for row in of_group])


async def test_tokens_are_summed_by_kind(ledger):
    """Cache counts are parts of the input, and calls without usage are not counted as 0 tokens."""
    usage = Usage(
        input_tokens=100,
        cache_read_tokens=40,
        cache_write_5m_tokens=20,
        cache_write_1h_tokens=10,
        output_tokens=9,
        thinking_tokens=4,
    )
    settle(ledger, ({}, {"usage": usage}), ({}, {"usage": usage}), ({}, {"usage": None, "cost": None}))
    totals = await ledger.totals()
    tokens = totals.tokens
    assert (tokens.input_tokens, tokens.cache_read_tokens, tokens.uncached_input_tokens) == (200, 80, 60)
    assert (tokens.cache_write_5m_tokens, tokens.cache_write_1h_tokens) == (40, 20)
    assert (tokens.output_tokens, tokens.thinking_tokens) == (18, 8)
    assert (totals.calls, totals.usage_calls) == (3, 2)


async def test_a_refused_call_is_free_and_not_unknown(ledger):
    """The provider bills no refusal; any other call without a cost may have been billed."""
    nothing = {"usage": None, "cost": None, "counterfactuals": None}
    settle(ledger, *(({}, {"outcome": outcome, **nothing}) for outcome in (Outcome.REFUSED, Outcome.UNKNOWN)))
    totals = await ledger.totals()
    assert (totals.calls, totals.unknown_calls, totals.unknown_bound_nano_usd) == (2, 1, 90_000_000)


async def test_a_broken_off_call_is_a_floor_with_a_bound(ledger):
    """Its cost is booked and can be more by what its bound leaves; a bound already exceeded bounds nothing."""
    broken = {"usage": Usage(input_tokens=3_000, output_tokens=800, complete=False)}
    bounds = (90_000_000, 23_750_000, 23_749_999, None)
    settle(ledger, ({}, {}), *(({"cost_bound_nano_usd": bound}, broken) for bound in bounds))
    totals = await ledger.totals()
    assert totals.cost.total_nano_usd == 5 * 23_750_000
    assert (totals.unknown_calls, totals.unknown_bound_nano_usd) == (0, 0)
    assert (totals.incomplete_calls, totals.incomplete_bound_nano_usd) == (4, 90_000_000 - 23_750_000)
    assert totals.unbounded_calls == 2


async def test_a_broken_off_call_without_a_price_is_unknown(ledger):
    """A call is a floor or unknown, never both: without a cost there is no floor."""
    broken = {"usage": Usage(input_tokens=3_000, complete=False), "cost": None, "counterfactuals": None}
    settle(ledger, ({}, broken))
    totals = await ledger.totals()
    assert (totals.unknown_calls, totals.unknown_bound_nano_usd) == (1, 90_000_000)
    assert (totals.incomplete_calls, totals.incomplete_bound_nano_usd) == (0, 0)


async def test_time_ranges_are_half_open_and_days_are_utc(ledger):
    """A call belongs to the day it began in; midnight belongs to the new day."""
    settle(ledger, *(({"started_time_s": START_S + offset}, {}) for offset in (-0.5, 0.0, DAY_S - 1, DAY_S)))
    by_day = await ledger.costs(("day",))
    assert {row.group["day"]: row.calls for row in by_day} == {
        "2026-11-21": 1,
        "2026-11-22": 2,
        "2026-11-23": 1,
    }
    assert (await ledger.totals(Filter(since_s=START_S, until_s=START_S + DAY_S))).calls == 2


async def test_models_are_those_that_answered(ledger):
    """Spend is shown by the model that answered; a call that none answered, by the one asked."""
    settle(ledger, ({}, {}), ({}, {"answered_model": "", "outcome": Outcome.UNKNOWN, "cost": None}))
    by_model = await ledger.costs(("model",))
    assert [row.group["model"] for row in by_model] == ["claude-opus-4-5", "claude-opus-4-5-20251101"]


async def test_overhead_is_told_apart_by_purpose(ledger):
    """Warms, probes and shadow calls are on the bill, and apart from the users' calls."""
    settle(ledger, *(({"purpose": purpose}, {}) for purpose in Purpose))
    by_purpose = await ledger.costs(("purpose",))
    assert sorted(row.group["purpose"] for row in by_purpose) == ["probe", "shadow", "user", "warm"]
    assert (await ledger.totals(Filter(equal={"purpose": "user"}))).calls == 1


@pytest.mark.parametrize("name", sorted(GROUPS))
async def test_every_group_can_be_asked_for_and_filtered_by(ledger, name):
    """Grouping by a name and filtering by the value it shows give the same calls."""
    settle(ledger, ({}, {}), ({"tenant": "bolt"}, {"error": "UPSTREAM_TIMEOUT"}))
    rows = await ledger.costs((name,))
    assert sum(row.calls for row in rows) == 2
    for row in rows:
        assert (await ledger.totals(Filter(equal={name: row.group[name]}))).calls == row.calls


@pytest.mark.parametrize("label", ["team", "cost.centre", "it's", "a b", "ü", "$", "x') OR 1=1 --"])
async def test_any_label_can_be_grouped_by(ledger, label):
    """A label's name is data, however it looks; calls without it are grouped under ""."""
    settle(ledger, ({"labels": {label: "seven"}}, {}), ({"labels": {}}, {}))
    rows = await ledger.costs((f"label:{label}",))
    assert {row.group[f"label:{label}"]: row.calls for row in rows} == {"": 1, "seven": 1}
    assert (await ledger.totals(Filter(equal={f"label:{label}": "seven"}))).calls == 1


@pytest.mark.parametrize("name", ["colour", "label:", 'label:a"b', "label:a\\b", "1; DROP TABLE calls", ""])
async def test_unknown_groups_are_refused(ledger, name):
    """A group that does not exist is an error that names the ones that do, not an empty answer."""
    with pytest.raises(ValueError, match="not a group"):
        await ledger.costs((name,))


async def test_settlements_come_by_start_and_in_pages(ledger):
    """Reading page by page gives every settlement once, by start, those of one instant included."""
    starts = (5.0, 3.0, 3.0, 3.0, 9.0, 1.0)
    settle(ledger, *(({"started_time_s": START_S + start}, {}) for start in starts))
    ids = [s.intent.request_id async for s in ledger.settlements(page=2)]
    assert ids == ["r5", "r1", "r2", "r3", "r0", "r4"]
    late = [s.intent.request_id async for s in ledger.settlements(Filter(since_s=START_S + 4), page=1)]
    assert late == ["r0", "r4"]


async def test_an_empty_ledger_adds_up_to_nothing(ledger):
    """No calls: one row of zeros for the totals, no rows for groups."""
    totals = await ledger.totals()
    assert (totals.calls, totals.cost.total_nano_usd, totals.no_caching.calls) == (0, 0, 0)
    assert await ledger.costs(("route",)) == []
    assert [settlement async for settlement in ledger.settlements()] == []


async def test_another_process_may_read_while_it_is_written(home, ledger):
    """A report opens the database read-only beside the service, and cannot change it."""
    settle(ledger, ({}, {}))
    await ledger.flush()
    with home.read(ledger._directory) as reader:
        assert reader.totals().calls == 1
        ledger.settle(a_settlement(an_intent(request_id="next")))
        await ledger.flush()
        assert reader.totals().calls == 2
        with pytest.raises(Exception, match=r"read-?only"):
            reader._connection.execute("DELETE FROM calls")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4_000],
    ids=["empty", "garbage", "damaged"],
)
def test_what_is_no_database_is_refused(tmp_path, content):
    """As the store's own error, which names the file."""
    path = tmp_path / DATABASE
    path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)):
        LedgerReader.open(path)
    assert path.read_bytes() == content


def test_a_directory_and_anothers_database_are_refused(tmp_path):
    """No ledger: nothing that opens, a database without versions, one whose migration never came."""
    (tmp_path / "directory").mkdir()
    for name, statement in (
        ("another", "CREATE TABLE t (a)"),
        ("begun", "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_time_s REAL NOT NULL)"),
    ):
        connection = sqlite3.connect(tmp_path / name)
        connection.execute(statement)
        connection.close()
    for name in ("directory", "another", "begun"):
        with pytest.raises(StoreError, match=str(tmp_path / name)):
            LedgerReader.open(tmp_path / name)


def test_a_database_of_a_newer_release_is_refused(tmp_path):
    """It is never guessed at."""
    path = tmp_path / DATABASE
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, START_S, (*MIGRATIONS, "CREATE TABLE later (a)"))
    connection.close()
    with pytest.raises(StoreError, match="newer release"):
        LedgerReader.open(path)


async def test_a_database_that_breaks_while_it_is_read_is_the_stores_error():
    """Every question, also inside a snapshot, whose end does not hide the error."""
    ledger = Ledger.temporary(clock=StillClock())
    settle(ledger, ({}, {}))
    await ledger.flush()
    path = ledger._directory / DATABASE
    copy = path.with_name("copy.sqlite3")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.execute("DROP TABLE calls")
    target.execute("DROP TABLE aside")
    target.commit()
    target.close()
    with LedgerReader.open(copy) as reader:
        for ask in (
            reader.costs,
            reader.interrupted,
            lambda: list(reader.settlements()),
            reader.caching,
            reader.misses,
            reader.dearest_misses,
            lambda: reader.last_calls("opus", 0.0, 1),
            reader.aside,
        ):
            with pytest.raises(StoreError, match="no such table"):
                ask()
        with pytest.raises(StoreError, match="no such table"), reader.snapshot():
            reader.misses()
    await ledger.close()


def test_there_is_nothing_to_read_where_there_is_no_ledger(tmp_path):
    """A wrong path is an error; it does not become an empty ledger."""
    with pytest.raises(FileNotFoundError):
        LedgerReader.open(tmp_path / DATABASE)


async def test_sums_beyond_64_bits_of_cents_are_exact(ledger):
    """A million dollars a call, summed to the nano-dollar."""
    cost = Cost(output_text_nano_usd=10**15 + 1)
    settle(ledger, *(({}, {"cost": cost}) for _ in range(9)))
    assert (await ledger.totals()).cost.total_nano_usd == 9 * (10**15 + 1)


def test_samples_are_valid():
    """The samples cost what the seed's warm request does, so that sums can be checked by hand."""
    sample = a_settlement()
    assert sample.cost.total_nano_usd == 23_750_000
    assert replace(sample, cost=None) != sample


async def test_what_discarded_answers_cost_can_be_asked_by_failure(ledger):
    """Answers that were paid for and not handed on, beside all others; also those booked before there were any."""
    settle(
        ledger,
        ({}, {"cost": Cost(uncached_input_nano_usd=5), "discarded": "refusal"}),
        ({}, {"cost": Cost(uncached_input_nano_usd=7), "discarded": "schema"}),
        ({"tenant": "bolt"}, {"cost": Cost(uncached_input_nano_usd=11), "discarded": "schema"}),
        ({}, {"cost": Cost(uncached_input_nano_usd=100)}),
    )
    await ledger.flush()
    rows = {row.group["discarded"]: row.cost.total_nano_usd for row in await ledger.costs(("discarded",))}
    assert rows == {"refusal": 5, "schema": 18, "": 100}
    schema = await ledger.totals(Filter(equal={"discarded": "schema", "tenant": "bolt"}))
    assert (schema.calls, schema.cost.total_nano_usd) == (1, 11)
