"""The part of `hybrid-router retrain` that fits a foresight: sessions in, a judged candidate in the registry out."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from classifier.foresight.model import Foresight
from classifier.foresight.shelf import shelf_of
from classifier.foresight.table import Session
from classifier.logged import LoggedRequest, SessionSample
from classifier.registry import How, Registry
from router.foresight_log import learnt_online, logged_sessions, trace_sessions
from router.replay_trace import read_trace

if TYPE_CHECKING:
    from classifier.foresight.retraining import Retrained


class Turns:
    """Turns of a log of any length, whole sessions, as many as there is room for."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` turns."""
        self._sample = SessionSample(limit)

    def tapped(self, rows: Iterable[LoggedRequest]) -> Iterator[LoggedRequest]:
        """The same rows, noted as they pass."""
        for row in rows:
            self._sample.offer(msgspec.structs.replace(row, features=""))
            yield row

    def drained(self, rows: Iterable[LoggedRequest]) -> "Turns":
        """Note all rows."""
        for _ in self.tapped(rows):
            pass
        return self

    def sessions(self) -> list[Session]:
        """What was noted, by session."""
        return logged_sessions(self._sample.rows)


def traced(files: Sequence[Path]) -> list[list[Session]]:
    """Sessions of recorded traces, a source each.

    Raises:
        WorkloadError: A file is no trace.
    """
    return [trace_sessions(read_trace(file)) for file in files]


def retrain_foresight(
    sources: Sequence[Sequence[Session]], names: Sequence[str], models: Registry, *, promote: bool, seed: int
) -> tuple["Retrained", dict[str, Any]]:
    """Fit, judge and keep a candidate; give it and its report.

    Raises:
        TooFewTurns: The sessions cannot carry one.
    """
    from classifier.foresight.retraining import Settings, retrain

    shelf = shelf_of(models.path)
    directory = shelf.champion()
    champion = None if directory is None else Foresight.load(directory)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    found = retrain(sources, learnt_online, champion, Settings(seed=seed), created, names)
    with tempfile.TemporaryDirectory(prefix="hybrid-router-") as work:
        found.save(Path(work))
        digest = shelf.add(Path(work))
    if promote and found.passed:
        shelf.promote(digest, now_s=time.time(), how=How.GATE, reason=found.reason)
    return found, found.report | {"promoted": shelf.champion_digest() == digest}


def only_foresight(
    sources: Sequence[Sequence[Session]],
    names: Sequence[str],
    models: Registry,
    *,
    promote: bool,
    seed: int,
    as_json: bool,
) -> int | None:
    """Retrain the foresight alone and say what came of it; give 0, 3 or None for too few turns, told on stderr."""
    from classifier.foresight.retraining import TooFewTurns

    try:
        found, report = retrain_foresight(sources, names, models, promote=promote, seed=seed)
    except TooFewTurns as error:
        typer.echo(f"hybrid-router: {error}", err=True)
        return None
    if as_json:
        print(json.dumps({"foresight": report}))
    else:
        show(report, models.path)
    return 0 if found.passed else 3


def show(report: dict[str, Any], registry: Path) -> None:
    """Print figures, conditions and where the candidate is."""
    console = Console(soft_wrap=True)
    turns = report["turns"]
    console.print(
        f"foresight: fitted on {turns['fit']:,} turns, calibrated on {turns['calibrate']:,}, judged on the newest"
        f" {turns['judge']:,}",
        highlight=False,
    )
    table = Table("", "log-loss, first window", "later windows", "Brier", "calibration error", "AUROC")
    for name, figures in report["figures"].items():
        spans = figures["spans"]
        table.add_row(
            name,
            f"{figures['first_loss']:.4f}",
            f"{figures['later_loss']:.4f}",
            " / ".join([f"{span['brier']:.4f}" for span in spans]),
            " / ".join([f"{span['ece']:.3f}" for span in spans]),
            " / ".join(["-" if span["auroc"] is None else f"{span['auroc']:.3f}" for span in spans]),
        )
    table.caption = "a return on Opus within " + " / ".join(
        [f"{span['span_s']:g} s" for span in report["figures"]["candidate"]["spans"]]
    )
    console.print(table)
    for each in report["conditions"]:
        mark = "passed" if each["passed"] else "FAILED"
        console.print(f"{mark} {each['name']}: {each['figures']}", highlight=False, markup=False)
    what = "is the champion now" if report["promoted"] else "is kept" if report["passed"] else "was refused"
    path = shelf_of(registry).path / report["candidate"]
    console.print(
        f"foresight {report['candidate']} {what}; card and report are in {path}",
        highlight=False,
        markup=False,
    )
