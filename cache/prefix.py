"""Name every prefix of a prompt by a digest, so that equal names mean one cache entry.

The rule: the digest at block i is equal for two prompts exactly when both render the same blocks 0..i (role,
kind and content, in order) under the same parameters that reach that far. Parameters enter where the provider
lets them enter (page "prompt caching", table of what invalidates what, read 2026-11): `everywhere` before the
first block, `system` before the first block past the tools, `messages` and whether the prompt holds an image
before the first message block. Layers past system do NOT enter: today's turn is tomorrow's history and has to
match it.

Each digest is made from the one before and the block's own bytes, so a chain is linear in the prompt and an
appended block costs one step. It does not know the cache scope (model, workspace): index and demand keep one
table per scope, so that one pass over the bytes serves every route of the same rendering.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from cache.prompt import Block, BlockKind, Layer, Prompt, PromptParameters

_CONTEXT = int(Layer.CONTEXT)
DIGEST_SIZE = 16
"""Bytes of a digest; at 2^40 prefixes the chance of any collision is below 2^-47."""

# A finished hash object is copied per block: 0.4 us against 0.55 us for a new one with its keyword arguments.
_START = blake2b(digest_size=DIGEST_SIZE)


def prefix_digests(prompt: Prompt) -> tuple[bytes, ...]:
    """Digest of the prefix ending at each block.

    Returns:
        One digest of `DIGEST_SIZE` bytes per block, in prompt order.
    """
    return tuple(_chain(prompt, 0, _everywhere(prompt.parameters)))


def extend_digests(prompt: Prompt, previous: Prompt, previous_digests: Sequence[bytes]) -> tuple[bytes, ...]:
    """Digests of `prompt`, taking over those of the blocks it shares with `previous`.

    Comparing bytes is several times cheaper than hashing them, and free where both hold the same object, so a
    session that appends pays for what it appended. The result equals `prefix_digests(prompt)` whatever
    `previous` was.

    Args:
        previous_digests: `prefix_digests(previous)`.
    """
    shared = _shared_blocks(prompt, previous)
    if shared == 0:
        return prefix_digests(prompt)
    return (*previous_digests[:shared], *_chain(prompt, shared, previous_digests[shared - 1]))


def continued_digests(
    prompt: Prompt, previous: Prompt, previous_digests: Sequence[bytes]
) -> tuple[bytes, ...]:
    """`extend_digests` for a prompt that is known to begin with all blocks of `previous`: nothing is compared.

    Args:
        prompt: As `previous.continued` made it.
        previous_digests: `prefix_digests(previous)`.
    """
    start = len(previous_digests)
    if start == 0 or prompt.parameters != previous.parameters or prompt.has_image != previous.has_image:
        return prefix_digests(prompt)
    return (*previous_digests, *_chain(prompt, start, previous_digests[-1]))


def shared_prefix(left: Sequence[bytes], right: Sequence[bytes]) -> int:
    """Number of leading blocks two prompts share, by their digests, parameters included."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # equal at i implies equal before i, so halving finds the first difference
        middle = (low + high) // 2
        if left[middle] == right[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def _chain(prompt: Prompt, start: int, digest: bytes) -> list[bytes]:
    """Digests of the blocks from `start` on, given the digest before it."""
    blocks, parameters = prompt.blocks, prompt.parameters
    system_from, messages_from = _level_starts(prompt)
    digests: list[bytes] = []
    digest = _step_through(blocks[start:system_from], digest, digests)
    if start <= system_from:
        digest = _mixed(digest, b"system", parameters.system.encode())
    digest = _step_through(blocks[max(start, system_from) : messages_from], digest, digests)
    if start <= messages_from:
        image = b"\x01" if prompt.has_image else b"\x00"
        digest = _mixed(digest, b"messages", image + parameters.messages.encode())
    _step_through(blocks[max(start, messages_from) :], digest, digests)
    return digests


def _step_through(blocks: Sequence[Block], digest: bytes, digests: list[bytes]) -> bytes:
    """Append the digest after each block to `digests`; return the last one."""
    append, fresh, frame = digests.append, _START.copy, _frame
    for block in blocks:
        step = fresh()
        # Previous digest and frame tell their own length, so what follows can only be the content: no two
        # different block sequences feed the same bytes.
        step.update(digest + frame(block.role, block.kind) + block.content)
        digest = step.digest()
        append(digest)
    return digest


def _level_starts(prompt: Prompt) -> tuple[int, int]:
    """First position past the tools, and first position past the system blocks."""
    tools_end, system_end = prompt.ends[:_CONTEXT]
    return tools_end + 1, (system_end if system_end > tools_end else tools_end) + 1


def _everywhere(parameters: PromptParameters) -> bytes:
    return _mixed(bytes(DIGEST_SIZE), b"everywhere", parameters.everywhere.encode())


def _mixed(digest: bytes, level: bytes, value: bytes) -> bytes:
    # 0xff never opens a frame (see _frame), so a level can not be mistaken for a block.
    return blake2b(digest + b"\xff" + level + b"\x00" + value, digest_size=DIGEST_SIZE).digest()


@lru_cache(maxsize=256)
def _frame(role: str, kind: BlockKind) -> bytes:
    """Self-delimiting spelling of role and kind; cached, since a service uses a handful."""
    spelled = role.encode()
    if len(spelled) > 0xFE:
        raise ValueError(f"a role has at most 254 bytes, not {len(spelled)}")
    named = kind.value.encode()
    return bytes((len(spelled),)) + spelled + bytes((len(named),)) + named


def _shared_blocks(prompt: Prompt, previous: Prompt) -> int:
    """Leading blocks whose digests `previous` has: same level boundaries, parameters and blocks."""
    mine, theirs = prompt.parameters, previous.parameters
    if mine.everywhere != theirs.everywhere:
        return 0
    limit = min(len(prompt.blocks), len(previous.blocks))
    (system_from, messages_from), (their_system_from, their_messages_from) = (
        _level_starts(prompt),
        _level_starts(previous),
    )
    if mine.system != theirs.system or system_from != their_system_from:
        limit = min(limit, system_from, their_system_from)
    if (
        mine.messages != theirs.messages
        or prompt.has_image != previous.has_image
        or messages_from != their_messages_from
    ):
        limit = min(limit, messages_from, their_messages_from)
    if prompt.blocks[:limit] == previous.blocks[:limit]:  # at once where they are the same objects
        return limit
    for position in range(limit):
        new, old = prompt.blocks[position], previous.blocks[position]
        if new is not old and not (
            new.content == old.content and new.role == old.role and new.kind is old.kind
        ):
            return position
    return limit
