"""What was seen, and what follows from it: one trial's verdict, and a fact's. Pure.

The rule: a trial decides for a hypothesis only if it is the only one that expected all that was seen, every request
was answered, on time, and what was to be in flight together was. A fact is decided only if every trial decided, and
alike; everything else is unknown, with its reason.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import msgspec

from cache.facts import FactId, Verdict
from router.probe.experiments import Experiment, Seen, Step

LATE_S = 30.0
"""A request sent so much later than planned tests another age of the entry; half the distance to the nearest end."""
SLOPE_STANDARD_ERRORS = 3.0
"""A4 counts as measured from this many standard errors on; fewer may be noise."""
LEAST_POINTS = 6
_TINY_S = 1e-9


class Sighting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request as it went; token counts are the provider's.

    Attributes:
        started_s: Seconds after the trial's first request.
        first_byte_s: Seconds from its start to its first byte; None unless streamed.
        cost_nano_usd: None when it may have been billed and nobody said how much.
        error: Reason of its failure, "" when it was answered.
        refused: Whether the provider called the request itself invalid.
    """

    step: str
    started_s: float
    first_byte_s: float | None = None
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int | None = 0
    request_id: str = ""
    error: str = ""
    refused: bool = False

    @property
    def seen(self) -> Seen | None:
        """What it says of the cache; None when it was not answered."""
        if self.refused:
            return Seen.REFUSED
        if self.error:
            return None
        wrote = self.cache_write_5m_tokens + self.cache_write_1h_tokens > 0
        if self.cache_read_tokens:
            return Seen.PARTLY if wrote else Seen.READ
        return Seen.WROTE if wrote else Seen.NOTHING

    @property
    def uncached_tokens(self) -> int:
        """Input that was not read from the cache."""
        return self.input_tokens - self.cache_read_tokens


class Judgement(NamedTuple):
    """A verdict, and why it is unknown if it is."""

    verdict: Verdict
    why: str = ""


class Latency(NamedTuple):
    """A line through uncached tokens and times to the first byte.

    Attributes:
        error_s_per_token: Standard error of the slope.
    """

    first_byte_s: float
    prefill_s_per_token: float
    error_s_per_token: float


class Finding(NamedTuple):
    """What a fact's trials came to; `latency` of A4 only."""

    verdict: Verdict
    why: str = ""
    latency: Latency | None = None


def open_verdicts(experiment: Experiment, sightings: Mapping[str, Sighting]) -> tuple[Verdict, ...]:
    """Hypotheses that nothing seen so far speaks against."""
    return tuple(
        verdict
        for verdict in experiment.verdicts
        if all(
            sightings[step.name].seen is step.expects[verdict]
            for step in experiment.requests()
            if step.name in sightings
        )
    )


def judge(experiment: Experiment, sightings: Mapping[str, Sighting]) -> Judgement:
    """The verdict of one trial."""
    for step in experiment.requests():
        fault = _fault(step, sightings)
        if fault:
            return Judgement(Verdict.UNKNOWN, fault)
    left = open_verdicts(experiment, sightings)
    if len(left) == 1:
        return Judgement(left[0])
    if left:
        return Judgement(Verdict.UNKNOWN, "what was seen fits several hypotheses")
    return Judgement(Verdict.UNKNOWN, _misfit(experiment, sightings))


def settle(experiment: Experiment, trials: Sequence[Mapping[str, Sighting]]) -> Finding:
    """The verdict of a fact from all its trials, those that were cut short included."""
    judged = [judge(experiment, sightings) for sightings in trials]
    undecided = [each for each in judged if each.verdict is Verdict.UNKNOWN]
    if not judged:
        return Finding(Verdict.UNKNOWN, "no trial was made")
    if undecided:
        return Finding(
            Verdict.UNKNOWN, f"{len(undecided)} of {len(judged)} trials undecided: {undecided[0].why}"
        )
    verdicts = {each.verdict for each in judged}
    if len(verdicts) > 1:
        counted = ", ".join(
            f"{sum(each.verdict is verdict for each in judged)} {verdict.value}"
            for verdict in sorted(verdicts)
        )
        return Finding(Verdict.UNKNOWN, f"trials disagree: {counted}")
    (verdict,) = verdicts
    if experiment.fact is not FactId.A4:
        return Finding(verdict)
    return _latency_finding([sighting for trial in trials for sighting in trial.values()])


