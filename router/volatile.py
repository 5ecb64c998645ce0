"""Words in a text that are likely to differ the next time it is written: dates, ids, placeholders.

The rule: few false alarms before many finds. What is named as an example, stands in a web address, or is a date that
something began or ended on, is taken for constant. A timestamp or a date given as now's, unless in a condition, and a
template's placeholder for a date, a time or an id are warnings; what is often constant (a UUID, a hash, a lone date,
a shell's variable) is a note. It sees one text at one time, so it never knows that something changes, only that such
things do. An excerpt is the matched word alone, at most `EXCERPT_LIMIT` characters, of a placeholder one word; one that
looks like a key or a token is cut short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

EXCERPT_LIMIT = 40
_CONTEXT = 48
"""Characters before a word that are looked at."""
_SENTENCE = 240
"""Characters before a word in which its sentence is taken to begin."""
_TAG_REACH = 2000
"""Characters behind a tag in which it is taken to close."""
_PLACEHOLDER_WORD = 20
"""Characters shown of a placeholder's first word."""


class Kind(StrEnum):
    """What was found."""

    TIMESTAMP = "timestamp"
    DATE = "date"
    TODAY = "today"
    PLACEHOLDER = "placeholder"
    UUID = "uuid"
    ULID = "ulid"
    HASH = "hash"
    EPOCH = "epoch"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volatile:
    """Words of one kind in one text.

    Attributes:
        certain: Whether it is all but sure to change (a warning), not merely able to (a note).
        excerpt: The first of them, or the first certain one.
        count: How many there are.
    """

    kind: Kind
    certain: bool
    excerpt: str
    count: int


_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
_WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_ISO_DATE = r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_CLOCK = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?:\s?[ap]m\b)?(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d)\b)?"
_LONG_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?\.? (?:of )?{_MONTH}\.?,? (?:19|20)\d\d"
    rf"|{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)\d\d)"
)
_NUMERIC_DATE = r"(?:\d{1,2}[./]\d{1,2}[./](?:19|20)\d\d|(?:19|20)\d\d/\d{1,2}/\d{1,2})"
_DATE = rf"(?:{_ISO_DATE}|{_LONG_DATE}|{_NUMERIC_DATE})"
_FREE = r"(?<![\w./-])"
"""Not within a word, a path or an id such as a model's."""

_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>)]+|(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.I
)
_TIMESTAMPS = re.compile(rf"{_FREE}(?:{_WEEKDAY},? )?{_DATE}(?:T|,? at |,? )\s?{_CLOCK}", re.I)
_DATES = re.compile(rf"{_FREE}(?:{_WEEKDAY},? )?{_DATE}(?![\w-])", re.I)
_TODAYS = re.compile(
    r"\b(?:today(?:['\N{RIGHT SINGLE QUOTATION MARK}]s date)? is|it is now|the time is now"
    r"|(?:the )?current (?:date|time|day|month|year)(?: and time)?(?: is)?)\s*[:=]?\s*"
    rf"(?:{_WEEKDAY}\b|{_MONTH}\b|{_CLOCK}|(?:19|20)\d\d\b)",
    re.I,
)
_PLACEHOLDERS = re.compile(
    r"\{\{[^{}\n]{1,80}\}\}|\$\{[^{}\n]{1,80}\}|\{%[^%\n]{1,80}%\}|%\([A-Za-z_]\w*\)[sd]"
    r"|(?<![\w/{$%])\{[A-Za-z_][\w.]*\}(?![\w/}])|(?<![\w%])%[sd](?!\w)"
    r"|<[A-Z][A-Z_ ]{1,30}>|\[[A-Z][A-Z_ ]{1,30}\]|\b__[A-Z][A-Z_]{1,30}__\b"
)
_UUIDS = re.compile(r"(?<![\w-])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![\w-])", re.I)
_ULIDS = re.compile(r"(?<![\w-])[0-7][0-9A-HJKMNP-TV-Z]{25}(?![\w-])")
_HASHES = re.compile(r"(?<![\w#-])(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{32})(?![\w-])")
_SHORT_HASHES = re.compile(
    r"\b(?:commit|revision|rev|git(?: hash| sha)?|sha|build)\b[\s:=#@(]{1,3}"
    r"(?P<word>(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,12})(?![\w-])",
    re.I,
)
_EPOCHS = re.compile(r"(?<![\w.,+$-])1[67]\d{8}(?:\d{3})?(?![\w-]|[.,]\d)")
_RANDOMS = re.compile(r"(?<![\w/.-])[A-Za-z0-9_-]{20,}(?![\w/-]|\.\w)")

