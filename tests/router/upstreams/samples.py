"""Calls and small builders shared by the adapter tests."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from router.call import (
    Call,
    Effort,
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

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
SCHEMA = (
    '{"type": "object",  "properties": {"q": {"type": "string"}}, "required": ["q"], '
    '"additionalProperties": false}'
)
SEARCH = Tool("search", "Find documents.", SCHEMA)


@dataclass(frozen=True)
class Mark:
    """A breakpoint, as far as an adapter reads it."""

    position: int
    ttl_s: int


@dataclass(frozen=True)
class Marks:
    """A plan, as far as an adapter reads it."""

    breakpoints: tuple[Mark, ...]


def user(*parts: Part | str) -> Message:
    """A user message; strings are text parts."""
    return Message(Role.USER, tuple(Text(p) if isinstance(p, str) else p for p in parts))


def assistant(*parts: Part | str) -> Message:
    """An assistant message; strings are text parts."""
    return Message(Role.ASSISTANT, tuple(Text(p) if isinstance(p, str) else p for p in parts))


def call(*messages: Message, **fields: Any) -> Call:
    """A call with defaults for what a test does not care about."""
    fields.setdefault("max_output_tokens", 500)
    return Call(identity=Identity(request_id="r"), messages=messages or (user("Hi"),), **fields)


def tool_loop(model: str = "", signature: str = "") -> tuple[Message, ...]:
    """A turn in which two tools were called and have answered."""
    return (
        user("Find both."),
        assistant(
            "Looking.",
            ToolCall("call_a", "search", '{"q":"a"}', signature, model),
            ToolCall("call_b", "search", '{"q":"b"}', "", model),
        ),
        user(ToolResult("call_a", (Text("A"),)), ToolResult("call_b", (Text("B"),), is_error=True)),
    )


_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
_opaque = st.text("abcdef0123456789+/=", min_size=1, max_size=12)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Valid conversations: turns with text, thinking of several models, tool loops, merged roles."""
    messages: list[Message] = []
    for turn in range(draw(st.integers(0, 4))):
        messages.append(user(*draw(st.lists(_texts, min_size=1, max_size=2))))
        if draw(st.booleans()):
            messages.append(user(draw(_texts)))
        said: list[Part] = []
        if draw(st.booleans()):
            model = draw(st.sampled_from([OPUS, FLASH, "other-model"]))
            said.append(Thinking(model, draw(_texts), draw(_opaque), draw(st.booleans())))
        if draw(st.booleans()):
            said.append(Text(draw(_texts)))
        ids = [f"call_{turn}_{i}" for i in range(draw(st.integers(0, 3)))]
        said += [ToolCall(i, "search", '{"q":1}', draw(st.sampled_from(["", "c2ln"])), FLASH) for i in ids]
        if said:
            messages.append(assistant(*said))
        if ids:
            results: list[Part] = [ToolResult(i, (Text(draw(_texts)),)) for i in draw(st.permutations(ids))]
            messages.append(user(*draw(st.permutations([*results, Text(draw(_texts))]))))
    return (*messages, user(draw(_texts)))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Valid calls that both providers take."""
    return call(
        *draw(conversations()),
        tools=(SEARCH,) * draw(st.integers(0, 1)),
        system=tuple(draw(st.lists(_texts, max_size=2))),
        context=tuple(draw(st.lists(_texts, max_size=2))),
        effort=draw(st.sampled_from([None, *Effort])),
        include_thinking=draw(st.booleans()),
        stop_sequences=tuple(draw(st.lists(_texts, max_size=2))),
        output_schema_json=draw(st.sampled_from(["", SCHEMA])),
    )
