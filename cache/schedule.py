"""When to warm which prefix: what each way is worth, and which prefix is due.

The rule: one unit is the price of one uncached input token, as in `cache.economics`; a first-token second saved is
worth what the operator says, 0 by default, as L = v kappa/p units per token. Then for a prefix of C tokens of which P
would be lost, hazard h_j of a return in the window that a ping buys:

    keep-alive      V_j = max(0, h_j (w - r + L) P + (1 - h_j) V_{j+1} - r C), at most as often as ski rental allows
    warm ahead      pays iff P(use in time) > (r Cs + w U)/((L + w - r) U): never in money alone, so never at L = 0
    shared layers   P(use in the next window | idle so far) (w - r + L) C > r C, and only in use lately

A keep-alive is due a margin before the TTL counted from the START of the last request that touched the prefix. The four
strategies of the document are policies of their own, which do what their name says whether it pays or not, so that they
can be compared; AUTO does all four where they pay, and asks for `MARGIN` times the cost, because what is expected is
learnt. OFF warms what the operator orders and nothing else.

Shared layers (an application's) have watches of their own, apart from those of conversations: other traffic keeps them,
and their loss is nobody's in particular. It does not know how a warm is sent, nor what came of it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import NamedTuple

from cache.economics import Rates, Upkeep, best_upkeep, most_pings, ping_spacing_s, renewal_cost
from cache.hazard import Path
from cache.returns import WINDOW_S
from cache.rules import TTL_1H_S, TTL_5M_S

MARGIN = 1.25
"""Expected gain over cost that AUTO asks for: a learner that starts from priors overspends without it."""
FIXED_PINGS = 3
"""Keep-alives of the policy that only counts: the best fixed number on recorded agents."""
ALMOST_ALL = 0.9
"""Share of a prefix that has to be warm for the rest not to be worth a call."""
LEAST_USES = 1.0
"""Uses, each counting half after six hours, below which AUTO does not keep a shared prefix: about three a day."""


class Policy(StrEnum):
    """What is warmed."""

    OFF = "off"
    SESSION_START = "session_start"
    KEEP_ALIVE = "keep_alive"
    PREDICTIVE = "predictive"
    SHARED = "shared"
    AUTO = "auto"


class Trigger(StrEnum):
    """What makes a prefix due."""

    SESSION_START = "session_start"
    IDLE = "idle"
    PREDICTION = "prediction"
    SCORE = "score"
    SHARED = "shared"
    UPGRADE = "upgrade"
    """An idle prefix, once more, with its answer behind it and for an hour."""
    OPERATOR = "operator"


_TRIGGERS = {
    Policy.OFF: frozenset(),
    Policy.SESSION_START: frozenset({Trigger.SESSION_START}),
    Policy.KEEP_ALIVE: frozenset({Trigger.IDLE}),
    Policy.PREDICTIVE: frozenset({Trigger.PREDICTION, Trigger.SCORE}),
    Policy.SHARED: frozenset({Trigger.SHARED}),
    Policy.AUTO: frozenset(Trigger) - {Trigger.OPERATOR},
}


class Worth(NamedTuple):
    """What tokens and time cost on one model.

    Attributes:
        token_usd: Price of one uncached input token, USD, > 0.
        second_usd: Value of a second of a caller's waiting for the first token, USD, >= 0.
        kappa_s: Seconds of prefill per uncached token.
        call_units: What every warming call costs besides its input, in units: output it cannot go without.
    """

    rates: Rates
    token_usd: float
    second_usd: float = 0.0
    kappa_s: float = 0.0
    call_units: float = 0.0

    @property
    def latency(self) -> float:
        """Value of the time that one token read instead of written saves, in units (L)."""
        return self.second_usd * self.kappa_s / self.token_usd if self.token_usd > 0 else 0.0


class Prefix(NamedTuple):
    """A prefix that may be warmed.

    Attributes:
        key: Its name: one per cache entry.
        tokens: All of it (C).
        private_tokens: The part that is lost with it (P): what no other traffic keeps warm; in (0, tokens].
        ttl_s: TTL it is written with, 300 or 3600.
        shared: Whether it is an application's, for everybody.
        tail_tokens: What a warm sends behind it, as ordinary input.
    """

    key: bytes
    tokens: int
    private_tokens: int
    ttl_s: int
    shared: bool
    tail_tokens: int = 0


class Verdict(NamedTuple):
    """Whether to warm, and why.

    Attributes:
        cost_units: What the warm is expected to cost.
        value_units: What it is expected to be worth; what AUTO needs is `MARGIN` times the cost.
    """

    fires: bool
    cost_units: float
    value_units: float
    reason: str


class WarmOrder(NamedTuple):
    """A warm that is to be sent.

    Attributes:
        due_s: Instant it is due.
        cost_usd: Expected cost; likewise the value.
    """

    prefix: Prefix
    trigger: Trigger
    due_s: float
    cost_usd: float
    value_usd: float
    reason: str


def allowed(policy: Policy, trigger: Trigger) -> bool:
    """Whether a policy acts on a trigger at all; an operator's order always is."""
    return trigger is Trigger.OPERATOR or trigger in _TRIGGERS[policy]


