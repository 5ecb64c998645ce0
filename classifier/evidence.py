"""A candidate and a champion on requests neither was fitted on: the evidence for the gate, and the report for people.

Both models score the features that were kept with each decision, and each score meets the cut that held for that very
request (with its costs, its budget, its quality floor), so what is compared is what would have been decided. Where that
cut was the champion's own suggestion, the candidate's takes its place. Requests on which the score did not decide stay
where they were.

Two sets of rows, for two questions. Ranking and calibration: rows with a firm label. They are those Flash answered, for
the most part, because only there the need is seen; which rows these are was decided by the features the scores are made
from, which leaves calibration true, but the champion ranks within what it kept itself, and looks the worse for it: so
no promotion hangs on ranking. Quality and cost: `offpolicy`, from rows with a quality and from all rows, by propensity.

It does not know how the candidate came to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from classifier.artifact import Array
from classifier.dataset import Dataset, LabelledFeatures
from classifier.evaluation import calibration_error, evaluate
from classifier.features import STRUCTURE_NAMES, Features
from classifier.gate import CalibrationError, Evidence, Slice
from classifier.logged import LoggedRequest
from classifier.model import Model
from classifier.offpolicy import Bools, Estimate, Trials, lift, observed_propensity, outcome_model, value

LEAST_SLICE_ROWS: Final = 60
LEAST_SLICE_SESSIONS: Final = 20
MOST_SLICES: Final = 12
"""Of one dimension, the largest; what is smaller cannot be judged."""

CURVE_SHARES: Final = tuple(step / 10 for step in range(11))
_CHANCE_DRAWS: Final = 200
_LENGTH: Final = STRUCTURE_NAMES.index("text_characters_log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was found.

    Attributes:
        evidence: For the gate.
        report: JSON-ready figures of candidate, champion and prompt length; see `report_of`.
    """

    evidence: Evidence
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """Requests with what both models say of them; arrays of shape (n,).

    Attributes:
        candidate, champion: Scores.
        thresholds: What (candidate, champion) suggest.
    """

    rows: Sequence[LoggedRequest]
    features: Sequence[Features]
    candidate: Array
    champion: Array
    thresholds: tuple[float, float]

    def part(self, rows: Bools) -> Scored:
        """Only some requests."""
        kept = np.nonzero(rows)[0].tolist()
        return Scored(
            [self.rows[row] for row in kept],
            [self.features[row] for row in kept],
            self.candidate[rows],
            self.champion[rows],
            self.thresholds,
        )

    @property
    def cuts(self) -> Array:
        """The cut that held for each request; not a number where the score did not decide."""
        return np.asarray([np.nan if row.threshold is None else row.threshold for row in self.rows])

    @property
    def suggested(self) -> Bools:
        """Whether the cut was the champion's own suggestion, so that the candidate's would take its place."""
        fixed = np.asarray([row.answer_value_nano_usd is None for row in self.rows], dtype=np.bool_)
        return fixed & (np.abs(self.cuts - self.thresholds[1]) < 1e-9)

    @property
    def one(self) -> Bools:
        """Whether the candidate would have sent each request to Opus."""
        return self._sent(self.candidate, np.where(self.suggested, self.thresholds[0], self.cuts))

    @property
    def other(self) -> Bools:
        """Whether the champion would have."""
        return self._sent(self.champion, self.cuts)

    def _sent(self, scores: Array, cuts: Array) -> Bools:
        stayed = np.asarray([row.opus for row in self.rows], dtype=np.bool_)
        return np.where(np.isnan(cuts), stayed, scores >= cuts)


def scored(rows: Sequence[LoggedRequest], candidate: Model, champion: Model) -> Scored:
    """Score each request by both models; rows must have features."""
    features = [Features.unpack(row.features) for row in rows]
    return Scored(
        rows,
        features,
        np.asarray([candidate.score_features(each).value for each in features]),
        np.asarray([champion.score_features(each).value for each in features]),
        (candidate.manifest.threshold, champion.manifest.threshold),
    )


def equal_cost_threshold(rows: Sequence[LoggedRequest], candidate: Model, champion: Model) -> float:
    """The cut at which the candidate is expected to spend on Opus what the champion did at its own suggestion.

    It is found from scores and expected costs alone, never from outcomes, so it may be found on the rows that judge.
    Where no row was cut at the champion's suggestion it is the candidate's own threshold.
    """
    every = scored(rows, candidate, champion)
    extra = np.asarray(
        [
            0.0
            if row.opus_nano_usd is None or row.flash_nano_usd is None
            else row.opus_nano_usd - row.flash_nano_usd
            for row in rows
        ]
    )[every.suggested]
    if not extra.sum() > 0.0:
        return candidate.manifest.threshold
    spent = extra[every.other[every.suggested]].sum()
    scores = every.candidate[every.suggested]
    order = np.argsort(-scores, kind="stable")
    sent = int(np.searchsorted(np.cumsum(extra[order]), spent, side="right"))
    bounds = np.concatenate([[1.0], scores[order], [0.0]])
    return float(np.clip((bounds[sent] + bounds[sent + 1]) / 2.0, 0.01, 0.99))


