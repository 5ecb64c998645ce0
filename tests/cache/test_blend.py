"""What is foreseen beside what is learnt: the wrong washes out, the right takes over, and both are bounded."""

from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.blend import DRIFT, START, Trust
from cache.returns import WINDOW_S, WINDOWS, Returns

PATH = (("", "turn 1"), ("desk", "turn 1"))
calls = st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.booleans()), max_size=200)


def loss(chance, came):
    return -log(chance if came else 1.0 - chance)


@given(calls)
def test_the_mixture_costs_at_most_a_fraction_of_a_nat_more_than_either(seen):
    """Whatever is foreseen, learnt and comes: log-loss within ln(1 / weight) + n DRIFT of the better of the two."""
    trust, mixed, foreseen_alone, learnt_alone = Trust(), 0.0, 0.0, 0.0
    for foreseen, learnt, came in seen:
        mixed += loss(trust.blended("a", 1, foreseen, learnt), came)
        foreseen_alone += loss(foreseen, came)
        learnt_alone += loss(learnt, came)
        trust.learn("a", 1, foreseen, learnt, came)
    slack = -len(seen) * log(1.0 - DRIFT) + 1e-9
    assert mixed <= learnt_alone - log(1.0 - START) + slack
    assert mixed <= foreseen_alone - log(START) + slack


@given(calls)
def test_neither_is_ever_ruled_out(seen):
    """Weights stay inside (0, 1), so what changes can be learnt again."""
    trust = Trust()
    for foreseen, learnt, came in seen:
        trust.learn("a", 1, foreseen, learnt, came)
        assert 0.0 < trust.weight("a", 1) < 1.0
        assert (
            min(foreseen, learnt) - 1e-9
            <= trust.blended("a", 1, foreseen, learnt)
            <= max(foreseen, learnt) + 1e-9
        )


def test_a_new_owner_begins_with_what_the_others_taught():
    """One application's experience is the next one's prior; kinds of window stay apart."""
    trust = Trust()
    for _ in range(50):
        trust.learn("a", True, 0.9, 0.1, True)
    assert trust.weight("b", True) > 0.9
    assert trust.weight("a", False) == START


def test_owners_are_bounded():
    """The longest unused go first."""
    trust = Trust(max_owners=10)
    for owner in range(1_000):
        trust.learn(owner, True, 0.9, 0.1, True)
    assert len(trust) == 10


def come_back(returns, foreseen, *, turns=400, gap_s=None):
    """Turns a window apart, each of another conversation that comes back after `gap_s` or never."""
    for number in range(turns):
        now = number * WINDOW_S
        if gap_s is not None and number:
            returns.returned(b"%d" % (number - 1), now - WINDOW_S + gap_s)
        returns.quiet(b"%d" % number, PATH, now, foreseen)
    returns.close(turns * WINDOW_S + WINDOWS * WINDOW_S)


def test_without_a_foresight_nothing_differs():
    """Hazards with none foreseen are those learnt alone, whatever else is asked."""
    alone, beside = Returns(), Returns()
    come_back(alone, (), gap_s=100.0)
    come_back(beside, (), gap_s=100.0)
    assert alone.hazards(PATH) == beside.hazards(PATH, 0, ())
    assert beside.trust(PATH) == START


def test_a_wrong_foresight_washes_out():
    """Foreseen to come back for sure, they never do: within some turns the hazards are those learnt without it."""
    wrong, alone = Returns(), Returns()
    foreseen = (0.9,) * WINDOWS
    come_back(wrong, foreseen)
    come_back(alone, ())
    assert wrong.trust(PATH) < 0.001
    for found, learnt in zip(wrong.hazards(PATH, 0, foreseen), alone.hazards(PATH), strict=True):
        assert found == pytest.approx(learnt, abs=0.005)


def test_a_right_foresight_takes_over():
    """Two sorts of turn that look alike here and are told apart there: each gets its own hazard."""
    returns = Returns()
    for number in range(400):
        key, now = b"%d" % number, number * WINDOW_S
        comes = number % 2 == 0
        if comes and number >= 2:
            returns.returned(b"%d" % (number - 2), now - WINDOW_S + 1.0)
        returns.quiet(key, PATH, now, (0.05, 0.9 if comes else 0.02, *(0.02,) * (WINDOWS - 2)))
    assert returns.trust(PATH) > 0.95
    assert returns.hazards(PATH, 1, (0.05, 0.9, *(0.02,) * 22))[0] > 0.8
    assert returns.hazards(PATH, 1, (0.05, 0.02, *(0.02,) * 22))[0] < 0.1


def test_what_is_foreseen_may_change_while_a_turn_waits():
    """A later turn elsewhere foresees the same wait anew; unknown keys are let be."""
    returns = Returns()
    returns.quiet(b"a", PATH, 5.0, (0.1,) * WINDOWS)
    assert returns.started_s(b"a") == 5.0
    returns.foresee(b"a", (0.7,) * WINDOWS)
    returns.foresee(b"b", (0.7,) * WINDOWS)
    assert returns.foreseen(b"a")[3] == pytest.approx(0.7, abs=1e-6)
    assert list(returns.foreseen(b"b")) == []
    assert returns.started_s(b"b") is None


def test_a_chance_of_nothing_or_all_can_be_learnt_from():
    """Foreseen 0 or 1 and wrong: weight falls, nothing divides by zero."""
    trust = Trust()
    trust.learn("a", 1, 0.0, 0.5, True)
    trust.learn("a", 1, 1.0, 0.5, False)
    assert 0.0 < trust.weight("a", 1) < START
