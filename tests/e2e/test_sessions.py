"""GetSession over real gRPC: the account of a stateless session equals what its answers said and the ledger booked."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from router.sandbox import Fault
from router.v1 import accounting_pb2
from router.v1 import session_service_pb2 as pb
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.e2e.builders import APPLICATION, FLASH, OPUS, START_TIME_S, generate, said, user
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of

STRATEGY_B = accounting_pb2.CACHE_STRATEGY_B


async def get(service: Service, session: str, tenant: str = "acme") -> pb.Session:
    """What the router says of a session."""
    request = pb.GetSessionRequest(session=session, tenant=tenant)
    response = await SessionServiceStub(service.channel).GetSession(request, timeout=TIMEOUT_S)
    assert not response.messages
    return response.session


async def converse(service: Service, routes: list[int], *, session: str = "s", pause_s: float = 20.0) -> list:
    """A conversation of one turn per route; the answers' accounting."""
    messages, found = [], []
    for number, route in enumerate(routes):
        if number:
            service.clock.advance(pause_s)
        messages.append(user(f"Which tickets of week {number} are overdue, and who owns them?"))
        response = await service.generate(
            generate(*messages, route=route, session=session, person="ann", strategy=STRATEGY_B)
        )
        messages.append(said(response.answer))
        found.append(response.accounting)
    return found


async def test_the_account_is_the_sum_of_the_answers():
    """Requests, tokens, dollars and savings as each answer told them; times of the first and the last start."""
    async with serving() as service:
        told = await converse(service, [OPUS, FLASH, OPUS])
        session = await get(service, "s")
    assert (session.session, session.tenant, session.user) == ("s", "acme", "ann")
    assert (session.application, session.last_route) == (APPLICATION, OPUS)
    assert (session.request_count, session.unknown_cost_count) == (3, 0)
    assert session.usage.complete
    for field in ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "output_tokens"):
        assert getattr(session.usage, field) == sum(getattr(each.usage, field) for each in told)
    assert session.usage.cache_read_tokens > 0
    assert session.cost_nano_usd == sum(each.cost.total_nano_usd for each in told)
    uncached = sum(each.counterfactuals.no_caching_nano_usd for each in told)
    assert session.caching_saving_nano_usd == uncached - session.cost_nano_usd > 0
    assert session.create_time.seconds == START_TIME_S
    assert session.update_time.seconds == START_TIME_S + 40
    assert not session.held
    assert (session.version, session.message_count, session.HasField("expire_time")) == (0, 0, False)


async def test_it_is_warm_for_its_ttl_from_the_start_of_the_last_request():
    """What it says is warm is what the next turn reads; when the TTL has passed, it says so and nothing is read."""
    async with serving() as service:
        (first,) = await converse(service, [OPUS])
        service.clock.advance(299)
        session = await get(service, "s")
        assert session.warm_probability > 0.9
        assert session.warm_tokens == first.usage.cache_write_5m_tokens > 0
        (again,) = await converse(service, [OPUS], session="twin")
        assert again.usage.cache_read_tokens == session.warm_tokens
        assert (await get(service, "s")).warm_probability > 0.9, "the twin's read restarted the clock of both"
        service.clock.advance(301)
        lapsed = await get(service, "s")
        assert (lapsed.warm_probability, lapsed.warm_tokens) == (0.0, 0)
        (cold,) = await converse(service, [OPUS])
        assert cold.usage.cache_read_tokens == 0


async def test_a_caller_who_leaves_is_counted_as_unknown():
    """The call may have been billed: it is in no sum, and the session says that there is one such."""
    async with serving() as service:
        (told,) = await converse(service, [OPUS])
        service.sandbox.inject(Fault(kind="stall"))
        left = service.router.Generate(generate(user("Sum up."), route=OPUS, session="s"), timeout=TIMEOUT_S)
        await service.clock.held()
        left.cancel()
        await service.settled(2)
        session = await get(service, "s")
    assert (session.request_count, session.unknown_cost_count) == (2, 1)
    assert session.cost_nano_usd == told.cost.total_nano_usd
    assert not session.usage.complete


@pytest.mark.parametrize(("session", "tenant"), [("s", "other"), ("s", ""), ("unheard-of", "acme")])
async def test_what_is_not_the_tenants_does_not_exist(session, tenant):
    """Another tenant's session and one that nobody named are the same NOT_FOUND, which names it."""
    async with serving() as service:
        await converse(service, [FLASH])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get(service, session, tenant)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert repr(session) in caught.value.details()
    assert detail(status_of(caught.value), ErrorInfo).reason == "NOT_FOUND"


async def test_a_session_must_be_named():
    """An empty id is the caller's mistake, told by the field."""
    async with serving() as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get(service, "")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("session: ")
