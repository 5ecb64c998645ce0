"""What is counted: every instrument, its labels, and how a settlement becomes numbers.

The rule: labels come from bounded sets only. Routes, purposes, outcomes, parts and kinds are closed in code;
upstreams and models are those configured; applications and tenants those configured as labels, all others
count as "other"; ids, prompts and users are never labels. Counts are exact (ints, nano-USD) and
independent of trace sampling. Unknown is not zero: a call without a cost is counted as unknown and adds
nothing to any sum.

Buckets. One label of requests (`telemetry.bucket_label`, say "feature") may be the bucket: the values in
`telemetry.buckets` have series of their own, others share "other", requests without it are "none". Over users' calls
that may have been billed, refused ones left out, per bucket and route:

    hit rate            tokens read from the cache / all input tokens
    hit rate by calls   calls that read anything / calls whose usage is known
    saving              input cost without caching minus input cost, over the calls where both are known

As PromQL (the route matters: the target of 60 % is about Opus, Flash caches by itself; the `or` stands for a bucket
that never read and whose reads have no series: without it the worst hit rate would be none at all):

    (sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_input_tokens_total{
        hybrid_router_route="opus", hybrid_router_kind="cache_read"}[1h]))
      or 0 * sum by (hybrid_router_bucket) (
        rate(hybrid_router_bucket_input_tokens_total{hybrid_router_route="opus"}[1h])))
      / sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_input_tokens_total{hybrid_router_route="opus"}[1h]))

    (sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_calls_total{
        hybrid_router_route="opus", hybrid_router_cache_result="hit"}[1h]))
      or 0 * sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_calls_total{
        hybrid_router_route="opus", hybrid_router_cache_result!="unknown"}[1h])))
      / sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_calls_total{
        hybrid_router_route="opus", hybrid_router_cache_result!="unknown"}[1h]))

    sum by (hybrid_router_bucket) (increase(hybrid_router_bucket_baseline_input_cost_total[30d]))
      - sum by (hybrid_router_bucket) (increase(hybrid_router_bucket_input_cost_total[30d]))

The alert is the first of these `< 0.6`, and more than a handful of calls in the window.

Started series. A counter born with its first count hides it from rate() and increase(), and the first miss or the
first call of unknown cost is the one to see. So the series of users' calls whose labels are closed and few start at 0:
about 250 of them without buckets, 20 more per bucket. Those of the router's own calls, of applications and tenants,
and decisions are still born with their first count.

This module does not know how metrics leave the process, and reads no clock.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Protocol

from opentelemetry.sdk.metrics.export import Metric

from cache.diagnose import MissCause
from cache.index import CALIBRATION_BINS, Calibration
from cache.prompt import Layer
from cache.regret import Result, Settled
from cache.schedule import Trigger
from classifier.route import Route
from router import attributes as names
from router.cost import Cost, saving
from router.feedback import Feedback, Receipt, Received, Verdict
from router.settlement import CacheRecord, DecisionRecord, Outcome, Purpose, Settlement
from router.telemetry.aggregates import Counter, Distribution, Histogram, Labels, Observed, Vocabulary
from router.telemetry.call_counts import CallCounts
from router.usage import Usage

NANO_PER_USD = 1_000_000_000

COST_PARTS = (
    "uncached_input",
    "cache_write_5m",
    "cache_write_1h",
    "cache_read",
    "output_text",
    "thinking",
    "tools",
)
"""Parts of a `Cost`, in its order, as they appear in labels and attribute names."""

TOKEN_KINDS = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output_text", "thinking")
"""Kinds of billed tokens; the first four are input."""
_SCENARIOS = ("no_caching", "all_opus", "all_flash", "all_opus_no_caching", "never_switch")
_RESULTS = ("hit", "write", "none")
_BUCKETS_STARTED = 50
"""Buckets whose series start at 0; of more, the others' are born with their first count."""
_COUNTS_LIMIT = 1024
"""Sorts of call whose cells are kept; answers name their model freely, and it must not grow with them."""
_LAYERS = tuple(layer.name.lower() for layer in Layer)
_MISS_LAYERS = {
    MissCause.TOOLS: ("tools",),
    MissCause.SYSTEM: ("system",),
    MissCause.CONTEXT: ("context",),
    MissCause.HISTORY_EDITED: ("history", "turn"),
    MissCause.PARAMETER: _LAYERS,
    MissCause.IMAGE: ("context", "history", "turn"),
}
"""Layers that a miss of a cause begins in as `cache.diagnose` tells it; any, or none that can be told, otherwise."""

_BIN_LABELS = tuple(f"{number / CALIBRATION_BINS:.1f}" for number in range(CALIBRATION_BINS))

