"""The public wire shapes of both APIs, spelled by hand from their documentation (2026-11): what decoders must read.

Anthropic: A-STREAM, A-STOP, A-TOOLS, A-THINK, A-SDK. Gemini: G-GEN, G-SIG, G-FC. Each is a whole answer as one body
and as a stream; the two say the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from router.call import FinishReason, Part, Text, Thinking, ToolCall
from tests.contract.cases import FLASH, OPUS

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One answer on the wire.

    Attributes:
        body: The unary response.
        events: The streamed one, JSON of each event or frame.
        parts: What it says, in our words.
        back: Blocks or parts in which the next request must hold it, None for the answer's own.
    """

    name: str
    body: Json
    events: Sequence[Json]
    parts: tuple[Part, ...]
    finish: FinishReason
    back: Sequence[Json]
    facts: Json = field(default_factory=dict)


def sse(events: Sequence[Json], *, named: bool) -> bytes:
    """Events as bytes: Anthropic names them and ends lines with LF, Gemini does neither."""
    if named:
        return b"".join(
            b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events
        )
    return b"".join(b"data: %b\r\n\r\n" % json.dumps(e).encode() for e in events)


USAGE: Json = {
    "input_tokens": 8,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 5120,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 42,
    "output_tokens_details": {"thinking_tokens": 20},
    "server_tool_use": None,
    "service_tier": "standard",
    "inference_geo": "global",
    "speed": "standard",
}


def message(content: list[Json], stop_reason: str | None, **fields: Any) -> Json:
    """A Message."""
    return {
        "id": "msg_01A",
        "type": "message",
        "role": "assistant",
        "model": OPUS,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "diagnostics": None,
        "usage": {**USAGE, "iterations": [{"type": "message", "input_tokens": 8}]},
        **fields,
    }


def _deltas(block: Json, pieces: int) -> list[Json]:
    """The deltas of one content block."""
    match block["type"]:
        case "text":
            name, whole = "text", block["text"]
        case "tool_use":
            name, whole = "partial_json", json.dumps(block["input"], separators=(",", ":"))
        case _:
            name, whole = "thinking", block.get("thinking", "")
    kind = {"text": "text_delta", "partial_json": "input_json_delta", "thinking": "thinking_delta"}[name]
    size = max(1, -(-len(whole) // pieces))
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    deltas = [{"type": kind, name: piece} for piece in (["", *cut] if name == "partial_json" else cut)]
    if block.get("signature"):
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    return deltas


_EMPTY: Json = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def streamed(whole: Json, pieces: int = 3, extra: Sequence[Json] = ()) -> list[Json]:
    """The documented sequence of events for a Message; `extra` events come after the first block opens."""
    start = {
        **whole,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {**USAGE, "output_tokens": 1, "output_tokens_details": None},
    }
    events: list[Json] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(whole["content"]):
        opened = {k: v for k, v in block.items() if k != "citations"} | _EMPTY.get(block["type"], {})
        events.append({"type": "content_block_start", "index": index, "content_block": opened})
        events += extra if not index else ()
        if block["type"] in _EMPTY:
            events += [
                {"type": "content_block_delta", "index": index, "delta": delta}
                for delta in _deltas(block, pieces)
            ]
        events.append({"type": "content_block_stop", "index": index})
    names = ("stop_reason", "stop_sequence", "stop_details", "container")
    events.append(
        {
            "type": "message_delta",
            "delta": {name: whole[name] for name in names},
            "usage": {"output_tokens": 42, "output_tokens_details": {"thinking_tokens": 20}},
        }
    )
    return [*events, {"type": "message_stop"}]


def _shape(
    name: str,
    content: list[Json],
    stop: str,
    finish: FinishReason,
    parts: tuple[Part, ...],
    *,
    back: Sequence[Json] | None = None,
    facts: Json | None = None,
    extra: Sequence[Json] = (),
    **fields: Any,
) -> Shape:
    whole = message(content, stop, **fields)
    kept = [{k: v for k, v in block.items() if k != "citations"} for block in content]
    return Shape(
        name=name,
        body=whole,
        events=streamed(whole, extra=extra),
        parts=parts,
        finish=finish,
        back=kept if back is None else back,
        facts=facts or {},
    )


def _text(text: str) -> Json:
    return {"type": "text", "text": text, "citations": None}


def _use(call_id: str, name: str = "search", **args: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": args}


_SILENT: Json = {"type": "thinking", "thinking": "", "signature": "EqQBsilent=="}
_SHOWN: Json = {"type": "thinking", "thinking": "Let me see, ünïcödé 🦊.", "signature": "EqQBshown=="}
_REDACTED: Json = {"type": "redacted_thinking", "data": "EmwKAopaque=="}
_SERVER: Json = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
_FOUND: Json = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
_CITED: Json = {
    "type": "text",
    "text": "Oslo is wet.",
    "citations": [{"type": "char_location", "cited_text": "wet", "document_index": 0, "start_char_index": 0}],
}
_CITATION: Json = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "wet"}},
}
_ODD: tuple[Json, ...] = (
    {"type": "an_event_of_next_year", "index": 0, "delta": {"type": "text_delta", "text": "no"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "aura_delta", "aura": "blue"}},
    {"type": "ping", "hello": [1]},
)
_END, _CALL, _REFUSED = FinishReason.END_TURN, FinishReason.TOOL_CALL, FinishReason.REFUSAL
_A, _B = (
    ToolCall("toolu_01A", "search", '{"q":"a","n":[1,2.5,null]}', model=OPUS),
    ToolCall("toolu_01B", "now", "{}", model=OPUS),
)
_USE_A, _USE_B = _use("toolu_01A", q="a", n=[1, 2.5, None]), _use("toolu_01B", "now")
_THOUGHT = Thinking(OPUS, "", "EqQBsilent==")

