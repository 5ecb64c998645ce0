"""Warms ahead of requests in a replay: what an opening, an action or a score brings about, and what that costs."""

import json
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cache.economics import Rates
from cache.prompt import Layer
from cache.regret import Regret, Result
from cache.schedule import Trigger
from router.bursts import SIZES as DOCUMENT
from router.bursts import Bursts, bursts
from router.cli import app
from router.month import SIZES, Kind, Session, Workload, month
from router.replay import Policy, Settings, decision, replay
from router.replay_choice import STRATEGIES
from router.replay_report import Tally
from router.replay_trace import OPENED, LayerEnd, TraceRow, in_order, read_trace
from router.replay_warming import Warm, WarmSettings
from router.signals import opened, signalled
from router.timeline import WorkloadError

LIST = Rates(1.25, 2.0, 0.1)
SIZE = 100
HEAD = (LayerEnd(10, Layer.TOOLS), LayerEnd(20, Layer.SYSTEM), LayerEnd(30, Layer.CONTEXT))
AHEAD = {Trigger.SESSION_START, Trigger.PREDICTION, Trigger.SCORE}
MADE_UP = Workload(SIZES[Kind.SAAS], 500, 0.6, 3, users=40)


def asked(turn, time_s, *, session="s", **changed):
    """A request of a conversation: tools, system, context, then 5 blocks a message."""
    layers = (*HEAD, *[LayerEnd(35 + 5 * place, Layer.HISTORY) for place in range(turn)])
    end = 35 + 5 * turn
    row = TraceRow(
        "n", session, "main", turn, time_s, end * SIZE, 50, SIZE, ((1, end),), "chat", ("text",), 1000, 1000,
        (*layers, LayerEnd(end, Layer.TURN)),
    )  # fmt: skip
    return row._replace(**changed)


def event(name, time_s, *, head=False, session="s"):
    runs, layers = (((1, 30),), HEAD) if head else ((), ())
    return asked(0, time_s, session=session)._replace(
        event=name, sequence=-1, runs=runs, layers=layers, input_tokens=3000 if head else 0, output_tokens=0
    )


def of_flash(turn, time_s, score, *, session="s"):
    return asked(turn, time_s, session=session)._replace(opus=False, score=score)


def run(rows, warm, *, policy=Policy.C, **kept):
    """What was served, what was sent, and what judged it; every warm sent and nobody switched off unless said."""
    warming = WarmSettings(**{"policy": warm, "hold_out": 0.0, "judged": False} | kept)
    pings, regret = [], Regret(second_usd=warming.second_units)
    world = Settings(512, LIST, "claude-opus-5", warming=warming)
    served = list(replay(rows, policy, world, on_ping=pings.append, regret=regret))
    return served, pings, regret


def made_up(**changed):
    workload = MADE_UP._replace(**changed)
    return list(
        signalled(month(workload), workload.sizes, workload.seed, lambda n, r: Session(n, r.randrange(40), 1))
    )


ROWS = made_up()

# --- what a warm does


def test_a_session_that_is_opened_is_read_by_its_first_request():
    """The warm writes tools, system and context; the request reads them, and its first token comes earlier."""
    rows = [event(OPENED, 0.0, head=True), asked(0, 20.0)]
    (cold,), none, _ = run(rows, Warm.OFF)
    (warm,), (ping,), regret = run(rows, Warm.SESSION_START)
    assert not none
    assert cold.split.read == 0
    assert ping.trigger is Trigger.SESSION_START
    assert (ping.split.write_5m, ping.split.write_1h) == (1000, 2000), "what all share, for an hour"
    assert warm.split.read == 3000
    (settled,) = regret.settled()
    assert settled.result is Result.USED
    # Never cheaper, as the economics say: it costs a read more than writing at once, and here an hour's write.
    assert settled.benefit_usd == pytest.approx((1.25 - 0.1) * 3000 - (1.25 * 1000 + 2 * 2000))


def test_what_is_warm_already_is_not_warmed_again():
    """The second opening of the context comes while the first request's entries live."""
    rows = [asked(0, 0.0, session="a"), event(OPENED, 60.0, head=True), asked(0, 70.0)]
    _, pings, _ = run(rows, Warm.SESSION_START)
    assert pings == []


def test_an_action_writes_the_sessions_last_prompt_back():
    """Lapsed after 400 s; the action, ten seconds ahead, names the session alone, and its last prompt is known."""
    rows = [asked(0, 0.0), event("upload_document", 400.0), asked(1, 410.0)]
    served, (ping,), _ = run(rows, Warm.PREDICTIVE)
    assert ping.trigger is Trigger.PREDICTION
    assert ping.split.write_5m + ping.split.write_1h == 3500 == served[1].split.read
    assert run(rows, Warm.OFF)[0][1].split.read == 0


