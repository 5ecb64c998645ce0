"""A conversation the server holds: an immutable value, one version after the other.

The rule: history is kept exactly as a provider needs it back: parts as the caller sent them and as the models gave
them, thinking and signatures included, each with the model that made it; what belongs to another model is left out
when a request is spelled, not here. A turn makes the next version only when it was answered; a turn that failed, was
left or broke off leaves the version it began with. A partial answer is not kept: it lacks the signatures that bind
its thinking and its tool calls, so no provider would take it back.

Besides its content a version carries what planning its next turn needs (`Planned`, `Past`), so that a turn costs what
it adds and not what was said before. Both can be worked out anew from the messages: a store that keeps versions
elsewhere may drop them.

It does not know where versions are kept, nor who may change them: that is the store's.
"""

from collections.abc import Iterable, Sequence

import msgspec
import msgspec.structs

from cache.rolling import Rolling
from router.call import Document, Image, Message, Part, Role, Text, Thinking, ToolCall, ToolResult
from router.sampling import Past
from router.upstreams.base import Rendered

PART_OVERHEAD_BYTES = 8
"""What a part takes on the wire besides its content, about."""
MESSAGE_OVERHEAD_BYTES = 350
"""Counted for every message, so that many short ones are no way around a limit in bytes. With it, what is counted is
half of the memory it takes, whatever is said: content is kept as it came and as it is sent (measured: messages of 200
to 4,000 characters take twice their content and 560 to 740 bytes, longer ones more by what their memory is rounded to).
"""


class Planned(msgspec.Struct, frozen=True, gc=False):
    """The last answered turn as it was spelled for Opus and planned."""

    rendered: Rendered
    rolling: Rolling


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a held session.

    Attributes:
        application: Name of a registered one, "" for none.
        context: What the model should know of the user; a turn that brings its own replaces it.
        messages: The whole history; after a turn it ends with the answer, if that had any content.
        version: 1 when opened, one more with each answered turn.
        byte_count: Of messages and context as on the wire, and `MESSAGE_OVERHEAD_BYTES` for each message.
        used_s: Start or end of its last turn, in seconds since the epoch; `created_s` likewise.
        past: What a sample says of `messages`.
        planned: None before the first turn, and where Opus could not be spelled.
    """

    tenant: str
    session: str
    application: str = ""
    user: str = ""
    context: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    version: int = 1
    byte_count: int = 0
    created_s: float
    used_s: float
    idle_ttl_s: float
    past: Past = Past()
    planned: Planned | None = None

    @property
    def expires_s(self) -> float:
        """Instant from which it is forgotten if it is not used before."""
        return self.used_s + self.idle_ttl_s

    @property
    def known_past(self) -> Past | None:
        """What a sample says of the messages before the next turn; None when that turn does not begin after them."""
        messages = self.messages
        return self.past if not messages or messages[-1].role is Role.ASSISTANT else None

    def open_calls(self) -> list[str]:
        """Ids of the last answer's tool calls, which the next turn has to answer; empty for none."""
        found: list[str] = []
        for message in reversed(self.messages):
            if message.role is Role.USER:
                break
            found[:0] = [part.id for part in message.parts if isinstance(part, ToolCall)]
        return found

    def used(self, now_s: float) -> "Held":
        """The same version, used at `now_s`."""
        return msgspec.structs.replace(self, used_s=now_s)

    def answered(
        self,
        turn: tuple[Message, ...],
        answer: Sequence[Part],
        *,
        context: tuple[str, ...],
        turn_byte_count: int,
        planned: Planned | None,
        now_s: float,
    ) -> "Held":
        """The next version: the turn and its answer are history.

        Args:
            turn: The user's messages.
            answer: As the model gave it. What no request may carry is left out: blank text without a signature.
            context: As it was sent with the turn.
            turn_byte_count: Of `turn`, counted as `byte_count`.
            planned: Of this turn; None keeps the last one, from which more has to be spelled next time.
        """
        kept = kept_parts(answer)
        added = (*turn, Message(Role.ASSISTANT, kept)) if kept else turn
        byte_count = self.byte_count + turn_byte_count
        if kept:
            byte_count += byte_count_of_parts(kept) + MESSAGE_OVERHEAD_BYTES
        if context != self.context:
            byte_count += byte_count_of(context) - byte_count_of(self.context)
        return msgspec.structs.replace(
            self,
            context=context,
            messages=self.messages + added,
            version=self.version + 1,
            byte_count=byte_count,
            used_s=now_s,
            past=self.past.with_messages(added),
            planned=self.planned if planned is None else planned,
        )


def kept_parts(answer: Iterable[Part]) -> tuple[Part, ...]:
    """An answer as history keeps it: without what no request may carry, blank text that nothing signs."""
    return tuple([part for part in answer if not _is_blank(part)])


def byte_count_of(texts: Iterable[str]) -> int:
    """Bytes of texts as parts of a message."""
    return sum([_utf8_length(text) + PART_OVERHEAD_BYTES for text in texts])


def byte_count_of_parts(parts: Iterable[Part]) -> int:
    """Bytes of parts as on the wire, about."""
    return sum([_byte_count(part) + PART_OVERHEAD_BYTES for part in parts])


def _byte_count(part: Part) -> int:
    match part:
        case Text(text, signature, model):
            return _utf8_length(text) + len(signature) + len(model)
        case Thinking(model, text, signature):
            return _utf8_length(text) + len(signature) + len(model)
        case ToolCall(call_id, name, arguments_json, signature, model):
            return len(call_id) + len(name) + _utf8_length(arguments_json) + len(signature) + len(model)
        case ToolResult(call_id, content):
            return len(call_id) + byte_count_of_parts(content)
        case Image() | Document():
            return len(part.data)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_blank(part: Part) -> bool:
    return isinstance(part, Text) and not part.signature and (not part.text or part.text.isspace())
