"""SubmitFeedback at its bounds: a flood is refused, a caller that leaves makes room, refusals teach nobody."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import feedback_service
from router.errors import InvalidRequest, NotFound, Overloaded
from router.feedback import MAX_SOURCES, Verdict, checked
from router.feedback_service import VERDICTS, FeedbackService
from router.ledger import Ledger, LedgerSettings
from router.telemetry import Telemetry
from router.v1 import feedback_service_pb2 as pb
from tests.router.ledger_samples import StillClock, a_settlement

NEVER = LedgerSettings(interval_s=3_600, sync=False)
"""A writer that does not get to it until it is asked to hurry."""


def service_of(ledger, learnt=None):
    """The service, and what it told whoever learns."""

    def learn(feedback, receipt):
        if learnt is not None:
            learnt.append((feedback.source, receipt.received))

    return FeedbackService(ledger=ledger, telemetry=Telemetry.off(), clock=StillClock(), learn=learn)


def said(**changes):
    """A judgement of r1."""
    fields = {"request_id": "r1", "verdict": pb.FEEDBACK_VERDICT_BAD, "source": "user", "tenant": "acme"}
    return pb.SubmitFeedbackRequest(**(fields | changes))


async def test_a_flood_is_refused_and_those_who_leave_make_room(tmp_path, monkeypatch):
    """So many may wait for the ledger at once; the next is told to come again, without a line in the journal."""
    monkeypatch.setattr(feedback_service, "WAITING_LIMIT", 3)
    ledger = Ledger.open(tmp_path, clock=StillClock(), settings=NEVER)
    try:
        ledger.settle(a_settlement())
        service = service_of(ledger)
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(service.SubmitFeedback(said(source=f"s{number}"), None))
                for number in range(3)
            ]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="the configured limit"):
                await service.SubmitFeedback(said(source="late"), None)
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            last = group.create_task(service.SubmitFeedback(said(source="late"), None))
            await asyncio.sleep(0)
            await ledger.flush()
        assert not last.result().replaced
        assert {each.source for each in (await ledger.feedback_for(["r1"]))["r1"]} == {
            "s0",
            "s1",
            "s2",
            "late",
        }
    finally:
        await ledger.close()


async def test_only_what_is_kept_is_learnt_from(tmp_path):
    """Refused judgements reach nobody; repeated ones do no harm and are told."""
    ledger = Ledger.open(tmp_path, clock=StillClock(), settings=LedgerSettings(interval_s=0.001, sync=False))
    learnt = []
    try:
        ledger.settle(a_settlement())
        service = service_of(ledger, learnt)
        for number in range(MAX_SOURCES):
            await service.SubmitFeedback(said(source=f"s{number}"), None)
        with pytest.raises(InvalidRequest, match="one more than the 8 sources"):
            await service.SubmitFeedback(said(source="ninth"), None)
        with pytest.raises(NotFound, match="request's own tenant"):
            await service.SubmitFeedback(said(tenant="other"), None)
        await service.SubmitFeedback(said(source="s0"), None)
        assert [source for source, _ in learnt] == [*(f"s{number}" for number in range(MAX_SOURCES)), "s0"]
    finally:
        await ledger.close()


def test_every_verdict_of_the_contract_is_known():
    """A value added to the proto needs a word in the ledger."""
    assert set(VERDICTS) == set(pb.FeedbackVerdict.values())
    assert set(VERDICTS.values()) == {None, *Verdict}


@given(
    st.text(max_size=300),
    st.text(max_size=100),
    st.sampled_from([None, *Verdict]),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
)
def test_what_passes_the_check_is_within_its_bounds(request_id, source, verdict, score):
    """Whatever is sent: either a field is named, or every field is a short name, a verdict or a share."""
    try:
        kept = checked(request_id, "acme", source, verdict, score, 0.0)
    except InvalidRequest as error:
        kept, field = None, error.field
    if kept is None:
        assert field in {"request_id", "source", "verdict", "score"}
        return
    assert 0 < len(kept.request_id) <= 192
    assert 0 < len(kept.source) <= 64
    assert " " not in kept.source
    assert kept.source.isascii()
    assert kept.verdict is not None or kept.score is not None
    assert kept.score is None or 0.0 <= kept.score <= 1.0
