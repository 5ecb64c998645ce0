"""An answer in the Gemini wire format: one response, or the frames of a stream (G-GEN, 2026-11).

Rule: both forms come from the same `Reply`. Text arrives as parts to append, a call whole in one part with
its id and (Gemini 3) thought signature, `usageMetadata` is cumulative in every frame and leaves counters of
0 out, `finishReason` is on the last frame only. Thinking is metered with the first frame, which reports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from router.sandbox.gemini_models import GeminiModel
from router.sandbox.replies import Call, Reply, Text, part_tokens
from router.sandbox.signatures import Thought, seal, subject
from router.sandbox.stream import Frame
from router.sandbox.tokens import Family, chunks, count
from router.sandbox.wire import Json, encode

_FINISH = {"end": "STOP", "tool": "STOP", "stop_sequence": "STOP", "max_tokens": "MAX_TOKENS"}
_CHUNK_WORDS = (6, 10, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything a response needs. `call_ids` are the ids of the reply's calls, in order."""

    response_id: str
    model: GeminiModel
    reply: Reply
    prompt_tokens: int
    prompt_by: dict[str, int]
    cached_tokens: int
    cached_by: dict[str, int] = field(default_factory=dict)
    include_thoughts: bool
    call_ids: tuple[str, ...]
    service_tier: str
    block_reason: str | None = None

    @property
    def finish_reason(self) -> str:
        """The wire's finish reason."""
        return _FINISH.get(self.reply.stop, self.reply.stop.upper())

    @property
    def candidate_tokens(self) -> int:
        """Output tokens without thinking."""
        return self.reply.output_tokens - self.reply.thinking_tokens


def response(answer: Answer) -> Json:
    """Return the unary response body."""
    if answer.block_reason is not None:
        return _blocked(answer)
    parts = _thought_parts(answer)
    calls = _call_parts(answer)
    for part in answer.reply.parts:
        parts.append({"text": part.text} if isinstance(part, Text) else next(calls))
    if answer.reply.thinking_tokens and parts and "text" in parts[-1] and not parts[-1].get("thought"):
        _sign_text(answer, parts[-1])
    return _frame(answer, parts, answer.candidate_tokens, answer.reply.thinking_tokens, last=True)


def frames(answer: Answer, *, sse: bool) -> list[Frame]:
    """Return the frames of a streamed answer; their tokens sum to the reply's output tokens."""
    if answer.block_reason is not None:
        return _encoded([(_blocked(answer), 0, 0)], sse=sse)
    steps: list[tuple[list[Json], int]] = []
    summary = _thought_parts(answer)
    if summary:
        steps.append((summary, 0))
    calls = _call_parts(answer)
    for part in answer.reply.parts:
        match part:
            case Text(text):
                steps += [([{"text": c}], count(Family.GEMINI, c)) for c in chunks(text, _CHUNK_WORDS)]
            case Call():
                steps.append(([next(calls)], part_tokens(Family.GEMINI, part)))
    final: Json = {"text": ""}
    if answer.reply.thinking_tokens and not answer.call_ids:
        _sign_text(answer, final)
    steps.append(([final], 0))
    rows: list[tuple[Json, int, int]] = []
    so_far, thinking = 0, answer.reply.thinking_tokens
    for i, (parts, tokens) in enumerate(steps):
        so_far += tokens
        body = _frame(answer, parts, so_far, thinking, last=i == len(steps) - 1)
        rows.append((body, tokens + (0 if i else thinking), 0 if i else thinking))
    return _encoded(rows, sse=sse)


def sse_frame(data: bytes) -> bytes:
    """Wrap JSON into one server-sent event."""
    return b"data: %b\r\n\r\n" % data


def _encoded(rows: list[tuple[Json, int, int]], *, sse: bool) -> list[Frame]:
    out = []
    for i, (body, tokens, thinking) in enumerate(rows):
        last = i == len(rows) - 1
        data = encode(body)
        data = sse_frame(data) if sse else (b"," if i else b"[") + data + (b"]" if last else b"\r\n")
        out.append(Frame(data, tokens, thinking, last=last))
    return out


def _thought_parts(answer: Answer) -> list[Json]:
    if not answer.include_thoughts or not answer.reply.thinking_text:
        return []
    return [{"text": answer.reply.thinking_text, "thought": True}]


def _call_parts(answer: Answer) -> Any:
    """Yield the reply's calls as parts; the first of the step carries the signature on Gemini 3."""
    ids = iter(answer.call_ids)
    for number, call in enumerate(p for p in answer.reply.parts if isinstance(p, Call)):
        body: Json = {"name": call.name, "args": call.args}
        if answer.model.signatures:
            body = {"id": next(ids), **body}
        part: Json = {"functionCall": body}
        if answer.model.signatures and number == 0:
            about = subject(call.name, call.args_json)
            part["thoughtSignature"] = seal(Thought(answer.model.id, answer.reply.thinking_tokens, about, ""))
        yield part


def _sign_text(answer: Answer, part: Json) -> None:
    part["thoughtSignature"] = seal(
        Thought(answer.model.id, answer.reply.thinking_tokens, subject("text"), "")
    )


def _frame(answer: Answer, parts: list[Json], candidates: int, thinking: int, *, last: bool) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": parts}}
    if not parts:
        candidate = {"content": {"role": "model"}}
    if last:
        candidate["finishReason"] = answer.finish_reason
    candidate["index"] = 0
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(answer, candidates, thinking),
        "modelVersion": answer.model.id,
        "responseId": answer.response_id,
    }


def _blocked(answer: Answer) -> Json:
    return {
        "promptFeedback": {"blockReason": answer.block_reason},
        "usageMetadata": _usage(answer, 0, 0),
        "modelVersion": answer.model.id,
        "responseId": answer.response_id,
    }


def _usage(answer: Answer, candidates: int, thinking: int) -> Json:
    counters = {
        "promptTokenCount": answer.prompt_tokens,
        "cachedContentTokenCount": answer.cached_tokens,
        "candidatesTokenCount": candidates,
        "thoughtsTokenCount": thinking,
        "totalTokenCount": answer.prompt_tokens + candidates + thinking,
    }
    out: Json = {k: v for k, v in counters.items() if v}
    out["promptTokensDetails"] = _details(answer.prompt_by)
    if answer.cached_by:
        out["cacheTokensDetails"] = _details(answer.cached_by)
    out["serviceTier"] = answer.service_tier
    return out


def _details(by: dict[str, int]) -> list[Json]:
    return [{"modality": k, "tokenCount": v} for k, v in by.items()]
