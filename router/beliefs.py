"""What the router believes of both providers' caches, and what each call teaches it.

The rule: one digest pass over one spelling of the prompt serves both routes. Reading a view changes nothing; `begin`,
`first_byte`, `abandon` and `learn` are called by the path that makes the call, in that order, and nobody else.
"""

from collections.abc import Mapping, Sequence

import msgspec

from cache.belief import Belief
from cache.demand import Demand
from cache.economics import Rates
from cache.facts import ASSUMED, Facts
from cache.forecast import Forecast, Forecasts
from cache.hazard import Path
from cache.index import Learned, PrefixIndex
from cache.plan import Breakpoint, Plan, Strategy, plan
from cache.prefix import extend_digests, prefix_digests
from cache.prompt import CacheScope, Layer, Prompt
from cache.rolling import Rolling
from cache.rules import CacheRules, rules_for
from cache.tokens import UNCOUNTED, Counted, TokenEstimator
from classifier.route import Route
from router.pricing import PriceTable, UnknownPrice
from router.usage import Usage

_LIST_RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)
"""For a model without a known price: the ratios of every Claude model but the newest (A-PRICE, 2026-11)."""


class CacheView(msgspec.Struct, frozen=True, gc=False):
    """One route's view of a prompt.

    Attributes:
        counts: Estimated tokens of the prefix ending at each block, in this model's tokens.
        plan: Breakpoints and what they are expected to read and write; without breakpoints on Flash.
        counted: Of the leading blocks, what the provider's counter gave; `counts` begins with it.
        rolling: The prompt as a held session's, which says where beliefs are looked up; None for anywhere.
    """

    scope: CacheScope
    prompt: Prompt
    digests: tuple[bytes, ...]
    counts: Sequence[int]
    plan: Plan
    rolling: Rolling | None = None
    counted: Counted = UNCOUNTED


