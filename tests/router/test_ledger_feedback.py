"""Feedback in the ledger: kept once per source with the request it is about, whatever comes when and dies where."""

import asyncio
from dataclasses import replace

import msgspec.structs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import LedgerUnavailable
from router.feedback import MAX_SOURCES, Feedback, Received, Verdict
from router.ledger import Ledger, LedgerReader, LedgerSettings, StoreError
from router.ledger.ledger import DATABASE
from router.settlement import Outcome, Purpose
from tests.router.ledger_old import an_old_database
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent
from tests.router.test_ledger_recovery import crash, opened, report

QUICK = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False)


def judgement(**changes):
    """Say that r1 of acme was bad."""
    said = Feedback(
        request_id="r1", tenant="acme", source="user", verdict=Verdict.BAD, score=None, time_s=START_S + 9
    )
    return msgspec.structs.replace(said, **changes)


@pytest.fixture
def ledger(home, tmp_path):
    ledger = home.open(tmp_path / "ledger", clock=StillClock(START_S + 60), settings=QUICK)
    yield ledger
    ledger.close_blocking()


async def test_feedback_is_kept_with_the_decision_it_is_about(ledger):
    """What came of it names route, model and rule of the request, and the request's row carries the judgement."""
    ledger.settle(a_settlement())
    receipt = await ledger.feedback(judgement(score=0.2))
    assert receipt.received is Received.RECORDED
    assert (receipt.route, receipt.model_digest, receipt.reason) == ("opus", "d1", "score")
    (row,) = [each async for each in ledger.decided()]
    assert row.feedback == (judgement(score=0.2),)
    assert await ledger.feedback_for(["r1", "never"]) == {"r1": (judgement(score=0.2),)}


async def test_feedback_may_come_before_the_settlement(ledger):
    """A request in progress can be judged; the judgement is there when it settles."""
    ledger.journal_intent(an_intent())
    assert (await ledger.feedback(judgement())).received is Received.RECORDED
    ledger.settle(a_settlement())
    (row,) = [each async for each in ledger.decided()]
    assert row.feedback == (judgement(),)


async def test_the_same_again_changes_nothing(ledger):
    """A caller that never saw the answer may send it again: same row, same time, same answer."""
    ledger.settle(a_settlement())
    await ledger.feedback(judgement())
    again = await ledger.feedback(judgement(time_s=START_S + 30))
    assert (again.received, again.replaced, again.time_s) == (Received.REPEATED, False, START_S + 9)
    assert await ledger.feedback_for(["r1"]) == {"r1": (judgement(),)}


async def test_a_source_replaces_its_own_and_no_one_elses(ledger):
    """Another verdict of a source takes the place of its first; that of another source stands beside it."""
    ledger.settle(a_settlement())
    await ledger.feedback(judgement())
    other = judgement(source="reviewer")
    await ledger.feedback(other)
    better = judgement(verdict=Verdict.GOOD, time_s=START_S + 30)
    assert (await ledger.feedback(better)).received is Received.REPLACED
    assert (await ledger.feedback(better)).replaced, "asked again, the answer is the same"
    assert await ledger.feedback_for(["r1"]) == {"r1": (other, better)}


@pytest.mark.parametrize(
    "said",
    [
        judgement(request_id="never"),
        judgement(tenant="other"),
        judgement(tenant=""),
        judgement(request_id="w1"),
    ],
    ids=["unknown id", "another tenant", "no tenant", "not a user's request"],
)
async def test_what_is_not_the_tenants_request_is_unknown(ledger, said):
    """Unknown, foreign and our own calls look the same, and nothing is kept of them."""
    ledger.settle(a_settlement())
    ledger.settle(a_settlement(an_intent(request_id="w1", purpose=Purpose.WARM)))
    assert (await ledger.feedback(said)).received is Received.UNKNOWN
    assert await ledger.feedback_for(["r1", "never", "w1"]) == {}


async def test_a_judgement_that_no_column_takes_holds_nothing_up(home, ledger, tmp_path):
    """Ids and tenants are callers' text: whatever is in them, the others are kept, and the next opening opens."""
    ledger.settle(a_settlement())
    odd = [
        judgement(request_id="r\0"),
        judgement(tenant="acme\0"),
        judgement(source="x\0"),
        judgement(score=7.0),
    ]
    receipts = await asyncio.gather(*[ledger.feedback(each) for each in (*odd, judgement(source="last"))])
    assert [each.received for each in receipts] == [
        Received.UNKNOWN, Received.UNKNOWN, Received.RECORDED, Received.UNKNOWN, Received.RECORDED,
    ]  # fmt: skip
    assert len((await ledger.feedback_for(["r1", "r\0"]))["r1"]) == 2
    assert ledger.stats().failures == 0
    ledger.close_blocking()
    store = home.store(tmp_path / "ledger")
    assert [each.received for each in store.keep_feedback(odd, {}, START_S)][-1] is Received.UNKNOWN
    store.close()


