"""Every instrument of one process, and how a settlement becomes numbers in each.

The rule: what is counted stands with its noun (`gen_ai_metrics`, `spend_metrics`, `cache_metrics`, `warm_metrics`,
`bucket_metrics`, `decision_metrics`); labels are bounded (`labels`), counts exact, and unknown is not zero. What most
settlements are, a user's call with an answer and all its figures, is counted in cells that were found once.

Started series. A counter born with its first count hides it from rate() and increase(), and the first miss or the
first call of unknown cost is the one to see. So the series of users' calls whose labels are closed and few start at 0:
about 250 of them without buckets, 20 more per bucket. Those of the router's own calls, of applications and tenants,
and decisions are still born with their first count.

This module does not know how metrics leave the process, and reads no clock but to date what is collected.
"""

from collections.abc import Iterable, Sequence
from time import time_ns

from opentelemetry.sdk.metrics.export import Metric

from router import attributes as names
from router.settlement import Outcome, Purpose, Settlement
from router.telemetry.aggregates import Counter, Histogram, Observed
from router.telemetry.bucket_metrics import BucketMetrics
from router.telemetry.cache_metrics import CacheMetrics
from router.telemetry.call_counts import CallCounts
from router.telemetry.decision_metrics import DecisionMetrics
from router.telemetry.gen_ai_metrics import ChunkTimer, GenAiMetrics, InferenceTarget
from router.telemetry.labels import COST_PARTS, INPUT_KINDS, RESULTS, SCENARIOS, TOKEN_KINDS, Words
from router.telemetry.spend_metrics import SpendMetrics
from router.telemetry.warm_metrics import WarmMetrics

_COUNTS_LIMIT = 1024
"""Sorts of call whose cells are kept; answers name their model freely, and it must not grow with them."""


