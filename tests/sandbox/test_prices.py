"""The sandbox's own prices against the check values of the providers' pages (2026-11)."""

from datetime import UTC, datetime

import genai_prices
import pytest

from router.sandbox import InvoiceLine
from router.sandbox.anthropic_models import MODELS as CLAUDE
from router.sandbox.gemini_models import MODELS as GEMINI
from router.sandbox.prices import price_of

LIVE = [*CLAUDE, *(m for m in GEMINI if "2.0" not in m)]
UNLISTED = {"claude-mythos-5", "claude-mythos-5-1"}  # genai-prices 0.2.3 has no entry of their own


def at(day):
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def line(model, *, uncached=0, w5=0, w1=0, read=0, out=0, day="2026-11-22", **kw):
    return InvoiceLine(
        request_id="r",
        response_id="m",
        upstream="x",
        workspace="w",
        key_fingerprint="k",
        model=model,
        requested_model=model,
        time=at(day),
        uncached_input_tokens=uncached,
        write_5m_tokens=w5,
        write_1h_tokens=w1,
        read_tokens=read,
        output_tokens=out,
        thinking_tokens=0,
        **kw,
    ).priced()


def test_opus_check_value():
    """50 uncached, 1,000 5m, 4,000 1h, 20,000 read, 300 out on Opus 5.5 cost $0.0472."""
    one = line("claude-opus-5-5", uncached=50, w5=1_000, w1=4_000, read=20_000, out=300)
    assert one.cost_nano_usd == 47_200_000


@pytest.mark.parametrize(("day", "nano"), [("2026-12-31", 3_975_000), ("2027-01-01", 7_950_000)])
def test_flash_check_value_before_and_after_the_promotion(day, nano):
    """10,000 prompt tokens of which 8,000 cached, 500 out: the price doubles on 2027-01-01."""
    assert line("gemini-3.8-flash", uncached=2_000, read=8_000, out=500, day=day).cost_nano_usd == nano


def test_haiku_tier_goes_by_the_whole_prompt_and_prices_the_whole_request():
    """Above 100k prompt tokens, cached ones included, every category costs the higher price."""
    low = line("claude-haiku-5-5", uncached=1, read=99_999, out=1_000)
    high = line("claude-haiku-5-5", uncached=2, read=99_999, out=1_000)
    assert low.cost_pico_usd == 100_000 + 99_999 * 10_000 + 1_000 * 500_000
    assert high.cost_pico_usd == 2 * 500_000 + 99_999 * 50_000 + 1_000 * 2_500_000


def test_us_inference_is_a_tenth_more_on_every_category_and_rounds_once():
    """1.1 times, exact in pico-USD even where a nano-USD would not divide."""
    plain = line("claude-haiku-5-5", w5=3, out=1)
    us = line("claude-haiku-5-5", w5=3, out=1, inference_geo="us")
    assert us.cost_pico_usd * 10 == plain.cost_pico_usd * 11
    assert us.cost_nano_usd == 963  # 962.5


def test_fast_speed_keeps_the_cache_factors():
    """Opus 5.5 fast: 8 in, 40 out; writes 1.25 and 2 times, reads 0.05 times the input price (A-FAST)."""
    price = price_of("claude-opus-5-5", at("2026-11-22"), 1, fast=True)
    assert (price.input, price.write_5m, price.write_1h, price.read, price.output) == (
        8_000_000,
        10_000_000,
        16_000_000,
        400_000,
        40_000_000,
    )


def test_sonnet_read_price_fell_on_its_date():
    """0.20 until 2026-10-07, 0.10 from then on."""
    before, after = (price_of("claude-sonnet-5-5", at(d), 1).read for d in ("2026-10-06", "2026-10-07"))
    assert (before, after) == (200_000, 100_000)


@pytest.mark.parametrize("model", LIVE)
def test_every_model_that_can_answer_has_a_price(model):
    """No request can be answered that could not be billed."""
    assert price_of(model, at("2026-11-22"), 1).output > 0


@pytest.mark.parametrize("model", [m for m in LIVE if m not in UNLISTED])
@pytest.mark.parametrize("day", ["2026-11-22", "2027-01-02"])
def test_table_agrees_with_an_independent_one(model, day):
    """genai-prices, which shares nothing with the sandbox, prices the same usage the same (to a nano-USD)."""
    claude = model.startswith("claude")
    w5, w1 = (3_000, 2_000) if claude else (0, 0)
    usage = genai_prices.Usage(
        input_tokens=11_000 + w5 + w1,
        cache_read_tokens=4_000,
        cache_write_tokens=w5 + w1,
        cache_write_5m_tokens=w5,
        cache_write_1h_tokens=w1,
        output_tokens=900,
    )
    theirs = genai_prices.calc_price(
        usage,
        model,
        provider_id="anthropic" if claude else "google",
        genai_request_timestamp=datetime.fromisoformat(day).replace(tzinfo=UTC),
    ).total_price
    ours = line(model, uncached=7_000, w5=w5, w1=w1, read=4_000, out=900, day=day)
    assert ours.cost_nano_usd == round(theirs * 10**9)
