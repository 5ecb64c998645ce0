"""Failures below both adapters: transport errors, waits asked for, and messages fit to show.

The rule: an error of the layer below becomes one class of `router.errors` here or in the provider's own
table, and nowhere else. A message is trimmed and freed of the credential; bodies and prompts never enter it.
This module does not know what a provider's error bodies look like.
"""

from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite

import aiohttp
import httpx2

from router.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable

MESSAGE_LIMIT = 300
"""Characters kept of a provider's message: a 400 may quote what was sent."""

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


def shown(message: str, secret: str) -> str:
    """Return a provider's message for a caller: one line, at most MESSAGE_LIMIT long, `secret` masked."""
    line = " ".join(message[: 4 * MESSAGE_LIMIT].split())
    if secret:
        line = line.replace(secret, "***")
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def wait_s(value: str, now_s: float) -> float | None:
    """Read a Retry-After header: seconds (fractions allowed) or an HTTP date.

    Args:
        value: The header's value, "" when absent.
        now_s: Seconds since the epoch, for dates.

    Returns:
        Seconds from now, >= 0; None when absent or unreadable.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - now_s
    return max(0.0, seconds) if isfinite(seconds) else None


def from_transport(error: BaseException, upstream: str, model: str, timeout_s: float) -> UpstreamError:
    """Name a failure of the connection before an answer began."""
    if isinstance(error, _NEVER_SENT):
        return UpstreamUnreachable(upstream, f"no connection ({type(error).__name__})", model=model)
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return UpstreamTimeout(upstream, f"no answer within {timeout_s:g} s", model=model)
    broken = UpstreamUnreachable(
        upstream, f"the connection broke before an answer began ({type(error).__name__})", model=model
    )
    # The request may have arrived before the connection broke: nobody but the provider knows whether it bills it.
    broken.may_be_billed = True
    return broken
