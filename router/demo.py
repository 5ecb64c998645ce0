"""Send a workload to a running router and collect one row per call, as any gRPC client would.

The rule: this is a client and nothing else; it sees what the generated stub returns and keeps no content
longer than the conversation needs it. A session's requests go one after another, each with the answers the
router gave before; sessions run side by side. A failed or abandoned call is a row; its turn is left out of
the conversation.

When an answer calls tools, the workload's canned results are sent back at once, up to `max_tool_steps`
times a request. Calls still open then are answered at the head of the session's next turn, since providers
refuse a conversation with an open call.

Virtual time: idle seconds pass through `clock_advance`, never by waiting. A request is sent only when none
due more than `overlap_s` earlier is still in flight, so the clock never runs further ahead of a call than
that; without a clock to advance, idle seconds are ignored. What a call cost that was left or failed is not
known here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from router.convert_workload import (
    Answered,
    generate_request,
    messages_to_proto,
    stream_request,
    with_accounting,
    with_answer,
    with_decision,
)
from router.report import Row
from router.timeline import Workload, WorkloadRequest
from router.v1 import content_pb2

if TYPE_CHECKING:
    from router.v1.router_service_pb2 import Answer
    from router.v1.router_service_pb2_grpc import RouterServiceAsyncStub

STATUS_KEY = "grpc-status-details-bin"
"""Trailing metadata that holds the google.rpc.Status of a failed call."""

NO_FINISHED = "STREAM_WITHOUT_FINISHED"
"""error_reason of a stream that ended in order but without its last event: a fault of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        total: Requests of the workload.
        done: Requests finished, whatever came of them.
        calls: Calls finished; more than `done` where tools were called.
        failed, cancelled: Calls that failed, and that this client left on purpose.
        routes: Calls by route.
        cost_nano_usd: Sum of the costs told so far.
    """

    total: int
    done: int = 0
    calls: int = 0
    failed: int = 0
    cancelled: int = 0
    routes: Mapping[str, int] = field(default_factory=dict)
    cost_nano_usd: int = 0


async def run_workload(
    stub: RouterServiceAsyncStub,
    workload: Workload,
    *,
    clock_advance: Callable[[float], None] | None = None,
    concurrency: int = 8,
    overlap_s: float = 30.0,
    timeout_s: float = 120.0,
    metadata: Sequence[tuple[str, str]] = (),
    on_progress: Callable[[Progress], None] | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> tuple[Row, ...]:
    """Send every request of a workload and return one row per call, in the order they were sent.

    Args:
        stub: Over a grpc.aio channel, which the caller owns.
        clock_advance: Lets so many seconds pass on the router's clock; None where time cannot be moved.
        concurrency: Most requests in flight, >= 1.
        overlap_s: How much later than the oldest in flight a request may be due, virtual seconds, >= 0.
        timeout_s: Deadline of each call, real seconds, > 0.
        metadata: Sent with each call.
        on_progress: Called at the start and when a request is done.
        on_row: Called for each row when it is known.

    Raises:
        ValueError: An argument is out of range.
    """
    if concurrency < 1 or overlap_s < 0 or timeout_s <= 0:
        raise ValueError(
            "concurrency must be >= 1, overlap_s >= 0 and timeout_s > 0; "
            f"got {concurrency}, {overlap_s} and {timeout_s}"
        )
    start = Progress(total=len(workload.requests))
    run = _Run(stub, workload, timeout_s, tuple(metadata), on_progress, on_row, start)
    gate = _Gate(concurrency, overlap_s if clock_advance else None)
    run.report_progress()
    due_s = now_s = 0.0
    async with asyncio.TaskGroup() as group:
        for index, request in enumerate(workload.requests):
            due_s += request.after_s
            await gate.enter(index, due_s, request.session)
            if clock_advance and due_s > now_s:
                clock_advance(due_s - now_s)
                now_s = due_s
            group.create_task(run.send(gate, index, request, due_s), name=f"request {request.id}")
    return tuple(sorted(run.rows, key=lambda row: row.number))


class _Gate:
    """Admits requests: bounded in number, one per session, and none far ahead of the oldest in flight."""

    def __init__(self, concurrency: int, overlap_s: float | None) -> None:
        self._concurrency = concurrency
        self._overlap_s = overlap_s
        self._in_flight: dict[int, tuple[float, str]] = {}
        self._left = asyncio.Event()

    async def enter(self, index: int, due_s: float, session: str) -> None:
        while not self._admits(due_s, session):
            self._left.clear()
            await self._left.wait()
        self._in_flight[index] = (due_s, session)

    def leave(self, index: int) -> None:
        del self._in_flight[index]
        self._left.set()

    def _admits(self, due_s: float, session: str) -> bool:
        if len(self._in_flight) >= self._concurrency:
            return False
        return not any(
            (session and session == other)
            or (self._overlap_s is not None and due_s - other_due_s > self._overlap_s)
            for other_due_s, other in self._in_flight.values()
        )


@dataclass(frozen=True, slots=True)
class _Conversation:
    """Messages of a session so far, and the results of its last message's calls, which are still open."""

    messages: tuple[content_pb2.Message, ...] = ()
    open_results: tuple[content_pb2.Part, ...] = ()

    def followed_by(self, turn: Sequence[content_pb2.Message]) -> tuple[content_pb2.Message, ...]:
        if not self.open_results:
            return (*self.messages, *turn)
        first = _user_message((*self.open_results, *turn[0].parts))
        return (*self.messages, first, *turn[1:])


