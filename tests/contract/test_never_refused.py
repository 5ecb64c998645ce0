"""Whatever is asked, planned and believed: the adapter refuses it before the call, or the provider takes it.

The provider is the sandbox, below the real SDK: it is written from the providers' rules and shares no code with planner
and adapters. And what was planned is read: tool loops keep hitting, by its bill.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.belief import Belief
from cache.demand import Demand
from cache.economics import Rates
from cache.forecast import Forecast
from cache.index import PrefixIndex
from cache.plan import Plan, Strategy, plan
from cache.prefix import prefix_digests
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.route import Route
from router.beliefs import Beliefs, CacheView
from router.call import Call, ContextPlacement, Identity, Message, Role, Text, ToolCall, ToolResult
from router.errors import InvalidRequest, NotSupported
from router.pricing import PriceTable
from router.reply import Finished
from router.sandbox import Call as ScriptedCall
from router.sandbox import InvoiceLine, Sandbox, SandboxSettings, VirtualClock
from router.sandbox import Text as ScriptedText
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Rendered
from router.upstreams.gemini import GeminiUpstream
from tests.contract.generated_calls import CLAUDE_MODELS, FLASH, TOOLS, calls, continuations

NOW = 1_795_000_000.0
TIMEOUT_S = 20.0
_FIELD = re.compile(r"(messages\[|tool_choice\.|max_output_tokens|output_schema_json)")


class World:
    """Both providers' adapters over one sandbox, on one event loop: making them takes longer than the calls."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.sandbox = Sandbox(clock=VirtualClock(NOW))
        self.bodies: list[dict[str, Any]] = []
        self.client = httpx2.AsyncClient(
            transport=self.sandbox.transport(), event_hooks={"request": [self._watch]}
        )
        self.upstreams: dict[str, Any] = {
            model: AnthropicUpstream(model=model, api_key="k", http_client=self.client)
            for model in CLAUDE_MODELS
        }
        self.upstreams[FLASH] = GeminiUpstream(model=FLASH, api_key="k", http_client=self.client)

    async def _watch(self, request: httpx2.Request) -> None:
        self.bodies.append(json.loads(request.content))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner() as runner:
        made = World(runner)
        yield made
        runner.run(made.client.aclose())


@st.composite
def believed(draw: st.DrawFn, counts: Sequence[int]) -> list[Belief | None]:
    """Any beliefs about a prompt's prefixes, contradictory ones too."""
    found: list[Belief | None] = [None] * len(counts)
    for position in draw(st.sets(st.integers(0, len(counts) - 1), max_size=5)):
        found[position] = Belief(
            tokens=draw(st.sampled_from([0, 600, 5000, counts[position]])),
            exact=draw(st.booleans()),
            ttl_s=draw(st.sampled_from([300, 3600])),
            expires=NOW + draw(st.sampled_from([-1.0, 100.0, 3000.0])),
            available_from=NOW + draw(st.sampled_from([-9.0, 9.0])),
            confidence=draw(st.floats(0, 1)),
        )
    return found


chances = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def planned(data: st.DataObject, rendered: Rendered, strategy: Strategy) -> Plan:
    """A plan under any beliefs and forecasts."""
    prompt, model = rendered.prompt, rendered.model
    counts = TokenEstimator().cumulative_tokens(prompt, model)
    return plan(
        prompt,
        prefix_digests(prompt),
        counts,
        data.draw(believed(counts)),
        rules=rules_for(model),
        rates=Rates(1.25, 2.0, 0.1),
        strategy=strategy,
        now=NOW,
        forecasts=[Forecast(*data.draw(chances)) for _ in range(5)],
    )


def check_marks(body: Mapping[str, Any]) -> None:
    """What the provider demands of breakpoints, read from the wire alone (A-CACHE, 2026-11)."""
    blocks = [*body.get("tools", []), *body.get("system", [])]
    blocks += [block for message in body["messages"] for block in message["content"]]
    marked = [block for block in blocks if "cache_control" in block]
    assert len(marked) <= 4
    ttls = [block["cache_control"].get("ttl", "5m") for block in marked]
    assert ttls == sorted(ttls)  # "1h" before "5m"
    for block in marked:
        assert block.get("type") not in ("thinking", "redacted_thinking")
        assert block.get("text", "x").strip()


