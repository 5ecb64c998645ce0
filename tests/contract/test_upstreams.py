"""What every upstream must do, against the sandbox: in process below the SDKs, and on a socket.

The sandbox is written from the providers' rules and shares no code with the adapters, so its invoice is the
independent witness of what a call was billed.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from cache.prompt import Layer
from router import errors
from router.call import (
    Call,
    Effort,
    FinishReason,
    Identity,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from router.reply import Chunk, Finished, Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.sandbox import Call as ScriptedCall
from router.sandbox import Fault, InvoiceLine, Sandbox, VirtualClock
from router.sandbox import Text as ScriptedText
from router.sandbox.listener import serve
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Rendered, Upstream
from router.upstreams.gemini import GeminiUpstream
from router.usage import Usage

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
NOW = 1_795_000_000.0
TIMEOUT_S = 20.0
SCHEMA = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}'
WEATHER = Tool("weather", "Tell the weather of a city.", SCHEMA)
LONG = "The quick brown fox jumps over the lazy dog near the river bank. " * 500


@dataclass
class World:
    """A sandbox and an upstream that reaches it."""

    kind: str
    sandbox: Sandbox
    upstream: Upstream
    other: Upstream

    @property
    def bill(self) -> InvoiceLine:
        """The last billed request."""
        return self.sandbox.invoice.lines[-1]


@pytest.fixture(params=["in process", "socket"])
async def upstreams(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Sandbox, Upstream, Upstream]]:
    sandbox = Sandbox(clock=VirtualClock(NOW))
    async with AsyncExitStack() as stack:
        client, url = None, "http://sandbox.invalid"
        if request.param == "socket":
            url = f"http://127.0.0.1:{await stack.enter_async_context(serve(sandbox))}"
        else:
            client = await stack.enter_async_context(httpx2.AsyncClient(transport=sandbox.transport()))
        opus = AnthropicUpstream(model=OPUS, api_key="k", base_url=url, http_client=client)
        flash = GeminiUpstream(model=FLASH, api_key="k", base_url=url, http_client=client)
        yield sandbox, opus, flash
        await opus.close()
        await flash.close()


@pytest.fixture(params=["anthropic", "gemini"])
def world(request: pytest.FixtureRequest, upstreams: tuple[Sandbox, Upstream, Upstream]) -> World:
    sandbox, opus, flash = upstreams
    pair = (opus, flash) if request.param == "anthropic" else (flash, opus)
    return World(request.param, sandbox, *pair)


def call(*messages: Message | str, **fields: Any) -> Call:
    fields.setdefault("max_output_tokens", 600)
    spoken = tuple(Message(Role.USER, (Text(m),)) if isinstance(m, str) else m for m in messages)
    return Call(identity=Identity(request_id="contract"), messages=spoken, **fields)


async def generate(upstream: Upstream, asked: Call, plan: Any = None) -> Reply:
    return await upstream.generate(upstream.render(asked), plan, TIMEOUT_S)


async def stream(upstream: Upstream, asked: Call) -> list[Chunk]:
    return [chunk async for chunk in upstream.stream(upstream.render(asked), None, TIMEOUT_S)]


def billed(line: InvoiceLine) -> Usage:
    """The witness's counts in our form."""
    writes = line.write_5m_tokens + line.write_1h_tokens
    return Usage(
        input_tokens=line.uncached_input_tokens + writes + line.read_tokens,
        cache_read_tokens=line.read_tokens,
        cache_write_5m_tokens=line.write_5m_tokens,
        cache_write_1h_tokens=line.write_1h_tokens,
        output_tokens=line.output_tokens,
    )


def tokens(usage: Usage | None) -> Usage:
    """Usage without what the invoice does not carry."""
    assert usage is not None
    return Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        complete=usage.complete,
    )


async def test_answer_and_bill_agree(world: World) -> None:
    """What the adapter reports is what the provider billed, whole and streamed."""
    asked = call("What is a prefix cache?", system=("Be brief.",), context=("The user is Ann.",))
    whole = await generate(world.upstream, asked)
    assert tokens(whole.usage) == billed(world.bill)
    chunks = await stream(world.upstream, asked)
    assert isinstance(chunks[0], Started)
    assert isinstance(chunks[-1], Finished)
    streamed = chunks[-1].reply
    assert tokens(streamed.usage) == billed(world.bill)
    assert streamed.response_id == world.bill.response_id
    assert streamed.model == whole.model == world.upstream.model
    assert streamed.parts == whole.parts


