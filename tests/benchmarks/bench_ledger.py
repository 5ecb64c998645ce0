"""CPU cost of money per request: price, cost, intent, settlement, and the writer's thread behind them.

Run: `python -m tests.benchmarks.bench_ledger [--json] [--directory DIR] [--url URL]`. CPU time, best of several rounds.
"Loop" is what the calling thread spends; "all" adds the writer's thread, journal sync and commits included.
Paced rounds spread requests over time as traffic does, so that every batch pays for its own commit; an
equally paced loop without a ledger is subtracted. "Rows a second" is wall time until all of a burst is committed. With
--url the ledger is on that PostgreSQL server, each burst in a schema of its own that is dropped again, and "all" leaves
out what the server itself spends. Exit code 1 when intent + settlement take more than 60 us
of the loop.
"""

import argparse
import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time, thread_time
from uuid import uuid4

import psycopg
from msgspec.structs import replace

from router.clock import SystemClock
from router.cost import cost, counterfactuals
from router.ledger import Ledger, Server
from router.pricing import PriceTable
from router.prompt_body import HAS_BLOCKS, HAS_PARENT, NAME_BYTES, VERSION
from router.settlement import CacheRecord, DecisionRecord, Intent, Outcome, Purpose, Settlement
from router.usage import Usage

TARGET_LOOP_US = 60.0
AT_S = 1_795_305_600.0
USAGE = Usage(
    input_tokens=25_050,
    cache_write_5m_tokens=1_000,
    cache_write_1h_tokens=4_000,
    cache_read_tokens=20_000,
    output_tokens=300,
    thinking_tokens=100,
)
ON_FLASH = Usage(input_tokens=21_000, output_tokens=280)


