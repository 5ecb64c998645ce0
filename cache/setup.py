"""What a way of caching would have cost over observed traffic, and the cheapest way.

The rule: each part of a prompt is kept by its own chain of uses. The shared layers (tools, system) live by the gaps of
all requests, a user's context by the gaps of that user, what follows by the turns of the session; each gap is priced
as `cache.economics.renewal_cost` prices it, with the tokens it is about. A part whose prefix is shorter than the
model's minimum has no entry of its own and belongs to the next longer one. First uses write, so nothing is assumed
warm at the start; keep-alives after the last use are paid.

Costs are in units of one uncached input token, input only. Cache entries that a deploy would kill, evictions and
herds are not known here: the figures are those of a provider that keeps what it promises.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from cache.economics import Rates, most_pings, ping_spacing_s, renewal_cost
from cache.gaps import GapDigest
from cache.observed import Lane, Marked, Observed
from cache.rules import TTL_1H_S, TTL_5M_S


class Keep(NamedTuple):
    """How one part is kept: its TTL and the keep-alives sent into an idle gap before it may lapse."""

    ttl_s: int
    pings: int = 0


class Setup(NamedTuple):
    """A way of caching; None leaves a part to the part after it, or uncached.

    Attributes:
        from_turn: First turn of a session whose new tokens are written: 1, or 2 to leave one-off requests unwritten.
        from_tokens: Input from which a turn is written, 0 for the model's minimum; else one of `cache.observed.SIZES`.
    """

    shared: Keep | None = None
    context: Keep | None = None
    conversation: Keep | None = None
    from_turn: int = 1
    from_tokens: int = 0

    @property
    def caches(self) -> bool:
        """Whether anything is written at all."""
        return any((self.shared, self.context, self.conversation))


class Stable(NamedTuple):
    """Tokens of the layers before the conversation, padding included, in the lane's model."""

    shared_tokens: float
    context_tokens: float


NO_CACHING = Setup()
SEED_B = Setup(Keep(TTL_5M_S), Keep(TTL_5M_S))
"""The strategy document's options A and B: shared layers and user context for 5 minutes."""

_MENU = (TTL_5M_S, TTL_1H_S)
_TIE = 1e-9
"""Relative gain below which a later, more elaborate setup is not taken for better."""


def possible(setup: Setup, lane: Lane, stable: Stable) -> bool:
    """Whether the provider would take it: prefixes reach the minimum, and no 5m part precedes a 1h part."""
    if setup.shared and stable.shared_tokens < lane.minimum_tokens:
        return False
    if setup.context and (
        stable.context_tokens <= 0 or stable.shared_tokens + stable.context_tokens < lane.minimum_tokens
    ):
        return False
    ttls_s = [keep.ttl_s for keep in setup[:3] if isinstance(keep, Keep)]
    return ttls_s == sorted(ttls_s, reverse=True)


def kept_by_provider(setup: Setup, lane: Lane, stable: Stable) -> Setup:
    """The setup without the parts that are too short to be cached: their marks are ignored, silently."""
    shared = setup.shared if stable.shared_tokens >= lane.minimum_tokens else None
    whole = stable.shared_tokens + stable.context_tokens
    context = setup.context if stable.context_tokens > 0 and whole >= lane.minimum_tokens else None
    return setup._replace(shared=shared, context=context)


def input_units(observed: Observed, lane: Lane, stable: Stable, setup: Setup, rates: Rates) -> float:
    """Input cost of all observed requests under `setup`, keep-alives included.

    Raises:
        ValueError: The setup is not `possible`.
    """
    if not possible(setup, lane, stable):
        raise ValueError(f"{setup} cannot be sent with {stable} at a minimum of {lane.minimum_tokens} tokens")
    units, base = 0.0, 0.0
    if setup.shared:
        rate = renewal_cost(rates, observed.shared.share_within, *setup.shared)
        units += lane.requests * stable.shared_tokens * rate
        base = stable.shared_tokens
    if setup.context:
        end = stable.shared_tokens + stable.context_tokens
        rate = renewal_cost(rates, observed.users.share_within, *setup.context)
        units += lane.requests * (end - base) * rate
        base = end
    rest = max(0.0, lane.input_tokens - base * lane.requests)
    if setup.conversation:
        marked = next(each for each in lane.marked if each.from_tokens >= setup.from_tokens)
        rest += _conversation_extra(marked, base, setup.conversation, setup.from_turn, rates)
    return units + rest


