"""What both faces share: settings, clock, invoice, faults, script, ids.

Rule: everything a request can change lives here or in a face's cache, so that `reset` forgets it all.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count

from router.sandbox.clock import Clock
from router.sandbox.directives import Directive, DirectiveError, read
from router.sandbox.faults import Fault, FaultQueue
from router.sandbox.invoice import Invoice
from router.sandbox.replies import Script
from router.sandbox.settings import SandboxSettings
from router.sandbox.stream import Wait
from router.sandbox.wire import ClientTimedOut, WireRequest

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRIES_KEPT = 10_000


class State:
    """The shared part of one sandbox."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.invoice = Invoice()
        self.faults = FaultQueue()
        self.script = Script()
        self._serial = count(1)
        self._tries: OrderedDict[bytes, int] = OrderedDict()

    def clear(self) -> None:
        """Forget invoice, faults, script and counted tries. Ids go on, so they stay unique."""
        self.invoice.clear()
        self.faults.clear()
        self.script.clear()
        self._tries.clear()

    def new_id(self, prefix: str, length: int = 22) -> str:
        """Return an id that is unique in this sandbox and the same in every run."""
        text = f"{self.settings.seed}:{prefix}:{next(self._serial)}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=20).digest(), "big")
        letters = []
        for _ in range(length):
            number, digit = divmod(number, 62)
            letters.append(_BASE62[digit])
        return prefix + "".join(letters)

    def directive(self, request: WireRequest, texts: list[str], upstream: str) -> Directive:
        """Read the directives of a request.

        Raises:
            DirectiveError: if one does not parse.
        """
        header = request.headers.get("x-sandbox-directive")
        if header is None and not any("[[sandbox" in text for text in texts):
            return read([], None, upstream)
        return read(texts, header, upstream)

    def fault_for(
        self, request: WireRequest, directive: Directive, upstream: str, models: tuple[str, ...]
    ) -> Fault | None:
        """Return the fault this request must suffer: its own, else the next injected one that matches."""
        if directive.fault is not None and self._own_fault_is_due(request, directive):
            return directive.fault
        return self.faults.take(upstream, models)

    def _own_fault_is_due(self, request: WireRequest, directive: Directive) -> bool:
        if directive.fault_times is None:
            return True
        key = hashlib.blake2b(request.path.encode() + b"\0" + request.body, digest_size=16).digest()
        tries = self._tries.pop(key, 0) + 1
        self._tries[key] = tries
        while len(self._tries) > _TRIES_KEPT:
            self._tries.popitem(last=False)
        return tries <= directive.fault_times

    def waiter(self, read_timeout_s: float | None) -> Wait:
        """Return a function that waits on the clock, but not longer than the client would.

        It raises `ClientTimedOut` when the client's patience ends first.
        """
        clock = self.clock

        async def wait(seconds: float | None) -> None:
            if read_timeout_s is not None and (seconds is None or seconds > read_timeout_s):
                await clock.sleep(read_timeout_s)
                raise ClientTimedOut
            if seconds is None:
                await asyncio.Event().wait()
            elif seconds > 0:
                await clock.sleep(seconds)

        return wait


def scope_of(key: str, accepted: Mapping[str, str] | None, default: str) -> str | None:
    """Return the workspace or project of an API key; None when it is not accepted."""
    if accepted is None:
        return default if key else None
    return accepted.get(key)


__all__ = ["DirectiveError", "State", "scope_of"]
