"""Plain answers are read here, all others by aiohttp, and nobody can tell from what is read."""

import asyncio
import gzip
from itertools import pairwise
from time import process_time
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import TimerNoop
from hypothesis import given
from hypothesis import strategies as st

from router.upstreams.plain import AnswerHandler, Plain, install

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
PARAMS: dict[str, Any] = {"timer": TimerNoop(), "read_until_eof": True, "auto_decompress": True}
BODY = b'{"text":"0\r\n\r\n"}'


def chunked(body: bytes, sizes: list[int]) -> bytes:
    pieces, start = [], 0
    for size in [*sizes, len(body)]:
        piece = body[start : start + size]
        if piece:
            pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        start += len(piece)
    return b"".join([*pieces, b"0\r\n\r\n"])


def stated(body: bytes, headers: bytes = b"") -> bytes:
    return OK + headers + b"content-length: %d\r\n\r\n" % len(body) + body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


async def read(
    pieces: list[bytes], *, lost: BaseException | None = None, ends: bool = False, decompress: bool = True
) -> tuple[bool, int, bytes, AnswerHandler]:
    """Feed pieces to a connection that was asked; return whether they were plain, the status and the body."""
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    asked = handler.ask({**PARAMS, "auto_decompress": decompress})
    for piece in pieces:
        handler.data_received(piece)
    if ends:
        handler.connection_lost(lost)
    assert asked.done(), "still waiting for more of the answer"
    plain = asked.result()
    if plain is not None:
        return True, 200, plain.content, handler
    message, payload = await handler.read()
    return False, message.code, await payload.read(), handler


@given(
    st.binary(max_size=200),
    st.lists(st.integers(1, 50), max_size=4),
    st.booleans(),
    st.lists(st.integers(0, 500), max_size=6),
)
async def test_a_plain_answer_is_read_however_it_is_cut(
    body: bytes, sizes: list[int], by_chunks: bool, places: list[int]
) -> None:
    """Pieces of a network have no meaning: head, sizes and content may be cut anywhere."""
    data = OK + b"transfer-encoding: chunked\r\n\r\n" + chunked(body, sizes) if by_chunks else stated(body)
    plain, _, content, handler = await read(cut(data, places))
    assert plain
    assert content == body
    assert not handler.should_close, "the next request may use the connection"


ODD = {
    "another status": b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}",
    "a refusal": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\n{}",
    "an older version": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "a close": stated(b"{}", b"Connection: close\r\n"),
    "a compressed body": stated(gzip.compress(b"{}"), b"content-encoding: gzip\r\n"),
    "an extension of a chunk": OK + b"transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
    "a trailer": OK + b"trailer: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: 1\r\n\r\n",
    "a trailer nobody told of": OK + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: 1\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_answer_is_aiohttps(name: str) -> None:
    """Whole, or byte by byte: aiohttp reads it from its beginning and says what it is."""
    data = ODD[name]
    whole = await read([data])
    singly = await read([data[index : index + 1] for index in range(len(data))])
    assert whole[:3] == singly[:3] == (False, int(data[9:12]), b"{}")


async def test_an_answer_after_a_hint_is_aiohttps() -> None:
    """Informational answers come first and are passed over by aiohttp's response, not by its queue."""
    plain, status, _, handler = await read([b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + stated(b"{}")])
    assert (plain, status) == (False, 103)
    message, _ = await handler.read()
    assert message.code == 200


async def test_without_decompression_a_body_is_as_it_came() -> None:
    packed = gzip.compress(BODY)
    plain, _, content, _ = await read([stated(packed, b"Content-Encoding: gzip\r\n")], decompress=False)
    assert plain
    assert content == packed


@pytest.mark.parametrize("sent", [b"", OK, stated(BODY)[:-3]], ids=["nothing", "half a head", "half a body"])
@pytest.mark.parametrize("lost", [None, ConnectionResetError(104, "reset")], ids=["closed", "reset"])
async def test_a_connection_that_ends_in_an_answer_fails_as_aiohttp_says(
    sent: bytes, lost: OSError | None
) -> None:
    """The same error as where aiohttp reads from the start."""
    theirs = ResponseHandler(asyncio.get_running_loop())
    theirs.connection_made(Mock(asyncio.Transport))
    theirs.set_response_params(**PARAMS)
    if sent:
        theirs.data_received(sent)
    theirs.connection_lost(lost)

    async def end(handler: ResponseHandler) -> Exception:
        try:
            _, payload = await handler.read()
            await payload.read()
        except (aiohttp.ClientError, OSError) as error:
            return error
        raise AssertionError("an answer that broke off was read")

    expected = await end(theirs)
    with pytest.raises((aiohttp.ClientError, OSError)) as caught:
        await read([sent] if sent else [], ends=True, lost=lost)
    assert (type(caught.value), str(caught.value)) == (type(expected), str(expected))


