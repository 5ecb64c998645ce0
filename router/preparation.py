"""Steps 2 to 5 of a request: score, plan, price, decide. Nothing is sent, nothing is changed.

The rule: serving, explaining, warming and replaying prepare a request by this one path, so what `Explain` shows is
what `Generate` does. It reads beliefs, forecasts and prices as they are now and returns values; learning happens at
settlement.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec

from cache.economics import TokenSplit
from cache.plan import Plan, Strategy
from classifier.model import Contribution, Model
from classifier.policy import (
    Constraints,
    Decision,
    Incapable,
    NoRoute,
    NoRouteReason,
    PolicySettings,
    RouteCosts,
    SessionState,
    decide,
)
from classifier.route import Route, Score
from classifier.sample import Sample
from router import cost, errors
from router.beliefs import Beliefs, CacheView
from router.capability import why_too_long
from router.estimate import OutputForecast, RouteEstimate
from router.memory import SessionMemory
from router.pricing import PriceTable, UnknownPrice
from router.request import Request
from router.sampling import sample_of, session_state
from router.telemetry import Telemetry
from router.upstreams.base import Rendered, Upstream
from router.usage import Usage


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A request, decided.

    Attributes:
        now_s: Instant of the decision, seconds since the epoch.
        views: Beliefs and cache plan of each route that could be spelled.
        rendered: The request in each upstream's spelling, as far as it was needed.
        refusals: Why a route's adapter refused to spell it.
    """

    request: Request
    now_s: float
    sample: Sample
    session: SessionState
    score: Score | None
    rendered: Mapping[Route, Rendered]
    refusals: Mapping[Route, errors.RouterError]
    views: Mapping[Route, CacheView]
    estimates: Mapping[Route, RouteEstimate]
    decision: Decision

    def plan_for(self, route: Route) -> Plan | None:
        """What the upstream of `route` is asked to cache; None for no breakpoints."""
        view = self.views.get(route)
        if view is None or route is Route.FLASH:
            return None
        return view.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """What the operator sets of the decision.

    Attributes:
        policy: Threshold and default route; an application may have its own threshold.
        strategy: Default cache strategy.
        follow_ups: Whether a bare follow-up inherits its session's route.
        fallback: Whether the other route may answer when the chosen one fails.
    """

    policy: PolicySettings
    strategy: Strategy
    follow_ups: bool
    fallback: bool


