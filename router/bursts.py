"""Made-up sessions that keep-alives are made for, and sessions that they lose by.

The rule: everything follows from the parameters; the same values give the same rows, in time order. A session works on
a very large document of its own in bursts of quick requests. Between bursts it waits for something that takes known
long: 6 to 9 minutes. In the winning workload it nearly always comes back, a few times, and then never. In the losing
one it does so for the first tenth of the time, so that keep-alives are learnt to pay, and from then on nobody comes
back after a burst: what was learnt is wrong, and whoever goes by it pays for nothing.

It knows no prices and no caches.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from router.month import BLOCK_TOKENS, Session, Sizes, layer_ends, runs_of
from router.replay_trace import TraceRow

SIZES = Sizes(tools=6000, system=4000, context=80_000, query=500, kept=1500, output=800)
"""The context is the session's document."""
QUICK_S = (5.0, 40.0)
"""Gaps within a burst."""
WAIT_S = (360.0, 540.0)
"""Gaps between bursts."""
BURST_TURNS = (3, 6)
RETURN_CHANCE = 0.85
"""Of another burst after one, while waits end at all; at most `MOST_BURSTS` a session."""
MOST_BURSTS = 3
LEARNING_SHARE = 0.1
"""Of the losing workload's time in which keep-alives still pay."""
_DAY_S = 86_400.0


class Bursts(NamedTuple):
    """Traffic to generate.

    Attributes:
        losing: Whether waits stop to end after `LEARNING_SHARE` of the time.
        requests_per_day: Mean while waits end.
    """

    losing: bool = False
    requests_per_day: float = 2000.0
    days: float = 2.0
    seed: int = 0


def bursts(workload: Bursts) -> Iterator[TraceRow]:
    """Rows of the workload in the order of their time.

    Raises:
        ValueError: No requests or no days.
    """
    if workload.requests_per_day <= 0 or workload.days <= 0:
        raise ValueError(f"a workload needs requests and days, not {workload}")
    random, end_s = Random(workload.seed), workload.days * _DAY_S
    turning_s = end_s * LEARNING_SHARE if workload.losing else end_s
    per_s = workload.requests_per_day / _requests_per_session() / _DAY_S
    waiting: list[tuple[float, int, int, int, int]] = []
    start_s, number = random.expovariate(per_s), 0
    while start_s < end_s or waiting:
        if start_s < end_s and (not waiting or start_s <= waiting[0][0]):
            heappush(waiting, (start_s, number, 0, random.randint(*BURST_TURNS), 1))
            number += 1
            start_s += random.expovariate(per_s)
            continue
        now_s, session, turn, left, burst = heappop(waiting)
        yield _row(now_s, session, turn)
        if left > 1:
            later = now_s + random.uniform(*QUICK_S), session, turn + 1, left - 1, burst
        elif burst < MOST_BURSTS and random.random() < RETURN_CHANCE and now_s < turning_s:
            later = (
                now_s + random.uniform(*WAIT_S),
                session,
                turn + 1,
                random.randint(*BURST_TURNS),
                burst + 1,
            )
        else:
            continue
        if later[0] < end_s:
            heappush(waiting, later)


def _requests_per_session() -> float:
    count = sum(RETURN_CHANCE**burst for burst in range(MOST_BURSTS))
    return count * sum(BURST_TURNS) / 2


def _row(now_s: float, session: int, turn: int) -> TraceRow:
    layers = layer_ends(SIZES, turn)
    blocks = layers[-1].blocks
    return TraceRow(
        namespace="bursts",
        session=str(session),
        stream="main",
        sequence=turn,
        time_s=now_s,
        input_tokens=blocks * BLOCK_TOKENS,
        output_tokens=SIZES.output,
        block_tokens=BLOCK_TOKENS,
        runs=runs_of(SIZES, 0, Session(session, session, turn + 1), layers),
        kind="bursts",
        added=("text",),
        tools_tokens=SIZES.tools,
        system_tokens=SIZES.system,
        layers=layers,
    )
