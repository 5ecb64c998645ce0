"""One request and its answer on a pooled connection of aiohttp, written and read without aiohttp's request machinery.

The rule: pool, connections, TLS, parser, response and cookies are aiohttp's own; left out is what it does anew for
every request though it comes out the same: checking and copying headers, choosing a payload class, a task that writes
the body (measured: half of a small call's CPU). The bytes of the head are made once, from a request aiohttp built, with
room for what differs from call to call. Bodies that would fill a socket's buffer are left to aiohttp, which waits while
they drain.

Some of the names used are private to aiohttp, so all of this is for the release series looked at, and for a session
that adds nothing to a request; for others `exchange_over` gives None. Contract tests hold the bytes sent, the answers
and the errors against aiohttp's own.
"""

from collections.abc import Iterable, Mapping
from time import monotonic
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.client_reqrep import RequestInfo
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from router.upstreams.plain import AnswerHandler, Plain, install

RELEASES = ("3.14.",)
"""Series of aiohttp whose client was read for this module."""
BODY_LIMIT_BYTES = 1 << 16
"""Longer bodies go aiohttp's way; it is also what aiohttp writes before it waits for a socket to drain."""
_STALE_LIMIT = 10
"""Connections given up for one request because of what came over them while they lay in the pool."""
_LENGTH = "content-length"
_NO_TIMER = TimerNoop()
_WRITTEN: Any = SimpleNamespace(output_size=0)
"""Stands for aiohttp's writer of a request that has been written."""


