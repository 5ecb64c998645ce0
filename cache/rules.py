"""What each model's provider caches and how: limits as data, each with its page and the date it was read.

The rule: a number that a provider may change stands here and nowhere else, per full model id. An id that is
not in the catalogue raises `UnknownModel`, because planning with a guessed minimum wastes money silently.
What the documents leave open is an assumption, and every assumption is a field of `cache.facts.Facts`. Prices are
not here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from cache import facts

TTL_5M_S = 300
"""Default lifetime of an entry, seconds, counted from the start of the request that last touched it."""
TTL_1H_S = 3600
"""The longer lifetime, seconds; twice the input price to write."""

CACHING_PAGE = "https://platform.claude.com/docs/en/build-with-claude/prompt-caching"
PRICING_PAGE = "https://platform.claude.com/docs/en/about-claude/pricing"
GEMINI_CACHING_PAGE = "https://ai.google.dev/gemini-api/docs/caching"
READ_ON = "2026-11"


class UnknownModel(LookupError):
    """The catalogue has no live model of this id; nothing can be planned or priced for it."""

    def __init__(self, model: str, advice: str) -> None:
        super().__init__(f"unknown model {model!r}: {advice}")
        self.model = model


class Tokenizer(StrEnum):
    """Families between which token counts must not be carried over."""

    CLAUDE_4_6 = "claude-4.6"
    """Claude models up to 4.6."""
    CLAUDE_4_7 = "claude-4.7"
    """Claude models from 4.7 on: roughly 30 % more tokens for the same text."""
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRules:
    """One model's cache limits.

    Attributes:
        model: Full id, aliases resolved.
        upstream: "anthropic" or "gemini".
        tokenizer: Family its token counts belong to.
        minimum_tokens: Shortest prefix that is cached, tokens, the whole prefix counted.
        minimum_confirmed: False when the vendor's page was not seen to state it.
        implicit: The provider caches by itself and takes no breakpoints; a hit is likely, never promised.
        max_breakpoints: Breakpoints one request may carry; one more is refused with status 400.
        lookback_positions: Positions checked from each breakpoint, the breakpoint's own included.
        ttls_s: Lifetimes on offer, seconds, ascending.
        collapses_tool_runs: A run of adjacent tool calls, or of adjacent tool results, is one lookback
            position.
        mid_conversation_system: Takes a system entry among the messages, so instructions change without a
            loss.
        tool_overhead_tokens: Tokens the provider adds when tools are present (tool choice auto or none).
        source: Page the limits are from.
        read_on: Month it was read.
    """

    model: str
    upstream: str
    tokenizer: Tokenizer
    minimum_tokens: int
    minimum_confirmed: bool = True
    implicit: bool = False
    max_breakpoints: int = 4
    lookback_positions: int = 20
    ttls_s: tuple[int, ...] = (TTL_5M_S, TTL_1H_S)
    collapses_tool_runs: bool = True
    mid_conversation_system: bool = False
    tool_overhead_tokens: int = 0
    source: str = CACHING_PAGE
    read_on: str = READ_ON


OpenFacts = facts.Facts
"""What the providers' documents leave open; see `cache.facts`."""
ASSUMED = facts.ASSUMED
"""The open facts as assumed on 2026-11-22."""


def rules_for(model: str) -> CacheRules:
    """Rules of a model id or alias.

    Raises:
        UnknownModel: The id is not in the catalogue, or its model is retired.
    """
    found = _CATALOGUE.get(model)
    if found is not None:
        return found
    target = ALIASES.get(model)
    if target is not None:
        return _CATALOGUE[target]
    raise UnknownModel(model, _advice(model))


def known_models() -> Iterator[CacheRules]:
    """Every live model of the catalogue, Anthropic first."""
    yield from _CATALOGUE.values()


def _advice(model: str) -> str:
    retired = RETIRED.get(model)
    if retired is not None:
        return f"{retired}; choose a live one, for instance {_EXAMPLES}"
    dated = [
        known for known in _CATALOGUE if model.startswith(known.rstrip("0123456789").rstrip("-") + "-20")
    ]
    if dated:
        return f"it never carried that date; did you mean {dated[0]!r}?"
    return f"it is not in the catalogue of {READ_ON}; choose one of it, for instance {_EXAMPLES}"


_EXAMPLES = "'claude-opus-5-5' or 'gemini-3.8-flash'"


def _claude(
    model: str,
    minimum_tokens: int,
    tool_overhead_tokens: int,
    *,
    tokenizer: Tokenizer = Tokenizer.CLAUDE_4_7,
    minimum_confirmed: bool = True,
    mid_conversation_system: bool = False,
) -> CacheRules:
    return CacheRules(
        model=model,
        upstream="anthropic",
        tokenizer=tokenizer,
        minimum_tokens=minimum_tokens,
        minimum_confirmed=minimum_confirmed,
        mid_conversation_system=mid_conversation_system,
        tool_overhead_tokens=tool_overhead_tokens,
    )


