"""The error table: every error has one status, with details a client can act on, within HTTP/2's limits."""

import json

import grpc
import httpx2
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from router import errors
from router.circuit import CircuitSettings, Signal, signal_of
from router.status import (
    DOMAIN,
    MESSAGE_BYTES,
    STATUS,
    STOP,
    code_of,
    incident_status,
    pushback_ms,
    status_of,
)
from router.upstreams import anthropic_errors, gemini_errors
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.gemini import GeminiUpstream
from tests.golden.compare import DIRECTORY, assert_golden, table
from tests.router.upstreams.samples import FLASH, OPUS, call, user

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
        case errors.CircuitOpen:
            return cls(message, 2.5)
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
        (errors.CircuitOpen("gemini (gemini-3.8-flash)", 7.5), 7.5),
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


REQUEST_ID = "req_1"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}
BAD_KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def said_by_anthropic(type_: str, message: str = "Told.", code: str | None = None) -> bytes:
    """An error body of the Messages API."""
    error = {"type": type_, "message": message, "details": {"error_code": code} if code else None}
    return json.dumps({"type": "error", "error": error, "request_id": REQUEST_ID}).encode()


def said_by_gemini(code: int, name: str, *details: dict[str, object]) -> bytes:
    """An error body of generateContent."""
    error = {"code": code, "status": name, "message": "Told.", "details": list(details)}
    return json.dumps({"error": error}).encode()


def quota(name: str) -> dict[str, object]:
    """A quota that is used up."""
    return {"@type": QUOTA, "violations": [{"quotaMetric": "m", "quotaId": name}]}


SPENT = "You have reached your specified API usage limits. You will regain access on 2026-12-01."
ANTHROPIC_ERRORS = (
    ("400 invalid_request_error", 400, {}, said_by_anthropic("invalid_request_error")),
    ("400 spend limit", 400, {}, said_by_anthropic("invalid_request_error", SPENT)),
    (
        "400 tool_name_conflict",
        400,
        {},
        said_by_anthropic("invalid_request_error", code="tool_name_conflict"),
    ),
    ("401 authentication_error", 401, {}, said_by_anthropic("authentication_error")),
    ("402 billing_error", 402, {}, said_by_anthropic("billing_error")),
    ("403 permission_error", 403, {}, said_by_anthropic("permission_error")),
    ("404 not_found_error", 404, {}, said_by_anthropic("not_found_error")),
    ("409 conflict_error", 409, {}, said_by_anthropic("conflict_error")),
    ("413 request_too_large", 413, {}, said_by_anthropic("request_too_large")),
    ("413 from the edge, no JSON", 413, {}, b"<html>too large</html>"),
    ("429, retry-after: 1", 429, {"retry-after": "1"}, said_by_anthropic("rate_limit_error")),
    ("429, retry-after: 30", 429, {"retry-after": "30"}, said_by_anthropic("rate_limit_error")),
    ("429, no retry-after", 429, {}, said_by_anthropic("rate_limit_error")),
    (
        "429 enforced_spend_limit_reached",
        429,
        {},
        said_by_anthropic("rate_limit_error", code="enforced_spend_limit_reached"),
    ),
    (
        "429 contract_spend_limit_reached",
        429,
        {},
        said_by_anthropic("rate_limit_error", code="contract_spend_limit_reached"),
    ),
    ("429 ramp_limit_exceeded", 429, {}, said_by_anthropic("rate_limit_error", code="ramp_limit_exceeded")),
    ("500 api_error", 500, {}, said_by_anthropic("api_error")),
    ("502 from a proxy, no JSON", 502, {}, b"<html>bad gateway</html>"),
    ("504 timeout_error", 504, {}, said_by_anthropic("timeout_error")),
    ("529 overloaded_error", 529, {}, said_by_anthropic("overloaded_error")),
    ("529, x-should-retry: false", 529, {"x-should-retry": "false"}, said_by_anthropic("overloaded_error")),
    ("403, x-should-retry: true", 403, {"x-should-retry": "true"}, said_by_anthropic("permission_error")),
    ("200 with an error body", 200, {}, said_by_anthropic("overloaded_error")),
    ("200 with half a body", 200, {}, b'{"type":"message","content":[{"ty'),
)
BLOCKED = (
    b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9,"totalTokenCount":9}}'
)
GEMINI_ERRORS = (
    ("400 INVALID_ARGUMENT", 400, {}, said_by_gemini(400, "INVALID_ARGUMENT")),
    ("400 API_KEY_INVALID", 400, {}, said_by_gemini(400, "INVALID_ARGUMENT", BAD_KEY)),
    ("400 FAILED_PRECONDITION", 400, {}, said_by_gemini(400, "FAILED_PRECONDITION")),
    ("403 PERMISSION_DENIED", 403, {}, said_by_gemini(403, "PERMISSION_DENIED")),
    ("404 NOT_FOUND", 404, {}, said_by_gemini(404, "NOT_FOUND")),
    ("413 from the edge, no JSON", 413, {}, b"<html>too large</html>"),
    ("429, RetryInfo 34 s", 429, {}, said_by_gemini(429, "RESOURCE_EXHAUSTED", quota("PerMinute"), RETRY)),
    ("429, no RetryInfo", 429, {}, said_by_gemini(429, "RESOURCE_EXHAUSTED")),
    (
        "429, quota per day",
        429,
        {},
        said_by_gemini(429, "RESOURCE_EXHAUSTED", quota("RequestsPerDay"), RETRY),
    ),
    ("429, quota of spend", 429, {}, said_by_gemini(429, "RESOURCE_EXHAUSTED", quota("SpendPer10Minutes"))),
    ("500 INTERNAL", 500, {}, said_by_gemini(500, "INTERNAL")),
    ("502 from a proxy, no JSON", 502, {}, b"<html>bad gateway</html>"),
    ("503 UNAVAILABLE", 503, {}, said_by_gemini(503, "UNAVAILABLE")),
    ("504 DEADLINE_EXCEEDED", 504, {}, said_by_gemini(504, "DEADLINE_EXCEEDED")),
    ("200 with an error body", 200, {}, said_by_gemini(503, "UNAVAILABLE")),
    ("200 with half a body", 200, {}, b'{"candidates":[{"con'),
    ("200 promptFeedback block", 200, {}, BLOCKED),
)
TRANSPORT_ERRORS = (
    ("no connection", httpx2.ConnectError("refused")),
    ("connection broke", httpx2.ReadError("reset")),
    ("silence", httpx2.ReadTimeout("late")),
)


