"""Workloads: files of requests to send to a router, one JSON object a line, plain or gzip-compressed.

The rule: a file is a timeline. Lines are sent in file order, `after_s` is the idle time since the line
before, and every line is checked before anything is sent; an error names file, line, field, value and limit.

The format has three kinds of lines. The first may be a header; user lines precede the requests naming them:

    {"type": "workload", "version": 1, "max_tool_steps": 3, "tool_results": {"get_task": {"id": 7}}}
    {"type": "user", "user": "u-1", "tenant": "acme", "user_context": ["..."], "labels": {"plan": "team"}}
    {"id": "r-1", "session": "s-1", "user": "u-1", "application": "workspace", "turn": "What is due today?"}

A request has these fields; all but one of `turn` and `messages` may be left out:

    type                 "request"
    id                   name of the request in reports; default "line-N"
    session              conversation; requests of one session are sent one after another
    user, tenant         who asks; a user line supplies what the request leaves out
    application          registered application
    system, tools        its own system prompt (list of text) and tools ({name, description, input_schema})
    user_context         list of text
    turn                 new user turn, text or message; follows what the session holds, the router's answers
                         included
    messages             the whole conversation instead; replaces what the session holds
    after_s              idle seconds of virtual time since the line before, >= 0; default 0
    stream               StreamGenerate instead of Generate; default false
    cancel_after_events  leave the stream after so many events, >= 1
    max_output_tokens    1 to 128,000; default: the application's
    effort               low, medium, high, xhigh or max
    cache_strategy       none, a, b, c or auto
    constraints          {forced_route, quality_floor, cost_ceiling_nano_usd, no_cache,
                         expected_follow_up_count, no_fallback, no_exploration, no_escalation}
    labels               cost buckets, text to text
    action               what the user did before, e.g. "open_analysis_page"
    tool_results         results by tool name, over those of the header

A message is {"role": "user" | "assistant", "text": ...} or {"role", "parts": [...]}; a part holds exactly one
of `text`, `image` and `document` ({media_type, data (base64), title}), `tool_call` ({id, name, arguments})
and `tool_result` ({tool_call_id, content, is_error}). A result that is not text is sent as compact JSON.
Thinking has no place in a file: it binds to the model that made it, so only a running conversation can hold
it.

Two kinds of public recordings are read as well (`router.recordings`). Not known here: what a router answers.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from router.call import Document, Effort, Image, Message, Part, Role, Text, Tool, ToolCall, ToolResult
from router.recordings import agent_text, tool_dialogues
from router.timeline import (
    RequestConstraints,
    Workload,
    WorkloadError,
    WorkloadRequest,
    compact_json,
    interleave,
    result_text,
)

__all__ = ["Workload", "WorkloadError", "WorkloadRequest", "parse_workload", "read_workload"]

MAX_TOOL_STEPS_LIMIT = 20
"""Most tool steps a header may ask for: a model that calls tools forever must not spend forever."""

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Words = Annotated[str, Meta(min_length=1, pattern=r"\S")]
Labels = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=128)]], Meta(max_length=16)
]
Object = dict[str, Any]


def read_workload(
    path: Path, *, limit: int | None = None, spacing_s: float = 20.0, concurrency: int = 4
) -> Workload:
    """Read a workload or a recording; its format is told by its first line.

    Args:
        path: Plain or gzip-compressed (told by its first bytes, not its name).
        limit: Most requests to keep, in the order they are sent, >= 1; None for all.
        spacing_s: Seconds between a session's requests, >= 0; only for recordings, which have no timing.
        concurrency: Sessions open at once, >= 1; only for recordings.

    Raises:
        WorkloadError: The file cannot be read or a line is wrong.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise WorkloadError(path.name, 0, f"is not UTF-8 text at byte {error.start}") from error
    except (OSError, EOFError) as error:  # gzip reports damage as OSError or EOFError
        raise WorkloadError(str(path), 0, f"cannot be read: {error}") from error
    return parse_workload(
        text.split("\n"), source=path.name, limit=limit, spacing_s=spacing_s, concurrency=concurrency
    )


