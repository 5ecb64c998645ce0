"""The client over real gRPC: against a whole router on the sandbox, and against a server that fails by script.

Both clients are held to the same cases; the blocking one runs in a thread of its own, as in a caller's worker.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from router.client import (
    AsyncClient,
    CallFailed,
    Cancelled,
    Client,
    Conflict,
    Conversation,
    DeadlineExceeded,
    Decided,
    Event,
    Finished,
    InvalidRequest,
    NotFound,
    ServerFault,
    Settings,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Unavailable,
    Unimplemented,
    text_of,
    tool,
    tool_result,
)
from router.config import ServerConfig
from router.sandbox import Fault
from router.settlement import Outcome
from router.v1 import content_pb2, routing_pb2
from router.v1 import router_service_pb2 as pb
from router.v1.router_service_pb2_grpc import (
    RouterServiceServicer,
    add_RouterServiceServicer_to_server,
)
from router.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from tests.e2e.builders import APPLICATION, config
from tests.e2e.service import TIMEOUT_S, Service, serving

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
QUICK = Settings(timeout_s=TIMEOUT_S, backoff_s=0.01)
STUBBORN = Settings(timeout_s=TIMEOUT_S, attempt_limit=5, backoff_s=0.4)
"""Goes on trying for six seconds: a router in this process starts in one."""
STALL = "Tell the whole story. [[sandbox fault=stall stall_s=9999 after_events=5]]"
SECRET = "xyzzy-nobody-may-read-this"
Result = TypeVar("Result")


class Caller:
    """One of the two clients, spoken to in one way.

    Attributes:
        left: The last stream, kept so that what hangs up is leaving its block and not the garbage collector.
    """

    left: object = None

    def __init__(self, address: str, *, blocking: bool, settings: Settings = QUICK) -> None:
        fields = {"settings": settings, "application": APPLICATION, "tenant": "acme"}
        self.blocking = blocking
        self._client = (Client if blocking else AsyncClient)(address, **fields)

    async def __call__(self, method: str, *arguments: object, **fields: object):
        """Call a unary method."""
        function = getattr(self._client, method)
        if self.blocking:
            return await asyncio.to_thread(function, *arguments, **fields)
        return await function(*arguments, **fields)

    async def events(
        self, *arguments: object, until: Callable[[Event], bool] | None = None, **fields: object
    ) -> list[Event]:
        """Read a stream; leave it after the first event that `until` takes."""
        if self.blocking:
            return await asyncio.to_thread(self._read, *arguments, until=until, **fields)
        seen = []
        async with self._client.stream(*arguments, **fields) as events:
            self.left = events
            async for event in events:
                seen.append(event)
                if until is not None and until(event):
                    break
        return seen

    def _read(
        self, *arguments: object, until: Callable[[Event], bool] | None, **fields: object
    ) -> list[Event]:
        seen = []
        with self._client.stream(*arguments, **fields) as events:
            self.left = events
            for event in events:
                seen.append(event)
                if until is not None and until(event):
                    break
        return seen

    async def close(self) -> None:
        if self.blocking:
            self._client.close()
        else:
            await self._client.close()


@asynccontextmanager
async def calling(address: str, blocking: bool, settings: Settings = QUICK) -> AsyncIterator[Caller]:
    caller = Caller(address, blocking=blocking, settings=settings)
    try:
        yield caller
    finally:
        await caller.close()


both = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "asyncio"])


@both
async def test_an_answer_comes_whole_or_in_events_with_the_same_bill(
    service: Service, blocking: bool
) -> None:
    """The deltas add up to the answer; decision first, bill last; the ledger agrees."""
    async with calling(service.app.address, blocking) as caller:
        reply = await caller("generate", "Which tickets are overdue?", route="flash", request_id="mine")
        assert reply.request_id.startswith("mine~")
        assert reply.decision.reason == routing_pb2.DECISION_REASON_FORCED
        events = await caller.events("Which tickets are overdue?", route="flash")
    assert isinstance(events[0], Decided)
    assert isinstance(events[-1], Finished)
    streamed = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert streamed == text_of(events[-1]) == text_of(reply) != ""
    costs = [reply.accounting.cost.total_nano_usd, events[-1].accounting.cost.total_nano_usd]
    settlements = await service.settled(2)
    assert [each.cost.total_nano_usd for each in settlements] == costs
    assert settlements[1].intent.request_id == events[0].request_id
    assert settlements[1].intent.stream


@both
async def test_thinking_and_tool_calls_have_events_of_their_own(service: Service, blocking: bool) -> None:
    """Pieces of a call's arguments add up to the call in the answer."""
    question = 'Look [[sandbox thinking=60]] [[sandbox tool=search_tickets args={"account": "a-1"}]]'
    async with calling(service.app.address, blocking) as caller:
        events = await caller.events(question, route="opus", include_thinking=True, effort="high")
    finished = events[-1]
    assert isinstance(finished, Finished)
    (call,) = [part.tool_call for part in finished.answer.parts if part.WhichOneof("kind") == "tool_call"]
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    assert (pieces[0].id, pieces[0].name) == (call.id, "search_tickets")
    assert "".join(piece.arguments_json for piece in pieces) == call.arguments_json
    thought = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    assert thought == "".join(part.thinking.text for part in finished.answer.parts)


