"""Deadlines: our answer beats the caller's timer, and hopeless work is refused before it costs anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.deadline import DEFAULT_S, MARGIN_S, MAXIMUM_S, MINIMUM_S, Deadline, DeadlinePolicy
from router.errors import DeadlineTooShort

POLICY = DeadlinePolicy()


def test_margin_is_kept_back_from_the_callers_deadline():
    """20 ms of what the caller grants are ours, for the status."""
    deadline = POLICY.start(2.0, now_s=100.0)
    assert deadline.remaining_s(100.0) == pytest.approx(1.98)
    assert deadline.remaining_s(101.5) == pytest.approx(0.48)


def test_caller_without_deadline_gets_the_default():
    """No deadline is not forever."""
    assert POLICY.start(None, now_s=0.0).remaining_s(0.0) == pytest.approx(DEFAULT_S - MARGIN_S)


def test_long_deadline_is_held_to_the_maximum():
    """A caller cannot keep a request alive longer than this deployment allows."""
    assert POLICY.start(1e9, now_s=0.0).remaining_s(0.0) == pytest.approx(MAXIMUM_S - MARGIN_S)


@pytest.mark.parametrize("granted_s", [-1.0, 0.0, 0.05, 0.1, MARGIN_S + MINIMUM_S - 1e-6])
def test_too_little_time_is_refused_at_the_door(granted_s):
    """With less than the minimum after the margin, nothing is started; the error says both times."""
    with pytest.raises(DeadlineTooShort) as refused:
        POLICY.start(granted_s, now_s=5.0)
    assert refused.value.remaining_s < MINIMUM_S
    assert "at least 0.1 s" in str(refused.value)


def test_further_attempt_is_refused_when_its_own_minimum_is_not_left():
    """An attempt that needs a second is not started with half of one left, though any call still could be."""
    deadline = POLICY.start(10.0, now_s=0.0)
    assert deadline.require(9.48) == pytest.approx(0.5)
    with pytest.raises(DeadlineTooShort):
        deadline.require(9.48, needed_s=1.0)


def test_nothing_starts_at_the_deadline_itself():
    """With no time left even a call that needs none is refused: a timeout of 0 means "no timeout" to many."""
    deadline = Deadline(at_s=7.0, minimum_s=0.0)
    with pytest.raises(DeadlineTooShort):
        deadline.require(7.0)


@given(
    granted_s=st.floats(-10, 1e5),
    now_s=st.floats(0, 1e6),
    later_s=st.floats(0, 1e5),
    margin_s=st.floats(0, 1),
)
def test_remaining_time_never_exceeds_what_was_granted(granted_s, now_s, later_s, margin_s):
    """However much time passes, what is left lies between 0 and the grant less the margin, and only falls."""
    policy = DeadlinePolicy(margin_s=margin_s, minimum_s=0.0)
    try:
        deadline = policy.start(granted_s, now_s)
    except DeadlineTooShort:
        assert granted_s - margin_s <= 1e-6
        return
    at_start, later = deadline.remaining_s(now_s), deadline.remaining_s(now_s + later_s)
    assert 0.0 <= later <= at_start <= max(0.0, granted_s - margin_s) + 1e-6


@pytest.mark.parametrize(
    "wrong",
    [{"margin_s": -0.1}, {"minimum_s": -1.0}, {"default_s": 0.12}, {"default_s": 10.0, "maximum_s": 5.0}],
)
def test_contradictory_policy_is_refused(wrong):
    """A policy under which a request could not be served does not exist."""
    with pytest.raises(ValueError, match="_s"):
        DeadlinePolicy(**wrong)
