"""An answer of Anthropic's Messages API, decoded from its bytes into a Reply.

The rule: decode only what routing, billing and the caller need; unknown fields, block types and reasons never
fail. Usage becomes inclusive: input = uncached + read + written (A-CACHE, 2026-11). Parts carry the id that
was asked for, because they may only go back to that upstream; the Reply carries the id that answered, because
prices go by it.
"""

import msgspec

from router.call import FinishReason, Part, Text, Thinking, ToolCall
from router.reply import Reply
from router.upstreams.parameters import compact
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


class WireStruct(msgspec.Struct, gc=False):
    """A JSON object of the API; fields it does not list are skipped."""


class CacheCreation(WireStruct):
    """Written input tokens by TTL."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputDetails(WireStruct):
    """Parts of the output tokens."""

    thinking_tokens: int | None = None


class WireUsage(WireStruct):
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


class MissReason(WireStruct):
    """Why the provider thinks a cache read was missed."""

    type: str = ""
    cache_missed_input_tokens: int | None = None


class Diagnostics(WireStruct):
    """A-DIAG; the reason is null while the comparison is not finished."""

    cache_miss_reason: MissReason | None = None


class StopDetails(WireStruct):
    """Details of a refusal."""

    category: str | None = None


class WireBlock(WireStruct):
    """A content block of any type."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class WireMessage(WireStruct):
    """A Message, whole or at the start of a stream."""

    id: str = ""
    model: str = ""
    content: list[WireBlock] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    diagnostics: Diagnostics | None = None
    usage: WireUsage | None = None


_decode = msgspec.json.Decoder(WireMessage).decode


def parse_reply(body: bytes, model: str, request_id: str) -> Reply:
    """Read a whole answer.

    Args:
        body: The response's bytes.
        model: Id that was asked for.
        request_id: The `request-id` header.

    Raises:
        msgspec.DecodeError: If it is not a Message.
    """
    wire = _decode(body)
    parts = tuple(part for block in wire.content if (part := _part(block, model)) is not None)
    return reply_of(wire, parts, normal_usage(wire.usage, complete=True), model, request_id)


def reply_of(
    wire: WireMessage, parts: tuple[Part, ...], usage: Usage | None, model: str, request_id: str
) -> Reply:
    """Build the Reply from a message whose stop fields are final."""
    reason = wire.diagnostics.cache_miss_reason if wire.diagnostics else None
    return Reply(
        parts=parts,
        finish_reason=FINISH.get(wire.stop_reason or "", FinishReason.OTHER),
        stop_sequence=wire.stop_sequence or "",
        refusal_category=(wire.stop_details.category or "") if wire.stop_details else "",
        usage=usage,
        model=wire.model or model,
        response_id=wire.id,
        upstream_request_id=request_id,
        cache_diagnostics=reason.type if reason else "",
        cache_diagnostics_missed_tokens=reason.cache_missed_input_tokens if reason else None,
    )


def _part(block: WireBlock, model: str) -> Part | None:
    match block.type:
        case "text":
            return Text(block.text) if block.text else None
        case "thinking":
            return Thinking(model, block.thinking or "", block.signature or "")
        case "redacted_thinking":
            return Thinking(model, "", block.data or "", redacted=True)
        case "tool_use":
            return ToolCall(block.id or "", block.name or "", compact(block.input), model=model)
        case _:  # blocks of server tools, which we never ask for
            return None


def merge_usage(known: WireUsage, newer: WireUsage) -> WireUsage:
    """Replace counts by newer ones: a stream's are cumulative, so adding would bill twice (A-STREAM)."""
    return WireUsage(
        *(
            new if new is not None else old
            for old, new in zip(msgspec.structs.astuple(known), msgspec.structs.astuple(newer), strict=True)
        )
    )


def normal_usage(wire: WireUsage | None, *, complete: bool) -> Usage | None:
    """Return inclusive counts; None when the provider sent none or they contradict each other.

    Written tokens without their split count as 5 minute writes: that is what a marker without a TTL asks for.
    """
    if wire is None or wire.input_tokens is None:
        return None
    read = wire.cache_read_input_tokens or 0
    written_1h = wire.cache_creation.ephemeral_1h_input_tokens if wire.cache_creation else 0
    split_5m = wire.cache_creation.ephemeral_5m_input_tokens if wire.cache_creation else 0
    written = max(wire.cache_creation_input_tokens or 0, split_5m + written_1h)
    details = wire.output_tokens_details
    try:
        return Usage(
            input_tokens=wire.input_tokens + read + written,
            cache_read_tokens=read,
            cache_write_5m_tokens=written - written_1h,
            cache_write_1h_tokens=written_1h,
            output_tokens=wire.output_tokens or 0,
            thinking_tokens=details.thinking_tokens if details else None,
            complete=complete,
            speed=wire.speed,
            service_tier=wire.service_tier,
            inference_geo=wire.inference_geo,
        )
    except ValueError:
        return None
