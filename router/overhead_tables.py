"""Overhead, exploration and signed savings as tables. Every figure is `router.overhead`'s; this only lays out."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from router.money import UNKNOWN, percent, ratio, usd
from router.overhead import Exploration, Kind, Overhead
from router.report import MEANINGS
from router.tables import blank_table, counted_calls

_LABELS = {
    "warm": "warms",
    "probe": "probes",
    "shadow": "shadow calls",
    "discarded": "discarded answers",
    "retried": "tries that another followed",
}


def overhead_tables(found: Overhead) -> RenderableType:
    """Lay out what is spent on our own account, and what was saved once it is taken off."""
    blocks: list[RenderableType] = [_kinds(found), _savings(found)]
    blocks += [_explored(each) for each in found.explored]
    return Group(*blocks)


def _kinds(found: Overhead) -> RenderableType:
    table = blank_table("Overhead, apart from answers", ["", "calls", "cost", "share", "unknown", "floors"])
    for kind in found.kinds:
        table.add_row(*map(Text, _cells(kind, found.spent_nano_usd)))
    filler = found.padding
    cost = UNKNOWN if filler.calls and filler.unknown_calls == filler.calls else usd(filler.cost_nano_usd)
    share = percent(ratio(filler.cost_nano_usd, found.spent_nano_usd))
    table.add_row(
        "padding within answers", f"{filler.calls:,}", cost, share, f"{filler.unknown_calls:,}", "0"
    )
    table.add_section()
    total = (f"{sum(kind.calls for kind in found.kinds):,}", usd(found.total_nano_usd))
    table.add_row(
        "overhead",
        *total,
        percent(ratio(found.total_nano_usd, found.spent_nano_usd)),
        f"{found.unknown_calls + filler.unknown_calls:,}",
        f"{sum(kind.floor_calls for kind in found.kinds):,}",
        style="bold",
    )
    note = "share: of all cost that is known. unknown: calls whose cost is not in the sum; "
    note += "floors: calls in it with what was seen."
    unseen = [line for kind in found.kinds if (line := _unseen(kind))]
    return Group(table, Text("\n".join([note, *unseen]) + "\n"))


def _cells(kind: Kind, spent_nano_usd: int) -> tuple[str, ...]:
    lost = kind.calls and not kind.known_calls
    return (
        _LABELS[kind.name],
        f"{kind.calls:,}",
        UNKNOWN if lost else usd(kind.cost_nano_usd),
        UNKNOWN if lost else percent(ratio(kind.cost_nano_usd, spent_nano_usd)),
        f"{kind.unknown_calls:,}",
        f"{kind.floor_calls:,}",
    )


def _unseen(kind: Kind) -> str:
    """Say how much of a kind is not known, "" when all is."""
    parts = []
    if kind.unknown_calls:
        parts.append(
            f"{counted_calls(kind.unknown_calls)} of unknown cost, at most {usd(kind.unknown_bound_nano_usd)}"
        )
    if kind.floor_calls:
        parts.append(
            f"{counted_calls(kind.floor_calls)} with a floor, at most {usd(kind.floor_bound_nano_usd)} more"
        )
    if kind.unbounded_calls:
        parts.append(f"{counted_calls(kind.unbounded_calls)} of these without a bound")
    return f"{_LABELS[kind.name]}: {'; '.join(parts)}." if parts else ""


def _savings(found: Overhead) -> RenderableType:
    columns = ["counterfactual", "would cost", "saved", "less overhead", "answers"]
    table = blank_table("Saved against", columns)
    for each in found.savings:
        known = each.answers.calls > 0
        baseline = each.answers.baseline_nano_usd
        net = each.net_nano_usd
        share = None if net is None else ratio(net, baseline)
        table.add_row(
            MEANINGS[each.name],
            usd(baseline if known else None),
            usd(each.answers.saving_nano_usd if known else None),
            usd(net) if share is None else f"{usd(net)}\n{percent(share, signed=True)}",
            f"{each.answers.calls:,}",
        )
    note = "Over answers to users where both costs are known; less overhead: known cost of overhead calls taken off."
    return Group(table, Text(f"{note} Negative: it cost more.\n"))


def _explored(each: Exploration) -> Text:
    text = f"Exploration: {counted_calls(each.calls)} drawn to {each.route}, {usd(each.cost_nano_usd)}"
    if each.unknown_calls:
        text += f" and {counted_calls(each.unknown_calls)} of unknown cost"
    if each.other_route.calls:
        extra = -each.other_route.saving_nano_usd
        text += (
            f"; on the other route {usd(each.other_route.baseline_nano_usd)} over "
            f"{counted_calls(each.other_route.calls)}, so exploring cost {usd(extra)}"
        )
    else:
        text += "; what the other route would have cost is unknown"
    return Text(text + ".")
