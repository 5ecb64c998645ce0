"""What came of a request -> a label, how much it counts, and how good the answer was.

The target is benefit: 1 if Opus was needed (Flash's answer would not do and Opus's would), else 0. Only the answer that
was given is ever seen, so most evidence says something of one route and little of the other:

| evidence | answered by | label | weight | quality of the answer | seen whether good or bad |
|---|---|---|---|---|---|
| a judge of both answers: `flash_sufficed` | either | 0 | 1 | 1 | yes |
| a judge of both answers: `opus_needed` | Flash / Opus | 1 | 1 | 0 / 1 | yes |
| Flash's answer discarded, Opus asked instead | Opus | 1 | 1 | - | no |
| `good` | Flash | 0 | 1 | 1 | yes |
| `bad` | Flash | 1 | .8 | 0 | yes |
| `good` | Opus | 1 | .1 | 1 | yes |
| `bad` | Opus | - | 0 | 0 | yes |
| malformed tool call or answer | Flash | 1 | .7 | - | no |
| refusal | Flash | 1 | .5 | - | no |
| truncated at the output limit | Flash | 1 | .1 | - | no |
| anything else, provider failures and fallbacks too | either | - | 0 | - | - |

Why the weights: Opus's good answer does not say that Flash's would have failed, only that the request was once thought
hard; without any such row nothing would hold the labels of hard requests up. Flash's bad answer does not say that
Opus's would have been good. A truncated answer is mostly a limit set too low. Opus's bad answer is no evidence of need,
but it is evidence of quality. A provider's failure says nothing of the request.

A score without a verdict counts as `good` from .5 on; with one, it is the quality.

Precedence, where sources disagree: a judge of both answers, then the discarded answer, then a judge of the answer
given, then what the call itself shows; within one kind the newest. The quality comes from the newest judge, whatever
decided the label: it is about the answer the caller got.

What is seen only when it went wrong can train, but it cannot judge: a mean over failures alone is 0. So only rows
with a quality enter the off-policy estimate. It does not know who judged, nor whether they were right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from classifier.route import Route

FIRM_WEIGHT: Final = 0.5
"""From this weight on a label is good enough to judge a model by, not only to train one."""

Verdict = Literal["good", "bad", "flash_sufficed", "opus_needed"]


class Judgement(NamedTuple):
    """What one source said of one request.

    Attributes:
        verdict: None when only a score was given.
        score: Quality of the answer in [0, 1], None when only a verdict was given.
        time_s: When, seconds since the epoch.
    """

    source: str
    verdict: Verdict | None
    score: float | None
    time_s: float


class Outcome(NamedTuple):
    """What a request teaches; see the module's table.

    Attributes:
        label: 1 if Opus was needed, 0 if not, None when it cannot be told.
        weight: In [0, 1]; 0 without a label.
        quality: Quality in [0, 1] of the answer the caller got; None when nobody judged it.
        evidence: What decided the label, or the quality where there is no label; "" for nothing.
    """

    label: int | None
    weight: float
    quality: float | None
    evidence: str


NOTHING: Final = Outcome(None, 0.0, None, "")

_PAIRED: Final[dict[str, int]] = {"flash_sufficed": 0, "opus_needed": 1}
_SINGLE: Final[dict[tuple[str, Route], tuple[int | None, float]]] = {
    ("good", Route.FLASH): (0, 1.0),
    ("bad", Route.FLASH): (1, 0.8),
    ("good", Route.OPUS): (1, 0.1),
    ("bad", Route.OPUS): (None, 0.0),
}
_FINISHES: Final[dict[str, float]] = {"malformed": 0.7, "refusal": 0.5, "max_tokens": 0.1}
"""Finish reasons (as the settlement spells them) of Flash that speak for Opus, with their weight."""


def outcome_of(
    answered_route: Route, finish_reason: str, discarded: str, judgements: Sequence[Judgement]
) -> Outcome:
    """Weigh all that is known of one request.

    Args:
        answered_route: Route whose answer the caller got.
        finish_reason: Of that answer; "" when there was none.
        discarded: Failure for which an answer of Flash was discarded and Opus asked, "" for none.
        judgements: What sources said, in any order.
    """
    newest = sorted(judgements, key=lambda each: (each.time_s, each.source), reverse=True)
    quality = next((_quality(each, answered_route) for each in newest), None)
    for each in newest:
        if each.verdict in _PAIRED:
            return Outcome(_PAIRED[each.verdict], 1.0, quality, each.verdict)
    if discarded:
        return Outcome(1, 1.0, quality, f"discarded:{discarded}")
    for each in newest:
        verdict = _verdict(each)
        label, weight = _SINGLE[verdict, answered_route]
        return Outcome(label, weight, quality, verdict)
    if answered_route is Route.FLASH and finish_reason in _FINISHES:
        return Outcome(1, _FINISHES[finish_reason], quality, f"finish:{finish_reason}")
    return NOTHING


def _verdict(judgement: Judgement) -> str:
    """The verdict, or what the score alone amounts to."""
    if judgement.verdict is not None:
        return judgement.verdict
    return "good" if judgement.score is not None and judgement.score >= 0.5 else "bad"


def _quality(judgement: Judgement, answered_route: Route) -> float:
    if judgement.score is not None:
        return judgement.score
    match judgement.verdict:
        case "good" | "flash_sufficed":
            return 1.0
        case "opus_needed":
            return 1.0 if answered_route is Route.OPUS else 0.0
        case _:
            return 0.0
