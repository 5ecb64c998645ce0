"""What is counted of warms: orders by what became of them, what they cost, what they brought.

The rule: what warms brought is a prediction, so what it overstated of those held out is counted beside it.

It does not know when to warm: `router.warmer` does.
"""

from cache.regret import Result, Settled
from cache.schedule import Trigger
from router import attributes as names
from router.money import NANO_PER_USD
from router.telemetry.aggregates import Counter


class WarmMetrics:
    """Warms by what they were sent for and what they proved to be."""

    def __init__(self) -> None:
        self.orders = Counter(
            names.WARMS,
            "{warm}",
            "Orders to warm a prefix, by what became of them, and warms, by what they proved to be",
            (names.WARM_TRIGGER, names.WARM_RESULT),
        )
        self.cost = Counter(
            names.WARM_COST,
            names.USD,
            "USD billed for warms, by what they proved to be when their entry ended",
            (names.WARM_TRIGGER, names.WARM_RESULT),
            divisor=NANO_PER_USD,
        )
        trigger = (names.WARM_TRIGGER,)
        self.saving = Counter(
            names.WARM_SAVING,
            names.USD,
            "USD that requests would have paid more without the warms they read, by prediction; less their cost it is "
            "what warms brought",
            trigger,
            divisor=NANO_PER_USD,
        )
        self.overstated = Counter(
            names.WARM_OVERSTATED,
            names.USD,
            "USD by which the same prediction overstated what those held out lost",
            trigger,
            divisor=NANO_PER_USD,
        )
        self.unwarmable = Counter(
            names.WARM_UNWARMABLE,
            "{order}",
            "What was to be warmed and cannot be, by why",
            (names.WARM_TRIGGER, names.WARM_REASON),
        )

    def start(self) -> None:
        """Let what warms cost and bring begin at 0, so that the first of each is counted by rates, too."""
        for trigger in Trigger:
            self.saving.start((trigger.value,))
            self.overstated.start((trigger.value,))
            for result in Result:
                self.orders.start((trigger.value, result.value))
                if result is not Result.HELD_OUT:
                    self.cost.start((trigger.value, result.value))

    def record(self, trigger: str, result: str) -> None:
        """Count what became of an order to warm."""
        self.orders.add((trigger, result))

    def record_verdict(self, settled: Settled) -> None:
        """Count what a decision to warm came to."""
        self.orders.add((settled.trigger, settled.result.value))
        if settled.result is Result.HELD_OUT:
            self.overstated.add((settled.trigger,), round(-settled.benefit_usd * NANO_PER_USD))
            return
        self.cost.add((settled.trigger, settled.result.value), round(settled.cost_usd * NANO_PER_USD))
        self.saving.add((settled.trigger,), round(settled.saved_usd * NANO_PER_USD))

    def record_unwarmable(self, trigger: str, reason: str) -> None:
        """Count what cannot be warmed."""
        self.unwarmable.add((trigger, reason))
