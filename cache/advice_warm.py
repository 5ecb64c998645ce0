"""The advice's questions on keeping prefixes warm between requests, and ahead of them.

The rule: a keep-alive is a read that saves a write if the pause would have outlived the entry; it is sent into idle
time only, and never more often than ski rental allows. Warming ahead of a request is another thing: it costs a read
even when it was right. A cron is priced as the strategy document has it: every 4 minutes, day and night.
"""

from math import inf

from cache.decision import LEAST_USES, Case, Decision, Verdict, describe, sizes
from cache.economics import Rates, most_pings, ping_spacing_s, ping_threshold, ping_value, renewal_cost
from cache.gaps import GapDigest
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.setup import Keep, Setup, best_shared, possible

CRON_S = 240
"""The strategy document's global warmer: one request every 4 minutes."""
_DAY_S = 86_400.0


def warming(case: Case) -> Decision:
    """Whether keep-alives pay at all, and each kind of warming on its own."""
    saved = (case.units - case.warm_units) / max(1, case.lane.requests)
    return Decision(
        key="warm",
        question="Keep anything warm between requests?",
        verdict=Verdict.KEEP_WARM if saved > 0 else Verdict.LET_LAPSE,
        effect_units=saved,
        why=f"cheapest with keep-alives: {describe(case.warm_setup)}",
        children=(*_shared_warming(case), _session_warming(case), _predictive(case)),
    )


def _shared_warming(case: Case) -> list[Decision]:
    """The document's cron beside an hour's entry that is read once an idle hour ends."""
    facts, rates, stable = case.facts, case.facts.rates, case.stable
    if not facts.requests_per_day:
        return []
    if not possible(Setup(Keep(TTL_5M_S)), case.lane, stable):
        why = (
            "the shared prefix is below the minimum, so each round is a full price request that keeps nothing"
        )
        units = stable.shared_tokens * (_DAY_S / CRON_S) / facts.requests_per_day
        return [
            Decision(
                key="warm.cron",
                question="The 4-minute cron?",
                verdict=Verdict.DO_NOT_WARM,
                effect_units=units,
                why=why,
                seed="recommends it almost always",
            )
        ]
    tokens, within = stable.shared_tokens, facts.observed.shared.share_within
    hour, hour_idle = Keep(TTL_1H_S), best_shared(facts.observed, rates, TTL_1H_S, pings=True)
    plain = min(1.0, renewal_cost(rates, within, TTL_5M_S), renewal_cost(rates, within, *hour))
    kept = renewal_cost(rates, within, *hour_idle)
    cron = rates.read * (1 + _DAY_S / CRON_S / facts.requests_per_day)
    best = min(plain, kept)
    pays = hour_idle.pings > 0 and kept < plain
    verdict = Verdict.KEEP_WARM if pays else Verdict.LET_LAPSE
    if not facts.assumed and facts.observed.request_count < LEAST_USES:
        verdict = Verdict.UNDECIDED
    idle = Decision(
        key="warm.shared",
        question="1 hour and a read after 57 idle minutes, for the shared layers?",
        verdict=verdict,
        today=kept,
        threshold=plain,
        unit="units per shared token and request, against the best without",
        effect_units=tokens * abs(plain - kept),
        why=f"at most {hour_idle.pings} in a row, only while idle",
    )
    return [
        idle,
        Decision(
            key="warm.cron",
            question="The 4-minute cron instead?",
            verdict=Verdict.KEEP_WARM if cron < best else Verdict.DO_NOT_WARM,
            today=cron,
            threshold=best,
            unit="units per shared token and request, against the best of the above",
            effect_units=tokens * abs(cron - best),
            why="it reads 360 times a day whatever the traffic, to avoid the writes after idle times",
            seed=""
            if cron < best
            else "recommends it; an hour's entry survives the same pauses for one dearer write",
        ),
    ]


