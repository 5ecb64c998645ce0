"""An Anthropic event stream as a state machine: bytes in, chunks out, no I/O.

The rule: counts replace, never add; pings and unknown events are skipped; an error event is a fault, told
after what came before it. Deltas that arrive in one read are joined, so that fewer and larger chunks go on. A
block gets its index when its first content comes, so a text block that stays blank takes none and indices match
the Reply's parts: white space that opens a block is held back until a word follows it. A call whose arguments broke off
is the last block, and no part of the Reply: its deltas are void. A call whose name no tool can have is left out whole.
A delta of a kind that is not known says nothing, whatever fields it has.

Events: A-STREAM (platform.claude.com/docs/en/build-with-claude/streaming), 2026-11.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

from router.call import Message, Part, Text, Thinking, ToolCall
from router.errors import UpstreamError, UpstreamMalformed
from router.reply import Chunk, Finished, Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.tool_schema import is_tool_name
from router.upstreams.anthropic_errors import NAME
from router.upstreams.anthropic_reply import (
    BLOCKS,
    StopDetails,
    WireBlock,
    WireError,
    WireMessage,
    WireUsage,
    fault_of,
    merge_usage,
    normal_usage,
    reply_of,
)
from router.upstreams.conversation import CallIds, is_blank
from router.upstreams.parameters import compact, is_object
from router.upstreams.sse import SseSplitter
from router.upstreams.wire import LOST, WireObject, decoder, is_half, seamed
from router.usage import Usage

_SAYING = frozenset({"text_delta", "input_json_delta", "thinking_delta"})
"""Deltas of a block that hold a piece of what it says (A-STREAM, 2026-11)."""


class _Delta(WireObject):
    """The delta of a block or of the message, whichever it is."""

    KINDS: ClassVar[frozenset[str] | None] = frozenset({*_SAYING, "signature_delta"})
    NEEDED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text_delta": ("text",),
        "input_json_delta": ("partial_json",),
    }
    PIECES: ClassVar[frozenset[str]] = frozenset({"text", "partial_json", "thinking"})

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class _Event(WireObject):
    """Any event; which fields are set depends on `type`."""

    KINDS: ClassVar[frozenset[str] | None] = frozenset(
        {
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
            "error",
        }
    )

    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: WireBlock | None = None
    message: WireMessage | None = None
    usage: WireUsage | None = None
    error: WireError | None = None


_decode = decoder(_Event)


class _Block:
    """A content block while its deltas come."""

    __slots__ = ("held", "id", "index", "kind", "name", "pieces", "signature", "start_input")

    def __init__(self, wire: WireBlock, id_: str) -> None:
        self.kind = wire.type
        self.index = -1
        self.held = ""
        self.pieces: list[str] = [piece for piece in (wire.text, wire.thinking) if piece]
        self.signature = wire.data or wire.signature or ""
        self.id = id_
        self.name = wire.name or ""
        self.start_input = wire.input

    def part(self, model: str) -> Part:
        text = "".join(self.pieces)
        match self.kind:
            case "text":
                return Text(text)
            case "tool_use":
                return ToolCall(self.id, self.name, text, model=model)
            case _:
                return Thinking(model, text, self.signature, redacted=self.kind == "redacted_thinking")


class AnthropicFold:
    """The state of one stream; see `router.upstreams.relay.Fold`.

    Args:
        model: Id that was asked for.
        request_id: The `request-id` header.
        secret: The credential, to keep it out of messages.
        messages: The conversation that is answered.
    """

    def __init__(self, model: str, request_id: str, secret: str, messages: Sequence[Message] = ()) -> None:
        self.started = False
        self.done = False
        self.usage: Usage | None = None
        self.fault: UpstreamError | None = None
        self._model = model
        self._request_id = request_id
        self._secret = secret
        self._split = SseSplitter()
        self._message = WireMessage()
        self._wire_usage = WireUsage()
        self._blocks: list[_Block] = []
        self._open: dict[int, _Block] = {}
        self._pending: _Block | None = None
        self._pieces: list[str] = []
        self._opens_call = False
        self._is_counted = False
        self._ids = CallIds(messages)
        self._has_broken_call = False

    def feed(self, data: bytes) -> list[Chunk]:
        """Take bytes; return the chunks they complete."""
        return self._take(self._split.feed(data))

    def finish(self) -> list[Chunk]:
        """Take the end of the body: an event without its blank line, or an error that was no stream at all. What
        is cut in the middle is left: the answer then ended too early, which says more.
        """
        return self._take(self._split.flush(), is_end=True)

    def _take(self, frames: list[bytes], *, is_end: bool = False) -> list[Chunk]:
        out: list[Chunk] = []
        for frame in frames:
            if self.done or self.fault is not None:
                break
            try:
                event = _decode(frame)
                if event.type == "content_block_delta":
                    self._delta(event, out)
                else:
                    self._other(event, out)
            except msgspec.DecodeError:
                if is_end:
                    break
                self.fault = UpstreamMalformed(
                    NAME,
                    "an event of the stream is not the JSON it should be",
                    model=self._model,
                    upstream_request_id=self._request_id,
                )
                break
        self._flush(out)
        return out

    def _other(self, event: _Event, out: list[Chunk]) -> None:
        match event.type:
            case "content_block_start" if event.content_block is not None:
                self._start_block(event.index, event.content_block, out)
            case "content_block_stop":
                self._stop_block(event.index, out)
            case "message_start" if event.message is not None:
                self._start(event.message, out)
            case "message_delta":
                self._flush(out)
                self._end_of_message(event, out)
            case "message_stop":
                for index in list(self._open):
                    self._stop_block(index, out)
                self._flush(out)
                self.done = True
                out.append(Finished(self._reply()))
            case "error":
                self.fault = fault_of(event.error or WireError(), self._model, self._request_id, self._secret)
            case _:
                pass

    def _reply(self) -> Reply:
        parts = [block.part(self._model) for block in self._blocks]
        whole = tuple(
            part for part in parts if not isinstance(part, ToolCall) or is_object(part.arguments_json)
        )
        return reply_of(
            self._message,
            whole,
            self.usage,
            self._model,
            self._request_id,
            broken_call=self._has_broken_call or len(whole) != len(parts),
        )

    def _start(self, message: WireMessage, out: list[Chunk]) -> None:
        self._message = message
        self.started = True
        if message.usage is not None:
            self._wire_usage = message.usage
            self.usage = normal_usage(message.usage, complete=False)
        out.append(Started(message.model or self._model, message.id, self._request_id, self.usage))

    def _start_block(self, index: int, wire: WireBlock, out: list[Chunk]) -> None:
        if wire.type not in BLOCKS:
            return
        if wire.type == "tool_use" and not is_tool_name(wire.name or ""):
            self._has_broken_call = True
            return
        id_ = self._ids.free(wire.id or "call") if wire.type == "tool_use" else ""
        block = self._open[index] = _Block(wire, id_)
        said = "".join(block.pieces)
        if block.kind != "text" or not is_blank(said):
            self._number(block)
            self._hold(block, said, out, opens_call=block.kind == "tool_use")

    def _delta(self, event: _Event, out: list[Chunk]) -> None:
        block, delta = self._open.get(event.index), event.delta
        if block is None or delta is None:
            return
        kind = delta.type
        if kind == "signature_delta":
            block.signature += delta.signature or ""
            return
        if kind not in _SAYING:
            return
        piece = delta.text or delta.partial_json or delta.thinking
        if piece:
            if block.held or is_half(piece[0]) or is_half(piece[-1]):
                piece, block.held = seamed(block.held, piece)
            self._say(block, piece, out)

    def _stop_block(self, index: int, out: list[Chunk]) -> None:
        block = self._open.pop(index, None)
        if block is None:
            return
        if block.held:
            block.held = ""
            self._say(block, LOST, out)
        if block.kind == "tool_use" and not block.pieces:
            whole = compact(block.start_input)
            block.pieces.append(whole)
            self._hold(block, whole, out)

    def _say(self, block: _Block, piece: str, out: list[Chunk]) -> None:
        if not piece:
            return
        block.pieces.append(piece)
        if block.index < 0:
            if is_blank(piece):
                return
            self._number(block)
            piece = "".join(block.pieces)
        self._hold(block, piece, out)

    def _number(self, block: _Block) -> None:
        block.index = len(self._blocks)
        self._blocks.append(block)

    def _hold(self, block: _Block, piece: str, out: list[Chunk], *, opens_call: bool = False) -> None:
        """Keep a piece back until the read ends or another block speaks."""
        if self._pending is not block:
            self._flush(out)
            self._pending = block
        self._opens_call = self._opens_call or opens_call
        if piece:
            self._pieces.append(piece)

    def _flush(self, out: list[Chunk]) -> None:
        block = self._pending
        if block is None:
            return
        text = "".join(self._pieces)
        if block.kind == "tool_use":
            id_, name = (block.id, block.name) if self._opens_call else ("", "")
            out.append(ToolCallDelta(block.index, id_, name, text))
        elif text:
            out.append(
                TextDelta(block.index, text) if block.kind == "text" else ThinkingDelta(block.index, text)
            )
        self._pending, self._opens_call = None, False
        self._pieces.clear()

    def _end_of_message(self, event: _Event, out: list[Chunk]) -> None:
        if event.delta is not None and event.delta.stop_reason is not None:
            self._message.stop_reason = event.delta.stop_reason
            self._message.stop_sequence = event.delta.stop_sequence
            self._message.stop_details = event.delta.stop_details
        if event.usage is not None:
            self._wire_usage = merge_usage(self._wire_usage, event.usage)
            self._is_counted = self._message.stop_reason is not None and event.usage.output_tokens is not None
        usage = normal_usage(self._wire_usage, complete=self._is_counted)
        if usage is not None and usage != self.usage:
            self.usage = usage
            out.append(UsageSeen(usage))
