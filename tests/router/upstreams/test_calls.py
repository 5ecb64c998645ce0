"""Both adapters through their real SDKs to a real socket: one behaviour, whatever goes wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from router import errors
from router.call import FinishReason
from router.errors import InvalidRequest, UpstreamError
from router.reply import Chunk, Finished, Started, TextDelta
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Upstream
from router.upstreams.gemini import GeminiUpstream
from tests.benchmarks.mock_provider import Canned
from tests.router.upstreams.samples import FLASH, OPUS, call, user
from tests.router.upstreams.scripted_server import (
    Script,
    ScriptedServer,
    reset,
    scripted,
    silent,
    streamed,
    whole,
)

CANNED = Canned(chunks=6, size=120)
WHOLE = {"anthropic": CANNED.anthropic, "gemini": CANNED.gemini}
EVENTS = {"anthropic": CANNED.anthropic_stream, "gemini": CANNED.gemini_stream}
KEY = "sk-test-key"
LONG_S = 20.0


def make(kind: str, url: str, http_client: httpx2.AsyncClient | None = None) -> Upstream:
    if kind == "anthropic":
        return AnthropicUpstream(model=OPUS, api_key=KEY, base_url=url, http_client=http_client)
    return GeminiUpstream(model=FLASH, api_key=KEY, base_url=url, http_client=http_client)


@asynccontextmanager
async def serving(kind: str, script: Script) -> AsyncIterator[tuple[ScriptedServer, Upstream]]:
    async with scripted(script) as server:
        upstream = make(kind, server.url)
        try:
            yield server, upstream
        finally:
            await upstream.close()


@pytest.fixture(params=["anthropic", "gemini"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def generate(upstream: Upstream, timeout_s: float = LONG_S) -> Any:
    return await upstream.generate(upstream.render(call(user("my private prompt"))), None, timeout_s)


def stream(upstream: Upstream, timeout_s: float = LONG_S) -> AsyncIterator[Chunk]:
    return upstream.stream(upstream.render(call(user("my private prompt"))), None, timeout_s)


async def collect(chunks: AsyncIterator[Chunk]) -> tuple[list[Chunk], UpstreamError | None]:
    seen: list[Chunk] = []
    try:
        async for chunk in chunks:
            seen.append(chunk)  # noqa: PERF401 (what came before an error counts)
    except UpstreamError as error:
        return seen, error
    return seen, None


async def test_whole_and_streamed_answers_agree(kind: str) -> None:
    """The same answer by either way gives the same parts and reason."""
    async with serving(kind, whole(WHOLE[kind])) as (_, upstream):
        reply = await generate(upstream)
    async with serving(kind, streamed(EVENTS[kind])) as (_, upstream):
        chunks, error = await collect(stream(upstream))
    assert error is None
    assert isinstance(chunks[0], Started)
    assert isinstance(chunks[-1], Finished)
    assert chunks[-1].reply.parts == reply.parts
    assert chunks[-1].reply.usage == reply.usage
    assert "".join(c.text for c in chunks if isinstance(c, TextDelta)) == reply.parts[0].text
    assert reply.finish_reason is FinishReason.END_TURN


async def test_the_sent_bytes_are_the_rendered_ones(kind: str) -> None:
    """Nothing between render and wire rewrites the body: the cache's "same bytes" is the provider's."""
    async with serving(kind, whole(WHOLE[kind])) as (server, upstream):
        rendered = upstream.render(call(user("Grüße"), system=("S",)))
        await upstream.generate(rendered, None, LONG_S)
    (request,) = server.requests
    assert all(block.content in request.body for block in rendered.prompt.blocks)
    assert request.headers["content-type"] == "application/json"


async def test_later_requests_are_spelled_as_the_first_one(kind: str) -> None:
    """The adapters reuse what the SDK worked out for its first request; only length, time and body may differ."""
    async with serving(kind, whole(WHOLE[kind])) as (server, upstream):
        for _ in range(2):
            await generate(upstream)
        await upstream.generate(upstream.render(call(user("another, longer prompt"))), None, LONG_S / 2)
    first, second, third = server.requests
    assert (second.path, second.headers, second.body) == (first.path, first.headers, first.body)
    assert third.path == first.path
    differing = {
        name for name in first.headers | third.headers if first.headers.get(name) != third.headers.get(name)
    }
    assert {"content-length"} <= differing <= {"content-length"} | TIMEOUTS
    assert third.headers["content-length"] == str(len(third.body))


async def test_claude_sends_options_the_fast_way_does_not_know() -> None:
    """The client is the SDK's: whoever passes more than a timeout gets what the SDK makes of it."""
    async with serving("anthropic", whole(WHOLE["anthropic"])) as (server, upstream):
        await generate(upstream)
        client = upstream._client  # type: ignore[attr-defined]
        for headers in ({"x-extra": "1"}, {}):
            await client.post(
                "/v1/messages",
                content=b"{}",
                cast_to=httpx2.Response,
                options={"timeout": httpx2.Timeout(LONG_S), "headers": headers},
            )
    plain, extra, without = server.requests
    assert extra.headers["x-extra"] == "1"
    assert "x-extra" not in plain.headers | without.headers
    assert "idempotency-key" not in plain.headers | extra.headers | without.headers


