"""What a request with given marks will read and write, from what we believe is warm.

The rule: entries of one chain live and die nested, so the chance that the DEEPEST one read is entry i is its
chance minus that of the deeper ones (economics of mark sets: a_i - a_{i+1}). Each such outcome is billed by
the provider's own rule, and the expectation is their mean. Token counts are anchored on entries whose tokens
usage has proved, so an estimate's error counts only past the last proof. It does not choose marks.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from cache.belief import Belief
from cache.economics import TokenSplit, bill
from cache.lookback import reaches
from cache.prompt import Block
from cache.rolling import known_beliefs
from cache.rules import CacheRules


class WarmEntry(NamedTuple):
    """An entry that may be readable now."""

    position: int
    tokens: int
    p_warm: float
    ttl_s: int


class Mark(NamedTuple):
    """A breakpoint as far as the bill is concerned."""

    position: int
    tokens: int
    ttl_s: int


class Outlook(NamedTuple):
    """Expected split of the input, and what it rests on.

    Attributes:
        expected: Mean over the outcomes, rounded to whole tokens.
        cold: Split if nothing is warm.
        p_hit: Chance that anything is read.
        believed: (position, chance) of every entry that the marks reach, deepest first.
        full_read_tokens: Tokens of the deepest of them: what is read when belief holds; 0 without one.
    """

    expected: TokenSplit
    cold: TokenSplit
    p_hit: float
    believed: tuple[tuple[int, float], ...]
    full_read_tokens: int


class TokenCounts:
    """Tokens of each prefix: exact where usage proved them, estimates in between, never decreasing."""

    __slots__ = ("_anchors", "_estimates", "_exact", "known")

    def __init__(self, estimates: Sequence[int], beliefs: Sequence[Belief | None]) -> None:
        anchors: list[int] = []
        exact: list[int] = []
        self.known = known_beliefs(beliefs)
        for position, belief in self.known:
            # A count below a shallower one's contradicts it; both can not be right and the shallower is older
            # news.
            if belief.exact and (not exact or belief.tokens >= exact[-1]):
                anchors.append(position)
                exact.append(belief.tokens)
        self._estimates, self._anchors, self._exact = estimates, anchors, exact

    def at(self, position: int) -> int:
        """Tokens of the prefix ending at `position`."""
        estimate = self._estimates[position]
        if not self._anchors:
            return estimate
        after = bisect_right(self._anchors, position)
        if after:
            anchor = self._anchors[after - 1]
            estimate = self._exact[after - 1] + max(0, estimate - self._estimates[anchor])
        return min(estimate, self._exact[after]) if after < len(self._exact) else estimate

    def is_exact(self, position: int) -> bool:
        """Whether usage proved the count at `position`."""
        after = bisect_right(self._anchors, position)
        return after > 0 and self._anchors[after - 1] == position

    def total(self) -> int:
        """Tokens of the whole prompt, 0 for an empty one."""
        return self.at(len(self._estimates) - 1) if self._estimates else 0


def warm_entries(counts: TokenCounts, now: float) -> list[WarmEntry]:
    """Entries that may be readable at `now`, shallowest first, of the beliefs that `counts` was made from."""
    warm = []
    for position, belief in counts.known:
        p = belief.p_warm(now)
        if p > 0:
            warm.append(WarmEntry(position, counts.at(position), p, belief.ttl_s))
    return warm


def outlook(
    blocks: Sequence[Block],
    marks: Sequence[Mark],
    warm: Sequence[WarmEntry],
    total_tokens: int,
    rules: CacheRules,
) -> Outlook:
    """Expected split of one request's input.

    Args:
        marks: Breakpoints long enough to count, in prompt order.
        warm: As `warm_entries` gives them.
    """
    billed = [(mark.tokens, mark.ttl_s) for mark in marks]
    cold = bill(total_tokens, billed, 0)
    reachable = _reachable(blocks, marks, warm, rules)
    if not reachable:
        return Outlook(cold, cold, 0.0, (), 0)
    read = write_5m = write_1h = taken = 0.0
    for entry in reachable:
        weight = entry.p_warm - taken
        if weight > 0:
            split = bill(total_tokens, billed, entry.tokens)
            read += weight * split.read
            write_5m += weight * split.write_5m
            write_1h += weight * split.write_1h
            taken = entry.p_warm
    # Each part is rounded up at a half, so together they may exceed the whole by a token; the read gives it
    # back.
    write_5m_tokens = int(write_5m + (1 - taken) * cold.write_5m + 0.5)
    write_1h_tokens = int(write_1h + (1 - taken) * cold.write_1h + 0.5)
    read_tokens = min(int(read + 0.5), total_tokens - write_5m_tokens - write_1h_tokens)
    uncached = total_tokens - read_tokens - write_5m_tokens - write_1h_tokens
    return Outlook(
        TokenSplit(read_tokens, write_5m_tokens, write_1h_tokens, uncached),
        cold,
        taken,
        tuple([(entry.position, entry.p_warm) for entry in reachable]),
        reachable[0].tokens,
    )


def implicit_outlook(warm: Sequence[WarmEntry], total_tokens: int, minimum_tokens: int) -> Outlook:
    """The same where the provider caches by itself: entries past the minimum are read, none written."""
    cold = TokenSplit(0, 0, 0, total_tokens)
    reachable = [entry for entry in reversed(warm) if entry.tokens >= minimum_tokens]
    if not reachable:
        return Outlook(cold, cold, 0.0, (), 0)
    read = taken = 0.0
    for entry in reachable:
        if entry.p_warm > taken:
            read += (entry.p_warm - taken) * entry.tokens
            taken = entry.p_warm
    whole = min(int(read + 0.5), total_tokens)
    return Outlook(
        TokenSplit(whole, 0, 0, total_tokens - whole),
        cold,
        taken,
        tuple([(entry.position, entry.p_warm) for entry in reachable]),
        reachable[0].tokens,
    )


def _reachable(
    blocks: Sequence[Block], marks: Sequence[Mark], warm: Sequence[WarmEntry], rules: CacheRules
) -> list[WarmEntry]:
    """Entries some mark finds, deepest first; the nearest mark past an entry decides, others are farther."""
    found: list[WarmEntry] = []
    index = len(marks) - 1
    blind_to = -1  # entries of the current mark's stretch up to this position are out of its sight
    for entry in reversed(warm):
        if index < 0 or entry.position > marks[index].position:
            continue  # past every mark
        while index > 0 and marks[index - 1].position >= entry.position:
            index -= 1
            blind_to = -1
        if entry.position <= blind_to or entry.tokens < rules.minimum_tokens:
            continue
        if reaches(blocks, entry.position, marks[index].position, rules):
            found.append(entry)
        else:
            blind_to = entry.position
    return found
