"""Warming over a restart, over real gRPC: what lost stays switched off, what was spent stays spent, what was settled is
reported; and what the open facts say of warms."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cache.facts import FactId, Verdict
from router.config import CacheConfig, TelemetryConfig, WarmingConfig
from router.facts_file import FactsFile, write_facts
from router.ledger import Ledger
from router.sandbox import SandboxSettings
from router.settlement import Purpose
from tests.e2e.builders import APPLICATION, START_TIME_S, config
from tests.e2e.service import Service, WatchedClock, serving
from tests.e2e.test_flight import VirtualTimer
from tests.e2e.test_metrics import free_port, scraped
from tests.e2e.test_warming import SAY, SLOW, costs, done, opened, passing, turn, warm_sent, warming, warms
from tests.router.test_facts_file import record


@asynccontextmanager
async def living(ledger: Ledger, port: int = 0, **options: object) -> AsyncIterator[Service]:
    """One life of a service whose ledger outlives it."""
    wanted = WarmingConfig(**({"policy": "session_start", "usd_per_hour": 1000.0} | options))
    telemetry = TelemetryConfig(prometheus_port=port)
    async with serving(
        config(warming=wanted, telemetry=telemetry), settings=SLOW, timer=VirtualTimer, ledger=ledger
    ) as service:
        yield service


async def test_what_lost_stays_switched_off_over_a_restart() -> None:
    """Thirty that nobody came for, then a new process: not one more; its report is the whole ledger's."""
    ledger = Ledger.temporary(clock=WatchedClock(START_TIME_S))
    try:
        async with living(ledger, requests_per_minute=1000.0) as service:
            for number in range(30):
                await opened(service, f"held {number}", f"Known of {number}")
            await passing(service, 400)
            spent = sum(line.cost_nano_usd for line in warms(service))
            before = await costs(service)
        port = free_port()
        async with living(ledger, port, requests_per_minute=1000.0) as service:
            response = await opened(service, "one more", "Known of one more")
            await passing(service, 5)
            assert not response.warm.warmed
            assert "cost more than they brought" in response.warm.reason
            assert warms(service) == []
            report = await costs(service)
            gauges = {
                sample.name: sample.value
                for sample in await scraped(port)
                if "_warm_" in sample.name and not sample.labels
            }
    finally:
        await ledger.close()
    assert report == before
    assert (report.wasted_count, report.switched_off_count) == (30, 1)
    assert report.spent_nano_usd == spent == -report.brought_nano_usd
    assert gauges == {"hybrid_router_warm_open": 0, "hybrid_router_warm_switched_off": 1}


async def test_what_was_spent_stays_spent_over_a_restart() -> None:
    """A process that dies and comes back has the rest of the hour's dollars, not a new hour's."""
    ledger = Ledger.temporary(clock=WatchedClock(START_TIME_S))
    sent = 0.0
    try:
        for life in range(3):
            async with living(ledger, usd_per_hour=0.3) as service:
                for number in range(4):
                    await opened(service, f"held {life} {number}", f"Known of {life} {number}")
                await passing(service, 20)
                sent += sum(line.cost_nano_usd for line in warms(service)) / 1e9
    finally:
        await ledger.close()
    assert 0.1 < sent <= 0.33


async def test_verdicts_are_in_the_ledger_by_the_ids_of_their_calls() -> None:
    """One read and one left: each has its call's request id and cost, its prediction, and whether anybody came."""
    async with warming("session_start") as service:
        for name in ("read", "left"):
            await opened(service, name, f"Known of {name}")
            await passing(service, 3)
        await done(service, service.generate(turn(f"Which tickets are overdue? {SAY}", "read")))
        await passing(service, 310)
        assert (await costs(service)).used_count == 1
        rows = {
            row.group["result"]: row for row in await service.ledger.warms(("result", "policy", "trigger"))
        }
        found = {each.intent.request_id: each for each in await service.settlements()}
        owners = {each.owner for each in await service.ledger.last_warms(10)}
        ids = await service.ledger._read(
            lambda reader: [row[0] for row in reader._connection.execute("SELECT warm_id FROM warms")]
        )
    assert set(rows) == {"used", "wasted"}
    assert rows["used"].group["policy"] == rows["used"].group["trigger"] == "session_start"
    assert rows["used"].came == 1
    assert rows["wasted"].came == 0
    # All but what the estimate of its tokens was off by.
    assert rows["used"].benefit_nano_usd + rows["used"].cost_nano_usd == pytest.approx(
        rows["used"].gain_nano_usd, rel=0.15
    )
    assert rows["wasted"].benefit_nano_usd == -rows["wasted"].cost_nano_usd
    calls = [each for each in found.values() if each.intent.purpose is Purpose.WARM]
    assert set(ids) == {each.intent.request_id for each in calls}
    assert sorted(each.cost.total_nano_usd for each in calls) == sorted(
        row.cost_nano_usd for row in rows.values()
    )
    assert owners == {("acme", APPLICATION)}


async def test_a_model_that_takes_no_call_of_0_tokens_is_warmed_with_one(tmp_path: Path) -> None:
    """Fact A6 measured as no: the provider would refuse 0 tokens; the one it needs is priced, the prefix is read."""
    path = tmp_path / "facts.json"
    write_facts(path, FactsFile(facts=(record(FactId.A6, Verdict.NO, time_s=START_TIME_S - 60),)))
    settings = SandboxSettings(tool_call_chance=0.0, latency_scale=1.0, prewarm_with_adaptive=False)
    async with serving(
        config(
            warming=WarmingConfig(policy="session_start", usd_per_hour=1000.0),
            cache=CacheConfig(facts_file=str(path)),
        ),
        settings=settings,
        timer=VirtualTimer,
    ) as service:
        response = await opened(service)
        await warm_sent(service)
        (warm,) = service.invoice.lines
        assert warm.output_tokens == 1
        assert response.warm.expected_cost_nano_usd == pytest.approx(warm.cost_nano_usd, rel=0.1)
        await done(service, service.generate(turn("Which tickets are overdue?")))
        assert service.invoice.lines[-1].read_tokens == warm.write_5m_tokens + warm.write_1h_tokens
        (settled, _) = await service.settled(2)
        assert settled.cost.total_nano_usd == warm.cost_nano_usd
