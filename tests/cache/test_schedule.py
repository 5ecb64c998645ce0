"""What warming is worth, when it is due, and that it stops: keep-alives, warms ahead, shared layers, budgets."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.advice_warm import warm_precision
from cache.demand import Demand
from cache.economics import Rates, most_pings, ping_threshold
from cache.pace import Pace
from cache.prompt import CacheScope
from cache.returns import PRIOR_HAZARD, WINDOW_S, WINDOWS, Returns
from cache.schedule import (
    FIXED_PINGS,
    MARGIN,
    Policy,
    Prefix,
    Schedule,
    Trigger,
    Worth,
    ahead,
    allowed,
    could_pay,
    keep_alive,
    menu,
    order,
    shared_upkeep,
)

R10, R05 = Rates(write_5m=1.25, write_1h=2.0, read=0.1), Rates(write_5m=1.25, write_1h=2.0, read=0.05)
FREE = Worth(R05, 4e-6)
"""Waiting is worth nothing, as by default."""
SESSION = Prefix(b"session", 20_000, 16_000, 300, False)
SYSTEM = Prefix(b"system", 4_000, 4_000, 3600, True)
OWNER = ("acme", "desk")
PATH = (("", "later"),)


# --- keep-alives


@pytest.mark.parametrize("rates", [R10, R05])
def test_one_keep_alive_is_sent_from_the_break_even_on_and_a_margin(rates):
    """With one window left: iff h (w - r) P > 1.25 r C."""
    worth = Worth(rates, 4e-6)
    edge = MARGIN * ping_threshold(rates, 300, SESSION.tokens, SESSION.private_tokens)
    assert keep_alive(Policy.AUTO, SESSION, worth, [edge * 1.01], 0).fires
    assert not keep_alive(Policy.AUTO, SESSION, worth, [edge * 0.99], 0).fires


def test_later_windows_may_pay_for_the_first():
    """Nobody returns in the next window, everybody in the one after: two pings are worth one write."""
    assert keep_alive(Policy.AUTO, SESSION, FREE, [0.0, 1.0], 0).fires
    assert not keep_alive(Policy.AUTO, SESSION, FREE, [0.0, 0.0], 0).fires


def test_prior_alone_sends_nothing():
    """Before evidence nothing is spent, at either read rate."""
    for rates in (R10, R05):
        assert not keep_alive(Policy.AUTO, SESSION, Worth(rates, 4e-6), [PRIOR_HAZARD] * WINDOWS, 0).fires


@given(
    st.lists(st.floats(0, 1), min_size=0, max_size=WINDOWS),
    st.integers(1, 200_000),
    st.floats(0.01, 1),
    st.sampled_from([300, 3600]),
    st.integers(0, 60),
    st.floats(0, 100),
)
def test_keep_alives_stop_and_their_value_is_bounded(hazards, tokens, share, ttl_s, pings, latency):
    """Never past ski rental, never without a gain in sight, never worth more than the write they save."""
    prefix = Prefix(b"x", tokens, max(1, int(tokens * share)), ttl_s, False)
    worth = Worth(R10, 1.0, latency, 1.0)
    verdict = keep_alive(Policy.AUTO, prefix, worth, hazards, pings)
    gain = (R10.write(ttl_s) - R10.read + latency) * prefix.private_tokens
    assert 0 <= verdict.value_units <= gain * (1 + 1e-9)
    if pings >= most_pings(R10, ttl_s) or not any(hazards):
        assert not verdict.fires
    if verdict.fires:
        assert verdict.value_units > MARGIN * verdict.cost_units


@given(st.lists(st.floats(0, 1), min_size=WINDOWS, max_size=WINDOWS), st.integers(0, WINDOWS - 1))
def test_likelier_returns_never_make_a_keep_alive_worth_less(hazards, window):
    """Monotone in every window's hazard."""
    likelier = [max(hazard, 0.9) if number == window else hazard for number, hazard in enumerate(hazards)]
    less = keep_alive(Policy.AUTO, SESSION, FREE, hazards, 0).value_units
    assert keep_alive(Policy.AUTO, SESSION, FREE, likelier, 0).value_units >= less - 1e-6


