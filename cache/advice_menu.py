"""The whole menu of keeping a prefix warm, each way with its value: what an operator chooses a warming policy by.

The rule: gaps of observed traffic price every way alike, by renewal (`cache.schedule.menu`), as if the prefix stayed
the same from request to request; the decisions of the tree, which follow each conversation, are finer. A keep-alive
reads all of a prefix and saves what would be lost of it. The upgrade ping is one per pause, and its value is told
whether or not it may be sent: that depends on an open fact. Warming ahead is per warm, not per request: it is worth
something only where a request comes in time and a second is worth something. It knows no prices.
"""

from collections.abc import Callable
from typing import NamedTuple

from cache.advice_warm import warm_precision
from cache.decision import Case, sizes
from cache.economics import Rates, Upkeep, ping_spacing_s
from cache.idle import USUAL_ANSWER
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import menu

SHARED = "shared layers"
CONVERSATION = "a conversation"
AHEAD = "ahead of a request"


class Way(NamedTuple):
    """One way to keep, or make, a prefix warm.

    Attributes:
        prefix: Whose it is about.
        units: What it costs: per request, of the prefix; ahead of a request, per warm.
        value_units: What it saves against doing nothing, per request; of a warm, what a right one saves in time.
        inputs: On what that rests, for people.
        best: Whether it is the cheapest of its prefix that may be done.
        needs_fact: Whether it may be done only where an open fact was measured and holds.
    """

    prefix: str
    way: str
    units: float
    value_units: float
    inputs: str
    best: bool = False
    needs_fact: bool = False


def ways(case: Case) -> tuple[Way, ...]:
    """Every way, prefix by prefix, nothing first."""
    facts = case.facts
    base, mean, _ = sizes(case)
    found: list[Way] = []
    shared = case.stable.shared_tokens
    if case.lane.minimum_tokens <= shared:
        gaps = facts.observed.shared
        found += _kept(SHARED, facts.rates, gaps.share_within, shared, shared, gaps.count)
    private = max(0.0, mean - base)
    if private and case.lane.minimum_tokens <= mean:
        gaps = facts.observed.turns
        answer = facts.answer_tokens or USUAL_ANSWER * mean
        found += _kept(CONVERSATION, facts.rates, gaps.share_within, mean, private, gaps.count, answer)
        found.append(_ahead(case, base, case.stable.context_tokens or private))
    return tuple(found)


def _kept(
    prefix: str,
    rates: Rates,
    within: Callable[[float], float],
    tokens: float,
    private: float,
    count: int,
    answer: float | None = None,
) -> list[Way]:
    """Nothing, both TTLs with no and several keep-alives, and the upgrade ping where there is an answer to write.

    Args:
        within: Share of gaps of at most so many seconds.
        private: Tokens that are lost with the prefix.
        count: Gaps it rests on.
    """
    choices, best = menu(rates, within)
    found = []
    for choice in dict.fromkeys((*choices, best)):
        units = _units(choice, rates, within, tokens, private)
        inputs = f"{count:,} gaps"
        if choice.ttl_s is not None:
            outlived = within(choice.ttl_s + choice.pings * ping_spacing_s(choice.ttl_s))
            inputs = f"{outlived:.1%} of {count:,} gaps are bridged"
        found.append(Way(prefix, _spelled(choice), units, private - units, inputs))
    cheapest = min(found, key=lambda each: each.units)
    found = [each._replace(best=each is cheapest) for each in found]
    if answer is not None:
        plain = _units(Upkeep(TTL_5M_S, 0, 0.0), rates, within, tokens, private)
        idle = 1 - within(ping_spacing_s(TTL_5M_S))
        returns = within(ping_spacing_s(TTL_5M_S) + TTL_1H_S) - within(TTL_5M_S)
        saved = returns * (rates.write_5m - rates.read) * (private + answer)
        units = plain - saved + idle * (rates.read * tokens + rates.write_1h * answer)
        inputs = f"sent in {idle:.1%} of gaps, {returns:.1%} end in its hour; answer of {answer:,.0f} tokens"
        found.append(
            Way(prefix, "5 minutes, then the upgrade ping", units, private - units, inputs, needs_fact=True)
        )
    return found


def _units(
    choice: Upkeep, rates: Rates, within: Callable[[float], float], tokens: float, private: float
) -> float:
    """Units per request of the part that is lost; keep-alives read the rest with it."""
    if choice.ttl_s is None:
        return private
    spacing_s = ping_spacing_s(choice.ttl_s)
    pinged = sum([1 - within(number * spacing_s) for number in range(1, choice.pings + 1)])
    kept = within(choice.ttl_s + choice.pings * spacing_s)
    request = private * (rates.read * kept + rates.write(choice.ttl_s) * (1 - kept))
    return request + rates.read * tokens * pinged


def _ahead(case: Case, base: float, private: float) -> Way:
    """Warming a private part ahead of a request, per warm."""
    facts, rates = case.facts, case.facts.rates
    cost = rates.read * base + rates.write_5m * private
    value = (facts.latency_value + rates.write_5m - rates.read) * private
    needed = warm_precision(rates, TTL_5M_S, base, private, facts.latency_value)
    said = "no chance is enough" if needed > 1 else f"pays from a chance of {needed:.2f} on"
    inputs = f"{private:,.0f} tokens on {base:,.0f} that are warm; {said}, time worth {facts.latency_value:g} a token"
    return Way(AHEAD, "warm now, per warm", cost, value, inputs)


def _spelled(choice: Upkeep) -> str:
    if choice.ttl_s is None:
        return "nothing"
    ttl = "1 hour" if choice.ttl_s >= TTL_1H_S else "5 minutes"
    return (
        ttl
        if not choice.pings
        else f"{ttl}, up to {choice.pings} keep-alive{'s' if choice.pings > 1 else ''}"
    )
