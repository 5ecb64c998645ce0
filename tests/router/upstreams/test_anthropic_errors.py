"""One table from Anthropic's errors to ours."""

import anthropic
import httpx2
import pytest

from router import errors
from router.upstreams.anthropic_errors import CAUGHT, error_class, from_body, from_sdk

REQUEST = httpx2.Request("POST", "http://x/v1/messages")
TABLE: list[tuple[int | None, str, str, str, type[errors.UpstreamError]]] = [
    (400, "invalid_request_error", "", "messages.0: bad", errors.UpstreamRejected),
    (
        400,
        "invalid_request_error",
        "",
        "You have reached your specified API usage limits. You will regain access on …",
        errors.UpstreamSpendLimited,
    ),
    (400, "invalid_request_error", "", "Your credit balance is too low to …", errors.UpstreamUnauthorized),
    (401, "authentication_error", "", "invalid x-api-key", errors.UpstreamUnauthorized),
    (402, "billing_error", "", "", errors.UpstreamUnauthorized),
    (403, "permission_error", "", "", errors.UpstreamUnauthorized),
    (404, "not_found_error", "", "model: claude-opus-9", errors.UpstreamModelMissing),
    (404, "", "", "", errors.UpstreamRejected),  # not the API: a wrong base URL
    (409, "conflict_error", "", "", errors.UpstreamFailed),
    (413, "request_too_large", "", "", errors.UpstreamRejected),
    (413, "", "", "", errors.UpstreamRejected),  # from the edge
    (429, "rate_limit_error", "", "", errors.UpstreamRateLimited),
    (429, "rate_limit_error", "ramp_limit_exceeded", "", errors.UpstreamRateLimited),
    (429, "rate_limit_error", "enforced_spend_limit_reached", "", errors.UpstreamSpendLimited),
    (429, "rate_limit_error", "contract_spend_limit_reached", "", errors.UpstreamSpendLimited),
    (429, "a_new_type", "", "", errors.UpstreamRateLimited),
    (500, "api_error", "", "", errors.UpstreamFailed),
    (502, "", "", "", errors.UpstreamFailed),
    (503, "", "", "", errors.UpstreamOverloaded),
    (504, "timeout_error", "", "", errors.UpstreamFailed),
    (529, "overloaded_error", "", "Overloaded", errors.UpstreamOverloaded),
    (None, "overloaded_error", "", "Overloaded", errors.UpstreamOverloaded),  # inside a stream
    (None, "a_new_type", "", "", errors.UpstreamFailed),
]


@pytest.mark.parametrize(("status", "type_", "code", "message", "expected"), TABLE)
def test_table(
    status: int | None, type_: str, code: str, message: str, expected: type[errors.UpstreamError]
) -> None:
    """The code decides first, then the type, then the status."""
    assert error_class(status, type_, code, message) is expected


def status_error(headers: dict[str, str], message: str = "slow down") -> anthropic.APIStatusError:
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": message}}
    response = httpx2.Response(429, headers={"request-id": "req_1", **headers}, json=body, request=REQUEST)
    return anthropic.RateLimitError(f"Error code: 429 - {body}", response=response, body=body)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after-ms": "250", "retry-after": "12"}, 0.25),
        ({"retry-after-ms": "9e7"}, 86_400.0),
        ({"retry-after": "1e300"}, 86_400.0),
    ],
)
def test_what_the_sdk_raises_keeps_its_facts(headers: dict[str, str], seconds: float | None) -> None:
    """Status, request id and the wait asked for go on; milliseconds win because they are finer."""
    named = from_sdk(status_error(headers), "m", "", 1.0)
    assert isinstance(named, errors.UpstreamRateLimited)
    assert (named.http_status, named.upstream_request_id, named.model) == (429, "req_1", "m")
    assert named.retry_after_s == seconds
    assert str(named) == "anthropic: rate_limit_error: slow down"


