"""What a tool's name and input schema must be for both providers to take them, checked before either is asked.

The rule: JSON text of an object whose `type` is "object", with `properties` an object and `required` a list of names
(A-TOOLS, G-FC, 2026-11). Deeper faults are the provider's to find: its dialect is larger than what we would copy.
"""

import re

import msgspec

TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,127}")
"""What both providers accept (A-TOOLS; G-FC, 2026-11)."""


def is_tool_name(name: str) -> bool:
    """Whether a call of this name can go back to either provider: models make names up, such as `api.search`."""
    return TOOL_NAME.fullmatch(name) is not None


def fault_of(text: str) -> str:
    """Say what is wrong with a schema, "" when it can be sent."""
    try:
        schema = msgspec.json.decode(text)
    except RecursionError:
        return "is JSON nested too deeply to read"
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        return f"is not JSON: {error}"
    if not isinstance(schema, dict):
        return f"must be a JSON object, not {kind_of(schema)}"
    if schema.get("type") != "object":
        shown = repr(schema["type"])[:80] if "type" in schema else "missing"
        return f'must be of type "object"; its type is {shown}'
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return f"properties must be an object, not {kind_of(properties)}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return "required must be a list of property names"
    return ""


def kind_of(value: object) -> str:
    """Name the JSON kind of a decoded value that is not what was wanted."""
    match value:
        case bool():
            return "a boolean"
        case None:
            return "null"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case dict():
            return "an object"
        case _:
            return "an array"
