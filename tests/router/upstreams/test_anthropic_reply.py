"""Anthropic's answers, whole and streamed, become the same Reply with inclusive usage."""

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import FinishReason, Text, Thinking, ToolCall
from router.errors import UpstreamMalformed, UpstreamOverloaded
from router.reply import Chunk, Finished, Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.upstreams.anthropic_reply import parse_reply
from router.upstreams.anthropic_stream import AnthropicFold
from router.usage import Usage
from tests.router.upstreams.samples import OPUS

USAGE: dict[str, Any] = {
    "input_tokens": 50,
    "cache_creation_input_tokens": 5000,
    "cache_read_input_tokens": 20000,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 4000},
    "output_tokens": 300,
    "output_tokens_details": {"thinking_tokens": 20},
    "service_tier": "standard",
    "inference_geo": "global",
    "speed": "standard",
    "iterations": [{"type": "message"}],
}
CONTENT: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="},
    {"type": "redacted_thinking", "data": "opaque"},
    {"type": "text", "text": "Grüße", "citations": None},
    {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}},
    {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {"q": "a", "n": 1}},
    {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
]
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-5-5-of-the-day",
    "content": CONTENT,
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "stop_details": None,
    "diagnostics": {"cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 70}},
    "usage": USAGE,
}
REPLY = Reply(
    parts=(
        Thinking(OPUS, "Let me see.", "sig=="),
        Thinking(OPUS, "", "opaque", redacted=True),
        Text("Grüße"),
        ToolCall("toolu_1", "search", '{"q":"a","n":1}', model=OPUS),
        ToolCall("toolu_2", "now", "{}", model=OPUS),
    ),
    finish_reason=FinishReason.TOOL_CALL,
    usage=Usage(
        input_tokens=25050,
        cache_read_tokens=20000,
        cache_write_5m_tokens=1000,
        cache_write_1h_tokens=4000,
        output_tokens=300,
        thinking_tokens=20,
        speed="standard",
        service_tier="standard",
        inference_geo="global",
    ),
    model="claude-opus-5-5-of-the-day",
    response_id="msg_1",
    upstream_request_id="req_1",
    cache_diagnostics="tools_changed",
    cache_diagnostics_missed_tokens=70,
)


def parsed(**changes: Any) -> Reply:
    return parse_reply(json.dumps({**MESSAGE, **changes}).encode(), OPUS, "req_1")


def test_whole_answer_is_read() -> None:
    """Counts become inclusive, parts keep what must go back, unknown blocks and fields are skipped."""
    assert parsed() == REPLY


@pytest.mark.parametrize(
    ("usage", "split"),
    [
        ({"cache_creation": None}, (5000, 0)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 4000}}, (1000, 4000)),
        ({"cache_creation_input_tokens": None}, (1000, 4000)),
        ({"cache_creation_input_tokens": None, "cache_creation": None}, (0, 0)),
    ],
)
def test_writes_without_their_split_count_as_5m(usage: dict[str, Any], split: tuple[int, int]) -> None:
    """What is not said to be a 1 hour write is what a bare marker asks for."""
    counted = parsed(usage={**USAGE, **usage}).usage
    assert counted is not None
    assert (counted.cache_write_5m_tokens, counted.cache_write_1h_tokens) == split
    assert counted.input_tokens == 20050 + sum(split)


@pytest.mark.parametrize(
    "usage",
    [None, {}, {**USAGE, "output_tokens_details": {"thinking_tokens": 301}}, {**USAGE, "input_tokens": -1}],
)
def test_unknown_or_contradictory_usage_is_unknown(usage: dict[str, Any] | None) -> None:
    """Unknown is None, never 0, and never costs the caller the answer."""
    assert parsed(usage=usage).usage is None


FINISHES = [
    ("end_turn", FinishReason.END_TURN),
    ("max_tokens", FinishReason.MAX_TOKENS),
    ("pause_turn", FinishReason.PAUSED),
    ("model_context_window_exceeded", FinishReason.CONTEXT_WINDOW),
    ("a_new_reason", FinishReason.OTHER),
    (None, FinishReason.OTHER),
]


@pytest.mark.parametrize(("wire", "reason"), FINISHES)
def test_stop_reasons_have_one_meaning(wire: str | None, reason: FinishReason) -> None:
    """New reasons do not fail."""
    assert parsed(stop_reason=wire).finish_reason is reason


def test_stop_sequence_and_refusal_keep_their_detail() -> None:
    """Which sequence ended it, and the provider's category of a refusal."""
    assert parsed(stop_reason="stop_sequence", stop_sequence="END").stop_sequence == "END"
    refused = parsed(stop_reason="refusal", stop_details={"type": "refusal", "category": "cyber"})
    assert (refused.finish_reason, refused.refusal_category) == (FinishReason.REFUSAL, "cyber")
    assert parsed(stop_reason="refusal", stop_details={"category": None}).refusal_category == ""


def test_warming_answer_is_read() -> None:
    """`max_tokens: 0` answers with no content and complete usage."""
    warmed = parsed(
        content=[],
        stop_reason="max_tokens",
        usage={**USAGE, "output_tokens": 0, "output_tokens_details": None},
    )
    assert warmed.parts == ()
    assert warmed.usage is not None
    assert warmed.usage.cache_write_1h_tokens == 4000


def test_what_is_no_message_fails() -> None:
    """The shell turns this into UpstreamMalformed."""
    with pytest.raises(msgspec.DecodeError):
        parse_reply(b"<html>", OPUS, "")


def event(type_: str, **fields: Any) -> bytes:
    return f"event: {type_}\ndata: {json.dumps({'type': type_, **fields})}\n\n".encode()


