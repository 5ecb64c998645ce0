"""`make bench`: the whole service against its floors, in one run, on one core.

    python -m tests.benchmarks.run [--quick] [--only TEXT] [--json FILE]

The rule: server processes on one core, the load and the mock provider on another; every round visits every case for
a slice, forwards and then backwards, so that drift of a shared machine hits all alike; ratios are taken within
rounds. It never fails for being slow. It fails (exit code 1) when a call fails, an answer is wrong, or the ledger's
count of calls is not ours.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import uvloop

from router.v1 import operator_service_pb2, operator_service_pb2_grpc
from tests.benchmarks.load import Caller, Metadata
from tests.benchmarks.processes import (
    ROOT,
    BenchmarkError,
    Cores,
    Running,
    choose_cores,
    entered,
    running,
)
from tests.benchmarks.results import Measured, Rounds, percentile_ms
from tests.benchmarks.traffic import ANSWER_BYTES, CHUNKS, endless, settings

RESULTS = ROOT / "bench-results"
CONCURRENCY = 32
"""Callers that saturate one core; more only lengthen its queue."""
STREAM_CONCURRENCY = 16
UNSAMPLED: Metadata = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),)
SAMPLED: Metadata = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
ROUTERS = ("router", "router, exporting")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often.

    Attributes:
        saturated_s, single_s: One slice at full load, and one caller at a time.
        direct_s: One slice of the SDKs without gRPC.
        quick: Leave out what compares the SDKs' entries with each other.
    """

    rounds: int
    saturated_s: float
    single_s: float
    direct_s: float
    quick: bool