class Exchange:
    """Sends bodies to one URL with headers of one form; made by `exchange_over`."""

    __slots__ = ("_form", "_info", "_key", "_params", "_request", "_session", "_varying")

    def __init__(
        self, session: Any, request: aiohttp.ClientRequest, own: Iterable[str], auto_decompress: bool
    ) -> None:
        """Make the head's bytes from a request that aiohttp built; those of the headers named `own`, and the length,
        are filled in with each call.
        """
        self._session = session
        self._request = request
        self._key = request.connection_key
        self._varying: list[str] = []
        varying = {_LENGTH: _LENGTH} | {name.lower(): name for name in own}
        lines = [f"POST {request.url.raw_path_qs} HTTP/1.1".replace("%", "%%")]
        for name, value in request.headers.items():
            if name.lower() in varying:
                self._varying.append(varying[name.lower()])
                lines.append(f"{name}: ".replace("%", "%%") + "%b")
            else:
                lines.append(f"{name}: {value}".replace("%", "%%"))
        self._form = "\r\n".join(lines).encode() + b"%b\r\n\r\n"
        headers: CIMultiDict[str] = CIMultiDict(request.headers)
        self._info = RequestInfo(request.url, request.method, CIMultiDictProxy(headers), request.url)
        self._params = {
            "timer": _NO_TIMER,
            "read_until_eof": True,
            "auto_decompress": auto_decompress,
            "read_bufsize": session._read_bufsize,
            "timeout_ceil_threshold": session.connector._timeout_ceil_threshold,
            "max_line_size": session._max_line_size,
            "max_field_size": session._max_field_size,
            "max_headers": session._max_headers,
        }

    async def send(
        self, body: bytes, own: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        """Write head and body, once, and return when the headers of the answer are in.

        Args:
            own: Values of the headers that vary.

        Raises:
            aiohttp.ClientError, OSError: What aiohttp raises.
        """
        connection = await self._written(self._data(body, own), timeout)
        connection.protocol.set_response_params(**self._params)
        return await self._answer(connection)

    async def whole(
        self, body: bytes, own: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> Plain | aiohttp.ClientResponse:
        """Write head and body, once, and return the whole answer where it is plain; otherwise as `send`.

        Args:
            own: Values of the headers that vary.

        Raises:
            aiohttp.ClientError, OSError: What aiohttp raises.
        """
        data, connector = self._data(body, own), self._session.connector
        protocol = self._idle()
        if protocol is None:
            connection = await self._written(data, timeout)
            # From here on as one that was idle.
            data, protocol, connection._protocol = b"", connection.protocol, None
            if type(protocol) is not AnswerHandler:
                protocol.force_close()  # made before this exchange was: once more, and then one that reads answers
                protocol.set_response_params(**self._params)
                return await self._answer(self._connection(protocol))
        try:
            if data:
                protocol.transport.write(data)
            plain: Plain | None = await protocol.ask(self._params)
        except BaseException:
            protocol.forget()
            connector._release(self._key, protocol, should_close=True)
            raise
        if plain is None:
            return await self._answer(self._connection(protocol))
        connector._release(self._key, protocol)
        if plain.cookies:
            self._session._cookie_jar.update_cookies_from_headers(plain.cookies, self._request.url)
        return plain

    def _idle(self) -> Any:
        """A connection's protocol of the pool that can be written to now, taken out as aiohttp's connector would; None
        leaves it to that: there is none, or one that is of no more use, or the next is not one that reads answers.
        """
        connector: Any = self._session.connector
        idle = connector._conns.get(self._key)
        if not idle or connector._limit_per_host:
            return None
        protocol, since_s = idle[0]
        if not protocol.is_connected() or protocol.should_close or type(protocol) is not AnswerHandler:
            return None
        kept_s = connector._keepalive_timeout
        if kept_s is not None and monotonic() - since_s > kept_s:
            return None
        idle.popleft()
        if not idle:
            del connector._conns[self._key]
        connector._acquired.add(protocol)
        return protocol

    def _connection(self, protocol: Any) -> Connection:
        """The connection of a protocol that was taken out of the pool, as aiohttp's response wants it."""
        return Connection(self._session.connector, self._key, protocol, self._request.loop)

    def _data(self, body: bytes, own: Mapping[str, str]) -> bytes:
        """Head and body of one request."""
        values = [
            (b"%d" % len(body)) if name == _LENGTH else own[name].encode("ascii") for name in self._varying
        ]
        cookies = self._session._cookie_jar.filter_cookies(self._request.url)
        return self._form % (*values, _cookie_line(cookies) if cookies else b"") + body

    async def _written(self, data: bytes, timeout: aiohttp.ClientTimeout) -> Any:
        """Write a request to a connection of the pool, of which nothing has been read."""
        session, request = self._session, self._request
        try:
            connection = await session.connector.connect(request, traces=[], timeout=timeout)
            for _ in range(_STALE_LIMIT):
                if not connection.protocol.should_close:
                    break
                # Something came while it lay in the pool: an answer to nobody, which aiohttp would take for ours.
                connection.close()
                connection = await session.connector.connect(request, traces=[], timeout=timeout)
        except aiohttp.ClientError:
            raise
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {request.url}") from error
        except OSError as error:
            raise aiohttp.ClientOSError(*error.args) from error
        try:
            transport = connection.protocol.transport
            if transport is None or transport.is_closing():
                raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
            transport.write(data)
        except BaseException as error:
            connection.close()
            if type(error) is OSError:
                raise aiohttp.ClientOSError(*error.args) from error
            raise
        return connection

    async def _answer(self, connection: Any) -> aiohttp.ClientResponse:
        """Return aiohttp's response, when its headers are in."""
        session, request = self._session, self._request
        response = aiohttp.ClientResponse(
            "POST",
            request.url,
            writer=None,
            continue100=None,
            timer=_NO_TIMER,
            request_info=self._info,
            traces=[],
            loop=request.loop,
            session=session,
            stream_writer=_WRITTEN,
        )
        try:
            await response.start(connection)
        except BaseException as error:
            response.close()
            connection.close()
            if type(error) is OSError:
                raise aiohttp.ClientOSError(*error.args) from error
            raise
        if response._raw_cookie_headers:
            session._cookie_jar.update_cookies_from_headers(response._raw_cookie_headers, response.url)
        return response


def exchange_over(
    session: aiohttp.ClientSession,
    url: URL,
    headers: Mapping[str, str],
    own: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Exchange | None:
    """Make an exchange that sends what `session.post(url, headers=headers | own, data=..., **settings)` would.

    Args:
        own: Values of the headers that vary, for an example.
        settings: Of aiohttp's own only "ssl", "auto_decompress" and a false "compress" are known here.

    Returns:
        None where it might send something else: another release of aiohttp, a session with additions of its own.
    """
    if not aiohttp.__version__.startswith(RELEASES) or not _is_plain(session):
        return None
    if not settings.keys() <= {"ssl", "auto_decompress", "compress"} or settings.get("compress"):
        return None
    given = CIMultiDict(headers)
    given.update(own)
    request = aiohttp.ClientRequest(
        "POST",
        url,
        headers=given,
        data=b"{}",
        loop=session._loop,
        session=session,
        ssl=settings.get("ssl", True),
        timer=_NO_TIMER,
    )
    if "expect" in request.headers:
        return None
    install(session.connector)
    return Exchange(session, request, own, settings.get("auto_decompress", session.auto_decompress))


def _is_plain(session: Any) -> bool:
    """Whether the session sends requests as they are given to it, over direct connections."""
    try:
        return (
            type(session) is aiohttp.ClientSession
            and session._request_class is aiohttp.ClientRequest
            and session._response_class is aiohttp.ClientResponse
            and session._version == aiohttp.HttpVersion11
            and session.connector is not None
            and not session.connector.force_close
            and not (
                session._trace_configs
                or session._middlewares
                or session._default_auth
                or session._default_headers
                or session._skip_auto_headers
                or session._default_proxy
                or session._base_url
                or session._trust_env
                or session._raise_for_status
            )
        )
    except AttributeError:
        return False


def _cookie_line(cookies: Mapping[str, Any]) -> bytes:
    told = "; ".join(f"{name}={morsel.coded_value}" for name, morsel in sorted(cookies.items()))
    return f"\r\nCookie: {told}".encode()
