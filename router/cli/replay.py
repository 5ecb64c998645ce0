"""`hybrid-router replay`: what a caching policy would have cost on a recorded trace or a made-up month."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TextIO

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cache.economics import Rates
from cache.rules import UnknownModel, rules_for
from router.cli.instant import finite
from router.config import ConfigError
from router.month import SIZES, Kind, Workload, month
from router.picture import drawable
from router.pricing import Price, PriceTable, UnknownPrice
from router.replay import Policy, Settings, decision
from router.replay import replay as served_one_by_one
from router.replay_bound import ClairvoyantBound
from router.replay_check import CostLine, compare, cost_line, increase, saved_line
from router.replay_plot import draw
from router.replay_trace import TraceRow, read_trace

if TYPE_CHECKING:
    from router.replay_report import Figures, Reliability

_PROGRESS_STEP = 200
_MONTH_DAYS = 30
_DEFAULT_MODEL = "claude-opus-5-5"
_MOST_PER_DAY = 1e8
_MOST_DAYS = 3_660


class _Source(NamedTuple):
    """Where rows come from.

    Attributes:
        rows: Gives them anew for every policy; a made-up month is never held as a whole.
        expected: How many to expect, for the progress bar.
        per_month: Requests 30 days have; None for a recorded trace, whose length says nothing about a month.
    """

    name: str
    rows: Callable[[], Iterable[TraceRow]]
    expected: int
    per_month: float | None


def replay(
    trace: Annotated[
        Path | None, typer.Argument(help="Requests as block ids, JSON lines (.gz allowed).")
    ] = None,
    policy: Annotated[
        list[Policy] | None, typer.Option(help="Policy to replay; repeat to compare. Default: auto.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Write the decisions of the only policy here, one JSON line per request."),
    ] = None,
    workload: Annotated[
        Kind | None,
        typer.Option(help="Replay made-up traffic instead of a trace: sizes of a chat product or of agents."),
    ] = None,
    requests_per_day: Annotated[
        float | None,
        typer.Option(min=0.001, max=_MOST_PER_DAY, help="Of the workload; 10000 if not given."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0.001, max=_MOST_DAYS, help="Of the workload; 7 if not given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the workload; 0 if not given.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"Take limits and prices of this model; {_DEFAULT_MODEL} for a workload."),
    ] = None,
    minimum_tokens: Annotated[
        int | None, typer.Option(min=0, help="Shortest prefix the provider caches; the model's, else 1024.")
    ] = None,
    read: Annotated[
        float | None, typer.Option(help="Price of a token read, relative to an uncached one; else 0.1.")
    ] = None,
    write_5m: Annotated[
        float | None, typer.Option(help="Of a token written for 5 minutes; else 1.25.")
    ] = None,
    write_1h: Annotated[float | None, typer.Option(help="Of a token written for 1 hour; else 2.0.")] = None,
    max_cost_increase: Annotated[
        str,
        typer.Option(
            help='Exit with code 1 when the first policy\'s input costs more than this over the baseline, e.g. "3%".'
        ),
    ] = "",
    baseline: Annotated[
        Path | None,
        typer.Option(help="Compare with this saved --json report instead of with the second --policy."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw costs and tokens of the policies here, PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Replay requests through the cache planner on a virtual clock that cannot look ahead.

    Each request is planned from what the requests before it taught, and billed by a model of the provider's cache that
    the planner does not share. Costs are of input, in units of one uncached token; with a model also in dollars, output
    included, for a workload those of 30 days. 5m and 1h mark the whole prompt. Regret is what a policy costs above a
    bound that knows the future, without keep-alives, as a share of the cost without caching.

    Example: hybrid-router replay trace.jsonl.gz --policy auto --policy 5m --policy 1h

    Example: hybrid-router replay --workload saas --model claude-opus-5 --policy none --policy c --policy auto

    Example: hybrid-router replay trace.jsonl.gz --json > baseline.json, and later, to fail a build that costs more:
    hybrid-router replay trace.jsonl.gz --baseline baseline.json --max-cost-increase 3%
    """
    policies = list(dict.fromkeys(policy or [Policy.AUTO]))
    if decisions is not None and len(policies) > 1:
        raise ValueError("--decisions takes the decisions of one policy; give --policy once")
    check = _check(policies, max_cost_increase, baseline)
    if plot is not None:
        drawable("--plot", plot)
    source = _source(trace, workload, requests_per_day, days, seed)
    if model is None and workload is not None:
        model = _DEFAULT_MODEL
    settings, price = _settings(model, minimum_tokens, read, write_5m, write_1h)
    # numpy takes a tenth of a second to load, which --help need not wait for.
    from router.replay_report import Figures, Tally

    found: list[Figures] = []
    clairvoyant = ClairvoyantBound(settings.minimum_tokens, settings.rates)
    with Progress(console=Console(stderr=True), disable=as_json) as bar, _written(decisions) as lines:
        for chosen in policies:
            task = bar.add_task(chosen.value, total=source.expected)
            tally = Tally(chosen, settings.rates, price)
            run = served_one_by_one(source.rows(), chosen, settings, timer=time.perf_counter_ns)
            for done, served in enumerate(run, 1):
                tally.add(served)
                if not found:  # once: it depends on the trace alone
                    clairvoyant.add(served.row)
                if lines is not None:
                    lines.write(json.dumps(decision(served), separators=(",", ":")) + "\n")
                if done % _PROGRESS_STEP == 0:
                    bar.update(task, completed=done)
            found.append(tally.figures()._replace(bound_units=clairvoyant.units))
            bar.update(task, total=found[-1].requests, completed=found[-1].requests)
    if as_json:
        per_month = [_monthly_usd(figures.bill_nano_usd, figures, source) for figures in found]
        rows = [
            figures.to_dict() | {"usd_per_month": usd} for figures, usd in zip(found, per_month, strict=True)
        ]
        print(json.dumps({"trace": source.name, "model": model, "policies": rows}))
    else:
        _show(found, source, model)
    if plot is not None:
        draw(plot, found, source.name)
    if check is not None:
        _judge(check, found)


