"""Logged outcomes in, a candidate, the evidence against the champion and the gate's verdict out.

Time goes one way: sessions are ordered by their first request and cut into three slices. The candidate is fitted on
the earliest (with the settings found by `search`, and beside labels from elsewhere), its sigmoid is bent to the next,
and both models are judged on the newest, of which neither saw a row. What is judged is what is promoted: the candidate
is not fitted again on the slice that judged it. Price: the newest outcomes wait for the next retraining.

The rule: equal rows, settings and seed give an equal candidate and an equal verdict. Memory is bounded by
`logged.collect`, whatever the log's length. Training is not weighted by propensity: the sample depends on the features
alone, so weights would only add variance (measured: they cost more than they gain).

It does not know the clock (the time of creation is passed in), where rows come from, or where models are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from classifier import artifact as artifacts
from classifier.array_file import Array
from classifier.artifact import Artifact
from classifier.card import Source, model_card, write_card
from classifier.dataset import Dataset, Labelled, read
from classifier.encoded import encoded
from classifier.encoder import Embedder, EncoderEntry, require
from classifier.evidence import judged
from classifier.gate import GateSettings, Verdict, judge
from classifier.logged import Collected, LoggedRequest
from classifier.model import Model
from classifier.registry import REPORT_NAME
from classifier.scored import equal_cost_threshold
from classifier.search import GRID, Progress, Tried, search
from classifier.training import TrainingSettings, fit

GOLDEN_PATH: Final = Path(__file__).parent / "data" / "golden.jsonl"
"""Examples whose route is beyond doubt; a candidate must not flip one."""


PULL: Final = 20.0
"""How strongly the sigmoid fitted on training folds is held against newer rows, in rows. On 16 synthetic logs
calibration error beyond chance was .018 on average with 20, .022 with 1, and .018 without bending: within noise."""


class TooFewOutcomes(Exception):
    """The log cannot carry a model yet; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingSettings:
    """How to retrain.

    Attributes:
        calibrate_share, judge_share: Shares of the labelled rows in the second and the newest slice.
        least_outcomes: Firm labels of each kind it takes, over all slices, >= 1.
        base_weight: Weight of labels from elsewhere against an outcome; 0 leaves them out.
        half_life_s: Age, against the newest row, at which an outcome counts half; None: age does not matter.
        grid: Settings to try; one is taken without a search.
        folds: Of the search, >= 2.
        search_rows: Newest outcomes the search uses; what suits a few thousand suits more, and fits take minutes.
        equal_cost: Have the candidate suggest the threshold at which it costs what the champion costs; else it keeps
            what training suggests. It matters where the settings leave the threshold to the classifier.
        gate: Limits of the gate.
        seed: Of folds and bootstraps.
        jobs: Tasks of the search at a time.
    """

    calibrate_share: float = 0.15
    judge_share: float = 0.35
    least_outcomes: int = 80
    base_weight: float = 0.25
    half_life_s: float | None = None
    grid: tuple[TrainingSettings, ...] = GRID
    folds: int = 3
    search_rows: int = 4_000
    equal_cost: bool = True
    gate: GateSettings = field(default_factory=GateSettings)
    seed: int = 0
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.calibrate_share < self.calibrate_share + self.judge_share < 1.0:
            raise ValueError("calibrate_share and judge_share must be > 0 and leave something to fit on")
        if self.base_weight < 0.0:
            raise ValueError(f"base_weight must be >= 0, got {self.base_weight}")
        if not self.grid:
            raise ValueError("grid must hold at least one setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """Rows with an outcome by time; no session is in two of them."""

    fit: list[LoggedRequest]
    calibrate: list[LoggedRequest]
    judge: list[LoggedRequest]

    @property
    def judged_sessions(self) -> frozenset[str]:
        """Sessions of the newest slice."""
        return frozenset(row.session for row in self.judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """What came of it.

    Attributes:
        candidate: Ready to be saved by `save`.
        tried: Settings by loss, best first; empty without a search.
        verdict: The gate's.
        report: JSON-ready: evidence, figures, what was read and how it was cut.
        sources: What it was trained on, for the card.
    """

    candidate: Model
    tried: tuple[Tried, ...]
    verdict: Verdict
    report: dict[str, Any]
    sources: tuple[Source, ...]

    def save(self, directory: Path) -> Artifact:
        """Write artifact, model card and report into `directory`.

        Raises:
            OSError: It cannot be written.
        """
        artifact = self.candidate.artifact
        saved = artifacts.save(directory, artifact.manifest, artifact.arrays)
        sections = {
            "The gate": "\n".join(
                f"- {'passed' if each.passed else 'FAILED'} {each.name}: {each.figures}"
                for each in self.verdict.conditions
            ),
            "The log": _log_section(self.report["log"]),
            "By application and kind": _slices_section(self.report["slices"]),
        }
        figures = self.report["held_out"].get("candidate", {})
        write_card(directory, model_card(saved, sources=self.sources, figures=figures, sections=sections))
        encoded = msgspec.json.format(msgspec.json.encode(self.report), indent=2)
        (directory / REPORT_NAME).write_bytes(encoded + b"\n")
        return saved


def retrain(
    collected: Collected,
    champion: Model,
    base: Dataset | None,
    settings: RetrainingSettings,
    created_time: str,
    progress: Progress | None = None,
    embedder: Embedder | None = None,
) -> Retrained:
    """Fit, calibrate and judge a candidate.

    The log's rows hold the embeddings they were decided by, so fitting on them needs no text encoder. The candidate has
    the one given here, else the champion's.

    Args:
        collected: The log.
        champion: The model that serves.
        base: Labels from elsewhere, fitted on beside the outcomes; None for none.
        created_time: RFC 3339 time to record.
        progress: Told of each finished step, if given.
        embedder: Embeds the texts of `base`; needed for it where the champion has an encoder.

    Raises:
        EncoderError: The champion's encoder is missing, or another, and `base` has texts.
        TooFewOutcomes: The log has fewer firm labels of a kind than it takes, or too few sessions to be cut by time.
        TrainingError: The labels cannot carry a model.
    """
    _require(collected.labelled, settings.least_outcomes)
    slices = cut(collected.labelled, settings)
    if not (slices.fit and slices.judge):
        sessions = len({row.session for row in collected.labelled})
        raise TooFewOutcomes(
            f"the {len(collected.labelled)} requests with an outcome are of {sessions} sessions, and one of them holds"
            " so many that none are left of a later time to judge by; name sessions apart, or give more of them"
        )
    tell = progress or _silent
    others = base_rows(base, settings.base_weight)
    encoder = champion.manifest.encoder if embedder is None else embedder.entry
    if others:
        if embedder is None:
            require(encoder, None, champion.digest)
        others = list(encoded(Dataset(tuple(others)), embedder).rows)
    outcomes = outcome_rows(slices.fit, settings.half_life_s)
    tried = _search(outcomes, others, settings, tell, encoder)
    best = tried[0].settings if tried else settings.grid[0]
    tell(0, 1, "fitting")
    with threadpool_limits(limits=1):
        fitted = fit(Dataset((*outcomes, *others)), best, settings.seed, encoder).to_model(created_time)
    window = (slices.fit[0].time_s, slices.judge[-1].time_s)
    candidate = calibrated(fitted, slices.calibrate, {"champion": champion.digest, "window_s": list(window)})
    tell(0, 1, "judging")
    if settings.equal_cost:
        cut_at = equal_cost_threshold(cost_rows(collected, slices), candidate, champion)
        candidate = noted(candidate, threshold=cut_at)
    verdict, report = judge_candidate(collected, slices, candidate, champion, settings)
    report["log"] = _log_report(collected, slices, window)
    report["search"] = [{"settings": asdict(each.settings), "losses": list(each.losses)} for each in tried]
    tell(1, 1, "judged")
    sources = [Source(name="production outcomes", rows=len(outcomes), licence="the operator's own")]
    if others:
        sources.append(
            Source(
                name=f"labels beside them, weight {settings.base_weight:g}",
                rows=len(others),
                licence="as given",
            )
        )
    return Retrained(
        candidate=candidate, tried=tuple(tried), verdict=verdict, report=report, sources=tuple(sources)
    )


def judge_candidate(
    collected: Collected, slices: Slices, candidate: Model, champion: Model, settings: RetrainingSettings
) -> tuple[Verdict, dict[str, Any]]:
    """Weigh any model against the champion on the newest slice, wherever it comes from."""
    found = judged(
        slices.judge,
        cost_rows(collected, slices),
        collected.seen_share,
        candidate,
        champion,
        read(GOLDEN_PATH),
        seed=settings.seed,
    )
    verdict = judge(found.evidence, settings.gate)
    return verdict, found.report | {"verdict": verdict.to_dict()}


def cost_rows(collected: Collected, slices: Slices) -> list[LoggedRequest]:
    """Requests of the newest slice's time with and without an outcome, in their true proportion."""
    sessions = slices.judged_sessions
    begins_s = min(row.time_s for row in slices.judge)
    return [row for row in collected.alike() if row.session in sessions or _unjudged(row, begins_s)]


def _unjudged(row: LoggedRequest, begins_s: float) -> bool:
    return row.time_s >= begins_s and row.label is None and row.quality is None


def cut(rows: Sequence[LoggedRequest], settings: RetrainingSettings) -> Slices:
    """Cut rows with an outcome into slices by the first request of their session.

    Args:
        rows: In order of time.
    """
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.session, len(first))
    ordered = sorted(rows, key=lambda row: (first[row.session], row.time_s, row.request_id))
    slices: list[list[LoggedRequest]] = [[], [], []]
    bounds = (1.0 - settings.calibrate_share - settings.judge_share, 1.0 - settings.judge_share)
    place, before = 0, None
    for number, row in enumerate(ordered):
        if row.session != before:
            place = sum(number >= bound * len(ordered) for bound in bounds)
            before = row.session
        slices[place].append(row)
    return Slices(fit=slices[0], calibrate=slices[1], judge=slices[2])


