"""`hybrid-router score`: the classifier's score of every request in a file."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import Progress

from classifier.answers import requests
from classifier.encoder import load_encoder
from classifier.model import DEFAULT_DIRECTORY, Model

_PROGRESS_STEP = 500


def score(
    file: Annotated[
        Path,
        typer.Argument(
            help="Requests as JSON lines (.gz allowed): id, prompt (or text), optional tools, system."
        ),
    ],
    out: Annotated[str, typer.Option(help="File for the scores as JSON lines; - for standard output.")],
    model: Annotated[
        Path, typer.Option(help="Directory of the artifact.", show_default="the one that ships")
    ] = DEFAULT_DIRECTORY,
    encoder: Annotated[
        str,
        typer.Option(metavar="MODULE:FACTORY", help="Text encoder of the model; see classifier/README.md."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Score requests offline with the served code: {"id", "score"} per line, higher needs Opus more.

    Other fields are ignored, so a labelled file can be scored as it is. A malformed line stops the run with its number
    and field, exit code 2.

    Example: hybrid-router score requests.jsonl.gz --out scores.jsonl
    """
    loaded = Model.load(model, load_encoder(encoder) if encoder else None)
    threshold = loaded.manifest.threshold
    count = at_opus = 0
    with _writing(out) as target, Progress(console=Console(stderr=True), disable=as_json) as bar:
        task = bar.add_task("scored", total=None)
        for identity, sample, _, _ in requests(file):
            value = loaded.score(sample).value
            target.write(json.dumps({"id": identity, "score": value}) + "\n")
            count += 1
            at_opus += value >= threshold
            if count % _PROGRESS_STEP == 0:
                bar.update(task, completed=count, description=f"scored {count:,}")
    summary = {
        "rows": count,
        "threshold": threshold,
        "opus_share": at_opus / count if count else None,
        "model": loaded.digest,
    }
    # Scores on standard output stay alone there.
    if as_json:
        print(json.dumps(summary), file=sys.stderr if out == "-" else sys.stdout)
    elif count:
        print(
            f"scored {count:,} requests with {loaded.digest}; {at_opus / count:.1%} at or above {threshold:g}",
            file=sys.stderr if out == "-" else sys.stdout,
        )


@contextmanager
def _writing(out: str) -> Iterator[TextIO]:
    if out == "-":
        yield sys.stdout
    else:
        with Path(out).open("w", encoding="utf-8") as file:
            yield file
