"""`hybrid-router replay`: what a caching policy would have cost on a recorded trace or a made-up month."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TextIO

import typer
from rich.console import Console
from rich.progress import Progress

from cache.economics import Rates
from cache.regret import Regret
from cache.rules import UnknownModel, rules_for
from router.bursts import Bursts, bursts
from router.cli.instant import finite
from router.cli.replay_ledger import (
    ConfigOption,
    EveryCallOption,
    FromLedger,
    LedgerOption,
    SinceOption,
    UntilOption,
    ledger_asked,
    show_beside,
    to_dict,
    ways_of,
)
from router.cli.replay_tables import MONTH_DAYS, Source, bills, monthly_usd, reliability, shares
from router.config import ConfigError
from router.month import SIZES, Kind, Workload, month
from router.picture import drawable
from router.pricing import Price, PriceTable, UnknownPrice
from router.replay import Policy, Settings, decision
from router.replay import replay as served_one_by_one
from router.replay_bound import ClairvoyantBound
from router.replay_check import CostLine, compare, cost_line, increase, saved_line
from router.replay_choice import Chosen, runs_of, with_facts
from router.replay_plot import draw
from router.replay_trace import read_trace
from router.replay_warming import Warm

if TYPE_CHECKING:
    from router.replay_report import Figures

_PROGRESS_STEP = 200
_DEFAULT_MODEL = "claude-opus-5-5"
_MOST_PER_DAY = 1e8
_MOST_DAYS = 3_660


def replay(
    trace: Annotated[
        Path | None,
        typer.Argument(help="Requests as block ids, JSON lines (.gz allowed), or the directory of a ledger."),
    ] = None,
    policy: Annotated[
        list[Policy] | None, typer.Option(help="Policy to replay; repeat to compare. Default: auto.")
    ] = None,
    warm: Annotated[
        list[Warm] | None,
        typer.Option(
            help="What is kept warm between requests; repeat to compare, each with every --policy. Default: off."
        ),
    ] = None,
    hold_out: Annotated[
        float,
        typer.Option(
            min=0.0, max=0.9, help="Share of warms that are not sent, at random, to judge the others."
        ),
    ] = 0.05,
    judged: Annotated[
        bool,
        typer.Option(help="Stop warms for a while for traffic that loses by them; --no-judged never does."),
    ] = True,
    fact: Annotated[
        list[str] | None,
        typer.Option(
            help="Take an open fact as measured, in planner and provider: A2=yes (the upgrade ping works), A6=no (a "
            "warm is billed one output token)."
        ),
    ] = None,
    upgrade_ping: Annotated[
        bool,
        typer.Option(help="Send the upgrade ping where --fact A2=yes allows it; --no-upgrade-ping compares."),
    ] = True,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Write the decisions of the only policy here, one JSON line per request."),
    ] = None,
    workload: Annotated[
        Kind | None,
        typer.Option(
            help="Replay made-up traffic instead of a trace: a chat product (the document's sizes), agents, or traffic "
            "made for keep-alives to gain or to lose by."
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option(
            help="Replay the document's monthly table: no caching, A, B, C, its pinger, and what is advised."
        ),
    ] = False,
    requests_per_day: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=_MOST_PER_DAY, help="Of the workload; 10000 if not given, 2000 of one with bursts."
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=_MOST_DAYS, help="Of the workload; 7 if not given, 4 of one with bursts."
        ),
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
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
    every_call: EveryCallOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Replay requests through the cache planner on a virtual clock that cannot look ahead.

    Each request is planned from what the requests before it taught, and billed by a model of the provider's cache that
    the planner does not share. Costs are of input, in units of one uncached token; with a model also in dollars, output
    included, for a workload those of 30 days. 5m and 1h mark the whole prompt. Regret is what a policy costs above a
    bound that knows the future, without keep-alives, as a share of the cost without caching. Warms are part of every
    figure; those of a policy are judged by a hold-out as in the service, and switched off where they lose.

    Example: hybrid-router replay trace.jsonl.gz --policy auto --policy 5m --policy 1h

    Example: hybrid-router replay trace.jsonl.gz --warm off --warm keep_alive --warm auto

    Example: hybrid-router replay --workload saas --model claude-opus-5 --table

    Example: hybrid-router replay --workload losing --warm off --warm keep_alive --warm auto

    Example: hybrid-router replay --config router.toml --since 2026-11-01 --policy as_sent --policy auto --policy 1h

    Example: hybrid-router replay trace.jsonl.gz --json > baseline.json, and later, to fail a build that costs more:
    hybrid-router replay trace.jsonl.gz --baseline baseline.json --max-cost-increase 3%
    """
    booked = ledger_asked(
        trace, ledger, config, since, until, every_call=every_call, workload=workload is not None
    )
    if booked is not None:
        policy, warm = booked.ways(policy, warm, table)
    runs = ways_of(runs_of(policy, warm, table), booked)
    if decisions is not None and len(runs) > 1:
        raise ValueError("--decisions takes the decisions of one policy; give --policy and --warm once")
    check = _check(runs, max_cost_increase, baseline)
    if plot is not None:
        drawable("--plot", plot)
    source = _source(trace, workload, requests_per_day, days, seed, booked)
    if model is None and workload is not None:
        model = _DEFAULT_MODEL
    if model is None and booked is not None:
        model = booked.trace.model or None
    settings, price = _settings(model, minimum_tokens, read, write_5m, write_1h)
    settings = with_facts(settings, price, fact or [], hold_out, judged, upgrade_ping)
    # numpy takes a tenth of a second to load, which --help need not wait for.
    from router.replay_report import Figures, Tally

    found: list[Figures] = []
    clairvoyant = ClairvoyantBound(settings.minimum_tokens, settings.rates)
    with Progress(console=Console(stderr=True), disable=as_json) as bar, _written(decisions) as lines:
        for chosen in runs:
            task = bar.add_task(chosen.name, total=source.expected)
            tally = Tally(chosen.policy, settings.rates, price, name=chosen.name, facts=settings.facts)
            regret = Regret()
            served_rows = served_one_by_one(
                source.rows(),
                chosen.policy,
                settings._replace(warming=replace(settings.warming, policy=chosen.warm)),
                timer=time.perf_counter_ns,
                on_ping=tally.add_warm,
                regret=regret,
            )
            for done, served in enumerate(served_rows, 1):
                tally.add(served)
                if not found:  # once: it depends on the trace alone
                    clairvoyant.add(served.row)
                if lines is not None:
                    lines.write(json.dumps(decision(served), separators=(",", ":")) + "\n")
                if done % _PROGRESS_STEP == 0:
                    bar.update(task, completed=done)
            found.append(tally.figures(regret)._replace(bound_units=clairvoyant.units))
            bar.update(task, total=found[-1].requests, completed=found[-1].requests)
    if as_json:
        per_month = [monthly_usd(figures.bill_nano_usd, figures, source) for figures in found]
        rows = [
            figures.to_dict() | {"usd_per_month": usd} for figures, usd in zip(found, per_month, strict=True)
        ]
        told = {} if booked is None else {"ledger": to_dict(booked.trace, settings.rates)}
        print(json.dumps({"trace": source.name, "model": model, "policies": rows} | told))
    else:
        if booked is not None:
            show_beside(booked.trace, found, settings.rates)
        _show(found, source, model)
        if table:
            Console().print(shares(found, source))
    if plot is not None:
        draw(plot, found, source.name)
    if check is not None:
        _judge(check, found)


