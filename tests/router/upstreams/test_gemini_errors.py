"""One table from Gemini's errors to ours."""

from typing import Any

import pytest
from google.genai import errors as sdk_errors

from router import errors
from router.upstreams.gemini_errors import from_body, from_sdk

RPC = "type.googleapis.com/google.rpc."
KEY_INVALID = [{"@type": f"{RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]
RETRY = {"@type": f"{RPC}RetryInfo", "retryDelay": "34.5s"}


def quota(id_: str) -> dict[str, Any]:
    return {
        "@type": f"{RPC}QuotaFailure",
        "violations": [{"quotaMetric": "m", "quotaId": id_, "quotaValue": "9"}],
    }


TABLE: list[tuple[int | None, str, Any, type[errors.UpstreamError]]] = [
    (400, "INVALID_ARGUMENT", None, errors.UpstreamRejected),
    (400, "INVALID_ARGUMENT", KEY_INVALID, errors.UpstreamUnauthorized),
    (400, "FAILED_PRECONDITION", None, errors.UpstreamUnauthorized),
    (401, "UNAUTHENTICATED", None, errors.UpstreamUnauthorized),
    (403, "PERMISSION_DENIED", None, errors.UpstreamUnauthorized),
    (404, "NOT_FOUND", None, errors.UpstreamModelMissing),
    (404, "Not Found", None, errors.UpstreamRejected),  # not the API: a wrong base URL
    (429, "RESOURCE_EXHAUSTED", [RETRY], errors.UpstreamRateLimited),
    (429, "RESOURCE_EXHAUSTED", [quota("RequestsPerMinutePerProject"), RETRY], errors.UpstreamRateLimited),
    (429, "RESOURCE_EXHAUSTED", [quota("RequestsPerDayPerProject"), RETRY], errors.UpstreamSpendLimited),
    (429, "", "not a list", errors.UpstreamRateLimited),
    (499, "CANCELLED", None, errors.UpstreamFailed),
    (500, "INTERNAL", None, errors.UpstreamFailed),
    (502, "Bad Gateway", None, errors.UpstreamFailed),
    (503, "UNAVAILABLE", None, errors.UpstreamOverloaded),
    (504, "DEADLINE_EXCEEDED", None, errors.UpstreamFailed),
    (None, "A_NEW_NAME", [{"reason": 7}, 3], errors.UpstreamFailed),
]


@pytest.mark.parametrize(("status", "name", "details", "expected"), TABLE)
def test_table(status: int | None, name: str, details: Any, expected: type[errors.UpstreamError]) -> None:
    """The reason decides first, then the status name, then the HTTP status; odd details never fail."""
    named = from_body(status=status, name=name, message="", details=details, model="m", secret="")
    assert type(named) is expected


def test_the_wait_stands_in_the_body() -> None:
    """RetryInfo wins over a header, fractions count, and none told is unknown."""

    def wait(details: list[Any], headers: dict[str, str]) -> float | None:
        return from_body(
            status=429, name="", message="", details=details, model="m", secret="", headers=headers
        ).retry_after_s

    assert wait([quota("x"), RETRY], {"retry-after": "9"}) == 34.5
    assert wait([], {"retry-after": "9"}) == 9.0
    assert wait([], {}) is None


def test_waits_are_capped_at_a_day() -> None:
    """Nobody waits 1e300 s, and no clock can add it; other spellings are unknown."""

    def wait(delay: Any) -> float | None:
        details = [{"retryDelay": delay, "violations": None}]
        return from_body(status=429, name="", message="", details=details, model="m", secret="").retry_after_s

    assert [wait("1e300s"), wait("3s"), wait({"seconds": 3})] == [86_400.0, 3.0, None]


REFUSALS = [
    ("Invalid value at 'contents[0].parts[1].text' (TYPE_STRING), SECRET", ", at contents[0].parts[1].text"),
    ("* GenerateContentRequest.contents[2].parts: must not be empty SECRET", ", at contents[2].parts"),
    (
        "Invalid value at 'tools[0].function_declarations[0].parameters.properties.secret' (x)",
        ", at tools[0].function_declarations[0].parameters",
    ),
    ("Invalid value at 'secret' (x)", ""),
    ("SECRET", ""),
]


@pytest.mark.parametrize(("message", "told"), REFUSALS)
def test_refusals_are_told_without_the_providers_words(message: str, told: str) -> None:
    """A 400 may quote what was sent: only the name, status, path and request id go on."""
    named = from_body(
        status=400,
        name="INVALID_ARGUMENT",
        message=message,
        details=None,
        model="m",
        secret="",
        request_id="r1",
    )
    assert str(named) == f"gemini: INVALID_ARGUMENT: HTTP 400{told}, request r1"
    assert named.upstream_request_id == "r1"


@pytest.mark.parametrize("as_list", [False, True])
def test_what_the_sdk_raises_keeps_its_facts(as_list: bool) -> None:
    """A streaming call may answer with a one-element array; the SDK unwraps it, and the key stays out."""
    body = {"error": {"code": 400, "message": "API key sk-1 not valid.", "status": "INVALID_ARGUMENT"}}
    body["error"]["details"] = KEY_INVALID
    named = from_sdk(sdk_errors.ClientError(400, [body] if as_list else body, None), "m", "sk-1", 1.0)
    assert type(named) is errors.UpstreamUnauthorized
    assert named.http_status == 400
    assert str(named) == "gemini: API_KEY_INVALID: API key *** not valid."


def test_bodies_that_are_no_json_do_not_reach_the_message() -> None:
    """The SDK puts such a body into `message`; it may be anything."""
    body = {"message": "<html>secret prompt</html>", "status": "Bad Gateway"}
    named = from_sdk(sdk_errors.ServerError(502, body, None), "m", "", 1.0)
    assert str(named) == "gemini: Bad Gateway"
    assert isinstance(from_sdk(ValueError("secret prompt"), "m", "", 1.0), errors.UpstreamMalformed)
    assert "secret" not in str(from_sdk(ValueError("secret prompt"), "m", "", 1.0))
