"""From an attempt's end to its settlement, exactly once: price it, learn from it, book it, show it.

The rule: an attempt is opened before money is spent (its intent is journalled, or nothing is sent) and closed once,
whatever happened: answered, refused, broken off, or left by the caller. Closing is synchronous and does not wait, so
a cancelled task can do it in its `finally`; only counting the tokens of a broken-off answer takes a call of its own
and is left to the service's task owner.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from time import perf_counter

import msgspec
import msgspec.structs
from opentelemetry.trace import Span

from cache.hazard import Path
from cache.index import Learned
from classifier.route import Route
from router import cost
from router.beliefs import Beliefs, CacheView
from router.circuit import Circuits, Signal
from router.clock import Clock
from router.cost import Cost, Counterfactuals
from router.errors import RouterError, UpstreamError
from router.escalation import Failure
from router.estimate import OutputForecast
from router.ledger import Ledger
from router.misses import MissMemory, records_of
from router.otherwise import Billed, Otherwise
from router.outcome import CacheMiss
from router.padding import Paddings
from router.padding_bill import NO_PADDING, PaddingCost, padding_cost
from router.prefix_notes import PrefixNotes
from router.preparation import Prepared
from router.pricing import Price, PriceTable, UnknownPrice
from router.reply import Chunk, Finished, Reply, Started, TextDelta, ThinkingDelta, ToolCallDelta, UsageSeen
from router.returns import Returns
from router.session_book import SessionBook
from router.settlement import CacheRecord, DecisionRecord, Intent, Outcome, Purpose, Settlement
from router.spending import Spending
from router.stack import stack_of
from router.tasks import Tasks
from router.telemetry import ChunkTimer, Telemetry
from router.upstreams.base import Upstream
from router.usage import Usage

logger = logging.getLogger(__name__)

COUNT_TIMEOUT_S = 5.0
"""Bound of the free call that counts a broken-off answer; without it only what the provider
counted itself is booked: a floor, as every broken-off answer is."""
UNPRICED_LIMIT = 100
"""Models named in the log for want of a price; ids come from providers, so there is no end to them."""


class Settler:
    """Opens and closes attempts."""

    def __init__(
        self,
        *,
        upstreams: Mapping[Route, Upstream],
        beliefs: Beliefs,
        prices: PriceTable,
        ledger: Ledger,
        telemetry: Telemetry,
        tasks: Tasks,
        forecast: OutputForecast,
        misses: MissMemory,
        book: SessionBook,
        clock: Clock,
        circuits: Circuits | None = None,
        paddings: Paddings | None = None,
        learn: Callable[[Prepared, Settlement], None] | None = None,
        keep_features: bool = True,
        prefixes: PrefixNotes | None = None,
        spending: Spending | None = None,
        returns: Returns | None = None,
    ) -> None:
        """Keep references; all are owned by the service. Without `circuits` none ever opens, without `paddings` nothing
        is ever padded, without `spending` nothing is held over many requests. `learn` hears of every request when its
        first attempt ends; `keep_features` says whether the ledger keeps what its score was computed from, hashed, and
        `prefixes` notes what prompts consist of, None for nothing.
        """
        self.upstreams = upstreams
        self.beliefs = beliefs
        self.prices = prices
        self.ledger = ledger
        self.telemetry = telemetry
        self.tasks = tasks
        self.forecast = forecast
        self.misses = misses
        self.book = book
        self.clock = clock
        self.circuits = Circuits.off() if circuits is None else circuits
        self.paddings = paddings
        self.learn = learn
        self.keep_features = keep_features
        self.prefixes = prefixes
        self.spending = spending
        self.returns = returns
        self.arrived: Callable[[Prepared, Path, float], None] | None = None
        """Told of every user's request that goes out to Opus, with the kind of its turn and the time."""
        self.otherwise = Otherwise(prices=prices, upstreams=upstreams, book=book)
        self._unpriced: set[str] = set()

    def note_unpriced(self, model: str, error: UnknownPrice) -> None:
        """Say once per model that its calls have no price; their cost is booked as unknown."""
        if model not in self._unpriced and len(self._unpriced) < UNPRICED_LIMIT:
            self._unpriced.add(model)
            logger.warning("calls answered by %s are booked at unknown cost: %s", model, error)

    def open(
        self,
        prepared: Prepared,
        route: Route,
        *,
        number: int,
        stream: bool,
        trace_id: str,
        fell_back: bool,
        escalated: bool = False,
        purpose: Purpose = Purpose.USER,
    ) -> "Attempt":
        """Journal the intent and begin an attempt.

        A call of our own teaches what it proves of the cache and nothing of its users: no demand, no session, no length
        of answers, no training data.

        Raises:
            CircuitOpen: The route is held back; nothing is journalled and nothing may be sent.
            LedgerUnavailable: The intent could not be journalled; nothing may be sent.
        """
        now_s = self.clock.now()
        upstream = self.upstreams[route]
        identity = prepared.request.call.identity
        intent = Intent(
            request_id=identity.request_id,
            attempt=number,
            purpose=purpose,
            route=str(route),
            upstream=upstream.name,
            model=upstream.model,
            tenant=identity.tenant,
            application=identity.application,
            user=identity.user,
            session=identity.session,
            labels=identity.labels,
            stream=stream,
            started_time_s=now_s,
            cost_bound_nano_usd=self._bound(prepared, route, now_s),
            trace_id=trace_id,
        )
        permit = self.circuits.admit(route, now_s, intent.purpose)
        try:
            self.ledger.journal_intent(intent)
        except BaseException:
            self.circuits.report(route, permit, Signal.NOTHING, now_s)
            raise
        view = prepared.views.get(route)
        if view is not None:
            if purpose is Purpose.USER and (number == 1 or fell_back or escalated):
                path = self.beliefs.arrive(view, identity.application, now_s)
                if self.arrived is not None and route is Route.OPUS:
                    self.arrived(prepared, path, now_s)
            self.beliefs.begin(view, now_s)
        span = self.telemetry.start_inference(
            upstream,
            prepared.request.call,
            route=str(route),
            purpose=purpose,
            stream=stream,
            attempt=number,
        )
        attempt = Attempt(
            self, prepared, route, intent, span, fell_back=fell_back, escalated=escalated, permit=permit
        )
        if purpose is Purpose.USER:
            if number == 1:
                attempt.reserved_nano_usd = self._first_sent(prepared, route, now_s)
            elif self.spending is not None:
                attempt.reserved_nano_usd = self.spending.sent_again(
                    prepared.estimates[route].expected_nano_usd
                )
        return attempt

    def _first_sent(self, prepared: Prepared, route: Route, now_s: float) -> int:
        """Tell of a request whose first attempt goes out; gives what the day's budget set aside for it."""
        view = prepared.views.get(Route.OPUS)
        if self.returns is not None and view is not None:
            score = None if prepared.score is None else prepared.score.value
            self.returns.arrive(view, prepared.request.application.name, now_s, score)
        if self.spending is None:
            return 0
        # The route it takes: the one decided on may be held back.
        expected, flash = prepared.estimates[route], prepared.estimates[Route.FLASH]
        return self.spending.sent(prepared.decision, expected.expected_nano_usd, flash.expected_nano_usd)

    def _bound(self, prepared: Prepared, route: Route, now_s: float) -> int | None:
        """The most this attempt can cost: twice the estimated prompt at its dearest price, and all the output."""
        view = prepared.views.get(route)
        if view is None:
            return None
        try:
            price = self.prices.price(self.upstreams[route].model, now_s)
        except UnknownPrice:
            return None
        plan = prepared.plan_for(route)
        ttls_s = () if plan is None else [mark.ttl_s for mark in plan.breakpoints]
        return cost.upper_bound(
            price,
            input_tokens=2 * view.plan.total_tokens,
            max_output_tokens=prepared.request.call.max_output_tokens,
            write_5m=300 in ttls_s,
            write_1h=3600 in ttls_s,
        )


