"""`hybrid-router evaluate`: how good an artifact or the training recipe is on recorded outcomes."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from classifier import dataset as datasets
from classifier.answers import Answered, read_answers, requests
from classifier.encoder import Embedder, load_encoder
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.sample import Sample
from router.cli.train import SEED_LABELS

if TYPE_CHECKING:
    from classifier.comparison import Figures


def evaluate(
    labels: Annotated[
        Path | None, typer.Argument(help="Our own label format; default with --cv: the shipped seed set.")
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded answers of many models: id, source, prompt, scores. Repeat for more."),
    ] = None,
    kinds: Annotated[
        list[Path] | None, typer.Option(help="Requests whose kind alone is known. Repeat for more.")
    ] = None,
    model: Annotated[
        Path, typer.Option(help="Directory of the artifact.", show_default="the one that ships")
    ] = DEFAULT_DIRECTORY,
    cv: Annotated[
        bool, typer.Option("--cv", help="Judge the training recipe by grouped folds instead of an artifact.")
    ] = False,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="With --cv: leave this source of answers out wholly. Repeat for more."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds and bootstrap.")] = 0,
    encoder: Annotated[
        str,
        typer.Option(metavar="MODULE:FACTORY", help="Text encoder of the model; see classifier/README.md."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report discrimination, calibration and the cost-quality curve, with intervals, beside two baselines.

    Per pair of models and source: APGR, CPT50, CPT80, AUROC, ECE; the difference to prompt length alone, and with --cv
    to TF-IDF + ridge by the same folds. An artifact is judged as it is: on rows it was trained on that flatters it.

    Example: hybrid-router evaluate --answers labels.jsonl.gz --kinds requests.jsonl.gz --cv
    """
    if leave_out and not cv:
        raise ValueError("--leave-out needs --cv: an artifact is judged as it is")
    if not (labels or answers or kinds or cv):
        raise ValueError("nothing to judge: give LABELS, --answers or --kinds, or --cv for the seed set")
    # scikit-learn takes a second and 100 MB to load: only reports need it.
    from classifier.comparison import compare
    from classifier.encoded import encoded
    from classifier.evaluation import evaluate as judge

    answered = [row for path in answers or () for row in read_answers(path)]
    embedder = load_encoder(encoder) if encoder else None
    served = None if cv else Model.load(model, embedder)
    if served is None:
        own, scores, folds = _cross_scored(
            labels, answered, kinds or [], leave_out or [], seed, as_json, embedder
        )
    else:
        own = () if labels is None else encoded(datasets.read(labels), embedder).rows
        scores, folds = _scored(served, own, answered), None
    judged = [row for row in answered if row.id in scores]
    compared = compare(judged, scores, folds, seed=seed)
    report: dict[str, Any] = {"comparisons": [figures.to_dict() for figures in compared]}
    mine = [row for row in own if row.id in scores]
    if mine:
        threshold = 0.5 if served is None else served.manifest.threshold
        report["own"] = judge(mine, [scores[row.id] for row in mine], threshold, seed=seed).to_dict()
    if kinds and not leave_out:
        report["kinds"] = _kinds(kinds, scores, served)
    if as_json:
        print(json.dumps(report))
        return
    _print(report, compared)


def _scored(model: Model, own: Any, answered: list[Answered]) -> dict[str, float]:
    scores = {row.id: model.score_features(row.extracted()).value for row in own}
    return scores | {row.id: model.score(Sample.bounded(text=row.prompt)).value for row in answered}


def _cross_scored(
    labels: Path | None,
    answered: list[Answered],
    kinds: list[Path],
    leave_out: list[str],
    seed: int,
    quiet: bool,
    embedder: Embedder | None,
) -> tuple[Any, dict[str, float], dict[str, int]]:
    """Our own rows, and score and fold per row id."""
    from classifier.encoded import encoded
    from classifier.recipe import assemble
    from classifier.training import TrainingSettings, cross_scores

    own = datasets.read(labels or SEED_LABELS).rows
    found = encoded(assemble(answered, kinds, own), embedder)
    unknown = sorted(set(leave_out) - {row.kind for row in found.rows})
    if unknown:
        raise ValueError(f"--leave-out {unknown[0]!r} is no source of the given answers")
    with Progress(console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("cross-validation", total=None)
        values, fold = cross_scores(
            found,
            TrainingSettings(),
            seed,
            lambda done, total, what: bar.update(task, completed=done, total=total, description=what),
            leave_out_kinds=leave_out,
            encoder=None if embedder is None else embedder.entry,
        )
    scored = [index for index in range(len(found)) if fold[index] >= 0]
    return (
        own,
        {found.rows[index].id: float(values[index]) for index in scored},
        {found.rows[index].id: int(fold[index]) for index in scored},
    )


def _kinds(files: list[Path], scores: dict[str, float], model: Model | None) -> list[dict[str, Any]]:
    """AUROC of open complex requests over every other kind, and mean scores; kinds without a target have no score."""
    import numpy as np

    from classifier.evaluation import auroc

    by_kind: dict[str, list[float]] = {}
    for path in files:
        for identity, sample, kind, _ in requests(path):
            score = scores.get(identity) if model is None else model.score(sample).value
            if kind is not None and score is not None:
                by_kind.setdefault(kind, []).append(score)
    hard = by_kind.get("open_complex", [])
    found = []
    for kind, values in sorted(by_kind.items()):
        needed = np.array([True] * len(hard) + [False] * len(values))
        over = None if kind == "open_complex" or not hard else auroc(np.array(hard + values), needed)
        found.append(
            {"kind": kind, "rows": len(values), "mean": float(np.mean(values)), "open_complex_auroc": over}
        )
    return found


def _print(report: dict[str, Any], compared: "list[Figures]") -> None:
    console = Console(width=max(Console().width, 150) if not sys.stdout.isatty() else None)
    if compared:
        table = Table(title="Recorded outcomes (95 % paired bootstrap over prompts)")
        for name in (
            "pair", "source", "n", "gap", "APGR", "length", "less length", "ridge", "less ridge",
            "CPT50", "CPT80", "AUROC", "ECE",
        ):  # fmt: skip
            table.add_column(name, justify="left" if name in ("pair", "source") else "right")
        for row in compared:
            table.add_row(
                row.pair,
                row.source,
                f"{row.rows:,}",
                f"{row.gap:.3f}",
                f"{row.apgr:.3f}",
                f"{row.length_apgr:.3f}",
                _between(row.over_length),
                _shown(row.ridge_apgr),
                _between(row.over_ridge),
                f"{row.cpt50:.0%}",
                f"{row.cpt80:.0%}",
                _shown(row.auroc),
                _shown(row.ece),
            )
        console.print(table)
    for kind in report.get("kinds", []):
        over = kind["open_complex_auroc"]
        beside = "" if over is None else f"  AUROC of open_complex over it {over:.3f}"
        print(f"{kind['kind']:<26} {kind['rows']:>6,} rows  mean score {kind['mean']:.3f}{beside}")
    for name, value in report.get("own", {}).items():
        if isinstance(value, int | float):
            print(f"own labels {name}: {value:g}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.3f}..{interval[1]:+.3f}"
