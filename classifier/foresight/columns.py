"""A history as columns that are on or off: what a foresight is linear in.

The rule: every figure is cut into bins (octaves, for what spans orders of magnitude) and has exactly one bin on, a bin
of its own where it is unknown. So a row is a handful of positions, a forecast is a sum of as many weights, nothing can
be out of range, and an unknown figure weighs what unknown figures have weighed. A change of this list is a new
`COLUMN_VERSION`: stored models are refused rather than misread.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from classifier.foresight.history import History

COLUMN_VERSION: Final = 1

_FINISHES: Final = {"": 0, "end_turn": 1, "tool_call": 2, "max_tokens": 3}
_OTHER_FINISH: Final = 4
_NO_TURN: Final = 5
_GAPS_S: Final = (5.0, 15.0, 60.0, 285.0, 900.0, 3600.0)
_LOG_GAPS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
_TURNS: Final = (2, 3, 4, 6, 10, 18, 34, 66)
_RUNS: Final = (1, 2, 4, 8, 16, 32)
_PAUSES: Final = (1, 2, 4, 8)
_PAUSE_SHARES: Final = (0.05, 0.1, 0.2, 0.4)
_INPUT: Final = tuple(2**octave for octave in range(10, 18))
_ADDED: Final = (0, *(2**octave for octave in range(6, 16)))
_OUTPUT: Final = tuple(2**octave for octave in range(4, 13))
_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_SCORES: Final = (0.1, 0.25, 0.5, 0.75)
_OPUS_SHARES: Final = (0.05, 0.5, 0.95)
_APPLICATIONS: Final = 16
"""Buckets of hashed names: a service has a handful, and one that was never seen weighs nothing."""

_PARTS: Final[tuple[tuple[str, int], ...]] = (
    ("finish", 5),
    ("finish_before", 6),
    ("finish_and_before", 30),
    ("finish_by_turn", 20),
    ("turns", len(_TURNS) + 1),
    ("gap", len(_GAPS_S) + 2),
    ("longest_gap", len(_GAPS_S) + 2),
    ("mean_gap", len(_LOG_GAPS) + 2),
    ("pauses", len(_PAUSES) + 1),
    ("pause_share", len(_PAUSE_SHARES) + 2),
    ("run", len(_RUNS) + 1),
    ("input", len(_INPUT) + 2),
    ("added", len(_ADDED) + 2),
    ("output", len(_OUTPUT) + 2),
    ("seconds", len(_SECONDS) + 2),
    ("score", len(_SCORES) + 2),
    ("score_mean", len(_SCORES) + 2),
    ("route", 2),
    ("route_before", 3),
    ("opus_share", len(_OPUS_SHARES) + 1),
    ("application", _APPLICATIONS + 1),
)


def _offsets() -> tuple[int, ...]:
    found, at = [], 0
    for _, size in _PARTS:
        found.append(at)
        at += size
    return (*found, at)


_AT: Final = _offsets()
COLUMNS: Final[tuple[str, ...]] = tuple(f"{name} {place}" for name, size in _PARTS for place in range(size))
"""Name of every column."""
ACTIVE: Final = len(_PARTS)
"""Columns that are on in every row."""


def active(history: History) -> list[int]:
    """Positions of the columns that are on, ascending; always `ACTIVE` of them."""
    last, turns = history.last, history.turns
    finish = _FINISHES.get(last.finish, _OTHER_FINISH)
    first = turns == 1
    before = _NO_TURN if first else _FINISHES.get(history.finish_before, _OTHER_FINISH)
    past = turns - 1
    name = last.application
    bins = (
        finish,
        before,
        6 * finish + before,
        4 * finish + min(past, 3),
        bisect_right(_TURNS, turns),
        0 if first else 1 + bisect_right(_GAPS_S, history.gap_s or 0.0),
        0 if first else 1 + bisect_right(_GAPS_S, history.longest_gap_s),
        0 if first else 1 + bisect_right(_LOG_GAPS, history.log_gap),
        bisect_right(_PAUSES, history.pauses),
        0 if first else 1 + bisect_right(_PAUSE_SHARES, history.pauses / past),
        bisect_right(_RUNS, history.run),
        _known(_INPUT, last.input_tokens),
        _known(_ADDED, history.added_tokens),
        _known(_OUTPUT, last.output_tokens),
        _known(_SECONDS, last.duration_s),
        _known(_SCORES, last.score),
        _known(_SCORES, history.score_mean),
        int(last.opus),
        2 if history.opus_before is None else int(history.opus_before),
        bisect_right(_OPUS_SHARES, history.opus_turns / turns),
        1 + crc32(name.encode()) % _APPLICATIONS if name else 0,
    )
    return [at + found for at, found in zip(_AT, bins, strict=False)]


def _known(edges: Sequence[float], value: float | None) -> int:
    """Bin 0 for unknown, else 1 + the bin among `edges`."""
    return 0 if value is None else 1 + bisect_right(edges, value)
