"""The tokenizer: additive where streams are cut, different by family."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sandbox.tokens import Family, chunks, common_tokens, count, truncate

PROSE = (
    "Consequences the service relies on are written in the documentation, which the customers of the organisation "
    "are expected to understand without further explanation. The decision is a value that can be printed and tested."
)
texts = st.text(alphabet='abcxyz09_ \n.,{}":é漢', max_size=80)
families = st.sampled_from(list(Family))


@given(families, texts, st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_stream_chunks_sum_to_the_whole(family, text, sizes):
    """Cut at white space, the chunks concatenate to the text and their counts add up to its count."""
    pieces = chunks(text, tuple(sizes))
    assert "".join(pieces) == text
    assert sum(count(family, p) for p in pieces) == count(family, text)


@given(families, texts, texts)
def test_white_space_joins_additively(family, left, right):
    """a, newline, b costs a plus b."""
    assert count(family, f"{left}\n{right}") == count(family, left) + count(family, right)


@given(families, texts, st.integers(0, 60))
def test_truncate_gives_exactly_the_budget_or_all(family, text, budget):
    """A cut text has as many tokens as asked for, unless there were fewer."""
    cut = truncate(family, text, budget)
    assert text.startswith(cut)
    assert count(family, cut) == min(budget, count(family, text))


@given(families, texts, texts, texts)
def test_common_tokens_is_symmetric_and_counts_the_shared_lead(family, lead, left, right):
    """Both orders agree; the lead counts unless a word runs across its end; never more than either text."""
    a, b = f"{lead} {left}", f"{lead} {right}"
    shared = common_tokens(family, a, b)
    assert shared == common_tokens(family, b, a)
    assert count(family, lead) <= shared <= min(count(family, a), count(family, b))


@given(families, texts)
def test_a_text_shares_all_with_itself(family, text):
    """Identity is full overlap."""
    assert common_tokens(family, text, text) == count(family, text)


@pytest.mark.parametrize("family", list(Family))
def test_a_full_stop_is_one_token(family):
    """Every family counts "." as one and nothing as zero."""
    assert (count(family, "."), count(family, ""), count(family, " \n")) == (1, 0, 0)


def test_new_claude_family_counts_about_thirty_percent_more():
    """Models from 4.7 on make roughly 30 % more tokens of the same text (A-PRICE, 2026-11)."""
    ratio = count(Family.CLAUDE_NEW, PROSE) / count(Family.CLAUDE_OLD, PROSE)
    assert 1.2 < ratio < 1.4


def test_english_is_near_four_characters_per_token():
    """The stand-in is of the right size."""
    assert 3.0 < len(PROSE) / count(Family.CLAUDE_NEW, PROSE) < 5.0
