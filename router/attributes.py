"""Every telemetry name this service writes: attributes, metrics, span names and their closed vocabularies.

The rule: a name is spelled here and nowhere else, and none is imported from `opentelemetry.semconv`. The
GenAI conventions have no stable release (they left semantic-conventions in v1.42 and live in
open-telemetry/semantic-conventions-genai, Development; read 2026-11), so a rename must be one edit. RPC names
are those of semconv v1.45.0, stable. Everything of ours is under `hybrid_router.`; `gen_ai.*` keys appear on
inference spans only, because viewers count every span that carries them as a model call.

This module holds strings and numbers; it knows neither OpenTelemetry nor any record of ours.
"""

from typing import Final

SCOPE: Final = "hybrid_router"
"""Instrumentation scope of every span and metric."""

# --- GenAI, inference spans and metrics (semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md,
# 2026-11) ---

GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_OUTPUT_TYPE: Final = "gen_ai.output.type"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
"""Double, seconds; streams only."""

GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""All input, cache reads and writes included."""
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
"""All output, thinking included."""
GEN_AI_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
GEN_AI_CACHE_CREATION_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
"""Name of cache_write before its rename in 2026 (PR 440); Jaeger's GenAI tab still reads only this one."""
GEN_AI_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

GEN_AI_COST_AMOUNT: Final = "gen_ai.usage.cost.amount"
"""Double, proposal (open, PR 443); the exact amount is in the ledger."""
GEN_AI_COST_CURRENCY: Final = "gen_ai.usage.cost.currency"
GEN_AI_COST_SOURCE: Final = "gen_ai.usage.cost.source"
COST_CURRENCY: Final = "USD"
COST_SOURCE_LOCAL: Final = "local"
"""We compute the price from the provider's usage; neither provider reports a price."""

GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
TOKEN_TYPE_INPUT: Final = "input"
TOKEN_TYPE_OUTPUT: Final = "output"
FINISH_REASON_ERROR: Final = "error"
"""Finish reason of a call for which the provider never gave one."""
OUTPUT_TYPE_JSON: Final = "json"

SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
PEER_ADDRESS: Final = "network.peer.address"
PEER_PORT: Final = "network.peer.port"
ERROR_TYPE: Final = "error.type"

# --- RPC (semantic conventions v1.45.0, docs/rpc/grpc.md, stable) ---

RPC_SYSTEM: Final = "rpc.system.name"
RPC_SYSTEM_GRPC: Final = "grpc"
RPC_METHOD: Final = "rpc.method"
"""Fully qualified `package.Service/Method`, no leading slash."""
RPC_STATUS_CODE: Final = "rpc.status_code"
"""The code as a string, e.g. "UNAVAILABLE"."""

RPC_SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server span an error; any other code is the caller's own doing and stays unset."""

# --- Ours, on spans ---

ROUTE: Final = "hybrid_router.route"
REASON: Final = "hybrid_router.reason"
SCORE: Final = "hybrid_router.score"
THRESHOLD: Final = "hybrid_router.threshold"
PROPENSITY: Final = "hybrid_router.propensity"
CLASSIFIER: Final = "hybrid_router.classifier"
"""Digest of the model that scored."""
MODEL: Final = "hybrid_router.model"
UPSTREAM: Final = "hybrid_router.upstream"
UPSTREAM_REQUEST_ID: Final = "hybrid_router.upstream_request_id"
PURPOSE: Final = "hybrid_router.purpose"
OUTCOME: Final = "hybrid_router.outcome"
ATTEMPT: Final = "hybrid_router.attempt"
ATTEMPT_COUNT: Final = "hybrid_router.attempt_count"
ERROR_REASON: Final = "hybrid_router.error"
"""google.rpc.ErrorInfo.reason of the status the caller got."""
INCIDENT: Final = "hybrid_router.incident"
REQUEST_ID: Final = "hybrid_router.request_id"
APPLICATION: Final = "hybrid_router.application"
TENANT: Final = "hybrid_router.tenant"
COST_USD: Final = "hybrid_router.cost_usd"
"""Server span: USD of all attempts of the request; absent when one of them is unknown."""
SAVING_USD: Final = "hybrid_router.saving_usd"
"""Server span: all Opus without caching, minus the cost; negative when the router lost money."""
COST_UNKNOWN: Final = "hybrid_router.cost_unknown"
USAGE_COMPLETE: Final = "hybrid_router.usage_complete"

COST_PART_PREFIX: Final = "hybrid_router.cost."
"""Inference span: `hybrid_router.cost.<part>_nano_usd` (int, exact) and `..._usd` (double)."""

