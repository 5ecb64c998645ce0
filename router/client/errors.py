"""What a call can fail with, one class per thing a caller does about it.

    CallFailed
    ├── InvalidRequest      INVALID_ARGUMENT      fix the field named in `violations`
    ├── NotFound            NOT_FOUND             unknown application, session, request
    ├── AlreadyExists       ALREADY_EXISTS        a session of this id is open: go on with it, or close it first
    ├── Refused             FAILED_PRECONDITION   no route can or may take this request, or its session is too large
    ├── Conflict            ABORTED               a session moved on, or an answer broke off: begin again knowingly
    ├── Exhausted           RESOURCE_EXHAUSTED    load or rate limit (`retry_delay_s` is set), or a budget (it is None)
    ├── DeadlineExceeded    DEADLINE_EXCEEDED     the time was up; what was produced by then is billed
    ├── Unavailable         UNAVAILABLE           no connection, or a provider down; the client's own retries are over
    ├── Cancelled           CANCELLED             cancelled on the way, or a stream closed before its end
    ├── Denied              UNAUTHENTICATED, PERMISSION_DENIED, from whatever stands in front
    ├── Unimplemented       UNIMPLEMENTED         the server's release does not have this RPC
    └── ServerFault         everything else       quote `request_id`, and `facts["incident"]` if there is one

The rule: an error says what the server said in google.rpc details, and nothing of what was asked or answered, so it
can be logged. Knows nothing of retries.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key under which a request id goes out and comes back."""
DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata that holds a google.rpc.Status."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A field that is wrong.

    Attributes:
        field: Its path in the request, e.g. "messages[2].parts[0].text".
        problem: What is wrong with it, with value and limit.
    """

    field: str
    problem: str


class CallFailed(Exception):
    """Base of every error a call to the router ends with.

    Attributes:
        code: The gRPC status code.
        message: The server's sentence, or gRPC's own when no server answered.
        reason: Stable name of what happened (google.rpc.ErrorInfo.reason), "" when the server sent none, as for a
            lost connection.
        violations: Fields to correct; only in `InvalidRequest`.
        retry_delay_s: Wait the server advises before another try, seconds; None when waiting does not help or
            nothing was said.
        request_id: Id to quote to the operator: the caller's own, or the one made for the call.
        facts: More of it (google.rpc.ErrorInfo.metadata): upstream, model, "billed", "incident".
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        violations: tuple[Violation, ...] = (),
        retry_delay_s: float | None = None,
        request_id: str = "",
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.reason = reason
        self.violations = violations
        self.retry_delay_s = retry_delay_s
        self.request_id = request_id
        self.facts: Mapping[str, str] = facts or {}
        name = f"{code.name} ({reason})" if reason else code.name
        asked = f" [request {request_id}]" if request_id else ""
        super().__init__(f"{name}: {message}{asked}")


class InvalidRequest(CallFailed):
    """A field is wrong; the same request fails again."""


class NotFound(CallFailed):
    """Something named in the request does not exist, or belongs to another tenant."""


class AlreadyExists(CallFailed):
    """What was to be made under this name is there already."""


class Refused(CallFailed):
    """No route can take this content, the constraints leave none, or its session has no room for it."""


class Conflict(CallFailed):
    """Something moved on or broke off after it may have been billed; nothing retries this by itself."""


class Exhausted(CallFailed):
    """Too much: with `retry_delay_s` later is better, without it a budget or spend cap is used up."""


class DeadlineExceeded(CallFailed):
    """The time was up."""


class Unavailable(CallFailed):
    """Nobody could answer now."""


class Cancelled(CallFailed):
    """The call was cancelled on the way, or its result asked for after it was closed."""


class Denied(CallFailed):
    """Whatever guards the service did not let the call pass."""


class Unimplemented(CallFailed):
    """The server's release does not have this RPC."""


class ServerFault(CallFailed):
    """Something failed in the service, or between it and its provider."""


_KINDS: Final[Mapping[grpc.StatusCode, type[CallFailed]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


def failure(error: grpc.RpcError, request_id: str) -> CallFailed:
    """Turn gRPC's error into the typed one; details that cannot be read are left out, never an error of their own.

    Args:
        request_id: As it was sent; what the server says it is counts more.
    """
    # A blocking call's RpcError is also a Call, as is aio's AioRpcError; the type stubs know only the latter.
    call: Any = error
    return failure_of(call.code(), call.details() or "", call.trailing_metadata() or (), request_id)


def failure_of(
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: Iterable[tuple[str, str | bytes]],
    request_id: str,
) -> CallFailed:
    """Spell a status with its trailing metadata as an error."""
    reason, facts = "", {}
    retry_delay_s: float | None = None
    violations: list[Violation] = []
    for key, value in trailing_metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            for detail in _details(value):
                match detail:
                    case ErrorInfo():
                        reason, facts = detail.reason, dict(detail.metadata)
                    case RetryInfo():
                        retry_delay_s = detail.retry_delay.ToNanoseconds() / 1e9
                    case RequestInfo():
                        request_id = detail.request_id or request_id
                    case BadRequest():
                        violations += [
                            Violation(each.field, each.description) for each in detail.field_violations
                        ]
    return _KINDS.get(code, ServerFault)(
        code,
        message,
        reason=reason,
        violations=tuple(violations),
        retry_delay_s=retry_delay_s,
        request_id=request_id,
        facts=facts,
    )


def unfinished(*, closed: bool, request_id: str) -> CallFailed:
    """Say that a stream ended without its last event: closed by its caller, or cut by something in between."""
    if closed:
        return Cancelled(
            grpc.StatusCode.CANCELLED, "the stream was closed before its last event", request_id=request_id
        )
    return ServerFault(
        grpc.StatusCode.UNKNOWN, "the stream ended without its last event", request_id=request_id
    )


def _details(packed: bytes) -> list[Any]:
    try:
        return [
            kind.FromString(each.value)
            for each in Status.FromString(packed).details
            for kind in (ErrorInfo, RetryInfo, RequestInfo, BadRequest)
            if each.Is(kind.DESCRIPTOR)
        ]
    except DecodeError:
        return []
