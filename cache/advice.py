"""The strategy document's decision framework, as decisions with today's numbers: facts in, a tree out.

The rule: every threshold is `cache.economics` on the rates given, every figure is counted from traffic, and what the
figures cannot separate is said to be so. A decision's effect is what its verdict saves per request against the
opposite, everything else at its best, in units of one uncached input token; the recommended setup is the cheapest of
all that the provider would take (`cache.setup`). Where the document's own rule decides otherwise, the decision says
why. It knows no prices, no clock and no wire.
"""

from dataclasses import dataclass

from cache.advice_menu import Way, ways
from cache.advice_warm import warming
from cache.advice_write import context, conversation, first_turn, hits, ttl
from cache.decision import (
    LEAST_USES,
    Alternative,
    Case,
    Decision,
    Facts,
    Verdict,
    by_evidence,
    case_of,
    describe,
    interval_of,
)
from cache.economics import pad_threshold
from cache.rules import TTL_5M_S
from cache.setup import NO_CACHING, Keep, Setup, possible

SEED_MINIMUM_TOKENS = 1024
"""The strategy document's minimum for every Claude model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The tree and what it comes to; units are of all observed requests together.

    Attributes:
        padding_tokens: Filler the setup rests on, 0 without.
        setup: Recommended, without keep-alives.
        warm_setup: Recommended if keep-alives are sent.
        uncached_units: Input cost with no caching; likewise of the two setups.
        ways: Every way to keep a prefix warm, with its value; empty where nothing was requested.
    """

    tree: Decision
    padding_tokens: float
    setup: Setup
    warm_setup: Setup
    uncached_units: float
    setup_units: float
    warm_units: float
    ways: tuple[Way, ...] = ()


def advise(facts: Facts) -> Advice:
    """Go through the framework for one application."""
    plain = case_of(facts, facts.lane, facts.stable)
    case = plain
    if facts.padded is not None:
        padded = case_of(facts, facts.padded, facts.padded_stable)
        if padded.units < plain.units:
            case = padded
    return Advice(
        tree=_tree(facts, plain, case),
        padding_tokens=case.lane.added_tokens - facts.lane.added_tokens,
        setup=case.setup,
        warm_setup=case.warm_setup,
        uncached_units=plain.priced(NO_CACHING),
        setup_units=case.units,
        warm_units=case.warm_units,
        ways=ways(case) if facts.observed.request_count else (),
    )


def _tree(facts: Facts, plain: Case, case: Case) -> Decision:
    children = [_minimum(facts, plain, case)]
    evident = facts.assumed or facts.observed.request_count >= LEAST_USES
    if facts.observed.request_count:
        if possible(Setup(Keep(TTL_5M_S)), case.lane, case.stable):
            children += [hits(case), ttl(case)]
        children += [context(case), conversation(case), first_turn(case)]
        children.append(warming(case))
    if not evident:
        verdict = Verdict.UNDECIDED
    elif case.lane is facts.padded:
        verdict = Verdict.PAD
    else:
        verdict = Verdict.CACHE if case.setup.caches else Verdict.DO_NOT_CACHE
    saved = plain.priced(NO_CACHING) - case.units
    return Decision(
        key="cache",
        question="Should this application be cached?",
        verdict=verdict,
        today=float(facts.observed.request_count),
        threshold=None if facts.assumed else float(LEAST_USES),
        unit="requests assumed" if facts.assumed else "requests seen",
        effect_units=saved / max(1, case.lane.requests),
        why=f"cheapest of all ways to cache these requests: {describe(case.setup)}",
        children=tuple(children),
    )


# --- the minimum
# -------------------------------------------------------------------------------------------------------


