"""Every public shape of both wires is read, and goes back in the next request without losing what must be kept.

What must be kept: thinking with its signature, encrypted thinking, ids of calls, the signature on a step's first call
and on the last text, each where it stood (A-THINK, A-TOOLS, G-SIG, 2026-11).
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import errors
from router.call import FinishReason, Part, Text, ToolCall, ToolResult
from router.reply import Chunk, Finished, Reply
from router.upstreams import anthropic_render, gemini_render
from router.upstreams.anthropic_models import traits_of as claude
from router.upstreams.anthropic_reply import parse_reply
from router.upstreams.anthropic_stream import AnthropicFold
from router.upstreams.gemini_models import traits_of as gemini
from router.upstreams.gemini_reply import Answer, decode_frames
from router.upstreams.gemini_stream import GeminiFold
from router.upstreams.relay import Fold
from router.usage import Usage
from tests.contract.cases import FLASH, OPUS, assistant, call, user
from tests.contract.wire_shapes import (
    ANTHROPIC,
    BLOCK_REASONS,
    COUNTS,
    GEMINI,
    USAGE,
    Shape,
    frame,
    message,
    sse,
    streamed,
)

CLAUDE_USAGE = Usage(
    input_tokens=5128,
    cache_read_tokens=5120,
    output_tokens=42,
    thinking_tokens=20,
    speed="standard",
    service_tier="standard",
    inference_geo="global",
)
FLASH_USAGE = Usage(
    input_tokens=10_000,
    cache_read_tokens=8_000,
    output_tokens=500,
    thinking_tokens=300,
    service_tier="standard",
)


def claude_fold() -> AnthropicFold:
    return AnthropicFold(OPUS, "req_1", "sk-secret")


def folded(state: Fold, stream: bytes, cuts: Sequence[int] = ()) -> list[Chunk]:
    """The chunks of a stream, its bytes cut anywhere."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [chunk for start, end in pairwise(edges) for chunk in state.feed(stream[start:end])]
    return [*chunks, *state.finish()]


def read_gemini(body: dict[str, Any]) -> Reply:
    """A unary answer, as the adapter reads it."""
    answer = Answer(FLASH, "req_1")
    for each in decode_frames(json.dumps(body).encode()):
        answer.take_facts(each)
        answer.take_parts(each, [])
    answer.end_text([])
    return answer.reply()


def check(reply: Reply, shape: Shape, usage: Usage) -> None:
    """The answer says what the shape does."""
    assert reply.parts == shape.parts
    assert reply.finish_reason is shape.finish
    assert reply.usage == usage
    for name, value in shape.facts.items():
        assert getattr(reply, name) == value


def following(parts: tuple[Part, ...]) -> Any:
    """The next request's call: the answer as it came, a result for each of its calls."""
    results = [ToolResult(part.id, (Text("r"),)) for part in parts if isinstance(part, ToolCall)]
    said = (assistant(*parts),) if parts else ()
    return call("Go.", *said, user(*results, "More."))


@pytest.mark.parametrize("shape", ANTHROPIC, ids=lambda shape: shape.name)
def test_an_anthropic_answer_is_read_and_goes_back(shape: Shape) -> None:
    """Whole, streamed, and as history; blocks as they came, in their order."""
    whole = parse_reply(json.dumps(shape.body).encode(), OPUS, "req_1")
    check(whole, shape, CLAUDE_USAGE)
    *_, last = folded(claude_fold(), sse(shape.events, named=True))
    assert last == Finished(whole)
    asked = following(whole.parts)
    rendered = anthropic_render.render(asked, OPUS, claude(OPUS), anthropic_render.Options())
    messages = json.loads(anthropic_render.request_body(rendered, None, stream=False))["messages"]
    assert [block for m in messages if m["role"] == "assistant" for block in m["content"]] == shape.back


@pytest.mark.parametrize("shape", GEMINI, ids=lambda shape: shape.name)
def test_a_gemini_answer_is_read_and_goes_back(shape: Shape) -> None:
    """Whole, as an array, streamed, and as history; parts as they came, in their order."""
    whole = read_gemini(shape.body)
    check(whole, shape, FLASH_USAGE)
    for unframed in (json.dumps(list(shape.events)).encode(), json.dumps([shape.body]).encode()):
        answer = Answer(FLASH, "req_1")
        for each in decode_frames(unframed):
            answer.take_facts(each)
            answer.take_parts(each, [])
        assert answer.reply() == whole
    *_, last = folded(GeminiFold(FLASH, "req_1", "k"), sse(shape.events, named=False))
    assert last == Finished(whole)
    rendered = gemini_render.render(following(whole.parts), FLASH, gemini(FLASH), store=False)
    contents = json.loads(gemini_render.request_body(rendered))["contents"]
    assert [part for c in contents if c["role"] == "model" for part in c["parts"]] == shape.back


@settings(max_examples=40)
@given(st.sampled_from(ANTHROPIC), st.sampled_from(GEMINI), st.lists(st.integers(0, 3000), max_size=25))
def test_where_the_bytes_are_cut_does_not_matter(one: Shape, other: Shape, cuts: list[int]) -> None:
    """A stream may arrive in any pieces, within a character too."""
    *_, last = folded(claude_fold(), sse(one.events, named=True), cuts)
    assert isinstance(last, Finished)
    assert last.reply.parts == one.parts
    *_, last = folded(GeminiFold(FLASH, "", "k"), sse(other.events, named=False), cuts)
    assert isinstance(last, Finished)
    assert last.reply.parts == other.parts


