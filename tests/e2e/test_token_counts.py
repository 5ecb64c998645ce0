"""Marks near the model's minimum: guessed from bytes, then exact because the provider counted the layers for free."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from classifier.route import Route
from router.app import running, sandbox_upstreams
from router.config import ApplicationConfig, CacheConfig, Config, OpusConfig
from router.ledger import Ledger
from router.sandbox import InvoiceLine, Sandbox
from router.v1 import accounting_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import APPLICATION, OPUS, START_TIME_S, config, generate, prose, tool_config, user
from tests.e2e.service import TALK_ONLY, TIMEOUT_S, Service, WatchedClock, serving

MODEL = "claude-opus-4-5-20251101"
MINIMUM_TOKENS = 4096
A, C = accounting_pb2.CACHE_STRATEGY_A, accounting_pb2.CACHE_STRATEGY_C
AUTO = accounting_pb2.CACHE_STRATEGY_AUTO
SYSTEM = accounting_pb2.LAYER_SYSTEM

CLAUSES = "\n".join(
    f"Clause {n}: if a > {n}, then b := (c + d) / 2; record it by number, date, owner and period, with the currency."
    for n in range(46)
)
"""Dense text: more tokens to the byte than the estimate's prior."""
NEAR = ApplicationConfig(
    system=(prose("Rule", 76), CLAUSES),
    tools=tuple(tool_config(name) for name in ("search_tickets", "read_account")),
)
"""Tools and system prompt estimated at about 3,900 tokens, below the minimum; in truth about 4,150, above it."""


def settings(*, count_tokens: bool, application: ApplicationConfig = NEAR, filler: str = "") -> Config:
    """The model with the highest minimum."""
    return config(
        opus=OpusConfig(model=MODEL),
        cache=CacheConfig(count_tokens=count_tokens, filler=filler),
        applications={APPLICATION: application},
    )


@asynccontextmanager
async def desk(*, count_tokens: bool, **more: object) -> AsyncIterator[Service]:
    """A running service; with counts, they are in."""
    async with serving(settings(count_tokens=count_tokens, **more)) as running:
        yield running


def question(number: int, strategy: int) -> pb.GenerateRequest:
    """One of a stream of one-off questions on Opus."""
    text = f"Question {number}: which tickets of account {number * 7} are overdue, and who owns them?"
    return generate(user(text), route=OPUS, strategy=strategy, max_output_tokens=64)


def line_of(service: Service, answer: pb.GenerateResponse) -> InvoiceLine:
    """The provider's bill of one answer."""
    line = service.invoice.find(answer.answer.response_id)
    assert line is not None
    return line


def system_mark(plan: accounting_pb2.CachePlan) -> accounting_pb2.Breakpoint:
    """The mark behind the system prompt."""
    (mark,) = [each for each in plan.breakpoints if each.layer == SYSTEM]
    return mark


async def test_without_counts_a_mark_below_the_minimum_is_in_doubt() -> None:
    """What could reach the minimum is marked, but nothing is expected of it; the provider writes it all the same."""
    async with desk(count_tokens=False) as service:
        assert service.app.token_counts is None
        answer = await service.generate(question(1, A))
        plan = answer.accounting.cache_report.plan
        assert 3_860 < system_mark(plan).prefix_tokens < 3_940
        assert plan.expected_write_tokens == 0
        assert 4_130 < line_of(service, answer).write_5m_tokens < 4_170


@pytest.mark.parametrize("strategy", [A, AUTO])
async def test_with_counts_expected_writes_and_reads_are_the_bill(strategy: int) -> None:
    """Cold and warm: what Explain shows of the shared layers is what the provider bills, to the token."""
    async with desk(count_tokens=True) as service:
        for number in (1, 2, 3):
            explained = await service.explain(question(number, strategy))
            answer = await service.generate(question(number, strategy))
            line = line_of(service, answer)
            plan = answer.accounting.cache_report.plan
            assert explained.plan == plan
            mark, cached = system_mark(plan), line.read_tokens + line.write_5m_tokens + line.write_1h_tokens
            assert mark.prefix_tokens == cached
            assert plan.expected_read_tokens + plan.expected_write_tokens == cached
            # Expected is the mean: what is read when the belief holds, times its chance.
            assert line.read_tokens == (cached if number > 1 else 0)
            assert plan.expected_read_tokens == int(mark.warm_probability * line.read_tokens + 0.5)
            assert system_mark(plan).prefix_tokens >= MINIMUM_TOKENS
            service.clock.advance(20)
        assert line.read_tokens > 0


