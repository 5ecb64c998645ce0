"""Hypothesis strategies for samples."""

from __future__ import annotations

from hypothesis import strategies as st

from classifier.dataset import Labelled, LabelledSample
from classifier.history import FINISHES, IDLE_LIMIT_S, NO_HISTORY, TURN_LIMIT, VERDICTS, History
from classifier.sample import EFFORTS, PREVIOUS_ROUTES, Sample

# Surrogates cannot arrive over the wire (protobuf strings are UTF-8), but a stray one must not break scoring.
any_text = st.text(st.characters(), max_size=300)
request_text = st.lists(
    st.sampled_from(
        [
            "please",
            "prove",
            "compare",
            "the",
            "is",
            "why",
            "not",
            "yes",
            "42",
            "def",
            "return",
            "{",
            "}",
            "?",
            "!",
            "\n",
            "-",
            "1.",
            "```",
            "für",
            "好的",
            "東京",
            "да",
            "İ",
            "ß",
            "ﬁ",
            "résumé",
            "\nA) one",
            "\nB) 12\nC) x\nD) y",
            "\nE) ü\nF) 3\nG) (z)",
        ]
    ),
    max_size=60,
).map(" ".join)
counts = st.integers(min_value=0, max_value=10**9)
histories = st.builds(
    History,
    flash_turns=st.integers(0, TURN_LIMIT),
    opus_turns=st.integers(0, TURN_LIMIT),
    recent_routes=st.text("fo", max_size=8),
    last_finish=st.none() | st.sampled_from(FINISHES),
    last_escalated=st.booleans(),
    last_verdict=st.none() | st.sampled_from(VERDICTS),
    idle_s=st.none() | st.integers(0, IDLE_LIMIT_S),
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Any sample at all, text half arbitrary and half of words the features know."""
    return Sample.bounded(
        text=draw(any_text | request_text),
        previous_user_text=draw(st.just("") | any_text),
        turn_index=draw(counts),
        tools_offered_count=draw(counts),
        tool_result_count=draw(counts),
        tool_loop=draw(st.booleans()),
        has_image=draw(st.booleans()),
        has_document=draw(st.booleans()),
        application=draw(st.none() | any_text),
        effort=draw(st.none() | st.sampled_from(EFFORTS)),
        max_output_tokens=draw(st.none() | counts),
        output_schema=draw(st.booleans()),
        system_characters=draw(counts),
        history_characters=draw(counts),
        previous_route=draw(st.none() | st.sampled_from(PREVIOUS_ROUTES)),
        action=draw(st.none() | any_text),
        history=draw(st.just(NO_HISTORY) | histories),
    )


def sample_of(row: Labelled) -> Sample:
    """The sample of a row that has one."""
    assert isinstance(row, LabelledSample)
    return row.sample
