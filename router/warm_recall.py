"""What warming had learnt when the process before ended, rebuilt from the ledger at the start.

The rule: everything is replayed through the same code that learnt it, oldest first, bounded both in rows and in time,
in a thread, before anything is served; a start without it serves as well and learns anew.

    verdicts    -> who may be warmed (`cache.regret`): sums of every owner, and until when it is switched off
                -> how often an opened session is followed by a request (`cache.chances`), of those that were decided on
    turns       -> who comes back when (`cache.returns`), by kind of turn, and what foresight reads of each session,
                   but for sizes and durations
    spending    -> what is left of the hour's dollars and the minute's warms (`cache.pace`)

What the ledger does not hold cannot be rebuilt: the requests that prefixes are warmed with, hence what is watched
(`cache.schedule`), the parameters of an application's last requests, users' actions, and decisions that were open. Nor
does it hold how many turns a conversation had had before the window; such a one is taken for younger than it is. A step
of a tool loop is told by the turn before it having ended in a tool call.
"""

import asyncio
import logging
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from cache.regret import Past
from cache.schedule import Trigger
from classifier.foresight.history import Turn as Seen
from classifier.route import Route
from router.call import FinishReason
from router.clock import Clock
from router.keep_alives import turn_path
from router.ledger import Filter, Ledger, PastWarm, Turn
from router.money import NANO_PER_USD
from router.settlement import Purpose
from router.stack import stack_of
from router.warming import Warming

logger = logging.getLogger(__name__)

WARM_LIMIT: Final = 50_000
"""Verdicts: an owner is judged by all since it was last switched off, of which there are seldom more than hundreds."""
TURN_LIMIT: Final = 20_000
"""Turns: what is learnt of a kind of turn forgets all but the last thousand."""
TURN_S: Final = 7 * 86_400.0
TIMEOUT_S: Final = 5.0
"""Longest that reading it may delay a start."""
_HOUR_S: Final = 3600.0
_MINUTE_S: Final = 60.0


async def recall(warming: Warming, ledger: Ledger, clock: Clock) -> None:
    """Bring back what can be; what fails is logged, and the start goes on without it."""
    now_s = clock.now()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            past = await ledger.last_warms(WARM_LIMIT)
            turns = await ledger.last_turns(now_s - TURN_S, TURN_LIMIT)
            warms = {"purpose": Purpose.WARM.value}
            hour = await ledger.totals(Filter(since_s=now_s - _HOUR_S, until_s=now_s + _HOUR_S, equal=warms))
            minute = await ledger.totals(
                Filter(since_s=now_s - _MINUTE_S, until_s=now_s + _HOUR_S, equal=warms)
            )
    except Exception as error:
        logger.error("what warming had learnt is not known, it begins anew: %s", type(error).__name__)
        return
    try:
        # Waited for to its end: it is bounded, and nothing else may learn meanwhile.
        await asyncio.to_thread(replay, warming, past, turns, now_s)
    except Exception as error:
        logger.error("not all that warming had learnt is known again\n%s", stack_of(error))
    spent_usd = (hour.cost.total_nano_usd + hour.unknown_bound_nano_usd) / NANO_PER_USD
    warming.pace.restore(spent_usd, minute.calls, now_s)


def replay(warming: Warming, past: Iterable[PastWarm], turns: Iterable[Turn], now_s: float) -> None:
    """Teach what verdicts and turns say, both oldest first; nothing else may use `warming` meanwhile.

    What seems to come from the future was booked by a clock that was put back since. Of what is an hour ahead or less
    a switch is taken for thrown now, else it would hold until then; turns are left out, because everything that comes
    after one would wait for it.
    """
    past = tuple([each for each in past if each.decided_s <= now_s + _HOUR_S])
    warming.regret.restore(
        Past(each.owner, min(each.settled_s, now_s), each.benefit_usd, each.benefit_s)
        for each in past
        if not each.held_out
    )
    _replay_openings(warming, past, now_s)
    _replay_turns(warming, turns, now_s)


def _replay_openings(warming: Warming, past: Iterable[PastWarm], now_s: float) -> None:
    """Sessions that were opened and decided on: whether a request came in time."""
    opened = [each for each in past if each.trigger == Trigger.SESSION_START.value]
    opened.sort(key=lambda each: each.decided_s)
    for number, each in enumerate(opened):
        kind = ("session", each.owner[1])
        warming.chances.signal(kind, number, each.decided_s)
        if each.came:
            warming.chances.followed(number, each.decided_s)
    warming.chances.close(now_s)


def _replay_turns(warming: Warming, turns: Iterable[Turn], now_s: float) -> None:
    """Turns on Opus that left something cached: each is quiet until the session's next one there."""
    waiting: dict[tuple[str, str], bytes] = {}
    asked: dict[tuple[str, str], tuple[str, int, bool]] = {}
    turns = [turn for turn in turns if turn.started_s <= now_s]
    handed_on = {(turn.tenant, turn.session, turn.request_id): turn for turn in turns}
    for turn in turns:
        whose = turn.tenant, turn.session
        request_id, count, in_loop = asked.get(whose, ("", 0, False))
        if request_id != turn.request_id:  # another attempt of one request is no turn of its own
            count += 1
        asked[whose] = turn.request_id, count, turn.finish_reason == FinishReason.TOOL_CALL.value
        opus = turn.route == Route.OPUS.value
        if handed_on[*whose, turn.request_id] is turn:  # one before it was discarded
            warming.foreseer.noted(
                whose, Seen(turn.started_s, opus, turn.finish_reason, application=turn.application)
            )
        if not opus or not turn.cached_tokens:
            continue
        before = waiting.get(whose)
        if before is not None:
            warming.returns.returned(before, turn.started_s)
        waiting[whose] = key = _key(turn)
        warming.returns.quiet(key, turn_path(turn.application, None if in_loop else count), turn.started_s)
    warming.returns.close(now_s)
    for (tenant, session), key in waiting.items():
        warming.left_by(tenant, session, key)


def _key(turn: Turn) -> bytes:
    """Name a turn's prefix, whose digest the ledger does not hold."""
    return blake2b(turn.request_id.encode(), digest_size=16, person=b"recalled").digest()
