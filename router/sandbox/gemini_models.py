"""What each Gemini model accepts and which model answers for it: facts as data.

Rule: one row per id, copied from G-MODELS, G-PRICE, G-CACHE and G-THINK (state of 2026-11-22); cells marked
`assumed` are listed in the README. It does not know prices (see `prices`).
"""

from __future__ import annotations

from dataclasses import dataclass

from router.sandbox.anthropic_models import instant

CONTEXT_TOKENS = 1_048_576
MAX_OUTPUT_TOKENS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class GeminiModel:
    """One model id.

    `levels` is empty for the 2.5 family, which takes `thinkingBudget` instead; `minimum_budget` is the
    smallest non-zero budget there. `signatures` says whether function calls must carry their thought
    signature back.
    """

    id: str
    cache_minimum_tokens: int
    levels: tuple[str, ...] = ()
    default_level: str | None = None
    minimum_budget: int = 1
    thinks_by_default: bool = True
    signatures: bool = True
    reuses_thoughts: bool = True
    answered_by: str | None = None
    shut_down_on: str | None = None
    rerouted_on: str | None = None


_LOW_UP = ("low", "medium", "high")
_ALL = ("minimal", "low", "medium", "high")


def _two_five(name: str, **kw: object) -> GeminiModel:
    return GeminiModel(
        id=name,
        cache_minimum_tokens=2048,
        signatures=False,
        reuses_thoughts=False,
        **kw,  # type: ignore[arg-type]
    )


_ROWS: tuple[GeminiModel, ...] = (
    GeminiModel(id="gemini-3.8-flash", cache_minimum_tokens=4096, levels=_LOW_UP, default_level="medium"),
    GeminiModel(
        id="gemini-3.7-flash",
        cache_minimum_tokens=4096,
        levels=_LOW_UP,
        default_level="medium",
        answered_by="gemini-3.8-flash",
        rerouted_on="2026-10-08",
    ),
    GeminiModel(id="gemini-3.6-flash", cache_minimum_tokens=4096, levels=_ALL, default_level="medium"),
    GeminiModel(
        id="gemini-3.5-flash",
        cache_minimum_tokens=4096,
        levels=_ALL,
        default_level="medium",
        answered_by="gemini-3.6-flash",
        rerouted_on="2026-10-08",
    ),
    # minimum of the three below: assumed, not published
    GeminiModel(id="gemini-3.5-flash-lite", cache_minimum_tokens=4096, levels=_ALL, default_level="minimal"),
    GeminiModel(
        id="gemini-3.1-flash-lite",
        cache_minimum_tokens=4096,
        levels=_ALL,
        default_level="minimal",
        reuses_thoughts=False,
        shut_down_on="2027-05-07",
    ),
    GeminiModel(
        id="gemini-3-flash-preview",
        cache_minimum_tokens=4096,
        levels=_ALL,
        default_level="high",
        reuses_thoughts=False,
    ),
    GeminiModel(
        id="gemini-3.1-pro-preview",
        cache_minimum_tokens=4096,
        levels=_LOW_UP,
        default_level="high",
        reuses_thoughts=False,
    ),
    GeminiModel(
        id="gemini-4-argon", cache_minimum_tokens=4096, levels=_LOW_UP, default_level="medium"
    ),  # levels assumed
    _two_five("gemini-2.5-flash", answered_by="gemini-3.5-flash-lite", rerouted_on="2026-12-01"),
    _two_five("gemini-2.5-flash-lite", minimum_budget=512, thinks_by_default=False),
    _two_five("gemini-2.0-flash", shut_down_on="2026-06-01"),
    _two_five("gemini-2.0-flash-001", shut_down_on="2026-06-01"),
    _two_five("gemini-2.0-flash-lite", shut_down_on="2026-06-01"),
)

MODELS = {row.id: row for row in _ROWS}

ALIASES = {  # answered on v1beta only; targets from P-GENAI (unverified)
    "gemini-flash-latest": "gemini-3.8-flash",
    "gemini-flash-lite-latest": "gemini-3.5-flash-lite",
    "gemini-pro-latest": "gemini-3.1-pro-preview",
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The row whose rules the request must obey, and the row that answers, caches and is billed."""

    asked: GeminiModel
    answering: GeminiModel


def find(name: str, version: str, now: float) -> Resolved | None:
    """Resolve an id or alias at an instant, or None when unknown, shut down, or an alias on `v1`."""
    if version == "v1beta":
        name = ALIASES.get(name, name)
    row = MODELS.get(name)
    if row is None or (row.shut_down_on is not None and now >= instant(row.shut_down_on)):
        return None
    if row.answered_by is not None and row.rerouted_on is not None and now >= instant(row.rerouted_on):
        return Resolved(row, MODELS[row.answered_by])
    return Resolved(row, row)
