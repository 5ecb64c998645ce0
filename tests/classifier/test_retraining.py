"""The loop on a drifted workload: outcomes improve the model, and what is worse is refused."""

import json
import warnings
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from classifier import artifact as artifacts
from classifier.artifact import Artifact
from classifier.dataset import read
from classifier.features import Features
from classifier.logged import collect
from classifier.model import Model
from classifier.registry import CARD_NAME, REPORT_NAME, Registry
from classifier.retraining import (
    RetrainingSettings,
    TooFewOutcomes,
    base_rows,
    calibrated,
    cost_rows,
    cut,
    judge_candidate,
    outcome_rows,
    retrain,
)
from classifier.scored import equal_cost_threshold, scored
from classifier.search import BASE, NoCluster, on_cluster, search
from classifier.training import SEED_PATH
from tests.classifier.drifted import served

CREATED_TIME = "2026-11-23T00:00:00Z"
SETTINGS = RetrainingSettings(grid=(BASE,), least_outcomes=60)


@pytest.fixture(scope="module")
def champion() -> Model:
    """The shipped model."""
    return Model.default()


@pytest.fixture(scope="module")
def log(champion):
    """2,400 requests that the shipped model served."""
    return collect(served(champion, 2_400))


@pytest.fixture(scope="module")
def base():
    """A part of the shipped labels."""
    rows = read(SEED_PATH)
    return replace(rows, rows=rows.rows[::3])


@pytest.fixture(scope="module")
def retrained(log, champion, base):
    """A candidate with its verdict."""
    return retrain(log, champion, base, SETTINGS, CREATED_TIME)


def test_retraining_improves_a_drifted_service(retrained, champion):
    """The verdict promises better quality at no higher cost, and fresh traffic with known truth keeps the promise."""
    assert retrained.verdict.passed, retrained.verdict.reason
    promised = retrained.report["evidence"]["quality"]["dr"]
    fresh = [
        np.mean([row.quality for row in served(model, 1_000, seed=9, start_s=1e6, explored=0.0, judged=1.0)])
        for model in (champion, retrained.candidate)
    ]
    gain = fresh[1] - fresh[0]
    assert gain > 0.1
    assert promised["low"] - 0.04 <= gain <= promised["high"] + 0.04
    held_out = retrained.report["held_out"]
    assert held_out["candidate"]["auroc_low"] > held_out["champion"]["auroc"]
    assert held_out["candidate"]["auroc"] > held_out["candidate"]["length_auroc"]


def test_the_report_says_what_was_read_and_how_it_was_cut(retrained, log):
    """Counts, window, slices by application and kind, and a curve of three scorers."""
    report = retrained.report
    assert report["log"]["requests"] == 2_400
    assert sum(report["log"]["rows"].values()) == len(log.labelled)
    assert {part["dimension"] for part in report["slices"]} == {"application", "kind"}
    assert {point["scores"] for point in report["curve"]} == {"candidate", "champion", "length"}
    assert [each["passed"] for each in report["verdict"]["conditions"]] == [True] * 5
    json.dumps(report)


def test_equal_logs_give_equal_candidates(retrained, log, champion, base):
    """Digest and verdict, to the last figure."""
    again = retrain(log, champion, base, SETTINGS, CREATED_TIME)
    assert again.candidate.digest == retrained.candidate.digest
    assert again.verdict == retrained.verdict


def test_a_deliberately_worse_candidate_is_refused(log, champion, retrained):
    """The good candidate turned upside down: refused for quality, calibration, slices and golden examples."""
    artifact = retrained.candidate.artifact
    names = ("ngram_weights", "name_weights", "structure_weights")
    arrays = {name: -array if name in names else array for name, array in artifact.arrays.items()}
    worse = Model(Artifact(manifest=artifact.manifest, digest="0" * 12, arrays=arrays))
    verdict, _ = judge_candidate(log, cut(log.labelled, SETTINGS), worse, champion, SETTINGS)
    failed = {each.name for each in verdict.conditions if not each.passed}
    assert {"quality", "calibration", "slices", "golden"} <= failed


