"""`hybrid-router ledger`: take calls out as Parquet, move old ones into sums, look whether the tables agree."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from router.cli.instant import epoch_s
from router.cli.place import LedgerOption, place_asked
from router.clock import SystemClock
from router.config import ConfigError
from router.ledger import Filter, Ledger, LedgerLocked, LedgerReader, Place, Server, prefixes
from router.ledger.groups import DAY_S
from router.ledger.health import faults, notes
from router.ledger.past import SINCE, past_costs, pruned, whole_days
from router.money import usd

app = typer.Typer(no_args_is_help=True, help="Keep the ledger: export, prune, check.", rich_markup_mode=None)

ConfigOption = Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")]


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="File that ends in .parquet, or a folder for a file a day.")],
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    since: Annotated[
        str, typer.Option(help="From this time, inclusive: 2026-11-22 or 2026-11-22T10:00, UTC.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Write calls as Parquet, a column for a column of the ledger, money as whole nano-USD, the record beside it.

    Reads the ledger's file, also while a router writes to it. A folder gets day=YYYY-MM-DD/calls.parquet, by the day,
    UTC, of each call's start. Needs the extra "training".

    Example: hybrid-router ledger export --out calls.parquet --since 2026-11-01 --until 2026-12-01
    """
    from router.archive import export as export_calls

    where = Filter(since_s=epoch_s("--since", since), until_s=epoch_s("--until", until))
    with LedgerReader.open(place_asked(ledger, config)) as reader, _bar("calls", quiet) as tell:
        count, files = export_calls(reader, out, where, force=force, tell=tell)
    typer.echo(f"{count:,} calls in {len(files):,} {'file' if len(files) == 1 else 'files'}: {out}")


@app.command()
def prune(
    before: Annotated[str, typer.Option(help="Calls that began before this day, UTC: 2026-09-01.")] = "",
    older_than: Annotated[str, typer.Option(help="Or: calls older than so many days, e.g. 90d.")] = "",
    export_to: Annotated[
        Path | None, typer.Option("--export", help="Write them first, a file a day under this folder.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, change nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --export: replace files that are there.")
    ] = False,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Move old calls into sums by day, route, model, tenant and application; the calls themselves are gone then.

    Whole days, UTC. Their misses and judgements go too. Money over any time stays right: `costs` adds the sums up and
    says so. A router that runs holds its ledger: it prunes by itself, with keep_days under [ledger] in its settings.

    Example: hybrid-router ledger prune --older-than 400d --export ./calls
    """
    before_s = _before(before, older_than)
    place, where = place_asked(ledger, config), Filter(until_s=before_s)
    shown = time.strftime("%Y-%m-%d", time.gmtime(before_s))
    with LedgerReader.open(place) as reader:
        going = reader.totals(where)
    cost = usd(going.cost.total_nano_usd)
    if dry_run:
        typer.echo(f"{going.calls:,} calls from before {shown}, {cost}, would be moved into sums")
        return
    try:
        booked = _opened(place)
    except LedgerLocked as error:
        raise ConfigError(f"{error}. A running router prunes by itself: keep_days under [ledger]") from error
    try:
        if export_to is not None:
            from router.archive import export as export_calls

            with LedgerReader.open(place) as reader, _bar("calls written", quiet) as tell:
                export_calls(reader, export_to, where, force=force, tell=tell)
        done = 0
        with _bar("calls moved", quiet) as tell:
            while count := booked.prune_blocking(before_s):
                done += count
                tell(done, max(done, going.calls))
    finally:
        booked.close_blocking()
    typer.echo(f"{done:,} calls from before {shown}, {cost}, are kept as sums by day")


@app.command()
def check(ledger: LedgerOption = None, config: ConfigOption = None) -> None:
    """Look whether the tables agree: parts are the cost, every miss has its call, every try its role.

    Exit code 1 when something does not. Seconds for a million calls; also while a router runs.

    Example: hybrid-router ledger check --ledger ./ledger
    """
    with LedgerReader.open(place_asked(ledger, config)) as reader, reader.snapshot():
        wrong, known = reader.ask(faults, version=prefixes.SINCE), reader.ask(notes, version=SINCE)
        gone = reader.ask(pruned, version=SINCE)
        past = reader.ask(past_costs, version=SINCE)[0]
    for each in known:
        typer.echo(f"{each.count:>12,}  {each.name}")
    if gone is not None:
        shown = time.strftime("%Y-%m-%d", time.gmtime(gone.before_s))
        typer.echo(f"{past.calls:>12,}  calls kept as sums by day, from before {shown}")
        if past.calls != gone.calls:
            typer.echo(f"WRONG: {gone.calls:,} calls were moved into sums and {past.calls:,} are in them")
    for each in wrong:
        typer.echo(f"WRONG: {each.count:,} {each.name}, e.g. request {each.example}")
    if wrong or (gone is not None and past.calls != gone.calls):
        raise typer.Exit(1)


def _opened(place: Place) -> Ledger:
    """Open a ledger to prune it; beside the routers of a server with a journal of its own, which stays empty."""
    if isinstance(place, Server):
        directory = tempfile.mkdtemp(prefix="hybrid-router-ledger-")
        return Ledger.open(directory, clock=SystemClock(), server=place, remove=True)
    return Ledger.open(place.parent, clock=SystemClock())


def _before(before: str, older_than: str) -> float:
    """Return the day's beginning up to which calls go."""
    if bool(before) == bool(older_than):
        raise ConfigError("give one of --before and --older-than")
    now_s = SystemClock().now()
    if before:
        found = epoch_s("--before", before)
        assert found is not None, "it is not empty"
    else:
        days = older_than.removesuffix("d")
        if not days.isdecimal() or not int(days):
            raise ConfigError(f"--older-than: {older_than!r} is not a number of days such as 90d")
        found = now_s - int(days) * DAY_S
    if found > whole_days(now_s):
        raise ConfigError(
            "--before: today's calls cannot be moved yet; the latest is the beginning of today, UTC"
        )
    if before and found != whole_days(found):
        raise ConfigError("--before: calls go by whole days, UTC; give a date without a time")
    return whole_days(found)


@contextmanager
def _bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how far it is on standard error; yields what is told."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)
