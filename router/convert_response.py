"""From the router's own forms to the wire: decisions, answers and bills.

The rule: unknown stays absent: None, given to a message's constructor, leaves the field unset. Nothing is rounded.
"""

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration

from cache.plan import Plan, Strategy
from cache.prompt import Layer
from cache.rules import TTL_1H_S, TTL_5M_S
from classifier.model import Contribution
from classifier.policy import Reason
from classifier.route import Route
from router.call import FinishReason, Part, Text, Thinking, ToolCall
from router.cost import Cost, Counterfactuals
from router.estimate import RouteEstimate
from router.outcome import AttemptReport, Bill, CacheMiss
from router.preparation import Prepared
from router.reply import Chunk, Reply, TextDelta, ThinkingDelta, ToolCallDelta
from router.usage import Usage
from router.v1 import accounting_pb2, content_pb2, router_service_pb2, routing_pb2

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
TTLS = {ttl_s: Duration(seconds=ttl_s) for ttl_s in (TTL_5M_S, TTL_1H_S)}
STRATEGIES = {
    Strategy.NONE: accounting_pb2.CACHE_STRATEGY_NONE,
    Strategy.A: accounting_pb2.CACHE_STRATEGY_A,
    Strategy.B: accounting_pb2.CACHE_STRATEGY_B,
    Strategy.C: accounting_pb2.CACHE_STRATEGY_C,
    Strategy.AUTO: accounting_pb2.CACHE_STRATEGY_AUTO,
}

MISS_CAUSES = {
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


def decision_to_proto(prepared: Prepared, *, route: Route, fell_back: bool = False) -> routing_pb2.Decision:
    """Spell the decision; `route` is the one taken now, which a fallback changes."""
    decision = prepared.decision
    fallback = None if fell_back else decision.fallback
    proto = routing_pb2.Decision(
        route=ROUTES[route],
        reason=routing_pb2.DECISION_REASON_FALLBACK if fell_back else REASONS[decision.reason],
        propensity=decision.propensity,
        fallback_route=routing_pb2.ROUTE_UNSPECIFIED if fallback is None else ROUTES[fallback],
        classifier_digest=decision.model_digest or "",
        estimates=[_estimate(estimate) for estimate in prepared.estimates.values()],
        flips=decision.flips,
        model=prepared.estimates[route].model,
    )
    if decision.score is not None:
        proto.score = decision.score.value
        if decision.reason in {Reason.SCORE_ABOVE_THRESHOLD, Reason.SCORE_BELOW_THRESHOLD}:
            proto.threshold = decision.threshold
            proto.margin = decision.score.value - decision.threshold
    return proto


def _estimate(estimate: RouteEstimate) -> routing_pb2.RouteEstimate:
    return routing_pb2.RouteEstimate(
        route=ROUTES[estimate.route],
        model=estimate.model,
        available=not estimate.unavailable,
        unavailable_reason=estimate.unavailable,
        expected_cost_nano_usd=estimate.expected_nano_usd,
        cold_cost_nano_usd=estimate.cold_nano_usd,
        input_tokens=estimate.input_tokens,
        output_tokens=estimate.output_tokens,
    )


def plan_to_proto(plan: Plan) -> accounting_pb2.CachePlan:
    """Spell a cache plan with its reasons."""
    proto = accounting_pb2.CachePlan(
        strategy=STRATEGIES[plan.strategy],
        expected_read_tokens=plan.expected_read_tokens,
        expected_write_tokens=plan.expected_write_5m_tokens + plan.expected_write_1h_tokens,
        prompt_tokens=plan.total_tokens,
    )
    # `add` builds in place; messages handed over in a list are built and then copied.
    for mark in plan.breakpoints:
        proto.breakpoints.add(
            layer=LAYERS[mark.layer],
            block_index=mark.position,
            ttl=TTLS[mark.ttl_s],
            prefix_tokens=mark.prefix_tokens,
            warm_probability=mark.p_warm,
            reason=mark.reason,
        )
    for skipped in plan.skipped:
        proto.skipped_layers.add(layer=LAYERS[skipped.layer], reason=skipped.reason)
    return proto


def contributions_to_proto(
    contributions: Sequence[Contribution],
) -> list[router_service_pb2.ScoreContribution]:
    """Spell what moved a score."""
    return [
        router_service_pb2.ScoreContribution(
            feature=contribution.name, value=contribution.value, contribution=contribution.contribution
        )
        for contribution in contributions
    ]


def answer_to_proto(reply: Reply) -> router_service_pb2.Answer:
    """Spell a finished answer; sent back as an assistant message it is the conversation's next element."""
    return router_service_pb2.Answer(
        parts=[part_to_proto(part) for part in reply.parts],
        finish_reason=FINISH_REASONS[reply.finish_reason],
        stop_sequence=reply.stop_sequence,
        refusal_category=reply.refusal_category,
        model=reply.model,
        response_id=reply.response_id,
    )


def part_to_proto(part: Part) -> content_pb2.Part:
    """Spell one part of an answer.

    Raises:
        TypeError: A kind of part no model answers with.
    """
    match part:
        case Text(text, signature, model):
            return content_pb2.Part(text=content_pb2.TextPart(text=text, signature=signature, model=model))
        case ToolCall(call_id, name, arguments_json, signature, model):
            return content_pb2.Part(
                tool_call=content_pb2.ToolCallPart(
                    id=call_id, name=name, arguments_json=arguments_json, signature=signature, model=model
                )
            )
        case Thinking(model, text, signature, redacted):
            return content_pb2.Part(
                thinking=content_pb2.ThinkingPart(
                    model=model, text=text, signature=signature, redacted=redacted
                )
            )
        case _:
            raise TypeError(f"{type(part).__name__} is not part of an answer")


def delta_to_proto(chunk: Chunk) -> router_service_pb2.ContentDelta | None:
    """Spell a chunk that carries content; None for the others."""
    match chunk:
        case TextDelta(index, text):
            return router_service_pb2.ContentDelta(part_index=index, text=text)
        case ThinkingDelta(index, text):
            return router_service_pb2.ContentDelta(part_index=index, thinking=text)
        case ToolCallDelta(index, call_id, name, arguments_json):
            return router_service_pb2.ContentDelta(
                part_index=index,
                tool_call=router_service_pb2.ToolCallDelta(
                    id=call_id, name=name, arguments_json=arguments_json
                ),
            )
        case _:
            return None


def bill_to_proto(bill: Bill) -> accounting_pb2.Accounting:
    """Spell what a request used and cost."""
    usage, spent, otherwise = bill.usage, bill.cost, bill.counterfactuals
    return accounting_pb2.Accounting(
        usage=None if usage is None else usage_to_proto(usage),
        cost=None if spent is None else cost_to_proto(spent, bill.priced_model),
        counterfactuals=None if otherwise is None else counterfactuals_to_proto(otherwise),
        attempts=[_attempt(attempt) for attempt in bill.attempts],
        total_nano_usd=bill.total_nano_usd,
        first_byte_duration=None if bill.first_byte_s is None else duration(bill.first_byte_s),
        duration=duration(bill.duration_s),
        cache_report=_cache_report(bill),
    )


def usage_to_proto(usage: Usage) -> accounting_pb2.Usage:
    """Spell usage, inclusive counts as they are."""
    return accounting_pb2.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_5m_tokens=usage.cache_write_5m_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        thinking_tokens=usage.thinking_tokens,
        uncached_input_tokens=usage.uncached_input_tokens,
        complete=usage.complete,
    )


