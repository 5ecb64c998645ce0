"""Show how far a run is: a bar on a terminal, plain lines elsewhere. Which one is the command line's choice.

The rule: both take the same `Progress` values and show the same figures; neither knows where they come from.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from router.demo import Progress
from router.money import usd


@contextmanager
def bar(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar on `console` while the context is open; yields the callback for `run_workload`."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console) as shown:
        task = shown.add_task("", total=None)

        def update(progress: Progress) -> None:
            shown.update(task, total=progress.total, completed=progress.done, description=figures(progress))

        yield update


def lines(write: Callable[[str], object], *, steps: int = 10) -> Callable[[Progress], None]:
    """Return a callback that writes a line each time another 1/`steps` of the requests is done.

    Args:
        write: Takes one line without its end, e.g. `print`.
        steps: Lines to write in all, >= 1.
    """
    shown = 0

    def update(progress: Progress) -> None:
        nonlocal shown
        step = progress.done * steps // progress.total if progress.total else steps
        if step > shown:
            shown = step
            write(f"{progress.done}/{progress.total} requests: {figures(progress)}")

    return update


def figures(progress: Progress) -> str:
    """Spell the figures of a run so far, e.g. "flash 31, opus 9, 1 failed, $0.012345678"."""
    parts = [f"{route} {count}" for route, count in sorted(progress.routes.items())]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.cancelled:
        parts.append(f"{progress.cancelled} left")
    return ", ".join([*parts, usd(progress.cost_nano_usd)])
