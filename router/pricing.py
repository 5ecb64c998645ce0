"""What a token costs: exact USD per million tokens, by the model that answered and the date.

The rule: list prices are read from the pinned `genai-prices` snapshot, never typed here; what that package
lacks is added below with its source; an operator's negotiated prices go on top. Only ids of the catalogue
have a price: the package's own matching by prefix would price ids that do not exist or no longer answer (it
takes claude-opus-4-5-20250229 and the shut-down gemini-2.0-flash). What has no verified price raises
`UnknownPrice`, so the cost shows as unknown and never as a guess.

Dates are UTC days, as in the package. Prices are for text, image and document tokens; audio, batches, server
tools and the storage of explicit Gemini caches are not known here. Nothing here opens a connection.

Page keys (read 2026-11):
    A-PRICE  platform.claude.com/docs/en/about-claude/pricing
    A-MODELS platform.claude.com/docs/en/about-claude/models/overview
    A-DEPR   platform.claude.com/docs/en/about-claude/model-deprecations
    A-GEO    platform.claude.com/docs/en/build-with-claude/data-residency
    A-FAST   platform.claude.com/docs/en/build-with-claude/fast-mode
    G-PRICE  ai.google.dev/gemini-api/docs/pricing
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING

from cache.economics import Rates

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice


class UnknownPrice(LookupError):
    """No verified price for this model, date or service class; such a call's cost is unknown, not zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Prices of one model in one period, USD per million tokens, exact.

    Attributes:
        model: Model id as the catalogue spells it.
        input: Input tokens neither read from nor written to the cache.
        cache_read: Input tokens served from the cache.
        cache_write_5m: Input tokens written for 5 minutes; None where the provider bills no writes. 1h
            likewise.
        output: Output tokens, thinking included.
        above_input_tokens: A request with more input tokens than this (cache reads and writes included) is
            billed at `above` as a whole, output too; None where there is one price only.
        above: Prices of such a long request.
        valid_from_s: First second of the period, seconds since the epoch, inclusive.
        valid_until_s: Its end, exclusive.
        femto_usd: The same five prices per token in 1e-15 USD, whole numbers, in the order input, cache_read,
            cache_write_5m, cache_write_1h, output; a price that is None counts 0 here.
    """

    model: str
    input: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal | None
    cache_write_1h: Decimal | None
    output: Decimal
    above_input_tokens: int | None = None
    above: Price | None = None
    valid_from_s: float = -inf
    valid_until_s: float = inf
    femto_usd: tuple[int, int, int, int, int] = field(init=False, repr=False, compare=False)
    _rates: list[Rates] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        fields = (self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.output)
        femto = tuple(_femto_usd(self.model, usd) for usd in fields)
        object.__setattr__(self, "femto_usd", femto)

    def for_input(self, input_tokens: int) -> Price:
        """Return the prices of a request with so many input tokens, cache reads and writes included."""
        if self.above is None or self.above_input_tokens is None or input_tokens <= self.above_input_tokens:
            return self
        return self.above

    def rates(self) -> Rates:
        """Return what a cached token costs relative to an uncached one; an unbilled write costs as input."""
        if not self._rates:  # asked three times for every request
            per_token, read, write_5m, write_1h, _ = self.femto_usd
            self._rates.append(
                Rates(
                    write_5m=write_5m / per_token if self.cache_write_5m is not None else 1.0,
                    write_1h=write_1h / per_token if self.cache_write_1h is not None else 1.0,
                    read=read / per_token,
                )
            )
        return self._rates[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of the catalogue.

    Attributes:
        ids: Ids by which it is asked or answers, all spelled out; the first is its name in prices and
            reports.
        provider: Provider in `genai-prices`.
        row: Its row there.
        us_only: Whether `inference_geo: "us"` exists for it (4.6 and newer) [A-GEO].
        retired: Day from which the provider answers 404, None while it answers.
    """

    ids: tuple[str, ...]
    provider: str
    row: str
    us_only: bool = False
    retired: date | None = None


def _claude(*ids: str, row: str = "", us_only: bool = True, retired: date | None = None) -> Model:
    return Model(ids=ids, provider="anthropic", row=row or ids[0], us_only=us_only, retired=retired)


