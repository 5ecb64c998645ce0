"""Which sessions on Flash are looked at for a warm on Opus; memory is bounded whatever comes."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from cache.economics import Rates
from cache.schedule import Policy, Worth
from router.applications import NO_APPLICATION
from router.call import Call, Identity
from router.recipes import PLACEHOLDER
from router.request import Demands, Request
from router.warm_score import HINTS, ScoreHints

RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.1)
FREE = Worth(RATES, 5e-6)
DEAR = Worth(RATES, 5e-6, second_usd=10.0, kappa_s=40e-6)


def asked(session: str) -> Request:
    """A session's request."""
    identity = Identity(request_id="r", tenant="acme", application="desk", session=session)
    return Request(
        call=Call(identity=identity, messages=PLACEHOLDER, max_output_tokens=1),
        application=NO_APPLICATION,
        demands=Demands(),
    )


def hinted(hints: ScoreHints, session: str, score: float | None, now_s: float, **fields: object) -> bool:
    """Flash answered a request of this score."""
    fields = {"worth": FREE, "cause": INVALID_SPAN_CONTEXT, "foreseen": None} | fields
    return hints.answered(asked(session), score, now_s=now_s, **fields)


@given(
    policy=st.sampled_from([Policy.PREDICTIVE, Policy.AUTO]),
    least=st.floats(0, 1),
    turns=st.lists(
        st.tuples(
            st.integers(0, 300),
            st.none() | st.floats(0, 1),
            st.none() | st.floats(0, 1),
            st.floats(-100.0, 400.0),
            st.booleans(),
        ),
        max_size=60,
    ),
)
def test_a_hint_is_one_of_a_session_with_a_chance_and_there_are_few(policy, least, turns) -> None:
    """Whatever the scores and the clock: chances within [0, 1], one hint a session, none of one that asked Opus."""
    hints, now_s, waiting = ScoreHints(policy, least, most=3), 0.0, set()
    for number, score, foreseen, step_s, opus in turns:
        now_s, whose = now_s + step_s, ("acme", f"s{number}")
        if opus:
            hints.followed(whose, now_s)
            waiting.discard(whose)
        elif hinted(hints, whose[1], score, now_s, foreseen=foreseen, worth=DEAR):
            waiting.add(whose)
        else:
            assert score is None or policy is Policy.AUTO or (score if foreseen is None else foreseen) < least
            waiting.discard(whose) if score is not None or foreseen is not None else None
        assert len(hints) <= 3
    taken = hints.taken(now_s)
    assert {hint.whose for hint in taken} <= waiting
    assert len({hint.whose for hint in taken}) == len(taken)
    assert all(0.0 <= hint.p_use <= 1.0 for hint in taken)
    assert hints.taken(now_s) == []


def test_what_is_too_old_is_not_looked_at() -> None:
    """The task that looks may be held up by a warm; after a TTL the session would not have come in time."""
    hints = ScoreHints(Policy.PREDICTIVE, 0.2)
    assert hinted(hints, "old", 0.9, 0.0)
    assert hinted(hints, "new", 0.9, 299.0)
    assert hinted(hints, "closed", 0.9, 299.5)
    hints.closed(("acme", "closed"))
    assert [hint.whose[1] for hint in hints.taken(300.0)] == ["new"]
    for number in range(2 * HINTS):
        hinted(hints, f"s{number}", 0.9, 301.0)
    assert len(hints) == HINTS


def test_auto_learns_how_often_such_a_score_is_followed_by_opus() -> None:
    """Taken for half at first; after forty sessions that stayed on Flash the same score is no longer worth a look."""
    worth = Worth(RATES, 5e-6, second_usd=0.4, kappa_s=40e-6)
    hints = ScoreHints(Policy.AUTO, 0.0)
    assert hinted(hints, "first", 1.0, 0.0, worth=worth)
    for number in range(40):
        hinted(hints, f"s{number}", 1.0, 1.0 + number, worth=worth)
    assert not hinted(hints, "late", 1.0, 1000.0, worth=worth)
    assert not hinted(hints, "any", 1.0, 1000.0, worth=FREE), (
        "time worth nothing: nothing ahead of a request pays"
    )
