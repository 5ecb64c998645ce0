"""What is counted of every attempt: how it ended, what it was billed for, and what it would have cost otherwise.

The rule: counts are exact (tokens, nano-USD) and independent of trace sampling; unknown is not zero, a call without a
cost is counted as unknown and adds nothing to any sum.

It does not know prices: costs come with the settlement.
"""

from classifier.route import Route
from router import attributes as names
from router.cost import Cost, saving
from router.money import NANO_PER_USD
from router.settlement import Outcome, Purpose, Settlement
from router.telemetry.aggregates import Counter
from router.telemetry.labels import COST_PARTS, SCENARIOS, TOKEN_KINDS, Words, cost_parts, input_counts
from router.usage import Usage


class SpendMetrics:
    """Calls, tokens and money by route, and by whom it is booked to.

    Args:
        words: What may be a label.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        route, model, purpose = names.ROUTE, names.MODEL, names.PURPOSE
        self.calls = Counter(
            names.CALLS,
            "{call}",
            "Attempts on an upstream, by how they ended",
            (route, names.UPSTREAM, model, purpose, names.OUTCOME),
        )
        self.tokens = Counter(
            names.TOKENS,
            "{token}",
            "Tokens billed; the kinds do not overlap and add up to input plus output",
            (route, model, purpose, names.TOKEN_KIND),
        )
        self.cost = Counter(
            names.COST,
            names.USD,
            "USD billed, by what it bought; calls of unknown cost are not in it",
            (route, purpose, names.COST_PART),
            divisor=NANO_PER_USD,
        )
        self.cost_unknown = Counter(
            names.COST_UNKNOWN_CALLS,
            "{call}",
            "Calls that may have been billed and whose cost is not known",
            (route, purpose, names.OUTCOME),
        )
        self.counterfactual_cost = Counter(
            names.COUNTERFACTUAL_COST,
            names.USD,
            "USD the users' calls would have cost otherwise",
            (route, names.SCENARIO),
            divisor=NANO_PER_USD,
        )
        self.saving = Counter(
            names.SAVING,
            names.USD,
            "All Opus without caching, minus the cost, over users' calls where both are known; may fall",
            (route,),
            monotonic=False,
            divisor=NANO_PER_USD,
        )
        self.booked_cost = Counter(
            names.BOOKED_COST,
            names.USD,
            "USD billed, by whom it is booked to",
            (names.APPLICATION, names.TENANT, route, purpose),
            divisor=NANO_PER_USD,
        )
        self.discarded_cost = Counter(
            names.DISCARDED_COST,
            names.USD,
            "USD billed for answers that were discarded, a part of the calls' cost",
            (names.APPLICATION, names.SIGNAL),
            divisor=NANO_PER_USD,
        )

    def start(self) -> None:
        """Begin at 0 what is known beforehand of users' calls, models apart."""
        user = Purpose.USER.value
        for route in Route:
            for part in COST_PARTS:
                self.cost.start((route.value, user, part))
            for outcome in Outcome:
                if outcome is not Outcome.REFUSED:
                    self.cost_unknown.start((route.value, user, outcome.value))
            for scenario in SCENARIOS:
                self.counterfactual_cost.start((route.value, scenario))

    def start_model(self, route: str, upstream: str, model: str) -> None:
        """Begin at 0 users' calls of a route on its model."""
        user = Purpose.USER.value
        for outcome in Outcome:
            self.calls.start((route, upstream, model, user, outcome.value))
        for kind in TOKEN_KINDS:
            self.tokens.start((route, model, user, kind))

    def record(self, settlement: Settlement, route: str, model: str, purpose: str) -> None:
        """Count one attempt: how it ended, its tokens, its cost."""
        outcome = str(settlement.outcome)
        upstream = self._words.upstream(settlement.intent.upstream)
        self.calls.add((route, upstream, model, purpose, outcome))
        if settlement.usage is not None:
            self._record_tokens(settlement.usage, route, model, purpose)
        if settlement.cost is not None:
            self._record_cost(settlement, settlement.cost, route, purpose)
        elif settlement.outcome is not Outcome.REFUSED:
            self.cost_unknown.add((route, purpose, outcome))

    def _record_tokens(self, usage: Usage, route: str, model: str, purpose: str) -> None:
        thinking = usage.thinking_tokens or 0
        output = (("output_text", usage.output_tokens - thinking), ("thinking", thinking))
        for kind, count in (*input_counts(usage), *output):
            if count:
                self.tokens.add((route, model, purpose, kind), count)

    def _record_cost(self, settlement: Settlement, cost: Cost, route: str, purpose: str) -> None:
        add = self.cost.add
        for part, amount in zip(COST_PARTS, cost_parts(cost), strict=True):
            if amount:
                add((route, purpose, part), amount)
        intent = settlement.intent
        total = cost.total_nano_usd
        self.booked_cost.add(
            (self._words.application(intent.application), self._words.tenant(intent.tenant), route, purpose),
            total,
        )
        if settlement.discarded:
            self.discarded_cost.add(
                (self._words.application(intent.application), self._words.word(settlement.discarded)), total
            )
        otherwise = settlement.counterfactuals
        if otherwise is None or intent.purpose is not Purpose.USER:
            return
        for scenario, amount_otherwise in (
            ("no_caching", otherwise.no_caching_nano_usd),
            ("all_opus", otherwise.all_opus_nano_usd),
            ("all_flash", otherwise.all_flash_nano_usd),
            ("all_opus_no_caching", otherwise.all_opus_no_caching_nano_usd),
            ("never_switch", otherwise.never_switch_nano_usd),
        ):
            if amount_otherwise is not None:
                self.counterfactual_cost.add((route, scenario), amount_otherwise)
        saved = saving(otherwise.all_opus_no_caching_nano_usd, total)
        if saved is not None:
            self.saving.add((route,), saved)
