"""Conversations whose route changes by force with every call, tool loops included: no provider refuses anything.

Three workloads over real gRPC, streamed: dialogues with tools and growing agent prompts as they are recorded (their
history is the recording's), and conversations of this file's own, whose history is what the two models answered. An
answer that calls tools is followed, on the other route, by the results. The recordings are used where
HYBRID_ROUTER_DATA names their folder; short ones of the same form always are.
"""

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from router.convert_workload import messages_to_proto, stream_request
from router.ledger import Ledger
from router.recordings import agent_text, tool_dialogues
from router.sandbox import SandboxSettings, VirtualClock
from router.sandbox.wire import WireRequest, WireResponse
from router.settlement import Outcome
from router.timeline import RequestConstraints, WorkloadRequest
from router.v1 import content_pb2, routing_pb2
from router.v1 import router_service_pb2 as pb
from router.workload import read_workload
from tests.e2e.builders import (
    FLASH,
    OPUS,
    START_TIME_S,
    as_stream,
    context_of,
    generate,
    said,
    text_part,
    user,
)
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of
from tests.e2e.test_ledger_is_the_invoice import assert_reconciled

ROUTES = {"flash": FLASH, "opus": OPUS}
SETTINGS = SandboxSettings(tool_call_chance=0.7, max_tool_rounds=3)
FOLLOWED = 2
"""Tool steps taken after an answer whose recording goes on elsewhere."""
PNG = b"\x89PNG" + bytes(400)


@dataclass
class Tally:
    """What a run saw.

    Attributes:
        statuses: HTTP statuses of the providers' answers.
        loop_switches: Calls in which a tool loop went on with the other model.
    """

    routes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    finishes: Counter[str] = field(default_factory=Counter)
    tool_calls: int = 0
    loop_switches: int = 0
    thinking_parts: int = 0


class Caller:
    """A client that forces the other route with every call."""

    def __init__(self, service: Service, tally: Tally) -> None:
        self._service, self._tally = service, tally
        self._number = 0

    async def ask(self, request: pb.StreamGenerateRequest) -> pb.Answer:
        """Send a request on the route whose turn it is; any error is raised."""
        route = list(ROUTES)[self._number % 2]
        self._number += 1
        request.constraints.forced_route = ROUTES[route]
        request.constraints.no_fallback = True
        events = [event async for event in self._service.router.StreamGenerate(request, timeout=TIMEOUT_S)]
        answer: pb.Answer = events[-1].finished.answer
        assert answer.model.startswith("gemini" if route == "flash" else "claude")
        self._count(route, request, answer)
        self._service.clock.advance(20)
        return answer

    def _count(self, route: str, request: pb.StreamGenerateRequest, answer: pb.Answer) -> None:
        tally = self._tally
        tally.routes[route] += 1
        tally.finishes[content_pb2.FinishReason.Name(answer.finish_reason)] += 1
        tally.tool_calls += len(calls_of(answer))
        tally.thinking_parts += sum(part.HasField("thinking") for part in answer.parts)
        last = request.prompt.messages[-1].parts
        tally.loop_switches += all(part.HasField("tool_result") for part in last)


def calls_of(answer: pb.Answer) -> list[content_pb2.ToolCallPart]:
    """The tool calls of an answer."""
    return [part.tool_call for part in answer.parts if part.HasField("tool_call")]


def results_for(answer: pb.Answer, *beside: content_pb2.Part) -> content_pb2.Message:
    """A result for each call, last one first, and one of them a failure."""
    results = [
        content_pb2.ToolResultPart(
            tool_call_id=call.id, content=[text_part(f"{call.name} found 3 records")], is_error=number == 1
        )
        for number, call in enumerate(calls_of(answer))
    ]
    parts = [content_pb2.Part(tool_result=result) for result in reversed(results)]
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=[*parts, *beside])


@pytest.fixture
async def ledger() -> AsyncIterator[Ledger]:
    """A ledger that outlives the service, so that it can be read when both books are closed."""
    opened = Ledger.temporary(clock=VirtualClock(START_TIME_S))
    yield opened
    await opened.close()


@asynccontextmanager
async def watched(
    ledger: Ledger, tally: Tally, settings: SandboxSettings = SETTINGS
) -> AsyncIterator[Caller]:
    """A service whose providers' statuses are counted; at the end both books must agree and nothing have failed."""
    async with serving(settings=settings, ledger=ledger) as service:
        answer = service.sandbox.handle

        async def handle(request: WireRequest) -> WireResponse:
            found = await answer(request)
            tally.statuses[found.status] += 1
            return found

        service.sandbox.handle = handle  # type: ignore[method-assign]
        yield Caller(service, tally)
        invoice = service.invoice.lines
    settlements = await assert_reconciled(ledger, invoice)
    assert {each.outcome for each in settlements} == {Outcome.OK}
    assert set(tally.statuses) == {200}
    assert tally.statuses[200] == len(settlements) == tally.routes.total()
    assert abs(tally.routes["flash"] - tally.routes["opus"]) <= 1


