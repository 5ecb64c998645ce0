"""From RouterError to gRPC status: the one table, and the google.rpc details that go with each row.

The rule: an error class has exactly one row, and a test asserts that the table is whole. Codes are
chosen by what a client library does with them by itself: UNAVAILABLE only where a blind retry is safe
and nothing was billed, DEADLINE_EXCEEDED, ABORTED and INTERNAL where a retry would be billed again,
RESOURCE_EXHAUSTED with RetryInfo when waiting helps and with QuotaFailure when it does not.
`ErrorInfo.reason` tells apart what shares a code. What every documented error of both providers becomes is printed in
`tests/golden/error_table.txt`, which a test writes from the real SDKs and keeps current.

Beside RetryInfo, which only code reads, goes `grpc-retry-pushback-ms`, which gRPC's own retries obey (gRFC A6): the
wait asked for, or -1 for "do not" where a blind retry would be refused again, be billed again, or wait longer than a
channel should without a word: then the caller is told at once and decides.

Details travel in `grpc-status-details-bin`, trailing metadata that HTTP/2 stacks bound to a few KiB
(grpc's soft limit is 8 KiB), so every text is cut to a stated number of bytes. This module knows nothing
of requests in progress.
"""

from collections.abc import Iterable, Mapping
from math import ceil
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RequestInfo,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status as StatusProto
from grpc_status import rpc_status

from router import errors

DOMAIN: Final = "hybrid-router"
"""google.rpc.ErrorInfo.domain of every error of this service."""

INCIDENT_REASON: Final = "INTERNAL_INCIDENT"
"""ErrorInfo.reason when something unforeseen failed; `metadata.incident` is the id to look for in the log."""

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key under which a request id comes in and goes out."""

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""Trailing metadata by which a server steers a channel's retry policy."""

PUSHBACK_LIMIT_S: Final = 5.0
"""Longest wait a channel is asked for, as long as our own client's streams wait by default."""

STOP: Final = -1
"""Pushback that ends a channel's retries."""

MESSAGE_BYTES: Final = 512
"""Longest text of a status, in UTF-8 bytes; grpc-message percent-encodes, so up to three times that on
the wire."""

VALUE_BYTES: Final = 128
"""Longest name, id or metadata value in the details, in UTF-8 bytes."""

RETRY_LIMIT_S: Final = 86_400.0
"""Longest wait passed on to a caller, a day: a provider may ask for any length, a Duration holds no such thing."""

LEDGER_RETRY_S: Final = 1.0
"""Advised wait while the ledger cannot take an intent: its writer commits in groups, well within a second."""

_CODE: Final = grpc.StatusCode

STATUS: Final[Mapping[type[errors.RouterError], grpc.StatusCode]] = MappingProxyType(
    {
        errors.RouterError: _CODE.INTERNAL,
        errors.InvalidRequest: _CODE.INVALID_ARGUMENT,
        errors.NotFound: _CODE.NOT_FOUND,
        errors.PreconditionFailed: _CODE.FAILED_PRECONDITION,
        errors.NotSupported: _CODE.FAILED_PRECONDITION,
        errors.AlreadyExists: _CODE.ALREADY_EXISTS,
        errors.Conflict: _CODE.ABORTED,
        errors.SessionBusy: _CODE.ABORTED,
        errors.SessionTooLarge: _CODE.FAILED_PRECONDITION,
        errors.SessionsFull: _CODE.RESOURCE_EXHAUSTED,
        errors.NoRoute: _CODE.FAILED_PRECONDITION,
        errors.BudgetExceeded: _CODE.RESOURCE_EXHAUSTED,
        errors.DeadlineTooShort: _CODE.DEADLINE_EXCEEDED,
        errors.Overloaded: _CODE.RESOURCE_EXHAUSTED,
        # Nothing was sent: a channel may come back by itself, after the wait in RetryInfo.
        errors.CircuitOpen: _CODE.UNAVAILABLE,
        errors.LedgerUnavailable: _CODE.UNAVAILABLE,
        errors.UpstreamError: _CODE.INTERNAL,
        errors.UpstreamRejected: _CODE.INVALID_ARGUMENT,
        # The credential and the model are the operator's, not the caller's: to a caller this is our fault.
        errors.UpstreamUnauthorized: _CODE.INTERNAL,
        errors.UpstreamModelMissing: _CODE.INTERNAL,
        errors.UpstreamRateLimited: _CODE.RESOURCE_EXHAUSTED,
        errors.UpstreamSpendLimited: _CODE.RESOURCE_EXHAUSTED,
        errors.UpstreamOverloaded: _CODE.UNAVAILABLE,
        errors.UpstreamFailed: _CODE.UNAVAILABLE,
        errors.UpstreamTimeout: _CODE.DEADLINE_EXCEEDED,
        errors.UpstreamUnreachable: _CODE.UNAVAILABLE,
        errors.UpstreamMalformed: _CODE.INTERNAL,
        # What was delivered stays billed: "retry at a higher level", not by the channel's retry policy.
        errors.UpstreamInterrupted: _CODE.ABORTED,
    }
)
"""Status of each error class."""

