"""A socket that answers as a test says: whole, cut, silent or reset; it sees when a client leaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    head: bytes = b""
    """Request line and headers as they came."""


Script = Callable[[asyncio.StreamWriter, Request], Awaitable[None]]


@dataclass
class ScriptedServer:
    """What a test scripts and what it can look at afterwards."""

    url: str = ""
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def handle(
        self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while request := await self._read(reader):
                self.requests.append(request)
                self.arrived.set()
                await script(writer, request)
                await writer.drain()
            self.left.set()
        except ConnectionError:
            self.left.set()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = await reader.readline()
            if not line:
                return None
            head += line
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(first.split(" ")[1], headers, body, head)

    def drop_all(self) -> None:
        """Close what clients left open, so that the server can end."""
        for writer in self._open:
            writer.close()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedServer]:
    """Serve `script` on a loopback port."""
    state = ScriptedServer()
    server = await asyncio.start_server(lambda r, w: state.handle(script, r, w), "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        try:
            yield state
        finally:
            state.drop_all()


def whole(body: bytes, status: str = "200 OK", headers: str = "") -> Script:
    """Answer `body` with a content-length."""

    async def run(writer: asyncio.StreamWriter, request: Request) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nrequest-id: req_1\r\n{headers}"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    return run


def streamed(events: list[bytes], ending: str = "whole") -> Script:
    """Answer an event stream that ends "whole", "cut" (connection closed) or "silent" (kept open)."""

    async def run(writer: asyncio.StreamWriter, request: Request) -> None:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nrequest-id: req_1\r\n"
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for event in events:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        if ending == "whole":
            writer.write(b"0\r\n\r\n")
        elif ending == "cut":
            writer.close()

    return run


def after_first(first: Script, then: Script) -> Script:
    """Answer the first request by `first`, every later one by `then`."""
    scripts = [first]

    async def run(writer: asyncio.StreamWriter, request: Request) -> None:
        await (scripts.pop() if scripts else then)(writer, request)

    return run


async def silent(writer: asyncio.StreamWriter, request: Request) -> None:
    """Never answer."""


async def reset(writer: asyncio.StreamWriter, request: Request) -> None:
    """Close the connection instead of answering."""
    writer.close()
