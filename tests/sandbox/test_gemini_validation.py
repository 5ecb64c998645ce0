"""What the Gemini face refuses, with which status and text (G-GEN, G-FC, G-SIG, G-THINK, G-ERR; 2026-11)."""

import base64

import pytest

from router.sandbox.gemini_contents import DUMMY_SIGNATURE

U, M = (lambda *parts, r=r: {"role": r, "parts": list(parts)} for r in ("user", "model"))
T = {"text": "Hi"}
CALL = {"functionCall": {"name": "find", "args": {}}, "thoughtSignature": DUMMY_SIGNATURE}
BARE = {"functionCall": {"name": "find", "args": {}}}
RESULT = {"functionResponse": {"name": "find", "response": {"output": "w"}}}
FIND = {"name": "find", "description": "d", "parametersJsonSchema": {"type": "object"}}
TOOLS = [{"functionDeclarations": [FIND]}]
PNG = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}


def seen(*parts):
    """A function response with media."""
    return {"functionResponse": {**RESULT["functionResponse"], "parts": list(parts)}}


def config(**kw):
    return {"generationConfig": kw}


def thinking(**kw):
    return config(thinkingConfig=kw)


REFUSED = [
    ({"nonsense": 1}, 'Invalid JSON payload received. Unknown name "nonsense": Cannot find field.'),
    (config(max_tokens=5), "Unknown name \"max_tokens\" at 'generation_config': Cannot find field."),
    ({"contents": [{"role": "user", "parts": [T], "name": "n"}]}, "Unknown name \"name\" at 'contents[0]'"),
    ({"contents": [U({"text": "x", "colour": 1})]}, "Unknown name \"colour\" at 'contents[0].parts[0]'"),
    ({"contents": []}, "contents is not specified"),
    ({"contents": [U()]}, "contents.parts must not be empty"),
    ({"contents": [U({})]}, "required oneof field 'data' must have one initialized field"),
    ({"contents": [{"role": "assistant", "parts": [T]}]}, "Please use a valid role: user, model."),
    ({"contents": [U(T), M(T)]}, "The last content must not have the role 'model'"),
    (
        {"systemInstruction": U({"inlineData": {"mimeType": "text/plain", "data": "aGk="}})},
        "only supports text",
    ),
    ({"contents": [U({"inlineData": {"mimeType": "audio/wav", "data": "aGk="}})]}, "Unsupported MIME type"),
    ({"contents": [U({"inlineData": {"mimeType": "image/png", "data": "*"}})]}, "Base64 decoding failed"),
    # tools
    ({"tools": [{"functionDeclarations": [{"name": "1st"}]}]}, "Invalid function name"),
    ({"tools": [{"functionDeclarations": [FIND, FIND]}]}, "Duplicate function declaration found: find"),
    ({"tools": [{"functionDeclarations": [{**FIND, "input_schema": {}}]}]}, 'Unknown name "input_schema"'),
    (
        {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"kind": "x"}}]}]},
        'Unknown name "kind"',
    ),
    (
        {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "text"}}]}]},
        "parameters.type",
    ),
    ({"tools": [{"googleSearch": {}}]}, "does not play built-in tools"),
    ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "needs at least one function declaration"),
    (
        {
            "tools": TOOLS,
            "toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["find"]}},
        },
        "should only be set when the function calling mode is ANY",
    ),
    (
        {
            "tools": TOOLS,
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["lose"]}},
        },
        "undeclared functions: lose",
    ),
    # pairing
    ({"contents": [M(CALL), U(RESULT)]}, "comes immediately after a user turn"),
    ({"contents": [U(T), M(CALL), U(T)]}, "number of function response parts is equal to the number"),
    (
        {"contents": [U(T), M(CALL, CALL), U(RESULT)]},
        "number of function response parts is equal to the number",
    ),
    ({"contents": [U(T), M(T), U(RESULT)]}, "comes immediately after a function call turn"),
    (
        {"contents": [U(T), M(CALL), U({"functionResponse": {"name": "other", "response": {}}})]},
        "does not match a function call",
    ),
    (
        {"contents": [U(T), M(CALL), U({"functionResponse": {"name": "find", "response": "w"}})]},
        "expected an object",
    ),
    ({"contents": [U(T), U(CALL)]}, "have the role 'model'"),
    ({"contents": [U(T), M(CALL), U(seen(T))]}, 'Unknown name "text" at \'contents[2].parts[0]'),
    ({"contents": [U(T), M(CALL), U(seen({}))]}, "required oneof field 'data'"),
    (
        {"contents": [U(T), M(CALL), U(seen({"inlineData": {"mimeType": "audio/wav", "data": "aGk="}}))]},
        "Unsupported MIME type",
    ),
    # thought signatures
    (
        {"contents": [U(T), M(BARE), U(RESULT)]},
        "Function call `find` in the `2.` content block is missing a `thought_signature`.",
    ),
    (
        {"contents": [U(T), M({**BARE, "thoughtSignature": "bm90IG91cnM="}), U(RESULT)]},
        "Corrupted thought signature",
    ),
    (
        {"contents": [U(T), M(CALL), U(RESULT), M(BARE), U(RESULT)]},
        "in the `4.` content block is missing a `thought_signature`",
    ),
    # generation
    (thinking(thinkingLevel="MINIMAL"), "Thinking level MINIMAL is not supported for this model."),
    (thinking(thinkingLevel="low", thinkingBudget=5), "only one of thinking budget and thinking level"),
    (thinking(thinkingBudget=512), "Thinking budget is not supported for this model"),
    (config(maxOutputTokens=70_000), "maxOutputTokens value of 70000 but the supported range is from 1"),
    (config(temperature=3), "temperature must be in the range [0, 2]"),
    (config(candidateCount=2), "Multiple candidates is not enabled"),
    (config(stopSequences=["a"] * 6), "at most 5"),
    (config(responseMimeType="image/png"), "allowed mimetypes"),
    (config(responseJsonSchema={"type": "object"}), "needs response_mime_type application/json"),
    ({"safetySettings": [{"category": "HARM_CATEGORY_FUN", "threshold": "OFF"}]}, "category or threshold"),
    ({"serviceTier": "priority"}, "not offered by the sandbox"),
    ({"store": "no"}, "Invalid value at 'store'"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED, ids=[t[:50] for _, t in REFUSED])
