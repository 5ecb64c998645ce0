"""The service's planner with its own memory, as a replay drives it.

The rule: plans, beliefs and forecasts are the service's own (`cache.plan`, `cache.index`, `cache.demand`), asked and
taught request by request; nothing here knows what a trace holds beyond the prompt it is given, nor what anything costs
in money.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cache.demand import Demand
from cache.economics import Rates, TokenSplit, hour_threshold
from cache.facts import Facts
from cache.forecast import Forecast, Forecasts
from cache.index import PrefixIndex
from cache.plan import Breakpoint, Plan, Strategy, plan
from cache.prompt import CacheScope, Layer, Prompt
from cache.rules import TTL_1H_S, TTL_5M_S, CacheRules
from cache.tokens import TokenEstimator
from router.replay_shared import application_end
from router.replay_trace import TracePrompt


@dataclass(slots=True)
class Planner:
    """Planner, index and counter of one replay; `demand` is taught by its owner."""

    strategy: Strategy
    rules: CacheRules
    rates: Rates
    facts: Facts
    scope: CacheScope
    demand: Demand
    index: PrefixIndex
    estimator: TokenEstimator = field(default_factory=TokenEstimator)

    def counts(self, found: TracePrompt) -> tuple[int, ...]:
        """Tokens of the prefix ending at each block."""
        return self.estimator.cumulative_tokens(found.prompt, self.rules.model)

    def decide(
        self, found: TracePrompt, now_s: float, kind: str
    ) -> tuple[Plan, tuple[int, ...], Forecast | None]:
        """Plan, token counts and the forecast for the turn."""
        counts = self.counts(found)
        forecasts = None
        if self.strategy is Strategy.AUTO:
            forecasts = self.demand.forecasts(self.scope, found.prompt, found.digests, now_s, kind, counts)
        planned = self._planned(found, counts, now_s, forecasts, None)
        return planned, counts, None if forecasts is None else forecasts[Layer.TURN]

    def again(
        self, found: TracePrompt, counts: tuple[int, ...], points: Sequence[Breakpoint], now_s: float
    ) -> Plan:
        """Plan of a warm that is to touch what these breakpoints name."""
        return self._planned(found, counts, now_s, None, points)

    def ahead(self, found: TracePrompt, now_s: float) -> tuple[TracePrompt, tuple[int, ...], Plan] | None:
        """What is sent to warm what the next request begins with: the prompt up to its last breakpoint, and its plan.

        Breakpoints stand after the application's layers, for an hour where their uses say so, after the context, and
        at the end with a fallback before it, since clients replace the very last block; under A and B, whose traffic
        never reads past the context, not there. None where nothing can be kept.
        """
        recurring = found.prompt.blocks[: found.prompt.recurring_end + 1]
        marked = [place for place, block in enumerate(recurring) if block.markable]
        if self.strategy in (Strategy.A, Strategy.B):
            marked = [place for place in marked if recurring[place].layer <= Layer.CONTEXT][-1:]
        if not marked:
            return None
        end = marked[-1] + 1
        cut = TracePrompt(
            Prompt(found.prompt.blocks[:end]), found.digests[:end], found.ends[:end], found.returned_gap_s
        )
        counts, shared = self.counts(cut), application_end(cut)
        places = {cut.prompt.ends[Layer.CONTEXT], *marked[-2:]} | (set() if shared is None else {shared})
        shared_ttl_s = self._shared_ttl_s(cut, counts, now_s)
        points = [
            Breakpoint(
                place,
                cut.prompt.blocks[place].layer,
                shared_ttl_s if place == shared else TTL_5M_S,
                counts[place],
                cut.digests[place],
                "ahead of a request",
                0.0,
            )
            for place in sorted(places)
            if place >= 0
        ]
        planned = self.again(cut, counts, points, now_s)
        return (cut, counts, planned) if planned.breakpoints else None

    def learn(
        self, found: TracePrompt, counts: Sequence[int], planned: Plan, split: TokenSplit, now_s: float
    ) -> bool | None:
        """Settle one request; gives whether what was believed warm was read."""
        self.index.begin(self.scope, planned, now_s)
        learned = self.index.observe(
            self.scope,
            found.digests,
            counts,
            planned,
            started=now_s,
            first_byte_at=now_s,
            read_tokens=split.read,
            write_5m_tokens=split.write_5m,
            write_1h_tokens=split.write_1h,
        )
        return learned.held

    def _shared_ttl_s(self, found: TracePrompt, counts: tuple[int, ...], now_s: float) -> int:
        forecast = self.demand.forecasts(self.scope, found.prompt, found.digests, now_s, "", counts)[
            Layer.SYSTEM
        ]
        later = (forecast.p_1h - forecast.p_5m) / (1 - forecast.p_5m) if forecast.p_5m < 1 else 0.0
        return TTL_1H_S if later > hour_threshold(self.rates) else TTL_5M_S

    def _planned(
        self,
        found: TracePrompt,
        counts: tuple[int, ...],
        now_s: float,
        forecasts: Forecasts | None,
        points: Sequence[Breakpoint] | None,
    ) -> Plan:
        return plan(
            found.prompt,
            found.digests,
            counts,
            self.index.belief(self.scope, found.digests),
            rules=self.rules,
            rates=self.rates,
            strategy=self.strategy,
            now=now_s,
            forecasts=forecasts,
            uncertainty=0.0,
            facts=self.facts,
            points=points,
        )
