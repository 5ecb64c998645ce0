"""Processes under test: started on one core, watched from outside, ended in order.

The rule: what is measured is a process of its own, and its CPU time is the operating system's account of it, threads
included. Children are pinned once they are ready, thread by thread, so that their imports may use every core; where
the system knows no affinity, or has one core only, nothing is pinned and the result says so.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
_FOREIGN = ("HYBRID_ROUTER__", "OTEL_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "HTTP_PROXY", "HTTPS_PROXY")
"""Variables of the caller's environment that would change what is measured."""


class BenchmarkError(Exception):
    """Something answered wrongly, so there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves and which one loads; None where processes cannot be pinned."""

    server: int | None
    load: int | None

    @property
    def pinned(self) -> bool:
        """Whether server and load are kept apart."""
        return self.server is not None


def choose_cores() -> Cores:
    """The first two cores this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1]) if len(allowed) > 1 else Cores(None, None)


def pin(pid: int, core: int | None) -> None:
    """Keep every thread of a process on `core`; threads it starts later inherit that. None does nothing."""
    if core is None:
        return
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):  # it may have ended since
            os.sched_setaffinity(int(thread), {core})


@dataclass(frozen=True, slots=True)
class Running:
    """A child that said it was ready."""

    process: Process
    ready: str
    by_signal: bool = False

    @property
    def address(self) -> str:
        """host:port, from a line that ends in either "host:port" or "port"."""
        word = self.ready.split()[-1]
        return word if ":" in word else f"127.0.0.1:{word}"

    def cpu_s(self) -> float:
        """User and system CPU seconds since it started, all threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    async def end(self) -> str:
        """End it now; return what it still said."""
        return await end(self.process, by_signal=self.by_signal)

    async def ask(self, line: str) -> str:
        """Write one line, return the next one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()
        answer = await asyncio.wait_for(self.process.stdout.readline(), START_TIMEOUT_S)
        if not answer:
            raise BenchmarkError(f"{self.process.pid} ended; its errors are above")
        return answer.decode()


@asynccontextmanager
async def running(
    command: Sequence[str],
    core: int | None,
    environ: Mapping[str, str] | None = None,
    *,
    by_signal: bool = False,
) -> AsyncIterator[Running]:
    """Run a Python module until the block is left; its first line of output says that it is ready.

    Args:
        by_signal: It ends on SIGTERM; otherwise when its standard input ends.

    Raises:
        BenchmarkError: It did not get ready, or did not end in time.
    """
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(_FOREIGN)}
    env |= {"PYTHONPATH": str(ROOT), **(environ or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdin=PIPE, stdout=PIPE, env=env, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        first = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
        if not first:
            raise BenchmarkError(f"`{' '.join(command)}` did not start; its errors are above")
        pin(process.pid, core)
        yield Running(process, first.decode().strip(), by_signal)
    finally:
        await end(process, by_signal=by_signal)


async def entered(
    stack: AsyncExitStack, contexts: Iterable[AbstractAsyncContextManager[Running]]
) -> list[Running]:
    """Start several at once, because importing an SDK takes seconds; they end with `stack`."""
    async with asyncio.TaskGroup() as starts:
        tasks = [starts.create_task(stack.enter_async_context(context)) for context in contexts]
    return [task.result() for task in tasks]


async def end(process: Process, *, by_signal: bool) -> str:
    """Ask the process to end and wait for it; return what it still said, "" when it had ended before."""
    if process.returncode is not None:
        return ""
    assert process.stdin is not None
    assert process.stdout is not None
    if by_signal:
        process.terminate()
    process.stdin.close()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            said = await process.stdout.read()
            await process.wait()
            return said.decode()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BenchmarkError(f"process {process.pid} did not end within {END_TIMEOUT_S:g} s") from None
