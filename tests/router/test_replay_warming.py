"""Keep-alives in a replay: from the past only, billed as written down, gaining where they pay, stopped where not."""

import heapq
import json

import pytest
from typer.testing import CliRunner

from cache.economics import Rates, cost_units
from cache.facts import FactId, Facts
from cache.regret import Regret, estimate
from router.bursts import Bursts, bursts
from router.cli import app
from router.month import SIZES as MONTH_SIZES
from router.month import Kind, Workload, month
from router.replay import Policy, Settings, decision, replay
from router.replay_provider import ReferenceCache
from router.replay_report import Tally
from router.replay_trace import TraceRow, in_order
from router.replay_warming import Warm, WarmSettings

LIST = Rates(1.25, 2.0, 0.1)
A2 = Facts(hour_mark_extends_read_prefix=True, verified=frozenset({FactId.A2}))
WINNING = list(bursts(Bursts(requests_per_day=1200, days=1.0, seed=3)))
LOSING = list(bursts(Bursts(losing=True, requests_per_day=4000, days=1.0, seed=3)))


def figures(rows, warm, policy=Policy.AUTO, facts=None, **settings):
    """What a replay came to; the regret ledger of its warms."""
    kept = Settings(512, LIST, "claude-opus-5", warming=WarmSettings(policy=warm, **settings))
    if facts is not None:
        kept = kept._replace(facts=facts)
    tally, regret = Tally(policy, LIST), Regret()
    for served in replay(rows, policy, kept, on_ping=tally.add_warm, regret=regret):
        tally.add(served)
    return tally.figures(regret), regret


def decided(rows, warm, **settings):
    kept = Settings(512, LIST, "claude-opus-5", warming=WarmSettings(policy=warm, **settings))
    return [decision(served) for served in replay(rows, Policy.AUTO, kept)]


# --- decisions


