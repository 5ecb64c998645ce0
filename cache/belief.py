"""What we believe of one cached prefix at an instant, and how surely.

The rule: a belief is a value taken at a time. It says when the entry can be read (from the first byte of the
request that wrote it) and until when (its TTL after the START of the request that last touched it), and with
what chance it is there at all. Nobody but the provider knows; usage corrects us afterwards.
"""

from math import inf
from typing import NamedTuple


class Belief(NamedTuple):
    """An entry we believe in.

    Attributes:
        tokens: Tokens of the whole prefix; what usage proved where `exact`, else an estimate.
        exact: Whether a call's usage gave `tokens`.
        ttl_s: TTL it was written with.
        expires: Instant it ends, in the caller's clock.
        available_from: Instant it can first be read; infinity while the writer has not answered.
        confidence: Chance in [0, 1] that the entry exists between those instants.
        begun: Start of the first of the requests that wrote it at the same time; infinity when nobody saw one. A
            request that starts between this and `available_from` is part of a herd.
        lapsed: While it is being written anew: instant at which the entry before it ended; None without one.
    """

    tokens: int
    exact: bool
    ttl_s: int
    expires: float
    available_from: float
    confidence: float
    begun: float = inf
    lapsed: float | None = None

    def p_warm(self, now: float) -> float:
        """Chance in [0, 1] that a request starting `now` can read it."""
        return self.confidence if self.available_from <= now < self.expires else 0.0
