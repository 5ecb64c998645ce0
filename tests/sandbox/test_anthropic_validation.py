"""What the Anthropic face refuses, with which status and text (A-ERR, A-VER, A-TOOLS, A-THINK; 2026-11)."""

import json

import pytest

TOOL = {"name": "find", "description": "d", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "t1", "name": "find", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "w"}
SAY = {"type": "text", "text": "Hi"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}}
U, A, S = (lambda c, r=r: {"role": r, "content": c} for r in ("user", "assistant", "system"))
MARK = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
OPEN = {
    "type": "object",
    "properties": {"a": {"type": "object", "properties": {}}},
    "additionalProperties": False,
}
MANY = {**SCHEMA, "properties": {f"p{i}": {"type": "string"} for i in range(25)}}


def fmt(schema):
    return {"format": {"type": "json_schema", "schema": schema}}


REFUSED = [
    # fields
    ({"temperature": 1}, "temperature: Extra inputs are not permitted"),
    ({"top_k": 5}, "top_k: Extra inputs are not permitted"),
    ({"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
    ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
    ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
    ({"max_tokens": 128_001}, "max_tokens: 128001 > 128000, which is the maximum allowed"),
    ({"model": "claude-opus-4-5", "max_tokens": 64_001}, "64001 > 64000"),
    ({"stop_sequences": [" "]}, "each stop sequence must contain non-whitespace"),
    ({"metadata": {"user": "x"}}, "metadata.user: Extra inputs are not permitted"),
    ({"service_tier": "priority"}, "service_tier: Input should be 'auto', 'standard_only'"),
    ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    ({"system": ""}, "system: text content blocks must be non-empty"),
    ({"diagnostics": {"id": None}}, "diagnostics.id: Extra inputs"),
    # messages and blocks
    ({"messages": []}, "messages: at least one message is required"),
    ({"messages": [U("")]}, "messages.0: all messages must have non-empty content"),
    ({"messages": [U([])]}, "messages.0: all messages must have non-empty content"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages.0.role: Input should be 'user', 'assistant'",
    ),
    ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages.0.name: Extra inputs"),
    ({"messages": [U([{"type": "text", "text": ""}])]}, "messages: text content blocks must be non-empty"),
    ({"messages": [U([{"type": "text", "text": " "}])]}, "must contain non-whitespace text"),
    ({"messages": [U([{**SAY, "text": "", "cache_control": MARK}])]}, "cannot be set for empty text blocks"),
    ({"messages": [U([{**SAY, "colour": 1}])]}, "messages.0.content.0.colour: Extra inputs"),
    ({"messages": [U([{"type": "poem", "text": "x"}])]}, "Input tag 'poem' found using 'type'"),
    ({"messages": [U([{"text": "x"}])]}, "messages.0.content.0.type: Field required"),
    ({"messages": [U([CALL])]}, "`tool_use` blocks are not permitted in user messages"),
    ({"messages": [A("Hi"), U("x")]}, 'first message must use the "user" role'),
    (
        {"messages": [U("x"), A([{"type": "image", "source": {}}]), U("y")]},
        "not permitted in assistant messages",
    ),
    (
        {
            "messages": [
                U(
                    [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/bmp", "data": "AA=="},
                        }
                    ]
                )
            ]
        },
        "media_type: Input should be 'image/jpeg'",
    ),
    (
        {
            "messages": [
                U([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A"}}])
            ]
        },
        "Input should be valid base64",
    ),
    (
        {"messages": [U([{**RESULT, "content": [{**SAY, "cache_control": MARK}]}])]},
        "not allowed on sub-content",
    ),
    # what 2026-10-21 changed
    (
        {
            "messages": [
                U("x"),
                A(
                    [
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                        }
                    ]
                ),
                U("y"),
            ]
        },
        "`document` blocks are not permitted in assistant messages",
    ),
    ({"messages": [U([{**SAY, "citations": [{"type": "char_location"}]}])]}, "citations are not permitted"),
    # markers
    (
        {"system": [{**SAY, "cache_control": {"type": "forever"}}]},
        "system.0.cache_control.type: Input should be",
    ),
    (
        {"system": [{**SAY, "cache_control": {"type": "ephemeral", "ttl": "2h"}}]},
        "cache_control.ttl: Input should",
    ),
    (
        {
            "messages": [
                U("x"),
                A([{"type": "thinking", "thinking": "", "signature": "x", "cache_control": MARK}, SAY]),
                U("y"),
            ]
        },
        "messages.1.content.0.cache_control: Extra inputs",
    ),
    # tools
    ({"tools": [{**TOOL, "name": "no spaces"}]}, "String should match pattern"),
    ({"tools": [TOOL, TOOL]}, "Tool names must be unique"),
    ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "tools.0.input_schema.type"),
    ({"tools": [{**TOOL, "type": "bash_20250124"}]}, "Input tag 'bash_20250124'"),
    ({"tools": [{**TOOL, "defer_loading": True, "cache_control": MARK}]}, "defer_loading"),
    ({"tool_choice": {"type": "auto"}}, "tool_choice may only be specified while providing `tools`"),
    ({"tools": [TOOL], "tool_choice": {"type": "any"}}, '"tool" and "any" are not supported for this model.'),
    (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "find"}, "model": "claude-fable-5-2"},
        "not supported for this model",
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "lose"}, "model": "claude-opus-5"},
        "Tool 'lose' not found",
    ),
    # tool pairing
    (
        {"messages": [U("x"), A([CALL]), U("y")]},
        "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: t1.",
    ),
    ({"model": "claude-opus-4-5", "messages": [U("x"), A([CALL])]}, "ids were found without `tool_result`"),
    ({"messages": [U("x"), A([CALL]), U([SAY, RESULT])]}, "ids were found without `tool_result`"),
    (
        {"messages": [U("x"), A("y"), U([RESULT])]},
        "messages.2.content.0: unexpected `tool_use_id` found in `tool_result` blocks: t1.",
    ),
    ({"messages": [U("x"), A([CALL]), U([RESULT, RESULT])]}, "each tool_use must have a single result"),
    ({"messages": [U("x"), A([CALL, CALL]), U([RESULT])]}, "`tool_use` ids must be unique"),
    (
        {"messages": [U("x"), A([CALL]), U([{**RESULT, "is_error": True, "content": [SAY, PICTURE]}])]},
        "messages.2.content.0: all content must be type 'text' if 'is_error' is true",
    ),
    ({"messages": [U("x"), A([{**CALL, "id": "a b"}]), U([RESULT])]}, "id: String should match pattern"),
    # models: prefill, thinking, effort, speed, geo
    (
        {"messages": [U("x"), A("y")]},
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    ),
    (
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive"',
    ),
    ({"thinking": {"type": "disabled"}}, '"thinking.type.disabled" is not supported for this model.'),
    ({"thinking": {"type": "between_tools"}}, '"thinking.type.between_tools" is not supported'),
    ({"thinking": {"type": "adaptive", "budget_tokens": 2000}}, "thinking.budget_tokens: Extra inputs"),
    (
        {"model": "claude-opus-4-5", "thinking": {"type": "adaptive"}},
        "adaptive thinking is not supported on this model",
    ),
    (
        {"model": "claude-opus-4-5", "thinking": {"type": "enabled", "budget_tokens": 1000}},
        "greater than or equal to 1024",
    ),
    (
        {
            "model": "claude-opus-4-5",
            "max_tokens": 2000,
            "thinking": {"type": "enabled", "budget_tokens": 2000},
        },
        "`max_tokens` must be greater than `thinking.budget_tokens`",
    ),
    (
        {"model": "claude-opus-5", "thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
        'not supported at effort "max"',
    ),
    (
        {"model": "claude-haiku-4-5", "output_config": {"effort": "low"}},
        "does not support the effort parameter",
    ),
    (
        {"model": "claude-opus-4-6", "output_config": {"effort": "xhigh"}},
        "'xhigh' is not supported by this model",
    ),
    ({"model": "claude-opus-4-7", "speed": "fast"}, "speed: fast mode is not supported"),
    ({"model": "claude-opus-5", "speed": "standard"}, "speed: Extra inputs are not permitted"),
    ({"model": "claude-opus-4-5", "inference_geo": "us"}, "inference_geo is not supported on this model"),
    (
        {"model": "claude-sonnet-5", "messages": [U("x"), S("be brief")]},
        "role 'system' is not supported on this model",
    ),
    ({"messages": [S("be brief"), U("x")]}, "messages.0: role 'system' must follow a 'user' message"),
    ({"messages": [S("be brief")]}, "messages.0: role 'system' must follow a 'user' message"),
    (
        {"messages": [U("x"), A("y"), S("be brief"), U("z")]},
        "messages.2: role 'system' must follow a 'user' message",
    ),
    (
        {"messages": [U("x"), S("be brief"), U("y")]},
        "messages.1: role 'system' must precede an 'assistant' message or end the array",
    ),
    # structured output
    ({"output_config": fmt(OPEN)}, "'additionalProperties' must be explicitly set to false"),
    ({"output_config": fmt({"type": "object"})}, "'additionalProperties' must be explicitly set to false"),
    ({"output_config": fmt(MANY)}, "Schema is too complex for compilation."),
    (
        {
            "output_config": fmt(SCHEMA),
            "messages": [
                U(
                    [
                        {
                            "type": "document",
                            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                            "citations": {"enabled": True},
                        }
                    ]
                )
            ],
        },
        "cannot be used with citations",
    ),
    # thinking replay
    (
        {
            "messages": [
                U("x"),
                A([{"type": "thinking", "thinking": "", "signature": "bm90IG91cnM="}, SAY]),
                U("y"),
            ]
        },
        "Invalid `signature` in `thinking` block",
    ),
    ({"workspace_id": "wrkspc_other"}, "workspace_id: does not match"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED, ids=[t[:50] for _, t in REFUSED])
async def test_mistake_is_refused_by_name_and_not_billed(bench, change, text):
    """Every mistake is a 400 `invalid_request_error` that names it; counting tokens refuses it too where it can."""
    body = {"model": "claude-opus-5-5", "max_tokens": 64, "messages": [U("Hi")]} | change
    status, answer = await bench.post(body)
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert text in answer["error"]["message"]
    assert answer["request_id"].startswith("req_")
    assert len(bench.sandbox.invoice) == 0


ACCEPTED = [
    {"model": "claude-opus-4-5", "messages": [U("x"), A("The answer is")]},
    {"model": "claude-opus-5", "thinking": {"type": "disabled"}, "output_config": {"effort": "high"}},
    {"model": "claude-opus-5", "tools": [TOOL], "tool_choice": {"type": "any"}},
    {"model": "claude-sonnet-5-5", "thinking": {"type": "between_tools"}},
    {"model": "claude-opus-4-6", "speed": "fast"},
    {"messages": [U("x"), S("be brief")]},
    {"messages": [U("x"), S("be brief"), A("y"), U("z"), S("be brief"), S("and kind")]},
    {"messages": [U("x"), A([SAY, CALL]), U([RESULT, SAY])], "tools": [TOOL]},
    {"messages": [U("x"), A([CALL]), U([RESULT]), U("and?")], "tools": [TOOL]},
    {"inference_geo": "us", "metadata": {"user_id": "u"}, "service_tier": "auto", "speed": "fast"},
    {"output_config": fmt(SCHEMA)},
]


@pytest.mark.parametrize("change", ACCEPTED, ids=[str(c)[:60] for c in ACCEPTED])
async def test_valid_request_is_answered(bench, change):
    """The neighbours of the mistakes above are fine."""
    body = {"model": "claude-opus-5-5", "max_tokens": 64, "messages": [U("Hi")]} | change
    status, answer = await bench.post(body)
    assert (status, answer["type"]) == (200, "message"), answer


OLD = {"anthropic-version": "2023-06-01"}
SAMPLING = [
    ("claude-opus-4-6", {"temperature": 0.2}, 200),
    ("claude-opus-4-5", {"temperature": 0.2, "top_k": 5}, 200),
    ("claude-opus-4-5", {"temperature": 0.2, "top_p": 0.5}, 400),
    ("claude-opus-4-8", {"temperature": 1}, 200),
    ("claude-opus-4-8", {"temperature": 0.2}, 400),
    ("claude-opus-5-5", {"top_k": 5}, 400),
    ("claude-opus-4-6", {"temperature": 1.5}, 400),
]


@pytest.mark.parametrize(("model", "params", "status"), SAMPLING)
async def test_old_version_takes_sampling_params_where_the_model_does(bench, model, params, status):
    """2023-06-01: free up to 4.6, only defaults from 4.7 on, not both temperature and top_p on 4.5."""
    body = {"model": model, "max_tokens": 9, "messages": [U("Hi")]} | params
    assert (await bench.post(body, headers=OLD))[0] == status


async def test_old_version_takes_documents_from_the_assistant_and_citations_from_the_user(bench):
    """Both became 400s only with 2026-10-21."""
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}}
    cited = {**SAY, "citations": [{"type": "char_location"}]}
    body = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [U([cited]), A([document]), U("y")]}
    assert (await bench.post(body, headers=OLD))[0] == 200


