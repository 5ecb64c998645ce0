"""A server that answers like both providers, at once and always the same: the floor under benchmarks.

The rule: as little work per request as a Python server can do, so that a client's own cost shows. It checks
nothing and knows no caching; what a provider really does is the sandbox's business. Run as its own process:

    python tests/benchmarks/mock_provider.py --port 0 --chunks 40 --bytes 2000

It prints the port it listens on as its first line and serves until its standard input is closed or it is
killed.
"""

import argparse
import asyncio
import json
import sys

_UNARY_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_mock\r\ncontent-length: %d\r\n\r\n"
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_mock\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_ANTHROPIC_USAGE = {
    "input_tokens": 50,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 5000,
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 400,
    "service_tier": "standard",
}
_GEMINI_USAGE = {"promptTokenCount": 5050, "cachedContentTokenCount": 5000, "candidatesTokenCount": 400}


class Canned:
    """The four answers, built once.

    Args:
        chunks: Text deltas per stream.
        size: Characters of answer text, about the body's bytes.
    """

    def __init__(self, chunks: int, size: int) -> None:
        text = ("Lorem ipsum dolor sit amet. " * (size // 28 + 1))[:size]
        step = max(1, -(-size // chunks))
        pieces = [text[i : i + step] for i in range(0, size, step)]
        message = {
            "id": "msg_mock",
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-5-5",
            "stop_sequence": None,
        }
        whole = [{"type": "text", "text": text}]
        self.anthropic = _dump(
            {**message, "content": whole, "stop_reason": "end_turn", "usage": _ANTHROPIC_USAGE}
        )
        start = {
            **message,
            "content": [],
            "stop_reason": None,
            "usage": {**_ANTHROPIC_USAGE, "output_tokens": 1},
        }
        self.anthropic_stream = [
            _event("message_start", message=start),
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *(
                _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
                for piece in pieces
            ),
            _event("content_block_stop", index=0),
            _event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 400}),
            _event("message_stop"),
        ]
        self.gemini = _dump(_frame(text, "STOP"))
        last = len(pieces) - 1
        self.gemini_stream = [
            b"data: " + _dump(_frame(piece, "STOP" if i == last else None)) + b"\r\n\r\n"
            for i, piece in enumerate(pieces)
        ]


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection; requests carry a content-length."""

    def __init__(self, canned: Canned, hold_after: int = 0) -> None:
        self._canned = canned
        self._hold_after = hold_after
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            size = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            if len(self._buffer) < end + 4 + size:
                return
            body = self._buffer[end + 4 : end + 4 + size]
            self._buffer = self._buffer[end + 4 + size :]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        canned = self._canned
        if b"streamGenerateContent" in path:
            self._stream(canned.gemini_stream)
        elif path.endswith(b"generateContent") or b":generateContent" in path:
            self._unary(canned.gemini)
        elif b"count" in path:
            self._unary(b'{"input_tokens":9,"totalTokens":9}')
        elif body.endswith(b'"stream":true}') or b'"stream":true' in body or b'"stream": true' in body:
            self._stream(canned.anthropic_stream)
        else:
            self._unary(canned.anthropic)

    def _unary(self, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(_UNARY_HEAD % len(body) + body)

    def _stream(self, events: list[bytes]) -> None:
        assert self._transport is not None
        self._transport.write(_STREAM_HEAD)
        self._next(events, 0)

    def _next(self, events: list[bytes], index: int) -> None:
        """Write one event per turn of the loop, as a provider writes one per few tokens."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if self._hold_after and index == self._hold_after:
            return  # begun and never ended: the client has to leave
        event = events[index]
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        if index + 1 < len(events):
            self._loop.call_soon(self._next, events, index + 1)
        else:
            self._transport.write(b"0\r\n\r\n")


def _event(type_: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (type_.encode(), _dump({"type": type_, **fields}))


def _frame(text: str, finish: str | None) -> dict[str, object]:
    candidate: dict[str, object] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": _GEMINI_USAGE,
        "modelVersion": "gemini-3.8-flash",
        "responseId": "resp_mock",
    }


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def serve(host: str, port: int, canned: Canned, hold_after: int = 0) -> None:
    """Serve until standard input ends; print the port first."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(canned, hold_after), host, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--bytes", type=int, default=2000, dest="size")
    parser.add_argument(
        "--hold-after", type=int, default=0, help="send so many events of a stream, then no more"
    )
    options = parser.parse_args()
    canned = Canned(options.chunks, options.size)
    asyncio.run(serve(options.host, options.port, canned, options.hold_after))


if __name__ == "__main__":
    main()