async def replay(caller: Caller, requests: Iterable[WorkloadRequest]) -> None:
    """Send recorded prompts, and after each the results its answer asks for."""
    for session, turns in groupby(requests, key=lambda request: request.session):
        for turn in turns:
            asked = replace(turn, session=session, constraints=RequestConstraints(), max_output_tokens=400)
            messages = list(messages_to_proto(turn.messages))
            for _ in range(1 + FOLLOWED):
                answer = await caller.ask(stream_request(asked, messages))
                if not calls_of(answer):
                    break
                messages += [said(answer), results_for(answer)]


def dialogue(task: int) -> list[dict[str, Any]]:
    """A short recording in the form of tool_dialogues."""

    def called(number: int, name: str, **arguments: str) -> dict[str, Any]:
        return {"id": f"call_{task}_{number}", "name": name, "arguments": json.dumps(arguments)}

    def result(number: int, content: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": f"call_{task}_{number}", "content": content}

    messages = [
        {"role": "user", "content": f"I want to change booking {task}."},
        {"role": "assistant", "content": "Which name is it under?"},
        {"role": "user", "content": "Mia Li."},
        {"role": "assistant", "content": "", "tool_calls": [called(1, "get_user", user="mia_li")]},
        result(1, '{"user":"mia_li","bookings":["A","B"]}'),
        {
            "role": "assistant",
            "content": "I look at both.",
            "tool_calls": [called(2, "get_booking", id="A"), called(3, "get_booking", id="B")],
        },
        result(2, '{"id":"A","to":"OSL"}'),
        result(3, "Error: not found"),
        {"role": "assistant", "content": "A goes to Oslo. Shall I move it?"},
        {"role": "user", "content": "Yes, to Friday."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called(1, "move_booking", id="A", day="Friday")],
        },
        result(1, "done"),
        {"role": "assistant", "content": "It is moved."},
    ]
    return [{"type": "dialogue", "task": task, "trial": 0, "reward": 1, "system": "s", "messages": messages}]


def short_dialogues() -> list[WorkloadRequest]:
    """Dialogues with tools as a recording gives them."""
    system = {"type": "system", "id": "s", "content": "You change bookings. Ask before you do. " * 40}
    rows = [system, *(row for task in range(3) for row in dialogue(task))]
    return [request for session in tool_dialogues(list(enumerate(rows, 1)), "short") for request in session]


def short_agent() -> list[WorkloadRequest]:
    """A growing agent prompt as a recording gives it."""
    rows: list[dict[str, Any]] = []
    for session in ("one", "two"):
        length = 0
        for seq in range(6):
            add = f"\nStep {seq} of {session}: the test prints\n" + f"line {seq}\n" * 60
            rows.append({"agent": "a", "session": session, "seq": seq, "t": 0.0, "keep": length, "add": add})
            length += len(add)
    return [r for requests in agent_text(list(enumerate(rows, 1)), "short") for r in requests]


@pytest.mark.parametrize("recorded", [short_dialogues, short_agent])
async def test_recorded_prompts_alternate(ledger: Ledger, recorded: Any) -> None:
    """Histories nobody signed: both models take them in turn."""
    tally = Tally()
    async with watched(ledger, tally) as caller:
        await replay(caller, recorded())
    assert tally.routes.total() > 10


@pytest.mark.parametrize("name", ["tool_dialogues.dev.jsonl.gz", "agent_text.dev.jsonl.gz"])
async def test_public_recordings_alternate(ledger: Ledger, name: str) -> None:
    """With HYBRID_ROUTER_DATA naming a folder of recordings: every prompt of them, routes in turn, nothing refused."""
    folder = os.environ.get("HYBRID_ROUTER_DATA")
    if not folder:
        pytest.skip("HYBRID_ROUTER_DATA is not set: it names the folder that holds traces/")
    tally = Tally()
    workload = read_workload(Path(folder) / "traces" / name)
    by_session = sorted(workload.requests, key=lambda request: request.session)
    async with watched(ledger, tally) as caller:
        await replay(caller, by_session)
    assert tally.routes.total() >= len(workload.requests)