@pytest.mark.parametrize("policy", [Policy.A, Policy.B, Policy.C, Policy.AUTO])
def test_what_is_written_ahead_is_read_under_every_policy(policy):
    """Under A and B tools, system and context alone: past these their traffic reads nothing."""
    rows = [asked(0, 0.0), asked(1, 60.0), event("upload_document", 4000.0), asked(2, 4010.0)]
    served, (ping,), _ = run(rows, Warm.PREDICTIVE, policy=policy)
    assert served[-1].split.read == ping.split.total == (3000 if policy in (Policy.A, Policy.B) else 4000)


def test_a_warm_looks_back_no_further_than_a_request():
    """The entry that an action wrote lies 30 positions before the last mark, out of reach: the context is read."""
    grown = [*[LayerEnd(end, Layer.HISTORY) for end in range(35, 65)], LayerEnd(65, Layer.TURN)]
    flash = of_flash(1, 100.0, 0.9)._replace(
        runs=((1, 65),), input_tokens=6500, layers=(*asked(0, 0.0).layers[:-1], *grown)
    )
    _, (first, then), _ = run([asked(0, 0.0), event("upload_document", 50.0), flash], Warm.PREDICTIVE)
    assert (first.split.read, first.split.write_5m) == (3000, 500)
    assert (then.split.read, then.split.total) == (3000, 6500)


def test_an_action_that_is_not_listed_or_of_nobody_known_warms_nothing():
    """Either the operator did not name it, or nothing is known of the session."""
    rows = [asked(0, 0.0), event("scrolled", 400.0), asked(1, 410.0)]
    assert run(rows, Warm.PREDICTIVE, actions=frozenset({"upload_document"}))[1] == []
    assert run([event("upload_document", 0.0), asked(0, 10.0)], Warm.PREDICTIVE)[1] == []


@pytest.mark.parametrize(("score", "sent"), [(0.9, 1), (0.21, 1), (0.1, 0)])
def test_a_turn_on_flash_warms_opus_by_its_score(score, sent):
    """It is not billed here; what it asked is what the next request begins with."""
    rows = [of_flash(0, 0.0, score), asked(1, 15.0)]
    served, pings, _ = run(rows, Warm.PREDICTIVE)
    assert len(served) == 1
    assert [ping.trigger for ping in pings] == [Trigger.SCORE] * sent
    assert served[0].split.read == 3500 * sent


