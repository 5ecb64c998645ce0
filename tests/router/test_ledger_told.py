"""Columns told by records: the same whether a release before this one booked the call or this one, in any order."""

import sqlite3
from dataclasses import replace as replace_of

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.ledger import DATABASE, Filter, LedgerReader, StoreError, codec, told
from router.ledger.codec import IntentRecord, SettlementRecord
from router.ledger.rows import COLUMNS
from router.ledger.sqlite import SqliteStore
from router.overhead import overhead_of
from router.page import figures_of, page
from router.report import MEANINGS
from router.settlement import CacheRecord, Purpose
from tests.router.ledger_old import an_old_database
from tests.router.ledger_samples import START_S, a_settlement, an_intent
from tests.router.report_calls import KINDS_OF_CALLS, book

BELIEVED = CacheRecord(strategy="c", breakpoint_count=1, expected_read_tokens=9, p_hit=0.25, held=False)


def settlements():
    """Every kind of call there is, and one whose cache was believed warm."""
    found = [
        a_settlement(an_intent(request_id=request_id, attempt=attempt, **of_intent), **of_settlement)
        for request_id, attempt, of_intent, of_settlement in KINDS_OF_CALLS
    ]
    return [*found, a_settlement(an_intent(request_id="believed"), cache=BELIEVED, decision=None)]


LOST = [
    an_intent(request_id="lost"),
    an_intent(request_id="lost-warm", purpose=Purpose.WARM),
    an_intent(request_id="again", attempt=3),
]


def kept(settlement):
    """The settlement as the store takes it."""
    return SettlementRecord(settlement, codec.encode(settlement))


def rows(path):
    """What the columns say, by call."""
    connection = sqlite3.connect(path)
    asked = [name for name in COLUMNS if name != "settled_time_s"]
    found = sorted(connection.execute(f"SELECT {', '.join(asked)} FROM calls"), key=lambda row: row[:2])
    connection.close()
    return found


def roles(path):
    """Role by call."""
    connection = sqlite3.connect(path)
    found = {
        tuple(row[:2]): row[2] for row in connection.execute("SELECT request_id, attempt, role FROM calls")
    }
    connection.close()
    return found


def booked_now(path):
    """Write the calls as this release does."""
    store = SqliteStore(path, START_S)
    store.write([kept(each) for each in settlements()], (), START_S)
    store.interrupt([IntentRecord(each, codec.encode(each)) for each in LOST], START_S)
    store.close()


@pytest.mark.parametrize("batch", [1, 3, 5_000])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_ledger_ends_up_as_if_booked_now(tmp_path, monkeypatch, version, batch):
    """Filling tells what inserting tells, whatever the batch."""
    monkeypatch.setattr(told, "_BATCH", batch)
    an_old_database(tmp_path / "old", version, settlements(), LOST)
    SqliteStore(tmp_path / "old", START_S).close()
    booked_now(tmp_path / "now")
    old, now = rows(tmp_path / "old"), rows(tmp_path / "now")
    if version == 1:  # padding is older than its columns: 0 for all
        padding = [COLUMNS.index(name) - 1 for name in ("padding_tokens", "padding_nano_usd")]
        old, now = (
            [[v for i, v in enumerate(row) if i not in padding] for row in each] for each in (old, now)
        )
    assert old == now


def test_what_kinds_of_calls_are_told(tmp_path):
    """Roles are those of the definition, and what was believed and drawn is in columns."""
    booked_now(tmp_path / "now")
    found = roles(tmp_path / "now")
    assert found["plain", 1] == found["better", 2] == found["lost", 1] == found["again", 3] == "answer"
    assert found["again", 1] == found["again", 2] == "retried"
    assert found["better", 1] == "discarded"
    assert [found[name, 1] for name in ("warm", "probe", "shadow", "lost-warm")] == [
        "warm", "probe", "shadow", "warm",
    ]  # fmt: skip
    connection = sqlite3.connect(tmp_path / "now")
    columns = "p_hit, held, reason, explored, score, threshold, propensity, discarded"
    asked = f"SELECT {columns} FROM calls WHERE request_id = ?"
    assert connection.execute(asked, ("believed",)).fetchall() == [
        (0.25, 0, None, None, None, None, None, "")
    ]
    assert connection.execute(asked, ("drawn",)).fetchall() == [(None, None, "score", 1, 0.8, 0.5, 1.0, "")]
    assert connection.execute(asked, ("better",)).fetchone()[-1] == "empty_answer"
    connection.close()


def test_a_migration_that_breaks_off_goes_on_where_it_was(tmp_path, monkeypatch):
    """What was filled stays filled, the version stays the old one until all is."""
    path = tmp_path / DATABASE
    an_old_database(path, 3, settlements(), LOST)
    decoded, seen = told._decoded, []

    def breaking(body):
        seen.append(body)
        if len(seen) == 6:
            raise sqlite3.OperationalError("disk full")
        return decoded(body)

    monkeypatch.setattr(told, "_BATCH", 2)
    monkeypatch.setattr(told, "_decoded", breaking)
    with pytest.raises(StoreError, match="disk full"):
        SqliteStore(path, START_S)
    assert sum(role != "" for role in roles(path).values()) == 4
    with (
        LedgerReader.open(path) as reader,
        pytest.raises(StoreError, match="schema version 3, this question"),
    ):
        reader.totals()
    before = len(seen)
    SqliteStore(path, START_S).close()
    assert len(seen) - before == len(settlements()) + len(LOST) - 4
    booked_now(tmp_path / "now")
    assert rows(path) == rows(tmp_path / "now")


