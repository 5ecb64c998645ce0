"""A provider's call straight over the connection pool under its SDK, in the SDK's own spelling.

The rule: what is sent and where comes from the SDK (address, credential, headers, TLS, pool), and so does what an
answer that is no answer means; only its request and response objects are left out, which cost several times what the
sending does. A `Line` is one path spelled once. Nothing here retries or follows a redirect: a POST is sent once
(aiohttp 3.14 repeats idempotent methods only, `aiohttp.client.IDEMPOTENT_METHODS`), and a credential goes nowhere but
to the address it was given for. The whole call is bounded by the caller's `asyncio.timeout`; of aiohttp's own limits
only that of connecting is used.

This module does not know a provider.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import aiohttp
import httpx2
from multidict import CIMultiDict
from yarl import URL

from router.upstreams.exchange import BODY_LIMIT_BYTES, Exchange, exchange_over
from router.upstreams.plain import Plain
from router.upstreams.relay import HttpxSource, Source

CONNECT_S = 5.0
"""Bound of connecting, TLS included: an address that does not answer is not waited for until the deadline."""
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)


class Line:
    """One path of one provider, on the session its SDK sends through.

    Args:
        session: That session; stays the SDK's.
        url: As the SDK spells it.
        headers: As the SDK gives them to the session, those that change from call to call included.
        settings: What the SDK gives the session with every request besides.
    """

    __slots__ = ("_exchange", "_headers", "_is_new", "_session", "_settings", "_url")

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, str],
        settings: Mapping[str, Any],
    ) -> None:
        self._session = session
        self._url = URL(url)
        self._headers = CIMultiDict(headers)
        self._settings = dict(settings)
        self._exchange: Exchange | None = None
        self._is_new = True

    @property
    def is_open(self) -> bool:
        """Whether the session still takes requests."""
        return not self._session.closed

    async def post(self, body: bytes, own: Mapping[str, str], timeout_s: float) -> aiohttp.ClientResponse:
        """Send `body` once and return when the headers of its answer are in, whatever the status.

        Args:
            own: Headers of this call, of the same names with every call; they take the place of those of the same name,
                or stand behind the others.
            timeout_s: What the caller bounds the call by; connecting takes no longer.

        Raises:
            aiohttp.ClientError, OSError: As `faults.from_transport` names them. Cancelled, the connection is closed.
        """
        exchange = self._exchange_for(body, own)
        if exchange is None:
            return await self._by_session(body, own, timeout_s)
        return await exchange.send(body, own, _bounded(timeout_s))

    def whole(
        self, body: bytes, own: Mapping[str, str], timeout_s: float
    ) -> Coroutine[Any, Any, Plain | aiohttp.ClientResponse]:
        """Send `body` once and return the whole answer where that is plain, otherwise as `post`."""
        exchange = self._exchange_for(body, own)
        if exchange is None:
            return self._by_session(body, own, timeout_s)
        return exchange.whole(body, own, _bounded(timeout_s))

    async def _by_session(
        self, body: bytes, own: Mapping[str, str], timeout_s: float
    ) -> aiohttp.ClientResponse:
        headers = self._headers.copy()
        headers.update(own)
        close_spoilt(self._session)
        return await self._session.post(
            self._url,
            headers=headers,
            data=body,
            allow_redirects=False,
            timeout=_bounded(timeout_s),
            **self._settings,
        )

    def _exchange_for(self, body: bytes, own: Mapping[str, str]) -> Exchange | None:
        if self._is_new:
            self._is_new = False
            self._exchange = exchange_over(self._session, self._url, self._headers, own, self._settings)
        return self._exchange if len(body) <= BODY_LIMIT_BYTES else None


def close_spoilt(session: aiohttp.ClientSession) -> None:
    """Close the session's idle connections over which something came: aiohttp would hand them out, and take an answer
    to nobody for the next request's (aiohttp 3.14, `BaseConnector._get` asks only whether a connection is open).
    """
    for idle in getattr(getattr(session, "connector", None), "_conns", {}).values():
        for protocol, _ in idle:
            if protocol.should_close:
                protocol.close()


def _bounded(timeout_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=timeout_s) if timeout_s < CONNECT_S else _CONNECT


class AiohttpSource:
    """The body of a streamed aiohttp response."""

    __slots__ = ("_response",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """Return what has arrived; b"" at the end."""
        return await self._response.content.readany()

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        give_back(self._response)


def give_back(response: aiohttp.ClientResponse) -> None:
    """Return the connection to the pool if the body was read to its end, else close it."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


def as_httpx(response: aiohttp.ClientResponse, content: bytes | None = None) -> httpx2.Response:
    """Return the response as the SDK's transport hands it on: with the httpx2 objects its errors are made from.

    Args:
        response: Received without decompression.
        content: Its body as it came, None to read it as a stream.

    Raises:
        httpx2.DecodingError: The body is not in the encoding its headers name.
    """
    return httpx2.Response(
        response.status,
        headers=response.raw_headers,
        request=httpx2.Request(response.method, str(response.url)),
        extensions={
            "http_version": b"HTTP/1.1",
            "reason_phrase": (response.reason or "").encode(errors="replace"),
        },
        **({"stream": _Body(response)} if content is None else {"content": content}),
    )


REFUSAL_BODY_S = 2.0
"""How long a refusal may take to say why: that it is one, which costs nothing, its status has said already."""


async def refusal_body(response: aiohttp.ClientResponse) -> bytes | None:
    """The body of an answer that its status says is none; None where it does not come whole, or not in time."""
    try:
        async with asyncio.timeout(REFUSAL_BODY_S):
            return await response.read()
    except (aiohttp.ClientError, OSError):
        return None


async def whole_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body to its end and decode it by its headers, as httpx2 does; the connection goes back to the pool."""
    content = await response.read()
    return as_httpx(response, content).content if "content-encoding" in response.headers else content


def plain_body(answer: Plain) -> bytes:
    """The body of a plain answer, decoded by its headers, as httpx2 does."""
    encoding = answer.headers.get("content-encoding")
    if encoding is None or not encoding.isascii():
        return answer.content
    return httpx2.Response(200, headers={"content-encoding": encoding}, content=answer.content).content


def source(response: aiohttp.ClientResponse) -> Source:
    """Return a body to be read as it comes, decoded by its headers, as httpx2 does."""
    if "content-encoding" in response.headers:
        return HttpxSource(as_httpx(response))
    return AiohttpSource(response)


class _Body(httpx2.AsyncByteStream):
    """A body for httpx2 to decode."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._response.content.readany():
            yield data

    async def aclose(self) -> None:
        give_back(self._response)
