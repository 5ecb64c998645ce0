"""Streams through the whole router: each piece is with the caller before the next is made, and no faster than it reads.

The provider waits on the test's clock before every piece it generates, so what is held back would be seen.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from router.sandbox import Call, SandboxSettings, Text
from router.sandbox.wire import WireRequest, WireResponse
from router.v1 import content_pb2
from router.v1 import router_service_pb2 as pb
from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.builders import FLASH, OPUS, as_stream, generate, user
from tests.e2e.service import TALK_ONLY, TIMEOUT_S, Service, serving

SLOW = SandboxSettings(latency_scale=1.0)
STORY = "One for the road, two for the show, three to get ready. " * 3
ARGUMENTS = {"account": "Northwind", "owner": "Ann", "period": "2026-11", "status": "open"}
LONG = "The quick brown fox jumps over the lazy dog. " * 6000
NARROW = (("grpc.http2.bdp_probe", 0),)
"""Keeps a client's window at HTTP/2's 64 KiB; on loopback gRPC would widen it beyond any answer."""
SETTLE_TURNS = 3
"""Other calls answered while one waits, to let time pass that is not slept away."""


def request_of(route: int, *, thinking: bool = False) -> pb.StreamGenerateRequest:
    """A request whose answer the test dictates."""
    most = {OPUS: 120_000, FLASH: 65_000}[route]
    request = as_stream(generate(user("Tell."), route=route, max_output_tokens=most))
    request.prompt.include_thinking = thinking
    return request


async def content(events: AsyncIterator[pb.StreamGenerateResponse]) -> AsyncIterator[pb.ContentDelta]:
    """The deltas of a stream, as they come."""
    async for event in events:
        if event.HasField("delta"):
            yield event.delta


async def pieces_of(
    route: int, *parts: Text | Call, thinking: int = 0, shown: bool = False
) -> list[pb.ContentDelta]:
    """The deltas of an answer that nobody holds up."""
    async with serving() as service:
        service.sandbox.script(*parts, thinking_tokens=thinking)
        call = service.router.StreamGenerate(request_of(route, thinking=shown), timeout=TIMEOUT_S)
        return [delta async for delta in content(call)]


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_each_piece_is_with_the_caller_before_the_next_is_made(route: int) -> None:
    """With the provider waiting to write its next words, all of the last ones can be read."""
    said: list[str] = []
    async with serving(settings=SLOW) as service:
        service.sandbox.script(Text(STORY), thinking_tokens=0)
        call = service.router.StreamGenerate(request_of(route), timeout=TIMEOUT_S)
        deltas = content(call)
        await service.clock.held()  # the time to the first token
        service.clock.advance(5)
        while len("".join(said)) < len(STORY):
            await service.clock.held()
            assert service.clock.sleepers == 1
            service.clock.advance(5)
            async with asyncio.timeout(TIMEOUT_S):
                said.append((await anext(deltas)).text)
        assert "".join(said) == STORY
        assert len(said) > 4
        assert [delta async for delta in deltas] == []


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_the_first_byte_is_timed_apart_from_the_whole(route: int) -> None:
    """What the provider took until its first words is told, without what it took after them."""
    loop = asyncio.get_running_loop()
    request = generate(user("Tell."), route=route)
    async with serving(settings=SLOW) as service:
        service.sandbox.script(Text(STORY), thinking_tokens=0)
        call = service.router.StreamGenerate(request_of(route), timeout=TIMEOUT_S)
        waits_s = []
        for _ in ("the answer begins", "its first words are made", "and its next"):
            await service.clock.held()
            began_s = loop.time()
            for _ in range(SETTLE_TURNS):
                await service.explain(request)
            waits_s.append(loop.time() - began_s)
            service.clock.advance(5)
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            reading = group.create_task(_last(call))
            while not reading.done():
                if service.clock.sleepers:
                    service.clock.advance(5)
                await asyncio.sleep(0)
    bill = reading.result().finished.accounting
    first_s, whole_s = (span.ToNanoseconds() / 1e9 for span in (bill.first_byte_duration, bill.duration))
    assert waits_s[0] < first_s < whole_s - waits_s[2]


async def _last(call: AsyncIterator[pb.StreamGenerateResponse]) -> pb.StreamGenerateResponse:
    return [event async for event in call][-1]


async def test_arguments_are_streamed_by_key() -> None:
    """A call's id and name come with its first piece, its arguments as they are made."""
    pieces = [delta.tool_call for delta in await pieces_of(OPUS, Call("read_account", ARGUMENTS))]
    assert [bool(piece.id and piece.name) for piece in pieces] == [True, *[False] * (len(pieces) - 1)]
    assert len(pieces) > len(ARGUMENTS)
    assert "".join(piece.arguments_json for piece in pieces) == (
        '{"account":"Northwind","owner":"Ann","period":"2026-11","status":"open"}'
    )


