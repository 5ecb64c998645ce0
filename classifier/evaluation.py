"""How good scores are: ranking, calibration, decisions, and whether they beat the length of the prompt.

Rule: figures are computed from scores of rows the model did not see, intervals are drawn over groups and not
over rows (paraphrases are not independent evidence), and prompt length is always reported beside them as the
baseline to beat. A figure that the data cannot carry is None, never 0: no AUROC with one class, no APGR
without both qualities.

It does not know how scores were made, nor dollars: quality at equal cost, cache state included, is a replay's
to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from classifier.array_file import Array
from classifier.dataset import Labelled

ECE_BINS: Final = 15
"""Bins of equal mass for the calibration error."""

APGR_THRESHOLDS: Final = 10
"""Thresholds at equal shares of Opus calls over which the recovered gap is averaged."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Decisions at one threshold, in rows."""

    threshold: float
    needed_and_sent: int
    needed_not_sent: int
    sent_needlessly: int
    rightly_kept: int

    @property
    def opus_share(self) -> float:
        """Share of rows sent to Opus."""
        total = self.needed_and_sent + self.needed_not_sent + self.sent_needlessly + self.rightly_kept
        return (self.needed_and_sent + self.sent_needlessly) / total


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFigures:
    """One kind of request: rows, share labelled 1, mean score, share at or above the threshold."""

    kind: str
    rows: int
    needed_share: float
    score_mean: float
    opus_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of one set of scores; shares and errors in [0, 1], None where the data cannot carry them.

    Attributes:
        auroc, auroc_low, auroc_high: Chance that a needed row scores above another; 95 % bootstrap over
            groups.
        length_auroc: The same when rows are ordered by characters of text alone.
        brier, base_brier: Mean squared error of the scores, and of always saying the share of needed rows.
        log_loss: Mean negative log likelihood, scores clipped to [1e-6, 1 - 1e-6].
        ece: Expected calibration error over bins of equal mass.
        apgr: Average performance gap recovered (random = .5), if both qualities are known for every row.
    """

    rows: int
    needed_rows: int
    groups: int
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    length_auroc: float | None
    brier: float
    base_brier: float
    log_loss: float
    ece: float
    apgr: float | None
    confusion: Confusion
    kinds: tuple[KindFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; numbers rounded to six digits, which is far below their intervals."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def evaluate(
    rows: Sequence[Labelled], scores: Sequence[float], threshold: float, *, seed: int, draws: int = 200
) -> Evaluation:
    """Judge `scores` against the labels of `rows`.

    Args:
        rows: n >= 1 labelled samples.
        scores: n values in [0, 1], in the same order.
        threshold: Cut for the confusion table, in [0, 1].
        seed: Of the bootstrap.
        draws: Bootstrap draws over groups; 0 for no interval.
    """
    if not rows or len(rows) != len(scores):
        raise ValueError(f"need one score per row and at least one row, got {len(rows)} and {len(scores)}")
    values = np.asarray(scores, dtype=np.float64)
    needed = np.asarray([row.label for row in rows], dtype=np.bool_)
    clipped = np.clip(values, 1e-6, 1.0 - 1e-6)
    low, high = _auroc_interval(values, needed, [row.group for row in rows], seed, draws)
    share = float(needed.mean())
    return Evaluation(
        rows=len(rows),
        needed_rows=int(needed.sum()),
        groups=len({row.group for row in rows}),
        auroc=auroc(values, needed),
        auroc_low=low,
        auroc_high=high,
        length_auroc=auroc(np.asarray([row.text_characters for row in rows]), needed),
        brier=float(np.mean((values - needed) ** 2)),
        base_brier=share * (1.0 - share),
        log_loss=float(-np.mean(np.where(needed, np.log(clipped), np.log1p(-clipped)))),
        ece=calibration_error(values, needed),
        apgr=_apgr_of(rows, values),
        confusion=confusion(values, needed, threshold),
        kinds=_kinds(rows, values, threshold),
    )


def auroc(scores: Array, needed: Bools) -> float | None:
    """Chance that a needed row scores above one that is not, ties counting half; None with one class only."""
    positives = int(needed.sum())
    negatives = len(needed) - positives
    if not positives or not negatives:
        return None
    ranks = rankdata(scores)
    return float((ranks[needed].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(scores: Array, needed: Bools, bins: int = ECE_BINS) -> float:
    """Mean over bins of equal mass of |mean score - share needed|, weighted by rows; in [0, 1]."""
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(
        sum(abs(scores[part].mean() - needed[part].mean()) * len(part) for part in parts) / len(scores)
    )


def confusion(scores: Array, needed: Bools, threshold: float) -> Confusion:
    """Decisions when rows at or above `threshold` go to Opus."""
    sent = scores >= threshold
    return Confusion(
        threshold=threshold,
        needed_and_sent=int((sent & needed).sum()),
        needed_not_sent=int((~sent & needed).sum()),
        sent_needlessly=int((sent & ~needed).sum()),
        rightly_kept=int((~sent & ~needed).sum()),
    )


def apgr(scores: Array, flash_quality: Array, opus_quality: Array) -> float | None:
    """Average performance gap recovered over shares of Opus calls 0, 1/10, ... 1; random order gives .5.

    None if Opus is not better than Flash on average: there is no gap to recover.
    """
    gap = float(opus_quality.mean() - flash_quality.mean())
    if gap <= 0.0:
        return None
    gains = np.concatenate(
        [[0.0], np.cumsum((opus_quality - flash_quality)[np.argsort(-scores, kind="stable")])]
    )
    shares = np.linspace(0.0, 1.0, APGR_THRESHOLDS + 1)
    recovered = np.interp(shares * len(scores), np.arange(len(scores) + 1), gains) / (gap * len(scores))
    return float(np.trapezoid(recovered, shares))


def _apgr_of(rows: Sequence[Labelled], scores: Array) -> float | None:
    flash = [row.flash_quality for row in rows]
    opus = [row.opus_quality for row in rows]
    if None in flash or None in opus:
        return None
    return apgr(scores, np.asarray(flash, dtype=np.float64), np.asarray(opus, dtype=np.float64))


def _auroc_interval(
    scores: Array, needed: Bools, groups: Sequence[str], seed: int, draws: int
) -> tuple[float | None, float | None]:
    """95 % percentile interval over bootstrap draws of whole groups; draws with one class only are
    dropped."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.nonzero(index == group)[0] for group in range(len(names))]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = np.concatenate([members[group] for group in generator.integers(0, len(names), len(names))])
        value = auroc(scores[rows], needed[rows])
        if value is not None:
            found.append(value)
    if not found:
        return None, None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _kinds(rows: Sequence[Labelled], scores: Array, threshold: float) -> tuple[KindFigures, ...]:
    kinds = np.asarray([row.kind or "" for row in rows])
    needed = np.asarray([row.label for row in rows], dtype=np.float64)
    figures = []
    for kind in sorted(set(kinds.tolist()) - {""}):
        mine = kinds == kind
        figures.append(
            KindFigures(
                kind=kind,
                rows=int(mine.sum()),
                needed_share=float(needed[mine].mean()),
                score_mean=float(scores[mine].mean()),
                opus_share=float((scores[mine] >= threshold).mean()),
            )
        )
    return tuple(figures)


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 6)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case _:
            return value
