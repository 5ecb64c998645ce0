"""What surrounds every RPC: identity, trace, admission, the error table, duration; one interceptor, one pass.

The rule: a handler raises what happened and this module says it to the caller, the trace and the metrics,
once each. RouterErrors become the status of `router.status`; anything unforeseen becomes INTERNAL with an
incident id, and only its type and stack are logged, because an exception's text may quote a prompt. The
outcome recorded is the one the caller got.

One interceptor rather than five, because each layer costs a coroutine per RPC; wrapped handlers are kept per
method. The context is attached and detached in the RPC's own task: a handler that yields is driven by a
coroutine that writes, never wrapped in another async generator, whose finalizer may run in a different
context. When the caller leaves while a message is written, the handler's generator is closed right there, so
its `finally` (the settlement) runs before the RPC counts as over.

Services of the gRPC project itself (`grpc.health.v1`, reflection, channelz) pass through untouched: a health
check must be answered when the server is full, and would drown everything else in the metrics.
"""

import asyncio
import inspect
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, Final, NamedTuple, NoReturn, cast

import grpc
import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span, format_span_id, format_trace_id

from router import attributes as names
from router.errors import InvalidRequest, Overloaded, RouterError
from router.registration import Registering
from router.stack import stack_of, type_name
from router.status import REQUEST_ID_KEY, incident_status, status_of
from router.telemetry import Telemetry

MAX_REQUEST_ID = 128
"""Longest request id taken from a caller, in characters."""

OVERLOAD_RETRY_S = 1.0
"""Advised wait when the server is full; requests last seconds, so a place is free soon."""

_INFRASTRUCTURE: Final = "/grpc."
_CANCEL_SLACK_S: Final = 0.010
_CANCEL_SLACK_SHARE: Final = 0.011
_CANCEL_FOLLOWS_S: Final = 1.0
"""Bound on waiting for a cancellation that is already on its way."""

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Awaitable[Any]]
"""A handler as a coroutine function: request, or iterator of requests, and context."""


class RequestContext(msgspec.Struct, frozen=True):
    """What a handler may want to know of the RPC it serves.

    Attributes:
        request_id: The caller's `x-request-id`, or one of ours; printable ASCII, 1 to 128 characters. Callers
            may repeat theirs, so it is no key by itself.
        method: `package.Service/Method`.
        span: The server span, for attributes; not recording when the trace is not sampled.
        given: Whether the caller chose the request id.
    """

    request_id: str
    method: str
    span: Span
    given: bool = False

    @property
    def trace_id(self) -> str:
        """32 hex digits, "" when the request has no trace."""
        context = self.span.get_span_context()
        return format_trace_id(context.trace_id) if context.is_valid else ""

    @property
    def span_id(self) -> str:
        """16 hex digits of the server span, "" when the request has no trace."""
        context = self.span.get_span_context()
        return format_span_id(context.span_id) if context.is_valid else ""


_current: ContextVar[RequestContext] = ContextVar("hybrid_router_request")


def current_request() -> RequestContext:
    """Return the context of the RPC this task serves.

    Raises:
        LookupError: Called outside of an RPC.
    """
    return _current.get()


_RANDOM_DIGITS = 20
_spare_ids: list[str] = []
"""Random ends of ids, not yet given out: the kernel is asked for many at once (measured: 4 us each otherwise)."""
os.register_at_fork(after_in_child=_spare_ids.clear)


