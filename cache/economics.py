"""What caching a prefix is worth: break-evens, upkeep, padding, and the exact split of a bill.

The rule: every threshold follows from three ratios, `Rates`, taken from the price table of the model that is
asked; no rate is written down here. One unit is the price of one uncached input token, so a cost in units
times that price is money. Probabilities are of the gap to the NEXT use, counted from the start of the request
that last touched the entry. It does not know where they come from, nor what a prompt holds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf
from typing import NamedTuple

from cache.rules import TTL_1H_S, TTL_5M_S

PING_MARGIN_S = 15
"""A ping goes out this long before expiry: 4 min 45 s after the last touch of a 5 minute entry."""
_HOUR_PING_MARGIN_S = 180
"""... and 57 minutes after it for a 1 hour entry, where a margin costs next to nothing."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Price of a token that is cached, in units of one uncached input token.

    Attributes:
        write_5m: Of a token written with the 5 minute TTL (1.25 on every Claude model in 2026-11).
        write_1h: Of a token written with the 1 hour TTL (2.0).
        read: Of a token read (0.1; 0.05 on Opus 5.5; 0.025 on Fable 5.1 and later).

    Raises:
        ValueError: Unless 0 <= read < 1 <= write_5m <= write_1h.
    """

    write_5m: float
    write_1h: float
    read: float

    def __post_init__(self) -> None:
        if not 0 <= self.read < 1 <= self.write_5m <= self.write_1h:
            raise ValueError(f"rates must satisfy 0 <= read < 1 <= write_5m <= write_1h, not {self}")

    def write(self, ttl_s: int) -> float:
        """Rate of a write with this TTL."""
        return self.write_1h if ttl_s >= TTL_1H_S else self.write_5m


class TokenSplit(NamedTuple):
    """Where the input tokens of one request are billed; the four parts sum to the whole input."""

    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    uncached: int = 0

    @property
    def total(self) -> int:
        """All input tokens."""
        return self.read + self.write_5m + self.write_1h + self.uncached


# --- one request
# ---------------------------------------------------------------------------------------------------


def bill(total_tokens: int, marks: Iterable[tuple[int, int]], hit_tokens: int) -> TokenSplit:
    """Split one request's input the way the provider bills it.

    With A the highest hit, B the highest 1h mark past A (else A) and C the last mark past A (else A): read A,
    1h write B - A, 5m write C - B, the rest uncached (prompt caching page, mixing TTLs, read 2026-11).

    Args:
        total_tokens: Whole input.
        marks: (prefix tokens, TTL in seconds) of each breakpoint that is long enough to count, in any order.
        hit_tokens: A, 0 for a miss.
    """
    hour_end = last_end = hit_tokens
    for prefix_tokens, ttl_s in marks:
        if prefix_tokens > last_end:
            last_end = prefix_tokens
        if prefix_tokens > hour_end and ttl_s >= TTL_1H_S:
            hour_end = prefix_tokens
    return TokenSplit(hit_tokens, last_end - hour_end, hour_end - hit_tokens, total_tokens - last_end)


def cost_units(split: TokenSplit, rates: Rates) -> float:
    """Input cost of a split, in units."""
    return (
        split.read * rates.read
        + split.write_5m * rates.write_5m
        + split.write_1h * rates.write_1h
        + split.uncached
    )


class TurnBill(NamedTuple):
    """One turn of a session: its split, and the marks that were long enough to be written."""

    split: TokenSplit
    written_prefix_tokens: tuple[int, ...]


def session_bills(
    turns: Sequence[tuple[int, Sequence[tuple[int, int]]]], minimum_tokens: int
) -> tuple[TurnBill, ...]:
    """Bill the turns of one append-only session that never pauses beyond a TTL.

    Args:
        turns: Per turn its whole input and its marks as (prefix tokens, TTL in seconds).
        minimum_tokens: The model's floor; marks below it do nothing.
    """
    written: set[int] = set()
    bills = []
    for total_tokens, marks in turns:
        counted = [mark for mark in marks if mark[0] >= minimum_tokens]
        deepest = max((tokens for tokens, _ in counted), default=0)
        hit = max((tokens for tokens in written if tokens <= deepest), default=0)
        new = tuple(sorted(tokens for tokens, _ in counted if tokens > hit))
        bills.append(TurnBill(bill(total_tokens, counted, hit), new))
        written.update(new)
    return tuple(bills)


# --- write or not (economics of one prefix)
# ------------------------------------------------------------------------


def write_threshold(rates: Rates, ttl_s: int = TTL_5M_S) -> float:
    """Chance of a use within the TTL above which writing pays, when a miss would write again.

    (w - 1)/(w - r): 0.217 for 5 minutes at r = 0.1. One write saves the next one, so the gain is w - r, not 1
    - r.
    """
    write = rates.write(ttl_s)
    return (write - 1) / (write - rates.read)


def last_write_threshold(rates: Rates, ttl_s: int = TTL_5M_S) -> float:
    """The same when at most one more request can come; also the break-even in hits per write.

    (w - 1)/(1 - r): 0.278 for 5 minutes at r = 0.1, the "1.28 requests" of a write and its hits on average.
    """
    return (rates.write(ttl_s) - 1) / (1 - rates.read)


def reads_to_pay_write(rates: Rates, ttl_s: int = TTL_5M_S) -> int:
    """Whole reads after which a write has paid for itself: 1 for 5 minutes, 2 for 1 hour at r = 0.1."""
    # A cost ratio such as 0.2/0.2 may come out as 1.0000000000000002, which is not a second read.
    return max(1, ceil(last_write_threshold(rates, ttl_s) - 1e-9))


def hour_threshold(rates: Rates) -> float:
    """Chance that a gap, given that it passes 5 minutes, ends within the hour above which 1h beats 5m."""
    return (rates.write_1h - rates.write_5m) / (rates.write_1h - rates.read)


def hour_value(rates: Rates, survives: float, latency: float = 0.0) -> float:
    """Units that an hour brings per token over 5 minutes without keep-alives, at a gap of which that share is survived.

    Above 0 exactly where the share is above `hour_threshold`.
    """
    return survives * (rates.write_5m - rates.read + latency) - (1 - survives) * (
        rates.write_1h - rates.write_5m
    )


def conversation_hour_threshold(rates: Rates, added_tokens: float, private_tokens: float) -> float:
    """Share of pauses of 5 to 60 minutes above which a growing conversation is better kept for an hour.

    Args:
        added_tokens: Tokens a turn adds (D).
        private_tokens: Tokens of the prefix that would be lost (P), > 0.
    """
    return (rates.write_1h - rates.write_5m) / (rates.write_5m - rates.read) * added_tokens / private_tokens


# --- upkeep
# --------------------------------------------------------------------------------------------------------


def ping_spacing_s(ttl_s: int) -> int:
    """Seconds after the last touch at which a ping is due: 285 for 5 minutes, 3,420 for 1 hour."""
    return ttl_s - (PING_MARGIN_S if ttl_s < TTL_1H_S else _HOUR_PING_MARGIN_S)


def ping_threshold(rates: Rates, ttl_s: int, prefix_tokens: float, private_tokens: float) -> float:
    """Chance of a return in the window a ping buys above which the ping pays: r/(w - r) times C/P.

    Args:
        prefix_tokens: Tokens the ping reads (C).
        private_tokens: Part of them that would be lost without it (P); inf is returned when it is 0.
    """
    if private_tokens <= 0:
        return inf
    return rates.read / (rates.write(ttl_s) - rates.read) * prefix_tokens / private_tokens


def ping_value(
    rates: Rates, ttl_s: int, prefix_tokens: float, private_tokens: float, hazards: Sequence[float]
) -> float:
    """Units gained by pinging now and stopping at the best time later; 0 means: let it lapse.

    Args:
        hazards: Chance of a return in each coming window, given none before it; in [0, 1]. As many pings are
            considered as there are hazards: clamp with `most_pings`.
    """
    gain = (rates.write(ttl_s) - rates.read) * private_tokens
    value = 0.0
    for hazard in reversed(hazards):
        value = max(0.0, hazard * gain + (1 - hazard) * value - rates.read * prefix_tokens)
    return value


def most_pings(rates: Rates, ttl_s: int = TTL_5M_S) -> int:
    """Pings after which to lapse so that the worst case is best, knowing nothing of returns (ski rental).

    10 at r = 0.1 (at most 1.875 times the clairvoyant), 23 at r = 0.05 (1.92); for 1h entries 18 and 38.
    Advice about returns may choose fewer, never more.
    """
    write = rates.write(ttl_s)
    if rates.read == 0:
        raise ValueError("pings are free at a read rate of 0; there is no worst case to bound")
    never_more = floor((write - rates.read) / rates.read)
    return min(range(never_more + 1), key=lambda pings: (round(ping_ratio(rates, ttl_s, pings), 9), pings))


def ping_ratio(rates: Rates, ttl_s: int, pings: int) -> float:
    """Worst cost of "ping `pings` times, then lapse" relative to knowing the gap."""
    write = rates.write(ttl_s)
    # The worst gap ends just after the last window: all pings paid, and the write too.
    return (rates.read * pings + write) / min(write, rates.read * (pings + 2))


def renewal_cost(
    rates: Rates, returned_within: Callable[[float], float], ttl_s: int, pings: int = 0
) -> float:
    """Expected prefix cost of one request under "TTL, at most so many pings, then lapse"; no caching costs 1.

    g(T, K) = r F(T+Kd) + w (1 - F(T+Kd)) + r * sum over k = 1..K of (1 - F(kd))

    Args:
        returned_within: F, the share of gaps of at most so many seconds.
    """
    spacing_s = ping_spacing_s(ttl_s)
    kept = returned_within(ttl_s + pings * spacing_s)
    pinged = sum(1 - returned_within(k * spacing_s) for k in range(1, pings + 1))
    return rates.read * kept + rates.write(ttl_s) * (1 - kept) + rates.read * pinged


class Upkeep(NamedTuple):
    """A way to keep one prefix; `ttl_s` None means not to cache it."""

    ttl_s: int | None
    pings: int
    cost: float


def best_upkeep(rates: Rates, returned_within: Callable[[float], float]) -> Upkeep:
    """Cheapest of no caching, 5m and 1h, each with 0 to `most_pings` pings, under independent gaps."""
    best = Upkeep(None, 0, 1.0)
    for ttl_s in (TTL_5M_S, TTL_1H_S):
        for pings in range(most_pings(rates, ttl_s) + 1):
            cost = renewal_cost(rates, returned_within, ttl_s, pings)
            if cost < best.cost:
                best = Upkeep(ttl_s, pings, cost)
    return best


# --- marks and padding
# ---------------------------------------------------------------------------------------------


class MarkState(NamedTuple):
    """One mark in the long run: its prefix, its TTL, and the chance that its entry lives at the next use."""

    prefix_tokens: int
    ttl_s: int
    p_alive: float


def mark_set_cost(total_tokens: int, marks: Sequence[MarkState], rates: Rates) -> float:
    """Expected input cost of a request, in units, when every request carries these marks.

    With one TTL this is total + (w-1) C_m - (w-r) * sum of (a_i - a_{i+1}) C_i; written per segment it also
    holds for mixed TTLs: the part between two marks is read when the entry at its end lives, and written when
    not.

    Args:
        marks: In prompt order; `p_alive` never increases with depth.
    """
    cost, start = 0.0, 0
    for mark in marks:
        per_token = rates.read * mark.p_alive + rates.write(mark.ttl_s) * (1 - mark.p_alive)
        cost += per_token * (mark.prefix_tokens - start)
        start = mark.prefix_tokens
    return cost + total_tokens - start


def pad_threshold(rates: Rates, tokens: int, minimum_tokens: int) -> float | None:
    """Share of uses that must be hits for padding a prefix up to the model's minimum to pay.

    (w5 - rho)/(w5 - r) with rho = tokens/minimum; None when it never pays (rho <= r) or nothing is to pad.
    """
    if tokens >= minimum_tokens:
        return None
    filled = tokens / minimum_tokens
    if filled <= rates.read:
        return None
    return (rates.write_5m - filled) / (rates.write_5m - rates.read)


def pad_saving(rates: Rates, tokens: int, minimum_tokens: int, hit_share: float) -> float:
    """Share of the unpadded cost saved by padding at this hit share; negative when it loses."""
    padded = minimum_tokens * (rates.read * hit_share + rates.write_5m * (1 - hit_share))
    return 1 - padded / tokens


# --- money, for whoever has prices
# ---------------------------------------------------------------------------------


def input_cost(split: TokenSplit, prices: Mapping[str, float]) -> float:
    """Input cost of a split in the currency of `prices`.

    Args:
        prices: Per token: "input", "write_5m", "write_1h", "read".
    """
    return (
        split.read * prices["read"]
        + split.write_5m * prices["write_5m"]
        + split.write_1h * prices["write_1h"]
        + split.uncached * prices["input"]
    )


def mixed_cost(requests: float, hit_share: float, hit_cost: float, miss_cost: float) -> float:
    """Cost of so many requests of which a share are hits."""
    return requests * (hit_share * hit_cost + (1 - hit_share) * miss_cost)
