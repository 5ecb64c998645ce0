"""What a running router learns about its own classifier: drift, shadow, trial of a new one, and the way back.

The rule: it watches and never decides a request. It hears of every scored request once, when its first attempt ends,
and of every judgement that was kept; what goes wrong in here is logged and no request is the worse for it. One thing it
does: when the model on trial is worse than the one before by more than `rollback_margin`, whatever luck there was in
it, the registry is rolled back and the former model swapped in.

What is kept of requests is hashed (`classifier.features`): the last `WINDOW` packed measures, with which a candidate's
route shares are foretold, and nothing that outlives the process.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from classifier.array_file import ArtifactError
from classifier.drift import Reference, references_from
from classifier.features import Measures
from classifier.model import Model
from classifier.registry import How, RegistryError
from classifier.route import Route
from router import attributes as names
from router.classifiers import Classifiers, Swap
from router.clock import Clock
from router.drift import DriftFigure, DriftWatch
from router.errors import LedgerUnavailable
from router.feedback import Feedback, Receipt
from router.guard import TRIALS, Guard, Trial, is_bad
from router.ledger import DecidedRequest, Ledger, StoreError
from router.preparation import Prepared
from router.settlement import Outcome, Settlement
from router.stack import stack_of
from router.tasks import Tasks
from router.telemetry import Telemetry

logger = logging.getLogger(__name__)

WINDOW = 1_000
"""Requests whose measures are kept: a share is foretold within three points."""
RECALLED_S = (3600.0, 86_400.0, 7 * 86_400.0)
"""How far before the last promotion the ledger is asked how the model before did: further while that is too little."""
RECALLED_ENOUGH = 1_000
"""Requests; at most `TRIALS` are read at a time, about 60 us each, off the loop."""


@dataclass(slots=True)
class ShadowCount:
    """How the shadow compares with the model that decides, since either was loaded.

    Attributes:
        differences: Sum of its score less the deciding one's.
    """

    scored: int = 0
    disagreed: int = 0
    differences: float = 0.0


class Learning:
    """Watches the classifier of one process; everything but `watching` and `recall` runs on the event loop.

    Args:
        margin: Worsening of the share of bad outcomes above which a new model is taken back; 1 for never.
        window: Requests over which drift is taken.
    """

    def __init__(
        self,
        classifiers: Classifiers,
        *,
        clock: Clock,
        telemetry: Telemetry,
        tasks: Tasks,
        margin: float,
        window: int,
    ) -> None:
        self.classifiers = classifiers
        self._clock = clock
        self._telemetry = telemetry
        self._tasks = tasks
        self._margin = margin
        self._measures: deque[Measures] = deque(maxlen=WINDOW)
        self._drift = DriftWatch(window)
        self._drift.begin(_reference(classifiers.current()))
        self._guard = Guard()
        self._guarding = classifiers.registry is not None and margin < 1.0
        self._shadow = (classifiers.shadow(), ShadowCount())
        self.rollback_count = 0
        classifiers.on_swap(self.swapped)
        self._taken_back = False
        self._tell: Callable[[Swap], None] = lambda swap: None
        telemetry.watch_each(
            names.DRIFT_PSI, "1", "Population stability index of a figure of the traffic", self._observe_psi
        )
        telemetry.watch_each(
            names.DRIFT_LEVEL,
            "{level}",
            "What it calls for: 0 nothing, 1 a look, 2 an act",
            self._observe_level,
        )
        telemetry.watch(
            names.CLASSIFIER_TAKEN_BACK,
            "1",
            "1 while an earlier classifier scores because the new one did worse and was rolled back",
            lambda: int(self._taken_back),
        )
        telemetry.watch_each(
            names.CLASSIFIER_SERVING, "1", "1, by digest of the classifier that scores", self._observe_model
        )

    def on_swap(self, tell: Callable[[Swap], None]) -> None:
        """Have every change of the classifier told, in the step in which it happens."""
        self._tell = tell

    # --- what is heard ---

    def settled(self, prepared: Prepared, settlement: Settlement) -> None:
        """Hear of a request at the end of its first attempt."""
        try:
            self._learn(prepared, settlement)
        except Exception as error:
            logger.error("learning from a decision failed\n%s", stack_of(error))

    def judged(self, feedback: Feedback, receipt: Receipt) -> None:
        """Hear of a judgement that was kept."""
        try:
            self._guard.judged(feedback)
            if is_bad(feedback):
                self._look()
        except Exception as error:
            logger.error("learning from a judgement failed\n%s", stack_of(error))

    def swapped(self, swap: Swap) -> None:
        """Hear that another model scores now."""
        self._drift.begin(_reference(swap.model))
        self._shadow = (self.classifiers.shadow(), ShadowCount())
        self._taken_back = False
        if swap.rolled_back:
            self._guard.disarm()
        else:
            self._guard.arm(swap.model.digest, swap.previous.digest)
        self._telemetry.record_swap(rolled_back=swap.rolled_back)
        self._tell(swap)

    def _learn(self, prepared: Prepared, settlement: Settlement) -> None:
        score, measures = prepared.score, prepared.measures
        if score is None or measures is None:
            return
        # Under its first attempt's name: a request that a held-back provider sent elsewhere was not decided by score.
        record, opus = settlement.decision, settlement.intent.route == Route.OPUS
        self._measures.append(measures)
        self._drift.observe(score.value, opus, measures.structure)
        if prepared.shadow is not None:
            self._compare(prepared, prepared.shadow.value - score.value)
        if record is None or settlement.outcome is not Outcome.OK:
            return  # nobody saw an answer of this route
        bad = self._guard.decided(
            score.model_digest,
            settlement.intent.request_id,
            reason=record.reason,
            opus=opus,
            failed=not opus and _failed(settlement.discarded, settlement.finish_reason),
        )
        if bad:
            self._look()

    def _compare(self, prepared: Prepared, difference: float) -> None:
        model, count = self._shadow
        shadow, score = prepared.shadow, prepared.score
        assert shadow is not None
        assert score is not None
        if model is None or model.digest != shadow.model_digest:
            model, count = self.classifiers.shadow(), ShadowCount()
            self._shadow = (model, count)
        threshold = prepared.decision.threshold
        disagreed = (shadow.value >= threshold) != (score.value >= threshold)
        count.scored += 1
        count.disagreed += disagreed
        count.differences += difference
        self._telemetry.record_shadow(disagreed=disagreed)

    # --- the way back ---

    def _look(self) -> None:
        """Take the model on trial back if it is worse than chance and margin explain."""
        if not self._guarding:
            return
        trial = self._guard.trial()
        if trial is None or trial.worsening <= self._margin:
            return
        self._guard.disarm()
        self._tasks.start(self._take_back(trial), "roll the classifier back")

    async def _take_back(self, trial: Trial) -> None:
        after, before = trial.tallies, trial.tallies_before
        reason = (
            f"the share of bad outcomes rose by at least {trial.worsening:.3f}: {after.judged.bad} of "
            f"{after.judged.count} judged and {after.all.count} decided, before {before.judged.bad} of "
            f"{before.judged.count} and {before.all.count}"
        )
        try:
            swap = await self.classifiers.roll_back(
                now_s=self._clock.now(), reason=reason, if_champion=trial.model
            )
        except (RegistryError, ArtifactError, OSError) as error:
            logger.error("classifier %s should be taken back and cannot be: %s", trial.model, error)
            return
        self.rollback_count += 1
        self._taken_back = True
        logger.error("classifier %s was taken back for %s: %s", trial.model, swap.model.digest, reason)

    async def recall(self, ledger: Ledger) -> None:
        """Go on with a trial that a restart interrupted: count the decisions of both models again from the ledger."""
        if not self._guarding:
            return
        try:
            change = await asyncio.to_thread(self.classifiers.last_change)
            if change is None or change.how is How.ROLLBACK:
                return
            before = change.previous or await asyncio.to_thread(self._plain_digest)
            if change.digest != self.classifiers.current().digest:
                return
            self._guard.arm(change.digest, before)
            for span_s in RECALLED_S:
                if await self._recall(ledger, change.time_s - span_s, change.time_s) >= RECALLED_ENOUGH:
                    break
            await self._recall(ledger, change.time_s, None)
        except (RegistryError, ArtifactError, LedgerUnavailable, StoreError, OSError) as error:
            logger.warning("the trial of the classifier begins anew: %s", error)
            return
        self._look()

    async def _recall(self, ledger: Ledger, since_s: float, until_s: float | None) -> int:
        """Count what a part of the ledger says; return how many requests that were."""
        read = 0
        async with aclosing(ledger.decided(since_s, until_s)) as requests:
            async for request in requests:
                self._recall_one(request)
                read += 1
                if read >= TRIALS:
                    break
        return read

    def _plain_digest(self) -> str:
        return Model.load(self.classifiers.directory).digest

    def _recall_one(self, request: DecidedRequest) -> None:
        decision, first = request.decision, request.attempts[0]
        if first.outcome is not Outcome.OK:
            return
        opus = first.route == Route.OPUS.value
        self._guard.decided(
            decision.model_digest,
            request.request_id,
            reason=decision.reason,
            opus=opus,
            failed=not opus and _failed(first.discarded, first.finish_reason),
        )
        for feedback in request.feedback:
            self._guard.judged(feedback)

    # --- what is shown ---

    @property
    def drift(self) -> tuple[DriftFigure, ...]:
        """How far the traffic has moved."""
        return self._drift.figures()

    @property
    def shadow(self) -> tuple[Model, ShadowCount] | None:
        """The shadow and how it compares, None without one."""
        model = self.classifiers.shadow()
        if model is None:
            return None
        known, count = self._shadow
        return model, count if known is not None and known.digest == model.digest else ShadowCount()

    def figures(self) -> dict[str, float]:
        """Trial and rollbacks, as figures by name."""
        found = {"rollbacks": float(self.rollback_count)}
        trial = self._guard.trial()
        now = self._guard.tallies(self.classifiers.current().digest)
        found |= {"decided": now.all.count, "judged": now.judged.count, "judged_bad": now.judged.bad}
        if trial is not None:
            before = trial.tallies_before
            found |= {
                "trial_worsening_low": trial.worsening,
                "before_decided": before.all.count,
                "before_judged": before.judged.count,
                "before_judged_bad": before.judged.bad,
            }
        return found

    def opus_share(self, model: Model, threshold: float) -> float | None:
        """Share of the last requests that `model` would send to Opus by score; None while there are none.

        For a thread: a thousand requests take some 40 ms.
        """
        recent = list(self._measures)
        if not recent:
            return None
        return sum(model.score_measures(each).value >= threshold for each in recent) / len(recent)

    def _observe_psi(self) -> list[tuple[dict[str, str], float]]:
        return [({names.FIGURE: each.name}, each.psi) for each in self.drift if each.psi is not None]

    def _observe_level(self) -> list[tuple[dict[str, str], int]]:
        return [({names.FIGURE: each.name}, int(each.level)) for each in self.drift]

    def _observe_model(self) -> list[tuple[dict[str, str], int]]:
        return [({names.CLASSIFIER: self.classifiers.current().digest}, 1)]


@asynccontextmanager
async def watching(
    learning: Learning, ledger: Ledger, *, every_s: float, sleep: Callable[[float], Awaitable[None]]
) -> AsyncIterator[None]:
    """Follow the registry's champion, and go on with an interrupted trial, until the block is left.

    Args:
        every_s: How often to look at the pointer, seconds; 0 for never.
    """

    async def follow() -> None:
        while True:
            await sleep(every_s)
            await learning.classifiers.follow()

    async with Tasks() as tasks:
        tasks.start(learning.recall(ledger), "recall the trial of the classifier")
        if every_s > 0 and learning.classifiers.registry is not None:
            tasks.start(follow(), "follow the registry of classifiers")
        try:
            yield
        finally:
            await tasks.drain(0.0)


def _reference(model: Model) -> Mapping[str, Reference] | None:
    """What came with a model to compare traffic with, None when nothing usable did."""
    try:
        return references_from(model.manifest.metrics)
    except ValueError as error:
        logger.warning(
            "drift is taken against the first requests, because of classifier %s: %s", model.digest, error
        )
        return None


def _failed(discarded: str, finish_reason: str) -> bool:
    """Whether Flash's answer shows by itself that it would not do."""
    return bool(discarded) or finish_reason == "refusal"
