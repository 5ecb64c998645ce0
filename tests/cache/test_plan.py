"""Plans: always valid, repeatable, honest about what they expect; each strategy does what its name says."""

from copy import deepcopy
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.belief import Belief
from cache.economics import MarkState, Rates, cost_units, mark_set_cost
from cache.forecast import Forecast
from cache.outlook import Mark, TokenCounts, outlook, warm_entries
from cache.plan import (
    Plan,
    Strategy,
    plan,
)
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, Layer, Prompt
from cache.rules import OpenFacts, rules_for

R05 = Rates(1.25, 2.0, 0.05)
NEVER = (Forecast(0.0, 0.0),) * 5
SOON = (Forecast(0.9, 0.91),) * 5
LIVELY = (Forecast(0.8, 0.95), Forecast(0.8, 0.95), *(Forecast(0.6, 0.65),) * 3)

MODELS = st.sampled_from(["claude-opus-5-5", "claude-opus-4-5", "claude-opus-4-7", "gemini-3.8-flash"])


def blocks_of(layer, kinds):
    return st.builds(
        Block,
        layer=st.just(layer),
        kind=st.sampled_from(kinds),
        content=st.binary(max_size=4),
        role=st.just("" if layer <= Layer.SYSTEM else "user"),
        markable=st.booleans(),
        token_count=st.sampled_from([0, 1, 100, 600, 3000]),
    )


@st.composite
def cases(draw):
    """Any prompt with any beliefs and forecasts: what a planner must survive."""
    blocks = []
    for layer in Layer:
        kinds = (
            [BlockKind.TOOL] if layer is Layer.TOOLS else [k for k in BlockKind if k is not BlockKind.TOOL]
        )
        count = draw(st.integers(0, 30 if layer is Layer.HISTORY else 3))
        blocks.extend(draw(st.lists(blocks_of(layer, kinds), min_size=count, max_size=count)))
    prompt = Prompt(tuple(blocks))
    first, last = prompt.stable_end + 1, len(blocks) - 1
    if first <= last and draw(st.booleans()):
        start = draw(st.integers(first, last))
        prompt = Prompt(
            tuple(blocks), volatile_from=start, volatile_end=min(last, start + draw(st.integers(0, 1)))
        )
    counts, total = [], 0
    for b in blocks:
        total += b.token_count
        counts.append(total)
    belief = st.builds(
        Belief,
        tokens=st.integers(0, 50_000),
        exact=st.booleans(),
        ttl_s=st.sampled_from([300, 3600]),
        expires=st.floats(0, 200),
        available_from=st.sampled_from([0.0, 150.0, float("inf")]),
        confidence=st.floats(0, 1),
    )
    beliefs = tuple(draw(st.none() | belief) for _ in blocks)
    chances = st.floats(0, 1)
    forecasts = tuple(Forecast(*sorted((draw(chances), draw(chances)))) for _ in Layer)
    return prompt, tuple(counts), beliefs, forecasts


def made(case, model, strategy, uncertainty=0.2):
    prompt, counts, beliefs, forecasts = case
    return plan(
        prompt,
        prefix_digests(prompt),
        counts,
        beliefs,
        rules=rules_for(model),
        rates=R05,
        strategy=strategy,
        now=100.0,
        forecasts=forecasts,
        uncertainty=uncertainty,
    )


def left_out(planned: Plan) -> list[tuple[Layer, int | None, str]]:
    """What a plan skipped, with the reasons spelled."""
    return [(each.layer, each.position, each.reason) for each in planned.skipped]


@settings(max_examples=100)
@given(cases(), MODELS, st.sampled_from(Strategy))
def test_a_plan_respects_the_providers_limits(case, model, strategy):
    """However odd the prompt: the limit, one breakpoint per markable block, 1h before 5m, minimum within
    doubt.
    """
    prompt = case[0]
    rules = rules_for(model)
    planned = made(case, model, strategy)
    positions = [point.position for point in planned.breakpoints]
    assert len(positions) <= rules.max_breakpoints
    assert positions == sorted(set(positions))
    assert all(prompt.blocks[position].markable for position in positions)
    ttls = [point.ttl_s for point in planned.breakpoints]
    assert ttls == sorted(ttls, reverse=True)
    assert set(ttls) <= set(rules.ttls_s)
    for point in planned.breakpoints:
        assert point.prefix_tokens * 1.2 >= rules.minimum_tokens
        assert point.digest == prefix_digests(prompt)[point.position]
        assert prompt.blocks[point.position].layer is point.layer
        assert point.reason


