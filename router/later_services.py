"""The services of the contract that arrive with later releases: every RPC says so."""

from typing import Any, NoReturn

import grpc

from router.errors import Unimplemented
from router.v1 import (
    feedback_service_pb2,
    feedback_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

Context = grpc.aio.ServicerContext[Any, Any]


def _later(name: str) -> NoReturn:
    raise Unimplemented(f"{name} arrives with a later release")


class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Server-held conversations: not in this release."""

    async def OpenSession(
        self, request: session_service_pb2.OpenSessionRequest, context: Context
    ) -> session_service_pb2.OpenSessionResponse:
        """Not in this release."""
        _later("OpenSession")

    async def GetSession(
        self, request: session_service_pb2.GetSessionRequest, context: Context
    ) -> session_service_pb2.GetSessionResponse:
        """Not in this release."""
        _later("GetSession")

    async def CloseSession(
        self, request: session_service_pb2.CloseSessionRequest, context: Context
    ) -> session_service_pb2.CloseSessionResponse:
        """Not in this release."""
        _later("CloseSession")

    async def ReportAction(
        self, request: session_service_pb2.ReportActionRequest, context: Context
    ) -> session_service_pb2.ReportActionResponse:
        """Not in this release."""
        _later("ReportAction")


class FeedbackService(feedback_service_pb2_grpc.FeedbackServiceServicer):
    """Outcomes of requests: not in this release."""

    async def SubmitFeedback(
        self, request: feedback_service_pb2.SubmitFeedbackRequest, context: Context
    ) -> feedback_service_pb2.SubmitFeedbackResponse:
        """Not in this release."""
        _later("SubmitFeedback")
