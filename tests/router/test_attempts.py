"""What follows a failed attempt, over every kind of failure and every state it can meet."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.route import Route
from router import errors
from router.attempts import BACKOFF_BASE_S, USEFUL_TIME_S, Next, RetryLimits, after_failure, timeout_s


def every_class(base: type[errors.UpstreamError]) -> list[type[errors.UpstreamError]]:
    """The class and all below it."""
    return [base, *(found for below in base.__subclasses__() for found in every_class(below))]


CLASSES = every_class(errors.UpstreamError)
failures = st.builds(
    lambda kind, retry_after_s, retryable: kind(
        "anthropic", "failed", retry_after_s=retry_after_s, retryable=retryable
    ),
    st.sampled_from(CLASSES),
    st.none() | st.floats(min_value=-1, max_value=1e6),
    st.none() | st.booleans(),
)
states = st.fixed_dictionaries(
    {
        "tries_on_route": st.integers(min_value=1, max_value=8),
        "fallback": st.sampled_from([None, Route.FLASH, Route.OPUS]),
        "held_back": st.booleans(),
        "answer_begun": st.booleans(),
        "remaining_s": st.floats(min_value=0, max_value=600),
        "jitter": st.floats(min_value=0, max_value=1),
        "limits": st.builds(
            RetryLimits,
            retry_limit=st.integers(min_value=0, max_value=5),
            wait_limit_s=st.floats(min_value=0, max_value=60),
        ),
    }
)


@given(failures, states)
def test_nothing_follows_an_answer_that_has_begun(error, state):
    """The caller has content in hand: a second answer would contradict it."""
    step = after_failure(error, **(state | {"answer_begun": True}))
    assert (step.next, step.wait_s) == (Next.GIVE_UP, 0.0)


@given(failures, states)
def test_a_retry_is_allowed_useful_and_bounded(error, state):
    """Only for a failure that may pass, within the operator's count and wait, with time left to answer in."""
    step = after_failure(error, **state)
    if step.next is Next.AGAIN:
        assert error.retryable
        assert not state["held_back"]
        assert state["tries_on_route"] <= state["limits"].retry_limit
        assert 0 <= step.wait_s <= state["limits"].wait_limit_s
        assert step.wait_s + USEFUL_TIME_S <= state["remaining_s"]
        assert step.wait_s >= (error.retry_after_s or 0), "never earlier than the provider asked"
    else:
        assert step.wait_s == 0.0


@given(failures, states)
def test_the_other_route_is_taken_only_where_it_may_help(error, state):
    """A fallback needs a permitted, untried route, a failure that is the provider's own, and time."""
    step = after_failure(error, **state)
    if step.next is Next.OTHER_ROUTE:
        assert state["fallback"] is not None
        assert error.other_route_may_help
        assert state["remaining_s"] >= USEFUL_TIME_S
    assert math.isfinite(step.wait_s)
    assert error.reason in step.reason or step.reason == "the answer had begun"


@given(failures, states)
def test_giving_up_means_nothing_else_was_allowed(error, state):
    """No request is given up while a fallback that may help is allowed and there is time for it."""
    step = after_failure(error, **state)
    could = (
        state["fallback"] is not None and error.other_route_may_help and state["remaining_s"] >= USEFUL_TIME_S
    )
    assert step.next is not Next.GIVE_UP or state["answer_begun"] or not could


@given(failures, states)
def test_a_request_comes_to_an_end(error, state):
    """However often the same failure repeats, the tries on a route end."""
    tries = 1
    while after_failure(error, **(state | {"tries_on_route": tries})).next is Next.AGAIN:
        tries += 1
        assert tries <= state["limits"].retry_limit + 1