@settings(max_examples=100)
@given(cases(), MODELS, st.sampled_from(Strategy))
def test_expectations_account_for_every_token_once(case, model, strategy):
    """Expected, cold and warm splits each sum to the whole input, with nothing negative; warm is never
    dearer.
    """
    planned = made(case, model, strategy)
    for split in (planned.expected, planned.cold, planned.warm):
        assert split.total == planned.total_tokens
        assert min(split) >= 0
    assert planned.cold.read == 0
    assert cost_units(planned.warm, R05) <= cost_units(planned.cold, R05) + 1e-6
    assert 0 <= planned.p_hit <= 1
    chances = [p for _, p in planned.believed]
    assert all(0 < p <= 1 for p in chances)
    assert sorted(planned.believed, reverse=True) == list(planned.believed)


@given(cases(), MODELS, st.sampled_from(Strategy))
def test_longer_prefixes_have_no_fewer_tokens(case, model, strategy):
    """Even where beliefs contradict each other."""
    tokens = [point.prefix_tokens for point in made(case, model, strategy).breakpoints]
    assert tokens == sorted(tokens)


@given(cases(), MODELS, st.sampled_from(Strategy))
def test_planning_again_changes_nothing(case, model, strategy):
    """Same values in, same plan out, and the inputs untouched."""
    before = deepcopy(case)
    assert made(case, model, strategy) == made(case, model, strategy)
    assert case == before


# --- the document's options


def layers_of(planned):
    return [point.layer for point in planned.breakpoints]


@pytest.mark.parametrize(
    ("strategy", "layers"),
    [
        (Strategy.NONE, []),
        (Strategy.A, [Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT]),
        (Strategy.B, [Layer.SYSTEM, Layer.CONTEXT]),
        (Strategy.C, [Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT, Layer.HISTORY]),
    ],
)
def test_each_option_marks_the_ends_of_its_layers(driver, saas, strategy, layers):
    """In the provider's order, tools first, all with the 5 minute TTL."""
    prompt = saas(turns=3, tools=600)
    planned = driver.plan(prompt, 0, strategy)
    assert layers_of(planned) == layers
    assert [point.position for point in planned.breakpoints] == [prompt.ends[layer] for layer in layers]
    assert {point.ttl_s for point in planned.breakpoints} <= {300}


def test_option_b_marks_the_tools_where_there_is_no_system(driver, saas):
    """What is shared then ends with the tools."""
    planned = driver.plan(saas(system=0, tools=900), 0, Strategy.B)
    assert layers_of(planned) == [Layer.TOOLS, Layer.CONTEXT]


def test_a_missing_layer_is_said_to_be_empty(driver, saas):
    """Without a user context there is nothing to mark, which is not a miss."""
    planned = driver.plan(saas(context=0), 0, Strategy.A)
    assert (Layer.CONTEXT, None, "layer is empty") in left_out(planned)


def test_an_unmarkable_end_moves_the_mark_back_within_its_layer(driver, block):
    """Thinking takes no breakpoint; the nearest earlier block of its layer does, never another's."""
    history = (
        block(Layer.HISTORY, "question", 600),
        block(Layer.HISTORY, "thinking", 50, kind=BlockKind.THINKING, role="assistant", markable=False),
    )
    turn = (block(Layer.TURN, "next", 100),)
    planned = driver.plan(Prompt((*history, *turn)), 0, Strategy.C)
    assert [point.position for point in planned.breakpoints] == [0]
    planned = driver.plan(Prompt((history[1], *turn)), 0, Strategy.C)
    assert planned.breakpoints == ()
    assert (Layer.HISTORY, None, "no block of the layer takes a breakpoint") in left_out(planned)