# --- what it is worth
# ---------------------------------------------------------------------------------------------------


def keep_alive(policy: Policy, prefix: Prefix, worth: Worth, hazards: Sequence[float], pings: int) -> Verdict:
    """Whether to ping a private prefix once more before it lapses.

    Args:
        hazards: Chance of a return in each window of `WINDOW_S` from the one on that this ping buys.
        pings: Keep-alives sent since its last use.
    """
    cost, gain = read_units(prefix, worth), lost_units(prefix, worth)
    windows = windows_of(hazards, prefix.ttl_s)[: max(0, most_keep_alives(prefix, worth) - pings)]
    later = 0.0
    for hazard in reversed(windows[1:]):
        later = max(0.0, hazard * gain + (1 - hazard) * later - MARGIN * cost)
    value = windows[0] * gain + (1 - windows[0]) * later if windows else 0.0
    if policy is Policy.KEEP_ALIVE:
        fires = pings < FIXED_PINGS
        return Verdict(
            fires, cost, value, f"keep-alive {pings + 1} of {FIXED_PINGS}" if fires else "all sent"
        )
    if not windows:
        return Verdict(False, cost, 0.0, f"{pings} keep-alives are the most that can pay, knowing nothing")
    fires = value > MARGIN * cost
    return Verdict(
        fires,
        cost,
        value,
        f"a return in the next {_spelled(prefix.ttl_s)} has a chance of {windows[0]:.3f}: "
        f"{value:,.0f} units for {cost:,.0f}",
    )


def read_units(prefix: Prefix, worth: Worth) -> float:
    """What a warm of a prefix that is still there costs, in units."""
    return worth.rates.read * prefix.tokens + prefix.tail_tokens + worth.call_units


def lost_units(prefix: Prefix, worth: Worth) -> float:
    """What a request pays more when it finds the prefix gone, in units, the caller's waiting included."""
    rates = worth.rates
    return (rates.write(prefix.ttl_s) - rates.read + worth.latency) * prefix.private_tokens


def most_keep_alives(prefix: Prefix, worth: Worth) -> int:
    """Keep-alives after one use that ski rental allows; those of the policy that counts where a read costs nothing."""
    return most_pings(worth.rates, prefix.ttl_s) if worth.rates.read > 0 else FIXED_PINGS


def ahead(
    policy: Policy,
    prefix: Prefix,
    worth: Worth,
    p_use: float,
    p_warm: float,
    warm_tokens: int,
    expected_units: float | None = None,
) -> Verdict:
    """Whether to warm a prefix ahead of a request that may come: at a session's start, or on a prediction.

    Args:
        p_use: Chance in [0, 1] of a use on this route within the TTL.
        p_warm: Chance that `warm_tokens` of it are warm.
        warm_tokens: Tokens of it that are believed warm without it (Cs).
        expected_units: What the warm is expected to cost, where a plan says so; None for one TTL throughout.
    """
    rates = worth.rates
    write = rates.write(prefix.ttl_s)
    cold = prefix.tokens - warm_tokens
    cost = rates.read * warm_tokens + write * cold + prefix.tail_tokens
    if expected_units is not None:
        cost = expected_units
    cost += worth.call_units
    value = p_use * (worth.latency + write - rates.read) * cold
    if p_warm > 0.5 and warm_tokens >= ALMOST_ALL * prefix.tokens:
        return Verdict(False, rates.read * prefix.tokens, 0.0, "it is warm already")
    if policy is not Policy.AUTO:
        return Verdict(True, cost, value, "the policy says so")
    needed = cost / value * p_use if value > 0 else float("inf")
    return Verdict(
        value > MARGIN * cost,
        cost,
        value,
        f"chance of a use in time {p_use:.3f}, needed {needed:.3f} before the margin: a right guess costs a read, "
        f"and a second of waiting is worth ${worth.second_usd:g}",
    )


