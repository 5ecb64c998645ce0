"""The virtual clock."""

import asyncio

import pytest

from router.sandbox import VirtualClock


async def test_sleepers_wake_in_the_order_of_their_instants():
    """However they were queued, the earlier instant runs first."""
    clock, woken = VirtualClock(0.0), []

    async def sleeper(seconds):
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (3.0, 1.0, 2.0):
            group.create_task(sleeper(seconds))
        await asyncio.sleep(0)
        clock.advance(2.5)
        await asyncio.sleep(0)
        assert woken == [1.0, 2.0]
        clock.advance(0.5)


async def test_travel_lets_chained_sleeps_see_their_own_instants():
    """A coroutine that sleeps twice wakes at both instants, not at the end of the journey."""
    clock, seen = VirtualClock(100.0), []

    async def twice():
        for _ in range(2):
            await clock.sleep(10)
            seen.append(clock.now())

    async with asyncio.TaskGroup() as group:
        group.create_task(twice())
        await clock.travel(60)
    assert seen == [110.0, 120.0]
    assert clock.now() == 160.0


async def test_cancelled_sleeper_does_not_hold_the_clock():
    """A sleeper that gave up is skipped."""
    clock = VirtualClock(0.0)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(5))
        await asyncio.sleep(0)
        assert clock.sleepers == 1
        task.cancel()
    clock.advance(10)
    assert (clock.now(), clock.sleepers) == (10.0, 0)


def test_time_never_goes_back():
    """Negative steps are refused."""
    with pytest.raises(ValueError, match="forward"):
        VirtualClock(0.0).advance(-1)


async def test_a_running_clock_goes_from_sleeper_to_sleeper():
    """An hour passes at once, in order, and stops where nobody waits."""
    clock, woken = VirtualClock(0.0), []

    async def sleeper(*spans):
        for span in spans:
            await clock.sleep(span)
            woken.append(clock.now())

    async with asyncio.TaskGroup() as group:
        running = group.create_task(clock.run())
        async with asyncio.TaskGroup() as sleepers:
            sleepers.create_task(sleeper(10.0, 3600.0))
            sleepers.create_task(sleeper(300.0))
        running.cancel()
    assert woken == [10.0, 300.0, 3610.0]
    assert clock.now() == 3610.0
