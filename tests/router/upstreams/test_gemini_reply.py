"""Gemini's answers, whole and streamed, become the same Reply with inclusive usage."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import FinishReason, Text, Thinking, ToolCall
from router.errors import UpstreamMalformed, UpstreamOverloaded
from router.reply import Chunk, Finished, Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.upstreams.gemini_reply import Answer, decode_frame
from router.upstreams.gemini_stream import GeminiFold
from router.usage import Usage
from tests.router.upstreams.samples import FLASH

USAGE: dict[str, Any] = {
    "promptTokenCount": 10_000,
    "cachedContentTokenCount": 8_000,
    "candidatesTokenCount": 200,
    "thoughtsTokenCount": 300,
    "toolUsePromptTokenCount": 7,
    "totalTokenCount": 10_507,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10_000}],
    "serviceTier": "standard",
}
PARTS: list[dict[str, Any]] = [
    {"text": "Hm, ", "thought": True},
    {"text": "yes.", "thought": True},
    {"text": "Grü"},
    {"text": "ße"},
    {"text": "", "thoughtSignature": "c2ln"},
    {"executableCode": {"code": "1"}},
    {"text": "More."},
    {
        "functionCall": {"id": "fc1", "name": "search", "args": {"q": "a", "n": 1.0}},
        "thoughtSignature": "ZnVu",
    },
    {"functionCall": {"name": "now"}},
]
ENVELOPE: dict[str, Any] = {"modelVersion": "gemini-3.8-flash-002", "responseId": "resp_1"}


def frame(parts: list[dict[str, Any]], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": parts},
        "index": 0,
        "safetyRatings": [],
    }
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **ENVELOPE, **fields}


def read(*frames: dict[str, Any], indent: int | None = None) -> Reply:
    answer = Answer(FLASH, "req_1")
    for wire in frames:
        decoded = decode_frame(json.dumps(wire, indent=indent).encode())
        answer.take_facts(decoded)
        answer.take_parts(decoded, [])
    return answer.reply()


def test_whole_answer_is_read() -> None:
    """Prompt counts include the cached part already; thoughts are output; text joins until it is signed."""
    reply = read(frame(PARTS, "STOP", usageMetadata=USAGE), indent=2)
    made_id = reply.parts[-1].id if isinstance(reply.parts[-1], ToolCall) else ""
    assert made_id.startswith("call_")
    assert reply == Reply(
        parts=(
            Thinking(FLASH, "Hm, yes.", ""),
            Text("Grüße", "c2ln", FLASH),
            Text("More."),
            ToolCall("fc1", "search", '{"q":"a","n":1.0}', "ZnVu", FLASH),
            ToolCall(made_id, "now", "{}", "", FLASH),
        ),
        finish_reason=FinishReason.TOOL_CALL,
        usage=Usage(
            input_tokens=10_007,
            cache_read_tokens=8_000,
            output_tokens=500,
            thinking_tokens=300,
            service_tier="standard",
        ),
        model="gemini-3.8-flash-002",
        response_id="resp_1",
        upstream_request_id="req_1",
    )


def test_counts_left_out_are_zero_and_counts_unknown_are_none() -> None:
    """Zero counters are omitted on the wire; without a prompt count nothing is known."""
    counted = read(frame(PARTS, "STOP", usageMetadata={"promptTokenCount": 5})).usage
    assert counted == Usage(input_tokens=5, thinking_tokens=0)
    assert read(frame(PARTS, "STOP", usageMetadata={})).usage is None
    assert read(frame(PARTS, "STOP")).usage is None
    contradiction = {"promptTokenCount": 5, "cachedContentTokenCount": 6}
    assert read(frame(PARTS, "STOP", usageMetadata=contradiction)).usage is None


FINISHES = [
    ("STOP", FinishReason.END_TURN, ""),
    ("MAX_TOKENS", FinishReason.MAX_TOKENS, ""),
    ("SAFETY", FinishReason.REFUSAL, "SAFETY"),
    ("RECITATION", FinishReason.REFUSAL, "RECITATION"),
    ("MALFORMED_FUNCTION_CALL", FinishReason.MALFORMED, ""),
    ("CONTINUATION", FinishReason.PAUSED, ""),
    ("LANGUAGE", FinishReason.OTHER, ""),
    ("A_NEW_REASON", FinishReason.OTHER, ""),
]


@pytest.mark.parametrize(("wire", "reason", "category"), FINISHES)
def test_finish_reasons_have_one_meaning(wire: str, reason: FinishReason, category: str) -> None:
    """New values must be tolerated; filters are refusals with the provider's own word."""
    reply = read(frame([{"text": "a"}], wire))
    assert (reply.finish_reason, reply.refusal_category) == (reason, category)