async def outcome_of(kind: str, answer) -> errors.UpstreamError | str:
    """What the real adapter, through its SDK, makes of one answer of its provider."""
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        make, model = {"anthropic": (AnthropicUpstream, OPUS), "gemini": (GeminiUpstream, FLASH)}[kind]
        upstream = make(model=model, api_key="k", http_client=client)
        try:
            reply = await upstream.generate(upstream.render(call(user("Hello."))), None, 20.0)
        except errors.UpstreamError as error:
            return error
        finally:
            await upstream.close()
        return reply.finish_reason.value


def row_of(kind: str, what: str, outcome: errors.UpstreamError | str) -> tuple[str, ...]:
    """One row of the printed table."""
    if isinstance(outcome, str):
        return (kind, what, f"no error: {outcome}", "OK", "", "", "", "", "", "")
    _, details = details_of(status_of(outcome))
    wait = details.get("RetryInfo")
    more = sorted(details.keys() - {"ErrorInfo", "RetryInfo"}) + (
        [f"RetryInfo {wait.retry_delay.seconds} s"] if wait is not None else []
    )
    signal = signal_of(outcome, 30.0, CircuitSettings())
    yes = {True: "yes", False: "no"}
    return (
        kind,
        what,
        outcome.reason,
        code_of(outcome).name,
        ", ".join(["ErrorInfo", *more]),
        {None: "backs off", STOP: "stops"}.get(pushback := pushback_ms(outcome), f"waits {pushback} ms"),
        yes[outcome.retryable],
        yes[outcome.other_route_may_help],
        details["ErrorInfo"].metadata["billed"],
        yes[signal is Signal.ILL],
    )


async def test_the_printed_table_is_what_happens():
    """Every documented error of both providers (A-ERR, G-ERR, 2026-11) through its real SDK to our status."""
    rows = []
    for kind, table_of_kind in (("anthropic", ANTHROPIC_ERRORS), ("gemini", GEMINI_ERRORS)):
        for what, status, headers, body in table_of_kind:
            response = httpx2.Response(status, headers={"request-id": REQUEST_ID, **headers}, content=body)
            rows.append(row_of(kind, what, await outcome_of(kind, lambda _, response=response: response)))
        for what, error in TRANSPORT_ERRORS:

            def broken(_, error=error):
                raise error

            rows.append(row_of(kind, what, await outcome_of(kind, broken)))
    header = (
        *("provider", "says", "ErrorInfo.reason", "status", "details", "channel"),
        *("retried", "other route", "billed"),
    )
    assert_golden("error_table.txt", table((*header, "opens circuit"), rows))


def test_every_class_an_adapter_names_is_in_the_printed_table():
    """No row of either adapter's tables is missing where people look it up."""
    printed = (DIRECTORY / "error_table.txt").read_text(encoding="utf-8")
    named = {*anthropic_errors.BY_TYPE.values(), *anthropic_errors.BY_CODE.values()}
    named |= {*gemini_errors.BY_NAME.values(), *gemini_errors.BY_REASON.values()}
    for kind in named:
        assert kind.reason in printed
    for type_ in (*anthropic_errors.BY_TYPE, *anthropic_errors.BY_CODE):
        assert type_ in printed or type_ == "rate_limit_error", type_
