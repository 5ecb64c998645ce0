"""Why a request read less from the cache than earlier ones had left for it: asked, priced, named.

The rule: `cache.diagnose` knows what the values prove; this module remembers the last Opus requests of each
session, looks up what the index believes before the call's own usage overwrites it, and prices what was missed:

    lost = what the call was billed - what it would have been billed had its prefix up to the missed end been read

With A read, B the end of what was written for an hour and C of what was written at all, a read up to E makes that
E read, max(0, B - E) written for an hour, max(0, C - max(B, E)) for 5 minutes, the rest uncached: rewritten tokens
are lost at their write price, not at the input price. Parts of one call's miss are priced end after end, so they add
up to the whole to the nano-dollar. The dearest is told first.

The provider's own word (`diagnostics`, GA on the Claude API, not on partner clouds; A-DIAG, 2026-11) is set beside the
part it speaks of. It is taken for the cause only where ours rests on exclusion (unknown, evicted) and theirs names a
level; where values prove ours, ours stays and both are shown. A word without a miss of ours is not made into one: the
provider compares whole requests, also where nothing was asked of the cache.

One session id may carry several conversations: a main thread, helpers with prompts of their own, branches. So the last
few requests that no later one went on from are kept, and a request is compared with the one it shares most with. A
first request with another opening is no miss: it may be a helper's. When a conversation goes on under another opening,
its own messages tell, and tools or system are named. More than `THREAD_LIMIT` conversations that take turns in one
session push each other out, and what then only shares a beginning with another is held against that one.

Bounded by sessions and by the blocks of all of them: the longest unused session is forgotten first, and then a miss is
not explained, never guessed. After a start the ledger's last hour tells which model each session asked last (`prime`),
so a deploy that changes it is named.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec
import msgspec.structs

from cache.diagnose import (
    Billed,
    Entry,
    MissCause,
    Outline,
    Previous,
    Shortfall,
    diagnose,
    entries_in_doubt,
    entries_left,
    entry_believed,
    goes_on,
)
from cache.index import Learned
from cache.plan import Plan, Strategy
from cache.prefix import shared_prefix
from cache.rules import UnknownModel, rules_for
from router import cost
from router.beliefs import Beliefs, CacheView
from router.call import Identity
from router.ledger.recent import LastCall
from router.outcome import CacheMiss
from router.pricing import Price
from router.settlement import MissRecord
from router.usage import Usage

_DETAIL = {
    MissCause.MODEL: "the session's previous request asked another model; caches are never shared across models",
    MissCause.TOOLS: "the tool definitions differ from the session's previous request",
    MissCause.SYSTEM: "the system prompt differs from the session's previous request",
    MissCause.CONTEXT: "the user context differs from the session's previous request",
    MissCause.HISTORY_EDITED: "an earlier turn differs from the session's previous request",
    MissCause.PARAMETER: (
        "a parameter that ends reuse changed (tool choice, thinking, effort, speed or output format)"
    ),
    MissCause.IMAGE: "an image was added or removed, which ends reuse of all messages",
    MissCause.TTL_LAPSED: "the entry's TTL had passed when the request started",
    MissCause.BELOW_MINIMUM: "the prefix is shorter than the model caches",
    MissCause.LOOKBACK: "the entry stood farther back than the provider looks from a breakpoint",
    MissCause.HERD: "another request was still writing the same prefix when this one started",
    MissCause.EVICTED: "the entry should have been there and was not",
    MissCause.UNKNOWN: "an earlier request ended without usage, so nobody knows whether it was written",
}
_PROVIDER_CAUSES = {
    "model_changed": MissCause.MODEL,
    "tools_changed": MissCause.TOOLS,
    "system_changed": MissCause.SYSTEM,
    "messages_changed": MissCause.HISTORY_EDITED,
}
_BY_EXCLUSION = frozenset({MissCause.EVICTED, MissCause.UNKNOWN})
_PROVIDER_SAYS = ", as the provider says itself"

THREAD_LIMIT = 4
"""Requests of one session that are kept to compare with: conversations that may take turns in it."""


class _Sent(msgspec.Struct, frozen=True, gc=False):
    """A request as it was sent, without what it said: 100 bytes a block, however long the prompt."""

    outline: Outline
    digests: tuple[bytes, ...]
    counts: Sequence[int]
    plan: Plan


class _Left(msgspec.Struct, frozen=True, gc=False):
    """What an Opus request of a session left, with what the diagnosis cannot see in digests.

    Attributes:
        model: Model it asked.
        sent: None when only the ledger knows of it.
        billed: None when it ended without usage: nobody knows what it wrote.
        enough_tokens: A read of this many tokens leaves nothing to ask; 0 when it left nothing, or nobody knows.
    """

    model: str
    started_s: float
    first_byte_at_s: float
    response_id: str
    sent: _Sent | None
    billed: Billed | None
    enough_tokens: int

    @property
    def block_count(self) -> int:
        """Blocks that it is remembered by: what it takes of memory."""
        return 0 if self.sent is None else len(self.sent.digests)


class Suspects(msgspec.Struct, frozen=True, gc=False):
    """What a call could have read and perhaps did not, as it was known before the call's own usage was learnt.

    Attributes:
        left: The session's request to compare with; None without one.
        entries: What that one left.
        believed: What others left of this very prompt.
    """

    left: _Left | None
    entries: tuple[Entry, ...]
    believed: tuple[Entry, ...]


class MissMemory:
    """The last Opus requests of each session, newest first."""

    def __init__(self, limit: int = 10_000, *, block_limit: int = 1_000_000) -> None:
        """Remember at most `limit` sessions, and no more of them than `block_limit` blocks, of about 100 bytes each."""
        self._limit, self._block_limit = limit, block_limit
        self._lefts: OrderedDict[tuple[str, str], tuple[_Left, ...]] = OrderedDict()
        self._block_count = 0

    def __len__(self) -> int:
        return len(self._lefts)

    @property
    def block_count(self) -> int:
        """Blocks of all that is remembered; at most `block_limit`."""
        return self._block_count

    def _of(self, identity: Identity) -> tuple[_Left, ...]:
        return self._lefts.get((identity.tenant, identity.session), ()) if identity.session else ()

    def prime(self, calls: Iterable[LastCall]) -> None:
        """Take over from the ledger what each session's last call asked and left; of several, the newest counts."""
        for call in sorted(calls, key=lambda each: each.started_s):
            billed = Billed(call.input_tokens, call.cached_tokens)
            left = _Left(
                call.model,
                call.started_s,
                call.started_s,
                call.response_id,
                None,
                billed,
                call.cached_tokens,
            )
            self._keep((call.tenant, call.session), (left,))

    def previous_response_id(self, identity: Identity) -> str:
        """Provider's id of the session's previous Opus answer, "" when it is not known."""
        return next((left.response_id for left in self._of(identity) if left.response_id), "")

    def suspects(
        self, identity: Identity, view: CacheView, usage: Usage, beliefs: Beliefs, *, started_s: float
    ) -> Suspects | None:
        """What may have been missed; None, quickly, when nothing can have been: the case of nearly every call.

        To be asked before the call is learnt from, which overwrites what was believed.
        """
        lefts, read = self._of(identity), usage.cache_read_tokens
        for left in lefts:
            if not read >= left.enough_tokens > 0:
                break
        else:
            if lefts and read >= view.plan.full_read_tokens:
                return None
        deeper = _deeper(view, beliefs, read, started_s)
        nearest = _nearest(lefts, view)
        if nearest is None or not (nearest.enough_tokens > read or nearest.billed is None):
            return Suspects(None, (), deeper) if deeper else None
        if nearest.model != view.scope.model:
            return Suspects(nearest, (), deeper)
        entries = _entries(nearest, lefts)
        return Suspects(nearest, tuple(entries), _with_session(entries, view, beliefs, deeper, started_s))

    def explain(
        self,
        suspects: Suspects,
        view: CacheView,
        usage: Usage,
        learned: Learned,
        beliefs: Beliefs,
        *,
        started_s: float,
        price: Price | None,
        provider: tuple[str, int | None] = ("", None),
    ) -> tuple[CacheMiss, ...]:
        """Say what the call missed, dearest first; empty when it was nothing.

        Args:
            learned: What the call's usage taught.
            provider: The provider's own cause and its estimate of the tokens; "" and None when it gave none.
        """
        left, model = suspects.left, view.scope.model
        same = left is not None and left.model == model
        found = diagnose(
            view.prompt,
            view.digests,
            view.counts,
            view.plan,
            _billed(usage, _exact_hit(suspects, learned, usage)),
            started=started_s,
            rules=rules_for(model),
            previous=None
            if left is None or left.sent is None or not same
            else Previous(left.sent.outline, left.sent.digests, suspects.entries),
            believed=suspects.believed,
            other_model_tokens=0
            if left is None or same or not _goes_on(view, left)
            else _translated(left, view, beliefs),
        )
        return _priced(found, usage, price, provider) if found else ()

    def remember(
        self,
        identity: Identity,
        view: CacheView,
        usage: Usage,
        learned: Learned,
        *,
        started_s: float,
        first_byte_at_s: float,
        response_id: str = "",
    ) -> None:
        """Note what the call leaves for its session's next one; no-op without a session."""
        if not identity.session:
            return
        billed = _billed(usage, learned.hit_position)
        enough, plan = billed.cached_tokens, view.plan
        if not enough and (plan.breakpoints or (plan.skipped and plan.strategy is not Strategy.AUTO)):
            enough = billed.input_tokens  # what proved too short may be missed again
        left = _Left(view.scope.model, started_s, first_byte_at_s, response_id, _sent(view), billed, enough)
        others = [other for other in self._of(identity) if not _continues(view, other)]
        self._keep((identity.tenant, identity.session), (left, *others))

    def doubt(self, identity: Identity, view: CacheView, *, started_s: float) -> None:
        """Note that a call was sent and ended without usage: what it wrote, if anything, nobody knows.

        What was left before it stays known. Of requests in doubt only the last is kept.
        """
        if not identity.session or not view.plan.breakpoints:
            return
        known = [left for left in self._of(identity) if left.billed is not None]
        left = _Left(view.scope.model, started_s, started_s, "", _sent(view), None, 0)
        self._keep((identity.tenant, identity.session), (left, *known))

    def _keep(self, key: tuple[str, str], lefts: tuple[_Left, ...]) -> None:
        """Take `lefts` for what the session left, and forget what no longer has room."""
        kept, sessions = lefts[:THREAD_LIMIT], self._lefts
        self._block_count += _blocks(kept) - _blocks(sessions.get(key, ()))
        sessions[key] = kept
        sessions.move_to_end(key)
        while len(sessions) > self._limit or (self._block_count > self._block_limit and len(sessions) > 1):
            self._block_count -= _blocks(sessions.popitem(last=False)[1])
        while self._block_count > self._block_limit:  # this session alone is more than there is room for
            self._block_count -= kept[-1].block_count
            sessions[key] = kept = kept[:-1]
        if not kept:
            del sessions[key]