def outcome_rows(rows: Sequence[LoggedRequest], half_life_s: float | None) -> list[Labelled]:
    """Rows with a label as training takes them; older ones count less if asked."""
    newest = max((row.time_s for row in rows), default=0.0)
    return [
        row.labelled(
            row.weight * (1.0 if half_life_s is None else 0.5 ** ((newest - row.time_s) / half_life_s))
        )
        for row in rows
        if row.label is not None
    ]


def base_rows(base: Dataset | None, weight: float) -> list[Labelled]:
    """Labels from elsewhere at their weight; ids and groups cannot meet those of the log."""
    if base is None or weight == 0.0:
        return []
    return [
        replace(row, id=f"base/{row.id}", group=f"base/{row.group}", weight=row.weight * weight)
        for row in base.rows
    ]


def calibrated(model: Model, rows: Sequence[LoggedRequest], about: dict[str, Any]) -> Model:
    """The model with its sigmoid bent to the firm labels of `rows`, and `about` in its manifest's metrics.

    The new score is sigmoid(a x + b) of the old one's logit x, with a and b fitted under a pull to 1 and 0 as strong as
    `PULL` rows: few rows change little. The order of scores never changes (a > 0).
    """
    manifest = model.manifest
    firm = [row for row in rows if row.firm]
    slope, shift = 1.0, 0.0
    if firm:
        scores = np.asarray([row_score(model, row) for row in firm])
        labels = np.asarray([row.label for row in firm], dtype=np.float64)
        # Each firm row counts once, as it does where calibration is judged: weights by verdict would tilt the chance.
        slope, shift = _bend(logit(np.clip(scores, 1e-9, 1.0 - 1e-9)), labels)
    return noted(
        model,
        calibration_slope=slope * manifest.calibration_slope,
        calibration_intercept=slope * manifest.calibration_intercept + shift,
        metrics=manifest.metrics | {"retrained": about | {"calibrated_on": len(firm)}},
    )