def test_a_prefix_within_the_estimates_doubt_keeps_its_mark(driver, saas):
    """450 estimated tokens may be 512 real ones: the mark does no harm, but nothing is expected of it."""
    planned = driver.plan(saas(tools=0, system=450, context=0), 0, Strategy.A)
    assert layers_of(planned) == [Layer.SYSTEM]
    assert planned.expected.write_5m == 0
    planned = driver.plan(saas(tools=0, system=420, context=0), 0, Strategy.A)
    assert planned.breakpoints == ()
    assert (Layer.SYSTEM, 0, "below minimum 512: 420 tokens") in left_out(planned)


# --- AUTO


def test_auto_writes_shared_layers_for_an_hour_and_the_conversation_for_five_minutes(driver, saas):
    """System 1h, last message 5m: the set that gains all but half a point of what four marks gain."""
    planned = driver.plan(saas(turns=3), 0, forecasts=LIVELY)
    assert [(point.layer, point.ttl_s) for point in planned.breakpoints] == [
        (Layer.SYSTEM, 3600),
        (Layer.CONTEXT, 300),
        (Layer.TURN, 300),
    ]


def test_auto_leaves_a_one_off_prompt_alone(driver, saas):
    """Nobody is expected back: no write is paid, and each layer says why."""
    planned = driver.plan(saas(), 0, forecasts=NEVER)
    assert planned.breakpoints == ()
    assert planned.expected.uncached == planned.total_tokens
    assert all("not worth its write" in skipped.reason for skipped in planned.skipped)


def test_auto_reads_what_is_warm_without_writing_what_is_not_worth_it(driver, saas):
    """A warm conversation whose user is not expected back is read up to its entry and not extended."""
    driver.call(saas(turns=2), 0, forecasts=SOON)
    planned, usage, _ = driver.call(saas(turns=3), 60, forecasts=NEVER)
    assert usage.read == planned.full_read_tokens == 4300
    assert usage.write_5m == usage.write_1h == 0


@pytest.mark.parametrize(("p_5m", "written"), [(0.24, False), (0.28, True)])
def test_the_last_message_is_written_above_its_threshold(driver, saas, p_5m, written):
    """P(next < 5 min) against 1.25 x (w5-1)/(w5-r) = 0.26: 'spend only on evidence'."""
    forecasts = (*LIVELY[:3], Forecast(p_5m, p_5m), Forecast(p_5m, p_5m))
    planned = driver.plan(saas(context=0), 0, forecasts=forecasts)
    assert (Layer.TURN in layers_of(planned)) is written


def test_an_hour_for_the_conversation_raises_what_stands_before_it(driver, saas):
    """1h must come before 5m: the context's own rule says 5m, the last message's 1h wins."""
    pauses = Forecast(0.3, 0.98)
    forecasts = (LIVELY[0], LIVELY[1], Forecast(0.6, 0.65), pauses, pauses)
    planned = driver.plan(saas(turns=4), 0, forecasts=forecasts)
    assert [point.ttl_s for point in planned.breakpoints] == [3600, 3600, 3600]


def test_a_conversation_on_a_5m_entry_stays_at_5m_until_the_upgrade_is_proved(driver, saas):
    """An hour on top of a prefix that lapses in five minutes is wasted, unless open fact A2 holds."""
    pauses = Forecast(0.3, 0.98)
    forecasts = (LIVELY[0], LIVELY[1], LIVELY[2], pauses, pauses)
    driver.call(saas(turns=2), 0, forecasts=LIVELY)
    assert driver.plan(saas(turns=3), 60, forecasts=forecasts).breakpoints[-1].ttl_s == 300
    proved = OpenFacts(hour_mark_extends_read_prefix=True)
    assert driver.plan(saas(turns=3), 60, forecasts=forecasts, facts=proved).breakpoints[-1].ttl_s == 3600