def test_a_record_that_nobody_can_read_does_not_hold_up_the_others(tmp_path):
    """It keeps the role that its purpose gives it."""
    path = tmp_path / DATABASE
    an_old_database(path, 3, [a_settlement(), a_settlement(an_intent(request_id="r2"))])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE calls SET record = x'ff' WHERE request_id = 'r1'")
    connection.commit()
    connection.close()
    SqliteStore(path, START_S).close()
    assert roles(path) == {("r1", 1): "answer", ("r2", 1): "answer"}


tries = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(1, 4), st.sampled_from(["", "empty_answer"]), st.booleans()
    ),
    unique_by=lambda each: each[:2],
    max_size=9,
)


@settings(max_examples=40, deadline=None)
@given(tries=tries, batch=st.integers(1, 4))
def test_roles_do_not_hang_on_the_order_in_which_tries_are_stored(tmp_path_factory, tries, batch):
    """The last known try answers, whoever was stored first: a hedge's loser may settle after its winner."""
    path = tmp_path_factory.mktemp("roles") / DATABASE
    store = SqliteStore(path, START_S)
    last = {}
    for request_id, attempt, _, _ in tries:
        last[request_id] = max(attempt, last.get(request_id, 0))
    for start in range(0, len(tries), batch):
        some = tries[start : start + batch]
        store.write(
            [
                kept(a_settlement(an_intent(request_id=each[0], attempt=each[1]), discarded=each[2]))
                for each in some
                if each[3]
            ],
            (),
            START_S,
        )
        lost = [an_intent(request_id=each[0], attempt=each[1]) for each in some if not each[3]]
        store.interrupt([IntentRecord(each, codec.encode(each)) for each in lost], START_S)
    store.close()
    assert roles(path) == {
        (request_id, attempt): "discarded"
        if discarded and settled
        else ("answer" if attempt == last[request_id] else "retried")
        for request_id, attempt, discarded, settled in tries
    }


@pytest.mark.parametrize("count", [1, 2, 5, 17, 64, 65, 200])
def test_any_number_of_requests_is_retried_at_once(tmp_path, count):
    """Requests are bound in a few lengths of statements; none is left out at their edges."""
    store = SqliteStore(tmp_path / DATABASE, START_S)
    calls = [an_intent(request_id=f"r{n}", attempt=attempt) for attempt in (2, 1) for n in range(count)]
    for some in (calls[:count], calls[count:]):
        store.write([kept(a_settlement(each)) for each in some], (), START_S)
    store.close()
    assert roles(tmp_path / DATABASE) == {
        (each.request_id, each.attempt): "answer" if each.attempt == 2 else "retried" for each in calls
    }


def test_a_lost_call_that_settles_after_all_keeps_its_place(tmp_path):
    """The settlement takes the row of the interruption; that another try followed is still known."""
    path = tmp_path / DATABASE
    store = SqliteStore(path, START_S)
    intent = an_intent()
    store.interrupt([IntentRecord(intent, codec.encode(intent))], START_S)
    store.write([kept(a_settlement(replace(intent, attempt=2)))], (), START_S)
    store.write([kept(a_settlement(intent))], (), START_S)
    store.close()
    assert roles(path) == {("r1", 1): "retried", ("r1", 2): "answer"}


async def test_staying_is_compared_where_it_is_known(tmp_path):
    """Signed, over the calls that know both; a call whose session nobody saw begin is in neither sum."""
    told_of = [
        replace(a_settlement().counterfactuals, never_switch_nano_usd=amount)
        for amount in (30_000_000, 20_000_000, None)
    ]
    book(
        tmp_path / "ledger",
        *((f"r{n}", 1, {}, {"counterfactuals": other}) for n, other in enumerate(told_of)),
    )
    with LedgerReader.open(tmp_path / "ledger" / DATABASE) as reader:
        compared = reader.totals().never_switch
        assert (compared.calls, compared.saving_nano_usd) == (2, 50_000_000 - 2 * 23_750_000)
        saved = {each.name: each.answers for each in overhead_of(reader).savings}
        assert saved["never_switch"] == compared
        found = figures_of(reader)
        assert found.savings["never_switch"] == compared
        assert MEANINGS["never_switch"] in page(found)


@pytest.mark.parametrize("window", [{}, {"since_s": START_S - 1, "until_s": START_S + 86_401.0}])
def test_a_choice_of_all_calls_is_the_same_as_no_choice(tmp_path, window):
    """By time alone the index is asked, else a copy of what is chosen: the figures are the same."""
    book(tmp_path / "ledger", *KINDS_OF_CALLS)
    with LedgerReader.open(tmp_path / "ledger" / DATABASE) as reader:
        asked = figures_of(reader, Filter(**window))
        chosen = figures_of(reader, Filter(equal={"user": "u1"}, **window))
    assert asked == replace_of(chosen, filters={})
