"""What each route is expected to cost for one request, before any call.

The rule: expected means given what is believed warm now; cold means nothing is. Both are nano-USD from the same
price table that will price the answer, or None when a price or a token count is unknown.
"""

from collections import OrderedDict

import msgspec

from classifier.route import Route

PRIOR_OUTPUT_TOKENS = 500.0
"""Assumed answer before any was seen; between the seed's 800 for Opus and short tool calls on Flash."""
FORGETTING = 0.9
"""Weight kept by the past with each new answer."""


class RouteEstimate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One route's side of the decision.

    Attributes:
        unavailable: Why the route cannot take the request, "" when it can.
        held_for_s: Time until its open circuit lets an attempt through, when only that makes it unavailable; else None.
        expected_nano_usd: Expected cost given what is believed warm, None when unknown.
        cold_nano_usd: Cost if nothing is warm, None when unknown.
        input_tokens: Prompt in this model's tokens, estimated, cache included.
        output_tokens: Answer assumed.
    """

    route: Route
    model: str
    unavailable: str = ""
    held_for_s: float | None = None
    expected_nano_usd: int | None = None
    cold_nano_usd: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0


class OutputForecast:
    """Expected answer length by (application, route), learned from settled calls; bounded, oldest forgotten."""

    def __init__(self, limit: int = 4096) -> None:
        """Keep at most `limit` pairs."""
        self._limit = limit
        self._means: OrderedDict[tuple[str, Route], float] = OrderedDict()

    def expect(self, application: str, route: Route, max_output_tokens: int) -> int:
        """Expected output tokens, thinking included, at most `max_output_tokens`."""
        mean = self._means.get((application, route), PRIOR_OUTPUT_TOKENS)
        return min(max_output_tokens, max(1, round(mean)))

    def observe(self, application: str, route: Route, output_tokens: int) -> None:
        """Learn from one complete answer."""
        key = (application, route)
        before = self._means.pop(key, None)
        self._means[key] = (
            float(output_tokens) if before is None else FORGETTING * before + (1 - FORGETTING) * output_tokens
        )
        if len(self._means) > self._limit:
            self._means.popitem(last=False)
