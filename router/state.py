"""What one process learns and loads, made from the settings and shared by its services.

The rule: made once, at the start, before anything is served; what is learnt later is learnt in these.

It does not know who uses them: `router.app` hands them on.
"""

import logging
from dataclasses import dataclass

from cache.demand import Demand
from cache.facts import Facts
from cache.index import PrefixIndex
from cache.plan import Strategy
from cache.prompt import CacheScope
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.encoder import EncoderError, load_encoder
from classifier.route import Route
from router.applications import Applications
from router.beliefs import Beliefs
from router.classifiers import Classifiers
from router.config import Config, ConfigError
from router.estimate import OutputForecast
from router.facts_file import applying
from router.misses import MissMemory
from router.money import NANO_PER_USD
from router.padding import Paddings
from router.pricing import PriceTable
from router.returns import Returns
from router.session_book import SessionBook
from router.session_store import MemorySessionStore, SessionLimits, SessionStore
from router.spending import Limits, Spending
from router.tariff import price_table

logger = logging.getLogger(__name__)

MISS_SESSION_LIMIT = 10_000
"""Sessions whose last prompts' digests are kept to explain misses."""
MISS_BLOCK_LIMIT = 1_000_000
"""Blocks of all those prompts together; about 100 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is learnt and loaded, and shared by the services of one process."""

    classifiers: Classifiers
    applications: Applications
    prices: PriceTable
    beliefs: Beliefs
    forecast: OutputForecast
    misses: MissMemory
    book: SessionBook
    held: SessionStore
    paddings: Paddings | None
    spending: Spending | None
    returns: Returns | None


def _facts(config: Config, now_s: float) -> Facts:
    """What is known of Opus's cache; answers that do not apply are named in the log."""
    reading = applying(config, now_s)
    for answer, why in reading.ignored:
        logger.warning("%s: %s is ignored: %s", config.cache.facts_file, answer.fact.value, why)
    return reading.facts


def state_of(config: Config, now_s: float) -> State:
    """Load and make what the settings ask for.

    Raises:
        ConfigError: The settings name what cannot be loaded.
    """
    learning = config.classifier
    try:
        embedder = load_encoder(learning.encoder) if learning.encoder else None
    except EncoderError as error:
        raise ConfigError(f"classifier.encoder: {error}") from error
    classifiers = Classifiers(
        config.routing.classifier, registry=learning.registry, shadow=learning.shadow, embedder=embedder
    )
    prices = price_table(config)
    limit = config.cache.prefix_limit
    applications, estimator = Applications(config.applications), TokenEstimator()
    limits = _limits(config)
    facts = _facts(config, now_s)
    return State(
        classifiers=classifiers,
        applications=applications,
        prices=prices,
        beliefs=Beliefs(
            prices=prices,
            workspaces={Route.OPUS: config.opus.workspace, Route.FLASH: config.flash.workspace},
            index=PrefixIndex(limit, facts),
            demand=Demand(max_prefixes=limit, max_waiting=limit),
            estimator=estimator,
            facts=facts,
        ),
        forecast=OutputForecast(),
        misses=MissMemory(min(config.cache.session_limit, MISS_SESSION_LIMIT), block_limit=MISS_BLOCK_LIMIT),
        book=SessionBook(config.cache.session_limit),
        held=MemorySessionStore(SessionLimits(config.sessions.held_limit, config.sessions.bytes_limit)),
        paddings=Paddings(
            applications,
            config.cache.filler,
            model=config.opus.model,
            strategy=Strategy(config.cache.strategy),
            prices=prices,
            estimator=estimator,
        )
        if config.cache.filler
        else None,
        spending=Spending(limits, now_s) if limits.any_held else None,
        returns=Returns(limit) if limits.answer_value_nano_usd is not None or limits.any_held else None,
    )


def _limits(config: Config) -> Limits:
    routing = config.routing
    return Limits(
        answer_value_nano_usd=nano_usd(routing.answer_value_usd),
        day_nano_usd=nano_usd(routing.budget_usd_per_day),
        opus_share=routing.opus_share_limit,
        quality_floor=routing.quality_floor,
    )


def nano_usd(usd: float | None) -> int | None:
    """Settings in USD as whole nano-USD."""
    return None if usd is None else round(usd * NANO_PER_USD)


def scopes_of(config: Config) -> tuple[CacheScope, ...]:
    """The caches that prefixes are believed in, Opus's first."""
    return tuple(
        CacheScope(rules_for(route.model).upstream, route.workspace, route.model)
        for route in (config.opus, config.flash)
    )