def _gemini(*ids: str) -> Model:
    return Model(ids=ids, provider="google", row=ids[0])


CATALOGUE: tuple[Model, ...] = (
    # Anthropic: A-MODELS, A-DEPR. Ids are undated from 4.6 on; older ones have an alias and answer with the
    # dated id.
    _claude("claude-opus-5-5"),
    _claude("claude-opus-5"),
    _claude("claude-opus-4-8"),
    _claude("claude-opus-4-7"),
    _claude("claude-opus-4-6"),
    _claude("claude-opus-4-5-20251101", "claude-opus-4-5", row="claude-opus-4-5", us_only=False),
    _claude(
        "claude-opus-4-1-20250805",
        "claude-opus-4-1",
        row="claude-opus-4-1",
        us_only=False,
        retired=date(2026, 8, 5),
    ),
    _claude(
        "claude-opus-4-20250514",
        "claude-opus-4-0",
        row="claude-opus-4-0",
        us_only=False,
        retired=date(2026, 6, 15),
    ),
    _claude("claude-fable-5-2"),
    _claude("claude-fable-5-1"),
    _claude("claude-fable-5"),
    _claude("claude-mythos-5-2"),
    # No rows of their own in genai-prices 0.2.3; A-PRICE lists each Mythos at the price of the same Fable.
    _claude("claude-mythos-5-1", row="claude-fable-5-1"),
    _claude("claude-mythos-5", row="claude-fable-5"),
    _claude("claude-sonnet-5-5"),
    _claude("claude-sonnet-5"),
    _claude("claude-sonnet-4-6"),
    _claude("claude-sonnet-4-5-20250929", "claude-sonnet-4-5", row="claude-sonnet-4-5", us_only=False),
    _claude("claude-haiku-5-5"),
    _claude("claude-haiku-4-5-20251001", "claude-haiku-4-5", row="claude-haiku-4-5", us_only=False),
    # Google: G-PRICE. A routed id (3.7-flash, 3.5-flash after 2026-10-08) answers with another modelVersion,
    # which is what gets priced. `-latest` aliases answer on v1beta only; their targets are those of
    # genai-prices.
    _gemini("gemini-3.8-flash", "gemini-flash-latest"),
    _gemini("gemini-3.7-flash"),
    _gemini("gemini-3.6-flash"),
    _gemini("gemini-3.5-flash"),
    _gemini("gemini-3.5-flash-lite", "gemini-flash-lite-latest"),
    _gemini("gemini-3.1-flash-lite"),
    _gemini("gemini-3-flash-preview"),
    _gemini("gemini-2.5-flash"),
    _gemini("gemini-2.5-flash-lite"),
    _gemini("gemini-3.1-pro-preview", "gemini-pro-latest"),
    _gemini("gemini-4-argon"),
)

US_FACTOR = Decimal("1.1")
"""`inference_geo: "us"`: 1.1 x on every token category [A-GEO, 2026-11]; genai-prices ignores it."""

STANDARD_SPEEDS = frozenset({None, "", "standard"})
STANDARD_TIERS = frozenset({None, "", "standard"})
GLOBAL_GEOS = frozenset({None, "", "global", "not_available"})
"""What usage says of a call without surcharge; "not_available" on models without the choice (unverified)."""

_FIELDS = {
    "input": "input_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write_5m": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "output": "output_mtok",
}
"""Our price fields and their names in genai-prices."""

_EARLIER: Mapping[str, tuple[date, Mapping[str, Decimal]]] = {
    # genai-prices 0.2.3 keeps only today's row: the read price was 0.20 until 2026-10-07 [A-PRICE].
    "claude-sonnet-5-5": (date(2026, 10, 7), {"cache_read": Decimal("0.20")}),
}
"""Prices that held before a day and that the snapshot no longer has."""

Overrides = Mapping[str, Mapping[str, Decimal | str | int | float]]
"""Negotiated prices: model id -> field of `Price` -> USD per million tokens."""


