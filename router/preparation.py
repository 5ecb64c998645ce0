"""Steps 2 to 5 of a request: score, plan, price, decide. Nothing is sent, nothing is changed.

The rule: serving, explaining, warming and replaying prepare a request by this one path, so what `Explain` shows is
what `Generate` does. It reads beliefs, forecasts and prices as they are now and returns values; learning happens at
settlement.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec
import msgspec.structs

from cache.economics import TokenSplit
from cache.plan import Breakpoint, Plan, Strategy
from cache.prompt import BlockKind
from cache.rolling import Rolling
from classifier.exploration import draw_of
from classifier.features import Measures
from classifier.model import Contribution, Model
from classifier.policy import (
    NO_BUDGET,
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
from router.call import Message, Thinking
from router.capability import why_too_long
from router.circuit import Circuits
from router.estimate import OutputForecast, RouteEstimate
from router.held_session import Held
from router.memory import Remembered
from router.padding import Padding, Paddings
from router.placement import LIST_RATES, place
from router.pricing import PriceTable, UnknownPrice
from router.request import Request
from router.returns import Returns, opus_leaves_nano_usd
from router.sampling import sample_of, session_state
from router.session_book import SessionBook
from router.spending import Spending
from router.stack import stack_of
from router.telemetry import Telemetry
from router.upstreams.anthropic_models import traits_of
from router.upstreams.base import Continuing, Rendered, Upstream
from router.usage import Usage

logger = logging.getLogger(__name__)

# Making a member of its value, or going through a class of them, costs up to a microsecond on Python 3.11.
_ROUTES = tuple(Route)
_NO_ROUTES: frozenset[Route] = frozenset()
_STRATEGIES = {str(strategy): strategy for strategy in Strategy}


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A request, decided.

    Attributes:
        now_s: Instant of the decision, seconds since the epoch.
        views: Beliefs and cache plan of each route that could be spelled.
        rendered: The request in each upstream's spelling, as far as it was needed.
        refusals: Why a route's adapter refused to spell it.
        padding: How the application's shared layers stand in Opus's spelling; None when they are not to be padded.
        rolling: Opus's spelling as the next turn of a held session goes on from it; None without one.
        measures: What the score was computed from, hashed; None without a score.
        shadow: Score of the shadow classifier, which decides nothing; None without one.
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
    padding: Padding | None = None
    rolling: Rolling | None = None
    measures: Measures | None = None
    shadow: Score | None = None

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
        memory: SessionBook,
        telemetry: Telemetry,
        settings: RoutingSettings,
        circuits: Circuits | None = None,
        paddings: Paddings | None = None,
        shadow: Callable[[], Model | None] = lambda: None,
        spending: Spending | None = None,
        returns: Returns | None = None,
    ) -> None:
        """Keep references; `model` gives the classifier that scores now, None when there is none, `shadow` the one that
        scores beside it.

        Without `spending` nothing is held over many requests; without `returns` what Opus leaves warm counts as 0.
        """
        self._upstreams = upstreams
        self._models = {route: upstream.model for route, upstream in upstreams.items()}
        self._model = model
        self._shadow = shadow
        self._beliefs = beliefs
        self._prices = prices
        self._forecast = forecast
        self._memory = memory
        self._telemetry = telemetry
        self._settings = settings
        self._circuits = Circuits.off() if circuits is None else circuits
        self._paddings = paddings
        self._spending = spending
        self._returns = returns
        opus = upstreams[Route.OPUS]
        self._continuing = opus if isinstance(opus, Continuing) else None
        self._opus_model = opus.model
        self._binding_model = opus.model if traits_of(opus.model).binds_thinking else ""

    def prepare(
        self,
        request: Request,
        now_s: float,
        held: Held | None = None,
        *,
        draw: bool = True,
        embedding: bytes = b"",
    ) -> Prepared:
        """Score, plan, price and decide.

        Args:
            embedding: Of the turn's text, where there is a text encoder and it was in time.
            draw: Whether the route may be drawn at random, where exploration is on; False shows the decision that a
                draw would start from, with its chance.
            held: Version of a held session that the request is a turn of: its messages begin the request's, and what
                was worked out for them is taken over. The outcome is the same without it.

        Raises:
            InvalidRequest: No upstream can be asked this, because of a field of the request.
            NotSupported: No upstream has a counterpart for the content.
            NoRoute, BudgetExceeded: The demands leave no route.
            CircuitOpen: The routes that could serve are held back for now.
        """
        identity = request.call.identity
        remembered = self._memory.recall(identity.tenant, identity.session)
        request = self._placed(request, remembered, now_s)
        with self._telemetry.classify():
            sample = sample_of(request, remembered, None if held is None else held.known_past, now_s)
            model = self._model()
            score = measures = shadow = None
            if model is not None:
                score, measures = model.judge(sample, embedding)
                shadow = self._shadow_score(measures)
        session = session_state(request.call, sample, remembered, follow_ups=self._settings.follow_ups)
        with self._telemetry.plan():
            scored = _Scored(sample, session, score, measures, shadow)
            return self._decide(request, now_s, scored, held, remembered, draw)

    def follow_threshold(self, threshold: float) -> None:
        """Compare scores with `threshold` from now on: what another classifier's training suggests."""
        policy = replace(self._settings.policy, threshold=threshold)
        self._settings = replace(self._settings, policy=policy)

    def _shadow_score(self, measures: Measures) -> Score | None:
        """What the shadow says; a fault in it is its own."""
        shadow = self._shadow()
        if shadow is None:
            return None
        try:
            return shadow.score_measures(measures)
        except Exception as error:
            logger.error("the shadow classifier %s failed\n%s", shadow.digest, stack_of(error))
            return None

    def replanned(
        self,
        prepared: Prepared,
        now_s: float,
        ends_before: int | None = None,
        points: Sequence[Breakpoint] | None = None,
    ) -> Prepared:
        """The request with Opus's breakpoints planned anew, by what is believed at `now_s`; the decision stands.

        Args:
            ends_before: Position at and past which no breakpoint may stand; None for no bound.
            points: Places and TTLs to take instead of the strategy's; None for the strategy's.
        """
        request = prepared.request
        view = self._beliefs.replanned(
            prepared.views[Route.OPUS],
            kind=request.application.name,
            now_s=now_s,
            expected_follow_ups=request.demands.expected_follow_ups,
            ends_before=ends_before,
            points=points,
        )
        return msgspec.structs.replace(prepared, views={**prepared.views, Route.OPUS: view})

    def without_thinking(self, prepared: Prepared, now_s: float) -> Prepared | None:
        """The request with Opus's spelling and plan free of the thinking in its history, which Opus has refused.

        The conversation stays the caller's: its next request brings the thinking again, and a held session goes on from
        this spelling. None when there is no such thinking, or nothing can be sent without it.
        """
        spelled = prepared.rendered.get(Route.OPUS)
        if spelled is None or all(block.kind is not BlockKind.THINKING for block in spelled.prompt.blocks):
            return None
        messages = tuple(
            Message(each.role, tuple(part for part in each.parts if not isinstance(part, Thinking)))
            for each in spelled.call.messages
        )
        call = msgspec.structs.replace(spelled.call, messages=messages)
        try:
            rendered = self._upstreams[Route.OPUS].render(call)
        except (errors.InvalidRequest, errors.NotSupported):
            return None
        # What the next turn compares its history with is what the caller holds.
        rendered = msgspec.structs.replace(rendered, call=spelled.call)
        request, rolling = prepared.request, prepared.rolling
        if rolling is not None:
            digests = self._beliefs.digests(rendered.prompt, request.application.name)
            rolling = Rolling.of(rendered.prompt, digests)
        views = self._views(request, {Route.OPUS: rendered}, now_s, prepared.padding, rolling)
        return msgspec.structs.replace(
            prepared,
            rendered={**prepared.rendered, Route.OPUS: rendered},
            views={**prepared.views, Route.OPUS: views[Route.OPUS]},
            rolling=rolling,
        )

    def contributions(self, prepared: Prepared, top_count: int = 20) -> tuple[Contribution, ...]:
        """What moved the score, largest first; empty without a classifier."""
        model, measures = self._model(), prepared.measures
        embedding = b"" if measures is None else measures.embedding
        return () if model is None else model.explain(prepared.sample, top_count, embedding)

    def _placed(self, request: Request, remembered: Remembered | None, now_s: float) -> Request:
        """The request with its user context where it is to stand; most stand where they are."""
        call = request.call
        if not call.context:
            return request
        try:
            rates = self._prices.rates(self._opus_model, now_s)
        except UnknownPrice:
            rates = LIST_RATES
        placement = place(
            call.context,
            call.messages,
            request.application.context_placement,
            None if remembered is None else remembered.context,
            self._memory.habit(call.identity.application),
            rates=rates,
            binding_model=self._binding_model,
        )
        if placement is call.context_placement:
            return request
        return msgspec.structs.replace(
            request, call=msgspec.structs.replace(call, context_placement=placement)
        )

    def _decide(
        self,
        request: Request,
        now_s: float,
        scored: "_Scored",
        held: Held | None,
        remembered: Remembered | None,
        draw: bool,
    ) -> Prepared:
        """Render Opus, plan and price both routes, decide; Flash is spelled only when it is chosen."""
        sample, session, score, measures, shadow = scored
        rendered: dict[Route, Rendered] = {}
        refusals: dict[Route, errors.RouterError] = {}
        padding = None if self._paddings is None else self._paddings.standing(request)
        rolling = None
        if held is None:
            self._render(request, Route.OPUS, rendered, refusals, padding)
        else:
            rolling = self._continue(request, held, rendered, refusals, padding)
        if Route.OPUS in refusals:
            padding = None
            self._render(request, Route.FLASH, rendered, refusals)
        _refuse(request, refusals)
        views = self._views(request, rendered, now_s, padding, rolling)
        while True:
            estimates = {
                route: self._estimate(request, route, views.get(route), refusals.get(route), now_s)
                for route in _ROUTES
            }
            leaves_nano_usd = self._leaves(request, score, session, remembered, views, now_s)
            decision = self._choose(request, score, session, estimates, leaves_nano_usd, now_s, draw)
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
            padding=padding,
            rolling=rolling,
            measures=measures,
            shadow=shadow,
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
        padding: Padding | None = None,
    ) -> None:
        call = request.call if padding is None else padding.applied(request.call)
        try:
            rendered[route] = self._upstreams[route].render(call)
        except (errors.InvalidRequest, errors.NotSupported) as error:
            refusals[route] = error

    def _continue(
        self,
        request: Request,
        held: Held,
        rendered: dict[Route, Rendered],
        refusals: dict[Route, errors.RouterError],
        padding: Padding | None,
    ) -> Rolling | None:
        """Spell a held session's turn for Opus, taking over what was spelled before where it still holds."""
        planned = held.planned
        if planned is not None and self._continuing is not None:
            call = request.call if padding is None else padding.applied(request.call)
            try:
                spelled = self._continuing.render_continued(planned.rendered, call)
            except (errors.InvalidRequest, errors.NotSupported) as error:
                refusals[Route.OPUS] = error
                return None
            if spelled is not None:
                rendered[Route.OPUS] = spelled
                return planned.rolling.extend(spelled.prompt)
        self._render(request, Route.OPUS, rendered, refusals, padding)
        if Route.OPUS not in rendered:
            return None
        prompt = rendered[Route.OPUS].prompt
        digests = self._beliefs.digests(prompt, request.application.name)
        return Rolling.of(prompt, digests, None if planned is None else planned.rolling.marks)

    def _views(
        self,
        request: Request,
        rendered: Mapping[Route, Rendered],
        now_s: float,
        padding: Padding | None,
        rolling: Rolling | None,
    ) -> dict[Route, CacheView]:
        """Beliefs and plans over the blocks of the one spelling at hand; both routes share its digests.

        The filler of a padded prompt is Opus's alone, so then each route has its own.
        """
        spelled = rendered.get(Route.OPUS) or rendered[Route.FLASH]
        named = request.strategy or request.application.cache_strategy
        strategy = _STRATEGIES[named] if named else self._settings.strategy
        if not request.call.cache_allowed:
            strategy = Strategy.NONE
        models = self._models
        kind = request.application.name
        prompts = [(spelled.prompt, models, kind)]
        if padding is not None and padding.padded:
            opus, flash = ({route: models[route]} for route in (Route.OPUS, Route.FLASH))
            # Two openings of one application under one name would push each other out of what is hashed once.
            bare = (padding.bare(spelled.prompt), flash, f"{kind}, bare")
            prompts = [(spelled.prompt, opus, kind), bare]
        views: dict[Route, CacheView] = {}
        for prompt, asked, opening in prompts:
            views |= self._beliefs.views(
                prompt,
                asked,
                strategy=strategy,
                kind=opening,
                now_s=now_s,
                expected_follow_ups=request.demands.expected_follow_ups,
                rolling=rolling if rolling is not None and rolling.prompt is prompt else None,
            )
        return views

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
        held_for_s = None if unavailable else self._circuits.held_for_s(route, now_s)
        if held_for_s is not None:
            unavailable = f"its circuit is open after repeated failures; next probe in {held_for_s:.3g} s"
        expected = cold = None
        try:
            price = self._prices.price(model, now_s)
            expected = cold = cost.split_nano_usd(plan.cold, output_tokens, price)
            if plan.expected != plan.cold:
                expected = cost.split_nano_usd(plan.expected, output_tokens, price)
        except UnknownPrice:
            pass  # The cost stays unknown, which a cost ceiling treats as too much.
        return RouteEstimate(
            route=route,
            model=model,
            unavailable=unavailable,
            held_for_s=held_for_s,
            expected_nano_usd=expected,
            cold_nano_usd=cold,
            input_tokens=plan.total_tokens,
            output_tokens=output_tokens,
        )

    def _leaves(
        self,
        request: Request,
        score: Score | None,
        session: SessionState,
        remembered: Remembered | None,
        views: Mapping[Route, CacheView],
        now_s: float,
    ) -> int:
        """What the cache that Opus would leave warm is expected to save the next turn, nano-USD; 0 when unknown."""
        view = views.get(Route.OPUS)
        if self._returns is None or view is None:
            return 0
        try:
            price = self._prices.price(self._opus_model, now_s)
        except UnknownPrice:
            return 0
        follow_ups = request.demands.expected_follow_ups
        premium = self._returns.premium(view, price, request.application.name, now_s, follow_ups)
        return opus_leaves_nano_usd(premium, score, session, remembered)

    def _choose(
        self,
        request: Request,
        score: Score | None,
        session: SessionState,
        estimates: Mapping[Route, RouteEstimate],
        leaves_nano_usd: int,
        now_s: float,
        draw: bool,
    ) -> Decision:
        demands = request.demands
        policy = self._settings.policy
        if request.application.threshold is not None:
            policy = replace(policy, threshold=request.application.threshold)
        opus, flash = estimates[Route.OPUS], estimates[Route.FLASH]
        barred = [estimate for estimate in (flash, opus) if estimate.unavailable]
        constraints = Constraints(
            forced_route=demands.forced_route,
            quality_floor=demands.quality_floor,
            cost_ceiling_nano_usd=demands.cost_ceiling_nano_usd,
            fallback_allowed=demands.fallback_allowed and self._settings.fallback,
            incapable=tuple(
                Incapable(route=estimate.route, why=estimate.unavailable)
                for estimate in barred
                if estimate.held_for_s is None
            )
            if barred
            else (),
            open_circuits=frozenset(estimate.route for estimate in barred if estimate.held_for_s is not None)
            if barred
            else _NO_ROUTES,
            exploration_allowed=demands.exploration_allowed,
        )
        costs = RouteCosts(
            flash_nano_usd=flash.expected_nano_usd,
            opus_nano_usd=opus.expected_nano_usd,
            opus_cold_nano_usd=opus.cold_nano_usd,
            opus_leaves_nano_usd=leaves_nano_usd,
        )
        budget = NO_BUDGET if self._spending is None else self._spending.budget(costs, now_s)
        drawn = draw_of(request.call.identity.request_id) if draw and policy.exploration_share else None
        try:
            return decide(score, costs, constraints, session, policy, budget, drawn)
        except NoRoute as error:
            if error.may_pass:
                raise self._circuits.refusal(_waits_s(demands.forced_route, estimates)) from error
            raise _no_route(error) from error


