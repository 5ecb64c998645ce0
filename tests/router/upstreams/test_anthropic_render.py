"""A call in Anthropic's spelling: blocks, breakpoints, parameters, and what is refused."""

import json
from base64 import b64decode
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.prompt import BlockKind, Layer, PromptParameters
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
from router.upstreams.anthropic_models import MODELS, traits_of
from router.upstreams.anthropic_render import Options, render, request_body
from router.upstreams.base import Rendered
from tests.router.upstreams.samples import (
    FLASH,
    OPUS,
    SCHEMA,
    SEARCH,
    Mark,
    Marks,
    assistant,
    call,
    calls,
    tool_loop,
    user,
)


def rendered(asked: Call, model: str = OPUS, options: Options = Options()) -> Rendered:  # noqa: B008
    return render(asked, model, traits_of(model), options)


def wire(asked: Call, model: str = OPUS, plan: Any = None, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request_body(rendered(asked, model), plan, stream=stream))
    return body


def without_marks(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_marks(v) for k, v in value.items() if k != "cache_control"}
    return [without_marks(v) for v in value] if isinstance(value, list) else value


@given(calls(), st.data())
def test_a_breakpoint_changes_nothing_but_its_own_block(asked: Call, data: st.DataObject) -> None:
    """However a call looks, marks land on exactly the planned blocks, and the rest of the bytes stays."""
    made = rendered(asked)
    markable = [i for i, block in enumerate(made.prompt.blocks) if block.markable]
    chosen = data.draw(st.lists(st.sampled_from(markable), unique=True, max_size=4))
    plan: Any = Marks(tuple(Mark(i, data.draw(st.sampled_from([300, 3600]))) for i in sorted(chosen)))
    plain, marked = (json.loads(request_body(made, p, stream=True)) for p in (None, plan))
    assert without_marks(marked) == plain
    blocks = [*marked.get("tools", []), *marked.get("system", [])]
    blocks += [block for message in marked["messages"] for block in message["content"]]
    assert [i for i, block in enumerate(blocks) if "cache_control" in block] == sorted(chosen)
    for mark in plan.breakpoints:
        ttl = {"ttl": "1h"} if mark.ttl_s == 3600 else {}
        assert blocks[mark.position]["cache_control"] == {"type": "ephemeral", **ttl}


@given(calls())
def test_every_block_is_on_the_wire_byte_for_byte(asked: Call) -> None:
    """The cache plans over `content`, so these bytes, in this order, must be the ones sent."""
    made = rendered(asked)
    body, at = request_body(made, None, stream=False), 0
    for block in made.prompt.blocks:
        at = body.index(block.content, at) + len(block.content)
    layers = [block.layer for block in made.prompt.blocks]
    assert layers == sorted(layers)


@given(calls())
def test_roles_alternate_and_the_user_speaks_last(asked: Call) -> None:
    """Anthropic takes no prefill, and merging is done here so that blocks and messages agree."""
    roles = [message["role"] for message in wire(asked)["messages"]]
    assert roles[0] == roles[-1] == "user"
    assert all(a != b for a, b in pairwise(roles))


def test_layers_follow_the_turn() -> None:
    """Context leads the first user message; what precedes the last answer is history, the rest the turn."""
    asked = call(*tool_loop(), tools=(SEARCH,), system=("S",), context=("C",))
    made = rendered(asked)
    assert [(block.layer, block.kind) for block in made.prompt.blocks] == [
        (Layer.TOOLS, BlockKind.TOOL),
        (Layer.SYSTEM, BlockKind.TEXT),
        (Layer.CONTEXT, BlockKind.TEXT),
        (Layer.HISTORY, BlockKind.TEXT),
        (Layer.HISTORY, BlockKind.TEXT),
        (Layer.HISTORY, BlockKind.TOOL_CALL),
        (Layer.HISTORY, BlockKind.TOOL_CALL),
        (Layer.TURN, BlockKind.TOOL_RESULT),
        (Layer.TURN, BlockKind.TOOL_RESULT),
    ]
    first = wire(asked)["messages"][0]
    assert first == {"role": "user", "content": [{"type": "text", "text": t} for t in ("C", "Find both.")]}


