"""The callers in deploy/examples run by the commands of their README against a server process, and pay what they print.

Go and TypeScript download their dependencies, so they run only when asked to: HYBRID_ROUTER_TOOLCHAINS=1.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from router.client import AsyncClient
from tests.e2e.process import ServerProcess, server_process, write_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path("deploy") / "examples"
README = (ROOT / EXAMPLES / "README.md").read_text("utf-8")
ADDRESS = "127.0.0.1:50051"
TOOLCHAINS = "HYBRID_ROUTER_TOOLCHAINS"
BUF = "@bufbuild/buf@1.75.0"
RUN_TIMEOUT_S = 500
"""A machine that has nothing yet downloads two dozen modules and compiles gRPC for Go."""
SECRET = re.compile(r"(?i)key|token|secret|password")

REPORT = re.compile(
    r"(.+): route ROUTE_(FLASH|OPUS) \(DECISION_REASON_\w+\), cost (\d+) nano-USD, cache read (\d+) tokens"
)
TOOL_QUESTION = 'When does the lease end? [[sandbox tool=contract_end args={"name": "lease"}]]'


@dataclass(frozen=True, slots=True)
class Printed:
    """What an example printed.

    Attributes:
        steps: What was done, in order, as in "unary".
        cost_nano_usd: Sum of the costs.
    """

    lines: list[str]
    steps: list[str]
    cost_nano_usd: int


@pytest.fixture
def toolchains() -> None:
    """Skip unless the toolchains were asked for; a machine that has none says so, which is not a pass."""
    if os.environ.get(TOOLCHAINS) != "1":
        pytest.skip(f"needs a toolchain and downloads its dependencies; set {TOOLCHAINS}=1 to run it")


def needs(*programs: str) -> None:
    """Skip, naming what is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")


def commands(language: str) -> list[str]:
    """The commands of a section of the README, without the change of directory."""
    section = README.split(f"\n## {language}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    change, *rest = block.strip().splitlines()
    assert change == f"cd {(EXAMPLES / language.lower()).as_posix()}"
    assert rest
    return rest


def copied(name: str, target: Path) -> Path:
    """Copy an example and the protos as they lie in the repository, without what was built in place."""
    built = shutil.ignore_patterns("node_modules", "dist", "gen", "__pycache__")
    shutil.copytree(ROOT / "protos", target / "protos", ignore=built)
    return Path(shutil.copytree(ROOT / EXAMPLES / name, target / EXAMPLES / name, ignore=built))


def run(command: str, directory: Path, environ: Mapping[str, str]) -> str:
    """Run a line of shell; return what it printed, fail with what it complained of."""
    ran = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=directory,
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, f"{command}: exit code {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


async def example(language: str, directory: Path, server: ServerProcess, **variables: str) -> Printed:
    """Run all commands of a section against a server; return what the last one printed."""
    *before, last = commands(language)
    assert last.endswith(ADDRESS)
    environ = {name: value for name, value in os.environ.items() if not SECRET.search(name)} | variables
    for command in before:
        await asyncio.to_thread(run, command, directory, environ)
    output = await asyncio.to_thread(run, last.replace(ADDRESS, server.address), directory, environ)
    reports = [found for line in output.splitlines() if (found := REPORT.fullmatch(line))]
    return Printed(
        output.splitlines(), [found[1] for found in reports], sum(int(found[3]) for found in reports)
    )


async def assert_honest(printed: Printed, server: ServerProcess, steps: list[str]) -> None:
    """The steps came in order, the refusal named its field, and the ledger knows of exactly the costs printed."""
    assert printed.steps == steps
    assert re.search(r"(?im)^refused: Invalid_?Argument INVALID_REQUEST$", "\n".join(printed.lines))
    assert any(line.startswith("refused: prompt.max_output_tokens: is -1") for line in printed.lines)
    for step in ("unary", "stream"):
        texts = [
            line for line in printed.lines if line.startswith(f"{step}: ") and not REPORT.fullmatch(line)
        ]
        assert len("".join(texts)) > 20, f"{step} printed no answer"
    async with AsyncClient(server.address) as client:
        total = (await client.costs("total")).total
    assert total.call_count == len(steps)
    assert total.cost.total_nano_usd == printed.cost_nano_usd > 0


async def test_the_python_example(tmp_path: Path) -> None:
    """Unary, stream, a tool loop that runs its tool, three calls at once, and a refusal: all booked as printed."""
    directory = copied("python", tmp_path)
    async with server_process(write_config(tmp_path)) as server:
        (command,) = commands("Python")
        assert command == f"python main.py {ADDRESS}"
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "main.py", server.address, TOOL_QUESTION],
            cwd=directory,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        lines = ran.stdout.splitlines()
        reports = [found for line in lines if (found := REPORT.fullmatch(line))]
        steps = [found[1] for found in reports]
        rounds = steps.count("tool loop")
        assert rounds >= 2
        printed = Printed(lines, steps, sum(int(found[3]) for found in reports))
        await assert_honest(
            printed, server, ["unary", "second turn", "stream", *["tool loop"] * rounds, *["at once"] * 3]
        )
    assert any("contract_end" in line and "['2027-03-31']" in line for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(RUN_TIMEOUT_S * 2)
async def test_the_go_example(tmp_path: Path, toolchains: None) -> None:
    """The contract generates, compiles and runs in Go."""
    needs("go")
    directory = copied("go", tmp_path)
    path = os.environ["PATH"]
    if shutil.which("buf") is None:
        needs("npx")
        (tmp_path / "bin").mkdir()
        wrapper = tmp_path / "bin" / "buf"
        wrapper.write_text(f'#!/bin/sh\nexec npx --yes {BUF} "$@"\n', "utf-8")
        wrapper.chmod(0o755)
        path = f"{wrapper.parent}{os.pathsep}{path}"
    async with server_process(write_config(tmp_path)) as server:
        printed = await example("Go", directory, server, PATH=path)
        await assert_honest(printed, server, ["unary", "second turn", "stream"])


@pytest.mark.slow
@pytest.mark.timeout(RUN_TIMEOUT_S * 2)
async def test_the_typescript_example(tmp_path: Path, toolchains: None) -> None:
    """The contract generates, type-checks and runs in TypeScript."""
    needs("node", "npm")
    directory = copied("typescript", tmp_path)
    async with server_process(write_config(tmp_path)) as server:
        printed = await example("TypeScript", directory, server)
        await assert_honest(printed, server, ["unary", "second turn", "stream"])


def test_every_example_is_in_the_readme() -> None:
    """No example without commands, no commands without an example."""
    folders = {path.name for path in (ROOT / EXAMPLES).iterdir() if path.is_dir()}
    assert folders == {"python", "go", "typescript"}
    for language in ("Python", "Go", "TypeScript"):
        assert commands(language)[-1].endswith(ADDRESS)
