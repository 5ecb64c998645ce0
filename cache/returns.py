"""When a turn that has gone quiet is followed up: the hazard of return in windows of one keep-alive.

The rule: window j is the time from j to j + 1 keep-alive spacings after a turn's start (285 s, for the 5 minute TTL).
Per kind of turn (a path from the general to the special, as in `cache.hazard`) and window: how many were still quiet
when it began, and how many of them came back in it. A special kind's share is shrunk to its parent's by `PSEUDO_COUNT`
turns, the most general to the prior, which stands below any break-even: nothing is spent before evidence.

What a turn wrote is at stake in every longer gap after it, until one of more than an hour loses it. So windows past the
first are also counted for every kind of turn of the conversation since then (`run_hazards`): by them the TTL of what a
turn writes is chosen, while the hazards of the turn itself say how long to keep it now.

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

from cache.blend import Trust
from cache.economics import ping_spacing_s
from cache.hazard import FORGETTING, PSEUDO_COUNT, Path, Run, extend_run
from cache.rules import TTL_1H_S, TTL_5M_S

WINDOW_S = ping_spacing_s(TTL_5M_S)
WINDOWS = 24
"""Two hours: the most keep-alives that ski rental allows at a read rate of 0.05 (23), and one more."""
VERSION_COUNTS = 32
PRIOR_HAZARD = 0.03
"""Below the break-even of a ping at any rate but those under 0.04 (8.7 % at r = 0.1, 4.2 % at 0.05)."""
_PRIOR_LATER = 0.002
"""... and of a window where twelve are bought at once, by a ping of a 1 hour entry (break-even 2.6 % at 0.05) or by the
upgrade ping of a 5 minute one (5.2 %)."""
_PRIORS = (PRIOR_HAZARD,) * 12 + (_PRIOR_LATER,) * (WINDOWS - 12)
_HOUR_PRIORS = (PRIOR_HAZARD,) * 2 + (_PRIOR_LATER,) * (WINDOWS - 2)


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

    key: bytes
    started: float
    path: Path
    run: Run
    gap_s: float | None = None
    reused: bool = True
    foreseen: Sequence[float] = ()


class Returns:
    """Hazards of return of one process. Not thread-safe; time is passed in and never runs backwards."""

    def __init__(self, *, max_cells: int = 5_000, max_waiting: int = 50_000) -> None:
        """Hold at most so many kinds (about 500 bytes each) and quiet turns; what comes beyond is not counted."""
        self._cells: dict[tuple[object, ...], _Cell] = {}
        self._run_cells: dict[tuple[object, ...], _Cell] = {}
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

    def quiet(
        self, key: bytes, path: Path, started: float, foreseen: Sequence[float] = (), *, run: Run = ()
    ) -> None:
        """Begin to wait for the turn after the one known as `key`, which started then.

        Args:
            foreseen: Chance in [0, 1] of a return in each of the `WINDOWS`, given none before it; () for none.
            run: Kinds of the turns before it since the conversation was last lost, as `returned` gave them.
        """
        self.close(started)
        if self._waiting >= self._max_waiting:
            return
        turn = self._quiet[key] = _Quiet(key, started, path, extend_run(run, path), foreseen=_kept(foreseen))
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

    def returned(self, key: bytes, started: float, *, reused: bool = True) -> Run:
        """Note that the turn after `key` started then; nothing for an unknown key.

        Args:
            reused: Whether it went on from what `key` names; a conversation that goes on from elsewhere ends the wait,
                and nothing came of it.

        Returns:
            Kinds of the turns that share the new one's fate: those of `key`, unless more than an hour has passed.
        """
        turn = self._quiet.pop(key, None)
        if turn is None:
            return ()
        turn.gap_s, turn.reused = started - turn.started, reused
        return turn.run if turn.gap_s < TTL_1H_S and reused else ()

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
                for cell in self._of(turn.path, self._cells):
                    cell.count(window, ended and turn.reused)
                for path in turn.run if window else ():
                    for cell in self._of(path, self._run_cells):
                        cell.count(window, ended and turn.reused)
                if ended or window + 1 == WINDOWS:
                    self._waiting -= 1
                    if self._quiet.get(turn.key) is turn:
                        del self._quiet[turn.key]
                else:
                    self._closing[window + 1].append(turn)

    def hazards(self, path: Path, first: int = 0, foreseen: Sequence[float] = ()) -> Sequence[float]:
        """Chance of a return in each window from `first` on, given none before it.

        Args:
            foreseen: As for `quiet`: weighed against what was learnt; () for that alone.
        """
        found = _shrunk(self._cells, path, _PRIORS)
        if foreseen:
            owner, trust = _owner(path), self._trust
            for window in range(first, WINDOWS):
                found[window] = trust.blended(owner, window > 0, foreseen[window], found[window])
        return found[first:]

    def hour_hazards(self, path: Path) -> Sequence[float]:
        """The same for what buys an hour at once: less is expected before evidence."""
        return _shrunk(self._cells, path, _HOUR_PRIORS)

    def run_hazards(self, path: Path) -> Sequence[float]:
        """The same of the longer gaps after such a turn: none of them ends in the first window."""
        found = _shrunk(self._run_cells, path, _HOUR_PRIORS)
        found[0] = 0.0
        return found

    def _learnt(self, path: Path, window: int) -> float:
        """The hazard of one window as learnt here."""
        found = _PRIORS[window]
        for key in path:
            cell = self._cells.get(key)
            if cell is None:
                break
            found = (cell.returned[window] + PSEUDO_COUNT * found) / (cell.quiet[window] + PSEUDO_COUNT)
        return found

    def _of(self, path: Path, cells: dict[tuple[object, ...], _Cell]) -> list[_Cell]:
        found = []
        for key in path:
            cell = cells.get(key)
            if cell is None:
                if len(cells) >= self._max_cells:
                    break
                cell = cells[key] = _Cell()
            found.append(cell)
        return found


def _owner(path: Path) -> Hashable:
    """Whose foresight is weighed together: an application's turns, whatever their kind."""
    return path[-1][0] if path else ""


def _kept(foreseen: Sequence[float]) -> Sequence[float]:
    """The same in a quarter of the memory: there are tens of thousands of them."""
    return array("f", foreseen) if foreseen else ()


def _shrunk(cells: dict[tuple[object, ...], _Cell], path: Path, priors: Sequence[float]) -> list[float]:
    found = list(priors)
    for key in path:
        cell = cells.get(key)
        if cell is None:
            break
        for window in range(WINDOWS):
            found[window] = (cell.returned[window] + PSEUDO_COUNT * found[window]) / (
                cell.quiet[window] + PSEUDO_COUNT
            )
    return found
