"""Prices: the vendors' tables as read in 2026-11, the package they come from, and what is refused."""

from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
import pytest
from msgspec.structs import replace

from router.cost import cost
from router.pricing import CATALOGUE, PriceTable, UnknownPrice
from router.usage import Usage

NOW_S = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
NEW_YEAR_S = datetime(2027, 1, 1, tzinfo=UTC).timestamp()

CLAUDE = {
    # input, 5m write, 1h write, read, output; USD per million tokens [A-PRICE, 2026-11]
    "claude-opus-5-5": ("4", "5", "8", "0.20", "20"),
    "claude-opus-5": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-8": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-7": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-6": ("5", "6.25", "10", "0.50", "25"),
    "claude-opus-4-5-20251101": ("5", "6.25", "10", "0.50", "25"),
    "claude-fable-5-2": ("8", "10", "16", "0.20", "40"),
    "claude-mythos-5-2": ("8", "10", "16", "0.20", "40"),
    "claude-fable-5-1": ("10", "12.50", "20", "0.25", "50"),
    "claude-mythos-5-1": ("10", "12.50", "20", "0.25", "50"),
    "claude-fable-5": ("10", "12.50", "20", "1.00", "50"),
    "claude-mythos-5": ("10", "12.50", "20", "1.00", "50"),
    "claude-sonnet-5-5": ("2", "2.50", "4", "0.10", "10"),
    "claude-sonnet-5": ("2", "2.50", "4", "0.20", "10"),
    "claude-sonnet-4-6": ("3", "3.75", "6", "0.30", "15"),
    "claude-sonnet-4-5-20250929": ("3", "3.75", "6", "0.30", "15"),
    "claude-haiku-5-5": ("0.10", "0.125", "0.20", "0.01", "0.50"),
    "claude-haiku-4-5-20251001": ("1", "1.25", "2", "0.10", "5"),
}
GEMINI = {
    # input, cached read, output; USD per million tokens [G-PRICE, 2026-11]
    "gemini-3.8-flash": ("0.75", "0.075", "3.75"),
    "gemini-3.7-flash": ("0.75", "0.075", "3.75"),
    "gemini-3.6-flash": ("0.75", "0.075", "3.75"),
    "gemini-3.5-flash": ("1.50", "0.15", "9"),
    "gemini-3.5-flash-lite": ("0.30", "0.03", "2.50"),
    "gemini-3.1-flash-lite": ("0.25", "0.025", "1.50"),
    "gemini-3-flash-preview": ("0.50", "0.05", "3"),
    "gemini-2.5-flash": ("0.30", "0.03", "2.50"),
    "gemini-2.5-flash-lite": ("0.10", "0.01", "0.40"),
    "gemini-3.1-pro-preview": ("2", "0.20", "12"),
    "gemini-4-argon": ("2", "0.10", "10"),
}
NO_ROW_OF_THEIR_OWN = {"claude-mythos-5-1", "claude-mythos-5"}


@pytest.fixture(scope="module")
def table():
    return PriceTable()


def usd(*prices):
    return tuple(Decimal(price) for price in prices)


