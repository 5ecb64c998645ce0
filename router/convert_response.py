"""From the router's own forms to the wire: decisions, answers and bills.

The rule: unknown stays absent: None, given to a message's constructor, leaves the field unset. Nothing is rounded.

A part of a message is spelled as its fields, not as a message of its own: a constructor builds nested fields in place,
but copies nested messages, text and all (measured: half of an answer's conversion). What is 0 or "" on most calls, and
so on the wire without being said, is left out: every field given costs a look-up (measured: .15 us).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cache.plan import Plan, Strategy
from cache.prompt import Layer
from classifier.model import Contribution
from classifier.policy import Reason
from classifier.route import Route
from router.call import (
    Document,
    FinishReason,
    Image,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from router.cost import Cost, Counterfactuals
from router.estimate import RouteEstimate
from router.outcome import AttemptReport, Bill, CacheMiss
from router.reply import Chunk, Reply, TextDelta, ThinkingDelta, ToolCallDelta
from router.usage import Usage
from router.v1 import accounting_pb2, content_pb2, routing_pb2

if TYPE_CHECKING:
    from router.preparation import Prepared

Fields = dict[str, Any]
"""Fields of one message by name, nested ones likewise."""

ROUTES = {Route.FLASH: routing_pb2.ROUTE_FLASH, Route.OPUS: routing_pb2.ROUTE_OPUS}
REASONS = {
    Reason.FORCED: routing_pb2.DECISION_REASON_FORCED,
    Reason.CAPABILITY: routing_pb2.DECISION_REASON_CAPABILITY,
    Reason.OPEN_CIRCUIT: routing_pb2.DECISION_REASON_CIRCUIT_OPEN,
    Reason.TOOL_LOOP: routing_pb2.DECISION_REASON_TOOL_LOOP,
    Reason.FOLLOW_UP: routing_pb2.DECISION_REASON_FOLLOW_UP,
    Reason.COST_CEILING: routing_pb2.DECISION_REASON_COST_CEILING,
    Reason.COST_INVERSION: routing_pb2.DECISION_REASON_COST_INVERSION,
    Reason.SCORE_ABOVE_THRESHOLD: routing_pb2.DECISION_REASON_SCORE_ABOVE_THRESHOLD,
    Reason.SCORE_BELOW_THRESHOLD: routing_pb2.DECISION_REASON_SCORE_BELOW_THRESHOLD,
    Reason.NO_SCORE: routing_pb2.DECISION_REASON_NO_SCORE,
    Reason.BUDGET: routing_pb2.DECISION_REASON_BUDGET,
    Reason.EXPLORATION: routing_pb2.DECISION_REASON_EXPLORATION,
}
FINISH_REASONS = {
    FinishReason.END_TURN: content_pb2.FINISH_REASON_END_TURN,
    FinishReason.MAX_TOKENS: content_pb2.FINISH_REASON_MAX_TOKENS,
    FinishReason.STOP_SEQUENCE: content_pb2.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.TOOL_CALL: content_pb2.FINISH_REASON_TOOL_CALL,
    FinishReason.REFUSAL: content_pb2.FINISH_REASON_REFUSAL,
    FinishReason.CONTEXT_WINDOW: content_pb2.FINISH_REASON_CONTEXT_WINDOW,
    FinishReason.PAUSED: content_pb2.FINISH_REASON_PAUSED,
    FinishReason.MALFORMED: content_pb2.FINISH_REASON_MALFORMED,
    FinishReason.OTHER: content_pb2.FINISH_REASON_OTHER,
}
LAYERS = {
    Layer.TOOLS: accounting_pb2.LAYER_TOOLS,
    Layer.SYSTEM: accounting_pb2.LAYER_SYSTEM,
    Layer.CONTEXT: accounting_pb2.LAYER_CONTEXT,
    Layer.HISTORY: accounting_pb2.LAYER_HISTORY,
    Layer.TURN: accounting_pb2.LAYER_TURN,
}
STRATEGIES = {
    Strategy.NONE: accounting_pb2.CACHE_STRATEGY_NONE,
    Strategy.A: accounting_pb2.CACHE_STRATEGY_A,
    Strategy.B: accounting_pb2.CACHE_STRATEGY_B,
    Strategy.C: accounting_pb2.CACHE_STRATEGY_C,
    Strategy.AUTO: accounting_pb2.CACHE_STRATEGY_AUTO,
}

MISS_CAUSES = {
    "model": accounting_pb2.MISS_CAUSE_MODEL,
    "herd": accounting_pb2.MISS_CAUSE_HERD,
    "tools": accounting_pb2.MISS_CAUSE_TOOLS,
    "system": accounting_pb2.MISS_CAUSE_SYSTEM,
    "context": accounting_pb2.MISS_CAUSE_CONTEXT,
    "history_edited": accounting_pb2.MISS_CAUSE_HISTORY_EDITED,
    "parameter": accounting_pb2.MISS_CAUSE_PARAMETER,
    "image": accounting_pb2.MISS_CAUSE_IMAGE,
    "ttl_lapsed": accounting_pb2.MISS_CAUSE_TTL_LAPSED,
    "below_minimum": accounting_pb2.MISS_CAUSE_BELOW_MINIMUM,
    "lookback": accounting_pb2.MISS_CAUSE_LOOKBACK,
    "evicted": accounting_pb2.MISS_CAUSE_EVICTED,
    "unknown": accounting_pb2.MISS_CAUSE_UNKNOWN,
}


_AVAILABLE: Fields = {"available": True}


def decision_fields(
    prepared: "Prepared", *, route: Route, fell_back: bool = False, escalated: bool = False
) -> Fields:
    """Spell the decision; `route` is the one taken now, which a fallback or an escalation changes."""
    decision = prepared.decision
    fallback = None if fell_back or escalated else decision.fallback
    reason = REASONS[decision.reason]
    if escalated:
        reason = routing_pb2.DECISION_REASON_ESCALATION
    elif fell_back:
        reason = routing_pb2.DECISION_REASON_FALLBACK
    score = None if decision.score is None else decision.score.value
    threshold = margin = None
    if score is not None and decision.by_score:
        threshold, margin = decision.threshold, score - decision.threshold
    return {
        "route": ROUTES[route],
        "reason": reason,
        "score": score,
        "threshold": threshold,
        "margin": margin,
        "propensity": decision.propensity,
        "fallback_route": routing_pb2.ROUTE_UNSPECIFIED if fallback is None else ROUTES[fallback],
        "classifier_digest": decision.model_digest or "",
        "estimates": [_estimate(estimate) for estimate in prepared.estimates.values()],
        "flips": decision.flips,
        "model": prepared.estimates[route].model,
        "shadow_score": None if prepared.shadow is None else prepared.shadow.value,
        "opus_leaves_warm_nano_usd": decision.opus_leaves_nano_usd,
        "answer_value_nano_usd": decision.answer_value_nano_usd,
    }


def _estimate(estimate: RouteEstimate) -> Fields:
    unavailable = {"unavailable_reason": estimate.unavailable} if estimate.unavailable else _AVAILABLE
    return {
        **unavailable,
        "route": ROUTES[estimate.route],
        "model": estimate.model,
        "expected_cost_nano_usd": estimate.expected_nano_usd,
        "cold_cost_nano_usd": estimate.cold_nano_usd,
        "input_tokens": estimate.input_tokens,
        "output_tokens": estimate.output_tokens,
    }


def plan_fields(plan: Plan) -> Fields:
    """Spell a cache plan with its reasons."""
    return {
        "strategy": STRATEGIES[plan.strategy],
        "expected_read_tokens": plan.expected_read_tokens,
        "expected_write_tokens": plan.expected_write_5m_tokens + plan.expected_write_1h_tokens,
        "prompt_tokens": plan.total_tokens,
        "breakpoints": [
            {
                "layer": LAYERS[mark.layer],
                "block_index": mark.position,
                "ttl": {"seconds": mark.ttl_s},
                "prefix_tokens": mark.prefix_tokens,
                "warm_probability": mark.p_warm,
                "reason": mark.reason,
            }
            for mark in plan.breakpoints
        ],
        "skipped_layers": [
            {"layer": LAYERS[skipped.layer], "reason": skipped.reason} for skipped in plan.skipped
        ],
    }


def contributions_fields(contributions: Sequence[Contribution]) -> list[Fields]:
    """Spell what moved a score."""
    return [
        {
            "feature": contribution.name,
            "value": contribution.value,
            "contribution": contribution.contribution,
        }
        for contribution in contributions
    ]


def answer_fields(reply: Reply) -> Fields:
    """Spell a finished answer; sent back as an assistant message it is the conversation's next element."""
    fields: Fields = {
        "parts": [part_fields(part) for part in reply.parts],
        "finish_reason": FINISH_REASONS[reply.finish_reason],
        "model": reply.model,
        "response_id": reply.response_id,
    }
    if reply.stop_sequence:
        fields["stop_sequence"] = reply.stop_sequence
    if reply.refusal_category:
        fields["refusal_category"] = reply.refusal_category
    return fields


