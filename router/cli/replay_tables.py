"""Tables that `hybrid-router replay` prints.

The rule: they show the report's figures and compute nothing but their differences.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from router.replay_choice import FEATURES
from router.replay_trace import TraceRow

if TYPE_CHECKING:
    from router.replay_report import Figures, Reliability

MONTH_DAYS = 30


class Source(NamedTuple):
    """Where rows come from.

    Attributes:
        rows: Gives them anew for every policy; a made-up month is never held as a whole.
        expected: How many to expect, for the progress bar.
        per_month: Requests 30 days have; None for a recorded trace, whose length says nothing about a month.
    """

    name: str
    rows: Callable[[], Iterable[TraceRow]]
    expected: int
    per_month: float | None


def monthly_usd(nano_usd: int | None, figures: "Figures", source: Source) -> float | None:
    """Dollars of 30 days with the workload's mean of requests; None for a trace or without a price."""
    if nano_usd is None or source.per_month is None:
        return None
    return nano_usd / 1e9 * source.per_month / figures.requests


def shares(found: "Sequence[Figures]", source: Source) -> Table:
    """What each feature of the table brings."""
    by_name = {figures.policy: figures for figures in found}
    whole = by_name["none"].bill_nano_usd
    table = Table("feature", "$ / 30 days", "of the bill", title="what each step brings")
    for feature, before, after in FEATURES:
        left, right = by_name[before], by_name[after]
        if left.bill_nano_usd is None or right.bill_nano_usd is None or not whole:
            continue
        saved = left.bill_nano_usd - right.bill_nano_usd
        usd = monthly_usd(saved, right, source)
        shown = saved / 1e9 if usd is None else usd
        table.add_row(feature, f"{shown:+,.2f}", f"{saved / whole:+.1%}")
    return table


def bills(found: "Sequence[Figures]", source: Source, model: str | None) -> Table:
    priced = found[0].bill_nano_usd is not None
    money = ["$", "saving"] if source.per_month is None else ["$ / 30 days", "saving"]
    # In 80 columns there is room for dollars or for the planner's own time, and a cut figure is worse than none.
    last = ["read"] if priced else ["read", "written", "us p50", "us p99"]
    warmed = any(figures.warms or figures.switched_off for figures in found)
    warm = ["warms", "of cost", "off"] if warmed else []
    last = [] if warmed and not priced else last
    columns = [
        "policy",
        *(money if priced else []),
        "cost",
        *([] if warmed else ["95 %"]),
        "regret",
        *warm,
        *last,
    ]
    title = f"{source.name}, {model}" if model else None
    table = Table(*columns, title=title, caption="cost and regret: of input, 1 = no caching")
    for figures in found:
        low, high = figures.interval
        split = figures.split
        written = (split.write_5m + split.write_1h) / max(1, split.total)
        usd = []
        if figures.bill_nano_usd is not None:
            monthly = monthly_usd(figures.bill_nano_usd, figures, source)
            dollars = figures.bill_nano_usd / 1e9 if monthly is None else monthly
            usd = [f"{dollars:,.2f}", "-" if figures.saving is None else f"{figures.saving:.1%}"]
        times_us = (figures.decision_p50_us, figures.decision_p99_us)
        table.add_row(
            figures.policy,
            *usd,
            f"{figures.relative_cost:.4f}",
            *([] if warmed else [f"{low:.3f}-{high:.3f}"]),
            "-" if figures.regret is None else f"{figures.regret:.4f}",
            *(
                [f"{figures.warms:,}", f"{figures.warm_share:.1%}", f"{figures.switched_off:,}"]
                if warmed
                else []
            ),
            *([f"{split.read / max(1, split.total):.1%}"] if last else []),
            *([] if priced or warmed else [f"{written:.1%}"]),
            *([] if priced or warmed else ["-" if time is None else f"{time:.0f}" for time in times_us]),
        )
    return table


def reliability(title: str, found: "Reliability") -> Table:
    table = Table("chance", "requests", "predicted", "observed", title=f"{title}, Brier {found.brier:.4f}")
    for row in found.bins:
        table.add_row(
            f"{row.low:.1f}-{row.low + 0.1:.1f}",
            f"{row.requests:,}",
            f"{row.predicted:.3f}",
            f"{row.observed:.3f}",
        )
    return table
