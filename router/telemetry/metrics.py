"""What is counted: every instrument, its labels, and how a settlement becomes numbers.

The rule: labels come from bounded sets only. Routes, purposes, outcomes, parts and kinds are closed in code;
upstreams and models are those configured; applications and tenants those configured as labels, all others
count as "other"; ids, prompts and users are never labels. Counts are exact (ints, nano-USD) and
independent of trace sampling. Unknown is not zero: a call without a cost is counted as unknown and adds
nothing to any sum.

This module does not know how metrics leave the process, and reads no clock.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Protocol

from opentelemetry.sdk.metrics.export import Metric

from router import attributes as names
from router.cost import Cost, saving
from router.settlement import DecisionRecord, Outcome, Purpose, Settlement
from router.telemetry.aggregates import Counter, Distribution, Histogram, Labels, Vocabulary
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
    """

    def __init__(self, applications: Iterable[str] = (), tenants: Iterable[str] = ()) -> None:
        self._application = Vocabulary(tuple(applications))
        self._tenant = Vocabulary(tuple(tenants))
        self._upstream = Vocabulary()
        self._model = Vocabulary()
        # Aliases resolve to dated ids that no configuration lists; a provider has a handful of them.
        self._answered_model = Vocabulary(learn=16)
        self._word = Vocabulary(learn=128)
        self._method = Vocabulary(learn=256)
        self._targets: dict[tuple[str, str], _Target] = {}
        self._gen_ai_labels: dict[tuple[str, str, str, str], Labels] = {}
        self._define_rpc()
        self._define_gen_ai()
        self._define_ours()

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
        self.score = Histogram(
            names.DECISION_SCORE,
            "1",
            "Calibrated chance that Opus is needed",
            (route,),
            names.SCORE_BOUNDARIES,
        )
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
        self.cache_missed = Counter(
            names.CACHE_MISSED_TOKENS,
            "{token}",
            "Tokens believed warm and not read, by cause",
            (route, purpose, names.CACHE_MISS_CAUSE),
        )

    def add_target(self, target: InferenceTarget) -> None:
        """Make an upstream known, so that its calls carry its provider, host and model as labels."""
        self._targets[target.name, target.model] = _Target(
            target.provider_name, target.operation, target.server_address, target.server_port
        )
        self._upstream.admit(target.name)
        self._model.admit(target.model)
        self._answered_model.admit(target.model)

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

    def record_settlement(self, settlement: Settlement, chunks: ChunkTimer | None = None) -> None:
        """Count one settled attempt: duration, tokens, cost, cache."""
        intent = settlement.intent
        route, purpose = intent.route, intent.purpose.value
        model = self._model(intent.model)
        outcome = settlement.outcome.value
        self.calls.add((route, self._upstream(intent.upstream), model, purpose, outcome))
        self._record_gen_ai(settlement, chunks)
        if settlement.usage is not None:
            self._record_tokens(settlement.usage, route, model, purpose)
            self._record_cache(settlement, settlement.usage, route, model, purpose)
        if settlement.cost is not None:
            self._record_cost(settlement, settlement.cost, route, purpose)
        elif settlement.outcome is not Outcome.REFUSED:
            self.cost_unknown.add((route, purpose, outcome))

    def collect(self) -> Sequence[Metric]:
        """Return every metric that has a series; from any thread."""
        now_ns = time_ns()
        found = (instrument.collect(now_ns) for instrument in self._instruments())
        return [metric for metric in found if metric is not None]

    def _instruments(self) -> Iterable["Counter | Histogram"]:
        return (value for value in vars(self).values() if isinstance(value, Counter | Histogram))

    def _record_gen_ai(self, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        labels = self._labels_of(settlement)
        error_type = self._word(error_type_of(settlement)) if settlement.outcome is not Outcome.OK else ""
        self.operation_duration.record((*labels, error_type), settlement.duration_s)
        usage = settlement.usage
        if usage is not None:
            self.token_usage.record((*labels, names.TOKEN_TYPE_INPUT), usage.input_tokens)
            self.token_usage.record((*labels, names.TOKEN_TYPE_OUTPUT), usage.output_tokens)
        if settlement.intent.stream:
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
        thinking = usage.thinking_tokens or 0
        add = self.tokens.add
        for kind, count in (
            ("uncached_input", usage.uncached_input_tokens),
            ("cache_write_5m", usage.cache_write_5m_tokens),
            ("cache_write_1h", usage.cache_write_1h_tokens),
            ("cache_read", usage.cache_read_tokens),
            ("output_text", usage.output_tokens - thinking),
            ("thinking", thinking),
        ):
            if count:
                add((route, model, purpose, kind), count)

    def _record_cache(
        self, settlement: Settlement, usage: Usage, route: str, model: str, purpose: str
    ) -> None:
        read = usage.cache_read_tokens
        result = "hit" if read else "write" if usage.cache_write_tokens else "none"
        self.cache_calls.add((route, model, purpose, result))
        record = settlement.cache
        if record is None:
            return
        expected = record.expected_read_tokens
        if expected:
            self.cache_belief.add((route, purpose, "expected"), expected)
        if read:
            self.cache_belief.add((route, purpose, "read"), read)
        if record.miss_cause and expected > read:
            self.cache_missed.add((route, purpose, self._word(record.miss_cause)), expected - read)

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
        otherwise = settlement.counterfactuals
        if otherwise is None or intent.purpose is not Purpose.USER:
            return
        for scenario, amount_otherwise in (
            ("no_caching", otherwise.no_caching_nano_usd),
            ("all_opus", otherwise.all_opus_nano_usd),
            ("all_flash", otherwise.all_flash_nano_usd),
            ("all_opus_no_caching", otherwise.all_opus_no_caching_nano_usd),
        ):
            if amount_otherwise is not None:
                self.counterfactual_cost.add((route, scenario), amount_otherwise)
        saved = saving(otherwise.all_opus_no_caching_nano_usd, total)
        if saved is not None:
            self.saving.add((route,), saved)


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


Observe = Callable[[], float | int | None]
"""Gives a gauge's value when someone collects, None for none; called in another thread, must be quick."""
