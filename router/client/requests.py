"""From a caller's words to request messages: the keywords of `generate`, `stream` and `explain`.

The rule: a keyword is a field of the contract under its own name; what is not given is not set, so the server's
defaults apply. Limits are the server's to check; here only what cannot be spelled as a message is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from router.client.content import json_text, user
from router.v1 import (
    accounting_pb2,
    content_pb2,
    feedback_service_pb2,
    operator_service_pb2,
    router_service_pb2,
    routing_pb2,
    session_service_pb2,
)

Messages = (
    str | content_pb2.Message | Iterable[str | content_pb2.Message] | router_service_pb2.GenerateRequest
)
"""What is asked: a question; messages, of which a string is a user message; a `Conversation`; or a whole request."""

RouteName = Literal["flash", "opus"]
EffortName = Literal["low", "medium", "high", "xhigh", "max"]
StrategyName = Literal["none", "a", "b", "c", "auto"]
VerdictName = Literal["good", "bad", "flash_sufficed", "opus_needed"]
Dimension = Literal["total", "route", "model", "tenant", "application", "label", "day", "purpose"]


class Fields(TypedDict, total=False):
    """Keywords of a request; protos/router/v1 says what each means, its range and its default.

    Prompt: `application`, `system`, `tools`, `user_context`, `tool_choice`, `max_output_tokens`, `stop_sequences`,
    `effort`, `output_schema` (JSON text or a mapping), `include_thinking`, `cache_strategy`, `session_version`.
    Caller: `tenant`, `user`, `session`, `labels`, `action`.
    Constraints: `route` (take this one and no other), `quality_floor` (0 to 1), `cost_ceiling_nano_usd`, `no_cache`,
    `expected_follow_up_count`, `no_fallback`, `no_exploration`, `no_escalation`.
    """

    application: str
    system: str | Sequence[str]
    tools: Sequence[content_pb2.Tool]
    user_context: str | Sequence[str]
    tool_choice: content_pb2.ToolChoice
    max_output_tokens: int
    stop_sequences: Sequence[str]
    effort: EffortName
    output_schema: str | Mapping[str, object]
    include_thinking: bool
    cache_strategy: StrategyName
    session_version: int
    tenant: str
    user: str
    session: str
    labels: Mapping[str, str]
    action: str
    route: RouteName
    quality_floor: float
    cost_ceiling_nano_usd: int
    no_cache: bool
    expected_follow_up_count: int
    no_fallback: bool
    no_exploration: bool
    no_escalation: bool


class _Request(Protocol):
    """The three fields that the requests of generate, stream and explain share."""

    def __init__(
        self,
        *,
        prompt: router_service_pb2.Prompt,
        caller: router_service_pb2.Caller,
        constraints: routing_pb2.Constraints,
    ) -> None: ...


AnyRequest = TypeVar("AnyRequest", bound=_Request)

_PLAIN = {
    "prompt": (
        "application",
        "tools",
        "tool_choice",
        "max_output_tokens",
        "stop_sequences",
        "include_thinking",
        "session_version",
    ),
    "caller": ("tenant", "user", "session", "labels", "action"),
    "constraints": (
        "quality_floor",
        "cost_ceiling_nano_usd",
        "no_cache",
        "expected_follow_up_count",
        "no_fallback",
        "no_exploration",
        "no_escalation",
    ),
}
"""Keywords that are fields as they stand."""
_KNOWN = frozenset(Fields.__annotations__)


def request_of(kind: type[AnyRequest], messages: Messages, defaults: Fields, given: Fields) -> AnyRequest:
    """Make a GenerateRequest, StreamGenerateRequest or ExplainRequest.

    Args:
        messages: What is asked; a whole GenerateRequest is taken as it is, in which case no keyword is.
        defaults: The client's own keywords, for what is not `given`.

    Raises:
        TypeError: A keyword is unknown, or given beside a whole request.
        ValueError: A name of a route, effort or strategy is none.
    """
    if isinstance(messages, router_service_pb2.GenerateRequest):
        if given:
            raise TypeError(f"a whole request takes no keywords, got {', '.join(sorted(given))}")
        return kind(prompt=messages.prompt, caller=messages.caller, constraints=messages.constraints)
    if unknown := given.keys() - _KNOWN:
        raise TypeError(f"unknown keywords: {', '.join(sorted(unknown))}")
    fields: dict[str, Any] = {**defaults, **given}
    prompt, caller, constraints = (
        {name: fields[name] for name in names if name in fields} for names in _PLAIN.values()
    )
    for name in ("system", "user_context"):
        if name in fields:
            prompt[name] = [fields[name]] if isinstance(fields[name], str) else fields[name]
    if "output_schema" in fields:
        prompt["output_schema_json"] = json_text(fields["output_schema"])
    if "effort" in fields:
        prompt["effort"] = _named(content_pb2.Effort, "EFFORT", fields["effort"])
    if "cache_strategy" in fields:
        prompt["cache_strategy"] = _named(
            accounting_pb2.CacheStrategy, "CACHE_STRATEGY", fields["cache_strategy"]
        )
    if "route" in fields:
        constraints["forced_route"] = _named(routing_pb2.Route, "ROUTE", fields["route"])
    return kind(
        prompt=router_service_pb2.Prompt(messages=_messages(messages), **prompt),
        caller=router_service_pb2.Caller(**caller),
        constraints=routing_pb2.Constraints(**constraints),
    )


def open_request(
    *,
    session: str,
    user_context: str | Sequence[str],
    messages: Iterable[content_pb2.Message],
    idle_ttl_s: float | None,
    defaults: Fields,
    given: Mapping[str, str | None],
) -> session_service_pb2.OpenSessionRequest:
    """Make an OpenSessionRequest; `given` holds application, tenant and user, None for the client's own."""
    identity = {
        name: str(defaults.get(name, "")) if value is None else value for name, value in given.items()
    }
    return session_service_pb2.OpenSessionRequest(
        session=session,
        user_context=[user_context] if isinstance(user_context, str) else user_context,
        messages=messages,
        idle_ttl=None if idle_ttl_s is None else _duration(idle_ttl_s),
        **identity,
    )