async def test_deltas_add_up_to_the_reply(world: World) -> None:
    """Text, thinking and tool calls: the pieces by index are the parts of the Reply."""
    world.sandbox.script(
        ScriptedText("One. Two. Three."), ScriptedCall("weather", {"city": "Oslo"}), thinking_tokens=40
    )
    chunks = await stream(world.upstream, call("Go.", tools=(WEATHER,), include_thinking=True))
    pieces: dict[int, str] = {}
    for chunk in chunks:
        match chunk:
            case TextDelta(index, text) | ThinkingDelta(index, text) | ToolCallDelta(index, _, _, text):
                pieces[index] = pieces.get(index, "") + text
            case _:
                pass
    assert isinstance(chunks[-1], Finished)
    parts = chunks[-1].reply.parts
    assert {type(part) for part in parts} >= {Text, ToolCall}
    for index, text in pieces.items():
        part = parts[index]
        assert text == (part.arguments_json if isinstance(part, ToolCall) else getattr(part, "text", None))
    assert chunks[-1].reply.finish_reason is FinishReason.TOOL_CALL


async def test_a_tool_loop_goes_round(world: World) -> None:
    """Parts of an answer go back as they came, signatures and thinking included, and the provider accepts
    them.
    """
    world.sandbox.script(ScriptedCall("weather", {"city": "Oslo"}), ScriptedCall("weather", {"city": "Rome"}))
    opening = Message(Role.USER, (Text("Compare the weather."),))
    first = await generate(world.upstream, call(opening, tools=(WEATHER,)))
    calls = [part for part in first.parts if isinstance(part, ToolCall)]
    assert [json.loads(part.arguments_json)["city"] for part in calls] == ["Oslo", "Rome"]
    results: tuple[Part, ...] = tuple(ToolResult(part.id, (Text("rain"),)) for part in reversed(calls))
    world.sandbox.script(ScriptedText("Both wet."))
    said = Message(Role.ASSISTANT, first.parts)
    second = await generate(
        world.upstream, call(opening, said, Message(Role.USER, results), tools=(WEATHER,))
    )
    assert second.parts[-1] == Text("Both wet.", *_signature(second.parts[-1]))


def _signature(part: Part) -> tuple[str, str]:
    return (part.signature, part.model) if isinstance(part, Text) else ("", "")


async def test_a_tool_loop_may_change_routes(world: World) -> None:
    """The other provider takes over in mid-loop: ids, thinking and signatures are translated."""
    opening = Message(Role.USER, (Text("Compare the weather."),))
    world.sandbox.script(ScriptedCall("weather", {"city": "Oslo"}), thinking_tokens=30)
    first = await generate(world.other, call(opening, tools=(WEATHER,), include_thinking=True))
    used = next(part for part in first.parts if isinstance(part, ToolCall))
    said, result = (
        Message(Role.ASSISTANT, first.parts),
        Message(Role.USER, (ToolResult(used.id, (Text("rain"),)),)),
    )
    world.sandbox.script(ScriptedText("Rain in Oslo."), thinking_tokens=20)
    second = await generate(world.upstream, call(opening, said, result, tools=(WEATHER,)))
    assert second.model == world.upstream.model
    third = call(opening, said, result, Message(Role.ASSISTANT, second.parts), "Thanks.", tools=(WEATHER,))
    assert (await generate(world.other, third)).parts


async def test_every_parameter_is_accepted(world: World) -> None:
    """Effort, schema, stop sequences and summaries are spelled as the provider takes them."""
    for effort in Effort:
        asked = call("Where?", effort=effort, include_thinking=True, stop_sequences=("END",))
        assert (await generate(world.upstream, asked)).parts
    reply = await generate(world.upstream, call("Where?", output_schema_json=SCHEMA))
    text = next(part.text for part in reply.parts if isinstance(part, Text))
    assert set(json.loads(text)) == {"city"}


