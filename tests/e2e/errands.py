"""A day's worth of calls of every kind, and callers who carry them out against a server that may die at any moment.

An errand is one call to the router, or a session's opening, or a herd of calls at once. Which errands there are follows
from a seed alone; in which order they end does not. Every call carries its errand's number as `x-request-id`, which the
ledger keeps as the beginning of its own id: so each row of the books can be traced to the errand that caused it, also
when the caller never got an answer.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import grpc

from router.v1 import accounting_pb2, feedback_service_pb2, session_service_pb2
from router.v1 import router_service_pb2 as pb
from router.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.e2e.builders import APPLICATION, FLASH, OPUS, as_stream, assistant, generate, prose, user
from tests.e2e.process import ServerProcess
from tests.e2e.service import TIMEOUT_S

BRIEF_S = 0.25
"""Deadline of callers in a hurry: some of their calls are answered, most are not."""
HERD = 20
TENANTS = ("acme", "globex", "initech")


class Kind(StrEnum):
    """What an errand is."""

    UNARY = "unary"
    STREAM = "stream"
    LEFT = "left"
    HURRIED = "hurried"
    FAULT = "fault"
    BROKEN = "broken"
    TALK = "talk"
    WARMED = "warmed"
    HERD = "herd"


SHARES = {
    Kind.UNARY: 30,
    Kind.STREAM: 22,
    Kind.LEFT: 10,
    Kind.HURRIED: 3,
    Kind.FAULT: 8,
    Kind.BROKEN: 6,
    Kind.TALK: 15,
    Kind.WARMED: 4,
    Kind.HERD: 1,
}
"""Weights with which they are drawn."""

REFUSALS = ("overloaded", "internal", "rate_limit retry_after_s=0", "timeout_error")
BREAKS = ("cut", "error_event", "malformed", "reset")


@dataclass(frozen=True, slots=True)
class Errand:
    """One thing to do.

    Attributes:
        number: Its place in the day; with `part`, unique.
        calls: How many calls of the router's it makes.
    """

    number: int
    kind: Kind
    seed: int

    @property
    def calls(self) -> int:
        match self.kind:
            case Kind.HERD:
                return HERD
            case Kind.TALK:
                return 3
            case Kind.WARMED:
                return 2
            case _:
                return 1


def day(call_count: int, seed: int) -> Iterator[Errand]:
    """Errands that make at least `call_count` calls together, shuffled."""
    draw = random.Random(seed)
    planned, number = 0, 0
    while planned < call_count:
        (kind,) = draw.choices(list(SHARES), list(SHARES.values()))
        errand = Errand(number, kind, draw.getrandbits(32))
        yield errand
        planned += errand.calls
        number += 1


@dataclass(slots=True)
class Heard:
    """What a caller knows of one call when it is over.

    Attributes:
        name: What the call carried as `x-request-id`.
        request_id: The router's id, "" if the caller never heard it.
        content: Whether any of the answer arrived.
        finished: Whether the caller heard the end of the answer.
        cost_nano_usd: What the router said the call cost; None when it said nothing, or that it is unknown.
        response_id: The provider's id of the answer, "" without one.
        code: How it ended; None when the caller left on purpose. `details` is the router's word about it.
    """

    name: str
    kind: Kind
    request_id: str = ""
    content: bool = False
    finished: bool = False
    cost_nano_usd: int | None = None
    response_id: str = ""
    code: grpc.StatusCode | None = grpc.StatusCode.OK
    details: str = ""

    def end(self, answer: pb.Answer, accounting: accounting_pb2.Accounting) -> None:
        """Note what the end of an answer tells."""
        self.finished, self.response_id = True, answer.response_id
        if accounting.HasField("total_nano_usd"):
            self.cost_nano_usd = accounting.total_nano_usd


@dataclass(slots=True)
class Line:
    """The way to whichever server lives at the moment; callers wait while none does."""

    server: ServerProcess | None = None
    calls: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[ServerProcess]:
        """Call the server, as soon as there is one; it is not hung up on meanwhile."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.server is not None)
            self.calls += 1
        assert self.server is not None
        try:
            yield self.server
        finally:
            async with self.changed:
                self.calls -= 1
                self.changed.notify_all()

    async def silent(self) -> None:
        """Return when nobody is calling: a channel closed under a call would cancel its caller."""
        async with self.changed:
            await self.changed.wait_for(lambda: not self.calls)

    @asynccontextmanager
    async def through(self, server: ServerProcess) -> AsyncIterator[None]:
        """Let callers reach `server` while this lasts."""
        async with self.changed:
            self.server = server
            self.changed.notify_all()
        try:
            yield
        finally:
            self.server = None