def could_pay(p_use: float, worth: Worth) -> bool:
    """Whether AUTO would warm anything at all ahead of a use of this chance: a bound, for whoever spares the question.

    The best case is one without a warm part or a tail, its cost at the lowest write rate and its value at the highest.
    """
    rates = worth.rates
    writes = rates.write(TTL_5M_S), rates.write(TTL_1H_S)
    return p_use * (worth.latency + max(writes) - rates.read) > MARGIN * min(writes)


def shared_upkeep(policy: Policy, prefix: Prefix, worth: Worth, p_use: float, uses: float) -> Verdict:
    """Whether to ping an application's layers that nobody uses just now.

    Args:
        p_use: Chance of a use in the window that a ping buys, given that it has been idle.
        uses: Decayed uses of the last hours.
    """
    rates = worth.rates
    cost = read_units(prefix, worth)
    value = p_use * (rates.write(prefix.ttl_s) - rates.read + worth.latency) * prefix.tokens
    if policy is not Policy.AUTO:
        return Verdict(True, cost, value, "the policy says so")
    if uses < LEAST_USES:
        return Verdict(False, cost, value, f"{uses:.1f} uses lately are too few to keep it for")
    return Verdict(
        value > MARGIN * cost,
        cost,
        value,
        f"a use in the next {_spelled(prefix.ttl_s)} has a chance of {p_use:.3f}: {value:,.0f} units for {cost:,.0f}",
    )


def menu(rates: Rates, returned_within: Callable[[float], float]) -> tuple[tuple[Upkeep, ...], Upkeep]:
    """Cost per request of every way to keep one prefix under independent gaps, and the best.

    Returns:
        No caching, and 5 minutes and 1 hour with no, one, `FIXED_PINGS` and the most keep-alives; then the cheapest
        with any number.
    """
    ways = [
        Upkeep(ttl_s, pings, renewal_cost(rates, returned_within, ttl_s, pings))
        for ttl_s in (TTL_5M_S, TTL_1H_S)
        for pings in sorted({0, 1, FIXED_PINGS, most_pings(rates, ttl_s)})
    ]
    return (Upkeep(None, 0, 1.0), *ways), best_upkeep(rates, returned_within)


def order(prefix: Prefix, trigger: Trigger, verdict: Verdict, due_s: float, worth: Worth) -> WarmOrder:
    """A verdict that fires, as an order in dollars."""
    return WarmOrder(
        prefix,
        trigger,
        due_s,
        verdict.cost_units * worth.token_usd,
        verdict.value_units * worth.token_usd,
        verdict.reason,
    )


def windows_of(hazards: Sequence[float], ttl_s: int) -> list[float]:
    """Hazards of the windows that pings of this TTL buy: an hour's ping buys twelve of the short ones at once."""
    if ttl_s < TTL_1H_S:
        return list(hazards)
    width = round(ping_spacing_s(TTL_1H_S) / WINDOW_S)
    found = []
    for start in range(0, len(hazards) - width + 1, width):
        quiet = 1.0
        for hazard in hazards[start : start + width]:
            quiet *= 1 - hazard
        found.append(1 - quiet)
    return found


def _spelled(ttl_s: int) -> str:
    return "hour" if ttl_s >= TTL_1H_S else "five minutes"


