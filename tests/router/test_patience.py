"""How long silence is borne: more for more to read, think and write, and without end where nothing is set."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from router.patience import Patience, whole_answer_s

sizes = st.integers(min_value=0, max_value=32_000_000)
tokens = st.integers(min_value=0, max_value=128_000)


@given(sizes, tokens, st.floats(min_value=0.001, max_value=3600))
def test_the_first_event_is_awaited_longer_for_more_work(
    request_bytes: int, unseen: int, first_s: float
) -> None:
    """Never less than what is set, and each byte and each unseen token adds."""
    patience = Patience(first_s, 0.0)
    borne_s = patience.first_event_s(request_bytes, unseen)
    assert borne_s >= first_s
    assert patience.first_event_s(request_bytes + 1_000_000, unseen) > borne_s
    assert patience.first_event_s(request_bytes, unseen + 1_000) > borne_s


@given(sizes, tokens)
def test_zero_waits_for_the_deadline(request_bytes: int, unseen: int) -> None:
    """Nothing is cut that was not asked for."""
    assert Patience().first_event_s(request_bytes, unseen) == inf
    assert Patience().between_events_s == inf
    assert Patience(1.0, 7.0).between_events_s == 7.0


@given(tokens, tokens)
def test_a_long_answer_may_take_minutes(prompt_tokens: int, max_output_tokens: int) -> None:
    """An answer of 4,096 tokens is healthy after three minutes."""
    assert whole_answer_s(0, 4096) > 180
    assert whole_answer_s(prompt_tokens, max_output_tokens) >= max_output_tokens / 20
