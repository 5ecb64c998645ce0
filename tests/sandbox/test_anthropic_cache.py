"""Prompt caching on the Anthropic face: who writes, who reads, who pays what (A-CACHE, 2026-11).

Texts of `kit.words` weigh one token per word; a system prompt adds 2 tokens and a turn 4.
"""

import asyncio

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.sandbox import Call, SandboxSettings, Text
from router.sandbox.anthropic_cache import PromptCache
from router.sandbox.anthropic_models import MODELS, Level
from router.sandbox.anthropic_prompt import Position, Prompt

TOOL = {"name": "find", "description": "d", "input_schema": {"type": "object", "properties": {}}}


async def test_cold_prefix_is_written_once_and_then_read(bench, kit):
    """The first request pays the write, the second reads; the question after the marker is always full price."""
    system = [kit.text(600, ttl="5m")]
    first = await bench.ask(system=system)
    second = await bench.ask(system=system)
    assert kit.billed(first) == (6, 602, 0, 0)
    assert kit.billed(second) == (6, 0, 0, 602)


@pytest.mark.parametrize(
    ("model", "minimum"),
    [
        ("claude-opus-5-5", 512),
        ("claude-opus-4-8", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-5", 4096),
    ],
)
async def test_below_the_minimum_nothing_is_cached_and_nothing_fails(bench, kit, model, minimum):
    """One token short of the model's minimum: both counters stay 0, twice; at the minimum: a write."""
    short, enough = ([kit.text(n - 2, tag=str(n), ttl="5m")] for n in (minimum - 1, minimum))
    for _ in range(2):
        assert kit.billed(await bench.ask(model=model, system=short)) == (minimum + 5, 0, 0, 0)
    assert kit.billed(await bench.ask(model=model, system=enough)) == (6, minimum, 0, 0)


async def test_read_and_both_writes_split_by_the_highest_hit_and_the_last_hour_marker(bench, kit):
    """A/B/C rule: read up to the hit, 1h up to the last 1h marker, 5m up to the last marker, the rest in full."""
    base = [kit.text(1000, "a", "1h")]
    await bench.ask(system=base)
    system = [*base, kit.text(300, "b", "1h"), kit.text(200, "c", "5m"), kit.text(50, "d")]
    message = await bench.ask(system=system)
    assert kit.billed(message) == (56, 200, 300, 1002)


@pytest.mark.parametrize(("ttl", "alive_s", "dead_s"), [("5m", 299, 300), ("1h", 3599, 3600)])
async def test_entry_lives_for_its_ttl_from_the_start_of_the_request(make_bench, kit, ttl, alive_s, dead_s):
    """Read just before the end restarts the clock; a whole TTL of silence ends the entry."""
    bench = make_bench()
    system = [kit.text(600, ttl=ttl)]
    await bench.ask(system=system)
    for _ in range(3):
        bench.clock.advance(alive_s)
        assert (await bench.ask(system=system)).usage.cache_read_input_tokens == 602
    bench.clock.advance(dead_s)
    assert (await bench.ask(system=system)).usage.cache_read_input_tokens == 0


async def test_ttl_counts_from_the_start_not_from_the_end_of_a_slow_answer(make_bench, kit):
    """An answer that takes a minute leaves four minutes of life."""
    bench = make_bench(SandboxSettings(latency_scale=1.0))
    system = [kit.text(600, ttl="5m")]
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.ask(system=system))
        await bench.clock.until_sleepers(1)
        await bench.clock.travel(60)
    bench.clock.advance(239)
    async with asyncio.TaskGroup() as group:
        second = group.create_task(bench.ask(system=system))
        await bench.clock.until_sleepers(1)
        await bench.clock.travel(60)
    assert second.result().usage.cache_read_input_tokens == 602
    bench.clock.advance(241)
    async with asyncio.TaskGroup() as group:
        third = group.create_task(bench.ask(system=system))
        await bench.clock.until_sleepers(1)
        await bench.clock.travel(60)
    assert third.result().usage.cache_read_input_tokens == 0


