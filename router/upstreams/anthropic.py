"""Claude through Anthropic's official SDK.

The rule: the SDK gives connection, credential and errors; the bytes are ours both ways. `AsyncAnthropic.post`
with `content=` and `cast_to=httpx2.Response` is its public low-level entry: it sends our joined bytes and
hands back the raw answer without building pydantic models. Retries and tracing of the SDK are off, because
the router does both.

This module does not retry, choose, price or remember.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from copy import copy
from typing import Any, cast
from urllib.parse import urlsplit

import anthropic
import httpx2
import msgspec

from cache.plan import Plan
from router.call import Call, Identity
from router.errors import InvalidRequest, UpstreamError
from router.reply import Chunk, Reply
from router.upstreams import anthropic_errors
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render, render_continued, request_body
from router.upstreams.anthropic_reply import parse_reply
from router.upstreams.anthropic_stream import AnthropicFold
from router.upstreams.base import Rendered
from router.upstreams.parameters import quoted
from router.upstreams.relay import KEEP_ALIVE_S, Fold, HttpxSource, Source, relay
from router.upstreams.wire import WireObject, decoder

BASE_URL = "https://api.anthropic.com"
CONNECT_S = 5.0
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=KEEP_ALIVE_S)
"""The SDK's pool, but idle connections live longer than its 5 s."""
_BASELINE_TEXT = "."
_BASELINE_TOKENS = 1
_NO_COUNT: tuple[type[Exception], ...] = (*anthropic_errors.CAUGHT, msgspec.DecodeError)


class _Count(WireObject):
    input_tokens: int | None = None


_decode_count = decoder(_Count)


_OPTIONS = {"timeout"}
"""What `_options` sets; a call with other options is built by the SDK itself."""
_PER_CALL = frozenset({b"content-length", b"x-stainless-timeout", b"x-stainless-read-timeout"})
"""Headers of a request that differ from call to call; all others are constant."""


