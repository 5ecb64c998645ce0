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


NO_MESSAGES = [
    b"<html>",
    b"[]",
    b"{}",
    b'{"type":"message","content":[],"usage":{"input_tokens":9}}',
    json.dumps({**MESSAGE, "type": "completion"}).encode(),
    json.dumps({**MESSAGE, "content": [{"type": "text", "text": 5}]}).encode(),
    json.dumps(MESSAGE).encode().replace(b"Let me see.", b"Let \xff\xfe"),
    json.dumps(MESSAGE).encode().replace(b'"q": "a"', b'"q": "\xff"'),
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", NO_MESSAGES, ids=range(len(NO_MESSAGES)))
def test_what_is_no_message_is_malformed_and_may_be_billed(body: bytes) -> None:
    """JSON alone is no answer: it must say that it is a message, and have content or say why it ended."""
    with pytest.raises(UpstreamMalformed) as caught:
        parse_reply(body, OPUS, "req_1")
    assert caught.value.may_be_billed
    assert caught.value.upstream_request_id == "req_1"


def test_an_error_in_place_of_the_message_is_that_error() -> None:
    """HTTP 200 does not make an answer of it, and a null message does not hide its class."""
    for message in ("Overloaded sk-secret", None):
        body = {"type": "error", "error": {"type": "overloaded_error", "message": message}}
        with pytest.raises(UpstreamOverloaded) as caught:
            parse_reply(json.dumps(body).encode(), OPUS, "req_1", "sk-secret")
        assert "sk-secret" not in str(caught.value)


ODD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"id": None}, {"response_id": ""}),
    ({"model": None}, {"model": OPUS}),
    ({"content": None}, {"parts": ()}),
    ({"stop_details": {"category": 3}}, {}),
    ({"stop_details": "x"}, {}),
    (
        {"diagnostics": {"cache_miss_reason": {"type": None, "cache_missed_input_tokens": 70}}},
        {"cache_diagnostics": ""},
    ),
    ({"content": [{"type": "later", "text": {"a": 1}, "name": 5}, *CONTENT]}, {}),
    ({"content": [{"type": 7, "id": []}, *CONTENT]}, {}),
    ({"content": [*CONTENT[:2], {**CONTENT[2], "name": 5, "data": [], "signature": {}}, *CONTENT[3:]]}, {}),
    ({"usage": {**USAGE, "input_tokens": 50.0, "output_tokens": "300"}}, {}),
    ({"usage": {**USAGE, "iterations": 5, "server_tool_use": "x"}}, {}),
    ({"usage": {**USAGE, "input_tokens": 10**30}}, {"usage": None}),
    ({"usage": "x"}, {"usage": None}),
]


@pytest.mark.parametrize(("wire", "different"), ODD)
def test_odd_fields_cost_nothing_but_themselves(wire: dict[str, Any], different: dict[str, Any]) -> None:
    """A paid answer is not lost for a null or a field of another kind that nobody needs."""
    assert parsed(**wire) == msgspec.structs.replace(REPLY, **different)


def test_null_counters_of_writes_are_none() -> None:
    """Without its split, the total counts as 5 minute writes."""
    nulls = {"ephemeral_5m_input_tokens": None, "ephemeral_1h_input_tokens": None}
    counted = parsed(usage={**USAGE, "cache_creation": nulls}).usage
    assert counted is not None
    assert (counted.cache_write_5m_tokens, counted.cache_write_1h_tokens) == (5000, 0)


def test_an_uncounted_output_is_not_complete() -> None:
    """Unknown is not 0: somebody has to count it."""
    counted = parsed(usage={**USAGE, "output_tokens": None, "output_tokens_details": None}).usage
    assert counted is not None
    assert (counted.input_tokens, counted.complete) == (25050, False)


def test_half_characters_are_replaced() -> None:
    """JSON can spell a lone surrogate, UTF-8 cannot; the answer is worth more than the character."""
    content = [
        {"type": "text", "text": "a\ud83d b"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"q": "\ude00"}},
    ]
    text, tool_call = parsed(content=content).parts
    assert text == Text("a\ufffd b")
    assert isinstance(tool_call, ToolCall)
    assert json.loads(tool_call.arguments_json) == {"q": "\ufffd"}


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


TEXT = [START, event("content_block_start", index=0, content_block={"type": "text", "text": ""})]
END = [
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
    event("message_stop"),
]


def said(index: int | None, text: str) -> bytes:
    return event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})


def finished(*events: bytes) -> tuple[Reply, str]:
    """Return the Reply of a stream, fed event by event, and the texts of its deltas."""
    state, chunks = fold(), list[Chunk]()
    for wire in events:
        chunks += state.feed(wire)
    chunks += state.finish()
    assert state.fault is None
    assert isinstance(chunks[-1], Finished)
    return chunks[-1].reply, "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta))


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\ud83d", "\ude00b"], "a\U0001f600b"),
        (["\ud83d", "\ude00"], "\U0001f600"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a", "\ude00b"], "a\ufffdb"),
        (["a\ud83d"], "a\ufffd"),
    ],
)
def test_characters_cut_between_deltas_are_joined(pieces: list[str], text: str) -> None:
    """Each half alone is unreadable to UTF-8; deltas and Reply agree."""
    reply, streamed = finished(*TEXT, *(said(0, piece) for piece in pieces), *END)
    assert reply.parts == (Text(text),)
    assert streamed == text


