"""How likely a turn is followed up, learnt per kind of turn from windows that have closed.

The rule: each kind of turn (a path from the general to the special) has a cell with two counts of outcomes, and
a special cell is worth as much as it has seen: its shares are shrunk to its parent's by `PSEUDO_COUNT`
observations, the most general to the prior. The two outcomes are

    5 minutes   the next use of what this turn added came within 5 minutes of its start
    1 hour      the first gap of more than 5 minutes after it, however many short ones come before, ended within
                the hour; a part written for an hour pays exactly then, and one written for 5 minutes is lost

Both are counted when their window CLOSES. A quick return is known minutes before a slow one and an hour before
none at all, so counting outcomes as they come would make every share start too high. It does not know prompts,
clocks or prices.
"""

from collections.abc import Iterable
from dataclasses import dataclass

PSEUDO_COUNT = 25.0
"""Outcomes a parent's share counts for in its child; below about 25 observations the parent decides."""
FORGETTING = 0.999
"""Weight an outcome keeps after the next one of its cell: the last thousand decide."""
MAX_RUN_CONTEXTS = 64
"""Kinds of turn one run of short gaps remembers; longer runs repeat the same few."""

Path = tuple[tuple[object, ...], ...]
"""Kind of a turn as keys of cells, from the most general to the most special."""


@dataclass(slots=True)
class Cell:
    """Outcomes of one kind of turn, the older the less they weigh."""

    windows_5m: float = 0.0
    returns_5m: float = 0.0
    windows_1h: float = 0.0
    returns_1h: float = 0.0


class Shares:
    """Shares of every kind of turn seen, within a bound."""

    __slots__ = ("_cells", "_max_cells", "_paths")

    def __init__(self, max_cells: int = 20_000) -> None:
        """Hold at most `max_cells`; kinds that come later are counted with their parents only."""
        self._cells: dict[tuple[object, ...], Cell] = {}
        self._max_cells = max_cells
        self._paths: dict[Path, Path] = {}

    def kept(self, path: Path) -> Path:
        """An equal path, the same object each time while there is room: a million turns share a few hundred."""
        if len(self._paths) >= self._max_cells:
            return self._paths.get(path, path)
        return self._paths.setdefault(path, path)

    def __len__(self) -> int:
        return len(self._cells)

    def of(self, path: Path, p_5m: float, p_later: float) -> tuple[float, float]:
        """(share within 5 minutes, share of the later within the hour) for turns of this kind.

        Args:
            p_5m: Prior share within 5 minutes.
            p_later: Prior share of first longer gaps that end within the hour.
        """
        get = self._cells.get
        for key in path:
            cell = get(key)
            if cell is None:
                break  # no turn of this kind, so none of a more special one
            p_5m = (cell.returns_5m + PSEUDO_COUNT * p_5m) / (cell.windows_5m + PSEUDO_COUNT)
            p_later = (cell.returns_1h + PSEUDO_COUNT * p_later) / (cell.windows_1h + PSEUDO_COUNT)
        return p_5m, p_later

    def close_5m(self, path: Path, reused: float) -> None:
        """Count a 5 minute window; `reused` in [0, 1] is the share of what the turn added that was used again."""
        for cell in self._of(path):
            cell.windows_5m = cell.windows_5m * FORGETTING + 1
            cell.returns_5m = cell.returns_5m * FORGETTING + reused

    def close_1h(self, run: "Run", last: Path, reused: float | None) -> None:
        """Count the gap that ended a run, once for every kind of turn in it.

        Args:
            last: Kind of the run's last turn.
            reused: Share in [0, 1] of what that turn added that was used again within the hour; what the turns
                before it added was used with it. None if the hour passed without a return.
        """
        for path in run:
            returned = 0.0 if reused is None else reused if path == last else 1.0
            for cell in self._of(path):
                cell.windows_1h = cell.windows_1h * FORGETTING + 1
                cell.returns_1h = cell.returns_1h * FORGETTING + returned

    def _of(self, path: Path) -> Iterable[Cell]:
        cells = self._cells
        for key in path:
            cell = cells.get(key)
            if cell is None:
                if len(cells) >= self._max_cells:
                    return
                cell = cells[key] = Cell()
            yield cell


Run = tuple[Path, ...]
"""Kinds of the turns since the last gap of more than 5 minutes: they share the fate of the next such gap."""


def extend_run(run: Run, path: Path) -> Run:
    """The run with one more turn; kinds past `MAX_RUN_CONTEXTS` are not noted."""
    if path in run or len(run) >= MAX_RUN_CONTEXTS:
        return run
    return (*run, path)
