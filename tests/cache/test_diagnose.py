"""Causes of a miss: each named when proved, UNKNOWN otherwise, nothing when nothing was missed."""

from dataclasses import replace

import pytest

from cache.diagnose import MissCause, Previous, diagnose
from cache.forecast import Forecast
from cache.plan import Strategy
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters

SOON = (Forecast(0.9, 0.91),) * 5


def sent(driver, prompt, now, strategy=Strategy.C, first_byte_at=None, **kwargs):
    """Send a prompt and keep what a session keeps of it."""
    planned, usage, _ = driver.call(prompt, now, strategy, **kwargs)
    counts = driver.estimator.cumulative_tokens(prompt, driver.rules.model)
    first = now + 1 if first_byte_at is None else first_byte_at
    return Previous(prefix_digests(prompt), counts, planned, now, first), usage


def cause_of(driver, prompt, now, previous, strategy=Strategy.C, **kwargs):
    planned, usage, _ = driver.call(prompt, now, strategy, **kwargs)
    return diagnose(
        prompt,
        prefix_digests(prompt),
        planned,
        previous,
        started=now,
        read_tokens=usage.read,
        written_tokens=usage.write_5m + usage.write_1h,
        rules=driver.rules,
    )


def test_nothing_is_missed_while_a_session_goes_on(driver, saas):
    """First turn, second and third: no shortfall to explain."""
    assert cause_of(driver, saas(), 0, None) is None
    previous, _ = sent(driver, saas(turns=2), 30)
    assert cause_of(driver, saas(turns=3), 60, previous) is None


def test_a_lapsed_ttl(driver, saas):
    """Five minutes and a second after the previous start; the previous mark's tokens are missed."""
    previous, _ = sent(driver, saas(turns=2), 0)
    found = cause_of(driver, saas(turns=3), 301, previous)
    assert (found.cause, found.layer, found.missed_tokens) == (MissCause.TTL_LAPSED, Layer.HISTORY, 3800)


@pytest.mark.parametrize(
    ("layer", "missed"),
    [(Layer.TOOLS, 3800), (Layer.SYSTEM, 3800), (Layer.CONTEXT, 1800), (Layer.HISTORY, 1300)],
)
def test_a_changed_layer_is_named(driver, saas, layer, missed):
    """The first layer that differs, and what it cost beyond what could still be read."""
    previous, _ = sent(driver, saas(turns=2), 0)
    position = saas(turns=2).ends[layer]
    blocks = list(saas(turns=3).blocks)
    blocks[position] = replace(blocks[position], content=b"edited")
    found = cause_of(driver, Prompt(tuple(blocks)), 30, previous)
    assert (found.cause, found.layer, found.missed_tokens) == (MissCause.CHANGED, layer, missed)


def test_a_changed_parameter_shows_as_the_level_it_enters(driver, saas):
    """Another tool choice: the first message block's prefix is a different one."""
    previous, _ = sent(driver, saas(turns=2), 0)
    prompt = replace(saas(turns=3), parameters=PromptParameters(messages="tool_choice=none"))
    # The reference provider hashes blocks only, so its bill is given here.
    planned = driver.plan(prompt, 30, Strategy.C)
    found = diagnose(
        prompt,
        prefix_digests(prompt),
        planned,
        previous,
        started=30,
        read_tokens=2000,
        written_tokens=2600,
        rules=driver.rules,
    )
    assert (found.cause, found.layer) == (MissCause.CHANGED, Layer.CONTEXT)


def test_an_eviction(driver, saas):
    """Alive by the clock, marked and in reach, yet not there."""
    previous, _ = sent(driver, saas(turns=2), 0)
    driver.provider.entries.clear()
    found = cause_of(driver, saas(turns=3), 30, previous)
    assert (found.cause, found.missed_tokens) == (MissCause.EVICTED, 3800)


def test_an_eviction_without_a_previous_request(driver, saas):
    """Another user's first request: only the belief in the shared layers can have failed."""
    driver.call(saas("ann"), 0, Strategy.B)
    driver.provider.entries.clear()
    found = cause_of(driver, saas("bob"), 30, None, Strategy.B)
    assert (found.cause, found.layer, found.missed_tokens) == (MissCause.EVICTED, Layer.SYSTEM, 2000)


def test_no_breakpoints_now(driver, saas):
    """The entry lives, but this request carried no mark that looks for it."""
    previous, _ = sent(driver, saas(turns=2), 0)
    found = cause_of(driver, saas(turns=3), 30, previous, Strategy.NONE)
    assert found.cause is MissCause.NOT_PLANNED


def test_no_breakpoints_before(driver, saas):
    """Nothing was written, though the shared prefix was long enough."""
    previous, _ = sent(driver, saas(turns=2), 0, Strategy.NONE)
    found = cause_of(driver, saas(turns=3), 30, previous)
    assert (found.cause, found.missed_tokens) == (MissCause.NOT_PLANNED, 4300)


def test_below_the_minimum(driver_for, saas):
    """On a 4,096 floor the second message shares 3,000 tokens: too short to have been written."""
    driver = driver_for("claude-opus-4-5", read=0.1)
    previous, _ = sent(driver, saas(turns=1), 0, Strategy.A)
    found = cause_of(driver, saas(turns=2), 30, previous, Strategy.A)
    assert found.cause is MissCause.BELOW_MINIMUM


def test_out_of_the_lookback(driver):
    """Thirty calls with text between them stand between the entry and the only mark past it."""
    system = Block(Layer.SYSTEM, BlockKind.TEXT, b"system", "", True, 2000)
    question = Block(Layer.HISTORY, BlockKind.TEXT, b"question", "user", True, 500)
    previous, _ = sent(
        driver, Prompt((system, replace(question, layer=Layer.TURN))), 0, Strategy.AUTO, forecasts=SOON
    )
    work = tuple(
        Block(Layer.HISTORY, BlockKind.TEXT, b"step %d" % step, "assistant", True, 20) for step in range(60)
    )
    turn = Block(Layer.TURN, BlockKind.TEXT, b"next", "user", True, 50)
    found = cause_of(driver, Prompt((system, question, *work, turn)), 30, previous, Strategy.C)
    assert (found.cause, found.missed_tokens) == (MissCause.LOOKBACK, 500)


@pytest.mark.parametrize("first_byte_at", [None, 40.0])
def test_a_writer_nobody_saw_answer_leaves_the_cause_unknown(driver, saas, first_byte_at):
    """It may not have written, or not yet: neither is proved."""
    previous, _ = sent(driver, saas(turns=2), 0)
    driver.provider.entries.clear()
    previous = replace(previous, first_byte_at=first_byte_at)
    found = cause_of(driver, saas(turns=3), 30, previous)
    assert found.cause is MissCause.UNKNOWN


def test_implicit_caching_owes_no_explanation(driver_for, saas):
    """Nothing was asked for and nothing promised."""
    driver = driver_for("gemini-3.8-flash", read=0.1)
    planned = driver.plan(saas(), 0)
    digests = prefix_digests(saas())
    found = diagnose(
        saas(), digests, planned, None, started=0, read_tokens=0, written_tokens=0, rules=driver.rules
    )
    assert found is None
