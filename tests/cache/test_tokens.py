"""Token estimates: exact where counted, plausible before usage, right after it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.prompt import Block, BlockKind, Layer, Prompt
from cache.rules import UnknownModel
from cache.tokens import TokenEstimator

OLD, NEW, GEMINI = "claude-opus-4-5", "claude-opus-5-5", "gemini-3.8-flash"
ENGLISH = b"The quick brown fox jumps over the lazy dog while the rain falls on the old town. " * 50

turn_blocks = st.builds(
    Block,
    layer=st.just(Layer.TURN),
    kind=st.sampled_from([kind for kind in BlockKind if kind is not BlockKind.TOOL]),
    content=st.binary(max_size=300),
    token_count=st.none() | st.integers(0, 500),
)


def text(content=ENGLISH, tokens=None):
    return Prompt((Block(Layer.TURN, BlockKind.TEXT, content, "user", True, tokens),))


@given(st.lists(turn_blocks, max_size=30), st.sampled_from([OLD, NEW, GEMINI]))
def test_a_longer_prefix_has_no_fewer_tokens(blocks, model):
    """Cumulative counts never decrease, one per block."""
    counts = TokenEstimator().cumulative_tokens(Prompt(tuple(blocks)), model)
    assert len(counts) == len(blocks)
    assert list(counts) == sorted(counts)
    assert all(count >= 0 for count in counts)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=10))
def test_counted_blocks_are_not_estimated(tokens):
    """Where every block carries its count, the sums are exact on every model, tools included."""
    blocks = tuple(Block(Layer.TOOLS, BlockKind.TOOL, b"x" * 50, token_count=count) for count in tokens)
    expected = tuple(sum(tokens[: i + 1]) for i in range(len(tokens)))
    for model in (OLD, NEW, GEMINI):
        assert TokenEstimator().cumulative_tokens(Prompt(blocks), model) == expected


def test_the_newer_tokenizer_counts_thirty_percent_more():
    """The same text, two families."""
    estimator = TokenEstimator()
    (old,), (new,) = (estimator.cumulative_tokens(text(), model) for model in (OLD, NEW))
    assert new / old == pytest.approx(1.3, abs=0.01)


def test_tools_bring_the_providers_own_instructions_once():
    """Overhead is added at the first estimated tool, so that a tools mark counts it."""
    tools = tuple(Block(Layer.TOOLS, BlockKind.TOOL, b"{}") for _ in range(3))
    one, _, three = TokenEstimator().cumulative_tokens(Prompt(tools), "claude-opus-5")
    assert 286 <= one <= 290
    assert three - one <= 4


def test_usage_corrects_its_own_family_only():
    """Twenty calls that billed 40 % more bring the estimate there, and leave the other family alone."""
    estimator = TokenEstimator()
    (before_old,) = estimator.cumulative_tokens(text(), OLD)
    (first,) = estimator.cumulative_tokens(text(), NEW)
    actual = int(first * 1.4)
    for _ in range(40):
        (estimate,) = estimator.cumulative_tokens(text(), NEW)
        estimator.observe(NEW, estimate, actual)
    (after,) = estimator.cumulative_tokens(text(), NEW)
    assert after == pytest.approx(actual, rel=0.02)
    assert estimator.cumulative_tokens(text(), OLD) == (before_old,)
    assert estimator.uncertainty(NEW) < estimator.uncertainty(OLD)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**7)), max_size=60))
def test_no_run_of_odd_usage_leads_the_estimate_astray(observations):
    """The ratio is bounded: whatever was billed, an estimate stays within 2.5 times of the prior."""
    estimator = TokenEstimator()
    (prior,) = estimator.cumulative_tokens(text(), NEW)
    for estimated, actual in observations:
        estimator.observe(NEW, estimated, actual)
    (after,) = estimator.cumulative_tokens(text(), NEW)
    assert 0.39 * prior <= after <= 2.51 * prior


def test_what_was_learnt_survives_a_restart():
    """A snapshot is plain data and gives the same estimates."""
    estimator = TokenEstimator()
    estimator.observe(NEW, 1000, 1500)
    restored = TokenEstimator(estimator.snapshot())
    assert restored.cumulative_tokens(text(), NEW) == estimator.cumulative_tokens(text(), NEW)
    assert restored.snapshot() == estimator.snapshot()


def test_a_pdf_is_counted_by_pages_and_an_image_not_by_bytes():
    """Base64 is not prose: a megabyte of PDF is some twenty pages, an image some 1,500 tokens."""
    pdf = Block(
        Layer.TURN, BlockKind.DOCUMENT, b'{"media_type":"application/pdf","data":"' + b"A" * 1_060_000
    )
    image = Block(Layer.TURN, BlockKind.IMAGE, b"A" * 1_000_000)
    first, both = TokenEstimator().cumulative_tokens(Prompt((pdf, image)), OLD)
    assert 20_000 < first < 100_000
    assert both - first == 1500


def test_a_model_outside_the_catalogue_has_no_tokenizer():
    """Unknown is an error, not a default family."""
    with pytest.raises(UnknownModel):
        TokenEstimator().cumulative_tokens(text(), "claude-opus-99")


def test_a_medium_in_a_tool_result_is_not_counted_by_its_base64():
    """An image or a PDF that a tool returned weighs what it weighs elsewhere, however long its bytes are."""
    spelled = (
        b'{"type":"tool_result","tool_use_id":"c","content":[{"type":"%b",'
        b'"source":{"type":"base64","media_type":"%b","data":"%b"}}]}'
    )
    for kind, media_type, plain in (
        (b"image", b"image/png", BlockKind.IMAGE),
        (b"document", b"application/pdf", BlockKind.DOCUMENT),
    ):
        data = b"A" * 400_000
        content = spelled % (kind, media_type, data)
        source = b'{"type":"%b","source":{"type":"base64","media_type":"%b","data":"%b"}}' % (
            kind,
            media_type,
            data,
        )
        result = Prompt((Block(Layer.TURN, BlockKind.TOOL_RESULT, content, "user"),))
        alone = Prompt((Block(Layer.TURN, plain, source, "user"),))
        for model in (OLD, NEW, GEMINI):
            (inside,), (outside,) = (
                TokenEstimator().cumulative_tokens(prompt, model) for prompt in (result, alone)
            )
            assert inside == pytest.approx(outside, abs=100)
