"""Anthropic's errors as ours: one table.

Source: A-ERR (platform.claude.com/docs/en/api/errors) and the SDK's list of error codes, 2026-11. The
stable code decides first, then the type, then the HTTP status; wording decides only where the API has
nothing else.
"""

import re
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import anthropic
import httpx2

from router.errors import (
    UpstreamError,
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpendLimited,
    UpstreamUnauthorized,
)
from router.upstreams.faults import TRANSPORT_ERRORS, failed, from_transport, refused, shown, wait_s

NAME = "anthropic"
CAUGHT: tuple[type[Exception], ...] = (anthropic.AnthropicError, *TRANSPORT_ERRORS)
"""What a call through the SDK may raise for reasons outside this process."""

BY_CODE: dict[str, type[UpstreamError]] = {
    "enforced_spend_limit_reached": UpstreamSpendLimited,
    "contract_spend_limit_reached": UpstreamSpendLimited,
    "ramp_limit_exceeded": UpstreamRateLimited,
}
BY_TYPE: dict[str, type[UpstreamError]] = {
    "invalid_request_error": UpstreamRejected,
    "authentication_error": UpstreamUnauthorized,
    "billing_error": UpstreamUnauthorized,
    "permission_error": UpstreamUnauthorized,
    "not_found_error": UpstreamModelMissing,  # the model is the only thing we name
    "conflict_error": UpstreamFailed,
    "request_too_large": UpstreamRejected,
    "rate_limit_error": UpstreamRateLimited,
    "api_error": UpstreamFailed,
    "timeout_error": UpstreamFailed,
    "overloaded_error": UpstreamOverloaded,
}
BY_STATUS: dict[int, type[UpstreamError]] = {
    401: UpstreamUnauthorized,
    402: UpstreamUnauthorized,
    403: UpstreamUnauthorized,
    408: UpstreamFailed,
    409: UpstreamFailed,
    429: UpstreamRateLimited,
    503: UpstreamOverloaded,
    529: UpstreamOverloaded,
}
BY_WORDING: tuple[tuple[str, type[UpstreamError]], ...] = (
    ("You have reached your specified API usage limits", UpstreamSpendLimited),
    ("Your credit balance is too low", UpstreamUnauthorized),
)
"""400s that are not about the request (A-ERR; wording unstable, so unmatched ones stay UpstreamRejected)."""

_SHOULD_RETRY = {"true": True, "false": False}
"""The provider's own word, which goes before the table, as in its SDK (A-SDK, 2026-11)."""

_PATH = re.compile(
    r"((?:messages|system|tools|tool_choice|max_tokens|model|thinking|output_config|output_format|temperature"
    r"|top_p|top_k|stop_sequences|metadata|cache_control|stream|service_tier|inference_geo|speed|diagnostics"
    r"|context_management)(?:\.(?:[0-9]{1,6}|[a-z][a-z0-9_]{0,39})){0,12}): "
)
_FROM_HERE_THE_CALLERS = re.compile(r"(?<=\.input_schema)\..*|(?<=\.schema)\..*|(?<=\.input)\..*")
"""Below these a path goes on with names of the caller's own."""
_PHRASE = re.compile(r"(?:[a-z0-9_.]+: )?(prompt is too long(?:: [0-9]+ tokens > [0-9]+ maximum)?)")
"""A-ERR's fixed wording of a request that does not fit the context window."""

_THINKING = re.compile(r"`(?:redacted_)?thinking`|\bthinking\b[^\n]{0,40}\bblocks?\b")
_SETTING = re.compile(r'"?thinking\.|thinking: ')
"""Refusals of blocks of thinking that came back (edited, of another key, bound to a prompt that has changed; A-ERR and
A-THINK, 2026-11), told from those of how to think. The wording is not stable: one missed stays a refusal, one taken
for it costs another refusal, which is free.
"""


def error_class(status: int | None, type_: str, code: str, message: str) -> type[UpstreamError]:
    """Return our class for an error body; `status` None inside a stream."""
    if code in BY_CODE:
        return BY_CODE[code]
    for opening, kind in BY_WORDING:
        if type_ == "invalid_request_error" and message.startswith(opening):
            return kind
    if type_ in BY_TYPE:
        return BY_TYPE[type_]
    if status in BY_STATUS:
        return BY_STATUS[status]
    return UpstreamRejected if status is not None and 400 <= status < 500 else UpstreamFailed


def from_sdk(error: BaseException, model: str, secret: str, timeout_s: float) -> UpstreamError:
    """Map what the SDK raised."""
    if isinstance(error, anthropic.APIStatusError):
        return from_body(
            status=error.status_code,
            type_=_text(error.type),
            code=_text(error.error_code),
            message=_text(error.api_message),
            model=model,
            secret=secret,
            request_id=error.request_id or "",
            headers=error.response.headers,
        )
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) and error.__cause__ else error
    if isinstance(cause.__cause__, aiohttp.ClientError):
        # The SDK's transport calls a connection that broke, after the request had left, one that was never made.
        cause = cause.__cause__
    return from_transport(cause, NAME, model, timeout_s)


def from_body(
    *,
    status: int | None,
    type_: str,
    code: str,
    message: str,
    model: str,
    secret: str,
    request_id: str,
    headers: Mapping[str, str] | httpx2.Headers | None = None,
) -> UpstreamError:
    """Build our error from the fields of an error body, at the start of an answer or inside a stream."""
    kind = error_class(status, type_, code, message)
    label = code or type_ or (f"HTTP {status}" if status else "error")
    if kind is UpstreamRejected:
        told = refused(shown(label, secret), status, _path(message), _phrase(message), request_id)
    else:
        told = failed(label, shown(message, secret), status)
    named = kind(
        NAME,
        told,
        model=model,
        http_status=status,
        upstream_request_id=request_id,
        retry_after_s=_retry_after_s(headers) if headers is not None else None,
        retryable=_SHOULD_RETRY.get(headers.get("x-should-retry", "")) if headers is not None else None,
    )
    if kind is UpstreamRejected and _THINKING.search(message) and not _SETTING.match(message):
        named.about_thinking = True
    return named


def _path(message: str) -> str:
    found = _PATH.match(message)
    return _FROM_HERE_THE_CALLERS.sub("", found[1]) if found else ""


def _phrase(message: str) -> str:
    found = _PHRASE.match(message)
    return found[1] if found else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _retry_after_s(headers: Mapping[str, str] | httpx2.Headers) -> float | None:
    finer = wait_s(headers.get("retry-after-ms", ""), time.time(), 0.001)
    if finer is not None:
        return finer
    return wait_s(headers.get("retry-after", ""), time.time())