@pytest.mark.parametrize("answer", [stated(b"{}"), CHUNKED + chunked(b"{}", [])], ids=["stated", "chunked"])
@pytest.mark.parametrize(
    "more", [stated(b"[]"), b"x", b"\r\n"], ids=["another answer", "a stray byte", "a line's end"]
)
@pytest.mark.parametrize("is_cut", [False, True])
async def test_what_follows_an_answer_spoils_the_connection_not_the_answer(
    answer: bytes, more: bytes, is_cut: bool
) -> None:
    """Bytes behind an answer belong to nobody, and the answer before them is whole and paid for."""
    plain, _, content, handler = await read([answer[:-1], answer[-1:] + more] if is_cut else [answer + more])
    assert (plain, content) == (True, b"{}")
    assert handler.should_close


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\ncontent-length: 2\n\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\n{}",
        CHUNKED + b"2\n{}\n0\n\n",
        CHUNKED + b"zz",
        CHUNKED + b"2\r\n{}x",
    ],
    ids=["lines without CR", "one line without CR", "sizes without CR", "no size", "no end of a chunk"],
)
@pytest.mark.parametrize("step", [1, 1000])
async def test_what_cannot_become_plain_is_not_waited_on(sent: bytes, step: int) -> None:
    """aiohttp reads such answers or refuses them at once; the caller's deadline need not pass for it."""
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    asked = handler.ask(PARAMS)
    for start in range(0, len(sent), step):
        handler.data_received(sent[start : start + step])
    assert asked.result() is None


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\nrequest-id: a" + b" " * 20_000 + b"b\r\n",
        b"content-length: 2\r\nrequest-id:" + b" \r" * 10_000 + b"b\r\n",
        b"content-length: 2\r\n" + b"a" * 30_000 + b"\r\n",
        b"content-length: 2\r\n" + b"a:\r\n" * 7_000 + b"\0\r\n",
    ],
    ids=["blanks in a value", "bare CRs", "no colon", "many lines"],
)
async def test_reading_a_head_takes_no_longer_than_it_is_long(head: bytes) -> None:
    """A pattern that tries again from every place would stand still for seconds over the longest head allowed."""
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    handler.ask(PARAMS)
    started_s = process_time()
    handler.data_received(OK + head + b"\r\n{}")
    assert process_time() - started_s < 0.1


@pytest.mark.parametrize("by_chunks", [False, True])
async def test_a_byte_costs_the_same_however_many_came_before(by_chunks: bool) -> None:
    """Two megabytes in pieces of ten bytes are not copied for every piece: that would be two hundred gigabytes."""
    body = b"x" * 2_000_000
    data = CHUNKED + chunked(body, [1] * 1000 + [500_000]) if by_chunks else stated(body)
    started_s = process_time()
    plain, _, content, handler = await read([data[start : start + 10] for start in range(0, len(data), 10)])
    assert process_time() - started_s < 3
    assert plain
    assert type(content) is bytes
    assert content == body
    assert not handler._came, "a connection in the pool keeps no answer"


@pytest.mark.parametrize(
    "more", [b"Transfer-Encoding : chunked", b"content-length\t: 1", b"x: 1\rcontent-length: 1", b"x: \0"]
)
async def test_a_line_that_readers_read_differently_is_not_interpreted_here(more: bytes) -> None:
    """Who stands between may have taken it for what it nearly says."""
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    asked = handler.ask(PARAMS)
    handler.data_received(stated(b"{}", more + b"\r\n"))
    assert asked.result() is None


async def test_headers_somebody_reads_and_cookies_come_along() -> None:
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    asked = handler.ask(PARAMS)
    handler.data_received(
        stated(b"{}", b"Request-Id:  req_1 \r\nset-cookie: a=1\r\nX-Other: 2\r\nSet-Cookie: b=2\r\n")
    )
    assert asked.result() == Plain(b"{}", {"request-id": "req_1"}, ["a=1", "b=2"])


@pytest.mark.parametrize(
    "headers",
    [
        b"content-length: 2\r\n",
        b"transfer-encoding: chunked\r\n",
        b"x: 1\r\n content-length: 9\r\n",
        b"request-id: a\r\nrequest-id: b\r\n",
    ],
    ids=["two lengths", "length and chunks", "a folded line", "two ids"],
)
async def test_an_ambiguous_head_is_not_interpreted_here(headers: bytes) -> None:
    """Two readers of one stream must not disagree where an answer ends."""
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    asked = handler.ask(PARAMS)
    handler.data_received(stated(b"{}", headers))
    assert asked.result() is None


async def test_whoever_asked_may_leave() -> None:
    """A cancelled wait is not answered any more, and what still comes is aiohttp's."""
    handler = AnswerHandler(asyncio.get_running_loop())
    handler.connection_made(Mock(asyncio.Transport))
    asked = handler.ask(PARAMS)
    asked.cancel()
    handler.data_received(stated(b"{}"))
    assert asked.cancelled()
    handler.connection_lost(None)


async def test_only_aiohttps_own_protocol_is_replaced() -> None:
    """A connector that was given another protocol keeps it."""
    connector = aiohttp.TCPConnector()
    own = connector._factory = lambda: ResponseHandler(asyncio.get_running_loop())  # type: ignore[assignment]
    install(connector)
    assert connector._factory is own
    await connector.close()
