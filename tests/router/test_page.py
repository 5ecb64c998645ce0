"""The report page: self-contained, escaped, the same bytes for the same ledger, a table behind every chart."""

import asyncio
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.regret import Result
from router.cli import main
from router.feedback import Feedback, Verdict
from router.ledger import DATABASE, Filter, Ledger, LedgerReader
from router.money import usd
from router.page import figures_of, page
from router.page.charts import (
    Frame,
    Series,
    bars,
    columns,
    dollars,
    duration,
    line,
    percent,
    ranges,
    reliability,
)
from router.page.figures import DAY_S, HOUR_S, WEEK_S, spans_of
from router.report import Row, summarise
from router.settlement import Outcome
from tests.golden.compare import assert_golden
from tests.router.ledger_samples import START_S, StillClock, a_verdict
from tests.router.report_calls import KINDS_OF_CALLS, USD, book, priced

CENT = USD // 100
FRAME = Frame(key="k", title="T <&>", detail='D "quoted"')


@pytest.fixture
def booked(tmp_path):
    return book(tmp_path / "ledger", *KINDS_OF_CALLS)


def figures(directory, where=None):
    with LedgerReader.open(directory / DATABASE) as reader:
        return figures_of(reader, where)


class Outline(HTMLParser):
    """Tags with their attributes, and text by the tag it stands in."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))


def test_figures_are_the_ledger_s(booked):
    """Spend, answers, overhead, savings and misses are the sums of what was booked."""
    found = figures(booked)
    assert found.total.cost_nano_usd == 64 * CENT
    assert (found.total.unknown_calls, found.total.unknown_bound_nano_usd) == (2, 180_000_000)
    assert sum(money.cost_nano_usd for money in found.answers.values()) == 58 * CENT
    assert (found.overhead_nano_usd, found.padding.cost_nano_usd) == (6 * CENT, 2 * CENT)
    assert found.net_nano_usd("no_caching") == 7 * CENT
    assert found.net_nano_usd("all_flash") == -22 * CENT
    assert [(row.group["cause"], row.lost_nano_usd) for row in found.misses] == [("ttl_lapsed", CENT)]
    assert [group.key for group in found.sessions] == [("acme", "s1"), ("<bolt> & co", "s2")]


def test_moments_have_no_gap_and_add_up(booked):
    """Two days, cut into hours: every hour is there, and all of them are the whole."""
    found = figures(booked)
    starts = [moment.start_s for moment in found.moments]
    assert found.width_s == HOUR_S
    assert starts == list(range(starts[0], starts[-1] + 1, HOUR_S))
    assert sum(sum(moment.spent_nano_usd.values()) for moment in found.moments) == 64 * CENT
    assert found.moments[5].net_nano_usd is None
    assert found.moments[5].hit_rate is None


@pytest.mark.parametrize(
    ("days", "width_s"), [(0, HOUR_S), (3, HOUR_S), (4, DAY_S), (100, DAY_S), (101, WEEK_S)]
)
def test_spans_suit_the_window(days, width_s):
    """Hours, days or weeks, never more than about a hundred of them in what a year is; weeks begin on Monday."""
    spans = spans_of(START_S, START_S + days * DAY_S)
    assert spans.width_s == width_s
    if width_s == WEEK_S:
        assert (spans.start_s(2955) - 4 * DAY_S) % WEEK_S == 0


def test_the_page_is_self_contained(booked):
    """No script, nothing loaded, nothing linked: it can be mailed and opened anywhere."""
    text = page(figures(booked))
    outline = Outline(text)
    tags = {tag for tag, _ in outline.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "a", "image", "use"}
    assert not {"src", "href", "xlink:href", "onclick", "style"} & {
        name for _, attrs in outline.tags for name in attrs
    }
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert "@import" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text
    assert outline.open == []


def test_every_chart_is_named_described_and_tabled(booked):
    """role=img with a title and a description of its own, and a table in the same card."""
    text = page(figures(booked))
    charts = [attrs for tag, attrs in Outline(text).tags if tag == "svg"]
    ids = [attrs["id"] for _, attrs in Outline(text).tags if "id" in attrs]
    assert len(charts) >= 10
    assert len(ids) == len(set(ids))
    for chart in charts:
        assert chart["role"] == "img"
        assert set(chart["aria-labelledby"].split()) <= set(ids)
    cards = re.findall(r"<section.*?</section>", text, re.DOTALL)
    assert all("<table>" in card for card in cards if "<svg" in card)
    assert all(attrs.get("scope") in {"col", "row"} for tag, attrs in Outline(text).tags if tag == "th")


def test_names_are_escaped(booked):
    """A tenant may be called <bolt> & co, and stays text."""
    text = page(figures(booked), title="<script>alert(1)</script>")
    assert "&lt;bolt&gt; &amp; co" in text
    assert "<bolt>" not in text
    assert "<script" not in text


def test_unknown_is_said_with_its_bound(booked):
    """Neither a tile nor a table shows unknown spend as 0."""
    text = page(figures(booked))
    assert "2 calls of unknown cost, at most $0.180000000" in text
    overhead = re.search(r"<h2>Overhead of our own.*?</section>", text, re.DOTALL)[0]
    assert '<th scope="row">Probes</th><td>1</td><td>unknown</td>' in overhead


def test_the_same_ledger_gives_the_same_bytes(booked):
    """No clock and no order of chance in it."""
    assert page(figures(booked)) == page(figures(booked))


def test_the_structure_of_the_page(booked):
    """Headings and sentences, as they read from top to bottom; rewritten by one flag and reviewed as a diff."""
    words = [
        f"{tag}: {data}"
        for tag, data in Outline(page(figures(booked))).texts
        if tag in {"h1", "h2", "p", "dd"}
    ]
    assert_golden("report_page.txt", "\n".join(words) + "\n")


def test_a_window_without_calls(booked):
    """Said plainly, by a page that is one."""
    text = page(figures(booked, Filter(since_s=START_S + 10 * DAY_S)))
    assert "No call in this window" in text
    assert Outline(text).open == []


@pytest.fixture
def feedback(booked):
    """Return a function that gives (request, source, verdict, score) to the ledger, as FeedbackService does."""

    async def give(ledger, rows):
        for request_id, source, verdict, score in rows:
            receipt = await ledger.feedback(
                Feedback(
                    request_id=request_id,
                    tenant="acme",
                    source=source,
                    verdict=Verdict(verdict) if verdict else None,
                    score=score,
                    time_s=START_S,
                )
            )
            assert receipt.kept

    def add(*rows):
        ledger = Ledger.open(booked, clock=StillClock())
        asyncio.run(give(ledger, rows))
        ledger.close_blocking()
        return booked

    return add


def test_calibration_is_of_what_feedback_says(feedback):
    """An opinion on Opus's answer says nothing of Flash; sources that disagree count by share; a score is silent."""
    directory = feedback(
        ("plain", "ann", "opus_needed", None),
        ("padded", "ann", "flash_sufficed", None),
        ("padded", "bob", "opus_needed", None),
        ("again", "ann", "good", None),
        ("drawn", "ann", "bad", None),
        ("better", "ann", "", 0.3),
    )
    judged = figures(directory).judged
    assert (judged.requests, judged.silent) == (3, 2)
    (only,) = judged.bins
    assert (only.number, only.count) == (8, 3)
    assert only.mean == pytest.approx(0.8)
    assert only.came_true == pytest.approx((1 + 0.5 + 1) / 3)
    assert judged.brier == pytest.approx((0.04 + 0.09 + 0.04) / 3)
    assert "3 requests, Brier score 0.057" in page(figures(directory))


