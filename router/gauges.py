"""What is read only when somebody looks at the metrics: circuits, the day's budget, how good belief in the caches is.

The rule: a gauge asks its owner at the time of the look; nothing is kept here.

It does not know how metrics leave the process.
"""

from collections.abc import Mapping, Sequence

from cache.index import PrefixIndex
from cache.prompt import CacheScope
from router import attributes as names
from router.circuit import Circuits, State
from router.clock import Clock
from router.money import NANO_PER_USD
from router.spending import Spending
from router.telemetry import Telemetry

_STATE_NUMBERS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


def watch_belief(telemetry: Telemetry, index: PrefixIndex, scopes: Sequence[CacheScope]) -> None:
    """Show how good belief in each provider's cache has been."""
    telemetry.watch_calibration(lambda: [(scope.model, index.calibration(scope)) for scope in scopes])


def watch_circuits(telemetry: Telemetry, circuits: Circuits, clock: Clock) -> None:
    """Show whether calls are held back from an upstream."""

    def observe() -> list[tuple[dict[str, str], int]]:
        return [
            (
                {names.ROUTE: each.route.value, names.UPSTREAM: each.upstream, names.MODEL: each.model},
                _STATE_NUMBERS[each.state],
            )
            for each in circuits.snapshot(clock.now())
        ]

    telemetry.watch_each(names.CIRCUIT_STATE, "{state}", "Circuit: 0 closed, 1 half open, 2 open", observe)


def watch_spending(telemetry: Telemetry, spending: Spending, clock: Clock) -> None:
    """Show today's budget, and what a needed answer may cost."""

    def told(parts: Mapping[str, int]) -> list[tuple[dict[str, str], float]]:
        return [({names.BUDGET_PART: part}, amount / NANO_PER_USD) for part, amount in parts.items()]

    telemetry.watch_each(
        names.BUDGET_AMOUNT,
        names.USD,
        "USD of today's budget: limit, spent, in progress at expected cost, reserved for Flash",
        lambda: told(spending.amounts_nano_usd(clock.now())),
    )
    telemetry.watch_each(
        names.BUDGET_ANSWER_VALUE,
        names.USD,
        "USD that one needed Opus answer may cost now, by what is held",
        lambda: told(spending.values_nano_usd()),
    )
