"""Cache diagnostics: the first thing that differs from an earlier request (A-DIAG, A-SDK; 2026-11).

Rule: only requests that carried a `diagnostics` object leave a fingerprint, per workspace, for an hour and
at most a thousand of them. Compared in prefix order: model or speed, tools, system, messages, then
everything else. Appending is not a difference. `cache_missed_input_tokens` is what the earlier prompt held
past the common part.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from router.sandbox.anthropic_models import Level
from router.sandbox.anthropic_prompt import Prompt
from router.sandbox.wire import Json

_KEPT = 1_000
_RETENTION_S = 3_600.0


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    at: float
    model: tuple[str, str]
    prompt: Prompt


class Diagnostics:
    """Fingerprints of recent requests by (workspace, message id)."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], _Fingerprint] = OrderedDict()

    def clear(self) -> None:
        """Forget every fingerprint."""
        self._known.clear()

    def remember(self, workspace: str, message_id: str, prompt: Prompt, speed: str, now: float) -> None:
        """Keep the fingerprint of an answered request."""
        self._known[workspace, message_id] = _Fingerprint(now, (prompt.model.id, speed), prompt)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def compare(
        self, workspace: str, previous: str | None, prompt: Prompt, speed: str, now: float
    ) -> Json | None:
        """Return the `diagnostics` object for a request that follows message `previous`."""
        if previous is None:
            return None
        earlier = self._known.get((workspace, previous))
        if earlier is None:
            return _reason("previous_message_not_found")
        if now - earlier.at > _RETENTION_S:
            return _reason("unavailable")
        if earlier.model != (prompt.model.id, speed):
            return _reason("model_changed", earlier.prompt.total_tokens)
        return _content_difference(earlier.prompt, prompt)


def _content_difference(earlier: Prompt, now: Prompt) -> Json | None:
    common = 0
    limit = min(len(earlier.positions), len(now.positions))
    while common < limit and earlier.positions[common].digest == now.positions[common].digest:
        common += 1
    if common == len(earlier.positions):
        return None if earlier.scopes == now.scopes else _reason("unavailable")
    level = earlier.positions[common].level
    if common < len(now.positions):
        level = _first(level, now.positions[common].level)
    missed = earlier.total_tokens - (earlier.positions[common - 1].tokens if common else 0)
    return _reason(f"{level.value}_changed", missed)


def _first(left: Level, right: Level) -> Level:
    order = list(Level)
    return min(left, right, key=order.index)


def _reason(kind: str, missed: int | None = None) -> Json:
    reason: Json = {"type": kind}
    if missed is not None:
        reason["cache_missed_input_tokens"] = missed
    return {"cache_miss_reason": reason}
