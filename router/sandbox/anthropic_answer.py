"""An answer in the Anthropic wire format: one message, or the events of a stream (A-STREAM, A-SDK; 2026-11).

Rule: both forms come from the same `Reply`, so the streamed text, input JSON and usage add up to the unary
ones. A text is streamed in chunks cut at white space, an input one key at a time after an empty first
piece. Thinking is metered where the stream reports it: with `interim_usage` at the cumulative
`message_delta` that follows the block, else at the signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.sandbox.anthropic_cache import CacheOutcome
from router.sandbox.replies import Call, Reply, Text
from router.sandbox.signatures import Thought, seal, subject
from router.sandbox.stream import Frame
from router.sandbox.tokens import Family, chunks, count
from router.sandbox.wire import Json, encode

_STOP = {"end": "end_turn", "tool": "tool_use"}
_CHUNK_WORDS = (3, 6, 4, 8, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything a response needs. `tool_ids` are the ids of the reply's calls, in order."""

    message_id: str
    model: str
    family: Family
    reply: Reply
    cache: CacheOutcome
    context: str
    summarized: bool
    prewarm: bool
    tool_ids: tuple[str, ...]
    diagnostics: Json | None
    inference_geo: str
    speed: str

    @property
    def output_tokens(self) -> int:
        """Billed output: at least one token, none for a pre-warm or a refusal without output."""
        if self.prewarm or (self.stop_reason == "refusal" and not self.reply.output_tokens):
            return 0
        return max(1, self.reply.output_tokens)

    @property
    def stop_reason(self) -> str:
        """The wire's stop reason."""
        return _STOP.get(self.reply.stop, self.reply.stop)

    @property
    def signature(self) -> str | None:
        """Signature of the thinking block, or None when there was no thinking."""
        if not self.reply.thinking_tokens:
            return None
        about = subject(self.shown_thinking)
        return seal(Thought(self.model, self.reply.thinking_tokens, about, self.context))

    @property
    def shown_thinking(self) -> str:
        """The thinking text the client sees."""
        return self.reply.thinking_text if self.summarized else ""


def message(answer: Answer) -> Json:
    """Return the unary response body."""
    content: list[Json] = []
    if answer.signature is not None:
        content.append({"type": "thinking", "thinking": answer.shown_thinking, "signature": answer.signature})
    ids = iter(answer.tool_ids)
    for part in answer.reply.parts:
        match part:
            case Text(text):
                content.append({"type": "text", "text": text, "citations": None})
            case Call(name, args):
                content.append({"type": "tool_use", "id": next(ids), "name": name, "input": args})
    usage = _usage(answer, answer.output_tokens, answer.reply.thinking_tokens)
    if answer.prewarm:
        counters = {k: v for k, v in usage.items() if k.endswith("_tokens") or k == "cache_creation"}
        usage["iterations"] = [{"type": "message", **counters}]
    return {**_envelope(answer, usage), "content": content, **_stop(answer)}


def frames(answer: Answer, *, interim_usage: bool) -> list[Frame]:
    """Return the events of a streamed answer; their tokens sum to the reply's output tokens."""
    out = [
        _event(
            "message_start",
            {"message": {**_envelope(answer, _usage(answer, 1, 0)), "content": [], **_not_stopped()}},
        ),
        _event("ping", {}),
    ]
    index = 0
    if answer.signature is not None:
        out += _thinking_frames(answer, interim_usage=interim_usage)
        index = 1
    ids = iter(answer.tool_ids)
    for part in answer.reply.parts:
        match part:
            case Text(text):
                out += _text_frames(answer, index, text)
            case Call():
                out += _call_frames(answer, index, part, next(ids))
        index += 1
    out.append(_event("message_delta", _delta(answer, answer.output_tokens, _stop(answer))))
    out.append(Frame(_sse("message_stop", {"type": "message_stop"}), last=True))
    return out


def sse(kind: str, data: Json) -> bytes:
    """Return one server-sent event; `data` carries its own type."""
    return _sse(kind, data)


