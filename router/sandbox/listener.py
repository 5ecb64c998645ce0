"""The sandbox on a real socket, with its admin face under `/sandbox/`.

Rule: the API paths carry the same exchanges as the in-process transport; a client that goes away cancels
the handler, which closes the stream at the event it had reached (socket buffers may run a few events ahead
of the reader). The admin face is for tests and demos: it has no credential, so listen on loopback.

| path | does |
|---|---|
| `GET /sandbox/invoice` | lines and totals; `?format=lines` gives JSON lines |
| `GET /sandbox/state` | entry counts, pending faults and scripts, the time |
| `POST /sandbox/clock` | `{"advance_s": N}`; 409 unless the clock is virtual |
| `POST /sandbox/faults` | one `Fault` as JSON, or a list of them |
| `POST /sandbox/script` | `{"parts": [{"text": ...} or {"tool": ..., "args": {...}}], ...}`, or a list |
| `POST /sandbox/reset` | forget everything but the time |
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from router.sandbox.clock import VirtualClock
from router.sandbox.core import Sandbox
from router.sandbox.faults import Fault
from router.sandbox.replies import Call, Part, Text
from router.sandbox.wire import ByteStream, ConnectionDropped, WireRequest, decode, encode

_MAX_BODY_BYTES = 64 * 1024 * 1024
"""Above the APIs' own 32 MB, so that their 413 is ours to give."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve(sandbox: Sandbox, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Listen on a socket while the context lasts.

    Args:
        port: 0 picks a free one.

    Yields:
        The port. Both APIs are served there: `http://host:port` is the base URL of either SDK.
    """
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    for method, path, handler in _admin(sandbox):
        app.router.add_route(method, path, handler)
    app.router.add_route("*", "/{path:.*}", _api(sandbox))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _api(sandbox: Sandbox) -> _Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        wire = WireRequest(
            method=request.method,
            path=request.path,
            query=dict(request.query),
            headers={k.lower(): v for k, v in request.headers.items()},
            body=await request.read(),
        )
        try:
            response = await sandbox.handle(wire)
        except ConnectionDropped:
            return _drop(request)
        if isinstance(response.body, bytes):
            return web.Response(status=response.status, headers=list(response.headers), body=response.body)
        head = web.StreamResponse(status=response.status, headers=list(response.headers))
        return await _stream(request, head, response.body)

    return answer


async def _stream(request: web.Request, head: web.StreamResponse, body: ByteStream) -> web.StreamResponse:
    try:
        await head.prepare(request)
        async for piece in body:
            await head.write(piece)
        await head.write_eof()
    except ConnectionDropped:
        _drop(request)
    except ConnectionResetError:
        pass  # the client went away between two events; closing below bills what it got
    finally:
        await body.aclose()
    return head


def _drop(request: web.Request) -> web.Response:
    """Reset the connection without an answer; what is returned cannot reach anyone."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _admin(sandbox: Sandbox) -> list[tuple[str, str, _Handler]]:
    return [
        ("GET", "/sandbox/invoice", _checked(lambda request, _: _invoice(sandbox, request))),
        ("GET", "/sandbox/state", _checked(lambda _, __: _json(sandbox.census()))),
        ("POST", "/sandbox/clock", _checked(lambda _, body: _advance(sandbox, body))),
        ("POST", "/sandbox/faults", _checked(lambda _, body: _inject(sandbox, body))),
        ("POST", "/sandbox/script", _checked(lambda _, body: _script(sandbox, body))),
        ("POST", "/sandbox/reset", _checked(lambda _, __: _reset(sandbox))),
    ]


def _checked(act: Callable[[web.Request, Any], web.Response]) -> _Handler:
    """Decode the body, answer 400 to what cannot be read."""

    async def handler(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            return act(request, decode(raw) if raw else None)
        except (ValueError, TypeError, KeyError, msgspec.DecodeError) as error:
            return _json({"error": f"{type(error).__name__}: {error}"}, status=400)

    return handler


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=encode(value), content_type="application/json")


def _invoice(sandbox: Sandbox, request: web.Request) -> web.Response:
    lines = [line.as_json() for line in sandbox.invoice]
    if request.query.get("format") == "lines":
        body = b"".join(encode(line) + b"\n" for line in lines)
        return web.Response(body=body, content_type="application/x-ndjson")
    return _json({"lines": lines, "totals": asdict(sandbox.invoice.totals())})


def _advance(sandbox: Sandbox, body: Any) -> web.Response:
    if not isinstance(sandbox.clock, VirtualClock):
        return _json({"error": "the clock is not virtual"}, status=409)
    sandbox.clock.advance(float(body["advance_s"]))
    return _json({"now": sandbox.clock.now()})


def _inject(sandbox: Sandbox, body: Any) -> web.Response:
    faults = [Fault(**item) for item in (body if isinstance(body, list) else [body])]
    for fault in faults:
        sandbox.inject(fault)
    return _json({"injected": len(faults)})


def _script(sandbox: Sandbox, body: Any) -> web.Response:
    replies = body if isinstance(body, list) else [body]
    for reply in replies:
        options = {k: v for k, v in reply.items() if k != "parts"}
        sandbox.script(*(_part(item) for item in reply.get("parts", ())), **options)
    return _json({"scripted": len(replies)})


def _part(item: dict[str, Any]) -> Part:
    return Text(item["text"]) if "text" in item else Call(item["tool"], item.get("args", {}))


def _reset(sandbox: Sandbox) -> web.Response:
    sandbox.reset()
    return _json({"reset": True})
