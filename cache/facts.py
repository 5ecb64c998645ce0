"""Facts the providers' documents leave open: what we assume of each, and what a probe has measured instead.

The rule: an assumption is a default here and nowhere else; a measurement replaces it only for the model it was made
on, only while it is fresh, and only if it decided. `Facts` is what planner, index and warmer ask. This module knows no
files and no clock: answers and the time are passed in.

Sources of the defaults, read 2026-11: https://platform.claude.com/docs/en/build-with-claude/prompt-caching says that a
hit restarts an entry's clock and what a write costs, and is silent on A1, A2, A3 and A5; it documents `max_tokens: 0`
without naming models on which thinking is always on (A6); latency is published for 2024 models only (A4).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

CLOCK_SLACK_S = 3600.0
"""How far ahead of our clock an answer may be dated before it is not believed."""


class FactId(StrEnum):
    """A question that only a live call can answer."""

    A1_MARKED = "A1_marked"
    """Does a hit on a deep entry refresh shallower entries at marked positions?"""
    A1_UNMARKED = "A1_unmarked"
    """... and those at positions that the request does not mark?"""
    A2 = "A2"
    """Does a 1h entry written on top of a prefix read from a 5m entry keep the whole prefix for its hour?"""
    A3 = "A3"
    """Does a 1h mark on a live 5m entry at the same position make it a 1h entry, and is that billed?"""
    A4 = "A4"
    """Seconds to the first byte, and seconds more per uncached token."""
    A5 = "A5"
    """Does a request without marks, in flight beside the writer, disturb the writer's entry?"""
    A6 = "A6"
    """Is `max_tokens: 0` accepted where thinking is always on?"""


class Verdict(StrEnum):
    """What a probe found."""

    YES = "yes"
    NO = "no"
    FREE = "free"
    """Of A3: the entry becomes a 1h entry and nothing is billed but the read."""
    BILLED = "billed"
    """Of A3: the prefix is written anew, at the 1h price."""
    MEASURED = "measured"
    """Of A4: the numbers stand beside it."""
    UNKNOWN = "unknown"
    """Trials disagreed, a control failed, or too little was sent."""


