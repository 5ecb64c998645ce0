"""What is known before requests come: made-up openings, actions and turns on Flash for made-up traffic.

The rule: everything follows from the rows and a seed, and the rows themselves stay as they are, so figures without
warms ahead are the same with and without signals. Signals that come to nothing are there as well, because a warm
ahead is judged by them:

    openings    every chat is opened 5 to 60 seconds before its first request; for every 10 of them 4 that never ask
    actions     before 40 % of the turns, 5 to 30 seconds ahead, a user does what the document lists (opens the
                analysis page, uploads, ...), and after a quarter, one to four minutes later, of which nothing comes
    Flash       30 % of the turns were tried on Flash 3 to 15 seconds before, and escalated; as many turns were
                Flash's alone. Scores are drawn so that P(escalated | score s) = s^3 / (s^3 + (1 - s)^3)

A recorded trace without openings can be given them, `OPENED_AHEAD_S` before each session's first request, knowing the
application's layers alone. None of these comes to nothing, so what is warmed by them is its best case. Shares and times
are chosen here: they move figures, not the order of the policies. It knows no prices and no caches.
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from random import Random

from cache.prompt import Layer
from router.month import BLOCK_TOKENS, Session, Sizes, deploys_before, layer_ends, runs_of
from router.replay_trace import OPENED, LayerEnd, Runs, TraceRow

OPENED_AHEAD_S = 10.0
ACTIONS = (
    "open_analysis_page",
    "start_report_builder",
    "click_advanced_mode",
    "upload_document",
    "start_code_review",
)
"""The document's list."""
IDLE_OPENINGS = 0.4
"""Openings that come to nothing, for one that does not."""
ACTED_SHARE, IDLE_ACTION_SHARE = 0.4, 0.25
"""Of turns: those an action went before, and those after which one comes to nothing."""
FLASH_SHARE = 0.3
"""Of turns: those that were tried on Flash first; as many of Flash's own."""
_OPENED_S, _ACTED_S, _IDLE_S, _FLASH_S = (5.0, 60.0), (5.0, 30.0), (60.0, 240.0), (3.0, 15.0)
_LONGEST_AHEAD_S = 60.0
_OTHERS = 1 << 32
"""Where the numbers of sessions that never ask begin."""

Named = Callable[[int, Random], Session]
"""The session of a signal that comes to nothing, by its number: whose context it has."""


def signalled(rows: Iterable[TraceRow], sizes: Sizes, seed: int, idle: Named) -> Iterator[TraceRow]:
    """The rows and the signals around them, in order of time.

    Args:
        rows: Of `router.month` or `router.bursts`: one namespace, laid out by `sizes`, in order of time.
        idle: Names sessions that never ask.
    """
    random, waiting = Random(f"{seed} signals"), list[tuple[float, int, TraceRow]]()
    number = 0
    for row in rows:
        while waiting and waiting[0][0] <= row.time_s - _LONGEST_AHEAD_S:
            yield heappop(waiting)[2]
        for each in (row, *_around(row, sizes, random, idle, number)):
            number += 1
            heappush(waiting, (each.time_s, number, each))
    while waiting:
        yield heappop(waiting)[2]


def opened(rows: Iterable[TraceRow]) -> Iterator[TraceRow]:
    """The rows, with an opening before the first request of each session.

    Args:
        rows: In the order they are served.
    """
    asked = list(rows)
    seen = set[tuple[str, str]]()
    openings = []
    for row in asked:
        whose = row.namespace, row.session
        head = tuple([end for end in row.layers if end.layer <= Layer.SYSTEM])
        blocks = min((row.tools_tokens + row.system_tokens) // row.block_tokens, row.whole_blocks)
        blocks = head[-1].blocks if head else blocks
        if whose not in seen and blocks:
            known = _cut(row.runs, blocks)
            openings.append(_event(row, OPENED, row.time_s - OPENED_AHEAD_S, known, head))
        seen.add(whose)
    # Stable, and an opening stands before what happens at its instant.
    return iter(sorted((*openings, *asked), key=lambda row: (row.namespace, row.time_s)))


def _around(row: TraceRow, sizes: Sizes, random: Random, idle: Named, number: int) -> Iterator[TraceRow]:
    """Signals of one row, and as many that come to nothing."""
    context = tuple([end for end in row.layers if end.layer <= Layer.CONTEXT])
    head = (_cut(row.runs, context[-1].blocks), context)
    if row.sequence == 0 and row.kind != "api":
        yield _event(row, OPENED, row.time_s - random.uniform(*_OPENED_S), *head)
        if random.random() < IDLE_OPENINGS:
            other = _other(row, sizes, idle(_OTHERS + number, random), row.time_s + random.uniform(*_IDLE_S))
            yield _event(other, OPENED, other.time_s, _cut(other.runs, context[-1].blocks), context)
    if random.random() < ACTED_SHARE:
        known = head if row.sequence == 0 else ((), ())
        time_s = row.time_s - random.uniform(*_ACTED_S)
        yield _event(row, random.choice(ACTIONS), time_s, *known)
    if random.random() < IDLE_ACTION_SHARE:
        yield _event(row, random.choice(ACTIONS), row.time_s + random.uniform(*_IDLE_S), (), ())
    if random.random() < FLASH_SHARE:
        score = random.betavariate(4, 1)
        yield row._replace(time_s=row.time_s - random.uniform(*_FLASH_S), opus=False, score=score)
    if random.random() < FLASH_SHARE:
        other = _other(row, sizes, idle(_OTHERS + number, random), row.time_s + random.uniform(*_IDLE_S))
        yield other._replace(opus=False, score=random.betavariate(1, 4))


def _other(row: TraceRow, sizes: Sizes, session: Session, time_s: float) -> TraceRow:
    """The first request of another session."""
    layers = layer_ends(sizes, 0)
    deploy = deploys_before(time_s) if row.namespace == "month" else 0
    return row._replace(
        session=str(session.number),
        sequence=0,
        time_s=time_s,
        input_tokens=layers[-1].blocks * BLOCK_TOKENS,
        runs=runs_of(sizes, deploy, session, layers),
        layers=layers,
    )


def _event(row: TraceRow, name: str, time_s: float, runs: Runs, layers: tuple[LayerEnd, ...]) -> TraceRow:
    tokens = sum(count for _, count in runs) * row.block_tokens
    return row._replace(
        shapes=(),
        volatile=None,
        marks=None,
        sequence=-1,
        time_s=time_s,
        event=name,
        runs=runs,
        layers=layers,
        input_tokens=tokens,
        output_tokens=0,
    )


def _cut(runs: Runs, blocks: int) -> Runs:
    found = []
    for first, count in runs:
        if blocks > 0:
            found.append((first, min(count, blocks)))
        blocks -= count
    return tuple(found)
