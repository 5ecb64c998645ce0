"""A call's messages as alternating turns, fit for any provider's wire.

The rule: what a provider would refuse is refused here, naming the proto field, and what belongs to another
model is left out. Adjacent messages of one role become one turn, because both providers merge them anyway.
Tool results come first in their turn and in the order of their calls: Anthropic demands the first (A-TOOLS,
2026-11), and the second keeps the bytes equal when parallel tools finish in another order.

A context that is not to stand before the history stands with the current turn: the last user turn that is not only
tool results, so that it stays where it is while a tool loop runs.

This module does not know how a part is spelled on a wire.
"""

import re
from collections.abc import Container, Sequence

import msgspec

from router.call import Call, Document, Image, Message, Part, Role, Text, Thinking, ToolCall, ToolResult
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
    """Turns in order, the tool name behind each call id, and the ids of calls whose message holds no thinking."""

    turns: list[Turn]
    call_names: dict[str, str]
    bare_calls: set[str]


def same_model(one: str, other: str) -> bool:
    """Say whether two ids name one model: equal, or equal but for a date suffix (alias and dated id)."""
    return one == other or _DATE_SUFFIX.sub("", one) == _DATE_SUFFIX.sub("", other)


def is_blank(text: str) -> bool:
    """Whether a provider would refuse it as a text block: nothing but white space (A-ERR, 2026-11)."""
    return not text or text.isspace()


def current_turn(turns: Sequence[Turn]) -> int:
    """Index of the turn that is being answered: the last user turn that is not only tool results.

    Args:
        turns: As `converse` gives them, beginning with the user's.
    """
    for index in range(len(turns) - 1, 0, -1):
        turn = turns[index]
        if turn.role is Role.USER and not isinstance(turn.parts[-1].content, ToolResult):
            return index
    return 0


def leading_result_count(turn: Turn) -> int:
    """Tool results at the head of a turn, where providers want them."""
    count = 0
    for placed in turn.parts:
        if not isinstance(placed.content, ToolResult):
            break
        count += 1
    return count


def without_thinking_before(turns: Sequence[Turn], end: int) -> list[Turn]:
    """The turns, those before `end` without thinking; neighbours of one role that then meet are merged."""
    kept: list[Turn] = []
    for index, turn in enumerate(turns):
        parts = turn.parts
        if index < end and turn.role is Role.ASSISTANT:
            parts = [placed for placed in parts if not isinstance(placed.content, Thinking)]
            if not parts:
                continue
        if kept and kept[-1].role is turn.role:
            kept[-1] = Turn(turn.role, [*kept[-1].parts, *parts])
        else:
            kept.append(Turn(turn.role, parts))
    return kept


AGAIN = "--"
"""Stands between a provider's id of a call and a number, where the conversation has that id already."""


class CallIds:
    """Ids for the calls of one answer, none of which the conversation has: providers count calls anew in each answer
    (`call_0`), and neither a caller nor Claude takes an id twice.

    Args:
        messages: The conversation that is answered; looked at when a call comes.
    """

    __slots__ = ("_messages", "_numbers", "_taken")

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages = messages
        self._taken: set[str] | None = None
        self._numbers: dict[str, int] = {}
        """By id the last number that was put behind it, so that an answer that repeats one takes no longer for each."""

    def free(self, id_: str) -> str:
        """The provider's `id_`, or that with a number where it is taken."""
        taken = self._taken
        if taken is None:
            taken = self._taken = {
                part.id for message in self._messages for part in message.parts if isinstance(part, ToolCall)
            }
        found = id_
        if found in taken:
            number = self._numbers.get(id_, 1)
            while found in taken:
                number += 1
                found = f"{id_}{AGAIN}{number}"
            self._numbers[id_] = number
        taken.add(found)
        return found


def given_id(id_: str, ids: Container[str]) -> str:
    """The provider's own id of a call of its own, as it gave it before `CallIds` made it one of a kind.

    Args:
        ids: Ids of the calls of the conversation.
    """
    first, again, number = id_.rpartition(AGAIN)
    return first if again and number.isdecimal() and first in ids else id_


