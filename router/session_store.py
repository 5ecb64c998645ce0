"""Where held sessions are kept, and who may change one: a protocol, and its implementation in this process's memory.

The rule: a session has one turn at a time. `begin` claims it or refuses at once, `finish` replaces the version that
was claimed by the next one, `release` gives the claim back and changes nothing. Keys carry the tenant: another
tenant's session does not exist.

A held session is a promise, so none that lives is ever given up for another: when the limits are reached, opening is
refused. What was not used for its idle TTL has lapsed and goes first. Lapsed sessions are noticed when they are asked
for and when room is needed, so nothing has to run in the background.

Content stays in memory and is neither written nor logged; a restart loses it. The protocol is asynchronous for stores
that are elsewhere; this one never waits, so what it does is whole whenever it is cancelled.
"""

from heapq import heappop, heappush
from typing import NamedTuple, Protocol

import msgspec

from router.errors import AlreadyExists, Conflict, NotFound, SessionBusy, SessionsFull
from router.held_session import Held

NOT_HELD = "the server does not hold it (never opened, expired, closed, or lost in a restart)"


class SessionLimits(NamedTuple):
    """How much a store holds.

    Attributes:
        held: Sessions.
        byte_count: Bytes of all of them, as `Held.byte_count` has them.
    """

    held: int
    byte_count: int


class SessionStore(Protocol):
    """Held sessions by (tenant, session)."""

    async def open(self, held: Held) -> None:
        """Keep a new session.

        Raises:
            AlreadyExists: The tenant has one of this name that lives.
            SessionsFull: There is no room, and nothing has lapsed.
        """
        ...

    async def find(self, tenant: str, session: str, now_s: float) -> Held | None:
        """The session's current version, None when it is not held or has lapsed. Does not count as use."""
        ...

    async def begin(
        self, tenant: str, session: str, version: int | None, turn_byte_count: int, now_s: float
    ) -> Held | None:
        """Claim the session for one turn, until `finish` or `release`; None when it is not held or has lapsed.

        Args:
            version: Version that the turn continues; None for whatever it is.

        Raises:
            SessionBusy: Another turn has it.
            Conflict: It is of another version.
            SessionsFull: There is no room for so many bytes more.
        """
        ...

    async def finish(self, after: Held) -> None:
        """Replace the claimed version by the next one, and give the claim back."""
        ...

    async def release(self, tenant: str, session: str, now_s: float) -> None:
        """Give the claim back; the session is as it was, used at `now_s`."""
        ...

    async def close(self, tenant: str, session: str, now_s: float) -> Held:
        """Forget the session and return what it was.

        Raises:
            NotFound: It is not held.
            SessionBusy: A turn has it.
        """
        ...


class _Kept(msgspec.Struct):
    """A session's current version, and whether a turn has it."""

    held: Held
    busy: bool = False


class MemorySessionStore:
    """Held sessions of one process. Not thread-safe."""

    def __init__(self, limits: SessionLimits) -> None:
        """Hold at most so much."""
        self._limits = limits
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._byte_count = 0
        # When each session was last known to lapse; one entry each, put again when it turns out to live on.
        self._due: list[tuple[float, tuple[str, str]]] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def byte_count(self) -> int:
        """Bytes held."""
        return self._byte_count

    async def open(self, held: Held) -> None:
        """Keep a new session; see `SessionStore.open`."""
        now_s = held.created_s
        key = (held.tenant, held.session)
        self._drop_lapsed(now_s)
        if key in self._kept:
            raise AlreadyExists(
                f"session {held.session!r} is open already; go on with it, or close it before opening it anew"
            )
        if len(self._kept) >= self._limits.held:
            raise SessionsFull(
                f"sessions.held_limit: {self._limits.held} sessions are held, the configured limit; "
                "close some, or send whole conversations without opening a session"
            )
        self._require_room(held.byte_count)
        self._kept[key] = _Kept(held)
        self._byte_count += held.byte_count
        heappush(self._due, (held.expires_s, key))

    async def find(self, tenant: str, session: str, now_s: float) -> Held | None:
        """The current version; see `SessionStore.find`."""
        kept = self._living((tenant, session), now_s)
        return None if kept is None else kept.held

    async def begin(
        self, tenant: str, session: str, version: int | None, turn_byte_count: int, now_s: float
    ) -> Held | None:
        """Claim the session for one turn; see `SessionStore.begin`."""
        kept = self._living((tenant, session), now_s)
        if kept is None:
            return None
        if kept.busy:
            raise SessionBusy(
                f"session {session!r} has another turn in progress, which continues version {kept.held.version}; "
                "nothing was sent: wait for that answer, then send this turn again"
            )
        check_version(kept.held, version)
        self._require_room(turn_byte_count, now_s)
        kept.busy = True
        kept.held = kept.held.used(now_s)
        return kept.held

    async def finish(self, after: Held) -> None:
        """Replace the claimed version; see `SessionStore.finish`."""
        kept = self._kept[after.tenant, after.session]
        self._byte_count += after.byte_count - kept.held.byte_count
        kept.held, kept.busy = after, False

    async def release(self, tenant: str, session: str, now_s: float) -> None:
        """Give the claim back; see `SessionStore.release`."""
        kept = self._kept[tenant, session]
        kept.held, kept.busy = kept.held.used(now_s), False

    async def close(self, tenant: str, session: str, now_s: float) -> Held:
        """Forget the session; see `SessionStore.close`."""
        kept = self._living((tenant, session), now_s)
        if kept is None:
            raise NotFound("session", session, NOT_HELD)
        if kept.busy:
            raise SessionBusy(
                f"session {session!r} has a turn in progress; wait for its answer, then close it"
            )
        self._drop((tenant, session))
        return kept.held

    def _living(self, key: tuple[str, str], now_s: float) -> _Kept | None:
        kept = self._kept.get(key)
        if kept is None or kept.busy or kept.held.expires_s > now_s:
            return kept
        self._drop(key)
        return None

    def _drop(self, key: tuple[str, str]) -> None:
        self._byte_count -= self._kept.pop(key).held.byte_count

    def _drop_lapsed(self, now_s: float) -> None:
        """Drop what has lapsed; each session is looked at once per idle TTL, not once per call."""
        due = self._due
        while due and due[0][0] <= now_s:
            _, key = heappop(due)
            kept = self._kept.get(key)
            if kept is None:
                continue
            if not kept.busy and kept.held.expires_s <= now_s:
                self._drop(key)
            else:
                heappush(due, (max(kept.held.expires_s, now_s + 1.0), key))
        if len(due) > 4 * len(self._kept) + 64:  # closed sessions leave theirs behind until it is due
            due[:] = [(kept.held.expires_s, key) for key, kept in self._kept.items()]
            due.sort()

    def _require_room(self, byte_count: int, now_s: float | None = None) -> None:
        limit = self._limits.byte_count
        if self._byte_count + byte_count > limit and now_s is not None:
            self._drop_lapsed(now_s)
        if self._byte_count + byte_count > limit:
            raise SessionsFull(
                f"sessions.bytes_limit: held sessions have {self._byte_count} bytes and this adds {byte_count}; "
                f"at most {limit} are allowed: close some"
            )


def check_version(held: Held, version: int | None) -> None:
    """Refuse a turn that continues another version.

    Raises:
        Conflict: It does.
    """
    if version is not None and version != held.version:
        raise Conflict(
            f"session {held.session!r} is at version {held.version}, and the turn continues version {version}; "
            "nothing was sent: read the session again (GetSession); unless its last messages are this turn and its "
            "answer already, send the turn with its version"
        )