PERIODS_LIMIT = 512
"""Spellings of models and classes kept priced; answers date their model freely, so there is no end to them."""
_SNAPSHOT = re.compile(r"(?P<base>.+)-(?:20\d{6}|\d{3})")
"""An id with a date or a snapshot number behind it, e.g. claude-opus-5-5-20261001 or gemini-3.8-flash-001."""


class PriceTable:
    """Prices of the catalogue's models, with negotiated ones on top.

    Args:
        overrides: Replaces the given fields of a model's standard price, at every date, the 1.1 x for US
            inference still on top; fast rows keep the list price. A tiered model needs all five fields and
            becomes flat. An id outside the catalogue needs at least input, cache_read and output, and is then
            accepted.

    Raises:
        ValueError: An override names an unknown field, is incomplete, negative, finer than 1e-9 USD per
            million, or makes reads dearer or writes cheaper than uncached input.
    """

    def __init__(self, overrides: Overrides | None = None) -> None:
        self._models = {name: model for model in CATALOGUE for name in model.ids}
        self._rows = _snapshot_rows()
        self._overrides = {}
        for name, fields in (overrides or {}).items():
            known = self._models.get(name)
            self._overrides[known.ids[0] if known else name] = _checked(name, fields)
        # One entry per (model, speed, service_tier, inference_geo) seen: periods' starts and their prices.
        self._periods: dict[
            tuple[str, str | None, str | None, str | None], tuple[list[float], list[Price]]
        ] = {}
        # Of those without a class, the period asked about last.
        self._current: dict[str, Price] = {}
        for name in self._overrides:
            for price in self._periods_of(name, None, None, None)[1]:
                price.rates()

    def price(
        self,
        model: str,
        at_s: float,
        *,
        speed: str | None = None,
        service_tier: str | None = None,
        inference_geo: str | None = None,
    ) -> Price:
        """Return the price of a call that `model` answered at `at_s` (seconds since the epoch).

        Args:
            model: Model id as the response spells it, or an alias when asking what a call may cost.
            speed, service_tier, inference_geo: As usage reports them, None when it does not.

        Raises:
            UnknownPrice: The id is not in the catalogue or retired by then, or the class has no verified
                price.
        """
        if (
            speed is None and service_tier is None and inference_geo is None
        ):  # asked several times per request
            current = self._current.get(model)
            if current is not None and current.valid_from_s <= at_s < current.valid_until_s:
                return current
        key = (model, speed, service_tier, inference_geo)
        periods = self._periods.get(key)
        if periods is None:
            periods = self._periods_of(*key)
        starts, prices = periods
        price = prices[-1] if at_s >= starts[-1] else prices[max(0, bisect_right(starts, at_s) - 1)]
        if at_s >= price.valid_until_s:
            raise UnknownPrice(f"model {model!r} was retired by then; it has no price")
        if speed is None and service_tier is None and inference_geo is None:
            self._current[model] = price
        return price

    def rates(self, model: str, at_s: float) -> Rates:
        """Return the cache economics of `model` at `at_s`: write and read cost in units of one input token.

        Raises:
            UnknownPrice: As `price`.
        """
        return self.price(model, at_s).rates()

    def canonical(self, model: str) -> str:
        """Return the catalogue's name of an id or alias, e.g. claude-opus-4-5 -> claude-opus-4-5-20251101.

        Raises:
            UnknownPrice: Neither the catalogue nor an override knows the id.
        """
        known = self._models.get(model)
        if known is not None:
            return known.ids[0]
        if model in self._overrides:
            return model
        raise UnknownPrice(f"model {model!r} is not in the catalogue; give its prices in the configuration")

    def models(self) -> tuple[str, ...]:
        """Return every accepted id, aliases included."""
        return (*self._models, *(name for name in self._overrides if name not in self._models))

    def _answering(self, model: str) -> str:
        """Name the catalogue's model behind an id that a provider answered with.

        Providers also spell a resource path, or add a snapshot's date or number to an undated id. A model whose
        catalogue id carries its date exists with that date only.

        Raises:
            UnknownPrice: As `canonical`.
        """
        spelled = model.removeprefix("models/")
        snapshot = _SNAPSHOT.fullmatch(spelled)
        if snapshot is not None and spelled not in self._models and spelled not in self._overrides:
            base = self._models.get(snapshot["base"])
            if base is not None and base.ids[0] == snapshot["base"]:
                return base.ids[0]
        return self.canonical(spelled)

    def _periods_of(
        self, model: str, speed: str | None, service_tier: str | None, inference_geo: str | None
    ) -> tuple[list[float], list[Price]]:
        """Work out and keep the periods of one model in one service class."""
        name = self._answering(model)
        known = self._models.get(name)
        if service_tier is not None:
            service_tier = service_tier.lower().removeprefix("service_tier_")
        if service_tier not in STANDARD_TIERS:
            raise UnknownPrice(f"service tier {service_tier!r} of {model} has no verified price")
        fast = speed not in STANDARD_SPEEDS
        if known is None and fast:
            raise UnknownPrice(f"speed {speed!r} of {model} has no price in the configuration")
        if known is None:
            prices = [_overridden(None, name, self._overrides[name])]
        else:
            prices = _list_prices(known, self._rows[known.provider, known.row], speed if fast else None)
            if not fast and name in self._overrides:
                prices = [_overridden(price, name, self._overrides[name]) for price in prices]
        if inference_geo not in GLOBAL_GEOS:
            if inference_geo != "us" or (known is not None and not known.us_only):
                raise UnknownPrice(f"inference in {inference_geo!r} on {model} has no verified price")
            prices = [_times(price, US_FACTOR) for price in prices]
        periods = ([price.valid_from_s for price in prices], prices)
        if len(self._periods) >= PERIODS_LIMIT:
            self._periods.clear()  # what is in use is worked out again
            self._current.clear()
        self._periods[model, speed, service_tier, inference_geo] = periods
        return periods


