"""What is to be warmed on Opus and what each order is about: the policy around `cache.schedule`.

The rule: decisions are `cache.schedule`'s, sending is the warmer's; this module knows which prefix a request left, when
its session came back, and how to ask for it again. What is warmed ahead of a request is asked for with the parameters
of the application's last requests; where these differ among themselves the next one's cannot be known, and then it is
not warmable. What each decision came to is told to the ledger when it is settled; requests, recipes and what is watched
are in memory only, because they hold what users said. All of it is bounded.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cache.chances import Chances
from cache.economics import Rates, cost_units, hour_threshold
from cache.first_byte import FirstByte
from cache.hazard import Path
from cache.pace import Pace
from cache.plan import Breakpoint, Strategy
from cache.prompt import Layer
from cache.regret import Regret, Settled, Tried
from cache.returns import Returns
from cache.rules import TTL_1H_S, TTL_5M_S
from cache.schedule import (
    Policy,
    Prefix,
    Schedule,
    Trigger,
    Verdict,
    WarmOrder,
    Watch,
    Worth,
    ahead,
    allowed,
    keep_alive,
    order,
    shared_upkeep,
)
from classifier.foresight.history import Turn
from classifier.foresight.model import Forecast
from classifier.route import Route
from router import errors
from router.applications import Application, Applications
from router.beliefs import CacheView
from router.call import Call, Effort, Identity, Message, Role, ToolChoice, ToolResult
from router.foresight import Foreseer, turn_of
from router.held_session import Held
from router.preparation import Prepared
from router.pricing import PriceTable, UnknownPrice
from router.recipes import PLACEHOLDER, Recipes, as_warm, recipe_of, shared_recipe_of
from router.request import Demands, Request
from router.settlement import Settlement
from router.stack import stack_of
from router.telemetry import SpanContext
from router.unwarmable import Reason, Unwarmable, objection
from router.usage import Usage
from router.warm_score import Hint, ScoreHints
from router.warm_verdict import verdict_of
from router.warmer import Job, Sent, Warmer, WarmerParts, new_name, unwarmable

logger = logging.getLogger(__name__)

JITTER_S = {TTL_5M_S: 10.0, TTL_1H_S: 120.0}
"""Keep-alives go out up to this much earlier, so that what was used together is not pinged together."""
SESSION_PRIOR = 0.2
ACTION_PRIOR = 0.2
LISTED_PRIOR = 0.7
"""Chance of a request on Opus after an action the operator listed, before it is seen."""
_MANNERS = 20
"""Last requests of an application whose parameters have to agree for the next one's to be known."""
_HELD_OUT = "held out at random, so that what the others bring can be told"
_SESSIONS = 50_000
_CAUSES = 20_000
_FEMTO_PER_USD = 1e15
_LIST_RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)

