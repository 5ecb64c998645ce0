"""Sessions the server holds, over real gRPC: the same requests, bills and answers as a caller who keeps the history."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo

from router.config import SessionsConfig
from router.sandbox import Fault
from router.v1 import accounting_pb2, content_pb2
from router.v1 import router_service_pb2 as pb
from router.v1 import session_service_pb2 as sessions_pb
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.e2e import test_padding as padded
from tests.e2e.builders import (
    APPLICATION,
    FLASH,
    OPUS,
    START_TIME_S,
    as_stream,
    assistant,
    config,
    context_of,
    generate,
    said,
    tool_result,
    user,
)
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of

CODE = grpc.StatusCode


def stub(service: Service) -> SessionServiceStub:
    """The session service of a running router."""
    return SessionServiceStub(service.channel)


async def opened(service: Service, session: str = "s", *messages, tenant: str = "acme", **more):
    """Open a session of the test's application."""
    request = sessions_pb.OpenSessionRequest(
        session=session, application=APPLICATION, tenant=tenant, messages=messages, **more
    )
    return (await stub(service).OpenSession(request, timeout=TIMEOUT_S)).session


async def got(service: Service, session: str = "s", *, tenant: str = "acme", messages: bool = True):
    """The session as the server tells it."""
    request = sessions_pb.GetSessionRequest(session=session, tenant=tenant, include_messages=messages)
    return await stub(service).GetSession(request, timeout=TIMEOUT_S)


async def closed(service: Service, session: str = "s", *, tenant: str = "acme"):
    """Close the session."""
    request = sessions_pb.CloseSessionRequest(session=session, tenant=tenant)
    return (await stub(service).CloseSession(request, timeout=TIMEOUT_S)).session


def turn(*messages, version: int | None = None, session: str = "s", **more) -> pb.GenerateRequest:
    """A turn: only the new messages, and no application."""
    request = generate(*messages, application="", session=session, **more)
    if version is not None:
        request.prompt.session_version = version
    return request


@asynccontextmanager
async def refused(code: grpc.StatusCode, *words: str, reason: str | None = None):
    """The block ends in an RPC error of this code whose text has all the words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    error = caught.value
    assert error.code() is code, error.details()
    for word in words:
        assert word in error.details()
    if reason is not None:
        assert detail(status_of(error), ErrorInfo).reason == reason


# --- a held session and its stateless twin


class Wire:
    """Bodies of the requests that reach a sandbox's providers."""

    def __init__(self, service: Service) -> None:
        self.bodies: list[bytes] = []
        handle = service.sandbox.handle

        async def watched(request):
            if b"count" not in request.path.encode():
                self.bodies.append(request.body)
            return await handle(request)

        service.sandbox.handle = watched


ROUTES = (OPUS, OPUS, FLASH, OPUS, FLASH, FLASH, OPUS, OPUS)
SAYINGS = (
    "Which tickets are overdue?",
    'Look them up. [[sandbox tool=search_tickets args={"account":"a-1"} thinking=120]]',
    None,  # the results of what was called
    "And who owns them? [[sandbox thinking=80 tokens=90]]",
    'Read both accounts. [[sandbox tool=read_account args={"account":"a-1"} tool=read_account args={"account":"a-2"}]]',
    None,
    "Sum it up. [[sandbox tokens=200 thinking=50]]",
    "Shorter.",
)


def results_for(answer: pb.Answer) -> content_pb2.Message:
    """A result for every call of an answer, in one user message."""
    calls = [part.tool_call for part in answer.parts if part.HasField("tool_call")]
    assert calls
    parts = [tool_result(call.id, f"Three of {call.name}.").parts[0] for call in reversed(calls)]
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts)


