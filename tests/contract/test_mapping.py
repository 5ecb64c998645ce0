"""The contract of both adapters, case by case: in process and over a socket, whole and streamed.

Each case says what is asked, what the request then holds, and what the answer means. Beside it, for every one: the
usage is the provider's invoice, the streamed answer is the whole one, and the answer goes back as history to either
provider. What a model does not take is refused before anything is sent, naming the field.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
from google.genai import types
from msgspec.structs import replace

from router.call import Call, FinishReason, Part, Text, Thinking, ToolCall, ToolResult
from router.errors import InvalidRequest
from router.reply import Chunk, Finished, Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.sandbox import Call as ScriptedCall
from router.sandbox import InvoiceLine, Sandbox, VirtualClock
from router.sandbox.listener import serve
from router.sandbox.wire import WireRequest, WireResponse
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Upstream
from router.upstreams.gemini import GeminiUpstream
from router.upstreams.gemini_render import request_body
from tests.contract import cases_answers, cases_content, cases_tools
from tests.contract.cases import ABSENT, FLASH, MODELS, OPUS, Case, assistant, user, value_at

CASES = [*cases_content.CASES, *cases_tools.CASES, *cases_answers.CASES]
NOW = 1_795_000_000.0
TIMEOUT_S = 20.0


class WatchedSandbox(Sandbox):
    """A sandbox that keeps the bodies it was sent and the statuses it gave."""

    def __init__(self) -> None:
        super().__init__(clock=VirtualClock(NOW))
        self.bodies: list[Any] = []
        self.statuses: list[int] = []

    async def handle(self, request: WireRequest) -> WireResponse:
        """Answer, and remember."""
        self.bodies.append(json.loads(request.body))
        answer = await super().handle(request)
        self.statuses.append(answer.status)
        return answer

    def reset(self) -> None:
        """Forget what was sent, too."""
        super().reset()
        self.bodies.clear()
        self.statuses.clear()


class World:
    """Both adapters over one sandbox, on one loop for all cases: making them takes longer than the calls."""

    def __init__(
        self, runner: asyncio.Runner, sandbox: WatchedSandbox, upstreams: dict[str, Upstream]
    ) -> None:
        self.runner = runner
        self.sandbox = sandbox
        self.upstreams = upstreams

    @property
    def bill(self) -> InvoiceLine:
        """The last billed request."""
        return self.sandbox.invoice.lines[-1]


@asynccontextmanager
async def connected(transport: str, sandbox: Sandbox) -> AsyncIterator[dict[str, Upstream]]:
    """Both adapters, over the sandbox in process or on a socket."""
    async with AsyncExitStack() as stack:
        client, url = None, "http://sandbox.invalid"
        if transport == "socket":
            url = f"http://127.0.0.1:{await stack.enter_async_context(serve(sandbox))}"
        else:
            client = await stack.enter_async_context(httpx2.AsyncClient(transport=sandbox.transport()))
        opus = AnthropicUpstream(model=OPUS, api_key="k", base_url=url, http_client=client)
        flash = GeminiUpstream(model=FLASH, api_key="k", base_url=url, http_client=client)
        stack.push_async_callback(opus.close)
        stack.push_async_callback(flash.close)
        yield {"anthropic": opus, "gemini": flash}


@pytest.fixture(scope="module", params=["in process", "socket"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with asyncio.Runner() as runner:
        sandbox = WatchedSandbox()
        context = connected(request.param, sandbox)
        yield World(runner, sandbox, runner.run(context.__aenter__()))
        runner.run(context.__aexit__(None, None, None))


def test_there_are_cases_enough_and_each_has_a_name() -> None:
    """The contract is at least 60 cases, each of its own name."""
    names = [case.name for case in CASES]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(world: World, provider: str, case: Case) -> None:
    """The case's own expectations, and those of every answer."""
    world.sandbox.reset()
    world.runner.run(check(world, provider, case))


async def check(world: World, provider: str, case: Case) -> None:
    """Hold one provider to one case."""
    sandbox, upstream = world.sandbox, world.upstreams[provider]
    if provider in case.refused:
        with pytest.raises(InvalidRequest) as caught:
            upstream.render(case.call)
        assert caught.value.field == case.refused[provider]
        assert caught.value.problem
        return
    if provider in case.unplayed:
        body = json.loads(request_body(upstream.render(case.call)))
        check_sent(body, case, provider)
        for content in body["contents"]:
            types.Content.model_validate(content)
        return
    dictate(sandbox, case, provider)
    whole = await upstream.generate(upstream.render(case.call), None, TIMEOUT_S)
    check_reply(world, whole, case, provider)
    check_sent(sandbox.bodies[0], case, provider)
    if case.streamed.get(provider, True):
        dictate(sandbox, case, provider)
        chunks = [chunk async for chunk in upstream.stream(upstream.render(case.call), None, TIMEOUT_S)]
        streamed = check_chunks(chunks)
        check_reply(world, streamed, case, provider)
        assert meanings(streamed) == meanings(whole)
        assert streamed.finish_reason is whole.finish_reason
        assert {k: v for k, v in sandbox.bodies[1].items() if k != "stream"} == sandbox.bodies[0]
    else:
        with pytest.raises(InvalidRequest):
            upstream.stream(upstream.render(case.call), None, TIMEOUT_S)
    await check_goes_back(world, case, whole)
    assert set(sandbox.statuses) == {200}


