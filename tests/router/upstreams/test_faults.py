"""Transport failures, waits and messages are named once for both providers."""

import aiohttp
import httpx2
import pytest

from router.errors import UpstreamTimeout, UpstreamUnreachable
from router.upstreams.faults import MESSAGE_LIMIT, from_transport, shown, wait_s

NOW_S = 1_794_997_600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("30", 30.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("1e300", 86_400.0),
        ("Wed, 18 Nov 2099 10:26:50 GMT", 86_400.0),
        ("Wed, 99 Nov 99999 10:26:50 GMT", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Wed, 18 Nov 2026 10:26:50 GMT", 10.0),
        ("Wed, 18 Nov 2026 10:26:40 -0000", 0.0),
        ("Tue, 17 Nov 2026 10:26:40 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str, seconds: float | None) -> None:
    """Both forms of RFC 9110 count, nonsense is unknown, and a moment past is now."""
    assert wait_s(value, NOW_S) == seconds


def test_messages_are_trimmed_and_hold_no_secret() -> None:
    """A provider may quote the key or the prompt; a caller sees one short line without the key."""
    told = shown("Consumer 'api_key:sk-secret'\n has been suspended. " + "x" * 5000, "sk-secret")
    assert told.startswith("Consumer 'api_key:***' has been")
    assert len(told) == MESSAGE_LIMIT
    assert "\n" not in told
    assert shown("a\ud83d", "") == "a\ufffd"


REQUEST = httpx2.Request("POST", "http://x")
TIMEOUTS = [TimeoutError(), httpx2.ReadTimeout("", request=REQUEST), aiohttp.SocketTimeoutError()]
BREAKS = [
    httpx2.ConnectTimeout("", request=REQUEST),
    httpx2.ConnectError("", request=REQUEST),
    httpx2.RemoteProtocolError("", request=REQUEST),
    aiohttp.ConnectionTimeoutError(),
    aiohttp.ServerDisconnectedError(),
    ConnectionResetError(),
]


@pytest.mark.parametrize("error", TIMEOUTS, ids=lambda error: type(error).__name__)
def test_silence_is_a_timeout_that_may_be_billed(error: Exception) -> None:
    """The request went out, so the provider may have answered to nobody."""
    named = from_transport(error, "gemini", "m", 2.5)
    assert type(named) is UpstreamTimeout
    assert named.may_be_billed
    assert "2.5 s" in str(named)


@pytest.mark.parametrize("error", BREAKS, ids=lambda error: type(error).__name__)
def test_a_broken_or_missing_connection_is_unreachable(error: Exception) -> None:
    """A timeout of connecting belongs here: nothing was sent."""
    assert type(from_transport(error, "gemini", "m", 2.5)) is UpstreamUnreachable
