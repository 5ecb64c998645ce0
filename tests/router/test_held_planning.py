"""Planning a held session by what each turn adds gives the plans, and teaches the lessons, of planning all of it.

Two routers' beliefs watch the same traffic: one plans every prompt as a whole, the other turn by turn. What they plan
must be equal at every request, or the one provider could not have billed both.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.demand import Demand
from cache.index import PrefixIndex
from cache.plan import Strategy
from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters
from cache.rolling import Rolling
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.route import Route
from router.beliefs import Beliefs
from router.call import Role
from router.held_session import Held, Planned
from router.pricing import PriceTable
from router.usage import Usage
from tests.cache.conftest import ReferenceProvider
from tests.router.rig import START_TIME_S, asked, rigged, said

OPUS, FLASH = "claude-opus-5-5", "gemini-3.8-flash"
MODELS = {Route.OPUS: OPUS, Route.FLASH: FLASH}
SHARED = (
    Block(Layer.TOOLS, BlockKind.TOOL, b"tools" * 300),
    Block(Layer.SYSTEM, BlockKind.TEXT, b"system" * 600),
)
CONTEXTS = tuple(
    (Block(Layer.CONTEXT, BlockKind.TEXT, b"context of %d" % number + b"c" * 1500, "user"),)
    for number in range(3)
)


def beliefs() -> Beliefs:
    """What a router starts with."""
    return Beliefs(
        prices=PriceTable(),
        workspaces={Route.OPUS: "default", Route.FLASH: "default"},
        index=PrefixIndex(10_000),
        demand=Demand(max_prefixes=1000, max_waiting=1000),
        estimator=TokenEstimator(),
    )


class Talk:
    """One session as both see it: all of its blocks, and its rolling prompt."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.opening = (*SHARED, *CONTEXTS[number])
        self.said: list[Block] = []
        self.rolling: Rolling | None = None
        self.count = 0

    def turn(
        self, answer: int, question: int, loop: bool, parameters: PromptParameters
    ) -> tuple[Prompt, Rolling]:
        """The next prompt, whole and rolling; nothing is kept until `keep`."""
        self.count += 1
        kind = BlockKind.TOOL_RESULT if loop and self.said else BlockKind.TEXT
        new = [
            Block(Layer.TURN, kind, b"%d.%d.%d" % (self.number, self.count, part) + b"q" * question, "user")
            for part in range(1 + loop)
        ]
        answered: list[Block] = []
        if self.said:
            called = BlockKind.TOOL_CALL if loop else BlockKind.TEXT
            answered = [
                Block(Layer.HISTORY, BlockKind.THINKING, b"t%d" % self.count, "assistant", False),
                Block(Layer.HISTORY, called, b"a%d" % self.count + b"a" * answer, "assistant"),
            ]
        whole = Prompt((*self.opening, *self.said, *answered, *new), parameters)
        if self.rolling is None:
            return whole, Rolling.of(whole)
        return whole, self.rolling.extend(self.rolling.prompt.continued([*answered, *new], parameters))

    def keep(self, whole: Prompt, rolling: Rolling) -> None:
        """The turn was answered."""
        self.said = [
            Block(Layer.HISTORY, b.kind, b.content, b.role, b.markable)
            for b in whole.blocks[len(self.opening) :]
        ]
        self.rolling = rolling


