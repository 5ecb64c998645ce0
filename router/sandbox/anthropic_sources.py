"""Images, documents and search results, read strictly, with their token counts (A-SDK 2.12.0, A-STRUCT;
2026-11).

Rule *(sandbox choice)*: media weigh a base plus bytes by a fixed rate; a URL cannot be fetched and weighs a
constant. It does not know files (`source.type: file`): they are refused, saying so.
"""

from __future__ import annotations

import binascii
from typing import Any

from router.sandbox.anthropic_errors import Path, a_boolean, a_list, a_string, invalid, one_of, only
from router.sandbox.anthropic_pieces import text_block
from router.sandbox.wire import Json, encode

URL_SOURCE_TOKENS = 1_500
IMAGE_TOKENS = (85, 750, 4_784)  # base, bytes per token, cap
PDF_TOKENS = (1_500, 40)  # base, bytes per token
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def image_source(item: Json, path: Path) -> tuple[bytes, int]:
    """Read an image block and return its canonical bytes and tokens."""
    only(item, path, frozenset({"type", "source", "cache_control", "transformations"}), ("source",))
    source, at = item["source"], (*path, "source")
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "url":
        only(source, at, frozenset({"type", "url"}), ("url",))
        return encode(source), URL_SOURCE_TOKENS
    if kind != "base64":
        raise invalid(at, f"Input tag '{kind}' is not one of 'base64', 'url' (the sandbox stores no files)")
    only(source, at, frozenset({"type", "media_type", "data"}), ("media_type", "data"))
    one_of(source["media_type"], (*at, "media_type"), _IMAGE_TYPES)
    size = _decoded_size(source["data"], (*at, "data"))
    base, per_token, cap = IMAGE_TOKENS
    return (source["media_type"] + source["data"]).encode(), min(cap, base + size // per_token)


_DOCUMENT = frozenset({"type", "source", "cache_control", "citations", "context", "title"})


def document_parts(item: Json, path: Path) -> tuple[bytes, str, int, bool]:
    """Return canonical bytes, counted text, extra tokens and whether it holds an image."""
    only(item, path, _DOCUMENT, ("source",))
    head = [a_string(item[k], (*path, k)) for k in ("title", "context") if item.get(k) is not None]
    canon = encode({k: item[k] for k in sorted(item) if k not in ("cache_control", "type")})
    source, at = item["source"], (*path, "source")
    kind = source.get("type") if isinstance(source, dict) else None
    if kind == "text":
        only(source, at, frozenset({"type", "media_type", "data"}), ("media_type", "data"))
        one_of(source["media_type"], (*at, "media_type"), ("text/plain",))
        return canon, "\n".join([*head, a_string(source["data"], (*at, "data"))]), 0, False
    if kind == "base64":
        only(source, at, frozenset({"type", "media_type", "data"}), ("media_type", "data"))
        one_of(source["media_type"], (*at, "media_type"), ("application/pdf",))
        size = _decoded_size(source["data"], (*at, "data"))
        return canon, "\n".join(head), PDF_TOKENS[0] + size // PDF_TOKENS[1], False
    if kind == "url":
        only(source, at, frozenset({"type", "url"}), ("url",))
        return canon, "\n".join(head), URL_SOURCE_TOKENS, False
    if kind == "content":
        text, tokens, image = _content_source(source, at)
        return canon, "\n".join([*head, text]), tokens, image
    raise invalid(
        at,
        f"Input tag '{kind}' is not one of 'base64', 'content', 'text', 'url' (the sandbox stores no files)",
    )


def _content_source(source: Json, path: Path) -> tuple[str, int, bool]:
    only(source, path, frozenset({"type", "content"}), ("content",))
    if isinstance(source["content"], str):
        return source["content"], 0, False
    texts: list[str] = []
    tokens, image = 0, False
    for i, item in enumerate(a_list(source["content"], (*path, "content"))):
        at = (*path, "content", i)
        if isinstance(item, dict) and item.get("type") == "image":
            tokens, image = tokens + image_source(item, at)[1], True
        else:
            texts.append(text_block(item, at, role="user", message=0, index=i, allow_citations=False).text)
    return "\n".join(texts), tokens, image


def search_text(item: Json, path: Path, *, old_version: bool) -> str:
    """Read a search result and return its text; old versions allow citations inside."""
    allowed = frozenset({"type", "content", "source", "title", "cache_control", "citations"})
    only(item, path, allowed, ("content", "source", "title"))
    texts = [a_string(item["source"], (*path, "source")), a_string(item["title"], (*path, "title"))]
    for i, inner in enumerate(a_list(item["content"], (*path, "content"))):
        at = (*path, "content", i)
        texts.append(text_block(inner, at, role="user", message=0, index=i, allow_citations=old_version).text)
    return "\n".join(texts)


def citations_on(item: Json, path: Path) -> bool:
    """Whether the block switches citations on."""
    citations = item.get("citations")
    if citations is None:
        return False
    only(citations, (*path, "citations"), frozenset({"enabled"}))
    return a_boolean(citations.get("enabled", False), (*path, "citations", "enabled"))


def _decoded_size(data: Any, path: Path) -> int:
    try:
        size = len(binascii.a2b_base64(a_string(data, path).encode(), strict_mode=True))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise invalid(path, "Input should be valid base64") from error
    if size == 0:
        raise invalid(path, "Input should not be empty")
    return size