class _Seen(msgspec.Struct, gc=False):
    """What a stream has shown so far."""

    usage: Usage | None = None
    counted_output_tokens: int = 0
    counted_deltas_ahead: int = 0
    text_since_count: list[str] | None = None
    text_index: int = -1
    model: str = ""
    response_id: str = ""
    upstream_request_id: str = ""
    first_byte_at_s: float | None = None
    first_byte_s: float | None = None


class Attempt:
    """One attempt in progress; close it with exactly one of `answered`, `failed`, `left`."""

    def __init__(
        self,
        settler: Settler,
        prepared: Prepared,
        route: Route,
        intent: Intent,
        span: Span,
        *,
        fell_back: bool,
        escalated: bool,
        permit: int,
    ) -> None:
        """Opened by `Settler.open` only."""
        self._settler = settler
        self._prepared = prepared
        self._route = route
        self._span = span
        self._fell_back = fell_back
        self._escalated = escalated
        self._permit = permit
        # uvloop's own time has millisecond steps, which is all of what this service adds to a call.
        self._started_s = perf_counter()
        self._seen = _Seen()
        self._timer: ChunkTimer | None = settler.telemetry.chunk_timer() if intent.stream else None
        self.intent = intent
        self.settlement: Settlement | None = None
        self._counting = self._begun = False
        self.answer_begun = False
        """Whether content of this attempt has reached the caller; then no other attempt may follow."""
        self.handing_on = False
        """Whether content is being handed to the caller: what fails then is the caller's side."""
        self.misses: tuple[CacheMiss, ...] = ()
        self.on_first_byte: Callable[[], None] | None = None
        """Told once, after belief: from then on others can read what this attempt writes."""
        self._reply: Reply | None = None
        self._failure: Failure | None = None
        self.reserved_nano_usd = 0
        """What the day's budget set aside for this attempt."""

    def see(self, chunk: Chunk) -> None:
        """Note a chunk of a streamed answer, in order."""
        seen = self._seen
        if self._timer is not None:
            self._timer.tick(perf_counter())
        match chunk:
            case TextDelta(index, text) | ThinkingDelta(index, text):
                self._note_text(index, text)
            case ToolCallDelta(index, _, name, arguments_json):
                self._note_text(index, f"{name}\n{arguments_json}" if name else arguments_json)
            case UsageSeen(usage, included_delta_count):
                seen.usage = usage
                seen.counted_output_tokens = usage.output_tokens
                seen.counted_deltas_ahead = included_delta_count
                seen.text_since_count = None
            case Started(model, response_id, upstream_request_id, usage):
                seen.model, seen.response_id = model, response_id
                seen.upstream_request_id, seen.usage = upstream_request_id, usage
                # What the first count says of the output is a placeholder: the text that follows contains it.
                self._first_byte()
            case Finished():
                pass

    def cost_nano_usd(self, reply: Reply) -> int | None:
        """What closing with this answer will book, None when that is unknown."""
        spent = _cost_of(Outcome.OK, reply.usage, self._price(reply.usage, reply.model or self._seen.model))
        return None if spent is None else spent.total_nano_usd

    def keep(self, now_s: float | None = None) -> None:
        """Note in the session that this attempt's answer was handed on: its route is the session's."""
        call = self._prepared.request.call
        identity = call.identity
        self._settler.book.remember(
            identity.tenant,
            identity.session,
            self._route,
            application=identity.application,
            context=call.context,
            placement=call.context_placement,
            messages=call.messages,
            score=None
            if self._prepared.score is None or self._prepared.session.is_follow_up
            else self._prepared.score.value,
            request_id=self.intent.request_id,
            finish=None if self._reply is None else str(self._reply.finish_reason),
            escalated=self._escalated,
            now_s=self._settler.clock.now() if now_s is None else now_s,
        )

    def answered(self, reply: Reply, failure: Failure | None = None) -> Settlement:
        """Close with a whole answer.

        Args:
            failure: How it failed, None when nothing of it shows a failure; one that is discarded is not noted in the
                session, see `keep`.
        """
        self._reply, self._failure = reply, failure
        settler, identity = self._settler, self._prepared.request.call.identity
        now_s = settler.clock.now()
        self._first_byte(now_s)
        settler.circuits.report(self._route, self._permit, Signal.WELL, now_s)
        users = self.intent.purpose is Purpose.USER
        if users and (failure is None or failure.kept is not None):
            self._begin()
            self.keep(now_s)
        if users and reply.usage is not None and reply.usage.complete:
            settler.forecast.observe(identity.application, self._route, reply.usage.output_tokens)
        return self._close(
            Outcome.OK,
            usage=reply.usage,
            model=reply.model,
            response_id=reply.response_id,
            upstream_request_id=reply.upstream_request_id,
            finish_reason=str(reply.finish_reason),
        )

    def failed(self, error: UpstreamError) -> Settlement | None:
        """Close with a failure; None when the answer had begun and its tokens are still being counted."""
        settler, waited_s = self._settler, perf_counter() - self._started_s
        settler.circuits.failed(self._route, self._permit, error, waited_s, settler.clock.now())
        usage = error.usage or self._seen.usage
        if usage is not None:
            self._close_counted(Outcome.INTERRUPTED, usage, error.reason)
            return self.settlement
        billed = error.may_be_billed
        return self._close(
            Outcome.UNKNOWN if billed else Outcome.REFUSED,
            usage=None,
            upstream_request_id=error.upstream_request_id,
            error=error.reason,
        )

    def left(self, error: BaseException) -> None:
        """Close because of what is no answer and no failure of the provider; no-op when already closed.

        Args:
            error: The cancellation, when the caller left or its deadline passed; an error of ours that says nothing
                was sent; or a fault of this service, after which nobody knows what the provider did.
        """
        if self.settlement is not None or self._counting:
            return
        settler = self._settler
        settler.circuits.report(self._route, self._permit, Signal.NOTHING, settler.clock.now())
        usage = self._seen.usage
        match error:
            case asyncio.CancelledError() | GeneratorExit():
                outcome, reason = Outcome.CANCELLED, "CANCELLED"
            case _ if self.handing_on:
                outcome, reason = Outcome.CANCELLED, "CANCELLED"
            case RouterError():
                outcome, reason = Outcome.REFUSED, error.reason
            case _:
                outcome, reason = Outcome.UNKNOWN, "INTERNAL"
        if usage is None:
            self._close(outcome, usage=None, error=reason)
        else:
            self._close_counted(outcome, usage, reason)

    def _note_text(self, index: int, text: str) -> None:
        """Keep what came since the last count: a part's pieces joined as they are, parts on lines of their own."""
        seen = self._seen
        if seen.counted_deltas_ahead > 0:
            seen.counted_deltas_ahead -= 1
        elif text:
            if seen.text_since_count is None:
                seen.text_since_count = []
            elif index != seen.text_index:
                seen.text_since_count.append("\n")
            seen.text_since_count.append(text)
            seen.text_index = index

    def _first_byte(self, now_s: float | None = None) -> None:
        seen = self._seen
        if seen.first_byte_at_s is not None:
            return
        seen.first_byte_at_s = self._settler.clock.now() if now_s is None else now_s
        seen.first_byte_s = perf_counter() - self._started_s
        view = self._prepared.views.get(self._route)
        if view is not None:
            self._settler.beliefs.first_byte(view, self.intent.started_time_s, seen.first_byte_at_s)
        if self.on_first_byte is not None:
            self.on_first_byte()

    def _close_counted(self, outcome: Outcome, usage: Usage, error: str) -> None:
        """Close a broken-off answer: its output is what was counted plus what was seen since."""
        usage = msgspec.structs.replace(usage, complete=False)
        text = "".join(self._seen.text_since_count or ())
        if not text:
            self._close(outcome, usage=usage, error=error)
            return
        work = self._count_and_close(outcome, usage, text, error)
        self._counting = self._settler.tasks.start(work, "count broken-off answer")
        if (
            not self._counting
        ):  # the service is ending: the provider's own count is booked rather than nothing
            self._close(outcome, usage=self._with_output(usage, None), error=error)

    async def _count_and_close(self, outcome: Outcome, usage: Usage, text: str, error: str) -> None:
        counted: int | None = None
        try:
            counted = await self._settler.upstreams[self._route].count_output(text, COUNT_TIMEOUT_S)
        finally:
            # Also when this task is cancelled at shutdown: the provider's own count is booked rather than nothing.
            self._close(outcome, usage=self._with_output(usage, counted), error=error)

    def _with_output(self, usage: Usage, counted: int | None) -> Usage:
        """The provider's last count and the tokens of the text seen since, as far as somebody counted them.

        An estimate could exceed what was billed, and then the books would hold no floor.
        """
        output_tokens = max(usage.output_tokens, self._seen.counted_output_tokens + (counted or 0))
        return msgspec.structs.replace(usage, output_tokens=output_tokens)

    def _close(
        self,
        outcome: Outcome,
        *,
        usage: Usage | None,
        model: str = "",
        response_id: str = "",
        upstream_request_id: str = "",
        finish_reason: str = "",
        error: str = "",
    ) -> Settlement:
        """Price, learn, book and show; the only place a settlement is made."""
        settler, seen, failure = self._settler, self._seen, self._failure
        with settler.telemetry.settle():
            answered_model = model or seen.model
            price = self._price(usage, answered_model)
            spent = _cost_of(outcome, usage, price)
            filler = self._filler(outcome, usage, price)
            self._begin()
            settlement = Settlement(
                intent=self.intent,
                outcome=outcome,
                settled_time_s=settler.clock.now(),
                duration_s=perf_counter() - self._started_s,
                first_byte_s=seen.first_byte_s,
                usage=usage,
                cost=spent,
                counterfactuals=self._otherwise(usage, price, filler, spent),
                answered_model=answered_model,
                response_id=response_id or seen.response_id,
                upstream_request_id=upstream_request_id or seen.upstream_request_id,
                finish_reason=finish_reason,
                error=error,
                discarded="" if failure is None or failure.kept else failure.signal.value,
                decision=self.decision_record() if self.intent.purpose is Purpose.USER else None,
                cache=self._learned(outcome, usage, price, filler),
                extra={} if failure is None or not failure.kept else _kept_for(failure),
                prefix=self._prefix(outcome),
            )
            self.settlement = settlement
            settler.ledger.settle(settlement)
            settler.book.note(settlement, self._prepared.views.get(self._route))
            self._stay(usage)
            users = self.intent.purpose is Purpose.USER
            if users and self.intent.attempt == 1 and settler.learn is not None:
                settler.learn(self._prepared, settlement)
            if settler.spending is not None:
                settler.spending.settled(settlement, self.reserved_nano_usd)
        settler.telemetry.record_settlement(settlement, self._timer)
        settler.telemetry.end_inference(self._span, settlement)
        return settlement

    def _prefix(self, outcome: Outcome) -> bytes:
        """What the prompt consists of, as the ledger keeps it; a fault in here is logged and leaves that unknown."""
        notes, prepared = self._settler.prefixes, self._prepared
        if notes is None or outcome is Outcome.REFUSED or self.intent.purpose is not Purpose.USER:
            return b""
        view = prepared.views.get(Route.OPUS)
        if view is None or Route.OPUS in prepared.refusals:
            return b""
        try:
            plan = view.plan if self._route is Route.OPUS else None
            return notes.note(view, plan, self.intent.started_time_s, self._settler.ledger.dropped)
        except Exception as error:
            logger.error(
                "noting the prompt of request %s failed\n%s", self.intent.request_id, stack_of(error)
            )
            return b""

    def decision_record(self) -> DecisionRecord:
        """The decision as the ledger keeps it."""
        measures = self._prepared.measures
        # Once per request is enough to train from.
        kept = measures is not None and self.intent.attempt == 1 and self._settler.keep_features
        return decision_record(
            self._prepared,
            self._route,
            fell_back=self._fell_back,
            escalated=self._escalated,
            features=measures.pack() if kept and measures is not None else "",
        )

    def _price(self, usage: Usage | None, answered_model: str) -> Price | None:
        """Price of the model that answered, on the day it was asked; None when the table has none."""
        if usage is None:
            return None
        try:
            return self._settler.prices.price(
                answered_model or self.intent.model,
                self.intent.started_time_s,
                speed=usage.speed,
                service_tier=usage.service_tier,
                inference_geo=usage.inference_geo,
            )
        except UnknownPrice as error:
            self._settler.note_unpriced(answered_model or self.intent.model, error)
            return None

    def _filler(self, outcome: Outcome, usage: Usage | None, price: Price | None) -> PaddingCost:
        """The part of this attempt's bill that is the operator's filler, which only Opus gets."""
        prepared = self._prepared
        if prepared.padding is None or self._route is not Route.OPUS or outcome is Outcome.REFUSED:
            return NO_PADDING
        return padding_cost(prepared.padding, prepared.views.get(self._route), usage, price)

    def _learned(
        self, outcome: Outcome, usage: Usage | None, price: Price | None, filler: PaddingCost
    ) -> CacheRecord | None:
        """Learn from the call. The bill does not hang on it: a fault in here is logged and the call is booked."""
        try:
            return self._learn(outcome, usage, price, filler)
        except Exception as error:
            logger.error("learning from request %s failed\n%s", self.intent.request_id, stack_of(error))
            return None

    def _learn(
        self, outcome: Outcome, usage: Usage | None, price: Price | None, filler: PaddingCost
    ) -> CacheRecord | None:
        view = self._prepared.views.get(self._route)
        if view is None:
            return None
        settler, started_s = self._settler, self.intent.started_time_s
        if usage is None:
            sent = outcome is not Outcome.REFUSED
            settler.beliefs.abandon(view, started_s, settler.clock.now(), sent=sent)
            if sent and self._route is Route.OPUS and self.intent.purpose is Purpose.USER:
                settler.misses.doubt(self._prepared.request.call.identity, view, started_s=started_s)
            held = p_held = None
        else:
            first_byte_at_s = self._seen.first_byte_at_s
            if first_byte_at_s is None:
                first_byte_at_s = settler.clock.now()
            if self._route is Route.OPUS:
                learned = self._explain(view, usage, price, first_byte_at_s)
            else:
                learned = settler.beliefs.learn(
                    view, usage, started_s=started_s, first_byte_at_s=first_byte_at_s
                )
            held, p_held = learned.held, learned.p_held
            padding = self._prepared.padding
            if (
                padding is not None
                and settler.paddings is not None
                and self._route is Route.OPUS
                and self.intent.purpose is Purpose.USER
            ):
                settler.paddings.learn(padding, view, usage, started_s=started_s, readable_s=first_byte_at_s)
        return CacheRecord(
            strategy=str(view.plan.strategy) if self._route is Route.OPUS else "implicit",
            breakpoint_count=len(view.plan.breakpoints),
            expected_read_tokens=view.plan.expected_read_tokens,
            miss_cause=self.misses[0].cause if self.misses else "",
            misses=records_of(self.misses) if self.misses else (),
            p_hit=p_held,
            held=held,
            padding_tokens=filler.tokens,
            padding_nano_usd=filler.nano_usd,
        )

    def _explain(self, view: CacheView, usage: Usage, price: Price | None, first_byte_at_s: float) -> Learned:
        """Learn from a call on Opus, and say what it missed by what was known before it."""
        settler, started_s = self._settler, self.intent.started_time_s
        identity, reply = self._prepared.request.call.identity, self._reply
        suspects = settler.misses.suspects(identity, view, usage, settler.beliefs, started_s=started_s)
        learned = settler.beliefs.learn(view, usage, started_s=started_s, first_byte_at_s=first_byte_at_s)
        if suspects is not None:
            self.misses = settler.misses.explain(
                suspects,
                view,
                usage,
                learned,
                settler.beliefs,
                started_s=started_s,
                price=price,
                provider=("", None)
                if reply is None
                else (reply.cache_diagnostics, reply.cache_diagnostics_missed_tokens),
            )
        if self.intent.purpose is not Purpose.USER:
            return learned
        settler.misses.remember(
            identity,
            view,
            usage,
            learned,
            started_s=started_s,
            first_byte_at_s=first_byte_at_s,
            response_id=self._seen.response_id if reply is None else reply.response_id,
        )
        return learned

    def _otherwise(
        self, usage: Usage | None, price: Price | None, filler: PaddingCost, spent: Cost | None
    ) -> Counterfactuals | None:
        """What the call would have cost otherwise; a fault in here is logged and leaves that unknown."""
        if usage is None or price is None or self.intent.purpose is not Purpose.USER:
            return None
        discarded = self._failure is not None and self._failure.kept is None
        billed = Billed(
            self._prepared,
            self._route,
            self.intent.started_time_s,
            usage,
            price,
            filler,
            spent,
            self._escalated,
            discarded,
        )
        try:
            return self._settler.otherwise.of(billed)
        except Exception as error:
            logger.error("comparing request %s failed\n%s", self.intent.request_id, stack_of(error))
            return None

    def _begin(self) -> None:
        """Note where the session began, if it began with this attempt."""
        if not self._begun and self.intent.attempt == 1 and self.intent.purpose is Purpose.USER:
            self._begun = True
            self._settler.book.begin(self._prepared.request.call, self._route)

    def _stay(self, usage: Usage | None) -> None:
        """Note what a session on Opus alone would have left in its cache, once a request has its answer."""
        discarded = self._failure is not None and self._failure.kept is None
        if usage is None or discarded or self.intent.purpose is not Purpose.USER:
            return
        prepared, intent = self._prepared, self.intent
        opus = prepared.views.get(Route.OPUS)
        self._settler.book.stay(intent.tenant, intent.session, self._route, opus, prepared.now_s)