def day(year, month, day_of_month):
    return datetime(year, month, day_of_month, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("model", CLAUDE)
def test_claude_prices_are_the_vendors(table, model):
    """Every row of Anthropic's table, as read in 2026-11."""
    price = table.price(model, NOW_S)
    found = (price.input, price.cache_write_5m, price.cache_write_1h, price.cache_read, price.output)
    assert found == usd(*CLAUDE[model])


@pytest.mark.parametrize("model", GEMINI)
def test_gemini_prices_are_the_vendors(table, model):
    """Every row of Google's table, as read in 2026-11; it bills no cache writes."""
    price = table.price(model, NOW_S)
    assert (price.input, price.cache_read, price.output) == usd(*GEMINI[model])
    assert (price.cache_write_5m, price.cache_write_1h) == (None, None)


def test_every_current_model_is_in_one_of_the_tables():
    """A model that joins the catalogue joins a table above, so its price has been looked at."""
    current = {model.ids[0] for model in CATALOGUE if model.retired is None}
    assert current == CLAUDE.keys() | GEMINI.keys()


@pytest.mark.parametrize("input_tokens", [30_000, 100_000, 100_001, 200_000, 200_001])
@pytest.mark.parametrize("at_s", [NOW_S, NEW_YEAR_S - 1, NEW_YEAR_S])
@pytest.mark.parametrize("model", sorted((CLAUDE.keys() | GEMINI.keys()) - NO_ROW_OF_THEIR_OWN))
def test_a_call_costs_what_the_package_calculates(table, model, at_s, input_tokens):
    """Our exact integers and `genai_prices.calc_price` agree on every model, tier and date."""
    writes = (3_000, 7_000) if model in CLAUDE else (0, 0)
    usage = Usage(
        input_tokens=input_tokens,
        cache_read_tokens=11_000,
        cache_write_5m_tokens=writes[0],
        cache_write_1h_tokens=writes[1],
        output_tokens=901,
        thinking_tokens=200,
    )
    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_5m_tokens=writes[0],
            cache_write_1h_tokens=writes[1],
            output_tokens=usage.output_tokens,
        ),
        model,
        provider_id="anthropic" if model in CLAUDE else "google",
        genai_request_timestamp=datetime.fromtimestamp(at_s, UTC),
    )
    ours = cost(usage, table.price(model, at_s)).total_nano_usd
    assert ours == theirs.total_price.scaleb(9)


def test_check_value_of_opus(table):
    """50 uncached, 1,000 written for 5 m, 4,000 for 1 h, 20,000 read, 300 out: $0.0472."""
    usage = Usage(
        input_tokens=25_050,
        cache_write_5m_tokens=1_000,
        cache_write_1h_tokens=4_000,
        cache_read_tokens=20_000,
        output_tokens=300,
    )
    assert cost(usage, table.price("claude-opus-5-5", NOW_S)).total_nano_usd == 47_200_000


@pytest.mark.parametrize(("at_s", "nano_usd"), [(NEW_YEAR_S - 0.001, 3_975_000), (NEW_YEAR_S, 7_950_000)])
def test_check_value_of_flash_doubles_at_new_year(table, at_s, nano_usd):
    """10,000 in, 8,000 of them cached, 200 + 300 out: $0.003975 in 2026, then $0.00795."""
    usage = Usage(input_tokens=10_000, cache_read_tokens=8_000, output_tokens=500, thinking_tokens=300)
    table.price("gemini-3.8-flash", NOW_S)  # warms the cache that must not outlive the period
    assert cost(usage, table.price("gemini-3.8-flash", at_s)).total_nano_usd == nano_usd


def test_dates_may_be_asked_in_any_order(table):
    """The cached periods answer for the past too: a replay of November in January gets November's price."""
    instants_s = (NEW_YEAR_S, NOW_S, day(2026, 12, 1), day(2026, 12, 1) - 1)
    prices = [table.price("gemini-4-argon", at_s).input for at_s in instants_s]
    assert prices == [Decimal("4"), Decimal("2"), Decimal("4"), Decimal("2")]


def test_read_price_of_sonnet_fell_in_october(table):
    """The snapshot keeps only today's row; the read price until 2026-10-07 is ours."""
    before = table.price("claude-sonnet-5-5", day(2026, 10, 7) - 1)
    assert before.cache_read == Decimal("0.20")
    after = table.price("claude-sonnet-5-5", day(2026, 10, 7))
    assert after.cache_read == Decimal("0.10")
    assert before.input == after.input


def test_a_long_prompt_is_billed_at_the_tier_as_a_whole(table):
    """Above 100,000 input tokens, cache included, Haiku 5.5 costs five times as much, output too."""
    price = table.price("claude-haiku-5-5", NOW_S)
    at = Usage(input_tokens=100_000, cache_read_tokens=99_999, output_tokens=1_000)
    above = replace(at, input_tokens=100_001)
    assert price.for_input(100_000).output == Decimal("0.50")
    assert price.for_input(100_001).output == Decimal("2.50")
    # 1 x 0.10 + 99,999 x 0.01 + 1,000 x 0.50, then 2 x 0.50 + 99,999 x 0.05 + 1,000 x 2.50, in nano-USD
    assert cost(at, price).total_nano_usd == 100 + 999_990 + 500_000
    assert cost(above, price).total_nano_usd == 1_000 + 4_999_950 + 2_500_000


