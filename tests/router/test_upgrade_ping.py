"""The upgrade ping's request: what the conversation's next one begins with, or nothing at all."""

import pytest

from cache.plan import Breakpoint
from cache.prompt import Layer
from cache.rules import TTL_1H_S, TTL_5M_S
from classifier.route import Route
from router.call import FinishReason, Message, Role, Text, ToolCall, ToolResult
from router.recipes import Recipe, recipe_of
from router.reply import Reply
from router.unwarmable import Reason, Unwarmable
from router.upgrade_ping import GivenBack, answer_of, upgrade_points, upgrade_request
from tests.router.rig import Rig, asked, rigged, said

LONG = "word " * 3_000
WORDS = (Text("Three of them, since Monday."),)
CALLS = (Text("Let me look."), ToolCall("toolu_1", "search", "{}"))


def left(rig: Rig, answer: tuple = WORDS, **fields: object) -> tuple[Recipe, tuple[Message, ...]]:
    """Recipe of a first turn that was answered so, its prefix ending with the question; the messages of the turn."""
    request = asked(said(LONG), route=Route.OPUS, system=(LONG,), session="s", **fields)
    view = rig.prepare(request).views[Route.OPUS]
    end = len(view.digests) - 1
    points = [
        Breakpoint(place, layer, ttl_s, int(view.counts[place]), view.digests[place], "", 0.0)
        for place, layer, ttl_s in ((0, Layer.SYSTEM, TTL_1H_S), (end, Layer.TURN, TTL_5M_S))
    ]
    recipe = recipe_of(request, points, 0, answer=answer, answer_tokens=9)
    view_index = rig.beliefs.index
    plan = (
        rig.preparation.replanned(rig.prepare(request), rig.clock.now(), points=points).views[Route.OPUS].plan
    )
    view_index.begin(view.scope, plan, rig.clock.now())
    view_index.first_byte(view.scope, plan, rig.clock.now(), rig.clock.now())
    return recipe, request.call.messages


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        (WORDS, said("And before?")),
        (CALLS, Message(Role.USER, (ToolResult("toolu_1", (Text("12 rows"),)),))),
    ],
    ids=["words", "tool call"],
)
async def test_it_ends_where_the_next_request_will_go_on_from(answer: tuple, then: Message) -> None:
    """The mark's prefix is one of the next request's; marks before it are for an hour, as the provider wants it."""
    async with rigged() as rig:
        recipe, messages = left(rig, answer)
        rig.clock.advance(285)
        prepared = rig.prepare(upgrade_request(recipe))
        points = upgrade_points(rig.preparation, prepared, recipe, rig.clock.now())
        assert not isinstance(points, Unwarmable), points
        assert {point.ttl_s for point in points} == {TTL_1H_S}
        follow_up = asked(
            *messages, Message(Role.ASSISTANT, answer), then, route=Route.OPUS, system=(LONG,), session="s"
        )
        assert points[-1].digest in rig.prepare(follow_up).views[Route.OPUS].digests
        assert points[-1].digest != recipe.key


async def test_what_would_not_read_its_prefix_is_not_sent() -> None:
    """It has lapsed, or what would be sent begins otherwise: a write that nobody asked for."""
    async with rigged() as rig:
        recipe, _ = left(rig)
        rig.clock.advance(400)
        prepared = rig.prepare(upgrade_request(recipe))
        lapsed = upgrade_points(rig.preparation, prepared, recipe, rig.clock.now())
        assert isinstance(lapsed, Unwarmable)
        assert lapsed.reason is Reason.OTHER_BYTES
        other = rig.prepare(asked(said("else"), route=Route.OPUS))
        assert isinstance(upgrade_points(rig.preparation, other, recipe, rig.clock.now()), Unwarmable)


async def test_only_who_gave_an_answer_back_unchanged_is_believed_to_do_it_again() -> None:
    """By what each tenant's use of an application did last: trimmed once, nothing is sent until it is whole again."""
    async with rigged() as rig:
        recipe, messages = left(rig)
        owner, given_back = ("acme", "desk"), GivenBack()
        assert not given_back.unchanged(owner)
        for answer, unchanged in ((WORDS, True), ((Text("Three of them"),), False), (WORDS, True)):
            call = asked(*messages, Message(Role.ASSISTANT, answer), said("And?")).call
            given_back.seen(owner, recipe, call)
            assert given_back.unchanged(owner) == unchanged
        assert not given_back.unchanged(("globex", "desk"))


@pytest.mark.parametrize(
    ("reason", "kept"),
    [(FinishReason.END_TURN, True), (FinishReason.TOOL_CALL, True), (FinishReason.REFUSAL, False)],
)
def test_an_answer_that_conversations_do_not_go_on_from_is_not_written(
    reason: FinishReason, kept: bool
) -> None:
    """Nor blank text, which no request may carry."""
    reply = Reply(parts=(*WORDS, Text(" ")), finish_reason=reason, usage=None, model="m")
    assert answer_of(reply) == (WORDS if kept else ())