Metadata = tuple[tuple[str, str | bytes], ...]


def code_of(error: errors.RouterError) -> grpc.StatusCode:
    """Return the status code of an error; a class without a row of its own takes its nearest ancestor's.

    A connection that broke after the request left shares its class with one that never stood; only the latter is
    UNAVAILABLE.
    """
    for cls in type(error).__mro__:
        code = STATUS.get(cls)
        if code is not None:
            billed = isinstance(error, errors.UpstreamError) and error.may_be_billed
            # A client library retries UNAVAILABLE by itself, and what may have been billed must not be sent blindly.
            return _CODE.ABORTED if billed and code is _CODE.UNAVAILABLE else code
    raise TypeError(f"{type(error).__qualname__} is no RouterError")


def pushback_ms(error: errors.RouterError, remaining_s: float | None = None) -> int | None:
    """Say when a channel may send the same request again by itself.

    Args:
        remaining_s: Time left of the caller's deadline, None when it set none.

    Returns:
        Milliseconds to wait, `STOP` for never, None for the channel's own backoff.
    """
    if isinstance(error, errors.UpstreamError):
        may_pass = error.retryable and not error.may_be_billed and error.usage is None
    else:
        may_pass = isinstance(error, _MAY_PASS)
    if not may_pass or isinstance(error, errors.UpstreamSpendLimited):
        return STOP
    wait_s = _wait_s(error)
    if wait_s is None:
        return None
    if wait_s > PUSHBACK_LIMIT_S or (remaining_s is not None and wait_s >= remaining_s):
        return STOP
    return ceil(max(0.0, wait_s) * 1e3)


_MAY_PASS: Final = (errors.SessionBusy, errors.Overloaded, errors.CircuitOpen, errors.LedgerUnavailable)
"""Refusals of our own that end by themselves, with nothing sent."""


def _wait_s(error: errors.RouterError) -> float | None:
    """The wait told to the caller in RetryInfo, None for none."""
    match error:
        case errors.Overloaded() | errors.CircuitOpen():
            return error.retry_after_s
        case errors.LedgerUnavailable():
            return LEDGER_RETRY_S
        case errors.UpstreamSpendLimited():
            return None
        case errors.UpstreamError():
            return error.retry_after_s
        case _:
            return None


def status_of(
    error: errors.RouterError, *, request_id: str = "", remaining_s: float | None = None
) -> grpc.Status:
    """Spell an error as a gRPC status with google.rpc details.

    Args:
        error: What went wrong; its message goes to the caller as it is, cut to `MESSAGE_BYTES`.
        request_id: Added as google.rpc.RequestInfo and echoed in the trailing metadata; "" for none.
        remaining_s: Time left of the caller's deadline, None when it set none.

    Returns:
        Code, message and trailing metadata, ready for `context.abort_with_status`.
    """
    pushback = pushback_ms(error, remaining_s)
    return _assemble(code_of(error), str(error), _details(error), request_id, pushback)