def test_the_policy_that_counts_sends_three():
    """Whatever is expected: for comparison."""
    sent = [keep_alive(Policy.KEEP_ALIVE, SESSION, FREE, [0.0] * 9, pings).fires for pings in range(5)]
    assert sent == [True] * FIXED_PINGS + [False] * 2


# --- warms ahead


@given(
    st.floats(0, 1),
    st.integers(0, 100_000),
    st.integers(1, 100_000),
    st.sampled_from([R10, R05]),
    st.sampled_from([300, 3600]),
)
def test_warming_ahead_never_pays_in_money_alone(p_use, base, private, rates, ttl_s):
    """At no size and no chance: a right guess costs a read."""
    prefix = Prefix(b"x", base + private, private, ttl_s, False)
    assert not ahead(Policy.AUTO, prefix, Worth(rates, 4e-6), p_use, 0.0, base).fires


@pytest.mark.parametrize("second_usd", [0.05, 0.1])
def test_warming_ahead_pays_from_the_precision_that_advice_asks_for(second_usd):
    """The same threshold as the advice's, and the margin; a large document at $0.05 a second."""
    worth = Worth(R05, 4e-6, second_usd, 80e-6)
    prefix = Prefix(b"x", 22_000, 20_000, 300, False)
    needed = MARGIN * warm_precision(R05, 300, 2_000, 20_000, worth.latency)
    assert needed < 1
    assert ahead(Policy.AUTO, prefix, worth, needed * 1.01, 0.0, 2_000).fires
    assert not ahead(Policy.AUTO, prefix, worth, needed * 0.99, 0.0, 2_000).fires


def test_what_is_warm_is_not_warmed_again():
    """By no policy, not even one that only counts."""
    for policy in Policy:
        assert not ahead(policy, SESSION, FREE, 1.0, 0.97, SESSION.tokens).fires


@pytest.mark.parametrize(
    ("policy", "triggers"),
    [
        (Policy.SESSION_START, {Trigger.SESSION_START}),
        (Policy.KEEP_ALIVE, {Trigger.IDLE}),
        (Policy.PREDICTIVE, {Trigger.PREDICTION, Trigger.SCORE}),
        (Policy.SHARED, {Trigger.SHARED}),
    ],
)
def test_each_strategy_does_what_its_name_says_and_nothing_else(policy, triggers):
    """AUTO all four, OFF none; an operator's order is always carried out."""
    assert {each for each in Trigger if allowed(policy, each)} == triggers | {Trigger.OPERATOR}
    for trigger in triggers:
        assert allowed(Policy.AUTO, trigger)
        assert not allowed(Policy.OFF, trigger)


# --- shared layers


def test_shared_layers_in_use_are_kept_and_others_lapse():
    """From a few uses a day on; one that was used once, or in a burst long ago, is left alone."""
    scope, key = CacheScope("anthropic", "w", "m"), b"k" * 16
    assert Demand().use_within(scope, key, 0.0, 180, 3600) == (0.0, 0.0)
    fires = {}
    for per_day in (0.5, 1, 10, 50):
        demand, prompt = Demand(), _system_only()
        now = 0.0
        for _ in range(int(per_day * 14) + 1):
            demand.arrive(scope, prompt, (key,), now)
            now += 86_400 / per_day
        last = now - 86_400 / per_day
        chance, uses = demand.use_within(scope, key, last + 3420, 180, 3600)
        fires[per_day] = shared_upkeep(Policy.AUTO, SYSTEM, FREE, chance, uses).fires
    assert fires == {0.5: False, 1: False, 10: True, 50: True}


def test_idleness_lowers_what_is_expected():
    """The longer nothing came, the less is expected to."""
    scope, key, demand = CacheScope("anthropic", "w", "m"), b"k" * 16, Demand()
    for number in range(40):
        demand.arrive(scope, _system_only(), (key,), number * 600.0)
    chances = [
        demand.use_within(scope, key, 23_400 + idle, 180, 3600)[0] for idle in (0, 3600, 36_000, 360_000)
    ]
    assert chances == sorted(chances, reverse=True)
    assert chances[0] > 0.5
    assert chances[-1] < 0.05


