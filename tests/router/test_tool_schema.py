"""Tool schemas: what both providers take passes, what one of them refuses is named before it is asked."""

import pytest

from router.tool_schema import fault_of


@pytest.mark.parametrize(
    "schema",
    [
        '{"type":"object"}',
        '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"x-note":1}',
    ],
)
def test_an_object_schema_passes(schema: str) -> None:
    """Keywords beyond the checked ones are the provider's to judge."""
    assert fault_of(schema) == ""


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 50_000, "nested too deeply"),
        ("[]", "not an array"),
        ("{}", "its type is missing"),
        ('{"type":"array"}', "its type is 'array'"),
        ('{"type":"object","properties":[]}', "properties must be an object, not an array"),
        ('{"type":"object","required":"a"}', "required must be a list"),
    ],
)
def test_what_a_provider_would_refuse_is_named(schema: str, words: str) -> None:
    """The fault says which keyword is wrong and what it must be."""
    assert words in fault_of(schema)