def _show(found: "list[Figures]", source: _Source, model: str | None) -> None:
    console = Console()
    console.print(_bills(found, source, model))
    for figures in found:
        for title, reliability in (("P(warm)", figures.warm), ("P(return < 5 min)", figures.returns)):
            if reliability.requests and figures.policy not in ("5m", "1h", "none"):
                console.print(_reliability(f"{figures.policy}: {title}", reliability))


class _Check(NamedTuple):
    """What `--max-cost-increase` compares with: a saved report's row, or None for the second policy's."""

    limit: Fraction
    saved: CostLine | None


def _check(policies: list[Policy], limit: str, baseline: Path | None) -> _Check | None:
    if not limit:
        if baseline is not None:
            raise ValueError("--baseline goes with --max-cost-increase")
        return None
    allowed = increase(limit)
    if baseline is not None:
        return _Check(allowed, saved_line(baseline, policies[0].value))
    if len(policies) < 2:
        raise ValueError(
            "--max-cost-increase needs something to compare with: --baseline, or a second --policy"
        )
    return _Check(allowed, None)


def _judge(check: _Check, found: "list[Figures]") -> None:
    """Compare the first policy with the baseline.

    Raises:
        Exit: With code 1, when it costs more than allowed.
    """
    now = cost_line(found[0])
    before = check.saved or cost_line(found[1])
    verdict = compare(now, before, check.limit)
    typer.echo(verdict.message, err=True)
    if not verdict.passed:
        raise typer.Exit(1)


