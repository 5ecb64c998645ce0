"""Failures on demand, as values.

Rule: a fault is chosen by the test or by a directive in the request, never by chance. Injected faults are
consumed in the order in which they were injected, each by the first `times` generation requests that match
it, after the request has passed validation (a malformed request stays a 400). Token counting and model
listing never fail on purpose.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, get_args

FaultKind = Literal[
    "rate_limit",
    "spend_cap",
    "overloaded",
    "internal",
    "timeout_error",
    "reset",
    "stall",
    "cut",
    "error_event",
    "malformed",
]
KINDS: frozenset[str] = frozenset(get_args(FaultKind))
UPSTREAMS = ("anthropic", "gemini")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail.

    Args:
        kind: what happens; see the table in the README. times: how many matching requests fail. upstream:
        only this face ("anthropic", "gemini"); None is both. model: only this requested or answering model;
        None is any. retry_after_s: the delay told with a rate limit; None tells none. after_events: how
        many stream events pass before a mid-stream fault; None is half of them (for `reset` and
            `stall`: before the headers).
        stall_s: how long a stall lasts on the clock; None is until the client gives up.
        should_retry: what Anthropic's `x-should-retry` header of an error says; None leaves it out.
        message: replaces the default error message.
    """

    kind: FaultKind
    times: int = 1
    upstream: str | None = None
    model: str | None = None
    retry_after_s: float | None = None
    after_events: int | None = None
    stall_s: float | None = None
    should_retry: bool | None = None
    message: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault kind {self.kind!r}; one of {', '.join(sorted(KINDS))}")
        if self.upstream is not None and self.upstream not in UPSTREAMS:
            raise ValueError(f"unknown upstream {self.upstream!r}; one of {', '.join(UPSTREAMS)}")
        if self.times < 1:
            raise ValueError("a fault happens at least once")

    def matches(self, upstream: str, models: tuple[str, ...]) -> bool:
        """Whether a request to `upstream` for one of the `models` names is meant."""
        return self.upstream in (None, upstream) and (self.model is None or self.model in models)

    @property
    def before_headers(self) -> bool:
        """Whether the fault strikes before the response begins."""
        match self.kind:
            case "reset" | "stall":
                return self.after_events is None
            case "cut" | "error_event" | "malformed":
                return False
            case _:
                return True


@dataclass(slots=True)
class _Pending:
    fault: Fault
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.fault.times


class FaultQueue:
    """Injected faults, first in, first out."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()

    def __len__(self) -> int:
        return sum(p.left for p in self._pending)

    def inject(self, fault: Fault) -> None:
        """Let the next `fault.times` matching requests fail."""
        self._pending.append(_Pending(fault))

    def take(self, upstream: str, models: tuple[str, ...]) -> Fault | None:
        """Consume one occurrence of the first fault that means this request."""
        for pending in self._pending:
            if pending.fault.matches(upstream, models):
                pending.left -= 1
                if pending.left == 0:
                    self._pending.remove(pending)
                return pending.fault
        return None

    def clear(self) -> None:
        """Forget every pending fault."""
        self._pending.clear()
