"""`hybrid-router sandbox`: both provider APIs on a socket."""

import asyncio
import signal
from typing import Annotated

import typer

from router.cli.loop import log_to_stderr, run


def sandbox(
    listen: Annotated[
        str, typer.Option(help="Address and port; port 0 picks a free one.")
    ] = "127.0.0.1:8400",
    virtual_clock: Annotated[
        bool, typer.Option("--virtual-clock", help="Time moves only by POST /sandbox/clock.")
    ] = False,
    latency: Annotated[
        float, typer.Option(min=0, help="Share of a real provider's latency to imitate.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Other answers for another seed.")] = 0,
) -> None:
    """Serve an emulator of the Anthropic Messages API and the Gemini API, with its own invoice.

    Point any client at it; any key is accepted. GET /sandbox/invoice shows what it billed.

    Example: hybrid-router sandbox --listen 127.0.0.1:8400
    """
    log_to_stderr("info")
    run(_serve(listen, virtual_clock=virtual_clock, latency=latency, seed=seed))


async def _serve(listen: str, *, virtual_clock: bool, latency: float, seed: int) -> None:
    from router.sandbox import Sandbox, SandboxSettings, SystemClock, VirtualClock
    from router.sandbox.listener import serve

    host, _, port = listen.rpartition(":")
    clock = VirtualClock(SystemClock().now()) if virtual_clock else SystemClock()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with serve(
        Sandbox(SandboxSettings(seed=seed, latency_scale=latency), clock), host, int(port)
    ) as bound:
        print(f"sandbox on http://{host}:{bound}", flush=True)
        await ended.wait()
