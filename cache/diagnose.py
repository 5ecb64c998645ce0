"""Why a request read less from the cache than earlier requests had left there for it.

The rule: first what could have been read is listed (`Entry`), then every one that was not is given the one cause that
the values prove, in the order in which causes exclude each other:

    model           another model's cache holds it
    tools .. image  the prefix is another one: a block, a parameter or the coming or going of images changed it
    unknown         nobody knows whether it was ever written
    herd            a request that began before this one was still writing it when this one began
    ttl_lapsed      its TTL had ended
    below_minimum   it was asked for and is shorter than the model caches
    lookback        it stood farther back than the provider looks from a breakpoint
    evicted         none of these: it should have been there and was not

Identity comes before time: what is no longer the same prefix could not have been read however long it lived. An entry
that this request carried no breakpoint for is a decision, not a miss, and so is a prefix too short to cache that
nobody asked to cache: AUTO does not ask (its plan lists it as skipped), A, B and C do.

A prefix that changed is a miss only of a request that goes on from the one that left it (`goes_on`): an answer stands
behind the first block that differs, and where not even the conversation's beginning is shared, a block of that
request is still there. A last question edited or asked anew, a branch and a helper with a prompt of its own go on from
nothing: what they had in common was read, and the rest was never theirs. Of what did change only that is claimed
which the new prompt can hold: turns that a client dropped are no longer paid for.

The tokens between the end of what was read and the end of the deepest entry are split at the entries in between, so
each missed token has exactly one cause. Ends are exact where usage proved them: what the request that wrote them read,
wrote for an hour and wrote at last, and likewise this one. In between the estimate is stretched to meet the exact ends
(`Ruler`). Only a comparison of two ends neither of which is exact needs a tolerance, `TOLERANCE`. It does not know
prices, nor another replica's traffic.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import inf
from typing import NamedTuple

from cache.belief import Belief
from cache.lookback import reaches
from cache.plan import Plan, Strategy
from cache.prefix import shared_prefix
from cache.prompt import Block, Layer, Prompt, PromptParameters
from cache.rules import TTL_1H_S, TTL_5M_S, CacheRules

TOLERANCE = 0.05
"""Missing less than this share of an end that is estimated is the estimate's error, not a miss."""
_TOLERANCE_TOKENS = 48
_DOUBTFUL = 0.5
"""A belief of at most this confidence rests on a request that ended without usage."""
_ASKING = frozenset({Strategy.A, Strategy.B, Strategy.C})
_TRACED_BLOCKS = 3
"""Last blocks by which a request is known again: clients add reminders behind a question and drop them later."""
_TRACED_BYTES = 256
"""From a block's beginning and from its end; a long tool result is not hashed whole on every request."""


class MissCause(StrEnum):
    """Why tokens that could have been read were not; the contract's names in lower case."""

    MODEL = "model"
    TOOLS = "tools"
    SYSTEM = "system"
    CONTEXT = "context"
    HISTORY_EDITED = "history_edited"
    PARAMETER = "parameter"
    IMAGE = "image"
    TTL_LAPSED = "ttl_lapsed"
    BELOW_MINIMUM = "below_minimum"
    LOOKBACK = "lookback"
    HERD = "herd"
    EVICTED = "evicted"
    UNKNOWN = "unknown"


_CHANGED = {
    Layer.TOOLS: MissCause.TOOLS,
    Layer.SYSTEM: MissCause.SYSTEM,
    Layer.CONTEXT: MissCause.CONTEXT,
    Layer.HISTORY: MissCause.HISTORY_EDITED,
    Layer.TURN: MissCause.HISTORY_EDITED,
}


class Billed(NamedTuple):
    """What one request's usage says of its input; the ends A, B and C of the provider's rule follow from it.

    Attributes:
        input_tokens: All of it, the cached parts included.
        hit: Block that the read prefix ends at; None when nothing was read or it cannot be told.
    """

    input_tokens: int
    read_tokens: int = 0
    write_1h_tokens: int = 0
    write_5m_tokens: int = 0
    hit: int | None = None

    @property
    def cached_tokens(self) -> int:
        """End of the deepest prefix read or written."""
        return self.read_tokens + self.write_1h_tokens + self.write_5m_tokens


