"""Warms in single flight over real gRPC, by the provider's invoice: a prefix is written once, whoever is first.

Time is virtual, the sandbox's first token comes after 0.8 s and 40 us per token read anew.
"""

import asyncio

import pytest

from router.sandbox import Fault, InvoiceLine
from router.settlement import Outcome, Purpose
from router.v1 import router_service_pb2 as pb
from router.v1 import session_service_pb2
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.e2e.builders import APPLICATION, prose, user
from tests.e2e.service import TIMEOUT_S, Service
from tests.e2e.test_flight import bill_of, ended, refusing_late, until  # noqa: F401 (a fixture)
from tests.e2e.test_warming import SAY, C, ask, opened, passing, turn, warming, warms


def writes(service: Service, at_least: int = 1000) -> list[InvoiceLine]:
    """Lines that wrote so much."""
    lines = service.invoice.lines
    return [line for line in lines if line.write_5m_tokens + line.write_1h_tokens >= at_least]


def turn_of(number: int) -> pb.GenerateRequest:
    """Somebody's question about what the warmed session is about."""
    return ask(
        user(f"Case {number}? {SAY}"), strategy=C, session=f"s{number}", context=(prose("Known", 800),)
    )


async def on_its_way(service: Service) -> None:
    """A warm of a session that was opened now is at the provider."""
    response = await opened(service)
    assert response.warm.warmed
    await service.clock.held(1)


async def test_a_request_during_the_warm_of_its_prefix_waits_and_reads_it() -> None:
    """One write of tools, system and context on the invoice, the warm's; the request waits for its end, in time."""
    async with warming("session_start") as service:
        await on_its_way(service)
        asking = asyncio.ensure_future(service.generate(turn("Which tickets are overdue?")))
        await service.clock.held(2)
        (answer,) = await ended(service, [asking])
        (warm,) = warms(service)
        (written,) = writes(service)
        assert written == warm
        line = service.invoice.lines[-1]
        assert line.read_tokens == warm.write_5m_tokens + warm.write_1h_tokens > 4000
        waited_s = bill_of(answer).flight_wait.ToTimedelta().total_seconds()
        print(f"waited {waited_s:.2f} s for a warm of {line.read_tokens:,} tokens")
        assert 0 < waited_s <= 0.8 + 40e-6 * line.read_tokens + 0.1


async def test_a_herd_during_a_warm_waits_for_it() -> None:
    """Twenty at once: the warm's is the one write of what they share, and all of them read it."""
    async with warming("session_start") as service:
        await on_its_way(service)
        tasks = [asyncio.ensure_future(service.generate(turn_of(number))) for number in range(20)]
        await service.clock.held(1 + len(tasks))
        answers = await ended(service, tasks)
        assert len(answers) == 20
        (warm,) = warms(service)
        assert writes(service) == [warm]
        users = [line for line in service.invoice.lines if line != warm]
        assert {line.read_tokens for line in users} == {warm.write_5m_tokens + warm.write_1h_tokens}


async def test_a_warm_that_stalls_holds_nobody_beyond_the_limit() -> None:
    """The warm never begins: the request goes on within three seconds; both are booked."""
    async with warming("session_start") as service:
        service.sandbox.inject(Fault(kind="stall", stall_s=50.0, upstream="anthropic"))
        await on_its_way(service)
        asking = asyncio.ensure_future(service.generate(turn("Which tickets are overdue?")))
        await service.clock.held(2)
        (answer,) = await ended(service, [asking])
        assert 0.5 < bill_of(answer).flight_wait.ToTimedelta().total_seconds() <= 3.0
        assert len(writes(service)) <= 1
        await passing(service, 60)
        settled = await service.settled(2)
        assert {each.intent.purpose for each in settled} == {Purpose.WARM, Purpose.USER}


@pytest.mark.usefixtures("refusing_late")
async def test_a_refused_warm_lets_one_of_who_wait_take_over() -> None:
    """529 after half a second: one of five writes from then on, and the others read that."""
    async with warming("session_start") as service:
        service.sandbox.inject(Fault(kind="overloaded", upstream="anthropic"))
        await on_its_way(service)
        asking = [asyncio.ensure_future(service.generate(turn_of(number))) for number in range(5)]
        await service.clock.held(1 + len(asking))
        answers = await ended(service, asking)
        (written,) = writes(service)
        readers = [line for line in service.invoice.lines if line.read_tokens == written.write_5m_tokens]
        assert len(readers) == 4
        waits = [bill_of(answer).flight_wait.ToTimedelta().total_seconds() for answer in answers]
        assert min(waits) == pytest.approx(0.5, abs=0.06)
        (warm,) = (each for each in await service.settled(6) if each.intent.purpose is Purpose.WARM)
        assert warm.outcome is Outcome.REFUSED


async def test_a_warm_broken_off_lets_who_waits_go_at_once() -> None:
    """Cancelled while a request waits for it: that one leads from this instant, not from when it would be late."""
    async with warming("session_start") as service:
        service.sandbox.inject(Fault(kind="stall", stall_s=50.0, upstream="anthropic"))
        await on_its_way(service)
        asking = asyncio.ensure_future(service.generate(turn("Which tickets are overdue?")))
        await service.clock.held(2)
        (task,) = (each for each in asyncio.all_tasks() if each.get_name() == "warm prefixes")
        before_s = service.clock.now()
        task.cancel()
        await until(lambda: service.clock.sleepers >= 1 and task.done())
        (answer,) = await ended(service, [asking])
        waited_s = bill_of(answer).flight_wait.ToTimedelta().total_seconds()
        assert waited_s <= service.clock.now() - before_s
        assert waited_s < 0.2
        assert len(writes(service)) == 1
        (warm, asked) = await service.settled(2)
        assert (warm.outcome, asked.outcome) == (Outcome.CANCELLED, Outcome.OK)


async def test_no_warm_starts_while_a_request_writes_the_same() -> None:
    """A session is opened while its first request is being answered: nothing is sent, one write stands."""
    async with warming("session_start") as service:
        await opened(service)
        await passing(service, 3)
        service.sandbox.reset()
        service.clock.advance(400)
        asking = asyncio.ensure_future(service.generate(turn("Which tickets are overdue?")))
        await service.clock.held(1)
        again = await SessionServiceStub(service.channel).OpenSession(
            session_service_pb2.OpenSessionRequest(
                session="twin", application=APPLICATION, tenant="acme", user_context=[prose("Known", 800)]
            ),
            timeout=TIMEOUT_S,
        )
        assert again.warm.warmed, "ordered, as nobody knows yet what will come of the request"
        await ended(service, [asking])
        await passing(service, 5)
        assert len(warms(service)) == 1, "the one before"
        assert len(writes(service)) == 2, "the one before, and the request's"


async def test_a_warm_waits_for_a_request_that_writes_what_they_share() -> None:
    """Tools and system are written by the request; the warm reads them and writes its session's context alone."""
    async with warming("session_start") as service:
        asking = asyncio.ensure_future(
            service.generate(ask(user("Which tickets are overdue?"), strategy=C, session="other"))
        )
        await service.clock.held(1)
        await opened(service)
        await ended(service, [asking])
        await passing(service, 5)
        first, warm = service.invoice.lines
        (sent,) = warms(service)
        assert sent == warm
        assert warm.read_tokens == first.write_5m_tokens + first.write_1h_tokens > 2000
        assert warm.write_5m_tokens + warm.write_1h_tokens > 2000
