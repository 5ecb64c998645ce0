"""Money in the decision, over real gRPC on the sandbox: what is warm, what a day may cost, and what chance draws."""

import grpc
import pytest

from classifier.exploration import draw_of
from router.config import RoutingConfig, TelemetryConfig
from router.ledger import Ledger
from router.sandbox import VirtualClock
from router.v1 import router_service_pb2 as pb
from router.v1 import routing_pb2
from tests.e2e.builders import (
    FLASH,
    OPUS,
    START_TIME_S,
    config,
    context_of,
    generate,
    prose,
    said,
    tool_call,
    tool_result,
    user,
)
from tests.e2e.service import Service, serving
from tests.e2e.test_metrics import free_port, scraped

HARD = "Prove that the greedy schedule is optimal and derive its competitive ratio, step by step."
VALUE_USD = 0.1


def estimate(decision: routing_pb2.Decision, route: int) -> routing_pb2.RouteEstimate:
    """One route's side of a decision."""
    return next(each for each in decision.estimates if each.route == route)


def cut(decision: routing_pb2.Decision) -> float:
    """The threshold that the prices in the decision make: (Opus - Flash - what Opus leaves warm) / V, in [0, 1]."""
    opus, flash = (estimate(decision, route).expected_cost_nano_usd for route in (OPUS, FLASH))
    extra = opus - flash - decision.opus_leaves_warm_nano_usd
    return min(1.0, max(0.0, extra / decision.answer_value_nano_usd))


async def talk(service: Service, sentence_count: int) -> pb.GenerateRequest:
    """A conversation held on Opus over a long document, warm; and its next turn, which may take either route."""
    document = prose("Clause", sentence_count)
    messages = [user(f"Read this contract and compare its clauses.\n{document}")]
    for number in range(3):
        answered = await service.generate(
            generate(*messages, route=OPUS, session="deep", context=(context_of("ann"),))
        )
        question = "Is clause 9 in it?" if number == 2 else f"And how does clause {number + 7} relate to it?"
        messages += [said(answered.answer), user(question)]
        service.clock.advance(20)
    return generate(*messages, session="deep", context=(context_of("ann"),))


def priced(**settings: object) -> RoutingConfig:
    """Routing with these settings; the fixed threshold stays at one half."""
    return RoutingConfig(threshold=0.5, **settings)


async def test_a_warm_conversation_stays_on_opus_and_a_cold_one_is_not_woken() -> None:
    """The same easy turn of the same conversation: warm, its score passes the cut; five minutes later the history would
    have to be written again, and it does not. Explain tells both cuts, and Generate does what it told."""
    async with serving(config(routing=priced(answer_value_usd=VALUE_USD))) as service:
        request = await talk(service, 400)
        warm = await service.explain(request)
        service.clock.advance(400)
        cold = await service.explain(request)
        answered = await service.generate(request)
    stays, leaves = warm.decision, cold.decision
    assert stays.score == leaves.score < 0.5
    assert (stays.route, leaves.route) == (OPUS, FLASH)
    assert stays.reason == routing_pb2.DECISION_REASON_SCORE_ABOVE_THRESHOLD
    assert leaves.reason == routing_pb2.DECISION_REASON_SCORE_BELOW_THRESHOLD
    for decision in (stays, leaves):
        assert decision.answer_value_nano_usd == VALUE_USD * 1e9
        assert decision.threshold == pytest.approx(cut(decision))
        assert decision.opus_leaves_warm_nano_usd > 0
    # The whole hysteresis is the write premium of what lapsed.
    opus = [estimate(decision, OPUS).expected_cost_nano_usd for decision in (stays, leaves)]
    assert leaves.threshold - stays.threshold >= 0.5 * (opus[1] - opus[0]) / (VALUE_USD * 1e9)
    assert opus[1] > 3 * opus[0]
    for explained in (warm, cold):
        assert f"against threshold {explained.decision.threshold:.3f}" in explained.lines[0]
        assert any("the cache Opus leaves warm $0.0" in line for line in explained.lines)
        assert any(line.startswith("would flip: a score") for line in explained.lines)
    assert answered.decision == leaves


async def test_a_deep_warm_conversation_is_cheaper_on_opus_than_on_flash() -> None:
    """Cost inversion: reading 29,000 warm tokens on Opus costs less than sending them to Flash; Explain says so, also
    under the fixed threshold, and once they are cold again it is not so."""
    async with serving(config(routing=priced())) as service:
        request = await talk(service, 900)
        warm = await service.explain(request)
        service.clock.advance(400)
        cold = await service.explain(request)
    assert (warm.decision.route, warm.decision.reason) == (OPUS, routing_pb2.DECISION_REASON_COST_INVERSION)
    opus, flash = (estimate(warm.decision, route) for route in (OPUS, FLASH))
    assert opus.expected_cost_nano_usd <= flash.expected_cost_nano_usd
    assert opus.cold_cost_nano_usd > 5 * flash.cold_cost_nano_usd
    assert "would flip: Opus expected to cost more than Flash: score_below_threshold would choose flash" in (
        warm.lines
    )
    assert (cold.decision.route, cold.decision.threshold) == (FLASH, 0.5)
    assert not cold.decision.HasField("answer_value_nano_usd")


