"""Whole answers read off aiohttp's pooled connections without its parser, queue, stream and response objects.

The rule: only the plain case is read here: status 200 over HTTP/1.1, a body of stated length or in chunks, on a
connection that stays open. Whatever is otherwise (another status, a close, trailers, a line that ends oddly, a
connection that breaks) is handed to aiohttp from the answer's first byte on, as if it had come that way, so every odd
answer and every error is aiohttp's own (measured: 30 us of a call's 100 in the plain case; an odd one costs 5 more).
An answer that is whole is given out whatever stands behind it, for it is paid for: aiohttp loses it where the first
byte of what follows comes with its last one. The connection is of no more use then.

A server may be hostile: what is done for a byte does not grow with the bytes before it, beyond the head.

`AnswerHandler` takes the place of the protocol that aiohttp's connector makes for a connection, and is that protocol
while nobody asks it for an answer. This module does not know what a header means beyond where the body ends.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from aiohttp.client_proto import ResponseHandler

_STATUS = b"HTTP/1.1 200 "
_END = b"\r\n\r\n"
_HEAD_LIMIT_BYTES = 1 << 15
_HEAD = re.compile(
    rb"HTTP/1\.1 200 [\t -~\x80-\xff]*+(?:\r\n[!#-'*+.\-0-9A-Z^-z|~]++:[\t -~\x80-\xff]*+)*+\r\n"
)
"""A head of which no two readers think differently: no folded line, no space before a colon, no byte of control."""
_NOTED = re.compile(
    rb"\r\n(content-length|transfer-encoding|content-encoding|(?:proxy-)?connection|upgrade|trailer|set-cookie"
    rb"|(?:x-)?request-id|anthropic-ratelimit-(?:requests|input-tokens)-(?:limit|remaining)):([^\r\n]*)",
    re.IGNORECASE,
)
"""Headers that say how the answer is framed, and the few that somebody reads."""
_CONNECTIONS = frozenset({b"connection", b"proxy-connection"})
_ODD = frozenset({b"upgrade", b"trailer"})
_DIGITS = re.compile(rb"[0-9]{1,15}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,12})\r\n")
_CHUNK_SIZE_BEGUN = re.compile(rb"(?:[0-9a-fA-F]{1,12}\r?)?")
_CR = 13


class Plain(msgspec.Struct, frozen=True, gc=False):
    """A whole answer of status 200.

    Attributes:
        content: The body, out of its chunks, but encoded as its headers say.
        headers: `content-encoding`, `request-id`, `x-request-id` and what is left of Claude's rate limit, by
            lower-case name, where they were sent.
        cookies: Values of `set-cookie`.
    """

    content: bytes
    headers: dict[str, str]
    cookies: list[str]


class AnswerHandler(ResponseHandler):
    """aiohttp's protocol of one connection, which can be asked for a plain answer."""

    _asked: "asyncio.Future[Plain | None] | None" = None
    _params: Mapping[str, Any]
    _came: bytes | bytearray = b""
    _head: "_Head | None"

    def ask(self, params: Mapping[str, Any]) -> "asyncio.Future[Plain | None]":
        """Read the next answer; None when it is not plain, and aiohttp is reading it.

        Args:
            params: For `set_response_params`, should aiohttp have to read.
        """
        self._came, self._head, self._params = b"", None, params
        self._asked = asked = self._loop.create_future()
        return asked

    def forget(self) -> None:
        """Whoever asked has gone; the connection is of no more use."""
        self._asked = self._head = None
        self._came = b""

    def data_received(self, data: bytes) -> None:
        """Take what came: an answer's piece while one is asked for, otherwise aiohttp's."""
        asked = self._asked
        if asked is None:
            super().data_received(data)
            return
        came = self._came
        if not came:
            came = self._came = data
        else:
            if type(came) is bytes:
                came = self._came = bytearray(came)
            came += data
        head = self._head
        if head is None:
            end = came.find(_END)
            if end < 0 and _may_be_plain(came):
                return
            head = self._head = _head(came, end)
            if head is None or ("content-encoding" in head.headers and self._params["auto_decompress"]):
                self._hand_over(asked)
                return
        content = head.body(came)
        if content is not None:
            self._asked = self._head = None
            self._came = b""
            if head.is_followed:
                self.force_close()
            if not asked.done():
                asked.set_result(Plain(content, head.headers, head.cookies))
        elif head.is_odd:
            self._hand_over(asked)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let aiohttp say what a connection that ends in an answer means."""
        if self._asked is not None:
            self._hand_over(self._asked)
        super().connection_lost(exc)

    def _hand_over(self, asked: "asyncio.Future[Plain | None]") -> None:
        self._asked = None
        self.set_response_params(**self._params)
        if not asked.done():
            asked.set_result(None)
        came, self._came, self._head = self._came, b"", None
        if came:
            super().data_received(bytes(came))


class _Head:
    """What stands before a body, and how far the body has been read."""

    __slots__ = ("_at", "_end", "_pieces", "cookies", "headers", "is_followed", "is_odd")

    def __init__(self, start: int, length: int | None, headers: dict[str, str], cookies: list[str]) -> None:
        """Begin; `length` None for a body in chunks."""
        self._at = start
        self._end = None if length is None else start + length
        self._pieces: list[bytes] = []
        self.headers = headers
        self.cookies = cookies
        self.is_odd = False
        """Whether the body is not framed as it should be."""
        self.is_followed = False
        """Whether something came behind the body."""

    def body(self, came: bytes | bytearray) -> bytes | None:
        """The body when all of it has come, None until then.

        Args:
            came: All bytes of the answer so far.
        """
        if self._end is None:
            return self._chunks(came)
        if len(came) < self._end:
            return None
        self.is_followed = len(came) > self._end
        return bytes(came[self._at : self._end])

    def _chunks(self, came: bytes | bytearray) -> bytes | None:
        while size_line := _CHUNK_SIZE.match(came, self._at):
            start = size_line.end()
            size = int(size_line[1], 16)
            end = start + size
            if len(came) < end + 2:
                self.is_odd = len(came) > end and came[end] != _CR
                return None
            if came[end : end + 2] != b"\r\n":
                break
            if not size:
                self.is_followed = len(came) > end + 2
                return b"".join(self._pieces)
            self._pieces.append(bytes(came[start:end]))
            self._at = end + 2
        else:
            if _CHUNK_SIZE_BEGUN.fullmatch(came, self._at):
                return None  # the rest of a size has yet to come
        self.is_odd = True
        return None


def _may_be_plain(came: bytes | bytearray) -> bool:
    """Whether these may be the first bytes of a plain answer's head."""
    return (
        len(came) < _HEAD_LIMIT_BYTES
        and _STATUS.startswith(bytes(came[: len(_STATUS)]))
        and came.count(b"\n") == came.count(b"\r\n") == came.count(b"\r") - came.endswith(b"\r")
    )


