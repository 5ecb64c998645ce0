"""What foreseeing costs: `python -m tests.benchmarks.bench_foresight`.

Best of many, one session: the history with one more turn, a forecast, the hazards that keep-alives ask for, a chance.
"""

import sys
import tracemalloc
from time import process_time
from timeit import repeat

from classifier.foresight.history import history_of
from classifier.foresight.model import Foresight
from classifier.foresight.table import table_of
from router.foresight import Foreseer
from tests.classifier.foresights import artifact_of, sessions

ROUNDS = 2_000


def microseconds(statement: str, names: dict[str, object]) -> float:
    """Best of nine, in time of the processor."""
    return min(repeat(statement, globals=names, number=ROUNDS, repeat=9, timer=process_time)) / ROUNDS * 1e6


def main() -> None:
    """Print the figures."""
    from classifier.foresight.fitting import fitted
    from classifier.foresight.history import extended

    some = sessions(60)
    model = Foresight(artifact_of(fitted(table_of(some))))
    turns = max(some, key=lambda session: len(session.turns)).turns
    history = history_of(turns[:-1])
    forecast = model.forecast(history)
    names = {
        "extended": extended,
        "history": history,
        "turn": turns[-1],
        "model": model,
        "forecast": forecast,
    }
    for what, statement in (
        ("one more turn", "extended(history, turn)"),
        ("forecast", "model.forecast(history)"),
        ("hazards of keep-alives", "forecast.keep_alive_hazards()"),
        ("the same after a turn on Flash", "forecast.keep_alive_hazards(100.0)"),
        ("chance within 300 s", "forecast.opus_within(300.0)"),
        ("chance within 3,600 s, idle for 500 s", "forecast.opus_within(3600.0, 500.0)"),
    ):
        print(f"{what:40} {microseconds(statement, names):7.1f} us")
    foreseer = Foreseer(None)
    tracemalloc.start()
    for number in range(20_000):
        foreseer.noted(("acme", f"session {number}"), turns[-1]._replace(time_s=float(number)))
    print(f"{'a history in memory':40} {tracemalloc.get_traced_memory()[0] / 20_000:7.0f} bytes")


if __name__ == "__main__":
    sys.exit(main())