def check_system_entries(body: Mapping[str, Any]) -> None:
    """Where a system entry may stand; the sandbox takes them anywhere (page on mid-conversation system messages)."""
    roles = [message["role"] for message in body["messages"]]
    for index, role in enumerate(roles):
        if role == "system":
            assert index > 0
            assert roles[index - 1] == "user"
            assert roles[index + 1 : index + 2] in ([], ["assistant"])


async def sent(upstream: Any, rendered: Rendered, chosen: Plan | None, *, stream: bool) -> None:
    """Ask the provider; any refusal is raised."""
    if stream:
        chunks = [chunk async for chunk in upstream.stream(rendered, chosen, TIMEOUT_S)]
        assert isinstance(chunks[-1], Finished)
    else:
        await upstream.generate(rendered, chosen, TIMEOUT_S)


@settings(max_examples=110)
@given(st.sampled_from([*CLAUDE_MODELS, *CLAUDE_MODELS, FLASH]), st.sampled_from(Strategy), st.data())
def test_what_an_adapter_lets_pass_the_provider_takes(
    world: World, model: str, strategy: Strategy, data: st.DataObject
) -> None:
    """Any prompt, parameters, strategy, beliefs and forecasts: refused here by field, or answered there."""
    asked = data.draw(calls(odd=True))
    upstream = world.upstreams[model]
    try:
        rendered = upstream.render(asked)
    except (InvalidRequest, NotSupported) as error:
        named = error.field if isinstance(error, InvalidRequest) else str(error)
        assert _FIELD.match(named), error  # noqa: PT017 (either is right)
        return
    chosen = None if model == FLASH else planned(data, rendered, strategy)
    stream = asked.max_output_tokens > 0 and data.draw(st.booleans())
    world.sandbox.reset()
    world.bodies.clear()
    world.runner.run(sent(upstream, rendered, chosen, stream=stream))
    (body,) = world.bodies
    if model != FLASH:
        check_marks(body)
        check_system_entries(body)


class Traffic:
    """One application's requests through beliefs, plans, the real SDK and the sandbox, on one clock."""

    def __init__(self, model: str, sandbox: Sandbox, clock: VirtualClock, client: httpx2.AsyncClient) -> None:
        self.model, self.sandbox, self.clock = model, sandbox, clock
        self.upstream = AnthropicUpstream(model=model, api_key="k", http_client=client)
        self.beliefs = Beliefs(
            prices=PriceTable(),
            workspaces={Route.OPUS: "w"},
            index=PrefixIndex(1000),
            demand=Demand(max_prefixes=1000, max_waiting=1000),
            estimator=TokenEstimator(),
        )

    def view(self, rendered: Rendered, strategy: Strategy, follow_ups: int | None = None) -> CacheView:
        """Beliefs and plan as the service makes them."""
        return self.beliefs.views(
            rendered.prompt,
            {Route.OPUS: self.model},
            strategy=strategy,
            kind="app",
            now_s=self.clock.now(),
            expected_follow_ups=follow_ups,
        )[Route.OPUS]

    async def ask(
        self, asked: Call, strategy: Strategy, follow_ups: int | None = None
    ) -> tuple[Message, InvoiceLine]:
        """One call's whole life; the answer and the bill."""
        now = self.clock.now()
        rendered = self.upstream.render(asked)
        view = self.view(rendered, strategy, follow_ups)
        self.beliefs.arrive(view, "app", now)
        self.beliefs.begin(view, now)
        reply = await self.upstream.generate(rendered, view.plan, TIMEOUT_S)
        self.beliefs.first_byte(view, now, now)
        assert reply.usage is not None
        self.beliefs.learn(view, reply.usage, started_s=now, first_byte_at_s=now)
        return Message(Role.ASSISTANT, reply.parts), self.sandbox.invoice.lines[-1]


