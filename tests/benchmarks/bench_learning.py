"""CPU that learning adds to a request: measures kept, packed, watched, counted; and the rarer steps beside it.

Run: `python -m tests.benchmarks.bench_learning [--json]`. Microseconds of CPU, best of several rounds, by the length of
the question. Exit code 1 when what every request pays at 200 characters is more than 30 us.
"""

import argparse
import gc
import json
import random
import sys
from collections.abc import Callable, Sequence
from time import process_time

from classifier.guard import Tally, worsening
from classifier.model import Model
from classifier.sample import Sample
from router.drift import REFERENCE_REQUESTS, DriftWatch
from router.guard import Guard

TARGET_US = 30.0
LENGTHS = (200, 2_000, 20_000)
_WORDS = [
    *(
        "please",
        "compare",
        "the",
        "clauses",
        "of",
        "both",
        "contracts",
        "and",
        "say",
        "which",
        "term",
        "ends",
        "first",
    ),
    *(
        "prove",
        "that",
        "bound",
        "holds",
        "for",
        "every",
        "input",
        "list",
        "open",
        "tickets",
        "by",
        "owner",
        "why",
    ),
]


def question(characters: int) -> str:
    """Words drawn at random, of about so many characters."""
    chance = random.Random(characters)
    text = ""
    while len(text) < characters:
        text += f" {chance.choice(_WORDS)}{chance.randrange(40) or ''}"
    return text[:characters]


def per_call_us(function: Callable[[], object], calls: int, rounds: int = 7) -> float:
    """CPU time of one call in microseconds, best of several rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = process_time()
        for _ in range(calls):
            function()
        best = min(best, process_time() - start)
    return best / calls * 1e6


def measure() -> dict[str, float]:
    """Every figure, by name."""
    model, figures = Model.default(), {}
    for characters in LENGTHS:
        sample = Sample.bounded(text=question(characters), tools_offered_count=3)
        score, measures = model.judge(sample)
        calls = max(200, 400_000 // characters)
        figures[f"judge less score, {characters}"] = per_call_us(
            lambda sample=sample: model.judge(sample), calls
        ) - per_call_us(lambda sample=sample: model.score(sample), calls)
        figures[f"pack, {characters}"] = per_call_us(measures.pack, calls)
        figures[f"packed bytes, {characters}"] = float(len(measures.pack()))
        figures[f"shadow score, {characters}"] = per_call_us(
            lambda measures=measures: model.score_measures(measures), calls
        )
    watch, keeper, number = DriftWatch(2_000), Guard(), 0
    watch.begin()
    chance = random.Random(1)
    for _ in range(REFERENCE_REQUESTS + 2_000):
        watch.observe(chance.random(), chance.random() > 0.8, measures.structure)

    def decide() -> None:
        nonlocal number
        number += 1
        keeper.decided("m", str(number), reason="score_below_threshold", opus=False, failed=False)

    figures["drift"] = per_call_us(lambda: watch.observe(score.value, False, measures.structure), 5_000)
    figures["trial, a decision"] = per_call_us(decide, 5_000)
    figures["trial, a bound (bad feedback only)"] = per_call_us(
        lambda: worsening(Tally(5_000, 250), Tally(800, 60)), 200
    )
    figures["drift, all figures (a scrape)"] = per_call_us(watch.figures, 200)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    gc.disable()
    figures = measure()
    if options.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    else:
        for name, value in figures.items():
            print(f"{name:<38}{value:10.2f}")
    every = ("judge less score, 200", "pack, 200", "drift", "trial, a decision")
    return 0 if sum(figures[name] for name in every) <= TARGET_US else 1


if __name__ == "__main__":
    sys.exit(main())