ANTHROPIC = [
    _shape("a text", [_text("Grüße.")], "end_turn", _END, (Text("Grüße."),)),
    _shape(
        "a text with citations keeps its words",
        [_CITED],
        "end_turn",
        _END,
        (Text("Oslo is wet."),),
        extra=(_CITATION,),
    ),
    _shape(
        "thinking that is not shown",
        [_SILENT, _text("So.")],
        "end_turn",
        _END,
        (_THOUGHT, Text("So.")),
    ),
    _shape(
        "thinking that is summarised",
        [_SHOWN, _text("So.")],
        "end_turn",
        _END,
        (Thinking(OPUS, "Let me see, ünïcödé 🦊.", "EqQBshown=="), Text("So.")),
    ),
    _shape(
        "thinking that is encrypted",
        [_REDACTED, _SILENT, _text("So.")],
        "end_turn",
        _END,
        (Thinking(OPUS, "", "EmwKAopaque==", redacted=True), _THOUGHT, Text("So.")),
    ),
    _shape(
        "parallel calls after thinking",
        [_SILENT, _text("Both."), _USE_A, _USE_B],
        "tool_use",
        _CALL,
        (_THOUGHT, Text("Both."), _A, _B),
    ),
    _shape(
        "thinking between calls",
        [_SILENT, _USE_A, _SHOWN, _USE_B],
        "tool_use",
        _CALL,
        (_THOUGHT, _A, Thinking(OPUS, "Let me see, ünïcödé 🦊.", "EqQBshown=="), _B),
    ),
    _shape(
        "a stop sequence",
        [_text("one two")],
        "stop_sequence",
        FinishReason.STOP_SEQUENCE,
        (Text("one two"),),
        stop_sequence="three",
        facts={"stop_sequence": "three"},
    ),
    *(
        _shape(f"stopped for {stop}", [_text("So")], stop, finish, (Text("So"),))
        for stop, finish in (
            ("max_tokens", FinishReason.MAX_TOKENS),
            ("pause_turn", FinishReason.PAUSED),
            ("model_context_window_exceeded", FinishReason.CONTEXT_WINDOW),
            ("bored_now", FinishReason.OTHER),
        )
    ),
    *(
        _shape(
            f"a refusal of category {category}",
            [_text("I")] if category else [],
            "refusal",
            _REFUSED,
            (Text("I"),) if category else (),
            stop_details={"type": "refusal", "category": category, "explanation": "not to be told"},
            facts={"refusal_category": category or ""},
        )
        for category in ("cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms", None)
    ),
    _shape(
        "events, deltas and fields of next year",
        [{**_text("So."), "mood": 1}],
        "end_turn",
        _END,
        (Text("So."),),
        back=[{"type": "text", "text": "So."}],
        extra=_ODD,
        container={"id": "c"},
        horoscope="fair",
    ),
    _shape(
        "blocks of server tools and of next year are passed over",
        [_SERVER, _FOUND, {"type": "aura", "aura": "blue"}, _text("So.")],
        "end_turn",
        _END,
        (Text("So."),),
        back=[{"type": "text", "text": "So."}],
    ),
    _shape(
        "blank text is no part",
        [_text("\n\n"), _SILENT, _text("\n\nSo."), _USE_A],
        "tool_use",
        _CALL,
        (_THOUGHT, Text("\n\nSo."), _A),
        back=[_SILENT, {"type": "text", "text": "\n\nSo."}, _USE_A],
    ),
]

