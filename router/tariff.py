"""The settings' models and prices, checked against the catalogues before anything is started.

The rule: a model nobody can plan or price is refused here, not discovered on the first bill. No SDK, no network.
"""

from decimal import Decimal, InvalidOperation

import msgspec

from cache.rules import UnknownModel, rules_for
from router.config import Config, ConfigError
from router.pricing import PriceTable, UnknownPrice


def check_models(config: Config) -> None:
    """Refuse settings that name a model nobody can plan or price.

    Raises:
        ConfigError: Names the key and the model.
    """
    prices = price_table(config)
    for section, model in (("opus", config.opus.model), ("flash", config.flash.model)):
        try:
            rules = rules_for(model)
            prices.canonical(model)
        except (UnknownModel, UnknownPrice) as error:
            raise ConfigError(f"{section}.model: {error}") from error
        wanted = "anthropic" if section == "opus" else "gemini"
        if rules.upstream != wanted:
            raise ConfigError(f"{section}.model: {model!r} is {rules.upstream}'s; this route asks {wanted}")
    if config.server.deadline_limit_s < config.server.default_deadline_s:
        raise ConfigError(
            f"server.deadline_limit_s: is {config.server.deadline_limit_s:g}, below "
            f"default_deadline_s {config.server.default_deadline_s:g}"
        )


def price_table(config: Config) -> PriceTable:
    """Prices with the operator's own on top.

    Raises:
        ConfigError: A price cannot be read.
    """
    for model, price in config.prices.items():
        for field, value in msgspec.structs.asdict(price).items():
            if value is not None:
                _check_price(f'prices."{model}".{field}', field, value)
    overrides = {
        model: {field: value for field, value in msgspec.structs.asdict(price).items() if value is not None}
        for model, price in config.prices.items()
    }
    try:
        return PriceTable(overrides)
    except (ValueError, UnknownPrice) as error:
        raise ConfigError(f"prices: {error}") from error


def _check_price(key: str, field: str, value: str) -> None:
    """Refuse a price that is no amount; input must cost something, since cache prices are told in units of it.

    Raises:
        ConfigError: Names the key, its value and what is allowed.
    """
    try:
        usd = Decimal(value)
    except InvalidOperation as error:
        raise ConfigError(f'{key}: {value!r} is no number; write USD per million tokens, "3.60"') from error
    if not usd.is_finite() or usd < 0:
        raise ConfigError(f"{key}: {value!r} is no price; it must be 0 or more")
    if field == "input" and not usd:
        raise ConfigError(f"{key}: is {value!r}; it must be above 0")
