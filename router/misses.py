"""Why a request read less from the cache than its session's previous one had left: asked, priced, named.

The rule: `cache.diagnose` knows what the values prove; this module remembers the previous request of each session,
adds what only the router can see (a parameter or an image that changed), and puts a price on what was missed. Bounded:
the longest unused session is forgotten first, and then a miss is not explained, never guessed.
"""

from collections import OrderedDict
from dataclasses import replace

import msgspec

from cache.diagnose import MissCause, Previous, Shortfall, diagnose
from cache.plan import Plan
from cache.prompt import Layer, PromptParameters
from cache.rules import rules_for
from classifier.route import Route
from router.beliefs import CacheView
from router.outcome import CacheMiss
from router.preparation import Prepared
from router.pricing import Price
from router.usage import Usage

FEMTO_PER_NANO = 1_000_000
ESTIMATE_ERROR = 0.15
"""How far the estimate of a boundary inside a prompt may be off: layers differ in tokens per character."""

_CHANGED_LAYER = {
    Layer.TOOLS: "tools",
    Layer.SYSTEM: "system",
    Layer.CONTEXT: "context",
    Layer.HISTORY: "history_edited",
    Layer.TURN: "history_edited",
}
_DETAIL = {
    "tools": "the tool definitions differ from the session's previous request",
    "system": "the system prompt differs from the session's previous request",
    "context": "the user context differs from the session's previous request",
    "history_edited": "an earlier turn differs from the session's previous request",
    "parameter": "a parameter that ends reuse changed (tool choice, thinking, effort or output format)",
    "image": "an image was added or removed, which ends reuse of all messages",
    "ttl_lapsed": "the entry's TTL had passed when the request started",
    "below_minimum": "the prefix is shorter than the model caches",
    "lookback": "the entry stood farther back than the provider looks from a breakpoint",
    "evicted": "the entry should have been there and was not",
    "unknown": "what is known does not tell why",
}


class _Left(msgspec.Struct, frozen=True, gc=False):
    """What a session's last request on a scope left, with what the diagnosis cannot see in digests.

    Attributes:
        plan: As sent, in estimated tokens.
        input_tokens: What the provider counted of the whole prompt.
        cached_tokens: What it read and wrote: the tokens of the deepest breakpoint, exactly.
    """

    digests: tuple[bytes, ...]
    counts: tuple[int, ...]
    plan: Plan
    input_tokens: int
    cached_tokens: int
    started_s: float
    first_byte_at_s: float
    parameters: PromptParameters
    has_image: bool

    def previous(self) -> Previous:
        """The same for the diagnosis, in the tokens the provider counted."""
        plan = _corrected(self.plan, self.input_tokens, self.cached_tokens)
        return Previous(self.digests, self.counts, plan, self.started_s, self.first_byte_at_s)


class MissMemory:
    """The previous Opus request of each session."""

    def __init__(self, limit: int = 10_000) -> None:
        """Remember at most `limit` sessions; one takes about 100 bytes per block of its prompt."""
        self._limit = limit
        self._left: OrderedDict[tuple[str, str], _Left] = OrderedDict()

    def explain(
        self,
        prepared: Prepared,
        view: CacheView,
        route: Route,
        usage: Usage,
        *,
        started_s: float,
        first_byte_at_s: float,
        price: Price | None,
    ) -> tuple[CacheMiss, ...]:
        """Say what this call missed, and remember it for the next one. Empty when nothing was missed."""
        if route is not Route.OPUS:
            return ()
        identity = prepared.request.call.identity
        key = (identity.tenant, identity.session)
        left = self._left.get(key) if identity.session else None
        misses = () if _read_enough(view, left, usage) else _explained(view, left, usage, started_s, price)
        if identity.session:
            self._left[key] = _Left(
                view.digests,
                view.counts,
                view.plan,
                usage.input_tokens,
                usage.cache_read_tokens + usage.cache_write_tokens,
                started_s,
                first_byte_at_s,
                view.prompt.parameters,
                view.prompt.has_image,
            )
            self._left.move_to_end(key)
            if len(self._left) > self._limit:
                self._left.popitem(last=False)
        return misses


