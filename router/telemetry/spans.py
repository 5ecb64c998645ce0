"""What is written on spans, as plain mappings: from a call at its start, from its settlement at its end.

The rule: pure functions that run only for spans that are recorded. Inference spans carry the GenAI
conventions and our cost by part; the server span carries what people search for, in our own namespace,
because viewers count every span with `gen_ai.*` keys as a model call and would double the tokens of a
trace. Unknown values are left out, never 0 or "". No prompt, answer, tool argument or stop sequence is
ever an attribute.
"""

from collections.abc import Mapping, Sequence

from router import attributes as names
from router.call import Call
from router.cost import Cost, saving
from router.money import NANO_PER_USD
from router.settlement import CacheRecord, DecisionRecord, Outcome, Purpose, Settlement
from router.telemetry.gen_ai_metrics import InferenceTarget, error_type_of
from router.telemetry.labels import COST_PARTS, cost_parts
from router.usage import Usage

Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]

_PART_KEYS = tuple(
    (f"{names.COST_PART_PREFIX}{part}_nano_usd", f"{names.COST_PART_PREFIX}{part}_usd") for part in COST_PARTS
)
_TOTAL_KEY = f"{names.COST_PART_PREFIX}total_nano_usd"


def inference_start(
    target: InferenceTarget, call: Call | None, *, route: str, purpose: Purpose, stream: bool, attempt: int
) -> Attributes:
    """Attributes an inference span has from its start; samplers see these."""
    found: Attributes = {
        names.GEN_AI_OPERATION: target.operation,
        names.GEN_AI_PROVIDER: target.provider_name,
        names.GEN_AI_REQUEST_MODEL: target.model,
        names.SERVER_ADDRESS: target.server_address,
        names.SERVER_PORT: target.server_port,
        names.ROUTE: route,
        names.PURPOSE: purpose.value,
        names.ATTEMPT: attempt,
    }
    if stream:
        found[names.GEN_AI_REQUEST_STREAM] = True
    if call is not None:
        found[names.GEN_AI_REQUEST_MAX_TOKENS] = call.max_output_tokens
        if call.effort is not None:
            found[names.GEN_AI_REQUEST_REASONING_LEVEL] = call.effort.value
        if call.output_schema_json:
            found[names.GEN_AI_OUTPUT_TYPE] = names.OUTPUT_TYPE_JSON
        if call.identity.session:
            found[names.GEN_AI_CONVERSATION_ID] = call.identity.session
    return found


