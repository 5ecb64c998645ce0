"""A month of made-up traffic as trace rows: the parametric workload the seed's monthly table is computed on.

The rule: everything follows from `Workload`; the same values give the same rows, in time order, one at a time, so a
month needs no more memory than its open sessions. A row spells its prompt as ids of `BLOCK_TOKENS`-token blocks and
says where each layer ends, so that options A, B and C mean what they say. What is random:

    sessions   Poisson starts, cosine day with its peak at 14:00, weekends at 30 %; 35 % are one API call, the others
               chats of a geometric number of turns; 3 requests a session over all
    gaps       between the starts of a chat's turns: 77 % under 5 minutes, 20 % up to an hour, 3 % up to a day,
               log-uniform within each
    users      4,000 by a Zipf law; each has one context that never changes
    deploys    Monday, Wednesday and Friday at 15:00 change the system prompt and with it every prefix past the tools

Second 0 is a Monday's midnight; nothing is open then. It knows no prices and no caches. The parameters are those of
the design's economics; what these leave open (the law of the day, of the users and of gaps within a class) is chosen
here and moves dollars, not the order of the policies.
"""

from bisect import bisect_left
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from math import cos, exp, log, pi
from random import Random
from typing import NamedTuple

from cache.prompt import Layer
from router.replay_trace import LayerEnd, Runs, TraceRow

BLOCK_TOKENS = 100
"""Divides every size below, so that each layer and message ends on a block."""
ONE_OFF_SHARE = 0.35
"""Of sessions: a single API call."""
REQUESTS_PER_SESSION = 3.0
TURNS_PER_CHAT = (REQUESTS_PER_SESSION - ONE_OFF_SHARE) / (1 - ONE_OFF_SHARE)
WEEKEND_LEVEL = 0.3
DAY_SWING = 0.9
_PEAK_HOUR = 14
_USER_LAW = 0.6
"""Exponent of the Zipf law."""
DEPLOY_DAYS = (0, 2, 4)
_DEPLOY_HOUR = 15
GAP_CLASSES = ((0.77, 10.0, 300.0), (0.20, 300.0, 3600.0), (0.03, 3600.0, 86_400.0))
"""(share, shortest, longest) of the gaps between turns, seconds."""
_GAP_SHARES = [share for share, _, _ in GAP_CLASSES]

_DAY_S, _WEEK_DAYS = 86_400.0, 7


class Sizes(NamedTuple):
    """Tokens of each part of a prompt, multiples of `BLOCK_TOKENS`.

    Attributes:
        query: What a turn asks.
        kept: What a turn leaves in the history besides its query: the answer and, for agents, tool results.
        output: What is billed as output per request.
    """

    tools: int
    system: int
    context: int
    query: int
    kept: int
    output: int


class Kind(StrEnum):
    """Whose sizes a workload has; the last two are made to gain and to lose by keep-alives (`router.bursts`)."""

    SAAS = "saas"
    AGENTIC = "agentic"
    WINNING = "winning"
    LOSING = "losing"


SIZES = {
    Kind.SAAS: Sizes(tools=500, system=1500, context=500, query=500, kept=800, output=800),
    Kind.AGENTIC: Sizes(tools=6000, system=4000, context=2000, query=500, kept=2200, output=800),
}


class Workload(NamedTuple):
    """Traffic to generate.

    Attributes:
        requests_per_day: Mean over a week; weekdays have more, weekends less.
        days: Length; requests that would come later are left out.
        users: Users among whom sessions are drawn.
    """

    sizes: Sizes = SIZES[Kind.SAAS]
    requests_per_day: float = 10_000.0
    days: float = 28.0
    seed: int = 0
    users: int = 4000


class Session(NamedTuple):
    """A conversation; `turns` is 0 for a single API call."""

    number: int
    user: int
    turns: int

    @property
    def kind(self) -> str:
        return "chat" if self.turns else "api"


def month(workload: Workload) -> Iterator[TraceRow]:
    """Rows of the workload in the order of their time.

    Raises:
        ValueError: No requests, no users, or sizes that are no multiples of `BLOCK_TOKENS`.
    """
    if workload.requests_per_day <= 0 or workload.days <= 0 or workload.users < 1:
        raise ValueError(f"a workload needs requests, days and users, not {workload}")
    if any(tokens % BLOCK_TOKENS for tokens in workload.sizes[:5]):
        raise ValueError(f"sizes must be multiples of {BLOCK_TOKENS} tokens, not {workload.sizes}")
    random, end_s = Random(workload.seed), workload.days * _DAY_S
    waiting: list[tuple[float, int, Session]] = []
    for start_s, session in _sessions(workload, random):
        while waiting and waiting[0][0] < start_s:
            yield _served(workload.sizes, waiting, random, end_s)
        if start_s < end_s:
            heappush(waiting, (start_s, 0, session))
    while waiting:
        yield _served(workload.sizes, waiting, random, end_s)


