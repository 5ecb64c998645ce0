"""The index rule: what is warm moves the cut by exactly what it saves, and what was wanted is expected again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.policy import Constraints, PolicySettings, RouteCosts, SessionState, decide, threshold_of
from classifier.route import Route, Score
from classifier.thresholds import (
    MEMORY_TURNS,
    PRIOR_WISH,
    leaves_warm_nano_usd,
    mean_score,
    threshold_at,
    wanted_next,
)

FREE, NEW = Constraints(), SessionState()
shares = st.floats(0, 1)


@given(
    history_tokens=st.integers(0, 200_000),
    price=st.integers(1_000, 20_000),
    value=st.integers(10**10, 10**11),
    leaves=st.integers(0, 10**6),
)
def test_hysteresis_is_the_write_premium_of_the_history(
    history_tokens: int, price: int, value: int, leaves: int
) -> None:
    """threshold(cold) - threshold(warm) = (w - r) p_O H / V, for any history, price and value (w 1.25, r 0.05)."""
    write, read, flash = round(1.25 * price), round(0.05 * price), 1_000_000
    answer = 20_000_000
    cold, warm = (
        threshold_of(
            RouteCosts(
                flash_nano_usd=flash,
                opus_nano_usd=flash + answer + rate * history_tokens,
                opus_leaves_nano_usd=leaves,
            ),
            FREE,
            PolicySettings(answer_value_nano_usd=value),
        )
        for rate in (write, read)
    )
    assert cold - warm == pytest.approx((write - read) * history_tokens / value, abs=1e-12)


def test_an_easy_turn_stays_on_a_warm_opus_and_does_not_wake_a_cold_one() -> None:
    """The rule of staying is nowhere written down: it is the cost."""
    settings = PolicySettings(answer_value_nano_usd=50_000_000)
    easy = Score(value=0.3, raw=0.0, model_digest="m")
    warm = RouteCosts(flash_nano_usd=14_000_000, opus_nano_usd=27_000_000)
    cold = RouteCosts(flash_nano_usd=14_000_000, opus_nano_usd=95_000_000)
    assert decide(easy, warm, FREE, NEW, settings).route is Route.OPUS
    assert decide(easy, cold, FREE, NEW, settings).route is Route.FLASH


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 10**10), st.integers(0, 10**9))
def test_what_opus_leaves_warm_only_lowers_the_cut(flash: int, opus: int, value: int, leaves: int) -> None:
    """G is never against Opus; the cut stays within [0, 1]."""
    settings = PolicySettings()
    bare, kept = (
        threshold_at(
            RouteCosts(flash_nano_usd=flash, opus_nano_usd=opus, opus_leaves_nano_usd=each),
            FREE,
            settings,
            value,
        )
        for each in (0, leaves)
    )
    assert 0 <= kept <= bare <= 1


@given(st.none() | shares, shares, st.integers(0, 50))
def test_what_is_wanted_next_is_a_chance_between_what_was_seen_and_the_prior(
    score: float | None, mean: float, turn_count: int
) -> None:
    """Never outside the range of its parts; with nothing seen it is the prior."""
    chance = wanted_next(score, mean, turn_count)
    parts = [PRIOR_WISH, *([mean] if turn_count else []), *([] if score is None else [score])]
    assert min(parts) - 1e-9 <= chance <= max(parts) + 1e-9
    assert wanted_next(None, mean, 0) == PRIOR_WISH
    assert 0 <= leaves_warm_nano_usd(1_000_000, chance) <= 1_000_000


def test_the_running_mean_follows_a_conversation_that_changes() -> None:
    """It is the mean of the first turns, and forgets them after a few of another sort."""
    mean = 0.0
    for count, score in enumerate((0.2, 0.4, 0.6)):
        mean = mean_score(mean, count, score)
    assert mean == pytest.approx(0.4)
    for count in range(3, 3 + 3 * MEMORY_TURNS):
        mean = mean_score(mean, count, 1.0)
    assert mean > 0.95
