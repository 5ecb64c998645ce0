"""The page: tiles of the main figures, a card for each question, a table behind each chart.

The rule: every figure is `Figures`' own; this module words and lays out. Money is exact to the nano-dollar in tables
and short in charts. Unknown is said where it matters, with its bound. Names of applications, tenants, sessions and
models are escaped, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from math import isfinite

from cache.regret import Estimate
from router.ledger import Comparison
from router.ledger.past import Past
from router.ledger.reports import CHANCE_BINS, PERCENTS, SCORE_BINS, Bin, Group, Money, Quantiles
from router.money import UNKNOWN, ratio, usd
from router.money import percent as exact_percent
from router.overhead import Kind
from router.page.charts import (
    Frame,
    Series,
    bars,
    columns,
    counted,
    dollars,
    duration,
    line,
    percent,
    ranges,
    reliability,
)
from router.page.figures import DAY_S, HOUR_S, TOP, Figures, Moment
from router.page.style import STYLE
from router.report import MEANINGS

HIT_RATE_TARGET = 0.6
"""Below it, deploy's alert on the hit rate of Opus fires."""

_KINDS = {
    "warm": "Warms",
    "probe": "Probes",
    "shadow": "Shadow calls",
    "discarded": "Discarded answers",
    "retried": "Tries that another followed",
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(found: Figures | None, *, title: str = "LLM spend and routing") -> str:
    """Write the whole page; without figures it says that the window holds no call."""
    if found is None:
        body = f"<main><h1>{escape(title)}</h1><p>No call in this window of the ledger.</p></main>"
        return _document(title, body)
    cards = [
        _spend(found),
        _savings_over_time(found),
        _routes(found),
        _hit_rate(found),
        _misses(found),
        _overhead(found),
        _warms(found),
        _scores(found),
        _calibration(found),
        _beliefs(found),
        _latency(found),
        _dearest(found.applications, "applications", "Dearest applications", ("Application",)),
        _dearest(found.sessions, "sessions", "Dearest sessions", ("Tenant", "Session")),
        _dearest(found.models, "models", "Models that answered", ("Model",)),
        _errors(found),
        _savings(found),
        _unknown(found),
    ]
    body = (
        f"<main><header><h1>{escape(title)}</h1><p class=soft>{_window(found)}</p></header>"
        f"<dl class=tiles>{_tiles(found)}</dl><div class=cards>{''.join(cards)}</div>{_FOOTER}</main>"
    )
    return _document(title, body)


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


_FOOTER = (
    "<footer><p>From the ledger of hybrid-router: every call of the window, none sampled. A call belongs to the moment "
    "it began, UTC. Costs are those of known usage; calls of unknown cost are in no sum and are listed with the most "
    "they can have cost. A floor is a call that broke off before the provider's last count: it is in the sums with "
    "what was seen. "
    "What calls would have cost on another route is an estimate in that route's own tokens.</p></footer>"
)


# --- head
# --------------------------------------------------------------------------------------------------------------


def _window(found: Figures) -> str:
    text = f"{_stamp(found.since_s)} to {_stamp(found.until_s)} UTC, {_count(found.total.calls, 'call')}"
    if found.filters:
        text += ", only " + ", ".join(f"{name} = {value}" for name, value in sorted(found.filters.items()))
    if found.past is not None:
        text += f". {_left_out(found.past)}"
    return escape(text) + "."


def _left_out(past: Past) -> str:
    text = f"Not on this page: calls from before {_stamp(past.before_s)[:10]}, kept as sums by day"
    if past.sums is None:
        return text
    return f"{text} ({_count(past.sums.calls, 'call')}, {usd(past.sums.cost.total_nano_usd)})"


def _tiles(found: Figures) -> str:
    total, opus = found.total, found.answers.get("opus")
    answers = sum(money.calls for money in found.answers.values())
    net = found.net_nano_usd("all_opus_no_caching")
    baseline = found.savings["all_opus_no_caching"]
    share = None if net is None else ratio(net, baseline.baseline_nano_usd)
    ours = found.overhead_nano_usd + found.padding.cost_nano_usd
    unseen = total.unknown_bound_nano_usd + total.floor_bound_nano_usd
    return "".join(
        (
            _tile("Spent", dollars(total.cost_nano_usd), usd(total.cost_nano_usd)),
            _tile(
                "Saved, less overhead",
                UNKNOWN if net is None else dollars(net),
                f"{exact_percent(share, signed=True)} against all on Opus, uncached; "
                f"{_count(baseline.calls, 'answer')} compared",
            ),
            _tile(
                "Answered by Opus",
                exact_percent(ratio(opus.calls if opus else 0, answers)),
                f"{opus.calls if opus else 0:,} of {answers:,} answers",
            ),
            _tile(
                "Cache hit rate on Opus", exact_percent(found.hit_rate), "input tokens read from the cache"
            ),
            _tile(
                "Overhead",
                exact_percent(ratio(ours, total.cost_nano_usd)),
                f"{dollars(ours)}: our own calls, and padding",
            ),
            _tile(
                "Not known",
                _count(total.unknown_calls, "call"),
                f"and {_count(total.floor_calls, 'floor')}: at most {dollars(unseen)} more"
                + (f", {total.unbounded_calls:,} without a bound" if total.unbounded_calls else ""),
            ),
        )
    )


def _tile(name: str, figure: str, note: str) -> str:
    return f"<div class=tile><dt>{escape(name)}</dt><dd>{escape(figure)}</dd><dd>{escape(note)}</dd></div>"


# --- over time
# --------------------------------------------------------------------------------------------------------------


def _spend(found: Figures) -> str:
    names = (*sorted(found.answers, reverse=True), "overhead")
    series = [
        Series(
            name=name, style=_style(name), values=tuple(m.spent_nano_usd.get(name, 0) for m in found.moments)
        )
        for name in names
    ]
    frame = Frame(
        key="spend",
        title=f"Spend by {_unit(found)}",
        detail=f"Known cost by {_unit(found)} and route, overhead apart: {dollars(found.total.cost_nano_usd)} in all.",
    )
    head = (_unit(found).capitalize(), *(name.capitalize() for name in names), "Unknown calls")
    rows = [
        (_label(found, m), *(usd(m.spent_nano_usd.get(name, 0)) for name in names), f"{m.unknown_calls:,}")
        for m in found.moments
    ]
    return _card(
        frame,
        columns(frame, _moment_labels(found), series, dollars),
        head,
        rows,
        legend=[(n, _style(n)) for n in names],
    )


def _savings_over_time(found: Figures) -> str:
    net = [m.net_nano_usd for m in found.moments]
    series = [
        Series(name="saved", style="good", values=tuple(None if v is None or v < 0 else v for v in net)),
        Series(name="lost", style="bad", values=tuple(None if v is None or v >= 0 else v for v in net)),
    ]
    whole = found.net_nano_usd("all_opus_no_caching")
    frame = Frame(
        key="saved",
        title=f"Saved by {_unit(found)}, less overhead",
        detail="Against all calls on Opus with all input uncached, over answers where both costs are known: "
        f"{UNKNOWN if whole is None else dollars(whole)} in all.",
    )
    rows = [
        (
            _label(found, m),
            usd(m.saved.baseline_nano_usd if m.saved.calls else None),
            usd(m.saved.cost_nano_usd if m.saved.calls else None),
            usd(m.overhead_nano_usd),
            usd(m.net_nano_usd),
            f"{m.saved.calls:,}",
        )
        for m in found.moments
    ]
    head = (
        _unit(found).capitalize(),
        "Would have cost",
        "Answers cost",
        "Overhead",
        "Saved",
        "Answers compared",
    )
    return _card(
        frame,
        columns(frame, _moment_labels(found), series, dollars),
        head,
        rows,
        legend=[("saved", "good"), ("lost", "bad")],
    )


def _routes(found: Figures) -> str:
    names = sorted(found.answers, reverse=True)
    shares = [
        tuple(
            m.answers.get(name, 0) / total if (total := sum(m.answers.values())) else None
            for m in found.moments
        )
        for name in names
    ]
    series = [Series(name=n, style=_style(n), values=v) for n, v in zip(names, shares, strict=True)]
    told = ", ".join(f"{name} {found.answers[name].calls:,}" for name in names)
    frame = Frame(key="routes", title="Route mix", detail=f"Share of answers by route: {told}.")
    rows = [(_label(found, m), *(f"{m.answers.get(name, 0):,}" for name in names)) for m in found.moments]
    head = (_unit(found).capitalize(), *(f"{name.capitalize()} answers" for name in names))
    return _card(
        frame,
        columns(frame, _moment_labels(found), series, percent),
        head,
        rows,
        legend=[(n, _style(n)) for n in names],
    )


def _hit_rate(found: Figures) -> str:
    values = tuple(None if m.hit_rate is None else float(m.hit_rate) for m in found.moments)
    frame = Frame(
        key="hits",
        title="Cache hit rate on Opus",
        detail=f"Cache reads per input token; {exact_percent(found.hit_rate)} in all. "
        f"The dashed line is the target, {percent(HIT_RATE_TARGET)}.",
    )
    rows = [
        (_label(found, m), f"{m.input_tokens:,}", f"{m.read_tokens:,}", exact_percent(m.hit_rate))
        for m in found.moments
    ]
    chart = line(
        frame,
        _moment_labels(found),
        Series(name="hit rate", style="opus", values=values),
        percent,
        target=HIT_RATE_TARGET,
    )
    return _card(frame, chart, (_unit(found).capitalize(), "Input tokens", "Read", "Hit rate"), rows)


# --- the cache and overhead
# --------------------------------------------------------------------------------------------------------------


def _misses(found: Figures) -> str:
    lost = sum(row.lost_nano_usd for row in found.misses)
    frame = Frame(
        key="misses",
        title="Cache misses by cause",
        detail=f"What was billed beyond what reading would have cost, where known: {dollars(lost)} in all.",
    )
    names = [row.group["cause"].replace("_", " ") for row in found.misses]
    if not names:
        return _said(frame, "Nothing was missed: every read that was expected came.")
    values = [
        None if row.unknown_loss_calls == row.calls else float(row.lost_nano_usd) for row in found.misses
    ]
    rows = [
        (
            name,
            f"{row.calls:,}",
            f"{row.missed_tokens:,}",
            usd(row.lost_nano_usd),
            f"{row.unknown_loss_calls:,}",
        )
        for name, row in zip(names, found.misses, strict=True)
    ]
    head = ("Cause", "Calls", "Tokens missed", "Lost", "Of unknown loss")
    return _card(frame, bars(frame, names, values, "bad", dollars), head, rows)


def _overhead(found: Figures) -> str:
    filler = found.padding
    names = [*(_KINDS[kind.name] for kind in found.overhead), "Padding within answers"]
    padding = None if filler.calls and filler.unknown_calls == filler.calls else filler.cost_nano_usd
    values = [*(_kind_cost(kind) for kind in found.overhead), padding]
    frame = Frame(
        key="overhead",
        title="Overhead of our own",
        detail="Calls no user asked for or got, and filler within answers: "
        f"{dollars(found.overhead_nano_usd + filler.cost_nano_usd)} of known cost.",
    )
    rows = [
        (
            _KINDS[kind.name],
            f"{kind.calls:,}",
            usd(_kind_cost(kind)),
            f"{kind.unknown_calls:,}",
            usd(kind.unknown_bound_nano_usd),
            f"{kind.floor_calls:,}",
        )
        for kind in found.overhead
    ]
    rows.append(
        ("Padding within answers", f"{filler.calls:,}", usd(padding), f"{filler.unknown_calls:,}", "", "")
    )
    head = ("Kind", "Calls", "Cost", "Unknown", "At most", "Floors")
    drawn = "".join(f"<p class=say>{escape(_drawn(*each))}</p>" for each in found.explored)
    return _card(frame, bars(frame, names, values, "ours", dollars), head, rows, after=drawn)


def _drawn(route: str, calls: int, other: Comparison) -> str:
    drawn = f"Exploration: {_count(calls, 'answer')} drawn to {route}"
    if not other.calls:
        return f"{drawn}; nothing to compare with."
    would = f"the other route would have cost {dollars(other.baseline_nano_usd)}"
    return f"{drawn}; {would}, they cost {dollars(other.cost_nano_usd)} ({other.calls:,} compared)."


def _kind_cost(kind: Kind) -> int | None:
    return None if kind.calls and not kind.known_calls else kind.cost_nano_usd


def _warms(found: Figures) -> str:
    frame = Frame(
        key="warms",
        title="Warms, and what they brought",
        detail="Decisions to keep a prefix warm, once it is settled whether a request came. Benefit: a warm's own "
        "prediction where a request came, its cost taken off. Per warm: against those held out at random, with the "
        "95 % interval; below zero it is regret.",
    )
    if not found.warms:
        return _said(frame, "No decision to warm is settled in this window.")
    rows = [
        (
            row.group["tenant"] or "(none)",
            row.group["application"] or "(none)",
            *(f"{count:,}" for count in (row.used, row.wasted, row.superfluous, row.held_out)),
            usd(row.cost_nano_usd),
            usd(row.benefit_nano_usd),
            _per_warm(row.estimate),
        )
        for row in found.warms
    ]
    head = (
        "Tenant",
        "Application",
        "Used",
        "Wasted",
        "Superfluous",
        "Held out",
        "Cost",
        "Benefit",
        "Per warm",
    )
    return _table_card(frame, head, rows, words=2)


def _per_warm(found: Estimate | None) -> str:
    if found is None:
        return UNKNOWN
    mean, low, high = (
        usd(round(each * 1e9)) if isfinite(each) else UNKNOWN
        for each in (found.usd, found.low_usd, found.high_usd)
    )
    return f"{mean} ({low} to {high})"


# --- the classifier
# --------------------------------------------------------------------------------------------------------------


def _scores(found: Figures) -> str:
    frame = Frame(
        key="scores",
        title="Classifier scores",
        detail="Answers by the calibrated chance that Opus was needed, in twentieths, by the route that answered.",
    )
    if not found.scores:
        return _said(frame, "No answer of this window carries a score.")
    routes = sorted({each.route for each in found.scores}, reverse=True)
    count = {(each.route, each.number): each.count for each in found.scores}
    labels = [f"{number / SCORE_BINS:.2f}" for number in range(SCORE_BINS)]
    series = [
        Series(name=r, style=_style(r), values=tuple(count.get((r, n), 0) for n in range(SCORE_BINS)))
        for r in routes
    ]
    rows = [
        (
            f"{n / SCORE_BINS:.2f} to {(n + 1) / SCORE_BINS:.2f}",
            *(f"{count.get((r, n), 0):,}" for r in routes),
        )
        for n in range(SCORE_BINS)
    ]
    return _card(
        frame,
        columns(frame, labels, series, counted),
        ("Score", *(r.capitalize() for r in routes)),
        rows,
        legend=[(r, _style(r)) for r in routes],
    )


def _calibration(found: Figures) -> str:
    judged = found.judged
    frame = Frame(
        key="calibration",
        title="Classifier calibration",
        detail="Share of judged requests that needed Opus, by tenth of the score; on the dashed line scores are true.",
    )
    if not judged.requests or judged.brier is None:
        silent = (
            f" {_count(judged.silent, 'judged request')} did not have that said." if judged.silent else ""
        )
        return _said(frame, f"No feedback of this window says whether Opus was needed.{silent}")
    note = (
        f"<p class=say>{_count(judged.requests, 'request')}, Brier score {judged.brier:.3f}; "
        f"{judged.silent:,} judged without saying whether Opus was needed. "
        "People judge what they choose to, so this is no random sample.</p>"
    )
    return _card(frame, _reliability(frame, judged.bins), _BIN_HEAD, _bin_rows(judged.bins), after=note)


def _beliefs(found: Figures) -> str:
    frame = Frame(
        key="beliefs",
        title="Belief in warm prefixes",
        detail="How often a prefix believed warm was read, by tenth of the chance given before the call.",
    )
    if not found.beliefs or found.belief_brier is None:
        return _said(frame, "Nothing was believed warm in this window, so there is nothing to check.")
    count = sum(each.count for each in found.beliefs)
    note = f"<p class=say>{count:,} calls, Brier score {found.belief_brier:.3f}.</p>"
    return _card(frame, _reliability(frame, found.beliefs), _BIN_HEAD, _bin_rows(found.beliefs), after=note)


_BIN_HEAD = ("Chance given", "Cases", "Mean given", "Came true")


def _reliability(frame: Frame, found: Sequence[Bin]) -> str:
    points = [(each.mean, each.came_true, each.count) for each in found if each.came_true is not None]
    return reliability(frame, points, "opus")


def _bin_rows(found: Sequence[Bin]) -> list[tuple[str, ...]]:
    return [
        (
            f"{each.number / CHANCE_BINS:.1f} to {(each.number + 1) / CHANCE_BINS:.1f}",
            f"{each.count:,}",
            f"{each.mean:.3f}",
            UNKNOWN if each.came_true is None else f"{each.came_true:.3f}",
        )
        for each in found
    ]


# --- who and how
# --------------------------------------------------------------------------------------------------------------


def _latency(found: Figures) -> str:
    frame = Frame(
        key="latency",
        title="Latency of answers",
        detail="50th, 90th and 99th percentile, nearest rank, of answers that ended well; logarithmic.",
    )
    named = [("first byte", found.first_byte), ("whole answer", found.duration)]
    rows = [(f"{each.route}, {name}", each) for name, group in named for each in group]
    if not rows:
        return _said(frame, "No answer of this window has a known latency.")
    chart = ranges(frame, [(name, _style(each.route), each.at) for name, each in rows], duration)
    head = ("", *(f"p{value}, s" for value in PERCENTS), "Answers")
    return _card(frame, chart, head, [_latency_row(name, each) for name, each in rows])


def _latency_row(name: str, found: Quantiles) -> tuple[str, ...]:
    return (name, *(f"{value:.4f}" for value in found.at), f"{found.calls:,}")


def _dearest(found: Sequence[Group], key: str, title: str, columns_: tuple[str, ...]) -> str:
    frame = Frame(key=key, title=title, detail=f"The {TOP} that cost most at known cost, overhead included.")
    if not found:
        return _said(frame, "None in this window.")
    names = [" / ".join(part or "(none)" for part in group.key) for group in found]
    values = [
        None if group.money.unknown_calls == group.money.calls else group.money.cost_nano_usd
        for group in found
    ]
    rows = [(*(part or "(none)" for part in group.key), *_money_cells(group.money)) for group in found]
    return _card(
        frame,
        bars(frame, names, values, "opus", dollars),
        (*columns_, *_MONEY_HEAD),
        rows,
        words=len(columns_),
    )


_MONEY_HEAD = ("Calls", "Cost", "Unknown", "Floors", "At most more")


def _money_cells(money: Money) -> tuple[str, ...]:
    return (
        f"{money.calls:,}",
        usd(money.cost_nano_usd if money.calls > money.unknown_calls else None),
        f"{money.unknown_calls:,}",
        f"{money.floor_calls:,}",
        usd(money.unknown_bound_nano_usd + money.floor_bound_nano_usd),
    )


def _errors(found: Figures) -> str:
    frame = Frame(key="errors", title="Errors", detail="Calls that ended with an error, by reason and route.")
    if not found.errors:
        return _said(frame, "No call ended with an error.")
    ordered = sorted(found.errors, key=lambda group: (-group.money.calls, group.key))
    names = [
        f"{reason.lower().replace('_', ' ')}, {route}" for reason, route in (group.key for group in ordered)
    ]
    chart = bars(frame, names[:12], [group.money.calls for group in ordered[:12]], "bad", counted)
    rows = [(*group.key, *_money_cells(group.money)) for group in ordered]
    return _card(frame, chart, ("Reason", "Route", *_MONEY_HEAD), rows, words=2)


def _savings(found: Figures) -> str:
    frame = Frame(
        key="savings",
        title="Saved against each counterfactual",
        detail="Over answers where both costs are known; negative where the router cost more.",
    )
    rows = []
    for name, compared in found.savings.items():
        known, net = compared.calls > 0, found.net_nano_usd(name)
        rows.append(
            (
                MEANINGS[name],
                usd(compared.baseline_nano_usd if known else None),
                usd(compared.cost_nano_usd if known else None),
                usd(compared.saving_nano_usd if known else None),
                usd(net),
                exact_percent(None if net is None else ratio(net, compared.baseline_nano_usd), signed=True),
                f"{compared.calls:,}",
            )
        )
    head = ("Counterfactual", "Would have cost", "Answers cost", "Saved", "Less overhead", "%", "Answers")
    return _table_card(frame, head, rows)


def _unknown(found: Figures) -> str:
    total = found.total
    frame = Frame(
        key="unknown",
        title="Unknown spend and floors",
        detail=f"{_count(total.unknown_calls, 'call')} of unknown cost, at most {usd(total.unknown_bound_nano_usd)}; "
        f"{_count(total.floor_calls, 'floor')}, at most {usd(total.floor_bound_nano_usd)} more; "
        f"{total.unbounded_calls:,} of these without a bound.",
    )
    if not found.unknown:
        return _said(frame, "Every call's cost is known, and none is a floor.")
    rows = [(*group.key, *_money_cells(group.money)) for group in found.unknown]
    return _table_card(frame, ("Kind", "Outcome", "Route", *_MONEY_HEAD), rows, words=3)


# --- parts
# --------------------------------------------------------------------------------------------------------------


def _card(
    frame: Frame,
    chart: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    legend: Sequence[tuple[str, str]] = (),
    after: str = "",
    words: int = 1,
) -> str:
    keys = "".join(f"<li><i class={style}></i>{escape(name)}</li>" for name, style in legend)
    return (
        f"<section class=card>{_heading(frame)}{f'<ul class=legend>{keys}</ul>' if keys else ''}{chart}{after}"
        f"<details><summary>Figures of this chart</summary>{_table(frame, head, rows, words)}</details></section>"
    )


def _table_card(frame: Frame, head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    return f'<section class="card wide">{_heading(frame)}{_table(frame, head, rows, words)}</section>'


def _said(frame: Frame, sentence: str) -> str:
    return f"<section class=card><h2>{escape(frame.title)}</h2><p class=say>{escape(sentence)}</p></section>"


def _heading(frame: Frame) -> str:
    return f"<h2>{escape(frame.title)}</h2><p class=say>{escape(frame.detail)}</p>"


def _table(frame: Frame, head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """Write a table whose first `words` columns hold words, the others figures."""
    kinds = [" class=word" if index < words else "" for index in range(len(head))]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True)
    )
    lines = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in rows)
    return (
        f'<div class=scroll tabindex="0" role="region" aria-label="{escape(frame.title)}, table"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _row(row: Sequence[str], kinds: Sequence[str]) -> str:
    cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
    return f'<th scope="row">{escape(row[0])}</th>{cells}'


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _style(name: str) -> str:
    return {"opus": "opus", "flash": "flash"}.get(name, "ours")


def _unit(found: Figures) -> str:
    return {HOUR_S: "hour", DAY_S: "day"}.get(found.width_s, "week")


def _label(found: Figures, moment: Moment) -> str:
    start = datetime.fromtimestamp(moment.start_s, UTC)
    return start.strftime("%Y-%m-%d %H:00" if found.width_s == HOUR_S else "%Y-%m-%d")


def _moment_labels(found: Figures) -> list[str]:
    form = "%d %H:00" if found.width_s == HOUR_S else "%m-%d"
    return [datetime.fromtimestamp(moment.start_s, UTC).strftime(form) for moment in found.moments]


def _stamp(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
