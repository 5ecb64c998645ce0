"""The parts of a router around one request, real and in process, without gRPC: for tests of preparation, settlement
and dispatch.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cache.demand import Demand
from cache.facts import ASSUMED, Facts
from cache.index import PrefixIndex
from cache.plan import Strategy
from cache.tokens import TokenEstimator
from classifier.model import Model
from classifier.policy import PolicySettings
from classifier.route import Route
from router.app import sandbox_upstreams
from router.applications import NO_APPLICATION
from router.beliefs import Beliefs
from router.call import Call, Identity, Message, Role, Text
from router.circuit import Circuits, CircuitSettings
from router.config import Config
from router.estimate import OutputForecast
from router.ledger import Ledger
from router.misses import MissMemory
from router.preparation import Preparation, Prepared, RoutingSettings
from router.pricing import PriceTable
from router.request import Demands, Request
from router.returns import Returns
from router.sandbox import Sandbox, SandboxSettings, VirtualClock
from router.session_book import SessionBook
from router.settler import Settler
from router.spending import Spending
from router.tasks import Tasks
from router.telemetry import Telemetry
from router.upstreams.base import Upstream

START_TIME_S = 1_795_168_800.0
"""2026-11-20 10:00 UTC."""


@dataclass(slots=True)
class Rig:
    """One router's parts, on a virtual clock."""

    clock: VirtualClock
    sandbox: Sandbox
    upstreams: dict[Route, Upstream]
    ledger: Ledger
    tasks: Tasks
    memory: SessionBook
    forecast: OutputForecast
    beliefs: Beliefs
    settler: Settler
    preparation: Preparation

    def prepare(self, request: Request) -> Prepared:
        """Decide, as serving does."""
        return self.preparation.prepare(request, self.clock.now())

    async def settlements(self) -> list:
        """Everything booked so far."""
        await self.ledger.flush()
        return [each async for each in self.ledger.settlements()]


@asynccontextmanager
async def rigged(
    *,
    upstreams: dict[Route, Upstream] | None = None,
    circuit: CircuitSettings | None = None,
    sandbox_settings: SandboxSettings | None = None,
    policy: PolicySettings | None = None,
    strategy: Strategy = Strategy.C,
    model: Callable[[], Model | None] = lambda: None,
    returns: Returns | None = None,
    spending: Spending | None = None,
    limit: int = 1000,
    facts: Facts = ASSUMED,
) -> AsyncIterator[Rig]:
    """Wire the parts together; background work is drained at the end.

    Args:
        limit: Prefixes, turns and sessions remembered.
        facts: What is taken of the open facts.
    """
    clock = VirtualClock(START_TIME_S)
    sandbox = Sandbox(sandbox_settings, clock) if sandbox_settings else Sandbox(clock=clock)
    upstreams = upstreams or sandbox_upstreams(Config(), sandbox)
    prices, telemetry = PriceTable(), Telemetry.off()
    beliefs = Beliefs(
        prices=prices,
        workspaces={Route.OPUS: "default", Route.FLASH: "default"},
        index=PrefixIndex(limit, facts=facts),
        demand=Demand(max_prefixes=limit, max_waiting=limit),
        estimator=TokenEstimator(),
        facts=facts,
    )
    forecast, memory = OutputForecast(), SessionBook(limit)
    targets = {route: (upstream.name, upstream.model) for route, upstream in upstreams.items()}
    circuits = Circuits(targets, circuit or CircuitSettings(), draw=lambda: 0.0)
    preparation = Preparation(
        upstreams=upstreams,
        model=model,
        beliefs=beliefs,
        prices=prices,
        forecast=forecast,
        memory=memory,
        telemetry=telemetry,
        settings=RoutingSettings(
            policy=policy or PolicySettings(threshold=0.5, default_route=Route.FLASH),
            strategy=strategy,
            follow_ups=True,
            fallback=True,
        ),
        circuits=circuits,
        spending=spending,
        returns=returns,
    )
    ledger = Ledger.temporary(clock=clock)
    try:
        async with Tasks() as tasks:
            settler = Settler(
                upstreams=upstreams,
                beliefs=beliefs,
                prices=prices,
                ledger=ledger,
                telemetry=telemetry,
                tasks=tasks,
                forecast=forecast,
                misses=MissMemory(100),
                book=memory,
                clock=clock,
                circuits=circuits,
                spending=spending,
                returns=returns,
            )
            yield Rig(
                clock, sandbox, upstreams, ledger, tasks, memory, forecast, beliefs, settler, preparation
            )
            await tasks.drain(5.0)
    finally:
        await ledger.close()
        for upstream in upstreams.values():
            await upstream.close()


def asked(
    *messages: Message,
    route: Route | None = None,
    request_id: str = "r-1",
    session: str = "",
    system: tuple[str, ...] = (),
    context: tuple[str, ...] = (),
    fallback_allowed: bool = True,
    max_output_tokens: int = 400,
) -> Request:
    """A checked request."""
    return Request(
        call=Call(
            identity=Identity(request_id=request_id, tenant="acme", session=session),
            system=system,
            context=context,
            messages=messages or (said("Which tickets are overdue?"),),
            max_output_tokens=max_output_tokens,
        ),
        application=NO_APPLICATION,
        demands=Demands(forced_route=route, fallback_allowed=fallback_allowed),
    )


def said(text: str, role: Role = Role.USER) -> Message:
    """A message of one text."""
    return Message(role, (Text(text),))
