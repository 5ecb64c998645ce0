"""The error table: every error has one status, with details a client can act on, within HTTP/2's limits."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from router import errors
from router.status import DOMAIN, MESSAGE_BYTES, STATUS, code_of, incident_status, status_of

BILLED_ON_RETRY = (errors.UpstreamTimeout, errors.UpstreamMalformed, errors.UpstreamInterrupted)


def all_errors(root=errors.RouterError):
    return {root}.union(*(all_errors(child) for child in root.__subclasses__()))


def example(cls, message="it broke", **more):
    """One error of each class, by the constructor it has."""
    if issubclass(cls, errors.UpstreamError):
        return cls("anthropic", message, model="claude-opus-5-5", **more)
    match cls:
        case errors.InvalidRequest:
            return cls("messages[2].parts[0].text", message)
        case errors.NotFound:
            return cls("session", message)
        case errors.DeadlineTooShort:
            return cls(0.05, 0.1)
        case errors.Overloaded:
            return cls(8, 1.5)
        case _:
            return cls(message)


def details_of(status):
    """Decode what a client library would find in the trailing metadata."""
    (packed,) = [value for key, value in status.trailing_metadata if key == "grpc-status-details-bin"]
    proto = status_pb2.Status.FromString(packed)
    found = {}
    for detail in proto.details:
        cls = getattr(error_details_pb2, detail.type_url.rsplit(".", 1)[1])
        message = cls()
        assert detail.Unpack(message)
        found[cls.__name__] = message
    return proto, found


def test_every_error_class_has_a_row():
    """A new error class without a status fails here, not in front of a caller; and no row is left over."""
    of_the_module = {cls for cls in all_errors() if cls.__module__ == errors.__name__}
    assert set(STATUS) == of_the_module


def test_reasons_are_unique():
    """`ErrorInfo.reason` tells errors apart that share a code."""
    reasons = [cls.reason for cls in STATUS]
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("cls", sorted(STATUS, key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_status_carries_reason_domain_and_request_id(cls):
    """Code, message and proto agree, and every status names its reason, our domain and the request."""
    error = example(cls)
    status = status_of(error, request_id="req-7")
    proto, details = details_of(status)
    assert status.code is STATUS[cls]
    assert status.code is not grpc.StatusCode.OK
    assert (proto.code, proto.message) == (status.code.value[0], status.details)
    assert status.details == str(error)
    assert (details["ErrorInfo"].reason, details["ErrorInfo"].domain) == (cls.reason, DOMAIN)
    assert details["RequestInfo"].request_id == "req-7"
    assert ("x-request-id", "req-7") in status.trailing_metadata


def test_invalid_request_names_the_field():
    """A client can point at the field that is wrong."""
    _, details = details_of(status_of(errors.InvalidRequest("tools[0].name", "must not be empty")))
    (violation,) = details["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("tools[0].name", "must not be empty")


def test_not_found_names_the_resource():
    """Kind and name are machine-readable."""
    _, details = details_of(status_of(errors.NotFound("session", "s-1")))
    assert (details["ResourceInfo"].resource_type, details["ResourceInfo"].resource_name) == (
        "session",
        "s-1",
    )


@pytest.mark.parametrize(
    ("error", "delay_s"),
    [
        (errors.Overloaded(8, 1.5), 1.5),
        (errors.UpstreamRateLimited("anthropic", "slow down", retry_after_s=12.25), 12.25),
        (errors.UpstreamOverloaded("gemini", "busy", retry_after_s=0.5), 0.5),
        (errors.LedgerUnavailable("the ledger is full"), 1.0),
    ],
)
def test_waiting_that_helps_is_advised(error, delay_s):
    """RetryInfo carries the wait to the nanosecond."""
    _, details = details_of(status_of(error))
    delay = details["RetryInfo"].retry_delay
    assert delay.seconds + delay.nanos / 1e9 == pytest.approx(delay_s, abs=1e-9)


@pytest.mark.parametrize(
    "error",
    [
        errors.UpstreamRateLimited("anthropic", "slow down"),
        errors.UpstreamSpendLimited("anthropic", "cap reached", retry_after_s=5.0),
        errors.BudgetExceeded("both routes cost more than 0.10 USD"),
    ],
)
def test_no_wait_is_advised_where_none_is_known_to_help(error):
    """An unknown wait is not sent as 0, and a cap is not waited out."""
    _, details = details_of(status_of(error))
    assert "RetryInfo" not in details


@pytest.mark.parametrize("cls", BILLED_ON_RETRY, ids=lambda cls: cls.__name__)
def test_what_a_retry_would_bill_again_is_not_unavailable(cls):
    """Channels retry UNAVAILABLE by themselves; errors that may be billed must not invite that."""
    assert cls.may_be_billed
    assert code_of(example(cls)) is not grpc.StatusCode.UNAVAILABLE


def test_upstream_facts_are_in_the_details():
    """What a provider said is readable without parsing the message."""
    error = errors.UpstreamFailed(
        "gemini", "internal", model="gemini-3.8-flash", http_status=500, upstream_request_id="r-9"
    )
    _, details = details_of(status_of(error))
    assert dict(details["ErrorInfo"].metadata) == {
        "upstream": "gemini",
        "model": "gemini-3.8-flash",
        "http_status": "500",
        "upstream_request_id": "r-9",
        "billed": "no",
    }


def test_subclass_without_a_row_takes_its_parents_status():
    """An adapter's own refinement of an error still reaches the caller with the right code."""

    class UpstreamBrownOut(errors.UpstreamOverloaded):
        pass

    assert code_of(UpstreamBrownOut("gemini", "dim")) is grpc.StatusCode.UNAVAILABLE


def test_incident_says_nothing_but_its_id():
    """An unforeseen failure tells the caller where to look and nothing of what went wrong."""
    status = incident_status("abc123", request_id="r-1")
    _, details = details_of(status)
    assert status.code is grpc.StatusCode.INTERNAL
    assert details["ErrorInfo"].metadata["incident"] == "abc123"
    assert "abc123" in status.details


@given(st.text(st.characters(), max_size=4000), st.sampled_from(sorted(STATUS, key=lambda cls: cls.__name__)))
def test_trailing_metadata_stays_within_http2_limits(text, cls):
    """Whatever an upstream says (lone surrogates too), message and details stay under grpc's 8 KiB."""
    status = status_of(example(cls, text), request_id="r" * 128)
    encoded = len(status.details.encode()) * 3 + sum(
        len(value) * (4 / 3 if isinstance(value, bytes) else 1) for _, value in status.trailing_metadata
    )
    assert len(status.details.encode()) <= MESSAGE_BYTES
    assert encoded < 7000
    details_of(status)


def test_a_connection_that_broke_after_the_request_left_is_not_retried_blindly() -> None:
    """It may have been billed, so a channel must not send it again by itself; one that never stood it may."""
    never_stood = errors.UpstreamUnreachable("gemini", "no connection")
    broke = errors.UpstreamUnreachable("gemini", "the connection broke")
    broke.may_be_billed = True
    assert code_of(never_stood) is grpc.StatusCode.UNAVAILABLE
    assert code_of(broke) is grpc.StatusCode.ABORTED
