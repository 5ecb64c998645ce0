"""A prompt as the provider's cache sees it: ordered blocks in ordered layers.

The rule: layers run from the most stable to the least (tools, system, context, history, turn), because a
cached prefix ends at the first byte that differs. A context that changes with every turn may stand after the
history instead: then it is no layer of its own but a volatile stretch of the conversation, which no later turn
holds at that place. This module knows no wire format: an adapter hands in the
bytes it will send for each block, and those bytes are the block's identity here. That makes "same prefix" and
"same bytes on the wire" the same statement.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Layer(IntEnum):
    """A run of blocks with one lifetime; the number is its place in the prompt."""

    TOOLS = 0
    """Tool definitions: change with a deploy, shared by every user of an application."""
    SYSTEM = 1
    """System prompt: changes with a deploy, shared by every user of an application."""
    CONTEXT = 2
    """User profile or documents: change per session or day, private to one user."""
    HISTORY = 3
    """Turns before the one to answer: grow by appending, private to one session."""
    TURN = 4
    """What is to be answered now: new in every request, history in the next."""


_LAYER_COUNT = len(Layer)


class BlockKind(StrEnum):
    """What a block is, as far as the cache rules distinguish."""

    TOOL = "tool"
    TEXT = "text"
    IMAGE = "image"
    DOCUMENT = "document"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    THINKING = "thinking"


class Block(NamedTuple):
    """The smallest piece that can end a cached prefix.

    Attributes:
        layer: Layer it belongs to.
        kind: What it is; runs of tool calls or of tool results count as one lookback position.
        content: The bytes sent for it, without any breakpoint; equal content is an equal block.
        role: Wire role of the message it stands in; "" in tools and system. Part of the block's identity.
        markable: Whether the provider accepts a breakpoint on it (never on thinking or empty text).
        token_count: Exact tokens if someone counted them, else None and an estimate is used.
        holds_image: Whether it is or holds an image: a tool's result may, and an image anywhere counts.
    """

    layer: Layer
    kind: BlockKind
    content: bytes
    role: str = ""
    markable: bool = True
    token_count: int | None = None
    holds_image: bool = False


@dataclass(frozen=True, slots=True)
class PromptParameters:
    """Request parameters that end cache reuse when they change, at the level where they enter the prefix.

    Source: A-CACHE invalidation table, read 2026-11. Each is a canonical string, "" for the provider's
        default.

    Attributes:
        everywhere: Kills tools, system and messages (structured output format; thinking and effort, where
            the vendor says "model-specific" and nobody has measured the model).
        system: Kills system and messages (speed; citations switched).
        messages: Kills messages only (tool choice; image presence is derived from the blocks).
    """

    everywhere: str = ""
    system: str = ""
    messages: str = ""


class CacheScope(NamedTuple):
    """Whose cache it is: entries are never shared across any of these (A-CACHE, isolation, 2026-11).

    Attributes:
        upstream: "anthropic" or "gemini".
        workspace: Provider workspace or project; one per credential.
        model: Full model id that is asked.
    """

    upstream: str
    workspace: str
    model: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Blocks in the order the provider hashes them: tools, system, then messages.

    Attributes:
        volatile_from: Position of the first block of a context that stands after the history; -1 for none. Its
            blocks carry the layer of the turn they stand in, and are gone from there in the next turn.
        volatile_end: Position of its last block; -1 for none.
        has_image: Whether any block is or holds an image; adding or removing one ends reuse of the messages
            level.
        ends: Position of the last block of each layer, indexed by `Layer`; -1 where the layer is empty.
        recurring_end: Position of the last block that a later request can hold at the same place: the last one,
            or the one before a volatile context. Within a tool loop that context stays where it is until the
            turn is answered, so it is the last one again.

    Raises:
        ValueError: If a block of a more stable layer follows one of a less stable layer, or the volatile stretch
            is not within the conversation.
    """

    blocks: tuple[Block, ...]
    parameters: PromptParameters = field(default_factory=PromptParameters)
    volatile_from: int = -1
    volatile_end: int = -1
    recurring_end: int = field(init=False, compare=False, repr=False)
    has_image: bool = field(init=False, compare=False, repr=False)
    ends: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # One pass finds everything the planner asks of the order, so that no later step walks the blocks for
        # it.
        ends = [-1] * _LAYER_COUNT
        last = Layer.TOOLS
        has_image, image = False, BlockKind.IMAGE
        for position, block in enumerate(self.blocks):
            layer = block.layer
            if layer is not last:
                if layer < last:
                    raise ValueError(
                        f"block {position} is of layer {layer.name}, after one of layer {last.name}; "
                        "layers must run tools, system, context, history, turn"
                    )
                last = layer
            ends[layer] = position
            if block.kind is image or block.holds_image:
                has_image = True
        object.__setattr__(self, "has_image", has_image)
        object.__setattr__(self, "ends", tuple(ends))
        recurring_end = len(self.blocks) - 1 if self.volatile_from < 0 else self._recurring_end()
        object.__setattr__(self, "recurring_end", recurring_end)

    def continued(self, blocks: Sequence[Block], parameters: PromptParameters) -> "Prompt":
        """The prompt one turn later: its turn has become history, and `blocks` follow.

        Equal to one made of all these blocks at once; only the turn and the new blocks are walked.

        Args:
            blocks: The answer, of the layer HISTORY, and then the new turn, of the layer TURN; at least one of each.

        Raises:
            ValueError: A context stands after the history, which then is not what it was; or `blocks` are not these.
        """
        if self.volatile_from >= 0:
            raise ValueError("a prompt whose context stands after its history does not continue as it is")
        tools, system, context, history, _ = self.ends
        turn_from = max(tools, system, context, history) + 1
        aged = [
            Block(
                Layer.HISTORY, old.kind, old.content, old.role, old.markable, old.token_count, old.holds_image
            )
            for old in self.blocks[turn_from:]
        ]
        layers = [block.layer for block in blocks]
        answer_count = layers.count(Layer.HISTORY)
        if not 0 < answer_count < len(blocks) or layers != sorted(layers) or layers[-1] is not Layer.TURN:
            raise ValueError("a prompt goes on with an answer, as history, and a turn")
        length = len(self.blocks)
        made: Prompt = object.__new__(Prompt)
        put = object.__setattr__
        put(made, "blocks", (*self.blocks[:turn_from], *aged, *blocks))
        put(made, "parameters", parameters)
        put(made, "volatile_from", -1)
        put(made, "volatile_end", -1)
        put(made, "recurring_end", length + len(blocks) - 1)
        shown = any(block.kind is BlockKind.IMAGE or block.holds_image for block in blocks)
        put(made, "has_image", self.has_image or shown)
        put(made, "ends", (tools, system, context, length + answer_count - 1, length + len(blocks) - 1))
        return made

    def without(self, position: int) -> "Prompt":
        """The prompt less one block of a stable layer; a volatile context moves up with the rest."""
        shift = 1 if self.volatile_from > position else 0
        return Prompt(
            (*self.blocks[:position], *self.blocks[position + 1 :]),
            self.parameters,
            self.volatile_from - shift,
            self.volatile_end - shift,
        )

    @property
    def stable_end(self) -> int:
        """Position of the last block before history and turn; -1 when there is none."""
        tools, system, context, _, _ = self.ends
        return context if context >= 0 else system if system >= 0 else tools

    def _recurring_end(self) -> int:
        last = len(self.blocks) - 1
        if not self.stable_end < self.volatile_from <= self.volatile_end <= last:
            raise ValueError(
                f"blocks {self.volatile_from} to {self.volatile_end} cannot be volatile: the conversation is "
                f"blocks {self.stable_end + 1} to {last}"
            )
        if self.volatile_end < last and self.blocks[last].kind is BlockKind.TOOL_RESULT:
            return last
        return self.volatile_from - 1

    def layers(self) -> Iterator[tuple[Layer, Sequence[Block]]]:
        """Yield each non-empty layer with its blocks, in prompt order."""
        start = 0
        for layer in Layer:
            end = self.ends[layer] + 1
            if end > start:
                yield layer, self.blocks[start:end]
                start = end

    def last_position(self, layer: Layer) -> int | None:
        """Position of the last block of `layer`, or None when the layer is empty."""
        end = self.ends[layer]
        return None if end < 0 else end
