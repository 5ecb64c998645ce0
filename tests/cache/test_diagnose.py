"""Causes of a miss: each named when proved, UNKNOWN otherwise, nothing when nothing was missed."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.diagnose import (
    Billed,
    Entry,
    MissCause,
    Outline,
    Previous,
    Ruler,
    diagnose,
    entries_in_doubt,
    entries_left,
    entry_believed,
    ruler_of,
)
from cache.forecast import Forecast
from cache.plan import Strategy
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters
from tests.cache.conftest import Driver, Usage
from tests.cache.conftest import saas as saas_prompt

SOON = (Forecast(0.9, 0.91),) * 5


class Asked:
    """One request: sent, explained, and what it left."""

    def __init__(self, driver, prompt, now, previous=None, strategy=Strategy.C, *, bill=None, **kwargs):
        digests = prefix_digests(prompt)
        counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
        self.plan = driver.plan(prompt, now, strategy, **kwargs)
        driver.index.begin(driver.scope, self.plan, now)
        marks = {point.position: point.ttl_s for point in self.plan.breakpoints}
        usage = driver.provider.send(prompt, marks, now) if bill is None else bill
        positions = sorted({*marks, *(position for position, _ in self.plan.believed)})
        beliefs = driver.index.belief(driver.scope, [digests[position] for position in positions])
        believed = [
            entry_believed(position, belief, now)
            for position, belief in zip(positions, beliefs, strict=True)
            if belief is not None
        ]
        self.believed = [entry for entry in believed if entry is not None]
        learned = driver.observe(prompt, self.plan, usage, now)
        total = usage.read + usage.write_5m + usage.write_1h + usage.uncached
        self.billed = Billed(total, usage.read, usage.write_1h, usage.write_5m, learned.hit_position)
        self.found = diagnose(
            prompt,
            digests,
            counts,
            self.plan,
            self.billed,
            started=now,
            rules=driver.rules,
            previous=previous.left if isinstance(previous, Asked) else previous,
            believed=self.believed,
        )
        first = now + driver.provider.first_byte_s
        entries = entries_left(
            counts, self.plan, self.billed, started=now, first_byte_at=first, rules=driver.rules
        )
        self.left = Previous(Outline.of(prompt), digests, entries)

    @property
    def causes(self):
        return [(part.cause, part.missed_tokens) for part in self.found]


def edited(prompt, position, content=b"edited"):
    """The same prompt with another block at `position`."""
    blocks = list(prompt.blocks)
    blocks[position] = blocks[position]._replace(content=content)
    return replace(prompt, blocks=tuple(blocks))


def test_nothing_is_missed_while_a_session_goes_on(driver, saas):
    """First turn, second and third: no shortfall to explain."""
    first = Asked(driver, saas(), 0)
    second = Asked(driver, saas(turns=2), 30, first)
    third = Asked(driver, saas(turns=3), 60, second)
    assert first.found == second.found == third.found == []


def test_a_lapsed_ttl(driver, saas):
    """Five minutes and a second after the previous start; all that was cached is missed, from the first block on."""
    previous = Asked(driver, saas(turns=2), 0)
    found = Asked(driver, saas(turns=3), 301, previous)
    assert found.causes == [(MissCause.TTL_LAPSED, 3800)]
    assert (found.found[0].block_index, found.found[0].layer) == (0, Layer.TOOLS)


@pytest.mark.parametrize(
    ("layer", "cause", "missed"),
    [
        (Layer.TOOLS, MissCause.TOOLS, 3800),
        (Layer.SYSTEM, MissCause.SYSTEM, 3800),
        (Layer.CONTEXT, MissCause.CONTEXT, 1800),
        (Layer.HISTORY, MissCause.HISTORY_EDITED, 1300),
    ],
)
def test_a_changed_layer_is_named_with_the_block_that_differs(driver, saas, layer, cause, missed):
    """The first layer that differs, and what it cost beyond what could still be read."""
    previous = Asked(driver, saas(turns=2), 0)
    position = saas(turns=2).ends[layer]
    found = Asked(driver, edited(saas(turns=3), position), 30, previous)
    assert found.causes == [(cause, missed)]
    assert (found.found[0].block_index, found.found[0].layer) == (position, layer)


def test_a_tool_added_is_the_tools_doing(driver, saas, block):
    """Its block stands where the system prompt stood; the shallower of the two layers changed."""
    previous = Asked(driver, saas(turns=2), 0)
    blocks = saas(turns=3).blocks
    found = Asked(driver, Prompt((blocks[0], block(Layer.TOOLS, "more", 100), *blocks[1:])), 30, previous)
    assert found.causes == [(MissCause.TOOLS, 3800)]
    assert (found.found[0].block_index, found.found[0].layer) == (1, Layer.TOOLS)


@pytest.mark.parametrize(
    ("parameters", "read", "block"),
    [
        (PromptParameters(messages="tool_choice=none"), 2000, 2),
        (PromptParameters(system="speed=fast"), 500, 1),
        (PromptParameters(everywhere="effort=low"), 0, 0),
        (PromptParameters(everywhere="effort=low"), 2000, 0),
    ],
)
def test_a_changed_parameter_is_named_at_its_level(driver, saas, parameters, read, block):
    """Only what the provider did not read is missed, also where it is kinder than the digests assume."""
    previous = Asked(driver, saas(turns=2), 0)
    # The reference provider hashes blocks only, so its bill is given here.
    bill = Usage(read=read, write_5m=5100 - read, uncached=500)
    found = Asked(driver, replace(saas(turns=3), parameters=parameters), 30, previous, bill=bill)
    assert found.causes == [(MissCause.PARAMETER, 3800 - read)]
    assert found.found[0].block_index == block


def test_a_first_image_is_named(driver, saas, block):
    """The question's picture ends the reuse of all messages."""
    previous = Asked(driver, saas(turns=2), 0)
    picture = block(Layer.TURN, "picture", 100, kind=BlockKind.IMAGE)
    prompt = Prompt((*saas(turns=3).blocks, picture))
    found = Asked(driver, prompt, 30, previous, bill=Usage(2000, 3100, 0, 600))
    assert found.causes == [(MissCause.IMAGE, 1800)]
    assert found.found[0].layer is Layer.CONTEXT


