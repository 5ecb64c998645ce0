"""`hybrid-router retrain`: outcomes of production in, a judged candidate out, in one command."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from classifier import dataset as datasets
from classifier.consent import last_taken_back
from classifier.dataset import Dataset
from classifier.encoder import Embedder, load_encoder
from classifier.logged import MAX_ROWS, Collected, LoggedRequest, collect
from classifier.model import Model
from classifier.registry import How, Registry, RegistryError
from router.cli.instant import epoch_s
from router.cli.place import LedgerOption, place_asked
from router.cli.retrain_foresight import Turns, only_foresight, retrain_foresight, traced
from router.cli.retrain_foresight import show as show_foresight
from router.cli.train import SEED_LABELS
from router.config import ConfigError, load_config
from router.training_log import from_ledger, from_parquet, write_parquet

if TYPE_CHECKING:
    from classifier.retraining import Retrained, RetrainingSettings

REFUSED = 3
"""Exit code when a candidate was made and the gate refused it."""
TOO_FEW = 4
"""Exit code when the log has too few outcomes to make one."""

PRODUCTION = "production"
"""What a foresight's card calls the sessions of a log."""

DEFAULT_REGISTRY = Path("var/models")


class Part(StrEnum):
    """What may be retrained by itself."""

    CLASSIFIER = "classifier"
    FORESIGHT = "foresight"


