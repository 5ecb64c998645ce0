"""Which ledger a verb reads: the option's, else the one of the settings."""

from pathlib import Path
from typing import Annotated

import typer

from router.config import load_config
from router.ledger import Place, place_of
from router.ledger_place import ledger_place

LedgerOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIRECTORY|URL",
        help="Directory of the ledger, or postgresql://user@host/name; default: the settings'.",
    ),
]


def place_asked(ledger: str | None, config: Path | None) -> Place:
    """Return the place that `--ledger` names, else the one of the settings."""
    return ledger_place(load_config(config)) if ledger is None else place_of(ledger)
