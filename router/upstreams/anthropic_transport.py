"""Two ways through Anthropic's SDK to the same bytes: its request layer, and straight over the pool under it.

The rule: the SDK spells the first request to a path, sends it, and is asked what it sent. Later requests to that path
go over the same aiohttp session in the same spelling (`direct`), without the SDK's option, request and response
objects (measured: two thirds of a call's CPU). That is done only where everything between our bytes and the session
has the shape known here; otherwise, and for a client handed in, every call is the SDK's own. Errors are always the
SDK's: an answer with a bad status is handed to what makes them there. A redirect is an error: it is a wrong address,
and a loop of them would cost 22 POSTs for one. A contract test holds the two ways against each other.

The SDK's way is shortened as well, for the sandbox in process: see `Client` and `Pool`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from copy import copy
from typing import Any, cast

import aiohttp
import anthropic
import httpx2

from router.upstreams import direct
from router.upstreams.direct import (
    CONNECT_S,
    Line,
    as_httpx,
    close_spoilt,
    plain_body,
    refusal_body,
    source,
    whole_body,
)
from router.upstreams.faults import TRANSPORT_ERRORS
from router.upstreams.plain import Plain
from router.upstreams.rate_room import RateRoom
from router.upstreams.relay import KEEP_ALIVE_S, HttpxSource, Source
from router.upstreams.wire import header_text

LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100, keepalive_expiry=KEEP_ALIVE_S)
"""The SDK's pool, but idle connections live longer than its 5 s."""
_TRANSPORT = frozenset(
    {"ssl_context", "proxy", "limits", "retries", "socket_options", "uds", "local_address", "client"}
)
"""All that the SDK's transport holds (anthropic 2.12); one that holds more may do more with a request."""
_SETTINGS = {"auto_decompress": False, "compress": False}
"""What that transport gives its session with every request, besides what a `Line` does."""
_OPTIONS = {"timeout"}
"""What `_options` sets; a call with other options is built by the SDK itself."""


class Client(anthropic.AsyncAnthropic):
    """The SDK's client without what it reads from the environment besides the credential.

    It takes headers from ANTHROPIC_CUSTOM_HEADERS even when everything is given explicitly; a service whose
    configuration is one printed tree must not send headers that are not in it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._custom_headers = {}
        self._headers: dict[str, Any] = {}
        self._blanks: dict[str, Any] = {}
        self._forms: dict[str, tuple[httpx2.URL, dict[str, Any], list[tuple[bytes, bytes, bytes]]]] = {}

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
            spelled = [(name, value, name.lower()) for name, value in request.headers.raw]
            self._forms[options.url] = request.url, request.extensions, spelled
            return request
        url, extensions, spelled = form
        read_s = str(timeout.read).encode()
        own = {
            b"x-stainless-timeout": read_s,
            b"x-stainless-read-timeout": read_s,
            b"content-length": b"%d" % len(body),
        }
        request = httpx2.Request(
            "POST",
            url,
            headers=[(name, own.get(key, value)) for name, value, key in spelled],
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


class Pool(anthropic.DefaultAioHttpClient):
    """The SDK's own pool of connections, less what no call of ours uses."""

    @property
    def session(self) -> aiohttp.ClientSession | None:
        """The aiohttp session under the SDK's transport; None before the first request, and in another shape."""
        transport: Any = getattr(self, "_transport", None)
        known = hasattr(transport, "__dict__") and vars(transport).keys() == _TRANSPORT
        if not known or transport.proxy is not None or getattr(self, "_mounts", True):
            return None
        session = transport.client
        return session if type(session) is aiohttp.ClientSession else None

    async def send(self, request: httpx2.Request, *, stream: bool = False, **others: Any) -> httpx2.Response:
        """Hand the request to the SDK's transport and read the answer.

        Between the two stand authentication, hooks, cookies and a log line (measured: 30 us of a call's 325), of which
        the SDK uses none: its credential is a header. A redirect is an answer like any other, and an error.
        """
        # Both names are private to httpx2; a release that drops them costs the speed, not the call.
        transport = getattr(self, "_transport", None)
        if self.is_closed or others or transport is None or getattr(self, "_mounts", True):
            response = await super().send(request, stream=True, **others)
        else:
            if self.session is not None:
                close_spoilt(self.session)
            response = await transport.handle_async_request(request)
        if not response.is_success:
            return await _read(response, request)
        if not stream:
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response


async def _read(response: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    """The refusal with its body, or with none where that does not come whole: what the status says stands."""
    try:
        async with asyncio.timeout(direct.REFUSAL_BODY_S):
            await response.aread()
    except TRANSPORT_ERRORS:
        await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, request=request, content=b"")
    except BaseException:
        await response.aclose()
        raise
    return response