async def test_parallel_cold_requests_all_write(make_bench, kit):
    """A herd on a cold prefix: an entry is readable only once its writer's response has begun."""
    bench = make_bench(SandboxSettings(latency_scale=1.0))
    system = [kit.text(600, ttl="5m")]
    async with asyncio.TaskGroup() as group:
        herd = [group.create_task(bench.ask(system=system)) for _ in range(4)]
        await bench.clock.until_sleepers(4)
        await bench.clock.travel(120)
    assert [kit.billed(t.result())[1] for t in herd] == [602] * 4
    assert bench.sandbox.invoice.totals().write_5m_tokens == 4 * 602


async def test_stream_makes_its_prefix_readable_when_its_response_begins(bench, kit):
    """A follower that waits for the writer's first event reads, while the writer is still streaming."""
    system = [kit.text(600, ttl="5m")]
    writer = await bench.claude.messages.create(
        model=kit.OPUS, max_tokens=64, system=system, messages=[kit.user("Hi")], stream=True
    )
    assert kit.billed(await bench.ask(system=system))[3] == 602
    await writer.close()


async def test_cancelled_before_the_response_leaves_no_entry_and_no_bill(make_bench, kit):
    """A writer that was cancelled while waiting neither writes nor pays."""
    bench = make_bench(SandboxSettings(latency_scale=1.0))
    system = [kit.text(600, ttl="5m")]
    task = asyncio.ensure_future(bench.ask(system=system))
    await bench.clock.until_sleepers(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(bench.sandbox.invoice) == 0
    assert bench.sandbox.census()["anthropic_cache"]["entries"] == 0


# --- lookback ---------------------------------------------------------------------------------------------


def many(kit, blocks, *marked):
    """One user message of `blocks` text blocks (the first large), the `marked` ones (1-based) with a 5m marker."""
    return [
        kit.text(600 if i == 1 else 3, tag=str(i), ttl="5m" if i in marked else None)
        for i in range(1, blocks + 1)
    ]


@pytest.mark.parametrize(
    ("markers", "hits"),
    [((35,), False), ((34,), True), ((15, 35), True)],
    ids=["at 35", "at 34", "second at 15"],
)
async def test_documented_lookback_example(bench, kit, markers, hits):
    """Entry at block 15: a marker at 35 checks 35..16 and misses; one at 34 hits; a second one at 15 hits."""
    await bench.ask(messages=[kit.user(many(kit, 15, 15))])
    message = await bench.ask(messages=[kit.user(many(kit, 35, *markers))])
    assert (message.usage.cache_read_input_tokens > 0) == hits


@pytest.mark.parametrize(("runs", "hits"), [(9, True), (10, False)])
async def test_runs_of_tool_blocks_count_as_one_position(bench, kit, runs, hits):
    """Each round of three calls and three results is two positions: nine rounds fit the window, ten do not."""
    await bench.ask(messages=[kit.user([kit.text(600, ttl="5m")])], tools=[TOOL])
    start, rounds = [kit.user([kit.text(600)])], []
    for n in range(runs):
        ids = [f"t{n}_{i}" for i in range(3)]
        rounds.append(
            kit.assistant([{"type": "tool_use", "id": i, "name": "find", "input": {}} for i in ids])
        )
        rounds.append(kit.user([{"type": "tool_result", "tool_use_id": i, "content": "w"} for i in ids]))
    rounds[-1]["content"].append(kit.text(3, ttl="5m"))
    message = await bench.ask(messages=start + rounds, tools=[TOOL])
    assert (message.usage.cache_read_input_tokens > 0) == hits


async def test_string_content_and_one_text_block_are_the_same_prefix(bench, kit):
    """A string equals one text block, and consecutive turns of one role are one turn."""
    blocks = [kit.user([kit.text(600)]), kit.user([kit.text(5, ttl="5m")])]
    joined = [kit.user([kit.text(600), kit.text(5, ttl="5m")])]
    plain = [kit.user(kit.words(600)), kit.user([kit.text(5, ttl="5m")])]
    first = await bench.ask(messages=blocks)
    reads = [(await bench.ask(messages=m)).usage.cache_read_input_tokens for m in (joined, plain)]
    assert reads == [first.usage.cache_creation_input_tokens] * 2 == [609] * 2


async def test_unmarked_old_block_is_still_hit(bench, kit):
    """A block marked in an earlier request need not stay marked; the marker is not part of the key."""
    await bench.ask(messages=[kit.user([kit.text(600, ttl="5m")])])
    later = [kit.user([kit.text(600)]), kit.assistant("ok"), kit.user([kit.text(5, ttl="5m")])]
    assert (await bench.ask(messages=later)).usage.cache_read_input_tokens == 604


# --- what invalidates what ----------------------------------------------------------------------------------

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
CITED = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "w"},
    "citations": {"enabled": True},
}
FORMAT = {"format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def layered(kit, **change):
    """Three marked layers: tools, system, messages (602, 602 and 604 tokens past each other, plus overhead)."""
    tool = {
        "name": "find",
        "description": kit.words(600, change.pop("tool", "w")),
        "input_schema": {"type": "object"},
        "cache_control": {"type": "ephemeral"},
    }
    tools = [tool, *change.pop("more_tools", ())]
    first = kit.user([*change.pop("extra", ()), kit.text(600, "m", "5m")])
    request = {
        "tools": tools,
        "system": [kit.text(600, change.pop("system", "s"), "5m")],
        "messages": [first, kit.assistant("ok"), kit.user("Why?")],
    }
    return request | change


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, "messages"),
        ({"max_tokens": 99}, "messages"),
        ({"stop_sequences": ["zzz"]}, "messages"),
        ({"metadata": {"user_id": "u"}}, "messages"),
        ({"service_tier": "standard_only"}, "messages"),
        ({"output_config": {"effort": "medium"}}, "messages"),  # the default, said
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, "messages"),
        ({"tool": "other"}, None),
        ({"system": "other"}, "tools"),
        ({"more_tools": [SEARCH]}, "tools"),
        ({"tool_choice": {"type": "none"}}, "system"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "system"),
        ({"output_config": {"effort": "high"}}, "tools"),
        ({"output_config": FORMAT}, None),
        ({"speed": "fast"}, None),
        ({"model": "claude-sonnet-5-5"}, None),
        ({"extra": [IMAGE]}, "system"),
        ({"extra": [CITED]}, "tools"),
    ],
    ids=str,
)
async def test_change_loses_the_prefix_from_its_level_on(bench, kit, change, kept):
    """The table of A-CACHE: what stays readable after one thing changed, on Opus 5.5."""
    first = await bench.ask(**layered(kit))
    assert first.usage.cache_read_input_tokens == 0
    read = (await bench.ask(**layered(kit, **change))).usage.cache_read_input_tokens
    level = None if read == 0 else "tools" if read < 1200 else "system" if read < 1700 else "messages"
    assert level == kept


