"""The events of a streamed answer, as values to match on.

The rule: one class per kind of event, the proto messages inside as they came; kinds a later server adds are passed
over, as the contract asks.
"""

from dataclasses import dataclass

from router.v1 import accounting_pb2, router_service_pb2, routing_pb2


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision, before the answer; comes again when a fallback is taken."""

    request_id: str
    trace_id: str
    decision: routing_pb2.Decision


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text to append to part `part_index` (0-based) of the answer."""

    part_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """Thinking summary to append to part `part_index`; only with `include_thinking`."""

    part_index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: `id` and `name` on its first piece, then text to append to the arguments' JSON.

    The arguments are complete only in `Finished.answer`.
    """

    part_index: int
    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end: the whole answer (keep this, not the deltas), the bill, and a held session's version, else 0."""

    answer: router_service_pb2.Answer
    accounting: accounting_pb2.Accounting
    session_version: int


Event = Decided | TextDelta | ThinkingDelta | ToolCallDelta | Finished


def event_of(message: router_service_pb2.StreamGenerateResponse) -> Event | None:
    """Return the event of a message, None for a kind this release does not know."""
    match message.WhichOneof("event"):
        case "delta":
            return _delta(message.delta)
        case "decided":
            decided = message.decided
            return Decided(decided.request_id, decided.trace_id, decided.decision)
        case "finished":
            finished = message.finished
            return Finished(finished.answer, finished.accounting, finished.session_version)
        case _:
            return None


def _delta(delta: router_service_pb2.ContentDelta) -> Event | None:
    match delta.WhichOneof("kind"):
        case "text":
            return TextDelta(delta.part_index, delta.text)
        case "thinking":
            return ThinkingDelta(delta.part_index, delta.thinking)
        case "tool_call":
            call = delta.tool_call
            return ToolCallDelta(delta.part_index, call.id, call.name, call.arguments_json)
        case _:
            return None
