"""Straight over the pool or through the SDK: the same on the wire, the same answer, the same error."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx2
import pytest

from router import errors
from router.errors import UpstreamError
from router.reply import Finished, Reply
from router.upstreams import anthropic_transport, gemini_transport
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.direct import CONNECT_S, Line
from router.upstreams.gemini import GeminiUpstream
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
    post = Line.post

    async def noted(self: Line, *args: Any) -> Any:
        lines.append(self)
        return await post(self, *args)

    monkeypatch.setattr(Line, "post", noted)
    return lines


def make(kind: str, url: str, *, direct: bool, **options: Any) -> Adapter:
    """Build an adapter that goes straight over the pool as soon as it can, or never does."""
    if kind == "anthropic":
        opus = AnthropicUpstream(model=OPUS, api_key="sk-test", base_url=url, **options)
        opus._transport._pool = opus._transport._pool if direct else None
        return opus
    with pytest.MonkeyPatch.context() as patch:
        if not direct:
            patch.setattr(gemini_transport, "_session_under", lambda layer: None)
        return GeminiUpstream(model=FLASH, api_key="sk-test", base_url=url, **options)


@asynccontextmanager
async def serving(
    kind: str, script: Script, *, direct: bool = True, **options: Any
) -> AsyncIterator[tuple[ScriptedServer, Adapter]]:
    async with scripted(script) as server:
        upstream = make(kind, server.url, direct=direct, **options)
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


async def by_both_ways(
    kind: str, then: Script, posted: list[Line], *, stream: bool, timeout_s: float = LONG_S
) -> tuple[list[Reply | UpstreamError], list[list[Request]]]:
    """Call twice by either way: the first answer is a good one, the second is `then`'s."""
    found, sent = [], []
    for direct in (True, False):
        posted.clear()
        async with serving(kind, after_first(whole(WHOLE[kind]), then), direct=direct) as (server, upstream):
            assert isinstance(await ask(upstream, stream=False), Reply)
            found.append(await ask(upstream, stream=stream, timeout_s=timeout_s))
        assert bool(posted) is direct
        sent.append(server.requests)
    return found, sent


@pytest.mark.parametrize("base", ["", "/behind/a/prefix"])
async def test_both_ways_put_the_same_bytes_on_the_wire(kind: str, base: str, posted: list[Line]) -> None:
    """Request line, every header in its spelling and order, and body: a provider cannot tell the ways apart."""

    async def answer(writer: asyncio.StreamWriter, request: Request) -> None:
        is_stream = "stream" in request.path or b'"stream":true' in request.body
        is_count = "count" in request.path
        script = streamed(EVENTS[kind]) if is_stream else whole(COUNT if is_count else WHOLE[kind])
        await script(writer, request)

    heads: dict[bool, list[tuple[bytes, bytes]]] = {}
    for direct in (True, False):
        posted.clear()
        async with scripted(answer) as server:
            upstream = make(kind, server.url + base, direct=direct)
            rendered = upstream.render(call(user("Grüße")))
            for timeout_s in (LONG_S, LONG_S, 2.5):
                await upstream.generate(rendered, None, timeout_s)
                assert [chunk async for chunk in upstream.stream(rendered, None, timeout_s)]
                assert await upstream.count_prompt(rendered, timeout_s) == 9
            await upstream.close()
        port = server.url.rsplit(":", 1)[1].encode()
        heads[direct] = [(each.head.replace(port, b"PORT"), each.body) for each in server.requests]
        assert all(each.path.startswith(f"{base}/v1/") for each in server.requests)
        # Claude's first request and first count are the SDK's; Gemini's layer is asked beforehand.
        assert len(posted) == (0 if not direct else 7 if kind == "anthropic" else 9)
    assert heads[True] == heads[False]
    assert len(heads[True]) == 9


@pytest.mark.parametrize("stream", [False, True])
async def test_both_ways_read_the_same_reply(kind: str, stream: bool, posted: list[Line]) -> None:
    """The answer, its id, usage and the provider's request id are the same."""
    script = streamed(EVENTS[kind]) if stream else whole(WHOLE[kind])
    (direct, sdk), _ = await by_both_ways(kind, script, posted, stream=stream)
    assert isinstance(direct, Reply)
    assert direct == sdk


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("stream", [False, True])
async def test_compressed_answers_are_read(
    kind: str, stream: bool, encoding: str, posted: list[Line]
) -> None:
    """Both SDKs offer to take compressed answers, so a provider may send them."""
    plain = b"".join(EVENTS[kind]) if stream else WHOLE[kind]
    body = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    script = whole(body, headers=f"content-encoding: {encoding}\r\n")
    (direct, sdk), _ = await by_both_ways(kind, script, posted, stream=stream)
    assert isinstance(direct, Reply)
    assert direct == sdk