TIMEOUTS = {"x-stainless-timeout", "x-stainless-read-timeout", "x-server-timeout"}
HOSTILE = {
    "ANTHROPIC_API_KEY": "sk-env",
    "ANTHROPIC_AUTH_TOKEN": "tok-env",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "ANTHROPIC_CUSTOM_HEADERS": "x-from-env: yes\nauthorization: Bearer sk-env",
    "ANTHROPIC_PROFILE": "nobody",
    "GOOGLE_API_KEY": "sk-env",
    "GEMINI_API_KEY": "sk-env-2",
    "GOOGLE_GENAI_USE_VERTEXAI": "true",
    "GOOGLE_GENAI_USE_ENTERPRISE": "true",
    "GOOGLE_CLOUD_PROJECT": "project-env",
    "GOOGLE_CLOUD_LOCATION": "us-central1",
    "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9",
    "GOOGLE_GENAI_API_VERSION": "v9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


async def test_the_environment_does_not_reach_the_wire(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given explicitly holds; the SDKs read the environment by themselves."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    async with serving(kind, whole(WHOLE[kind])) as (server, upstream):
        await generate(upstream)
    (request,) = server.requests
    assert "env" not in json.dumps([request.path, request.headers])
    credential = {"anthropic": "authorization", "gemini": "x-goog-api-key"}[kind]
    assert request.headers[credential].removeprefix("Bearer ") == KEY
    assert (
        request.path == {"anthropic": "/v1/messages", "gemini": f"/v1/models/{FLASH}:generateContent"}[kind]
    )


async def test_no_connection_is_told_at_once(kind: str) -> None:
    """Refused connections are ours to retry: Google's SDK would wait 1 to 10 s and try again by itself."""
    async with scripted(silent) as server:
        url = server.url
    upstream = make(kind, url)
    try:
        async with asyncio.timeout(0.9):
            with pytest.raises(errors.UpstreamUnreachable):
                await generate(upstream)
            chunks, error = await collect(stream(upstream))
    finally:
        await upstream.close()
    assert chunks == []
    assert type(error) is errors.UpstreamUnreachable


async def test_a_reset_is_not_retried_below_us(kind: str) -> None:
    """A request whose connection broke may have been billed; nobody sends it again behind our back."""
    async with serving(kind, reset) as (server, upstream):
        with pytest.raises(errors.UpstreamUnreachable):
            await generate(upstream)
        _, error = await collect(stream(upstream))
    assert type(error) is errors.UpstreamUnreachable
    assert len(server.requests) == 2


async def test_silence_is_a_timeout(kind: str) -> None:
    """`timeout_s` bounds the call, and the connection is closed with it."""
    async with serving(kind, silent) as (server, upstream):
        with pytest.raises(errors.UpstreamTimeout):
            await generate(upstream, 0.05)
        chunks, error = await collect(stream(upstream, 0.05))
        async with asyncio.timeout(5):
            await server.left.wait()
    assert (chunks, type(error)) == ([], errors.UpstreamTimeout)


@pytest.mark.parametrize("ending", ["whole", "cut", "silent"])
async def test_a_broken_off_answer_keeps_what_was_seen(kind: str, ending: str) -> None:
    """Ended early, cut or silent: chunks come first, then one error with the usage known so far."""
    events = EVENTS[kind][:4]
    async with serving(kind, streamed(events, ending)) as (_, upstream):
        chunks, error = await collect(stream(upstream, 0.3))
    assert isinstance(chunks[0], Started)
    assert any(isinstance(chunk, TextDelta) for chunk in chunks)
    assert not any(isinstance(chunk, Finished) for chunk in chunks)
    assert type(error) is errors.UpstreamInterrupted
    assert error.usage is not None
    assert error.usage.input_tokens == 5050
    assert not error.usage.complete
    assert "the answer broke off: " in str(error)
    assert "before an answer" not in str(error)
    assert "private" not in str(error)


async def test_an_answer_whole_but_for_its_connection_counts(kind: str) -> None:
    """After the provider's end the connection's own end does not matter."""
    async with serving(kind, streamed(EVENTS[kind], "cut")) as (_, upstream):
        chunks, error = await collect(stream(upstream))
    assert error is None
    assert isinstance(chunks[-1], Finished)


ERROR_EVENTS = {
    "anthropic": (b'data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'),
    "gemini": b'data: {"error":{"code":503,"status":"UNAVAILABLE","message":"Overloaded"}}\r\n\r\n',
}


async def test_an_error_event_is_named_by_where_it_stands(kind: str) -> None:
    """Before the answer began it is what it says; after that, an interruption that says why."""
    async with serving(kind, streamed([ERROR_EVENTS[kind]])) as (_, upstream):
        chunks, error = await collect(stream(upstream))
    assert (chunks, type(error)) == ([], errors.UpstreamOverloaded)
    async with serving(kind, streamed([*EVENTS[kind][:4], ERROR_EVENTS[kind]])) as (_, upstream):
        chunks, error = await collect(stream(upstream))
    assert isinstance(chunks[0], Started)
    assert type(error) is errors.UpstreamInterrupted
    assert "Overloaded" in str(error)


async def test_stopping_early_closes_the_connection(kind: str) -> None:
    """What is not read is not paid: the provider sees the caller leave at once."""
    async with serving(kind, streamed(EVENTS[kind][:4], "silent")) as (server, upstream):
        chunks = stream(upstream)
        assert isinstance(await anext(chunks), Started)
        await chunks.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            await server.left.wait()


@pytest.mark.parametrize("phase", ["unary", "headers", "body"])
async def test_cancelling_passes_and_closes_the_connection(kind: str, phase: str) -> None:
    """Cancel at every await: before headers and between chunks, whole and streamed."""
    script = streamed(EVENTS[kind][:4], "silent") if phase == "body" else silent
    async with serving(kind, script) as (server, upstream):
        begun = asyncio.Event()

        async def consume() -> None:
            if phase == "unary":
                await generate(upstream)
            async for _ in stream(upstream):
                begun.set()

        task = asyncio.create_task(consume())
        async with asyncio.timeout(5):
            await (begun if phase == "body" else server.arrived).wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.left.wait()


async def test_finished_streams_give_their_connection_back(kind: str) -> None:
    """A new TLS handshake per answer would cost more than the answer's CPU."""
    async with serving(kind, streamed(EVENTS[kind])) as (server, upstream):
        for _ in range(3):
            await collect(stream(upstream))
    assert (server.connections, len(server.requests)) == (1, 3)


REFUSALS = {
    "anthropic": b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}',
    "gemini": b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"slow down"}}',
}


