"""When a turn that has gone quiet is followed up: the hazard of return in windows of one keep-alive.

The rule: window j is the time from j to j + 1 keep-alive spacings after a turn's start (285 s, for the 5 minute TTL).
Per kind of turn (a path from the general to the special, as in `cache.hazard`) and window: how many were still quiet
when it began, and how many of them came back in it. A special kind's share is shrunk to its parent's by `PSEUDO_COUNT`
turns, the most general to the prior, which stands below any break-even: nothing is spent before evidence.

A window counts when it CLOSES, for those who came back in it and those who did not alike: quick returns are known long
before slow ones, and counted as they come they would make every hazard start too high. Time is passed in; memory is
bounded.

Somebody may foresee a turn's hazards (`quiet`). They are then weighed against what is learnt here, by which of the two
had called the windows of the application that closed (`cache.blend`), the first window apart from the later ones: what
is foreseen wrongly washes out, and without it nothing changes.
"""

from array import array
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cache.blend import Trust
from cache.economics import ping_spacing_s
from cache.hazard import FORGETTING, PSEUDO_COUNT, Path
from cache.rules import TTL_5M_S

WINDOW_S = ping_spacing_s(TTL_5M_S)
WINDOWS = 24
"""Two hours: the most keep-alives that ski rental allows at a read rate of 0.05 (23), and one more."""
VERSION_COUNTS = 32
PRIOR_HAZARD = 0.03
"""Below the break-even of a ping at any rate but those under 0.04 (8.7 % at r = 0.1, 4.2 % at 0.05)."""
_PRIOR_LATER = 0.002
"""... and past the first hour, where one ping of a 1 hour entry buys twelve windows, below that one's (2.6 %)."""
_PRIORS = [PRIOR_HAZARD if window < 12 else _PRIOR_LATER for window in range(WINDOWS)]


class ReturnModel(Protocol):
    """Who comes back when: chance that a conversation goes on, per window of `WINDOW_S` since its last request.

    What decides about keep-alives asks this and nothing else; `Returns` is the one that counts.
    """

    @property
    def version(self) -> int:
        """Grows when hazards have changed enough to be asked again."""

    def quiet(self, key: bytes, path: Path, started: float, foreseen: Sequence[float] = ()) -> None:
        """Begin to wait for the turn after `key`, of which somebody else foresees hazards too, or () for nobody."""

    def returned(self, key: bytes, started: float, *, reused: bool = True) -> None:
        """The conversation of `key` went on then."""

    def close(self, now: float) -> None:
        """Learn what has become known by `now`."""

    def hazards(self, path: Path, first: int = 0, foreseen: Sequence[float] = ()) -> Sequence[float]:
        """Chance of a return in each window from `first` on, given none before it; what is foreseen weighed in."""
        ...


@dataclass(slots=True)
class _Cell:
    quiet: list[float] = field(default_factory=lambda: [0.0] * WINDOWS)
    returned: list[float] = field(default_factory=lambda: [0.0] * WINDOWS)

    def count(self, window: int, returned: bool) -> None:
        self.quiet[window] = self.quiet[window] * FORGETTING + 1
        self.returned[window] = self.returned[window] * FORGETTING + returned


@dataclass(slots=True, eq=False)
class _Quiet:
    """A turn that waits for its next one."""

    started: float
    path: Path
    gap_s: float | None = None
    reused: bool = True
    foreseen: Sequence[float] = ()