COUNTS: Json = {
    "promptTokenCount": 10_000,
    "cachedContentTokenCount": 8_000,
    "candidatesTokenCount": 200,
    "thoughtsTokenCount": 300,
    "totalTokenCount": 10_500,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 10_000}],
    "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 8_000}],
    "serviceTier": "standard",
}
_SIGN = "CqsBc2lnbmVk"


def frame(
    parts: list[Json] | None, finish: str | None = None, counts: Json | None = None, **fields: Any
) -> Json:
    """A GenerateContentResponse."""
    candidate: Json = {"content": {"role": "model"}, "index": 0}
    if parts is not None:
        candidate["content"] = {"role": "model", "parts": parts}
    if finish:
        candidate |= {"finishReason": finish, "safetyRatings": []}
    found: Json = {"candidates": [candidate], "modelVersion": FLASH, "responseId": "resp_1", **fields}
    return found if counts is None else {**found, "usageMetadata": counts}


def _gemini(
    name: str,
    parts: list[Json],
    finish: str,
    ours: FinishReason,
    said: tuple[Part, ...],
    *,
    frames: list[list[Json]] | None = None,
    back: Sequence[Json] | None = None,
    facts: Json | None = None,
    **fields: Any,
) -> Shape:
    early = {"promptTokenCount": 10_000, "cachedContentTokenCount": 8_000, "totalTokenCount": 10_000}
    cut = [[part] for part in parts] if frames is None else frames
    return Shape(
        name=name,
        body=frame(parts, finish, COUNTS, **fields),
        events=[*(frame(some, None, early) for some in cut), frame([{"text": ""}], finish, COUNTS, **fields)],
        parts=said,
        finish=ours,
        back=parts if back is None else back,
        facts=facts or {},
    )


def _fc(call_id: str, name: str = "search", **args: Any) -> Json:
    return {"functionCall": {"id": call_id, "name": name, "args": args}}


