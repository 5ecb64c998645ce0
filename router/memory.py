"""What the router remembers of a conversation between its requests: the last route, and where a tool loop runs.

The rule: bounded, and lost without harm. It serves stateless callers who name a session; nothing of what was said
is kept, only which route answered. The oldest unused session is forgotten first.
"""

from collections import OrderedDict

import msgspec

from classifier.route import Route


class Remembered(msgspec.Struct, frozen=True, gc=False):
    """Of one session.

    Attributes:
        route: Route of its last answer.
        request_count: Requests answered so far.
    """

    route: Route
    request_count: int


class SessionMemory:
    """Last route by (tenant, session)."""

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` sessions."""
        self._limit = limit
        self._sessions: OrderedDict[tuple[str, str], Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def recall(self, tenant: str, session: str) -> Remembered | None:
        """What is known of the session, None when nothing is. Does not count as use."""
        return self._sessions.get((tenant, session)) if session else None

    def remember(self, tenant: str, session: str, route: Route) -> None:
        """Note that `route` answered the session; no-op for the empty session."""
        if not session:
            return
        key = (tenant, session)
        before = self._sessions.get(key)
        self._sessions[key] = Remembered(route, 1 if before is None else before.request_count + 1)
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)
