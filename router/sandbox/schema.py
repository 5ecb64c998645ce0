"""Values that satisfy a JSON Schema, drawn from a seeded generator.

Rule: for the subset both providers document (object, array, string, number, integer, boolean, null, enum,
const, anyOf/oneOf/allOf, local $ref, required, minItems/maxItems, minimum/maximum, common formats) the
value is valid; Google's upper-case type names are read too. It does not know `pattern`, conditionals, or
remote references.
"""

from __future__ import annotations

from random import Random
from typing import Any

_MAX_DEPTH = 8
_WORDS = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "island",
    "juniper",
    "kestrel",
)
_FORMATS = {
    "date": "2026-11-22",
    "date-time": "2026-11-22T12:00:00Z",
    "time": "12:00:00Z",
    "email": "sam@example.com",
    "uri": "https://example.com/item",
    "uuid": "3f2b8c9a-1d4e-4f6a-9b7c-5e8d2a1c0b9f",
    "ipv4": "192.0.2.1",
}


def sample(schema: dict[str, Any], rng: Random) -> Any:
    """Draw a value valid for `schema`; an empty schema gives a short string."""
    return _sample(schema, rng, schema, 0)


def _sample(node: Any, rng: Random, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(node, dict):
        return rng.choice(_WORDS)
    if "$ref" in node:
        return _sample(_resolve(root, node["$ref"]), rng, root, depth + 1)
    if "const" in node:
        return node["const"]
    if node.get("enum"):
        return rng.choice(node["enum"])
    for key in ("anyOf", "oneOf"):
        if node.get(key):
            return _sample(_shallowest(node[key], depth), rng, root, depth + 1)
    if node.get("allOf"):
        return _sample(_merged(node, root), rng, root, depth + 1)
    return _by_type(node, rng, root, depth)


def _by_type(node: dict[str, Any], rng: Random, root: dict[str, Any], depth: int) -> Any:
    kind = node.get("type", "object" if "properties" in node else "string")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    match str(kind).lower():
        case "object":
            return _object(node, rng, root, depth)
        case "array":
            low = int(node.get("minItems", 1))
            high = max(low, min(int(node.get("maxItems", low + 2)), low + 2))
            size = low if depth >= _MAX_DEPTH else rng.randint(low, high)
            return [_sample(node.get("items", {}), rng, root, depth + 1) for _ in range(size)]
        case "integer":
            least, most = _bounds(node, 0, 100)
            return rng.randint(int(least), int(most))
        case "number":
            least, most = _bounds(node, 0.0, 100.0)
            return round(rng.uniform(least, most), 2) if most - least > 0.1 else least
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case _:
            return _string(node, rng)


def _object(node: dict[str, Any], rng: Random, root: dict[str, Any], depth: int) -> dict[str, Any]:
    required = set(node.get("required", ()))
    out = {}
    for name, child in (node.get("properties") or {}).items():
        if name in required or (depth < _MAX_DEPTH - 4 and rng.random() < 0.5):
            out[name] = _sample(child, rng, root, depth + 1)
    for name in node.get("required", ()):
        out.setdefault(name, rng.choice(_WORDS))
    return out


def _bounds(node: dict[str, Any], low: float, high: float) -> tuple[float, float]:
    if "exclusiveMinimum" in node:
        low = node["exclusiveMinimum"] + 1
    if "minimum" in node:
        low = node["minimum"]
    if "exclusiveMaximum" in node:
        high = node["exclusiveMaximum"] - 1
    elif "maximum" in node:
        high = node["maximum"]
    elif high < low:
        high = low + 100
    return (min(low, high), high) if "minimum" not in node else (low, max(low, high))


def _string(node: dict[str, Any], rng: Random) -> str:
    if node.get("format") in _FORMATS:
        return _FORMATS[node["format"]]
    text = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 3)))
    while len(text) < int(node.get("minLength", 0)):
        text += " " + rng.choice(_WORDS)
    return text[: int(node["maxLength"])] if "maxLength" in node else text


def _resolve(root: dict[str, Any], ref: str) -> Any:
    node: Any = root
    for step in ref.removeprefix("#").strip("/").split("/"):
        if step:
            node = node.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(node, dict) else {}
    return node


def _shallowest(options: list[Any], depth: int) -> Any:
    """Past the depth limit prefer an option that cannot recurse."""
    if depth >= _MAX_DEPTH:
        for option in options:
            if isinstance(option, dict) and option.get("type") in ("null", "string", "integer", "boolean"):
                return option
    return options[0]


def _merged(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    out = {k: v for k, v in node.items() if k != "allOf"}
    out["properties"] = dict(node.get("properties") or {})
    out["required"] = list(node.get("required") or ())
    for part in node["allOf"]:
        part = _resolve(root, part["$ref"]) if "$ref" in part else part
        out["properties"] |= part.get("properties") or {}
        out["required"] += part.get("required") or []
        out.setdefault("type", part.get("type", "object"))
    return out