@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_compression_is_the_same_error(kind: str, stream: bool, posted: list[Line]) -> None:
    """A body that is not in the encoding its headers name is no answer by either way."""
    script = whole(b"no gzip at all", headers="content-encoding: gzip\r\n")
    (direct, sdk), _ = await by_both_ways(kind, script, posted, stream=stream)
    assert told(direct) == told(sdk)


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
async def test_both_ways_give_the_same_error(kind: str, stream: bool, posted: list[Line]) -> None:
    """Class, words, status, wait, request id and billing of every refusal, whatever its body is."""
    scripts = [whole(WHOLE[kind])]

    async def last(writer: asyncio.StreamWriter, request: Request) -> None:
        await scripts[-1](writer, request)

    async with scripted(last) as server:
        ways = [make(kind, server.url, direct=direct) for direct in (True, False)]
        for way in ways:
            assert isinstance(await ask(way, stream=False), Reply)
        for status in STATUSES:
            for body, headers in refusals(kind, status):
                scripts.append(whole(b"" if status == 304 else body, f"{status} Told", headers))
                posted.clear()
                direct, sdk = [await ask(way, stream=stream) for way in ways]
                assert len(posted) == 1
                assert told(direct) == told(sdk)
                assert isinstance(direct, UpstreamError)
                assert direct.__cause__ is not None
                assert "private" not in str(direct)
        for way in ways:
            await way.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_gives_its_connection_back(kind: str, stream: bool) -> None:
    """Limits are hit under load, where a handshake per refusal would be the last straw."""
    script = after_first(whole(WHOLE[kind]), whole(b"{}", "429 Told"))
    async with serving(kind, script) as (server, upstream):
        for _ in range(4):
            await ask(upstream, stream=stream and bool(server.requests))
    assert (server.connections, len(server.requests)) == (1, 4)


async def cut_whole(writer: asyncio.StreamWriter, request: Request) -> None:
    """Promise more than comes."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
    writer.close()


@pytest.mark.parametrize("failure", ["reset", "cut", "silent"])
@pytest.mark.parametrize("stream", [False, True])
async def test_both_ways_name_a_broken_connection_alike(
    kind: str, stream: bool, failure: str, posted: list[Line]
) -> None:
    """A request that left may have been billed, by either way, and none is sent a second time."""
    cut = streamed(EVENTS[kind][:4], "cut") if stream else cut_whole
    script = {"reset": reset, "cut": cut, "silent": silent}[failure]
    timeout_s = 0.1 if failure == "silent" else LONG_S
    (direct, sdk), sent = await by_both_ways(kind, script, posted, stream=stream, timeout_s=timeout_s)
    assert told(direct) == told(sdk)
    assert isinstance(direct, UpstreamError)
    assert direct.may_be_billed or direct.usage is not None
    assert [len(requests) for requests in sent] == [2, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_redirect_is_followed_with_our_credential(
    kind: str, stream: bool, posted: list[Line]
) -> None:
    """Claude's goes the SDK's way, which leaves the credential behind; Gemini's is an error, its key would go along."""
    async with scripted(whole(WHOLE[kind])) as elsewhere:
        away = whole(b"", "307 Temporary Redirect", f"location: {elsewhere.url}/elsewhere\r\n")
        script = after_first(whole(WHOLE[kind]), away)
        async with serving(kind, script) as (_, upstream):
            assert isinstance(await ask(upstream, stream=False), Reply)
            posted.clear()
            found = await ask(upstream, stream=False)
            if kind == "anthropic":
                assert isinstance(await ask(upstream, stream=False), Reply)
        assert len(posted) == 1
    if kind == "gemini":
        assert told(found)[0] is errors.UpstreamFailed
        assert not elsewhere.requests
    else:
        assert isinstance(found, Reply)
        assert len(elsewhere.requests) == 2
    assert not any("sk-test" in str(request.headers) for request in elsewhere.requests)


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
    """Whole, streamed, refused: an answer read to its end leaves its connection to the next call."""
    answer = whole(WHOLE[kind])
    async with serving(kind, after_first(answer, after_first(streamed(EVENTS[kind]), answer))) as (
        server,
        upstream,
    ):
        for stream in (False, True, False, False):
            assert isinstance(await ask(upstream, stream=stream), Reply)
        assert busy(upstream) == 0
    assert (server.connections, len(server.requests)) == (1, 4)


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
        upstream = make("anthropic", "http://provider.invalid", direct=True, proxy=proxy.url)
        await never_direct(upstream, posted)
        await upstream.close()
    assert {request.path for request in proxy.requests} == {"http://provider.invalid/v1/messages"}
    async with scripted(whole(WHOLE["gemini"])) as proxy:
        upstream = make("gemini", "http://provider.invalid", direct=True, proxy=proxy.url)
        assert isinstance(await ask(upstream, stream=False), Reply)
        await upstream.close()
    assert len(posted) == len(proxy.requests) == 1
    assert proxy.requests[0].path.startswith("http://provider.invalid/v1/models/")


async def test_a_client_handed_in_takes_every_call(kind: str, posted: list[Line]) -> None:
    """The sandbox in process has no pool to go around it by."""
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=WHOLE[kind]))
    async with httpx2.AsyncClient(transport=transport) as client:
        upstream = make(kind, "http://sandbox.invalid", direct=True, http_client=client)
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
