"""Decisions of the caching advice: what one holds, what it is made from, and when figures prove anything.

The rule: a decision is a number held against a threshold, with the interval that chance leaves and what following
it saves against its opposite at its best. Fewer than `LEAST_USES` uses, or a threshold within the interval, is no
evidence. Costs are in units of one uncached input token. It does not know the framework's questions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, sqrt

from cache.economics import Rates
from cache.gaps import GapDigest
from cache.observed import Lane, Observed
from cache.rules import TTL_1H_S
from cache.setup import Keep, Setup, Stable, best_setup, cheapest, input_units

LEAST_USES = 30
"""Uses below which no share is taken for evidence."""
_Z = 1.96


class Verdict(StrEnum):
    """What a decision comes to."""

    CACHE = "cache"
    DO_NOT_CACHE = "do not cache"
    PAD = "pad and cache"
    DO_NOT_PAD = "do not pad"
    REACHED = "reached"
    NOT_REACHED = "not reached"
    FIVE_MINUTES = "5 minutes"
    ONE_HOUR = "1 hour"
    SKIP_FIRST = "write from the second turn on"
    WRITE_FIRST = "write from the first turn on"
    KEEP_WARM = "keep warm"
    LET_LAPSE = "let it lapse"
    DO_NOT_WARM = "do not warm"
    OTHER_MODEL = "another model is cheaper"
    SAME_MODEL = "keep the model"
    UNDECIDED = "too little evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One question of the tree.

    Attributes:
        today: The number that decides, None when unknown.
        threshold: What it is held against, None when there is nothing to pass.
        unit: What both count.
        interval: 95 % interval of `today`, None when it is exact or assumed.
        effect_units: Units per request that the verdict saves against its opposite, None where nothing is at stake.
        why: One sentence on how it came to that.
        seed: Where the strategy document's rule decides otherwise, and why; "" where it does not.
    """

    key: str
    question: str
    verdict: Verdict
    today: float | None = None
    threshold: float | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None
    effect_units: float | None = None
    why: str = ""
    seed: str = ""
    children: tuple["Decision", ...] = ()

    def walk(self) -> Iterator["Decision"]:
        """This decision and all below it, in the order they are shown."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another model with its best setup.

    Attributes:
        relative_cost: Its whole bill, answers included, over that of the model asked about; 1 is the same.
    """

    model: str
    minimum_tokens: int
    relative_cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one application on one model.

    Attributes:
        tools_tokens: Tools, the provider's own instructions for them included; part of `stable.shared_tokens`.
        stable: Tokens of tools and system, and of the user's context (0 when it is not known).
        uncertainty: Relative error of `stable.shared_tokens`, 0 when the provider counted them.
        context_known: Whether `stable.context_tokens` means anything; otherwise it is counted with the conversation.
        lane: Observed sums at the model's minimum.
        padded: The same with filler up to the minimum, None where nothing is to pad.
        assumed: Whether the traffic is an assumption, so that no question of evidence arises.
        requests_per_day: Requests on this route.
        latency_value: Worth of an uncached token's prefill time, in units (L); 0: only money counts.
        answer_tokens: Of the mean answer; 0 where that is not known.
        upgrade_verified: Whether the upgrade ping was measured to keep what it is to keep.
        alternatives: Other models, priced.
    """

    model: str
    rates: Rates
    tools_tokens: float
    stable: Stable
    uncertainty: float
    context_known: bool
    observed: Observed
    lane: Lane
    padded: Lane | None = None
    assumed: bool = False
    requests_per_day: float = 0.0
    latency_value: float = 0.0
    answer_tokens: float = 0.0
    upgrade_verified: bool = False
    alternatives: Sequence[Alternative] = ()

    @property
    def padded_stable(self) -> Stable:
        """The stable layers with the filler."""
        added = self.padded.added_tokens if self.padded else 0.0
        return self.stable._replace(shared_tokens=self.stable.shared_tokens + added)


@dataclass(frozen=True, slots=True)
class Case:
    """Facts with the choice of padding made, and the best setups on it."""

    facts: Facts
    lane: Lane
    stable: Stable
    setup: Setup
    units: float
    warm_setup: Setup
    warm_units: float

    def priced(self, setup: Setup) -> float:
        """Input cost of all observed requests under `setup`, in units."""
        return input_units(self.facts.observed, self.lane, self.stable, setup, self.facts.rates)


def share_interval(count: int, whole: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson); (0, 1) when nothing was counted."""
    if whole <= 0:
        return 0.0, 1.0
    share, z2 = count / whole, _Z * _Z / whole
    middle = share + z2 / 2
    reach = _Z * sqrt(share * (1 - share) / whole + z2 / (4 * whole))
    return max(0.0, (middle - reach) / (1 + z2)), min(1.0, (middle + reach) / (1 + z2))


