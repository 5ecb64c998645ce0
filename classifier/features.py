"""Sample -> features: hashed words and named structure, computed once, the same way in training and in
serving.

Theory of operation. A request's difficulty is partly what it says (words) and partly what it is (a command, a
tool result, a follow-up, an analysis). Words are lower-cased runs of letters and digits (one character each
in Chinese and Japanese scripts), hashed with CRC-32 into `NGRAM_BUCKETS` buckets, and count once each; the word
that opens the text falls into a bucket of its own as well. Names (application, action) are hashed into a block of
their own, so that a name nobody trained on weighs nothing and does not thin out the words. Structure is a fixed row of
named numbers (`STRUCTURE_NAMES`), each bounded by a logarithm or a cap.

`Features` hold no text. The buckets are nevertheless derived from the caller's words, and a dictionary attack
can guess at common ones: treat stored features as the caller's data, just less of it.

It does not know weights, labels or scikit-learn: `pipeline` turns features into arrays, `model` into a score.
"""

from __future__ import annotations

import binascii
import re
from array import array
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress, islice
from math import isfinite, log1p
from struct import Struct
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from classifier import lexicon
from classifier.encoder import EMBEDDING_BYTES, is_embedding
from classifier.followup import MAX_CHARACTERS, is_bare_follow_up
from classifier.history import HISTORY_NAMES
from classifier.sample import EFFORTS, Sample
from classifier.words import Reading, encoded_words, list_items, read, words

FEATURE_VERSION: Final = 3
"""Version of everything below: tokens, hashes, buckets, names and their formulas. An artifact names the one
it fits."""

READABLE_VERSIONS: Final = (2, 3)
"""Versions whose rows and models are understood. Version 3 appended columns to version 2's, which are unchanged: a row
of version 2 has zeros there, which is "not known", and a model of version 2 weighs them nothing."""

NGRAM_BUCKETS: Final = 1 << 16
"""Buckets of words: ten thousand labels hold some 10^4-10^5 distinct ones."""

NAME_BUCKETS: Final = 1 << 10
"""Buckets of application and action names."""

_NGRAM_MASK: Final = NGRAM_BUCKETS - 1
_NAME_MASK: Final = NAME_BUCKETS - 1
_OPENING: Final = crc32(b"\x02")  # hash before the first word: "prove ..." and "... prove" open differently

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
    "options", "option_characters_log", "stem_characters_log", "numeric_option_share", "numbers_log",
    "number_digits", "long_word_share", "indent_log", "brackets_log",
    *HISTORY_NAMES,
)  # fmt: skip
"""Column names of the structure block, in order. Only ever appended to, so that what was stored stays readable."""

COLUMNS_OF_VERSION_2: Final = 64
"""How many of them version 2 had."""

DETAIL_NAMES: Final = STRUCTURE_NAMES[55:64]
"""Columns of how a task is laid out, which only `difficulty` reads: what they say depends on what else the request is.
"""


