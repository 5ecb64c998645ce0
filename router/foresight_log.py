"""Sessions out of a log or a trace, and what the router learns of them online: for training and judging foresights.

The rule: a row is a turn, a session is what the caller named so; requests without a session come back to nothing that
could be told and are left out. What is learnt online is learnt by the service's own code (`cache.returns`), request by
request in order of time, so a foresight is judged against what it would really take the place of.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from zlib import crc32

import numpy as np
import numpy.typing as npt

from cache.hazard import Path
from cache.returns import WINDOWS, Returns
from classifier.foresight.history import Turn
from classifier.foresight.table import Session, sessions_of
from classifier.logged import LoggedRequest
from router.call import FinishReason
from router.replay_trace import TraceRow

NAMESPACE_GAP_S = 3600.0
"""Recordings without a common clock are laid one after another, an hour apart, as in a replay."""
TRACE_END_S = 7200.0
"""How long recorded agents are known to have been silent at the end: they were cut where idle for a day."""

_STOPS = {"tool_use": FinishReason.TOOL_CALL.value, "end_turn": FinishReason.END_TURN.value}


def turn_of_logged(row: LoggedRequest) -> Turn:
    """A logged request as a turn."""
    return Turn(
        time_s=row.time_s,
        opus=row.opus if row.answered_opus is None else row.answered_opus,
        finish=row.finish,
        score=row.score,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        duration_s=row.duration_s,
        application=row.application,
    )


def logged_sessions(rows: Iterable[LoggedRequest]) -> list[Session]:
    """Sessions of logged requests, in order of their first turn; watched until the last request of all."""
    named, latest_s = [], 0.0
    for row in rows:
        latest_s = max(latest_s, row.time_s)
        if not row.session.startswith("request/"):
            named.append((row.session, turn_of_logged(row)))
    return sessions_of(named, latest_s)


def turn_of_row(row: TraceRow, time_s: float) -> Turn:
    """A recorded request as a turn that starts then.

    Those that do not name their route are taken for Opus: who recorded them chose the model by hand, and nothing of a
    router's choice is in them. Chat that records neither models nor stop reasons is taken to have ended its turns.
    """
    stop = _STOPS.get(row.stop, row.stop)
    return Turn(
        time_s=time_s,
        opus=row.opus,
        finish=stop or ("" if row.kind else FinishReason.END_TURN.value),
        score=row.score,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        duration_s=row.answered_s,
    )


def trace_sessions(rows: Sequence[TraceRow]) -> list[Session]:
    """Sessions of a trace, in the order of the hash of their names.

    A conversation is a stream of a session. One namespace alone was watched until its last request; where there are
    several, each is the recording of one session to its end. The order in which recordings are numbered means nothing,
    and the last sessions of a short window are cut shortest, so what is held out is drawn, not the end.

    Args:
        rows: In the order in which they are served (`replay_trace.in_order`); events are no turns.
    """
    rows = [row for row in rows if not row.event]
    named, ends, offset_s, latest_s = [], dict[str, float](), 0.0, 0.0
    alone = len({row.namespace for row in rows}) == 1
    for namespace, group in groupby(rows, key=lambda row: row.namespace):
        for place, row in enumerate(group):
            if not place:
                offset_s = latest_s + NAMESPACE_GAP_S + TRACE_END_S - row.time_s if ends else -row.time_s
            latest_s = offset_s + row.time_s
            named.append((f"{namespace}/{row.session}/{row.stream}", turn_of_row(row, latest_s)))
            ends[f"{namespace}/{row.session}/{row.stream}"] = latest_s
    found = [
        session._replace(until_s=latest_s if alone else ends[session.name] + TRACE_END_S)
        for session in sessions_of(named)
    ]
    return sorted(found, key=lambda session: crc32(session.name.encode()))


def learnt_online(
    sessions: Sequence[Session], foreseen: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """What the router would give as hazards of a return on Opus at the start of each turn.

    Args:
        sessions: In any order; turns in order of time.
        foreseen: Hazards foreseen for each turn, shape (turns, `WINDOWS`), rows of NaN for none; None for no foresight.

    Returns:
        Shape (turns, `WINDOWS`), turns session after session as given.
    """
    events = []
    number = 0
    for session in sessions:
        before: Turn | None = None
        last: int | None = None
        for place, turn in enumerate(session.turns):
            if turn.opus:
                events.append((turn.time_s, number, last, _path(turn, before, place + 1)))
                last = number
            before = turn
            number += 1
    found = np.full((number, WINDOWS), 0.5)
    returns = Returns(max_waiting=len(events) + 1)
    for time_s, row, last, path in sorted(events, key=lambda event: event[:2]):
        if last is not None:
            returns.returned(last.to_bytes(8, "big"), time_s)
        own: Sequence[float] = ()
        if foreseen is not None and not np.isnan(foreseen[row, 0]):
            own = foreseen[row].tolist()
        returns.quiet(row.to_bytes(8, "big"), path, time_s, own)
        found[row] = returns.hazards(path, 0, own)
    return found


def _path(turn: Turn, before: Turn | None, number: int) -> Path:
    """Kind of a turn as `router.warming` has it; a turn after a tool call brings its results."""
    loop = before is not None and before.finish == FinishReason.TOOL_CALL.value
    place = "tool loop" if loop else f"turn {min(number, 4)}"
    return (("", place), (turn.application, place)) if turn.application else (("", place),)
