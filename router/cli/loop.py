"""How verbs run the event loop and keep logs: uvloop where it is installed, one line per event on standard error."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a fresh loop."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def log_to_stderr(level: str) -> None:
    """Log at `level` and above. No log line of this service holds prompt or answer text.

    Raises:
        ValueError: `level` is not a logging level.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # Their INFO lines name every request and would double our own account of it.
    for name in ("httpx2", "httpcore2", "google_genai", "anthropic", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
