"""What every call of a client takes with it: its deadline, its metadata, and what is known when it fails.

The rule: every call has a deadline and a request id. The id is made here unless the caller gives one, so that it is
known even when no server was reached, and is the same on every try; the server books a request under it with a suffix
of its own (`GenerateResponse.request_id`), because a caller's may repeat.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from router.client.errors import REQUEST_ID_KEY
from router.client.requests import Fields
from router.client.settings import Settings

Metadata = Callable[[], Iterable[tuple[str, str]]]
"""Gives more metadata, asked once per call in the caller's own context: credentials, trace headers."""


class CallOptions(NamedTuple):
    """What one call is made with; `timeout_s` includes retries."""

    request_id: str
    timeout_s: float
    metadata: tuple[tuple[str, str], ...]
    wait_for_ready: bool


@dataclass(frozen=True, slots=True)
class Habits:
    """What the calls of one client have in common."""

    settings: Settings
    metadata: Metadata | None
    defaults: Fields

    @property
    def tenant(self) -> str:
        """The tenant of calls that name none."""
        return self.defaults.get("tenant", "")

    def options(
        self, timeout_s: float | None, request_id: str = "", wait_for_ready: bool | None = None
    ) -> CallOptions:
        """Return the options of one call.

        Raises:
            ValueError: `timeout_s` is not positive.
        """
        if timeout_s is not None and timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s:g}")
        request_id = request_id or secrets.token_hex(16)
        return CallOptions(
            request_id,
            self.settings.timeout_s if timeout_s is None else timeout_s,
            ((REQUEST_ID_KEY, request_id), *(self.metadata() if self.metadata else ())),
            self.settings.wait_for_ready if wait_for_ready is None else wait_for_ready,
        )