async def test_a_call_of_gemini_comes_whole() -> None:
    """Its API gives calls in one part (G-GEN, 2026-11)."""
    (piece,) = [delta.tool_call for delta in await pieces_of(FLASH, Call("read_account", ARGUMENTS))]
    assert piece.id
    assert piece.arguments_json.count('":"') == len(ARGUMENTS)


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_summaries_of_thinking_come_on_request_only(route: int) -> None:
    """Ahead of the text, under a part of their own."""
    shown = await pieces_of(route, Text("So."), thinking=60, shown=True)
    silent = await pieces_of(route, Text("So."), thinking=60)
    assert "".join(delta.thinking for delta in shown)
    assert not any(delta.thinking for delta in silent)
    assert (
        [delta.text for delta in shown if delta.text]
        == [delta.text for delta in silent if delta.text]
        == ["So."]
    )
    assert shown[-1].part_index == 1


class Pulled:
    """How much of its answers the provider has generated; it generates what is asked of it."""

    def __init__(self, service: Service) -> None:
        self.bytes = 0
        self._answer = service.sandbox.handle
        service.sandbox.handle = self._handle  # type: ignore[method-assign]

    async def _handle(self, request: WireRequest) -> WireResponse:
        answer = await self._answer(request)
        if not isinstance(answer.body, bytes):
            body: Any = answer.body
            answer = WireResponse(status=answer.status, headers=answer.headers, body=_Counted(body, self))
        return answer


class _Counted:
    def __init__(self, body: Any, pulled: Pulled) -> None:
        self._body, self._pulled = body, pulled

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> bytes:
        piece: bytes = await anext(self._body)
        self._pulled.bytes += len(piece)
        return piece

    async def aclose(self) -> None:
        await self._body.aclose()


async def settled(service: Service, pulled: Pulled) -> int:
    """What was generated when, through a good many turns and other calls, no more is."""
    still, seen = 0, -1
    async with asyncio.timeout(TIMEOUT_S):
        while still < SETTLE_TURNS:
            for _ in range(300):
                await asyncio.sleep(0)
            await service.explain(generate(user("Meanwhile?")))
            still = still + 1 if pulled.bytes == seen else 0
            seen = pulled.bytes
    return seen


@pytest.mark.parametrize("route", [OPUS, FLASH])
async def test_a_slow_reader_bounds_what_is_read_ahead(route: int) -> None:
    """Who does not read is not read for: the provider is asked for no more than fits the connection's window."""
    async with (
        serving(settings=TALK_ONLY) as service,
        grpc.aio.insecure_channel(service.app.address, options=NARROW) as channel,
    ):
        pulled = Pulled(service)
        service.sandbox.script(Text(LONG), thinking_tokens=0)
        call = RouterServiceStub(channel).StreamGenerate(request_of(route), timeout=TIMEOUT_S)
        events = aiter(call)
        assert (await anext(events)).HasField("decided")
        first = (await anext(events)).delta.text
        ahead = await settled(service, pulled)
        rest = [event async for event in events]
        whole = rest[-1].finished.answer
    text = first + "".join(event.delta.text for event in rest)
    assert text == whole.parts[0].text.text == LONG
    assert whole.finish_reason == content_pb2.FINISH_REASON_END_TURN
    assert ahead < pulled.bytes / 2, f"{ahead:,} of {pulled.bytes:,} bytes read for a caller that reads none"
