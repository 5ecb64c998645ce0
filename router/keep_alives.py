"""Keep-alives of a running router: what users' requests left warm on Opus, and which of it is due.

The rule: decisions are `cache.schedule`'s; this module knows which prefix a request left, when its session came back,
and how to ask for it again. Requests, recipes and what is watched are in memory only, because they hold what users
said. All of it is bounded. It does not know how an order is sent, nor what is warmed ahead of a request.
"""

from collections import OrderedDict

from cache.hazard import Path
from cache.prompt import Layer
from cache.returns import Returns
from cache.schedule import (
    Prefix,
    Schedule,
    Trigger,
    Verdict,
    Watch,
    allowed,
    keep_alive,
    order,
    shared_upkeep,
)
from classifier.foresight.history import Turn
from classifier.foresight.model import Forecast
from classifier.route import Route
from router.beliefs import CacheView
from router.call import Call, Role, ToolResult
from router.foresight import Foreseer, turn_of
from router.preparation import Prepared
from router.recipes import Recipe, Recipes, recipe_of, shared_recipe_of
from router.request import Request
from router.settlement import Settlement
from router.telemetry import SpanContext
from router.unwarmable import objection
from router.usage import Usage
from router.warm_decisions import Decisions
from router.warm_settings import WarmingSettings
from router.warm_worth import Worths
from router.warmer import Job, Sent, Warmer, WarmerParts

_SESSIONS = 50_000
_CAUSES = 20_000


