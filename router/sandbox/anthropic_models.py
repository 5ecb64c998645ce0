"""What each Claude model accepts and how it caches: facts as data.

Rule: one row per model, copied from the provider's pages (A-MODELS, A-DEPR, A-CACHE, A-THINK, A-EFFORT,
A-FAST, A-PRICE, A-NEW55; state of 2026-11-22). Rows or cells the pages leave open are marked `assumed` and
listed in the README. It does not know prices (see `prices`) nor an account's model access.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from router.sandbox.tokens import Family


class Level(Enum):
    """Where in the prefix a parameter enters: everything from that level on is lost when it changes."""

    TOOLS = "tools"
    SYSTEM = "system"
    MESSAGES = "messages"


class Fast(Enum):
    """What `speed` does on a model (A-FAST)."""

    GA = "works without a beta header"
    PREVIEW = "needs fast-mode-2026-02-01 for any value"
    IGNORED = "silently standard"
    REFUSED = "answers 400"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaudeModel:
    """One model. Token limits include nothing but what their name says; dates are instants in UTC."""

    id: str
    released: str
    aliases: tuple[str, ...] = ()
    line: str = "opus"
    retired_on: str | None = None
    deprecated_on: str | None = None
    context_tokens: int = 1_000_000
    max_output_tokens: int = 128_000
    cache_minimum_tokens: int
    family: Family = Family.CLAUDE_NEW
    thinking_types: tuple[str, ...] = ("adaptive",)
    thinks_by_default: bool = True
    display_default: str = "omitted"
    efforts: tuple[str, ...] = ("low", "medium", "high", "xhigh", "max")
    default_effort: str = "high"
    thinking_level: Level = Level.SYSTEM
    forced_tool_choice: bool = True
    prefill: bool = False
    system_entries: bool = False
    sampling: bool = False
    fast: Fast = Fast.REFUSED
    geo: bool = True
    keeps_thinking: bool = True
    overhead_tokens: tuple[int, int] = (286, 406)
    rate_group: str = ""

    def retired(self, now: float) -> bool:
        """Whether requests naming this model fail at `now`."""
        return self.retired_on is not None and now >= instant(self.retired_on)


def instant(day: str) -> float:
    """Seconds since the epoch at midnight UTC of an ISO date."""
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


_UP_TO_HIGH = ("low", "medium", "high")
_NO_XHIGH = ("low", "medium", "high", "max")
_OLD_WINDOW = {
    "context_tokens": 200_000,
    "max_output_tokens": 64_000,
    "family": Family.CLAUDE_OLD,
    "thinking_types": ("enabled", "disabled"),
    "thinks_by_default": False,
    "display_default": "summarized",
    "thinking_level": Level.MESSAGES,
    "prefill": True,
    "sampling": True,
    "geo": False,
}


def _top(
    name: str, released: str, *, forced: bool, line: str, fast: Fast = Fast.REFUSED
) -> ClaudeModel:  # Fable and Mythos 5 line
    return ClaudeModel(
        id=name,
        released=released,
        line=line,
        cache_minimum_tokens=512,  # 5.2: assumed as 5.1
        forced_tool_choice=forced,
        system_entries=True,
        fast=fast,
        rate_group=line,
    )


_ROWS: tuple[ClaudeModel, ...] = (
    ClaudeModel(
        id="claude-opus-5-5",
        released="2026-09-22",
        cache_minimum_tokens=512,
        default_effort="medium",
        forced_tool_choice=False,
        system_entries=True,
        fast=Fast.GA,
        rate_group="opus-5-5",
    ),  # overhead assumed as Opus 5
    ClaudeModel(
        id="claude-opus-5",
        released="2026-07-24",
        cache_minimum_tokens=512,
        thinking_types=("adaptive", "disabled"),
        system_entries=True,
        fast=Fast.PREVIEW,
        rate_group="opus-5",
    ),
    ClaudeModel(
        id="claude-opus-4-8",
        released="2026-05-28",
        cache_minimum_tokens=1024,
        thinking_types=("adaptive", "disabled"),
        thinks_by_default=False,
        display_default="summarized",
        thinking_level=Level.MESSAGES,
        system_entries=True,
        fast=Fast.PREVIEW,
        overhead_tokens=(290, 410),
        rate_group="opus-4",
    ),
    ClaudeModel(
        id="claude-opus-4-7",
        released="2026-04-16",
        cache_minimum_tokens=2048,
        thinking_types=("adaptive", "disabled"),
        thinks_by_default=False,
        display_default="summarized",
        thinking_level=Level.MESSAGES,
        overhead_tokens=(675, 804),
        rate_group="opus-4",
    ),
    ClaudeModel(
        id="claude-opus-4-6",
        released="2026-02-05",
        cache_minimum_tokens=4096,
        family=Family.CLAUDE_OLD,
        thinking_types=("adaptive", "enabled", "disabled"),
        thinks_by_default=False,
        display_default="summarized",
        efforts=_NO_XHIGH,
        thinking_level=Level.MESSAGES,
        sampling=True,
        fast=Fast.IGNORED,
        overhead_tokens=(497, 589),
        rate_group="opus-4",
    ),
    ClaudeModel(
        id="claude-opus-4-5-20251101",
        aliases=("claude-opus-4-5",),
        released="2025-11-24",
        cache_minimum_tokens=4096,
        efforts=_UP_TO_HIGH,
        overhead_tokens=(496, 588),
        rate_group="opus-4",
        **_OLD_WINDOW,  # type: ignore[arg-type]
    ),
    ClaudeModel(
        id="claude-opus-4-1-20250805",
        aliases=("claude-opus-4-1",),
        released="2025-08-05",
        retired_on="2026-08-05",
        cache_minimum_tokens=1024,
        efforts=(),
        **_OLD_WINDOW,  # type: ignore[arg-type]
    ),
    ClaudeModel(
        id="claude-opus-4-20250514",
        aliases=("claude-opus-4-0",),
        released="2025-05-14",
        retired_on="2026-06-15",
        cache_minimum_tokens=1024,
        efforts=(),
        **_OLD_WINDOW,  # type: ignore[arg-type]
    ),
    _top("claude-fable-5-2", "2026-11-09", forced=False, line="fable", fast=Fast.GA),
    _top("claude-fable-5-1", "2026-09-01", forced=False, line="fable"),
    _top("claude-fable-5", "2026-07-01", forced=True, line="fable"),  # day assumed
    _top("claude-mythos-5-2", "2026-11-09", forced=False, line="mythos"),  # forced choice assumed as Fable
    _top("claude-mythos-5-1", "2026-09-01", forced=False, line="mythos"),
    _top("claude-mythos-5", "2026-07-01", forced=True, line="mythos"),
    ClaudeModel(
        id="claude-sonnet-5-5",
        line="sonnet",
        released="2026-09-28",
        cache_minimum_tokens=512,
        thinking_types=("adaptive", "between_tools"),
        forced_tool_choice=False,
        system_entries=True,
        overhead_tokens=(354, 474),  # assumed as Sonnet 5
        rate_group="sonnet-5-5",
    ),
    ClaudeModel(
        id="claude-sonnet-5",
        line="sonnet",
        released="2026-06-30",
        cache_minimum_tokens=1024,
        thinking_types=("adaptive", "disabled"),  # assumed as Opus 5
        overhead_tokens=(354, 474),
        rate_group="sonnet-5",
    ),
    ClaudeModel(
        id="claude-sonnet-4-6",
        line="sonnet",
        released="2026-02-17",
        cache_minimum_tokens=1024,
        family=Family.CLAUDE_OLD,
        thinking_types=("adaptive", "enabled", "disabled"),
        thinks_by_default=False,
        display_default="summarized",
        efforts=_NO_XHIGH,
        thinking_level=Level.MESSAGES,
        sampling=True,
        overhead_tokens=(497, 589),  # assumed as Opus 4.6
        rate_group="sonnet-4",
    ),
    ClaudeModel(
        id="claude-sonnet-4-5-20250929",
        aliases=("claude-sonnet-4-5",),
        line="sonnet",
        released="2025-09-29",
        deprecated_on="2026-08-31",  # day assumed
        retired_on="2026-11-30",
        cache_minimum_tokens=1024,
        efforts=(),
        keeps_thinking=False,
        overhead_tokens=(496, 588),
        rate_group="sonnet-4",
        **_OLD_WINDOW,  # type: ignore[arg-type]
    ),
    ClaudeModel(
        id="claude-haiku-5-5",
        line="haiku",
        released="2026-10-07",
        cache_minimum_tokens=512,  # unverified
        thinking_types=("adaptive", "disabled"),
        default_effort="medium",
        rate_group="haiku-5-5",
    ),
    ClaudeModel(
        id="claude-haiku-4-5-20251001",
        aliases=("claude-haiku-4-5",),
        line="haiku",
        released="2025-10-01",
        cache_minimum_tokens=4096,
        efforts=(),
        keeps_thinking=False,
        overhead_tokens=(496, 588),
        rate_group="haiku-4-5",
        **_OLD_WINDOW,  # type: ignore[arg-type]
    ),
)


def _by_name(rows: Iterable[ClaudeModel]) -> dict[str, ClaudeModel]:
    return {name: row for row in rows for name in (row.id, *row.aliases)}


MODELS = {row.id: row for row in _ROWS}
"""Every row by its id, retired ones included."""

_NAMES = _by_name(_ROWS)


def find(name: str, now: float) -> ClaudeModel | None:
    """Return the model behind an id or alias, or None when unknown or retired at `now`."""
    row = _NAMES.get(name)
    return None if row is None or row.retired(now) else row