def test_an_eviction(driver, saas):
    """Alive by the clock, marked and in reach, yet not there."""
    previous = Asked(driver, saas(turns=2), 0)
    driver.provider.entries.clear()
    assert Asked(driver, saas(turns=3), 30, previous).causes == [(MissCause.EVICTED, 3800)]


def test_without_a_session_what_others_left_is_explained(driver, saas):
    """Another user's request: dropped, lapsed, or still being written, by what is believed of the shared layers."""
    Asked(driver, saas("ann"), 0, strategy=Strategy.B)
    driver.provider.entries.clear()
    assert Asked(driver, saas("bob"), 30, strategy=Strategy.B).causes == [(MissCause.EVICTED, 2000)]
    assert Asked(driver, saas("cem"), 331, strategy=Strategy.B).causes == [(MissCause.TTL_LAPSED, 2000)]
    late = Asked(driver, saas("dan"), 331.5, strategy=Strategy.B)
    assert late.causes == [(MissCause.HERD, 2000)]
    assert Asked(driver, saas("eve"), 340, strategy=Strategy.B).causes == []


def test_a_whole_herd_is_named_whoever_finishes_first(driver, saas):
    """Four start before the first byte of any; all but the first are the herd, in whatever order they settle."""
    prompts = [saas(name) for name in "abcd"]
    plans = [driver.plan(prompt, 0.1 * number, Strategy.B) for number, prompt in enumerate(prompts)]
    for number, planned in enumerate(plans):
        driver.index.begin(driver.scope, planned, 0.1 * number)
    causes = {}
    for number in (2, 1, 3, 0):
        prompt, started = prompts[number], 0.1 * number
        digests = prefix_digests(prompt)
        belief = driver.index.belief(driver.scope, digests)[1]
        entry = entry_believed(1, belief, started)
        usage = Usage(write_5m=2500, uncached=500)
        driver.observe(prompt, plans[number], usage, started)
        causes[number] = [
            part.cause
            for part in diagnose(
                prompt,
                digests,
                driver.estimator.cumulative_tokens(prompt, driver.rules.model),
                plans[number],
                Billed(3000, 0, 0, 2500),
                started=started,
                rules=driver.rules,
                believed=() if entry is None else (entry,),
            )
        ]
    assert causes == {0: [], 1: [MissCause.HERD], 2: [MissCause.HERD], 3: [MissCause.HERD]}


