"""Whether Flash's answer failed, by what can be seen of it, and whether Opus may be asked instead.

The rule: an answer is discarded only for a failure that anybody could check, never for a guess at its quality.

    malformed   the provider could not form its tool call, or a call names no tool on offer, its arguments are no JSON
                object or violate the tool's schema
    refusal     the model refused, or a safety filter blocked prompt or answer
    schema      the answer is not JSON, or violates the schema asked for
    empty       it ended by itself without text or call
    truncated   it was cut at the output bound or the context window; the request may have asked for no more, so it
                counts only where the operator says so

A truncated answer is nothing else: its JSON is broken because it was cut. Escalating costs a second answer, so what
cannot be told is no failure (`schema_check`).

Pure: a reply and its call in, a signal out; circumstances in, an objection out. It does not know how either was asked.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from router.call import Call, FinishReason, Text, ToolCall
from router.reply import Reply
from router.schema_check import keeps

CACHED_SCHEMA_CHARACTERS = 32_768
"""Longer schemas are decoded each time, so that what is kept stays within some megabytes."""


class Signal(StrEnum):
    """A failure that can be seen of an answer; the values are those of settings, ledger and metrics."""

    MALFORMED = "malformed"
    REFUSAL = "refusal"
    SCHEMA = "schema"
    EMPTY = "empty"
    TRUNCATED = "truncated"


class Objection(StrEnum):
    """Why a failed answer is handed on all the same."""

    BEGUN = "begun"
    """Content of it has reached the caller."""
    FORBIDDEN = "forbidden"
    """The caller forbids it, or forced the route."""
    TOOL_LOOP = "tool_loop"
    """A tool loop in progress stays with the model that began it."""
    FELL_BACK = "fell_back"
    """Flash was taken because Opus had failed."""
    UNAVAILABLE = "unavailable"
    """Opus cannot take the request, or its circuit is open."""
    CEILING = "ceiling"
    """What Flash cost and what Opus is expected to cost exceed the caller's ceiling, or one of them is unknown."""
    BUDGET = "budget"
    """The day's money does not hold it beside the rest of the day on Flash."""
    DEADLINE = "deadline"
    """Too little time is left."""


class Cascade(msgspec.Struct, frozen=True, gc=False):
    """What the operator allows, for one application.

    Attributes:
        on: Failures for which Opus is asked; none switches it off.
        needed_s: Least time before the deadline with which Opus is asked.
    """

    on: frozenset[Signal] = frozenset()
    needed_s: float = 10.0


class Cascades(msgspec.Struct, frozen=True, gc=False):
    """The operator's cascade by application.

    Attributes:
        default: Of requests without an application, and of applications without one of their own.
        applications: By name.
    """

    default: Cascade = Cascade()
    applications: Mapping[str, Cascade] = {}

    def of(self, application: str) -> Cascade:
        """What holds for one application, "" for none."""
        return self.applications.get(application, self.default)


class Failure(NamedTuple):
    """A failed answer, and what became of it.

    Attributes:
        signal: How it failed.
        kept: Why it is handed on all the same; None when it is discarded and Opus is asked.
    """

    signal: Signal
    kept: Objection | None


class Circumstances(NamedTuple):
    """What bears on asking Opus once Flash has answered.

    Attributes:
        begun: Whether content of Flash's answer has reached the caller.
        allowed: Whether the caller allows it.
        forced: Whether the caller chose the route.
        tool_loop: Whether the request answers tool calls, so that a loop is in progress.
        fell_back: Whether Opus was tried before.
        opus_available: Whether Opus can be asked at all.
        ceiling_nano_usd: Most the whole request may cost, None for no ceiling.
        spent_nano_usd: What the attempts made so far cost, None when unknown.
        expected_nano_usd: What Opus is expected to cost, None when unknown.
        budget_fits: Whether the day's budget holds that; True without a budget.
        remaining_s: Time left before the deadline.
    """

    begun: bool
    allowed: bool
    forced: bool
    tool_loop: bool
    fell_back: bool
    opus_available: bool
    ceiling_nano_usd: int | None
    spent_nano_usd: int | None
    expected_nano_usd: int | None
    budget_fits: bool
    remaining_s: float


def objection(now: Circumstances, needed_s: float) -> Objection | None:
    """Say what forbids asking Opus, None for nothing; of several the first, in the order of `Objection`."""
    if now.begun:
        return Objection.BEGUN
    if not now.allowed or now.forced:
        return Objection.FORBIDDEN
    if now.tool_loop:
        return Objection.TOOL_LOOP
    if now.fell_back:
        return Objection.FELL_BACK
    if not now.opus_available:
        return Objection.UNAVAILABLE
    if now.ceiling_nano_usd is not None:
        if now.spent_nano_usd is None or now.expected_nano_usd is None:
            return Objection.CEILING
        if now.spent_nano_usd + now.expected_nano_usd > now.ceiling_nano_usd:
            return Objection.CEILING
    if not now.budget_fits:
        return Objection.BUDGET
    return Objection.DEADLINE if now.remaining_s < needed_s else None


def signal_of(reply: Reply, call: Call) -> Signal | None:
    """Say how an answer failed, None when nothing of it shows a failure."""
    match reply.finish_reason:
        case FinishReason.REFUSAL:
            return Signal.REFUSAL
        case FinishReason.MALFORMED:
            return Signal.MALFORMED
        case FinishReason.MAX_TOKENS | FinishReason.CONTEXT_WINDOW:
            return Signal.TRUNCATED
        case FinishReason.PAUSED | FinishReason.STOP_SEQUENCE:
            return None  # not at its end, by what the caller or the provider's own tools asked for
        case _:
            pass
    calls = [part for part in reply.parts if isinstance(part, ToolCall)]
    if calls:
        return Signal.MALFORMED if any(_is_malformed(each, call) for each in calls) else None
    text = "".join([part.text for part in reply.parts if isinstance(part, Text)])
    if not text.strip():
        return Signal.EMPTY
    if call.output_schema_json and _violates(text, call.output_schema_json):
        return Signal.SCHEMA
    return None


def _is_malformed(made: ToolCall, call: Call) -> bool:
    schema = next((tool.input_schema_json for tool in call.tools if tool.name == made.name), None)
    if schema is None:
        return True
    try:
        arguments = _decoded(made.arguments_json or "{}")
    except ValueError:
        return True
    return not isinstance(arguments, dict) or keeps(_schema(schema), arguments) is False


def _violates(text: str, schema_json: str) -> bool:
    try:
        answer = _decoded(text)
    except ValueError:
        return True
    return keeps(_schema(schema_json), answer) is False


def _decoded(text: str) -> Any:
    """Decode JSON as whoever receives it may: half a character spelled as an escape is taken, NaN is not.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _schema(text: str) -> Any:
    return _cached_schema(text) if len(text) <= CACHED_SCHEMA_CHARACTERS else _parsed(text)


def _parsed(text: str) -> Any:
    try:
        return _decoded(text)
    except ValueError:
        return True  # checked when the request was taken; what cannot be read forbids nothing


_cached_schema = lru_cache(maxsize=256)(_parsed)
