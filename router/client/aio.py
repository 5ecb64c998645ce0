"""The client for asyncio.

The rule: a method is one RPC; it returns the proto message that came, or raises a `CallFailed`. What is retried is in
`router.client.settings`. A cancelled task cancels its call. Make one client in the running loop and share it between
its tasks. Arguments mean what they mean in `router.client.blocking`.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from router.client.calls import CallOptions, Habits, Metadata
from router.client.errors import CallFailed, failure, unfinished
from router.client.events import Event, Finished, event_of
from router.client.requests import (
    Dimension,
    Fields,
    Messages,
    VerdictName,
    costs_request,
    feedback_request,
    open_request,
    request_of,
)
from router.client.settings import Settings, channel_options, stream_wait_s
from router.v1 import (
    content_pb2,
    feedback_service_pb2,
    operator_service_pb2,
    router_service_pb2,
    session_service_pb2,
)
from router.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from router.v1.operator_service_pb2_grpc import OperatorServiceStub
from router.v1.router_service_pb2_grpc import RouterServiceStub
from router.v1.session_service_pb2_grpc import SessionServiceStub

Response = TypeVar("Response")


class AsyncClient:
    """A connection to a router, for asyncio; arguments as in `Client`.

    Example:
        async with AsyncClient("127.0.0.1:50051", application="support") as client:
            reply = await client.generate("Compare these two contracts ...", timeout_s=60)
            async with client.stream("Tell me more") as events:
                async for event in events: ...
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        settings: Settings | None = None,
        metadata: Metadata | None = None,
        **fields: Unpack[Fields],
    ) -> None:
        """Make the channel, in the running loop; it connects with the first call."""
        settings = settings or Settings()
        self._habits = Habits(settings, metadata, fields)
        options = channel_options(settings)
        self._channel = (
            grpc.aio.insecure_channel(address, options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options)
        )
        self._router = RouterServiceStub(self._channel)
        self._session = SessionServiceStub(self._channel)
        self._operator = OperatorServiceStub(self._channel)
        self._feedback = FeedbackServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        """Give the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self.close()

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self._channel.close()

    async def generate(
        self,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        wait_for_ready: bool | None = None,
        **fields: Unpack[Fields],
    ) -> router_service_pb2.GenerateResponse:
        """Ask, and wait for the whole answer with its decision and bill; see `Client.generate`."""
        request = request_of(router_service_pb2.GenerateRequest, messages, self._habits.defaults, fields)
        return await _unary(
            self._router.Generate, request, self._habits.options(timeout_s, request_id, wait_for_ready)
        )

    def stream(
        self,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        wait_for_ready: bool | None = None,
        **fields: Unpack[Fields],
    ) -> "AsyncStream":
        """Ask, and iterate over the answer as it comes; see `Client.stream`."""
        request = request_of(
            router_service_pb2.StreamGenerateRequest, messages, self._habits.defaults, fields
        )
        options = self._habits.options(timeout_s, request_id, wait_for_ready)
        return AsyncStream(self._router.StreamGenerate, request, options, self._habits.settings)

    async def explain(
        self,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **fields: Unpack[Fields],
    ) -> router_service_pb2.ExplainResponse:
        """Return what `generate` would decide and plan now, and why; nothing is called and nothing is billed."""
        request = request_of(router_service_pb2.ExplainRequest, messages, self._habits.defaults, fields)
        return await _unary(self._router.Explain, request, self._habits.options(timeout_s, request_id))

    async def open_session(
        self,
        session: str = "",
        *,
        application: str | None = None,
        tenant: str | None = None,
        user: str | None = None,
        user_context: str | Sequence[str] = (),
        messages: Iterable[content_pb2.Message] = (),
        idle_ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> session_service_pb2.OpenSessionResponse:
        """Open a conversation the server holds; see `Client.open_session`. Never retried."""
        request = open_request(
            session=session,
            user_context=user_context,
            messages=messages,
            idle_ttl_s=idle_ttl_s,
            defaults=self._habits.defaults,
            given={"application": application, "tenant": tenant, "user": user},
        )
        return await _unary(self._session.OpenSession, request, self._habits.options(timeout_s))

    async def get_session(
        self,
        session: str,
        *,
        tenant: str | None = None,
        include_messages: bool = False,
        timeout_s: float | None = None,
    ) -> session_service_pb2.GetSessionResponse:
        """Return what is known of a session: totals, what is believed warm, and the messages held if asked for."""
        request = session_service_pb2.GetSessionRequest(
            session=session,
            tenant=self._habits.tenant if tenant is None else tenant,
            include_messages=include_messages,
        )
        return await _unary(self._session.GetSession, request, self._habits.options(timeout_s))

    async def close_session(
        self, session: str, *, tenant: str | None = None, timeout_s: float | None = None
    ) -> session_service_pb2.CloseSessionResponse:
        """Close a session the server holds, and forget its content. Never retried."""
        request = session_service_pb2.CloseSessionRequest(
            session=session, tenant=self._habits.tenant if tenant is None else tenant
        )
        return await _unary(self._session.CloseSession, request, self._habits.options(timeout_s))

    async def feedback(
        self,
        request_id: str,
        verdict: VerdictName | None = None,
        *,
        score: float | None = None,
        source: str = "user",
        tenant: str | None = None,
        timeout_s: float | None = None,
    ) -> feedback_service_pb2.SubmitFeedbackResponse:
        """Say how a request turned out; see `Client.feedback`."""
        request = feedback_request(
            request_id, verdict, score, source, self._habits.tenant if tenant is None else tenant
        )
        return await _unary(self._feedback.SubmitFeedback, request, self._habits.options(timeout_s))

    async def costs(
        self,
        by: Dimension = "route",
        *,
        label_key: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        tenant: str = "",
        application: str = "",
        timeout_s: float | None = None,
    ) -> operator_service_pb2.GetCostsResponse:
        """Sum the ledger; see `Client.costs`."""
        request = costs_request(
            by, label_key=label_key, start=start, end=end, tenant=tenant, application=application
        )
        return await _unary(self._operator.GetCosts, request, self._habits.options(timeout_s))


class AsyncStream:
    """A streamed answer: an async iterator of events, to be left by `async with`, `close` or its end.

    Closing it before the end cancels the call: the provider is hung up on, and what it produced by then is billed. A
    try that fails before its first event may be made again (see `router.client.settings`); after it, never.

    Attributes:
        request_id: Id of the call, as in errors.
        finished: The last event, None until it has come.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        request: router_service_pb2.StreamGenerateRequest,
        options: CallOptions,
        settings: Settings,
    ) -> None:
        self._method = method
        self._request = request
        self._options = options
        self._settings = settings
        self._clock = asyncio.get_running_loop().time
        self._deadline_s = self._clock() + options.timeout_s
        self._closed = asyncio.Event()
        self._began = False
        self._failed_count = 0
        self.request_id = options.request_id
        self.finished: Finished | None = None
        self._call = self._start(options.timeout_s)

    async def __aenter__(self) -> Self:
        """Give the stream."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Cancel the call unless it has ended; another task's iteration then ends."""
        self._closed.set()
        self._call.cancel()

    def __aiter__(self) -> AsyncIterator[Event]:
        """Give the stream."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event.

        Raises:
            CallFailed: The answer failed or broke off.
        """
        while not self._closed.is_set():
            try:
                message = await self._call.read()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # gRPC says the same for a call that was closed and for a task that is cancelled.
                if not self._closed.is_set() or (task is not None and task.cancelling()):
                    raise
                break
            except grpc.RpcError as error:
                if not self._closed.is_set():
                    await self._again_or_raise(failure(error, self.request_id), error)
                continue
            if message is grpc.aio.EOF:
                break
            self._began = True
            event = event_of(message)
            if isinstance(event, Finished):
                self.finished = event
            if event is not None:
                return event
        raise StopAsyncIteration

    async def result(self) -> Finished:
        """Read on to the end, and return the last event: the whole answer and its bill.

        Raises:
            CallFailed: The answer failed or broke off; `Cancelled` when the stream was closed before its end.
        """
        async for _ in self:
            pass
        if self.finished is None:
            raise unfinished(closed=self._closed.is_set(), request_id=self.request_id)
        return self.finished

    def _start(self, timeout_s: float) -> Any:
        return self._method(
            self._request,
            timeout=timeout_s,
            metadata=self._options.metadata,
            wait_for_ready=self._options.wait_for_ready,
        )

    async def _again_or_raise(self, error: CallFailed, cause: grpc.RpcError) -> None:
        self._failed_count += 1
        remaining_s = self._deadline_s - self._clock()
        wait_s = (
            None
            if self._began
            else stream_wait_s(
                error,
                failed_count=self._failed_count,
                remaining_s=remaining_s,
                settings=self._settings,
                draw=random.random(),
            )
        )
        if wait_s is None:
            raise error from cause
        try:
            async with asyncio.timeout(wait_s):
                await self._closed.wait()
        except TimeoutError:
            self._call = self._start(self._deadline_s - self._clock())


async def _unary(
    method: Callable[..., Awaitable[Response]], request: object, options: CallOptions
) -> Response:
    try:
        return await method(
            request,
            timeout=options.timeout_s,
            metadata=options.metadata,
            wait_for_ready=options.wait_for_ready,
        )
    except grpc.RpcError as error:
        raise failure(error, options.request_id) from error