def dictate(sandbox: Sandbox, case: Case, provider: str) -> None:
    """Tell the provider what to answer."""
    if "[[sandbox" not in str(case.call.messages):
        sandbox.script(*case.says, thinking_tokens=case.thinking, stop=case.stop.get(provider))


def check_sent(body: Any, case: Case, provider: str) -> None:
    """What the case says of the request."""
    for path, value in case.sent.get(provider, {}).items():
        found = value_at(body, path)
        assert found is ABSENT if value is ABSENT else found == value, path


def check_reply(world: World, reply: Reply, case: Case, provider: str) -> None:
    """What the case says of the answer, and that its usage is what was billed."""
    finish, parts = case.expected("finish", provider), case.expected("parts", provider)
    assert finish is None or reply.finish_reason is finish
    assert parts is None or tuple(type(part) for part in reply.parts if part_says(part)) == parts
    for name, value in case.facts.get(provider, {}).items():
        assert getattr(reply, name) == value
    assert reply.model == MODELS[provider]
    usage = reply.usage
    assert usage is not None
    assert usage.complete
    if provider in case.unbilled:
        assert not world.sandbox.invoice.lines
        assert usage.output_tokens == 0
        return
    line = world.bill
    assert reply.response_id == line.response_id
    assert (usage.input_tokens, usage.output_tokens) == (line.input_tokens, line.output_tokens)
    assert (usage.uncached_input_tokens, usage.cache_read_tokens) == (
        line.uncached_input_tokens,
        line.read_tokens,
    )
    assert usage.thinking_tokens == line.thinking_tokens
    for part in reply.parts:
        if isinstance(part, ToolCall):
            assert part.id
            assert part.model == MODELS[provider]
            assert isinstance(json.loads(part.arguments_json), dict)
    if case.says and finish is FinishReason.TOOL_CALL:
        wanted = [each.args for each in case.says if isinstance(each, ScriptedCall)]
        calls = [part for part in reply.parts if isinstance(part, ToolCall)]
        assert [json.loads(part.arguments_json) for part in calls] == wanted


def check_chunks(chunks: list[Chunk]) -> Reply:
    """The grammar of a stream, and that its deltas add up to its Reply."""
    assert isinstance(chunks[0], Started)
    assert isinstance(chunks[-1], Finished)
    assert sum(isinstance(chunk, Started | Finished) for chunk in chunks) == 2
    reply = chunks[-1].reply
    pieces: dict[int, str] = {}
    for chunk in chunks:
        match chunk:
            case ToolCallDelta(index, call_id, name, text):
                part = reply.parts[index]
                assert isinstance(part, ToolCall)
                assert (call_id, name) == ((part.id, part.name) if index not in pieces else ("", ""))
                pieces[index] = pieces.get(index, "") + text
            case TextDelta(index, text) | ThinkingDelta(index, text):
                assert isinstance(reply.parts[index], Text if isinstance(chunk, TextDelta) else Thinking)
                pieces[index] = pieces.get(index, "") + text
            case _:
                pass
    told = {
        index: part.arguments_json if isinstance(part, ToolCall) else getattr(part, "text", "")
        for index, part in enumerate(reply.parts)
    }
    assert {index: text for index, text in told.items() if text} == pieces
    counts = [c.usage for c in chunks if isinstance(c, Started | UsageSeen) and c.usage is not None]
    seen = [chunk.usage.output_tokens for chunk in chunks if isinstance(chunk, UsageSeen)]
    assert seen == sorted(seen)  # what Started holds is a placeholder
    assert counts[-1] == reply.usage
    assert chunks[0].model == reply.model
    return reply


def part_says(part: Part) -> bool:
    """False for a signature on no words, which a stream of Gemini's may end with."""
    return not (isinstance(part, Text) and not part.text and part.signature)


def meanings(reply: Reply) -> list[object]:
    """What an answer says, whole or streamed."""
    return [meaning(part) for part in reply.parts if part_says(part)]


def meaning(part: Part) -> object:
    """A part without what is new in every answer: ids and signatures."""
    match part:
        case ToolCall(_, name, arguments, signature, model):
            return ("call", name, arguments, bool(signature), model)
        case Text(text, signature, model):
            return ("text", text, bool(signature), model)
        case Thinking(model, text, signature, redacted):
            return ("thinking", text, bool(signature), redacted, model)
        case _:
            return part


async def check_goes_back(world: World, case: Case, reply: Reply) -> None:
    """The answer, sent back unchanged with results for its calls, is taken by either provider."""
    said = (assistant(*reply.parts),) if reply.parts else ()
    results = [ToolResult(part.id, (Text("done"),)) for part in reply.parts if isinstance(part, ToolCall)]
    following: Call = replace(
        case.call,
        messages=(*case.call.messages, *said, user(*results, "Go on.")),
        max_output_tokens=50,
        output_schema_json="",
        tool_choice=type(case.call.tool_choice)(),
        stop_sequences=(),
    )
    for other, upstream in world.upstreams.items():
        if other not in case.unplayed and not case.refused.get(other, "").startswith("messages"):
            await upstream.generate(upstream.render(following), None, TIMEOUT_S)
