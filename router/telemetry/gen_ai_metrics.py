"""What is counted of RPCs and of calls to models, by the semantic conventions of OpenTelemetry.

The rule: names, labels and boundaries are those of the conventions (`router.attributes` names their versions), so that
dashboards made for any service fit this one; our route is the one label beside them.

It does not know what a call cost, nor what it did to a cache.
"""

from dataclasses import dataclass
from typing import Protocol

from router import attributes as names
from router.settlement import Outcome, Settlement
from router.telemetry.aggregates import Distribution, Histogram, Labels
from router.telemetry.labels import Words

_LABELS_LIMIT = 256
"""Sorts of call whose labels are kept; answers name their model freely, and it must not grow with them."""


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


class GenAiMetrics:
    """Durations of RPCs; durations, tokens and streams of calls to models.

    Args:
        words: What may be a label.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        self._targets: dict[tuple[str, str], _Target] = {}
        self._labels: dict[tuple[str, str, str, str], Labels] = {}
        self.rpc_duration = Histogram(
            names.RPC_SERVER_CALL_DURATION,
            names.SECONDS,
            "Duration of RPCs served",
            (names.RPC_SYSTEM, names.RPC_METHOD, names.RPC_STATUS_CODE, names.ERROR_TYPE),
            names.RPC_DURATION_BOUNDARIES,
        )
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

    def add_target(self, target: InferenceTarget) -> None:
        """Make an upstream known, so that its calls carry its provider, host and model as labels."""
        self._targets[target.name, target.model] = _Target(
            target.provider_name, target.operation, target.server_address, target.server_port
        )
        self._words.upstream.admit(target.name)
        self._words.model.admit(target.model)
        self._words.answered_model.admit(target.model)

    def record_rpc(self, method: str, status_code: str, error_type: str, duration_s: float) -> None:
        """Count one RPC served; `method` without leading slash, `error_type` "" when it is none."""
        error_type = self._words.word(error_type) if error_type else ""
        self.rpc_duration.record(
            (names.RPC_SYSTEM_GRPC, self._words.method(method), status_code, error_type), duration_s
        )

    def record(self, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        """Count the duration and tokens of one attempt, and how its chunks came."""
        labels = self.labels_of(settlement)
        error_type = (
            self._words.word(error_type_of(settlement)) if settlement.outcome is not Outcome.OK else ""
        )
        self.operation_duration.record((*labels, error_type), settlement.duration_s)
        usage = settlement.usage
        if usage is not None:
            self.token_usage.record((*labels, names.TOKEN_TYPE_INPUT), usage.input_tokens)
            self.token_usage.record((*labels, names.TOKEN_TYPE_OUTPUT), usage.output_tokens)
        if settlement.intent.stream:
            self.record_chunks(labels, settlement, chunks)

    def record_chunks(self, labels: Labels, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        """Count how the chunks of a streamed answer came."""
        if settlement.first_byte_s is not None:
            self.first_chunk.record(labels, settlement.first_byte_s)
        if chunks is not None and any(chunks.gaps.counts):
            self.chunk_gap.merge(labels, chunks.gaps)

    def labels_of(self, settlement: Settlement) -> Labels:
        """The conventions' labels of an attempt, error type and token type apart."""
        intent = settlement.intent
        key = (intent.upstream, intent.model, settlement.answered_model, intent.route)
        labels = self._labels.get(key)
        if labels is None:
            target = self._targets.get((intent.upstream, intent.model)) or _UNKNOWN_TARGET
            labels = (
                target.operation,
                target.provider_name,
                self._words.model(intent.model),
                self._words.answered_model(settlement.answered_model),
                target.server_address,
                target.server_port or "",
                intent.route,
            )
            if len(self._labels) < _LABELS_LIMIT:
                self._labels[key] = labels
        return labels


def error_type_of(settlement: Settlement) -> str:
    """Return error.type of an attempt: its stable reason, else how it ended; "" when it went well."""
    if settlement.outcome is Outcome.OK:
        return ""
    return settlement.error or settlement.outcome.value
