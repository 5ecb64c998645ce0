"""The sandbox as an httpx2 transport: below the real SDKs, in process, no socket.

Rule: one `handle_async_request` is one `Sandbox.handle`; a streamed body is pulled exactly as far as the
client reads, so a cancelled read is a disconnect at that very event. Read timeouts of the client are kept
on the sandbox clock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import httpx2

from router.sandbox.wire import (
    ByteStream,
    ClientTimedOut,
    ConnectionDropped,
    WireRequest,
    WireResponse,
)


class Handler(Protocol):
    """What the transport needs of a sandbox."""

    async def handle(self, request: WireRequest) -> WireResponse:
        """Answer one request."""
        ...


class SandboxTransport(httpx2.AsyncBaseTransport):
    """Carries requests of an `httpx2.AsyncClient` to a sandbox, whatever their host."""

    def __init__(self, sandbox: Handler) -> None:
        self._sandbox = sandbox

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request.

        Raises:
            httpx2.ReadError: the sandbox dropped the connection.
            httpx2.ReadTimeout: the client's read timeout ended first.
        """
        timeouts = request.extensions.get("timeout") or {}
        wire = WireRequest(
            method=request.method,
            path=request.url.path,
            query=dict(request.url.params),
            headers={k.lower(): v for k, v in request.headers.items()},
            body=await request.aread(),
            read_timeout_s=timeouts.get("read"),
        )
        try:
            answer = await self._sandbox.handle(wire)
        except ConnectionDropped as error:
            raise httpx2.ReadError(str(error), request=request) from error
        except ClientTimedOut as error:
            raise httpx2.ReadTimeout("the sandbox did not answer in time", request=request) from error
        if isinstance(answer.body, bytes):
            return httpx2.Response(
                answer.status, headers=answer.headers, content=answer.body, request=request
            )
        stream = _Body(answer.body, request)
        return httpx2.Response(answer.status, headers=answer.headers, stream=stream, request=request)


class _Body(httpx2.AsyncByteStream):
    """A sandbox stream in httpx2's clothes."""

    def __init__(self, body: ByteStream, request: httpx2.Request) -> None:
        self._body = body
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._body:
                yield piece
        except ConnectionDropped as error:
            raise httpx2.ReadError(str(error), request=self._request) from error
        except ClientTimedOut as error:
            raise httpx2.ReadTimeout("the sandbox stalled", request=self._request) from error

    async def aclose(self) -> None:
        await self._body.aclose()
