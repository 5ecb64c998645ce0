"""A day's money held online: one price for a needed answer, corrected every ten minutes by what was spent.

The rule (economics 5.2): with lambda = 1 / V the shadow price of a dollar,

    lambda *= exp(clip(eta (spent - planned) / planned, +-0.2))     at the end of every step of ten minutes
    planned = what is left of the day's budget x this step's part of the traffic still expected today

so early overspending is paid back evenly by the rest of the day, and what is left over is offered to it. A step in
which nothing was free to choose teaches nothing, and one of few requests little; where every free request already went
one way the price moves no further that way (it would only have to come back). A day, UTC, begins at the mean price of
the day before, because the last steps of a day swing.

Beside the price stands a reserve: Opus is paid for only while what is spent, what is being spent (calls in progress, at
their expected cost) and what Flash alone would cost for the traffic still expected leave room for it. So a day ends
within a few requests of its budget whatever the price did; nothing is ever refused, so a budget below what Flash alone
costs is exceeded by Flash.

Pure: `BudgetState -> BudgetState`, time and amounts are passed in, money is whole nano-USD. It knows no routes and no
ledger; `router.spending` feeds it.
"""

from __future__ import annotations

from math import exp, log
from typing import NamedTuple

from classifier.profile import DAY_S, Profile, expected

STEP_S = 600
ETA = 0.3
"""Of the relative error of a step that goes into the price: noise of a step is a fifth, a shock some steps long."""
CLIP = 0.2
FULL_STEP = 20
"""Free requests from which a step counts whole."""
LEVEL_KEPT = 0.8
"""Of the past in today's level of traffic, per step: half in half an hour."""
COST_KEPT = 0.995
"""Of the past in the mean cost of a request on Flash, per request."""
START_VALUE_NANO_USD = 50_000_000
"""$0.05: twice what Opus costs more for a middling turn (economics 5.1), a score of one half at the start."""
_LOWEST, _HIGHEST = log(1_000.0), log(1e12)
"""The price stays between a millionth of a dollar and $1,000, whatever is measured: it can always come back."""


class BudgetState(NamedTuple):
    """One budget at one instant.

    Attributes:
        limit_nano_usd: A day's budget, > 0.
        day: Days since the epoch.
        step: Step of the day, from 0.
        since_s: Start of what was watched of the running step.
        log_value: Natural logarithm of V in nano-USD.
        spent_nano_usd: Settled today.
        open_nano_usd: Expected cost of calls in progress.
        step_spent_nano_usd: Spent or committed in the running step.
        planned_nano_usd: Planned for it.
        step_requests: Requests of the running step.
        step_opus: Of those free to choose, how many took Opus.
        step_flash: ... and Flash.
        day_weight: Requests of the day, and
        day_log_value: the sum of `log_value` over them.
        level: Faded requests, and
        level_expected: faded expectation of the profile for the same time.
        flash_nano_usd: Mean expected cost of a request on Flash; 0 until one was seen.
        profile: Of the days so far.
        rates: `profile.rates()` of this day.
    """

    limit_nano_usd: int
    day: int
    step: int
    since_s: float
    log_value: float
    spent_nano_usd: int = 0
    open_nano_usd: int = 0
    step_spent_nano_usd: int = 0
    planned_nano_usd: float = 0.0
    step_requests: int = 0
    step_opus: int = 0
    step_flash: int = 0
    day_weight: float = 0.0
    day_log_value: float = 0.0
    level: float = 0.0
    level_expected: float = 0.0
    flash_nano_usd: float = 0.0
    profile: Profile = Profile()
    rates: tuple[float, ...] = Profile().rates()

    @property
    def value_nano_usd(self) -> int:
        """V: what one needed Opus answer may cost now, > 0."""
        return round(exp(self.log_value))

    def reserve_nano_usd(self, now_s: float) -> float:
        """What Flash alone is expected to cost for the rest of the day."""
        return self.flash_nano_usd * self.expected_requests(now_s)

    def expected_requests(self, now_s: float) -> float:
        """Requests expected in the rest of the day, at today's level; 0 until one was measured."""
        if self.level_expected <= 0:
            return 0.0
        end_s = float((self.day + 1) * DAY_S)
        return self.level / self.level_expected * expected(self.rates, min(now_s, end_s), end_s)

    def fits(self, opus_nano_usd: int, now_s: float) -> bool:
        """Whether a request of this expected cost on Opus leaves enough for the rest of the day on Flash."""
        room = self.limit_nano_usd - self.spent_nano_usd - self.open_nano_usd - opus_nano_usd
        return room >= 0 and room >= self.reserve_nano_usd(now_s)


