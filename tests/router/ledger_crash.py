"""A process that journals and settles until it is killed, and says what it was promised.

Run as `python ledger_crash.py DIRECTORY PREFIX`. Each promise is one line on standard output: "I id" once
`journal_intent` has returned, "S id" once `settle` has. Every third call stays open while others come and go.
"""

import os
import sys

from router.ledger import Ledger, LedgerSettings
from tests.router.ledger_samples import StillClock, a_settlement, an_intent


def main(directory, prefix):
    """Make calls without end."""
    settings = LedgerSettings(interval_s=0.002, retry_s=0.001, segment_bytes=20_000)
    ledger = Ledger.open(directory, clock=StillClock(), settings=settings)
    waiting = []
    number = 0
    while True:
        intent = an_intent(request_id=f"{prefix}-{number}")
        ledger.journal_intent(intent)
        os.write(1, f"I {intent.request_id}\n".encode())
        waiting.append(intent)
        if number % 3 == 2:
            for done in waiting[-2:]:
                ledger.settle(a_settlement(done))
                os.write(1, f"S {done.request_id}\n".encode())
            waiting = waiting[:-2]
        if len(waiting) > 40:
            slow = waiting.pop(0)
            ledger.settle(a_settlement(slow))
            os.write(1, f"S {slow.request_id}\n".encode())
        number += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