async def test_refusals_are_mapped_by_either_way(kind: str) -> None:
    """Status, wait and message arrive the same for a whole and for a streamed call."""
    script = whole(REFUSALS[kind], "429 Too Many Requests", "retry-after: 7\r\n")
    async with serving(kind, script) as (_, upstream):
        with pytest.raises(errors.UpstreamRateLimited) as caught:
            await generate(upstream)
        _, streamed_error = await collect(stream(upstream))
    for error in (caught.value, streamed_error):
        assert type(error) is errors.UpstreamRateLimited
        assert (error.http_status, error.retry_after_s, error.model) == (429, 7.0, upstream.model)
        assert "slow down" in str(error)
        assert error.__cause__ is not None


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"type":"message","content":"\xff"}'])
async def test_answers_that_are_no_answers_are_malformed(kind: str, body: bytes) -> None:
    """They were probably billed, so they are told apart from refusals."""
    async with serving(kind, whole(body)) as (_, upstream):
        with pytest.raises(errors.UpstreamMalformed) as caught:
            await generate(upstream)
        _, error = await collect(stream(upstream))
    assert caught.value.may_be_billed
    assert type(error) is errors.UpstreamMalformed


@pytest.mark.parametrize("status", ["502 Bad Gateway", "500 Internal Server Error"])
async def test_errors_that_are_no_json_are_failures(kind: str, status: str) -> None:
    """A proxy's page becomes a failure without a word of it."""
    async with serving(kind, whole(b"<html>my private prompt</html>", status)) as (_, upstream):
        with pytest.raises(UpstreamError) as caught:
            await generate(upstream)
    assert "private" not in str(caught.value)


