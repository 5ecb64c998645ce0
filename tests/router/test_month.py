"""The made-up month: its parameters come out, and on it the policies rank as the economics say."""

import json
from collections import Counter
from itertools import islice

import pytest
from typer.testing import CliRunner

from cache.economics import Rates, cost_units
from cache.prompt import Layer
from cache.rules import rules_for
from router.cli import app
from router.month import (
    BLOCK_TOKENS,
    SIZES,
    TURNS_PER_CHAT,
    Kind,
    Sizes,
    Workload,
    deploys_before,
    month,
)
from router.replay import Policy, Settings, replay
from router.replay_trace import PromptBuilder, common_blocks

DAY_S = 86_400.0
TWO_WEEKS = list(month(Workload(requests_per_day=1500, days=14, seed=3)))


def test_the_same_parameters_give_the_same_rows():
    """And another seed gives others; rows come in the order of their time, within the days asked for."""
    small = Workload(requests_per_day=300, days=2, seed=7)
    assert list(month(small)) == list(month(small))
    assert list(month(small)) != list(month(small._replace(seed=8)))
    times = [row.time_s for row in TWO_WEEKS]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] < 14 * DAY_S


def test_a_shorter_month_begins_like_a_longer_one():
    """The first requests do not depend on how long it goes on."""
    longer = Workload(requests_per_day=300, days=20, seed=7)
    first = list(islice(month(longer._replace(days=2)), 50))
    assert first == list(islice(month(longer), 50))


