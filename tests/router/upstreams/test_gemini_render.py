"""A call in Gemini's spelling: contents, signatures, parameters, and what is refused."""

import json
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given

from router.call import (
    Call,
    Document,
    Effort,
    Image,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from router.errors import InvalidRequest
from router.upstreams.base import Rendered
from router.upstreams.gemini_models import traits_of
from router.upstreams.gemini_render import DUMMY_SIGNATURE, render, request_body
from tests.router.upstreams.samples import (
    FLASH,
    OPUS,
    SCHEMA,
    SEARCH,
    assistant,
    call,
    calls,
    tool_loop,
    user,
)


def rendered(asked: Call, model: str = FLASH) -> Rendered:
    return render(asked, model, traits_of(model), store=False)


def wire(asked: Call, model: str = FLASH) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request_body(rendered(asked, model)))
    return body


@given(calls())
def test_every_block_is_on_the_wire_byte_for_byte(asked: Call) -> None:
    """Blocks are the sent bytes here too; Gemini takes no breakpoints, so none is markable."""
    made = rendered(asked)
    body = request_body(made)
    assert all(block.content in body and not block.markable for block in made.prompt.blocks)
    layers = [block.layer for block in made.prompt.blocks]
    assert layers == sorted(layers)
    roles = [content["role"] for content in json.loads(body)["contents"]]
    assert roles[0] == roles[-1] == "user"
    assert set(roles) <= {"user", "model"}


@given(calls())
def test_each_step_starts_with_a_signed_call(asked: Call) -> None:
    """Gemini 3 refuses a function call of the running turn without a signature on the step's first call."""
    for content in wire(asked)["contents"]:
        called = [part for part in content["parts"] if "functionCall" in part]
        if called:
            assert called[0]["thoughtSignature"]


def test_request_is_spelled() -> None:
    """Tools, system, context and parameters have their places; keeping of data is refused by default."""
    asked = call(
        user("Hi"),
        tools=(SEARCH, Tool("now", "", "")),
        system=("S", "T"),
        context=("C",),
        stop_sequences=("END",),
        output_schema_json='{"type":"object"}',
        effort=Effort.LOW,
        include_thinking=True,
        max_output_tokens=9,
    )
    assert wire(asked) == {
        "systemInstruction": {"parts": [{"text": "S"}, {"text": "T"}]},
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "search",
                        "description": SEARCH.description,
                        "parametersJsonSchema": json.loads(SCHEMA),
                    },
                    {"name": "now"},
                ]
            }
        ],
        "contents": [{"role": "user", "parts": [{"text": "C"}, {"text": "Hi"}]}],
        "generationConfig": {
            "maxOutputTokens": 9,
            "stopSequences": ["END"],
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
            "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True},
        },
        "store": False,
    }