class Beliefs:
    """Index, demand and token estimates of one process."""

    def __init__(
        self,
        *,
        prices: PriceTable,
        workspaces: Mapping[Route, str],
        index: PrefixIndex,
        demand: Demand,
        estimator: TokenEstimator,
        facts: Facts = ASSUMED,
    ) -> None:
        """Keep references; `workspaces` names the provider workspace each route's key belongs to.

        Args:
            facts: What is known of Opus's cache beyond the documents; `index` was made with the same.
        """
        self._prices = prices
        self._workspaces = workspaces
        self._scopes: dict[tuple[Route, str], CacheScope] = {}
        self._openings: dict[str, tuple[Prompt, tuple[bytes, ...]]] = {}
        self.index = index
        self.demand = demand
        self.estimator = estimator
        self.facts = facts

    def views(
        self,
        prompt: Prompt,
        models: Mapping[Route, str],
        *,
        strategy: Strategy,
        kind: str,
        now_s: float,
        expected_follow_ups: int | None,
        rolling: Rolling | None = None,
    ) -> dict[Route, CacheView]:
        """Plan the prompt for each route, given what is believed warm at `now_s`.

        Args:
            kind: Class of traffic that returns alike: the application.
            strategy: How breakpoints are chosen where the provider takes any.
            expected_follow_ups: The caller's own forecast of requests with this prefix within five minutes.
            rolling: Of this prompt, in a held session; then the plan costs what its turn added.
        """
        digests = self.digests(prompt, kind) if rolling is None else rolling.digests
        return {
            route: self._view(
                route, model, prompt, digests, strategy, kind, now_s, expected_follow_ups, rolling
            )
            for route, model in models.items()
        }

    def arrive(self, view: CacheView, kind: str, now_s: float) -> Path:
        """Count one request for the route's cache, once per request, however many attempts it takes; give the kind of
        its turn."""
        keyed = not rules_for(view.scope.model).implicit  # no forecast is asked where nothing is marked
        return self.demand.arrive(
            view.scope, view.prompt, view.digests, now_s, kind, view.counts, keyed=keyed
        )

    def begin(self, view: CacheView, started_s: float) -> None:
        """Note that an attempt is on its way."""
        if view.plan.breakpoints:
            self.index.begin(view.scope, view.plan, started_s)
            if view.rolling is not None:
                view.rolling.marks.note(view.scope, [mark.position for mark in view.plan.breakpoints])

    def first_byte(self, view: CacheView, started_s: float, first_byte_at_s: float) -> None:
        """Note that the answer has begun: what it writes can be read from now on."""
        if view.plan.breakpoints:
            self.index.first_byte(view.scope, view.plan, started_s, first_byte_at_s)

    def abandon(self, view: CacheView, started_s: float, now_s: float, *, sent: bool) -> None:
        """Note that no usage came; `sent` when the provider may have processed the request all the same."""
        if view.plan.breakpoints:
            self.index.abandon(view.scope, view.plan, started_s, now_s, sent=sent)

    def learn(self, view: CacheView, usage: Usage, *, started_s: float, first_byte_at_s: float) -> Learned:
        """Correct index and estimates by what the provider reported."""
        if view.counts:
            self.estimator.observe(view.scope.model, view.counts[-1], usage.input_tokens, view.counted)
        rolling = view.rolling
        if rules_for(view.scope.model).implicit:
            learned = self.index.observe_implicit(
                view.scope,
                view.digests,
                view.counts,
                view.plan,
                view.prompt.ends,
                started=started_s,
                first_byte_at=first_byte_at_s,
                read_tokens=usage.cache_read_tokens,
            )
            if rolling is not None:
                self._note(rolling, view.scope, view.prompt.ends, started_s)
            return learned
        learned = self.index.observe(
            view.scope,
            view.digests,
            view.counts,
            view.plan,
            started=started_s,
            first_byte_at=first_byte_at_s,
            read_tokens=usage.cache_read_tokens,
            write_5m_tokens=usage.cache_write_5m_tokens,
            write_1h_tokens=usage.cache_write_1h_tokens,
            positions=None if rolling is None else rolling.positions(view.scope),
        )
        if rolling is not None:
            hit = -1 if learned.hit_position is None else learned.hit_position
            self._note(rolling, view.scope, (hit, *learned.written), started_s)
        return learned

    def _note(self, rolling: Rolling, scope: CacheScope, positions: Sequence[int], now_s: float) -> None:
        """Keep in mind where a held session's entries can be, and forget where they no longer are."""
        stable_end, marks = rolling.prompt.stable_end, rolling.marks
        marks.note(scope, [position for position in positions if position > stable_end])
        known = [position for position in marks.of(scope) if position < len(rolling.digests)]
        marks.thin(scope, self.index.belief_at(scope, rolling.digests, known), now_s)

    def _view(
        self,
        route: Route,
        model: str,
        prompt: Prompt,
        digests: tuple[bytes, ...],
        strategy: Strategy,
        kind: str,
        now_s: float,
        expected_follow_ups: int | None,
        rolling: Rolling | None,
    ) -> CacheView:
        rules = rules_for(model)
        scope = self._scope(route, model, rules.upstream)
        counts: Sequence[int]
        counted = self.estimator.counted(prompt, model)
        if rolling is None:
            counts = self.estimator.cumulative_tokens(prompt, model, counted)
        else:
            counts = self.estimator.counts(rolling.sums, model, counted)
        planned = self._plan(
            rules,
            scope,
            prompt,
            digests,
            counts,
            counted,
            strategy,
            kind,
            now_s,
            expected_follow_ups,
            rolling,
        )
        return CacheView(scope, prompt, digests, counts, planned, rolling, counted)

    def replanned(
        self,
        view: CacheView,
        *,
        kind: str,
        now_s: float,
        expected_follow_ups: int | None,
        ends_before: int | None = None,
        points: Sequence[Breakpoint] | None = None,
    ) -> CacheView:
        """The view planned anew for `now_s`, by what is believed by then; prompt, digests and counts are taken over.

        Args:
            kind: As for `views`; likewise `expected_follow_ups`.
            ends_before: As for `cache.plan.plan`; likewise `points`.
        """
        planned = self._plan(
            rules_for(view.scope.model),
            view.scope,
            view.prompt,
            view.digests,
            view.counts,
            view.counted,
            view.plan.strategy,
            kind,
            now_s,
            expected_follow_ups,
            view.rolling,
            ends_before,
            points,
        )
        return msgspec.structs.replace(view, plan=planned)

    def _plan(
        self,
        rules: CacheRules,
        scope: CacheScope,
        prompt: Prompt,
        digests: tuple[bytes, ...],
        counts: Sequence[int],
        counted: Counted,
        strategy: Strategy,
        kind: str,
        now_s: float,
        expected_follow_ups: int | None,
        rolling: Rolling | None,
        ends_before: int | None = None,
        points: Sequence[Breakpoint] | None = None,
    ) -> Plan:
        model = scope.model
        believed: Sequence[Belief | None]
        if rolling is None:
            believed = self.index.belief(scope, digests)
        else:
            believed = self.index.belief_at(scope, digests, rolling.positions(scope))
        forecasts = None
        if strategy is Strategy.AUTO and not rules.implicit:
            forecasts = self.demand.forecasts(scope, prompt, digests, now_s, kind, counts)
            if expected_follow_ups is not None:
                forecasts = _as_told(forecasts, expected_follow_ups)
        return plan(
            prompt,
            digests,
            counts,
            believed,
            rules=rules,
            rates=_LIST_RATES if rules.implicit else self._rates(model, now_s),  # nothing is marked by them
            strategy=strategy,
            now=now_s,
            forecasts=forecasts,
            uncertainty=self.estimator.uncertainty(model),
            counted_tokens=counted.tokens,
            ends_before=ends_before,
            points=points,
            facts=self.facts,
        )

    def digests(self, prompt: Prompt, kind: str) -> tuple[bytes, ...]:
        """Digests of `prompt`; what requests of `kind` open with, tools and system, is hashed once."""
        known = self._openings.get(kind)
        digests = prefix_digests(prompt) if known is None else extend_digests(prompt, *known)
        shared = max(prompt.ends[Layer.TOOLS], prompt.ends[Layer.SYSTEM]) + 1
        if shared and (known is None or known[1][-1] != digests[shared - 1]):
            self._openings[kind] = Prompt(prompt.blocks[:shared], prompt.parameters), digests[:shared]
        return digests

    def opus_scope(self, model: str) -> CacheScope:
        """Cache scope of an Opus model in this service's workspace."""
        return self._scope(Route.OPUS, model, rules_for(model).upstream)

    def _scope(self, route: Route, model: str, upstream: str) -> CacheScope:
        scope = self._scopes.get((route, model))
        if scope is None:
            scope = self._scopes[route, model] = CacheScope(upstream, self._workspaces[route], model)
        return scope

    def _rates(self, model: str, now_s: float) -> Rates:
        try:
            return self._prices.rates(model, now_s)
        except UnknownPrice:
            return _LIST_RATES


def _as_told(forecasts: Forecasts, expected_follow_ups: int) -> Forecasts:
    """The caller's word on its own layers' return; what others share is not the caller's to know."""
    p_next = 0.0 if expected_follow_ups == 0 else expected_follow_ups / (expected_follow_ups + 1)
    told = Forecast(p_next, p_next)
    return tuple(told if layer >= Layer.CONTEXT else forecast for layer, forecast in enumerate(forecasts))