def test_a_turn_keeps_its_bytes_when_it_becomes_history() -> None:
    """Growing a conversation only appends: the last request's blocks are the first blocks of the next."""
    opening = (user("a"), assistant("b"), user("c"))
    now = rendered(call(*opening)).prompt.blocks
    later = rendered(call(*opening, assistant("d"), user("e"))).prompt.blocks
    assert [b.content for b in later[: len(now)]] == [b.content for b in now]
    assert later[2].layer is Layer.HISTORY


def test_schema_bytes_are_kept() -> None:
    """Key order and spacing of a schema are part of the prefix, so they are the caller's."""
    body = request_body(rendered(call(tools=(SEARCH,), output_schema_json=SCHEMA)), None, stream=False)
    assert body.count(SCHEMA.encode()) == 2


def test_tools_and_system_are_spelled_once() -> None:
    """An application's shared layers repeat with every request; equal ones share their blocks."""
    first, second = (rendered(call(user(text), tools=(SEARCH,), system=("S",))) for text in ("a", "b"))
    assert all(a is b for a, b in zip(first.prompt.blocks[:2], second.prompt.blocks[:2], strict=True))


def test_own_thinking_goes_back_unchanged() -> None:
    """Thinking of the running tool turn must be byte-identical; a breakpoint may not stand on it."""
    own = (Thinking(OPUS, "", "sig=="), Thinking(OPUS, "", "opaque", redacted=True))
    asked = call(user("a"), assistant(*own, "b"), user("c"))
    assert wire(asked)["messages"][1]["content"][:2] == [
        {"type": "thinking", "thinking": "", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "opaque"},
    ]
    assert [b.markable for b in rendered(asked).prompt.blocks] == [True, False, False, True, True]
    plan: Any = Marks((Mark(1, 300),))
    with pytest.raises(ValueError, match="cannot carry"):
        request_body(rendered(asked), plan, stream=False)


def test_tool_results_are_spelled_with_their_media() -> None:
    """Text, images and documents may stand in a result; an error says so."""
    content = (Text("seen"), Image("image/png", b"\x89PNG"), Document("application/pdf", b"%PDF", "Doc"))
    asked = call(
        *tool_loop()[:2], user(ToolResult("call_a", content), ToolResult("call_b", (), is_error=True))
    )
    first, second = wire(asked)["messages"][2]["content"]
    assert second == {"type": "tool_result", "tool_use_id": "call_b", "is_error": True}
    assert [inner["type"] for inner in first["content"]] == ["text", "image", "document"]
    assert b64decode(first["content"][1]["source"]["data"]) == b"\x89PNG"
    assert first["content"][2]["title"] == "Doc"


def test_a_failed_result_with_media_says_so_in_words() -> None:
    """The provider takes nothing but text beside `is_error`; the picture is worth more than the flag."""
    failed = ToolResult("call_a", (Text("seen"), Image("image/png", b"\x89PNG")), is_error=True)
    told = ToolResult("call_b", (Text("no"),), is_error=True)
    first, second = wire(call(*tool_loop()[:2], user(failed, told)))["messages"][2]["content"]
    assert "is_error" not in first
    assert [inner["type"] for inner in first["content"]] == ["text", "text", "image"]
    assert "failed" in first["content"][0]["text"]
    assert second["is_error"]


def test_foreign_call_ids_are_replaced_alike_in_call_and_result() -> None:
    """Ids outside Anthropic's alphabet become a digest; pairing survives."""
    odd = "function-call/7:å"
    asked = call(user("a"), assistant(ToolCall(odd, "search", "")), user(ToolResult(odd, (Text("r"),))))
    messages = wire(asked)["messages"]
    used = messages[1]["content"][0]
    assert used["input"] == {}
    assert used["id"] == messages[2]["content"][0]["tool_use_id"]
    assert used["id"].startswith("call_")
    assert odd not in json.dumps(messages, ensure_ascii=False)


