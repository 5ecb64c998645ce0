"""The Gemini face through the real SDK: answers, streams, usage, implicit caching, bill (2026-11)."""

import asyncio
import json

import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st

from router.sandbox import Call, SandboxSettings, Text
from router.sandbox.gemini_cache import ImplicitCache
from router.sandbox.gemini_contents import content
from router.sandbox.gemini_models import MODELS
from router.sandbox.gemini_prompt import flatten_contents

FIND = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="find",
            description="d",
            parameters_json_schema={
                "type": "object",
                "properties": {"q": {"type": "string"}},
                "required": ["q"],
            },
        )
    ]
)


async def ask(bench, kit, contents, model=None, **config):
    return await bench.gemini.aio.models.generate_content(
        model=model or kit.FLASH, contents=contents, config=types.GenerateContentConfig(**config)
    )


async def stream(bench, kit, contents, **config):
    chunks = await bench.gemini.aio.models.generate_content_stream(
        model=kit.FLASH, contents=contents, config=types.GenerateContentConfig(**config)
    )
    return [chunk async for chunk in chunks]


async def test_usage_adds_up_and_is_the_bill(bench, kit):
    """total = prompt + candidates + thoughts; the line has the same counts, by the model that answered."""
    bench.sandbox.script(Text(kit.words(20)), thinking_tokens=30)
    answer = await ask(bench, kit, kit.words(100))
    usage = answer.usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count, usage.thoughts_token_count) == (
        102,
        20,
        30,
    )
    assert usage.total_token_count == 152
    assert usage.cached_content_token_count is None  # counters of 0 are left out
    line = bench.sandbox.invoice.find(answer.response_id)
    assert (line.input_tokens, line.output_tokens, line.thinking_tokens) == (102, 50, 30)
    assert line.cost_nano_usd == 102 * 750 + 50 * 3750


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("gemini-3.7-flash", "gemini-3.8-flash"), ("gemini-3.5-flash", "gemini-3.6-flash")],
)
async def test_routed_ids_answer_and_bill_as_their_successor(bench, kit, asked, answered):
    """Deprecated ids are answered by the next model, named in `modelVersion` and on the bill."""
    answer = await ask(bench, kit, "Hi", model=asked)
    line = bench.sandbox.invoice.lines[0]
    assert answer.model_version == line.model == answered
    assert line.requested_model == asked


async def test_flash_25_is_routed_to_lite_from_december_on(bench, kit):
    """`gemini-2.5-flash` ends on 2026-12-01 (third-party summary: then 3.5-flash-lite)."""
    assert (await ask(bench, kit, "Hi", model="gemini-2.5-flash")).model_version == "gemini-2.5-flash"
    bench.clock.advance(9 * 86_400)
    assert (await ask(bench, kit, "Hi", model="gemini-2.5-flash")).model_version == "gemini-3.5-flash-lite"


