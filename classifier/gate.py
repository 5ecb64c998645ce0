"""Whether a candidate may replace the champion: evidence in, a verdict with every condition and its figures out.

The rule: all conditions are told, passed or not, so a refusal says everything that stands in the way; the verdict
depends on nothing but the evidence and the settings, so it can be repeated. What cannot be told counts as not passed.

| condition | passed when |
|---|---|
| outcomes | each label occurs often enough among the outcomes it is judged by |
| quality | the lift's lower bound is above -0.5 point at equal or lower cost; or above 0 at equal cost (within a
            tolerance); or above 0 and worth its price: V x lower bound >= the most it can cost more |
| calibration | its error beyond chance is below .05 and at most .01 above the champion's |
| slices | no slice (application, kind) is harmed by more than 2 points, Holm over slices |
| golden | no example of the golden set that the champion routes rightly is routed wrongly |

Cost is judged by its estimate, its interval is told: a candidate's threshold is set to the champion's cost, so that an
upper bound would refuse whatever is as dear as it was meant to be.

Calibration error is compared beyond chance because the estimate is never 0: a perfectly calibrated model shows some .07
on 300 rows. The time a score takes is measured elsewhere: candidates have the champion's form.

It does not know how the evidence was gathered, nor where models are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import erfc, sqrt
from typing import Any

from classifier.offpolicy import Estimate, Lift


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Limits of the gate; shares unless said otherwise.

    Attributes:
        quality_margin: Loss of quality per request that still counts as none, at equal or lower cost.
        cost_tolerance: Change of cost, as a share of the champion's, that still counts as equal.
        error_most: Calibration error beyond chance that a candidate must stay below.
        error_worse: By how much it may exceed the champion's.
        slice_harm: Loss of quality in a slice that refuses, where it is proved.
        slice_level: Chance of refusing for a slice wrongly, over all slices.
        least_outcomes: Rows of each label a candidate must be judged by, >= 1.
        always_valid: Go by bounds that hold however often one looks, instead of those for one look.
    """

    quality_margin: float = 0.005
    cost_tolerance: float = 0.02
    error_most: float = 0.05
    error_worse: float = 0.01
    slice_harm: float = 0.02
    slice_level: float = 0.05
    least_outcomes: int = 20
    always_valid: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationError:
    """Calibration error of one model on the rows it is judged by.

    Attributes:
        error: As measured, in [0, 1].
        by_chance: What a perfectly calibrated model with these scores would show on average.
    """

    error: float
    by_chance: float

    @property
    def beyond_chance(self) -> float:
        """What chance does not explain, >= 0."""
        return max(0.0, self.error - self.by_chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Lift of quality within one part of the traffic, e.g. ("application", "helpdesk")."""

    dimension: str
    name: str
    rows: int
    lift: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of a candidate against the champion.

    Attributes:
        quality: Lift of quality per request, quality in [0, 1]; None when no outcome can be judged.
        cost_nano_usd: Cost per request, candidate less champion; None when unknown.
        champion_cost_nano_usd: Cost per request of the champion; None when unknown.
        answer_value_nano_usd: What a needed answer of Opus is worth to the operator; None under a fixed threshold.
        candidate_error, champion_error: On the same rows; None without rows.
        outcomes: Rows labelled 0 and 1 that judge.
        slices: Parts of the traffic large enough to judge.
        golden_rows: Examples of the golden set.
        golden_flips: Ids of those the champion routes rightly and the candidate wrongly.
    """

    quality: Lift | None
    cost_nano_usd: Estimate | None
    champion_cost_nano_usd: float | None
    answer_value_nano_usd: float | None
    candidate_error: CalibrationError | None
    champion_error: CalibrationError | None
    outcomes: tuple[int, int]
    slices: tuple[Slice, ...]
    golden_rows: int
    golden_flips: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition: whether it holds and the figures it was decided by, in a sentence."""

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Every condition in the order of the module's table."""

    conditions: tuple[Condition, ...]

    @property
    def passed(self) -> bool:
        """Whether all hold."""
        return all(condition.passed for condition in self.conditions)

    @property
    def reason(self) -> str:
        """One sentence for the registry's history."""
        failed = [condition for condition in self.conditions if not condition.passed]
        if not failed:
            return next(each.figures for each in self.conditions if each.name == "quality")
        return "; ".join(f"{condition.name}: {condition.figures}" for condition in failed)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {"passed": self.passed, "conditions": [asdict(condition) for condition in self.conditions]}


def judge(evidence: Evidence, settings: GateSettings) -> Verdict:
    """Weigh the evidence; see the module's table."""
    return Verdict(
        conditions=(
            _outcomes(evidence, settings),
            _quality(evidence, settings),
            _calibration(evidence, settings),
            _slices(evidence.slices, settings),
            _golden(evidence),
        )
    )


def _outcomes(evidence: Evidence, settings: GateSettings) -> Condition:
    zeros, ones = evidence.outcomes
    return Condition(
        name="outcomes",
        passed=min(zeros, ones) >= settings.least_outcomes,
        figures=f"judged by {zeros} outcomes labelled 0 and {ones} labelled 1, of which it takes"
        f" {settings.least_outcomes} each",
    )


def _quality(evidence: Evidence, settings: GateSettings) -> Condition:
    lift, cost, base = evidence.quality, evidence.cost_nano_usd, evidence.champion_cost_nano_usd
    if lift is None or cost is None or base is None or base <= 0.0:
        missing = "quality" if lift is None else "cost"
        return Condition(name="quality", passed=False, figures=f"the {missing} of requests is not known")
    low, high = lift.dr.low, lift.dr.high
    if settings.always_valid:
        if lift.always_valid is None:
            return Condition(
                name="quality", passed=False, figures="no always-valid bounds without bounds of quality"
            )
        low, high = lift.always_valid
    share = cost.value / base
    worth = evidence.answer_value_nano_usd
    passed = (
        (low > -settings.quality_margin and share <= 0.0)
        or (low > 0.0 and share <= settings.cost_tolerance)
        or (worth is not None and low > 0.0 and worth * low >= cost.high)
    )
    figures = (
        f"lift {_points(lift.dr.value)} points [{_points(low)}, {_points(high)}] at {share:+.1%} cost"
        f" [{cost.low / base:+.1%}, {cost.high / base:+.1%}], from {lift.rows} requests in {lift.sessions}"
        f" sessions; they differ on {lift.differ_share:.1%}"
    )
    if lift.unsupported_share > 0.0:
        figures += f", on {lift.unsupported_share:.1%} without enough exploration, taken at its worst"
    return Condition(name="quality", passed=passed, figures=figures)


def _calibration(evidence: Evidence, settings: GateSettings) -> Condition:
    mine, champion = evidence.candidate_error, evidence.champion_error
    if mine is None or champion is None:
        return Condition(name="calibration", passed=False, figures="there are no outcomes to measure it by")
    most = min(settings.error_most, champion.beyond_chance + settings.error_worse)
    return Condition(
        name="calibration",
        passed=mine.beyond_chance < settings.error_most
        and mine.beyond_chance <= champion.beyond_chance + settings.error_worse,
        figures=f"error {mine.error:.3f}, {mine.beyond_chance:.3f} beyond chance (at most {most:.3f});"
        f" the champion's {champion.error:.3f}, {champion.beyond_chance:.3f} beyond chance",
    )


def _slices(slices: Sequence[Slice], settings: GateSettings) -> Condition:
    harmed = harmed_slices(slices, settings.slice_harm, settings.slice_level)
    if not slices:
        return Condition(name="slices", passed=True, figures="no slice is large enough to judge")
    worst = min(slices, key=lambda each: each.lift.value)
    told = harmed or (worst,)
    return Condition(
        name="slices",
        passed=not harmed,
        figures=("harmed: " if harmed else f"{len(slices)} slices, none proved harmed; the worst: ")
        + ", ".join(
            f"{each.dimension} {each.name} {_points(each.lift.value)} points"
            f" [{_points(each.lift.low)}, {_points(each.lift.high)}] of {each.rows} requests"
            for each in told
        ),
    )


def harmed_slices(slices: Sequence[Slice], harm: float, level: float) -> tuple[Slice, ...]:
    """Slices whose lift is proved to be below -harm, by Holm's step-down over all of them.

    A slice is proved harmed when its one-sided p-value (normal, from the interval's width) is at most level over the
    slices not yet decided, smallest p first, until one is not.
    """
    by_p = sorted(((_p_value(each, harm), index) for index, each in enumerate(slices)))
    found = []
    for rank, (p_value, index) in enumerate(by_p):
        if p_value > level / (len(slices) - rank):
            break
        found.append(slices[index])
    return tuple(found)


def _p_value(part: Slice, harm: float) -> float:
    """Chance of a lift as low as this, or lower, were the true one -harm."""
    error, distance = part.lift.standard_error, part.lift.value + harm
    if error <= 0.0:
        return 0.0 if distance < 0.0 else 1.0
    return 0.5 * erfc(-distance / error / sqrt(2.0))


def _golden(evidence: Evidence) -> Condition:
    flips = evidence.golden_flips
    return Condition(
        name="golden",
        passed=not flips,
        figures=f"{len(flips)} of {evidence.golden_rows} examples flipped"
        + (f": {', '.join(flips[:5])}{', ...' if len(flips) > 5 else ''}" if flips else ""),
    )


def _points(share: float) -> str:
    """A share as signed percentage points."""
    return f"{100.0 * share:+.2f}"
