"""A session's history: bounded whatever its length, the same however it was put together, silent when unknown."""

from __future__ import annotations

from math import isfinite, log1p

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.history import (
    FINISHES,
    HISTORY_NAMES,
    IDLE_LIMIT_S,
    NO_HISTORY,
    RECENT_ROUTES,
    TURN_LIMIT,
    VERDICTS,
    History,
)
from tests.classifier.samples import histories

turns = st.tuples(
    st.sampled_from(["flash", "opus"]), st.none() | st.sampled_from([*FINISHES, "odd"]), st.booleans()
)


def named(history: History) -> dict[str, float]:
    return dict(zip(HISTORY_NAMES, history.columns(), strict=True))


@given(st.lists(turns, max_size=40))
def test_any_session_is_told_by_its_counts_and_its_last_turns(
    answered: list[tuple[str, str | None, bool]],
) -> None:
    """However long it is: counts of both routes, the last routes in order, and how the last answer ended."""
    history = NO_HISTORY
    for route, finish, escalated in answered:
        history = history.judged("bad").after(route, finish, escalated=escalated)
    routes = [route for route, _, _ in answered]
    assert (history.flash_turns, history.opus_turns) == (routes.count("flash"), routes.count("opus"))
    assert history.recent_routes == "".join(route[0] for route in routes[-RECENT_ROUTES:])
    assert history.last_verdict is None  # it was said of the answer before
    if answered:
        _, finish, escalated = answered[-1]
        assert history.last_finish == ("other" if finish == "odd" else finish)
        assert history.last_escalated is escalated


@given(histories)
def test_columns_are_finite_bounded_and_rows_read_back(history: History) -> None:
    """Whatever happened in a session, it scores, and a label file tells it whole."""
    columns = history.columns()
    assert len(columns) == len(HISTORY_NAMES)
    assert all(isfinite(value) and 0.0 <= value < 25.0 for value in columns)
    assert History.from_row(history.to_row()) == history


def test_what_nobody_remembers_says_nothing() -> None:
    """An unknown history is all zeros, and reading an empty row gives the very record that is free to score."""
    assert set(NO_HISTORY.columns()) == {0.0}
    assert History.from_row({}) is NO_HISTORY


def test_columns_say_what_happened() -> None:
    """Three turns, the last escalated and cut off, judged bad, ten minutes ago."""
    history = NO_HISTORY.after("flash", "end_turn").after("opus", "end_turn")
    history = history.after("opus", "max_tokens", escalated=True).judged("bad").idle_for(600.0)
    found = named(history)
    assert found["recent_opus_share"] == pytest.approx(2 / 3)
    assert (found["recent_switches"], found["flash_turns_log"]) == (1.0, log1p(1))
    assert (found["last_cut_off"], found["last_escalated"], found["last_refused"]) == (1.0, 1.0, 0.0)
    assert [found[f"judged_{word}"] for word in VERDICTS] == [0.0, 1.0, 0.0, 0.0]
    assert (found["idle_known"], found["idle_steps"]) == (1.0, 2.0)


@pytest.mark.parametrize(("idle_s", "steps"), [(-5.0, 0), (59, 0), (60, 1), (3_600, 3), (1e9, 4)])
def test_time_is_told_in_steps(idle_s: float, steps: int) -> None:
    """A minute, five, an hour, a day; a clock that went back is no time."""
    assert named(NO_HISTORY.idle_for(idle_s))["idle_steps"] == steps


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"flash_turns": -1}, "flash_turns"),
        ({"opus_turns": TURN_LIMIT + 1}, "opus_turns"),
        ({"recent_routes": "f" * (RECENT_ROUTES + 1)}, "recent_routes"),
        ({"last_finish": "stop"}, "last_finish"),
        ({"idle_s": IDLE_LIMIT_S + 1}, "idle_s"),
    ],
)
def test_what_means_nothing_is_refused_by_name(fields: dict[str, object], fault: str) -> None:
    """No other words and no other sizes."""
    with pytest.raises(ValueError, match=fault):
        History(**fields)  # type: ignore[arg-type]
