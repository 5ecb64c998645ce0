"""AUTO's use of a free slot, and prefixes too short to be entries."""

from cache.auto import CONTEXT_CHANGES
from cache.forecast import Forecast
from cache.prefix import prefix_digests
from cache.prompt import BlockKind, Layer, Prompt, PromptParameters

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


def loop(block, step, context):
    """A question, the context behind it, and `step` calls with their results."""
    layer = Layer.HISTORY if step else Layer.TURN
    blocks = [
        block(Layer.SYSTEM, "system", 2000),
        block(layer, "question", 500),
        block(layer, context, 300, role="system"),
    ]
    for number in range(1, step + 1):
        layer = Layer.TURN if number == step else Layer.HISTORY
        blocks.append(block(Layer.HISTORY, f"call {number}", 50, kind=BlockKind.TOOL_CALL, role="assistant"))
        blocks.append(block(layer, f"result {number}", 900, kind=BlockKind.TOOL_RESULT))
    return Prompt(tuple(blocks), PromptParameters(), 2, 2)


def written(driver, block, contexts):
    """Tokens each step of a loop wrote, and what was said of those that left the loop's end alone."""
    tokens, told = [], []
    for step, context in enumerate(contexts):
        planned, usage, _ = driver.call(
            loop(block, step, context), 20 * step, forecasts=(*SHARED, *(SOON,) * 3)
        )
        tokens.append(usage.write_5m + usage.write_1h)
        told.append(CONTEXT_CHANGES in [skipped.reason for skipped in planned.skipped])
    return tokens, told


def test_a_loop_whose_context_changes_is_not_rewritten_at_every_step(driver, block):
    """Nothing behind the context is warm though what stands before it is: it is tried again at steps 1, 2, 4 and 8."""
    tokens, told = written(driver, block, [f"at {step}" for step in range(10)])
    assert [step for step in range(10) if told[step]] == [3, 5, 6, 7, 9]
    assert [tokens[step] for step in (3, 5, 6, 7, 9)] == [0] * 5
    assert [tokens[step] for step in (1, 2, 4, 8)] == [300 + 950 * step for step in (1, 2, 4, 8)]


def test_a_loop_whose_context_stays_is_written_at_every_step(driver, block):
    """Each step adds its call and its result."""
    tokens, told = written(driver, block, ["noon"] * 6)
    assert not any(told)
    assert tokens[2:] == [950] * 4


def test_a_loop_that_lapsed_is_cached_again_at_the_next_doubling(driver, block):
    """A steady context whose loop was lost looks the same; step 4 writes it, and step 5 reads it."""
    forecasts = (*SHARED, *(SOON,) * 3)
    for step in range(3):
        driver.call(loop(block, step, "noon"), 20 * step, forecasts=forecasts)
    lost = [names for names in driver.provider.entries if len(names) > 2]
    for names in lost:
        del driver.provider.entries[names]
    reads = [
        driver.call(loop(block, step, "noon"), 20 * step, forecasts=forecasts)[1].read for step in range(3, 7)
    ]
    assert reads[-1] >= 2500 + 300 + 950 * 4
