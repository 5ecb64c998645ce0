"""A Gemini request as implicit caching sees it: a row of pieces, each with its tokens.

Rule *(sandbox choice)*: the canonical order is system instruction, function declarations, contents; a piece
is one part. Each piece has a chain digest of everything up to and including it. Framing tokens stand before
a content's first part and count with it. Sealed thoughts of ours sent back add their tokens on models that
reuse them (from 3.5 Flash on; G-SIG, 2026-11).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

from router.sandbox.gemini_contents import Content, Part
from router.sandbox.gemini_models import GeminiModel
from router.sandbox.gemini_request import GenerateRequest
from router.sandbox.tokens import Family, count

CONTENT_TOKENS = 2
TOOL_TOKENS = 6
_FAMILY = Family.GEMINI


@dataclass(frozen=True, slots=True)
class Piece:
    """One part in place.

    Args:
        head: digest of all before it and of its kind and role: texts are comparable under the same head only.
        digest: chain digest including it.
        text: None when it can only match as a whole.
        lead_tokens: framing before it; `tokens` its own, framing excluded.
    """

    head: bytes
    digest: bytes
    text: str | None
    lead_tokens: int
    tokens: int
    modality: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The flattened request."""

    pieces: tuple[Piece, ...]
    total_tokens: int

    def by_modality(self) -> dict[str, int]:
        """Tokens per modality; framing counts as text."""
        out: Counter[str] = Counter()
        for piece in self.pieces:
            out["TEXT"] += piece.lead_tokens
            out[piece.modality] += piece.tokens
        return {k: v for k, v in out.items() if v}


def flatten(request: GenerateRequest, model: GeminiModel, scope: str) -> Prompt:
    """Lay a request out; `scope` names project and answering model."""
    rows: list[tuple[str, Part, int]] = []
    if request.system is not None:
        rows += _rows("system", request.system)
    for declaration in request.declarations:
        part = Part(kind="tool", canon=declaration.encode(), text=declaration)
        rows.append(("tools", part, TOOL_TOKENS))
    for turn in request.contents:
        rows += _rows(turn.role, turn)
    return _chain(rows, model, scope)


def flatten_contents(contents: tuple[Content, ...], model: GeminiModel) -> Prompt:
    """Lay bare contents out, for counting."""
    return _chain([row for turn in contents for row in _rows(turn.role, turn)], model, "")


def _rows(role: str, turn: Content) -> list[tuple[str, Part, int]]:
    rows: list[tuple[str, Part, int]] = []
    for part in turn.parts:
        rows.append((role, part, 0 if rows else CONTENT_TOKENS))
        rows += [(role, media, 0) for media in part.attached]
    return rows


def _chain(rows: list[tuple[str, Part, int]], model: GeminiModel, scope: str) -> Prompt:
    digest = scope.encode()
    pieces: list[Piece] = []
    total = 0
    for role, part, lead in rows:
        head = hashlib.blake2b(
            b"%b\0%b\0%b" % (digest, role.encode(), part.kind.encode()), digest_size=16
        ).digest()
        digest = hashlib.blake2b(head + part.canon, digest_size=16).digest()
        tokens = count(_FAMILY, part.text) + part.extra_tokens
        if part.thought_of is not None and model.reuses_thoughts:
            tokens += part.thought_of.tokens
        comparable = part.text if part.kind in ("text", "tool") and part.signature is None else None
        pieces.append(Piece(head, digest, comparable, lead, tokens, part.modality))
        total += lead + tokens
    return Prompt(pieces=tuple(pieces), total_tokens=total)