@both
async def test_a_stream_left_early_is_cancelled_and_booked_as_such(service: Service, blocking: bool) -> None:
    """Leaving the block hangs up: the provider stalls for hours, the server hears at once and settles."""
    async with calling(service.app.address, blocking) as caller:
        events = await caller.events(
            STALL, route="flash", until=lambda event: isinstance(event, TextDelta), timeout_s=9000
        )
        assert isinstance(events[-1], TextDelta)
        (settlement,) = await service.settled(1)
    assert settlement.outcome is Outcome.CANCELLED
    (line,) = service.invoice.lines
    assert settlement.cost.total_nano_usd == line.cost_nano_usd > 0


async def test_a_blocking_stream_is_closed_from_another_thread(service: Service) -> None:
    """The thread that waits for the next event is let go without an error."""
    with Client(service.app.address, application=APPLICATION) as client:
        events = client.stream(STALL, route="flash", timeout_s=9000)
        rest = iter(events)
        first = await asyncio.to_thread(next, rest)
        reading = asyncio.create_task(asyncio.to_thread(list, rest))
        await service.clock.held()
        events.close()
        await asyncio.wait_for(reading, TIMEOUT_S)
        with pytest.raises(Cancelled, match="closed before its last event"):
            events.result()
    assert isinstance(first, Decided)
    assert events.finished is None
    assert (await service.settled(1))[0].outcome is Outcome.CANCELLED


async def test_an_asyncio_stream_is_closed_by_another_task(service: Service) -> None:
    """The task that waits for the next event ends its loop; it is not cancelled itself."""
    async with AsyncClient(service.app.address, application=APPLICATION) as client:
        events = client.stream(STALL, route="flash", timeout_s=9000)

        async def read() -> list[Event]:
            return [event async for event in events]

        reading = asyncio.create_task(read())
        await service.clock.held()
        events.close()
        seen = await asyncio.wait_for(reading, TIMEOUT_S)
    assert isinstance(seen[0], Decided)
    assert (await service.settled(1))[0].outcome is Outcome.CANCELLED


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_task_cancels_its_call(service: Service, stream: bool) -> None:
    """CancelledError reaches the task as always, and the server hears of it."""
    async with AsyncClient(service.app.address, application=APPLICATION) as client:

        async def ask() -> object:
            if stream:
                return await client.stream(STALL, route="flash", timeout_s=9000).result()
            return await client.generate(STALL, route="flash", timeout_s=9000)

        asking = asyncio.create_task(ask())
        await service.clock.held()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await service.settled(1))[0].outcome is Outcome.CANCELLED


