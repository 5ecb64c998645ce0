"""What other settings would have cost and been worth on traffic that was logged: the cost-quality curve.

The rule: every request whose route the score decided is decided again at each setting, by its own score and its own
expected costs in the cache state of its time, what Opus would leave warm included where it was known (it is worked
out only where a value decides, so of a log of a fixed threshold a value is told a little too few); all others stay
where they were. Costs are corrected, per route, by what
was booked over what had been expected. Quality is the expected share of requests whose route will do: 1 on Opus, on
Flash 1 minus the chance that Opus was needed, which is what feedback said where it said something firm, and the
classifier's calibrated score elsewhere. `rests_on` tells the two apart, and how far they differ where both are known.

What it cannot see: another policy leaves other caches warm, so costs are those of the logged cache states (a setting
close to the logged one is told best); and feedback comes from those who give it. Intervals are a bootstrap over
sessions: they hold sampling error, not these two. Pure; arrays in, figures out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifier.logged import LoggedRequest

RESAMPLES = 400
SECONDS_PER_DAY = 86_400.0
SETTINGS_COUNT = 121
LOWEST_VALUE, HIGHEST_VALUE = 1e5, 1e12
"""Values per answer tried, nano-USD: from where nothing pays to where everything does."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Logged requests by column; every array has shape (n,).

    Attributes:
        scores: In [0, 1]; nan where none was given.
        needed: Chance in [0, 1] that Opus was needed: feedback where it was firm, else the score; nan unknown.
        labelled: Whether `needed` is feedback.
        flash_nano_usd, opus_nano_usd: Expected cost on each route, corrected by what was booked.
        opus_leaves_nano_usd: Expected value of the cache that Opus leaves warm; no part of the cost.
        free: Whether the score decided.
        opus: Route taken.
        session: Index of the session, from 0.
        days: Time the log covers, > 0.
        skipped: Requests left out: an expected cost was unknown.
        corrections: Booked over expected cost, of Flash and of Opus; 1 where nothing could be compared.
    """

    scores: Floats
    needed: Floats
    labelled: Bools
    flash_nano_usd: Floats
    opus_nano_usd: Floats
    opus_leaves_nano_usd: Floats
    free: Bools
    opus: Bools
    session: NDArray[np.int64]
    days: float
    skipped: int
    corrections: tuple[float, float]

    def __len__(self) -> int:
        return len(self.scores)


class Setting(NamedTuple):
    """One way to decide: a fixed threshold, or a value per needed answer in nano-USD."""

    threshold: float | None = None
    value_nano_usd: float | None = None


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """One setting on the curve."""

    setting: Setting
    opus_share: float
    usd_per_day: float
    quality: float


class RestsOn(NamedTuple):
    """What the quality of a curve rests on.

    Attributes:
        requests: In the curve.
        labelled: With firm feedback.
        needed_by_feedback: Share of these that needed Opus; None without any.
        needed_by_score: What their scores said.
        difference: Feedback minus scores, with its interval.
    """

    requests: int
    labelled: int
    needed_by_feedback: float | None
    needed_by_score: float | None
    difference: Interval | None


def traffic_of(rows: Iterable[LoggedRequest], days: float | None = None) -> Traffic:
    """Columns of logged requests.

    Args:
        days: Time they cover; None: from the first to the last, at least an hour.

    Raises:
        ValueError: No request has a score and both expected costs.
    """
    numbers: list[tuple[float, float, float, float, float, bool, bool, int]] = []
    sessions: dict[str, int] = {}
    skipped, first_s, last_s = 0, float("inf"), float("-inf")
    booked, expected = [0.0, 0.0], [0.0, 0.0]
    for row in rows:
        first_s, last_s = min(first_s, row.time_s), max(last_s, row.time_s)
        if row.flash_nano_usd is None or row.opus_nano_usd is None:
            skipped += 1
            continue
        if row.cost_nano_usd is not None:
            booked[row.opus] += row.cost_nano_usd
            expected[row.opus] += row.opus_nano_usd if row.opus else row.flash_nano_usd
        numbers.append(
            (
                np.nan if row.score is None else row.score,
                float(row.label) if row.firm and row.label is not None else np.nan,
                row.flash_nano_usd,
                row.opus_nano_usd,
                row.opus_leaves_nano_usd,
                row.threshold is not None,
                row.opus,
                sessions.setdefault(row.session, len(sessions)),
            )
        )
    if not any(free for *_, free, _, _ in numbers):
        raise ValueError("no logged request was decided by its score with both expected costs known")
    columns = [np.array(column, dtype=np.float64) for column in zip(*numbers, strict=True)]
    scores, labels, flash, opus, leaves = columns[:5]
    labelled = ~np.isnan(labels)
    flash_by, opus_by = (spent / said if said else 1.0 for spent, said in zip(booked, expected, strict=True))
    return Traffic(
        scores=scores,
        needed=np.where(labelled, labels, scores),
        labelled=labelled,
        flash_nano_usd=flash * flash_by,
        opus_nano_usd=opus * opus_by,
        opus_leaves_nano_usd=leaves,
        free=columns[5] > 0,
        opus=columns[6] > 0,
        session=columns[7].astype(np.int64),
        days=days if days is not None else max(last_s - first_s, SECONDS_PER_DAY / 24) / SECONDS_PER_DAY,
        skipped=skipped,
        corrections=(flash_by, opus_by),
    )


def point(traffic: Traffic, setting: Setting) -> Point:
    """What a setting comes to."""
    opus = _routes(traffic, setting)
    cost = np.where(opus, traffic.opus_nano_usd, traffic.flash_nano_usd).sum() / 1e9
    return Point(
        setting, float(opus.mean()), float(cost / traffic.days), float(np.nanmean(_quality(traffic, opus)))
    )


def curve(traffic: Traffic, *, by_value: bool) -> list[Point]:
    """Settings from all on Flash to all on Opus.

    Thresholds stand at the quantiles of the scores; values at those of what a value must be for a request to pay: its
    extra cost over its score.
    """
    chosen = traffic.free & ~np.isnan(traffic.scores)
    scores = traffic.scores[chosen]
    if by_value:
        extra = _extra(traffic)[chosen]
        pays = np.clip(extra / np.maximum(scores, 1e-9), LOWEST_VALUE, HIGHEST_VALUE)
        values = np.unique(np.quantile(pays, np.linspace(0, 1, SETTINGS_COUNT)))
        return [
            point(traffic, Setting(value_nano_usd=float(value)))
            for value in (LOWEST_VALUE, *values, HIGHEST_VALUE)
        ]
    cuts = np.unique(np.quantile(scores, np.linspace(1, 0, SETTINGS_COUNT)))[::-1]
    return [point(traffic, Setting(threshold=float(cut))) for cut in (1.0, *cuts, 0.0)]


def for_share(points: list[Point], share: float) -> Point | None:
    """The best quality with at most this share on Opus; None when even the least has more."""
    return _best([each for each in points if each.opus_share <= share])


def for_spend(points: list[Point], usd_per_day: float) -> Point | None:
    """The best quality for at most so much a day; None when even the cheapest costs more."""
    return _best([each for each in points if each.usd_per_day <= usd_per_day])


def for_quality(points: list[Point], floor: float) -> Point | None:
    """The cheapest with at least this quality; None when none has it."""
    enough = [each for each in points if each.quality >= floor]
    return min(enough, key=lambda each: (each.usd_per_day, -each.quality), default=None)


def intervals(traffic: Traffic, setting: Setting, seed: int = 0) -> tuple[Interval, Interval, Interval]:
    """Opus share, USD per day and quality of a setting, each with a 95 % interval over sessions."""
    opus = _routes(traffic, setting)
    cost = np.where(opus, traffic.opus_nano_usd, traffic.flash_nano_usd) / 1e9 / traffic.days
    quality = _quality(traffic, opus)
    known = ~np.isnan(quality)
    columns = (np.ones(len(traffic)), opus, cost, np.where(known, quality, 0.0), known)
    count = int(traffic.session.max()) + 1
    sums = np.stack([np.bincount(traffic.session, weights=column, minlength=count) for column in columns])

    def figures(weights: Floats) -> tuple[float, float, float]:
        requests, on_opus, usd, good, told = (float(value) for value in sums @ weights)
        return on_opus / max(requests, 1.0), usd, good / max(told, 1.0)

    whole = figures(np.ones(count))
    drawn = np.array([figures(weights) for weights in _resamples(count, seed)])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    share, usd, good = (Interval(whole[i], float(low[i]), float(high[i])) for i in range(3))
    return share, usd, good


def rests_on(traffic: Traffic, seed: int = 0) -> RestsOn:
    """How much of the quality is feedback, and whether the scores agree with it."""
    both = traffic.labelled & ~np.isnan(traffic.scores)
    if not both.any():
        return RestsOn(len(traffic), int(traffic.labelled.sum()), None, None, None)
    labels, scores = traffic.needed[both], traffic.scores[both]
    _, session = np.unique(traffic.session[both], return_inverse=True)
    count = int(session.max()) + 1
    gaps = np.bincount(session, weights=labels - scores, minlength=count)
    rows = np.bincount(session, minlength=count)
    drawn = [float(gaps @ w) / max(float(rows @ w), 1.0) for w in _resamples(count, seed)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    gap = Interval(float(np.mean(labels - scores)), float(low), float(high))
    return RestsOn(len(traffic), int(traffic.labelled.sum()), float(labels.mean()), float(scores.mean()), gap)


def _routes(traffic: Traffic, setting: Setting) -> Bools:
    """Whether each request takes Opus; a score that is not known is on no side."""
    if setting.value_nano_usd is not None:
        wants = (traffic.scores * setting.value_nano_usd >= _extra(traffic)) & ~np.isnan(traffic.scores)
    else:
        assert setting.threshold is not None
        wants = traffic.scores >= setting.threshold
    return np.where(traffic.free, wants, traffic.opus)


def _extra(traffic: Traffic) -> Floats:
    """What Opus must be worth more, nano-USD, as `thresholds.threshold_at` counts it."""
    return traffic.opus_nano_usd - traffic.flash_nano_usd - traffic.opus_leaves_nano_usd


def _quality(traffic: Traffic, opus: Bools) -> Floats:
    return np.where(opus, 1.0, 1.0 - traffic.needed)


def _best(points: list[Point]) -> Point | None:
    return max(points, key=lambda each: (each.quality, -each.usd_per_day), default=None)


def _resamples(count: int, seed: int) -> Iterable[Floats]:
    rng = np.random.default_rng(seed)
    chances = np.full(count, 1 / count)
    for _ in range(RESAMPLES):
        yield rng.multinomial(count, chances).astype(np.float64)