async def test_an_error_under_http_200_is_that_error(kind: str) -> None:
    """Whole and streamed: a body that says it is an error is one, whatever the status line says."""
    body = {
        "anthropic": b'{"type":"error","error":{"type":"overloaded_error","message":null}}',
        "gemini": b'[{\n"error":{"code":503,"status":"UNAVAILABLE","message":null}}\n]\n',
    }[kind]
    async with serving(kind, whole(body)) as (_, upstream):
        with pytest.raises(errors.UpstreamOverloaded):
            await generate(upstream)
        _, error = await collect(stream(upstream))
    assert type(error) is errors.UpstreamOverloaded


async def test_gemini_answers_without_content_or_reason_are_malformed() -> None:
    """An empty 200 is no answer, but its input was counted."""
    async with serving("gemini", whole(b'{"usageMetadata":{"promptTokenCount":9}}')) as (_, upstream):
        with pytest.raises(errors.UpstreamMalformed) as caught:
            await generate(upstream)
    assert caught.value.usage is not None
    assert caught.value.usage.input_tokens == 9


async def test_broken_off_answers_are_counted_by_the_free_counter() -> None:
    """Anthropic counts requests, so the frame of one is measured once and taken off; Gemini counts text."""
    counts = {b'"content":"."': 8, b'"content":"long"': 40, b'"content":"shorter"': 31, b'"text": "long"': 33}

    async def counter(writer: asyncio.StreamWriter, request: Any) -> None:
        (tokens,) = (count for text, count in counts.items() if text in request.body)
        await whole(json.dumps({"input_tokens": tokens, "totalTokens": tokens}).encode())(writer, request)

    async with serving("anthropic", counter) as (server, upstream):
        assert [await upstream.count_output(text, LONG_S) for text in ("", "long", "shorter")] == [0, 33, 24]
    assert [request.path for request in server.requests] == ["/v1/messages/count_tokens"] * 3
    async with serving("gemini", counter) as (server, upstream):
        assert [await upstream.count_output(text, LONG_S) for text in ("", "long")] == [0, 33]
    assert [request.path for request in server.requests] == [f"/v1/models/{FLASH}:countTokens"]


