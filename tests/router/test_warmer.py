"""The warmer's queue: what came to nothing while it waited is not sent, and who is told of it cannot end the task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import pytest

from cache.pace import Pace
from cache.schedule import Prefix, Trigger, WarmOrder
from classifier.route import Route
from router.flights import LoopTimer
from router.settlement import Purpose
from router.warmer import Job, Sent, Warmer, WarmerParts
from tests.router.rig import Rig, asked, rigged, said

LONG = "word " * 3_000
ORDER = WarmOrder(Prefix(b"k", 3_000, 3_000, 300, False), Trigger.IDLE, 0.0, 0.01, 0.02, "")


def job(**fields: object) -> Job:
    """An order that is never late."""
    request = asked(said(LONG), route=Route.OPUS, session="s")
    return Job(**({"order": ORDER, "owner": ("acme", "desk"), "request": request, "latest_s": inf} | fields))


@asynccontextmanager
async def warmer() -> AsyncIterator[tuple[Rig, Warmer]]:
    """A warmer on the sandbox for which nothing is due by itself."""
    async with rigged() as rig:
        parts = WarmerParts(
            preparation=rig.preparation,
            settler=rig.settler,
            telemetry=rig.settler.telemetry,
            timer=LoopTimer(),
            pace=Pace(usd_per_hour=1e6, requests_per_minute=1e6),
        )
        yield rig, Warmer(parts, lambda _: None, lambda: None)


async def carried_out(warmer: Warmer, *jobs: Job) -> list[Sent]:
    """What became of the orders, and of one behind them."""
    told: list[Sent] = []
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(warmer.run())
        for each in jobs:
            assert warmer.put(each)
        last = asyncio.get_running_loop().create_future()
        assert warmer.put(job(latest_s=0.0, sent=last.set_result))
        told.append(await last)
        task.cancel()
    return told


@pytest.mark.fault_expected
async def test_who_is_told_cannot_end_the_task(caplog: pytest.LogCaptureFixture) -> None:
    """A fault there is logged, and the order behind it is looked at as ever."""

    def told(sent: Sent) -> None:
        raise RuntimeError(sent.why)

    async with warmer() as (_, warms):
        (last,) = await carried_out(warms, job(latest_s=0.0, sent=told))
    assert last.result == "late"
    assert "was not noted" in caplog.text


async def test_what_nobody_wants_any_more_is_not_sent() -> None:
    """It is asked for when it is its turn, not when it is queued."""
    came: list[Sent] = []
    async with warmer() as (rig, warms):
        await carried_out(warms, job(wanted=lambda: False, sent=came.append))
        settled = [each for each in await rig.settlements() if each.intent.purpose is Purpose.WARM]
    assert [sent.result for sent in came] == ["overtaken"]
    assert settled == []


async def test_what_waits_for_a_session_is_taken_back_with_it() -> None:
    """Of that session of that tenant alone; requests of no session are nobody's to take back."""
    came: list[Sent] = []
    async with warmer() as (_, warms):
        named = job().request.call.identity
        assert warms.put(job(sent=came.append))
        warms.withdraw("another tenant", named.session)
        warms.withdraw(named.tenant, "")
        assert came == []
        warms.withdraw(named.tenant, named.session)
        assert [sent.result for sent in came] == ["overtaken"]
        await carried_out(warms)
    assert len(came) == 1
