"""Between a workload and the wire, seen from the client: requests to send, and rows from what came back.

The rule: the row keeps figures, names and ids, never content, and what the router left out stays unknown.
Enum values become the lower-case words reports use ("ROUTE_OPUS" is "opus"); unspecified is "".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from google.protobuf.duration_pb2 import Duration

from router.call import Document, Image, Message, Part, Role, Text, Thinking, Tool, ToolCall, ToolResult
from router.report import Row
from router.timeline import RequestConstraints, WorkloadRequest
from router.v1 import accounting_pb2, content_pb2, router_service_pb2, routing_pb2

_ROLES = {Role.USER: content_pb2.ROLE_USER, Role.ASSISTANT: content_pb2.ROLE_ASSISTANT}
_ROUTES = {
    "": routing_pb2.ROUTE_UNSPECIFIED,
    "flash": routing_pb2.ROUTE_FLASH,
    "opus": routing_pb2.ROUTE_OPUS,
}


def messages_to_proto(messages: Iterable[Message]) -> tuple[content_pb2.Message, ...]:
    """Spell messages as the API takes them."""
    return tuple(
        content_pb2.Message(role=_ROLES[message.role], parts=map(_part, message.parts))
        for message in messages
    )


def generate_request(
    request: WorkloadRequest, messages: Sequence[content_pb2.Message]
) -> router_service_pb2.GenerateRequest:
    """Return the unary request that sends `messages`, the whole conversation."""
    return router_service_pb2.GenerateRequest(
        prompt=_prompt(request, messages),
        caller=_caller(request),
        constraints=_constraints(request.constraints),
    )


def stream_request(
    request: WorkloadRequest, messages: Sequence[content_pb2.Message]
) -> router_service_pb2.StreamGenerateRequest:
    """Return the streaming request that sends `messages`, the whole conversation."""
    return router_service_pb2.StreamGenerateRequest(
        prompt=_prompt(request, messages),
        caller=_caller(request),
        constraints=_constraints(request.constraints),
    )


def explain_request(
    request: WorkloadRequest, messages: Sequence[content_pb2.Message]
) -> router_service_pb2.ExplainRequest:
    """Return the request that asks what would be done with `messages`, the whole conversation."""
    return router_service_pb2.ExplainRequest(
        prompt=_prompt(request, messages),
        caller=_caller(request),
        constraints=_constraints(request.constraints),
    )


def with_decision(row: Row, decision: routing_pb2.Decision) -> Row:
    """Add what the router decided."""
    return replace(
        row,
        route=word(routing_pb2.Route.Name(decision.route), "ROUTE_"),
        reason=word(routing_pb2.DecisionReason.Name(decision.reason), "DECISION_REASON_"),
        score=decision.score if decision.HasField("score") else None,
        threshold=decision.threshold if decision.HasField("threshold") else None,
        propensity=decision.propensity or None,  # in (0, 1] when told
        model=decision.model,
    )


def with_answer(row: Row, answer: router_service_pb2.Answer) -> Row:
    """Add which model answered and why it ended."""
    finish = word(content_pb2.FinishReason.Name(answer.finish_reason), "FINISH_REASON_")
    return replace(row, finish_reason=finish, model=answer.model or row.model)


def with_accounting(row: Row, bill: accounting_pb2.Accounting) -> Row:
    """Add tokens, cost, counterfactuals, cache report, times and attempts, each as far as it was told.

    The route becomes that of the last attempt: a fallback after the decision answers on the other one.
    """
    report = bill.cache_report
    usage = bill.usage if bill.HasField("usage") else None
    told = [entry for entry in bill.attempts if entry.route != routing_pb2.ROUTE_UNSPECIFIED]
    return replace(
        row,
        route=word(routing_pb2.Route.Name(told[-1].route), "ROUTE_") if told else row.route,
        tokens=_tokens(usage) if usage else None,
        usage_complete=usage.complete if usage else None,
        hit=usage.cache_read_tokens > 0 if usage else None,
        cost_nano_usd=_cost(bill.cost) if bill.HasField("cost") else None,
        total_nano_usd=bill.total_nano_usd if bill.HasField("total_nano_usd") else None,
        counterfactuals_nano_usd={
            field.name.removesuffix("_nano_usd"): value
            for field, value in bill.counterfactuals.ListFields()
            if field.name.endswith("_nano_usd")
        },
        misses=tuple(
            (
                word(accounting_pb2.MissCause.Name(miss.cause), "MISS_CAUSE_"),
                miss.missed_tokens,
                miss.lost_nano_usd if miss.HasField("lost_nano_usd") else None,
            )
            for miss in report.misses
        ),
        breakpoint_count=len(report.plan.breakpoints) if report.HasField("plan") else None,
        expected_read_tokens=report.plan.expected_read_tokens if report.HasField("plan") else None,
        first_byte_s=_seconds(bill.first_byte_duration) if bill.HasField("first_byte_duration") else None,
        duration_s=_seconds(bill.duration) if bill.HasField("duration") else None,
        attempts=tuple(
            (word(routing_pb2.Route.Name(entry.route), "ROUTE_"), entry.outcome) for entry in bill.attempts
        ),
    )


def word(name: str, prefix: str) -> str:
    """Return the report's word for an enum value's name; "" for the unspecified one."""
    value = name.removeprefix(prefix).lower()
    return "" if value == "unspecified" else value


def _tokens(usage: accounting_pb2.Usage) -> dict[str, int]:
    tokens = {
        "input": usage.input_tokens,
        "uncached_input": usage.uncached_input_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write_5m": usage.cache_write_5m_tokens,
        "cache_write_1h": usage.cache_write_1h_tokens,
        "output": usage.output_tokens,
    }
    if usage.HasField("thinking_tokens"):
        tokens["thinking"] = usage.thinking_tokens
    return tokens


def _cost(cost: accounting_pb2.Cost) -> dict[str, int]:
    return {
        "uncached_input": cost.uncached_input_nano_usd,
        "cache_read": cost.cache_read_nano_usd,
        "cache_write_5m": cost.cache_write_5m_nano_usd,
        "cache_write_1h": cost.cache_write_1h_nano_usd,
        "output": cost.output_nano_usd,
        "thinking": cost.thinking_nano_usd,
        "tools": cost.tools_nano_usd,
    }


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _prompt(request: WorkloadRequest, messages: Sequence[content_pb2.Message]) -> router_service_pb2.Prompt:
    return router_service_pb2.Prompt(
        application=request.application,
        system=request.system,
        tools=map(_tool, request.tools),
        user_context=request.user_context,
        messages=messages,
        max_output_tokens=request.max_output_tokens,
        effort=f"EFFORT_{request.effort.upper() if request.effort else 'UNSPECIFIED'}",
        cache_strategy=f"CACHE_STRATEGY_{request.cache_strategy.upper() or 'UNSPECIFIED'}",
    )


def _caller(request: WorkloadRequest) -> router_service_pb2.Caller:
    return router_service_pb2.Caller(
        tenant=request.tenant,
        user=request.user,
        session=request.session,
        labels=request.labels,
        action=request.action,
    )


def _constraints(constraints: RequestConstraints) -> routing_pb2.Constraints:
    return routing_pb2.Constraints(
        forced_route=_ROUTES[constraints.forced_route],
        quality_floor=constraints.quality_floor,
        cost_ceiling_nano_usd=constraints.cost_ceiling_nano_usd,
        no_cache=constraints.no_cache,
        expected_follow_up_count=constraints.expected_follow_up_count,
        no_fallback=constraints.no_fallback,
        no_exploration=constraints.no_exploration,
        no_escalation=constraints.no_escalation,
    )


def _tool(tool: Tool) -> content_pb2.Tool:
    return content_pb2.Tool(
        name=tool.name, description=tool.description, input_schema_json=tool.input_schema_json
    )


def _part(part: Part) -> content_pb2.Part:
    match part:
        case Text():
            text = content_pb2.TextPart(text=part.text, signature=part.signature, model=part.model)
            return content_pb2.Part(text=text)
        case Image():
            return content_pb2.Part(image=content_pb2.ImagePart(media_type=part.media_type, data=part.data))
        case Document():
            document = content_pb2.DocumentPart(media_type=part.media_type, data=part.data, title=part.title)
            return content_pb2.Part(document=document)
        case ToolCall():
            call = content_pb2.ToolCallPart(
                id=part.id,
                name=part.name,
                arguments_json=part.arguments_json,
                signature=part.signature,
                model=part.model,
            )
            return content_pb2.Part(tool_call=call)
        case ToolResult():
            result = content_pb2.ToolResultPart(
                tool_call_id=part.call_id, content=map(_part, part.content), is_error=part.is_error
            )
            return content_pb2.Part(tool_result=result)
        case Thinking():
            thinking = content_pb2.ThinkingPart(
                model=part.model, text=part.text, signature=part.signature, redacted=part.redacted
            )
            return content_pb2.Part(thinking=thinking)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a call brought back: its row, and the answer to go on with, None when there is none."""

    row: Row
    answer: router_service_pb2.Answer | None = None
