"""What is to be warmed on Opus and what each order is about: the policy around `cache.schedule`, put together.

The rule: decisions are `cache.schedule`'s, sending is the warmer's. Between them stand what users' requests left
(`router.keep_alives`), what is warmed ahead of one (`router.warm_ahead`), and what each decision came to
(`router.warm_decisions`). This module hears of requests and sessions and hands on what each part needs of them; what
goes wrong in here is logged and fails no request.
"""

import logging
from collections.abc import Callable

from cache.chances import Chances
from cache.first_byte import FirstByte
from cache.hazard import Path
from cache.pace import Pace
from cache.plan import Strategy
from cache.regret import Regret
from cache.returns import Returns
from cache.rules import TTL_5M_S
from cache.schedule import Policy, Schedule
from classifier.foresight.model import Forecast
from classifier.route import Route
from router.applications import Applications
from router.foresight import Foreseer, turn_of
from router.held_session import Held
from router.keep_alives import KeepAlives
from router.next_request import NextRequests
from router.preparation import Prepared
from router.pricing import PriceTable
from router.reply import Reply
from router.settlement import Settlement
from router.stack import stack_of
from router.warm_ahead import Answer, WarmsAhead
from router.warm_decisions import Decisions
from router.warm_score import ScoreHints
from router.warm_settings import WarmingSettings
from router.warm_worth import Worths
from router.warmer import Sent, Warmer, WarmerParts

logger = logging.getLogger(__name__)


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
        self._foreseer = foreseer = Foreseer(None) if foreseer is None else foreseer
        settler = parts.settler
        self._worths = worths = Worths(
            settler.upstreams[Route.OPUS].model,
            settler.beliefs.facts,
            prices,
            first_byte,
            second_usd=settings.second_usd,
        )
        schedule = Schedule()
        self.warmer = Warmer(parts, self._due, schedule.next_due_s)
        self._decisions = decisions = Decisions(parts, settings, worths, draw, foreseer)
        self._next_requests = NextRequests(applications, worths)
        self._hints = ScoreHints(settings.policy, settings.score)
        self._keep_alives = KeepAlives(
            parts,
            settings,
            worths=worths,
            decisions=decisions,
            foreseer=foreseer,
            schedule=schedule,
            warmer=self.warmer,
        )
        if settings.policy is Policy.AUTO:
            # The choice of a TTL weighs what keep-alives will do: by the same hazards that plan them.
            settler.beliefs.demand.keep_by(self._keep_alives.kept_by_kind())
        if settings.policy is not Policy.OFF:
            settler.arrived = self.arrived
        self._ahead = WarmsAhead(
            parts,
            settings,
            worths=worths,
            decisions=decisions,
            next_requests=self._next_requests,
            foreseer=foreseer,
            left_by=self._keep_alives.left_by,
            warmer=self.warmer,
        )

    # --- what users' requests leave

    def arrived(self, prepared: Prepared, path: Path, now_s: float) -> None:
        """Note a user's request that goes out to Opus, and the kind of its turn. Never fails it."""
        try:
            self._keep_alives.arrived(prepared, path, now_s)
        except Exception as error:
            request_id = prepared.request.call.identity.request_id
            logger.error("who came back with request %s was not noted\n%s", request_id, stack_of(error))

    def answered(self, prepared: Prepared, settlement: Settlement, reply: Reply | None = None) -> None:
        """Note a user's request that was answered: what it left warm. Never fails it.

        Args:
            reply: The answer; None where it is not known.
        """
        intent, usage = settlement.intent, settlement.usage
        opus = intent.route == Route.OPUS.value
        try:
            if opus and usage is not None:
                digests = prepared.views[Route.OPUS].digests
                self._decisions.used(digests, usage.cache_read_tokens, intent.started_time_s)
            if self._settings.policy is Policy.OFF or settlement.discarded:
                return  # Opus is asked in its place, and that is the turn
            forecast = self._foreseen(prepared, settlement)
            if opus and usage is not None:
                call, now_s = prepared.request.call, intent.started_time_s
                whose = (call.identity.tenant, call.identity.session)
                self._next_requests.note(prepared.request)
                self._ahead.chances.followed(whose, now_s)
                self._hints.followed(whose, now_s)
                self._keep_alives.note(prepared, settlement, usage, forecast, reply)
            elif not opus and self._hints.on:
                self._hint(prepared, settlement, forecast)
        except Exception as error:
            logger.error("what request %s left was not noted\n%s", intent.request_id, stack_of(error))

    def _foreseen(self, prepared: Prepared, settlement: Settlement) -> Forecast | None:
        """Extend the session's history; None where nothing is foreseen or no session was named."""
        identity = prepared.request.call.identity
        if not identity.session:
            return None
        whose = (identity.tenant, identity.session)
        score = None if prepared.score is None else prepared.score.value
        forecast = self._foreseer.answered(whose, turn_of(settlement, score))
        if forecast is not None and settlement.intent.route != Route.OPUS.value:
            self._keep_alives.foreseen(whose, forecast, settlement.intent.started_time_s)
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
            worth=self._worths.at(now_s),
            cause=self._parts.telemetry.current_span(),
        )
        if wake:
            self.warmer.wake()

    # --- what is due, and what is warmed ahead

    def _due(self, now_s: float) -> None:
        """Queue what is due and pays."""
        self._ahead.chances.close(now_s)
        self._decisions.close(now_s)
        self._keep_alives.due(now_s)
        for hint in self._hints.taken(now_s):
            self._ahead.hinted(hint)

    def opened(self, held: Held) -> Answer:
        """A session was opened: warm what its first request will begin with, if that is worth it."""
        return self._ahead.opened(held)

    def closed(self, tenant: str, session: str) -> None:
        """A session was closed: nothing is kept warm, or for it, any longer."""
        self._keep_alives.closed((tenant, session))
        self._hints.closed((tenant, session))
        self.warmer.withdraw(tenant, session)

    def acted(self, tenant: str, session: str, action: str, held: Held | None) -> Answer:
        """A user did something: warm the session's prefix, if a request on Opus is likely enough."""
        return self._ahead.acted(tenant, session, action, held)

    async def warm_application(self, name: str) -> Sent:
        """Warm an application's tools and system prompt now, by an operator's order; give what came of it.

        Raises:
            NotFound: No such application.
        """
        return await self._ahead.warm_application(name)

    # --- what was learnt

    def standing(self) -> tuple[int, int]:
        """Settle what has ended; (decisions still open, tenants and applications switched off)."""
        return self._decisions.standing()

    @property
    def regret(self) -> Regret:
        """What came of warms."""
        return self._decisions.regret

    @property
    def returns(self) -> Returns:
        """Who comes back when; for what tells it of an earlier process."""
        return self._keep_alives.returns

    @property
    def foreseer(self) -> Foreseer:
        """What is remembered of sessions; likewise."""
        return self._foreseer

    @property
    def chances(self) -> Chances:
        """What is followed by a request; likewise."""
        return self._ahead.chances

    @property
    def hints(self) -> ScoreHints:
        """How often what Flash answered was followed by a request on Opus; likewise."""
        return self._hints

    @property
    def pace(self) -> Pace:
        """What may be spent; likewise."""
        return self._parts.pace

    def left_by(self, tenant: str, session: str, key: bytes) -> None:
        """A session's last turn in an earlier process is waited for as `key`."""
        self._keep_alives.recalled((tenant, session), key)
