"""The composition root: builds every part from the settings, owns it, and takes it down in order.

The rule: wiring only. What is built here is passed in everywhere else; nothing reaches for a global.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import inf
from typing import TYPE_CHECKING

import httpx2

from cache.first_byte import prior_of
from cache.flight import FlightBook
from cache.pace import Pace
from cache.plan import Strategy
from cache.schedule import Policy
from classifier.policy import PolicySettings
from classifier.route import Route
from router.attempts import RetryLimits
from router.beliefs import Beliefs
from router.circuit import Circuits, CircuitSettings
from router.clock import Clock, SystemClock
from router.config import Config, ConfigError, Secrets
from router.deadline import DeadlinePolicy
from router.dispatch import Dispatch
from router.encoding import Encodings
from router.escalation import Cascade, Cascades, Signal
from router.feedback import Feedback, Receipt
from router.feedback_service import FeedbackService, Learn
from router.first_byte_recall import recall_first_bytes
from router.flights import Flights, FlightSettings, LoopTimer, Timer
from router.foresight import Foresights
from router.gauges import watch_belief, watch_circuits, watch_spending
from router.hedge import Hedging
from router.held_turns import HeldTurns
from router.interceptors import ServerInterceptor
from router.learning import Learning, watching
from router.ledger import Ledger, LedgerSettings
from router.ledger_place import ledger_server
from router.operator_service import OperatorService
from router.padding import Padding
from router.patience import Patience
from router.prefix_notes import PrefixNotes
from router.preparation import Preparation, RoutingSettings
from router.recalls import recall_sessions, recall_spending
from router.server import Server, Services
from router.service import RouterService
from router.session_book import SessionBook
from router.session_service import SessionService
from router.settler import Settler
from router.state import State, nano_usd, scopes_of, state_of
from router.tariff import check_models
from router.tasks import Tasks
from router.telemetry import Telemetry, TelemetrySettings, from_environ
from router.token_counts import TokenCounts
from router.upstreams.anthropic import AnthropicUpstream
from router.upstreams.anthropic_render import Options
from router.upstreams.base import Upstream
from router.upstreams.gemini import GeminiUpstream
from router.warm_recall import recall
from router.warm_settings import WarmingSettings
from router.warmer import WarmerParts
from router.warming import Warming

if TYPE_CHECKING:
    from router.sandbox import Sandbox

logger = logging.getLogger(__name__)

SETTLE_TIMEOUT_S = 10.0
"""At the end: longest wait for broken-off answers to be counted before their floor is booked."""
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
    token_counts: TokenCounts | None
    """None where nothing is counted."""

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
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    timer: Timer | None = None,
) -> AsyncIterator[App]:
    """Run a router until the block is left; then drain, settle, flush and close, in this order.

    Args:
        upstreams: One per route; closed at the end.
        environ: For the standard OTEL_* variables.
        clock: Wall clock of TTLs, prices and ledger; None for the machine's.
        ledger: Opened ledger to book in; None opens the configured one.
        draw: Gives jitter in [0, 1).
        sleep: Waits between attempts.
        timer: Spans of single flight; None for the loop's.

    Raises:
        ConfigError: The settings cannot be used.
        OSError: The address or the Prometheus port cannot be bound.
    """
    clock = SystemClock() if clock is None else clock
    timer = LoopTimer() if timer is None else timer
    check_models(config)
    state = state_of(config, clock.now())
    circuits = _circuits(config, upstreams, draw)
    async with AsyncExitStack() as stack:
        # What is entered first is left last: the upstreams outlive the tasks that count with them.
        for upstream in upstreams.values():
            stack.push_async_callback(upstream.close)
        telemetry = Telemetry.build(_telemetry_settings(config, environ))
        stack.push_async_callback(telemetry.shutdown)
        if ledger is None:
            ledger = _opened_ledger(config, clock)
            stack.push_async_callback(ledger.close)
        _watch(config, state, upstreams, telemetry, ledger, circuits, clock)
        await _recall(state, upstreams, ledger, clock)
        tasks = await stack.enter_async_context(Tasks())
        stack.push_async_callback(tasks.drain, SETTLE_TIMEOUT_S)
        learning = _learning(config, state, telemetry, tasks, clock)
        settler = _settler(config, state, upstreams, ledger, telemetry, tasks, circuits, learning, clock)
        preparation = _preparation(config, state, upstreams, telemetry, settler, learning)
        flights = await _flights(config, state, settler, timer)
        foresights = _foresights(config)
        warming = await _warming(config, state, preparation, settler, flights, timer, draw, foresights)
        await stack.enter_async_context(_warmed(warming, foresights, config.classifier.watch_s, sleep))
        encodings = _encodings(config, state, telemetry)
        if encodings is not None:
            stack.callback(encodings.close)
        router = _router_service(
            config, state, telemetry, settler, preparation, flights, warming, draw, sleep, encodings
        )
        services = _services(config, state, telemetry, ledger, learning, clock, warming, router)
        await stack.enter_async_context(
            watching(learning, ledger, every_s=config.classifier.watch_s, sleep=sleep)
        )
        interceptor = ServerInterceptor(telemetry, max_in_flight=config.server.in_flight_limit)
        server = Server(config.server, services, interceptor)
        await server.start()
        stack.push_async_callback(server.drain)
        counts = None
        if config.cache.count_tokens:
            counts = await stack.enter_async_context(_counting(state, upstreams))
        yield App(server, ledger, state.beliefs, telemetry, upstreams, counts)


def _opened_ledger(config: Config, clock: Clock) -> Ledger:
    settings = LedgerSettings(
        judged_within_s=config.ledger.feedback_days * 86_400.0,
        keep_s=config.ledger.keep_days * 86_400.0 or inf,
    )
    return Ledger.open(config.ledger.path, clock=clock, settings=settings, server=ledger_server(config))


def _watch(
    config: Config,
    state: State,
    upstreams: Mapping[Route, Upstream],
    telemetry: Telemetry,
    ledger: Ledger,
    circuits: Circuits,
    clock: Clock,
) -> None:
    """Say where the metrics' gauges come from, and whose names may be labels."""
    telemetry.watch_ledger_lag(ledger.lag_s)
    watch_belief(telemetry, state.beliefs.index, scopes_of(config))
    for route, upstream in upstreams.items():
        telemetry.add_target(upstream, route.value)
    watch_circuits(telemetry, circuits, clock)
    if state.spending is not None:
        watch_spending(telemetry, state.spending, clock)


