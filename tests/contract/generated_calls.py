"""Calls as callers make them, and as they should not: what the properties of the adapters are held against.

Everything `router.convert_request` lets pass can be drawn, and some of what it refuses: adapters are the last to look.
Thinking is signed as the sandbox signs it, since a forged signature is the provider's to find.
"""

from typing import Any

import msgspec.structs
from hypothesis import strategies as st

from router.call import (
    Call,
    ContextPlacement,
    Document,
    Effort,
    Identity,
    Image,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from router.sandbox.signatures import Thought, seal, subject

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
CLAUDE_MODELS = ("claude-opus-4-5", "claude-opus-4-7", "claude-opus-5", OPUS)

TOOLS = (
    Tool(
        "find",
        "Find documents.",
        '{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"integer"}}}',
    ),
    Tool("count", "", '{"properties": {"a":{"type":"integer"},"b":{"type":"string"}}, "type": "object"}'),
    Tool("now", 'The time, "exactly".', ""),
    Tool("read_all", "Read much. " * 300, '{"type":"object"}'),
)
_MANY = ",".join(f'"p{n}":{{"type":"string"}}' for n in range(25))
OUTPUT_SCHEMAS = (
    '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}',
    ' {"additionalProperties": false, "type": "object", "properties": {}} ',
    '{"type":"object","properties":{"city":{"type":"string"}}}',
    '{"anyOf":[{"type":"object","additionalProperties":false},{"type":"object"}]}',
    f'{{"type":"object","additionalProperties":false,"properties":{{{_MANY}}}}}',
    '{"type":"string"}',
)
_WORDS = ("a", "b", 'Say "hi" \\ and ünïcödé 🦊', "line\nbreak", "much to read " * 250)
_TEXT_SIGNATURES = (("", ""), (seal(Thought(FLASH, 9, "", "")), FLASH), ("c2ln", OPUS))
_BLANKS = ("", " ", "\n\t ")
_ARGUMENTS = ("", "{}", '{"b": 1, "a": [true, null]}', '{"a":[true,null],"b":1}', ' {"q":"\\u00e5"} ')

words = st.sampled_from(_WORDS)
texts = st.sampled_from((*_WORDS, *_BLANKS))
media = st.sampled_from(
    (
        Image("image/png", b"\x89PNG" + bytes(64)),
        Image("image/webp", b"RIFF"),
        Document("application/pdf", b"%PDF-1.7", "Terms"),
        Document("text/plain", b"plain"),
    )
)
odd_media = st.sampled_from(
    (Image("image/tiff", b"x"), Document("application/msword", b"x"), Document("text/plain", b"\xff"))
)


@st.composite
def thoughts(draw: st.DrawFn, models: tuple[str, ...]) -> Thinking:
    """Thinking of one of `models`, signed; seldom unsigned or encrypted."""
    model = draw(st.sampled_from(models))
    shown = draw(st.sampled_from(("", "hm")))
    kind = draw(st.sampled_from(("signed", "signed", "unsigned", "encrypted")))
    if kind == "encrypted":
        return Thinking(model, "", "b3BhcXVl", redacted=True)
    signature = seal(Thought(model, 30, subject(shown), "")) if kind == "signed" else ""
    return Thinking(model, shown, signature)


@st.composite
def conversations(draw: st.DrawFn, *, odd: bool = False) -> tuple[Message, ...]:
    """Turns with tool loops of parallel calls, thinking of several models, media and texts; ends with the user."""
    spoken = texts if odd else words
    thinkers = (OPUS, "claude-opus-4-7", FLASH)
    messages: list[Message] = []
    call_count = 0
    turn_count = draw(st.integers(1, 3))
    for turn in range(turn_count):
        opening: list[Part] = [Text(draw(words))]
        if draw(st.integers(0, 3)) == 0:
            opening.insert(
                draw(st.integers(0, 1)), draw(odd_media if odd and draw(st.integers(0, 3)) == 0 else media)
            )
        if odd and draw(st.booleans()):
            opening.append(Text(draw(texts), *draw(st.sampled_from(_TEXT_SIGNATURES))))
        messages.append(Message(Role.USER, tuple(opening)))
        for _ in range(draw(st.integers(0, 2))):
            said: list[Part] = []
            if draw(st.booleans()):
                said.append(draw(thoughts(thinkers)))
            if draw(st.booleans()):
                said.append(Text(draw(spoken)))
            calls = []
            for _ in range(draw(st.integers(1, 3))):
                call_count += 1
                id_ = f"c{call_count}" if draw(st.booleans()) else f"function-call/{call_count}:å"
                calls.append(
                    ToolCall(id_, draw(st.sampled_from(("find", "now"))), draw(st.sampled_from(_ARGUMENTS)))
                )
            messages.append(Message(Role.ASSISTANT, (*said, *calls)))
            results: list[Part] = [draw(_results(call.id)) for call in draw(st.permutations(calls))]
            if draw(st.integers(0, 3)) == 0:
                results.insert(draw(st.integers(0, len(results))), Text(draw(words)))
            cut = draw(st.integers(0, len(results) - 1))
            messages += [Message(Role.USER, tuple(part)) for part in (results[:cut], results[cut:]) if part]
        if turn < turn_count - 1:
            answer: list[Part] = [draw(thoughts(thinkers))] if draw(st.booleans()) else []
            messages.append(Message(Role.ASSISTANT, (*answer, Text(draw(spoken)))))
    return tuple(messages)


def _results(call_id: str) -> st.SearchStrategy[ToolResult]:
    contents = st.lists(st.one_of(texts.map(Text), texts.map(Text), media), max_size=2)
    return st.builds(ToolResult, st.just(call_id), contents.map(tuple), st.just(""), st.booleans())


@st.composite
def calls(draw: st.DrawFn, *, odd: bool = False) -> Call:
    """A whole call.

    Args:
        odd: Draw also what some or all models refuse.
    """
    tools = tuple(draw(st.lists(st.sampled_from(TOOLS), unique=True, max_size=3)))
    choice = ToolChoice(disable_parallel=odd and draw(st.booleans()))
    if odd and tools and draw(st.booleans()):
        mode = draw(st.sampled_from(ToolChoiceMode))
        choice = ToolChoice(
            mode, tools[0].name if mode is ToolChoiceMode.TOOL else "", choice.disable_parallel
        )
    elif tools and draw(st.booleans()):
        choice = ToolChoice(ToolChoiceMode.NONE)
    some = texts if odd else words
    return Call(
        identity=Identity(request_id="r"),
        tools=tools,
        system=tuple(draw(st.lists(some, max_size=2))),
        context=tuple(draw(st.lists(some, max_size=2))),
        context_placement=draw(st.sampled_from(ContextPlacement)),
        messages=draw(conversations(odd=odd)),
        tool_choice=choice,
        max_output_tokens=draw(st.sampled_from((40, 500, 500, 500, 0, 100_000) if odd else (500,))),
        stop_sequences=tuple(draw(st.lists(st.sampled_from(("END", "\n\nx")), max_size=2, unique=True))),
        effort=draw(st.sampled_from((None, *Effort))),
        output_schema_json=draw(
            st.sampled_from(("",) * (8 if odd else 2) + (OUTPUT_SCHEMAS if odd else OUTPUT_SCHEMAS[:2]))
        ),
        include_thinking=draw(st.booleans()),
    )


@st.composite
def variants(draw: st.DrawFn, call: Call) -> Call:
    """`call` with one thing changed, or nothing; where in the prompt it changes is any place."""
    match draw(st.integers(0, 9)):
        case 0:
            return _with(call, tools=tuple(draw(st.permutations(call.tools))))
        case 1:
            return _with(call, tools=call.tools[:-1], tool_choice=ToolChoice())
        case 2:
            return _with(call, system=(*call.system, draw(words)))
        case 3:
            return _with(call, context=(*call.context, draw(words)))
        case 4:
            return _with(call, context_placement=draw(st.sampled_from(ContextPlacement)))
        case 5:
            index = draw(st.integers(0, len(call.messages) - 1))
            message = call.messages[index]
            edited = Message(message.role, (*message.parts, Text(draw(words))))
            return _with(call, messages=(*call.messages[:index], edited, *call.messages[index + 1 :]))
        case 6:
            return _with(call, effort=draw(st.sampled_from((None, *Effort))))
        case 7:
            return _with(call, output_schema_json=draw(st.sampled_from(("", *OUTPUT_SCHEMAS[:2]))))
        case 8:
            return draw(continuations(call))
        case _:
            return call


@st.composite
def continuations(draw: st.DrawFn, call: Call) -> Call:
    """`call` answered and asked on; parallel results that were given come in another order."""
    messages = []
    for message in call.messages:
        parts = message.parts
        if sum(isinstance(part, ToolResult) for part in parts) == len(parts) > 1:
            parts = tuple(draw(st.permutations(parts)))
        messages.append(Message(message.role, parts))
    answer = Message(Role.ASSISTANT, (Text("That is so."),))
    return _with(call, messages=(*messages, answer, Message(Role.USER, (Text(draw(words)),))))


def _with(call: Call, **changes: Any) -> Call:
    return msgspec.structs.replace(call, **changes)