@pytest.mark.parametrize("arguments", ['{"q":', "", '{"q":"a"', "[1]"])
@pytest.mark.parametrize(
    ("stop", "finish"), [("max_tokens", FinishReason.MAX_TOKENS), ("tool_use", FinishReason.MALFORMED)]
)
def test_a_call_that_broke_off_is_no_part_of_the_answer(
    stop: str, finish: FinishReason, arguments: str
) -> None:
    """Sent back it would be refused for its arguments; what came before it stays, and the reason tells of it."""
    opened = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": "" if arguments else []}
    events = streamed(message([{"type": "text", "text": "Looking.", "citations": None}], stop))
    delta = {"type": "input_json_delta", "partial_json": arguments}
    events[-2:-2] = [
        {"type": "content_block_start", "index": 1, "content_block": opened},
        {"type": "content_block_delta", "index": 1, "delta": delta},
        {"type": "content_block_stop", "index": 1},
    ]
    *_, last = folded(claude_fold(), sse(events, named=True))
    assert isinstance(last, Finished)
    assert last.reply.parts == (Text("Looking."),)
    assert last.reply.finish_reason is finish


def test_a_gemini_call_without_an_object_is_malformed() -> None:
    """As above: the call is left out, and the answer does not wait for it."""
    reply = read_gemini(frame([{"functionCall": {"name": "f", "args": [1]}}], "STOP", COUNTS))
    assert (reply.parts, reply.finish_reason) == ((), FinishReason.MALFORMED)


def test_anthropic_usage_replaces_and_never_adds() -> None:
    """Cumulative counts in several message_delta events; a later one may leave out what has not changed."""
    events = streamed(message([{"type": "text", "text": "So."}], "end_turn"))
    interim = {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 30}}
    events[-2:-2] = [interim, interim]
    *_, last = folded(claude_fold(), sse(events, named=True))
    assert isinstance(last, Finished)
    assert last.reply.usage == CLAUDE_USAGE


def test_a_warming_answer_is_read() -> None:
    """`max_tokens: 0`: no content, no output, and usage with its iterations."""
    body = message([], "max_tokens", usage={**USAGE, "output_tokens": 0, "output_tokens_details": None})
    reply = parse_reply(json.dumps(body).encode(), OPUS, "req_1")
    assert (reply.parts, reply.finish_reason) == ((), FinishReason.MAX_TOKENS)
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5128, 0)


DIAGNOSES = [
    (None, "", None),
    ({"cache_miss_reason": None}, "", None),
    *(
        ({"cache_miss_reason": {"type": kind, "cache_missed_input_tokens": 70}}, kind, 70)
        for kind in ("model_changed", "system_changed", "tools_changed", "messages_changed")
    ),
    ({"cache_miss_reason": {"type": "previous_message_not_found"}}, "previous_message_not_found", None),
    ({"cache_miss_reason": {"type": "unavailable"}}, "unavailable", None),
]


@pytest.mark.parametrize(("diagnostics", "kind", "tokens"), DIAGNOSES)
def test_cache_diagnostics_are_read(diagnostics: Any, kind: str, tokens: int | None) -> None:
    """Whole, and in message_start of a stream."""
    body = message([{"type": "text", "text": "So."}], "end_turn", diagnostics=diagnostics)
    whole = parse_reply(json.dumps(body).encode(), OPUS, "req_1")
    assert (whole.cache_diagnostics, whole.cache_diagnostics_missed_tokens) == (kind, tokens)
    assert folded(claude_fold(), sse(streamed(body), named=True))[-1] == Finished(whole)


@pytest.mark.parametrize("reason", BLOCK_REASONS)
def test_a_blocked_prompt_is_a_refusal(reason: str) -> None:
    """HTTP 200 without candidates, whole and streamed; its input is counted."""
    body = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 9}}
    whole = read_gemini(body)
    assert (whole.finish_reason, whole.refusal_category, whole.parts) == (FinishReason.REFUSAL, reason, ())
    assert whole.usage is not None
    assert whole.usage.input_tokens == 9
    *_, last = folded(GeminiFold(FLASH, "req_1", "k"), sse([body], named=False))
    assert last == Finished(whole)


def test_an_error_event_after_http_200_is_that_error() -> None:
    """Both providers may fail in mid-stream; what came before is delivered."""
    events = streamed(message([{"type": "text", "text": "So."}], "end_turn"))[:5]
    events.append({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    state: Any = claude_fold()
    assert folded(state, sse(events, named=True))
    assert isinstance(state.fault, errors.UpstreamOverloaded)
    state = GeminiFold(FLASH, "", "k")
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    assert folded(state, sse([frame([{"text": "So"}]), error], named=False))
    assert isinstance(state.fault, errors.UpstreamOverloaded)


def test_a_stream_without_its_end_is_no_answer() -> None:
    """Neither without message_stop nor without a finish reason, whatever was said until then."""
    for state, data in (
        (
            claude_fold(),
            sse(streamed(message([{"type": "text", "text": "So."}], "end_turn"))[:-1], named=True),
        ),
        (GeminiFold(FLASH, "", "k"), sse([frame([{"text": "So"}], None, COUNTS)], named=False)),
    ):
        assert not any(isinstance(chunk, Finished) for chunk in folded(state, data))
        assert not state.done
        assert state.usage is not None