HEADERS = [
    ({"x-api-key": ""}, 401, "authentication_error", "invalid x-api-key"),
    ({"anthropic-version": "2024-01-01"}, 400, "invalid_request_error", "is not a valid version"),
    (
        {"anthropic-beta": "magic-2026-01-01"},
        400,
        "invalid_request_error",
        "Unexpected value(s) `magic-2026-01-01`",
    ),
    ({"content-type": "text/plain"}, 400, "invalid_request_error", "content-type"),
]


@pytest.mark.parametrize(("headers", "status", "kind", "text"), HEADERS)
async def test_headers_are_checked(bench, headers, status, kind, text):
    """Credential, version, betas and content type."""
    body = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [U("Hi")]}
    code, answer = await bench.post(body, headers=headers)
    assert (code, answer["error"]["type"]) == (status, kind)
    assert text in answer["error"]["message"]


@pytest.mark.parametrize(
    "model", ["claude-opus-4-5-20250229", "claude-opus-4-1", "claude-opus-4-20250514", "gpt-5"]
)
async def test_unknown_or_retired_model_is_not_found(bench, model):
    """Ids that never existed and retired ones are 404s."""
    status, answer = await bench.post({"model": model, "max_tokens": 9, "messages": [U("Hi")]})
    assert (status, answer["error"]) == (404, {"type": "not_found_error", "message": f"model: {model}"})


