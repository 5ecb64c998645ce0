"""Prefix digests: the same name exactly for the same rendered prefix under the same parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.prefix import DIGEST_SIZE, extend_digests, prefix_digests, shared_prefix
from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters

CONTENTS = st.sampled_from([b"", b"a", b"b", b"ab", b"ba", b"\xff", b"user"])
MESSAGE_KINDS = st.sampled_from([BlockKind.TEXT, BlockKind.IMAGE, BlockKind.TOOL_CALL, BlockKind.TOOL_RESULT])


def blocks_of(layer, kinds, roles):
    built = st.builds(Block, layer=st.just(layer), kind=kinds, content=CONTENTS, role=roles)
    return st.lists(built, max_size=3)


@st.composite
def prompts(draw):
    no_role = st.just("")
    roles = st.sampled_from(["user", "assistant"])
    blocks = draw(blocks_of(Layer.TOOLS, st.just(BlockKind.TOOL), no_role))
    blocks += draw(blocks_of(Layer.SYSTEM, st.just(BlockKind.TEXT), no_role))
    for layer in (Layer.CONTEXT, Layer.HISTORY, Layer.TURN):
        blocks += draw(blocks_of(layer, MESSAGE_KINDS, roles))
    values = st.sampled_from(["", "x", "y"])
    return Prompt(tuple(blocks), PromptParameters(draw(values), draw(values), draw(values)))


def rendering(prompt, position):
    """What the provider hashes up to `position`: content and the parameters that reach it."""
    level = {Layer.TOOLS: 0, Layer.SYSTEM: 1}
    parameters = prompt.parameters
    reached = level.get(prompt.blocks[position].layer, 2)
    return (
        parameters.everywhere,
        parameters.system if reached >= 1 else None,
        (parameters.messages, prompt.has_image) if reached >= 2 else None,
        tuple((level.get(b.layer, 2), b.role, b.kind, b.content) for b in prompt.blocks[: position + 1]),
    )


@given(prompts(), prompts())
def test_digests_are_equal_exactly_when_renderings_are(left, right):
    """For every pair of prefixes of every pair of prompts."""
    named = {}
    for prompt in (left, right):
        for position, digest in enumerate(prefix_digests(prompt)):
            assert named.setdefault(digest, rendering(prompt, position)) == rendering(prompt, position)
    renderings = [rendering(prompt, i) for prompt in (left, right) for i in range(len(prompt.blocks))]
    assert len(named) == len(set(renderings))


@given(prompts(), prompts(), st.integers(0, 12))
def test_extending_a_chain_equals_hashing_anew(previous, other, keep):
    """Whatever the previous prompt was, and however much of it stays."""
    blocks = (*previous.blocks[:keep], *other.blocks)
    layers = [block.layer for block in blocks]
    mixed = Prompt(blocks, other.parameters) if layers == sorted(layers) else other
    for prompt in (other, mixed, Prompt(previous.blocks, other.parameters)):
        assert extend_digests(prompt, previous, prefix_digests(previous)) == prefix_digests(prompt)


def test_a_turn_matches_as_history_in_the_next_request():
    """Layers past system do not enter: what was the turn is read as history."""
    turn = Block(Layer.TURN, BlockKind.TEXT, b"question", "user")
    answer = Block(Layer.HISTORY, BlockKind.TEXT, b"answer", "assistant")
    first = prefix_digests(Prompt((turn,)))
    second = prefix_digests(
        Prompt((turn._replace(layer=Layer.HISTORY), answer, turn._replace(content=b"more")))
    )
    assert second[0] == first[0]


@pytest.mark.parametrize(
    ("changed", "kept"),
    [("everywhere", 0), ("system", 1), ("messages", 2)],
)
def test_a_parameter_ends_reuse_at_its_own_level(changed, kept):
    """Output format kills all, speed the system level, tool choice the messages only."""
    blocks = (
        Block(Layer.TOOLS, BlockKind.TOOL, b"tools"),
        Block(Layer.SYSTEM, BlockKind.TEXT, b"system"),
        Block(Layer.TURN, BlockKind.TEXT, b"turn", "user"),
    )
    before = prefix_digests(Prompt(blocks))
    after = prefix_digests(Prompt(blocks, PromptParameters(**{changed: "other"})))
    assert shared_prefix(before, after) == kept


def test_an_image_anywhere_ends_reuse_of_the_messages_only():
    """Adding an image changes every message prefix, not tools and system."""
    blocks = (
        Block(Layer.SYSTEM, BlockKind.TEXT, b"system"),
        Block(Layer.HISTORY, BlockKind.TEXT, b"old", "user"),
        Block(Layer.TURN, BlockKind.TEXT, b"new", "user"),
    )
    with_image = (*blocks, Block(Layer.TURN, BlockKind.IMAGE, b"png", "user"))
    assert shared_prefix(prefix_digests(Prompt(blocks)), prefix_digests(Prompt(with_image))) == 1


def test_digests_are_sixteen_bytes_and_stable():
    """A digest is a name other processes use too, so its value is part of the contract."""
    prompt = Prompt((Block(Layer.SYSTEM, BlockKind.TEXT, b"You help."),), PromptParameters(system="fast"))
    (digest,) = prefix_digests(prompt)
    assert len(digest) == DIGEST_SIZE
    assert digest.hex() == "88af870a2b5980d982257b44c0efced1"


def test_layers_out_of_order_are_refused():
    """A prompt whose tools follow its system can not be rendered, so it can not exist."""
    with pytest.raises(ValueError, match="layers must run"):
        Prompt((Block(Layer.SYSTEM, BlockKind.TEXT, b"s"), Block(Layer.TOOLS, BlockKind.TOOL, b"t")))
