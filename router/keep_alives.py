"""Keep-alives of a running router: what users' requests left warm on Opus, and which of it is due.

The rule: decisions are `cache.schedule`'s and `cache.idle`'s; this module knows which prefix a request left, when its
session came back, and how to ask for it again. As in a replay, a conversation's return is noted when its request goes
out, and how many keep-alives it gets unless it goes on is planned when that is answered, by hazards of the same kinds
of turn that its TTL was chosen by (`cache.demand`). Requests, recipes and what is watched are in memory only, because
they hold what users said. All of it is bounded. It does not know how an order is sent, nor what is warmed ahead.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache.belief import Belief
from cache.economics import cost_units
from cache.forecast import Kept
from cache.hazard import Path, Run
from cache.idle import KeptByKind, idle_plan, upgrade
from cache.plan import Breakpoint
from cache.prompt import Layer
from cache.returns import WINDOW_S, Returns
from cache.rules import TTL_1H_S
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
from classifier.foresight.model import Forecast
from classifier.route import Route
from router import errors
from router.beliefs import CacheView
from router.foresight import Foreseer, turn_of
from router.preparation import Prepared
from router.recipes import Recipe, Recipes, recipe_of, shared_recipe_of
from router.reply import Reply
from router.request import Request
from router.settlement import Settlement
from router.telemetry import SpanContext
from router.unwarmable import Reason, Unwarmable, objection
from router.upgrade_ping import GivenBack, answer_of, upgrade_points, upgrade_request
from router.usage import Usage
from router.warm_decisions import Decisions
from router.warm_settings import WarmingSettings
from router.warm_worth import Worths
from router.warmer import Job, Sent, Warmer, WarmerParts

_SESSIONS = 50_000
_CAUSES = 20_000
_COMING = 10_000


class _Coming(NamedTuple):
    """A request on its way.

    Attributes:
        path: Kind of its turn.
        before: What its conversation's last request left; None where nobody knows of one.
        run: Kinds of the turns whose fate it shares.
    """

    path: Path
    before: bytes | None
    run: Run


_UNKNOWN = _Coming((), None, ())


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
        self._policy = settings.policy
        self._worths = worths
        self._decisions = decisions
        self._foreseer = foreseer
        self._schedule = schedule
        self._warmer = warmer
        self._recipes = Recipes(settings.recipe_bytes_limit)
        # Prefix that a session's last request on Opus left, by tenant and session.
        self._last: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        # Requests on their way, by id.
        self._coming: OrderedDict[str, _Coming] = OrderedDict()
        # Span of the last request that used a watched prefix.
        self._causes: OrderedDict[bytes, SpanContext] = OrderedDict()
        self._given_back = GivenBack()
        self.returns = Returns()

    @property
    def upgrades(self) -> bool:
        """Whether the upgrade ping may be sent: the fact it rests on was measured on this model, and holds."""
        return self._parts.settler.beliefs.facts.upgrade_ping_verified

    def kept_by_kind(self) -> Callable[[Path], Kept]:
        """What keep-alives change about the TTL of a turn, by its kind and what is known by then."""
        clock, worths = self._parts.settler.clock, self._worths
        by_kind = KeptByKind(lambda: worths.at(clock.now()), self.returns, upgrades=self.upgrades)

        def kept(path: Path) -> Kept:
            self.returns.close(clock.now())
            return by_kind(path)

        return kept

    # --- what users' requests leave

    def arrived(self, prepared: Prepared, path: Path, now_s: float) -> None:
        """A user's request goes out to Opus: its conversation came back, and needs no more keep-alives.

        Args:
            path: Kind of its turn.
        """
        identity = prepared.request.call.identity
        if identity.request_id in self._coming or not allowed(self._policy, Trigger.IDLE):
            return
        before = self._before(prepared)
        run: Run = ()
        if before is not None:
            recipe = self._recipes.find(before)
            if recipe is not None:
                owner = (identity.tenant, identity.application)
                self._given_back.seen(owner, recipe, prepared.request.call)
            reused = recipe is None or _goes_on(recipe, prepared.views[Route.OPUS])
            run = self.returns.returned(before, now_s, reused=reused)
            self._schedule.forget(before)
        self._coming[identity.request_id] = _Coming(path, before, run)
        if len(self._coming) > _COMING:
            self._coming.popitem(last=False)

    def foreseen(self, whose: tuple[str, str], forecast: Forecast, now_s: float) -> None:
        """A turn on Flash leaves nothing warm, but changes what is foreseen of the prefix the session has on Opus."""
        key = self._last.get(whose)
        used_s = None if key is None else self.returns.started_s(key)
        if key is None or used_s is None:
            return
        self.returns.foresee(key, forecast.keep_alive_hazards(max(0.0, now_s - used_s)))
        watch = self._schedule.find(key)
        if watch is not None and not watch.prefix.shared:
            self._plan(watch, now_s)

    def note(
        self,
        prepared: Prepared,
        settlement: Settlement,
        usage: Usage,
        forecast: Forecast | None,
        reply: Reply | None,
    ) -> None:
        """Note what a user's answered request on Opus left warm."""
        coming = self._coming.pop(settlement.intent.request_id, _UNKNOWN)
        if usage.cache_read_tokens + usage.cache_write_tokens == 0:
            return
        view = prepared.views[Route.OPUS]
        now_s, identity = settlement.intent.started_time_s, prepared.request.call.identity
        points = view.plan.breakpoints
        known = self._parts.settler.beliefs.index.belief(view.scope, [point.digest for point in points])
        end_s = settlement.settled_time_s
        warm = [
            (point, belief)
            for point, belief in zip(points, known, strict=True)
            if belief is not None and belief.p_warm(end_s) > 0
        ]
        shared = [(point, belief) for point, belief in warm if point.layer <= Layer.SYSTEM]
        content_bytes = sum([len(block.content) for block in view.prompt.blocks])
        if shared and allowed(self._policy, Trigger.SHARED):
            self._note_shared(shared, prepared.request, now_s, content_bytes)
        if warm and warm[-1][0].layer > Layer.SYSTEM and allowed(self._policy, Trigger.IDLE):
            point, belief = warm[-1]
            recipe = self._recipe(point.digest, belief.tokens, prepared, usage, content_bytes, reply)
            private_tokens = max(1, belief.tokens - _outliving(warm))
            prefix = Prefix(
                point.digest, belief.tokens, private_tokens, belief.ttl_s, False, recipe.tail_tokens
            )
            if not identity.session:
                # Nobody named the session: its history goes by the prefix that its last turn left.
                score = None if prepared.score is None else prepared.score.value
                forecast = self._foreseer.answered(prefix.key, turn_of(settlement, score), coming.before)
            self._note_private(prefix, prepared.request, coming, now_s, recipe, forecast)
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

    def closed(self, whose: tuple[str, str]) -> None:
        """A session was closed: nobody comes back to what it left, and what its users said is not kept for it."""
        key = self._last.pop(whose, None)
        if key is not None:
            self._schedule.forget(key)
            self._recipes.forget(key)
            self._causes.pop(key, None)

    def _before(self, prepared: Prepared) -> bytes | None:
        """What the last request of this one's conversation left, by its session's name or by what it reaches."""
        identity, view = prepared.request.call.identity, prepared.views[Route.OPUS]
        named = self._last.get((identity.tenant, identity.session)) if identity.session else None
        if named is not None:
            return named
        for position, _ in view.plan.believed:
            # Shared layers are reached by everybody's first request: they are no conversation that went on.
            key = view.digests[position]
            if view.prompt.blocks[position].layer > Layer.SYSTEM and self._recipes.find(key):
                return key
        return None

    def _note_shared(
        self, shared: Sequence[tuple[Breakpoint, Belief]], request: Request, now_s: float, content_bytes: int
    ) -> None:
        point, belief = shared[-1]
        prefix = Prefix(point.digest, belief.tokens, belief.tokens, belief.ttl_s, True)
        if self._recipes.find(point.digest) is None:
            kept = tuple([each for each, _ in shared])
            self._recipes.keep(shared_recipe_of(request, kept, content_bytes, self._worths.output_tokens))
        self._caused(prefix.key)
        owner = ("", request.call.identity.application)
        self._schedule.used(prefix, owner, (), now_s, self._decisions.jitter_s(belief.ttl_s))

    def _recipe(
        self,
        key: bytes,
        tokens: int,
        prepared: Prepared,
        usage: Usage,
        content_bytes: int,
        reply: Reply | None,
    ) -> Recipe:
        """How to warm a conversation's prefix of so many tokens again."""
        kept = self._recipes.find(key)
        if kept is not None:
            return kept  # an earlier turn's, with less behind the prefix that would be sent as ordinary input
        breakpoints = prepared.views[Route.OPUS].plan.breakpoints
        points = tuple([point for point in breakpoints if point.prefix_tokens <= tokens])
        if not points or points[-1].digest != key:
            points = breakpoints
        answer = answer_of(reply) if reply is not None and self.upgrades else ()
        return recipe_of(
            prepared.request,
            points,
            content_bytes,
            self._worths.output_tokens,
            tail_tokens=max(0, usage.input_tokens - tokens),
            answer=answer,
            answer_tokens=usage.output_tokens if answer else 0,
        )

    def _note_private(
        self,
        prefix: Prefix,
        request: Request,
        coming: _Coming,
        now_s: float,
        recipe: Recipe,
        forecast: Forecast | None,
    ) -> None:
        identity = request.call.identity
        if coming.before is not None and coming.before != prefix.key:
            self._recipes.forget(coming.before)
        if identity.session:
            whose = (identity.tenant, identity.session)
            self._last.pop(whose, None)
            self.recalled(whose, prefix.key)
        foreseen = () if forecast is None else forecast.keep_alive_hazards()
        self.returns.quiet(prefix.key, coming.path, now_s, foreseen, run=coming.run)
        self._recipes.keep(recipe)
        self._caused(prefix.key)
        owner = (identity.tenant, identity.application)
        watch = self._schedule.used(prefix, owner, coming.path, now_s, self._decisions.jitter_s(prefix.ttl_s))
        if watch is not None:
            self._plan(watch, now_s)

    def _plan(self, watch: Watch, now_s: float) -> None:
        """Plan the keep-alives that a conversation's prefix gets from now on unless somebody comes."""
        key, first = watch.prefix.key, round((watch.touched_s - watch.used_s) / WINDOW_S)
        answer_tokens = self._answer_tokens(watch)
        planned = idle_plan(
            self._policy,
            watch.prefix,
            self._worths.at(now_s),
            self.returns.hazards(watch.path, first, self.returns.foreseen(key)),
            answer_tokens=answer_tokens,
            hour_hazards=() if answer_tokens is None else self.returns.hour_hazards(watch.path)[first:],
        )
        watch.planned, watch.upgrades = watch.pings + planned.pings, planned.upgrades

    def _answer_tokens(self, watch: Watch) -> int | None:
        """Tokens of the answer that the upgrade ping would write; None where it must not be sent."""
        if not self.upgrades or not self._given_back.unchanged(watch.owner):
            return None
        recipe = self._recipes.find(watch.prefix.key)
        return recipe.answer_tokens if recipe is not None and recipe.answer else None

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
        recipe = self._recipes.find(watch.prefix.key)
        trigger = Trigger.SHARED if watch.prefix.shared else Trigger.IDLE
        if recipe is None or not allowed(self._policy, trigger):
            return False
        objected = objection(recipe.request.call)
        if objected is not None:
            return self._unwarmable(watch, trigger, objected)
        if watch.prefix.shared:
            verdict = self._shared_upkeep(watch, now_s)
        elif watch.pings < watch.planned:
            verdict = self._keep_alive(watch, now_s)
        elif watch.upgrades:
            return self._upgrade(watch, recipe, now_s)
        else:
            return False
        return verdict.fires and self._queued(
            watch, trigger, verdict, recipe.request, recipe.points, now_s, watch.prefix.ttl_s
        )

    def _queued(
        self,
        watch: Watch,
        trigger: Trigger,
        verdict: Verdict,
        request: Request,
        points: tuple[Breakpoint, ...],
        now_s: float,
        ttl_s: int,
    ) -> bool:
        """Draw whether it is sent, and queue it; whether it is on its way.

        Args:
            ttl_s: For which it is kept.
        """
        found = order(watch.prefix, trigger, verdict, watch.due_s, self._worths.at(now_s))
        name, kept_back = self._decisions.drawn(
            found,
            watch.owner,
            # What an earlier keep-alive bought ends a little later than this one is sent: a use in between is its.
            now_s if watch.pings else watch.lapses_s,
            now_s + ttl_s,
            watch.prefix.private_tokens,
            foreseen=bool(self.returns.foreseen(watch.prefix.key)),
        )
        if kept_back:
            return False
        queued = self._warmer.put(
            Job(
                order=found,
                owner=watch.owner,
                name=name,
                request=request,
                points=points,
                key=points[-1].digest,
                latest_s=watch.lapses_s,
                cause=self._causes.get(watch.prefix.key),
                # It may wait behind others: once its prefix is used, it has nothing to keep alive.
                wanted=lambda: self._schedule.find(watch.prefix.key) is watch,
                sent=lambda sent: self._pinged(watch, points, sent),
            )
        )
        if not queued:
            self._decisions.regret.forget(watch.prefix.key)  # nothing is on its way
        return queued

    def _keep_alive(self, watch: Watch, now_s: float) -> Verdict:
        hazards = self.returns.hazards(
            watch.path, watch.idle_windows, self.returns.foreseen(watch.prefix.key)
        )
        verdict = keep_alive(self._policy, watch.prefix, self._worths.at(now_s), hazards, watch.pings)
        return verdict._replace(fires=True)  # it was planned; what is said is what it is worth by now

    def _shared_upkeep(self, watch: Watch, now_s: float) -> Verdict:
        beliefs = self._parts.settler.beliefs
        scope = beliefs.opus_scope(self._parts.settler.upstreams[Route.OPUS].model)
        chance, uses = beliefs.demand.use_within(
            scope, watch.prefix.key, now_s, watch.lapses_s - now_s, float(watch.prefix.ttl_s)
        )
        return shared_upkeep(self._policy, watch.prefix, self._worths.at(now_s), chance, uses)

    def _upgrade(self, watch: Watch, recipe: Recipe, now_s: float) -> bool:
        """Queue the upgrade ping, if the fact it rests on still holds and it would read what it is to keep."""
        if not self.upgrades or not recipe.answer:
            return False
        preparation, request = self._parts.preparation, upgrade_request(recipe)
        try:
            prepared = preparation.prepare(request, now_s)
        except errors.RouterError as error:
            return self._unwarmable(watch, Trigger.UPGRADE, Unwarmable(Reason.REFUSED, str(error)))
        points = upgrade_points(preparation, prepared, recipe, now_s)
        if isinstance(points, Unwarmable):
            return self._unwarmable(watch, Trigger.UPGRADE, points)
        worth = self._worths.at(now_s)
        plan = preparation.replanned(prepared, now_s, points=points).views[Route.OPUS].plan
        watch.upgrades = False  # one, whatever becomes of it
        hazards = self.returns.hour_hazards(watch.path)[watch.idle_windows :]
        verdict = upgrade(watch.prefix, worth, hazards, recipe.answer_tokens, planned=True)
        verdict = verdict._replace(cost_units=cost_units(plan.expected, worth.rates) + worth.call_units)
        return self._queued(watch, Trigger.UPGRADE, verdict, request, points, now_s, TTL_1H_S)

    def _unwarmable(self, watch: Watch, trigger: Trigger, found: Unwarmable) -> bool:
        self._warmer.note_unwarmable(watch.owner[1], trigger.value, found)
        return False

    def _pinged(self, watch: Watch, points: Sequence[Breakpoint], sent: Sent) -> None:
        """A keep-alive came back: the next is due a TTL later, unless it was the last or found nothing to keep."""
        self._decisions.book(watch.prefix.key, sent)
        if sent.settlement is None or sent.result not in ("read", "upgraded"):
            self._schedule.lapsed(watch)
            return
        started_s = sent.settlement.intent.started_time_s
        for point in points:
            if not watch.prefix.shared and point.layer <= Layer.SYSTEM:
                self._schedule.touched(point.digest, started_s)
        if sent.result == "upgraded":
            self._schedule.lapsed(watch)
        else:
            self._schedule.pinged(watch, started_s, self._decisions.jitter_s(watch.prefix.ttl_s))


def _outliving(warm: Sequence[tuple[Breakpoint, Belief]]) -> int:
    """Tokens at the beginning of a prefix that are not lost with it: other traffic's, or of an hour's entry."""
    deepest = warm[-1][1]
    lasting = [
        belief.tokens
        for point, belief in warm[:-1]
        if point.layer <= Layer.SYSTEM
        or (deepest.ttl_s < TTL_1H_S <= belief.ttl_s and belief.expires > deepest.expires)
    ]
    return max(lasting, default=0)


def _goes_on(recipe: Recipe, view: CacheView) -> bool:
    """Whether a request goes on from what a recipe's request left, or from just before its last block."""
    private = [point for point in recipe.points[-2:] if point.layer > Layer.CONTEXT]
    return any(
        point.position < len(view.digests) and view.digests[point.position] == point.digest
        for point in private or recipe.points[-1:]
    )
