"""Gemini function declarations and their calling mode, read strictly (G-GEN, G-FC; 2026-11).

Rule: names, schema fields and type names are known in both spellings; built-in tools are refused, saying
so. Schemas given as JSON Schema are taken as they are.
"""

from __future__ import annotations

from typing import Any

from router.sandbox.gemini_contents import check_name
from router.sandbox.gemini_errors import Fields, invalid
from router.sandbox.replies import Tool
from router.sandbox.wire import Json, encode

_TOOL = Fields("functionDeclarations")
_BUILT_IN = frozenset(
    [
        "googleSearch",
        "google_search",
        "codeExecution",
        "code_execution",
        "urlContext",
        "url_context",
        "googleMaps",
        "google_maps",
        "fileSearch",
        "file_search",
        "computerUse",
        "computer_use",
        "googleSearchRetrieval",
        "google_search_retrieval",
        "mcpServers",
        "mcp_servers",
    ]
)
_DECLARATION = Fields(
    "name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior"
)
_TOOL_CONFIG = Fields("functionCallingConfig")
_CALLING = Fields("mode", "allowedFunctionNames")
_SCHEMA = Fields(
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
    "additionalProperties",
    "defs",
    "ref",
)
_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"})
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")


def read_tools(value: Any) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """Read `tools`: what may be called, and the canonical JSON of each declaration.

    Raises:
        GoogleError: naming the field.
    """
    if not isinstance(value, list):
        raise invalid("Invalid value at 'tools', expected a list", "tools")
    tools: list[Tool] = []
    shown: list[str] = []
    for i, item in enumerate(value):
        at = f"tools[{i}]"
        if isinstance(item, dict) and not _BUILT_IN.isdisjoint(item):
            raise invalid(f"the sandbox does not play built-in tools ('{at}')", at)
        for j, declaration in enumerate(_TOOL.read(item, at).get("functionDeclarations", [])):
            where = f"{at}.function_declarations[{j}]"
            fields = _DECLARATION.read(declaration, where)
            tools.append(_declaration(fields, where))
            shown.append(encode(dict(sorted(fields.items()))).decode())
    names = [t.name for t in tools]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"Duplicate function declaration found: {name}", "tools")
    return tuple(tools), tuple(shown)


def _declaration(fields: Json, at: str) -> Tool:
    check_name(fields.get("name"), f"{at}.name")
    if not isinstance(fields.get("description", ""), str):
        raise invalid(f"Invalid value at '{at}.description' (TYPE_STRING)", at)
    if "parameters" in fields and "parametersJsonSchema" in fields:
        raise invalid("only one of parameters and parameters_json_schema may be set", at)
    if "parameters" in fields:
        check_schema(fields["parameters"], f"{at}.parameters")
        return Tool(fields["name"], fields["parameters"])
    schema = fields.get("parametersJsonSchema", {})
    if not isinstance(schema, dict) or (schema and schema.get("type", "object") != "object"):
        raise invalid(f"{at}.parameters_json_schema: schema must be of type object", at)
    return Tool(fields["name"], schema)


def check_schema(value: Any, at: str) -> None:
    """Check an OpenAPI-style schema: known fields and type names, at every depth."""
    fields = _SCHEMA.read(value, at)
    kind = fields.get("type")
    if kind is not None and str(kind).upper() not in _TYPES:
        raise invalid(
            f"Invalid value at '{at}.type' (google.ai.generativelanguage.Type), \"{kind}\"",
            at,
        )
    for name, child in (fields.get("properties") or {}).items():
        check_schema(child, f"{at}.properties[{name}]")
    for i, child in enumerate(fields.get("anyOf") or []):
        check_schema(child, f"{at}.any_of[{i}]")
    if "items" in fields:
        check_schema(fields["items"], f"{at}.items")


def read_tool_config(value: Any, tools: tuple[Tool, ...]) -> tuple[str, tuple[str, ...]]:
    """Read `toolConfig`: the calling mode (never unspecified) and the allowed names."""
    config = _TOOL_CONFIG.read(value, "tool_config").get("functionCallingConfig", {})
    calling = _CALLING.read(config, "tool_config.function_calling_config")
    mode = str(calling.get("mode", "AUTO")).upper()
    if mode not in _MODES:
        raise invalid(
            f"Invalid value at 'tool_config.function_calling_config.mode', \"{mode}\"", "tool_config"
        )
    allowed = calling.get("allowedFunctionNames", [])
    if not isinstance(allowed, list):
        raise invalid("allowed_function_names must be a list", "tool_config")
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise invalid(
            "allowed_function_names should only be set when the function calling mode is ANY.", "tool_config"
        )
    if mode in ("ANY", "VALIDATED") and not tools:
        raise invalid(f"Function calling mode {mode} needs at least one function declaration.", "tool_config")
    unknown = set(allowed) - {t.name for t in tools}
    if unknown:
        raise invalid(
            f"allowed_function_names has undeclared functions: {', '.join(sorted(unknown))}", "tool_config"
        )
    return "AUTO" if mode == "MODE_UNSPECIFIED" else mode, tuple(allowed)