async def test_a_spent_budget_sends_what_is_free_to_flash_and_refuses_nothing() -> None:
    """Opus until the day's money is gone, then Flash with its reason; forced routes and tool loops are served; at
    midnight Opus is back. The ledger has the decision."""
    async with serving(config(routing=priced(budget_usd_per_day=0.1))) as service:
        reasons = []
        for number in range(24):
            answered = await service.generate(generate(user(f"{HARD} Case {number}.")))
            reasons.append((answered.decision.route, answered.decision.reason))
            service.clock.advance(5)
        assert reasons[0][0] == OPUS
        assert reasons[-1] == (FLASH, routing_pb2.DECISION_REASON_BUDGET)
        explained = await service.explain(generate(user(HARD)))
        assert explained.decision.reason == routing_pb2.DECISION_REASON_BUDGET
        assert any("a budget with room for Opus" in line for line in explained.lines)
        settled = await service.settlements()
        of_opus = sum(each.cost.total_nano_usd for each in settled if each.intent.route == "opus")
        assert of_opus <= 0.1e9, "Flash is served beyond the budget, Opus is not"
        forced = await service.generate(generate(user(HARD), route=OPUS))
        assert forced.decision.reason == routing_pb2.DECISION_REASON_FORCED
        call = tool_call("c1", "read_account")
        call.parts[0].tool_call.model = "claude-opus-5-5"
        looping = await service.generate(
            generate(user("Sum up account A-17."), call, tool_result("c1", "12.00 EUR"))
        )
        assert (looping.decision.route, looping.decision.reason) == (
            OPUS,
            routing_pb2.DECISION_REASON_TOOL_LOOP,
        )
        service.clock.advance(14 * 3600)
        assert (await service.explain(generate(user(HARD)))).decision.route == OPUS
        last = (await service.settlements())[23]
    assert last.decision is not None
    assert (last.decision.reason, last.decision.explored) == ("budget", False)
    assert last.decision.answer_value_nano_usd is not None


async def test_the_budget_can_be_watched() -> None:
    """Limit, spent and what an answer may cost are gauges; spent is what the ledger booked."""
    port = free_port()
    settings = config(
        routing=priced(budget_usd_per_day=2.0, opus_share_limit=0.3),
        telemetry=TelemetryConfig(prometheus_port=port),
    )
    async with serving(settings) as service:
        for _ in range(3):
            await service.generate(generate(user(HARD)))
        found = {
            (sample.name, sample.labels["hybrid_router_budget_part"]): sample.value
            for sample in await scraped(port)
            if sample.name.startswith("hybrid_router_budget")
        }
        spent = sum(each.cost.total_nano_usd for each in await service.settlements() if each.cost)
    assert found["hybrid_router_budget_amount", "limit"] == 2.0
    assert found["hybrid_router_budget_amount", "spent"] == pytest.approx(spent / 1e9)
    assert found["hybrid_router_budget_amount", "in_progress"] == 0
    assert {part for name, part in found if name == "hybrid_router_budget_answer_value"} == {
        "day",
        "opus_share",
    }


async def test_a_restart_does_not_spend_the_day_twice() -> None:
    """The second process begins with what the first one booked."""
    ledger = Ledger.temporary(clock=VirtualClock(START_TIME_S))
    settings = config(routing=priced(budget_usd_per_day=0.06))
    try:
        async with serving(settings, ledger=ledger) as first:
            for number in range(6):
                await first.generate(generate(user(f"{number}. {HARD}"), route=OPUS))
        await ledger.flush()
        async with serving(settings, ledger=ledger) as second:
            explained = await second.explain(generate(user(HARD)))
        async with serving(settings) as fresh:
            anew = await fresh.explain(generate(user(HARD)))
    finally:
        await ledger.close()
    assert explained.decision.reason == routing_pb2.DECISION_REASON_BUDGET
    assert anew.decision.route == OPUS


async def test_exploration_draws_by_the_booked_id_and_explain_tells_its_chance() -> None:
    """Half of the requests drawn: marked, with the propensity of the mix, by a draw that the ledger's id gives again;
    Explain shows the decision without a draw and says what a draw could change; who forbids it is not drawn."""
    async with serving(config(routing=priced(exploration_share=0.5))) as service:
        request = generate(user("List my open tickets."))
        explained = await service.explain(request)
        assert explained.decision.reason == routing_pb2.DECISION_REASON_SCORE_BELOW_THRESHOLD
        assert explained.decision.propensity == 0.75
        assert "exploration may take opus instead, with probability 0.25" in explained.lines
        for _ in range(30):
            await service.generate(request)
        kept = generate(user("List my open tickets."))
        kept.constraints.no_exploration = True
        for _ in range(10):
            answered = await service.generate(kept)
            assert (answered.decision.route, answered.decision.propensity) == (FLASH, 1.0)
        booked = await service.settlements()
    drawn = [each for each in booked if each.decision is not None and each.decision.explored]
    assert {each.decision.route for each in drawn if each.decision} == {"flash", "opus"}
    for each in booked[:30]:
        draw, decision = draw_of(each.intent.request_id), each.decision
        assert decision is not None
        assert decision.explored == (draw < 0.5)
        assert decision.reason == ("exploration" if draw < 0.5 else "score_below_threshold")
        assert (decision.route, decision.propensity) == (("opus", 0.25) if draw < 0.25 else ("flash", 0.75))


async def test_a_repeated_id_of_the_callers_own_is_drawn_anew() -> None:
    """A caller cannot choose its draw: the id it sends gets a random suffix first."""
    async with serving(config(routing=priced(exploration_share=0.5))) as service:
        for _ in range(24):
            await service.router.Generate(
                generate(user("List my open tickets.")),
                metadata=grpc.aio.Metadata(("x-request-id", "mine")),
                timeout=10,
            )
        booked = await service.settlements()
    assert {each.decision.explored for each in booked if each.decision} == {True, False}