def _thinking_frames(answer: Answer, *, interim_usage: bool) -> list[Frame]:
    tokens = answer.reply.thinking_tokens
    block = {"type": "thinking", "thinking": "", "signature": ""}
    out = [_event("content_block_start", {"index": 0, "content_block": block})]
    shown = chunks(answer.shown_thinking, _CHUNK_WORDS)
    out += [_block_delta(0, {"type": "thinking_delta", "thinking": piece}) for piece in shown]
    metered_now = 0 if interim_usage else tokens
    signed = {"type": "signature_delta", "signature": answer.signature}
    out.append(_block_delta(0, signed, metered_now, metered_now))
    out.append(_event("content_block_stop", {"index": 0}))
    if interim_usage:
        data = _delta(answer, tokens, {"stop_reason": None, "stop_sequence": None, "stop_details": None})
        out.append(_event("message_delta", data, tokens, tokens))
    return out


def _text_frames(answer: Answer, index: int, text: str) -> list[Frame]:
    out = [_event("content_block_start", {"index": index, "content_block": {"type": "text", "text": ""}})]
    out += [
        _block_delta(index, {"type": "text_delta", "text": piece}, count(answer.family, piece))
        for piece in chunks(text, _CHUNK_WORDS)
    ]
    out.append(_event("content_block_stop", {"index": index}))
    return out


def _call_frames(answer: Answer, index: int, call: Call, call_id: str) -> list[Frame]:
    block = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
    name_tokens = count(answer.family, call.name)
    out = [_event("content_block_start", {"index": index, "content_block": block}, name_tokens)]
    for piece in ("", *json_pieces(call.args)):
        delta = {"type": "input_json_delta", "partial_json": piece}
        out.append(_block_delta(index, delta, count(answer.family, piece)))
    out.append(_event("content_block_stop", {"index": index}))
    return out


def json_pieces(args: Json) -> list[str]:
    """Cut the compact JSON of an object into one piece per key; every border is punctuation."""
    if not args:
        return ["{}"]
    pieces = [f"{encode(key).decode()}:{encode(value).decode()}" for key, value in args.items()]
    return ["{" + pieces[0], *("," + p for p in pieces[1:]), "}"]


def _envelope(answer: Answer, usage: Json) -> Json:
    return {
        "id": answer.message_id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "diagnostics": answer.diagnostics,
        "usage": usage,
    }


def _not_stopped() -> Json:
    return {"stop_reason": None, "stop_sequence": None, "stop_details": None}


def _stop(answer: Answer) -> Json:
    details = None
    if answer.stop_reason == "refusal":
        details = {"type": "refusal", "category": None, "explanation": None}
    return {
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.reply.stop_sequence,
        "stop_details": details,
    }


def _usage(answer: Answer, output_tokens: int, thinking_tokens: int) -> Json:
    cache = answer.cache
    return {
        "input_tokens": cache.uncached_tokens,
        "cache_creation_input_tokens": cache.write_5m_tokens + cache.write_1h_tokens,
        "cache_read_input_tokens": cache.read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": cache.write_5m_tokens,
            "ephemeral_1h_input_tokens": cache.write_1h_tokens,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": answer.inference_geo,
        "speed": answer.speed,
    }


def _delta(answer: Answer, output_tokens: int, delta: Json) -> Json:
    cache = answer.cache
    return {
        "delta": delta,
        "usage": {
            "input_tokens": cache.uncached_tokens,
            "cache_creation_input_tokens": cache.write_5m_tokens + cache.write_1h_tokens,
            "cache_read_input_tokens": cache.read_tokens,
            "output_tokens": output_tokens,
            "output_tokens_details": {"thinking_tokens": answer.reply.thinking_tokens},
            "server_tool_use": None,
        },
    }


def _block_delta(index: int, delta: Json, output_tokens: int = 0, thinking_tokens: int = 0) -> Frame:
    return _event("content_block_delta", {"index": index, "delta": delta}, output_tokens, thinking_tokens)


def _event(kind: str, data: dict[str, Any], output_tokens: int = 0, thinking_tokens: int = 0) -> Frame:
    return Frame(_sse(kind, {"type": kind, **data}), output_tokens, thinking_tokens)


def _sse(kind: str, data: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(data))