def test_calibration_without_feedback_is_said(feedback):
    """No judgement, or none that says: a sentence, no diagram."""
    assert "No feedback of this window says" in page(figures(feedback()))
    assert "1 judged request did not have that said" in page(
        figures(feedback(("plain", "ann", "good", None)))
    )


@given(st.lists(st.floats(0.0001, 100.0), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_percentiles_are_nearest_rank(tmp_path_factory, values):
    """As the run report counts them, to a tenth of a millisecond, rounded down."""
    directory = tmp_path_factory.mktemp("latency") / "ledger"
    book(directory, *((f"r{n}", 1, {}, {"duration_s": value}) for n, value in enumerate(values)))
    (found,) = figures(directory).duration
    rows = [Row(number=n, id="", client_total_s=value) for n, value in enumerate(values)]
    expected = next(entry for entry in summarise(rows).latencies if entry.name == "total").at
    assert found.at == pytest.approx([expected[p] for p in (50, 90, 99)], abs=1.01e-4)
    assert all(mine <= theirs + 1e-9 for mine, theirs in zip(found.at, expected.values(), strict=True))


def test_latency_is_of_answers_that_ended_well(tmp_path):
    """A call that was left early is not a quick one."""
    directory = book(
        tmp_path,
        ("a", 1, {}, {"duration_s": 3.0}),
        ("b", 1, {}, {"duration_s": 0.1, "outcome": Outcome.CANCELLED}),
    )
    (found,) = figures(directory).duration
    assert (found.calls, found.at) == (1, (3.0, 3.0, 3.0))


# --- charts
# --------------------------------------------------------------------------------------------------------------

amounts = st.none() | st.floats(-1e15, 1e15) | st.just(0.0)


def numbers_of(svg):
    """All coordinates of a drawing, which must be well-formed."""
    found = []
    for node in ElementTree.fromstring(svg).iter():
        found += [
            float(node.attrib[name])
            for name in ("x", "y", "cx", "cy", "r", "width", "height")
            if name in node.attrib
        ]
    return found


@given(st.lists(st.tuples(amounts, amounts), max_size=120))
@settings(deadline=None)
def test_columns_stay_in_their_drawing(pairs):
    """Whatever the amounts: well-formed, finite, within the frame, no negative height."""
    series = [Series(name=f"s{k}", style="opus", values=tuple(p[k] for p in pairs)) for k in (0, 1)]
    drawn = numbers_of(columns(FRAME, [f"<{n}>" for n in range(len(pairs))], series, dollars))
    assert all(-0.2 <= number <= 400 for number in drawn)


@given(st.lists(st.none() | st.floats(0, 1), max_size=60), st.none() | st.floats(0, 1))
def test_a_line_breaks_where_nothing_is_known(values, target):
    """One dot a known value, one stroke a run of them."""
    svg = line(
        FRAME,
        [str(n) for n in range(len(values))],
        Series(name="s", style="opus", values=tuple(values)),
        percent,
        target=target,
    )
    runs = sum(v is not None and (n == 0 or values[n - 1] is None) for n, v in enumerate(values))
    nodes = list(ElementTree.fromstring(svg).iter())
    assert sum(node.tag == "circle" for node in nodes) == sum(value is not None for value in values)
    paths = [node.attrib["d"] for node in nodes if node.attrib.get("class") == "line opus"]
    assert sum(path.count("M") for path in paths) == runs


@given(st.lists(st.tuples(st.text(max_size=60), st.none() | st.floats(0, 1e15)), max_size=12))
def test_bars_say_what_they_cannot_draw(rows):
    """A name is never markup; unknown is a word."""
    clean = [("".join(c for c in name if c.isprintable()), value) for name, value in rows]
    svg = bars(FRAME, [name for name, _ in clean], [value for _, value in clean], "bad", dollars)
    assert all(-0.2 <= number <= 400 for number in numbers_of(svg))
    assert svg.count(">unknown<") >= sum(value is None for _, value in clean)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**9)), max_size=10))