def test_a_decision_not_to_cache_is_no_miss(driver, saas):
    """No breakpoint now, or none before: nothing was owed."""
    previous = Asked(driver, saas(turns=2), 0)
    assert Asked(driver, saas(turns=3), 30, previous, Strategy.NONE).found == []
    other = Asked(driver, saas("bob", turns=2), 60, strategy=Strategy.NONE)
    assert Asked(driver, saas("bob", turns=3), 90, other).causes == []


def test_a_shorter_prompt_asks_for_less(driver, saas):
    """A conversation taken back to an earlier turn reads all that it is; what lay beyond was not asked for."""
    first = Asked(driver, saas(turns=2), 0)
    second = Asked(driver, saas(turns=4), 30, first)
    assert second.found == []
    assert Asked(driver, Prompt(saas(turns=4).blocks[:5]), 60, second).found == []


def test_below_the_minimum_is_named_where_it_was_asked_for(driver_for, saas):
    """On a 4,096 floor the second message repeats 2,500 tokens that A asked to cache and AUTO did not."""
    driver = driver_for("claude-opus-4-5", read=0.1)
    previous = Asked(driver, saas(turns=1), 0, strategy=Strategy.A)
    assert previous.plan.breakpoints == ()
    found = Asked(driver, saas(turns=2), 30, previous, Strategy.A)
    assert found.causes == [(MissCause.BELOW_MINIMUM, 2500)]
    quiet = Asked(driver, saas("bob"), 60, strategy=Strategy.AUTO, forecasts=SOON)
    assert Asked(driver, saas("bob", turns=2), 90, quiet, Strategy.AUTO, forecasts=SOON).found == []


def test_out_of_the_lookback(driver):
    """Sixty texts stand between the entry and the only mark past it."""
    system = Block(Layer.SYSTEM, BlockKind.TEXT, b"system", "", True, 2000)
    question = Block(Layer.HISTORY, BlockKind.TEXT, b"question", "user", True, 500)
    opening = Prompt((system, question._replace(layer=Layer.TURN)))
    previous = Asked(driver, opening, 0, strategy=Strategy.AUTO, forecasts=SOON)
    work = tuple(
        Block(Layer.HISTORY, BlockKind.TEXT, b"step %d" % step, "assistant", True, 20) for step in range(60)
    )
    turn = Block(Layer.TURN, BlockKind.TEXT, b"next", "user", True, 50)
    found = Asked(driver, Prompt((system, question, *work, turn)), 30, previous)
    assert found.causes == [(MissCause.LOOKBACK, 500)]
    assert (found.found[0].block_index, found.found[0].layer) == (1, Layer.HISTORY)


def test_a_request_that_ended_without_usage_leaves_doubt(driver, saas):
    """It may have written or not: unknown when nothing was read, nothing when all was."""
    prompt = saas(turns=2)
    counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
    planned = driver.plan(prompt, 0, Strategy.C)
    doubt = entries_in_doubt(counts, planned, started=0, rules=driver.rules)
    previous = Previous(Outline.of(prompt), prefix_digests(prompt), doubt)
    assert Asked(driver, saas(turns=3), 30, previous).causes == [(MissCause.UNKNOWN, 3800)]
    assert Asked(driver, saas(turns=3), 60, previous).causes == []


def test_parts_of_one_shortfall_have_their_own_causes(driver, saas):
    """The shared layers were kept alive by others and dropped; the conversation had lapsed."""
    previous = Asked(driver, saas(turns=2), 0)
    Asked(driver, saas("bob"), 200)
    driver.provider.entries.clear()
    found = Asked(driver, saas(turns=3), 310, previous)
    assert found.causes == [(MissCause.EVICTED, 2000), (MissCause.TTL_LAPSED, 1800)]
    assert [part.block_index for part in found.found] == [0, 2]


def test_another_model_is_named_with_what_was_left_there(driver, saas):
    """Whatever this model's cache gave is not missed."""
    prompt = saas(turns=3)
    arguments = (
        prompt,
        prefix_digests(prompt),
        driver.estimator.cumulative_tokens(prompt, "claude-opus-5-5"),
    )
    planned = driver.plan(prompt, 30, Strategy.C)
    for read, missed in ((0, 3800), (2000, 1800), (3800, None)):
        billed = Billed(5100, read, 0, 4600 - read, None if read == 0 else 1)
        found = diagnose(*arguments, planned, billed, started=30, rules=driver.rules, other_model_tokens=3800)
        expected = [] if missed is None else [(MissCause.MODEL, missed)]
        assert [(part.cause, part.missed_tokens) for part in found] == expected