@both
@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_says_whose_it_was(service: Service, blocking: bool, stream: bool) -> None:
    """The server answers just before: reason and request id come with the error."""
    service.sandbox.inject(Fault(kind="stall", times=2))
    async with calling(service.app.address, blocking) as caller:
        ask = caller.events if stream else lambda *a, **k: caller("generate", *a, **k)
        with pytest.raises(DeadlineExceeded) as caught:
            await ask("Hello", route="flash", no_fallback=True, timeout_s=0.4, request_id="late")
    assert caught.value.reason == "UPSTREAM_TIMEOUT"
    assert caught.value.request_id == "late"


@both
async def test_bad_input_names_its_field_and_quotes_nothing(service: Service, blocking: bool) -> None:
    """A typed error that may be logged: field and problem, reason, request id, and not a word of the prompt."""
    async with calling(service.app.address, blocking) as caller:
        with pytest.raises(InvalidRequest) as caught:
            await caller("generate", SECRET, max_output_tokens=-1)
        with pytest.raises(InvalidRequest) as streamed:
            await caller.events(SECRET, labels={"k" * 65: "v"})
        with pytest.raises(NotFound):
            await caller("explain", SECRET, application="nowhere")
    (violation,) = caught.value.violations
    assert violation.field == "prompt.max_output_tokens"
    assert "-1" in violation.problem
    assert caught.value.reason == "INVALID_REQUEST"
    assert len(caught.value.request_id) == 32
    assert streamed.value.violations[0].field.startswith("caller.labels")
    for error in (caught.value, streamed.value):
        assert SECRET not in f"{error} {error!r} {error.__cause__} {vars(error)}"
    assert service.invoice.lines == ()


@both
async def test_explain_sessions_and_costs(service: Service, blocking: bool) -> None:
    """The other questions: what would be done, what is known of a session, what it all cost."""
    async with calling(service.app.address, blocking) as caller:
        explained = await caller("explain", "Hello", route="opus")
        assert explained.decision.route == routing_pb2.ROUTE_OPUS
        assert service.invoice.lines == ()
        bills = [
            (await caller("generate", "Hello", route=route, session="s-1")).accounting.cost.total_nano_usd
            for route in ("opus", "flash")
        ]
        session = (await caller("get_session", "s-1")).session
        assert (session.request_count, session.cost_nano_usd) == (2, sum(bills))
        with pytest.raises(NotFound):
            await caller("get_session", "s-1", tenant="another")
        costs = await caller("costs", "route", tenant="acme")
        assert {row.key: row.cost.total_nano_usd for row in costs.rows} == {
            "opus": bills[0],
            "flash": bills[1],
        }
        assert (await caller("costs", "total", tenant="another")).total.call_count == 0


@both
async def test_a_conversation_changes_route_in_mid_tool_loop_history(
    service: Service, blocking: bool
) -> None:
    """Answers appended as they came pass both providers' validation, whatever route took the turn before."""
    chat, find = Conversation(), tool("find", "Find it.", {"type": "object", "properties": {}})
    async with calling(service.app.address, blocking) as caller:
        for number, route in enumerate(("flash", "opus", "flash", "opus")):
            chat.say(f"Turn {number} [[sandbox thinking=40]] [[sandbox tool=find args={{}}]]")
            reply = await caller("generate", chat, application="", tools=[find], route=route)
            chat.add(reply)
            assert chat.open_calls, "the sandbox was told to call"
            chat.answer_calls(*(tool_result(call, "nothing") for call in chat.open_calls))
            reply = await caller("generate", chat, application="", tools=[find], route=route)
            chat.add(reply)
            assert not chat.open_calls
    assert [message.role for message in chat] == [content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT] * 8
    assert {each.outcome for each in await service.settled(8)} == {Outcome.OK}


