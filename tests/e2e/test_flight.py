"""Single flight over real gRPC: a herd on a cold prefix writes it once, by the provider's own invoice.

Time is virtual: the sandbox's first-token delay and the waits stand on one clock, which the test moves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from router import attributes as names
from router.config import ApplicationConfig, CacheConfig, RoutingConfig, TelemetryConfig
from router.sandbox import Fault, InvoiceLine, SandboxSettings, anthropic_api
from router.sandbox.stream import Wait
from router.settlement import Outcome
from router.v1 import accounting_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import (
    APPLICATION,
    DESK,
    OPUS,
    START_TIME_S,
    config,
    context_of,
    generate,
    prose,
    user,
)
from tests.e2e.collector import tapped
from tests.e2e.service import TIMEOUT_S, Service, WatchedClock, detail, serving, status_of
from tests.e2e.test_metrics import free_port, scraped

SLOW = SandboxSettings(tool_call_chance=0.0, latency_scale=1.0)
"""First byte after 0.8 s and 40 us per token read anew."""
HERD = 50
C = accounting_pb2.CACHE_STRATEGY_C
LARGE = ApplicationConfig(system=(prose("Rule", 150),), tools=DESK.tools, max_output_tokens=600)
"""About 5,000 tokens: worth a wait of two seconds at the default value of a second."""


class VirtualTimer:
    """Spans on the test's clock."""

    def __init__(self, clock: WatchedClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()

    def later(self, delay_s: float, call: Callable[[], None]) -> asyncio.Task[None]:
        async def due() -> None:
            await self._clock.sleep(delay_s)
            call()

        return asyncio.get_running_loop().create_task(due())


@asynccontextmanager
async def flying(
    telemetry: TelemetryConfig = TelemetryConfig(),  # noqa: B008 (frozen)
    environ: Mapping[str, str] | None = None,
    routing: RoutingConfig = RoutingConfig(),  # noqa: B008 (frozen)
    **cache: object,
) -> AsyncIterator[Service]:
    """A router whose waits pass on the clock of its sandbox."""
    settings = config(
        cache=CacheConfig(**cache), applications={APPLICATION: LARGE}, telemetry=telemetry, routing=routing
    )
    async with serving(settings, settings=SLOW, timer=VirtualTimer, environ=environ) as service:
        yield service


def question(number: int) -> pb.GenerateRequest:
    """Another user's question over the same system prompt and tools."""
    return generate(
        user(f'Which tickets of customer {number} are overdue? [[sandbox say="Three." thinking=0]]'),
        route=OPUS,
        strategy=C,
        person=f"user {number}",
        session=f"s {number}",
        no_fallback=True,
    )


async def herd(service: Service, requests: list[pb.GenerateRequest], *, stream: bool) -> list[asyncio.Task]:
    """Start them at one instant; the first has reached the provider and the others wait when this returns."""
    send = service.stream if stream else service.generate
    tasks = []
    for number, request in enumerate(requests):
        tasks.append(asyncio.create_task(send(request)))
        if number == 0:
            await service.clock.held(1)
    await service.clock.held(len(tasks))
    return tasks


async def until(heard: Callable[[], bool]) -> None:
    """Let others run until the server has heard of something that happened on the client's side."""
    async with asyncio.timeout(TIMEOUT_S):
        while not heard():  # noqa: ASYNC110 (nothing tells; it is a matter of a few turns of the loop)
            await asyncio.sleep(0)


async def ended(service: Service, tasks: list[asyncio.Task], step_s: float = 0.05) -> list:
    """Move time until all have ended."""
    async with asyncio.timeout(30):
        while not all(task.done() for task in tasks):
            await service.clock.travel(step_s)
            await asyncio.sleep(0)
    return [task.result() for task in tasks if not task.cancelled() and task.exception() is None]


def bill_of(answer: object) -> accounting_pb2.Accounting:
    """The accounting of a unary answer or of a stream's last event."""
    return answer.accounting if isinstance(answer, pb.GenerateResponse) else answer[-1].finished.accounting


def waits_s(answers: list) -> list[float]:
    """Waits of those who waited, ascending."""
    bills = [bill_of(answer) for answer in answers]
    return sorted(
        bill.flight_wait.seconds + bill.flight_wait.nanos / 1e9
        for bill in bills
        if bill.HasField("flight_wait")
    )


def full_writes(service: Service) -> list[InvoiceLine]:
    """Invoice lines on which the shared layers were written."""
    return [line for line in service.invoice.lines if line.write_5m_tokens + line.write_1h_tokens > 1000]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "unary"])
