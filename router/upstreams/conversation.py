"""A call's messages as alternating turns, fit for any provider's wire.

The rule: what a provider would refuse is refused here, naming the proto field, and what belongs to another
model is left out. Adjacent messages of one role become one turn, because both providers merge them anyway.
Tool results come first in their turn and in the order of their calls: Anthropic demands the first (A-TOOLS,
2026-11), and the second keeps the bytes equal when parallel tools finish in another order.

This module does not know how a part is spelled on a wire.
"""

import re

import msgspec

from router.call import Call, Document, Image, Part, Role, Text, Thinking, ToolCall, ToolResult
from router.errors import InvalidRequest

_USER_ONLY = (ToolResult, Image, Document)
_ASSISTANT_ONLY = (ToolCall, Thinking)
_DATE_SUFFIX = re.compile(r"-20\d{6}$")


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A part and where it stands in the call."""

    message: int
    part: int
    content: Part

    @property
    def field(self) -> str:
        """Proto path of the part."""
        return f"messages[{self.message}].parts[{self.part}]"


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One speaker's parts until the other speaks; never empty."""

    role: Role
    parts: list[Placed]


class Conversation(msgspec.Struct, frozen=True, gc=False):
    """Turns in order, and the tool name behind each call id."""

    turns: list[Turn]
    call_names: dict[str, str]


def same_model(one: str, other: str) -> bool:
    """Say whether two ids name one model: equal, or equal but for a date suffix (alias and dated id)."""
    return one == other or _DATE_SUFFIX.sub("", one) == _DATE_SUFFIX.sub("", other)


def converse(call: Call, model: str) -> Conversation:
    """Merge, order and check the messages of `call` for `model`.

    Left out: empty text, and thinking of another model or without its signature (A-THINK, 2026-11: foreign
    thinking is dropped by the provider anyway, unsigned thinking is refused). An assistant message that held
    nothing else disappears.

    Raises:
        InvalidRequest: If the conversation does not start and end with the user, if calls and results do not
            pair, or if a part stands in a message of the wrong role.
    """
    turns: list[Turn] = []
    for index, message in enumerate(call.messages):
        kept = [
            Placed(index, position, part)
            for position, part in enumerate(message.parts)
            if (type(part) is Text and part.text) or _is_kept(part, model)
        ]
        if not kept:
            continue
        if turns and turns[-1].role is message.role:
            turns[-1].parts.extend(kept)
        else:
            turns.append(Turn(message.role, kept))
    _check_ends(call, turns)
    return Conversation(turns, _pair(turns))


def _is_kept(part: Part, model: str) -> bool:
    if isinstance(part, Text):
        return bool(part.text) or (bool(part.signature) and same_model(part.model, model))
    if isinstance(part, Thinking):
        return bool(part.signature) and same_model(part.model, model)
    return True


def _check_ends(call: Call, turns: list[Turn]) -> None:
    if not turns:
        raise InvalidRequest(
            "messages", "nothing is left to send: give at least one user message with content"
        )
    if turns[0].role is not Role.USER and not call.context:
        raise InvalidRequest("messages[0].role", "a conversation must start with a user message")
    if turns[-1].role is not Role.USER:
        raise InvalidRequest(
            f"messages[{len(call.messages) - 1}].role",
            "a conversation must end with a user message; answers cannot be prefilled",
        )


def _pair(turns: list[Turn]) -> dict[str, str]:
    """Check that every call has its result in the next turn, put results first; return names by call id."""
    names: dict[str, str] = {}
    awaited: dict[str, Placed] = {}
    for turn in turns:
        if turn.role is Role.ASSISTANT:
            awaited = _calls(turn)
            names.update(
                (id_, placed.content.name)
                for id_, placed in awaited.items()
                if isinstance(placed.content, ToolCall)
            )
        else:
            _answer(turn, awaited)
            awaited = {}
    return names


def _calls(turn: Turn) -> dict[str, Placed]:
    calls: dict[str, Placed] = {}
    for placed in turn.parts:
        part = placed.content
        if type(part) is Text:
            continue
        if isinstance(part, ToolCall):
            if part.id in calls:
                raise InvalidRequest(
                    f"{placed.field}.tool_call.id", f"{part.id!r} names two calls of one turn"
                )
            calls[part.id] = placed
        elif isinstance(part, _USER_ONLY):
            raise InvalidRequest(placed.field, f"an assistant message cannot hold {_kind(part)}")
    return calls


def _answer(turn: Turn, awaited: dict[str, Placed]) -> None:
    results: dict[str, Placed] = {}
    for placed in turn.parts:
        part = placed.content
        if type(part) is Text:
            continue
        if isinstance(part, ToolResult):
            if part.call_id not in awaited or part.call_id in results:
                raise InvalidRequest(
                    f"{placed.field}.tool_result.tool_call_id",
                    f"{part.call_id!r} does not answer an open tool call of the previous assistant message",
                )
            results[part.call_id] = placed
        elif isinstance(part, _ASSISTANT_ONLY):
            raise InvalidRequest(placed.field, f"a user message cannot hold {_kind(part)}")
    for call_id, placed in awaited.items():
        if call_id not in results:
            raise InvalidRequest(
                f"{placed.field}.tool_call.id", f"{call_id!r} has no tool_result in the next user message"
            )
    if results:
        rest = [placed for placed in turn.parts if not isinstance(placed.content, ToolResult)]
        turn.parts[:] = [results[call_id] for call_id in awaited] + rest


def _kind(part: Part) -> str:
    match part:
        case ToolCall():
            return "a tool call"
        case ToolResult():
            return "a tool result"
        case Thinking():
            return "thinking"
        case Image():
            return "an image"
        case Document():
            return "a document"
        case Text():
            return "text"