def new_request_id() -> str:
    """Return a request id that nobody else gives, 32 hex digits: milliseconds since the epoch, then 80 random bits.

    Ids in order of time keep the ledger's index by id at one end. Random ones change a page of it for every call, of
    16 KB, twice (measured with 240,000 calls in the ledger: 66 us of CPU and 54 KB written a call, against 19 and 14).
    """
    if not _spare_ids:
        drawn = os.urandom(128 * _RANDOM_DIGITS).hex()
        _spare_ids.extend(
            [drawn[start : start + _RANDOM_DIGITS] for start in range(0, len(drawn), _RANDOM_DIGITS)]
        )
    return f"{int(time() * 1e3):012x}{_spare_ids.pop()}"


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """The only interceptor of the server.

    Args:
        telemetry: Where spans and durations go; its in-flight gauge is fed from here.
        max_in_flight: RPCs served at once, > 0; more are refused with RESOURCE_EXHAUSTED and RetryInfo.
        request_id: Makes an id for a caller that sends none or an unusable one.
        clock: Steady clock in seconds, for durations.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        max_in_flight: int,
        request_id: Callable[[], str] = new_request_id,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        if max_in_flight <= 0:
            raise ValueError(f"max_in_flight must be positive, got {max_in_flight}")
        self.telemetry = telemetry
        self.max_in_flight = max_in_flight
        self.new_request_id = request_id
        self.clock = clock
        self.in_flight = 0
        """RPCs being served now, refused ones and infrastructure not counted."""
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        telemetry.watch_in_flight(lambda: self.in_flight)

    async def idle(self, timeout_s: float) -> bool:
        """Wait until no RPC is being served, what cancelled ones leave behind included; False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.is_idle.wait()
        except TimeoutError:
            return False
        return True

    def before(self, server: grpc.aio.Server) -> Registering:
        """What services are registered with instead of `server`, so that gRPC finds their handlers wrapped.

        It calls `intercept_service` for every RPC otherwise, by two coroutines of its own (measured: 25 us of a call).
        """
        return Registering(server, self.wrapped)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the handler wrapped, or as it is for unknown methods and infrastructure."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_INFRASTRUCTURE):
            return handler
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self.wrapped(method.removeprefix("/"), handler)
        self._wrapped[method] = (handler, wrapped)
        return wrapped

    def wrapped(self, method: str, handler: Any) -> Any:
        """The handler of `package.Service/Method` with all that surrounds an RPC."""
        if handler.request_streaming:
            behavior = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            behavior = handler.unary_stream if handler.response_streaming else handler.unary_unary
        if inspect.isasyncgenfunction(behavior):
            behavior = _writing(behavior)
        elif not inspect.iscoroutinefunction(behavior):
            raise TypeError(f"the handler of {method} must be async: a synchronous one would block the loop")
        invoke = cast(Behavior, behavior)
        streams = bool(handler.response_streaming)

        served = _Method(self, method, invoke, streams=streams)
        make = _HANDLERS[bool(handler.request_streaming), streams]
        return make(served.serve, _readable(handler.request_deserializer), handler.response_serializer)


class _Method:
    """One method's handler with all that surrounds an RPC; its `serve` is what gRPC calls."""

    __slots__ = ("_by", "_invoke", "_name", "_streams")

    def __init__(self, by: ServerInterceptor, name: str, invoke: Behavior, *, streams: bool) -> None:
        self._by = by
        self._name = name
        self._invoke = invoke
        self._streams = streams

    async def serve(self, request: Any, context: Context) -> Any:
        """Serve one RPC."""
        by, method, telemetry = self._by, self._name, self._by.telemetry
        started_s = by.clock()
        given_id, traceparent, tracestate = _read_metadata(context)
        given = _usable(given_id)
        request_id = given_id if given else by.new_request_id()
        echo = ((REQUEST_ID_KEY, request_id),)
        context.set_trailing_metadata(echo)
        span = telemetry.start_server_span(method, traceparent, tracestate, context.peer)
        if span.is_recording():
            span.set_attribute(names.REQUEST_ID, request_id)
        request_token = _current.set(RequestContext(request_id, method, span, given))
        entered = telemetry.enter(span)
        admitted = by.in_flight < by.max_in_flight
        if not by.in_flight:
            by.is_idle.clear()
        by.in_flight += admitted
        code, error_type = "UNKNOWN", ""
        try:
            if not admitted:
                raise Overloaded(by.max_in_flight, OVERLOAD_RETRY_S)
            if isinstance(request, _Unreadable):
                raise InvalidRequest("request", f"its {request.byte_count} bytes are no message of {method}")
            if self._streams:
                # A stream's caller learns the id at once, not when the stream ends; a unary call gets it with
                # its answer and is spared a batch of its own.
                await context.send_initial_metadata(echo)
            response = await self._invoke(request, context)
            code = _code_of(context)
        except grpc.aio.AbortError:
            code = _code_of(context)
            raise
        except asyncio.CancelledError:
            code = self._why_cancelled(context, started_s)
            raise
        except grpc.aio.InternalError as error:
            # A write that failed, in a handler that does not know `until_cancelled`: the caller is gone.
            code = self._why_cancelled(context, started_s)
            raise asyncio.CancelledError from error
        except Exception as error:
            status, error_type = self._explain(error, method, request_id, span, context)
            code = status.code.name
            await context.abort(status.code, status.details, status.trailing_metadata)
        else:
            return response
        finally:
            by.in_flight -= admitted
            if not by.in_flight:
                by.is_idle.set()
            if not error_type and code in names.RPC_SERVER_ERRORS:
                error_type = code
            telemetry.end_server_span(span, code, error_type)
            telemetry.record_rpc(method, code, error_type, by.clock() - started_s)
            telemetry.leave(entered)
            _current.reset(request_token)

    def _why_cancelled(self, context: Context, started_s: float) -> str:
        """Tell an expired deadline from a caller that left.

        The caller's own timer fires and cancels a moment before ours: by the time the request travelled, and
        by the rounding of `grpc-timeout`, which is up to one percent.
        """
        remaining_s = cast("float | None", context.time_remaining())
        if remaining_s is None:
            return "CANCELLED"
        granted_s = remaining_s + (self._by.clock() - started_s)
        expired = remaining_s <= _CANCEL_SLACK_S + _CANCEL_SLACK_SHARE * granted_s
        return "DEADLINE_EXCEEDED" if expired else "CANCELLED"

    def _explain(
        self, error: Exception, method: str, request_id: str, span: Span, context: Context
    ) -> tuple[Any, str]:
        """Return the status for an error and its error.type, "" when the status code is that."""
        known = _as_router_error(error)
        if known is not None:
            if span.is_recording():
                span.set_attribute(names.ERROR_REASON, known.reason)
            try:
                remaining_s = cast("float | None", context.time_remaining())
                return status_of(known, request_id=request_id, remaining_s=remaining_s), ""
            except Exception as fault:  # saying what went wrong must not itself go wrong unsaid
                error = fault
        incident = secrets.token_hex(8)
        kind = type_name(error)
        _log.error(
            "incident %s: %s in %s, request %s\n%s", incident, kind, method, request_id, stack_of(error)
        )
        span.set_attribute(names.INCIDENT, incident)
        return incident_status(incident, request_id=request_id), kind


