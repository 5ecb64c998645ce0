"""A foresight in replay: what it is fitted on comes before all that it is judged by, and what it brings is told."""

import json
from fractions import Fraction

import pytest
from typer.testing import CliRunner

from cache.economics import Rates
from classifier.foresight import artifact as artifacts
from router.bursts import Bursts, bursts
from router.cli import app
from router.foresight_log import trace_sessions
from router.replay import Policy, Settings, decision, replay
from router.replay_choice import runs_of
from router.replay_foresight import cut_at, fitted_on
from router.replay_report import Tally
from router.replay_trace import in_order
from router.replay_warming import Warm, WarmSettings

LIST = Rates(1.25, 2.0, 0.1)
HALF = Fraction(1, 2)
ROWS = list(bursts(Bursts(requests_per_day=2000, days=1.0, seed=5)))
CUT = cut_at(ROWS, HALF)
FITTED = fitted_on(ROWS[: CUT.rows], "made up")


def served(rows, **changed):
    """Replayed with keep-alives by value."""
    warming = WarmSettings(**{"policy": Warm.AUTO, "foresight": FITTED} | changed)
    return list(replay(rows, Policy.AUTO, Settings(512, LIST, "claude-opus-5", warming=warming)))


def test_the_cut_falls_between_what_is_fitted_on_and_what_is_judged():
    """By time in one recording, and between recordings where there are several; nothing is on both sides."""
    assert CUT.requests + CUT.judged == len(ROWS)
    assert not any(CUT.judges(row) for row in ROWS[: CUT.rows])
    assert all(CUT.judges(row) for row in ROWS[CUT.rows :])
    several = in_order(
        [row._replace(namespace=f"n{number}") for number in range(5) for row in ROWS[: 7 * (number + 1)]]
    )
    cut = cut_at(several, HALF)
    before, after = several[: cut.rows], several[cut.rows :]
    assert {row.namespace for row in before}.isdisjoint({row.namespace for row in after})
    assert len(before) >= len(several) / 2


@pytest.mark.parametrize("share", [Fraction(0), Fraction(1), Fraction(2)])
def test_a_cut_with_nothing_on_one_side_is_refused(share):
    """Nothing to fit on, or nothing to judge by."""
    with pytest.raises(ValueError, match="leaves no request"):
        cut_at(ROWS, share)


def test_what_comes_after_the_cut_has_no_part_in_it():
    """Equal beginnings give an equal foresight, to the bit, and it is one that can be kept."""
    again = fitted_on(list(ROWS[: CUT.rows]), "made up")
    assert again.digest == FITTED.digest
    assert fitted_on(ROWS[: CUT.rows - 300], "made up").digest != FITTED.digest


def test_turns_on_flash_are_turns_and_what_happens_between_them_is_none():
    """A history holds them with their scores; nothing is known of when a page was opened."""
    first = ROWS[0]
    rows = [
        first,
        first._replace(time_s=first.time_s + 5, sequence=1, opus=False, score=0.3),
        first._replace(time_s=first.time_s + 9, sequence=-1, event="upload_document"),
    ]
    (session,) = trace_sessions(rows)
    assert [(turn.opus, turn.score) for turn in session.turns] == [(True, None), (False, 0.3)]


def test_before_the_cut_it_says_nothing_and_after_it_does():
    """Decisions before are those without one; what is judged comes after."""
    plain = served(ROWS, foresight=None)
    cut = served(ROWS, foresight_from=CUT.begins)
    assert [decision(each) for each in cut[: CUT.rows]] == [decision(each) for each in plain[: CUT.rows]]
    assert all(each.p_foreseen is None for each in cut[: CUT.rows])
    assert all(each.p_foreseen is not None for each in cut[CUT.rows :] if each.p_next is not None)
    assert sum(each.p_foreseen is not None for each in cut) > 500
    assert any(each.p_foreseen is not None for each in served(ROWS[:60])), "without a cut it speaks at once"


def test_its_figures_are_of_the_part_after_the_cut():
    """Chances, and which of them were the better ones; here waits are known, and it has seen them end."""
    tally = Tally(Policy.AUTO, LIST, partial=True)
    for each in served(ROWS, foresight_from=CUT.begins):
        if CUT.judges(each.row):
            tally.add(each)
    found = tally.figures()
    assert found.requests == CUT.judged
    assert found.foreseen.requests == found.next_turn.requests > 500
    for chances in (found.foreseen, found.next_turn):
        assert 0 <= chances.ece <= 1
        assert chances.auroc > 0.5
        assert chances.brier < 0.25
    told = found.to_dict()
    assert told["p_foreseen_5m"]["auroc"] == found.foreseen.auroc


def test_ways_that_a_foresight_has_no_part_in_are_replayed_once():
    """The others twice, side by side."""
    runs = runs_of(None, [Warm.OFF, Warm.AUTO, Warm.KEEP_ALIVE], False, foresight=True)
    assert [run.name for run in runs] == [
        "auto",
        "auto + auto",
        "auto + auto + foresight",
        "auto + keep_alive",
    ]
    with pytest.raises(ValueError, match="has a part in"):
        runs_of(None, [Warm.OFF], False, foresight=True)


# --- the command


def invoked(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)], env={"COLUMNS": "80"})


SMALL = ("--workload", "winning", "--requests-per-day", 1600, "--days", 1, "--warm", "auto")


def test_one_is_fitted_on_a_first_part_and_judged_on_the_rest():
    """With and without, and in so many words."""
    result = invoked(*SMALL, "--fit-foresight", "55%")
    assert result.exit_code == 0, result.output
    for said in (
        "auto + auto +",
        "foresight alone",
        "learnt online",
        "both, as used",
        "AUROC",
        "says nothing before",
    ):
        assert said in " ".join(result.stdout.split())


def test_a_trained_one_is_named_by_its_directory(tmp_path):
    """As `retrain` leaves it; all of the traffic is judged, and the bound is that of the traffic."""
    artifacts.save(tmp_path, FITTED.artifact)
    result = invoked(*SMALL, "--requests-per-day", 300, "--foresight", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    plain, foreseen = report["policies"]
    assert foreseen["policy"] == "auto + auto + foresight"
    assert plain["p_foreseen_5m"]["requests"] == 0 < foreseen["p_foreseen_5m"]["requests"]
    assert plain["requests"] == foreseen["requests"]
    assert foreseen["bound_units"] == plain["bound_units"] > 0
    assert FITTED.digest in report["notes"][0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--fit-foresight", "half"), "is not a percentage"),
        (("--fit-foresight", "100%"), "leaves no request"),
        (("--fit-foresight", "5%"), "at least 60 sessions"),
        (("--fit-foresight", "50%", "--foresight", "."), "give one of them"),
        (("--foresight", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_had_is_refused(options, says):
    """With a sentence that says why."""
    result = invoked(*SMALL, "--requests-per-day", 300, *options)
    assert result.exit_code != 0
    assert says in str(result.exception)
