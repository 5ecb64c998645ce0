"""Sampled values satisfy their schema."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from router.sandbox.schema import sample


def problems(schema, value):
    """A small, separate validator for what the sampler claims to respect."""
    if "const" in schema:
        return value == schema["const"]
    if "enum" in schema:
        return value in schema["enum"]
    match schema.get("type"):
        case "object":
            props = schema.get("properties", {})
            known = all(problems(props[k], v) for k, v in value.items() if k in props)
            return set(schema.get("required", ())) <= value.keys() and value.keys() <= props.keys() and known
        case "array":
            low, high = schema.get("minItems", 0), schema.get("maxItems", 99)
            return low <= len(value) <= high and all(problems(schema["items"], v) for v in value)
        case "integer":
            return type(value) is int and schema.get("minimum", value) <= value <= schema.get(
                "maximum", value
            )
        case "number":
            inside = schema.get("minimum", value) <= value <= schema.get("maximum", value)
            return isinstance(value, int | float) and inside
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case _:
            low, high = schema.get("minLength", 0), schema.get("maxLength", 10_000)
            return isinstance(value, str) and low <= len(value) <= high


leaves = st.one_of(
    st.just({"type": "string"}),
    st.builds(
        lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b},
        st.integers(0, 30),
        st.integers(0, 9),
    ),
    st.builds(
        lambda a, b: {"type": "integer", "minimum": a, "maximum": a + b},
        st.integers(-500, 500),
        st.integers(0, 9),
    ),
    st.builds(lambda a: {"type": "integer", "minimum": a}, st.integers(-500, 500)),
    st.builds(lambda a: {"type": "number", "maximum": a}, st.integers(-500, 500)),
    st.just({"type": "boolean"}),
    st.just({"enum": ["a", 3, None]}),
    st.just({"const": 7}),
)


def containers(children):
    names = st.lists(st.sampled_from("abcde"), unique=True, max_size=4)
    objects = names.flatmap(
        lambda ns: st.builds(
            lambda subs, required: {
                "type": "object",
                "properties": dict(zip(ns, subs, strict=True)),
                "required": [n for n in ns if n in required],
            },
            st.lists(children, min_size=len(ns), max_size=len(ns)),
            st.sets(st.sampled_from("abcde")),
        )
    )
    arrays = st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        children,
        st.integers(0, 3),
        st.integers(0, 3),
    )
    return objects | arrays


@given(st.recursive(leaves, containers, max_leaves=8), st.integers(0, 1 << 30))
def test_samples_are_valid(schema, seed):
    """Whatever the schema in the supported subset, the drawn value fits it."""
    assert problems(schema, sample(schema, Random(seed)))


def test_recursive_references_end():
    """A schema that refers to itself gives a finite value."""
    tree = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    value, depth = sample(tree, Random(1)), 0
    while value is not None:
        value, depth = value["next"], depth + 1
    assert depth > 0


def test_google_type_names_are_read():
    """Upper-case type names mean the same."""
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER", "minimum": 5}}, "required": ["n"]}
    assert sample(schema, Random(3))["n"] >= 5
