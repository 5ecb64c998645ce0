"""`hybrid-router reconcile`: hold the ledger against what providers say they billed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import typer
from rich.console import Console, Group
from rich.text import Text

from router.cli.instant import epoch_s
from router.cli.place import LedgerOption, place_asked
from router.config import ConfigError
from router.invoices import Invoice, InvoiceError, read_invoice
from router.ledger import Filter, LedgerReader
from router.ledger.billed import billed_calls, billed_sums
from router.ledger.past import SINCE
from router.money import UNKNOWN, usd
from router.reconcile import EXPLAINED, Difference, Result, by_request, by_sum, result_json
from router.tables import blank_table, print_whole

FETCH_TIMEOUT_S = 30.0
AROUND_S = 86_400.0
"""How long before and after the window a line's call is looked for."""
SHOWN = 50


def reconcile(
    invoices: Annotated[
        list[str],
        typer.Argument(
            metavar="INVOICE...",
            help="Files, or http://HOST:PORT of a running sandbox: its invoice, Anthropic's usage or cost report "
            "(JSON), Google Cloud's billing export (CSV).",
        ),
    ],
    ledger: LedgerOption = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    since: Annotated[
        str, typer.Option(help="From this time, inclusive, UTC; default: what the invoice covers.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    accept_explained: Annotated[
        bool,
        typer.Option(
            "--accept-explained", help="Exit with 0 when the ledger had announced every difference."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all results and differences as JSON.")
    ] = False,
) -> None:
    """Compare the ledger with the providers' own figures: by request where there are ids, else by day and model.

    Each difference has a cause: unknown spend, a floor, another price or usage, a call that one side lacks, rounding.
    Give Anthropic's usage report beside its cost report to tell another price from other usage. Exit code 0 when all
    agree but for rounding, 1 when something differs, 2 when it could not be compared.

    Example: hybrid-router reconcile http://127.0.0.1:8400 --ledger ./ledger

    Example: hybrid-router reconcile cost_report.json usage_report.json google.csv --json
    """
    read = [(name, _read(name)) for name in invoices]
    window = (epoch_s("--since", since), epoch_s("--until", until))
    usage = next((each for _, each in read if each.kind == "anthropic_usage"), None)
    with LedgerReader.open(place_asked(ledger, config)) as reader, reader.snapshot():
        results = [(name, _compare(reader, each, usage, window)) for name, each in read]
    if as_json:
        print(json.dumps([{"invoice": name, **result_json(found)} for name, found in results]))
    else:
        console = Console(highlight=False)
        for name, found in results:
            print_whole(_shown(name, found), console)
    fine = all(found.agrees or (accept_explained and found.explained) for _, found in results)
    if not fine:
        raise typer.Exit(1)


def _compare(
    reader: LedgerReader,
    invoice: Invoice,
    usage: Invoice | None,
    window: tuple[float | None, float | None],
) -> Result:
    since_s, until_s = window
    if invoice.kind == "sandbox":
        around = Filter(
            since_s=None if since_s is None else since_s - AROUND_S,
            until_s=None if until_s is None else until_s + AROUND_S,
        )
        _say_what_is_gone(reader, Filter(since_s=since_s, until_s=until_s))
        return reader.ask(
            lambda connection: by_request(
                billed_calls(connection, around), invoice.lines, since_s=since_s, until_s=until_s
            )
        )
    charges = tuple(
        charge
        for charge in invoice.charges
        if (since_s is None or charge.start_s >= since_s) and (until_s is None or charge.end_s <= until_s)
    )
    if not charges:
        raise ConfigError("the report has nothing in this window")
    covered = Filter(
        since_s=min(charge.start_s for charge in charges) if since_s is None else since_s,
        until_s=max(charge.end_s for charge in charges) if until_s is None else until_s,
    )
    _say_what_is_gone(reader, covered)
    beside = usage if usage is not invoice else None
    sums = reader.ask(lambda connection: billed_sums(connection, covered))
    return by_sum(sums, replace(invoice, charges=charges), beside)


def _say_what_is_gone(reader: LedgerReader, where: Filter) -> None:
    """Name what the window has lost to sums by day: its lines on the invoice find no call."""
    past = reader.past(where) if reader.version >= SINCE else None
    if past is None:
        return
    day = datetime.fromtimestamp(past.before_s, UTC).date()
    some = (
        "calls" if past.sums is None else f"{past.sums.calls:,} calls, {usd(past.sums.cost.total_nano_usd)},"
    )
    typer.echo(
        f"not compared: {some} from before {day}, kept as sums by day; --since {day} leaves them out",
        err=True,
    )


# --- reading
# --------------------------------------------------------------------------------------------------------------


def _read(name: str) -> Invoice:
    """Read an invoice from a file or a running sandbox.

    Raises:
        ConfigError: It cannot be had, or is none; names it.
    """
    with _refused(name):
        if name.startswith(("http://", "https://")):
            return read_invoice(_fetched(name))
        return read_invoice(Path(name).read_text(encoding="utf-8"))


@contextmanager
def _refused(name: str) -> Iterator[None]:
    try:
        yield
    except InvoiceError as error:
        raise ConfigError(f"{name}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: is not text in UTF-8") from error


def _fetched(url: str) -> str:
    """Get an invoice over HTTP; the address of a sandbox alone means its invoice."""
    if urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + "/sandbox/invoice"
    try:
        with urlopen(url, timeout=FETCH_TIMEOUT_S) as answer:
            body: bytes = answer.read()
    except (URLError, TimeoutError, ValueError) as error:
        raise ConfigError(f"{url}: {error}") from error
    return body.decode()


# --- telling
# --------------------------------------------------------------------------------------------------------------


def _shown(name: str, found: Result) -> Group:
    """Lay one comparison out."""
    blocks: list[Any] = [Text(line) for line in _head(name, found)]
    if found.differences:
        words = ["cause", "what", "upstream", "model"]
        table = blank_table("Differences", [*words, "ledger", "invoice", "difference"], words=len(words))
        ordered = sorted(found.differences, key=lambda each: (each.cause in EXPLAINED, -abs(each.difference)))
        for each in ordered[:SHOWN]:
            # As Text: an id may be "[red]".
            table.add_row(*map(Text, _cells(each)))
        blocks.append(table)
        if len(ordered) > SHOWN:
            blocks.append(Text(f"{len(ordered) - SHOWN:,} more: --json has them all."))
        details = dict.fromkeys(
            f"{_spelled(each)}: {each.detail}." for each in ordered[:SHOWN] if each.detail
        )
        blocks += [Text(detail, style="dim") for detail in list(details)[:8]]
    return Group(*blocks)


def _head(name: str, found: Result) -> Iterator[str]:
    verdict = "agree" if found.agrees else "differ as announced" if found.explained else "DIFFER"
    things = "calls" if found.silent_unknown is not None else "sums"
    yield f"{name} ({found.kind.replace('_', ' ')}): ledger and invoice {verdict}."
    if found.invoice_nano_usd is None:
        yield f"Compared in tokens, {found.compared:,} sums, {found.equal:,} equal."
    else:
        difference = found.invoice_nano_usd - found.ledger_nano_usd
        yield (
            f"Ledger {usd(found.ledger_nano_usd)}, invoice {_money(found.invoice_nano_usd)}, difference "
            f"{_money(difference)}; {found.compared:,} {things} compared, {found.equal:,} equal."
        )
    if found.silent_unknown:
        count = "1 call" if found.silent_unknown == 1 else f"{found.silent_unknown:,} calls"
        yield f"{count} of unknown cost without a line: nothing was billed, as far as the invoice says."
    if found.left_out:
        yield f"{found.left_out:,} rows about other services were left out."


def _cells(each: Difference) -> tuple[str, ...]:
    if each.unit == "tokens":
        return (
            _spelled(each),
            each.what,
            each.upstream,
            each.model,
            "",
            "",
            f"{int(each.difference):+,} tokens",
        )
    return (
        _spelled(each),
        each.what,
        each.upstream,
        each.model,
        usd(each.ledger_nano_usd),
        "none" if each.invoice_nano_usd is None else _money(each.invoice_nano_usd),
        _money(each.difference),
    )


def _spelled(each: Difference) -> str:
    return each.cause.value.replace("_", " ")


def _money(nano_usd: Fraction | None) -> str:
    """Spell an amount; what is finer than a nano-dollar keeps its digits."""
    if nano_usd is None:
        return UNKNOWN
    if nano_usd.denominator == 1:
        return usd(int(nano_usd))
    exact = Decimal(nano_usd.numerator) / Decimal(nano_usd.denominator) / Decimal(10**9)
    return f"{'-' if exact < 0 else ''}${abs(exact):f}"