@both
async def test_many_calls_at_once_share_one_client(service: Service, blocking: bool) -> None:
    """Sixty callers, unary and streamed, over one channel: each gets its own answer, and the books agree."""
    async with calling(service.app.address, blocking) as caller:

        async def ask(number: int) -> int:
            if number % 2:
                return (await caller.events(f"Case {number}", route="flash"))[-1].accounting.total_nano_usd
            return (await caller("generate", f"Case {number}", route="flash")).accounting.total_nano_usd

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(number)) for number in range(60)]
    settled = await service.settled(60)
    assert len({each.intent.request_id for each in settled}) == 60
    assert sorted(task.result() for task in asked) == sorted(each.cost.total_nano_usd for each in settled)


async def test_a_trace_is_continued_by_the_callers_metadata(service: Service) -> None:
    """The hook is asked at every call, in the caller's context; no telemetry library is needed."""
    trace_ids = iter(("a" * 32, "b" * 32))
    with Client(
        service.app.address,
        application=APPLICATION,
        metadata=lambda: [("traceparent", f"00-{next(trace_ids)}-{'c' * 16}-01")],
    ) as client:
        replies = [await asyncio.to_thread(client.generate, "Hello", route="flash") for _ in range(2)]
    assert [reply.trace_id for reply in replies] == ["a" * 32, "b" * 32]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def at(port: int):
    """Settings of a router on a known port."""
    return config(server=ServerConfig(listen=f"127.0.0.1:{port}", grace_s=10.0))


@both
@pytest.mark.parametrize("stream", [False, True])
async def test_a_router_that_comes_up_meanwhile_answers(blocking: bool, stream: bool) -> None:
    """The first tries find nobody; a later one, within the same call, is answered, and billed once."""
    port = free_port()
    async with calling(f"127.0.0.1:{port}", blocking, STUBBORN) as caller, asyncio.TaskGroup() as group:
        ask = caller.events("Hello") if stream else caller("generate", "Hello")
        asking = group.create_task(ask)
        with pytest.raises(Unavailable) as caught:
            async with calling(f"127.0.0.1:{port}", blocking, Settings(attempt_limit=1)) as impatient:
                await impatient("generate", "Hello")
        assert caught.value.reason == ""
        assert caught.value.request_id
        assert not asking.done()
        async with serving(at(port)) as service:
            answered = await asking
            assert len(await service.settled(1)) == 1
    assert (answered[-1] if stream else answered).accounting.cost.total_nano_usd > 0


@both
async def test_a_client_outlives_its_server(blocking: bool) -> None:
    """One channel: asked, server gone and back on the same port, asked again."""
    port = free_port()
    async with calling(f"127.0.0.1:{port}", blocking, STUBBORN) as caller:
        for _ in range(2):
            async with serving(at(port)) as service:
                assert text_of(await caller("generate", "Hello"))
                assert len(await service.settled(1)) == 1


@both
async def test_waiting_for_a_connection_ends_with_the_deadline(blocking: bool) -> None:
    """wait_for_ready waits, but not longer than it was given."""
    async with calling(f"127.0.0.1:{free_port()}", blocking) as caller:
        with pytest.raises(DeadlineExceeded) as caught:
            await caller("generate", "Hello", wait_for_ready=True, timeout_s=0.2)
        assert caught.value.request_id
        with pytest.raises(DeadlineExceeded):
            await caller.events("Hello", wait_for_ready=True, timeout_s=0.2)