async def test_thinking_and_effort_touch_only_messages_on_older_models(bench, kit):
    """Up to 4.8 thinking and effort enter with the messages (sandbox choice 3)."""
    model = {"model": "claude-opus-4-8", "max_tokens": 4000}
    big = {"system": [kit.text(2000, "s", "5m")], "messages": [kit.user([kit.text(600, "m", "5m")])]}
    await bench.ask(**model, **big)
    read = await bench.ask(**model, **big, thinking={"type": "adaptive"})
    assert read.usage.cache_read_input_tokens == 2002


async def test_image_appended_to_a_conversation_that_has_one_keeps_the_prefix(bench, kit):
    """Presence counts, not number (sandbox choice)."""
    base = [kit.user([IMAGE, kit.text(600, ttl="5m")])]
    await bench.ask(messages=base)
    grown = [*base, kit.assistant("ok"), kit.user([IMAGE, kit.text(3, ttl="5m")])]
    assert (await bench.ask(messages=grown)).usage.cache_read_input_tokens > 600


async def test_key_order_inside_tool_input_matters_and_elsewhere_not(bench, kit):
    """Exact match of `input` bytes; the order of a block's own fields is not content."""

    def request(args, result):
        call = {"type": "tool_use", "id": "t1", "name": "find", "input": args}
        return [kit.user(kit.words(600)), kit.assistant([call]), kit.user([result])]

    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": "w",
        "cache_control": {"type": "ephemeral"},
    }
    swapped = dict(reversed(result.items()))
    first = await bench.ask(tools=[TOOL], messages=request({"a": 1, "b": 2}, result))
    same = await bench.ask(tools=[TOOL], messages=request({"a": 1, "b": 2}, swapped))
    other = await bench.ask(tools=[TOOL], messages=request({"b": 2, "a": 1}, result))
    assert same.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens
    assert other.usage.cache_read_input_tokens == 0