class Entry(NamedTuple):
    """A prefix that could have been read.

    Attributes:
        position: Block it ends at.
        tokens: Its tokens; an estimate unless `exact`.
        expires: Instant it ends.
        begun: Start of the first request that wrote it.
        readable_from: Instant it can first be read; infinity while its writer has not answered.
        certain: Whether usage proved that it was written.
        too_short: Whether it was asked for and found too short to be cached; it was never written.
    """

    position: int
    tokens: int
    exact: bool
    expires: float
    begun: float = -inf
    readable_from: float = -inf
    certain: bool = True
    too_short: bool = False


class Outline(NamedTuple):
    """What must be known of a prompt after it was sent; nothing of what it said.

    Attributes:
        ends: Position of the last block of each layer, -1 where it was empty.
        has_image: Whether any block was or held an image.
        volatile_from: Position of the first block that no later turn holds at its place; -1 for none.
        volatile_end: Position of the last such block.
        traces: (position, trace) of the blocks by which a later request of the conversation is known, surest first:
            the last few, then the conversation's first. A trace is a hash and dies with the process.
    """

    ends: tuple[int, ...]
    parameters: PromptParameters
    has_image: bool
    volatile_from: int
    volatile_end: int = -1
    traces: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, prompt: Prompt) -> "Outline":
        """The outline of a prompt."""
        blocks, first, moves = prompt.blocks, prompt.stable_end + 1, prompt.volatile_from
        last = moves - 1 if moves >= 0 and prompt.volatile_end == len(blocks) - 1 else len(blocks) - 1
        positions = [
            position
            for position in range(last, max(last - _TRACED_BLOCKS, first), -1)
            if not moves <= position <= prompt.volatile_end
        ]
        if first <= last:
            positions.append(first)
        return cls(
            prompt.ends,
            prompt.parameters,
            prompt.has_image,
            moves,
            prompt.volatile_end,
            tuple([(position, _trace(blocks[position])) for position in positions]),
        )

    def layer(self, position: int) -> Layer | None:
        """Layer of a block; None past the end."""
        return next((layer for layer in Layer if position <= self.ends[layer]), None)


class Previous(NamedTuple):
    """What the session's previous request on the same route left behind.

    Attributes:
        outline: Of what it sent.
        digests: Its prefix digests.
        entries: What could be read of it, shallowest first.
    """

    outline: Outline
    digests: Sequence[bytes]
    entries: Sequence[Entry]


class Shortfall(NamedTuple):
    """Tokens that could have been read and were not.

    Attributes:
        cause: Why.
        block_index: Where it began: the first block that differs where the prompt changed, else the first block that
            was not read; None when the end of the read cannot be told.
        layer: Layer of that block.
        missed_tokens: Tokens missed, > 0; exact where both ends are proved.
        end_tokens: Tokens of the prefix whose end it reaches; at most the whole input.
    """

    cause: MissCause
    block_index: int | None
    layer: Layer | None
    missed_tokens: int
    end_tokens: int


class Ruler:
    """Tokens of each prefix of a prompt that was sent: exact where proved, between that the estimate, stretched."""

    __slots__ = ("_estimates", "_points", "_positions")

    def __init__(self, estimates: Sequence[int], points: Iterable[tuple[int, int]]) -> None:
        """Lay it on `points`, the proved (position, tokens); one that contradicts a shallower one is left out."""
        kept: list[tuple[int, int]] = []
        for position, tokens in sorted(points):
            if not kept or (position > kept[-1][0] and tokens >= kept[-1][1]):
                kept.append((position, tokens))
        self._estimates, self._points = estimates, kept
        self._positions = [position for position, _ in kept]

    def at(self, position: int) -> int:
        """Tokens of the prefix ending at block `position`, never decreasing."""
        after = bisect_right(self._positions, position)
        low_estimate, low = 0, 0
        if after:
            anchor, low = self._points[after - 1]
            if anchor == position:
                return low
            low_estimate = self._estimates[anchor]
        offset = max(0, self._estimates[position] - low_estimate)
        if after == len(self._points):
            return low + offset
        anchor, high = self._points[after]
        span = self._estimates[anchor] - low_estimate
        return low if span <= 0 else low + min(high - low, round((high - low) * offset / span))

    def is_exact(self, position: int) -> bool:
        """Whether usage proved the count at `position`."""
        return position in self._positions