def best_setup(
    observed: Observed, lane: Lane, stable: Stable, rates: Rates, *, pings: bool = False
) -> tuple[Setup, float]:
    """The cheapest possible setup and its cost in units; the simpler one on a tie.

    Args:
        pings: Whether keep-alives may be sent, for the shared layers and for sessions.
    """
    found = cheapest(observed, lane, stable, rates, lambda _: True, pings=pings)
    assert found is not None  # no caching is always possible
    return found


def cheapest(
    observed: Observed,
    lane: Lane,
    stable: Stable,
    rates: Rates,
    wanted: Callable[[Setup], bool],
    *,
    pings: bool = False,
) -> tuple[Setup, float] | None:
    """As `best_setup`, among the setups that are `wanted`; None when no such one is possible."""
    best: tuple[Setup, float] | None = None
    for setup in _setups(observed, lane, stable, rates, pings=pings):
        if wanted(setup):
            units = input_units(observed, lane, stable, setup, rates)
            if best is None or units < best[1] * (1 - _TIE):
                best = (setup, units)
    return best


def best_shared(observed: Observed, rates: Rates, ttl_s: int, *, pings: bool) -> Keep:
    """Keep-alives that keep the shared layers cheapest at this TTL."""
    most = most_pings(rates, ttl_s) if pings and rates.read > 0 else 0
    within = observed.shared.share_within
    return Keep(ttl_s, min(range(most + 1), key=lambda k: (renewal_cost(rates, within, ttl_s, k), k)))


def best_conversation(marked: Marked, base: float, rates: Rates, ttl_s: int, from_turn: int) -> Keep:
    """Keep-alives that keep conversations cheapest at this TTL.

    Args:
        marked: Turns that are long enough.
        base: Tokens of the cached layers before the conversation.
    """
    most = most_pings(rates, ttl_s) if rates.read > 0 else 0
    options = (Keep(ttl_s, pings) for pings in range(most + 1))
    return min(options, key=lambda keep: _conversation_extra(marked, base, keep, from_turn, rates))


def _setups(observed: Observed, lane: Lane, stable: Stable, rates: Rates, *, pings: bool) -> Iterator[Setup]:
    """Every possible setup, each with the best number of keep-alives, the simple ones first."""
    shared_menu = (None, *(best_shared(observed, rates, ttl_s, pings=pings) for ttl_s in _MENU))
    context_menu = (None, *(Keep(ttl_s) for ttl_s in _MENU))
    for shared in shared_menu:
        for context in context_menu:
            stem = Setup(shared, context)
            if not possible(stem, lane, stable):
                continue
            yield stem
            base = stable.shared_tokens if shared else 0.0
            base = stable.shared_tokens + stable.context_tokens if context else base
            for ttl_s in _MENU:
                for marked, turn in product(lane.marked, (1, 2)):
                    if not marked.requests:
                        break
                    keep = best_conversation(marked, base, rates, ttl_s, turn) if pings else Keep(ttl_s)
                    from_tokens = 0 if marked is lane.marked[0] else marked.from_tokens
                    found = Setup(shared, context, keep, turn, from_tokens)
                    if possible(found, lane, stable):
                        yield found


def _conversation_extra(marked: Marked, base: float, keep: Keep, from_turn: int, rates: Rates) -> float:
    """Units that marking the last message adds to sending everything past `base` uncached; negative when it saves.

    Every token sent in a long request is written or read: the excess of a write over 1 for all of them, less w - r
    for those that are read. Each keep-alive reads the whole prefix.
    """
    write, spacing_s = rates.write(keep.ttl_s), ping_spacing_s(keep.ttl_s)
    requests, tokens = marked.requests, marked.tokens
    chains: tuple[GapDigest, ...] = (marked.second, marked.later)
    if from_turn > 1:
        requests, tokens = requests - marked.first, tokens - marked.first_tokens
        chains = (marked.later,)
    alive_s = keep.ttl_s + keep.pings * spacing_s
    read = sum(chain.tokens_within(alive_s) - base * chain.count_within(alive_s) for chain in chains)
    extra = (write - 1) * (tokens - base * requests) - (write - rates.read) * read
    if keep.pings:
        returned = [chain.tokens_within(k * spacing_s) for chain in chains for k in range(1, keep.pings + 1)]
        # The k-th keep-alive reads the prefix of every written turn that had no successor by then.
        extra += rates.read * (keep.pings * tokens - sum(returned))
    return extra
