"""The decision framework: its thresholds are economics', its choice is what a played cache charges least for."""

import random
from math import exp, inf, log

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cache.advice import advise
from cache.advice_warm import warm_precision
from cache.decision import Alternative, Facts, Verdict, describe, share_interval
from cache.economics import Rates, bill, cost_units, most_pings, ping_spacing_s
from cache.gaps import GapDigest
from cache.observed import Lane, Observed
from cache.setup import (
    NO_CACHING,
    Keep,
    Setup,
    Stable,
    best_setup,
    best_shared,
    cheapest,
    input_units,
    kept_by_provider,
    possible,
)

R10, R05, R025 = Rates(1.25, 2.0, 0.1), Rates(1.25, 2.0, 0.05), Rates(1.25, 2.0, 0.025)
FIVE, HOUR = 300, 3600
DAY = 86_400.0


def near(value, digits=3):
    return pytest.approx(value, abs=0.5 * 10**-digits)


def one_off(gaps_s, *, minimum=512, tokens=2_500, added=0.0):
    """Requests without sessions or users, so many seconds apart."""
    lanes = [Lane(minimum_tokens=minimum)]
    if added:
        lanes.append(Lane(minimum_tokens=minimum, added_tokens=added))
    observed, at_s = Observed(lanes), 0.0
    observed.add(at_s, None, None, tokens)
    for gap_s in gaps_s:
        at_s += gap_s
        observed.add(at_s, None, None, tokens)
    return observed


def poisson_gaps(per_hour, count=20_000):
    """Gaps at the middle of equal slices of an exponential distribution: its F without the noise of drawing."""
    return [-log(1 - (i + 0.5) / count) * 3600 / per_hour for i in range(count)]


def facts_of(observed, *, rates=R10, shared=2_000.0, context=0.0, uncertainty=0.0, assumed=True, **more):
    defaults = {
        "model": "claude-opus-5",
        "tools_tokens": min(500.0, shared),
        "context_known": True,
        "requests_per_day": 100.0,
        "padded": observed.lanes[1] if len(observed.lanes) > 1 else None,
    }
    return Facts(
        rates=rates,
        stable=Stable(shared, context),
        uncertainty=uncertainty,
        observed=observed,
        lane=observed.lanes[0],
        assumed=assumed,
        **(defaults | more),
    )


def decision(advice, key):
    """The one decision of this key."""
    (found,) = [each for each in advice.tree.walk() if each.key == key]
    return found


# --- against the tables


@pytest.mark.parametrize(("rates", "rate"), [(R10, 0.747), (R05, 0.719), (R025, 0.706)])
@pytest.mark.parametrize("side", [0.96, 1.04])
def test_poisson_break_even_of_an_hour(rates, rate, side):
    """Without keep-alives nothing is cached below the table's second row, and an hour above it."""
    observed = one_off(poisson_gaps(rate * side))
    setup, _ = best_setup(observed, observed.lanes[0], Stable(2_000.0, 0.0), rates)
    assert setup == (Setup(Keep(HOUR)) if side > 1 else NO_CACHING)


@pytest.mark.parametrize(("rates", "forever"), [(R10, 0.111), (R05, 0.0542), (R025, 0.0271)])
def test_poisson_break_even_of_an_hour_kept(rates, forever):
    """Keep-alives capped by ski rental pay from a little above the rate at which unlimited ones do."""
    stable = Stable(2_000.0, 0.0)
    below, above = one_off(poisson_gaps(forever * 0.96)), one_off(poisson_gaps(forever * 1.4))
    assert not best_setup(below, below.lanes[0], stable, rates, pings=True)[0].caches
    kept = best_setup(above, above.lanes[0], stable, rates, pings=True)[0].shared
    assert kept is not None
    assert (kept.ttl_s, kept.pings) == (HOUR, most_pings(rates, HOUR))


