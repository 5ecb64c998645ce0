"""AUTO's use of a free slot, and prefixes too short to be entries."""

from cache.forecast import Forecast
from cache.prefix import prefix_digests
from cache.prompt import Layer, Prompt

SHARED = (Forecast(0.8, 0.95),) * 2
SOON = Forecast(0.9, 0.91)
SELDOM = Forecast(0.1, 0.12)


def agent_turn(block, reminder, extra=()):
    """System, a task, results, and a reminder at the end that the next request replaces."""
    return Prompt(
        (
            block(Layer.SYSTEM, "system", 2000),
            block(Layer.TURN, "task and results", 8000),
            *extra,
            block(Layer.TURN, reminder, 50),
        )
    )


def test_a_replaced_last_block_costs_only_itself(driver, block):
    """The fallback before it is read, where the last mark's entry is lost."""
    forecasts = (*SHARED, *(SOON,) * 3)
    planned, usage, _ = driver.call(agent_turn(block, "first reminder"), 0, forecasts=forecasts)
    assert [point.prefix_tokens for point in planned.breakpoints] == [2000, 10_000, 10_050]
    _, usage, _ = driver.call(agent_turn(block, "second reminder"), 30, forecasts=forecasts)
    assert usage.read == 10_000


def test_the_fallback_is_free(driver, block):
    """It adds nothing to the bill of the request that sets it."""
    planned, usage, _ = driver.call(agent_turn(block, "reminder"), 0, forecasts=(*SHARED, *(SOON,) * 3))
    assert usage.write_5m + usage.write_1h == planned.total_tokens


def test_no_fallback_on_what_is_warm_or_not_written(driver, block):
    """A mark that could hold nothing new, or a turn that is not worth a write, takes no slot."""
    prompt = agent_turn(block, "reminder")
    driver.call(prompt, 0, forecasts=(*SHARED, *(SOON,) * 3))
    assert len(driver.plan(prompt, 30, forecasts=(*SHARED, *(SOON,) * 3)).breakpoints) == 2
    planned = driver.plan(agent_turn(block, "x"), 9000, forecasts=(*SHARED, *(SELDOM,) * 3))
    assert [point.layer for point in planned.breakpoints] == [Layer.SYSTEM]


def test_a_short_shared_prefix_does_not_pay_for_a_one_off(driver, block):
    """400 shared tokens are no entry of their own (minimum 512): that everyone sends them saves nothing unless this
    very prompt comes back.
    """
    prompt = Prompt((block(Layer.SYSTEM, "system", 400), block(Layer.TURN, "question", 500)))
    planned = driver.plan(prompt, 0, forecasts=((Forecast(1.0, 1.0),) * 2 + (SELDOM,) * 3))
    assert planned.breakpoints == ()
    planned = driver.plan(prompt, 0, forecasts=((Forecast(1.0, 1.0),) * 2 + (SOON,) * 3))
    assert planned.breakpoints[-1].digest == prefix_digests(prompt)[-1]


def test_a_turn_that_pauses_is_written_for_an_hour_at_the_hours_break_even(driver, saas):
    """Of the first longer gaps, the share that ends within the hour against (w1-w5)/(w1-r) = 0.385."""
    for later, ttl_s in ((0.37, 300), (0.40, 3600)):
        turn = Forecast(0.9, 0.9 + 0.1 * later)
        planned = driver.plan(saas(context=0), 0, forecasts=(*SHARED, turn, turn, turn))
        assert planned.breakpoints[-1].ttl_s == ttl_s
