"""The sandbox: both provider APIs behind one `handle`.

Rule: a request is dispatched by its path alone (and, for the model lists both providers serve, by the
credential header). Nothing here or below imports the router: what the planner gets wrong must be found
here.
"""

from __future__ import annotations

import re
from typing import Any

from router.sandbox.anthropic_api import AnthropicFace
from router.sandbox.clock import Clock, SystemClock
from router.sandbox.faults import Fault
from router.sandbox.gemini_api import GeminiFace
from router.sandbox.invoice import Invoice
from router.sandbox.replies import Part, ScriptedReply
from router.sandbox.settings import SandboxSettings
from router.sandbox.state import State
from router.sandbox.transport import SandboxTransport
from router.sandbox.wire import WireRequest, WireResponse

_GEMINI_PATH = re.compile(r"/(v1|v1beta)/models/[^/:]+:[A-Za-z]+\Z")


class Sandbox:
    """An offline Anthropic and Gemini, with one clock and one bill.

    Args:
        settings: how it behaves.
        clock: its only source of time; the system's by default.
    """

    def __init__(self, settings: SandboxSettings | None = None, clock: Clock | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self.clock = clock or SystemClock()
        self._state = State(self.settings, self.clock)
        self._anthropic = AnthropicFace(self._state)
        self._gemini = GeminiFace(self._state)

    @property
    def invoice(self) -> Invoice:
        """What has been billed so far."""
        return self._state.invoice

    async def handle(self, request: WireRequest) -> WireResponse:
        """Answer one request of either API.

        A streamed body must be read to its end or closed; cancelling before this returns is a request that
        was never answered (and is not billed).

        Raises:
            ConnectionDropped: the connection is to be reset without an answer.
            ClientTimedOut: `request.read_timeout_s` ended first.
        """
        face = self._gemini if _is_gemini(request) else self._anthropic
        return await face.handle(request)

    def transport(self) -> SandboxTransport:
        """Return a transport for `httpx2.AsyncClient`, to be put below the real SDKs."""
        return SandboxTransport(self)

    def inject(self, fault: Fault) -> None:
        """Let the next matching requests fail; faults are consumed first in, first out."""
        self._state.faults.inject(fault)

    def script(
        self,
        *parts: Part,
        thinking_tokens: int | None = None,
        stop: str | None = None,
        upstream: str | None = None,
    ) -> None:
        """Dictate the next answer: its parts, thinking tokens, and stop reason in the provider's word."""
        self._state.script.add(
            ScriptedReply(parts=parts, thinking_tokens=thinking_tokens, stop=stop, upstream=upstream)
        )

    def reset(self) -> None:
        """Forget caches, invoice, faults, scripts and rate-limit levels. The clock stays."""
        self._state.clear()
        self._anthropic.clear()
        self._gemini.clear()

    def census(self) -> dict[str, Any]:
        """Count what the sandbox holds: cache entries, pending faults and scripts, billed requests."""
        now = self.clock.now()
        return {
            "now": now,
            "anthropic_cache": self._anthropic.cache.census(now),
            "gemini_cache": self._gemini.cache.census(now),
            "pending_faults": len(self._state.faults),
            "pending_scripts": len(self._state.script),
            "billed_requests": len(self.invoice),
        }


def _is_gemini(request: WireRequest) -> bool:
    if _GEMINI_PATH.match(request.path) or request.path.startswith("/v1beta/"):
        return True
    return "x-goog-api-key" in request.headers
