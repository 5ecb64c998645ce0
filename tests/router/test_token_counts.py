"""Layers counted by the providers' free counters: what is asked, what is believed, and what a failure leaves behind."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.plan import Strategy, plan
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, Layer, Prompt
from cache.rules import rules_for
from cache.tokens import TokenEstimator, TokenSums
from classifier.route import Route
from router import errors
from router.applications import Applications
from router.call import Call, Identity, Message, Role, Text, Tool
from router.config import ApplicationConfig, CacheConfig, ToolConfig, load_config
from router.pricing import PriceTable
from router.sandbox import Sandbox, VirtualClock
from router.sandbox.listener import serve
from router.tasks import Tasks
from router.token_counts import ATTEMPT_LIMIT, TIMEOUT_S, WAIT_LIMIT_S, TokenCounts, spread
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Rendered, Upstream
from router.upstreams.gemini import GeminiUpstream
from router.upstreams.gemini_transport import PublicTransport

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
NOW = 1_795_168_800.0
SCHEMA = '{"type":"object","properties":{"city":{"type":"string","description":"As written on maps"}}}'
TOOLS = (
    ToolConfig(name="weather", description="Tell the weather.", input_schema_json=SCHEMA),
    ToolConfig(name="now"),
)
LONG = "Ask before you act; then say what was done, by whom, and when. " * 40
DESK = ApplicationConfig(system=("Answer from the records.", LONG), tools=TOOLS)
TWIN = ApplicationConfig(system=DESK.system, tools=TOOLS, max_output_tokens=9)
BARE = ApplicationConfig(system=("Be brief.",))
EMPTY = ApplicationConfig()


class Counter:
    """A real upstream's rendering with a scripted counter: each answer is a count, None or an error, then real ones."""

    def __init__(self, upstream: Upstream, *answers: int | Exception | None) -> None:
        self.upstream, self.model, self.name = upstream, upstream.model, upstream.name
        self.answers = list(answers)
        self.asked: list[Call] = []
        self.running = self.most = 0

    def render(self, call: Call) -> Rendered:
        return self.upstream.render(call)

    async def count_prompt(self, rendered: Rendered, timeout_s: float) -> int | None:
        assert timeout_s == TIMEOUT_S
        self.asked.append(rendered.call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if not self.answers:
                return await self.upstream.count_prompt(rendered, timeout_s)
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.running -= 1


class World:
    """Two upstreams over one sandbox, an estimator, and the waits that were asked for."""

    def __init__(self, sandbox: Sandbox, opus: Upstream, flash: Upstream) -> None:
        self.sandbox = sandbox
        self.opus, self.flash = Counter(opus), Counter(flash)
        self.estimator = TokenEstimator()
        self.waits: list[float] = []
        self.counts = TokenCounts(
            upstreams={Route.OPUS: self.opus, Route.FLASH: self.flash},
            estimator=self.estimator,
            draw=lambda: 0.5,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    async def run(self, **configs: ApplicationConfig) -> None:
        """Count these applications."""
        async with Tasks() as tasks:
            self.counts.start(tasks, Applications(configs))
            await self.counts.wait()


@pytest.fixture(params=["in process", "socket"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Everything that follows holds through the real SDKs, in process and over a socket."""
    sandbox = Sandbox(clock=VirtualClock(NOW))
    async with AsyncExitStack() as stack:
        client, url = None, "http://sandbox.invalid"
        if request.param == "socket":
            url = f"http://127.0.0.1:{await stack.enter_async_context(serve(sandbox))}"
        else:
            client = await stack.enter_async_context(httpx2.AsyncClient(transport=sandbox.transport()))
        opus = AnthropicUpstream(model=OPUS, api_key="k", base_url=url, http_client=client)
        flash = GeminiUpstream(model=FLASH, api_key="k", base_url=url, http_client=client)
        stack.push_async_callback(opus.close)
        stack.push_async_callback(flash.close)
        yield World(sandbox, opus, flash)


def call_of(application: ApplicationConfig, text: str = "Why?", system: tuple[str, ...] = ()) -> Call:
    """A request of an application, perhaps with system text of its own."""
    tools = tuple(Tool(tool.name, tool.description, tool.input_schema_json) for tool in application.tools)
    return Call(
        identity=Identity(request_id="r"),
        tools=tools,
        system=application.system + system,
        messages=(Message(Role.USER, (Text(text),)),),
        max_output_tokens=64,
    )


def known(world: World, call: Call, model: str, speller: Counter | None = None) -> tuple[int, ...]:
    """What is known of a call's opening, in the spelling of Opus unless told otherwise."""
    return world.estimator.counted((speller or world.opus).render(call).prompt, model).counts


async def test_layers_are_counted_to_the_token_the_provider_bills(world: World) -> None:
    """What counts and bill say of two requests differs by the layers; tools and system prompt each for themselves."""
    await world.run(desk=DESK)
    assert len(world.sandbox.invoice) == 0, "counting is free"
    for counter, model in ((world.opus, OPUS), (world.flash, FLASH)):
        billed = []
        for application in (EMPTY, ApplicationConfig(tools=TOOLS), DESK):
            rendered = counter.render(call_of(application))
            await counter.upstream.generate(rendered, None, 20.0)
            billed.append(world.sandbox.invoice.lines[-1].input_tokens)
        bare, tools, whole = billed
        for speller in (world.opus, world.flash):
            counts = known(world, call_of(DESK), model, speller)
            assert len(counts) == 4
            assert (counts[1], counts[3]) == (tools - bare, whole - bare)
        assert known(world, call_of(ApplicationConfig(tools=TOOLS)), model)[-1] == tools - bare


async def test_only_registered_layers_are_sent_each_once(world: World) -> None:
    """Two applications alike, one with tools only: three openings and the frame; nothing but a placeholder is said."""
    await world.run(a=DESK, b=TWIN, c=BARE, d=EMPTY)
    registered = [((), ()), (2, ()), (2, DESK.system), ((), BARE.system)]
    for counter in (world.opus, world.flash):
        assert [(len(asked.tools) or (), asked.system) for asked in counter.asked] == registered
        assert {asked.messages for asked in counter.asked} == {(Message(Role.USER, (Text("."),)),)}
        assert not any(asked.context for asked in counter.asked)
        assert counter.most == 1, "one call at a time per provider"


async def test_a_request_that_brings_its_own_text_uses_what_is_known_of_the_rest(world: World) -> None:
    """Own system text is estimated behind the counted layers; own layers ahead of nothing known stay estimates."""
    await world.run(desk=DESK)
    extended, alone = call_of(DESK, system=("Speak French.",)), call_of(EMPTY, system=DESK.system[1:])
    assert known(world, extended, OPUS) == known(world, call_of(DESK), OPUS)
    prompt = world.opus.render(extended).prompt
    cumulative = world.estimator.cumulative_tokens(prompt, OPUS)
    assert cumulative[:4] == known(world, extended, OPUS)
    assert cumulative[3] < cumulative[4] < cumulative[3] + 15
    assert known(world, alone, OPUS) == ()
    changed = call_of(ApplicationConfig(tools=TOOLS, system=(DESK.system[0] + "!", LONG)))
    assert len(known(world, changed, OPUS)) == 2, "the tools are still known"


RETRIED = (
    errors.UpstreamRateLimited("anthropic", "slow down", retry_after_s=17.0),
    errors.UpstreamFailed("anthropic", "500"),
    errors.UpstreamTimeout("anthropic", "no answer"),
    errors.UpstreamOverloaded("anthropic", "529"),
    None,
)


async def test_what_may_pass_is_tried_again_with_growing_waits(world: World) -> None:
    """At least as long as the provider asks, else twice as long each time, with jitter; then the counts are in."""
    world.opus.answers = list(RETRIED)
    await world.run(desk=DESK)
    assert world.waits == [17.5, 3.0, 6.0, 12.0, 24.0]
    assert len(known(world, call_of(DESK), OPUS)) == 4
    assert world.opus.most == 1


@pytest.mark.parametrize(
    "answers",
    [
        [errors.UpstreamFailed("anthropic", "500")] * ATTEMPT_LIMIT,
        [None] * ATTEMPT_LIMIT,
        [errors.UpstreamUnauthorized("anthropic", "bad key")],
        [errors.UpstreamRateLimited("anthropic", "tomorrow", retry_after_s=WAIT_LIMIT_S + 1)],
    ],
)
async def test_a_counter_that_stays_away_leaves_estimates(
    world: World, answers: list[Exception | None], caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, with the number of applications, and nothing more is asked; the other provider is not concerned."""
    world.opus.answers = list(answers)
    with caplog.at_level(logging.WARNING):
        await world.run(a=DESK, c=BARE)
    assert len(world.opus.asked) == len(answers)
    assert known(world, call_of(DESK), OPUS) == ()
    assert len(known(world, call_of(DESK), FLASH)) == 4
    (record,) = caplog.records
    assert "2 of 2" in record.message
    assert OPUS in record.message


async def test_a_refused_layer_does_not_keep_the_others_from_being_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A 400 is about that request: the next application is asked for all the same."""
    world.opus.answers = [5, errors.UpstreamRejected("anthropic", "HTTP 400")]
    with caplog.at_level(logging.WARNING):
        await world.run(a=DESK, c=BARE)
    assert known(world, call_of(DESK), OPUS) == ()
    assert len(known(world, call_of(BARE), OPUS)) == 1
    (record,) = caplog.records
    assert "1 of 2" in record.message


@pytest.mark.parametrize("counts", [[9, 9, 50], [9, 8, 50], [9, 90, 50]])
async def test_counts_that_contradict_each_other_are_not_believed(world: World, counts: list[int]) -> None:
    """A layer cannot have no tokens, nor a longer prompt fewer."""
    world.opus.answers = list(counts)
    await world.run(desk=DESK)
    assert known(world, call_of(DESK), OPUS) == ()


async def test_the_sandbox_refuses_a_wrong_key_as_the_provider_does(world: World) -> None:
    """The counter's refusals have the same names as those of calls."""
    sandbox = Sandbox(settings=world.sandbox.settings.__class__(anthropic_keys={}, gemini_keys={}))
    async with httpx2.AsyncClient(transport=sandbox.transport()) as client:
        for kind, model in ((AnthropicUpstream, OPUS), (GeminiUpstream, FLASH)):
            upstream = kind(model=model, api_key="wrong", http_client=client)
            with pytest.raises(errors.UpstreamUnauthorized):
                await upstream.count_prompt(upstream.render(call_of(DESK)), TIMEOUT_S)
            await upstream.close()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"input_tokens":null,"totalTokens":null}', b"[]"])
async def test_an_answer_without_a_count_is_none(body: bytes) -> None:
    """Unknown is None, never 0."""
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, content=body))
    async with httpx2.AsyncClient(transport=transport) as client:
        for kind, model in ((AnthropicUpstream, OPUS), (GeminiUpstream, FLASH)):
            upstream = kind(model=model, api_key="k", http_client=client)
            assert await upstream.count_prompt(upstream.render(call_of(DESK)), TIMEOUT_S) is None
            await upstream.close()


async def test_a_changed_sdk_counts_nothing(world: World) -> None:
    """Google's public method refuses system text and tools, so without the request layer there is no count."""
    upstream = world.flash.upstream
    upstream._transport = PublicTransport(upstream._client, FLASH)
    assert await upstream.count_prompt(upstream.render(call_of(DESK)), TIMEOUT_S) is None


# --- the estimator


BLOCKS = st.builds(
    lambda layer, size: Block(layer, BlockKind.TOOL if layer is Layer.TOOLS else BlockKind.TEXT, b"x" * size),
    st.sampled_from([Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT, Layer.TURN]),
    st.integers(1, 4000),
)


def opening_of(blocks: list[Block]) -> tuple[Prompt, int]:
    """A prompt of these blocks in order, and how many of them open it."""
    ordered = sorted(blocks, key=lambda block: block.layer)
    return Prompt(tuple(ordered)), sum(block.layer <= Layer.SYSTEM for block in ordered)


@given(st.lists(BLOCKS, min_size=1, max_size=8), st.data())
def test_both_ways_to_count_agree_whatever_is_known(blocks: list[Block], data: st.DataObject) -> None:
    """Summed and direct counts are equal, never decrease, begin with what was counted, and are per model."""
    prompt, end = opening_of(blocks)
    estimator = TokenEstimator()
    length = data.draw(st.integers(0, end))
    counts = tuple(sorted(data.draw(st.lists(st.integers(1, 5000), min_size=length, max_size=length))))
    before = estimator.cumulative_tokens(prompt, FLASH)
    if length:
        estimator.know(prompt.blocks[:length], OPUS, counts)
    found = estimator.counted(prompt, OPUS)
    cumulative = estimator.cumulative_tokens(prompt, OPUS)
    sums = TokenSums().extended(prompt.blocks)
    assert tuple(estimator.counts(sums, OPUS, found)) == cumulative
    assert estimator.counts(sums, OPUS, found)[-1] == cumulative[-1]
    assert cumulative[:length] == counts == found.counts
    assert all(left <= right for left, right in pairwise(cumulative))
    assert estimator.cumulative_tokens(prompt, FLASH) == before


def test_the_estimate_learns_from_what_was_estimated() -> None:
    """A counted opening says nothing of the rest: a long rest is compared alone, a short one with all of it."""
    opening = Block(Layer.SYSTEM, BlockKind.TEXT, b"x" * 40_000)
    for size, expected in ((8_000, 1.15), (40, 1.0)):
        prompt = Prompt((opening, Block(Layer.TURN, BlockKind.TEXT, b"y" * size)))
        estimator = TokenEstimator()
        estimator.know((opening,), OPUS, [13_000])
        counted = estimator.counted(prompt, OPUS)
        for _ in range(60):
            estimate = estimator.cumulative_tokens(prompt, OPUS, counted)[-1]
            estimator.observe(OPUS, estimate, 13_000 + round(size * 0.25 * 1.3 * 1.15), counted)
        family = rules_for(OPUS).tokenizer.value
        assert estimator.snapshot()[family]["ratio"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("blocks", "counts"),
    [
        ([], []),
        ([Layer.SYSTEM], [1, 2]),
        ([Layer.SYSTEM, Layer.SYSTEM], [2, 1]),
        ([Layer.SYSTEM, Layer.CONTEXT], [1, 2]),
    ],
)
def test_counts_that_cannot_be_an_openings_are_refused(blocks: list[Layer], counts: list[int]) -> None:
    """One per block, never decreasing, tools and system only."""
    made = [Block(layer, BlockKind.TEXT, b"x") for layer in blocks]
    with pytest.raises(ValueError, match="opening"):
        TokenEstimator().know(made, OPUS, counts)


@given(st.data())
def test_what_lies_between_two_counts_is_spread_by_bytes(data: st.DataObject) -> None:
    """Exact where it was counted, never decreasing in between."""
    parts = data.draw(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=4), min_size=1, max_size=3))
    blocks = [Block(Layer.SYSTEM, BlockKind.TEXT, b"x" * size) for part in parts for size in part]
    ends = [sum(map(len, parts[: index + 1])) for index in range(len(parts))]
    counts = sorted(data.draw(st.lists(st.integers(1, 999), min_size=len(parts), max_size=len(parts))))
    cumulative = spread(blocks, ends, counts)
    assert [cumulative[end - 1] for end in ends] == counts
    assert len(cumulative) == len(blocks)
    assert all(left <= right for left, right in pairwise(cumulative))


