"""Whether to lengthen a shared prefix that is too short to be cached, so that it can be.

The rule: with S shared tokens, P >= minimum with the padding, a hit share h and rates r, w, a use costs P (r h + w (1
- h)) padded. Unpadded it costs S u, where u is what a shared token was seen to cost without padding: 1 where nothing
is cached, less where longer prefixes (a context, a conversation) pass the minimum anyway. So padding pays iff

    h > (w - rho u) / (w - r),    rho = S / P

and never where rho u <= r. Nothing is spent before evidence: `MINIMUM_GAPS` observed gaps. A change ends the reuse of
everything behind the shared layers, so the decision keeps still within `BAND` of break-even and for `HOLD_S` after a
change; what the provider refuses to cache is tried again, ever more rarely. It does not know the text that pads, nor
clocks: instants are passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from cache.economics import Rates
from cache.leader import DISCOUNT, Gaps
from cache.rules import TTL_1H_S, TTL_5M_S

MINIMUM_GAPS = 20
"""Gaps that must have been seen before anything is spent."""
HOLD_S = 3600.0
"""Shortest time between two changes; after a refusal, until the next try, doubling with each."""
RETRY_LIMIT_S = 86_400.0
"""Longest time between two tries of what the provider does not cache."""
BAND = 0.05
"""Hit share by which break-even must be passed before the decision changes."""
TESTS_TO_STOP = 5
"""Padded requests that should have read and did not, all of them, after which padding stops at once: the provider does
not cache the prefix, so there is nothing to lose by stopping."""
_HELD_PRIOR = 5.0
"""Tests the belief counts for that what is written within a TTL is read."""


class PadReason(StrEnum):
    """Why padding stands as it does."""

    REACHES_MINIMUM = "reaches the minimum by itself"
    NEVER_PAYS = "never pays at these prices"
    FILLER_TOO_SHORT = "the filler is too short to reach the minimum"
    TOO_FEW_GAPS = "too few gaps seen"
    NOT_CACHED = "the provider caches nothing in spite of it"
    PAYS = "pays"
    LOSES = "does not pay"
    NEAR_BREAK_EVEN = "stays: too near break-even"
    RECENTLY_CHANGED = "stays: changed within the hour"


class Evidence(NamedTuple):
    """What was observed of one application's shared prefix, old observations discounted.

    Attributes:
        gap_count: Gaps between its uses, not discounted.
        within_5m: Share of them shorter than 5 minutes.
        within_1h: Share of them shorter than 1 hour, at least `within_5m`.
        bare_rate: Units a shared token costs without padding, on average; 1 where nothing is cached.
        held_share: Share of padded uses within a TTL that did read.
        not_cached: Enough padded uses should have read, and none did, or the provider refused every length.
    """

    gap_count: int
    within_5m: float
    within_1h: float
    bare_rate: float = 1.0
    held_share: float = 1.0
    not_cached: bool = False

    def hit_share(self, ttl_s: int) -> float:
        """Share of uses that are hits, in [0, 1], when the prefix is kept so long."""
        return (self.within_1h if ttl_s >= TTL_1H_S else self.within_5m) * self.held_share


class PadSize(NamedTuple):
    """Lengths of the prefix in question, tokens of the model asked.

    Attributes:
        shared_tokens: Without padding.
        padded_tokens: With it; at least `minimum_tokens` when the filler suffices.
        minimum_tokens: The model's minimum.
    """

    shared_tokens: int
    padded_tokens: int
    minimum_tokens: int


class Standing(NamedTuple):
    """How things stand: whether padded, and since when; None: never changed."""

    padded: bool = False
    changed_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PadDecision:
    """Whether to pad, with the figures that say so; `str` gives them in one line.

    Attributes:
        needed_hit_share: Break-even, above 1 where no hit share suffices; None when padding never pays.
        hit_share: Observed; None before any gap.
        ttl_s: Lifetime both are for.
        saving_units: Expected saving of a request in units of one uncached input token, negative when it loses; None
            where it is not known.
    """

    pad: bool
    reason: PadReason
    size: PadSize
    needed_hit_share: float | None
    hit_share: float | None
    gap_count: int
    ttl_s: int
    saving_units: float | None

    def __str__(self) -> str:
        size, needs = self.size, ""
        if self.needed_hit_share is not None:
            needs = f", needs hit share {self.needed_hit_share:.2f}"
            if self.ttl_s != TTL_5M_S:
                needs += f" within {self.ttl_s} s"
            if self.hit_share is not None:
                needs += f", observed {self.hit_share:.2f} over {self.gap_count} gaps"
        verdict = "pad" if self.pad else "leave"
        why = "" if self.reason in (PadReason.PAYS, PadReason.LOSES) else f" ({self.reason.value})"
        return f"padding: {size.shared_tokens:,} of {size.minimum_tokens:,} tokens{needs}: {verdict}{why}"


def needed_hit_share(rates: Rates, ttl_s: int, size: PadSize, bare_rate: float = 1.0) -> float | None:
    """Hit share above which padding pays; None when it never does. Above 1 no hit share suffices.

    With 5 minutes, a bare rate of 1 and P = minimum it is `economics.pad_threshold`.
    """
    bare = size.shared_tokens / size.padded_tokens * bare_rate
    if bare <= rates.read:
        return None
    write = rates.write(ttl_s)
    return (write - bare) / (write - rates.read)


def saving_units(rates: Rates, ttl_s: int, size: PadSize, hit_share: float, bare_rate: float = 1.0) -> float:
    """Expected saving of one request by padding, in units; negative when it loses."""
    padded = rates.read * hit_share + rates.write(ttl_s) * (1 - hit_share)
    return size.shared_tokens * bare_rate - size.padded_tokens * padded


def decide(
    size: PadSize,
    evidence: Evidence,
    standing: Standing,
    *,
    rates: Rates,
    ttls_s: Sequence[int],
    now_s: float,
) -> PadDecision:
    """Decide whether the prefix is padded from now on.

    Args:
        size: With the padding that stands, or the one that would be taken.
        ttls_s: Lifetimes the cache strategy may choose; at least one. The one that saves most counts.
    """
    bare_rate = evidence.bare_rate
    ttl_s = max(
        ttls_s, key=lambda ttl_s: saving_units(rates, ttl_s, size, evidence.hit_share(ttl_s), bare_rate)
    )
    needed = needed_hit_share(rates, ttl_s, size, bare_rate)
    hit_share = evidence.hit_share(ttl_s) if evidence.gap_count else None
    pad, reason = _verdict(size, evidence, standing, needed, hit_share, now_s)
    saving = None
    if reason is PadReason.REACHES_MINIMUM:
        needed = None  # There is nothing to pad.
    elif hit_share is not None:
        saving = saving_units(rates, ttl_s, size, hit_share, bare_rate)
    return PadDecision(
        pad=pad,
        reason=reason,
        size=size,
        needed_hit_share=needed,
        hit_share=hit_share,
        gap_count=evidence.gap_count,
        ttl_s=ttl_s,
        saving_units=saving,
    )


def _verdict(
    size: PadSize,
    evidence: Evidence,
    standing: Standing,
    needed: float | None,
    hit_share: float | None,
    now_s: float,
) -> tuple[bool, PadReason]:
    if evidence.not_cached:
        return False, PadReason.NOT_CACHED
    if not standing.padded:
        if size.shared_tokens >= size.minimum_tokens:
            return False, PadReason.REACHES_MINIMUM
        if needed is None:
            return False, PadReason.NEVER_PAYS
        if size.padded_tokens < size.minimum_tokens:
            return False, PadReason.FILLER_TOO_SHORT
    if hit_share is None or evidence.gap_count < MINIMUM_GAPS:
        return standing.padded, PadReason.TOO_FEW_GAPS
    margin = -inf if needed is None else hit_share - needed
    if size.shared_tokens >= size.minimum_tokens * (1 + BAND):
        margin = -inf  # it has grown, or was underestimated: it can be cached as it is
    pays = margin > 0
    settled = PadReason.PAYS if pays else PadReason.LOSES
    if pays is standing.padded:
        return standing.padded, settled
    if abs(margin) <= BAND:
        return standing.padded, PadReason.NEAR_BREAK_EVEN
    if standing.changed_s is not None and now_s - standing.changed_s < HOLD_S:
        return standing.padded, PadReason.RECENTLY_CHANGED
    return pays, settled


def retry_wait_s(refusal_count: int) -> float:
    """Time from the last of so many refusals in a row, at least one, to the next try."""
    return min(HOLD_S * 2.0 ** min(refusal_count - 1, 16), RETRY_LIMIT_S)


def bare_rate(
    rates: Rates,
    *,
    read_tokens: int,
    write_5m_tokens: int,
    write_1h_tokens: int,
    prefix_tokens: float,
    padding_tokens: float,
    minimum_tokens: int,
    slack: float = 0.05,
) -> float:
    """Units a shared token of one request costs without padding, told from what was billed with or without it.

    Where a prefix longer than the shared one was read or written, and would have reached the minimum without the
    padding, the shared tokens would have been read or written with it.

    Args:
        prefix_tokens: Shared prefix as sent, padding included.
        padding_tokens: Part of it that is padding.
        slack: Relative error of these two.
    """
    deeper = minimum_tokens + padding_tokens
    if padding_tokens:
        deeper = max(deeper, prefix_tokens * (1 + slack))
    if read_tokens and read_tokens >= deeper:
        return rates.read
    if read_tokens + write_5m_tokens + write_1h_tokens >= deeper:
        return rates.write_5m if write_5m_tokens else rates.write_1h
    return 1.0


@dataclass(slots=True)
class Traffic:
    """Running evidence of one application; a dozen numbers, however long it runs."""

    gaps: Gaps = field(default_factory=Gaps)
    gap_count: int = 0
    _rated: float = 0.0
    _rate_sum: float = 0.0
    _tested: float = 0.0
    _held: float = 0.0
    _test_count: int = 0
    _refused: bool = False

    def gap(self, gap_s: float) -> None:
        """Count the time since the use before, in seconds; inf for a prefix not seen lately."""
        self.gaps.add(gap_s)
        self.gap_count += 1

    def rate(self, units: float) -> None:
        """Count what a shared token of one request costs without padding."""
        self._rated = self._rated * DISCOUNT + 1
        self._rate_sum = self._rate_sum * DISCOUNT + units

    def test(self, held: bool) -> None:
        """Count a padded request that should have read the shared prefix."""
        self._tested = self._tested * DISCOUNT + 1
        self._held = self._held * DISCOUNT + held
        self._test_count += 1

    def refuse(self) -> None:
        """Note that the provider does not cache the padded prefix, however long it was made."""
        self._refused = True

    def forget_tests(self) -> None:
        """Try again: what was seen of padded requests is forgotten, a refusal with it."""
        self._tested = self._held = 0.0
        self._test_count = 0
        self._refused = False

    def evidence(self) -> Evidence:
        """The sums as shares."""
        seen = self.gaps.seen or 1.0
        return Evidence(
            gap_count=self.gap_count,
            within_5m=self.gaps.within_5m / seen,
            within_1h=self.gaps.within_1h / seen,
            bare_rate=self._rate_sum / self._rated if self._rated else 1.0,
            held_share=(self._held + _HELD_PRIOR) / (self._tested + _HELD_PRIOR),
            not_cached=self._refused or (self._test_count >= TESTS_TO_STOP and self._held == 0.0),
        )
