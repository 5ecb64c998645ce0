"""Memory of a worker that holds many streams at once: RSS before, during and after, several times over.

    python -m tests.benchmarks.bench_streams_memory [--streams 1000] [--rounds 4] [--json]

The rule: the real server, settings as shipped, the ledger on disk. The mock provider begins every answer and never
ends one, so all streams are open together; then the callers leave. What a round needs is `held` less what stood before
it; what it leaves behind is `after` less the same. The first round also fills caches, pools and arenas: the later ones
tell whether anything grows. It fails when a stream does not begin, or when streams outlive their callers.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import grpc

from router.v1 import operator_service_pb2, operator_service_pb2_grpc
from tests.benchmarks.processes import BenchmarkError, running
from tests.benchmarks.run import free_port
from tests.benchmarks.traffic import endless, settings

_METHOD = "/router.v1.RouterService/StreamGenerate"
_DELTA_TAG = 0x12
HELD_EVENTS = 8
"""Events the provider sends of each answer: its beginning and a few pieces of text."""
PER_CHANNEL = 90
"""Streams on one connection: servers admit about a hundred."""
SETTLE_TIMEOUT_S = 60.0


async def measure(streams: int, rounds: int, route: str) -> list[dict[str, float]]:
    """RSS in MB before, while and after `streams` streams are open, once per round.

    Raises:
        BenchmarkError: A stream did not begin, or was still there when its caller had left.
    """
    found = []
    async with AsyncExitStack() as stack:
        mock = await stack.enter_async_context(
            running(["tests.benchmarks.mock_provider", f"--hold-after={HELD_EVENTS}"], None)
        )
        server = await stack.enter_async_context(_router(stack, f"http://{mock.address}"))
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(-(-streams // PER_CHANNEL))
        ]
        pool = endless(route)
        for number in range(rounds):
            before = server.rss_bytes()
            open_streams = await _opened(channels, [*islice(pool, streams)])
            held = server.rss_bytes()
            for stream in open_streams:
                stream.cancel()
            await _settled(channels[0], streams * (number + 1))
            row = {"before": before, "held": held, "after": server.rss_bytes()}
            found.append({name: round(size / 1e6, 1) for name, size in row.items()})
    return found


def _router(stack: AsyncExitStack, provider_url: str) -> Any:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-router-bench-")))
    config = directory / "router.toml"
    text = settings(directory=directory / "ledger", provider_url=provider_url, prometheus_port=free_port())
    config.write_text(text.replace("[server]", "[server]\nin_flight_limit = 5000"), encoding="utf-8")
    keys = {"ANTHROPIC_API_KEY": "bench", "GEMINI_API_KEY": "bench"}
    command = ["router", "serve", "--config", str(config), "--log-level", "error"]
    context: Any = running(command, None, keys, by_signal=True)
    return context


async def _opened(channels: list[grpc.aio.Channel], requests: list[bytes]) -> list[Any]:
    """Streams that have given their first text and go on."""
    methods: list[Any] = [channel.unary_stream(_METHOD) for channel in channels]
    calls = [
        methods[number % len(methods)](request, timeout=300.0) for number, request in enumerate(requests)
    ]

    async def begun(call: Any) -> None:
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise BenchmarkError("a stream ended before its first text")
            if message[0] == _DELTA_TAG:
                return

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(begun(call))
    return calls


async def _settled(channel: grpc.aio.Channel, call_count: int) -> None:
    """Wait until the ledger holds every call: then no stream of theirs is left."""
    costs: Any = operator_service_pb2_grpc.OperatorServiceStub(channel)
    wanted = operator_service_pb2.GetCostsRequest(dimension=operator_service_pb2.COST_DIMENSION_ROUTE)
    try:
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while (await costs.GetCosts(wanted)).total.call_count < call_count:  # noqa: ASYNC110
                await asyncio.sleep(0.2)  # another process: nothing here can be waited for
    except TimeoutError:
        raise BenchmarkError(
            f"not all of {call_count} streams were settled after their callers had left"
        ) from None


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--route", choices=("opus", "flash", "routed"), default="opus")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    found = asyncio.run(measure(options.streams, options.rounds, options.route))
    if options.json:
        print(json.dumps({"streams": options.streams, "route": options.route, "rounds_rss_mb": found}))
        return 0
    print(f"{options.streams} {options.route} streams held at once, RSS of the worker in MB")
    print(f"{'round':>5}{'before':>9}{'held':>9}{'after':>9}{'KB a stream':>13}")
    for number, row in enumerate(found, 1):
        each = (row["held"] - row["before"]) * 1000 / options.streams
        print(f"{number:>5}{row['before']:>9}{row['held']:>9}{row['after']:>9}{each:>13.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
