"""Spans and metrics of the service, behind one facade.

The rule: callers hand over values they already have (a decision, a settlement, an upstream) and nothing
else; names, attributes and exporters stay in here, and this package is the only place that imports the
OpenTelemetry SDK. What is switched off costs a comparison: attributes are built only for spans that are
recorded, and a child of an unsampled span is not even started. Telemetry never fails a request and never
decides anything; the ledger is the truth about money.

Sampling: parent-based, `DEFAULT_SAMPLE_RATIO` of root traces unless the standard variables say otherwise
(`router.telemetry.settings`). Metrics do not depend on it. Prompt and answer text is never recorded.
"""

import asyncio
import re
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from typing import Final, Self

from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cache.regret import Settled
from router import attributes as names
from router.call import Call
from router.feedback import Feedback, Receipt
from router.money import NANO_PER_USD
from router.settlement import DecisionRecord, Outcome, Purpose, Settlement
from router.telemetry import spans
from router.telemetry.cache_metrics import Calibrations
from router.telemetry.gen_ai_metrics import ChunkTimer, InferenceTarget
from router.telemetry.light_spans import LightSpans, Parent, are_allowed
from router.telemetry.metrics import Metrics
from router.telemetry.providers import Metering, Observe, ObserveEach, Tracing, build_metering, build_tracing
from router.telemetry.settings import TelemetrySettings, from_environ

__all__ = [
    "ChunkTimer",
    "InferenceTarget",
    "Observe",
    "Span",
    "SpanContext",
    "Telemetry",
    "TelemetrySettings",
    "from_environ",
]

_NO_STAGE: Final[AbstractContextManager[Span]] = nullcontext(INVALID_SPAN)
_ROOT: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()
_TRACEPARENT: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
"""What nearly every caller sends; the SDK reads it too, at five times the price (measured: 15 us)."""
_ERROR: Final = Status(StatusCode.ERROR)
_Entered = SpanContext | Parent
_entered: ContextVar[_Entered | None] = ContextVar("hybrid_router_entered", default=None)
"""Of the request that what runs here belongs to: what its spans stand below, or the context alone of a trace that is
not sampled. None outside of any, where the current span is asked, at ten times the price."""
Entered = tuple[Token[Context] | None, Token[_Entered | None]]


