"""Replays as `hybrid-router replay` runs them: way after way over one source, with a bar, and with a foresight or not.

The rule: with a foresight that was fitted on the traffic's beginning, all ways serve all of it, and what comes before
the cut is not counted for any. It prints nothing but the bar.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from rich.console import Console
from rich.progress import Progress

from cache.regret import Regret
from classifier.foresight.model import Foresight
from router.cli.replay_tables import Source
from router.pricing import Price
from router.replay import Settings, decision, replay
from router.replay_bound import ClairvoyantBound
from router.replay_check import percentage
from router.replay_choice import Chosen
from router.replay_foresight import Cut, cut_at, fitted_on

if TYPE_CHECKING:
    from router.replay_report import Figures, Tally

_PROGRESS_STEP = 200


class Foreseen(NamedTuple):
    """A foresight to replay with, and where what is judged begins; None for all of it."""

    model: Foresight | None = None
    cut: Cut | None = None


def foreseen_of(source: Source, artifact: Path | None, share: str) -> tuple[Source, Foreseen]:
    """The foresight that was named, or one fitted on the traffic's beginning, which the source then says.

    Raises:
        ValueError: Both were asked for, or the traffic cannot carry one.
    """
    if artifact is not None and share:
        raise ValueError("--foresight names one, --fit-foresight fits one; give one of them")
    if artifact is not None:
        model = Foresight.load(artifact)
        return source.noted(f"foresight {model.digest}, from {artifact}"), Foreseen(model)
    if not share:
        return source, Foreseen()
    rows = list(source.rows())
    cut = cut_at(rows, percentage("--fit-foresight", share))
    model = fitted_on(rows[: cut.rows], source.name)
    note = (
        f"foresight {model.digest} was fitted on the first {cut.requests:,} requests and says nothing before the "
        f"cut; all ways served them, and every figure is of the {cut.judged:,} after it"
    )
    return source._replace(rows=lambda: rows).noted(note), Foreseen(model, cut)


def replayed(
    runs: Sequence[Chosen],
    source: Source,
    settings: Settings,
    price: Price | None,
    foreseen: Foreseen,
    decisions: Path | None,
    *,
    quiet: bool,
) -> "list[Figures]":
    """Replay every way that was chosen, with a bar on standard error."""
    # numpy takes a tenth of a second to load, which --help need not wait for.
    from router.replay_report import Tally

    cut = foreseen.cut
    found: list[Figures] = []
    # What was spent before the cut is another's, so with one there is no bound on the rest.
    bound = None if cut is not None else ClairvoyantBound(settings.minimum_tokens, settings.rates)
    with Progress(console=Console(stderr=True), disable=quiet) as bar, _written(decisions) as lines:
        for chosen in runs:
            task = bar.add_task(chosen.name, total=source.expected)
            tally = Tally(
                chosen.policy,
                settings.rates,
                price,
                name=chosen.name,
                facts=settings.facts,
                partial=cut is not None,
            )
            figures = _figures(
                chosen,
                source,
                settings,
                foreseen,
                tally,
                bound=None if found else bound,  # once: it depends on the traffic alone
                lines=lines,
                served=lambda done, task=task: bar.update(task, completed=done),  # type: ignore[misc]
            )
            found.append(figures._replace(bound_units=None if bound is None else bound.units))
            bar.update(task, total=figures.requests, completed=figures.requests)
    return found


def _figures(
    chosen: Chosen,
    source: Source,
    settings: Settings,
    foreseen: Foreseen,
    tally: "Tally",
    *,
    bound: ClairvoyantBound | None,
    lines: TextIO | None,
    served: Callable[[int], None],
) -> "Figures":
    """Replay one way, and count what is judged of it."""
    cut = foreseen.cut
    warming = replace(
        settings.warming,
        policy=chosen.warm,
        foresight=foreseen.model if chosen.foresight else None,
        foresight_from=None if cut is None else cut.begins,
    )
    regret = Regret(second_usd=warming.second_units)
    rows = replay(
        source.rows(),
        chosen.policy,
        settings._replace(warming=warming),
        timer=time.perf_counter_ns,
        on_ping=lambda ping: tally.add_warm(ping) if cut is None or cut.judges(ping.row) else None,
        regret=regret,
    )
    for done, each in enumerate(rows, 1):
        if cut is None or cut.judges(each.row):
            tally.add(each)
        if bound is not None:
            bound.add(each.row)
        if lines is not None:
            lines.write(json.dumps(decision(each), separators=(",", ":")) + "\n")
        if done % _PROGRESS_STEP == 0:
            served(done)
    return tally.figures(regret)


@contextmanager
def _written(path: Path | None) -> Iterator[TextIO | None]:
    with nullcontext() if path is None else path.open("w", encoding="utf-8") as lines:
        yield lines