def test_own_signature_goes_back_where_it_came_from() -> None:
    """Only the first of parallel calls is signed, and unchanged."""
    parts = wire(call(*tool_loop(FLASH, "c2ln")))["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, "c2ln", None]


@pytest.mark.parametrize(("model", "signature"), [(OPUS, "opus-sig"), (FLASH, ""), ("", "")])
def test_unsigned_and_foreign_steps_get_the_dummy_signature(model: str, signature: str) -> None:
    """After a switch of route a step's first call carries the value Google documents for injected calls."""
    parts = wire(call(*tool_loop(model, signature)))["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, DUMMY_SIGNATURE, None]


def test_models_before_gemini_3_need_no_signature() -> None:
    """2.5 has none to check."""
    parts = wire(call(*tool_loop(OPUS, "x")), "gemini-2.5-flash")["contents"][1]["parts"]
    assert not any("thoughtSignature" in part for part in parts)


def test_results_carry_id_name_and_kind_of_outcome() -> None:
    """The wire wants the function's name, which a result may lack: it comes from the call."""
    parts = wire(call(*tool_loop()))["contents"][2]["parts"]
    assert [part["functionResponse"] for part in parts] == [
        {"id": "call_a", "name": "search", "response": {"output": "A"}},
        {"id": "call_b", "name": "search", "response": {"error": "B"}},
    ]


def test_text_signature_goes_back_to_its_model_only() -> None:
    """A signature of another model means nothing; one without text keeps its part."""
    own, foreign = Text("a", "c2ln", FLASH), Text("b", "c2ln", OPUS)
    parts = wire(call(user("q"), assistant(own, foreign, Text("", "ZW5k", FLASH)), user("r")))["contents"][1][
        "parts"
    ]
    assert parts == [
        {"text": "a", "thoughtSignature": "c2ln"},
        {"text": "b"},
        {"text": "", "thoughtSignature": "ZW5k"},
    ]


def test_only_signed_own_thinking_goes_back() -> None:
    """Summaries are for people; a signed thought belongs to the chain."""
    said = (Thinking(FLASH, "summary", ""), Thinking(FLASH, "signed", "c2ln"), Thinking(OPUS, "", "x"))
    parts = wire(call(user("q"), assistant(*said, "b"), user("r")))["contents"][1]["parts"]
    assert parts == [{"text": "signed", "thought": True, "thoughtSignature": "c2ln"}, {"text": "b"}]


def test_media_are_inline_data() -> None:
    """Images and PDF go by value, in messages and, from Gemini 3 on, in tool results."""
    image, pdf = (
        Image("image/png", b"\x89PNG"),
        Document("application/pdf", b"%PDF", "title has no counterpart"),
    )
    parts = wire(call(user(image, pdf)))["contents"][0]["parts"]
    assert [part["inlineData"]["mimeType"] for part in parts] == ["image/png", "application/pdf"]
    assert b64decode(parts[0]["inlineData"]["data"]) == b"\x89PNG"
    asked = call(*tool_loop()[:2], user(ToolResult("call_a", (Text("t"), image)), ToolResult("call_b", ())))
    response = wire(asked)["contents"][2]["parts"][0]["functionResponse"]
    assert response["response"] == {"output": "t"}
    assert response["parts"][0]["inlineData"]["mimeType"] == "image/png"
    with pytest.raises(InvalidRequest) as caught:
        rendered(asked, "gemini-2.5-flash")
    assert caught.value.field == "messages[2].parts[0].tool_result.content[1]"
    with pytest.raises(InvalidRequest) as caught:
        rendered(call(user("What is it?", Image("image/gif", b"GIF"))))
    assert caught.value.field == "messages[0].parts[1].image.media_type"


EFFORTS: list[tuple[str, Effort, dict[str, Any] | None]] = [
    (FLASH, Effort.MEDIUM, None),
    (FLASH, Effort.HIGH, {"thinkingLevel": "HIGH"}),
    (FLASH, Effort.MAX, {"thinkingLevel": "HIGH"}),
    ("gemini-3.1-flash-lite", Effort.MEDIUM, {"thinkingLevel": "MEDIUM"}),
    ("gemini-3.1-pro-preview", Effort.XHIGH, None),
    ("gemini-2.5-flash", Effort.LOW, {"thinkingBudget": 1024}),
    ("gemini-2.5-flash", Effort.MAX, {"thinkingBudget": 24576}),
]


@pytest.mark.parametrize(("model", "asked", "sent"), EFFORTS)
def test_effort_becomes_level_or_budget(model: str, asked: Effort, sent: dict[str, Any] | None) -> None:
    """Never both: together they are a 400."""
    assert wire(call(effort=asked), model)["generationConfig"].get("thinkingConfig") == sent


def test_tool_choice_becomes_a_calling_mode() -> None:
    """One named tool is ANY limited to it; AUTO is the default and not sent."""

    def config(choice: ToolChoice) -> Any:
        return wire(call(tools=(SEARCH,), tool_choice=choice)).get("toolConfig")

    assert config(ToolChoice()) is None
    assert config(ToolChoice(ToolChoiceMode.NONE)) == {"functionCallingConfig": {"mode": "NONE"}}
    assert config(ToolChoice(ToolChoiceMode.ANY)) == {"functionCallingConfig": {"mode": "ANY"}}
    assert config(ToolChoice(ToolChoiceMode.TOOL, "search")) == {
        "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["search"]}
    }


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 65_537}, "max_output_tokens"),
        ({"stop_sequences": tuple("abcdef")}, "stop_sequences"),
        (
            {"tools": (SEARCH,), "tool_choice": ToolChoice(disable_parallel=True)},
            "tool_choice.disable_parallel",
        ),
        ({"tools": (Tool("f", "", "[]"),)}, "tools[0].input_schema_json"),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_the_call(fields: dict[str, Any], field: str) -> None:
    """What Gemini has no counterpart for is refused by field, never dropped silently."""
    with pytest.raises(InvalidRequest) as caught:
        rendered(call(**fields))
    assert caught.value.field == field


def test_arguments_keep_their_bytes() -> None:
    """Key order of arguments is the model's, and history must repeat it."""
    arguments = '{"b": 1, "a": [2]}'
    asked = call(
        user("q"), assistant(ToolCall("c", "search", arguments)), user(ToolResult("c", (Text("r"),)))
    )
    assert arguments.encode() in request_body(rendered(asked))


def test_unknown_models_are_refused() -> None:
    """A shut-down id is not in the catalogue."""
    with pytest.raises(ValueError, match=r"known: gemini-3\.8-flash"):
        traits_of("gemini-2.0-flash")
