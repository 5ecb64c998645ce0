"""How long an answer is expected to be."""

from hypothesis import given
from hypothesis import strategies as st

from classifier.route import Route
from router.estimate import PRIOR_OUTPUT_TOKENS, OutputForecast


def test_before_any_answer_the_prior_holds():
    """The assumed answer is bounded by what the caller allows."""
    forecast = OutputForecast()
    assert forecast.expect("desk", Route.OPUS, 4096) == PRIOR_OUTPUT_TOKENS
    assert forecast.expect("desk", Route.OPUS, 64) == 64


@given(
    st.lists(st.integers(min_value=0, max_value=100_000), min_size=1),
    st.integers(min_value=1, max_value=128_000),
)
def test_the_forecast_lies_among_what_was_seen(answers, bound):
    """A mean of the answers: never outside of them, at least one token, never above the bound."""
    forecast = OutputForecast()
    for tokens in answers:
        forecast.observe("desk", Route.OPUS, tokens)
    expected = forecast.expect("desk", Route.OPUS, bound)
    assert 1 <= expected <= bound
    assert min(bound, max(1, min(answers))) <= expected <= min(bound, max(1, max(answers)))
    assert forecast.expect("desk", Route.FLASH, 4096) == PRIOR_OUTPUT_TOKENS


def test_recent_answers_count_more():
    """A change of habit is followed."""
    forecast = OutputForecast()
    for tokens in [100] * 50 + [1000] * 50:
        forecast.observe("desk", Route.OPUS, tokens)
    assert forecast.expect("desk", Route.OPUS, 4096) > 900


def test_it_is_bounded():
    """Names of applications come from requests only where they are registered, and are bounded all the same."""
    forecast = OutputForecast(limit=2)
    for name in ("a", "b", "c"):
        forecast.observe(name, Route.OPUS, 10)
    assert forecast.expect("a", Route.OPUS, 4096) == PRIOR_OUTPUT_TOKENS
    assert forecast.expect("c", Route.OPUS, 4096) == 10
