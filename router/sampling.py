"""What the classifier may see of a request, taken from the call: the one place where samples are made in serving.

The rule: the turn's own words, coarse facts of what surrounds them, and what the session remembers; nothing else of
the prompt leaves for the score.
"""

import msgspec

from classifier.followup import is_bare_follow_up
from classifier.history import NO_HISTORY, History
from classifier.policy import SessionState
from classifier.route import Route
from classifier.sample import TEXT_CHARACTERS, TEXT_HEAD_CHARACTERS, Sample, head_and_tail
from router.call import Call, Document, Image, Message, Role, Text, ToolCall, ToolResult
from router.memory import Remembered
from router.request import Request

_NOT_OF_A_MODEL = (Image, Document, ToolResult)


class Past(msgspec.Struct, frozen=True, gc=False):
    """What a sample says of the messages before the turn; kept by a held session, so that no turn walks its history.

    Attributes:
        user_turn_count: User messages that hold words of their own.
        character_count: Characters of both sides.
        user_text: Words of the last user message that has any.
    """

    user_turn_count: int = 0
    character_count: int = 0
    user_text: str = ""

    def with_messages(self, messages: tuple[Message, ...]) -> "Past":
        """The same after these messages."""
        turns, characters = _told(messages)
        return Past(
            self.user_turn_count + turns,
            self.character_count + characters,
            _last_user_text(messages) or self.user_text,
        )


def sample_of(
    request: Request, remembered: Remembered | None, past: Past | None = None, now_s: float | None = None
) -> Sample:
    """Build the classifier's view of one request.

    Args:
        past: Of the messages before the turn, when it is known; None walks them.
        now_s: Seconds since the epoch, from which the time since the last answer counts; None leaves it unknown.
    """
    call = request.call
    turn_start = call.turn_start
    turn = call.messages[turn_start:]
    if past is None:
        past = Past().with_messages(call.messages[:turn_start])
    kinds = [type(part) for message in turn for part in message.parts]
    only_text = kinds == [Text]  # most turns are
    result_count = 0 if only_text else kinds.count(ToolResult)
    return Sample.bounded(
        text=_text(turn),
        previous_user_text=past.user_text,
        turn_index=past.user_turn_count,
        tools_offered_count=len(call.tools),
        tool_result_count=result_count,
        tool_loop=result_count > 0,
        has_image=not only_text and Image in kinds,
        has_document=not only_text and Document in kinds,
        application=call.identity.application or None,
        effort=None if call.effort is None else str(call.effort),
        max_output_tokens=call.max_output_tokens,
        output_schema=bool(call.output_schema_json),
        system_characters=sum([len(text) for text in call.system]),
        history_characters=past.character_count,
        previous_route=None if remembered is None else str(remembered.route),
        action=request.action or None,
        history=NO_HISTORY if remembered is None else _history(remembered, now_s),
    )


def turn_text(call: Call) -> str:
    """The turn's own words as a sample holds them."""
    return head_and_tail(_text(call.messages[call.turn_start :]), TEXT_CHARACTERS, TEXT_HEAD_CHARACTERS)


def _history(remembered: Remembered, now_s: float | None) -> History:
    history, answered_s = remembered.history, remembered.answered_s
    return history if now_s is None or not answered_s else history.idle_for(now_s - answered_s)


def session_state(
    call: Call, sample: Sample, remembered: Remembered | None, *, follow_ups: bool
) -> SessionState:
    """What of the session binds the route.

    Args:
        follow_ups: Whether a bare follow-up inherits its session's route.
    """
    previous = None if remembered is None else remembered.route
    answered_by = _last_model_route(call) or previous
    return SessionState(
        previous_route=answered_by,
        tool_loop_route=answered_by if sample.tool_loop else None,
        turn_index=sample.turn_index,
        is_follow_up=follow_ups and not sample.tool_loop and is_bare_follow_up(sample.text),
    )


def _last_model_route(call: Call) -> Route | None:
    """Route of the model that wrote the last assistant message, as far as its parts say."""
    turn_start = call.turn_start
    if turn_start == 0:
        return None
    for part in call.messages[turn_start - 1].parts:
        if isinstance(part, _NOT_OF_A_MODEL):
            continue
        model = part.model
        if model.startswith("claude"):
            return Route.OPUS
        if model.startswith("gemini"):
            return Route.FLASH
    return None


def _text(messages: tuple[Message, ...]) -> str:
    if len(messages) == 1 and len(messages[0].parts) == 1 and type(part := messages[0].parts[0]) is Text:
        return part.text  # most turns are
    texts = [part.text for message in messages for part in message.parts if isinstance(part, Text)]
    return texts[0] if len(texts) == 1 else "\n".join(texts)


def _last_user_text(messages: tuple[Message, ...]) -> str:
    user = Role.USER
    for message in reversed(messages):
        if message.role is user:
            text = _text((message,))
            if text:
                return text
    return ""


def _told(messages: tuple[Message, ...]) -> tuple[int, int]:
    """User messages that hold words of their own (tool results alone make no turn), and characters of both sides."""
    user, turns, characters = Role.USER, 0, 0
    for message in messages:
        words = False
        for part in message.parts:
            if type(part) is Text:
                words = True
                characters += len(part.text)
            elif isinstance(part, ToolCall):
                characters += len(part.arguments_json)
            elif isinstance(part, ToolResult):
                characters += sum(len(piece.text) for piece in part.content if isinstance(piece, Text))
        turns += words and message.role is user
    return turns, characters
