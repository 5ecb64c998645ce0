"""Tables that `hybrid-router replay` prints.

The rule: they show the report's figures and compute nothing but their differences.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table

from router.replay_choice import FEATURES
from router.replay_trace import TraceRow

if TYPE_CHECKING:
    from router.replay_report import Figures, Reliability

MONTH_DAYS = 30
_NAME_WIDTH = len("auto + session_start")
_CENTS_BELOW = 10_000.0


class Source(NamedTuple):
    """Where rows come from.

    Attributes:
        rows: Gives them anew for every policy; a made-up month is never held as a whole.
        expected: How many to expect, for the progress bar.
        per_month: Requests 30 days have; None for a recorded trace, whose length says nothing about a month.
        notes: What has to be said of it with the figures.
    """

    name: str
    rows: Callable[[], Iterable[TraceRow]]
    expected: int
    per_month: float | None
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> "Source":
        """The same, with one thing more to say."""
        return self._replace(notes=(*self.notes, note))


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
    """What each way came to; in 80 columns, because a cut figure is worse than none."""
    priced = found[0].bill_nano_usd is not None
    warmed = any(figures.warms or figures.switched_off for figures in found)
    columns: dict[str, Callable[[Figures], str]] = {"policy": lambda figures: figures.policy}
    if priced:
        columns["$" if source.per_month is None else "$ / 30 days"] = lambda figures: _usd(figures, source)
        columns["saving"] = lambda figures: "-" if figures.saving is None else f"{figures.saving:.1%}"
    columns["cost"] = lambda figures: f"{figures.relative_cost:.4f}"
    if warmed:
        columns["warms"] = lambda figures: f"{figures.warms:,}"
        columns["of cost"] = lambda figures: f"{figures.warm_share:.1%}"
        columns["off"] = lambda figures: f"{figures.switched_off:,}"
        columns["begins"] = lambda figures: f"{figures.first_token_s:.3f}s"
    else:
        columns["95 %"] = lambda figures: f"{figures.interval[0]:.3f}-{figures.interval[1]:.3f}"
        columns["regret"] = lambda figures: "-" if figures.regret is None else f"{figures.regret:.4f}"
        columns["read"] = lambda figures: f"{figures.split.read / max(1, figures.split.total):.1%}"
    if not priced and not warmed:
        # There is room for dollars or for the planner's own time.
        columns["written"] = lambda figures: f"{_written(figures):.1%}"
        columns["us p50"] = lambda figures: _us(figures.decision_p50_us)
        columns["us p99"] = lambda figures: _us(figures.decision_p99_us)
    caption = "cost: of input, 1 = no caching; " + (
        "warms of it and their share; off: not sent, as they lost; begins: first token"
        if warmed
        else "regret: above the bound"
    )
    table = Table(
        title=f"{source.name}, {model}" if model else None,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in columns:
        width = min(_NAME_WIDTH, max(len(figures.policy) for figures in found)) if name == "policy" else None
        table.add_column(name, min_width=width, justify="left" if width else "right")
    for figures in found:
        table.add_row(*[shown(figures) for shown in columns.values()])
    return table


def _usd(figures: "Figures", source: Source) -> str:
    if figures.bill_nano_usd is None:
        return "-"
    monthly = monthly_usd(figures.bill_nano_usd, figures, source)
    usd = figures.bill_nano_usd / 1e9 if monthly is None else monthly
    return f"{usd:,.2f}" if usd < _CENTS_BELOW else f"{usd:,.0f}"


def _written(figures: "Figures") -> float:
    split = figures.split
    return (split.write_5m + split.write_1h) / max(1, split.total)


def _us(time_us: float | None) -> str:
    return "-" if time_us is None else f"{time_us:.0f}"


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


def chances(found: "Sequence[Figures]") -> Table:
    """How good the chances that keep-alives go by were, with a foresight and without."""
    table = Table(
        "a next turn within 5 minutes", "requests", "Brier", "calibration error", "AUROC", title="chances"
    )
    for figures in found:
        as_used = "both, as used" if figures.foreseen.requests else "learnt online"
        for what, judged in ((as_used, figures.next_turn), ("foresight alone", figures.foreseen)):
            if judged.brier is None or judged.ece is None:
                continue
            area = "-" if judged.auroc is None else f"{judged.auroc:.3f}"
            table.add_row(
                f"{figures.policy}: {what}",
                f"{judged.requests:,}",
                f"{judged.brier:.4f}",
                f"{judged.ece:.4f}",
                area,
            )
    return table