def _show(found: "list[Figures]", source: Source, model: str | None) -> None:
    console = Console()
    console.print(bills(found, source, model))
    for figures in found:
        for title, judged in (("P(warm)", figures.warm), ("P(return < 5 min)", figures.returns)):
            if judged.requests and figures.policy.partition(" ")[0] not in ("5m", "1h", "none", "as_sent"):
                console.print(reliability(f"{figures.policy}: {title}", judged))


class _Check(NamedTuple):
    """What `--max-cost-increase` compares with: a saved report's row, or None for the second policy's."""

    limit: Fraction
    saved: CostLine | None


def _check(runs: list[Chosen], limit: str, baseline: Path | None) -> _Check | None:
    if not limit:
        if baseline is not None:
            raise ValueError("--baseline goes with --max-cost-increase")
        return None
    allowed = increase(limit)
    if baseline is not None:
        return _Check(allowed, saved_line(baseline, runs[0].name))
    if len(runs) < 2:
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
    booked: FromLedger | None,
) -> Source:
    if booked is None and (trace is None) == (workload is None):
        raise ValueError("give either a trace, a ledger or --workload, one of them")
    if workload is None:
        if (requests_per_day, days, seed) != (None, None, None):
            raise ValueError(
                "--requests-per-day, --days and --seed belong to --workload; a trace has its own"
            )
        if booked is not None:
            return Source(str(booked.trace.place), booked.rows, booked.trace.expected, None)
        assert trace is not None
        rows = read_trace(trace)
        return Source(str(trace), lambda: rows, len(rows), None)
    finite("--requests-per-day", requests_per_day)
    finite("--days", days)
    per_day = 10_000.0 if requests_per_day is None else requests_per_day
    if workload in (Kind.WINNING, Kind.LOSING):
        per_day = 2_000.0 if requests_per_day is None else requests_per_day
        made = Bursts(workload is Kind.LOSING, per_day, 4.0 if days is None else days, seed or 0)
        return Source(workload.value, lambda: bursts(made), int(per_day * made.days), per_day * MONTH_DAYS)
    made_up = Workload(SIZES[workload], per_day, 7.0 if days is None else days, seed or 0)
    return Source(workload.value, lambda: month(made_up), int(per_day * made_up.days), per_day * MONTH_DAYS)


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


@contextmanager
def _written(path: Path | None) -> Iterator[TextIO | None]:
    with nullcontext() if path is None else path.open("w", encoding="utf-8") as lines:
        yield lines