def _gemini(model: str, minimum_tokens: int, *, minimum_confirmed: bool = True) -> CacheRules:
    return CacheRules(
        model=model,
        upstream="gemini",
        tokenizer=Tokenizer.GEMINI,
        minimum_tokens=minimum_tokens,
        minimum_confirmed=minimum_confirmed,
        implicit=True,
        max_breakpoints=0,
        lookback_positions=0,
        ttls_s=(),
        collapses_tool_runs=False,
        source=GEMINI_CACHING_PAGE,
    )


# Minimum: CACHING_PAGE. Tool overhead (auto, none): PRICING_PAGE; models without a row there take their
# generation's figure (5.x: Opus 5, Sonnet 5), which the token estimator then corrects from usage.
_OLD = Tokenizer.CLAUDE_4_6
_ROWS = (
    _claude("claude-opus-5-5", 512, 286, mid_conversation_system=True),
    _claude("claude-opus-5", 512, 286, mid_conversation_system=True),
    _claude("claude-opus-4-8", 1024, 290, mid_conversation_system=True),
    _claude("claude-opus-4-7", 2048, 675),
    _claude("claude-opus-4-6", 4096, 497, tokenizer=_OLD),
    _claude("claude-opus-4-5-20251101", 4096, 496, tokenizer=_OLD),
    # 5.2's own minimum was not seen: assumed as 5.1.
    _claude("claude-fable-5-2", 512, 286, minimum_confirmed=False, mid_conversation_system=True),
    _claude("claude-fable-5-1", 512, 286, mid_conversation_system=True),
    _claude("claude-fable-5", 512, 286, mid_conversation_system=True),
    _claude("claude-mythos-5-2", 512, 286, minimum_confirmed=False, mid_conversation_system=True),
    _claude("claude-mythos-5-1", 512, 286, mid_conversation_system=True),
    _claude("claude-mythos-5", 512, 286, mid_conversation_system=True),
    _claude("claude-sonnet-5-5", 512, 354, mid_conversation_system=True),
    # Sonnet 5 answers 400 to a system entry among the messages.
    _claude("claude-sonnet-5", 1024, 354),
    # One user measured 2,048 (anthropic-sdk-python issue 1194); the page says 1,024.
    _claude("claude-sonnet-4-6", 1024, 497, tokenizer=_OLD),
    _claude("claude-sonnet-4-5-20250929", 1024, 496, tokenizer=_OLD),
    # Known from a third party only.
    _claude("claude-haiku-5-5", 512, 354, minimum_confirmed=False),
    _claude("claude-haiku-4-5-20251001", 4096, 496, tokenizer=_OLD),
    _gemini("gemini-3.8-flash", 4096),
    _gemini("gemini-3.7-flash", 4096),
    _gemini("gemini-3.6-flash", 4096),
    _gemini("gemini-3.5-flash", 4096),
    _gemini("gemini-3.5-flash-lite", 4096, minimum_confirmed=False),
    _gemini("gemini-3.1-flash-lite", 4096, minimum_confirmed=False),
    _gemini("gemini-3-flash-preview", 4096, minimum_confirmed=False),
    _gemini("gemini-2.5-flash", 2048),
    _gemini("gemini-2.5-flash-lite", 2048, minimum_confirmed=False),
    _gemini("gemini-2.5-pro", 2048),
    _gemini("gemini-3.1-pro-preview", 4096),
    _gemini("gemini-4-argon", 4096),
)
_CATALOGUE: Mapping[str, CacheRules] = MappingProxyType({row.model: row for row in _ROWS})

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "claude-opus-4-5": "claude-opus-4-5-20251101",
        "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
        "claude-haiku-4-5": "claude-haiku-4-5-20251001",
        # Answered on v1beta only; its target is a third party's word.
        "gemini-flash-latest": "gemini-3.8-flash",
    }
)
"""Short names and the dated id they stand for."""

RETIRED: Mapping[str, str] = MappingProxyType(
    {
        "claude-opus-4-1": "retired on 2026-08-05",
        "claude-opus-4-1-20250805": "retired on 2026-08-05",
        "claude-opus-4-0": "retired on 2026-06-15",
        "claude-opus-4-20250514": "retired on 2026-06-15",
        "claude-sonnet-4-0": "retired",
        "claude-sonnet-4-20250514": "retired",
        "claude-3-5-haiku-20241022": "retired",
        "gemini-2.0-flash": "shut down on 2026-06-01",
        "gemini-2.0-flash-001": "shut down on 2026-06-01",
        "gemini-2.0-flash-lite": "shut down on 2026-06-01",
        "gemini-3-flash": "never an id ('gemini-3-flash-preview' is)",
    }
)
"""Ids that once answered, or that look as if they did, and why they are refused."""
