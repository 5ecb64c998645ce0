"""CPU cost of telemetry per request: the facade alone, and a gRPC echo with our interceptor and without.

Run: `python -m tests.benchmarks.bench_telemetry [--json]`. Process CPU time, best of several rounds; the echo
counts client and server, which share the process, so only the differences mean something. Exit code 1 when
the facade with metrics and unsampled spans takes more than the 40 us a request may spend on it.
"""

import argparse
import asyncio
import gc
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from time import process_time
from typing import Any

import grpc
from opentelemetry.trace import use_span

from router.cost import Cost, Counterfactuals
from router.interceptors import ServerInterceptor
from router.settlement import CacheRecord, DecisionRecord, Intent, Outcome, Purpose, Settlement
from router.telemetry import Telemetry, TelemetrySettings
from router.telemetry.settings import OtlpTarget
from router.usage import Usage

TARGET_US = 40.0
METHOD = "bench.v1.Echo/Echo"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

DECISION = DecisionRecord(
    route="opus",
    reason="score_above_threshold",
    score=0.83,
    threshold=0.5,
    propensity=1.0,
    model_digest="sha256:77",
    expected_flash_nano_usd=1_000,
    expected_opus_nano_usd=30_000_000,
)
SETTLEMENT = Settlement(
    intent=Intent(
        request_id="req-1",
        attempt=1,
        purpose=Purpose.USER,
        route="opus",
        upstream="anthropic",
        model="claude-opus-5-5",
        tenant="acme",
        application="assistant",
        user="u-1",
        session="s-1",
        labels={},
        stream=False,
        started_time_s=1000.0,
        cost_bound_nano_usd=90_000_000,
    ),
    outcome=Outcome.OK,
    settled_time_s=1002.0,
    duration_s=2.0,
    first_byte_s=0.4,
    usage=Usage(
        input_tokens=10_000,
        cache_read_tokens=8_000,
        cache_write_5m_tokens=1_000,
        output_tokens=500,
        thinking_tokens=200,
    ),
    cost=Cost(
        uncached_input_nano_usd=5_000_000,
        cache_write_5m_nano_usd=6_250_000,
        cache_read_nano_usd=4_000_000,
        output_text_nano_usd=7_500_000,
        thinking_nano_usd=5_000_000,
    ),
    counterfactuals=Counterfactuals(
        no_caching_nano_usd=62_500_000,
        all_opus_nano_usd=27_750_000,
        all_flash_nano_usd=3_000_000,
        all_opus_no_caching_nano_usd=62_500_000,
    ),
    answered_model="claude-opus-5-5",
    response_id="msg_1",
    finish_reason="end_turn",
    decision=DECISION,
    cache=CacheRecord(strategy="auto", breakpoint_count=3, expected_read_tokens=9_000, miss_cause="ttl"),
)


class Opus:
    """An upstream as telemetry sees it."""

    name = "anthropic"
    provider_name = "anthropic"
    operation = "chat"
    model = "claude-opus-5-5"
    server_address = "api.anthropic.com"
    server_port = 443


def request(telemetry: Telemetry, traceparent: str) -> None:
    """Everything one unary request tells telemetry."""
    server = telemetry.start_server_span(METHOD, traceparent, "", lambda: "ipv4:127.0.0.1:5000")
    with use_span(server, record_exception=False, set_status_on_exception=False):
        with telemetry.classify():
            pass
        with telemetry.plan():
            pass
        telemetry.record_decision(DECISION)
        inference = telemetry.start_inference(Opus(), route="opus")
        with telemetry.settle():
            telemetry.end_inference(inference, SETTLEMENT)
            telemetry.record_settlement(SETTLEMENT)
        telemetry.annotate_server_span(server, DECISION, [SETTLEMENT], application="assistant", tenant="acme")
    telemetry.end_server_span(server, "OK", "")
    telemetry.record_rpc(METHOD, "OK", "", 2.0)


def settings(**changes: object) -> TelemetrySettings:
    """Metrics on, spans created and exported nowhere: the collector's port is closed and never flushed to."""
    base = TelemetrySettings(
        traces=OtlpTarget(endpoint="http://127.0.0.1:9", timeout_s=0.1),
        metrics=OtlpTarget(endpoint="http://127.0.0.1:9", timeout_s=0.1),
        metrics_period_s=3600.0,
        schedule_delay_s=3600.0,
        sampler="parentbased_always_off",
        queue_size=1_000_000,
        batch_size=1_000_000,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


async def facade(telemetry: Telemetry, traceparent: str, rounds: int = 7, count: int = 3000) -> float:
    """Microseconds of CPU per request of the facade alone."""
    telemetry.add_target(Opus())

    async def some() -> None:
        for _ in range(count):
            request(telemetry, traceparent)

    best = await _best(some, rounds)
    await telemetry.shutdown(timeout_s=0.1)
    return best / count * 1e6


async def echo(
    interceptors: Sequence[grpc.aio.ServerInterceptor], rounds: int = 7, count: int = 1500
) -> float:
    """Microseconds of CPU, client and server, per unary echo, 8 at a time."""

    async def answer(message: bytes, context: object) -> bytes:
        return message

    server = grpc.aio.server(interceptors=list(interceptors))
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bench.v1.Echo", {"Echo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(f"/{METHOD}")

        async def client() -> None:
            for _ in range(count // 8):
                await call(b"x" * 200)

        async def some() -> None:
            async with asyncio.TaskGroup() as clients:
                for _ in range(8):
                    clients.create_task(client())

        best = await _best(some, rounds)
    await server.stop(0)
    return best / (count // 8 * 8) * 1e6


async def _best(some: Callable[[], Awaitable[None]], rounds: int) -> float:
    await some()
    best = float("inf")
    for _ in range(rounds):
        gc.collect()
        started_s = process_time()
        await some()
        best = min(best, process_time() - started_s)
    return best


async def measure() -> dict[str, float]:
    """Return microseconds of CPU per request by case."""
    found = {
        "facade, off": await facade(Telemetry.off(), ""),
        "facade, metrics, unsampled": await facade(Telemetry.build(settings()), ""),
        "facade, metrics, unsampled by the caller": await facade(Telemetry.build(settings()), UNSAMPLED),
        "facade, metrics, five spans recorded": await facade(
            Telemetry.build(settings(sampler="always_on")), "", rounds=3, count=1000
        ),
        "echo, bare": await echo([]),
    }
    for name, telemetry in (
        ("echo, interceptor, telemetry off", Telemetry.off()),
        ("echo, interceptor, metrics, unsampled", Telemetry.build(settings())),
        ("echo, interceptor, metrics, recorded", Telemetry.build(settings(sampler="always_on"))),
    ):
        found[name] = await echo([ServerInterceptor(telemetry, max_in_flight=100)])
        await telemetry.shutdown(timeout_s=0.1)
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and say by the exit code whether the target holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, microseconds by case")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # nobody listens at the exporters' port, and the SDK says so
    found = asyncio.run(measure())
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in found.items()}))
    else:
        for name, value in found.items():
            print(f"{name:44s} {value:8.1f} us")
    return 0 if found["facade, metrics, unsampled"] <= TARGET_US else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
