"""Cases of tools: definitions, calls, results, histories of them, and whether a call is wanted."""

import json
from typing import Any

from router.call import (
    Document,
    FinishReason,
    Image,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from router.sandbox import Call as ScriptedCall
from router.sandbox import Text as ScriptedText
from router.upstreams.gemini_render import DUMMY_SIGNATURE
from tests.contract.cases import (
    ABSENT,
    CITY,
    NOW,
    WEATHER,
    Case,
    asks,
    assistant,
    both,
    call,
    user,
)
from tests.contract.cases_content import PDF, PNG, signed

RICH: dict[str, Any] = {
    "type": "object",
    "$defs": {"day": {"type": "string", "format": "date"}},
    "properties": {
        "when": {"$ref": "#/$defs/day"},
        "kinds": {"type": "array", "items": {"enum": ["rain", "wind", 3]}, "minItems": 1},
        "place": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "deep": {"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "boolean"}}},
        "type": {"const": "report"},
    },
    "required": ["when"],
    "additionalProperties": False,
}
OSLO, ROME = ScriptedCall("weather", {"city": "Oslo"}), ScriptedCall("weather", {"city": "Rome"})
RAIN = (Text("rain"),)
_ASKED, _RESULT = "contents.1.parts.0", "contents.2.parts.0.functionResponse"
ANY, NAMED = ToolChoice(ToolChoiceMode.ANY), ToolChoice(ToolChoiceMode.TOOL, "weather")


def loop(*results: ToolResult | str, calls: tuple[ToolCall, ...] = (asks("c1"),), **fields: Any) -> Any:
    """A call in a tool loop that waits for the model."""
    fields.setdefault("tools", (WEATHER,))
    return call("Weather?", assistant(*calls), user(*results), **fields)


DEFINITIONS = [
    Case(
        name="a tool is offered with its schema as given",
        call=call("Hello.", tools=(WEATHER,)),
        says=(ScriptedText("Hi."),),
        sent={
            "anthropic": {
                "tools.0": {
                    "name": "weather",
                    "description": "Tell the weather of a city.",
                    "input_schema": json.loads(CITY),
                },
                "tool_choice": ABSENT,
            },
            "gemini": {
                "tools": [
                    {
                        "functionDeclarations": [
                            {
                                "name": "weather",
                                "description": "Tell the weather of a city.",
                                "parametersJsonSchema": json.loads(CITY),
                            }
                        ]
                    }
                ],
                "toolConfig": ABSENT,
            },
        },
    ),
    Case(
        name="a tool without description or schema is offered",
        call=call("Hello.", tools=(Tool("now", "", ""),)),
        says=(ScriptedText("Hi."),),
        sent={
            "anthropic": {"tools.0": {"name": "now", "input_schema": {"type": "object"}}},
            "gemini": {"tools.0.functionDeclarations.0": {"name": "now"}},
        },
    ),
    Case(
        name="a rich JSON Schema is taken by both",
        call=call("Hello.", tools=(Tool("report", "", json.dumps(RICH)),)),
        says=(ScriptedText("Hi."),),
        sent={
            "anthropic": {"tools.0.input_schema": RICH},
            "gemini": {"tools.0.functionDeclarations.0.parametersJsonSchema": RICH},
        },
    ),
    Case(
        name="many tools keep their order",
        call=call("Hello.", tools=tuple(Tool(f"t{n}-x_{n}", "", CITY) for n in (3, 1, 2))),
        says=(ScriptedText("Hi."),),
        sent={
            "anthropic": {"tools.0.name": "t3-x_3", "tools.2.name": "t2-x_2"},
            "gemini": {"tools.0.functionDeclarations.0.name": "t3-x_3", "tools.1": ABSENT},
        },
    ),
]

ANSWERED = [
    Case(
        name="a call is answered",
        call=call("Weather?", tools=(WEATHER,)),
        says=(OSLO,),
        finish=FinishReason.TOOL_CALL,
        parts=(ToolCall,),
    ),
    Case(
        name="words may come before a call",
        call=call("Weather?", tools=(WEATHER,)),
        says=(ScriptedText("Let me see."), OSLO),
        finish=FinishReason.TOOL_CALL,
        parts=(Text, ToolCall),
    ),
    Case(
        name="two calls are answered at once",
        call=call("Weather?", tools=(WEATHER,)),
        says=(OSLO, ROME),
        finish=FinishReason.TOOL_CALL,
        parts=(ToolCall, ToolCall),
    ),
    Case(
        name="five calls of two tools are answered at once",
        call=call("Weather?", tools=(WEATHER, NOW)),
        says=(OSLO, ScriptedCall("now", {}), ROME, OSLO, ScriptedCall("now", {})),
        finish=FinishReason.TOOL_CALL,
        parts=(ToolCall,) * 5,
    ),
    Case(
        name="arguments arrive as they were made",
        call=call("Weather?", tools=(Tool("report", "", json.dumps(RICH)),)),
        says=(ScriptedCall("report", {"z": [1, None, "ü🦊"], "a": {"deep": {"b": 1.5, "a": True}}}),),
        finish=FinishReason.TOOL_CALL,
        parts=(ToolCall,),
    ),
]

RESULTS = [
    Case(
        name="a result is the answer to its call",
        call=loop(ToolResult("c1", RAIN)),
        sent={
            "anthropic": {
                "messages.1.content.0": {
                    "type": "tool_use",
                    "id": "c1",
                    "name": "weather",
                    "input": {"city": "Oslo"},
                },
                "messages.2.content.0": {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "content": [{"type": "text", "text": "rain"}],
                },
            },
            "gemini": {
                f"{_ASKED}.functionCall": {"id": "c1", "name": "weather", "args": {"city": "Oslo"}},
                _RESULT: {"id": "c1", "name": "weather", "response": {"output": "rain"}},
            },
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="a failed tool says so",
        call=loop(ToolResult("c1", (Text("no such city"),), is_error=True)),
        sent={
            "anthropic": {"messages.2.content.0.is_error": True},
            "gemini": {f"{_RESULT}.response": {"error": "no such city"}},
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="a tool may have nothing to say",
        call=loop(ToolResult("c1", ())),
        sent={
            "anthropic": {"messages.2.content.0": {"type": "tool_result", "tool_use_id": "c1"}},
            "gemini": {f"{_RESULT}.response": {"output": ""}},
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="texts of one result stay in order",
        call=loop(ToolResult("c1", (Text("rain"), Text(" "), Text("and wind")))),
        sent={
            "anthropic": {"messages.2.content.0.content.1.text": "and wind"},
            "gemini": {f"{_RESULT}.response.output": "rain\n \nand wind"},
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="an image may be a result",
        call=loop(ToolResult("c1", (Text("map"), Image("image/png", PNG)))),
        sent={
            "anthropic": {"messages.2.content.0.content.1.type": "image"},
            "gemini": {
                f"{_RESULT}.parts.0.inlineData.mimeType": "image/png",
                f"{_RESULT}.response.output": "map",
            },
        },
        unplayed=frozenset({"gemini"}),
        parts=None,
        finish=None,
    ),
    Case(
        name="a document may be a result",
        call=loop(ToolResult("c1", (Document("application/pdf", PDF),))),
        sent={
            "anthropic": {"messages.2.content.0.content.0.type": "document"},
            "gemini": {f"{_RESULT}.parts.0.inlineData.mimeType": "application/pdf"},
        },
        unplayed=frozenset({"gemini"}),
        parts=None,
        finish=None,
    ),
    Case(
        name="results go in the order of their calls, words after them",
        call=loop(
            "Hurry.", ToolResult("c2", RAIN), ToolResult("c1", RAIN), calls=(asks("c1"), asks("c2", "Rome"))
        ),
        sent={
            "anthropic": {
                "messages.2.content.0.tool_use_id": "c1",
                "messages.2.content.1.tool_use_id": "c2",
                "messages.2.content.2.text": "Hurry.",
            },
            "gemini": {f"{_RESULT}.id": "c1", "contents.2.parts.2.text": "Hurry."},
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="results may come in two messages",
        call=call(
            "Weather?",
            assistant(asks("c1"), asks("c2")),
            user(ToolResult("c2", RAIN)),
            user(ToolResult("c1", RAIN)),
            tools=(WEATHER,),
        ),
        sent={
            "anthropic": {"messages.2.content.0.tool_use_id": "c1", "messages.3": ABSENT},
            "gemini": {f"{_RESULT}.id": "c1", "contents.3": ABSENT},
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="only a step's first call bears a signature",
        call=call(
            "Weather?",
            assistant(asks("c1"), asks("c2")),
            user(ToolResult("c1", RAIN), ToolResult("c2", RAIN)),
            assistant("Once more.", asks("c3")),
            user(ToolResult("c3", RAIN)),
            tools=(WEATHER,),
        ),
        sent={
            "anthropic": {"messages.3.content.1.id": "c3"},
            "gemini": {
                f"{_ASKED}.thoughtSignature": DUMMY_SIGNATURE,
                "contents.1.parts.1.thoughtSignature": ABSENT,
                "contents.3.parts.0.thoughtSignature": ABSENT,
                "contents.3.parts.1.thoughtSignature": DUMMY_SIGNATURE,
            },
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="ids of any letters are mapped alike in call and result",
        call=loop(ToolResult("function-call/1:å", RAIN), calls=(asks("function-call/1:å"),)),
        sent={
            "gemini": {f"{_ASKED}.functionCall.id": "function-call/1:å", f"{_RESULT}.id": "function-call/1:å"}
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="old calls are history though no tool is offered now",
        call=call(
            "Weather?", assistant(asks("c1")), user(ToolResult("c1", RAIN)), assistant("Rain."), "Thanks."
        ),
        sent={
            "anthropic": {"tools": ABSENT, "messages.1.content.0.type": "tool_use"},
            "gemini": {"tools": ABSENT, f"{_ASKED}.thoughtSignature": DUMMY_SIGNATURE},
        },
    ),
    Case(
        name="another model's calls come without its thinking and signature",
        call=loop(
            ToolResult("t1", RAIN),
            calls=(
                signed("claude-opus-4-7"),  # type: ignore[arg-type]
                ToolCall(
                    "t1",
                    "weather",
                    '{"city":"Oslo"}',
                    signed("gemini-2.5-flash").signature,
                    "gemini-2.5-flash",
                ),
            ),
        ),
        sent={
            "anthropic": {"messages.1.content.0.type": "tool_use", "messages.1.content.1": ABSENT},
            "gemini": {f"{_ASKED}.thoughtSignature": DUMMY_SIGNATURE, "contents.1.parts.1": ABSENT},
        },
        parts=None,
        finish=None,
    ),
    Case(
        name="a call without its result is refused",
        call=call("Weather?", assistant(asks("c1")), "And?", tools=(WEATHER,)),
        refused=both("messages[1].parts[0].tool_call.id"),
    ),
    Case(
        name="a result without its call is refused",
        call=loop(ToolResult("c1", RAIN), ToolResult("c9", RAIN)),
        refused=both("messages[2].parts[1].tool_result.tool_call_id"),
    ),
    Case(
        name="arguments that are no object are refused",
        call=loop(ToolResult("c1", RAIN), calls=(ToolCall("c1", "weather", "[1]"),)),
        refused=both("messages[1].parts[0].tool_call.arguments_json"),
    ),
]

CHOICES = [
    Case(
        name="calling may be forbidden",
        call=call("Weather?", tools=(WEATHER,), tool_choice=ToolChoice(ToolChoiceMode.NONE)),
        sent={
            "anthropic": {"tool_choice": {"type": "none"}},
            "gemini": {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}},
        },
    ),
    Case(
        name="some call may be forced where the model lets itself be",
        call=call("Weather?", tools=(WEATHER,), tool_choice=ANY),
        finish=FinishReason.TOOL_CALL,
        parts=None,
        says=(OSLO,),
        sent={"gemini": {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}},
        refused={"anthropic": "tool_choice.mode"},
    ),
    Case(
        name="one tool may be forced where the model lets itself be",
        call=call("Weather?", tools=(WEATHER, NOW), tool_choice=NAMED),
        finish=FinishReason.TOOL_CALL,
        parts=None,
        says=(OSLO,),
        sent={
            "gemini": {
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}}
            }
        },
        refused={"anthropic": "tool_choice.mode"},
    ),
    Case(
        name="one call at a time, where the model can be kept to it",
        call=call("Weather?", tools=(WEATHER,), tool_choice=ToolChoice(disable_parallel=True)),
        says=(OSLO,),
        finish=FinishReason.TOOL_CALL,
        parts=None,
        sent={"anthropic": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}},
        refused={"gemini": "tool_choice.disable_parallel"},
    ),
    Case(
        name="forcing a call without tools is refused",
        call=call("Weather?", tool_choice=ANY),
        refused=both("tool_choice.mode"),
    ),
    Case(
        name="forcing a tool that is not offered is refused",
        call=call("Weather?", tools=(NOW,), tool_choice=NAMED),
        refused=both("tool_choice.tool_name"),
    ),
]

CASES = [*DEFINITIONS, *ANSWERED, *RESULTS, *CHOICES]
