"""The blocking client.

The rule: a method is one RPC; it returns the proto message that came, or raises a `CallFailed`. What is retried is in
`router.client.settings`. One client serves any number of threads; make it once per process, after any fork.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Client:
    """A connection to a router, for code that blocks.

    Args:
        address: "host:port", or any gRPC name, e.g. "dns:///router.internal:50051" to spread over all its addresses.
        credentials: For TLS, e.g. `grpc.ssl_channel_credentials()`; None for plaintext.
        settings: Deadline, retries, keepalive, sizes.
        metadata: Asked at every call for more metadata. To continue a trace with OpenTelemetry:

            def trace() -> Iterable[tuple[str, str]]:
                carrier: dict[str, str] = {}
                opentelemetry.propagate.inject(carrier)
                return carrier.items()
        fields: Keywords that hold for every request that does not give its own, e.g. application and tenant.

    Example:
        with Client("127.0.0.1:50051", application="support", tenant="acme") as client:
            reply = client.generate("Compare these two contracts ...", labels={"team": "legal"}, timeout_s=60)
            print(text_of(reply), reply.accounting.cost.total_nano_usd)
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
        """Make the channel; it connects with the first call."""
        settings = settings or Settings()
        self._habits = Habits(settings, metadata, fields)
        options = channel_options(settings)
        self._channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self._router = RouterServiceStub(self._channel)
        self._session = SessionServiceStub(self._channel)
        self._operator = OperatorServiceStub(self._channel)
        self._feedback = FeedbackServiceStub(self._channel)

    def __enter__(self) -> Self:
        """Give the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self.close()

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._channel.close()

    def generate(
        self,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        wait_for_ready: bool | None = None,
        **fields: Unpack[Fields],
    ) -> router_service_pb2.GenerateResponse:
        """Ask, and wait for the whole answer with its decision and bill.

        Args:
            messages: A question; messages, oldest first, the user's last; a `Conversation`; or a GenerateRequest.
            timeout_s: Deadline of the call, retries included; None: the settings'.
            request_id: To find the request by, at most 128 printable characters; "": one is made.
            wait_for_ready: Overrides the settings'.
            fields: See `Fields`.

        Raises:
            CallFailed: One of its subclasses, by what can be done about it.
            ValueError, TypeError: The keywords cannot be spelled as a request.
        """
        request = request_of(router_service_pb2.GenerateRequest, messages, self._habits.defaults, fields)
        return _unary(
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
    ) -> "Stream":
        """Ask, and iterate over the answer as it comes; arguments as in `generate`.

        Example:
            with client.stream("Tell me more") as events:
                for event in events:
                    match event:
                        case TextDelta(text=text):
                            print(text, end="", flush=True)
                        case Finished(answer=answer, accounting=bill):
                            chat.add(answer)
        """
        request = request_of(
            router_service_pb2.StreamGenerateRequest, messages, self._habits.defaults, fields
        )
        options = self._habits.options(timeout_s, request_id, wait_for_ready)
        return Stream(self._router.StreamGenerate, request, options, self._habits.settings)

    def explain(
        self,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **fields: Unpack[Fields],
    ) -> router_service_pb2.ExplainResponse:
        """Return what `generate` would decide and plan now, and why; nothing is called and nothing is billed."""
        request = request_of(router_service_pb2.ExplainRequest, messages, self._habits.defaults, fields)
        return _unary(self._router.Explain, request, self._habits.options(timeout_s, request_id))

    def open_session(
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
        """Open a conversation the server holds; then send only new turns, with `session` and `session_version`.

        Args:
            session: Id to use; "": the server makes one.
            messages: The conversation so far, if it began elsewhere.
            idle_ttl_s: How long it is kept unused, seconds; None: the server's default.

        Never retried: a first try that was carried out would make the second fail.
        """
        request = open_request(
            session=session,
            user_context=user_context,
            messages=messages,
            idle_ttl_s=idle_ttl_s,
            defaults=self._habits.defaults,
            given={"application": application, "tenant": tenant, "user": user},
        )
        return _unary(self._session.OpenSession, request, self._habits.options(timeout_s))

    def get_session(
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
        return _unary(self._session.GetSession, request, self._habits.options(timeout_s))

    def close_session(
        self, session: str, *, tenant: str | None = None, timeout_s: float | None = None
    ) -> session_service_pb2.CloseSessionResponse:
        """Close a session the server holds, and forget its content. Never retried."""
        request = session_service_pb2.CloseSessionRequest(
            session=session, tenant=self._habits.tenant if tenant is None else tenant
        )
        return _unary(self._session.CloseSession, request, self._habits.options(timeout_s))

    def feedback(
        self,
        request_id: str,
        verdict: VerdictName | None = None,
        *,
        score: float | None = None,
        source: str = "user",
        tenant: str | None = None,
        timeout_s: float | None = None,
    ) -> feedback_service_pb2.SubmitFeedbackResponse:
        """Say how a request turned out; what the classifier is retrained from. Retried: the same again changes nothing.

        Args:
            request_id: `GenerateResponse.request_id`, or that of a stream's `Decided`; not the id given in the call.
            verdict: "flash_sufficed": Opus answered and Flash would have done; "opus_needed": the other way round.
            score: Quality of the answer, 0 to 1; instead of a verdict or beside it.
            source: Who judged; each source has one judgement of a request, its last.
            tenant: Of the request; None: the client's own.

        Raises:
            CallFailed: `NotFound` when the tenant made no such request, or too long ago.
            ValueError: `verdict` is no verdict.
        """
        request = feedback_request(
            request_id, verdict, score, source, self._habits.tenant if tenant is None else tenant
        )
        return _unary(self._feedback.SubmitFeedback, request, self._habits.options(timeout_s))

    def costs(
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
        """Sum the ledger (OperatorService, which a server may not offer to everyone).

        Args:
            by: What to sum by; "label" needs `label_key`.
            start: From this instant, inclusive; None: from the beginning.
            end: To this instant, exclusive; None: to now.
            tenant: Only this one; "": all, whatever the client's own tenant is. Likewise `application`.
        """
        request = costs_request(
            by, label_key=label_key, start=start, end=end, tenant=tenant, application=application
        )
        return _unary(self._operator.GetCosts, request, self._habits.options(timeout_s))


class Stream:
    """A streamed answer: an iterator of events, to be left by `with`, `close` or its end.

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
        self._deadline_s = time.monotonic() + options.timeout_s
        self._closed = threading.Event()
        self._began = False
        self._failed_count = 0
        self.request_id = options.request_id
        self.finished: Finished | None = None
        self._call = self._start(options.timeout_s)

    def __enter__(self) -> Self:
        """Give the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Cancel the call unless it has ended; may be called from another thread, whose iteration then ends."""
        self._closed.set()
        self._call.cancel()

    def __iter__(self) -> Iterator[Event]:
        """Give the stream."""
        return self

    def __next__(self) -> Event:
        """Wait for the next event.

        Raises:
            CallFailed: The answer failed or broke off.
        """
        while not self._closed.is_set():
            try:
                message = next(self._call)
            except grpc.RpcError as error:
                # Closed in another thread: what it was waiting for is not coming.
                if not self._closed.is_set():
                    self._again_or_raise(failure(error, self.request_id), error)
                continue
            self._began = True
            event = event_of(message)
            if isinstance(event, Finished):
                self.finished = event
            if event is not None:
                return event
        raise StopIteration

    def result(self) -> Finished:
        """Read on to the end, and return the last event: the whole answer and its bill.

        Raises:
            CallFailed: The answer failed or broke off; `Cancelled` when the stream was closed before its end.
        """
        for _ in self:
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

    def _again_or_raise(self, error: CallFailed, cause: grpc.RpcError) -> None:
        self._failed_count += 1
        remaining_s = self._deadline_s - time.monotonic()
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
        if self._closed.wait(wait_s):
            return
        self._call = self._start(self._deadline_s - time.monotonic())
        if self._closed.is_set():
            self._call.cancel()


def _unary(method: Callable[..., Response], request: object, options: CallOptions) -> Response:
    try:
        return method(
            request,
            timeout=options.timeout_s,
            metadata=options.metadata,
            wait_for_ready=options.wait_for_ready,
        )
    except grpc.RpcError as error:
        raise failure(error, options.request_id) from error
