"""The Prometheus endpoint, scraped over HTTP while the router runs: money equals the ledger, labels stay few."""

import asyncio
import socket
from collections import defaultdict

import httpx2
import pytest
from google.protobuf.json_format import MessageToDict
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from classifier.route import Route
from router.config import TelemetryConfig
from router.sandbox import Fault
from router.v1 import accounting_pb2
from router.v1 import operator_service_pb2 as pb
from tests.e2e.builders import FLASH, OPUS, config, context_of, generate, user
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


async def test_users_series_start_at_0() -> None:
    """Before the first request, both routes' calls, unknown costs and misses are there to grow from."""
    port = free_port()
    async with serving(config(telemetry=TelemetryConfig(prometheus_port=port))):
        samples = await scraped(port)
    for name in ("calls", "tokens", "cost", "cost_unknown_calls", "cache_calls"):
        assert by_route(samples, f"hybrid_router_{name}_total") == {"opus": 0.0, "flash": 0.0}, name
    assert by_route(samples, "hybrid_router_cache_lost_cost_total") == {"opus": 0.0}
    started = [sample for sample in samples if sample.name.endswith("_total") and not sample.value]
    assert len(started) <= 400


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


# --- calibration


def belief_tested(accounting: accounting_pb2.Accounting) -> tuple[float, bool] | None:
    """(chance given, whether it held) of the deepest prefix an answer's plan believed warm; None for no belief."""
    warm = [mark for mark in accounting.cache_report.plan.breakpoints if mark.warm_probability > 0]
    if not warm:
        return None
    return warm[-1].warm_probability, accounting.usage.cache_read_tokens >= 0.95 * warm[-1].prefix_tokens


async def worked(service: Service) -> list[tuple[float, bool]]:
    """Opus calls of two users, some after the TTL, some after the provider dropped everything; the beliefs tested."""
    tested = []
    for number in range(24):
        service.clock.advance(400 if number % 7 == 6 else 30)
        if number % 4 == 3:
            service.sandbox.reset()
        person = ("ann", "bob")[number % 3 == 0]
        request = generate(
            user(f"Case {number}: which tickets are overdue?"),
            route=OPUS,
            strategy=accounting_pb2.CACHE_STRATEGY_B,
            context=(context_of(person),),
            labels={"team": ("search", "reports", "")[number % 3]},
        )
        found = belief_tested((await service.generate(request)).accounting)
        if found is not None:
            tested.append(found)
    return tested


async def test_exported_calibration_is_what_the_answers_say() -> None:
    """Over evictions and lapses, /metrics and ListPrefixes hold the table that the answers themselves give."""
    port = free_port()
    async with serving(config(telemetry=TelemetryConfig(prometheus_port=port))) as service:
        tested = await worked(service)
        samples = await scraped(port)
        listed = await service.operator.ListPrefixes(pb.ListPrefixesRequest(), timeout=TIMEOUT_S)
        model = service.app.upstreams[Route.OPUS].model
    assert 8 <= len(tested) < 24
    assert 3 <= sum(held for _, held in tested) <= len(tested) - 3, "the workload has hits and evictions"
    table: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for chance, held in tested:
        table[f"{min(int(chance * 10), 9) / 10:.1f}"].append((chance, held))
    for name, of in (
        ("tested", len),
        ("held", lambda found: sum(held for _, held in found)),
        ("predicted", lambda found: sum(chance for chance, _ in found)),
    ):
        exported = {
            sample.labels["hybrid_router_bin"]: sample.value
            for sample in samples
            if sample.name == f"hybrid_router_cache_belief_{name}_total"
            and sample.labels["hybrid_router_model"] == model
            and sample.value
        }
        assert exported == pytest.approx({low: of(found) for low, found in table.items() if of(found)})
    brier = sum((chance - held) ** 2 for chance, held in tested) / len(tested)
    (gauge,) = [sample for sample in samples if sample.name == "hybrid_router_cache_belief_brier"]
    assert (gauge.labels, gauge.value) == ({"hybrid_router_model": model}, pytest.approx(brier))
    opus, flash = listed.calibrations
    assert (opus.model, opus.tested_count, opus.brier) == (model, len(tested), pytest.approx(brier))
    assert not flash.HasField("brier")
    assert not flash.tested_count
    assert [(f"{tenth.low:.1f}", tenth.belief_count) for tenth in opus.bins] == [
        (low, len(table[low])) for low in sorted(table)
    ]
    for tenth in opus.bins:
        found = table[f"{tenth.low:.1f}"]
        assert tenth.mean_predicted == pytest.approx(sum(chance for chance, _ in found) / len(found))
        assert tenth.held_share == pytest.approx(sum(held for _, held in found) / len(found))


# --- buckets


async def test_buckets_equal_the_ledger_by_label() -> None:
    """Input tokens, input cost and its baseline by bucket are those of GetCosts by the label; the rest is apart."""
    port = free_port()
    telemetry = TelemetryConfig(prometheus_port=port, bucket_label="team", buckets=("search",))
    async with serving(config(telemetry=telemetry)) as service:
        await worked(service)
        samples = await scraped(port)
        request = pb.GetCostsRequest(dimension=pb.COST_DIMENSION_LABEL, label_key="team")
        response = await service.operator.GetCosts(request, timeout=TIMEOUT_S)
    rows = {{"search": "search", "reports": "other", "": "none"}[row.key]: row for row in response.rows}
    assert len(rows) == 3

    def value(name: str, bucket: str, **labels: str) -> float:
        wanted = {"hybrid_router_bucket": bucket, **labels}
        return sum(
            sample.value
            for sample in samples
            if sample.name == f"hybrid_router_bucket_{name}_total" and wanted.items() <= sample.labels.items()
        )

    for bucket, row in rows.items():
        assert value("calls", bucket) == row.call_count == 8
        assert value("input_tokens", bucket) == row.usage.input_tokens
        read = value("input_tokens", bucket, hybrid_router_kind="cache_read")
        assert read == row.usage.cache_read_tokens > 0
        output = row.cost.output_nano_usd + row.cost.thinking_nano_usd
        paid, baseline = value("input_cost", bucket), value("baseline_input_cost", bucket)
        assert paid == pytest.approx((row.cost.total_nano_usd - output) / 1e9, rel=1e-12)
        saved = row.no_caching.baseline_nano_usd - row.no_caching.cost_nano_usd
        assert baseline - paid == pytest.approx(saved / 1e9, abs=1e-12)