def counted(prompt: Prompt) -> Prompt:
    """The prompt as the provider counts it: a third more than anybody estimates."""
    return Prompt(
        tuple(
            Block(b.layer, b.kind, b.content, b.role, b.markable, 20 + len(b.content) * 2 // 5)
            for b in prompt.blocks
        ),
        prompt.parameters,
    )


steps = st.tuples(
    st.integers(0, 2),  # session
    st.sampled_from([Route.OPUS, Route.OPUS, Route.OPUS, Route.FLASH]),
    st.integers(1, 3000),  # answer
    st.integers(1, 3000),  # question
    st.booleans(),  # tool loop
    st.sampled_from([3.0, 20.0, 100.0, 280.0, 290.0, 400.0, 2000.0, 4000.0]),
    st.sampled_from(["answered"] * 6 + ["lost", "refused"]),
    st.sampled_from([PromptParameters()] * 8 + [PromptParameters("effort=low")]),
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(steps, max_size=40),
    st.sampled_from([Strategy.AUTO, Strategy.AUTO, Strategy.A, Strategy.C]),
    st.booleans(),
)
def test_turn_by_turn_plans_are_the_plans_of_the_whole(traffic, strategy, known):
    """Digests, counts, plans and what is learnt, over sessions that share layers, switch routes, fail and lapse."""
    full, rolled = beliefs(), beliefs()
    if known:
        for side in (full, rolled):
            side.estimator.know(SHARED, OPUS, (600, 2_000))
    provider = ReferenceProvider(rules_for(OPUS).minimum_tokens)
    talks, now_s = [Talk(number) for number in range(3)], START_TIME_S
    for number, route, answer, question, loop, gap_s, end, parameters in traffic:
        now_s += gap_s
        talk = talks[number]
        whole, rolling = talk.turn(answer, question, loop, parameters)
        asked_of = {"strategy": strategy, "kind": "desk", "now_s": now_s, "expected_follow_ups": None}
        expected = full.views(whole, MODELS, **asked_of)
        found = rolled.views(rolling.prompt, MODELS, rolling=rolling, **asked_of)
        for each in Route:
            assert found[each].digests == expected[each].digests
            assert tuple(found[each].counts) == expected[each].counts
            assert found[each].plan == expected[each].plan
        for side, view in ((full, expected[route]), (rolled, found[route])):
            side.arrive(view, "desk", now_s)
            side.begin(view, now_s)
        if end != "answered":
            for side, view in ((full, expected[route]), (rolled, found[route])):
                side.abandon(view, now_s, now_s + 1, sent=end == "lost")
            continue
        usage = _billed(provider, route, expected[route], whole, now_s)
        lessons = [
            side.learn(view, usage, started_s=now_s, first_byte_at_s=now_s + 1)
            for side, view in ((full, expected[route]), (rolled, found[route]))
        ]
        assert lessons[0] == lessons[1]
        talk.keep(whole, rolling)
    for scope in full.index._tables:
        assert dict(rolled.index.entries(scope)) == dict(full.index.entries(scope))


def _billed(provider: ReferenceProvider, route: Route, view, whole: Prompt, now_s: float) -> Usage:
    prompt = counted(whole)
    total = sum(block.token_count for block in prompt.blocks)
    if route is Route.FLASH:
        return Usage(input_tokens=total, cache_read_tokens=view.plan.full_read_tokens, output_tokens=10)
    usage = provider.send(prompt, {mark.position: mark.ttl_s for mark in view.plan.breakpoints}, now_s)
    return Usage(
        input_tokens=total,
        cache_read_tokens=usage.read,
        cache_write_5m_tokens=usage.write_5m,
        cache_write_1h_tokens=usage.write_1h,
        output_tokens=10,
    )


def held_over(messages, planned, **more) -> Held:
    """A version with this history."""
    return Held(
        tenant="acme",
        session="s",
        messages=messages,
        created_s=0.0,
        used_s=0.0,
        idle_ttl_s=9.0,
        planned=planned,
        **more,
    )


@pytest.mark.parametrize("placed", ["none", "before"])
async def test_a_prepared_turn_is_the_prepared_whole(placed):
    """Score, decision, estimates, views and spelling are equal with and without what the session holds; only new
    blocks are made.
    """
    async with rigged() as rig:
        context = ("Ann reads Danish.",) if placed == "before" else ()
        messages = (said("Which tickets are overdue?"),)
        request = asked(*messages, route=Route.OPUS, system=("Be brief. " * 400,), context=context)
        held = held_over((), None)
        for number in range(5):
            rig.clock.advance(10)
            whole = rig.preparation.prepare(request, rig.clock.now())
            found = rig.preparation.prepare(request, rig.clock.now(), held)
            assert found.rendered == whole.rendered
            assert (found.sample, found.decision, found.estimates) == (
                whole.sample,
                whole.decision,
                whole.estimates,
            )
            for route in Route:
                assert found.views[route].plan == whole.views[route].plan
            if held.planned is not None:
                before = held.planned.rendered.prompt.blocks
                after = found.rendered[Route.OPUS].prompt.blocks
                assert all(old.content is new.content for old, new in zip(before, after, strict=False))
                assert found.rolling.fresh_from == len(before)
            attempt = rig.settler.open(
                found, Route.OPUS, number=1, stream=False, trace_id="", fell_back=False
            )
            upstream = rig.upstreams[Route.OPUS]
            reply = await upstream.generate(found.rendered[Route.OPUS], found.plan_for(Route.OPUS), 5.0)
            attempt.answered(reply)
            held = held.answered(
                request.call.messages[len(held.messages) :],
                reply.parts,
                context=context,
                turn_byte_count=10,
                planned=Planned(found.rendered[Route.OPUS], found.rolling),
                now_s=rig.clock.now(),
            )
            assert held.messages[-1].role is Role.ASSISTANT
            messages = (*held.messages, said(f"And in week {number}?"))
            request = asked(
                *messages,
                route=Route.OPUS,
                request_id=f"r-{number}",
                system=("Be brief. " * 400,),
                context=context,
            )