def noted(model: Model, **changes: Any) -> Model:
    """The model with fields of its manifest changed, and so of another digest."""
    changed = msgspec.structs.replace(model.manifest, **changes)
    digest = artifacts.digest_of(artifacts.encode_manifest(changed))
    return Model(Artifact(manifest=changed, digest=digest, arrays=model.artifact.arrays))


def row_score(model: Model, row: LoggedRequest) -> float:
    """The model's score of a logged request."""
    return model.score_features(row.labelled().features).value


def _bend(x: Array, labels: Array) -> tuple[float, float]:
    """(a, b) of the most likely sigmoid(a x + b), pulled to (1, 0); by Newton's method, a kept above 0."""
    found, start = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    design = np.column_stack([x, np.ones(len(x))])
    for _ in range(50):
        chance = expit(design @ found)
        gradient = design.T @ (chance - labels) + PULL * (found - start)
        curvature = (design * (chance * (1.0 - chance))[:, None]).T @ design + PULL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # A full step can overshoot where scores are saturated.
        found = found - step * min(1.0, 1.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    return max(0.05, float(found[0])), float(found[1])


def _search(
    outcomes: Sequence[Labelled],
    others: Sequence[Labelled],
    settings: RetrainingSettings,
    tell: Progress,
    encoder: EncoderEntry | None,
) -> list[Tried]:
    if len(settings.grid) == 1:
        return []
    return search(
        outcomes[-settings.search_rows :],
        others,
        settings.grid,
        folds=settings.folds,
        seed=settings.seed,
        jobs=settings.jobs,
        progress=lambda done, total, what: tell(done, total, f"searching: {what}"),
        encoder=encoder,
    )


def _require(rows: Sequence[LoggedRequest], least: int) -> None:
    zeros, ones = (sum(row.firm and row.label == label for row in rows) for label in (0, 1))
    if min(zeros, ones) < least:
        raise TooFewOutcomes(
            f"needs at least {least} outcomes of each label; the log has {zeros} requests that Flash sufficed for and"
            f" {ones} that needed Opus, of {len(rows)} with any outcome"
        )


def _log_report(collected: Collected, slices: Slices, window: tuple[float, float]) -> dict[str, Any]:
    return {
        "requests": collected.seen,
        "with_outcome": len(collected.labelled),
        "with_outcome_share_kept": collected.labelled_share,
        "without_features": collected.unusable,
        "judged_share": dict(zip(("flash", "opus"), collected.seen_share, strict=True)),
        "window_s": list(window),
        "rows": {"fit": len(slices.fit), "calibrate": len(slices.calibrate), "judge": len(slices.judge)},
        "explored": sum(row.explored for row in slices.judge),
    }


def _log_section(log: dict[str, Any]) -> str:
    rows, shares = log["rows"], log["judged_share"]
    return (
        f"{log['requests']} decided requests, {log['with_outcome']} with an outcome kept; fitted on {rows['fit']},"
        f" calibrated on {rows['calibrate']}, judged on the newest {rows['judge']}, {log['explored']} of them explored."
        f" Requests from {_day(log['window_s'][0])} to {_day(log['window_s'][1])}."
        f" Answers judged: {shares['flash']:.1%} of Flash's, {shares['opus']:.1%} of Opus's."
    )


def _slices_section(slices: Sequence[dict[str, Any]]) -> str:
    if not slices:
        return "No part of the traffic was large enough to judge."
    rows = [
        f"| {part['dimension']} {part['name']} | {part['rows']} | {part['needed_rows']} |"
        f" {_ranking(part['candidate'])} | {_ranking(part['champion'])} | {_figure(part['length_auroc'])} |"
        for part in slices
    ]
    head = (
        "| part | rows | needed Opus | AUROC [95 %], calibration error | the champion's | AUROC of length |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _ranking(figures: dict[str, Any]) -> str:
    low, high = _figure(figures["auroc_low"]), _figure(figures["auroc_high"])
    return f"{_figure(figures['auroc'])} [{low}, {high}], {_figure(figures['ece'])}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).date().isoformat()


def _silent(done: int, total: int, what: str) -> None:
    """Tell nobody."""