def records_of(misses: Sequence[CacheMiss]) -> tuple[MissRecord, ...]:
    """The same for the ledger."""
    return tuple(
        MissRecord(
            cause=miss.cause,
            layer="" if miss.layer is None else miss.layer.name.lower(),
            block_index=miss.block_index,
            missed_tokens=miss.missed_tokens,
            lost_nano_usd=miss.lost_nano_usd,
            provider_cause=miss.provider_cause,
        )
        for miss in misses
    )


def had_read(usage: Usage, end_tokens: int) -> Usage:
    """What the call would have been billed for, had its first `end_tokens` tokens been read from the cache.

    Args:
        end_tokens: From what was read to the whole input.
    """
    hour_end = usage.cache_read_tokens + usage.cache_write_1h_tokens
    end = hour_end + usage.cache_write_5m_tokens
    return msgspec.structs.replace(
        usage,
        cache_read_tokens=end_tokens,
        cache_write_1h_tokens=max(0, hour_end - end_tokens),
        cache_write_5m_tokens=max(0, end - max(hour_end, end_tokens)),
    )


# --- what could have been read
# ---------------------------------------------------------------------------------------


def _deeper(view: CacheView, beliefs: Beliefs, read_tokens: int, started_s: float) -> tuple[Entry, ...]:
    """Entries at the breakpoints or believed in their reach that end past the read and are not this call's own."""
    plan, digests = view.plan, view.digests
    if not plan.breakpoints:
        return ()
    marks = plan.breakpoints
    found: list[Entry] = []
    known = beliefs.index.belief(view.scope, [mark.digest for mark in marks])
    for mark, belief in zip(marks, known, strict=True):
        if belief is None or belief.tokens <= read_tokens:
            continue
        entry = entry_believed(mark.position, belief, started_s)
        if entry is not None:
            found.append(entry)
    if plan.full_read_tokens > read_tokens:
        marked = {mark.position for mark in marks}
        for position, _ in plan.believed:
            if position not in marked:
                (belief,) = beliefs.index.belief(view.scope, [digests[position]])
                entry = None if belief is None else entry_believed(position, belief, started_s)
                if entry is not None:
                    found.append(entry)
    return tuple(found)