def costs_request(
    by: Dimension,
    *,
    label_key: str,
    start: datetime | None,
    end: datetime | None,
    tenant: str,
    application: str,
) -> operator_service_pb2.GetCostsRequest:
    """Make a GetCostsRequest.

    Raises:
        ValueError: `by` is no dimension, or a time has no zone.
    """
    dimension = operator_service_pb2.COST_DIMENSION_UNSPECIFIED
    if by != "total":
        dimension = _named(operator_service_pb2.CostDimension, "COST_DIMENSION", by)
    return operator_service_pb2.GetCostsRequest(
        dimension=dimension,
        label_key=label_key,
        start_time=None if start is None else _timestamp("start", start),
        end_time=None if end is None else _timestamp("end", end),
        tenant=tenant,
        application=application,
    )


def feedback_request(
    request_id: str, verdict: VerdictName | None, score: float | None, source: str, tenant: str
) -> feedback_service_pb2.SubmitFeedbackRequest:
    """Make a SubmitFeedbackRequest.

    Raises:
        ValueError: `verdict` is no verdict.
    """
    said = feedback_service_pb2.FEEDBACK_VERDICT_UNSPECIFIED
    if verdict is not None:
        said = _named(feedback_service_pb2.FeedbackVerdict, "FEEDBACK_VERDICT", verdict)
    return feedback_service_pb2.SubmitFeedbackRequest(
        request_id=request_id, verdict=said, score=score, source=source, tenant=tenant
    )


def _messages(messages: str | content_pb2.Message | Iterable[Any]) -> list[content_pb2.Message]:
    if isinstance(messages, str | content_pb2.Message):
        messages = (messages,)
    return [user(each) if isinstance(each, str) else each for each in messages]


def _named(enum: Any, prefix: str, name: str) -> Any:
    """Return the enum's value of a short name, e.g. ROUTE_OPUS of "opus"."""
    known = enum.keys()[1:]
    key = f"{prefix}_{name.upper()}" if isinstance(name, str) else ""
    if key not in known:
        raise ValueError(f"{name!r} is none of {', '.join(_short(each, prefix) for each in known)}")
    return enum.Value(key)


def _short(key: str, prefix: str) -> str:
    return key.removeprefix(f"{prefix}_").lower()


def _duration(span_s: float) -> Duration:
    found = Duration()
    found.FromNanoseconds(round(span_s * 1e9))
    return found


def _timestamp(name: str, instant: datetime) -> Timestamp:
    if instant.tzinfo is None:
        raise ValueError(f"{name} has no time zone; give it one, e.g. datetime.UTC")
    found = Timestamp()
    found.FromDatetime(instant.astimezone(UTC))
    return found
