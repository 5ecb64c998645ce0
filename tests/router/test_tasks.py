"""Work that outlives its request: owned, awaited at the end, cut off in time, and never lost silently."""

import asyncio
import logging

import pytest

from router.tasks import Tasks


async def test_drain_waits_for_what_runs():
    """Work in progress is finished before the owner goes."""
    done, go = [], asyncio.Event()

    async def work():
        await go.wait()
        done.append(1)

    async with Tasks() as tasks:
        tasks.start(work(), "work")
        asyncio.get_running_loop().call_soon(go.set)
        assert await tasks.drain(5.0) == 0
        assert done == [1]


async def test_drain_with_nothing_to_wait_for_returns_at_once():
    """An idle service ends without delay."""
    async with Tasks() as tasks:
        assert await tasks.drain(0.0) == 0


async def test_late_work_is_cancelled_and_its_finally_runs():
    """What does not end in time is cancelled, counted, and still gets to book what it knows."""
    booked = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            booked.append("estimate")

    async with Tasks() as tasks:
        tasks.start(work(), "stuck")
        assert await tasks.drain(0.01) == 1
    assert booked == ["estimate"]


@pytest.mark.fault_expected
@pytest.mark.fault_expected
async def test_a_failure_is_logged_and_does_not_end_the_others(caplog: pytest.LogCaptureFixture):
    """One piece of work that fails is heard of and harms nobody."""
    done = []

    async def fails():
        raise ValueError("broken")

    async def works():
        done.append(1)

    with caplog.at_level(logging.ERROR):
        async with Tasks() as tasks:
            tasks.start(fails(), "bad work")
            tasks.start(works(), "good work")
            await tasks.drain(5.0)
    assert done == [1]
    (record,) = caplog.records
    assert "bad work" in record.getMessage()


async def _failing_owner(work):
    async with Tasks() as tasks:
        tasks.start(work, "work")
        raise KeyError("owner")


async def test_the_owners_error_is_not_wrapped_and_ends_what_runs():
    """An error inside the block comes out as itself, not as a group, and leaves no task behind."""
    with pytest.raises(KeyError):
        await _failing_owner(asyncio.Event().wait())
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_just_started_still_books_when_the_owner_fails():
    """Cut off in the very step it was started in: its `finally` runs all the same."""
    booked = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            booked.append("estimate")

    with pytest.raises(KeyError):
        await _failing_owner(work())
    assert booked == ["estimate"]
