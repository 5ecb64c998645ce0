"""A Gemini event stream as a state machine: bytes in, chunks out, no I/O.

The rule: frames are whole answers to be appended; the last usage counts, and is told ahead of the deltas it
came with, so that whoever leaves between the two still has it. There is no end event: the answer is
whole once a finish reason (or a block reason) was seen and the body ended (G-GEN, 2026-11). From then on what cannot
be read ("[DONE]", say) does not matter.
"""

from collections.abc import Sequence

import msgspec

from router.call import Message
from router.errors import UpstreamError, UpstreamMalformed
from router.reply import Chunk, Finished, Started, UsageSeen
from router.upstreams.gemini_errors import NAME, from_body
from router.upstreams.gemini_reply import Answer, Frame, WireError, decode_frames
from router.upstreams.sse import SseSplitter
from router.usage import Usage


class GeminiFold:
    """The state of one stream; see `router.upstreams.relay.Fold`.

    Args:
        model: Id that was asked for.
        request_id: The provider's id of the HTTP request, "" when it gave none.
        secret: The credential, to keep it out of messages.
        messages: The conversation that is answered.
    """

    def __init__(self, model: str, request_id: str, secret: str, messages: Sequence[Message] = ()) -> None:
        self.started = False
        self.done = False
        self.fault: UpstreamError | None = None
        self._answer = Answer(model, request_id, messages)
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
        out = self._take(self._split.flush(), is_end=True)
        if self.fault is None and self._answer.is_whole and not self.done:
            self.done = True
            self._answer.end_text(out)
            out.append(Finished(self._answer.reply()))
        return out

    def _take(self, events: list[bytes], *, is_end: bool = False) -> list[Chunk]:
        out: list[Chunk] = []
        included = 0
        for data in events:
            if self.fault is not None:
                break
            try:
                for frame in decode_frames(data):
                    if frame.error is not None:
                        self.fault = fault_of(frame.error, self._answer, self._secret)
                        break
                    self._take_frame(frame, out)
                    if frame.usage_metadata is not None:
                        included = len(out)
            except msgspec.DecodeError:
                if is_end or self._answer.is_whole:
                    continue
                self.fault = UpstreamMalformed(
                    NAME,
                    "a frame of the stream is not the JSON it should be",
                    model=self._answer.model,
                    upstream_request_id=self._answer.request_id,
                )
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
            if frame.candidates is None and frame.usage_metadata is None and not answer.is_whole:
                return  # an object that is no answer begins none
            self.started = True
            out.append(Started(answer.answered_by, answer.response_id, answer.request_id, answer.usage))
        answer.take_parts(frame, out)


def fault_of(error: WireError, answer: Answer, secret: str) -> UpstreamError:
    """Name an error that came under HTTP 200, in a frame or in place of the answer."""
    return from_body(
        status=error.code,
        name=error.status,
        message=error.message,
        details=error.details,
        model=answer.model,
        secret=secret,
        request_id=answer.request_id,
    )
