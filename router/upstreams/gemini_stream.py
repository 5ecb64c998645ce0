"""A Gemini event stream as a state machine: bytes in, chunks out, no I/O.

The rule: frames are whole answers to be appended; the last usage counts, and is told ahead of the deltas it
came with, so that whoever leaves between the two still has it. There is no end event: the answer is
whole once a finish reason (or a block reason) was seen and the body ended (G-GEN, 2026-11).
"""

import msgspec

from router.errors import UpstreamError, UpstreamMalformed
from router.reply import Chunk, Finished, Started, UsageSeen
from router.upstreams.gemini_errors import NAME, from_body
from router.upstreams.gemini_reply import Answer, Frame, WireError, decode_frame
from router.upstreams.sse import SseSplitter
from router.usage import Usage


class GeminiFold:
    """The state of one stream; see `router.upstreams.relay.Fold`.

    Args:
        model: Id that was asked for.
        request_id: The provider's id of the HTTP request, "" when it gave none.
        secret: The credential, to keep it out of messages.
    """

    def __init__(self, model: str, request_id: str, secret: str) -> None:
        self.started = False
        self.done = False
        self.fault: UpstreamError | None = None
        self._answer = Answer(model, request_id)
        self._secret = secret
        self._split = SseSplitter()
        self._reported: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """The newest count seen."""
        return self._answer.usage

    def feed(self, data: bytes) -> list[Chunk]:
        """Take bytes; return the chunks they complete."""
        return self._take(self._split.feed(data))

    def finish(self) -> list[Chunk]:
        """Take the end of the body."""
        out = self._take(self._split.flush())
        if self.fault is None and self._answer.is_whole and not self.done:
            self.done = True
            out.append(Finished(self._answer.reply()))
        return out

    def _take(self, frames: list[bytes]) -> list[Chunk]:
        out: list[Chunk] = []
        included = 0
        for data in frames:
            if self.fault is not None:
                break
            try:
                frame = decode_frame(data)
            except msgspec.DecodeError:
                self.fault = UpstreamMalformed(
                    NAME, "a frame of the stream is not the JSON it should be", model=self._answer.model
                )
                break
            if frame.error is not None:
                self._fail(frame.error)
            else:
                self._take_frame(frame, out)
                if frame.usage_metadata is not None:
                    included = len(out)
        usage = self._answer.usage
        if usage is not None and usage != self._reported:
            self._reported = usage
            at = 1 if out and isinstance(out[0], Started) else 0
            out.insert(at, UsageSeen(usage, max(0, included - at)))
        return out

    def _take_frame(self, frame: Frame, out: list[Chunk]) -> None:
        answer = self._answer
        answer.take_facts(frame)
        if not self.started:
            self.started = True
            out.append(Started(answer.answered_by, answer.response_id, answer.request_id, answer.usage))
        answer.take_parts(frame, out)

    def _fail(self, error: WireError) -> None:
        self.fault = from_body(
            status=error.code,
            name=error.status,
            message=error.message,
            details=[msgspec.json.decode(detail) for detail in error.details or ()],
            model=self._answer.model,
            secret=self._secret,
        )