def message_fields(message: Message) -> Fields:
    """Spell a message of a held session; sent back as it is, it means the same."""
    role = content_pb2.ROLE_USER if message.role is Role.USER else content_pb2.ROLE_ASSISTANT
    return {"role": role, "parts": [part_fields(part) for part in message.parts]}


def part_fields(part: Part) -> Fields:
    """Spell one part of a message."""
    match part:
        case Text(text, "", ""):
            return {"text": {"text": text}}
        case Text(text, signature, model):
            return {"text": {"text": text, "signature": signature, "model": model}}
        case ToolCall(call_id, name, arguments_json, signature, model):
            return {
                "tool_call": {
                    "id": call_id,
                    "name": name,
                    "arguments_json": arguments_json,
                    "signature": signature,
                    "model": model,
                }
            }
        case Thinking(model, text, signature, redacted):
            return {"thinking": {"model": model, "text": text, "signature": signature, "redacted": redacted}}
        case ToolResult(call_id, content, _, is_error):
            pieces = [part_fields(piece) for piece in content]
            return {"tool_result": {"tool_call_id": call_id, "content": pieces, "is_error": is_error}}
        case Image(media_type, data):
            return {"image": {"media_type": media_type, "data": data}}
        case Document(media_type, data, title):
            return {"document": {"media_type": media_type, "data": data, "title": title}}


