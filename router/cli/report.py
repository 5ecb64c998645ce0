"""`hybrid-router report`: one HTML page about a window of the ledger, to read, to print, to send."""

import os
from pathlib import Path
from typing import Annotated

import typer

from router.cli.instant import epoch_s
from router.cli.place import LedgerOption, place_asked
from router.config import ConfigError
from router.ledger import Filter, LedgerReader


def report(
    out: Annotated[Path, typer.Option(help="Write the page here; - is standard output.")] = Path(
        "report.html"
    ),
    ledger: LedgerOption = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    since: Annotated[
        str, typer.Option(help="From this time, inclusive: 2026-11-22 or 2026-11-22T10:00, UTC.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    application: Annotated[str, typer.Option(help="Only this application.")] = "",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "LLM spend and routing",
) -> None:
    """Write spend, savings, routes, cache, classifier, latency and what is unknown as one self-contained HTML page.

    Charts are inline SVG with a table behind each; nothing is loaded, nothing is run, and no prompt or answer is in it.
    The same ledger and window give the same bytes. Reads the ledger's file, also while a router writes to it.

    Example: hybrid-router report --ledger ./ledger --since 2026-11-01 --out november.html
    """
    from router.page import figures_of, page

    where = Filter(
        since_s=epoch_s("--since", since),
        until_s=epoch_s("--until", until),
        equal={name: value for name, value in (("tenant", tenant), ("application", application)) if value},
    )
    if where.since_s is not None and where.until_s is not None and where.until_s <= where.since_s:
        raise ConfigError("--until: is not later than --since")
    with LedgerReader.open(place_asked(ledger, config)) as reader:
        text = page(figures_of(reader, where), title=title)
    if str(out) == "-":
        print(text, end="")
        return
    part = out.with_name(f".{out.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, out)
    typer.echo(f"wrote {out}, {len(text.encode()):,} bytes", err=True)