@dataclass(frozen=True, slots=True)
class Features:
    """What the model sees of one sample; holds no text.

    Attributes:
        ngrams: Distinct buckets in [0, `NGRAM_BUCKETS`) of words; each present once.
        names: Distinct buckets in [0, `NAME_BUCKETS`) of the application and action names.
        structure: One finite number per `STRUCTURE_NAMES`.
        embedding: What is kept of a text encoder's vector (`classifier.encoder`), b"" for none.
    """

    ngrams: Set[int]
    names: tuple[int, ...]
    structure: tuple[float, ...]
    embedding: bytes = b""

    def encoded(self, embedding: bytes) -> Features:
        """The same with an embedding of the text."""
        return replace(self, embedding=embedding)

    def to_row(self) -> dict[str, Any]:
        """A JSON-ready row for a ledger: `feature_version`, sorted buckets, structure, embedding in hex if any."""
        row = {
            "feature_version": FEATURE_VERSION,
            "ngrams": sorted(self.ngrams),
            "names": sorted(self.names),
            "structure": list(self.structure),
        }
        return row | {"embedding": self.embedding.hex()} if self.embedding else row

    def pack(self) -> str:
        """The features as short ASCII text, for a ledger; see `packed`."""
        return packed(np.array(sorted(self.ngrams), np.uint16), self.structure, self.names, self.embedding)

    @classmethod
    def unpack(cls, text: str) -> Features:
        """Read what `pack` wrote.

        Raises:
            ValueError: Another feature version, or text that `pack` did not write.
        """
        return _unpacked(text)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Features:
        """Read a row of `to_row`.

        Raises:
            ValueError: Another feature version, a bucket out of range, or a structure of another length.
        """
        version = row.get("feature_version")
        _require_readable(version)
        ngrams, names, structure = frozenset(row["ngrams"]), tuple(row["names"]), tuple(row["structure"])
        if version == 2 and len(structure) == COLUMNS_OF_VERSION_2:
            structure += _NOT_IN_VERSION_2
        if any(not 0 <= bucket < NGRAM_BUCKETS for bucket in ngrams):
            raise ValueError(f"ngrams holds a bucket outside [0, {NGRAM_BUCKETS})")
        if any(not 0 <= bucket < NAME_BUCKETS for bucket in names):
            raise ValueError(f"names holds a bucket outside [0, {NAME_BUCKETS})")
        if len(structure) != len(STRUCTURE_NAMES):
            raise ValueError(f"structure has {len(structure)} numbers, not {len(STRUCTURE_NAMES)}")
        embedding = bytes.fromhex(row.get("embedding", ""))
        if embedding and not is_embedding(embedding):
            raise ValueError("embedding has not the form of one")
        return cls(ngrams=ngrams, names=names, structure=structure, embedding=embedding)


Buckets = npt.NDArray[np.uint16]
"""Distinct word buckets in ascending order; shape (buckets,)."""


class Measures(NamedTuple):
    """What one sample measures, as the score takes it; `features` makes a record of it.

    Attributes:
        ngrams: Distinct buckets of words, ascending.
        structure: One finite number per `STRUCTURE_NAMES`.
        names: Distinct buckets of the application and action names, ascending.
        embedding: As in `Features`.
    """

    ngrams: Buckets
    structure: tuple[float, ...]
    names: tuple[int, ...]
    embedding: bytes = b""

    def features(self) -> Features:
        """The same as a record that compares and hashes by value."""
        return Features(frozenset(self.ngrams.tolist()), self.names, self.structure, self.embedding)

    def pack(self) -> str:
        """What `features().pack()` gives, without the detour."""
        return packed(self.ngrams, self.structure, self.names, self.embedding)


_PACK_HEAD: Final = Struct("<BHH16s")
"""Feature version, words, names, and a bit for every number of the structure that is not 0, lowest byte first."""

_PACK_HEAD_OF_VERSION_2: Final = Struct("<BHH8s")

_BITS: Final = tuple(1 << place for place in range(len(STRUCTURE_NAMES)))


def packed(
    ngrams: Buckets, structure: tuple[float, ...], names: tuple[int, ...], embedding: bytes = b""
) -> str:
    """Features as base64 text of a few hundred characters (a 700-character request: about 900).

    Most of a structure is zeros, so only the rest is kept, each number whole: unpacked features score exactly as the
    request did.

    Args:
        ngrams: Distinct buckets, ascending; names likewise.
    """
    bits = sum(compress(_BITS, structure))
    head = _PACK_HEAD.pack(FEATURE_VERSION, len(ngrams), len(names), bits.to_bytes(16, "little"))
    numbers = array("d", filter(None, structure)).tobytes() + ngrams.tobytes() + array("H", names).tobytes()
    return binascii.b2a_base64(head + numbers + embedding, newline=False).decode("ascii")


