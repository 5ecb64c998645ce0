"""A running router in the test's own loop: real gRPC on loopback, real SDKs, the sandbox below them, one clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from router.app import App, running, sandbox_upstreams
from router.config import Config
from router.flights import Timer
from router.ledger import Ledger
from router.sandbox import Invoice, Sandbox, SandboxSettings, VirtualClock
from router.settlement import Settlement
from router.v1 import router_service_pb2 as pb
from router.v1.operator_service_pb2_grpc import OperatorServiceStub
from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.builders import START_TIME_S, as_explain, as_stream
from tests.e2e.builders import config as default_config

TALK_ONLY = SandboxSettings(tool_call_chance=0.0)
"""Answers are text unless a directive asks for a tool call, so that any answer can be followed by a question."""

TIMEOUT_S = 15.0
"""Bound of everything a test waits for; nothing takes a tenth of it."""


class WatchedClock(VirtualClock):
    """A virtual clock that tells when somebody waits on it: a provider that stalls, an answer in progress."""

    def __init__(self, start: float) -> None:
        super().__init__(start)
        self._changed = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait as the virtual clock does; `held` hears of it."""
        self._changed.set()
        await super().sleep(seconds)

    async def held(self, count: int = 1) -> None:
        """Return once `count` coroutines wait on this clock."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.sleepers < count:
                self._changed.clear()
                await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Service:
    """What a test may look at and send to."""

    app: App
    sandbox: Sandbox
    clock: WatchedClock
    ledger: Ledger
    channel: grpc.aio.Channel
    router: RouterServiceStub
    operator: OperatorServiceStub

    @property
    def invoice(self) -> Invoice:
        """The providers' own bill."""
        return self.sandbox.invoice

    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float = TIMEOUT_S
    ) -> pb.GenerateResponse:
        """Send one unary request."""
        return await self.router.Generate(request, timeout=timeout_s)

    async def stream(
        self, request: pb.GenerateRequest, *, timeout_s: float = TIMEOUT_S
    ) -> list[pb.StreamGenerateResponse]:
        """Send one request and read its events to the end."""
        return [event async for event in self.router.StreamGenerate(as_stream(request), timeout=timeout_s)]

    async def explain(self, request: pb.GenerateRequest) -> pb.ExplainResponse:
        """Ask what `request` would do."""
        return await self.router.Explain(as_explain(request), timeout=TIMEOUT_S)

    async def settlements(self) -> list[Settlement]:
        """Everything booked so far, oldest first."""
        await self.ledger.flush()
        return [settlement async for settlement in self.ledger.settlements()]

    async def settled(self, count: int) -> list[Settlement]:
        """Everything booked, once at least `count` attempts are."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(found := await self.settlements()) < count:
                pass
        return found


@asynccontextmanager
async def serving(
    config: Config | None = None,
    *,
    settings: SandboxSettings = TALK_ONLY,
    environ: Mapping[str, str] | None = None,
    ledger: Ledger | None = None,
    timer: Callable[[WatchedClock], Timer] | None = None,
    draw: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[Service]:
    """Run a router over a fresh sandbox; at the end it drains, so what was left running is settled.

    Args:
        timer: Makes the spans of single flight from the clock; None for those of the loop.
        draw: Gives numbers in [0, 1) for jitter, exploration and what is held out.
        ledger: Stays open after the block, to be read once both books are closed; None for one of its own.
    """
    config = default_config() if config is None else config
    clock = WatchedClock(START_TIME_S)
    sandbox = Sandbox(settings, clock)
    booked = Ledger.temporary(clock=clock) if ledger is None else ledger
    try:
        async with (
            running(
                config,
                upstreams=sandbox_upstreams(config, sandbox),
                environ=environ or {},
                clock=clock,
                ledger=booked,
                draw=draw,
                timer=None if timer is None else timer(clock),
            ) as app,
            grpc.aio.insecure_channel(app.address) as channel,
        ):
            if app.token_counts is not None:
                await asyncio.wait_for(app.token_counts.wait(), TIMEOUT_S)
            yield Service(
                app, sandbox, clock, booked, channel, RouterServiceStub(channel), OperatorServiceStub(channel)
            )
    finally:
        if ledger is None:
            await booked.close()


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """The google.rpc.Status of an error; fails when it brought none."""
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()} without google.rpc details: {error.details()}"
    return status


def detail(status: Status, kind: type) -> object | None:
    """The one google.rpc detail of this kind, None when there is none."""
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            found = kind()
            packed.Unpack(found)
            return found
    return None