def _with_session(
    entries: Iterable[Entry], view: CacheView, beliefs: Beliefs, deeper: tuple[Entry, ...], started_s: float
) -> tuple[Entry, ...]:
    """Add what all traffic has done since to the entries that the session's own requests left."""
    seen = {entry.position for entry in deeper}
    found = list(deeper)
    for entry in entries:
        position = entry.position
        if position in seen or position >= len(view.digests):
            continue
        (belief,) = beliefs.index.belief(view.scope, [view.digests[position]])
        known = None if belief is None else entry_believed(position, belief, started_s)
        if known is not None:
            seen.add(position)
            found.append(known)
    return tuple(found)


def _nearest(lefts: Sequence[_Left], view: CacheView) -> _Left | None:
    """The request to compare with: of the same model if there is one, and of the same conversation if it is known.

    That is the one which shares most, the newest of several. Where the layers before the conversation are all that is
    shared, or not even they, one that this goes on from comes before one that only shares them.
    """
    model = view.scope.model
    same = [left for left in lefts if left.model == model] or lefts[:1]
    if len(same) < 2:
        return same[0] if same else None
    shared = [0 if left.sent is None else shared_prefix(view.digests, left.sent.digests) for left in same]
    best = max(range(len(same)), key=shared.__getitem__)
    if shared[best] > view.prompt.stable_end + 1:
        return same[best]
    related = [number for number, left in enumerate(same) if _goes_on(view, left, shared[number])]
    return same[max(related, key=shared.__getitem__)] if related else same[best]


