"""What we believe is warm, corrected by what every call's usage proves.

The rule: an entry is believed from the first byte of the request that wrote it until its TTL after the START
of the request that last touched it. Then usage speaks:

    read of A tokens    proves the boundary whose tokens are A, restarts its clock and (open fact A1) that of
                        the shallower marked ones
    write               creates an entry at each mark past the hit; the last one's tokens are exactly what was
                        read and written, the last 1h one's what was read and written for 1h
    less than believed  entries deeper than the hit, which the marks could reach, are gone: belief removed
    no usage at all     whether it was written is open: belief at half confidence

How sure a proven entry is, is itself learnt: the share of tested beliefs that held. Every test is kept in a
reliability table per scope, so that the chances can be held against what came of them. The index does not know
prompts or prices, and never claims to be complete: other processes write entries too, and a hit we did not
expect teaches us one.

Bounded: `max_entries` over all scopes. What is worth least goes first: what expired longest ago, then what expires
soonest. An entry that is read again moves away from that end each time, and one just written for an hour, which cost
more, stands behind all of 5 minutes. Expired entries stay while there is room: they tell a lapse from an eviction.
Room is made entry by entry, from slots of `_SLOT_S` seconds, so that no request waits for a sweep.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from cache.belief import Belief
from cache.facts import ASSUMED, Facts
from cache.outlook import TokenCounts
from cache.plan import Breakpoint, Plan
from cache.prompt import CacheScope
from cache.rolling import SparseBeliefs
from cache.rules import TTL_1H_S, TTL_5M_S

_UNKNOWN_OUTCOME_CONFIDENCE = 0.5
_TOLERANCE = 0.05
"""Relative difference within which an estimated boundary is taken for the one that was read."""
_TOLERANCE_TOKENS = 48
_HELD_SHARE = 0.95
"""A belief held when at least this share of the tokens it promised was read."""
_FORGETTING = 0.99
"""Weight a tested belief keeps after the next one: the last hundred or so decide."""
CALIBRATION_BINS = 10
"""Tenths of [0, 1] in which chances are held against what came of them."""
_SLOT_S = 5.0
"""Entries that expire within so many seconds of each other are put out in one go of sorting."""
_EXPLICIT_PRIOR = (0.97, 30.0)
_IMPLICIT_PRIOR = (0.5, 10.0)
"""Nothing is promised of implicit caching, so it starts at even odds and learns quickly."""


class Learned(NamedTuple):
    """What one call's usage taught.

    Attributes:
        hit_position: Block the read prefix ends at; None when nothing was read or no boundary matches.
        hit_tokens: Tokens read.
        written: Positions at which entries were written, ascending.
        refuted: Positions whose belief was wrong and is removed.
        held: Whether what we believed warm was read; None when we believed nothing.
        p_held: Chance in [0, 1] we gave to that before the call; None when we believed nothing.
    """

    hit_position: int | None
    hit_tokens: int
    written: tuple[int, ...] = ()
    refuted: tuple[int, ...] = ()
    held: bool | None = None
    p_held: float | None = None


class CalibrationBin(NamedTuple):
    """Tested beliefs whose chance fell into one tenth of [0, 1]; 1 belongs to the last.

    Attributes:
        tested: How many.
        predicted: Sum of the chances we gave.
        held: How many of them came true.
    """

    tested: int = 0
    predicted: float = 0.0
    held: int = 0


class Calibration(NamedTuple):
    """How good belief has been since the start: the chance that all we believed warm would be read, and whether.

    Attributes:
        bins: Reliability table, one entry per tenth, ascending.
        brier: Sum of squared differences of chance and outcome.
    """

    bins: tuple[CalibrationBin, ...] = (CalibrationBin(),) * CALIBRATION_BINS
    brier: float = 0.0

    @property
    def tested(self) -> int:
        """Calls for which we believed something was warm and whose usage told."""
        return sum([found.tested for found in self.bins])

    @property
    def predicted(self) -> float:
        """Sum of the chances we gave."""
        return sum([found.predicted for found in self.bins])

    @property
    def held(self) -> int:
        """How many of them came true."""
        return sum([found.held for found in self.bins])


class _Table:
    """Entries of one cache scope.

    Attributes:
        due: Digests by the slot in which their entry was to expire when it was first put; some may have gone since,
            or live on.
    """

    __slots__ = ("bins", "brier", "due", "entries", "held", "number", "tested")

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: dict[bytes, Belief] = {}
        self.due: dict[int, list[bytes]] = {}
        self.bins = [CalibrationBin()] * CALIBRATION_BINS
        self.brier = 0.0
        self.held = 0.0
        self.tested = 0.0

    def reliability(self, prior: tuple[float, float]) -> float:
        """Chance that a belief holds, from the tested ones and the prior."""
        return (self.held + prior[0] * prior[1]) / (self.tested + prior[1])

    def test(self, chance: float, held: bool) -> None:
        self.tested = self.tested * _FORGETTING + 1
        self.held = self.held * _FORGETTING + held
        number = min(int(chance * CALIBRATION_BINS), CALIBRATION_BINS - 1)
        kept = self.bins[number]
        # One new value in one step: whoever exports this from another thread sees the bin before it or after it.
        self.bins[number] = CalibrationBin(kept.tested + 1, kept.predicted + chance, kept.held + held)
        self.brier += (chance - held) ** 2


class PrefixIndex:
    """Beliefs of one process about every scope. Not thread-safe; time is passed in."""

    def __init__(self, max_entries: int = 200_000, facts: Facts = ASSUMED) -> None:
        """Hold at most `max_entries` (about 400 bytes each) over all scopes; see above for what goes first."""
        if max_entries < 16:
            raise ValueError(f"max_entries must be at least 16, not {max_entries}")
        self._max_entries = max_entries
        self._facts = facts
        self._tables: dict[CacheScope, _Table] = {}  # by configured scope, so a handful
        self._numbered: list[_Table] = []
        self._size = 0
        self._filed = 0
        self._slots: list[tuple[int, int]] = []
        # The slot being put out: its table, and its digests, soonest to expire last.
        self._open: tuple[int, _Table, list[bytes]] | None = None

    @property
    def entry_count(self) -> int:
        """Entries held, expired ones included."""
        return self._size

    def belief(self, scope: CacheScope, digests: Sequence[bytes]) -> tuple[Belief | None, ...]:
        """Belief of each prefix, None where there is none; expired ones too, which `p_warm` rates 0."""
        table = self._tables.get(scope)
        if table is None:
            return (None,) * len(digests)
        return tuple(map(table.entries.get, digests))

    def belief_at(
        self, scope: CacheScope, digests: Sequence[bytes], positions: Iterable[int]
    ) -> SparseBeliefs:
        """The same, looked up only at `positions`, which are given in ascending order."""
        table = self._tables.get(scope)
        if table is None:
            return SparseBeliefs({}, len(digests))
        get = table.entries.get
        found = {position: belief for position in positions if (belief := get(digests[position])) is not None}
        return SparseBeliefs(found, len(digests))

    def entries(self, scope: CacheScope) -> Iterable[tuple[bytes, Belief]]:
        """Everything believed of a scope, for listing."""
        table = self._tables.get(scope)
        return () if table is None else tuple(table.entries.items())

    def calibration(self, scope: CacheScope) -> Calibration:
        """How good belief has been in a scope; may be asked from another thread."""
        table = self._tables.get(scope)
        return Calibration() if table is None else Calibration(tuple(table.bins), table.brier)

    def begin(self, scope: CacheScope, plan: Plan, started: float) -> None:
        """Note that a request with this plan is on its way: what it writes exists, but not yet to read."""
        table = self._table(scope)
        entries = table.entries
        for point in _effective(plan):
            known = entries.get(point.digest)
            if known is None or known.expires <= started:
                self._put(
                    table,
                    point.digest,
                    Belief(
                        point.prefix_tokens,
                        known is not None and known.exact and known.tokens == point.prefix_tokens,
                        point.ttl_s,
                        started + point.ttl_s,
                        inf,
                        1.0,
                        started,
                        None if known is None else known.expires,
                    ),
                )
        self._make_room()

    def first_byte(self, scope: CacheScope, plan: Plan, started: float, first_byte_at: float) -> None:
        """Note that the answer has begun: from now on others can read what this request writes."""
        table = self._table(scope)
        confidence = table.reliability(_EXPLICIT_PRIOR)
        for point in plan.breakpoints:
            known = table.entries.get(point.digest)
            if _is_own_pending(known, point, started):
                assert known is not None
                table.entries[point.digest] = Belief(
                    known.tokens,
                    known.exact,
                    known.ttl_s,
                    known.expires,
                    first_byte_at,
                    confidence,
                    known.begun,
                    known.lapsed,
                )

    def abandon(self, scope: CacheScope, plan: Plan, started: float, now: float, *, sent: bool) -> None:
        """Take back what `begin` noted, for a request that ended without usage.

        Args:
            sent: Whether the provider may have processed it (reset, timeout, crash); False when it refused.
        """
        table = self._table(scope)
        entries = table.entries
        for point in plan.breakpoints:
            known = entries.get(point.digest)
            if known is None or known.expires != started + known.ttl_s:
                continue
            if sent:
                entries[point.digest] = known._replace(
                    available_from=min(known.available_from, now),
                    confidence=min(known.confidence, _UNKNOWN_OUTCOME_CONFIDENCE),
                )
            elif known.available_from == inf:
                self._drop(table, point.digest)

    def observe(
        self,
        scope: CacheScope,
        digests: Sequence[bytes],
        cumulative_tokens: Sequence[int],
        plan: Plan,
        *,
        started: float,
        first_byte_at: float,
        read_tokens: int,
        write_5m_tokens: int,
        write_1h_tokens: int,
        positions: Iterable[int] | None = None,
    ) -> Learned:
        """Correct belief by one call's usage.

        Args:
            digests: `prefix_digests` of the prompt that was sent.
            cumulative_tokens: Its estimated tokens, as the plan saw them.
            started: Start of the request, from which TTLs count.
            first_byte_at: When the answer began; the end of the call where nobody saw its beginning.
            positions: Where entries can be, ascending; None for anywhere.
        """
        table = self._table(scope)
        entries = table.entries
        points = plan.breakpoints
        for point in points:  # what this request was only expected to write is now known
            known = entries.get(point.digest)
            if known is not None and known.begun == started and known.expires == started + point.ttl_s:
                self._drop(table, point.digest)
        written_tokens = write_5m_tokens + write_1h_tokens
        known_now = (
            self.belief(scope, digests) if positions is None else self.belief_at(scope, digests, positions)
        )
        counts = TokenCounts(cumulative_tokens, known_now)
        hit = _hit_position(counts, plan, read_tokens, written_tokens, len(digests))
        refuted = self._refute(table, digests, plan, started, hit, read_tokens, counts)
        held, p_held = _tested(table, plan, read_tokens)
        confidence = table.reliability(_EXPLICIT_PRIOR)
        if hit is not None:
            self._touch(table, digests, plan, started, hit, read_tokens, confidence)
        written: list[int] = []
        if written_tokens > 0 and points:
            past = [point for point in points if point.position > (-1 if hit is None else hit)]
            exact = _written_tokens(
                past, counts, hit, read_tokens, written_tokens, write_1h_tokens, plan.minimum_tokens
            )
            for point, tokens, is_exact in exact:
                entry = Belief(
                    tokens, is_exact, point.ttl_s, started + point.ttl_s, first_byte_at, confidence, started
                )
                self._put(table, point.digest, _later(entries.get(point.digest), entry))
                written.append(point.position)
        self._make_room()
        return Learned(hit, read_tokens, tuple(written), tuple(refuted), held, p_held)

    def observe_implicit(
        self,
        scope: CacheScope,
        digests: Sequence[bytes],
        cumulative_tokens: Sequence[int],
        plan: Plan,
        positions: Iterable[int],
        *,
        started: float,
        first_byte_at: float,
        read_tokens: int,
    ) -> Learned:
        """Correct belief about a provider that caches by itself: any prefix just sent may be read again soon.

        Args:
            positions: Boundaries worth remembering: the ends of the layers (`prompt.ends`; -1 is ignored).
        """
        table = self._table(scope)
        held, p_held = _tested(table, plan, read_tokens)
        confidence = table.reliability(_IMPLICIT_PRIOR)
        ttl_s = self._facts.implicit_ttl_s
        for position in positions:
            if position >= 0 and cumulative_tokens[position] >= plan.minimum_tokens:
                entry = Belief(
                    cumulative_tokens[position], False, ttl_s, started + ttl_s, first_byte_at, confidence
                )
                known = table.entries.get(digests[position])
                self._put(table, digests[position], _later(known, entry))
        self._make_room()
        return Learned(None, read_tokens, held=held, p_held=p_held)

    def _refute(
        self,
        table: _Table,
        digests: Sequence[bytes],
        plan: Plan,
        started: float,
        hit: int | None,
        read_tokens: int,
        counts: TokenCounts,
    ) -> list[int]:
        """Remove beliefs deeper than what was read; only those the marks could have found are tested."""
        refuted = []
        for position, _ in plan.believed:
            known = table.entries.get(digests[position])
            if known is None or known.p_warm(started) == 0:
                continue
            if hit is not None:
                wrong = position > hit
            else:
                wrong = read_tokens == 0 or counts.at(position) > read_tokens * (1 + _TOLERANCE)
            if wrong:
                self._drop(table, digests[position])
                refuted.append(position)
        return sorted(refuted)

    def _touch(
        self,
        table: _Table,
        digests: Sequence[bytes],
        plan: Plan,
        started: float,
        hit: int,
        read_tokens: int,
        confidence: float,
    ) -> None:
        """Restart the clock of the entry that was read and, as the open facts say, of shallower ones."""
        entries, facts = table.entries, self._facts
        marked = {point.position: point.ttl_s for point in plan.breakpoints}
        known = entries.get(digests[hit])
        ttl_s = marked.get(hit, TTL_5M_S) if known is None else known.ttl_s
        if facts.hour_mark_upgrades_entry:
            ttl_s = max(ttl_s, marked.get(hit, 0))
        available_from, begun = started, inf
        if known is not None and known.available_from <= started:
            available_from, begun = known.available_from, known.begun
        proven = Belief(read_tokens, True, ttl_s, started + ttl_s, available_from, confidence, begun)
        self._put(table, digests[hit], _later(known, proven))
        shallower: Iterable[int] = ()
        if facts.deep_hit_refreshes_shallower_unmarked:
            shallower = range(hit)
        elif facts.deep_hit_refreshes_shallower_marked:
            shallower = [position for position in marked if position < hit]
        for position in shallower:
            entry = entries.get(digests[position])
            if entry is not None and entry.available_from <= started < entry.expires:
                entries[digests[position]] = _lasting(entry, started + entry.ttl_s)

    def _table(self, scope: CacheScope) -> _Table:
        table = self._tables.get(scope)
        if table is None:
            table = self._tables[scope] = _Table(len(self._numbered))
            self._numbered.append(table)
        return table

    def _put(self, table: _Table, digest: bytes, entry: Belief) -> None:
        if digest not in table.entries:
            self._size += 1
            self._file(table, digest, entry)
        table.entries[digest] = entry

    def _drop(self, table: _Table, digest: bytes) -> None:
        if table.entries.pop(digest, None) is not None:
            self._size -= 1

    def _file(self, table: _Table, digest: bytes, entry: Belief) -> None:
        """Note when the entry will have to be looked at; what has been dropped since is skipped then."""
        slot = int(entry.expires // _SLOT_S)
        due = table.due.get(slot)
        if due is None:
            table.due[slot] = [digest]
            heappush(self._slots, (slot, table.number))
        else:
            due.append(digest)
        self._filed += 1

    def _make_room(self) -> None:
        """Keep within `max_entries`: what expired first, or will, goes first."""
        if self._filed > 4 * self._max_entries:
            self._file_anew()
        while self._size > self._max_entries:
            if self._open is None:
                self._open = self._next_slot()
            slot, table, digests = self._open
            if not digests:
                self._open = None
                continue
            digest = digests.pop()
            entry = table.entries.get(digest)
            if entry is None:
                continue
            if entry.expires >= (slot + 1) * _SLOT_S:
                self._file(table, digest, entry)  # used again since: it will be looked at when that ends
            else:
                self._drop(table, digest)

    def _next_slot(self) -> tuple[int, _Table, list[bytes]]:
        """Open the slot that ends first; every entry is filed in one that is not past its end."""
        slot, number = heappop(self._slots)
        table = self._numbered[number]
        digests = table.due.pop(slot)
        self._filed -= len(digests)
        alive = [digest for digest in dict.fromkeys(digests) if digest in table.entries]
        alive.sort(key=lambda digest: table.entries[digest].expires)
        alive.reverse()
        return slot, table, alive

    def _file_anew(self) -> None:
        """Drop the notes of entries that are gone: calls refused over and over leave nothing else."""
        self._slots, self._filed, self._open = [], 0, None
        for table in self._numbered:
            table.due = {}
            for digest, entry in table.entries.items():
                self._file(table, digest, entry)


def _tested(table: _Table, plan: Plan, read_tokens: int) -> tuple[bool | None, float | None]:
    """Hold the belief that all of the deepest entry in reach would be read against what was; None for no belief.

    Its own chance is tested, not `plan.p_hit`: that is the chance of reading anything, and a shallower entry may be
    surer than the deepest.
    """
    if not plan.believed:
        return None, None
    p_held = plan.believed[0][1]
    held = read_tokens >= _HELD_SHARE * plan.full_read_tokens
    table.test(p_held, held)
    return held, p_held


def _effective(plan: Plan) -> Iterable[Breakpoint]:
    return (point for point in plan.breakpoints if point.prefix_tokens >= plan.minimum_tokens)


def _is_own_pending(known: Belief | None, point: Breakpoint, started: float) -> bool:
    """Whether `known` is what `begin` noted for this request and nobody has settled."""
    return known is not None and known.available_from == inf and known.expires == started + point.ttl_s


def _lasting(entry: Belief, expires: float) -> Belief:
    """The entry, ending no earlier than `expires`; `_replace` takes three times as long."""
    tokens, exact, ttl_s, until, available_from, confidence, begun, lapsed = entry
    if until >= expires:
        return entry
    return Belief(tokens, exact, ttl_s, expires, available_from, confidence, begun, lapsed)


def _later(known: Belief | None, new: Belief) -> Belief:
    """The belief of the request that started later; a slow one that settles last does not undo it.

    Where two writers of one prefix asked for different TTLs, the later one's is believed: which of them the
    provider keeps is not documented, and believing the longer could promise what is gone. Requests that wrote it at
    the same time count as one writing, begun by the first.
    """
    if known is None:
        return new
    if known.begun < new.begun and known.available_from > new.expires - new.ttl_s:
        new = new._replace(begun=known.begun)
    if known.available_from == inf:
        return new
    if new.expires - new.ttl_s >= known.expires - known.ttl_s:
        return new
    return known._replace(
        tokens=new.tokens if new.exact else known.tokens,
        exact=known.exact or new.exact,
        available_from=min(known.available_from, new.available_from),
        begun=min(known.begun, new.begun),
    )


def _hit_position(
    counts: TokenCounts, plan: Plan, read_tokens: int, written_tokens: int, block_count: int
) -> int | None:
    """Block at which the read prefix ends."""
    points = plan.breakpoints
    if read_tokens == 0 or block_count == 0:
        return None
    last = points[-1].position if points else block_count - 1
    if points and written_tokens == 0:
        # Lookup starts at the marks and nothing past the hit was written, so the hit IS a mark: the deepest
        # that is long enough to count, which is nearly always the last.
        closest, nearest_by = -1, inf
        for point in points:  # of two that are as near, the deeper
            off = abs(point.prefix_tokens - read_tokens)
            if off <= nearest_by:
                closest, nearest_by = point.position, off
        return closest
    exact = [position for position, _ in plan.believed if _proves(counts, position, read_tokens)]
    if exact:
        return exact[0]
    # Estimates are off by about the same factor throughout, and the last mark's true tokens are now known.
    scale = (read_tokens + written_tokens) / max(1, counts.at(last)) if points else 1.0
    # Counts next to a proved one are right as they are; scaled as well, they would be corrected twice.
    believed = [
        (min(abs(tokens * scale - read_tokens), abs(tokens - read_tokens)), position)
        for position, tokens in ((position, counts.at(position)) for position, _ in plan.believed)
    ]
    if believed and _near(min(believed)[0], read_tokens):
        return min(believed)[1]
    end = last if points else block_count
    nearest = bisect_left(range(end), float(read_tokens), key=lambda position: counts.at(position) * scale)
    around = [position for position in (nearest - 1, nearest) if 0 <= position < end]
    if not around:
        return None
    offsets = [(abs(counts.at(position) * scale - read_tokens), position) for position in around]
    return min(offsets)[1] if _near(min(offsets)[0], read_tokens) else None


def _proves(counts: TokenCounts, position: int, read_tokens: int) -> bool:
    return counts.is_exact(position) and counts.at(position) == read_tokens


def _near(offset: float, tokens: int) -> bool:
    return offset <= max(_TOLERANCE * tokens, _TOLERANCE_TOKENS)


def _written_tokens(
    past: Sequence[Breakpoint],
    counts: TokenCounts,
    hit: int | None,
    read_tokens: int,
    written_tokens: int,
    write_1h_tokens: int,
    minimum_tokens: int,
) -> list[tuple[Breakpoint, int, bool]]:
    """Marks that were written, each with its tokens and whether they are exact."""
    if not past:
        return []
    last = past[-1]
    whole = read_tokens + written_tokens
    last_hour = None
    if write_1h_tokens > 0:
        last_hour = max((point.position for point in past if point.ttl_s >= TTL_1H_S), default=None)
    base = 0 if hit is None else counts.at(hit)
    scale = written_tokens / max(1, counts.at(last.position) - base)
    written = []
    for point in past:
        if point is last:
            tokens, exact = whole, True
        elif point.position == last_hour:
            tokens, exact = read_tokens + write_1h_tokens, True
        else:
            tokens, exact = read_tokens + int((counts.at(point.position) - base) * scale + 0.5), False
        if tokens >= minimum_tokens:
            written.append((point, tokens, exact))
    return written
