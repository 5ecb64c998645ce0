"""OperatorService over gRPC: what the ledger, the index and the classifier say, for people who run the router."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cache.belief import Belief
from cache.index import CALIBRATION_BINS, Calibration
from cache.prompt import CacheScope
from classifier.model import Model
from classifier.route import Route
from router.beliefs import Beliefs
from router.clock import Clock
from router.convert_response import ROUTES, cost_fields, duration_fields, usage_fields
from router.drift import Level
from router.errors import InvalidRequest
from router.learning import Learning, ShadowCount
from router.ledger import Comparison, CostRow, Filter, Ledger, WarmRow
from router.ledger.past import Past
from router.money import NANO_PER_USD
from router.v1 import accounting_pb2, operator_service_pb2_grpc
from router.v1 import operator_service_pb2 as pb
from router.warming import Warming

Context = grpc.aio.ServicerContext[Any, Any]

_NO_FIGURES: Mapping[str, float] = MappingProxyType({})
PAGE_SIZE = 100
PAGE_SIZE_LIMIT = 1000
FORCE_REASON_CHARACTERS = 500

_GROUPS = {
    pb.COST_DIMENSION_UNSPECIFIED: "",
    pb.COST_DIMENSION_ROUTE: "route",
    pb.COST_DIMENSION_MODEL: "model",
    pb.COST_DIMENSION_TENANT: "tenant",
    pb.COST_DIMENSION_APPLICATION: "application",
    pb.COST_DIMENSION_DAY: "day",
    pb.COST_DIMENSION_PURPOSE: "purpose",
    pb.COST_DIMENSION_SESSION: "session",
}


class OperatorService(operator_service_pb2_grpc.OperatorServiceServicer):
    """Costs, prefixes and the classifier of one process."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        beliefs: Beliefs,
        scopes: tuple[CacheScope, ...],
        learning: Learning,
        threshold: float | None,
        clock: Clock,
        warming: Warming | None = None,
    ) -> None:
        """Keep references; `scopes` names the caches that prefixes are believed in, `threshold` is the operator's, None
        where each classifier's own holds; no `warming` warms none.
        """
        self._ledger = ledger
        self._beliefs = beliefs
        self._scopes = scopes
        self._learning = learning
        self._classifiers = learning.classifiers
        self._threshold = threshold
        self._clock = clock
        self._warming = warming

    async def GetCosts(self, request: pb.GetCostsRequest, context: Context) -> pb.GetCostsResponse:
        """Sum the ledger."""
        group, where = _group(request), _filter(request)
        standing = (0, 0) if self._warming is None else self._warming.standing()
        rows = await self._ledger.costs((group,) if group else (), where)
        (warms,) = await self._ledger.warms((), where)
        response = _costs_response(group, rows, await self._ledger.totals(where), _warms(warms, *standing))
        past = await self._ledger.past(where)
        if past is not None:
            response.pruned.CopyFrom(pruned_costs(past))
        return response

    async def ListPrefixes(
        self, request: pb.ListPrefixesRequest, context: Context
    ) -> pb.ListPrefixesResponse:
        """List what is believed warm, largest first."""
        if not 0 <= request.page_size <= PAGE_SIZE_LIMIT:
            raise InvalidRequest(
                "page_size",
                f"is {request.page_size}; it must be from 1 to {PAGE_SIZE_LIMIT}, or 0 for {PAGE_SIZE}",
            )
        now_s = self._clock.now()
        warm = [
            (scope, digest, belief)
            for scope in self._scopes
            for digest, belief in self._beliefs.index.entries(scope)
            if belief.p_warm(now_s) > 0
        ]
        warm.sort(key=lambda entry: -entry[2].tokens)
        return pb.ListPrefixesResponse(
            prefixes=[_prefix(*entry, now_s) for entry in warm[: request.page_size or PAGE_SIZE]],
            total_count=len(warm),
            calibrations=[
                _calibration(scope.model, self._beliefs.index.calibration(scope)) for scope in self._scopes
            ],
        )

    async def WarmPrefix(self, request: pb.WarmPrefixRequest, context: Context) -> pb.WarmPrefixResponse:
        """Warm an application's shared layers now, whatever the policy; within the budget, and sent like any warm."""
        if self._warming is None:
            return pb.WarmPrefixResponse(verdict="nothing is warmed here")
        sent = await self._warming.warm_application(request.application)
        settlement = sent.settlement
        if settlement is None or settlement.usage is None:
            return pb.WarmPrefixResponse(verdict=f"{sent.result}: {sent.why}")
        model = settlement.answered_model or settlement.intent.model
        return pb.WarmPrefixResponse(
            usage=usage_fields(settlement.usage),
            cost=None if settlement.cost is None else cost_fields(settlement.cost, model),
            verdict=f"{sent.result}: {sent.why}",
        )

    async def GetClassifier(
        self, request: pb.GetClassifierRequest, context: Context
    ) -> pb.GetClassifierResponse:
        """Show the classifier that scores, its shadow, and how far the traffic is from its training."""
        learning = self._learning
        return pb.GetClassifierResponse(
            classifier=self._classifier(self._classifiers.current(), learning.figures()),
            shadow=None if learning.shadow is None else self._shadow(*learning.shadow),
            drift=[
                pb.DriftFigure(
                    name=each.name,
                    psi=each.psi,
                    alarm_psi=each.alarm_psi,
                    sample_count=each.request_count,
                    alarming=each.level is not Level.NONE,
                )
                for each in learning.drift
            ],
        )

    async def ReloadClassifier(
        self, request: pb.ReloadClassifierRequest, context: Context
    ) -> pb.ReloadClassifierResponse:
        """Load the champion, or the artifact, and the shadow again and swap them in."""
        swap = await self._classifiers.reload()
        return pb.ReloadClassifierResponse(
            classifier=self._classifier(swap.model), previous_digest=swap.previous.digest
        )

    async def PromoteClassifier(
        self, request: pb.PromoteClassifierRequest, context: Context
    ) -> pb.PromoteClassifierResponse:
        """Make a model of the registry the champion, if its gate consents or somebody insists.

        Requests in progress end with the one they began with.
        """
        if not request.digest:
            raise InvalidRequest(
                "digest", "is empty; give the digest of a model of the registry, or its beginning"
            )
        force_reason = request.force_reason.strip()
        if len(force_reason) > FORCE_REASON_CHARACTERS or not force_reason.isprintable():
            raise InvalidRequest(
                "force_reason", f"must be one line of at most {FORCE_REASON_CHARACTERS} characters"
            )
        candidate = await self._classifiers.candidate(request.digest)
        share = await asyncio.to_thread(self._learning.opus_share, candidate, self._threshold_of(candidate))
        swap = await self._classifiers.promote(
            candidate,
            now_s=self._clock.now(),
            reason="PromoteClassifier was called",
            force_reason=force_reason,
        )
        return pb.PromoteClassifierResponse(
            classifier=self._classifier(swap.model),
            expected_shares=[] if share is None else _shares(share),
            previous_digest=swap.previous.digest,
        )

    def _shadow(self, model: Model, count: ShadowCount) -> pb.ShadowReport:
        return pb.ShadowReport(
            classifier=self._classifier(model),
            scored_count=count.scored,
            disagreement_count=count.disagreed,
            mean_score_difference=count.differences / count.scored if count.scored else 0.0,
        )

    def _threshold_of(self, model: Model) -> float:
        return model.manifest.threshold if self._threshold is None else self._threshold

    def _classifier(self, model: Model, figures: Mapping[str, float] = _NO_FIGURES) -> pb.Classifier:
        manifest = model.manifest
        trained = Timestamp()
        trained.FromDatetime(datetime.fromisoformat(manifest.created_time))
        metrics = {
            name: float(value)
            for name, value in manifest.metrics.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        return pb.Classifier(
            digest=model.digest,
            train_time=trained,
            sample_count=manifest.rows,
            threshold=self._threshold_of(model),
            metrics={**metrics, **figures},
        )


def _shares(opus_share: float) -> list[pb.RouteShare]:
    return [
        pb.RouteShare(route=ROUTES[Route.FLASH], share=1.0 - opus_share),
        pb.RouteShare(route=ROUTES[Route.OPUS], share=opus_share),
    ]


def costs_response(
    request: pb.GetCostsRequest,
    costs: Callable[[Sequence[str], Filter | None], list[CostRow]],
    totals: Callable[[Filter | None], CostRow],
    warms: Callable[[Filter | None], WarmRow | None],
) -> pb.GetCostsResponse:
    """Answer GetCosts from a ledger's file, without a server.

    Args:
        warms: What warms came to; None where that cannot be told.

    Raises:
        InvalidRequest: A field of the request is wrong.
    """
    group, where = _group(request), _filter(request)
    found = warms(where)
    report = None if found is None else _warms(found)
    return _costs_response(group, costs((group,) if group else (), where), totals(where), report)


def _costs_response(
    group: str, rows: list[CostRow], total: CostRow, warms: pb.WarmReport | None
) -> pb.GetCostsResponse:
    rows.sort(key=lambda row: -row.cost.total_nano_usd)
    return pb.GetCostsResponse(
        rows=[_row(row, row.group.get(group, "") if group else "total") for row in rows],
        total=_row(total, "total"),
        warms=warms,
    )


def pruned_costs(past: Past) -> pb.PrunedCosts:
    """Spell what a window has lost to sums by day."""
    return pb.PrunedCosts(
        before_time=Timestamp(seconds=int(past.before_s)),
        total=None if past.sums is None else _row(past.sums, "total"),
    )


def _warms(row: WarmRow, open_count: int = 0, switched_off_count: int = 0) -> pb.WarmReport | None:
    """Spell what warms were worth; None when there were none."""
    if not row.decisions and not open_count and not switched_off_count:
        return None
    report = pb.WarmReport(
        used_count=row.used,
        wasted_count=row.wasted,
        superfluous_count=row.superfluous,
        held_out_count=row.held_out,
        open_count=open_count,
        spent_nano_usd=row.cost_nano_usd,
        switched_off_count=switched_off_count,
        brought_nano_usd=row.benefit_nano_usd,
    )
    found = row.estimate
    if found is not None:
        report.benefit_nano_usd = round(found.usd * NANO_PER_USD)
        report.benefit_low_nano_usd = round(found.low_usd * NANO_PER_USD)
        report.benefit_high_nano_usd = round(found.high_usd * NANO_PER_USD)
        report.first_token_gain.FromNanoseconds(round(found.seconds * 1e9))
    return report


def _group(request: pb.GetCostsRequest) -> str:
    if request.dimension == pb.COST_DIMENSION_LABEL:
        if not request.label_key:
            raise InvalidRequest("label_key", "is empty; COST_DIMENSION_LABEL needs the label to sum by")
        return f"label:{request.label_key}"
    if request.label_key:
        raise InvalidRequest("label_key", "is only allowed with COST_DIMENSION_LABEL")
    if request.dimension not in _GROUPS:
        raise InvalidRequest("dimension", f"is {request.dimension}, which this release does not know")
    return _GROUPS[request.dimension]


def _filter(request: pb.GetCostsRequest) -> Filter:
    since_s = _seconds(request.start_time) if request.HasField("start_time") else None
    until_s = _seconds(request.end_time) if request.HasField("end_time") else None
    if since_s is not None and until_s is not None and until_s < since_s:
        raise InvalidRequest("end_time", "lies before start_time")
    equal = {"tenant": request.tenant, "application": request.application}
    return Filter(
        since_s=since_s, until_s=until_s, equal={key: value for key, value in equal.items() if value}
    )


def _seconds(timestamp: Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9


def _row(row: CostRow, key: str) -> pb.CostRow:
    tokens = row.tokens
    return pb.CostRow(
        key=key,
        call_count=row.calls,
        usage=accounting_pb2.Usage(
            input_tokens=tokens.input_tokens,
            cache_read_tokens=tokens.cache_read_tokens,
            cache_write_5m_tokens=tokens.cache_write_5m_tokens,
            cache_write_1h_tokens=tokens.cache_write_1h_tokens,
            output_tokens=tokens.output_tokens,
            thinking_tokens=tokens.thinking_tokens,
            uncached_input_tokens=tokens.uncached_input_tokens,
            complete=row.usage_calls == row.calls and not (row.incomplete_calls or row.unknown_calls),
        ),
        cost=cost_fields(row.cost, ""),
        no_caching=_comparison(row.no_caching),
        all_opus=_comparison(row.all_opus),
        all_flash=_comparison(row.all_flash),
        all_opus_no_caching=_comparison(row.all_opus_no_caching),
        never_switch=_comparison(row.never_switch),
        unknown_cost_count=row.unknown_calls,
        unknown_cost_bound_nano_usd=row.unknown_bound_nano_usd,
        unbounded_count=row.unbounded_calls,
        usage_count=row.usage_calls,
        incomplete_count=row.incomplete_calls,
        incomplete_bound_nano_usd=row.incomplete_bound_nano_usd,
    )


def _comparison(comparison: Comparison) -> pb.CostComparison:
    return pb.CostComparison(
        call_count=comparison.calls,
        baseline_nano_usd=comparison.baseline_nano_usd,
        cost_nano_usd=comparison.cost_nano_usd,
    )


def _calibration(model: str, found: Calibration) -> pb.Calibration:
    return pb.Calibration(
        model=model,
        tested_count=found.tested,
        brier=found.brier / found.tested if found.tested else None,
        bins=[
            pb.CalibrationBin(
                low=number / CALIBRATION_BINS,
                belief_count=tenth.tested,
                mean_predicted=tenth.predicted / tenth.tested,
                held_share=tenth.held / tenth.tested,
            )
            for number, tenth in enumerate(found.bins)
            if tenth.tested
        ],
    )


def _prefix(scope: CacheScope, digest: bytes, belief: Belief, now_s: float) -> pb.WarmPrefix:
    expires = Timestamp()
    expires.FromNanoseconds(round(belief.expires * 1e9))
    return pb.WarmPrefix(
        prefix_key=digest.hex(),
        model=scope.model,
        tokens=belief.tokens,
        warm_probability=belief.p_warm(now_s),
        ttl=duration_fields(belief.ttl_s),
        expire_time=expires,
    )
