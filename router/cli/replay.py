"""`hybrid-router replay`: what a caching policy would have cost on a recorded trace."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cache.economics import Rates
from router.replay import Policy, Settings, decision
from router.replay import replay as served_one_by_one
from router.replay_trace import read_trace

if TYPE_CHECKING:
    from router.replay_report import Figures, Reliability

_PROGRESS_STEP = 200


def replay(
    trace: Annotated[Path, typer.Argument(help="Requests as block ids, JSON lines (.gz allowed).")],
    policy: Annotated[
        list[Policy] | None, typer.Option(help="Policy to replay; repeat to compare. Default: auto.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Write the decisions of the only policy here, one JSON line per request."),
    ] = None,
    minimum_tokens: Annotated[int, typer.Option(min=0, help="Shortest prefix the provider caches.")] = 1024,
    read: Annotated[float, typer.Option(help="Price of a token read, relative to an uncached one.")] = 0.1,
    write_5m: Annotated[float, typer.Option(help="Of a token written for 5 minutes.")] = 1.25,
    write_1h: Annotated[float, typer.Option(help="Of a token written for 1 hour.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Replay recorded requests through the cache planner on a virtual clock that cannot look ahead.

    Each request is planned from what the requests before it taught, and billed by a model of the provider's cache that
    the planner does not share. Costs are input only, in units of one uncached token. 5m and 1h mark the whole prompt.

    Example: hybrid-router replay trace.jsonl.gz --policy auto --policy 5m --policy 1h
    """
    policies = list(dict.fromkeys(policy or [Policy.AUTO]))
    if decisions is not None and len(policies) > 1:
        raise ValueError("--decisions takes the decisions of one policy; give --policy once")
    # numpy takes a tenth of a second to load, which --help need not wait for.
    from router.replay_report import Tally

    settings = Settings(minimum_tokens, Rates(write_5m, write_1h, read))
    rows = read_trace(trace)
    found = []
    with Progress(console=Console(stderr=True), disable=as_json) as bar, _written(decisions) as lines:
        for chosen in policies:
            task = bar.add_task(chosen.value, total=len(rows))
            tally = Tally(chosen, settings.rates)
            run = served_one_by_one(rows, chosen, settings, timer=time.perf_counter_ns)
            for done, served in enumerate(run, 1):
                tally.add(served)
                if lines is not None:
                    lines.write(json.dumps(decision(served), separators=(",", ":")) + "\n")
                if done % _PROGRESS_STEP == 0 or done == len(rows):
                    bar.update(task, completed=done)
            found.append(tally.figures())
    if as_json:
        print(json.dumps({"trace": str(trace), "policies": [figures.to_dict() for figures in found]}))
        return
    console = Console()
    console.print(_bills(found))
    for figures in found:
        for title, reliability in (("P(warm)", figures.warm), ("P(return < 5 min)", figures.returns)):
            if reliability.requests and figures.policy not in ("5m", "1h", "none"):
                console.print(_reliability(f"{figures.policy}: {title}", reliability))


@contextmanager
def _written(path: Path | None) -> Iterator[TextIO | None]:
    with nullcontext() if path is None else path.open("w", encoding="utf-8") as lines:
        yield lines


def _bills(found: "list[Figures]") -> Table:
    table = Table("policy", "cost / no cache", "95 %", "read", "written", "us p50", "us p99")
    for figures in found:
        low, high = figures.interval
        split = figures.split
        written = (split.write_5m + split.write_1h) / max(1, split.total)
        table.add_row(
            figures.policy,
            f"{figures.relative_cost:.4f}",
            f"{low:.3f}-{high:.3f}",
            f"{split.read / max(1, split.total):.1%}",
            f"{written:.1%}",
            "-" if figures.decision_p50_us is None else f"{figures.decision_p50_us:.0f}",
            "-" if figures.decision_p99_us is None else f"{figures.decision_p99_us:.0f}",
        )
    return table


def _reliability(title: str, found: "Reliability") -> Table:
    table = Table("chance", "requests", "predicted", "observed", title=f"{title}, Brier {found.brier:.4f}")
    for row in found.bins:
        table.add_row(
            f"{row.low:.1f}-{row.low + 0.1:.1f}",
            f"{row.requests:,}",
            f"{row.predicted:.3f}",
            f"{row.observed:.3f}",
        )
    return table
