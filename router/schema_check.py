"""Whether a JSON value keeps a JSON Schema, as far as that can be told: True, False, or None for "cannot say".

The rule: a violation is only what is certain, because whoever asks spends money on it. The assertions of draft 2020-12
are checked, with `nullable`, upper-case type names and a list of `items` as the older dialects spell them. What is not
checked makes no violation and hides none beside it: references out of the schema, dynamic ones, `unevaluated...`, and
patterns: those are the caller's and the text is a model's, and a backtracking match of the two can take minutes.
`format` is an annotation, as the draft has it. The work is bounded, references to themselves included: beyond
CHECK_LIMIT nothing is said.

JSON Schema core and validation, draft 2020-12 (json-schema.org/draft/2020-12). Pure; it does not know what the value
is for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

CHECK_LIMIT = 5_000
"""Schemas applied to values before giving up: some milliseconds of the event loop."""
_EXACT = 1 << 53
"""Whole numbers up to here are exact as floats."""


class _TooMuch(Exception):
    """More work than is allowed."""


def keeps(schema: Any, value: Any) -> bool | None:
    """Say whether `value` keeps `schema`, both as decoded from JSON; None when it cannot be told."""
    try:
        return _Check(schema).against(schema, value)
    except (_TooMuch, RecursionError):
        return None


class _Check:
    """One value against one schema."""

    __slots__ = ("_left", "_root")

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = CHECK_LIMIT

    def against(self, schema: Any, value: Any) -> bool | None:
        """One schema against one value."""
        self._left -= 1
        if self._left < 0:
            raise _TooMuch
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            return None
        if value is None and schema.get("nullable") is True:
            return True
        kept: bool | None = True
        for keyword, argument in schema.items():
            check = _KEYWORDS.get(keyword)
            if check is None:
                continue
            try:
                said = check(self, argument, value, schema)
            except (AttributeError, TypeError, ValueError, KeyError, IndexError, OverflowError):
                said = None  # the schema is not what its keyword wants
            if said is False:
                return False
            if said is None:
                kept = None
        return kept

    def referred(self, reference: Any, value: Any) -> bool | None:
        """A `$ref` to a place in the same schema."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            return None
        target = self._root
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            target = target[int(name)] if isinstance(target, list) else target[name]
        return self.against(target, value)


def _all(said: Iterable[bool | None]) -> bool | None:
    kept: bool | None = True
    for each in said:
        if each is False:
            return False
        if each is None:
            kept = None
    return kept


def _any(said: Iterable[bool | None]) -> bool | None:
    kept: bool | None = False
    for each in said:
        if each is True:
            return True
        if each is None:
            kept = None
    return kept


def _not(said: bool | None) -> bool | None:
    return None if said is None else not said


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
}


