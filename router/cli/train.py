"""`hybrid-router train`: fit the routing classifier on labelled files."""

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
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded answers of many models: id, source, prompt, scores. Repeat for more."),
    ] = None,
    kinds: Annotated[
        list[Path] | None,
        typer.Option(
            help="Requests whose kind alone is known: id, kind, prompt, tools, system. Repeat for more."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write the artifact to.")] = Path("var/classifier"),
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
    created_time: Annotated[
        str | None, typer.Option(help="RFC 3339 time to record, for a build that repeats; default: now.")
    ] = None,
    encoder: Annotated[
        str,
        typer.Option(metavar="MODULE:FACTORY", help="Text encoder of the model; see classifier/README.md."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fit the classifier, judge it on held-out groups, and save it as checked data (no pickle) with its model card.

    Each line of LABELS needs id, text (or prompt), label (1: Opus was needed) and group; classifier/README.md lists the
    rest. Serve it with routing.classifier = "DIR", or reload a running router that already does.

    Example: hybrid-router train labels.jsonl.gz --out var/classifier
    """
    # scikit-learn takes a second and 100 MB to load: only this verb needs it.
    from classifier.answers import read_answers
    from classifier.comparison import compare
    from classifier.encoded import encoded
    from classifier.encoder import load_encoder
    from classifier.recipe import CARD_NAME, assemble, card
    from classifier.training import TrainingSettings
    from classifier.training import train as fit_and_judge

    own = datasets.read(labels or SEED_LABELS)
    answered = [row for path in answers or () for row in read_answers(path)]
    embedder = load_encoder(encoder) if encoder else None
    found = encoded(assemble(answered, kinds or (), own.rows), embedder)
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json) as bar:
        task = bar.add_task("training", total=None)
        trained, report = fit_and_judge(
            found,
            TrainingSettings(),
            seed,
            lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            None if embedder is None else embedder.entry,
        )
    artifact = trained.save(out, created_time or datetime.now(UTC).isoformat(timespec="seconds"))
    scores = {row.id: score for row, score in zip(found.rows, report.scores, strict=True)}
    compared = compare([row for row in answered if row.id in scores], scores)
    (out / CARD_NAME).write_text(
        card(artifact.manifest, artifact.digest, found, [figures.to_dict() for figures in compared]),
        encoding="utf-8",
    )
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
