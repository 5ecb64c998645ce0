"""Time as a parameter: wall-clock seconds for belief, bills and tests that drive it.

Deadlines are spans of real time and belong to asyncio; this clock answers only "what time is it" for TTLs, prices
by date, and ledger rows, so a test or a demo can let five idle minutes pass at once.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the epoch, UTC."""

    def now(self) -> float:
        """Return the current time in seconds since the epoch."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return the current time in seconds since the epoch."""
        return time.time()
