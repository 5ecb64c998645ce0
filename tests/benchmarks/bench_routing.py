"""Cache-aware routing against fixed thresholds of the same quality, over the sandbox's bill.

    python tests/benchmarks/bench_routing.py [--sessions 400] [--seed 0] [--value 0.03 0.06 0.12] [--json]

The same conversations (`tests.benchmarks.routing_world`) are served once per policy. Quality is the benefit realised:
the sum, over the turns Opus answered, of the true chance that Opus was needed. The fixed thresholds .05 to 1 make a
cost-quality curve; what two of them reach by being mixed counts as reached. Each value V is held against that curve AT
ITS OWN QUALITY: the difference of the bills in percent, with a 95 % interval, bootstrapped over conversations. "myopic"
leaves out what Opus leaves warm (G = 0). The fixed thresholds follow a cost inversion, as the service does by default.
Takes 2 to 10 ms a turn and policy.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.routing_world import Result, Rule, serve, world

THRESHOLDS = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 1.0)
VALUES_USD = (0.03, 0.06, 0.12)
RESAMPLES = 1_000

Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """A policy's bill relative to fixed thresholds of the same quality; negative is cheaper."""

    share: float
    low: float
    high: float


def difference(result: Result, fixed: list[Result], seed: int = 0) -> Difference:
    """Compare at equal quality, with a 95 % interval over conversations."""
    cost, benefit = np.array(result.cost, float), np.array(result.benefit)
    costs = np.array([each.cost for each in fixed], float)
    benefits = np.array([each.benefit for each in fixed])
    count = len(cost)
    rng = np.random.default_rng(seed)
    shares = []
    for sample in range(RESAMPLES + 1):
        weights = np.ones(count) if sample == 0 else rng.multinomial(count, np.full(count, 1 / count))
        reached = at_quality(float(benefit @ weights), benefits @ weights, costs @ weights)
        shares.append(float(cost @ weights) / reached - 1)
    low, high = np.quantile(shares[1:], [0.025, 0.975])
    return Difference(shares[0], float(low), float(high))


def at_quality(quality: float, qualities: Floats, costs: Floats) -> float:
    """Least cost at which the fixed policies, or mixes of two of them, reach a quality; the dearest's beyond it."""
    best = float(costs.max()) if quality > qualities.max() else float("inf")
    for i in range(len(costs)):
        if qualities[i] >= quality:
            best = min(best, float(costs[i]))
        for j in range(len(costs)):
            if qualities[i] < quality < qualities[j]:
                part = (quality - qualities[i]) / (qualities[j] - qualities[i])
                best = min(best, float(costs[i] + part * (costs[j] - costs[i])))
    return best


def main() -> None:
    """Serve the world under every policy and print one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--value", type=float, nargs="+", default=list(VALUES_USD), help="USD per needed answer"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    arguments = parser.parse_args()
    turns = world(arguments.sessions, arguments.seed)
    fixed = []
    if not arguments.json:
        print(f"{arguments.sessions} conversations, {len(turns)} turns")
        print(
            f"{'policy':22} {'bill $':>9} {'quality':>8} {'opus':>6} {'switches':>8}  v fixed, same quality"
        )
    for threshold in THRESHOLDS:
        fixed.append(serve(turns, Rule(threshold=threshold)))
        _show(f"threshold {threshold:g}", fixed[-1], None, arguments.json)
    for value in arguments.value:
        for index in (True, False):
            found = serve(turns, Rule(value_usd=value, index=index))
            name = f"V ${value:g}{'' if index else ', myopic'}"
            _show(name, found, difference(found, fixed, arguments.seed), arguments.json)


def _show(name: str, result: Result, against: Difference | None, as_json: bool) -> None:
    cost, benefit = sum(result.cost) / 1e9, sum(result.benefit)
    if as_json:
        row = {
            "policy": name,
            "bill_usd": cost,
            "quality": benefit,
            "opus_share": result.opus / result.turns,
            "switches": result.switches,
            "difference": against and against._asdict(),
        }
        print(json.dumps(row), flush=True)
        return
    told = "" if against is None else f"{against.share:+.1%} [{against.low:+.1%}, {against.high:+.1%}]"
    print(
        f"{name:22} {cost:>9.3f} {benefit:>8.1f} {result.opus / result.turns:>6.1%} {result.switches:>8}  {told}",
        flush=True,
    )


if __name__ == "__main__":
    main()
