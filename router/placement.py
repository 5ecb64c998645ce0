"""Where a request's user context stands: before the history, where it is cached, or with the turn, where it may change.

The rule: before the history, unless what was seen of the session says that standing with the turn is cheaper. Before
the history it is read with the rest, and every change rewrites the history. With the turn a change rewrites nothing,
but each turn sends the context anew and rewrites the tool loop of the turn before it, which stood behind the context.
`_gain` and `_price` are these two sides per turn, by the session's own rate of changes, the size of its history, its
loops and its context. To move costs a rewrite of the history, so one change moves nothing, two may, and a session that
has moved goes back only for what pays for that over as many turns again as it was seen for (five at most). Within a
tool loop the context stays where it is, because to move it would rewrite the loop as well, unless it has changed,
which does that anyway.

A new session starts where those of its application would have been cheaper. A request without a context is no change,
no vote and no reason to move. Where a model's thinking is bound to the prompt it was made after, a context that has
changed stands with the turn for as long as such thinking is sent: before it, the provider would refuse the request.

Placement is a value made from what is remembered; deciding changes nothing, so `Explain` shows what `Generate` does.
This module does not know how a placement is spelled, nor whether the provider still holds what a move would rewrite:
it reckons in characters, as if everything sent were cached for five minutes and found again.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from cache.economics import Rates
from router.call import (
    ContextPlacement,
    Document,
    Image,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

PlacementSetting = Literal["auto", "before_history", "after_history"]
"""What an application may set: "auto" decides as above."""

BEFORE, AFTER = ContextPlacement.BEFORE_HISTORY, ContextPlacement.AFTER_HISTORY

LIST_RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)
"""Of every Claude model before any rebate (A-CACHE, pricing, 2026-11); where no price is known."""

_KEPT = 0.8
"""Weight a turn keeps in its session's rate of changes after the next one: the last five or so decide."""
_PRIOR_WEIGHT = 0.5
"""Turns that the prior rate stands for."""
_PRIOR_RATE = 0.1
"""Changes per turn of a session of which nothing is known."""
_CHANGES_NEEDED = 2
"""One change may be the only one."""
_MARGIN = 1.25
"""How much dearer one side must be, by what is estimated, for the other to be taken."""
_HABIT_KEPT = 0.98
"""Weight a session keeps in its application's habit after the next one: the last fifty or so decide."""
_EVIDENCE_WEIGHT = 8.0
"""Sessions that must have been seen twice before their application's habit counts."""
_MEDIA_SIZE = 6000
"""Characters that cost about as many tokens as an image or a page does."""


