"""What prompts consist of, in the ledger's tables: with their call, once, gone with it, on both databases."""

from functools import partial

import pytest
from msgspec.structs import replace

from cache.rules import TTL_5M_S
from cache.schedule import Trigger
from router.archive import archived, export
from router.ledger import DATABASE, Filter, Ledger, LedgerReader, LedgerSettings, StoreError, codec, prefixes
from router.ledger.codec import SettlementRecord
from router.ledger.groups import DAY_S
from router.ledger_trace import LedgerTrace, Rebuilding
from router.prefix_notes import PrefixNotes
from router.replay import Policy, Settings
from router.replay import replay as played
from router.replay_warming import Warm, WarmSettings
from router.settlement import Outcome, Purpose
from router.usage import Usage
from tests.router.ledger_old import an_old_database
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent
from tests.router.prompts_noted import (
    a_plan,
    a_view,
    conversation,
    expected,
    opening,
    without_names,
)

QUICK = LedgerSettings(interval_s=0.001, retry_s=0.001, sync=False)


def a_prompt(turns, tag=b"s"):
    """A view of a conversation that has gone on for so many turns."""
    said = [(b"hello " + tag) * 40]
    for turn in range(turns):
        said += [(b"answer %d " % turn + tag) * 60, (b"question %d " % turn + tag) * 30]
    return a_view(conversation(opening(b"app"), said))


def noted(notes, number, view, *, started_s=START_S, **intent):
    """The settlement of a call with what was noted of its prompt."""
    asked = an_intent(request_id=f"r{number}", started_time_s=started_s, **intent)
    marks = a_plan((1, TTL_5M_S)) if asked.route == "opus" else None
    return a_settlement(asked, prefix=notes.note(view, marks, started_s))


def calls_of(reader, where=Filter()):  # noqa: B008 (frozen)
    """Every user's call with its prompt."""
    until = reader.ask(prefixes.last_number)
    return reader.ask(partial(prefixes.page, where=where, until_number=until, after=None, limit=1_000))


def rebuilt_of(reader):
    """What the ledger says of each prompt, by the order of calls; None where it is unknown."""
    rebuilding = Rebuilding(
        lambda prompt, before: reader.ask(partial(prefixes.named, prompt=prompt, before_number=before))
    )
    found = [rebuilding.pieces(call) for call in calls_of(reader)]
    return [None if each is None else without_names(each[1]) for each in found]


async def test_prompts_come_back_over_restarts_and_switches_of_route(home, tmp_path):
    """Whatever route a call took, and whichever process noted it, its prompt is what it was."""
    views = [a_prompt(turn) for turn in range(6)]
    for process in range(3):
        ledger = home.open(tmp_path, clock=StillClock(), settings=QUICK)
        notes = PrefixNotes(ledger.prefix_key)
        for place in (2 * process, 2 * process + 1):
            ledger.settle(
                noted(
                    notes,
                    place,
                    views[place],
                    started_s=START_S + place,
                    route=("flash", "opus")[place % 2],
                )
            )
        await ledger.close()
    with home.read(tmp_path) as reader:
        assert rebuilt_of(reader) == [expected(view) for view in views]


async def test_a_process_that_dies_loses_no_prompt(home, tmp_path):
    """What was settled and not yet stored is replayed from the journal with its prompt, once."""
    ledger = home.open(tmp_path, clock=StillClock(), settings=LedgerSettings(interval_s=600.0, sync=False))
    notes = PrefixNotes(ledger.prefix_key)
    views = [a_prompt(turn) for turn in range(3)]
    settled = [noted(notes, turn, view, started_s=START_S + turn) for turn, view in enumerate(views)]
    for each in settled:
        ledger.settle(each)
    segments = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir()}
    await ledger.close()
    for name, content in segments.items():
        (tmp_path / "journal" / name).write_bytes(content)
    again = home.open(tmp_path, clock=StillClock(), settings=QUICK)
    assert again.prefix_key == ledger.prefix_key
    again.settle(settled[1])
    assert [each async for each in again.settlements()] == settled
    await again.close()
    with home.read(tmp_path) as reader:
        assert rebuilt_of(reader) == [expected(view) for view in views]
        assert reader.ask(lambda c: c.execute("SELECT count(*) FROM prefixes").fetchone()) == (3,)


