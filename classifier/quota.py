"""A share held over many requests by the same dual variable: Opus's share of them, or the quality left to Flash.

The rule: every `STEP` requests the price V moves by exp(clip(eta (amount - allowed) / allowed, +-0.2)), against the
amount for a limit on Opus's share, and with it for a floor under quality (the sign is the only difference):

    share s     amount = requests that took Opus,                allowed = s x requests        too many: V falls
    floor q     amount = sum of the scores left to Flash,        allowed = (1 - q) x requests  too much: V rises

The score is the calibrated chance that Flash's answer will not do, so what is left to Flash is the expected number of
answers that fall short: estimated quality, not measured. A share is a limit on the mean, not on each request: what is
cheaper on Opus goes to Opus. Where all went one way already the price moves no further. Pure; no clock.
"""

from __future__ import annotations

from enum import StrEnum
from math import exp, log
from typing import NamedTuple

from classifier.budget import START_VALUE_NANO_USD, moved

STEP = 50
"""Requests of one step: at a share of a fifth the noise of a step is 28 %."""
ETA = 0.1


class Held(StrEnum):
    """What is held."""

    OPUS_SHARE = "opus_share"
    QUALITY_FLOOR = "quality_floor"


class QuotaState(NamedTuple):
    """One share at one instant.

    Attributes:
        held: What it limits.
        limit: The share, or the floor, in [0, 1].
        log_value: Natural logarithm of V in nano-USD.
        requests: Requests of the running step.
        amount: What counts against the limit in it.
        opus: Of the requests whose route the score chose, how many took Opus.
        flash: ... and Flash.
    """

    held: Held
    limit: float
    log_value: float
    requests: int = 0
    amount: float = 0.0
    opus: int = 0
    flash: int = 0

    @property
    def value_nano_usd(self) -> int:
        """V: what one needed Opus answer may cost now, > 0."""
        return round(exp(self.log_value))


def begin(held: Held, limit: float, value_nano_usd: int = START_VALUE_NANO_USD) -> QuotaState:
    """A share at the start of the service.

    Raises:
        ValueError: Nothing would be allowed: a share of 0 or a floor of 1.
    """
    if not 0 < (limit if held is Held.OPUS_SHARE else 1 - limit) <= 1:
        raise ValueError(f"{held} of {limit!r} allows nothing or has no meaning")
    return QuotaState(held, limit, log(value_nano_usd))


def decided(state: QuotaState, *, score: float | None, took_opus: bool, free: bool) -> QuotaState:
    """The state after one request.

    Args:
        score: In [0, 1]; None when nothing scored.
        free: Whether the score chose its route.
    """
    if state.held is Held.OPUS_SHARE:
        amount = 1.0 if took_opus else 0.0
    elif score is None:
        return state
    else:
        amount = 0.0 if took_opus else score
    state = state._replace(
        requests=state.requests + 1,
        amount=state.amount + amount,
        opus=state.opus + (free and took_opus),
        flash=state.flash + (free and not took_opus),
    )
    return state if state.requests < STEP else _closed(state)


def _closed(state: QuotaState) -> QuotaState:
    by_share = state.held is Held.OPUS_SHARE
    allowed = (state.limit if by_share else 1 - state.limit) * state.requests
    excess = (state.amount - allowed) / allowed
    if not by_share:
        excess = -excess
    saturated = (excess > 0 and not state.opus) or (excess < 0 and not state.flash)
    log_value = state.log_value if saturated else moved(state.log_value, excess, 1.0, eta=ETA)
    return QuotaState(state.held, state.limit, log_value)
