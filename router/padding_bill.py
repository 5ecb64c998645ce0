"""The filler's part of a bill: how many tokens of a padded call it is, where they stand, and what they cost.

The rule: what the provider counted or billed comes before estimates. The end of a filler is exact where it was marked
and cached, its beginning where the shared layers were measured unpadded; the rest is the estimate scaled to the tokens
billed. It does not know why anything was padded: that is `router.padding`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from router import cost
from router.pricing import Price, UnknownPrice
from router.usage import Usage

if TYPE_CHECKING:
    from router.beliefs import CacheView
    from router.padding import Padding

_SNAP = 0.15
"""How far an estimated boundary may be from a billed one to be taken for it."""
_REST_SHARE = 0.25
"""Share of the prompt behind the filler up to which the whole input measures it: the rest is but estimated."""


class PaddingCost(msgspec.Struct, frozen=True, gc=False):
    """The filler's part of one bill.

    Attributes:
        tokens: Input tokens, as billed; where the prompt's boundaries are only estimated, so is this.
        nano_usd: What they cost, a part of the call's cost; None when the price is unknown.
    """

    tokens: int
    nano_usd: int | None


NO_PADDING = PaddingCost(0, 0)


def padding_cost(
    padding: Padding | None, view: CacheView | None, usage: Usage | None, price: Price | None
) -> PaddingCost:
    """The filler's part of an Opus call's bill, at what its tokens were billed.

    Of a prompt the provider bills [0, A) as read, [A, B) as written for an hour, [B, C) as written for five minutes
    and the rest as uncached (A-CACHE, mixing TTLs, 2026-11). Where the filler's end is one of A, B, C, it is known
    exactly; its beginning, and its end elsewhere, are the estimate scaled to the tokens billed.
    """
    if padding is None or not padding.padded or view is None:
        return NO_PADDING
    if usage is None:
        return PaddingCost(estimated_padding_tokens(padding, view), None)
    start, end, _ = filler_span(padding, view, usage)
    parts, edge = [], 0
    for tokens in (usage.cache_read_tokens, usage.cache_write_1h_tokens, usage.cache_write_5m_tokens):
        parts.append(max(0, min(end, edge + tokens) - max(start, edge)))
        edge += tokens
    read, write_1h, write_5m = parts
    if price is None:
        return PaddingCost(end - start, None)
    filler = Usage(
        input_tokens=end - start,
        cache_read_tokens=read,
        cache_write_1h_tokens=write_1h,
        cache_write_5m_tokens=write_5m,
    )
    try:
        # The whole input chooses the price tier, not the filler's share of it.
        return PaddingCost(end - start, cost.total_nano_usd(filler, price.for_input(usage.input_tokens)))
    except UnknownPrice:
        return PaddingCost(end - start, None)


class Span(NamedTuple):
    """Where a padded call's filler stands, in the tokens billed.

    Attributes:
        start: Its first token.
        end: The first token past it.
        measured: Whether the length is told from a count or a bill, not from the estimate of the filler itself.
    """

    start: int
    end: int
    measured: bool


def filler_span(padding: Padding, view: CacheView, usage: Usage) -> Span:
    """Where the filler of a padded call stands.

    Where it was not counted, it begins where the shared layers were measured to end while unpadded: told apart by the
    estimate, the filler would share the error of a text that was never measured.
    """
    position = padding.position
    counted = len(view.counted.counts) > position
    shared = view.counts[position - 1] if counted else padding.shared_tokens
    estimated_end = view.counts[position] * billed_scale(view, position + 1, usage)
    if any(mark.position == position for mark in view.plan.breakpoints):
        read_end = usage.cache_read_tokens
        hour_end = read_end + usage.cache_write_1h_tokens
        edges = (read_end, hour_end, hour_end + usage.cache_write_5m_tokens)
        nearest = min(edges, key=lambda edge: abs(edge - estimated_end))
        if abs(nearest - estimated_end) <= _SNAP * estimated_end:
            return Span(min(shared, nearest), nearest, True)
    end = round(estimated_end)
    if counted or not cached_tokens(usage):
        rest_share = 1 - view.counts[position] / view.counts[-1]
        return Span(min(shared, end), end, counted or rest_share <= _REST_SHARE)
    scale = billed_scale(view, position + 1, usage)
    return Span(max(0, end - round(estimated_padding_tokens(padding, view) * scale)), end, False)


def cached_tokens(usage: Usage) -> int:
    """Input tokens read from the cache or written to it."""
    return usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens


def estimated_padding_tokens(padding: Padding | None, view: CacheView) -> int:
    """Tokens of the filler among the estimates of an Opus view; 0 when it is not padded."""
    if padding is None or not padding.padded:
        return 0
    return view.counts[padding.position] - (view.counts[padding.position - 1] if padding.position else 0)


def without_filler(usage: Usage, tokens: int) -> Usage:
    """The same call as if nothing had been padded or cached; `tokens` of the filler, as far as there are so many."""
    return Usage(input_tokens=max(0, usage.input_tokens - tokens), output_tokens=usage.output_tokens)


def billed_scale(view: CacheView, block_count: int, usage: Usage) -> float:
    """Tokens billed per token planned of the first blocks: 1 where the provider counted them."""
    return 1.0 if len(view.counted.counts) >= block_count else usage.input_tokens / view.counts[-1]
