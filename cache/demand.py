"""How soon prefixes are used again, counted from the past.

The rule: shared and user prefixes are told apart by their digest and get a history each; a conversation's prefix
is new with every turn, so its return is counted per kind of turn instead.

    tools, system, context   decayed arrivals and exposure per (scope, digest) on a Gamma prior, to which the
                             gaps themselves (`cache.leader`) are shrunk
    history, turn            shares per kind of turn (`cache.hazard`): application, place in the conversation,
                             tokens the turn adds, tokens of the whole prefix

A turn is awaited under the digests of its last two blocks that take a breakpoint, since clients replace the very
last one (reminders, edits): if only the earlier of them comes again, the part of the turn before it is what was
used again. Outcomes are counted when their window closes (`cache.hazard`); what has not closed is not known. Time
is passed in; memory is bounded; it does not know routes, so feed it the requests of the route whose cache is
asked about.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log

from cache.forecast import LATER_TURN, Forecast, Forecasts, Kept, prior_forecasts
from cache.hazard import Path, Run, Shares, extend_run
from cache.leader import Gaps
from cache.prompt import BlockKind, CacheScope, Layer, Prompt
from cache.rules import TTL_1H_S, TTL_5M_S

# Looking a member up on its enum costs 60 ns on Python 3.11, a global 6 ns, and this is the hot path.
TOOLS, SYSTEM, CONTEXT, HISTORY, TURN = Layer
TOOL_RESULT = BlockKind.TOOL_RESULT

_PRIOR_ARRIVALS = 0.5
"""Weight of the prior rate: half an arrival, so that two or three real ones outweigh it."""
_PRIOR_IDLE_S = 12 * 3600.0
_KEYED = (TOOLS, SYSTEM, CONTEXT)
TOOL_LOOP = "tool loop"
"""Place of a turn that brings results of tools."""
_PLACES = ("first", "second", "third", "later")
"""Turns of a conversation told apart; from the fourth on they return alike."""
_MATCH_DEPTH = 128
"""Blocks looked back for the turn a request continues; a turn that adds more opens a conversation of its own."""
_SMALLEST, _LARGEST = 9, 14
"""Octaves of the tokens of a turn told apart; fewer than 512 or more than 32k tokens are not."""
_BYTES_PER_TOKEN = 4
_NONE: "OrderedDict[bytes, _Arrivals]" = OrderedDict()


@dataclass(slots=True, eq=False, kw_only=True)
class _Turn:
    """A turn that waits for its next one.

    Attributes:
        run: Kinds of the turns whose fate the next longer gap decides; handed on while gaps are short.
        number: Place in its conversation, from 1.
        keys: Digests under which it is awaited, the last block's first.
        kept: Share in [0, 1] of what it added that lies before its last block.
        gap_s: Seconds to the next turn; None while there is none.
        reused: Share in [0, 1] of what it added that the next turn had in common with it.
    """

    scope: CacheScope
    started: float
    path: Path
    run: Run
    number: int
    keys: tuple[bytes, ...]
    kept: float
    gap_s: float | None = None
    reused: float = 1.0


@dataclass(slots=True)
class _Arrivals:
    """Decayed arrivals of one prefix, the decayed time over which they came, and the gaps between them."""

    last: float
    count: float = 0.0
    exposure_s: float = 0.0
    gaps: Gaps = field(default_factory=Gaps)

    def advance(self, now: float, decay_per_s: float) -> None:
        elapsed = max(0.0, now - self.last)
        kept = exp(-decay_per_s * elapsed)
        self.count = self.count * kept + 1
        self.exposure_s = self.exposure_s * kept + (1 - kept) / decay_per_s
        self.gaps.add(elapsed, kept)
        self.last = max(self.last, now)


class Demand:
    """Arrivals seen by one process. Not thread-safe; time is passed in and never runs backwards."""

    def __init__(
        self, *, half_life_s: float = 6 * 3600.0, max_prefixes: int = 50_000, max_waiting: int = 200_000
    ) -> None:
        """Start knowing nothing.

        Args:
            half_life_s: Seconds after which an arrival counts half.
            max_prefixes: Shared and user prefixes remembered per scope; the longest unused go first.
            max_waiting: Turns whose next one is awaited; beyond it the oldest are given up uncounted.
        """
        self._decay_per_s = log(2) / half_life_s
        self._max_prefixes = max_prefixes
        self._max_waiting = max_waiting
        self._arrivals: dict[CacheScope, OrderedDict[bytes, _Arrivals]] = {}
        self._shares = Shares()
        self._waiting: dict[CacheScope, dict[bytes, _Turn]] = {}
        self._closes_5m: deque[_Turn] = deque()
        self._closes_1h: deque[_Turn] = deque()
        self._kept: Callable[[Path], Kept] | None = None

    def keep_by(self, kept: Callable[[Path], Kept]) -> None:
        """Let forecasts of turns say what keep-alives change, because from now on they are sent."""
        self._kept = kept

    def arrive(
        self,
        scope: CacheScope,
        prompt: Prompt,
        digests: Sequence[bytes],
        now: float,
        kind: str = "",
        counts: Sequence[int] | None = None,
        *,
        keyed: bool = True,
    ) -> Path:
        """Count one request that uses this prompt's prefixes; give the kind of its turn, () where it has none.

        Args:
            kind: Class of traffic that returns alike (application, API key, endpoint); few values.
            counts: Tokens of the prefix ending at each block; None estimates them from bytes.
            keyed: Whether uses of the shared and user prefixes are counted; False where `forecasts` is never asked of
                the scope, and only what its turns say of turns like them is wanted.
        """
        self._close(now)
        if keyed:
            self._use(scope, prompt, digests, now)
        if len(digests) - 1 <= prompt.stable_end:
            return ()
        waiting = self._waiting.setdefault(scope, {})
        earlier, position = self._continued(scope, prompt, digests)
        path = self._shares.kept(_turn_path(prompt, counts, kind, earlier, now))
        run: Run = ()
        if earlier is not None:
            run = _returned(earlier, digests[position], now)
            for key in earlier.keys:
                if waiting.get(key) is earlier:
                    del waiting[key]
        keys, kept = _awaited(prompt, digests, counts, position)
        self._await(
            _Turn(
                scope=scope,
                started=now,
                path=path,
                run=extend_run(run, path),
                number=1 if earlier is None else earlier.number + 1,
                keys=keys,
                kept=kept,
            )
        )
        return path

    def forecasts(
        self,
        scope: CacheScope,
        prompt: Prompt,
        digests: Sequence[bytes],
        now: float,
        kind: str = "",
        counts: Sequence[int] | None = None,
    ) -> Forecasts:
        """Chance of the next use of each layer's prefix after a request that starts `now`.

        Args:
            kind: As for `arrive`.
            counts: As for `arrive`.

        Returns:
            One forecast per layer, indexed by `Layer`; the prior where nothing was seen. Changes nothing.
        """
        earlier, _ = self._continued(scope, prompt, digests)
        prior = prior_forecasts(prompt) if earlier is None else LATER_TURN
        arrivals = self._arrivals.get(scope, _NONE)
        found = []
        for layer in _KEYED:
            end = prompt.ends[layer]
            expected = prior[layer]
            seen = arrivals.get(digests[end]) if end >= 0 else None
            found.append(expected if seen is None else self._keyed(seen, expected, now))
        turn = prior[TURN]
        if digests:
            path = _turn_path(prompt, counts, kind, earlier, now)
            turn = self._learnt(path, turn)
            if self._kept is not None:
                turn = Forecast(turn.p_5m, turn.p_1h, self._kept(path))
        # Whoever goes on from this turn uses the context before it, too: a document that only this conversation has is
        # used again at least as often as the conversation goes on, though nobody has seen it before.
        context = found[CONTEXT]
        if context.p_5m < turn.p_5m or context.p_1h < turn.p_1h:
            found[CONTEXT] = Forecast(max(context.p_5m, turn.p_5m), max(context.p_1h, turn.p_1h), turn.kept)
        return (*found, turn, turn)

    def use_within(
        self, scope: CacheScope, digest: bytes, now: float, from_s: float, to_s: float
    ) -> tuple[float, float]:
        """(Chance of a use of a shared or user prefix between two spans from now, decayed uses after its first).

        A Gamma rate: the longer it has been idle, the less is expected. Its prior is half a use in `_PRIOR_IDLE_S`, so
        that of a prefix that was used once nothing is expected that would pay for keeping it.
        """
        seen = self._arrivals.get(scope, _NONE).get(digest)
        if seen is None:
            return 0.0, 0.0
        idle_s = max(0.0, now - seen.last)
        kept = exp(-self._decay_per_s * idle_s)
        uses = seen.count * kept
        exposure_s = _PRIOR_IDLE_S + seen.exposure_s * kept + (1 - kept) / self._decay_per_s + from_s
        silent = pow(exposure_s / (exposure_s + max(0.0, to_s - from_s)), _PRIOR_ARRIVALS + uses)
        return 1 - silent, uses

    @property
    def entry_count(self) -> int:
        """Prefixes remembered and turns awaited."""
        kept = sum(len(arrivals) for arrivals in self._arrivals.values())
        return kept + len({id(turn) for waiting in self._waiting.values() for turn in waiting.values()})

    # --- what is expected

    def _learnt(self, path: Path, prior: Forecast) -> Forecast:
        beyond = 1 - prior.p_5m
        p_5m, later = self._shares.of(
            path, prior.p_5m, (prior.p_1h - prior.p_5m) / beyond if beyond > 0 else 0.0
        )
        return Forecast(p_5m, p_5m + (1 - p_5m) * later)

    def _keyed(self, seen: _Arrivals, prior: Forecast, now: float) -> Forecast:
        elapsed = max(0.0, now - seen.last)
        kept = exp(-self._decay_per_s * elapsed)
        # A request that has not been counted yet is itself an arrival.
        arrivals = _PRIOR_ARRIVALS + seen.count * kept + (1 if elapsed > 0 else 0)
        exposure_s = seen.exposure_s * kept + (1 - kept) / self._decay_per_s
        return seen.gaps.forecast(
            _return_chance(arrivals, exposure_s, TTL_5M_S, prior.p_5m),
            _return_chance(arrivals, exposure_s, TTL_1H_S, prior.p_1h),
            kept,
        )

    def _continued(
        self, scope: CacheScope, prompt: Prompt, digests: Sequence[bytes]
    ) -> tuple[_Turn | None, int]:
        """The awaited turn this prompt extends, and the position of their last common block.

        Some clients grow one user message instead of adding turns; for the cache that is the same conversation.
        """
        waiting = self._waiting.get(scope)
        if waiting:
            last = len(digests) - 1
            for position in range(last, max(prompt.stable_end, last - _MATCH_DEPTH), -1):
                earlier = waiting.get(digests[position])
                if earlier is not None:
                    return earlier, position
        return None, -1

    # --- what has happened

    def _use(self, scope: CacheScope, prompt: Prompt, digests: Sequence[bytes], now: float) -> None:
        """Count a use of each shared and user prefix."""
        arrivals = self._arrivals.get(scope)
        if arrivals is None:
            arrivals = self._arrivals[scope] = OrderedDict()
        for layer in _KEYED:
            end = prompt.ends[layer]
            if end < 0:
                continue
            seen = arrivals.get(digests[end])
            if seen is None:
                arrivals[digests[end]] = _Arrivals(now)
                if len(arrivals) > self._max_prefixes:
                    arrivals.popitem(last=False)
            else:
                seen.advance(now, self._decay_per_s)
                arrivals.move_to_end(digests[end])

    def _await(self, turn: _Turn) -> None:
        waiting = self._waiting[turn.scope]
        for key in turn.keys:
            waiting[key] = turn
        self._closes_5m.append(turn)
        self._closes_1h.append(turn)
        if len(self._closes_1h) > self._max_waiting:
            self._forget(self._closes_1h.popleft())
        if len(self._closes_5m) > self._max_waiting:
            self._closes_5m.popleft()

    def _close(self, now: float) -> None:
        """Count the windows that have ended by `now`."""
        while self._closes_5m and self._closes_5m[0].started + TTL_5M_S <= now:
            turn = self._closes_5m.popleft()
            returned = turn.gap_s is not None and turn.gap_s < TTL_5M_S
            self._shares.close_5m(turn.path, turn.reused if returned else 0.0)
        while self._closes_1h and self._closes_1h[0].started + TTL_1H_S <= now:
            turn = self._closes_1h.popleft()
            self._forget(turn)
            if turn.gap_s is None or turn.gap_s >= TTL_1H_S:
                self._shares.close_1h(turn.run, turn.path, None)
            elif turn.gap_s >= TTL_5M_S:
                self._shares.close_1h(turn.run, turn.path, turn.reused)

    def _forget(self, turn: _Turn) -> None:
        waiting = self._waiting.get(turn.scope, {})
        for key in turn.keys:
            if waiting.get(key) is turn:
                del waiting[key]


def _returned(earlier: _Turn, digest: bytes, now: float) -> Run:
    """Note that `earlier` was continued from `digest`; give the run its successor belongs to."""
    earlier.gap_s = now - earlier.started
    earlier.reused = 1.0 if digest == earlier.keys[0] else earlier.kept
    if earlier.gap_s >= TTL_5M_S:
        return ()
    run, earlier.run = earlier.run, ()
    return run


def _awaited(
    prompt: Prompt, digests: Sequence[bytes], counts: Sequence[int] | None, continued: int
) -> tuple[tuple[bytes, ...], float]:
    """Digests under which the next turn will be recognised, the last first; share of the turn before that one.

    Args:
        continued: Position of the last block taken over from an earlier turn, -1 for none.
    """
    blocks, first, end = prompt.blocks, prompt.stable_end + 1, prompt.recurring_end
    found: list[int] = []
    for position in range(end, first - 1, -1):
        # Within a tool loop the turn after it goes on from before a volatile context, and nothing behind that recurs.
        if found and prompt.volatile_from <= position and prompt.volatile_from >= 0:
            continue
        if blocks[position].markable:
            found.append(position)
            if len(found) == 2:
                break
    if len(found) < 2:
        return (digests[found[0] if found else -1],), 0.0
    last, before = found
    base = _tokens_to(prompt, counts, continued)
    added = _tokens_to(prompt, counts, last) - base
    kept = (_tokens_to(prompt, counts, before) - base) / added if added > 0 else 1.0
    return (digests[last], digests[before]), max(0.0, min(1.0, kept))


def _turn_path(
    prompt: Prompt,
    counts: Sequence[int] | None,
    kind: str,
    earlier: _Turn | None,
    now: float,
) -> Path:
    """Kind of a turn as far as returns differ.

    A tool loop comes back in seconds, a first turn seldom; what comes after a pause is likelier to pause again; a
    long message is more often the only one of its sort than a short one.
    """
    last = len(prompt.blocks) - 1
    history = prompt.ends[HISTORY]
    if prompt.blocks[last].kind is TOOL_RESULT:
        place = TOOL_LOOP
    elif earlier is not None:
        place = place_of(earlier.number + 1)
    else:
        place = place_of(1) if history < 0 else "resumed"
    begins_run = earlier is None or now - earlier.started >= TTL_5M_S
    before = history if history >= 0 else prompt.stable_end
    if counts is None:
        whole = int(_tokens_to(prompt, None, last))
        added = whole - int(_tokens_to(prompt, None, before))
    else:
        whole = counts[last]
        added = whole - counts[before] if before >= 0 else whole
    return turn_path(kind, place, begins_run, added, whole)


def turn_path(kind: str, place: str, begins_run: bool, added: int | None, whole: int) -> Path:
    """Kind of a turn, from the general to the special.

    Args:
        kind: Class of traffic that returns alike; "" for none.
        place: As `place_of`, `TOOL_LOOP`, or "resumed" for a conversation that began before anything was seen of it.
        begins_run: Whether nothing came before it within five minutes.
        added: Tokens of the turn; None where they are not known, which leaves out the special kinds.
        whole: Tokens of the whole prompt.
    """
    general: Path = (
        (("", place, begins_run), (kind, place, begins_run)) if kind else (("", place, begins_run),)
    )
    if added is None:
        return general
    octave = added.bit_length() - 1
    octave = _SMALLEST if octave < _SMALLEST else _LARGEST if octave > _LARGEST else octave
    sized = (kind, place, begins_run, octave)
    return (*general, sized, (kind, place, begins_run, octave, whole.bit_length() // 2))


def place_of(number: int) -> str:
    """Place in its conversation of a turn, from 1 on."""
    return _PLACES[min(number, len(_PLACES)) - 1]


def _tokens_to(prompt: Prompt, counts: Sequence[int] | None, position: int) -> float:
    """Tokens of the prefix ending at `position`, 0 for -1."""
    if position < 0:
        return 0.0
    if counts is not None:
        return counts[position]
    return sum([len(block.content) for block in prompt.blocks[: position + 1]]) / _BYTES_PER_TOKEN


def _return_chance(arrivals: float, exposure_s: float, within_s: float, prior: float) -> float:
    """P(next arrival within `within_s`) under a Gamma rate whose prior alone would give `prior`."""
    base_s = _base_s(within_s, prior)
    silent: float = pow((base_s + exposure_s) / (base_s + exposure_s + within_s), arrivals)
    return 1 - silent


@lru_cache(maxsize=64)
def _base_s(within_s: float, prior: float) -> float:
    """Exposure under which the prior alone gives itself; of the few priors there are."""
    return within_s / float(pow(1 - prior, -1 / _PRIOR_ARRIVALS) - 1)
