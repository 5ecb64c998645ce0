"""What a booked call would have cost otherwise: on the other route, without caching, or had its session stayed.

The rule: tokens of another route are its own plan's, scaled by how far this route's estimate was off, never counts
carried between tokenizers. Of two calls that answered one request each counts in its own world only. What cannot be
known is None. It prices and compares; it books nothing and learns nothing.
"""

from collections.abc import Mapping

import msgspec
import msgspec.structs

from cache.economics import TokenSplit
from classifier.route import Route
from router import cost
from router.beliefs import CacheView
from router.cost import Cost, Counterfactuals
from router.never_switch import as_billed, is_first, would_be_read
from router.padding_bill import PaddingCost, estimated_padding_tokens, without_filler
from router.preparation import Prepared, usage_of
from router.pricing import Price, PriceTable, UnknownPrice
from router.session_book import SessionBook
from router.upstreams.base import Upstream
from router.usage import Usage


class Billed(msgspec.Struct, frozen=True, gc=False):
    """A user's call whose usage and price are known.

    Attributes:
        route: Who answered.
        started_s: When it was sent, seconds since the epoch.
        price: Of the model that answered.
        filler: The part that is the operator's filler.
        spent: What it cost, None unknown.
        escalated: Whether it took the place of an answer that failed.
        discarded: Whether another took its place.
    """

    prepared: Prepared
    route: Route
    started_s: float
    usage: Usage
    price: Price
    filler: PaddingCost
    spent: Cost | None
    escalated: bool
    discarded: bool


class Otherwise:
    """Compares calls; reads prices and the sessions' accounts."""

    def __init__(self, *, prices: PriceTable, upstreams: Mapping[Route, Upstream], book: SessionBook) -> None:
        """Keep references."""
        self._prices = prices
        self._upstreams = upstreams
        self._book = book

    def of(self, billed: Billed) -> Counterfactuals:
        """What the call would have cost otherwise; of two that answered one request, each in its own world only.

        A service of Opus alone would not have made the call whose answer is discarded, one of Flash alone not the call
        that took its place: counted in both, the saving would be of twice the requests there are.
        """
        otherwise = self._each(billed)
        if billed.escalated:
            otherwise = msgspec.structs.replace(otherwise, all_flash_nano_usd=0)
        elif billed.discarded:
            otherwise = msgspec.structs.replace(
                otherwise, all_opus_nano_usd=0, all_opus_no_caching_nano_usd=0
            )
        stayed = self._stayed(billed, otherwise)
        if stayed is None:
            return otherwise
        return msgspec.structs.replace(otherwise, never_switch_nano_usd=stayed)

    def _each(self, billed: Billed) -> Counterfactuals:
        usage, price, spent = billed.usage, billed.price, billed.spent
        by_opus = billed.route is Route.OPUS
        other_usage, other_price = self._elsewhere(billed)
        otherwise = cost.counterfactuals(
            usage,
            price,
            answered_by_opus=by_opus,
            other=other_usage,
            other_price=other_price,
            actual_nano_usd=None if spent is None else spent.total_nano_usd,
        )
        padding = billed.prepared.padding
        if padding is None or not padding.padded:
            return otherwise
        # Without caching nobody would pad.
        if by_opus:
            bare = cost.uncached_nano_usd(without_filler(usage, billed.filler.tokens), price)
            return msgspec.structs.replace(
                otherwise, no_caching_nano_usd=bare, all_opus_no_caching_nano_usd=bare
            )
        if other_usage is None or other_price is None:
            return otherwise
        view = billed.prepared.views[Route.OPUS]
        tokens = round(
            estimated_padding_tokens(padding, view) * other_usage.input_tokens / view.plan.total_tokens
        )
        bare = cost.uncached_nano_usd(without_filler(other_usage, tokens), other_price)
        return msgspec.structs.replace(otherwise, all_opus_no_caching_nano_usd=bare)

    def _stayed(self, billed: Billed, otherwise: Counterfactuals) -> int | None:
        """What the call would have cost had its session stayed where it began; see `router.never_switch`."""
        prepared, usage = billed.prepared, billed.usage
        call, asked_s = prepared.request.call, prepared.now_s
        account = self._book.find(call.identity.tenant, call.identity.session)
        began = (
            account.began if account is not None else str(prepared.decision.route) if is_first(call) else ""
        )
        if began != str(Route.OPUS):
            return otherwise.all_flash_nano_usd if began else None
        view, left = prepared.views.get(Route.OPUS), None if account is None else account.left
        if view is None or left is None or not otherwise.all_opus_nano_usd:
            return otherwise.all_opus_nano_usd
        split = would_be_read(view, left, asked_s)
        if split is None:
            return otherwise.all_opus_nano_usd
        if billed.route is Route.FLASH:
            other, other_price = self._elsewhere(billed, split)
            if other is None or other_price is None:
                return None
            return cost.total_nano_usd(other, other_price)
        as_opus = as_billed(split, usage)
        if as_opus is None:
            return otherwise.all_opus_nano_usd
        tools_nano_usd = 0 if billed.spent is None else billed.spent.tools_nano_usd
        return cost.split_nano_usd(as_opus, usage.output_tokens, billed.price) + tools_nano_usd

    def _elsewhere(
        self, billed: Billed, split: TokenSplit | None = None
    ) -> tuple[Usage | None, Price | None]:
        """What the other route would have been billed for, in its own tokens: its plan's expected split, scaled.

        Both estimates come from the same blocks, so the error of this route's estimate, now known, is taken to be
        the other's too, as far as it was estimated and not counted; the answer is assumed as long as it was, in the
        other's tokens.
        """
        prepared, other = billed.prepared, billed.route.other
        here, there = prepared.views.get(billed.route), prepared.views.get(other)
        if here is None or there is None or here.plan.total_tokens == 0:
            return None, None
        try:
            price = self._prices.price(self._upstreams[other].model, billed.started_s)
        except UnknownPrice:
            return None, None
        scale = _scale_elsewhere(here, there, billed.usage)
        if prepared.padding is None:
            tokenizers = there.plan.total_tokens / here.plan.total_tokens
        else:
            tokenizers = _bare_tokens(prepared, there) / _bare_tokens(prepared, here)
        scaled = TokenSplit._make([round(part * scale) for part in split or there.plan.expected])
        return usage_of(scaled, round(billed.usage.output_tokens * tokenizers)), price


def _bare_tokens(prepared: Prepared, view: CacheView) -> int:
    """Estimated input of a view without filler: what both routes would have been asked."""
    padding = prepared.padding
    if padding is None or view is not prepared.views.get(Route.OPUS):
        return view.plan.total_tokens
    return view.plan.total_tokens - estimated_padding_tokens(padding, view)


def _scale_elsewhere(here: CacheView, there: CacheView, usage: Usage) -> float:
    """Tokens `there` per token planned there, by how far what was estimated `here` was off."""
    known = here.counted.tokens
    estimated = here.plan.total_tokens - known
    off = max(0, usage.input_tokens - known) / estimated if estimated > 0 else 1.0
    total, counted = there.plan.total_tokens, there.counted.tokens
    return (counted + (total - counted) * off) / total if total > 0 else 1.0