class Answer(NamedTuple):
    """One fact as measured on one model.

    Attributes:
        model: Full model id it was measured on, aliases resolved.
        measured_time_s: Seconds since the epoch.
        live: False when it was measured on an emulator, which proves nothing about the provider.
        prefill_s_per_token: Of A4: seconds per uncached token; None otherwise.
        first_byte_s: Of A4: seconds to the first byte with nothing uncached; None otherwise.
    """

    fact: FactId
    model: str
    verdict: Verdict
    measured_time_s: float
    live: bool
    prefill_s_per_token: float | None = None
    first_byte_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The open facts as they are to be taken; defaults are assumptions of 2026-11-22.

    Attributes:
        deep_hit_refreshes_shallower_marked: A1. A hit restarts the clock of shallower entries at marked
            positions.
        deep_hit_refreshes_shallower_unmarked: A1. ... and of those at positions not marked in that request.
        hour_mark_extends_read_prefix: A2. A 1h entry written on top of a prefix read from a 5m entry stays
            readable for its whole hour. Assumed false: the upgrade ping that lives on it stays off until
            measured.
        hour_mark_upgrades_entry: A3. A 1h breakpoint on a live 5m entry turns it into a 1h entry, unbilled. Where it
            is billed, usage shows the write, and nothing needs to be assumed.
        prefill_s_per_token: A4. Seconds to read one uncached token (kappa), from the vendor's 2024 figures.
        first_byte_s: A4. Seconds to the first byte with everything cached (t0).
        stripped_request_harms: A5. A request without breakpoints, in flight beside the writer, disturbs its
            entry.
        zero_output_with_adaptive_thinking: A6. `max_tokens: 0` is accepted where thinking is always on.
        implicit_ttl_s: How long an implicit entry is believed in; the provider says "close in time" only.
        verified: Facts that were measured on the model these are for; the others are assumptions.
    """

    deep_hit_refreshes_shallower_marked: bool = True
    deep_hit_refreshes_shallower_unmarked: bool = False
    hour_mark_extends_read_prefix: bool = False
    hour_mark_upgrades_entry: bool = False
    prefill_s_per_token: float = 80e-6
    first_byte_s: float = 0.5
    stripped_request_harms: bool = False
    zero_output_with_adaptive_thinking: bool = True
    implicit_ttl_s: int = 300
    verified: frozenset[FactId] = frozenset()

    @property
    def upgrade_ping_verified(self) -> bool:
        """Whether the upgrade ping may be sent: A2 was measured on this model, and holds."""
        return self.hour_mark_extends_read_prefix and FactId.A2 in self.verified

    @property
    def warm_output_tokens(self) -> int:
        """Output tokens a warming call asks for: none where A6 holds, else the one that cannot be avoided."""
        return 0 if self.zero_output_with_adaptive_thinking else 1


ASSUMED = Facts()
"""The open facts as assumed on 2026-11-22, nothing verified."""


class Ignored(NamedTuple):
    """An answer that was not used, and why."""

    answer: Answer
    why: str


class Reading(NamedTuple):
    """What answers came to.

    Attributes:
        used: Answers that replaced an assumption, by fact.
        ignored: The others, in the order given.
    """

    facts: Facts
    used: tuple[Answer, ...]
    ignored: tuple[Ignored, ...]


def facts_for(
    model: str, answers: Iterable[Answer], *, now_s: float, age_limit_s: float, assumed: Facts = ASSUMED
) -> Reading:
    """Take the newest usable answer to each question; what has none stays as assumed.

    An unknown that is newer than a decision takes the decision back: what was once seen no longer is.

    Args:
        model: Full id of the model that is asked.
        age_limit_s: Older answers are ignored.
    """
    newest: dict[FactId, Answer] = {}
    ignored: list[Ignored] = []
    for answer in answers:
        why = _unusable(answer, model, now_s, age_limit_s)
        if why:
            ignored.append(Ignored(answer, why))
            continue
        kept = newest.get(answer.fact)
        if kept is not None:
            older, answer = sorted((kept, answer), key=lambda each: each.measured_time_s)
            ignored.append(Ignored(older, "a newer answer replaces it"))
        newest[answer.fact] = answer
    facts = assumed
    used: list[Answer] = []
    for fact in FactId:
        found = newest.get(fact)
        if found is None:
            continue
        if found.verdict is Verdict.UNKNOWN:
            ignored.append(Ignored(found, "undecided, so the assumption stays"))
            continue
        facts = _with(facts, found)
        used.append(found)
    return Reading(facts, tuple(used), tuple(ignored))


VERDICTS: dict[FactId, frozenset[Verdict]] = {
    fact: frozenset({Verdict.YES, Verdict.NO, Verdict.UNKNOWN}) for fact in FactId
} | {
    FactId.A3: frozenset({Verdict.NO, Verdict.FREE, Verdict.BILLED, Verdict.UNKNOWN}),
    FactId.A4: frozenset({Verdict.MEASURED, Verdict.UNKNOWN}),
}
"""Verdicts each question can have."""


def _unusable(answer: Answer, model: str, now_s: float, age_limit_s: float) -> str:
    if not answer.live:
        return "measured on an emulator"
    if answer.model != model:
        return f"measured on {answer.model}, and the model asked is {model}"
    age_s = now_s - answer.measured_time_s
    if age_s > age_limit_s:
        return f"{age_s / 86_400:.0f} days old, older than the {age_limit_s / 86_400:g} allowed"
    if age_s < -CLOCK_SLACK_S:
        return "dated in the future"
    return ""


def _with(facts: Facts, answer: Answer) -> Facts:
    """`facts` with one decided answer in place of its assumption.

    Raises:
        ValueError: The verdict is not one this question has, or A4 comes without its numbers.
    """
    fact, verdict = answer.fact, answer.verdict
    if verdict not in VERDICTS[fact]:
        raise ValueError(f"{fact.value} cannot be {verdict.value!r}")
    facts = replace(facts, verified=facts.verified | {fact})
    yes = verdict is Verdict.YES
    match fact:
        case FactId.A1_MARKED:
            return replace(facts, deep_hit_refreshes_shallower_marked=yes)
        case FactId.A1_UNMARKED:
            return replace(facts, deep_hit_refreshes_shallower_unmarked=yes)
        case FactId.A2:
            return replace(facts, hour_mark_extends_read_prefix=yes)
        case FactId.A3:
            return replace(facts, hour_mark_upgrades_entry=verdict is Verdict.FREE)
        case FactId.A5:
            return replace(facts, stripped_request_harms=yes)
        case FactId.A6:
            return replace(facts, zero_output_with_adaptive_thinking=yes)
        case FactId.A4:
            if answer.prefill_s_per_token is None or answer.first_byte_s is None:
                raise ValueError("A4 was measured, but its numbers are missing")
            return replace(
                facts, prefill_s_per_token=answer.prefill_s_per_token, first_byte_s=answer.first_byte_s
            )