Calibrations = Callable[[], Iterable[tuple[str, Calibration]]]
"""Gives (model, how good belief in its cache has been); called in another thread, must be quick."""


class InferenceTarget(Protocol):
    """What telemetry needs to know of an upstream; `router.upstreams.base.Upstream` has it."""

    @property
    def name(self) -> str:
        """Our name of it, "anthropic" or "gemini"."""

    @property
    def provider_name(self) -> str:
        """Value of gen_ai.provider.name."""

    @property
    def operation(self) -> str:
        """Value of gen_ai.operation.name."""

    @property
    def model(self) -> str:
        """Model id asked."""

    @property
    def server_address(self) -> str:
        """Host called."""

    @property
    def server_port(self) -> int:
        """Port called."""


class ChunkTimer:
    """Gaps between the chunks of one stream: tick at every chunk, hand over at settlement.

    The first chunk starts the clock; its own delay is the time to first chunk, not a gap.
    """

    __slots__ = ("_last_s", "gaps")

    def __init__(self) -> None:
        self.gaps = Distribution(names.GEN_AI_DURATION_BOUNDARIES)
        self._last_s: float | None = None

    def tick(self, now_s: float) -> None:
        """Note a chunk at `now_s`, seconds of any steady clock."""
        if self._last_s is not None:
            self.gaps.record(now_s - self._last_s)
        self._last_s = now_s


@dataclass(frozen=True, slots=True)
class _Target:
    provider_name: str
    operation: str
    server_address: str
    server_port: int


_UNKNOWN_TARGET = _Target(names.OTHER, names.OTHER, "", 0)