def cost_to_proto(cost: Cost, priced_model: str) -> accounting_pb2.Cost:
    """Spell a cost by part."""
    return accounting_pb2.Cost(
        total_nano_usd=cost.total_nano_usd,
        uncached_input_nano_usd=cost.uncached_input_nano_usd,
        cache_read_nano_usd=cost.cache_read_nano_usd,
        cache_write_5m_nano_usd=cost.cache_write_5m_nano_usd,
        cache_write_1h_nano_usd=cost.cache_write_1h_nano_usd,
        output_nano_usd=cost.output_text_nano_usd,
        thinking_nano_usd=cost.thinking_nano_usd,
        tools_nano_usd=cost.tools_nano_usd,
        priced_model=priced_model,
    )


def counterfactuals_to_proto(counterfactuals: Counterfactuals) -> accounting_pb2.Counterfactuals:
    """Spell counterfactual costs; unknown ones stay absent."""
    return accounting_pb2.Counterfactuals(
        no_caching_nano_usd=counterfactuals.no_caching_nano_usd,
        all_opus_nano_usd=counterfactuals.all_opus_nano_usd,
        all_flash_nano_usd=counterfactuals.all_flash_nano_usd,
        all_opus_no_caching_nano_usd=counterfactuals.all_opus_no_caching_nano_usd,
    )


def _cache_report(bill: Bill) -> accounting_pb2.CacheReport:
    usage = bill.usage
    return accounting_pb2.CacheReport(
        plan=None if bill.plan is None else plan_to_proto(bill.plan),
        read_tokens=None if usage is None else usage.cache_read_tokens,
        write_tokens=None if usage is None else usage.cache_write_tokens,
        misses=_misses(bill.misses),
    )


def _misses(misses: Iterable[CacheMiss]) -> list[accounting_pb2.CacheMiss]:
    return [
        accounting_pb2.CacheMiss(
            cause=MISS_CAUSES[miss.cause],
            layer=accounting_pb2.LAYER_UNSPECIFIED if miss.layer is None else LAYERS[miss.layer],
            missed_tokens=miss.missed_tokens,
            lost_nano_usd=miss.lost_nano_usd,
            detail=miss.detail,
        )
        for miss in misses
    ]


def _attempt(attempt: AttemptReport) -> accounting_pb2.Attempt:
    return accounting_pb2.Attempt(
        number=attempt.number,
        route=ROUTES[attempt.route],
        model=attempt.model,
        outcome=attempt.outcome,
        duration=duration(attempt.duration_s),
        cost_nano_usd=attempt.cost_nano_usd,
    )


def duration(seconds: float) -> Duration:
    """A span as google.protobuf.Duration, to the nanosecond."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