class _Scored(NamedTuple):
    """Step 2 of a request."""

    sample: Sample
    session: SessionState
    score: Score | None
    measures: Measures | None
    shadow: Score | None


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
    if not refusals:
        return
    forced = request.demands.forced_route
    if forced is not None and forced in refusals:
        raise _of_prompt(refusals[forced])
    if len(refusals) == len(_ROUTES):
        raise _of_prompt(refusals[Route.OPUS])


def _of_prompt(error: errors.RouterError) -> errors.RouterError:
    """An adapter names fields of the call; on the wire they stand in the prompt."""
    if isinstance(error, errors.InvalidRequest):
        return errors.InvalidRequest(f"prompt.{error.field}", error.problem)
    return error


def _waits_s(forced: Route | None, estimates: Mapping[Route, RouteEstimate]) -> dict[Route, float]:
    """Time until an attempt, of every route that is held back and that the caller would take."""
    return {
        route: estimate.held_for_s
        for route, estimate in estimates.items()
        if estimate.held_for_s is not None and forced in (None, route)
    }


def _no_route(error: NoRoute) -> errors.RouterError:
    match error.reason:
        case NoRouteReason.OVER_CEILING | NoRouteReason.FORCED_OVER_CEILING:
            return errors.BudgetExceeded(str(error))
        case _:
            return errors.NoRoute(str(error))