async def opened(stack: AsyncExitStack, model: str, *, binding: bool = False) -> Traffic:
    """Traffic to a fresh sandbox."""
    clock = VirtualClock(NOW)
    sandbox = Sandbox(SandboxSettings(thinking_binding=binding), clock=clock)
    client = await stack.enter_async_context(httpx2.AsyncClient(transport=sandbox.transport()))
    return Traffic(model, sandbox, clock, client)


@settings(max_examples=18)
@given(
    st.sampled_from(CLAUDE_MODELS),
    st.lists(st.tuples(calls(), st.sampled_from(Strategy)), min_size=1, max_size=3),
    st.data(),
)
def test_traffic_at_any_times_is_taken_and_billed_as_it_was_sent(
    world: World, model: str, openings: list[tuple[Call, Strategy]], data: st.DataObject
) -> None:
    """Sessions that come, pause and come back, planned from what earlier calls taught: nothing is refused, planning
    twice gives one plan, and every token is billed once.
    """

    async def run() -> None:
        async with AsyncExitStack() as stack:
            traffic = await opened(stack, model)
            for asked, strategy in openings:
                for each in (asked, data.draw(continuations(asked))):
                    rendered = traffic.upstream.render(each)
                    assert traffic.view(rendered, strategy) == traffic.view(rendered, strategy)
                    _, line = await traffic.ask(each, strategy)
                    parts = (
                        line.uncached_input_tokens,
                        line.write_5m_tokens,
                        line.write_1h_tokens,
                        line.read_tokens,
                    )
                    assert min(parts) >= 0
                    assert sum(parts) == line.input_tokens > 0
                    assert strategy is not Strategy.NONE or line.uncached_input_tokens == line.input_tokens
                    traffic.clock.advance(data.draw(st.sampled_from([0.0, 30.0, 299.0, 301.0, 4000.0])))

    world.runner.run(run())


@pytest.mark.parametrize("placement", ContextPlacement)
@pytest.mark.parametrize("call_count", [12, 30, 60])
@pytest.mark.parametrize("apart", [False, True], ids=["in one run", "words between"])
@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-opus-4-7"])
async def test_a_loop_of_parallel_calls_reads_all_of_the_round_before(
    model: str, apart: bool, call_count: int, placement: ContextPlacement
) -> None:
    """However many calls a round makes, and though words stand between them: each round reads what the one before it
    sent, all of it; the context stays where it is.
    """
    async with AsyncExitStack() as stack:
        traffic = await opened(stack, model, binding=True)
        messages: tuple[Message, ...] = (Message(Role.USER, (Text("Check every order of the week."),)),)
        before: InvoiceLine | None = None
        for number in range(5):
            script: list[Any] = []
            for index in range(call_count):
                if apart:
                    script.append(ScriptedText(f"Now order {number}.{index}."))
                script.append(ScriptedCall("find", {"b": f"order {number}.{index}"}))
            traffic.sandbox.script(*script, thinking_tokens=40)
            asked = Call(
                identity=Identity(request_id="r"),
                tools=TOOLS[:1],
                system=("Work through the orders with care. " * 900,),
                context=("The user is Ann. " * 30,),
                context_placement=placement,
                messages=messages,
                max_output_tokens=8000,
            )
            answer, line = await traffic.ask(asked, Strategy.AUTO, follow_ups=9)
            if before is not None:
                assert (
                    line.read_tokens == before.read_tokens + before.write_5m_tokens + before.write_1h_tokens
                )
                if number > 1:
                    assert line.read_tokens == before.input_tokens
            before = line
            results = [
                ToolResult(part.id, (Text(f"order {part.id} is paid"),))
                for part in answer.parts
                if isinstance(part, ToolCall)
            ]
            assert len(results) == call_count
            messages = (*messages, answer, Message(Role.USER, tuple(reversed(results))))
            traffic.clock.advance(40)
