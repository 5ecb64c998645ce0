"""Breakpoints somebody would like, before the provider's limits are applied.

The rule: a wish stands on a block that takes a breakpoint, inside the layer it is meant for; where the
layer's last block takes none (thinking, empty text), on the nearest earlier one of the same layer, because
one further up would end another layer. Whether it is granted is the planner's business.
"""

from typing import NamedTuple

from cache.prompt import Layer, Prompt
from cache.rules import CacheRules


class Why(NamedTuple):
    """A reason that is spelled when somebody reads it; most are never read.

    Attributes:
        form: Text with a place for each value, as `str.format` takes it.
    """

    form: str
    values: tuple[object, ...]

    def __str__(self) -> str:
        return self.form.format(*self.values)


class Wish(NamedTuple):
    """A breakpoint asked for; `tokens` are those of the prefix it would end."""

    position: int
    layer: Layer
    ttl_s: int
    tokens: int
    why: str | Why


class Skipped(NamedTuple):
    """A breakpoint left out.

    Attributes:
        layer: Layer it was for.
        position: Block it would have stood on; None when there was none.
    """

    layer: Layer
    position: int | None
    why: str | Why

    @property
    def reason(self) -> str:
        """Why, for people."""
        return str(self.why)


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


def below_minimum(tokens: int, rules: CacheRules) -> Why:
    """Reason for leaving out a prefix that is too short to be cached."""
    return Why("below minimum {:,}: {:,} tokens", (rules.minimum_tokens, tokens))
