"""Days of made-up traffic under a budget: diurnal arrivals, calibrated scores, costs that depend on the request."""

from __future__ import annotations

import random
from dataclasses import dataclass
from heapq import heappop, heappush
from math import cos, exp, pi

from classifier import budget
from classifier.decision import Budget
from classifier.policy import Constraints, Decision, PolicySettings, RouteCosts, SessionState, decide
from classifier.profile import DAY_S
from classifier.route import Route, Score

START_S = 20_000.0 * DAY_S


@dataclass(frozen=True)
class Day:
    """What one day of traffic is like."""

    requests: int = 6_000
    shock_from_s: float = DAY_S
    harder: float = 1.0
    more: float = 1.0


@dataclass
class Spent:
    """What one day came to."""

    nano_usd: int = 0
    benefit: float = 0.0
    requests: int = 0
    opus: int = 0
    highest_value: int = 0


def simulate(
    days: list[Day], limit_nano_usd: int | None, seed: int, *, threshold: float = 0.5, priced: bool = True
) -> list[Spent]:
    """Serve the days; without a limit by the fixed threshold, unpriced by that until the money is spent."""
    rng = random.Random(seed)
    state = None if limit_nano_usd is None else budget.begin(limit_nano_usd, START_S)
    settings = PolicySettings(threshold=threshold)
    open_calls: list[tuple[float, int, int]] = []
    found = []
    for number, day in enumerate(days):
        spent = Spent()
        found.append(spent)
        begins = START_S + number * DAY_S
        for at_s in _arrivals(rng, day):
            now_s = begins + at_s
            while state is not None and open_calls and open_calls[0][0] <= now_s:
                done_s, reserved, cost = heappop(open_calls)
                state = budget.settled(
                    budget.advanced(state, done_s), reserved_nano_usd=reserved, cost_nano_usd=cost
                )
            harder = day.harder if at_s >= day.shock_from_s else 1.0
            score, costs = _request(rng, harder)
            said = Budget()
            if state is not None:
                state = budget.advanced(state, now_s)
                said = Budget(
                    state.value_nano_usd if priced else None, state.fits(costs.opus_nano_usd or 0, now_s)
                )
                spent.highest_value = max(spent.highest_value, state.value_nano_usd)
            decision = decide(score, costs, Constraints(), SessionState(), settings, said)
            expected = costs.of(decision.route) or 0
            cost = round(expected * rng.uniform(0.6, 1.4))
            if state is not None:
                state = _sent(state, decision, costs, expected)
                heappush(open_calls, (now_s + rng.expovariate(1 / 8.0), expected, cost))
            spent.nano_usd += cost
            spent.requests += 1
            spent.opus += decision.route is Route.OPUS
            spent.benefit += score.value if decision.route is Route.OPUS else 0.0
    return found


def _sent(
    state: budget.BudgetState, decision: Decision, costs: RouteCosts, expected: int
) -> budget.BudgetState:
    return budget.decided(
        state,
        expected_nano_usd=expected,
        flash_nano_usd=costs.flash_nano_usd,
        took_opus=decision.route is Route.OPUS,
        free=decision.by_score,
    )


def _arrivals(rng: random.Random, day: Day) -> list[float]:
    """Instants of one day, by thinning: four times as many at 14:00 as at 2:00."""
    found, at_s, mean = [], 0.0, day.requests / DAY_S
    highest = mean * 1.6 * max(1.0, day.more)
    while (at_s := at_s + rng.expovariate(highest)) < DAY_S:
        rate = mean * (1 - 0.6 * cos((at_s / DAY_S - 2 / 24) * 2 * pi))
        if at_s >= day.shock_from_s:
            rate *= day.more
        if rng.random() < rate / highest:
            found.append(at_s)
    return found


def _request(rng: random.Random, harder: float) -> tuple[Score, RouteCosts]:
    value = min(1.0, rng.betavariate(0.6, 1.6) * harder)
    flash = round(exp(rng.gauss(15.0, 0.5)))  # about $0.0033
    opus = flash + round(exp(rng.gauss(16.9, 0.6)))  # about $0.022 more
    return Score(value=value, raw=0.0, model_digest="sim"), RouteCosts(
        flash_nano_usd=flash, opus_nano_usd=opus
    )
