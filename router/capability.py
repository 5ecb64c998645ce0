"""Which route can take a request at all: the context window, and what an adapter refuses to spell.

Source: A-MODELS, G-MODELS (2026-11). On Claude 4.5 and later a request whose input and maximal output together
exceed the window is accepted and may end early (A-STOP), so only the input counts here.
"""

from functools import lru_cache

from cache.rules import rules_for

_SMALL_CLAUDE_CONTEXT = 200_000
_CLAUDE_CONTEXT = 1_000_000
_GEMINI_CONTEXT = 1_048_576
_SMALL = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")


@lru_cache(maxsize=64)
def context_tokens(model: str) -> int:
    """Input tokens the model takes.

    Raises:
        cache.rules.UnknownModel: `model` is not in the catalogue.
    """
    if rules_for(model).upstream == "gemini":
        return _GEMINI_CONTEXT
    return _SMALL_CLAUDE_CONTEXT if model.startswith(_SMALL) else _CLAUDE_CONTEXT


def why_too_long(model: str, input_tokens: int) -> str:
    """Why a prompt of so many (estimated) tokens does not fit the model, "" when it does."""
    limit = context_tokens(model)
    if input_tokens <= limit:
        return ""
    return f"about {input_tokens:,} input tokens exceed the {limit:,} of {model}"
