"""The prompt cache: what earlier requests wrote, until when it lives, and what a request pays (A-CACHE,
2026-11).

Rule: an entry exists for a prefix key only because an earlier request carried a marker there and was long
enough; it lives from the start of the request that wrote or last refreshed it for its TTL. From each
marker, last to first, the cache looks back over at most 20 slots, the marker's own the first; the first
live entry found is the hit. With A the hit, B the last 1h marker past A and C the last marker past A (each
at or above the model's minimum): read A, write B - A for an hour and C - B for five minutes, pay the rest
in full.

`consult` answers at the start of a request and refreshes; `commit` stores what the request writes once its
response has begun: until then concurrent requests do not see it and pay their own writes. It does not know
prices.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from router.sandbox.anthropic_models import Level
from router.sandbox.anthropic_prompt import Prompt

LOOKBACK_SLOTS = 20
TTL_S = {"5m": 300.0, "1h": 3600.0}
_SWEEP_EVERY = 512
"""Writes between two removals of what has expired."""

Refresh = Literal["hit", "marked", "all"]
Upgrades = bool | Literal["billed"]


@dataclass(slots=True)
class Entry:
    """A cached prefix: when it ends, how long a use prolongs it, what it stands on, and where it ends."""

    expires_at: float
    ttl_s: float
    below: bytes | None
    level: Level
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOutcome:
    """What the cache did for one request; the four token counts are disjoint and sum to the prompt.

    `writes` are the keys to store at `commit`, with their TTLs; `started_at` is the clock they run from.
    """

    uncached_tokens: int
    write_5m_tokens: int
    write_1h_tokens: int
    read_tokens: int
    writes: tuple[tuple[bytes, Entry], ...]


class PromptCache:
    """Every live entry of every workspace.

    Args:
        refresh: which entries a hit prolongs (fact A1).
        layered: an entry lives only while what it was written on top of lives (fact A2, pessimistic).
        upgrades: a 1h marker on a live 5m entry makes it a 1h entry: for the price of the read, or, "billed", by
            writing it anew (fact A3).
        unmarked_disturbs: a request without markers that starts while another is writing a prefix they share
            keeps that writer's entries from being stored (fact A5).
    """

    def __init__(
        self,
        *,
        refresh: Refresh = "marked",
        layered: bool = False,
        upgrades: Upgrades = False,
        unmarked_disturbs: bool = False,
    ) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._refresh = refresh
        self._layered = layered
        self._upgrades = upgrades
        self._unmarked_disturbs = unmarked_disturbs
        self._unmarked: dict[bytes, float] = {}
        self._writes = 0

    def consult(self, prompt: Prompt, now: float) -> CacheOutcome:
        """Find the hit, refresh, and say what will be read and written by a request starting at `now`."""
        minimum = prompt.model.cache_minimum_tokens
        marked = [i for i, p in enumerate(prompt.positions) if p.marker is not None]
        if self._unmarked_disturbs and not marked:
            self._unmarked |= {prompt.key(index): now for index in range(len(prompt.positions))}
        hit = self._lookup(prompt, marked, now)
        if hit is not None:
            self._prolong(prompt, hit, marked, now)
        read = prompt.positions[hit].tokens if hit is not None else 0
        past = [i for i in marked if (hit is None or i > hit) and prompt.positions[i].tokens >= minimum]
        hour = [i for i in past if prompt.positions[i].marker == "1h"]
        end_1h = prompt.positions[hour[-1]].tokens if hour else read
        end = prompt.positions[past[-1]].tokens if past else read
        return CacheOutcome(
            uncached_tokens=prompt.total_tokens - end,
            write_5m_tokens=end - end_1h,
            write_1h_tokens=end_1h - read,
            read_tokens=read,
            writes=self._entries_to_write(prompt, hit, past, now),
        )

    def commit(self, outcome: CacheOutcome, now: float) -> None:
        """Make the entries a request writes readable: its response has begun."""
        for key, entry in outcome.writes:
            if self._unmarked.get(key, -1.0) >= entry.expires_at - entry.ttl_s:
                continue
            known = self._entries.get(key)
            if known is not None and known.below == entry.below and known.expires_at > entry.expires_at:
                known.ttl_s = max(known.ttl_s, entry.ttl_s)
            else:
                self._entries[key] = entry
            self._writes += 1
            if self._writes % _SWEEP_EVERY == 0:
                self.sweep(now)

    def sweep(self, now: float) -> None:
        """Drop what has expired."""
        self._entries = {k: e for k, e in self._entries.items() if e.expires_at > now}
        self._unmarked = {k: at for k, at in self._unmarked.items() if at > now - TTL_S["1h"]}

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._unmarked.clear()

    def census(self, now: float) -> dict[str, int]:
        """Count live entries, in total, by level and by TTL."""
        live = [e for k, e in self._entries.items() if self._alive(k, now)]
        by = Counter(f"ending_in_{e.level.value}" for e in live)
        by.update(f"ttl_{int(e.ttl_s)}_s" for e in live)
        return {"entries": len(live), **dict(sorted(by.items()))}

    def _lookup(self, prompt: Prompt, marked: list[int], now: float) -> int | None:
        positions = prompt.positions
        for start in reversed(marked):
            lowest = positions[start].slot - LOOKBACK_SLOTS + 1
            index = start
            while index >= 0 and positions[index].slot >= lowest:
                if self._alive(prompt.key(index), now) and not self._outgrown(prompt, index):
                    return index
                index -= 1
        return None

    def _outgrown(self, prompt: Prompt, index: int) -> bool:
        """Whether a marker asks for a longer life than the entry has, where that takes a new write."""
        marker = prompt.positions[index].marker
        if self._upgrades != "billed" or marker is None:
            return False
        return TTL_S[marker] > self._entries[prompt.key(index)].ttl_s

    def _alive(self, key: bytes, now: float) -> bool:
        entry = self._entries.get(key)
        if entry is None or entry.expires_at <= now:
            return False
        return not self._layered or entry.below is None or self._alive(entry.below, now)

    def _prolong(self, prompt: Prompt, hit: int, marked: list[int], now: float) -> None:
        match self._refresh:
            case "hit":
                touched = [hit]
            case "marked":
                touched = [i for i in marked if i < hit] + [hit]
            case "all":
                touched = list(range(hit + 1))
        for index in touched:
            key = prompt.key(index)
            if not self._alive(key, now):
                continue
            entry = self._entries[key]
            marker = prompt.positions[index].marker
            if self._upgrades and marker is not None:
                entry.ttl_s = max(entry.ttl_s, TTL_S[marker])
            entry.expires_at = max(entry.expires_at, now + entry.ttl_s)

    def _entries_to_write(
        self, prompt: Prompt, hit: int | None, past: list[int], now: float
    ) -> tuple[tuple[bytes, Entry], ...]:
        out: list[tuple[bytes, Entry]] = []
        below = prompt.key(hit) if hit is not None else None
        for index in past:
            position, key = prompt.positions[index], prompt.key(index)
            assert position.marker is not None
            ttl = TTL_S[position.marker]
            out.append((key, Entry(now + ttl, ttl, below, position.level, position.tokens)))
            below = key
        return tuple(out)