Manner = tuple[ToolChoice, Effort | None, str, bool]
"""Parameters of a request that are part of its prefix, or forbid warming it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmingSettings:
    """What the operator sets.

    Attributes:
        second_usd: Value of a second less to the first token.
        hold_out: Share of warms that are not sent, at random.
        actions: Actions taken to precede a request on Opus.
        score: Score of a turn on Flash, or chance foreseen, from which the predictive policy warms; in [0, 1].
    """

    policy: Policy
    second_usd: float = 0.0
    hold_out: float = 0.05
    actions: frozenset[str] = frozenset()
    score: float = 0.2
    recipe_bytes_limit: int = 128 << 20


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


@dataclass(slots=True)
class _Known:
    """What is remembered of sessions and applications.

    Attributes:
        last: Prefix that a session's last request on Opus left, by tenant and session.
        causes: Span of the last request that used a watched prefix.
        held_out: Until when a session's warms are held out, by tenant and session.
    """

    last: OrderedDict[tuple[str, str], bytes] = field(default_factory=OrderedDict)
    manners: dict[str, deque[Manner]] = field(default_factory=dict)
    causes: OrderedDict[bytes, SpanContext] = field(default_factory=OrderedDict)
    held_out: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def caused(self, key: bytes, span: SpanContext) -> None:
        """Note whose request left a prefix, for the link of its keep-alives."""
        self.causes.pop(key, None)
        if span.is_valid:
            self.causes[key] = span
            if len(self.causes) > _CAUSES:
                self.causes.popitem(last=False)

    def hold_out(self, whose: tuple[str, str], until_s: float) -> None:
        """Leave a session cold until then."""
        self.held_out.pop(whose, None)
        self.held_out[whose] = until_s
        if len(self.held_out) > _CAUSES:
            self.held_out.popitem(last=False)


class Warming:
    """Policy, schedule and recipes of one process."""

    def __init__(
        self,
        parts: WarmerParts,
        settings: WarmingSettings,
        *,
        applications: Applications,
        prices: PriceTable,
        first_byte: Callable[[str], FirstByte],
        draw: Callable[[], float],
        foreseer: Foreseer | None = None,
    ) -> None:
        """Keep references; `draw` gives a number in [0, 1); without a `foreseer` nothing is foreseen."""
        self._parts = parts
        self._settings = settings
        self._applications = applications
        self._prices = prices
        self._first_byte = first_byte
        self._draw = draw
        self._schedule = Schedule()
        self._returns = Returns()
        self._foreseer = Foreseer(None) if foreseer is None else foreseer
        self._chances = Chances(within_s=TTL_5M_S)
        self._recipes = Recipes(settings.recipe_bytes_limit)
        self._known = _Known()
        self._hints = ScoreHints(settings.policy, settings.score)
        self.regret = Regret(second_usd=settings.second_usd)
        self.warmer = Warmer(parts, self._due, self._schedule.next_due_s)

    # --- what users' requests leave

    def answered(self, prepared: Prepared, settlement: Settlement) -> None:
        """Note a user's request that was answered: what it left warm, and who came back. Never fails it."""
        opus = settlement.intent.route == Route.OPUS.value
        usage, regret = settlement.usage, self.regret
        try:
            if opus and usage is not None and regret.open_count:
                digests = prepared.views[Route.OPUS].digests
                self._tell(regret.used(digests, usage.cache_read_tokens, settlement.intent.started_time_s))
            if self._settings.policy is Policy.OFF or settlement.discarded:
                return  # Opus is asked in its place, and that is the turn
            forecast = self._foreseen(prepared, settlement)
            if opus and usage is not None:
                self._note(prepared, settlement, usage, forecast)
            elif not opus and self._hints.on:
                self._hint(prepared, settlement, forecast)
        except Exception as error:
            logger.error(
                "what request %s left was not noted\n%s", settlement.intent.request_id, stack_of(error)
            )

    def _foreseen(self, prepared: Prepared, settlement: Settlement) -> Forecast | None:
        """Extend the session's history; None where nothing is foreseen or no session was named.

        A turn on Flash leaves nothing warm, but it changes what is foreseen of the prefix that the session has on Opus.
        """
        identity = prepared.request.call.identity
        if not identity.session:
            return None
        whose = (identity.tenant, identity.session)
        forecast = self._foreseer.answered(whose, _turn(prepared, settlement))
        if forecast is not None and settlement.intent.route != Route.OPUS.value:
            key = self._known.last.get(whose)
            used_s = None if key is None else self._returns.started_s(key)
            if key is not None and used_s is not None:
                ahead_s = max(0.0, settlement.intent.started_time_s - used_s)
                self._returns.foresee(key, forecast.keep_alive_hazards(ahead_s))
        return forecast

    def _hint(self, prepared: Prepared, settlement: Settlement, forecast: Forecast | None) -> None:
        """Flash answered: have the session's prefix on Opus looked at, if its next turn may well go there."""
        view = prepared.views.get(Route.OPUS)
        if view is None or view.plan.strategy is Strategy.NONE:
            return  # Opus cannot be asked this, or its caller wants nothing cached
        now_s, score = settlement.intent.started_time_s, prepared.score
        wake = self._hints.answered(
            prepared.request,
            None if score is None else score.value,
            None if forecast is None else forecast.opus_within(float(TTL_5M_S)),
            now_s,
            worth=self._worth(now_s),
            cause=self._parts.telemetry.current_span(),
        )
        if wake:
            self.warmer.wake()

    def _note(
        self, prepared: Prepared, settlement: Settlement, usage: Usage, forecast: Forecast | None
    ) -> None:
        policy = self._settings.policy
        view = prepared.views[Route.OPUS]
        call, now_s = prepared.request.call, settlement.intent.started_time_s
        self._note_manner(call)
        identity = call.identity
        self._chances.followed((identity.tenant, identity.session), now_s)
        self._hints.followed((identity.tenant, identity.session), now_s)
        if usage.cache_read_tokens + usage.cache_write_tokens == 0:
            return
        index = self._parts.settler.beliefs.index
        points = view.plan.breakpoints
        known = index.belief(view.scope, [point.digest for point in points])
        end_s = settlement.settled_time_s
        warm = [
            (point, belief)
            for point, belief in zip(points, known, strict=True)
            if belief is not None and belief.p_warm(end_s) > 0
        ]
        shared = [(point, belief) for point, belief in warm if point.layer <= Layer.SYSTEM]
        owner = (identity.tenant, identity.application)
        content_bytes = sum([len(block.content) for block in view.prompt.blocks])
        if shared and allowed(policy, Trigger.SHARED):
            point, belief = shared[-1]
            prefix = Prefix(point.digest, belief.tokens, belief.tokens, belief.ttl_s, True)
            kept = tuple([each for each, _ in shared])
            if self._recipes.find(point.digest) is None:
                self._recipes.keep(
                    shared_recipe_of(prepared.request, kept, content_bytes, self._output_tokens)
                )
            self._known.caused(prefix.key, self._parts.telemetry.current_span())
            self._schedule.used(prefix, ("", identity.application), (), now_s, self._jitter_s(belief.ttl_s))
        if warm and warm[-1][0].layer > Layer.SYSTEM and allowed(policy, Trigger.IDLE):
            point, belief = warm[-1]
            base = shared[-1][1].tokens if shared else 0
            prefix = Prefix(
                point.digest,
                belief.tokens,
                max(1, belief.tokens - base),
                belief.ttl_s,
                False,
                max(0, view.plan.total_tokens - belief.tokens),
            )
            turn = None if identity.session else _turn(prepared, settlement)
            self._note_private(prefix, owner, prepared.request, view, now_s, content_bytes, forecast, turn)
        self.warmer.wake()

    def _note_private(
        self,
        prefix: Prefix,
        owner: tuple[str, str],
        request: Request,
        view: CacheView,
        now_s: float,
        content_bytes: int,
        forecast: Forecast | None,
        turn: Turn | None,
    ) -> None:
        identity = request.call.identity
        whose = (identity.tenant, identity.session)
        last = self._known.last
        before = last.pop(whose, None) if identity.session else None
        if before is None:
            # Shared layers are reached by everybody's first request: they are no conversation that went on.
            reached = [
                view.digests[position]
                for position, _ in view.plan.believed
                if view.prompt.blocks[position].layer > Layer.SYSTEM
            ]
            before = next((key for key in reached if self._recipes.find(key) and key != prefix.key), None)
        if before is not None:
            self._returns.returned(before, now_s)
            if before != prefix.key:
                self._schedule.forget(before)
                self._recipes.forget(before)
        if identity.session:
            last[whose] = prefix.key
            if len(last) > _SESSIONS:
                last.popitem(last=False)
        if turn is not None:
            # Nobody named the session: its history goes by the prefix that its last turn left.
            forecast = self._foreseer.answered(prefix.key, turn, before)
        path = _path(request.call)
        foreseen = () if forecast is None else forecast.keep_alive_hazards()
        self._returns.quiet(prefix.key, path, now_s, foreseen)
        points = tuple([point for point in view.plan.breakpoints if point.prefix_tokens <= prefix.tokens])
        points = points if points and points[-1].digest == prefix.key else view.plan.breakpoints
        self._recipes.keep(recipe_of(request, points, content_bytes, self._output_tokens))
        self._known.caused(prefix.key, self._parts.telemetry.current_span())
        self._schedule.used(prefix, owner, path, now_s, self._jitter_s(prefix.ttl_s))

    def _note_manner(self, call: Call) -> None:
        manners = self._known.manners.setdefault(call.identity.application, deque(maxlen=_MANNERS))
        manners.append(_manner(call))

    def _jitter_s(self, ttl_s: int) -> float:
        return self._draw() * JITTER_S.get(ttl_s, 0.0)

    # --- what is due

    def _due(self, now_s: float) -> None:
        """Queue the keep-alives that are due and pay."""
        self._returns.close(now_s)
        self._chances.close(now_s)
        self._tell(self.regret.close(now_s))
        for watch in self._schedule.due(now_s):
            trigger = Trigger.SHARED if watch.prefix.shared else Trigger.IDLE
            verdict = self._upkeep(watch, now_s)
            recipe = self._recipes.find(watch.prefix.key)
            if not verdict.fires or recipe is None or not allowed(self._settings.policy, trigger):
                self._schedule.forget(watch.prefix.key)
                continue
            found = order(watch.prefix, trigger, verdict, watch.due_s, self._worth(now_s))
            # What an earlier keep-alive bought ends a little later than this one is sent: a use in between is its.
            from_s = now_s if watch.pings else watch.lapses_s
            until_s = now_s + watch.prefix.ttl_s
            objected = objection(recipe.request.call)
            if objected is not None:
                self.warmer.note_unwarmable(watch.owner[1], trigger.value, objected)
                self._schedule.forget(watch.prefix.key)
                continue
            name, kept_back = self._drawn(
                found,
                watch.owner,
                from_s,
                until_s,
                watch.prefix.private_tokens,
                foreseen=bool(self._returns.foreseen(watch.prefix.key)),
            )
            if kept_back:
                self._schedule.forget(watch.prefix.key)
                continue
            job = Job(
                order=found,
                owner=watch.owner,
                name=name,
                request=recipe.request,
                points=recipe.points,
                key=recipe.key,
                latest_s=watch.lapses_s,
                cause=self._known.causes.get(watch.prefix.key),
                sent=lambda sent, watch=watch: self._pinged(watch, sent),  # type: ignore[misc]
            )
            if not self.warmer.put(job):
                self._schedule.forget(watch.prefix.key)
        for hint in self._hints.taken(now_s):
            self._hinted(hint, now_s)

    def _upkeep(self, watch: Watch, now_s: float) -> Verdict:
        policy, prefix, worth = self._settings.policy, watch.prefix, self._worth(now_s)
        if not prefix.shared:
            foreseen = self._returns.foreseen(prefix.key)
            hazards = self._returns.hazards(watch.path, watch.idle_windows, foreseen)
            return keep_alive(policy, prefix, worth, hazards, watch.pings)
        beliefs = self._parts.settler.beliefs
        scope = beliefs.opus_scope(self._parts.settler.upstreams[Route.OPUS].model)
        chance, uses = beliefs.demand.use_within(
            scope, prefix.key, now_s, watch.lapses_s - now_s, float(prefix.ttl_s)
        )
        return shared_upkeep(policy, prefix, worth, chance, uses)

    def _pinged(self, watch: Watch, sent: Sent) -> None:
        """A keep-alive came back: the next is due a TTL later, unless it found nothing to keep."""
        self._book(watch.prefix.key, sent)
        if sent.result == "read" and sent.settlement is not None:
            ttl_s = watch.prefix.ttl_s
            self._schedule.pinged(watch, sent.settlement.intent.started_time_s, self._jitter_s(ttl_s))
        else:
            self._schedule.lapsed(watch)

    # --- what is warmed ahead

    def opened(self, held: Held) -> Answer:
        """A session was opened: warm what its first request will begin with, if that is worth it."""
        whose, kind = (held.tenant, held.session), ("session", held.application)
        return self._ahead(Trigger.SESSION_START, held, whose, kind, SESSION_PRIOR)

    def acted(self, tenant: str, session: str, action: str, held: Held | None) -> Answer:
        """A user did something: warm the session's prefix, if a request on Opus is likely enough."""
        application = "" if held is None else held.application
        prior = LISTED_PRIOR if action in self._settings.actions else ACTION_PRIOR
        return self._ahead(Trigger.PREDICTION, held, (tenant, session), (action, application), prior)

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
        p_use = self._chances.of(kind, prior)
        self._chances.signal(kind, whose, now_s)
        listed = kind[0] in self._settings.actions
        if trigger is Trigger.PREDICTION and policy is Policy.PREDICTIVE and not listed:
            return Answer(False, f"{kind[0]!r} is not one of warming.actions")
        request = self._request_ahead(held, whose)
        said = "" if foreseen is None else f"foresight {self._foreseer.digest}: {foreseen:.3f}"
        return self._asked_for(
            trigger,
            request,
            whose,
            kind[1],
            p_use,
            said,
            foreseen is not None,
            self._parts.telemetry.current_span(),
        )

    def _hinted(self, hint: Hint, now_s: float) -> None:
        """Warm what the next request of a session on Flash will begin with on Opus, if that is worth it."""
        call = hint.request.call
        request = as_warm(hint.request, call, Strategy.C.value, output_tokens=self._output_tokens)
        application = call.identity.application
        said = f"foresight {self._foreseer.digest}: {hint.said}" if hint.foreseen else hint.said
        self._asked_for(
            Trigger.SCORE, request, hint.whose, application, hint.p_use, said, hint.foreseen, hint.cause
        )

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
    ) -> Answer:
        """Order a warm of what a session's next request begins with, if that is worth it.

        Args:
            p_use: Chance in [0, 1] of a use within five minutes.
            said: What the verdict adds on that, "" for nothing.
            foreseen: Whether it rests on a foresight.
        """
        policy, now_s = self._settings.policy, self._parts.settler.clock.now()
        ready = self._ready(request, now_s)
        if isinstance(ready, Unwarmable):
            self.warmer.note_unwarmable(application, trigger.value, ready)
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
        worth = self._worth(now_s)
        verdict = self._judged(policy, prefix, worth, p_use, prepared, points)
        if said:
            verdict = verdict._replace(reason=f"{verdict.reason}; {said}")
        found = order(prefix, trigger, verdict, now_s, worth)
        if not verdict.fires:
            return Answer(False, verdict.reason, found.cost_usd, found.value_usd)
        owner = (whose[0], prepared.request.application.name)
        if self.regret.awaits(prefix.key):
            # A second order would take the decision's place and, overtaken by the first, end it without a verdict.
            return Answer(False, "it is on its way already", found.cost_usd, found.value_usd)
        if now_s < self._known.held_out.get(whose, now_s):
            # Drawn again it would be sent after all, and the one held out would have lost nothing.
            return Answer(False, _HELD_OUT, found.cost_usd, found.value_usd)
        cold_tokens = max(1, prefix.tokens - view.plan.full_read_tokens)
        name, kept_back = self._drawn(found, owner, now_s, now_s + TTL_5M_S, cold_tokens, foreseen=foreseen)
        if kept_back:
            if name:
                self._known.hold_out(whose, now_s + TTL_5M_S)
            return Answer(False, kept_back, found.cost_usd, found.value_usd)
        queued = self._put(
            found, owner, request, points, lambda sent: self._book(prefix.key, sent), name, cause
        )
        if not queued:
            self.regret.forget(prefix.key)
        return Answer(
            queued,
            verdict.reason if queued else "too many warms wait already",
            found.cost_usd,
            found.value_usd,
        )

    def _ready(
        self, request: Request | Unwarmable, now_s: float
    ) -> tuple[Request, Prepared, tuple[Breakpoint, ...]] | Unwarmable:
        """What would be sent to warm what `request` begins with, and its breakpoints; else why it cannot be."""
        if isinstance(request, Unwarmable):
            return request
        objected = objection(request.call)
        if objected is not None:
            return objected
        try:
            prepared = self._parts.preparation.prepare(request, now_s)
        except errors.RouterError as error:
            return Unwarmable(Reason.REFUSED, str(error))
        view = prepared.views[Route.OPUS]
        points = self._lasting(view, now_s)
        if not points or points[-1].prefix_tokens < view.plan.minimum_tokens:
            return Unwarmable(Reason.TOO_SHORT, "shorter than the model's minimum")
        return request, prepared, points

    def _drawn(
        self,
        found: WarmOrder,
        owner: tuple[str, str],
        from_s: float,
        until_s: float,
        lost_tokens: int,
        *,
        foreseen: bool,
    ) -> tuple[str, str]:
        """Name of the decision, and why an order that pays is not sent all the same, "" when it is.

        Either way it is judged by what comes, but for an owner that is switched off.

        Args:
            foreseen: Whether it rests on what was foreseen.
        """
        now_s = self._parts.settler.clock.now()
        self._tell(self.regret.close(now_s))
        if not self.regret.allowed(owner, now_s):
            self._parts.telemetry.record_warm(found.trigger.value, "switched_off")
            return "", (
                "warms of this tenant and application cost more than they brought; they are tried again later"
            )
        held_out = self._draw() >= 1 - self._settings.hold_out
        worth, prefix = self._worth(now_s), found.prefix
        saved_units = (worth.rates.write(prefix.ttl_s) - worth.rates.read) * lost_tokens
        tried = Tried(
            owner=owner,
            trigger=found.trigger.value,
            held_out=held_out,
            from_s=from_s,
            until_s=until_s,
            tokens=prefix.tokens,
            private_tokens=lost_tokens,
            gain_usd=saved_units * worth.token_usd,
            gain_s=worth.kappa_s * lost_tokens,
            name=new_name(),
            foresight=self._foreseer.digest if foreseen else "",
        )
        self._tell(self.regret.tried(prefix.key, tried, now_s))
        return tried.name, _HELD_OUT if held_out else ""

    def _book(self, key: bytes, sent: Sent) -> None:
        """Note what an order cost; one that was not sent is not judged."""
        if sent.settlement is None or sent.settlement.cost is None:
            self.regret.forget(key)
        else:
            self.regret.spent(key, sent.settlement.cost.total_nano_usd / 1e9)

    def _tell(self, settled: Sequence[Settled]) -> None:
        for each in settled:
            self._parts.telemetry.record_warm_verdict(each)
            self._parts.settler.ledger.warm(verdict_of(each, self._settings.policy.value))

    def standing(self) -> tuple[int, int]:
        """Settle what has ended; (decisions still open, tenants and applications switched off)."""
        now_s = self._parts.settler.clock.now()
        self._tell(self.regret.close(now_s))
        return self.regret.open_count, self.regret.switched_off(now_s)

    @property
    def returns(self) -> Returns:
        """Who comes back when; for what tells it of an earlier process."""
        return self._returns

    @property
    def foreseer(self) -> Foreseer:
        """What is remembered of sessions; likewise."""
        return self._foreseer

    @property
    def chances(self) -> Chances:
        """What is followed by a request; likewise."""
        return self._chances

    @property
    def pace(self) -> Pace:
        """What may be spent; likewise."""
        return self._parts.pace

    def left_by(self, tenant: str, session: str, key: bytes) -> None:
        """A session's last turn in an earlier process is waited for as `key`."""
        self._known.last[tenant, session] = key
        if len(self._known.last) > _SESSIONS:
            self._known.last.popitem(last=False)

    async def warm_application(self, name: str) -> Sent:
        """Warm an application's tools and system prompt now, by an operator's order; give what came of it.

        Raises:
            NotFound: No such application.
        """
        application, now_s = self._applications.get(name), self._parts.settler.clock.now()
        call = self._call_ahead(application, Identity(request_id="", application=name), (), ())
        request = as_warm(
            _bare_request(application, call), call, Strategy.C.value, output_tokens=self._output_tokens
        )
        prepared = self._parts.preparation.prepare(request, now_s)
        view = prepared.views[Route.OPUS]
        points = self._lasting(view, now_s)
        if not points:
            why = view.plan.skipped[0].reason if view.plan.skipped else "it has no tools and no system prompt"
            sent = unwarmable(Reason.NOTHING_CACHED, why)
            assert sent.unwarmable is not None
            self.warmer.note_unwarmable(name, Trigger.OPERATOR.value, sent.unwarmable)
            return sent
        worth = self._worth(now_s)
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
        tell: Callable[[Sent], None] | None = None,
        name: str = "",
        cause: SpanContext | None = None,
    ) -> bool:
        return self.warmer.put(
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

    def _request_ahead(self, held: Held | None, whose: tuple[str, str]) -> Request | Unwarmable:
        """What a session's next request will begin with; else why that cannot be known."""
        if held is None:
            key = self._known.last.get(whose)
            recipe = None if key is None else self._recipes.find(key)
            if recipe is None:
                return Unwarmable(
                    Reason.UNKNOWN_SESSION, "the session is not held, and no request of it is known"
                )
            return recipe.request
        application = self._applications.get(held.application)
        if len(set(self._known.manners.get(application.name, ()))) > 1:
            return Unwarmable(
                Reason.VARIED_PARAMETERS,
                "its requests differ in tool choice, effort, thinking or output schema",
            )
        if held.messages and (held.messages[-1].role is not Role.ASSISTANT or held.open_calls()):
            return Unwarmable(Reason.OPEN_TOOL_CALLS, "its next turn brings results of tools")
        identity = Identity(
            request_id="",
            tenant=held.tenant,
            application=held.application,
            user=held.user,
            session=held.session,
        )
        call = self._call_ahead(application, identity, held.context, held.messages)
        return as_warm(
            _bare_request(application, call), call, Strategy.C.value, output_tokens=self._output_tokens
        )

    def _call_ahead(
        self,
        application: Application,
        identity: Identity,
        context: tuple[str, ...],
        messages: tuple[Message, ...],
    ) -> Call:
        manners = self._known.manners.get(application.name)
        choice, effort, schema, thinking = manners[-1] if manners else (ToolChoice(), None, "", False)
        return Call(
            identity=identity,
            tools=application.tools,
            system=application.system,
            context=context,
            messages=(*messages, *PLACEHOLDER),
            tool_choice=choice,
            max_output_tokens=self._output_tokens,
            effort=effort,
            output_schema_json=schema,
            include_thinking=thinking,
        )

    def _lasting(self, view: CacheView, now_s: float) -> tuple[Breakpoint, ...]:
        """The plan's breakpoints, those of shared layers for an hour where their uses say so."""
        beliefs = self._parts.settler.beliefs
        forecasts = beliefs.demand.forecasts(view.scope, view.prompt, view.digests, now_s, "", view.counts)
        forecast = forecasts[Layer.SYSTEM]
        later = (forecast.p_1h - forecast.p_5m) / (1 - forecast.p_5m) if forecast.p_5m < 1 else 0.0
        points = view.plan.breakpoints
        if later <= hour_threshold(self._worth(now_s).rates):
            return points
        return tuple(
            [point._replace(ttl_s=TTL_1H_S) if point.layer <= Layer.SYSTEM else point for point in points]
        )

    def _worth(self, now_s: float) -> Worth:
        model = self._parts.settler.upstreams[Route.OPUS].model
        _, kappa_s = self._first_byte(model).line()
        try:
            price = self._prices.price(model, now_s)
        except UnknownPrice:
            return Worth(_LIST_RATES, 0.0, self._settings.second_usd, kappa_s)
        input_femto, *_, output_femto = price.femto_usd
        return Worth(
            price.rates(),
            input_femto / _FEMTO_PER_USD,
            self._settings.second_usd,
            kappa_s,
            self._output_tokens * output_femto / input_femto if input_femto else 0.0,
        )

    @property
    def _output_tokens(self) -> int:
        """What a warm asks for: nothing, or the one token without which the model takes no call (fact A6)."""
        return self._parts.settler.beliefs.facts.warm_output_tokens


def _bare_request(application: Application, call: Call) -> Request:
    return Request(call=call, application=application, demands=Demands())


def _turn(prepared: Prepared, settlement: Settlement) -> Turn:
    return turn_of(settlement, None if prepared.score is None else prepared.score.value)


def _manner(call: Call) -> Manner:
    return call.tool_choice, call.effort, call.output_schema_json, call.include_thinking


def _path(call: Call) -> Path:
    """Kind of a turn as far as its return differs: a tool loop, or how many turns it has had."""
    turns = None
    if not any(isinstance(part, ToolResult) for part in call.messages[-1].parts):
        turns = sum([message.role is Role.USER for message in call.messages])
    return turn_path(call.identity.application, turns)


def turn_path(application: str, turns: int | None) -> Path:
    """Kind of a turn, of so many by the user; None for a step of a tool loop."""
    place = "tool loop" if turns is None else f"turn {min(turns, 4)}"
    return (("", place), (application, place)) if application else (("", place),)
