"""Embeddings of turns for the classifier, made beside the event loop and within a bound of time.

The rule: an operator's text encoder runs in one thread of its own, so that no other request waits for it, and a request
waits for it no longer than `wait_s`; one that it is too late for, or that would stand behind `PENDING_LIMIT` others, is
scored without an embedding, by words and structure, and counted. A failing encoder fails no request: it is told once
in a while, never with text. What was encoded is the sample's own text, as in training.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from classifier.encoder import Embedder, EncoderError
from router.call import Call
from router.sampling import turn_text

logger = logging.getLogger(__name__)

PENDING_LIMIT: Final = 8
"""Texts that may be in the encoder's hands at once; more would wait longer than they may."""

TOLD_EVERY: Final = 1_000
"""Failures between two lines in the log."""


class Encodings:
    """The encoder's thread and what came of it.

    Attributes:
        used, late, failed: Requests scored with an embedding, without one because of time, and because of a failure.
    """

    def __init__(
        self, embedder: Embedder, *, wait_s: float, tell: Callable[[str], None] | None = None
    ) -> None:
        """Start no thread yet.

        Args:
            wait_s: Longest wait of one request, >= 0.
            tell: Hears of every request: "used", "late" or "failed".
        """
        self._embedder, self._wait_s, self._tell = embedder, wait_s, tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text-encoder")
        self._pending = 0
        self.used = self.late = self.failed = 0

    async def of(self, call: Call) -> bytes:
        """Embedding of the turn's text; b"" where there is none to be had in time."""
        text = turn_text(call)
        if not text:
            return b""
        if self._pending >= PENDING_LIMIT:
            return self._without("late")
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._embedder.embed, [text])
        future.add_done_callback(self._done)
        # Waiting does not cancel: what has begun ends in its thread, and only then does another take its place.
        finished, _ = await asyncio.wait({future}, timeout=self._wait_s)
        if not finished:
            return self._without("late")
        error = future.exception()
        if error is None:
            self.used += 1
            if self._tell is not None:
                self._tell("used")
            return future.result()[0]
        if self.failed % TOLD_EVERY == 0:
            logger.error("%s; requests are scored without it", error)
        return self._without("failed")

    def close(self) -> None:
        """Begin no more; what runs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _without(self, outcome: str) -> bytes:
        if outcome == "late":
            self.late += 1
        else:
            self.failed += 1
        if self._tell is not None:
            self._tell(outcome)
        return b""

    def _done(self, future: "asyncio.Future[list[bytes]]") -> None:
        self._pending -= 1
        if not future.cancelled():
            error = future.exception()  # retrieved, so that a late failure is no stray one
            if error is not None and not isinstance(error, EncoderError):
                logger.error("the text encoder failed: %s", type(error).__name__)
