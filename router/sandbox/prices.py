"""The sandbox's own price table: dated, tiered, exact.

Rule: prices are integers of pico-USD per token (1 USD per million tokens = 1,000,000 pico-USD per token),
so that the only factors there are (1.1 for US inference, 0.5 for flex) stay exact; a request is rounded to
nano-USD once. Sources: A-PRICE, A-MODELS, A-FAST, A-GEO, G-PRICE, 2026-11-22. It does not know discounts,
batch prices, server-tool fees, storage of explicit Gemini caches, or taxes. Tiers go by the whole prompt,
cached part included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from router.sandbox.anthropic_models import instant

_PICO_PER_TOKEN = 1_000_000  # pico-USD per token of a price of 1 USD per million tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Pico-USD per token by category; `read` is a cached token, thinking is priced as output."""

    input: int
    write_5m: int
    write_1h: int
    read: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A price valid from an instant on, for prompts of more than `above_tokens` tokens."""

    price: Price
    since: float = 0.0
    above_tokens: int = -1


def _pico(usd_per_million: str) -> int:
    value = Decimal(usd_per_million) * _PICO_PER_TOKEN
    if value != int(value):
        raise ValueError(f"price {usd_per_million} is finer than a pico-USD per token")
    return int(value)


def _claude(
    input_: str,
    write_5m: str,
    write_1h: str,
    read: str,
    output: str,
    since: str | None = None,
    above: int = -1,
) -> _Row:
    price = Price(
        input=_pico(input_),
        write_5m=_pico(write_5m),
        write_1h=_pico(write_1h),
        read=_pico(read),
        output=_pico(output),
    )
    return _Row(price=price, since=instant(since) if since else 0.0, above_tokens=above)


def _gemini(input_: str, read: str, output: str, since: str | None = None, above: int = -1) -> _Row:
    price = Price(input=_pico(input_), write_5m=0, write_1h=0, read=_pico(read), output=_pico(output))
    return _Row(price=price, since=instant(since) if since else 0.0, above_tokens=above)


_OPUS_4X_AND_5 = (_claude("5", "6.25", "10", "0.50", "25"),)
_TOP_52 = (_claude("8", "10", "16", "0.20", "40"),)
_TOP_51 = (_claude("10", "12.50", "20", "0.25", "50"),)
_TOP_50 = (_claude("10", "12.50", "20", "1.00", "50"),)
_SONNET_4X = (_claude("3", "3.75", "6", "0.30", "15"),)
_FLASH_PROMO = (_gemini("0.75", "0.075", "3.75"), _gemini("1.50", "0.15", "7.50", since="2027-01-01"))

_TABLE: dict[str, tuple[_Row, ...]] = {
    "claude-opus-5-5": (_claude("4", "5", "8", "0.20", "20"),),
    "claude-opus-5": _OPUS_4X_AND_5,
    "claude-opus-4-8": _OPUS_4X_AND_5,
    "claude-opus-4-7": _OPUS_4X_AND_5,
    "claude-opus-4-6": _OPUS_4X_AND_5,
    "claude-opus-4-5-20251101": _OPUS_4X_AND_5,
    "claude-opus-4-1-20250805": (_claude("15", "18.75", "30", "1.50", "75"),),
    "claude-opus-4-20250514": (_claude("15", "18.75", "30", "1.50", "75"),),
    "claude-fable-5-2": _TOP_52,
    "claude-mythos-5-2": _TOP_52,
    "claude-fable-5-1": _TOP_51,
    "claude-mythos-5-1": _TOP_51,
    "claude-fable-5": _TOP_50,
    "claude-mythos-5": _TOP_50,
    "claude-sonnet-5-5": (
        _claude("2", "2.50", "4", "0.20", "10"),
        _claude("2", "2.50", "4", "0.10", "10", since="2026-10-07"),
    ),
    "claude-sonnet-5": (_claude("2", "2.50", "4", "0.20", "10"),),
    "claude-sonnet-4-6": _SONNET_4X,
    "claude-sonnet-4-5-20250929": _SONNET_4X,
    "claude-haiku-5-5": (
        _claude("0.10", "0.125", "0.20", "0.01", "0.50"),
        _claude("0.50", "0.625", "1.00", "0.05", "2.50", above=100_000),
    ),
    "claude-haiku-4-5-20251001": (_claude("1", "1.25", "2", "0.10", "5"),),
    "gemini-3.8-flash": _FLASH_PROMO,
    "gemini-3.7-flash": _FLASH_PROMO,
    "gemini-3.6-flash": _FLASH_PROMO,
    "gemini-3.5-flash": (_gemini("1.50", "0.15", "9"),),
    "gemini-3.5-flash-lite": (_gemini("0.30", "0.03", "2.50"),),
    "gemini-3.1-flash-lite": (_gemini("0.25", "0.025", "1.50"),),
    "gemini-3-flash-preview": (_gemini("0.50", "0.05", "3"),),
    "gemini-2.5-flash": (_gemini("0.30", "0.03", "2.50"),),
    "gemini-2.5-flash-lite": (_gemini("0.10", "0.01", "0.40"),),
    "gemini-3.1-pro-preview": (_gemini("2", "0.20", "12"), _gemini("4", "0.40", "18", above=200_000)),
    "gemini-4-argon": (_gemini("2", "0.10", "10"), _gemini("4", "0.20", "20", since="2026-12-01")),
}

_FAST_INPUT_OUTPUT = {
    "claude-opus-5-5": (8, 40),
    "claude-opus-5": (10, 50),
    "claude-opus-4-8": (10, 50),
    "claude-fable-5-2": (16, 80),
}


def price_of(model: str, at: float, prompt_tokens: int, *, fast: bool = False) -> Price:
    """Return the price of a model at an instant for a prompt of `prompt_tokens` (cached part included).

    Raises:
        LookupError: if the table has no such model, or no fast price for it.
    """
    rows = [r for r in _TABLE[model] if at >= r.since and prompt_tokens > r.above_tokens]
    price = max(rows, key=lambda r: (r.since, r.above_tokens)).price
    if not fast:
        return price
    input_, output = (_PICO_PER_TOKEN * usd for usd in _FAST_INPUT_OUTPUT[model])
    return replace(
        price,
        input=input_,
        write_5m=input_ * price.write_5m // price.input,
        write_1h=input_ * price.write_1h // price.input,
        read=input_ * price.read // price.input,
        output=output,
    )


def cost_pico_usd(
    price: Price,
    *,
    uncached_tokens: int,
    write_5m_tokens: int,
    write_1h_tokens: int,
    read_tokens: int,
    output_tokens: int,
    us_inference: bool = False,
    flex: bool = False,
) -> int:
    """Cost of one request in pico-USD, exact.

    Args:
        uncached_tokens: input tokens neither read nor written; `output_tokens` includes thinking.
        us_inference: `inference_geo: "us"`, 1.1 times every category (A-GEO).
        flex: Gemini's flex tier, half of every category (G-PRICE).
    """
    total = (
        uncached_tokens * price.input
        + write_5m_tokens * price.write_5m
        + write_1h_tokens * price.write_1h
        + read_tokens * price.read
        + output_tokens * price.output
    )
    if us_inference:
        total = _exact(total * 11, 10)
    return _exact(total, 2) if flex else total


def nano(pico: int) -> int:
    """Round pico-USD to nano-USD, half up."""
    return (pico + 500) // 1000


def _exact(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    if rest:
        raise ArithmeticError("a price factor left the pico-USD grid")
    return quotient
