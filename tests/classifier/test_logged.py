"""What is kept of a log: whole sessions, each with the same chance, never more than allowed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.features import extract
from classifier.logged import LoggedRequest, SessionSample, collect, kind_of
from classifier.sample import Sample

FEATURES = extract(Sample.bounded(text="What time is it in Oslo?"))


def a_row(number: int, session: str, **changes) -> LoggedRequest:
    row = LoggedRequest(
        request_id=f"r{number}",
        session=session,
        time_s=float(number),
        tenant="",
        application="",
        kind="",
        features=FEATURES.pack(),
        score=0.1,
        threshold=0.5,
        opus=False,
        propensity=1.0,
        explored=False,
        reason="",
        model_digest="",
        cost_nano_usd=None,
        flash_nano_usd=None,
        opus_nano_usd=None,
    )
    return msgspec.structs.replace(row, **changes)


sessions = st.lists(st.integers(0, 400).map(lambda number: f"s{number}"), max_size=300)


@given(sessions, st.integers(1, 80), st.randoms())
def test_a_sample_keeps_whole_sessions_within_its_limit_whatever_the_order(names, limit, random):
    """Every row of a kept session is kept, the limit holds, and another order keeps the same rows."""
    rows = [a_row(number, name) for number, name in enumerate(names)]
    kept = []
    for _ in range(2):
        sample = SessionSample(limit)
        for row in rows:
            sample.offer(row)
        kept.append({row.request_id for row in sample.rows})
        assert len(sample.rows) <= limit
        assert sample.seen == len(rows)
        inside = {row.session for row in sample.rows}
        assert len(sample.rows) == sum(row.session in inside for row in rows)
        random.shuffle(rows)
    assert kept[0] == kept[1]


def test_a_sample_of_many_sessions_is_fair():
    """8,000 sessions into 1,000 rows: the share kept is the share told, within chance."""
    sample = SessionSample(1_000)
    for number in range(8_000):
        sample.offer(a_row(number, f"session {number}"))
    assert sample.share == 0.0625 or sample.share == 0.125
    assert len(sample.rows) == pytest.approx(8_000 * sample.share, rel=0.15)


def test_rows_with_and_without_outcome_are_put_back_in_proportion():
    """Where outcomes are rare all of them are kept, and `alike` thins them to the share of the others."""
    rows = [
        a_row(number, f"s{number}", **({"label": 0, "weight": 1.0} if number % 10 == 0 else {}))
        for number in range(20_000)
    ]
    found = collect(rows, limit=2_000)
    assert found.labelled_share == 1.0
    assert len(found.labelled) == 2_000
    alike = found.alike()
    assert sum(row.label is not None for row in alike) / len(alike) == pytest.approx(0.1, abs=0.02)


def test_what_cannot_be_used_is_counted():
    """No features, or of another version: counted, not kept, not fatal; routes and outcomes count all the same."""
    rows = [
        a_row(1, "a", quality=1.0, label=0, weight=1.0),
        a_row(2, "b", features=""),
        a_row(3, "c", features="AAAA", opus=True, quality=0.0),
        a_row(4, "d", opus=True),
    ]
    found = collect(rows)
    assert (found.seen, found.unusable) == (4, 2)
    assert (found.decided, found.judged) == ((2, 2), (1, 1))
    assert found.seen_share == (0.5, 0.5)
    assert [row.request_id for row in found.labelled] == ["r1"]


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        ({"text": "yes", "turn_index": 2}, "follow_up"),
        ({"text": "go on", "tools_offered_count": 2, "tool_loop": True, "tool_result_count": 1}, "tool_loop"),
        ({"text": "book a table", "tools_offered_count": 2}, "tools"),
        ({"text": "```python\nx = 1\n```"}, "code"),
        ({"text": "Compare two insurance offers"}, "analysis"),
        ({"text": "Turn off the lights"}, "command"),
    ],
)
def test_requests_without_a_kind_get_a_coarse_one(sample, kind):
    """From features alone, so it works where no text was kept."""
    assert kind_of(extract(Sample.bounded(**sample))) == kind
