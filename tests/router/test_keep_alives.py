"""Keep-alives of a running router are those of a replay: one workload, served live in the sandbox and replayed.

What differs on purpose is left out: no jitter, nothing held out, nobody switched off. Time is virtual, answers take
none, and tokens are known, as they are in a trace.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from cache.economics import Rates
from cache.facts import ASSUMED, FactId, Facts
from cache.first_byte import FirstByte
from cache.pace import Pace
from cache.plan import Strategy
from cache.prompt import Layer
from cache.regret import Regret
from cache.schedule import Policy as WarmPolicy
from cache.schedule import Trigger
from classifier.route import Route
from router.applications import Applications
from router.attempts import RetryLimits
from router.call import Message, Role, Text
from router.deadline import Deadline
from router.dispatch import Dispatch, Life
from router.flights import LoopTimer
from router.foresight import Foreseer
from router.replay import Policy, Settings, replay
from router.replay_trace import LayerEnd, TraceRow, in_order
from router.replay_warming import Ping, Warm, WarmSettings
from router.request import Request
from router.sandbox import SandboxSettings, VirtualClock
from router.settlement import Purpose
from router.warm_settings import WarmingSettings
from router.warmer import WarmerParts
from router.warming import Warming
from tests.router.rig import START_TIME_S, Rig, asked, rigged

MODEL = "claude-opus-5-5"
RATES = Rates(write_5m=1.25, write_1h=2.0, read=0.05)
A2 = Facts(hour_mark_extends_read_prefix=True, verified=frozenset({FactId.A2}))
BLOCK = 64
SYSTEM_TOKENS = 2048
SYSTEM = ("Rule " * SYSTEM_TOKENS,)
ANSWER = " ".join(["Yes."] * BLOCK)
"""Two tokens each."""
SHARED = -1
PLAIN = SandboxSettings(tool_call_chance=0.0)
LAYERED = SandboxSettings(tool_call_chance=0.0, layered_entries=True)
"""An entry written on top of another ends with it: the world in which A2 does not hold."""
FIRST_BYTE = FirstByte()


class Timer(LoopTimer):
    """Spans on the clock of the sandbox."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()

    def later(self, delay_s, call):
        async def due() -> None:
            await self._clock.sleep(delay_s)
            call()

        return asyncio.get_running_loop().create_task(due())


class Turn(NamedTuple):
    """A turn of the workload: seconds after the start, and tokens of its question."""

    session: int
    number: int
    at_s: float
    tokens: int


class Order(NamedTuple):
    """A warm that was sent: whole seconds after the start, whose, and whether it wrote the answer for an hour.

    What is shared is `SHARED`'s.
    """

    at_s: int
    session: int
    upgrade: bool


class Outcome(NamedTuple):
    """What was done: orders in time, and for each request the TTL of its last breakpoint beyond the system prompt.

    Live also what each request read, and what became of the warms by trigger.
    """

    orders: list[Order]
    ttls: dict[tuple[int, int], int]
    read_tokens: dict[tuple[int, int], int] = {}
    verdicts: dict[str, Counter[str]] = {}


def workload(gaps_of, sessions: int, apart_s: float, tokens: int) -> list[Turn]:
    """Sessions one after another; `gaps_of` gives the pauses of each."""
    turns = []
    for session in range(sessions):
        at_s = session * apart_s
        for number, gap_s in enumerate((0.0, *gaps_of(session))):
            at_s += gap_s
            turns.append(Turn(session, number, at_s, tokens))
    return sorted(turns, key=lambda turn: turn.at_s)


@asynccontextmanager
async def live(facts: Facts, world: SandboxSettings) -> AsyncIterator[tuple]:
    """A router's own parts from dispatch down, and its warming, on the sandbox."""
    async with rigged(strategy=Strategy.AUTO, sandbox_settings=world, facts=facts) as rig:
        parts = WarmerParts(
            preparation=rig.preparation,
            settler=rig.settler,
            telemetry=rig.settler.telemetry,
            timer=Timer(rig.clock),
            pace=Pace(usd_per_hour=1e6, requests_per_minute=1e6),
        )
        warming = Warming(
            parts,
            WarmingSettings(policy=WarmPolicy.AUTO, hold_out=0.0),
            applications=Applications({}),
            prices=rig.settler.prices,
            first_byte=lambda _: FIRST_BYTE,
            draw=lambda: 0.0,
            foreseer=Foreseer(None),
        )
        dispatch = Dispatch(
            preparation=rig.preparation,
            settler=rig.settler,
            limits=RetryLimits(retry_limit=0, wait_limit_s=0.0),
            answered=warming.answered,
            draw=lambda: 0.0,
        )
        task = asyncio.create_task(warming.warmer.run())
        yield rig, warming, dispatch
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def question(turn: Turn) -> Message:
    """So many tokens, unlike any other's."""
    words = f"s{turn.session} t{turn.number} " + "word " * (turn.tokens - 30)
    return Message(Role.USER, (Text(f'{words}[[sandbox say="{ANSWER}" thinking=0]]'),))