@pytest.mark.parametrize(("tries", "low_s", "high_s"), [(1, 0.125, 0.25), (2, 0.25, 0.5), (3, 0.5, 1.0)])
def test_backoff_doubles_between_half_and_whole(tries, low_s, high_s):
    """Without a wait asked for: 0.25 s doubling, scaled by jitter so that callers spread out."""
    for jitter, expected_s in ((0.0, low_s), (1.0, high_s)):
        step = after_failure(
            errors.UpstreamOverloaded("anthropic", "busy"),
            tries_on_route=tries,
            fallback=None,
            held_back=False,
            answer_begun=False,
            remaining_s=60.0,
            jitter=jitter,
            limits=RetryLimits(retry_limit=5, wait_limit_s=10.0),
        )
        assert (step.next, step.wait_s) == (Next.AGAIN, expected_s)
    assert high_s == BACKOFF_BASE_S * 2 ** (tries - 1)


def test_a_wait_longer_than_allowed_is_not_waited_for():
    """A provider that asks for thirty seconds: the other route now, or the caller is told."""
    state = {
        "tries_on_route": 1,
        "held_back": False,
        "answer_begun": False,
        "remaining_s": 60.0,
        "jitter": 0.0,
        "limits": RetryLimits(retry_limit=5, wait_limit_s=2.0),
    }
    error = errors.UpstreamRateLimited("gemini", "slow down", retry_after_s=30.0)
    assert after_failure(error, fallback=Route.OPUS, **state).next is Next.OTHER_ROUTE
    assert after_failure(error, fallback=None, **state).next is Next.GIVE_UP


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 1.0), (0.5, 1.125), (1.0, 1.25)])
def test_a_wait_that_was_told_is_put_off_a_little(jitter: float, wait_s: float):
    """Everybody a provider refused was told the same wait: they come back spread out, and never earlier than told."""
    error = errors.UpstreamRateLimited("anthropic", "slow down", retry_after_s=1.0)
    state = {"tries_on_route": 1, "fallback": None, "held_back": False, "answer_begun": False}
    limits = RetryLimits(retry_limit=1, wait_limit_s=2.0)
    step = after_failure(error, **state, remaining_s=60.0, jitter=jitter, limits=limits)
    assert (step.next, step.wait_s) == (Next.AGAIN, wait_s)


@pytest.mark.parametrize("jitter", [0.0, 0.9])
def test_the_longest_wait_allowed_is_not_lost_to_jitter(jitter: float):
    """A provider that asks for exactly the limit is waited for, whatever the dice say."""
    error = errors.UpstreamRateLimited("anthropic", "slow down", retry_after_s=2.0)
    state = {"tries_on_route": 1, "fallback": None, "held_back": False, "answer_begun": False}
    limits = RetryLimits(retry_limit=1, wait_limit_s=2.0)
    assert after_failure(error, **state, remaining_s=60.0, jitter=jitter, limits=limits).wait_s == 2.0


@given(states)
def test_who_kept_silent_is_not_asked_again_where_the_other_may_be(state):
    """A second silence would use up the other route's time; without another route the same one is tried."""
    state |= {"answer_begun": False, "held_back": False, "remaining_s": 600.0, "tries_on_route": 1}
    step = after_failure(errors.UpstreamTimeout("x", "nothing came"), **state)
    if state["fallback"] is not None:
        assert (step.next, step.wait_s) == (Next.OTHER_ROUTE, 0.0)
    else:
        assert step.next is not Next.OTHER_ROUTE


seconds = st.floats(min_value=0, max_value=600)


@given(seconds, st.floats(min_value=0, max_value=1), seconds)
def test_an_attempt_gets_its_share_and_never_less_than_an_answer_takes(remaining_s, share, answer_s):
    """Within the time left; all of it where no share is set."""
    time_s = timeout_s(remaining_s, share, answer_s)
    assert time_s <= remaining_s
    assert time_s >= min(answer_s, remaining_s)
    assert time_s == remaining_s or time_s >= share * remaining_s > 0
    assert timeout_s(remaining_s, 0.0, answer_s) == remaining_s
