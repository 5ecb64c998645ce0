"""Whatever history a client holds, either provider takes it: real answers of both, in any order, and edited.

A client may lose or drop what it does not understand (thinking, signatures, who made a call), give results in another
order or in two messages, and add images. All that passes the service's own check must pass the provider's.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from router.applications import Applications
from router.call import Call, Image, Message, Part, Role, Text, Thinking, ToolCall, ToolResult
from router.convert_request import request_from_proto
from router.convert_workload import messages_to_proto
from router.reply import Finished, Reply
from router.sandbox import Call as ScriptedCall
from router.sandbox import Text as ScriptedText
from router.upstreams.base import Upstream
from router.upstreams.gemini_render import DUMMY_SIGNATURE
from router.v1 import content_pb2, router_service_pb2
from tests.contract.cases import CITY, MODELS, OPUS, assistant, user
from tests.contract.test_mapping import TIMEOUT_S, WatchedSandbox, connected

PNG = Image("image/png", b"\x89PNG" + bytes(60))
Messages = tuple[Message, ...]


class World:
    """Both adapters over one sandbox, and what either was sent."""

    def __init__(
        self, runner: asyncio.Runner, sandbox: WatchedSandbox, upstreams: dict[str, Upstream]
    ) -> None:
        self.runner, self.sandbox, self.upstreams = runner, sandbox, upstreams

    async def ask(self, provider: str, messages: Messages, *, stream: bool) -> Reply:
        """Send a history as it passes the service's own check; a refusal of either is raised."""
        upstream = self.upstreams[provider]
        rendered = upstream.render(checked(messages))
        if not stream:
            return await upstream.generate(rendered, None, TIMEOUT_S)
        chunks = [chunk async for chunk in upstream.stream(rendered, None, TIMEOUT_S)]
        assert isinstance(chunks[-1], Finished)
        return chunks[-1].reply


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner() as runner:
        sandbox = WatchedSandbox()
        context = connected("in process", sandbox)
        yield World(runner, sandbox, runner.run(context.__aenter__()))
        runner.run(context.__aexit__(None, None, None))


def checked(messages: Messages) -> Call:
    """The call the service makes of a client's messages; raises what it would answer."""
    prompt = router_service_pb2.Prompt(
        messages=messages_to_proto(messages),
        tools=[content_pb2.Tool(name="weather", description="Tell.", input_schema_json=CITY)],
        include_thinking=True,
        max_output_tokens=900,
    )
    return request_from_proto(router_service_pb2.GenerateRequest(prompt=prompt), Applications({}), "r").call


_WORDS, _OSLO, _ROME = (
    ScriptedText("So it is."),
    ScriptedCall("weather", {"city": "Oslo"}),
    ScriptedCall("weather", {"city": "Rome"}),
)
scripts = st.sampled_from(
    [(_OSLO,), (_OSLO, _ROME), (_WORDS, _OSLO), (_WORDS, _ROME, _ROME), (_OSLO, _WORDS, _ROME), (_WORDS,)]
)


@st.composite
def user_turns(draw: st.DrawFn, open_calls: Sequence[str]) -> Messages:
    """What a client says next: every result, in any order and cut, maybe words and images beside them."""
    parts: list[Part] = [
        ToolResult(call_id, (Text(draw(st.sampled_from(["rain", "", "sun"]))),), "", draw(st.booleans()))
        for call_id in draw(st.permutations(open_calls))
    ]
    beside: list[Part] = draw(st.sampled_from([[], [], [], [PNG], [Text("And then?")], [Text("Or?"), PNG]]))
    for extra in beside:
        parts.insert(draw(st.integers(0, len(parts))), extra)
    if not parts:
        parts = [Text("Go on.")]
    cut = draw(st.integers(0, len(parts) - 1))
    return tuple(Message(Role.USER, tuple(some)) for some in (parts[:cut], parts[cut:]) if some)


@st.composite
def edited(draw: st.DrawFn, messages: Messages) -> Messages:
    """The history as another client might hold it."""
    kept: list[Message] = []
    for message in messages:
        parts: list[Part] = []
        for part in message.parts:
            match part, draw(st.integers(0, 4)):
                case Thinking(), 0 | 3:
                    continue
                case ((Thinking() | ToolCall()), 1):
                    parts.append(replace(part, signature=""))
                case ToolCall(), 2:
                    parts.append(replace(part, signature="", model=""))
                case Text() as text, 1 if text.text:
                    parts.append(Text(text.text))
                case _:
                    parts.append(part)
        if message.role is Role.USER:
            if draw(st.integers(0, 5)) == 0:
                parts.insert(draw(st.integers(0, len(parts))), PNG)
            if draw(st.booleans()):
                parts = draw(st.permutations(parts))
        if parts:
            kept.append(Message(message.role, tuple(parts)))
    return tuple(kept)