@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("claude-opus-5-5", ("8", "10", "16", "0.40", "40")),
        ("claude-opus-5", ("10", "12.50", "20", "1.00", "50")),
        ("claude-opus-4-8", ("10", "12.50", "20", "1.00", "50")),
        ("claude-fable-5-2", ("16", "20", "32", "0.40", "80")),
    ],
)
def test_fast_has_its_own_row(table, model, prices):
    """`speed: fast` doubles input and output, the cache factors apply on top [A-FAST, 2026-11]."""
    price = table.price(model, NOW_S, speed="fast")
    found = (price.input, price.cache_write_5m, price.cache_write_1h, price.cache_read, price.output)
    assert found == usd(*prices)


def test_us_inference_costs_a_tenth_more(table):
    """`inference_geo: us` is 1.1 x on every category, fast and cache factors included [A-GEO, 2026-11]."""
    price = table.price("claude-opus-5-5", NOW_S, speed="fast", inference_geo="us")
    found = (price.input, price.cache_write_5m, price.cache_write_1h, price.cache_read, price.output)
    assert found == usd("8.8", "11.0", "17.6", "0.44", "44.0")
    tiered = table.price("claude-haiku-5-5", NOW_S, inference_geo="us")
    assert tiered.for_input(100_001).output == Decimal("2.75")


@pytest.mark.parametrize(
    "service",
    [
        {"service_tier": "standard", "speed": "standard", "inference_geo": "global"},
        {"inference_geo": "not_available"},
        {"speed": "", "service_tier": "", "inference_geo": ""},
    ],
)
def test_words_for_the_ordinary_class_change_nothing(table, service):
    """What usage says of a call without surcharge is priced like a call that says nothing."""
    assert table.price("claude-opus-5-5", NOW_S, **service) == table.price("claude-opus-5-5", NOW_S)


@pytest.mark.parametrize(
    ("model", "service"),
    [
        ("claude-opus-4-7", {"speed": "fast"}),
        ("gemini-3.8-flash", {"speed": "fast"}),
        ("claude-opus-5-5", {"speed": "turbo"}),
        ("gemini-3.8-flash", {"service_tier": "priority"}),
        ("gemini-3.8-flash", {"service_tier": "flex"}),
        ("claude-opus-5-5", {"service_tier": "batch"}),
        ("claude-opus-4-5", {"inference_geo": "us"}),
        ("claude-opus-5-5", {"inference_geo": "eu"}),
        ("gemini-3.8-flash", {"inference_geo": "us"}),
    ],
)
def test_a_class_without_a_verified_price_is_unknown(table, model, service):
    """The package would silently give the standard price; we would rather not know."""
    with pytest.raises(UnknownPrice):
        table.price(model, NOW_S, **service)


@pytest.mark.parametrize(
    "model",
    [
        "claude-opus-4-5-20250229",
        "claude-opus-4-5-20251102",
        "claude-opus-9",
        "gemini-2.0-flash",
        "gemini-2.0-flash-lite",
        "gemini-2.0-flash-001",
        "gemini-3-flash",
        "gemini-3.8-flash-lite",
        "GEMINI-3.8-FLASH",
        "",
    ],
)
def test_ids_outside_the_catalogue_have_no_price(table, model):
    """No prefix and no spelling is guessed at, however much the package would like to."""
    with pytest.raises(UnknownPrice):
        table.price(model, NOW_S)


def test_a_retired_model_keeps_its_past_price_only(table):
    """Old calls can be replayed at their price; a call after the retirement cannot have happened."""
    assert table.price("claude-opus-4-1", day(2026, 8, 5) - 1).output == Decimal("75")
    with pytest.raises(UnknownPrice, match="retired"):
        table.price("claude-opus-4-1", day(2026, 8, 5))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("claude-opus-4-5", "claude-opus-4-5-20251101"),
        ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("gemini-flash-latest", "gemini-3.8-flash"),
        ("gemini-pro-latest", "gemini-3.1-pro-preview"),
    ],
)
def test_an_alias_is_priced_as_its_target(table, alias, name):
    """Asking for an alias is priced like the dated id that answers."""
    assert table.canonical(alias) == name
    assert table.price(alias, NOW_S) == table.price(name, NOW_S)