def _unpacked(text: str) -> Features:
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise ValueError(f"packed features are not base64: {error}") from error
    if not raw:
        raise ValueError("packed features need bytes, got 0")
    _require_readable(raw[0])
    form = _PACK_HEAD if raw[0] > 2 else _PACK_HEAD_OF_VERSION_2
    if len(raw) < form.size:
        raise ValueError(f"packed features need {form.size} bytes, got {len(raw)}")
    version, ngram_count, name_count, packed_bits = form.unpack_from(raw)
    bits = int.from_bytes(packed_bits, "little")
    held = bits.bit_count()
    numbers_end = form.size + 8 * held
    ngrams_end = numbers_end + 2 * ngram_count
    columns = len(STRUCTURE_NAMES) if version > 2 else COLUMNS_OF_VERSION_2
    names_end = ngrams_end + 2 * name_count
    embedding = raw[names_end:] if version > 2 and len(raw) == names_end + EMBEDDING_BYTES else b""
    if bits >> columns or len(raw) != names_end + len(embedding):
        raise ValueError("packed features do not have the length their head tells")
    numbers = iter(np.frombuffer(raw, "<f8", held, form.size).tolist())
    structure = tuple(next(numbers) if bits >> place & 1 else 0.0 for place in range(len(STRUCTURE_NAMES)))
    ngrams = np.frombuffer(raw, "<u2", ngram_count, numbers_end).tolist()
    names = np.frombuffer(raw, "<u2", name_count, ngrams_end).tolist()
    whole = all(map(isfinite, structure)) and (not embedding or is_embedding(embedding))
    if not whole or any(bucket >= NAME_BUCKETS for bucket in names):
        raise ValueError("packed features hold a number out of range")
    return Features(ngrams=frozenset(ngrams), names=tuple(names), structure=structure, embedding=embedding)


def _require_readable(version: object) -> None:
    if version not in READABLE_VERSIONS:
        known = " or ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"feature_version {version!r} is not the supported {known}")


_NOT_IN_VERSION_2: Final = (0.0,) * (len(STRUCTURE_NAMES) - COLUMNS_OF_VERSION_2)


def extract(sample: Sample) -> Features:
    """Compute the features of one sample; a pure function of its fields."""
    buckets, structure = measure(sample)
    return Features(frozenset(buckets.tolist()), name_buckets(sample), structure)


def measure(sample: Sample) -> tuple[Buckets, tuple[float, ...]]:
    """What `extract` computes, before it becomes a record: the serving path.

    Returns:
        Distinct buckets of words, ascending; the structure.
    """
    reading = read(sample.text)
    distinct = set(reading.words)
    return _ngrams(reading.words, distinct), _structure(sample, reading, distinct)


def ngram_surfaces(text: str) -> dict[int, list[str]]:
    """Bucket -> the words of `text` that fall into it ("^ word" for the opening one); for explanation of the caller's
    own request only."""
    tokens = words(text)
    found: dict[int, list[str]] = {}
    for token in tokens:
        found.setdefault(crc32(token.encode()) & _NGRAM_MASK, []).append(token)
    if tokens:
        opening = crc32(tokens[0].encode(), _OPENING) & _NGRAM_MASK
        found.setdefault(opening, []).append(f"^ {tokens[0]}")
    return {bucket: list(dict.fromkeys(surfaces)) for bucket, surfaces in found.items()}


def name_surfaces(sample: Sample) -> dict[int, list[str]]:
    """Bucket -> "application=..." or "action=..." for the names the sample carries."""
    found: dict[int, list[str]] = {}
    for kind, name in (("application", sample.application), ("action", sample.action)):
        if name is not None:
            found.setdefault(_name_bucket(kind, name), []).append(f"{kind}={name}")
    return found


def name_buckets(sample: Sample) -> tuple[int, ...]:
    """Distinct buckets of the names the sample carries, ascending."""
    return _name_buckets(sample.application, sample.action)


