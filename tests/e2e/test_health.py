"""`hybrid-router health` against a router that serves, drains and is gone: what a probe reads is its exit code."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.e2e.process import server_process, verb, write_config
from tests.e2e.test_metrics import free_port

pytestmark = pytest.mark.timeout(180)
"""Five processes, one after the other, each of which loads gRPC and more."""

ROUTER_SERVICE = "router.v1.RouterService"


async def test_a_probe_sees_serving_and_then_draining(tmp_path: Path) -> None:
    """0 for a router that takes work and for each service of it; 1 from SIGTERM on, while it still answers."""
    async with server_process(write_config(tmp_path, drain_s=120.0)) as server, asyncio.timeout(170):
        for service in ("", ROUTER_SERVICE):
            code, output, errors = await verb(
                "health", "--address", server.address, "--service", service, "--json", cwd=tmp_path
            )
            assert code == 0, errors
            assert json.loads(output) == {"address": server.address, "service": service, "status": "SERVING"}
        code, output, _ = await verb(
            "health", "--address", server.address, "--service", "router.v1.Nothing", cwd=tmp_path
        )
        assert (code, output) == (1, "SERVICE_UNKNOWN\n")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        while b"draining for" not in await server.process.stderr.readline():
            pass
        code, output, _ = await verb("health", "--address", server.address, cwd=tmp_path)
        assert (code, output) == (1, "NOT_SERVING\n")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_nobody_at_the_address_is_unhealthy_not_a_fault(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """1 and one word within the timeout; 2 would be read by container engines as nothing they know."""
    address = f"127.0.0.1:{free_port()}"
    code, output, errors = await verb(
        "health", "--address", address, "--timeout", "0.5", *arguments, cwd=tmp_path
    )
    assert code == 1
    assert not errors
    assert (json.loads(output)["status"] if arguments else output.strip()) == "UNREACHABLE"