def retrain(
    ledger: LedgerOption = None,
    parquet: Annotated[
        list[Path] | None, typer.Option(help="Read rows from this Parquet file instead; repeatable.")
    ] = None,
    registry: Annotated[
        Path | None, typer.Option(help="Directory of the models; default: the settings', else var/models.")
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="Labels to fit on beside the outcomes, repeatable; default: the shipped ones."),
    ] = None,
    base_weight: Annotated[
        float, typer.Option(min=0.0, help="Weight of these labels against an outcome; 0 leaves them out.")
    ] = 0.25,
    since: Annotated[
        str, typer.Option(help="Requests from this time on: 2026-11-22 or ...T10:00, UTC.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    half_life_days: Annotated[
        float | None, typer.Option(min=0.01, help="Age at which an outcome counts half; default: never.")
    ] = None,
    least_outcomes: Annotated[int, typer.Option(min=20, help="Outcomes of each label it takes.")] = 80,
    max_rows: Annotated[
        int, typer.Option(min=1_000, help="Most rows kept in memory, of each sort; whole sessions are drawn.")
    ] = MAX_ROWS,
    cost_tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Change of cost that counts as equal, as a share.")
    ] = 0.02,
    keep_threshold: Annotated[
        bool,
        typer.Option(
            "--keep-threshold",
            help="Let the candidate suggest what training does, not the threshold of equal cost.",
        ),
    ] = False,
    always_valid: Annotated[
        bool, typer.Option("--always-valid", help="Bounds that hold however often you look (wider).")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The default settings, without a search.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make the candidate champion if it passes.")
    ] = False,
    force: Annotated[
        str, typer.Option(metavar="REASON", help="Make it champion although the gate refuses; noted.")
    ] = "",
    distributed: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Search on this Dask cluster, e.g. tcp://scheduler:8786.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes of the search on this machine.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstraps.")] = 0,
    export: Annotated[
        Path | None, typer.Option(help="Write the rows to this Parquet file and do nothing else.")
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FACTORY", help="Text encoder; default: the settings' classifier.encoder."
        ),
    ] = "",
    only: Annotated[
        Part | None, typer.Option(help="Retrain this alone; default: the classifier and the foresight.")
    ] = None,
    trace: Annotated[
        list[Path] | None,
        typer.Option(help="Fit the foresight on this recorded trace instead of a log; repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML: ledger and classifier.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fit a candidate on what came of requests, judge it against the champion, keep it in the registry.

    A foresight (who comes back when, for warming) is fitted on the sessions of the same requests, and kept beside.

    Exit code 0: it passed the gate (and was promoted if asked). 3: the gate refused it, or its champion was replaced
    while it was fitted; it is in the registry all the same. 4: the log has too few outcomes. 2: not done as asked.
    With both, it is the classifier's.

    Example: hybrid-router retrain --ledger var/ledger --registry var/models --promote

    Example: hybrid-router retrain --only foresight --trace sessions.jsonl.gz --registry var/models
    """
    if trace and only is not Part.FORESIGHT:
        raise ConfigError("a trace has no outcomes to fit a classifier on: add --only foresight")
    if trace:
        sources, names = traced(trace), [file.name for file in trace]
        code = only_foresight(
            sources, names, open_registry(registry, config), promote=promote, seed=seed, as_json=as_json
        )
        raise typer.Exit(TOO_FEW if code is None else code)
    rows = _rows(ledger, parquet or [], config, epoch_s("--since", since), epoch_s("--until", until))
    if export is not None:
        print(f"wrote {write_parquet(export, rows)} rows to {export}")
        return
    turns = Turns(max_rows)
    if only is Part.FORESIGHT:
        code = only_foresight(
            [turns.drained(rows).sessions()],
            [PRODUCTION],
            open_registry(registry, config),
            promote=promote,
            seed=seed,
            as_json=as_json,
        )
        raise typer.Exit(TOO_FEW if code is None else code)
    if only is None:
        rows = turns.tapped(rows)
    # scikit-learn takes a second and 100 MB to load.
    from classifier.gate import GateSettings
    from classifier.retraining import RetrainingSettings, TooFewOutcomes
    from classifier.search import BASE, GRID

    models = open_registry(registry, config)
    settings = RetrainingSettings(
        least_outcomes=least_outcomes,
        base_weight=base_weight,
        half_life_s=None if half_life_days is None else half_life_days * 86_400.0,
        grid=(BASE,) if quick else GRID,
        equal_cost=not keep_threshold,
        gate=GateSettings(cost_tolerance=cost_tolerance, always_valid=always_valid),
        seed=seed,
        jobs=jobs,
    )
    reigning = models.champion_digest() or ""
    champion = serving(models, config)
    base = _labels(labels or [SEED_LABELS]) if base_weight else None
    try:
        named = encoder or load_config(config).classifier.encoder
        embedder = load_encoder(named) if named else None
        found = _run(rows, champion, base, settings, distributed, max_rows, as_json, embedder)
    except TooFewOutcomes as error:
        typer.echo(f"hybrid-router: {error}", err=True)
        foresight = None if only is Part.CLASSIFIER else _foresight(turns, models, promote, seed)
        if foresight is not None and "skipped" not in foresight and not as_json:
            show_foresight(foresight, models.path)
        raise typer.Exit(TOO_FEW) from None
    with tempfile.TemporaryDirectory(prefix="hybrid-router-") as work:
        found.save(Path(work))
        digest = models.add(Path(work))
    promoted = _promoted(models, digest, found, promote, force, reigning)
    foresight = None if only is Part.CLASSIFIER else _foresight(turns, models, promote, seed)
    if as_json:
        told = {"registry": str(models.path), "promoted": promoted, "foresight": foresight}
        print(json.dumps(found.report | told))
    else:
        _show(found, promoted, models.path)
        if foresight is not None and "skipped" not in foresight:
            show_foresight(foresight, models.path)
    if not promoted and (promote or not found.verdict.passed):
        raise typer.Exit(REFUSED)


def _foresight(turns: Turns, models: Registry, promote: bool, seed: int) -> dict[str, Any]:
    """The foresight's report, or why there is none: it needs no outcomes, and its lack stops nobody."""
    from classifier.foresight.retraining import TooFewTurns

    try:
        return retrain_foresight([turns.sessions()], [PRODUCTION], models, promote=promote, seed=seed)[1]
    except TooFewTurns as error:
        return {"skipped": str(error)}


def open_registry(registry: Path | None, config: Path | None) -> Registry:
    """The registry that was named, else the settings', else `DEFAULT_REGISTRY`."""
    return Registry(registry or load_config(config).classifier.registry or DEFAULT_REGISTRY)


def serving(models: Registry, config: Path | None) -> Model:
    """The model that serves: the registry's champion, else the settings' artifact, else the shipped one."""
    directory = models.champion() or load_config(config).routing.classifier
    return Model.load(directory) if directory else Model.default()


def _promoted(
    models: Registry, digest: str, found: "Retrained", promote: bool, force: str, reigning: str
) -> bool:
    """Promote what passed, unless another champion has come since `reigning` was judged against ("" is the shipped)."""
    verdict = found.verdict
    # The same rows give the same model: it may be one that served and was taken back.
    taken_back = last_taken_back(models.history(), digest)
    if promote and verdict.passed and taken_back is not None and not force:
        typer.echo(
            f"hybrid-router: {digest} is not promoted: it served and was taken back: {taken_back.reason}",
            err=True,
        )
    elif promote and verdict.passed and taken_back is None:
        try:
            models.promote(
                digest, now_s=time.time(), how=How.GATE, reason=verdict.reason, if_champion=reigning
            )
        except RegistryError as error:
            typer.echo(
                f"hybrid-router: {digest} is not promoted: {error}, which it was judged against; retrain again",
                err=True,
            )
    elif force:
        models.promote(digest, now_s=time.time(), how=How.FORCE, reason=f"{force} (gate: {verdict.reason})")
    return models.champion_digest() == digest


def _rows(
    ledger: str | None,
    parquet: list[Path],
    config: Path | None,
    since_s: float | None,
    until_s: float | None,
) -> Iterator[LoggedRequest]:
    if parquet:
        if ledger is not None:
            raise ConfigError("give --ledger or --parquet, one of the two")
        return (row for file in parquet for row in from_parquet(file, since_s, until_s))
    return from_ledger(place_asked(ledger, config), since_s, until_s)


def _labels(files: list[Path]) -> Dataset:
    """The rows of all files; ids of one file need not differ from another's."""
    from dataclasses import replace

    return Dataset(
        tuple(
            replace(row, id=f"{number}/{row.id}", group=f"{number}/{row.group}") if len(files) > 1 else row
            for number, file in enumerate(files, start=1)
            for row in datasets.read(file).rows
        )
    )


def _run(
    rows: Iterator[LoggedRequest],
    champion: Model,
    base: Dataset | None,
    settings: "RetrainingSettings",
    distributed: str,
    max_rows: int,
    quiet: bool,
    embedder: Embedder | None,
) -> "Retrained":
    """Read, search, fit and judge behind a progress bar on standard error."""
    from classifier.retraining import retrain as fit_and_judge
    from classifier.search import on_cluster

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), disable=quiet))
        task = bar.add_task("reading", total=None)
        collected = _collected(rows, bar, task, max_rows)
        if distributed:
            stack.enter_context(on_cluster(distributed))
        return fit_and_judge(
            collected,
            champion,
            base,
            settings,
            datetime.now(UTC).isoformat(timespec="seconds"),
            lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            embedder,
        )


