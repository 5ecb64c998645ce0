"""Time and CPU of questions to a big ledger: the report page, overhead, costs, and bringing an older one up to date.

Run: `python -m tests.benchmarks.bench_report [--calls N] [--directory DIR] [--make-only] [--json]`. A ledger that is in
the directory already is used as it is, after it was brought to this release's schema, which is measured too; else one
of N calls over 30 days is made through the store: both routes, retries, discarded answers, warms, probes, shadow calls,
exploration, misses, feedback, calls of unknown cost and floors. Nothing is random: the same calls every time.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from msgspec.structs import replace

from router.cost import Cost, Counterfactuals
from router.feedback import Feedback, Verdict
from router.ledger import DATABASE, Filter, LedgerReader, codec
from router.ledger.codec import IntentRecord, SettlementRecord
from router.ledger.sqlite import SqliteStore
from router.overhead import overhead_of
from router.page import figures, layout
from router.settlement import (
    CacheRecord,
    DecisionRecord,
    Intent,
    MissRecord,
    Outcome,
    Purpose,
    Settlement,
)
from router.usage import Usage

START_S = 1_795_305_600.0
DAYS = 30
_BATCH = 2_000
_FEATURES = "".join(random.Random(5).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=600))


def calls(count: int) -> Iterator[Settlement]:
    """Yield so many settled attempts by start, no two alike."""
    draw = random.Random(7)
    made = request = 0
    while made < count:
        request += 1
        started_s = START_S + DAYS * 86_400.0 * made / count
        for settlement in _request(draw, request, started_s):
            made += 1
            yield settlement


def _request(draw: random.Random, number: int, started_s: float) -> Iterator[Settlement]:
    request_id = f"{number:08x}-1c2d-7e3f-8a9b-{number * 2_654_435_761 % 2**48:012x}"
    kind, application = draw.random(), draw.randrange(60)
    intent = Intent(
        request_id=request_id,
        attempt=1,
        purpose=Purpose.USER,
        route="opus" if draw.random() < 0.3 else "flash",
        upstream="",
        model="",
        tenant=f"tenant-{application % 20}",
        application=f"application-{application}",
        user=f"user-{draw.randrange(5_000)}",
        session=f"session-{draw.randrange(40_000)}" if draw.random() < 0.8 else "",
        labels={"team": f"team-{application % 7}", "environment": "production"},
        stream=draw.random() < 0.7,
        started_time_s=started_s,
        cost_bound_nano_usd=500_000_000,
        trace_id=sha256(request_id.encode()).hexdigest()[:32],
    )
    if kind < 0.02:
        yield _settled(draw, replace(intent, purpose=Purpose.WARM, route="opus", session=""))
    elif kind < 0.022:
        yield _settled(draw, replace(intent, purpose=Purpose.PROBE, route="opus", session=""))
    elif kind < 0.03:
        yield _settled(draw, replace(intent, purpose=Purpose.SHADOW))
    elif kind < 0.04:
        yield _failed(draw, intent, Outcome.REFUSED)
        yield _settled(draw, replace(intent, attempt=2, started_time_s=started_s + 1))
    elif kind < 0.045:
        yield replace(_settled(draw, replace(intent, route="flash")), discarded="empty_answer")
        yield _settled(draw, replace(intent, attempt=2, route="opus", started_time_s=started_s + 2))
    elif kind < 0.048:
        yield _failed(draw, intent, Outcome.UNKNOWN)
    elif kind < 0.05:
        broken = _settled(draw, intent)
        assert broken.usage is not None
        yield replace(broken, outcome=Outcome.CANCELLED, usage=replace(broken.usage, complete=False))
    else:
        yield _settled(draw, intent)


def _failed(draw: random.Random, intent: Intent, outcome: Outcome) -> Settlement:
    settled = _settled(draw, intent)
    return replace(
        settled,
        outcome=outcome,
        usage=None,
        cost=None,
        counterfactuals=None,
        error="RATE_LIMITED" if outcome is Outcome.REFUSED else "UNAVAILABLE",
        first_byte_s=None,
    )


def _settled(draw: random.Random, intent: Intent) -> Settlement:
    opus = intent.route == "opus"
    model = "claude-opus-5-5" if opus else "gemini-3.8-flash"
    intent = replace(intent, upstream="anthropic" if opus else "google", model=model)
    tokens = draw.randrange(2_000, 40_000)
    read = tokens * draw.randrange(10) // 10 if opus else 0
    written = (tokens - read) // 2 if opus else 0
    output = draw.randrange(50, 900)
    usage = Usage(
        input_tokens=tokens,
        cache_read_tokens=read,
        cache_write_5m_tokens=written,
        output_tokens=output,
        thinking_tokens=output // 3,
    )
    input_price, output_price = (5_000, 25_000) if opus else (750, 3_750)
    spent = Cost(
        uncached_input_nano_usd=(tokens - read - written) * input_price,
        cache_read_nano_usd=read * input_price // 10,
        cache_write_5m_nano_usd=written * input_price * 5 // 4,
        output_text_nano_usd=(output - output // 3) * output_price,
        thinking_nano_usd=output // 3 * output_price,
    )
    bare = tokens * 5_000 + output * 25_000
    users = intent.purpose is Purpose.USER
    score = draw.random()
    missed = opus and draw.random() < 0.4
    miss = MissRecord(
        cause=draw.choice(("ttl_lapsed", "prefix_changed", "never_written")),
        layer="system",
        missed_tokens=tokens - read + 1,
        lost_nano_usd=(tokens - read) * 4_500,
    )
    return Settlement(
        intent=intent,
        outcome=Outcome.OK,
        settled_time_s=intent.started_time_s + 3,
        duration_s=0.4 + 5 * draw.random(),
        first_byte_s=0.2 + draw.random(),
        usage=usage,
        cost=spent,
        counterfactuals=Counterfactuals(
            no_caching_nano_usd=tokens * input_price + output * output_price,
            all_opus_nano_usd=spent.total_nano_usd if opus else bare // 2,
            all_flash_nano_usd=tokens * 750 + output * 3_750,
            all_opus_no_caching_nano_usd=bare,
        )
        if users
        else None,
        answered_model=model,
        response_id=f"msg_{intent.request_id[-12:]}_{intent.attempt}",
        upstream_request_id=f"req_{intent.request_id[-12:]}_{intent.attempt}",
        finish_reason="end_turn",
        decision=DecisionRecord(
            route=intent.route,
            reason="score_above_threshold" if opus else "score_below_threshold",
            score=score,
            threshold=0.5,
            propensity=0.98,
            model_digest="sha256:8f434346648f6b96",
            expected_flash_nano_usd=16_800_000,
            expected_opus_nano_usd=47_000_000,
            features=_FEATURES[: draw.randrange(200, 600)] if intent.attempt == 1 else "",
            explored=draw.random() < 0.02,
        )
        if users
        else None,
        cache=CacheRecord(
            strategy="c" if opus else "implicit",
            breakpoint_count=3 if opus else 0,
            expected_read_tokens=read,
            miss_cause=miss.cause if missed else "",
            misses=(miss,) if missed else (),
            p_hit=draw.random() if opus and draw.random() < 0.7 else None,
            held=draw.random() < 0.6 if opus else None,
            padding_tokens=100 if opus and draw.random() < 0.05 else 0,
            padding_nano_usd=1_000 if opus else 0,
        ),
    )


def make(path: Path, count: int) -> None:
    """Write the ledger's database."""
    store = SqliteStore(path, START_S)
    found, number = calls(count), 0
    while batch := list(islice(found, _BATCH)):
        store.write([SettlementRecord(each, codec.encode(each)) for each in batch], (), START_S)
        judged = [each for each in batch[::100] if each.intent.purpose is Purpose.USER]
        store.keep_feedback([_judgement(each, number) for number, each in enumerate(judged)], {}, 0.0)
        number += len(batch)
        if number % 200_000 < _BATCH:
            store.make_durable()
    lost = [_lost(each.intent) for each in calls(min(count, 500))]
    store.interrupt([IntentRecord(each, codec.encode(each)) for each in lost], START_S)
    store.make_durable()
    store.close()


