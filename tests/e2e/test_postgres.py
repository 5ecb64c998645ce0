"""Two routers as processes on one PostgreSQL database: one bill, and a kill of one is not the other's."""

import asyncio
from pathlib import Path

from router.clock import SystemClock
from router.ledger import Ledger, LedgerReader, Server
from tests.e2e.process import server_process, write_config
from tests.e2e.test_kill import _begin_held, _finished

SECRET = "n0t-to-be-shown"


async def test_two_routers_write_one_bill(tmp_path: Path, postgres_url: str) -> None:
    """Each settles its own; what the killed one held is its own to find again; no password in any output."""
    configs = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        configs.append(write_config(tmp_path / name))
    where = {"HYBRID_ROUTER__LEDGER__URL": postgres_url.replace("router@", f"router:{SECRET}@")}
    async with (
        asyncio.timeout(55),
        server_process(configs[0], **where) as one,
        server_process(configs[1], **where) as other,
    ):
        finished = await _finished(one, 6) | await _finished(other, 3)
        held, _ = await _begin_held(one, 3)
        await one.kill()
        finished |= await _finished(other, 3)
        other.process.terminate()
        await other.ended()
    for directory, interrupted in ((tmp_path / "fresh", 0), (tmp_path / "one" / "ledger", 3)):
        ledger = Ledger.open(directory, clock=SystemClock(), server=Server(postgres_url))
        assert ledger.recovery.interrupted == interrupted
        await ledger.close()
    with LedgerReader.open(Server(postgres_url)) as reader:
        settled = [each.intent.request_id for each in reader.settlements()]
        assert {each.intent.request_id for each in reader.interrupted()} == held
        assert reader.totals().calls == 12 + 3
    assert sorted(settled) == sorted(finished)
    assert SECRET.encode() not in one.errors + other.errors
