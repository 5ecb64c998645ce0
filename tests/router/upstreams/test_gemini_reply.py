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
from router.upstreams.gemini_reply import Answer, decode_frames, plain_reply
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
        (decoded,) = decode_frames(json.dumps(wire, indent=indent).encode())
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
    ("LANGUAGE", FinishReason.REFUSAL, "LANGUAGE"),
    ("NO_IMAGE", FinishReason.OTHER, ""),
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


def test_counts_of_earlier_frames_are_kept_and_not_complete() -> None:
    """The end came without a count, or with one that is none: the last usable one stands, as what it is."""
    lasts: list[dict[str, Any]] = [{}, {"usageMetadata": {}}, {"usageMetadata": {"candidatesTokenCount": 9}}]
    for last in lasts:
        state = fold()
        state.feed(sse(FRAMES[0], frame([{"text": "!"}], "STOP", **last)))
        state.finish()
        assert state.usage == Usage(input_tokens=10_000, output_tokens=1, thinking_tokens=0, complete=False)
    state = fold()
    state.feed(sse(frame([{"text": "!"}], "STOP"), {"usageMetadata": USAGE}))
    assert state.usage is not None
    assert (state.usage.input_tokens, state.usage.complete) == (10_007, True)


def test_what_cannot_be_read_after_the_end_does_not_matter() -> None:
    """The answer is whole and paid."""
    state = fold()
    chunks = state.feed(sse(*FRAMES) + b"data: [DONE]\r\n\r\ndata: \xff\r\n\r\n") + state.finish()
    assert state.fault is None
    assert isinstance(chunks[-1], Finished)


ERROR = {"error": {"code": "503", "status": "UNAVAILABLE", "message": None, "details": 5}}


@pytest.mark.parametrize("before", [b"", sse(FRAMES[0])])
@pytest.mark.parametrize(
    "body",
    [
        json.dumps(ERROR).encode(),
        json.dumps([ERROR], indent=2).encode(),
        json.dumps([ERROR], indent=2).encode() + b"\n",
        b"data: " + json.dumps([ERROR]).encode() + b"\r\n\r\n",
    ],
)
def test_an_error_is_itself_in_whatever_it_is_wrapped(before: bytes, body: bytes) -> None:
    """HTTP 200 with a JSON error as its body, alone or in an array, is that error."""
    state = fold()
    state.feed(before + body)
    state.finish()
    assert isinstance(state.fault, UpstreamOverloaded)


@pytest.mark.parametrize("name", ["default_api.search", "", "a:b", "ä"])
def test_a_call_of_no_tools_name_is_no_part(name: str) -> None:
    """Models make names up; Claude takes no dot in one, and no request of ours does: it could not go back."""
    reply = read(frame([{"functionCall": {"name": name, "args": {}}}, {"text": "x"}], "STOP"))
    assert (reply.parts, reply.finish_reason) == ((Text("x"),), FinishReason.MALFORMED)


def test_odd_fields_cost_nothing_but_themselves() -> None:
    """A paid answer is not lost for a null or a field of another kind that nobody needs."""
    odd = frame([{"text": "a", "thought": None, "inlineData": 5}, {"text": None}, 7], "STOP")  # type: ignore[list-item]
    odd |= {"modelVersion": 5, "responseId": None, "promptFeedback": "x"}
    odd["usageMetadata"] = {**USAGE, "promptTokenCount": "10000", "serviceTier": 3}
    reply = read(odd)
    assert (reply.parts, reply.model, reply.response_id) == ((Text("a"),), FLASH, "")
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.service_tier) == (10_007, None)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\ud83d", "\ude00b"], "a\U0001f600b"),
        (["\ud83d", "\ude00"], "\U0001f600"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a", "\ude00"], "a\ufffd"),
        (["a\ud83d"], "a\ufffd"),
    ],
)
def test_characters_cut_between_frames_are_joined(pieces: list[str], text: str) -> None:
    """Each half alone is unreadable to UTF-8; deltas and Reply agree."""
    state, chunks = fold(), list[Chunk]()
    for piece in pieces:
        chunks += state.feed(sse(frame([{"text": piece}])))
    chunks += state.feed(sse(frame([], "STOP"))) + state.finish()
    assert isinstance(chunks[-1], Finished)
    assert chunks[-1].reply.parts == (Text(text),)
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta)) == text


@pytest.mark.parametrize("data", [b'{"candidates":[{"finishReason":"\xff"}]}', b"[" * 100_000, b'"x"'])
def test_frames_that_are_no_text_are_faults(data: bytes) -> None:
    """Bytes that are not UTF-8, nested without end, or no object."""
    state = fold()
    state.feed(b"data: " + data + b"\n\n")
    assert isinstance(state.fault, UpstreamMalformed)


_WORDS = st.sampled_from(["", " ", "\n", "Done.", " so it is", "\ud83d", "x\udc00", "caf\u00e9 \U0001f600"])
_PARTS = st.fixed_dictionaries(
    {},
    optional={
        "text": _WORDS,
        "thought": st.booleans(),
        "thoughtSignature": st.sampled_from(["", "sig"]),
        "functionCall": st.just({"name": "look", "args": {"a": 1}}),
    },
)
_USAGE = st.fixed_dictionaries(
    {},
    optional={
        "promptTokenCount": st.integers(0, 50),
        "cachedContentTokenCount": st.integers(0, 60),
        "candidatesTokenCount": st.integers(0, 50),
        "thoughtsTokenCount": st.integers(0, 5),
    },
)
_CANDIDATES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "content": st.fixed_dictionaries({}, optional={"parts": st.lists(_PARTS, max_size=2)}),
            "finishReason": st.sampled_from(
                ["STOP", "MAX_TOKENS", "SAFETY", "MALFORMED_RESPONSE", "NEW", ""]
            ),
        },
    ),
    max_size=2,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "candidates": _CANDIDATES,
            "usageMetadata": _USAGE,
            "modelVersion": st.sampled_from(["", "gemini-3.8-flash-001"]),
            "responseId": st.sampled_from(["", "r-1"]),
            "promptFeedback": st.sampled_from([{}, {"blockReason": "SAFETY"}]),
        },
    )
)
def test_a_plain_answer_reads_as_any_other(wire: dict[str, Any]) -> None:
    """The short way is one for answers it is sure of, and gives for them what the long way gives."""
    (frame,) = decode_frames(json.dumps(wire).encode())
    plain = plain_reply(frame, "gemini-3.8-flash", "req")
    answer = Answer("gemini-3.8-flash", "req")
    answer.take_facts(frame)
    answer.take_parts(frame, [])
    answer.end_text([])
    assert plain is None or plain == answer.reply()


def test_the_commonest_answer_takes_the_short_way() -> None:
    """One text, an end and counts."""
    (frame,) = decode_frames(
        b'{"candidates":[{"content":{"parts":[{"text":"Done."}]},"finishReason":"STOP"}],'
        b'"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2}}'
    )
    reply = plain_reply(frame, "gemini-3.8-flash", "")
    assert reply is not None
    assert (reply.parts, reply.finish_reason) == ((Text("Done."),), FinishReason.END_TURN)
    assert reply.usage == Usage(input_tokens=9, output_tokens=2, thinking_tokens=0)