def test_implicit_caching_owes_no_explanation(driver_for, saas):
    """Nothing was asked for and nothing promised."""
    driver = driver_for("gemini-3.8-flash", read=0.1)
    planned = driver.plan(saas(), 0)
    digests, lost = prefix_digests(saas()), Entry(0, 4000, True, 300.0)
    counts = driver.estimator.cumulative_tokens(saas(), driver.rules.model)
    billed = Billed(5000)
    assert (
        diagnose(saas(), digests, counts, planned, billed, started=0, rules=driver.rules, believed=(lost,))
        == []
    )


# --- rules

STEPS = st.lists(
    st.tuples(
        st.sampled_from([1, 30, 200, 301, 3700]),
        st.sampled_from([None, None, None, Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT, Layer.HISTORY]),
        st.booleans(),
        st.sampled_from([Strategy.A, Strategy.B, Strategy.C, Strategy.AUTO, Strategy.NONE]),
        st.sampled_from(["grow", "repeat", "restart"]),
    ),
    min_size=2,
    max_size=7,
)


def told(model, steps):
    """A session's requests: gaps, edits, evictions, strategies and lengths as they come."""
    driver = Driver(model, read=0.05)
    now, turns, version, previous = 0.0, 1, 0, None
    for gap, layer, drop, strategy, move in steps:
        turns = {"grow": turns + 1, "repeat": turns, "restart": 1}[move]
        prompt = saas_prompt(turns=turns)
        if layer is not None and prompt.ends[layer] >= 0:
            version += 1
            prompt = edited(prompt, prompt.ends[layer], b"version %d" % version)
        now += gap
        if drop:
            driver.provider.entries.clear()
        asked = Asked(driver, prompt, now, previous, strategy)
        yield asked, previous
        previous = asked


@given(st.sampled_from(["claude-opus-5-5", "claude-opus-4-5-20251101"]), STEPS)
def test_every_missed_token_has_exactly_one_cause(model, steps):
    """Parts follow each other from the end of the read, none empty, none beyond the prompt, neighbours differ."""
    for asked, _ in told(model, steps):
        low = asked.billed.read_tokens
        for part in asked.found:
            assert part.missed_tokens == part.end_tokens - low > 0
            low = part.end_tokens
        assert low <= asked.billed.input_tokens
        assert all(before.cause is not after.cause for before, after in pairwise(asked.found))


@given(STEPS)
def test_who_reads_all_that_was_left_misses_nothing(steps):
    """Whatever the bounds in between were estimated at, a read to the deepest entry known explains itself."""
    for asked, previous in told("claude-opus-5-5", steps):
        known = [*asked.believed, *(() if previous is None else previous.left.entries)]
        if all(asked.billed.read_tokens >= entry.tokens for entry in known):
            assert asked.found == []


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(1, 9000)), max_size=4),
)
def test_a_ruler_never_decreases_and_keeps_what_is_proved(sizes, points):
    """A longer prefix has no fewer tokens; the first proof at each block is taken to the token."""
    estimates = [sum(sizes[: end + 1]) for end in range(len(sizes))]
    ruler = Ruler(estimates, [(position, tokens) for position, tokens in points if position < len(sizes)])
    measured = [ruler.at(position) for position in range(len(sizes))]
    assert measured == sorted(measured)
    assert all(
        ruler.at(position) in {tokens for at, tokens in points if at == position}
        for position in range(len(sizes))
        if ruler.is_exact(position)
    )


def test_a_ruler_is_exact_at_the_ends_of_the_bill(driver, saas):
    """Read, hour's end, last mark and whole prompt are proved, whatever was estimated."""
    planned = driver.plan(saas(turns=2), 0, Strategy.C)
    marks = [point.position for point in planned.breakpoints]
    hour = planned.breakpoints[1]._replace(ttl_s=3600)
    planned = planned._replace(
        breakpoints=(planned.breakpoints[0]._replace(ttl_s=3600), hour, *planned.breakpoints[2:])
    )
    ruler = ruler_of((1, 2, 3, 4, 5, 6), planned, Billed(5000, 600, 1500, 2000, marks[0]))
    assert [ruler.at(position) for position in marks] == [600, 2100, 2767, 4100]
    assert ruler.at(5) == 5000
    assert not ruler.is_exact(marks[2])


