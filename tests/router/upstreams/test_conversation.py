"""Conversations are merged, ordered and checked once, for both providers."""

import pytest

from router.call import Call, Image, Message, Text, Thinking, ToolCall, ToolResult
from router.errors import InvalidRequest
from router.upstreams.conversation import Conversation, converse, same_model
from tests.router.upstreams.samples import OPUS, assistant, call, tool_loop, user


def shape(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [(t.role.value, [type(p.content).__name__ for p in t.parts]) for t in conversation.turns]


def test_adjacent_messages_of_one_role_become_one_turn() -> None:
    """Both providers merge them, so the blocks must not depend on how the caller cut them."""
    merged = converse(call(user("a"), user("b"), assistant("c"), assistant("d"), user("e")), OPUS)
    assert shape(merged) == [("user", ["Text"] * 2), ("assistant", ["Text"] * 2), ("user", ["Text"])]


def test_tool_results_come_first_and_in_call_order() -> None:
    """Anthropic wants results first; call order keeps bytes equal when parallel tools finish in another
    order.
    """
    before, calls, _ = tool_loop()
    late = user("Also this.", ToolResult("call_b", (Text("B"),)), ToolResult("call_a", (Text("A"),)))
    parts = converse(call(before, calls, late), OPUS).turns[-1].parts
    assert [getattr(p.content, "call_id", "text") for p in parts] == ["call_a", "call_b", "text"]


def test_results_may_be_spread_over_messages_of_one_turn() -> None:
    """Two user messages in a row are one turn, so they answer the calls together."""
    before, calls, _ = tool_loop()
    results = [user(ToolResult(i, (Text("x"),))) for i in ("call_a", "call_b")]
    assert len(converse(call(before, calls, *results), OPUS).turns[-1].parts) == 2


@pytest.mark.parametrize(
    "thinking",
    [Thinking("gemini-3.8-flash", "hm", "sig"), Thinking(OPUS, "hm", ""), Thinking("", "hm", "sig")],
    ids=["of another model", "unsigned", "of no model"],
)
def test_thinking_that_cannot_go_back_is_left_out(thinking: Thinking) -> None:
    """An assistant message that held nothing else disappears, and its neighbours merge."""
    assert shape(converse(call(user("a"), assistant(thinking), user("b")), OPUS)) == [("user", ["Text"] * 2)]


def test_own_thinking_is_kept_across_alias_and_dated_id() -> None:
    """A dated id and its alias name one model."""
    own = Thinking("claude-opus-4-5-20251101", "", "sig")
    kept = converse(call(user("a"), assistant(own, "b"), user("c")), "claude-opus-4-5")
    assert kept.turns[1].parts[0].content == own
    assert not same_model("claude-opus-4-5", "claude-opus-4-6")


def test_empty_text_is_left_out() -> None:
    """Both providers refuse an empty text block."""
    assert shape(converse(call(user("", "a"), assistant(""), user("b")), OPUS)) == [("user", ["Text"] * 2)]


ANSWER = ToolResult("call_a", (Text("A"),))
REFUSED: list[tuple[str, Call, str]] = [
    ("prefill", call(user("a"), assistant("b")), "messages[1].role"),
    ("assistant first", call(assistant("a"), user("b")), "messages[0].role"),
    ("nothing", call(user("")), "messages"),
    ("result without call", call(user("a", ANSWER)), "messages[0].parts[1].tool_result.tool_call_id"),
    (
        "result twice",
        call(*tool_loop()[:2], user(ANSWER, ANSWER)),
        "messages[2].parts[1].tool_result.tool_call_id",
    ),
    ("call without result", call(*tool_loop()[:2], user(ANSWER)), "messages[1].parts[2].tool_call.id"),
    (
        "result a turn late",
        call(*tool_loop()[:2], user("x"), assistant("y"), user(ANSWER)),
        "messages[1].parts[1]",
    ),
    (
        "same id twice",
        call(user("a"), assistant(*[ToolCall("c", "f", "{}")] * 2), user("b")),
        "messages[1].parts[1]",
    ),
    ("call by the user", call(user(ToolCall("c", "f", "{}"))), "messages[0].parts[0]"),
    (
        "image by the model",
        call(user("a"), assistant(Image("image/png", b"x")), user("b")),
        "messages[1].parts[0]",
    ),
]


@pytest.mark.parametrize(("refused", "field"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_no_provider_takes_is_refused_by_field(refused: Call, field: str) -> None:
    """A caller is told which field is wrong, before anything is sent."""
    with pytest.raises(InvalidRequest) as caught:
        converse(refused, OPUS)
    assert caught.value.field.startswith(field)


def test_context_lets_a_conversation_open_with_the_assistant() -> None:
    """Context is sent as user text, so the wire still starts with the user."""
    messages: tuple[Message, ...] = (assistant("Welcome back."), user("Hi"))
    assert len(converse(call(*messages, context=("Ann",)), OPUS).turns) == 2
