"""How many tokens each prefix of a prompt has, before the provider says so.

The rule: count what was counted, estimate the rest from bytes, and let usage correct the estimate. A block's
bytes times a ratio per kind gives a first guess; one factor per tokenizer family, a bounded moving average of
actual over estimated, pulls it to what the provider bills. Estimates never cross families: from Claude 4.7 on
the same text has roughly 30 % more tokens (https://platform.claude.com/docs/en/about-claude/pricing, read
2026-11).

It does not know languages: a byte of UTF-8 is treated alike wherever it comes from, so an application in one
script is learnt and a mixture keeps an error, which `uncertainty` reports. It cannot see an image's
dimensions or a PDF's pages; where that matters the caller puts the exact count on the block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from cache.prompt import BlockKind, Prompt
from cache.rules import Tokenizer, rules_for

# Looking a member up on its enum costs 60 ns on Python 3.11, a global 6 ns, and the estimate is one loop over
# blocks.
_TEXT, _THINKING, _IMAGE = BlockKind.TEXT, BlockKind.THINKING, BlockKind.IMAGE
_DOCUMENT, _TOOL = BlockKind.DOCUMENT, BlockKind.TOOL

# Tokens per byte in the tokenizer of Claude 4.6 and before. Prose has about 4 bytes to a token in English;
# JSON with its punctuation (tools, their calls and results) about 3.3.
_PROSE = 0.25
_JSON = 0.30
_FAMILY_FACTOR: Mapping[Tokenizer, float] = {
    Tokenizer.CLAUDE_4_6: 1.0,
    Tokenizer.CLAUDE_4_7: 1.3,
    Tokenizer.GEMINI: 1.0,
}

# An image is scaled down to at most about 1.15 megapixels at 750 pixels a token; Gemini bills 258 a tile.
# Without its dimensions the middle of the common range is used.
_IMAGE_TOKENS: Mapping[Tokenizer, int] = {
    Tokenizer.CLAUDE_4_6: 1500,
    Tokenizer.CLAUDE_4_7: 1500,
    Tokenizer.GEMINI: 1032,
}

_PDF_BASE64_BYTES_PER_PAGE = 53_000
"""40 kB a page, base64-encoded: a coarse middle between scanned and typeset pages."""
_PDF_TOKENS_PER_PAGE = 2_250
_MEDIA_TYPE_WINDOW = 256
"""Bytes at the head and tail of a document block in which its media type is looked for."""

_LEARNING_RATE = 0.15
_RATIO_BOUNDS = (0.4, 2.5)
_STEP_BOUNDS = (0.5, 2.0)
_MINIMUM_LEARNT_TOKENS = 200
"""Shorter prompts say more about the wrapping than about the tokenizer."""
_PRIOR_ERROR = 0.2
"""Relative error assumed of a family nobody has measured."""


@dataclass(slots=True)
class _Correction:
    ratio: float = 1.0
    error: float = _PRIOR_ERROR
    observation_count: int = 0


class TokenEstimator:
    """Estimates of one process, corrected by the usage it has seen. Not thread-safe."""

    def __init__(self, snapshot: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """Start from the priors, or from what `snapshot()` returned.

        Raises:
            ValueError: The snapshot names a family that does not exist.
        """
        self._corrections = {family: _Correction() for family in Tokenizer}
        for name, kept in (snapshot or {}).items():
            self._corrections[Tokenizer(name)] = _Correction(
                ratio=_clamped(kept["ratio"], _RATIO_BOUNDS),
                error=max(0.0, kept["error"]),
                observation_count=int(kept["observation_count"]),
            )

    def cumulative_tokens(self, prompt: Prompt, model: str) -> tuple[int, ...]:
        """Tokens of the prefix ending at each block; exact counts are used where blocks carry them.

        Returns:
            One count per block, never decreasing.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        rules = rules_for(model)
        family = rules.tokenizer
        factor = _FAMILY_FACTOR[family] * self._corrections[family].ratio
        prose, json = _PROSE * factor, _JSON * factor
        total = 0.0
        counts: list[int] = []
        append = counts.append
        tools_pending = True
        for block in prompt.blocks:
            kind = block.kind
            if block.token_count is not None:
                total += block.token_count
            elif kind is _TEXT or kind is _THINKING:
                total += len(block.content) * prose
            elif kind is _IMAGE:
                total += _IMAGE_TOKENS[family]
            elif kind is _DOCUMENT:
                total += _document_tokens(block.content) * factor
            else:
                total += len(block.content) * json
                if tools_pending and kind is _TOOL:
                    # The provider's own instructions for tools come once, ahead of the first of them. A
                    # counted tool was counted with them.
                    total += rules.tool_overhead_tokens
                    tools_pending = False
            append(int(total + 0.5))
        return tuple(counts)

    def uncertainty(self, model: str) -> float:
        """Relative error to expect of an estimate: 0.1 means that a tenth off is ordinary.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        return self._corrections[rules_for(model).tokenizer].error

    def observe(self, model: str, estimated_tokens: int, actual_tokens: int) -> None:
        """Learn from one call's usage.

        Args:
            estimated_tokens: What `cumulative_tokens` gave for the whole prompt.
            actual_tokens: Its whole input, cache reads and writes included.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        if estimated_tokens < _MINIMUM_LEARNT_TOKENS or actual_tokens <= 0:
            return
        kept = self._corrections[rules_for(model).tokenizer]
        off = log(actual_tokens / estimated_tokens)
        # In logarithms twice too many and half too few weigh the same; one odd call moves the ratio by at
        # most 2 ** 0.15, about 11 %.
        step = exp(_LEARNING_RATE * log(_clamped(exp(off), _STEP_BOUNDS)))
        kept.ratio = _clamped(kept.ratio * step, _RATIO_BOUNDS)
        kept.error += _LEARNING_RATE * (min(abs(off), 1.0) - kept.error)
        kept.observation_count += 1

    def snapshot(self) -> dict[str, dict[str, float]]:
        """What was learnt, as plain data for the constructor."""
        return {
            family.value: {
                "ratio": kept.ratio,
                "error": kept.error,
                "observation_count": kept.observation_count,
            }
            for family, kept in self._corrections.items()
        }


def _document_tokens(content: bytes) -> float:
    """Tokens of a document block before the family's factor."""
    ends = content[:_MEDIA_TYPE_WINDOW] + content[-_MEDIA_TYPE_WINDOW:]
    if b"application/pdf" in ends:
        return max(1.0, len(content) / _PDF_BASE64_BYTES_PER_PAGE) * _PDF_TOKENS_PER_PAGE
    return len(content) * _PROSE


def _clamped(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
