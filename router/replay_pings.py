"""What passes between a replay and its warms: what a request left, what is done for it, and what was sent.

The rule: values only. It decides and bills nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache.economics import TokenSplit
from cache.hazard import Path
from cache.returns import WINDOW_S
from cache.rules import TTL_5M_S
from cache.schedule import Trigger
from router.replay_trace import TraceRow


class Ping(NamedTuple):
    """A warm that was sent and billed.

    Attributes:
        row: Request whose prefix it kept.
        owner: Whose keep-alives are judged with it.
        extra_units: What it cost besides its input, in units; that of `output_tokens`.
    """

    row: TraceRow
    trigger: Trigger
    owner: tuple[str, str]
    split: TokenSplit
    extra_units: float
    output_tokens: int
    now_s: float


class Left(NamedTuple):
    """A prefix that a request left warm.

    Attributes:
        key: Its name.
        blocks: Its whole trace blocks.
        ttl_s: Its TTL.
        base_blocks: Part of it that outlives it by a longer TTL.
        path: Kind of its turn.
        send: Sends it again at an instant and gives its bill; with True, with the answer behind it, for an hour.
    """

    key: bytes
    blocks: int
    ttl_s: int
    base_blocks: int
    path: Path
    send: Callable[[float, bool], TokenSplit]


class Idle(NamedTuple):
    """What is done for a prefix nobody uses just now, and on what grounds.

    Attributes:
        pings: Keep-alives it gets unless its conversation goes on.
        p_next: Chance that its conversation goes on within 5 minutes, as keep-alives are decided by; None unasked.
        p_foreseen: The same by the foresight alone; None without one.
    """

    pings: int = 0
    p_next: float | None = None
    p_foreseen: float | None = None


def within_5m(hazards: Sequence[float]) -> float:
    """Chance of a return within 5 minutes, hazards spread evenly over their windows."""
    into_second = (TTL_5M_S - WINDOW_S) / WINDOW_S
    return 1.0 - (1.0 - hazards[0]) * float((1.0 - hazards[1]) ** into_second)
