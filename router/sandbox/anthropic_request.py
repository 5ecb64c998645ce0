"""A Messages request, read strictly: known fields, types, ranges, and the rules that name no other message.

Rule: what is read here is refused here with the offending path; what depends on several parts together
(pairing, markers, model rules) is in `anthropic_rules`. Sources: A-SDK 2.12.0, A-VER, A-THINK, A-EFFORT,
A-STRUCT, A-FAST, A-GEO; 2026-11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.sandbox.anthropic_blocks import BlockReader
from router.sandbox.anthropic_errors import (
    ApiError,
    a_boolean,
    a_list,
    a_string,
    an_integer,
    invalid,
    one_of,
    only,
)
from router.sandbox.anthropic_models import ClaudeModel, find
from router.sandbox.anthropic_params import (
    read_geo,
    read_output_config,
    read_speed,
    read_thinking,
    read_tool_choice,
)
from router.sandbox.anthropic_pieces import Block, marker_of, system_blocks
from router.sandbox.anthropic_tools import ToolDefinition, tool_definition
from router.sandbox.wire import Json

OLD_VERSION = "2023-06-01"
NEW_VERSION = "2026-10-21"
MAX_MESSAGES = 100_000

_COUNTED = frozenset(
    {
        "messages",
        "model",
        "cache_control",
        "output_config",
        "speed",
        "system",
        "thinking",
        "tool_choice",
        "tools",
        "user_profile_id",
    }
)
_CREATED = _COUNTED | {
    "max_tokens",
    "container",
    "diagnostics",
    "inference_geo",
    "metadata",
    "service_tier",
    "stop_sequences",
    "stream",
    "workspace_id",
}
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Consecutive messages of one role, merged as the server does."""

    role: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesRequest:
    """One request as understood. Defaults are resolved: `thinking` and `effort` are what the model will use.

    `max_tokens` is None for token counting. `auto_marker` is the TTL of automatic caching.
    """

    model: ClaudeModel
    requested_model: str
    tools: tuple[ToolDefinition, ...]
    system: tuple[Block, ...]
    turns: tuple[Turn, ...]
    max_tokens: int | None
    tool_choice: str
    tool_name: str | None
    parallel: bool
    stop_sequences: tuple[str, ...]
    stream: bool
    thinking: str
    budget_tokens: int | None
    display: str
    effort: str | None
    format_schema: Json | None
    auto_marker: str | None
    diagnostics: bool
    previous_message_id: str | None
    inference_geo: str
    speed: str
    sampling: Json
    workspace_id: str | None


def read(body: Any, *, version: str, betas: frozenset[str], now: float, counting: bool) -> MessagesRequest:
    """Read a request body.

    Raises:
        ApiError: for the first offence found.
    """
    old = version == OLD_VERSION
    allowed = _COUNTED if counting else _CREATED
    if old:
        allowed = allowed | _SAMPLING
    required = ("model", "messages") if counting else ("model", "max_tokens", "messages")
    only(body, (), allowed, required)
    name = a_string(body["model"], ("model",))
    model = find(name, now)
    if model is None:
        raise ApiError("not_found_error", f"model: {name}")
    thinking, budget, display = read_thinking(body.get("thinking"), model)
    effort, schema = read_output_config(body.get("output_config"), model)
    choice, tool_name, parallel = read_tool_choice(body)
    return MessagesRequest(
        model=model,
        requested_model=name,
        tools=_tools(body.get("tools")),
        system=tuple(system_blocks(body["system"])) if body.get("system") is not None else (),
        turns=_turns(body["messages"], old_version=old),
        max_tokens=None if counting else _max_tokens(body["max_tokens"], model),
        tool_choice=choice,
        tool_name=tool_name,
        parallel=parallel,
        stop_sequences=_stop_sequences(body.get("stop_sequences")),
        stream=a_boolean(body.get("stream", False), ("stream",)),
        thinking=thinking,
        budget_tokens=budget,
        display=display,
        effort=effort,
        format_schema=schema,
        auto_marker=marker_of(body.get("cache_control"), ("cache_control",)),
        diagnostics=body.get("diagnostics") is not None,
        previous_message_id=_previous_message(body.get("diagnostics")),
        inference_geo=read_geo(body.get("inference_geo"), model),
        speed=read_speed(body.get("speed"), model, betas),
        sampling={k: body[k] for k in _SAMPLING if body.get(k) is not None},
        workspace_id=_passengers(body),
    )


def _tools(value: Any) -> tuple[ToolDefinition, ...]:
    if value is None:
        return ()
    tools = tuple(tool_definition(item, i) for i, item in enumerate(a_list(value, ("tools",))))
    if len({t.name for t in tools}) < len(tools):
        raise invalid(("tools",), "Tool names must be unique.")
    if sum(t.strict for t in tools) > 20:
        raise invalid(("tools",), "at most 20 strict tools are permitted")
    return tools


def _turns(value: Any, *, old_version: bool) -> tuple[Turn, ...]:
    messages = a_list(value, ("messages",))
    if not messages:
        raise invalid(("messages",), "at least one message is required")
    if len(messages) > MAX_MESSAGES:
        raise invalid(("messages",), f"at most {MAX_MESSAGES} messages are permitted")
    turns: list[tuple[str, list[Block]]] = []
    for i, item in enumerate(messages):
        path = ("messages", i)
        only(item, path, frozenset({"role", "content"}), ("role", "content"))
        role = one_of(item["role"], (*path, "role"), ("user", "assistant", "system"))
        blocks = BlockReader(role, i, old_version).content(item["content"])
        if not blocks and not (role == "assistant" and i == len(messages) - 1):
            raise invalid(
                path,
                "all messages must have non-empty content except for the optional final assistant message",
            )
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return tuple(Turn(role=role, blocks=tuple(blocks)) for role, blocks in turns)


def _max_tokens(value: Any, model: ClaudeModel) -> int:
    tokens = an_integer(value, ("max_tokens",), at_least=0)
    if tokens > model.max_output_tokens:
        raise invalid(
            ("max_tokens",),
            f"{tokens} > {model.max_output_tokens}, which is the maximum allowed number of output tokens "
            f"for {model.id}",
        )
    return tokens


def _stop_sequences(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    out = []
    for i, item in enumerate(a_list(value, ("stop_sequences",))):
        if not a_string(item, ("stop_sequences", i)).strip():
            raise invalid(("stop_sequences",), "each stop sequence must contain non-whitespace")
        out.append(item)
    return tuple(out)


def _previous_message(value: Any) -> str | None:
    if value is None:
        return None
    only(value, ("diagnostics",), frozenset({"previous_message_id"}))
    previous = value.get("previous_message_id")
    return None if previous is None else a_string(previous, ("diagnostics", "previous_message_id"))


def _passengers(body: Json) -> str | None:
    """Check the fields that change nothing here; return the workspace asked for."""
    if body.get("metadata") is not None:
        only(body["metadata"], ("metadata",), frozenset({"user_id"}))
        user = body["metadata"].get("user_id")
        if user is not None and len(a_string(user, ("metadata", "user_id"))) > 256:
            raise invalid(("metadata", "user_id"), "String should have at most 256 characters")
    if body.get("service_tier") is not None:
        one_of(body["service_tier"], ("service_tier",), ("auto", "standard_only"))
    if body.get("container") is not None:
        raise invalid(("container",), "the sandbox offers no code execution containers")
    if "user_profile_id" in body:
        a_string(body["user_profile_id"], ("user_profile_id",))
    if body.get("workspace_id") is None:
        return None
    return a_string(body["workspace_id"], ("workspace_id",))
