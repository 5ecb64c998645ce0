"""The sharing matrix: who reads what whom wrote, judged by a provider that knows nothing of the planner."""

import pytest

from cache.plan import Strategy
from cache.prompt import Layer


def states(prompt, usage):
    """READ, WRITE, PART or "-" per layer: what the bill says became of its tokens."""
    written_to = usage.read + usage.write_5m + usage.write_1h
    found, start = {}, 0
    for layer, blocks in prompt.layers():
        end = start + sum(b.token_count for b in blocks)
        if end <= usage.read:
            found[layer] = "READ"
        elif usage.read > start:
            found[layer] = "PART"
        elif start < written_to and end <= written_to:
            found[layer] = "WRITE"
        else:
            found[layer] = "-"
        start = end
    return [found.get(layer, "-") for layer in (Layer.SYSTEM, Layer.TOOLS, Layer.CONTEXT, Layer.HISTORY)]


def matrix(driver, saas, strategy):
    """Rows of the document's matrix, in its order, all within one provider's life."""
    steps = [
        ("new user, first message", saas("ann", 1), 0),
        ("same user, second message", saas("ann", 2), 60),
        ("same user, third message", saas("ann", 3), 120),
        ("different user, first message", saas("bob", 1), 150),
        ("after 5 min idle, any user", saas("cem", 1), 150 + 300),
    ]
    rows = {}
    for name, prompt, now in steps:
        planned, usage, _ = driver.call(prompt, now, strategy)
        rows[name] = states(prompt, usage)
        assert planned.total_tokens == planned.expected.total
    return rows


@pytest.mark.parametrize("strategy", [Strategy.A, Strategy.B])
def test_shared_and_user_layers_are_shared_as_the_matrix_says(driver, saas, strategy):
    """Tools and system are read by everyone, a context by its own user; history never, it carries no
    breakpoint.
    """
    assert matrix(driver, saas, strategy) == {
        "new user, first message": ["WRITE", "WRITE", "WRITE", "-"],
        "same user, second message": ["READ", "READ", "READ", "-"],
        "same user, third message": ["READ", "READ", "READ", "-"],
        "different user, first message": ["READ", "READ", "WRITE", "-"],
        "after 5 min idle, any user": ["WRITE", "WRITE", "WRITE", "-"],
    }


def test_option_c_reads_history_from_the_third_message_on(driver, saas):
    """The matrix' history column: nothing to read at the second message (it writes turn 1), turn 1 read at
    the third.

    The document prints "READ (turns 1-2)" there; turn 2 ended after the second request and is written by the
    third.
    """
    assert matrix(driver, saas, Strategy.C) == {
        "new user, first message": ["WRITE", "WRITE", "WRITE", "-"],
        "same user, second message": ["READ", "READ", "READ", "WRITE"],
        "same user, third message": ["READ", "READ", "READ", "PART"],
        "different user, first message": ["READ", "READ", "WRITE", "-"],
        "after 5 min idle, any user": ["WRITE", "WRITE", "WRITE", "-"],
    }


def test_the_plan_expects_what_the_provider_bills(driver, saas):
    """Belief is honest: up to its stated doubt, the expected read is the billed read, row by row."""
    for turns, now in ((1, 0), (2, 60), (3, 120), (4, 500)):
        planned, usage, _ = driver.call(saas("ann", turns), now, Strategy.C)
        assert planned.full_read_tokens == usage.read


def test_ttl_counts_from_the_start_of_the_request(driver, saas):
    """A slow answer does not prolong the entry: written at 0 with the first byte at 40, it is gone at 300."""
    driver.provider.first_byte_s = 40.0
    driver.call(saas("ann", 1), 0, Strategy.A)
    early, usage, _ = driver.call(saas("ann", 2), 299.0, Strategy.A)
    assert early.full_read_tokens == usage.read == 2500
    late, usage, _ = driver.call(saas("ann", 3), 299.0 + 300.0, Strategy.A)
    assert late.expected_read_tokens == usage.read == 0


def test_an_entry_can_not_be_read_before_the_writers_first_byte(driver, saas):
    """A request beside the writer pays the write again, and the plan says so."""
    driver.provider.first_byte_s = 5.0
    driver.call(saas("ann", 1), 0, Strategy.A)
    planned, usage, _ = driver.call(saas("ann", 1), 4.9, Strategy.A)
    assert planned.expected_read_tokens == usage.read == 0
    planned, usage, _ = driver.call(saas("ann", 1), 10.0, Strategy.A)
    assert planned.full_read_tokens == usage.read == 2500


@pytest.mark.parametrize("strategy", [Strategy.A, Strategy.B])
def test_options_a_and_b_save_nothing_on_a_4096_floor(driver_for, saas, strategy):
    """On Opus 4.5 the document's 2,000 and 2,500 token marks are below the minimum: dropped, and said so."""
    driver = driver_for("claude-opus-4-5", read=0.1)
    for turns, now in ((1, 0), (2, 30), (6, 60)):
        planned, usage, _ = driver.call(saas("ann", turns), now, strategy)
        assert planned.breakpoints == ()
        assert usage.read == usage.write_5m == 0
    reasons = {skipped.layer: skipped.reason for skipped in planned.skipped}
    assert reasons[Layer.SYSTEM] == "below minimum 4,096: 2,000 tokens"
    assert reasons[Layer.CONTEXT] == "below minimum 4,096: 2,500 tokens"


def test_option_c_starts_to_cache_on_a_4096_floor_once_history_passes_it(driver_for, saas):
    """2,500 + 1,300 per turn: the third request's history mark stands at 5,100, the first one that counts."""
    driver = driver_for("claude-opus-4-5", read=0.1)
    bills = [driver.call(saas("ann", turns), turns * 30, Strategy.C)[1] for turns in (1, 2, 3, 4)]
    assert [usage.write_5m for usage in bills] == [0, 0, 5100, 1300]
    assert [usage.read for usage in bills] == [0, 0, 0, 5100]


def test_a_tools_edit_kills_everything_and_a_system_edit_keeps_the_tools(driver, saas, block):
    """The provider's order is tools, system, messages; with a tools mark of 600 tokens a system edit still
    reads them.
    """
    from cache.prompt import Prompt

    def prompt(tools, system):
        return Prompt(
            (
                block(Layer.TOOLS, tools, 600),
                block(Layer.SYSTEM, system, 1500),
                block(Layer.TURN, "question", 500),
            )
        )

    driver.call(prompt("tools 1", "system 1"), 0, Strategy.A)
    planned, usage, _ = driver.call(prompt("tools 1", "system 2"), 10, Strategy.A)
    assert planned.full_read_tokens == usage.read == 600
    planned, usage, _ = driver.call(prompt("tools 2", "system 2"), 20, Strategy.A)
    assert planned.full_read_tokens == usage.read == 0