@pytest.mark.parametrize(("rates", "rate"), [(R10, 2.94), (R05, 2.80), (R025, 2.74)])
@pytest.mark.parametrize("side", [0.98, 1.02])
def test_poisson_break_even_of_five_minutes(rates, rate, side):
    """Were there 5 minutes only, caching would pay from the table's first row on."""
    observed = one_off(poisson_gaps(rate * side))
    found = cheapest(
        observed,
        observed.lanes[0],
        Stable(2_000.0, 0.0),
        rates,
        lambda setup: setup.shared is None or setup.shared.ttl_s == FIVE,
    )
    assert found is not None
    assert found[0].caches == (side > 1)


@pytest.mark.parametrize(
    ("rates", "per_hour", "five", "hour", "kept"),
    [(R10, 1, 1.158, 0.799, 0.163), (R05, 1, 1.154, 0.767, 0.082), (R10, 5, 0.858, 0.113, 0.101)],
)
def test_poisson_cost_per_request(rates, per_hour, five, hour, kept):
    """Units per shared token and request, as tabulated."""
    observed = one_off(poisson_gaps(per_hour), tokens=1_000)
    lane, stable = observed.lanes[0], Stable(1_000.0, 0.0)

    def units(keep):
        return input_units(observed, lane, stable, Setup(keep), rates) / lane.input_tokens

    assert units(Keep(FIVE)) == near(five, 2.6)
    assert units(Keep(HOUR)) == near(hour, 2.6)
    assert units(best_shared(observed, rates, HOUR, pings=True)) == near(kept, 2.6)


@pytest.mark.parametrize(
    ("tokens", "needed"),
    [(1_024, 0.87), (1_500, 0.77), (2_000, 0.66), (2_500, 0.56), (3_000, 0.45), (3_500, 0.34)],
)
@pytest.mark.parametrize("side", [-0.02, 0.02])
def test_padding_table(tokens, needed, side):
    """On a floor of 4,096 padding is advised exactly where the hit share passes the tabulated one."""
    exact = (1.25 - tokens / 4096) / 1.15
    hits = round((exact + side) * 10_000)
    gaps = [60.0] * hits + [40 * DAY] * (9_999 - hits)
    observed = one_off(gaps, minimum=4_096, tokens=tokens, added=4_096 - tokens)
    advice = advise(facts_of(observed, shared=float(tokens), model="claude-opus-4-5-20251101"))
    pad = decision(advice, "pad")
    assert pad.threshold == near(needed, 2)
    assert pad.today == near(exact + side, 3)
    assert (pad.verdict is Verdict.PAD) == (side > 0) == (advice.tree.verdict is Verdict.PAD)
    assert (advice.padding_tokens > 0) == (side > 0)
    assert pad.effect_units is not None
    assert pad.effect_units > 0


@pytest.mark.parametrize(("context", "warmable"), [(0.0, False), (3_000.0, False), (3_800.0, True)])
def test_what_cannot_be_warmed_is_said(context, warmable):
    """Shared and user's layers together are under the model's minimum: no chance makes a warm of them pay."""
    observed = one_off([60.0] * 500, minimum=4_096, tokens=400)
    found = decision(advise(facts_of(observed, shared=400.0, context=context)), "warm.predictive")
    assert found.verdict is Verdict.DO_NOT_WARM
    assert found.why.startswith("not warmable: ") == (not warmable)
    assert (found.threshold is None) == (not warmable)


def test_filler_of_nearly_everything_never_pays():
    """Below a tenth of the floor even a read of the filler costs more than the bare prefix."""
    observed = one_off([60.0] * 500, minimum=4_096, tokens=400, added=3_696)
    pad = decision(advise(facts_of(observed, shared=400.0)), "pad")
    assert pad.verdict is Verdict.DO_NOT_PAD
    assert pad.threshold is None


