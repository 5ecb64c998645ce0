"""What one call cost, exactly, and what it would have cost otherwise.

The rule: money is an int of nano-USD (1e-9 USD). A call is priced in whole 1e-15 USD, rounded once, half to
even, on its total; the parts are rounded by largest remainder, so they add up to the total without a cent of
drift. Unknown is None, never 0. Nothing here knows where prices come from, what a route is called, or what is
warm.

Counterfactuals. Token counts are never carried from one tokenizer to another: the caller passes what the
other route would have counted, as a `Usage` of its own: from its planner's estimate, or from `converted`,
which scales by a measured factor. An estimate without cache counts means "uncached", which flatters the route
that was taken; a caller that planned the other route's cache passes the expected split, and the comparison is
fair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import msgspec

from cache.economics import TokenSplit
from router.pricing import Price, UnknownPrice
from router.usage import Usage

FEMTO_PER_NANO = 1_000_000


class Cost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Nano-USD of one call by what they bought; the parts sum to `total_nano_usd` exactly.

    Attributes:
        output_text_nano_usd: Output that is not thinking; all output when the provider did not tell them
            apart.
        thinking_nano_usd: Output spent on thinking, as far as the provider told.
        tools_nano_usd: Provider-side tools, metered apart from tokens; 0 where none ran.
    """

    uncached_input_nano_usd: int = 0
    cache_write_5m_nano_usd: int = 0
    cache_write_1h_nano_usd: int = 0
    cache_read_nano_usd: int = 0
    output_text_nano_usd: int = 0
    thinking_nano_usd: int = 0
    tools_nano_usd: int = 0

    @property
    def total_nano_usd(self) -> int:
        """What the call cost."""
        return (
            self.uncached_input_nano_usd
            + self.cache_write_5m_nano_usd
            + self.cache_write_1h_nano_usd
            + self.cache_read_nano_usd
            + self.output_text_nano_usd
            + self.thinking_nano_usd
            + self.tools_nano_usd
        )

    @property
    def input_nano_usd(self) -> int:
        """Part of the total that input cost, cache reads and writes included."""
        return (
            self.uncached_input_nano_usd
            + self.cache_write_5m_nano_usd
            + self.cache_write_1h_nano_usd
            + self.cache_read_nano_usd
        )


class Counterfactuals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the same call would have cost otherwise, in nano-USD; None where it cannot be known.

    Attributes:
        no_caching_nano_usd: On the model that answered, all input uncached.
        all_opus_nano_usd: On Opus, with the cache split the planner expected there; for a call that Opus
            answered, what it did cost.
        all_flash_nano_usd: On Flash, uncached unless told otherwise; for a call that Flash answered, what it
            did cost.
        all_opus_no_caching_nano_usd: On Opus, all input uncached: the baseline of the headline saving.
        never_switch_nano_usd: On the route its session had from the start; None where that is not known.
    """

    no_caching_nano_usd: int | None = None
    all_opus_nano_usd: int | None = None
    all_flash_nano_usd: int | None = None
    all_opus_no_caching_nano_usd: int | None = None
    never_switch_nano_usd: int | None = None


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum that does not hide what it lacks.

    Attributes:
        known_nano_usd: Sum of the known amounts.
        unknown_count: Amounts that were None and are not in the sum.
    """

    known_nano_usd: int
    unknown_count: int


