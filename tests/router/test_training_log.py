"""Ledger and Parquet give the same training rows, without text and without growing in memory."""

import tracemalloc
from pathlib import Path

import msgspec
import pytest

from classifier.features import extract
from classifier.logged import LoggedRequest, collect, kind_of
from classifier.sample import Sample
from router import training_log
from router.feedback import Feedback, Verdict
from router.ledger import Ledger
from router.settlement import Outcome
from router.training_log import (
    TrainingLogError,
    from_ledger,
    from_parquet,
    parquet_rows,
    write_parquet,
)
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

SAMPLE = Sample.bounded(text="Prove that the sum of two even numbers is even")
FEATURES = extract(SAMPLE).pack()


def decided(number: int, route: str = "flash", **changes):
    """The settlement of one decided request."""
    settlement = a_settlement(
        an_intent(
            request_id=f"r{number}", route=route, session=f"s{number // 2}", started_time_s=START_S + number
        )
    )
    decision = msgspec.structs.replace(
        settlement.decision, route=route, features=FEATURES, propensity=0.9, explored=number % 3 == 0
    )
    return msgspec.structs.replace(settlement, decision=decision, **changes)


def keep(directory: Path, settlements, feedback=()) -> Path:
    ledger = Ledger.open(directory, clock=StillClock())
    try:
        for settlement in settlements:
            ledger.journal_intent(settlement.intent)
            ledger.settle(settlement)
        for each in feedback:
            assert ledger.feedback_blocking(each).kept
    finally:
        ledger.close_blocking()
    return directory


def said(request_id: str, verdict: Verdict) -> Feedback:
    return Feedback(
        request_id=request_id, tenant="acme", source="user", verdict=verdict, score=None, time_s=START_S + 60
    )


def test_a_request_is_one_row_with_its_outcome(tmp_path):
    """Decision, expected and true cost, session, kind and the verdict, as the ledger has them."""
    keep(
        tmp_path,
        [decided(1), decided(2, "opus")],
        [said("r1", Verdict.BAD), said("r2", Verdict.FLASH_SUFFICED)],
    )
    first, second = from_ledger(tmp_path)
    assert (first.request_id, first.session, first.opus, first.propensity) == ("r1", "acme/s0", False, 0.9)
    assert (first.label, first.weight, first.quality, first.evidence) == (1, 0.8, 0.0, "bad")
    assert (first.flash_nano_usd, first.opus_nano_usd, first.cost_nano_usd) == (
        4_000_000,
        24_000_000,
        23_750_000,
    )
    assert first.kind == kind_of(extract(SAMPLE))
    assert (second.opus, second.label, second.quality) == (True, 0, 1.0)


def test_an_escalated_request_is_one_row_that_was_decided_for_flash(tmp_path):
    """Two attempts, one decision, the cost of both, label 1 whoever answered in the end."""
    first = decided(1, discarded="malformed", finish_reason="malformed")
    second = decided(1, "opus")
    second = msgspec.structs.replace(second, intent=msgspec.structs.replace(second.intent, attempt=2))
    keep(tmp_path, [first, second])
    (row,) = from_ledger(tmp_path)
    assert (row.opus, row.label, row.evidence) == (False, 1, "discarded:malformed")
    assert row.cost_nano_usd == 2 * 23_750_000


def test_a_failed_provider_teaches_nothing(tmp_path):
    """A fallback is the provider's fault, not the request's."""
    first = decided(1, outcome=Outcome.REFUSED, cost=None, usage=None, finish_reason="")
    second = decided(1, "opus")
    second = msgspec.structs.replace(second, intent=msgspec.structs.replace(second.intent, attempt=2))
    keep(tmp_path, [first, second])
    (row,) = from_ledger(tmp_path)
    assert (row.label, row.quality, row.evidence) == (None, None, "")


