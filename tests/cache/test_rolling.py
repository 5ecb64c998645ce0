"""A prompt that grows by turns has the digests, the counts and the beliefs that the whole prompt has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.belief import Belief
from cache.index import PrefixIndex
from cache.outlook import TokenCounts, warm_entries
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt, PromptParameters
from cache.rolling import Marks, Rolling, SparseBeliefs, known_beliefs
from cache.tokens import TokenEstimator, TokenSums

MODELS = ("claude-opus-5-5", "claude-opus-4-5", "gemini-3.8-flash")
SCOPE = CacheScope("anthropic", "w", MODELS[0])
PDF = b'{"type":"document","source":{"media_type":"application/pdf","data":"%b"}}'
SHOWN = b'{"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}'
CONTENTS = {
    BlockKind.TEXT: st.integers(1, 9_000).map(lambda size: b"x" * size),
    BlockKind.THINKING: st.integers(1, 300).map(lambda size: b"t" * size),
    BlockKind.IMAGE: st.just(b"image"),
    BlockKind.DOCUMENT: st.integers(1, 200_000).map(lambda size: PDF % (b"d" * size)),
    BlockKind.TOOL_CALL: st.integers(1, 99).map(lambda size: b"c" * size),
    BlockKind.TOOL_RESULT: st.sampled_from([b"plain result", SHOWN, SHOWN * 3]),
}


@st.composite
def stretches(draw, layer, most=4):
    """Blocks of one layer, at least one; seldom counted."""
    found = []
    for _ in range(draw(st.integers(1, most))):
        kind = BlockKind.TOOL if layer is Layer.TOOLS else draw(st.sampled_from(list(CONTENTS)))
        content = b"tool" * 30 if kind is BlockKind.TOOL else draw(CONTENTS[kind])
        counted = draw(st.sampled_from([None, None, None, 37]))
        found.append(Block(layer, kind, content, "user", kind is not BlockKind.THINKING, counted))
    return found


PARAMETERS = st.sampled_from(
    [PromptParameters()] * 4 + [PromptParameters(messages="tool_choice"), PromptParameters("effort=low")]
)


@st.composite
def sessions(draw):
    """An opening and the turns after it, with their parameters."""
    opening = []
    for layer in (Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT, Layer.HISTORY):
        if draw(st.booleans()):
            opening += draw(stretches(layer))
    opening += draw(stretches(Layer.TURN))
    turns = draw(
        st.lists(st.tuples(stretches(Layer.HISTORY, 2), stretches(Layer.TURN, 2), PARAMETERS), max_size=6)
    )
    return Prompt(tuple(opening), draw(PARAMETERS)), turns


@given(sessions(), st.floats(0.5, 2.0), st.booleans())
def test_growing_by_turns_is_the_whole_at_once(session, ratio, known):
    """Prompt, digests and, for every model and whatever has been learnt, the count of every prefix."""
    prompt, turns = session
    rolling = Rolling.of(prompt)
    learnt = {"ratio": ratio, "error": 0.1, "observation_count": 3}
    estimator = TokenEstimator({"claude-4.7": learnt, "gemini": learnt})
    for answer, turn, parameters in turns:
        rolling = rolling.extend(rolling.prompt.continued([*answer, *turn], parameters))
    aged = [
        Block(Layer.HISTORY, b.kind, b.content, b.role, b.markable, b.token_count)
        if b.layer is Layer.TURN
        and position < len(rolling.prompt.blocks) - len(turns[-1][1] if turns else prompt.blocks)
        else b
        for position, b in enumerate(
            [*prompt.blocks, *[block for answer, turn, _ in turns for block in (*answer, *turn)]]
        )
    ]
    whole = Prompt(tuple(aged), turns[-1][2] if turns else prompt.parameters)
    assert rolling.prompt == whole
    for name in ("ends", "has_image", "recurring_end", "stable_end"):
        assert getattr(rolling.prompt, name) == getattr(whole, name)
    assert rolling.digests == prefix_digests(whole)
    opening = [block for block in whole.blocks if block.layer <= Layer.SYSTEM]
    for model in MODELS:
        if known and opening:
            estimator.know(opening, model, range(100, 100 + len(opening)))
        counts = estimator.counts(rolling.sums, model, estimator.counted(whole, model))
        expected = estimator.cumulative_tokens(whole, model)
        assert tuple(counts) == expected
        assert counts[-1] == expected[-1]
        assert counts[1:] == expected[1:]
        assert len(counts) == len(expected)


def test_counts_follow_what_is_learnt_without_a_pass_over_the_blocks():
    """The same sums under another factor: what was counted before is as it was, what is counted now is corrected."""
    prompt = Prompt((Block(Layer.TURN, BlockKind.TEXT, b"x" * 8_000, "user"),))
    sums, estimator = TokenSums().extended(prompt.blocks), TokenEstimator()
    before = estimator.counts(sums, MODELS[0])
    first = before[0]
    estimator.observe(MODELS[0], first, 2 * first)
    after = estimator.counts(sums, MODELS[0])
    assert before[0] == first < after[0]
    assert tuple(after) == estimator.cumulative_tokens(prompt, MODELS[0])


positions = st.sets(st.integers(0, 29), max_size=12)


@given(positions, positions, st.data())
def test_sparse_beliefs_are_the_beliefs(believed, looked_at, data):
    """Where nothing is left out, everything that is made of beliefs is the same."""
    index, digests = PrefixIndex(), [bytes([number]) * 16 for number in range(30)]
    table = index._table(SCOPE)
    for position in believed:
        tokens = 100 * position + data.draw(st.integers(0, 150))
        expires = data.draw(st.sampled_from([50.0, 300.0]))
        index._put(table, digests[position], Belief(tokens, data.draw(st.booleans()), 300, expires, 0.0, 0.9))
    whole = index.belief(SCOPE, digests)
    sparse = index.belief_at(SCOPE, digests, sorted(believed | looked_at))
    assert tuple(sparse) == whole
    assert list(known_beliefs(sparse)) == list(known_beliefs(whole))
    assert (sparse[-1], sparse[3:9]) == (whole[-1], whole[3:9])
    estimates = [100 * number for number in range(30)]
    found, expected = TokenCounts(estimates, sparse), TokenCounts(estimates, whole)
    assert [found.at(number) for number in range(30)] == [expected.at(number) for number in range(30)]
    assert warm_entries(found, 100.0) == warm_entries(expected, 100.0)


def test_beliefs_are_looked_up_where_an_entry_can_be():
    """The stable layers, where the session marked before, and what is new; a scope's marks are its own."""
    opening = [Block(Layer.SYSTEM, BlockKind.TEXT, b"s"), Block(Layer.TURN, BlockKind.TEXT, b"q", "user")]
    rolling = Rolling.of(Prompt(tuple(opening)))
    assert rolling.positions(SCOPE) == [0, 1]
    for number in range(10):
        rolling = rolling.extend(
            rolling.prompt.continued(
                [
                    Block(Layer.HISTORY, BlockKind.TEXT, b"a%d" % number, "assistant"),
                    Block(Layer.TURN, BlockKind.TEXT, b"q%d" % number, "user"),
                ],
                PromptParameters(),
            )
        )
    assert rolling.positions(SCOPE) == [0, 20, 21]
    rolling.marks.note(SCOPE, [5, 3, 21])
    rolling.marks.note(SCOPE, [-1, 5])
    assert rolling.positions(SCOPE) == [0, 3, 5, 20, 21]
    assert rolling.positions(CacheScope("gemini", "w", MODELS[2])) == [0, 20, 21]


