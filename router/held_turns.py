"""A turn of a held session, from its claim to the session's next version.

The rule: a request is a turn when its caller's session is held for its tenant. The claim is taken before anything is
decided and given back however the turn ends; only an answer makes a new version, and it is made before the caller is
told of the answer. A request that names a version counts on a history: where none is held, that is an error, and not
an answer without it. A request without a version whose session is not held is a stateless one.

It does not know how a turn is decided or answered.
"""

from classifier.route import Route
from router.call import FinishReason, ToolCall
from router.clock import Clock
from router.convert_request import IDENTIFIER_CHARACTER_LIMIT, AnyRequest
from router.errors import InvalidRequest, NotFound, SessionTooLarge
from router.held_session import MESSAGE_OVERHEAD_BYTES, Held, Planned
from router.preparation import Prepared
from router.reply import Reply
from router.session_store import NOT_HELD, SessionStore, check_version


class HeldTurn:
    """One claim.

    Attributes:
        held: The version that the turn continues.
        byte_count: Of the turn's messages, counted as `Held.byte_count`.
        version: Version that its answer made; 0 while there is none.
    """

    __slots__ = ("byte_count", "held", "version")

    def __init__(self, held: Held, byte_count: int) -> None:
        self.held, self.byte_count, self.version = held, byte_count, 0

    @property
    def unchanged(self) -> str:
        """For a caller who has seen a part of an answer and will get no more of it."""
        return (
            f"session {self.held.session!r} is at version {self.held.version} as before this turn: a partial answer "
            "lacks the signatures a model needs to get it back, so it was not kept; send the turn again"
        )


class HeldTurns:
    """Begins and ends turns."""

    def __init__(
        self, store: SessionStore, clock: Clock, *, session_bytes_limit: int, session_message_limit: int
    ) -> None:
        """Keep references.

        Args:
            session_bytes_limit: A turn that would bring its session over it is refused; an answer never is, because it
                was paid for.
        """
        self._store = store
        self._clock = clock
        self._session_bytes_limit = session_bytes_limit
        self._session_message_limit = session_message_limit

    async def begin(self, request: AnyRequest) -> HeldTurn | None:
        """Claim the session that `request` is a turn of; None for a stateless request.

        Raises:
            SessionBusy, Conflict, SessionsFull: As `SessionStore.begin`.
            SessionTooLarge: The session has no room for this turn.
            NotFound: The request counts on a history that is not held.
        """
        caller, prompt = request.caller, request.prompt
        version = self._version(request)
        if not caller.session:
            return None
        tenant, session, now_s = caller.tenant, caller.session, self._clock.now()
        if len(session) > IDENTIFIER_CHARACTER_LIMIT or not session.isprintable():
            return None  # no session has such a name; converting the request says so
        held = await self._store.find(tenant, session, now_s)
        if held is not None:  # most requests are of no held session, and are spared being measured
            byte_count = sum([message.ByteSize() + MESSAGE_OVERHEAD_BYTES for message in prompt.messages])
            held = await self._store.begin(tenant, session, version, byte_count, now_s)
        if held is None:
            _require_stateless(session, version)
            return None
        try:
            self._check_room(held, byte_count, len(prompt.messages))
        except SessionTooLarge:
            await self._store.release(held.tenant, held.session, now_s)
            raise
        return HeldTurn(held, byte_count)

    async def look(self, request: AnyRequest) -> Held | None:
        """The session that `request` would be a turn of, without a claim.

        Raises:
            Conflict, NotFound: As `begin`.
        """
        version = self._version(request)
        caller = request.caller
        if not caller.session:
            return None
        if len(caller.session) > IDENTIFIER_CHARACTER_LIMIT or not caller.session.isprintable():
            return None
        held = await self._store.find(caller.tenant, caller.session, self._clock.now())
        if held is None:
            _require_stateless(caller.session, version)
            return None
        check_version(held, version)
        return held

    async def finish(self, turn: HeldTurn, prepared: Prepared, reply: Reply) -> int:
        """Make the answered turn history; give the session's version after it.

        A turn that was refused, or whose answer the provider could not parse, leaves the history as it was: kept, it
        would be refused again with every turn after it, or ask for results of calls that were never meant.
        """
        held, call = turn.held, prepared.request.call
        if not _is_kept(reply):
            return held.version
        spelled, rolling = prepared.rendered.get(Route.OPUS), prepared.rolling
        after = held.answered(
            call.messages[len(held.messages) :],
            reply.parts,
            context=call.context,
            turn_byte_count=turn.byte_count,
            planned=None if spelled is None or rolling is None else Planned(spelled, rolling),
            now_s=self._clock.now(),
        )
        await self._store.finish(after)
        turn.version = after.version
        return after.version

    async def end(self, turn: HeldTurn) -> None:
        """Give the claim back if the turn was not answered."""
        if not turn.version:
            await self._store.release(turn.held.tenant, turn.held.session, self._clock.now())

    def _version(self, request: AnyRequest) -> int | None:
        if not request.prompt.HasField("session_version"):
            return None
        if not request.caller.session:
            raise InvalidRequest("prompt.session_version", "is given without caller.session")
        return request.prompt.session_version

    def _check_room(self, held: Held, byte_count: int, message_count: int) -> None:
        if held.byte_count + byte_count > self._session_bytes_limit:
            raise SessionTooLarge(
                f"sessions.session_bytes_limit: session {held.session!r} has {held.byte_count} bytes and this turn "
                f"adds {byte_count}; at most {self._session_bytes_limit} are allowed: close it and open a shorter one"
            )
        if len(held.messages) + message_count > self._session_message_limit:
            raise SessionTooLarge(
                f"sessions.session_message_limit: session {held.session!r} has {len(held.messages)} messages and this "
                f"turn adds {message_count}; at most {self._session_message_limit} are allowed: close it and open a "
                "shorter one"
            )


def _is_kept(reply: Reply) -> bool:
    match reply.finish_reason:
        case FinishReason.REFUSAL | FinishReason.MALFORMED:
            return False
        case FinishReason.OTHER:
            return not any(isinstance(part, ToolCall) for part in reply.parts)
        case _:
            return True


def _require_stateless(session: str, version: int | None) -> None:
    if version is not None:
        raise NotFound("session", session, f"{NOT_HELD}: open it again with its messages")
