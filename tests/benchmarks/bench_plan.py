"""Measure the cache's share of a request: digests, token estimate, belief, forecast and plan.

    python tests/benchmarks/bench_plan.py [--rounds N] [--strategy auto] [--json]

Every case is planned against an index that already holds its session, as in traffic. Times are per request in
microseconds, on one core, the caller's garbage collector on. `digests` hashes the whole prompt; `extended`
takes the previous turn's digests over, as a stateless session does. Rows marked "held" plan the same prompt as the
next turn of a session the server holds: `digests` then grows the prompt, its digests and its token sums by the turn.

The second table grows one conversation by two blocks a turn and shows a turn's cost at each length, for both routes,
stateless and held: `spell` makes Opus's bytes, `plan` all of `Beliefs.views`, `learn` what settling teaches. What it
takes to send is in neither: a body holds the whole conversation.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
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
from cache.rolling import Rolling
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.route import Route
from router.beliefs import Beliefs, CacheView
from router.call import Call, Identity, Message, Role, Text
from router.pricing import PriceTable
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render, render_continued
from router.upstreams.base import Rendered
from router.usage import Usage

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


STEPS = ("digests", "extended", "tokens", "belief", "forecast", "plan")
LENGTHS = (50, 200, 800, 3200)
"""Blocks of the conversation at which a turn's cost is shown."""
WINDOW = 20
"""Turns before each length that are measured."""
MODELS = {Route.OPUS: MODEL, Route.FLASH: "gemini-3.8-flash"}
TURN_GAP_S = 20.0


def as_held(before: Prompt, prompt: Prompt) -> list[Block]:
    """The blocks of `prompt` after those of `before`: an answer and a turn."""
    return list(prompt.blocks[len(before.blocks) :])


def measure(name: str, rounds: int, strategy: Strategy, *, held: bool = False) -> dict[str, object]:
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
    rolling = Rolling.of(before)
    rolling.marks.note(SCOPE, [mark.position for mark in earlier.breakpoints])
    new = as_held(before, prompt)
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        marks = [perf_counter_ns()]
        if held:
            now = rolling.extend(rolling.prompt.continued(new, prompt.parameters))
            digests = now.digests
            marks += [perf_counter_ns()] * 2
            counts = estimator.counts(now.sums, MODEL)
            marks.append(perf_counter_ns())
            beliefs = index.belief_at(SCOPE, digests, now.positions(SCOPE))
        else:
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
        for step, span in zip(STEPS, spans, strict=True):
            samples.setdefault(step, []).append(span)
        samples.setdefault("sum", []).append(sum(spans) - spans[1])
    size = sum(len(block.content) for block in prompt.blocks)
    report: dict[str, object] = {"case": name + ", held" * held, "blocks": len(prompt.blocks), "bytes": size}
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


def grow(sessions: int, strategy: Strategy, *, held: bool) -> list[dict[str, object]]:
    """A turn's cost at each of `LENGTHS`, over that many conversations; p50 and p99 in microseconds."""
    samples: dict[int, dict[str, list[float]]] = {length: {} for length in LENGTHS}
    for number in range(sessions):
        _converse(number, strategy, held, samples)
    reports = []
    for length, found in samples.items():
        row: dict[str, object] = {"blocks": length, "held": held}
        for step, values in found.items():
            cuts = quantiles(values, n=100)
            row[step] = {"p50_us": round(cuts[49], 1), "p99_us": round(cuts[98], 1)}
        reports.append(row)
    return reports