async def converse(service: Service, *, held: bool, streamed: bool, contexts=(), strategy=0) -> list:
    """Eight turns on forced routes, 40 s apart; what each was billed and answered."""
    if held:
        await opened(service)
    history: list[content_pb2.Message] = []
    told, answer, version = [], None, 1
    for number, (route, saying) in enumerate(zip(ROUTES, SAYINGS, strict=True)):
        service.clock.advance(40)
        new = user(saying) if saying else results_for(answer)
        history.append(new)
        more = {"route": route, "strategy": strategy}
        if contexts:
            more["context"] = (contexts[number],)
        request = turn(new, version=version, **more) if held else generate(*history, session="s", **more)
        request.prompt.include_thinking = True
        if streamed:
            finished = (await service.stream(request))[-1].finished
            answer, accounting, after = finished.answer, finished.accounting, finished.session_version
        else:
            response = await service.generate(request)
            answer, accounting, after = response.answer, response.accounting, response.session_version
        assert after == (version + 1 if held else 0)
        version += 1
        history.append(said(answer))
        told.append(
            (accounting.total_nano_usd, accounting.usage, list(answer.parts), accounting.cache_report.plan)
        )
    if held:
        session = await got(service)
        assert list(session.messages) == history
        assert (session.session.version, session.session.message_count) == (version, len(history))
        assert session.session.cost_nano_usd == sum(total for total, *_ in told)
    return told


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "streamed"])
@pytest.mark.parametrize(
    ("contexts", "strategy"),
    [
        ((), accounting_pb2.CACHE_STRATEGY_UNSPECIFIED),
        ((context_of("ann"),) * 8, accounting_pb2.CACHE_STRATEGY_C),
        (tuple(context_of(f"ann on day {number // 3}") for number in range(8)), 0),
    ],
    ids=["plain", "context", "context that changes"],
)
async def test_a_held_session_is_its_stateless_twin(streamed, contexts, strategy):
    """Bodies to both providers, bills to the nano-dollar, answers and cache plans are equal; so are both invoices."""
    seen = []
    for held in (True, False):
        async with serving() as service:
            wire = Wire(service)
            told = await converse(service, held=held, streamed=streamed, contexts=contexts, strategy=strategy)
            seen.append((wire.bodies, told, sum(line.cost_nano_usd for line in service.invoice)))
    (held_bodies, held_told, held_total), (bodies, told, total) = seen
    assert len(bodies) == 8
    assert held_bodies == bodies
    assert held_told == told
    assert held_total == total == sum(cost for cost, *_ in told)
    assert any(usage.cache_read_tokens for _, usage, _, _ in told)
    assert any(part.HasField("thinking") for _, _, parts, _ in told for part in parts)


async def test_context_once_given_is_kept_until_another_is():
    """The session's own context is sent without being given; a turn's own replaces it for good."""
    async with serving() as service:
        wire = Wire(service)
        await opened(service, user_context=["Ann reads Danish."])
        await service.generate(turn(user("Hello"), route=OPUS))
        await service.generate(turn(user("Again"), route=OPUS, context=("Ann reads Swedish.",)))
        await service.generate(turn(user("Once more"), route=OPUS))
    told = [(b"Danish" in body, b"Swedish" in body) for body in wire.bodies]
    assert told == [(True, False), (False, True), (False, True)]


async def test_a_session_goes_on_from_messages_said_elsewhere():
    """History brought along, ending in a tool call: its result is the first turn."""
    call = content_pb2.ToolCallPart(id="c1", name="search_tickets", arguments_json='{"account":"a"}')
    asked = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(tool_call=call)])
    async with serving() as service:
        session = await opened(service, "s", user("Look it up."), asked)
        assert (session.version, session.message_count, session.held) == (1, 2, True)
        async with refused(CODE.INVALID_ARGUMENT, "prompt.messages", "'c1'", "has no result"):
            await service.generate(turn(user("Never mind.")))
        async with refused(CODE.INVALID_ARGUMENT, "tool_call_id", "'c2'", "answers no open call"):
            await service.generate(turn(tool_result("c2", "Two.")))
        response = await service.generate(turn(tool_result("c1", "Two."), version=1))
        assert response.session_version == 2
        assert (await got(service)).session.message_count == 4


# --- opening, reading, closing


async def test_a_session_has_a_life():
    """Opened with what was given, read while it lives, closed with its totals, and then forgotten."""
    async with serving() as service:
        session = await opened(service, user="ann", idle_ttl=Duration(seconds=90))
        assert (session.session, session.tenant, session.application, session.user) == (
            "s",
            "acme",
            APPLICATION,
            "ann",
        )
        assert (session.version, session.request_count, session.held) == (1, 0, True)
        assert session.create_time.seconds == START_TIME_S
        assert session.expire_time.seconds == START_TIME_S + 90
        service.clock.advance(60)
        response = await service.generate(
            turn(user("Hello"), route=OPUS, strategy=accounting_pb2.CACHE_STRATEGY_B)
        )
        read = await got(service, messages=False)
        assert not read.messages
        assert read.session.expire_time.seconds == START_TIME_S + 150
        assert read.session.warm_probability > 0.9
        assert read.session.warm_tokens == response.accounting.usage.cache_write_5m_tokens > 0
        assert read.session.create_time.seconds == START_TIME_S
        ended = await closed(service)
        assert (ended.version, ended.request_count, ended.message_count) == (2, 1, 2)
        assert ended.cost_nano_usd == response.accounting.total_nano_usd
        after = await got(service)
        assert (after.session.held, after.session.version, len(after.messages)) == (False, 0, 0)
        assert after.session.cost_nano_usd == ended.cost_nano_usd
        async with refused(CODE.NOT_FOUND, "'s'", "does not hold it") as caught:
            await closed(service)
        assert detail(status_of(caught.value), ResourceInfo).resource_name == "s"


