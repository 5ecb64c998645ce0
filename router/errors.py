"""Every way a request can fail, by what the caller can do about it.

    RouterError
    ├── InvalidRequest             a field is wrong: names field, value, limit         fix the request
    ├── NotFound                   unknown application, session, request, prefix
    ├── PreconditionFailed         the service is not in the state this needs           change that first
    ├── NotSupported               no configured route can take this request
    ├── AlreadyExists              the id to open is taken
    ├── Conflict                   the session moved on under this request             read it again, retry
    │   └── SessionBusy                another turn of the session is in progress      wait for its answer
    ├── SessionTooLarge            a held session has no room for this turn            close it, open a shorter one
    ├── SessionsFull               this router holds as many sessions as it may        close some, retry later
    ├── NoRoute                    constraints leave no route
    ├── BudgetExceeded             a cost ceiling or budget would be broken
    ├── DeadlineTooShort           too little time left to start a call
    ├── Overloaded                 this router refuses for load                         retry later
    ├── CircuitOpen                this router holds calls back from a failing provider: nothing was sent
    ├── LedgerUnavailable          the intent could not be journalled: nothing was sent
    └── UpstreamError              a provider failed; knows upstream, model, HTTP status, request id
        ├── UpstreamRejected           4xx: our request was refused (a bug here or in the caller's content)
        ├── UpstreamUnauthorized       bad or missing credential, no permission, billing
        ├── UpstreamModelMissing       unknown or retired model
        ├── UpstreamRateLimited        429; retry_after_s when told
        ├── UpstreamSpendLimited       429 of a spend cap: retrying does not help
        ├── UpstreamOverloaded         529/503; retry or take the other route
        ├── UpstreamFailed             500, 504 and kin
        ├── UpstreamTimeout            no answer in the time we gave it
        ├── UpstreamUnreachable        no connection, or it broke before an answer began
        ├── UpstreamMalformed          the answer could not be understood
        └── UpstreamInterrupted        the answer began and broke off; `usage` is what was seen

This module knows no gRPC: the table from error to status is in `router.status`, and a test asserts that it is whole.
Messages are one sentence for the caller, with values and units, never prompt text, never a secret. A refused request
(UpstreamRejected) is told by the provider's error type, HTTP status, field path and request id: its wording may quote
the prompt, so it goes nowhere.
"""

from router.usage import Usage


class RouterError(Exception):
    """Base of every error the service answers with."""

    reason = "ROUTER_ERROR"
    """Stable machine-readable name, sent as google.rpc.ErrorInfo.reason."""

    def add(self, sentence: str) -> None:
        """Tell the caller one thing more."""
        self.args = (f"{self}; {sentence}",)


class InvalidRequest(RouterError):
    """A field of the request is wrong; `field` is its proto path, e.g. "messages[2].parts[0].text"."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class NotFound(RouterError):
    """Something named in the request does not exist."""

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        super().__init__(f"{kind} {name!r} does not exist" + (f"; {hint}" if hint else ""))
        self.kind = kind
        self.name = name


class PreconditionFailed(RouterError):
    """The service is not in the state this needs; the same fails again until somebody changes that."""

    reason = "PRECONDITION_FAILED"


class NotSupported(RouterError):
    """No configured route can take a request with this content or these parameters."""

    reason = "NOT_SUPPORTED"


class Conflict(RouterError):
    """The thing to change moved on; read it again and retry."""

    reason = "CONFLICT"


class SessionBusy(Conflict):
    """Another turn of the session is in progress; nothing was sent."""

    reason = "SESSION_BUSY"


class AlreadyExists(RouterError):
    """What is to be made under this name is there already."""

    reason = "ALREADY_EXISTS"


class SessionTooLarge(RouterError):
    """A held session would exceed its limit with this turn; nothing was sent and it is as it was."""

    reason = "SESSION_TOO_LARGE"


class SessionsFull(RouterError):
    """This router holds as many sessions, or as much of them, as it may; none that lives is given up for another."""

    reason = "SESSIONS_FULL"


class NoRoute(RouterError):
    """The request's constraints leave no route to take."""

    reason = "NO_ROUTE"


class BudgetExceeded(RouterError):
    """Every route would cost more than the caller's or operator's limit."""

    reason = "BUDGET_EXCEEDED"