async def test_auto_never_caches_what_it_takes_for_too_short() -> None:
    """The same traffic without counts, taken by estimates: nothing is written, every question pays in full."""
    async with desk(count_tokens=False) as service:
        for number in (1, 2, 3):
            line = line_of(service, await service.generate(question(number, AUTO)))
            assert (line.read_tokens, line.write_5m_tokens, line.write_1h_tokens) == (0, 0, 0)


async def test_the_tools_are_counted_apart_from_the_system_prompt() -> None:
    """Each layer's end is exact, the provider's own instructions for tools included."""
    long_tools = tuple(
        msgspec.structs.replace(tool_config(name), description=prose(name, 40))
        for name in ("search_tickets", "read_account", "list_owners", "sum_balances", "find_period")
    )
    application = ApplicationConfig(system=(CLAUSES,), tools=long_tools)
    async with desk(count_tokens=True, application=application) as service:
        answer = await service.generate(question(1, C))
        tools, system = answer.accounting.cache_report.plan.breakpoints[:2]
        assert system.prefix_tokens == line_of(service, answer).write_5m_tokens
        # The tools alone: a request that changes the system prompt reads just them.
        service.clock.advance(20)
        changed = question(2, C)
        changed.prompt.system.append("Answer in one line.")
        answer = await service.generate(changed)
        line = line_of(service, answer)
        assert line.read_tokens in (tools.prefix_tokens, system.prefix_tokens)
        assert tools.prefix_tokens >= MINIMUM_TOKENS


async def test_counting_costs_nothing_and_is_booked_nowhere() -> None:
    """No line of the bill, no intent, no settlement; Flash's input is known as well."""
    async with desk(count_tokens=True) as service:
        assert len(service.invoice) == 0
        assert service.sandbox.census()["billed_requests"] == 0
        assert await service.settlements() == []
        assert service.ledger.stats().intents == 0
        answer = await service.generate(question(1, A))
        assert len(service.invoice) == 1
        assert answer.accounting.cost.total_nano_usd == line_of(service, answer).cost_nano_usd
        for estimate in answer.decision.estimates:
            forced = generate(user("Which tickets are overdue?"), route=estimate.route)
            explained = await service.explain(forced)
            billed = line_of(service, await service.generate(forced)).input_tokens
            (asked,) = [each for each in explained.decision.estimates if each.route == estimate.route]
            assert asked.input_tokens == pytest.approx(billed, abs=8), "only the question is estimated"


async def test_a_filler_is_counted_once_it_is_cut() -> None:
    """The padded layers' mark is exact, too, once the filler's count is in."""
    application = ApplicationConfig(system=(prose("Rule", 86),), tools=NEAR.tools)
    filler = "\n\n".join(prose(f"Worked example {number},", 6) for number in range(1, 40))
    async with desk(count_tokens=True, application=application, filler=filler) as service:
        marked, number = None, 0
        while marked is None:
            number += 1
            assert number < 60, "never padded"
            answer = await service.generate(question(number, AUTO))
            service.clock.advance(40)
            if answer.accounting.cache_report.plan.breakpoints:
                marked = answer
        explained = await service.explain(question(99, AUTO))
        estimator, plan = service.app.beliefs.estimator, explained.plan
        line = line_of(service, marked)
        billed = line.read_tokens + line.write_5m_tokens + line.write_1h_tokens
        assert billed >= MINIMUM_TOKENS
        assert plan.breakpoints[-1].prefix_tokens == billed
        counted = [known.tokens for known in estimator._known[MODEL].values()]
        assert billed in counted


async def test_nothing_is_left_running_when_it_ends_while_counting() -> None:
    """The counter that never answers is left at once, and nobody waits for it."""
    asked = asyncio.Event()

    async def never(rendered: object, timeout_s: float) -> int:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    chosen = settings(count_tokens=True)
    clock = WatchedClock(START_TIME_S)
    ledger = Ledger.temporary(clock=clock)
    upstreams = sandbox_upstreams(chosen, Sandbox(TALK_ONLY, clock))
    for route in Route:
        upstreams[route].count_prompt = never
    before = asyncio.all_tasks()
    async with asyncio.timeout(TIMEOUT_S):
        async with running(chosen, upstreams=upstreams, environ={}, clock=clock, ledger=ledger) as app:
            await asked.wait()
            counting = app.token_counts
            assert counting is not None
            assert any("count" in task.get_name() for task in asyncio.all_tasks())
        await counting.wait()
    await ledger.close()
    assert not {task for task in asyncio.all_tasks() - before if "count" in task.get_name()}
