"""A process that journals and settles until it is killed, and says what it was promised.

Run as `python ledger_crash.py DIRECTORY PREFIX [URL]`. Each promise is one line on standard output: "I id" once
`journal_intent` has returned, "S id" once `settle` has, "F id" once feedback has been answered, "W id" once a verdict
on a warm has been noted. Every third call stays open while others come and go; some calls are judged once they are
settled, some while they are open.
"""

import os
import sys

from router.feedback import Feedback, Verdict
from router.ledger import Ledger, LedgerSettings, Server
from tests.router.ledger_samples import START_S, StillClock, a_settlement, a_verdict, an_intent


def judge(ledger, request_id):
    """Say that a request was bad; how it turns out is known when this returns."""
    said = Feedback(
        request_id=request_id, tenant="acme", source="user", verdict=Verdict.BAD, score=None, time_s=START_S
    )
    assert ledger.feedback_blocking(said).kept
    os.write(1, f"F {request_id}\n".encode())


def main(directory, prefix, url=""):
    """Make calls without end."""
    settings = LedgerSettings(interval_s=0.002, retry_s=0.001, segment_bytes=20_000)
    server = Server(url) if url else None
    ledger = Ledger.open(directory, clock=StillClock(), settings=settings, server=server)
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
            ledger.warm(a_verdict(warm_id=f"warm-{intent.request_id}"))
            os.write(1, f"W warm-{intent.request_id}\n".encode())
        if number % 40 in (0, 2):
            judge(ledger, intent.request_id)
        if len(waiting) > 40:
            slow = waiting.pop(0)
            ledger.settle(a_settlement(slow))
            os.write(1, f"S {slow.request_id}\n".encode())
        number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