def test_two_routers_name_alike_and_need_not_know_each_other(home, tmp_path):
    """Two that book in one database give equal prefixes equal names, and each builds on its own calls."""
    one, other = home.store(tmp_path), home.store(tmp_path)
    assert one.prefix_key() == other.prefix_key()
    assert len(one.prefix_key()) == prefixes.KEY_BYTES
    notes = [PrefixNotes(store.prefix_key()) for store in (one, other)]
    views = [a_prompt(turn // 2) for turn in range(6)]
    for place, view in enumerate(views):
        record = noted(notes[place % 2], place, view, started_s=START_S + place)
        (one, other)[place % 2].write([SettlementRecord(record, codec.encode(record))], (), START_S)
    one.close()
    other.close()
    with home.read(tmp_path) as reader:
        assert rebuilt_of(reader) == [expected(view) for view in views]
        names = [prefixes.prompt_name(call.body) for call in calls_of(reader)]
        assert names[::2] == names[1::2]


def test_prompts_go_with_their_calls_and_later_ones_stay_readable(home, tmp_path):
    """Pruning takes a day's prompts away whole; nothing of a day after builds on them."""
    store = home.store(tmp_path)
    notes = PrefixNotes(store.prefix_key())
    views = [a_prompt(turn) for turn in range(4)]
    records = [
        noted(notes, turn, view, started_s=START_S + turn * DAY_S / 2) for turn, view in enumerate(views)
    ]
    store.write([SettlementRecord(each, codec.encode(each)) for each in records], (), START_S)
    assert store.prune(START_S + DAY_S, 100) == 2
    store.close()
    with home.read(tmp_path) as reader:
        assert rebuilt_of(reader) == [expected(view) for view in views[2:]]
        assert reader.ask(lambda c: c.execute("SELECT count(*) FROM prefixes").fetchone()) == (2,)


def test_a_prompt_whose_beginning_is_gone_is_unknown(home, tmp_path):
    """Half of a day pruned, what the other half builds on cannot be found: said, never guessed at."""
    store = home.store(tmp_path)
    notes = PrefixNotes(store.prefix_key())
    views = [a_prompt(turn) for turn in range(3)]
    records = [noted(notes, turn, view, started_s=START_S + turn) for turn, view in enumerate(views)]
    store.write([SettlementRecord(each, codec.encode(each)) for each in records], (), START_S)
    store.prune(START_S + DAY_S, 1)
    store.close()
    with home.read(tmp_path) as reader:
        assert rebuilt_of(reader) == [None, None]
    trace = LedgerTrace(home.place(tmp_path), Filter())
    assert list(trace.rows()) == []
    assert (trace.expected, trace.seen.left_out.calls, trace.seen.replayed.calls) == (2, 2, 0)


async def test_calls_without_a_prompt_and_calls_of_our_own_are_told_apart(home, tmp_path):
    """Calls booked without a prompt are counted as unknown; warms, refusals and calls without usage are no rows."""
    ledger = home.open(tmp_path, clock=StillClock(), settings=QUICK)
    notes, view = PrefixNotes(ledger.prefix_key), a_prompt(1)
    ledger.settle(noted(notes, 1, view))
    ledger.settle(a_settlement(an_intent(request_id="r2", started_time_s=START_S + 1)))
    ledger.settle(a_settlement(an_intent(request_id="r3", purpose=Purpose.WARM)))
    ledger.settle(a_settlement(an_intent(request_id="r4"), outcome=Outcome.REFUSED, usage=None, cost=None))
    ledger.settle(a_settlement(an_intent(request_id="r5"), outcome=Outcome.UNKNOWN, usage=None, cost=None))
    ledger.settle(noted(notes, 6, a_prompt(0), route="flash"))
    await ledger.close()
    trace = LedgerTrace(home.place(tmp_path), Filter())
    (row,) = trace.rows()
    seen = trace.seen
    assert (seen.replayed.calls, seen.left_out.calls, seen.without_usage) == (1, 1, 1)
    assert (seen.flash, row.input_tokens, trace.warms.calls) == (0, 3_000, 1)
    every = LedgerTrace(home.place(tmp_path), Filter(), every_call=True)
    assert len(list(every.rows())) == 2
    assert (every.seen.flash, every.seen.replayed.calls) == (1, 1)


async def test_turns_on_flash_are_known_between_requests_to_opus(home, tmp_path):
    """With their scores, in no bill; warms that go by them are sent from the ledger as from a trace."""
    ledger = home.open(tmp_path, clock=StillClock(), settings=QUICK)
    notes = PrefixNotes(ledger.prefix_key)
    usage = Usage(input_tokens=30_000, cache_write_5m_tokens=30_000, output_tokens=10)
    opened = opening(b"a long system prompt " * 120)
    for turn in range(9):
        said = [(b"text %d " % place) * 3_000 for place in range(2 * turn + 1)]
        settled = noted(
            notes,
            turn,
            a_view(conversation(opened, said)),
            started_s=START_S + 400.0 * turn,
            route=("opus", "flash")[turn % 2],
        )
        ledger.settle(replace(settled, usage=usage if turn % 2 == 0 else settled.usage))
    await ledger.close()
    trace = LedgerTrace(home.place(tmp_path), Filter()).with_flash_turns()
    rows = list(trace.rows())
    assert [row.opus for row in rows] == [True, False] * 4 + [True]
    assert {row.score for row in rows} == {0.8}
    assert all(row.tools_tokens and row.system_tokens for row in rows)
    sent = []
    warming = WarmSettings(policy=Warm.PREDICTIVE, hold_out=0.0, judged=False)
    served = list(played(rows, Policy.A, Settings(warming=warming), on_ping=sent.append))
    assert len(served) == 5
    assert 1 <= len(sent) <= 4  # what one wrote for an hour need not be sent again
    assert {ping.trigger for ping in sent} == {Trigger.SCORE}


def test_an_older_ledger_gets_the_tables_and_its_calls_stay_unknown(tmp_path):
    """Opening brings a ledger of version 6 up to date; what was booked before has no prompt, and none is made up."""
    path = tmp_path / DATABASE
    an_old_database(path, prefixes.SINCE - 1, [a_settlement()])
    with pytest.raises(StoreError, match="needs 7"):
        LedgerTrace(path, Filter())
    Ledger.open(tmp_path, clock=StillClock()).close_blocking()
    trace = LedgerTrace(path, Filter())
    assert list(trace.rows()) == []
    assert trace.seen.left_out.calls == 1


async def test_an_export_holds_prompts_and_not_the_key(tmp_path):
    """Each settlement comes back with its prompt; nothing of the key is in the file."""
    ledger = Ledger.open(tmp_path, clock=StillClock(), settings=QUICK)
    settled = noted(PrefixNotes(ledger.prefix_key), 1, a_prompt(1))
    ledger.settle(settled)
    await ledger.close()
    with LedgerReader.open(tmp_path / DATABASE) as reader:
        export(reader, tmp_path / "calls.parquet", Filter())
    assert list(archived(tmp_path / "calls.parquet")) == [settled]
    assert ledger.prefix_key not in (tmp_path / "calls.parquet").read_bytes()
