"""Advice in money: what was spent is the ledger's sum, what would be spent is the same traffic priced another way."""

import asyncio
import tomllib
from contextlib import contextmanager
from fractions import Fraction
from functools import cache

import msgspec
import pytest
from msgspec.structs import replace

from cache.advice import advise
from cache.decision import Alternative, Facts, Verdict
from cache.economics import Rates
from cache.observed import Lane, Observed
from cache.setup import Keep, Stable
from router.adviser import Question, report, snippet
from router.applications import Applications
from router.assumed_traffic import Assumption, Gaps, assumed_uses, parse_gaps
from router.booked_traffic import estimated
from router.cli.advise import _dollars
from router.config import ApplicationConfig, Config, ConfigError, OpusConfig, ToolConfig
from router.cost import Counterfactuals, cost, uncached_nano_usd
from router.errors import NotFound
from router.ledger import DATABASE, Ledger, LedgerReader
from router.pricing import PriceTable
from router.settlement import Outcome, Purpose
from router.usage import Usage
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent

MODEL = "claude-opus-5-5"
PRICES = PriceTable()
SYSTEM = "Answer from the records you are shown and name the record for every figure.\n" * 85
TOOL = ToolConfig(name="search", description="Search the records.", input_schema_json='{"type":"object"}')
DAY_S = 86_400.0


def settings(model=MODEL, system=SYSTEM):
    return Config(
        opus=OpusConfig(model=model),
        applications={"helpdesk": ApplicationConfig(system=(system,), tools=(TOOL,))},
    )


def question(**changes):
    return Question(**({"application": "helpdesk", "now_s": START_S} | changes))


def a_call(number, at_s, usage, *, model=MODEL, settled=None, **intent):
    """A settled Opus call with its cost by the price table."""
    price = PRICES.price(model, at_s)
    asked = an_intent(
        request_id=f"r{number}",
        model=model,
        started_time_s=START_S + at_s,
        cost_bound_nano_usd=10**12,
        **intent,
    )
    other = uncached_nano_usd(usage, price)
    return a_settlement(
        asked,
        usage=usage,
        cost=cost(usage, price),
        counterfactuals=Counterfactuals(no_caching_nano_usd=other, all_opus_no_caching_nano_usd=other),
        answered_model=model,
        **(settled or {}),
    )


@contextmanager
def booked(directory, settlements):
    """A reader of a ledger that holds `settlements`."""
    ledger = Ledger.open(directory, clock=StillClock())
    for settlement in settlements:
        ledger.settle(settlement)
    asyncio.run(ledger.close())
    with LedgerReader.open(directory / DATABASE) as reader:
        yield reader


def conversations(count, *, spacing_s=400.0, turns=3, shared=2_000, context=500, model=MODEL):
    """Sessions of known layers, cached as option B would be: first turns of a user read the shared layers."""
    number = 0
    for session in range(count):
        user, at_s, tokens = f"u{session // 2}", session * spacing_s, shared + context + 500
        for turn in range(turns):
            read = shared + context if turn or session % 2 else shared if session else 0
            usage = Usage(
                input_tokens=tokens,
                cache_read_tokens=read,
                cache_write_5m_tokens=shared + context - read,
                output_tokens=800,
                thinking_tokens=0,
            )
            yield a_call(number, at_s + 60 * turn, usage, user=user, session=f"s{session}", model=model)
            number, tokens = number + 1, tokens + 1_300


def by_key(found, key):
    (decision,) = [each for each in found.advice.tree.walk() if each.key == key]
    return decision


def rows(found):
    return {row.name: row for row in found.rows}


# --- from the ledger


def test_what_was_spent_is_the_ledger_to_the_nano(tmp_path):
    """Only the application's Opus calls, whoever made them; the month is that sum scaled by the time asked about."""
    calls = list(conversations(40))
    usage = Usage(input_tokens=3_000, output_tokens=10)
    mine = a_call(9_000, 100, usage, session="warmer", purpose=Purpose.WARM)
    other = a_call(9_001, 100, usage, application="other")
    flash = replace(
        a_call(9_002, 100, usage), intent=an_intent(request_id="r9002", route="flash", started_time_s=START_S)
    )
    lost = replace(a_call(9_003, 200, usage), cost=None, usage=None, outcome=Outcome.UNKNOWN)
    with booked(tmp_path, [*calls, mine, other, flash, lost]) as reader:
        found = report(question(since_s=START_S, until_s=START_S + 7 * DAY_S), settings(), reader)
    total = sum(call.cost.total_nano_usd for call in [*calls, mine])
    assert found.spent.cost_nano_usd == total
    assert found.spent.unknown_calls == 1
    assert found.spent.days == 7
    assert rows(found)["as observed"].month_nano_usd == round(Fraction(total * 30, 7))
    assert found.facts.observed.request_count == len(calls)
    assert not found.facts.assumed


