"""Gemini's errors as ours: one table.

Source: G-ERR, G-RATE (ai.google.dev/gemini-api/docs/troubleshooting, .../rate-limits), 2026-11. The reason
in the details decides first (a wrong key is a 400), then the status name, then the HTTP status. The wait
asked for stands in the body, not in a header.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from google.genai import errors as sdk_errors

from router.errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamMalformed,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpendLimited,
    UpstreamUnauthorized,
)
from router.upstreams.faults import TRANSPORT_ERRORS, failed, from_transport, refused, shown, wait_s
from router.upstreams.wire import fitted, header_text

NAME = "gemini"
CAUGHT: tuple[type[Exception], ...] = (
    sdk_errors.APIError,
    sdk_errors.UnknownApiResponseError,
    ValueError,
    *TRANSPORT_ERRORS,
)
"""What a call through the SDK may raise for reasons outside this process; a body that is no JSON is a
ValueError.
"""

BY_REASON: dict[str, type[UpstreamError]] = {
    "API_KEY_INVALID": UpstreamUnauthorized,
    "API_KEY_EXPIRED": UpstreamUnauthorized,
    "API_KEY_SERVICE_BLOCKED": UpstreamUnauthorized,
    "CONSUMER_SUSPENDED": UpstreamUnauthorized,
    "BILLING_DISABLED": UpstreamUnauthorized,
    "SERVICE_DISABLED": UpstreamUnauthorized,
}
BY_NAME: dict[str, type[UpstreamError]] = {
    "INVALID_ARGUMENT": UpstreamRejected,
    "OUT_OF_RANGE": UpstreamRejected,
    "FAILED_PRECONDITION": UpstreamUnauthorized,  # region or billing not enabled
    "UNAUTHENTICATED": UpstreamUnauthorized,
    "PERMISSION_DENIED": UpstreamUnauthorized,
    "NOT_FOUND": UpstreamModelMissing,  # the model is the only thing we name
    "RESOURCE_EXHAUSTED": UpstreamRateLimited,
    "CANCELLED": UpstreamFailed,
    "ABORTED": UpstreamFailed,
    "INTERNAL": UpstreamFailed,
    "UNKNOWN": UpstreamFailed,
    "UNAVAILABLE": UpstreamOverloaded,
    "DEADLINE_EXCEEDED": UpstreamFailed,
}
BY_STATUS: dict[int, type[UpstreamError]] = {
    401: UpstreamUnauthorized,
    403: UpstreamUnauthorized,
    408: UpstreamFailed,
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
}

_PATH = re.compile(
    r"(?:\* GenerateContentRequest\.|Invalid value at ')"
    r"((?:contents|system_?[iI]nstruction|tools|tool_?[cC]onfig|generation_?[cC]onfig|safety_?[sS]ettings|model)"
    r"(?:\[[0-9]{1,6}\])?(?:\.[A-Za-z_]{1,40}(?:\[[0-9]{1,6}\])?){0,12})(?:'|: )"
)
_FROM_HERE_THE_CALLERS = re.compile(
    r"(?<=\.parameters)\..*|(?<=[sS]chema)\..*|(?<=\.args)\..*|(?<=\.response)\..*"
)
"""Below these a path goes on with names of the caller's own."""


class _Violation(msgspec.Struct, rename="camel"):
    quota_id: str = ""
    quota_metric: str = ""


class _Detail(msgspec.Struct, rename="camel"):
    """Any of the google.rpc details."""

    reason: str = ""
    retry_delay: str = ""
    violations: list[_Violation] = []


def from_sdk(error: BaseException, model: str, secret: str, timeout_s: float) -> UpstreamError:
    """Map what the SDK raised."""
    if isinstance(error, sdk_errors.APIError):
        body = error.details if isinstance(error.details, dict) else {}
        inner = body.get("error", body)
        headers = getattr(error.response, "headers", None)
        named = from_body(
            status=error.code if isinstance(error.code, int) else None,
            name=header_text(error.status) if isinstance(error.status, str) else "",
            message=error.message if isinstance(error.message, str) and "error" in body else "",
            details=inner.get("details") if isinstance(inner, dict) else None,
            model=model,
            secret=secret,
            request_id=header_text(headers.get("x-request-id", "")) if headers is not None else "",
            headers=headers,
        )
        if isinstance(error.code, int) and 200 <= error.code < 300:
            named.may_be_billed = True  # no answer as documented, but no refusal either
        return named
    if isinstance(error, ValueError):
        return UpstreamMalformed(NAME, "the answer is not the JSON it should be", model=model)
    return from_transport(error, NAME, model, timeout_s)


def from_body(
    *,
    status: int | None,
    name: str,
    message: str,
    details: Any,
    model: str,
    secret: str,
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
) -> UpstreamError:
    """Build our error from the fields of an error body, at the start of an answer or inside a stream.

    Args:
        status: HTTP status, or the body's code inside a stream.
        name: `error.status`, e.g. "RESOURCE_EXHAUSTED".
        message: `error.message`.
        details: `error.details` as decoded JSON, anything else counts as absent.
        request_id: The provider's id of the HTTP request, "" when it gave none.
    """
    known = _details(details)
    kind = _error_class(status, name, known)
    label = next((detail.reason for detail in known if detail.reason), "") or name or f"HTTP {status}"
    if kind is UpstreamRejected:
        told = refused(shown(label, secret), status, _path(message), "", request_id)
    else:
        told = failed(label, shown(message, secret), status)
    return kind(
        NAME,
        told,
        model=model,
        http_status=status,
        upstream_request_id=request_id,
        retry_after_s=_retry_after_s(known, headers),
    )


def _path(message: str) -> str:
    found = _PATH.match(message)
    return _FROM_HERE_THE_CALLERS.sub("", found[1]) if found else ""


def _details(details: Any) -> list[_Detail]:
    known: list[_Detail] = []
    for detail in details if isinstance(details, list) else []:
        try:
            known.append(fitted(detail, _Detail))
        except msgspec.DecodeError:
            continue  # no object
    return known


def _error_class(status: int | None, name: str, details: list[_Detail]) -> type[UpstreamError]:
    for detail in details:
        if detail.reason in BY_REASON:
            return BY_REASON[detail.reason]
    kind = BY_NAME.get(name) or BY_STATUS.get(status or 0)
    if kind is UpstreamRateLimited and any(_is_long(v) for detail in details for v in detail.violations):
        return UpstreamSpendLimited
    if kind is None:
        return UpstreamRejected if status is not None and 400 <= status < 500 else UpstreamFailed
    return kind


def _is_long(violation: _Violation) -> bool:
    """Say whether a quota frees no room within minutes: per day, or of money (G-RATE)."""
    quota = f"{violation.quota_id} {violation.quota_metric}".lower()
    return "perday" in quota or "spend" in quota


def _retry_after_s(details: list[_Detail], headers: Mapping[str, str] | None) -> float | None:
    for detail in details:
        if detail.retry_delay:
            return wait_s(detail.retry_delay.removesuffix("s"), 0.0)
    value = headers.get("retry-after", "") if headers is not None else ""
    return wait_s(value, time.time())