async def _recall(state: State, upstreams: Mapping[Route, Upstream], ledger: Ledger, clock: Clock) -> None:
    """Take over what the ledger holds of sessions and of today's spend."""
    await recall_sessions(state.misses, ledger, clock)
    if state.spending is not None and state.spending.day is not None:
        await recall_spending(state.spending, ledger, clock)
    for upstream in upstreams.values():
        if isinstance(upstream, AnthropicUpstream):
            upstream.compare_with(state.misses.previous_response_id)


def _learning(config: Config, state: State, telemetry: Telemetry, tasks: Tasks, clock: Clock) -> Learning:
    return Learning(
        state.classifiers,
        clock=clock,
        telemetry=telemetry,
        tasks=tasks,
        margin=config.classifier.rollback_margin,
        window=config.classifier.drift_window,
    )


def _settler(
    config: Config,
    state: State,
    upstreams: Mapping[Route, Upstream],
    ledger: Ledger,
    telemetry: Telemetry,
    tasks: Tasks,
    circuits: Circuits,
    learning: Learning,
    clock: Clock,
) -> Settler:
    return Settler(
        upstreams=upstreams,
        beliefs=state.beliefs,
        prices=state.prices,
        ledger=ledger,
        telemetry=telemetry,
        tasks=tasks,
        forecast=state.forecast,
        misses=state.misses,
        book=state.book,
        paddings=state.paddings,
        spending=state.spending,
        returns=state.returns,
        clock=clock,
        circuits=circuits,
        learn=learning.settled,
        keep_features=config.classifier.keep_features,
        prefixes=PrefixNotes(ledger.prefix_key) if config.ledger.keep_prefixes else None,
    )


