"""Sample -> features: hashed words and named structure, computed once, the same way in training and in
serving.

Theory of operation. A request's difficulty is partly what it says (words) and partly what it is (a command, a
tool result, a follow-up, an analysis). Words are lower-cased runs of letters and digits (one character each
in Chinese and Japanese scripts), hashed with CRC-32; single words and pairs of neighbours fall into
`NGRAM_BUCKETS` buckets and count once each. Names (application, action) are hashed into a block of their own,
so that a name nobody trained on weighs nothing and does not thin out the words. Structure is a fixed row of
named numbers (`STRUCTURE_NAMES`), each bounded by a logarithm or a cap.

`Features` hold no text. The buckets are nevertheless derived from the caller's words, and a dictionary attack
can guess at common ones: treat stored features as the caller's data, just less of it.

It does not know weights, labels or scikit-learn: `pipeline` turns features into arrays, `model` into a score.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import islice
from math import log1p
from typing import Any, Final
from zlib import crc32

from classifier import lexicon
from classifier.followup import is_bare_follow_up
from classifier.sample import EFFORTS, Sample

FEATURE_VERSION: Final = 1
"""Version of everything below: tokens, hashes, buckets, names and their formulas. An artifact names the one
it fits."""

NGRAM_BUCKETS: Final = 1 << 16
"""Buckets of words and word pairs: a few thousand labels hold some 10^4-10^5 distinct ones."""

NAME_BUCKETS: Final = 1 << 10
"""Buckets of application and action names."""

_NGRAM_MASK: Final = NGRAM_BUCKETS - 1
_NAME_MASK: Final = NAME_BUCKETS - 1
_PAIR_SALT: Final = (
    0x5BD1E995  # a pair's hash continues its first word's: without a salt "in side" = "inside"
)
_OPENING: Final = crc32(b"\x02")  # hash before the first word: "prove ..." and "... prove" open differently

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
# Scripts written without spaces are read by character; everything else by runs of letters and digits.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD: Final = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")

_LIST_ITEM: Final = re.compile(r"^[ \t]*(?:[-*\u2022]|\d{1,2}[.)])[ \t]", re.MULTILINE)
_SENTENCE_END: Final = re.compile(r"[.!?](?:\s|$)")

STRUCTURE_NAMES: Final = (
    "text_characters_log", "words_log", "lines_log", "word_characters_mean", "sentences_log",
    "distinct_word_share", "digit_word_share", "non_ascii_share", "is_empty",
    "code_fence", "code_punctuation_share", "code_words", "maths_words", "maths_marks", "expert_words",
    "list_items_log", "question_marks", "ends_with_question",
    "opens_with_command", "opens_with_lookup", "opens_with_analysis", "opens_with_light_writing",
    "opens_with_continuer", "analysis_words", "command_words", "light_writing_words", "reason_words",
    "constraint_words", "long_form_words", "small_talk_words", "self_words", "is_short", "is_bare_follow_up",
    "short_without_analysis", "short_self",
    "tools_offered", "tools_offered_log", "tool_results_log", "tool_loop", "tools_and_short",
    "has_image", "has_document", "effort_known", "effort_level", "max_output_known", "max_output_log",
    "output_schema", "system_characters_log", "history_characters_log", "turn_index_log",
    "previous_flash", "previous_opus", "previous_text_log", "previous_analysis_words",
    "previous_reason_words",
)  # fmt: skip
"""Column names of the structure block, in order."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the model sees of one sample; holds no text.

    Attributes:
        ngrams: Distinct buckets in [0, `NGRAM_BUCKETS`) of words and word pairs; each present once.
        names: Distinct buckets in [0, `NAME_BUCKETS`) of the application and action names.
        structure: One finite number per `STRUCTURE_NAMES`.
    """

    ngrams: Set[int]
    names: tuple[int, ...]
    structure: tuple[float, ...]

    def to_row(self) -> dict[str, Any]:
        """A JSON-ready row for a ledger: `feature_version`, sorted buckets, structure."""
        return {
            "feature_version": FEATURE_VERSION,
            "ngrams": sorted(self.ngrams),
            "names": sorted(self.names),
            "structure": list(self.structure),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Features:
        """Read a row of `to_row`.

        Raises:
            ValueError: Another feature version, a bucket out of range, or a structure of another length.
        """
        version = row.get("feature_version")
        if version != FEATURE_VERSION:
            raise ValueError(f"feature_version {version!r} is not the supported {FEATURE_VERSION}")
        ngrams, names, structure = frozenset(row["ngrams"]), tuple(row["names"]), tuple(row["structure"])
        if any(not 0 <= bucket < NGRAM_BUCKETS for bucket in ngrams):
            raise ValueError(f"ngrams holds a bucket outside [0, {NGRAM_BUCKETS})")
        if any(not 0 <= bucket < NAME_BUCKETS for bucket in names):
            raise ValueError(f"names holds a bucket outside [0, {NAME_BUCKETS})")
        if len(structure) != len(STRUCTURE_NAMES):
            raise ValueError(f"structure has {len(structure)} numbers, not {len(STRUCTURE_NAMES)}")
        return cls(ngrams=ngrams, names=names, structure=structure)


def words(text: str) -> list[str]:
    """Lower-cased words in order; the two patterns agree on ASCII text, where the first is faster."""
    lowered = text.lower()
    return (_ASCII_WORD if lowered.isascii() else _WORD).findall(lowered)


def extract(sample: Sample) -> Features:
    """Compute the features of one sample; a pure function of its fields."""
    tokens = words(sample.text)
    return Features(_ngrams(tokens), _names(sample), _structure(sample, tokens))


def ngram_surfaces(text: str) -> dict[int, list[str]]:
    """Bucket -> the words and pairs of `text` that fall into it; for explanation of the caller's own
    request only."""
    tokens = words(text)
    encoded = [token.encode() for token in tokens]
    hashes = [crc32(token) for token in encoded]
    found: dict[int, list[str]] = {}
    for token, value in zip(tokens, hashes, strict=True):
        found.setdefault(value & _NGRAM_MASK, []).append(token)
    firsts = [("^", _OPENING), *zip(tokens, hashes, strict=True)]
    for (first, start), second, token in zip(firsts, encoded, tokens, strict=False):
        found.setdefault((crc32(second, start) ^ _PAIR_SALT) & _NGRAM_MASK, []).append(f"{first} {token}")
    return {bucket: list(dict.fromkeys(surfaces)) for bucket, surfaces in found.items()}


def name_surfaces(sample: Sample) -> dict[int, list[str]]:
    """Bucket -> "application=..." or "action=..." for the names the sample carries."""
    found: dict[int, list[str]] = {}
    for kind, name in (("application", sample.application), ("action", sample.action)):
        if name is not None:
            found.setdefault(_name_bucket(kind, name), []).append(f"{kind}={name}")
    return found


def _ngrams(tokens: list[str]) -> set[int]:
    encoded = list(map(str.encode, tokens))
    hashes = list(map(crc32, encoded))
    buckets = {value & _NGRAM_MASK for value in hashes}
    # crc32(second, start) continues the first word's checksum: a pair's hash without a new string.
    hashes.insert(0, _OPENING)
    buckets.update([(value ^ _PAIR_SALT) & _NGRAM_MASK for value in map(crc32, encoded, hashes)])
    return buckets


def _names(sample: Sample) -> tuple[int, ...]:
    application, action = sample.application, sample.action
    if application is None and action is None:
        return ()
    return tuple(sorted(name_surfaces(sample)))


def _name_bucket(kind: str, name: str) -> int:
    return crc32(f"{kind}\x00{name}".encode("utf-8", "surrogatepass")) & _NAME_MASK


def _structure(sample: Sample, tokens: list[str]) -> tuple[float, ...]:
    """The numbers of `STRUCTURE_NAMES`, in order; every share in [0, 1], every count capped or
    logarithmic."""
    text = sample.text
    characters, count = len(text), len(tokens)
    distinct = set(tokens)
    opener = tokens[0] if tokens else ""
    analysis = len(distinct & lexicon.ANALYSIS)
    reasons = len(distinct & lexicon.REASON_WORDS)
    selves = len(distinct & lexicon.SELF)
    code_marks = sum(map(text.count, "{};=<>_"))
    maths_marks = sum(map(text.count, "\\$^∑∫√≤≥"))
    questions = text.count("?")
    stripped_end = text[-64:].rstrip()
    ascii_only = text.isascii()
    short = 0 < count <= 12
    tools = sample.tools_offered_count
    effort, limit = sample.effort, sample.max_output_tokens
    previous = _previous(sample.previous_user_text)
    multiline = "\n" in text
    return (
        log1p(characters),
        log1p(count),
        log1p(text.count("\n")) if multiline else 0.0,
        min(sum(map(len, tokens)) / count, 16.0) if count else 0.0,
        log1p(len(_SENTENCE_END.findall(text))),
        len(distinct) / count if count else 0.0,
        sum(map(str.isdigit, tokens)) / count if count else 0.0,
        0.0 if ascii_only else 1.0 - len(text.encode("ascii", "ignore")) / characters,
        0.0 if count else 1.0,
        1.0 if "```" in text else 0.0,
        min(code_marks / characters, 0.2) * 5.0 if code_marks else 0.0,
        _capped(len(distinct & lexicon.CODE)),
        _capped(len(distinct & lexicon.MATHS)),
        log1p(maths_marks),
        _capped(len(distinct & lexicon.EXPERT)),
        log1p(len(_LIST_ITEM.findall(text))),
        _capped(questions),
        1.0 if stripped_end.endswith(("?", "？", "؟")) else 0.0,
        1.0 if opener in lexicon.COMMANDS else 0.0,
        1.0 if opener in lexicon.LOOKUP_OPENERS else 0.0,
        1.0 if opener in lexicon.ANALYSIS else 0.0,
        1.0 if opener in lexicon.LIGHT_WRITING else 0.0,
        1.0 if opener in lexicon.CONTINUERS else 0.0,
        _capped(analysis),
        _capped(len(distinct & lexicon.COMMANDS)),
        _capped(len(distinct & lexicon.LIGHT_WRITING)),
        _capped(reasons),
        _capped(len(distinct & lexicon.CONSTRAINTS)),
        _capped(len(distinct & lexicon.LONG_FORM)),
        _capped(len(distinct & lexicon.SMALL_TALK)),
        _capped(selves),
        1.0 if short else 0.0,
        1.0 if is_bare_follow_up(text) else 0.0,
        1.0 if short and not analysis and not reasons else 0.0,
        1.0 if short and selves else 0.0,
        1.0 if tools else 0.0,
        log1p(tools),
        log1p(sample.tool_result_count),
        1.0 if sample.tool_loop else 0.0,
        1.0 if tools and count <= 25 else 0.0,
        1.0 if sample.has_image else 0.0,
        1.0 if sample.has_document else 0.0,
        0.0 if effort is None else 1.0,
        0.0 if effort is None else float(EFFORTS.index(effort) + 1),
        0.0 if limit is None else 1.0,
        0.0 if limit is None else log1p(limit),
        1.0 if sample.output_schema else 0.0,
        log1p(sample.system_characters),
        log1p(sample.history_characters),
        log1p(sample.turn_index),
        1.0 if sample.previous_route == "flash" else 0.0,
        1.0 if sample.previous_route == "opus" else 0.0,
        *previous,
    )


def _previous(text: str) -> tuple[float, float, float]:
    """Coarse features of the previous user text: log length, analysis words, reason words."""
    if not text:
        return 0.0, 0.0, 0.0
    distinct = set(words(text))
    return (
        log1p(len(text)),
        _capped(len(distinct & lexicon.ANALYSIS)),
        _capped(len(distinct & lexicon.REASON_WORDS)),
    )


def _capped(count: int) -> float:
    """A count as evidence: the fifth of a kind adds nothing."""
    return float(count) if count < 4 else 4.0


def top(items: Mapping[int, float], limit: int) -> list[tuple[int, float]]:
    """The `limit` items largest in magnitude, largest first; ties by key, so that output is stable."""
    return list(islice(sorted(items.items(), key=lambda item: (-abs(item[1]), item[0])), limit))