@pytest.mark.parametrize(
    ("said", "retryable"), [({}, True), ({"x-should-retry": "false"}, False), ({"x-should-retry": "?"}, True)]
)
def test_the_providers_own_word_on_retrying_goes_first(said: dict[str, str], retryable: bool) -> None:
    """As in its SDK: false ends it whatever the status, true allows it whatever the status, else the table holds."""
    assert from_sdk(status_error(said), "m", "", 1.0).retryable is retryable
    refused = from_body(
        status=403,
        type_="permission_error",
        code="",
        message="",
        model="m",
        secret="",
        request_id="",
        headers={"x-should-retry": "true"},
    )
    assert refused.retryable
    assert not errors.UpstreamUnauthorized.retryable


REFUSALS = [
    ("messages.0.content: `SECRET` is invalid", "HTTP 400, at messages.0.content, request req_1"),
    ("tools.0.input_schema.properties.SECRET: bad", "HTTP 400, request req_1"),
    ("tools.0.input_schema.properties.secret: bad", "HTTP 400, at tools.0.input_schema, request req_1"),
    ("secret: bad", "HTTP 400, request req_1"),
    ("messages: secret", "HTTP 400, at messages, request req_1"),
    ("the prompt was SECRET", "HTTP 400, request req_1"),
    (
        "prompt is too long: 205 tokens > 200 maximum, secret",
        "HTTP 400, prompt is too long: 205 tokens > 200 maximum, request req_1",
    ),
]


@pytest.mark.parametrize(("message", "told"), REFUSALS)
def test_refusals_are_told_without_the_providers_words(message: str, told: str) -> None:
    """A 400 may quote what was sent: only type, status, path, fixed phrases and the request id go on."""
    named = from_body(
        status=400,
        type_="invalid_request_error",
        code="",
        message=message,
        model="m",
        secret="",
        request_id="req_1",
    )
    assert str(named) == f"anthropic: invalid_request_error: {told}"


def test_bodies_do_not_reach_the_message() -> None:
    """An HTML page of a proxy is named by its status only."""
    page = "<html>secret prompt</html>"
    response = httpx2.Response(502, text=page, request=REQUEST)
    error = anthropic.InternalServerError(page, response=response, body=page)
    assert str(from_sdk(error, "m", "", 1.0)) == "anthropic: HTTP 502"


def test_connection_errors_are_named_by_their_cause() -> None:
    """The SDK wraps transport errors; what happened stands in the cause."""
    wrapped = anthropic.APIConnectionError(request=REQUEST)
    wrapped.__cause__ = httpx2.ConnectError("", request=REQUEST)
    assert isinstance(from_sdk(wrapped, "m", "", 1.0), errors.UpstreamUnreachable)
    late = anthropic.APITimeoutError(request=REQUEST)
    late.__cause__ = httpx2.ReadTimeout("", request=REQUEST)
    assert isinstance(from_sdk(late, "m", "", 1.0), errors.UpstreamTimeout)
    assert isinstance(late, CAUGHT)


ABOUT_THINKING = [
    ("`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified.", True),
    ("messages.1.content.0: Invalid `signature` in `thinking` block", True),
    ("messages.1: thinking blocks are bound to the conversation they were made in", True),
    ("messages.3.content.0: Expected `thinking` or `redacted_thinking`, but found `tool_use`.", True),
    ('"thinking.type.enabled" is not supported for this model.', False),
    ("thinking: Input should be a valid dictionary", False),
    ("adaptive thinking is not supported on this model", False),
    ("messages.0: text content blocks must be non-empty", False),
]


@pytest.mark.parametrize(("message", "expected"), ABOUT_THINKING)
def test_a_refusal_of_thinking_that_came_back_is_told_apart(message: str, expected: bool) -> None:
    """Without it the same request may be taken; a setting of how to think would be refused again."""
    for type_, said in (("invalid_request_error", expected), ("overloaded_error", False)):
        named = from_body(
            status=400, type_=type_, code="", message=message, model="m", secret="", request_id=""
        )
        assert named.about_thinking is said