def _services(
    config: Config,
    state: State,
    telemetry: Telemetry,
    ledger: Ledger,
    learning: Learning,
    clock: Clock,
    warming: Warming,
    router: RouterService,
) -> Services:
    return Services(
        router=router,
        session=SessionService(
            book=state.book,
            store=state.held,
            applications=state.applications,
            settings=config.sessions,
            index=state.beliefs.index,
            clock=clock,
            warming=warming,
        ),
        feedback=FeedbackService(
            ledger=ledger, telemetry=telemetry, clock=clock, learn=_hearing(learning, state.book)
        ),
        operator=_operator_service(config, state, ledger, learning, clock, warming)
        if config.server.operator_service
        else None,
    )


@asynccontextmanager
async def _counting(state: State, upstreams: Mapping[Route, Upstream]) -> AsyncIterator[TokenCounts]:
    """Count the applications' layers in the background; what is not counted at the end is not waited for."""
    counts = TokenCounts(upstreams=upstreams, estimator=state.beliefs.estimator)
    async with Tasks() as tasks:
        counts.start(tasks, state.applications)

        def count_padded(padding: Padding) -> None:
            tasks.start(counts.count_padded(padding), "count a filler")

        if state.paddings is not None:
            state.paddings.tell(count_padded)
        try:
            yield counts
        finally:
            if state.paddings is not None:
                state.paddings.tell(None)
            await tasks.drain(0.0)


def _encodings(config: Config, state: State, telemetry: Telemetry) -> Encodings | None:
    embedder = state.classifiers.embedder
    if embedder is None:
        return None
    return Encodings(embedder, wait_s=config.classifier.encoder_wait_s, tell=telemetry.record_embedding)


def _hearing(learning: Learning, book: SessionBook) -> Learn:
    """Tell of a judgement whoever watches models, and the session, whose next turn is scored by it."""

    def hear(feedback: Feedback, receipt: Receipt) -> None:
        learning.judged(feedback, receipt)
        book.judged(feedback.tenant, feedback.request_id, str(feedback.word))

    return hear


def _preparation(
    config: Config,
    state: State,
    upstreams: Mapping[Route, Upstream],
    telemetry: Telemetry,
    settler: Settler,
    learning: Learning,
) -> Preparation:
    routing = config.routing
    threshold = routing.threshold
    if threshold is None:
        threshold = state.classifiers.current().manifest.threshold
    preparation = Preparation(
        upstreams=upstreams,
        model=state.classifiers.current,
        beliefs=state.beliefs,
        prices=state.prices,
        forecast=state.forecast,
        memory=state.book,
        telemetry=telemetry,
        settings=RoutingSettings(
            policy=PolicySettings(
                threshold=threshold,
                default_route=Route(routing.default_route),
                answer_value_nano_usd=nano_usd(routing.answer_value_usd),
                exploration_share=routing.exploration_share,
                exploration_band=routing.exploration_band,
            ),
            strategy=Strategy(config.cache.strategy),
            follow_ups=routing.follow_up_inherits,
            fallback=routing.fallback,
        ),
        circuits=settler.circuits,
        paddings=settler.paddings,
        shadow=state.classifiers.shadow,
        spending=settler.spending,
        returns=settler.returns,
    )
    if routing.threshold is None:
        learning.on_swap(lambda swap: preparation.follow_threshold(swap.model.manifest.threshold))
    return preparation