def _converse(
    number: int, strategy: Strategy, held: bool, samples: dict[int, dict[str, list[float]]]
) -> None:
    beliefs = Beliefs(
        prices=PriceTable(),
        workspaces={Route.OPUS: "bench", Route.FLASH: "bench"},
        index=PrefixIndex(50_000),
        demand=Demand(max_prefixes=50_000, max_waiting=50_000),
        estimator=TokenEstimator(),
    )
    traits, options = traits_of(MODEL), Options()
    system, messages = ("s" * 8000,), (_said(Role.USER, number, 0),)
    previous: Rendered | None = None
    rolling: Rolling | None = None
    for turn in range(1, max(LENGTHS) // 2 + 1):
        call = Call(
            identity=Identity(request_id="r"), system=system, messages=messages, max_output_tokens=500
        )
        now_s = TURN_GAP_S * turn
        marks = [perf_counter_ns()]
        spelled = None
        if held and previous is not None:
            spelled = render_continued(previous, call, MODEL, traits, options)
        if spelled is None:
            spelled = render(call, MODEL, traits, options)
        marks.append(perf_counter_ns())
        if held:
            rolling = Rolling.of(spelled.prompt) if rolling is None else rolling.extend(spelled.prompt)
        views = beliefs.views(
            spelled.prompt,
            MODELS,
            strategy=strategy,
            kind="desk",
            now_s=now_s,
            expected_follow_ups=None,
            rolling=rolling,
        )
        marks.append(perf_counter_ns())
        _settle(beliefs, views[Route.OPUS], now_s)
        marks.append(perf_counter_ns())
        length = len(spelled.prompt.blocks)
        window = next((end for end in LENGTHS if end - 2 * WINDOW < length <= end), None)
        if window is not None:
            spans = [(end - start) / 1000 for start, end in pairwise(marks)]
            for step, span in zip(("spell", "plan", "learn", "sum"), (*spans, sum(spans)), strict=True):
                samples[window].setdefault(step, []).append(span)
        previous = spelled
        messages = (*messages, _said(Role.ASSISTANT, number, turn), _said(Role.USER, number, turn))


def _said(role: Role, number: int, turn: int) -> Message:
    return Message(role, (Text(f"{number}.{turn} " + "words " * 80),))


def _settle(beliefs: Beliefs, view: CacheView, now_s: float) -> None:
    """What an answer on Opus teaches when all was as expected."""
    split = view.plan.expected
    beliefs.arrive(view, "desk", now_s)
    beliefs.begin(view, now_s)
    usage = Usage(
        input_tokens=split.total,
        cache_read_tokens=split.read,
        cache_write_5m_tokens=split.write_5m,
        cache_write_1h_tokens=split.write_1h,
    )
    beliefs.learn(view, usage, started_s=now_s, first_byte_at_s=now_s + 1)


def main() -> None:
    """Run every case and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2000, help="requests per case (default 2000)")
    parser.add_argument("--strategy", type=Strategy, default=Strategy.AUTO, choices=list(Strategy))
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    reports = [
        measure(name, arguments.rounds, arguments.strategy, held=held)
        for name in CASES
        for held in (False, True)
    ]
    sessions = max(1, arguments.rounds // 200)
    growth = [row for held in (False, True) for row in grow(sessions, arguments.strategy, held=held)]
    if arguments.json:
        print(json.dumps({"strategy": arguments.strategy, "cases": reports, "growth": growth}, indent=2))
        return
    steps = (*STEPS, "sum")
    print(f"strategy {arguments.strategy}; p50/p99 microseconds; the sum leaves `extended` out")
    print(f"{'case':27}{'blocks':>7}{'kB':>6}" + "".join(f"{step:>14}" for step in steps))
    for report in reports:
        print(
            f"{report['case']:27}{report['blocks']:>7}{report['bytes'] / 1000:>6.0f}{_cells(report, steps)}"
        )
    steps = ("spell", "plan", "learn", "sum")
    print("\na turn of two new blocks, both routes planned")
    print(f"{'conversation':27}{'blocks':>7}{'':6}" + "".join(f"{step:>14}" for step in steps))
    for row in growth:
        print(f"{'held' if row['held'] else 'stateless':27}{row['blocks']:>7}{'':6}{_cells(row, steps)}")


def _cells(row: dict[str, object], steps: Sequence[str]) -> str:
    return "".join(f"{row[step]['p50_us']:>7}/{row[step]['p99_us']:<6}" for step in steps)  # type: ignore[index]


if __name__ == "__main__":
    main()