def test_auto_marks_the_tools_only_when_they_outlive_the_system_prompt(driver, saas):
    """After a deploy that edits the system text, the tools' entry is worth its slot; otherwise never."""
    prompt = saas(tools=2000, turns=2)
    assert Layer.TOOLS not in layers_of(driver.plan(prompt, 0, forecasts=LIVELY))
    driver.call(prompt, 0, Strategy.A)
    edited = Prompt(
        tuple(
            Block(b.layer, b.kind, b"edited", b.role, True, b.token_count) if b.layer is Layer.SYSTEM else b
            for b in prompt.blocks
        )
    )
    planned, usage, _ = driver.call(edited, 30, forecasts=LIVELY)
    assert layers_of(planned)[0] is Layer.TOOLS
    assert usage.read == 2000


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.integers(600, 20_000), min_size=3, max_size=3),
)
def test_the_walk_finds_what_the_search_over_all_mark_sets_finds(chances, sizes):
    """With chances that never rise with depth, no set of 5m marks is cheaper in the long run than AUTO's.

    The private margin makes AUTO stop earlier; it is held against the search at the chances as the margin
    sees them.
    """
    alive = sorted(chances, reverse=True)
    layers = (Layer.SYSTEM, Layer.CONTEXT, Layer.TURN)
    prompt = Prompt(
        tuple(Block(layer, BlockKind.TEXT, b"x", "", True, n) for layer, n in zip(layers, sizes, strict=True))
    )
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    forecasts = [Forecast(0.0, 0.0)] * 5
    for layer, chance in zip(layers, alive, strict=True):
        forecasts[layer] = Forecast(chance, chance)
    planned = plan(
        prompt,
        prefix_digests(prompt),
        ends,
        (None,) * 3,
        rules=rules_for("claude-opus-5-5"),
        rates=R05,
        strategy=Strategy.AUTO,
        now=0.0,
        forecasts=forecasts,
    )

    def cost(chosen):
        marks = [MarkState(ends[i], 300, alive[i]) for i in chosen]
        premium = 0.25 * 0.25 * (ends[chosen[-1]] - ends[0] if chosen else 0)
        return mark_set_cost(ends[-1], marks, R05) + premium

    best = min(cost(chosen) for n in range(4) for chosen in combinations(range(3), n))
    assert cost([point.position for point in planned.breakpoints]) <= best + 1e-6


def test_the_fifth_wish_is_dropped_and_named(driver, block):
    """Tools likelier warm than all behind them, system, context, rescue and last message: five wishes, four
    slots.
    """
    prompt = Prompt(
        (
            block(Layer.TOOLS, "tools", 2000),
            block(Layer.SYSTEM, "system", 1500),
            block(Layer.CONTEXT, "context", 100),
            *(block(Layer.HISTORY, f"message {number}", 300) for number in range(40)),
            block(Layer.TURN, "question", 500),
        )
    )
    old = prefix_digests(prompt)
    beliefs = [None] * len(old)
    beliefs[0] = Belief(2000, True, 300, 500.0, 0.0, 0.97)
    beliefs[5] = Belief(4500, True, 300, 500.0, 0.0, 0.5)
    counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
    planned = plan(
        prompt,
        old,
        counts,
        beliefs,
        rules=driver.rules,
        rates=R05,
        strategy=Strategy.AUTO,
        now=10.0,
        forecasts=SOON,
    )
    assert [point.position for point in planned.breakpoints] == [0, 1, 5, 43]
    assert (Layer.CONTEXT, 2, "limit of 4 breakpoints: adds the fewest tokens") in left_out(planned)


def test_gemini_takes_no_breakpoints(driver_for, saas):
    """It caches by itself; what an earlier request left is expected at its chance."""
    driver = driver_for("gemini-3.8-flash", read=0.1)
    prompt = saas(system=6000)
    counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
    first = driver.plan(prompt, 0)
    driver.index.observe_implicit(
        driver.scope,
        prefix_digests(prompt),
        counts,
        first,
        prompt.ends,
        started=0,
        first_byte_at=1,
        read_tokens=0,
    )
    second = driver.plan(prompt, 30)
    assert second.breakpoints == ()
    assert second.full_read_tokens == 7500
    assert second.expected.read == 3750


