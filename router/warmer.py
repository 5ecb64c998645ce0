"""The one task that warms prefixes on Opus: what is due is decided, paced and sent, one call at a time.

The rule: a warm is a request without output on the same path as any other (prepared, spelled, journalled, sent,
settled), booked as `Purpose.WARM`, so its cost is on the bill apart from the users'. It never counts towards a circuit
and is not sent while one is open. What cannot be warmed says why: forced tool calls and output schemas cannot be asked
for 0 tokens, and bytes or parameters that differ from the traffic's would write an entry nobody reads, which is found
out by the digest before anything is sent. A keep-alive that finds its prefix gone has written it: it is settled as the
miss it is, and the prefix is not pinged again.

Single flight holds for warms, too (`router.flights`): a request that comes while a warm writes its prefix waits for
that instead of writing it again, and a warm whose prefix a request is writing waits for that, or is not sent. Otherwise
nothing is awaited by a request: what comes of users' calls is noted as they settle, and what is to be done is put in a
queue. A provider that refuses for load is left alone for a while. `regret` judges what came of it all.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import msgspec.structs

from cache.pace import Pace
from cache.plan import Breakpoint, Plan
from cache.schedule import ALMOST_ALL, Trigger, WarmOrder
from classifier.route import Route
from router import errors
from router.flights import Flight, Flights, Timer
from router.interceptors import new_request_id
from router.preparation import Preparation, Prepared
from router.request import Request
from router.settlement import Purpose, Settlement
from router.settler import Settler
from router.stack import stack_of
from router.telemetry import SpanContext, Telemetry
from router.unwarmable import Notices, Reason, Unwarmable, objection

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Longest that a warm may take: a million tokens read anew take less."""
REST_S = 60.0
"""How long the provider is left alone after it refused a warm for load, unless it asks for longer."""
QUEUE_LIMIT = 1_000
"""Orders waiting to be sent; more are refused."""
AHEAD = frozenset({Trigger.SESSION_START, Trigger.PREDICTION, Trigger.SCORE})
"""Triggers of warms that are for what is cold: a request that writes it first leaves nothing to do."""