CACHE_STRATEGY: Final = "hybrid_router.cache.strategy"
CACHE_BREAKPOINT_COUNT: Final = "hybrid_router.cache.breakpoint_count"
CACHE_EXPECTED_READ_TOKENS: Final = "hybrid_router.cache.expected_read_tokens"
CACHE_READ_TOKENS: Final = "hybrid_router.cache.read_tokens"
CACHE_WRITE_TOKENS: Final = "hybrid_router.cache.write_tokens"
CACHE_WRITE_5M_TOKENS: Final = "hybrid_router.cache.write_5m_tokens"
CACHE_WRITE_1H_TOKENS: Final = "hybrid_router.cache.write_1h_tokens"
CACHE_HIT_RATE: Final = "hybrid_router.cache.hit_rate"
"""Cache reads / all input tokens, in [0, 1]; absent when there was no input."""
CACHE_MISS_CAUSE: Final = "hybrid_router.cache.miss_cause"
CACHE_MISS_LAYER: Final = "hybrid_router.cache.miss_layer"
"""First layer missed, of the dearest miss; absent when it cannot be told."""
CACHE_MISS_TOKENS: Final = "hybrid_router.cache.miss_tokens"
"""Input tokens that could have been read and were not, all misses of the call."""
CACHE_MISS_USD: Final = "hybrid_router.cache.miss_usd"
"""What that cost; absent when any of it is unknown."""
CACHE_P_HIT: Final = "hybrid_router.cache.p_hit"
"""Chance in [0, 1] given before the call that what was believed warm would be read; absent without belief."""
CACHE_HELD: Final = "hybrid_router.cache.held"
"""Whether it was read."""
CACHE_PADDING_TOKENS: Final = "hybrid_router.cache.padding_tokens"
DISCARDED: Final = "hybrid_router.discarded"
"""Inference span: the failure for which its answer was discarded and Opus asked; absent otherwise."""
FAILURE: Final = "hybrid_router.failure"
"""Inference span: the failure of an answer that was handed on all the same; absent otherwise."""
KEPT: Final = "hybrid_router.kept"
"""Why it was."""
WARM_TRIGGER: Final = "hybrid_router.warm.trigger"
"""What made a warm due: "session_start", "idle", "prediction", "score", "shared" or "operator"."""
WARM_RESULT: Final = "hybrid_router.warm.result"
"""What became of an order: "read", "written", "failed", "unwarmable", "late", "paced", "overtaken", "switched_off"; of
a warm: "used", "wasted", "superfluous"; "held_out" for one that was not sent so that others can be judged by it."""
WARM_REASON: Final = "hybrid_router.warm.reason"
"""Why something cannot be warmed, one of `router.unwarmable.Reason`."""
FLIGHT_OUTCOME: Final = "hybrid_router.flight.outcome"
"""What ended a wait for another request's write: "landed", "promoted", "gave_up" or "cancelled"."""

# --- Ours, on metrics only ---

COST_PART: Final = "hybrid_router.part"
SIGNAL: Final = "hybrid_router.signal"
"""How an answer failed."""
RESULT: Final = "hybrid_router.result"
TOKEN_KIND: Final = "hybrid_router.kind"
SCENARIO: Final = "hybrid_router.scenario"
CACHE_RESULT: Final = "hybrid_router.cache.result"
CHANCE_BIN: Final = "hybrid_router.bin"
"""Lower end of a tenth of [0, 1], as "0.0" ... "0.9"."""
FIGURE: Final = "hybrid_router.figure"
"""What drift is watched of, one of `classifier.drift.FIGURES`."""
HOW: Final = "hybrid_router.how"
"""How another classifier came to score: promoted or rolled_back."""
AGREED: Final = "hybrid_router.agreed"
"""Whether the shadow classifier would have taken the same side of the threshold: yes or no."""
EMBEDDED: Final = "hybrid_router.embedded"
"""What came of asking the text encoder: used, late (scored without) or failed (likewise)."""
VERDICT: Final = "hybrid_router.verdict"
RECEIVED: Final = "hybrid_router.received"
"""What came of a feedback, as in `router.feedback.Received`."""
BUCKET: Final = "hybrid_router.bucket"
"""Value of the request label that the operator made the bucket."""
NONE: Final = "none"
"""Bucket of requests without that label."""
OTHER: Final = "other"
"""Label of everything outside a bounded set."""
OVERFLOW: Final = "otel.metric.overflow"
"""Marks the one series that takes what exceeds an instrument's series limit (OpenTelemetry metrics SDK)."""

# --- Span names ---

SPAN_CLASSIFY: Final = "classify"
SPAN_PLAN: Final = "plan"
SPAN_SETTLE: Final = "settle"
SPAN_WARM: Final = "warm"
"""Root of one warm, linked to what triggered it."""
SPAN_FLIGHT: Final = "flight wait"
"""Only where a request met another that was writing the same cold prefix."""

# --- Metric names, units and boundaries ---

SECONDS: Final = "s"
USD: Final = "{USD}"
"""In braces, so that Prometheus does not append it to the name."""

