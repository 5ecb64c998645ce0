"""Measure the cache's share of a request: digests, token estimate, belief, forecast and plan.

    python tests/benchmarks/bench_plan.py [--rounds N] [--strategy auto] [--json]

Every case is planned against an index that already holds its session, as in traffic. Times are per request in
microseconds, on one core, the caller's garbage collector on. `digests` hashes the whole prompt; `extended`
takes the previous turn's digests over, as a session does.
"""

import argparse
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from time import perf_counter_ns

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cache.demand import Demand
from cache.economics import Rates
from cache.index import PrefixIndex
from cache.plan import Plan, Strategy, plan
from cache.prefix import extend_digests, prefix_digests
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt
from cache.rules import rules_for
from cache.tokens import TokenEstimator

MODEL = "claude-opus-5-5"
SCOPE = CacheScope("anthropic", "bench", MODEL)
RULES = rules_for(MODEL)
RATES = Rates(1.25, 2.0, 0.05)


def conversation(turns: int, message_bytes: int, shared_bytes: int, blocks_per_message: int = 1) -> Prompt:
    """A prompt with tools, system, context and so many earlier turns."""
    blocks = [Block(Layer.TOOLS, BlockKind.TOOL, b'{"name":"tool%d"}' % i + b"t" * 200) for i in range(3)]
    blocks.append(Block(Layer.SYSTEM, BlockKind.TEXT, b"s" * shared_bytes))
    blocks.append(Block(Layer.CONTEXT, BlockKind.TEXT, b"c" * 1000, "user"))
    for turn in range(2 * turns):
        role = "assistant" if turn % 2 else "user"
        blocks += [
            Block(Layer.HISTORY, BlockKind.TEXT, b"%d.%d " % (turn, part) + b"h" * message_bytes, role)
            for part in range(blocks_per_message)
        ]
    blocks.append(Block(Layer.TURN, BlockKind.TEXT, b"q" * message_bytes, "user"))
    return Prompt(tuple(blocks))


CASES: dict[str, tuple[Callable[[], Prompt], Callable[[], Prompt]]] = {
    "2k tokens, 10 blocks": (lambda: conversation(1, 400, 4000), lambda: conversation(2, 400, 4000)),
    "100 turns": (lambda: conversation(99, 600, 8000), lambda: conversation(100, 600, 8000)),
    "1,000 blocks": (lambda: conversation(98, 100, 8000, 5), lambda: conversation(99, 100, 8000, 5)),
}


def measure(name: str, rounds: int, strategy: Strategy) -> dict[str, object]:
    """p50 and p99 of each step and of the sum, in microseconds."""
    before, prompt = (build() for build in CASES[name])
    index, demand, estimator = PrefixIndex(), Demand(), TokenEstimator()
    earlier = _planned(before, index, demand, estimator, strategy, 0.0)
    split = earlier.expected
    index.observe(
        SCOPE,
        prefix_digests(before),
        estimator.cumulative_tokens(before, MODEL),
        earlier,
        started=0.0,
        first_byte_at=1.0,
        read_tokens=split.read,
        write_5m_tokens=split.write_5m,
        write_1h_tokens=split.write_1h,
    )
    demand.arrive(SCOPE, before, prefix_digests(before), 0.0)
    before_digests = prefix_digests(before)
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        marks = [perf_counter_ns()]
        digests = prefix_digests(prompt)
        marks.append(perf_counter_ns())
        extend_digests(prompt, before, before_digests)
        marks.append(perf_counter_ns())
        counts = estimator.cumulative_tokens(prompt, MODEL)
        marks.append(perf_counter_ns())
        beliefs = index.belief(SCOPE, digests)
        marks.append(perf_counter_ns())
        forecasts = demand.forecasts(SCOPE, prompt, digests, 30.0, counts=counts)
        marks.append(perf_counter_ns())
        plan(
            prompt,
            digests,
            counts,
            beliefs,
            rules=RULES,
            rates=RATES,
            strategy=strategy,
            now=30.0,
            forecasts=forecasts,
        )
        marks.append(perf_counter_ns())
        spans = [(end - start) / 1000 for start, end in pairwise(marks)]
        steps = ("digests", "extended", "tokens", "belief", "forecast", "plan")
        for step, span in zip(steps, spans, strict=True):
            samples.setdefault(step, []).append(span)
        samples.setdefault("sum", []).append(sum(spans) - spans[1])
    size = sum(len(block.content) for block in prompt.blocks)
    report: dict[str, object] = {"case": name, "blocks": len(prompt.blocks), "bytes": size}
    for step, values in samples.items():
        cuts = quantiles(values, n=100)
        report[step] = {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}
    return report


def _planned(
    prompt: Prompt,
    index: PrefixIndex,
    demand: Demand,
    estimator: TokenEstimator,
    strategy: Strategy,
    now: float,
) -> Plan:
    digests = prefix_digests(prompt)
    return plan(
        prompt,
        digests,
        estimator.cumulative_tokens(prompt, MODEL),
        index.belief(SCOPE, digests),
        rules=RULES,
        rates=RATES,
        strategy=strategy,
        now=now,
        forecasts=demand.forecasts(SCOPE, prompt, digests, now),
    )


def main() -> None:
    """Run every case and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2000, help="requests per case (default 2000)")
    parser.add_argument("--strategy", type=Strategy, default=Strategy.AUTO, choices=list(Strategy))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    reports = [measure(name, arguments.rounds, arguments.strategy) for name in CASES]
    if arguments.json:
        print(json.dumps({"strategy": arguments.strategy, "cases": reports}, indent=2))
        return
    steps = ("digests", "extended", "tokens", "belief", "forecast", "plan", "sum")
    print(f"strategy {arguments.strategy}; p50/p99 microseconds; the sum leaves `extended` out")
    print(f"{'case':22}{'blocks':>7}{'kB':>6}" + "".join(f"{step:>14}" for step in steps))
    for report in reports:
        cells = "".join(f"{report[step]['p50_us']:>7}/{report[step]['p99_us']:<6}" for step in steps)
        print(f"{report['case']:22}{report['blocks']:>7}{report['bytes'] / 1000:>6.0f}{cells}")


if __name__ == "__main__":
    main()