def test_plain_text_documents_are_sent_as_text() -> None:
    """A text document needs no base64; one that is no UTF-8 is refused by field."""
    document = wire(call(user(Document("text/plain", "è".encode()), "Read it.")))["messages"][0]["content"][0]
    assert document == {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "è"},
    }
    with pytest.raises(InvalidRequest, match="UTF-8"):
        rendered(call(user(Document("text/plain", b"\xff"))))


@pytest.mark.parametrize(
    ("part", "kind"),
    [(Image("image/tiff", b"x"), "image"), (Document("application/msword", b"x"), "document")],
)
def test_media_without_counterpart_are_refused_by_field(part: Image | Document, kind: str) -> None:
    """Whether the other route may take them is the decision's to find; the field is what a caller can change."""
    with pytest.raises(InvalidRequest) as caught:
        rendered(call(user(part, "What is it?")))
    assert caught.value.field == f"messages[0].parts[0].{kind}.media_type"


def test_a_call_goes_back_as_given_beside_its_thinking_and_as_anothers_without() -> None:
    """A call of Anthropic's whose thinking was lost on the way would be refused; call and result change alike, and ids
    of other makers never do.
    """
    thinking = Thinking(OPUS, "", "c2ln")
    calls = (ToolCall("toolu_01a", "search", "{}", model=OPUS), ToolCall("other_1", "search", "{}"))
    results = user(*(ToolResult(each.id, (Text("r"),)) for each in calls))

    def ids(*said: Thinking | ToolCall) -> list[str]:
        parsed = wire(call(user("a"), assistant(*said), results))
        blocks = [block for message in parsed["messages"] for block in message["content"]]
        return [
            block.get("id") or block["tool_use_id"] for block in blocks if block["type"].startswith("tool_")
        ]

    assert ids(thinking, *calls) == ["toolu_01a", "other_1"] * 2
    lost = ids(*calls)
    assert lost == ids(Thinking(FLASH, "", "c2ln"), *calls) == lost[:2] * 2
    assert lost[0].startswith("call_")
    assert lost[1] == "other_1"


@pytest.mark.parametrize(
    "arguments", ['{"a":1},"cache_control":{"type":"ephemeral"}', "[1]", '{"a":', '"{}"', '{"a":1} {}']
)
def test_nothing_is_smuggled_through_embedded_json(arguments: str) -> None:
    """Text that is not exactly one JSON object never reaches the wire."""
    asked = call(user("a"), assistant(ToolCall("c", "f", arguments)), user(ToolResult("c", (Text("r"),))))
    with pytest.raises(InvalidRequest) as caught:
        rendered(asked)
    assert caught.value.field == "messages[1].parts[0].tool_call.arguments_json"
    with pytest.raises(InvalidRequest) as caught:
        rendered(call(tools=(SEARCH, Tool("f", "", arguments))))
    assert caught.value.field == "tools[1].input_schema_json"


EFFORTS: list[tuple[str, Effort, str | None]] = [
    (OPUS, Effort.LOW, "low"),
    (OPUS, Effort.MEDIUM, None),  # its default: an absent field means the same
    (OPUS, Effort.XHIGH, "xhigh"),
    ("claude-opus-5", Effort.HIGH, None),
    ("claude-opus-4-6", Effort.XHIGH, None),  # lacks xhigh: the level below is its default, high
    ("claude-opus-4-6", Effort.MAX, "max"),
    ("claude-opus-4-5", Effort.MAX, None),
    ("claude-opus-4-5-20251101", Effort.MEDIUM, "medium"),
    ("claude-haiku-4-5", Effort.MAX, None),  # takes no effort at all
]


@pytest.mark.parametrize(("model", "asked", "sent"), EFFORTS)
def test_effort_becomes_the_models_own_level(model: str, asked: Effort, sent: str | None) -> None:
    """An unknown level becomes the nearest one below, the default is left out, and the cache is told of the
    rest.
    """
    made = rendered(call(effort=asked), model)
    assert wire(call(effort=asked), model).get("output_config", {}).get("effort") == sent
    assert made.prompt.parameters.everywhere == (f"effort={sent}" if sent else "")