_FC_A = {**_fc("fc-a", q="a", n=[1, 2.5, None]), "thoughtSignature": _SIGN}
_CALL_A = ToolCall("fc-a", "search", '{"q":"a","n":[1,2.5,null]}', _SIGN, FLASH)
_CALL_B = ToolCall("fc-b", "now", "{}", "", FLASH)
_SUMMARY: Json = {"text": "Let me see.", "thought": True}
_REASONS = {
    "MAX_TOKENS": FinishReason.MAX_TOKENS,
    "CONTINUATION": FinishReason.PAUSED,
    **dict.fromkeys(
        [
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "ESCALATION",
            "MODEL_ARMOR",
            "PUP_LIMITED_DISABLED",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
        ],
        _REFUSED,
    ),
    **dict.fromkeys(
        [
            "MALFORMED_FUNCTION_CALL",
            "UNEXPECTED_TOOL_CALL",
            "TOO_MANY_TOOL_CALLS",
            "MISSING_THOUGHT_SIGNATURE",
            "MALFORMED_RESPONSE",
        ],
        FinishReason.MALFORMED,
    ),
    **dict.fromkeys(["OTHER", "NO_IMAGE", "IMAGE_OTHER", "BORED_NOW"], FinishReason.OTHER),
}

GEMINI = [
    _gemini(
        "a text in pieces",
        [{"text": "Grüße, Ann."}],
        "STOP",
        _END,
        (Text("Grüße, Ann."),),
        frames=[[{"text": "Grü"}], [{"text": "ße"}, {"text": ", "}], [{"text": "Ann."}]],
    ),
    _gemini(
        "a signature on the last text",
        [{"text": "So.", "thoughtSignature": _SIGN}],
        "STOP",
        _END,
        (Text("So.", _SIGN, FLASH),),
        frames=[[{"text": "S"}], [{"text": "o."}], [{"text": "", "thoughtSignature": _SIGN}]],
    ),
    _gemini(
        "a summary of thinking is for people",
        [_SUMMARY, {"text": "So.", "thoughtSignature": _SIGN}],
        "STOP",
        _END,
        (Thinking(FLASH, "Let me see.", ""), Text("So.", _SIGN, FLASH)),
        back=[{"text": "So.", "thoughtSignature": _SIGN}],
    ),
    _gemini(
        "parallel calls, signed on the first",
        [_FC_A, _fc("fc-b", "now")],
        "STOP",
        _CALL,
        (_CALL_A, _CALL_B),
    ),
    _gemini(
        "words, then a call",
        [{"text": "Looking."}, _FC_A],
        "STOP",
        _CALL,
        (Text("Looking."), _CALL_A),
    ),
    _gemini(
        "signed words, then a call, then a signature on nothing",
        [
            {"text": "Looking.", "thoughtSignature": "CqsBdGV4dA=="},
            _FC_A,
            {"text": "", "thoughtSignature": "CqsBZW5k"},
        ],
        "STOP",
        _CALL,
        (Text("Looking.", "CqsBdGV4dA==", FLASH), _CALL_A, Text("", "CqsBZW5k", FLASH)),
    ),
    _gemini(
        "parts and fields of next year are passed over",
        [
            {"executableCode": {"language": "PYTHON", "code": "1"}},
            {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
            {"text": "So.", "mood": {"a": 1}},
        ],
        "STOP",
        _END,
        (Text("So."),),
        back=[{"text": "So."}],
        horoscope="fair",
    ),
    _gemini(
        "citations and grounding are left out",
        [{"text": "Oslo is wet."}],
        "STOP",
        _END,
        (Text("Oslo is wet."),),
        promptFeedback={"safetyRatings": []},
    ),
    _gemini(
        "blank text is no part",
        [{"text": "\n"}, _FC_A],
        "STOP",
        _CALL,
        (_CALL_A,),
        back=[_FC_A],
    ),
    *(
        _gemini(
            f"finished for {reason}",
            [{"text": "So"}],
            reason,
            ours,
            (Text("So"),),
            facts={"refusal_category": reason if ours is _REFUSED else ""},
        )
        for reason, ours in _REASONS.items()
    ),
]
BLOCK_REASONS = [
    "SAFETY",
    "OTHER",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "IMAGE_SAFETY",
    "JAILBREAK",
    "MODEL_ARMOR",
]