def _type(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    named = argument if isinstance(argument, list) else [argument]
    return any(_TYPES[name.lower()](value) for name in named)


def equal(one: Any, other: Any) -> bool:
    """JSON's equality: true is not 1, and 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(each, other[name]) for name, each in one.items())
    return bool(one == other)


def _enum(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return any(equal(each, value) for each in argument) if isinstance(argument, list) else None


def _bound(kind: type | tuple[type, ...], holds: Callable[[Any, Any], bool]) -> Any:
    """A keyword that compares a value of one kind with a number; values of others keep it."""

    def check(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
        if not isinstance(value, kind) or isinstance(value, bool):
            return True
        return holds(value, argument) if _is_number(argument) else None

    return check


def _multiple(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not _is_number(value):
        return True
    whole = all(float(each).is_integer() and abs(each) <= _EXACT for each in (value, argument))
    return int(value) % int(argument) == 0 if whole and argument > 0 else None


def _object(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    """`properties`."""
    if not isinstance(value, dict):
        return True
    return _all(check.against(inner, value[name]) for name, inner in argument.items() if name in value)


def _required(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return not isinstance(value, dict) or all(name in value for name in argument)


def _additional(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not isinstance(value, dict):
        return True
    named = schema.get("properties") or {}
    rest = [each for name, each in value.items() if name not in named]
    said = _all(check.against(argument, each) for each in rest)
    return None if said is False and schema.get("patternProperties") else said


def _patterned(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return None if isinstance(value, dict) and value and argument else True


def _names(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return not isinstance(value, dict) or _all(check.against(argument, name) for name in value)


def _dependent_required(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not isinstance(value, dict):
        return True
    return all(other in value for name, others in argument.items() if name in value for other in others)


def _dependent_schemas(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not isinstance(value, dict):
        return True
    return _all(check.against(inner, value) for name, inner in argument.items() if name in value)


def _prefix(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not isinstance(value, list):
        return True
    return _all(check.against(inner, each) for inner, each in zip(argument, value, strict=False))


def _items(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not isinstance(value, list):
        return True
    if isinstance(argument, list):  # before draft 2020-12
        return _prefix(check, argument, value, schema)
    rest = value[len(schema.get("prefixItems") or ()) :]
    return _all(check.against(argument, each) for each in rest)


def _contains(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if not isinstance(value, list):
        return True
    said = [check.against(argument, each) for each in value]
    least, most = schema.get("minContains", 1), schema.get("maxContains", len(value))
    certain, possible = said.count(True), len(said) - said.count(False)
    if possible < least or certain > most:
        return False
    return True if certain == possible else None


def _unique(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    if argument is not True or not isinstance(value, list):
        return True
    if len(value) ** 2 > 2 * CHECK_LIMIT:
        return None
    return not any(equal(one, other) for index, one in enumerate(value) for other in value[:index])


def _all_of(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return _all(check.against(inner, value) for inner in argument)


def _any_of(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return _any(check.against(inner, value) for inner in argument)


def _one_of(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    said = [check.against(inner, value) for inner in argument]
    if said.count(True) > 1:
        return False
    return None if None in said else True in said


def _negated(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return _not(check.against(argument, value))


def _if(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    then, otherwise = schema.get("then", True), schema.get("else", True)
    match check.against(argument, value):
        case True:
            return check.against(then, value)
        case False:
            return check.against(otherwise, value)
        case _:
            both = {check.against(then, value), check.against(otherwise, value)}
            return both.pop() if len(both) == 1 else None


def _untold(check: _Check, argument: Any, value: Any, schema: Any) -> bool | None:
    return None


_KEYWORDS: Mapping[str, Callable[[_Check, Any, Any, Any], bool | None]] = {
    "$ref": lambda check, argument, value, schema: check.referred(argument, value),
    "$dynamicRef": _untold,
    "$recursiveRef": _untold,
    "type": _type,
    "enum": _enum,
    "const": lambda check, argument, value, schema: equal(argument, value),
    "minimum": _bound((int, float), lambda value, limit: value >= limit),
    "maximum": _bound((int, float), lambda value, limit: value <= limit),
    "exclusiveMinimum": _bound((int, float), lambda value, limit: value > limit),
    "exclusiveMaximum": _bound((int, float), lambda value, limit: value < limit),
    "multipleOf": _multiple,
    "minLength": _bound(str, lambda value, limit: len(value) >= limit),
    "maxLength": _bound(str, lambda value, limit: len(value) <= limit),
    "pattern": lambda check, argument, value, schema: None if isinstance(value, str) else True,
    "minItems": _bound(list, lambda value, limit: len(value) >= limit),
    "maxItems": _bound(list, lambda value, limit: len(value) <= limit),
    "uniqueItems": _unique,
    "prefixItems": _prefix,
    "items": _items,
    "contains": _contains,
    "minProperties": _bound(dict, lambda value, limit: len(value) >= limit),
    "maxProperties": _bound(dict, lambda value, limit: len(value) <= limit),
    "properties": _object,
    "required": _required,
    "additionalProperties": _additional,
    "patternProperties": _patterned,
    "propertyNames": _names,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "dependencies": _untold,
    "unevaluatedProperties": _untold,
    "unevaluatedItems": _untold,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _negated,
    "if": _if,
}