def test_blocked_prompt_is_a_refusal() -> None:
    """It comes with HTTP 200 and no candidates, and its input is counted."""
    reply = read({"promptFeedback": {"blockReason": "JAILBREAK"}, "usageMetadata": {"promptTokenCount": 9}})
    assert (reply.finish_reason, reply.refusal_category, reply.parts) == (
        FinishReason.REFUSAL,
        "JAILBREAK",
        (),
    )
    assert reply.usage is not None
    assert reply.usage.complete


def sse(*frames: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(wire).encode() + b"\r\n\r\n" for wire in frames)


FRAMES = [
    *(
        frame([part], usageMetadata={"promptTokenCount": 10_000, "candidatesTokenCount": at})
        for at, part in enumerate(PARTS[:-1], 1)
    ),
    frame([PARTS[-1]], "STOP", usageMetadata=USAGE),
]


def fold() -> GeminiFold:
    return GeminiFold(FLASH, "req_1", "sk-secret")


@given(st.lists(st.integers(0, 4000), max_size=30))
def test_streamed_answer_equals_the_whole_one(cuts: list[int]) -> None:
    """However the bytes are cut, the Reply is the same, and the deltas add up to its parts."""
    stream, state, chunks = sse(*FRAMES), fold(), list[Chunk]()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        chunks += state.feed(stream[start:end])
    chunks += state.finish()
    whole = read(frame(PARTS, "STOP", usageMetadata=USAGE))
    assert isinstance(chunks[0], Started)
    assert chunks[-1] == Finished(whole)
    texts: dict[int, str] = {}
    for chunk in chunks:
        if isinstance(chunk, TextDelta | ThinkingDelta):
            texts[chunk.index] = texts.get(chunk.index, "") + chunk.text
        elif isinstance(chunk, ToolCallDelta):
            texts[chunk.index] = chunk.arguments_json
    assert list(texts.values()) == [
        getattr(p, "text", "") or getattr(p, "arguments_json", "") for p in whole.parts
    ]
    assert list(texts) == sorted(texts)


def test_what_arrives_together_goes_on_together() -> None:
    """Texts of one read are joined; their count is told once, ahead of them, with how many it includes."""
    state = fold()
    chunks = state.feed(sse(*FRAMES[:4]))
    assert [type(chunk) for chunk in chunks] == [Started, UsageSeen, ThinkingDelta, TextDelta]
    assert chunks[3] == TextDelta(1, "Grüße")
    counted = Usage(input_tokens=10_000, output_tokens=4, thinking_tokens=0, complete=False)
    assert chunks[1] == UsageSeen(counted, included_delta_count=2)


def test_last_usage_counts_and_is_final_with_the_finish_reason() -> None:
    """Frames replace each other's counts."""
    state = fold()
    state.feed(sse(*FRAMES))
    assert state.usage is not None
    assert (state.usage.input_tokens, state.usage.complete) == (10_007, True)


def test_end_without_reason_is_not_an_answer() -> None:
    """There is no end event, so only a finish reason makes it whole."""
    state = fold()
    state.feed(sse(*FRAMES[:-1]))
    assert state.finish() == []
    assert not state.done


def test_error_frame_comes_after_what_preceded_it() -> None:
    """What arrived in the same read is delivered first."""
    state = fold()
    error = {
        "error": {"code": 503, "status": "UNAVAILABLE", "message": "overloaded sk-secret", "details": [{}]}
    }
    chunks = state.feed(sse(FRAMES[0], error, FRAMES[1]))
    assert [type(chunk) for chunk in chunks] == [Started, UsageSeen, ThinkingDelta]
    assert isinstance(state.fault, UpstreamOverloaded)
    assert "sk-secret" not in str(state.fault)
    assert state.finish() == []


def test_broken_json_is_a_fault() -> None:
    """Guessing on would bill and deliver nonsense."""
    state = fold()
    state.feed(b"data: {oops\r\n\r\n")
    assert isinstance(state.fault, UpstreamMalformed)


def test_made_ids_are_stable_and_distinct() -> None:
    """A call the provider left unnamed gets the same id on replay, and another for each place and answer."""

    def ids(response_id: str) -> list[str]:
        wire = frame([{"functionCall": {"name": "f"}}] * 2, "STOP")
        parts = read({**wire, "responseId": response_id}).parts
        return [part.id for part in parts if isinstance(part, ToolCall)]

    assert ids("a") == ids("a")
    assert len({*ids("a"), *ids("b")}) == 4