def inference_end(settlement: Settlement, *, old_cache_write_name: bool) -> Attributes:
    """Attributes an inference span gets from its settlement."""
    ok = settlement.outcome is Outcome.OK
    finish_reason = settlement.finish_reason or ("" if ok else names.FINISH_REASON_ERROR)
    found: Attributes = {names.OUTCOME: settlement.outcome.value}
    if finish_reason:
        found[names.GEN_AI_RESPONSE_FINISH_REASONS] = (finish_reason,)
    if settlement.response_id:
        found[names.GEN_AI_RESPONSE_ID] = settlement.response_id
    if settlement.answered_model:
        found[names.GEN_AI_RESPONSE_MODEL] = settlement.answered_model
    if settlement.upstream_request_id:
        found[names.UPSTREAM_REQUEST_ID] = settlement.upstream_request_id
    if settlement.intent.stream and settlement.first_byte_s is not None:
        found[names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = settlement.first_byte_s
    if not ok:
        found[names.ERROR_TYPE] = error_type_of(settlement)
    if settlement.usage is not None:
        _add_usage(found, settlement.usage, old_cache_write_name)
    if settlement.cost is not None:
        _add_cost(found, settlement.cost)
    elif settlement.outcome is not Outcome.REFUSED:
        found[names.COST_UNKNOWN] = True
    if settlement.cache is not None:
        _add_cache(found, settlement.cache)
    if settlement.discarded:
        found[names.DISCARDED] = settlement.discarded
    if settlement.extra:
        _add_kept(found, settlement.extra)
    return found


def server_span(
    decision: DecisionRecord | None,
    settlements: Sequence[Settlement],
    *,
    application: str = "",
    tenant: str = "",
) -> Attributes:
    """Attributes of the server span: what one tag search should find.

    Args:
        decision: None when the request failed before it was decided.
        settlements: Every attempt of the request, oldest first; the last one gave the answer or the error.
    """
    found: Attributes = {}
    if application:
        found[names.APPLICATION] = application
    if tenant:
        found[names.TENANT] = tenant
    if decision is not None:
        _add_decision(found, decision)
    if settlements:
        _add_request_totals(found, settlements)
    return found


def _add_kept(found: Attributes, extra: Mapping[str, str]) -> None:
    if "failure" in extra:
        found[names.FAILURE] = extra["failure"]
        found[names.KEPT] = extra.get("kept", "")


def _add_decision(found: Attributes, decision: DecisionRecord) -> None:
    found[names.ROUTE] = decision.route
    found[names.REASON] = decision.reason
    if decision.score is not None:
        found[names.SCORE] = decision.score
    if decision.threshold is not None:
        found[names.THRESHOLD] = decision.threshold
    if decision.propensity < 1.0:
        found[names.PROPENSITY] = decision.propensity
    if decision.model_digest:
        found[names.CLASSIFIER] = decision.model_digest


def _add_request_totals(found: Attributes, settlements: Sequence[Settlement]) -> None:
    last = settlements[-1]
    found[names.ROUTE] = last.intent.route
    found[names.MODEL] = last.answered_model or last.intent.model
    found[names.OUTCOME] = last.outcome.value
    found[names.ATTEMPT_COUNT] = len(settlements)
    total = 0
    for settlement in settlements:
        if settlement.cost is not None:
            total += settlement.cost.total_nano_usd
        elif settlement.outcome is not Outcome.REFUSED:
            found[names.COST_UNKNOWN] = True
    if names.COST_UNKNOWN not in found:
        found[names.COST_USD] = total / NANO_PER_USD
        otherwise = last.counterfactuals
        saved = saving(None if otherwise is None else otherwise.all_opus_no_caching_nano_usd, total)
        if saved is not None:
            found[names.SAVING_USD] = saved / NANO_PER_USD
    if last.usage is not None:
        found[names.CACHE_READ_TOKENS] = last.usage.cache_read_tokens
        found[names.CACHE_WRITE_TOKENS] = last.usage.cache_write_tokens
        if last.usage.input_tokens:
            found[names.CACHE_HIT_RATE] = last.usage.cache_read_tokens / last.usage.input_tokens
    if last.cache is not None:
        _add_misses(found, last.cache)


def _add_usage(found: Attributes, usage: Usage, old_cache_write_name: bool) -> None:
    found[names.GEN_AI_INPUT_TOKENS] = usage.input_tokens
    found[names.GEN_AI_OUTPUT_TOKENS] = usage.output_tokens
    found[names.GEN_AI_CACHE_READ_TOKENS] = usage.cache_read_tokens
    found[names.GEN_AI_CACHE_WRITE_TOKENS] = usage.cache_write_tokens
    if old_cache_write_name:
        found[names.GEN_AI_CACHE_CREATION_TOKENS] = usage.cache_write_tokens
    if usage.thinking_tokens is not None:
        found[names.GEN_AI_REASONING_TOKENS] = usage.thinking_tokens
    if usage.cache_write_tokens:
        found[names.CACHE_WRITE_5M_TOKENS] = usage.cache_write_5m_tokens
        found[names.CACHE_WRITE_1H_TOKENS] = usage.cache_write_1h_tokens
    if not usage.complete:
        found[names.USAGE_COMPLETE] = False


def _add_cost(found: Attributes, cost: Cost) -> None:
    total = cost.total_nano_usd
    found[names.GEN_AI_COST_AMOUNT] = total / NANO_PER_USD
    found[names.GEN_AI_COST_CURRENCY] = names.COST_CURRENCY
    found[names.GEN_AI_COST_SOURCE] = names.COST_SOURCE_LOCAL
    found[_TOTAL_KEY] = total
    for (nano_key, usd_key), amount in zip(_PART_KEYS, cost_parts(cost), strict=True):
        if amount:
            found[nano_key] = amount
            found[usd_key] = amount / NANO_PER_USD


def _add_cache(found: Attributes, cache: CacheRecord) -> None:
    found[names.CACHE_STRATEGY] = cache.strategy
    found[names.CACHE_BREAKPOINT_COUNT] = cache.breakpoint_count
    found[names.CACHE_EXPECTED_READ_TOKENS] = cache.expected_read_tokens
    if cache.p_hit is not None:
        found[names.CACHE_P_HIT] = cache.p_hit
    if cache.held is not None:
        found[names.CACHE_HELD] = cache.held
    if cache.padding_tokens:
        found[names.CACHE_PADDING_TOKENS] = cache.padding_tokens
    _add_misses(found, cache)


def _add_misses(found: Attributes, cache: CacheRecord) -> None:
    """Cause and layer of the dearest miss; tokens and dollars of all of them."""
    if cache.miss_cause:
        found[names.CACHE_MISS_CAUSE] = cache.miss_cause
    if not cache.misses:
        return
    if cache.misses[0].layer:
        found[names.CACHE_MISS_LAYER] = cache.misses[0].layer
    found[names.CACHE_MISS_TOKENS] = sum(miss.missed_tokens for miss in cache.misses)
    lost = [miss.lost_nano_usd for miss in cache.misses if miss.lost_nano_usd is not None]
    if len(lost) == len(cache.misses):
        found[names.CACHE_MISS_USD] = sum(lost) / NANO_PER_USD