async def test_a_request_in_progress_is_its_tenants_alone(ledger):
    """Early feedback of another tenant is unknown too."""
    ledger.journal_intent(an_intent())
    assert (await ledger.feedback(judgement(tenant="other"))).received is Received.UNKNOWN


async def test_an_old_request_is_past_being_judged(home, tmp_path):
    """Judging ends a stated time after the request's start."""
    clock = StillClock(START_S + 100)
    ledger = home.open(tmp_path, clock=clock, settings=replace(QUICK, judged_within_s=100))
    try:
        ledger.settle(a_settlement())
        assert (await ledger.feedback(judgement())).received is Received.RECORDED
        clock.now_s += 1
        assert (await ledger.feedback(judgement(source="late"))).received is Received.EXPIRED
        assert (await ledger.feedback(judgement(tenant="other"))).received is Received.UNKNOWN
    finally:
        await ledger.close()


async def test_sources_of_one_request_are_bounded(ledger):
    """The ninth source is refused; those that are there may still change their mind."""
    ledger.settle(a_settlement())
    receipts = await asyncio.wait_for(
        _all(ledger, [judgement(source=f"s{n}") for n in range(MAX_SOURCES + 1)]), 10
    )
    assert [each.received for each in receipts].count(Received.TOO_MANY) == 1
    kept = (await ledger.feedback_for(["r1"]))["r1"]
    changed = msgspec.structs.replace(kept[0], verdict=Verdict.GOOD, time_s=START_S + 30)
    assert (await ledger.feedback(changed)).received is Received.REPLACED


async def _all(ledger, said):
    tasks = []
    async with asyncio.TaskGroup() as group:
        tasks.extend(group.create_task(ledger.feedback(each)) for each in said)
    return [task.result() for task in tasks]


async def test_of_many_at_once_one_is_first(ledger):
    """However many send the same judgement at once, it is recorded once."""
    ledger.settle(a_settlement())
    receipts = await _all(ledger, [judgement()] * 40)
    assert sorted(each.received for each in receipts) == [Received.RECORDED] + [Received.REPEATED] * 39


async def test_a_failing_store_refuses_and_keeps_it_all_the_same(home, tmp_path):
    """The caller is told that nobody knows yet; the journalled judgement is kept once the store works again."""

    class Troubled:
        troubled = True

        def keep_feedback(self, feedback, open_requests, oldest_s):
            if self.troubled:
                raise StoreError("disk is full")
            return super().keep_feedback(feedback, open_requests, oldest_s)

    store = home.store(tmp_path / "ledger", Troubled)
    ledger = home.open(tmp_path / "ledger", clock=StillClock(), settings=QUICK, store=store)
    try:
        ledger.settle(a_settlement())
        with pytest.raises(LedgerUnavailable, match="disk is full"):
            await ledger.feedback(judgement())
        assert ledger.stats().repeated == 0, "a settlement of the failed batch is not written again"
        store.troubled = False
        assert (await ledger.feedback(judgement())).received is Received.REPEATED
        assert (await ledger.totals()).calls == 1
        assert ledger.stats().repeated == 0
    finally:
        await ledger.close()


async def test_feedback_to_a_closed_ledger_is_refused(home, tmp_path):
    """Nothing is promised that cannot be kept."""
    ledger = home.open(tmp_path, clock=StillClock(), settings=QUICK)
    await ledger.close()
    with pytest.raises(LedgerUnavailable, match="closed"):
        await ledger.feedback(judgement())


async def test_a_caller_that_left_does_not_hold_up_the_writer(home, tmp_path):
    """A cancelled wait neither fails the batch nor loses the judgement."""
    ledger = home.open(tmp_path, clock=StillClock(), settings=replace(QUICK, interval_s=3600))
    try:
        ledger.settle(a_settlement())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ledger.feedback(judgement()), 0.001)
        assert await ledger.feedback_for(["r1"]) == {"r1": (judgement(),)}
    finally:
        await ledger.close()


