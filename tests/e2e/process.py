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
    """A running `hybrid-router serve --sandbox`.

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
async def server_process(config: Path, *arguments: str, **variables: str) -> AsyncIterator[ServerProcess]:
    """Start a server on the sandbox and wait for its "serving on" line; killed at the end if it still runs.

    Args:
        variables: Added to its environment.
    """
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--sandbox", "--config", str(config), *arguments),
        stdout=PIPE,
        stderr=PIPE,
        cwd=config.parent,
        env=environment() | variables,
    )
    try:
        address = await _address(process)
        async with grpc.aio.insecure_channel(address) as channel:
            yield ServerProcess(process, address, channel, RouterServiceStub(channel))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _address(process: Process) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(START_TIMEOUT_S):
        line = (await process.stdout.readline()).decode()
        if not line.startswith("serving on "):
            raise AssertionError(f"not serving: {line!r} {(await process.stderr.read()).decode()}")
    return line.removeprefix("serving on ").strip()


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
