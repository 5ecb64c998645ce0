"""Gemini through Google's official SDK.

The rule: the SDK gives connection, credential and errors; the bytes are ours both ways, see
`gemini_transport` for how. Everything the SDK would otherwise read from the environment (project, location,
base URL, API version, Vertex) is given explicitly.

This module does not retry, choose, price or remember.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from math import inf
from urllib.parse import urlsplit

import aiohttp
import httpx2
import msgspec
from google import genai
from google.genai import types

from cache.plan import Plan
from router.call import Call
from router.errors import UpstreamError, UpstreamMalformed
from router.patience import Patience
from router.reply import Chunk, Reply
from router.upstreams import gemini_errors
from router.upstreams.base import Rendered
from router.upstreams.gemini_models import traits_of
from router.upstreams.gemini_render import render, request_body
from router.upstreams.gemini_reply import Answer, decode_frames, plain_reply
from router.upstreams.gemini_stream import GeminiFold, fault_of
from router.upstreams.gemini_transport import transport_for
from router.upstreams.limit import time_limit
from router.upstreams.parameters import quoted
from router.upstreams.relay import KEEP_ALIVE_S, Fold, Source, relay
from router.upstreams.wire import WireObject, decoder, header_text

BASE_URL = "https://generativelanguage.googleapis.com/"
API_VERSION = "v1"


class _Count(WireObject, rename="camel"):
    total_tokens: int | None = None


_decode_count = decoder(_Count)


class GeminiUpstream:
    """One Gemini model behind `router.upstreams.base.Upstream`.

    Args:
        model: Model id, without "models/".
        api_key: Not empty.
        base_url: Root of the API, None for Google's own.
        api_version: "v1" or "v1beta"; the `-latest` aliases answer on v1beta only (G-MODELS, 2026-11).
        http_client: Client to send through instead of an own one (the in-process sandbox); stays the
            caller's.
        proxy: URL of a proxy to go through, None for none; the environment is not asked.
        store: Whether Google may keep requests, None for the project's setting. New paid projects keep them
            by default since 2026-10-26 (G-MODELS), so the default here is to say no.
        patience: How long a stream may be silent. Gemini sends no pings and shows nothing while it thinks (G-GEN,
            2026-11), for which all the output allowed may be used.

    Create it inside the running event loop, so that the pool is ours: the SDK's own looks proxies up in a
    thread for every request (measured: a fifth of a call's CPU).

    Raises:
        ValueError: If the model is not in the catalogue or the key is empty.
    """

    name = gemini_errors.NAME
    provider_name = "gcp.gemini"
    operation = "generate_content"

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str | None = None,
        api_version: str = API_VERSION,
        http_client: httpx2.AsyncClient | None = None,
        proxy: str | None = None,
        store: bool | None = False,
        patience: Patience = Patience(),  # noqa: B008 (frozen)
    ) -> None:
        if not api_key:
            raise ValueError("the Gemini upstream needs an API key")
        self.model = model
        url = urlsplit(base_url or BASE_URL)
        self.server_address = url.hostname or ""
        self.server_port = url.port or (443 if url.scheme == "https" else 80)
        self._traits = traits_of(model)
        self._store = store
        self._patience = patience
        self._secret = api_key
        self._session = _own_session(proxy) if http_client is None else None
        self._client = genai.Client(
            vertexai=False,
            api_key=api_key,
            http_options=types.HttpOptions(
                base_url=base_url or BASE_URL,
                api_version=api_version,
                httpx_async_client=http_client,
                aiohttp_client=self._session,
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )
        self._transport = transport_for(self._client, model)

    def render(self, call: Call) -> Rendered:
        """Spell `call` for Gemini; see `Upstream.render`."""
        return render(call, self.model, self._traits, store=self._store)

    async def generate(self, rendered: Rendered, plan: Plan | None, timeout_s: float) -> Reply:
        """Ask for the whole answer; see `Upstream.generate`. Without breakpoints `plan` is not used."""
        body = request_body(rendered)
        try:
            with time_limit(timeout_s):
                content, headers = await self._transport.generate(body, timeout_s)
        except gemini_errors.CAUGHT as error:
            raise self._named(error, timeout_s) from error
        request_id = _request_id(headers)
        answer = Answer(self.model, request_id, rendered.call.messages)
        try:
            frames = decode_frames(content)
            if len(frames) == 1:
                plain = plain_reply(frames[0], self.model, request_id)
                if plain is not None:
                    return plain
            for frame in frames:
                if frame.error is not None:
                    raise fault_of(frame.error, answer, self._secret)
                answer.take_facts(frame)
                answer.take_parts(frame, [])
        except msgspec.DecodeError as error:
            raise UpstreamMalformed(
                self.name,
                "the answer is not the JSON it should be",
                model=self.model,
                upstream_request_id=answer.request_id,
                usage=answer.usage,
            ) from error
        answer.end_text([])
        if not answer.is_whole and not answer.has_content:
            raise UpstreamMalformed(
                self.name,
                "the answer has neither content nor a reason for its absence",
                model=self.model,
                upstream_request_id=answer.request_id,
                usage=answer.usage,
            )
        return answer.reply()

    def stream(
        self, rendered: Rendered, plan: Plan | None, timeout_s: float, *, waits: bool = False
    ) -> AsyncIterator[Chunk]:
        """Ask for the answer in chunks; see `Upstream.stream`. `plan` is not used."""
        body = request_body(rendered)

        async def open_source() -> tuple[Source, Fold]:
            source, headers = await self._transport.stream(body, timeout_s)
            return source, GeminiFold(self.model, _request_id(headers), self._secret, rendered.call.messages)

        return relay(
            open_source,
            lambda error: self._named(error, timeout_s),
            gemini_errors.CAUGHT,
            self.name,
            self.model,
            timeout_s,
            inf if waits else self._patience.first_event_s(len(body), rendered.call.max_output_tokens),
            inf if waits else self._patience.between_events_s,
        )

    async def count_prompt(self, rendered: Rendered, timeout_s: float) -> int | None:
        """Count tokens of the blocks of `rendered` by countTokens; see `Upstream.count_prompt`.

        None as well where the SDK's request layer is not the known one: its public method refuses to count system
        text and tools.
        """
        envelope = msgspec.structs.replace(rendered.envelope, tail=b"")
        request = request_body(msgspec.structs.replace(rendered, envelope=envelope))
        body = b'{"generateContentRequest":{"model":%b,%b}' % (quoted(f"models/{self.model}"), request[1:])
        try:
            async with asyncio.timeout(timeout_s):
                content = await self._transport.count(body, timeout_s)
        except gemini_errors.CAUGHT as error:
            raise self._named(error, timeout_s) from error
        try:
            return _decode_count(content).total_tokens
        except msgspec.DecodeError:
            return None

    async def count_output(self, reply_text: str, timeout_s: float) -> int | None:
        """Count the tokens of `reply_text` by countTokens (free, G-GEN); None when it does not answer."""
        if not reply_text:
            return 0
        options = types.HttpOptions(timeout=math.ceil(timeout_s * 1000))
        try:
            async with asyncio.timeout(timeout_s):
                counted = await self._client.aio.models.count_tokens(
                    model=self.model,
                    contents=reply_text,
                    config=types.CountTokensConfig(http_options=options),
                )
        except gemini_errors.CAUGHT:
            return None
        return counted.total_tokens

    async def close(self) -> None:
        """Close the connection pool, unless it was handed in."""
        await self._client.aio.aclose()
        self._client.close()
        if self._session is not None:
            await self._session.close()

    def _named(self, error: BaseException, timeout_s: float) -> UpstreamError:
        return gemini_errors.from_sdk(error, self.model, self._secret, timeout_s)


def _own_session(proxy: str | None) -> aiohttp.ClientSession | None:
    """Open a connection pool for the running loop; None without one, and the SDK then opens its own."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        if proxy is not None:
            raise
        return None
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, loop=loop)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(loop=loop), proxy=proxy
    )


def _request_id(headers: Mapping[str, str]) -> str:
    return header_text(headers.get("x-request-id", ""))
