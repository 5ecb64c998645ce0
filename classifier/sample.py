"""What the classifier may see of a request and its session: one frozen record, in training and in serving.

Rule: everything a feature is computed from is a field here, bounded here, and versioned here; so training and
serving cannot differ, and a row written today can be refused tomorrow instead of misread. Text is cut to a
head and a tail, which bounds the cost of scoring whatever the caller sends.

It does not know costs, cache state, tenants or users: those belong to the policy, or to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from classifier.history import NO_HISTORY, History

SAMPLE_VERSION: Final = 2
"""Version of the fields and their bounds; raised whenever either changes. An artifact names the one it was
fit on."""

READABLE_VERSIONS: Final = (1, 2)
"""Versions whose rows and models are understood: 1 had no `history`, and is read as one of which nothing is known."""

TEXT_CHARACTERS: Final = 4_096
"""Most characters of the turn's text that are kept: a 4k cap holds scoring of 20,000 characters near 0.3
ms."""

TEXT_HEAD_CHARACTERS: Final = 3_072
"""Of those, how many come from the start (the instruction usually opens); the rest come from the end."""

PREVIOUS_TEXT_CHARACTERS: Final = 1_024
"""Most characters of the previous user text (only coarse features are taken from it); three quarters head."""

NAME_CHARACTERS: Final = 128
"""Longest application or action name; longer ones are cut."""

COUNT_LIMIT: Final = 100_000_000
"""Bound of every count, so that no feature of it overflows or dominates."""

Effort = Literal["low", "medium", "high", "xhigh", "max"]
EFFORTS: Final[tuple[str, ...]] = get_args(Effort)
"""Effort levels in ascending order (providers: effort page, 2026-11)."""

PREVIOUS_ROUTES: Final = ("flash", "opus")

_ELISION: Final = "\n\u2026\n"


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request as the classifier sees it; build it with `bounded`, which cuts and checks.

    A `Struct` is frozen in C: `bounded` costs 1.3 us in all; with a frozen dataclass it cost 2.9.

    Attributes:
        text: The user's own text of the turn, at most `TEXT_CHARACTERS`; empty for a turn of tool results or
            media.
        previous_user_text: The user's text of the turn before, at most `PREVIOUS_TEXT_CHARACTERS`; empty if
            none.
        turn_index: 0-based user turn in the session or conversation.
        tools_offered_count: Tools the model may call.
        tool_result_count: Tool results in this turn.
        tool_loop: Whether the turn continues a tool loop (it answers the model's own tool calls).
        has_image, has_document: Whether the turn carries one.
        application: Registered application name, or None.
        effort: Requested effort, or None for the default.
        max_output_tokens: The caller's bound on the answer, or None if the caller set none.
        output_schema: Whether a JSON schema binds the answer.
        system_characters: Characters of the system prompt.
        history_characters: Characters of earlier turns, both sides.
        previous_route: Route of the last answered turn, or None.
        action: Name of the user action the request follows ("opened_report"), or None.
        history: What the session's earlier turns came to; `NO_HISTORY` where nobody remembers.
    """

    text: str
    previous_user_text: str = ""
    turn_index: int = 0
    tools_offered_count: int = 0
    tool_result_count: int = 0
    tool_loop: bool = False
    has_image: bool = False
    has_document: bool = False
    application: str | None = None
    effort: str | None = None
    max_output_tokens: int | None = None
    output_schema: bool = False
    system_characters: int = 0
    history_characters: int = 0
    previous_route: str | None = None
    action: str | None = None
    history: History = NO_HISTORY

    @classmethod
    def bounded(
        cls,
        *,
        text: str,
        previous_user_text: str = "",
        turn_index: int = 0,
        tools_offered_count: int = 0,
        tool_result_count: int = 0,
        tool_loop: bool = False,
        has_image: bool = False,
        has_document: bool = False,
        application: str | None = None,
        effort: str | None = None,
        max_output_tokens: int | None = None,
        output_schema: bool = False,
        system_characters: int = 0,
        history_characters: int = 0,
        previous_route: str | None = None,
        action: str | None = None,
        history: History = NO_HISTORY,
    ) -> Sample:
        """Cut texts and counts to their bounds and refuse values that mean nothing.

        Raises:
            ValueError: A count is negative, or `effort` or `previous_route` is not one of the known words.
        """
        if effort is not None and effort not in EFFORTS:
            raise ValueError(f"effort must be one of {', '.join(EFFORTS)} or None, got {effort!r}")
        if previous_route is not None and previous_route not in PREVIOUS_ROUTES:
            raise ValueError(f"previous_route must be flash, opus or None, got {previous_route!r}")
        # One chain of comparisons for what nearly every request is; the calls that cut and refuse are for the rest.
        if not (
            0 <= turn_index <= COUNT_LIMIT
            and 0 <= tools_offered_count <= COUNT_LIMIT
            and 0 <= tool_result_count <= COUNT_LIMIT
            and 0 <= system_characters <= COUNT_LIMIT
            and 0 <= history_characters <= COUNT_LIMIT
            and (max_output_tokens is None or 0 <= max_output_tokens <= COUNT_LIMIT)
        ):
            turn_index = _count("turn_index", turn_index)
            tools_offered_count = _count("tools_offered_count", tools_offered_count)
            tool_result_count = _count("tool_result_count", tool_result_count)
            system_characters = _count("system_characters", system_characters)
            history_characters = _count("history_characters", history_characters)
            if max_output_tokens is not None:
                max_output_tokens = _count("max_output_tokens", max_output_tokens)
        if len(text) > TEXT_CHARACTERS:
            text = head_and_tail(text, TEXT_CHARACTERS, TEXT_HEAD_CHARACTERS)
        if len(previous_user_text) > PREVIOUS_TEXT_CHARACTERS:
            previous_user_text = head_and_tail(
                previous_user_text, PREVIOUS_TEXT_CHARACTERS, PREVIOUS_TEXT_CHARACTERS * 3 // 4
            )
        return cls(
            text=text,
            previous_user_text=previous_user_text,
            turn_index=turn_index,
            tools_offered_count=tools_offered_count,
            tool_result_count=tool_result_count,
            tool_loop=tool_loop,
            has_image=has_image,
            has_document=has_document,
            application=None if application is None else application[:NAME_CHARACTERS],
            effort=effort,
            max_output_tokens=max_output_tokens,
            output_schema=output_schema,
            system_characters=system_characters,
            history_characters=history_characters,
            # A StrEnum member equals its value but is not one; rows and features hold plain strings.
            previous_route=None if previous_route is None else str(previous_route),
            action=None if action is None else action[:NAME_CHARACTERS],
            history=history,
        )

    def to_row(self) -> dict[str, Any]:
        """A JSON-ready row: `sample_version` and every field that differs from its default."""
        row: dict[str, Any] = {"sample_version": SAMPLE_VERSION, "text": self.text}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                row[name] = value.to_row() if name == "history" else value
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Sample:
        """Read a row of `to_row`.

        Raises:
            ValueError: Another sample version, an unknown field, a missing text or a value of the wrong type;
                the message names the field, the value's type and what is accepted.
        """
        version = row.get("sample_version", SAMPLE_VERSION)
        if version not in READABLE_VERSIONS:
            known = " or ".join(map(str, READABLE_VERSIONS))
            raise ValueError(f"sample_version {version!r} is not the supported {known}")
        if "text" not in row:
            raise ValueError("text is missing")
        values = {name: value for name, value in row.items() if name != "sample_version"}
        for name, value in values.items():
            accepted = _ACCEPTED.get(name)
            if accepted is None:
                raise ValueError(f"{name} is not a field of a sample; known: {', '.join(_ACCEPTED)}")
            if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
                wanted = " or ".join("null" if t is type(None) else t.__name__ for t in accepted)
                raise ValueError(f"{name} must be {wanted}, got {type(value).__name__}")
        if "history" in values:
            values["history"] = History.from_row(values["history"])
        return cls.bounded(**values)


