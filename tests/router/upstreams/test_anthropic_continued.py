"""A conversation's next turn, spelled on top of what was spelled before, is byte for byte the whole spelled at once."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cache.prefix import prefix_digests
from cache.rolling import Rolling
from router.call import (
    Call,
    ContextPlacement,
    Effort,
    Image,
    Message,
    Role,
    Text,
    Thinking,
    ToolChoice,
    ToolChoiceMode,
)
from router.errors import InvalidRequest
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render, render_continued, request_body
from tests.contract.generated_calls import CLAUDE_MODELS, OPUS, calls, conversations
from tests.router.upstreams.samples import assistant, call, user

ON = Options(diagnostics=True)


def turns_of(messages: tuple[Message, ...]) -> list[int]:
    """Lengths of the histories that end with the user's turn."""
    return [
        index + 1
        for index, message in enumerate(messages)
        if message.role is Role.USER
        and (index + 1 == len(messages) or messages[index + 1].role is Role.ASSISTANT)
    ]


def assert_equal(found, whole) -> None:
    """Both spellings are the same value, with the same bytes and the same names of every prefix."""
    assert found == whole
    for name in ("ends", "has_image", "recurring_end", "stable_end", "volatile_from", "volatile_end"):
        assert getattr(found.prompt, name) == getattr(whole.prompt, name)
    assert request_body(found, None, stream=True) == request_body(whole, None, stream=True)
    assert prefix_digests(found.prompt) == prefix_digests(whole.prompt)


@settings(max_examples=60)
@given(calls(), conversations(), st.sampled_from(CLAUDE_MODELS), st.data())
def test_a_session_spelled_turn_by_turn_is_the_session_spelled_at_once(asked, more, model, data):
    """Whatever is said, thought, called and shown, and whichever parameters change on the way."""
    traits = traits_of(model)
    answer = Message(Role.ASSISTANT, (Text("So it is."),))
    messages = (*asked.messages, answer, *more)
    ends = turns_of(messages)
    previous, rolling, taken_over = None, None, 0
    for end in ends:
        turn = replace(asked, messages=messages[:end])
        if data.draw(st.integers(0, 5)) == 0:
            turn = replace(turn, effort=data.draw(st.sampled_from((None, *Effort))))
        if asked.tools and data.draw(st.integers(0, 5)) == 0:
            turn = replace(turn, tool_choice=ToolChoice(ToolChoiceMode.NONE))
        try:
            whole = render(turn, model, traits, ON)
        except InvalidRequest as error:
            if previous is not None:
                _same_refusal(previous, turn, model, error)
            continue
        found = None if previous is None else render_continued(previous, turn, model, traits, ON)
        if found is None:
            rolling = Rolling.of(whole.prompt)
        else:
            assert_equal(found, whole)
            rolling = rolling.extend(found.prompt)
            taken_over += 1
        assert rolling.digests == prefix_digests(whole.prompt)
        previous = whole if found is None else found
    if asked.context_placement is ContextPlacement.BEFORE_HISTORY or not asked.context:
        # The first of all turns has nothing to go on from; all others do, unless an answer left nothing to send.
        assert taken_over > 0 or len(ends) < 2 or previous is None or _has_empty_answer(messages, model)


def _has_empty_answer(messages, model) -> bool:
    return any(
        message.role is Role.ASSISTANT and all(isinstance(part, Thinking) for part in message.parts)
        for message in messages
    )


def _same_refusal(previous, turn, model, error) -> None:
    """What the whole is refused for, the continuation is refused for, or it leaves the word to the whole."""
    found = None
    with contextlib.suppress(InvalidRequest):
        found = render_continued(previous, turn, model, traits_of(model), ON)
    assert found is None, str(error)


BASE = call(user("Hello"), system=("Be brief.",), context=("Ann likes lists.",))


def later(base: Call = BASE, **changes) -> Call:
    """The call answered and asked on, with something changed."""
    messages = (*base.messages, assistant("Hi."), user("And now?"))
    return replace(base, messages=messages, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"system": ("Be long.",)},
        {"context": ("Ann likes tables.",)},
        {"context_placement": ContextPlacement.AFTER_HISTORY},
        {"tools": (), "system": ()},
        {"messages": (user("Another beginning"), assistant("Hi."), user("And now?"))},
        {"messages": (*BASE.messages, Message(Role.ASSISTANT, (Text(" "),)), user("And now?"))},
        {"messages": BASE.messages},
    ],
)
def test_what_is_no_continuation_is_left_to_the_whole_spelling(changes):
    """Other layers, another beginning, an answer of which nothing can be sent, no turn at all."""
    before = render(BASE, OPUS, traits_of(OPUS), Options())
    asked = replace(later(), **changes)
    assert render_continued(before, asked, OPUS, traits_of(OPUS), Options()) is None


def test_a_context_that_stands_with_the_turn_is_spelled_anew():
    """It is gone from where it stood, so the blocks before it are not what the next turn has."""
    moved = replace(BASE, context_placement=ContextPlacement.AFTER_HISTORY)
    before = render(moved, OPUS, traits_of(OPUS), Options())
    assert render_continued(before, later(moved), OPUS, traits_of(OPUS), Options()) is None


def test_only_new_blocks_are_made():
    """Blocks of the history before the last turn are the same objects: nothing was spelled or hashed again."""
    traits = traits_of(OPUS)
    second = later()
    before = render(second, OPUS, traits, Options())
    after = render_continued(before, later(second), OPUS, traits, Options())
    turn_from = before.prompt.ends[3] + 1
    pairs = list(zip(before.prompt.blocks, after.prompt.blocks, strict=False))
    assert all(old is new for old, new in pairs[:turn_from])
    assert all(old.content is new.content for old, new in pairs[turn_from:])


def test_an_image_in_the_new_turn_renames_the_messages():
    """An image anywhere enters every message's digest (A-CACHE): then all are hashed anew, and rightly."""
    traits = traits_of(OPUS)
    before = render(BASE, OPUS, traits, Options())
    shown = replace(
        later(),
        messages=(*later().messages[:-1], Message(Role.USER, (Image("image/png", b"x"), Text("This?")))),
    )
    after = render_continued(before, shown, OPUS, traits, Options())
    rolling = Rolling.of(before.prompt).extend(after.prompt)
    assert rolling.digests == prefix_digests(render(shown, OPUS, traits, Options()).prompt)
    assert rolling.digests[2] != prefix_digests(before.prompt)[2]
    assert rolling.fresh_from == 0
