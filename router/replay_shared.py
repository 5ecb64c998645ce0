"""What sessions of a replay share, and who keeps it warm: by its uses, or by the document's four-minute pinger.

The rule: the prefix that ends with a layer is shared once a second session has used it; what another session used
within the last five minutes is kept by others, so it is not lost with a session. The document's pinger knows what is
shared beforehand and sends the tools and system prompt of the latest request every four minutes from the first on,
whatever traffic does. It sends nothing itself.
"""

from dataclasses import dataclass, field

from cache.prompt import Layer
from cache.rules import TTL_5M_S
from router.replay_trace import TracePrompt, TraceRow

PINGER_SPACING_S = 240.0
"""The document's schedule: every four minutes."""


@dataclass(slots=True)
class _Users:
    """Who used a prefix: the last session and when, and when one other than it last did."""

    session: tuple[str, str]
    last_s: float
    others_s: float | None = None


@dataclass(slots=True)
class Sharing:
    """Uses of the prefixes that end with tools, system or context."""

    _users: dict[bytes, _Users] = field(default_factory=dict)

    def used(self, row: TraceRow, found: TracePrompt, now_s: float) -> int:
        """Note a request; give the blocks of its prompt that other sessions keep warm."""
        session, blocks = (row.namespace, row.session), 0
        for end in found.prompt.ends[: Layer.CONTEXT + 1]:
            if end < 0:
                continue
            seen = self._users.get(found.digests[end])
            if seen is None:
                self._users[found.digests[end]] = _Users(session, now_s)
                continue
            if seen.session != session:
                seen.others_s, seen.session = seen.last_s, session
            seen.last_s = now_s
            if seen.others_s is not None and now_s - seen.others_s < TTL_5M_S:
                blocks = max(blocks, found.ends[end])
        return blocks

    def shared_end(self, found: TracePrompt) -> int | None:
        """Block at which the application's layers end, if sessions share them; None otherwise."""
        end = application_end(found)
        seen = None if end is None else self._users.get(found.digests[end])
        return end if seen is not None and seen.others_s is not None else None


def application_end(found: TracePrompt) -> int | None:
    """Block at which tools and system end; None without either."""
    end = max(found.prompt.ends[Layer.TOOLS], found.prompt.ends[Layer.SYSTEM])
    return end if end >= 0 else None
