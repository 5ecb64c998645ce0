"""Refusals of the Anthropic face, with the vendor's wording where it is known (A-ERR, 2026-11).

Rule: everything that is refused before generation is an `ApiError`; the face turns it into the documented
body. Texts not seen on vendor pages are the sandbox's own; clients must not depend on them.
"""

from __future__ import annotations

from typing import Any

from router.sandbox.faults import Fault
from router.sandbox.wire import Headers, Json

Path = tuple[str | int, ...]

STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class ApiError(Exception):
    """A refusal: an error type with its status, a message, and optional details and headers."""

    def __init__(
        self, kind: str, message: str, *, error_code: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.error_code, self.headers = kind, message, error_code, headers

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.kind]

    def body(self, request_id: str | None) -> Json:
        """Return the error body; in a stream `request_id` is None."""
        error: Json = {"type": self.kind, "message": self.message}
        if self.error_code is not None:
            error["details"] = {"error_code": self.error_code}
        body: Json = {"type": "error", "error": error}
        if request_id is not None:
            body["request_id"] = request_id
        return body


def invalid(path: Path, message: str) -> ApiError:
    """Refuse a request for what stands at `path`; an empty path refuses it as a whole."""
    where = ".".join(map(str, path))
    return ApiError("invalid_request_error", f"{where}: {message}" if where else message)


def of_fault(fault: Fault) -> ApiError:
    """Return the error a fault asks for; stream faults give the error of an overloaded server."""
    error = _error_of(fault)
    if fault.should_retry is not None:
        error.headers = (*error.headers, ("x-should-retry", str(fault.should_retry).lower()))
    return error


def _error_of(fault: Fault) -> ApiError:
    text = fault.message
    match fault.kind:
        case "rate_limit":
            after: Headers = ()
            if fault.retry_after_s is not None:
                after = (("retry-after", str(max(1, round(fault.retry_after_s)))),)
            default = (
                "This request would exceed your organization's rate limit of %s input tokens per minute."
            )
            return ApiError("rate_limit_error", text or default % "2,000,000", headers=after)
        case "spend_cap":
            return ApiError(
                "rate_limit_error",
                text or "You have reached your enforced spend limit.",
                error_code="enforced_spend_limit_reached",
            )
        case "internal":
            return ApiError("api_error", text or "Internal server error")
        case "timeout_error":
            return ApiError("timeout_error", text or "Request timed out")
        case _:
            return ApiError("overloaded_error", text or "Overloaded")


def only(value: Any, path: Path, allowed: frozenset[str], required: tuple[str, ...] = ()) -> Json:
    """Check that `value` is an object with no field beyond `allowed` and none of `required` missing.

    Raises:
        ApiError: naming the field.
    """
    if not isinstance(value, dict):
        raise invalid(path, "Input should be a valid dictionary")
    if not value.keys() <= allowed:
        extra = next(k for k in value if k not in allowed)
        raise invalid((*path, extra), "Extra inputs are not permitted")
    for name in required:
        if name not in value:
            raise invalid((*path, name), "Field required")
    return value


def a_string(value: Any, path: Path) -> str:
    """Check that `value` is a string."""
    if not isinstance(value, str):
        raise invalid(path, "Input should be a valid string")
    return value


def an_integer(value: Any, path: Path, *, at_least: int | None = None) -> int:
    """Check that `value` is an integer (not a boolean) and not too small."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(path, "Input should be a valid integer")
    if at_least is not None and value < at_least:
        raise invalid(path, f"Input should be greater than or equal to {at_least}")
    return value


def a_boolean(value: Any, path: Path) -> bool:
    """Check that `value` is a boolean."""
    if not isinstance(value, bool):
        raise invalid(path, "Input should be a valid boolean")
    return value


def a_list(value: Any, path: Path) -> list[Any]:
    """Check that `value` is an array."""
    if not isinstance(value, list):
        raise invalid(path, "Input should be a valid list")
    return value


def one_of(value: Any, path: Path, options: tuple[str, ...]) -> str:
    """Check that `value` is one of the strings `options`."""
    if not isinstance(value, str) or value not in options:
        shown = ", ".join(f"'{o}'" for o in options)
        raise invalid(path, f"Input should be {shown}")
    return value
