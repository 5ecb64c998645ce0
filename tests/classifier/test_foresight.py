"""Foresight: chances that are chances, a planted law recovered, artifacts proved, and a gate that can say no."""

import json
from math import inf
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.array_file import ArtifactError
from classifier.artifact import MANIFEST_NAME
from classifier.foresight import artifact as artifacts
from classifier.foresight import evidence
from classifier.foresight.columns import ACTIVE, COLUMNS, active
from classifier.foresight.fitting import bent, fitted
from classifier.foresight.history import Turn, extended, history_of, opus_share
from classifier.foresight.model import Foresight
from classifier.foresight.retraining import Settings, TooFewTurns, retrain
from classifier.foresight.shelf import shelf_of
from classifier.foresight.table import Session, sessions_of, table_of
from classifier.foresight.windows import COUNT, EDGES_S, HORIZON_S, WINDOW_S, WINDOWS, chance_within
from tests.classifier.foresights import HAZARDS, STAYS, arrays_of, artifact_of, saying, sessions

chances = st.floats(0.0, 1.0)
windows = st.lists(chances, min_size=COUNT, max_size=COUNT)
spans = st.floats(0.0, 2.0 * HORIZON_S)
turns = st.builds(
    Turn,
    time_s=st.floats(0.0, 1e9),
    opus=st.booleans(),
    finish=st.sampled_from(["", "end_turn", "tool_call", "max_tokens", "refusal"]),
    score=st.none() | chances,
    input_tokens=st.none() | st.integers(0, 10**7),
    output_tokens=st.none() | st.integers(0, 10**6),
    duration_s=st.none() | st.floats(0.0, 1e5),
    application=st.text(max_size=8),
)
Z_SLACK = 1e-9


@pytest.fixture(scope="module")
def planted() -> Foresight:
    """Fitted on 500 sessions of the known law."""
    return Foresight(artifact_of(fitted(table_of(sessions(500)))))


@given(windows, windows, spans, spans, spans)
def test_chances_are_chances_and_grow_with_the_span(hazards, shares, span_s, more_s, idle_s):
    """Whatever the hazards: in [0, 1], never less for a longer span, and no more than on any route."""
    short = chance_within(hazards, shares, span_s, idle_s)
    longer = chance_within(hazards, shares, span_s + more_s, idle_s)
    anyhow = chance_within(hazards, [1.0] * COUNT, span_s, idle_s)
    assert 0.0 <= short <= longer + Z_SLACK <= 1.0 + Z_SLACK
    assert short <= anyhow + Z_SLACK


@given(windows, st.floats(0.0, 3000.0), st.floats(0.0, 3000.0))
def test_spans_laid_end_to_end_agree_with_the_whole(hazards, first_s, second_s):
    """P(within a + b) = P(within a) + P(not within a) P(within b | idle for a): one law, however it is asked."""
    sure = [1.0] * COUNT
    first = chance_within(hazards, sure, first_s)
    second = chance_within(hazards, sure, second_s, first_s)
    assert chance_within(hazards, sure, first_s + second_s) == pytest.approx(
        first + (1 - first) * second, abs=1e-6
    )


@settings(max_examples=50)
@given(st.lists(turns, min_size=1, max_size=12))
def test_every_history_has_one_bin_of_every_figure(seen):
    """Any turns, known or not, in any order of time: as many columns as figures, all of them there."""
    history = history_of(seen)
    found = active(history)
    assert len(found) == len(set(found)) == ACTIVE
    assert 0 <= min(found) <= max(found) < len(COLUMNS)
    assert found == sorted(found)
    forecast = saying(HAZARDS["end_turn"]).forecast(history)
    assert all(0.0 <= each <= 1.0 for each in (*forecast.hazards, *forecast.shares, opus_share(history)))