def incident_status(incident: str, *, request_id: str = "") -> grpc.Status:
    """Spell an unforeseen failure: no text of the exception, only the id under which it was logged."""
    info = ErrorInfo(
        reason=INCIDENT_REASON, domain=DOMAIN, metadata={"incident": _cut(incident, VALUE_BYTES)}
    )
    message = f"internal error; quote incident {incident} to the operator"
    return _assemble(_CODE.INTERNAL, message, [info], request_id, STOP)


def _assemble(
    code: grpc.StatusCode, message: str, details: Iterable[Message], request_id: str, pushback: int | None
) -> grpc.Status:
    proto = StatusProto(code=code.value[0], message=_cut(message, MESSAGE_BYTES))
    for detail in details:
        proto.details.append(_packed(detail))
    if request_id:
        proto.details.append(_packed(RequestInfo(request_id=request_id)))
    status: grpc.Status = rpc_status.to_status(proto)
    more: Metadata = ((REQUEST_ID_KEY, request_id),) if request_id else ()
    if pushback is not None:
        more += ((PUSHBACK_KEY, str(pushback)),)
    if more:
        status = status._replace(trailing_metadata=(*status.trailing_metadata, *more))  # type: ignore[attr-defined]
    return status


def _details(error: errors.RouterError) -> list[Message]:
    """Details of one error: always ErrorInfo, then what a client can act on."""
    facts: dict[str, str] = {}
    more: list[Message] = []
    match error:
        case errors.InvalidRequest():
            violation = BadRequest.FieldViolation(
                field=_cut(error.field, VALUE_BYTES), description=_cut(error.problem, MESSAGE_BYTES)
            )
            more.append(BadRequest(field_violations=[violation]))
        case errors.NotFound():
            more.append(
                ResourceInfo(
                    resource_type=_cut(error.kind, VALUE_BYTES), resource_name=_cut(error.name, VALUE_BYTES)
                )
            )
        case errors.BudgetExceeded() | errors.UpstreamSpendLimited() | errors.SessionsFull():
            subject = "sessions" if isinstance(error, errors.SessionsFull) else "budget"
            violation_text = _cut(str(error), MESSAGE_BYTES // 2)
            more.append(
                QuotaFailure(violations=[QuotaFailure.Violation(subject=subject, description=violation_text)])
            )
        case errors.DeadlineTooShort():
            facts["remaining_s"] = f"{error.remaining_s:.3f}"
    if isinstance(error, errors.UpstreamError):
        facts |= _upstream_facts(error)
    wait_s = _wait_s(error)
    if wait_s is not None:
        more.append(_retry_after(wait_s))
    return [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts), *more]


def _upstream_facts(error: errors.UpstreamError) -> dict[str, str]:
    facts = {
        "upstream": error.upstream,
        "model": error.model,
        "upstream_request_id": error.upstream_request_id,
        "http_status": "" if error.http_status is None else str(error.http_status),
        "billed": "yes" if error.usage is not None else "maybe" if error.may_be_billed else "no",
    }
    return {key: _cut(value, VALUE_BYTES) for key, value in facts.items() if value}


def _retry_after(delay_s: float) -> RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(round(min(max(0.0, delay_s), RETRY_LIMIT_S) * 1e9))
    return RetryInfo(retry_delay=delay)


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _cut(text: str, limit_bytes: int) -> str:
    """Cut `text` to at most `limit_bytes` of UTF-8, ending in "..." when something was cut.

    Lone surrogates, which a provider's JSON may escape and protobuf refuses, become "?".
    """
    if len(text) <= limit_bytes and text.isascii():
        return text
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit_bytes:
        return encoded.decode()
    return encoded[: limit_bytes - 3].decode("utf-8", "ignore") + "..."