def request_of(turn: Turn) -> Request:
    """The whole conversation up to this turn."""
    messages = []
    for number in range(turn.number):
        messages += [
            question(turn._replace(number=number)),
            Message(Role.ASSISTANT, (Text(ANSWER),)),
        ]
    return asked(
        *messages,
        question(turn),
        route=Route.OPUS,
        request_id=f"r{turn.session}-{turn.number}",
        session=f"s{turn.session}",
        system=SYSTEM,
    )


async def passed(rig: Rig, warming: Warming, until_s: float) -> None:
    """Let time pass up to an instant, each keep-alive at its own."""
    schedule = warming._keep_alives._schedule
    while True:
        due_s = schedule.next_due_s()
        if due_s is None or due_s > until_s:
            break
        await rig.clock.travel(max(0.0, due_s - rig.clock.now()))
        async with asyncio.timeout(10):
            while _busy(rig, warming, due_s, until_s):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0)
    await rig.clock.travel(max(0.0, until_s - rig.clock.now()))


def _know_tokens(rig: Rig) -> None:
    """Let the estimate of tokens be what the sandbox counts: a trace's are exact, too."""
    prompt = rig.prepare(request_of(Turn(10**6, 0, 0.0, 6_000))).views[Route.OPUS].prompt
    for _ in range(100):
        estimated = rig.beliefs.estimator.cumulative_tokens(prompt, MODEL)[-1]
        rig.beliefs.estimator.observe(MODEL, estimated, SYSTEM_TOKENS + 6_000)


def _busy(rig: Rig, warming: Warming, due_s: float, until_s: float) -> bool:
    """Whether what was due then is not done yet."""
    stats, next_s = rig.ledger.stats(), warming._keep_alives._schedule.next_due_s() or until_s
    return bool(warming.warmer._queue) or stats.intents != stats.settlements or next_s <= due_s < until_s