def delta(index: int, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta=fields)


START = event(
    "message_start",
    message={
        **MESSAGE,
        "content": [],
        "stop_reason": None,
        "usage": {**USAGE, "output_tokens": 1, "output_tokens_details": None},
    },
)
EVENTS = [
    START,
    event("ping"),
    event(
        "content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}
    ),
    delta(0, type="thinking_delta", thinking="Let me"),
    delta(0, type="thinking_delta", thinking=" see."),
    delta(0, type="signature_delta", signature="sig=="),
    event("content_block_stop", index=0),
    event("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "opaque"}),
    event("content_block_stop", index=1),
    event("content_block_start", index=2, content_block={"type": "text", "text": ""}),
    event("content_block_stop", index=2),  # empty: takes no index
    event("content_block_start", index=3, content_block={"type": "text", "text": ""}),
    delta(3, type="text_delta", text="Gr"),
    event("an_event_of_next_year", index=3),
    delta(3, type="text_delta", text="üße"),
    event("content_block_stop", index=3),
    event(
        "content_block_start", index=4, content_block={"type": "server_tool_use", "id": "srv", "input": {}}
    ),
    delta(4, type="input_json_delta", partial_json="{}"),
    event("content_block_stop", index=4),
    event(
        "content_block_start",
        index=5,
        content_block={"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}},
    ),
    delta(5, type="input_json_delta", partial_json=""),
    delta(5, type="input_json_delta", partial_json='{"q":"a"'),
    delta(5, type="input_json_delta", partial_json=',"n":1}'),
    event("content_block_stop", index=5),
    event(
        "content_block_start",
        index=6,
        content_block={"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ),
    event("content_block_stop", index=6),
    event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 40}),
    event(
        "message_delta",
        delta={"stop_reason": "tool_use", "stop_sequence": None},
        usage={"output_tokens": 300, "output_tokens_details": {"thinking_tokens": 20}},
    ),
    event("message_stop"),
]


def fold() -> AnthropicFold:
    return AnthropicFold(OPUS, "req_1", "sk-secret")


def assembled(chunks: list[Chunk]) -> dict[int, str]:
    """Concatenate the deltas of each index, as a caller would."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        match chunk:
            case TextDelta(index, text) | ThinkingDelta(index, text):
                texts[index] = texts.get(index, "") + text
            case ToolCallDelta(index, id_, name, text):
                assert bool(id_) is bool(name) is (index not in texts)
                texts[index] = texts.get(index, "") + text
            case _:
                pass
    return texts


@given(st.lists(st.integers(0, 4000), max_size=30))
def test_streamed_answer_equals_the_whole_one(cuts: list[int]) -> None:
    """However the bytes are cut, the Reply is the same, and the deltas add up to its parts."""
    stream, state, chunks = b"".join(EVENTS), fold(), list[Chunk]()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        chunks += state.feed(stream[start:end])
    assert isinstance(chunks[0], Started)
    assert chunks[-1] == Finished(REPLY)
    assert assembled(chunks) == {0: "Let me see.", 2: "Grüße", 3: '{"q":"a","n":1}', 4: "{}"}
    assert state.done
    assert state.usage == REPLY.usage


def test_what_arrives_together_goes_on_together() -> None:
    """Deltas of one read are joined: fewer, larger chunks."""
    chunks = fold().feed(b"".join(EVENTS))
    assert [type(chunk).__name__ for chunk in chunks] == [
        "Started",
        "ThinkingDelta",
        "TextDelta",
        "ToolCallDelta",
        "ToolCallDelta",
        "UsageSeen",
        "UsageSeen",
        "Finished",
    ]


def test_usage_is_known_from_the_first_event() -> None:
    """Input counts are exact at the start; later counts replace and never add."""
    state = fold()
    (started,) = state.feed(START)
    assert isinstance(started, Started)
    assert started.usage == Usage(
        input_tokens=25050,
        cache_read_tokens=20000,
        cache_write_5m_tokens=1000,
        cache_write_1h_tokens=4000,
        output_tokens=1,
        complete=False,
        speed="standard",
        service_tier="standard",
        inference_geo="global",
    )
    (seen,) = state.feed(event("message_delta", delta={}, usage={"output_tokens": 40, "input_tokens": 60}))
    assert isinstance(seen, UsageSeen)
    assert (seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.complete) == (25060, 40, False)
    assert state.feed(event("message_delta", delta={}, usage={"output_tokens": 40})) == []


def test_error_event_comes_after_what_preceded_it() -> None:
    """What arrived in the same read is delivered first; then nothing more is taken."""
    state = fold()
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded sk-secret"})
    chunks = state.feed(
        START + b"".join(EVENTS[9:13]) + delta(3, type="text_delta", text="x") + error + EVENTS[-1]
    )
    assert [type(chunk).__name__ for chunk in chunks] == ["Started", "TextDelta"]
    assert isinstance(state.fault, UpstreamOverloaded)
    assert "sk-secret" not in str(state.fault)
    assert not state.done


def test_broken_json_is_a_fault() -> None:
    """Guessing on would bill and deliver nonsense."""
    state = fold()
    state.feed(START + b"data: {oops\n\n")
    assert isinstance(state.fault, UpstreamMalformed)


def test_input_given_at_the_start_of_a_call_is_kept() -> None:
    """A provider may put the whole input into content_block_start."""
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    chunks = fold().feed(
        START
        + event("content_block_start", index=0, content_block=block)
        + event("content_block_stop", index=0)
    )
    assert chunks[1] == ToolCallDelta(0, "t", "f", '{"a":1}')
