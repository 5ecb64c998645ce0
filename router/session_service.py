"""SessionService over gRPC: conversations the server holds, and what is known of every session.

The rule: GetSession answers for every session a caller has named, whether or not the server holds its history. Of one
it does not hold it knows the account (`router.session_book`) and what is believed warm now, but no message: then
`held` is false, `version` and `message_count` are 0 and there is no `expire_time`, because such a session is forgotten
when `cache.session_limit` others were used since, not at an instant. A session belongs to its tenant: another tenant's
does not exist. Asking is not using: it keeps no session from being forgotten.

Opening, and reporting what a user did, may warm what the next request will begin with, and say what was done and why:
an order is sent right after, not awaited. Closing forgets what was said; the account stays, like any other session's.
"""

import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cache.index import PrefixIndex
from classifier.route import Route
from router.applications import Applications
from router.clock import Clock
from router.config import SessionsConfig
from router.convert_request import IDENTIFIER_CHARACTER_LIMIT, opened_from_proto
from router.convert_response import ROUTES, message_fields, usage_fields
from router.errors import InvalidRequest, NotFound, SessionTooLarge
from router.held_session import Held
from router.session_book import Account, SessionBook
from router.session_store import SessionStore
from router.v1 import routing_pb2, session_service_pb2_grpc
from router.v1 import session_service_pb2 as pb
from router.warm_ahead import Answer
from router.warming import Warming

Context = grpc.aio.ServicerContext[Any, Any]

ACTION_CHARACTER_LIMIT = 64
NOT_WARMED = Answer(False, "nothing is warmed here")
"""Without a warmer."""


def new_session_id() -> str:
    """A random id, 32 hex digits."""
    return uuid.uuid4().hex


class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """The sessions of one process."""

    def __init__(
        self,
        *,
        book: SessionBook,
        store: SessionStore,
        applications: Applications,
        settings: SessionsConfig,
        index: PrefixIndex,
        clock: Clock,
        warming: Warming | None = None,
        new_id: Callable[[], str] = new_session_id,
    ) -> None:
        """Keep references; all are owned by the app."""
        self._book = book
        self._store = store
        self._applications = applications
        self._settings = settings
        self._index = index
        self._clock = clock
        self._warming = warming
        self._new_id = new_id

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Context) -> pb.OpenSessionResponse:
        """Hold a conversation from now on."""
        settings = self._settings
        held = opened_from_proto(
            request,
            self._applications,
            session=self._new_id(),
            idle_ttl_s=min(settings.idle_ttl_s, settings.idle_ttl_limit_s),
            idle_ttl_limit_s=settings.idle_ttl_limit_s,
            message_limit=settings.session_message_limit,
            now_s=self._clock.now(),
        )
        if held.byte_count > settings.session_bytes_limit:
            raise SessionTooLarge(
                f"sessions.session_bytes_limit: messages and user context have {held.byte_count} bytes; "
                f"at most {settings.session_bytes_limit} are allowed"
            )
        await self._store.open(held)
        answer = NOT_WARMED if self._warming is None else self._warming.opened(held)
        return pb.OpenSessionResponse(session=self._session(held), warm=_verdict(answer))

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """Read a session's account, what is believed warm of it, and its messages if they are held and asked for."""
        _check_names(request.tenant, request.session)
        held = await self._store.find(request.tenant, request.session, self._clock.now())
        if held is not None:
            messages = held.messages if request.include_messages else ()
            return pb.GetSessionResponse(
                session=self._session(held), messages=[message_fields(message) for message in messages]
            )
        account = self._book.find(request.tenant, request.session)
        if account is None:
            raise NotFound(
                "session",
                request.session,
                f"no request of tenant {request.tenant!r} has named it, or it was forgotten since or lost in a restart",
            )
        return pb.GetSessionResponse(
            session=stateless_session(
                request.tenant, request.session, account, *account.warm(self._index, self._clock.now())
            )
        )

    async def CloseSession(
        self, request: pb.CloseSessionRequest, context: Context
    ) -> pb.CloseSessionResponse:
        """Forget what was said."""
        _check_names(request.tenant, request.session)
        held = await self._store.close(request.tenant, request.session, self._clock.now())
        if self._warming is not None:
            self._warming.closed(request.tenant, request.session)
        return pb.CloseSessionResponse(session=self._session(held))

    async def ReportAction(
        self, request: pb.ReportActionRequest, context: Context
    ) -> pb.ReportActionResponse:
        """Warm what the session's next request will begin with, if this makes one on Opus likely enough."""
        _check_names(request.tenant, request.session)
        action = request.action
        if not action or len(action) > ACTION_CHARACTER_LIMIT or not action.isprintable():
            raise InvalidRequest(
                "action", f"must be a name of 1 to {ACTION_CHARACTER_LIMIT} characters that can be printed"
            )
        if self._warming is None:
            return pb.ReportActionResponse(warm=_verdict(NOT_WARMED))
        held = await self._store.find(request.tenant, request.session, self._clock.now())
        answer = self._warming.acted(request.tenant, request.session, action, held)
        return pb.ReportActionResponse(warm=_verdict(answer))

    def _session(self, held: Held) -> pb.Session:
        """Spell a held session with its account."""
        account = self._book.find(held.tenant, held.session)
        if account is None:  # nothing was asked since it was opened
            spelled = pb.Session(session=held.session, tenant=held.tenant, usage={"complete": True})
        else:
            warm = account.warm(self._index, self._clock.now())
            spelled = stateless_session(held.tenant, held.session, account, *warm)
        spelled.held = True
        spelled.application = held.application
        spelled.user = held.user
        spelled.version = held.version
        spelled.message_count = len(held.messages)
        spelled.create_time.CopyFrom(_timestamp(held.created_s))
        spelled.update_time.CopyFrom(_timestamp(held.used_s))
        spelled.expire_time.CopyFrom(_timestamp(held.expires_s))
        return spelled


