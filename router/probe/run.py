"""Carrying experiments out: through the real adapter, one request at a time, within a spending cap, on the books.

The rule: nothing is sent unless its worst case still fits under the cap, and, where there is a ledger, unless its
intent is journalled. What a call cost is what its usage prices to; a call that may have been billed and told nothing
counts at its bound. A trial that can no longer decide is not continued. Nothing is retried.

Time is a parameter: a clock and a sleep, so that an hour of waiting passes at once on an emulator's clock. It does
not know files or terminals; what happens is told as events.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import NamedTuple

from cache.facts import FactId, Verdict
from classifier.route import Route
from router import cost
from router.clock import Clock
from router.errors import (
    UpstreamError,
    UpstreamModelMissing,
    UpstreamRejected,
    UpstreamSpendLimited,
    UpstreamUnauthorized,
)
from router.ledger import Ledger
from router.pricing import PriceTable, UnknownPrice
from router.probe.evidence import Finding, Sighting, open_verdicts, settle
from router.probe.experiments import Experiment, Step
from router.probe.prompts import bound_nano_usd, call_of, plan_of
from router.reply import Finished, Reply, Started
from router.settlement import Intent, Outcome, Purpose, Settlement
from router.upstreams.base import Rendered, Upstream

TIMEOUT_S = 60.0
STAGGER_S = 3.0
"""Between the starts of two trials: no burst, and nobody in the other's way."""
FATAL = (UpstreamUnauthorized, UpstreamModelMissing, UpstreamSpendLimited)
"""Failures that every further call would meet as well."""
TICK_S = 1.0
"""Longest sleep without telling how long is left."""


class Waiting(NamedTuple):
    """Nothing is due yet."""

    remaining_s: float
    fact: FactId
    step: str


class Answered(NamedTuple):
    """A request ended."""

    fact: FactId
    trial: int
    sighting: Sighting


class Capped(NamedTuple):
    """The next request could have broken the cap; nothing more is sent."""

    fact: FactId
    step: str
    bound_nano_usd: int


Event = Waiting | Answered | Capped


@dataclass(slots=True)
class Budget:
    """Money of one run, nano-USD.

    Attributes:
        spent: Exact cost of what was answered.
        unknown: Bounds of what may have been billed without saying.
        reserved: Bounds of what is in flight.
    """

    cap: int
    spent: int = 0
    unknown: int = 0
    reserved: int = 0

    def admits(self, bound: int) -> bool:
        """Whether a call of at most `bound` keeps the total under the cap, come what may."""
        return self.spent + self.unknown + self.reserved + bound <= self.cap

    def close(self, bound: int, cost_nano_usd: int | None) -> None:
        """Book what was reserved with `bound`: its cost, or all of it when that is not known."""
        self.reserved -= bound
        if cost_nano_usd is None:
            self.unknown += bound
        else:
            self.spent += cost_nano_usd


@dataclass(slots=True, eq=False)
class Trial:
    """One run of an experiment's steps.

    Attributes:
        base_s: Start of its first request on the clock; None before.
    """

    experiment: Experiment
    number: int
    base_s: float | None = None
    sightings: dict[str, Sighting] = field(default_factory=dict)


