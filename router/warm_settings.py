"""What an operator sets of warming, as its parts read it; `router.config` says what is allowed."""

from dataclasses import dataclass

from cache.schedule import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmingSettings:
    """What the operator sets.

    Attributes:
        second_usd: Value of a second less to the first token.
        hold_out: Share of warms that are not sent, at random.
        actions: Actions taken to precede a request on Opus.
        score: Score of a turn on Flash, or chance foreseen, from which the predictive policy warms; in [0, 1].
    """

    policy: Policy
    second_usd: float = 0.0
    hold_out: float = 0.05
    actions: frozenset[str] = frozenset()
    score: float = 0.2
    recipe_bytes_limit: int = 128 << 20
