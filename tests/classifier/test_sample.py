"""Samples: bounded, checked, and the same after a row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.sample import (
    COUNT_LIMIT,
    PREVIOUS_TEXT_CHARACTERS,
    SAMPLE_VERSION,
    TEXT_CHARACTERS,
    TEXT_HEAD_CHARACTERS,
    Sample,
    head_and_tail,
)
from tests.classifier.samples import samples


@given(samples())
def test_row_reads_back_equal(sample: Sample) -> None:
    """A sample survives its JSON row."""
    assert Sample.from_row(json.loads(json.dumps(sample.to_row()))) == sample


@given(st.text(max_size=200), st.integers(20, 100))
def test_head_and_tail_keeps_the_limit_and_both_ends(text: str, limit: int) -> None:
    """A cut text has exactly the limit, starts as the text starts and ends as it ends."""
    cut = head_and_tail(text, limit, limit // 2)
    assert len(cut) == min(len(text), limit)
    assert cut[: limit // 2] == text[: limit // 2]
    assert not text or cut[-1] == text[-1]


def test_long_texts_are_cut_to_the_cap() -> None:
    """Whatever the caller sends, a sample holds at most the documented characters."""
    sample = Sample.bounded(
        text="a" * TEXT_HEAD_CHARACTERS + "b" * 90_000 + "END", previous_user_text="c" * 9_000
    )
    assert len(sample.text) == TEXT_CHARACTERS
    assert sample.text.endswith("END")
    assert len(sample.previous_user_text) == PREVIOUS_TEXT_CHARACTERS


def test_counts_are_bounded() -> None:
    """A count beyond the limit is the limit."""
    assert Sample.bounded(text="x", history_characters=10**15).history_characters == COUNT_LIMIT


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"effort": "extreme"}, "effort"),
        ({"previous_route": "sonnet"}, "previous_route"),
        ({"turn_index": -1}, "turn_index"),
        ({"max_output_tokens": -5}, "max_output_tokens"),
    ],
)
def test_meaningless_values_are_refused_by_name(fields: dict[str, object], named: str) -> None:
    """A value that means nothing is an error that names its field."""
    with pytest.raises(ValueError, match=named):
        Sample.bounded(text="x", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"text": "x", "sample_version": SAMPLE_VERSION + 1}, "sample_version"),
        ({"text": "x", "tool_looop": True}, "tool_looop"),
        ({"text": 3}, "text must be str"),
        ({"text": "x", "turn_index": True}, "turn_index"),
        ({"text": "x", "tool_loop": 1}, "tool_loop"),
        ({"text": "x", "history": []}, "history must be dict"),
        ({"text": "x", "history": {"last_word": "hm"}}, "last_word"),
        ({"text": "x", "history": {"opus_turns": True}}, "opus_turns"),
        ({"text": "x", "history": {"recent_routes": "fox"}}, "recent_routes"),
        ({"text": "x", "history": {"last_verdict": "meh"}}, "last_verdict"),
        ({}, "text is missing"),
    ],
)
def test_foreign_rows_are_refused(row: dict[str, object], named: str) -> None:
    """A row of another version, shape or type is refused rather than misread."""
    with pytest.raises(ValueError, match=named):
        Sample.from_row(row)


def test_a_row_of_the_version_without_history_is_read_as_one_nobody_remembers() -> None:
    """Labels written before stay usable."""
    row = {"text": "x", "sample_version": 1, "turn_index": 3}
    assert Sample.from_row(row) == Sample.bounded(text="x", turn_index=3)