# --- what is due
# --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Watch:
    """A prefix that may need a keep-alive.

    Attributes:
        owner: Whose it is: what budgets and results are kept by.
        path: Kind of its last turn, for `cache.returns`.
        used_s: Start of the last request that used it.
        touched_s: Start of the last request or warm that touched it: its TTL counts from there.
        pings: Keep-alives since `used_s`.
        due_s: When the next is due.
        planned: Keep-alives it is to get, of those that are planned ahead (`cache.idle`); 0 otherwise.
        upgrades: Whether the upgrade ping follows them.
    """

    prefix: Prefix
    owner: tuple[str, str]
    path: Path
    used_s: float
    touched_s: float
    due_s: float
    pings: int = 0
    planned: int = 0
    upgrades: bool = False

    @property
    def idle_windows(self) -> int:
        """Windows of `WINDOW_S` since its last use that the TTL running now has bought."""
        return round((self.due_s - self.used_s) / WINDOW_S)

    @property
    def lapses_s(self) -> float:
        """When it ends if nothing touches it."""
        return self.touched_s + self.prefix.ttl_s


class Schedule:
    """Which prefixes are watched, and when each is due. Not thread-safe; time is passed in; memory is bounded."""

    def __init__(self, max_watches: int = 10_000) -> None:
        """Watch at most so many; the longest unused is forgotten first."""
        self._max_watches = max_watches
        self._watches: OrderedDict[bytes, Watch] = OrderedDict()
        self._due: list[tuple[float, int, Watch]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._watches)

    def used(
        self, prefix: Prefix, owner: tuple[str, str], path: Path, started_s: float, jitter_s: float = 0.0
    ) -> Watch | None:
        """A request that started then left `prefix` warm: its keep-alive is due a margin before the TTL ends.

        Args:
            jitter_s: How much earlier, so that what was used together is not pinged together; >= 0.

        Returns:
            Its watch; None where one of a later use stands.
        """
        due_s = started_s + ping_spacing_s(prefix.ttl_s) - jitter_s
        known = self._watches.get(prefix.key)
        if known is not None and known.used_s > started_s:
            return None
        watch = Watch(prefix, owner, path, started_s, started_s, due_s)
        self._watches[prefix.key] = watch
        self._watches.move_to_end(prefix.key)
        self._file(watch)
        if len(self._watches) > self._max_watches:
            self._watches.popitem(last=False)
        return watch

    def find(self, key: bytes) -> Watch | None:
        """The watch of a prefix; None when it is not watched."""
        return self._watches.get(key)

    def pinged(self, watch: Watch, started_s: float, jitter_s: float = 0.0) -> None:
        """A keep-alive that started then touched it: the next is due a TTL later."""
        watch.touched_s = started_s
        watch.pings += 1
        watch.due_s = started_s + ping_spacing_s(watch.prefix.ttl_s) - jitter_s
        if self._watches.get(watch.prefix.key) is watch:
            self._file(watch)

    def touched(self, key: bytes, started_s: float) -> None:
        """A warm of a longer prefix that started then read this one, too: it lives on, though nobody used it."""
        watch = self._watches.get(key)
        if watch is not None and started_s > watch.touched_s:
            watch.touched_s = started_s
            watch.due_s = started_s + ping_spacing_s(watch.prefix.ttl_s)
            self._file(watch)

    def forget(self, key: bytes) -> None:
        """Stop watching: a longer prefix of the conversation has taken its place, or it lapses."""
        self._watches.pop(key, None)

    def lapsed(self, watch: Watch) -> None:
        """Stop watching because a keep-alive was not sent or failed, unless the prefix was used again since."""
        if self._watches.get(watch.prefix.key) is watch:
            self.forget(watch.prefix.key)

    def due(self, now: float) -> list[Watch]:
        """Watches that are due, oldest first, each once; what has lapsed is forgotten."""
        found = []
        while self._due and self._due[0][0] <= now:
            due_s, _, watch = heappop(self._due)
            if self._watches.get(watch.prefix.key) is not watch or watch.due_s != due_s:
                continue  # used again since, or forgotten
            if watch.lapses_s <= now:
                self.forget(watch.prefix.key)
            else:
                found.append(watch)
        return found

    def next_due_s(self) -> float | None:
        """Instant at which something may be due; None when nothing is watched."""
        return self._due[0][0] if self._due else None

    def _file(self, watch: Watch) -> None:
        self._count += 1
        heappush(self._due, (watch.due_s, self._count, watch))
        if len(self._due) > 4 * self._max_watches:
            self._due = [
                entry
                for entry in self._due
                if self._watches.get(entry[2].prefix.key) is entry[2] and entry[2].due_s == entry[0]
            ]
            self._due.sort()