async def test_an_id_is_made_when_none_is_given():
    """Two sessions without a name are two; nothing was warmed, and it says why."""
    request = sessions_pb.OpenSessionRequest(application=APPLICATION, tenant="acme")
    async with serving() as service:
        one, two = [await stub(service).OpenSession(request, timeout=TIMEOUT_S) for _ in range(2)]
        assert one.session.session != two.session.session
        assert len(one.session.session) == 32
        assert not one.warm.warmed
        assert "policy is 'off'" in one.warm.reason


async def test_an_open_id_is_taken():
    """Opening it anew would lose what it holds; another tenant's is another."""
    async with serving() as service:
        await opened(service)
        async with refused(CODE.ALREADY_EXISTS, "'s'", "open already", reason="ALREADY_EXISTS"):
            await opened(service)
        await opened(service, tenant="other")
        await closed(service)
        await opened(service)


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"application": "unknown"}, CODE.NOT_FOUND, ""),
        ({"session": "x" * 129}, CODE.INVALID_ARGUMENT, "session"),
        ({"tenant": "x" * 129}, CODE.INVALID_ARGUMENT, "tenant"),
        ({"user_context": [" "]}, CODE.INVALID_ARGUMENT, "user_context[0]"),
        ({"messages": [assistant("Hi.")]}, CODE.INVALID_ARGUMENT, "messages[0].role"),
        ({"messages": [user("a"), tool_result("c9", "b")]}, CODE.INVALID_ARGUMENT, "messages[1].parts[0]"),
        ({"idle_ttl": Duration(seconds=0)}, CODE.INVALID_ARGUMENT, "idle_ttl"),
        ({"idle_ttl": Duration(seconds=86_401)}, CODE.INVALID_ARGUMENT, "idle_ttl"),
    ],
)
async def test_what_cannot_be_opened_is_told_by_its_field(changes, code, field):
    """Messages are held to the rules of a request's; nothing is opened."""
    asked = {"session": "s", "application": APPLICATION, "tenant": "acme"} | changes
    async with serving() as service:
        async with refused(code) as caught:
            await stub(service).OpenSession(sessions_pb.OpenSessionRequest(**asked), timeout=TIMEOUT_S)
        if field:
            (violation,) = detail(status_of(caught.value), BadRequest).field_violations
            assert violation.field.startswith(field)
        async with refused(CODE.NOT_FOUND):
            await got(service)


# --- turns that are refused


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generate(user("Hi"), application="other", session="s"), "prompt.application"),
        (turn(user("Hi"), assistant("Hello"), user("Hi")), "prompt.messages[1].role"),
        (turn(), "prompt.messages"),
        (turn(tool_result("c1", "x")), "prompt.messages[0].parts[0].tool_result.tool_call_id"),
    ],
    ids=["application", "history", "nothing", "result"],
)
async def test_a_turn_brings_only_itself(request_, field):
    """What the session holds may not be brought again; nothing is sent and the session is as it was."""
    async with serving() as service:
        await opened(service)
        async with refused(CODE.INVALID_ARGUMENT) as caught:
            await service.generate(request_)
        (violation,) = detail(status_of(caught.value), BadRequest).field_violations
        assert violation.field == field
        assert len(service.invoice) == 0
        assert (await service.generate(turn(user("Hi"), version=1))).session_version == 2


async def test_a_turn_brings_no_layers():
    """System prompt and tools are the application's that the session was opened with."""
    async with serving() as service:
        await opened(service)
        for field in ("system", "tools"):
            request = turn(user("Hi"))
            if field == "system":
                request.prompt.system.append("Be rude.")
            else:
                request.prompt.tools.add(name="other")
            async with refused(CODE.INVALID_ARGUMENT, f"prompt.{field}"):
                await service.generate(request)


