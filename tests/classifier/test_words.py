"""Words: one definition by regular expression, one quick reading that finds exactly the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier import lexicon
from classifier.words import encoded_words, list_items, read, words
from tests.classifier.samples import any_text, request_text

# Whatever the quick reading treats apart: separators, digits and letters in and outside ASCII, letters that change
# their length or their script when lower-cased, scripts without spaces, a lone surrogate.
tricky_text = st.text(
    st.sampled_from(
        "aZ09 \n\t\x1c\x85\xa0\u2003\u3000.!?-*•_{;=\\$^`'\u2019\u2014…√≤²٣KİßÉжЯ東の？؟👍\u0301\ud800"
    ),
    max_size=60,
) | st.lists(
    st.sampled_from(["один", "два,", "три.", "four-five!", "6", "é…", "“seven”", "東京"]), max_size=30
).map(" ".join)
texts = any_text | request_text | tricky_text


@given(any_text)
def test_words_are_lower_case_and_hold_no_space(text: str) -> None:
    """Tokens are what training and serving hash: never empty, never with white space, UTF-8 encodable."""
    for word in words(text):
        assert word
        assert word == word.lower() or word.lower() not in text
        assert not any(character.isspace() for character in word)
        word.encode()


@given(st.text(st.characters(max_codepoint=127), max_size=100))
def test_ascii_reads_the_same_beside_other_scripts(text: str) -> None:
    """The quick pattern for ASCII agrees with the general one."""
    assert words(text + " é")[:-1] == words(text)


def test_unspaced_scripts_are_read_by_character() -> None:
    """Chinese and Japanese have no spaces, so each character is a word; Korean has them."""
    assert words("东京 weather") == ["东", "京", "weather"]
    assert words("내일 아침") == ["내일", "아침"]


@given(texts)
def test_reading_finds_the_words(text: str) -> None:
    """Tables and splits over bytes find what the regular expressions find, in any script."""
    expected = words(text)
    reading = read(text)
    assert [word.decode() for word in reading.words] == expected
    assert encoded_words(text) == reading.words
    assert reading.word_characters == sum(map(len, expected))
    assert reading.digit_words == sum(map(str.isdigit, expected))


@given(texts)
def test_reading_counts_the_marks(text: str) -> None:
    """Every count of a reading is the plain count in the text."""
    reading = read(text)
    assert reading.sentences == len(re.findall(r"[.!?](?:\s|$)", text))
    assert reading.foreign_characters == sum(not character.isascii() for character in text)
    assert reading.code_marks == sum(map(text.count, "{};=<>_"))
    assert reading.maths_marks == sum(map(text.count, "\\$^∑∫√≤≥"))
    assert reading.questions == text.count("?")
    assert reading.line_feeds == text.count("\n")


@given(
    st.lists(st.sampled_from(["\n", "-", "* ", "• ", "12. ", "3)", " ", "\t", "x", "٣. "]), max_size=30).map(
        "".join
    )
)
def test_list_items_open_their_line(text: str) -> None:
    """An item is a bullet or a number of one or two digits at the start of a line, before a blank."""
    assert list_items(text) == len(re.findall(r"(?m)^[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]", text))


@pytest.mark.parametrize(
    "text",
    [
        " ".join(chr(0x4E00 + offset) for offset in range(200)),
        "\u2014".join(chr(0x0430 + offset % 32) * 3 for offset in range(60)),
        " ".join(f"w{chr(0x2010 + offset)}3. x" for offset in range(40)),
    ],
)
def test_many_kinds_of_foreign_characters_read_the_same(text: str) -> None:
    """Beyond the limits of replacing one by one, the regular expressions read the text."""
    reading = read(text)
    assert [word.decode() for word in reading.words] == words(text)
    assert reading.sentences == len(re.findall(r"[.!?](?:\s|$)", text))


@given(st.sets(st.sampled_from([*sorted(frozenset[str]().union(*lexicon.COUNTED)), "zebra", "qua"])))
def test_lexicon_counts_every_list_at_once(distinct: set[str]) -> None:
    """The packed counts are the sizes of the intersections, for words that stand in several lists too."""
    counted = lexicon.counts({word.encode() for word in distinct})
    assert list(counted) == [len(distinct & listed) for listed in lexicon.COUNTED]


def test_no_list_outgrows_its_byte() -> None:
    """A list of 256 words could carry into its neighbour's count."""
    assert max(map(len, lexicon.COUNTED)) < 256
    everything = {word.encode() for listed in lexicon.COUNTED for word in listed}
    assert list(lexicon.counts(everything)) == [len(listed) for listed in lexicon.COUNTED]
