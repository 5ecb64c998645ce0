"""Replay a trace through the planner, the index and the demand on a clock that follows the trace.

The rule: rows are served one by one in the order of their time; a decision is made from what the rows before it
taught and is written down before the next row is looked at, so a trace cut short gives the same decisions. The
planner, index and demand are the service's own; the usage they learn from is billed by a reference cache that knows
nothing of them (`router.replay_provider`). Namespaces are independent recordings without a common clock: they are
laid one after another, an hour apart, which lets every window of the one before close.

Costs are in units of one uncached input token; output is the same under every policy and left out. It knows no
files and no real time: the caller passes a timer if it wants the planner's own time measured.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from cache.demand import Demand
from cache.economics import Rates, TokenSplit, cost_units, ping_spacing_s
from cache.facts import ASSUMED, Facts
from cache.forecast import Forecast
from cache.hazard import Path
from cache.index import PrefixIndex
from cache.plan import Breakpoint, Plan, Strategy
from cache.prompt import CacheScope, Layer
from cache.regret import Regret
from cache.rules import TTL_1H_S, TTL_5M_S, rules_for
from cache.schedule import Worth
from router.replay_ahead import Ahead, Offer, could_warm_ahead
from router.replay_pings import Idle, Left, Ping
from router.replay_planner import Planner
from router.replay_provider import ReferenceCache
from router.replay_shared import application_end
from router.replay_trace import PromptBuilder, TracePrompt, TraceRow, block_at
from router.replay_warming import KeepAlives, Warm, WarmSettings

MODEL = "claude-opus-4-5-20251101"
"""Model whose limits hold unless a replay names another; the minimum is a setting of its own."""
NAMESPACE_GAP_S = 3600.0


class Policy(StrEnum):
    """How breakpoints are chosen: the planner's strategies, and the whole prompt at one TTL.

    Where a row knows its layers, the whole prompt at one TTL has breakpoints after system and context as well.
    """

    AUTO = "auto"
    A = "a"
    B = "b"
    C = "c"
    NONE = "none"
    TTL_5M = "5m"
    TTL_1H = "1h"
    AS_SENT = "as_sent"
    """The breakpoints that were sent, which a ledger tells: what the provider's model makes of them."""


class Settings(NamedTuple):
    """What a replay assumes of the provider.

    Attributes:
        minimum_tokens: Shorter prefixes are not cached.
        rates: Price of cached tokens relative to uncached ones.
        model: Id in the catalogue; gives the other limits.
        facts: The open facts, as the planner takes them and as the provider keeps them.
        warming: What is kept warm between requests, and how.
    """

    minimum_tokens: int = 1024
    rates: Rates = Rates(1.25, 2.0, 0.1)
    model: str = MODEL
    facts: Facts = ASSUMED
    warming: WarmSettings = WarmSettings()


class Served(NamedTuple):
    """One request, decided and billed.

    Attributes:
        marks: (prefix in whole trace blocks, TTL in seconds) of each breakpoint, ascending.
        p_hit: Chance we gave to reading what we believed warm; 0 where nothing was.
        held: Whether that was read, or, where nothing was believed, whether anything was.
        forecast: Chance of a return that reuses what this request added; None without AUTO.
        returned_gap_s: Seconds since the request this one extends; None where it extends none.
        decision_ns: Nanoseconds the decision took; 0 without a timer.
        keep_alives: Keep-alives its prefix gets unless its conversation goes on; `spacing_s` apart.
        switched_off: Warms that were not sent, for it or since the request before it, because their traffic had lost by
            them; for its keep-alives one.
        p_next: Chance that its conversation goes on within 5 minutes, as keep-alives are decided by; None unasked.
        p_foreseen: The same by the foresight alone; None without one.
    """

    row: TraceRow
    marks: tuple[tuple[int, int], ...]
    split: TokenSplit
    p_hit: float
    held: bool
    forecast: Forecast | None
    returned_gap_s: float | None
    now_s: float
    decision_ns: int
    keep_alives: int = 0
    spacing_s: float = float(ping_spacing_s(TTL_5M_S))
    switched_off: int = 0
    p_next: float | None = None
    p_foreseen: float | None = None