@dataclass
class Script(RouterServiceServicer, SessionServiceServicer):
    """A server that fails as told, then answers; it counts what reaches it.

    Attributes:
        failures: Status of each try, in order; what comes after them is answered.
        retry_s: RetryInfo that goes with them; None for none.
        events: Events a failing stream sends first.
        answer: What is answered in the end.
        finishes: Whether a stream sends its last event.
    """

    failures: list[grpc.StatusCode] = field(default_factory=list)
    retry_s: float | None = None
    events: Sequence[pb.StreamGenerateResponse] = ()
    answer: str = "Yes."
    finishes: bool = True
    tries: list[tuple[tuple[str, str], ...]] = field(default_factory=list)

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext):
        await self._fail(context)
        return pb.GenerateResponse(answer=self._answer())

    async def StreamGenerate(self, request: pb.StreamGenerateRequest, context: grpc.aio.ServicerContext):
        # As the router does: headers at once, which a channel takes for the beginning of the answer.
        await context.send_initial_metadata(())
        for event in self.events:
            yield event
        await self._fail(context)
        if self.finishes:
            yield pb.StreamGenerateResponse(finished=pb.Finished(answer=self._answer()))

    async def OpenSession(self, request: object, context: grpc.aio.ServicerContext) -> None:
        await self._fail(context)

    def _answer(self) -> pb.Answer:
        return pb.Answer(parts=[content_pb2.Part(text=content_pb2.TextPart(text=self.answer))])

    async def _fail(self, context: grpc.aio.ServicerContext) -> None:
        self.tries.append(tuple((key, str(value)) for key, value in context.invocation_metadata()))
        if len(self.tries) > len(self.failures):
            return
        code = self.failures[len(self.tries) - 1]
        proto = Status(code=code.value[0], message="by script")
        if self.retry_s is not None:
            packed, info = AnyMessage(), RetryInfo()
            info.retry_delay.FromNanoseconds(round(self.retry_s * 1e9))
            packed.Pack(info)
            proto.details.append(packed)
        said = rpc_status.to_status(proto)
        await context.abort(said.code, said.details, said.trailing_metadata)


