"""FeedbackService over gRPC: how requests turned out, checked, kept durably, told to whoever learns from it.

The rule: the answer comes when the ledger has the judgement in journal and store, so a caller that got it need not
remember anything; one that did not may send the same again. Judging is not free of bounds: so many may wait at once,
so many sources may judge one request, and a request may be judged for so long. What a request was is not told: one of
another tenant is as unknown as one that never was.
"""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from router.clock import Clock
from router.errors import InvalidRequest, NotFound, Overloaded
from router.feedback import MAX_SOURCES, Feedback, Receipt, Received, Verdict, checked
from router.ledger import Ledger
from router.telemetry import Telemetry
from router.v1 import feedback_service_pb2 as pb
from router.v1 import feedback_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

WAITING_LIMIT = 512
"""Judgements that may wait for the ledger at once: five times what a batch of a tenth of a second brings at 1,000 a
second, so that a flood of feedback does not fill the ledger's queue before requests are refused."""
RETRY_AFTER_S = 1.0

VERDICTS = {
    pb.FEEDBACK_VERDICT_UNSPECIFIED: None,
    pb.FEEDBACK_VERDICT_GOOD: Verdict.GOOD,
    pb.FEEDBACK_VERDICT_BAD: Verdict.BAD,
    pb.FEEDBACK_VERDICT_FLASH_SUFFICED: Verdict.FLASH_SUFFICED,
    pb.FEEDBACK_VERDICT_OPUS_NEEDED: Verdict.OPUS_NEEDED,
}

Learn = Callable[[Feedback, Receipt], None]
"""Hears of every judgement that was kept; quick, and does not raise."""


class FeedbackService(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Outcomes of requests."""

    def __init__(self, *, ledger: Ledger, telemetry: Telemetry, clock: Clock, learn: Learn) -> None:
        """Keep references; all are owned by the app."""
        self._ledger = ledger
        self._telemetry = telemetry
        self._clock = clock
        self._learn = learn
        self._waiting = 0

    async def SubmitFeedback(
        self, request: pb.SubmitFeedbackRequest, context: Context
    ) -> pb.SubmitFeedbackResponse:
        """Keep how a request turned out."""
        feedback = feedback_from_proto(request, self._clock.now())
        if self._waiting >= WAITING_LIMIT:
            raise Overloaded(WAITING_LIMIT, RETRY_AFTER_S)
        self._waiting += 1
        try:
            receipt = await self._ledger.feedback(feedback)
        finally:
            self._waiting -= 1
        self._telemetry.record_feedback(feedback, receipt)
        if not receipt.kept:
            raise _refusal(feedback, receipt)
        self._learn(feedback, receipt)
        recorded = Timestamp()
        recorded.FromNanoseconds(round(receipt.time_s * 1e9))
        return pb.SubmitFeedbackResponse(record_time=recorded, replaced=receipt.replaced)


def feedback_from_proto(request: pb.SubmitFeedbackRequest, now_s: float) -> Feedback:
    """Return the judgement a message holds.

    Raises:
        InvalidRequest: A field is wrong; the message names it, its value and what is allowed.
    """
    if request.verdict not in VERDICTS:
        raise InvalidRequest("verdict", f"is {request.verdict}, which this release does not know")
    return checked(
        request.request_id,
        request.tenant,
        request.source,
        VERDICTS[request.verdict],
        request.score if request.HasField("score") else None,
        now_s,
    )


def _refusal(feedback: Feedback, receipt: Receipt) -> InvalidRequest | NotFound:
    match receipt.received:
        case Received.TOO_MANY:
            return InvalidRequest(
                "source", f"would be one more than the {MAX_SOURCES} sources that may judge one request"
            )
        case Received.EXPIRED:
            return NotFound("request", feedback.request_id, "the time in which it could be judged is over")
        case _:
            return NotFound(
                "request",
                feedback.request_id,
                "give the request_id of the response, and the request's own tenant",
            )
