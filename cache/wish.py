"""Breakpoints somebody would like, before the provider's limits are applied.

The rule: a wish stands on a block that takes a breakpoint, inside the layer it is meant for; where the
layer's last block takes none (thinking, empty text), on the nearest earlier one of the same layer, because
one further up would end another layer. Whether it is granted is the planner's business.
"""

from typing import NamedTuple

from cache.prompt import Layer, Prompt
from cache.rules import CacheRules


class Wish(NamedTuple):
    """A breakpoint asked for; `tokens` are those of the prefix it would end."""

    position: int
    layer: Layer
    ttl_s: int
    tokens: int
    reason: str


class Skipped(NamedTuple):
    """A breakpoint left out.

    Attributes:
        layer: Layer it was for.
        position: Block it would have stood on; None when there was none.
        reason: Why, for people.
    """

    layer: Layer
    position: int | None
    reason: str


CONTEXT_MOVES = "the context stands with the turn: it is gone from there in the next one"
"""Reason for not marking a context that stands after the history."""


def layer_start(prompt: Prompt, layer: Layer) -> int:
    """Position of the first block of a non-empty layer."""
    for end in reversed(prompt.ends[:layer]):
        if end >= 0:
            return end + 1
    return 0


def markable_position(prompt: Prompt, end: int, start: int) -> int | None:
    """Nearest position from `end` back to `start` that takes a breakpoint, or None."""
    blocks = prompt.blocks
    for position in range(end, start - 1, -1):
        if blocks[position].markable:
            return position
    return None


def below_minimum(tokens: int, rules: CacheRules) -> str:
    """Reason for leaving out a prefix that is too short to be cached."""
    return f"below minimum {rules.minimum_tokens:,}: {tokens:,} tokens"