@pytest.mark.parametrize(
    ("rates", "unit_price", "value", "shared", "private", "precision"),
    [
        (R10, 5e-6, 0.01, 0, 1, 0.95),
        (R10, 5e-6, 0.05, 0, 1, 0.64),
        (R10, 5e-6, 0.05, 2_000, 500, 0.85),
        (R10, 5e-6, 0.10, 10_000, 20_000, 0.47),
        (R05, 4e-6, 0.05, 0, 1, 0.57),
        (R05, 4e-6, 0.10, 2_000, 500, 0.45),
    ],
)
def test_predictive_warming_table(rates, unit_price, value, shared, private, precision):
    """Precision from which warming ahead pays, at 80 us of prefill a token and so many dollars a second."""
    latency = value * 80e-6 / unit_price
    assert warm_precision(rates, FIVE, shared, private, latency) == near(precision, 2)


@given(st.sampled_from([R10, R05, R025]), st.floats(0, 1e5), st.floats(1, 1e5))
def test_predictive_warming_never_saves_money(rates, shared, private):
    """Where time is worth nothing, no precision is enough."""
    assert warm_precision(rates, FIVE, shared, private, 0.0) > 1


@settings(max_examples=40)
@given(st.floats(0.02, 60))
def test_cron_is_never_advised_at_a_tenth(per_hour):
    """A read of 0.1: whatever the rate, an hour's entry, kept or not, is cheaper than a read every 4 minutes."""
    observed = one_off(poisson_gaps(per_hour, 2_000))
    advice = advise(facts_of(observed, requests_per_day=per_hour * 24))
    cron = decision(advice, "warm.cron")
    assert cron.verdict is Verdict.DO_NOT_WARM
    assert cron.today == pytest.approx(0.1 * (1 + 15 / per_hour))
    assert cron.effect_units is not None
    assert cron.effect_units > 0


# --- against a simulated cache


class Simulated:
    """A provider's cache and its keep-alives on a clock, one entry per prefix; knows nothing of digests."""

    def __init__(self, setup, stable, minimum, rates):
        self.setup, self.stable, self.minimum, self.rates = setup, stable, minimum, rates
        self.alive_until = {}
        self.turns = {}

    def request(self, at_s, user, session, tokens):
        shared, whole = self.stable.shared_tokens, sum(self.stable)
        setup, self.turns[session] = self.setup, self.turns.get(session, 0) + 1
        marks = [(("shared",), shared, setup.shared), (("user", user), whole, setup.context)]
        if self.turns[session] >= setup.from_turn and tokens >= setup.from_tokens:
            marks.append((("turn", session), tokens, setup.conversation))
        marks = [mark for mark in marks if mark[2] is not None and mark[1] >= self.minimum]
        read = 0
        for key, size, _ in marks:
            until_s, kept = self.alive_until.get(key, (-inf, 0))
            if at_s <= until_s:
                read = max(read, kept if key[0] == "turn" else size)
        for key, size, keep in marks:
            self.alive_until[key] = (at_s + keep.ttl_s, size)
        split = bill(tokens, [(size, keep.ttl_s) for _, size, keep in marks], read)
        return cost_units(split, self.rates)


requests = st.lists(
    st.tuples(
        st.sampled_from([1, 30, 299, 301, 900, 3_500, 3_700, 20_000]),
        st.integers(0, 3),
        st.booleans(),
        st.integers(1, 3_000),
    ),
    min_size=1,
    max_size=40,
)


def played(rows, stable, lanes):
    """Rows as requests: each user goes on in a session, or opens a new one; sessions only grow."""
    observed, uses = Observed(lanes), []
    at_s, serial, sizes, current = 0.0, 0, {}, {}
    for gap_s, user, goes_on, growth in rows:
        at_s += gap_s
        if not goes_on or user not in current:
            serial += 1
            current[user] = serial
        session = current[user]
        sizes[session] = sizes.get(session, int(sum(stable))) + growth
        uses.append((at_s, user, session, sizes[session]))
        observed.add(*uses[-1])
    return observed, uses