def _collected(rows: Iterator[LoggedRequest], bar: Progress, task: Any, max_rows: int) -> Collected:
    def counted() -> Iterator[LoggedRequest]:
        for number, row in enumerate(rows, start=1):
            if number % 1_000 == 0:
                bar.update(task, description=f"reading: {number:,} requests")
            yield row

    return collect(counted(), max_rows)


def _show(found: "Retrained", promoted: bool, registry: Path) -> None:
    console = Console(soft_wrap=True)
    log, held_out = found.report["log"], found.report["held_out"]
    rows = log["rows"]
    console.print(
        f"{log['requests']:,} requests, {log['with_outcome']:,} with an outcome: fitted on {rows['fit']:,},"
        f" calibrated on {rows['calibrate']:,}, judged on the newest {rows['judge']:,}",
        highlight=False,
    )
    if log["without_features"]:
        console.print(
            f"{log['without_features']:,} requests were left out: without features, or of another version",
            highlight=False,
        )
    table = Table("", "AUROC", "95 %", "calibration error", "Brier")
    for name in ("candidate", "champion"):
        if figures := held_out.get(name):
            table.add_row(
                f"{name} {found.report[name]}",
                _number(figures["auroc"]),
                f"{_number(figures['auroc_low'])}-{_number(figures['auroc_high'])}",
                _number(figures["ece"]),
                _number(figures["brier"]),
            )
    if figures := held_out.get("candidate"):
        table.add_row("prompt length alone", _number(figures["length_auroc"]), "", "", "")
    console.print(table)
    if found.report["curve"]:
        console.print(_curve(found.report["curve"]))
    for condition in found.verdict.conditions:
        mark = "passed" if condition.passed else "FAILED"
        console.print(f"{mark} {condition.name}: {condition.figures}", highlight=False, markup=False)
    digest = found.candidate.digest
    what = (
        "is the champion now"
        if promoted
        else "is kept as a candidate"
        if found.verdict.passed
        else "was refused"
    )
    console.print(
        f"{digest} {what}; card and report are in {registry / digest}", highlight=False, markup=False
    )


def _curve(points: list[dict[str, Any]]) -> Table:
    """Estimated quality by share of requests on Opus, highest scores first."""
    table = Table("on Opus", "candidate", "champion", "prompt length", title="quality, estimated")
    quality = {(point["scores"], point["opus_share"]): point["quality"] for point in points}
    for share in sorted({share for _, share in quality}):
        shown = [f"{quality[name, share]:.3f}" for name in ("candidate", "champion", "length")]
        table.add_row(f"{share:.0%}", *shown)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
