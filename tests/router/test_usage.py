"""Usage: inclusive counts that cannot contradict themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.usage import Usage

COUNTS = st.integers(0, 10**6)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_parts_of_the_input_add_up_to_it(uncached, read, write_5m, write_1h):
    """Uncached input is what the cache counts leave of the inclusive total."""
    usage = Usage(
        input_tokens=uncached + read + write_5m + write_1h,
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
    )
    assert usage.uncached_input_tokens == uncached
    assert usage.cache_write_tokens == write_5m + write_1h


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": -1},
        {"input_tokens": 10, "output_tokens": -1},
        {"input_tokens": 10, "cache_read_tokens": 11},
        {"input_tokens": 10, "cache_read_tokens": 6, "cache_write_5m_tokens": 3, "cache_write_1h_tokens": 2},
        {"input_tokens": 10, "cache_read_tokens": -1},
        {"input_tokens": 10, "output_tokens": 5, "thinking_tokens": 6},
        {"input_tokens": 10, "output_tokens": 5, "thinking_tokens": -1},
    ],
)
def test_contradictory_counts_are_refused(counts):
    """A part never exceeds its whole and no count is negative: exclusive counts would show here."""
    with pytest.raises(ValueError, match="token"):
        Usage(**counts)


def test_unknown_thinking_is_not_zero():
    """A provider that does not tell thinking apart leaves it None."""
    assert Usage(input_tokens=1, output_tokens=1).thinking_tokens is None
