"""Costs as comma-separated values, for a spreadsheet: one line a group, every figure a whole number of its unit.

The rule: what the message says, exactly, nothing rounded and nothing added up anew. What could not be compared is an
empty cell, never 0. Names come from callers, and a spreadsheet runs a cell that begins like a formula: such a name gets
an apostrophe before it, which is how spreadsheets mark text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING

from router.overhead import Overhead

if TYPE_CHECKING:
    from router.v1.operator_service_pb2 import CostRow, GetCostsResponse

PARTS = (
    "uncached_input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "thinking",
    "tools",
)
TOKENS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking")
COMPARED = ("no_caching", "all_opus", "all_flash", "all_opus_no_caching", "never_switch")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def costs_sheet(response: GetCostsResponse, dimension: str) -> str:
    """Return the rows of GetCosts, without their total, as CSV with a header."""
    header = [
        dimension,
        "calls",
        "cost_nano_usd",
        *(f"{part}_nano_usd" for part in PARTS),
        "unknown_calls",
        "unknown_bound_nano_usd",
        "floor_calls",
        "floor_bound_nano_usd",
        "unbounded_calls",
        "usage_calls",
        *(f"{kind}_tokens" for kind in TOKENS),
    ]
    for name in COMPARED:
        header += [f"{name}_calls", f"{name}_nano_usd", f"{name}_saving_nano_usd"]
    return _csv(header, (_costs(row) for row in response.rows))


def overhead_sheet(found: Overhead) -> str:
    """Return overhead by kind as CSV with a header; padding lies within answers."""
    header = ["kind", "calls", "cost_nano_usd", "unknown_calls", "unknown_bound_nano_usd"]
    header += ["floor_calls", "floor_bound_nano_usd", "unbounded_calls"]
    rows: list[list[str | int]] = [
        [
            kind.name,
            kind.calls,
            "" if kind.calls and not kind.known_calls else kind.cost_nano_usd,
            kind.unknown_calls,
            kind.unknown_bound_nano_usd,
            kind.floor_calls,
            kind.floor_bound_nano_usd,
            kind.unbounded_calls,
        ]
        for kind in found.kinds
    ]
    filler = found.padding
    cost: str | int = "" if filler.calls and filler.calls == filler.unknown_calls else filler.cost_nano_usd
    rows.append(["padding", filler.calls, cost, filler.unknown_calls, "", "", "", ""])
    return _csv(header, rows)


def _costs(row: CostRow) -> list[str | int]:
    cells: list[str | int] = [
        _text(row.key),
        row.call_count,
        row.cost.total_nano_usd,
        *(getattr(row.cost, f"{part}_nano_usd") for part in PARTS),
        row.unknown_cost_count,
        row.unknown_cost_bound_nano_usd,
        row.incomplete_count,
        row.incomplete_bound_nano_usd,
        row.unbounded_count,
        row.usage_count,
        *(getattr(row.usage, f"{kind}_tokens") for kind in TOKENS),
    ]
    for name in COMPARED:
        compared = getattr(row, name)
        known = compared.call_count > 0
        cells += [
            compared.call_count,
            compared.baseline_nano_usd if known else "",
            compared.baseline_nano_usd - compared.cost_nano_usd if known else "",
        ]
    return cells


def _text(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA) else name


def _csv(header: list[str], rows: Iterable[list[str | int]]) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_text(name) for name in header])
    writer.writerows(rows)
    return out.getvalue()
