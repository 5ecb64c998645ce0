"""What Explain shows is what Generate does: same decision, same plan, and showing it changes nothing."""

from collections.abc import Callable

import pytest

from router.v1 import accounting_pb2, content_pb2, routing_pb2
from router.v1 import router_service_pb2 as pb
from tests.e2e.builders import (
    FLASH,
    OPUS,
    assistant,
    context_of,
    generate,
    prose,
    tool_call,
    tool_result,
    user,
)
from tests.e2e.service import Service

A, B, C = (
    accounting_pb2.CACHE_STRATEGY_A,
    accounting_pb2.CACHE_STRATEGY_B,
    accounting_pb2.CACHE_STRATEGY_C,
)


def _image() -> pb.GenerateRequest:
    request = generate(user("What does this chart show?"))
    part = content_pb2.Part(
        image=content_pb2.ImagePart(media_type="image/png", data=b"\x89PNG\r\n\x1a\n" + bytes(64))
    )
    request.prompt.messages[0].parts.append(part)
    return request


def _demanding(**demands: object) -> pb.GenerateRequest:
    request = generate(user("Which tickets are overdue?"), context=(context_of("ann"),))
    request.constraints.MergeFrom(routing_pb2.Constraints(**demands))
    return request


TALK = (user("Analyse the churn of Northwind."), assistant("It rose by a third."), user("And of Contoso?"))

REQUESTS: dict[str, Callable[[], pb.GenerateRequest]] = {
    "a command": lambda: generate(user("List my open tickets.")),
    "an analysis": lambda: generate(
        user("Prove that the greedy schedule is optimal and derive its competitive ratio, step by step.")
    ),
    "forced opus, option a": lambda: generate(*TALK, route=OPUS, strategy=A, context=(context_of("ann"),)),
    "forced opus, option b": lambda: generate(*TALK, route=OPUS, strategy=B, context=(context_of("ann"),)),
    "forced opus, option c": lambda: generate(*TALK, route=OPUS, strategy=C, context=(context_of("ann"),)),
    "forced opus, by value": lambda: generate(
        *TALK, route=OPUS, session="talk", context=(context_of("ann"),)
    ),
    "forced flash": lambda: generate(*TALK, route=FLASH),
    "a follow-up": lambda: generate(*TALK[:2], user("yes, go on"), session="talk"),
    "a tool loop": lambda: generate(
        user("Sum up account A-17."), tool_call("c1", "read_account"), tool_result("c1", "balance 12.00 EUR")
    ),
    "an image": _image,
    "no application": lambda: generate(user("Hello"), application="", context=(prose("Fact", 40),)),
    "no cache": lambda: generate(*TALK, route=OPUS, no_cache=True),
    "quality floor": lambda: _demanding(quality_floor=0.999),
    "cost ceiling": lambda: _demanding(cost_ceiling_nano_usd=9_000_000),
    "follow-ups told": lambda: _demanding(expected_follow_up_count=9, forced_route=OPUS),
}


def assert_same(explained: pb.ExplainResponse, answered: pb.GenerateResponse) -> None:
    """Route, reason, score, price and every breakpoint agree."""
    assert explained.decision == answered.decision
    if answered.decision.route == OPUS:
        plan = answered.accounting.cache_report.plan
        assert explained.plan == plan
        assert [
            (mark.block_index, mark.ttl.seconds, mark.prefix_tokens) for mark in explained.plan.breakpoints
        ] == [(mark.block_index, mark.ttl.seconds, mark.prefix_tokens) for mark in plan.breakpoints]


@pytest.mark.parametrize("name", REQUESTS)
async def test_generate_does_what_explain_showed(service: Service, name: str) -> None:
    """Cold, then warm after its own answer, then lapsed: three times the same plan and decision in both."""
    for pause_s in (0, 30, 600):
        service.clock.advance(pause_s)
        explained = await service.explain(REQUESTS[name]())
        assert_same(explained, await service.generate(REQUESTS[name]()))


async def test_a_warm_prefix_is_shown_as_warm(service: Service) -> None:
    """After one answer the plan expects the shared layers to be read, and Opus is expected to cost less."""
    request = generate(*TALK, route=OPUS, strategy=C, context=(context_of("ann"),))
    cold = await service.explain(request)
    await service.generate(request)
    service.clock.advance(30)
    warm = await service.explain(request)
    assert cold.plan.expected_read_tokens == 0
    assert warm.plan.expected_read_tokens > 1_500
    assert all(mark.warm_probability > 0.9 for mark in warm.plan.breakpoints)
    before, after = (
        next(estimate for estimate in each.decision.estimates if estimate.route == OPUS)
        for each in (cold, warm)
    )
    assert after.expected_cost_nano_usd < after.cold_cost_nano_usd
    assert before.expected_cost_nano_usd == before.cold_cost_nano_usd


@pytest.mark.parametrize("name", REQUESTS)
async def test_explaining_changes_nothing(service: Service, name: str) -> None:
    """Asked twice it says the same; no provider is called, nothing is booked, nothing becomes warm or expected."""
    first = await service.explain(REQUESTS[name]())
    assert await service.explain(REQUESTS[name]()) == first
    assert len(service.invoice) == 0
    assert service.sandbox.census()["billed_requests"] == 0
    assert await service.settlements() == []
    stats = service.ledger.stats()
    assert (stats.intents, stats.settlements) == (0, 0)


async def test_explain_says_why(service: Service) -> None:
    """Score, both prices, plan, features and what would flip the decision are all there for people."""
    explained = await service.explain(REQUESTS["an analysis"]())
    assert explained.decision.HasField("score")
    assert 1 <= len(explained.contributions) <= 20
    magnitudes = [abs(each.contribution) for each in explained.contributions]
    assert magnitudes == sorted(magnitudes, reverse=True)
    text = "\n".join(explained.lines)
    for wanted in ("score", "expected $", "cold $", "would flip"):
        assert wanted in text, text