def test_uncached_month_is_the_ledgers_counterfactual(tmp_path):
    """Priced by the adviser, the same requests without caching cost what the ledger says they would have."""
    calls = list(conversations(60))
    window = question(since_s=START_S, until_s=START_S + 30 * DAY_S)
    with booked(tmp_path, calls) as reader:
        found = report(window, settings(), reader)
    otherwise = sum(call.counterfactuals.no_caching_nano_usd for call in calls)
    assert found.spent.no_caching_nano_usd == otherwise
    assert rows(found)["without caching"].month_nano_usd == pytest.approx(otherwise, abs=2)
    observed = rows(found)["as observed"]
    assert observed.month_nano_usd + observed.saving_nano_usd == otherwise


def test_a_month_as_cached_is_priced_as_billed(tmp_path):
    """The ledger was cached as option B, so the adviser's price of option B is what was billed."""
    calls = list(conversations(60))
    with booked(tmp_path, calls) as reader:
        found = report(question(since_s=START_S, until_s=START_S + 30 * DAY_S), settings(), reader)
    # conversations() never lets the shared layers lapse, and users come back within 400 s: one in two sessions.
    billed = sum(call.cost.total_nano_usd for call in calls)
    priced = rows(found)["the document's options A and B"].month_nano_usd
    assert priced == pytest.approx(billed, rel=0.02)
    assert rows(found)["recommended"].month_nano_usd < billed


def test_sizes_are_what_the_provider_counted(tmp_path):
    """A user's first read is the shared layers, to the token; what known users read beyond it is their context."""
    with booked(tmp_path, conversations(40)) as reader:
        found = report(question(), settings(), reader)
    assert found.exact_sizes
    assert found.facts.stable == (2_000, 500)
    assert found.facts.uncertainty == 0
    estimate = estimated(Applications(settings().applications).get("helpdesk"), MODEL)
    assert estimate.uncertainty > 0
    assert estimate.shared_tokens == pytest.approx(2_000, rel=0.4)


def test_filler_is_not_taken_for_the_prompt(tmp_path):
    """Padded traffic is judged without what we put in: sizes and input are those of the prompt as it was asked."""
    plain = list(conversations(40))
    padded = [
        replace(
            call,
            usage=replace(
                call.usage,
                input_tokens=call.usage.input_tokens + 300,
                cache_read_tokens=read + 300 if (read := call.usage.cache_read_tokens) else 0,
            ),
            cache=replace(call.cache, padding_tokens=300),
        )
        for call in plain
    ]
    with booked(tmp_path / "plain", plain) as reader:
        bare = report(question(), settings(), reader)
    with booked(tmp_path / "padded", padded) as reader:
        found = report(question(), settings(), reader)
    assert found.facts.stable == bare.facts.stable == (2_000, 500)
    assert found.facts.lane.input_tokens == bare.facts.lane.input_tokens


def test_uncached_traffic_leaves_the_estimate(tmp_path):
    """Nothing was read, so nothing is proved: the estimate stays, with its error, and the context is unknown."""
    calls = [
        a_call(n, 60.0 * n, Usage(input_tokens=3_000, output_tokens=9), user=f"u{n}", session=f"s{n}")
        for n in range(50)
    ]
    with booked(tmp_path, calls) as reader:
        found = report(question(), settings(), reader)
    assert not found.exact_sizes
    assert not found.facts.context_known
    assert by_key(found, "context").verdict is Verdict.UNDECIDED
    assert by_key(found, "minimum").interval is not None


def test_a_few_requests_are_no_evidence(tmp_path):
    """The tree says so, and the settings keep to what decides by itself."""
    with booked(tmp_path, conversations(3)) as reader:
        found = report(question(), settings(), reader)
    assert found.advice.tree.verdict is Verdict.UNDECIDED
    assert 'cache_strategy = "auto"' in found.snippet
    assert found.spent.interval is None


def test_days_give_an_interval(tmp_path):
    """The spread of whole days bounds the mean day; the cut ones at the ends are left out."""
    usage = Usage(input_tokens=3_000, output_tokens=100)
    calls = [
        a_call(day * 100 + n, day * DAY_S + 3_600 * n, usage, session=f"{day}.{n}")
        for day in range(8)
        for n in range(2 + day % 2)
    ]
    with booked(tmp_path, calls) as reader:
        found = report(question(), settings(), reader)
    each = calls[0].cost.total_nano_usd
    low, high = found.spent.interval
    assert 2 * each < low < 2.5 * each < high < 3 * each