def test_shares_are_those_of_the_design():
    """Requests a day, one-off calls, turns, gaps, weekends and the skew of users, within sampling error."""
    assert len(TWO_WEEKS) / 14 == pytest.approx(1500, rel=0.04)
    turns = Counter(row.session for row in TWO_WEEKS)
    kinds = {row.session: row.kind for row in TWO_WEEKS}
    one_off = sum(kind == "api" for kind in kinds.values()) / len(kinds)
    assert one_off == pytest.approx(0.35, abs=0.02)
    assert {turns[session] for session, kind in kinds.items() if kind == "api"} == {1}
    chats = [turns[session] for session, kind in kinds.items() if kind == "chat"]
    assert sum(chats) / len(chats) == pytest.approx(TURNS_PER_CHAT, rel=0.04)
    assert sum(count == 1 for count in chats) / len(chats) == pytest.approx(1 / TURNS_PER_CHAT, abs=0.02)
    previous, gaps = {}, Counter()
    for row in TWO_WEEKS:
        if row.session in previous:
            gap_s = row.time_s - previous[row.session]
            gaps["short" if gap_s < 300 else "pause" if gap_s < 3600 else "long"] += 1
        previous[row.session] = row.time_s
    assert gaps["short"] / gaps.total() == pytest.approx(0.77, abs=0.01)
    assert gaps["pause"] / gaps.total() == pytest.approx(0.20, abs=0.01)
    days = Counter(int(row.time_s // DAY_S) % 7 for row in TWO_WEEKS)
    assert (days[5] + days[6]) / 2 / (sum(days[day] for day in range(5)) / 5) == pytest.approx(0.3, abs=0.05)
    hours = Counter(int(row.time_s % DAY_S // 3600) for row in TWO_WEEKS)
    assert hours[14] > 6 * hours[2]
    users = Counter(row.runs[2][0] % (1 << 60) for row in TWO_WEEKS if row.sequence == 0)
    assert sum(count for _, count in users.most_common(len(users) // 10)) > 0.25 * users.total()


@pytest.mark.parametrize(("kind", "first", "grown"), [(Kind.SAAS, 3000, 1300), (Kind.AGENTIC, 12_500, 2700)])
def test_prompts_have_the_sizes_and_layers_asked_for(kind, first, grown):
    """A turn adds its query and what it leaves; each layer's end is a block the planner may mark."""
    builder, sizes = PromptBuilder(), SIZES[kind]
    for row in month(Workload(sizes, 200, 2, 1)):
        assert row.input_tokens == first + grown * row.sequence
        prompt = builder.prompt(row).prompt
        tokens = Counter()
        for block in prompt.blocks:
            tokens[block.layer] += block.token_count
        assert tokens[Layer.TOOLS] == sizes.tools
        assert tokens[Layer.SYSTEM] == sizes.system
        assert tokens[Layer.CONTEXT] == sizes.context
        assert tokens[Layer.HISTORY] == grown * row.sequence
        assert tokens[Layer.TURN] == sizes.query
        assert all(block.markable for block in prompt.blocks)


def test_prompts_share_what_they_should():
    """A session's next prompt extends its last; users share tools and system; a deploy leaves the tools only."""
    shared = Counter()
    rows = [row for row in TWO_WEEKS if row.time_s < 3 * DAY_S]
    last = {}
    for row in rows:
        before = last.get(row.session)
        if before is not None:
            common = common_blocks(before.runs, row.runs)
            if deploys_before(before.time_s) == deploys_before(row.time_s):
                assert common == before.whole_blocks
                shared["extended"] += 1
            else:
                assert common == 500 // BLOCK_TOKENS
                shared["deployed"] += 1
        last[row.session] = row
    assert shared["extended"] > 1000
    assert shared["deployed"] > 10
    one, other = (next(row for row in rows if row.session == name) for name in ("0", "1"))
    assert common_blocks(one.runs, other.runs) in (20, 25)


def test_three_deploys_a_week():
    """Monday, Wednesday and Friday afternoon."""
    counts = [deploys_before(day * DAY_S) for day in range(15)]
    assert counts == [0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize(
    "wrong",
    [
        Workload(requests_per_day=0),
        Workload(days=0),
        Workload(users=0),
        Workload(Sizes(550, 0, 0, 100, 100, 1)),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(wrong):
    """Instead of an empty or endless month."""
    with pytest.raises(ValueError, match=r"must be multiples|needs requests"):
        next(month(wrong))


# --- the ranking


def settings_of(model):
    read = 0.05 if model == "claude-opus-5-5" else 0.1
    return Settings(rules_for(model).minimum_tokens, Rates(1.25, 2.0, read), rules_for(model).model)


def costs(kind, model, per_day=400, days=2):
    """Input units per policy on two weekdays."""
    workload, settings = Workload(SIZES[kind], per_day, days, 1), settings_of(model)
    return {
        policy: sum(
            cost_units(served.split, settings.rates) for served in replay(month(workload), policy, settings)
        )
        for policy in Policy
    }


def test_on_a_4096_floor_a_and_b_save_nothing_and_auto_beats_c():
    """The seed's 2,000 and 2,500 token marks are ignored there; history is what can be cached at all."""
    found = costs(Kind.SAAS, "claude-opus-4-5")
    assert found[Policy.A] == found[Policy.B] == found[Policy.NONE]
    assert found[Policy.AUTO] < found[Policy.C] < found[Policy.A]


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (Kind.SAAS, "claude-opus-5"),
        (Kind.SAAS, "claude-opus-5-5"),
        (Kind.AGENTIC, "claude-opus-5"),
        (Kind.AGENTIC, "claude-opus-5-5"),
    ],
)
def test_on_a_512_floor_the_ranking_is_none_a_b_c_auto(kind, model):
    """A and B differ by deploys only; AUTO is below every fixed policy."""
    found = costs(kind, model)
    assert found[Policy.A] == pytest.approx(found[Policy.B], rel=0.003)
    assert found[Policy.NONE] > found[Policy.A] > found[Policy.C] > found[Policy.AUTO]
    assert found[Policy.AUTO] == min(found.values())


# --- the command


def invoked(*arguments):
    return CliRunner().invoke(app, ["replay", *arguments], env={"COLUMNS": "160"})


def test_the_command_prints_dollars_a_month():
    """Without caching: 300 requests a day, each with its mean input at $5 and 800 tokens of output at $25 a million."""
    size = ("--requests-per-day", "300", "--days", "2", "--seed", "1")
    result = invoked(
        "--workload",
        "saas",
        "--model",
        "claude-opus-4-5",
        *size,
        "--policy",
        "none",
        "--policy",
        "a",
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    none, a = found["policies"]
    rows = list(month(Workload(requests_per_day=300, days=2, seed=1)))
    mean_input = sum(row.input_tokens for row in rows) / len(rows)
    assert none["requests"] == len(rows)
    assert none["usd_per_month"] == pytest.approx(300 * 30 * (mean_input * 5 + 800 * 25) / 1e6)
    assert none["saving"] == a["saving"] == 0.0
    assert a["usd_per_month"] == none["usd_per_month"]
    assert found["model"] == "claude-opus-4-5"


def test_the_model_sets_floor_and_rates():
    """Opus 5 reads the seed's layers, and at a tenth; the table shows dollars, saving and ratio."""
    size = ("--requests-per-day", "300", "--days", "1")
    result = invoked("--workload", "saas", "--model", "claude-opus-5", *size, "--policy", "c", "--json")
    (figures,) = json.loads(result.stdout)["policies"]
    assert figures["saving"] > 0.15
    tokens = figures["tokens"]
    units = tokens["read"] * 0.1 + tokens["write_5m"] * 1.25 + tokens["uncached"]
    assert figures["cost_units"] == pytest.approx(units)
    shown = invoked("--workload", "saas", *size, "--policy", "c")
    assert "$ / 30 days" in shown.stdout
    assert "saving" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give either a trace, a ledger or --workload"),
        (("trace.jsonl", "--workload", "saas"), "give either a trace, a ledger or --workload"),
        (("trace.jsonl", "--days", "3"), "belong to --workload"),
        (("--workload", "saas", "--model", "gemini-3.8-flash"), "takes no breakpoints"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, says):
    """With a sentence that says what to give."""
    result = invoked(*arguments)
    assert result.exit_code != 0
    assert says in str(result.exception)