def _system_only():
    from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters

    block = Block(Layer.SYSTEM, "system", BlockKind.TEXT, b"{}", True)
    return Prompt((block,), PromptParameters())


def test_the_menu_prices_every_way_to_keep_a_prefix():
    """Returns within a minute: five minutes without a ping; every forty: an hour; never: not at all."""
    best = [menu(R05, cdf)[1] for cdf in (lambda _: 1.0, lambda t: float(t >= 2400), lambda _: 0.0)]
    assert [(way.ttl_s, way.pings) for way in best] == [(300, 0), (3600, 0), (None, 0)]
    ways, cheapest = menu(R05, lambda t: float(t >= 2400))
    assert min(way.cost for way in ways) >= cheapest.cost
    assert len({(way.ttl_s, way.pings) for way in ways}) == len(ways)


# --- when


def test_a_keep_alive_is_due_a_margin_before_the_ttl_counted_from_the_start():
    """Of the last request, and then of each keep-alive; once each."""
    schedule = Schedule()
    schedule.used(SESSION, OWNER, PATH, 1000.0)
    assert schedule.due(1284.9) == []
    (watch,) = schedule.due(1285.0)
    assert schedule.due(1286.0) == []
    assert watch.idle_windows == 1
    schedule.pinged(watch, 1285.0)
    assert schedule.next_due_s() == 1570.0
    (again,) = schedule.due(1570.0)
    assert (again.idle_windows, again.pings) == (2, 1)


def test_use_puts_a_keep_alive_off_and_the_next_turn_takes_its_place():
    """What is in use needs none; a conversation is kept at its last prefix only."""
    schedule = Schedule()
    schedule.used(SESSION, OWNER, PATH, 0.0)
    schedule.used(SESSION, OWNER, PATH, 200.0)
    assert schedule.due(300.0) == []
    schedule.forget(SESSION.key)
    assert schedule.due(10_000.0) == []
    assert len(schedule) == 0


def test_a_keep_alive_that_failed_ends_the_watch_it_was_sent_for_and_no_later_one():
    """While it was under way the prefix was used again: that use has a TTL of its own to be kept."""
    schedule = Schedule()
    schedule.used(SESSION, OWNER, PATH, 0.0)
    (sent_for,) = schedule.due(299.0)
    schedule.used(SESSION, OWNER, PATH, 295.0)
    schedule.lapsed(sent_for)
    assert len(schedule) == 1
    (later,) = schedule.due(590.0)
    schedule.lapsed(later)
    assert len(schedule) == 0


def test_what_lapsed_unseen_is_not_pinged():
    """A ping on it would be a write."""
    schedule = Schedule()
    schedule.used(SESSION, OWNER, PATH, 0.0)
    assert schedule.due(300.0) == []
    assert len(schedule) == 0


def test_jitter_makes_it_earlier_never_later():
    """What was used together is spread, and none is late."""
    schedule = Schedule()
    schedule.used(SESSION, OWNER, PATH, 0.0, jitter_s=10.0)
    assert len(schedule.due(275.0)) == 1


def test_watches_are_bounded():
    """The longest unused is forgotten; the queue of what is due does not grow with use."""
    schedule = Schedule(max_watches=10)
    for number in range(1000):
        key = b"%d" % (number % 50)
        schedule.used(SESSION._replace(key=key), OWNER, PATH, float(number))
    assert len(schedule) == 10
    assert len(schedule._due) <= 41


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.floats(1, 400), st.booleans()), max_size=60)
)
def test_nothing_is_due_late_and_nothing_twice(steps):
    """Whatever is used, pinged or left: what is given out is alive, due, and given once per touch."""
    schedule, now, given_out = Schedule(), 0.0, set()
    for key, span, ping in steps:
        now += span
        for watch in schedule.due(now):
            assert watch.due_s <= now < watch.lapses_s
            assert (watch.prefix.key, watch.touched_s) not in given_out
            given_out.add((watch.prefix.key, watch.touched_s))
            if ping:
                schedule.pinged(watch, now)
        schedule.used(SESSION._replace(key=key), OWNER, PATH, now)


