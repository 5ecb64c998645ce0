"""Recovery: whatever a crash leaves, every settled call is there once and no open one is forgotten."""

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from router.ledger import LedgerSettings
from router.ledger.journal import segment_path, segments
from router.ledger.ledger import JOURNAL
from router.settlement import Outcome
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

ROOT = Path(__file__).parents[2]
LAZY = LedgerSettings(interval_s=3_600, sync=False)
"""A writer that does not get to it: everything is in the journal and nothing in the store."""


def opened(home, path, settings=LAZY):
    """Open the ledger at `path`."""
    return home.open(path, clock=StillClock(START_S + 60), settings=settings)


def crash(ledger, path, copy):
    """Return what a SIGKILL at this moment would leave of the ledger at `path`, and close the original.

    The writer has not got to it: the database of the copy, on a server one of its own, is as empty as the original's.
    """
    shutil.copytree(path, copy)
    ledger.close_blocking()
    return copy


def report(home, path):
    """Open and close the ledger at `path`; return what it found, its ids by kind, and its totals."""
    ledger = opened(home, path)
    ledger.close_blocking()
    with home.read(path) as reader:
        settled = sorted(settlement.intent.request_id for settlement in reader.settlements())
        interrupted = sorted(found.intent.request_id for found in reader.interrupted())
        return ledger.recovery, settled, interrupted, reader.totals()


@pytest.fixture
def crashed(home, tmp_path):
    """A ledger that died with r0 and r1 settled, r2 open, all of it only in the journal."""
    ledger = opened(home, tmp_path / "live")
    for number in range(3):
        ledger.journal_intent(an_intent(request_id=f"r{number}"))
    for number in range(2):
        ledger.settle(a_settlement(an_intent(request_id=f"r{number}")))
    return crash(ledger, tmp_path / "live", tmp_path / "dead")


def only_segment(path):
    """Return the path of the one journal segment."""
    (number,) = segments(path / JOURNAL)
    return segment_path(path / JOURNAL, number)


def test_a_crash_loses_no_settlement_and_names_open_calls(home, crashed):
    """What settle promised is there; what was open is interrupted, its cost unknown but bounded."""
    recovery, settled, interrupted, totals = report(home, crashed)
    assert (settled, interrupted) == (["r0", "r1"], ["r2"])
    assert (recovery.settlements, recovery.interrupted, recovery.torn_lines) == (2, 1, 0)
    assert (totals.calls, totals.unknown_calls, totals.unknown_bound_nano_usd) == (3, 1, 90_000_000)
    assert segments(crashed / JOURNAL) == []


def test_replaying_again_changes_nothing(home, crashed, tmp_path):
    """A crash in the middle of a replay leaves segments that are replayed again: nobody is counted twice."""
    shutil.copytree(crashed / JOURNAL, tmp_path / "journal")
    first = report(home, crashed)
    shutil.copytree(tmp_path / "journal", crashed / JOURNAL, dirs_exist_ok=True)
    recovery, *after = report(home, crashed)
    assert after == list(first[1:])
    assert (recovery.settlements, recovery.repeated, recovery.interrupted) == (0, 2, 0)


def test_a_torn_last_line_is_tolerated(home, crashed, caplog):
    """A record whose write was cut was never promised; the ones before it stand."""
    path = only_segment(crashed)
    path.write_bytes(path.read_bytes()[:-20])
    recovery, settled, interrupted, _ = report(home, crashed)
    assert (settled, interrupted, recovery.torn_lines) == (["r0"], ["r1", "r2"], 1)
    assert "torn_lines=1" in caplog.text


def test_a_damaged_line_is_kept_aside(home, crashed):
    """A settlement that cannot be read leaves its call interrupted, and its bytes for a person to look at."""
    path = only_segment(crashed)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"r0"', b'"rX"')
    path.write_bytes(b"".join(lines))
    recovery, settled, interrupted, _ = report(home, crashed)
    assert (settled, interrupted, recovery.damaged_lines) == (["r1"], ["r0", "r2"], 1)
    (aside,) = (crashed / JOURNAL).glob("damaged-*.log")
    assert aside.read_bytes() == lines[3]


def test_a_line_of_an_unknown_kind_is_kept_aside(home, tmp_path):
    """A right checksum over something that is no record is damage too, not a crash of the opening."""
    ledger = opened(home, tmp_path / "live")
    ledger._journal.append(b"Z", b"{}")
    ledger._journal.append(b"S", b'{"intent":null}')
    recovery, *_ = report(home, crash(ledger, tmp_path / "live", tmp_path / "dead"))
    assert recovery.damaged_lines == 2