keeps = st.sampled_from([None, Keep(FIVE), Keep(HOUR)])


@settings(max_examples=300)
@given(
    rows=requests,
    setup=st.builds(Setup, keeps, keeps, keeps, st.sampled_from([1, 2]), st.sampled_from([0, 1_024, 4_096])),
    sizes=st.tuples(st.integers(0, 3_000), st.integers(0, 2_000)),
    minimum=st.sampled_from([512, 1_024, 4_096]),
    rates=st.sampled_from([R10, R05]),
)
def test_costs_are_those_of_a_simulated_cache(rows, setup, sizes, minimum, rates):
    """Whatever the traffic and the setup, the digest prices it as a cache that is played request by request."""
    stable, lane = Stable(*map(float, sizes)), Lane(minimum_tokens=minimum)
    setup = kept_by_provider(setup, lane, stable)
    observed, uses = played(rows, stable, [lane])
    if not possible(setup, lane, stable):
        with pytest.raises(ValueError, match="cannot be sent"):
            input_units(observed, lane, stable, setup, rates)
        return
    cache = Simulated(setup, stable, minimum, rates)
    charged = sum(cache.request(*use) for use in uses)
    assert input_units(observed, lane, stable, setup, rates) == pytest.approx(charged)


def simulated_upkeep(gaps_s, ttl_s, pings, rates):
    """Cost of one prefix under upkeep, by playing every instant at which something happens."""
    total = (
        rates.write(ttl_s) + pings * rates.read
    )  # the first write; after the last use all keep-alives go out
    for gap_s in gaps_s:
        touched_s, sent = 0.0, 0
        while sent < pings and touched_s + ping_spacing_s(ttl_s) < gap_s:
            touched_s += ping_spacing_s(ttl_s)
            sent += 1
        total += sent * rates.read
        total += rates.read if gap_s <= touched_s + ttl_s else rates.write(ttl_s)
    return total


@settings(max_examples=60, deadline=None)
@given(
    gaps_s=st.lists(
        st.one_of(st.floats(0.5, 600), st.floats(300, 7_200), st.floats(3_600, 200_000)),
        min_size=1,
        max_size=30,
    ),
    rates=st.sampled_from([R10, R05]),
)
def test_upkeep_is_the_simulated_argmin(gaps_s, rates):
    """Of no caching and every TTL with every number of keep-alives, the one advised is the cheapest to play.

    Gaps of exactly a TTL or of a keep-alive's spacing are left out: no clock would agree on which side they fall.
    """
    edges = {
        sent * ping_spacing_s(ttl_s) + more
        for ttl_s in (FIVE, HOUR)
        for sent in range(40)
        for more in (0, ttl_s)
    }
    assume(not edges & set(gaps_s))
    observed = one_off(gaps_s, tokens=1_000)
    lane, stable = observed.lanes[0], Stable(1_000.0, 0.0)
    setup, units = best_setup(observed, lane, stable, rates, pings=True)
    menu = {None: float(len(gaps_s) + 1)}
    for ttl_s in (FIVE, HOUR):
        for pings in range(most_pings(rates, ttl_s) + 1):
            menu[Keep(ttl_s, pings)] = simulated_upkeep(gaps_s, ttl_s, pings, rates)
    assert units / 1_000 == pytest.approx(min(menu.values()))
    assert menu[setup.shared] == pytest.approx(min(menu.values()))


