"""What the caller is told of a request beside the answer: every attempt, the bill, what the cache did."""

import msgspec

from cache.plan import Plan
from cache.prompt import Layer
from classifier.route import Route
from router.cost import Cost, Counterfactuals
from router.reply import Reply
from router.usage import Usage


class AttemptReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt, as the caller sees it.

    Attributes:
        outcome: "ok", or the stable reason it failed.
        cost_nano_usd: None when unknown.
        discarded: Whether it answered and another attempt's answer was handed on instead.
    """

    number: int
    route: Route
    model: str
    outcome: str
    duration_s: float
    cost_nano_usd: int | None
    discarded: bool = False


class CacheMiss(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A prefix that was expected to be read and was not.

    Attributes:
        cause: Name of the cause, lower case, as in the contract's MissCause.
        layer: First layer missed, None when it cannot be told.
        missed_tokens: Tokens that were not read, in the tokens of the model that answered.
        lost_nano_usd: What that cost against a read; None when no price is known.
        detail: What happened, in a sentence without prompt text.
        block_index: First block missed, 0-based in the prompt; None when it cannot be told.
        provider_cause: The provider's own word on it, "" when it gave none.
        provider_missed_tokens: The provider's own estimate of the tokens missed; None when it gave none.
    """

    cause: str
    layer: Layer | None
    missed_tokens: int
    lost_nano_usd: int | None
    detail: str
    block_index: int | None = None
    provider_cause: str = ""
    provider_missed_tokens: int | None = None


class Bill(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request used and cost.

    Attributes:
        usage: Of the attempt that answered; None when the provider did not report it.
        cost: Of the attempt that answered; None when unknown.
        total_nano_usd: Of all attempts; None when any is unknown.
        plan: What was sent to the cache; None on a route without breakpoints.
        padding_tokens: Part of the input that is the operator's filler.
        padding_nano_usd: What the filler cost, a part of `cost`; None when unknown.
        flight_wait_s: Time waited for other requests that were writing the same cold prefix; None when it did not wait.
    """

    usage: Usage | None
    cost: Cost | None
    priced_model: str
    counterfactuals: Counterfactuals | None
    attempts: tuple[AttemptReport, ...]
    total_nano_usd: int | None
    first_byte_s: float | None
    duration_s: float
    plan: Plan | None
    misses: tuple[CacheMiss, ...]
    padding_tokens: int = 0
    padding_nano_usd: int | None = 0
    flight_wait_s: float | None = None


class Answered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request that was answered.

    Attributes:
        route: Route that answered.
        fell_back: Whether it is not the route first decided, because that gave no answer.
        escalated: Whether it is Opus, asked because Flash's answer failed.
    """

    reply: Reply
    route: Route
    fell_back: bool
    bill: Bill
    escalated: bool = False