@pytest.mark.parametrize("warm", [Warm.SESSION_START, Warm.PREDICTIVE, Warm.AUTO])
def test_a_trace_cut_short_is_decided_alike(warm):
    """Signals do not look ahead, the hold-out included."""
    warming = WarmSettings(policy=warm, hold_out=0.2, second_units=5000.0, prefill_s_per_token=8e-5)
    world = Settings(512, LIST, "claude-opus-5", warming=warming)
    whole = [(decision(each), each.split) for each in replay(ROWS, Policy.AUTO, world)]
    for length in (50, len(ROWS) // 2):
        requests = sum(row.billed for row in ROWS[:length])
        cut = [(decision(each), each.split) for each in replay(ROWS[:length], Policy.AUTO, world)]
        assert cut == whole[:requests]


# --- whether it pays


def test_auto_does_not_warm_ahead_unless_a_second_is_worth_something():
    """In money alone it never pays; where waiting is dear it does, and first tokens come earlier for it."""
    documents = list(
        signalled(bursts(Bursts(requests_per_day=600, days=0.5)), DOCUMENT, 0, lambda n, _: Session(n, n, 1))
    )
    for rows in (ROWS, documents):
        _, pings, _ = run(rows, Warm.AUTO, policy=Policy.AUTO)
        assert not {ping.trigger for ping in pings} & AHEAD
    waiting = {}
    for second_units in (0.0, 100_000.0):
        served, pings, _ = run(
            documents, Warm.AUTO, policy=Policy.AUTO, second_units=second_units, prefill_s_per_token=8e-5
        )
        waiting[second_units] = sum(each.row.input_tokens - each.split.read for each in served)
        assert bool({ping.trigger for ping in pings} & AHEAD) == (second_units > 0)
    assert waiting[100_000.0] < waiting[0.0]


def test_openings_that_come_to_nothing_are_switched_off():
    """Each is a write for nobody: after thirty they stop for a while, and the figures say how many."""
    rows = [asked(0, 0.0, session="first")]
    rows += [event(OPENED, 1000.0 * place, head=True, session=f"idle {place}") for place in range(1, 61)]
    rows.append(asked(0, 62_000.0, session="last"))
    _, pings, regret = run(rows, Warm.SESSION_START, judged=True)
    assert len(pings) < 40
    assert {each.result for each in regret.settled()} == {Result.WASTED}
    world = Settings(
        512, LIST, "claude-opus-5", warming=WarmSettings(policy=Warm.SESSION_START, hold_out=0.0)
    )
    tally = Tally(Policy.C, LIST)
    for served in replay(rows, Policy.C, world, on_ping=tally.add_warm):
        tally.add(served)
    figures = tally.figures()
    assert figures.switched_off == 60 - len(pings)
    assert figures.warms == len(pings)


def test_a_share_of_them_is_held_out_and_stays_cold():
    """At random by name; the request that comes pays in full, and no second signal warms it after all."""
    rows = []
    for number in range(200):
        start = 1000.0 * number
        rows += [
            event(OPENED, start, head=True, session=str(number)),
            event("click_advanced_mode", start + 5.0, head=True, session=str(number)),
            asked(0, start + 20.0, session=str(number)),
        ]
    served, pings, regret = run(rows, Warm.SESSION_START, hold_out=0.3)
    held = sum(each.result is Result.HELD_OUT for each in regret.settled())
    assert 40 < held < 80
    assert len(pings) == 200 - held == sum(each.split.read >= 3000 for each in served)


# --- the signals of made-up traffic


def test_the_requests_are_what_they_are_without_signals():
    """To the row, so that a bill without warms is the same with them; all of it in order of time."""
    requests = [row for row in ROWS if row.billed]
    assert requests == list(month(MADE_UP))
    assert all(before.time_s <= after.time_s for before, after in pairwise(ROWS))
    world = Settings(512, LIST, "claude-opus-5")
    for policy in (Policy.AUTO, Policy.C):
        bills = [[each.split for each in replay(rows, policy, world)] for rows in (ROWS, requests)]
        assert bills[0] == bills[1]


def test_signals_come_to_something_as_often_as_they_say():
    """Openings, actions and turns on Flash: the shares of the design, those that come to nothing included."""
    rows = made_up(requests_per_day=4000, days=1)
    requests = [row for row in rows if row.billed]
    asks = {row.session for row in requests}
    openings = [row for row in rows if row.event == OPENED]
    idle = sum(row.session not in asks for row in openings)
    assert idle / (len(openings) - idle) == pytest.approx(0.4, abs=0.06)
    acted = [row for row in rows if row.event not in ("", OPENED)]
    assert len(acted) / len(requests) == pytest.approx(0.65, abs=0.04)
    assert len(Counter(row.event for row in acted)) == 5
    flash = [row for row in rows if not row.opus]
    assert len(flash) / len(requests) == pytest.approx(0.6, abs=0.04)
    for low in (0.2, 0.4, 0.6):
        band = [row for row in flash if low <= row.score < low + 0.2]
        escalated = sum(row.session in asks for row in band) / len(band)
        middle = low + 0.1
        assert escalated == pytest.approx(middle**3 / (middle**3 + (1 - middle) ** 3), abs=0.1)


# --- the format


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(ROWS), min_size=1, max_size=12))
def test_rows_survive_the_file(rows):
    """Events, turns on Flash and requests, with what is optional left out where it says nothing."""
    bare = [row._replace(layers=()) for row in (*rows, asked(0, 1e6))]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "trace.jsonl"
        path.write_text("".join(json.dumps(spelled(row)) + "\n" for row in bare))
        assert read_trace(path) == in_order(bare)


def spelled(row):
    found = {"ns": row.namespace, "session": row.session, "stream": row.stream, "t": row.time_s}
    found |= {"model": row.kind, "tools_tok": row.tools_tokens, "system_tok": row.system_tokens}
    found |= {"bs": row.block_tokens, "blocks": row.runs, "new": row.added}
    if row.event:
        return found | {"event": row.event}
    found |= {"seq": row.sequence, "in": row.input_tokens, "out": row.output_tokens}
    if row.opus:
        return found
    return found | {"route": "flash", "score": row.score}


