"""An exchange, the session under the SDK, or the SDK: the same on the wire, the same answer, the same error."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx2
import pytest
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from router import errors
from router.errors import UpstreamError
from router.reply import Finished, Reply
from router.upstreams import anthropic_transport, direct, exchange, gemini_transport
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.direct import CONNECT_S, Line
from router.upstreams.gemini import GeminiUpstream
from router.upstreams.plain import AnswerHandler
from tests.benchmarks.mock_provider import Canned
from tests.router.upstreams.samples import FLASH, OPUS, call, user
from tests.router.upstreams.scripted_server import (
    Request,
    Script,
    ScriptedServer,
    after_first,
    reset,
    scripted,
    silent,
    streamed,
    whole,
)

CANNED = Canned(chunks=6, size=120)
WHOLE = {"anthropic": CANNED.anthropic, "gemini": CANNED.gemini}
EVENTS = {"anthropic": CANNED.anthropic_stream, "gemini": CANNED.gemini_stream}
COUNT = b'{"input_tokens":9,"totalTokens":9}'
LONG_S = 20.0
Adapter = AnthropicUpstream | GeminiUpstream


@pytest.fixture(params=["anthropic", "gemini"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def posted(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """The lines that were posted to, so that no test passes by the other way."""
    lines: list[Line] = []

    def noting(sent: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def noted(self: Line, *args: Any) -> Any:
            lines.append(self)
            return await sent(self, *args)

        return noted

    monkeypatch.setattr(Line, "post", noting(Line.post))
    monkeypatch.setattr(Line, "whole", noting(Line.whole))
    return lines


WAYS = ("exchange", "session", "sdk")
"""Straight over the pool with and without aiohttp's request machinery, and through the SDK."""


def make(kind: str, url: str, way: str = "exchange", **options: Any) -> Adapter:
    """Build an adapter that goes straight over the pool as soon as it can, or never does."""
    if kind == "anthropic":
        opus = AnthropicUpstream(model=OPUS, api_key="sk-test", base_url=url, **options)
        opus._transport._pool = None if way == "sdk" else opus._transport._pool
        return opus
    with pytest.MonkeyPatch.context() as patch:
        if way == "sdk":
            patch.setattr(gemini_transport, "_session_under", lambda layer: None)
        return GeminiUpstream(model=FLASH, api_key="sk-test", base_url=url, **options)


async def warmed(upstream: Adapter, way: str) -> None:
    """Call until the adapter has found its way: the first call may be the SDK's, the second looks at the session."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "session":
            patch.setattr(exchange, "RELEASES", ("3.13.",))
        for _ in range(2):
            assert isinstance(await ask(upstream, stream=False), Reply)


@asynccontextmanager
async def serving(
    kind: str, script: Script, way: str = "exchange", **options: Any
) -> AsyncIterator[tuple[ScriptedServer, Adapter]]:
    async with scripted(script) as server:
        upstream = make(kind, server.url, way, **options)
        try:
            yield server, upstream
        finally:
            await upstream.close()


async def ask(upstream: Adapter, *, stream: bool, timeout_s: float = LONG_S) -> Reply | UpstreamError:
    """Call once; the reply, or the error."""
    rendered = upstream.render(call(user("my private prompt")))
    try:
        if not stream:
            return await upstream.generate(rendered, None, timeout_s)
        chunks = [chunk async for chunk in upstream.stream(rendered, None, timeout_s)]
    except UpstreamError as error:
        return error
    assert isinstance(chunks[-1], Finished)
    return chunks[-1].reply


def told(error: Reply | UpstreamError) -> tuple[Any, ...]:
    """All that anyone reads of an error."""
    assert isinstance(error, UpstreamError)
    return (
        type(error),
        str(error),
        error.http_status,
        error.retry_after_s,
        error.upstream_request_id,
        error.model,
        error.may_be_billed,
        error.usage,
        getattr(error, "cause", None),
    )


async def by_all_ways(
    kind: str,
    then: Script,
    posted: list[Line],
    *,
    stream: bool,
    timeout_s: float = LONG_S,
    ways: Sequence[str] = WAYS,
) -> tuple[list[Reply | UpstreamError], list[list[Request]]]:
    """Call by each way, when it has been found; the next answer is `then`'s."""
    found, sent = [], []
    for way in ways:
        first = after_first(whole(WHOLE[kind]), after_first(whole(WHOLE[kind]), then))
        async with serving(kind, first, way) as (server, upstream):
            await warmed(upstream, way)
            posted.clear()
            found.append(await ask(upstream, stream=stream, timeout_s=timeout_s))
        assert len(posted) == (way != "sdk")
        assert all((line._exchange is not None) is (way == "exchange") or stream for line in posted)
        sent.append(server.requests)
    return found, sent


