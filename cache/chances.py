"""How often something that happened was followed by a request, per kind of it.

The rule: a signal (a session was opened, a user did this or that) is awaited for a while; its outcome counts when the
while is over, or at once when the request comes: here both are the same, because one outcome ends the wait and all
waits are equally long. Shares are shrunk to the prior by `WEIGHT` outcomes. Time is passed in; memory is bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable

WEIGHT = 10.0
"""Outcomes the prior counts for."""
FORGETTING = 0.99
SESSION_PRIOR = 0.2
ACTION_PRIOR = 0.2
LISTED_PRIOR = 0.7
"""Chance of a request on Opus after an action the operator listed, before it is seen."""
RETURN_PRIOR = 0.5
"""Chance that a session comes again within five minutes of an answer, before it is seen; times its score."""
BANDS = 5
"""Scores, and chances foreseen, are told apart in so many bands of equal width."""


def band_of(chance: float) -> int:
    """Band of a chance in [0, 1]."""
    return min(BANDS - 1, int(chance * BANDS))


class Chances:
    """Chances of one process. Not thread-safe; time is passed in and never runs backwards."""

    def __init__(self, *, within_s: float, max_waiting: int = 20_000, max_kinds: int = 2_000) -> None:
        """Await each signal for `within_s`."""
        self._within_s = within_s
        self._max_waiting = max_waiting
        self._max_kinds = max_kinds
        self._counts: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        # One entry a signal; the request that follows sets the second element.
        self._waiting: deque[tuple[float, list[bool], Hashable, Hashable]] = deque()
        self._of: dict[Hashable, list[list[bool]]] = {}

    def signal(self, kind: Hashable, whose: Hashable, now: float) -> None:
        """Something of this kind happened; a request by `whose` is awaited."""
        self.close(now)
        if len(self._waiting) >= self._max_waiting:
            return
        outcome = [False]
        self._waiting.append((now, outcome, kind, whose))
        self._of.setdefault(whose, []).append(outcome)

    def followed(self, whose: Hashable, now: float) -> None:
        """A request by `whose` came."""
        self.close(now)
        for outcome in self._of.get(whose, ()):
            outcome[0] = True

    def close(self, now: float) -> None:
        """Count the waits that have ended by `now`."""
        while self._waiting and self._waiting[0][0] + self._within_s <= now:
            _, outcome, kind, whose = self._waiting.popleft()
            seen, came = self._counts.pop(kind, (0.0, 0.0))
            self._counts[kind] = seen * FORGETTING + 1, came * FORGETTING + outcome[0]
            if len(self._counts) > self._max_kinds:
                self._counts.popitem(last=False)
            left = self._of[whose]
            left.remove(outcome)
            if not left:
                del self._of[whose]

    def of(self, kind: Hashable, prior: float) -> float:
        """Chance in (0, 1) that a request follows a signal of this kind in time."""
        seen, came = self._counts.get(kind, (0.0, 0.0))
        return (came + WEIGHT * prior) / (seen + WEIGHT)