class Metrics:
    """All instruments of one process.

    Args:
        applications: Names that may be labels.
        tenants: Likewise.
        bucket_label: Name of the request label that is the bucket, "" for none.
        buckets: Its values that may be labels.
    """

    def __init__(
        self,
        applications: Iterable[str] = (),
        tenants: Iterable[str] = (),
        *,
        bucket_label: str = "",
        buckets: Iterable[str] = (),
    ) -> None:
        self._application = Vocabulary(tuple(applications))
        self._tenant = Vocabulary(tuple(tenants))
        self._bucket_label = bucket_label
        buckets = tuple(buckets)
        self._bucket = Vocabulary(buckets)
        self._upstream = Vocabulary()
        self._model = Vocabulary()
        # Aliases resolve to dated ids that no configuration lists; a provider has a handful of them.
        self._answered_model = Vocabulary(learn=16)
        self._word = Vocabulary(learn=128)
        self._method = Vocabulary(learn=256)
        self._targets: dict[tuple[str, str], _Target] = {}
        self._gen_ai_labels: dict[tuple[str, str, str, str], Labels] = {}
        self._call_counts: dict[tuple[str, ...], CallCounts] = {}
        self._define_rpc()
        self._define_gen_ai()
        self._define_ours()
        self._define_cache()
        self._define_buckets()
        self._define_learning()
        self._start_series(sorted(buckets))

    def _start_series(self, buckets: Sequence[str]) -> None:
        """Begin at 0 what is known beforehand of users' calls, models apart."""
        user = Purpose.USER.value
        for route in Route:
            for part in COST_PARTS:
                self.cost.start((route.value, user, part))
            for outcome in Outcome:
                if outcome is not Outcome.REFUSED:
                    self.cost_unknown.start((route.value, user, outcome.value))
            for scenario in _SCENARIOS:
                self.counterfactual_cost.start((route.value, scenario))
        for kind in ("expected", "read"):
            self.cache_belief.start((Route.OPUS.value, user, kind))
        for cause in MissCause:
            self._word.admit(cause.value)
            for layer in _MISS_LAYERS.get(cause, (*_LAYERS, "")):
                for counter in (self.cache_misses, self.cache_missed, self.cache_lost):
                    counter.start((Route.OPUS.value, user, cause.value, layer))
        for layer in _LAYERS:
            self._word.admit(layer)
        named = (*buckets[:_BUCKETS_STARTED], names.OTHER) if self._bucket_label else ()
        for bucket in (*named, names.NONE):
            self._start_bucket(bucket)

    def _start_bucket(self, bucket: str) -> None:
        for route in Route:
            for result in (*_RESULTS, "unknown"):
                self.bucket_calls.start((bucket, route.value, result))
            for kind in TOKEN_KINDS[:4]:
                self.bucket_input.start((bucket, route.value, kind))
            self.bucket_input_cost.start((bucket, route.value))
            self.bucket_baseline.start((bucket, route.value))

    def _define_rpc(self) -> None:
        self.rpc_duration = Histogram(
            names.RPC_SERVER_CALL_DURATION,
            names.SECONDS,
            "Duration of RPCs served",
            (names.RPC_SYSTEM, names.RPC_METHOD, names.RPC_STATUS_CODE, names.ERROR_TYPE),
            names.RPC_DURATION_BOUNDARIES,
        )

    def _define_gen_ai(self) -> None:
        common = (
            names.GEN_AI_OPERATION,
            names.GEN_AI_PROVIDER,
            names.GEN_AI_REQUEST_MODEL,
            names.GEN_AI_RESPONSE_MODEL,
            names.SERVER_ADDRESS,
            names.SERVER_PORT,
            names.ROUTE,
        )
        seconds = names.GEN_AI_DURATION_BOUNDARIES
        self.operation_duration = Histogram(
            names.GEN_AI_OPERATION_DURATION,
            names.SECONDS,
            "Duration of calls to a model",
            (*common, names.ERROR_TYPE),
            seconds,
        )
        self.token_usage = Histogram(
            names.GEN_AI_TOKEN_USAGE,
            "{token}",
            "Tokens billed per call, cache reads and writes included in input",
            (*common, names.GEN_AI_TOKEN_TYPE),
            names.GEN_AI_TOKEN_BOUNDARIES,
        )
        self.first_chunk = Histogram(
            names.GEN_AI_TIME_TO_FIRST_CHUNK,
            names.SECONDS,
            "Time to the first chunk of a streamed answer",
            common,
            seconds,
        )
        self.chunk_gap = Histogram(
            names.GEN_AI_TIME_PER_OUTPUT_CHUNK,
            names.SECONDS,
            "Time between two chunks of a streamed answer",
            common,
            seconds,
        )

    def _define_ours(self) -> None:
        route, model, purpose = names.ROUTE, names.MODEL, names.PURPOSE
        self.calls = Counter(
            names.CALLS,
            "{call}",
            "Attempts on an upstream, by how they ended",
            (route, names.UPSTREAM, model, purpose, names.OUTCOME),
        )
        self.tokens = Counter(
            names.TOKENS,
            "{token}",
            "Tokens billed; the kinds do not overlap and add up to input plus output",
            (route, model, purpose, names.TOKEN_KIND),
        )
        self.cost = Counter(
            names.COST,
            names.USD,
            "USD billed, by what it bought; calls of unknown cost are not in it",
            (route, purpose, names.COST_PART),
            divisor=NANO_PER_USD,
        )
        self.cost_unknown = Counter(
            names.COST_UNKNOWN_CALLS,
            "{call}",
            "Calls that may have been billed and whose cost is not known",
            (route, purpose, names.OUTCOME),
        )
        self.counterfactual_cost = Counter(
            names.COUNTERFACTUAL_COST,
            names.USD,
            "USD the users' calls would have cost otherwise",
            (route, names.SCENARIO),
            divisor=NANO_PER_USD,
        )
        self.saving = Counter(
            names.SAVING,
            names.USD,
            "All Opus without caching, minus the cost, over users' calls where both are known; may fall",
            (route,),
            monotonic=False,
            divisor=NANO_PER_USD,
        )
        self.booked_cost = Counter(
            names.BOOKED_COST,
            names.USD,
            "USD billed, by whom it is booked to",
            (names.APPLICATION, names.TENANT, route, purpose),
            divisor=NANO_PER_USD,
        )
        self.decisions = Counter(
            names.DECISIONS, "{decision}", "Routing decisions, by the rule that bound", (route, names.REASON)
        )
        self.escalations = Counter(
            names.ESCALATIONS,
            "{answer}",
            "Flash answers that failed, by how and by what came of it: answered or failed by Opus, left by the caller, "
            "or the reason it was handed on",
            (names.APPLICATION, names.SIGNAL, names.RESULT),
        )
        self.discarded_cost = Counter(
            names.DISCARDED_COST,
            names.USD,
            "USD billed for answers that were discarded, a part of the calls' cost",
            (names.APPLICATION, names.SIGNAL),
            divisor=NANO_PER_USD,
        )
        self.score = Histogram(
            names.DECISION_SCORE,
            "1",
            "Calibrated chance that Opus is needed",
            (route,),
            names.SCORE_BOUNDARIES,
        )

    def _define_cache(self) -> None:
        route, model, purpose = names.ROUTE, names.MODEL, names.PURPOSE
        self.cache_calls = Counter(
            names.CACHE_CALLS,
            "{call}",
            "Calls with usage, by what they proved about the provider's cache: hit (something was read), "
            "write (only written), none",
            (route, model, purpose, names.CACHE_RESULT),
        )
        self.cache_belief = Counter(
            names.CACHE_BELIEF_TOKENS,
            "{token}",
            "Tokens believed warm before the call (expected) and read by it (read)",
            (route, purpose, names.TOKEN_KIND),
        )
        miss = (route, purpose, names.CACHE_MISS_CAUSE, names.CACHE_MISS_LAYER)
        self.cache_misses = Counter(
            names.CACHE_MISSES, "{miss}", "Prefixes that could have been read and were not", miss
        )
        self.cache_missed = Counter(
            names.CACHE_MISSED_TOKENS, "{token}", "Input tokens that could have been read and were not", miss
        )
        self.cache_lost = Counter(
            names.CACHE_LOST_COST,
            names.USD,
            "USD billed beyond what a read would have cost; misses of calls without a price are not in it",
            miss,
            divisor=NANO_PER_USD,
        )
        self.cache_padding = Counter(
            names.CACHE_PADDING_COST,
            names.USD,
            "USD billed for the operator's filler, a part of the calls' cost",
            (names.APPLICATION, route, purpose),
            divisor=NANO_PER_USD,
        )

        self.warms = Counter(
            names.WARMS,
            "{warm}",
            "Orders to warm a prefix, by what became of them, and warms, by what they proved to be",
            (names.WARM_TRIGGER, names.WARM_RESULT),
        )
        self.warm_cost = Counter(
            names.WARM_COST,
            names.USD,
            "USD billed for warms, by what they proved to be when their entry ended",
            (names.WARM_TRIGGER, names.WARM_RESULT),
            divisor=NANO_PER_USD,
        )
        trigger = (names.WARM_TRIGGER,)
        self.warm_saving = Counter(
            names.WARM_SAVING,
            names.USD,
            "USD that requests would have paid more without the warms they read, by prediction; less their cost it is "
            "what warms brought",
            trigger,
            divisor=NANO_PER_USD,
        )
        self.warm_overstated = Counter(
            names.WARM_OVERSTATED,
            names.USD,
            "USD by which the same prediction overstated what those held out lost",
            trigger,
            divisor=NANO_PER_USD,
        )
        self.unwarmable = Counter(
            names.WARM_UNWARMABLE,
            "{order}",
            "What was to be warmed and cannot be, by why",
            (names.WARM_TRIGGER, names.WARM_REASON),
        )
        self.flight_leads = Counter(
            names.FLIGHT_LEADS,
            "{call}",
            "Calls that began to write a cold prefix that nobody was writing, by whose they are",
            (names.PURPOSE,),
        )
        self.flight_wait = Histogram(
            names.FLIGHT_WAIT,
            names.SECONDS,
            "Time requests waited for another that was writing the same cold prefix, by what ended the wait",
            (names.FLIGHT_OUTCOME,),
            names.GEN_AI_DURATION_BOUNDARIES,
        )

    def _define_buckets(self) -> None:
        labels = (names.BUCKET, names.ROUTE)
        self.bucket_calls = Counter(
            names.BUCKET_CALLS,
            "{call}",
            "Users' calls that may have been billed, by what they proved about the provider's cache: hit, write, "
            "none, unknown (no usage)",
            (*labels, names.CACHE_RESULT),
        )
        self.bucket_input = Counter(
            names.BUCKET_INPUT_TOKENS,
            "{token}",
            "Input tokens of users' calls; the kinds do not overlap and add up to all input",
            (*labels, names.TOKEN_KIND),
        )
        self.bucket_input_cost = Counter(
            names.BUCKET_INPUT_COST,
            names.USD,
            "USD billed for the input of users' calls whose cost without caching is known too",
            labels,
            divisor=NANO_PER_USD,
        )
        self.bucket_baseline = Counter(
            names.BUCKET_BASELINE_INPUT_COST,
            names.USD,
            "USD the input of the same calls would have cost without caching",
            labels,
            divisor=NANO_PER_USD,
        )

    def _define_learning(self) -> None:
        self.feedback = Counter(
            names.FEEDBACK,
            "{judgement}",
            "Judgements of requests received, by verdict (score: none but a score) and what came of them; route of the "
            "request, empty while it is in progress or when it is unknown",
            (names.ROUTE, names.VERDICT, names.RECEIVED),
        )
        self.swaps = Counter(
            names.CLASSIFIER_SWAPS, "{swap}", "Times another classifier came to score", (names.HOW,)
        )
        self.shadow_decisions = Counter(
            names.SHADOW_DECISIONS,
            "{decision}",
            "Requests scored by the shadow classifier too, by whether it takes the same side of the threshold",
            (names.AGREED,),
        )
        self.embeddings = Counter(
            names.EMBEDDINGS,
            "{request}",
            "Requests given to the text encoder, by whether its embedding was used, late or failed",
            (names.EMBEDDED,),
        )
        for how in ("promoted", "rolled_back"):
            self.swaps.start((how,))
        for agreed in ("yes", "no"):
            self.shadow_decisions.start((agreed,))
        for verdict in (*Verdict, "score"):
            for route in Route:
                self.feedback.start((route.value, str(verdict), Received.RECORDED.value))

    def add_target(self, target: InferenceTarget, route: str = "") -> None:
        """Make an upstream known, so that its calls carry its provider, host and model as labels.

        With its route, the series of users' calls on it start at 0.
        """
        self._targets[target.name, target.model] = _Target(
            target.provider_name, target.operation, target.server_address, target.server_port
        )
        self._upstream.admit(target.name)
        self._model.admit(target.model)
        self._answered_model.admit(target.model)
        if not route:
            return
        user = Purpose.USER.value
        for outcome in Outcome:
            self.calls.start((route, target.name, target.model, user, outcome.value))
        for kind in TOKEN_KINDS:
            self.tokens.start((route, target.model, user, kind))
        for result in _RESULTS:
            self.cache_calls.start((route, target.model, user, result))

    def watch_calibration(self, observe: Calibrations) -> None:
        """Export how good belief in the providers' caches is: a reliability table and a Brier score per model."""

        def column(of: Callable[[Calibration, int], float]) -> Callable[[], Iterable[tuple[Labels, float]]]:
            return lambda: [
                ((model, label), of(found, number))
                for model, found in observe()
                for number, label in enumerate(_BIN_LABELS)
            ]

        labels = (names.MODEL, names.CHANCE_BIN)
        self.belief_tested = Observed(
            names.BELIEF_TESTED,
            "{belief}",
            "Calls for which something was believed warm and whose usage told, by tenth of the chance given",
            labels,
            column(lambda found, number: found.bins[number].tested),
            monotonic=True,
        )
        self.belief_predicted = Observed(
            names.BELIEF_PREDICTED,
            "{belief}",
            "Sum of the chances given to them",
            labels,
            column(lambda found, number: found.bins[number].predicted),
            monotonic=True,
        )
        self.belief_held = Observed(
            names.BELIEF_HELD,
            "{belief}",
            "Those of them that came true",
            labels,
            column(lambda found, number: found.bins[number].held),
            monotonic=True,
        )
        self.belief_brier = Observed(
            names.BELIEF_BRIER,
            "{score}",
            "Mean squared difference of chance and outcome since the start; 0 is perfect, 0.25 is a coin",
            (names.MODEL,),
            lambda: [((model,), found.brier / found.tested) for model, found in observe() if found.tested],
            monotonic=False,
        )

    def watch_promotions(self, observe: Callable[[], int]) -> None:
        """Export how many requests took over the write of a cold prefix."""
        self.flight_promotions = Observed(
            names.FLIGHT_PROMOTIONS,
            "{promotion}",
            "Requests that took over the write of a cold prefix from one that failed, left or was late",
            (),
            lambda: [((), observe())],
            monotonic=True,
        )

    def record_rpc(self, method: str, status_code: str, error_type: str, duration_s: float) -> None:
        """Count one RPC served; `method` without leading slash, `error_type` "" when it is none."""
        error_type = self._word(error_type) if error_type else ""
        self.rpc_duration.record(
            (names.RPC_SYSTEM_GRPC, self._method(method), status_code, error_type), duration_s
        )

    def record_decision(self, decision: DecisionRecord) -> None:
        """Count one decision and its score."""
        self.decisions.add((decision.route, self._word(decision.reason)))
        if decision.score is not None:
            self.score.record((decision.route,), decision.score)

    def record_escalation(self, application: str, signal: str, result: str) -> None:
        """Count a failed answer of Flash.

        Args:
            signal: How it failed, of `router.escalation.Signal`.
            result: "answered" or "failed" by Opus, "left" by the caller, or what forbade asking Opus.
        """
        self.escalations.add((self._application(application), self._word(signal), self._word(result)))

    def record_feedback(self, feedback: Feedback, receipt: Receipt) -> None:
        """Count one judgement of a request."""
        verdict = feedback.verdict.value if feedback.verdict is not None else "score"
        self.feedback.add((receipt.route, verdict, receipt.received.value))

    def record_swap(self, *, rolled_back: bool) -> None:
        """Count a change of the classifier that scores."""
        self.swaps.add(("rolled_back" if rolled_back else "promoted",))

    def record_embedding(self, outcome: str) -> None:
        """Count a request given to the text encoder."""
        self.embeddings.add((outcome,))

    def record_shadow(self, *, disagreed: bool) -> None:
        """Count a request that the shadow classifier scored too."""
        self.shadow_decisions.add(("no" if disagreed else "yes",))

    def record_flight(self, outcome: str, waited_s: float) -> None:
        """Count one request that met another's write, and how long it waited."""
        self.flight_wait.record((outcome,), waited_s)

    def record_lead(self, purpose: str) -> None:
        """Count one call that began to write what is cold."""
        self.flight_leads.add((purpose,))

    def start_warms(self) -> None:
        """Let what warms cost and bring begin at 0, so that the first of each is counted by rates, too."""
        for trigger in Trigger:
            self.warm_saving.start((trigger.value,))
            self.warm_overstated.start((trigger.value,))
            for result in Result:
                self.warms.start((trigger.value, result.value))
                if result is not Result.HELD_OUT:
                    self.warm_cost.start((trigger.value, result.value))

    def record_warm(self, trigger: str, result: str) -> None:
        """Count what became of an order to warm."""
        self.warms.add((trigger, result))

    def record_warm_verdict(self, settled: Settled) -> None:
        """Count what a decision to warm came to."""
        self.warms.add((settled.trigger, settled.result.value))
        if settled.result is Result.HELD_OUT:
            self.warm_overstated.add((settled.trigger,), round(-settled.benefit_usd * NANO_PER_USD))
            return
        self.warm_cost.add((settled.trigger, settled.result.value), round(settled.cost_usd * NANO_PER_USD))
        self.warm_saving.add((settled.trigger,), round(settled.saved_usd * NANO_PER_USD))

    def record_unwarmable(self, trigger: str, reason: str) -> None:
        """Count what cannot be warmed."""
        self.unwarmable.add((trigger, reason))

    def record_settlement(self, settlement: Settlement, chunks: ChunkTimer | None = None) -> None:
        """Count one settled attempt: duration, tokens, cost, cache."""
        if not self._record_answered(settlement, chunks):
            self._record_any(settlement, chunks)

    def _record_answered(self, settlement: Settlement, chunks: ChunkTimer | None) -> bool:
        """Count what most settlements are, a user's call with an answer and all figures; False for another."""
        intent, usage, cost = settlement.intent, settlement.usage, settlement.cost
        otherwise, cache = settlement.counterfactuals, settlement.cache
        if (
            settlement.outcome is not Outcome.OK
            or intent.purpose is not Purpose.USER
            or usage is None
            or cost is None
            or otherwise is None
            or cache is None
            or settlement.discarded
        ):
            return False
        counts = self._counts_of(settlement)
        if counts is None:
            return False
        counts.count(settlement.duration_s, cache.expected_read_tokens, usage, cost, otherwise)
        if intent.stream:
            self._record_chunks(self._labels_of(settlement), settlement, chunks)
        if cache.misses:
            self._record_misses(cache, intent.route, Purpose.USER.value)
        if cache.padding_nano_usd:
            labels = (self._application(intent.application), intent.route, Purpose.USER.value)
            self.cache_padding.add(labels, cache.padding_nano_usd)
        return True

    def _counts_of(self, settlement: Settlement) -> CallCounts | None:
        """The cells of a user's answered call; None when too many sorts of call are known already."""
        intent = settlement.intent
        application, tenant = self._application(intent.application), self._tenant(intent.tenant)
        bucket = names.NONE
        if self._bucket_label:
            bucket = self._bucket(intent.labels.get(self._bucket_label, "")) or names.NONE
        key = (
            intent.route,
            intent.upstream,
            intent.model,
            settlement.answered_model,
            application,
            tenant,
            bucket,
        )
        counts = self._call_counts.get(key)
        if counts is None and len(self._call_counts) < _COUNTS_LIMIT:
            counts = self._call_counts[key] = self._new_counts(settlement, application, tenant, bucket)
        return counts

    def _new_counts(self, settlement: Settlement, application: str, tenant: str, bucket: str) -> CallCounts:
        intent, labels = settlement.intent, self._labels_of(settlement)
        route, user, model = intent.route, Purpose.USER.value, self._model(intent.model)
        return CallCounts(
            calls=self.calls.cell((route, self._upstream(intent.upstream), model, user, Outcome.OK.value)),
            tokens=[self.tokens.cell((route, model, user, kind)) for kind in TOKEN_KINDS],
            results=[self.cache_calls.cell((route, model, user, result)) for result in _RESULTS],
            belief=[self.cache_belief.cell((route, user, kind)) for kind in ("expected", "read")],
            cost=[self.cost.cell((route, user, part)) for part in COST_PARTS],
            booked=self.booked_cost.cell((application, tenant, route, user)),
            counterfactual=[self.counterfactual_cost.cell((route, each)) for each in _SCENARIOS],
            saving=self.saving.cell((route,)),
            bucket_results=[self.bucket_calls.cell((bucket, route, result)) for result in _RESULTS],
            bucket_input=[self.bucket_input.cell((bucket, route, kind)) for kind in TOKEN_KINDS[:4]],
            bucket_cost=self.bucket_input_cost.cell((bucket, route)),
            baseline=self.bucket_baseline.cell((bucket, route)),
            duration=self.operation_duration.series((*labels, "")),
            tokens_in=self.token_usage.series((*labels, names.TOKEN_TYPE_INPUT)),
            tokens_out=self.token_usage.series((*labels, names.TOKEN_TYPE_OUTPUT)),
        )

    def _record_any(self, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        intent = settlement.intent
        route, purpose = intent.route, str(intent.purpose)
        model = self._model(intent.model)
        outcome = str(settlement.outcome)
        self.calls.add((route, self._upstream(intent.upstream), model, purpose, outcome))
        self._record_gen_ai(settlement, chunks)
        if settlement.usage is not None:
            self._record_tokens(settlement.usage, route, model, purpose)
            self._record_cache(settlement, settlement.usage, route, model, purpose)
        if settlement.cost is not None:
            self._record_cost(settlement, settlement.cost, route, purpose)
        elif settlement.outcome is not Outcome.REFUSED:
            self.cost_unknown.add((route, purpose, outcome))
        if intent.purpose is Purpose.USER and settlement.outcome is not Outcome.REFUSED:
            self._record_bucket(settlement, route)

    def collect(self) -> Sequence[Metric]:
        """Return every metric that has a series; from any thread."""
        now_ns = time_ns()
        found = (instrument.collect(now_ns) for instrument in self._instruments())
        return [metric for metric in found if metric is not None]

    def _instruments(self) -> Iterable["Counter | Histogram | Observed"]:
        return (value for value in vars(self).values() if isinstance(value, Counter | Histogram | Observed))

    def _record_gen_ai(self, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        labels = self._labels_of(settlement)
        error_type = self._word(error_type_of(settlement)) if settlement.outcome is not Outcome.OK else ""
        self.operation_duration.record((*labels, error_type), settlement.duration_s)
        usage = settlement.usage
        if usage is not None:
            self.token_usage.record((*labels, names.TOKEN_TYPE_INPUT), usage.input_tokens)
            self.token_usage.record((*labels, names.TOKEN_TYPE_OUTPUT), usage.output_tokens)
        if settlement.intent.stream:
            self._record_chunks(labels, settlement, chunks)

    def _record_chunks(self, labels: Labels, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        if settlement.first_byte_s is not None:
            self.first_chunk.record(labels, settlement.first_byte_s)
        if chunks is not None and any(chunks.gaps.counts):
            self.chunk_gap.merge(labels, chunks.gaps)

    def _labels_of(self, settlement: Settlement) -> Labels:
        intent = settlement.intent
        key = (intent.upstream, intent.model, settlement.answered_model, intent.route)
        labels = self._gen_ai_labels.get(key)
        if labels is None:
            target = self._targets.get((intent.upstream, intent.model)) or _UNKNOWN_TARGET
            labels = (
                target.operation,
                target.provider_name,
                self._model(intent.model),
                self._answered_model(settlement.answered_model),
                target.server_address,
                target.server_port or "",
                intent.route,
            )
            # Answers name their model freely; the cache must not grow with them.
            if len(self._gen_ai_labels) < 256:
                self._gen_ai_labels[key] = labels
        return labels

    def _record_tokens(self, usage: Usage, route: str, model: str, purpose: str) -> None:
        add = self.tokens.add
        if count := usage.uncached_input_tokens:
            add((route, model, purpose, "uncached_input"), count)
        if count := usage.cache_write_5m_tokens:
            add((route, model, purpose, "cache_write_5m"), count)
        if count := usage.cache_write_1h_tokens:
            add((route, model, purpose, "cache_write_1h"), count)
        if count := usage.cache_read_tokens:
            add((route, model, purpose, "cache_read"), count)
        thinking = usage.thinking_tokens or 0
        if count := usage.output_tokens - thinking:
            add((route, model, purpose, "output_text"), count)
        if thinking:
            add((route, model, purpose, "thinking"), thinking)

    def _record_cache(
        self, settlement: Settlement, usage: Usage, route: str, model: str, purpose: str
    ) -> None:
        read = usage.cache_read_tokens
        self.cache_calls.add((route, model, purpose, _result(usage)))
        record = settlement.cache
        if record is None:
            return
        expected = record.expected_read_tokens
        if expected:
            self.cache_belief.add((route, purpose, "expected"), expected)
        if read:
            self.cache_belief.add((route, purpose, "read"), read)
        if record.misses:
            self._record_misses(record, route, purpose)
        if record.padding_nano_usd:
            application = self._application(settlement.intent.application)
            self.cache_padding.add((application, route, purpose), record.padding_nano_usd)

    def _record_misses(self, record: CacheRecord, route: str, purpose: str) -> None:
        for miss in record.misses:
            labels = (route, purpose, self._word(miss.cause), self._word(miss.layer))
            self.cache_misses.add(labels)
            self.cache_missed.add(labels, miss.missed_tokens)
            if miss.lost_nano_usd is not None:
                self.cache_lost.add(labels, miss.lost_nano_usd)

    def _record_bucket(self, settlement: Settlement, route: str) -> None:
        bucket = names.NONE
        if self._bucket_label:
            bucket = self._bucket(settlement.intent.labels.get(self._bucket_label, "")) or names.NONE
        usage = settlement.usage
        if usage is None:
            self.bucket_calls.add((bucket, route, "unknown"))
            return
        self.bucket_calls.add((bucket, route, _result(usage)))
        add = self.bucket_input.add
        if count := usage.uncached_input_tokens:
            add((bucket, route, "uncached_input"), count)
        if count := usage.cache_write_5m_tokens:
            add((bucket, route, "cache_write_5m"), count)
        if count := usage.cache_write_1h_tokens:
            add((bucket, route, "cache_write_1h"), count)
        if count := usage.cache_read_tokens:
            add((bucket, route, "cache_read"), count)
        cost, otherwise = settlement.cost, settlement.counterfactuals
        if cost is None or otherwise is None or otherwise.no_caching_nano_usd is None:
            return
        # Output costs the same with and without caching, so the whole difference is the input's.
        paid = cost.input_nano_usd
        self.bucket_input_cost.add((bucket, route), paid)
        self.bucket_baseline.add((bucket, route), paid + otherwise.no_caching_nano_usd - cost.total_nano_usd)

    def _record_cost(self, settlement: Settlement, cost: Cost, route: str, purpose: str) -> None:
        add = self.cost.add
        for part, amount in zip(COST_PARTS, cost_parts(cost), strict=True):
            if amount:
                add((route, purpose, part), amount)
        intent = settlement.intent
        total = cost.total_nano_usd
        self.booked_cost.add(
            (self._application(intent.application), self._tenant(intent.tenant), route, purpose), total
        )
        if settlement.discarded:
            self.discarded_cost.add(
                (self._application(intent.application), self._word(settlement.discarded)), total
            )
        otherwise = settlement.counterfactuals
        if otherwise is None or intent.purpose is not Purpose.USER:
            return
        for scenario, amount_otherwise in (
            ("no_caching", otherwise.no_caching_nano_usd),
            ("all_opus", otherwise.all_opus_nano_usd),
            ("all_flash", otherwise.all_flash_nano_usd),
            ("all_opus_no_caching", otherwise.all_opus_no_caching_nano_usd),
            ("never_switch", otherwise.never_switch_nano_usd),
        ):
            if amount_otherwise is not None:
                self.counterfactual_cost.add((route, scenario), amount_otherwise)
        saved = saving(otherwise.all_opus_no_caching_nano_usd, total)
        if saved is not None:
            self.saving.add((route,), saved)


def _result(usage: Usage) -> str:
    """What a call proved about the provider's cache."""
    return "hit" if usage.cache_read_tokens else "write" if usage.cache_write_tokens else "none"


def cost_parts(cost: Cost) -> tuple[int, ...]:
    """Return the parts of a cost in nano-USD, in the order of `COST_PARTS`."""
    return (
        cost.uncached_input_nano_usd,
        cost.cache_write_5m_nano_usd,
        cost.cache_write_1h_nano_usd,
        cost.cache_read_nano_usd,
        cost.output_text_nano_usd,
        cost.thinking_nano_usd,
        cost.tools_nano_usd,
    )


def error_type_of(settlement: Settlement) -> str:
    """Return error.type of an attempt: its stable reason, else how it ended; "" when it went well."""
    if settlement.outcome is Outcome.OK:
        return ""
    return settlement.error or settlement.outcome.value


ObserveEach = Callable[[], Iterable[tuple[dict[str, str], float | int]]]
"""Gives a gauge's values by labels when someone collects; called in another thread, must be quick."""
Observe = Callable[[], float | int | None]
"""Gives a gauge's value when someone collects, None for none; called in another thread, must be quick."""