def _lost(intent: Intent) -> Intent:
    return replace(intent, request_id="lost-" + intent.request_id)


def _judgement(settlement: Settlement, number: int) -> Feedback:
    return Feedback(
        request_id=settlement.intent.request_id,
        tenant=settlement.intent.tenant,
        source="reviewer",
        verdict=list(Verdict)[number % len(Verdict)],
        score=None,
        time_s=settlement.settled_time_s + 60,
    )


def measured(work: Callable[[], object]) -> tuple[float, float, Any]:
    """Return wall and CPU seconds of one run, and what it gave."""
    wall, cpu = perf_counter(), process_time()
    found = work()
    return perf_counter() - wall, process_time() - cpu, found


def questions(reader: LedgerReader) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    week = Filter(since_s=START_S + 20 * 86_400, until_s=START_S + 27 * 86_400)
    return {
        "report": lambda: _page(figures.figures_of(reader)),
        "report of a week": lambda: _page(figures.figures_of(reader, week)),
        "overhead": lambda: overhead_of(reader),
        "totals": reader.totals,
        "costs by day and route": lambda: reader.costs(("day", "route")),
        "costs by tenant": lambda: reader.costs(("tenant",)),
        "costs by role": lambda: reader.costs(("role",)),
        "costs by label": lambda: reader.costs(("label:team",)),
        "costs of a week by application": lambda: reader.costs(("application",), week),
        "caching": lambda: reader.caching(("application",)),
        "misses": lambda: reader.misses(("cause",)),
    }


def _page(found: figures.Figures | None) -> str:
    assert found is not None
    return layout.page(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument(
        "--directory", type=Path, help="where the ledger is or will be (default: a temporary one)"
    )
    parser.add_argument("--make-only", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        path = (options.directory or Path(temporary)) / DATABASE
        found = measure(path, options.calls, options.make_only)
    if options.json:
        print(json.dumps(found))
    else:
        for name, (wall, cpu, digest) in found.items():
            print(f"{name:<32}{wall:8.2f} s {cpu:8.2f} s of CPU  {digest}")
    return 0


def measure(path: Path, count: int, make_only: bool) -> dict[str, tuple[float, float, str]]:
    """Return wall and CPU seconds by name, and a digest of the page where there is one."""
    found = {}
    if not path.exists():
        found["make"] = (*measured(lambda: make(path, count))[:2], "")
    if make_only:
        return found
    found["open"] = (*measured(lambda: SqliteStore(path, START_S).close())[:2], "")
    with LedgerReader.open(path) as reader:
        for name, question in questions(reader).items():
            wall, cpu, answer = measured(question)
            found[name] = (wall, cpu, sha256(repr(answer).encode()).hexdigest()[:12])
    return found


if __name__ == "__main__":
    sys.exit(main())
