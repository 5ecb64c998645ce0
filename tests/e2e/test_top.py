"""`hybrid-router top` against a running router, and as a process that is left with Ctrl-C."""

import asyncio
import signal
from asyncio.subprocess import PIPE
from pathlib import Path

from router.cli.top import RouterSource
from router.ledger import Ledger
from tests.e2e.builders import FLASH, OPUS, generate, user
from tests.e2e.process import START_TIMEOUT_S, command, environment
from tests.e2e.service import WatchedClock, serving


async def test_a_router_is_watched_over_grpc() -> None:
    """Routes, applications and minutes are the ledger's; a second look sees what came since."""
    async with serving() as service:
        source = RouterSource(service.app.address, "", 5 * 60)
        await service.generate(generate(user("One"), route=OPUS))
        first = await asyncio.to_thread(source.frame, service.clock.now())
        service.clock.advance(60)
        await service.generate(generate(user("Two"), route=FLASH))
        second = await asyncio.to_thread(source.frame, service.clock.now())
        source.close()
        costs = [each.cost.total_nano_usd for each in await service.settlements() if each.cost]
    assert [share.name for share in first.routes] == ["opus"]
    assert {share.name: share.cost_nano_usd for share in second.routes} == {
        "opus": costs[0],
        "flash": costs[1],
    }
    assert [minute.cost_nano_usd for minute in second.minutes][-2:] == costs
    assert sum(share.calls for share in second.applications) == 2
    assert (second.errors, second.in_flight) == (None, None)
    assert second.warm_prefixes is not None


async def test_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    """Frames come until SIGINT; then exit code 0 and no traceback."""
    await Ledger.open(tmp_path / "ledger", clock=WatchedClock(0.0)).close()
    process = await asyncio.create_subprocess_exec(
        *command("top", "--ledger", "ledger", "--interval", "0.2"),
        stdout=PIPE,
        stderr=PIPE,
        cwd=tmp_path,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            assert process.stdout is not None
            seen = 0
            while seen < 2:
                seen += b"hybrid-router top" in await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert (process.returncode, errors) == (0, b"")