def test_an_order_is_in_dollars():
    """Units times the price of a token."""
    verdict = keep_alive(Policy.AUTO, SESSION, FREE, [1.0], 0)
    found = order(SESSION, Trigger.IDLE, verdict, 285.0, FREE)
    assert found.cost_usd == pytest.approx(0.05 * 20_000 * 4e-6)
    assert found.value_usd == pytest.approx(1.2 * 16_000 * 4e-6)


# --- what is learnt of returns


def test_hazards_are_counted_when_their_window_closes():
    """A quick return does not count before the slow ones could have."""
    returns = Returns()
    for number in range(100):
        returns.quiet(b"%d" % number, PATH, 0.0)
        if number % 2:
            returns.returned(b"%d" % number, 10.0)
    returns.close(WINDOW_S - 1)
    assert returns.hazards(PATH)[0] == PRIOR_HAZARD
    returns.close(WINDOW_S)
    assert 0.38 < returns.hazards(PATH)[0] < 0.5
    assert returns.waiting == 50


def test_hazards_of_a_known_distribution_are_recovered():
    """Half come in the first window, then a tenth of the rest in each."""
    returns, draw = Returns(max_waiting=100_000), random.Random(5)
    now = 0.0
    waiting: list[tuple[float, bytes]] = []
    for number in range(4000):
        now += 7.0
        for due, key in [entry for entry in waiting if entry[0] <= now]:
            returns.returned(key, due)
        waiting = [entry for entry in waiting if entry[0] > now]
        key = b"%d" % number
        returns.quiet(key, PATH, now)
        window = 0
        while window < WINDOWS and draw.random() > (0.5 if window == 0 else 0.1):
            window += 1
        if window < WINDOWS:
            waiting.append((now + (window + draw.random()) * WINDOW_S, key))
    found = returns.hazards(PATH)
    assert found[0] == pytest.approx(0.5, abs=0.04)
    assert [round(hazard, 1) for hazard in found[1:6]] == [0.1] * 5


def test_a_turn_nobody_came_back_to_is_forgotten_with_its_last_window():
    """One by one: looking through all that wait each time one ends cost milliseconds a request."""
    returns, last_s = Returns(), WINDOWS * WINDOW_S
    returns.quiet(b"left", PATH, 0.0)
    returns.quiet(b"again", PATH, 0.0)
    returns.quiet(b"again", PATH, last_s - 50)
    for number in range(10):
        returns.quiet(b"%d" % number, PATH, last_s - 20)
        returns.returned(b"%d" % number, last_s - 10)
    returns.close(last_s)
    assert returns.started_s(b"left") is None
    assert returns.started_s(b"again") == last_s - 50
    assert returns.waiting == 11


def test_returns_are_bounded_and_forget():
    """Beyond the limit turns are not counted; closed ones leave nothing."""
    returns = Returns(max_waiting=10)
    for number in range(50):
        returns.quiet(b"%d" % number, PATH, 0.0)
    assert returns.waiting == 10
    returns.close(WINDOW_S * WINDOWS)
    assert returns.waiting == 0
    assert len(returns._quiet) == 0


# --- what may be spent


def test_budget_and_rate_admit_and_refuse_with_their_reason():
    """A dollar an hour and two warms a minute."""
    pace = Pace(usd_per_hour=1.0, requests_per_minute=2)
    assert pace.refusal(0.6, 0.0) == ""
    pace.charge(0.6, 0.0)
    assert "budget" in pace.refusal(0.6, 0.0)
    pace.charge(0.1, 0.0)
    assert "a minute" in pace.refusal(0.1, 1.0)
    assert pace.refusal(0.5, 3600.0) == ""
    pace.correct(10.0, 3600.0)
    assert "budget" in pace.refusal(0.01, 3600.0 + 8 * 3600)