@pytest.mark.parametrize("base", ["", "/behind/a/prefix"])
async def test_all_ways_put_the_same_bytes_on_the_wire(kind: str, base: str, posted: list[Line]) -> None:
    """Request line, every header in its spelling and order, and body: a provider cannot tell the ways apart."""

    async def answer(writer: asyncio.StreamWriter, request: Request) -> None:
        is_stream = "stream" in request.path or b'"stream":true' in request.body
        is_count = "count" in request.path
        script = streamed(EVENTS[kind]) if is_stream else whole(COUNT if is_count else WHOLE[kind])
        await script(writer, request)

    heads: dict[str, list[tuple[bytes, bytes]]] = {}
    for way in WAYS:
        posted.clear()
        async with scripted(answer) as server:
            upstream = make(kind, server.url + base, way)
            rendered = upstream.render(call(user("Grüße")))
            with pytest.MonkeyPatch.context() as patch:
                if way == "session":
                    patch.setattr(exchange, "RELEASES", ("3.13.",))
                for timeout_s in (LONG_S, LONG_S, 2.5):
                    await upstream.generate(rendered, None, timeout_s)
                    assert [chunk async for chunk in upstream.stream(rendered, None, timeout_s)]
                    assert await upstream.count_prompt(rendered, timeout_s) == 9
            await upstream.close()
        port = server.url.rsplit(":", 1)[1].encode()
        heads[way] = [(each.head.replace(port, b"PORT"), each.body) for each in server.requests]
        assert all(each.path.startswith(f"{base}/v1/") for each in server.requests)
        # Claude's first request and first count are the SDK's; Gemini's layer is asked beforehand.
        assert len(posted) == (0 if way == "sdk" else 7 if kind == "anthropic" else 9)
    assert heads["exchange"] == heads["sdk"]
    assert heads["session"] == heads["sdk"]
    assert len(heads["sdk"]) == 9


@pytest.mark.parametrize("stream", [False, True])
async def test_all_ways_read_the_same_reply(kind: str, stream: bool, posted: list[Line]) -> None:
    """The answer, its id, usage and the provider's request id are the same."""
    script = streamed(EVENTS[kind]) if stream else whole(WHOLE[kind])
    (first, session, sdk), _ = await by_all_ways(kind, script, posted, stream=stream)
    assert isinstance(first, Reply)
    assert first == session == sdk


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_answers_are_read(
    kind: str, stream: bool, encoding: str, posted: list[Line]
) -> None:
    """Both SDKs offer to take compressed answers, so a provider may send them."""
    plain = b"".join(EVENTS[kind]) if stream else WHOLE[kind]
    body = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    script = whole(body, headers=f"content-encoding: {encoding}\r\n")
    (first, session, sdk), _ = await by_all_ways(kind, script, posted, stream=stream)
    assert isinstance(first, Reply)
    assert first == session == sdk


@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_compression_is_the_same_error(kind: str, stream: bool, posted: list[Line]) -> None:
    """A body that is not in the encoding its headers name is no answer by either way."""
    script = whole(b"no gzip at all", headers="content-encoding: gzip\r\n")
    (first, session, sdk), _ = await by_all_ways(kind, script, posted, stream=stream)
    assert told(first) == told(session) == told(sdk)