FULL = Plan(rounds=5, saturated_s=1.4, single_s=0.5, direct_s=0.5, quick=False)
QUICK = Plan(rounds=2, saturated_s=0.45, single_s=0.1, direct_s=0.0, quick=True)


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table.

    Attributes:
        target: Name of the server process.
        floor: Case it is compared with, "" for none.
        quick: Whether --quick visits it too.
    """

    name: str
    target: str
    route: str
    stream: bool = False
    floor: str = ""
    metadata: Metadata = ()
    quick: bool = True


CASES = (
    Case("echo unary", "echo", "opus"),
    Case("sdk unary opus", "sdk", "opus", floor="echo unary"),
    Case("sdk unary flash", "sdk", "flash", floor="echo unary"),
    Case("sdk raw unary opus", "sdk raw", "opus", floor="sdk unary opus"),
    Case("sdk raw unary flash", "sdk raw", "flash", floor="sdk unary flash"),
    Case("router unary opus", "router", "opus", floor="sdk raw unary opus"),
    Case("router unary flash", "router", "flash", floor="sdk raw unary flash"),
    Case("router unary routed", "router", "routed"),
    Case(
        "router unary opus unsampled",
        "router",
        "opus",
        floor="sdk raw unary opus",
        metadata=UNSAMPLED,
    ),
    Case(
        "router unary opus exporting",
        "router, exporting",
        "opus",
        floor="sdk raw unary opus",
        metadata=SAMPLED,
    ),
    Case(
        "router unary flash unsampled",
        "router",
        "flash",
        floor="sdk raw unary flash",
        metadata=UNSAMPLED,
    ),
    Case(
        "router unary flash exporting",
        "router, exporting",
        "flash",
        floor="sdk raw unary flash",
        metadata=SAMPLED,
    ),
    Case("echo stream", "echo", "opus", stream=True),
    Case("sdk stream opus", "sdk", "opus", stream=True, floor="echo stream"),
    Case("sdk stream flash", "sdk", "flash", stream=True, floor="echo stream"),
    Case("router stream opus", "router", "opus", stream=True, floor="sdk stream opus"),
    Case("router stream flash", "router", "flash", stream=True, floor="sdk stream flash"),
    Case("router stream routed", "router", "routed", stream=True, quick=False),
    Case(
        "router stream opus exporting",
        "router, exporting",
        "opus",
        stream=True,
        floor="sdk stream opus",
        metadata=SAMPLED,
        quick=False,
    ),
)
DIRECT = tuple(
    (f"direct {entry} {'stream' if stream else 'unary'} {route}", entry, route, stream)
    for stream in (False, True)
    for route in ("opus", "flash")
    for entry in ("lean", "raw")
)


class Bench:
    """The processes, and what was counted."""

    def __init__(self, plan: Plan, only: str) -> None:
        """Choose the cases whose name contains `only`, and the floors these need."""
        wanted = {case.name for case in CASES if only in case.name and (case.quick or not plan.quick)}
        for _ in range(3):  # the floors of floors, too
            wanted |= {case.floor for case in CASES if case.name in wanted}
        self.cases = tuple(case for case in CASES if case.name in wanted)
        self.direct = () if plan.quick else tuple(case for case in DIRECT if only in case[0])
        self.plan = plan
        self.rounds = Rounds()
        self.sent = dict.fromkeys(ROUTERS, 0)
        self.pools: dict[str, Iterator[bytes]] = {
            route: endless(route) for route in ("opus", "flash", "routed")
        }
        self.servers: dict[str, Running] = {}
        self.channels: dict[str, grpc.aio.Channel] = {}
        self.facts: dict[str, Any] = {}

    async def start(self, stack: AsyncExitStack, cores: Cores) -> None:
        """Start every process; they end with `stack`."""
        mock = await stack.enter_async_context(
            running(
                ["tests.benchmarks.mock_provider", f"--chunks={CHUNKS}", f"--bytes={ANSWER_BYTES}"],
                cores.load,
            )
        )
        sink = await stack.enter_async_context(running(["tests.benchmarks.gateway", "sink"], cores.load))
        url = f"http://{mock.address}"
        commands = {
            "echo": ["tests.benchmarks.gateway", "echo"],
            "sdk": ["tests.benchmarks.gateway", "sdk", "--provider", url],
            "sdk raw": ["tests.benchmarks.gateway", "sdk", "--raw", "--provider", url],
        }
        contexts = {
            name: self._router(stack, cores, url, sink.address)
            if name in ROUTERS
            else running(commands[name], cores.server)
            for name in sorted({case.target for case in self.cases})
        }
        if self.direct:
            contexts["direct"] = running(
                ["tests.benchmarks.gateway", "direct", "--provider", url], cores.server
            )
        # Channels come last: gRPC's threads and a fork do not go together.
        self.servers = dict(zip(contexts, await entered(stack, contexts.values()), strict=True))
        for name in self.servers.keys() - {"direct"}:
            channel = grpc.aio.insecure_channel(self.servers[name].address)
            self.channels[name] = await stack.enter_async_context(channel)
        self.sink = sink

    def _router(self, stack: AsyncExitStack, cores: Cores, provider_url: str, sink: str) -> Any:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-router-bench-")))
        self.facts.setdefault("prometheus_ports", []).append(port := free_port())
        config = directory / "router.toml"
        config.write_text(
            settings(directory=directory / "ledger", provider_url=provider_url, prometheus_port=port),
            encoding="utf-8",
        )
        environ = {
            "ANTHROPIC_API_KEY": "bench",
            "GEMINI_API_KEY": "bench",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{sink}",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
        }
        command = ["router", "serve", "--config", str(config), "--log-level", "warning"]
        return running(command, cores.server, environ, by_signal=True)

    async def warm_up(self) -> None:
        """Call every case until connections, caches and allocators have settled."""
        for case in self.cases:
            await self._load(case, concurrency=8, seconds=min(0.4, self.plan.saturated_s / 2))
        self.facts["rss_mb_after_warm_up"] = self._rss()

    async def measure(self) -> None:
        """Visit every case once per round, forwards and backwards in turn."""
        for number in range(self.plan.rounds):
            step = -1 if number % 2 else 1
            for case in self.cases[::step]:
                self.rounds.add(case.name, await self._case(case))
            for name, entry, route, stream in self.direct[::step]:
                self.rounds.add(name, await self._direct(entry, route, stream))
            print(f"round {number + 1} of {self.plan.rounds}", file=sys.stderr, flush=True)
        self.facts["rss_mb"] = self._rss()

    async def _case(self, case: Case) -> Measured:
        server = self.servers[case.target]
        single = await self._load(case, concurrency=1, seconds=self.plan.single_s)
        before_s = await _at_rest(server)
        callers = STREAM_CONCURRENCY if case.stream else CONCURRENCY
        full = await self._load(case, concurrency=callers, seconds=self.plan.saturated_s)
        cpu_s = await _at_rest(server) - before_s
        return Measured(
            per_s=full.per_s,
            cpu_ms=cpu_s * 1e3 / full.calls,
            busy=cpu_s / full.wall_s,
            p50_ms=percentile_ms(single.latencies_s, 50),
            p99_ms=percentile_ms(single.latencies_s, 99),
            loaded_p50_ms=percentile_ms(full.latencies_s, 50),
            loaded_p99_ms=percentile_ms(full.latencies_s, 99),
            first_ms=percentile_ms(single.first_s, 50) if case.stream else None,
        )

    async def _load(self, case: Case, *, concurrency: int, seconds: float) -> Any:
        caller = Caller(self.channels[case.target], stream=case.stream, metadata=case.metadata)
        found = await caller.slice(self.pools[case.route], concurrency=concurrency, seconds=seconds)
        if case.target in self.sent:
            self.sent[case.target] += found.calls
        return found

    async def _direct(self, entry: str, route: str, stream: bool) -> Measured:
        command = {"entry": entry, "route": route, "stream": stream, "seconds": self.plan.direct_s}
        found = json.loads(await self.servers["direct"].ask(json.dumps(command)))
        return Measured(cpu_ms=found["cpu_ms"] / found["calls"], per_s=found["calls"] / self.plan.direct_s)

    def _rss(self) -> dict[str, float]:
        return {name: round(server.rss_bytes() / 1e6, 1) for name, server in self.servers.items()}

    async def check(self) -> None:
        """Hold the routers' own books against what was sent.

        Raises:
            BenchmarkError: They differ.
        """
        for name in ROUTERS:
            if name not in self.servers:
                continue
            costs: Any = operator_service_pb2_grpc.OperatorServiceStub(self.channels[name])
            answer = await costs.GetCosts(
                operator_service_pb2.GetCostsRequest(dimension=operator_service_pb2.COST_DIMENSION_ROUTE)
            )
            booked, unknown = answer.total.call_count, answer.total.unknown_cost_count
            if booked != self.sent[name] or unknown:
                raise BenchmarkError(
                    f"{name}: {self.sent[name]} calls were answered, the ledger has {booked}, {unknown} of unknown cost"
                )
            self.facts.setdefault("calls_by_route", {})[name] = {
                row.key: row.call_count for row in answer.rows
            }
        for port in self.facts.get("prometheus_ports", ()):
            if "hybrid_router" not in await asyncio.to_thread(_scraped, port):
                raise BenchmarkError("the Prometheus endpoint serves none of the router's metrics")
        for name in ROUTERS:
            if name in self.servers:
                await self.channels[name].close()
                await self.servers[name].end()
        spans = int((await self.sink.end()).split()[-1])
        self.facts["spans_received"] = spans
        if "router, exporting" in self.servers and not spans:
            raise BenchmarkError("no span arrived at the collector")

    def report(self, cores: Cores, took_s: float) -> dict[str, Any]:
        """Everything found, for JSON."""
        floors = {case.name: case.floor for case in self.cases if case.floor}
        floors |= {name: name.replace(" raw ", " lean ") for name, entry, *_ in self.direct if entry == "raw"}
        return {
            "python": platform.python_version(),
            "machine": {"cpus": os.cpu_count(), "pinned": cores.pinned, "load_average": os.getloadavg()},
            "versions": {
                name: version(name) for name in ("grpcio", "anthropic", "google-genai", "aiohttp", "uvloop")
            },
            "plan": {field: getattr(self.plan, field) for field in Plan.__slots__},
            "took_s": round(took_s, 1),
            "cases": self.rounds.to_json(floors),
            **{name: value for name, value in self.facts.items() if name != "prometheus_ports"},
        }

    def tables(self) -> str:
        """What people read."""
        shown = {case.name: case.floor for case in self.cases}
        shown |= {
            name: name.replace(" raw ", " lean ") if entry == "raw" else "" for name, entry, *_ in self.direct
        }
        return "\n\n".join(self.rounds.table(shown, stream=stream) for stream in (False, True))


async def _at_rest(server: Running) -> float:
    """CPU seconds of a server once it has done what its last calls left to do, so that no case pays for another's."""
    before_s = server.cpu_s()
    for _ in range(40):
        await asyncio.sleep(0.05)
        now_s = server.cpu_s()
        if now_s - before_s < 0.005:
            return now_s
        before_s = now_s
    return before_s


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8")


