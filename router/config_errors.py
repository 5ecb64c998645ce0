"""Where in the settings a value is wrong: the reader's message with the names and the value it leaves out.

The rule: msgspec writes `[...]` for any key of a table of tables, and never the value. Here the first entry that is
wrong by itself is looked for, and a value is shown when it is a number, a switch or a single short word: what may be
text of a prompt is not. Pure; it does not know where the settings came from.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_PATH = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+)\]")
_SHOWN = re.compile(r"[^\s]{1,64}")
_PROMPT_KEYS = frozenset({"system", "description", "input_schema_json", "tools", "filler"})
_NAMES = "[...]"


def located(tree: Mapping[str, Any], message: str, is_wrong: Callable[[str, str, Any], bool]) -> str:
    """`message` with the full path of what it is about, and its value where that may be shown.

    Args:
        tree: The settings as read.
        message: As msgspec raised it.
        is_wrong: Whether one entry of a table of tables is refused by itself, given the table, its name and it.
    """
    found = _PATH.search(message)
    if found is None:
        return message
    said, path = message[: found.start()], found["path"]
    table = path.removesuffix(_NAMES).split(_NAMES)[0].removeprefix(".")
    if found["key"] or _NAMES in path:
        entries = tree.get(table)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if not is_wrong(table, name, entry):
                continue
            if found["key"]:
                return f"{table}: {_shown(name)} is no name: {said}"
            path = path.replace(_NAMES, f".{_quoted(name)}", 1)
            return f"{path.removeprefix('.')}: {said}{_value(entry, _rest(found['path']))}"
        return message
    return f"{path.removeprefix('.') or 'settings'}: {said}{_value(tree, path)}"


def _rest(path: str) -> str:
    return path.split(_NAMES, 1)[1]


def _value(node: Any, path: str) -> str:
    """`, is VALUE` of what stands at a path, "" when it is not there or not to be shown."""
    for step in _STEP.finditer(path):
        if step["key"] in _PROMPT_KEYS - {"tools"}:
            return ""
        try:
            node = node[step["key"] if step["index"] is None else int(step["index"])]
        except (KeyError, IndexError, TypeError):
            return ""
    match node:
        case str() if _SHOWN.fullmatch(node) and not path.endswith(".tools"):
            return f", is {node!r}"
        case bool() | int() | float():
            return f", is {node}"
        case _:
            return ""


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name) else f'"{name}"'