def converse(call: Call, model: str, *, signed_text: bool = False) -> Conversation:
    """Merge, order and check the messages of `call` for `model`.

    Args:
        signed_text: Whether the provider signs text, so that blank text with its signature goes back.

    Left out: blank text, and thinking of another model or without its signature (A-THINK, 2026-11: foreign
    thinking is dropped by the provider anyway, unsigned thinking is refused). An assistant message that held
    nothing else disappears.

    Raises:
        InvalidRequest: If the conversation does not start and end with the user, if calls and results do not
            pair, or if a part stands in a message of the wrong role.
    """
    turns, is_plain = _turns(call, model, signed_text, 0)
    _check_ends(call, turns)
    return Conversation(turns, {}, set()) if is_plain else Conversation(turns, *_pair(turns))


def converse_on(call: Call, model: str, start: int) -> Conversation | None:
    """The turns of `call.messages[start:]`, where those before are known to be whole and to end with the user's.

    None when they do not stand by themselves: nothing of the assistant's message at `start` can be sent, so that the
    user's before it and after it become one turn.

    Raises:
        InvalidRequest: As `converse`.
    """
    turns, is_plain = _turns(call, model, False, start)
    if not turns or turns[0].role is Role.USER or turns[-1].role is not Role.USER:
        return None
    return Conversation(turns, {}, set()) if is_plain else Conversation(turns, *_pair(turns))


def _turns(call: Call, model: str, signed_text: bool, start: int) -> tuple[list[Turn], bool]:
    """The turns, and whether they hold nothing but text: then there is nothing to pair."""
    turns: list[Turn] = []
    is_plain = True
    messages = call.messages
    for index in range(start, len(messages)):
        message = messages[index]
        parts = message.parts
        if len(parts) == 1 and type(part := parts[0]) is Text and part.text and not part.text.isspace():
            kept = [Placed(index, 0, part)]  # most messages are such
            if turns and turns[-1].role is message.role:
                turns[-1].parts.extend(kept)
            else:
                turns.append(Turn(message.role, kept))
            continue
        is_plain = False
        kept = [
            Placed(index, position, part)
            for position, part in enumerate(parts)
            if (type(part) is Text and not is_blank(part.text)) or _is_kept(part, model, signed_text)
        ]
        if not kept:
            continue
        if turns and turns[-1].role is message.role:
            turns[-1].parts.extend(kept)
        else:
            turns.append(Turn(message.role, kept))
    return turns, is_plain


def _is_kept(part: Part, model: str, signed_text: bool) -> bool:
    if isinstance(part, Text):  # blank, or it would not be asked
        return signed_text and bool(part.signature) and same_model(part.model, model)
    if isinstance(part, Thinking):
        # Encrypted thinking is Claude's alone (A-THINK, 2026-11); another model's is a mistake and would be refused.
        encrypted_by_another = part.redacted and not model.startswith("claude")
        return bool(part.signature) and same_model(part.model, model) and not encrypted_by_another
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


def _pair(turns: list[Turn]) -> tuple[dict[str, str], set[str]]:
    """Check that every call has its result in the next turn, put results first; return names and bare calls."""
    names: dict[str, str] = {}
    bare: set[str] = set()
    awaited: dict[str, Placed] = {}
    for turn in turns:
        if turn.role is Role.ASSISTANT:
            awaited = _calls(turn, bare)
            names.update(
                (id_, placed.content.name)
                for id_, placed in awaited.items()
                if isinstance(placed.content, ToolCall)
            )
        else:
            _answer(turn, awaited)
            awaited = {}
    return names, bare


def _calls(turn: Turn, bare: set[str]) -> dict[str, Placed]:
    calls: dict[str, Placed] = {}
    thoughtful = -1
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
            if placed.message != thoughtful:
                bare.add(part.id)
        elif isinstance(part, Thinking):
            thoughtful = placed.message
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
