"""What evidence teaches: the table of the module, its precedence, and what it must never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.outcomes import FIRM_WEIGHT, NOTHING, Judgement, outcome_of
from classifier.route import Route

FLASH, OPUS = Route.FLASH, Route.OPUS


def said(verdict, score=None, time_s=0.0, source="user"):
    return Judgement(source, verdict, score, time_s)


@pytest.mark.parametrize(
    ("route", "finish", "discarded", "verdict", "label", "weight", "quality"),
    [
        (FLASH, "end_turn", "", "flash_sufficed", 0, 1.0, 1.0),
        (OPUS, "end_turn", "", "flash_sufficed", 0, 1.0, 1.0),
        (FLASH, "end_turn", "", "opus_needed", 1, 1.0, 0.0),
        (OPUS, "end_turn", "", "opus_needed", 1, 1.0, 1.0),
        (OPUS, "end_turn", "malformed_tool_call", None, 1, 1.0, None),
        (FLASH, "end_turn", "", "good", 0, 1.0, 1.0),
        (FLASH, "end_turn", "", "bad", 1, 0.8, 0.0),
        (OPUS, "end_turn", "", "good", 1, 0.1, 1.0),
        (OPUS, "end_turn", "", "bad", None, 0.0, 0.0),
        (FLASH, "malformed", "", None, 1, 0.7, None),
        (FLASH, "refusal", "", None, 1, 0.5, None),
        (FLASH, "max_tokens", "", None, 1, 0.1, None),
        (OPUS, "refusal", "", None, None, 0.0, None),
        (FLASH, "end_turn", "", None, None, 0.0, None),
        (FLASH, "", "", None, None, 0.0, None),
    ],
)
def test_each_row_of_the_table(route, finish, discarded, verdict, label, weight, quality):
    """Evidence -> label, weight, quality, as the module's docstring lists them."""
    judgements = [] if verdict is None else [said(verdict)]
    found = outcome_of(route, finish, discarded, judgements)
    assert (found.label, found.weight, found.quality) == (label, weight, quality)


def test_a_judge_of_both_answers_outranks_everything():
    """Even an escalation, and even newer feedback on the one answer."""
    judgements = [said("flash_sufficed", time_s=1.0, source="judge"), said("bad", time_s=2.0)]
    found = outcome_of(OPUS, "end_turn", "refusal", judgements)
    assert (found.label, found.evidence) == (0, "flash_sufficed")
    assert found.quality == 0.0  # the answer the caller got was bad all the same


def test_a_discarded_answer_outranks_praise_of_what_replaced_it():
    """Opus's answer was good; Flash's had failed."""
    found = outcome_of(OPUS, "end_turn", "malformed", [said("good")])
    assert (found.label, found.weight, found.quality) == (1, 1.0, 1.0)


def test_the_newest_of_a_kind_counts():
    """A reviewer who judged after the user is followed."""
    found = outcome_of(FLASH, "end_turn", "", [said("bad", time_s=5.0), said("good", time_s=9.0, source="r")])
    assert (found.label, found.quality) == (0, 1.0)


@pytest.mark.parametrize(("score", "label", "quality"), [(0.9, 0, 0.9), (0.5, 0, 0.5), (0.2, 1, 0.2)])
def test_a_bare_score_is_a_verdict_from_a_half_on(score, label, quality):
    """And the quality is the score itself."""
    found = outcome_of(FLASH, "end_turn", "", [said(None, score)])
    assert (found.label, found.quality) == (label, quality)


judgements = st.lists(
    st.builds(
        Judgement,
        st.sampled_from(["user", "reviewer", "judge-model"]),
        st.sampled_from(["good", "bad", "flash_sufficed", "opus_needed"]),
        st.none() | st.floats(0.0, 1.0),
        st.floats(0.0, 1e9),
    ),
    max_size=4,
)
calls = st.tuples(
    st.sampled_from(Route),
    st.sampled_from(["end_turn", "malformed", "refusal", "max_tokens", "tool_call", "", "other"]),
    st.sampled_from(["", "malformed", "schema"]),
)


@given(calls, judgements, st.randoms())
def test_an_outcome_is_whole_and_does_not_depend_on_order(call, said_of_it, random):
    """No label without weight, no weight without label, quality only from a judge, ties broken by the source."""
    unique = list({(each.time_s, each.source): each for each in said_of_it}.values())
    found = outcome_of(*call, unique)
    random.shuffle(unique)
    assert outcome_of(*call, unique) == found
    assert (found.label is None) == (found.weight == 0.0)
    assert (found.quality is not None) == bool(unique)
    assert (found == NOTHING) == (found.evidence == "")


@given(calls, judgements)
def test_opus_alone_never_proves_that_opus_was_needed(call, said_of_it):
    """Without a judge of both answers or a discarded one, what Opus answered gives no firm label."""
    _, finish, _ = call
    single = [each for each in said_of_it if each.verdict in ("good", "bad")]
    found = outcome_of(OPUS, finish, "", single)
    assert found.label is None or found.weight < FIRM_WEIGHT
