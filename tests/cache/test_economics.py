"""Break-evens from the rates alone, and the strategy document's arithmetic: right where it is, corrected
where not.
"""

from math import exp, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.economics import (
    MarkState,
    Rates,
    TokenSplit,
    best_upkeep,
    bill,
    conversation_hour_threshold,
    cost_units,
    hour_threshold,
    input_cost,
    last_write_threshold,
    mark_set_cost,
    mixed_cost,
    most_pings,
    pad_saving,
    pad_threshold,
    ping_ratio,
    ping_threshold,
    ping_value,
    reads_to_pay_write,
    renewal_cost,
    session_bills,
    write_threshold,
)

R10, R05 = Rates(1.25, 2.0, 0.1), Rates(1.25, 2.0, 0.05)
H = 3600
OPUS_4_5 = {"input": 5e-6, "write_5m": 6.25e-6, "write_1h": 10e-6, "read": 0.5e-6}
OUTPUT = 800 * 25e-6


def near(value, digits=3):
    return pytest.approx(value, abs=0.5 * 10**-digits)


# --- thresholds


def test_break_even_is_1_28_requests():
    """Premium 0.25 over saving 0.9: a write is paid back by 0.278 hits on average, so by 1.28 requests."""
    assert 1 + last_write_threshold(R10) == near(1.28, 2)
    assert reads_to_pay_write(R10) == 1


@pytest.mark.parametrize(
    ("rates", "five", "hour", "hits_five", "hits_hour"),
    [(R10, 0.217, 0.526, 0.278, 1.11), (R05, 0.208, 0.513, 0.263, 1.05)],
)
def test_write_thresholds(rates, five, hour, hits_five, hits_hour):
    """P(next use) for a chain of requests; hits per write for a last one."""
    assert write_threshold(rates) == near(five)
    assert write_threshold(rates, H) == near(hour)
    assert last_write_threshold(rates) == near(hits_five)
    assert last_write_threshold(rates, H) == near(hits_hour, 2)
    assert reads_to_pay_write(rates, H) == 2


def test_hour_over_five_minutes():
    """1h iff P(gap < 1 h | > 5 min) exceeds this; a conversation compares added with private tokens."""
    assert hour_threshold(R10) == near(0.395)
    assert hour_threshold(R05) == near(0.385)
    assert conversation_hour_threshold(R10, 50, 1000) == near(0.033)
    assert conversation_hour_threshold(R05, 50, 1000) == near(0.031)


def test_ping_thresholds():
    """A ping is a read: worth it above r/(w-r) times C/P; half of that on Opus 5.5."""
    assert ping_threshold(R10, 300, 1000, 1000) == near(0.087)
    assert ping_threshold(R05, 300, 1000, 1000) == near(0.042)
    assert ping_threshold(R10, H, 1000, 1000) == near(0.053)
    assert ping_threshold(R10, 300, 2500, 500) == near(0.435)
    assert ping_threshold(R10, 300, 1000, 0) == float("inf")


@pytest.mark.parametrize(
    ("rates", "ttl_s", "pings", "ratio"),
    [(R10, 300, 10, 1.875), (R05, 300, 23, 1.92), (R10, H, 18, 1.90), (R05, H, 38, 1.95)],
)
def test_ski_rental_cap(rates, ttl_s, pings, ratio):
    """Knowing nothing of returns, stopping here bounds the worst case."""
    assert most_pings(rates, ttl_s) == pings
    assert ping_ratio(rates, ttl_s, pings) == near(ratio)


def test_pinging_stops_where_the_hazard_falls_below_break_even():
    """The value of pinging now counts the best stop later; below the threshold throughout it is nothing."""
    assert ping_value(R10, 300, 1000, 1000, [0.05] * 10) == 0
    assert ping_value(R10, 300, 1000, 1000, [0.5]) == pytest.approx(0.5 * 1150 - 100)
    once = ping_value(R10, 300, 1000, 1000, [0.2])
    assert ping_value(R10, 300, 1000, 1000, [0.2, 0.2]) > once > 0
    assert ping_value(R10, 300, 1000, 1000, [0.02, 0.9]) > 0  # a poor window before a rich one


def poisson(per_hour):
    return lambda seconds: 1 - exp(-per_hour * seconds / 3600)


@pytest.mark.parametrize(("rates", "per_hour"), [(R10, 2.94), (R05, 2.80)])
def test_none_and_five_minutes_cost_the_same_at_three_an_hour(rates, per_hour):
    """Poisson break-even of the renewal formula with no pings."""
    assert renewal_cost(rates, poisson(per_hour), 300) == near(1.0, 2)


@pytest.mark.parametrize(("rates", "per_hour"), [(R10, 0.747), (R05, 0.719)])
def test_none_and_one_hour_cost_the_same_at_three_quarters_an_hour(rates, per_hour):
    """The same for the 1h TTL."""
    assert renewal_cost(rates, poisson(per_hour), H) == near(1.0, 2)


