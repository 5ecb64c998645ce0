"""A cost-quality curve as 80 columns of text and as a PNG, without a plotting library.

The rule: drawn from the points alone; axes are linear and carry their ends and middle. A PNG is 8-bit RGB written by
zlib (PNG specification, third edition, W3C 2025: signature, IHDR, IDAT, IEND), with digits of a 3 x 5 font, so that a
server without matplotlib can show its curve.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 58, 16
PIXELS = (720, 440)
_MARGIN = (72, 20, 24, 48)  # left, right, top, bottom
_FONT = {
    "0": (7, 5, 5, 5, 7),
    "1": (2, 6, 2, 2, 7),
    "2": (7, 1, 7, 4, 7),
    "3": (7, 1, 7, 1, 7),
    "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7),
    "6": (7, 4, 7, 5, 7),
    "7": (7, 1, 2, 2, 2),
    "8": (7, 5, 7, 5, 7),
    "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2),
    "%": (5, 1, 2, 4, 5),
    "$": (3, 6, 2, 3, 6),
    "/": (1, 1, 2, 4, 4),
    "-": (0, 0, 7, 0, 0),
    "A": (2, 5, 7, 5, 5),
    "B": (6, 5, 6, 5, 6),
    "C": (3, 4, 4, 4, 3),
    "D": (6, 5, 5, 5, 6),
    "E": (7, 4, 6, 4, 7),
    "F": (7, 4, 6, 4, 4),
    "H": (5, 5, 7, 5, 5),
    "I": (7, 2, 2, 2, 7),
    "L": (4, 4, 4, 4, 7),
    "O": (2, 5, 5, 5, 2),
    "P": (6, 5, 6, 4, 4),
    "Q": (2, 5, 5, 6, 3),
    "R": (6, 5, 6, 5, 5),
    "S": (3, 4, 2, 1, 6),
    "T": (7, 2, 2, 2, 2),
    "U": (5, 5, 5, 5, 7),
    "V": (5, 5, 5, 5, 2),
    "W": (5, 5, 7, 7, 5),
    "X": (5, 5, 2, 5, 5),
    "Y": (5, 5, 2, 2, 2),
    " ": (0, 0, 0, 0, 0),
}
"""Rows of 3 pixels, the left one worth 4."""

Pixels = NDArray[np.uint8]


class Series(NamedTuple):
    """One curve: its mark in text, its colour in the picture, and its points (x, y)."""

    name: str
    mark: str
    colour: tuple[int, int, int]
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


def png_chart(series: Sequence[Series], x_name: str, y_name: str) -> bytes:
    """The same as a PNG; names are drawn in capitals, characters the font lacks are left out."""
    width, height = PIXELS
    left, right, top, bottom = _MARGIN
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    (x0, x1), (y0, y1) = _ends(series)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x0) / (x1 - x0) * (width - left - right)
        return left + across, height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)

    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = x0 + part * (x1 - x0), y0 + part * (y1 - y0)
        column, row = (round(value) for value in place(x, y))
        picture[row, left : width - right] = picture[top : height - bottom, column] = 225
        _write(picture, f"{100 * y:.1f}%", 8, row - 5)
        label = f"{x:.4g}"
        _write(picture, label, min(column - 4 * len(label), width - 8 * len(label)), height - bottom + 8)
    picture[top : height - bottom, left] = picture[height - bottom, left : width - right] = 0
    for number, each in enumerate(series):
        placed = [place(x, y) for x, y in each.points]
        for start, end in pairwise(placed):
            _line(picture, start, end, each.colour)
        for x, y in placed:
            picture[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2] = each.colour
        _write(picture, each.name, width - right - 210, height - bottom - 40 + 16 * number, each.colour)
    _write(picture, x_name, width // 2 - 40, height - 18)
    _write(picture, y_name, left + 8, 6)
    return _png(picture)


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


def _line(
    picture: Pixels, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int]
) -> None:
    steps = int(max(abs(end[0] - start[0]), abs(end[1] - start[1]))) + 1
    columns = np.rint(np.linspace(start[0], end[0], steps + 1)).astype(int)
    rows = np.rint(np.linspace(start[1], end[1], steps + 1)).astype(int)
    picture[rows, columns] = colour
    picture[rows - 1, columns] = colour


def _write(
    picture: Pixels, text: str, column: int, row: int, colour: tuple[int, int, int] = (40, 40, 40)
) -> None:
    """Draw text with its top left corner there, two pixels a dot; what would leave the picture is left out."""
    for glyph in text.upper():
        for down, bits in enumerate(_FONT.get(glyph, _FONT[" "])):
            for across in range(3):
                if bits >> (2 - across) & 1:
                    y, x = row + 2 * down, column + 2 * across
                    if 0 <= y < picture.shape[0] - 1 and 0 <= x < picture.shape[1] - 1:
                        picture[y : y + 2, x : x + 2] = colour
        column += 8


def _png(picture: Pixels) -> bytes:
    height, width, _ = picture.shape
    # Filter type 0 before every row.
    raw = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    )