def _goes_on(view: CacheView, left: _Left, shared: int = 0) -> bool:
    """Whether a call goes on from what a request left, by its messages; from the ledger's any that goes on at all."""
    if left.sent is None:
        return any(block.role == "assistant" for block in view.prompt.blocks)
    return goes_on(view.prompt, left.sent.outline, shared)


def _continues(view: CacheView, left: _Left) -> bool:
    """Whether a call holds all of an earlier one that can recur, so that this one is not needed any more."""
    sent = left.sent
    if sent is None:
        return True
    end = sent.outline.volatile_from if sent.outline.volatile_from >= 0 else len(sent.digests)
    return end <= len(view.digests) and (end == 0 or view.digests[end - 1] == sent.digests[end - 1])


def _blocks(lefts: Iterable[_Left]) -> int:
    return sum([left.block_count for left in lefts])


def _entries(left: _Left, lefts: Sequence[_Left]) -> list[Entry]:
    """What a request left, and, if that is in doubt, what the session's others had left of the same prefix before."""
    sent = left.sent
    if sent is None:
        return []
    rules = rules_for(left.model)
    if left.billed is not None:
        return entries_left(
            sent.counts,
            sent.plan,
            left.billed,
            started=left.started_s,
            first_byte_at=left.first_byte_at_s,
            rules=rules,
        )
    entries = {
        entry.position: entry
        for entry in entries_in_doubt(sent.counts, sent.plan, started=left.started_s, rules=rules)
    }
    for before in reversed(lefts):  # the newest knows best
        if before.billed is None or before.sent is None or before.model != left.model:
            continue
        shared = shared_prefix(before.sent.digests, sent.digests)
        entries.update({entry.position: entry for entry in _entries(before, ()) if entry.position < shared})
    return sorted(entries.values())