def test_an_hour_with_idle_pings_beats_the_menu_for_a_shared_prefix():
    """At five requests an hour: 5m .858, 1h .113, 1h with idle pings .101."""
    assert renewal_cost(R10, poisson(5), 300) == near(0.858, 2)
    assert renewal_cost(R10, poisson(5), H) == near(0.113)
    best = best_upkeep(R10, poisson(5))
    assert best.ttl_s == H
    assert best.cost == near(0.101)
    assert best_upkeep(R10, poisson(0.02)).ttl_s is None


# --- marks and padding


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1)), min_size=1, max_size=4),
    st.integers(0, 5000),
)
def test_mark_set_cost_is_the_closed_form_with_one_ttl(layers, tail):
    """Summed per segment or by the formula of economics: total + (w-1) C_m - (w-r) sum (a_i - a_i+1) C_i."""
    sizes = [size for size, _ in layers]
    alive = sorted((p for _, p in layers), reverse=True)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    total = ends[-1] + tail
    marks = [MarkState(c, 300, a) for c, a in zip(ends, alive, strict=True)]
    w, r = R10.write_5m, R10.read
    steps = sum((a - b) * c for a, b, c in zip(alive, [*alive[1:], 0.0], ends, strict=True))
    closed = total + (w - 1) * ends[-1] - (w - r) * steps
    assert isclose(mark_set_cost(total, marks, R10), closed, rel_tol=1e-9)


def test_a_mark_between_layers_that_live_together_is_worth_nothing():
    """The separate tools mark: tools and system die in the same deploy."""
    with_tools = [MarkState(500, 300, 0.9), MarkState(2000, 300, 0.9)]
    assert mark_set_cost(3000, with_tools, R10) == pytest.approx(mark_set_cost(3000, with_tools[1:], R10))


@pytest.mark.parametrize(
    ("tokens", "needed", "saved"),
    [(1024, 0.87, 0.55), (1500, 0.77, 0.70), (2000, 0.66, 0.77), (2500, 0.56, 0.82), (3500, 0.34, 0.87)],
)
def test_padding_to_4096(tokens, needed, saved):
    """Hit share needed, and what it saves at 99 %."""
    assert pad_threshold(R10, tokens, 4096) == near(needed, 2)
    assert pad_saving(R10, tokens, 4096, 0.99) == pytest.approx(saved, abs=0.012)


def test_padding_never_pays_below_the_read_rate_nor_above_the_minimum():
    """rho <= r: reading the padded prompt costs more than sending the short one."""
    assert pad_threshold(R10, 409, 4096) is None
    assert pad_threshold(R10, 5000, 4096) is None


def test_threshold_and_saving_agree():
    """At the threshold itself padding saves exactly nothing."""
    for tokens in (1024, 2000, 3500):
        assert pad_saving(R10, tokens, 4096, pad_threshold(R10, tokens, 4096)) == pytest.approx(0)


# --- the bill


def test_mixed_ttls_are_billed_by_a_b_c():
    """Read up to the hit, 1h up to the last 1h mark, 5m up to the last mark, the rest plain."""
    split = bill(30_000, [(20_000, H), (24_000, H), (25_000, 300)], 20_000)
    assert split == TokenSplit(20_000, 1_000, 4_000, 5_000)
    assert bill(30_000, [(20_000, H)], 0) == TokenSplit(0, 0, 20_000, 10_000)


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from([300, H])), max_size=4),
    st.integers(0, 10**6),
)
def test_the_parts_of_a_bill_sum_to_the_whole(total, marks, hit):
    """Every input token is billed once."""
    marks = [(min(tokens, total), ttl_s) for tokens, ttl_s in marks]
    split = bill(total, marks, min(hit, total))
    assert split.total == total
    assert min(split) >= 0


# --- the strategy document's own figures (prices of Opus 4.5, as it prints them)


def test_scenario_1_no_caching():
    """3,000 in, 800 out: $0.0350."""
    assert input_cost(TokenSplit(uncached=3000), OPUS_4_5) + OUTPUT == pytest.approx(0.0350)


def test_scenario_2_cold_start_costs_8_9_percent_more():
    """2,500 written, 500 plain: $0.038125."""
    cost = input_cost(bill(3000, [(2500, 300)], 0), OPUS_4_5) + OUTPUT
    assert cost == pytest.approx(0.038125)
    assert cost / 0.0350 - 1 == near(0.089)


def test_scenario_3_hit():
    """2,500 read, 500 plain: $0.02375."""
    assert input_cost(bill(3000, [(2500, 300)], 2500), OPUS_4_5) + OUTPUT == pytest.approx(0.02375)


def test_monthly_projection():
    """10,000 a day for 30 days, 70 % hits: $10,500 without, $8,418.75 with, $2,081.25 or 19.8 % saved."""
    month = mixed_cost(300_000, 0.7, 0.02375, 0.038125)
    assert month == pytest.approx(8418.75)
    assert 300_000 * 0.0350 - month == pytest.approx(2081.25)
    assert 1 - month / 10_500 == near(0.198)