def _source(
    trace: Path | None,
    workload: Kind | None,
    requests_per_day: float | None,
    days: float | None,
    seed: int | None,
) -> _Source:
    if (trace is None) == (workload is None):
        raise ValueError("give either a trace or --workload, one of the two")
    if workload is None:
        if (requests_per_day, days, seed) != (None, None, None):
            raise ValueError(
                "--requests-per-day, --days and --seed belong to --workload; a trace has its own"
            )
        assert trace is not None
        rows = read_trace(trace)
        return _Source(str(trace), lambda: rows, len(rows), None)
    finite("--requests-per-day", requests_per_day)
    finite("--days", days)
    per_day = 10_000.0 if requests_per_day is None else requests_per_day
    made_up = Workload(SIZES[workload], per_day, 7.0 if days is None else days, seed or 0)
    return _Source(workload.value, lambda: month(made_up), int(per_day * made_up.days), per_day * _MONTH_DAYS)


def _settings(
    model: str | None,
    minimum_tokens: int | None,
    read: float | None,
    write_5m: float | None,
    write_1h: float | None,
) -> tuple[Settings, Price | None]:
    """Limits and rates: what was given, else the model's, else the defaults."""
    for option, rate in (("--read", read), ("--write-5m", write_5m), ("--write-1h", write_1h)):
        finite(option, rate)
    base, price = Settings(), None
    if model is not None:
        try:
            rules, price = rules_for(model), PriceTable().price(model, time.time())
        except (UnknownModel, UnknownPrice) as error:
            raise ConfigError(f"--model: {error}") from error
        if rules.implicit:
            raise ValueError(f"{rules.model} caches by itself and takes no breakpoints; give a Claude model")
        base = Settings(rules.minimum_tokens, price.rates(), rules.model)
    rates = Rates(
        base.rates.write_5m if write_5m is None else write_5m,
        base.rates.write_1h if write_1h is None else write_1h,
        base.rates.read if read is None else read,
    )
    if rates != base.rates:
        price = None  # money would follow the list, the decisions would not
    minimum_tokens = base.minimum_tokens if minimum_tokens is None else minimum_tokens
    return Settings(minimum_tokens, rates, base.model), price


def _monthly_usd(nano_usd: int | None, figures: "Figures", source: _Source) -> float | None:
    """Dollars of 30 days with the workload's mean of requests; None for a trace or without a price."""
    if nano_usd is None or source.per_month is None:
        return None
    return nano_usd / 1e9 * source.per_month / figures.requests


@contextmanager
def _written(path: Path | None) -> Iterator[TextIO | None]:
    with nullcontext() if path is None else path.open("w", encoding="utf-8") as lines:
        yield lines


def _bills(found: "list[Figures]", source: _Source, model: str | None) -> Table:
    priced = found[0].bill_nano_usd is not None
    money = ["$", "saving"] if source.per_month is None else ["$ / 30 days", "saving"]
    # In 80 columns there is room for dollars or for the planner's own time, and a cut figure is worse than none.
    last = ["read"] if priced else ["read", "written", "us p50", "us p99"]
    columns = ["policy", *(money if priced else []), "cost", "95 %", "regret", *last]
    title = f"{source.name}, {model}" if model else None
    table = Table(*columns, title=title, caption="cost and regret: of input, 1 = no caching")
    for figures in found:
        low, high = figures.interval
        split = figures.split
        written = (split.write_5m + split.write_1h) / max(1, split.total)
        usd = []
        if figures.bill_nano_usd is not None:
            monthly = _monthly_usd(figures.bill_nano_usd, figures, source)
            dollars = figures.bill_nano_usd / 1e9 if monthly is None else monthly
            usd = [f"{dollars:,.2f}", "-" if figures.saving is None else f"{figures.saving:.1%}"]
        times_us = (figures.decision_p50_us, figures.decision_p99_us)
        table.add_row(
            figures.policy,
            *usd,
            f"{figures.relative_cost:.4f}",
            f"{low:.3f}-{high:.3f}",
            "-" if figures.regret is None else f"{figures.regret:.4f}",
            f"{split.read / max(1, split.total):.1%}",
            *([] if priced else [f"{written:.1%}"]),
            *([] if priced else ["-" if time is None else f"{time:.0f}" for time in times_us]),
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
