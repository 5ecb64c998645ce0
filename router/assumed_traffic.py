"""Traffic that is assumed, to be priced before there is any: sessions as the strategy document pictures them.

The rule: drawn from a fixed seed, so the same question has the same answer; a bounded number of requests whatever the
volume. Sizes default to the document's. It knows neither models nor prices.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from random import Random
from typing import NamedTuple

from router.config import ConfigError

SEED_QUERY_TOKENS, SEED_ANSWER_TOKENS, SEED_CONTEXT_TOKENS = 500, 800, 500
"""Sizes of the strategy document."""
_ASSUMED_REQUESTS = 40_000
_MOST_DAYS = 365.0
_DAY_S = 86_400.0
_SEED = 2026


class Use(NamedTuple):
    """One request to price, in the tokens of the model asked about."""

    started_s: float
    user: tuple[str, str] | None
    session: tuple[str, str] | None
    input_tokens: float
    output_tokens: float


class Gaps(NamedTuple):
    """How the turns of an assumed session follow each other: "short", "human", or "poisson" at a rate per hour."""

    kind: str
    per_hour: float = 0.0


_HUMAN = Gaps("human")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """Traffic to price instead of what the ledger holds.

    Attributes:
        requests_per_day: Opus requests, > 0.
        users: People who send them, None for 0.4 per request of a day (the document's 4,000 at 10,000).
        turns: Mean requests per session, >= 1.
    """

    requests_per_day: float
    users: int | None = None
    gaps: Gaps = _HUMAN
    turns: float = 3.0
    context_tokens: int = SEED_CONTEXT_TOKENS
    query_tokens: int = SEED_QUERY_TOKENS
    answer_tokens: int = SEED_ANSWER_TOKENS


def assumed_uses(assumption: Assumption, shared_tokens: float) -> Iterator[Use]:
    """Requests of an assumed application, by start, about 40,000 or a year of them; from a fixed seed.

    Sessions start as a Poisson stream, belong to a user at random, and have a geometric number of turns; each turn
    adds an answer and a query to the one before.
    """
    draw = Random(_SEED)
    days = min(_MOST_DAYS, max(1.0, _ASSUMED_REQUESTS / assumption.requests_per_day))
    users = assumption.users or max(1, round(0.4 * assumption.requests_per_day))
    sessions_per_s = assumption.requests_per_day / assumption.turns / _DAY_S
    first_tokens = shared_tokens + assumption.context_tokens + assumption.query_tokens
    growth = assumption.answer_tokens + assumption.query_tokens
    waiting: list[tuple[float, int, int, int]] = []
    start_s, number = draw.expovariate(sessions_per_s), 0
    while start_s < days * _DAY_S or waiting:
        if waiting and (waiting[0][0] < start_s or start_s >= days * _DAY_S):
            at_s, session, turn, user = heapq.heappop(waiting)
        else:
            at_s, session, turn, user = start_s, number, 1, draw.randrange(users)
            number += 1
            start_s += draw.expovariate(sessions_per_s)
        yield Use(
            at_s,
            ("", str(user)),
            ("", str(session)),
            first_tokens + (turn - 1) * growth,
            assumption.answer_tokens,
        )
        if draw.random() < 1 - 1 / assumption.turns:
            heapq.heappush(waiting, (at_s + _gap_s(assumption.gaps, draw), session, turn + 1, user))


def parse_gaps(text: str) -> Gaps:
    """Read "short", "human" or "poisson:RATE" with a rate per hour, > 0.

    Raises:
        ConfigError: It is none of these.
    """
    kind, _, rate = text.partition(":")
    if kind in ("short", "human") and not rate:
        return Gaps(kind)
    try:
        per_hour = float(rate)
    except ValueError:
        per_hour = 0.0
    if kind != "poisson" or not 0 < per_hour < 1e6:
        raise ConfigError(
            f"--gaps: {text!r} is not short, human or poisson:RATE with requests per hour, e.g. poisson:2"
        )
    return Gaps(kind, per_hour)


def _gap_s(gaps: Gaps, draw: Random) -> float:
    """Seconds to the next turn.

    short: a tool loop, 40 s on average. human: 77 % within 5 minutes, 20 % 5 to 60 minutes, 3 % an hour to a day, the
    mix of the strategy's monthly simulation.
    """
    if gaps.kind == "poisson":
        return draw.expovariate(gaps.per_hour / 3600)
    if gaps.kind == "short":
        return draw.expovariate(1 / 40)
    kind = draw.random()
    low, high = (10.0, 300.0) if kind < 0.77 else (300.0, 3600.0) if kind < 0.97 else (3600.0, _DAY_S)
    return exp(draw.uniform(log(low), log(high)))