def _kept_for(failure: Failure) -> dict[str, str]:
    """A failure that was handed on, for the record: how it failed and what forbade asking Opus."""
    return {"failure": failure.signal.value, "kept": "" if failure.kept is None else failure.kept.value}


def decision_record(
    prepared: Prepared, route: Route, *, fell_back: bool, escalated: bool = False, features: str = ""
) -> DecisionRecord:
    """The decision of a request as ledger and telemetry keep it.

    Args:
        features: What the score was computed from, packed; "" where that is not kept.
    """
    decision = prepared.decision
    return DecisionRecord(
        route=str(route),
        reason="escalation" if escalated else "fallback" if fell_back else str(decision.reason),
        score=None if decision.score is None else decision.score.value,
        threshold=decision.threshold if decision.by_score else None,
        propensity=decision.propensity,
        model_digest=decision.model_digest or "",
        expected_flash_nano_usd=prepared.estimates[Route.FLASH].expected_nano_usd,
        expected_opus_nano_usd=prepared.estimates[Route.OPUS].expected_nano_usd,
        shadow_score=None if prepared.shadow is None else prepared.shadow.value,
        shadow_digest="" if prepared.shadow is None else prepared.shadow.model_digest,
        explored=decision.explored,
        answer_value_nano_usd=decision.answer_value_nano_usd,
        opus_leaves_nano_usd=decision.opus_leaves_nano_usd,
        features=features,
    )


def _cost_of(outcome: Outcome, usage: Usage | None, price: Price | None) -> Cost | None:
    """What an attempt cost: nothing when it was refused, unknown when usage or price is."""
    if outcome is Outcome.REFUSED:
        return Cost()
    if usage is None or price is None:
        return None
    try:
        return cost.cost(usage, price)
    except UnknownPrice:
        return None