def deploys_before(time_s: float) -> int:
    """System prompts that were replaced by then."""
    weeks, rest_s = divmod(time_s, _WEEK_DAYS * _DAY_S)
    passed = sum(1 for day in DEPLOY_DAYS if day * _DAY_S + _DEPLOY_HOUR * 3600.0 <= rest_s)
    return int(weeks) * len(DEPLOY_DAYS) + passed


def _sessions(workload: Workload, random: Random) -> Iterator[tuple[float, Session]]:
    """Sessions and their starts; the last one starts at the end and is only there to close the others."""
    weights = list(accumulate((rank + 1) ** -_USER_LAW for rank in range(workload.users)))
    week_mean = (5 + 2 * WEEKEND_LEVEL) / _WEEK_DAYS
    base_per_s = workload.requests_per_day / REQUESTS_PER_SESSION / week_mean / _DAY_S
    highest, now_s, number = base_per_s * (1 + DAY_SWING), 0.0, 0
    while True:
        now_s += random.expovariate(highest)
        if now_s >= workload.days * _DAY_S:
            return
        if random.random() * highest >= base_per_s * _level(now_s):
            continue
        user = bisect_left(weights, random.random() * weights[-1])
        turns = 0 if random.random() < ONE_OFF_SHARE else _geometric(random)
        yield now_s, Session(number, user, turns)
        number += 1


def _level(time_s: float) -> float:
    """Traffic then, relative to the mean of a weekday."""
    day, of_day_s = divmod(time_s, _DAY_S)
    level = 1 + DAY_SWING * cos(2 * pi * (of_day_s / 3600 - _PEAK_HOUR) / 24)
    return level * WEEKEND_LEVEL if int(day) % _WEEK_DAYS >= 5 else level


def _geometric(random: Random) -> int:
    return 1 + int(log(1 - random.random()) / log(1 - 1 / TURNS_PER_CHAT))


def _gap_s(random: Random) -> float:
    (_, low, high), *_ = random.choices(GAP_CLASSES, _GAP_SHARES)
    return exp(random.uniform(log(low), log(high)))


def _served(
    sizes: Sizes, waiting: list[tuple[float, int, Session]], random: Random, end_s: float
) -> TraceRow:
    """Take the earliest waiting turn; its session's next turn takes its place."""
    now_s, turn, session = heappop(waiting)
    if turn + 1 < session.turns:
        later_s = now_s + _gap_s(random)
        if later_s < end_s:
            heappush(waiting, (later_s, turn + 1, session))
    layers = layer_ends(sizes, turn)
    blocks = layers[-1].blocks
    return TraceRow(
        namespace="month",
        session=str(session.number),
        stream="main",
        sequence=turn,
        time_s=now_s,
        input_tokens=blocks * BLOCK_TOKENS,
        output_tokens=sizes.output,
        block_tokens=BLOCK_TOKENS,
        runs=runs_of(sizes, deploys_before(now_s), session, layers),
        kind=session.kind,
        added=("text",),
        tools_tokens=sizes.tools,
        system_tokens=sizes.system,
        layers=layers,
    )


@cache
def layer_ends(sizes: Sizes, turn: int) -> tuple[LayerEnd, ...]:
    """Ends of the blocks of the prompt of a chat's turn `turn` (from 0): layers, then one per past message."""
    spans = [(Layer.TOOLS, sizes.tools), (Layer.SYSTEM, sizes.system), (Layer.CONTEXT, sizes.context)]
    spans += [(Layer.HISTORY, sizes.query), (Layer.HISTORY, sizes.kept)] * turn
    spans.append((Layer.TURN, sizes.query))
    found, end = [], 0
    for layer, tokens in spans:
        end += tokens // BLOCK_TOKENS
        if tokens:
            found.append(LayerEnd(end, layer))
    return tuple(found)


_SYSTEM_IDS, _CONTEXT_IDS, _SESSION_IDS = 1 << 70, 2 << 70, 3 << 70
"""Where the ids of each sort of block begin; a block's name is its prefix's, so it holds the deploy, too."""
_PER_DEPLOY, _PER_OWNER = 1 << 60, 1 << 20


def runs_of(sizes: Sizes, deploy: int, session: Session, layers: tuple[LayerEnd, ...]) -> Runs:
    """Ids of the blocks of a prompt that ends so: tools are everybody's, the system prompt a deploy's, and so on."""
    tools, system, context = (tokens // BLOCK_TOKENS for tokens in (sizes.tools, sizes.system, sizes.context))
    of_deploy = deploy * _PER_DEPLOY
    runs = (
        (1, tools),
        (_SYSTEM_IDS + of_deploy, system),
        (_CONTEXT_IDS + of_deploy + session.user * _PER_OWNER, context),
        (
            _SESSION_IDS + of_deploy + session.number * _PER_OWNER,
            layers[-1].blocks - tools - system - context,
        ),
    )
    return tuple([(first, count) for first, count in runs if count])
