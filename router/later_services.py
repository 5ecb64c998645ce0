"""The services of the contract that arrive with later releases: every RPC says so."""

from typing import Any

import grpc

from router.errors import Unimplemented
from router.v1 import feedback_service_pb2, feedback_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class FeedbackService(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Outcomes of requests: not in this release."""

    async def SubmitFeedback(
        self, request: feedback_service_pb2.SubmitFeedbackRequest, context: Context
    ) -> feedback_service_pb2.SubmitFeedbackResponse:
        """Not in this release."""
        raise Unimplemented("SubmitFeedback arrives with a later release")
