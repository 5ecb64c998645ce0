"""Refusals of the Gemini face in Google's error format (G-ERR, 2026-11).

Rule: the delay of a 429 is in the body, never in a header; a wrong key is a 400, a missing one a 403. Texts
not seen on vendor pages are the sandbox's own.
"""

from __future__ import annotations

from typing import Any

from router.sandbox.faults import Fault
from router.sandbox.wire import Json

STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_TYPE = "type.googleapis.com/google.rpc."


class GoogleError(Exception):
    """A refusal: a status name, a message, and the `details` list."""

    def __init__(self, status: str, message: str, details: list[Json] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.details = status, message, details or []

    @property
    def code(self) -> int:
        """The HTTP status."""
        return STATUS[self.status]

    def body(self) -> Json:
        """Return the error body."""
        error: Json = {"code": self.code, "message": self.message, "status": self.status}
        if self.details:
            error["details"] = self.details
        return {"error": error}


def invalid(message: str, field: str | None = None) -> GoogleError:
    """Refuse an argument; `field` adds a BadRequest violation."""
    details = []
    if field is not None:
        details = [
            {"@type": f"{_TYPE}BadRequest", "fieldViolations": [{"field": field, "description": message}]}
        ]
    return GoogleError("INVALID_ARGUMENT", message, details)


def unknown_name(name: str, at: str) -> GoogleError:
    """Refuse an unknown field the way Google's JSON parser does."""
    where = f" at '{at}'" if at else ""
    text = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
    details = [{"@type": f"{_TYPE}BadRequest", "fieldViolations": [{"field": at, "description": text}]}]
    return GoogleError("INVALID_ARGUMENT", text, details)


def bad_key() -> GoogleError:
    """Refuse an API key that is not accepted: a 400."""
    text = "API key not valid. Please pass a valid API key."
    return GoogleError(
        "INVALID_ARGUMENT",
        text,
        [
            {
                "@type": f"{_TYPE}ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            },
            {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": text},
        ],
    )


def missing_key() -> GoogleError:
    """Refuse a request without an API key: a 403."""
    return GoogleError(
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity). Please use API "
        "Key or other form of API consumer identity to call this API.",
    )


def of_fault(fault: Fault, model: str) -> GoogleError:
    """Return the error a fault asks for; stream faults give the error of an overloaded server."""
    text = fault.message
    match fault.kind:
        case "rate_limit":
            return GoogleError("RESOURCE_EXHAUSTED", text or _QUOTA, _quota_details(fault, model))
        case "spend_cap":
            return GoogleError(
                "RESOURCE_EXHAUSTED",
                text or _QUOTA,
                [_violation("GenerateSpendPerDayPerProjectPerModel", model)],
            )
        case "internal":
            return GoogleError("INTERNAL", text or "An internal error has occurred. Please retry.")
        case "timeout_error":
            return GoogleError(
                "DEADLINE_EXCEEDED", text or "Deadline expired before operation could complete."
            )
        case _:
            return GoogleError("UNAVAILABLE", text or "The model is overloaded. Please try again later.")


_QUOTA = "You exceeded your current quota, please check your plan and billing details."


def _quota_details(fault: Fault, model: str) -> list[Json]:
    if fault.retry_after_s is None:
        return []
    seconds = f"{fault.retry_after_s:g}s"
    return [
        _violation("GenerateRequestsPerMinutePerProjectPerModel", model),
        {"@type": f"{_TYPE}RetryInfo", "retryDelay": seconds},
    ]


def _violation(quota_id: str, model: str) -> Json:
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_requests",
        "quotaId": quota_id,
        "quotaDimensions": {"location": "global", "model": model},
        "quotaValue": "1000",
    }
    return {"@type": f"{_TYPE}QuotaFailure", "violations": [violation]}


def snake(name: str) -> str:
    """Spell a lowerCamelCase name in snake_case."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


class Fields:
    """The known fields of one message, readable in lowerCamelCase and snake_case."""

    def __init__(self, *names: str) -> None:
        self._canonical = {spelling: name for name in names for spelling in (name, snake(name))}

    def read(self, value: Any, at: str) -> Json:
        """Return the object with canonical (camelCase) names.

        Raises:
            GoogleError: if it is no object, or a field is unknown or given twice.
        """
        if not isinstance(value, dict):
            raise invalid(f"Invalid value at '{at}' (type), expected an object", at)
        out: Json = {}
        for spelling, item in value.items():
            name = self._canonical.get(spelling)
            if name is None:
                raise unknown_name(spelling, at)
            if name in out:
                raise invalid(f"Invalid value at '{at}': field '{name}' is set twice", at)
            if item is not None:
                out[name] = item
        return out
