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

from classifier.array_file import Array
from classifier.dataset import Dataset, LabelledFeatures
from classifier.evaluation import calibration_error, evaluate
from classifier.gate import CalibrationError, Evidence, Slice
from classifier.logged import LoggedRequest
from classifier.model import Model
from classifier.offpolicy import Bools, Estimate, Trials, lift, observed_propensity, outcome_model, value
from classifier.scored import Scored, log_length, parts_of, scored, session_numbers

LEAST_SLICE_SESSIONS: Final = 20
"""Sessions a slice needs for an interval over sessions to mean anything."""

CURVE_SHARES: Final = tuple(step / 10 for step in range(11))
_CHANCE_DRAWS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was found.

    Attributes:
        evidence: For the gate.
        report: JSON-ready figures of candidate, champion and prompt length; see `report_of`.
    """

    evidence: Evidence
    report: dict[str, Any]


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
        session=session_numbers(seen.rows),
    )
    lengths = np.asarray([log_length(row) for row in seen.features])
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
        session=session_numbers(known.rows),
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
    for dimension, name, mine in parts_of(seen.rows):
        part = trials.part(mine)
        if len(np.unique(part.session)) >= LEAST_SLICE_SESSIONS:
            estimate = lift(part, one[mine], other[mine], predicted[mine], seed=seed).dr
            found.append(Slice(dimension=dimension, name=name, rows=int(mine.sum()), lift=estimate))
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
        for dimension, name, mine in parts_of(firm.rows)
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
    length = np.asarray([log_length(row) for row in seen.features])
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