@settings(max_examples=60, deadline=None)
@given(
    rows=requests,
    sizes=st.tuples(st.integers(0, 3_000), st.integers(0, 2_000)),
    rates=st.sampled_from([R10, R05]),
    pings=st.booleans(),
)
def test_a_lower_minimum_is_never_worse(rows, sizes, rates, pings):
    """What could be cached above a floor can be cached above a lower one, so the best costs no more."""
    stable = Stable(*map(float, sizes))
    lanes = [Lane(minimum_tokens=minimum) for minimum in (512, 1_024, 2_048, 4_096)]
    observed, _ = played(rows, stable, lanes)
    costs = [best_setup(observed, lane, stable, rates, pings=pings)[1] for lane in lanes]
    assert costs == sorted(costs) or costs == pytest.approx(sorted(costs))
    assert costs[-1] <= observed.lanes[-1].input_tokens * (1 + 1e-9)


def test_session_keep_alives_are_priced_as_played():
    """A conversation that pauses 8 minutes is kept by one read of the whole prefix, to the token."""
    observed, stable = Observed([Lane(minimum_tokens=512)]), Stable(1_000.0, 0.0)
    for at_s, tokens in ((0, 5_000), (480, 6_000), (960, 7_000)):
        observed.add(at_s, "u", "s", tokens)
    lane = observed.lanes[0]
    setup = Setup(None, None, Keep(FIVE, 1))
    written = 5_000 + 1_000 + 1_000
    reads, kept = 5_000 + 6_000, 5_000 + 6_000 + 7_000
    assert input_units(observed, lane, stable, setup, R10) == pytest.approx(
        1.25 * written + 0.1 * (reads + kept)
    )


# --- the tree


def test_the_tree_asks_every_question():
    """Each decision of the framework is there, with its number and what it saves."""
    generator = random.Random(7)
    observed, stable = Observed([Lane(minimum_tokens=512)]), Stable(2_000.0, 500.0)
    at_s = 0.0
    for number in range(3_000):
        at_s += generator.expovariate(1 / 40)
        turn = number % 3
        observed.add(at_s, number // 30, number // 3, 3_000 + 1_300 * turn)
    advice = advise(facts_of(observed, context=stable.context_tokens, assumed=False))
    keys = [each.key for each in advice.tree.walk()]
    assert keys == [
        "cache",
        "minimum",
        "minimum.tools",
        "minimum.system",
        "minimum.context",
        "hits",
        "ttl",
        "context",
        "conversation",
        "one_off",
        "warm",
        "warm.shared",
        "warm.cron",
        "warm.session",
        "warm.predictive",
    ]
    assert advice.tree.verdict is Verdict.CACHE
    assert advice.setup_units < advice.uncached_units
    assert advice.warm_units <= advice.setup_units
    assert decision(advice, "hits").threshold in (near(0.278), near(1.11, 2))
    assert decision(advice, "conversation").effect_units == pytest.approx(
        (
            cheapest(observed, observed.lanes[0], stable, R10, lambda setup: setup.conversation is None)[1]
            - advice.setup_units
        )
        / 3_000
    )


def test_no_verdict_saves_a_negative_sum():
    """Each effect is measured against the opposite at its best, so following the advice never costs."""
    for per_hour in (0.05, 0.5, 3, 40):
        observed = one_off(poisson_gaps(per_hour, 500))
        advice = advise(facts_of(observed, requests_per_day=per_hour * 24))
        for each in advice.tree.walk():
            assert each.effect_units is None or each.effect_units >= -1e-9, (per_hour, each.key)


def test_few_requests_are_no_evidence():
    """Below 30 requests every verdict that rests on a share says so, whatever the share."""
    observed = one_off([60.0] * 20)
    advice = advise(facts_of(observed, assumed=False))
    for key in ("cache", "hits", "ttl", "conversation", "warm.shared", "warm.session"):
        assert decision(advice, key).verdict is Verdict.UNDECIDED, key
    assert decision(advice, "minimum").verdict is Verdict.REACHED


def test_a_share_at_its_threshold_is_no_evidence():
    """Where chance alone may have put the share past the threshold, the tree does not take sides."""
    gaps = [60.0] * 22 + [9_000_000.0] * 78
    hits = decision(advise(facts_of(one_off(gaps), assumed=False)), "hits")
    assert hits.verdict is Verdict.UNDECIDED
    assert (
        decision(advise(facts_of(one_off(gaps * 1), assumed=True)), "hits").verdict is not Verdict.UNDECIDED
    )


def test_the_first_use_is_no_gap_that_lapsed():
    """40 requests within a second say nothing of 5 minutes against 1 hour: a prior, and said to be one."""
    found = decision(advise(facts_of(one_off([0.02] * 39), assumed=False)), "ttl")
    assert found.verdict is Verdict.UNDECIDED
    assert (found.today, found.interval, found.seed) == (None, None, "")
    assert found.why.startswith("none of 39 gaps was over 5 minutes")
    assert "a prior here, not a finding" in found.why


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([60.0] * 300 + [1_000.0] * 100, Verdict.ONE_HOUR),
        ([60.0] * 300 + [90_000.0] * 100, Verdict.FIVE_MINUTES),
        ([60.0] * 300 + [1_000.0], Verdict.UNDECIDED),
        ([60.0] * 300 + [1_000.0] * 40 + [90_000.0] * 60, Verdict.UNDECIDED),
        ([1_000.0] * 20, Verdict.UNDECIDED),
    ],
)
def test_the_ttl_is_decided_by_longer_gaps_beyond_chance(gaps, verdict):
    """Of gaps over 5 minutes, the share that ends within the hour must be clear of its threshold."""
    found = decision(advise(facts_of(one_off(gaps), assumed=False)), "ttl")
    assert found.verdict is verdict
    longer = [gap for gap in gaps if gap > FIVE]
    assert found.today == pytest.approx(sum(gap <= HOUR for gap in longer) / len(longer))
    assert found.why.startswith(f"of {len(longer)} gaps over 5 minutes")
    assert ("prior" in found.why) == (verdict is Verdict.UNDECIDED)