@pytest.fixture(autouse=True)
def nobody_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router stops what was planned when its owner loses; what a replay wrote down with a request, it sends."""
    monkeypatch.setattr(Regret, "allowed", lambda *_: True)


async def lived(
    turns: list[Turn], facts: Facts = ASSUMED, world: SandboxSettings = PLAIN
) -> tuple[Outcome, dict]:
    """Serve the workload live; what was done, and the tokens of each prompt as they were billed."""
    ttls, sizes, read_tokens = {}, {}, {}
    async with live(facts, world) as (rig, warming, dispatch):
        _know_tokens(rig)
        for turn in turns:
            await passed(rig, warming, START_TIME_S + turn.at_s)
            prepared = dispatch.prepare(request_of(turn))
            loop_s = asyncio.get_running_loop().time()
            answered = await dispatch.generate(Life(prepared), Deadline(at_s=loop_s + 30), "")
            points = prepared.views[Route.OPUS].plan.breakpoints
            private = [point.ttl_s for point in points if point.layer > Layer.SYSTEM]
            ttls[turn.session, turn.number] = private[-1] if private else 0
            sizes[turn.session, turn.number] = answered.bill.usage.input_tokens
            read_tokens[turn.session, turn.number] = answered.bill.usage.cache_read_tokens
        await passed(rig, warming, START_TIME_S + turns[-1].at_s + 3 * 3600)
        orders = [
            Order(
                round(each.intent.started_time_s - START_TIME_S),
                int(each.intent.session[1:]) if each.intent.session else SHARED,
                each.usage.cache_write_1h_tokens > 0,
            )
            for each in await rig.settlements()
            if each.intent.purpose is Purpose.WARM
        ]
        warming.standing()
        await rig.ledger.flush()
        verdicts: dict[str, Counter[str]] = defaultdict(Counter)
        for row in await rig.ledger.warms(("trigger",)):
            verdicts[row.group["trigger"]] += Counter(
                used=row.used, wasted=row.wasted, superfluous=row.superfluous
            )
    return Outcome(_while_used(orders, turns), ttls, read_tokens, verdicts), sizes


def rows_of(turns: list[Turn], sizes: dict) -> list[TraceRow]:
    """The same workload as a trace."""
    rows = []
    for turn in turns:
        wholes = [round(sizes[turn.session, number] / BLOCK) for number in range(turn.number + 1)]
        system = SYSTEM_TOKENS // BLOCK
        layers = [LayerEnd(system, Layer.SYSTEM)]
        layers += [LayerEnd(end + said, Layer.HISTORY) for end in wholes[:-1] for said in (0, 2)]
        layers.append(LayerEnd(wholes[-1], Layer.TURN))
        first = 1_000_000 * (turn.session + 1)
        rows.append(
            TraceRow(
                "n",
                str(turn.session),
                "main",
                turn.number,
                turn.at_s,
                wholes[-1] * BLOCK,
                2 * BLOCK,
                BLOCK,
                ((1, system), (first, wholes[-1] - system)),
                layers=tuple(layers),
            )
        )
    return in_order(rows)


def replayed(turns: list[Turn], sizes: dict, facts: Facts = ASSUMED) -> Outcome:
    """Replay it."""
    pings: list[Ping] = []
    kept = WarmSettings(policy=Warm.AUTO, hold_out=0.0, judged=False, upgrades=facts.upgrade_ping_verified)
    settings = Settings(512, RATES, MODEL, facts=facts, warming=kept)
    ttls = {}
    for served in replay(rows_of(turns, sizes), Policy.AUTO, settings, on_ping=pings.append):
        marks = [ttl_s for end, ttl_s in served.marks if end > SYSTEM_TOKENS // BLOCK]
        ttls[int(served.row.session), served.row.sequence] = marks[-1] if marks else 0
    orders = [
        Order(
            round(ping.now_s),
            SHARED if ping.trigger is Trigger.SHARED else int(ping.row.session),
            ping.split.write_1h > 0,
        )
        for ping in pings
    ]
    return Outcome(_while_used(orders, turns), ttls)


def _while_used(orders: list[Order], turns: list[Turn]) -> list[Order]:
    """In order of time; a replay does not keep what is shared beyond its last request."""
    return sorted([each for each in orders if each.session != SHARED or each.at_s <= turns[-1].at_s])


def _spread(session: int) -> tuple[float, ...]:
    """Pauses anywhere in the hour, and one beyond it."""
    return 600.0 + 290 * (session * 7 % 10), 600.0 + 290 * (session * 3 % 10), 5000.0, 900.0


WORKLOADS = {
    "mixed": workload(
        lambda session: ((480.0,) * 3, (20.0, 40.0), (2400.0,) * 2)[session % 3], 24, 700.0, 3_000
    ),
    "over the hour": workload(_spread, 22, 907.0, 6_000),
    "nobody returns": workload(lambda _: (), 12, 400.0, 6_000),
}


@pytest.mark.parametrize("name", WORKLOADS)
async def test_live_orders_and_ttls_are_those_of_the_replay(name: str) -> None:
    """Each keep-alive at the same second for the same conversation, each request's mark with the same TTL."""
    turns = WORKLOADS[name]
    lively, sizes = await lived(turns)
    told = replayed(turns, sizes)
    print(
        name, len(lively.orders), "orders;", sum(ttl_s > 300 for ttl_s in lively.ttls.values()), "for an hour"
    )
    assert lively.ttls == told.ttls
    assert lively.orders == told.orders
    assert bool(lively.orders) == (name != "nobody returns")
    assert not any(order.upgrade for order in lively.orders), "nobody measured what it rests on"


async def test_live_upgrade_pings_are_those_of_the_replay_and_are_read() -> None:
    """The answer is written for an hour behind what is read; who comes within it reads both, by the regret ledger."""
    turns = WORKLOADS["over the hour"]
    lively, sizes = await lived(turns, A2)
    told = replayed(turns, sizes, A2)
    assert (lively.orders, lively.ttls) == (told.orders, told.ttls)
    upgrades = [order for order in lively.orders if order.upgrade]
    print(f"{len(upgrades)} upgrades of {len(lively.orders)} orders: {lively.verdicts}")
    assert sum(lively.verdicts["upgrade"].values()) == len(upgrades) > 5
    assert lively.verdicts["upgrade"]["used"] > lively.verdicts["upgrade"]["wasted"]
    assert lively.read_tokens[upgrades[0].session, 2] > sizes[upgrades[0].session, 1], (
        "the prompt and its answer"
    )


async def test_an_upgrade_ping_that_keeps_nothing_is_settled_as_wasted() -> None:
    """The facts say it holds and the provider has changed since: nobody reads what it was to keep, and it is told."""
    turns = WORKLOADS["over the hour"]
    lively, _ = await lived(turns, A2, LAYERED)
    print(lively.verdicts)
    assert lively.verdicts["upgrade"]["wasted"] > 5
    assert lively.verdicts["upgrade"]["used"] == 0
