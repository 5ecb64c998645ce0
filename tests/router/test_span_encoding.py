"""Our encoder against the SDK's: the same message for every span it takes, the SDK's own for every other."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from router.telemetry import span_encoding
from router.telemetry.span_encoding import encoded

RESOURCE, SCOPE = Resource({"service.name": "router"}), InstrumentationScope("hybrid_router", "1")
INT64 = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.one_of(st.text(max_size=300), st.booleans(), INT64, st.floats(allow_nan=False))
VALUES = st.one_of(PLAIN, st.lists(st.text(max_size=5), max_size=3).map(tuple))


def context(**given: Any) -> SpanContext:
    fields: dict[str, Any] = {"trace_id": 7, "span_id": 9, "is_remote": False, "trace_flags": TraceFlags(1)}
    return SpanContext(**fields | given)


def span(**given: Any) -> ReadableSpan:
    fields: dict[str, Any] = {
        "name": "chat",
        "context": context(),
        "resource": RESOURCE,
        "instrumentation_scope": SCOPE,
        "start_time": 1_795_000_000_000_000_000,
        "end_time": 1_795_000_000_000_000_001,
    }
    return ReadableSpan(**fields | given)


@st.composite
def contexts(draw: Callable[[Any], Any]) -> SpanContext:
    state = draw(st.dictionaries(st.from_regex("[a-z]{1,9}", fullmatch=True), st.just("x"), max_size=2))
    return context(
        trace_id=draw(st.integers(1, 2**128 - 1)),
        span_id=draw(st.integers(1, 2**64 - 1)),
        is_remote=draw(st.booleans()),
        trace_state=TraceState(list(state.items())),
    )


@st.composite
def spans(draw: Callable[[Any], Any]) -> ReadableSpan:
    code = draw(st.sampled_from(StatusCode))
    return span(
        name=draw(st.text(max_size=200)),
        context=draw(contexts()),
        parent=draw(st.none() | contexts()),
        kind=draw(st.sampled_from(SpanKind)),
        attributes=draw(st.dictionaries(st.text(min_size=1, max_size=150), VALUES, max_size=9)),
        status=Status(code, draw(st.none() | st.text(max_size=9)) if code is StatusCode.ERROR else None),
        start_time=draw(st.integers(0, 2**63)),
        end_time=draw(st.integers(0, 2**63)),
    )


@given(st.lists(spans(), max_size=4))
def test_both_encoders_give_the_same_message(batch: list[ReadableSpan]) -> None:
    """Ids, times, kinds, status, parent, trace state and every attribute."""
    assert encoded(batch) == encode_spans(batch)


FOREIGN = {
    "event": {"events": [Event("e", {"a": 1}, 5)]},
    "link": {"links": [Link(context(), {"a": 1})]},
    "mapping": {"attributes": {"a": {"b": 1}}},
    "bytes": {"attributes": {"a": b"b"}},
    "resource": {"resource": Resource({"service.name": "other"})},
    "scope": {"instrumentation_scope": InstrumentationScope("other")},
    "half a character": {"attributes": {"a": "\ud800", "b": 1}},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_our_spans_do_not_hold_is_left_to_the_sdk(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole batch goes there, so nothing is lost and nothing is sent twice."""
    batch = [span(attributes={"x": 1}), span(**FOREIGN[what])]
    left: list[int] = []

    def sdk(given: Any) -> Any:
        left.append(len(given))
        return encode_spans(given)

    monkeypatch.setattr(span_encoding, "encode_spans", sdk)
    assert encoded(batch) == encode_spans(batch)
    assert left == [2]


def test_the_hook_is_the_sdks() -> None:
    """The exporter asks this method for the message; this fails when an update renames it."""
    base = span_encoding.OTLPSpanExporter
    assert "_translate_data" in vars(base)
    assert span_encoding.SpanExporter._translate_data is not base._translate_data