async def test_another_version_is_refused():
    """A caller that missed an answer is told where the session is, and pays nothing."""
    async with serving() as service:
        await opened(service)
        await service.generate(turn(user("One"), version=1))
        billed = len(service.invoice)
        for request in (turn(user("Two"), version=1), turn(user("Two"), version=7)):
            async with refused(CODE.ABORTED, "is at version 2", "GetSession", reason="CONFLICT"):
                await service.generate(request)
            async with refused(CODE.ABORTED, reason="CONFLICT"):
                await service.stream(request)
            async with refused(CODE.ABORTED, reason="CONFLICT"):
                await service.explain(request)
        assert len(service.invoice) == billed
        assert (await service.generate(turn(user("Two"), version=2))).session_version == 3


async def test_a_history_that_is_not_held_is_not_answered_without():
    """A turn that names a version counts on a history; where none is held, that is an error. Others are stateless."""
    async with serving() as service:
        async with refused(CODE.NOT_FOUND, "'s'", "restart", "open it again"):
            await service.generate(turn(user("And then?"), version=3))
        async with refused(CODE.NOT_FOUND):
            await service.explain(turn(user("And then?"), version=3))
        async with refused(CODE.INVALID_ARGUMENT, "prompt.session_version"):
            await service.generate(turn(user("And then?"), version=3, session=""))
        assert len(service.invoice) == 0
        assert (await service.generate(generate(user("Hi"), session="s"))).session_version == 0


async def test_a_restart_loses_what_was_held():
    """Held sessions live in memory: the next turn is told so, and opening with the messages goes on."""
    async with serving() as service:
        await opened(service)
        await service.generate(turn(user("One"), version=1))
        history = list((await got(service)).messages)
    async with serving() as service:
        async with refused(CODE.NOT_FOUND, "lost in a restart"):
            await service.generate(turn(user("Two"), version=2))
        session = await opened(service, "s", *history)
        assert session.message_count == 2
        await service.generate(turn(user("Two"), version=1))


async def test_tenants_are_apart():
    """Another tenant's session does not exist, whatever is asked of it."""
    async with serving() as service:
        await opened(service)
        async with refused(CODE.NOT_FOUND):
            await got(service, tenant="other")
        async with refused(CODE.NOT_FOUND):
            await closed(service, tenant="other")
        async with refused(CODE.NOT_FOUND):
            await service.generate(turn(user("Hi"), version=1, tenant="other"))
        response = await service.generate(generate(user("Hi"), session="s", tenant="other"))
        assert response.session_version == 0
        assert (await got(service)).session.version == 1


async def test_it_expires_by_the_clock():
    """Its idle TTL after its last turn it is gone; asking does not keep it, a turn does."""
    async with serving() as service:
        await opened(service, idle_ttl=Duration(seconds=100))
        service.clock.advance(99)
        await service.generate(turn(user("One"), version=1))
        service.clock.advance(99)
        assert (await got(service)).session.held
        service.clock.advance(1)
        async with refused(CODE.NOT_FOUND, "expired"):
            await service.generate(turn(user("Two"), version=2))
        assert not (await got(service)).session.held
        assert (await opened(service)).version == 1


# --- turns that do not end


async def test_of_two_turns_at_once_the_first_wins():
    """The other is told at once, pays nothing and may be sent again; a session with a turn is not closed."""
    async with serving() as service:
        await opened(service)
        service.sandbox.inject(Fault(kind="stall", stall_s=5.0))
        async with asyncio.TaskGroup() as group:
            first = group.create_task(service.generate(turn(user("First"), route=OPUS, version=1)))
            await service.clock.held()
            for request in (turn(user("Second"), version=1), turn(user("Second"))):
                async with refused(CODE.ABORTED, "another turn in progress", reason="SESSION_BUSY"):
                    await service.generate(request)
                async with refused(CODE.ABORTED, reason="SESSION_BUSY"):
                    await service.stream(request)
            async with refused(CODE.ABORTED, reason="SESSION_BUSY"):
                await closed(service)
            assert (await got(service)).session.version == 1
            await service.explain(turn(user("Second"), version=1))
            service.clock.advance(5.0)
        assert first.result().session_version == 2
        assert len(await service.settled(1)) == 1
        async with refused(CODE.ABORTED, reason="CONFLICT"):
            await service.generate(turn(user("Second"), version=1))
        assert (await service.generate(turn(user("Second"), version=2))).session_version == 3


