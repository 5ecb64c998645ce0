"""Cases of how answers are bounded and how they end: thinking, schemas, limits, stop and finish reasons."""

import json

from router.call import Effort, FinishReason, Text, Thinking, ToolCall
from router.sandbox import Text as ScriptedText
from tests.contract.cases import ABSENT, CITY, WEATHER, Case, both, call
from tests.contract.cases_tools import OSLO

SAYS = (ScriptedText("So it is. And more."),)
_OPEN = '{"type":"object","properties":{"city":{"type":"string"}}}'
_MANY = json.dumps(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {f"p{n}": {"type": "string"} for n in range(25)},
    }
)
_MIXED = json.dumps(
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["c"],
        "$defs": {"c": {"type": "string"}},
        "properties": {"c": {"$ref": "#/$defs/c", "description": "A city."}},
    }
)

THINKING = [
    Case(
        name="thinking stays silent unless it is asked for",
        call=call("Why?"),
        says=SAYS,
        thinking=60,
        parts={"anthropic": (Thinking, Text), "gemini": (Text,)},
        sent={
            "anthropic": {"thinking": ABSENT},
            "gemini": {"generationConfig.thinkingConfig": ABSENT},
        },
    ),
    Case(
        name="a summary of thinking comes on request",
        call=call("Why?", include_thinking=True),
        says=SAYS,
        thinking=60,
        parts=(Thinking, Text),
        sent={
            "anthropic": {"thinking": {"type": "adaptive", "display": "summarized"}},
            "gemini": {"generationConfig.thinkingConfig": {"includeThoughts": True}},
        },
    ),
    Case(
        name="effort and summaries go together",
        call=call("Why?", include_thinking=True, effort=Effort.HIGH),
        says=SAYS,
        thinking=60,
        parts=(Thinking, Text),
        sent={
            "anthropic": {"output_config": {"effort": "high"}, "thinking.display": "summarized"},
            "gemini": {"generationConfig.thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}},
        },
    ),
    Case(
        name="thinking comes before a call",
        call=call("Weather?", tools=(WEATHER,), include_thinking=True),
        says=(OSLO, OSLO),
        thinking=60,
        finish=FinishReason.TOOL_CALL,
        parts=(Thinking, ToolCall, ToolCall),
    ),
    Case(
        name="thinking, words and calls keep their order",
        call=call("Weather?", tools=(WEATHER,)),
        says=(ScriptedText("Let me see."), OSLO),
        thinking=60,
        finish=FinishReason.TOOL_CALL,
        parts={"anthropic": (Thinking, Text, ToolCall), "gemini": (Text, ToolCall)},
    ),
]

SCHEMAS = [
    Case(
        name="an answer follows its schema",
        call=call("Where?", output_schema_json=CITY),
        sent={
            "anthropic": {"output_config": {"format": {"type": "json_schema", "schema": json.loads(CITY)}}},
            "gemini": {
                "generationConfig.responseMimeType": "application/json",
                "generationConfig.responseJsonSchema": json.loads(CITY),
            },
        },
    ),
    Case(
        name="schema, effort and tools go together",
        call=call("Where?", output_schema_json=CITY, effort=Effort.LOW, tools=(WEATHER,)),
        says=(ScriptedText('{"city":"Oslo"}'),),
        sent={
            "anthropic": {"output_config.effort": "low", "output_config.format.type": "json_schema"},
            "gemini": {"generationConfig.thinkingConfig": {"thinkingLevel": "LOW"}},
        },
    ),
    Case(
        name="an open schema is refused by the one that compiles it",
        call=call("Where?", output_schema_json=_OPEN),
        refused={"anthropic": "output_schema_json"},
    ),
    Case(
        name="a schema of too many options is refused by the one that compiles it",
        call=call("Where?", output_schema_json=_MANY),
        refused={"anthropic": "output_schema_json"},
    ),
    Case(
        name="words beside a reference are refused by the one that takes it alone",
        call=call("Where?", output_schema_json=_MIXED),
        says=(ScriptedText('{"c":"Oslo"}'),),
        refused={"gemini": "output_schema_json"},
    ),
    Case(
        name="a schema that is no object is refused",
        call=call("Where?", output_schema_json="[]"),
        refused=both("output_schema_json"),
    ),
]

LIMITS = [
    Case(
        name="a stop sequence ends the answer",
        call=call("Count.", stop_sequences=("three", "STOP")),
        says=(ScriptedText("one two three four"),),
        finish={"anthropic": FinishReason.STOP_SEQUENCE, "gemini": FinishReason.END_TURN},
        sent={
            "anthropic": {"stop_sequences": ["three", "STOP"]},
            "gemini": {"generationConfig.stopSequences": ["three", "STOP"]},
        },
        facts={"anthropic": {"stop_sequence": "three"}, "gemini": {"stop_sequence": ""}},
    ),
    Case(
        name="more stop sequences than one takes are refused by it",
        call=call("Count.", stop_sequences=tuple("abcdef")),
        says=(ScriptedText("1 2 3"),),
        refused={"gemini": "stop_sequences"},
    ),
    Case(
        name="the answer ends where its tokens do",
        call=call("Tell a very long story.", max_output_tokens=12),
        says=(ScriptedText("word " * 100),),
        finish=FinishReason.MAX_TOKENS,
        sent={"anthropic": {"max_tokens": 12}, "gemini": {"generationConfig.maxOutputTokens": 12}},
    ),
    Case(
        name="thinking may use up all tokens",
        call=call("Think.", max_output_tokens=40),
        says=SAYS,
        thinking=40,
        finish=FinishReason.MAX_TOKENS,
        parts=None,
    ),
    Case(
        name="an answer longer than one model's longest is refused by it",
        call=call("Go.", max_output_tokens=100_000),
        refused={"gemini": "max_output_tokens"},
    ),
    Case(
        name="an answer longer than any model's longest is refused",
        call=call("Go.", max_output_tokens=200_000),
        refused=both("max_output_tokens"),
    ),
    Case(
        name="a warming call says nothing, and is not streamed",
        call=call(".", system=("Be brief.",), max_output_tokens=0),
        finish=FinishReason.MAX_TOKENS,
        parts=(),
        refused={"gemini": "max_output_tokens"},
        streamed={"anthropic": False},
    ),
]


def _ends(name: str, anthropic: str, gemini: str, finish: FinishReason) -> Case:
    return Case(
        name=name,
        call=call("Go on."),
        says=SAYS,
        stop={"anthropic": anthropic, "gemini": gemini},
        finish=finish,
        facts={
            "anthropic": {"refusal_category": ""},
            "gemini": {"refusal_category": gemini if finish is FinishReason.REFUSAL else ""},
        },
    )


REFUSAL, MALFORMED = FinishReason.REFUSAL, FinishReason.MALFORMED
ENDS = [
    _ends("a refusal in mid-answer", "refusal", "SAFETY", REFUSAL),
    _ends("a refusal for what is quoted", "refusal", "RECITATION", REFUSAL),
    _ends("a refusal for what is forbidden", "refusal", "PROHIBITED_CONTENT", REFUSAL),
    _ends("a refusal for names on a list", "refusal", "BLOCKLIST", REFUSAL),
    _ends("a refusal for personal data", "refusal", "SPII", REFUSAL),
    _ends("a refusal for the language", "refusal", "LANGUAGE", REFUSAL),
    _ends("an answer that pauses", "pause_turn", "CONTINUATION", FinishReason.PAUSED),
    _ends("an answer cut by a limit", "max_tokens", "MAX_TOKENS", FinishReason.MAX_TOKENS),
    _ends("an answer that ends of itself", "end_turn", "STOP", FinishReason.END_TURN),
    _ends("a reason of next year", "bored_now", "BORED_NOW", FinishReason.OTHER),
    Case(
        name="a full context window, and a call nobody can read",
        call=call("Go on."),
        says=SAYS,
        stop={"anthropic": "model_context_window_exceeded", "gemini": "MALFORMED_FUNCTION_CALL"},
        finish={"anthropic": FinishReason.CONTEXT_WINDOW, "gemini": MALFORMED},
    ),
    Case(
        name="a signature the provider misses",
        call=call("Go on."),
        says=SAYS,
        stop={"gemini": "MISSING_THOUGHT_SIGNATURE"},
        finish={"anthropic": FinishReason.END_TURN, "gemini": MALFORMED},
    ),
    Case(
        name="a refusal before a word is free where the provider says so",
        call=call(
            "Go on. [[sandbox stop=refusal thinking=0 upstream=anthropic]]"
            "[[sandbox stop=SAFETY thinking=0 upstream=gemini]]"
        ),
        finish=REFUSAL,
        parts=(),
        unbilled=frozenset({"anthropic"}),
        facts={"gemini": {"refusal_category": "SAFETY"}},
    ),
    Case(
        name="a blocked prompt is a refusal that is billed",
        call=call("Go on. [[sandbox thinking=0]] [[sandbox block=PROHIBITED_CONTENT upstream=gemini]]"),
        finish={"anthropic": FinishReason.END_TURN, "gemini": REFUSAL},
        parts={"anthropic": (Text,), "gemini": ()},
        facts={"gemini": {"refusal_category": "PROHIBITED_CONTENT"}},
    ),
]

CASES = [*THINKING, *SCHEMAS, *LIMITS, *ENDS]