_EXAMPLE = re.compile(
    r"(?:\be\.\s?g\b|\bi\.\s?e\b|\bfor (?:example|instance)\b|\bsuch as\b|\bexamples?\b|\bsamples?\b|\bformat(?:ted)?\b"
    r"|\bISO(?:[ -]?\d+)?\b|\bdates? as\b|\blooks? like\b)\.?[^.\n]{0,40}$|\blike [\"'`(]*$",
    re.I,
)
_HISTORY = re.compile(
    r"\b(?:since|before|after|until|till|effective|from|between|through|by|version|released?|cut-?off|founded|launched"
    r"|valid|expires?|deadline|born|signed|act of|dated|introduced|and|to)\b[^.\n]{0,12}$",
    re.I,
)
_NOW = re.compile(
    r"(?:\btoday(?:['\N{RIGHT SINGLE QUOTATION MARK}]s date)?|\bcurrent (?:date|time|day|datetime)(?: and time)?|\bnow"
    r"|\b(?:generated|rendered|built|deployed|compiled|printed)|(?:^|[\n.>*#-]\s{0,3})(?:date|time|datetime|timestamp))"
    r"(?:\s*(?:is|on|at|[:=(]))*\s*$",
    re.I,
)
_NEAR_NOW = re.compile(
    r"\b(?:today|tonight|now|current(?:ly)?|as of|at present|at the moment|time is|date is|snapshot"
    r"|generated|rendered|built|deployed|compiled|printed)\b[^.!?\n]{0,24}$",
    re.I,
)
_IF = re.compile(r"\b(?:if|when|whenever|unless|suppose|assume|assuming|as though|whether)\b", re.I)
_SENTENCE_END = re.compile(r"[.!?]\s|\n")
_OWN_ID = re.compile(
    r"\b(?:request|session|trace|correlation|conversation|run|build|deploy(?:ment)?|nonce|instance)"
    r"[ _-]?(?:id|uuid|key|token)?\s*(?:is\b|[:=#])?\s*[\"'`(]*$",
    re.I,
)
_NOW_NUMBER = re.compile(
    r"\b(?:timestamp|epoch|unix time|time|now|generated)(?:\s*(?:is|at|[:=(]))*\s*$", re.I
)

_TIME_WORDS = frozenset(
    {"date", "time", "datetime", "today", "now", "timestamp", "weekday", "day", "clock", "utcnow"}
    | {"uuid", "uuid4", "guid", "nonce", "random"}
)
_PERSON_WORDS = frozenset(
    {"user", "username", "customer", "client", "tenant", "account", "email", "profile"}
    | {"session", "request", "conversation"}
)
_BRACES = re.compile(
    r"(?P<open>\{\{|\$\{|\{%|%\(|\{|<|\[|__)(?P<inner>.*?)(?P<close>\}\}|%\}|\)[sd]|\}|>|\]|__)"
)
_NAME = re.compile(rf"[A-Za-z_][\w.-]{{0,{_PLACEHOLDER_WORD - 1}}}")
_WORD = re.compile(r"[A-Z]?[a-z]+\d*|[A-Z]+")

Found = tuple[Kind, bool, str]
Judge = Callable[[str, re.Match[str], str], bool | None]
"""Whether a match is certain to change; None when it is none. Given the text, the match and what stands before."""


def volatile_in(text: str) -> tuple[Volatile, ...]:
    """Return what of `text` is likely to change, one entry per kind, certain ones first."""
    found: dict[Kind, list[tuple[bool, str]]] = {}
    for kind, certain, excerpt in _found(text):
        found.setdefault(kind, []).append((certain, excerpt))
    entries = []
    for kind, matches in found.items():
        certain = any(sure for sure, _ in matches)
        first = next(excerpt for sure, excerpt in matches if sure == certain)
        entries.append(Volatile(kind=kind, certain=certain, excerpt=first, count=len(matches)))
    return tuple(sorted(entries, key=lambda entry: not entry.certain))


def _found(text: str) -> Iterator[Found]:
    # What one rule has judged is blanked, so that the date in a timestamp is not found a second time.
    text = _ADDRESS.sub(lambda match: "\0" * len(match[0]), text)
    for kind, pattern, judge in _RULES:
        blank: list[tuple[int, int]] = []
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - _CONTEXT) : match.start()]
            certain = None if _EXAMPLE.search(before) else judge(text, match, before)
            if certain is not None:
                yield kind, certain, _excerpt(kind, match)
            blank.append(match.span())
        text = _blanked(text, blank)