def parse_workload(
    lines: Iterable[str],
    *,
    source: str,
    limit: int | None = None,
    spacing_s: float = 20.0,
    concurrency: int = 4,
) -> Workload:
    """Parse the lines of a workload or a recording; arguments as in `read_workload`.

    Raises:
        WorkloadError: A line is wrong, or there is no request.
        ValueError: An argument is out of range.
    """
    if (limit is not None and limit < 1) or not 0 <= spacing_s < float("inf") or concurrency < 1:
        raise ValueError(
            f"limit and concurrency must be >= 1, spacing_s >= 0; got {limit}, {concurrency}, {spacing_s}"
        )
    rows = list(_objects(lines, source))
    if not rows:
        raise WorkloadError(source, 0, "holds no line")
    number, first = rows[0]
    if first.get("type") == "system" and "content" in first:
        sessions = tool_dialogues(rows, source)
        workload = Workload(
            source=source,
            format="tool_dialogues",
            requests=interleave(sessions, spacing_s=spacing_s, concurrency=concurrency),
        )
    elif {"keep", "add", "seq"} <= first.keys():
        sessions = agent_text(rows, source)
        workload = Workload(
            source=source,
            format="agent_text",
            requests=interleave(sessions, spacing_s=spacing_s, concurrency=concurrency),
        )
    elif first.get("type", "request") in _LINE_TYPES:
        workload = _own_format(rows, source)
    else:
        raise WorkloadError(
            source,
            number,
            f"got {_shown(first['type'])}, which opens none of the formats known: workload ('workload', "
            "'user', 'request' or no type), tool_dialogues ('system'), agent_text (keys keep, add, seq)",
            field="type",
        )
    if not workload.requests:
        raise WorkloadError(source, 0, "holds no request")
    return workload if limit is None else replace(workload, requests=workload.requests[:limit])


class _Media(Struct, frozen=True, forbid_unknown_fields=True):
    media_type: Words
    data: bytes
    title: str = ""


class _ToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    id: Name
    name: Name
    arguments: Object = {}


class _ToolResult(Struct, frozen=True, forbid_unknown_fields=True):
    tool_call_id: Name
    content: Any
    is_error: bool = False


class _Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    text: Words | None = None
    image: _Media | None = None
    document: _Media | None = None
    tool_call: _ToolCall | None = None
    tool_result: _ToolResult | None = None