class Telemetry:
    """Everything a request tells the outside world about itself.

    Build one per process, after any fork, with `Telemetry.build`; close it with `shutdown` after the server
    has drained. All methods but `build`, `flush` and `shutdown` are called on the event loop, do not block
    and do not raise.
    """

    def __init__(self, settings: TelemetrySettings, tracing: Tracing | None, metrics: Metrics | None) -> None:
        self._settings = settings
        self._tracing = tracing
        self._tracer: Tracer | None = None
        self._light: LightSpans | None = None
        self._metrics = metrics
        self._metering: Metering | None = None
        self._in_flight: Observe = lambda: 0
        self._ledger_lag: Observe = lambda: None
        self._method_attributes: dict[str, spans.Attributes] = {}
        self._follows_parent = settings.sampler.startswith("parentbased_")
        if tracing is not None:
            self._tracer = tracing.provider.get_tracer(names.SCOPE, settings.resource.get("service.version"))
            scope = getattr(
                self._tracer, "_instrumentation_scope", None
            )  # private; without it spans go the SDK's way
            if scope is not None and are_allowed(SpanLimits()):
                self._light = LightSpans(tracing.provider, tracing.processor, scope)

    @classmethod
    def build(cls, settings: TelemetrySettings) -> Self:
        """Start exporters and the scrape endpoint as the settings say.

        Raises:
            OSError: The Prometheus port cannot be bound.
        """
        if not settings.enabled:
            return cls(settings, None, None)
        measured = settings.prometheus_port or settings.metrics is not None
        telemetry = cls(
            settings,
            None if settings.traces is None else build_tracing(settings, settings.traces),
            Metrics(
                settings.applications,
                settings.tenants,
                bucket_label=settings.bucket_label,
                buckets=settings.buckets,
            )
            if measured
            else None,
        )
        telemetry._start_metering()
        return telemetry

    @classmethod
    def off(cls) -> Self:
        """Return telemetry that does nothing."""
        return cls(TelemetrySettings(enabled=False), None, None)

    def _start_metering(self) -> None:
        if self._metrics is None:
            return
        self._metering = build_metering(self._settings, self._metrics.collect)
        # Always observed: without any point of its own the SDK calls no reader, and our aggregates would
        # not be exported either.
        self.watch(names.IN_FLIGHT, "{request}", "RPCs being served", lambda: self._in_flight() or 0)
        self.watch(
            names.LEDGER_LAG,
            names.SECONDS,
            "Age of the oldest settlement not yet durable",
            lambda: self._ledger_lag(),
        )

    # --- what is known beforehand ---

    def add_target(self, target: InferenceTarget, route: str = "") -> None:
        """Make an upstream known: its name and model become labels, its host and provider attributes.

        With its route, its counters start at 0.
        """
        if self._metrics is not None:
            self._metrics.add_target(target, route)

    def watch(self, name: str, unit: str, description: str, observe: Observe) -> None:
        """Serve a gauge, once per name; `observe` is called in another thread when someone collects."""
        if self._metering is not None:
            self._metering.gauge(name, unit, description, observe)

    def watch_each(self, name: str, unit: str, description: str, observe: ObserveEach) -> None:
        """Serve a gauge with a value by labels, once per name; `observe` is called in another thread."""
        if self._metering is not None:
            self._metering.gauges(name, unit, description, observe)

    def watch_in_flight(self, observe: Observe) -> None:
        """Say where the number of RPCs in progress comes from."""
        self._in_flight = observe

    def watch_ledger_lag(self, observe: Observe) -> None:
        """Say where the ledger's lag in seconds comes from; None while there is none to tell."""
        self._ledger_lag = observe

    def watch_calibration(self, observe: Calibrations) -> None:
        """Say where the calibration of belief comes from, per model; asked when someone collects."""
        if self._metrics is not None:
            self._metrics.cache.watch_calibration(observe)

    def watch_promotions(self, observe: Callable[[], int]) -> None:
        """Say where the number of requests that took over another's write comes from."""
        if self._metrics is not None:
            self._metrics.cache.watch_promotions(observe)

    # --- the RPC, for router.interceptors ---

    def start_server_span(
        self, method: str, traceparent: str, tracestate: str, peer: Callable[[], str]
    ) -> Span:
        """Start the span of one RPC, as a child of the caller's when it sent W3C trace context.

        Args:
            method: `package.Service/Method`.
            traceparent: The caller's header, "" when absent; a malformed one is as none.
            peer: gRPC's peer string; asked only when the span is recorded.

        Returns:
            A span to end with `end_server_span`. With tracing off it still carries the caller's trace id.
        """
        caller = _caller(traceparent, tracestate) if traceparent else INVALID_SPAN
        if self._tracer is None:
            return caller
        light, context = self._light, caller.get_span_context()
        valid = context.is_valid
        if valid and self._follows_parent and not context.trace_flags & TraceFlags.SAMPLED:
            return caller  # what the SDK would start is not recorded either, and costs 20 us (measured)
        span: Span
        if light is not None and not valid:
            span = light.start_root(method, SpanKind.SERVER, self._server_attributes(method))
        elif light is not None and self._follows_parent:
            parent, attributes = Parent(context), self._server_attributes(method).copy()
            span = light.start(method, parent, parent.child(), SpanKind.SERVER, attributes)
        else:
            span = self._tracer.start_span(
                method,
                context=set_span_in_context(caller, _ROOT),
                kind=SpanKind.SERVER,
                attributes=self._server_attributes(method),
                record_exception=False,
                set_status_on_exception=False,
            )
        if span.is_recording():
            _set_peer(span, peer())
        return span

    def enter(self, span: Span) -> Entered:
        """Make the span of an RPC the current one of the running task; give what comes to `leave`, in the same task."""
        context = span.get_span_context()
        valid = context.is_valid
        if valid and not context.trace_flags & TraceFlags.SAMPLED:
            return None, _entered.set(
                context
            )  # nothing is recorded below it: nobody asks for the current span
        return attach(set_span_in_context(span, _ROOT)), _entered.set(Parent(context) if valid else None)

    def leave(self, entered: Entered) -> None:
        """Make the span current that was so before `enter`."""
        context, token = entered
        _entered.reset(token)
        if context is not None:
            detach(context)

    def end_server_span(self, span: Span, status_code: str, error_type: str) -> None:
        """Close the span of an RPC with its outcome; `error_type` is "" when nothing of ours failed."""
        if not span.is_recording():
            return
        span.set_attribute(names.RPC_STATUS_CODE, status_code)
        if error_type:
            span.set_attribute(names.ERROR_TYPE, error_type)
        if status_code in names.RPC_SERVER_ERRORS:
            span.set_status(_ERROR)
        span.end()

    def record_rpc(self, method: str, status_code: str, error_type: str, duration_s: float) -> None:
        """Count one RPC."""
        if self._metrics is not None:
            self._metrics.gen_ai.record_rpc(method, status_code, error_type, duration_s)

    def annotate_server_span(
        self,
        span: Span,
        decision: DecisionRecord | None,
        settlements: Sequence[Settlement] = (),
        *,
        application: str = "",
        tenant: str = "",
    ) -> None:
        """Write route, reason, cost and cache outcome on the server span, where a tag search finds them.

        Args:
            settlements: Every attempt of the request, oldest first.
        """
        if span.is_recording():
            span.set_attributes(
                spans.server_span(decision, settlements, application=application, tenant=tenant)
            )

    # --- stages of a request ---

    def classify(self) -> AbstractContextManager[Span]:
        """Span around scoring."""
        return self._stage(names.SPAN_CLASSIFY)

    def plan(self) -> AbstractContextManager[Span]:
        """Span around planning and pricing."""
        return self._stage(names.SPAN_PLAN)

    def settle(self) -> AbstractContextManager[Span]:
        """Span around settling."""
        return self._stage(names.SPAN_SETTLE)

    def flight_wait(self) -> AbstractContextManager[Span]:
        """Span around waiting for another request that writes the same cold prefix."""
        return self._stage(names.SPAN_FLIGHT)

    def record_flight(self, outcome: str, waited_s: float) -> None:
        """Count a request that met another's write; `outcome` is one of `attributes.FLIGHT_OUTCOME`."""
        if self._metrics is not None:
            self._metrics.cache.record_flight(outcome, waited_s)

    @contextmanager
    def warm(self, trigger: str, cause: SpanContext | None) -> Iterator[Span]:
        """Root span of one warm, current within; linked to the span that caused it."""
        if self._tracer is None:
            yield INVALID_SPAN
            return
        span = self._tracer.start_span(
            names.SPAN_WARM,
            context=_ROOT,
            links=[] if cause is None or not cause.is_valid else [Link(cause)],
            attributes={names.WARM_TRIGGER: trigger},
            record_exception=False,
            set_status_on_exception=False,
        )
        entered = _entered.set(None)  # its trace is its own, whatever that of its cause is
        try:
            with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                yield span
        finally:
            _entered.reset(entered)

    def annotate_warm(
        self, span: Span, result: str, settlement: Settlement | None, owner: tuple[str, str]
    ) -> None:
        """Write on a warm's span whose it is, what became of the order, and what it cost."""
        if not span.is_recording():
            return
        tenant, application = owner
        found: dict[str, str | float] = {names.WARM_RESULT: result}
        if tenant:
            found[names.TENANT] = tenant
        if application:
            found[names.APPLICATION] = application
        if settlement is not None:
            found[names.REQUEST_ID] = settlement.intent.request_id
            if settlement.cost is not None:
                found[names.COST_USD] = settlement.cost.total_nano_usd / NANO_PER_USD
        span.set_attributes(found)

    def current_trace_id(self) -> str:
        """Trace that is being made now, as the ledger keeps it; "" without one."""
        context = self.current_span()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    def current_span(self) -> SpanContext:
        """What a warm that is ordered now is to be linked to."""
        entered = _entered.get()
        if entered is None:
            return get_current_span().get_span_context()
        return entered.context if isinstance(entered, Parent) else entered

    def record_lead(self, purpose: str) -> None:
        """Count a call that began to write a cold prefix that nobody else was writing."""
        if self._metrics is not None:
            self._metrics.cache.record_lead(purpose)

    def watch_warms(self, open_count: Observe, switched_off: Observe) -> None:
        """Export how many decisions to warm are not settled, and how many owners' warms are switched off."""
        if self._metrics is None:
            return
        self._metrics.warms.start()
        self.watch(names.WARM_OPEN, "{warm}", "Decisions to warm that are not settled", open_count)
        self.watch(
            names.WARM_SWITCHED_OFF,
            "{owner}",
            "Tenants and applications whose warms cost more than they brought and are switched off",
            switched_off,
        )

    def record_warm(self, trigger: str, result: str) -> None:
        """Count what became of an order to warm; see `attributes.WARM_RESULT`."""
        if self._metrics is not None:
            self._metrics.warms.record(trigger, result)

    def record_warm_verdict(self, settled: Settled) -> None:
        """Count what a decision to warm came to, what it cost and what it spared."""
        if self._metrics is not None:
            self._metrics.warms.record_verdict(settled)

    def record_unwarmable(self, trigger: str, reason: str) -> None:
        """Count what was to be warmed and cannot be; see `router.unwarmable.Reason`."""
        if self._metrics is not None:
            self._metrics.warms.record_unwarmable(trigger, reason)

    def _stage(self, name: str) -> AbstractContextManager[Span]:
        tracer = self._tracer
        if tracer is None:
            return _NO_STAGE
        parent = _entered.get() or _current()
        if type(parent) is SpanContext:
            return _NO_STAGE
        if type(parent) is not Parent or self._light is None:
            return _recorded_stage(tracer, name)
        return self._light.stage(name, parent)

    def record_decision(self, decision: DecisionRecord) -> None:
        """Count a decision; once per request."""
        if self._metrics is not None:
            self._metrics.decisions.record_decision(decision)

    def record_escalation(self, application: str, signal: str, result: str) -> None:
        """Count an answer that failed, and what came of it; see `DecisionMetrics.record_escalation`."""
        if self._metrics is not None:
            self._metrics.decisions.record_escalation(application, signal, result)

    def record_feedback(self, feedback: Feedback, receipt: Receipt) -> None:
        """Count a judgement of a request and what came of it."""
        if self._metrics is not None:
            self._metrics.decisions.record_feedback(feedback, receipt)

    def record_swap(self, *, rolled_back: bool) -> None:
        """Count a change of the classifier that scores."""
        if self._metrics is not None:
            self._metrics.decisions.record_swap(rolled_back=rolled_back)

    def record_embedding(self, outcome: str) -> None:
        """Count a request given to the text encoder: used, late or failed."""
        if self._metrics is not None:
            self._metrics.decisions.record_embedding(outcome)

    def record_shadow(self, *, disagreed: bool) -> None:
        """Count a request that the shadow classifier scored too."""
        if self._metrics is not None:
            self._metrics.decisions.record_shadow(disagreed=disagreed)

    # --- one attempt on an upstream ---

    def start_inference(
        self,
        target: InferenceTarget,
        call: Call | None = None,
        *,
        route: str,
        purpose: Purpose = Purpose.USER,
        stream: bool = False,
        attempt: int = 1,
    ) -> Span:
        """Start the CLIENT span of one attempt, under the current span or, for our own calls, as a root.

        Returns:
            A span to end with `end_inference`, whatever happened.
        """
        tracer = self._tracer
        if tracer is None:
            return INVALID_SPAN
        parent = _entered.get() or _current()
        if type(parent) is SpanContext:
            return INVALID_SPAN
        name, attributes = (
            f"{target.operation} {target.model}",
            spans.inference_start(target, call, route=route, purpose=purpose, stream=stream, attempt=attempt),
        )
        if type(parent) is Parent and self._light is not None:
            return self._light.start(name, parent, parent.child(), SpanKind.CLIENT, attributes)
        return tracer.start_span(
            name,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        )

    def end_inference(self, span: Span, settlement: Settlement) -> None:
        """Write what the attempt used and cost on its span, and end it."""
        if not span.is_recording():
            return
        span.set_attributes(
            spans.inference_end(settlement, old_cache_write_name=self._settings.old_cache_write_name)
        )
        # The caller's leaving is no failure of the model.
        if settlement.outcome not in (Outcome.OK, Outcome.CANCELLED):
            span.set_status(_ERROR)
        span.end()

    def chunk_timer(self) -> ChunkTimer:
        """Return a timer to tick at every chunk of one stream and to give to `record_settlement`."""
        return ChunkTimer()

    def record_settlement(self, settlement: Settlement, chunks: ChunkTimer | None = None) -> None:
        """Count one attempt: duration, tokens, cost, cache; exactly once per settlement."""
        if self._metrics is not None:
            self._metrics.record_settlement(settlement, chunks)

    # --- end of life ---

    async def flush(self, timeout_s: float = 5.0) -> bool:
        """Export what is queued, off the event loop; False when it did not fit into `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                done = True
                if self._tracing is not None:
                    done = await asyncio.to_thread(self._tracing.flush, timeout_s)
                if self._metering is not None:
                    done = await asyncio.to_thread(self._metering.flush, timeout_s) and done
                return done
        except TimeoutError:
            return False

    async def shutdown(self, timeout_s: float = 5.0) -> None:
        """Export what is left and stop every thread, off the event loop; twice `timeout_s` at most.

        Spans and metrics that do not get out in time are dropped: a collector that is down must not hold up
        the end of the process.
        """
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.shutdown, timeout_s)
        if self._metering is not None:
            await asyncio.to_thread(self._metering.shutdown, timeout_s)

    def _server_attributes(self, method: str) -> spans.Attributes:
        found = self._method_attributes.get(method)
        if found is None:
            found = {names.RPC_SYSTEM: names.RPC_SYSTEM_GRPC, names.RPC_METHOD: method}
            if self._settings.server_address:
                found[names.SERVER_ADDRESS] = self._settings.server_address
            if self._settings.server_port:
                found[names.SERVER_PORT] = self._settings.server_port
            self._method_attributes[method] = found
        return found


def _caller(traceparent: str, tracestate: str) -> Span:
    """The caller's span as its W3C headers tell; an invalid one when they are malformed."""
    told = None if tracestate else _TRACEPARENT.fullmatch(traceparent)
    if told is None:
        carrier = {"traceparent": traceparent}
        if tracestate:
            carrier["tracestate"] = tracestate
        return get_current_span(_W3C.extract(carrier, _ROOT))
    trace_id, span_id, flags = told.groups()
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return NonRecordingSpan(context) if context.is_valid else INVALID_SPAN


