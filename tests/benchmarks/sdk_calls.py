"""Both official SDKs called as directly as they allow: the floor under every Python gateway.

Two entries each. "raw" is what the SDKs document (or, for Gemini, the request layer under its public methods): it
takes a dict and skips the response models. "lean" is how the router's adapters send: bytes in, bytes out, over the
SDKs' pools; what the router costs beyond this is the router's own. Nothing is checked, priced or remembered here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import anthropic
import msgspec
from google import genai
from google.genai import types

from router.upstreams.anthropic_transport import LIMITS, AnthropicTransport, Pool
from router.upstreams.gemini_transport import RawTransport
from router.upstreams.relay import Source
from router.v1 import router_service_pb2
from tests.benchmarks.traffic import FLASH, anthropic_body, gemini_body

TIMEOUT_S = 30.0
Prompt = router_service_pb2.Prompt
Unary = Callable[[Prompt], Awaitable[str]]
"""Prompt to answer text."""
Stream = Callable[[Prompt], AsyncIterator[str]]
"""Prompt to the answer's text in pieces."""

_encode = msgspec.json.encode


class _Delta(msgspec.Struct):
    text: str = ""


class _AnthropicEvent(msgspec.Struct):
    delta: _Delta | None = None


class _Text(msgspec.Struct):
    text: str = ""


class _AnthropicMessage(msgspec.Struct):
    content: list[_Text]


class _Content(msgspec.Struct):
    parts: list[_Text]


class _Candidate(msgspec.Struct):
    content: _Content


class _GeminiFrame(msgspec.Struct):
    candidates: list[_Candidate]


_message = msgspec.json.Decoder(_AnthropicMessage).decode
_event = msgspec.json.Decoder(_AnthropicEvent).decode
_frame = msgspec.json.Decoder(_GeminiFrame).decode


@dataclass(frozen=True, slots=True)
class Calls:
    """Unary and streamed calls by route, and what to await at the end."""

    unary: dict[str, Unary]
    stream: dict[str, Stream]
    close: Callable[[], Awaitable[None]]


def sdk_calls(provider_url: str, *, lean: bool) -> Calls:
    """Build both SDKs' clients; call it inside the running loop.

    Raw mode is an SDK as it comes, on aiohttp. google-genai's own session asks the environment for proxies at every
    request (measured: .35 of its .5 ms), so a lean client gets a session of ours, as the service's does.
    """
    pool = Pool(limits=LIMITS) if lean else anthropic.DefaultAioHttpClient()
    claude = anthropic.AsyncAnthropic(
        api_key="bench", base_url=provider_url, max_retries=0, open_telemetry=False, http_client=pool
    )
    session = aiohttp.ClientSession() if lean else None
    google = genai.Client(
        vertexai=False,
        api_key="bench",
        http_options=types.HttpOptions(base_url=provider_url, api_version="v1", aiohttp_client=session),
    )

    async def close() -> None:
        await claude.close()
        await google.aio.aclose()
        if session is not None:
            await session.close()

    opus = _lean_opus(AnthropicTransport(claude, pool)) if isinstance(pool, Pool) else _raw_opus(claude)
    flash = (_lean_flash if lean else _raw_flash)(google)
    return Calls({"opus": opus[0], "flash": flash[0]}, {"opus": opus[1], "flash": flash[1]}, close)


def _lean_opus(transport: AnthropicTransport) -> tuple[Unary, Stream]:
    async def unary(prompt: Prompt) -> str:
        body = _encode(anthropic_body(prompt, stream=False))
        content, _ = await transport.whole("/v1/messages", body, TIMEOUT_S)
        return "".join(block.text for block in _message(content).content)

    async def stream(prompt: Prompt) -> AsyncIterator[str]:
        body = _encode(anthropic_body(prompt, stream=True))
        source, _ = await transport.stream("/v1/messages", body, TIMEOUT_S)
        async for data in _server_sent(_pieces(source), b"\n\n"):
            delta = _event(data).delta
            if delta is not None and delta.text:
                yield delta.text
        await source.aclose()

    return unary, stream


def _raw_opus(client: anthropic.AsyncAnthropic) -> tuple[Unary, Stream]:
    async def unary(prompt: Prompt) -> str:
        body: Any = anthropic_body(prompt, stream=False)
        response = await client.messages.with_raw_response.create(**body)
        return "".join(block.text for block in _message(await response.read()).content)

    async def stream(prompt: Prompt) -> AsyncIterator[str]:
        body: Any = anthropic_body(prompt, stream=True)
        async with client.messages.with_streaming_response.create(**body) as response:
            async for line in response.iter_lines():
                if line.startswith("data:"):
                    delta = _event(line[5:]).delta
                    if delta is not None and delta.text:
                        yield delta.text

    return unary, stream


def _lean_flash(client: genai.Client) -> tuple[Unary, Stream]:
    transport = RawTransport(client, FLASH)

    async def unary(prompt: Prompt) -> str:
        content, _ = await transport.generate(_encode(gemini_body(prompt)), TIMEOUT_S)
        return _text(_frame(content))

    async def stream(prompt: Prompt) -> AsyncIterator[str]:
        source, _ = await transport.stream(_encode(gemini_body(prompt)), TIMEOUT_S)
        async for data in _server_sent(_pieces(source), b"\r\n\r\n"):
            yield _text(_frame(data))
        await source.aclose()

    return unary, stream


def _raw_flash(client: genai.Client) -> tuple[Unary, Stream]:
    layer: Any = client._api_client

    async def unary(prompt: Prompt) -> str:
        response = await layer.async_request("post", f"models/{FLASH}:generateContent", gemini_body(prompt))
        return _text(_frame(response.body))

    async def stream(prompt: Prompt) -> AsyncIterator[str]:
        path = f"models/{FLASH}:streamGenerateContent?alt=sse"
        async for response in await layer.async_request_streamed("post", path, gemini_body(prompt)):
            yield _text(_frame(response.body))

    return unary, stream


async def _pieces(source: Source) -> AsyncIterator[bytes]:
    while data := await source.read():
        yield data


async def _server_sent(pieces: AsyncIterator[bytes], end: bytes) -> AsyncIterator[bytes]:
    """The `data:` of each server-sent event."""
    buffer = b""
    async for piece in pieces:
        *events, buffer = (buffer + piece).split(end)
        for event in events:
            yield event[event.index(b"data:") + 5 :]


def _text(frame: _GeminiFrame) -> str:
    return "".join(part.text for part in frame.candidates[0].content.parts)