@lru_cache(maxsize=1024)
def _name_buckets(application: str | None, action: str | None) -> tuple[int, ...]:
    named = (("application", application), ("action", action))
    return tuple(sorted({_name_bucket(kind, name) for kind, name in named if name is not None}))


def _ngrams(encoded: list[bytes], distinct: Set[bytes]) -> Buckets:
    """Buckets of the words and of the opening word, sorted, each once.

    A third of a text's words are repetitions, which are not hashed again; two words seldom share a bucket. Once the
    checksums are there, cutting, sorting and gathering 16-bit numbers in arrays is cheaper than a set of integers and
    two lists of weights. A dict of checksums by word was tried: a look-up costs what `crc32` does. Pairs
    of words were dropped with feature version 2: they gained nothing on unseen questions, doubled what a ledger keeps
    of a request, and in order they spell out its text.
    """
    hashes = array("I", map(crc32, distinct))
    if encoded:
        hashes.append(crc32(encoded[0], _OPENING))
    buckets = np.frombuffer(hashes, np.uint32).astype(np.uint16)  # the low 16 bits
    buckets.sort()
    rest = buckets[1:]
    fresh = rest != buckets[:-1]
    if b"\x00" in fresh.tobytes():
        return np.concatenate((buckets[:1], rest.compress(fresh)))
    return buckets


def _name_bucket(kind: str, name: str) -> int:
    return crc32(f"{kind}\x00{name}".encode("utf-8", "surrogatepass")) & _NAME_MASK


def _structure(sample: Sample, reading: Reading, distinct: Set[bytes]) -> tuple[float, ...]:
    """The numbers of `STRUCTURE_NAMES`, in order; every share in [0, 1], every count capped or
    logarithmic."""
    text, found = sample.text, reading.words
    characters, count = len(text), len(found)
    questions = reading.questions
    if not count:
        distinct_share = digit_share = mean = 0.0
        opener, kinds = _NO_OPENER, _NO_KINDS
    else:
        distinct_share, digit_share = len(distinct) / count, reading.digit_words / count
        mean = reading.word_characters / count
        opener = _OPENERS.get(found[0], _NO_OPENER)
        kinds = tuple(map(_CAPPED.__getitem__, lexicon.counts(distinct)))
    analysis, command, light, reason, constraint, long_form, talk, self_, code, maths, expert = kinds
    short = 0 < count <= 12
    code_marks = reading.code_marks
    foreign, lines = reading.foreign_characters, reading.line_feeds
    ends = text[-64:].rstrip()[-1:] in _QUESTION_MARKS if questions or foreign else False
    about = (
        log1p(characters),
        log1p(count),
        log1p(lines) if lines else 0.0,
        mean if mean < 16.0 else 16.0,
        log1p(reading.sentences),
        distinct_share,
        digit_share,
        1.0 - (characters - foreign) / characters if foreign else 0.0,
        0.0 if count else 1.0,
        1.0 if "```" in text else 0.0,
        min(code_marks / characters, 0.2) * 5.0 if code_marks else 0.0,
        code,
        maths,
        log1p(reading.maths_marks) if reading.maths_marks else 0.0,
        expert,
        log1p(list_items(text)),
        _CAPPED[questions] if questions < 4 else 4.0,
        1.0 if ends else 0.0,
    )
    asked = (
        analysis,
        command,
        light,
        reason,
        constraint,
        long_form,
        talk,
        self_,
        1.0 if short else 0.0,
        1.0 if characters <= MAX_CHARACTERS and is_bare_follow_up(text) else 0.0,
        1.0 if short and not analysis and not reason else 0.0,
        1.0 if short and self_ else 0.0,
    )
    # Sums of tuples copy in one go; unpacking into one display appends item by item (0.4 us more).
    return (
        about + opener + asked + _context(sample, count) + _detail(text, reading) + sample.history.columns()
    )