class DeadlineTooShort(RouterError):
    """Less time is left than a call needs; nothing was sent."""

    reason = "DEADLINE_TOO_SHORT"

    def __init__(self, remaining_s: float, needed_s: float) -> None:
        super().__init__(
            f"{remaining_s:.3f} s remain before the deadline; at least {needed_s:g} s are needed"
        )
        self.remaining_s = remaining_s


class Overloaded(RouterError):
    """This router has as many requests in hand as it takes."""

    reason = "OVERLOADED"

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{limit} requests are in progress, the configured limit; retry in {retry_after_s:g} s"
        )
        self.retry_after_s = retry_after_s


class LedgerUnavailable(RouterError):
    """The ledger cannot take the intent, so nothing was sent to a provider."""

    reason = "LEDGER_UNAVAILABLE"


class CircuitOpen(RouterError):
    """Every route that could serve is held back because its provider keeps failing; nothing was sent."""

    reason = "CIRCUIT_OPEN"

    def __init__(self, names: str, retry_after_s: float) -> None:
        super().__init__(
            f"calls to {names} are held back after repeated failures; retry in {retry_after_s:.3g} s"
        )
        self.retry_after_s = retry_after_s


class UpstreamError(RouterError):
    """A provider failed.

    Args:
        upstream: "anthropic" or "gemini".
        message: What it said; of a refused request only type, status, field path and request id.
        model: Model asked.
        http_status: Its HTTP status, None when there was none.
        upstream_request_id: Its id of the request, "" when unknown.
        retry_after_s: How long it asked to wait, None when it did not.
        usage: Tokens it is known to have billed before failing, None when nothing is known to be billed.
        retryable: What the provider itself says of asking again; None leaves it to the class.
    """

    reason = "UPSTREAM_ERROR"
    retryable = False
    other_route_may_help = True
    may_be_billed = False
    """Whether the provider may have billed the call although no usage was seen."""
    about_thinking = False
    """Whether it was refused for thinking in its history: without that, the same request may be taken."""

    def __init__(
        self,
        upstream: str,
        message: str,
        *,
        model: str = "",
        http_status: int | None = None,
        upstream_request_id: str = "",
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(f"{upstream}: {message}")
        if retryable is not None:
            self.retryable = retryable
        self.upstream = upstream
        self.model = model
        self.http_status = http_status
        self.upstream_request_id = upstream_request_id
        self.retry_after_s = retry_after_s
        self.usage = usage


class UpstreamRejected(UpstreamError):
    """The provider refused the request itself; the same request will be refused again."""

    reason = "UPSTREAM_REJECTED"


class UpstreamUnauthorized(UpstreamError):
    """The provider refused our credential or its rights."""

    reason = "UPSTREAM_UNAUTHORIZED"


class UpstreamModelMissing(UpstreamError):
    """The provider does not know the model (any more)."""

    reason = "UPSTREAM_MODEL_MISSING"


class UpstreamRateLimited(UpstreamError):
    """The provider refused for rate; `retry_after_s` says when to try again, if it told."""

    reason = "UPSTREAM_RATE_LIMITED"
    retryable = True


class UpstreamSpendLimited(UpstreamError):
    """The provider refused because a spend cap is reached; waiting seconds does not help."""

    reason = "UPSTREAM_SPEND_LIMITED"


class UpstreamOverloaded(UpstreamError):
    """The provider refused for load; a later try or the other route may work."""

    reason = "UPSTREAM_OVERLOADED"
    retryable = True


class UpstreamFailed(UpstreamError):
    """The provider failed inside."""

    reason = "UPSTREAM_FAILED"
    retryable = True


class UpstreamTimeout(UpstreamError):
    """The provider did not answer in time; it may have billed the call."""

    reason = "UPSTREAM_TIMEOUT"
    retryable = True
    may_be_billed = True


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke before an answer began."""

    reason = "UPSTREAM_UNREACHABLE"
    retryable = True


class UpstreamMalformed(UpstreamError):
    """The provider's answer could not be understood; it was probably billed."""

    reason = "UPSTREAM_MALFORMED"
    may_be_billed = True


class UpstreamInterrupted(UpstreamError):
    """The answer began and broke off; what was delivered stays billed.

    Attributes:
        cause: What it would have been called before the answer began.
    """

    reason = "UPSTREAM_INTERRUPTED"
    may_be_billed = True
    cause: type[UpstreamError] = UpstreamFailed
