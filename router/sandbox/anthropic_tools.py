"""Tool definitions, read strictly (A-TOOLS, A-SDK 2.12.0; 2026-11).

Rule: a custom tool is a cacheable block whose canonical bytes keep the caller's key order; web search and
web fetch are accepted, stand outside the tools prefix and are never called. Other server tools are refused,
saying so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from router.sandbox.anthropic_errors import Path, a_boolean, a_string, invalid, one_of, only
from router.sandbox.anthropic_pieces import TOOL_NAME, Block, marker_of
from router.sandbox.wire import Json, encode

TOOL_TOKENS = 8
"""Framing of one definition *(sandbox choice)*."""

_SERVER_TOOL = re.compile(r"web_(search|fetch)_[0-9]{8}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """A tool on offer. `server` names web search or fetch, which the sandbox accepts but never calls."""

    name: str
    schema: Json
    strict: bool
    deferred: bool
    server: bool
    block: Block


_TOOL = frozenset(
    {
        "name",
        "description",
        "input_schema",
        "strict",
        "cache_control",
        "defer_loading",
        "eager_input_streaming",
        "type",
        "allowed_callers",
        "input_examples",
    }
)
_SERVER = frozenset(
    {
        "type",
        "name",
        "cache_control",
        "max_uses",
        "allowed_domains",
        "blocked_domains",
        "user_location",
        "citations",
        "max_content_tokens",
        "defer_loading",
    }
)


def tool_definition(item: Any, index: int) -> ToolDefinition:
    """Read one entry of `tools`."""
    path: Path = ("tools", index)
    kind = item.get("type") if isinstance(item, dict) else None
    if isinstance(kind, str) and kind != "custom":
        return _server_tool(item, kind, path, index)
    only(item, path, _TOOL, ("name", "input_schema"))
    name = a_string(item["name"], (*path, "name"))
    if not TOOL_NAME.match(name):
        raise invalid((*path, "custom", "name"), "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
    description = item.get("description", "")
    a_string(description, (*path, "description"))
    schema = item["input_schema"]
    if not isinstance(schema, dict):
        raise invalid((*path, "input_schema"), "Input should be a valid dictionary")
    if "type" not in schema:
        raise invalid((*path, "input_schema", "type"), "Field required")
    one_of(schema["type"], (*path, "input_schema", "type"), ("object",))
    for flag in ("strict", "defer_loading"):
        a_boolean(item.get(flag, False), (*path, flag))
    marker = marker_of(item.get("cache_control"), (*path, "cache_control"))
    deferred = bool(item.get("defer_loading"))
    if deferred and marker:
        raise invalid((*path, "cache_control"), "cache_control cannot be set on a tool with defer_loading")
    shown = {k: item[k] for k in sorted(item) if k != "cache_control"}
    text = f"{name} {description} {encode(schema).decode()}"
    block = Block("tool", "", -1, index, encode(shown), text, item, TOOL_TOKENS, marker)
    return ToolDefinition(
        name=name,
        schema=schema,
        strict=bool(item.get("strict")),
        deferred=deferred,
        server=False,
        block=block,
    )


def _server_tool(item: Any, kind: str, path: Path, index: int) -> ToolDefinition:
    match = _SERVER_TOOL.match(kind)
    if match is None:
        raise invalid(
            path,
            f"Input tag '{kind}' found using 'type' does not match any of the expected tags: "
            "'custom', 'web_search_*', 'web_fetch_*' (the sandbox offers no other server tool)",
        )
    only(item, path, _SERVER, ("type", "name"))
    one_of(item["name"], (*path, "name"), (f"web_{match.group(1)}",))
    if marker_of(item.get("cache_control"), (*path, "cache_control")):
        raise invalid((*path, "cache_control"), "the sandbox takes no marker on a server tool")
    block = Block("tool", "", -1, index, encode(item), "", item)
    return ToolDefinition(
        name=item["name"], schema={}, strict=False, deferred=False, server=True, block=block
    )
