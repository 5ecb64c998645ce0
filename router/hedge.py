"""Hedging: a second call of the same kind when the first is slow, and the first answer of the two.

The rule: it spends money to buy time, so it is off unless the operator says otherwise, per route, and only for whole
answers: a stream that has begun cannot be exchanged for another. By default only Flash may be hedged. On Opus the
second call pays the whole prompt again, at write price where the first has not answered yet: a provider's cache entry
can be read only once the answer that wrote it has begun (A-CACHE, 2026-11).

Who loses is cancelled and closes its own books before the winner is handed on; so does everybody when the caller
leaves. This module does not know what a call is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from classifier.route import Route

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """What the operator allows.

    Attributes:
        after_s: Time without an answer after which a second call is made; 0 for never.
        routes: Routes on which it may be made.
    """

    after_s: float = 0.0
    routes: frozenset[Route] = frozenset()

    def on(self, route: Route) -> bool:
        """Whether calls of `route` are hedged."""
        return self.after_s > 0 and route in self.routes


async def first_answer(
    first: Callable[[], Awaitable[T]],
    second: Callable[[], Awaitable[T] | None],
    *,
    after: Callable[[], Awaitable[None]],
) -> T:
    """Return the first answer of `first` and, should it take too long, `second`.

    Args:
        first: Begins the first call.
        second: Begins the second, or gives None when it may not be made.
        after: Returns when the first has taken too long.

    Raises:
        Exception: The failure of the call that failed last. While one still runs, the other's failure is not told.
    """
    async with asyncio.TaskGroup() as group:
        calls = {group.create_task(_ended(first()), name="first call")}
        timer = group.create_task(_passed(after), name="hedge timer")
        await asyncio.wait({*calls, timer}, return_when=asyncio.FIRST_COMPLETED)
        if timer.done() and not any(call.done() for call in calls):
            other = second()
            if other is not None:
                calls.add(group.create_task(_ended(other), name="second call"))
        timer.cancel()
        ending: T | _Failed | None = None
        while calls:
            done, calls = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                if not isinstance(ending := call.result(), _Failed):
                    break
            if not isinstance(ending, _Failed):
                break
        for call in calls:
            call.cancel()
    if isinstance(ending, _Failed):
        raise ending.error
    return ending  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Failed:
    """A failure as a value: raised in its task it would end the other call."""

    error: Exception


async def _ended(call: Awaitable[T]) -> T | _Failed:
    try:
        return await call
    except Exception as error:
        return _Failed(error)


async def _passed(after: Callable[[], Awaitable[None]]) -> None:
    await after()
