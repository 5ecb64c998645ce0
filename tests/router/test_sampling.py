"""What the classifier may see of a request, and what of a session binds the route."""

import msgspec.structs
import pytest

from classifier.history import NO_HISTORY
from classifier.route import Route
from router.call import Document, Effort, Image, Message, Role, Text, Thinking, Tool, ToolCall, ToolResult
from router.memory import Remembered
from router.sampling import sample_of, session_state
from tests.router.rig import asked, said

PICTURE = Image("image/png", b"x")


def loop(model: str = "") -> tuple[Message, ...]:
    """A turn that waits for the model to go on after a tool's result."""
    return (
        said("Sum up account A-17."),
        Message(Role.ASSISTANT, (ToolCall("c1", "find", '{"a":1}', model=model),)),
        Message(Role.USER, (ToolResult("c1", (Text("12 EUR"),)),)),
    )


def test_only_the_turns_own_words_are_scored():
    """History and system are seen as sizes; the turn as words, whoever spoke before."""
    request = asked(
        said("First question"),
        said("An answer", Role.ASSISTANT),
        Message(Role.USER, (Text("Second"), Text("question"), PICTURE)),
        system=("Be brief.",),
        context=("Ann likes tables.",),
    )
    sample = sample_of(request, Remembered(Route.OPUS, 3))
    assert sample.text == "Second\nquestion"
    assert sample.previous_user_text == "First question"
    assert (sample.turn_index, sample.has_image, sample.has_document) == (1, True, False)
    assert (sample.system_characters, sample.history_characters) == (
        9,
        len("First question") + len("An answer"),
    )
    assert sample.previous_route == "opus"
    shown = repr(sample)
    assert "Be brief" not in shown
    assert "tables" not in shown


def test_what_earlier_turns_came_to_is_seen_with_its_age():
    """Routes, the last ending and verdict as remembered; the time since only where somebody keeps time."""
    history = NO_HISTORY.after("flash", "refusal").judged("bad")
    remembered = Remembered(Route.FLASH, 1, history=history, answered_s=1_000.0)
    assert sample_of(asked(said("Again")), remembered, None, 1_090.7).history == history.idle_for(90)
    assert sample_of(asked(said("Again")), remembered).history == history
    unknown = msgspec.structs.replace(remembered, answered_s=0.0)
    assert sample_of(asked(said("Again")), unknown, None, 1_090.7).history.idle_s is None
    assert sample_of(asked(said("Again")), None, None, 1_090.7).history is NO_HISTORY


def test_a_tool_loop_is_seen_as_one():
    """A turn that carries tool results is in a loop; its results' text is not the user's words."""
    sample = sample_of(asked(*loop()), None)
    assert (sample.tool_loop, sample.tool_result_count, sample.text) == (True, 1, "")
    assert sample.previous_user_text == "Sum up account A-17."
    assert sample.previous_route is None


def test_parameters_that_tell_the_kind_are_seen():
    """Tools, effort, schema, documents and action say more of the kind than words do."""
    request = asked(Message(Role.USER, (Text("Read this."), Document("text/plain", b"x"))))
    call = msgspec.structs.replace(
        request.call,
        tools=(Tool("a", "", "{}"), Tool("b", "", "{}")),
        effort=Effort.HIGH,
        output_schema_json="{}",
    )
    sample = sample_of(msgspec.structs.replace(request, call=call, action="upload"), None)
    assert (sample.tools_offered_count, sample.effort, sample.output_schema) == (2, "high", True)
    assert (sample.has_document, sample.action) == (True, "upload")


@pytest.mark.parametrize(
    ("model", "remembered", "expected"),
    [
        ("claude-opus-5-5", None, Route.OPUS),
        ("gemini-3.8-flash", None, Route.FLASH),
        ("gemini-3.8-flash", Remembered(Route.OPUS, 1), Route.FLASH),
        ("", Remembered(Route.OPUS, 1), Route.OPUS),
        ("", None, None),
    ],
)
def test_a_tool_loop_stays_where_it_began(model: str, remembered: Remembered | None, expected: Route | None):
    """The model that made the call says where; else what the session remembers; else nothing binds."""
    request = asked(*loop(model))
    state = session_state(request.call, sample_of(request, remembered), remembered, follow_ups=True)
    assert state.tool_loop_route is expected
    assert not state.is_follow_up


def test_the_last_answers_model_is_found_behind_its_thinking():
    """Thinking names its model too."""
    answer = Message(Role.ASSISTANT, (Thinking("claude-opus-5-5", "", "sig"), Text("Yes.")))
    request = asked(said("Is it?"), answer, said("go on"))
    state = session_state(request.call, sample_of(request, None), None, follow_ups=True)
    assert (state.previous_route, state.tool_loop_route, state.is_follow_up) == (Route.OPUS, None, True)


def test_follow_ups_can_be_switched_off():
    """An operator who does not want them inherited gets each one scored."""
    request = asked(said("Is it?"), said("Yes.", Role.ASSISTANT), said("go on"))
    sample = sample_of(request, Remembered(Route.OPUS, 1))
    assert session_state(request.call, sample, Remembered(Route.OPUS, 1), follow_ups=True).is_follow_up
    assert not session_state(request.call, sample, Remembered(Route.OPUS, 1), follow_ups=False).is_follow_up