@given(st.lists(st.tuples(st.floats(0, 600), st.floats(0.001, 0.3)), max_size=80))
def test_no_hour_costs_more_than_two_budgets(steps):
    """A bucket that was full at its start and one hour's filling, whatever comes when."""
    pace, now, spent = Pace(usd_per_hour=1.0, requests_per_minute=1000), 0.0, []
    for span, cost in steps:
        now += span
        if not pace.refusal(cost, now):
            pace.charge(cost, now)
            spent.append((now, cost))
    for start, _ in spent:
        assert sum(cost for at, cost in spent if start <= at <= start + 3600) <= 2.0 + 1e-6


# --- all of it together, against doing nothing


def replayed(policy: Policy, hazard, draw: random.Random, sessions: int = 1500) -> tuple[float, float]:
    """Units that sessions of some turns cost under a policy, and of these its keep-alives; 20,000 tokens a turn."""
    returns, spent, pinged, now = Returns(max_waiting=100_000), 0.0, 0.0, 0.0
    prefix = Prefix(b"", 20_000, 16_000, 300, False)
    pending: list[tuple[float, bytes]] = []
    for number in range(sessions):
        now += 40.0
        for due, key in [entry for entry in pending if entry[0] <= now]:
            returns.returned(key, due)
        pending = [entry for entry in pending if entry[0] > now]
        key = b"%d" % number
        returns.quiet(key, PATH, now)
        window = 0
        while window < WINDOWS and draw.random() > hazard(window):
            window += 1
        hazards, pings = returns.hazards(PATH), 0
        while policy is not Policy.OFF and pings < window:
            if not keep_alive(policy, prefix, FREE, hazards[pings + 1 :], pings).fires:
                break
            pings += 1
        pinged += pings * R05.read * prefix.tokens
        if window < WINDOWS:
            pending.append((now + (window + 0.5) * WINDOW_S, key))
            shared = prefix.tokens - prefix.private_tokens
            rate = R05.read if pings >= window else R05.write_5m
            spent += R05.read * shared + rate * prefix.private_tokens
    return spent + pinged, pinged


@pytest.mark.parametrize(
    ("name", "hazard", "gains"),
    [
        ("agents", lambda j: (0.95, 0.41, 0.35, 0.21, 0.13, 0.13, 0.13, 0.08)[j] if j < 8 else 0.05, True),
        ("pauses", lambda j: 0.2 if j < 12 else 0.0, True),
        ("never comes back", lambda j: 0.3 if j == 0 else 0.005, False),
        ("just too seldom", lambda j: 0.3 if j == 0 else 0.03, False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_auto_gains_where_keep_alives_pay_and_costs_nothing_where_they_do_not(name, hazard, gains):
    """Learning included, against no warming and against three keep-alives, on the same gaps."""
    off, _ = replayed(Policy.OFF, hazard, random.Random(7))
    auto, spent = replayed(Policy.AUTO, hazard, random.Random(7))
    fixed, _ = replayed(Policy.KEEP_ALIVE, hazard, random.Random(7))
    print(
        f"{name}: auto {auto / off:.4f} (keep-alives {spent / off:.4f}), three keep-alives {fixed / off:.4f} of none"
    )
    assert (auto < 0.97 * off) if gains else (auto <= 1.002 * off)
    assert auto <= fixed * 1.03, "of what the best fixed number knows from the start, the rest is learning"


@given(
    p_use=st.floats(0, 1),
    tokens=st.integers(1, 1_000_000),
    warm_share=st.floats(0, 1),
    ttl_s=st.sampled_from([300, 3600]),
    second_usd=st.floats(0, 10),
    tail=st.integers(0, 10_000),
)
def test_what_could_not_pay_is_never_warmed_ahead(p_use, tokens, warm_share, ttl_s, second_usd, tail):
    """The bound spares a question only where the answer is no."""
    worth = FREE._replace(second_usd=second_usd, kappa_s=40e-6)
    prefix = SESSION._replace(tokens=tokens, private_tokens=tokens, ttl_s=ttl_s, tail_tokens=tail)
    if ahead(Policy.AUTO, prefix, worth, p_use, 1.0, int(warm_share * tokens)).fires:
        assert could_pay(p_use, worth)
