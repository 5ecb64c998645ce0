"""Gemini's implicit cache: the longest common prefix with recent prompts *(sandbox choice; G-CACHE
publishes no rule)*.

Rule: a prompt is remembered for `keep_s` from the start of its request, once its response has begun. A
later prompt of the same project and answering model reads its longest common prefix with any of them, in
steps of one token, if that is at least the model's minimum, and at most all but one of its tokens. Writing
costs nothing. It does not know explicit caches.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass, field

from router.sandbox.gemini_prompt import Prompt
from router.sandbox.tokens import Family, common_tokens

_SWEEP_EVERY = 256


@dataclass(slots=True)
class _Siblings:
    """Texts seen under one head, sorted, with the start of the latest request that held each."""

    texts: list[str] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)

    def add(self, text: str, at: float) -> None:
        if text not in self.started:
            insort(self.texts, text)
        self.started[text] = max(at, self.started.get(text, at))

    def drop_before(self, oldest: float) -> None:
        self.started = {t: at for t, at in self.started.items() if at > oldest}
        self.texts = sorted(self.started)

    def longest_common(self, text: str, oldest: float) -> int:
        """Tokens shared with a live text: the longest common prefix is with a neighbour in sorted order."""
        at = bisect_left(self.texts, text)
        best = 0
        for step, index in ((-1, at - 1), (1, at)):
            while 0 <= index < len(self.texts):
                if self.started[self.texts[index]] > oldest:
                    best = max(best, common_tokens(Family.GEMINI, self.texts[index], text))
                    break
                index += step
        return best


class ImplicitCache:
    """Recent prompts of every project."""

    def __init__(self, keep_s: float, *, enabled: bool = True) -> None:
        self._keep_s = keep_s
        self._enabled = enabled
        self._chains: dict[bytes, float] = {}
        self._siblings: dict[bytes, _Siblings] = {}
        self._commits = 0

    def read_tokens(self, prompt: Prompt, minimum: int, now: float) -> tuple[int, dict[str, int]]:
        """Return how many leading tokens are served from the cache, in total and by modality."""
        if not self._enabled:
            return 0, {}
        oldest = now - self._keep_s
        by: Counter[str] = Counter()
        for piece in prompt.pieces:
            if self._chains.get(piece.digest, oldest) > oldest:
                by["TEXT"] += piece.lead_tokens
                by[piece.modality] += piece.tokens
                continue
            siblings = self._siblings.get(piece.head)
            if siblings is not None and piece.text is not None:
                shared = siblings.longest_common(piece.text, oldest)
                by["TEXT"] += piece.lead_tokens + shared if shared else 0
            break
        total = by.total()
        if total >= prompt.total_tokens:
            last = prompt.pieces[-1]
            by[last.modality if last.tokens else "TEXT"] -= total - prompt.total_tokens + 1
            total = prompt.total_tokens - 1
        return (total, {k: v for k, v in by.items() if v}) if total >= minimum else (0, {})

    def commit(self, prompt: Prompt, minimum: int, started_at: float, now: float) -> None:
        """Remember a prompt whose response has begun. Texts that end below the minimum cannot matter."""
        if not self._enabled or prompt.total_tokens < minimum:
            return
        end = 0
        for piece in prompt.pieces:
            end += piece.lead_tokens + piece.tokens
            self._chains[piece.digest] = max(started_at, self._chains.get(piece.digest, started_at))
            if piece.text is not None and end >= minimum:
                self._siblings.setdefault(piece.head, _Siblings()).add(piece.text, started_at)
        self._commits += 1
        if self._commits % _SWEEP_EVERY == 0:
            self.sweep(now)

    def sweep(self, now: float) -> None:
        """Drop what has expired."""
        oldest = now - self._keep_s
        self._chains = {k: at for k, at in self._chains.items() if at > oldest}
        for siblings in self._siblings.values():
            siblings.drop_before(oldest)
        self._siblings = {k: s for k, s in self._siblings.items() if s.texts}

    def clear(self) -> None:
        """Drop everything."""
        self._chains.clear()
        self._siblings.clear()

    def census(self, now: float) -> dict[str, int]:
        """Count live prefixes."""
        oldest = now - self._keep_s
        return {"prefixes": sum(at > oldest for at in self._chains.values())}
