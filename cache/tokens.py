"""How many tokens each prefix of a prompt has, before the provider says so.

The rule: count what was counted, estimate the rest from bytes, and let usage correct the estimate. A block's
bytes times a ratio per kind gives a first guess; one factor per tokenizer family, a bounded moving average of
actual over estimated, pulls it to what the provider bills. Estimates never cross families: from Claude 4.7 on
the same text has roughly 30 % more tokens (https://platform.claude.com/docs/en/about-claude/pricing, read
2026-11).

It does not know languages: a byte of UTF-8 is treated alike wherever it comes from, so an application in one
script is learnt and a mixture keeps an error, which `uncertainty` reports. It cannot see an image's
dimensions or a PDF's pages; where that matters the caller puts the exact count on the block. What the provider
counted of the blocks that prompts open with is told by `know`, per model: one spelling serves two of them.
"""

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import NamedTuple, overload

from cache.prompt import Block, BlockKind, Layer, Prompt
from cache.rules import Tokenizer, rules_for

# Looking a member up on its enum costs 60 ns on Python 3.11, a global 6 ns, and the estimate is one loop over
# blocks.
_TEXT, _THINKING, _IMAGE = BlockKind.TEXT, BlockKind.THINKING, BlockKind.IMAGE
_DOCUMENT, _TOOL, _TOOL_RESULT = BlockKind.DOCUMENT, BlockKind.TOOL, BlockKind.TOOL_RESULT
_TOOLS, _SYSTEM = int(Layer.TOOLS), int(Layer.SYSTEM)

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
_MEDIUM_BY_VALUE = b'"type":"base64"'
"""In JSON text these quotes would be escaped, so only a medium inside a tool's result is spelled so."""
_MEDIUM = re.compile(rb'"media_type":"([^"]*)","data":"([A-Za-z0-9+/=]*)"')
_MEDIA_TYPE_WINDOW = 256
"""Bytes at the head and tail of a document block in which its media type is looked for."""

_LEARNING_RATE = 0.15
_RATIO_BOUNDS = (0.4, 2.5)
_STEP_BOUNDS = (0.5, 2.0)
_MINIMUM_LEARNT_TOKENS = 200
"""Shorter prompts say more about the wrapping than about the tokenizer."""
_PRIOR_ERROR = 0.2
"""Relative error assumed of a family nobody has measured."""


_KNOWN_LIMIT = 4096
"""Openings whose counts are kept: two per registered application and model, and one per filler it was cut to."""


class Counted(NamedTuple):
    """What the provider counted of the blocks that a prompt opens with.

    Attributes:
        counts: Tokens of the prefix ending at each of them, the provider's own instructions for tools included.
        scaled: What `TokenSums` holds for them, which the rest of the prompt is summed upon.
        has_tools: Whether tools are among them.
    """

    counts: tuple[int, ...]
    scaled: float
    has_tools: bool

    @property
    def tokens(self) -> int:
        """Of all of them; 0 for none."""
        return self.counts[-1] if self.counts else 0


UNCOUNTED = Counted((), 0.0, False)
"""Nothing is known but estimates."""


@dataclass(slots=True)
class _Correction:
    ratio: float = 1.0
    error: float = _PRIOR_ERROR
    observation_count: int = 0


class TokenSums:
    """A prompt's blocks, summed up to each: what counts of any model, under any correction, follow from at once.

    Only grows: `extended` makes new sums and leaves these as they are, so a turn costs its own blocks.
    """

    __slots__ = ("_exact", "_images", "_scaled", "_tools_from")

    def __init__(self) -> None:
        """Of a prompt without blocks."""
        self._scaled = array("d")
        self._images = array("q")
        self._exact = array("q")
        self._tools_from = -1

    def __len__(self) -> int:
        return len(self._scaled)

    def extended(self, blocks: Sequence[Block]) -> "TokenSums":
        """These sums and those of the blocks that follow."""
        made = TokenSums()
        made._scaled, made._images, made._exact = self._scaled[:], self._images[:], self._exact[:]
        made._tools_from = self._tools_from
        scaled = self._scaled[-1] if self._scaled else 0.0
        images = self._images[-1] if self._images else 0
        exact = self._exact[-1] if self._exact else 0
        for position, block in enumerate(blocks, len(self)):
            kind = block.kind
            if block.token_count is not None:
                exact += block.token_count
            elif kind is _TEXT or kind is _THINKING:
                scaled += len(block.content) * _PROSE
            elif kind is _IMAGE:
                images += 1
            elif kind is _DOCUMENT:
                scaled += _document_tokens(block.content)
            elif kind is _TOOL_RESULT and _MEDIUM_BY_VALUE in block.content:
                result, image_count = _result_tokens(block.content)
                scaled += result
                images += image_count
            else:
                scaled += len(block.content) * _JSON
                if made._tools_from < 0 and kind is _TOOL:
                    made._tools_from = position
            made._scaled.append(scaled)
            made._images.append(images)
            made._exact.append(exact)
        return made