SCRIPT = (
    ("Sum up the open tickets of Northwind.", ""),
    ("Compare both accounts.", "tool=search_tickets tool=read_account thinking=60"),
    ("And the third?", "thinking=40"),
    ("Read it, then its tickets.", "tool=read_account thinking=80"),
    ("Who owns them?", 'say="So do I." tool=search_tickets thinking=0'),
    ("Thank you, and the plan?", ""),
    ("Once more, all of them.", "tool=read_account tool=read_account tool=search_tickets thinking=30"),
    ("That is all.", "tokens=30"),
)
"""What a person says, and what the model is told to do; without a word to it, it does as it likes."""


async def talk(caller: Caller, person: str, *, thinking: bool, pictures: bool) -> None:
    """A conversation whose history is what was answered; loops change hands with each step."""
    messages: list[content_pb2.Message] = []
    for number, (words, order) in enumerate(SCRIPT):
        text = f"{words} [[sandbox {order}]]" if order else words
        parts = [text_part(text)]
        if pictures and number % 3 == 1:
            image = content_pb2.ImagePart(media_type="image/png", data=PNG)
            parts.insert(0, content_pb2.Part(image=image))
        messages.append(content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts))
        for step in range(6):
            request = as_stream(
                generate(*messages, session=person, person=person, context=(context_of(person),))
            )
            request.prompt.include_thinking = thinking
            answer = await caller.ask(request)
            if answer.parts:
                messages.append(said(answer))
            if not calls_of(answer):
                break
            beside = (text_part("Go on."),) if step == 4 else ()
            messages.append(results_for(answer, *beside))
        else:
            messages.append(
                content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[text_part("Enough.")])
            )


WORLDS: dict[str, SandboxSettings] = {
    "an ordinary organisation": SETTINGS,
    "one whose thinking is bound to its conversation": replace(SETTINGS, thinking_binding=True),
}


@pytest.mark.parametrize("settings", WORLDS.values(), ids=WORLDS)
async def test_conversations_alternate(ledger: Ledger, settings: SandboxSettings) -> None:
    """Histories of both models' real answers, thinking and calls and signatures included."""
    tally = Tally()
    async with watched(ledger, tally, settings) as caller:
        for number in range(4):
            await talk(caller, f"person-{number}", thinking=bool(number % 2), pictures=number > 1)
    assert tally.loop_switches > 20
    assert tally.thinking_parts > 20


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_a_running_tool_loop_stays_with_its_model(ledger: Ledger, route: int) -> None:
    """Without force, the results of a call go to the model that made it, whatever the classifier says."""
    async with serving(ledger=ledger) as service:
        opening = generate(user("[[sandbox tool=read_account]] Read it."), route=route, session="s")
        first = await service.generate(opening)
        assert len(calls_of(first.answer)) == 1
        step = generate(*opening.prompt.messages, said(first.answer), results_for(first.answer), session="s")
        second = await service.generate(step)
    assert second.decision.route == route
    assert second.decision.reason == routing_pb2.DECISION_REASON_TOOL_LOOP


GIF = content_pb2.Part(image=content_pb2.ImagePart(media_type="image/gif", data=b"GIF89a"))
ANY = content_pb2.ToolChoice(mode=content_pb2.ToolChoice.MODE_ANY)
SERIAL = content_pb2.ToolChoice(disable_parallel=True)
UNTAKEN = {
    "a forced call": (OPUS, pb.Prompt(tool_choice=ANY), "prompt.tool_choice.mode"),
    "an open schema": (OPUS, pb.Prompt(output_schema_json='{"type":"object"}'), "prompt.output_schema_json"),
    "one call at a time": (FLASH, pb.Prompt(tool_choice=SERIAL), "prompt.tool_choice.disable_parallel"),
    "a long answer": (FLASH, pb.Prompt(max_output_tokens=100_000), "prompt.max_output_tokens"),
    "a GIF": (
        FLASH,
        pb.Prompt(messages=[content_pb2.Message(role=content_pb2.ROLE_USER, parts=[GIF])]),
        "prompt.messages[1].parts[0].image.media_type",
    ),
}


@pytest.mark.parametrize("name", UNTAKEN)
async def test_what_the_forced_model_does_not_take_is_refused_before_the_call(
    service: Service, name: str
) -> None:
    """INVALID_ARGUMENT naming the proto field; without force the other model takes it."""
    route, more, field = UNTAKEN[name]
    request = generate(user("Do it."), route=route)
    request.prompt.MergeFrom(more)
    for ask in (service.generate, service.stream):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        violation = detail(status_of(caught.value), BadRequest).field_violations[0]  # type: ignore[attr-defined]
        assert violation.field == field
    assert not service.invoice.lines
    request.constraints.forced_route = routing_pb2.ROUTE_UNSPECIFIED
    answered = await service.generate(request)
    assert answered.decision.route == {OPUS: FLASH, FLASH: OPUS}[route]