def delta_fields(chunk: Chunk) -> Fields | None:
    """Spell a chunk that carries content; None for the others."""
    match chunk:
        case TextDelta(index, text):
            return {"part_index": index, "text": text}
        case ThinkingDelta(index, text):
            return {"part_index": index, "thinking": text}
        case ToolCallDelta(index, call_id, name, arguments_json):
            call = {"id": call_id, "name": name, "arguments_json": arguments_json}
            return {"part_index": index, "tool_call": call}
        case _:
            return None


def bill_fields(bill: Bill) -> Fields:
    """Spell what a request used and cost."""
    usage, spent, otherwise = bill.usage, bill.cost, bill.counterfactuals
    return {
        "usage": None if usage is None else usage_fields(usage),
        "cost": None if spent is None else cost_fields(spent, bill.priced_model),
        "counterfactuals": None if otherwise is None else counterfactuals_fields(otherwise),
        "attempts": [_attempt(attempt) for attempt in bill.attempts],
        "total_nano_usd": bill.total_nano_usd,
        "first_byte_duration": None if bill.first_byte_s is None else duration_fields(bill.first_byte_s),
        "duration": duration_fields(bill.duration_s),
        "flight_wait": None if bill.flight_wait_s is None else duration_fields(bill.flight_wait_s),
        "cache_report": {
            "plan": None if bill.plan is None else plan_fields(bill.plan),
            "read_tokens": None if usage is None else usage.cache_read_tokens,
            "write_tokens": None if usage is None else usage.cache_write_tokens,
            "misses": [_miss(miss) for miss in bill.misses],
            "padding_tokens": bill.padding_tokens,
            "padding_nano_usd": bill.padding_nano_usd,
        },
    }


def usage_fields(usage: Usage) -> Fields:
    """Spell usage, inclusive counts as they are."""
    written = usage.cache_write_tokens
    fields: Fields = {
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
        "thinking_tokens": usage.thinking_tokens,
        "uncached_input_tokens": usage.input_tokens - usage.cache_read_tokens - written,
        "complete": usage.complete,
    }
    if written:
        fields["cache_write_5m_tokens"] = usage.cache_write_5m_tokens
        fields["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    return fields


def cost_fields(cost: Cost, priced_model: str) -> Fields:
    """Spell a cost by part."""
    fields: Fields = {
        "total_nano_usd": cost.total_nano_usd,
        "uncached_input_nano_usd": cost.uncached_input_nano_usd,
        "cache_read_nano_usd": cost.cache_read_nano_usd,
        "output_nano_usd": cost.output_text_nano_usd,
        "thinking_nano_usd": cost.thinking_nano_usd,
        "priced_model": priced_model,
    }
    if cost.cache_write_5m_nano_usd or cost.cache_write_1h_nano_usd or cost.tools_nano_usd:
        fields["cache_write_5m_nano_usd"] = cost.cache_write_5m_nano_usd
        fields["cache_write_1h_nano_usd"] = cost.cache_write_1h_nano_usd
        fields["tools_nano_usd"] = cost.tools_nano_usd
    return fields


def counterfactuals_fields(counterfactuals: Counterfactuals) -> Fields:
    """Spell counterfactual costs; unknown ones stay absent."""
    return {
        "no_caching_nano_usd": counterfactuals.no_caching_nano_usd,
        "all_opus_nano_usd": counterfactuals.all_opus_nano_usd,
        "all_flash_nano_usd": counterfactuals.all_flash_nano_usd,
        "all_opus_no_caching_nano_usd": counterfactuals.all_opus_no_caching_nano_usd,
        "never_switch_nano_usd": counterfactuals.never_switch_nano_usd,
    }


def _miss(miss: CacheMiss) -> Fields:
    return {
        "cause": MISS_CAUSES[miss.cause],
        "layer": accounting_pb2.LAYER_UNSPECIFIED if miss.layer is None else LAYERS[miss.layer],
        "missed_tokens": miss.missed_tokens,
        "lost_nano_usd": miss.lost_nano_usd,
        "detail": miss.detail,
        "block_index": miss.block_index,
        "provider_cause": miss.provider_cause,
        "provider_missed_tokens": miss.provider_missed_tokens,
    }


def _attempt(attempt: AttemptReport) -> Fields:
    return {
        "number": attempt.number,
        "route": ROUTES[attempt.route],
        "model": attempt.model,
        "outcome": attempt.outcome,
        "duration": duration_fields(attempt.duration_s),
        "cost_nano_usd": attempt.cost_nano_usd,
        "discarded": attempt.discarded,
    }


def duration_fields(seconds: float) -> Fields:
    """A span as google.protobuf.Duration, to the nanosecond."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return {"seconds": whole, "nanos": nanos}