def test_odd_events_are_skipped() -> None:
    """New events may have any fields, an index may be null, a block of a new type anything."""
    odd = [
        event("later", index="x", delta=[1], message=5, usage=[], error="e", content_block=3),
        event("content_block_start", index=9, content_block={"type": "later", "text": 5, "id": {}}),
        event("content_block_delta", index=9, delta={"type": "later_delta", "text": {"a": 1}}),
    ]
    reply, _ = finished(*TEXT, *odd, said(None, "x"), *END)
    assert reply.parts == (Text("x"),)
    assert reply.usage is not None
    assert reply.usage.complete


def test_a_delta_of_a_later_kind_says_nothing() -> None:
    """Its fields may have any meaning: words put into signed thinking would make the answer one that is refused."""
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    stream = [
        START,
        event("content_block_start", index=0, content_block=thinking),
        delta(0, type="thinking_delta", thinking="Hm."),
        delta(0, type="later_delta", text="not this", thinking="nor this", signature="other"),
        delta(0, text="of no kind"),
        delta(0, type="signature_delta", signature="sig=="),
        *END,
    ]
    reply, streamed = finished(*stream)
    assert reply.parts == (Thinking(OPUS, "Hm.", "sig=="),)
    assert streamed == ""


@pytest.mark.parametrize("name", ["api.search", "", "9", "a b", "x" * 129])
def test_a_call_of_no_tools_name_is_no_part(name: str) -> None:
    """It could not go back: neither provider takes such a name, so the conversation would be over."""
    call = {"type": "tool_use", "id": "toolu_9", "name": name, "input": {}}
    stop = event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 3})
    reply, _ = finished(
        START,
        event("content_block_start", index=0, content_block=call),
        delta(0, type="input_json_delta", partial_json="{}"),
        event("content_block_stop", index=0),
        event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
        said(1, "x"),
        event("content_block_stop", index=1),
        stop,
        END[2],
    )
    whole = parsed(content=[call, {"type": "text", "text": "x"}])
    for told in (reply, whole):
        assert (told.parts, told.finish_reason) == ((Text("x"),), FinishReason.MALFORMED)


def test_an_end_that_counts_no_input_does_not_unbill_it() -> None:
    """No prompt is empty and no cumulative count shrinks: zeros at the end have not counted, and the input was paid."""
    zeros = {
        "input_tokens": 0,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 3,
    }
    split = {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}}
    for usage in (zeros, zeros | split):
        last = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
        reply, _ = finished(*TEXT, said(0, "x"), END[0], last, END[2])
        counted = reply.usage
        assert counted is not None
        assert (counted.input_tokens, counted.cache_read_tokens, counted.output_tokens) == (25050, 20000, 3)
        assert (counted.cache_write_5m_tokens, counted.cache_write_1h_tokens) == (1000, 4000)


@pytest.mark.parametrize("usage", [None, {}, {"output_tokens": None}])
def test_an_end_without_a_count_of_the_output_is_not_complete(usage: dict[str, Any] | None) -> None:
    """The count at the start is a placeholder."""
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    reply, _ = finished(*TEXT, said(0, "x"), END[0], last, END[2])
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.complete) == (25050, False)


def test_the_last_event_may_lack_its_blank_line() -> None:
    """The answer is whole; only a line end is missing."""
    reply, _ = finished(*TEXT, said(0, "x"), *END[:2], END[2].rstrip(b"\n"))
    assert reply.parts == (Text("x"),)


def test_an_event_cut_in_the_middle_ends_nothing() -> None:
    """The stream ended too early, which is for the relay to say."""
    state = fold()
    state.feed(b"".join(TEXT) + END[2][:-8])
    assert (state.finish(), state.fault, state.done) == ([], None, False)


@pytest.mark.parametrize("newline", [b"", b"\n"])
def test_a_body_that_is_an_error_and_no_stream_is_that_error(newline: bytes) -> None:
    """With or without a line end, in one line or many."""
    state = fold()
    error = {"type": "error", "error": {"type": "overloaded_error", "message": None}}
    state.feed(json.dumps(error, indent=2 if newline else None).encode() + newline)
    assert state.finish() == []
    assert isinstance(state.fault, UpstreamOverloaded)


@pytest.mark.parametrize(
    "data",
    [b'data: {"type":"message_start","message":{"id":"\xff"}}\n\n', b"data: " + b"[" * 100_000 + b"\n\n"],
)
def test_events_that_are_no_text_are_faults(data: bytes) -> None:
    """Bytes that are not UTF-8, or nested without end."""
    state = fold()
    state.feed(data)
    assert isinstance(state.fault, UpstreamMalformed)
