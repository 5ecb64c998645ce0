"""Trials of classifiers: each request once, whoever judges it when, and the new model against the one before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.guard import Tally
from router import guard
from router.feedback import Feedback, Verdict
from router.guard import Guard, is_bad


def said(request_id, verdict=Verdict.BAD, source="user", score=None):
    """A judgement."""
    return Feedback(request_id=request_id, tenant="", source=source, verdict=verdict, score=score, time_s=0.0)


def decide(keeper, model, request_id, *, opus=False, failed=False, reason="score_below_threshold"):
    """Note a decision."""
    keeper.decided(model, request_id, reason=reason, opus=opus, failed=failed)


@pytest.mark.parametrize(
    ("verdict", "score", "bad"),
    [
        (Verdict.BAD, None, True),
        (Verdict.OPUS_NEEDED, 0.9, True),
        (Verdict.GOOD, 0.1, False),
        (Verdict.FLASH_SUFFICED, None, False),
        (None, 0.49, True),
        (None, 0.5, False),
    ],
)
def test_a_verdict_counts_before_a_score(verdict, score, bad):
    """A score stands for a verdict only where there is none."""
    assert is_bad(said("r", verdict, score=score)) is bad


def test_judgements_count_once_whenever_they_come():
    """Before the request's end, after it, twice, taken back: the tallies say what stands."""
    keeper = Guard()
    keeper.judged(said("early"))
    for request_id in ("early", "late", "good", "silent"):
        decide(keeper, "m", request_id)
    for _ in range(2):
        keeper.judged(said("late"))
    keeper.judged(said("good", Verdict.GOOD))
    assert keeper.tallies("m") == (Tally(4, 2), Tally(3, 2))
    keeper.judged(said("late", Verdict.GOOD))
    assert keeper.tallies("m") == (Tally(4, 1), Tally(3, 1))


def test_one_bad_word_is_enough():
    """Another source's praise does not undo it."""
    keeper = Guard()
    decide(keeper, "m", "r")
    keeper.judged(said("r", source="reviewer"))
    keeper.judged(said("r", Verdict.GOOD))
    assert keeper.tallies("m").judged == Tally(1, 1)


def test_opus_is_not_blamed():
    """A bad answer of Opus says nothing against the route; it is judged, and not bad."""
    keeper = Guard()
    decide(keeper, "m", "r", opus=True)
    keeper.judged(said("r"))
    assert keeper.tallies("m") == (Tally(1, 0), Tally(1, 0))


def test_a_failure_of_flash_is_bad_without_a_judge():
    """Escalated or refused: bad, and judged by what happened."""
    keeper = Guard()
    decide(keeper, "m", "r", failed=True)
    assert keeper.tallies("m") == (Tally(1, 1), Tally(1, 1))


@pytest.mark.parametrize(
    "reason", ["forced", "follow_up", "tool_loop", "exploration", "no_score", "fallback"]
)
def test_what_the_score_did_not_decide_is_no_trial(reason):
    """Neither the model's merit nor its fault."""
    keeper = Guard()
    decide(keeper, "m", "r", reason=reason, failed=True)
    assert keeper.tallies("m").all == Tally(0, 0)


def test_only_complaints_are_enough_and_a_few_judgements_are_enough():
    """Every judged one is bad, before and after: their number tells. One in fifty is judged: their share tells."""
    complaints, sample = Guard(), Guard()
    for model, bad_every in (("old", 100), ("new", 4)):
        for number in range(1_000):
            decide(complaints, model, f"{model}{number}")
            if number % bad_every == 0:
                complaints.judged(said(f"{model}{number}"))
        if model == "old":
            complaints.arm("new", "old")
    assert complaints.trial().worsening > 0.1
    for model, verdict in (("old", Verdict.GOOD), ("new", Verdict.OPUS_NEEDED)):
        for number in range(2_500):
            decide(sample, model, f"{model}{number}")
            if number % 50 == 0:
                sample.judged(said(f"{model}{number}", verdict))
        if model == "old":
            sample.arm("new", "old")
    assert sample.trial().worsening > 0.5


def test_a_trial_counts_from_its_beginning_and_ends(monkeypatch):
    """What a model did before it was promoted is not its trial; after enough decisions it is settled."""
    monkeypatch.setattr(guard, "TRIALS", 20)
    keeper = Guard()
    decide(keeper, "new", "before", failed=True)
    keeper.arm("new", "old")
    assert keeper.trial().tallies.all == Tally(0, 0)
    for number in range(19):
        decide(keeper, "new", f"r{number}")
    assert keeper.trial() is not None
    decide(keeper, "new", "last")
    assert keeper.trial() is None


events = st.lists(
    st.tuples(
        st.sampled_from(["decide", "judge"]),
        st.integers(0, 12),
        st.booleans(),
        st.sampled_from(["user", "reviewer"]),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(events)
def test_tallies_are_what_counting_anew_gives(happened):
    """Whatever comes in which order, over a window that forgets: the running counts equal a recount."""
    keeper = Guard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "TRIALS", 6)
        for kind, number, flag, source in happened:
            if kind == "decide":
                decide(keeper, "m", f"r{number}", opus=flag)
            else:
                keeper.judged(said(f"r{number}", Verdict.BAD if flag else Verdict.GOOD, source))
            found = keeper.tallies("m")
            requests = keeper._trials["m"].requests.values() if "m" in keeper._trials else ()
            assert found.all.count == len(requests) <= 6
            assert found.judged.count == sum(words is not None for _, words in requests)
            bad = sum(words is not None and any(words.values()) for _, words in requests)
            assert found.judged.bad == found.all.bad == bad


def test_memory_is_bounded(monkeypatch):
    """Of feedback without a request, and of models, only so many are kept."""
    monkeypatch.setattr(guard, "EARLY_LIMIT", 10)
    keeper = Guard()
    for number in range(100):
        keeper.judged(said(f"r{number}"))
        decide(keeper, f"m{number}", f"other{number}")
    assert (len(keeper._early), len(keeper._trials)) == (10, guard.MODELS)
    keeper.arm("next", "m98")
    decide(keeper, "next", "x")
    assert "m98" in keeper._trials