async def test_stream_frames_are_cumulative_and_end_with_the_reason(bench, kit):
    """Text appends, usage replaces, the reason is on the last frame only; sums equal the unary answer."""
    bench.sandbox.script(Text(kit.words(40)), thinking_tokens=30)
    frames = await stream(bench, kit, "Why?")
    text = "".join(p.text or "" for f in frames for p in f.candidates[0].content.parts)
    assert text == kit.words(40)
    totals = [f.usage_metadata.candidates_token_count or 0 for f in frames]
    assert totals == sorted(totals)
    assert totals[-1] == 40
    assert all(f.usage_metadata.thoughts_token_count == 30 for f in frames)
    assert [f.candidates[0].finish_reason for f in frames[:-1]] == [None] * (len(frames) - 1)
    assert frames[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert bench.sandbox.invoice.lines[0].complete


async def test_frames_on_the_wire(bench):
    """SSE frames are `data: {...}` with CRLF; without `alt=sse` the stream is one JSON array."""
    body = {"contents": [{"parts": [{"text": "[[sandbox tokens=30]]"}]}]}
    _, sse = await bench.google(body, method="streamGenerateContent", query={"alt": "sse"})
    frames = sse.decode().split("\r\n\r\n")
    assert frames.pop() == ""
    assert all(json.loads(f.removeprefix("data: "))["usageMetadata"] for f in frames)
    _, array = await bench.google(body, method="streamGenerateContent")
    assert len(json.loads(array)) == len(frames)


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_come_whole_with_ids_and_one_signature(bench, kit, streamed):
    """Each call is one part with its id; only the first of a step is signed; the reason is STOP."""
    bench.sandbox.script(Call("find", {"q": "a"}), Call("find", {"q": "b"}), thinking_tokens=9)
    answers = (
        await stream(bench, kit, "x", tools=[FIND])
        if streamed
        else [await ask(bench, kit, "x", tools=[FIND])]
    )
    parts = [p for a in answers for p in a.candidates[0].content.parts if p.function_call]
    assert [p.function_call.args for p in parts] == [{"q": "a"}, {"q": "b"}]
    assert len({p.function_call.id for p in parts}) == 2
    assert [p.thought_signature is not None for p in parts] == [True, False]
    assert answers[-1].candidates[0].finish_reason == types.FinishReason.STOP


async def test_tool_loop_through_the_sdk(bench, kit):
    """The SDK's own content objects go back unchanged and are accepted."""
    bench.sandbox.script(Call("find", {"q": "a"}), thinking_tokens=9)
    first = await ask(bench, kit, "x", tools=[FIND])
    call = first.candidates[0].content
    reply = types.Part.from_function_response(name="find", response={"output": "w"})
    reply.function_response.id = call.parts[0].function_call.id
    turns = [types.UserContent(parts=[types.Part(text="x")]), call, types.UserContent(parts=[reply])]
    second = await ask(bench, kit, turns, tools=[FIND])
    assert second.candidates[0].finish_reason == types.FinishReason.STOP


async def test_thought_summaries_only_when_asked(bench, kit):
    """`include_thoughts` adds a part marked as thought; thinking is billed either way."""
    for shown in (False, True):
        bench.sandbox.script(Text("Yes."), thinking_tokens=40)
        config = types.ThinkingConfig(include_thoughts=shown, thinking_level="low")
        answer = await ask(bench, kit, "x", thinking_config=config)
        assert any(p.thought for p in answer.candidates[0].content.parts) == shown
        assert answer.usage_metadata.thoughts_token_count == 40


async def test_budget_covers_thinking_and_text(bench, kit):
    """`maxOutputTokens` bounds both together; MAX_TOKENS says so."""
    bench.sandbox.script(Text(kit.words(100)), thinking_tokens=30)
    answer = await ask(bench, kit, "x", max_output_tokens=50)
    assert answer.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert bench.sandbox.invoice.lines[0].output_tokens == 50


async def test_blocked_prompt_has_no_candidates(bench, kit):
    """`promptFeedback` with HTTP 200; the prompt is billed."""
    answer = await ask(bench, kit, "[[sandbox block=SAFETY]] x")
    assert answer.candidates is None
    assert answer.prompt_feedback.block_reason == types.BlockedReason.SAFETY
    assert bench.sandbox.invoice.lines[0].output_tokens == 0
    (only,) = await stream(bench, kit, "[[sandbox block=SAFETY]] x")
    assert only.prompt_feedback.block_reason == types.BlockedReason.SAFETY


async def test_finish_reason_can_be_ordered(bench, kit):
    """`stop=safety` ends with that reason."""
    answer = await ask(bench, kit, "[[sandbox stop=safety tokens=5]]")
    assert answer.candidates[0].finish_reason == types.FinishReason.SAFETY


async def test_json_answers_fit_their_schema(bench, kit):
    """With a response schema the text is JSON with the required keys."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = await ask(bench, kit, "x", response_mime_type="application/json", response_json_schema=schema)
    assert isinstance(json.loads(answer.text)["n"], int)


async def test_counting_is_free_and_equal_to_the_prompt(bench, kit):
    """countTokens of the contents is what the same contents are billed."""
    counted = await bench.gemini.aio.models.count_tokens(model=kit.FLASH, contents=kit.words(77))
    assert len(bench.sandbox.invoice) == 0
    answer = await ask(bench, kit, kit.words(77))
    assert counted.total_tokens == answer.usage_metadata.prompt_token_count == 79
    body = {
        "generateContentRequest": {
            "model": "models/gemini-3.8-flash",
            "contents": [{"parts": [{"text": kit.words(77)}]}],
            "systemInstruction": {"parts": [{"text": kit.words(9)}]},
        }
    }
    assert (await bench.google(body, method="countTokens"))[1]["totalTokens"] == 79 + 11


# --- implicit caching -------------------------------------------------------------------------------------------


def cached(answer):
    return answer.usage_metadata.cached_content_token_count or 0


async def test_common_prefix_is_read_in_single_tokens(bench, kit):
    """The second prompt reads exactly what it shares, in a system prompt and part of a question."""
    shared = kit.words(5_000)
    first = await ask(bench, kit, "alpha beta gamma", system_instruction=shared)
    second = await ask(bench, kit, "alpha beta delta", system_instruction=shared)
    assert (cached(first), cached(second)) == (0, 5_002 + 2 + 2)
    line = bench.sandbox.invoice.lines[1]
    assert (line.read_tokens, line.uncached_input_tokens) == (5_006, 1)


@pytest.mark.parametrize(("shared", "read"), [(4_096, 4_096), (4_095, 0)])
async def test_below_the_minimum_nothing_is_read(bench, kit, shared, read):
    """4,096 shared tokens are read on 3.8 Flash, 4,095 are not; framing (2 and 2) and one word of the text count."""
    for question in ("same one", "same two"):
        answer = await ask(bench, kit, question, system_instruction=kit.words(shared - 5))
    assert cached(answer) == read


async def test_identical_prompts_leave_one_token_to_read(bench, kit):
    """Never the whole prompt: the last token is always computed."""
    for _ in range(2):
        answer = await ask(bench, kit, kit.words(6_000))
    assert cached(answer) == 6_001


async def test_entries_live_five_minutes_from_the_start_of_a_request(bench, kit):
    """Read at 299 s and again 299 s later; gone after 300 s of silence; another model never shares."""
    shared = kit.words(5_000)
    await ask(bench, kit, "one", system_instruction=shared)
    assert cached(await ask(bench, kit, "x", model="gemini-3.6-flash", system_instruction=shared)) == 0
    for question in ("two", "three"):
        bench.clock.advance(299)
        assert cached(await ask(bench, kit, question, system_instruction=shared)) > 5_000
    bench.clock.advance(300)
    assert cached(await ask(bench, kit, "four", system_instruction=shared)) == 0


async def test_parallel_cold_prompts_share_nothing(make_bench, kit):
    """A prompt is readable once its writer's response has begun."""
    bench = make_bench(SandboxSettings(latency_scale=1.0))
    async with asyncio.TaskGroup() as group:
        herd = [group.create_task(ask(bench, kit, kit.words(5_000))) for _ in range(3)]
        await bench.clock.until_sleepers(3)
        await bench.clock.travel(60)
    assert [cached(t.result()) for t in herd] == [0, 0, 0]


async def test_implicit_cache_can_be_switched_off(make_bench, kit):
    """It carries no guarantee, so both worlds can be tested."""
    bench = make_bench(SandboxSettings(gemini_implicit_cache=False))
    for _ in range(2):
        answer = await ask(bench, kit, kit.words(5_000))
    assert cached(answer) == 0


FLASH_ROW = MODELS["gemini-3.8-flash"]
prompts = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), min_size=1, max_size=3)


