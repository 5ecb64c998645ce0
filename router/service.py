"""RouterService over gRPC: wire in, wire out, and the server span annotated whatever happens.

The rule: thin. A handler checks and converts, hands over to `Dispatch`, and converts back; errors travel as
RouterErrors to the interceptor, which alone knows statuses.
"""

import asyncio
import secrets
from typing import Any

import grpc

from classifier.policy import Decision
from classifier.route import Route
from router import convert_response as wire
from router.applications import Applications
from router.convert_request import AnyRequest, request_from_proto
from router.deadline import Deadline, DeadlinePolicy
from router.dispatch import Decided, Dispatch, Event, Life
from router.encoding import Encodings
from router.errors import UpstreamInterrupted
from router.escalation import Cascade
from router.held_session import Held
from router.held_turns import HeldTurns
from router.interceptors import RequestContext, current_request, until_cancelled
from router.money import usd
from router.outcome import Answered
from router.preparation import Preparation, Prepared
from router.reply import Chunk
from router.telemetry import Telemetry
from router.v1 import router_service_pb2 as pb
from router.v1 import router_service_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class RouterService(router_service_pb2_grpc.RouterServiceServicer):
    """Generate, StreamGenerate and Explain."""

    def __init__(
        self,
        *,
        dispatch: Dispatch,
        preparation: Preparation,
        applications: Applications,
        telemetry: Telemetry,
        deadlines: DeadlinePolicy,
        turns: HeldTurns,
        encodings: Encodings | None = None,
    ) -> None:
        """Keep references; without `encodings` no text is embedded."""
        self._encodings = encodings
        self._dispatch = dispatch
        self._preparation = preparation
        self._applications = applications
        self._telemetry = telemetry
        self._deadlines = deadlines
        self._turns = turns

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Decide, call, answer."""
        current = current_request()
        deadline, trace_id = self._deadline(context), current.trace_id
        request_id = _unique(current)
        turn, version = await self._turns.begin(request), 0
        try:
            life = Life(await self._prepare(request, request_id, None if turn is None else turn.held))
            try:
                answered = await self._dispatch.generate(life, deadline, trace_id)
            finally:
                self._annotate(life, current)
            if turn is not None:
                version = await self._turns.finish(turn, life.prepared, answered.reply)
        except UpstreamInterrupted as error:
            if turn is not None:
                error.add(turn.unchanged)
            raise
        finally:
            if turn is not None:
                await self._turns.end(turn)
        return pb.GenerateResponse(
            request_id=request_id,
            trace_id=trace_id,
            decision=wire.decision_fields(
                life.prepared,
                route=answered.route,
                fell_back=answered.fell_back,
                escalated=answered.escalated,
            ),
            answer=wire.answer_fields(answered.reply),
            accounting=wire.bill_fields(answered.bill),
            session_version=version,
        )

    # grpc.aio also takes a coroutine that writes; the stubs know only the generator, which costs more per message and
    # is cancelled less directly.
    async def StreamGenerate(  # type: ignore[override]
        self, request: pb.StreamGenerateRequest, context: Context
    ) -> None:
        """Decide, call, answer in events."""
        current = current_request()
        deadline = self._deadline(context)
        request_id = _unique(current)
        turn = await self._turns.begin(request)
        try:
            life = Life(await self._prepare(request, request_id, None if turn is None else turn.held))

            async def emit(event: Event) -> None:
                version = 0
                if turn is not None and type(event) is Answered:
                    version = await self._turns.finish(turn, life.prepared, event.reply)
                try:
                    await context.write(_event_to_proto(event, request_id, current.trace_id, version))
                except grpc.aio.InternalError as error:
                    await until_cancelled(error)

            try:
                await self._dispatch.stream(life, deadline, current.trace_id, emit)
            finally:
                self._annotate(life, current)
        except UpstreamInterrupted as error:
            if turn is not None:
                error.add(turn.unchanged)
            raise
        finally:
            if turn is not None:
                await self._turns.end(turn)

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:
        """Decide and say why, without a call."""
        held = await self._turns.look(request)
        prepared = await self._prepare(request, _unique(current_request()), held, draw=False)
        view = prepared.views.get(Route.OPUS)
        return pb.ExplainResponse(
            decision=wire.decision_fields(prepared, route=prepared.decision.route),
            contributions=wire.contributions_fields(self._preparation.contributions(prepared)),
            lines=explanation(prepared, self._dispatch.cascade_of(prepared)),
            plan=None if view is None else wire.plan_fields(view.plan),
        )

    def _deadline(self, context: Context) -> Deadline:
        return self._deadlines.start(context.time_remaining(), asyncio.get_running_loop().time())

    async def _prepare(
        self, request: AnyRequest, request_id: str, held: Held | None, *, draw: bool = True
    ) -> Prepared:
        asked = request_from_proto(request, self._applications, request_id, held)
        embedding = b"" if self._encodings is None else await self._encodings.of(asked.call)
        return self._dispatch.prepare(asked, held, draw=draw, embedding=embedding)

    def _annotate(self, life: Life, current: RequestContext) -> None:
        """Write decision and outcome on the server span and count the decision, however the call ended."""
        identity = life.prepared.request.call.identity
        record = life.decision_record()
        self._telemetry.record_decision(record)
        self._telemetry.annotate_server_span(
            current.span,
            record,
            life.settlements,
            application=identity.application,
            tenant=identity.tenant,
        )


def _unique(current: RequestContext) -> str:
    """The id the request is booked under: a caller's own may repeat, and the ledger's must not."""
    return f"{current.request_id}~{secrets.token_hex(4)}" if current.given else current.request_id


def _event_to_proto(event: Event, request_id: str, trace_id: str, version: int) -> pb.StreamGenerateResponse:
    match event:
        case Decided(prepared, route, fell_back, escalated):
            decision = wire.decision_fields(prepared, route=route, fell_back=fell_back, escalated=escalated)
            return pb.StreamGenerateResponse(
                decided={"request_id": request_id, "trace_id": trace_id, "decision": decision}
            )
        case Answered():
            return pb.StreamGenerateResponse(
                finished={
                    "answer": wire.answer_fields(event.reply),
                    "accounting": wire.bill_fields(event.bill),
                    "session_version": version,
                }
            )
        case _:
            return _delta(event)


def _delta(chunk: Chunk) -> pb.StreamGenerateResponse:
    delta = wire.delta_fields(chunk)
    if delta is None:
        raise TypeError(f"{type(chunk).__name__} carries no content for the caller")
    return pb.StreamGenerateResponse(delta=delta)


def explanation(prepared: Prepared, cascade: Cascade = Cascade()) -> list[str]:  # noqa: B008 (frozen)
    """The decision in lines for people: route and reason, both prices, the cache plan, what would flip it.

    Args:
        cascade: For which failures of Flash's answer Opus would be asked.
    """
    decision = prepared.decision
    lines = [f"{decision.route.value}: {decision.reason.value}{_score(decision)}"]
    for estimate in prepared.estimates.values():
        if estimate.unavailable:
            lines.append(f"{estimate.route.value} ({estimate.model}) is unavailable: {estimate.unavailable}")
            continue
        lines.append(
            f"{estimate.route.value} ({estimate.model}): expected {usd(estimate.expected_nano_usd)}, "
            f"cold {usd(estimate.cold_nano_usd)}, for about {estimate.input_tokens:,} tokens in and "
            f"{estimate.output_tokens:,} out"
        )
    view = prepared.views.get(Route.OPUS)
    if view is not None:
        lines.extend(
            f"breakpoint at block {mark.position}, {mark.ttl_s} s, {mark.prefix_tokens:,} tokens, "
            f"P(warm) {mark.p_warm:.2f}: {mark.reason}"
            for mark in view.plan.breakpoints
        )
        lines.extend(
            f"no breakpoint for {skipped.layer.name.lower()}: {skipped.reason}"
            for skipped in view.plan.skipped
        )
    if prepared.padding is not None and prepared.padding.decision is not None:
        lines.append(str(prepared.padding.decision))
    demands = prepared.request.demands
    if (
        cascade.on
        and decision.route is Route.FLASH
        and demands.escalation_allowed
        and not demands.forced_route
    ):
        lines.append(f"asks Opus when the answer is: {', '.join(sorted(cascade.on))}")
    lines.extend(_economics(decision))
    lines.extend(f"would flip: {flip}" for flip in decision.flips)
    return lines


def _economics(decision: Decision) -> list[str]:
    """What money and chance had to do with it, where they had."""
    lines = []
    if decision.answer_value_nano_usd is not None:
        lines.append(
            f"a needed Opus answer is taken to be worth {usd(decision.answer_value_nano_usd)}; "
            f"the cache Opus leaves warm {usd(decision.opus_leaves_nano_usd)}"
        )
    if decision.explorable:
        other = decision.route.other
        lines.append(f"exploration may take {other} instead, with probability {1 - decision.propensity:.3g}")
    return lines


def _score(decision: Decision) -> str:
    if decision.score is None:
        return ", no score"
    return f", score {decision.score.value:.3f} against threshold {decision.threshold:.3f}"