async def test_deferred_tools_stand_outside_the_prefix(bench, kit):
    """Adding a tool with `defer_loading` changes no cached prefix (A-TOOLCACHE)."""
    deferred = {**TOOL, "name": "later", "defer_loading": True}
    first = await bench.ask(**layered(kit))
    second = await bench.ask(**layered(kit, more_tools=[deferred]))
    assert second.usage.cache_read_input_tokens == first.usage.cache_creation_input_tokens


async def test_workspaces_and_models_do_not_share(make_bench, kit):
    """Isolation per workspace and per model; two keys of one workspace share."""
    keys = {"key-a": "one", "key-b": "one", "key-c": "two"}
    bench = make_bench(SandboxSettings(anthropic_keys=keys))
    body = {
        "model": kit.OPUS,
        "max_tokens": 9,
        "system": [kit.text(600, ttl="5m")],
        "messages": [kit.user("Hi")],
    }
    reads = {}
    for key in keys:
        _, answer = await bench.post(body, headers={"x-api-key": key})
        reads[key] = answer["usage"]["cache_read_input_tokens"]
    assert reads == {"key-a": 0, "key-b": 602, "key-c": 0}
    assert {x.workspace for x in bench.sandbox.invoice} == {"one", "two"}


# --- facts the vendor leaves open ------------------------------------------------------------------------------


async def refreshed(bench, kit, *, marked):
    """Write S, then S+U; touch S+U at 4 min (S marked or not); how much of S does S+U' read at 7 min?"""

    def request(user_tag, ttl):
        return {
            "system": [kit.text(600, "s", ttl)],
            "messages": [kit.user([kit.text(600, user_tag, "5m")])],
        }

    await bench.ask(**request("u", "5m"))
    bench.clock.advance(240)
    await bench.ask(**request("u", "5m" if marked else None))
    bench.clock.advance(180)
    return (await bench.ask(**request("v", "5m"))).usage.cache_read_input_tokens


@pytest.mark.parametrize(
    ("refresh", "marked", "read"),
    [
        ("hit", True, 0),
        ("hit", False, 0),
        ("marked", True, 602),
        ("marked", False, 0),
        ("all", True, 602),
        ("all", False, 602),
    ],
)
async def test_fact_a1_is_a_setting(make_bench, kit, refresh, marked, read):
    """Does a hit on a deep entry refresh shallower ones: none, the marked ones, or all."""
    bench = make_bench(SandboxSettings(refresh=refresh))
    assert await refreshed(bench, kit, marked=marked) == read


@pytest.mark.parametrize(("layered_entries", "read"), [(False, 904), (True, 0)])
async def test_fact_a2_is_a_setting(make_bench, kit, layered_entries, read):
    """A 1h entry on top of a 5m-read prefix: does it keep the whole prefix for the hour, or die with its base?"""
    bench = make_bench(SandboxSettings(layered_entries=layered_entries))
    base, more = kit.text(600, "p", "5m"), kit.text(300, "a", "1h")
    await bench.ask(messages=[kit.user([base])])
    bench.clock.advance(60)
    await bench.ask(messages=[kit.user([kit.text(600, "p"), more])])
    bench.clock.advance(14 * 60)
    tail = kit.text(9, "x", "5m")
    message = await bench.ask(messages=[kit.user([kit.text(600, "p"), kit.text(300, "a"), tail])])
    assert message.usage.cache_read_input_tokens == read


