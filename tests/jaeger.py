"""A real Jaeger v2 for a test: found or built, started on free ports with traces in memory, and asked for traces.

It is found where `HYBRID_ROUTER_JAEGER` says, on the PATH, or where Go puts programs. `HYBRID_ROUTER_GO_INSTALL=1` has
Go build the pinned commit when none is found: minutes, and hundreds of modules, so nobody gets that unasked.

Spans go from the receiver straight into memory, without the batching of the shipped configuration: once an export is
answered, its spans are found. Nothing here waits by the clock.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2

PACKAGE = "github.com/jaegertracing/jaeger/cmd/jaeger"
COMMIT = "798e4b0fcf22609e381df764a01461affd813e1e"
"""v2.20.0. Its tags v2 are not versions to Go, because the module's path has no /v2."""
BINARY = "HYBRID_ROUTER_JAEGER"
INSTALL = "HYBRID_ROUTER_GO_INSTALL"
INSTALL_TIMEOUT_S = 3600
START_TIMEOUT_S = 30.0
READY = b"Everything is ready"
"""What the OpenTelemetry Collector, which Jaeger v2 is built on, logs once every receiver listens."""


class NoJaeger(Exception):
    """There is none, and why."""


def find(directory: Path) -> Path:
    """Return the program; built into `directory` if that was asked for.

    Raises:
        NoJaeger: There is none.
    """
    named = os.environ.get(BINARY)
    if named:
        return Path(named)
    go_bin = Path(os.environ.get("GOPATH", Path.home() / "go")) / "bin"
    found = shutil.which("jaeger") or shutil.which("jaeger", path=str(go_bin))
    if found:
        return Path(found)
    if os.environ.get(INSTALL) != "1":
        raise NoJaeger(f"no Jaeger on PATH or in {BINARY}; {INSTALL}=1 has Go build {PACKAGE}@{COMMIT}")
    return _installed(directory)


def _installed(directory: Path) -> Path:
    go = shutil.which("go")
    if go is None:
        raise NoJaeger(f"{INSTALL}=1 needs Go on PATH")
    ran = subprocess.run(
        [go, "install", f"{PACKAGE}@{COMMIT}"],
        env=os.environ | {"GOBIN": str(directory), "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    if ran.returncode:
        raise NoJaeger(f"go install failed: {ran.stderr.strip()[-300:]}")
    return directory / "jaeger"


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span as the query API gives it; ids in hex."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str
    status: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A running Jaeger.

    Attributes:
        endpoint: What to give an OTLP/gRPC exporter.
        query: Base address of the query API, that of the UI.
    """

    endpoint: str
    query: str

    async def services(self) -> list[str]:
        """Names of the services that sent spans."""
        return (await self._get("/api/v3/services", {})).get("services", [])

    async def search(self, service: str, operation: str = "", **tags: str) -> set[str]:
        """Return the ids of the traces with a span that has all the tags, as the UI's search does.

        Args:
            tags: Names with `__` for a dot.
        """
        wanted = {name.replace("__", "."): value for name, value in tags.items()}
        now = datetime.now(UTC)
        found = await self._get(
            "/api/traces",
            {
                "service": service,
                "tags": json.dumps(wanted),
                "limit": "1000",
                "lookback": "1h",
            }
            | ({"operation": operation} if operation else {}),
        )
        if found:
            return {trace["traceID"] for trace in found["data"]}
        # From 2.21 on there is only the newer interface, which takes attributes since 2.20.
        found = await self._get(
            "/api/v3/traces",
            {
                "query.serviceName": service,
                "query.startTimeMin": (now - timedelta(hours=1)).isoformat(),
                "query.startTimeMax": now.isoformat(),
                "query.searchDepth": "1000",
                "query.attributes": json.dumps(wanted),
            }
            | ({"query.operationName": operation} if operation else {}),
        )
        return {span.trace_id for span in _spans(found)}

    async def trace(self, trace_id: str) -> list[StoredSpan]:
        """Return the spans of one trace, [] when there is no such trace."""
        return _spans(await self._get(f"/api/v3/traces/{trace_id}", {}))

    async def _get(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Ask; {} when there is no such thing."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(self.query + path, params=dict(parameters), timeout=START_TIMEOUT_S)
        if answer.status_code == 404:
            return {}
        assert answer.status_code == 200, answer.text
        return answer.json()


def _spans(answer: Mapping[str, Any]) -> list[StoredSpan]:
    return [
        StoredSpan(
            name=span["name"],
            kind=_name(span.get("kind", 0), _KINDS),
            trace_id=span["traceId"],
            span_id=span["spanId"],
            parent_span_id=span.get("parentSpanId", ""),
            status=_name(span.get("status", {}).get("code", 0), _STATUSES),
            attributes=_attributes(span.get("attributes", [])),
            resource=_attributes(resource["resource"].get("attributes", [])),
        )
        for resource in answer.get("result", {}).get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUSES = ("UNSET", "OK", "ERROR")


def _name(value: int | str, words: Sequence[str]) -> str:
    """OTLP's JSON has enums as numbers; older encoders spell them out."""
    return words[value] if isinstance(value, int) else value.rpartition("_")[2]


def _attributes(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_value(each) for each in content.get("values", [])]
    return content


@asynccontextmanager
async def running(program: Path, directory: Path) -> AsyncIterator[Jaeger]:
    """Run a Jaeger for the length of the block."""
    otlp, query, query_grpc = _free_ports(3)
    settings = directory / "jaeger.yaml"
    settings.write_text(json.dumps(_settings(otlp, query, query_grpc)), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        str(program), "--config", str(settings), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, cwd=directory
    )
    assert process.stderr is not None
    log: list[bytes] = []
    # A pipe nobody reads would stop it.
    drained: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not log or READY not in log[-1]:
                log.append(await process.stderr.readline())
                assert log[-1], b"".join(log).decode()
        drained = asyncio.create_task(_drained(process.stderr))
        yield Jaeger(f"http://127.0.0.1:{otlp}", f"http://127.0.0.1:{query}")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        if drained is not None:
            await drained


async def _drained(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


def _settings(otlp: int, query: int, query_grpc: int) -> dict[str, Any]:
    local = "127.0.0.1"
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            "telemetry": {"metrics": {"level": "none"}, "logs": {"level": "info"}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"{local}:{query}"},
                "grpc": {"endpoint": f"{local}:{query_grpc}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"{local}:{otlp}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }


def _free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on, all different."""
    found = [socket.socket() for _ in range(count)]
    try:
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]
    finally:
        for each in found:
            each.close()
