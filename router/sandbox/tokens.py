"""Token counts: a deterministic stand-in for the providers' tokenizers.

Rule: a text is cut into pieces and each piece is one token. A piece is a run of at most `piece` ASCII word
characters (letters, digits, underscore), or any other single character that is not white space. White space
costs nothing. Consequences the sandbox relies on:

- additive: count(a + b) == count(a) + count(b) unless the border lies between two ASCII word characters, so
  the chunks of a stream (cut at white space) sum to the count of the whole text;
- "a\\nb" counts as a plus b, and "." is exactly one token, in every family;
- a shorter `piece` makes more tokens of the same text: models from 4.7 on produce roughly 30 % more
  than 4.6 and older (platform.claude.com/docs/en/about-claude/pricing, 2026-11).

It does not know the real vocabularies: English lands near four characters per token, nothing finer is
claimed.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache

_CACHED_CHARS = 256
"""Texts at least this long are counted once and remembered; shorter ones cost less than a look-up."""


class Family(enum.Enum):
    """A tokenizer; the value is the longest run of word characters that is one token."""

    CLAUDE_OLD = 7  # 4.6 and older
    CLAUDE_NEW = 4  # 4.7 and newer
    GEMINI = 6


_PIECES = {f: re.compile(rf"[A-Za-z0-9_]{{1,{f.value}}}|[^\sA-Za-z0-9_]") for f in Family}
_WORD = re.compile(r"[A-Za-z0-9_]")
_UNITS = re.compile(r"\s*\S+")


def count(family: Family, text: str) -> int:
    """Count the tokens of `text`; zero for an empty or blank text."""
    return _count_long(family, text) if len(text) >= _CACHED_CHARS else len(_PIECES[family].findall(text))


@lru_cache(maxsize=1024)
def _count_long(family: Family, text: str) -> int:
    return len(_PIECES[family].findall(text))


def truncate(family: Family, text: str, tokens: int) -> str:
    """Return the longest prefix of `text` that has at most `tokens` tokens and ends with a piece."""
    if tokens <= 0:
        return ""
    end = 0
    for number, piece in enumerate(_PIECES[family].finditer(text), start=1):
        end = piece.end()
        if number == tokens:
            return text[:end]
    return text


def chunks(text: str, sizes: tuple[int, ...]) -> list[str]:
    """Cut `text` at white space into chunks of `sizes` words (used in turn); their concatenation is
    `text`."""
    units = _UNITS.findall(text)
    if not units:
        return [text] if text else []
    out: list[str] = []
    start = turn = 0
    while start < len(units):
        size = sizes[turn % len(sizes)]
        out.append("".join(units[start : start + size]))
        start, turn = start + size, turn + 1
    tail = text[sum(map(len, out)) :]
    out[-1] += tail
    return out


def common_tokens(family: Family, left: str, right: str) -> int:
    """Count the leading tokens two texts share."""
    end = _common_chars(left, right)
    if end == 0 or (end == len(left) == len(right)):
        return count(family, left[:end])
    continues = any(len(t) > end and _WORD.match(t[end]) for t in (left, right))
    if continues and _WORD.match(left[end - 1]):
        start = end
        while start > 0 and _WORD.match(left[start - 1]):
            start -= 1
        end = start + (end - start) // family.value * family.value
    if end > len(left) // 2:  # the whole is often counted already, and the rest is short
        return count(family, left) - count(family, left[end:])
    return count(family, left[:end])


def _common_chars(left: str, right: str) -> int:
    """Length of the longest common prefix, by bisection on slices (compared at memory speed)."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
