"""The composition root: builds every part from the settings, owns it, and takes it down in order.

The rule: wiring only. What is built here is passed in everywhere else; nothing reaches for a global.
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import httpx2

from cache.demand import Demand
from cache.index import PrefixIndex
from cache.plan import Strategy
from cache.prompt import CacheScope
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.policy import PolicySettings
from classifier.route import Route
from router.applications import Applications
from router.attempts import RetryLimits
from router.beliefs import Beliefs
from router.classifiers import Classifiers
from router.clock import Clock, SystemClock
from router.config import Config, ConfigError, Secrets
from router.deadline import DeadlinePolicy
from router.dispatch import Dispatch
from router.estimate import OutputForecast
from router.interceptors import ServerInterceptor
from router.later_services import FeedbackService, SessionService
from router.ledger import Ledger
from router.memory import SessionMemory
from router.misses import MissMemory
from router.operator_service import OperatorService
from router.preparation import Preparation, RoutingSettings
from router.server import Server, Services
from router.service import RouterService
from router.settler import Settler
from router.tariff import check_models, price_table
from router.tasks import Tasks
from router.telemetry import Telemetry, TelemetrySettings, from_environ
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.base import Upstream
from router.upstreams.gemini import GeminiUpstream

if TYPE_CHECKING:
    from router.sandbox import Sandbox

SETTLE_TIMEOUT_S = 10.0
"""At the end: longest wait for broken-off answers to be counted before estimates are booked."""
SANDBOX_KEY = "sandbox-key"
"""Credential of the built-in sandbox; not a secret."""


@dataclass(frozen=True, slots=True)
class App:
    """A running router and the parts that its owner may look at."""

    server: Server
    ledger: Ledger
    beliefs: Beliefs
    telemetry: Telemetry
    upstreams: Mapping[Route, Upstream]

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.server.address


@asynccontextmanager
async def running(
    config: Config,
    *,
    upstreams: Mapping[Route, Upstream],
    environ: Mapping[str, str],
    clock: Clock | None = None,
    ledger: Ledger | None = None,
    draw: Callable[[], float] = random.random,
) -> AsyncIterator[App]:
    """Run a router until the block is left; then drain, settle, flush and close, in this order.

    Args:
        upstreams: One per route; closed at the end.
        environ: For the standard OTEL_* variables.
        clock: Wall clock of TTLs, prices and ledger; None for the machine's.
        ledger: Opened ledger to book in; None opens the configured one.
        draw: Gives jitter in [0, 1).

    Raises:
        ConfigError: The settings cannot be used.
        OSError: The address or the Prometheus port cannot be bound.
    """
    clock = SystemClock() if clock is None else clock
    check_models(config)
    classifiers = Classifiers(config.routing.classifier)
    applications = Applications(config.applications)
    prices = price_table(config)
    telemetry = Telemetry.build(_telemetry_settings(config, environ))
    for upstream in upstreams.values():
        telemetry.add_target(upstream)
    booked = Ledger.open(config.ledger.path, clock=clock) if ledger is None else ledger
    telemetry.watch_ledger_lag(booked.lag_s)
    beliefs = Beliefs(
        prices=prices,
        workspaces={Route.OPUS: config.opus.workspace, Route.FLASH: config.flash.workspace},
        index=PrefixIndex(config.cache.prefix_limit),
        demand=Demand(max_prefixes=config.cache.prefix_limit, max_waiting=config.cache.prefix_limit),
        estimator=TokenEstimator(),
    )
    forecast = OutputForecast()
    memory = SessionMemory(config.cache.session_limit)
    threshold = config.routing.threshold
    if threshold is None:
        threshold = classifiers.current().manifest.threshold
    preparation = Preparation(
        upstreams=upstreams,
        model=classifiers.current,
        beliefs=beliefs,
        prices=prices,
        forecast=forecast,
        memory=memory,
        telemetry=telemetry,
        settings=_routing_settings(config, threshold),
    )
    try:
        async with Tasks() as tasks:
            settler = Settler(
                upstreams=upstreams,
                beliefs=beliefs,
                prices=prices,
                ledger=booked,
                telemetry=telemetry,
                tasks=tasks,
                forecast=forecast,
                memory=memory,
                misses=MissMemory(min(config.cache.session_limit, 10_000)),
                clock=clock,
            )
            dispatch = Dispatch(
                preparation=preparation,
                settler=settler,
                limits=RetryLimits(
                    retry_limit=config.routing.retry_limit, wait_limit_s=config.routing.retry_wait_limit_s
                ),
                draw=draw,
            )
            services = Services(
                router=RouterService(
                    dispatch=dispatch,
                    preparation=preparation,
                    applications=applications,
                    telemetry=telemetry,
                    deadlines=DeadlinePolicy(
                        default_s=config.server.default_deadline_s, maximum_s=config.server.deadline_limit_s
                    ),
                ),
                session=SessionService(),
                feedback=FeedbackService(),
                operator=OperatorService(
                    ledger=booked,
                    beliefs=beliefs,
                    scopes=lambda: _scopes(config),
                    classifiers=classifiers,
                    threshold=threshold,
                    clock=clock,
                )
                if config.server.operator_service
                else None,
            )
            interceptor = ServerInterceptor(telemetry, max_in_flight=config.server.in_flight_limit)
            server = Server(config.server, services, interceptor)
            await server.start()
            try:
                yield App(server, booked, beliefs, telemetry, upstreams)
            finally:
                await server.drain()
                await tasks.drain(SETTLE_TIMEOUT_S)
    finally:
        for upstream in upstreams.values():
            await upstream.close()
        if ledger is None:
            await booked.close()
        await telemetry.shutdown()


def provider_upstreams(config: Config, secrets: Secrets) -> dict[Route, Upstream]:
    """The providers themselves.

    Raises:
        ConfigError: A key is missing.
    """
    missing = [
        name
        for name, key in (
            ("ANTHROPIC_API_KEY (or opus.api_key_file)", secrets.opus_api_key),
            ("GEMINI_API_KEY (or flash.api_key_file)", secrets.flash_api_key),
        )
        if not key
    ]
    if missing:
        raise ConfigError(
            f"no provider key: set {' and '.join(missing)}, or run with --sandbox to try it without keys"
        )
    return {
        Route.OPUS: AnthropicUpstream(
            model=config.opus.model, api_key=secrets.opus_api_key, base_url=config.opus.base_url or None
        ),
        Route.FLASH: GeminiUpstream(
            model=config.flash.model, api_key=secrets.flash_api_key, base_url=config.flash.base_url or None
        ),
    }


def sandbox_upstreams(config: Config, sandbox: "Sandbox") -> dict[Route, Upstream]:
    """The real adapters and SDKs over the in-process sandbox."""
    return {
        Route.OPUS: AnthropicUpstream(
            model=config.opus.model,
            api_key=SANDBOX_KEY,
            http_client=httpx2.AsyncClient(transport=sandbox.transport()),
        ),
        Route.FLASH: GeminiUpstream(
            model=config.flash.model,
            api_key=SANDBOX_KEY,
            http_client=httpx2.AsyncClient(transport=sandbox.transport()),
        ),
    }


def _routing_settings(config: Config, threshold: float) -> RoutingSettings:
    routing = config.routing
    return RoutingSettings(
        policy=PolicySettings(threshold=threshold, default_route=Route(routing.default_route)),
        strategy=Strategy(config.cache.strategy),
        follow_ups=routing.follow_up_inherits,
        fallback=routing.fallback,
    )


def _telemetry_settings(config: Config, environ: Mapping[str, str]) -> TelemetrySettings:
    host, _, port = config.server.listen.rpartition(":")
    try:
        return from_environ(
            environ,
            prometheus_port=config.telemetry.prometheus_port,
            prometheus_host=config.telemetry.prometheus_address,
            sample_ratio=config.telemetry.sample_ratio,
            applications=frozenset(config.applications),
            tenants=frozenset(config.telemetry.tenants),
            old_cache_write_name=config.telemetry.legacy_cache_attribute,
            server_address=host,
            server_port=int(port) if port.isdigit() else 0,
            service_version=package_version(),
        )
    except ValueError as error:
        raise ConfigError(f"telemetry: {error}") from error


def _scopes(config: Config) -> tuple[CacheScope, ...]:
    return (
        CacheScope(rules_for(config.opus.model).upstream, config.opus.workspace, config.opus.model),
        CacheScope(rules_for(config.flash.model).upstream, config.flash.workspace, config.flash.model),
    )


def package_version() -> str:
    """Version of the installed distribution, "" when it is run uninstalled."""
    try:
        return version("hybrid-router")
    except PackageNotFoundError:
        return ""
