"""The owner of work that outlives its request: one task group, drained at shutdown.

The rule: no bare tasks. What a request leaves behind (counting and booking a broken-off answer) is started here,
runs under this group, and `close` waits for it within a bound before cancelling it.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from router.stack import stack_of

logger = logging.getLogger(__name__)


class Tasks:
    """Runs coroutines to their end under one owner; an async context manager."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> "Tasks":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        self._closed = True
        # The owner's own error is not this group's to wrap: it ends what runs and goes on as it is.
        if error is not None:
            # Let work that was only just started begin: a task cancelled before its first step never runs its
            # `finally`, and what it was to book would be lost.
            await asyncio.sleep(0)
            for task in self._running:
                task.cancel()
        await self._group.__aexit__(None, None, None)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> bool:
        """Run `work` in the background; its failure is logged and does not end the service.

        Returns:
            False when the owner has ended and `work` will never run: do at once what cannot wait.
        """
        if self._closed:
            work.close()
            return False
        task = self._group.create_task(self._guard(work, name), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def drain(self, timeout_s: float) -> int:
        """Wait for what runs, at most `timeout_s`, then cancel the rest; return how many were cancelled."""
        if not self._running:
            return 0
        _, late = await asyncio.wait(tuple(self._running), timeout=timeout_s)
        for task in late:
            task.cancel()
        return len(late)

    async def _guard(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception as error:
            # The outermost edge of this task: nobody else can hear of it.
            logger.error("background work failed: %s\n%s", name, stack_of(error))
