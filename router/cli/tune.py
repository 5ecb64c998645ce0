"""`hybrid-router tune`: what other settings would have cost and been worth on this router's own traffic."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.instant import epoch_s, finite
from router.cli.place import LedgerOption, place_asked
from router.config import ConfigError
from router.picture import drawable

if TYPE_CHECKING:
    from classifier.curve import Interval, Point, Traffic
    from classifier.logged import LoggedRequest


def tune(
    opus_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="At most this share of the requests on Opus.")
    ] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0.0, help="At most so much a day.")] = None,
    quality_floor: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="At least this share of answers that do.")
    ] = None,
    since: Annotated[
        str, typer.Option(help="From this time, inclusive: 2026-11-22 or 2026-11-22T10:00, UTC.")
    ] = "",
    until: Annotated[str, typer.Option(help="To this time, exclusive.")] = "",
    ledger: LedgerOption = None,
    labels: Annotated[
        Path | None, typer.Option(help="Parquet file of logged requests instead of a ledger.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings, TOML, that name the ledger.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Draw the curve to this .png file (needs the extra plot).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print curve and choices as JSON.")] = False,
) -> None:
    """Show the cost-quality curve of the logged traffic, and the settings that meet a share, a spend or a quality.

    Reads only. Quality is estimated: by feedback where there is any, by the classifier's own chances elsewhere; it says
    how much rests on which. The last lines are settings to paste.

    Example: hybrid-router tune --opus-share 0.2 --png curve.png
    """
    # NumPy takes a tenth of a second to load: only this verb and a few others need it.
    from classifier.curve import curve, rests_on, traffic_of

    for option, value in (
        ("--opus-share", opus_share),
        ("--usd-per-day", usd_per_day),
        ("--quality-floor", quality_floor),
    ):
        finite(option, value)
    if png is not None:
        drawable("--png", png)
    rows = _rows(ledger, labels, config, since, until)
    try:
        traffic = traffic_of(rows)
    except ValueError as error:
        raise ConfigError(f"nothing to tune by: {error}") from error
    curves = {name: curve(traffic, by_value=name == "value") for name in ("threshold", "value")}
    chosen = _chosen(curves, opus_share, usd_per_day, quality_floor)
    if png is not None:
        from router.chart import draw

        draw(png, _series(curves), "USD per day", "estimated quality")
    basis = rests_on(traffic, seed)
    if as_json:
        print(
            json.dumps(
                {
                    "requests": len(traffic),
                    "days": traffic.days,
                    "skipped": traffic.skipped,
                    "cost_corrections": {
                        "flash": traffic.corrections[0],
                        "opus": traffic.corrections[1],
                    },
                    "rests_on": basis._asdict()
                    | {"difference": basis.difference and basis.difference._asdict()},
                    "curves": {name: [_plain(each) for each in points] for name, points in curves.items()},
                    "chosen": [
                        {"asked": asked, "by": name, **_plain(each), **_bounds(traffic, each, seed)}
                        for asked, name, each in chosen
                        if each is not None
                    ],
                    "toml": _toml(chosen, opus_share, usd_per_day, quality_floor),
                }
            )
        )
        return
    _print(traffic, curves, chosen, seed)
    print("\n".join(_toml(chosen, opus_share, usd_per_day, quality_floor)))
    if png is not None:
        print(f"# the curve is drawn in {png}")


_Chosen = list[tuple[str, str, "Point | None"]]


def _rows(
    ledger: str | None, labels: Path | None, config: Path | None, since: str, until: str
) -> "Iterator[LoggedRequest]":
    from router import training_log

    since_s, until_s = epoch_s("--since", since), epoch_s("--until", until)
    if labels is not None:
        return training_log.from_parquet(labels, since_s, until_s)
    return training_log.from_ledger(place_asked(ledger, config), since_s, until_s)


def _chosen(
    curves: "dict[str, list[Point]]",
    opus_share: float | None,
    usd_per_day: float | None,
    quality_floor: float | None,
) -> _Chosen:
    """What meets each demand, by a threshold and by a value."""
    from classifier.curve import for_quality, for_share, for_spend

    found: _Chosen = []
    for name, points in curves.items():
        if opus_share is not None:
            found.append((f"Opus share <= {opus_share:.0%}", name, for_share(points, opus_share)))
        if usd_per_day is not None:
            found.append((f"spend <= ${usd_per_day:g} a day", name, for_spend(points, usd_per_day)))
        if quality_floor is not None:
            found.append((f"quality >= {quality_floor:.1%}", name, for_quality(points, quality_floor)))
    return found


def _print(traffic: "Traffic", curves: "dict[str, list[Point]]", chosen: _Chosen, seed: int) -> None:
    from classifier.curve import rests_on
    from router.chart import text_chart

    basis = rests_on(traffic, seed)
    print(
        f"{len(traffic):,} requests over {traffic.days:.2f} days, {int(traffic.free.sum()):,} of them decided by "
        f"score; {traffic.skipped:,} left out"
    )
    print(f"Opus had {traffic.opus.mean():.1%}.")
    flash, opus = traffic.corrections
    print(f"Booked over expected cost: Flash {flash:.3f}, Opus {opus:.3f}; the curve is corrected by it.")
    print(f"Quality rests on feedback for {basis.labelled:,} requests, on scores for the rest.")
    if basis.difference is not None:
        gap = basis.difference
        print(
            f"Where both are known, feedback says {basis.needed_by_feedback:.1%} needed Opus, scores "
            f"{basis.needed_by_score:.1%}:\n  {100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, "
            f"{100 * gap.high:+.1f}]"
        )
    print()
    print("\n".join(text_chart(_series(curves), "USD per day", "estimated quality")))
    print()
    for asked, name, each in chosen:
        if each is None:
            print(f"{asked}, by {name}: no setting does")
            continue
        bounds = _bounds(traffic, each, seed)
        share, usd, good = (bounds[key] for key in ("opus_share_95", "usd_per_day_95", "quality_95"))
        print(f"{asked}, by {name} {_spelled(each)}:")
        print(f"  Opus {each.opus_share:.1%} [{share[0]:.1%}, {share[1]:.1%}]")
        print(f"  ${each.usd_per_day:.2f} a day [{usd[0]:.2f}, {usd[1]:.2f}]")
        print(f"  quality {each.quality:.1%} [{good[0]:.1%}, {good[1]:.1%}]")


def _toml(
    chosen: _Chosen, opus_share: float | None, usd_per_day: float | None, quality_floor: float | None
) -> list[str]:
    """Settings to paste: the demand, held online, and the value to begin with; or the fixed threshold."""
    lines = [f"# tuned {time.strftime('%Y-%m-%d', time.gmtime())}", "[routing]"]
    given = False
    for asked, name, each in chosen:
        if each is None:
            continue
        if name == "threshold":
            lines.append(f"# threshold = {each.setting.threshold:.4f} # {asked}, whatever is warm")
        else:
            assert each.setting.value_nano_usd is not None
            value = each.setting.value_nano_usd / 1e9
            # A key may stand once: the first demand's counts, the others are there to be taken instead.
            lines.append(f"{'# ' if given else ''}answer_value_usd = {value:.6f} # {asked}, by what is warm")
            given = True
    if opus_share is not None:
        lines.append(f"# opus_share_limit = {opus_share:g} # holds it when traffic changes")
    if usd_per_day is not None:
        lines.append(f"# budget_usd_per_day = {usd_per_day:g} # holds it when traffic changes")
    if quality_floor is not None:
        lines.append(f"# quality_floor = {quality_floor:g} # holds it when traffic changes")
    return lines if len(lines) > 2 else []


def _spelled(each: "Point") -> str:
    if each.setting.threshold is not None:
        return f"{each.setting.threshold:.4f}"
    assert each.setting.value_nano_usd is not None
    return f"${each.setting.value_nano_usd / 1e9:.6f}"


def _series(curves: "dict[str, list[Point]]") -> list[Any]:
    from router.chart import Series

    names = {"threshold": "by threshold", "value": "by value"}
    return [
        Series(
            names[name],
            "o" if name == "threshold" else "*",
            sorted((each.usd_per_day, each.quality) for each in points),
        )
        for name, points in curves.items()
    ]


def _plain(each: "Point") -> dict[str, Any]:
    return {
        **each.setting._asdict(),
        "opus_share": each.opus_share,
        "usd_per_day": each.usd_per_day,
        "quality": each.quality,
    }


def _bounds(traffic: "Traffic", each: "Point", seed: int) -> dict[str, tuple[float, float]]:
    from classifier.curve import intervals

    found: tuple[Interval, Interval, Interval] = intervals(traffic, each.setting, seed)
    names = ("opus_share_95", "usd_per_day_95", "quality_95")
    return {name: (each.low, each.high) for name, each in zip(names, found, strict=True)}
