"""Why money was lost to the cache, from the ledger's sums: findings, dearest first, each with what can be done.

The rule: pure. Rows of the ledger go in, a `Diagnosis` comes out; every figure is a sum of the ledger or a quotient
of two. Loss is what calls were billed beyond what they would have been had the missed tokens been read; what nobody
knows is counted beside it. Advice says what an operator can change, with the counts that led to it; it does not know
prompts, so it names layers and applications, never words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from router.ledger import CachingRow, DearMiss, MissRow
from router.money import ratio

CAUSE = "cause"
EXAMPLES = 3
"""Requests named per finding."""
_OF_MISS = frozenset({CAUSE, "layer", "provider_cause"})

Key = tuple[str, ...]
"""Values of the groups a finding is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Misses of one cause in one layer and application.

    Attributes:
        layer: First layer missed, "" when it cannot be told.
    """

    cause: str
    layer: str
    application: str
    misses: int
    missed_tokens: int
    lost_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one group of misses lost.

    Attributes:
        group: Group name to its value, "" for what has none; one entry, but for sessions, which are a tenant's.
        cause: The dearest cause in it.
        layers: Layers missed for that cause, dearest first; without what cannot be told.
        calls: Calls that missed.
        lost_nano_usd: Sum over the misses of known loss.
        unknown_loss_calls: Calls with a miss whose loss is not known.
        share: Of what all input on Opus cost in the same selection; None when nothing of that is known.
        advice: What an operator can do about the dearest cause.
        examples: The dearest misses, dearest first.
    """

    group: Mapping[str, str]
    cause: str
    layers: tuple[str, ...]
    calls: int
    misses: int
    missed_tokens: int
    unknown_token_misses: int
    lost_nano_usd: int
    unknown_loss_calls: int
    share: Fraction | None
    advice: str
    examples: tuple[DearMiss, ...]

    @property
    def key(self) -> str:
        """Value of the group; of a session with its tenant before it."""
        if len(self.group) == 1:
            return next(iter(self.group.values()))
        return " / ".join(value or "(none)" for value in self.group.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All that was found.

    Attributes:
        by: What the findings are grouped by.
        findings: Dearest first, at most as many as were asked for.
        more: Groups that are not shown, and what they lost.
        user: Calls made for users.
        overhead: Calls of the router's own: warms, probes, shadow calls.
        lost: Sums over everything missed; None when nothing was.
    """

    by: str
    findings: tuple[Finding, ...]
    more_count: int
    more_lost_nano_usd: int
    user: CachingRow | None
    overhead: tuple[CachingRow, ...]
    lost: MissRow | None

    @property
    def calls(self) -> int:
        """All calls on Opus."""
        return (self.user.calls if self.user else 0) + sum(row.calls for row in self.overhead)

    @property
    def lost_nano_usd(self) -> int:
        """What misses are known to have cost."""
        return self.lost.lost_nano_usd if self.lost else 0

    @property
    def read_share(self) -> Fraction | None:
        """Cache reads per input token, over users' calls whose usage is known; None without any."""
        return ratio(self.user.cache_read_tokens, self.user.input_tokens) if self.user else None

    @property
    def overhead_nano_usd(self) -> int:
        """What the router's own calls are known to have cost."""
        return sum(row.cost_nano_usd for row in self.overhead)

    @property
    def saved_nano_usd(self) -> int | None:
        """What caching saved: users' calls against all input uncached, less the router's own calls; None unknown."""
        if self.user is None or not self.user.no_caching.calls:
            return None
        return self.user.no_caching.saving_nano_usd - self.overhead_nano_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Answers of the ledger to the questions of a diagnosis, all about the same selection of calls.

    Attributes:
        by: Group that findings are made of: "cause" or another of the ledger's.
        total: `misses(())`.
        groups: `misses(finding_groups(by))`.
        parts: `misses(part_groups(by))`.
        causes: `misses(cause_groups(by))`.
        examples: `dearest_misses(finding_groups(by))`.
        purposes: `caching(("purpose",))`.
        applications: `caching(call_groups(by))`.
    """

    by: str
    total: Sequence[MissRow]
    groups: Sequence[MissRow]
    parts: Sequence[MissRow]
    causes: Sequence[MissRow]
    examples: Sequence[DearMiss]
    purposes: Sequence[CachingRow]
    applications: Sequence[CachingRow]


def finding_groups(by: str) -> tuple[str, ...]:
    """Return the groups that findings by `by` are made of: a session's name is its tenant's own choice."""
    return ("tenant", "session") if by == "session" else (by,)


def part_groups(by: str) -> tuple[str, ...]:
    """Return the groups of `Evidence.parts` for findings by `by`."""
    return tuple(dict.fromkeys((*finding_groups(by), CAUSE, "layer", "application")))


def cause_groups(by: str) -> tuple[str, ...]:
    """Return the groups of `Evidence.causes`."""
    return tuple(dict.fromkeys((*finding_groups(by), CAUSE, "application")))


def call_groups(by: str) -> tuple[str, ...]:
    """Return the groups of `Evidence.applications`: a cause and a layer belong to misses, not to calls."""
    return tuple(dict.fromkeys((*_call_key(by), "application")))


def _call_key(by: str) -> tuple[str, ...]:
    """Groups of findings by `by` that calls have, too."""
    return () if by in _OF_MISS else finding_groups(by)


def diagnose(evidence: Evidence, *, top: int) -> Diagnosis:
    """Rank what was missed.

    Args:
        top: Findings to give, >= 1.
    """
    by = evidence.by
    names, call_names = finding_groups(by), _call_key(by)

    def key_of(row: MissRow | DearMiss) -> Key:
        return tuple(row.group[name] for name in names)

    calls_of = {
        (tuple(row.group[name] for name in call_names), row.group["application"]): row.calls
        for row in evidence.applications
    }
    missed_of = {
        (key_of(row), row.group[CAUSE], row.group["application"]): row.calls for row in evidence.causes
    }
    input_nano_usd = sum(row.input_nano_usd for row in evidence.purposes)
    parts: dict[Key, list[Part]] = defaultdict(list)
    for row in evidence.parts:
        parts[key_of(row)].append(_part(row))
    examples: dict[Key, list[DearMiss]] = defaultdict(list)
    for each in evidence.examples:
        examples[key_of(each)].append(each)
    ranked = sorted(evidence.groups, key=lambda row: (*_weight(row), key_of(row)))

    def finding_of(row: MissRow) -> Finding:
        key = key_of(row)
        return _finding(
            row,
            dict(zip(names, key, strict=True)),
            parts[key],
            examples[key],
            lambda cause, application: (
                missed_of[key, cause, application],
                calls_of.get((key if call_names else (), application), 0),
            ),
            input_nano_usd,
        )

    findings = tuple(map(finding_of, ranked[:top]))
    rest = ranked[top:]
    return Diagnosis(
        by=by,
        findings=findings,
        more_count=len(rest),
        more_lost_nano_usd=sum(row.lost_nano_usd for row in rest),
        user=next((row for row in evidence.purposes if row.group["purpose"] == "user"), None),
        overhead=tuple(row for row in evidence.purposes if row.group["purpose"] != "user"),
        lost=evidence.total[0] if evidence.total else None,
    )


def diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as plain data: money in nano-USD, shares as numbers in [0, 1], None for unknown."""
    user, lost = diagnosis.user, diagnosis.lost
    return {
        "by": diagnosis.by,
        "opus_calls": diagnosis.calls,
        "user_calls": user.calls if user else 0,
        "usage_calls": user.usage_calls if user else 0,
        "input_tokens": user.input_tokens if user else 0,
        "cache_read_tokens": user.cache_read_tokens if user else 0,
        "cache_write_tokens": user.cache_write_tokens if user else 0,
        "read_share": _number(diagnosis.read_share),
        "input_nano_usd": _input_nano_usd(diagnosis),
        "saved_nano_usd": diagnosis.saved_nano_usd,
        "saved_calls": user.no_caching.calls if user else 0,
        "overhead_calls": sum(row.calls for row in diagnosis.overhead),
        "overhead_nano_usd": diagnosis.overhead_nano_usd,
        "padding_tokens": user.padding_tokens if user else 0,
        "padding_nano_usd": user.padding_nano_usd if user else 0,
        "lost_nano_usd": diagnosis.lost_nano_usd,
        "missed_calls": lost.calls if lost else 0,
        "missed_tokens": lost.missed_tokens if lost else 0,
        "unknown_loss_calls": lost.unknown_loss_calls if lost else 0,
        "findings": [_finding_json(finding) for finding in diagnosis.findings],
        "more_count": diagnosis.more_count,
        "more_lost_nano_usd": diagnosis.more_lost_nano_usd,
    }


def _input_nano_usd(diagnosis: Diagnosis) -> int:
    rows = (*diagnosis.overhead, *((diagnosis.user,) if diagnosis.user else ()))
    return sum(row.input_nano_usd for row in rows)


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "group": dict(finding.group),
        "cause": finding.cause,
        "layers": list(finding.layers),
        "calls": finding.calls,
        "misses": finding.misses,
        "missed_tokens": finding.missed_tokens,
        "unknown_token_misses": finding.unknown_token_misses,
        "lost_nano_usd": finding.lost_nano_usd,
        "unknown_loss_calls": finding.unknown_loss_calls,
        "share_of_input_cost": _number(finding.share),
        "advice": finding.advice,
        "examples": [
            {
                "request_id": each.request_id,
                "attempt": each.attempt,
                "started_time_s": each.started_time_s,
                "cause": each.cause,
                "layer": each.layer,
                "missed_tokens": each.missed_tokens,
                "lost_nano_usd": each.lost_nano_usd,
            }
            for each in finding.examples
        ],
    }