# --- the plan


@pytest.mark.parametrize(
    ("tokens", "counted", "marked"),
    [
        (450, 0, True),  # an estimate may be a fifth off
        (450, 450, False),  # a count is not
        (509, 509, True),  # but for the counter's own hundredth
        (450, 100, True),  # the rest is as doubtful as ever
        (450, 400, False),
    ],
)
def test_only_what_was_not_counted_is_in_doubt(tokens: int, counted: int, marked: bool) -> None:
    """A prefix that may reach the minimum keeps its mark; what was counted cannot grow."""
    rules = rules_for(OPUS)
    assert rules.minimum_tokens == 512
    prompt = Prompt((Block(Layer.SYSTEM, BlockKind.TEXT, b"s"), Block(Layer.TURN, BlockKind.TEXT, b"t")))
    planned = plan(
        prompt,
        prefix_digests(prompt),
        (tokens, tokens + 20),
        (None, None),
        rules=rules,
        rates=PriceTable().rates(OPUS, NOW),
        strategy=Strategy.B,
        now=NOW,
        uncertainty=0.2,
        counted_tokens=counted,
    )
    assert bool(planned.breakpoints) is marked


# --- settings


def test_counting_can_be_switched_off(tmp_path) -> None:
    """On by default; the file and the environment turn it off."""
    assert CacheConfig().count_tokens
    file = tmp_path / "router.toml"
    file.write_text("[cache]\ncount_tokens = false\n", encoding="utf-8")
    assert not load_config(file, {}).cache.count_tokens
    assert not load_config(None, {"HYBRID_ROUTER__CACHE__COUNT_TOKENS": "false"}).cache.count_tokens