class Preparation:
    """Prepares requests; holds what is read, changes nothing."""

    def __init__(
        self,
        *,
        upstreams: Mapping[Route, Upstream],
        model: Callable[[], Model | None],
        beliefs: Beliefs,
        prices: PriceTable,
        forecast: OutputForecast,
        memory: SessionMemory,
        telemetry: Telemetry,
        settings: RoutingSettings,
    ) -> None:
        """Keep references; `model` gives the classifier that scores now, None when there is none."""
        self._upstreams = upstreams
        self._model = model
        self._beliefs = beliefs
        self._prices = prices
        self._forecast = forecast
        self._memory = memory
        self._telemetry = telemetry
        self._settings = settings

    def prepare(self, request: Request, now_s: float) -> Prepared:
        """Score, plan, price and decide.

        Raises:
            InvalidRequest: No upstream can be asked this, because of a field of the request.
            NotSupported: No upstream has a counterpart for the content.
            NoRoute, BudgetExceeded: The demands leave no route.
        """
        identity = request.call.identity
        remembered = self._memory.recall(identity.tenant, identity.session)
        with self._telemetry.classify():
            sample = sample_of(request, remembered)
            model = self._model()
            score = None if model is None else model.score(sample)
        session = session_state(request.call, sample, remembered, follow_ups=self._settings.follow_ups)
        with self._telemetry.plan():
            return self._decide(request, now_s, sample, session, score)

    def contributions(self, prepared: Prepared, top_count: int = 20) -> tuple[Contribution, ...]:
        """What moved the score, largest first; empty without a classifier."""
        model = self._model()
        return () if model is None else model.explain(prepared.sample, top_count)

    def _decide(
        self, request: Request, now_s: float, sample: Sample, session: SessionState, score: Score | None
    ) -> Prepared:
        """Render Opus, plan and price both routes, decide; Flash is spelled only when it is chosen."""
        rendered: dict[Route, Rendered] = {}
        refusals: dict[Route, errors.RouterError] = {}
        self._render(request, Route.OPUS, rendered, refusals)
        if Route.OPUS in refusals:
            self._render(request, Route.FLASH, rendered, refusals)
        _refuse(request, refusals)
        views = self._views(request, rendered, now_s)
        while True:
            estimates = {
                route: self._estimate(request, route, views.get(route), refusals.get(route), now_s)
                for route in Route
            }
            decision = self._choose(request, score, session, views, estimates)
            if decision.route in rendered:
                break
            # The adapter may know better than the estimate: a refused spelling is a lost capability, so decide anew.
            self._render(request, decision.route, rendered, refusals)
            _refuse(request, refusals)
            if decision.route in rendered:
                break
        return Prepared(
            request=request,
            now_s=now_s,
            sample=sample,
            session=session,
            score=score,
            rendered=rendered,
            refusals=refusals,
            views=views,
            estimates=estimates,
            decision=decision,
        )

    def rendered_for(self, prepared: Prepared, route: Route) -> Rendered:
        """The request in the spelling of `route`, made now if a fallback needs it.

        Raises:
            InvalidRequest, NotSupported: As `Upstream.render`.
        """
        found = prepared.rendered.get(route)
        return self._upstreams[route].render(prepared.request.call) if found is None else found

    def _render(
        self,
        request: Request,
        route: Route,
        rendered: dict[Route, Rendered],
        refusals: dict[Route, errors.RouterError],
    ) -> None:
        try:
            rendered[route] = self._upstreams[route].render(request.call)
        except (errors.InvalidRequest, errors.NotSupported) as error:
            refusals[route] = error

    def _views(
        self, request: Request, rendered: Mapping[Route, Rendered], now_s: float
    ) -> dict[Route, CacheView]:
        """Beliefs and plans over the blocks of the one spelling at hand; both routes share its digests."""
        spelled = rendered.get(Route.OPUS) or rendered[Route.FLASH]
        strategy = Strategy(
            request.strategy or request.application.cache_strategy or self._settings.strategy.value
        )
        if not request.call.cache_allowed:
            strategy = Strategy.NONE
        return self._beliefs.views(
            spelled.prompt,
            {route: upstream.model for route, upstream in self._upstreams.items()},
            strategy=strategy,
            kind=request.application.name,
            now_s=now_s,
            expected_follow_ups=request.demands.expected_follow_ups,
        )

    def _estimate(
        self,
        request: Request,
        route: Route,
        view: CacheView | None,
        refusal: errors.RouterError | None,
        now_s: float,
    ) -> RouteEstimate:
        model = self._upstreams[route].model
        output_tokens = self._forecast.expect(request.application.name, route, request.call.max_output_tokens)
        if view is None:
            return RouteEstimate(route=route, model=model, unavailable=str(refusal or ""))
        plan = view.plan
        unavailable = str(refusal) if refusal else why_too_long(model, plan.total_tokens)
        expected = cold = None
        try:
            price = self._prices.price(model, now_s)
            cold = cost.total_nano_usd(usage_of(plan.cold, output_tokens), price)
            expected = cold
            if plan.expected != plan.cold:
                expected = cost.total_nano_usd(usage_of(plan.expected, output_tokens), price)
        except UnknownPrice:
            pass  # The cost stays unknown, which a cost ceiling treats as too much.
        return RouteEstimate(
            route=route,
            model=model,
            unavailable=unavailable,
            expected_nano_usd=expected,
            cold_nano_usd=cold,
            input_tokens=plan.total_tokens,
            output_tokens=output_tokens,
        )

    def _choose(
        self,
        request: Request,
        score: Score | None,
        session: SessionState,
        views: Mapping[Route, CacheView],
        estimates: Mapping[Route, RouteEstimate],
    ) -> Decision:
        demands = request.demands
        policy = self._settings.policy
        if request.application.threshold is not None:
            policy = replace(policy, threshold=request.application.threshold)
        opus, flash = estimates[Route.OPUS], estimates[Route.FLASH]
        constraints = Constraints(
            forced_route=demands.forced_route,
            quality_floor=demands.quality_floor,
            cost_ceiling_nano_usd=demands.cost_ceiling_nano_usd,
            fallback_allowed=demands.fallback_allowed and self._settings.fallback,
            incapable=tuple(
                Incapable(route=estimate.route, why=estimate.unavailable)
                for estimate in estimates.values()
                if estimate.unavailable
            ),
        )
        costs = RouteCosts(
            flash_nano_usd=flash.expected_nano_usd,
            opus_nano_usd=opus.expected_nano_usd,
            opus_cold_nano_usd=opus.cold_nano_usd,
        )
        try:
            return decide(score, costs, constraints, session, policy)
        except NoRoute as error:
            raise _no_route(error) from error


def usage_of(split: TokenSplit, output_tokens: int) -> Usage:
    """A plan's expected input split and an assumed answer, as usage to be priced."""
    return Usage(
        input_tokens=split.total,
        cache_read_tokens=split.read,
        cache_write_5m_tokens=split.write_5m,
        cache_write_1h_tokens=split.write_1h,
        output_tokens=output_tokens,
    )


def _refuse(request: Request, refusals: Mapping[Route, errors.RouterError]) -> None:
    """Say what the adapter said, when no other route may be taken instead."""
    forced = request.demands.forced_route
    if forced is not None and forced in refusals:
        raise refusals[forced]
    if len(refusals) == len(Route):
        raise refusals[Route.OPUS]


def _no_route(error: NoRoute) -> errors.RouterError:
    match error.reason:
        case NoRouteReason.OVER_CEILING | NoRouteReason.FORCED_OVER_CEILING:
            return errors.BudgetExceeded(str(error))
        case _:
            return errors.NoRoute(str(error))
