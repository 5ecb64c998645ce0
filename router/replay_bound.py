"""The least any caching without keep-alives could have cost on a trace: a bound that knows the future.

The rule: every block of the trace is decided by itself, with its whole future known. At each use it is paid uncached,
written for 5 minutes or for an hour, or, while it lives, read and prolonged; the cheapest course is found by
carrying the least cost of being in each of three states (not cached, for 5 minutes, for an hour) from use to use. What
ties blocks together in a real cache (four breakpoints, entries that need those before them, a minimum for each) only
costs more, so no policy is below; a request under the minimum cannot touch a cache at all.

Blocks used alike are kept as one stretch of ids, so time and memory go with what differs, not with tokens. It bounds
the input's cost in units of one uncached token; it does not know keep-alives, which could be cheaper still, nor money.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from cache.economics import Rates
from cache.rules import TTL_1H_S, TTL_5M_S
from router.replay_trace import TraceRow

_SWEEP_AT = 4096
"""Stretches after which those that have lapsed for good are looked for; doubled when most live."""
_ROUND = 9
"""Decimals to which states are told apart: sums of rates differ by rounding only beyond."""


class _State(NamedTuple):
    """Blocks last used at `time_s`, and what each state costs more than the cheapest."""

    time_s: float
    uncached: float
    for_5m: float
    for_1h: float


class ClairvoyantBound:
    """Sums over requests given in the order of their time within each namespace."""

    def __init__(self, minimum_tokens: int, rates: Rates) -> None:
        """Start with nothing used; a prompt of fewer than `minimum_tokens` is never cached."""
        self._minimum_tokens = minimum_tokens
        self._rates = rates
        self._namespace: str | None = None
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._states: list[_State] = []
        self._sweep_at = _SWEEP_AT
        self._units = 0.0

    @property
    def units(self) -> float:
        """The bound on all requests so far, in units of one uncached input token."""
        return self._units

    def add(self, row: TraceRow) -> None:
        """Take one more request."""
        if row.namespace != self._namespace:
            self._namespace = row.namespace
            self._starts, self._ends, self._states = [], [], []
        whole = row.whole_blocks
        if whole * row.block_tokens < self._minimum_tokens:
            self._units += row.input_tokens
            return
        self._units += row.input_tokens - whole * row.block_tokens
        left = whole
        for first, count in row.runs:
            taken = min(count, left)
            if taken:
                self._use(first, first + taken, row.time_s, row.block_tokens)
            left -= taken
        if len(self._starts) > self._sweep_at:
            self._sweep(row.time_s)

    def _use(self, start: int, end: int, now_s: float, block_tokens: int) -> None:
        """Every block with an id in [start, end) is used at `now_s`."""
        starts, ends, states = self._starts, self._ends, self._states
        low = bisect_right(starts, start)
        if low and ends[low - 1] > start:
            low -= 1
        high, position = low, start
        new: list[tuple[int, int, _State]] = []
        while high < len(starts) and starts[high] < end:
            if starts[high] < start:
                new.append((starts[high], start, states[high]))
            if starts[high] > position:
                self._used(new, position, starts[high], None, now_s, block_tokens)
            position = max(position, starts[high])
            until = min(ends[high], end)
            self._used(new, position, until, states[high], now_s, block_tokens)
            if ends[high] > end:
                new.append((end, ends[high], states[high]))
            position = until
            high += 1
        if position < end:
            self._used(new, position, end, None, now_s, block_tokens)
        starts[low:high] = [each[0] for each in new]
        ends[low:high] = [each[1] for each in new]
        states[low:high] = [each[2] for each in new]

    def _used(
        self,
        new: list[tuple[int, int, _State]],
        start: int,
        end: int,
        before: _State | None,
        now_s: float,
        block_tokens: int,
    ) -> None:
        """Append [start, end) after its use, joined with the stretch before it where both are alike now."""
        least, state = _after(before, now_s, self._rates)
        self._units += least * (end - start) * block_tokens
        if new and new[-1][1] == start and new[-1][2] == state:
            new[-1] = (new[-1][0], end, state)
        else:
            new.append((start, end, state))

    def _sweep(self, now_s: float) -> None:
        """Forget blocks unused for an hour: whatever state they were in, it is over, as if never used."""
        kept = [place for place, state in enumerate(self._states) if now_s - state.time_s < TTL_1H_S]
        self._starts = [self._starts[place] for place in kept]
        self._ends = [self._ends[place] for place in kept]
        self._states = [self._states[place] for place in kept]
        self._sweep_at = max(_SWEEP_AT, 2 * len(kept))


def _after(before: _State | None, now_s: float, rates: Rates) -> tuple[float, _State]:
    """Least cost of one token's use, and the states after it relative to that."""
    base = 0.0  # the cheapest state is at 0, and to be uncached or written anew is open to all
    uncached, for_5m, for_1h = base + 1, base + rates.write_5m, base + rates.write_1h
    if before is not None:
        gap_s = now_s - before.time_s
        if gap_s < TTL_5M_S:
            for_5m = min(for_5m, before.for_5m + rates.read)
        if gap_s < TTL_1H_S:
            for_1h = min(for_1h, before.for_1h + rates.read)
    least = min(uncached, for_5m, for_1h)
    return least, _State(
        now_s, round(uncached - least, _ROUND), round(for_5m - least, _ROUND), round(for_1h - least, _ROUND)
    )


def clairvoyant_units(rows: Sequence[TraceRow], minimum_tokens: int, rates: Rates) -> float:
    """The bound on a whole trace."""
    bound = ClairvoyantBound(minimum_tokens, rates)
    for row in rows:
        bound.add(row)
    return bound.units
