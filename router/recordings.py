"""Public recordings of conversations read as workloads: tool dialogues and growing agent prompts.

The rule: a request is what the recording says the model was sent at that point, nothing of it invented. The
recorded answers, not the router's, are its history. Neither kind has usable timing, so the caller lays the
sessions on a timeline (`router.timeline.interleave`).

tool_dialogues: lines {"type": "system", "id", "content"}, then dialogues with `messages` in the OpenAI chat
format. Every assistant message is one request: the system prompt and all messages before it. Tools are not
recorded; their definitions are derived from every call in the file (names sorted, one property per argument
key seen, required if in every call of the tool), so they are the same bytes in every request. Recorded call
ids repeat within a dialogue; the second use of an id gets "-2", and so on.

agent_text: lines {"agent", "session", "seq", "t", "keep", "add", "output"}; the prompt of a request is the
session's previous prompt cut to `keep` characters, plus `add`. In the recordings read for this (10 sessions
of a software agent, 224 prompts) no prompt ever holds the model's own recorded output and every prompt only
appends. So the whole prompt is the user's: one user message with one text part per append, whose texts join
to the recorded prompt byte for byte. A client that sends so marks the last part and reads all earlier parts
from the cache. Putting `output` between as assistant messages would be a prompt nobody sent. Where a prompt
drops a tail of the previous one, parts before the cut stay byte-identical and the part that is cut is joined
with what follows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.call import Message, Role, Text, Tool, ToolCall, ToolResult
from router.timeline import WorkloadError, WorkloadRequest, compact_json, result_text

Row = tuple[int, Mapping[str, Any]]
"""1-based line number and the object on it."""

_JSON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


def tool_dialogues(rows: Sequence[Row], source: str) -> list[tuple[WorkloadRequest, ...]]:
    """Return the requests of each dialogue, in file order.

    Raises:
        WorkloadError: A line is not of this format, or a tool call and its results do not belong together.
    """
    systems: dict[str, str] = {}
    dialogues: list[tuple[int, str, str, list[Message]]] = []
    sessions: dict[str, int] = {}
    for number, raw in rows:
        where = _Where(source, number)
        match raw.get("type"):
            case "system":
                systems[where.text(raw, "id")] = where.text(raw, "content")
            case "dialogue":
                system = raw.get("system", "")
                if system not in systems:
                    raise where.error("system", f"{system!r} is not an id of a system line before")
                name = f"dialogue-{raw.get('task', number)}-{raw.get('trial', 0)}"
                sessions[name] = sessions.get(name, 0) + 1
                session = name if sessions[name] == 1 else f"{name}-{sessions[name]}"
                dialogues.append((number, session, systems[system], _dialogue(raw, where)))
            case other:
                raise where.error("type", f"must be system or dialogue, got {other!r}")
    tools = _derived_tools(message for _, _, _, messages in dialogues for message in messages)
    return [
        tuple(_requests(messages, session, system, tools, _Where(source, number)))
        for number, session, system, messages in dialogues
    ]


def agent_text(rows: Sequence[Row], source: str) -> list[tuple[WorkloadRequest, ...]]:
    """Return the requests of each session, sessions in the order they first appear.

    Raises:
        WorkloadError: A line is not of this format, or `keep` is longer than the prompt before.
    """
    sessions: dict[str, list[WorkloadRequest]] = {}
    prompts: dict[str, tuple[str, ...]] = {}
    for number, raw in rows:
        where = _Where(source, number)
        session, added = where.text(raw, "session"), where.text(raw, "add", blank=True)
        keep, held = raw.get("keep"), prompts.get(session, ())
        length = sum(map(len, held))
        if not isinstance(keep, int) or isinstance(keep, bool) or not 0 <= keep <= length:
            raise where.error("keep", f"must be 0 to {length}, the length of the prompt before, got {keep!r}")
        parts = _regrown(held, keep, added)
        if not parts:
            raise where.error("add", "leaves the prompt blank")
        prompts[session] = parts
        requests = sessions.setdefault(session, [])
        requests.append(
            WorkloadRequest(
                id=f"{session}-{len(requests)}",
                session=session,
                messages=(Message(Role.USER, tuple(map(Text, parts))),),
                labels={"agent": str(raw.get("agent", ""))},
            )
        )
    return [tuple(requests) for requests in sessions.values()]


def _regrown(held: tuple[str, ...], keep: int, added: str) -> tuple[str, ...]:
    """Cut a prompt in parts to `keep` characters and append `added`; no part is blank."""
    whole: list[str] = []
    rest = keep
    for part in held:
        if len(part) > rest:
            added = part[:rest] + added
            break
        whole.append(part)
        rest -= len(part)
    if added.strip():
        whole.append(added)
    elif added and whole:  # white space alone cannot be a part of its own
        whole[-1] += added
    return tuple(whole)


@dataclass(frozen=True, slots=True)
class _Where:
    """A line of a file, to name it in errors."""

    source: str
    number: int

    def error(self, name: str, problem: str) -> WorkloadError:
        return WorkloadError(self.source, self.number, problem, field=name)

    def text(self, raw: Mapping[str, Any], name: str, *, blank: bool = False) -> str:
        value = raw.get(name)
        if not isinstance(value, str) or not (blank or value.strip()):
            raise self.error(name, f"must be {'' if blank else 'non-blank '}text, got {type(value).__name__}")
        return value


@dataclass(slots=True)
class _CallIds:
    """Unique call ids: the nth use of a recorded id gets "-n"; a result answers the latest use."""

    uses: dict[str, int] = field(default_factory=dict)

    def new(self, recorded: str) -> str:
        self.uses[recorded] = self.uses.get(recorded, 0) + 1
        return self.latest(recorded)

    def latest(self, recorded: str) -> str:
        return recorded if self.uses[recorded] == 1 else f"{recorded}-{self.uses[recorded]}"


def _dialogue(raw: Mapping[str, Any], where: _Where) -> list[Message]:
    """Return the messages of a dialogue; several recorded tool messages in a row become one user message."""
    recorded = raw.get("messages")
    if not isinstance(recorded, list) or not all(isinstance(entry, dict) for entry in recorded):
        raise where.error("messages", "must be a list of objects")
    ids = _CallIds()
    messages: list[Message] = []
    previous = ""
    for index, entry in enumerate(recorded):
        at = f"messages[{index}]"
        match role := entry.get("role"):
            case "user":
                messages.append(Message(Role.USER, (Text(where.text(entry, "content")),)))
            case "assistant":
                messages.append(_assistant(entry, at, ids, where))
            case "tool":
                result = _result(entry, at, ids, where)
                if previous == "tool":
                    messages[-1] = Message(Role.USER, (*messages[-1].parts, result))
                else:
                    messages.append(Message(Role.USER, (result,)))
            case _:
                raise where.error(f"{at}.role", f"must be user, assistant or tool, got {role!r}")
        previous = role
    return messages


def _assistant(entry: Mapping[str, Any], at: str, ids: _CallIds, where: _Where) -> Message:
    parts: list[Text | ToolCall] = []
    if isinstance(text := entry.get("content"), str) and text.strip():
        parts.append(Text(text))
    for index, call in enumerate(entry.get("tool_calls") or ()):
        name = f"{at}.tool_calls[{index}]"
        arguments = call.get("arguments")
        try:
            value = json.loads(arguments) if isinstance(arguments, str) else arguments
        except json.JSONDecodeError as error:
            raise where.error(f"{name}.arguments", f"is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise where.error(f"{name}.arguments", f"must be a JSON object, got {type(value).__name__}")
        # The recorded text is kept: its bytes are part of a cached prefix.
        spelt = arguments if isinstance(arguments, str) else compact_json(value)
        parts.append(ToolCall(ids.new(where.text(call, "id")), where.text(call, "name"), spelt))
    if not parts:
        raise where.error(at, "an assistant message needs content or tool_calls")
    return Message(Role.ASSISTANT, tuple(parts))


def _result(entry: Mapping[str, Any], at: str, ids: _CallIds, where: _Where) -> ToolResult:
    recorded = where.text(entry, "tool_call_id")
    if recorded not in ids.uses:
        raise where.error(f"{at}.tool_call_id", f"{recorded!r} answers no call before it")
    return ToolResult(
        ids.latest(recorded),
        (Text(result_text(entry.get("content") or "")),),
        name=str(entry.get("name") or ""),
    )


def _requests(
    messages: Sequence[Message], session: str, system: str, tools: tuple[Tool, ...], where: _Where
) -> Iterator[WorkloadRequest]:
    """One request per assistant message, with all messages before it."""
    turn = 0
    for index, message in enumerate(messages):
        if message.role is not Role.ASSISTANT:
            continue
        if index == 0 or messages[index - 1].role is Role.ASSISTANT:
            raise where.error(
                f"message {index} of {session}", "an assistant message must follow a user or tool message"
            )
        if index >= 2:
            _check_answered(
                messages[index - 2], messages[index - 1], f"message {index - 1} of {session}", where
            )
        yield WorkloadRequest(
            id=f"{session}-{turn}",
            session=session,
            system=(system,),
            tools=tools,
            messages=tuple(messages[:index]),
        )
        turn += 1


def _check_answered(asked: Message, answered: Message, at: str, where: _Where) -> None:
    calls = {part.id for part in asked.parts if isinstance(part, ToolCall)}
    results = {part.call_id for part in answered.parts if isinstance(part, ToolResult)}
    if calls != results:
        raise where.error(
            at, f"{len(calls)} tool calls need as many results in the next message, got {len(results)}"
        )


def _derived_tools(messages: Iterable[Message]) -> tuple[Tool, ...]:
    """Derive tool definitions from the calls seen; sorted by name, properties too."""
    calls: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCall):
                calls.setdefault(part.name, []).append(json.loads(part.arguments_json))
    return tuple(
        Tool(
            name,
            f"{name.replace('_', ' ')} (derived from recorded calls)",
            compact_json(_schema(calls[name])),
        )
        for name in sorted(calls)
    )


def _schema(values: Sequence[Any]) -> dict[str, Any]:
    """Derive the JSON Schema that all `values` meet: their types, and those of what they hold."""
    types = sorted({_JSON_TYPES[type(value)] for value in values})
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        keys = sorted({key for value in objects for key in value})
        schema["properties"] = {
            key: _schema([value[key] for value in objects if key in value]) for key in keys
        }
        schema["required"] = [key for key in keys if all(key in value for value in objects)]
    if elements := [element for value in values if isinstance(value, list) for element in value]:
        schema["items"] = _schema(elements)
    return schema
