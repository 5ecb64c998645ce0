"""What is done for a prefix that nobody uses just now: keep-alives, an upgrade ping, and which TTL that favours.

The rule: all of it is decided when a request has been answered, from the hazards of its kind of turn, by optimal
stopping from the last window back. A window's keep-alive is a read of all of the prefix (r C); it saves the write of
what would be lost. For the choice between 5 minutes and an hour both are held against a first gap of more than 5
minutes, per token: for 5 minutes what keep-alives bring, for an hour what comes back within it, and after it by
keep-alives an hour apart, less the dearer write, which is paid anew whenever the conversation was lost.

It does not know who comes back when (`cache.returns` does), nor how anything is sent.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache.economics import hour_value
from cache.forecast import Kept
from cache.hazard import Path
from cache.returns import WINDOW_S, Returns
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import (
    FIXED_PINGS,
    MARGIN,
    Policy,
    Prefix,
    Verdict,
    Worth,
    lost_units,
    most_keep_alives,
    read_units,
    windows_of,
)

WINDOWS_AN_HOUR = TTL_1H_S // WINDOW_S


class IdlePlan(NamedTuple):
    """What is done for a private prefix until somebody comes back to it.

    Attributes:
        pings: Keep-alives, a spacing apart.
        upgrades: Whether the upgrade ping follows them.
        value_units: What all that is expected to bring from the first one's instant on, its cost and AUTO's margin on
            it taken off; 0 where nothing is done.
    """

    pings: int
    upgrades: bool
    value_units: float


_NOTHING = IdlePlan(0, False, 0.0)


def idle_plan(
    policy: Policy,
    prefix: Prefix,
    worth: Worth,
    hazards: Sequence[float],
    *,
    answer_tokens: int | None = None,
    hour_hazards: Sequence[float] = (),
) -> IdlePlan:
    """Keep-alives that a private prefix gets after its last use unless somebody comes.

    Without the upgrade ping it is what `keep_alive` says again and again to the same hazards, in one pass.

    The upgrade ping sends a 5 minute prefix once more with the answer behind it and a 1 hour mark at its end: it pays
    r C + w1 a, and where the open fact A2 holds, all of it lives for the hour.

    Args:
        hazards: Chance of a return in each window of `WINDOW_S` after its use, from the first on.
        answer_tokens: Of the answer that the upgrade ping would write; None where it must not be sent, which is
            always but where `Facts.upgrade_ping_verified`.
        hour_hazards: As `hazards`, for the hour that it buys; () for the same.
    """
    if policy is Policy.KEEP_ALIVE:
        return IdlePlan(FIXED_PINGS, False, 0.0)
    gain, cost = lost_units(prefix, worth), MARGIN * read_units(prefix, worth)
    windows = windows_of(hazards, prefix.ttl_s)[1 : 1 + most_keep_alives(prefix, worth)]
    if answer_tokens is None and max(windows, default=0.0) * gain <= cost:
        return _NOTHING  # the last keep-alive of any plan has to pay by its own window alone
    value, pings, upgrades = 0.0, 0, False
    for place in range(len(windows) - 1, -1, -1):
        pinged = windows[place] * gain + (1 - windows[place]) * value - cost
        upgraded = -1.0
        if answer_tokens is not None and prefix.ttl_s < TTL_1H_S:
            hour = (hour_hazards or hazards)[1 + place :]
            upgraded = _upgrade_units(prefix, worth, hour, answer_tokens)
        if upgraded > 0 and upgraded >= pinged:
            value, pings, upgrades = upgraded, 0, True
        elif pinged > 0:
            value, pings = pinged, pings + 1
        else:
            value, pings, upgrades = 0.0, 0, False
    return IdlePlan(pings, upgrades, value)


def _upgrade_units(prefix: Prefix, worth: Worth, windows: Sequence[float], answer_tokens: int) -> float:
    """Value of the upgrade ping, its cost and the margin on it taken off."""
    rates, silent = worth.rates, 1.0
    for hazard in windows[:WINDOWS_AN_HOUR]:
        silent *= 1 - hazard
    kept = (rates.write_5m - rates.read + worth.latency) * (prefix.private_tokens + answer_tokens)
    return (1 - silent) * kept - MARGIN * (read_units(prefix, worth) + rates.write_1h * answer_tokens)


def upgrade(
    prefix: Prefix, worth: Worth, hazards: Sequence[float], answer_tokens: int, *, planned: bool
) -> Verdict:
    """What the upgrade ping of a private prefix is worth now.

    Args:
        hazards: Chance of a return in each window from the one on that it buys.
        planned: Whether it is to be sent.
    """
    cost = read_units(prefix, worth) + worth.rates.write_1h * answer_tokens
    value = _upgrade_units(prefix, worth, hazards, answer_tokens) + MARGIN * cost
    silent = 1.0
    for hazard in hazards[:WINDOWS_AN_HOUR]:
        silent *= 1 - hazard
    return Verdict(
        planned,
        cost,
        value,
        f"a return in the next hour has a chance of {1 - silent:.3f}: {value:,.0f} units for {cost:,.0f}",
    )


USUAL_ANSWER = 0.02
"""Tokens of an answer for one of its prompt, where the choice of a TTL weighs the upgrade ping: agents' median."""


def kept(worth: Worth, hazards: Sequence[float], *, upgrades: bool = False) -> Kept:
    """What a token of a conversation is worth at its first gap of more than 5 minutes, by the TTL it was written with.

    Args:
        hazards: As for `idle_plan`.
        upgrades: Whether the upgrade ping may be sent.
    """
    rates, worth = worth.rates, worth._replace(call_units=0.0)
    lost = rates.write_5m - rates.read + worth.latency
    thousand = Prefix(b"", 1000, 1000, TTL_5M_S, False)
    answer = round(USUAL_ANSWER * 1000) if upgrades else None
    five = idle_plan(Policy.AUTO, thousand, worth, hazards, answer_tokens=answer).value_units / 1000
    hours = windows_of(hazards, TTL_1H_S)
    after = 0.0
    # The first of these windows is the hour that the write buys; each later one costs a keep-alive.
    for hazard in reversed(hours[1:]):
        after = max(0.0, hazard * lost + (1 - hazard) * after - MARGIN * rates.read)
    silent = 1.0
    for hazard in hazards[1 : 1 + WINDOWS_AN_HOUR]:
        silent *= 1 - hazard
    return Kept(five, hour_value(rates, 1 - silent, worth.latency) + silent * after)


class KeptByKind:
    """`kept` of every kind of turn, worked out anew only when enough has been learnt: it is asked at every request."""

    def __init__(
        self, worth: Callable[[], Worth], returns: Returns, *, upgrades: bool = False, max_kinds: int = 20_000
    ) -> None:
        """Ask `returns` for the hazards; `upgrades` as for `kept`."""
        self._upgrades = upgrades
        self._worth = worth
        self._returns = returns
        self._max_kinds = max_kinds
        self._values: dict[Path, tuple[int, Kept]] = {}

    def __call__(self, path: Path) -> Kept:
        """Of turns of this kind."""
        version = self._returns.version
        found = self._values.get(path)
        if found is not None and found[0] == version:
            return found[1]
        if len(self._values) >= self._max_kinds:
            self._values.clear()
        value = kept(self._worth(), self._returns.run_hazards(path), upgrades=self._upgrades)
        self._values[path] = version, value
        return value
