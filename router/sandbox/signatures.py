"""Opaque tokens the sandbox hands out with a model's thoughts and checks when they come back.

Rule: a signature says, in a form only the sandbox writes, which model thought, how many tokens, about what,
and after which prompt; a changed byte makes it unreadable. It holds no text. It does not protect against
someone who reads this file: the key is fixed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

import msgspec

_KEY = b"hybrid-router sandbox signatures"
_MAC_BYTES = 12


@dataclass(frozen=True, slots=True)
class Thought:
    """What a signature carries.

    Args:
        model: who thought.
        tokens: thinking tokens; what the block weighs when it is sent back.
        subject: digest of what the signature belongs to (the shown thinking text, or the function call).
        context: digest of the prompt before it.
    """

    model: str
    tokens: int
    subject: str
    context: str


def seal(thought: Thought) -> str:
    """Return the signature, in standard base64."""
    payload = msgspec.json.encode([thought.model, thought.tokens, thought.subject, thought.context])
    return base64.b64encode(_mac(payload) + payload).decode()


def unseal(signature: str) -> Thought | None:
    """Return what a signature carries, or None when the sandbox did not write it. Reads both base64
    alphabets."""
    try:
        data = base64.b64decode(signature.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None
    mac, payload = data[:_MAC_BYTES], data[_MAC_BYTES:]
    if mac != _mac(payload):
        return None
    return Thought(*msgspec.json.decode(payload))


def subject(*parts: str) -> str:
    """Digest what a signature belongs to."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _mac(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, key=_KEY, digest_size=_MAC_BYTES).digest()