def test_a_repeated_settlement_in_the_journal_counts_once(home, tmp_path):
    """Settling twice journals twice; the store has it once, and a different one aside."""
    ledger = opened(home, tmp_path / "live")
    ledger.settle(a_settlement())
    ledger.settle(a_settlement())
    ledger.settle(a_settlement(outcome=Outcome.CANCELLED))
    recovery, settled, _, _ = report(home, crash(ledger, tmp_path / "live", tmp_path / "dead"))
    assert (settled, recovery.settlements, recovery.repeated, recovery.conflicting) == (["r1"], 1, 1, 1)


async def test_a_settlement_that_turns_up_after_all_replaces_the_interruption(home, crashed, tmp_path):
    """A call given up for lost and yet settled is settled; it is not counted twice."""
    ledger = opened(home, crashed, replace(LAZY, interval_s=0.001))
    assert [found.intent.request_id for found in await ledger.interrupted()] == ["r2"]
    ledger.settle(a_settlement(an_intent(request_id="r2")))
    assert await ledger.interrupted() == []
    assert (await ledger.totals()).calls == 3
    await ledger.close()


async def test_an_interrupted_call_under_a_used_id_is_kept_aside(home, tmp_path):
    """An id used again must not hide the second call's unknown spend."""
    ledger = opened(home, tmp_path)
    ledger.settle(a_settlement())
    ledger.journal_intent(an_intent(started_time_s=START_S + 5))
    await ledger.close()
    recovery, settled, _, _ = report(home, tmp_path)
    assert (settled, recovery.interrupted) == (["r1"], 1)
    with home.read(tmp_path) as reader:
        assert reader.aside() == [("r1", 1, "an interrupted call has the id of another")]


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_segments_that_a_reader_held_back_are_replayed_next_time(home, crashed):
    """While someone reads, segments may outlive their replay; the next opening finds nothing new in them."""
    report(home, crashed)
    with home.read(crashed) as reader:
        reader._connection.execute("BEGIN")
        reader.totals()
        ledger = opened(home, crashed, replace(LAZY, interval_s=0.001))
        ledger.journal_intent(an_intent(request_id="late"))
        ledger.settle(a_settlement(an_intent(request_id="late")))
        ledger.close_blocking()
    assert len(segments(crashed / JOURNAL)) == 1
    recovery, settled, _, _ = report(home, crashed)
    assert (settled, recovery.repeated, recovery.settlements) == (["late", "r0", "r1"], 1, 0)
    assert segments(crashed / JOURNAL) == []


def run_until_killed(directory, prefix, promises, url=""):
    """Run the crashing process, kill it after so many promises; return all the promises it made."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.router.ledger_crash", str(directory), prefix, url],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    lines = [process.stdout.readline() for _ in range(promises)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    # The last line may be cut: its promise was being made when the process died.
    whole = b"".join(lines) + rest
    return [line.decode().split() for line in whole.rpartition(b"\n")[0].splitlines()]


@pytest.mark.slow
def test_kill_9_loses_nothing_and_doubles_nothing(home, tmp_path):
    """Killed five times at random, restarted each time on what the last one left: every promise is kept."""
    chance = random.Random(20261122)
    promised = {"I": set(), "S": set(), "F": set(), "W": set()}
    for life in range(5):
        for kind, request_id in run_until_killed(
            tmp_path, f"life{life}", chance.randrange(1, 1_500), home.url(tmp_path)
        ):
            promised[kind].add(request_id)
    _, settled, interrupted, totals = report(home, tmp_path)
    assert len(settled) == len(set(settled))
    assert promised["S"] <= set(settled)
    assert promised["I"] <= set(settled) | set(interrupted)
    with home.read(tmp_path) as reader:
        judged = reader.feedback_for([*settled, *interrupted])
        (warms,) = reader.warms()
        noted = [found[0] for found in reader._connection.execute("SELECT warm_id FROM warms")]
    assert promised["W"] <= set(noted)
    assert len(set(noted)) == len(noted) == warms.used
    assert warms.cost_nano_usd == len(noted) * 4_000_000
    assert promised["F"] <= set(judged)
    assert promised["F"] & set(settled)
    assert promised["F"] & set(interrupted), "some were judged while they were open"
    assert all(len(said) == 1 for said in judged.values())
    assert not set(settled) & set(interrupted)
    assert interrupted, "every life leaves open calls"
    assert totals.calls == len(settled) + len(interrupted)
    assert totals.cost.total_nano_usd == len(settled) * 23_750_000
    assert totals.unknown_bound_nano_usd == len(interrupted) * 90_000_000
