"""Two hundred callers that leave, at every point of a call: no task, connection or intent is left, and no bill is lost.

Unary and streamed, both providers, before the headers, in mid-stream, at a random turn of the loop, and after the last
byte. Once with the sandbox in process, where both books must agree to the nano-dollar, and once over real sockets,
where the provider may have sent what nobody read any more, and the books hold a floor with a bound.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import grpc
import pytest

from classifier.route import Route
from router.app import SANDBOX_KEY, running, sandbox_upstreams
from router.ledger import Ledger
from router.sandbox import Sandbox, serve
from router.settlement import Outcome
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Upstream
from router.upstreams.gemini import GeminiUpstream
from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.builders import FLASH, OPUS, START_TIME_S, as_stream, config, generate, user
from tests.e2e.service import TALK_ONLY, TIMEOUT_S, WatchedClock
from tests.e2e.test_ledger_is_the_invoice import assert_bounded, assert_reconciled

SEED = 20261122
COUNT = 200
AT_ONCE = 10
TURNS = 250
"""More turns of the loop than a call takes from its first to its last."""
STAGES = ("headers", "midstream", "turn", "turn", "end")


@dataclass(frozen=True, slots=True)
class Leaving:
    """One caller and where it leaves.

    Attributes:
        events: Events after which the provider holds, for "midstream".
        turns: Turns of the loop after which it leaves, for "turn".
    """

    number: int
    route: int
    stream: bool
    stage: str
    events: int
    turns: int

    @property
    def order(self) -> str:
        """What the provider is told to do."""
        match self.stage:
            case "headers":
                return "[[sandbox fault=stall stall_s=9999]]"
            case "midstream":
                return f"[[sandbox fault=stall stall_s=9999 after_events={self.events}]]"
            case _:
                return ""


def leavings() -> list[Leaving]:
    """The same two hundred in every run, each stage on every kind of call."""
    dice = random.Random(SEED)
    return [
        Leaving(
            number=number,
            route=(OPUS, FLASH)[number % 2],
            stream=number % 4 < 2,
            stage=STAGES[number // AT_ONCE % len(STAGES)],
            events=dice.randint(1, 12),
            turns=dice.randrange(TURNS),
        )
        for number in range(COUNT)
    ]


@dataclass(frozen=True, slots=True)
class World:
    """A router, its sandbox, and the pools between them, if there are any."""

    router: RouterServiceStub
    sandbox: Sandbox
    clock: WatchedClock
    pools: tuple[aiohttp.BaseConnector, ...]


def socket_upstreams(port: int) -> dict[Route, Upstream]:
    """The adapters as in production, with pools of their own."""
    url, settings = f"http://127.0.0.1:{port}", config()
    return {
        Route.OPUS: AnthropicUpstream(model=settings.opus.model, api_key=SANDBOX_KEY, base_url=url),
        Route.FLASH: GeminiUpstream(model=settings.flash.model, api_key=SANDBOX_KEY, base_url=url),
    }


def pools_of(upstreams: Mapping[Route, Upstream]) -> tuple[aiohttp.BaseConnector, ...]:
    """The connection pools inside the two SDKs."""
    opus, flash = upstreams[Route.OPUS], upstreams[Route.FLASH]
    return opus._owned._transport.client.connector, flash._session.connector


@asynccontextmanager
async def world(ledger: Ledger, clock: WatchedClock, *, sockets: bool) -> AsyncIterator[World]:
    """Run a router over a sandbox in process or behind a socket."""
    sandbox = Sandbox(TALK_ONLY, clock)
    async with contextlib.AsyncExitStack() as stack:
        if sockets:
            upstreams = socket_upstreams(await stack.enter_async_context(serve(sandbox)))
        else:
            upstreams = sandbox_upstreams(config(), sandbox)
        app = await stack.enter_async_context(
            running(config(), upstreams=upstreams, environ={}, clock=clock, ledger=ledger, draw=lambda: 0.0)
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(app.address))
        # The transport opens its pool with its first call.
        for route in (OPUS, FLASH):
            await RouterServiceStub(channel).Generate(
                generate(user("Hello."), route=route), timeout=TIMEOUT_S
            )
        yield World(RouterServiceStub(channel), sandbox, clock, pools_of(upstreams) if sockets else ())


async def leave(world: World, who: Leaving, held: asyncio.Event) -> None:
    """Call and leave; callers whose provider holds wait for `held`."""
    request = generate(
        user(f"Case {who.number}: tell the whole story of the account. {who.order}"), route=who.route
    )
    if who.stream:
        call = world.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
        answered = asyncio.ensure_future(_read(call))
    else:
        call = world.router.Generate(request, timeout=TIMEOUT_S)
        answered = asyncio.ensure_future(_wait(call))
    match who.stage:
        case "headers" | "midstream":
            await held.wait()
        case "turn":
            for _ in range(who.turns):
                await asyncio.sleep(0)
        case _:
            assert await answered, who
    call.cancel()
    await answered


async def _read(call) -> bool:
    try:
        return [event async for event in call][-1].HasField("finished")
    except asyncio.CancelledError:
        return False
    except grpc.aio.AioRpcError as error:
        # Who reads a moment after the own cancellation gets it as a status.
        if error.code() is not grpc.StatusCode.CANCELLED:
            raise
        return False


async def _wait(call) -> bool:
    with contextlib.suppress(asyncio.CancelledError):
        return bool((await call).answer.parts)
    return False


async def leave_all(world: World) -> None:
    """Everybody calls and leaves, ten at a time of one stage."""
    everybody = leavings()
    for start in range(0, COUNT, AT_ONCE):
        some, held = everybody[start : start + AT_ONCE], asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for who in some:
                group.create_task(leave(world, who, held))
            if some[0].order:
                await world.clock.held(len(some))
                for _ in range(TURNS if world.pools else 0):
                    await asyncio.sleep(0)  # what the provider has sent is on its way through a socket
                held.set()


@pytest.mark.parametrize("sockets", [False, True], ids=["in process", "sockets"])
async def test_two_hundred_callers_leave_nothing_behind(sockets: bool) -> None:
    """Every intent is settled once, every task and connection is given back, and the books agree."""
    before, clock = asyncio.all_tasks(), WatchedClock(START_TIME_S)
    ledger = Ledger.temporary(clock=clock)
    async with world(ledger, clock, sockets=sockets) as running_world:
        await leave_all(running_world)
        async with asyncio.timeout(TIMEOUT_S):
            # Nobody tells when an aborted connection has been torn down, a few turns later.
            while any(pool._acquired for pool in running_world.pools) or clock.sleepers:  # noqa: ASYNC110
                await asyncio.sleep(0)
        for pool in running_world.pools:
            idle = sum(len(connections) for connections in pool._conns.values())
            assert idle <= 2 * AT_ONCE, "what was in use at once, and no more"
    invoice = running_world.sandbox.invoice.lines
    assert asyncio.all_tasks() == before
    stats = ledger.stats()
    assert stats.intents == stats.settlements >= COUNT / 2
    if sockets:
        await assert_bounded(ledger, invoice)
    else:
        await assert_reconciled(ledger, invoice)
    await _assert_every_stage_was_met(ledger)
    await ledger.close()


async def _assert_every_stage_was_met(ledger: Ledger) -> None:
    """The points were spread: calls that were never answered, broken-off answers, and whole ones, on both routes."""
    met = set()
    async for each in ledger.settlements():
        assert each.outcome in (Outcome.OK, Outcome.CANCELLED), each
        met.add((each.intent.route, each.intent.stream, each.outcome, each.usage is not None))
    for route in ("opus", "flash"):
        assert (route, False, Outcome.CANCELLED, False) in met
        assert (route, True, Outcome.CANCELLED, False) in met
        assert (route, True, Outcome.CANCELLED, True) in met
        assert {(route, False, Outcome.OK, True), (route, True, Outcome.OK, True)} <= met
