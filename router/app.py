"""The composition root: builds every part from the settings, owns it, and takes it down in order.

The rule: wiring only. What is built here is passed in everywhere else; nothing reaches for a global.
"""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
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
from router.pricing import PriceTable
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
"""At the end: longest wait for broken-off answers to be counted before their floor is booked."""
MISS_SESSION_LIMIT = 10_000
"""Sessions whose last prompt's digests are kept to explain misses; about 100 bytes per block of each."""
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
    state = _state(config)
    async with AsyncExitStack() as stack:
        # What is entered first is left last: the upstreams outlive the tasks that count with them.
        for upstream in upstreams.values():
            stack.push_async_callback(upstream.close)
        telemetry = Telemetry.build(_telemetry_settings(config, environ))
        stack.push_async_callback(telemetry.shutdown)
        if ledger is None:
            ledger = Ledger.open(config.ledger.path, clock=clock)
            stack.push_async_callback(ledger.close)
        telemetry.watch_ledger_lag(ledger.lag_s)
        for upstream in upstreams.values():
            telemetry.add_target(upstream)
        tasks = await stack.enter_async_context(Tasks())
        stack.push_async_callback(tasks.drain, SETTLE_TIMEOUT_S)
        settler = Settler(
            upstreams=upstreams,
            beliefs=state.beliefs,
            prices=state.prices,
            ledger=ledger,
            telemetry=telemetry,
            tasks=tasks,
            forecast=state.forecast,
            memory=state.memory,
            misses=state.misses,
            clock=clock,
        )
        services = Services(
            router=_router_service(config, state, upstreams, telemetry, settler, draw),
            session=SessionService(),
            feedback=FeedbackService(),
            operator=_operator_service(config, state, ledger, clock)
            if config.server.operator_service
            else None,
        )
        interceptor = ServerInterceptor(telemetry, max_in_flight=config.server.in_flight_limit)
        server = Server(config.server, services, interceptor)
        await server.start()
        stack.push_async_callback(server.drain)
        yield App(server, ledger, state.beliefs, telemetry, upstreams)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What is learnt and loaded, and shared by the services of one process."""

    classifiers: Classifiers
    threshold: float
    applications: Applications
    prices: PriceTable
    beliefs: Beliefs
    forecast: OutputForecast
    memory: SessionMemory
    misses: MissMemory


def _state(config: Config) -> _State:
    classifiers = Classifiers(config.routing.classifier)
    threshold = config.routing.threshold
    prices = price_table(config)
    limit = config.cache.prefix_limit
    return _State(
        classifiers=classifiers,
        threshold=classifiers.current().manifest.threshold if threshold is None else threshold,
        applications=Applications(config.applications),
        prices=prices,
        beliefs=Beliefs(
            prices=prices,
            workspaces={Route.OPUS: config.opus.workspace, Route.FLASH: config.flash.workspace},
            index=PrefixIndex(limit),
            demand=Demand(max_prefixes=limit, max_waiting=limit),
            estimator=TokenEstimator(),
        ),
        forecast=OutputForecast(),
        memory=SessionMemory(config.cache.session_limit),
        misses=MissMemory(min(config.cache.session_limit, MISS_SESSION_LIMIT)),
    )


def _router_service(
    config: Config,
    state: _State,
    upstreams: Mapping[Route, Upstream],
    telemetry: Telemetry,
    settler: Settler,
    draw: Callable[[], float],
) -> RouterService:
    routing = config.routing
    preparation = Preparation(
        upstreams=upstreams,
        model=state.classifiers.current,
        beliefs=state.beliefs,
        prices=state.prices,
        forecast=state.forecast,
        memory=state.memory,
        telemetry=telemetry,
        settings=RoutingSettings(
            policy=PolicySettings(threshold=state.threshold, default_route=Route(routing.default_route)),
            strategy=Strategy(config.cache.strategy),
            follow_ups=routing.follow_up_inherits,
            fallback=routing.fallback,
        ),
    )
    limits = RetryLimits(retry_limit=routing.retry_limit, wait_limit_s=routing.retry_wait_limit_s)
    return RouterService(
        dispatch=Dispatch(preparation=preparation, settler=settler, limits=limits, draw=draw),
        preparation=preparation,
        applications=state.applications,
        telemetry=telemetry,
        deadlines=DeadlinePolicy(
            default_s=config.server.default_deadline_s, maximum_s=config.server.deadline_limit_s
        ),
    )


def _operator_service(config: Config, state: _State, ledger: Ledger, clock: Clock) -> OperatorService:
    scopes = (
        CacheScope(rules_for(config.opus.model).upstream, config.opus.workspace, config.opus.model),
        CacheScope(rules_for(config.flash.model).upstream, config.flash.workspace, config.flash.model),
    )
    return OperatorService(
        ledger=ledger,
        beliefs=state.beliefs,
        scopes=scopes,
        classifiers=state.classifiers,
        threshold=state.threshold,
        clock=clock,
    )


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


def package_version() -> str:
    """Version of the installed distribution, "" when it is run uninstalled."""
    try:
        return version("hybrid-router")
    except PackageNotFoundError:
        return ""