def ruler_of(counts: Sequence[int], plan: Plan, billed: Billed) -> Ruler:
    """Lay a ruler on the ends that one request's usage proves: A, B, C and the whole input."""
    if not counts:
        return Ruler(counts, ())
    points: list[tuple[int, int]] = []
    hit, read = billed.hit, billed.read_tokens
    if hit is not None and read:
        points.append((hit, read))
    past = [mark for mark in plan.breakpoints if hit is None or mark.position > hit]
    if past and billed.cached_tokens > read:
        hours = [mark.position for mark in past if mark.ttl_s >= TTL_1H_S]
        if billed.write_1h_tokens and hours and hours[-1] != past[-1].position:
            points.append((hours[-1], read + billed.write_1h_tokens))
        points.append((past[-1].position, billed.cached_tokens))
    last = len(counts) - 1
    if not points or max(position for position, _ in points) < last:
        points.append((last, billed.input_tokens))
    return Ruler(counts, points)


def entries_left(
    counts: Sequence[int],
    plan: Plan,
    billed: Billed,
    *,
    started: float,
    first_byte_at: float,
    rules: CacheRules,
) -> list[Entry]:
    """What a request left to be read, by its usage: the entry it read, the ones it wrote, and what proved too short.

    Args:
        counts: Its estimated tokens per prefix.
        plan: As sent.
        first_byte_at: When its answer began, from when others can read what it wrote.
    """
    ruler = ruler_of(counts, plan, billed)
    left: list[Entry] = []
    hit, wrote = billed.hit, billed.cached_tokens > billed.read_tokens
    ttls_s = {mark.position: mark.ttl_s for mark in plan.breakpoints}
    if hit is not None and billed.read_tokens:
        left.append(Entry(hit, billed.read_tokens, True, started + ttls_s.get(hit, TTL_5M_S)))
    for mark in plan.breakpoints:
        position, tokens = mark.position, ruler.at(mark.position)
        if hit is not None and position <= hit:
            continue
        exact = ruler.is_exact(position)
        if wrote and tokens >= rules.minimum_tokens:
            ends = started + mark.ttl_s
            left.append(Entry(position, tokens, exact, ends, started, first_byte_at))
        else:
            left.append(Entry(position, tokens, exact, inf, too_short=True))
    if plan.strategy in _ASKING:
        for skipped in plan.skipped:
            position_or_none = skipped.position
            if position_or_none is None or (hit is not None and position_or_none <= hit):
                continue
            tokens = ruler.at(position_or_none)
            if tokens < rules.minimum_tokens:
                left.append(Entry(position_or_none, tokens, False, inf, too_short=True))
    return sorted(left)


def entries_in_doubt(counts: Sequence[int], plan: Plan, *, started: float, rules: CacheRules) -> list[Entry]:
    """What a request may have written of which no usage came."""
    return [
        Entry(mark.position, mark.prefix_tokens, False, started + mark.ttl_s, started, certain=False)
        for mark in plan.breakpoints
        if mark.prefix_tokens >= rules.minimum_tokens and mark.position < len(counts)
    ]


def entry_believed(position: int, belief: Belief, started: float) -> Entry | None:
    """A belief as an entry that a request started at `started` could have read; None for that request's own write."""
    if belief.begun == started:
        if belief.lapsed is None:
            return None
        return Entry(position, belief.tokens, belief.exact, belief.lapsed)
    return Entry(
        position,
        belief.tokens,
        belief.exact,
        belief.expires,
        belief.begun,
        belief.available_from,
        belief.confidence > _DOUBTFUL,
    )


def goes_on(prompt: Prompt, earlier: Outline, shared: int) -> bool:
    """Whether a prompt goes on from an earlier one although it differs from it at block `shared`.

    Without an answer behind the difference it does not: it asks something else. With one it does if it shares part of
    the conversation, or, where only the layers before it or less are shared, if it still holds a block of that one.
    """
    if not any(block.role == "assistant" for block in prompt.blocks[shared:]):
        return False
    return shared > prompt.stable_end + 1 or _shift(prompt, earlier, shared) is not None