async def test_running_out_of_tokens_is_said(world: World) -> None:
    """The bound holds and the reason is ours."""
    reply = await generate(world.upstream, call("Write a very long story.", max_output_tokens=20))
    assert reply.finish_reason is FinishReason.MAX_TOKENS
    assert reply.usage is not None
    assert reply.usage.output_tokens <= 20


FAULTS: list[tuple[str, type[errors.UpstreamError]]] = [
    ("rate_limit", errors.UpstreamRateLimited),
    ("spend_cap", errors.UpstreamSpendLimited),
    ("overloaded", errors.UpstreamOverloaded),
    ("internal", errors.UpstreamFailed),
    ("timeout_error", errors.UpstreamFailed),
    ("reset", errors.UpstreamUnreachable),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
async def test_failures_before_an_answer_have_one_name(
    world: World, fault: Any, expected: type[errors.UpstreamError]
) -> None:
    """Both providers, both ways of calling, one class; nothing is sent twice."""
    world.sandbox.inject(Fault(kind=fault, times=2, retry_after_s=7.0))
    with pytest.raises(expected) as whole:
        await generate(world.upstream, call("Hi"))
    with pytest.raises(expected) as streamed:
        await stream(world.upstream, call("Hi"))
    assert type(whole.value) is type(streamed.value) is expected
    if fault == "rate_limit":
        assert whole.value.retry_after_s == streamed.value.retry_after_s == 7.0
    assert (await generate(world.upstream, call("Hi"))).parts


@pytest.mark.parametrize("fault", ["cut", "error_event", "malformed"])
async def test_failures_within_an_answer_keep_what_was_billed(world: World, fault: Any) -> None:
    """What was delivered stays billed: input is exact as soon as the provider has said it."""
    world.sandbox.inject(Fault(kind=fault, after_events=4))
    chunks: list[Chunk] = []
    with pytest.raises(errors.UpstreamInterrupted) as caught:  # noqa: PT012 (what came before it counts)
        async for chunk in world.upstream.stream(world.upstream.render(call("Go on.")), None, TIMEOUT_S):
            chunks.append(chunk)  # noqa: PERF401
    assert isinstance(chunks[0], Started)
    usage = caught.value.usage
    if world.kind == "anthropic":
        assert usage is not None
        assert usage.input_tokens == billed(world.bill).input_tokens
        assert not usage.complete


async def test_usage_seen_is_newer_than_started(world: World) -> None:
    """A caller who leaves knows the newest counts: they come as chunks, and the last is the Reply's."""
    chunks = await stream(world.upstream, call("Tell me."))
    counts = [c.usage for c in chunks if isinstance(c, Started | UsageSeen) and c.usage is not None]
    assert counts
    assert all(a.output_tokens <= b.output_tokens for a, b in pairwise(counts))
    assert isinstance(chunks[-1], Finished)
    assert counts[-1] == chunks[-1].reply.usage


async def test_unknown_credentials_and_refused_requests_have_names(
    upstreams: tuple[Sandbox, Upstream, Upstream],
) -> None:
    """A wrong key is Unauthorized by both (Gemini says 400); what the request got wrong is Rejected."""
    sandbox = Sandbox(
        settings=upstreams[0].settings.__class__(anthropic_keys={"good": "w"}, gemini_keys={"good": "p"}),
        clock=VirtualClock(NOW),
    )
    async with httpx2.AsyncClient(transport=sandbox.transport()) as client:
        for factory, model in ((AnthropicUpstream, OPUS), (GeminiUpstream, FLASH)):
            for key, expected in (("bad", errors.UpstreamUnauthorized), ("good", errors.UpstreamRejected)):
                upstream: Upstream = factory(model=model, api_key=key, http_client=client)
                asked = call("Hi", tools=(Tool("f", "", '{"type":"nonsense"}'),) * 2)
                with pytest.raises(expected):
                    await generate(upstream, asked)
                await upstream.close()


async def test_the_free_counter_agrees_with_the_bill(world: World) -> None:
    """A broken-off answer is counted by the provider's counter: near what its text was billed."""
    world.sandbox.script(ScriptedText(LONG[:2000]), thinking_tokens=0)
    reply = await generate(world.upstream, call("Go.", max_output_tokens=2000))
    text = next(part.text for part in reply.parts if isinstance(part, Text))
    counted = await world.upstream.count_output(text, TIMEOUT_S)
    assert counted is not None
    assert reply.usage is not None
    assert counted == pytest.approx(reply.usage.output_tokens, rel=0.03, abs=4)


@dataclass(frozen=True)
class Mark:
    """A breakpoint, as far as an adapter reads it."""

    position: int
    ttl_s: int


@dataclass(frozen=True)
class Marks:
    """A plan, as far as an adapter reads it."""

    breakpoints: tuple[Mark, ...]


def marks(rendered: Rendered) -> Any:
    """System for an hour, the last block for five minutes."""
    system = rendered.prompt.last_position(Layer.SYSTEM)
    assert system is not None
    return Marks((Mark(system, 3600), Mark(len(rendered.prompt.blocks) - 1, 300)))


async def test_breakpoints_write_and_read_where_they_stand(
    upstreams: tuple[Sandbox, Upstream, Upstream],
) -> None:
    """The second request reads what the first wrote, by the witness and by the reported usage."""
    sandbox, opus, _ = upstreams
    opening = call("First question.", system=(LONG,), tools=(WEATHER,))
    rendered = opus.render(opening)
    first = await opus.generate(rendered, marks(rendered), TIMEOUT_S)
    assert first.usage is not None
    assert first.usage.cache_write_1h_tokens > 5000
    assert 0 < first.usage.cache_write_5m_tokens < 100
    said = Message(Role.ASSISTANT, first.parts)
    rendered = opus.render(call(*opening.messages, said, "And then?", system=(LONG,), tools=(WEATHER,)))
    second = await opus.generate(rendered, marks(rendered), TIMEOUT_S)
    assert second.usage is not None
    assert second.usage.cache_read_tokens == first.usage.cache_write_tokens
    assert tokens(second.usage) == billed(sandbox.invoice.lines[-1])


async def test_warming_writes_without_output(upstreams: tuple[Sandbox, Upstream, Upstream]) -> None:
    """Zero output tokens: the shared prefix is written, nothing is said, and real traffic reads it."""
    _, opus, _ = upstreams
    rendered = opus.render(call(".", system=(LONG,), tools=(WEATHER,), max_output_tokens=0))
    plan: Any = Marks((Mark(1, 3600),))
    warm = await opus.generate(rendered, plan, TIMEOUT_S)
    assert (warm.parts, warm.finish_reason) == ((), FinishReason.MAX_TOKENS)
    assert warm.usage is not None
    assert warm.usage.output_tokens == 0
    rendered = opus.render(call("A real question.", system=(LONG,), tools=(WEATHER,)))
    real = await opus.generate(rendered, plan, TIMEOUT_S)
    assert real.usage is not None
    assert real.usage.cache_read_tokens == warm.usage.cache_write_1h_tokens > 5000


async def test_thinking_goes_back_to_the_model_that_made_it(
    upstreams: tuple[Sandbox, Upstream, Upstream],
) -> None:
    """Own thinking is returned unchanged (the sandbox refuses edits); the other provider never sees it."""
    sandbox, opus, flash = upstreams
    sandbox.script(ScriptedCall("weather", {"city": "Oslo"}), thinking_tokens=50)
    opening = Message(Role.USER, (Text("Weather?"),))
    first = await generate(opus, call(opening, tools=(WEATHER,)))
    assert any(isinstance(part, Thinking) and part.signature for part in first.parts)
    used = next(part for part in first.parts if isinstance(part, ToolCall))
    said, result = (
        Message(Role.ASSISTANT, first.parts),
        Message(Role.USER, (ToolResult(used.id, (Text("rain"),)),)),
    )
    asked = call(opening, said, result, tools=(WEATHER,))
    assert (await generate(opus, asked)).parts
    assert not any(
        b"signature" in b.content and b"thought" not in b.content for b in flash.render(asked).prompt.blocks
    )
