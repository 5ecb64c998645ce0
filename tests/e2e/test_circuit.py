"""The circuit breaker and hedging through the whole service: what callers, Explain, traces and /metrics are shown."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from router import attributes as names
from router.config import RoutingConfig, TelemetryConfig
from router.sandbox import Fault
from router.v1 import routing_pb2
from tests.e2e.builders import FLASH, OPUS, config, generate, user
from tests.e2e.collector import tapped
from tests.e2e.service import TIMEOUT_S, detail, serving, status_of
from tests.e2e.test_metrics import free_port, scraped

ROUTING = RoutingConfig(threshold=1.0, retry_limit=0, circuit_failures_in_a_row=3, circuit_probe_limit=1)


async def test_a_failing_provider_is_left_alone_until_it_answers_again() -> None:
    """Three failures open the circuit: CIRCUIT_OPEN decides, a forced route hears when to retry, a probe closes it."""
    port = free_port()
    settings = config(routing=ROUTING, telemetry=TelemetryConfig(prometheus_port=port))
    async with serving(settings) as service:
        states = await _states(port)
        assert states == {"flash": 0.0, "opus": 0.0}
        service.sandbox.inject(Fault(kind="internal", upstream="gemini", times=3))
        for number in range(3):
            response = await service.generate(generate(user(f"Case {number}: which tickets are open?")))
            assert response.decision.reason == routing_pb2.DECISION_REASON_FALLBACK
        response = await service.generate(generate(user("And now?")))
        assert response.decision.reason == routing_pb2.DECISION_REASON_CIRCUIT_OPEN
        assert [attempt.route for attempt in response.accounting.attempts] == [OPUS]
        explained = await service.explain(generate(user("Why?")))
        (flash,) = [each for each in explained.decision.estimates if each.route == FLASH]
        assert not flash.available
        assert "its circuit is open" in flash.unavailable_reason
        assert any("its circuit is open" in line for line in explained.lines)
        intents = service.ledger.stats().intents
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.generate(generate(user("Flash, please."), route=FLASH))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        status = status_of(caught.value)
        assert detail(status, ErrorInfo).reason == "CIRCUIT_OPEN"
        assert detail(status, RetryInfo).retry_delay.seconds == 10
        assert service.ledger.stats().intents == intents, "nothing was sent"
        assert await _states(port) == {"flash": 2.0, "opus": 0.0}
        service.clock.advance(10.0)
        assert await _states(port) == {"flash": 1.0, "opus": 0.0}
        await service.generate(generate(user("Flash, please."), route=FLASH))
        assert await _states(port) == {"flash": 0.0, "opus": 0.0}


async def _states(port: int) -> dict[str, float]:
    return {
        sample.labels["hybrid_router_route"]: sample.value
        for sample in await scraped(port)
        if sample.name == "hybrid_router_circuit_state"
    }


SAMPLED = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


@pytest.mark.parametrize(
    ("routing", "fault", "attempts"),
    [
        (
            RoutingConfig(threshold=1.0, hedge_after_s=0.001),
            Fault(kind="stall"),
            {"1": "cancelled", "2": "ok"},
        ),
        (
            RoutingConfig(threshold=1.0),
            Fault(kind="internal", upstream="gemini", times=2),
            {"1": "refused", "2": "refused", "3": "ok"},
        ),
    ],
    ids=["hedged", "retried and fallen back"],
)
async def test_every_attempt_is_a_span_and_a_row(
    routing: RoutingConfig, fault: Fault, attempts: dict
) -> None:
    """Of a hedged call both, of a retried one each: child spans of the server span, and settled intents."""
    async with tapped() as tap:
        async with serving(config(routing=routing), environ=tap.environ) as service:
            service.sandbox.inject(fault)
            request = generate(user("Which tickets are open?"))
            response = await service.router.Generate(request, timeout=TIMEOUT_S, metadata=SAMPLED)
            settlements = await service.settled(len(attempts))
            billed = service.invoice.totals().cost_nano_usd
        spans = tap.spans()
    assert {str(each.intent.attempt): each.outcome.value for each in settlements} == attempts
    assert len(response.accounting.attempts) == len(attempts)
    (server,) = [span for span in spans if span.kind == "SERVER"]
    calls = [span for span in spans if span.kind == "CLIENT"]
    assert {str(span.attributes[names.ATTEMPT]): span.attributes[names.OUTCOME] for span in calls} == attempts
    assert {span.parent_span_id for span in calls} == {server.span_id}
    booked = sum(each.cost.total_nano_usd for each in settlements if each.cost is not None)
    assert booked == billed > 0
    unknown = [each for each in settlements if each.cost is None]
    assert all(each.intent.cost_bound_nano_usd for each in unknown)
    assert response.accounting.HasField("total_nano_usd") == (not unknown)