RPC_SERVER_CALL_DURATION: Final = "rpc.server.call.duration"
GEN_AI_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
GEN_AI_TOKEN_USAGE: Final = "gen_ai.client.token.usage"
GEN_AI_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
GEN_AI_TIME_PER_OUTPUT_CHUNK: Final = "gen_ai.client.operation.time_per_output_chunk"
CALLS: Final = "hybrid_router.calls"
TOKENS: Final = "hybrid_router.tokens"
COST: Final = "hybrid_router.cost"
COST_UNKNOWN_CALLS: Final = "hybrid_router.cost.unknown_calls"
COUNTERFACTUAL_COST: Final = "hybrid_router.counterfactual_cost"
SAVING: Final = "hybrid_router.saving"
BOOKED_COST: Final = "hybrid_router.booked_cost"
DECISIONS: Final = "hybrid_router.decisions"
DECISION_SCORE: Final = "hybrid_router.decision.score"
ESCALATIONS: Final = "hybrid_router.escalations"
DISCARDED_COST: Final = "hybrid_router.discarded_cost"
CACHE_CALLS: Final = "hybrid_router.cache.calls"
CACHE_BELIEF_TOKENS: Final = "hybrid_router.cache.belief_tokens"
CACHE_MISSES: Final = "hybrid_router.cache.misses"
CACHE_MISSED_TOKENS: Final = "hybrid_router.cache.missed_tokens"
CACHE_LOST_COST: Final = "hybrid_router.cache.lost_cost"
CACHE_PADDING_COST: Final = "hybrid_router.cache.padding_cost"
BELIEF_TESTED: Final = "hybrid_router.cache.belief.tested"
BELIEF_PREDICTED: Final = "hybrid_router.cache.belief.predicted"
BELIEF_HELD: Final = "hybrid_router.cache.belief.held"
BELIEF_BRIER: Final = "hybrid_router.cache.belief.brier"
BUCKET_CALLS: Final = "hybrid_router.bucket.calls"
BUCKET_INPUT_TOKENS: Final = "hybrid_router.bucket.input_tokens"
BUCKET_INPUT_COST: Final = "hybrid_router.bucket.input_cost"
BUCKET_BASELINE_INPUT_COST: Final = "hybrid_router.bucket.baseline_input_cost"
IN_FLIGHT: Final = "hybrid_router.in_flight"
LEDGER_LAG: Final = "hybrid_router.ledger.lag"
FEEDBACK: Final = "hybrid_router.feedback"
DRIFT_PSI: Final = "hybrid_router.classifier.drift_psi"
DRIFT_LEVEL: Final = "hybrid_router.classifier.drift_level"
"""By figure: 0 nothing, 1 above what chance explains: look, 2 at or above 0.25: act."""
CLASSIFIER_SERVING: Final = "hybrid_router.classifier.serving"
"""1, by digest of the classifier that scores."""
CLASSIFIER_TAKEN_BACK: Final = "hybrid_router.classifier.taken_back"
"""1 while the classifier that scores does so because the one after it was rolled back by itself."""
CLASSIFIER_SWAPS: Final = "hybrid_router.classifier.swaps"
SHADOW_DECISIONS: Final = "hybrid_router.classifier.shadow_decisions"
EMBEDDINGS: Final = "hybrid_router.classifier.embeddings"
WARMS: Final = "hybrid_router.warms"
WARM_COST: Final = "hybrid_router.warm.cost"
WARM_SAVING: Final = "hybrid_router.warm.saving"
WARM_OVERSTATED: Final = "hybrid_router.warm.overstated"
WARM_UNWARMABLE: Final = "hybrid_router.warm.unwarmable"
WARM_OPEN: Final = "hybrid_router.warm.open"
WARM_SWITCHED_OFF: Final = "hybrid_router.warm.switched_off"
FLIGHT_LEADS: Final = "hybrid_router.flight.leads"
FLIGHT_WAIT: Final = "hybrid_router.flight.wait"
FLIGHT_PROMOTIONS: Final = "hybrid_router.flight.promotions"
CIRCUIT_STATE: Final = "hybrid_router.circuit.state"
"""By route, upstream and model: 0 closed, 1 half open, 2 open."""
BUDGET_AMOUNT: Final = "hybrid_router.budget.amount"
"""By part: limit, spent, in_progress and reserve of today's money."""
BUDGET_ANSWER_VALUE: Final = "hybrid_router.budget.answer_value"
"""By part: what one needed Opus answer may cost by the day's money, Opus's share or the quality floor."""
BUDGET_PART: Final = "hybrid_router.budget.part"

RPC_DURATION_BOUNDARIES: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
"""docs/rpc/rpc-metrics.md, v1.45.0."""

GEN_AI_DURATION_BOUNDARIES: Final = tuple(0.01 * 2**power for power in range(14))
""".01 ... 81.92 s, doubling: gen-ai-metrics.md, 2026-11."""

GEN_AI_TOKEN_BOUNDARIES: Final = tuple(float(4**power) for power in range(14))
"""1 ... 67108864 tokens, times four: gen-ai-metrics.md, 2026-11. Floats, or Prometheus prints le="1"."""

SCORE_BOUNDARIES: Final = tuple(step / 20 for step in range(1, 20))
"""0.05 ... 0.95: a score is a probability, and its drift shows in shares of twentieths."""