class Probe:
    """One run: its trials, its money. Not for use twice."""

    def __init__(
        self,
        *,
        upstream: Upstream,
        prices: PriceTable,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        cap_nano_usd: int,
        name: str,
        ledger: Ledger | None = None,
        tell: Callable[[Event], None] = lambda event: None,
        tick_s: float = TICK_S,
    ) -> None:
        """Keep references.

        Args:
            name: Random name of the run; no other run may have had it, or its caches answer.
            sleep: Sleeps on `clock`.
        """
        self._upstream = upstream
        self._prices = prices
        self._clock = clock
        self._sleep = sleep
        self._name = name
        self._ledger = ledger
        self._tell = tell
        self._tick_s = tick_s
        self._calls = self._numbered = 0
        self._trials: list[Trial] = []
        self.budget = Budget(cap_nano_usd)

    @property
    def calls(self) -> int:
        """Requests sent."""
        return self._calls

    @property
    def trials(self) -> Sequence[Trial]:
        """Trials begun or planned, in order."""
        return self._trials

    def finding(self, fact: FactId) -> Finding:
        """What a fact's trials came to so far."""
        mine = [trial for trial in self._trials if trial.experiment.fact is fact]
        if not mine:
            return Finding(Verdict.UNKNOWN, "no trial was made")
        return settle(mine[0].experiment, [trial.sightings for trial in mine])

    def cost_nano_usd(self, fact: FactId) -> int:
        """What a fact's requests are known to have cost."""
        return sum(
            sighting.cost_nano_usd or 0
            for trial in self._trials
            if trial.experiment.fact is fact
            for sighting in trial.sightings.values()
        )

    async def run(self, experiments: Sequence[Experiment], trials: int) -> None:
        """Send everything in the order it is due; returns when nothing is left or the cap is near.

        Args:
            trials: Of each experiment that repeats, >= 1; one of the others.

        Raises:
            UnknownPrice: The model has no price, so no cap could hold.
            UpstreamError: The provider takes nothing from us at all: key, model or spend limit.
            LedgerUnavailable: An intent cannot be journalled.
        """
        self._trials = [
            Trial(experiment, number)
            for experiment in experiments
            for number in range(trials if experiment.repeats else 1)
        ]
        due: list[tuple[float, int, int]] = []
        now_s = self._clock.now()
        for place in range(len(self._trials)):
            heappush(due, (now_s + STAGGER_S * place, place, 0))
        while due:
            due_s, place, index = heappop(due)
            trial = self._trials[place]
            experiment = trial.experiment
            step = experiment.steps[index]
            if trial.base_s is not None and not _may_decide(trial):
                continue
            await self._wait(due_s, experiment.fact, step.name)
            if trial.base_s is None:
                trial.base_s = self._clock.now()
                for later in range(1, len(experiment.steps)):
                    heappush(due, (trial.base_s + experiment.steps[later].at_s, place, later))
            if not await self._take(trial, step):
                return

    async def _wait(self, due_s: float, fact: FactId, step: str) -> None:
        while (remaining_s := due_s - self._clock.now()) > 0:
            self._tell(Waiting(remaining_s, fact, step))
            await self._sleep(min(remaining_s, self._tick_s))

    async def _take(self, trial: Trial, step: Step) -> bool:
        """Send a step and what goes beside it; False when the cap forbids."""
        steps = (step,) if step.beside is None else (step, step.beside)
        made = [self._made(trial, each) for each in steps]
        bounds = [bound for _, bound in made]
        if not self.budget.admits(sum(bounds)):
            self._tell(Capped(trial.experiment.fact, step.name, sum(bounds)))
            return False
        self.budget.reserved += sum(bounds)
        if step.beside is None:
            await self._send(trial, step, *made[0])
            return True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(trial, step, *made[0]))
                await self._sleep(step.beside.at_s - step.at_s)
                group.create_task(self._send(trial, step.beside, *made[1]))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return True

    def _made(self, trial: Trial, step: Step) -> tuple[Rendered, int]:
        self._numbered += 1
        request_id = f"probe-{self._name}-{self._numbered}"
        rendered = self._upstream.render(call_of(self._name, trial.number, _scoped(trial, step), request_id))
        price = self._prices.price(self._upstream.model, self._clock.now())
        return rendered, bound_nano_usd(step, rendered, price)

    async def _send(self, trial: Trial, step: Step, rendered: Rendered, bound: int) -> None:
        """Make one call, book it, and note what was seen; its failure is a sighting, not an error."""
        assert trial.base_s is not None
        started_s = self._clock.now()
        intent = self._intent(trial, step, rendered, bound, started_s)
        if self._ledger is not None:
            self._ledger.journal_intent(intent)
        self._calls += 1
        at_s, first_byte_s, reply = started_s - trial.base_s, None, None
        error: BaseException | None = None
        try:
            reply, first_byte_s = await self._reply(step, rendered, started_s)
        except UpstreamError as failure:
            error = failure
            if isinstance(failure, FATAL):
                raise
        except BaseException as failure:
            error = failure
            raise
        finally:
            settlement = self._settlement(intent, reply, error, first_byte_s)
            spent = settlement.cost.total_nano_usd if settlement.cost is not None else None
            self.budget.close(bound, spent)
            if self._ledger is not None:
                self._ledger.settle(settlement)
            sighting = _sighting(step, at_s, settlement, error)
            trial.sightings[step.name] = sighting
            self._tell(Answered(trial.experiment.fact, trial.number, sighting))

    async def _reply(self, step: Step, rendered: Rendered, started_s: float) -> tuple[Reply, float | None]:
        plan = plan_of(step, rendered.prompt)
        if not step.stream:
            return await self._upstream.generate(rendered, plan, TIMEOUT_S), None
        first_byte_s: float | None = None
        reply: Reply | None = None
        async for chunk in self._upstream.stream(rendered, plan, TIMEOUT_S):
            match chunk:
                case Started():
                    first_byte_s = self._clock.now() - started_s
                case Finished():
                    reply = chunk.reply
        assert reply is not None, "a stream without an error ends with Finished"
        return reply, first_byte_s

    def _intent(self, trial: Trial, step: Step, rendered: Rendered, bound: int, started_s: float) -> Intent:
        return Intent(
            request_id=rendered.call.identity.request_id,
            attempt=1,
            purpose=Purpose.PROBE,
            route=Route.OPUS.value,
            upstream=self._upstream.name,
            model=self._upstream.model,
            tenant="",
            application="",
            user="",
            session="",
            labels={"fact": trial.experiment.fact.value, "trial": str(trial.number), "step": step.name},
            stream=step.stream,
            started_time_s=started_s,
            cost_bound_nano_usd=bound,
        )

    def _settlement(
        self, intent: Intent, reply: Reply | None, error: BaseException | None, first_byte_s: float | None
    ) -> Settlement:
        usage, outcome, reason = None, Outcome.OK, ""
        if reply is not None:
            usage = reply.usage
        elif isinstance(error, UpstreamError):
            usage, reason = error.usage, error.reason
            outcome = Outcome.UNKNOWN if error.may_be_billed or usage is not None else Outcome.REFUSED
        else:
            outcome, reason = Outcome.CANCELLED, type(error).__name__
        ended_s = self._clock.now()
        spent = cost.Cost() if outcome is Outcome.REFUSED else None
        if usage is not None:
            try:
                price = self._prices.price(
                    reply.model if reply is not None else intent.model,
                    intent.started_time_s,
                    speed=usage.speed,
                    service_tier=usage.service_tier,
                    inference_geo=usage.inference_geo,
                )
                spent = cost.cost(usage, price)
            except UnknownPrice:
                spent = None
        return Settlement(
            intent=intent,
            outcome=outcome,
            settled_time_s=ended_s,
            duration_s=ended_s - intent.started_time_s,
            first_byte_s=first_byte_s,
            usage=usage,
            cost=spent,
            answered_model=reply.model if reply is not None else "",
            response_id=reply.response_id if reply is not None else "",
            upstream_request_id=_request_id(reply, error),
            finish_reason=reply.finish_reason.value if reply is not None else "",
            error=reason,
        )


