"""OperatorService over gRPC: what the ledger, the index and the classifier say, for people who run the router."""

import asyncio
from collections.abc import Mapping
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
from router.convert_costs import costs_asked, pruned_costs, spelled_costs, warm_report
from router.convert_response import ROUTES, cost_fields, duration_fields, usage_fields
from router.drift import Level
from router.errors import InvalidRequest
from router.learning import Learning, ShadowCount
from router.ledger import Ledger
from router.v1 import operator_service_pb2 as pb
from router.v1 import operator_service_pb2_grpc
from router.warming import Warming

Context = grpc.aio.ServicerContext[Any, Any]

_NO_FIGURES: Mapping[str, float] = MappingProxyType({})
PAGE_SIZE = 100
PAGE_SIZE_LIMIT = 1000
FORCE_REASON_CHARACTERS = 500


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
        group, where = costs_asked(request)
        standing = (0, 0) if self._warming is None else self._warming.standing()
        rows = await self._ledger.costs((group,) if group else (), where)
        (warms,) = await self._ledger.warms((), where)
        response = spelled_costs(group, rows, await self._ledger.totals(where), warm_report(warms, *standing))
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
