"""Schema checks: what is certain is said, what is not is None, and nothing makes it work without end."""

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sandbox import schema as sandbox_schema
from router.schema_check import CHECK_LIMIT, equal, keeps

CASES = {
    "any": ({}, 1, True),
    "true": (True, 1, True),
    "false": (False, 1, False),
    "no schema": ("x", 1, None),
    "type": ({"type": "string"}, 1, False),
    "one of the types": ({"type": ["string", "null"]}, None, True),
    "upper case, as Gemini spells it": ({"type": "STRING"}, "x", True),
    "unknown type": ({"type": "money"}, 1, None),
    "a whole float is an integer": ({"type": "integer"}, 2.0, True),
    "half is none": ({"type": "integer"}, 2.5, False),
    "true is no number": ({"type": "number"}, True, False),
    "nullable": ({"type": "string", "nullable": True}, None, True),
    "enum": ({"enum": ["a", 1]}, 1.0, True),
    "not in the enum": ({"enum": [1]}, True, False),
    "const": ({"const": {"a": [1]}}, {"a": [1.0]}, True),
    "required": ({"required": ["a"]}, {}, False),
    "required of no object": ({"required": ["a"]}, 1, True),
    "property": ({"properties": {"a": {"type": "string"}}}, {"a": 1}, False),
    "absent property": ({"properties": {"a": {"type": "string"}}}, {}, True),
    "additional": ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, False),
    "additional schema": ({"additionalProperties": {"type": "integer"}}, {"b": "x"}, False),
    "perhaps a pattern's": (
        {"patternProperties": {"^b": {}}, "additionalProperties": False},
        {"b": 1},
        None,
    ),
    "pattern": ({"pattern": "^(a+)+$"}, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", None),
    "beside a pattern": ({"pattern": "a", "maxLength": 1}, "aa", False),
    "format is a note": ({"format": "email"}, "x", True),
    "items": ({"items": {"type": "integer"}}, [1, "x"], False),
    "items after prefix": ({"prefixItems": [{"type": "string"}], "items": False}, ["x", 1], False),
    "items, older": ({"items": [{"type": "string"}]}, [1], False),
    "contains": ({"contains": {"const": 1}}, [2, 3], False),
    "contains none, allowed": ({"contains": {"const": 1}, "minContains": 0}, [2], True),
    "contains too many": ({"contains": {"const": 1}, "maxContains": 1}, [1, 1], False),
    "unique": ({"uniqueItems": True}, [1, 1.0], False),
    "unique kinds": ({"uniqueItems": True}, [1, True], True),
    "too few": ({"minItems": 2}, [1], False),
    "too many": ({"maxProperties": 0}, {"a": 1}, False),
    "length in characters": ({"maxLength": 1}, "é", True),
    "minimum": ({"minimum": 3}, 2, False),
    "exclusive": ({"exclusiveMaximum": 3}, 3, False),
    "exclusive, older": ({"minimum": 3, "exclusiveMinimum": True}, 3, None),
    "multiple": ({"multipleOf": 3}, 7, False),
    "multiple of a fraction": ({"multipleOf": 0.1}, 0.3, None),
    "names": ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, False),
    "dependent": ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, False),
    "dependent schema": ({"dependentSchemas": {"a": {"required": ["b"]}}}, {"a": 1}, False),
    "all of": ({"allOf": [{"type": "object"}, {"required": ["a"]}]}, {}, False),
    "any of": ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 1, False),
    "perhaps one of": ({"anyOf": [{"type": "string"}, {"$ref": "http://x"}]}, 1, None),
    "one of": ({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 1, False),
    "not": ({"not": {"type": "string"}}, "x", False),
    "not what is unknown": ({"not": {"$ref": "other.json"}}, "x", None),
    "then": ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"a": 1}, False),
    "else": ({"if": {"required": ["a"]}, "else": {"required": ["b"]}}, {}, False),
    "reference": ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}}, 1, False),
    "reference to itself": ({"$ref": "#"}, 1, None),
    "reference into nowhere": ({"$ref": "#/$defs/x"}, 1, None),
    "recursive": (
        {"properties": {"next": {"$ref": "#"}}, "required": ["id"]},
        {"id": 1, "next": {"id": 2, "next": {}}},
        False,
    ),
    "unevaluated": ({"unevaluatedProperties": False}, {"a": 1}, None),
    "a broken keyword": ({"required": 5, "maxProperties": 0}, {"a": 1}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_violation_is_certain_or_it_is_none(name: str) -> None:
    """Draft 2020-12, keyword by keyword; what is not checked makes no violation and hides none beside it."""
    schema, value, kept = CASES[name]
    assert keeps(schema, value) is kept


NAMES = st.sampled_from("abc")
LEAVES = st.one_of(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["x", "y"]}]),
    st.builds(lambda low: {"type": "integer", "minimum": low, "maximum": low + 5}, st.integers(-9, 9)),
)


def _objects(inner):
    return st.dictionaries(NAMES, inner, min_size=1).map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    )


SCHEMAS = st.recursive(
    LEAVES, lambda inner: st.one_of(_objects(inner), inner.map(lambda i: {"type": "array", "items": i}))
)


@given(SCHEMAS, st.integers(0, 99))
def test_what_the_sandbox_makes_for_a_schema_keeps_it(schema, seed: int) -> None:
    """The sandbox samples schemas by code of its own: the two agree."""
    assert keeps(schema, sandbox_schema.sample(schema, Random(seed))) is True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
ANY_SCHEMA = st.recursive(
    JSON,
    lambda inner: st.dictionaries(
        st.sampled_from(["type", "items", "properties", "anyOf", "not", "enum", "minimum", "required", "if"]),
        inner,
        max_size=4,
    ),
)


@given(ANY_SCHEMA, JSON)
def test_no_schema_makes_it_fail(schema, value) -> None:
    """Whatever stands in a schema, there is an answer; a schema and its opposite never both hold."""
    kept = keeps(schema, value)
    assert kept in (True, False, None)
    opposite = keeps({"not": schema}, value)
    assert opposite is (None if kept is None else not kept)


@given(JSON, JSON)
def test_equality_is_symmetric(one, other) -> None:
    """And everything equals itself."""
    assert equal(one, one)
    assert equal(one, other) == equal(other, one)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, 1),
        ({"items": {"type": "integer"}}, [1] * (2 * CHECK_LIMIT)),
        ({"uniqueItems": True}, list(range(CHECK_LIMIT))),
    ],
)
def test_the_work_is_bounded(schema, value) -> None:
    """Doubling references and long answers end in "cannot say", soon."""
    before = time.process_time()
    assert keeps(schema, value) is None
    assert time.process_time() - before < 1.0