def test_rates_are_the_priced_ratios(table):
    """Cache economics get ratios to one uncached input token, from the table and not from constants."""
    opus = table.rates("claude-opus-5-5", NOW_S)
    assert (opus.write_5m, opus.write_1h, opus.read) == (1.25, 2.0, 0.05)
    seed = table.rates("claude-opus-4-5", NOW_S)
    assert (seed.write_5m, seed.write_1h, seed.read) == (1.25, 2.0, 0.1)
    flash = table.rates("gemini-3.8-flash", NOW_S)
    assert (flash.write_5m, flash.write_1h, flash.read) == (1.0, 1.0, 0.1)


def test_a_negotiated_price_replaces_one_field():
    """An override changes the field it names, under every id of the model, and nothing else."""
    table = PriceTable({"claude-opus-4-5": {"input": "4.1", "output": 20.5}})
    price = table.price("claude-opus-4-5-20251101", NOW_S)
    assert (price.input, price.output, price.cache_read) == usd("4.1", "20.5", "0.5")
    assert table.price("claude-opus-4-6", NOW_S).input == Decimal("5")
    assert table.rates("claude-opus-4-5", NOW_S).read == pytest.approx(0.5 / 4.1)


def test_a_negotiated_price_keeps_surcharges_and_fast():
    """US inference is still 1.1 x; fast keeps the list price, for it was not negotiated."""
    table = PriceTable({"claude-opus-5-5": {"input": "3"}})
    assert table.price("claude-opus-5-5", NOW_S, inference_geo="us").input == Decimal("3.3")
    assert table.price("claude-opus-5-5", NOW_S, speed="fast").input == Decimal("8")


def test_an_override_can_add_a_model():
    """A new id is accepted once its prices are given in full."""
    table = PriceTable({"claude-opus-6": {"input": 3, "cache_read": "0.1", "output": 15}})
    assert table.price("claude-opus-6", NOW_S).output == Decimal("15")
    assert "claude-opus-6" in table.models()
    with pytest.raises(UnknownPrice):
        table.price("claude-opus-6", NOW_S, speed="fast")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"claude-opus-6": {"input": 3}}, "needs"),
        ({"claude-opus-5-5": {"inptu": 3}}, "unknown field"),
        ({"claude-opus-5-5": {"input": -3}}, "negative"),
        ({"claude-opus-5-5": {"input": "NaN"}}, "finite"),
        ({"claude-opus-5-5": {"input": "0.12345678901"}}, "finer"),
        ({"claude-haiku-5-5": {"input": "0.05"}}, "tiered"),
        ({"claude-opus-5-5": {"cache_read": "5"}}, "rates"),
    ],
)
def test_a_wrong_override_is_refused_at_start(overrides, complaint):
    """A slip in the configuration stops the service, it does not misprice a month."""
    with pytest.raises(ValueError, match=complaint):
        PriceTable(overrides)


@pytest.mark.parametrize(
    ("answered", "asked"),
    [
        ("claude-opus-5-5-20260922", "claude-opus-5-5"),
        ("gemini-3.8-flash-001", "gemini-3.8-flash"),
        ("models/gemini-3.8-flash", "gemini-3.8-flash"),
    ],
)
def test_a_snapshot_of_an_undated_model_answers_at_its_price(table, answered, asked):
    """A provider may name the snapshot or the resource that answered; asking by such a name stays an error."""
    assert table.price(answered, NOW_S) == table.price(asked, NOW_S)
    with pytest.raises(UnknownPrice):
        table.canonical(answered)


@pytest.mark.parametrize("tier", ["STANDARD", "SERVICE_TIER_STANDARD", "standard"])
def test_the_standard_tier_is_known_in_every_spelling(table, tier):
    """Gemini spells its enum in capitals, Anthropic in small letters."""
    assert table.price("gemini-3.8-flash", NOW_S, service_tier=tier) == table.price("gemini-3.8-flash", NOW_S)