def _blanked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """`text` with ascending spans of it made unfindable, places kept; one copy however many there are."""
    at = 0
    parts: list[str] = []
    for start, end in spans:
        parts += (text[at:start], "\0" * (end - start))
        at = end
    return "".join((*parts, text[at:])) if parts else text


def _conditional(text: str, match: re.Match[str]) -> bool:
    """Whether the sentence up to the match says that it may be otherwise."""
    before = text[max(0, match.start() - _SENTENCE) : match.start()]
    return bool(_IF.search(_SENTENCE_END.split(before)[-1]))


def _excerpt(kind: Kind, match: re.Match[str]) -> str:
    word = match.groupdict().get("word") or match[0]
    word = " ".join(word.split())
    if kind is Kind.RANDOM:
        return f"{word[:8]}..."  # it may be a secret
    if kind is Kind.PLACEHOLDER:
        return _placeholder_excerpt(word)
    return word if len(word) <= EXCERPT_LIMIT else word[: EXCERPT_LIMIT - 3] + "..."


def _placeholder_excerpt(spelled: str) -> str:
    """The braces and no more than the first word between them: a template may hold instructions."""
    parts = _BRACES.fullmatch(spelled)
    if parts is None or _NAME.fullmatch(parts["inner"].strip()):
        return spelled
    word = _NAME.match(parts["inner"].strip())
    return f"{parts['open']} {word[0] if word else ''}... {parts['close']}".replace(" ...", "...")


def _timestamp(text: str, match: re.Match[str], before: str) -> bool | None:
    now = _NOW.search(before) or _NEAR_NOW.search(before)
    return bool(now) and not _conditional(text, match)


def _date(text: str, match: re.Match[str], before: str) -> bool | None:
    if _NOW.search(before):
        return not _conditional(text, match)
    return None if _HISTORY.search(before) else False


def _today(text: str, match: re.Match[str], before: str) -> bool | None:
    return None if _conditional(text, match) else True


def _placeholder(text: str, match: re.Match[str], before: str) -> bool | None:
    """A doubled brace is a template's; other spellings have uses of their own (`${}` is a shell's) and are notes."""
    spelled = match[0]
    words = {word.lower() for word in _WORD.findall(spelled)}
    of_time = bool(words & _TIME_WORDS)
    if _NOW.search(before) and not _conditional(text, match):
        return True
    if spelled.startswith(("{{", "{%", "%(")):
        return of_time or bool(words & _PERSON_WORDS)
    if spelled.startswith(("%", "${")):
        return False
    if not of_time:
        return None
    if spelled.startswith("<") and text.find(f"</{spelled[1:]}", match.end(), match.end() + _TAG_REACH) >= 0:
        return None  # a tag
    return False


def _id(text: str, match: re.Match[str], before: str) -> bool | None:
    return bool(_OWN_ID.search(before))


def _hash(text: str, match: re.Match[str], before: str) -> bool | None:
    digits = sum(letter.isdigit() for letter in match[0])
    return None if digits in (0, len(match[0])) else bool(_OWN_ID.search(before))


def _ulid(text: str, match: re.Match[str], before: str) -> bool | None:
    letters = sum(letter.isalpha() for letter in match[0])
    return None if letters < 4 else bool(_OWN_ID.search(before))


def _short_hash(text: str, match: re.Match[str], before: str) -> bool | None:
    return False


def _epoch(text: str, match: re.Match[str], before: str) -> bool | None:
    return bool(_NOW_NUMBER.search(before))


def _random(text: str, match: re.Match[str], before: str) -> bool | None:
    """Mixed letters and digits without the runs that words and numbers in identifiers have."""
    word = match[0]
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "_" for c in word]
    changes = sum(one != other for one, other in pairwise(kinds))
    digit_runs = sum(one == "d" != other for one, other in zip(kinds, ["", *kinds], strict=False))
    if not {"d", "u", "l"} <= set(kinds) or digit_runs < 3 or changes < 0.45 * len(word):
        return None
    return bool(_OWN_ID.search(before))


_RULES: tuple[tuple[Kind, re.Pattern[str], Judge], ...] = (
    (Kind.UUID, _UUIDS, _id),
    (Kind.TIMESTAMP, _TIMESTAMPS, _timestamp),
    (Kind.DATE, _DATES, _date),
    (Kind.TODAY, _TODAYS, _today),
    (Kind.PLACEHOLDER, _PLACEHOLDERS, _placeholder),
    (Kind.HASH, _HASHES, _hash),
    (Kind.HASH, _SHORT_HASHES, _short_hash),
    (Kind.ULID, _ULIDS, _ulid),
    (Kind.EPOCH, _EPOCHS, _epoch),
    (Kind.RANDOM, _RANDOMS, _random),
)