class _Message(Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    text: Words | None = None
    parts: Annotated[list[_Part], Meta(min_length=1)] | None = None


class _Tool(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z_][a-zA-Z0-9_-]{0,127}$")]
    description: str = ""
    input_schema: Object = msgspec.field(default_factory=lambda: {"type": "object"})


class _Constraints(Struct, frozen=True, forbid_unknown_fields=True):
    forced_route: Literal["", "flash", "opus"] = ""
    quality_floor: Annotated[float, Meta(ge=0, le=1)] | None = None
    cost_ceiling_nano_usd: Annotated[int, Meta(gt=0)] | None = None
    no_cache: bool = False
    expected_follow_up_count: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    no_fallback: bool = False
    no_exploration: bool = False
    no_escalation: bool = False


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["workload"]
    version: Literal[1]
    max_tool_steps: Annotated[int, Meta(ge=0, le=MAX_TOOL_STEPS_LIMIT)] = 0
    tool_results: Object = {}


class _User(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["user"]
    user: Name
    tenant: Annotated[str, Meta(max_length=128)] = ""
    user_context: tuple[Words, ...] = ()
    labels: Labels = {}


class _Request(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    type: Literal["request"] = "request"
    id: Name | None = None
    session: Annotated[str, Meta(max_length=128)] = ""
    tenant: Annotated[str, Meta(max_length=128)] | None = None
    user: Annotated[str, Meta(max_length=128)] = ""
    application: str = ""
    system: tuple[Words, ...] = ()
    tools: tuple[_Tool, ...] = ()
    user_context: tuple[Words, ...] | None = None
    turn: Words | _Message | None = None
    messages: Annotated[list[_Message], Meta(min_length=1)] | None = None
    after_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0
    stream: bool = False
    cancel_after_events: Annotated[int, Meta(ge=1)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=128_000)] | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    cache_strategy: Literal["none", "a", "b", "c", "auto"] | None = None
    constraints: _Constraints = _Constraints()
    labels: Labels = {}
    action: Annotated[str, Meta(max_length=64)] = ""
    tool_results: Object = {}


_LINE_TYPES: Mapping[str, type[Struct]] = {"workload": _Header, "user": _User, "request": _Request}


def _objects(lines: Iterable[str], source: str) -> Iterator[tuple[int, Object]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise WorkloadError(source, number, f"is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise WorkloadError(source, number, f"must be a JSON object, got {type(value).__name__}")
        yield number, value


def _own_format(rows: list[tuple[int, Object]], source: str) -> Workload:
    header = _Header(type="workload", version=1)
    users: dict[str, _User] = {}
    requests: list[WorkloadRequest] = []
    ids: set[str] = set()
    for position, (number, raw) in enumerate(rows):
        match _line(raw, source, number):
            case _Header() as header:
                if position:
                    raise WorkloadError(source, number, "the header must be the first line", field="type")
            case _User(user=name) as user:
                if name in users:
                    raise WorkloadError(source, number, f"{name!r} has a line already", field="user")
                users[name] = user
            case _Request() as line:
                try:
                    request = _request(line, number, users.get(line.user), header)
                except ValueError as error:
                    name, _, problem = str(error).partition(": ")
                    raise WorkloadError(source, number, problem, field=name) from error
                if request.id in ids:
                    raise WorkloadError(source, number, f"{request.id!r} is used twice", field="id")
                ids.add(request.id)
                requests.append(request)
    return Workload(
        source=source, format="workload", requests=tuple(requests), max_tool_steps=header.max_tool_steps
    )


def _line(raw: Object, source: str, number: int) -> Struct:
    kind = raw.get("type", "request")
    shape = _LINE_TYPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise WorkloadError(
            source, number, f"got {_shown(kind)}; known: {', '.join(_LINE_TYPES)}", field="type"
        )
    try:
        return msgspec.convert(raw, shape)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        path = path.removesuffix("`").removeprefix(".")
        got = _value_at(raw, path)
        raise WorkloadError(source, number, problem + got, field=path) from error


def _value_at(raw: Object, path: str) -> str:
    """Return ", got VALUE" for the value at a msgspec path, "" where there is none."""
    if not path:
        return ""
    value: Any = raw
    for step in re.findall(r"[^.\[\]]+", path):
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return ""
    return f", got {_shown(value)}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _request(line: _Request, number: int, user: _User | None, header: _Header) -> WorkloadRequest:
    if (line.turn is None) == (line.messages is None):
        raise ValueError("turn: give either turn or messages")
    if line.cancel_after_events is not None and not line.stream:
        raise ValueError("cancel_after_events: needs stream true; a unary call has no events")
    if line.turn is not None:
        turn = _Message("user", line.turn) if isinstance(line.turn, str) else line.turn
        messages: tuple[Message, ...] = (_message(turn, "turn"),)
    else:
        given = line.messages or []
        messages = tuple(_message(message, f"messages[{i}]") for i, message in enumerate(given))
    if messages[-1].role is not Role.USER:
        name = "turn.role" if line.turn is not None else f"messages[{len(messages) - 1}].role"
        raise ValueError(f"{name}: must be user: a request ends with what is to be answered, got assistant")
    results = {**header.tool_results, **line.tool_results}
    return WorkloadRequest(
        id=line.id or f"line-{number}",
        session=line.session,
        tenant=line.tenant if line.tenant is not None else user.tenant if user else "",
        user=line.user,
        application=line.application,
        system=line.system,
        tools=tuple(
            Tool(tool.name, tool.description, compact_json(tool.input_schema)) for tool in line.tools
        ),
        user_context=line.user_context
        if line.user_context is not None
        else user.user_context
        if user
        else (),
        messages=messages,
        continues=line.turn is not None,
        after_s=line.after_s,
        stream=line.stream,
        cancel_after_events=line.cancel_after_events,
        max_output_tokens=line.max_output_tokens or 0,
        effort=Effort(line.effort) if line.effort else None,
        cache_strategy=line.cache_strategy or "",
        constraints=RequestConstraints(**msgspec.structs.asdict(line.constraints)),
        labels={**(user.labels if user else {}), **line.labels},
        action=line.action,
        tool_results={name: result_text(value) for name, value in results.items()},
    )


def _message(message: _Message, where: str) -> Message:
    if (message.text is None) == (message.parts is None):
        raise ValueError(f"{where}: give either text or parts")
    if message.text is not None:
        return Message(Role(message.role), (Text(message.text),))
    parts = message.parts or []
    return Message(
        Role(message.role), tuple(_part(part, f"{where}.parts[{i}]") for i, part in enumerate(parts))
    )


def _part(part: _Part, where: str) -> Part:
    given = [name for name in part.__struct_fields__ if getattr(part, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"{where}: give exactly one of {', '.join(part.__struct_fields__)}; "
            f"got {', '.join(given) or 'none'}"
        )
    match part:
        case _Part(text=str(text)):
            return Text(text)
        case _Part(image=_Media() as media):
            return Image(media.media_type, media.data)
        case _Part(document=_Media() as media):
            return Document(media.media_type, media.data, media.title)
        case _Part(tool_call=_ToolCall() as call):
            return ToolCall(call.id, call.name, compact_json(call.arguments))
        case _Part(tool_result=_ToolResult() as result):
            text = result_text(result.content)
            return ToolResult(result.tool_call_id, (Text(text),), is_error=result.is_error)
        case _:
            raise AssertionError(f"{where}: a kind of part without a case: {given}")
