"""What a start takes over from the ledger: what sessions last asked of Opus, and what today has cost.

The rule: a service without the past serves as well, so nothing that fails here stops the start; it may delay it for a
bounded time, and what is not known is said.

It does not know what warming learnt and how soon answers began: `router.warm_recall`, `router.first_byte_recall`.
"""

import asyncio
import logging
from datetime import UTC, datetime

from classifier.profile import DAY_S
from classifier.route import Route
from router.clock import Clock
from router.ledger import Filter, Ledger
from router.misses import MissMemory
from router.spending import Spending

logger = logging.getLogger(__name__)

RECALL_S = 3600.0
"""How far back the ledger is asked for sessions at the start: no cache entry lives longer unused (A-CACHE, 2026-11)."""
RECALL_SESSION_LIMIT = 2_000
RECALL_TIMEOUT_S = 2.0
"""Longest that asking may delay the start."""
SPENDING_TIMEOUT_S = 10.0
"""Longest that reading today's spend may delay the start, where a budget needs it."""
PROFILE_DAYS = 7
"""Days of traffic whose shape a budget plans by."""


async def recall_sessions(misses: MissMemory, ledger: Ledger, clock: Clock) -> None:
    """Tell from the ledger what recent sessions asked of Opus, so that a deploy that changes the model is named.

    A service without it serves as well; it only cannot say "model". So nothing that fails here stops the start.
    """
    try:
        async with asyncio.timeout(RECALL_TIMEOUT_S):
            since_s = clock.now() - RECALL_S
            misses.prime(await ledger.last_calls(Route.OPUS.value, since_s, RECALL_SESSION_LIMIT))
    except Exception as error:
        logger.warning("the last calls of recent sessions are not known: %s", type(error).__name__)


async def recall_spending(spending: Spending, ledger: Ledger, clock: Clock) -> None:
    """Take over today's spend and the shape of the days before from the ledger.

    A budget that does not know today's spend would spend it twice, so this is waited for; without it the start goes on
    and says so.
    """
    now_s = clock.now()
    try:
        async with asyncio.timeout(SPENDING_TIMEOUT_S):
            today = await ledger.totals(Filter(since_s=now_s - now_s % DAY_S))
            rows = await ledger.costs(("hour",), Filter(since_s=now_s - now_s % DAY_S - PROFILE_DAYS * DAY_S))
    except Exception as error:
        logger.error("today's spend is not known, the budget begins anew: %s", type(error).__name__)
        return
    hours = [
        (datetime.strptime(row.group["hour"], "%Y-%m-%dT%H:00Z").replace(tzinfo=UTC).timestamp(), row.calls)
        for row in rows
    ]
    spending.prime(now_s, today.cost.total_nano_usd + today.unknown_bound_nano_usd, hours)
