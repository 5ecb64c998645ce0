"""Scores against recorded outcomes of two models, beside prompt length alone and TF-IDF + ridge.

Rule: a figure compares two orderings of the SAME prompts: its interval is a paired bootstrap over prompts, and it is
None where the pair's gap cannot carry it. Figures follow RouteLLM's definitions on the exact curve (every threshold,
equal scores share a segment): APGR = mean share of the gap recovered over shares of strong calls, random .5; CPT50 and
CPT80 = smallest share of strong calls from which 50, 80 % of the gap are recovered for good.

It does not know how scores were made. The ridge baseline needs scikit-learn, so import this in reports only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from classifier.answers import NEED_PAIRS, PAIRS, Answered, Pair
from classifier.array_file import Array
from classifier.evaluation import auroc, calibration_error

LEAST_ROWS: Final = 20
"""Prompts below which a pair on a source is not reported."""

POOL: Final = "ALL"
"""Name of all a pair's sources in one pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One pair of models on one source; differences are ours less the baseline's, with 95 % intervals.

    Attributes:
        gap: Mean quality of the strong model less the weak one's.
        need: Share of prompts where the strong model was better.
        ece: Calibration error against `need`, if this pair defines it for the source.
        length_apgr, ridge_apgr: The baselines' APGR.
    """

    pair: str
    source: str
    rows: int
    gap: float
    need: float
    apgr: float
    apgr_interval: tuple[float, float]
    cpt50: float
    cpt80: float
    auroc: float | None
    ece: float | None
    length_apgr: float
    over_length: tuple[float, float]
    ridge_apgr: float | None
    over_ridge: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self)


def compare(
    answers: Sequence[Answered],
    scores: Mapping[str, float],
    folds: Mapping[str, int] | None = None,
    *,
    seed: int = 0,
    draws: int = 200,
) -> list[Figures]:
    """Figures of every pair on every source it has answers for, in each of its pools, and of the need pairs together.

    Args:
        scores: Row id -> score in [0, 1]; every row of `answers` must be scored.
        folds: Row id -> fold of the cross-validation the scores came from; the ridge is fitted with the same folds.
            None: no ridge.
    """
    found = []
    for pair in PAIRS:
        rows = [row for row in answers if row.source in pair.sources and _usable(row, pair)]
        if len(rows) < LEAST_ROWS:
            continue
        benefit = _benefit(rows, [pair] * len(rows))
        ridge = None if folds is None else ridge_scores(rows, benefit > 0, folds)
        sources = sorted({row.source for row in rows})
        for source in [*sources, *([POOL] if len(sources) > 1 and pair.name != PAIRS[0].name else [])]:
            mine = np.array([source in (row.source, POOL) for row in rows])
            defines = source != POOL and NEED_PAIRS.get(source) is pair
            if mine.sum() >= LEAST_ROWS:
                found.append(
                    _figures(pair.name, source, rows, mine, benefit, scores, ridge, defines, seed, draws)
                )
    rows = [row for row in answers if row.source in NEED_PAIRS and _usable(row, NEED_PAIRS[row.source])]
    if len({row.source for row in rows}) > 1:
        benefit = _benefit(rows, [NEED_PAIRS[row.source] for row in rows])
        ridge = None if folds is None else ridge_scores(rows, benefit > 0, folds)
        every = np.ones(len(rows), dtype=np.bool_)
        found.append(_figures("need", POOL, rows, every, benefit, scores, ridge, True, seed, draws))
    return found


def apgr_exact(scores: Array, benefit: Array) -> float:
    """APGR on the exact curve; `benefit` is strong less weak quality per prompt and must not sum to 0."""
    shares, gains = _curve(scores, benefit)
    return float(np.trapezoid(gains / gains[-1], shares))


def share_for(scores: Array, benefit: Array, recovered: float) -> float:
    """Smallest share of strong calls from which `recovered` of the gap is never lost again, in [0, 1]."""
    shares, gains = _curve(scores, benefit)
    short = np.nonzero(gains / gains[-1] < recovered - 1e-12)[0]
    if not len(short):
        return 0.0
    last = int(short[-1])
    if last == len(gains) - 1:
        return 1.0
    step = (recovered * gains[-1] - gains[last]) / (gains[last + 1] - gains[last])
    return float(shares[last] + step * (shares[last + 1] - shares[last]))


def ridge_scores(rows: Sequence[Answered], needed: npt.NDArray[np.bool_], folds: Mapping[str, int]) -> Array:
    """The baseline: TF-IDF of words and pairs + ridge on {strong right, weak wrong}, by the same folds."""
    texts = [row.prompt for row in rows]
    fold = np.array([folds[row.id] for row in rows])
    out = np.zeros(len(rows))
    for held in np.unique(fold):
        inside, outside = np.nonzero(fold == held)[0], np.nonzero(fold != held)[0]
        if len(outside) < LEAST_ROWS:
            continue
        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        columns = vectors.fit_transform([texts[row] for row in outside])
        ridge = Ridge(alpha=3.0).fit(columns, needed[outside].astype(np.float64))
        out[inside] = ridge.predict(vectors.transform([texts[row] for row in inside]))
    return out


def _figures(
    pair: str,
    source: str,
    rows: Sequence[Answered],
    mine: npt.NDArray[np.bool_],
    benefit: Array,
    scores: Mapping[str, float],
    ridge: Array | None,
    defines: bool,
    seed: int,
    draws: int,
) -> Figures:
    gain = benefit[mine]
    chosen = [row for row, kept in zip(rows, mine, strict=True) if kept]
    ours = np.array([scores[row.id] for row in chosen])
    length = np.array([len(row.prompt) for row in chosen], dtype=np.float64)
    theirs = None if ridge is None else ridge[mine]
    generator = np.random.default_rng(seed)
    own, over_length, over_ridge = [], [], []
    for _ in range(draws):
        drawn = generator.integers(0, len(gain), len(gain))
        if gain[drawn].sum() < 1e-3 * len(gain):
            continue
        value = apgr_exact(ours[drawn], gain[drawn])
        own.append(value)
        over_length.append(value - apgr_exact(length[drawn], gain[drawn]))
        if theirs is not None:
            over_ridge.append(value - apgr_exact(theirs[drawn], gain[drawn]))
    return Figures(
        pair=pair,
        source=source,
        rows=len(gain),
        gap=float(gain.mean()),
        need=float((gain > 0).mean()),
        apgr=apgr_exact(ours, gain),
        apgr_interval=_interval(own),
        cpt50=share_for(ours, gain, 0.5),
        cpt80=share_for(ours, gain, 0.8),
        auroc=auroc(ours, gain > 0),
        ece=calibration_error(ours, gain > 0) if defines else None,
        length_apgr=apgr_exact(length, gain),
        over_length=_interval(over_length),
        ridge_apgr=None if theirs is None else apgr_exact(theirs, gain),
        over_ridge=None if theirs is None else _interval(over_ridge),
    )


def _curve(scores: Array, benefit: Array) -> tuple[Array, Array]:
    """Share of strong calls and summed benefit at every distinct score, both from 0."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.nonzero(np.diff(scores[order]))[0] + 1, len(scores))
    gains = np.concatenate([[0.0], np.cumsum(benefit[order])])
    return (
        np.concatenate([[0.0], ends / len(scores)]),
        np.concatenate([[0.0], gains[ends]]),
    )


def _usable(row: Answered, pair: Pair) -> bool:
    contaminated = row.contaminated and pair.name == PAIRS[0].name
    return pair.weak in row.scores and pair.strong in row.scores and not contaminated


def _benefit(rows: Sequence[Answered], pairs: Sequence[Pair]) -> Array:
    weak = np.array([row.scores[pair.weak] for row, pair in zip(rows, pairs, strict=True)], np.float64)
    strong = np.array([row.scores[pair.strong] for row, pair in zip(rows, pairs, strict=True)], np.float64)
    return strong - weak


def _interval(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