class SummedTokens(Sequence[int]):
    """Tokens of the prefix ending at each block, as `TokenEstimator.cumulative_tokens` gives them."""

    __slots__ = ("_counted", "_factor", "_fixed", "_image_tokens", "_overhead_tokens", "_sums")

    def __init__(
        self,
        sums: TokenSums,
        factor: float,
        image_tokens: int,
        overhead_tokens: int,
        counted: Counted = UNCOUNTED,
    ) -> None:
        """Keep the sums and the model's factors as they are now; `TokenEstimator.counts` makes these."""
        self._sums, self._factor = sums, factor
        self._image_tokens, self._overhead_tokens = image_tokens, overhead_tokens
        self._counted = counted
        length = len(counted.counts)
        # What estimates past the counted blocks are less than the sums by, and more by what was counted.
        self._fixed = counted.tokens
        if length:
            self._fixed -= sums._exact[length - 1] + sums._images[length - 1] * image_tokens

    def __len__(self) -> int:
        return len(self._sums._scaled)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        sums = self._sums
        if isinstance(index, slice):
            return tuple([self[position] for position in range(*index.indices(len(self)))])
        counted, base = self._counted.counts, self._counted.scaled
        position = index if index >= 0 else len(self) + index
        if 0 <= position < len(counted):
            return counted[position]
        tokens = self._fixed + sums._exact[index] + int((sums._scaled[index] - base) * self._factor + 0.5)
        tokens += sums._images[index] * self._image_tokens
        if len(counted) <= sums._tools_from <= position:
            return tokens + self._overhead_tokens
        return tokens