def test_a_volume_scales_what_was_seen(tmp_path):
    """--requests-per-day with a ledger keeps its gaps and changes the month."""
    calls = list(conversations(40))
    with booked(tmp_path, calls) as reader:
        once = report(question(requests_per_day=100.0), settings(), reader)
        tenfold = report(question(requests_per_day=1_000.0), settings(), reader)
    per_call = Fraction(sum(call.cost.total_nano_usd for call in calls), len(calls))
    assert rows(once)["as observed"].month_nano_usd == round(per_call * 3_000)
    for name, row in rows(once).items():
        assert rows(tenfold)[name].month_nano_usd == pytest.approx(10 * row.month_nano_usd, abs=10), name


def test_another_tokenizer_is_not_taken_at_face_value(tmp_path):
    """Counts of Claude 4.6 and older become about 30 % more on 5.x, never the same number."""
    calls = list(conversations(40, model="claude-opus-4-5-20251101"))
    with booked(tmp_path, calls) as reader:
        found = report(question(), settings(), reader)
    seen = sum(call.usage.input_tokens for call in calls)
    assert found.facts.lane.input_tokens == pytest.approx(1.3 * seen, rel=0.001)
    assert not found.exact_sizes


def test_progress_is_told_while_reading(tmp_path):
    """Long ledgers report how far the reading is."""
    told = []
    with booked(tmp_path, conversations(700)) as reader:
        report(question(), settings(), reader, progress=lambda done, total: told.append((done, total)))
    assert told == [(1_000, 2_100), (2_000, 2_100)]


# --- assumed


@cache
def asked(per_day=10_000.0, model=MODEL, **assumption):
    return report(
        question(requests_per_day=per_day),
        settings(model),
        None,
        assumption=Assumption(requests_per_day=per_day, **assumption),
    )


def test_the_document_saves_nothing_on_opus_4_5():
    """On a floor of 4,096 its marks are ignored: A and B cost what no caching costs, and padding or a model helps."""
    found = asked(model="claude-opus-4-5-20251101")
    document = rows(found)["the document's options A and B"]
    assert document.saving_nano_usd == 0
    assert by_key(found, "minimum").verdict is Verdict.NOT_REACHED
    assert "1,024" in by_key(found, "minimum").seed
    assert by_key(found, "pad").verdict is Verdict.PAD
    assert by_key(found, "model").verdict is Verdict.OTHER_MODEL
    assert "filler.md" in found.snippet
    assert found.advice.tree.verdict is Verdict.PAD


@pytest.mark.parametrize("model", ["claude-opus-5", "claude-opus-5-5"])
def test_the_ranking_of_the_monthly_simulation(model):
    """No caching > options A and B > the recommended setup > with keep-alives; near the simulated 19 and 34-36 %."""
    found = rows(asked(model=model))
    uncached = found["without caching"].month_nano_usd
    assert 0.15 < found["the document's options A and B"].saving_nano_usd / uncached < 0.26
    assert 0.31 < found["recommended"].saving_nano_usd / uncached < 0.38
    costs = [row.month_nano_usd for row in found.values()]
    assert costs == sorted(costs, reverse=True)


def test_low_volume_wants_the_hour_and_an_idle_read():
    """At 100 requests a day the shared layers live an hour, kept by one read as it ends; the cron costs more."""
    found = asked(per_day=100.0, model="claude-opus-5")
    assert found.advice.setup.shared == Keep(3_600)
    assert found.advice.warm_setup.shared.pings > 0
    assert by_key(found, "warm.shared").verdict is Verdict.KEEP_WARM
    cron = by_key(found, "warm.cron")
    assert cron.verdict is Verdict.DO_NOT_WARM
    # 360 reads a day of the shared layers, and what the kept hour costs is taken off.
    reads = 360 * 30 * float(found.unit_nano_usd) * 0.1 * found.facts.stable.shared_tokens
    assert found.monthly_nano_usd(cron.effect_units) == pytest.approx(reads, rel=0.12)


def test_the_cron_of_the_document_costs_its_price():
    """10,800 reads of 2,000 tokens a month on Opus 5: $10.80, the document's own figure."""
    found = asked(per_day=10_000.0, model="claude-opus-5")
    cron = by_key(found, "warm.cron")
    extra = (cron.today - 0.1) * found.facts.stable.shared_tokens
    scaled = found.monthly_nano_usd(extra) * 2_000 / found.facts.stable.shared_tokens
    assert scaled == pytest.approx(10.80e9, rel=1e-6)


def test_one_request_a_month_is_not_cached():
    """Without returns nothing is worth its write, and the settings say so."""
    found = asked(per_day=0.1, turns=1.0)
    assert found.advice.tree.verdict is Verdict.DO_NOT_CACHE
    assert tomllib.loads(found.snippet)["applications"]["helpdesk"]["cache_strategy"] == "none"
    assert rows(found)["recommended"].saving_nano_usd == 0


