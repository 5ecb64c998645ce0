"""A closed loop of callers against one gRPC target, and what one slice of it showed.

The rule: as little work per call as possible, because the load generator must not be what saturates: requests are
bytes made beforehand, answers stay bytes but for one per slice, which is parsed and checked. A slice issues calls
for its time and then waits for those under way, so every call that was begun is counted.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from router.v1 import router_service_pb2
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.traffic import ANSWER_BYTES, CHUNKS

_SERVICE = "/router.v1.RouterService"
_DELTA_TAG = 0x12
_FINISHED_TAG = 0x1A
"""First byte of a StreamGenerateResponse by its event: field number and wire type 2."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """What one stretch of calls showed.

    Attributes:
        latencies_s: Of every call, in order of completion.
        first_s: Of streams, time to the first text; empty for unary calls.
    """

    calls: int
    wall_s: float
    latencies_s: Sequence[float]
    first_s: Sequence[float]

    @property
    def per_s(self) -> float:
        """Calls per second."""
        return self.calls / self.wall_s


class Caller:
    """Calls one target, unary or streamed, with one metadata."""

    def __init__(self, channel: grpc.aio.Channel, *, stream: bool, metadata: Metadata) -> None:
        """Keep the channel; nothing is sent."""
        self._stream = stream
        self._metadata = metadata
        self._unary_call: Any = channel.unary_unary(f"{_SERVICE}/Generate")
        self._stream_call: Any = channel.unary_stream(f"{_SERVICE}/StreamGenerate")

    async def slice(self, pool: Iterator[bytes], *, concurrency: int, seconds: float) -> Slice:
        """Call for so long from so many callers, then wait for the calls under way.

        Raises:
            BenchmarkError: A call failed or its answer was not the mock's.
        """
        latencies_s: list[float] = []
        first_s: list[float] = []
        started_s = time.perf_counter()
        end_s = started_s + seconds
        await self._checked(next(pool), latencies_s, first_s)

        async def caller() -> None:
            while time.perf_counter() < end_s:
                await self._once(next(pool), latencies_s, first_s)

        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(concurrency):
                    callers.create_task(caller())
        except* grpc.aio.AioRpcError as errors:
            raise BenchmarkError(f"a call failed: {errors.exceptions[0]}") from errors
        return Slice(len(latencies_s), time.perf_counter() - started_s, latencies_s, first_s)

    async def _once(self, request: bytes, latencies_s: list[float], first_s: list[float]) -> list[bytes]:
        started_s = time.perf_counter()
        if not self._stream:
            answer = await self._unary_call(request, metadata=self._metadata)
            latencies_s.append(time.perf_counter() - started_s)
            return [answer]
        first_at_s = 0.0
        messages: list[bytes] = []
        stream: AsyncIterator[bytes] = self._stream_call(request, metadata=self._metadata)
        async for message in stream:
            if not first_at_s and message[0] == _DELTA_TAG:
                first_at_s = time.perf_counter()
            messages.append(message)
        latencies_s.append(time.perf_counter() - started_s)
        first_s.append(first_at_s - started_s)
        if not first_at_s or messages[-1][0] != _FINISHED_TAG:
            raise BenchmarkError(f"a stream of {len(messages)} messages has no text or no end")
        return messages

    async def _checked(self, request: bytes, latencies_s: list[float], first_s: list[float]) -> None:
        """Make one call and read its answer."""
        try:
            messages = await self._once(request, latencies_s, first_s)
        except grpc.aio.AioRpcError as error:
            raise BenchmarkError(f"a call failed: {error}") from error
        if self._stream:
            events = [router_service_pb2.StreamGenerateResponse.FromString(message) for message in messages]
            text = "".join(event.delta.text for event in events)
            whole = events[-1].finished.answer
            if sum(event.WhichOneof("event") == "delta" for event in events) > CHUNKS:
                raise BenchmarkError(f"more than {CHUNKS} deltas came of {CHUNKS} pieces")
        else:
            whole = router_service_pb2.GenerateResponse.FromString(messages[0]).answer
            text = "".join(part.text.text for part in whole.parts)
        if len(text) != ANSWER_BYTES or "".join(part.text.text for part in whole.parts) != text:
            raise BenchmarkError(f"an answer has {len(text)} characters; the mock sends {ANSWER_BYTES}")