def judged(
    with_outcome: Sequence[LoggedRequest],
    alike: Sequence[LoggedRequest],
    seen_share: tuple[float, float],
    candidate: Model,
    champion: Model,
    golden: Dataset,
    *,
    seed: int,
) -> Judged:
    """Gather the evidence on requests of a later time than the candidate was fitted on.

    Args:
        with_outcome: Requests with a label or a quality.
        alike: Requests with and without, in their true proportion, for costs.
        seen_share: As in `Collected.seen_share`.
        golden: Examples whose route is beyond doubt.
        seed: Of bootstraps.
    """
    every = scored(with_outcome, candidate, champion)
    firm = every.part(np.asarray([row.firm for row in every.rows], dtype=np.bool_))
    seen = every.part(np.asarray([row.quality is not None for row in every.rows], dtype=np.bool_))
    trials, predicted = _quality_trials(seen, seen_share)
    quality = slices = None
    if trials is not None and predicted is not None:
        one, other = seen.one, seen.other
        quality = lift(trials, one, other, predicted, seed=seed)
        slices = _slices(seen, trials, one, other, predicted, seed)
    cost, base = _costs(scored(alike, candidate, champion), seed)
    labels = np.asarray([row.label for row in firm.rows], dtype=np.bool_)
    evidence = Evidence(
        quality=quality,
        cost_nano_usd=cost,
        champion_cost_nano_usd=base,
        answer_value_nano_usd=_answer_value(seen.rows),
        candidate_error=_error(firm.candidate, labels, seed),
        champion_error=_error(firm.champion, labels, seed),
        outcomes=(int((~labels).sum()), int(labels.sum())),
        slices=tuple(slices or ()),
        golden_rows=len(golden),
        golden_flips=golden_flips(golden, candidate, champion),
    )
    return Judged(
        evidence=evidence,
        report=report_of(evidence, firm, seen, trials, predicted, candidate, champion, seed),
    )


def golden_flips(golden: Dataset, candidate: Model, champion: Model) -> tuple[str, ...]:
    """Ids of examples that the champion routes rightly at its own suggested threshold and the candidate does not."""

    def right(model: Model, row: Any) -> bool:
        return (model.score_features(row.extracted()).value >= model.manifest.threshold) == bool(row.label)

    return tuple(row.id for row in golden.rows if right(champion, row) and not right(candidate, row))


def _answer_value(rows: Sequence[LoggedRequest]) -> float | None:
    """The median of what needed answers were taken to be worth, where that was ever told."""
    values = [row.answer_value_nano_usd for row in rows if row.answer_value_nano_usd is not None]
    return float(np.median(values)) if values else None


def _quality_trials(seen: Scored, seen_share: tuple[float, float]) -> tuple[Trials | None, Array | None]:
    if not seen.rows:
        return None, None
    opus = np.asarray([row.opus for row in seen.rows], dtype=np.bool_)
    logged = np.asarray([row.propensity for row in seen.rows])
    trials = Trials(
        opus=opus,
        propensity=observed_propensity(logged, opus, seen_share),
        reward=np.asarray([row.quality for row in seen.rows], dtype=np.float64),
        session=_sessions(seen.rows),
    )
    lengths = np.asarray([_length(row) for row in seen.features])
    columns = np.column_stack([2 * seen.champion - 1, 2 * seen.candidate - 1, lengths / 5 - 1])
    return trials, outcome_model(columns, trials)


def _costs(alike: Scored, seed: int) -> tuple[Estimate | None, float | None]:
    """Cost per request of the candidate less the champion's, and the champion's; nano-USD.

    What each route was expected to cost is known for every request; what the taken one did cost corrects it.
    """
    known = alike.part(
        np.asarray(
            [None not in (row.cost_nano_usd, row.flash_nano_usd, row.opus_nano_usd) for row in alike.rows],
            dtype=np.bool_,
        )
    )
    if not known.rows:
        return None, None
    trials = Trials(
        opus=np.asarray([row.opus for row in known.rows], dtype=np.bool_),
        propensity=np.asarray([row.propensity for row in known.rows]),
        reward=np.asarray([row.cost_nano_usd for row in known.rows], dtype=np.float64),
        session=_sessions(known.rows),
        bounds=None,
    )
    expected = np.asarray([(row.flash_nano_usd, row.opus_nano_usd) for row in known.rows], dtype=np.float64)
    one, other = known.one, known.other
    found = lift(trials, one, other, expected, seed=seed)
    return found.dr, value(trials, other, expected, seed=seed).value


def _slices(
    seen: Scored, trials: Trials, one: Bools, other: Bools, predicted: Array, seed: int
) -> list[Slice]:
    found = []
    for dimension, name, mine in _parts(seen.rows):
        part = trials.part(mine)
        if len(np.unique(part.session)) >= LEAST_SLICE_SESSIONS:
            estimate = lift(part, one[mine], other[mine], predicted[mine], seed=seed).dr
            found.append(Slice(dimension=dimension, name=name, rows=int(mine.sum()), lift=estimate))
    return found