def cost(usage: Usage, price: Price, *, tools_nano_usd: int = 0) -> Cost:
    """Price one call exactly.

    Args:
        usage: Tokens billed, inclusive counts.
        price: Price of the model that answered; its tier is chosen here, by all input tokens.
        tools_nano_usd: What the provider charged for its own tools, >= 0.

    Raises:
        UnknownPrice: Usage shows cache writes and the price has none.
    """
    if tools_nano_usd < 0:
        raise ValueError(f"tools_nano_usd must not be negative, got {tools_nano_usd}")
    per_input, per_read, per_write_5m, per_write_1h, per_output = _per_token(usage, price)
    thinking_tokens = usage.thinking_tokens or 0
    femto = (
        usage.uncached_input_tokens * per_input,
        usage.cache_write_5m_tokens * per_write_5m,
        usage.cache_write_1h_tokens * per_write_1h,
        usage.cache_read_tokens * per_read,
        (usage.output_tokens - thinking_tokens) * per_output,
        thinking_tokens * per_output,
    )
    uncached, write_5m, write_1h, read, text, thinking = _rounded(femto)
    return Cost(
        uncached_input_nano_usd=uncached,
        cache_write_5m_nano_usd=write_5m,
        cache_write_1h_nano_usd=write_1h,
        cache_read_nano_usd=read,
        output_text_nano_usd=text,
        thinking_nano_usd=thinking,
        tools_nano_usd=tools_nano_usd,
    )


def total_nano_usd(usage: Usage, price: Price) -> int:
    """Return what `cost` would total, without its parts.

    Raises:
        UnknownPrice: As `cost`.
    """
    per_input, per_read, per_write_5m, per_write_1h, per_output = _per_token(usage, price)
    write_5m, write_1h, read = (
        usage.cache_write_5m_tokens,
        usage.cache_write_1h_tokens,
        usage.cache_read_tokens,
    )
    return _half_even(
        (usage.input_tokens - write_5m - write_1h - read) * per_input
        + write_5m * per_write_5m
        + write_1h * per_write_1h
        + read * per_read
        + usage.output_tokens * per_output
    )


def split_nano_usd(split: TokenSplit, output_tokens: int, price: Price) -> int:
    """Return what an input split and an answer cost, as `total_nano_usd` of that usage, without making one.

    Raises:
        UnknownPrice: As `cost`.
    """
    read, write_5m, write_1h, uncached = split
    if price.above is not None:
        price = price.for_input(read + write_5m + write_1h + uncached)
    if (write_5m and price.cache_write_5m is None) or (write_1h and price.cache_write_1h is None):
        raise UnknownPrice(f"cache writes are planned on {price.model}, which have no price")
    per_input, per_read, per_write_5m, per_write_1h, per_output = price.femto_usd
    return _half_even(
        uncached * per_input
        + write_5m * per_write_5m
        + write_1h * per_write_1h
        + read * per_read
        + output_tokens * per_output
    )


def uncached_nano_usd(usage: Usage, price: Price) -> int:
    """Return what the same tokens would have cost with nothing read from or written to the cache."""
    if price.above is not None:
        price = price.for_input(usage.input_tokens)
    per_input, _, _, _, per_output = price.femto_usd
    return _half_even(usage.input_tokens * per_input + usage.output_tokens * per_output)