def test_an_event_needs_a_name_a_session_and_a_time(tmp_path):
    """What it does not say is as a session's last request left it."""
    path = tmp_path / "trace.jsonl"
    told = {"ns": "n", "session": "s", "stream": "main", "t": 3.0, "event": "upload_document"}
    path.write_text(json.dumps(told) + "\n" + json.dumps(spelled(asked(0, 0.0))) + "\n")
    _, found = read_trace(path)
    assert (found.event, found.runs, found.input_tokens, found.billed) == ("upload_document", (), 0, False)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"route": "haiku"}, "route: is opus or flash"),
        ({"score": 1.5}, "score: is a chance"),
        ({"score": "x"}, "not a"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, changed, says):
    """With file and line."""
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(spelled(asked(0, 0.0)) | changed) + "\n")
    with pytest.raises(WorkloadError, match=rf"trace\.jsonl:1: {says}"):
        read_trace(path)


def test_a_trace_of_signals_alone_is_none(tmp_path):
    """There is nothing to bill."""
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(spelled(event(OPENED, 0.0, head=True))) + "\n")
    with pytest.raises(WorkloadError, match="no requests in it"):
        read_trace(path)


# --- the command


def invoked(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)], env={"COLUMNS": "80"})


def test_every_strategy_is_compared_side_by_side(tmp_path):
    """One row each, in the table, the JSON and the picture; no figure is cut in 80 columns."""
    size = ("--workload", "saas", "--model", "claude-opus-5", "--requests-per-day", 400, "--days", 0.6)
    picture = tmp_path / "all.png"
    result = invoked(*size, "--strategies", "--no-judged", "--plot", picture)
    assert result.exit_code == 0, result.output
    assert "…" not in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = invoked(*size, "--strategies", "--no-judged", "--json").stdout
    found = json.loads(report)["policies"]
    names = ["auto" if warm is Warm.OFF else f"auto + {warm.value}" for warm in STRATEGIES]
    assert [each["policy"] for each in found] == names
    for name in names:
        assert name in result.stdout
    warms = {each["policy"]: each["warms"] for each in found}
    assert min(warms["auto + session_start"], warms["auto + predictive"], warms["auto + keep_alive"]) > 20
    by_name = {each["policy"]: each for each in found}
    assert by_name["auto + predictive"]["first_token_s"] < by_name["auto"]["first_token_s"]
    assert by_name["auto + predictive"]["cost_units"] > by_name["auto"]["cost_units"]
    saved = tmp_path / "saved.json"
    saved.write_text(report)
    check = ("--no-judged", "--baseline", saved, "--max-cost-increase", "0%")
    assert invoked(*size, "--warm", "predictive", *check).exit_code == 0, (
        "its own row of the report, to the unit"
    )


@pytest.fixture
def recorded(tmp_path):
    """Two agents without signals, whose tools and system prompt are known by size."""
    path = tmp_path / "trace.jsonl"
    rows = [asked(turn, 40.0 * turn, session=name, namespace=name) for name in "ab" for turn in range(3)]
    path.write_text("".join(json.dumps(spelled(row)) + "\n" for row in rows))
    return path


def test_openings_that_no_trace_tells_are_assumed_and_said(recorded):
    """Ten seconds ahead, with what the application's layers are; in the report, too."""
    result = invoked(
        recorded, "--warm", "session_start", "--policy", "c", "--no-judged", "--hold-out", 0, "--json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["policies"][0]["warms"] == 2
    (note,) = report["notes"]
    assert "2 sessions are taken to be opened 10 s before" in note
    assert "best case" in note


def test_openings_are_assumed_where_layers_are_known_too():
    """As of a ledger: up to the end of the system prompt, and once for a session."""
    rows = list(opened([asked(0, 50.0), asked(1, 90.0), asked(0, 60.0, session="t")]))
    openings = [row for row in rows if row.event]
    assert [(row.session, row.time_s, row.runs, row.layers) for row in openings] == [
        ("s", 40.0, ((1, 20),), HEAD[:2]),
        ("t", 50.0, ((1, 20),), HEAD[:2]),
    ]
    _, pings, _ = run(rows, Warm.SESSION_START)
    assert [ping.split.total for ping in pings] == [2000], "the second finds it warm"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--warm", "predictive"), "tells no user's action"),
        (("--warm", "session_start", "--policy", "5m"), "a policy that plans what to read"),
        (("--warm", "session_start", "--decisions", "out.jsonl"), "fall between requests"),
        (("--strategies", "--warm", "auto"), "leave one of them out"),
        (("--second-usd", "0.01"), "give --model"),
    ],
)
def test_what_does_not_go_together_is_refused(recorded, options, says):
    """With a sentence that says why, before the run."""
    result = invoked(recorded, *options)
    assert result.exit_code != 0
    assert says in str(result.exception)