def contradicted(experiment: Experiment, trials: Sequence[Mapping[str, Sighting]]) -> bool:
    """Whether what was seen speaks against every hypothesis, or for several: unknown, and not for want of requests."""
    answered = [
        {name: each for name, each in sightings.items() if each.seen is not None} for sightings in trials
    ]
    if any(not open_verdicts(experiment, sightings) for sightings in answered):
        return True
    decided = {judge(experiment, sightings).verdict for sightings in trials} - {Verdict.UNKNOWN}
    return len(decided) > 1


def latency_line(points: Sequence[tuple[int, float]]) -> Latency | None:
    """Least squares through (uncached tokens, seconds); None when they do not span a line with an error."""
    count = len(points)
    if count < LEAST_POINTS:
        return None
    mean_tokens = sum(tokens for tokens, _ in points) / count
    mean_s = sum(seconds for _, seconds in points) / count
    spread = sum((tokens - mean_tokens) ** 2 for tokens, _ in points)
    if not spread:
        return None
    slope = sum((tokens - mean_tokens) * (seconds - mean_s) for tokens, seconds in points) / spread
    base = mean_s - slope * mean_tokens
    rest = sum((seconds - base - slope * tokens) ** 2 for tokens, seconds in points)
    return Latency(base, slope, sqrt(rest / (count - 2) / spread))


def _latency_finding(sightings: Sequence[Sighting]) -> Finding:
    points = [
        (each.uncached_tokens, each.first_byte_s) for each in sightings if each.first_byte_s is not None
    ]
    line = latency_line(points)
    if line is None:
        return Finding(Verdict.UNKNOWN, f"{len(points)} times are too few for a line")
    if line.first_byte_s <= 0 or line.prefill_s_per_token < max(
        SLOPE_STANDARD_ERRORS * line.error_s_per_token, _TINY_S
    ):
        return Finding(
            Verdict.UNKNOWN,
            f"{line.prefill_s_per_token * 1e6:.1f} us per token is not clear of its error, "
            f"{line.error_s_per_token * 1e6:.1f}",
            line,
        )
    return Finding(Verdict.MEASURED, "", line)


def _fault(step: Step, sightings: Mapping[str, Sighting]) -> str:
    """Why this request of a trial says nothing; "" if it does."""
    sighting = sightings.get(step.name)
    if sighting is None:
        return f"{step.name!r} was not sent"
    if sighting.seen is None:
        return f"{step.name!r} failed: {sighting.error}"
    late_s = sighting.started_s - step.at_s
    if abs(late_s) > LATE_S:
        return f"{step.name!r} was sent {late_s:.0f} s late"
    if step.beside is not None and step.beside.name in sightings:
        beside_s = sightings[step.beside.name].started_s - sighting.started_s
        if sighting.first_byte_s is None or not 0 < beside_s < sighting.first_byte_s:
            return f"{step.beside.name!r} was not in flight beside {step.name!r}"
    if step.stream and sighting.first_byte_s is None:
        return f"{step.name!r} has no time of its first byte"
    return ""


def _misfit(experiment: Experiment, sightings: Mapping[str, Sighting]) -> str:
    so_far: dict[str, Sighting] = {}
    for step in experiment.requests():
        so_far[step.name] = sightings[step.name]
        if not open_verdicts(experiment, so_far):
            seen = sightings[step.name].seen
            expected = " or ".join(sorted({each.value for each in step.expects.values()}))
            return f"{step.name!r} shows {seen.value if seen else 'nothing'} where {expected} was expected"
    return "no hypothesis fits"
