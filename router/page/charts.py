"""Charts as SVG text: columns, a line, bars, a reliability diagram, ranges; each with a title and a description.

The rule: pure. Numbers in, text out, the same for the same numbers: coordinates have one decimal. Colours are classes,
so that the page chooses them for light, dark and paper. Sizes suit a card of 360 units and more, so that text stays
readable on a telephone. What is None is not drawn, and never as 0. Every name is escaped here, by whoever writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 8.0, 10.0, 26.0
ROW = 26.0

Spell = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values of one colour; None where there is none. `style` is its class: opus, flash, ours, good or bad."""

    name: str
    style: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a chart is called: `key` is unique on the page, `detail` says in a sentence what it shows."""

    key: str
    title: str
    detail: str


def columns(frame: Frame, labels: Sequence[str], series: Sequence[Series], spell: Spell) -> str:
    """Draw stacked columns; negative values go below the axis."""
    ups = [sum(max(0.0, s.values[i] or 0.0) for s in series) for i in range(len(labels))]
    downs = [sum(min(0.0, s.values[i] or 0.0) for s in series) for i in range(len(labels))]
    scale = _Scale(min([0.0, *downs]), max([0.0, *ups]))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    width = max(0.6, step * 0.82) if step > 3 else step
    parts = [_grid(scale, spell), _labels(labels, step)]
    for index, label in enumerate(labels):
        up = down = 0.0
        x = LEFT + index * step + (step - width) / 2
        for each in series:
            value = each.values[index]
            if not value:
                continue
            low, high = (up, up + value) if value > 0 else (down + value, down)
            up, down = (high, down) if value > 0 else (up, low)
            y, height = scale.y(high), scale.y(low) - scale.y(high)
            parts.append(
                f'<rect class="{each.style}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}">'
                f"<title>{escape(label)}, {escape(each.name)}: {escape(spell(value))}</title></rect>"
            )
    parts.append(_zero(scale))
    return _svg(frame, parts, HEIGHT)


def line(frame: Frame, labels: Sequence[str], series: Series, spell: Spell, *, target: float | None) -> str:
    """Draw shares in [0, 1] over time; a gap where there is no value; `target` as a dashed line."""
    scale = _Scale(0.0, 1.0)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    parts = [_grid(scale, spell), _labels(labels, step)]
    if target is not None:
        y = scale.y(target)
        parts.append(f'<path class="target" d="M{LEFT:.1f} {y:.1f}H{WIDTH - RIGHT:.1f}"/>')
    path, pen = [], "M"
    for index, value in enumerate(series.values):
        if value is None:
            pen = "M"
            continue
        x, y = LEFT + (index + 0.5) * step, scale.y(value)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
        parts.append(
            f'<circle class="{series.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.2">'
            f"<title>{escape(labels[index])}: {escape(spell(value))}</title></circle>"
        )
    parts.append(f'<path class="line {series.style}" d="{"".join(path)}"/>' if path else "")
    return _svg(frame, parts, HEIGHT)


def bars(frame: Frame, names: Sequence[str], values: Sequence[float | None], style: str, spell: Spell) -> str:
    """Draw horizontal bars, one a name, its value beside it; a value of None is said, not drawn."""
    known = [value for value in values if value is not None]
    most = max([0.0, *known]) or 1.0
    parts = []
    room = WIDTH - 4.0
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        y = index * ROW
        length = 0.0 if value is None else max(0.0, value) / most * room
        told = "unknown" if value is None else spell(value)
        parts.append(f'<text class="name" x="2" y="{y + 11:.1f}">{escape(_cut(name))}</text>')
        parts.append(f'<text class="value" x="{WIDTH - 2:.1f}" y="{y + 11:.1f}">{escape(told)}</text>')
        parts.append(f'<rect class="track" x="2" y="{y + 15:.1f}" width="{room:.1f}" height="6" rx="2"/>')
        if length:
            parts.append(
                f'<rect class="{style}" x="2" y="{y + 15:.1f}" width="{max(1.0, length):.1f}" height="6" rx="2">'
                f"<title>{escape(name)}: {escape(told)}</title></rect>"
            )
    return _svg(frame, parts, max(ROW, len(names) * ROW))


def reliability(frame: Frame, points: Sequence[tuple[float, float, int]], style: str) -> str:
    """Draw (mean chance given, share that came true, count) against the diagonal, on which a true chance lies."""
    scale = _Scale(0.0, 1.0)
    across = WIDTH - LEFT - RIGHT
    parts = [_grid(scale, percent)]
    for tenth in (0, 2, 4, 6, 8, 10):
        x = LEFT + across * tenth / 10
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{HEIGHT - 10:.1f}">{percent(tenth / 10)}</text>')
    y0, y1 = scale.y(0.0), scale.y(1.0)
    parts.append(f'<path class="target" d="M{LEFT:.1f} {y0:.1f}L{WIDTH - RIGHT:.1f} {y1:.1f}"/>')
    most = max((count for _, _, count in points), default=1)
    for given, true, count in points:
        radius = 2.0 + 6.0 * (count / most) ** 0.5
        parts.append(
            f'<circle class="{style} see" cx="{LEFT + across * given:.1f}" cy="{scale.y(true):.1f}" r="{radius:.1f}">'
            f"<title>given {percent(given)}, came true {percent(true)}, {count:,} cases</title></circle>"
        )
    return _svg(frame, parts, HEIGHT)


def ranges(frame: Frame, rows: Sequence[tuple[str, str, tuple[float, ...]]], spell: Spell) -> str:
    """Draw p50, p90 and p99 of (name, style, values) on a logarithmic axis."""
    # Latencies are told to a tenth of a millisecond, so a shorter one is drawn at the axis's end.
    known = [max(value, 1e-5) for _, _, values in rows for value in values]
    low = 10.0 ** floor(log10(min(known, default=0.001)))
    high = 10.0 ** (floor(log10(max(known, default=1.0))) + 1)
    parts, left = [], 20.0
    across = WIDTH - left - 16.0
    height = len(rows) * ROW * 1.3 + BOTTOM

    def x(value: float) -> float:
        return left + across * (log10(max(value, low) / low) / log10(high / low))

    decade = low
    while decade <= high * 1.001:
        at = x(decade)
        parts.append(f'<path class="grid" d="M{at:.1f} 0V{height - BOTTOM:.1f}"/>')
        parts.append(
            f'<text class="tick mid" x="{at:.1f}" y="{height - 10:.1f}">{escape(spell(decade))}</text>'
        )
        decade *= 10
    for index, (name, style, values) in enumerate(rows):
        y = index * ROW * 1.3 + 24
        told = " / ".join(spell(value) for value in values)
        parts.append(f'<text class="name" x="2" y="{y - 11:.1f}">{escape(name)}</text>')
        parts.append(f'<text class="value" x="{WIDTH - 2:.1f}" y="{y - 11:.1f}">{escape(told)}</text>')
        parts.append(f'<path class="line {style}" d="M{x(values[0]):.1f} {y:.1f}H{x(values[-1]):.1f}"/>')
        parts += [
            f'<circle class="{style}" cx="{x(value):.1f}" cy="{y:.1f}" r="{4 - number:.1f}"/>'
            for number, value in enumerate(values)
        ]
    return _svg(frame, parts, height)


def percent(share: float) -> str:
    """Spell a share for an axis."""
    return f"{share * 100:.0f} %"


def dollars(nano_usd: float) -> str:
    """Spell nano-USD for an axis or a label, with three digits; tables have them all."""
    usd = abs(nano_usd) / 1e9
    sign = "-" if nano_usd < 0 else ""
    if usd == 0:
        return "$0"
    if usd >= 1_000_000:
        return f"{sign}${usd / 1e6:.3g}M"
    if usd >= 1_000:
        return f"{sign}${usd / 1e3:.3g}k"
    if usd >= 100:
        return f"{sign}${usd:.0f}"
    return f"{sign}${usd:.{max(2, 2 - floor(log10(usd)))}f}"


def counted(value: float) -> str:
    """Spell a count for an axis."""
    return (
        f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k" if value >= 1e4 else f"{value:,.0f}"
    )


def duration(seconds: float) -> str:
    """Spell a duration."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