def test_a_kill_before_the_commit_loses_no_journalled_feedback(home, tmp_path):
    """Replayed from the journal: of settled, of interrupted, and not of unknown requests; twice is as once."""
    live = tmp_path / "live"
    ledger = opened(home, live)
    for number in range(2):
        ledger.journal_intent(an_intent(request_id=f"r{number}"))
    ledger.settle(a_settlement(an_intent(request_id="r0")))
    said = [judgement(request_id=name) for name in ("r0", "r1", "never")]
    said.append(judgement(request_id="r0", verdict=Verdict.GOOD, time_s=START_S + 10))
    for each in said:
        ledger._judge(each)
    dead = crash(ledger, live, tmp_path / "dead")
    recovery, settled, interrupted, _ = report(home, dead)
    assert (settled, interrupted, recovery.feedback, recovery.damaged_lines) == (["r0"], ["r1"], 3, 0)
    with home.read(dead) as reader:
        assert reader.feedback_for(["r0", "r1", "never"]) == {"r0": (said[3],), "r1": (said[1],)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(list(Verdict)), st.integers(0, 3)), max_size=8
    ),
    again_from=st.integers(0, 8),
)
def test_replaying_any_part_again_changes_nothing(home, tmp_path, said, again_from):
    """Whatever a crash lets be replayed, from any point to the end, the judgements that stand are the same."""
    store = home.store(tmp_path / "ledger")
    connection = store._connection
    connection.execute("DELETE FROM feedback")
    time_s, judgements = START_S, []
    for source, verdict, later_s in said:
        time_s += later_s
        judgements.append(judgement(source=source, verdict=verdict, time_s=time_s))
    open_requests = {"r1": "acme"}
    store.keep_feedback(judgements, open_requests, 0)
    first = connection.execute("SELECT source, verdict FROM feedback ORDER BY source").fetchall()
    store.keep_feedback(judgements[again_from:], open_requests, 0)
    assert connection.execute("SELECT source, verdict FROM feedback ORDER BY source").fetchall() == first
    store.close()


async def test_a_request_is_one_row_whatever_its_attempts(ledger):
    """Decision of the first attempt, end of the last, cost of all; interrupted, warmed and undecided ones are none."""
    decision = a_settlement().decision
    first = an_intent(route="flash")
    ledger.settle(
        a_settlement(
            first,
            finish_reason="tool_call",
            discarded="malformed_tool_call",
            decision=msgspec.structs.replace(decision, route="flash", features="packed"),
        )
    )
    ledger.settle(
        a_settlement(an_intent(attempt=2), outcome=Outcome.REFUSED, cost=None, error="UPSTREAM_FAILED")
    )
    ledger.settle(a_settlement(an_intent(attempt=3)))
    ledger.settle(a_settlement(an_intent(request_id="w1", purpose=Purpose.WARM)))
    ledger.settle(a_settlement(an_intent(request_id="u1"), decision=None))
    ledger.journal_intent(an_intent(request_id="i1"))
    (row,) = [each async for each in ledger.decided()]
    assert (row.request_id, row.route, row.answered_route) == ("r1", "flash", "opus")
    assert (row.decision.features, row.discarded, row.finish_reason) == (
        "packed",
        "malformed_tool_call",
        "end_turn",
    )
    assert row.cost_nano_usd == 2 * 23_750_000
    assert [each.cost_nano_usd for each in row.attempts] == [23_750_000, 0, 23_750_000]
    assert (row.session, row.tenant, row.application, row.labels) == (
        "s1",
        "acme",
        "helpdesk",
        {"team": "search"},
    )


async def test_a_cost_that_is_not_known_makes_the_sum_unknown(ledger):
    """Unknown is not 0."""
    ledger.settle(a_settlement(outcome=Outcome.UNKNOWN, cost=None))
    ledger.settle(a_settlement(an_intent(attempt=2)))
    (row,) = [each async for each in ledger.decided()]
    assert row.cost_nano_usd is None


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 500])
async def test_batches_neither_lose_nor_double_a_request(ledger, batch):
    """By start time, ties included, over any batch size; the window is inclusive at its start only."""
    for number in range(7):
        intent = an_intent(request_id=f"r{number}", started_time_s=START_S + number // 2)
        ledger.settle(a_settlement(intent))
    rows = [each.request_id async for each in ledger.decided(batch=batch)]
    assert rows == [f"r{number}" for number in range(7)]
    window = [each.request_id async for each in ledger.decided(START_S + 1, START_S + 3, batch=batch)]
    assert window == ["r2", "r3", "r4", "r5"]


async def test_a_ledger_of_version_2_is_brought_up_to_date(tmp_path):
    """Calls booked by the release before this one can be judged and read; a reader names the way until then."""
    ledger_path = tmp_path / "ledger"
    ledger_path.mkdir()
    an_old_database(ledger_path / DATABASE, 2, [a_settlement()])
    with LedgerReader.open(ledger_path / DATABASE) as reader:
        with pytest.raises(StoreError, match="schema version 2, this question needs 4"):
            list(reader.decided())
        with pytest.raises(StoreError, match="needs 3"):
            reader.feedback_for(["r1"])
    ledger = Ledger.open(ledger_path, clock=StillClock(START_S + 60), settings=QUICK)
    try:
        assert (await ledger.feedback(judgement())).received is Received.RECORDED
        (row,) = [each async for each in ledger.decided()]
        assert (row.request_id, row.feedback) == ("r1", (judgement(),))
        assert (await ledger.totals()).cost.total_nano_usd == 23_750_000
    finally:
        await ledger.close()