def test_parameters_enter_the_prefix_at_their_level() -> None:
    """Format ends all reuse, speed that of system and messages, tool choice and thinking that of messages."""
    none = ToolChoice(ToolChoiceMode.NONE)
    asked = call(tools=(SEARCH,), tool_choice=none, include_thinking=True, output_schema_json=SCHEMA)
    parameters = rendered(asked, "claude-opus-4-8", Options(speed="fast")).prompt.parameters
    assert parameters.system == "speed=fast"
    assert parameters.everywhere.startswith("thinking=adaptive;format=")
    assert parameters.messages == 'tool_choice={"type":"none"}'
    assert rendered(call(tools=(SEARCH,))).prompt.parameters == PromptParameters()


def test_asking_for_summaries_is_free_where_thinking_is_always_on() -> None:
    """On Opus 5.5 only the display changes, which harms no cache; models without adaptive thinking are not
    asked.
    """
    assert wire(call(include_thinking=True))["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert rendered(call(include_thinking=True)).prompt.parameters == PromptParameters()
    assert "thinking" not in wire(call(include_thinking=True), "claude-opus-4-5")


CHOICES: list[tuple[ToolChoice, dict[str, Any] | None]] = [
    (ToolChoice(), None),
    (ToolChoice(disable_parallel=True), {"type": "auto", "disable_parallel_tool_use": True}),
    (ToolChoice(ToolChoiceMode.NONE), {"type": "none"}),
    (ToolChoice(ToolChoiceMode.ANY), {"type": "any"}),
    (ToolChoice(ToolChoiceMode.TOOL, "search"), {"type": "tool", "name": "search"}),
]


@pytest.mark.parametrize(("choice", "sent"), CHOICES)
def test_tool_choice_is_spelled(choice: ToolChoice, sent: dict[str, Any] | None) -> None:
    """On a model that can be forced, every mode has its wire spelling; the default has none."""
    assert wire(call(tools=(SEARCH,), tool_choice=choice), "claude-opus-5").get("tool_choice") == sent


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": (SEARCH,), "tool_choice": ToolChoice(ToolChoiceMode.ANY)}, "tool_choice.mode"),
        ({"tools": (SEARCH,), "tool_choice": ToolChoice(ToolChoiceMode.TOOL, "search")}, "tool_choice.mode"),
        ({"tool_choice": ToolChoice(ToolChoiceMode.ANY)}, "tool_choice.mode"),
        ({"tools": (SEARCH,), "tool_choice": ToolChoice(ToolChoiceMode.TOOL, "no")}, "tool_choice.tool_name"),
        ({"max_output_tokens": 128_001}, "max_output_tokens"),
        ({"max_output_tokens": 0, "output_schema_json": "{}"}, "max_output_tokens"),
        ({"output_schema_json": "no"}, "output_schema_json"),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_the_call(fields: dict[str, Any], field: str) -> None:
    """Opus 5.5 cannot be forced to call a tool; bounds and schemas are checked here too."""
    with pytest.raises(InvalidRequest) as caught:
        rendered(call(**fields))
    assert caught.value.field == field


def test_rest_of_the_request_is_spelled() -> None:
    """Options of the deployment and plain parameters reach the wire under Anthropic's names."""
    asked = call(system=("S",), stop_sequences=("END",), max_output_tokens=7)
    options = Options(speed="standard", inference_geo="us", service_tier="standard_only", diagnostics=True)
    body = json.loads(request_body(rendered(asked, options=options), None, stream=True))
    assert body == {
        "model": OPUS,
        "max_tokens": 7,
        "system": [{"type": "text", "text": "S"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "stop_sequences": ["END"],
        "speed": "standard",
        "inference_geo": "us",
        "service_tier": "standard_only",
        "diagnostics": {"previous_message_id": None},
        "stream": True,
    }


def test_models_the_catalogue_lacks_are_refused() -> None:
    """The seed's invented id never existed; its family row must not catch it by prefix alone."""
    assert traits_of("claude-opus-4-5-20251101") is MODELS["claude-opus-4-5"]
    with pytest.raises(ValueError, match="known: claude-opus-5-5"):
        traits_of("claude-opus-9")