async def bench(plan: Plan, only: str) -> dict[str, Any]:
    """Run it all and print the tables.

    Raises:
        BenchmarkError: Something answered wrongly.
    """
    started_s = time.monotonic()
    cores = choose_cores()
    this = Bench(plan, only)
    if not this.cases and not this.direct:
        raise BenchmarkError(f"no case's name contains {only!r}")
    async with AsyncExitStack() as stack:
        await this.start(stack, cores)
        this.facts["start_s"] = round(time.monotonic() - started_s, 1)
        if cores.load is not None:
            os.sched_setaffinity(0, {cores.load})
        await this.warm_up()
        await this.measure()
        await this.check()
        found = this.report(cores, time.monotonic() - started_s)
    print(this.tables())
    rss = ", ".join(f"{name} {mb:.0f}" for name, mb in found["rss_mb"].items())
    print(f"\nRSS MB: {rss}")
    print(f"calls {this.sent}, by route {found.get('calls_by_route')}; spans {found['spans_received']}")
    print(
        "Milliseconds, medians over rounds. CPU is the server process's, per call, saturated; busy below about"
    )
    print(
        "0.9 means that the load, not the server, was the limit. added, ratio: CPU against the floor, per round."
    )
    print(
        f"{plan.rounds} rounds, {found['took_s']:.0f} s, load average {found['machine']['load_average'][0]:.1f}"
    )
    if not cores.pinned:
        print(
            "Not pinned (one core, or no affinity here): server and load compete; read the CPU columns only."
        )
    return found


def main() -> int:
    """Parse the command line, run, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds, under 40 s")
    parser.add_argument("--only", default="", help="only cases whose name contains this, and their floors")
    parser.add_argument("--json", type=Path, default=RESULTS / "gateway.json", help="where the figures go")
    options = parser.parse_args()
    try:
        found = uvloop.run(bench(QUICK if options.quick else FULL, options.only))
    except BenchmarkError as error:
        print(f"benchmark failed: {error}", file=sys.stderr)
        return 1
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
