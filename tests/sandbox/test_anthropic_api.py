"""The Anthropic face around generation: credentials, headers, counting, models, diagnostics, limits (2026-11)."""

import asyncio

import anthropic
import httpx2
import pytest

from router.sandbox import Latency, RateLimits, SandboxSettings, WireRequest, fingerprint

TOOL = {"name": "find", "description": "d", "input_schema": {"type": "object"}}


async def test_both_credentials_reach_their_workspace(make_bench, kit):
    """Bearer and x-api-key are the same key; the workspace is told in a header and on the bill."""
    bench = make_bench(SandboxSettings(anthropic_keys={"key-a": "wrkspc_1"}))
    raw = await bench.claude.messages.with_raw_response.create(
        model=kit.OPUS, max_tokens=9, messages=[kit.user("Hi")]
    )
    assert raw.headers["anthropic-workspace-id"] == "wrkspc_1"
    assert (await bench.post({"model": kit.OPUS, "max_tokens": 9, "messages": [kit.user("Hi")]}))[0] == 200
    assert {x.key_fingerprint for x in bench.sandbox.invoice} == {fingerprint("key-a")}
    stranger = anthropic.AsyncAnthropic(api_key="other", http_client=bench.http, max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        await stranger.messages.create(model=kit.OPUS, max_tokens=9, messages=[kit.user("Hi")])


async def test_invoice_line_is_found_by_message_and_request_id(bench, kit):
    """What the client sees names the line on the bill, whose cost is the check value's arithmetic."""
    message = await bench.ask(
        max_tokens=0, system=[kit.text(998, ttl="1h")], messages=[kit.user(kit.words(6))]
    )
    line = bench.sandbox.invoice.find(message.id)
    assert line is bench.sandbox.invoice.find(message._request_id)
    assert (line.write_1h_tokens, line.uncached_input_tokens) == (1000, 10)
    assert line.cost_nano_usd == 1000 * 8000 + 10 * 4000
    assert (line.time, line.complete, line.status) == (kit.NOON, True, "complete")


async def test_version_header_is_required(bench, kit):
    """No `anthropic-version` is a 400."""
    request = WireRequest(
        method="POST", path="/v1/messages", query={}, headers={"x-api-key": "k"}, body=b"{}"
    )
    answer = await bench.sandbox.handle(request)
    assert answer.status == 400
    assert b"anthropic-version: header is required" in answer.body


async def test_alias_answers_and_bills_as_its_dated_model(bench):
    """The response names the model that answered; the invoice keeps what was asked for too."""
    message = await bench.ask(model="claude-opus-4-5")
    line = bench.sandbox.invoice.lines[0]
    assert message.model == line.model == "claude-opus-4-5-20251101"
    assert line.requested_model == "claude-opus-4-5"


async def test_counting_equals_what_the_request_is_billed_and_is_free(bench, kit):
    """count_tokens gives the whole input of the same request, tools and overhead included, unbilled."""
    body = {"system": kit.words(40), "tools": [TOOL], "messages": [kit.user("Why?")]}
    counted = await bench.claude.messages.count_tokens(model=kit.OPUS, **body)
    assert len(bench.sandbox.invoice) == 0
    message = await bench.ask(**body)
    assert message.usage.input_tokens == counted.input_tokens > 286


async def test_forced_choice_costs_the_documented_overhead(bench):
    """Opus 5: 286 tokens of tool overhead with auto, 406 with any (A-PRICE)."""
    plain = await bench.ask(model="claude-opus-5", tools=[TOOL])
    forced = await bench.ask(model="claude-opus-5", tools=[TOOL], tool_choice={"type": "any"})
    assert forced.usage.input_tokens - plain.usage.input_tokens == 120
    assert forced.stop_reason == "tool_use"


async def test_models_tell_what_the_rules_enforce(bench):
    """The catalogue lists limits, thinking types and lifecycle; retired ids are told as such."""
    info = await bench.claude.models.retrieve("claude-opus-5-5")
    assert (info.max_input_tokens, info.max_tokens, info.lifecycle) == (1_000_000, 128_000, "active")
    assert not info.capabilities.thinking.types.disabled.supported
    listed = {m.id: m.lifecycle async for m in bench.claude.models.list()}
    assert listed["claude-opus-4-1-20250805"] == "retired"
    with pytest.raises(anthropic.NotFoundError):
        await bench.claude.models.retrieve("claude-opus-9")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"model": "claude-opus-5"}, "model_changed"),
        ({"speed": "fast"}, "model_changed"),
        ({"system": "other"}, "system_changed"),
        ({"tools": [{**TOOL, "description": "x"}]}, "tools_changed"),
        ({"messages": [{"role": "user", "content": "other"}]}, "messages_changed"),
        ({"output_config": {"effort": "low"}}, "unavailable"),
        ({"tool_choice": {"type": "none"}}, "unavailable"),
    ],
    ids=str,
)
async def test_diagnostics_name_the_first_difference(bench, kit, change, kind):
    """Appending differs in nothing; otherwise the first difference in prefix order is told."""
    body = {"system": kit.words(100), "tools": [TOOL], "messages": [kit.user("Why?")]}
    first = await bench.ask(**body, diagnostics={"previous_message_id": None})
    assert first.diagnostics is None
    grown = body | {"messages": [*body["messages"], kit.assistant("ok"), kit.user("And?")]} | change
    second = await bench.ask(**grown, diagnostics={"previous_message_id": first.id})
    reason = second.diagnostics and second.diagnostics.cache_miss_reason
    assert (reason and reason.type) == kind
    if kind == "system_changed":
        assert reason.cache_missed_input_tokens == 102 + 6