class _Scale:
    """Values to heights, from 0 or below to a round number at or above the most."""

    def __init__(self, low: float, high: float) -> None:
        span = high - low if high > low else 1.0
        step = _round_up(span / 4)
        self.low = floor(low / step) * step
        self.high = -floor(-high / step) * step if high > low else step
        count = round((self.high - self.low) / step)
        self.ticks = [self.low + step * number for number in range(count + 1)]

    def y(self, value: float) -> float:
        """Height of a value in the drawing, from its top."""
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is not below `value`."""
    if not isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * 0.999_999)


def _grid(scale: _Scale, spell: Spell) -> str:
    lines = []
    for tick in scale.ticks:
        y = scale.y(tick)
        lines.append(f'<path class="grid" d="M{LEFT:.1f} {y:.1f}H{WIDTH - RIGHT:.1f}"/>')
        lines.append(
            f'<text class="tick end" x="{LEFT - 5:.1f}" y="{y + 3.5:.1f}">{escape(spell(tick))}</text>'
        )
    return "".join(lines)


def _zero(scale: _Scale) -> str:
    return f'<path class="axis" d="M{LEFT:.1f} {scale.y(0.0):.1f}H{WIDTH - RIGHT:.1f}"/>'


def _labels(labels: Sequence[str], step: float) -> str:
    """Write as many labels below as have room, the first among them."""
    widest = max((len(label) for label in labels), default=1) * 6.2 + 8
    every = max(1, -(-int(widest) // max(1, int(step))))
    found = []
    for index in range(0, len(labels), every):
        x = LEFT + (index + 0.5) * step
        # The outermost stay within the drawing.
        half = len(labels[index]) * 3.0
        x = min(max(x, half + 2), WIDTH - half - 2)
        found.append(
            f'<text class="tick mid" x="{x:.1f}" y="{HEIGHT - 10:.1f}">{escape(labels[index])}</text>'
        )
    return "".join(found)


def _cut(name: str) -> str:
    """A name that fits beside its value; the table has it whole."""
    return name if len(name) <= 38 else name[:37] + "…"


def _svg(frame: Frame, parts: Sequence[str], height: float) -> str:
    key = escape(frame.key)
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(frame.title)}</title><desc id="{key}-d">{escape(frame.detail)}</desc>'
        f"{''.join(parts)}</svg>"
    )
