"""What the ledger keeps of a prompt: which prefix it shares with a prompt before, and what blocks it adds to that.

The rule: no text, no digest that could be made again without the ledger's key; a block is a name of 64 bits, equal for
equal prefixes under one key, with its estimated tokens and what kind of block it is. A name stands for the block and
everything before it, with the parameters that reach that far, the model and the workspace, so one name is one prefix of
the provider's cache. Two prefixes of a hundred million get one name with a chance below one in a thousand.

The bytes, numbers in base 128, least first:

    flags and version | [name of the parent, blocks shared with it] | blocks of the turn | blocks counted by the
    provider | marks | [where a volatile context stands] | per block that is new: kind, tokens, name

The name of the whole prompt are its last eight bytes, unless nothing is new. This module knows no table and no key.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cache.prompt import BlockKind, Layer
from cache.rules import TTL_1H_S, TTL_5M_S

NAME_BYTES = 8
VERSION = 1
HAS_PARENT, HAS_BLOCKS, HAS_VOLATILE, IS_PARTIAL = 0x10, 0x20, 0x40, 0x80
"""Flags of the first byte; the version is its low half."""

KINDS = tuple(BlockKind)
ROLES = ("", "user", "assistant", "system")
KIND_CODES = {kind.value: code << 5 for code, kind in enumerate(KINDS)}
ROLE_CODES = {role: code << 3 for code, role in enumerate(ROLES)}
MARKABLE_CODE = 4
_CONVERSATION = int(Layer.HISTORY)
"""A block of the conversation is history or turn depending on the prompt it stands in, so one code is both."""


class Undecodable(ValueError):
    """The bytes are not what this release can read."""


class Piece(NamedTuple):
    """A block as the ledger keeps it.

    Attributes:
        name: Of the prefix that ends with it, a signed number of 64 bits.
        layer: TOOLS, SYSTEM or CONTEXT; HISTORY for every block of the conversation.
        tokens: Estimated, in the tokens of Opus's model.
    """

    name: int
    layer: Layer
    kind: BlockKind
    role: str
    markable: bool
    tokens: int


class PromptBody(NamedTuple):
    """A prompt as the ledger keeps it.

    Attributes:
        parent: Name of an earlier prompt that it begins like; None when it shares nothing with any that is kept.
        shared: Blocks it shares with that.
        turn: Blocks of the turn, the last ones.
        counted: Leading blocks of which the provider counted the tokens.
        marks: (block, TTL in seconds) of each breakpoint that was sent, ascending; none for a call on Flash.
        volatile: First and last block of a context that stands after the history; None for none.
        pieces: Blocks from `shared` on.
        partial: Whether more blocks follow that are not kept: others may build on it, the prompt itself is unknown.
    """

    parent: int | None
    shared: int
    turn: int
    counted: int
    marks: tuple[tuple[int, int], ...]
    volatile: tuple[int, int] | None
    pieces: tuple[Piece, ...]
    partial: bool = False

    @property
    def blocks(self) -> int:
        """Blocks of the whole prompt."""
        return self.shared + len(self.pieces)


def append_number(body: bytearray, number: int) -> None:
    """Append a number >= 0."""
    while number > 0x7F:
        body.append(number & 0x7F | 0x80)
        number >>= 7
    body.append(number)


def prompt_name(body: bytes) -> int | None:
    """Name of the whole prompt; None where the prompt is, block for block, one that is kept already.

    Raises:
        Undecodable: It is empty.
    """
    if not body:
        raise Undecodable("nothing is kept of this prompt")
    if not body[0] & HAS_BLOCKS:
        return None
    return int.from_bytes(body[-NAME_BYTES:], "big", signed=True)


def decode(body: bytes) -> PromptBody:
    """Read what `router.prefix_notes` wrote.

    Raises:
        Undecodable: It is something else, or a newer release's.
    """
    try:
        found = _decoded(body)
    except (IndexError, ValueError) as error:
        raise Undecodable(f"not what is kept of a prompt: {error}") from error
    if not 0 <= found.turn <= found.blocks:
        raise Undecodable("not what is kept of a prompt: more turn than prompt")
    return found


def _decoded(body: bytes) -> PromptBody:
    flags = body[0]
    if flags & 0x0F != VERSION:
        raise ValueError(f"version {flags & 0x0F}")
    place, parent, shared = 1, None, 0
    if flags & HAS_PARENT:
        parent = _name(body, place)
        shared, place = _number(body, place + NAME_BYTES)
    turn, place = _number(body, place)
    counted, place = _number(body, place)
    mark_count, place = _number(body, place)
    marks = []
    for _ in range(mark_count):
        mark, place = _number(body, place)
        marks.append((mark >> 1, TTL_1H_S if mark & 1 else TTL_5M_S))
    volatile = None
    if flags & HAS_VOLATILE:
        first, place = _number(body, place)
        last, place = _number(body, place)
        volatile = first, last
    pieces = []
    while place < len(body):
        code = body[place]
        tokens, place = _number(body, place + 1)
        name = _name(body, place)
        place += NAME_BYTES
        pieces.append(
            Piece(
                name,
                Layer(code & 0x03),
                KINDS[code >> 5],
                ROLES[code >> 3 & 0x03],
                bool(code & MARKABLE_CODE),
                tokens,
            )
        )
    partial = bool(flags & IS_PARTIAL)
    return PromptBody(parent, shared, turn, counted, tuple(marks), volatile, tuple(pieces), partial)


def _number(body: bytes, place: int) -> tuple[int, int]:
    """The number that begins there, and where the next one does."""
    number = shift = 0
    while True:
        byte = body[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7


def _name(body: bytes, place: int) -> int:
    name = body[place : place + NAME_BYTES]
    if len(name) < NAME_BYTES:
        raise ValueError("cut off")
    return int.from_bytes(name, "big", signed=True)


def layers_of(body: PromptBody, pieces: Sequence[Piece]) -> list[Layer]:
    """Layer of each of a whole prompt's blocks."""
    turn_from = len(pieces) - body.turn
    return [Layer.TURN if place >= turn_from else piece.layer for place, piece in enumerate(pieces)]