def test_nothing_seen_leaves_the_minimum():
    """Without a request only sizes can be judged."""
    advice = advise(facts_of(Observed([Lane(minimum_tokens=512)]), assumed=False))
    assert [each.key for each in advice.tree.children] == ["minimum"]
    assert advice.tree.verdict is Verdict.UNDECIDED


def test_an_estimate_at_the_minimum_is_to_be_counted():
    """Between the estimate's bounds the minimum is neither reached nor not."""
    advice = advise(facts_of(one_off([60.0] * 99), shared=550.0, uncertainty=0.2))
    assert decision(advice, "minimum").verdict is Verdict.UNDECIDED
    assert (
        decision(advise(facts_of(one_off([60.0] * 99), shared=550.0)), "minimum").verdict is Verdict.REACHED
    )


@pytest.mark.parametrize(
    ("tokens", "minimum", "says"),
    [(2_000.0, 4_096, "passes"), (700.0, 512, "fails"), (300.0, 512, ""), (5e3, 4_096, "")],
)
def test_the_document_minimum_is_corrected_where_it_misleads(tokens, minimum, says):
    """1,024 is named only where the model's own minimum decides otherwise."""
    observed = one_off([60.0] * 99, minimum=minimum, tokens=6_000)
    seed = decision(advise(facts_of(observed, shared=tokens)), "minimum").seed
    assert (says in seed) if says else not seed


def test_two_hits_per_write_are_more_than_needed():
    """At one hit per write, 5 minutes, the document says "maybe not"; 0.28 suffice."""
    gaps = [60.0, 9_000_000.0] * 500
    hits = decision(advise(facts_of(one_off(gaps))), "hits")
    assert hits.verdict is Verdict.CACHE
    assert hits.today == near(1.0, 2)
    assert "asks for 2" in hits.seed


