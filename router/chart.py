"""A cost-quality curve as 80 columns of text and as a picture.

The rule: drawn from the points alone; the text's axes are linear and carry their ends and middle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from router.picture import blank

WIDTH, HEIGHT = 58, 16


class Series(NamedTuple):
    """One curve: its mark in text and picture, and its points (x, y)."""

    name: str
    mark: str
    points: Sequence[tuple[float, float]]


def text_chart(series: Sequence[Series], x_name: str, y_name: str) -> list[str]:
    """Lines of at most 80 columns; a later series covers an earlier one."""
    (x0, x1), (y0, y1) = _ends(series)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    for each in series:
        for x, y in each.points:
            column = round((x - x0) / (x1 - x0) * (WIDTH - 1))
            row = HEIGHT - 1 - round((y - y0) / (y1 - y0) * (HEIGHT - 1))
            rows[row][column] = each.mark
    lines = [f"{y_name} ({', '.join(f'{each.mark} {each.name}' for each in series)})"]
    for number, cells in enumerate(rows):
        value = y1 - (y1 - y0) * number / (HEIGHT - 1)
        head = f"{value:8.1%} |" if number % 5 == 0 else " " * 9 + "|"
        lines.append((head + "".join(cells)).rstrip())
    lines.append(" " * 9 + "+" + "-" * WIDTH)
    middle, right = f"{(x0 + x1) / 2:.4g}", f"{x1:.4g} {x_name}"
    axis = f"{x0:.4g}".ljust(WIDTH // 2 - len(middle) // 2) + middle
    lines.append((" " * 10 + axis.ljust(WIDTH - len(right)) + right)[:80])
    return lines


def draw(path: Path, series: Sequence[Series], x_name: str, y_name: str) -> None:
    """Draw the same into a PNG; see `router.picture`.

    Raises:
        OSError: The file cannot be written.
    """
    figure = blank()
    axes = figure.subplots()
    for each in series:
        axes.plot(*zip(*each.points, strict=True), marker=each.mark, markersize=3, label=each.name)
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _ends(series: Sequence[Series]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and greatest x and y, a little apart where they are the same."""
    points = [point for each in series for point in each.points]
    if not points:
        raise ValueError("there is nothing to draw")
    ends = []
    for axis in (0, 1):
        low, high = min(point[axis] for point in points), max(point[axis] for point in points)
        ends.append((low, high if high > low else low + max(abs(low), 1.0) * 0.01))
    return ends[0], ends[1]
