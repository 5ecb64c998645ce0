"""Time and crowds: our answer before the caller's timer, many sessions at once, and refusal when full."""

import asyncio

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.config import CacheConfig, ServerConfig
from router.sandbox import Fault
from router.settlement import Outcome
from tests.e2e.builders import FLASH, OPUS, as_stream, config, context_of, generate, said, user
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of


@pytest.mark.parametrize("route", [OPUS, FLASH])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stalled_provider_is_told_before_the_callers_timer(
    service: Service, route: int, stream: bool
) -> None:
    """DEADLINE_EXCEEDED with our reason in its details: the caller's own timer would bring a bare status."""
    service.sandbox.inject(Fault(kind="stall", times=2))
    request = generate(user("Which tickets are overdue?"), route=route, no_fallback=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (service.stream if stream else service.generate)(request, timeout_s=0.4)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert detail(status_of(caught.value), ErrorInfo).reason == "UPSTREAM_TIMEOUT"
    (settlement,) = await service.settled(1)
    assert settlement.outcome is Outcome.UNKNOWN
    assert settlement.cost is None
    assert settlement.intent.cost_bound_nano_usd


async def test_a_stream_that_stalls_midway_is_ended_in_time(service: Service) -> None:
    """After content only an interruption can be told: ABORTED before the caller's timer, billed as far as it came."""
    service.sandbox.inject(Fault(kind="stall", after_events=5))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stream(generate(user("Tell the whole story."), route=FLASH), timeout_s=0.5)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert detail(status_of(caught.value), ErrorInfo).reason == "UPSTREAM_INTERRUPTED"
    (settlement,) = await service.settled(1)
    (line,) = service.invoice.lines
    assert settlement.cost.total_nano_usd == line.cost_nano_usd > 0


async def _converse(service: Service, number: int) -> list[int]:
    """Three turns of one session; tokens read from the cache in each."""
    talk = [user(f"Case {number}: which tickets are overdue?")]
    reads = []
    for turn in range(3):
        request = generate(
            *talk,
            route=OPUS,
            session=f"session-{number}",
            person=f"user-{number}",
            tenant=f"tenant-{number % 5}",
            context=(context_of(f"person {number}"),),
        )
        response = await service.generate(request)
        reads.append(response.accounting.usage.cache_read_tokens)
        talk += [said(response.answer), user(f"And what of week {turn}?")]
    return reads


async def test_fifty_sessions_at_once() -> None:
    """150 calls in parallel sessions: each answered once, each session reads its own prefix, both books agree."""
    async with serving(config(cache=CacheConfig(strategy="c"))) as service:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_converse(service, number)) for number in range(50)]
        reads = [task.result() for task in tasks]
        settlements = await service.settled(150)
        assert len(settlements) == len({each.intent.request_id for each in settlements}) == 150
        assert len(service.invoice) == 150
        totals = await service.ledger.totals()
        assert totals.cost.total_nano_usd == service.invoice.totals().cost_nano_usd
    assert all(0 < second < third for _, second, third in reads)


async def test_a_full_router_refuses_with_a_time_to_retry_and_stays_healthy() -> None:
    """Beyond in_flight_limit: RESOURCE_EXHAUSTED with RetryInfo, nothing sent; health answers; a free place serves."""
    limited = config(server=ServerConfig(listen="127.0.0.1:0", in_flight_limit=3))
    async with serving(limited) as service:
        service.sandbox.inject(Fault(kind="stall", times=3))
        request = generate(user("Which tickets are overdue?"), route=OPUS)
        held = [service.router.StreamGenerate(as_stream(request), timeout=TIMEOUT_S) for _ in range(3)]
        await service.clock.held(3)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.generate(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_of(caught.value)
        assert detail(status, ErrorInfo).reason == "OVERLOADED"
        assert detail(status, RetryInfo).retry_delay.seconds == 1
        health = health_pb2_grpc.HealthStub(service.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert service.ledger.stats().intents == 3
        held[0].cancel()
        await service.settled(1)
        await service.generate(generate(user("And now?"), route=FLASH))
        for call in held[1:]:
            call.cancel()
