"""What warming had learnt when the process before ended, rebuilt from the ledger at the start.

The rule: everything is replayed through the same code that learnt it, oldest first, bounded both in rows and in time,
in a thread, before anything is served; a start without it serves as well and learns anew.

    verdicts    -> who may be warmed (`cache.regret`): sums of every owner, and until when it is switched off
                -> how often an opened session is followed by a request (`cache.chances`), of those that were decided on
    turns       -> who comes back when (`cache.returns`), by kind of turn, and what foresight reads of each session
                -> how often what Flash answered was followed by Opus (`router.warm_score`), by score or by foresight
    spending    -> what is left of the hour's dollars and the minute's warms (`cache.pace`)

What the ledger does not hold cannot be rebuilt: the requests that prefixes are warmed with, hence what is watched
(`cache.schedule`), the parameters of an application's last requests, users' actions, and decisions that were open. Nor
does it hold how many turns a conversation had had before the window; such a one is taken for younger than it is. A step
of a tool loop is told by the turn before it having ended in a tool call, and the tokens that a turn added by what the
turn before it read and answered; where that was on Flash, or was not seen, its kind is told in general only.
"""

import asyncio
import logging
from collections.abc import Iterable
from hashlib import blake2b
from math import inf
from typing import Final, NamedTuple

from cache.demand import TOOL_LOOP, place_of, turn_path
from cache.hazard import Path
from cache.regret import Past
from cache.rules import TTL_5M_S
from cache.schedule import Trigger
from classifier.foresight.history import Turn as History
from classifier.route import Route
from router.call import FinishReason
from router.clock import Clock
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
FORESEEN_LIMIT: Final = 5_000
"""Last turns of which it is worked out again what was foreseen of them: .1 ms each."""
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


class _Seen(NamedTuple):
    """A session's last turn.

    Attributes:
        request_id: "" before the first.
        key: What its last turn on Opus left; None for none, or none that was cached.
        number: Turns on Opus so far.
        opus_s: Start of the last of them.
    """

    request_id: str = ""
    turn: Turn | None = None
    key: bytes | None = None
    number: int = 0
    opus_s: float = -inf


_UNSEEN: Final = _Seen()


def _replay_turns(warming: Warming, turns: Iterable[Turn], now_s: float) -> None:
    """Turns on Opus that left something cached: each is quiet until the session's next one there."""
    sessions: dict[tuple[str, str], _Seen] = {}
    turns = [turn for turn in turns if turn.started_s <= now_s]
    handed_on = {(turn.tenant, turn.session, turn.request_id): turn for turn in turns}
    foreseen_from = len(turns) - FORESEEN_LIMIT
    for place, turn in enumerate(turns):
        whose = turn.tenant, turn.session
        before = sessions.get(whose, _UNSEEN)
        opus = turn.route == Route.OPUS.value
        if handed_on[*whose, turn.request_id] is turn:  # one before it was discarded
            _replay_history(warming, turn, whose, opus, foreseen=place >= foreseen_from)
        again = before.request_id == turn.request_id  # another attempt of one request is no turn of its own
        number = before.number + (opus and not again)
        seen = before._replace(request_id=turn.request_id, turn=before.turn if again else turn, number=number)
        if opus and not (again and before.key is not None):
            run = () if before.key is None else warming.returns.returned(before.key, turn.started_s)
            seen = seen._replace(opus_s=turn.started_s, key=None)
            if turn.cached_tokens:
                seen = seen._replace(key=_key(turn))
                warming.returns.quiet(_key(turn), _path(turn, before, number), turn.started_s, run=run)
        sessions[whose] = seen
    warming.returns.close(now_s)
    warming.hints.close(now_s)
    for (tenant, session), seen in sessions.items():
        if seen.key is not None:
            warming.left_by(tenant, session, seen.key)


def _replay_history(
    warming: Warming, turn: Turn, whose: tuple[str, str], opus: bool, *, foreseen: bool
) -> None:
    """What foresight reads of the session, and what was expected of it when Flash had answered."""
    seen = History(
        turn.started_s,
        opus,
        turn.finish_reason,
        score=turn.score,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
        duration_s=turn.duration_s,
        application=turn.application,
    )
    if opus:
        warming.foreseer.noted(whose, seen)
        warming.hints.followed(whose, turn.started_s)
    elif foreseen:
        forecast = warming.foreseer.answered(whose, seen)
        chance = None if forecast is None else forecast.opus_within(float(TTL_5M_S))
        warming.hints.recalled(turn.application, whose, turn.score, chance, turn.started_s)
    else:
        warming.foreseer.noted(whose, seen)


def _path(turn: Turn, before: _Seen, number: int) -> Path:
    """Kind of a turn on Opus, as far as the ledger tells."""
    last = before.turn
    if last is not None and last.finish_reason == FinishReason.TOOL_CALL.value:
        place = TOOL_LOOP
    else:
        place = "resumed" if number == 1 and last is not None else place_of(number)
    begins_run = turn.started_s - before.opus_s >= TTL_5M_S
    whole, added = turn.input_tokens or 0, 0
    if last is not None and last.route == turn.route:
        added = whole - (last.input_tokens or whole) - (last.output_tokens or 0)
    return turn_path(turn.application, place, begins_run, added if added > 0 else None, whole)


def _key(turn: Turn) -> bytes:
    """Name a turn's prefix, whose digest the ledger does not hold."""
    return blake2b(turn.request_id.encode(), digest_size=16, person=b"recalled").digest()
