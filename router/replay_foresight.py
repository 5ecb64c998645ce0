"""A foresight for a replay: one that was trained, or one fitted on a first part of the very trace, judged on the rest.

The rule: what is judged comes after all of what was fitted on. All policies serve the whole trace, so what is learnt
online has seen the first part as well; the foresight says nothing before the cut, and figures are of the rest alone.
Sessions that the cut goes through were watched until there. Where a trace holds several recordings without a common
clock, the cut falls between two of them. A fifth of the first part's sessions, drawn by name, bends the sigmoids.
Equal rows give an equal foresight.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from classifier.foresight.model import Foresight
from router.replay_trace import TraceRow

BEND_SHARE = 0.2
"""Of the sessions of the first part."""
LEAST_SESSIONS = 60
"""Sessions of two turns or more that it takes, as for `retrain`."""


class Cut(NamedTuple):
    """Where the first part ends.

    Attributes:
        begins: Namespace and time of the first row that is judged.
        rows: Rows before it.
        requests: Requests to Opus before it; likewise after it.
    """

    begins: tuple[str, float]
    rows: int
    requests: int
    judged: int

    def judges(self, row: TraceRow) -> bool:
        """Whether this row is in the part that is judged."""
        return (row.namespace, row.time_s) >= self.begins


def cut_at(rows: Sequence[TraceRow], share: Fraction) -> Cut:
    """Cut a trace after `share` of its rows, or at the next recording.

    Args:
        rows: In the order they are served.

    Raises:
        ValueError: Nothing is left on one side.
    """
    place = int(len(rows) * share)
    if rows and rows[0].namespace != rows[-1].namespace:
        while place < len(rows) and rows[place].namespace == rows[place - 1].namespace:
            place += 1
    else:
        while 0 < place < len(rows) and rows[place].time_s == rows[place - 1].time_s:
            place += 1
    requests = sum(row.billed for row in rows[:place])
    judged = sum(row.billed for row in rows[place:])
    if not requests or not judged:
        raise ValueError("--fit-foresight: the cut leaves no request to fit on, or none to judge by")
    return Cut((rows[place].namespace, rows[place].time_s), place, requests, judged)


def fitted_on(rows: Sequence[TraceRow], source: str) -> Foresight:
    """A foresight fitted on these rows.

    Args:
        rows: In the order they are served.
        source: What they are, for people.

    Raises:
        ValueError: They hold too few sessions that went on.
    """
    # numpy, and what trains: only who fits waits for them.
    from classifier.foresight import artifact as artifacts
    from classifier.foresight.columns import COLUMN_VERSION
    from classifier.foresight.fitting import RIDGE, bent, fitted
    from classifier.foresight.retraining import routes_known
    from classifier.foresight.table import table_of
    from router.foresight_log import trace_sessions

    sessions = trace_sessions(rows)
    several = sum(len(session.turns) > 1 for session in sessions)
    if several < LEAST_SESSIONS:
        raise ValueError(
            f"--fit-foresight: needs at least {LEAST_SESSIONS} sessions of two turns or more before the cut, there "
            f"are {several}"
        )
    bend = max(1, int(len(sessions) * BEND_SHARE))
    table = table_of(sessions[:-bend])
    manifest = artifacts.Manifest(
        format=artifacts.FORMAT,
        schema_version=artifacts.SCHEMA_VERSION,
        column_version=COLUMN_VERSION,
        created_time="1970-01-01T00:00:00Z",  # it is not kept, and equal rows give an equal name
        settings={"ridge": RIDGE, "bend_share": BEND_SHARE},
        sources=[source],
        data_digest="",
        turns=len(table),
        sessions=len(table.names),
        routes_known=routes_known(table),
        metrics={},
    )
    return Foresight(artifacts.made(manifest, bent(fitted(table), table_of(sessions[-bend:]))))
