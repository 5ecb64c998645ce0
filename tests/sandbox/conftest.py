"""Both real SDKs over the in-process sandbox, on a virtual clock that starts at noon of 2026-11-22 (UTC)."""

from __future__ import annotations

import json

import anthropic
import httpx2
import pytest
from google import genai
from google.genai import types

from router.sandbox import Sandbox, SandboxSettings, VirtualClock, WireRequest

NOON = 1_795_348_800.0
OPUS = "claude-opus-5-5"
FLASH = "gemini-3.8-flash"


class Bench:
    """A sandbox with its clock and both SDK clients on top of it."""

    def __init__(self, settings=None, *, start=NOON):
        self.clock = VirtualClock(start)
        self.sandbox = Sandbox(settings or SandboxSettings(), clock=self.clock)
        self.http = httpx2.AsyncClient(transport=self.sandbox.transport())
        self.claude = anthropic.AsyncAnthropic(api_key="key-a", http_client=self.http, max_retries=0)
        options = types.HttpOptions(httpx_async_client=self.http)
        self.gemini = genai.Client(api_key="key-g", http_options=options)

    async def ask(self, **kw):
        """Create a message with defaults."""
        kw = {"model": OPUS, "max_tokens": 64, "messages": [user("Why?")], **kw}
        return await self.claude.messages.create(**kw)

    async def post(self, body, path="/v1/messages", headers=None):
        """Send a raw body to the Anthropic face; return status and decoded answer."""
        head = {
            "x-api-key": "key-a",
            "anthropic-version": "2026-10-21",
            "content-type": "application/json",
        } | (headers or {})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = WireRequest(method="POST", path=path, query={}, headers=head, body=data)
        answer = await self.sandbox.handle(request)
        if not isinstance(answer.body, bytes):
            pieces = [piece async for piece in answer.body]
            return answer.status, b"".join(pieces)
        return answer.status, json.loads(answer.body)

    async def google(
        self, body, model=FLASH, method="generateContent", version="v1", headers=None, query=None
    ):
        """Send a raw body to the Gemini face; return status and decoded answer."""
        request = WireRequest(
            method="POST",
            path=f"/{version}/models/{model}:{method}",
            query=query or {},
            headers={"x-goog-api-key": "key-g"} if headers is None else headers,
            body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        )
        answer = await self.sandbox.handle(request)
        if not isinstance(answer.body, bytes):
            pieces = [piece async for piece in answer.body]
            return answer.status, b"".join(pieces)
        return answer.status, json.loads(answer.body)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def words(tokens, tag="w"):
    """A text of exactly `tokens` tokens in every family; `tag` (one token) makes it distinct."""
    return " ".join([tag] + ["w"] * (tokens - 1))


def text(tokens, tag="w", ttl=None):
    """A text block of `tokens` tokens, marked when `ttl` is given."""
    block = {"type": "text", "text": words(tokens, tag)}
    return block | ({"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {})


def billed(message):
    """(uncached, 5m written, 1h written, read) of an SDK message."""
    usage = message.usage
    return (
        usage.input_tokens,
        usage.cache_creation.ephemeral_5m_input_tokens,
        usage.cache_creation.ephemeral_1h_input_tokens,
        usage.cache_read_input_tokens,
    )


@pytest.fixture
async def bench():
    bench = Bench()
    yield bench
    await bench.http.aclose()


@pytest.fixture
async def make_bench():
    made = []

    def make(*args, **kw):
        made.append(Bench(*args, **kw))
        return made[-1]

    yield make
    for one in made:
        await one.http.aclose()


@pytest.fixture(scope="session")
def kit():
    """The plain helpers above, for tests loaded without a package."""

    class Kit:
        NOON, OPUS, FLASH = NOON, OPUS, FLASH

    for helper in (user, assistant, words, text, billed):
        setattr(Kit, helper.__name__, staticmethod(helper))
    return Kit