def test_marks_are_thinned_to_what_may_be_read_and_both_ends():
    """However long a session lasts, it looks at what can still be warm and at a few others."""
    marks = Marks()
    marks.note(SCOPE, range(100))
    living = {
        position: Belief(10, True, 300, 200.0 if 50 <= position < 53 else 90.0, 0.0, 0.9)
        for position in range(100)
        if position % 2 == 0 or position == 51
    }
    marks.thin(SCOPE, SparseBeliefs(living, 100), 100.0)
    assert marks.of(SCOPE) == [0, 1, 2, 3, 50, 51, 52, 96, 97, 98, 99]
    marks.note(SCOPE, [7])
    assert marks.of(SCOPE) == [0, 1, 2, 3, 7, 50, 51, 52, 96, 97, 98, 99]


def text(layer, content=b"x"):
    return Block(layer, BlockKind.TEXT, content, "user")


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [text(Layer.TURN)],
        [text(Layer.HISTORY)],
        [text(Layer.TURN), text(Layer.HISTORY)],
        [text(Layer.CONTEXT), text(Layer.TURN)],
    ],
)
def test_a_prompt_goes_on_with_an_answer_and_a_turn(blocks):
    """Anything else is another prompt, and says so."""
    with pytest.raises(ValueError, match="goes on with an answer"):
        Prompt((text(Layer.TURN),)).continued(blocks, PromptParameters())


def test_a_moving_context_does_not_go_on():
    """What stood with the last turn is gone from there."""
    prompt = Prompt((text(Layer.TURN), text(Layer.TURN, b"context")), PromptParameters(), 1, 1)
    with pytest.raises(ValueError, match="does not continue"):
        prompt.continued([text(Layer.HISTORY), text(Layer.TURN)], PromptParameters())


def test_another_prompt_is_no_continuation():
    """Digests are taken over only from the prompt that they name."""
    rolling = Rolling.of(Prompt((text(Layer.TURN),)))
    other = Prompt((text(Layer.HISTORY, b"y"), text(Layer.HISTORY), text(Layer.TURN)))
    with pytest.raises(ValueError, match="does not continue"):
        rolling.extend(other)
