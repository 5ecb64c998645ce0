"""What each Gemini model takes, as data.

Source: G-THINK, G-MODELS, G-SIG (ai.google.dev/gemini-api/docs, read 2026-11). Rows marked (assumed) follow
their nearest documented sibling. This module does not know prices or cache limits.
"""

from dataclasses import dataclass

from router.call import Effort

_LEVELS = {
    Effort.LOW: b'"thinkingLevel":"LOW"',
    Effort.MEDIUM: b'"thinkingLevel":"MEDIUM"',
    Effort.HIGH: b'"thinkingLevel":"HIGH"',
}
_BUDGETS = {
    Effort.LOW: b'"thinkingBudget":1024',
    Effort.MEDIUM: b'"thinkingBudget":8192',
    Effort.HIGH: b'"thinkingBudget":24576',
}
"""Google's own equivalence of effort and budget in its OpenAI-compatible API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What one model takes.

    Attributes:
        uses_levels: Whether thinking is set by level; else by a budget of tokens.
        default_effort: Level an absent one means, None when it is none of ours (dynamic, minimal,
            undocumented).
        needs_signatures: Whether function calls of the running turn must come back signed.
        takes_media_results: Whether a functionResponse may hold images and documents.
        max_output_tokens: Upper limit of `maxOutputTokens`.
    """

    uses_levels: bool = True
    default_effort: Effort | None = Effort.MEDIUM
    needs_signatures: bool = True
    takes_media_results: bool = True
    max_output_tokens: int = 65_536

    def effort(self, asked: Effort | None) -> Effort | None:
        """Return the effort to send, None for the model's default. Above HIGH there is only HIGH."""
        if asked is None:
            return None
        level = asked if asked in _LEVELS else Effort.HIGH
        return None if level is self.default_effort else level

    def thinking_field(self, level: Effort) -> bytes:
        """Return the field of `thinkingConfig` that asks for `level`, one of LOW, MEDIUM, HIGH."""
        return (_LEVELS if self.uses_levels else _BUDGETS)[level]


_FLASH = Traits()
_LITE = Traits(default_effort=None)  # thinks minimally by default
_HIGH = Traits(default_effort=Effort.HIGH)
_TWO = Traits(uses_levels=False, default_effort=None, needs_signatures=False, takes_media_results=False)

MODELS: dict[str, Traits] = {
    "gemini-3.8-flash": _FLASH,
    "gemini-3.7-flash": _FLASH,
    "gemini-3.6-flash": _FLASH,
    "gemini-3.5-flash": _FLASH,
    "gemini-3.5-flash-lite": _LITE,
    "gemini-3.1-flash-lite": _LITE,
    "gemini-3-flash-preview": _HIGH,
    "gemini-3.1-pro-preview": _HIGH,
    "gemini-4-argon": Traits(default_effort=None),  # assumed
    "gemini-2.5-flash": _TWO,
    "gemini-2.5-flash-lite": _TWO,
    "gemini-2.5-pro": _TWO,
    "gemini-flash-latest": Traits(default_effort=None),
    "gemini-flash-lite-latest": _LITE,
    "gemini-pro-latest": Traits(default_effort=None),
}


def traits_of(model: str) -> Traits:
    """Return the row of a model id.

    Raises:
        ValueError: If no row knows it; lists the ids that are known.
    """
    traits = MODELS.get(model)
    if traits is None:
        raise ValueError(f"unknown Gemini model {model!r}; known: {', '.join(MODELS)}")
    return traits
