"""A prompt as the provider's cache sees it: ordered blocks in ordered layers.

The rule: layers run from the most stable to the least (tools, system, context, history, turn), because a
cached prefix ends at the first byte that differs. This module knows no wire format: an adapter hands in the
bytes it will send for each block, and those bytes are the block's identity here. That makes "same prefix" and
"same bytes on the wire" the same statement.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


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


class BlockKind(StrEnum):
    """What a block is, as far as the cache rules distinguish."""

    TOOL = "tool"
    TEXT = "text"
    IMAGE = "image"
    DOCUMENT = "document"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    THINKING = "thinking"


@dataclass(frozen=True, slots=True)
class Block:
    """The smallest piece that can end a cached prefix.

    Attributes:
        layer: Layer it belongs to.
        kind: What it is; runs of tool calls or of tool results count as one lookback position.
        content: The bytes sent for it, without any breakpoint; equal content is an equal block.
        role: Wire role of the message it stands in; "" in tools and system. Part of the block's identity.
        markable: Whether the provider accepts a breakpoint on it (never on thinking or empty text).
        token_count: Exact tokens if someone counted them, else None and an estimate is used.
    """

    layer: Layer
    kind: BlockKind
    content: bytes
    role: str = ""
    markable: bool = True
    token_count: int | None = None


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


@dataclass(frozen=True, slots=True)
class CacheScope:
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
        has_image: Whether any block is an image; adding or removing one ends reuse of the messages level.
        ends: Position of the last block of each layer, indexed by `Layer`; -1 where the layer is empty.

    Raises:
        ValueError: If a block of a more stable layer follows one of a less stable layer.
    """

    blocks: tuple[Block, ...]
    parameters: PromptParameters = field(default_factory=PromptParameters)
    has_image: bool = field(init=False, compare=False, repr=False)
    ends: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # One pass finds everything the planner asks of the order, so that no later step walks the blocks for
        # it.
        ends = [-1] * len(Layer)
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
            if block.kind is image:
                has_image = True
        object.__setattr__(self, "has_image", has_image)
        object.__setattr__(self, "ends", tuple(ends))

    @property
    def stable_end(self) -> int:
        """Position of the last block before history and turn; -1 when there is none."""
        tools, system, context, _, _ = self.ends
        return context if context >= 0 else system if system >= 0 else tools

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