def diagnose(
    prompt: Prompt,
    digests: Sequence[bytes],
    counts: Sequence[int],
    plan: Plan,
    billed: Billed,
    *,
    started: float,
    rules: CacheRules,
    previous: Previous | None = None,
    believed: Iterable[Entry] = (),
    other_model_tokens: int = 0,
) -> list[Shortfall]:
    """Causes of what was not read, from the end of the read on; empty when nothing was missed.

    Args:
        counts: Estimated tokens of the prefix ending at each block.
        plan: Plan of this request, as sent.
        billed: What its usage says.
        started: Start of this request.
        previous: The session's previous request on the same model; None without one.
        believed: Entries of this very prompt that other requests left, by `entry_believed`.
        other_model_tokens: Tokens that the session's previous request left in another model's cache, in this model's
            tokens; 0 when it was this model's.
    """
    if rules.implicit or not digests:
        return []  # nothing was asked for and nothing promised
    ruler = ruler_of(counts, plan, billed)
    shared = 0 if previous is None else shared_prefix(digests, previous.digests)
    mine = {entry.position: entry for entry in believed}
    changed: Entry | None = None
    for entry in () if previous is None else previous.entries:
        if entry.position < shared:
            known = mine.get(entry.position)
            mine[entry.position] = entry if known is None else _joined(entry, known)
        elif shared < len(digests) and entry.certain and not entry.too_short:
            changed = entry  # a deeper one contains it
    found: list[_Missed] = []
    for entry in mine.values():
        tokens, exact = _end(entry, ruler, billed)
        if not _was_read(entry.position, tokens, exact, billed):
            cause = _cause(entry, tokens, prompt, plan, started, rules)
            if cause is not None:
                found.append(_Missed(tokens, entry.position, cause))
    if changed is not None and previous is not None and _is_loss(prompt, previous.outline, shared):
        tokens = min(_of_it_left(changed, prompt, previous.outline, shared, ruler), billed.input_tokens)
        if not _was_read(None, tokens, changed.exact, billed):
            cause, layer = _change(prompt, shared, previous)
            found.append(_Missed(tokens, inf, cause, (shared, layer)))
    if other_model_tokens:
        tokens = min(other_model_tokens, billed.input_tokens)
        if not _was_read(None, tokens, False, billed):
            found.append(_Missed(tokens, inf, MissCause.MODEL))
    return _split(sorted(_covering(found), key=_end_of), prompt, billed) if found else []


class _Missed(NamedTuple):
    """An entry that was not read: where it ends, why, and the block and layer that differ if that is why."""

    tokens: int
    position: float
    cause: MissCause
    differs_at: tuple[int, Layer] | None = None


def _covering(found: Sequence[_Missed]) -> Iterable[_Missed]:
    """Without what was too short but would have been read as a part of a deeper entry: that one's cause explains it."""
    deepest = max([part.tokens for part in found if part.cause is not MissCause.BELOW_MINIMUM], default=0)
    return (part for part in found if part.cause is not MissCause.BELOW_MINIMUM or part.tokens > deepest)


def _end_of(missed: _Missed) -> tuple[int, float]:
    return missed.tokens, missed.position


def _end(entry: Entry, ruler: Ruler, billed: Billed) -> tuple[int, bool]:
    """Tokens of an entry of this very prompt, and whether they are proved."""
    if entry.exact:
        return min(entry.tokens, billed.input_tokens), True
    return min(ruler.at(entry.position), billed.input_tokens), ruler.is_exact(entry.position)


def _was_read(position: int | None, tokens: int, exact: bool, billed: Billed) -> bool:
    """Whether the entry lies within what was read: by its proved end, else by its block, else by the estimate."""
    read = billed.read_tokens
    if exact or read == 0:
        return tokens <= read
    if position is not None and billed.hit is not None:
        return position <= billed.hit or tokens <= read
    return tokens - read <= max(TOLERANCE * tokens, _TOLERANCE_TOKENS)


def _joined(left: Entry, believed: Entry) -> Entry:
    """What the session knows of an entry of its own, and what all traffic has done to it since."""
    if left.too_short:
        return believed
    tokens, exact = (left.tokens, True) if left.exact else (believed.tokens, believed.exact)
    return Entry(
        left.position,
        tokens,
        exact,
        max(left.expires, believed.expires),
        min(left.begun, believed.begun),
        min(left.readable_from, believed.readable_from),
        left.certain or believed.certain,
    )


def _cause(
    entry: Entry, tokens: int, prompt: Prompt, plan: Plan, started: float, rules: CacheRules
) -> MissCause | None:
    """Why an entry of this very prompt was not read; None when nothing was owed."""
    later = [mark.position for mark in plan.breakpoints if mark.position >= entry.position]
    if entry.too_short:
        asked = later or any(skipped.position == entry.position for skipped in plan.skipped)
        return MissCause.BELOW_MINIMUM if asked else None
    if not later:
        return None  # this request chose not to look
    if not entry.certain:
        return MissCause.UNKNOWN
    if entry.readable_from > started:
        return MissCause.HERD if entry.begun < started else None
    if started >= entry.expires:
        return MissCause.TTL_LAPSED
    if not reaches(prompt.blocks, entry.position, later[0], rules):
        return MissCause.LOOKBACK
    if tokens < rules.minimum_tokens:
        return MissCause.BELOW_MINIMUM
    return MissCause.EVICTED