@pytest.mark.parametrize("route", [OPUS, FLASH], ids=["opus", "flash"])
async def test_a_caller_that_leaves_in_mid_stream_leaves_the_history(route):
    """The turn is booked and forgotten; the same turn can be asked again, and its request is the same."""
    async with serving() as service:
        wire = Wire(service)
        await opened(service)
        await service.generate(turn(user("One"), route=route))
        before = await got(service)
        service.sandbox.inject(Fault(kind="stall", after_events=4))
        request = turn(user("Tell the whole story."), route=route, version=2)
        call = service.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
        reading = asyncio.ensure_future(_read(call))
        await service.clock.held()
        call.cancel()
        await reading
        await service.settled(2)
        after = await got(service)
        assert list(after.messages) == list(before.messages)
        assert after.session.version == 2
        finished = (await service.stream(request))[-1].finished
        assert finished.session_version == 3
        assert wire.bodies[1] == wire.bodies[2]


async def _read(call) -> None:
    try:
        async for _ in call:
            pass
    except (asyncio.CancelledError, grpc.aio.AioRpcError):
        return


@pytest.mark.parametrize("kind", ["cut", "error_event"])
@pytest.mark.parametrize("route", [OPUS, FLASH], ids=["opus", "flash"])
async def test_a_broken_stream_leaves_the_history_and_says_so(kind, route):
    """Half an answer has no signatures: it is billed, not kept, and the error says where the session is."""
    async with serving() as service:
        await opened(service)
        await service.generate(turn(user("One"), route=route))
        service.sandbox.inject(Fault(kind=kind, after_events=4))
        request = turn(user("Tell the whole story."), route=route, version=2)
        async with refused(CODE.ABORTED, "version 2 as before", "signatures", "send the turn again"):
            await service.stream(request)
        session = await got(service)
        assert (session.session.version, len(session.messages)) == (2, 2)
        await service.settled(2)
        assert (await service.stream(request))[-1].finished.session_version == 3


async def test_a_turn_that_fails_leaves_the_session_usable():
    """A provider that refuses, and a request that no provider takes: nothing is kept, and the claim is given back."""
    async with serving() as service:
        await opened(service)
        service.sandbox.inject(Fault(kind="overloaded", times=4))
        with pytest.raises(grpc.aio.AioRpcError):
            await service.generate(turn(user("One"), route=OPUS, no_fallback=True))
        request = turn(user("One"), version=1)
        request.prompt.max_output_tokens = 1_000_000
        async with refused(CODE.INVALID_ARGUMENT, "max_output_tokens"):
            await service.generate(request)
        assert (await got(service)).session.version == 1
        service.sandbox.reset()
        assert (await service.generate(turn(user("One"), version=1))).session_version == 2


@pytest.mark.parametrize(
    ("asks", "route"),
    [
        ("BAD [[sandbox block=SAFETY]]", FLASH),
        ('[[sandbox stop=refusal thinking=20 tool=search_tickets args={"account":"a"}]]', OPUS),
        ('[[sandbox stop=MALFORMED_FUNCTION_CALL tool=search_tickets args={"account":"a"}]]', FLASH),
        ('[[sandbox stop=LANGUAGE tool=search_tickets args={"account":"a"}]]', FLASH),
    ],
)
async def test_a_refused_turn_does_not_brick_the_session(asks, route):
    """What was refused is no history: the version stays, the answer is given and billed, and the next turn goes on."""
    async with serving() as service:
        await opened(service)
        refused_turn = await service.generate(turn(user(asks), version=1, route=route))
        assert refused_turn.answer.finish_reason in (
            content_pb2.FINISH_REASON_REFUSAL,
            content_pb2.FINISH_REASON_MALFORMED,
        )
        assert refused_turn.session_version == 1
        assert refused_turn.accounting.total_nano_usd > 0
        assert len((await got(service)).messages) == 0
        nice = await service.generate(turn(user("nice"), version=1, route=route))
        assert (nice.session_version, nice.answer.finish_reason) == (2, content_pb2.FINISH_REASON_END_TURN)


async def test_explaining_a_turn_changes_nothing():
    """It explains over the whole history, what the turn then does; the session and its expiry are as before."""
    async with serving() as service:
        await opened(service)
        for number in range(3):
            await service.generate(turn(user(f"Question {number}"), route=OPUS))
        before = await got(service)
        request = turn(user("And now?"), route=OPUS, version=4)
        explained = await service.explain(request)
        assert await got(service) == before
        response = await service.generate(request)
        assert response.accounting.cache_report.plan == explained.plan
        assert response.accounting.cache_report.plan.expected_read_tokens > 0


