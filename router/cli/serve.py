"""`hybrid-router serve`: run the router until SIGTERM or SIGINT, then drain."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.loop import log_to_stderr, run
from router.config import Config, load_config, load_secrets, telemetry_environment

if TYPE_CHECKING:
    from classifier.route import Route
    from router.upstreams.base import Upstream

logger = logging.getLogger("router.serve")

_COLLECT_AFTER = (10_000, 20, 50)
"""Garbage collection of the serving process: a request leaves next to no cycles, and CPython's own 700 costs 5 % of its
CPU (measured: 40 us a call; more than 10,000 gains nothing)."""


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings, TOML; see deploy/router.toml.")] = None,
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Answer from the built-in emulator of both providers; needs no keys."),
    ] = False,
    latency: Annotated[
        float, typer.Option(help="With --sandbox: share of a real provider's latency to imitate, 0 for none.")
    ] = 0.0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve gRPC until SIGTERM or SIGINT, then drain.

    Prints "serving on HOST:PORT" when it is ready. Keys come from ANTHROPIC_API_KEY and GEMINI_API_KEY or from the
    files the settings name; without keys it refuses to start, unless --sandbox is given.

    Example: hybrid-router serve --sandbox
    """
    # As the first process of a container nothing ends us by default: without this a stop during the seconds of
    # start-up would be lost, and waited out until the engine kills.
    signal.signal(signal.SIGTERM, _end_before_serving)
    log_to_stderr(log_level)
    settings = load_config(config)
    run(_serve(settings, lambda: _upstreams(settings, sandbox, latency)))


def _end_before_serving(number: int, frame: object) -> None:
    """End at once: nothing is served yet, so there is nothing to drain."""
    raise SystemExit(128 + number)


def _upstreams(config: Config, sandbox: bool, latency: float) -> "Mapping[Route, Upstream]":
    from router.app import provider_upstreams, sandbox_upstreams

    if not sandbox:
        return provider_upstreams(config, load_secrets(config))
    from router.sandbox import Sandbox, SandboxSettings

    return sandbox_upstreams(config, Sandbox(SandboxSettings(latency_scale=latency)))


async def _serve(config: Config, upstreams: "Callable[[], Mapping[Route, Upstream]]") -> None:
    """Serve; the upstreams are made on the running loop, to which their connection pools belong."""
    from router.app import running

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with running(config, upstreams=upstreams(), environ=telemetry_environment()) as app:
        found = app.ledger.recovery
        if found.interrupted:
            logger.warning(
                "%d calls of an earlier process were interrupted; their cost is unknown: hybrid-router costs",
                found.interrupted,
            )
        _settle_garbage()
        print(f"serving on {app.address}", flush=True)
        await ended.wait()
        print("draining", file=sys.stderr, flush=True)


def _settle_garbage() -> None:
    """Take what start-up made out of every later collection: a full one went over all of it for 0.2 s (measured)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