def test_the_old_champion_is_refused_against_the_new_one(retrained, champion):
    """What the new model served, judged the other way round."""
    log = collect(served(retrained.candidate, 1_500, seed=5, start_s=2e6))
    verdict, _ = judge_candidate(log, cut(log.labelled, SETTINGS), champion, retrained.candidate, SETTINGS)
    assert "quality" in {each.name for each in verdict.conditions if not each.passed}


def test_without_exploration_nothing_is_promoted(champion, base):
    """The same drift, but the log cannot say what the other route would have done."""
    log = collect(served(champion, 1_600, explored=0.0))
    found = retrain(log, champion, base, SETTINGS, CREATED_TIME)
    assert not found.verdict.passed
    assert "without enough exploration, taken at its worst" in found.verdict.reason


def test_the_champion_against_itself_changes_nothing(log, champion):
    """No lift, no cost, no flip: what would refuse it is not there, but its own calibration may be poor."""
    verdict, report = judge_candidate(log, cut(log.labelled, SETTINGS), champion, champion, SETTINGS)
    assert report["evidence"]["quality"]["dr"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert {each.name for each in verdict.conditions if not each.passed} <= {"calibration"}


def test_the_candidate_costs_what_the_champion_does(retrained, log, champion):
    """Its threshold is the one of equal cost, found without looking at outcomes; the champion's own for itself."""
    rows = cost_rows(log, cut(log.labelled, SETTINGS))
    threshold = equal_cost_threshold(rows, retrained.candidate, champion)
    assert retrained.candidate.manifest.threshold == threshold
    shares, widest = {}, 1
    for model, at in ((retrained.candidate, threshold), (champion, champion.manifest.threshold)):
        scores = [model.score_features(Features.unpack(row.features)).value for row in rows]
        shares[model.digest] = sum(score >= at for score in scores)
        # Requests of the same words in another order score alike and fall on one side of the cut together.
        nearest = min(scores, key=lambda score, at=at: abs(score - at))  # type: ignore[misc]
        widest = max(widest, sum(abs(score - nearest) < 1e-9 for score in scores))
    assert abs(shares[champion.digest] - shares[retrained.candidate.digest]) <= widest
    blind = [msgspec.structs.replace(row, label=None, quality=None, weight=0.0, evidence="") for row in rows]
    assert equal_cost_threshold(blind, retrained.candidate, champion) == threshold
    other = [msgspec.structs.replace(row, threshold=0.123) for row in rows]
    assert equal_cost_threshold(other, retrained.candidate, champion) == threshold


def test_a_cut_of_the_operators_own_holds_for_both(log, champion, retrained):
    """Where a budget or a value moved the cut, the candidate's suggestion changes nothing."""
    rows = [msgspec.structs.replace(row, threshold=0.31) for row in log.labelled[:200]]
    found = scored(rows, retrained.candidate, champion)
    assert not found.suggested.any()
    assert found.one.tolist() == (found.candidate >= 0.31).tolist()
    forced = scored(
        [msgspec.structs.replace(row, threshold=None) for row in rows], retrained.candidate, champion
    )
    assert forced.one.tolist() == forced.other.tolist() == [row.opus for row in rows]


def test_too_few_outcomes_are_told_with_counts(champion):
    """Before anything is fitted."""
    log = collect(served(champion, 100))
    with pytest.raises(TooFewOutcomes, match="needs at least 60 outcomes of each label"):
        retrain(log, champion, None, SETTINGS, CREATED_TIME)


def test_a_log_of_one_long_session_is_told(log, champion, base):
    """Sessions are whole, so there is nothing of a later time to judge by: a sentence, not an index error."""
    rows = [msgspec.structs.replace(row, session="all") for row in log.labelled]
    with pytest.raises(TooFewOutcomes, match="of 1 sessions"):
        retrain(collect(rows), champion, base, SETTINGS, CREATED_TIME)


def test_slices_follow_time_and_keep_sessions_whole(log):
    """Earlier sessions fit, later ones judge, none does both."""
    slices = cut(log.labelled, SETTINGS)
    sessions = [{row.session for row in part} for part in (slices.fit, slices.calibrate, slices.judge)]
    assert not sessions[0] & sessions[1]
    assert not sessions[1] & sessions[2]
    assert not sessions[0] & sessions[2]
    starts = [min(row.time_s for row in part) for part in (slices.fit, slices.calibrate, slices.judge)]
    assert starts == sorted(starts)
    shares = [len(part) / len(log.labelled) for part in (slices.fit, slices.calibrate, slices.judge)]
    assert shares == pytest.approx([0.5, 0.15, 0.35], abs=0.01)


def test_older_outcomes_count_less_when_asked(log):
    """By half per half-life; the newest counts whole."""
    rows = [row for row in log.labelled if row.label is not None][:200]
    span = rows[-1].time_s - rows[0].time_s
    weights = [row.weight for row in outcome_rows(rows, span)]
    assert weights[0] == pytest.approx(rows[0].weight / 2)
    assert weights[-1] == pytest.approx(rows[-1].weight)


def test_labels_from_elsewhere_never_meet_those_of_the_log(base):
    """Ids and groups get a name of their own, weights shrink, 0 leaves them out."""
    rows = base_rows(base, 0.25)
    assert len(rows) == len(base)
    assert {row.weight for row in rows} == {0.25}
    assert all(row.id.startswith("base/") and row.group.startswith("base/") for row in rows)
    assert base_rows(base, 0.0) == base_rows(None, 1.0) == []


def test_calibration_keeps_the_order_and_needs_rows(log, champion):
    """Bending never reorders scores; without rows nothing is bent."""
    bent = calibrated(champion, log.labelled, {})
    rows = [row for row in log.labelled if row.label is not None][:300]
    before = [champion.score_features(row.labelled().features).raw for row in rows]
    after = [bent.score_features(row.labelled().features).value for row in rows]
    assert np.all(np.diff(np.asarray(after)[np.argsort(before)]) >= -1e-12)
    same = calibrated(champion, [], {})
    assert same.manifest.calibration_slope == champion.manifest.calibration_slope


def test_a_candidate_enters_the_registry_with_card_and_report(retrained, tmp_path):
    """Saved, proved, described; the served form scores as it was judged."""
    saved = retrained.save(tmp_path / "candidate")
    registry = Registry(tmp_path / "models")
    digest = registry.add(tmp_path / "candidate")
    assert digest == saved.digest == retrained.candidate.digest
    card = (registry.path / digest / CARD_NAME).read_text()
    assert "passed quality: lift +" in card
    assert "production outcomes" in card
    assert "| application helpdesk |" in card
    assert "Requests from 1970-01-01 to 1970-01-02." in card
    assert json.loads((registry.path / digest / REPORT_NAME).read_text())["candidate"] == digest
    assert artifacts.load(registry.path / digest).manifest.metrics["retrained"]["champion"]


@pytest.fixture(scope="module")
def small(log, base):
    """A search of a second or two."""
    outcomes = outcome_rows(log.labelled[:500], None)
    grid = (BASE, replace(BASE, inverse_penalty=3.0))
    return outcomes, base_rows(replace(base, rows=base.rows[:100]), 0.25), grid


def test_the_search_prefers_what_predicts_held_out_outcomes(small):
    """Losses by fold, best first, progress to the end."""
    steps = []
    found = search(*small, folds=2, seed=0, progress=lambda done, total, what: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found[0].loss <= found[1].loss < float("inf")
    assert {each.settings for each in found} == set(small[2])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cluster_of_two_workers_finds_the_same(small):
    """The same tasks on processes of a Dask cluster: the same losses to the last bit."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    here = search(*small, folds=2, seed=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ResourceWarning)
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
            ) as cluster,
            on_cluster(cluster.scheduler_address) as threads,
        ):
            assert threads == 2
            there = search(*small, folds=2, seed=0)
    assert there == here


def test_a_cluster_that_is_not_there_is_told():
    """One line, not a traceback."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with pytest.raises(NoCluster, match="no Dask scheduler answers"), on_cluster("nonsense://nowhere:1"):
        pass
