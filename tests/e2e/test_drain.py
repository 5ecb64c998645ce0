"""SIGTERM: report NOT_SERVING, refuse new calls, let running ones finish, close the ledger, exit with 0."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.app import running, sandbox_upstreams
from router.clock import SystemClock
from router.ledger import Ledger
from router.sandbox import Sandbox
from router.settlement import Outcome
from router.v1 import router_service_pb2 as pb
from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.builders import FLASH, START_TIME_S, as_stream, generate, user
from tests.e2e.builders import config as default_config
from tests.e2e.process import command, environment, server_process, write_config
from tests.e2e.service import TALK_ONLY, TIMEOUT_S, WatchedClock

SLOW = "[[sandbox fault=stall after_events=3 stall_s=1.2]]"
"""The answer pauses for 1.2 seconds after three events and then goes on: long enough to be told to stop meanwhile."""


async def test_sigterm_lets_a_running_stream_finish_and_refuses_the_next(tmp_path: Path) -> None:
    """In order: health NOT_SERVING, a new call UNAVAILABLE, the stream's last event with its bill, exit code 0."""
    config = write_config(tmp_path, drain_s=0.3)
    async with server_process(config) as server, asyncio.timeout(60):
        health = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
        request = generate(user(f"Tell the whole story. {SLOW}"), route=FLASH, no_fallback=True)
        running = server.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S)
        request_id = (await running.read()).decided.request_id
        server.process.send_signal(signal.SIGTERM)
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await _refused(server.address) is grpc.StatusCode.UNAVAILABLE
        last = None
        while (event := await running.read()) is not grpc.aio.EOF:
            last = event
        assert last.finished.accounting.cost.total_nano_usd > 0
        assert await running.code() is grpc.StatusCode.OK
        health.cancel()
        assert await server.ended() == 0, server.errors.decode()
    assert "Traceback" not in server.errors.decode()

    ledger = Ledger.open(tmp_path / "ledger", clock=SystemClock())
    try:
        assert ledger.recovery.interrupted == 0
        settled = {each.intent.request_id: each.outcome async for each in ledger.settlements()}
        assert settled[request_id] is Outcome.OK
        assert await ledger.interrupted() == []
    finally:
        await ledger.close()


async def test_sigterm_during_start_up_ends_it_at_once(tmp_path: Path) -> None:
    """A stop that comes before the server serves is obeyed by our own handler, which the first process of a container
    needs: the kernel's default spares it."""
    settings = tmp_path / "router.toml"
    os.mkfifo(settings)
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--sandbox", "--config", str(settings)), env=environment(), cwd=tmp_path
    )
    try:
        async with asyncio.timeout(60):
            # Opening a pipe for writing returns once the other end is read: the settings are being loaded.
            writer = await asyncio.to_thread(settings.open, "w")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 128 + signal.SIGTERM
            writer.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _refused(address: str) -> grpc.StatusCode:
    """Ask on fresh connections until one is refused, which must come while the stream still runs.

    A connection that is accepted in the very moment of shutting down is dropped by gRPC itself, as CANCELLED.
    """
    while True:
        async with grpc.aio.insecure_channel(address) as channel:
            try:
                await RouterServiceStub(channel).Generate(
                    generate(user("One more?"), route=FLASH), timeout=TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.CANCELLED:
                    return error.code()


async def test_streams_that_outlive_the_grace_are_settled_before_the_ledger_closes() -> None:
    """An orderly end loses no call: what the grace cuts off is booked as cancelled, with the text seen so far."""
    stalled = generate(
        user("Tell the whole story. [[sandbox fault=stall after_events=6 stall_s=60]]"), no_fallback=True
    )
    base = default_config()
    config = msgspec.structs.replace(base, server=msgspec.structs.replace(base.server, grace_s=0.0))
    clock, count = WatchedClock(START_TIME_S), 12
    ledger = Ledger.temporary(clock=clock)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as callers:
        stack.push_async_callback(ledger.close)
        upstreams = sandbox_upstreams(config, Sandbox(TALK_ONLY, clock))
        async with running(config, upstreams=upstreams, environ={}, clock=clock, ledger=ledger) as app:
            # The callers' channel outlives the server: it is the server that ends these calls.
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(app.address))
            router = RouterServiceStub(channel)
            begun = [asyncio.Event() for _ in range(count)]
            for event in begun:
                callers.create_task(_read(router, stalled, event))
            for event in begun:
                await asyncio.wait_for(event.wait(), TIMEOUT_S)
        await ledger.flush()
        settlements = [settlement async for settlement in ledger.settlements()]
        assert [settlement.outcome for settlement in settlements] == [Outcome.CANCELLED] * count
        assert all(settlement.usage is not None for settlement in settlements)
        assert ledger.stats().intents == ledger.stats().settlements == count


async def _read(router: RouterServiceStub, request: pb.GenerateRequest, begun: asyncio.Event) -> None:
    """Read a stream until the server ends it."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        async for event in router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S):
            if event.HasField("delta"):
                begun.set()
