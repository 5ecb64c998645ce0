"""Why a request read less from the cache than its session's previous request had left there.

The rule: compare with the previous request of the same session and scope, in the order in which causes
exclude each other: was anything written that this prompt begins with, was it still alive, did a breakpoint
look for it, was it long enough. Only what these values prove is named; the rest is UNKNOWN, and a request
without a previous one can only be called EVICTED (we believed, it was not there) or nothing at all. It does
not know another replica's traffic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cache.lookback import reaches
from cache.plan import Plan
from cache.prefix import shared_prefix
from cache.prompt import Layer, Prompt
from cache.rules import CacheRules

_SHORTFALL_SHARE = 0.05
"""Missing less than this share of what could have been read is the estimate's error, not a miss."""


class MissCause(StrEnum):
    """Why tokens that were written were not read."""

    TTL_LAPSED = "ttl_lapsed"
    """The entry's TTL had ended."""
    BELOW_MINIMUM = "below_minimum"
    """The prefix is shorter than the model caches; nothing was written."""
    NOT_PLANNED = "not_planned"
    """No breakpoint was set that could write or find it."""
    CHANGED = "changed"
    """The prompt differs from the previous one before the end of what was written."""
    LOOKBACK = "lookback"
    """The entry stood farther back than the provider looks from a breakpoint."""
    EVICTED = "evicted"
    """It should have been there and was not."""
    UNKNOWN = "unknown"
    """What we know does not tell."""


@dataclass(frozen=True, slots=True)
class Previous:
    """What the session's previous request on the same scope left behind.

    Attributes:
        digests: Its prefix digests.
        cumulative_tokens: Its tokens per prefix, estimated.
        plan: Its plan, as sent.
        started: When it started.
        first_byte_at: When its answer began; None when nobody knows that it did.
    """

    digests: Sequence[bytes]
    cumulative_tokens: Sequence[int]
    plan: Plan
    started: float
    first_byte_at: float | None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Tokens that could have been read and were not.

    Attributes:
        cause: Why.
        layer: First layer that differs (CHANGED) or in which the missed prefix ends; None when not known.
        missed_tokens: Tokens missed, estimated; > 0.
    """

    cause: MissCause
    layer: Layer | None
    missed_tokens: int


def diagnose(
    prompt: Prompt,
    digests: Sequence[bytes],
    plan: Plan,
    previous: Previous | None,
    *,
    started: float,
    read_tokens: int,
    written_tokens: int,
    rules: CacheRules,
) -> Shortfall | None:
    """Cause of what was not read, or None when nothing was missed.

    Args:
        plan: Plan of this request, as sent.
        previous: The session's previous request on the same scope, None for the first.
        started: Start of this request.
        read_tokens: Tokens this request read.
        written_tokens: Tokens it wrote, both TTLs.
    """
    if rules.implicit:
        return None  # nothing was asked for and nothing promised
    if previous is None:
        return _against_belief(prompt, plan, read_tokens)
    minimum_tokens = rules.minimum_tokens
    points = [point for point in previous.plan.breakpoints if point.prefix_tokens >= minimum_tokens]
    if not points:
        return _never_written(prompt, digests, previous, read_tokens, rules)
    deepest = points[-1]
    missed = deepest.prefix_tokens - read_tokens
    if missed <= _SHORTFALL_SHARE * deepest.prefix_tokens:
        return None
    shared = shared_prefix(digests, previous.digests)
    if shared <= deepest.position:
        # Entries before the first difference may still have been read; only the rest is this cause's.
        layer = prompt.blocks[shared].layer if shared < len(prompt.blocks) else deepest.layer
        kept = max((point.prefix_tokens for point in points if point.position < shared), default=0)
        if read_tokens >= kept * (1 - _SHORTFALL_SHARE):
            return Shortfall(MissCause.CHANGED, layer, missed)
        deepest = max(
            (point for point in points if point.position < shared), key=lambda point: point.position
        )
        missed = deepest.prefix_tokens - read_tokens
    cause = _cause(prompt, plan, previous, deepest.position, deepest.ttl_s, started, rules)
    if cause is MissCause.EVICTED and read_tokens == written_tokens == 0 and plan.breakpoints:
        # Breakpoints were sent, nothing was read and nothing written: the provider found every prefix too
        # short.
        cause = MissCause.BELOW_MINIMUM
    return Shortfall(cause, deepest.layer, missed)


def _cause(
    prompt: Prompt,
    plan: Plan,
    previous: Previous,
    position: int,
    ttl_s: int,
    started: float,
    rules: CacheRules,
) -> MissCause:
    """Why an entry the previous request wrote at `position` was not read."""
    if started >= previous.started + ttl_s:
        return MissCause.TTL_LAPSED
    if previous.first_byte_at is None or previous.first_byte_at > started:
        return MissCause.UNKNOWN  # it may never have been written, or could not be read yet
    later = [point.position for point in plan.breakpoints if point.position >= position]
    if not later:
        return MissCause.NOT_PLANNED
    if not reaches(prompt.blocks, position, later[0], rules):
        return MissCause.LOOKBACK
    return MissCause.EVICTED


def _never_written(
    prompt: Prompt, digests: Sequence[bytes], previous: Previous, read_tokens: int, rules: CacheRules
) -> Shortfall | None:
    """The previous request wrote nothing: what it shares with this one could have been there to read."""
    shared = shared_prefix(digests, previous.digests)
    if shared == 0:
        return None
    shared_tokens = previous.cumulative_tokens[shared - 1]
    if shared_tokens <= read_tokens:
        return None
    too_short = shared_tokens < rules.minimum_tokens
    cause = MissCause.BELOW_MINIMUM if too_short else MissCause.NOT_PLANNED
    return Shortfall(cause, prompt.blocks[shared - 1].layer, shared_tokens - read_tokens)


def _against_belief(prompt: Prompt, plan: Plan, read_tokens: int) -> Shortfall | None:
    """Without a previous request: only what we believed warm can have been missed."""
    missed = plan.full_read_tokens - read_tokens
    if not plan.believed or missed <= _SHORTFALL_SHARE * plan.full_read_tokens:
        return None
    return Shortfall(MissCause.EVICTED, prompt.blocks[plan.believed[0][0]].layer, missed)