def _router_service(
    config: Config,
    state: State,
    telemetry: Telemetry,
    settler: Settler,
    preparation: Preparation,
    flights: Flights | None,
    warming: Warming,
    draw: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    encodings: Encodings | None,
) -> RouterService:
    routing = config.routing
    limits = RetryLimits(
        retry_limit=routing.retry_limit,
        wait_limit_s=routing.retry_wait_limit_s,
        attempt_share=config.attempts.attempt_share,
    )
    hedging = Hedging(
        after_s=routing.hedge_after_s, routes=frozenset(Route(name) for name in routing.hedge_routes)
    )
    return RouterService(
        dispatch=Dispatch(
            preparation=preparation,
            settler=settler,
            limits=limits,
            hedging=hedging,
            cascades=cascades_of(config),
            flights=flights,
            answered=warming.answered,
            draw=draw,
            sleep=sleep,
        ),
        preparation=preparation,
        applications=state.applications,
        telemetry=telemetry,
        deadlines=DeadlinePolicy(
            default_s=config.server.default_deadline_s, maximum_s=config.server.deadline_limit_s
        ),
        encodings=encodings,
        turns=HeldTurns(
            state.held,
            settler.clock,
            session_bytes_limit=config.sessions.session_bytes_limit,
            session_message_limit=config.sessions.session_message_limit,
        ),
    )


def cascades_of(config: Config) -> Cascades:
    """For which failures of Flash's answers each application asks Opus."""
    general = config.cascade

    def cascade(enabled: bool | None, on: Sequence[str] | None) -> Cascade:
        is_on = general.enabled if enabled is None else enabled
        signals = general.on if on is None else on
        return Cascade(frozenset(map(Signal, signals)) if is_on else frozenset(), general.needed_s)

    return Cascades(
        cascade(None, None),
        {
            name: cascade(application.cascade, application.cascade_on)
            for name, application in config.applications.items()
            if application.cascade is not None or application.cascade_on is not None
        },
    )


async def _flights(config: Config, state: State, settler: Settler, timer: Timer) -> Flights | None:
    """Single flight, with what the ledger holds of first bytes; None where it is off."""
    cache, lock = config.cache, FlightBook()
    if not cache.single_flight:
        return None
    settler.telemetry.watch_promotions(lambda: lock.promotions)
    flights = Flights(
        lock,
        FlightSettings(limit_s=cache.flight_limit_s, second_usd=cache.flight_second_usd),
        beliefs=state.beliefs,
        prices=state.prices,
        clock=settler.clock,
        timer=timer,
        watch=settler.telemetry,
    )
    asked = frozenset({settler.upstreams[Route.OPUS].model})
    await recall_first_bytes(flights.first_byte, asked, settler.ledger, settler.clock)
    return flights


def _foresights(config: Config) -> Foresights | None:
    if config.warming.policy == Policy.OFF.value:
        return None
    return Foresights(config.warming.foresight, registry=config.classifier.registry)


async def _warming(
    config: Config,
    state: State,
    preparation: Preparation,
    settler: Settler,
    flights: Flights | None,
    timer: Timer,
    draw: Callable[[], float],
    foresights: Foresights | None,
) -> Warming:
    """Warming, with what the ledger holds of it; it says nothing and remembers nothing where it is off."""
    settings, unlearnt = config.warming, prior_of(state.beliefs.facts)
    opus, telemetry, clock = settler.upstreams[Route.OPUS], settler.telemetry, settler.clock
    warming = Warming(
        WarmerParts(
            preparation=preparation,
            settler=settler,
            telemetry=telemetry,
            timer=timer,
            pace=Pace(usd_per_hour=settings.usd_per_hour, requests_per_minute=settings.requests_per_minute),
            flights=flights,
            rate_room=opus.rate_room if isinstance(opus, AnthropicUpstream) else lambda: None,
            rate_reserve=settings.rate_reserve,
        ),
        WarmingSettings(
            policy=Policy(settings.policy),
            second_usd=settings.second_usd,
            hold_out=settings.hold_out,
            actions=frozenset(settings.actions),
            score=settings.score,
            recipe_bytes_limit=settings.recipe_bytes_limit,
        ),
        applications=state.applications,
        prices=state.prices,
        first_byte=(lambda _: unlearnt) if flights is None else flights.first_byte,
        draw=draw,
        foreseer=None if foresights is None else foresights.foreseer,
    )
    if settings.policy != Policy.OFF.value:
        telemetry.watch_warms(
            lambda: warming.regret.open_count, lambda: warming.regret.switched_off(clock.now())
        )
        await recall(warming, settler.ledger, clock)
    return warming


