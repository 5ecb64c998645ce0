"""What is left of a provider's rate limit, as its last answer said.

The rule: Claude's API says with every answer how many requests and input tokens of a minute are granted and left
(A-RATE, 2026-11: `anthropic-ratelimit-*`, token buckets that fill continuously); the share left is that of the tighter
one, and has grown by a minute's share since. Noting an answer keeps its headers and reads none of them: it costs a
request 0.1 us, and who asks pays for reading. An answer without such headers leaves the share unknown; a refusal counts
if it has them, and otherwise changes nothing.
"""

import time
from collections.abc import Mapping

_LIMITED = ("requests", "input-tokens")
_REFILL_S = 60.0
_DIGITS = 20


class RateRoom:
    """The last answer's headers, and when they came."""

    __slots__ = ("_at_s", "_headers")

    def __init__(self) -> None:
        """Start without an answer."""
        self._headers: Mapping[str, str] | None = None
        self._at_s = 0.0

    def note(self, headers: Mapping[str, str]) -> None:
        """An answer came with these."""
        self._headers = headers
        self._at_s = time.monotonic()

    def refused(self, headers: Mapping[str, str]) -> None:
        """A refusal came with these: one that does not say what is left leaves what was known."""
        if any(_share(headers, name) is not None for name in _LIMITED):
            self.note(headers)

    def share(self, now_s: float | None = None) -> float | None:
        """Share of a minute's limit that is left, in [0, 1]; None when no answer said.

        Args:
            now_s: Of `time.monotonic`; None for now.
        """
        if self._headers is None:
            return None
        age_s = (time.monotonic() if now_s is None else now_s) - self._at_s
        shares = [_share(self._headers, name) for name in _LIMITED]
        known = [share for share in shares if share is not None]
        return min(1.0, min(known) + max(0.0, age_s) / _REFILL_S) if known else None


def _share(headers: Mapping[str, str], name: str) -> float | None:
    limit = _number(headers.get(f"anthropic-ratelimit-{name}-limit", ""))
    left = _number(headers.get(f"anthropic-ratelimit-{name}-remaining", ""))
    if limit is None or left is None or limit <= 0:
        return None
    return max(0, min(left, limit)) / limit


def _number(text: str) -> int | None:
    """What a header says, None for what is no number: overdrawn is less than none, a number of 20 digits is none."""
    return int(text) if len(text) < _DIGITS and text.isascii() and text.removeprefix("-").isdigit() else None
