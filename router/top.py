"""What a router does right now, as one frame for a terminal: rates, routes, hit rate, errors, who spends.

The rule: pure. A `Frame` in, a renderable out, at any width from 30 columns: a narrow one shows fewer minutes and fewer
columns, never half a figure. What the source cannot tell is None and shown as unknown. No clock is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from router.money import NANO_PER_USD, UNKNOWN, percent, ratio

MINUTE_S = 60
_BLOCKS = "▁▂▃▄▅▆▇█"
NARROW = 60
"""Columns below which a frame leaves out what matters less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """Spend of one minute, by the start of its calls; the last one of a frame is not over."""

    start_s: int
    calls: int
    cost_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Calls of one route or application within the window.

    Attributes:
        input_tokens, read_tokens: Of calls with known usage.
        unknown_calls: Calls whose cost is not in `cost_nano_usd`.
    """

    name: str
    calls: int
    cost_nano_usd: int
    unknown_calls: int
    input_tokens: int = 0
    read_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One look.

    Attributes:
        source: What was asked.
        minutes: Consecutive, oldest first; the last is going on.
        errors: Count by reason, most first; None when the source does not tell.
        errors_since: What the errors are counted over, in words.
        in_flight: Requests being served; None when the source does not tell. `warm_prefixes` likewise.
        problem: Why this look failed, "" when it did not; the figures are then the last ones.
    """

    now_s: float
    source: str
    window_s: int
    minutes: tuple[Minute, ...]
    routes: tuple[Share, ...]
    applications: tuple[Share, ...]
    errors: tuple[tuple[str, int], ...] | None
    errors_since: str = ""
    in_flight: int | None = None
    warm_prefixes: int | None = None
    problem: str = ""

    def failed(self, problem: str, now_s: float) -> Frame:
        """Return the same figures with what went wrong since."""
        return replace(self, problem=problem, now_s=now_s)


def empty(source: str, now_s: float, window_s: int, problem: str) -> Frame:
    """Return a frame for a source that has not answered yet."""
    return Frame(
        now_s=now_s,
        source=source,
        window_s=window_s,
        minutes=(),
        routes=(),
        applications=(),
        errors=None,
        problem=problem,
    )


def starts(now_s: float, window_s: int) -> list[int]:
    """Return the starts of the minutes of a window that ends now, oldest first."""
    last = int(now_s // MINUTE_S) * MINUTE_S
    return list(range(last - window_s + MINUTE_S, last + 1, MINUTE_S))


def frame_text(frame: Frame, width: int) -> RenderableType:
    """Lay a frame out for so many columns."""
    blocks: list[RenderableType] = [_head(frame), _spend(frame, width)]
    blocks += [_routes(frame, width), _state(frame), _applications(frame, width)]
    if frame.problem:
        blocks.append(Text(frame.problem, style="bold red"))
    return Group(*blocks)


def _head(frame: Frame) -> Text:
    clock = datetime.fromtimestamp(frame.now_s, UTC).strftime("%H:%M:%S UTC")
    text = Text("hybrid-router top ", style="bold")
    return text.append(f"{clock}  {frame.source}, last {frame.window_s // MINUTE_S} min", style="dim")


def _spend(frame: Frame, width: int) -> Text:
    if not frame.minutes:
        return Text(f"spend per minute: {UNKNOWN}")
    known = [minute.cost_nano_usd for minute in frame.minutes]
    whole = known[:-1] or known
    calls = [minute.calls for minute in frame.minutes][:-1] or [frame.minutes[0].calls]
    shown = known[-max(1, min(len(known), width - 4)) :]
    lines = [
        f"spend {short(known[-1])} this minute, {short(whole[-1])} the last, "
        f"{short(sum(whole) // len(whole))} on average",
        f"calls {sum(calls) / len(calls):.1f} per minute",
        sparkline(shown),
    ]
    return Text("\n".join(lines))


def _routes(frame: Frame, width: int) -> RenderableType:
    if not frame.routes:
        return Text("no call in this window")
    total = sum(share.calls for share in frame.routes)
    narrow = width < NARROW
    table = _table(["route", "calls", "share", "spend", *([] if narrow else ["read from cache"]), "unknown"])
    for share in frame.routes:
        cells = [
            share.name,
            f"{share.calls:,}",
            percent(ratio(share.calls, total)),
            short(share.cost_nano_usd),
        ]
        if not narrow:
            cells.append(percent(ratio(share.read_tokens, share.input_tokens)))
        table.add_row(*map(Text, [*cells, f"{share.unknown_calls:,}"]))
    return table


def _state(frame: Frame) -> Text:
    opus = next((share for share in frame.routes if share.name == "opus"), None)
    hit = percent(ratio(opus.read_tokens, opus.input_tokens)) if opus else UNKNOWN
    in_flight = UNKNOWN if frame.in_flight is None else f"{frame.in_flight:,}"
    lines = [f"hit rate on Opus {hit}; in flight {in_flight}"]
    if frame.warm_prefixes is not None:
        lines[0] += f"; {frame.warm_prefixes:,} prefixes warm"
    if frame.errors is None:
        lines.append(f"errors {UNKNOWN}")
    elif frame.errors:
        told = ", ".join(f"{name} {count:,}" for name, count in frame.errors[:4])
        lines.append(f"errors{f' {frame.errors_since}' if frame.errors_since else ''}: {told}")
    else:
        lines.append("no errors" + (f" {frame.errors_since}" if frame.errors_since else ""))
    return Text("\n".join(lines))


def _applications(frame: Frame, width: int) -> RenderableType:
    if not frame.applications:
        return Text("")
    table = _table(["application", "calls", "spend"])
    for share in frame.applications[: 3 if width < NARROW else 8]:
        table.add_row(*map(Text, (share.name or "(none)", f"{share.calls:,}", short(share.cost_nano_usd))))
    return table


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title_justify="left")
    table.add_column(columns[0], overflow="ellipsis", no_wrap=True, ratio=None)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def sparkline(values: Sequence[int]) -> str:
    """Draw values as blocks of eight heights, the highest of them the most; nothing spent is a space."""
    most = max(values, default=0)
    return "".join(
        " " if value <= 0 else _BLOCKS[min(len(_BLOCKS) - 1, value * len(_BLOCKS) // (most + 1))]
        for value in values
    )


def short(nano_usd: int) -> str:
    """Spell an amount for a narrow column: cents above a dollar, four decimals and more below."""
    if abs(nano_usd) >= NANO_PER_USD:
        return f"{'-' if nano_usd < 0 else ''}${abs(nano_usd) / NANO_PER_USD:,.2f}"
    return f"{'-' if nano_usd < 0 else ''}${abs(nano_usd) / NANO_PER_USD:.6f}"
