"""Where the settings say that calls are booked.

The rule: with `ledger.url` on its server, else in SQLite's file in `ledger.path`. The password comes from where
`router.config` finds it, and stays in the `Server`, which does not show it.
"""

from pathlib import Path

from router.config import Config, ledger_password
from router.ledger import DATABASE, Place, Server


def ledger_server(config: Config) -> Server | None:
    """Return the server of the ledger, None when it is a file.

    Raises:
        ConfigError: The password's file cannot be read.
    """
    return Server(config.ledger.url, ledger_password(config)) if config.ledger.url else None


def ledger_place(config: Config) -> Place:
    """Return where the ledger's database is.

    Raises:
        ConfigError: The password's file cannot be read.
    """
    return ledger_server(config) or Path(config.ledger.path) / DATABASE