def _detail(text: str, reading: Reading) -> tuple[float, ...]:
    """The columns of `DETAIL_NAMES`: answer options, numbers, long words, indentation and brackets."""
    lines, found = reading.line_feeds, reading.words
    stem, *options = _OPTION.split(text) if lines and ("\nA" in text or "\n(A" in text) else (text,)
    option_count = len(options)
    listed = len(text) - len(stem)
    digits = reading.digit_words
    indents = _INDENT.findall(text) if lines and "\n " in text else ()
    brackets = text.count("(") + text.count("[") + text.count("{")
    return (
        float(min(option_count, 12)),
        log1p(listed / option_count) if option_count else 0.0,
        log1p(len(stem)),
        sum(option[:1] in _NUMERIC for option in options) / option_count if option_count else 0.0,
        log1p(digits) if digits else 0.0,
        float(min(reading.longest_number, 12)),
        _long_words(found) / len(found) if found else 0.0,
        log1p(max(map(len, indents)) - 1) if indents else 0.0,
        log1p(brackets) if brackets else 0.0,
    )


def _long_words(found: list[bytes]) -> int:
    """How many of the words are longer than `_LONG_BYTES`."""
    try:
        return len(bytes(map(len, found)).translate(None, _NOT_LONG))
    except ValueError:  # one is longer than a byte can say
        return sum(len(word) > _LONG_BYTES for word in found)


def _context(sample: Sample, count: int) -> tuple[float, ...]:
    """The columns about what surrounds the text, of `count` words."""
    tools = sample.tools_offered_count
    effort, limit, route = sample.effort, sample.max_output_tokens, sample.previous_route
    results, previous = sample.tool_result_count, sample.previous_user_text
    length, analysis, reason = _previous(previous) if previous else (0.0, 0.0, 0.0)
    return (
        1.0 if tools else 0.0,
        log1p(tools) if tools else 0.0,
        log1p(results) if results else 0.0,
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
        1.0 if route == "flash" else 0.0,
        1.0 if route == "opus" else 0.0,
        length,
        analysis,
        reason,
    )


def _previous(text: str) -> tuple[float, float, float]:
    """Coarse features of the previous user text: log length, analysis words, reason words."""
    kinds = lexicon.counts(set(encoded_words(text)))
    return log1p(len(text)), _CAPPED[kinds[0]], _CAPPED[kinds[3]]


_OPTION: Final = re.compile(r"\n\(?[A-J][.)] ")
_INDENT: Final = re.compile(r"\n +")
_LONG_BYTES: Final = 8
_NOT_LONG: Final = bytes(range(_LONG_BYTES + 1))
_NUMERIC: Final = frozenset("0123456789-+$.")

_CAPPED: Final = (0.0, 1.0, 2.0, 3.0, *[4.0] * 252)
"""A count of words as evidence, by the count: the fifth of a kind adds nothing."""

_NO_KINDS: Final = (0.0,) * len(lexicon.COUNTED)
_QUESTION_MARKS: Final = frozenset("?？؟")
_OPENING_LISTS: Final = (
    lexicon.COMMANDS, lexicon.LOOKUP_OPENERS, lexicon.ANALYSIS, lexicon.LIGHT_WRITING, lexicon.CONTINUERS,
)  # fmt: skip
_OPENERS: Final = {
    word.encode(): tuple(1.0 if word in listed else 0.0 for listed in _OPENING_LISTS)
    for word in frozenset[str]().union(*_OPENING_LISTS)
}
_NO_OPENER: Final = (0.0,) * len(_OPENING_LISTS)


def top(items: Mapping[int, float], limit: int) -> list[tuple[int, float]]:
    """The `limit` items largest in magnitude, largest first; ties by key, so that output is stable."""
    return list(islice(sorted(items.items(), key=lambda item: (-abs(item[1]), item[0])), limit))
