"""Reports for people: summaries and cost rows as tables, in colour on a terminal or as plain text.

The rule: every figure shown comes from the summary as it is; this module only lays out. Each rate is shown
with its definition, each sum with the number of calls it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from router.doctor import Diagnosis, Finding, finding_groups
from router.money import UNKNOWN, percent, ratio, usd
from router.report import COST_PARTS, MEANINGS, PERCENTS, TOKEN_KINDS, Reconciliation, Summary

if TYPE_CHECKING:
    from router.v1.operator_service_pb2 import CostComparison, CostRow, GetCostsResponse, WarmReport


_WORDS_WIDTH = 12
"""Columns that words are left with, however wide the figures beside them."""
_GAP, _EDGES = 3, 1
"""Columns between two cells of `blank_table`, and at its edges beyond them."""


def summary_tables(summary: Summary) -> RenderableType:
    """Lay a summary out, from calls and routes to misses and reconciliation."""
    blocks: list[RenderableType] = [_headline(summary), _routes(summary), _tokens(summary), _cost(summary)]
    blocks += [_hit_rate(summary), _savings(summary), _latencies(summary)]
    if summary.misses:
        blocks.append(_misses(summary))
    if summary.reconciliation is not None:
        blocks.append(_reconciliation(summary.reconciliation))
    return Group(*blocks)


def costs_table(response: GetCostsResponse, dimension: str) -> RenderableType:
    """Lay out rows of OperatorService.GetCosts.

    Args:
        response: Rows, dearest first, and their total.
        dimension: What the rows are summed by, for the heading, e.g. "route".
    """
    by = f" by {dimension}" if dimension else ""
    key = dimension or "all"
    costs = blank_table(f"Costs{by}", [key, "calls", "cost", "share", "saved by caching", "saved in all"])
    tokens = blank_table(f"Tokens{by}", [key, "input", "read", "written", "output", "unknown"])
    total = response.total.cost.total_nano_usd
    for row in response.rows:
        # As Text: a tenant may be called "[red]".
        costs.add_row(*map(Text, _cost_cells(row, row.key or "(none)", total)))
        tokens.add_row(*map(Text, _token_cells(row, row.key or "(none)")))
    if len(response.rows) != 1:
        for table, cells in (
            (costs, _cost_cells(response.total, "total", total)),
            (tokens, _token_cells(response.total, "total")),
        ):
            table.add_section()
            table.add_row(*map(Text, cells), style="bold")
    note = Text(
        "saved by caching: against the same calls, all input uncached; saved in all: against all calls on "
    )
    note.append(
        "Opus, uncached. Each over the calls where both are known. read and written are part of input; "
    )
    note.append("unknown counts calls whose cost is not known.")
    if response.total.unknown_cost_count or response.total.incomplete_count:
        note.append("\n" + _unseen_note(response.total))
    return Group(costs, tokens, note)


def warms_line(report: WarmReport) -> RenderableType:
    """Say what warms came to, what they cost and what they brought."""
    parts = [
        f"{report.used_count:,} used",
        f"{report.wasted_count:,} wasted",
        f"{report.superfluous_count:,} superfluous",
        f"{report.held_out_count:,} held out",
    ]
    if report.open_count:
        parts.append(f"{report.open_count:,} not settled")
    text = Text(f"Warms: {', '.join(parts)}; they cost {usd(report.spent_nano_usd)} and ")
    brought = report.brought_nano_usd
    text.append(f"{'brought' if brought >= 0 else 'lost'} {usd(abs(brought))} net, by their own prediction")
    if report.HasField("benefit_nano_usd"):
        low, high = usd(report.benefit_low_nano_usd), usd(report.benefit_high_nano_usd)
        text.append(
            f"; against the hold-out one brings {usd(report.benefit_nano_usd)} (95 %: {low} to {high}) and "
            f"{report.first_token_gain.ToTimedelta().total_seconds():.3f} s to the first token"
        )
    else:
        text.append("; too few are held out to tell by")
    text.append(".")
    if report.switched_off_count:
        text.append(
            f" Switched off for now, because they lost: {report.switched_off_count:,} of tenants and applications."
        )
    return text


def diagnosis_tables(diagnosis: Diagnosis) -> RenderableType:
    """Lay out what cache misses cost: the totals, the findings, and for each what to do and which calls to look at."""
    if not diagnosis.calls:
        return Text("No calls on Opus in this selection of the ledger: nothing to diagnose.")
    head = _caching(diagnosis)
    if not diagnosis.findings:
        return Group(head, Text("No cache misses: every read that was expected came."))
    by_cause = diagnosis.by == "cause"
    unknown = any(finding.unknown_loss_calls for finding in diagnosis.findings)
    keys = [name.removeprefix("label:").replace("_", " ") for name in finding_groups(diagnosis.by)]
    words = [*keys, *([] if by_cause else ["cause"]), "layer"]
    figures = ["calls", "tokens", "lost", "share", *(["unknown"] if unknown else [])]
    table = blank_table(f"Cache misses on Opus by {keys[-1]}", [*words, *figures], words=len(words))
    notes = Text()
    for finding in diagnosis.findings:
        key = _spelled(finding.key) if by_cause else finding.key or "(none)"
        named = [key] if by_cause else [value or "(none)" for value in finding.group.values()]
        cells = (*named, *([] if by_cause else [_spelled(finding.cause)]), *_finding_cells(finding))
        # As Text: a tenant may be called "[red]".
        table.add_row(*(Text(cell) for cell in (cells if unknown else cells[:-1])))
        notes.append(f"{key}: ", style="bold").append(finding.advice + "\n")
        requests = ", ".join(f"{each.request_id} ({usd(each.lost_nano_usd)})" for each in finding.examples)
        notes.append(f"  dearest: {requests}\n", style="dim")
    if diagnosis.more_count:
        notes.append(
            f"{diagnosis.more_count:,} more with {usd(diagnosis.more_lost_nano_usd)} lost: --top shows them.\n"
        )
    notes.append(
        "tokens: missed; lost: billed beyond what it would have been had they been read; share: of what all input on "
        "Opus cost, the router's own calls included; unknown: calls of unknown loss, which are not in the sums."
    )
    return Group(head, table, notes)


def print_whole(renderable: RenderableType, console: Console | None = None) -> None:
    """Print without cutting a name or a figure: a table that a terminal has no room for runs over its edge."""
    console = Console() if console is None else console
    if isinstance(renderable, Group):
        for each in renderable.renderables:
            print_whole(each, console)
    elif isinstance(renderable, Table):
        room = console.width
        console.width = max(room, _least_width(renderable))
        console.print(renderable, crop=False)
        console.width = room
    else:
        console.print(renderable)


def _least_width(table: Table) -> int:
    """Columns that a table takes when no figure wraps and words do, at `_WORDS_WIDTH`, which they are left with."""
    total = _EDGES
    for column in table.columns:
        cells = (line for cell in (column.header, *column.cells) for line in str(cell).splitlines())
        width = max(map(cell_len, cells), default=0)
        if not column.no_wrap:
            width = column.min_width = min(width, _WORDS_WIDTH)
        total += width + _GAP
    return total


def render(renderable: RenderableType, *, width: int = 120) -> str:
    """Return a renderable as plain text of at most `width` columns, without colour."""
    out = StringIO()
    Console(file=out, width=width, color_system=None, legacy_windows=False).print(renderable)
    return out.getvalue()


def _cost_cells(row: CostRow, key: str, total_nano_usd: int) -> Iterable[str]:
    return (
        key,
        f"{row.call_count:,}",
        usd(row.cost.total_nano_usd),
        percent(ratio(row.cost.total_nano_usd, total_nano_usd)),
        _compared(row.no_caching),
        _compared(row.all_opus_no_caching),
    )


def _token_cells(row: CostRow, key: str) -> Iterable[str]:
    written = row.usage.cache_write_5m_tokens + row.usage.cache_write_1h_tokens
    return (
        key,
        f"{row.usage.input_tokens:,}",
        f"{row.usage.cache_read_tokens:,}",
        f"{written:,}",
        f"{row.usage.output_tokens:,}",
        f"{row.unknown_cost_count:,}",
    )


def _compared(comparison: CostComparison) -> str:
    if not comparison.call_count:
        return UNKNOWN
    saving = comparison.baseline_nano_usd - comparison.cost_nano_usd
    return f"{usd(saving)}\n{percent(ratio(saving, comparison.baseline_nano_usd), signed=True)}"


def _unseen_note(total: CostRow) -> str:
    """Say which calls the sums lack, which they hold only a floor of, and how much that can be."""
    parts = []
    if total.unknown_cost_count:
        parts.append(
            f"{counted_calls(total.unknown_cost_count)} of unknown cost are not in the sums: "
            f"at most {usd(total.unknown_cost_bound_nano_usd)}"
        )
    if total.incomplete_count:
        parts.append(
            f"{counted_calls(total.incomplete_count)} broke off and are in the sums with what was seen: "
            f"at most {usd(total.incomplete_bound_nano_usd)} more"
        )
    if total.unbounded_count:
        parts.append(
            f"{counted_calls(total.unbounded_count)} of these without a bound, not in what is said of the most"
        )
    return "; ".join(parts) + "."


def _caching(diagnosis: Diagnosis) -> Text:
    """Say what caching did on Opus in all, each rate with its definition."""
    user, lost = diagnosis.user, diagnosis.lost
    lines = [f"{counted_calls(diagnosis.calls)} on Opus"]
    if user is not None:
        lines[0] += (
            f", {user.calls:,} of users. Read share: {percent(diagnosis.read_share)} of input tokens were cache reads "
            f"({user.cache_read_tokens:,} of {user.input_tokens:,}, {counted_calls(user.usage_calls)} with usage)"
        )
        compared = f"over {counted_calls(user.no_caching.calls)} of users where both costs are known"
        lines.append(
            f"Saved by caching: {usd(diagnosis.saved_nano_usd)}, {compared}, against all input uncached"
        )
        if diagnosis.overhead:
            lines[-1] += f"; the router's own calls ({usd(diagnosis.overhead_nano_usd)}) are taken off"
        if user.padding_tokens:
            lines.append(
                f"Padding: {user.padding_tokens:,} tokens, {usd(user.padding_nano_usd)}, within the cost"
            )
    missed = f"Lost to misses: {usd(diagnosis.lost_nano_usd)} in {counted_calls(lost.calls if lost else 0)}"
    if lost is not None and lost.unknown_loss_calls:
        missed += f"; {counted_calls(lost.unknown_loss_calls)} of unknown loss beside it"
    lines.append(missed)
    return Text("".join(f"{line}.\n" for line in lines))


def _finding_cells(finding: Finding) -> tuple[str, ...]:
    return (
        ", ".join(map(_spelled, finding.layers)) or UNKNOWN,
        f"{finding.calls:,}",
        UNKNOWN if finding.unknown_token_misses == finding.misses else f"{finding.missed_tokens:,}",
        UNKNOWN if finding.unknown_loss_calls == finding.calls else usd(finding.lost_nano_usd),
        percent(finding.share),
        f"{finding.unknown_loss_calls:,}",
    )


def _spelled(name: str) -> str:
    return name.replace("_", " ") or "(none)"


def blank_table(title: str, columns: list[str], *, words: int = 1) -> Table:
    """Make a table without rows whose first `words` columns hold words, the others figures."""
    # A label's key may be "[red]", too.
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    # On a narrow terminal the words wrap, a long name too; nothing is cut.
    for column in columns[:words]:
        table.add_column(escape(column), overflow="fold")
    for column in columns[words:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def counted_calls(count: int) -> str:
    return f"{count:,} call" if count == 1 else f"{count:,} calls"


def _headline(summary: Summary) -> Text:
    parts = [f"{counted_calls(summary.call_count)}: {summary.answered_count:,} answered"]
    if summary.cancelled_count:
        parts.append(f"{summary.cancelled_count:,} left by the client")
    parts += [
        f"{count:,} failed with {status}" + (f" ({reason})" if reason not in ("", status) else "")
        for (status, reason), count in summary.failures.items()
    ]
    if summary.extra_attempt_count:
        parts.append(f"{summary.extra_attempt_count:,} further attempts")
    return Text(", ".join(parts) + ".")


def _routes(summary: Summary) -> RenderableType:
    table = blank_table("Routes", ["route", "calls", "share", "cost", "share of cost"])
    total = summary.bill.total_nano_usd
    for route in summary.routes:
        cost = route.bill.total_nano_usd
        table.add_row(
            route.route, f"{route.count:,}", percent(route.share), usd(cost), percent(ratio(cost, total))
        )
    if summary.no_route_count:
        table.add_row("(no decision seen)", f"{summary.no_route_count:,}", "", "", "")
    if not summary.reasons:
        return table
    reasons = (f"{name.replace('_', ' ')} {count:,}" for name, count in summary.reasons.items())
    return Group(table, Text("Decided by: " + ", ".join(reasons) + ".\n"))


def _tokens(summary: Summary) -> Table:
    table = blank_table("Tokens", ["kind", *(route.route for route in summary.routes), "all"])
    for kind in TOKEN_KINDS:
        label = {"input": "input, all of:", "thinking": "  of it thinking", "output": "output"}.get(
            kind, "  " + kind.replace("_", " ")
        )
        table.add_row(
            label, *(f"{route.tokens[kind]:,}" for route in summary.routes), f"{summary.tokens[kind]:,}"
        )
    return table


def _cost(summary: Summary) -> RenderableType:
    table = blank_table("Cost, USD", ["part", *(route.route for route in summary.routes), "all", "share"])
    total = summary.bill.total_nano_usd
    for part in COST_PARTS:
        value = summary.bill.parts_nano_usd[part]
        if value:
            table.add_row(
                part.replace("_", " "),
                *(usd(route.bill.parts_nano_usd[part]) for route in summary.routes),
                usd(value),
                percent(ratio(value, total)),
            )
    table.add_section()
    table.add_row(
        "total", *(usd(route.bill.total_nano_usd) for route in summary.routes), usd(total), "", style="bold"
    )
    if not summary.bill.unknown_count:
        return table
    calls = counted_calls(summary.bill.unknown_count)
    note = (
        f"The cost of {calls} was not told in full to this client (failed, left, or tried more than once); "
    )
    return Group(table, Text(note + "the ledger knows more.\n"))


def _hit_rate(summary: Summary) -> Text:
    hit = summary.hit_rate
    if not hit.calls:
        return Text("Cache hit rate on Opus: unknown, no call was answered there.\n")
    return Text(
        f"Cache hit rate on Opus: {percent(hit.of_tokens)} of input tokens were cache reads "
        f"({hit.read_tokens:,} of {hit.input_tokens:,}); {percent(hit.of_calls)} of calls read something "
        f"({hit.calls_with_read:,} of {hit.calls:,}).\n"
    )


def _savings(summary: Summary) -> RenderableType:
    table = blank_table("Saving against", ["counterfactual", "would cost", "cost", "saving", "%"])
    for saving in summary.savings:
        known = saving.known_count > 0
        table.add_row(
            MEANINGS.get(saving.name, saving.name.replace("_", " ")),
            usd(saving.counterfactual_nano_usd if known else None),
            usd(saving.cost_nano_usd if known else None),
            usd(saving.saving_nano_usd if known else None),
            percent(saving.share, signed=True),
        )
    unknown = max((saving.unknown_count for saving in summary.savings), default=0)
    if not unknown:
        return table
    return Group(table, Text(f"Calls not compared, because a cost is unknown: {unknown:,} at most.\n"))


def _latencies(summary: Summary) -> Table:
    table = blank_table("Latency, ms", ["", *(f"p{value}" for value in PERCENTS), "calls"])
    for entry in summary.latencies:
        cells = [f"{entry.at[value] * 1000:,.1f}" if entry.at else UNKNOWN for value in PERCENTS]
        table.add_row(entry.name, *cells, f"{entry.count:,}")
    return table


def _misses(summary: Summary) -> Table:
    table = blank_table(
        "Cache misses", ["cause", "count", "tokens missed", "cost of missing", "of unknown cost"]
    )
    for miss in summary.misses:
        table.add_row(
            miss.cause.replace("_", " "),
            f"{miss.count:,}",
            f"{miss.missed_tokens:,}",
            usd(miss.lost_nano_usd),
            f"{miss.lost_unknown_count:,}",
        )
    return table


def _reconciliation(entry: Reconciliation) -> Text:
    figures = f"ledger {usd(entry.ledger_nano_usd)}, invoice {usd(entry.invoice_nano_usd)}"
    if entry.difference_nano_usd == 0:
        return Text(f"Reconciliation: {figures}: equal to the nano-dollar.")
    unseen = []
    if entry.unknown_bound_nano_usd:
        unseen.append(f"calls of unknown cost may have cost (at most {usd(entry.unknown_bound_nano_usd)})")
    if entry.incomplete_count:
        unseen.append(
            f"{entry.incomplete_count:,} broken-off {'call' if entry.incomplete_count == 1 else 'calls'} may have "
            f"cost beyond what was seen (at most {usd(entry.incomplete_bound_nano_usd)})"
        )
    verdict = "within" if entry.agrees else "NOT explained by" if unseen else "NOT explained"
    return Text(
        f"Reconciliation: {figures}: difference {usd(entry.difference_nano_usd)}, {verdict}"
        f"{' what ' if unseen else ''}{' and what '.join(unseen)}.",
        style="" if entry.agrees else "bold red",
    )
