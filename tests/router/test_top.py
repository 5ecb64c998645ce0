"""`hybrid-router top`: a frame is right, fits its terminal, and says what its source does not tell."""

import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cli import main
from router.cli.top import LedgerSource, Unavailable, failures, in_flight
from router.ledger import DATABASE
from router.settlement import Outcome
from router.tables import render
from router.top import MINUTE_S, Frame, Minute, Share, empty, frame_text, short, sparkline, starts
from tests.router.ledger_samples import START_S
from tests.router.report_calls import UNKNOWN, USD, book, priced

NOW_S = START_S + 10 * MINUTE_S + 30


def at(minute, cents, **changes):
    return {"started_time_s": START_S + minute * MINUTE_S} | changes, priced(cents)


@pytest.fixture
def booked(tmp_path):
    refused = {"outcome": Outcome.REFUSED, "usage": None, "cost": None, "error": "UPSTREAM_OVERLOADED"}
    return book(
        tmp_path / "ledger",
        ("old", 1, *at(0, 50)),
        ("a", 1, *at(8, 10)),
        ("b", 1, *at(9, 4, route="flash", application="search")),
        ("c", 1, *at(10, 2)),
        ("d", 1, {"started_time_s": NOW_S}, refused),
        ("e", 1, {"started_time_s": NOW_S}, UNKNOWN),
    )


def test_a_frame_of_a_ledger(booked):
    """Only the window; each minute is there; errors by reason; what a file cannot tell is None."""
    source = LedgerSource(booked / DATABASE, 5 * MINUTE_S)
    frame = source.frame(NOW_S)
    source.close()
    cents = [minute.cost_nano_usd * 100 // USD for minute in frame.minutes]
    assert [minute.start_s for minute in frame.minutes] == [START_S + n * MINUTE_S for n in range(6, 11)]
    assert cents == [0, 0, 10, 4, 2]
    assert {share.name: (share.calls, share.unknown_calls) for share in frame.routes} == {
        "opus": (4, 1),
        "flash": (1, 0),
    }
    assert [share.name for share in frame.applications] == ["helpdesk", "search"]
    assert frame.errors == (("UPSTREAM_OVERLOADED", 1),)
    assert (frame.in_flight, frame.warm_prefixes) == (None, None)
    text = render(frame_text(frame, 100), width=100)
    assert "in flight unknown" in text
    assert "hit rate on Opus 83.3 %" in text
    assert "UPSTREAM_OVERLOADED 1" in text


shares = st.lists(
    st.builds(
        Share,
        name=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50),
        calls=st.integers(0, 10**7),
        cost_nano_usd=st.integers(0, 10**14),
        unknown_calls=st.integers(0, 10**5),
        input_tokens=st.integers(0, 10**10),
    ),
    max_size=12,
).map(tuple)


@given(
    width=st.integers(30, 160),
    routes=shares,
    applications=shares,
    costs=st.lists(st.integers(0, 10**12), max_size=240),
    errors=st.none()
    | st.lists(st.tuples(st.sampled_from(["UNAVAILABLE", "x"]), st.integers(1, 99))).map(tuple),
)
def test_a_frame_fits_its_terminal(width, routes, applications, costs, errors):
    """No line is wider than the terminal, whatever the figures."""
    frame = Frame(
        now_s=NOW_S,
        source="ledger",
        window_s=900,
        minutes=tuple(Minute(start_s=60 * n, calls=1, cost_nano_usd=cost) for n, cost in enumerate(costs)),
        routes=routes,
        applications=applications,
        errors=errors,
    )
    assert all(len(line) <= width for line in render(frame_text(frame, width), width=width).splitlines())


def test_a_source_that_fails_keeps_its_last_figures():
    """What was seen stays, and what went wrong is said."""
    frame = empty("x", NOW_S, 900, "x: UNAVAILABLE")
    text = render(frame_text(frame, 80), width=80)
    assert "x: UNAVAILABLE" in text
    assert "spend per minute: unknown" in text
    assert "errors unknown" in text
    assert frame.failed("again", NOW_S + 1).problem == "again"


@given(st.floats(60, 2e9), st.integers(1, 240))
def test_minutes_of_a_window(now_s, minutes):
    """As many as asked for, consecutive, the last of them going on."""
    found = starts(now_s, minutes * MINUTE_S)
    assert len(found) == minutes
    assert found[-1] <= now_s < found[-1] + MINUTE_S
    assert all(b - a == MINUTE_S for a, b in pairwise(found))


@given(st.lists(st.integers(0, 10**15), max_size=50))
def test_a_sparkline_is_one_block_a_value(values):
    """Nothing spent is empty, anything spent is seen, more is never lower."""
    drawn = sparkline(values)
    assert len(drawn) == len(values)
    for value, block in zip(values, drawn, strict=True):
        assert (block == " ") == (value == 0)
    order = [block for _, block in sorted(zip(values, drawn, strict=True))]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "$0.000000"), (1_234_567, "$0.001235"), (12_345 * USD, "$12,345.00")]
)
def test_short_amounts(nano, text):
    """Enough digits for a column."""
    assert short(nano) == text


PAGE = """# HELP hybrid_router_in_flight RPCs being served
hybrid_router_in_flight{otel_scope_name="hybrid_router"} 3.0
rpc_server_call_duration_seconds_count{rpc_method="a/B",rpc_status_code="OK"} 90.0
rpc_server_call_duration_seconds_count{rpc_method="a/B",rpc_status_code="UNAVAILABLE"} 2.0
rpc_server_call_duration_seconds_count{rpc_method="a/C",rpc_status_code="UNAVAILABLE"} 1.0
rpc_server_call_duration_seconds_count{rpc_method="a/C",rpc_status_code="CANCELLED"} 7.0
"""


def test_a_metrics_page_is_read():
    """What is in flight, and errors by status; a page without them tells nothing, which is not none."""
    assert in_flight(PAGE) == 3
    assert failures(PAGE) == (("CANCELLED", 7), ("UNAVAILABLE", 3))
    assert (in_flight("x 1\n"), failures("x 1\n")) == (None, None)


@pytest.fixture
def verb(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hybrid-router", "top", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return ended.value.code or 0, written.out, written.err

    return run


def test_one_frame(verb, tmp_path):
    """--once prints a frame and ends."""
    directory = book(tmp_path / "ledger", ("now", 1, {"started_time_s": time.time()}, priced(5)))
    code, out, _ = verb("--ledger", directory, "--once", "--window", "5")
    assert code == 0
    assert "last 5 min" in out
    assert "helpdesk" in out


def test_nobody_answers(verb):
    """--once of a router that is not there is exit code 1 and a line."""
    code, out, err = verb("--target", "127.0.0.1:9", "--once")
    assert (code, out) == (1, "")
    assert "UNAVAILABLE" in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--metrics", "http://x"), "--target"),
        (("--target", "x:1", "--ledger", "."), "--ledger"),
        (("--window", "0"), "--window"),
        (("--ledger", "nowhere"), "nowhere"),
    ],
)
def test_the_verb_refuses(verb, options, word):
    """Exit code 2, the option named."""
    code, out, err = verb(*options, "--once")
    assert (code, out) == (2, "")
    assert word in err


def test_a_ledger_that_breaks_is_unavailable(booked):
    """A damaged file ends no live view."""
    source = LedgerSource(booked / DATABASE, 5 * MINUTE_S)
    source.close()
    with pytest.raises(Unavailable):
        source.frame(NOW_S)
