"""Choose the breakpoints of one request, each with its reason, and say what they will read and write.

The rule: a plan is always valid for the provider. Whatever strategy asks for, at most `max_breakpoints` are
placed, each on its own markable block of the layer it was meant for, none on a prefix known to be shorter
than the model's minimum, every 1h breakpoint before every 5m one. What is left out is listed with its reason,
because "not cacheable" and "missed" are different news. Everything is computed before the call from values
passed in; a plan changes nothing.

Strategies A, B and C place what their name says, always with the 5 minute TTL:

    A  after tools, after system, after context
    B  after the shared blocks (system, covering the tools), after context
    C  as A, and after the history, before the latest user message

Where the context stands after the history, the mark after it is left out: it would never be read.

AUTO takes the expected value instead (see `cache.auto`). The order is the provider's: tools, system,
messages; so "after system" covers the tools as well. It does not know prices (Rates are ratios), nor whether
the route will be taken.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from cache.auto import auto_wishes
from cache.belief import Belief
from cache.economics import Rates, TokenSplit, bill
from cache.facts import ASSUMED, Facts
from cache.forecast import Forecasts, prior_forecasts
from cache.outlook import Mark, Outlook, TokenCounts, implicit_outlook, outlook, warm_entries
from cache.prompt import Layer, Prompt
from cache.rules import TTL_5M_S, CacheRules
from cache.wish import CONTEXT_MOVES, Skipped, Why, Wish, below_minimum, layer_start, markable_position

COUNT_ERROR = 0.01
"""Relative error of the providers' counters, which call their counts estimates (A-COUNT, 2026-11)."""

BEING_WRITTEN = "another request is writing what ends here, and waiting for it is not worth it"


class Strategy(StrEnum):
    """How breakpoints are chosen."""

    NONE = "none"
    A = "a"
    B = "b"
    C = "c"
    AUTO = "auto"


# Looking a member up on its enum costs 60 ns on Python 3.11, a global 6 ns, and this is the hot path.
_NONE, _AUTO = Strategy.NONE, Strategy.AUTO


class Breakpoint(NamedTuple):
    """A block after which the provider is asked to cache.

    Attributes:
        position: Index of the block in the prompt.
        layer: Layer that ends here, or that the block stands in.
        ttl_s: 300 or 3600.
        prefix_tokens: Tokens of the prefix ending here; an estimate unless usage has proved it.
        digest: Digest of that prefix.
        p_warm: Chance in [0, 1] that exactly this prefix can be read now.
    """

    position: int
    layer: Layer
    ttl_s: int
    prefix_tokens: int
    digest: bytes
    why: str | Why
    p_warm: float

    @property
    def reason(self) -> str:
        """Why it stands here, for people."""
        return str(self.why)


class Plan(NamedTuple):
    """Breakpoints of one request and what we expect of them.

    Attributes:
        strategy: Strategy that chose.
        breakpoints: In prompt order.
        skipped: What was considered and left out.
        total_tokens: Whole input, estimated.
        expected: Mean split of the input, given what is believed warm.
        cold: Split if nothing is warm.
        warm: Split if every breakpoint is already written: what a repetition would pay.
        p_hit: Chance in [0, 1] that anything is read.
        believed: (position, chance) of the entries the breakpoints reach, deepest first.
        full_read_tokens: Tokens read when belief holds, 0 when nothing is believed warm.
        minimum_tokens: The model's minimum the plan was made under.
    """

    strategy: Strategy
    breakpoints: tuple[Breakpoint, ...]
    skipped: tuple[Skipped, ...]
    total_tokens: int
    expected: TokenSplit
    cold: TokenSplit
    warm: TokenSplit
    p_hit: float
    believed: tuple[tuple[int, float], ...]
    full_read_tokens: int
    minimum_tokens: int

    @property
    def expected_read_tokens(self) -> int:
        """Input tokens expected to be read from the cache."""
        return self.expected.read

    @property
    def expected_write_5m_tokens(self) -> int:
        """Input tokens expected to be written with the 5 minute TTL."""
        return self.expected.write_5m

    @property
    def expected_write_1h_tokens(self) -> int:
        """Input tokens expected to be written with the 1 hour TTL."""
        return self.expected.write_1h


