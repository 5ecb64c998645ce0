"""How long answers take to begin, as far as the ledger tells, for a service that has just started.

The rule: the newest streamed answers of Opus are observed again, oldest first, by the code that observed them then; of
one model no more count than decide (`cache.first_byte`). Bounded in rows and in time; a start without it goes by what
was assumed or probed, and learns anew.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Final

from cache.first_byte import FirstByte
from classifier.route import Route
from router.clock import Clock
from router.ledger import Ledger

logger = logging.getLogger(__name__)

LIMIT: Final = 400
"""Answers read: an observation weighs .98 of the next one, so the 200th before the last counts for a fiftieth."""
SINCE_S: Final = 86_400.0
"""What a provider took to answer a day ago says little of now."""
TIMEOUT_S: Final = 5.0


async def recall_first_bytes(
    first_byte: Callable[[str], FirstByte], models: frozenset[str], ledger: Ledger, clock: Clock
) -> None:
    """Observe again what was seen before; what fails is logged, and the start goes on without it.

    Args:
        first_byte: Gives what is known of a model.
        models: Those that are asked now.
    """
    now_s = clock.now()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            past = await ledger.first_bytes(Route.OPUS.value, now_s - SINCE_S, LIMIT)
    except Exception as error:
        logger.error("how long answers take to begin is not known: %s", type(error).__name__)
        return
    for each in past:
        # A row that time went backwards in, or that counts more read than there was, says nothing of a line.
        if each.model in models and each.uncached_tokens >= 0 and 0.0 <= each.seconds < inf:
            first_byte(each.model).observe(each.uncached_tokens, each.seconds)