@pytest.mark.parametrize(("upgrades", "read"), [(False, 0), (True, 602)])
async def test_fact_a3_is_a_setting(make_bench, kit, upgrades, read):
    """A 1h marker on a live 5m entry is a plain read; it makes the entry last an hour only if so set."""
    bench = make_bench(SandboxSettings(hit_upgrades_ttl=upgrades))
    await bench.ask(system=[kit.text(600, ttl="5m")])
    again = await bench.ask(system=[kit.text(600, ttl="1h")])
    assert kit.billed(again) == (6, 0, 0, 602)
    bench.clock.advance(1800)
    assert (await bench.ask(system=[kit.text(600, ttl="1h")])).usage.cache_read_input_tokens == read


async def test_fact_a3_may_be_billed(make_bench, kit):
    """In the third world a 1h marker on a live 5m entry writes it anew, and a 5m marker on a 1h entry reads it."""
    bench = make_bench(SandboxSettings(hit_upgrades_ttl="billed"))
    await bench.ask(system=[kit.text(600, ttl="5m")])
    assert kit.billed(await bench.ask(system=[kit.text(600, ttl="1h")])) == (6, 0, 602, 0)
    bench.clock.advance(1800)
    assert kit.billed(await bench.ask(system=[kit.text(600, ttl="5m")])) == (6, 0, 0, 602)


@pytest.mark.parametrize(("disturbs", "read"), [(False, 602), (True, 0)])
async def test_fact_a5_is_a_setting(make_bench, kit, disturbs, read):
    """A request without markers beside the writer leaves its entry alone, or keeps it from being stored."""
    bench = make_bench(SandboxSettings(unmarked_disturbs=disturbs, latency_scale=1.0))
    async with asyncio.TaskGroup() as group:
        group.create_task(bench.ask(system=[kit.text(600, ttl="5m")]))
        await bench.clock.until_sleepers(1)
        bench.clock.advance(0.1)
        group.create_task(bench.ask(system=[kit.text(600)]))
        await bench.clock.until_sleepers(2)
        await bench.clock.travel(60)
    async with asyncio.TaskGroup() as group:
        later = group.create_task(bench.ask(system=[kit.text(600, ttl="5m")]))
        await bench.clock.until_sleepers(1)
        await bench.clock.travel(60)
    assert later.result().usage.cache_read_input_tokens == read


async def test_before_or_after_the_writer_an_unmarked_request_disturbs_nothing(make_bench, kit):
    """Only what starts between the writer's start and its first byte is beside it."""
    bench = make_bench(SandboxSettings(unmarked_disturbs=True))
    await bench.ask(system=[kit.text(600)])
    bench.clock.advance(1)
    await bench.ask(system=[kit.text(600, ttl="5m")])
    bench.clock.advance(1)
    await bench.ask(system=[kit.text(600)])
    assert (await bench.ask(system=[kit.text(600, ttl="5m")])).usage.cache_read_input_tokens == 602


# --- automatic caching and pre-warming ----------------------------------------------------------------------------

AUTO = {"type": "ephemeral"}


async def test_automatic_marker_moves_with_the_conversation(bench, kit):
    """Each turn reads what the one before wrote and writes what is new."""
    turns = [kit.user(kit.words(600))]
    first = await bench.ask(messages=turns, cache_control=AUTO)
    turns += [kit.assistant(kit.words(50)), kit.user(kit.words(20, "q"))]
    second = await bench.ask(messages=turns, cache_control=AUTO)
    assert kit.billed(first) == (0, 604, 0, 0)
    assert kit.billed(second) == (0, 78, 0, 604)