def plan(
    prompt: Prompt,
    digests: Sequence[bytes],
    cumulative_tokens: Sequence[int],
    beliefs: Sequence[Belief | None],
    *,
    rules: CacheRules,
    rates: Rates,
    strategy: Strategy,
    now: float,
    forecasts: Forecasts | None = None,
    uncertainty: float = 0.2,
    facts: Facts = ASSUMED,
    counted_tokens: int = 0,
    ends_before: int | None = None,
    points: Sequence[Breakpoint] | None = None,
) -> Plan:
    """Choose the breakpoints of one request.

    Args:
        digests: `prefix_digests(prompt)`.
        cumulative_tokens: `TokenEstimator.cumulative_tokens(prompt, model)`.
        beliefs: `PrefixIndex.belief(scope, digests)`: one per block, None where nothing is believed.
        now: Start of the request, in the clock of the beliefs.
        forecasts: One per layer; None takes the priors. Only AUTO reads them.
        uncertainty: Relative error of the token estimates, >= 0; a prefix that may reach the minimum keeps
            its breakpoint, which does no harm when it does not.
        counted_tokens: Tokens of what the prompt opens with, as the provider's counter gave them; 0 for none. Of
            these only `COUNT_ERROR` is in doubt.
        ends_before: Position at and past which no breakpoint may stand, because another request is writing what ends
            there; None for no bound.
        points: Places and TTLs to take instead of what the strategy would choose: those of an earlier plan over the
            same blocks, for a call that is to touch the same entries; None for the strategy's.

    Returns:
        A valid plan; without breakpoints for a provider that caches by itself.
    """
    counts = TokenCounts(cumulative_tokens, beliefs)
    warm = warm_entries(counts, now)
    total = counts.total()
    if rules.implicit:
        return _without_breakpoints(
            strategy, total, implicit_outlook(warm, total, rules.minimum_tokens), rules
        )
    skipped: list[Skipped] = []
    wishes: list[Wish]
    if points is not None:
        wishes = [
            Wish(point.position, point.layer, point.ttl_s, counts.at(point.position), point.why)
            for point in points
        ]
    elif strategy is _AUTO:
        expected_uses = prior_forecasts(prompt) if forecasts is None else forecasts
        wishes = auto_wishes(prompt, counts, warm, expected_uses, rules, rates, facts, skipped)
    elif strategy is _NONE:
        wishes = []
    else:
        wishes = _fixed_wishes(prompt, counts, strategy, skipped)
    if ends_before is not None:
        skipped.extend(
            Skipped(wish.layer, wish.position, BEING_WRITTEN)
            for wish in wishes
            if wish.position >= ends_before
        )
        wishes = [wish for wish in wishes if wish.position < ends_before]
    placed = _placed(wishes, beliefs, rules, uncertainty, counted_tokens, skipped)
    if not placed:
        return _without_breakpoints(strategy, total, outlook((), (), (), total, rules), rules, tuple(skipped))
    breakpoints = []
    marks = []
    for wish, ttl_s in zip(placed, _ordered_ttls(placed), strict=True):
        position, layer, _, tokens, why = wish
        belief = beliefs[position]
        p_warm = 0.0 if belief is None else belief.p_warm(now)
        breakpoints.append(Breakpoint(position, layer, ttl_s, tokens, digests[position], why, p_warm))
        # A breakpoint kept on the mere chance that it reaches the minimum is sent, but nothing is expected of
        # it.
        if tokens >= rules.minimum_tokens:
            marks.append(Mark(position, tokens, ttl_s))
    expectation = outlook(prompt.blocks, marks, warm, total, rules)
    billed = [mark[1:] for mark in marks]
    return Plan(
        strategy,
        tuple(breakpoints),
        tuple(skipped),
        total,
        expectation.expected,
        expectation.cold,
        bill(total, billed, marks[-1].tokens if marks else 0),
        expectation.p_hit,
        expectation.believed,
        expectation.full_read_tokens,
        rules.minimum_tokens,
    )


# --- the parts
# -----------------------------------------------------------------------------------------------------

