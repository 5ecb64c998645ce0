"""Calls as Parquet and back, and the verbs that keep a ledger: what is written is all there was, typed and exact."""

import sqlite3

import pytest
from typer.testing import CliRunner

from router.archive import COLUMNS, ArchiveExists, archived, export
from router.cli import app
from router.config import ConfigError
from router.ledger import DATABASE, Filter, Ledger, LedgerReader
from router.ledger.health import faults
from router.ledger.past import past_costs, whole_days
from router.ledger.sqlite import SqliteStore
from tests.router.ledger_samples import START_S, StillClock, an_intent
from tests.router.report_calls import KINDS_OF_CALLS, book

parquet = pytest.importorskip("pyarrow.parquet")
DAY_S = 86_400.0


@pytest.fixture
def directory(tmp_path):
    """A ledger with every kind of call, and an interrupted one."""
    book(tmp_path / "ledger", *KINDS_OF_CALLS)
    lost = Ledger.open(tmp_path / "ledger", clock=StillClock())
    lost.journal_intent(an_intent(request_id="lost", started_time_s=START_S + 5))
    lost.close_blocking()
    Ledger.open(tmp_path / "ledger", clock=StillClock()).close_blocking()
    return tmp_path / "ledger"


def ran(*arguments):
    """Run a verb; (exit code or the error it names, output)."""
    found = CliRunner().invoke(app, list(map(str, arguments)))
    return found.exception if found.exit_code == 1 and found.exception else found.exit_code, found.output


def rows(directory):
    """Every column of every call, by start."""
    connection = sqlite3.connect(directory / DATABASE)
    asked = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM calls ORDER BY started_time_s, id")
    found = [dict(zip(COLUMNS, row, strict=True)) for row in asked]
    connection.close()
    return found


def test_a_column_of_the_ledger_is_a_column_of_the_file(directory):
    """None is forgotten when the tables get another."""
    connection = sqlite3.connect(directory / DATABASE)
    there = {row[1] for row in connection.execute("PRAGMA table_info(calls)")} - {"id"}
    connection.close()
    assert there == set(COLUMNS)


@pytest.mark.parametrize("page", [1, 3, 4_000])
def test_what_is_written_is_what_was_there(directory, tmp_path, monkeypatch, page):
    """Money to the nano-USD, unknown as null, records as settlements; whatever the page."""
    monkeypatch.setattr("router.archive.PAGE_ROWS", page)
    told = []
    with LedgerReader.open(directory / DATABASE) as reader:
        count, files = export(reader, tmp_path / "c.parquet", Filter(), tell=lambda *seen: told.append(seen))
        settlements = list(reader.settlements())
    table = parquet.read_table(tmp_path / "c.parquet")
    assert [row | {"record": row["record"].encode()} for row in table.to_pylist()] == rows(directory)
    assert (count, files) == (len(KINDS_OF_CALLS) + 1, [tmp_path / "c.parquet"])
    assert told[-1] == (count, count)
    assert {str(table.schema.field(name).type) for name in COLUMNS if name.endswith("_nano_usd")} == {"int64"}
    assert list(archived(tmp_path / "c.parquet")) == settlements


def test_a_folder_gets_a_file_a_day(directory, tmp_path):
    """By the start of the call, UTC; a window takes what begins in it."""
    with LedgerReader.open(directory / DATABASE) as reader:
        _, files = export(reader, tmp_path / "days", Filter())
        _, later = export(reader, tmp_path / "later", Filter(since_s=START_S + DAY_S))
    assert [str(path.relative_to(tmp_path / "days")) for path in files] == [
        "day=2026-11-22/calls.parquet",
        "day=2026-11-23/calls.parquet",
    ]
    assert [each.intent.request_id for each in archived(files[1])] == ["missed"]
    assert [path.parent.name for path in later] == ["day=2026-11-23"]


def test_a_file_is_replaced_when_asked_and_whole_or_not_at_all(directory, tmp_path, monkeypatch):
    """A file that is there stays as it was, also when writing its successor fails."""
    out = tmp_path / "c.parquet"
    out.write_bytes(b"mine")
    with LedgerReader.open(directory / DATABASE) as reader:
        with pytest.raises(ArchiveExists, match="--force"):
            export(reader, out, Filter())
        monkeypatch.setattr("router.archive.PAGE_ROWS", 2)

        def breaking(done, whole):
            if done > 4:
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            export(reader, out, Filter(), force=True, tell=breaking)
        assert (out.read_bytes(), list(tmp_path.glob(".*"))) == (b"mine", [])
        with pytest.raises(ConfigError, match="not a file of calls"):
            list(archived(out))
        export(reader, out, Filter(), force=True)
    assert len(list(archived(out))) == len(KINDS_OF_CALLS)