def _snapshot_rows() -> dict[tuple[str, str], ModelInfo]:
    """Return the rows of the pinned package that the catalogue names; its data ships in the wheel."""
    from genai_prices.data import (
        providers,
    )  # 0.2 s and 12 MB: paid by who prices, not by who imports this module

    wanted = {(model.provider, model.row) for model in CATALOGUE}
    rows = {(p.id, row.id): row for p in providers for row in p.models if (p.id, row.id) in wanted}
    if missing := wanted - rows.keys():
        raise ValueError(f"the installed genai-prices has no row for {sorted(missing)}")
    return rows


def _list_prices(model: Model, row: ModelInfo, speed: str | None) -> list[Price]:
    """Return the model's list prices, one per period, oldest first."""
    name = model.ids[0]
    context = {"speed": speed} if speed is not None else None
    variants = [v for v in row.price_variants or () if v.when == context]
    if context is not None and not variants:
        raise UnknownPrice(f"speed {speed!r} of {name} has no verified price")
    constraints = [] if not isinstance(row.prices, list) else [price.constraint for price in row.prices]
    days = _start_days(name, [*constraints, *(variant.constraint for variant in variants)])
    earlier_than, earlier = _EARLIER.get(name, (None, {}))
    if earlier_than is not None:
        days = sorted({*days, earlier_than})
    starts = [date.min, *days]
    retired_s = inf if model.retired is None else _epoch_s(model.retired)
    prices = []
    for index, start in enumerate(starts):
        at = datetime(start.year, start.month, start.day, tzinfo=UTC)
        until_s = _epoch_s(starts[index + 1]) if index + 1 < len(starts) else retired_s
        price = replace(
            _flattened(name, row.get_prices(at, context)),
            valid_from_s=-inf if index == 0 else _epoch_s(start),
            valid_until_s=until_s,
        )
        if earlier_than is not None and start < earlier_than:
            price = _with(price, earlier)
        prices.append(price)
    return prices


def _start_days(name: str, constraints: Iterable[object]) -> list[date]:
    """Return the days on which prices change; refuse prices that change within a day."""
    from genai_prices.types import StartDateConstraint

    days = set()
    for constraint in constraints:
        if isinstance(constraint, StartDateConstraint):
            days.add(constraint.start_date)
        elif constraint is not None:
            raise ValueError(f"{name}: genai-prices gives it a price by the hour, which is not supported")
    return sorted(days)


