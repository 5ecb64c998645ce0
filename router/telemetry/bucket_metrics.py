"""What is counted by bucket: hit rate and saving of users' calls, by one label of requests.

The rule: one label of requests (`telemetry.bucket_label`, say "feature") may be the bucket: the values in
`telemetry.buckets` have series of their own, others share "other", requests without it are "none". Over users' calls
that may have been billed, refused ones left out, per bucket and route:

    hit rate            tokens read from the cache / all input tokens
    hit rate by calls   calls that read anything / calls whose usage is known
    saving              input cost without caching minus input cost, over the calls where both are known

As PromQL (the route matters: the target of 60 % is about Opus, Flash caches by itself; the `or` stands for a bucket
that never read and whose reads have no series: without it the worst hit rate would be none at all):

    (sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_input_tokens_total{
        hybrid_router_route="opus", hybrid_router_kind="cache_read"}[1h]))
      or 0 * sum by (hybrid_router_bucket) (
        rate(hybrid_router_bucket_input_tokens_total{hybrid_router_route="opus"}[1h])))
      / sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_input_tokens_total{hybrid_router_route="opus"}[1h]))

    (sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_calls_total{
        hybrid_router_route="opus", hybrid_router_cache_result="hit"}[1h]))
      or 0 * sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_calls_total{
        hybrid_router_route="opus", hybrid_router_cache_result!="unknown"}[1h])))
      / sum by (hybrid_router_bucket) (rate(hybrid_router_bucket_calls_total{
        hybrid_router_route="opus", hybrid_router_cache_result!="unknown"}[1h]))

    sum by (hybrid_router_bucket) (increase(hybrid_router_bucket_baseline_input_cost_total[30d]))
      - sum by (hybrid_router_bucket) (increase(hybrid_router_bucket_input_cost_total[30d]))

The alert is the first of these `< 0.6`, and more than a handful of calls in the window.

It does not know what a bucket stands for.
"""

from collections.abc import Sequence

from classifier.route import Route
from router import attributes as names
from router.money import NANO_PER_USD
from router.settlement import Settlement
from router.telemetry.aggregates import Counter
from router.telemetry.labels import INPUT_KINDS, RESULTS, Words, input_counts, result_of

_BUCKETS_STARTED = 50
"""Buckets whose series start at 0; of more, the others' are born with their first count."""


class BucketMetrics:
    """Users' calls, their input and its cost with and without caching, by bucket and route.

    Args:
        words: What may be a label.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        labels = (names.BUCKET, names.ROUTE)
        self.calls = Counter(
            names.BUCKET_CALLS,
            "{call}",
            "Users' calls that may have been billed, by what they proved about the provider's cache: hit, write, "
            "none, unknown (no usage)",
            (*labels, names.CACHE_RESULT),
        )
        self.input = Counter(
            names.BUCKET_INPUT_TOKENS,
            "{token}",
            "Input tokens of users' calls; the kinds do not overlap and add up to all input",
            (*labels, names.TOKEN_KIND),
        )
        self.input_cost = Counter(
            names.BUCKET_INPUT_COST,
            names.USD,
            "USD billed for the input of users' calls whose cost without caching is known too",
            labels,
            divisor=NANO_PER_USD,
        )
        self.baseline = Counter(
            names.BUCKET_BASELINE_INPUT_COST,
            names.USD,
            "USD the input of the same calls would have cost without caching",
            labels,
            divisor=NANO_PER_USD,
        )

    def start(self, buckets: Sequence[str]) -> None:
        """Begin at 0 what is known beforehand; of many buckets, the first."""
        named = (*buckets[:_BUCKETS_STARTED], names.OTHER) if self._words.has_buckets else ()
        for bucket in (*named, names.NONE):
            self._start_bucket(bucket)

    def _start_bucket(self, bucket: str) -> None:
        for route in Route:
            for result in (*RESULTS, "unknown"):
                self.calls.start((bucket, route.value, result))
            for kind in INPUT_KINDS:
                self.input.start((bucket, route.value, kind))
            self.input_cost.start((bucket, route.value))
            self.baseline.start((bucket, route.value))

    def record(self, settlement: Settlement, route: str) -> None:
        """Count a user's attempt that may have been billed."""
        bucket, usage = self._words.bucket_of(settlement.intent), settlement.usage
        if usage is None:
            self.calls.add((bucket, route, "unknown"))
            return
        self.calls.add((bucket, route, result_of(usage)))
        for kind, count in input_counts(usage):
            if count:
                self.input.add((bucket, route, kind), count)
        cost, otherwise = settlement.cost, settlement.counterfactuals
        if cost is None or otherwise is None or otherwise.no_caching_nano_usd is None:
            return
        # Output costs the same with and without caching, so the whole difference is the input's.
        paid = cost.input_nano_usd
        self.input_cost.add((bucket, route), paid)
        self.baseline.add((bucket, route), paid + otherwise.no_caching_nano_usd - cost.total_nano_usd)
