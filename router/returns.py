"""What the cache that an Opus answer leaves warm is worth: G of economics 5.1, in whole nano-USD.

The rule: summed over the plan's breakpoints, each with the tokens it adds, at (w - r) x Opus's input price,

    private (context, history, turn)   P(another turn before it expires) x P(that turn wants Opus)
    shared (tools, system)             P(not warm already) x P(any request before it expires wants Opus)

What is shared and warm is kept warm by others and adds nothing. What is shared and COLD is written once for all who
come within its TTL; charged to the first request alone, it would keep a router that is careful with money off Opus for
ever, because no single answer is worth the whole write. With q the mean score of the application and p the chance of
any request, arrivals being Poisson, some request wants Opus with chance 1 - (1 - p)^q.

Turns are counted on whatever route they took, apart from `Beliefs.demand`, which counts those of the route whose cache
it speaks of: asked there, a conversation that went to Flash would look as if it had ended. Kept only where a value per
answer decides (a setting or a budget), since nothing else reads it. Bounded; a restart forgets it and begins with the
priors of `cache.forecast`.
"""

from typing import NamedTuple

from cache.demand import Demand
from cache.forecast import Forecast
from cache.prompt import CacheScope, Layer
from cache.rules import TTL_5M_S
from classifier.decision import SessionState
from classifier.route import Score
from classifier.thresholds import PRIOR_WISH, leaves_warm_nano_usd, wanted_next
from router.beliefs import CacheView
from router.memory import Remembered
from router.pricing import Price

ANY_ROUTE = CacheScope("any", "any", "any")
"""Conversations are counted under this scope, whichever provider answered."""
FORGETTING = 0.995
"""Weight kept by an application's mean score with each new one."""
_FEMTO_PER_NANO = 1_000_000


class Premium(NamedTuple):
    """The write premium that the next request is spared, whole nano-USD.

    Attributes:
        private_nano_usd: Of the conversation's own prefix, times P(another turn in time); whoever asks next is not in
            it.
        shared_nano_usd: Of what is shared and cold, times P(a request in time that wants Opus).
    """

    private_nano_usd: int = 0
    shared_nano_usd: int = 0


class Returns:
    """How soon conversations go on, on any route. Not thread-safe; time is passed in."""

    def __init__(self, limit: int) -> None:
        """Remember at most `limit` prefixes, and as many turns that wait for their next."""
        self._demand = Demand(max_prefixes=limit, max_waiting=limit)
        self._wishes: dict[str, float] = {}  # by registered application, so bounded by the settings

    def arrive(self, view: CacheView, application: str, now_s: float, score: float | None) -> None:
        """Count one request; once per request, with Opus's view of it.

        Args:
            application: Name of a registered one, "" for none.
            score: In [0, 1]; None when nothing scored.
        """
        self._demand.arrive(ANY_ROUTE, view.prompt, view.digests, now_s, application, view.counts)
        if score is not None:
            wish = self._wishes.get(application, PRIOR_WISH)
            self._wishes[application] = FORGETTING * wish + (1 - FORGETTING) * score

    def premium(
        self, view: CacheView, price: Price, application: str, now_s: float, expected_follow_ups: int | None
    ) -> Premium:
        """What the cache that Opus would leave warm spares later requests.

        Args:
            price: Of the Opus model.
            expected_follow_ups: The caller's own word on its layers, which outweighs what was learnt.
        """
        plan = view.plan
        if not plan.breakpoints:
            return Premium()
        forecasts = self._demand.forecasts(
            ANY_ROUTE, view.prompt, view.digests, now_s, application, view.counts
        )
        told = None
        if expected_follow_ups is not None:
            p_next = expected_follow_ups / (expected_follow_ups + 1)
            told = Forecast(p_next, p_next)
        price = price.for_input(plan.total_tokens)
        rates, wish = price.rates(), self._wishes.get(application, PRIOR_WISH)
        private = shared = 0.0
        start = 0
        for mark in plan.breakpoints:
            if mark.prefix_tokens < plan.minimum_tokens:
                continue
            is_private = mark.layer >= Layer.CONTEXT
            forecast = told if told is not None and is_private else forecasts[mark.layer]
            p_next = forecast.p_5m if mark.ttl_s <= TTL_5M_S else forecast.p_1h
            units = (rates.write(mark.ttl_s) - rates.read) * (mark.prefix_tokens - start)
            if is_private:
                private += p_next * units
            else:
                shared += (1 - mark.p_warm) * (1 - (1 - p_next) ** wish) * units
            start = mark.prefix_tokens
        per_token = price.femto_usd[0] / _FEMTO_PER_NANO
        return Premium(round(private * per_token), round(shared * per_token))


def opus_leaves_nano_usd(
    premium: Premium, score: Score | None, session: SessionState, remembered: Remembered | None
) -> int:
    """G of one request, whole nano-USD."""
    said = None if score is None or session.is_follow_up else score.value
    mean, count = (0.0, 0) if remembered is None else (remembered.score_mean, remembered.scored_count)
    wanted = wanted_next(said, mean, count)
    return premium.shared_nano_usd + leaves_warm_nano_usd(premium.private_nano_usd, wanted)
