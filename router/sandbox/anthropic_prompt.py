"""A request as the prefix cache sees it: positions, token counts, and a key for every prefix.

Rule (A-CACHE, A-TOOLCACHE; 2026-11): blocks stand in the order tools, system, messages. The key of position
i covers the canonical blocks 0..i and the parameters of every level up to its own:

- root: workspace, model, speed, output format;
- system: server tools switched on, citations, and (models from 5 on) thinking and effort;
- messages: tool choice, parallel tool use, presence of images, and (models up to 4.8) thinking and effort.

Cache markers are not part of a key. Runs of adjacent `tool_use` blocks and of adjacent `tool_result` blocks
are one slot for the lookback count. It does not know what is cached: see `anthropic_cache`.

Tokens: each block by the model's tokenizer plus fixed framing; turns, the system prompt and tools carry
overheads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from router.sandbox.anthropic_models import ClaudeModel, Level
from router.sandbox.anthropic_pieces import Block
from router.sandbox.anthropic_request import MessagesRequest, Turn
from router.sandbox.anthropic_rules import resolve_markers, running_turn
from router.sandbox.signatures import unseal
from router.sandbox.tokens import count
from router.sandbox.wire import encode

TURN_TOKENS = 4
SYSTEM_TOKENS = 2
_RUNS = frozenset({"tool_use", "tool_result"})


@dataclass(frozen=True, slots=True)
class Position:
    """One block's place: digest and tokens of everything up to and including it, its slot and level."""

    digest: bytes
    tokens: int
    slot: int
    level: Level
    kind: str
    marker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The flattened request.

    `scopes` are the parameter digests per level; `messages_at` is the index of the first message position.
    """

    model: ClaudeModel
    positions: tuple[Position, ...]
    scopes: dict[Level, bytes]
    total_tokens: int

    def key(self, index: int) -> bytes:
        """Return the cache key of the prefix that ends with position `index`."""
        position = self.positions[index]
        return self.scopes[position.level] + position.digest

    @property
    def context(self) -> str:
        """Name the content of the whole prompt, whatever its parameters and markers."""
        return self.positions[-1].digest.hex()

    @property
    def digest(self) -> bytes:
        """Name model, parameters and the whole prompt."""
        return self.key(len(self.positions) - 1)


def flatten(request: MessagesRequest, workspace: str, thinking_level: str | None) -> Prompt:
    """Lay a checked request out as positions.

    Args:
        thinking_level: overrides where thinking and effort enter ("tools", "system", "messages").
    """
    model = request.model
    markers = {id(block): ttl for block, ttl in resolve_markers(request)}
    positions: list[Position] = []
    digest, tokens, slot, previous = b"", 0, -1, ""
    for block, level, lead in _blocks(request):
        digest = hashlib.blake2b(
            b"%b%b\0%b\0%d\0" % (digest, block.kind.encode(), block.role.encode(), len(block.canon))
            + block.canon,
            digest_size=16,
        ).digest()
        tokens += lead + block_tokens(block, model)
        run = f"{level.value}{block.kind}"
        if not (block.kind in _RUNS and run == previous):
            slot += 1
        previous = run
        positions.append(Position(digest, tokens, slot, level, block.kind, markers.get(id(block))))
    return Prompt(
        model=model,
        positions=tuple(positions),
        scopes=_scopes(request, workspace, Level(thinking_level) if thinking_level else model.thinking_level),
        total_tokens=tokens,
    )


def block_tokens(block: Block, model: ClaudeModel) -> int:
    """Count one block, framing included; a thinking block weighs what it weighed when it was made."""
    if block.kind == "thinking":
        thought = unseal(block.raw["signature"])
        return thought.tokens if thought is not None else 0
    return block.extra_tokens + count(model.family, block.text)


def misplaced_thinking(request: MessagesRequest, prompt: Prompt) -> Block | None:
    """Return a thinking block whose preceding prompt is not the one it was made after, or None.

    `prompt` must be the flattened `request`. Parameters and markers do not count, only content.
    """
    digest, before, message = b"", b"", -1
    for (block, _, _), position in zip(_blocks(request), prompt.positions, strict=True):
        if block.message != message:
            before, message = digest, block.message
        if block.kind == "thinking":
            thought = unseal(block.raw["signature"])
            if thought is not None and thought.context != before.hex():
                return block
        digest = position.digest
    return None


def _blocks(request: MessagesRequest) -> list[tuple[Block, Level, int]]:
    """Blocks in prefix order with their level and the overhead tokens that stand before each."""
    model = request.model
    automatic, forced = model.overhead_tokens
    out: list[tuple[Block, Level, int]] = []
    lead = automatic if request.tools else 0
    for tool in request.tools:
        if not (tool.deferred or tool.server):
            out.append((tool.block, Level.TOOLS, lead))
            lead = 0
    lead += SYSTEM_TOKENS if request.system else 0
    for block in request.system:
        out.append((block, Level.SYSTEM, lead))
        lead = 0
    if request.tool_choice in ("any", "tool"):
        lead += forced - automatic
    kept_from = running_turn(request.turns)
    for i, turn in enumerate(request.turns):
        lead += TURN_TOKENS
        for block in _kept(turn, model, current=i >= kept_from):
            out.append((block, Level.MESSAGES, lead))
            lead = 0
    return out


def _kept(turn: Turn, model: ClaudeModel, *, current: bool) -> list[Block]:
    """Leave out thinking that this model cannot read or does not keep (A-THINK)."""
    return [
        b
        for b in turn.blocks
        if b.kind != "thinking" or (_readable(b, model) and (current or model.keeps_thinking))
    ]


def _readable(block: Block, model: ClaudeModel) -> bool:
    thought = unseal(block.raw["signature"])
    return thought is not None and thought.model == model.id


def _scopes(request: MessagesRequest, workspace: str, thinking_level: Level) -> dict[Level, bytes]:
    blocks = [b for t in request.turns for b in t.blocks]
    thinking = [request.thinking, request.budget_tokens, request.effort]
    per_level: dict[Level, list[object]] = {
        Level.TOOLS: [workspace, request.model.id, request.speed, request.format_schema],
        Level.SYSTEM: [
            [t.block.raw for t in request.tools if t.server],
            any(b.citations for b in blocks),
        ],
        Level.MESSAGES: [
            [request.tool_choice, request.tool_name, request.parallel],
            any(b.image for b in blocks),
        ],
    }
    per_level[thinking_level].append(thinking)
    scopes: dict[Level, bytes] = {}
    so_far = b""
    for level, values in per_level.items():
        so_far = hashlib.blake2b(so_far + encode(values), digest_size=16).digest()
        scopes[level] = so_far
    return scopes
