"""A bound on a block: what ran out of time says so, what somebody else cancelled stays cancelled."""

import asyncio

import pytest

from router.upstreams.limit import time_limit

FOREVER_S = 3600.0


async def test_a_block_that_is_over_in_time_is_left_alone() -> None:
    """The timer goes with the block: nothing is cancelled after it."""
    with time_limit(0.0):
        pass
    await asyncio.wait_for(_turns(3), FOREVER_S)


async def test_a_block_out_of_time_ends_with_a_timeout_and_the_task_goes_on() -> None:
    """The cancellation it was ended by is taken back, so that later waits are not cancelled."""
    with pytest.raises(TimeoutError) as caught, time_limit(0.0):
        await asyncio.get_running_loop().create_future()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await _turns(3)


async def test_a_cancelled_block_stays_cancelled() -> None:
    """The caller's leaving is no timeout."""
    begun = asyncio.Event()

    async def bounded() -> None:
        with time_limit(FOREVER_S):
            begun.set()
            await asyncio.get_running_loop().create_future()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(bounded())
        await begun.wait()
        task.cancel()
    assert task.cancelled()


async def test_a_block_cancelled_and_out_of_time_is_cancelled() -> None:
    """Whoever cancels wants the task gone, whatever the time says."""

    async def bounded() -> None:
        task = asyncio.current_task()
        assert task is not None
        with time_limit(0.0):
            task.cancel()
            limit_is_due = asyncio.get_running_loop().create_future()
            try:
                await limit_is_due
            except asyncio.CancelledError:
                await _turns(3)  # the limit's own cancellation arrives here
                raise

    async with asyncio.TaskGroup() as group:
        task = group.create_task(bounded())
    assert task.cancelled()


async def test_an_error_of_the_block_is_not_hidden() -> None:
    """Only a cancellation becomes a timeout."""
    with pytest.raises(ZeroDivisionError), time_limit(FOREVER_S):
        raise ZeroDivisionError


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