# --- lookback


def tool_turn(calls, *, turns=1, apart=False):
    """A tool loop: a question, parallel calls, their results; `apart` puts text between the calls."""
    blocks = [
        Block(Layer.SYSTEM, BlockKind.TEXT, b"system", "", True, 2000),
        Block(Layer.HISTORY, BlockKind.TEXT, b"question", "user", True, 500),
    ]
    if turns > 1:
        for call in range(calls):
            if apart:
                blocks.append(Block(Layer.HISTORY, BlockKind.TEXT, b"now %d" % call, "assistant", True, 5))
            blocks.append(Block(Layer.HISTORY, BlockKind.TOOL_CALL, b"call %d" % call, "assistant", True, 20))
        blocks += [
            Block(Layer.TURN, BlockKind.TOOL_RESULT, b"result %d" % call, "user", True, 100)
            for call in range(calls)
        ]
        return Prompt(tuple(blocks))
    return Prompt((blocks[0], Block(Layer.TURN, BlockKind.TEXT, b"question", "user", True, 500)))


@pytest.mark.parametrize("calls", [12, 30, 60])
def test_parallel_calls_are_one_position_and_need_no_rescue(driver, calls):
    """Runs of calls and of results are one position each: the last mark sees past any number of them."""
    driver.call(tool_turn(calls), 0, forecasts=SOON)
    planned, usage, _ = driver.call(tool_turn(calls, turns=2), 20, forecasts=SOON)
    assert usage.read == planned.full_read_tokens == 2500
    assert not any("rescue" in point.reason for point in planned.breakpoints)


@pytest.mark.parametrize("calls", [12, 30, 60])
def test_a_turn_longer_than_the_lookback_is_rescued(driver, calls):
    """Calls with text between them are positions of their own: the old entry gets a mark, and the history is
    read.
    """
    driver.call(tool_turn(calls), 0, forecasts=SOON)
    planned, usage, _ = driver.call(tool_turn(calls, turns=2, apart=True), 20, forecasts=SOON)
    assert usage.read == planned.full_read_tokens == 2500
    assert [point.position for point in planned.breakpoints if "rescue" in point.reason] == [1]


def test_without_a_rescue_the_same_turn_misses_and_the_plan_knows(driver):
    """Option C has no rescue: the history mark is too far from the entry, so only the system is expected and
    read.
    """
    driver.call(tool_turn(30), 0, forecasts=SOON)
    planned, usage, _ = driver.call(tool_turn(30, turns=2, apart=True), 20, Strategy.C)
    assert usage.read == planned.full_read_tokens == 2000


# --- a context that stands after the history


def volatile_turn(context, *, turns=1, rounds=0, calls=2, tokens=400):
    """A conversation whose context follows the current turn's question; `rounds` of its tool loop have run."""
    blocks = [Block(Layer.SYSTEM, BlockKind.TEXT, b"system", "", True, 2000)]
    for turn in range(1, turns):
        blocks.append(Block(Layer.HISTORY, BlockKind.TEXT, b"question %d" % turn, "user", True, 300))
        blocks.append(Block(Layer.HISTORY, BlockKind.TEXT, b"answer %d" % turn, "assistant", True, 500))
    layer = Layer.HISTORY if rounds else Layer.TURN
    blocks.append(Block(layer, BlockKind.TEXT, b"question %d" % turns, "user", True, 300))
    at = len(blocks)
    blocks.append(Block(layer, BlockKind.TEXT, context, "system", True, tokens))
    for number in range(rounds):
        last = number == rounds - 1
        for call in range(calls):
            content = b"call %d %d" % (number, call)
            blocks.append(Block(Layer.HISTORY, BlockKind.TOOL_CALL, content, "assistant", True, 20))
        for call in range(calls):
            layer, content = Layer.TURN if last else Layer.HISTORY, b"result %d %d" % (number, call)
            blocks.append(Block(layer, BlockKind.TOOL_RESULT, content, "user", True, 100))
    return Prompt(tuple(blocks), volatile_from=at, volatile_end=at)