STATUSES = (304, 400, 401, 402, 403, 404, 408, 409, 413, 418, 429, 500, 502, 503, 504, 529)


def refusals(kind: str, status: int) -> Iterator[tuple[bytes, str]]:
    """Bodies and headers a status may come with."""
    error: dict[str, Any] = {"message": "messages.0.content: slow down", "code": status, "status": "ABORTED"}
    types = {
        429: ("rate_limit_error", "RESOURCE_EXHAUSTED"),
        529: ("overloaded_error", "UNAVAILABLE"),
        400: ("invalid_request_error", "INVALID_ARGUMENT"),
    }
    error["type"], error["status"] = types.get(status, ("api_error", "INTERNAL"))
    if kind == "gemini":
        error["details"] = [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3s"},
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"},
        ][: 1 + (status == 400)]
    body = json.dumps({"type": "error", "request_id": "req_body", "error": error}).encode()
    yield body, ""
    yield body, "retry-after: 7\r\nretry-after-ms: 6500\r\nx-should-retry: false\r\nx-request-id: req_2\r\n"
    yield gzip.compress(body), "content-encoding: gzip\r\n"
    yield b"<html>my private prompt</html>", "content-type: text/html\r\n"
    yield b"", ""


@pytest.mark.parametrize("stream", [False, True])
async def test_all_ways_give_the_same_error(kind: str, stream: bool, posted: list[Line]) -> None:
    """Class, words, status, wait, request id and billing of every refusal, whatever its body is."""
    scripts = [whole(WHOLE[kind])]

    async def last(writer: asyncio.StreamWriter, request: Request) -> None:
        await scripts[-1](writer, request)

    async with scripted(last) as server:
        ways = [make(kind, server.url, way) for way in WAYS]
        for upstream, way in zip(ways, WAYS, strict=True):
            await warmed(upstream, way)
        for status in STATUSES:
            for body, headers in refusals(kind, status):
                scripts.append(whole(b"" if status == 304 else body, f"{status} Told", headers))
                posted.clear()
                first, session, sdk = [await ask(upstream, stream=stream) for upstream in ways]
                assert len(posted) == 2
                assert told(first) == told(session)
                if not (
                    kind == "gemini" and body.startswith(b"<")
                ):  # the layer loses the status of such a page
                    assert told(session) == told(sdk)
                assert isinstance(first, UpstreamError)
                assert first.__cause__ is not None
                assert "private" not in str(first)
        for upstream in ways:
            await upstream.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "page", [b"<html>busy</html>", b"<p>gr\xf6\xdfer</p>", b"[" * 100_000, b"\xff\xfe", b"{"]
)
async def test_a_page_in_place_of_an_error_is_what_its_status_says(
    kind: str, stream: bool, page: bytes
) -> None:
    """Proxies answer with pages under any header, in any encoding: 503 is overloaded and free, whatever it shows."""
    for content_type in ("application/json", "text/html"):
        refused = whole(page, "503 Told", f"content-type: {content_type}\r\n")
        async with serving(kind, after_first(whole(WHOLE[kind]), refused)) as (_, upstream):
            assert isinstance(await ask(upstream, stream=False), Reply)
            error = await ask(upstream, stream=stream)
        assert isinstance(error, errors.UpstreamOverloaded)
        assert (error.http_status, error.may_be_billed) == (503, False)