class AnthropicTransport:
    """Carries bytes to the Messages API and back.

    Args:
        client: The SDK's client, without retries.
        pool: What it sends through when that is its own; None for a client handed in, which takes every call.
    """

    def __init__(self, client: anthropic.AsyncAnthropic, pool: Pool | None) -> None:
        self._client = client
        self._pool = pool
        self._lines: dict[str, Line | None] = {}
        self._rooms: defaultdict[str, RateRoom] = defaultdict(RateRoom)
        self._refusal: Callable[[httpx2.Response], Exception] | None = getattr(
            client, "_make_status_error_from_response", None
        )

    def room(self, path: str) -> RateRoom:
        """What is left of the rate limit of `path`: counting tokens has one of its own."""
        return self._rooms[path]

    async def whole(self, path: str, body: bytes, timeout_s: float) -> tuple[bytes, str]:
        """Return the whole answer, decoded, and the provider's request id, "" for none.

        Raises:
            Exception: One of `anthropic_errors.CAUGHT`.
        """
        line = self._line(path)
        if line is not None:
            answer = await line.whole(body, _own_headers(body, timeout_s), timeout_s)
            if isinstance(answer, Plain):
                self._rooms[path].note(answer.headers)
                return plain_body(answer), header_text(answer.headers.get("request-id", ""))
            response = await self._checked(path, answer)
            self._rooms[path].note(response.headers)
            return await whole_body(response), header_text(response.headers.get("request-id", ""))
        told = await self._by_sdk(path, body, timeout_s)
        self._learn(path, told, body, timeout_s)
        return told.content, told.headers.get("request-id", "")

    async def stream(self, path: str, body: bytes, timeout_s: float) -> tuple[Source, str]:
        """Return the event stream, once headers are in, and the provider's request id; see `whole`."""
        line = self._line(path)
        if line is not None:
            answered = await line.post(body, _own_headers(body, timeout_s), timeout_s)
            response = await self._checked(path, answered)
            self._rooms[path].note(response.headers)
            return source(response), header_text(response.headers.get("request-id", ""))
        answer = await self._by_sdk(path, body, timeout_s, stream=True, stream_cls=anthropic.AsyncStream[Any])
        self._learn(path, answer, body, timeout_s)
        return HttpxSource(answer), answer.headers.get("request-id", "")

    async def _by_sdk(self, path: str, body: bytes, timeout_s: float, **how: Any) -> httpx2.Response:
        """The response to a call that the SDK sends itself."""
        try:
            answer = await self._client.post(
                path, content=body, cast_to=httpx2.Response, options=_options(timeout_s), **how
            )
        except anthropic.APIStatusError as error:
            self._rooms[path].refused(error.response.headers)
            raise
        return cast(httpx2.Response, answer)

    def _line(self, path: str) -> Line | None:
        """The path's line; None where the SDK has to send, because there is none."""
        line = self._lines.get(path)
        return None if line is None or self._refusal is None or not line.is_open else line

    async def _checked(self, path: str, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """The response of a line where it is an answer.

        Raises:
            Exception: The SDK's, for a refusal and for a redirect.
        """
        if 200 <= response.status < 300:
            return response
        assert self._refusal is not None
        self._rooms[path].refused(response.headers)
        content = await refusal_body(response) or b""
        try:
            refused = as_httpx(response, content)
        except httpx2.DecodingError:
            refused = as_httpx(response, b"")
        raise self._refusal(refused)

    def _learn(self, path: str, answer: httpx2.Response, body: bytes, timeout_s: float) -> None:
        """Keep the spelling of the SDK's first request to `path`, if it is one that can be kept."""
        self._rooms[path].note(answer.headers)
        if path in self._lines or self._pool is None:
            return
        session, request, own = self._pool.session, answer.request, _own_headers(body, timeout_s)
        is_known = (
            session is not None
            and not answer.history
            and request.method == "POST"
            and request.extensions.keys() == {"timeout"}
            and all(request.headers.get(name) == value for name, value in own.items())
            and "idempotency-key" not in request.headers
            and "transfer-encoding" not in request.headers
        )
        self._lines[path] = (
            Line(session, str(request.url), request.headers, _SETTINGS) if session and is_known else None
        )


def _own_headers(body: bytes, timeout_s: float) -> dict[str, str]:
    """The headers that change from call to call, as the SDK spells them."""
    told = str(timeout_s)
    return {
        "x-stainless-timeout": told,
        "x-stainless-read-timeout": told,
        "content-length": str(len(body)),
    }


def _options(timeout_s: float) -> anthropic.RequestOptions:
    return {"timeout": httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))}