def test_reliability_stays_in_its_drawing(points):
    """Chances and shares are in [0, 1], so dots are in the frame."""
    assert all(0 <= number <= 360 for number in numbers_of(reliability(FRAME, points, "opus")))


@given(st.lists(st.lists(st.floats(0, 3600), min_size=3, max_size=3).map(sorted), min_size=1, max_size=4))
def test_ranges_stay_in_their_drawing(rows):
    """Also a latency of 0, which a logarithm does not know."""
    svg = ranges(FRAME, [("n", "opus", tuple(values)) for values in rows], duration)
    assert all(-0.2 <= number <= 400 for number in numbers_of(svg))


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0"),
        (1, "$0.00000000100"),
        (5_000_000, "$0.00500"),
        (970_000_000, "$0.970"),
        (USD, "$1.00"),
        (-12_345_000_000, "-$12.35"),
        (123 * USD, "$123"),
        (1234 * USD, "$1.23k"),
        (5_600_000 * USD, "$5.6M"),
    ],
)
def test_short_amounts(nano, text):
    """Three digits, sign before the dollar."""
    assert dollars(nano) == text


# --- the verb
# --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def verb(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hybrid-router", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return ended.value.code or 0, written.out, written.err

    return run


def test_the_verb_writes_one_file(verb, booked, tmp_path):
    """The page and nothing beside it; - is standard output, the same bytes."""
    code, out, err = verb("--ledger", booked, "--out", "r.html")
    assert (code, out) == (0, "")
    assert "r.html" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger", "r.html"]
    assert verb("--ledger", booked, "--out", "-")[1] == (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_verb_narrows(verb, booked):
    """By time, half open, by tenant; the page says so."""
    _, first, _ = verb("--ledger", booked, "--until", "2026-11-23", "--out", "-")
    assert "10 calls" in first
    assert usd(53 * CENT) in first
    _, bolt, _ = verb("--ledger", booked, "--tenant", "<bolt> & co", "--out", "-")
    assert "1 call, only tenant = &lt;bolt&gt; &amp; co" in bolt


@pytest.mark.parametrize(
    ("options", "word"),
    [(("--since", "x"), "--since"), (("--since", "2026-11-23", "--until", "2026-11-22"), "--until")],
)
def test_the_verb_refuses(verb, booked, options, word):
    """Exit code 2, the option named, no file."""
    code, out, err = verb("--ledger", booked, *options, "--out", "r.html")
    assert (code, out) == (2, "")
    assert word in err


def test_a_quiet_ledger_has_a_page(tmp_path):
    """One call, no counterfactual, no score: everything else is said to be missing."""
    directory = book(
        tmp_path, ("r", 1, {}, priced(1) | {"decision": None, "first_byte_s": None, "cache": None})
    )
    text = page(figures(directory))
    assert "No answer of this window carries a score." in text
    assert "Nothing was believed warm" in text
    assert "Every call&#x27;s cost is known" in text


def test_warms_are_told_by_whom_they_were_for(tmp_path):
    """Counts, money and the estimate by the hold-out, where there is one; elsewhere its absence is said."""
    directory = book(tmp_path / "ledger", *KINDS_OF_CALLS)
    assert "No decision to warm is settled" in page(figures(directory))
    ledger = Ledger.open(directory, clock=StillClock())
    for number, (result, benefit) in enumerate(
        ((Result.USED, 96_000_000), (Result.WASTED, -4_000_000), (Result.HELD_OUT, 0), (Result.HELD_OUT, 0))
    ):
        ledger.warm(
            a_verdict(
                warm_id=f"w{number}",
                tenant="<bolt>",
                result=result,
                benefit_nano_usd=benefit,
                cost_nano_usd=4_000_000,
            )
        )
    ledger.warm(a_verdict(warm_id="alone", result=Result.SUPERFLUOUS, benefit_nano_usd=-4_000_000))
    ledger.close_blocking()
    found = figures(directory)
    assert [(row.group["tenant"], row.used, row.wasted, row.held_out) for row in found.warms] == [
        ("<bolt>", 1, 1, 2),
        ("acme", 0, 0, 0),
    ]
    text = page(found)
    assert "&lt;bolt&gt;" in text
    estimate = found.warms[0].estimate
    assert f"{usd(round(estimate.usd * 1e9))} ({usd(round(estimate.low_usd * 1e9))} to " in text
    assert found.warms[1].estimate is None
    assert figures(directory, Filter(equal={"user": "u1"})).warms == ()


def test_what_is_kept_as_sums_alone_is_told_apart(tmp_path):
    """Where the window reaches back so far; by what a sum does not keep, that it cannot be."""
    directory = book(tmp_path / "ledger", *KINDS_OF_CALLS)
    ledger = Ledger.open(directory, clock=StillClock())
    assert ledger.prune_blocking(START_S + 86_400.0) == 10
    ledger.close_blocking()
    text = page(figures(directory))
    assert (
        f"1 call. Not on this page: calls from before 2026-11-23, kept as sums by day (10 calls, {usd(53 * CENT)})"
        in text
    )
    assert "Not on this page" not in page(figures(directory, Filter(since_s=START_S + 86_400.0)))
    assert "kept as sums by day." in page(figures(directory, Filter(equal={"user": "u1"})))
