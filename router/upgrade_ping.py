"""The upgrade ping: an idle conversation sent once more with its answer behind it and a mark for an hour at its end.

The rule: it is what the conversation's next request will begin with, as far as the answer is: the last request, the
answer as its caller will give it back, and a placeholder behind the mark. So it is only for callers who were seen to
give answers back as they were given. What it would read and write is known before it is sent; where it would not read
the prefix it is to keep, it is not sent. Its gain rests on an open fact (`cache.facts`, A2), so whoever asks for one
has to know that fact measured. It does not know when it pays (`cache.idle` does).
"""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import msgspec.structs

from cache.plan import Breakpoint
from cache.prompt import Layer
from cache.rules import TTL_1H_S
from cache.schedule import ALMOST_ALL
from classifier.route import Route
from router.call import Call, FinishReason, Message, Part, Role, Text, ToolCall, ToolResult
from router.held_session import kept_parts
from router.preparation import Preparation, Prepared
from router.recipes import PLACEHOLDER, Recipe
from router.reply import Reply
from router.request import Request
from router.unwarmable import Reason, Unwarmable

_CALLERS = 10_000
_KEPT = frozenset({FinishReason.END_TURN, FinishReason.TOOL_CALL})
"""Answers that conversations go on from as they are."""


def answer_of(reply: Reply) -> tuple[Part, ...]:
    """What the conversation's next request will hold of an answer; () where it may not go on from it."""
    return kept_parts(reply.parts) if reply.finish_reason in _KEPT else ()


def upgrade_request(recipe: Recipe) -> Request:
    """The recipe's request with its answer behind it, and a placeholder for the turn after that."""
    call = recipe.request.call
    messages = (*call.messages, Message(Role.ASSISTANT, recipe.answer), *_placeholder(recipe.answer))
    return msgspec.structs.replace(recipe.request, call=msgspec.structs.replace(call, messages=messages))


def upgrade_points(
    preparation: Preparation, prepared: Prepared, recipe: Recipe, now_s: float
) -> tuple[Breakpoint, ...] | Unwarmable:
    """Breakpoints of the upgrade ping, the last behind the answer; else why nobody would gain by it.

    Args:
        prepared: Of `upgrade_request(recipe)`.
    """
    view, last = prepared.views[Route.OPUS], recipe.points[-1]
    prompt, digests = view.prompt, view.digests
    if prompt.volatile_from >= 0:
        return Unwarmable(
            Reason.OTHER_BYTES, "its context moves on with the next turn, and the answer with it"
        )
    if last.position >= len(digests) or digests[last.position] != last.digest:
        return Unwarmable(Reason.OTHER_BYTES, "what would be sent does not begin as its traffic does")
    blocks = prompt.blocks
    end = len(blocks) - 1
    while end > last.position and not (blocks[end].role == "assistant" and blocks[end].markable):
        end -= 1
    if end <= last.position:
        return Unwarmable(Reason.NOTHING_CACHED, "nothing of its answer takes a breakpoint")
    earlier = [point for point in recipe.points if point.ttl_s >= TTL_1H_S and point.layer <= Layer.CONTEXT]
    mark = Breakpoint(
        end, blocks[end].layer, TTL_1H_S, int(view.counts[end]), digests[end], "upgrade ping", 0.0
    )
    points = (*earlier, mark)
    plan = preparation.replanned(prepared, now_s, points=points).views[Route.OPUS].plan
    if plan.full_read_tokens < ALMOST_ALL * last.prefix_tokens:
        return Unwarmable(Reason.OTHER_BYTES, "it would not read the prefix that it is to keep")
    return points


class GivenBack:
    """Which callers give answers back as they were given, by what they did last. Bounded."""

    def __init__(self) -> None:
        """Start having seen nobody."""
        self._unchanged: OrderedDict[tuple[str, str], bool] = OrderedDict()

    def seen(self, owner: tuple[str, str], recipe: Recipe, call: Call) -> None:
        """A conversation goes on: note whether its answer is among what it goes on from.

        Args:
            recipe: Of the turn before.
            call: The turn after it.
        """
        place = len(recipe.request.call.messages)
        if not recipe.answer or place >= len(call.messages):
            return
        self._unchanged[owner] = call.messages[place] == Message(Role.ASSISTANT, recipe.answer)
        self._unchanged.move_to_end(owner)
        if len(self._unchanged) > _CALLERS:
            self._unchanged.popitem(last=False)

    def unchanged(self, owner: tuple[str, str]) -> bool:
        """Whether this tenant's use of an application was last seen to give an answer back as it was."""
        return self._unchanged.get(owner, False)


def _placeholder(answer: Sequence[Part]) -> tuple[Message, ...]:
    """What stands for the next turn: results of the calls that the answer made, or any words."""
    results = [
        ToolResult(call_id=part.id, content=(Text("."),)) for part in answer if isinstance(part, ToolCall)
    ]
    return (Message(Role.USER, tuple(results)),) if results else PLACEHOLDER