def test_pruning_exports_first_and_keeps_the_sums(directory, tmp_path):
    """What goes is in the files; what it cost is in the sums; a dry run says so and does nothing."""
    asked = ("ledger", "prune", "--before", "2026-11-23", "--ledger", directory, "--quiet")
    gone = len(KINDS_OF_CALLS)
    assert ran(*asked, "--dry-run") == (
        0,
        f"{gone} calls from before 2026-11-23, $0.530000000, would be moved into sums\n",
    )
    assert len(rows(directory)) == gone + 1
    code, said = ran(*asked, "--export", tmp_path / "out")
    assert (code, said) == (
        0,
        f"{gone} calls from before 2026-11-23, $0.530000000, are kept as sums by day\n",
    )
    assert [row["request_id"] for row in rows(directory)] == ["missed"]
    assert parquet.read_metadata(tmp_path / "out/day=2026-11-22/calls.parquet").num_rows == gone
    with LedgerReader.open(directory / DATABASE) as reader:
        (past,) = reader.ask(past_costs)
    assert (past.calls, past.cost.total_nano_usd) == (gone, 530_000_000)
    code, said = ran("ledger", "check", "--ledger", directory)
    assert code == 0
    assert f"{gone}  calls kept as sums by day, from before 2026-11-23" in said


def test_pruning_that_broke_off_does_not_replace_its_files_by_the_rest(directory, tmp_path):
    """Part of a day is in sums by then: its file is all that is left of it, whatever is forced."""
    asked = (
        "ledger",
        "prune",
        "--before",
        "2026-11-23",
        "--ledger",
        directory,
        "--quiet",
        "--export",
        tmp_path,
    )
    file = tmp_path / "day=2026-11-22/calls.parquet"
    with LedgerReader.open(directory / DATABASE) as reader:
        export(reader, tmp_path, Filter(until_s=whole_days(START_S + DAY_S)))
    whole = file.read_bytes()
    ledger = Ledger.open(directory, clock=StillClock())
    assert 0 < ledger.prune_blocking(whole_days(START_S + DAY_S), limit=1) < len(KINDS_OF_CALLS)
    ledger.close_blocking()
    for forced in ((), ("--force",)):
        error, _ = ran(*asked, *forced)
        assert isinstance(error, ArchiveExists)
        assert file.read_bytes() == whole
    assert ran(*asked[:-2])[0] == 0, "without files it goes on"
    assert file.read_bytes() == whole


def test_a_running_router_prunes_for_itself(directory):
    """It holds the ledger; the refusal names the setting."""
    running = Ledger.open(directory, clock=StillClock())
    error, _ = ran("ledger", "prune", "--before", "2026-11-23", "--ledger", directory)
    running.close_blocking()
    assert isinstance(error, ConfigError)
    assert "keep_days under [ledger]" in str(error)


@pytest.mark.parametrize(
    "asked",
    [
        (),
        ("--before", "2026-11-01", "--older-than", "9d"),
        ("--before", "2026-11-01T10:00"),
        ("--before", "9999-01-01"),
        ("--older-than", "soon"),
    ],
)
def test_what_to_prune_is_said_once_and_in_whole_days(directory, asked):
    """Anything else is refused by name, and nothing goes."""
    error, _ = ran("ledger", "prune", *asked, "--ledger", directory)
    assert isinstance(error, ConfigError)
    assert len(rows(directory)) == len(KINDS_OF_CALLS) + 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            "UPDATE calls SET cost_nano_usd = cost_nano_usd + 1 WHERE request_id = 'plain'",
            "parts are not their cost",
        ),
        ("UPDATE calls SET role = 'answer' WHERE request_id = 'again'", "answers that another try followed"),
        ("DELETE FROM calls WHERE request_id = 'missed'", "misses of calls that are not there"),
        ("UPDATE calls SET cache_read_tokens = 9e9 WHERE request_id = 'plain'", "read and wrote more than"),
        ("INSERT INTO pruned VALUES (1, 86400.0, 3)", "3 calls were moved into sums and 0 are in them"),
        ("INSERT INTO intents VALUES ('plain', 1, x'00')", "settled and open at once"),
    ],
)
def test_what_disagrees_is_named(directory, wrong, said):
    """Each fault by itself, with a request to look at; a ledger that agrees has none."""
    assert ran("ledger", "check", "--ledger", directory)[0] == 0
    SqliteStore(directory / DATABASE, START_S).close()
    connection = sqlite3.connect(directory / DATABASE)
    connection.execute(wrong)
    connection.commit()
    assert len(faults(connection)) == (0 if "pruned" in wrong else 1)
    connection.close()
    _, output = ran("ledger", "check", "--ledger", directory)
    assert said in output
    assert "WRONG" in output