_FIXED = {
    Strategy.A: (Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT),
    Strategy.B: (Layer.SYSTEM, Layer.CONTEXT),
    Strategy.C: (Layer.TOOLS, Layer.SYSTEM, Layer.CONTEXT, Layer.HISTORY),
}
_AFTER = {
    Layer.TOOLS: "after tools: shared by every user until a deploy changes them",
    Layer.SYSTEM: "after system, covering the tools: shared by every user until a deploy",
    Layer.CONTEXT: "after context: this user's until it changes",
    Layer.HISTORY: "after history, before the latest user message: this session's",
}


def _fixed_wishes(
    prompt: Prompt, counts: TokenCounts, strategy: Strategy, skipped: list[Skipped]
) -> list[Wish]:
    """What A, B or C asks for."""
    wishes = []
    for layer in _FIXED[strategy]:
        if prompt.ends[layer] < 0:
            if strategy is Strategy.B and layer is Layer.SYSTEM and prompt.ends[Layer.TOOLS] >= 0:
                layer = Layer.TOOLS  # without a system prompt the tools are all that is shared
            elif layer is Layer.CONTEXT and prompt.volatile_from >= 0:
                skipped.append(Skipped(layer, prompt.volatile_end, CONTEXT_MOVES))
                continue
            else:
                skipped.append(Skipped(layer, None, "layer is empty"))
                continue
        position = markable_position(prompt, prompt.ends[layer], layer_start(prompt, layer))
        if position is None:
            skipped.append(Skipped(layer, None, "no block of the layer takes a breakpoint"))
        else:
            wishes.append(Wish(position, layer, TTL_5M_S, counts.at(position), _AFTER[layer]))
    return wishes


def _placed(
    wishes: Sequence[Wish],
    beliefs: Sequence[Belief | None],
    rules: CacheRules,
    uncertainty: float,
    counted_tokens: int,
    skipped: list[Skipped],
) -> list[Wish]:
    """Wishes that can be granted: one per block, long enough, within the limit; given in prompt order."""
    placed: list[Wish] = []
    for wish in wishes:
        if wish.tokens < rules.minimum_tokens:
            belief = beliefs[wish.position]
            doubt = 0.0
            if belief is None or not belief.exact:
                counted = min(counted_tokens, wish.tokens)
                doubt = counted * COUNT_ERROR + (wish.tokens - counted) * uncertainty
            if wish.tokens + doubt < rules.minimum_tokens:
                skipped.append(Skipped(wish.layer, wish.position, below_minimum(wish.tokens, rules)))
                continue
        if placed and placed[-1].position == wish.position:
            placed.pop()
        placed.append(wish)
    while len(placed) > rules.max_breakpoints:
        # The last one carries the write; of the others, the one that adds the fewest tokens is worth least.
        spans = [wish.tokens - (placed[i - 1].tokens if i else 0) for i, wish in enumerate(placed[:-1])]
        dropped = placed.pop(spans.index(min(spans)) if spans else 0)
        reason = f"limit of {rules.max_breakpoints} breakpoints: adds the fewest tokens"
        skipped.append(Skipped(dropped.layer, dropped.position, reason))
    return placed


def _ordered_ttls(placed: Sequence[Wish]) -> list[int]:
    """TTLs with longer ones before shorter ones: the shallower is raised, never the deeper lowered."""
    ttls_s: list[int] = []
    longest = 0
    for wish in reversed(placed):
        longest = max(longest, wish.ttl_s)
        ttls_s.append(longest)
    ttls_s.reverse()
    return ttls_s


def _without_breakpoints(
    strategy: Strategy, total: int, expectation: Outlook, rules: CacheRules, skipped: tuple[Skipped, ...] = ()
) -> Plan:
    full_read = expectation.full_read_tokens
    warm = TokenSplit(full_read, 0, 0, total - full_read) if full_read else expectation.cold
    return Plan(
        strategy,
        (),
        skipped,
        total,
        expectation.expected,
        expectation.cold,
        warm,
        expectation.p_hit,
        expectation.believed,
        full_read,
        rules.minimum_tokens,
    )
