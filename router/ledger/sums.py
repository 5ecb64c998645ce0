"""Sums over calls: what a row of costs holds, and the SQL that adds it up, from calls or from sums of calls.

The rule: sums are exact integers, and a sum never hides what it lacks: calls of unknown cost are counted beside it with
the most they can have cost, calls whose cost is a floor with the most they can have cost beyond what is booked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.cost import Cost
from router.ledger.groups import Comparison

_UNKNOWN = "cost_nano_usd IS NULL AND outcome <> 'refused'"
_INCOMPLETE = "cost_nano_usd IS NOT NULL AND usage_complete = 0"
# A bound that the booked part alone exceeds was too low and bounds nothing; it must not shrink the sum either.
_INCOMPLETE_UNBOUNDED = "(cost_bound_nano_usd IS NULL OR cost_bound_nano_usd < cost_nano_usd)"
_TOKENS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "thinking_tokens",
)
_PARTS = (
    "uncached_input_nano_usd",
    "cache_write_5m_nano_usd",
    "cache_write_1h_nano_usd",
    "cache_read_nano_usd",
    "output_text_nano_usd",
    "thinking_nano_usd",
    "tools_nano_usd",
)
_BASELINES = (
    "no_caching_nano_usd",
    "all_opus_nano_usd",
    "all_flash_nano_usd",
    "all_opus_no_caching_nano_usd",
    "never_switch_nano_usd",
)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sums of tokens over the calls whose usage is known; cache counts are parts of the input.

    Attributes:
        thinking_tokens: Part of the output, as far as providers told.
    """

    input_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    thinking_tokens: int

    @property
    def uncached_input_tokens(self) -> int:
        """Input tokens neither read from nor written to the cache."""
        written = self.cache_write_5m_tokens + self.cache_write_1h_tokens
        return self.input_tokens - self.cache_read_tokens - written


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """What one group of calls used and cost.

    Attributes:
        group: Group name to its value, in the order asked for; "" where a call has none.
        calls: Calls in the group, unknown and interrupted ones included.
        cost: Sums by part over the calls of known cost, those that are floors included.
        unknown_calls: Calls whose cost is not known and that may have been billed.
        unknown_bound_nano_usd: The most those of them with a bound can have cost.
        incomplete_calls: Calls in `cost` whose cost is a floor: the answer broke off, and the provider may
            have billed more output than was seen.
        incomplete_bound_nano_usd: The most those of them with a bound can have cost beyond what is in `cost`.
        unbounded_calls: Calls of either kind, unknown or incomplete, without a bound, or with one that what is
            booked already exceeds.
        usage_calls: Calls whose tokens are in `tokens`.
    """

    group: Mapping[str, str]
    calls: int
    cost: Cost
    unknown_calls: int
    unknown_bound_nano_usd: int
    incomplete_calls: int
    incomplete_bound_nano_usd: int
    unbounded_calls: int
    usage_calls: int
    tokens: Tokens
    no_caching: Comparison
    all_opus: Comparison
    all_flash: Comparison
    all_opus_no_caching: Comparison
    never_switch: Comparison


def _comparison_sums(baseline: str) -> tuple[str, str, str]:
    both = f"FILTER (WHERE {baseline} IS NOT NULL AND cost_nano_usd IS NOT NULL)"
    return (
        f"count(*) {both}",
        f"coalesce(sum({baseline}) {both}, 0)",
        f"coalesce(sum(cost_nano_usd) {both}, 0)",
    )


SUMS = (
    "count(*)",
    f"count(*) FILTER (WHERE {_UNKNOWN})",
    f"coalesce(sum(cost_bound_nano_usd) FILTER (WHERE {_UNKNOWN}), 0)",
    f"count(*) FILTER (WHERE {_INCOMPLETE})",
    "coalesce(sum(cost_bound_nano_usd - cost_nano_usd)"
    f" FILTER (WHERE {_INCOMPLETE} AND NOT {_INCOMPLETE_UNBOUNDED}), 0)",
    f"count(*) FILTER (WHERE ({_UNKNOWN} AND cost_bound_nano_usd IS NULL)"
    f" OR ({_INCOMPLETE} AND {_INCOMPLETE_UNBOUNDED}))",
    "count(input_tokens)",
    *(f"coalesce(sum({column}), 0)" for column in (*_TOKENS, *_PARTS)),
    *(part for baseline in _BASELINES for part in _comparison_sums(baseline)),
)


NAMES = (
    "calls", "unknown_calls", "unknown_bound_nano_usd", "incomplete_calls", "incomplete_bound_nano_usd",
    "unbounded_calls", "usage_calls", *_TOKENS, *_PARTS,
    *(f"{baseline}{what}" for baseline in _BASELINES for what in ("_calls", "", "_cost")),
)  # fmt: skip
"""Names of the columns that keep each of `SUMS`, in its order."""


def cost_row(names: tuple[str, ...], row: Sequence[str | int]) -> CostRow:
    """Name the columns of a row of `costs`."""
    values = iter(row)
    group = {name: str(next(values)) for name in names}
    numbers = [int(value) for value in values]
    calls, unknown, unknown_bound, incomplete, incomplete_bound, unbounded, usage_calls = numbers[:7]
    tokens = numbers[7:13]
    parts = numbers[13:20]
    comparisons = [Comparison(*numbers[i : i + 3]) for i in range(20, 35, 3)]
    no_caching, all_opus, all_flash, all_opus_no_caching, never_switch = comparisons
    return CostRow(
        group=group,
        calls=calls,
        cost=Cost(**dict(zip(_PARTS, parts, strict=True))),
        unknown_calls=unknown,
        unknown_bound_nano_usd=unknown_bound,
        incomplete_calls=incomplete,
        incomplete_bound_nano_usd=incomplete_bound,
        unbounded_calls=unbounded,
        usage_calls=usage_calls,
        tokens=Tokens(*tokens),
        no_caching=no_caching,
        all_opus=all_opus,
        all_flash=all_flash,
        all_opus_no_caching=all_opus_no_caching,
        never_switch=never_switch,
    )
