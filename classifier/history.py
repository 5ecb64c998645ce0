"""What a session's earlier turns came to, as the classifier may see it: routes, how the last answer ended, its age.

Rule: counts and words of small closed lists, never text; bounded whatever the session's length. A session nobody
remembers has `NO_HISTORY`, whose columns are all 0: what is unknown says nothing. The same record is made in serving
(by whoever keeps sessions, with `after` and `judged`) and read from label files, and `columns` is what both score.

It does not know the text of any turn, nor where sessions are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log1p
from sys import intern
from typing import Any, Final

import msgspec

RECENT_ROUTES: Final = 8
"""Last answered turns whose routes are told one by one."""

TURN_LIMIT: Final = 1_000_000
"""Bound of the counts of turns."""

IDLE_LIMIT_S: Final = 30 * 86_400
"""Longest time since the last answer that is told; longer is this."""

ROUTE_LETTERS: Final = {"flash": "f", "opus": "o"}

FINISHES: Final = (
    "end_turn", "max_tokens", "stop_sequence", "tool_call", "refusal", "context_window", "paused", "malformed",
    "other",
)  # fmt: skip
"""How an answer may have ended, in the service's own words for both providers."""

VERDICTS: Final = ("good", "bad", "flash_sufficed", "opus_needed")

_IDLE_STEPS_S: Final = (60.0, 300.0, 3_600.0, 86_400.0)
"""A minute, a short cache's life, a long one's, a day: each passed is one step."""

HISTORY_NAMES: Final = (
    "recent_opus_share", "recent_switches", "flash_turns_log", "opus_turns_log", "last_cut_off", "last_refused",
    "last_malformed", "last_escalated", "judged_good", "judged_bad", "judged_opus_needed",
    "judged_flash_sufficed", "idle_known", "idle_steps",
)  # fmt: skip
"""Column names of `History.columns`, in order."""

_NOTHING: Final = (0.0,) * len(HISTORY_NAMES)


class History(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Of one session, before the turn that is scored.

    Attributes:
        flash_turns, opus_turns: Turns that each route answered, at most `TURN_LIMIT`.
        recent_routes: Routes of the last answered turns, one letter of `ROUTE_LETTERS` each, newest last; at most
            `RECENT_ROUTES`.
        last_finish: How the last answer ended, one of `FINISHES`, or None.
        last_escalated: Whether Opus gave the last answer because Flash's had failed.
        last_verdict: What somebody said of the last answer, one of `VERDICTS`, or None.
        idle_s: Whole seconds since the last answer, at most `IDLE_LIMIT_S`, or None.
    """

    flash_turns: int = 0
    opus_turns: int = 0
    recent_routes: str = ""
    last_finish: str | None = None
    last_escalated: bool = False
    last_verdict: str | None = None
    idle_s: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.flash_turns <= TURN_LIMIT or not 0 <= self.opus_turns <= TURN_LIMIT:
            raise ValueError(f"flash_turns and opus_turns must be within [0, {TURN_LIMIT}]")
        if len(self.recent_routes) > RECENT_ROUTES or self.recent_routes.strip("fo"):
            raise ValueError(f"recent_routes must be at most {RECENT_ROUTES} letters f or o")
        if self.last_finish is not None and self.last_finish not in FINISHES:
            raise ValueError(f"last_finish must be one of {', '.join(FINISHES)} or None")
        if self.last_verdict is not None and self.last_verdict not in VERDICTS:
            raise ValueError(f"last_verdict must be one of {', '.join(VERDICTS)} or None")
        if self.idle_s is not None and not 0 <= self.idle_s <= IDLE_LIMIT_S:
            raise ValueError(f"idle_s must be within [0, {IDLE_LIMIT_S}] or None")

    def after(self, route: str, finish: str | None, *, escalated: bool = False) -> History:
        """The history once `route` has answered a turn; what was said of the answer before is past.

        Args:
            route: "flash" or "opus".
            finish: One of `FINISHES`; another word counts as "other", None as unknown.
        """
        opus = route == "opus"
        return History(
            flash_turns=min(self.flash_turns + (not opus), TURN_LIMIT),
            opus_turns=min(self.opus_turns + opus, TURN_LIMIT),
            # 510 strings in all: a million sessions share them.
            recent_routes=intern((self.recent_routes + ROUTE_LETTERS[route])[-RECENT_ROUTES:]),
            last_finish=finish if finish is None or finish in FINISHES else "other",
            last_escalated=escalated,
        )

    def judged(self, verdict: str) -> History:
        """The history once somebody has judged the last answer."""
        return msgspec.structs.replace(self, last_verdict=verdict)

    def idle_for(self, idle_s: float) -> History:
        """The history when the last answer is `idle_s` seconds old; a clock that went back counts as 0."""
        return History(
            flash_turns=self.flash_turns,
            opus_turns=self.opus_turns,
            recent_routes=self.recent_routes,
            last_finish=self.last_finish,
            last_escalated=self.last_escalated,
            last_verdict=self.last_verdict,
            idle_s=int(min(max(idle_s, 0.0), IDLE_LIMIT_S)),
        )

    def columns(self) -> tuple[float, ...]:
        """One finite number per `HISTORY_NAMES`; zeros for what is not known. Costs 1 us, nothing for no history."""
        if self is NO_HISTORY:
            return _NOTHING
        recent, finish, verdict, idle_s = (
            self.recent_routes,
            self.last_finish,
            self.last_verdict,
            self.idle_s,
        )
        return (
            recent.count("o") / len(recent) if recent else 0.0,
            float(recent.count("fo") + recent.count("of")),
            log1p(self.flash_turns),
            log1p(self.opus_turns),
            1.0 if finish == "max_tokens" or finish == "context_window" else 0.0,
            1.0 if finish == "refusal" else 0.0,
            1.0 if finish == "malformed" else 0.0,
            1.0 if self.last_escalated else 0.0,
            1.0 if verdict == "good" else 0.0,
            1.0 if verdict == "bad" else 0.0,
            1.0 if verdict == "opus_needed" else 0.0,
            1.0 if verdict == "flash_sufficed" else 0.0,
            0.0 if idle_s is None else 1.0,
            0.0 if idle_s is None else float(sum([idle_s >= step for step in _IDLE_STEPS_S])),
        )

    def to_row(self) -> dict[str, Any]:
        """A JSON-ready row: every field that differs from its default."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if value != _DEFAULTS[name]
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> History:
        """Read a row of `to_row`.

        Raises:
            ValueError: An unknown field, or a value of the wrong type or out of bounds; the message names it.
        """
        try:
            found = msgspec.convert(dict(row), _StrictHistory)
        except msgspec.ValidationError as error:
            raise ValueError(f"history: {error}") from error
        read = cls(**msgspec.structs.asdict(found))
        return NO_HISTORY if read == NO_HISTORY else read


class _StrictHistory(msgspec.Struct, forbid_unknown_fields=True):
    """The form of a row, for checking types; the bounds are `History`'s."""

    flash_turns: int = 0
    opus_turns: int = 0
    recent_routes: str = ""
    last_finish: str | None = None
    last_escalated: bool = False
    last_verdict: str | None = None
    idle_s: int | None = None


NO_HISTORY: Final = History()
"""Of a session that nobody remembers, or that has not been answered."""

_DEFAULTS: Final[dict[str, Any]] = msgspec.structs.asdict(NO_HISTORY)
