"""One streamed answer from an open connection to chunks: the loop both adapters share.

The rule: what arrived is delivered before what went wrong, errors after Started are UpstreamInterrupted with
the usage seen, and the provider's connection is closed the moment the caller stops. `asyncio.timeout` never
spans a yield, because its cancellation would then hit the caller's code.

Reading goes on after the last chunk until the body ends, for at most DRAIN_S: only a body read to its end
gives its connection back to the pool, and a new TLS handshake costs more than waiting for a terminator
already on its way.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Protocol

import httpx2

from router.errors import UpstreamError, UpstreamInterrupted, UpstreamMalformed, UpstreamTimeout
from router.reply import Chunk
from router.upstreams.faults import TRANSPORT_ERRORS
from router.usage import Usage

DRAIN_S = 0.5
KEEP_ALIVE_S = 30.0
"""How long idle connections live: a TLS handshake costs a round trip and CPU, and both SDKs drop them sooner.
"""


class Source(Protocol):
    """An answer's body, headers already received."""

    async def read(self) -> bytes:
        """Return what has arrived, waiting for something; b"" at the end."""
        ...

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it at once."""
        ...


class Fold(Protocol):
    """A provider's stream as a state machine: bytes in, chunks out; no I/O."""

    started: bool
    """Whether Started was given out."""
    done: bool
    """Whether Finished was given out."""
    fault: UpstreamError | None
    """What the provider reported inside the stream, or what could not be understood."""

    @property
    def usage(self) -> Usage | None:
        """The newest count seen."""
        ...

    def feed(self, data: bytes) -> list[Chunk]:
        """Take bytes; return the chunks they complete. After a fault, nothing more is taken."""
        ...

    def finish(self) -> list[Chunk]:
        """Take the end of the body."""
        ...


class HttpxSource:
    """The body of a streamed httpx2 response."""

    __slots__ = ("_chunks", "_response")

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

    async def read(self) -> bytes:
        """Return what has arrived; b"" at the end."""
        return await anext(self._chunks, b"")

    async def aclose(self) -> None:
        """Close the response; the pool keeps its connection only if the body was read to its end."""
        await self._response.aclose()
        await self._chunks.aclose()


async def relay(
    open_source: Callable[[], Awaitable[tuple[Source, Fold]]],
    named: Callable[[Exception], UpstreamError],
    errors: tuple[type[Exception], ...],
    upstream: str,
    model: str,
    timeout_s: float,
    first_s: float = inf,
    idle_s: float = inf,
) -> AsyncIterator[Chunk]:
    """Stream one answer.

    Args:
        open_source: Sends the request and returns once headers are in.
        named: Maps an exception of the types in `errors` to one of ours.
        errors: What the SDK and its transport may raise.
        upstream: For messages.
        model: For messages.
        timeout_s: Bound of the whole stream from now.
        first_s: Bound of the silence before the first bytes of the body.
        idle_s: Bound of each silence after that. What the caller takes to look at a chunk is none.

    Raises:
        UpstreamError: Before Started any subclass; after it only UpstreamInterrupted.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    heard_by, silence_s = loop.time() + first_s, first_s

    def cause(error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError) and heard_by < deadline and loop.time() >= heard_by:
            return UpstreamTimeout(upstream, f"nothing came for {silence_s:g} s", model=model)
        return named(error)

    try:
        async with asyncio.timeout_at(min(deadline, heard_by)):
            source, fold = await open_source()
    except errors as error:
        raise cause(error) from error
    try:
        while True:
            try:
                async with asyncio.timeout_at(min(deadline, heard_by)):
                    data = await source.read()
            except errors as error:
                for chunk in fold.finish():
                    yield chunk
                if fold.done:
                    return
                raise _broken(fold, fold.fault or cause(error), upstream, model) from error
            for chunk in fold.feed(data) if data else fold.finish():
                yield chunk
            if fold.fault is not None:
                raise _broken(fold, fold.fault, upstream, model)
            if not data:
                if not fold.done:
                    raise _broken(fold, _ended(upstream, model), upstream, model)
                return
            if fold.done:
                deadline = min(deadline, loop.time() + DRAIN_S)
            heard_by, silence_s = loop.time() + idle_s, idle_s
    finally:
        with suppress(*TRANSPORT_ERRORS):
            await source.aclose()


def _ended(upstream: str, model: str) -> UpstreamError:
    return UpstreamMalformed(upstream, "the stream ended before the answer was whole", model=model)


def _broken(fold: Fold, cause: UpstreamError, upstream: str, model: str) -> UpstreamError:
    """Name a failure in mid-stream: itself before the answer began, an interruption after."""
    if not fold.started:
        return cause
    told = str(cause).removeprefix(f"{upstream}: ")
    interrupted = UpstreamInterrupted(
        upstream,
        f"the answer broke off: {told}",
        model=model,
        http_status=cause.http_status,
        upstream_request_id=cause.upstream_request_id,
        retry_after_s=cause.retry_after_s,
        usage=fold.usage,
    )
    interrupted.cause = type(cause)
    return interrupted
