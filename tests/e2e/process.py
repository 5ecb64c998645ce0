"""`hybrid-router` as processes of its own: a server that is started, asked, ended or killed, and verbs run to their
end.

Whatever a test starts is gone when it ends, by the id of the process that was started.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from router.v1.router_service_pb2_grpc import RouterServiceStub
from tests.e2e.service import TIMEOUT_S

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 40.0
"""A loaded machine takes seconds to import the SDKs."""

CONFIG = """
[server]
listen = "127.0.0.1:0"
drain_s = {drain_s}
[ledger]
path = "{ledger}"
[applications.desk]
system = ["Answer from the records you are shown, and name the record."]
"""


@dataclass(slots=True)
class ServerProcess:
    """A running `hybrid-router serve`, on the built-in sandbox or on one in a process of its own.

    Attributes:
        errors: What it wrote to standard error so far, whole once it has ended.
    """

    process: Process
    address: str
    channel: grpc.aio.Channel
    router: RouterServiceStub
    errors: bytes = b""

    async def kill(self) -> None:
        """End it as a power cut would; returns when it is gone."""
        self.process.kill()
        await self.ended()

    async def ended(self) -> int:
        """Wait until it has ended; return its exit code."""
        async with asyncio.timeout(TIMEOUT_S):
            _, errors = await self.process.communicate()
        self.errors += errors
        assert self.process.returncode is not None
        return self.process.returncode


def command(*arguments: str) -> tuple[str, ...]:
    """The command line of a verb; warnings of ours would be errors."""
    return (sys.executable, "-m", "router", *arguments)


def environment() -> dict[str, str]:
    """This process's, so that the package is found, without anything that would configure a router."""
    return dict(os.environ) | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1"}


def write_config(directory: Path, *, drain_s: float = 0.0) -> Path:
    """Settings of a server whose ledger lies in `directory`."""
    path = directory / "router.toml"
    path.write_text(
        CONFIG.format(ledger=(directory / "ledger").as_posix(), drain_s=drain_s), encoding="utf-8"
    )
    return path


@asynccontextmanager
async def server_process(
    config: Path, *arguments: str, sandbox_url: str = "", **variables: str
) -> AsyncIterator[ServerProcess]:
    """Start a server and wait for its "serving on" line; killed at the end if it still runs.

    Args:
        sandbox_url: Where both providers are, as `sandbox_process` tells; "" for a sandbox within the server.
        variables: Added to its environment.
    """
    elsewhere = {
        "HYBRID_ROUTER__OPUS__BASE_URL": sandbox_url,
        "HYBRID_ROUTER__FLASH__BASE_URL": sandbox_url,
        "ANTHROPIC_API_KEY": "any",
        "GEMINI_API_KEY": "any",
    }
    where = () if sandbox_url else ("--sandbox",)
    process = await asyncio.create_subprocess_exec(
        *command("serve", *where, "--config", str(config), *arguments),
        stdout=PIPE,
        stderr=PIPE,
        cwd=config.parent,
        env=environment() | (elsewhere if sandbox_url else {}) | variables,
    )
    async with _killed_at_the_end(process):
        address = await _told(process, "serving on ")
        async with grpc.aio.insecure_channel(address) as channel:
            yield ServerProcess(process, address, channel, RouterServiceStub(channel))


@asynccontextmanager
async def sandbox_process(directory: Path) -> AsyncIterator[str]:
    """Both providers as a process of their own, which a router's death leaves alone; yields their address."""
    process = await asyncio.create_subprocess_exec(
        *command("sandbox", "--listen", "127.0.0.1:0"),
        stdout=PIPE,
        stderr=PIPE,
        cwd=directory,
        env=environment(),
    )
    async with _killed_at_the_end(process):
        yield await _told(process, "sandbox on ")


@asynccontextmanager
async def _killed_at_the_end(process: Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _told(process: Process, opening: str) -> str:
    """Read the line by which a process says where it listens; return what follows `opening`."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(START_TIMEOUT_S):
        line = (await process.stdout.readline()).decode()
        if not line.startswith(opening):
            raise AssertionError(f"not listening: {line!r} {(await process.stderr.read()).decode()}")
    return line.removeprefix(opening).strip()


async def verb(*arguments: str, cwd: Path, stdin: bytes = b"", **variables: str) -> tuple[int, str, str]:
    """Run a verb to its end; return exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=cwd, env=environment() | variables
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            output, errors = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()
