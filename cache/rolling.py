"""A conversation's prompt that grows by a turn at a time, with its digests, its token sums and where it was marked.

The rule: what a turn costs is linear in the blocks it adds. Digests are chained from the last one, sums are added to,
and beliefs are looked up only where an entry can be: in the stable layers, which others share, at positions where
requests of this conversation wrote or read one, and in the new blocks. Everything else is taken over as it is (a copy
of a tuple or an array, in C). Each value equals what the whole prompt would give: `prefix_digests`,
`TokenEstimator.cumulative_tokens`, `PrefixIndex.belief`.

One thing is not seen: an entry that another conversation with the same history, byte for byte, wrote in the middle of
it. Not knowing it costs an estimate, never a wrong request. This module does not know how a prompt is spelled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import overload

from cache.belief import Belief
from cache.prefix import continued_digests, prefix_digests
from cache.prompt import CacheScope, Prompt
from cache.tokens import TokenSums

_KEPT_ENDS = 4
"""Positions at either end of a conversation that are looked at even when what was believed there has lapsed: their
proven counts anchor the estimates around them."""


class Marks:
    """Where one conversation's entries can be, by cache scope; grows and is thinned as its requests are learnt from.

    Shared by all the prompts of a conversation, one after the other.
    """

    __slots__ = ("_positions",)

    def __init__(self) -> None:
        self._positions: dict[CacheScope, list[int]] = {}

    def of(self, scope: CacheScope) -> Sequence[int]:
        """Positions, ascending."""
        return self._positions.get(scope, ())

    def note(self, scope: CacheScope, positions: Iterable[int]) -> None:
        """Note that entries may have been written or read there."""
        known = self._positions.setdefault(scope, [])
        added = [position for position in positions if position >= 0 and position not in known[-64:]]
        if added:
            known[:] = (
                sorted({*known, *added})
                if known and min(added) < known[-1]
                else [*known, *sorted(set(added))]
            )

    def thin(self, scope: CacheScope, beliefs: "SparseBeliefs", now: float) -> None:
        """Forget positions at which nothing can be read any more, but for those at the ends.

        A position comes back when it is marked anew, and nothing else can warm it.
        """
        known = self._positions.get(scope, [])
        if len(known) <= 2 * _KEPT_ENDS:
            return
        middle = [
            position
            for position in known[_KEPT_ENDS:-_KEPT_ENDS]
            if position >= len(beliefs) or _may_live(beliefs[position], now)
        ]
        known[:] = [*known[:_KEPT_ENDS], *middle, *known[-_KEPT_ENDS:]]


def _may_live(belief: Belief | None, now: float) -> bool:
    return belief is not None and belief.expires > now


class SparseBeliefs(Sequence[Belief | None]):
    """Beliefs of all prefixes of a prompt, few of which exist: as `PrefixIndex.belief` gives them, without the gaps."""

    __slots__ = ("_found", "_length")

    def __init__(self, found: dict[int, Belief], length: int) -> None:
        """Keep both; `found` by position, ascending."""
        self._found, self._length = found, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Belief | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Belief | None]: ...
    def __getitem__(self, index: int | slice) -> Belief | Sequence[Belief | None] | None:
        if isinstance(index, slice):
            return tuple([self._found.get(position) for position in range(*index.indices(self._length))])
        position = index if index >= 0 else self._length + index
        if not 0 <= position < self._length:
            raise IndexError(index)
        return self._found.get(position)

    def known(self) -> Iterable[tuple[int, Belief]]:
        """Positions and what is believed there, ascending."""
        return self._found.items()


def known_beliefs(beliefs: Sequence[Belief | None]) -> Iterable[tuple[int, Belief]]:
    """Positions and what is believed there, ascending, however the beliefs are kept."""
    if type(beliefs) is SparseBeliefs:
        return beliefs.known()
    return [(position, belief) for position, belief in enumerate(beliefs) if belief is not None]


@dataclass(frozen=True, slots=True)
class Rolling:
    """A prompt and all that planning needs of its blocks.

    Attributes:
        digests: `prefix_digests(prompt)`.
        sums: Of its blocks.
        fresh_from: Position of the first block that no learnt request of the conversation has held.
        marks: Where the conversation's entries can be.
    """

    prompt: Prompt
    digests: tuple[bytes, ...]
    sums: TokenSums
    fresh_from: int = 0
    marks: Marks = field(default_factory=Marks, compare=False)

    @classmethod
    def of(
        cls, prompt: Prompt, digests: tuple[bytes, ...] | None = None, marks: Marks | None = None
    ) -> "Rolling":
        """Of a whole prompt; costs all its blocks.

        Args:
            digests: `prefix_digests(prompt)` if it is known.
            marks: Where entries of the conversation can be; looked at besides all of its blocks.
        """
        return cls(
            prompt,
            prefix_digests(prompt) if digests is None else digests,
            TokenSums().extended(prompt.blocks),
            0,
            Marks() if marks is None else marks,
        )

    def extend(self, prompt: Prompt) -> "Rolling":
        """The same one turn later.

        Args:
            prompt: As `self.prompt.continued` made it.

        Raises:
            ValueError: It is not the continuation of this prompt.
        """
        length = len(self.digests)
        if len(prompt.blocks) <= length or (
            length and prompt.blocks[length - 1].content != self.prompt.blocks[-1].content
        ):
            raise ValueError("the prompt does not continue the one before")
        digests = continued_digests(prompt, self.prompt, self.digests)
        # Other digests name other entries: then everything may have been marked before, by a request like this one.
        fresh_from = length if digests[length - 1] == self.digests[-1] else 0
        return Rolling(prompt, digests, self.sums.extended(prompt.blocks[length:]), fresh_from, self.marks)

    def positions(self, scope: CacheScope) -> Sequence[int]:
        """Where an entry can be in a scope, ascending."""
        stable_end = self.prompt.stable_end
        between = [position for position in self.marks.of(scope) if stable_end < position < self.fresh_from]
        fresh = range(max(self.fresh_from, stable_end + 1), len(self.digests))
        return [*range(stable_end + 1), *between, *fresh]
