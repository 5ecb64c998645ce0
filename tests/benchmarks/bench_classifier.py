"""Measure what one score costs: the served scorer against the scikit-learn pipeline it was made from.

    python tests/benchmarks/bench_classifier.py [--repeats 2000] [--json]

Prints microseconds per request (p50, p99) at 200, 700, 2,000 and 20,000 characters of text, the time to load the
shipped artifact and its size. Every call gets another text: a processor that has seen the same text before predicts
its branches, and a score then seems to cost two thirds of what it does in a service. Read ratios rather than
levels: machines drift.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classifier.dataset import read
from classifier.features import measure as measure_features
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.sample import Sample
from classifier.training import DEFAULT_SEED, SEED_PATH, TrainingSettings, fit

LENGTHS = (200, 700, 2_000, 20_000)

TEXTS = 60
"""Texts per length, called in turn."""


def texts() -> dict[int, list[str]]:
    """Texts per length, cut from the shipped labels strung together so that the words vary as in traffic."""
    joined = " ".join(row.sample.text for row in read(SEED_PATH).rows)
    step = len(joined) // TEXTS
    around = joined * (max(LENGTHS) // len(joined) + 2)
    return {
        length: [around[start : start + length] for start in range(0, TEXTS * step, step)]
        for length in LENGTHS
    }


def percentiles_us(call: Callable[[Any], object], given: Sequence[Any], repeats: int) -> tuple[float, float]:
    """p50 and p99 of one call in microseconds over `given` in turn, after a tenth of the repeats to warm up."""
    for turn in range(repeats // 10):
        call(given[turn % len(given)])
    taken = np.empty(repeats)
    for turn in range(repeats):
        one = given[turn % len(given)]
        start = time.perf_counter_ns()
        call(one)
        taken[turn] = time.perf_counter_ns() - start
    p50, p99 = np.percentile(taken, [50, 99]) / 1_000.0
    return float(p50), float(p99)


def measure(repeats: int) -> dict[str, object]:
    """Every figure, keyed by what it is."""
    model = Model.default()
    trained = fit(read(SEED_PATH), TrainingSettings(), DEFAULT_SEED)
    rows = []
    for length, chosen in texts().items():
        bounding = percentiles_us(lambda text: Sample.bounded(text=text), chosen, repeats)
        bounded = [Sample.bounded(text=text) for text in chosen]
        served = percentiles_us(model.score, bounded, repeats)
        features = percentiles_us(measure_features, bounded, repeats)
        sklearn = percentiles_us(lambda sample: trained.predict([sample]), bounded, max(repeats // 10, 20))
        rows.append(
            {
                "characters": length,
                "bound_p50_us": bounding[0],
                "features_p50_us": features[0],
                "score_p50_us": served[0],
                "score_p99_us": served[1],
                "sklearn_p50_us": sklearn[0],
                "sklearn_p99_us": sklearn[1],
            }
        )
    load_p50, _ = percentiles_us(Model.load, [DEFAULT_DIRECTORY], 20)
    size = sum(file.stat().st_size for file in Path(DEFAULT_DIRECTORY).iterdir())
    return {"scores": rows, "load_p50_ms": load_p50 / 1_000.0, "artifact_bytes": size}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2_000, help="timed calls per figure (default 2000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    if options.repeats < 10:
        parser.error("--repeats must be at least 10")
    figures = measure(options.repeats)
    if options.json:
        print(json.dumps(figures))
        return 0
    rows = figures["scores"]
    assert isinstance(rows, list)
    print("characters  bound us  features us  score us p50    p99  scikit-learn us p50    p99  ratio")
    for row in rows:
        print(
            f"{row['characters']:>10,}  {row['bound_p50_us']:>8.1f}  {row['features_p50_us']:>11.1f}"
            f"  {row['score_p50_us']:>12.1f}  {row['score_p99_us']:>5.0f}"
            f"  {row['sklearn_p50_us']:>19.0f}  {row['sklearn_p99_us']:>5.0f}"
            f"  {row['sklearn_p50_us'] / row['score_p50_us']:>5.1f}"
        )
    print(f"load {figures['load_p50_ms']:.1f} ms, artifact {figures['artifact_bytes']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
