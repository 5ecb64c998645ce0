"""Directives carried by the request."""

import anthropic
import pytest

from router.sandbox.directives import DirectiveError, read


async def test_text_tool_and_thinking_are_dictated(bench, kit):
    """`say`, `tool` with `args`, and `thinking` shape the answer."""
    tool = {"name": "find", "description": "d", "input_schema": {"type": "object"}}
    order = '[[sandbox say="Well." thinking=33 tool=find args={"q": ["a", ["b"]]}]] please'
    message = await bench.ask(max_tokens=500, tools=[tool], messages=[kit.user(order)])
    thinking, said, call = message.content
    assert (thinking.type, said.text, call.input) == ("thinking", "Well.", {"q": ["a", ["b"]]})
    assert message.usage.output_tokens_details.thinking_tokens == 33


async def test_length_is_exact(bench, kit):
    """`tokens=N` gives an answer of exactly N tokens, capped by the request."""
    message = await bench.ask(max_tokens=500, messages=[kit.user("[[sandbox tokens=200 thinking=0]]")])
    assert (message.usage.output_tokens, message.stop_reason) == (200, "end_turn")
    message = await bench.ask(max_tokens=50, messages=[kit.user("[[sandbox tokens=200 thinking=0]]")])
    assert (message.usage.output_tokens, message.stop_reason) == (50, "max_tokens")


async def test_fault_hits_its_upstream_only_and_as_often_as_told(bench, kit):
    """`upstream` restricts, `times` counts tries of the same request."""
    order = "[[sandbox fault=overloaded upstream=anthropic times=2]] go"
    for _ in range(2):
        with pytest.raises(anthropic.OverloadedError):
            await bench.ask(messages=[kit.user(order)])
    await bench.ask(messages=[kit.user(order)])
    answer = await bench.gemini.aio.models.generate_content(model=kit.FLASH, contents=order)
    assert answer.text


async def test_only_the_last_user_turn_is_obeyed(bench, kit):
    """An order in the history is history."""
    turns = [kit.user("[[sandbox fault=internal]]"), kit.assistant("ok"), kit.user("And?")]
    await bench.ask(messages=turns)
    with pytest.raises(anthropic.InternalServerError):
        await bench.ask(messages=turns[:1])


async def test_header_is_obeyed_without_touching_the_prompt(bench, kit):
    """`x-sandbox-directive` orders the same and costs no tokens."""
    message = await bench.ask(extra_headers={"x-sandbox-directive": 'say="From above." thinking=0'})
    assert message.content[0].text == "From above."


async def test_a_typo_is_a_400(bench, kit):
    """An unreadable directive never passes as an ordinary prompt."""
    with pytest.raises(anthropic.BadRequestError, match="sandbox directive"):
        await bench.ask(messages=[kit.user("[[sandbox fault=overlaoded]]")])


@pytest.mark.parametrize(
    "text",
    [
        "[[sandbox nonsense=1]]",
        "[[sandbox tokens=many]]",
        "[[sandbox say=]]",
        '[[sandbox say="open]]',
        "[[sandbox tokens=3",
        '[[sandbox args={"a":1}]]',
    ],
)
def test_unreadable_directives_are_errors(text):
    """Unknown keys, wrong types, missing values and missing ends are named."""
    with pytest.raises(DirectiveError):
        read([text], None, "anthropic")


def test_several_directives_combine():
    """Later keys win, calls add up, other text is ignored."""
    found = read(
        ["a [[sandbox tokens=3]] b [[sandbox tokens=4 tool=x]]", "[[sandbox tool=y]]"], "thinking=5", "gemini"
    )
    assert (found.tokens, found.thinking, found.calls) == (4, 5, (("x", None), ("y", None)))