def _number(share: Fraction | None) -> float | None:
    return None if share is None else float(share)


def _part(row: MissRow) -> Part:
    return Part(
        cause=row.group[CAUSE],
        layer=row.group["layer"],
        application=row.group["application"],
        misses=row.misses,
        missed_tokens=row.missed_tokens,
        lost_nano_usd=row.lost_nano_usd,
    )


def _weight(row: MissRow | Part) -> tuple[int, int, int]:
    """Order: dearest first, then most tokens, then most misses; what is unknown weighs nothing."""
    return -row.lost_nano_usd, -row.missed_tokens, -row.misses


def _finding(
    row: MissRow,
    group: Mapping[str, str],
    parts: Sequence[Part],
    examples: Sequence[DearMiss],
    counts: Callable[[str, str], tuple[int, int]],
    input_nano_usd: int,
) -> Finding:
    cause, *_ = _dearest(parts, lambda part: part.cause)
    of_cause = [part for part in parts if part.cause == cause]
    application, *_ = _dearest(of_cause, lambda part: part.application)
    missed, calls = counts(cause, application)
    return Finding(
        group=group,
        cause=cause,
        layers=tuple(layer for layer in _dearest(of_cause, lambda part: part.layer) if layer),
        calls=row.calls,
        misses=row.misses,
        missed_tokens=row.missed_tokens,
        unknown_token_misses=row.unknown_token_misses,
        lost_nano_usd=row.lost_nano_usd,
        unknown_loss_calls=row.unknown_loss_calls,
        share=ratio(row.lost_nano_usd, input_nano_usd),
        advice=advice(cause, application=application, missed_calls=missed, calls=calls),
        examples=tuple(examples[:EXAMPLES]),
    )