@asynccontextmanager
async def scripted(script: Script, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[str]:
    """Serve a script on a free port, in plaintext or with credentials."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    add_RouterServiceServicer_to_server(script, server)
    add_SessionServiceServicer_to_server(script, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@both
async def test_a_stream_without_its_last_event_is_a_fault(blocking: bool) -> None:
    """A proxy that ends a stream early and calls it a success leaves no bill: said, not passed over."""
    script = Script(finishes=False)
    async with scripted(script) as address:
        if blocking:
            with Client(address) as client:
                came = await outcome(asyncio.to_thread(client.stream("Hello").result))
        else:
            async with AsyncClient(address) as client:
                came = await outcome(client.stream("Hello").result())
    assert type(came) is ServerFault
    assert came.message == "the stream ended without its last event"


async def outcome(asked: Awaitable[Result]) -> Result | CallFailed:
    """What came of it, an error included."""
    try:
        return await asked
    except CallFailed as error:
        return error


@both
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("failure_count", "answered"), [(1, True), (3, True), (4, False)])
async def test_unavailable_is_tried_four_times_under_one_request_id(
    blocking: bool, stream: bool, failure_count: int, answered: bool
) -> None:
    """Unary by the channel, a stream by its iterator: neither more nor less, and the ledger can tell they belong."""
    script = Script([UNAVAILABLE] * failure_count)
    async with scripted(script) as address, calling(address, blocking) as caller:
        asked = caller.events("Hello") if stream else caller("generate", "Hello")
        came = await outcome(asked)
    assert isinstance(came, Unavailable) is not answered
    assert len(script.tries) == min(failure_count + 1, 4)
    assert len({dict(metadata)["x-request-id"] for metadata in script.tries}) == 1


@both
@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_but_unavailable_is_tried_again(
    blocking: bool, stream: bool, code: grpc.StatusCode
) -> None:
    """It may have been billed, or will fail again: one try, even when a wait is advised."""
    script = Script([code], retry_s=0.001)
    async with scripted(script) as address, calling(address, blocking) as caller:
        came = await outcome(caller.events("Hello") if stream else caller("generate", "Hello"))
    assert isinstance(came, CallFailed)
    assert (came.code, came.retry_delay_s, len(script.tries)) == (code, 0.001, 1)


@both
async def test_a_stream_is_never_tried_again_after_its_first_event(blocking: bool) -> None:
    """The decision alone suffices: from there on something may have been billed."""
    decided = pb.StreamGenerateResponse(decided=pb.Decided(request_id="r"))
    script = Script([UNAVAILABLE], events=[decided])
    async with scripted(script) as address, calling(address, blocking) as caller:
        with pytest.raises(Unavailable, match="by script"):
            await caller.events("Hello")
    assert len(script.tries) == 1


@both
@pytest.mark.parametrize(("retry_s", "tries"), [(0.05, 2), (600.0, 1)])
async def test_a_stream_waits_as_the_server_asks_or_tells_its_caller(
    blocking: bool, retry_s: float, tries: int
) -> None:
    """A short RetryInfo is waited for, a long one is raised at once with its delay."""
    script = Script([UNAVAILABLE], retry_s=retry_s)
    async with scripted(script) as address, calling(address, blocking) as caller:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        came = await outcome(caller.events("Hello"))
        took_s = loop.time() - started_s
    assert len(script.tries) == tries
    if tries == 1:
        assert isinstance(came, Unavailable)
        assert came.retry_delay_s == retry_s
    else:
        assert isinstance(came[-1], Finished)
        assert took_s >= retry_s


@both
async def test_closing_ends_the_wait_for_another_try(blocking: bool) -> None:
    """Nobody sleeps on for a stream that was closed, and no try follows."""
    script, patient = Script([UNAVAILABLE], retry_s=500.0), Settings(retry_wait_limit_s=1000, timeout_s=2000)
    async with scripted(script) as address, asyncio.timeout(TIMEOUT_S):
        if blocking:
            with Client(address, settings=patient) as client:
                stream = client.stream("Hello")
                reading = asyncio.create_task(asyncio.to_thread(list, stream))
                while stream._failed_count == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0)  # nobody tells of a try that failed
                stream.close()
                assert await reading == []
        else:
            async with AsyncClient(address, settings=patient) as client:
                stream = client.stream("Hello")
                reading = asyncio.create_task(outcome(anext(stream, None)))
                while stream._failed_count == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0)  # nobody tells of a try that failed
                stream.close()
                assert await reading is None
    assert len(script.tries) == 1


@both
async def test_opening_a_session_is_never_tried_again(blocking: bool) -> None:
    """A first try that was carried out would make the second fail."""
    script = Script([UNAVAILABLE] * 2)
    async with scripted(script) as address, calling(address, blocking) as caller:
        with pytest.raises(Unavailable):
            await caller("open_session", "s-1", user_context="Plan: enterprise.", idle_ttl_s=60)
        with pytest.raises(Unimplemented):
            await caller("close_session", "s-1")
        assert len(script.tries) == 1


@both
async def test_messages_of_many_megabytes_pass(blocking: bool) -> None:
    """gRPC's own limit is 4 MiB; documents are larger, and so may answers be."""
    script = Script(answer="x" * (20 << 20))
    async with scripted(script) as address, calling(address, blocking) as caller:
        reply = await caller("generate", "y" * (20 << 20))
    assert len(text_of(reply)) == 20 << 20


async def test_a_session_that_moved_on_is_a_conflict() -> None:
    """ABORTED is the caller's to look at: read the session again, then decide."""
    script = Script([grpc.StatusCode.ABORTED])
    async with scripted(script) as address, AsyncClient(address) as client:
        with pytest.raises(Conflict):
            await client.generate("Hello", session="s", session_version=3)
    assert len(script.tries) == 1


async def test_credentials_are_the_callers() -> None:
    """Both clients open a secure channel when they are given credentials."""
    async with scripted(Script(), grpc.local_server_credentials()) as address:
        with Client(address, credentials=grpc.local_channel_credentials()) as client:
            assert text_of(await asyncio.to_thread(client.generate, "Hello")) == "Yes."
        async with AsyncClient(address, credentials=grpc.local_channel_credentials()) as client:
            assert text_of(await client.generate("Hello")) == "Yes."
