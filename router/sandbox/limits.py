"""Rate limits as token buckets, and the headers that show them (A-RATE, 2026-11).

Rule: one bucket set per workspace and model group, refilled continuously; input counts uncached and written
tokens, never cache reads; output counts what was produced. The vendor limits per organisation; the sandbox
has one organisation per workspace. It does not model acceleration limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from router.sandbox.settings import RateLimits
from router.sandbox.wire import Headers


@dataclass(slots=True)
class _Bucket:
    per_minute: int
    level: float
    at: float

    def refill(self, now: float) -> None:
        rate = self.per_minute / 60
        self.level = min(float(self.per_minute), self.level + max(0.0, now - self.at) * rate)
        self.at = max(self.at, now)

    def full_at(self) -> float:
        return self.at + (self.per_minute - self.level) * 60 / self.per_minute

    def wait_s(self, amount: float) -> float:
        return max(0.0, (amount - self.level) * 60 / self.per_minute)


class RateLimiter:
    """Buckets by (workspace, model group)."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._buckets: dict[tuple[str, str], dict[str, _Bucket]] = {}

    def clear(self) -> None:
        """Fill every bucket."""
        self._buckets.clear()

    def shortage(self, workspace: str, group: str, input_tokens: int, now: float) -> tuple[str, float] | None:
        """Return which limit a request would exceed and after how many seconds it would not, or None.

        A bucket smaller than the request only has to be full.
        """
        buckets = self._at(workspace, group, now)
        for name, amount in (("requests", 1), ("input tokens", input_tokens), ("output tokens", 1)):
            bucket = buckets[name]
            if bucket.level < min(amount, bucket.per_minute):
                return name, bucket.wait_s(min(amount, bucket.per_minute))
        return None

    def charge(self, workspace: str, group: str, now: float, **amounts: float) -> None:
        """Take requests, input_tokens or output_tokens out of the buckets; levels may fall below zero."""
        buckets = self._at(workspace, group, now)
        for name, amount in amounts.items():
            buckets[name.replace("_", " ")].level -= amount

    def headers(self, workspace: str, group: str, now: float) -> Headers:
        """Return the rate-limit headers of an answer; token remainders are rounded to thousands."""
        buckets = self._at(workspace, group, now)
        tightest = min(
            (buckets["input tokens"], buckets["output tokens"]), key=lambda b: b.level / b.per_minute
        )
        shown = (
            ("requests", buckets["requests"], 1),
            ("tokens", tightest, 1000),
            ("input-tokens", buckets["input tokens"], 1000),
            ("output-tokens", buckets["output tokens"], 1000),
        )
        out: list[tuple[str, str]] = []
        for name, bucket, step in shown:
            remaining = max(0, math.floor(bucket.level / step) * step)
            out.append((f"anthropic-ratelimit-{name}-limit", str(bucket.per_minute)))
            out.append((f"anthropic-ratelimit-{name}-remaining", str(remaining)))
            out.append((f"anthropic-ratelimit-{name}-reset", rfc3339(bucket.full_at())))
        return tuple(out)

    def _at(self, workspace: str, group: str, now: float) -> dict[str, _Bucket]:
        buckets = self._buckets.get((workspace, group))
        if buckets is None:
            limits = self._limits
            sizes = (
                ("requests", limits.requests),
                ("input tokens", limits.input_tokens),
                ("output tokens", limits.output_tokens),
            )
            buckets = {name: _Bucket(size, size, now) for name, size in sizes}
            self._buckets[workspace, group] = buckets
        for bucket in buckets.values():
            bucket.refill(now)
        return buckets


def rfc3339(instant: float) -> str:
    """Format an instant as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(math.ceil(instant), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