class TokenEstimator:
    """Estimates of one process, corrected by the usage it has seen. Not thread-safe."""

    def __init__(self, snapshot: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """Start from the priors, or from what `snapshot()` returned.

        Raises:
            ValueError: The snapshot names a family that does not exist.
        """
        self._known: dict[str, dict[tuple[bytes, ...], Counted]] = {}
        self._known_shapes: dict[str, tuple[frozenset[int], tuple[int, ...]]] = {}
        self._corrections = {family: _Correction() for family in Tokenizer}
        for name, kept in (snapshot or {}).items():
            self._corrections[Tokenizer(name)] = _Correction(
                ratio=_clamped(kept["ratio"], _RATIO_BOUNDS),
                error=max(0.0, kept["error"]),
                observation_count=int(kept["observation_count"]),
            )

    def know(self, blocks: Sequence[Block], model: str, counts: Sequence[int]) -> None:
        """Take in what the provider counted of blocks that prompts open with; prompts that do use it from now on.

        Args:
            blocks: Of the layers TOOLS and SYSTEM, not empty.
            counts: Tokens of the prefix ending at each, in the tokens of `model`.

        Raises:
            ValueError: There is not one count per block, they decrease, or a block is of another layer.
        """
        if not blocks or len(blocks) != len(counts) or list(counts) != sorted(counts):
            raise ValueError("counts of an opening are one per block and never decrease")
        if any(block.layer > Layer.SYSTEM for block in blocks):
            raise ValueError("an opening holds tools and system blocks only")
        known = self._known.setdefault(model, {})
        contents = tuple([block.content for block in blocks])
        known.pop(contents, None)
        known[contents] = Counted(
            tuple(counts), TokenSums().extended(blocks)._scaled[-1], blocks[0].layer is Layer.TOOLS
        )
        if len(known) > _KNOWN_LIMIT:
            del known[next(iter(known))]
        first_sizes = frozenset([len(contents[0]) for contents in known])
        lengths = sorted({len(contents) for contents in known}, reverse=True)
        self._known_shapes[model] = first_sizes, tuple(lengths)

    def counted(self, prompt: Prompt, model: str) -> Counted:
        """What is known of the blocks `prompt` opens with: of as many of them as possible."""
        shapes = self._known_shapes.get(model)
        if shapes is None:
            return UNCOUNTED
        ends = prompt.ends
        tools_end, system_end = ends[_TOOLS], ends[_SYSTEM]
        end = (system_end if system_end > tools_end else tools_end) + 1
        first_sizes, lengths = shapes
        # Bytes are hashed once in their life, but those a caller brings are new each time: most end here.
        if end == 0 or len(prompt.blocks[0].content) not in first_sizes:
            return UNCOUNTED
        contents = tuple([block.content for block in prompt.blocks[:end]])
        known = self._known[model]
        found = known.get(contents)
        if found is not None:
            return found
        for length in lengths:
            if length < end:
                found = known.get(contents[:length])
                if found is not None:
                    return found
        return UNCOUNTED

    def cumulative_tokens(
        self, prompt: Prompt, model: str, counted: Counted | None = None
    ) -> tuple[int, ...]:
        """Tokens of the prefix ending at each block; exact counts are used where they are known.

        Args:
            counted: `counted(prompt, model)` if the caller has it.

        Returns:
            One count per block, never decreasing.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        rules = rules_for(model)
        family = rules.tokenizer
        factor = _FAMILY_FACTOR[family] * self._corrections[family].ratio
        image_tokens = _IMAGE_TOKENS[family]
        if counted is None:
            counted = self.counted(prompt, model)
        # What is scaled is summed before it is scaled, so that `TokenSums` gives the same counts under any factor.
        scaled = base = counted.scaled
        fixed = counted.tokens
        counts = list(counted.counts)
        append = counts.append
        blocks: Sequence[Block] = prompt.blocks
        tools_pending = True
        if counts:
            tools_pending = not counted.has_tools
            blocks = blocks[len(counts) :]
        for block in blocks:
            kind = block.kind
            if block.token_count is not None:
                fixed += block.token_count
            elif kind is _TEXT or kind is _THINKING:
                scaled += len(block.content) * _PROSE
            elif kind is _IMAGE:
                fixed += image_tokens
            elif kind is _DOCUMENT:
                scaled += _document_tokens(block.content)
            elif kind is _TOOL_RESULT and _MEDIUM_BY_VALUE in block.content:
                result, image_count = _result_tokens(block.content)
                scaled += result
                fixed += image_count * image_tokens
            else:
                scaled += len(block.content) * _JSON
                if tools_pending and kind is _TOOL:
                    # The provider's own instructions for tools come once, ahead of the first of them. A
                    # counted tool was counted with them.
                    fixed += rules.tool_overhead_tokens
                    tools_pending = False
            append(fixed + int((scaled - base) * factor + 0.5))
        return tuple(counts)

    def counts(self, sums: "TokenSums", model: str, counted: Counted = UNCOUNTED) -> "SummedTokens":
        """What `cumulative_tokens` gives for the prompt of `sums`, each count worked out when it is asked for.

        Args:
            counted: `counted(prompt, model)` of that prompt.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        rules = rules_for(model)
        family = rules.tokenizer
        factor = _FAMILY_FACTOR[family] * self._corrections[family].ratio
        return SummedTokens(sums, factor, _IMAGE_TOKENS[family], rules.tool_overhead_tokens, counted)

    def uncertainty(self, model: str) -> float:
        """Relative error to expect of an estimate: 0.1 means that a tenth off is ordinary.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        return self._corrections[rules_for(model).tokenizer].error

    def observe(
        self, model: str, estimated_tokens: int, actual_tokens: int, counted: Counted = UNCOUNTED
    ) -> None:
        """Learn from one call's usage: from what was estimated of it, or where that is short, from all of it.

        Args:
            estimated_tokens: What `cumulative_tokens` gave for the whole prompt.
            actual_tokens: Its whole input, cache reads and writes included.
            counted: What it was told had been counted.

        Raises:
            UnknownModel: `model` is not in the catalogue.
        """
        rules = rules_for(model)
        kept = self._corrections[rules.tokenizer]
        if counted.counts:
            estimated_tokens -= counted.tokens
            if estimated_tokens >= _MINIMUM_LEARNT_TOKENS:
                actual_tokens -= counted.tokens
            else:
                factor = _FAMILY_FACTOR[rules.tokenizer] * kept.ratio
                overhead = rules.tool_overhead_tokens if counted.has_tools else 0
                estimated_tokens += overhead + int(counted.scaled * factor + 0.5)
        if estimated_tokens < _MINIMUM_LEARNT_TOKENS or actual_tokens <= 0:
            return
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


def _result_tokens(content: bytes) -> tuple[float, int]:
    """Tokens before the family's factor, and images, of a tool's result that holds images or documents.

    Base64 is not what they are billed by.
    """
    plain, scaled, image_count = len(content), 0.0, 0
    for media_type, data in _MEDIUM.findall(content):
        plain -= len(data)
        if media_type == b"application/pdf":
            scaled += max(1.0, len(data) / _PDF_BASE64_BYTES_PER_PAGE) * _PDF_TOKENS_PER_PAGE
        else:
            image_count += 1
    return plain * _JSON + scaled, image_count


def _document_tokens(content: bytes) -> float:
    """Tokens of a document block before the family's factor."""
    ends = content[:_MEDIA_TYPE_WINDOW] + content[-_MEDIA_TYPE_WINDOW:]
    if b"application/pdf" in ends:
        return max(1.0, len(content) / _PDF_BASE64_BYTES_PER_PAGE) * _PDF_TOKENS_PER_PAGE
    return len(content) * _PROSE


def _clamped(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