def _sent(view: CacheView) -> _Sent:
    return _Sent(Outline.of(view.prompt), view.digests, view.counts, view.plan)


def _translated(left: _Left, view: CacheView, beliefs: Beliefs) -> int:
    """Tokens that the session left in another model's cache, in this model's: exact within a tokenizer family."""
    if left.billed is None:
        return 0
    cached = left.billed.cached_tokens
    try:
        there, here = rules_for(left.model), rules_for(view.scope.model)
    except UnknownModel:
        return cached
    if not cached or there.tokenizer is here.tokenizer or not view.counts:
        return cached
    estimated = beliefs.estimator.cumulative_tokens(view.prompt, left.model)[-1]
    return cached if estimated <= 0 else round(cached * view.counts[-1] / estimated)


# --- what was missed
# -------------------------------------------------------------------------------------------------


def _billed(usage: Usage, hit: int | None) -> Billed:
    return Billed(
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.cache_write_1h_tokens,
        usage.cache_write_5m_tokens,
        hit,
    )


def _exact_hit(suspects: Suspects, learned: Learned, usage: Usage) -> int | None:
    """Block the read ended at: where an entry's proved end says so, else as the index took it."""
    read = usage.cache_read_tokens
    for entry in suspects.believed:
        if entry.exact and entry.tokens == read > 0:
            return entry.position
    return learned.hit_position


def _priced(
    found: Sequence[Shortfall], usage: Usage, price: Price | None, provider: tuple[str, int | None]
) -> tuple[CacheMiss, ...]:
    """Put a price on every part, the dearest first, and the provider's word beside the part it speaks of."""
    misses = []
    billed = None if price is None else cost.total_nano_usd(usage, price)
    for part in found:
        lost = None
        if price is not None and billed is not None:
            shorter = cost.total_nano_usd(had_read(usage, part.end_tokens), price)
            lost, billed = billed - shorter, shorter
        misses.append((part, lost))
    misses.sort(key=lambda miss: (-(miss[1] or 0), -miss[0].missed_tokens))
    spoken_of = -1
    if provider[0]:
        open_ones = (index for index, (part, _) in enumerate(misses) if part.cause in _BY_EXCLUSION)
        spoken_of = next(open_ones, 0)
    return tuple(
        _miss(part, lost, *(provider if index == spoken_of else ("", None)))
        for index, (part, lost) in enumerate(misses)
    )


def _miss(part: Shortfall, lost: int | None, word: str, word_tokens: int | None) -> CacheMiss:
    cause, detail = part.cause, _DETAIL[part.cause]
    if word and cause in _BY_EXCLUSION and word in _PROVIDER_CAUSES:
        cause = _PROVIDER_CAUSES[word]
        detail = _DETAIL[cause] + _PROVIDER_SAYS
    return CacheMiss(
        cause=cause.value,
        layer=part.layer,
        missed_tokens=part.missed_tokens,
        lost_nano_usd=lost,
        detail=detail,
        block_index=part.block_index,
        provider_cause=word,
        provider_missed_tokens=word_tokens,
    )
