"""Replay a trace through the planner, the index and the demand on a clock that follows the trace.

The rule: rows are served one by one in the order of their time; a decision is made from what the rows before it
taught and is written down before the next row is looked at, so a trace cut short gives the same decisions. The
planner, index and demand are the service's own; the usage they learn from is billed by a reference cache that knows
nothing of them (`router.replay_provider`). Namespaces are independent recordings without a common clock: they are
laid one after another, an hour apart, which lets every window of the one before close.

Costs are in units of one uncached input token; output is the same under every policy and left out. It knows no
files and no real time: the caller passes a timer if it wants the planner's own time measured.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from cache.demand import Demand
from cache.economics import Rates, TokenSplit, cost_units
from cache.forecast import Forecast
from cache.index import PrefixIndex
from cache.plan import Plan, Strategy, plan
from cache.prompt import CacheScope, Layer
from cache.rules import TTL_1H_S, TTL_5M_S, CacheRules, rules_for
from cache.tokens import TokenEstimator
from router.replay_provider import ReferenceCache
from router.replay_trace import PromptBuilder, TracePrompt, TraceRow

MODEL = "claude-opus-4-5-20251101"
"""Model whose limits hold unless a replay names another; the minimum is a setting of its own."""
NAMESPACE_GAP_S = 3600.0
KEEP_ALIVE_SPACING_S = 285.0


class Policy(StrEnum):
    """How breakpoints are chosen: the planner's strategies, and the whole prompt at one TTL.

    Where a row knows its layers, the whole prompt at one TTL has breakpoints after system and context as well.
    """

    AUTO = "auto"
    A = "a"
    B = "b"
    C = "c"
    NONE = "none"
    TTL_5M = "5m"
    TTL_1H = "1h"


class Settings(NamedTuple):
    """What a replay assumes of the provider.

    Attributes:
        minimum_tokens: Shorter prefixes are not cached.
        rates: Price of cached tokens relative to uncached ones.
        model: Id in the catalogue; gives the other limits.
    """

    minimum_tokens: int = 1024
    rates: Rates = Rates(1.25, 2.0, 0.1)
    model: str = MODEL


class Served(NamedTuple):
    """One request, decided and billed.

    Attributes:
        marks: (prefix in whole trace blocks, TTL in seconds) of each breakpoint, ascending.
        p_hit: Chance we gave to reading what we believed warm; 0 where nothing was.
        held: Whether that was read, or, where nothing was believed, whether anything was.
        forecast: Chance of a return that reuses what this request added; None without AUTO.
        returned_gap_s: Seconds since the request this one extends; None where it extends none.
        decision_ns: Nanoseconds the decision took; 0 without a timer.
    """

    row: TraceRow
    marks: tuple[tuple[int, int], ...]
    split: TokenSplit
    p_hit: float
    held: bool
    forecast: Forecast | None
    returned_gap_s: float | None
    now_s: float
    decision_ns: int


@dataclass(slots=True)
class _Planner:
    """The service's planner with its own memory, as the replay drives it."""

    strategy: Strategy
    settings: Settings
    rules: CacheRules
    scope: CacheScope
    index: PrefixIndex = field(default_factory=PrefixIndex)
    demand: Demand = field(default_factory=Demand)
    estimator: TokenEstimator = field(default_factory=TokenEstimator)

    def decide(
        self, found: TracePrompt, now_s: float, kind: str
    ) -> tuple[Plan, tuple[int, ...], Forecast | None]:
        """Plan, token counts and the forecast for the turn."""
        counts = self.estimator.cumulative_tokens(found.prompt, self.settings.model)
        forecasts = None
        if self.strategy is Strategy.AUTO:
            forecasts = self.demand.forecasts(self.scope, found.prompt, found.digests, now_s, kind, counts)
        planned = plan(
            found.prompt,
            found.digests,
            counts,
            self.index.belief(self.scope, found.digests),
            rules=self.rules,
            rates=self.settings.rates,
            strategy=self.strategy,
            now=now_s,
            forecasts=forecasts,
            uncertainty=0.0,
        )
        return planned, counts, None if forecasts is None else forecasts[Layer.TURN]

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


def replay(
    rows: Iterable[TraceRow],
    policy: Policy,
    settings: Settings | None = None,
    *,
    timer: Callable[[], int] = lambda: 0,
) -> Iterator[Served]:
    """Serve the rows one by one.

    Args:
        rows: In the order they are served (`router.replay_trace.in_order`).
        timer: Nanoseconds of any clock; only differences are used.
    """
    settings = settings or Settings()
    rules = replace(rules_for(settings.model), minimum_tokens=settings.minimum_tokens)
    planner = None
    if policy not in (Policy.TTL_5M, Policy.TTL_1H):
        scope = CacheScope("anthropic", "replay", rules.model)
        planner = _Planner(Strategy(policy.value), settings, rules, scope)
    builder = PromptBuilder(settings.minimum_tokens)
    cache, namespace, offset_s, latest_s = ReferenceCache(settings.minimum_tokens), None, 0.0, 0.0
    for row in rows:
        if row.namespace != namespace:
            if namespace is not None:
                offset_s = latest_s + NAMESPACE_GAP_S - row.time_s
            cache, namespace = ReferenceCache(settings.minimum_tokens), row.namespace
        now_s = latest_s = offset_s + row.time_s
        found = builder.prompt(row)
        started = timer()
        if planner is None:
            marks = _whole(row, TTL_1H_S if policy is Policy.TTL_1H else TTL_5M_S)
        else:
            planned, counts, forecast = planner.decide(found, now_s, row.kind)
            marks = tuple([(found.ends[point.position], point.ttl_s) for point in planned.breakpoints])
        decision_ns = timer() - started
        split = cache.serve(
            row.runs,
            whole_blocks=row.whole_blocks,
            input_tokens=row.input_tokens,
            block_tokens=row.block_tokens,
            marks=marks,
            now_s=now_s,
        )
        p_hit, held, expected = 0.0, split.read > 0, None
        if planner is not None:
            if planner.strategy is Strategy.AUTO:
                planner.demand.arrive(planner.scope, found.prompt, found.digests, now_s, row.kind, counts)
            believed = planner.learn(found, counts, planned, split, now_s)
            p_hit, expected = planned.p_hit, forecast
            held = held if believed is None else believed
        yield Served(row, marks, split, p_hit, held, expected, found.returned_gap_s, now_s, decision_ns)


def decision(served: Served) -> dict[str, object]:
    """What was decided for one request, as a value for JSON: the last mark as `ttl`, those before it as `bp`."""
    row = served.row
    marks = list(served.marks)
    ttl = "none"
    if marks and marks[-1][0] >= row.whole_blocks:
        ttl = _spelled(marks.pop()[1])
    return {
        "ns": row.namespace,
        "stream": row.stream,
        "session": row.session,
        "seq": row.sequence,
        "ttl": ttl,
        "keepalive": 0,
        "every": KEEP_ALIVE_SPACING_S,
        "bp": [[blocks * row.block_tokens, _spelled(ttl_s)] for blocks, ttl_s in marks],
    }


def cost(served: Served, rates: Rates) -> float:
    """Units of one request."""
    return cost_units(served.split, rates)


def _whole(row: TraceRow, ttl_s: int) -> tuple[tuple[int, int], ...]:
    ends = [end for end, layer in row.layers if layer is Layer.SYSTEM or layer is Layer.CONTEXT]
    return tuple([(end, ttl_s) for end in (*ends, row.whole_blocks)])


def _spelled(ttl_s: int) -> str:
    return "1h" if ttl_s >= TTL_1H_S else "5m"