def laid_out(turns):
    roles = ["user" if i % 2 == 0 else "model" for i in range(len(turns))]
    contents = tuple(
        content({"role": role, "parts": [{"text": " ".join(words)}]}, "c")
        for role, words in zip(roles, turns, strict=True)
    )
    return flatten_contents(contents, FLASH_ROW)


def shared_tokens(left, right):
    """The rule, done slowly: framing and one-letter words as a flat row of tokens."""

    def row(turns):
        return [token for i, words in enumerate(turns) for token in [f"<{i % 2}", f"{i % 2}>", *words]]

    count, a, b = 0, row(left), row(right)
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    # framing alone is not read without a token of its part
    while count and a[count - 1].endswith(">"):
        count -= 2
    if count and a[count - 1].startswith("<"):
        count -= 1
    return count


@given(st.lists(prompts, min_size=1, max_size=6), prompts)
def test_read_is_the_longest_common_prefix_with_any_live_prompt(history, last):
    """Against every remembered prompt, by brute force over single tokens."""
    cache = ImplicitCache(300.0)
    for i, turns in enumerate(history):
        cache.commit(laid_out(turns), 0, float(i), float(i))
    read, _ = cache.read_tokens(laid_out(last), 0, 10.0)
    best = max(shared_tokens(turns, last) for turns in history)
    assert read == min(best, laid_out(last).total_tokens - 1)


def test_expired_neighbours_are_skipped():
    """A closer text that has expired does not hide a live one further away."""
    cache = ImplicitCache(300.0)
    cache.commit(laid_out([list("abca")]), 0, 100.0, 100.0)
    cache.commit(laid_out([list("abcb")]), 0, 0.0, 100.0)
    assert cache.read_tokens(laid_out([list("abcc")]), 0, 350.0)[0] == 2 + 3
    cache.sweep(350.0)
    assert cache.read_tokens(laid_out([list("abcc")]), 0, 350.0)[0] == 2 + 3