async def test_fifty_cold_requests_write_their_prefix_once(stream: bool) -> None:
    """One full write on the invoice, 49 reads of it; the waits are on the bills and within the limit."""
    async with flying() as service:
        tasks = await herd(service, [question(number) for number in range(HERD)], stream=stream)
        answers = await ended(service, tasks)
        assert len(answers) == HERD
        (written,) = full_writes(service)
        readers = [line for line in service.invoice.lines if line is not written]
        assert len(readers) == HERD - 1
        assert all(line.read_tokens == written.write_5m_tokens for line in readers)
        waits = waits_s(answers)
        assert len(waits) == HERD - 1
        print(f"wait p50 {waits[len(waits) // 2]:.3f} s, p99 {waits[-1]:.3f} s")
        assert waits[-1] < 1.5
        reads = [bill_of(answer).cache_report for answer in answers]
        assert sum(report.plan.expected_read_tokens > 0 for report in reads) == HERD - 1
        assert not any(report.misses for report in reads)


async def test_killed_lead_is_followed_by_exactly_one_other() -> None:
    """The lead's caller leaves before its first byte: one of those who wait writes, the others read."""
    async with flying() as service:
        tasks = await herd(service, [question(number) for number in range(HERD)], stream=True)
        await service.clock.travel(0.4)
        tasks[0].cancel()
        await until(lambda: service.ledger.stats().settlements == 1)
        answers = await ended(service, tasks)
        assert len(answers) == HERD - 1
        (written,) = full_writes(service)
        assert sum(line.read_tokens == written.write_5m_tokens for line in service.invoice.lines) == HERD - 2
        waits = waits_s(answers)
        print(f"killed: wait p50 {waits[len(waits) // 2]:.3f} s, p99 {waits[-1]:.3f} s")
        assert waits[-1] <= 3.0