def test_monthly_projection_with_the_shared_layers_warm():
    """Corrected: a miss rewrites only the user's 500 tokens, the shared 2,000 are read: $0.026625, $7,383.75,
    29.7 %.
    """
    miss = input_cost(bill(3000, [(2000, 300), (2500, 300)], 2000), OPUS_4_5) + OUTPUT
    assert miss == pytest.approx(0.026625)
    month = mixed_cost(300_000, 0.7, 0.02375, miss)
    assert month == pytest.approx(7383.75)
    assert 1 - month / 10_500 == near(0.297)


def five_turns(growth, mark):
    """The document's conversation: 2,500 stable, 500 query, so many tokens of history added per turn."""
    turns = []
    for turn in range(5):
        history = growth * turn
        total = 3000 + history
        marks = {"context": [(2500, 300)], "last": [(2500, 300), (total, 300)]}
        marks["history"] = [(2500, 300), (2500 + history, 300)]
        turns.append((total, marks[mark] if mark else []))
    return turns


def five_turn_cost(growth, mark, minimum_tokens=0):
    bills = session_bills(five_turns(growth, mark), minimum_tokens)
    return [input_cost(turn.split, OPUS_4_5) for turn in bills]


def test_five_turn_table_first_two_rows():
    """Row 1 is right (+$0.00313). Row 2's cost is right, its difference is not: $0.0165 - $0.00525 =
    $0.01125, not .00875.
    """
    plain, option_a = five_turn_cost(300, None), five_turn_cost(300, "context")
    assert option_a[0] - plain[0] == pytest.approx(0.003125)
    assert option_a[1] == pytest.approx(0.00525)
    assert plain[1] - option_a[1] == pytest.approx(0.01125)


def test_five_turn_table_later_rows_for_the_tokens_it_prints():
    """Rows 4 and 5 as printed (3,700 and 4,300 read, 800 plain) differ by $0.01665 and $0.01935, not .01915
    and .02435.
    """
    for read, difference in ((3700, 0.01665), (4300, 0.01935)):
        cached = input_cost(TokenSplit(read=read, uncached=800), OPUS_4_5)
        plain = input_cost(TokenSplit(uncached=read + 800), OPUS_4_5)
        assert plain - cached == pytest.approx(difference)


def test_five_turn_table_without_caching():
    """The printed rows sum to 19,800 tokens: $0.0990, not $0.10400. With its own +300 a turn it is 18,000:
    $0.0900.
    """
    printed = 3000 + 3300 + 3900 + 4500 + 5100
    assert input_cost(TokenSplit(uncached=printed), OPUS_4_5) == pytest.approx(0.0990)
    assert sum(five_turn_cost(300, None)) == pytest.approx(0.0900)


@pytest.mark.parametrize(
    ("mark", "total", "saving"),
    [("context", 0.04813, 0.465), ("history", 0.04153, 0.539), ("last", 0.03315, 0.632)],
)
def test_five_turn_totals_with_the_documents_growth(mark, total, saving):
    """The reads of rows 3-5 were never written under option A. Correct: A -46.5 %, C -53.9 %, last message
    -63.2 %.
    """
    cost = sum(five_turn_cost(300, mark))
    assert cost == pytest.approx(total, abs=6e-6)
    assert 1 - cost / 0.0900 == near(saving)


@pytest.mark.parametrize(
    ("mark", "total", "saving"),
    [("context", 0.09813, 0.299), ("history", 0.06953, 0.503), ("last", 0.06115, 0.563)],
)
def test_five_turn_totals_with_query_and_answer_growing(mark, total, saving):
    """A query of 500 and an answer of 800 grow the history by 1,300 a turn, not 300: no caching costs
    $0.1400.
    """
    assert sum(five_turn_cost(1300, None)) == pytest.approx(0.1400)
    cost = sum(five_turn_cost(1300, mark))
    assert cost == pytest.approx(total, abs=6e-6)
    assert 1 - cost / 0.1400 == near(saving)


def test_five_turns_on_the_4096_floor():
    """Opus 4.5 as it is: option A saves nothing at all, option C 30.1 % once its history mark passes the
    floor.
    """
    assert sum(five_turn_cost(1300, "context", 4096)) == pytest.approx(0.1400)
    assert 1 - sum(five_turn_cost(1300, "history", 4096)) / 0.1400 == near(0.301)


def test_units_are_money_over_the_input_price():
    """One unit is one uncached token: both ways of pricing a split agree."""
    split = TokenSplit(20_000, 1_000, 4_000, 50)
    assert cost_units(split, R10) * 5e-6 == pytest.approx(input_cost(split, OPUS_4_5))


@pytest.mark.parametrize("rates", [(1.25, 2.0, 1.0), (0.9, 2.0, 0.1), (2.0, 1.25, 0.1), (1.25, 2.0, -0.1)])
def test_rates_that_are_no_rates_are_refused(rates):
    """A read dearer than plain input, or a longer TTL cheaper than a shorter, is a mistake in the price
    table.
    """
    with pytest.raises(ValueError, match="rates must satisfy"):
        Rates(*rates)
