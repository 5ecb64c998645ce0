"""The provider's cache as its documents describe it, for traces of block ids; a reference to judge plans by.

The rule (prompt caching page, read 2026-11): an entry exists only where a request placed a mark, and is looked for
from the marks back, so the longest live entry at or before the last mark is read, and nothing without a mark; with A
the hit, B the last 1h mark past it and C the last mark past it, the bill is read A, 1h write B - A, 5m write C - B,
the rest plain. An entry lives for less than its TTL from the start of the request that last touched it.

Where the page is silent: entries form a chain; what is written past a live entry holds only the part past it, and can
be read while every part before it lives, each by its own TTL, so a 1h part on top of a 5m part lapses with it (the
cautious reading). A read refreshes every live entry of the prompt up to the hit, at no charge. Writing a part again
for a shorter time does not take back the longer one. `Sandbox` with `layered_entries=True, refresh="all"` is the same
world, token for token.

An entry is found only within 20 positions of a mark, the mark's own the first, where the prompt's blocks are known
(made-up traffic, a ledger); a recorded trace does not tell where its messages end. The delay until an entry can be read
is not modelled: a trace knows no first bytes, and in service requests wait for who writes (router/REPLAY.md has what it
would cost if they did not). It shares nothing with the planner, so that a plan's promises can be held against it.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from cache.economics import TokenSplit
from cache.rules import TTL_1H_S, TTL_5M_S

LOOKBACK = 20
"""Positions looked at from a mark back."""
_SWEEP_AT = 256
"""Entries after which the expired are looked for; doubled when most of them live."""


@dataclass(slots=True)
class _Part:
    """What one mark wrote: the blocks between the entry before it and its own."""

    blocks: int
    ttl_s: int
    expires_s: float
    before: int | None


class ReferenceCache:
    """Entries of one namespace, named by the id of their last block."""

    def __init__(self, minimum_tokens: int, *, hour_extends: bool = False) -> None:
        """Start cold; prefixes of fewer than `minimum_tokens` are not cached.

        Args:
            hour_extends: Open fact A2: an entry written for an hour keeps all of its prefix that long, whatever it was
                written on.
        """
        self._minimum_tokens = minimum_tokens
        self._hour_extends = hour_extends
        self._parts: dict[int, _Part] = {}
        self._ids: list[int] = []
        self._sweep_at = _SWEEP_AT

    def serve(
        self,
        runs: Sequence[tuple[int, int]],
        *,
        whole_blocks: int,
        input_tokens: int,
        block_tokens: int,
        marks: Sequence[tuple[int, int]],
        now_s: float,
        ends: Sequence[int] = (),
    ) -> TokenSplit:
        """Bill one request and remember what it read and wrote.

        Args:
            runs: The prompt as (first id, count).
            whole_blocks: Blocks that are full; no entry ends past them.
            marks: (prefix in blocks, TTL in seconds) of each breakpoint, in any order.
            ends: Where the positions of the prompt end (`TraceRow.position_ends`); () where nobody knows.
        """
        capped = sorted((min(blocks, whole_blocks), ttl_s) for blocks, ttl_s in marks)
        hit, hit_id = self._read(runs, [blocks for blocks, _ in capped], now_s, ends)
        past = [
            (blocks, ttl_s)
            for blocks, ttl_s in capped
            if blocks > hit and blocks * block_tokens >= self._minimum_tokens
        ]
        hour_end = max([hit, *(blocks for blocks, ttl_s in past if ttl_s >= TTL_1H_S)])
        end = past[-1][0] if past else hit
        before = hit_id
        for blocks, _ in past:
            name = _id_at(runs, blocks)
            ttl_s = TTL_1H_S if blocks <= hour_end else TTL_5M_S
            alone = self._hour_extends and ttl_s >= TTL_1H_S
            self._write(name, blocks, ttl_s, now_s, None if alone else before)
            before = name
        if len(self._parts) > self._sweep_at:
            self._sweep(now_s)
        return TokenSplit(
            read=hit * block_tokens,
            write_5m=(end - hour_end) * block_tokens,
            write_1h=(hour_end - hit) * block_tokens,
            uncached=input_tokens - end * block_tokens,
        )

    def upgrade(self, runs: Sequence[tuple[int, int]], blocks: int, now_s: float) -> bool:
        """Read the prefix of so many blocks for an upgrade ping; whether all of it was there."""
        hit, _ = self._read(runs, [blocks], now_s, ())
        return hit == blocks

    def place(self, name: int, blocks: int, written_s: float) -> None:
        """An upgrade ping wrote the prefix of so many blocks then, for an hour, whatever it stands on (fact A2)."""
        if name not in self._parts:
            insort(self._ids, name)
        self._parts[name] = _Part(blocks, TTL_1H_S, written_s + TTL_1H_S, None)

    def _read(
        self, runs: Sequence[tuple[int, int]], marks: Sequence[int], now_s: float, ends: Sequence[int]
    ) -> tuple[int, int | None]:
        """Blocks and id of the entry that is hit, (0, None) for none; it and the live ones it contains are refreshed.

        Args:
            marks: Blocks of the prefix that ends at each mark, ascending; nothing past the last is found.
        """
        live = self._live(runs, marks[-1], now_s) if marks else []
        reached = len(live)
        while reached and ends and not _seen(live[reached - 1][0], marks, ends):
            reached -= 1
        if not reached:
            return 0, None
        for _, name in live[:reached]:
            part = self._parts[name]
            part.expires_s = now_s + part.ttl_s
        return live[reached - 1]

    def _live(self, runs: Sequence[tuple[int, int]], reach: int, now_s: float) -> list[tuple[int, int]]:
        """(Blocks, id) of the entries on the prompt's path whose every part lives, the shortest first."""
        ids, parts = self._ids, self._parts
        readable: set[int] = set()
        found: list[tuple[int, int]] = []
        start = 0
        for first, count in runs:
            index = bisect_left(ids, first)
            while index < len(ids) and ids[index] < first + count:
                name = ids[index]
                blocks = start + name - first + 1
                index += 1
                if blocks > reach:
                    return found
                part = parts[name]
                if part.expires_s > now_s and (part.before is None or part.before in readable):
                    readable.add(name)
                    found.append((blocks, name))
            start += count
        return found

    def _write(self, name: int, blocks: int, ttl_s: int, now_s: float, before: int | None) -> None:
        expires_s, known = now_s + ttl_s, self._parts.get(name)
        if known is None:
            insort(self._ids, name)
        elif known.before == before and known.expires_s > expires_s:
            expires_s, ttl_s = known.expires_s, max(ttl_s, known.ttl_s)
        self._parts[name] = _Part(blocks, ttl_s, expires_s, before)

    def _sweep(self, now_s: float) -> None:
        self._parts = {name: part for name, part in self._parts.items() if part.expires_s > now_s}
        self._ids = sorted(self._parts)
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._parts))


def _id_at(runs: Sequence[tuple[int, int]], end: int) -> int:
    for first, count in runs:
        if end <= count:
            return first + end - 1
        end -= count
    raise ValueError("the prompt is shorter than that")


def _seen(blocks: int, marks: Sequence[int], ends: Sequence[int]) -> bool:
    """Whether an entry that ends there is within the lookback of a mark."""
    place = bisect_left(ends, blocks)
    return any(blocks <= mark and bisect_left(ends, mark) - place < LOOKBACK for mark in marks)
