"""Foresight in the router: histories bounded, champions followed, and training that sees what serving sees."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cache.returns
from classifier.artifact import MANIFEST_NAME
from classifier.foresight import artifact as artifacts
from classifier.foresight import windows
from classifier.foresight.history import Turn, history_of
from classifier.foresight.shelf import shelf_of
from classifier.registry import HISTORY_NAME
from router.cli import app
from router.config import ConfigError
from router.foresight import Foreseer, Foresights, turn_of
from router.foresight_log import learnt_online, logged_sessions, trace_sessions, turn_of_logged
from router.ledger import Ledger
from router.replay_trace import read_trace
from router.settlement import DecisionRecord
from router.training_log import from_ledger, from_parquet, write_parquet
from router.usage import Usage
from tests.classifier.foresights import HAZARDS, arrays_of, artifact_of, saying, sessions
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent


def test_both_sides_mean_the_same_windows():
    """The core packages may not import each other, so their windows are held equal here."""
    assert windows.WINDOW_S == cache.returns.WINDOW_S
    assert windows.WINDOWS == cache.returns.WINDOWS


def test_histories_are_bounded_and_go_by_the_name_that_changes():
    """The longest unused session goes first; one without a name is carried from prefix to prefix."""
    foreseer = Foreseer(saying(HAZARDS["end_turn"]), max_sessions=3)
    for number in range(100):
        foreseer.answered(("acme", f"s{number}"), Turn(float(number), True))
    assert len(foreseer) == 3
    foreseer.answered(b"one", Turn(0.0, True))
    foreseer.answered(b"two", Turn(9.0, True), b"one")
    assert foreseer.opus_within(b"one", 300.0, 9.0) is None
    expected = foreseer.model.forecast(history_of([Turn(0.0, True), Turn(9.0, True)])).opus_within(300.0, 5.0)
    assert foreseer.opus_within(b"two", 300.0, 14.0) == expected
    assert len(foreseer) == 3


def test_without_a_model_nothing_is_foreseen():
    """Histories are kept, for the model that may come; what is given is None."""
    foreseer = Foreseer(None)
    assert foreseer.answered("s", Turn(0.0, True)) is None
    assert foreseer.opus_within("s", 300.0, 1.0) is None
    assert foreseer.digest == ""


def test_models_lists_foresights_and_names_those_that_cannot_be_used(tmp_path):
    """Beside the classifiers, the champion first; a damaged one ends with exit code 1, as a damaged classifier does."""
    registry = tmp_path / "models"
    for note in ("a", "b"):
        artifacts.save(tmp_path / note, artifact_of(arrays_of(HAZARDS["end_turn"]), note=note))
    shelf = shelf_of(registry)
    first, second = (shelf.add(tmp_path / note) for note in ("a", "b"))
    shelf.promote(second, now_s=START_S, how="force", reason="by hand")
    found = CliRunner().invoke(app, ["models", "--registry", str(registry), "--json"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.stdout)["foresights"]
    assert [(row["digest"], row["champion"], row["turns"]) for row in rows] == [
        (second, True, 1),
        (first, False, 1),
    ]
    (shelf.path / first / rows_file(shelf.path / first)).write_bytes(b"damaged")
    shown = CliRunner().invoke(app, ["models", "--registry", str(registry)])
    assert shown.exit_code == 1
    assert "unusable" in shown.stdout
    assert second in shown.stdout


def rows_file(directory: Path) -> str:
    """Name of the file of arrays."""
    return json.loads((directory / MANIFEST_NAME).read_text())["arrays_name"]


def _shelved(registry: Path, note: str) -> str:
    artifacts.save(registry / note, artifact_of(arrays_of(HAZARDS["end_turn"]), note=note))
    return shelf_of(registry).add(registry / note)


async def test_a_new_champion_is_followed_and_a_damaged_one_is_not(tmp_path, caplog):
    """No champion: nothing. One promoted beside the process: it foresees. The next one damaged: the old one goes on."""
    found = Foresights("default", registry=str(tmp_path))
    assert found.changes
    assert found.foreseer.model is None
    assert await found.follow() is False
    shelf, first, second = shelf_of(tmp_path), _shelved(tmp_path, "a"), _shelved(tmp_path, "b")
    shelf.promote(first, now_s=1.0, how="gate", reason="")
    assert await found.follow() is True
    assert found.foreseer.digest == first
    shelf.promote(second, now_s=2.0, how="gate", reason="")
    (shelf.path / second / "manifest.json").write_text("{}")
    assert await found.follow() is False
    assert found.foreseer.digest == first
    assert "cannot be used and the old one goes on" in caplog.text
    shelf.rollback(now_s=3.0, reason="drill")
    assert await found.follow() is False, "the same model as before"


def test_settings_name_what_foresees(tmp_path):
    """A directory, off, and what cannot be used is refused at the start."""
    artifacts.save(tmp_path / "m", artifact_of(arrays_of(HAZARDS["end_turn"])))
    assert Foresights(str(tmp_path / "m")).foreseer.digest
    assert Foresights("off", registry=str(tmp_path)).foreseer.model is None
    assert not Foresights("off", registry=str(tmp_path)).changes
    with pytest.raises(ConfigError, match=r"warming\.foresight"):
        Foresights(str(tmp_path / "none"))
    shelf_of(tmp_path).path.mkdir()
    (shelf_of(tmp_path).path / HISTORY_NAME).write_text("nonsense")
    with pytest.raises(ConfigError, match="not a history"):
        Foresights("default", registry=str(tmp_path))


def _booked(directory: Path, made) -> list[Turn]:
    """Sessions as calls of a ledger; the turns that a router would have seen."""
    ledger, seen = Ledger.open(directory, clock=StillClock()), []
    for session in made:
        for place, turn in enumerate(session.turns):
            route = "opus" if turn.opus else "flash"
            intent = an_intent(
                request_id=f"{session.name}.{place}",
                route=route,
                session=session.name,
                application=turn.application,
                started_time_s=START_S + turn.time_s,
            )
            decision = DecisionRecord(
                route=route,
                reason="score_above_threshold",
                score=turn.score,
                threshold=0.5,
                propensity=1.0,
                model_digest="m",
                expected_flash_nano_usd=None,
                expected_opus_nano_usd=None,
            )
            settlement = a_settlement(
                intent,
                settled_time_s=START_S + turn.time_s + 5.0,
                duration_s=turn.duration_s,
                finish_reason=turn.finish,
                usage=Usage(input_tokens=turn.input_tokens, output_tokens=turn.output_tokens),
                decision=decision,
            )
            ledger.journal_intent(intent)
            ledger.settle(settlement)
            seen.append(turn_of(settlement, turn.score))
    ledger.close_blocking()
    return seen


def test_a_turn_of_the_ledger_is_the_turn_that_was_served(tmp_path):
    """What a foresight is trained on is what it is asked with, to the field; through Parquet as well."""
    served = _booked(tmp_path / "ledger", sessions(8))
    rows = list(from_ledger(tmp_path / "ledger"))
    assert sorted(map(turn_of_logged, rows)) == sorted(served)
    write_parquet(tmp_path / "rows.parquet", rows)
    assert [turn_of_logged(row) for row in from_parquet(tmp_path / "rows.parquet")] == [
        turn_of_logged(row) for row in rows
    ]
    assert {len(each.turns) for each in logged_sessions(rows)} == {len(each.turns) for each in sessions(8)}


def test_what_is_learnt_online_never_looks_ahead():
    """Hazards of a turn are the same whether or not anything came after it, and a foresight changes them."""
    whole = sessions(60, spacing_s=60.0)
    until_s = 1_800.0
    cut = [
        session._replace(turns=tuple(turn for turn in session.turns if turn.time_s < until_s))
        for session in whole
    ]
    early = learnt_online([session for session in cut if session.turns], None)
    late, row = learnt_online(whole, None), 0
    kept = []
    for session in whole:
        kept += [row + place for place, turn in enumerate(session.turns) if turn.time_s < until_s]
        row += len(session.turns)
    opus = [turn.opus for session in cut for turn in session.turns]
    assert [list(late[number]) for number, on in zip(kept, opus, strict=True) if on] == [
        list(each) for each, on in zip(early, opus, strict=True) if on
    ]


def test_traces_are_sessions(tmp_path):
    """Streams are conversations; one namespace was watched to its last request, several each to its end."""
    rows = [
        {"ns": ns, "session": ns, "stream": stream, "seq": seq, "t": t, "in": 640, "out": 9, "bs": 64}
        | {"blocks": [[0, 10]], "model": "m", "stop": "tool_use", "api_s": 2.5}
        for ns, stream, seq, t in [
            ("a", "main", 0, 5.0),
            ("a", "main", 1, 25.0),
            ("a", "x", 0, 6.0),
            ("b", "main", 0, 0.0),
        ]
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = {each.name: each for each in trace_sessions(read_trace(path))}
    assert set(found) == {"a/a/main", "a/a/x", "b/b/main"}
    first = found["a/a/main"]
    assert [turn.time_s for turn in first.turns] == [0.0, 20.0]
    assert {(turn.finish, turn.duration_s, turn.opus) for turn in first.turns} == {("tool_call", 2.5, True)}
    assert first.until_s == 20.0 + 7200.0
    assert found["b/b/main"].turns[0].time_s > first.until_s
    path.write_text("\n".join(map(json.dumps, rows[:3])))
    assert {each.until_s for each in trace_sessions(read_trace(path))} == {20.0}


def run(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_one_command_from_a_ledger_to_a_champion(tmp_path):
    """Sessions of a ledger in, a judged foresight in the registry out, and it serves; the gate says the exit code."""
    _booked(tmp_path / "ledger", sessions(220))
    found = run(
        "retrain", "--only", "foresight", "--ledger", tmp_path / "ledger", "--registry", tmp_path / "m",
        "--promote", "--json",
    )  # fmt: skip
    report = json.loads(found.stdout)["foresight"]
    assert found.exit_code == (0 if report["passed"] else 3), found.output
    assert report["passed"], report["conditions"]
    assert set(report["figures"]) == {"candidate", "online", "blended", "base rate"}
    assert report["gains"]["online"]["low"] >= 0.0
    assert Foresights("default", registry=str(tmp_path / "m")).foreseer.digest == report["candidate"]


def test_a_ledger_without_sessions_carries_none(tmp_path):
    """Exit code 4 and the counts."""
    _booked(tmp_path / "ledger", sessions(3))
    found = run(
        "retrain", "--only", "foresight", "--ledger", tmp_path / "ledger", "--registry", tmp_path / "m"
    )
    assert found.exit_code == 4
    assert "needs at least 60 sessions" in found.stderr


def test_a_trace_fits_no_classifier():
    """Outcomes are not in it, and that is said."""
    found = run("retrain", "--trace", "x.jsonl")
    assert found.exit_code != 0
