"""The settings' models and prices, checked against the catalogues before anything is started.

The rule: a model nobody can plan or price is refused here, not discovered on the first bill. No SDK, no network.
"""

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
    overrides = {
        model: {field: value for field, value in msgspec.structs.asdict(price).items() if value is not None}
        for model, price in config.prices.items()
    }
    try:
        return PriceTable(overrides)
    except (ValueError, UnknownPrice) as error:
        raise ConfigError(f"prices: {error}") from error