@pytest.mark.parametrize(
    "script",
    [
        silent,
        reset,
        whole(b"<html>"),
        whole(b"\xff"),
        whole(b'{"input_tokens":null}'),
        whole(b"{}", "500 Oops"),
    ],
)
async def test_a_counter_that_fails_says_nothing(kind: str, script: Script) -> None:
    """Unknown is None; counting is never worth an error of its own."""
    async with serving(kind, script) as (_, upstream):
        assert await upstream.count_output("text", 0.2) is None


async def test_warming_calls_are_not_streamed() -> None:
    """The API refuses `stream` with 0 tokens; a warm is one whole call."""
    async with serving("anthropic", whole(WHOLE["anthropic"])) as (server, upstream):
        rendered = upstream.render(call(max_output_tokens=0))
        with pytest.raises(InvalidRequest):
            upstream.stream(rendered, None, LONG_S)
        await upstream.generate(rendered, None, LONG_S)
    assert json.loads(server.requests[0].body)["max_tokens"] == 0


async def test_a_client_handed_in_is_used_and_stays_open(kind: str) -> None:
    """The sandbox's client may serve several upstreams; who made it closes it."""
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=WHOLE[kind]))
    async with httpx2.AsyncClient(transport=transport) as client:
        for _ in range(2):
            upstream = make(kind, "http://sandbox.invalid", client)
            assert (await generate(upstream)).parts
            await upstream.close()
        assert not client.is_closed


def test_upstreams_say_where_they_are() -> None:
    """Names and addresses follow the telemetry conventions; a missing key is refused at once."""
    opus, flash = AnthropicUpstream(model=OPUS, api_key="k"), GeminiUpstream(model=FLASH, api_key="k")
    assert (opus.server_address, opus.server_port) == ("api.anthropic.com", 443)
    assert (flash.server_address, flash.server_port) == ("generativelanguage.googleapis.com", 443)
    for factory in (AnthropicUpstream, GeminiUpstream):
        with pytest.raises(ValueError, match="API key"):
            factory(model=OPUS if factory is AnthropicUpstream else FLASH, api_key="")


def _left(share: int) -> str:
    return f"anthropic-ratelimit-input-tokens-limit: 100\r\nanthropic-ratelimit-input-tokens-remaining: {share}\r\n"


async def test_the_rate_limit_is_that_of_messages_and_refusals_tell_it_too() -> None:
    """Counting tokens has a limit of its own; a refusal before and after the first answer says what is left."""
    refusal = whole(REFUSALS["anthropic"], "429 Too Many Requests", _left(5))
    script = refusal

    async def current(writer: asyncio.StreamWriter, request: Any) -> None:
        await script(writer, request)

    async with serving("anthropic", current) as (_, upstream):
        assert isinstance(upstream, AnthropicUpstream)
        assert upstream.rate_room() is None
        with pytest.raises(errors.UpstreamRateLimited):
            await generate(upstream)
        assert upstream.rate_room() == pytest.approx(0.05, abs=0.02)
        script = whole(WHOLE["anthropic"], headers=_left(80))
        await generate(upstream)
        assert upstream.rate_room() == pytest.approx(0.8, abs=0.02)
        script = whole(json.dumps({"input_tokens": 9}).encode(), headers=_left(100))
        await upstream.count_output("text", LONG_S)
        assert upstream.rate_room() == pytest.approx(0.8, abs=0.02)
        script = whole(b"{}", "529 Overloaded")
        with pytest.raises(errors.UpstreamError):
            await generate(upstream)
        assert upstream.rate_room() == pytest.approx(0.8, abs=0.02)
        script = refusal
        with pytest.raises(errors.UpstreamRateLimited):
            await generate(upstream)
        assert upstream.rate_room() == pytest.approx(0.05, abs=0.02)