def test_what_stands_behind_a_moving_context_is_not_missed(driver):
    """In a tool loop the last block is written too; the next turn's context stands elsewhere, as it must."""

    def turn(number, context, *, result=False):
        blocks = [Block(Layer.SYSTEM, BlockKind.TEXT, b"system", token_count=1500)]
        for earlier in range(1, number):
            blocks.append(Block(Layer.HISTORY, BlockKind.TEXT, b"asks %d" % earlier, "user", token_count=500))
            blocks.append(Block(Layer.HISTORY, BlockKind.TEXT, b"answers", "assistant", token_count=800))
        layer = Layer.HISTORY if result else Layer.TURN
        blocks.append(Block(layer, BlockKind.TEXT, b"asks %d" % number, "user", token_count=500))
        blocks.append(Block(layer, BlockKind.TEXT, context, "system", token_count=300))
        volatile = len(blocks) - 1
        if result:
            blocks.append(Block(Layer.HISTORY, BlockKind.TOOL_CALL, b"{}", "assistant", token_count=50))
            blocks.append(Block(Layer.TURN, BlockKind.TOOL_RESULT, b"{}", "user", token_count=900))
        return Prompt(tuple(blocks), PromptParameters(), volatile, volatile)

    loop = Asked(driver, turn(1, b"noon", result=True), 0, strategy=Strategy.AUTO, forecasts=SOON)
    assert loop.plan.breakpoints[-1].position == len(turn(1, b"noon", result=True).blocks) - 1
    after = Asked(driver, turn(2, b"one o'clock"), 30, loop, strategy=Strategy.AUTO, forecasts=SOON)
    assert after.billed.read_tokens >= 1500
    assert after.causes == []


def loop(step, context, *, results=b"{}"):
    """The `step`-th request of a tool loop whose context stands behind the question."""
    blocks = [
        Block(Layer.SYSTEM, BlockKind.TEXT, b"system", token_count=1500),
        Block(Layer.HISTORY if step else Layer.TURN, BlockKind.TEXT, b"asks", "user", token_count=500),
        Block(Layer.HISTORY if step else Layer.TURN, BlockKind.TEXT, context, "system", token_count=300),
    ]
    for number in range(1, step + 1):
        call, result = b"call %d" % number, b"%d %s" % (number, results if number == 1 else b"{}")
        layer = Layer.TURN if number == step else Layer.HISTORY
        blocks.append(Block(Layer.HISTORY, BlockKind.TOOL_CALL, call, "assistant", token_count=50))
        blocks.append(Block(layer, BlockKind.TOOL_RESULT, result, "user", token_count=900))
    return Prompt(tuple(blocks), PromptParameters(), 2, 2)


def test_a_context_that_changes_within_a_tool_loop_is_named(driver):
    """It stands where it stood, so the loop behind it could have been read: the loop is what is missed."""
    first = Asked(driver, loop(1, b"noon"), 0, strategy=Strategy.AUTO, forecasts=SOON)
    same = Asked(driver, loop(2, b"noon"), 30, first, Strategy.AUTO, forecasts=SOON)
    assert same.causes == []
    changed = Asked(driver, loop(3, b"1 pm"), 60, same, Strategy.AUTO, forecasts=SOON)
    assert changed.billed.read_tokens == 2000
    assert changed.causes == [(MissCause.CONTEXT, 300 + 2 * 950)]
    assert (changed.found[0].block_index, changed.found[0].layer) == (2, Layer.CONTEXT)


def test_a_loop_edited_behind_its_context_is_the_historys_doing(driver):
    """The context is the same at the same place; a result behind it is not."""
    first = Asked(driver, loop(2, b"noon"), 0, strategy=Strategy.AUTO, forecasts=SOON)
    edited_loop = Asked(driver, loop(3, b"noon", results=b"[]"), 30, first, Strategy.AUTO, forecasts=SOON)
    assert edited_loop.causes == [(MissCause.HISTORY_EDITED, 300 + 2 * 950)]
    assert edited_loop.found[0].block_index == 4


def conversation(*texts, system=b"system"):
    """System, then question and answer in turn, the last one the turn; 500 tokens each."""
    last = len(texts) - 1
    return Prompt(
        (
            Block(Layer.SYSTEM, BlockKind.TEXT, system, token_count=1500),
            *(
                Block(
                    Layer.TURN if number == last else Layer.HISTORY,
                    BlockKind.TEXT,
                    text.encode(),
                    "user" if number % 2 == 0 else "assistant",
                    token_count=500,
                )
                for number, text in enumerate(texts)
            ),
        )
    )


