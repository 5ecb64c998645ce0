"""What cannot be warmed says why, in few words, once."""

import msgspec
import pytest

from router.call import Call, Identity, Message, Role, Text, Tool, ToolChoice, ToolChoiceMode
from router.unwarmable import LOG_LIMIT, Notices, Reason, Unwarmable, objection

CALL = Call(
    identity=Identity(request_id="", application="desk"),
    tools=(),
    system=(),
    context=(),
    messages=(Message(Role.USER, (Text("."),)),),
    max_output_tokens=0,
)
TOOL = Tool("find", "Find it.", '{"type":"object"}')


def changed(**fields) -> Call:
    """The call with other parameters."""
    return msgspec.structs.replace(CALL, **fields)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (CALL, None),
        (changed(output_schema_json="{}"), Reason.OUTPUT_SCHEMA),
        (changed(output_schema_json="{}", max_output_tokens=1), None),
        (changed(tools=(TOOL,), tool_choice=ToolChoice(ToolChoiceMode.ANY)), Reason.TOOL_CHOICE),
        (changed(tools=(TOOL,), tool_choice=ToolChoice(ToolChoiceMode.TOOL, "find")), Reason.TOOL_CHOICE),
        (changed(tools=(TOOL,), tool_choice=ToolChoice(ToolChoiceMode.NONE)), None),
        (changed(tool_choice=ToolChoice(ToolChoiceMode.ANY)), None),
    ],
    ids=["plain", "schema", "schema with a token", "any", "tool", "none", "no tools"],
)
def test_what_a_call_of_no_tokens_must_not_ask_for(call, reason):
    """An output schema, a forced tool call; neither matters where a token is asked for, nor a choice without tools."""
    found = objection(call)
    assert (None if found is None else found.reason) is reason
    assert found is None or found.sentence.startswith("not warmable: ")


def test_each_application_and_reason_is_said_once(caplog):
    """Repeats are counted by metrics, not by the log; made-up applications do not fill it."""
    notices = Notices()
    short = Unwarmable(Reason.TOO_SHORT, "shorter than the model's minimum")
    for _ in range(5):
        notices.note("desk", "session_start", short)
    assert caplog.text.count("are not warmable (too_short") == 1
    notices.note("desk", "idle", Unwarmable(Reason.REFUSED, "no"))
    assert "(refused, first on idle)" in caplog.text
    for number in range(2 * LOG_LIMIT):
        notices.note(f"made up {number}", "idle", short)
    assert len(caplog.records) == LOG_LIMIT
