"""Orders to the sandbox carried by the request itself, so that a whole router process can be exercised from
outside.

Rule: a directive is `[[sandbox key=value ...]]` inside a text of the last user turn, or the same without
brackets in the header `x-sandbox-directive`. Values are bare words, JSON strings or JSON objects. A
directive that does not parse is a `DirectiveError`, answered as 400: a typo must not pass as an ordinary
answer.

| key | value | effect |
|---|---|---|
| fault | a fault kind | this request fails so; with `times=N` only its first N tries do |
| upstream | anthropic, gemini | the whole directive holds for that face only |
| after_events, stall_s, retry_after_s, message | | as in `Fault` |
| say | "text" | the answer's text |
| tokens | N | length of the answer's text, capped by the request |
| thinking | N | thinking tokens |
| tool, args | name, {json} | a tool call; may repeat |
| stop | refusal, pause_turn, SAFETY, ... | stop or finish reason |
| block | SAFETY, ... | Gemini: a blocked prompt |
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from router.sandbox.faults import Fault

_OPEN = "[[sandbox"
_KEY = re.compile(r"\s*([a-z_]+)=")
_BARE = re.compile(r"[^\s\]]+")
_DECODER = json.JSONDecoder()
_NUMBERS = {
    "tokens": int,
    "thinking": int,
    "times": int,
    "after_events": int,
    "stall_s": float,
    "retry_after_s": float,
}
_KEYS = frozenset({"fault", "upstream", "message", "say", "tool", "args", "stop", "block", *_NUMBERS})


class DirectiveError(ValueError):
    """A directive that cannot be read; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """What a request asked the sandbox to do; None means not asked."""

    fault: Fault | None = None
    fault_times: int | None = None
    say: str | None = None
    tokens: int | None = None
    thinking: int | None = None
    calls: tuple[tuple[str, dict[str, Any] | None], ...] = field(default=())
    stop: str | None = None
    block: str | None = None

    @property
    def shapes_reply(self) -> bool:
        """Whether the answer's content is dictated."""
        return self.say is not None or bool(self.calls)


NOTHING = Directive()


def read(texts: list[str], header: str | None, upstream: str) -> Directive:
    """Collect the directives of the last user turn and of the header for one face; later keys win.

    Raises:
        DirectiveError: if one does not parse.
    """
    found: list[list[tuple[str, Any]]] = []
    for text in texts:
        start = text.find(_OPEN)
        while start >= 0:
            pairs, end = _pairs(text, start + len(_OPEN), bracketed=True)
            found.append(pairs)
            start = text.find(_OPEN, end)
    if header:
        inner = header.strip()
        if inner.startswith(_OPEN):
            found.append(_pairs(inner, len(_OPEN), bracketed=True)[0])
        else:
            found.append(_pairs(inner, 0, bracketed=False)[0])
    meant = [pairs for pairs in found if dict(pairs).get("upstream") in (None, upstream)]
    return _directive([pair for pairs in meant for pair in pairs]) if meant else NOTHING


def _pairs(text: str, at: int, *, bracketed: bool) -> tuple[list[tuple[str, Any]], int]:
    out: list[tuple[str, Any]] = []
    while True:
        match = _KEY.match(text, at)
        if match is None:
            rest = text[at:].lstrip()
            if (bracketed and rest.startswith("]]")) or (not bracketed and not rest):
                return out, len(text) - len(rest) + (2 if bracketed else 0)
            raise DirectiveError(f"sandbox directive: expected key=value at offset {at}")
        key, at = match.group(1), match.end()
        if key not in _KEYS:
            raise DirectiveError(f"sandbox directive: unknown key {key!r}")
        value, at = _value(text, at, key)
        out.append((key, value))


def _value(text: str, at: int, key: str) -> tuple[Any, int]:
    if text[at : at + 1] in ('"', "{"):
        try:
            return _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DirectiveError(f"sandbox directive: {key} is not valid JSON") from error
    match = _BARE.match(text, at)
    if match is None:
        raise DirectiveError(f"sandbox directive: {key} has no value")
    word = match.group()
    if key not in _NUMBERS:
        return word, match.end()
    try:
        return _NUMBERS[key](word), match.end()
    except ValueError as error:
        raise DirectiveError(f"sandbox directive: {key}={word} is not a number") from error


def _directive(pairs: list[tuple[str, Any]]) -> Directive:
    last = dict(pairs)
    calls: list[tuple[str, dict[str, Any] | None]] = []
    for key, value in pairs:
        if key == "tool":
            calls.append((value, None))
        elif key == "args":
            if not calls or not isinstance(value, dict):
                raise DirectiveError("sandbox directive: args must be a JSON object after tool=NAME")
            calls[-1] = (calls[-1][0], value)
    return Directive(
        fault=_fault(last),
        fault_times=last.get("times"),
        say=last.get("say"),
        tokens=last.get("tokens"),
        thinking=last.get("thinking"),
        calls=tuple(calls),
        stop=last.get("stop"),
        block=last.get("block"),
    )


def _fault(last: dict[str, Any]) -> Fault | None:
    if "fault" not in last:
        return None
    try:
        return Fault(
            kind=last["fault"],
            after_events=last.get("after_events"),
            stall_s=last.get("stall_s"),
            retry_after_s=last.get("retry_after_s"),
            message=last.get("message"),
        )
    except ValueError as error:
        raise DirectiveError(f"sandbox directive: {error}") from error
