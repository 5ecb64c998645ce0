"""Failures below both adapters: transport errors, waits asked for, and messages fit to show.

The rule: an error of the layer below becomes one class of `router.errors` here or in the provider's own table, and
nowhere else. A message is trimmed and freed of the credential. What a provider says about a request it refused may
quote the prompt, so of that only names go on: type, HTTP status, path of the field, request id. This module does not
know what a provider's error bodies look like.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite

import aiohttp
import httpx2

from router.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from router.upstreams.wire import mended

MESSAGE_LIMIT = 300
"""Characters kept of a provider's message about itself (load, rates, credentials)."""
MAX_WAIT_S = 86_400.0
"""The longest wait believed: a day. What asks for more is a limit to be lifted, not a moment to wait for."""

TRANSPORT_ERRORS = (httpx2.HTTPError, aiohttp.ClientError, TimeoutError, OSError)
"""What the HTTP layers under the SDKs raise; everything else is a bug and passes through."""

_NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientConnectorError,
)
"""Failures before the request left: nothing can have been billed."""


_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def failed(label: str, text: str, status: int | None) -> str:
    """Say what a provider, or what stands before it, said of itself.

    Args:
        label: The provider's name of the error, or the HTTP status.
        text: Its message, as `shown`; "" for none.
    """
    if not text and status in _REDIRECTS:
        text = "redirects are not followed; base_url has to name the provider itself"
    return f"{label}: {text}" if text else label


def shown(message: str, secret: str) -> str:
    """Return a provider's message for a caller: one line, at most MESSAGE_LIMIT long, `secret` masked."""
    line = " ".join(mended(message[: 4 * MESSAGE_LIMIT]).split())
    if secret:
        line = line.replace(secret, "***")
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def refused(label: str, status: int | None, path: str, phrase: str, request_id: str) -> str:
    """Say that a request was refused without a word the request may have put into the provider's mouth.

    Args:
        label: The provider's name of the error.
        status: HTTP status, None inside a stream.
        path: Field the provider named, "" for none.
        phrase: A documented fixed phrase it used, "" for none.
        request_id: The provider's id, under which it can look the rest up; "" when unknown.
    """
    facts = [
        f"HTTP {status}" if status is not None and label != f"HTTP {status}" else "",
        f"at {path}" if path else "",
        phrase,
        f"request {request_id}" if request_id else "",
    ]
    return ": ".join(part for part in (label, ", ".join(fact for fact in facts if fact)) if part)


def wait_s(value: str, now_s: float, unit_s: float = 1.0) -> float | None:
    """Read a Retry-After header: seconds (fractions allowed) or an HTTP date.

    Args:
        value: The header's value, "" when absent.
        now_s: Seconds since the epoch, for dates.
        unit_s: What a bare number counts, in seconds.

    Returns:
        Seconds from now, 0 to MAX_WAIT_S; None when absent or unreadable.
    """
    if not value:
        return None
    try:
        seconds = float(value) * unit_s
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - now_s
    return min(max(0.0, seconds), MAX_WAIT_S) if isfinite(seconds) else None


def from_transport(error: BaseException, upstream: str, model: str, timeout_s: float) -> UpstreamError:
    """Name a failure of the connection; the words hold before and within an answer."""
    if isinstance(error, _NEVER_SENT):
        return UpstreamUnreachable(upstream, f"no connection ({type(error).__name__})", model=model)
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return UpstreamTimeout(upstream, f"no whole answer within {timeout_s:g} s", model=model)
    broken = UpstreamUnreachable(upstream, f"the connection broke ({type(error).__name__})", model=model)
    # The request may have arrived before the connection broke: nobody but the provider knows whether it bills it.
    broken.may_be_billed = True
    return broken