@settings(max_examples=50)
@given(st.data())
def test_any_history_a_client_may_hold_is_taken_by_either(world: World, data: st.DataObject) -> None:
    """Answers of both models in any order, tool loops that change hands, and edits: neither provider says 400."""
    world.sandbox.reset()
    messages: Messages = (user("Weather?"),)
    for _ in range(data.draw(st.integers(2, 5))):
        provider = data.draw(st.sampled_from(list(MODELS)))
        thinking = data.draw(st.sampled_from([0, 30, 30]))
        world.sandbox.script(*data.draw(scripts), thinking_tokens=thinking)
        reply = world.runner.run(world.ask(provider, messages, stream=data.draw(st.booleans())))
        open_calls = [part.id for part in reply.parts if isinstance(part, ToolCall)]
        messages = (*messages, assistant(*reply.parts), *data.draw(user_turns(open_calls)))
        if data.draw(st.booleans()):
            messages = data.draw(edited(messages))
    for provider in MODELS:
        world.runner.run(world.ask(provider, messages, stream=False))
    assert set(world.sandbox.statuses) == {200}


def said(world: World) -> Any:
    """The last request's messages or contents, flat."""
    body = world.sandbox.bodies[-1]
    return [
        part
        for message in body.get("messages") or body["contents"]
        for part in message.get("content") or message["parts"]
    ]


def test_flash_to_opus_and_back_in_one_tool_loop(world: World) -> None:
    """Foreign thinking stays behind, foreign steps get the dummy signature and own ones their own, every result finds
    its call, and ids do not change from request to request.
    """
    world.sandbox.reset()
    messages: Messages = (user("Compare the weather."),)
    for provider, cities in (
        ("gemini", ("Oslo", "Rome")),
        ("anthropic", ("Bern", "Kyiv")),
        ("gemini", ("Lima",)),
    ):
        world.sandbox.script(
            *(ScriptedCall("weather", {"city": city}) for city in cities), thinking_tokens=40
        )
        reply = world.runner.run(world.ask(provider, messages, stream=True))
        calls = [part for part in reply.parts if isinstance(part, ToolCall)]
        results = [ToolResult(call.id, (Text("rain"),)) for call in reversed(calls)]
        messages = (*messages, assistant(*reply.parts), user(*results))
    first, second, third = (message.parts for message in messages[1::2])

    world.sandbox.script(ScriptedText("All wet."), thinking_tokens=0)
    world.runner.run(world.ask("gemini", messages, stream=False))
    parts = said(world)
    called = [part for part in parts if "functionCall" in part]
    assert [part.get("thoughtSignature") for part in called] == [
        signature_of(first),
        None,
        DUMMY_SIGNATURE,
        None,
        signature_of(third),
    ]
    assert [part["functionCall"]["id"] for part in called] == [
        part["functionResponse"]["id"] for part in parts if "functionResponse" in part
    ]
    assert not any(part.get("thought") for part in parts)

    world.sandbox.script(ScriptedText("All wet."), thinking_tokens=0)
    world.runner.run(world.ask("anthropic", messages, stream=False))
    blocks = said(world)
    uses = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert uses == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    assert uses[2:4] == [part.id for part in second if isinstance(part, ToolCall)]
    thoughts = [block for block in blocks if block["type"] == "thinking"]
    (own,) = [part for part in second if isinstance(part, Thinking)]
    assert thoughts == [{"type": "thinking", "thinking": own.text, "signature": own.signature}]
    assert own.model == OPUS

    again = (*messages, assistant("All wet."), user("Thanks."))
    world.runner.run(world.ask("anthropic", again, stream=False))
    assert said(world)[: len(blocks)] == blocks


def signature_of(parts: Sequence[Part]) -> str:
    """The signature a step's first call came with."""
    signature = next(part.signature for part in parts if isinstance(part, ToolCall))
    assert signature
    return signature


@pytest.mark.parametrize("lost", ["thinking", "signature"])
def test_a_tool_loop_whose_thinking_was_lost_goes_on(world: World, lost: str) -> None:
    """The provider refuses a call of its own without the thinking it came with; the session is not bricked by that."""
    world.sandbox.reset()
    world.sandbox.script(ScriptedCall("weather", {"city": "Oslo"}), thinking_tokens=40)
    opening = user("Weather?")
    reply = world.runner.run(world.ask("anthropic", (opening,), stream=False))
    thinking, called = reply.parts
    assert isinstance(thinking, Thinking)
    assert isinstance(called, ToolCall)
    held = assistant(called) if lost == "thinking" else assistant(replace(thinking, signature=""), called)
    answered = user(ToolResult(called.id, (Text("rain"),)))
    world.sandbox.script(ScriptedText("Wet."), thinking_tokens=0)
    world.runner.run(world.ask("anthropic", (opening, held, answered), stream=True))
    assert said(world)[1]["id"] == said(world)[2]["tool_use_id"] != called.id
