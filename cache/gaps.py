"""Gaps between uses in a bounded histogram that is exact where upkeep is priced.

The rule: "TTL T with at most K keep-alives" depends on a gap only through the instants T + K d and k d
(`cache.economics.renewal_cost`), so a bin edge at each of these loses nothing, however many gaps are counted. Each
gap may carry the tokens that its use would read, because what a conversation would lose grows with it. A use that
had none before it counts as a gap without end. Between two edges the share at the lower one is given: a lower bound.
"""

from bisect import bisect_left, bisect_right
from itertools import accumulate

from cache.economics import ping_spacing_s
from cache.rules import TTL_1H_S, TTL_5M_S

MOST_PRICED_PINGS = 80
"""More than ski rental allows at a read rate of 0.025 (48 for 5 minutes, 78 for 1 hour)."""


def _edges() -> tuple[float, ...]:
    found: set[float] = set()
    for ttl_s in (TTL_5M_S, TTL_1H_S):
        spacing_s = ping_spacing_s(ttl_s)
        for pings in range(MOST_PRICED_PINGS + 1):
            found |= {float(ttl_s + pings * spacing_s), float((pings + 1) * spacing_s)}
    return tuple(sorted(found))


_EDGES = _edges()


class GapDigest:
    """Counts and token sums of gaps, by length; about 330 bins."""

    __slots__ = ("_counts", "_cumulated", "_tokens", "count", "returns", "tokens")

    def __init__(self) -> None:
        self._counts = [0] * (len(_EDGES) + 1)
        self._tokens = [0.0] * (len(_EDGES) + 1)
        self._cumulated: tuple[list[int], list[float]] | None = None
        self.count = 0
        """Gaps counted, those without end included."""
        self.returns = 0
        """Gaps that ended."""
        self.tokens = 0.0
        """Tokens of the gaps that ended."""

    def add(self, gap_s: float | None, tokens: float = 1.0) -> None:
        """Count a gap in seconds, None for one without end; `tokens` would be read at its end."""
        self.count += 1
        if gap_s is None:
            return
        self.returns += 1
        self.tokens += tokens
        position = bisect_left(_EDGES, gap_s)
        self._counts[position] += 1
        self._tokens[position] += tokens
        self._cumulated = None

    def count_within(self, span_s: float) -> int:
        """Gaps of at most `span_s` seconds."""
        ended = bisect_right(_EDGES, span_s)
        return self._sums()[0][ended - 1] if ended else 0

    def tokens_within(self, span_s: float) -> float:
        """Tokens of the gaps of at most `span_s` seconds."""
        ended = bisect_right(_EDGES, span_s)
        return self._sums()[1][ended - 1] if ended else 0.0

    def share_within(self, span_s: float) -> float:
        """F: share of all gaps that are of at most `span_s` seconds, in [0, 1]; 0 when none was counted."""
        return self.count_within(span_s) / self.count if self.count else 0.0

    def _sums(self) -> tuple[list[int], list[float]]:
        if self._cumulated is None:
            self._cumulated = (list(accumulate(self._counts)), list(accumulate(self._tokens)))
        return self._cumulated