def _read_enough(view: CacheView, left: _Left | None, usage: Usage) -> bool:
    """Whether nothing can have been missed, told without a diagnosis: the case of nearly every call."""
    if left is None:
        return not view.plan.believed or usage.cache_read_tokens >= view.plan.full_read_tokens
    return (
        bool(left.plan.breakpoints)
        and left.cached_tokens >= rules_for(view.scope.model).minimum_tokens
        and usage.cache_read_tokens >= left.cached_tokens > 0
    )


def _explained(
    view: CacheView, left: _Left | None, usage: Usage, started_s: float, price: Price | None
) -> tuple[CacheMiss, ...]:
    found = diagnose(
        view.prompt,
        view.digests,
        _corrected(view.plan, usage.input_tokens, usage.cache_read_tokens + usage.cache_write_tokens),
        None if left is None else _proved(left.previous(), usage.cache_read_tokens),
        started=started_s,
        read_tokens=usage.cache_read_tokens,
        written_tokens=usage.cache_write_tokens,
        rules=rules_for(view.scope.model),
    )
    if found is None or found.cause is MissCause.NOT_PLANNED:
        return ()  # A prefix nobody asked to cache is a decision, not a miss.
    return (_miss(found, view, left, price),)


def _corrected(plan: Plan, input_tokens: int, cached_tokens: int) -> Plan:
    """The plan in the tokens the provider counted, so that an estimate's error is not taken for a miss.

    What was read and written ends at the deepest breakpoint, so that one is exact. The others are scaled by the whole
    prompt's error, downwards only: one of them may be exact already, and a miss must not be invented.
    """
    if plan.total_tokens == 0:
        return plan
    ratio = min(1.0, input_tokens / plan.total_tokens)
    marks = [mark._replace(prefix_tokens=round(mark.prefix_tokens * ratio)) for mark in plan.breakpoints]
    if marks and cached_tokens:
        marks[-1] = marks[-1]._replace(prefix_tokens=cached_tokens)
    return replace(plan, breakpoints=tuple(marks), full_read_tokens=round(plan.full_read_tokens * ratio))


def _proved(previous: Previous, read_tokens: int) -> Previous:
    """The previous request with the boundary that this read ended at at its true tokens.

    The deepest breakpoint is exact already; of the others the nearest is taken if the estimate may be that wrong.
    """
    marks = list(previous.plan.breakpoints)
    if not marks or read_tokens == 0:
        return previous
    nearest = min(range(len(marks)), key=lambda index: abs(marks[index].prefix_tokens - read_tokens))
    mark = marks[nearest]
    if nearest == len(marks) - 1 or abs(mark.prefix_tokens - read_tokens) > ESTIMATE_ERROR * read_tokens:
        return previous
    marks[nearest] = mark._replace(prefix_tokens=read_tokens)
    return replace(previous, plan=replace(previous.plan, breakpoints=tuple(marks)))


def _miss(found: Shortfall, view: CacheView, left: _Left | None, price: Price | None) -> CacheMiss:
    cause = found.cause.value
    if found.cause is MissCause.CHANGED:
        cause = _changed(found.layer, view, left)
    lost = None
    if price is not None:
        per_input, per_read, *_ = price.for_input(view.plan.total_tokens).femto_usd
        lost = found.missed_tokens * (per_input - per_read) // FEMTO_PER_NANO
    return CacheMiss(
        cause=cause,
        layer=found.layer,
        missed_tokens=found.missed_tokens,
        lost_nano_usd=lost,
        detail=_DETAIL[cause],
    )


def _changed(layer: Layer | None, view: CacheView, left: _Left | None) -> str:
    """Tell a changed block from a parameter or an image that changed the digests from its level on."""
    if layer is None or left is None:
        return "unknown"
    before, now = left.parameters, view.prompt.parameters
    if before.everywhere != now.everywhere or (layer >= Layer.SYSTEM and before.system != now.system):
        return "parameter"
    if layer >= Layer.CONTEXT:
        if left.has_image != view.prompt.has_image:
            return "image"
        if before.messages != now.messages:
            return "parameter"
    return _CHANGED_LAYER[layer]
