"""The smallest cacheable piece of an Anthropic prompt, its cache marker, and the text block (A-CACHE,
A-VER; 2026-11).

Rule: a `Block` holds the canonical bytes that the cache key covers (everything but `cache_control`), the
text its tokens come from, and its marker. Empty text is refused, marked or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from router.sandbox.anthropic_errors import Path, a_list, a_string, invalid, one_of, only
from router.sandbox.wire import Json, encode

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}\Z")


@dataclass(slots=True)
class Block:
    """One cacheable piece of a prompt.

    Args:
        kind: wire type, or "tool" for a definition.
        role: "user", "assistant" or "system" for message entries; "" for tools and the top-level system.
        message: index of its message, -1 outside messages.
        index: index within its list.
        canon: bytes the prefix key covers.
        text: what is counted; `extra_tokens` is added to it.
        marker: TTL of its cache marker ("5m", "1h") or None.
        image: whether it is or holds an image; `citations` whether it switches citations on.
    """

    kind: str
    role: str
    message: int
    index: int
    canon: bytes
    text: str
    raw: Json
    extra_tokens: int = 0
    marker: str | None = None
    image: bool = False
    citations: bool = False

    @property
    def path(self) -> Path:
        """Where it stands in the request body."""
        if self.message >= 0:
            return ("messages", self.message, "content", self.index)
        return ("tools" if self.kind == "tool" else "system", self.index)


def marker_of(value: Any, path: Path) -> str | None:
    """Read a `cache_control` value: None, or its TTL with "5m" as the default."""
    if value is None:
        return None
    only(value, path, frozenset({"type", "ttl"}), ("type",))
    one_of(value["type"], (*path, "type"), ("ephemeral",))
    ttl = value.get("ttl")
    return "5m" if ttl is None else one_of(ttl, (*path, "ttl"), ("5m", "1h"))


def system_blocks(value: Any) -> list[Block]:
    """Read the top-level `system`: a string or text blocks."""
    if isinstance(value, str):
        value = [{"type": "text", "text": value}]
    return [
        text_block(item, ("system", i), role="", message=-1, index=i, allow_citations=True)
        for i, item in enumerate(a_list(value, ("system",)))
    ]


_TEXT = frozenset({"type", "text", "cache_control", "citations"})


def text_block(item: Any, path: Path, *, role: str, message: int, index: int, allow_citations: bool) -> Block:
    """Read a text block; `allow_citations` False refuses non-empty citations."""
    only(item, path, _TEXT, ("type", "text"))
    one_of(item["type"], (*path, "type"), ("text",))
    text = a_string(item["text"], (*path, "text"))
    marker = marker_of(item["cache_control"], (*path, "cache_control")) if "cache_control" in item else None
    if not text.strip():
        if marker:
            raise invalid(path, "cache_control cannot be set for empty text blocks")
        adjective = "non-empty" if not text else "contain non-whitespace text"
        verb = "must be" if not text else "must"
        raise invalid((path[0],), f"text content blocks {verb} {adjective}")
    canon = text.encode()
    citations = item.get("citations")
    if citations:
        a_list(citations, (*path, "citations"))
        if not allow_citations:
            raise invalid((*path, "citations"), "citations are not permitted on text blocks in user messages")
        canon += b"\0" + encode(citations)
    return Block("text", role, message, index, canon, text, item, 0, marker)
