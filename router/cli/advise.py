"""`hybrid-router advise`: the strategy document's decision framework for one application, with today's numbers."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cache.advice_menu import AHEAD
from router.cli.instant import epoch_s, finite
from router.cli.place import LedgerOption
from router.config import ConfigError, load_config
from router.ledger import LedgerReader, Server, place_of
from router.ledger_place import ledger_place
from router.money import percent, ratio, usd

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.advice_menu import Way
    from cache.decision import Decision
    from router.adviser import Report
    from router.assumed_traffic import Assumption

_BAR_FROM = 20_000
"""Requests from which reading them takes long enough for a progress bar."""
_NANO_PER_CENT = 10_000_000


def advise(
    application: Annotated[str, typer.Argument(help="Registered application.", metavar="APP")],
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that register it.")] = None,
    ledger: LedgerOption = None,
    since: Annotated[str, typer.Option(help="Traffic from this time, inclusive: 2026-11-22, UTC.")] = "",
    until: Annotated[str, typer.Option(help="Traffic to this time, exclusive.")] = "",
    requests_per_day: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1e8,
            help="Opus requests a day: scales the ledger's traffic, or replaces it when there is none.",
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Assumed traffic: people who send it.")
    ] = None,
    model: Annotated[str, typer.Option(help="Opus model to advise on; default: the settings'.")] = "",
    gaps: Annotated[
        str, typer.Option(help="Assumed traffic: pauses within a session: short, human or poisson:PER_HOUR.")
    ] = "",
    turns: Annotated[
        float | None, typer.Option(min=1, max=1000, help="Assumed traffic: mean requests per session.")
    ] = None,
    context_tokens: Annotated[
        int | None,
        typer.Option(min=0, max=1_000_000, help="Size of the user context; default: as observed, or 500."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tree and the figures as JSON.")] = False,
) -> None:
    """Show whether and how to cache an application: each decision with its number, its threshold and what it saves.

    Uses the Opus requests the ledger holds of the application. Where it holds none, or with --gaps, --users or
    --turns, traffic is assumed, so that a month can be priced before it starts.

    Example: hybrid-router advise helpdesk --requests-per-day 10000 --gaps human
    """
    from router.adviser import Question, report

    finite("--requests-per-day", requests_per_day)
    finite("--turns", turns)
    settings = load_config(config)
    place = ledger_place(settings) if ledger is None else place_of(ledger)
    held = isinstance(place, Server) or place.exists()
    if ledger is not None and not held:
        raise ConfigError(f"--ledger: there is no ledger database at {place}")
    with ExitStack() as stack:
        reader = stack.enter_context(LedgerReader.open(place)) if held else None
        question = Question(
            application=application,
            now_s=time.time(),
            model=model,
            since_s=epoch_s("--since", since),
            until_s=epoch_s("--until", until),
            requests_per_day=requests_per_day,
            context_tokens=context_tokens,
        )
        assumption = _assumption(requests_per_day, users, gaps, turns, context_tokens)
        wanted = bool(users or gaps or turns)
        progress = stack.enter_context(_bar())
        found = report(question, settings, reader, assumption=assumption, assume=wanted, progress=progress)
    if as_json:
        print(json.dumps(_as_json(found), indent=2))
        return
    _print(found, Console(highlight=False))


def _assumption(
    requests_per_day: float | None,
    users: int | None,
    gaps: str,
    turns: float | None,
    context_tokens: int | None,
) -> "Assumption | None":
    from router.assumed_traffic import SEED_CONTEXT_TOKENS, Assumption, parse_gaps

    if requests_per_day is None:
        if users or gaps or turns:
            raise ConfigError("--requests-per-day: is missing; assumed traffic needs a volume")
        return None
    return Assumption(
        requests_per_day=requests_per_day,
        users=users,
        gaps=parse_gaps(gaps or "human"),
        turns=turns or 3.0,
        context_tokens=SEED_CONTEXT_TOKENS if context_tokens is None else context_tokens,
    )


@contextmanager
def _bar() -> "Iterator[Callable[[int, int], None]]":
    """A bar on standard error once there is much to read; gone when it is done."""
    columns = (TextColumn("reading the ledger"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        shown: list[tuple[Progress, Any]] = []

        def update(done: int, total: int) -> None:
            if total < _BAR_FROM:
                return
            if not shown:
                bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
                shown.append((bar, bar.add_task("", total=total)))
            bar, task = shown[0]
            bar.update(task, completed=done)

        yield update


# --- text
# --------------------------------------------------------------------------------------------------------------


def _print(found: "Report", console: Console) -> None:
    for line in _head(found):
        console.print(Text(line))
    tree = Tree(_label(found, found.advice.tree))
    _grow(found, tree, found.advice.tree)
    console.print()
    console.print(tree)
    if found.advice.ways:
        console.print(_ways(found))
    console.print(_months(found))
    for line in _notes(found):
        console.print(Text(line))
    console.print(Text("\nSettings:\n\n" + found.snippet))


def _head(found: "Report") -> Iterator[str]:
    facts, rates = found.facts, found.facts.rates
    yield (
        f"{found.application} on {found.rules.model}: minimum {found.rules.minimum_tokens:,} tokens"
        f"{'' if found.rules.minimum_confirmed else ' (not confirmed by its page)'}; an uncached token is one unit, "
        f"read {rates.read:g}, written for 5 minutes {rates.write_5m:g}, for 1 hour {rates.write_1h:g}."
    )
    sizes = "as the provider counted them" if found.exact_sizes else f"estimated, +- {facts.uncertainty:.0%}"
    context = f"{facts.stable.context_tokens:,.0f}" if facts.context_known else "unknown"
    yield (
        f"Tools {facts.tools_tokens:,.0f} tokens, tools and system {facts.stable.shared_tokens:,.0f}, {sizes}; "
        f"user context {context}."
    )
    observed = facts.observed
    kind = "Assumed" if facts.assumed else "Seen"
    yield (
        f"{kind}: {observed.request_count:,} Opus requests in {observed.session_count:,} sessions over "
        f"{found.seen_days:.1f} days; {observed.one_off_count:,} sessions are one request; figures per month are of "
        f"{float(found.requests_per_month):,.0f} requests."
    )


def _grow(found: "Report", tree: Tree, decision: "Decision") -> None:
    for child in decision.children:
        _grow(found, tree.add(_label(found, child)), child)


def _label(found: "Report", decision: "Decision") -> Text:
    label = Text(decision.question + " ")
    label.append(decision.verdict.value.upper(), style="bold")
    facts = _figures(decision)
    if decision.effect_units is not None:
        facts.append(f"worth {_dollars(found.monthly_nano_usd(decision.effect_units))} a month")
    if facts:
        label.append("\n" + "; ".join(facts), style="")
    if decision.why:
        label.append("\n" + decision.why, style="dim")
    if decision.seed:
        label.append("\nthe document " + decision.seed, style="italic")
    return label


def _figures(decision: "Decision") -> list[str]:
    """The number, its interval and its threshold."""
    found = []
    if decision.today is not None:
        text = f"{_number(decision.today)} {decision.unit}"
        if decision.interval is not None:
            low, high = decision.interval
            text += f" ({_number(low)} to {_number(high)})"
        found.append(text)
    if decision.threshold is not None:
        found.append(f"threshold {_number(decision.threshold)}" + ("" if found else f" {decision.unit}"))
    return found


def _number(value: float) -> str:
    if value == inf:
        return "every"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _ways(found: "Report") -> Table:
    """Every way to keep a prefix warm, in money: per month of these requests, or per warm."""
    title = "Keeping prefixes warm, as if each stayed the same between requests"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("")
    for column in ("cost", "against nothing"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("by")
    before = ""
    for way in found.advice.ways:
        cost, value = _way_nano_usd(found, way)
        note = " (best)" if way.best else ""
        if way.needs_fact and not found.facts.upgrade_verified:
            note = " (off: not measured, see hybrid-router probe)"
        shown = way.prefix if way.prefix != before else ""
        table.add_row(shown, way.way + note, _dollars(cost), _dollars(value), way.inputs)
        before = way.prefix
    return table


def _way_nano_usd(found: "Report", way: "Way") -> tuple[int, int]:
    """What a way costs and saves: in a month, or per warm where it is ahead of a request."""
    if way.prefix == AHEAD:
        return round(way.units * found.unit_nano_usd), round(way.value_units * found.unit_nano_usd)
    return found.monthly_nano_usd(way.units), found.monthly_nano_usd(way.value_units)


def _months(found: "Report") -> Table:
    table = Table(title="A month of 30 days", box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("cost", "saved against no caching", "%"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found.rows:
        saving = row.saving_nano_usd
        whole = None if saving is None or row.month_nano_usd is None else row.month_nano_usd + saving
        share = None if saving is None or whole is None else ratio(saving, whole)
        table.add_row(row.name, _dollars(row.month_nano_usd), _dollars(saving), percent(share, signed=True))
    return table


def _notes(found: "Report") -> Iterator[str]:
    yield "Output is paid alike in every row; only input differs."
    spent = found.spent
    if spent is None:
        return
    days = f"{float(spent.days):.2f} days"
    yield (
        f"Observed: {usd(spent.cost_nano_usd)} for {spent.calls:,} Opus calls over {days}"
        + (f", {spent.unknown_calls:,} of unknown cost not in it" if spent.unknown_calls else "")
        + "."
    )
    if spent.interval is not None:
        low, high = (round(value * 30) for value in spent.interval)
        yield f"By the spread of its days a month costs {_dollars(low)} to {_dollars(high)} (95 %)."
    elif found.seen_days < 3:
        yield "Fewer than three whole days were seen: a month may look quite different."


def _dollars(nano_usd: int | None) -> str:
    """An amount of a month, to the cent; below a dollar to three figures."""
    if nano_usd is None:
        return usd(None)
    if 0 < abs(nano_usd) < 100 * _NANO_PER_CENT:
        return usd(round(nano_usd, 3 - len(str(abs(nano_usd))))).rstrip("0").rstrip(".")
    cents = round(Fraction(abs(nano_usd), _NANO_PER_CENT))
    return f"{'-' if nano_usd < 0 else ''}${cents // 100:,}.{cents % 100:02d}"


# --- JSON
# --------------------------------------------------------------------------------------------------------------


def _as_json(found: "Report") -> dict[str, Any]:
    facts, observed, spent = found.facts, found.facts.observed, found.spent
    return {
        "application": found.application,
        "model": found.rules.model,
        "minimum_tokens": found.rules.minimum_tokens,
        "assumed": facts.assumed,
        "requests": observed.request_count,
        "sessions": observed.session_count,
        "one_off_sessions": observed.one_off_count,
        "seen_days": found.seen_days,
        "requests_per_month": float(found.requests_per_month),
        "shared_tokens": facts.stable.shared_tokens,
        "shared_tokens_exact": found.exact_sizes,
        "context_tokens": facts.stable.context_tokens if facts.context_known else None,
        "observed": None
        if spent is None
        else {
            "cost_nano_usd": spent.cost_nano_usd,
            "no_caching_nano_usd": spent.no_caching_nano_usd,
            "calls": spent.calls,
            "unknown_calls": spent.unknown_calls,
            "days": float(spent.days),
        },
        "months": [
            {"name": row.name, "cost_nano_usd": row.month_nano_usd, "saving_nano_usd": row.saving_nano_usd}
            for row in found.rows
        ],
        "ways": [_way_json(found, way) for way in found.advice.ways],
        "decision": _decision_json(found, found.advice.tree),
        "settings_toml": found.snippet,
    }


def _way_json(found: "Report", way: "Way") -> dict[str, Any]:
    cost, value = _way_nano_usd(found, way)
    return {
        "prefix": way.prefix,
        "way": way.way,
        "per": "warm" if way.prefix == AHEAD else "month",
        "cost_nano_usd": cost,
        "value_nano_usd": value,
        "by": way.inputs,
        "best": way.best,
        "may_be_sent": not way.needs_fact or found.facts.upgrade_verified,
    }


def _decision_json(found: "Report", decision: "Decision") -> dict[str, Any]:
    effect = decision.effect_units
    return {
        "key": decision.key,
        "question": decision.question,
        "verdict": decision.verdict.value,
        "today": None if decision.today == inf else decision.today,
        "threshold": decision.threshold,
        "unit": decision.unit,
        "interval": None
        if decision.interval is None or inf in decision.interval
        else list(decision.interval),
        "effect_units_per_request": effect,
        "effect_nano_usd_per_month": None if effect is None else found.monthly_nano_usd(effect),
        "why": decision.why,
        "seed": decision.seed,
        "children": [_decision_json(found, child) for child in decision.children],
    }
