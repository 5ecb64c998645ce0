"""Claude through Anthropic's official SDK.

The rule: the SDK gives connection, credential and errors; the bytes are ours both ways, see `anthropic_transport` for
how. Retries and tracing of the SDK are off, because the router does both.

This module does not retry, choose, price or remember.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from math import inf
from urllib.parse import urlsplit

import httpx2
import msgspec

from cache.plan import Plan
from router.call import Call, Identity
from router.errors import InvalidRequest, UpstreamError
from router.patience import Patience
from router.reply import Chunk, Reply
from router.upstreams import anthropic_errors
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render, render_continued, request_body
from router.upstreams.anthropic_reply import parse_reply
from router.upstreams.anthropic_stream import AnthropicFold
from router.upstreams.anthropic_transport import LIMITS, AnthropicTransport, Client, Pool
from router.upstreams.base import Rendered
from router.upstreams.limit import time_limit
from router.upstreams.parameters import quoted
from router.upstreams.relay import Fold, Source, relay
from router.upstreams.wire import WireObject, decoder

BASE_URL = "https://api.anthropic.com"
_MESSAGES = "/v1/messages"
_COUNT_TOKENS = "/v1/messages/count_tokens"
_BASELINE_TEXT = "."
_BASELINE_TOKENS = 1
_NO_COUNT: tuple[type[Exception], ...] = (*anthropic_errors.CAUGHT, msgspec.DecodeError)


class _Count(WireObject):
    input_tokens: int | None = None


_decode_count = decoder(_Count)


class AnthropicUpstream:
    """One Claude model behind `router.upstreams.base.Upstream`.

    Args:
        model: Full model id.
        api_key: Sent as a bearer credential; not empty.
        base_url: Root of the API, None for Anthropic's own.
        http_client: Client to send through instead of an own one (the in-process sandbox); stays the
            caller's.
        proxy: URL of a proxy to go through, None for none; the environment is not asked.
        options: Request fields that are the same for every call.

    Raises:
        ValueError: If the model is not in the catalogue or the key is empty.
    """

    name = anthropic_errors.NAME
    provider_name = "anthropic"
    operation = "chat"

    def __init__(
        self,
        *,
        model: str,
        api_key: str,
        base_url: str | None = None,
        http_client: httpx2.AsyncClient | None = None,
        proxy: str | None = None,
        options: Options = Options(),  # noqa: B008 (frozen)
        patience: Patience = Patience(),  # noqa: B008 (frozen)
    ) -> None:
        if not api_key:
            raise ValueError("the Anthropic upstream needs an API key")
        self.model = model
        url = urlsplit(base_url or BASE_URL)
        self.server_address = url.hostname or ""
        self.server_port = url.port or (443 if url.scheme == "https" else 80)
        self._traits = traits_of(model)
        self._options = options
        self._patience = patience
        self._secret = api_key
        self._baseline: int | None = None
        self._previous: Callable[[Identity], str] | None = None
        self._owned: Pool | None = None
        if http_client is None:
            self._owned = Pool(limits=LIMITS, proxy=proxy, trust_env=False, follow_redirects=False)
        self._client = Client(
            api_key=api_key,
            base_url=base_url or BASE_URL,
            http_client=http_client or self._owned,
            max_retries=0,
            open_telemetry=False,
        )
        self._transport = AnthropicTransport(self._client, self._owned)

    def rate_room(self) -> float | None:
        """Share of a minute's rate limit that is left, in [0, 1], by the last answer; None when none said."""
        return self._transport.room(_MESSAGES).share()

    def compare_with(self, previous: Callable[[Identity], str]) -> None:
        """Let the provider compare each request with its session's previous one, where diagnostics are on.

        Args:
            previous: Gives the id of the session's previous answer, "" when it is not known.
        """
        self._previous = previous if self._options.diagnostics else None

    def _previous_id(self, rendered: Rendered) -> str:
        return "" if self._previous is None else self._previous(rendered.call.identity)

    def render(self, call: Call) -> Rendered:
        """Spell `call` for Claude; see `Upstream.render`."""
        return render(call, self.model, self._traits, self._options)

    def render_continued(self, previous: Rendered, call: Call) -> Rendered | None:
        """Spell what `call` adds to `previous`; see `Continuing.render_continued`."""
        return render_continued(previous, call, self.model, self._traits, self._options)

    async def generate(self, rendered: Rendered, plan: Plan | None, timeout_s: float) -> Reply:
        """Ask for the whole answer; see `Upstream.generate`. With 0 output tokens it only warms the cache."""
        body = request_body(rendered, plan, stream=False, previous_response_id=self._previous_id(rendered))
        try:
            with time_limit(timeout_s):
                content, request_id = await self._transport.whole(_MESSAGES, body, timeout_s)
        except anthropic_errors.CAUGHT as error:
            raise self._named(error, timeout_s) from error
        return parse_reply(content, self.model, request_id, self._secret, rendered.call.messages)

    def stream(
        self, rendered: Rendered, plan: Plan | None, timeout_s: float, *, waits: bool = False
    ) -> AsyncIterator[Chunk]:
        """Ask for the answer in chunks; see `Upstream.stream`.

        Raises:
            InvalidRequest: At once, for a warming call: the API refuses to stream 0 tokens (A-CACHE,
                2026-11).
        """
        if not rendered.call.max_output_tokens:
            raise InvalidRequest("max_output_tokens", "a warming call (0 tokens) cannot be streamed")
        body = request_body(rendered, plan, stream=True, previous_response_id=self._previous_id(rendered))

        async def open_source() -> tuple[Source, Fold]:
            source, request_id = await self._transport.stream(_MESSAGES, body, timeout_s)
            return source, AnthropicFold(self.model, request_id, self._secret, rendered.call.messages)

        return relay(
            open_source,
            lambda error: self._named(error, timeout_s),
            anthropic_errors.CAUGHT,
            self.name,
            self.model,
            timeout_s,
            inf if waits else self._patience.first_event_s(len(body)),
            inf if waits else self._patience.between_events_s,
        )

    async def count_prompt(self, rendered: Rendered, timeout_s: float) -> int | None:
        """Count tokens of the blocks of `rendered`; see `Upstream.count_prompt`.

        The body is that of a request without `max_tokens`, which the counter does not take (A-COUNT, 2026-11).
        """
        bare = msgspec.structs.replace(rendered.envelope, head=b'{"model":%b' % quoted(self.model), tail=b"")
        body = request_body(msgspec.structs.replace(rendered, envelope=bare), None, stream=False)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._counted(body, timeout_s)
        except anthropic_errors.CAUGHT as error:
            raise self._named(error, timeout_s) from error
        except msgspec.DecodeError:
            return None

    async def count_output(self, reply_text: str, timeout_s: float) -> int | None:
        """Count the tokens of `reply_text` by difference; None when the counter does not answer.

        The counter takes whole requests, so the frame of one is measured once with a one-token text and taken
        off (A-COUNT, 2026-11: free, an estimate).
        """
        if not reply_text:
            return 0
        try:
            async with asyncio.timeout(timeout_s):
                if self._baseline is None:
                    self._baseline = await self._count(_BASELINE_TEXT, timeout_s)
                counted = await self._count(reply_text, timeout_s)
        except _NO_COUNT:
            return None
        return max(0, counted - self._baseline + _BASELINE_TOKENS)

    async def close(self) -> None:
        """Close the connection pool, unless it was handed in."""
        if self._owned is not None:
            await self._client.close()

    async def _count(self, text: str, timeout_s: float) -> int:
        body = b'{"model":%b,"messages":[{"role":"user","content":%b}]}' % (quoted(self.model), quoted(text))
        return await self._counted(body, timeout_s)

    async def _counted(self, body: bytes, timeout_s: float) -> int:
        content, _ = await self._transport.whole(_COUNT_TOKENS, body, timeout_s)
        counted = _decode_count(content).input_tokens
        if counted is None:
            raise msgspec.DecodeError("the counter gave no count")
        return counted

    def _named(self, error: BaseException, timeout_s: float) -> UpstreamError:
        return anthropic_errors.from_sdk(error, self.model, self._secret, timeout_s)