@dataclass(slots=True)
class _Run:
    """One run: its connection, its conversations and the rows so far."""

    stub: RouterServiceAsyncStub
    workload: Workload
    timeout_s: float
    metadata: tuple[tuple[str, str], ...]
    on_progress: Callable[[Progress], None] | None
    on_row: Callable[[Row], None] | None
    progress: Progress
    rows: list[Row] = field(default_factory=list)
    conversations: dict[str, _Conversation] = field(default_factory=dict)
    sent: int = 0

    async def send(self, gate: _Gate, index: int, request: WorkloadRequest, due_s: float) -> None:
        """Send a request and the tool steps it leads to, then let the gate admit others."""
        try:
            await self._converse(request, due_s)
        finally:
            gate.leave(index)
        self.progress = replace(self.progress, done=self.progress.done + 1)
        self.report_progress()

    async def _converse(self, request: WorkloadRequest, due_s: float) -> None:
        held = self.conversations.get(request.session) if request.continues else None
        conversation = held or _Conversation()
        turn: Sequence[content_pb2.Message] = messages_to_proto(request.messages)
        for step in range(self.workload.max_tool_steps + 1):
            messages = conversation.followed_by(turn)
            answer = await self._call(request, messages, step, due_s)
            if answer is None or not answer.parts:
                return
            said = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=answer.parts)
            results = tuple(_results(answer.parts, request.tool_results))
            conversation = _Conversation((*messages, said), results)
            if request.session:
                self.conversations[request.session] = conversation
            if not results:
                return
            conversation, turn = _Conversation(conversation.messages), (_user_message(results),)

    async def _call(
        self, request: WorkloadRequest, messages: Sequence[content_pb2.Message], step: int, due_s: float
    ) -> Answer | None:
        """Make one call, book its row and return its answer, None when there is none."""
        self.sent += 1
        row = Row(
            number=self.sent,
            id=request.id,
            step=step,
            session=request.session,
            tenant=request.tenant,
            user=request.user,
            application=request.application,
            stream=request.stream,
            at_s=due_s,
        )
        start_s = time.perf_counter()
        if request.stream:
            result = await self._stream(row, request, messages, start_s)
        else:
            result = await self._unary(row, request, messages)
        row = replace(result.row, client_total_s=time.perf_counter() - start_s)
        self._book(row)
        return result.answer

    def _book(self, row: Row) -> None:
        self.rows.append(row)
        so_far = self.progress
        routes = dict(so_far.routes)
        if row.route:
            routes[row.route] = routes.get(row.route, 0) + 1
        self.progress = replace(
            so_far,
            calls=so_far.calls + 1,
            failed=so_far.failed + row.failed,
            cancelled=so_far.cancelled + row.cancelled,
            routes=routes,
            cost_nano_usd=so_far.cost_nano_usd + (row.known_cost_nano_usd or 0),
        )
        if self.on_row:
            self.on_row(row)

    async def _unary(
        self, row: Row, request: WorkloadRequest, messages: Sequence[content_pb2.Message]
    ) -> Answered:
        message = generate_request(request, messages)
        try:
            response = await self.stub.Generate(message, timeout=self.timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            return Answered(_failed(row, error))
        row = with_decision(replace(row, request_id=response.request_id), response.decision)
        row = with_answer(with_accounting(row, response.accounting), response.answer)
        return Answered(row, response.answer)

    async def _stream(
        self, row: Row, request: WorkloadRequest, messages: Sequence[content_pb2.Message], start_s: float
    ) -> Answered:
        message = stream_request(request, messages)
        stream = self.stub.StreamGenerate(message, timeout=self.timeout_s, metadata=self.metadata)
        answer: Answer | None = None
        events = 0
        try:
            async for event in stream:
                events += 1
                match event.WhichOneof("event"):
                    case "decided":
                        row = replace(row, request_id=event.decided.request_id)
                        row = with_decision(row, event.decided.decision)
                    case "delta" if row.client_first_event_s is None:
                        row = replace(row, client_first_event_s=time.perf_counter() - start_s)
                    case "finished":
                        answer = event.finished.answer
                        row = with_answer(with_accounting(row, event.finished.accounting), answer)
                if answer is None and events == request.cancel_after_events:
                    return Answered(replace(row, cancelled=True, status=grpc.StatusCode.CANCELLED.name))
        except grpc.aio.AioRpcError as error:
            return Answered(_failed(row, error))
        finally:
            stream.cancel()  # ends the RPC for the server too; nothing to do when it has ended
        if answer is None:
            row = replace(row, status=grpc.StatusCode.DATA_LOSS.name, error_reason=NO_FINISHED)
        return Answered(row, answer)

    def report_progress(self) -> None:
        """Tell the caller how far the run is."""
        if self.on_progress:
            self.on_progress(self.progress)


def _failed(row: Row, error: grpc.aio.AioRpcError) -> Row:
    """Add status and stable reason of a failed call; its message is for one caller's eyes and dropped."""
    return replace(row, status=error.code().name, error_reason=_reason(error))


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key != STATUS_KEY or not isinstance(value, bytes):
            continue
        for detail in Status.FromString(value).details:
            info = ErrorInfo()
            if detail.Unpack(info):
                return str(info.reason)
    return ""


def _user_message(parts: Iterable[content_pb2.Part]) -> content_pb2.Message:
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts)


def _results(parts: Iterable[content_pb2.Part], canned: Mapping[str, str]) -> Iterable[content_pb2.Part]:
    """Answer each tool call with the workload's result for its tool, with an error where there is none."""
    for part in parts:
        if part.WhichOneof("kind") != "tool_call":
            continue
        text = canned.get(part.tool_call.name)
        missing = f"no result is recorded for tool {part.tool_call.name}"
        content = content_pb2.Part(text=content_pb2.TextPart(text=missing if text is None else text))
        result = content_pb2.ToolResultPart(
            tool_call_id=part.tool_call.id, content=[content], is_error=text is None
        )
        yield content_pb2.Part(tool_result=result)