def _flattened(name: str, prices: ModelPrice) -> Price:
    """Return a row as a `Price`; its tiers become `above`, and must have one threshold for all fields."""
    from genai_prices.types import TieredPrices

    base: dict[str, Decimal | None] = {}
    above: dict[str, Decimal | None] = {}
    thresholds = set()
    for ours, theirs in _FIELDS.items():
        value = getattr(prices, theirs)
        if isinstance(value, TieredPrices):
            if len(value.tiers) != 1:
                raise ValueError(f"{name}: {theirs} has {len(value.tiers)} tiers; one is supported")
            thresholds.add(value.tiers[0].start)
            base[ours], above[ours] = value.base, value.tiers[0].price
        else:
            base[ours] = above[ours] = value
    if len(thresholds) > 1:
        raise ValueError(f"{name}: tiers start at different prompt lengths: {sorted(thresholds)}")
    if not thresholds:
        return _price(name, base)
    return replace(_price(name, base), above_input_tokens=thresholds.pop(), above=_price(name, above))


def _price(name: str, fields: Mapping[str, Decimal | None]) -> Price:
    """Build a flat `Price`, refusing a row without the fields every model has."""
    input_usd, cache_read, output = fields.get("input"), fields.get("cache_read"), fields.get("output")
    if input_usd is None or cache_read is None or output is None or input_usd == 0:
        raise ValueError(f"{name}: a price needs input (above 0), cache_read and output")
    return Price(
        model=name,
        input=input_usd,
        cache_read=cache_read,
        cache_write_5m=fields.get("cache_write_5m"),
        cache_write_1h=fields.get("cache_write_1h"),
        output=output,
    )


def _checked(name: str, fields: Mapping[str, Decimal | str | int | float]) -> dict[str, Decimal]:
    """Return an override's values as exact decimals (a float means what it prints)."""
    if unknown := set(fields) - set(_FIELDS):
        raise ValueError(f"prices of {name}: unknown field {sorted(unknown)}; fields are {sorted(_FIELDS)}")
    return {key: Decimal(str(value)) for key, value in fields.items()}


def _overridden(price: Price | None, name: str, fields: Mapping[str, Decimal]) -> Price:
    """Return `price` with the operator's fields on top; None: a model the catalogue does not know."""
    if price is None:
        return _price(name, fields)
    if price.above is not None:
        if missing := set(_FIELDS) - set(fields):
            raise ValueError(f"prices of {name}: it is tiered, so an override needs {sorted(missing)} too")
        price = replace(price, above=None, above_input_tokens=None)
    return _with(price, fields)


def _with(price: Price, fields: Mapping[str, Decimal]) -> Price:
    """Return `price` with the given fields of `_FIELDS` replaced."""
    return replace(
        price,
        input=fields.get("input", price.input),
        cache_read=fields.get("cache_read", price.cache_read),
        cache_write_5m=fields.get("cache_write_5m", price.cache_write_5m),
        cache_write_1h=fields.get("cache_write_1h", price.cache_write_1h),
        output=fields.get("output", price.output),
    )


def _times(price: Price, factor: Decimal) -> Price:
    """Return every price of `price` multiplied by `factor`."""
    return replace(
        price,
        input=price.input * factor,
        cache_read=price.cache_read * factor,
        cache_write_5m=None if price.cache_write_5m is None else price.cache_write_5m * factor,
        cache_write_1h=None if price.cache_write_1h is None else price.cache_write_1h * factor,
        output=price.output * factor,
        above=None if price.above is None else _times(price.above, factor),
    )


def _femto_usd(model: str, usd_per_million: Decimal | None) -> int:
    """Return a price per token in 1e-15 USD, exactly."""
    if usd_per_million is None:
        return 0
    if not usd_per_million.is_finite() or usd_per_million < 0:
        raise ValueError(f"price of {model} must be finite and not negative, got {usd_per_million}")
    femto = usd_per_million.scaleb(9)
    if femto != int(femto):
        raise ValueError(f"price of {model} is finer than 1e-9 USD per million tokens: {usd_per_million}")
    return int(femto)


def _epoch_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
