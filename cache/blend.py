"""How far a foreseen chance is to be trusted beside the one learnt here: a mixture weighted by what came true.

The rule: per owner and kind of window there is one weight, the chance that the foresight is the better of the two; with
every outcome it is multiplied by how likely each had called it (Bayes), and drawn a little back to the start, so that
neither is ever ruled out. So whatever comes, the mixture's log-loss over n outcomes is at most

    that of either one + ln(1 / its weight at the start) + n x `DRIFT`

and a wrong foresight costs a fraction of a nat, once. An owner that is new begins with what all others have taught. It
does not know who foresees, or how.
"""

from collections import OrderedDict
from collections.abc import Hashable

START = 0.1
"""Weight of a foresight nobody has tried."""
DRIFT = 0.001
"""Share of the weight that returns to the start with every outcome: the last thousand decide."""
_FLOOR = 1e-6
_ALL = ("",)


class Trust:
    """Weights of one process, bounded."""

    def __init__(self, max_owners: int = 2_000) -> None:
        """Start knowing nothing; hold at most so many weights, the longest unused go first."""
        self._weights: OrderedDict[Hashable, float] = OrderedDict()
        self._max_owners = max_owners

    def __len__(self) -> int:
        return len(self._weights)

    def weight(self, owner: Hashable, kind: Hashable) -> float:
        """Weight of the foresight, in (0, 1)."""
        found = self._weights.get((owner, kind))
        return self._weights.get((_ALL, kind), START) if found is None else found

    def blended(self, owner: Hashable, kind: Hashable, foreseen: float, learnt: float) -> float:
        """The mixture of two chances in [0, 1]."""
        weight = self.weight(owner, kind)
        return weight * foreseen + (1.0 - weight) * learnt

    def learn(self, owner: Hashable, kind: Hashable, foreseen: float, learnt: float, came: bool) -> None:
        """Count one outcome of which both had given a chance."""
        for whose in (owner, _ALL):
            weight = self.weight(whose, kind)
            right = weight * _called(foreseen, came)
            total = right + (1.0 - weight) * _called(learnt, came)
            self._weights[whose, kind] = (1.0 - DRIFT) * right / total + DRIFT * START
            self._weights.move_to_end((whose, kind))
        while len(self._weights) > self._max_owners:
            self._weights.popitem(last=False)


def _called(chance: float, came: bool) -> float:
    return max(_FLOOR, chance if came else 1.0 - chance)
