"""The advice's questions on what to write: shared layers and their TTL, user context, conversation, first turns.

The rule: each is judged by the gaps of its own chain of uses, against the thresholds of `cache.economics`; the
verdict is that of the cheapest setup as a whole, which may leave a part to the mark behind it.
"""

from math import inf

from cache.decision import (
    LEAST_USES,
    Case,
    Decision,
    Verdict,
    by_evidence,
    interval_of,
    odds,
    share_interval,
    sizes,
    span,
    stake_of,
)
from cache.economics import conversation_hour_threshold, hour_threshold, last_write_threshold, write_threshold
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.setup import Keep, Setup, possible

SEED_HITS_PER_WRITE = 2.0
"""The strategy document's hits per write from which caching pays."""


def hits(case: Case) -> Decision:
    """Whether the shared layers are read often enough for their writes."""
    facts, gaps = case.facts, case.facts.observed.shared
    ttl_s = case.setup.shared.ttl_s if case.setup.shared else TTL_5M_S
    hits, needed = odds(gaps.share_within(ttl_s)), last_write_threshold(facts.rates, ttl_s)
    cached = case.setup.shared is not None
    verdict = Verdict.CACHE if cached else Verdict.DO_NOT_CACHE
    interval = interval_of(facts, gaps, ttl_s)
    return Decision(
        key="hits",
        question=f"Hits per write of the shared layers at {span(ttl_s)}?",
        verdict=by_evidence(verdict, facts, gaps, ttl_s, write_threshold(facts.rates, ttl_s)),
        today=hits,
        threshold=needed,
        unit="hits per write",
        interval=(odds(interval[0]), odds(interval[1])) if interval else None,
        effect_units=stake_of(case, lambda setup: (setup.shared is not None) != cached),
        why=f"a miss would write again: P(next use in time) {gaps.share_within(ttl_s):.3f} "
        f"needs {write_threshold(facts.rates, ttl_s):.3f}",
        seed=f"asks for {SEED_HITS_PER_WRITE:g}; a write has paid for itself after {needed:.2f}"
        if needed < hits < SEED_HITS_PER_WRITE
        else "",
    )


def ttl(case: Case) -> Decision:
    """How long the shared layers are written for; without longer gaps to go by, that is a prior and said to be one."""
    facts, gaps = case.facts, case.facts.observed.shared
    shared = case.setup.shared
    # Of gaps that ended: what nothing came before or after, the first use above all, says nothing of either TTL.
    beyond = gaps.returns - gaps.count_within(TTL_5M_S)
    later = gaps.count_within(TTL_1H_S) - gaps.count_within(TTL_5M_S)
    ttl_s = shared.ttl_s if shared else TTL_5M_S
    other_ttl = TTL_1H_S if ttl_s == TTL_5M_S else TTL_5M_S
    stake = None
    if shared:
        stake = stake_of(case, lambda setup: setup.shared is not None and setup.shared.ttl_s == other_ttl)
    why = f"of {beyond:,} gaps over 5 minutes {later:,} ended within the hour"
    if not beyond:
        why = f"none of {gaps.returns:,} gaps was over 5 minutes"
    threshold = hour_threshold(facts.rates)
    share = later / beyond if beyond else None
    verdict = Verdict.ONE_HOUR if ttl_s == TTL_1H_S else Verdict.FIVE_MINUTES
    interval = None if facts.assumed else share_interval(later, beyond)
    if interval and (gaps.count < LEAST_USES or interval[0] <= threshold <= interval[1]):
        verdict = Verdict.UNDECIDED
        why += "; the difference is within chance" if beyond else ", so both keep it alike so far"
        why += f"; {span(ttl_s)} is a prior here, not a finding"
    if not shared:
        verdict, why = Verdict.DO_NOT_CACHE, "nothing is written"
    return Decision(
        key="ttl",
        question="5 minutes or 1 hour for the shared layers?",
        verdict=verdict,
        today=share,
        threshold=threshold,
        unit="of longer gaps end within 1 h",
        interval=interval if beyond else None,
        effect_units=stake,
        why=why,
        seed="knows 5 minutes only" if verdict is Verdict.ONE_HOUR else "",
    )


