"""What each Claude model takes, as data.

Source: A-NEW55, A-EFFORT, A-THINK, A-MODELS (platform.claude.com/docs, read 2026-11). Rows marked (assumed)
follow their nearest documented sibling. This module does not know prices or cache limits.
"""

import re
from dataclasses import dataclass

from router.call import Effort

_DATE_SUFFIX = re.compile(r"-20\d{6}$")
_ALL = (Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.XHIGH, Effort.MAX)
_NO_XHIGH = (Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.MAX)
_THREE = (Effort.LOW, Effort.MEDIUM, Effort.HIGH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What one model takes.

    Attributes:
        efforts: Levels of `output_config.effort`, lowest first; empty when the model has none.
        default_effort: Level an absent effort means, None when not documented (every level is then sent).
        adaptive_thinking: Whether `thinking.type: adaptive` is accepted; else thinking stays off.
        thinks_by_default: Whether it thinks without being asked, so that asking changes nothing but the
            display.
        forced_tool_choice: Whether `tool_choice` may be `any` or `tool`.
        max_output_tokens: Upper limit of `max_tokens`.
        binds_thinking: Whether a thinking block goes back only after the very prompt it was made after; else 400,
            for organisations created on or after 2026-08-31 (A-THINK).
    """

    efforts: tuple[Effort, ...] = _ALL
    default_effort: Effort | None = Effort.HIGH
    adaptive_thinking: bool = True
    thinks_by_default: bool = True
    forced_tool_choice: bool = True
    max_output_tokens: int = 128_000
    binds_thinking: bool = False

    def effort(self, asked: Effort | None) -> Effort | None:
        """Return the level to send, None to send none.

        A level the model lacks becomes the nearest one below it: never dearer than asked. A model without
        levels gets none, and the default level is left out, which the provider treats as equal (A-CACHE).
        """
        if asked is None or not self.efforts:
            return None
        order = list(Effort)
        level = max((e for e in self.efforts if order.index(e) <= order.index(asked)), key=order.index)
        return None if level is self.default_effort else level


_BUDGET_ONLY = Traits(efforts=(), adaptive_thinking=False, thinks_by_default=False, max_output_tokens=64_000)
_FABLE_51 = Traits(default_effort=None, forced_tool_choice=False)  # effort levels assumed

MODELS: dict[str, Traits] = {
    "claude-opus-5-5": Traits(default_effort=Effort.MEDIUM, forced_tool_choice=False, binds_thinking=True),
    "claude-opus-5": Traits(),
    "claude-opus-4-8": Traits(thinks_by_default=False),
    "claude-opus-4-7": Traits(thinks_by_default=False),
    "claude-opus-4-6": Traits(efforts=_NO_XHIGH, thinks_by_default=False),
    "claude-opus-4-5": Traits(
        efforts=_THREE, adaptive_thinking=False, thinks_by_default=False, max_output_tokens=64_000
    ),
    "claude-sonnet-5-5": Traits(forced_tool_choice=False),
    "claude-sonnet-5": Traits(default_effort=None),  # assumed
    "claude-sonnet-4-6": Traits(efforts=_NO_XHIGH, thinks_by_default=False),
    "claude-sonnet-4-5": _BUDGET_ONLY,
    "claude-haiku-5-5": Traits(default_effort=Effort.MEDIUM),
    "claude-haiku-4-5": _BUDGET_ONLY,
    "claude-fable-5-2": _FABLE_51,
    "claude-fable-5-1": _FABLE_51,
    "claude-fable-5": Traits(default_effort=None),  # assumed
    "claude-mythos-5-2": _FABLE_51,
    "claude-mythos-5-1": _FABLE_51,
    "claude-mythos-5": Traits(default_effort=None),  # assumed
}


def traits_of(model: str) -> Traits:
    """Return the row of a model id, dated or not.

    Raises:
        ValueError: If no row knows it; lists the ids that are known.
    """
    traits = MODELS.get(model) or MODELS.get(_DATE_SUFFIX.sub("", model))
    if traits is None:
        raise ValueError(f"unknown Anthropic model {model!r}; known: {', '.join(MODELS)}")
    return traits
