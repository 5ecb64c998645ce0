"""The record of one call: its limits, and that the ledger's bytes give it back unchanged."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cost import Cost, Counterfactuals
from router.ledger import codec
from router.settlement import (
    MAX_LABELS,
    CacheRecord,
    DecisionRecord,
    Intent,
    Outcome,
    Purpose,
    Settlement,
)
from router.usage import Usage
from tests.router.ledger_samples import an_intent

text = st.text(max_size=20)
nano = st.integers(0, 10**15)
seconds = st.floats(0, 4e9)
usages = st.builds(
    Usage, input_tokens=st.integers(0, 10**7), output_tokens=st.integers(0, 10**6), speed=st.none() | text
)
costs = st.builds(Cost, uncached_input_nano_usd=nano, thinking_nano_usd=nano)
intents = st.builds(
    Intent,
    request_id=text,
    attempt=st.integers(1, 9),
    purpose=st.sampled_from(Purpose),
    route=text,
    upstream=text,
    model=text,
    tenant=text,
    application=text,
    user=text,
    session=text,
    labels=st.dictionaries(text, text, max_size=MAX_LABELS),
    stream=st.booleans(),
    started_time_s=seconds,
    cost_bound_nano_usd=st.none() | nano,
    trace_id=text,
)
decisions = st.builds(
    DecisionRecord,
    route=text,
    reason=text,
    score=st.none() | st.floats(0, 1),
    threshold=st.none() | st.floats(0, 1),
    propensity=st.floats(0, 1),
    model_digest=text,
    expected_flash_nano_usd=st.none() | nano,
    expected_opus_nano_usd=st.none() | nano,
    features=text,
)
settlements = st.builds(
    Settlement,
    intent=intents,
    outcome=st.sampled_from(Outcome),
    settled_time_s=seconds,
    duration_s=seconds,
    first_byte_s=st.none() | seconds,
    usage=st.none() | usages,
    cost=st.none() | costs,
    counterfactuals=st.none() | st.builds(Counterfactuals, no_caching_nano_usd=st.none() | nano),
    answered_model=text,
    error=text,
    decision=st.none() | decisions,
    cache=st.none()
    | st.builds(
        CacheRecord,
        strategy=text,
        breakpoint_count=st.integers(0, 4),
        expected_read_tokens=nano,
        miss_cause=text,
    ),
    extra=st.dictionaries(text, text, max_size=3),
)


@given(settlements)
def test_a_settlement_survives_its_bytes(settlement):
    """What the ledger writes is read back equal, unknowns as None, in one line."""
    body = codec.encode(settlement)
    assert b"\n" not in body
    assert codec.decode_settlement(body) == settlement


@given(intents)
def test_an_intent_survives_its_bytes(intent):
    """What is journalled before a call is read back equal after a crash."""
    assert codec.decode_intent(codec.encode(intent)) == intent


def test_read_only_labels_are_kept():
    """Labels may be any mapping; they are kept as a plain one."""
    body = codec.encode(an_intent(labels=MappingProxyType({"team": "search"})))
    assert codec.decode_intent(body).labels == {"team": "search"}


def test_fields_of_a_newer_release_are_ignored():
    """A journal written by a newer release still tells what this one knows."""
    body = codec.encode(an_intent())[:-1] + b',"invented_later":[1,{"x":2}]}'
    assert codec.decode_intent(body) == an_intent()


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"request_id":1}', b"\xff\xfe"])
def test_other_bytes_are_not_a_record(body):
    """Garbage is told apart from records instead of becoming one."""
    with pytest.raises(codec.Undecodable):
        codec.decode_settlement(body)
    with pytest.raises(codec.Undecodable):
        codec.decode_intent(body)


def test_too_many_labels_are_refused():
    """Labels are bounded, so that a caller cannot fill the ledger."""
    an_intent(labels={str(i): "x" for i in range(MAX_LABELS)})
    with pytest.raises(ValueError, match="16 labels"):
        an_intent(labels={str(i): "x" for i in range(MAX_LABELS + 1)})
