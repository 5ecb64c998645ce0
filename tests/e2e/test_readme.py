"""The README's first example is run as it stands, against the server its own commands start."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.process import server_process, write_config

ROOT = Path(__file__).resolve().parent.parent.parent


async def test_the_first_example_prints_route_answer_and_cost(tmp_path: Path) -> None:
    """A reader who copies the example sees a decision, an answer and a cost, and no error."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    settings = (ROOT / "deploy" / "router.toml").read_text("utf-8")
    application = settings[settings.index("[applications.support]") :]
    config = write_config(tmp_path)
    config.write_text(config.read_text("utf-8").split("[applications")[0] + application, "utf-8")
    async with server_process(config) as server:
        script = tmp_path / "example.py"
        script.write_text(example.replace("127.0.0.1:50051", server.address), "utf-8")
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )
    assert ran.returncode == 0, ran.stderr
    decision, *answer, cost = ran.stdout.strip().splitlines()
    assert re.fullmatch(r"[12] \d+ 0\.\d+", decision)
    assert "".join(answer).strip()
    assert re.fullmatch(r"[1-9]\d* \d+", cost)