def head_and_tail(text: str, limit: int, head: int) -> str:
    """`text` if it has at most `limit` characters, else its first `head` and its end, `limit` in all."""
    if len(text) <= limit:
        return text
    return text[:head] + _ELISION + text[len(text) - (limit - head - len(_ELISION)) :]


def _count(name: str, value: int) -> int:
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    return value if value < COUNT_LIMIT else COUNT_LIMIT


_DEFAULTS: Final[dict[str, Any]] = {
    field.name: field.default for field in msgspec.structs.fields(Sample) if not field.required
}

_TEXT = (str,)
_OPTIONAL_TEXT = (str, type(None))
_ACCEPTED: Final[dict[str, tuple[type, ...]]] = {
    "text": _TEXT,
    "previous_user_text": _TEXT,
    "turn_index": (int,),
    "tools_offered_count": (int,),
    "tool_result_count": (int,),
    "tool_loop": (bool,),
    "has_image": (bool,),
    "has_document": (bool,),
    "application": _OPTIONAL_TEXT,
    "effort": _OPTIONAL_TEXT,
    "max_output_tokens": (int, type(None)),
    "output_schema": (bool,),
    "system_characters": (int,),
    "history_characters": (int,),
    "previous_route": _OPTIONAL_TEXT,
    "action": _OPTIONAL_TEXT,
    "history": (dict,),
}