@pytest.fixture
def refusing_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider takes half a second to refuse."""
    at_once = anthropic_api._strike_early

    async def late(fault: Fault, wait: Wait) -> Fault | None:
        await wait(0.5)
        return await at_once(fault, wait)

    monkeypatch.setattr(anthropic_api, "_strike_early", late)


@pytest.mark.usefixtures("refusing_late")
async def test_refused_lead_is_followed_by_exactly_one_other() -> None:
    """529 for the lead: one of those who wait writes, and the refused one reads when it tries again."""
    async with flying() as service:
        service.sandbox.inject(Fault(kind="overloaded", upstream="anthropic"))
        tasks = await herd(service, [question(number) for number in range(HERD)], stream=True)
        answers = await ended(service, tasks)
        assert len(answers) == HERD
        (written,) = full_writes(service)
        assert sum(line.read_tokens == written.write_5m_tokens for line in service.invoice.lines) == HERD - 1
        waits = waits_s(answers)
        print(f"refused: wait p50 {waits[len(waits) // 2]:.3f} s, p99 {waits[-1]:.3f} s")
        assert waits[-1] <= 3.0


async def test_stalled_lead_is_replaced_and_nobody_waits_beyond_the_limit() -> None:
    """A lead that never begins: another takes over, the rest read what that one writes, within three seconds."""
    async with flying() as service:
        service.sandbox.inject(Fault(kind="stall", stall_s=60.0, upstream="anthropic"))
        tasks = await herd(service, [question(number) for number in range(HERD)], stream=True)
        answers = await ended(service, tasks)
        assert len(answers) == HERD
        (written,) = full_writes(service)
        assert written.time > START_TIME_S + 1, "it is not the stalled one's"
        readers = [line for line in service.invoice.lines if line.read_tokens == written.write_5m_tokens]
        assert len(readers) == HERD - 1
        waits = waits_s(answers)
        print(f"stalled: wait p50 {waits[len(waits) // 2]:.3f} s, p99 {waits[-1]:.3f} s")
        assert waits[-1] <= 3.0


async def test_herd_behind_nothing_but_stalls_goes_without_the_mark() -> None:
    """Whoever is asked first never answers: at the limit the rest go, uncached, and write nothing."""
    async with flying() as service:
        service.sandbox.inject(Fault(kind="stall", stall_s=60.0, upstream="anthropic", times=2))
        tasks = await herd(service, [question(number) for number in range(20)], stream=True)
        await service.clock.travel(10.0)
        early = list(service.invoice.lines)
        assert sum(line.write_5m_tokens > 0 for line in early) <= 1
        assert sum(line.write_5m_tokens == line.read_tokens == 0 for line in early) >= 17
        answers = await ended(service, tasks, step_s=1.0)
        assert len(answers) == 20
        assert waits_s(answers)[-1] <= 3.0 + 1e-6


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [("reset", 2), ("error_event", 2), ("malformed", 1)],
    ids=["reset", "error", "malformed"],
)
async def test_unary_lead_that_breaks_off_is_retried_as_ever_and_booked_as_billed(
    kind: str, attempts: int
) -> None:
    """It is asked as a stream, but its caller has nothing yet: what may be tried again is, and usage is known."""
    async with flying() as service:
        service.sandbox.inject(Fault(kind=kind, upstream="anthropic", after_events=2))
        asking = asyncio.create_task(service.generate(question(0)))
        while not asking.done():
            await service.clock.travel(0.5)
            await asyncio.sleep(0.001)
        settlements = await service.settled(attempts)
        assert len(settlements) == attempts
        assert settlements[0].outcome is Outcome.INTERRUPTED
        assert settlements[0].usage.cache_write_tokens == service.invoice.lines[0].write_5m_tokens > 0
        assert (asking.exception() is None) == (attempts == 2)


@pytest.mark.parametrize("kind", ["reset", "error_event"])
async def test_unary_lead_that_broke_off_is_never_said_to_be_free(kind: str) -> None:
    """UNAVAILABLE means that nothing was billed, and channels retry it by themselves; this was billed."""
    async with flying(routing=RoutingConfig(retry_limit=0)) as service:
        service.sandbox.inject(Fault(kind=kind, upstream="anthropic", after_events=2))
        asking = asyncio.create_task(service.generate(question(0)))
        while not asking.done():
            await service.clock.travel(0.5)
            await asyncio.sleep(0.001)
        error = asking.exception()
        assert isinstance(error, grpc.aio.AioRpcError)
        assert len(service.invoice.lines) == 1
        assert error.code() is grpc.StatusCode.ABORTED
        assert detail(status_of(error), ErrorInfo).metadata["billed"] == "yes"


async def test_one_request_sent_twice_is_written_once() -> None:
    """Same session, same bytes: the second waits for the first and reads its whole prompt."""
    request = question(1)
    request.prompt.cache_strategy = accounting_pb2.CACHE_STRATEGY_AUTO
    request.constraints.expected_follow_up_count = 5
    async with flying() as service:
        tasks = await herd(service, [request, request], stream=True)
        await ended(service, tasks)
        first, second = sorted(service.invoice.lines, key=lambda line: line.read_tokens)
        assert first.write_5m_tokens + first.write_1h_tokens == second.read_tokens
        assert second.write_5m_tokens == second.write_1h_tokens == 0


async def test_one_users_requests_wait_for_the_deeper_write() -> None:
    """Two users, two requests each, all cold: tools and system are written once, each context once."""
    requests = []
    for number in (0, 0, 1, 1):
        request = question(number)
        request.prompt.user_context.append(context_of(f"user {number}"))
        request.caller.session = ""
        requests.append(request)
    async with flying(flight_second_usd=0.0) as service:
        tasks = await herd(service, requests, stream=True)
        await ended(service, tasks)
        writes = sorted(line.write_5m_tokens for line in service.invoice.lines)
        assert writes[:2] == [0, 0]
        assert 300 < writes[2] < 1000 < 4000 < writes[3]


async def test_short_deadline_is_not_waited_away() -> None:
    """A caller in a hurry waits for at most half of what it has, here not at all, and goes uncached."""
    async with flying() as service:
        (lead,) = await herd(service, [question(0)], stream=True)
        hurried = asyncio.create_task(service.stream(question(1), timeout_s=1.4))
        await service.clock.held(2)
        assert service.ledger.stats().intents == 2
        await ended(service, [lead, hurried])
        assert [line.write_5m_tokens > 0 for line in service.invoice.lines] == [True, False]


async def test_waiting_caller_that_leaves_is_not_booked() -> None:
    """It was never sent: no attempt, no cost; the others are as before."""
    async with flying() as service:
        tasks = await herd(service, [question(number) for number in range(3)], stream=True)
        waiting = service.clock.sleepers
        tasks[1].cancel()
        await until(lambda: service.clock.sleepers < waiting)
        await ended(service, tasks)
        assert len(await service.settled(2)) == 2


async def test_without_single_flight_everybody_writes() -> None:
    """What it is worth: the same herd, switched off."""
    async with flying(single_flight=False) as service:
        tasks = await herd(service, [question(number) for number in range(10)], stream=True)
        answers = await ended(service, tasks)
        assert len(full_writes(service)) == 10
        assert waits_s(answers) == []


@pytest.mark.usefixtures("refusing_late")
async def test_waits_are_metered_and_traced() -> None:
    """By outcome, with the promotion; a span of its own for those who waited and for nobody else."""
    port = free_port()
    telemetry = TelemetryConfig(prometheus_port=port, sample_ratio=1.0)
    async with tapped() as tap:
        async with flying(telemetry=telemetry, environ=tap.environ) as service:
            service.sandbox.inject(Fault(kind="overloaded", upstream="anthropic"))
            tasks = await herd(service, [question(number) for number in range(4)], stream=True)
            await ended(service, tasks)
            samples = {
                (sample.name, sample.labels.get("hybrid_router_flight_outcome")): sample.value
                for sample in await scraped(port)
                if "flight" in sample.name and not sample.name.endswith("_bucket")
            }
        spans = [span for span in tap.spans() if span.name == names.SPAN_FLIGHT]
    assert samples["hybrid_router_flight_wait_seconds_count", "promoted"] == 1
    assert samples["hybrid_router_flight_wait_seconds_sum", "promoted"] == pytest.approx(0.5, abs=0.06)
    assert samples["hybrid_router_flight_wait_seconds_count", "landed"] >= 2
    assert samples["hybrid_router_flight_promotions_total", None] == 1
    assert 3 <= len(spans) <= 4, "all but the first, which may find the prefix warm when it tries again"