async def test_mistake_is_refused_by_name_and_not_billed(bench, change, text):
    """Every mistake is a 400 INVALID_ARGUMENT that names it."""
    status, answer = await bench.google({"contents": [U(T)]} | change)
    assert (status, answer["error"]["code"], answer["error"]["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert text in answer["error"]["message"]
    assert len(bench.sandbox.invoice) == 0


ACCEPTED = [
    {
        "system_instruction": U(T),
        "generation_config": {"max_output_tokens": 9, "thinking_config": {"thinking_level": "low"}},
    },
    {"contents": [{"parts": [T]}]},
    {"contents": [U(T), M(CALL), U(RESULT)], "tools": TOOLS},
    {"contents": [U(T), M(CALL, BARE), U(RESULT, RESULT)], "tools": TOOLS},  # parallel: first call only
    {"contents": [U(T), M(BARE), U(RESULT), M(T), U(T)], "tools": TOOLS},  # earlier turn: not validated
    {"contents": [U(T), M(CALL), U(seen(PNG, PNG))], "tools": TOOLS},
    {"store": False, "serviceTier": "standard", "safetySettings": []},
    config(temperature=0.3, topP=0.5, topK=3, responseMimeType="application/json"),
]


@pytest.mark.parametrize("change", ACCEPTED, ids=[str(c)[:60] for c in ACCEPTED])
async def test_valid_request_is_answered(bench, change):
    """Both spellings, single turns without a role, paired calls, and the sampling knobs 3.x ignores."""
    status, answer = await bench.google({"contents": [U(T)]} | change)
    assert status == 200, answer


LEVELS = [
    ("gemini-3.6-flash", {"thinkingLevel": "minimal"}, 200),
    ("gemini-2.5-flash-lite", {"thinkingLevel": "low"}, 400),
    ("gemini-2.5-flash-lite", {"thinkingBudget": 100}, 400),
    ("gemini-2.5-flash-lite", {"thinkingBudget": 512}, 200),
    ("gemini-2.5-flash-lite", {"thinkingBudget": 0}, 200),
    ("gemini-2.5-flash-lite", {"thinkingBudget": -1}, 200),
]


@pytest.mark.parametrize(("model", "kw", "status"), LEVELS)
async def test_thinking_control_goes_by_model(bench, model, kw, status):
    """Levels from 3 on, budgets on 2.5 with the flash-lite minimum (G-THINK)."""
    assert (await bench.google({"contents": [U(T)]} | thinking(**kw), model=model))[0] == status


async def test_older_models_need_no_signature_and_take_a_prefill(bench):
    """Signatures are optional on 2.5, and so is ending with a user content."""
    turns = [U(T), M(BARE), U(RESULT), M(T)]
    assert (await bench.google({"contents": turns}, model="gemini-2.5-flash-lite"))[0] == 200


async def test_media_of_a_function_response_are_weighed_and_2_5_takes_none(bench):
    """Two images weigh what two images weigh, as images; the 2.5 family takes text alone."""
    plain, media = ({"contents": [U(T), M(CALL), U(result)]} for result in (RESULT, seen(PNG, PNG)))
    usage = [(await bench.google(body))[1]["usageMetadata"] for body in (plain, media)]
    (image,) = [each for each in usage[1]["promptTokensDetails"] if each["modality"] == "IMAGE"]
    assert usage[1]["promptTokenCount"] - usage[0]["promptTokenCount"] == image["tokenCount"] == 2 * 258
    status, answer = await bench.google(
        {"contents": [U(T), M(BARE), U(seen(PNG))]}, model="gemini-2.5-flash-lite"
    )
    assert (status, answer["error"]["message"]) == (
        400,
        "Multimodal function responses are not supported for this model.",
    )


async def test_dummy_signature_is_taken_as_text_or_as_bytes(bench):
    """REST callers send the literal, the SDK sends it base64-encoded."""
    encoded = base64.b64encode(DUMMY_SIGNATURE.encode()).decode()
    for signature in (DUMMY_SIGNATURE, encoded, encoded.rstrip("=")):
        turns = [U(T), M({**BARE, "thoughtSignature": signature}), U(RESULT)]
        assert (await bench.google({"contents": turns}))[0] == 200


MODELS = [
    ("gemini-3-flash", "v1", 404),
    ("gemini-2.0-flash", "v1", 404),
    ("gemini-flash-latest", "v1", 404),
    ("gemini-flash-latest", "v1beta", 200),
    ("gemini-3.8-flash", "v1beta", 200),
]


@pytest.mark.parametrize(("model", "version", "status"), MODELS)
async def test_unknown_shut_down_and_alias_ids(bench, model, version, status):
    """Ids that never were or are shut down are 404s; aliases answer on v1beta only."""
    code, answer = await bench.google({"contents": [U(T)]}, model=model, version=version)
    assert code == status
    if status == 404:
        assert answer["error"]["status"] == "NOT_FOUND"


async def test_keys_are_checked(make_bench):
    """A wrong key is a 400 with API_KEY_INVALID, a missing one a 403, a query key is read."""
    from router.sandbox import SandboxSettings

    bench = make_bench(SandboxSettings(gemini_keys={"right": "projects/1"}))
    body = {"contents": [U(T)]}
    status, wrong = await bench.google(body, headers={"x-goog-api-key": "wrong"})
    assert (status, wrong["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")
    assert wrong["error"]["message"] == "API key not valid. Please pass a valid API key."
    status, missing = await bench.google(body, headers={})
    assert (status, missing["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert (await bench.google(body, headers={}, query={"key": "right"}))[0] == 200
    assert bench.sandbox.invoice.lines[0].workspace == "projects/1"


async def test_foreign_explicit_cache_is_forbidden(bench):
    """The sandbox holds no explicit caches, so every name is unknown: 403."""
    status, answer = await bench.google({"contents": [U(T)], "cachedContent": "cachedContents/x"})
    assert (status, answer["error"]["status"]) == (403, "PERMISSION_DENIED")


async def test_error_of_a_stream_without_sse_is_an_array(bench):
    """`streamGenerateContent` without `alt=sse` wraps its error in one-element JSON array."""
    status, answer = await bench.google({"contents": []}, method="streamGenerateContent")
    assert status == 400
    assert answer[0]["error"]["status"] == "INVALID_ARGUMENT"


async def test_thinking_signature_belongs_to_its_call(bench):
    """A signature moved to another call is refused; unchanged it passes and its thoughts weigh as input."""
    order = {"text": '[[sandbox tool=find args={"q":1} thinking=70]]'}
    _, answer = await bench.google({"contents": [U(order)], "tools": TOOLS})
    part = answer["candidates"][0]["content"]["parts"][0]
    result = {
        "functionResponse": {"id": part["functionCall"]["id"], "name": "find", "response": {"output": "w"}}
    }
    good = {"contents": [U(order), M(part), U(result)], "tools": TOOLS}
    status, second = await bench.google(good)
    assert status == 200
    plain = {
        "contents": [U(order), M({**part, "thoughtSignature": DUMMY_SIGNATURE}), U(result)],
        "tools": TOOLS,
    }
    _, third = await bench.google(plain)
    tokens = [a["usageMetadata"]["promptTokenCount"] for a in (second, third)]
    assert tokens[0] - tokens[1] == 70
    moved = {**part, "functionCall": {**part["functionCall"], "args": {"q": 2}}}
    assert (await bench.google({**good, "contents": [U(order), M(moved), U(result)]}))[0] == 400
    nameless = {"functionResponse": {"name": "find", "response": {"output": "w"}}}
    assert (await bench.google({**good, "contents": [U(order), M(part), U(nameless)]}))[0] == 400