class Job(msgspec.Struct, kw_only=True):
    """An order on its way.

    Attributes:
        name: Request id of its call; "" for one made when it is sent.
        request: What to send; asks for no output, or for the one token that cannot be avoided.
        points: Breakpoints to carry, None for those of the request's strategy.
        key: Digest that the last breakpoint must have; None where there is no traffic to compare with.
        latest_s: Instant from which it is not worth sending any more: what is to be kept has lapsed.
        cause: Span that caused it.
        wanted: Asked just before it is sent: whether anybody could still gain by it. None for always.
        sent: Told when it has been sent, or not: the settlement and what was done.
    """

    order: WarmOrder
    owner: tuple[str, str]
    name: str = ""
    request: Request
    points: tuple[Breakpoint, ...] | None = None
    key: bytes | None = None
    latest_s: float
    cause: SpanContext | None = None
    wanted: Callable[[], bool] | None = None
    sent: Callable[["Sent"], None] | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order.

    Attributes:
        result: "read" (it was warm), "written", "upgraded" (it was warm, and with its answer it lives for an hour),
            "failed", "unwarmable", "late", "paced", "overtaken" (a request wrote it or is writing it, or nobody is left
            to gain by it).
        why: The same for people.
        settlement: None when nothing was sent.
        plan: What was asked to be cached; None when nothing was sent.
    """

    result: str
    why: str
    settlement: Settlement | None = None
    plan: Plan | None = None
    unwarmable: Unwarmable | None = None


def unwarmable(reason: Reason, why: str) -> Sent:
    """What became of an order that cannot be carried out."""
    found = Unwarmable(reason, why)
    return Sent(result="unwarmable", why=found.sentence, unwarmable=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmerParts:
    """What a warmer works with; all are owned by the app.

    Attributes:
        rate_room: Gives the share of the provider's rate limit that is left, None when it is not known.
        rate_reserve: Share of it, in [0, 1], that is left to users.
    """

    preparation: Preparation
    settler: Settler
    telemetry: Telemetry
    timer: Timer
    pace: Pace
    flights: Flights | None = None
    rate_room: Callable[[], float | None] = lambda: None
    rate_reserve: float = 0.0


class Warmer:
    """Carries orders out. `run` is its task; everything else is called on the loop and does not wait."""

    def __init__(
        self, parts: WarmerParts, due: Callable[[float], None], next_due_s: Callable[[], float | None]
    ) -> None:
        """Keep references.

        Args:
            due: Called with the time when something may be due; puts what is in the queue.
            next_due_s: Gives the instant at which something may be due next; None for never.
        """
        self._parts = parts
        self._due = due
        self._next_due_s = next_due_s
        self._queue: deque[Job] = deque()
        self._wake: asyncio.Event | None = None
        self._rest_until_s = 0.0
        self._notices = Notices()
        self.closed = False

    def put(self, job: Job) -> bool:
        """Queue an order; False when there is no room, or no task to carry it out."""
        if self.closed or len(self._queue) >= QUEUE_LIMIT:
            return False
        self._queue.append(job)
        self.wake()
        return True

    def withdraw(self, tenant: str, session: str) -> None:
        """Take back what waits to be sent for a session: nobody comes back to it."""
        for job in tuple(self._queue):
            named = job.request.call.identity
            if session and (named.tenant, named.session) == (tenant, session):
                self._queue.remove(job)
                _tell(job, Sent(result="overtaken", why="its session was closed"))

    def wake(self) -> None:
        """Let the task look at once: something may be due earlier than it thinks."""
        if self._wake is not None:
            self._wake.set()

    async def run(self) -> None:
        """Send what is due until cancelled; what is in the queue then is not sent."""
        self._wake = asyncio.Event()
        clock = self._parts.settler.clock
        try:
            while True:
                self._wake.clear()
                self._look(clock.now())
                while self._queue:
                    await self._carry_out(self._queue.popleft())
                await self._sleep()
        finally:
            self.closed = True
            while self._queue:
                _tell(self._queue.popleft(), Sent(result="late", why="the service is ending"))

    def _look(self, now_s: float) -> None:
        """Queue what is due; a fault there costs this round's keep-alives, not the task."""
        try:
            self._due(now_s)
        except Exception as error:
            logger.error("what is due was not found out\n%s", stack_of(error))

    async def _sleep(self) -> None:
        """Until something may be due, or somebody wakes it."""
        assert self._wake is not None
        due_s = self._next_due_s()
        handle = None
        if due_s is not None:
            delay_s = max(0.0, due_s - self._parts.settler.clock.now())
            handle = self._parts.timer.later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if handle is not None:
                handle.cancel()

    async def _carry_out(self, job: Job) -> None:
        parts, trigger = self._parts, job.order.trigger.value
        with parts.telemetry.warm(trigger, job.cause) as span:
            try:
                sent = await self._sent(job)
            except Exception as error:
                # The outermost edge of one order: the next one is none the worse.
                logger.error("a warm failed\n%s", stack_of(error))
                sent = Sent(result="failed", why=type(error).__name__)
            except BaseException:
                _tell(job, Sent(result="failed", why="the service is ending"))
                raise
            parts.telemetry.annotate_warm(span, sent.result, sent.settlement, job.owner)
        spent = None if sent.settlement is None or sent.settlement.cost is None else sent.settlement.cost
        parts.telemetry.record_warm(trigger, sent.result)
        if sent.unwarmable is not None:
            self.note_unwarmable(job.owner[1], trigger, sent.unwarmable)
        if spent is not None:
            off_usd = spent.total_nano_usd / 1e9 - job.order.cost_usd
            parts.pace.correct(off_usd, parts.settler.clock.now())
        _tell(job, sent)

    async def _sent(self, job: Job) -> Sent:
        parts, now_s = self._parts, self._parts.settler.clock.now()
        pointless = _pointless(job, now_s)
        if pointless is not None:
            return pointless
        if now_s < self._rest_until_s:
            return Sent(result="paced", why="the provider refused a warm for load and is left alone")
        refusal = parts.pace.refusal(job.order.cost_usd, now_s) or self._crowded()
        if refusal:
            return Sent(result="paced", why=refusal)
        objected = objection(job.request.call)
        if objected is not None:
            return unwarmable(*objected)
        try:
            prepared = self._prepared(job, now_s)
        except errors.RouterError as error:
            return unwarmable(Reason.REFUSED, str(error))
        flights = self._parts.flights
        flight = (
            None
            if flights is None
            else flights.board(prepared, Route.OPUS, stream=False, purpose=Purpose.WARM)
        )
        try:
            return await self._sent_in(flight, job, prepared)
        finally:
            # However it ends: who waits for it takes over what it did not write.
            if flight is not None:
                flight.close()

    def _crowded(self) -> str:
        """Why users need what is left of the provider's rate limit, "" when they do not."""
        left, reserve = self._parts.rate_room(), self._parts.rate_reserve
        if left is None or left >= reserve:
            return ""
        return f"{left:.0%} of the provider's rate limit is left, and {reserve:.0%} is kept for users"

    async def _sent_in(self, flight: Flight | None, job: Job, prepared: Prepared) -> Sent:
        """Send it once nobody else is writing the same, unless there is nothing left to do then."""
        parts = self._parts
        if flight is not None:
            await flight.hold(TIMEOUT_S)
            if flight.outcome == "gave_up":
                return Sent(result="overtaken", why="a request is writing it already")
            pointless = _pointless(job, parts.settler.clock.now())
            if pointless is not None:
                return pointless
            if flight.met:
                prepared = self._replanned(job, prepared, parts.settler.clock.now())
        plan = prepared.plan_for(Route.OPUS)
        if plan is None or not plan.breakpoints:
            why = plan.skipped[0].reason if plan is not None and plan.skipped else "nothing to cache"
            return unwarmable(Reason.NOTHING_CACHED, why)
        last = plan.breakpoints[-1]
        if job.key is not None and last.digest != job.key:
            return unwarmable(
                Reason.OTHER_BYTES,
                "what would be sent is not what its traffic sends, so nobody would read it",
            )
        if job.order.trigger in AHEAD and plan.p_hit > 0.5 and plan.full_read_tokens >= last.prefix_tokens:
            return Sent(result="overtaken", why="a request has written it meanwhile")
        now_s = parts.settler.clock.now()
        parts.pace.charge(job.order.cost_usd, now_s)
        try:
            return await self._ask(job.order, prepared, plan, flight)
        except (errors.CircuitOpen, errors.LedgerUnavailable) as error:
            parts.pace.correct(-job.order.cost_usd, now_s)
            return Sent(result="failed", why=str(error))

    def note_unwarmable(self, application: str, trigger: str, found: Unwarmable) -> None:
        """Count what cannot be warmed, and say it in the log, once per application and reason."""
        self._parts.telemetry.record_unwarmable(trigger, found.reason.value)
        self._notices.note(application, trigger, found)

    def _prepared(self, job: Job, now_s: float) -> Prepared:
        """The warm as a request of its own: decided, spelled and planned like any other."""
        call = job.request.call
        named = msgspec.structs.replace(call.identity, request_id=job.name or new_name())
        request = msgspec.structs.replace(job.request, call=msgspec.structs.replace(call, identity=named))
        preparation = self._parts.preparation
        prepared = preparation.prepare(request, now_s)
        return prepared if job.points is None else self._replanned(job, prepared, now_s)

    def _replanned(self, job: Job, prepared: Prepared, now_s: float) -> Prepared:
        """The same by what is warm now, with the order's own breakpoints."""
        return self._parts.preparation.replanned(prepared, now_s, points=job.points)

    async def _ask(self, found: WarmOrder, prepared: Prepared, plan: Plan, flight: Flight | None) -> Sent:
        parts, trigger, prefix = self._parts, found.trigger, found.prefix
        rendered = parts.preparation.rendered_for(prepared, Route.OPUS)
        attempt = parts.settler.open(
            prepared,
            Route.OPUS,
            number=1,
            stream=False,
            trace_id=parts.telemetry.current_trace_id(),
            fell_back=False,
            purpose=Purpose.WARM,
        )
        if flight is not None:
            attempt.on_first_byte = flight.landed
        try:
            reply = await parts.settler.upstreams[Route.OPUS].generate(rendered, plan, TIMEOUT_S)
        except errors.UpstreamError as error:
            if isinstance(error, errors.UpstreamOverloaded | errors.UpstreamRateLimited):
                now_s = parts.settler.clock.now()
                self._rest_until_s = now_s + max(REST_S, error.retry_after_s or 0.0)
            settlement = attempt.failed(error)
            return Sent(result="failed", why=str(error), settlement=settlement, plan=plan)
        except BaseException as error:
            attempt.left(error)
            raise
        settlement = attempt.answered(reply)
        wrote = 0 if reply.usage is None else reply.usage.cache_write_tokens
        if trigger is Trigger.UPGRADE and reply.usage is not None:
            kept = ALMOST_ALL * prefix.tokens
            if reply.usage.cache_read_tokens >= kept:
                why = f"{wrote:,} tokens were written on top of what was read, for an hour"
                return Sent(result="upgraded", why=why, settlement=settlement, plan=plan)
        return Sent(
            result="written" if wrote else "read",
            why=f"{wrote:,} tokens were written" if wrote else "all of it was warm and lives on",
            settlement=settlement,
            plan=plan,
        )


def new_name() -> str:
    """Name a warm, as request id of its call and in its verdict."""
    return f"warm-{new_request_id()}"


def _pointless(job: Job, now_s: float) -> Sent | None:
    """Why an order came to nothing while it waited; None when it did not."""
    if now_s >= job.latest_s:
        return Sent(result="late", why="what was to be kept has lapsed")
    if job.wanted is not None and not job.wanted():
        return Sent(result="overtaken", why="who it was for has come, or does not any more")
    return None


def _tell(job: Job, sent: Sent) -> None:
    """Say what became of an order; a fault in who is told costs that, not the task nor the orders behind it."""
    if job.sent is None:
        return
    try:
        job.sent(sent)
    except Exception as error:
        logger.error("what became of a warm was not noted\n%s", stack_of(error))