def case_of(facts: Facts, lane: Lane, stable: Stable) -> Case:
    """The best setups on one lane, with and without keep-alives."""
    setup, units = best_setup(facts.observed, lane, stable, facts.rates)
    warm_setup, warm_units = best_setup(facts.observed, lane, stable, facts.rates, pings=True)
    return Case(facts, lane, stable, setup, units, warm_setup, warm_units)


def describe(setup: Setup) -> str:
    """A setup in words, e.g. "shared layers 1 hour, conversation 5 minutes from turn 1"."""
    parts = [
        f"{name} {_kept(keep)}"
        for name, keep in (("shared layers", setup.shared), ("user context", setup.context))
        if keep is not None
    ]
    if setup.conversation:
        size = f" in prompts of at least {setup.from_tokens:,} tokens" if setup.from_tokens else ""
        parts.append(f"conversation {_kept(setup.conversation)} from turn {setup.from_turn}{size}")
    return ", ".join(parts) or "no caching"


def _kept(keep: Keep) -> str:
    pings = f" and up to {keep.pings} keep-alive{'s' if keep.pings > 1 else ''}" if keep.pings else ""
    return span(keep.ttl_s) + pings


def span(ttl_s: int) -> str:
    """A TTL in words."""
    return "1 hour" if ttl_s >= TTL_1H_S else "5 minutes"


def sizes(case: Case) -> tuple[float, float, float]:
    """(tokens cached before the conversation, mean input, mean tokens a later turn adds)."""
    lane, stable = case.lane, case.stable
    base = stable.shared_tokens if case.setup.shared else 0.0
    base = stable.shared_tokens + stable.context_tokens if case.setup.context else base
    mean = lane.input_tokens / max(1, lane.requests)
    long = lane.marked[0]
    followed = long.second.returns + long.later.returns
    later = (long.tokens - long.first_tokens) / max(1, long.requests - long.first)
    readable = (long.second.tokens + long.later.tokens) / max(1, followed)
    return base, mean, max(0.0, later - readable) if followed else 0.0


def stake_of(case: Case, other: Callable[[Setup], bool]) -> float | None:
    """Units per request that the best setup saves against the best one that is `other`; None when there is none."""
    facts = case.facts
    found = cheapest(facts.observed, case.lane, case.stable, facts.rates, other)
    return None if found is None else (found[1] - case.units) / max(1, case.lane.requests)


def odds(share: float) -> float:
    """Hits per write at this chance of a hit."""
    return share / (1 - share) if share < 1 else inf


def interval_of(facts: Facts, gaps: GapDigest, ttl_s: int) -> tuple[float, float] | None:
    """95 % interval of the share of gaps within the TTL; None where traffic is assumed."""
    return None if facts.assumed else share_interval(gaps.count_within(ttl_s), gaps.count)


def by_evidence(verdict: Verdict, facts: Facts, gaps: GapDigest, ttl_s: int, threshold: float) -> Verdict:
    """The verdict, unless too few uses were seen or chance alone may have put the share past its threshold."""
    if facts.assumed:
        return verdict
    low, high = share_interval(gaps.count_within(ttl_s), gaps.count)
    if gaps.count < LEAST_USES or low <= threshold <= high:
        return Verdict.UNDECIDED
    return verdict