@given(st.lists(turns, min_size=1, max_size=6), st.integers(-(10**6), 10**6))
def test_only_differences_of_time_count(seen, shift_s):
    """A session moved in time is foreseen alike: nothing reads a clock."""
    whole = [turn._replace(time_s=float(int(turn.time_s))) for turn in seen]
    moved = [turn._replace(time_s=turn.time_s + shift_s) for turn in whole]
    assert active(history_of(whole)) == active(history_of(moved))


def test_served_one_by_one_as_all_at_once(planted):
    """What judges a model is what it serves: the same hazards to 1e-12, whichever code computes them."""
    some = sessions(20, seed=5)
    table = table_of(some)
    hazards, shares = evidence.chances_matrix(planted.artifact.arrays, table, routes_known=True)
    whole = evidence.keep_alive_matrix(hazards, shares)
    within = evidence.opus_within(hazards, shares, 3600.0)
    row = 0
    for session in some:
        history = None
        for turn in session.turns:
            history = extended(history, turn)
            forecast = planted.forecast(history)
            assert forecast.keep_alive_hazards() == pytest.approx(whole[row], abs=1e-12)
            assert forecast.opus_within(3600.0) == pytest.approx(within[row], abs=1e-9)
            row += 1
    assert row == len(table)


def test_the_planted_law_is_recovered(planted):
    """500 sessions teach the hazards by stop reason and the chance of staying on Opus, within .06."""
    for finish, law in HAZARDS.items():
        for opus, stays in STAYS.items():
            mean = np.zeros(3)
            seen = 0
            for session in sessions(120, seed=9):
                history = None
                for turn in session.turns:
                    history = extended(history, turn)
                    if turn.finish == finish and turn.opus is opus:
                        forecast = planted.forecast(history)
                        mean += (*forecast.hazards[:2], forecast.shares[0])
                        seen += 1
            assert mean / seen == pytest.approx((*law[:2], stays), abs=0.06)


def test_it_is_calibrated_on_sessions_it_has_not_seen(planted):
    """Calibration error under .05 for both TTLs, under .03 beyond chance, and ranked far better than by chance."""
    table = table_of(sessions(500, seed=3))
    hazards, shares = evidence.chances_matrix(planted.artifact.arrays, table, routes_known=True)
    asked = {span_s: evidence.opus_within(hazards, shares, span_s) for span_s in evidence.SPANS_S}
    found = evidence.figures(evidence.keep_alive_matrix(hazards, shares), table, seed=0, spans=asked)
    for span in found.spans:
        assert span.ece < 0.05
        assert span.ece - span.ece_by_chance < 0.03
    assert found.spans[0].auroc > 0.7


def test_a_shift_between_slices_is_bent_back(planted):
    """Returns foreseen far too seldom, as after a change of the traffic: bent to newer sessions they are right."""
    off = dict(planted.artifact.arrays)
    off["window_bases"] = off["window_bases"] - 1.5
    late = table_of(sessions(300, seed=2))
    errors = []
    for arrays in (off, bent(off, table_of(sessions(200, seed=4)))):
        hazards = evidence.chances_matrix(arrays, late, routes_known=True)
        errors.append(evidence.figures(evidence.keep_alive_matrix(*hazards), late, seed=0).spans[0].ece)
    assert errors[1] < 0.08 < 0.15 < errors[0]


def test_what_was_not_watched_is_not_taken_for_an_end():
    """Sessions cut ten minutes after each turn teach the same early hazards as sessions watched for a day."""
    cut = [
        Session(f"{session.name}.{place}", (turn,), turn.time_s + 600.0)
        for session in sessions(40)
        for place, turn in enumerate(session.turns)
    ]
    table = table_of(cut)
    assert table.at_risk(2).any()
    assert not table.at_risk(3).any()
    bases = fitted(table)["window_bases"]
    assert bases[3:] == pytest.approx(np.full(COUNT - 3, -3.476)), "nothing seen, so the prior stays"


