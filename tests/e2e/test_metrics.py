"""The Prometheus endpoint, scraped over HTTP while the router runs: money equals the ledger, labels stay few."""

import asyncio
import socket
from collections import defaultdict

import httpx2
import pytest
from google.protobuf.json_format import MessageToDict
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from router.config import TelemetryConfig
from router.sandbox import Fault
from router.v1 import operator_service_pb2 as pb
from tests.e2e.builders import FLASH, OPUS, config, generate, user
from tests.e2e.service import TIMEOUT_S, Service, serving


def free_port() -> int:
    """A loopback port nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


async def scraped(port: int) -> list[Sample]:
    """Every sample of one scrape."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S)
    assert answer.status_code == 200
    return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]


def by_route(samples: list[Sample], name: str) -> dict[str, float]:
    """Sums of one counter by its route label."""
    sums: dict[str, float] = defaultdict(float)
    for sample in samples:
        if sample.name == name:
            sums[sample.labels["hybrid_router_route"]] += sample.value
    return dict(sums)


async def busy(service: Service, count: int) -> None:
    """Calls of many tenants, users and sessions, one of which the caller leaves."""
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            request = generate(
                user(f"Case {number}: which tickets are overdue?"),
                route=(OPUS, FLASH)[number % 2],
                tenant=f"tenant-{number}",
                person=f"user-{number}",
                session=f"session-{number}",
                labels={"team": f"team-{number}"},
            )
            group.create_task(service.stream(request) if number % 3 else service.generate(request))
    service.sandbox.inject(Fault(kind="stall"))
    left = service.router.Generate(
        generate(user("Sum up."), route=OPUS, tenant="tenant-0"), timeout=TIMEOUT_S
    )
    await service.clock.held()
    left.cancel()
    await service.settled(count + 1)


@pytest.fixture
async def scrape() -> tuple[list[Sample], dict[str, pb.CostRow], Service]:
    """One scrape of a router that has served 20 tenants, beside its ledger by route."""
    port = free_port()
    telemetry = TelemetryConfig(prometheus_port=port, tenants=("tenant-0", "tenant-1"))
    async with serving(config(telemetry=telemetry)) as service:
        await busy(service, 20)
        samples = await scraped(port)
        request = pb.GetCostsRequest(dimension=pb.COST_DIMENSION_ROUTE)
        response = await service.operator.GetCosts(request, timeout=TIMEOUT_S)
        return samples, {row.key: row for row in response.rows}, service


async def test_cost_by_route_is_the_ledgers(scrape) -> None:
    """USD by route from /metrics, from GetCosts, and from the providers' invoice are one figure."""
    samples, rows, service = scrape
    costs = by_route(samples, "hybrid_router_cost_total")
    assert set(costs) == set(rows) == {"opus", "flash"}
    for route, upstream in (("opus", "anthropic"), ("flash", "gemini")):
        billed = service.invoice.totals(lambda line, upstream=upstream: line.upstream == upstream)
        assert rows[route].cost.total_nano_usd == billed.cost_nano_usd > 0
        assert costs[route] == pytest.approx(billed.cost_nano_usd / 1e9, rel=1e-9)


async def test_calls_and_unknown_costs_are_counted(scrape) -> None:
    """A call whose cost nobody knows is counted as such in metrics and ledger, and adds nothing to either."""
    samples, rows, _ = scrape
    assert by_route(samples, "hybrid_router_calls_total") == {"opus": 11.0, "flash": 10.0}
    unknown = by_route(samples, "hybrid_router_cost_unknown_calls_total")
    assert unknown.get("opus") == rows["opus"].unknown_cost_count == 1
    assert rows["opus"].unknown_cost_bound_nano_usd > 0
    assert MessageToDict(rows["flash"]).get("unknownCostCount", "0") == "0"


async def test_labels_are_bounded(scrape) -> None:
    """Tenants that were not named share one label; users, sessions, labels and requests are no labels at all."""
    samples, _, _ = scrape
    ours = [sample for sample in samples if sample.name.startswith(("hybrid_router", "gen_ai", "rpc"))]
    assert ours
    tenants = {sample.labels.get("hybrid_router_tenant", "other") for sample in ours}
    assert tenants == {"tenant-0", "tenant-1", "other"}
    values = {value for sample in ours for value in sample.labels.values()}
    assert not [value for value in values if value.startswith(("user-", "session-", "team-"))]
    series = defaultdict(set)
    for sample in ours:
        series[sample.name].add(tuple(sorted(sample.labels.items())))
    assert max(len(found) for name, found in series.items() if not name.endswith("_bucket")) <= 100