def context(case: Case) -> Decision:
    """Whether a user's context gets a mark of its own."""
    facts, gaps = case.facts, case.facts.observed.users
    question = "A mark after the user context?"
    if not facts.context_known:
        why = "its size is not known; it is counted with the conversation"
        return Decision(key="context", question=question, verdict=Verdict.UNDECIDED, why=why)
    if not possible(Setup(None, Keep(TTL_5M_S)), case.lane, case.stable):
        why = "the prefix up to it is below the minimum"
        return Decision(key="context", question=question, verdict=Verdict.DO_NOT_CACHE, why=why)
    keep = case.setup.context
    ttl_s = keep.ttl_s if keep else TTL_5M_S
    needed = write_threshold(facts.rates, ttl_s)
    verdict = Verdict.CACHE if keep else Verdict.DO_NOT_CACHE
    why = f"{case.stable.context_tokens:,.0f} tokens, {span(ttl_s)}"
    if keep is None and gaps.share_within(ttl_s) > needed:
        why += "; the mark on the conversation covers it"
    return Decision(
        key="context",
        question=question,
        verdict=by_evidence(verdict, facts, gaps, ttl_s, needed),
        today=gaps.share_within(ttl_s),
        threshold=needed,
        unit="of a user's requests follow in time",
        interval=interval_of(facts, gaps, ttl_s),
        effect_units=stake_of(case, lambda setup: (setup.context is None) != (keep is None)),
        why=why,
    )


def conversation(case: Case) -> Decision:
    """Whether the last message gets a mark."""
    facts, gaps, keep = case.facts, case.facts.observed.turns, case.setup.conversation
    ttl_s = keep.ttl_s if keep else TTL_5M_S
    needed = write_threshold(facts.rates, ttl_s)
    verdict = Verdict.CACHE if keep else Verdict.DO_NOT_CACHE

    def other(setup: Setup) -> bool:
        # Written from the second turn on, a mark costs nothing where there is none: that is no opposite of "do not".
        return (setup.conversation is None) != (keep is None) and setup.from_turn == 1

    base, mean, added = sizes(case)
    pauses = gaps.share_within(TTL_1H_S) - gaps.share_within(TTL_5M_S)
    crossover = conversation_hour_threshold(facts.rates, added, mean - base) if mean > base else inf
    why = f"{span(ttl_s)}: pauses of 5 to 60 minutes {pauses:.3f}, an hour pays from {crossover:.3f}"
    return Decision(
        key="conversation",
        question="A mark on the last message, so that the next turn reads the conversation?",
        verdict=by_evidence(verdict, facts, gaps, ttl_s, needed),
        today=gaps.share_within(ttl_s),
        threshold=needed,
        unit="of requests continue a session in time",
        interval=interval_of(facts, gaps, ttl_s),
        effect_units=stake_of(case, other),
        why=why,
        seed="calls history low priority and marks before the latest message; it is the largest lever"
        if keep
        else "",
    )


def first_turn(case: Case) -> Decision:
    """Whether first turns are written, or only what is followed up."""
    facts, observed, keep = case.facts, case.facts.observed, case.setup.conversation
    ttl_s = keep.ttl_s if keep else TTL_5M_S
    needed = write_threshold(facts.rates, ttl_s)
    returned, sessions = observed.seconds.count_within(ttl_s), observed.session_count
    one_off = observed.one_off_count / sessions if sessions else 0.0
    if keep is None:
        verdict, stake = Verdict.DO_NOT_CACHE, None
    else:
        verdict = Verdict.WRITE_FIRST if case.setup.from_turn == 1 else Verdict.SKIP_FIRST
        turn = case.setup.from_turn
        stake = stake_of(case, lambda setup: setup.conversation is not None and setup.from_turn != turn)
        if not facts.assumed and sessions < LEAST_USES:
            verdict = Verdict.UNDECIDED
    return Decision(
        key="one_off",
        question="Write the first turn of a session?",
        verdict=verdict,
        today=observed.second_share_within(ttl_s),
        threshold=needed,
        unit="of first turns are followed up in time",
        interval=None if facts.assumed else share_interval(returned, sessions),
        effect_units=stake,
        why=f"{one_off:.1%} of {sessions:,} sessions are one request",
    )