def test_turns_on_flash_alone_leave_the_route_to_the_session():
    """A model that saw one route says nothing of routes: the session's own share does."""
    model = saying(HAZARDS["end_turn"], routes_known=False)
    history = history_of([Turn(0.0, True), Turn(10.0, False), Turn(20.0, False)])
    assert set(model.forecast(history).shares) == {0.5}
    assert saying(HAZARDS["end_turn"]).forecast(history).shares[0] == pytest.approx(1.0)


def test_a_turn_on_flash_shifts_the_windows_of_the_prefix():
    """Foreseen from a turn on Flash, the prefix used 400 s before it has its first window in the past."""
    forecast = saying((0.5,) * COUNT).forecast(history_of([Turn(0.0, True), Turn(400.0, False)]))
    shifted = forecast.keep_alive_hazards(400.0)
    assert shifted[0] == 0.0
    assert shifted[1] == pytest.approx(forecast.opus_within(2 * WINDOW_S - 400.0), abs=1e-9)
    assert len(shifted) == WINDOWS


def test_saved_is_what_is_loaded(tmp_path):
    """Arrays, manifest and digest survive the disk; the place holds one file of arrays."""
    first, second = artifact_of(arrays_of(HAZARDS["end_turn"])), artifact_of(arrays_of(HAZARDS["tool_call"]))
    for each in (first, second):
        artifacts.save(tmp_path, each)
        loaded = artifacts.load(tmp_path)
        assert loaded.digest == each.digest
        assert all(np.array_equal(loaded.arrays[name], each.arrays[name]) for name in artifacts.ARRAYS)
    assert len(list(tmp_path.glob("*.npz"))) == 1


def _edit(path, **changes):
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"column_version": 99}, "retrain it"),
        ({"format": "hybrid-router-classifier"}, "is of format"),
        ({"arrays_name": "../../weights.npz"}, "not of this format"),
        ({"arrays_sha256": "0" * 64}, "was changed"),
        ({"arrays_bytes": 3}, "bytes, the manifest says 3"),
        ({"more": 1}, "not a manifest"),
    ],
)
def test_a_tampered_manifest_is_refused(tmp_path, changes, said):
    """Another version, another kind, another file, another checksum: nothing is used."""
    artifacts.save(tmp_path, artifact_of(arrays_of(HAZARDS["end_turn"])))
    _edit(tmp_path / MANIFEST_NAME, **changes)
    with pytest.raises(ArtifactError, match=said):
        artifacts.load(tmp_path)


def test_tampered_arrays_are_refused(tmp_path):
    """A byte flipped, cut short, or arrays that are not finite or of another shape."""
    artifacts.save(tmp_path, artifact_of(arrays_of(HAZARDS["end_turn"])))
    (file,) = tmp_path.glob("*.npz")
    data = file.read_bytes()
    for wrong in (data[:-1], data[:50] + bytes([data[50] ^ 1]) + data[51:], b""):
        file.write_bytes(wrong)
        with pytest.raises(ArtifactError):
            artifacts.load(tmp_path)
    for name, array in (("window_bases", np.full(COUNT, np.nan)), ("route_bases", np.zeros(3))):
        with pytest.raises(ArtifactError):
            artifact_of(arrays_of(HAZARDS["end_turn"]) | {name: array})


def test_a_shelf_serves_only_what_is_named_after_its_digest(tmp_path):
    """Promoted, found, rolled back; edited where it stands, refused."""
    shelf = shelf_of(tmp_path)
    artifacts.save(tmp_path / "in", artifact_of(arrays_of(HAZARDS["end_turn"])))
    digest = shelf.add(tmp_path / "in")
    shelf.promote(digest, now_s=1.0, how="gate", reason="better")
    assert shelf.champion() == tmp_path / "foresight" / digest
    _edit(shelf.champion() / MANIFEST_NAME, created_time="later")
    with pytest.raises(ArtifactError, match="was changed or belongs elsewhere"):
        shelf.load(digest)
    assert shelf.rollback(now_s=2.0, reason="drill").digest == ""


