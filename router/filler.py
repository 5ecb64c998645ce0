"""The operator's filler as text: how many tokens it has, and where it is cut.

The rule: a cut is an opening of the text that ends with a paragraph, else with a word, and is long enough by what is
known of it. The estimates of an application's own text say little of another text: until a bill or a count has
measured the filler, a cut gets the whole margin, from then on it is reckoned by what was measured. It does not know
who is padded, nor why.
"""

import re
from bisect import bisect_left
from collections.abc import Callable

from cache.prompt import Block, BlockKind, Layer, Prompt
from cache.tokens import TokenEstimator
from router.upstreams.parameters import quoted

MARGIN_BOUNDS = (0.05, 0.20)
"""Relative margin over the model's minimum for the error of the token estimates: the upper one until the filler was
measured, then the estimates' own error, within these."""
_PARAGRAPH_REACH = 0.15
"""How much longer than needed a cut may get to end with a paragraph."""
_WORD_REACH = 80
"""Characters that a word may have at least to be kept whole."""
_SPACE = re.compile(r"\s")
_SCALE_BOUNDS = (0.4, 2.5)
"""Tokens measured per token first assumed, within which a measure is believed."""
_MEASURABLE_TOKENS = 50
"""Shorter cuts say more about the wrapping than about the text."""
_BYTES_PER_TOKEN = 8
"""More than any text has on average, to look for a cut in an opening of the text first."""


class Filler:
    """The operator's text and what was learnt of it; one per process, shared by all applications."""

    def __init__(self, text: str, *, model: str, estimator: TokenEstimator) -> None:
        """Start unmeasured.

        Args:
            text: "" for no filler.
            model: Id of the Opus model.
            estimator: The one that learns from settled calls; only read here.
        """
        self._text = text.strip()
        self._model = model
        self._estimator = estimator
        self._prior = TokenEstimator()
        self._scale: float | None = None
        self._whole = opening(self._text)

    def __bool__(self) -> bool:
        """Whether there is any text."""
        return bool(self._text)

    @property
    def available_tokens(self) -> int:
        """Tokens of the whole text, as well as they are known."""
        return self._tokens(self._whole)

    def tokens(self, text: str) -> int:
        """Tokens of a cut, as well as they are known."""
        return self._tokens(opening(text))

    def margin(self) -> float:
        """Relative margin over the minimum that a new cut gets."""
        low, high = MARGIN_BOUNDS
        if self._scale is None:
            return high
        return min(max(self._estimator.uncertainty(self._model), low), high)

    def measure(self, text: str, tokens: int) -> None:
        """Take in that the cut `text` has so many tokens, by a count or a bill."""
        prior = self._prior.cumulative_tokens(opening(text), self._model)[-1]
        if prior >= _MEASURABLE_TOKENS:
            low, high = _SCALE_BOUNDS
            self._scale = min(max(tokens / prior, low), high)

    def cut(self, needed_tokens: int) -> str:
        """The shortest opening of at least `needed_tokens`; all of it when it is too short."""
        return cut(self._text, needed_tokens, self.tokens)

    def _tokens(self, prompt: Prompt) -> int:
        if self._scale is None:
            return self._estimator.cumulative_tokens(prompt, self._model)[-1]
        # Scaled on what never moves: the shared estimator follows every text.
        return round(self._prior.cumulative_tokens(prompt, self._model)[-1] * self._scale)


def cut(filler: str, needed_tokens: int, tokens_of: Callable[[str], int]) -> str:
    """The shortest opening of `filler` of at least `needed_tokens` that ends with a paragraph, else with a word.

    Returns:
        All of it when it is too short.
    """
    limit = max(1, needed_tokens * _BYTES_PER_TOKEN)
    while limit < len(filler) and tokens_of(filler[:limit]) < needed_tokens:
        limit *= 2
    # Parts of a text differ in tokens per character, so a proportion would not do.
    places = range(min(limit, len(filler)))
    end = bisect_left(places, needed_tokens, key=lambda end: tokens_of(filler[:end]))
    return filler[: _boundary(filler, end)].rstrip()


def opening(text: str) -> Prompt:
    """`text` as the only system block, for its estimate."""
    return Prompt((Block(Layer.SYSTEM, BlockKind.TEXT, b'{"type":"text","text":%b}' % quoted(text)),))


def _boundary(text: str, at: int) -> int:
    """End of the paragraph, else of the word, that position `at` falls into."""
    paragraph = text.find("\n\n", at, at + max(1, int(at * _PARAGRAPH_REACH)))
    if paragraph >= 0:
        return paragraph
    reach = at + max(_WORD_REACH, int(at * _PARAGRAPH_REACH))
    if found := _SPACE.search(text, at, reach):
        return found.start()
    # A script without spaces is cut anywhere.
    return len(text) if reach >= len(text) else at
