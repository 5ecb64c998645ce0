"""Time as the sandbox sees it: one clock for TTLs, ids, prices, rate limits and latency.

Rule: nothing in the sandbox reads the wall clock or sleeps except through a `Clock`. It does not know
time zones or leap seconds: an instant is seconds since the epoch.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from itertools import count
from typing import Protocol

_SETTLE_YIELDS = 20
"""Turns of the event loop given to woken coroutines between two steps of `VirtualClock.travel`; enough for a
reply to pass through an SDK (about ten awaits) and to start its next sleep."""


class Clock(Protocol):
    """What the sandbox asks of time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed on this clock."""
        ...


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep for real seconds."""
        await asyncio.sleep(seconds)


class VirtualClock:
    """Time that only moves when told to. For one event loop; not for threads."""

    def __init__(self, start: float) -> None:
        self._now = start
        self._order: Iterator[int] = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrival = asyncio.Event()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._now

    @property
    def sleepers(self) -> int:
        """How many coroutines wait on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def until_sleepers(self, count: int) -> None:
        """Wait until `count` coroutines wait on this clock; call it before moving time under started
        tasks."""
        while self.sleepers < count:
            self._arrival.clear()
            await self._arrival.wait()

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`; zero or less returns after one yield."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        self._arrival.set()
        await future

    def advance(self, seconds: float) -> None:
        """Move time on and wake, in order of their instants, those who are due.

        The woken run after the caller yields, and then read the final instant; use `travel` when they sleep
        again.

        Raises:
            ValueError: if `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time only moves forward, not by {seconds:g} s")
        target = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= target:
            self._wake_next()
        self._now = target

    async def travel(self, seconds: float) -> None:
        """Move time on step by step, letting each woken coroutine run at its own instant.

        Raises:
            ValueError: if `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"time only moves forward, not by {seconds:g} s")
        target = self._now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            self._wake_next()
            await _settle()
        self._now = target
        await _settle()

    async def run(self) -> None:
        """Move time on to the next sleeper whenever nobody has anything else to do, until cancelled.

        For a program whose every wait is on this clock: it then runs as fast as it computes.
        """
        while True:
            await self.until_sleepers(1)
            await _settle()
            if self._sleepers:
                self._wake_next()

    def _wake_next(self) -> None:
        instant, _, future = heapq.heappop(self._sleepers)
        if not future.done():
            self._now = max(self._now, instant)
            future.set_result(None)


async def _settle() -> None:
    for _ in range(_SETTLE_YIELDS):
        await asyncio.sleep(0)
