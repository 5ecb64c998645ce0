"""An answer of Anthropic's Messages API, decoded from its bytes into a Reply.

The rule: decode only what routing, billing and the caller need; unknown fields, block types and reasons, nulls and
odd kinds never fail (see `wire`). An error under HTTP 200 is that error. Usage becomes inclusive: input = uncached +
read + written (A-CACHE, 2026-11). Parts carry the id that was asked for, because they may only go back to that
upstream; the Reply carries the id that answered, because prices go by it.

What no request may hold is no part of a Reply, or an answer sent back as it came would be refused: blank text
(A-ERR), and a call whose arguments broke off or whose name no tool can have.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from router.call import FinishReason, Message, Part, Text, Thinking, ToolCall
from router.errors import UpstreamError, UpstreamMalformed
from router.reply import Reply
from router.tool_schema import is_tool_name
from router.upstreams.anthropic_errors import NAME, from_body
from router.upstreams.conversation import CallIds, is_blank
from router.upstreams.parameters import compact
from router.upstreams.wire import MAX_COUNT, WireObject, decoder
from router.usage import Usage

FINISH = {
    "end_turn": FinishReason.END_TURN,
    "max_tokens": FinishReason.MAX_TOKENS,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "tool_use": FinishReason.TOOL_CALL,
    "pause_turn": FinishReason.PAUSED,
    "refusal": FinishReason.REFUSAL,
    "model_context_window_exceeded": FinishReason.CONTEXT_WINDOW,
}
"""A-STOP, 2026-11; anything else is OTHER."""


BLOCKS = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
"""Content blocks that are read; others are of server tools, which we never ask for, or of a later day."""


class CacheCreation(WireObject):
    """Written input tokens by TTL."""

    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class OutputDetails(WireObject):
    """Parts of the output tokens."""

    thinking_tokens: int | None = None


class WireUsage(WireObject):
    """Counts as sent: `input_tokens` excludes cache reads and writes."""

    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    output_tokens: int | None = None
    output_tokens_details: OutputDetails | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None


class MissReason(WireObject):
    """Why the provider thinks a cache read was missed."""

    type: str = ""
    cache_missed_input_tokens: int | None = None


class Diagnostics(WireObject):
    """A-DIAG; the reason is null while the comparison is not finished."""

    cache_miss_reason: MissReason | None = None


class StopDetails(WireObject):
    """Details of a refusal."""

    category: str | None = None


class WireBlock(WireObject):
    """A content block of any type."""

    KINDS: ClassVar[frozenset[str] | None] = BLOCKS
    NEEDED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("text",),
        "redacted_thinking": ("data",),
        "tool_use": ("id", "name"),
    }

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class ErrorDetails(WireObject):
    """What an error adds to its type."""

    error_code: str | None = None


class WireError(WireObject):
    """An error, as the body of a refusal or as an event."""

    type: str = ""
    message: str = ""
    details: ErrorDetails | None = None


class WireMessage(WireObject):
    """A Message, whole or at the start of a stream, or an error in its place."""

    NEEDED: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ("content",)}

    type: str = ""
    error: WireError | None = None
    id: str = ""
    model: str = ""
    content: list[WireBlock] = msgspec.field(default_factory=list)
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    diagnostics: Diagnostics | None = None
    usage: WireUsage | None = None


_decode = decoder(WireMessage)


def parse_reply(
    body: bytes, model: str, request_id: str, secret: str = "", messages: Sequence[Message] = ()
) -> Reply:
    """Read a whole answer.

    Args:
        body: The response's bytes.
        model: Id that was asked for.
        request_id: The `request-id` header.
        secret: The credential, to keep it out of messages.
        messages: The conversation that is answered, whose calls keep their ids to themselves.

    Raises:
        UpstreamError: The error it is; UpstreamMalformed if it is neither an error nor a Message.
    """
    try:
        wire, ids = _decode(body), CallIds(messages)
        parts = tuple(part for block in wire.content if (part := _part(block, model, ids)) is not None)
    except msgspec.DecodeError as error:
        raise _no_message(model, request_id, None) from error
    if wire.type == "error":
        raise fault_of(wire.error or WireError(), model, request_id, secret)
    usage = normal_usage(wire.usage, complete=True)
    if wire.type != "message" or not (wire.stop_reason or wire.content):
        raise _no_message(model, request_id, usage)
    broken = sum(block.type == "tool_use" for block in wire.content) != sum(map(_is_call, parts))
    return reply_of(wire, parts, usage, model, request_id, broken_call=broken)


def _is_call(part: Part) -> bool:
    return isinstance(part, ToolCall)


def _no_message(model: str, request_id: str, usage: Usage | None) -> UpstreamMalformed:
    return UpstreamMalformed(
        NAME, "the answer is not a message", model=model, upstream_request_id=request_id, usage=usage
    )


def fault_of(error: WireError, model: str, request_id: str, secret: str) -> UpstreamError:
    """Name an error that came under HTTP 200, whole or as an event."""
    return from_body(
        status=None,
        type_=error.type,
        code=(error.details.error_code or "") if error.details else "",
        message=error.message,
        model=model,
        secret=secret,
        request_id=request_id,
    )


def reply_of(
    wire: WireMessage,
    parts: tuple[Part, ...],
    usage: Usage | None,
    model: str,
    request_id: str,
    *,
    broken_call: bool = False,
) -> Reply:
    """Build the Reply from a message whose stop fields are final.

    Args:
        broken_call: Whether a call was left out of `parts`. Where the tokens ran out, that is why; an answer that
            says it waits for the call's result is malformed.
    """
    reason = wire.diagnostics.cache_miss_reason if wire.diagnostics else None
    finish = FINISH.get(wire.stop_reason or "", FinishReason.OTHER)
    if broken_call and finish is FinishReason.TOOL_CALL:
        finish = FinishReason.MALFORMED
    return Reply(
        parts=parts,
        finish_reason=finish,
        stop_sequence=wire.stop_sequence or "",
        refusal_category=(wire.stop_details.category or "") if wire.stop_details else "",
        usage=usage,
        model=wire.model or model,
        response_id=wire.id,
        upstream_request_id=request_id,
        cache_diagnostics=reason.type if reason else "",
        cache_diagnostics_missed_tokens=reason.cache_missed_input_tokens if reason else None,
    )


def _part(block: WireBlock, model: str, ids: CallIds) -> Part | None:
    match block.type:
        case "text":
            return None if is_blank(block.text or "") else Text(block.text or "")
        case "thinking":
            return Thinking(model, block.thinking or "", block.signature or "")
        case "redacted_thinking":
            return Thinking(model, "", block.data or "", redacted=True)
        case "tool_use":
            arguments = compact(block.input)
            if not arguments.startswith("{") or not is_tool_name(block.name or ""):
                return None
            return ToolCall(ids.free(block.id or "call"), block.name or "", arguments, model=model)
        case _:  # blocks of server tools, which we never ask for
            return None


def merge_usage(known: WireUsage, newer: WireUsage) -> WireUsage:
    """Replace counts by newer ones: a stream's are cumulative, so adding would bill twice (A-STREAM).

    An end that counts no input at all has not counted it: no prompt is empty, and no cumulative count shrinks.
    """
    if _counts_no_input(newer) and not _counts_no_input(known):
        newer = msgspec.structs.replace(newer, **dict.fromkeys(_INPUTS))
    return WireUsage(
        *(
            new if new is not None else old
            for old, new in zip(msgspec.structs.astuple(known), msgspec.structs.astuple(newer), strict=True)
        )
    )


_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation")


def _counts_no_input(wire: WireUsage) -> bool:
    return not (wire.input_tokens or wire.cache_creation_input_tokens or wire.cache_read_input_tokens)


def normal_usage(wire: WireUsage | None, *, complete: bool) -> Usage | None:
    """Return inclusive counts; None when the provider sent none or they contradict each other.

    They are complete only with a count of the output: without one it is unknown, which is not 0.
    Written tokens without their split count as 5 minute writes: that is what a marker without a TTL asks for.
    """
    if wire is None or wire.input_tokens is None or wire.input_tokens > MAX_COUNT:
        return None
    read = wire.cache_read_input_tokens or 0
    written_1h = split_5m = 0
    if wire.cache_creation is not None:
        written_1h = wire.cache_creation.ephemeral_1h_input_tokens or 0
        split_5m = wire.cache_creation.ephemeral_5m_input_tokens or 0
    written = max(wire.cache_creation_input_tokens or 0, split_5m + written_1h)
    output = wire.output_tokens or 0
    if read > MAX_COUNT or written > MAX_COUNT or output > MAX_COUNT:
        return None
    details = wire.output_tokens_details
    try:
        return Usage(
            input_tokens=wire.input_tokens + read + written,
            cache_read_tokens=read,
            cache_write_5m_tokens=written - written_1h,
            cache_write_1h_tokens=written_1h,
            output_tokens=output,
            thinking_tokens=details.thinking_tokens if details else None,
            complete=complete and wire.output_tokens is not None,
            speed=wire.speed,
            service_tier=wire.service_tier,
            inference_geo=wire.inference_geo,
        )
    except ValueError:
        return None