def _blind(given, foreseen):
    """An online learner that knows the base rate of 5 minutes and believes what is foreseen half."""
    table = table_of(given)
    known = np.tile(evidence.base_rates(table), (len(table), 1))
    return known if foreseen is None else np.where(np.isnan(foreseen), known, (known + foreseen) / 2)


def test_a_better_candidate_passes_and_says_by_how_much(tmp_path):
    """Against a learner that does not look at turns the law wins; card, report and verdict say so."""
    found = retrain([sessions(300)], _blind, None, Settings(), "2026-11-23T00:00:00Z", ["made up"])
    assert found.passed, found.conditions
    gain = found.report["gains"]["online"]
    assert 0.0 < gain["low"] < gain["mean"] < gain["high"]
    assert found.report["gains"]["blended over online"]["low"] > 0.0
    found.save(tmp_path)
    assert found.artifact.digest in (tmp_path / "MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "report.json").read_bytes())["passed"] is True
    again = retrain([sessions(300)], _blind, None, Settings(), "2026-11-23T00:00:00Z", ["made up"])
    assert again.artifact.digest == found.artifact.digest, "equal sessions, equal candidate"


def test_a_candidate_that_learnt_noise_is_refused():
    """Against a learner that knows the law, half of what is judged having turned round since: exit through the gate."""

    def knowing(given, foreseen):
        law = {
            finish: evidence.keep_alive_matrix(np.asarray([hazards]), np.ones((1, COUNT)))[0]
            for finish, hazards in HAZARDS.items()
        }
        return np.vstack([law[turn.finish] * STAYS[turn.opus] for each in given for turn in each.turns])

    random = Random(0)
    swapped = {"tool_call": "end_turn", "end_turn": "tool_call"}
    seen = [
        session._replace(turns=tuple(t._replace(finish=swapped[t.finish]) for t in session.turns))
        if number < 150 and random.random() < 0.9
        else session
        for number, session in enumerate(sessions(300))
    ]
    found = retrain([seen], knowing, None, Settings(), "2026-11-23T00:00:00Z")
    assert not found.passed
    assert "gain" in found.reason


def test_a_champion_is_not_replaced_by_a_worse_one(planted):
    """The law itself serves; a candidate from few sessions of another law is refused for it."""
    other = [s._replace(turns=tuple(t._replace(finish="") for t in s.turns)) for s in sessions(160, seed=8)]
    found = retrain([[*other, *sessions(140, seed=12)]], _blind, planted, Settings(), "2026-11-23T00:00:00Z")
    assert "champion" in found.reason


def test_too_few_sessions_are_said_with_their_number():
    """A log that cannot carry a model makes none."""
    with pytest.raises(TooFewTurns, match="needs at least 60 sessions of two turns or more, the log has"):
        retrain([sessions(20)], _blind, None, Settings(), "")
    with pytest.raises(TooFewTurns, match="late returns"):
        retrain([[s._replace(turns=s.turns[:2]) for s in sessions(100)]], _blind, None, Settings(), "")


def test_turns_are_gathered_by_session_and_time():
    """In any order in, in order of time out; what nobody came back to is censored at the end of the log."""
    found = sessions_of([("b", Turn(5.0, True)), ("a", Turn(9.0, True)), ("a", Turn(1.0, False))])
    assert [(each.name, [turn.time_s for turn in each.turns]) for each in found] == [
        ("a", [1.0, 9.0]),
        ("b", [5.0]),
    ]
    table = table_of(found)
    assert table.gaps_s.tolist() == [8.0, inf, inf]
    assert table.watched_s.tolist() == [8.0, 0.0, 4.0]
    assert EDGES_S[1] > 8.0
    assert not table.at_risk(0).tolist()[1]