def _parts(rows: Sequence[LoggedRequest]) -> list[tuple[str, str, Bools]]:
    """(dimension, name, rows) of every part large enough, the largest of each dimension first."""
    found: list[tuple[str, str, Bools]] = []
    for dimension in ("application", "kind"):
        names = np.asarray([getattr(row, dimension) for row in rows])
        values, counts = np.unique(names, return_counts=True)
        largest = np.argsort(-counts, kind="stable")[:MOST_SLICES]
        found += [
            (dimension, str(values[place]), names == values[place])
            for place in largest
            if counts[place] >= LEAST_SLICE_ROWS and values[place]
        ]
    return found


def _error(scores: Array, labels: Bools, seed: int) -> CalibrationError | None:
    """Calibration error, and what a perfectly calibrated model with these scores would show on as many rows."""
    if not len(scores):
        return None
    bins = int(np.clip(len(scores) // 20, 2, 15))
    draw = np.random.default_rng(seed)
    by_chance = [
        calibration_error(scores, draw.random(len(scores)) < scores, bins) for _ in range(_CHANCE_DRAWS)
    ]
    return CalibrationError(
        error=calibration_error(scores, labels, bins), by_chance=float(np.mean(by_chance))
    )


def report_of(
    evidence: Evidence,
    firm: Scored,
    seen: Scored,
    trials: Trials | None,
    predicted: Array | None,
    candidate: Model,
    champion: Model,
    seed: int,
) -> dict[str, Any]:
    """JSON-ready figures: evidence, discrimination and calibration of both models, slices of them, the curve."""
    rows = [row.labelled() for row in firm.rows]
    discrimination: dict[str, Any] = {}
    if rows:
        models = {"candidate": (candidate, firm.candidate), "champion": (champion, firm.champion)}
        discrimination = {
            name: evaluate(rows, scores.tolist(), model.manifest.threshold, seed=seed).to_dict()
            for name, (model, scores) in models.items()
        }
    parts = [
        {"dimension": dimension, "name": name} | _ranking(rows, firm, mine, seed)
        for dimension, name, mine in _parts(firm.rows)
    ]
    curve = [] if trials is None or predicted is None else _curve(seen, trials, predicted, seed)
    return {
        "candidate": candidate.digest,
        "champion": champion.digest,
        "evidence": asdict(evidence),
        "held_out": discrimination,
        "slices": parts,
        "curve": curve,
    }


def _ranking(rows: list[LabelledFeatures], firm: Scored, mine: Bools, seed: int) -> dict[str, Any]:
    """AUROC with interval and calibration of both models in one slice."""
    kept = [rows[row] for row in np.nonzero(mine)[0].tolist()]
    found: dict[str, Any] = {"rows": len(kept), "needed_rows": sum(row.label for row in kept)}
    for name, scores in (("candidate", firm.candidate[mine]), ("champion", firm.champion[mine])):
        figures = evaluate(kept, scores.tolist(), 0.5, seed=seed)
        found[name] = {
            "auroc": figures.auroc,
            "auroc_low": figures.auroc_low,
            "auroc_high": figures.auroc_high,
            "ece": figures.ece,
        }
        found["length_auroc"] = figures.length_auroc
    return found


def _curve(seen: Scored, trials: Trials, predicted: Array, seed: int) -> list[dict[str, Any]]:
    """Quality (doubly robust) and expected cost when the requests with the highest scores go to Opus."""
    costs = np.asarray(
        [
            [np.nan if cost is None else cost for cost in (row.flash_nano_usd, row.opus_nano_usd)]
            for row in seen.rows
        ],
        dtype=np.float64,
    )
    length = np.asarray([_length(row) for row in seen.features])
    scorers = {"candidate": seen.candidate, "champion": seen.champion, "length": length}
    return [
        _point(name, scores, share, costs, trials, predicted, seed)
        for name, scores in scorers.items()
        for share in CURVE_SHARES
    ]


def _point(
    name: str, scores: Array, share: float, costs: Array, trials: Trials, predicted: Array, seed: int
) -> dict[str, Any]:
    policy = np.zeros(len(scores), dtype=np.bool_)
    policy[np.argsort(-scores, kind="stable")[: round(share * len(scores))]] = True
    quality = value(trials, policy, predicted, seed=seed, draws=200)
    paid = np.where(policy, costs[:, 1], costs[:, 0])
    return {
        "scores": name,
        "opus_share": share,
        "quality": quality.value,
        "quality_low": quality.low,
        "quality_high": quality.high,
        "cost_nano_usd": None if np.isnan(paid).any() else float(paid.mean()),
    }


def _length(features: Features) -> float:
    """Log length of the text."""
    return features.structure[_LENGTH]


def _sessions(rows: Sequence[LoggedRequest]) -> Any:
    return np.unique(np.asarray([row.session for row in rows]), return_inverse=True)[1].astype(np.int64)