def stateless_session(
    tenant: str, session: str, account: Account, warm_probability: float, warm_tokens: int
) -> pb.Session:
    """Spell a session whose history the caller keeps.

    Args:
        warm_probability: As `Account.warm` gives it; likewise `warm_tokens`.
    """
    totals = account.totals()
    return pb.Session(
        session=session,
        application=account.application,
        tenant=tenant,
        user=account.user,
        create_time=_timestamp(totals.created_time_s),
        update_time=_timestamp(totals.started_time_s),
        last_route=ROUTES[Route(account.route)] if account.route else routing_pb2.ROUTE_UNSPECIFIED,
        warm_probability=warm_probability,
        warm_tokens=warm_tokens,
        request_count=totals.request_count,
        usage=usage_fields(totals.usage()),
        cost_nano_usd=totals.cost_nano_usd,
        caching_saving_nano_usd=totals.saving_nano_usd,
        unknown_cost_count=totals.unknown_cost_count,
    )


def _check_names(tenant: str, session: str) -> None:
    if not session:
        raise InvalidRequest(
            "session", "is empty; name the session that the requests carry in caller.session"
        )
    for field, name in (("session", session), ("tenant", tenant)):
        if not name.isprintable():
            raise InvalidRequest(field, f"{name[:80]!r} holds a character that cannot be printed")
        if len(name) > IDENTIFIER_CHARACTER_LIMIT:
            raise InvalidRequest(
                field, f"has {len(name)} characters; at most {IDENTIFIER_CHARACTER_LIMIT} are allowed"
            )


def _verdict(answer: Answer) -> pb.WarmVerdict:
    return pb.WarmVerdict(
        warmed=answer.warmed,
        reason=answer.reason,
        expected_cost_nano_usd=round(answer.cost_usd * 1e9),
        expected_value_nano_usd=round(answer.value_usd * 1e9),
    )


def _timestamp(time_s: float) -> Timestamp:
    found = Timestamp()
    found.FromNanoseconds(round(time_s * 1e9))
    return found