def pairs(count: int, table: PriceTable) -> list[tuple[Intent, Settlement]]:
    """Return intents and settlements of so many streamed Opus calls, no two alike."""
    price = table.price("claude-opus-5-5", AT_S)
    other = table.price("gemini-3.8-flash", AT_S)
    intent = Intent(
        request_id="",
        attempt=1,
        purpose=Purpose.USER,
        route="opus",
        upstream="anthropic",
        model="claude-opus-5-5",
        tenant="acme",
        application="helpdesk",
        user="user-17",
        session="session-5",
        labels={"team": "search", "environment": "production"},
        stream=True,
        started_time_s=AT_S,
        cost_bound_nano_usd=500_000_000,
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    settlement = Settlement(
        intent=intent,
        outcome=Outcome.OK,
        settled_time_s=AT_S + 3,
        duration_s=3.0,
        first_byte_s=0.7,
        usage=USAGE,
        cost=cost(USAGE, price),
        counterfactuals=counterfactuals(
            USAGE, price, answered_by_opus=True, other=ON_FLASH, other_price=other
        ),
        answered_model="claude-opus-5-5",
        response_id="msg_01XFDUDYJgAACzvnptvVoYEL",
        upstream_request_id="req_018EeWyXxfu5pfWkrYcMdjWG",
        finish_reason="end_turn",
        decision=DecisionRecord(
            route="opus",
            reason="score_above_threshold",
            score=0.83,
            threshold=0.5,
            propensity=1.0,
            model_digest="sha256:8f434346648f6b96",
            expected_flash_nano_usd=16_800_000,
            expected_opus_nano_usd=47_000_000,
        ),
        cache=CacheRecord(strategy="c", breakpoint_count=3, expected_read_tokens=20_000),
    )
    intents = [
        replace(intent, request_id=f"0193a1c2-{i:08x}-7d3e", started_time_s=AT_S + i) for i in range(count)
    ]
    return [
        (intent, replace(settlement, intent=intent, prefix=_turn_after(number)))
        for number, intent in enumerate(intents)
    ]


def _turn_after(number: int) -> bytes:
    """What is kept of the prompt of a turn: all of an earlier prompt, an answer and a question."""
    parent, answer, turn = (
        (value * 0x9E37_79B9_7F4A_7C15 % 2**64).to_bytes(NAME_BYTES, "big")  # as scattered as digests
        for value in (3 * number, 3 * number + 1, 3 * number + 3)
    )
    head = bytes((VERSION | HAS_PARENT | HAS_BLOCKS,)) + parent + bytes((9, 1, 3, 3, 4, 8, 16))
    return head + bytes((0x37, 90)) + answer + bytes((0x2F, 40)) + turn


def per_call_us(function: Callable[[], object], rounds: int = 5, calls: int = 20_000) -> float:
    """Return the CPU time of one call in microseconds, best of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = process_time()
        for _ in range(calls):
            function()
        best = min(best, process_time() - start)
    return best / calls * 1e6


@contextmanager
def opened(directory: Path, url: str) -> Iterator[Ledger]:
    """A new ledger in a directory, with its database there, or in a new schema on a server."""
    if not url:
        ledger = Ledger.open(directory, clock=SystemClock())
        yield ledger
        ledger.close_blocking()
        return
    schema = f"bench_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        options = f"{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"
        ledger = Ledger.open(directory, clock=SystemClock(), server=Server(url + options))
        yield ledger
        ledger.close_blocking()
        connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())


def burst(
    directory: Path, batch: Sequence[tuple[Intent, Settlement]], url: str
) -> tuple[float, float, float]:
    """Journal and settle without a pause; return microseconds of CPU per request, loop and all, and rows a second."""
    with opened(directory, url) as ledger:
        return _burst(ledger, batch)


def _burst(ledger: Ledger, batch: Sequence[tuple[Intent, Settlement]]) -> tuple[float, float, float]:
    all_start, loop_start, start = process_time(), thread_time(), perf_counter()
    for intent, settlement in batch:
        ledger.journal_intent(intent)
        ledger.settle(settlement)
    loop_s = thread_time() - loop_start
    ledger.flush_blocking()
    all_s, wall_s = process_time() - all_start, perf_counter() - start
    return loop_s / len(batch) * 1e6, all_s / len(batch) * 1e6, len(batch) / wall_s


async def paced(
    ledger: Ledger | None, batch: Sequence[tuple[Intent, Settlement]], rate: float
) -> tuple[float, float]:
    """Journal and settle `rate` requests a second; without a ledger only keep the pace."""
    start = perf_counter()
    all_start, loop_start = process_time(), thread_time()
    for number, (intent, settlement) in enumerate(batch):
        await asyncio.sleep(max(0.0, start + number / rate - perf_counter()))
        if ledger is not None:
            ledger.journal_intent(intent)
            ledger.settle(settlement)
    loop_s = thread_time() - loop_start
    if ledger is not None:
        await ledger.flush()
    all_s = process_time() - all_start
    return loop_s / len(batch) * 1e6, all_s / len(batch) * 1e6


def measure(directory: Path, url: str) -> dict[str, float]:
    """Return every figure, microseconds of CPU per request but for the rows a second."""
    table = PriceTable()
    price = table.price("claude-opus-5-5", AT_S)
    other = table.price("gemini-3.8-flash", AT_S)
    figures = {
        "price": per_call_us(
            lambda: table.price("claude-opus-5-5", AT_S, speed="standard", inference_geo="global")
        ),
        "cost": per_call_us(lambda: cost(USAGE, price)),
        "counterfactuals": per_call_us(
            lambda: counterfactuals(USAGE, price, answered_by_opus=True, other=ON_FLASH, other_price=other)
        ),
    }
    bursts = [burst(directory / f"burst-{i}", pairs(10_000, table), url) for i in range(3)]
    figures["burst_loop"] = min(loop for loop, _, _ in bursts)
    figures["burst_all"] = min(both for _, both, _ in bursts)
    figures["burst_rows_per_s"] = max(rows for _, _, rows in bursts)
    for rate in (50, 400):
        batch = pairs(rate * 3, table)
        idle = asyncio.run(paced(None, batch, rate))
        with opened(directory / f"paced-{rate}", url) as ledger:
            busy = asyncio.run(paced(ledger, batch, rate))
        figures[f"paced_{rate}_loop"] = busy[0] - idle[0]
        figures[f"paced_{rate}_all"] = busy[1] - idle[1]
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--directory", type=Path, help="where to make the ledgers (default: a temporary one)")
    parser.add_argument("--url", default="", help="keep the ledgers on this PostgreSQL server")
    options = parser.parse_args(arguments)
    gc.disable()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        figures = measure(Path(directory), options.url)
    if options.json:
        print(json.dumps({name: round(us, 3) for name, us in figures.items()}))
    else:
        for name, us in figures.items():
            print(f"{name:<18}{us:9.2f} {'' if name.endswith('_per_s') else 'us'}")
    return 0 if figures["burst_loop"] <= TARGET_LOOP_US else 1


if __name__ == "__main__":
    sys.exit(main())