class ContextSeen(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of a session's context, as of its last answered request that had one.

    Attributes:
        digest: Names its texts, within this process; 0 for none.
        placement: Where they stood.
        message_count: Messages of that request.
        size: Characters of them.
        turn_size: Those of them behind the question of the turn: the tool loop so far.
        turn_weight: Turns that began since the first, the older the less; at most 5.
        change_weight: Changes of the context since then, likewise; a loop may see several in one turn.
        change_count: Changes ever.
        loop_size: Characters of a turn's tool loop when the turn ended, averaged, the older the less.
    """

    digest: int
    placement: ContextPlacement
    message_count: int = 0
    size: int = 0
    turn_size: int = 0
    turn_weight: float = 0.0
    change_weight: float = 0.0
    change_count: int = 0
    loop_size: float = 0.0


NO_CONTEXT = ContextSeen(0, ContextPlacement.BEFORE_HISTORY)


class Habit(msgspec.Struct, frozen=True, gc=False):
    """How the sessions of one application treat their context; weights decay with newer sessions.

    A session's first turns count most, so that no single one makes a habit.

    Attributes:
        turn_weight: Turns that began after the first, of sessions with a context.
        change_weight: Changes of their contexts.
        size_weight: Weighted sum of the characters of the messages before those turns; `loop_weight` of the tool
            loops that ended there.
    """

    turn_weight: float = 0.0
    change_weight: float = 0.0
    size_weight: float = 0.0
    loop_weight: float = 0.0

    @property
    def rate(self) -> float:
        """Changes per turn to expect of a session of which nothing is known."""
        return self.change_weight / self.turn_weight if self.turn_weight >= _EVIDENCE_WEIGHT else _PRIOR_RATE

    def starts_after(self, context_size: int, rates: Rates) -> bool:
        """Whether a new session had better start with its context, of so many characters, behind the history."""
        weight = self.turn_weight
        if weight < _EVIDENCE_WEIGHT:
            return False
        rate, loop_size = self.change_weight / weight, self.loop_weight / weight
        gain = _gain(rate, self.size_weight / weight, rates)
        return gain > _MARGIN * _price(rate, context_size, loop_size, rates)

    def turn(self, seen: ContextSeen, size: int, *, changed: bool) -> "Habit":
        """The habit after a turn began.

        Args:
            seen: Of its session, this turn counted.
            size: Characters of the messages before it.
        """
        weight = _vote(seen)
        kept = 1.0 - (1.0 - _HABIT_KEPT) * weight
        return Habit(
            self.turn_weight * kept + weight,
            self.change_weight * kept + weight * changed,
            self.size_weight * kept + weight * size,
            self.loop_weight * kept + weight * seen.loop_size,
        )

    def change_in_loop(self, seen: ContextSeen) -> "Habit":
        """The habit after a context changed while a tool loop ran."""
        weight = _vote(seen)
        return Habit(self.turn_weight, self.change_weight + weight, self.size_weight, self.loop_weight)


NO_HABIT = Habit()


def digest_of(context: Sequence[str]) -> int:
    """Name a context's texts within this process, 0 for none: other texts or another order, another name."""
    return (hash(tuple(context)) or 1) if context else 0


def place(
    context: Sequence[str],
    messages: Sequence[Message],
    setting: PlacementSetting,
    seen: ContextSeen | None,
    habit: Habit,
    *,
    rates: Rates = LIST_RATES,
    binding_model: str = "",
) -> ContextPlacement:
    """Decide where the context of one request stands.

    Args:
        seen: What is remembered of its session; None for a new one, or a request that names none.
        habit: Of its application.
        binding_model: Model whose thinking it takes back only after the prompt it was made after; "" for none.
    """
    if not context or setting == "before_history":
        return BEFORE
    if setting == "after_history":
        return AFTER
    if seen is not None and not seen.digest and binding_model and _thinks(messages, binding_model):
        return AFTER  # it comes late: in front it would stand before thinking that was made without it
    if seen is None or not seen.digest:
        if habit.turn_weight < _EVIDENCE_WEIGHT:
            return BEFORE
        return AFTER if habit.starts_after(_text_size(context), rates) else BEFORE
    placement = _chosen(context, messages, seen, habit, rates)
    if (
        placement is BEFORE
        and binding_model
        and (seen.change_count or seen.placement is AFTER or seen.digest != digest_of(context))
        and _thinks(messages, binding_model)
    ):
        return AFTER
    return placement


def learn(
    context: Sequence[str],
    messages: Sequence[Message],
    placement: ContextPlacement,
    before: ContextSeen | None,
    habit: Habit,
) -> tuple[ContextSeen, Habit]:
    """What to remember after a session's request was answered, and its application's habit then.

    Args:
        before: What was remembered of the session.
    """
    if not context:
        return (NO_CONTEXT if before is None else before), habit
    digest, count = digest_of(context), len(messages)
    if before is None or not before.digest:
        size, turn_size = _sizes(messages)
        return ContextSeen(digest, placement, count, size, turn_size), habit
    changed, known = digest != before.digest, before.message_count
    begins = _begins_turn(messages, known)
    if count >= known:
        size, turn_size = _sizes(messages[known:], 0 if count == known and begins else before.turn_size)
        size += before.size
    else:
        size, turn_size = _sizes(messages)
    counted = _counted(before, begins=begins, changed=changed)
    seen = ContextSeen(
        digest,
        placement,
        count,
        size,
        turn_size,
        counted.turn_weight,
        counted.change_weight,
        counted.change_count,
        counted.loop_size,
    )
    if begins:
        habit = habit.turn(seen, before.size if count > known else 0, changed=changed)
    elif changed:
        habit = habit.change_in_loop(seen)
    return seen, habit


def _chosen(
    context: Sequence[str], messages: Sequence[Message], seen: ContextSeen, habit: Habit, rates: Rates
) -> ContextPlacement:
    """The cheaper side for a request, given what a move costs."""
    stands = seen.placement
    if stands is BEFORE and seen.change_count + 1 < _CHANGES_NEEDED:
        return BEFORE
    begins, changed = _begins_turn(messages, seen.message_count), seen.digest != digest_of(context)
    if not begins and (stands is AFTER or not changed):
        return stands
    seen = _counted(seen, begins=begins, changed=changed)
    if stands is BEFORE and seen.change_count < _CHANGES_NEEDED:
        return BEFORE
    size = seen.size if begins else seen.size - seen.turn_size
    if len(messages) <= seen.message_count:
        size = 0  # not a continuation of the last request: they share no history
    context_size = _text_size(context)
    rate = (seen.change_weight + _PRIOR_WEIGHT * habit.rate) / (seen.turn_weight + _PRIOR_WEIGHT)
    gain, price = _gain(rate, size, rates), _price(rate, context_size, seen.loop_size, rates)
    if stands is BEFORE:
        return AFTER if gain > _MARGIN * price else BEFORE
    rewrite = (size + context_size) * (rates.write_5m - rates.read)
    pays = price > _MARGIN * gain and (price - gain) * seen.turn_weight > rewrite
    return BEFORE if pays else AFTER


def _gain(rate: float, size: float, rates: Rates) -> float:
    """What a turn saves by a context behind the history: the history, of so many characters, is not rewritten."""
    return rate * size * (rates.write_5m - rates.read)


def _price(rate: float, context_size: float, loop_size: float, rates: Rates) -> float:
    """What that costs a turn: the context sent anew where it had not changed, and the loop before it rewritten.

    In a loop the context is sent twice before it is read: with the question, and written with the first results.
    """
    sent = max(0.0, 1.0 - rate) * context_size * (1.0 - rates.read)
    rewritten = loop_size + context_size if loop_size else 0.0
    return sent + rewritten * (rates.write_5m - rates.read)


def _counted(seen: ContextSeen, *, begins: bool, changed: bool) -> ContextSeen:
    """What is remembered, with one more request; a turn that begins ends the loop of the one before."""
    weight, kept, loop_size = seen.turn_weight, 1.0, seen.loop_size
    if begins:
        weight, kept = weight * _KEPT + 1.0, _KEPT
        loop_size += (seen.turn_size - loop_size) / weight
    return ContextSeen(
        seen.digest,
        seen.placement,
        seen.message_count,
        seen.size,
        seen.turn_size,
        weight,
        seen.change_weight * kept + changed,
        seen.change_count + changed,
        loop_size,
    )


def _vote(seen: ContextSeen) -> float:
    """What a turn of the session weighs in a habit: 1 for the second turn, 0.01 from the tenth on, 0 for the first."""
    return 1.0 / seen.turn_weight**3 if seen.turn_weight else 0.0


def _begins_turn(messages: Sequence[Message], known: int) -> bool:
    """Whether a request asks something its session's last one, of `known` messages, did not.

    A request as long as that one or shorter is a conversation of its own, or a question put again, unless it ends
    within a loop.
    """
    if len(messages) <= known:
        return not messages or _asks(messages[-1])
    return any(_asks(message) for message in messages[known:])


def _asks(message: Message) -> bool:
    """Whether the user says something in it, rather than a tool."""
    return message.role is Role.USER and type(message.parts[-1]) is not ToolResult


def _thinks(messages: Sequence[Message], model: str) -> bool:
    """Whether any thinking of the model is among them, under its alias or its dated id."""
    return any(
        type(part) is Thinking and (part.model.startswith(model) or model.startswith(part.model))
        for message in messages
        if message.role is Role.ASSISTANT
        for part in message.parts
    )


def _sizes(messages: Sequence[Message], turn_size: int = 0) -> tuple[int, int]:
    """Characters of the messages, and of those behind the last question; `turn_size` were there already."""
    size = 0
    for message in messages:
        if _asks(message):
            turn_size = 0
            size += sum([_size(part) for part in message.parts])
        else:
            added = sum([_size(part) for part in message.parts])
            turn_size += added
            size += added
    return size, turn_size


def _text_size(texts: Sequence[str]) -> int:
    return sum([len(text) for text in texts])


def _size(part: Part) -> int:
    """Characters of a part; thinking counts nothing, because nobody tells how much of it the provider keeps."""
    match part:
        case Text(text):
            return len(text)
        case ToolResult(_, content):
            return sum([_size(inner) for inner in content])
        case ToolCall(_, name, arguments_json):
            return len(name) + len(arguments_json)
        case Image():
            return _MEDIA_SIZE
        case Document(media_type, data):
            return len(data) if media_type == "text/plain" else _MEDIA_SIZE
        case Thinking():
            return 0
