"""An answer of Gemini's generateContent: its frames, whole or streamed, become parts, usage and a Reply.

The rule: one way of reading for both, because a streamed frame has the shape of a whole answer. Counts replace, never
add, and only usable ones do; `promptTokenCount` already includes the cached part, thoughts are output beside the
candidates, and the tool-use prompt is input beside the prompt (G-GEN, G-PRICE, 2026-11). Unknown parts, fields and
reasons never fail.

Adjacent text pieces are one part until a signature closes it, so a streamed answer and a whole one give equal
parts. Unsigned blank text is no part, nor is a call without an object of arguments or of a name that no tool can have:
no request may hold them, and an answer must go back as it came. A Reply's parts carry the id that was asked for, its
`model` the id that answered.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import msgspec

from router.call import FinishReason, Message, Part, Text, Thinking, ToolCall
from router.reply import Chunk, Reply, TextDelta, ThinkingDelta, ToolCallDelta
from router.tool_schema import is_tool_name
from router.upstreams.conversation import CallIds, is_blank
from router.upstreams.parameters import compact
from router.upstreams.wire import LOST, MAX_COUNT, WireObject, fitted, is_half, loads, seamed
from router.usage import Usage

FINISH = {
    "STOP": FinishReason.END_TURN,
    "MAX_TOKENS": FinishReason.MAX_TOKENS,
    "CONTINUATION": FinishReason.PAUSED,
    "SAFETY": FinishReason.REFUSAL,
    "RECITATION": FinishReason.REFUSAL,
    "BLOCKLIST": FinishReason.REFUSAL,
    "PROHIBITED_CONTENT": FinishReason.REFUSAL,
    "SPII": FinishReason.REFUSAL,
    "MODEL_ARMOR": FinishReason.REFUSAL,
    "LANGUAGE": FinishReason.REFUSAL,
    "ESCALATION": FinishReason.REFUSAL,
    "PUP_LIMITED_DISABLED": FinishReason.REFUSAL,
    "IMAGE_SAFETY": FinishReason.REFUSAL,
    "IMAGE_PROHIBITED_CONTENT": FinishReason.REFUSAL,
    "IMAGE_RECITATION": FinishReason.REFUSAL,
    "MALFORMED_FUNCTION_CALL": FinishReason.MALFORMED,
    "MALFORMED_RESPONSE": FinishReason.MALFORMED,
    "UNEXPECTED_TOOL_CALL": FinishReason.MALFORMED,
    "TOO_MANY_TOOL_CALLS": FinishReason.MALFORMED,
    "MISSING_THOUGHT_SIGNATURE": FinishReason.MALFORMED,
}
"""G-GEN, 2026-11; anything else is OTHER. STOP after a function call is TOOL_CALL."""
_TEXTS = (TextDelta, ThinkingDelta)


class WireStruct(WireObject, gc=False, rename="camel"):
    """A JSON object of the API; fields it does not list are skipped."""


class FunctionCall(WireStruct):
    """A call; `args` is an object, not a string."""

    NEEDED: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("name",)}

    id: str | None = None
    name: str = ""
    args: msgspec.Raw = msgspec.Raw()


class WirePart(WireStruct):
    """A part of any kind."""

    NEEDED: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("text", "functionCall")}
    PIECES: ClassVar[frozenset[str]] = frozenset({"text"})

    text: str | None = None
    thought: bool | None = None
    function_call: FunctionCall | None = None
    thought_signature: str | None = None


class Content(WireStruct):
    """What a candidate says."""

    parts: list[WirePart] | None = None


class Candidate(WireStruct):
    """The one answer."""

    content: Content | None = None
    finish_reason: str | None = None


class WireUsage(WireStruct):
    """Counts as sent; a count of 0 is usually left out."""

    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    service_tier: str | None = None


class PromptFeedback(WireStruct):
    """Why a prompt got no answer."""

    block_reason: str | None = None


class WireError(WireStruct):
    """An error object inside a stream."""

    code: int | None = None
    message: str = ""
    status: str = ""
    details: Any = None


class Frame(WireStruct):
    """A GenerateContentResponse, or an error in its place."""

    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: WireUsage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: WireError | None = None


_decode = msgspec.json.Decoder(Frame).decode


def decode_frames(data: bytes) -> list[Frame]:
    """Read a frame, or an array of them: without SSE the API wraps everything in one, errors too.

    Raises:
        msgspec.DecodeError: If it is neither.
    """
    try:
        return [_decode(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = loads(data)
        return [fitted(item, Frame) for item in (value if isinstance(value, list) else [value])]


def plain_reply(frame: Frame, model: str, request_id: str) -> Reply | None:
    """The Reply of what most whole answers are, one text and a reason to end; None for any other, see `Answer`."""
    candidates = frame.candidates
    if not candidates or frame.prompt_feedback is not None or frame.error is not None:
        return None
    content, reason = candidates[0].content, FINISH.get(candidates[0].finish_reason or "")
    if content is None or not content.parts or len(content.parts) > 1:
        return None
    if reason is None or reason is FinishReason.REFUSAL:
        return None
    part = content.parts[0]
    text = part.text
    if not text or part.thought or part.function_call is not None or part.thought_signature:
        return None
    if text.isspace() or is_half(text[0]) or is_half(text[-1]):
        return None
    counts = frame.usage_metadata
    return Reply(
        parts=(Text(text),),
        finish_reason=reason,
        usage=None if counts is None else normal_usage(counts, complete=True),
        model=frame.model_version or model,
        response_id=frame.response_id or "",
        upstream_request_id=request_id,
    )


class _Building:
    """A part while its pieces come."""

    __slots__ = ("call", "held", "is_thought", "pieces", "signature")

    def __init__(self, *, is_thought: bool = False, call: ToolCall | None = None) -> None:
        self.pieces: list[str] = []
        self.signature = ""
        self.held = ""
        self.is_thought = is_thought
        self.call = call

    def part(self, model: str) -> Part:
        if self.call is not None:
            return self.call
        text = "".join(self.pieces)
        if self.is_thought:
            return Thinking(model, text, self.signature)
        return Text(text, self.signature, model if self.signature else "")


class Answer:
    """What the frames of one answer have said so far.

    Args:
        model: Id that was asked for.
        request_id: The provider's id of the HTTP request, "" when it gave none.
        messages: The conversation that is answered, whose calls keep their ids to themselves.
    """

    def __init__(self, model: str, request_id: str = "", messages: Sequence[Message] = ()) -> None:
        self.model = model
        self.request_id = request_id
        self.answered_by = model
        self.response_id = ""
        self.finish = ""
        self.blocked = ""
        self.usage: Usage | None = None
        """The newest usable counts, final if they came with the end or after it; None when none were given."""
        self._building: list[_Building] = []
        self._calls = 0
        self._ids = CallIds(messages)
        self._lead = ""
        """White space that would open a text: held back until a word or a signature follows."""
        self._has_broken_call = False

    @property
    def is_whole(self) -> bool:
        """Whether the provider said that it ended."""
        return bool(self.finish or self.blocked)

    @property
    def has_content(self) -> bool:
        """Whether any part was seen."""
        return bool(self._building)

    def take_facts(self, frame: Frame) -> None:
        """Add what a frame says about the answer: ids, end, counts."""
        if frame.model_version:
            self.answered_by = frame.model_version
        if frame.response_id:
            self.response_id = frame.response_id
        if frame.prompt_feedback is not None and frame.prompt_feedback.block_reason:
            self.blocked = frame.prompt_feedback.block_reason
        if frame.candidates and frame.candidates[0].finish_reason:
            self.finish = frame.candidates[0].finish_reason
        if frame.usage_metadata is not None:
            self.usage = normal_usage(frame.usage_metadata, complete=self.is_whole) or self.usage

    def take_parts(self, frame: Frame, out: list[Chunk]) -> None:
        """Add a frame's parts and append their deltas to `out`, neighbours of one part joined."""
        if frame.candidates:
            content = frame.candidates[0].content
            if content is not None and content.parts:
                for part in content.parts:
                    self._take_part(part, out)

    def end_text(self, out: list[Chunk]) -> None:
        """End the last part: half a character that was held back is lost."""
        last = self._building[-1] if self._building else None
        if last is not None and last.held:
            last.held = ""
            self._say(last, LOST, out)

    def reply(self) -> Reply:
        """Build the Reply from what was taken."""
        parts = tuple([building.part(self.model) for building in self._building])
        reason = FinishReason.REFUSAL if self.blocked else FINISH.get(self.finish, FinishReason.OTHER)
        category = (self.blocked or self.finish) if reason is FinishReason.REFUSAL else ""
        if reason is FinishReason.END_TURN and (self._calls or self._has_broken_call):
            reason = FinishReason.MALFORMED if self._has_broken_call else FinishReason.TOOL_CALL
        return Reply(
            parts=parts,
            finish_reason=reason,
            refusal_category=category,
            usage=self.usage,
            model=self.answered_by,
            response_id=self.response_id,
            upstream_request_id=self.request_id,
        )

    def _take_part(self, part: WirePart, deltas: list[Chunk]) -> None:
        if part.function_call is not None:
            self.end_text(deltas)
            self._take_call(part.function_call, part.thought_signature or "", deltas)
            return
        text, signature = part.text or "", part.thought_signature or ""
        if not text and not signature:
            return
        last = self._building[-1] if self._building else None
        is_thought = bool(part.thought)
        if last is None or last.call is not None or last.signature or last.is_thought is not is_thought:
            lead, self._lead = ("" if is_thought else self._lead), ""
            text = lead + text
            if not (is_thought or signature) and is_blank(text):
                self._lead = text
                return
            self.end_text(deltas)
            last = _Building(is_thought=is_thought)
            self._building.append(last)
        last.signature = signature
        if text:
            if last.held or is_half(text[0]) or is_half(text[-1]):
                text, last.held = seamed(last.held, text)
            self._say(last, text, deltas)

    def _say(self, last: _Building, text: str, deltas: list[Chunk]) -> None:
        if text:
            last.pieces.append(text)
            delta = (ThinkingDelta if last.is_thought else TextDelta)(len(self._building) - 1, text)
            _append_delta(deltas, delta)

    def _take_call(self, wire: FunctionCall, signature: str, deltas: list[Chunk]) -> None:
        self._lead = ""
        arguments = compact(wire.args)
        if not arguments.startswith("{") or not is_tool_name(wire.name):
            self._has_broken_call = True
            return
        id_ = self._ids.free(wire.id or self._made_id())
        call = ToolCall(id_, wire.name, arguments, signature, self.model)
        self._calls += 1
        self._building.append(_Building(call=call))
        deltas.append(ToolCallDelta(len(self._building) - 1, call.id, call.name, arguments))

    def _made_id(self) -> str:
        """Name a call the provider left unnamed (2.5 may, G-FC): unique per answer and place, stable on
        replay.
        """
        place = f"{self.response_id}/{self.request_id}/{self._calls}".encode()
        return "call_" + blake2b(place, digest_size=12).hexdigest()


def _append_delta(deltas: list[Chunk], delta: TextDelta | ThinkingDelta) -> None:
    """Append `delta`, joined to the last one when that is of the same part: fewer, larger chunks."""
    if deltas:
        last = deltas[-1]
        if type(last) is type(delta) and isinstance(last, _TEXTS) and last.index == delta.index:
            deltas[-1] = type(delta)(delta.index, last.text + delta.text)
            return
    deltas.append(delta)


def normal_usage(wire: WireUsage, *, complete: bool) -> Usage | None:
    """Return inclusive counts; None when the prompt was not counted or the counts contradict each other."""
    if wire.prompt_token_count is None:
        return None
    thoughts = wire.thoughts_token_count or 0
    inputs = wire.prompt_token_count + (wire.tool_use_prompt_token_count or 0)
    outputs = (wire.candidates_token_count or 0) + thoughts
    if inputs > MAX_COUNT or outputs > MAX_COUNT:
        return None
    try:
        return Usage(
            input_tokens=inputs,
            cache_read_tokens=wire.cached_content_token_count or 0,
            output_tokens=outputs,
            thinking_tokens=thoughts,
            complete=complete,
            service_tier=wire.service_tier,
        )
    except ValueError:
        return None