@pytest.mark.parametrize(
    ("marks", "auto", "error"),
    [
        ([None, "5m"], {"type": "ephemeral"}, None),
        ([None, "5m"], {"type": "ephemeral", "ttl": "1h"}, "already has cache_control"),
        (["5m", "5m", "5m", "5m", None], {"type": "ephemeral"}, "A maximum of 4 blocks"),
    ],
)
async def test_automatic_marker_conflicts(bench, kit, marks, auto, error):
    """Same TTL on the last block: no effect; other TTL: 400; four explicit markers: 400."""
    blocks = [kit.text(300, str(i), ttl) for i, ttl in enumerate(marks)]
    body = {"model": kit.OPUS, "max_tokens": 9, "messages": [kit.user(blocks)], "cache_control": auto}
    status, answer = await bench.post(body)
    if error is None:
        assert (status, answer["usage"]["cache_creation_input_tokens"]) == (200, 604)
    else:
        assert status == 400
        assert error in answer["error"]["message"]


async def test_prewarm_writes_reads_and_costs_no_output(bench, kit):
    """`max_tokens: 0`: a write when cold, a read when warm, no content, no output, complete usage."""
    system = [kit.text(600, ttl="1h")]
    cold = await bench.ask(max_tokens=0, system=system)
    warm = await bench.ask(max_tokens=0, system=system)
    assert (cold.content, cold.stop_reason, cold.usage.output_tokens) == ([], "max_tokens", 0)
    assert (kit.billed(cold), kit.billed(warm)) == ((6, 0, 602, 0), (6, 0, 0, 602))
    assert cold.usage.model_extra["iterations"][0]["cache_creation_input_tokens"] == 602
    assert (await bench.ask(system=system)).usage.cache_read_input_tokens == 602
    assert [x.output_tokens for x in bench.sandbox.invoice][:2] == [0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"stream": True},
        {"model": "claude-opus-4-5", "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"output_config": FORMAT},
        {"model": "claude-opus-5", "tools": [TOOL], "tool_choice": {"type": "any"}},
    ],
    ids=str,
)
async def test_prewarm_conflicts_are_refused(bench, kit, change):
    """Streaming, manual thinking, structured output and forced tools do not go with `max_tokens: 0`."""
    body = {"model": kit.OPUS, "max_tokens": 0, "messages": [kit.user("x")]} | change
    status, answer = await bench.post(body)
    assert status == 400
    assert "`max_tokens: 0`" in answer["error"]["message"]


async def test_too_many_or_misordered_markers_are_refused(bench, kit):
    """A fifth marker, and a 1h marker after a 5m one, are 400s with the documented texts."""
    with pytest.raises(anthropic.BadRequestError) as five:
        await bench.ask(messages=[kit.user([kit.text(9, str(i), "5m") for i in range(5)])])
    assert five.value.api_message == "A maximum of 4 blocks with cache_control may be provided. Found 5."
    with pytest.raises(anthropic.BadRequestError) as mixed:
        await bench.ask(system=[kit.text(9, ttl="5m")], messages=[kit.user([kit.text(9, ttl="1h")])])
    assert str(mixed.value.api_message).startswith(
        "messages.0.content.0.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m'"
    )
    assert len(bench.sandbox.invoice) == 0


async def test_dropped_thinking_block_loses_messages_from_there_on(bench, kit):
    """Sent back, thinking is part of the prefix and billed as input; left out, the prefix behind it is gone."""
    bench.sandbox.script(Text("Fine."), thinking_tokens=100)
    first = await bench.ask(max_tokens=500, messages=[kit.user(kit.words(600))], cache_control=AUTO)
    replay = [block.model_dump(exclude_none=True) for block in first.content]
    question = kit.user([kit.text(9, "q", "5m")])
    whole = [kit.user(kit.words(600)), kit.assistant(replay), question]
    written = await bench.ask(messages=whole)
    assert written.usage.cache_read_input_tokens == 604
    assert written.usage.cache_creation_input_tokens == 4 + 100 + 2 + 4 + 9
    stripped = [kit.user(kit.words(600)), kit.assistant(replay[1:]), question]
    assert (await bench.ask(messages=stripped)).usage.cache_read_input_tokens == 604
    assert (await bench.ask(messages=whole)).usage.cache_read_input_tokens == 604 + 119


# --- the rule in general ----------------------------------------------------------------------------------------