def test_a_cheaper_model_with_a_lower_minimum_is_named():
    """Only where the floor bites, and only when the whole bill is lower."""
    observed = one_off([60.0] * 99, minimum=4_096, tokens=2_500, added=2_096)
    dear, cheap = (
        Alternative(model="dear", minimum_tokens=512, relative_cost=1.2),
        Alternative(model="cheap", minimum_tokens=512, relative_cost=0.7),
    )
    found = decision(advise(facts_of(observed, alternatives=(dear, cheap))), "model")
    assert found.verdict is Verdict.OTHER_MODEL
    assert "cheap" in found.why
    found = decision(advise(facts_of(observed, alternatives=(dear,))), "model")
    assert found.verdict is Verdict.SAME_MODEL


def test_one_off_requests_are_not_written():
    """A tenant whose sessions rarely go on writes from the second turn on, or not at all."""
    observed, at_s = Observed([Lane(minimum_tokens=512)]), 0.0
    for number in range(400):
        at_s += 2_000
        observed.add(at_s, number, number, 2_000)
        if number % 10 == 0:
            for turn in range(1, 6):
                observed.add(at_s + 60 * turn, number, number, 2_000 + 1_000 * turn)
    advice = advise(facts_of(observed, shared=600.0))
    assert advice.setup.conversation is not None
    assert advice.setup.from_turn == 2
    found = decision(advice, "one_off")
    assert found.verdict is Verdict.SKIP_FIRST
    assert found.today == near(0.1, 2)
    assert "90.0% of 400 sessions" in found.why


def test_setups_are_spelled_for_people():
    """The recommended setup reads as a sentence."""
    assert describe(NO_CACHING) == "no caching"
    spelled = describe(Setup(Keep(HOUR, 1), None, Keep(FIVE, 3), 2))
    assert (
        spelled
        == "shared layers 1 hour and up to 1 keep-alive, conversation 5 minutes and up to 3 keep-alives from turn 2"
    )


# --- digests


@given(st.lists(st.floats(0, 400_000), max_size=60), st.integers(0, 30), st.sampled_from([FIVE, HOUR]))
def test_gaps_are_exact_where_upkeep_is_priced(gaps_s, pings, ttl_s):
    """At every instant T + K d and K d the digest counts as the list would, tokens too."""
    digest = GapDigest()
    digest.add(None)
    for gap_s in gaps_s:
        digest.add(gap_s, gap_s + 1)
    for span_s in (ttl_s + pings * ping_spacing_s(ttl_s), (pings + 1) * ping_spacing_s(ttl_s)):
        within = [gap_s for gap_s in gaps_s if gap_s <= span_s]
        assert digest.count_within(span_s) == len(within)
        assert digest.tokens_within(span_s) == pytest.approx(sum(within) + len(within))
        assert digest.share_within(span_s) == pytest.approx(len(within) / (len(gaps_s) + 1))


def test_memory_is_bounded():
    """Users and sessions beyond the bound are forgotten, oldest first, and counted as new when they return."""
    observed = Observed([Lane(minimum_tokens=512)], max_remembered=100)
    for number in range(5_000):
        observed.add(float(number), number, number, 1_000)
    observed.add(5_000.0, 0, 0, 1_000)
    observed.add(5_001.0, 4_999, 4_999, 1_000)
    assert len(observed._sessions) == len(observed._users) == 100
    assert observed.session_count == 5_001
    assert observed.turns.returns == 1


@given(st.integers(0, 200), st.integers(1, 200))
def test_intervals_hold_the_share(count, more):
    """The interval lies in [0, 1], holds the share, and narrows as more is seen."""
    whole = count + more
    low, high = share_interval(count, whole)
    assert 0 <= low <= count / whole <= high <= 1
    wide = share_interval(count, whole)
    narrow = share_interval(count * 10, whole * 10)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_tables_are_poisson():
    """The slices give the distribution the tables were made with."""
    gaps = poisson_gaps(2.0)
    assert sum(gap <= 1_800 for gap in gaps) / len(gaps) == near(1 - exp(-1))