CUT = {
    "cut": (b"content-length: 900\r\n\r\n{", True),
    "cut in a chunk": (b"transfer-encoding: chunked\r\n\r\n5\r\n{", True),
    "cut and packed": (b"content-encoding: gzip\r\ncontent-length: 900\r\n\r\n\x1f", True),
    "not what it is packed as": (b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\n{}\n", True),
    "never ends": (b"content-length: 900\r\n\r\n{", False),
}


@pytest.mark.parametrize("first", [True, False], ids=["the first call", "a later call"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("sent", "ends"), CUT.values(), ids=CUT)
async def test_a_refusal_whose_reason_does_not_arrive_is_what_its_status_says(
    kind: str, stream: bool, sent: bytes, ends: bool, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody bills what he refuses, however little of the reason arrives; on the SDK's way, too."""
    over = asyncio.Event()

    async def cut(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(b"HTTP/1.1 503 Told\r\nretry-after: 7\r\ncontent-type: application/json\r\n" + sent)
        if not ends:
            await over.wait()
        writer.close()

    async with serving(kind, cut if first else after_first(whole(WHOLE[kind]), cut)) as (_, upstream):
        if not first:
            assert isinstance(await ask(upstream, stream=False), Reply)
        if not ends:
            monkeypatch.setattr(direct, "REFUSAL_BODY_S", 0.02)
        error = await ask(upstream, stream=stream)
        over.set()
    assert isinstance(error, errors.UpstreamOverloaded)
    assert (error.http_status, error.may_be_billed) == (503, False)
    assert error.retry_after_s == 7.0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_cut_off_behind_a_proxy_is_what_its_status_says(stream: bool) -> None:
    """Claude's proxy is the SDK's transport of its own."""

    async def cut(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(b"HTTP/1.1 503 Told\r\ncontent-length: 900\r\n\r\n{")
        writer.close()

    async with scripted(cut) as proxy:
        upstream = make("anthropic", "http://provider.invalid", proxy=proxy.url)
        error = await ask(upstream, stream=stream)
        await upstream.close()
    assert isinstance(error, errors.UpstreamOverloaded)
    assert (error.http_status, error.may_be_billed) == (503, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_gives_its_connection_back(kind: str, stream: bool) -> None:
    """Limits are hit under load, where a handshake per refusal would be the last straw."""
    script = after_first(whole(WHOLE[kind]), whole(b"{}", "429 Told"))
    async with serving(kind, script) as (server, upstream):
        for _ in range(4):
            await ask(upstream, stream=stream and bool(server.requests))
    made_by_the_sdk = kind == "anthropic" and not stream
    assert (server.connections, len(server.requests)) == (1 + made_by_the_sdk, 4)


async def cut_whole(writer: asyncio.StreamWriter, request: Request) -> None:
    """Promise more than comes."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
    writer.close()


@pytest.mark.parametrize("failure", ["reset", "cut", "silent"])
@pytest.mark.parametrize("stream", [False, True])
async def test_all_ways_name_a_broken_connection_alike(
    kind: str, stream: bool, failure: str, posted: list[Line]
) -> None:
    """A request that left may have been billed, by either way, and none is sent a second time."""
    cut = streamed(EVENTS[kind][:4], "cut") if stream else cut_whole
    script = {"reset": reset, "cut": cut, "silent": silent}[failure]
    timeout_s = 0.1 if failure == "silent" else LONG_S
    (first, session, sdk), sent = await by_all_ways(kind, script, posted, stream=stream, timeout_s=timeout_s)
    assert told(first) == told(session) == told(sdk)
    assert isinstance(first, UpstreamError)
    assert first.may_be_billed or first.usage is not None
    assert [len(requests) for requests in sent] == [3, 3, 3]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_redirect_is_followed(kind: str, stream: bool, posted: list[Line]) -> None:
    """From the first call on: a prompt goes where it was configured to go, once, and so does the key. Gemini's layer
    would follow, where it is the one that sends.
    """
    ways = WAYS[: 2 if kind == "gemini" else 3]
    async with scripted(whole(WHOLE[kind])) as elsewhere:
        for status, location in (
            (307, f"{elsewhere.url}/elsewhere"),
            (308, "/v1/messages"),
            (301, "\x01bad"),
        ):
            away = whole(b"", f"{status} Moved", f"location: {location}\r\n")
            async with serving(kind, away) as (server, upstream):
                first = await ask(upstream, stream=stream)
            later, sent = await by_all_ways(kind, away, posted, stream=stream, ways=ways)
            for found in (first, *later):
                assert isinstance(found, errors.UpstreamFailed)
                assert (found.http_status, found.may_be_billed) == (status, False)
                assert "redirects are not followed" in str(found)
            assert [len(server.requests), *map(len, sent)] == [1, *(3 for _ in ways)]
        assert not elsewhere.requests


def busy(upstream: Adapter) -> int:
    """Connections under way in the adapter's pool."""
    session = upstream._owned.session if isinstance(upstream, AnthropicUpstream) else upstream._session
    assert session is not None
    assert session.connector is not None
    return len(session.connector._acquired)


@pytest.mark.parametrize("phase", ["headers", "body"])
@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_leaves_no_connection_busy(
    kind: str, stream: bool, phase: str, posted: list[Line]
) -> None:
    """A caller who leaves costs the provider nothing more, and the pool no place."""

    async def half(writer: asyncio.StreamWriter, request: Request) -> None:
        await streamed(EVENTS[kind][:4], "silent")(writer, request)

    script = after_first(whole(WHOLE[kind]), silent if phase == "headers" else half)
    async with serving(kind, script) as (server, upstream):
        assert isinstance(await ask(upstream, stream=False), Reply)
        server.arrived.clear()
        posted.clear()
        task = asyncio.create_task(ask(upstream, stream=stream))
        async with asyncio.timeout(5):
            await server.arrived.wait()
            assert busy(upstream) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.left.wait()
        assert busy(upstream) == 0
        assert posted


async def test_calls_of_all_kinds_share_one_connection(kind: str) -> None:
    """Whole, streamed, refused: an answer read to its end leaves its connection to the next call.

    The one that the SDK opened for Claude serves until a plain answer could have been read from it.
    """
    answer, events = whole(WHOLE[kind]), streamed(EVENTS[kind])
    again = after_first(answer, after_first(answer, after_first(events, answer)))
    async with serving(kind, after_first(answer, after_first(events, again))) as (server, upstream):
        for stream in (False, True, False, False, True, False):
            assert isinstance(await ask(upstream, stream=stream), Reply)
        assert busy(upstream) == 0
    made_by_the_sdk = kind == "anthropic"
    assert (server.connections, len(server.requests)) == (1 + made_by_the_sdk, 6)


async def test_closing_closes_the_pool_and_later_calls_fail(kind: str) -> None:
    """Nothing is sent once the adapter is closed."""
    async with serving(kind, whole(WHOLE[kind])) as (server, upstream):
        for _ in range(2):
            assert isinstance(await ask(upstream, stream=False), Reply)
        await upstream.close()
        async with asyncio.timeout(5):
            await server.left.wait()
        with pytest.raises((UpstreamError, RuntimeError)):
            raise_if_error(await ask(upstream, stream=False))
    assert len(server.requests) == 2


def raise_if_error(found: Reply | UpstreamError) -> None:
    if isinstance(found, UpstreamError):
        raise found


async def never_direct(upstream: Adapter, posted: list[Line]) -> None:
    for stream in (False, False):
        assert isinstance(await ask(upstream, stream=stream), Reply)
    assert not posted


async def test_claude_in_another_shape_is_the_sdks(
    monkeypatch: pytest.MonkeyPatch, posted: list[Line]
) -> None:
    """A transport that holds more than is known here, or a header that is not spelled as expected: every call goes
    through the SDK."""
    known = anthropic_transport._TRANSPORT
    for name, value in (
        ("_TRANSPORT", known | {"signer"}),
        ("_TRANSPORT", known - {"uds"}),
        ("_own_headers", lambda body, timeout_s: {"content-length": "0"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(anthropic_transport, name, value)
            async with serving("anthropic", whole(WHOLE["anthropic"])) as (_, upstream):
                await never_direct(upstream, posted)


async def test_claude_without_a_known_error_hook_is_the_sdks(
    monkeypatch: pytest.MonkeyPatch, posted: list[Line]
) -> None:
    """Without the SDK's way from an answer to its error there is no way around the SDK."""
    async with serving("anthropic", whole(WHOLE["anthropic"])) as (_, upstream):
        monkeypatch.setattr(upstream._transport, "_refusal", None)
        await never_direct(upstream, posted)


@pytest.mark.parametrize("change", ["mutual TLS", "more settings", "gone"])
async def test_gemini_in_another_shape_is_the_layers(
    change: str, monkeypatch: pytest.MonkeyPatch, posted: list[Line]
) -> None:
    """Where the layer does more with a request than is known here, it does it."""
    async with serving("gemini", whole(WHOLE["gemini"])) as (_, upstream):
        layer = upstream._client._api_client
        match change:
            case "mutual TLS":
                monkeypatch.setattr(layer, "_aiohttp_use_mtls_endpoint", True)
            case "more settings":
                layer._async_client_session_request_args["total_attempts"] = 1
            case _:
                monkeypatch.delattr(layer, "_aiohttp_use_mtls_endpoint")
        assert gemini_transport._session_under(layer) is None


async def test_a_proxy_is_the_sdks_business_for_claude(posted: list[Line]) -> None:
    """Its transport for proxies adds to every request; Gemini's proxy is a setting of the session itself."""
    async with scripted(whole(WHOLE["anthropic"])) as proxy:
        upstream = make("anthropic", "http://provider.invalid", proxy=proxy.url)
        await never_direct(upstream, posted)
        await upstream.close()
    assert {request.path for request in proxy.requests} == {"http://provider.invalid/v1/messages"}
    async with scripted(whole(WHOLE["gemini"])) as proxy:
        upstream = make("gemini", "http://provider.invalid", proxy=proxy.url)
        assert isinstance(await ask(upstream, stream=False), Reply)
        await upstream.close()
    assert len(posted) == len(proxy.requests) == 1
    assert proxy.requests[0].path.startswith("http://provider.invalid/v1/models/")


async def test_a_client_handed_in_takes_every_call(kind: str, posted: list[Line]) -> None:
    """The sandbox in process has no pool to go around it by."""
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=WHOLE[kind]))
    async with httpx2.AsyncClient(transport=transport) as client:
        upstream = make(kind, "http://sandbox.invalid", http_client=client)
        await never_direct(upstream, posted)
        await upstream.close()


@pytest.mark.parametrize(("timeout_s", "connect_s"), [(1.5, 1.5), (600.0, CONNECT_S)])
async def test_connecting_is_bounded_and_nothing_else_is(timeout_s: float, connect_s: float) -> None:
    """The call's own bound is the caller's; aiohttp's default of five minutes for a whole call is off."""
    given: dict[str, Any] = {}

    class Session:
        closed = False

        async def post(self, url: Any, **options: Any) -> None:
            given.update(options)

    line = Line(Session(), "https://x.invalid/v1", {"a": "1"}, {"compress": False})  # type: ignore[arg-type]
    await line.post(b"{}", {"A": "2"}, timeout_s)
    limits: aiohttp.ClientTimeout = given["timeout"]
    assert (limits.total, limits.connect, limits.sock_read) == (None, None, None)
    assert limits.sock_connect == connect_s
    assert given["allow_redirects"] is False
    assert given["compress"] is False
    assert dict(given["headers"]) == {"A": "2"}


def test_aiohttp_sends_no_post_twice() -> None:
    """It repeats a request whose kept connection was dropped, for methods that may be repeated; ours may not."""
    assert "POST" not in aiohttp.client.IDEMPOTENT_METHODS


def test_the_installed_aiohttp_is_one_that_was_read() -> None:
    """With the pinned release requests are exchanged; this fails when an update brings another series."""
    assert aiohttp.__version__.startswith(exchange.RELEASES)


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"x-more": "1"}},
        {"proxy": "http://127.0.0.1:9"},
        {"trust_env": True},
        {"raise_for_status": True},
        {"skip_auto_headers": ("user-agent",)},
        {"base_url": "http://127.0.0.1:9/"},
        {"trace_configs": [aiohttp.TraceConfig()]},
        {"version": aiohttp.HttpVersion10},
    ],
)
async def test_a_session_with_additions_of_its_own_sends_by_itself(options: dict[str, Any]) -> None:
    """What it would add to a request is not known to an exchange."""
    given: Any = (URL("http://127.0.0.1:9/x"), {"content-type": "application/json"}, {"a": "1"}, {})
    async with aiohttp.ClientSession() as plain, aiohttp.ClientSession(**options) as more:
        assert exchange.exchange_over(plain, *given) is not None
        assert exchange.exchange_over(more, *given) is None
        assert exchange.exchange_over(plain, *given[:3], {"server_hostname": "other"}) is None
        assert exchange.exchange_over(plain, given[0], {"expect": "100-continue"}, {}, {}) is None


async def test_cookies_are_sent_as_the_session_does(posted: list[Line]) -> None:
    """A provider's edge may set some to keep a client on its node; the session's jar keeps and gives them."""
    cookies = 'set-cookie: b=2; Path=/\r\nset-cookie: a="x y"; Path=/\r\nset-cookie: c=3; Path=/other\r\n'
    sent = []
    for way in ("exchange", "session"):
        async with scripted(whole(WHOLE["anthropic"], headers=cookies)) as server:
            upstream = make(
                "anthropic", server.url.replace("127.0.0.1", "localhost"), way
            )  # no jar keeps an address's
            await warmed(upstream, way)
            assert isinstance(await ask(upstream, stream=False), Reply)
            await upstream.close()
        port = server.url.rsplit(":", 1)[1].encode()
        sent.append([request.head.replace(port, b"PORT") for request in server.requests])
    assert sent[0] == sent[1]
    assert b'\r\nCookie: a="x y"; b=2\r\n' in sent[0][-1]


async def test_long_bodies_are_left_to_aiohttp(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits while a socket drains; the request is the same."""
    async with serving(kind, whole(WHOLE[kind])) as (server, upstream):
        for limit_bytes in (1 << 16, 1 << 16, 10):
            monkeypatch.setattr(direct, "BODY_LIMIT_BYTES", limit_bytes)
            assert isinstance(await ask(upstream, stream=False), Reply)
        rendered = upstream.render(call(user("long " * 50_000)))
        assert (await upstream.generate(rendered, None, LONG_S)).parts
    first, _, third, last = server.requests
    assert (third.head, third.body) == (first.head, first.body)
    assert len(last.body) > 250_000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_kept_connection_the_provider_closed_is_not_used(kind: str, stream: bool) -> None:
    """A call after the provider has hung up opens a new connection and succeeds."""

    async def once(writer: asyncio.StreamWriter, request: Request) -> None:
        await (streamed(EVENTS[kind]) if stream else whole(WHOLE[kind]))(writer, request)
        writer.close()

    async with serving(kind, after_first(whole(WHOLE[kind]), once)) as (server, upstream):
        assert isinstance(await ask(upstream, stream=False), Reply)
        for _ in range(3):
            assert isinstance(await ask(upstream, stream=stream), Reply)
            async with asyncio.timeout(5):
                while free(upstream):  # noqa: ASYNC110 (the client's loop has to see the end)
                    await asyncio.sleep(0)
    assert (server.connections, len(server.requests)) == (3, 4)


@pytest.mark.parametrize("way", ["exchange", "session"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_nobody_asked_for_is_nobodys(kind: str, stream: bool, way: str) -> None:
    """What comes over a connection in the pool is not taken for the next request's answer, nor for its beginning."""
    told_late = asyncio.Event()

    async def twice(writer: asyncio.StreamWriter, request: Request) -> None:
        await whole(WHOLE[kind])(writer, request)
        await writer.drain()
        await told_late.wait()
        if way == "exchange":
            await whole(b'{"error":{}}', "429 Too Many Requests")(writer, request)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{")

    answers = streamed(EVENTS[kind]) if stream else whole(WHOLE[kind])
    script = after_first(whole(WHOLE[kind]), after_first(whole(WHOLE[kind]), after_first(twice, answers)))
    async with serving(kind, script) as (server, upstream):
        await warmed(upstream, way)
        assert isinstance(await ask(upstream, stream=False), Reply)
        assert (spoilt(upstream), free(upstream)) == (0, 1)
        told_late.set()
        async with asyncio.timeout(5):
            while not spoilt(upstream):  # noqa: ASYNC110 (the client's loop has to hear of it)
                await asyncio.sleep(0)
        assert isinstance(await ask(upstream, stream=stream), Reply)
    made_by_the_sdk = kind == "anthropic" and way == "exchange"
    assert (server.connections, len(server.requests)) == (2 + made_by_the_sdk, 4)


async def test_after_two_calls_every_connection_reads_plain_answers(kind: str) -> None:
    """One that the SDK opened before its way was known would otherwise be read by aiohttp as long as it lives."""
    async with serving(kind, whole(WHOLE[kind])) as (server, upstream):
        await warmed(upstream, "exchange")
        for _ in range(3):
            assert isinstance(await ask(upstream, stream=False), Reply)
        assert [type(each) for each in kept(upstream)] == [AnswerHandler]
    assert server.connections <= 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_packed", [False, True])
async def test_an_id_that_is_no_text_costs_nobody_the_answer(
    kind: str, stream: bool, is_packed: bool, posted: list[Line]
) -> None:
    """The ledger writes ids down in UTF-8: one that cannot be written would leave a paid call out of the books."""
    plain = b"".join(EVENTS[kind]) if stream else WHOLE[kind]
    body = gzip.compress(plain) if is_packed else plain
    head = b"HTTP/1.1 200 OK\r\nrequest-id: r\xff\xfe\r\nx-request-id: r\xff\xfe\r\n"
    head += b"content-encoding: gzip\r\n" * is_packed

    async def answer(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)

    found, _ = await by_all_ways(kind, answer, posted, stream=stream)
    first, session, sdk = (reply for reply in found if isinstance(reply, Reply))
    assert first == session
    assert first.parts == sdk.parts
    assert first.upstream_request_id.encode().startswith(b"r")
    assert sdk.upstream_request_id.encode().startswith(b"r")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_whose_words_are_no_text_is_a_refusal(
    kind: str, stream: bool, posted: list[Line]
) -> None:
    """What the status says stands, whatever bytes stand beside it; and it can be written down.

    Where the SDK sends for Claude, its transport fails over such a reason: that is unknown, not free.
    """

    async def answer(writer: asyncio.StreamWriter, request: Request) -> None:
        writer.write(b"HTTP/1.1 529 \xff\r\nrequest-id: \xff\r\nx-request-id: \xff\r\nretry-after: \xff\r\n")
        writer.write(b"content-length: 2\r\n\r\n{}")

    found, _ = await by_all_ways(kind, answer, posted, stream=stream)
    *ours, sdk = found
    for error in ours:
        assert isinstance(error, UpstreamError)
        assert (error.http_status, error.may_be_billed) == (529, False)
        f"{error} {error.upstream_request_id}".encode()
    assert isinstance(sdk, UpstreamError)
    assert sdk.http_status == 529 or sdk.may_be_billed


async def test_an_answer_of_another_success_is_not_taken_for_free(kind: str, posted: list[Line]) -> None:
    """A status of 206 refuses nothing: who answered so may bill it."""
    found, _ = await by_all_ways(kind, whole(WHOLE[kind], "206 Partial Content"), posted, stream=False)
    assert all(isinstance(each, Reply) or each.may_be_billed for each in found)


def spoilt(upstream: Adapter) -> int:
    """Kept connections over which something came."""
    return sum(each.should_close for each in kept(upstream))


def free(upstream: Adapter) -> int:
    """Kept connections the adapter's pool still believes in."""
    return sum(each.is_connected() for each in kept(upstream))


def kept(upstream: Adapter) -> list[ResponseHandler]:
    """Connections in the adapter's pool."""
    session = upstream._owned.session if isinstance(upstream, AnthropicUpstream) else upstream._session
    assert session is not None
    assert session.connector is not None
    return [each for pool in session.connector._conns.values() for each, _ in pool]
