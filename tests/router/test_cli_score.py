"""`hybrid-router score` and `evaluate`: the served code over files, with faults named by line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from classifier.dataset import DatasetError
from classifier.model import Model
from classifier.sample import Sample
from router.cli import app

ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "prompt": "turn off the lights",
        "kind": "assistant_command",
        "source": "x",
        "domain": "home",
    },
    {"id": "b", "prompt": "Prove that every finite integral domain is a field.", "kind": "open_complex"},
    {
        "id": "c",
        "prompt": "weather in Oslo",
        "tools": [{"name": "w"}],
        "system": "You help.",
        "scores": {"m": 1},
    },
]


def file_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_scores_are_the_served_ones(tmp_path: Path) -> None:
    """One line per request, in order, equal to what the router would say; what it does not know is ignored."""
    out = tmp_path / "scores.jsonl"
    source = file_of(tmp_path / "r.jsonl", ROWS)
    run = CliRunner().invoke(app, ["score", str(source), "--out", str(out), "--json"])
    assert run.exit_code == 0, run.output
    found = [json.loads(line) for line in out.read_text().splitlines()]
    model = Model.default()
    assert [row["id"] for row in found] == ["a", "b", "c"]
    assert found[0]["score"] == model.score(Sample.bounded(text=ROWS[0]["prompt"])).value
    assert (
        found[2]["score"]
        == model.score(
            Sample.bounded(text=ROWS[2]["prompt"], tools_offered_count=1, system_characters=9)
        ).value
    )
    assert found[1]["score"] > found[0]["score"]
    summary = json.loads(run.stdout)
    assert (summary["rows"], summary["model"]) == (3, model.digest)


def test_scores_on_standard_output_stand_alone(tmp_path: Path) -> None:
    """ "-" writes nothing but scores there: the summary goes to standard error."""
    source = file_of(tmp_path / "r.jsonl", ROWS)
    run = CliRunner().invoke(app, ["score", str(source), "--out", "-"])
    assert [set(json.loads(line)) for line in run.stdout.splitlines()] == [{"id", "score"}] * 3


def test_malformed_lines_stop_the_run_by_number_and_field(tmp_path: Path) -> None:
    """A prompt that is no text is refused with its line and field, and the exit code is not 0."""
    source = file_of(tmp_path / "r.jsonl", [ROWS[0], {"id": "b", "prompt": 7}])
    run = CliRunner().invoke(app, ["score", str(source), "--out", str(tmp_path / "s.jsonl")])
    assert run.exit_code != 0
    assert isinstance(run.exception, DatasetError)
    assert "line 2" in str(run.exception)
    assert "prompt" in str(run.exception)


def test_evaluate_judges_the_artifact_on_our_own_labels(tmp_path: Path) -> None:
    """Figures of the seed set and of kinds come as JSON; a missing subject is refused."""
    kinds = file_of(tmp_path / "k.jsonl", ROWS)
    labels = Path(__file__).parents[2] / "classifier" / "data" / "seed.jsonl"
    run = CliRunner().invoke(app, ["evaluate", str(labels), "--kinds", str(kinds), "--json"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["own"]["auroc"] > 0.85
    assert {row["kind"]: row["rows"] for row in report["kinds"]} == {
        "assistant_command": 1,
        "open_complex": 1,
    }
    assert CliRunner().invoke(app, ["evaluate"]).exit_code != 0


@pytest.mark.parametrize("leave_out", [[], ["--leave-out", "mmlu_pro"]])
def test_evaluate_judges_the_recipe_by_folds(tmp_path: Path, leave_out: list[str]) -> None:
    """With --cv the answers are scored by models that did not see them, beside length and (by folds) ridge."""
    rows = [
        {
            "id": f"q{n}",
            "source": "mmlu_pro",
            "prompt": f"Which of these is number {n}?\nA. {n}\nB. {n + 1}",
            "scores": {"gemini-1.5-flash-002": int(n % 3 > 0), "gpt-4o-2024-05-13": 1},
        }
        for n in range(60)
    ]
    answers = file_of(tmp_path / "a.jsonl", rows)
    run = CliRunner().invoke(app, ["evaluate", "--answers", str(answers), "--cv", "--json", *leave_out])
    assert run.exit_code == 0, run.output
    (figures,) = json.loads(run.stdout)["comparisons"]
    assert (figures["pair"], figures["source"], figures["rows"]) == ("flash15_gpt4o", "mmlu_pro", 60)
    assert 0.0 < figures["apgr"] < 1.5


def test_a_labelled_file_can_be_scored_as_it_is(tmp_path: Path) -> None:
    """Labels spell what was asked "text" or "prompt", as `train` reads them; a row with neither is named."""
    rows = [{"id": "a", "text": "turn off the lights", "label": 0, "group": "lights"}, ROWS[1]]
    out = tmp_path / "scores.jsonl"
    run = CliRunner().invoke(app, ["score", str(file_of(tmp_path / "r.jsonl", rows)), "--out", str(out)])
    assert run.exit_code == 0, run.output
    first = json.loads(out.read_text().splitlines()[0])
    assert first["score"] == Model.default().score(Sample.bounded(text="turn off the lights")).value
    run = CliRunner().invoke(
        app, ["score", str(file_of(tmp_path / "n.jsonl", [{"id": "a"}])), "--out", str(out)]
    )
    assert isinstance(run.exception, DatasetError)
    assert "line 1: Object missing required field `prompt` (or `text`)" in str(run.exception)