class Returns:
    """Hazards of return of one process. Not thread-safe; time is passed in and never runs backwards."""

    def __init__(self, *, max_cells: int = 5_000, max_waiting: int = 50_000) -> None:
        """Hold at most so many kinds (about 500 bytes each) and quiet turns; what comes beyond is not counted."""
        self._cells: dict[tuple[object, ...], _Cell] = {}
        self._max_cells = max_cells
        self._max_waiting = max_waiting
        self._quiet: dict[bytes, _Quiet] = {}
        # Turns enter each window in the order they began, so each queue is in order of its closing times.
        self._closing: list[deque[_Quiet]] = [deque() for _ in range(WINDOWS)]
        self._waiting = 0
        self._counted = 0
        self._trust = Trust()

    @property
    def version(self) -> int:
        """Grows with what was learnt, once for every `VERSION_COUNTS` windows: what was made of hazards may be kept
        until it does."""
        return self._counted // VERSION_COUNTS

    @property
    def waiting(self) -> int:
        """Turns whose windows are open."""
        return self._waiting

    def quiet(self, key: bytes, path: Path, started: float, foreseen: Sequence[float] = ()) -> None:
        """Begin to wait for the turn after the one known as `key`, which started then.

        Args:
            foreseen: Chance in [0, 1] of a return in each of the `WINDOWS`, given none before it; () for none.
        """
        self.close(started)
        if self._waiting >= self._max_waiting:
            return
        turn = self._quiet[key] = _Quiet(started, path, foreseen=_kept(foreseen))
        self._closing[0].append(turn)
        self._waiting += 1

    def foresee(self, key: bytes, foreseen: Sequence[float]) -> None:
        """Put other hazards in the place of those foreseen for `key`; nothing for an unknown key."""
        turn = self._quiet.get(key)
        if turn is not None:
            turn.foreseen = _kept(foreseen)

    def started_s(self, key: bytes) -> float | None:
        """When the turn known as `key` started, None unless it is waited for."""
        turn = self._quiet.get(key)
        return None if turn is None else turn.started

    def foreseen(self, key: bytes) -> Sequence[float]:
        """What is foreseen for `key`, () for nothing."""
        turn = self._quiet.get(key)
        return () if turn is None else turn.foreseen

    def trust(self, path: Path) -> float:
        """How far what is foreseen of such turns is trusted, in (0, 1), for windows after the first."""
        return self._trust.weight(_owner(path), True)

    def returned(self, key: bytes, started: float, *, reused: bool = True) -> None:
        """Note that the turn after `key` started then; nothing for an unknown key.

        Args:
            reused: Whether it went on from what `key` names; a conversation that goes on from elsewhere ends the wait,
                and nothing came of it.
        """
        turn = self._quiet.pop(key, None)
        if turn is not None:
            turn.gap_s, turn.reused = started - turn.started, reused

    def close(self, now: float) -> None:
        """Count the windows that have ended by `now`."""
        for window, closing in enumerate(self._closing):
            end_s = (window + 1) * WINDOW_S
            while closing and closing[0].started + end_s <= now:
                turn = closing.popleft()
                self._counted += 1
                ended = turn.gap_s is not None and turn.gap_s < end_s
                if turn.foreseen:
                    learnt, returned = self._learnt(turn.path, window), ended and turn.reused
                    self._trust.learn(_owner(turn.path), window > 0, turn.foreseen[window], learnt, returned)
                for cell in self._of(turn.path):
                    cell.count(window, ended and turn.reused)
                if ended or window + 1 == WINDOWS:
                    self._waiting -= 1
                else:
                    self._closing[window + 1].append(turn)
        if len(self._quiet) > self._waiting:
            self._forget()

    def hazards(self, path: Path, first: int = 0, foreseen: Sequence[float] = ()) -> Sequence[float]:
        """Chance of a return in each window from `first` on, given none before it.

        Args:
            foreseen: As for `quiet`: weighed against what was learnt; () for that alone.
        """
        found = list(_PRIORS)
        for key in path:
            cell = self._cells.get(key)
            if cell is None:
                break
            for window in range(WINDOWS):
                found[window] = (cell.returned[window] + PSEUDO_COUNT * found[window]) / (
                    cell.quiet[window] + PSEUDO_COUNT
                )
        if foreseen:
            owner, trust = _owner(path), self._trust
            for window in range(first, WINDOWS):
                found[window] = trust.blended(owner, window > 0, foreseen[window], found[window])
        return found[first:]

    def _learnt(self, path: Path, window: int) -> float:
        """The hazard of one window as learnt here."""
        found = _PRIORS[window]
        for key in path:
            cell = self._cells.get(key)
            if cell is None:
                break
            found = (cell.returned[window] + PSEUDO_COUNT * found) / (cell.quiet[window] + PSEUDO_COUNT)
        return found

    def _of(self, path: Path) -> list[_Cell]:
        cells = []
        for key in path:
            cell = self._cells.get(key)
            if cell is None:
                if len(self._cells) >= self._max_cells:
                    break
                cell = self._cells[key] = _Cell()
            cells.append(cell)
        return cells

    def _forget(self) -> None:
        """Drop the keys of turns whose last window has closed."""
        waiting = {id(turn) for closing in self._closing for turn in closing}
        self._quiet = {key: turn for key, turn in self._quiet.items() if id(turn) in waiting}


def _owner(path: Path) -> Hashable:
    """Whose foresight is weighed together: an application's turns, whatever their kind."""
    return path[-1][0] if path else ""


def _kept(foreseen: Sequence[float]) -> Sequence[float]:
    """The same in a quarter of the memory: there are tens of thousands of them."""
    return array("f", foreseen) if foreseen else ()