def _worth_a_child(parent: Span) -> bool:
    """Whether a child of `parent` could be recorded: no parent at all (a root), or a sampled one.

    Every sampler we offer decides by trace, so a child of an unsampled span is unsampled too. The flag is
    asked rather than `is_recording`, because a settlement may outlive its RPC's span.
    """
    context = parent.get_span_context()
    return not context.is_valid or bool(context.trace_flags & TraceFlags.SAMPLED)


def _current() -> _Entered | None:
    """What `_entered` would hold below the current span; None where there is none, and what begins is a root."""
    span = get_current_span()
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return Parent(context) if _worth_a_child(span) else context


@contextmanager
def _recorded_stage(tracer: Tracer, name: str) -> Iterator[Span]:
    span = tracer.start_span(name, record_exception=False, set_status_on_exception=False)
    try:
        yield span
    except BaseException as error:
        span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
        if not isinstance(error, CancelledError):
            span.set_status(_ERROR)
        raise
    finally:
        span.end()


def _set_peer(span: Span, peer: str) -> None:
    """Write gRPC's peer ("ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000", "unix:/path") as address and port."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        span.set_attribute(names.PEER_ADDRESS, rest)
        return
    host, _, port = rest.rpartition(":")
    if not host:
        return
    host = host.replace("%5B", "[").replace("%5D", "]").strip("[]")
    span.set_attribute(names.PEER_ADDRESS, host)
    if port.isdigit():
        span.set_attribute(names.PEER_PORT, int(port))
