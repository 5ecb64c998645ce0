"""`replay` as a check in CI: exit code 1 above the allowed increase, 2 where nothing compares; and its picture."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from router import picture
from router.cli import app
from router.cli.fault import reported
from router.config import ConfigError
from router.picture import drawable
from router.replay_check import CostLine, compare, increase, saved_line
from tests.router.test_replay import ROWS, as_json_row

LINE = CostLine("auto", 10, 1000, 500.0, 100.0)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(as_json_row(found)) + "\n" for found in ROWS))
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(-100, 500))
def test_it_passes_iff_the_increase_is_within_the_limit(now, before, percent):
    """Exactly, without rounding; no cost before allows none now."""
    found = compare(LINE._replace(cost_units=now), LINE._replace(cost_units=before), Fraction(percent, 100))
    assert found.passed == (Fraction(now) <= Fraction(before) * (1 + Fraction(percent, 100)))
    assert ("within" in found.message) == found.passed


@pytest.mark.parametrize(
    ("text", "share"), [("3%", Fraction(3, 100)), ("0.5 %", Fraction(1, 200)), ("-2%", Fraction(-1, 50))]
)
def test_a_limit_is_a_percentage(text, share):
    """Negative asks for a decrease."""
    assert increase(text) == share


@pytest.mark.parametrize("text", ["3", "0.03", "three%", "%", "inf%", "nan%", "1/0%", "1e999999999%"])
def test_what_is_no_percentage_is_refused(text):
    """A bare number could be a share or a percentage."""
    with pytest.raises(ValueError, match="is not a percentage"):
        increase(text)
    with pytest.raises(ValueError, match="more than anything"):
        increase("9" * 400 + "%")


@pytest.mark.parametrize("change", [{"requests": 11}, {"tokens": 999}, {"bound_units": 99.0}])
def test_other_traffic_or_rates_are_not_compared(change):
    """A trace that grew is no regression of the planner, nor is a price."""
    with pytest.raises(ValueError, match="the baseline is of"):
        compare(LINE, LINE._replace(**change), Fraction(0))


def test_a_report_without_a_bound_is_still_compared():
    """One saved by an earlier release has none."""
    assert compare(LINE, LINE._replace(bound_units=None), Fraction(0)).passed


def test_against_a_saved_report(trace, tmp_path):
    """The same again passes at 0 %; a cheaper baseline fails the build and says by how much."""
    report = invoke(trace, "--policy", "auto", "--policy", "5m", "--json").stdout
    saved = tmp_path / "baseline.json"
    saved.write_text(report)
    same = invoke(trace, "--policy", "auto", "--baseline", saved, "--max-cost-increase", "0%")
    assert same.exit_code == 0
    assert "+0.00%, within the 0.00% allowed" in same.stderr
    tree = json.loads(report)
    tree["policies"][0]["cost_units"] /= 1.05
    saved.write_text(json.dumps(tree))
    dearer = invoke(trace, "--policy", "auto", "--baseline", saved, "--max-cost-increase", "3%", "--json")
    assert dearer.exit_code == 1
    assert "+5.00%, more than the 3.00% allowed" in dearer.stderr
    assert json.loads(dearer.stdout)["policies"][0]["policy"] == "auto"
    assert invoke(trace, "--policy", "auto", "--baseline", saved, "--max-cost-increase", "6%").exit_code == 0


def test_against_the_second_policy(trace):
    """No caching costs more than 5m on agents, and 5m less than none."""
    dearer = invoke(trace, "--policy", "none", "--policy", "5m", "--max-cost-increase", "3%")
    assert dearer.exit_code == 1
    assert "input cost of none" in dearer.stderr
    assert "baseline 5m" in dearer.stderr
    assert invoke(trace, "--policy", "5m", "--policy", "none", "--max-cost-increase", "0%").exit_code == 0


def test_regret_is_in_the_report(trace):
    """Cost above the bound, as a share of no caching; the bound is the same under every policy."""
    found = json.loads(invoke(trace, "--policy", "auto", "--policy", "none", "--json").stdout)["policies"]
    assert found[0]["bound_units"] == found[1]["bound_units"] < found[0]["cost_units"]
    for each in found:
        above = (each["cost_units"] - each["bound_units"]) / each["input_tokens"]
        assert each["regret"] == pytest.approx(above)
    assert "regret" in invoke(trace).stdout


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--max-cost-increase", "3%"), "needs something to compare with"),
        (("--baseline", "saved.json"), "--baseline goes with --max-cost-increase"),
        (("--max-cost-increase", "lots", "--policy", "a", "--policy", "b"), "is not a percentage"),
        (("--plot", "picture.jpg"), "ends in .png"),
        (("--plot", "nowhere/picture.png"), "no such directory"),
    ],
)
def test_what_cannot_be_compared_or_drawn_is_refused_before_the_run(trace, options, why, capsys):
    """Exit code 2 and one line; nothing was replayed."""
    with pytest.raises(SystemExit) as ended, reported():
        app(["replay", str(trace), *options])
    assert ended.value.code == 2
    written = capsys.readouterr()
    assert why in written.err
    assert written.out == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{}", "no report of replay --json"),
        ("[]", "no report of replay --json"),
        ("nonsense", "no report of replay --json"),
        ('{"policies": [{"policy": "auto"}]}', "no report of replay --json"),
        (
            '{"policies": [{"policy": "auto", "requests": 1, "input_tokens": 1, "cost_units": Infinity}]}',
            "is not a number",
        ),
        (
            '{"policies": [{"policy": "auto", "requests": Infinity, "input_tokens": 1, "cost_units": 1}]}',
            "no report of replay --json",
        ),
        ('{"policies": []}', "has no policy 'auto', but none"),
        (
            '{"policies": [{"policy": "5m", "requests": 1, "input_tokens": 1, "cost_units": 1}]}',
            "has no policy 'auto', but 5m",
        ),
    ],
)
def test_a_baseline_that_is_none_is_refused(tmp_path, text, why):
    """Named with its file."""
    path = tmp_path / "baseline.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=why):
        saved_line(path, "auto")


def test_a_picture_is_drawn(trace, tmp_path):
    """A PNG of a size fit to look at."""
    path = tmp_path / "replay.png"
    pytest.importorskip("matplotlib")
    assert invoke(trace, "--policy", "auto", "--policy", "none", "--plot", path).exit_code == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert (width, height) == (1200, 540)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    """Before the run, not after it."""
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hybrid-router\[plot\]"):
        drawable("--plot", tmp_path / "replay.png")
