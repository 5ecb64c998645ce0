"""The block style of YAML that the files in deploy/ are written in, read without a YAML library.

Mappings, lists, literal blocks and scalars; anything else of YAML is refused, an indentation that is off too. Scalars
stay text as they are written, quotes taken off: whether 50051 or "50051" is meant is the reader's business.
"""

import json
from typing import Any


def read_yaml(text: str) -> Any:
    """Read the one document of a file."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    value, rest = _block(lines, 0)
    assert not rest, f"not understood: {rest[0]}"
    return value


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(lines: list[str], indent: int) -> tuple[Any, list[str]]:
    listed = _is_item(lines[0], indent)
    items: list[Any] = []
    mapping: dict[str, Any] = {}
    while lines and _indent(lines[0]) == indent and _is_item(lines[0], indent) == listed:
        if listed:
            item, lines = _item(lines, indent)
            items.append(item)
            continue
        key, found, scalar = lines[0].strip().partition(":")
        assert found, f"not understood: {lines[0]}"
        assert scalar[:1] in ("", " "), f"not understood: {lines[0]}"
        key = str(_scalar(key))
        assert key not in mapping, f"twice: {lines[0]}"
        lines, scalar = lines[1:], scalar.strip()
        if scalar == "|":
            end = next((i for i, line in enumerate(lines) if _indent(line) <= indent), len(lines))
            mapping[key], lines = "\n".join(lines[:end]), lines[end:]
        elif scalar:
            mapping[key] = _scalar(scalar)
        elif lines and (_indent(lines[0]) > indent or _is_item(lines[0], indent)):
            mapping[key], lines = _block(lines, _indent(lines[0]))
        else:
            mapping[key] = None
    assert not lines or _indent(lines[0]) < indent, f"indented wrongly: {lines[0]}"
    return items if listed else mapping, lines


def _is_item(line: str, indent: int) -> bool:
    return line[indent:].startswith("- ")


def _item(lines: list[str], indent: int) -> tuple[Any, list[str]]:
    inner = lines[0][indent + 2 :]
    key, found, rest = inner.partition(":")
    if found and (not rest or rest[0] == " ") and key[0] not in "\"'":
        return _block([" " * (indent + 2) + inner, *lines[1:]], indent + 2)
    return _scalar(inner.strip()), lines[1:]


def _scalar(text: str) -> Any:
    if text[0] == '"':
        return json.loads(text)
    if text[0] == "'":
        assert text.count("'") == 2
        return text[1:-1]
    if text == "{}":
        return {}
    assert text[0] not in "[{&*!>|@`", f"not understood: {text}"
    return text.partition(" #")[0].strip()
