"""The record of one call: what was intended, what came of it, what it cost.

The rule: one frozen record per attempt, made once, by the path that made the call; index, demand, token
estimates, ledger, telemetry, sessions and training data are its readers. No field holds prompt or answer
text.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from router.cost import Cost, Counterfactuals
from router.usage import Usage

MAX_LABELS = 16
"""Labels one call may carry; they are for cost buckets, not for data."""


class Purpose(StrEnum):
    """Why a call was made; everything but USER is our own overhead on the bill."""

    USER = "user"
    WARM = "warm"
    PROBE = "probe"
    SHADOW = "shadow"


class Outcome(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    REFUSED = "refused"
    """The provider answered with an error before any content; it bills nothing."""
    INTERRUPTED = "interrupted"
    """The answer began and the provider broke it off."""
    CANCELLED = "cancelled"
    """The caller left or its deadline passed."""
    UNKNOWN = "unknown"
    """We cannot tell whether it was billed: crash of this process, reset or timeout after sending."""


class Intent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Journalled before money is spent. `(request_id, attempt)` is its identity, never used again.

    Attributes:
        request_id: Unique over the ledger's life; a second call settled under it would be kept aside, not
            added.
        attempt: 1-based number of the attempt within the request.
        labels: At most `MAX_LABELS`; names as in `label:NAME` of the ledger's queries.
        started_time_s: Wall clock, seconds since the epoch.
        cost_bound_nano_usd: The most this attempt can cost (whole prompt written at the dearest price used,
            maximal output); shown as the bound of unknown spend when the process dies; None when no price is
            known.
    """

    request_id: str
    attempt: int
    purpose: Purpose
    route: str
    upstream: str
    model: str
    tenant: str
    application: str
    user: str
    session: str
    labels: Mapping[str, str]
    stream: bool
    started_time_s: float
    cost_bound_nano_usd: int | None
    trace_id: str = ""

    def __post_init__(self) -> None:
        if len(self.labels) > MAX_LABELS:
            raise ValueError(f"a call carries at most {MAX_LABELS} labels, not {len(self.labels)}")


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The decision as the ledger keeps it, for training and audit.

    Attributes:
        score: Calibrated chance that Opus is needed, None when no model scored.
        propensity: Probability with which the policy took this route.
        expected_flash_nano_usd: Expected cost of Flash when deciding, None unknown; likewise Opus.
        features: Hashed features (`classifier.features`), packed as text, "" when not kept; no text of the request.
        explored: Whether the route was drawn at random.
        answer_value_nano_usd: What a needed Opus answer was taken to be worth, None under a fixed threshold.
        opus_leaves_nano_usd: Expected value of the cache that Opus would leave warm.
        shadow_score: Score of the shadow model, None without one.
        shadow_digest: Digest of the shadow model, "" without one.
    """

    route: str
    reason: str
    score: float | None
    threshold: float | None
    propensity: float
    model_digest: str
    expected_flash_nano_usd: int | None
    expected_opus_nano_usd: int | None
    features: str = ""
    explored: bool = False
    answer_value_nano_usd: int | None = None
    opus_leaves_nano_usd: int = 0
    shadow_score: float | None = None
    shadow_digest: str = ""


class MissRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tokens that could have been read from the cache and were not.

    Attributes:
        cause: Name of the cause, lower case, as in the contract's MissCause.
        layer: First layer missed, lower case; "" when it cannot be told.
        block_index: First block that was missed, 0-based in the prompt; None when it cannot be told.
        missed_tokens: Tokens not read, in the tokens of the model that answered; > 0.
        lost_nano_usd: What the call was billed beyond what it would have been had they been read; None when no
            price is known.
        provider_cause: The provider's own word on it, "" when it gave none.
    """

    cause: str
    layer: str = ""
    block_index: int | None = None
    missed_tokens: int
    lost_nano_usd: int | None
    provider_cause: str = ""


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was planned and proved about the provider's cache.

    Attributes:
        strategy: Strategy that planned ("a", "b", "c", "auto", "none").
        breakpoint_count: Breakpoints sent.
        expected_read_tokens: Input tokens the index believed warm, estimated.
        miss_cause: Cause of the dearest of `misses`, "" when nothing was missed.
        misses: What was missed, dearest first.
        p_hit: Chance in [0, 1] given before the call that what was believed warm would be read; None when nothing was
            believed.
        held: Whether it was read; None when nothing was believed or the call gave no usage.
        padding_tokens: Part of the input that is the operator's filler, put in to reach the model's minimum.
        padding_nano_usd: What the filler cost, a part of the call's cost; None when unknown.
    """

    strategy: str
    breakpoint_count: int
    expected_read_tokens: int
    miss_cause: str = ""
    misses: tuple[MissRecord, ...] = ()
    p_hit: float | None = None
    held: bool | None = None
    padding_tokens: int = 0
    padding_nano_usd: int | None = 0


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one attempt used and cost.

    Attributes:
        usage: None when the provider never told; the cost is then unknown too.
        cost: Exact cost by part, None when unknown. A refused call that billed nothing has none either; the
            ledger counts it as free by its outcome.
        counterfactuals: What the same call would have cost otherwise; None where it cannot be known.
        answered_model: Model id that answered, "" when none did.
        first_byte_s: Seconds from the start to the first byte of the answer, None when none came.
        duration_s: Seconds from the start to the end.
        error: Stable reason of the error, "" when none.
        discarded: Failure for which an answer was discarded and Opus asked instead, "" when it was handed on.
        prefix: What the prompt consists of, by names under the ledger's key (`router.prompt_body`); b"" where that is
            not kept: of a call of our own, one that was refused, or one that Opus could not have been asked.
    """

    intent: Intent
    outcome: Outcome
    settled_time_s: float
    duration_s: float
    first_byte_s: float | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    counterfactuals: Counterfactuals | None = None
    answered_model: str = ""
    response_id: str = ""
    upstream_request_id: str = ""
    finish_reason: str = ""
    error: str = ""
    discarded: str = ""
    decision: DecisionRecord | None = None
    cache: CacheRecord | None = None
    extra: Mapping[str, str] = msgspec.field(default_factory=dict)
    prefix: bytes = b""