async def test_diagnostics_only_know_requests_that_asked_for_them(bench, kit):
    """A message without the object leaves no fingerprint; another workspace's neither."""
    silent = await bench.ask()
    answer = await bench.ask(diagnostics={"previous_message_id": silent.id})
    assert answer.diagnostics.cache_miss_reason.type == "previous_message_not_found"


async def test_rate_limit_headers_count_writes_but_not_reads(bench, kit):
    """Input limits fall by uncached and written tokens only; output by what was produced."""

    async def remaining():
        raw = await bench.claude.messages.with_raw_response.create(
            model=kit.OPUS, max_tokens=0, messages=[kit.user("x")], system=[kit.text(50_000, ttl="5m")]
        )
        return int(raw.headers["anthropic-ratelimit-input-tokens-remaining"])

    assert [await remaining() for _ in range(3)] == [1_949_000] * 3


async def test_exceeded_limit_is_refused_with_the_delay_and_refills(make_bench, kit):
    """With limits enforced, a 429 tells whole seconds; after them the request passes."""
    bench = make_bench(SandboxSettings(rate_limits=RateLimits(input_tokens=6_000), enforce_rate_limits=True))
    body = {"messages": [kit.user(kit.words(4_000))], "max_tokens": 9}
    await bench.ask(**body)
    with pytest.raises(anthropic.RateLimitError) as refused:
        await bench.ask(**body)
    delay = int(refused.value.response.headers["retry-after"])
    assert 0 < delay <= 21
    bench.clock.advance(delay)
    await bench.ask(**body)
    assert len(bench.sandbox.invoice) == 2


async def test_time_to_first_token_grows_with_the_cold_prompt(make_bench, kit):
    """Latency is linear in uncached tokens and runs on the clock only."""
    latency = Latency(t0_s=1.0, kappa_s_per_token=0.001, output_s_per_token=0.0)
    bench = make_bench(SandboxSettings(latency_scale=1.0, anthropic_latency=latency))
    system = [kit.text(2_994, ttl="5m")]
    spent = []
    for _ in range(2):
        before = bench.clock.now()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(bench.ask(system=system, messages=[kit.user("w")]))
            await bench.clock.until_sleepers(1)
            while not task.done():
                await bench.clock.travel(0.5)
        spent.append(bench.clock.now() - before)
    assert spent == [4.5, 1.5]  # 1 + 3.001 s cold, 1 + 0.005 s warm, seen in half seconds


async def test_client_timeout_is_kept_on_the_sandbox_clock(make_bench, kit):
    """A silent server makes the SDK's own timeout fire, without real waiting."""
    bench = make_bench(SandboxSettings(latency_scale=1000.0))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_timeout(bench, kit))
        await bench.clock.until_sleepers(1)
        await bench.clock.travel(31)
    assert isinstance(task.result(), anthropic.APITimeoutError)
    assert len(bench.sandbox.invoice) == 0


async def _timeout(bench, kit):
    try:
        await bench.claude.messages.create(
            model=kit.OPUS, max_tokens=9, messages=[kit.user("x")], timeout=httpx2.Timeout(30.0)
        )
    except anthropic.APITimeoutError as error:
        return error


@pytest.mark.parametrize(
    ("limit", "stop", "expected"),
    [(5, (), "max_tokens"), (500, ("w w w",), "stop_sequence"), (500, (), "end_turn")],
)
async def test_budget_and_stop_sequences_end_the_answer(bench, kit, limit, stop, expected):
    """Output never exceeds `max_tokens`; the text ends before a stop sequence, which is named."""
    from router.sandbox import Text

    bench.sandbox.script(Text("a b c d w w w e"), thinking_tokens=0)
    message = await bench.ask(max_tokens=limit, stop_sequences=list(stop) or anthropic.omit)
    assert message.stop_reason == expected
    assert message.usage.output_tokens == {"max_tokens": 5, "stop_sequence": 4, "end_turn": 8}[expected]
    assert message.stop_sequence == ("w w w" if stop else None)


async def test_structured_output_is_valid_json(bench, kit):
    """With a format the text is JSON with the required keys."""
    import json

    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "score": {"type": "integer"}},
        "required": ["title", "score"],
        "additionalProperties": False,
    }
    output = {"format": {"type": "json_schema", "schema": schema}}
    message = await bench.ask(max_tokens=2000, output_config=output)
    value = json.loads(message.content[-1].text)
    assert set(value) == {"title", "score"}


async def test_same_request_gives_the_same_answer_and_another_seed_another(make_bench, kit):
    """Answers are a function of model, prompt and seed; ids are not repeated."""
    one, two, other = make_bench(), make_bench(), make_bench(SandboxSettings(seed=1))
    answers = [await b.ask(max_tokens=999) for b in (one, one, two, other)]
    texts = [a.content[-1].text for a in answers]
    assert texts[0] == texts[1] == texts[2] != texts[3]
    assert answers[0].id != answers[1].id
