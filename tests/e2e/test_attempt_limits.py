"""Unary attempts that are given a share of the time left, over real gRPC: the fallback still has time to answer."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from router.config import AttemptsConfig, CacheConfig, RoutingConfig
from router.ledger import Ledger
from router.sandbox import Fault, VirtualClock
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import START_TIME_S, config, generate, user
from tests.e2e.service import Service, detail, serving, status_of
from tests.e2e.test_fault_matrix import LoopClock
from tests.e2e.test_ledger_is_the_invoice import assert_reconciled

DEADLINE_S = 100.0
TURNS = 200
"""Turns of the loop in which whoever is cancelled has gone."""


async def stalled(
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    max_output_tokens: int,
    pass_s: float,
    upstream: str,
    single_flight: bool = False,
) -> tuple[asyncio.Task[pb.GenerateResponse], list]:
    """Ask a provider that never answers, let `pass_s` of the deadline pass and then the rest; give answer and books."""
    loop_clock = LoopClock(monkeypatch)
    settings = config(
        routing=RoutingConfig(threshold=0.0 if upstream == "anthropic" else 1.0),
        attempts=AttemptsConfig(attempt_share=share),
        # Else a unary request that writes the system prompt is asked as a stream.
        cache=CacheConfig(single_flight=single_flight),
    )
    ledger = Ledger.temporary(clock=VirtualClock(START_TIME_S))
    try:
        async with serving(settings, ledger=ledger) as service:
            service.sandbox.inject(Fault(kind="stall", upstream=upstream, times=9))
            request = generate(user("Tell me."), max_output_tokens=max_output_tokens)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_ended(service, request))
                await service.clock.held()
                loop_clock.put_on(pass_s)
                for _ in range(TURNS):
                    await asyncio.sleep(0)
                if service.clock.sleepers:
                    loop_clock.put_on(DEADLINE_S - pass_s)
            invoice = service.invoice.lines
        return task, await assert_reconciled(ledger, invoice)
    finally:
        await ledger.close()


async def _ended(service: Service, request: pb.GenerateRequest) -> object:
    try:
        return await service.generate(request, timeout_s=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        return error


@pytest.mark.parametrize("upstream", ["anthropic", "gemini"])
async def test_a_silent_attempt_leaves_time_for_the_other_route(monkeypatch, upstream: str) -> None:
    """Half of the time, and the other route answers; what the first may have been billed is listed with its bound."""
    task, settlements = await stalled(monkeypatch, 0.5, 300, 51.0, upstream)
    assert task.result().answer.parts
    assert [each.error for each in settlements] == ["UPSTREAM_TIMEOUT", ""]
    assert settlements[0].cost is None
    assert settlements[0].intent.cost_bound_nano_usd > 0
    assert settlements[0].intent.route != settlements[1].intent.route


async def test_a_long_answer_is_not_cut(monkeypatch) -> None:
    """4,096 tokens may take all of 100 s: the share does not count, and the deadline ends it."""
    task, settlements = await stalled(monkeypatch, 0.5, 4096, 99.0, "anthropic")
    assert detail(status_of(task.result()), ErrorInfo).reason == "UPSTREAM_TIMEOUT"
    assert len(settlements) == 1


@pytest.mark.parametrize("single_flight", [False, True])
async def test_by_default_an_attempt_has_all_the_time(monkeypatch, single_flight: bool) -> None:
    """Off: nothing is cut before the deadline, also where it is asked as a stream because others wait for its write."""
    task, settlements = await stalled(monkeypatch, 0.0, 300, 99.0, "anthropic", single_flight)
    assert task.result().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(settlements) == 1