class Caller:
    """Carries errands out and notes what it heard."""

    def __init__(self, line: Line) -> None:
        self.heard: list[Heard] = []
        self._line = line
        self._awaited: tuple[int, asyncio.Event] | None = None

    async def begun(self, call_count: int) -> None:
        """Return as soon as so many calls have been begun."""
        event = asyncio.Event()
        self._awaited = (call_count, event)
        if len(self.heard) < call_count:
            await event.wait()

    async def run(self, errand: Errand) -> None:
        """Do one errand; however its calls end, it ends."""
        draw = random.Random(errand.seed)
        match errand.kind:
            case Kind.UNARY:
                await self._unary(errand, self._request(errand, draw))
            case Kind.STREAM:
                await self._stream(errand, self._request(errand, draw))
            case Kind.LEFT:
                await self._stream(errand, self._request(errand, draw), leave_after=draw.randrange(2, 9))
            case Kind.HURRIED:
                order = "[[sandbox fault=stall]]"
                await self._unary(errand, self._request(errand, draw, order), timeout_s=BRIEF_S)
            case Kind.FAULT:
                times = draw.choice((1, 1, 2, 9))
                order = f"[[sandbox fault={draw.choice(REFUSALS)} times={times}]]"
                await self._either(errand, self._request(errand, draw, order), draw)
            case Kind.BROKEN:
                after = draw.randrange(1, 8)
                order = f"[[sandbox fault={draw.choice(BREAKS)} after_events={after} times={draw.choice((1, 9))}]]"
                await self._either(errand, self._request(errand, draw, order), draw)
            case Kind.TALK:
                await self._talk(errand, draw)
            case Kind.WARMED:
                await self._warmed(errand, draw)
            case Kind.HERD:
                await self._herd(errand)

    async def _either(self, errand: Errand, request: pb.GenerateRequest, draw: random.Random) -> None:
        await (self._stream if draw.random() < 0.6 else self._unary)(errand, request)

    async def _talk(self, errand: Errand, draw: random.Random) -> None:
        """Three turns of one conversation, the routes as they come."""
        messages = []
        for turn in range(3):
            messages.append(user(f"Turn {turn} of case {errand.number}: what is next, and why?"))
            request = self._request(errand, draw, messages=messages, session=f"talk {errand.number}")
            said = await self._unary(errand, request, part=turn)
            messages.append(said or assistant("(no answer)"))

    async def _warmed(self, errand: Errand, draw: random.Random) -> None:
        """A session the server holds, warmed as it opens, and two turns in it."""
        tenant, session = draw.choice(TENANTS), f"held {errand.number}"
        opening = session_service_pb2.OpenSessionRequest(
            session=session,
            application=APPLICATION,
            tenant=tenant,
            user_context=[prose(f"Case {errand.number}", 30)],
        )
        async with self._line.taken() as server:
            with suppress(grpc.aio.AioRpcError):  # then its turns are refused
                await SessionServiceStub(server.channel).OpenSession(opening, timeout=TIMEOUT_S)
        for turn in range(2):
            request = generate(
                user(f"Turn {turn} of case {errand.number}?"),
                application="",
                route=OPUS,
                tenant=tenant,
                session=session,
            )
            await self._unary(errand, request, part=turn)

    async def _herd(self, errand: Errand) -> None:
        """Calls at once on a context nobody has sent before."""
        context = (prose(f"Herd {errand.number}", 80),)
        async with asyncio.TaskGroup() as group:
            for part in range(HERD):
                request = generate(
                    user(f"Question {part}?"),
                    route=OPUS,
                    person=f"herd {errand.number}",
                    context=context,
                    labels={"herd": str(errand.number)},
                    no_fallback=True,
                )
                request.constraints.expected_follow_up_count = 9
                group.create_task(self._unary(errand, request, part=part))

    def _request(
        self, errand: Errand, draw: random.Random, order: str = "", messages=None, session: str = ""
    ) -> pb.GenerateRequest:
        text = f"Case {errand.number}: compare the two offers and say which one we should take. {order}"
        return generate(
            *(messages or [user(text)]),
            route=draw.choice((OPUS, FLASH, 0)),
            tenant=draw.choice(TENANTS) if not session else TENANTS[errand.number % 3],
            session=session or draw.choice(("", f"s {draw.randrange(40)}")),
            person=f"u {draw.randrange(40)}",
            labels={"kind": errand.kind.value},
            no_fallback=draw.random() < 0.3,
        )

    # --- one call
    # --------------------------------------------------------------------------------------------------------

    async def _unary(
        self, errand: Errand, request: pb.GenerateRequest, *, part: int = 0, timeout_s: float = TIMEOUT_S
    ):
        """Send it; return what was said as the conversation's next message, None when nothing was."""
        heard = self._begun(errand, part)
        async with self._line.taken() as server:
            try:
                response = await server.router.Generate(
                    request, timeout=timeout_s, metadata=(("x-request-id", heard.name),)
                )
            except grpc.aio.AioRpcError as error:
                heard.code, heard.details = error.code(), error.details() or ""
                return None
            heard.request_id, heard.content = response.request_id, True
            heard.end(response.answer, response.accounting)
            if errand.number % 5 == 0:
                await self._judge(server, response.request_id, request.caller.tenant)
        text = "".join(part.text.text for part in response.answer.parts if part.HasField("text"))
        return assistant(text or "(nothing)")

    async def _stream(self, errand: Errand, request: pb.GenerateRequest, *, leave_after: int = 0) -> None:
        """Read it to its end, or so many events of it."""
        heard = self._begun(errand, 0)
        async with self._line.taken() as server:
            call = server.router.StreamGenerate(
                as_stream(request), timeout=TIMEOUT_S, metadata=(("x-request-id", heard.name),)
            )
            try:
                await self._read(call, heard, leave_after)
            except grpc.aio.AioRpcError as error:
                heard.code, heard.details = error.code(), error.details() or ""

    async def _read(self, call: grpc.aio.UnaryStreamCall, heard: Heard, leave_after: int) -> None:
        count = 0
        async for event in call:
            count += 1
            match event.WhichOneof("event"):
                case "decided":
                    heard.request_id = event.decided.request_id
                case "finished":
                    heard.end(event.finished.answer, event.finished.accounting)
                case _:
                    heard.content = True
            if count == leave_after:
                heard.code = None
                call.cancel()
                return

    async def _judge(self, server: ServerProcess, request_id: str, tenant: str) -> None:
        request = feedback_service_pb2.SubmitFeedbackRequest(
            request_id=request_id,
            verdict=feedback_service_pb2.FEEDBACK_VERDICT_GOOD,
            source="user",
            tenant=tenant,
        )
        try:
            await FeedbackServiceStub(server.channel).SubmitFeedback(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise

    def _begun(self, errand: Errand, part: int) -> Heard:
        heard = Heard(f"errand-{errand.number}-{part}", errand.kind)
        self.heard.append(heard)
        if self._awaited is not None and len(self.heard) >= self._awaited[0]:
            self._awaited[1].set()
        return heard
