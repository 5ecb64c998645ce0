"""When an answer counts as failed, and what forbids asking Opus: pure rules."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import Call, FinishReason, Identity, Message, Role, Text, Thinking, Tool, ToolCall
from router.escalation import Cascade, Cascades, Circumstances, Objection, Signal, objection, signal_of
from router.reply import Reply

SCHEMA = (
    '{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}'
)
TOOLS = (Tool("count", "", SCHEMA), Tool("free", "", '{"type":"object"}'))
END, TOOL = FinishReason.END_TURN, FinishReason.TOOL_CALL


def call(schema: str = "") -> Call:
    """A request with two tools."""
    return Call(
        identity=Identity(request_id="r"),
        tools=TOOLS,
        messages=(Message(Role.USER, (Text("?"),)),),
        max_output_tokens=100,
        output_schema_json=schema,
    )


def reply(*parts, finish: FinishReason = END) -> Reply:
    """An answer."""
    return Reply(parts=parts, finish_reason=finish, usage=None, model="gemini-3.8-flash")


def made(name: str, arguments_json: str) -> ToolCall:
    """A tool call."""
    return ToolCall("c", name, arguments_json)


ANSWERS = {
    "a plain answer": (reply(Text("Yes.")), "", None),
    "a refusal": (reply(finish=FinishReason.REFUSAL), "", Signal.REFUSAL),
    "a refusal in words": (reply(Text("I cannot."), finish=FinishReason.REFUSAL), "", Signal.REFUSAL),
    "the provider's malformed": (reply(finish=FinishReason.MALFORMED), "", Signal.MALFORMED),
    "a good call": (reply(made("count", '{"n":1}'), finish=TOOL), "", None),
    "a call after words": (reply(Text("Let me see."), made("count", '{"n":1}'), finish=TOOL), SCHEMA, None),
    "no arguments": (reply(made("free", ""), finish=TOOL), "", None),
    "arguments that are no JSON": (reply(made("free", '{"n":'), finish=TOOL), "", Signal.MALFORMED),
    "arguments that are no object": (reply(made("free", "[1]"), finish=TOOL), "", Signal.MALFORMED),
    "arguments of another schema": (reply(made("count", '{"m":1}'), finish=TOOL), "", Signal.MALFORMED),
    "one bad call of two": (
        reply(made("count", '{"n":1}'), made("count", "{}"), finish=TOOL),
        "",
        Signal.MALFORMED,
    ),
    "a call of nothing on offer": (reply(made("other", "{}"), finish=TOOL), "", Signal.MALFORMED),
    "an answer by the schema": (reply(Text('{"n":'), Text(" 1}")), SCHEMA, None),
    "an answer against it": (reply(Text('{"n":"1"}')), SCHEMA, Signal.SCHEMA),
    "an answer in a fence": (reply(Text('```json\n{"n":1}\n```')), SCHEMA, Signal.SCHEMA),
    "not a number": (reply(Text('{"n":NaN}')), SCHEMA, Signal.SCHEMA),
    "half a character": (reply(Text('{"n":1,"s":"\\ud800"}')), '{"type":"object"}', None),
    "nothing": (reply(), "", Signal.EMPTY),
    "blank": (reply(Text(" \n")), "", Signal.EMPTY),
    "thoughts alone": (reply(Thinking("gemini-3.8-flash", "hm", "s")), "", Signal.EMPTY),
    "nothing where a schema was asked for": (reply(), SCHEMA, Signal.EMPTY),
    "cut": (reply(Text("And th"), finish=FinishReason.MAX_TOKENS), "", Signal.TRUNCATED),
    "cut JSON": (reply(Text('{"n":'), finish=FinishReason.MAX_TOKENS), SCHEMA, Signal.TRUNCATED),
    "cut before a word": (reply(finish=FinishReason.MAX_TOKENS), "", Signal.TRUNCATED),
    "a full window": (reply(Text("And"), finish=FinishReason.CONTEXT_WINDOW), "", Signal.TRUNCATED),
    "stopped as asked": (reply(finish=FinishReason.STOP_SEQUENCE), SCHEMA, None),
    "paused": (reply(finish=FinishReason.PAUSED), "", None),
    "another end": (reply(Text("Yes."), finish=FinishReason.OTHER), "", None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_failure_is_what_can_be_seen(name: str) -> None:
    """Every kind of answer has one reading; a cut one is nothing but cut."""
    answer, schema, signal = ANSWERS[name]
    assert signal_of(answer, call(schema)) is signal


@pytest.mark.parametrize("schema", ["", "{", "[]", '{"type":"wrong"}', '{"$ref":"http://elsewhere"}'])
def test_an_unreadable_schema_fails_nobody(schema: str) -> None:
    """What cannot be told is no failure: a second answer costs money."""
    assert signal_of(reply(Text("{}")), call(schema)) is None


@given(st.text(max_size=200), st.sampled_from(list(FinishReason)), st.sampled_from(["", SCHEMA]))
def test_any_text_gets_a_reading(text: str, finish: FinishReason, schema: str) -> None:
    """No answer makes the judge fail, and one that keeps its schema is never failed for it."""
    signal = signal_of(reply(Text(text), finish=finish), call(schema))
    assert signal is None or isinstance(signal, Signal)
    kept = reply(Text(json.dumps({"n": len(text)})), finish=END)
    assert signal_of(kept, call(schema)) is None


FREE = Circumstances(
    begun=False,
    allowed=True,
    forced=False,
    tool_loop=False,
    fell_back=False,
    opus_available=True,
    ceiling_nano_usd=None,
    spent_nano_usd=None,
    expected_nano_usd=None,
    budget_fits=True,
    remaining_s=60.0,
)
FORBIDDEN = {
    Objection.BEGUN: {"begun": True},
    Objection.FORBIDDEN: {"allowed": False},
    Objection.TOOL_LOOP: {"tool_loop": True},
    Objection.FELL_BACK: {"fell_back": True},
    Objection.UNAVAILABLE: {"opus_available": False},
    Objection.CEILING: {"ceiling_nano_usd": 10, "spent_nano_usd": 4, "expected_nano_usd": 7},
    Objection.BUDGET: {"budget_fits": False},
    Objection.DEADLINE: {"remaining_s": 9.9},
}


def test_nothing_forbids_by_itself() -> None:
    """Unknown costs matter under a ceiling only."""
    assert objection(FREE, 10.0) is None


@pytest.mark.parametrize("reason", FORBIDDEN)
def test_each_circumstance_forbids(reason: Objection) -> None:
    """And is named."""
    assert objection(FREE._replace(**FORBIDDEN[reason]), 10.0) is reason


def test_a_forced_route_forbids() -> None:
    """Whoever forces Flash gets Flash."""
    assert objection(FREE._replace(forced=True), 10.0) is Objection.FORBIDDEN


@given(st.integers(0, 100), st.none() | st.integers(0, 100), st.none() | st.integers(0, 100))
def test_the_sum_keeps_the_ceiling(ceiling: int, spent: int | None, expected: int | None) -> None:
    """What Flash cost and what Opus is expected to cost, inclusive; unknown is not zero."""
    now = FREE._replace(ceiling_nano_usd=ceiling, spent_nano_usd=spent, expected_nano_usd=expected)
    allowed = spent is not None and expected is not None and spent + expected <= ceiling
    assert (objection(now, 10.0) is None) == allowed


def test_applications_have_their_own_or_the_general() -> None:
    """A request without an application takes the general one."""
    own = Cascade(frozenset({Signal.SCHEMA}))
    cascades = Cascades(Cascade(frozenset({Signal.REFUSAL})), {"forms": own})
    assert cascades.of("forms") is own
    assert cascades.of("") is cascades.of("other") is cascades.default
