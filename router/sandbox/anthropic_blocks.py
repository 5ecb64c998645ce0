"""The content blocks of messages, read strictly into the pieces a prefix is made of (A-SDK 2.12.0, A-TOOLS,
A-VER; 2026-11).

Rule: every field is known and typed and every block stands where its role allows, or the request is refused
with its path. It does not know server-tool blocks nor containers: these are refused like unknown types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from router.sandbox.anthropic_errors import Path, a_boolean, a_list, a_string, invalid, only
from router.sandbox.anthropic_pieces import TOOL_NAME, Block, marker_of, text_block
from router.sandbox.anthropic_sources import citations_on, document_parts, image_source, search_text
from router.sandbox.wire import Json, encode

TOOL_USE_TOKENS = 6
TOOL_RESULT_TOKENS = 6
"""Framing of each *(sandbox choice)*."""

_TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+\Z")


@dataclass(slots=True)
class BlockReader:
    """Reads the content blocks of one message for one API version."""

    role: str
    message: int
    old_version: bool

    def content(self, value: Any) -> list[Block]:
        """Read a message's `content`: a string is one text block.

        Raises:
            ApiError: naming the first offence.
        """
        path: Path = ("messages", self.message, "content")
        if isinstance(value, str):
            value = [{"type": "text", "text": value}] if value else []
        return [self._block(item, (*path, i), i) for i, item in enumerate(a_list(value, path))]

    def _block(self, item: Any, path: Path, index: int) -> Block:
        kind = item.get("type") if isinstance(item, dict) else None
        match kind, self.role:
            case "text", _:
                free = self.old_version or self.role == "assistant"
                return text_block(
                    item, path, role=self.role, message=self.message, index=index, allow_citations=free
                )
            case (("image" | "tool_result" | "search_result"), "user"):
                pass
            case "document", "user" | "assistant":
                if self.role == "assistant" and not self.old_version:
                    raise invalid(path, "`document` blocks are not permitted in assistant messages")
            case (("tool_use" | "thinking" | "redacted_thinking"), "assistant"):
                pass
            case _:
                self._refuse_kind(item, kind, path)
        read = getattr(self, f"_{kind}")
        block: Block = read(item, path, index)
        return block

    def _refuse_kind(self, item: Any, kind: Any, path: Path) -> None:
        if not isinstance(item, dict):
            raise invalid(path, "Input should be a valid dictionary or object to extract fields from")
        if kind is None:
            raise invalid((*path, "type"), "Field required")
        known = {
            "image",
            "tool_result",
            "search_result",
            "tool_use",
            "thinking",
            "redacted_thinking",
            "document",
        }
        if kind in known:
            raise invalid(path, f"`{kind}` blocks are not permitted in {self.role} messages")
        raise invalid(
            path,
            f"Input tag '{kind}' found using 'type' does not match any of the expected tags: "
            "'document', 'image', 'redacted_thinking', 'search_result', 'text', 'thinking', "
            "'tool_result', 'tool_use'",
        )

    def _make(
        self, kind: str, index: int, canon: bytes, text: str, item: Json, extra: int = 0, **kw: Any
    ) -> Block:
        path: Path = ("messages", self.message, "content", index, "cache_control")
        marker = marker_of(item.get("cache_control"), path)
        return Block(kind, self.role, self.message, index, canon, text, item, extra, marker, **kw)

    def _image(self, item: Json, path: Path, index: int) -> Block:
        canon, tokens = image_source(item, path)
        return self._make("image", index, canon, "", item, tokens, image=True)

    def _document(self, item: Json, path: Path, index: int) -> Block:
        canon, text, tokens, image = document_parts(item, path)
        on = citations_on(item, path)
        return self._make("document", index, canon, text, item, tokens, image=image, citations=on)

    def _search_result(self, item: Json, path: Path, index: int) -> Block:
        text = search_text(item, path, old_version=self.old_version)
        canon = encode({k: item[k] for k in sorted(item) if k != "cache_control"})
        return self._make("search_result", index, canon, text, item, citations=citations_on(item, path))

    def _thinking(self, item: Json, path: Path, index: int) -> Block:
        self._no_marker(item, path)
        only(item, path, frozenset({"type", "thinking", "signature"}), ("thinking", "signature"))
        thinking = a_string(item["thinking"], (*path, "thinking"))
        signature = a_string(item["signature"], (*path, "signature"))
        canon = f"{thinking}\0{signature}".encode()
        return Block("thinking", self.role, self.message, index, canon, "", item)

    def _redacted_thinking(self, item: Json, path: Path, index: int) -> Block:
        self._no_marker(item, path)
        only(item, path, frozenset({"type", "data"}), ("data",))
        data = a_string(item["data"], (*path, "data"))
        return Block(
            "redacted_thinking", self.role, self.message, index, data.encode(), "", item, len(data) // 4
        )

    def _no_marker(self, item: Json, path: Path) -> None:
        if "cache_control" in item:
            raise invalid((*path, "cache_control"), "Extra inputs are not permitted")

    def _tool_use(self, item: Json, path: Path, index: int) -> Block:
        allowed = frozenset({"type", "id", "name", "input", "cache_control", "caller"})
        only(item, path, allowed, ("id", "name", "input"))
        _tool_id(item["id"], (*path, "id"))
        name = a_string(item["name"], (*path, "name"))
        if not TOOL_NAME.match(name):
            raise invalid((*path, "name"), "String should match pattern '^[a-zA-Z0-9_-]{1,128}$'")
        if not isinstance(item["input"], dict):
            raise invalid((*path, "input"), "Input should be a valid dictionary")
        args = encode(item["input"])
        canon = item["id"].encode() + b"\0" + name.encode() + b"\0" + args
        return self._make("tool_use", index, canon, f"{name} {args.decode()}", item, TOOL_USE_TOKENS)

    def _tool_result(self, item: Json, path: Path, index: int) -> Block:
        allowed = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
        only(item, path, allowed, ("tool_use_id",))
        _tool_id(item["tool_use_id"], (*path, "tool_use_id"))
        a_boolean(item.get("is_error", False), (*path, "is_error"))
        content = item.get("content", "")
        text, tokens, image, citations = content, 0, False, False
        if isinstance(content, list):
            text, tokens, image, citations = self._result_content(content, (*path, "content"))
            if item.get("is_error") and any(each["type"] != "text" for each in content):
                # text: https://github.com/vellum-ai/vellum-assistant/pull/18387
                raise invalid(path, "all content must be type 'text' if 'is_error' is true")
        elif not isinstance(content, str):
            raise invalid((*path, "content"), "Input should be a valid string or list")
        head = f"{item['tool_use_id']}\0{bool(item.get('is_error'))}\0".encode()
        # one text block and the same string are the same content
        canon = head + (content.encode() if isinstance(content, str) else _result_canon(content))
        return self._make(
            "tool_result",
            index,
            canon,
            text,
            item,
            TOOL_RESULT_TOKENS + tokens,
            image=image,
            citations=citations,
        )

    def _result_content(self, items: list[Any], path: Path) -> tuple[str, int, bool, bool]:
        texts: list[str] = []
        tokens, image, citations = 0, False, False
        for i, item in enumerate(items):
            at = (*path, i)
            if isinstance(item, dict) and item.get("cache_control") is not None:
                raise invalid(
                    (*at, "cache_control"), "cache_control is not allowed on sub-content; mark the parent"
                )
            match item.get("type") if isinstance(item, dict) else None:
                case "text":
                    inner = text_block(
                        item, at, role="user", message=self.message, index=i, allow_citations=self.old_version
                    )
                    texts.append(inner.text)
                case "image":
                    tokens += image_source(item, at)[1]
                    image = True
                case "document":
                    _, text, extra, has_image = document_parts(item, at)
                    texts.append(text)
                    tokens, image = tokens + extra, image or has_image
                    citations = citations or citations_on(item, at)
                case "search_result":
                    texts.append(search_text(item, at, old_version=self.old_version))
                    citations = citations or citations_on(item, at)
                case other:
                    raise invalid(at, f"Input tag '{other}' is not allowed in the content of a tool_result")
        return "\n".join(texts), tokens, image, citations


def _result_canon(content: list[Any]) -> bytes:
    if len(content) == 1 and content[0].get("type") == "text":
        text: str = content[0]["text"]
        return text.encode()
    return encode([{k: v for k, v in item.items() if k != "cache_control"} for item in content])


def _tool_id(value: Any, path: Path) -> None:
    if not _TOOL_ID.match(a_string(value, path)):
        raise invalid(path, "String should match pattern '^[a-zA-Z0-9_-]+$'")