def _session_warming(case: Case) -> Decision:
    facts, rates, gaps = case.facts, case.facts.rates, case.facts.observed.turns
    base, mean, _ = sizes(case)
    spacing_s = ping_spacing_s(TTL_5M_S)
    hazards = [
        hazard
        for k in range(most_pings(rates, TTL_5M_S) if rates.read else 0)
        if (hazard := _hazard(gaps, spacing_s * (k + 1), TTL_5M_S + spacing_s * (k + 1))) is not None
    ]
    threshold = ping_threshold(rates, TTL_5M_S, mean, mean - base)
    first = hazards[0] if hazards else None
    keep = case.warm_setup.conversation
    pays = keep is not None and keep.pings > 0
    verdict = Verdict.KEEP_WARM if pays else Verdict.LET_LAPSE
    if not facts.assumed and gaps.count - gaps.count_within(spacing_s) < LEAST_USES:
        verdict = Verdict.UNDECIDED
    stake = None
    if keep is not None:
        other = case.warm_setup._replace(conversation=Keep(keep.ttl_s, 0 if pays else 1))
        stake = (case.priced(other) - case.warm_units) / max(1, case.lane.requests)
    value = ping_value(rates, TTL_5M_S, mean, max(0.0, mean - base), hazards)
    return Decision(
        key="warm.session",
        question="Keep-alives for a session that pauses?",
        verdict=verdict,
        today=first,
        threshold=None if threshold == inf else threshold,
        unit="of sessions idle for 4m45 return in the next window",
        effect_units=stake,
        why=f"best fixed number {keep.pings if keep else 0}; optimal stopping is worth {value:,.0f} units a pause of "
        f"a session of {mean:,.0f} tokens",
        seed="advises against them and has the prices reversed: a keep-alive is a read, not a write"
        if pays
        else "",
    )


def _predictive(case: Case) -> Decision:
    facts, stable = case.facts, case.stable
    base = case.stable.shared_tokens if case.setup.shared else 0.0
    _, mean, _ = sizes(case)
    private = stable.context_tokens or max(0.0, mean - base)
    needed = warm_precision(facts.rates, TTL_5M_S, base, private, facts.latency_value)
    minimum = case.lane.minimum_tokens
    whole = stable.shared_tokens + stable.context_tokens if stable.context_tokens else mean
    if whole < minimum:
        return Decision(
            key="warm.predictive",
            question="Warm a user's layers ahead of a request that is expected?",
            verdict=Verdict.DO_NOT_WARM,
            why=f"not warmable: {whole:,.0f} tokens up to their end are under the model's minimum of {minimum:,.0f}, "
            "so there is nothing that could be kept",
            seed="warms on session start and on triggers; that has no break-even in money",
        )
    return Decision(
        key="warm.predictive",
        question="Warm a user's layers ahead of a request that is expected?",
        verdict=Verdict.DO_NOT_WARM,
        threshold=None if needed == inf else needed,
        unit="of predictions must come true",
        why="a right guess still costs a read, so it is never cheaper in money; it buys time, valued at "
        f"{facts.latency_value:g} here",
        seed="warms on session start and on triggers; that has no break-even in money",
    )


def warm_precision(
    rates: Rates, ttl_s: int, shared_tokens: float, private_tokens: float, latency_value: float
) -> float:
    """Chance of a request in time from which warming a private layer ahead of it pays; above 1: never.

    (r Cs + w U)/((L + w - r) U). At L = 0 it is above 1 whatever the sizes: a warm call costs a read even when it
    was right, so it is never cheaper in money and only buys time.
    """
    write = rates.write(ttl_s)
    gain = (latency_value + write - rates.read) * private_tokens
    return (rates.read * shared_tokens + write * private_tokens) / gain if gain > 0 else inf


def _hazard(gaps: GapDigest, from_s: float, to_s: float) -> float | None:
    """Share of the gaps longer than `from_s` that end by `to_s`; None when there are none."""
    idle = gaps.count - gaps.count_within(from_s)
    return (gaps.count_within(to_s) - gaps.count_within(from_s)) / idle if idle else None