def _trace(block: Block) -> int:
    """Know a block again, in whatever layer it stands; nothing of what it says can be read from it."""
    content = block.content
    return hash((block.role, len(content), content[:_TRACED_BYTES], content[-_TRACED_BYTES:]))


def _shift(prompt: Prompt, earlier: Outline, shared: int) -> int | None:
    """Blocks by which an earlier request's conversation stands deeper in this prompt now; None if it is not there."""
    first = max(shared, prompt.stable_end + 1)
    places = {_trace(prompt.blocks[position]): position for position in range(first, len(prompt.blocks))}
    for position, trace in earlier.traces:
        if trace in places:
            same_place = first <= position < len(prompt.blocks) and _trace(prompt.blocks[position]) == trace
            return 0 if same_place else places[trace] - position
    return None


def _is_loss(prompt: Prompt, earlier: Outline, shared: int) -> bool:
    """Whether what stood from block `shared` on is lost, and not only left behind.

    What stood behind a context that moves with the turn was never to be read by the next turn, whose context stands
    elsewhere. One that differs at the same place changed within its turn, and a tool loop behind it is lost.
    """
    if 0 <= earlier.volatile_from <= shared and prompt.volatile_from != earlier.volatile_from:
        return False
    return goes_on(prompt, earlier, shared)


def _of_it_left(entry: Entry, prompt: Prompt, earlier: Outline, shared: int, ruler: Ruler) -> int:
    """Tokens of a changed entry that this prompt could have read: no more than it holds up to the entry's end.

    Digests behind a difference say nothing, so the end is found by the blocks that are known again; without one it is
    at most the last answer, what follows being new. A count within the estimate's error of the entry's is the entry's.
    """
    blocks = prompt.blocks
    shift = _shift(prompt, earlier, shared)
    if shift is not None:
        end = min(entry.position + shift, len(blocks) - 1)
    else:
        end = max(position for position in range(shared, len(blocks)) if blocks[position].role == "assistant")
    held = ruler.at(end) if end >= shared else 0
    return entry.tokens if entry.tokens - held <= max(TOLERANCE * entry.tokens, _TOLERANCE_TOKENS) else held


def _change(prompt: Prompt, shared: int, previous: Previous) -> tuple[MissCause, Layer]:
    """Tell a changed block from a parameter or an image that changed the digests from its level on.

    The layer is the shallower of the two blocks that differ: what was added to one layer, or taken from it, stands
    against the next layer's beginning.
    """
    layer, sent = prompt.blocks[shared].layer, previous.outline
    stood = sent.layer(shared)
    if stood is not None:
        layer = min(layer, stood)
    if 0 <= sent.volatile_from <= shared <= max(sent.volatile_end, prompt.volatile_end):
        layer = Layer.CONTEXT  # though it stands among the messages
    before, now = sent.parameters, prompt.parameters
    cause = _CHANGED[layer]
    if before.everywhere != now.everywhere or (layer >= Layer.SYSTEM and before.system != now.system):
        cause = MissCause.PARAMETER
    elif layer >= Layer.CONTEXT and sent.has_image != prompt.has_image:
        cause = MissCause.IMAGE
    elif layer >= Layer.CONTEXT and before.messages != now.messages:
        cause = MissCause.PARAMETER
    return cause, layer


def _split(found: Sequence[_Missed], prompt: Prompt, billed: Billed) -> list[Shortfall]:
    """Cut the missed tokens at the entries' ends; neighbours of one cause are one shortfall."""
    low, shortfalls = billed.read_tokens, list[Shortfall]()
    block: int | None = 0 if low == 0 else None if billed.hit is None else billed.hit + 1
    for tokens, position, cause, differs_at in found:
        if tokens <= low:
            continue
        last = shortfalls[-1] if shortfalls else None
        if last is not None and last.cause is cause:
            missed = last.missed_tokens + tokens - low
            shortfalls[-1] = last._replace(missed_tokens=missed, end_tokens=tokens)
        else:
            begins, layer = (block, None) if differs_at is None else differs_at
            if begins is not None and begins >= len(prompt.blocks):
                begins = None
            if layer is None and begins is not None:
                layer = prompt.blocks[begins].layer
            shortfalls.append(Shortfall(cause, begins, layer, tokens - low, tokens))
        low = tokens
        block = None if position == inf else int(position) + 1
    return shortfalls