async def test_model_retires_on_its_date(bench):
    """Sonnet 4.5 answers until 2026-11-30 and is gone from then on."""
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [U("Hi")]}
    assert (await bench.post(body))[0] == 200
    bench.clock.advance(8 * 86_400)
    assert (await bench.post(body))[0] == 404


async def test_oversized_body_is_refused_at_the_edge(bench):
    """More than 32 MB is a 413, whatever it holds."""
    status, answer = await bench.post(b" " * (32 * 1024 * 1024 + 1))
    assert (status, answer["error"]["type"]) == (413, "request_too_large")


async def test_broken_json_is_refused(bench):
    """A body that is not JSON, or not an object, is a 400."""
    assert (await bench.post(b"{"))[0] == 400
    assert (await bench.post(b"[]"))[0] == 400


async def test_prompt_longer_than_the_window_is_refused(bench, kit):
    """Input alone above the context window is too long; the model's own window counts."""
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [U(kit.words(200_001))]}
    status, answer = await bench.post(body)
    assert status == 400
    assert answer["error"]["message"].startswith("prompt is too long: 200005 tokens > 200000 maximum")


async def test_edited_or_missing_thinking_of_a_running_tool_turn_is_refused(bench):
    """The thinking block issued with a tool call must come back as it was; on another model it may be left out."""
    ask = {"model": "claude-opus-5-5", "max_tokens": 900, "tools": [TOOL]}
    first = [U("[[sandbox tool=find thinking=40]] go")]
    _, answer = await bench.post(
        {**ask, "messages": first, "thinking": {"type": "adaptive", "display": "summarized"}}
    )
    thinking, call = answer["content"]
    result = U([{**RESULT, "tool_use_id": call["id"]}])

    async def replay(*blocks, **kw):
        return (await bench.post({**ask, **kw, "messages": [*first, A(list(blocks)), result]}))[0]

    assert await replay(thinking, call) == 200
    assert await replay({**thinking, "thinking": thinking["thinking"] + "!"}, call) == 400
    assert await replay(call) == 400
    assert await replay(call, model="claude-opus-5") == 200
    assert await replay(thinking, call, model="claude-opus-5") == 200