@pytest.mark.parametrize(
    "later",
    [
        conversation("q1", "a1", "another"),
        conversation("another"),
        conversation("sub task", system=b"a helper"),
        conversation("sub task", "sub answer", "next sub task", system=b"a helper"),
        conversation("sub task", "sub answer", "next sub task"),
    ],
    ids=["last question edited", "started anew", "helper", "helper goes on", "helper of the same prompt"],
)
def test_a_new_question_is_no_miss(driver, later):
    """A fork, a question asked anew and a helper's conversation read what they share; the rest was never theirs."""
    previous = Asked(driver, conversation("q1", "a1", "q2"), 0, strategy=Strategy.AUTO, forecasts=SOON)
    assert previous.left.entries[-1].position == 3
    assert Asked(driver, later, 30, previous, Strategy.AUTO, forecasts=SOON).causes == []


def test_a_conversation_that_goes_on_under_another_opening_is_named(driver):
    """One of its own messages behind the changed system prompt tells it from a helper's."""
    previous = Asked(driver, conversation("q1"), 0, strategy=Strategy.AUTO, forecasts=SOON)
    later = conversation("q1", "a1", "q2", system=b"a deploy")
    assert Asked(driver, later, 30, previous, Strategy.AUTO, forecasts=SOON).causes == [
        (MissCause.SYSTEM, 2000)
    ]


def test_a_reminder_taken_back_is_an_edit(driver):
    """Clients add a block behind the question and drop it in the next turn: what was cached up to it is lost."""
    reminded = Prompt(
        (
            *conversation("q1", "a1", "q2").blocks,
            Block(Layer.TURN, BlockKind.TEXT, b"reminder", "user", token_count=20),
        )
    )
    previous = Asked(driver, reminded, 0, strategy=Strategy.AUTO, forecasts=SOON)
    driver.provider.entries = {
        names: entry for names, entry in driver.provider.entries.items() if len(names) != 4
    }  # without the fallback mark's entry
    later = Asked(
        driver, conversation("q1", "a1", "q2", "a2", "q3"), 30, previous, Strategy.AUTO, forecasts=SOON
    )
    assert MissCause.HISTORY_EDITED in dict(later.causes)


def test_dropped_turns_are_not_claimed(driver):
    """Of 4,000 tokens left, a prompt cut to the last question before its own could have read 500 past the system's."""
    texts = ("q1", "a1", "q2", "a2", "q3")
    previous = Asked(driver, conversation(*texts), 0, strategy=Strategy.AUTO, forecasts=SOON)
    assert previous.left.entries[-1].tokens == 4000
    trimmed = Asked(driver, conversation("q3", "a3", "q4"), 30, previous, Strategy.AUTO, forecasts=SOON)
    assert trimmed.billed.read_tokens == 1500
    assert trimmed.causes == [(MissCause.HISTORY_EDITED, 500)]


def test_trimmed_behind_a_kept_beginning_is_claimed_up_to_the_last_answer_at_most(driver):
    """The first turn is kept and the last question reworded; nothing past the last answer was there to be read."""
    texts = ("q1", "a1", "q2", "a2", "q3", "a3", "q4")
    previous = Asked(driver, conversation(*texts), 0, strategy=Strategy.AUTO, forecasts=SOON)
    later = conversation("q1", "a1", "q4 reworded", "a4", "q5")
    found = Asked(driver, later, 30, previous, Strategy.AUTO, forecasts=SOON)
    assert found.causes == [(MissCause.HISTORY_EDITED, 3500 - found.billed.read_tokens)]


@pytest.mark.parametrize(("begun", "causes"), [(29.0, [MissCause.HERD]), (30.0, []), (30.5, [])])
def test_only_a_writer_that_began_before_makes_a_herd(driver, saas, begun, causes):
    """Who began together with this request, or after it, owed it nothing."""
    prompt = saas()
    digests = prefix_digests(prompt)
    entry = Entry(1, 2000, True, 400.0, begun, 31.0)
    found = diagnose(
        prompt,
        digests,
        driver.estimator.cumulative_tokens(prompt, driver.rules.model),
        driver.plan(prompt, 30, Strategy.B),
        Billed(3000, 0, 0, 2500),
        started=30.0,
        rules=driver.rules,
        believed=(entry,),
    )
    assert [part.cause for part in found] == causes