def test_a_changing_context_behind_the_question_leaves_history_and_question_warm(driver):
    """The last mark stands before it: the next turn reads all of this one's question, and only the context is sent
    anew.
    """
    for turn in range(1, 5):
        prompt = volatile_turn(b"context %d" % turn, turns=turn)
        planned, usage, _ = driver.call(prompt, 30 * turn, forecasts=SOON)
        last = planned.breakpoints[-1]
        assert last.position == prompt.volatile_from - 1
        assert last.reason.startswith("before the context, which moves on with each turn: ")
        assert usage.uncached == 400
        if turn > 1:
            assert usage.read == planned.full_read_tokens == 2000 + 300 + (turn - 2) * 800


def test_within_a_tool_loop_the_last_block_is_marked_and_the_place_before_the_context_kept_warm(driver):
    """The loop's next round begins with all of this one; the turn after it goes on from before the context."""
    driver.call(volatile_turn(b"c1"), 0, forecasts=SOON)
    for rounds in (1, 2, 3):
        prompt = volatile_turn(b"c1", rounds=rounds)
        planned, usage, _ = driver.call(prompt, 200 * rounds, forecasts=SOON)
        assert planned.breakpoints[-1].position == len(prompt.blocks) - 1
        assert usage.uncached == 0
        assert (
            usage.read
            == planned.full_read_tokens
            == (2300 if rounds == 1 else 2300 + 400 + (rounds - 1) * 240)
        )
    planned, usage, _ = driver.call(volatile_turn(b"c2", turns=2), 800, forecasts=SOON)
    assert usage.read == planned.full_read_tokens == 2300
    reasons = [
        point.reason for point in driver.plan(volatile_turn(b"c1", rounds=2), 10, forecasts=SOON).breakpoints
    ]
    assert any(
        reason.startswith("in a tool loop, in which the context before it stays: ") for reason in reasons
    )


@pytest.mark.parametrize("strategy", [Strategy.A, Strategy.B, Strategy.C, Strategy.AUTO])
def test_a_context_after_the_history_is_left_out_with_its_reason(driver, strategy):
    """No strategy marks it: it would be written each turn and never read."""
    prompt = volatile_turn(b"c", turns=3)
    planned = driver.plan(prompt, 0, strategy, forecasts=SOON)
    (skipped,) = [each for each in planned.skipped if each.layer is Layer.CONTEXT]
    assert skipped.position == prompt.volatile_end
    assert "gone from there in the next one" in skipped.reason
    assert Layer.CONTEXT not in layers_of(planned)
    if strategy is Strategy.C:
        assert planned.breakpoints[-1].position == prompt.ends[Layer.HISTORY] < prompt.volatile_from


@given(cases(), MODELS)
def test_auto_marks_nothing_that_does_not_recur(case, model):
    """Past what recurs there is a mark only where something is believed warm already."""
    prompt, _, beliefs, _ = case
    for point in made(case, model, Strategy.AUTO).breakpoints:
        assert point.position <= prompt.recurring_end or beliefs[point.position] is not None