class KeepAlives:
    """What one process's requests left warm."""

    def __init__(
        self,
        parts: WarmerParts,
        settings: WarmingSettings,
        *,
        worths: Worths,
        decisions: Decisions,
        foreseer: Foreseer,
        schedule: Schedule,
        warmer: Warmer,
    ) -> None:
        """Keep references."""
        self._parts = parts
        self._settings = settings
        self._worths = worths
        self._decisions = decisions
        self._foreseer = foreseer
        self._schedule = schedule
        self._warmer = warmer
        self._recipes = Recipes(settings.recipe_bytes_limit)
        # Prefix that a session's last request on Opus left, by tenant and session.
        self._last: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        # Span of the last request that used a watched prefix.
        self._causes: OrderedDict[bytes, SpanContext] = OrderedDict()
        self.returns = Returns()

    # --- what users' requests leave

    def foreseen(self, whose: tuple[str, str], forecast: Forecast, now_s: float) -> None:
        """A turn on Flash leaves nothing warm, but changes what is foreseen of the prefix the session has on Opus."""
        key = self._last.get(whose)
        used_s = None if key is None else self.returns.started_s(key)
        if key is not None and used_s is not None:
            self.returns.foresee(key, forecast.keep_alive_hazards(max(0.0, now_s - used_s)))

    def note(
        self, prepared: Prepared, settlement: Settlement, usage: Usage, forecast: Forecast | None
    ) -> None:
        """Note what a user's request on Opus left warm, and who came back with it."""
        if usage.cache_read_tokens + usage.cache_write_tokens == 0:
            return
        policy = self._settings.policy
        view = prepared.views[Route.OPUS]
        now_s, identity = settlement.intent.started_time_s, prepared.request.call.identity
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
                    shared_recipe_of(prepared.request, kept, content_bytes, self._worths.output_tokens)
                )
            self._caused(prefix.key)
            self._schedule.used(
                prefix, ("", identity.application), (), now_s, self._decisions.jitter_s(belief.ttl_s)
            )
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
            turn = None if identity.session else turn_of(settlement, _score(prepared))
            self._note_private(prefix, owner, prepared.request, view, now_s, content_bytes, forecast, turn)
        self._warmer.wake()

    def left_by(self, whose: tuple[str, str]) -> Recipe | None:
        """How to warm again what a session's last request on Opus left; None when that is not known."""
        key = self._last.get(whose)
        return None if key is None else self._recipes.find(key)

    def recalled(self, whose: tuple[str, str], key: bytes) -> None:
        """A session's last turn in an earlier process is waited for as `key`."""
        self._last[whose] = key
        if len(self._last) > _SESSIONS:
            self._last.popitem(last=False)

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
        last = self._last
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
            self.returns.returned(before, now_s)
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
        self.returns.quiet(prefix.key, path, now_s, foreseen)
        points = tuple([point for point in view.plan.breakpoints if point.prefix_tokens <= prefix.tokens])
        points = points if points and points[-1].digest == prefix.key else view.plan.breakpoints
        self._recipes.keep(recipe_of(request, points, content_bytes, self._worths.output_tokens))
        self._caused(prefix.key)
        self._schedule.used(prefix, owner, path, now_s, self._decisions.jitter_s(prefix.ttl_s))

    def _caused(self, key: bytes) -> None:
        """Note whose request left a prefix, for the link of its keep-alives."""
        self._causes.pop(key, None)
        span = self._parts.telemetry.current_span()
        if span.is_valid:
            self._causes[key] = span
            if len(self._causes) > _CAUSES:
                self._causes.popitem(last=False)

    # --- what is due

    def due(self, now_s: float) -> None:
        """Queue the keep-alives that are due and pay."""
        self.returns.close(now_s)
        for watch in self._schedule.due(now_s):
            if not self._sent(watch, now_s):
                self._schedule.forget(watch.prefix.key)

    def _sent(self, watch: Watch, now_s: float) -> bool:
        """Queue the keep-alive of a watch, if it pays; whether it is on its way."""
        trigger = Trigger.SHARED if watch.prefix.shared else Trigger.IDLE
        verdict = self._upkeep(watch, now_s)
        recipe = self._recipes.find(watch.prefix.key)
        if not verdict.fires or recipe is None or not allowed(self._settings.policy, trigger):
            return False
        found = order(watch.prefix, trigger, verdict, watch.due_s, self._worths.at(now_s))
        objected = objection(recipe.request.call)
        if objected is not None:
            self._warmer.note_unwarmable(watch.owner[1], trigger.value, objected)
            return False
        name, kept_back = self._decisions.drawn(
            found,
            watch.owner,
            # What an earlier keep-alive bought ends a little later than this one is sent: a use in between is its.
            now_s if watch.pings else watch.lapses_s,
            now_s + watch.prefix.ttl_s,
            watch.prefix.private_tokens,
            foreseen=bool(self.returns.foreseen(watch.prefix.key)),
        )
        if kept_back:
            return False
        return self._warmer.put(
            Job(
                order=found,
                owner=watch.owner,
                name=name,
                request=recipe.request,
                points=recipe.points,
                key=recipe.key,
                latest_s=watch.lapses_s,
                cause=self._causes.get(watch.prefix.key),
                sent=lambda sent: self._pinged(watch, sent),
            )
        )

    def _upkeep(self, watch: Watch, now_s: float) -> Verdict:
        policy, prefix, worth = self._settings.policy, watch.prefix, self._worths.at(now_s)
        if not prefix.shared:
            foreseen = self.returns.foreseen(prefix.key)
            hazards = self.returns.hazards(watch.path, watch.idle_windows, foreseen)
            return keep_alive(policy, prefix, worth, hazards, watch.pings)
        beliefs = self._parts.settler.beliefs
        scope = beliefs.opus_scope(self._parts.settler.upstreams[Route.OPUS].model)
        chance, uses = beliefs.demand.use_within(
            scope, prefix.key, now_s, watch.lapses_s - now_s, float(prefix.ttl_s)
        )
        return shared_upkeep(policy, prefix, worth, chance, uses)

    def _pinged(self, watch: Watch, sent: Sent) -> None:
        """A keep-alive came back: the next is due a TTL later, unless it found nothing to keep."""
        self._decisions.book(watch.prefix.key, sent)
        if sent.result == "read" and sent.settlement is not None:
            ttl_s = watch.prefix.ttl_s
            started_s = sent.settlement.intent.started_time_s
            self._schedule.pinged(watch, started_s, self._decisions.jitter_s(ttl_s))
        else:
            self._schedule.lapsed(watch)


def _score(prepared: Prepared) -> float | None:
    return None if prepared.score is None else prepared.score.value


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
