"""`hybrid-router train`: fit the routing classifier on a labelled file."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from classifier import dataset as datasets

if TYPE_CHECKING:
    from classifier.training import TrainingReport

SEED_LABELS = Path(datasets.__file__).resolve().parent / "data" / "seed.jsonl"


def train(
    labels: Annotated[
        Path | None, typer.Argument(help="Labelled JSON lines (.gz allowed); default: the shipped seed set.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write the artifact to.")] = Path("var/classifier"),
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fit the classifier, judge it on held-out groups, and save it as checked data (no pickle).

    Each line needs id, text (or prompt), label (1: Opus was needed) and group; classifier/README.md lists the rest.
    Serve it with routing.classifier = "DIR", or reload a running router that already does.

    Example: hybrid-router train labels.jsonl.gz --out var/classifier
    """
    # scikit-learn takes a second and 100 MB to load: only this verb needs it.
    from classifier.training import TrainingSettings
    from classifier.training import train as fit_and_judge

    found = datasets.read(labels or SEED_LABELS)
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json) as bar:
        task = bar.add_task("training", total=None)
        trained, report = fit_and_judge(
            found,
            TrainingSettings(),
            seed,
            lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
        )
    artifact = trained.save(out, datetime.now(UTC).isoformat(timespec="seconds"))
    if as_json:
        print(json.dumps(report.to_dict() | {"digest": artifact.digest, "out": str(out)}))
        return
    _print(report, artifact.digest, out)


def _print(report: "TrainingReport", digest: str, out: Path) -> None:
    print(f"{report.rows} rows, {report.positive_rows} need Opus, {report.groups} groups")
    for name, value in report.held_out.to_dict().items():
        if isinstance(value, int | float):
            print(f"  held out {name}: {value:g}")
    print(f"suggested threshold {report.threshold:g}")
    print(f"wrote classifier {digest} to {out}")
