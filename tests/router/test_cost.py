"""Cost: exact to the nano-dollar, parts that sum to the whole, honest counterfactuals, the seed's sums."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cache.economics import TokenSplit
from router.cost import (
    Cost,
    converted,
    cost,
    counterfactuals,
    saving,
    split_nano_usd,
    total,
    total_nano_usd,
    uncached_nano_usd,
    upper_bound,
)
from router.pricing import Price, PriceTable, UnknownPrice
from router.usage import Usage

NOW_S = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
SEED = Price(
    model="claude-opus-4-5",
    input=Decimal("5"),
    cache_read=Decimal("0.50"),
    cache_write_5m=Decimal("6.25"),
    cache_write_1h=Decimal("10"),
    output=Decimal("25"),
)
"""The price table of the seed document, which prices its examples."""

FLASH = Price(
    model="gemini-3.8-flash",
    input=Decimal("0.75"),
    cache_read=Decimal("0.075"),
    cache_write_5m=None,
    cache_write_1h=None,
    output=Decimal("3.75"),
)

tokens = st.integers(0, 2_000_000)
usd = st.decimals(Decimal("0.000000001"), Decimal("200"), places=9)


@st.composite
def usages(draw):
    uncached, read, write_5m, write_1h, text = (draw(tokens) for _ in range(5))
    thinking = draw(st.none() | tokens)
    return Usage(
        input_tokens=uncached + read + write_5m + write_1h,
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=text + (thinking or 0),
        thinking_tokens=thinking,
    )


@st.composite
def prices(draw):
    return Price(
        model="any",
        input=draw(usd),
        cache_read=draw(usd),
        cache_write_5m=draw(usd),
        cache_write_1h=draw(usd),
        output=draw(usd),
    )


def exact_usd(usage, price):
    """The cost by the definition, in unlimited precision and in another way than the code's."""
    return (
        usage.uncached_input_tokens * Fraction(price.input)
        + usage.cache_read_tokens * Fraction(price.cache_read)
        + usage.cache_write_5m_tokens * Fraction(price.cache_write_5m)
        + usage.cache_write_1h_tokens * Fraction(price.cache_write_1h)
        + usage.output_tokens * Fraction(price.output)
    ) / 1_000_000


