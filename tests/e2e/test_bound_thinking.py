"""Thinking bound to the prompt before it: whatever changes there, the conversation goes on, and the bill is right."""

from dataclasses import replace

import pytest

from router.v1 import content_pb2, routing_pb2
from router.v1 import router_service_pb2 as pb
from router.v1 import session_service_pb2 as sessions_pb
from router.v1.session_service_pb2_grpc import SessionServiceStub
from tests.e2e.builders import APPLICATION, generate, said, tool_result, user
from tests.e2e.service import TALK_ONLY, TIMEOUT_S, Service, serving

BOUND = replace(TALK_ONLY, thinking_binding=True)
OPUS = routing_pb2.ROUTE_OPUS
THINK = "[[sandbox thinking=40]] Think it over."
CALL = "[[sandbox thinking=40 tool=read_account]] Look it up."


async def ask(service: Service, request: pb.GenerateRequest, *, stream: bool) -> tuple[pb.Answer, int, int]:
    """The answer, how many attempts it took, and the session's version after it."""
    service.clock.advance(20)
    if stream:
        finished = (await service.stream(request))[-1].finished
        return finished.answer, len(finished.accounting.attempts), finished.session_version
    response = await service.generate(request)
    return response.answer, len(response.accounting.attempts), response.session_version


def next_turn(answer: pb.Answer) -> content_pb2.Message:
    """Results for an answer's calls, a question where it holds none."""
    calls = [part.tool_call for part in answer.parts if part.HasField("tool_call")]
    if not calls:
        return user(THINK)
    parts = [part for call in calls for part in tool_result(call.id, "3 records").parts]
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts)


async def bill_is_right(service: Service, *, refusals: int) -> None:
    """The refused attempts are free, and the ledger's sum is the invoice's."""
    booked = await service.settlements()
    assert sum(each.error == "UPSTREAM_REJECTED" for each in booked) == refusals
    told = sum(each.cost.total_nano_usd for each in booked if each.cost is not None)
    assert told == service.invoice.totals().cost_nano_usd


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("opening", [THINK, CALL])
async def test_an_edited_system_prompt_ends_no_conversation(stream: bool, opening: str) -> None:
    """Opus is asked once more without the thinking it refuses, within a tool loop, too, and in every later turn."""
    async with serving(settings=BOUND) as service:
        messages = [user(opening)]
        for system, attempts in (("A", 1), ("B", 2), ("B", 2)):
            request = generate(*messages, route=OPUS, no_fallback=True, session="s")
            request.prompt.system.append(system)
            answer, tried, _ = await ask(service, request, stream=stream)
            assert tried == attempts
            messages += [said(answer), next_turn(answer)]
        await bill_is_right(service, refusals=2)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_context_that_comes_late_ends_no_session(stream: bool) -> None:
    """In a session known to have had none it is not put before thinking that was made without it."""
    async with serving(settings=BOUND) as service:
        stub = SessionServiceStub(service.channel)
        opened = sessions_pb.OpenSessionRequest(session="s", tenant="acme", application=APPLICATION)
        await stub.OpenSession(opened, timeout=TIMEOUT_S)
        for number, context in enumerate(((), (), ("Speaks Basque.",), ())):
            request = generate(user(THINK), application="", route=OPUS, session="s", context=context)
            _, tried, version = await ask(service, request, stream=stream)
            assert (tried, version) == (1, number + 2)
        await bill_is_right(service, refusals=0)
