"""A session's account as a message: what is known is spelled, what is not stays absent."""

from itertools import count

import pytest

from cache.index import PrefixIndex
from router.applications import Applications
from router.config import ApplicationConfig, SessionsConfig
from router.errors import InvalidRequest, NotFound
from router.sandbox import VirtualClock
from router.session_book import SessionBook
from router.session_service import SessionService, stateless_session
from router.session_store import MemorySessionStore, SessionLimits
from router.settlement import Outcome
from router.v1 import content_pb2, routing_pb2
from router.v1 import session_service_pb2 as pb
from tests.router.test_session_book import settled


def spelled(*settlements):
    """The message of an account that has these."""
    book = SessionBook(10)
    for settlement in settlements:
        book.note(settlement, None)
    return stateless_session("acme", "s", book.find("acme", "s"), 0.97, 4_000)


def test_the_account_is_spelled_whole():
    """Every sum has its field, instants to the nanosecond, the chance and the tokens as given."""
    session = spelled(settled(started_time_s=1000.25), settled(started_time_s=1100.5, route="flash"))
    assert (session.tenant, session.session, session.application, session.user) == (
        "acme",
        "s",
        "desk",
        "ann",
    )
    assert (session.create_time.ToNanoseconds(), session.update_time.ToNanoseconds()) == (
        1_000_250_000_000,
        1_100_500_000_000,
    )
    assert session.last_route == routing_pb2.ROUTE_FLASH
    assert (session.warm_probability, session.warm_tokens) == (0.97, 4_000)
    assert (session.usage.input_tokens, session.usage.uncached_input_tokens) == (20_000, 2_000)
    assert session.usage.thinking_tokens == 400
    assert (session.cost_nano_usd, session.caching_saving_nano_usd) == (2_000, 8_000)


def test_what_is_not_known_stays_absent():
    """No answer, no route; no word on thinking, no count of it; no history held, no version and no expiry."""
    nothing = {"usage": None, "cost": None, "counterfactuals": None}
    session = spelled(settled(outcome=Outcome.UNKNOWN, **nothing))
    assert session.last_route == routing_pb2.ROUTE_UNSPECIFIED
    assert not session.usage.HasField("thinking_tokens")
    assert not session.usage.complete
    assert session.unknown_cost_count == 1
    assert not session.held
    assert (session.version, session.message_count, session.HasField("expire_time")) == (0, 0, False)


@pytest.fixture
def service():
    """A service that knows nothing yet; ids it makes are told apart by a number."""
    numbers = count(1)
    return SessionService(
        book=SessionBook(10),
        store=MemorySessionStore(SessionLimits(10, 1 << 20)),
        applications=Applications({"desk": ApplicationConfig(system=("Be brief.",))}),
        settings=SessionsConfig(idle_ttl_s=600.0, idle_ttl_limit_s=900.0),
        index=PrefixIndex(),
        clock=VirtualClock(1000.0),
        new_id=lambda: f"made-{next(numbers)}",
    )


async def test_an_unknown_session_is_named(service):
    """The message says which session of which tenant, and what it may mean."""
    with pytest.raises(NotFound, match=r"session 's' does not exist; no request of tenant 'acme'"):
        await service.GetSession(pb.GetSessionRequest(session="s", tenant="acme"), None)
    for method in (service.GetSession, service.CloseSession):
        request = pb.GetSessionRequest if method == service.GetSession else pb.CloseSessionRequest
        with pytest.raises(InvalidRequest, match="session: is empty"):
            await method(request(tenant="acme"), None)
        with pytest.raises(InvalidRequest, match="tenant: has 129 characters; at most 128"):
            await method(request(session="s", tenant="a" * 129), None)
    with pytest.raises(NotFound, match=r"session 's' does not exist; the server does not hold it"):
        await service.CloseSession(pb.CloseSessionRequest(session="s", tenant="acme"), None)


async def test_a_new_session_has_used_nothing(service):
    """Its sums are zeros that are known, its instants the clock's, its idle TTL the service's."""
    request = pb.OpenSessionRequest(application="desk", tenant="acme", user="ann")
    session = (await service.OpenSession(request, None)).session
    assert (session.session, session.version, session.held, session.user) == ("made-1", 1, True, "ann")
    assert (session.request_count, session.cost_nano_usd, session.usage.complete) == (0, 0, True)
    assert session.create_time.seconds == session.update_time.seconds == 1000
    assert session.expire_time.seconds == 1600
    assert session.last_route == routing_pb2.ROUTE_UNSPECIFIED


async def test_every_kind_of_part_comes_back_as_it_was_brought(service):
    """Messages are returned as they were given, to the byte."""
    png = content_pb2.ImagePart(media_type="image/png", data=b"\x89PNG")
    pdf = content_pb2.DocumentPart(media_type="application/pdf", data=b"%PDF", title="Terms")
    call = content_pb2.ToolCallPart(
        id="c1", name="find", arguments_json='{ "b":1,"a":2 }', signature="c2ln", model="gemini-3.8-flash"
    )
    thinking = content_pb2.ThinkingPart(model="claude-opus-5-5", text="hm", signature="c2ln")
    shown = [content_pb2.Part(image=png), content_pb2.Part(text={"text": ""})]
    result = content_pb2.ToolResultPart(tool_call_id="c1", content=shown, is_error=True)
    messages = [
        content_pb2.Message(
            role=content_pb2.ROLE_USER,
            parts=[{"text": {"text": "Look"}}, content_pb2.Part(image=png), content_pb2.Part(document=pdf)],
        ),
        content_pb2.Message(
            role=content_pb2.ROLE_ASSISTANT,
            parts=[content_pb2.Part(thinking=thinking), content_pb2.Part(tool_call=call)],
        ),
        content_pb2.Message(role=content_pb2.ROLE_USER, parts=[content_pb2.Part(tool_result=result)]),
    ]
    await service.OpenSession(
        pb.OpenSessionRequest(session="s", application="desk", tenant="acme", messages=messages), None
    )
    asked = pb.GetSessionRequest(session="s", tenant="acme", include_messages=True)
    assert list((await service.GetSession(asked, None)).messages) == messages


@pytest.mark.parametrize("action", ["", "a" * 65, "line\nbreak"])
async def test_an_action_has_a_name(service, action):
    """1 to 64 characters that can be printed."""
    with pytest.raises(InvalidRequest, match="action"):
        await service.ReportAction(pb.ReportActionRequest(session="s", action=action), None)


async def test_without_a_warmer_an_action_is_noted_and_nothing_is_warmed(service):
    """The verdict says so."""
    response = await service.ReportAction(pb.ReportActionRequest(session="s", action="upload"), None)
    assert (response.warm.warmed, response.warm.reason) == (False, "nothing is warmed here")
