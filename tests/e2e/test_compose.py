"""compose.yaml's router and traffic as processes: the commands, settings and environment it gives them, run for real.

Only what the engine would do is replaced: names of containers become loopback, fixed ports become free ones.
"""

import asyncio
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from router import attributes as names
from tests.block_yaml import read_yaml
from tests.e2e.collector import tapped
from tests.e2e.process import server_process, verb
from tests.e2e.test_metrics import by_route, free_port, scraped

DEPLOY = Path(__file__).parents[2] / "deploy"
REQUESTS = 20

pytestmark = pytest.mark.timeout(180)
"""Four processes, one after the other, each of which loads the SDKs."""


def _without(command: list[str], option: str) -> list[str]:
    """The command without an option and its value."""
    at = command.index(option)
    return command[:at] + command[at + 2 :]


async def test_what_compose_starts_serves_is_healthy_and_is_seen(tmp_path: Path) -> None:
    """Without keys the router serves the demo's workload; the image's check finds it healthy, Prometheus would find its
    costs and Jaeger its traces; SIGTERM ends it in order."""
    services: dict[str, Any] = read_yaml((DEPLOY / "compose.yaml").read_text())["services"]
    router, traffic = services["router"], services["traffic"]
    (mounted,) = [each for each in router["volumes"] if each.startswith("..")]
    config = (DEPLOY / mounted.split(":")[0]).resolve()
    first, *arguments = _without(router["command"], "--config")
    arguments.remove("--sandbox")
    assert first == "serve"
    port = free_port()
    image = dict(re.findall(r"(HYBRID_ROUTER__\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    async with tapped() as tap, asyncio.timeout(170):
        environment = (
            image
            | router["environment"]
            | {
                "HYBRID_ROUTER__SERVER__LISTEN": "127.0.0.1:0",
                "HYBRID_ROUTER__LEDGER__PATH": str(tmp_path / "ledger"),
                "HYBRID_ROUTER__TELEMETRY__PROMETHEUS_PORT": str(port),
                "HYBRID_ROUTER__SERVER__DRAIN_S": "0",
                "OTEL_EXPORTER_OTLP_ENDPOINT": tap.endpoint,
            }
        )
        async with server_process(config, *arguments, **environment) as server:
            code, output, errors = await verb("health", "--address", server.address, cwd=tmp_path)
            assert (code, output) == (0, "SERVING\n"), errors
            command = _without(traffic["command"], "--target")
            code, output, errors = await verb(
                *command, "--target", server.address, "--limit", str(REQUESTS), cwd=tmp_path
            )
            assert code == 0, errors + output
            costs = by_route(await scraped(port), "hybrid_router_cost_total")
            assert set(costs) == {"opus", "flash"}
            assert min(costs.values()) > 0
            server.process.send_signal(signal.SIGTERM)
            assert await server.ended() == 0, server.errors.decode()
        spans = tap.spans()
    # A request is a span at least, and all are kept: compose is for looking at them.
    served = [span for span in spans if span.kind == "SERVER" and names.ROUTE in span.attributes]
    assert len(served) >= REQUESTS
