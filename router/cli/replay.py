"""`hybrid-router replay`: what a caching policy would have cost on a recorded trace or a made-up month."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import typer
from rich.console import Console

from cache.economics import Rates
from cache.rules import UnknownModel, rules_for
from router import bursts as of_bursts
from router.bursts import Bursts, bursts
from router.cli import replay_options as options
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
from router.cli.replay_run import foreseen_of, replayed
from router.cli.replay_tables import MONTH_DAYS, Source, bills, chances, monthly_usd, reliability, shares
from router.config import ConfigError
from router.month import SIZES, Kind, Session, Workload, month
from router.picture import drawable
from router.pricing import Price, PriceTable, UnknownPrice
from router.replay import Settings
from router.replay_check import CostLine, compare, cost_line, increase, saved_line
from router.replay_choice import Chosen, runs_of, with_facts
from router.replay_plot import draw
from router.replay_trace import OPENED, TraceRow, read_trace
from router.replay_warming import Warm
from router.signals import OPENED_AHEAD_S, opened, signalled

if TYPE_CHECKING:
    from router.replay_report import Figures


def replay(
    trace: options.Trace = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
    every_call: EveryCallOption = False,
    workload: options.Workload = None,
    requests_per_day: options.RequestsPerDay = None,
    days: options.Days = None,
    seed: options.Seed = None,
    policy: options.PolicyOption = None,
    warm: options.WarmOption = None,
    strategies: options.Strategies = False,
    table: options.TableOption = False,
    model: options.Model = None,
    minimum_tokens: options.MinimumTokens = None,
    read: options.Read = None,
    write_5m: options.Write5m = None,
    write_1h: options.Write1h = None,
    second_usd: options.SecondUsd = 0.0,
    hold_out: options.HoldOut = 0.05,
    judged: options.Judged = True,
    action: options.Actions = None,
    score: options.Score = 0.2,
    foresight: options.ForesightOption = None,
    fit_foresight: options.FitForesight = "",
    fact: options.Fact = None,
    upgrade_ping: options.UpgradePing = True,
    max_cost_increase: options.MaxCostIncrease = "",
    baseline: options.Baseline = None,
    plot: options.Plot = None,
    decisions: options.Decisions = None,
    as_json: options.AsJson = False,
) -> None:
    """What would the same traffic have cost under another way of caching?

    What is sent to a model, the prompt, is billed by tokens, some three quarters of a word each. The provider keeps the
    beginning of a prompt for 5 minutes or an hour, if asked to. Keeping it costs a quarter or the whole of its price on
    top; finding it again costs a tenth or less. Each request is decided knowing only what came before it, as in
    service, and billed by the provider's published rules.

    The table shows, for each way compared: dollars (with a model; for made-up traffic those of 30 days; answers
    included) and what caching saved of them; cost, of prompts alone, 1 being no caching; regret, how much of that is
    above the least that anyone could pay who knew the future; read, the share found again; warms, calls that keep a
    prompt's beginning for somebody who may come back, their share of the cost, and how many were not made because they
    had lost money; and the seconds until an answer begins. Warms are part of every figure.

    Example: hybrid-router replay trace.jsonl.gz --policy auto --policy 5m --policy 1h

    Example: hybrid-router replay trace.jsonl.gz --model claude-opus-5 --strategies

    Example: hybrid-router replay --workload saas --model claude-opus-5 --table

    Example: hybrid-router replay --workload losing --warm off --warm keep_alive --warm auto

    Example: hybrid-router replay trace.jsonl.gz --warm auto --fit-foresight 50%

    Example: hybrid-router replay --config router.toml --since 2026-11-01 --policy as_sent --policy auto --policy 1h

    Example: hybrid-router replay trace.jsonl.gz --json > baseline.json, and later, to fail a build that costs more:
    hybrid-router replay trace.jsonl.gz --baseline baseline.json --max-cost-increase 3%
    """
    booked = ledger_asked(
        trace, ledger, config, since, until, every_call=every_call, workload=workload is not None
    )
    if booked is not None:
        policy, warm = booked.ways(policy, warm, table)
    foresees = foresight is not None or bool(fit_foresight)
    runs = ways_of(runs_of(policy, warm, table, strategies=strategies, foresight=foresees), booked)
    booked = None if booked is None else booked.fit_for(runs)
    if decisions is not None:
        _decidable(runs)
    check = _check(runs, max_cost_increase, baseline)
    if plot is not None:
        drawable("--plot", plot)
    source = _signalling(_source(trace, workload, requests_per_day, days, seed, booked), runs)
    if model is None and workload is not None:
        model = options.DEFAULT_MODEL
    if model is None and booked is not None:
        model = booked.trace.model or None
    finite("--second-usd", second_usd)
    settings, price = _settings(model, minimum_tokens, read, write_5m, write_1h)
    settings = with_facts(
        settings,
        price,
        fact or [],
        hold_out,
        judged,
        upgrade_ping,
        second_usd=second_usd,
        actions=action,
        score=score,
    )
    source, foreseen = foreseen_of(source, foresight, fit_foresight)
    found = replayed(runs, source, settings, price, foreseen, decisions, quiet=as_json)
    if booked is not None and not as_json:
        show_beside(booked.trace, found, settings.rates)
    told = {} if booked is None else {"ledger": to_dict(booked.trace, settings.rates)}
    _tell(found, source, model, told, table=table, as_json=as_json)
    if plot is not None:
        draw(plot, found, source.name)
    if check is not None:
        _judge(check, found)


def _tell(
    found: "Sequence[Figures]",
    source: Source,
    model: str | None,
    told: Mapping[str, object],
    *,
    table: bool,
    as_json: bool,
) -> None:
    """Print the figures, in JSON with what else is `told`."""
    if not as_json:
        _show(found, source, model)
        if table:
            Console().print(shares(found, source))
        return
    per_month = [monthly_usd(figures.bill_nano_usd, figures, source) for figures in found]
    rows = [figures.to_dict() | {"usd_per_month": usd} for figures, usd in zip(found, per_month, strict=True)]
    print(json.dumps({"trace": source.name, "model": model, "notes": source.notes, "policies": rows, **told}))


def _show(found: "Sequence[Figures]", source: Source, model: str | None) -> None:
    console = Console()
    console.print(bills(found, source, model))
    for note in source.notes:
        console.print(note, highlight=False, markup=False)
    if any(figures.foreseen.requests for figures in found):
        console.print(chances(found))
    for figures in found[: 1 if len(found) == 1 else 0]:  # of several, --json has them
        for title, judged in (("P(warm)", figures.warm), ("P(return < 5 min)", figures.returns)):
            if judged.requests and figures.policy.partition(" ")[0] not in ("5m", "1h", "none", "as_sent"):
                console.print(reliability(f"{figures.policy}: {title}", judged))


class _Check(NamedTuple):
    """What `--max-cost-increase` compares with: a saved report's row, or None for the second policy's."""

    limit: Fraction
    saved: CostLine | None


def _decidable(runs: Sequence[Chosen]) -> None:
    if len(runs) > 1:
        raise ValueError("--decisions takes the decisions of one policy; give --policy and --warm once")
    if runs[0].warm in (Warm.SESSION_START, Warm.PREDICTIVE):
        raise ValueError(
            f"--decisions are made with a request; those of --warm {runs[0].warm.value} fall between requests"
        )


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

        def documents() -> Iterator[TraceRow]:
            return signalled(bursts(made), of_bursts.SIZES, made.seed, _own_document)

        return Source(workload.value, documents, int(per_day * made.days), per_day * MONTH_DAYS)
    made_up = Workload(SIZES[workload], per_day, 7.0 if days is None else days, seed or 0)

    def signalling() -> Iterator[TraceRow]:
        return signalled(
            month(made_up),
            made_up.sizes,
            made_up.seed,
            lambda number, random: Session(number, random.randrange(made_up.users), 1),
        )

    return Source(workload.value, signalling, int(per_day * made_up.days), per_day * MONTH_DAYS)


def _own_document(number: int, _: Random) -> Session:
    return Session(number, number, 1)


def _signalling(source: Source, runs: Sequence[Chosen]) -> Source:
    """The source with what its ways to warm have to be told; made-up traffic tells it already.

    Raises:
        ValueError: A recorded trace does not tell what users did, nor turns on Flash.
    """
    warms = {each.warm for each in runs}
    if source.per_month is not None or not warms & {Warm.SESSION_START, Warm.PREDICTIVE}:
        return source
    rows = list(source.rows())
    if Warm.PREDICTIVE in warms and not any(
        row.score is not None or row.event not in ("", OPENED) for row in rows
    ):
        raise ValueError(
            "--warm predictive: the trace tells no user's action and no scored turn on Flash; router/REPLAY.md has the "
            "optional fields"
        )
    if Warm.SESSION_START not in warms or any(row.event == OPENED for row in rows):
        return source
    known = list(opened(rows))
    openings = len(known) - len(rows)
    if not openings:
        return source.noted(
            "no openings are recorded, nor tools and system prompt: session_start has nothing to go by"
        )
    return source._replace(rows=lambda: known).noted(
        f"no openings are recorded: {openings:,} sessions are taken to be opened {OPENED_AHEAD_S:g} s before their "
        "first request, knowing tools and system prompt, and none for nothing: the best case of session_start"
    )


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