OPUS_ROW = MODELS["claude-opus-5-5"]
requests = st.lists(
    st.tuples(
        st.integers(0, 400),  # seconds since the request before
        st.integers(1, 30),  # blocks
        st.integers(0, 2),  # which of three conversations
        st.sets(st.integers(0, 29), max_size=3),  # marked blocks
        st.booleans(),  # 1h first
    ),
    min_size=1,
    max_size=12,
)


def prompt_of(blocks, branch, marked, hour):
    positions, tokens = [], 0
    first = min(marked, default=None)
    for i in range(blocks):
        tokens += 300 if i == 0 else 40
        digest = bytes([i, branch if i > 2 else 0])
        marker = None if i not in marked else ("1h" if hour and i == first else "5m")
        positions.append(Position(digest, tokens, i, Level.MESSAGES, "text", marker))
    scopes = dict.fromkeys(Level, b"scope")
    return Prompt(model=OPUS_ROW, positions=tuple(positions), scopes=scopes, total_tokens=tokens)


@settings(max_examples=150)
@given(requests, st.sampled_from(["hit", "marked", "all"]), st.booleans())
def test_parts_always_sum_to_the_prompt_and_reads_were_written(history, refresh, layered):
    """Whatever the history: no part is negative, the parts sum to the prompt, and a read ends where a write ended."""
    cache, now, written = PromptCache(refresh=refresh, layered=layered), 0.0, set()
    for pause, blocks, branch, marked, hour in history:
        now += pause
        prompt = prompt_of(blocks, branch, {m for m in marked if m < blocks}, hour)
        outcome = cache.consult(prompt, now)
        parts = (
            outcome.uncached_tokens,
            outcome.write_5m_tokens,
            outcome.write_1h_tokens,
            outcome.read_tokens,
        )
        assert min(parts) >= 0
        assert sum(parts) == prompt.total_tokens
        ends = {p.tokens: prompt.key(i) for i, p in enumerate(prompt.positions)}
        assert outcome.read_tokens == 0 or ends[outcome.read_tokens] in written
        cache.commit(outcome, now)
        written |= {key for key, _ in outcome.writes}


@pytest.mark.parametrize(("model", "kept"), [("claude-opus-4-5", True), ("claude-haiku-4-5", False)])
async def test_new_user_turn_after_thinking_keeps_the_prefix_only_where_thinking_is_kept(
    bench, kit, model, kept
):
    """Opus 4.5 keeps earlier thinking in context; Haiku 4.5 drops it, and the prefix behind it is lost."""
    ask = {
        "model": model,
        "max_tokens": 4000,
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "tools": [TOOL],
    }
    bench.sandbox.script(Call("find", {}), thinking_tokens=100)
    turns = [kit.user(kit.words(5000))]
    first = await bench.ask(messages=turns, **ask)
    call = first.content[-1]
    turns.append(kit.assistant([b.model_dump(exclude_none=True) for b in first.content]))
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": "w",
        "cache_control": {"type": "ephemeral"},
    }
    written = await bench.ask(messages=[*turns, kit.user([result])], **ask)
    turns += [kit.user([result]), kit.assistant("ok"), kit.user("And?")]
    read = (await bench.ask(messages=turns, **ask)).usage.cache_read_input_tokens
    assert read == (written.usage.cache_creation_input_tokens if kept else 0)


async def test_field_order_of_a_tool_definition_is_not_content(bench, kit):
    """Its schema's key order is; the order of name, description and schema themselves is not."""
    tool = {**TOOL, "description": kit.words(600), "cache_control": {"type": "ephemeral"}}
    await bench.ask(tools=[tool])
    swapped = await bench.ask(tools=[dict(reversed(tool.items()))])
    assert swapped.usage.cache_read_input_tokens > 600


@pytest.mark.parametrize(("taken", "status"), [(True, 200), (False, 400)])
async def test_fact_a6_is_a_setting(make_bench, kit, taken, status):
    """Is `max_tokens: 0` taken by a model that always thinks adaptively?"""
    bench = make_bench(SandboxSettings(prewarm_with_adaptive=taken))
    body = {"model": kit.OPUS, "max_tokens": 0, "messages": [kit.user("x")]}
    assert (await bench.post(body))[0] == status
