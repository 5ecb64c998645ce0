"""Checkouts of the router side by side: what a change is worth in CPU per call, on a machine that others use too.

    python -m tests.benchmarks.compare [--route opus] [--trace unsampled] [--rounds 9] CHECKOUT CHECKOUT...

The rule: one server of each checkout, the SDK's raw mode beside them, all caught in turns within seconds, and what is
shown are medians of differences taken within a round. CPU is what the scheduler counted for every thread of the
process, in nanoseconds: at a load average of ten, nine rounds still tell .02 ms apart, where calls per second and times
of the day tell nothing. A directory is a checkout when it holds a `router` package; `DIRECTORY@NAME=VALUE` gives its
server a variable more.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import grpc
import uvloop

from tests.benchmarks.load import Caller, Metadata
from tests.benchmarks.processes import Cores, Running, choose_cores, entered, running
from tests.benchmarks.run import CONCURRENCY, SAMPLED, STREAM_CONCURRENCY, UNSAMPLED, free_port
from tests.benchmarks.traffic import ANSWER_BYTES, CHUNKS, endless, settings

_RAW = "sdk raw"
_HERE = Path.cwd()
_TRACES: dict[str, Metadata] = {"shipped": (), "unsampled": UNSAMPLED, "exporting": SAMPLED}


def thread_cpu_ms(pid: int) -> dict[str, float]:
    """CPU of a process by name of its threads, ms; "main" is the first one's."""
    found: dict[str, float] = defaultdict(float)
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            name = Path(f"/proc/{pid}/task/{thread}/comm").read_text(encoding="utf-8").strip()
            spent_ns = int(
                Path(f"/proc/{pid}/task/{thread}/schedstat").read_text(encoding="utf-8").split()[0]
            )
        except OSError:  # it has ended since
            continue
        found["main" if thread == str(pid) else name] += spent_ns / 1e6
    return found


async def _servers(stack: AsyncExitStack, checkouts: list[str], cores: Cores) -> dict[str, Running]:
    """Start the mock provider, the sink, the SDK's raw mode and a router of each checkout."""
    mock = await stack.enter_async_context(
        running(
            ["tests.benchmarks.mock_provider", f"--chunks={CHUNKS}", f"--bytes={ANSWER_BYTES}"], cores.load
        )
    )
    sink = await stack.enter_async_context(running(["tests.benchmarks.gateway", "sink"], cores.load))
    url = f"http://{mock.address}"
    contexts = {
        _RAW: running(["tests.benchmarks.gateway", "sdk", "--raw", "--provider", url], cores.server),
    }
    for checkout in checkouts:
        path, *variables = checkout.split("@")
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-router-compare-")))
        config = directory / "router.toml"
        told = settings(directory=directory / "ledger", provider_url=url, prometheus_port=free_port())
        config.write_text(told, encoding="utf-8")
        environ = {
            "ANTHROPIC_API_KEY": "bench",
            "GEMINI_API_KEY": "bench",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{sink.address}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "PYTHONPATH": str(_HERE / path),
            "PYTHONSAFEPATH": "1",  # else the working directory's package would be taken
            **dict(variable.split("=", 1) for variable in variables),
        }
        command = ["router", "serve", "--config", str(config), "--log-level", "warning"]
        contexts[checkout] = running(command, cores.server, environ, by_signal=True)
    return dict(zip(contexts, await entered(stack, contexts.values()), strict=True))


async def compare(checkouts: list[str], *, route: str, trace: str, rounds: int, seconds: float) -> None:
    """Measure and print."""
    route, _, kind = route.partition(":")
    stream, cores = kind == "stream", choose_cores()
    concurrency = STREAM_CONCURRENCY if stream else CONCURRENCY
    async with AsyncExitStack() as stack:
        servers = await _servers(stack, checkouts, cores)
        callers = {
            name: Caller(
                await stack.enter_async_context(grpc.aio.insecure_channel(server.address)),
                stream=stream,
                metadata=_TRACES[trace],
            )
            for name, server in servers.items()
        }
        if cores.load is not None:
            os.sched_setaffinity(0, {cores.load})
        pool = endless(route)
        cpu_ms: dict[str, list[float]] = {name: [] for name in servers}
        per_s: dict[str, list[float]] = {name: [] for name in servers}
        threads: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for number in range(-1, rounds):  # the first is not counted: connections and caches settle
            for name in list(servers)[:: -1 if number % 2 else 1]:
                pid = servers[name].process.pid
                before = thread_cpu_ms(pid)
                found = await callers[name].slice(pool, concurrency=concurrency, seconds=seconds)
                spent = {key: ms - before.get(key, 0.0) for key, ms in thread_cpu_ms(pid).items()}
                if number >= 0:
                    cpu_ms[name].append(sum(spent.values()) / found.calls)
                    per_s[name].append(found.per_s)
                    threads[name].append({key: ms / found.calls for key, ms in spent.items()})
        print(f"{route}, {trace}, {rounds} rounds, load average {os.getloadavg()[0]:.1f}; ms of CPU a call")
        for name in servers:
            by_thread = {
                key: median([each.get(key, 0.0) for each in threads[name]]) for key in threads[name][-1]
            }
            shown = ", ".join(f"{key} {ms:.3f}" for key, ms in by_thread.items() if ms >= 0.001)
            print(
                f"{median(cpu_ms[name]):.3f}  over raw {_apart(cpu_ms[name], cpu_ms[_RAW]):+.3f}"
                f"  over the first {_apart(cpu_ms[name], cpu_ms[checkouts[0]]):+.3f}"
                f"  speed {median(a / b for a, b in zip(per_s[name], per_s[_RAW], strict=True)):.2f}"
                f"  {name} ({shown})"
            )


def _apart(mine: list[float], theirs: list[float]) -> float:
    return median(a - b for a, b in zip(mine, theirs, strict=True))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkouts", nargs="+", metavar="CHECKOUT", help="directory that holds `router`")
    parser.add_argument("--route", default="opus", help='opus, flash or routed; with ":stream" streamed')
    parser.add_argument("--trace", default="unsampled", choices=sorted(_TRACES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.6, help="of one slice")
    options = parser.parse_args()
    if not Path("/proc/self/schedstat").exists():
        sys.exit("the scheduler's account of threads is Linux's")
    uvloop.run(
        compare(
            options.checkouts,
            route=options.route,
            trace=options.trace,
            rounds=options.rounds,
            seconds=options.seconds,
        )
    )


if __name__ == "__main__":
    main()