@asynccontextmanager
async def _warmed(
    warming: Warming,
    foresights: Foresights | None,
    every_s: float,
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[None]:
    """Warm in the background; a warm that is on its way at the end is broken off and booked.

    Args:
        every_s: How often to look for another champion of the foresights, seconds; 0 for never.
    """

    async def follow(foresights: Foresights) -> None:
        while True:
            await sleep(every_s)
            await foresights.follow()

    async with Tasks() as tasks:
        tasks.start(warming.warmer.run(), "warm prefixes")
        if foresights is not None and foresights.changes and every_s > 0:
            tasks.start(follow(foresights), "follow the registry of foresights")
        try:
            yield
        finally:
            await tasks.drain(0.0)


def _circuits(config: Config, upstreams: Mapping[Route, Upstream], draw: Callable[[], float]) -> Circuits:
    routing = config.routing
    settings = CircuitSettings(
        enabled=routing.circuit,
        window_s=routing.circuit_window_s,
        minimum_calls=routing.circuit_minimum_calls,
        failure_share=routing.circuit_failure_share,
        failures_in_a_row=routing.circuit_failures_in_a_row,
        open_s=routing.circuit_open_s,
        open_limit_s=routing.circuit_open_limit_s,
        probe_limit=routing.circuit_probe_limit,
        slow_s=routing.circuit_slow_s,
        wait_limit_s=routing.retry_wait_limit_s,
    )
    targets = {route: (upstream.name, upstream.model) for route, upstream in upstreams.items()}
    return Circuits(targets, settings, draw=draw)


def _operator_service(
    config: Config,
    state: State,
    ledger: Ledger,
    learning: Learning,
    clock: Clock,
    warming: Warming,
) -> OperatorService:
    return OperatorService(
        ledger=ledger,
        beliefs=state.beliefs,
        scopes=scopes_of(config),
        learning=learning,
        threshold=config.routing.threshold,
        clock=clock,
        warming=warming,
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
            model=config.opus.model,
            api_key=secrets.opus_api_key,
            base_url=config.opus.base_url or None,
            options=Options(diagnostics=config.opus.diagnostics),
            patience=_patience(config),
        ),
        Route.FLASH: GeminiUpstream(
            model=config.flash.model,
            api_key=secrets.flash_api_key,
            base_url=config.flash.base_url or None,
            patience=_patience(config),
        ),
    }


def _patience(config: Config) -> Patience:
    return Patience(config.attempts.first_byte_timeout_s, config.attempts.idle_timeout_s)


def sandbox_upstreams(config: Config, sandbox: "Sandbox") -> dict[Route, Upstream]:
    """The real adapters and SDKs over the in-process sandbox."""
    return {
        Route.OPUS: AnthropicUpstream(
            model=config.opus.model,
            api_key=SANDBOX_KEY,
            http_client=httpx2.AsyncClient(transport=sandbox.transport()),
            options=Options(diagnostics=config.opus.diagnostics),
            patience=_patience(config),
        ),
        Route.FLASH: GeminiUpstream(
            model=config.flash.model,
            api_key=SANDBOX_KEY,
            http_client=httpx2.AsyncClient(transport=sandbox.transport()),
            patience=_patience(config),
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
            bucket_label=config.telemetry.bucket_label,
            buckets=frozenset(config.telemetry.buckets),
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