def _scoped(trial: Trial, step: Step) -> Step:
    """The step with its pieces named after the fact, too, so that no two experiments share a text."""
    fact = trial.experiment.fact.value
    return replace(
        step,
        system=tuple(piece._replace(name=f"{fact}:{piece.name}") for piece in step.system),
        turns=tuple(piece._replace(name=f"{fact}:{piece.name}") for piece in step.turns),
    )


def _may_decide(trial: Trial) -> bool:
    """Whether anything but unknown can still come of it."""
    seen: Mapping[str, Sighting] = trial.sightings
    return all(each.seen is not None for each in seen.values()) and bool(
        open_verdicts(trial.experiment, seen)
    )


def _request_id(reply: Reply | None, error: BaseException | None) -> str:
    if reply is not None:
        return reply.upstream_request_id
    return error.upstream_request_id if isinstance(error, UpstreamError) else ""


def _sighting(step: Step, at_s: float, settlement: Settlement, error: BaseException | None) -> Sighting:
    usage, spent = settlement.usage, settlement.cost
    refused = isinstance(error, UpstreamRejected)
    failed = settlement.error or ("" if usage is not None else "no usage")
    return Sighting(
        step=step.name,
        started_s=at_s,
        first_byte_s=settlement.first_byte_s,
        input_tokens=usage.input_tokens if usage else 0,
        cache_read_tokens=usage.cache_read_tokens if usage else 0,
        cache_write_5m_tokens=usage.cache_write_5m_tokens if usage else 0,
        cache_write_1h_tokens=usage.cache_write_1h_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        cost_nano_usd=spent.total_nano_usd if spent is not None else None,
        request_id=settlement.upstream_request_id,
        error=failed,
        refused=refused,
    )
