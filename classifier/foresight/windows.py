"""Time after a turn, cut into windows, and chances over any span of it.

The rule: a forecast is a hazard per window: the chance that the session's next request comes in it, given that none has
come before. Within a window the hazard is spread evenly (requests come at a constant rate there), so a chance over any
span follows, is never below that of a shorter one, and chances over spans laid end to end agree with the whole. Past
`HORIZON_S` nothing is foreseen: such returns count as none.

The windows are those of a keep-alive (285 s, as `cache.returns` counts them; a test holds them equal), the first cut at
a minute, because what answers within a minute is of another kind: tools.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

FINE_S: Final = 60.0
WINDOW_S: Final = 285.0
WINDOWS: Final = 24
EDGES_S: Final = (0.0, FINE_S, *(WINDOW_S * number for number in range(1, WINDOWS + 1)))
"""Where windows begin, and where the last one ends."""
COUNT: Final = len(EDGES_S) - 1
HORIZON_S: Final = EDGES_S[-1]
GROUPS: Final = (0, 1, 2, 2, 3, 3, 3, 3, 3, *(4,) * (COUNT - 9))
"""Window -> the group of windows it shares its weights with: late ones are too rarely seen for weights of their own."""
GROUP_COUNT: Final = GROUPS[-1] + 1


def window_of(time_s: float) -> int:
    """Window that `time_s` >= 0 after the turn falls into; `COUNT` past the horizon."""
    return bisect_right(EDGES_S, time_s) - 1


def chance_within(
    hazards: Sequence[float], shares: Sequence[float], span_s: float, idle_s: float = 0.0
) -> float:
    """Chance in [0, 1] that the next request comes within `span_s` and goes to Opus, given none for `idle_s`.

    Args:
        hazards: One per window, in [0, 1].
        shares: One per window: chance that a request that comes in it goes to Opus.
        span_s: Seconds from now on, >= 0.
        idle_s: Seconds since the turn began, >= 0.
    """
    end_s, total, quiet = min(idle_s + span_s, HORIZON_S), 0.0, 1.0
    for window in range(window_of(idle_s), COUNT):
        start_s = EDGES_S[window]
        if start_s >= end_s:
            break
        left = quiet * _still(hazards[window], window, min(EDGES_S[window + 1], end_s) - max(idle_s, start_s))
        total += (quiet - left) * shares[window]
        quiet = left
    return min(1.0, max(0.0, total))


def keep_alive_hazards(
    hazards: Sequence[float], shares: Sequence[float], ahead_s: float = 0.0
) -> tuple[float, ...]:
    """Hazards of a return on Opus in `WINDOWS` windows of `WINDOW_S`, given no request before each.

    Args:
        ahead_s: How long before the turn the first of them begins, >= 0: a turn on Flash is foreseen from its own
            start, the prefix on Opus was used before it.
    """
    if ahead_s == 0.0:
        first = hazards[0] * shares[0] + (1.0 - hazards[0]) * hazards[1] * shares[1]
        return (first, *[hazard * share for hazard, share in zip(hazards[2:], shares[2:], strict=True)])
    found = []
    for window in range(WINDOWS):
        start_s, end_s = max(0.0, window * WINDOW_S - ahead_s), (window + 1) * WINDOW_S - ahead_s
        found.append(0.0 if end_s <= 0.0 else chance_within(hazards, shares, end_s - start_s, start_s))
    return tuple(found)


def _still(hazard: float, window: int, span_s: float) -> float:
    """Share of those quiet within a window that are still so `span_s` later in it."""
    return float((1.0 - hazard) ** (span_s / (EDGES_S[window + 1] - EDGES_S[window])))