def _head(came: bytes | bytearray, end: int) -> _Head | None:
    """Read the head that ends at `end`; None when it is missing or not a plain answer's."""
    if not 0 <= end < _HEAD_LIMIT_BYTES:
        return None
    head = came[: end + 2]
    if not _HEAD.fullmatch(head):
        return None
    length: int | None = None
    is_chunked = False
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for given, told in _NOTED.findall(head):
        name, value = given.lower(), told.strip(b" \t")
        if name == b"content-length":
            if length is not None or not _DIGITS.fullmatch(value):
                return None
            length = int(value)
        elif name == b"transfer-encoding":
            if is_chunked or value.lower() != b"chunked":
                return None
            is_chunked = True
        elif name in _CONNECTIONS:
            if value.lower() != b"keep-alive":
                return None
        elif name == b"set-cookie":
            cookies.append(value.decode("utf-8", "surrogateescape"))
        elif name in _ODD or name.decode() in headers:
            return None
        else:
            headers[name.decode()] = value.decode("utf-8", "surrogateescape")
    if is_chunked == (length is not None):
        return None
    return _Head(end + 4, length, headers, cookies)


def install(connector: Any) -> None:
    """Have a connector make its connections with `AnswerHandler`, if it makes them with aiohttp's own protocol."""
    made = getattr(connector, "_factory", None)
    if type(made) is partial and made.func is ResponseHandler and not made.args:
        connector._factory = partial(AnswerHandler, **made.keywords)