# --- limits


def limited(**limits):
    """Settings with small limits."""
    return config(sessions=SessionsConfig(**limits))


async def test_what_lives_is_never_given_up_for_another():
    """At the limit opening is refused, with the limit; what has expired makes room."""
    async with serving(limited(held_limit=2)) as service:
        await opened(service, "one", idle_ttl=Duration(seconds=10))
        await opened(service, "two")
        async with refused(
            CODE.RESOURCE_EXHAUSTED, "held_limit", "2 sessions", reason="SESSIONS_FULL"
        ) as caught:
            await opened(service, "three")
        assert detail(status_of(caught.value), QuotaFailure).violations[0].subject == "sessions"
        service.clock.advance(10)
        await opened(service, "three")
        assert (await service.generate(turn(user("Hi"), session="two", version=1))).session_version == 2


async def test_a_session_has_a_size():
    """A turn that would pass it is refused before it costs, with value and limit; the session can still be read."""
    async with serving(limited(session_bytes_limit=4096, session_message_limit=4)) as service:
        async with refused(CODE.FAILED_PRECONDITION, "session_bytes_limit", "4096"):
            await opened(service, "big", user("x" * 5000))
        async with refused(CODE.INVALID_ARGUMENT, "messages", "at most 4"):
            await opened(service, "long", *[user("x")] * 5)
        await opened(service)
        async with refused(
            CODE.FAILED_PRECONDITION, "session_bytes_limit", "4096", reason="SESSION_TOO_LARGE"
        ):
            await service.generate(turn(user("x" * 5000), version=1))
        for number in (1, 2):
            await service.generate(turn(user("Hi. [[sandbox tokens=20]]"), version=number))
        billed = len(service.invoice)
        async with refused(CODE.FAILED_PRECONDITION, "session_message_limit", "4 messages"):
            await service.generate(turn(user("Hi"), version=3))
        assert len(service.invoice) == billed
        assert len((await got(service)).messages) == 4


async def test_all_sessions_have_a_size():
    """Bytes of all sessions are bounded, for opening and for turns."""
    async with serving(limited(bytes_limit=1 << 20)) as service:
        await opened(service, "s", user("x" * 900_000), assistant("y"))
        async with refused(CODE.RESOURCE_EXHAUSTED, "bytes_limit", str(1 << 20)):
            await opened(service, "t", user("x" * 200_000))
        async with refused(CODE.RESOURCE_EXHAUSTED, "bytes_limit"):
            await service.generate(turn(user("x" * 200_000), version=1))
        await closed(service)
        await opened(service, "t", user("x" * 200_000))


async def test_what_was_said_is_not_logged(caplog):
    """Neither turns nor failures leave a word of the conversation in the log."""
    async with serving() as service:
        await opened(service, "s", user("the secret of the house"), assistant("is kept"))
        await service.generate(turn(user("what was the secret of the house?")))
        async with refused(CODE.ABORTED):
            await service.generate(turn(user("the secret of the house again"), version=9))
        await closed(service)
    assert "secret of the house" not in caplog.text


async def test_an_action_without_a_name_is_refused():
    """The field is named."""
    async with serving() as service, refused(CODE.INVALID_ARGUMENT, "action", "64 characters"):
        await stub(service).ReportAction(sessions_pb.ReportActionRequest(session="s"), timeout=TIMEOUT_S)


async def test_padding_that_begins_in_mid_session_is_the_twins():
    """An application is lengthened after a session's second turn: then it is spelled anew, as its twin's is."""
    seen = []
    for held in (True, False):
        async with serving(padded.settings(padded.FILLER)) as service:
            wire, history, told = Wire(service), [], []
            if held:
                await opened(service)
            for number, asked in enumerate((padded.PADDED_FROM - 2, 0, 4, 0, 0)):
                for other in range(asked):
                    await service.generate(padded.question(100 * number + other))
                    service.clock.advance(padded.GAP_S)
                history.append(user(f"And in week {number}?"))
                more = {"route": OPUS, "session": "s"}
                response = await service.generate(
                    turn(history[-1], **more) if held else generate(*history, **more)
                )
                history.append(said(response.answer))
                told.append(
                    (response.accounting.total_nano_usd, response.accounting.cache_report.padding_tokens)
                )
            seen.append((wire.bodies, told))
    assert seen[0] == seen[1]
    assert [bool(tokens) for _, tokens in seen[0][1]] == [False, False, True, True, True]