def begin(
    limit_nano_usd: int,
    now_s: float,
    *,
    spent_nano_usd: int = 0,
    value_nano_usd: int = START_VALUE_NANO_USD,
    profile: Profile = Profile(),  # noqa: B008 (frozen)
) -> BudgetState:
    """The budget at the start of the service.

    Args:
        spent_nano_usd: Spent today before it.
        value_nano_usd: V to begin with.
        profile: Of earlier days.
    """
    day = int(now_s // DAY_S)
    state = BudgetState(
        limit_nano_usd=limit_nano_usd,
        day=day,
        step=int(now_s - day * DAY_S) // STEP_S,
        since_s=now_s,
        log_value=_bounded(log(value_nano_usd)),
        spent_nano_usd=spent_nano_usd,
        profile=profile,
        rates=profile.rates(),
    )
    return _planned(state)


def advanced(state: BudgetState, now_s: float) -> BudgetState:
    """The budget at `now_s`: every step that has ended is closed, and a new day begun. Time never runs backwards."""
    end_s = _step_end_s(state)
    while now_s >= end_s:
        if now_s - end_s > DAY_S:  # after a long sleep only the day matters
            day, step = int(now_s // DAY_S), int(now_s % DAY_S) // STEP_S
            fresh = _fresh(state)._replace(day=day, step=step, since_s=now_s, spent_nano_usd=0)
            return _planned(fresh)
        state = _closed(state, end_s)
        end_s = _step_end_s(state)
    return state


def decided(
    state: BudgetState,
    *,
    expected_nano_usd: int,
    flash_nano_usd: int | None,
    took_opus: bool,
    free: bool,
) -> BudgetState:
    """The budget once a request goes out.

    Args:
        expected_nano_usd: Its expected cost on the route it takes.
        flash_nano_usd: ... and on Flash; None when unknown.
        free: Whether the price chose its route.
    """
    mean = state.flash_nano_usd
    if flash_nano_usd is not None:
        mean = flash_nano_usd if mean <= 0 else COST_KEPT * mean + (1 - COST_KEPT) * flash_nano_usd
    return state._replace(
        open_nano_usd=state.open_nano_usd + expected_nano_usd,
        step_spent_nano_usd=state.step_spent_nano_usd + expected_nano_usd,
        step_requests=state.step_requests + 1,
        step_opus=state.step_opus + (free and took_opus),
        step_flash=state.step_flash + (free and not took_opus),
        flash_nano_usd=mean,
    )


def held(state: BudgetState, *, expected_nano_usd: int) -> BudgetState:
    """The budget once another attempt at a request that was decided goes out: money, but no request more."""
    return state._replace(
        open_nano_usd=state.open_nano_usd + expected_nano_usd,
        step_spent_nano_usd=state.step_spent_nano_usd + expected_nano_usd,
    )


def settled(state: BudgetState, *, reserved_nano_usd: int, cost_nano_usd: int) -> BudgetState:
    """The budget once a call is booked.

    Args:
        reserved_nano_usd: What `decided` or `held` counted for it, 0 for a call it never saw (a warm-up).
        cost_nano_usd: What it cost.
    """
    return state._replace(
        open_nano_usd=state.open_nano_usd - reserved_nano_usd,
        spent_nano_usd=state.spent_nano_usd + cost_nano_usd,
        step_spent_nano_usd=state.step_spent_nano_usd + cost_nano_usd - reserved_nano_usd,
    )


def moved(log_value: float, excess: float, weight: float, *, eta: float = ETA) -> float:
    """ln V after a step.

    Args:
        excess: (spent - planned) / planned; infinity where nothing was planned.
        weight: How far the step counts, in [0, 1].
    """
    return _bounded(log_value - weight * max(-CLIP, min(CLIP, eta * excess)))


def _fresh(state: BudgetState) -> BudgetState:
    """The state with nothing counted in its step yet."""
    return state._replace(step_spent_nano_usd=0, step_requests=0, step_opus=0, step_flash=0)


def _step_end_s(state: BudgetState) -> float:
    return float(state.day * DAY_S + (state.step + 1) * STEP_S)


def _planned(state: BudgetState) -> BudgetState:
    """The plan of the step that begins: its part of what is left, by the traffic still expected."""
    day_end_s = float((state.day + 1) * DAY_S)
    left = state.limit_nano_usd - state.spent_nano_usd - state.open_nano_usd
    whole = expected(state.rates, state.since_s, day_end_s)
    part = expected(state.rates, state.since_s, _step_end_s(state))
    return state._replace(planned_nano_usd=max(0.0, left) * part / whole)


def _closed(state: BudgetState, end_s: float) -> BudgetState:
    """The budget at the end of the running step, in the next one."""
    free = state.step_opus + state.step_flash
    planned, spent = state.planned_nano_usd, state.step_spent_nano_usd
    excess = (spent - planned) / planned if planned > 0 else 0.0
    # Where all went one way already, moving the price further that way changes nothing now and delays what comes.
    saturated = (excess > 0 and not state.step_opus) or (excess < 0 and not state.step_flash)
    log_value = state.log_value
    if free and not saturated:
        log_value = moved(log_value, excess, min(1.0, free / FULL_STEP))
    count = state.step_requests
    state = _fresh(state)._replace(
        step=state.step + 1,
        since_s=end_s,
        log_value=log_value,
        day_weight=state.day_weight + count,
        day_log_value=state.day_log_value + count * state.log_value,
        level=LEVEL_KEPT * state.level + count,
        level_expected=LEVEL_KEPT * state.level_expected + expected(state.rates, state.since_s, end_s),
        profile=state.profile.seen(state.since_s, end_s, count),
    )
    if state.step * STEP_S >= DAY_S:
        state = _next_day(state)
    return _planned(state)


def _next_day(state: BudgetState) -> BudgetState:
    profile = state.profile.next_day()
    before, rates = state.rates, profile.rates()
    # The level is told in units of the profile, which is another one now.
    scale = sum(rates) / sum(before)
    return state._replace(
        day=state.day + 1,
        step=0,
        spent_nano_usd=0,
        log_value=state.day_log_value / state.day_weight if state.day_weight else state.log_value,
        day_weight=0.0,
        day_log_value=0.0,
        level_expected=state.level_expected * scale,
        profile=profile,
        rates=rates,
    )


def _bounded(log_value: float) -> float:
    return min(_HIGHEST, max(_LOWEST, log_value))
