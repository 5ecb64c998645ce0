"""Sessions as the table a foresight is fitted on and judged by: one row per turn, with what came after it.

The rule: a row holds what was known when its turn ended and what was seen of the time after; what was not seen any more
(the log ends, the trace is cut) is censored, never taken for a session that ended. Rows of one session share its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from classifier.array_file import Array
from classifier.foresight.columns import ACTIVE, active
from classifier.foresight.history import Turn, extended, opus_share
from classifier.foresight.windows import COUNT, EDGES_S

Bools = npt.NDArray[np.bool_]


class Session(NamedTuple):
    """Turns of one session in order of time.

    Attributes:
        until_s: Until when it was watched, on the clock of the turns: the end of the log.
    """

    name: str
    turns: tuple[Turn, ...]
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """n turns.

    Attributes:
        positions: Columns that are on, int ndarray of shape (n, ACTIVE).
        gaps_s: Seconds to the next turn, inf where none was seen; shape (n,).
        watched_s: Seconds after the turn that were watched; shape (n,).
        next_opus: Whether the next turn was on Opus, False where none was seen; shape (n,).
        opus: Whether the turn itself was; shape (n,).
        opus_shares: `history.opus_share` of the turn; shape (n,).
        groups: Number of the session; shape (n,).
        names: Of the sessions, by number.
        places: Number of the turn in its session, from 0; shape (n,).
    """

    positions: npt.NDArray[np.int32]
    gaps_s: Array
    watched_s: Array
    next_opus: Bools
    opus: Bools
    opus_shares: Array
    groups: npt.NDArray[np.int64]
    names: tuple[str, ...]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.gaps_s)

    def at_risk(self, window: int) -> Bools:
        """Rows still quiet when the window begins, of which all of it, or the return in it, was seen."""
        start_s, end_s = EDGES_S[window], EDGES_S[window + 1]
        return (self.gaps_s >= start_s) & ((self.gaps_s < end_s) | (self.watched_s >= end_s))

    def came(self, window: int) -> Bools:
        """Rows whose next turn came before the window's end."""
        return self.gaps_s < EDGES_S[window + 1]

    def windows_of_return(self) -> npt.NDArray[np.int64]:
        """Window of the next turn, `COUNT` where none came before the horizon; shape (n,)."""
        return np.minimum(np.searchsorted(EDGES_S, self.gaps_s, side="right") - 1, COUNT)


def table_of(sessions: Sequence[Session]) -> Table:
    """The table of these sessions, in their order."""
    positions: list[list[int]] = []
    gaps: list[float] = []
    watched: list[float] = []
    following: list[bool] = []
    opus: list[bool] = []
    shares: list[float] = []
    groups: list[int] = []
    places: list[int] = []
    for number, session in enumerate(sessions):
        history = None
        for place, turn in enumerate(session.turns):
            history = extended(history, turn)
            after = session.turns[place + 1] if place + 1 < len(session.turns) else None
            positions.append(active(history))
            gaps.append(inf if after is None else max(0.0, after.time_s - turn.time_s))
            watched.append(max(0.0, session.until_s - turn.time_s))
            following.append(after is not None and after.opus)
            opus.append(turn.opus)
            shares.append(opus_share(history))
            groups.append(number)
            places.append(place)
    return Table(
        positions=np.asarray(positions, dtype=np.int32).reshape(-1, ACTIVE),
        gaps_s=np.asarray(gaps, dtype=np.float64),
        watched_s=np.asarray(watched, dtype=np.float64),
        next_opus=np.asarray(following, dtype=np.bool_),
        opus=np.asarray(opus, dtype=np.bool_),
        opus_shares=np.asarray(shares, dtype=np.float64),
        groups=np.asarray(groups, dtype=np.int64),
        names=tuple(session.name for session in sessions),
        places=np.asarray(places, dtype=np.int64),
    )


def sessions_of(named: Iterable[tuple[str, Turn]], until_s: float | None = None) -> list[Session]:
    """Turns under the names of their sessions, gathered, in order of each session's first turn.

    Args:
        named: In any order.
        until_s: Until when all were watched; None for the last turn's start.
    """
    found: dict[str, list[Turn]] = {}
    for name, turn in named:
        found.setdefault(name, []).append(turn)
    latest_s = max((turn.time_s for turns in found.values() for turn in turns), default=0.0)
    until_s = latest_s if until_s is None else until_s
    sessions = [Session(name, tuple(sorted(turns, key=_start_s)), until_s) for name, turns in found.items()]
    return sorted(sessions, key=lambda session: (session.turns[0].time_s, session.name))


def _start_s(turn: Turn) -> float:
    return turn.time_s