class Metrics:
    """All instruments of one process.

    Args:
        applications: Names that may be labels.
        tenants: Likewise.
        bucket_label: Name of the request label that is the bucket, "" for none.
        buckets: Its values that may be labels.
    """

    def __init__(
        self,
        applications: Iterable[str] = (),
        tenants: Iterable[str] = (),
        *,
        bucket_label: str = "",
        buckets: Iterable[str] = (),
    ) -> None:
        buckets = tuple(buckets)
        self._words = words = Words(applications, tenants, bucket_label, buckets)
        self._call_counts: dict[tuple[str, ...], CallCounts] = {}
        self.gen_ai = GenAiMetrics(words)
        self.spend = SpendMetrics(words)
        self.cache = CacheMetrics(words)
        self.warms = WarmMetrics()
        self.buckets = BucketMetrics(words)
        self.decisions = DecisionMetrics(words)
        self.spend.start()
        self.cache.start()
        self.buckets.start(sorted(buckets))
        self.decisions.start()

    def add_target(self, target: InferenceTarget, route: str = "") -> None:
        """Make an upstream known, so that its calls carry its provider, host and model as labels.

        With its route, the series of users' calls on it start at 0.
        """
        self.gen_ai.add_target(target)
        if route:
            self.spend.start_model(route, target.name, target.model)
            self.cache.start_model(route, target.model)

    def record_settlement(self, settlement: Settlement, chunks: ChunkTimer | None = None) -> None:
        """Count one settled attempt: duration, tokens, cost, cache."""
        if not self._record_answered(settlement, chunks):
            self._record_any(settlement, chunks)

    def _record_answered(self, settlement: Settlement, chunks: ChunkTimer | None) -> bool:
        """Count what most settlements are, a user's call with an answer and all figures; False for another."""
        intent, usage, cost = settlement.intent, settlement.usage, settlement.cost
        otherwise, cache = settlement.counterfactuals, settlement.cache
        if (
            settlement.outcome is not Outcome.OK
            or intent.purpose is not Purpose.USER
            or usage is None
            or cost is None
            or otherwise is None
            or cache is None
            or settlement.discarded
        ):
            return False
        counts = self._counts_of(settlement)
        if counts is None:
            return False
        counts.count(settlement.duration_s, cache.expected_read_tokens, usage, cost, otherwise)
        if intent.stream:
            self.gen_ai.record_chunks(self.gen_ai.labels_of(settlement), settlement, chunks)
        if cache.misses or cache.padding_nano_usd:
            self.cache.record_losses(cache, intent.application, intent.route, Purpose.USER.value)
        return True

    def _counts_of(self, settlement: Settlement) -> CallCounts | None:
        """The cells of a user's answered call; None when too many sorts of call are known already."""
        intent, words = settlement.intent, self._words
        application, tenant = words.application(intent.application), words.tenant(intent.tenant)
        bucket = words.bucket_of(intent)
        key = (
            intent.route,
            intent.upstream,
            intent.model,
            settlement.answered_model,
            application,
            tenant,
            bucket,
        )
        counts = self._call_counts.get(key)
        if counts is None and len(self._call_counts) < _COUNTS_LIMIT:
            counts = self._call_counts[key] = self._new_counts(settlement, application, tenant, bucket)
        return counts

    def _new_counts(self, settlement: Settlement, application: str, tenant: str, bucket: str) -> CallCounts:
        intent, labels = settlement.intent, self.gen_ai.labels_of(settlement)
        route, user, model = intent.route, Purpose.USER.value, self._words.model(intent.model)
        return CallCounts(
            calls=self.spend.calls.cell(
                (route, self._words.upstream(intent.upstream), model, user, Outcome.OK.value)
            ),
            tokens=[self.spend.tokens.cell((route, model, user, kind)) for kind in TOKEN_KINDS],
            results=[self.cache.calls.cell((route, model, user, result)) for result in RESULTS],
            belief=[self.cache.belief.cell((route, user, kind)) for kind in ("expected", "read")],
            cost=[self.spend.cost.cell((route, user, part)) for part in COST_PARTS],
            booked=self.spend.booked_cost.cell((application, tenant, route, user)),
            counterfactual=[self.spend.counterfactual_cost.cell((route, each)) for each in SCENARIOS],
            saving=self.spend.saving.cell((route,)),
            bucket_results=[self.buckets.calls.cell((bucket, route, result)) for result in RESULTS],
            bucket_input=[self.buckets.input.cell((bucket, route, kind)) for kind in INPUT_KINDS],
            bucket_cost=self.buckets.input_cost.cell((bucket, route)),
            baseline=self.buckets.baseline.cell((bucket, route)),
            duration=self.gen_ai.operation_duration.series((*labels, "")),
            tokens_in=self.gen_ai.token_usage.series((*labels, names.TOKEN_TYPE_INPUT)),
            tokens_out=self.gen_ai.token_usage.series((*labels, names.TOKEN_TYPE_OUTPUT)),
        )

    def _record_any(self, settlement: Settlement, chunks: ChunkTimer | None) -> None:
        intent = settlement.intent
        route, purpose, model = intent.route, str(intent.purpose), self._words.model(intent.model)
        self.gen_ai.record(settlement, chunks)
        self.spend.record(settlement, route, model, purpose)
        self.cache.record(settlement, route, model, purpose)
        if intent.purpose is Purpose.USER and settlement.outcome is not Outcome.REFUSED:
            self.buckets.record(settlement, route)

    def collect(self) -> Sequence[Metric]:
        """Return every metric that has a series; from any thread."""
        now_ns = time_ns()
        found = (instrument.collect(now_ns) for instrument in self.instruments())
        return [metric for metric in found if metric is not None]

    def instruments(self) -> Iterable[Counter | Histogram | Observed]:
        """Give every instrument there is."""
        groups = (self.gen_ai, self.spend, self.cache, self.warms, self.buckets, self.decisions)
        for group in groups:
            for value in tuple(vars(group).values()):  # the loop may add one while another thread collects
                if isinstance(value, Counter | Histogram | Observed):
                    yield value