def _minimum(facts: Facts, plain: Case, case: Case) -> Decision:
    minimum, stable = float(plain.lane.minimum_tokens), plain.stable
    whole = stable.shared_tokens + stable.context_tokens
    layers = [
        ("minimum.tools", "tools alone", facts.tools_tokens),
        ("minimum.system", "tools and system", stable.shared_tokens),
    ]
    if facts.context_known:
        layers.append(("minimum.context", "tools, system and user context", whole))
    reached = tuple(
        Decision(
            key=key,
            question=name,
            verdict=_reaches(tokens, minimum, facts.uncertainty),
            today=tokens,
            threshold=minimum,
            unit="tokens",
            interval=_around(tokens, facts.uncertainty),
        )
        for key, name, tokens in layers
    )
    verdict = _reaches(stable.shared_tokens, minimum, facts.uncertainty)
    remedies: list[Decision] = []
    if stable.shared_tokens < minimum:
        remedies = [_pad(facts, plain, case), *_other_model(facts)]
    why = f"{facts.model} ignores a mark on a shorter prefix silently; tools come first, then system"
    if verdict is Verdict.UNDECIDED:
        why = f"the estimate is too close to the minimum of {facts.model}; have the provider count it"
    return Decision(
        key="minimum",
        question="Does the prefix that all requests share reach the model's minimum?",
        verdict=verdict,
        today=stable.shared_tokens,
        threshold=minimum,
        unit="tokens",
        interval=_around(stable.shared_tokens, facts.uncertainty),
        why=why,
        seed=_seed_minimum(stable.shared_tokens, minimum),
        children=(*reached, *remedies),
    )


def _seed_minimum(tokens: float, minimum: float) -> str:
    if (tokens >= SEED_MINIMUM_TOKENS) == (tokens >= minimum):
        return ""
    says, is_so = ("passes", "does not") if tokens >= SEED_MINIMUM_TOKENS else ("fails", "does")
    return f"at its 1,024 tokens this prefix {says}; this model's minimum is {minimum:,.0f}, so it {is_so}"


def _reaches(tokens: float, minimum: float, uncertainty: float) -> Verdict:
    low, high = tokens * (1 - uncertainty), tokens * (1 + uncertainty)
    if low < minimum <= high:
        return Verdict.UNDECIDED
    return Verdict.REACHED if tokens >= minimum else Verdict.NOT_REACHED


def _around(tokens: float, uncertainty: float) -> tuple[float, float] | None:
    return (tokens * (1 - uncertainty), tokens * (1 + uncertainty)) if uncertainty else None


def _pad(facts: Facts, plain: Case, case: Case) -> Decision:
    tokens, minimum = plain.stable.shared_tokens, plain.lane.minimum_tokens
    needed = pad_threshold(facts.rates, max(1, int(tokens)), minimum)
    within = facts.observed.shared
    share = within.share_within(TTL_5M_S) if within.count else None
    padded = facts.padded
    if needed is None or padded is None or share is None:
        why = (
            "filler of that length costs more even if every use is a read"
            if needed is None
            else "no traffic yet"
        )
        verdict = Verdict.DO_NOT_PAD if needed is None else Verdict.UNDECIDED
        return Decision(
            key="pad",
            question="Pad it?",
            verdict=verdict,
            today=share,
            threshold=needed,
            unit="hits per use",
            why=why,
        )
    pays = case.lane is padded
    best = case if pays else case_of(facts, padded, facts.padded_stable)
    why = f"{padded.added_tokens:,.0f} tokens of filler are read with every hit"
    if (share > needed) != pays:
        why += "; the threshold is of this prefix alone, the verdict of the whole prompt"
        why += ", whose end is cached without filler" if not pays else ""
    return Decision(
        key="pad",
        question=f"Can it be padded to {minimum:,}?",
        verdict=by_evidence(Verdict.PAD if pays else Verdict.DO_NOT_PAD, facts, within, TTL_5M_S, needed),
        today=share,
        threshold=needed,
        unit="hits per use",
        interval=interval_of(facts, within, TTL_5M_S),
        effect_units=abs(plain.units - best.units) / max(1, plain.lane.requests),
        why=why,
        seed=""
        if pays
        else "pads whenever it can; padding that is not read often enough costs more than it saves",
    )


def lower_minimum(facts: Facts) -> Alternative | None:
    """The cheapest other model of those with a lower minimum; None when there is none."""
    lower = [each for each in facts.alternatives if each.minimum_tokens < facts.lane.minimum_tokens]
    return min(lower, key=lambda each: each.relative_cost, default=None)


def _other_model(facts: Facts) -> list[Decision]:
    best = lower_minimum(facts)
    if best is None:
        return []
    cheaper = best.relative_cost < 1
    return [
        Decision(
            key="model",
            question="Is there a model with a lower minimum at the same or a lower bill?",
            verdict=Verdict.OTHER_MODEL if cheaper else Verdict.SAME_MODEL,
            today=best.relative_cost,
            threshold=1.0,
            unit="of today's bill",
            why=f"{best.model} caches from {best.minimum_tokens:,} tokens; its answers are not compared here",
            seed="knows no such choice",
        )
    ]
