"""A response body that is generated as it is pulled, metered as it is generated.

Rule: the answer is known in advance, but a frame counts as generated (and billed) only once it has been
pulled; closing early bills what was pulled. Mid-stream faults are played here. The stream reports once,
when it ends: how many output and thinking tokens passed, and how it ended. It does not know either
provider's wire format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from router.sandbox.faults import Fault
from router.sandbox.wire import ConnectionDropped

Settle = Callable[[int, int, bool, str], None]
"""Receives output tokens (thinking included), thinking tokens, whether the answer was whole, its status."""

Wait = Callable[[float | None], Awaitable[None]]
"""Waits for seconds on the sandbox clock (None: for ever), within the client's patience."""

_BROKEN = b'{"unfinished": '


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: its bytes, the tokens it makes generated, and whether the answer is whole once it is out."""

    data: bytes
    output_tokens: int = 0
    thinking_tokens: int = 0
    last: bool = False


class MeteredStream:
    """The body of a streamed answer.

    Args:
        frames: every event, in order.
        settle: called once with the meter's reading when the stream ends in any way.
        wait: how to pass time.
        token_s: seconds per output token.
        floor_tokens: output tokens billed at least, once the first frame is out.
        fault: a mid-stream fault, struck after `Fault.after_events` frames (half of them by default).
        error_frame: the bytes of an in-stream error event, for `error_event`.
        broken_frame: wraps invalid JSON into a frame, for `malformed`.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        settle: Settle,
        wait: Wait,
        *,
        token_s: float = 0.0,
        floor_tokens: int = 0,
        fault: Fault | None = None,
        error_frame: bytes = b"",
        broken_frame: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self._frames = frames
        self._settle: Settle | None = settle
        self._wait = wait
        self._token_s = token_s
        self._floor = floor_tokens
        self._fault = fault
        self._strike_at = _strike_at(fault, len(frames))
        self._error_frame = error_frame
        self._broken_frame = broken_frame
        self._next = 0
        self._output = 0
        self._thinking = 0

    def __aiter__(self) -> MeteredStream:
        return self

    async def __anext__(self) -> bytes:
        if self._settle is None or self._next >= len(self._frames):
            raise StopAsyncIteration
        if self._fault is not None and self._next == self._strike_at:
            struck = await self._strike(self._fault)
            if struck is not None:
                return struck
        frame = self._frames[self._next]
        delay = frame.output_tokens * self._token_s
        if delay > 0:
            await self._wait(delay)
        self._next += 1
        self._output += frame.output_tokens
        self._thinking += frame.thinking_tokens
        if frame.last:
            self._end("complete", complete=True)
        return frame.data

    async def aclose(self) -> None:
        """Disconnect: nothing more is generated. Idempotent."""
        self._end("disconnected", complete=False)

    async def _strike(self, fault: Fault) -> bytes | None:
        """Play the fault: return a last frame, end the stream, or (after a stall) go on."""
        self._fault = None
        match fault.kind:
            case "stall":
                await self._wait(fault.stall_s)
                return None
            case "reset":
                self._end("cut", complete=False)
                raise ConnectionDropped("connection reset mid-stream")
            case "error_event":
                self._end("error", complete=False)
                return self._error_frame
            case "malformed":
                self._end("error", complete=False)
                return self._broken_frame(_BROKEN)
            case _:
                self._end("cut", complete=False)
                raise StopAsyncIteration

    def _end(self, status: str, *, complete: bool) -> None:
        if self._settle is not None:
            settle, self._settle = self._settle, None
            floor = self._floor if self._next else 0
            settle(max(self._output, floor), self._thinking, complete, status)


def _strike_at(fault: Fault | None, frames: int) -> int:
    if fault is None:
        return -1
    after = frames // 2 if fault.after_events is None else fault.after_events
    return min(after, frames - 1)