def _dearest(parts: Iterable[Part], key: Callable[[Part], str]) -> list[str]:
    """Return the values of `key`, dearest first."""
    weights: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for part in parts:
        for index, weight in enumerate(_weight(part)):
            weights[key(part)][index] += weight
    return sorted(weights, key=lambda value: (weights[value], value))


_WHAT: Mapping[str, str] = {
    "model": "another model answered before",
    "tools": "the tool definitions changed",
    "system": "the system prompt changed",
    "context": "the user context changed",
    "history_edited": "an earlier turn was edited",
    "parameter": "tool choice, thinking, effort or output format changed",
    "image": "an image was added or removed",
    "ttl_lapsed": "the TTL had passed",
    "below_minimum": "the prefix was under the model's minimum",
    "lookback": "the entry lay beyond the lookback",
    "herd": "another request was still writing",
    "evicted": "the provider had dropped the entry",
    "unknown": "what an earlier call had written is not known",
}
_REMEDY: Mapping[str, str] = {
    "model": "keep a session on one model: caches are never shared across models",
    "tools": "send every call the same tools in the same order and spelling; change them with a deploy only",
    "system": "move what changes (dates, ids, names) to the user context or the end of the turn",
    "context": "keep it the same within a session; put what changes into the turn",
    "history_edited": "send history back byte for byte and append to it; trim rarely and much at a time",
    "parameter": "set them per application and leave them alone within a session",
    "image": "keep images in the history, or give them sessions of their own",
    "ttl_lapsed": "where gaps of 5 to 60 minutes are common: 1h, or keep-alive; "
    "see hybrid-router advise{application}",
    "below_minimum": "pad or lengthen the shared layers, or take a model with a lower minimum; "
    "hybrid-router config check says by how much",
    "lookback": 'use strategy "auto", which spends a breakpoint on the old entry when a turn adds many blocks',
    "herd": "let one request go ahead when many start together, e.g. warm before a batch",
    "evicted": "nothing to change here; if it grows, see whether others use the same workspace, and tell the provider",
    "unknown": "see why calls before these were cancelled or broke off; they ended without usage",
}


def advice(cause: str, *, application: str, missed_calls: int, calls: int) -> str:
    """Say in one line what happened how often and what can be done about it.

    Args:
        cause: As in the ledger; one that this release does not know is named as it is.
        application: Application that lost most by it, "" when its calls name none.
        missed_calls: Its calls that missed for this cause.
        calls: Its calls on Opus.
    """
    where = f"application {application}" if application else "calls without an application"
    what = _WHAT.get(cause, cause.replace("_", " "))
    remedy = _REMEDY.get(cause, "this release has no advice on this cause")
    # replace, not format: an application's name may hold a brace
    remedy = remedy.replace("{application}", f" {application}" if application else "")
    return f"{where}: {what} in {missed_calls:,} of {calls:,} calls; {remedy}"