def test_the_same_question_has_the_same_answer():
    """Assumed traffic is drawn from a fixed seed."""
    again = asked.__wrapped__(per_day=500.0)
    assert [row.month_nano_usd for row in asked(per_day=500.0).rows] == [
        row.month_nano_usd for row in again.rows
    ]


@pytest.mark.parametrize("kind", ["short", "human", "poisson:4"])
def test_assumed_traffic_is_what_was_asked_for(kind):
    """Volume, users and turns come out, requests come in order, and sessions grow by answer and query."""
    assumption = Assumption(requests_per_day=2_000.0, users=50, gaps=parse_gaps(kind), turns=4.0)
    uses = list(assumed_uses(assumption, 1_000))
    assert [use.started_s for use in uses] == sorted(use.started_s for use in uses)
    assert len(uses) == pytest.approx(40_000, rel=0.06)
    assert len({use.user for use in uses}) == 50
    sessions = {}
    for use in uses:
        sessions.setdefault(use.session, []).append(use.input_tokens)
    assert len(uses) / len(sessions) == pytest.approx(4, rel=0.05)
    for tokens in sessions.values():
        assert tokens == [2_000 + 1_300 * turn for turn in range(len(tokens))]


# --- what cannot be asked


@pytest.mark.parametrize(
    "text", ["", "poisson", "poisson:0", "poisson:x", "short:3", "weekly", "poisson:nan"]
)
def test_unknown_gaps_name_the_choices(text):
    """The message spells what is allowed."""
    with pytest.raises(ConfigError, match="short, human or poisson:RATE"):
        parse_gaps(text)
    assert parse_gaps("poisson:2.5") == Gaps("poisson", 2.5)


def test_an_unknown_application_names_the_known(tmp_path):
    """The error lists what is registered."""
    with pytest.raises(NotFound, match="registered: helpdesk"):
        report(question(application="desk"), settings(), None)


@pytest.mark.parametrize(
    ("model", "why"),
    [("claude-opus-9", "catalogue"), ("gemini-3.8-flash", "Anthropic"), ("claude-opus-4-1", "retired")],
)
def test_a_model_without_breakpoints_is_refused(model, why):
    """Neither unknown, retired nor implicit caches can be advised on."""
    with pytest.raises(ConfigError, match=f"--model.*{why}"):
        report(question(model=model), settings(), None, assumption=Assumption(requests_per_day=1.0))


def test_no_traffic_names_the_way_out(tmp_path):
    """An empty ledger and no assumption: the message names the option."""
    with booked(tmp_path, []) as reader, pytest.raises(ConfigError, match="--requests-per-day"):
        report(question(), settings(), reader)


def test_the_settings_name_the_model_of_the_tree():
    """The cheapest with a lower minimum, though one without is cheaper still: that is another question."""
    observed = Observed([Lane(minimum_tokens=4_096)])
    for number in range(100):
        observed.add(60.0 * number, None, None, 2_500)
    facts = Facts(
        model="asked",
        rates=Rates(1.25, 2.0, 0.1),
        tools_tokens=500.0,
        stable=Stable(2_000.0, 0.0),
        uncertainty=0.0,
        context_known=True,
        observed=observed,
        lane=observed.lanes[0],
        assumed=True,
        alternatives=(
            Alternative(model="dear", minimum_tokens=512, relative_cost=0.9),
            Alternative(model="low", minimum_tokens=1_024, relative_cost=0.7),
            Alternative(model="cheapest", minimum_tokens=4_096, relative_cost=0.5),
        ),
    )
    found = advise(facts)
    (choice,) = [each for each in found.tree.walk() if each.key == "model"]
    assert choice.why.startswith("low ")
    assert '# model = "low"' in snippet("helpdesk", found, facts)


@pytest.mark.parametrize("model", [MODEL, "claude-opus-4-5-20251101"])
def test_the_settings_are_settings(model):
    """What is recommended reads as TOML of the real tree, with the application's name quoted."""
    tree = tomllib.loads(asked(model=model).snippet)
    read = msgspec.convert(tree, Config)
    assert read.applications["helpdesk"].cache_strategy == "auto"


@pytest.mark.parametrize(
    ("nano_usd", "shown"),
    [
        (2_068_994_000_000, "$2,068.99"),
        (915_356_797, "$0.915"),
        (28_164_825, "$0.0282"),
        (999_600_000, "$1"),
        (-2_400_000, "-$0.0024"),
        (0, "$0.00"),
    ],
)
def test_amounts_of_a_month_are_to_the_cent_and_below_a_dollar_to_three_figures(nano_usd, shown):
    """A forecast is not known to the nano-dollar."""
    assert _dollars(nano_usd) == shown