@given(usages(), prices())
def test_a_call_is_rounded_once_half_to_even(usage, price):
    """The total is the exact cost, rounded to the nano-dollar once, whatever the prices."""
    exact_nano = exact_usd(usage, price) * 10**9
    nano = Decimal(exact_nano.numerator * 10**6 // exact_nano.denominator).scaleb(-6)
    assert Fraction(nano) == exact_nano  # prices have 9 decimals, so 1e-15 USD is exact
    assert cost(usage, price).total_nano_usd == int(nano.quantize(Decimal(1), ROUND_HALF_EVEN))
    assert total_nano_usd(usage, price) == cost(usage, price).total_nano_usd


@given(usages(), prices())
def test_parts_sum_to_the_total_and_stay_within_a_nano_dollar(usage, price):
    """Largest remainder: no part is off by a nano-dollar or more; what bought nothing costs nothing."""
    parts = cost(usage, price)
    thinking = usage.thinking_tokens or 0
    bought = {
        "uncached_input_nano_usd": (usage.uncached_input_tokens, price.input),
        "cache_write_5m_nano_usd": (usage.cache_write_5m_tokens, price.cache_write_5m),
        "cache_write_1h_nano_usd": (usage.cache_write_1h_tokens, price.cache_write_1h),
        "cache_read_nano_usd": (usage.cache_read_tokens, price.cache_read),
        "output_text_nano_usd": (usage.output_tokens - thinking, price.output),
        "thinking_nano_usd": (thinking, price.output),
    }
    assert sum(getattr(parts, name) for name in bought) == parts.total_nano_usd
    for name, (count, per_million) in bought.items():
        exact_nano = count * Fraction(per_million) * 1000
        assert abs(getattr(parts, name) - exact_nano) < 1
        if count == 0:
            assert getattr(parts, name) == 0


@given(usages(), prices())
def test_uncached_is_the_same_call_without_cache_counts(usage, price):
    """What no caching would have cost counts every input token at the input price."""
    plain = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    assert uncached_nano_usd(usage, price) == cost(plain, price).total_nano_usd


def test_half_a_nano_dollar_goes_to_the_even_neighbour():
    """0.5 and 2.5 nano-dollars are 0 and 2, 1.5 is 2: no drift over many calls."""
    price = Price(
        model="any",
        input=Decimal("0.0005"),
        cache_read=Decimal("0"),
        cache_write_5m=None,
        cache_write_1h=None,
        output=Decimal("0"),
    )
    totals = [cost(Usage(input_tokens=count), price).total_nano_usd for count in (1, 3, 5)]
    assert totals == [0, 2, 2]


def test_output_without_a_thinking_count_is_booked_as_text():
    """None is not 0: what the provider does not tell apart stays one amount, and the total is the same."""
    apart = cost(Usage(input_tokens=0, output_tokens=100, thinking_tokens=60), SEED)
    together = cost(Usage(input_tokens=0, output_tokens=100), SEED)
    assert (apart.output_text_nano_usd, apart.thinking_nano_usd) == (1_000_000, 1_500_000)
    assert (together.output_text_nano_usd, together.thinking_nano_usd) == (2_500_000, 0)


def test_provider_side_tools_are_part_of_the_total():
    """Tools metered apart from tokens are added as they were charged."""
    parts = cost(Usage(input_tokens=1_000), SEED, tools_nano_usd=10_000_000)
    assert parts.total_nano_usd == 5_000_000 + 10_000_000
    assert parts.input_nano_usd == 5_000_000


def test_a_write_where_writes_have_no_price_is_unknown():
    """Gemini bills no writes; usage that shows one means that we misunderstand something."""
    with pytest.raises(UnknownPrice):
        cost(Usage(input_tokens=10, cache_write_5m_tokens=10), FLASH)


# The seed document's cost mathematics, at its prices: 3,000 tokens in (2,500 cached), 800 out.
BASELINE = Usage(input_tokens=3_000, output_tokens=800)
COLD = Usage(input_tokens=3_000, cache_write_5m_tokens=2_500, output_tokens=800)
WARM = Usage(input_tokens=3_000, cache_read_tokens=2_500, output_tokens=800)


@pytest.mark.parametrize(
    ("usage", "nano_usd"), [(BASELINE, 35_000_000), (COLD, 38_125_000), (WARM, 23_750_000)]
)
def test_seed_scenarios(usage, nano_usd):
    """No caching $0.0350, first request $0.038125, following ones $0.023750: exactly."""
    assert cost(usage, SEED).total_nano_usd == nano_usd


def test_seed_first_request_costs_more():
    """A cold write is 8.9 % more than no caching; its saving is negative."""
    found = counterfactuals(COLD, SEED, answered_by_opus=True)
    lost = saving(found.no_caching_nano_usd, total_nano_usd(COLD, SEED))
    assert lost == -3_125_000
    assert round(100 * -lost / total_nano_usd(BASELINE, SEED), 1) == 8.9


def test_seed_break_even_is_after_1_28_requests():
    """Premium $0.003125 over saving per hit $0.01125 is 0.2778 hits after the first request."""
    premium = cost(COLD, SEED).cache_write_5m_nano_usd - 2_500 * SEED.femto_usd[0] // 10**6
    per_hit = total_nano_usd(BASELINE, SEED) - total_nano_usd(WARM, SEED)
    assert (premium, per_hit) == (3_125_000, 11_250_000)
    assert round(1 + premium / per_hit, 2) == 1.28


def test_seed_month():
    """10,000 requests a day with 70 % hits: $10,500 without, $8,418.75 with caching, 19.8 % less."""
    without = 30 * 10_000 * total_nano_usd(BASELINE, SEED)
    with_caching = 30 * (3_000 * total_nano_usd(COLD, SEED) + 7_000 * total_nano_usd(WARM, SEED))
    assert without == 10_500_000_000_000
    assert with_caching == 8_418_750_000_000
    assert without - with_caching == 2_081_250_000_000
    assert round(100 * (without - with_caching) / without, 1) == 19.8


def test_a_call_on_opus_is_its_own_all_opus():
    """The route taken is priced as it was; the other one with the usage the caller estimated for it."""
    elsewhere = Usage(input_tokens=2_500, output_tokens=700)
    found = counterfactuals(WARM, SEED, answered_by_opus=True, other=elsewhere, other_price=FLASH)
    assert found.all_opus_nano_usd == 23_750_000
    assert found.no_caching_nano_usd == found.all_opus_no_caching_nano_usd == 35_000_000
    assert found.all_flash_nano_usd == 2_500 * 750 + 700 * 3_750


def test_a_call_on_flash_is_compared_with_the_cache_opus_would_have_had():
    """With the planner's split the comparison is fair; uncached is kept apart as the headline baseline."""
    flash = Usage(input_tokens=2_500, cache_read_tokens=1_000, output_tokens=800)
    found = counterfactuals(flash, FLASH, answered_by_opus=False, other=WARM, other_price=SEED)
    assert found.all_flash_nano_usd == total_nano_usd(flash, FLASH)
    assert found.no_caching_nano_usd == 2_500 * 750 + 800 * 3_750
    assert found.all_opus_nano_usd == 23_750_000
    assert found.all_opus_no_caching_nano_usd == 35_000_000


@pytest.mark.parametrize(("other", "price"), [(None, SEED), (BASELINE, None), (None, None)])
def test_an_unknown_alternative_stays_unknown(other, price):
    """Without an estimate, or without a price, the other route's cost is None and so is its saving."""
    found = counterfactuals(BASELINE, FLASH, answered_by_opus=False, other=other, other_price=price)
    assert found.all_opus_nano_usd is None
    assert found.all_opus_no_caching_nano_usd is None
    assert saving(found.all_opus_nano_usd, 5) is None


@given(usages(), st.fractions(Fraction(1, 10), 10))
def test_conversion_between_tokenizers_scales_and_forgets_the_cache(usage, factor):
    """Counts scale by the factor, rounded up; cache state never crosses over."""
    found = converted(usage, factor)
    assert 0 <= found.input_tokens - usage.input_tokens * factor < 1
    assert 0 <= found.output_tokens - usage.output_tokens * factor < 1
    assert (found.cache_read_tokens, found.cache_write_tokens) == (0, 0)


@given(usages(), prices(), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_no_call_within_its_limits_costs_more_than_its_bound(usage, price, spare, write_5m, write_1h):
    """Whatever the split of the prompt, the bound journalled before the call holds."""
    assume(write_5m or not usage.cache_write_5m_tokens)
    assume(write_1h or not usage.cache_write_1h_tokens)
    assume(price.cache_read <= price.input)
    bound = upper_bound(
        price,
        input_tokens=usage.input_tokens + spare,
        max_output_tokens=usage.output_tokens,
        write_5m=write_5m,
        write_1h=write_1h,
    )
    assert cost(usage, price).total_nano_usd <= bound


def test_the_bound_of_a_long_prompt_is_at_the_long_price():
    """A prompt that may pass the tier's threshold is bounded at the tier's prices, output too."""
    haiku = PriceTable().price("claude-haiku-5-5", NOW_S)
    assert upper_bound(haiku, input_tokens=100_000, max_output_tokens=10) == 100_000 * 100 + 10 * 500
    assert upper_bound(haiku, input_tokens=100_001, max_output_tokens=10) == 100_001 * 500 + 10 * 2_500


def test_a_sum_counts_what_it_lacks():
    """Unknown amounts are not 0: they are counted beside the sum."""
    found = total([5, None, 7, None])
    assert (found.known_nano_usd, found.unknown_count) == (12, 2)


def test_an_empty_cost_is_free():
    """A cost without parts totals 0."""
    assert Cost().total_nano_usd == 0


@given(usages())
def test_a_split_costs_what_its_usage_costs(usage):
    """Pricing a plan's split makes no usage, and comes to the same, on either provider."""
    split = TokenSplit(
        read=usage.cache_read_tokens,
        write_5m=usage.cache_write_5m_tokens,
        write_1h=usage.cache_write_1h_tokens,
        uncached=usage.uncached_input_tokens,
    )
    for price in (SEED, FLASH):
        try:
            expected = total_nano_usd(usage, price)
        except UnknownPrice:
            with pytest.raises(UnknownPrice):
                split_nano_usd(split, usage.output_tokens, price)
        else:
            assert split_nano_usd(split, usage.output_tokens, price) == expected
