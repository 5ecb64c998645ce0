"""Warms ahead of a request that may come: at a session's start, on a user's action, by the score of a turn on Flash,
and by an operator's order.

The rule: what would be sent is prepared like any request, and what that costs by what is warm now is held against the
chance of a use in time (`cache.schedule.ahead`). A prefix is warmed once at a time (a score and an action may each warm
one of a session's, an answer apart), and a session that is held out stays so for the window. It does not know how an
order is sent, nor what was learnt of it before.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec.structs

from cache.chances import ACTION_PRIOR, LISTED_PRIOR, SESSION_PRIOR, Chances
from cache.economics import cost_units, hour_threshold
from cache.plan import Breakpoint, Strategy
from cache.prompt import Layer
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import Policy, Prefix, Trigger, Verdict, WarmOrder, Worth, ahead, allowed, order
from classifier.route import Route
from router import errors
from router.beliefs import CacheView
from router.foresight import Foreseer
from router.held_session import Held
from router.next_request import NextRequests
from router.preparation import Prepared
from router.recipes import Recipe, as_warm
from router.request import Request
from router.telemetry import SpanContext
from router.unwarmable import Reason, Unwarmable, objection
from router.warm_decisions import HELD_OUT, Decisions
from router.warm_score import Hint
from router.warm_settings import WarmingSettings
from router.warm_worth import Worths
from router.warmer import Job, Sent, Warmer, WarmerParts, unwarmable


@dataclass(frozen=True, slots=True)
class Answer:
    """What is done about a trigger.

    Attributes:
        warmed: Whether an order is on its way.
        cost_usd: Expected cost; likewise the value.
    """

    warmed: bool
    reason: str
    cost_usd: float = 0.0
    value_usd: float = 0.0


class WarmsAhead:
    """Decides on one process's warms ahead of requests."""

    def __init__(
        self,
        parts: WarmerParts,
        settings: WarmingSettings,
        *,
        worths: Worths,
        decisions: Decisions,
        next_requests: NextRequests,
        foreseer: Foreseer,
        left_by: Callable[[tuple[str, str]], Recipe | None],
        warmer: Warmer,
    ) -> None:
        """Keep references; `left_by` gives what a session's last request on Opus left to be warmed again."""
        self._parts = parts
        self._settings = settings
        self._worths = worths
        self._decisions = decisions
        self._next_requests = next_requests
        self._foreseer = foreseer
        self._left_by = left_by
        self._warmer = warmer
        self.chances = Chances(within_s=TTL_5M_S)

    def opened(self, held: Held) -> Answer:
        """A session was opened: warm what its first request will begin with, if that is worth it."""
        whose, kind = (held.tenant, held.session), ("session", held.application)
        return self._ahead(Trigger.SESSION_START, held, whose, kind, SESSION_PRIOR)

    def acted(self, tenant: str, session: str, action: str, held: Held | None) -> Answer:
        """A user did something: warm the session's prefix, if a request on Opus is likely enough."""
        application = "" if held is None else held.application
        prior = LISTED_PRIOR if action in self._settings.actions else ACTION_PRIOR
        return self._ahead(Trigger.PREDICTION, held, (tenant, session), (action, application), prior)

    def hinted(self, hint: Hint) -> Answer:
        """Warm what the next request of a session on Flash will begin with on Opus, if that is worth it."""
        call = hint.request.call
        request = as_warm(hint.request, call, output_tokens=self._worths.output_tokens)
        application = call.identity.application
        said = f"foresight {self._foreseer.digest}: {hint.said}" if hint.foreseen else hint.said
        return self._asked_for(
            Trigger.SCORE, request, hint.whose, application, hint.p_use, said, hint.foreseen, hint.cause
        )

    async def warm_application(self, name: str) -> Sent:
        """Warm an application's tools and system prompt now, by an operator's order; give what came of it.

        Raises:
            NotFound: No such application.
        """
        now_s = self._parts.settler.clock.now()
        ready = self._ready(self._next_requests.of_application(name), now_s)
        if isinstance(ready, Unwarmable):
            self._warmer.note_unwarmable(name, Trigger.OPERATOR.value, ready)
            return unwarmable(*ready)
        request, prepared, points = ready
        worth = self._worths.at(now_s)
        prefix = Prefix(
            points[-1].digest, points[-1].prefix_tokens, points[-1].prefix_tokens, points[-1].ttl_s, True
        )
        # Told to, it is sent even if all is warm: then it is a read, and keeps it.
        verdict = self._judged(Policy.SHARED, prefix, worth, 1.0, prepared, points)
        told: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()

        def tell(sent: Sent) -> None:
            if not told.done():
                told.set_result(sent)

        found = order(prefix, Trigger.OPERATOR, verdict, now_s, worth)
        if not self._put(found, ("", name), request, points, tell):
            return Sent(result="paced", why="too many warms wait already, or the service is ending")
        return await told

    def _ahead(
        self,
        trigger: Trigger,
        held: Held | None,
        whose: tuple[str, str],
        kind: tuple[str, str],
        prior: float,
    ) -> Answer:
        policy, now_s = self._settings.policy, self._parts.settler.clock.now()
        if not allowed(policy, trigger):
            return Answer(False, f"warming.policy is {policy.value!r}")
        foreseen = self._foreseer.opus_within(whose, float(TTL_5M_S), now_s)
        if foreseen is not None:
            # An action that the operator listed says more than the session's past; any other may say nothing.
            prior = max(prior, foreseen) if kind[0] in self._settings.actions else foreseen
        p_use = self.chances.of(kind, prior)
        self.chances.signal(kind, whose, now_s)
        listed = kind[0] in self._settings.actions
        if trigger is Trigger.PREDICTION and policy is Policy.PREDICTIVE and not listed:
            return Answer(False, f"{kind[0]!r} is not one of warming.actions")
        said = "" if foreseen is None else f"foresight {self._foreseer.digest}: {foreseen:.3f}"
        return self._asked_for(
            trigger,
            self._request_ahead(held, whose),
            whose,
            kind[1],
            p_use,
            said,
            foreseen is not None,
            self._parts.telemetry.current_span(),
            left=held is None,
        )

    def _request_ahead(self, held: Held | None, whose: tuple[str, str]) -> Request | Unwarmable:
        """What a session's next request will begin with; else why that cannot be known."""
        if held is not None:
            return self._next_requests.of_session(held)
        recipe = self._left_by(whose)
        if recipe is None:
            return Unwarmable(
                Reason.UNKNOWN_SESSION, "the session is not held, and no request of it is known"
            )
        return recipe.request

    def _asked_for(
        self,
        trigger: Trigger,
        request: Request | Unwarmable,
        whose: tuple[str, str],
        application: str,
        p_use: float,
        said: str,
        foreseen: bool,
        cause: SpanContext,
        *,
        left: bool = False,
    ) -> Answer:
        """Order a warm of what a session's next request begins with, if that is worth it.

        Args:
            p_use: Chance in [0, 1] of a use within five minutes.
            said: What the verdict adds on that, "" for nothing.
            foreseen: Whether it rests on a foresight.
            left: Whether the request is one that was answered, all of which the next one begins with.
        """
        policy, now_s = self._settings.policy, self._parts.settler.clock.now()
        ready = self._ready(request, now_s, left=left)
        if isinstance(ready, Unwarmable):
            self._warmer.note_unwarmable(application, trigger.value, ready)
            return Answer(False, ready.sentence)
        request, prepared, points = ready
        view = prepared.views[Route.OPUS]
        prefix = Prefix(
            points[-1].digest,
            points[-1].prefix_tokens,
            max(1, points[-1].prefix_tokens),
            points[-1].ttl_s,
            False,
            max(0, view.plan.total_tokens - points[-1].prefix_tokens),
        )
        worth = self._worths.at(now_s)
        verdict = self._judged(policy, prefix, worth, p_use, prepared, points)
        if said:
            verdict = verdict._replace(reason=f"{verdict.reason}; {said}")
        found = order(prefix, trigger, verdict, now_s, worth)
        if not verdict.fires:
            return Answer(False, verdict.reason, found.cost_usd, found.value_usd)
        kept_back, name = self._kept_back(found, view, whose, prepared, now_s, foreseen=foreseen)
        if kept_back:
            return Answer(False, kept_back, found.cost_usd, found.value_usd)
        owner = (whose[0], prepared.request.application.name)
        queued = self._put(
            found, owner, request, points, lambda sent: self._decisions.book(prefix.key, sent), name, cause
        )
        if not queued:
            self._decisions.regret.forget(prefix.key)
        return Answer(
            queued,
            verdict.reason if queued else "too many warms wait already",
            found.cost_usd,
            found.value_usd,
        )

    def _kept_back(
        self,
        found: WarmOrder,
        view: CacheView,
        whose: tuple[str, str],
        prepared: Prepared,
        now_s: float,
        *,
        foreseen: bool,
    ) -> tuple[str, str]:
        """Why an order that pays is not sent, "" when it is, and the decision's name."""
        decisions, prefix = self._decisions, found.prefix
        if decisions.regret.awaits(prefix.key):
            # A second order would take the decision's place and, overtaken by the first, end it without a verdict.
            return "it is on its way already", ""
        if decisions.is_held_out(whose, now_s):
            return HELD_OUT, ""
        owner = (whose[0], prepared.request.application.name)
        cold_tokens = max(1, prefix.tokens - view.plan.full_read_tokens)
        name, kept_back = decisions.drawn(
            found, owner, now_s, now_s + TTL_5M_S, cold_tokens, foreseen=foreseen
        )
        if kept_back and name:
            decisions.hold_out(whose, now_s + TTL_5M_S)
        return kept_back, name

    def _ready(
        self, request: Request | Unwarmable, now_s: float, *, left: bool = False
    ) -> tuple[Request, Prepared, tuple[Breakpoint, ...]] | Unwarmable:
        """What would be sent to warm what `request` begins with, and its breakpoints; else why it cannot be.

        They are those of the strategy that its traffic is asked with: what that would not mark, it would not read.

        Args:
            left: As for `_asked_for`.
        """
        if isinstance(request, Unwarmable):
            return request
        objected = objection(request.call)
        if objected is not None:
            return objected
        try:
            prepared = self._parts.preparation.prepare(request, now_s)
            if prepared.views[Route.OPUS].plan.strategy is Strategy.AUTO and not left:
                # It reads whatever is warm, but would mark the end of this call, where no request may go on from.
                request = msgspec.structs.replace(request, strategy=Strategy.C.value)
                prepared = self._parts.preparation.prepare(request, now_s)
        except errors.RouterError as error:
            return Unwarmable(Reason.REFUSED, str(error))
        view = prepared.views[Route.OPUS]
        if view.plan.strategy is Strategy.NONE:
            return Unwarmable(
                Reason.NOTHING_CACHED, "its requests are asked without caching, and would not read it"
            )
        points = self._lasting(view, now_s)
        if (points[-1].prefix_tokens if points else view.plan.total_tokens) < view.plan.minimum_tokens:
            return Unwarmable(Reason.TOO_SHORT, "shorter than the model's minimum")
        if not points:
            why = view.plan.skipped[0].reason if view.plan.skipped else "it has no tools and no system prompt"
            return Unwarmable(Reason.NOTHING_CACHED, why)
        return request, prepared, points

    def _judged(
        self,
        policy: Policy,
        prefix: Prefix,
        worth: Worth,
        p_use: float,
        prepared: Prepared,
        points: tuple[Breakpoint, ...],
    ) -> Verdict:
        """What warming `prefix` with these breakpoints is worth, by what is warm now."""
        now_s = prepared.now_s
        plan = self._parts.preparation.replanned(prepared, now_s, points=points).views[Route.OPUS].plan
        spent = cost_units(plan.expected, worth.rates)
        return ahead(policy, prefix, worth, p_use, plan.p_hit, plan.full_read_tokens, spent)

    def _put(
        self,
        found: WarmOrder,
        owner: tuple[str, str],
        request: Request,
        points: tuple[Breakpoint, ...],
        tell: Callable[[Sent], None],
        name: str = "",
        cause: SpanContext | None = None,
    ) -> bool:
        return self._warmer.put(
            Job(
                order=found,
                owner=owner,
                name=name,
                request=request,
                points=points,
                key=found.prefix.key,
                latest_s=found.due_s + TTL_5M_S,
                cause=self._parts.telemetry.current_span() if cause is None else cause,
                sent=tell,
            )
        )

    def _lasting(self, view: CacheView, now_s: float) -> tuple[Breakpoint, ...]:
        """The plan's breakpoints, those of shared layers for an hour where their uses say so."""
        beliefs = self._parts.settler.beliefs
        forecasts = beliefs.demand.forecasts(view.scope, view.prompt, view.digests, now_s, "", view.counts)
        forecast = forecasts[Layer.SYSTEM]
        later = (forecast.p_1h - forecast.p_5m) / (1 - forecast.p_5m) if forecast.p_5m < 1 else 0.0
        points = view.plan.breakpoints
        if later <= hour_threshold(self._worths.at(now_s).rates):
            return points
        return tuple(
            [point._replace(ttl_s=TTL_1H_S) if point.layer <= Layer.SYSTEM else point for point in points]
        )