@pytest.mark.parametrize("warm", [Warm.AUTO, Warm.KEEP_ALIVE, Warm.SHARED])
def test_a_trace_cut_short_is_decided_alike(warm):
    """Marks and keep-alives of a request do not depend on what comes after it, the hold-out included."""
    whole = decided(WINNING, warm, hold_out=0.2)
    for length in (40, len(WINNING) // 2):
        assert decided(WINNING[:length], warm, hold_out=0.2) == whole[:length]


def judged(rows, decisions, minimum=512):
    """Cost and keep-alives by the decisions as written down, on a clock of its own: as the documented judge does it.

    A keep-alive reads the longest entry its request left; it ends with the conversation's next request.
    """
    cache, latest, events = ReferenceCache(minimum), {}, []
    for place, row in enumerate(rows):
        heapq.heappush(events, (row.time_s, 1, place, 0))
    units, pings, sent = 0.0, 0, {}
    while events:
        now, kind, place, left = heapq.heappop(events)
        row, told = rows[place], decisions[place]
        whose, size = (row.session, row.stream), row.block_tokens
        marks = [(tokens // size, 3600 if ttl == "1h" else 300) for tokens, ttl in told["bp"]]
        if told["ttl"] != "none":
            marks.append((row.whole_blocks, 3600 if told["ttl"] == "1h" else 300))
        if kind == 1:
            split = cache.serve(
                row.runs,
                whole_blocks=row.whole_blocks,
                input_tokens=row.input_tokens,
                block_tokens=size,
                marks=marks,
                now_s=now,
            )
            units += cost_units(split, LIST)
            latest[whose] = place
            sent[place] = (split.read + split.write_5m + split.write_1h) // size
            left = told["keepalive"]
        elif latest[whose] == place:
            end = sent[place]
            split = cache.serve(
                row.runs,
                whole_blocks=end,
                input_tokens=end * size,
                block_tokens=size,
                marks=[(end, 300)],
                now_s=now,
            )
            units, pings, left = units + cost_units(split, LIST), pings + 1, left - 1
        else:
            continue
        if left > 0:
            heapq.heappush(events, (now + told["every"], 0, place, left))
    return units, pings


@pytest.mark.parametrize("warm", [Warm.AUTO, Warm.KEEP_ALIVE])
def test_the_bill_is_that_of_the_decisions_written_down(warm):
    """Keep-alive by keep-alive: what is in the file is what was done, and nothing else."""
    settings = Settings(512, LIST, "claude-opus-5", warming=WarmSettings(policy=warm, hold_out=0.05))
    tally = Tally(Policy.AUTO, LIST)
    told = []
    for served in replay(WINNING, Policy.AUTO, settings, on_ping=tally.add_warm):
        tally.add(served)
        told.append(decision(served))
    found = tally.figures()
    assert found.warms > 20
    units, pings = judged(WINNING, told)
    assert pings == found.warms
    assert units == pytest.approx(found.cost_units)


def row(sequence, time_s, blocks, **kwargs):
    return TraceRow("n", "s", "main", sequence, time_s, blocks * 100, 100, 100, ((1, blocks),), **kwargs)


def test_keep_alives_end_with_the_conversations_next_request_and_keep_what_it_reads():
    """Three at 285 s; the fourth would be too late, and the request after 700 s reads all of it, without pings cold."""
    rows = in_order([row(0, 0.0, 40), row(1, 700.0, 50), row(2, 5000.0, 60)])
    for warm, read, times in ((Warm.OFF, 0, []), (Warm.KEEP_ALIVE, 4000, [285.0, 570.0])):
        pings = []
        settings = Settings(512, LIST, warming=WarmSettings(policy=warm, hold_out=0.0))
        served = list(replay(rows, Policy.TTL_5M, settings, on_ping=pings.append))
        assert served[1].split.read == read
        assert [ping.now_s for ping in pings][: len(times)] == times
        assert all(ping.split.uncached == ping.split.write_5m == 0 for ping in pings)
        assert len(pings) == (8 if times else 0), (
            "two, then three each after the second and the third request"
        )


# --- what they are worth


def test_auto_gains_where_waits_are_known_and_documents_large():
    """More than a tenth of the input's cost, hold-out included; one keep-alive brings what its interval says."""
    off, _ = figures(WINNING, Warm.OFF)
    auto, _ = figures(WINNING, Warm.AUTO)
    fixed, _ = figures(WINNING, Warm.KEEP_ALIVE)
    print(
        f"winning: {auto.cost_units / off.cost_units:.3f} of none, three always {fixed.cost_units / off.cost_units:.3f}"
    )
    assert auto.cost_units < 0.9 * off.cost_units
    assert auto.cost_units < fixed.cost_units
    assert auto.warm_share < 0.15
    assert auto.switched_off == 0
    assert auto.warm_estimate is not None
    assert auto.warm_estimate.low_usd > 0


def test_keep_alives_are_switched_off_where_they_begin_to_lose():
    """Nobody comes back any more, against all that was learnt: judged ones stop, unjudged ones go on paying."""
    judging, _ = figures(LOSING, Warm.AUTO)
    trusting, _ = figures(LOSING, Warm.AUTO, judged=False)
    assert judging.switched_off > 100
    assert trusting.switched_off == 0
    assert judging.warms < 0.8 * trusting.warms
    assert judging.cost_units < trusting.cost_units


def test_keep_alives_that_never_pay_are_switched_off_for_the_policy_that_only_counts():
    """It would cost a tenth more; judged, it is within a few percent of none."""
    rows = [each for each in LOSING if each.time_s > 0.2 * 86_400]
    off, _ = figures(rows, Warm.OFF)
    auto, _ = figures(rows, Warm.AUTO)
    judging, _ = figures(rows, Warm.KEEP_ALIVE)
    trusting, _ = figures(rows, Warm.KEEP_ALIVE, judged=False)
    assert auto.cost_units <= 1.005 * off.cost_units
    assert judging.cost_units < 1.05 * off.cost_units
    assert trusting.cost_units > 1.1 * off.cost_units
    assert judging.warms < 0.3 * trusting.warms


def test_the_documents_pinger_loses_to_an_hours_mark_on_little_traffic():
    """A hundred requests a day: 360 pings a day; what is chosen by value costs less than with or without."""
    rows = list(month(Workload(MONTH_SIZES[Kind.AGENTIC], 100, 2, 1)))
    bare, _ = figures(rows, Warm.OFF, Policy.C)
    pinged, _ = figures(rows, Warm.FOUR_MINUTES, Policy.C)
    auto, _ = figures(rows, Warm.AUTO)
    span_s = rows[-1].time_s - rows[0].time_s
    assert pinged.warms == pytest.approx(span_s / 240, abs=2)
    assert auto.cost_units < min(bare.cost_units, pinged.cost_units)


def test_shared_layers_are_kept_by_their_uses():
    """Rare sessions of one application: kept by policy at all costs, by value where it pays, and told apart."""
    rows = list(month(Workload(MONTH_SIZES[Kind.AGENTIC], 60, 2, 1)))
    pings = []
    settings = Settings(
        512, LIST, "claude-opus-5", warming=WarmSettings(policy=Warm.SHARED, hold_out=0.0, judged=False)
    )
    for _ in replay(rows, Policy.AUTO, settings, on_ping=pings.append):
        pass
    assert pings
    assert {ping.trigger.value for ping in pings} == {"shared"}
    assert all(ping.split.total == 10_000 for ping in pings)


# --- the hold-out


def test_the_hold_out_recovers_a_planted_benefit_over_many_seeds():
    """What a keep-alive brings is planted by how often waits end, and known from one long draw of the same traffic,
    with and without them; the estimate of each short draw holds it in its 95 % interval nearly always.
    """
    long = list(bursts(Bursts(requests_per_day=900, days=3.0, seed=999)))
    pinged, _ = figures(long, Warm.KEEP_ALIVE, Policy.TTL_5M, hold_out=0.3, judged=False)
    bare, _ = figures(long, Warm.OFF, Policy.TTL_5M)
    truth = (bare.cost_units - pinged.cost_units) / pinged.warms
    hits, seeds = 0, 12
    for seed in range(seeds):
        rows = list(bursts(Bursts(requests_per_day=500, days=1.0, seed=seed)))
        _, regret = figures(rows, Warm.KEEP_ALIVE, Policy.TTL_5M, hold_out=0.3, judged=False)
        told = estimate(regret.settled())
        assert told is not None
        hits += told.low_usd <= truth <= told.high_usd
    print(f"planted {truth:,.0f} units a keep-alive, in {hits} of {seeds} intervals")
    assert hits >= 10, "95 % of 12, less two deviations"


# --- other worlds


def test_the_upgrade_ping_gains_in_the_world_where_it_holds_and_is_not_sent_elsewhere():
    """Returns spread over the hour: one ping that buys the hour beats any number of five-minute ones."""
    rows = []
    for session in range(120):
        start = session * 4000.0
        for turn, gap in enumerate((0.0, 20.0, 40.0, 60.0, 60.0 + 400 + 50 * (session % 50), 3200.0)):
            first = 1 + 100_000 * session
            blocks = 400 + 10 * turn
            rows.append(
                TraceRow(
                    "n",
                    str(session),
                    "main",
                    turn,
                    start + gap,
                    blocks * 100,
                    500,
                    100,
                    ((first, blocks),),
                    "k",
                )
            )
    rows = in_order(rows)
    held, _ = figures(rows, Warm.AUTO, facts=A2, hold_out=0.0, upgrades=True)
    plain, _ = figures(rows, Warm.AUTO, facts=A2, hold_out=0.0)
    assert held.cost_units < plain.cost_units
    pings = []
    settings = Settings(
        512, LIST, "claude-opus-5", facts=A2, warming=WarmSettings(policy=Warm.AUTO, upgrades=True)
    )
    list(replay(rows, Policy.AUTO, settings, on_ping=pings.append))
    assert any(ping.split.write_1h == 500 for ping in pings), "the answer, written for an hour"
    pings.clear()
    list(
        replay(
            rows, Policy.AUTO, settings._replace(warming=WarmSettings(policy=Warm.AUTO)), on_ping=pings.append
        )
    )
    assert not any(ping.split.write_1h for ping in pings)


def test_a_warm_that_is_billed_output_costs_its_price():
    """Where A6 does not hold: one output token each, at five times the input's price."""
    free, _ = figures(WINNING, Warm.KEEP_ALIVE, Policy.TTL_5M, judged=False)
    billed, _ = figures(WINNING, Warm.KEEP_ALIVE, Policy.TTL_5M, judged=False, output_tokens=1)
    assert billed.warms == free.warms
    assert billed.cost_units - free.cost_units == pytest.approx(5.0 * free.warms)


# --- the command


def invoked(*arguments):
    return CliRunner().invoke(app, ["replay", *arguments], env={"COLUMNS": "160"})


def test_the_monthly_table_names_what_each_feature_brings():
    """Seven rows, from no caching to what is advised; the steps are differences of their bills."""
    size = ("--requests-per-day", "200", "--days", "1", "--model", "claude-opus-5")
    result = invoked("--workload", "saas", "--table", *size)
    assert result.exit_code == 0, result.output
    for shown in ("none", "c + four_minutes", "auto + auto", "what each step brings", "every four minutes"):
        assert shown in result.stdout
    rows = json.loads(invoked("--workload", "saas", "--table", *size, "--json").stdout)["policies"]
    bills = {each["policy"]: each["bill_nano_usd"] for each in rows}
    assert len(bills) == 7
    assert bills["none"] > bills["a"] > bills["c"] > bills["auto"]
    pinger = next(each for each in rows if each["policy"] == "c + four_minutes")
    assert pinger["warm_share"] > 0


def test_warms_are_compared_in_one_table():
    """Each way with its warms and their share; what is switched off is said."""
    size = ("--requests-per-day", "300", "--days", "0.5", "--model", "claude-opus-5")
    result = invoked(
        "--workload", "winning", *size, "--warm", "off", "--warm", "auto", "--warm", "keep_alive"
    )
    assert result.exit_code == 0, result.output
    for shown in ("auto + auto", "auto + keep_alive", "warms", "of cost"):
        assert shown in result.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--warm", "shared", "--policy", "5m"), "marks shared layers"),
        (("--table", "--policy", "a"), "has its own policies"),
        (("--fact", "A9=yes"), "--fact"),
        (("--fact", "A2=maybe"), "--fact"),
        (("--fact", "A3=free"), "A2 and A6 alone"),
    ],
)
def test_what_does_not_go_together_is_refused(options, says):
    """With a sentence that says why."""
    result = invoked("--workload", "saas", "--days", "0.1", *options)
    assert result.exit_code != 0
    assert says in str(result.exception)
