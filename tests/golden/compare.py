"""Golden files: tables that people read and reviews show as diffs.

`UPDATE_GOLDEN=1 python -m pytest PATH` writes them anew; without it a difference fails.
"""

import os
from pathlib import Path

DIRECTORY = Path(__file__).parent
FLAG = "UPDATE_GOLDEN"


def assert_golden(name: str, text: str) -> None:
    """Compare `text` with the golden file `name`, or write it when the flag is set."""
    path = DIRECTORY / name
    if os.environ.get(FLAG) == "1":
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing; write it with {FLAG}=1"
    expected = path.read_text(encoding="utf-8").splitlines()
    assert text.splitlines() == expected, f"{path.name} differs; if that is meant, write it with {FLAG}=1"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Lay out columns for reading."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )
