"""Compute the monthly table: dollars of 30 days per caching policy, model and prompt size, on made-up traffic.

    python tests/benchmarks/bench_month.py [--requests-per-day 10000] [--days 7] [--seed 0] [--only saas/claude-opus-5]
                                           [--policy auto ...] [--json]

The bill counts input and output (800 tokens an answer) at list prices of today. "input cost" is that of the same input
uncached = 1, which no output dilutes; "read" is the share of input tokens served from the cache.
A day of 10,000 requests takes about six seconds for all policies and one column.
"""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter, time

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cache.rules import rules_for
from router.month import SIZES, Kind, Workload, month
from router.pricing import PriceTable
from router.replay import Policy, Settings, replay
from router.replay_report import Tally

COLUMNS = (
    (Kind.SAAS, "claude-opus-4-5"),
    (Kind.SAAS, "claude-opus-5"),
    (Kind.SAAS, "claude-opus-5-5"),
    (Kind.AGENTIC, "claude-opus-5"),
    (Kind.AGENTIC, "claude-opus-5-5"),
)
POLICIES = (Policy.NONE, Policy.A, Policy.B, Policy.C, Policy.TTL_5M, Policy.TTL_1H, Policy.AUTO)


def measure(kind: Kind, model: str, policy: Policy, workload: Workload) -> dict[str, object]:
    """One cell of the table."""
    price = PriceTable().price(model, time())
    rules = rules_for(model)
    tally = Tally(policy, price.rates(), price)
    started = perf_counter()
    for served in replay(month(workload), policy, Settings(rules.minimum_tokens, price.rates(), rules.model)):
        tally.add(served)
    figures = tally.figures()
    assert figures.bill_nano_usd is not None
    month_of_it = workload.requests_per_day * 30 / figures.requests / 1e9
    return {
        "sizes": kind.value,
        "model": rules.model,
        "policy": policy.value,
        "requests_per_day": workload.requests_per_day,
        "requests": figures.requests,
        "usd_per_month": round(figures.bill_nano_usd * month_of_it, 2),
        "saving": figures.saving,
        "relative_input_cost": figures.relative_cost,
        "relative_input_cost_interval_95": figures.interval,
        "read_share": figures.split.read / figures.split.total,
        "seconds": round(perf_counter() - started, 1),
    }


def main() -> None:
    """Compute the chosen columns and print one line per cell as it is done, or JSON lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests-per-day", type=float, default=10_000.0)
    parser.add_argument("--days", type=float, default=7.0, help="scaled to 30 (default 7)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="sizes, model, or sizes/model")
    parser.add_argument("--policy", type=Policy, choices=list(Policy), action="append")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    arguments = parser.parse_args()
    if not arguments.json:
        print(
            f"{'sizes':8} {'model':26} {'policy':6} {'$ / 30 d':>10} {'saving':>7} {'input cost':>20} {'read':>6}"
        )
    for kind, model in COLUMNS:
        if arguments.only not in ("", kind.value, model, f"{kind.value}/{model}"):
            continue
        workload = Workload(SIZES[kind], arguments.requests_per_day, arguments.days, arguments.seed)
        for policy in arguments.policy or POLICIES:
            cell = measure(kind, model, policy, workload)
            if arguments.json:
                print(json.dumps(cell), flush=True)
                continue
            low, high = cell["relative_input_cost_interval_95"]
            units = f"{cell['relative_input_cost']:.4f} {low:.3f}-{high:.3f}"
            head = f"{cell['sizes']:8} {cell['model']:26} {cell['policy']:6} {cell['usd_per_month']:>10,.2f}"
            print(f"{head} {cell['saving']:>7.1%} {units:>20} {cell['read_share']:>6.1%}", flush=True)


if __name__ == "__main__":
    main()
