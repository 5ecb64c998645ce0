"""`hybrid-router doctor`: say from the ledger what cache misses cost, why, and what to do about it."""

import json
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from router.cli.instant import epoch_s
from router.cli.place import LedgerOption, place_asked
from router.config import ConfigError
from router.doctor import (
    EXAMPLES,
    Diagnosis,
    Evidence,
    call_groups,
    cause_groups,
    diagnose,
    diagnosis_json,
    finding_groups,
    part_groups,
)
from router.ledger import Filter, LedgerReader
from router.money import NANO_PER_USD, usd
from router.tables import diagnosis_tables, print_whole

DEFAULT_TOP = 10


class Dimension(StrEnum):
    """What findings are made of."""

    CAUSE = "cause"
    LAYER = "layer"
    APPLICATION = "application"
    TENANT = "tenant"
    MODEL = "model"
    SESSION = "session"
    STRATEGY = "strategy"
    DAY = "day"
    LABEL = "label"
    PROVIDER_CAUSE = "provider_cause"


def doctor(
    ledger: LedgerOption = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    since: Annotated[
        str, typer.Option(help="From this time, inclusive: 2026-11-22 or 2026-11-22T10:00, UTC.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    application: Annotated[str, typer.Option(help="Only this application.")] = "",
    by: Annotated[Dimension, typer.Option(help="What findings are made of.")] = Dimension.CAUSE,
    label: Annotated[str, typer.Option(help="With --by label: the label's key.")] = "",
    top: Annotated[int, typer.Option(min=1, max=1000, help="Findings to show.")] = DEFAULT_TOP,
    fail_over: Annotated[
        str, typer.Option(help="Exit with code 1 when misses are known to have cost more than so many USD.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Show what cache misses on Opus cost, dearest first, with their cause and what to do about it.

    Reads the ledger's file, also while a router writes to it. Exit code 1 only with --fail-over.

    Example: hybrid-router doctor --since 2026-11-01 --by application
    """
    if ledger is not None and config is not None:
        raise ConfigError("--ledger and --config both name a ledger; give one of them")
    if (by is Dimension.LABEL) != bool(label):
        raise ConfigError("--by label and --label KEY go together")
    limit_nano_usd = _nano_usd(fail_over) if fail_over else None
    where = Filter(
        since_s=epoch_s("--since", since),
        until_s=epoch_s("--until", until),
        equal={name: value for name, value in (("tenant", tenant), ("application", application)) if value},
    )
    with LedgerReader.open(place_asked(ledger, config)) as reader:
        evidence = evidence_of(reader, f"label:{label}" if label else by.value, where)
    found = diagnose(evidence, top=top)
    if as_json:
        print(json.dumps(diagnosis_json(found)))
    else:
        print_whole(diagnosis_tables(found))
    if limit_nano_usd is not None and found.lost_nano_usd > limit_nano_usd:
        typer.echo(_over(found, limit_nano_usd), err=True)
        raise typer.Exit(1)


def evidence_of(reader: LedgerReader, by: str, where: Filter) -> Evidence:
    """Ask the ledger all that a diagnosis by `by` needs, of one instant.

    Raises:
        ValueError: `by` is not a group of misses.
        StoreError: The ledger is of an older release, or cannot be read.
    """
    with reader.snapshot():
        return Evidence(
            by=by,
            total=reader.misses((), where),
            groups=reader.misses(finding_groups(by), where),
            parts=reader.misses(part_groups(by), where),
            causes=reader.misses(cause_groups(by), where),
            examples=reader.dearest_misses(finding_groups(by), where, limit=EXAMPLES),
            purposes=reader.caching(("purpose",), where),
            applications=reader.caching(call_groups(by), where),
        )


def _nano_usd(text: str) -> int:
    try:
        amount = Decimal(text) * NANO_PER_USD
        whole = int(amount)
    except (InvalidOperation, OverflowError, ValueError):
        raise ConfigError(f"--fail-over: {text!r} is not an amount in USD such as 12.50") from None
    if amount < 0 or amount != whole:
        raise ConfigError(f"--fail-over: {text!r} is not an amount of at least 0 in whole nano-USD")
    return whole


def _over(found: Diagnosis, limit_nano_usd: int) -> str:
    return f"misses cost {usd(found.lost_nano_usd)}, more than {usd(limit_nano_usd)}"