def test_a_request_that_was_diverted_before_it_was_sent_was_not_decided_by_its_score(tmp_path):
    """Drawn for Flash at .005, held back, sent to Opus: Opus was not taken at .005, nor by any cut."""
    settlement = decided(3, "opus")
    assert settlement.decision.explored
    assert settlement.decision.threshold is not None
    record = msgspec.structs.replace(settlement.decision, reason="fallback", propensity=0.005)
    keep(tmp_path, [msgspec.structs.replace(settlement, decision=record)])
    (row,) = from_ledger(tmp_path)
    assert (row.opus, row.threshold, row.propensity, row.explored) == (True, None, 1.0, False)


def test_the_cost_of_a_request_with_an_interrupted_attempt_is_unknown(tmp_path):
    """Escalated, and the process died over the second attempt: what is booked is not all that it cost."""
    first, second = decided(1, discarded="malformed", finish_reason="malformed"), decided(1, "opus")
    ledger = Ledger.open(tmp_path, clock=StillClock())
    ledger.journal_intent(first.intent)
    ledger.settle(first)
    ledger.journal_intent(msgspec.structs.replace(second.intent, attempt=2))
    ledger.close_blocking()
    Ledger.open(tmp_path, clock=StillClock()).close_blocking()
    (row,) = from_ledger(tmp_path)
    assert (row.opus, row.label, row.cost_nano_usd) == (False, 1, None)


def test_since_and_until_bound_the_rows(tmp_path):
    """Since is inclusive, until is not."""
    keep(tmp_path, [decided(number) for number in range(5)])
    rows = from_ledger(tmp_path, START_S + 1, START_S + 3)
    assert [row.request_id for row in rows] == ["r1", "r2"]


def test_parquet_gives_back_what_was_written(tmp_path):
    """Every column, None included; and the time range cuts here too."""
    keep(tmp_path / "ledger", [decided(number) for number in range(5)], [said("r1", Verdict.BAD)])
    rows = list(from_ledger(tmp_path / "ledger"))
    file = tmp_path / "rows.parquet"
    assert write_parquet(file, rows) == 5 == parquet_rows(file)
    assert list(from_parquet(file)) == rows
    assert [row.request_id for row in from_parquet(file, START_S + 4)] == ["r4"]


def a_row(number: int, **changes) -> LoggedRequest:
    row = LoggedRequest(
        request_id=f"r{number}",
        session=f"s{number}",
        time_s=float(number),
        tenant="",
        application="",
        kind="",
        features=FEATURES,
        score=0.4,
        threshold=0.5,
        opus=False,
        propensity=0.9,
        explored=False,
        reason="score_below_threshold",
        model_digest="",
        cost_nano_usd=None,
        flash_nano_usd=None,
        opus_nano_usd=None,
    )
    return msgspec.structs.replace(row, **changes)


@pytest.mark.parametrize(
    "wrong",
    [{"propensity": 0.0}, {"propensity": 1.5}, {"label": 2}, {"quality": -0.1}, {"score": float("nan")}],
)
def test_a_wrong_row_is_refused_by_number(tmp_path, wrong):
    """Another system's mistake does not train a model."""
    file = tmp_path / "rows.parquet"
    write_parquet(file, [a_row(1), a_row(2, **wrong)])
    with pytest.raises(TrainingLogError, match=f"row 2: {next(iter(wrong))}"):
        list(from_parquet(file))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    """By name, without a traceback."""
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(TrainingLogError, match=r"x\.parquet"):
        list(from_parquet(tmp_path / "x.parquet"))


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    """Eight times the rows, the same peak: what is read is let go, what is kept is bounded."""
    monkeypatch.setattr(training_log, "BATCH_ROWS", 200)
    peaks = []
    for batches in (5, 40):
        file = tmp_path / f"{batches}.parquet"
        rows = (a_row(number, label=number % 2, weight=1.0, quality=1.0) for number in range(batches * 200))
        write_parquet(file, rows)
        tracemalloc.start()
        collected = collect(from_parquet(file), limit=200)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert collected.seen == batches * 200
        assert 0 < len(collected.labelled) <= 200
    assert peaks[1] < 1.3 * peaks[0]
