"""What is known of a session when its next request is foreseen: the turns so far, folded into one record.

The rule: `extended(history, turn)` is the only way a history grows, in training as in serving, so that the two cannot
drift apart. A history is a value of a few numbers whatever the session's length; it holds no text and no names. Times
are passed in and only their differences are used.
"""

from collections.abc import Iterable
from math import log1p
from typing import NamedTuple

PAUSE_S = 285.0
"""A gap that a keep-alive would bridge: longer ones are pauses, shorter ones belong to one run."""
RECENT = 0.3
"""Weight of the newest gap in the mean of their logarithms, and of the newest score in the mean of scores."""


class Turn(NamedTuple):
    """One answered request of a session.

    Attributes:
        time_s: Its start, seconds of any clock.
        opus: Whether Opus answered it.
        finish: Why the answer ended, as the ledger spells it ("end_turn", "tool_call", ...); "" unknown.
        score: Chance given beforehand that Opus was needed, None when nothing scored.
        input_tokens: Whole prompt, cached or not; None unknown.
        output_tokens: None unknown.
        duration_s: Seconds the answer took, None unknown.
        application: Name, "" for none.
    """

    time_s: float
    opus: bool
    finish: str = ""
    score: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    duration_s: float | None = None
    application: str = ""


class History(NamedTuple):
    """A session up to and including its last answered turn.

    Attributes:
        turns: Turns so far; of these `opus_turns` on Opus and `pauses` after a gap of `PAUSE_S` or more.
        gap_s: Before the last turn, None for the first; `longest_gap_s` the longest so far.
        log_gap: Running mean of log(1 + gap), 0 before the second turn.
        run: Turns since the last pause, 0 for the turn that ended it.
        finish_before: Finish of the turn before the last, "-" for none.
        added_tokens: By how much the prompt outgrew the last prompt and its answer; None unknown.
        opus_before: Whether Opus answered the turn before the last, None for none.
        score_mean: Running mean of the scores, None before the first.
    """

    turns: int
    opus_turns: int
    pauses: int
    run: int
    last: Turn
    gap_s: float | None = None
    longest_gap_s: float = 0.0
    log_gap: float = 0.0
    finish_before: str = "-"
    added_tokens: int | None = None
    opus_before: bool | None = None
    score_mean: float | None = None


def extended(history: History | None, turn: Turn) -> History:
    """The history with one more turn; None is the history of a session that has none.

    A turn that seems to start before the last one (concurrent requests, clocks) counts as coming at once.
    """
    if history is None:
        return History(1, int(turn.opus), 0, 0, turn, added_tokens=turn.input_tokens, score_mean=turn.score)
    last = history.last
    gap_s = max(0.0, turn.time_s - last.time_s)
    paused = gap_s >= PAUSE_S
    log_gap = log1p(gap_s)
    if history.turns > 1:
        log_gap = (1 - RECENT) * history.log_gap + RECENT * log_gap
    score = history.score_mean
    if turn.score is not None:
        score = turn.score if score is None else (1 - RECENT) * score + RECENT * turn.score
    known = turn.input_tokens is not None and last.input_tokens is not None
    return History(
        history.turns + 1,
        history.opus_turns + turn.opus,
        history.pauses + paused,
        0 if paused else history.run + 1,
        turn,
        gap_s,
        max(history.longest_gap_s, gap_s),
        log_gap,
        last.finish,
        turn.input_tokens - last.input_tokens - (last.output_tokens or 0) if known else None,  # type: ignore[operator]
        last.opus,
        score,
    )


def history_of(turns: Iterable[Turn]) -> History | None:
    """The history of these turns, oldest first; None for none."""
    history = None
    for turn in turns:
        history = extended(history, turn)
    return history


def opus_share(history: History) -> float:
    """Share of its turns that Opus answered, one more on Opus assumed: what is said of the next unless more is known.

    Assumed, because it is asked for the sake of a prefix that was written on Opus.
    """
    return (history.opus_turns + 1) / (history.turns + 1)