def converted(usage: Usage, factor: float | Fraction) -> Usage:
    """Estimate what another tokenizer would have counted for the same call, uncached.

    Args:
        usage: What the model that answered counted.
        factor: Tokens there per token here, > 0; measured per pair of model families, e.g. about 1.3 from
            Claude 4.6 and older to 4.7 and newer [A-PRICE, 2026-11]. Thinking is assumed to scale alike,
            which is a guess: how much another model would have thought is not known.

    Returns:
        Counts rounded up; no cache counts.
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    exact = Fraction(factor)
    return Usage(
        input_tokens=ceil(usage.input_tokens * exact),
        output_tokens=ceil(usage.output_tokens * exact),
        complete=usage.complete,
    )


def counterfactuals(
    usage: Usage,
    price: Price,
    *,
    answered_by_opus: bool,
    other: Usage | None = None,
    other_price: Price | None = None,
    actual_nano_usd: int | None = None,
) -> Counterfactuals:
    """Price the alternatives of one call.

    Args:
        usage: What the call was billed for.
        price: Price of the model that answered.
        answered_by_opus: Whether the Opus route answered; otherwise Flash did.
        other: What the other route's model would have been billed for, in its own tokens, with the cache
            split its planner expected (all uncached when it expected none); None when there is no estimate.
        other_price: Price of that model, None when unknown.
        actual_nano_usd: `total_nano_usd(usage, price)` if the caller has it.

    Raises:
        UnknownPrice: As `cost`.
    """
    if actual_nano_usd is None:
        actual_nano_usd = total_nano_usd(usage, price)
    actual = actual_nano_usd
    no_caching = uncached_nano_usd(usage, price)
    elsewhere = elsewhere_uncached = None
    if other is not None and other_price is not None:
        elsewhere = total_nano_usd(other, other_price)
        elsewhere_uncached = uncached_nano_usd(other, other_price)
    return Counterfactuals(
        no_caching_nano_usd=no_caching,
        all_opus_nano_usd=actual if answered_by_opus else elsewhere,
        all_flash_nano_usd=elsewhere if answered_by_opus else actual,
        all_opus_no_caching_nano_usd=no_caching if answered_by_opus else elsewhere_uncached,
    )


def saving(baseline_nano_usd: int | None, cost_nano_usd: int | None) -> int | None:
    """Return baseline minus cost, negative when the call cost more; None when either is unknown."""
    if baseline_nano_usd is None or cost_nano_usd is None:
        return None
    return baseline_nano_usd - cost_nano_usd


def upper_bound(
    price: Price, *, input_tokens: int, max_output_tokens: int, write_5m: bool = False, write_1h: bool = False
) -> int:
    """Return the most one attempt can cost: all input at the dearest price used, all output allowed.

    Args:
        price: Price of the model asked.
        input_tokens: Upper estimate of the prompt in that model's tokens; also decides the tier.
        max_output_tokens: Limit sent, thinking included.
        write_5m: Whether a breakpoint with this TTL is sent; write_1h likewise.

    Returns:
        Nano-USD, rounded up.
    """
    if input_tokens < 0 or max_output_tokens < 0:
        raise ValueError(f"token bounds must not be negative: {input_tokens}, {max_output_tokens}")
    if price.above is not None:
        price = price.for_input(input_tokens)
    per_input, _, per_write_5m, per_write_1h, per_output = price.femto_usd
    dearest = max(per_input, per_write_5m if write_5m else 0, per_write_1h if write_1h else 0)
    return -(-(input_tokens * dearest + max_output_tokens * per_output) // FEMTO_PER_NANO)


def total(amounts_nano_usd: Iterable[int | None]) -> Sum:
    """Add amounts, counting the unknown ones instead of taking them for 0."""
    known = unknown = 0
    for amount in amounts_nano_usd:
        if amount is None:
            unknown += 1
        else:
            known += amount
    return Sum(known, unknown)


def _per_token(usage: Usage, price: Price) -> tuple[int, int, int, int, int]:
    """Return the prices per token that `usage` is billed at, in 1e-15 USD."""
    if price.above is not None:
        price = price.for_input(usage.input_tokens)
    if (price.cache_write_5m is None and usage.cache_write_5m_tokens) or (
        price.cache_write_1h is None and usage.cache_write_1h_tokens
    ):
        raise UnknownPrice(f"usage of {price.model} shows cache writes, which have no price")
    return price.femto_usd


def _half_even(femto: int) -> int:
    """Round 1e-15 USD to nano-USD, half to even."""
    nano, twice = femto // FEMTO_PER_NANO, femto % FEMTO_PER_NANO * 2
    if twice < FEMTO_PER_NANO:
        return nano
    return nano + (twice > FEMTO_PER_NANO or nano % 2)


def _rounded(femto: tuple[int, ...]) -> list[int]:
    """Round parts to nano so that they sum to their exact sum rounded half to even (largest remainder)."""
    parts = [amount // FEMTO_PER_NANO for amount in femto]
    missing = _half_even(sum(femto)) - sum(parts)
    if missing:
        # Never more than there are parts with a remainder, so a part that is 0 stays 0.
        for index in sorted(range(len(femto)), key=lambda i: -(femto[i] % FEMTO_PER_NANO))[:missing]:
            parts[index] += 1
    return parts