class _Client(anthropic.AsyncAnthropic):
    """The SDK's client without what it reads from the environment besides the credential.

    It takes headers from ANTHROPIC_CUSTOM_HEADERS even when everything is given explicitly; a service whose
    configuration is one printed tree must not send headers that are not in it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._custom_headers = {}
        self._headers: dict[str, Any] = {}
        self._blanks: dict[str, Any] = {}
        self._forms: dict[str, tuple[httpx2.URL, dict[str, Any], list[tuple[bytes, bytes]]]] = {}

    async def post(
        self, path: str, *, cast_to: Any, content: Any = None, options: Any = None, **others: Any
    ) -> Any:
        """Post as the SDK does, with a copy of the options of its own first call to the same path.

        It builds its options, a pydantic model of 21 fields of which we set four, by deep-copying every default
        (measured: 40 us of a call's 325).
        """
        given: Any = options or {}
        blank = self._blanks.get(path)
        if blank is None or not content or given.keys() != _OPTIONS:
            return await super().post(path, cast_to=cast_to, content=content, options=given, **others)
        final = copy(blank)
        final.content = content
        final.timeout = given["timeout"]
        if self._idempotency_header is None:
            final.idempotency_key = (
                "unsent"  # else the SDK makes a UUID for every call, which is not sent either
            )
        return await self.request(cast_to, final, **others)

    async def request(self, cast_to: Any, options: Any, **others: Any) -> Any:
        """Send, and keep the options of a path's first call, less what belongs to the call."""
        if options.url not in self._blanks and type(options.content) is bytes:
            blank = copy(options)
            blank.content = blank.timeout = blank.idempotency_key = None
            self._blanks[options.url] = blank
        return await super().request(cast_to, options, **others)

    async def _copy_and_prepare(self, options: Any) -> Any:
        """Take options that hold bytes as they are: there is nothing in them to walk or to copy for a retry."""
        if type(options.content) is bytes and not options.params and options.extra_json is None:
            return options
        return await super()._copy_and_prepare(options)

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx2.Request:
        """Build what the SDK would, from the address and headers of its own first request to the same path.

        It works both out anew for every call (measured: 120 us of a call's 450). A hook of the SDK's, not public: a
        release that renames it gets its own way, slower and equal. A test holds the two against each other.
        """
        body, timeout = options.content, options.timeout
        plain = not (retries_taken or options.params or options.headers or self._idempotency_header)
        if not plain or type(body) is not bytes or not isinstance(timeout, httpx2.Timeout):
            return super()._build_request(options, retries_taken=retries_taken)
        form = self._forms.get(options.url)
        if form is None:
            request = super()._build_request(options)
            constant = [(name, value) for name, value in request.headers.raw if name.lower() not in _PER_CALL]
            self._forms[options.url] = request.url, request.extensions, constant
            return request
        url, extensions, constant = form
        read_s = str(timeout.read).encode()
        request = httpx2.Request(
            "POST",
            url,
            headers=[
                *constant,
                (b"x-stainless-timeout", read_s),
                (b"x-stainless-read-timeout", read_s),
                (b"Content-Length", b"%d" % len(body)),
            ],
            stream=httpx2.ByteStream(body),
            extensions={**extensions, "timeout": timeout.as_dict()},
        )
        request.read()
        request.headers.encoding = "ascii"  # else found out from all of them, again at every look
        return request

    @property
    def user_agent(self) -> str:
        return f"AsyncAnthropic/Python {self._version}"

    @property
    def default_headers(self) -> dict[str, Any]:
        """The constant headers, built once: the SDK rebuilds them for every request."""
        if not self._headers:
            self._headers = super().default_headers
        return self._headers


class _Pool(anthropic.DefaultAioHttpClient):
    """The SDK's own pool of connections, less what no call of ours uses."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **others: Any) -> httpx2.Response:
        """Hand the request to the SDK's transport and read the answer.

        Between the two stand authentication, hooks, cookies and a log line (measured: 30 us of a call's 325), of which
        the SDK uses none: its credential is a header. A redirect is left to the SDK's way, from the start.
        """
        # Both names are private to httpx2; a release that drops them costs the speed, not the call.
        transport = getattr(self, "_transport", None)
        if self.is_closed or others or transport is None or getattr(self, "_mounts", True):
            return await super().send(request, stream=stream, **others)
        response: httpx2.Response = await transport.handle_async_request(request)
        if response.has_redirect_location:
            await response.aclose()
            return await super().send(request, stream=stream)
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response


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
    ) -> None:
        if not api_key:
            raise ValueError("the Anthropic upstream needs an API key")
        self.model = model
        url = urlsplit(base_url or BASE_URL)
        self.server_address = url.hostname or ""
        self.server_port = url.port or (443 if url.scheme == "https" else 80)
        self._traits = traits_of(model)
        self._options = options
        self._secret = api_key
        self._baseline: int | None = None
        self._previous: Callable[[Identity], str] | None = None
        self._owned = None
        if http_client is None:
            self._owned = _Pool(limits=_LIMITS, proxy=proxy, trust_env=False)
        self._client = _Client(
            api_key=api_key,
            base_url=base_url or BASE_URL,
            http_client=http_client or self._owned,
            max_retries=0,
            open_telemetry=False,
        )

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
            async with asyncio.timeout(timeout_s):
                response = await self._client.post(
                    "/v1/messages",
                    content=body,
                    cast_to=httpx2.Response,
                    options=_options(timeout_s),
                )
        except anthropic_errors.CAUGHT as error:
            raise self._named(error, timeout_s) from error
        request_id = response.headers.get("request-id", "")
        return parse_reply(response.content, self.model, request_id, self._secret)

    def stream(self, rendered: Rendered, plan: Plan | None, timeout_s: float) -> AsyncIterator[Chunk]:
        """Ask for the answer in chunks; see `Upstream.stream`.

        Raises:
            InvalidRequest: At once, for a warming call: the API refuses to stream 0 tokens (A-CACHE,
                2026-11).
        """
        if not rendered.call.max_output_tokens:
            raise InvalidRequest("max_output_tokens", "a warming call (0 tokens) cannot be streamed")
        body = request_body(rendered, plan, stream=True, previous_response_id=self._previous_id(rendered))

        async def open_source() -> tuple[Source, Fold]:
            response = cast(
                httpx2.Response,
                await self._client.post(
                    "/v1/messages",
                    content=body,
                    cast_to=httpx2.Response,
                    options=_options(timeout_s),
                    stream=True,
                    stream_cls=anthropic.AsyncStream[Any],
                ),
            )
            fold = AnthropicFold(self.model, response.headers.get("request-id", ""), self._secret)
            return HttpxSource(response), fold

        return relay(
            open_source,
            lambda error: self._named(error, timeout_s),
            anthropic_errors.CAUGHT,
            self.name,
            self.model,
            timeout_s,
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
        response = await self._client.post(
            "/v1/messages/count_tokens",
            content=body,
            cast_to=httpx2.Response,
            options=_options(timeout_s),
        )
        counted = _decode_count(response.content).input_tokens
        if counted is None:
            raise msgspec.DecodeError("the counter gave no count")
        return counted

    def _named(self, error: BaseException, timeout_s: float) -> UpstreamError:
        return anthropic_errors.from_sdk(error, self.model, self._secret, timeout_s)


def _options(timeout_s: float) -> anthropic.RequestOptions:
    return {"timeout": httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))}