def replay(
    rows: Iterable[TraceRow],
    policy: Policy,
    settings: Settings | None = None,
    *,
    timer: Callable[[], int] = lambda: 0,
    on_ping: Callable[[Ping], None] = lambda _: None,
    regret: Regret | None = None,
) -> Iterator[Served]:
    """Serve the rows one by one.

    Args:
        rows: In the order they are served (`router.replay_trace.in_order`); those that are no requests to Opus are
            learnt from and give nothing.
        timer: Nanoseconds of any clock; only differences are used.
        on_ping: Told of every warm, at its place between the requests; the last ones after the last request.
        regret: Judges the warms, in units for dollars; None for one of its own.
    """
    run = _Run(policy, settings or Settings(), timer, on_ping, regret or Regret())
    for row in rows:
        if row.billed:
            yield run.serve(row)
        else:
            run.note(row)
    run.end()


class _Upgraded(NamedTuple):
    """An upgrade ping whose entry has no name yet: of which request, where it ends, and when it was sent."""

    row: TraceRow
    blocks: int
    sent_s: float


class _Run:
    """One replay."""

    def __init__(
        self,
        policy: Policy,
        settings: Settings,
        timer: Callable[[], int],
        on_ping: Callable[[Ping], None],
        regret: Regret,
    ) -> None:
        self._policy, self._settings, self._timer = policy, settings, timer
        rules = replace(rules_for(settings.model), minimum_tokens=settings.minimum_tokens)
        self._scope = CacheScope("anthropic", "replay", rules.model)
        self._demand = Demand()
        self._planner: Planner | None = None
        if policy not in (Policy.TTL_5M, Policy.TTL_1H, Policy.AS_SENT):
            self._planner = Planner(
                Strategy(policy.value),
                rules,
                settings.rates,
                settings.facts,
                self._scope,
                self._demand,
                PrefixIndex(facts=settings.facts),
            )
        self._keep: KeepAlives | None = None
        self._ahead: Ahead | None = None
        warming = settings.warming
        if warming.policy is not Warm.OFF:
            worth = Worth(
                settings.rates,
                1.0,
                warming.second_units,
                warming.prefill_s_per_token,
                call_units=warming.call_units,
            )
            keep = self._keep = KeepAlives(warming, worth, self._demand, self._scope, on_ping, regret=regret)
            if could_warm_ahead(warming.schedule, worth):
                self._ahead = Ahead(warming, worth, regret, keep.foreseer, self._offered, on_ping)
        self._builder = PromptBuilder(settings.minimum_tokens)
        self._cache = self._new_cache()
        self._upgraded: dict[tuple[str, str, str], _Upgraded] = {}
        self._namespace: str | None = None
        self._off = 0
        self._offset_s = self._latest_s = 0.0

    def _new_cache(self) -> ReferenceCache:
        return ReferenceCache(
            self._settings.minimum_tokens, hour_extends=self._settings.facts.hour_mark_extends_read_prefix
        )

    def serve(self, row: TraceRow) -> Served:
        """Decide and bill one request."""
        now_s, keep, planner, timer = self._time(row), self._keep, self._planner, self._timer
        found = self._builder.prompt(row)
        if keep is not None:
            keep.until(now_s)
            keep.arrived(row, found, now_s)
        if self._ahead is not None:
            self._ahead.asked(row, found, now_s)
        upgraded = self._upgraded.pop((row.namespace, row.session, row.stream), None)
        if upgraded is not None:
            self._settle_upgrade(upgraded, row, found)
        started = timer()
        planned, forecast = None, None
        counts: tuple[int, ...] = ()
        if self._policy is Policy.AS_SENT:
            marks = row.marks or ()
        elif planner is None:
            marks = _whole(row, TTL_1H_S if self._policy is Policy.TTL_1H else TTL_5M_S)
        else:
            planned, counts, forecast = planner.decide(found, now_s, row.kind)
            marks = tuple([(found.ends[point.position], point.ttl_s) for point in planned.breakpoints])
        decision_ns = timer() - started
        split = self._cache.serve(
            row.runs,
            whole_blocks=row.whole_blocks,
            input_tokens=row.input_tokens,
            block_tokens=row.block_tokens,
            marks=marks,
            now_s=now_s,
            ends=row.position_ends,
        )
        path: Path = ()
        if keep is not None or (planner is not None and planner.strategy is Strategy.AUTO):
            path = self._demand.arrive(
                self._scope, found.prompt, found.digests, now_s, row.kind, counts or None
            )
        p_hit, held = 0.0, split.read > 0
        if planner is not None:
            assert planned is not None
            believed = planner.learn(found, counts, planned, split, now_s)
            p_hit, held = planned.p_hit, held if believed is None else believed
        idle, spacing_s = Idle(), float(ping_spacing_s(TTL_5M_S))
        if keep is not None:
            left = self._left(row, found, marks, split, planned, counts, path)
            shared = self._left_shared(row, found, marks, planned, counts, now_s)
            idle = keep.served(row, found, left, shared, split.read, now_s)
            spacing_s = spacing_s if left is None else float(ping_spacing_s(left.ttl_s))
        return Served(
            row,
            marks,
            split,
            p_hit,
            held,
            forecast,
            found.returned_gap_s,
            now_s,
            decision_ns,
            idle.pings,
            spacing_s,
            self._newly_off(),
            idle.p_next,
            idle.p_foreseen,
        )

    def _newly_off(self) -> int:
        """Warms that were switched off since this was last asked."""
        keep, ahead, before = self._keep, self._ahead, self._off
        self._off = (keep.switched_off if keep else 0) + (ahead.switched_off if ahead else 0)
        return self._off - before

    def note(self, row: TraceRow) -> None:
        """Learn from a row that is no request to Opus, and warm what it makes worth warming."""
        now_s, keep, ahead = self._time(row), self._keep, self._ahead
        if keep is not None:
            keep.until(now_s)
        if row.event:
            if ahead is not None:
                ahead.happened(row, self._builder.known(row), now_s)
            return
        found = self._builder.prompt(row)
        if keep is not None:
            keep.answered_by_flash(row, now_s)
        if ahead is not None:
            ahead.answered_by_flash(row, found, now_s)

    def end(self) -> None:
        """Send what is still due after the last request."""
        if self._keep is not None:
            self._keep.drained_s(self._latest_s)

    def _time(self, row: TraceRow) -> float:
        """Instant of a row on the one clock of all namespaces."""
        if row.namespace != self._namespace:
            if self._namespace is not None:
                if self._keep is not None:
                    self._latest_s = self._keep.drained_s(self._latest_s)
                self._offset_s = self._latest_s + NAMESPACE_GAP_S - row.time_s
            self._cache, self._namespace = self._new_cache(), row.namespace
        self._latest_s = self._offset_s + row.time_s
        return self._latest_s

    def _left(
        self,
        row: TraceRow,
        found: TracePrompt,
        marks: tuple[tuple[int, int], ...],
        split: TokenSplit,
        planned: Plan | None,
        counts: tuple[int, ...],
        path: Path,
    ) -> Left | None:
        """What a request left warm, by its bill; None for nothing."""
        blocks = (split.read + split.write_5m + split.write_1h) // row.block_tokens
        if not blocks:
            return None
        position = bisect_left(found.ends, blocks)
        if position == len(found.ends) or found.ends[position] != blocks:
            return None
        key, base_blocks = found.digests[position], 0
        ttl_s = marks[-1][1]
        if self._planner is not None:
            believed = self._planner.index.belief(self._scope, found.digests[: position + 1])
            deepest = believed[position]
            if deepest is None:
                return None
            ttl_s = deepest.ttl_s
            if ttl_s < TTL_1H_S:
                longer = [
                    found.ends[place]
                    for place, belief in enumerate(believed)
                    if belief is not None and belief.ttl_s >= TTL_1H_S and belief.expires > deepest.expires
                ]
                base_blocks = max(longer, default=0)

        def send(now_s: float, upgrade: bool) -> TokenSplit:
            if upgrade and self._cache.upgrade(row.runs, blocks, now_s):
                # Its entry ends with the answer, whose blocks the trace tells with the next request only.
                end = ceil((row.input_tokens + row.output_tokens) / row.block_tokens)
                self._upgraded[row.namespace, row.session, row.stream] = _Upgraded(row, end, now_s)
                size = row.block_tokens
                return TokenSplit(read=blocks * size, write_1h=(end - blocks) * size)
            return self._send(row, found, marks, planned, counts, (blocks, ttl_s), now_s)

        return Left(key, blocks, ttl_s, base_blocks, path, send)

    def _settle_upgrade(self, upgraded: "_Upgraded", row: TraceRow, found: TracePrompt) -> None:
        """The next request tells what the answer's blocks are called: now the entry that ends with them has a name.

        The service knows the answer when it sends the ping, so the planner is taught what it knew then.
        """
        end = upgraded.blocks
        if found.returned_gap_s is None or row.whole_blocks < end:
            return
        self._cache.place(block_at(row.runs, end), end, upgraded.sent_s)
        position = bisect_left(found.ends, end)
        if self._planner is None or position == len(found.ends) or found.ends[position] != end:
            return
        counts = self._planner.counts(found)
        point = Breakpoint(
            position, Layer.HISTORY, TTL_1H_S, counts[position], found.digests[position], "upgrade ping", 0.0
        )
        again = self._planner.again(found, counts, [point], upgraded.sent_s)
        size = row.block_tokens
        split = TokenSplit(read=again.full_read_tokens, write_1h=end * size - again.full_read_tokens)
        self._planner.learn(found, counts, again, split, upgraded.sent_s)

    def _offered(self, row: TraceRow, found: TracePrompt, now_s: float) -> Offer | None:
        """A warm of what this prompt begins with, as it would be sent now."""
        planner = self._planner
        asked = None if planner is None else planner.ahead(found, now_s)
        if planner is None or asked is None:
            return None
        cut, counts, planned = asked
        marks = tuple([(cut.ends[point.position], point.ttl_s) for point in planned.breakpoints])
        blocks, size = marks[-1][0], row.block_tokens

        def send() -> TokenSplit:
            split = self._cache.serve(
                row.runs,
                whole_blocks=blocks,
                input_tokens=blocks * size,
                block_tokens=size,
                marks=marks,
                now_s=now_s,
                ends=row.position_ends,
            )
            planner.learn(cut, counts, planned, split, now_s)
            return split

        key = planned.breakpoints[-1].digest
        return Offer(key, blocks * size, planned.p_hit, planned.full_read_tokens, planned.expected, send)

    def _left_shared(
        self,
        row: TraceRow,
        found: TracePrompt,
        marks: tuple[tuple[int, int], ...],
        planned: Plan | None,
        counts: tuple[int, ...],
        now_s: float,
    ) -> Left | None:
        """The application's layers, if this request left an entry of their own; None otherwise."""
        end = application_end(found)
        if end is None or self._planner is None:
            return None
        (belief,) = self._planner.index.belief(self._scope, found.digests[end : end + 1])
        if belief is None or not belief.p_warm(now_s):
            return None
        last = found.ends[end], belief.ttl_s

        def send(now_s: float, upgrade: bool) -> TokenSplit:
            return self._send(row, found, marks, planned, counts, last, now_s)

        return Left(found.digests[end], *last, 0, (), send)

    def _send(
        self,
        row: TraceRow,
        found: TracePrompt,
        marks: tuple[tuple[int, int], ...],
        planned: Plan | None,
        counts: tuple[int, ...],
        last: tuple[int, int],
        now_s: float,
    ) -> TokenSplit:
        """Bill a keep-alive of the prefix that ends at `last`, (blocks, TTL), and learn from it as from a request."""
        split = self._cache.serve(
            row.runs,
            whole_blocks=last[0],
            input_tokens=last[0] * row.block_tokens,
            block_tokens=row.block_tokens,
            marks=(*[mark for mark in marks if mark[0] < last[0]], last),
            now_s=now_s,
            ends=row.position_ends,
        )
        if self._planner is not None and planned is not None:
            points = [point for point in planned.breakpoints if found.ends[point.position] <= last[0]]
            again = self._planner.again(found, counts, points, now_s)
            self._planner.learn(found, counts, again, split, now_s)
        return split


def decision(served: Served) -> dict[str, object]:
    """What was decided for one request, as a value for JSON: the last mark as `ttl`, those before it as `bp`."""
    row = served.row
    marks = list(served.marks)
    ttl = "none"
    if marks and marks[-1][0] >= row.whole_blocks:
        ttl = _spelled(marks.pop()[1])
    return {
        "ns": row.namespace,
        "stream": row.stream,
        "session": row.session,
        "seq": row.sequence,
        "ttl": ttl,
        "keepalive": served.keep_alives,
        "every": served.spacing_s,
        "bp": [[blocks * row.block_tokens, _spelled(ttl_s)] for blocks, ttl_s in marks],
    }


def cost(served: Served, rates: Rates) -> float:
    """Units of one request."""
    return cost_units(served.split, rates)


def _whole(row: TraceRow, ttl_s: int) -> tuple[tuple[int, int], ...]:
    ends = [end for end, layer in row.layers if layer is Layer.SYSTEM or layer is Layer.CONTEXT]
    return tuple([(end, ttl_s) for end in (*ends, row.whole_blocks)])


def _spelled(ttl_s: int) -> str:
    return "1h" if ttl_s >= TTL_1H_S else "5m"