_HANDLERS: Final[dict[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By (request streaming, response streaming)."""


class _Unreadable(NamedTuple):
    """A request that is no protobuf message of its type."""

    byte_count: int


def _readable(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Let bytes that are no message reach the handler's edge: gRPC itself answers them UNKNOWN, without details."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable(len(data))

    return read


def _writing(behavior: Callable[[Any, Context], AsyncGenerator[Any, None]]) -> Behavior:
    """Turn a handler that yields into one that writes, in the RPC's own task."""

    async def write_all(request: Any, context: Context) -> None:
        async with aclosing(behavior(request, context)) as messages:
            async for message in messages:
                try:
                    await context.write(message)
                except grpc.aio.InternalError as error:
                    await until_cancelled(error)

    return write_all


async def until_cancelled(error: grpc.aio.InternalError) -> NoReturn:
    """Turn a write that failed because the caller is gone into the cancellation that follows.

    gRPC fails the write in progress when the caller leaves or its deadline passes, and cancels the RPC's task a moment
    later: in the middle of whatever the handler then does to clean up. Waited for here, it comes once and at one place.

    Raises:
        CancelledError: Always.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_CANCEL_FOLLOWS_S):
            await asyncio.get_running_loop().create_future()
    raise asyncio.CancelledError from error


def _read_metadata(context: Context) -> tuple[str, str, str]:
    """Return request id, traceparent and tracestate as sent, "" where absent; the first of each counts."""
    request_id = traceparent = tracestate = ""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            request_id = request_id or str(value)
        elif key == "traceparent":
            traceparent = traceparent or str(value)
        elif key == "tracestate":
            tracestate = ",".join((tracestate, str(value))) if tracestate else str(value)
    return request_id, traceparent, tracestate


def _usable(request_id: str) -> bool:
    """Whether a caller's id may go into logs, metadata and the ledger as it is."""
    return (
        0 < len(request_id) <= MAX_REQUEST_ID
        and request_id.isascii()
        and request_id.isprintable()
        and " " not in request_id
    )


_CODE_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


def _code_of(context: Context) -> str:
    """Return the name of the code the context holds: an enum, an int, or None for OK."""
    code: Any = context.code()
    if code is None:
        return "OK"
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return _CODE_NAMES.get(code, "UNKNOWN")


def _as_router_error(error: Exception) -> RouterError | None:
    """Return the RouterError in `error`; also a task group's first, if the group holds nothing else."""
    if isinstance(error, RouterError):
        return error
    if isinstance(error, ExceptionGroup):
        inner = [_as_router_error(each) for each in error.exceptions]
        return inner[0] if None not in inner else None
    return None
