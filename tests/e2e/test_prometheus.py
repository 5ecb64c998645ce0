"""A real Prometheus scrapes a working router and answers every query of every dashboard; its rules evaluate.

`test_dashboards.py` holds the same queries against one scrape everywhere; this one also knows PromQL. Skipped aloud
where there is no Prometheus: it is on the PATH with the package `prometheus`, or named by `HYBRID_ROUTER_PROMETHEUS`.
"""

import asyncio
import json
import math
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.service import TIMEOUT_S, serving
from tests.e2e.test_dashboards import ALERTS, DASHBOARDS, panels_of, settings, worked
from tests.e2e.test_metrics import free_port

BINARY = "HYBRID_ROUTER_PROMETHEUS"
READY = b"Server is ready to receive web requests"
SETTINGS = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files:
  - alerts.yaml
scrape_configs:
  - job_name: router
    static_configs:
      - targets: ["127.0.0.1:{router}"]
  - job_name: beat
    static_configs:
      - targets: ["127.0.0.1:{beat}"]
"""

pytestmark = pytest.mark.timeout(180)


@dataclass(slots=True)
class Beat:
    """An empty target: it tells when Prometheus has been round, so that nobody sleeps."""

    rounds: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one scrape and count it."""
        while (await reader.readline()).strip():
            pass
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()
        writer.close()
        self.rounds += 1
        async with self.changed:
            self.changed.notify_all()

    async def more(self, count: int) -> None:
        """Return after `count` more rounds."""
        until = self.rounds + count
        async with asyncio.timeout(TIMEOUT_S + count), self.changed:
            await self.changed.wait_for(lambda: self.rounds >= until)


@asynccontextmanager
async def prometheus(directory: Path, router_port: int) -> AsyncIterator[tuple[str, Beat]]:
    """Run Prometheus on a router's metrics; give the address of its API and its beat."""
    program = os.environ.get(BINARY) or shutil.which("prometheus")
    if program is None:
        pytest.skip(
            f"no prometheus on PATH (Debian: prometheus) or in {BINARY}: dashboards checked against a scrape"
        )
    beat, port = Beat(), free_port()
    target = await asyncio.start_server(beat.answer, "127.0.0.1", 0)
    beat_port = target.sockets[0].getsockname()[1]
    (directory / "prometheus.yaml").write_text(SETTINGS.format(router=router_port, beat=beat_port))
    (directory / "alerts.yaml").write_text(ALERTS.read_text().replace("interval: 1m", "interval: 1s"))
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={directory / 'prometheus.yaml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        cwd=directory,
    )
    assert process.stderr is not None
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(60):
            while READY not in (line := await process.stderr.readline()):
                assert line, "Prometheus ended"
        reading = asyncio.create_task(_read(process.stderr))
        yield f"http://127.0.0.1:{port}", beat
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        if reading is not None:
            await reading
        target.close()
        await target.wait_closed()


async def _read(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


async def _get(address: str, path: str, **parameters: str) -> Any:
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(address + path, params=parameters, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_every_query_has_an_answer_in_a_real_prometheus(tmp_path: Path) -> None:
    """Each expression of each panel gives at least one number, and every rule evaluates."""
    port = free_port()
    async with serving(settings(port)) as service, prometheus(tmp_path, port) as (address, beat):
        await beat.more(2)
        # A series is born in one scrape and counts from the next on: the same work twice more.
        for _ in range(3):
            await worked(service)
            await beat.more(3)
        silent, count = [], 0
        for path in DASHBOARDS:
            for panel in panels_of(json.loads(path.read_text())):
                for target in panel["targets"]:
                    expr = target["expr"]
                    for variable, value in (("$__rate_interval", "1m"), ("$__range", "5m"), ("$job", ".+")):
                        expr = expr.replace(variable, value)
                    found = await _get(address, "/api/v1/query", query=expr)
                    numbers = [float(each["value"][1]) for each in found["result"]]
                    count += 1
                    if not any(math.isfinite(number) for number in numbers):
                        silent.append((path.stem, panel["title"], target["refId"], numbers))
        assert count >= 70
        assert silent == []
        groups = (await _get(address, "/api/v1/rules"))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) >= 10
        assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