@st.composite
def talks(draw):
    """Requests of one session in order: turns with tool loops, with or without a context that changes."""
    moving = draw(st.booleans())
    sizes = st.sampled_from([20, 300, 900, 4000])
    shared = [
        Block(Layer.SYSTEM, BlockKind.TEXT, b"system", "", True, draw(st.sampled_from([300, 2000, 9000])))
    ]
    if draw(st.booleans()):
        shared.insert(0, Block(Layer.TOOLS, BlockKind.TOOL, b"tools", "", True, draw(sizes)))
    if not moving and draw(st.booleans()):
        shared.append(Block(Layer.CONTEXT, BlockKind.TEXT, b"context", "user", True, draw(sizes)))
    said, prompts = [], []

    def add(kind, role, tokens):
        content = b"%d" % len(said)
        said.append((kind, content, role, tokens))

    for turn in range(draw(st.integers(1, 4))):
        add(BlockKind.TEXT, "user", draw(sizes))
        place = len(said)
        context = ((BlockKind.TEXT, b"c%d" % turn, "system", draw(sizes)),) if moving else ()
        for rounds in range(draw(st.integers(0, 2)) + 1):
            if rounds:
                apart, calls = draw(st.booleans()), draw(st.sampled_from([1, 3, 25]))
                for _ in range(calls):
                    if apart:
                        add(BlockKind.TEXT, "assistant", 10)
                    add(BlockKind.TOOL_CALL, "assistant", 20)
                before = len(said)
                for _ in range(calls):
                    add(BlockKind.TOOL_RESULT, "user", 60)
            else:
                before = len(said) - 1
            history = [*said[:place], *context, *said[place:]]
            edge = before + len(context) if before >= place else before
            blocks = [
                Block(Layer.TURN if i >= edge else Layer.HISTORY, kind, content, role, True, tokens)
                for i, (kind, content, role, tokens) in enumerate(history)
            ]
            at = len(shared) + place if moving else -1
            prompts.append(Prompt((*shared, *blocks), volatile_from=at, volatile_end=at))
        add(BlockKind.TEXT, "assistant", draw(sizes))
    return prompts


def worth(prompt, marks, warm, forecasts, rules):
    """Expected cost now, less what the entries are expected to save at their next use, in units."""
    outlooks = outlook(prompt.blocks, marks, warm, sum(b.token_count for b in prompt.blocks), rules)
    saved, start = 0.0, 0
    for mark in marks:
        forecast = forecasts[prompt.blocks[mark.position].layer]
        p_next = forecast.p_1h if mark.ttl_s == 3600 else forecast.p_5m
        saved += p_next * (R05.write(mark.ttl_s) - R05.read) * (mark.tokens - start)
        start = mark.tokens
    return cost_units(outlooks.expected, R05) - saved


falling = st.lists(st.floats(0, 1), min_size=4, max_size=4).map(lambda chances: sorted(chances, reverse=True))


@settings(max_examples=60)
@given(talks(), falling, st.floats(0, 1), st.sampled_from([20.0, 280.0, 900.0]))
def test_every_mark_of_auto_pays_for_itself(driver_for, prompts, chances, later, gap_s):
    """Take any one mark out of any plan of a session: what is then expected to be paid, now and at the next use, is not
    less, but for rounded tokens.
    """
    driver = driver_for()
    fives = (*chances, chances[-1])
    forecasts = tuple(Forecast(p, p + (1 - p) * later) for p in fives)
    for number, prompt in enumerate(prompts):
        now = number * gap_s
        counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
        beliefs = driver.index.belief(driver.scope, prefix_digests(prompt))
        warm = warm_entries(TokenCounts(counts, beliefs), now)
        planned, _, _ = driver.call(prompt, now, forecasts=forecasts)
        marks = [Mark(p.position, p.prefix_tokens, p.ttl_s) for p in planned.breakpoints]
        marks = [mark for mark in marks if mark.tokens >= driver.rules.minimum_tokens]
        cost = worth(prompt, marks, warm, forecasts, driver.rules)
        for left_out in marks:
            others = [mark for mark in marks if mark is not left_out]
            assert worth(prompt, others, warm, forecasts, driver.rules) >= cost - 6


# --- what it costs


def test_costs_before_the_call(driver, saas):
    """Cold pays every write, warm reads them; what is expected lies between by the chance of a hit."""
    cold = driver.plan(saas(), 0, Strategy.A)
    assert cost_units(cold.expected, R05) == cost_units(cold.cold, R05) == 1.25 * 2500 + 500
    driver.call(saas(), 0, Strategy.A)
    planned = driver.plan(saas(), 30, Strategy.A)
    assert cost_units(planned.warm, R05) == 0.05 * 2500 + 500
    p = planned.p_hit
    mean = p * cost_units(planned.warm, R05) + (1 - p) * cost_units(planned.cold, R05)
    assert cost_units(planned.expected, R05) == pytest.approx(mean, abs=2)