async def test_foreign_thinking_is_dropped_silently_and_not_billed(bench):
    """Another model's block weighs nothing here."""
    messages = [U('[[sandbox thinking=40 say="ok"]] go')]
    _, answer = await bench.post({"model": "claude-opus-5", "max_tokens": 900, "messages": messages})
    replayed = [*messages, A(answer["content"]), U("y")]
    plain = [*messages, A(answer["content"][1:]), U("y")]
    count = {"model": "claude-opus-5-5"}
    counts = [
        (await bench.post({**count, "messages": m}, "/v1/messages/count_tokens"))[1]["input_tokens"]
        for m in (replayed, plain)
    ]
    assert counts[0] == counts[1]


async def test_bound_thinking_refuses_an_edited_conversation(make_bench, kit):
    """Organisations with binding: editing the system prompt before a replayed block is a 400 on Opus 5.5."""
    from router.sandbox import SandboxSettings

    bench = make_bench(SandboxSettings(thinking_binding=True))
    ask = {"model": "claude-opus-5-5", "max_tokens": 900, "system": "be kind"}
    messages = [U('[[sandbox thinking=40 say="ok"]] go')]
    _, answer = await bench.post({**ask, "messages": messages})
    messages += [A(answer["content"]), U("y")]
    assert (await bench.post({**ask, "messages": messages}))[0] == 200
    assert (await bench.post({**ask, "messages": messages, "system": "be rude"}))[0] == 400


def test_refusals_cover_distinct_mistakes():
    """The table repeats no request."""
    bodies = [json.dumps(c, sort_keys=True) for c, _ in REFUSED]
    assert len(set(bodies)) == len(bodies)
