"""The whole loop on a running router: traffic drifts, outcomes come back, one command trains, judges and promotes."""

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from classifier.artifact import Artifact
from classifier.logged import collect
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.registry import How, Registry
from classifier.retraining import RetrainingSettings, cut, judge_candidate
from router.cli.retrain import REFUSED
from router.config import ClassifierConfig, RoutingConfig
from router.ledger import Ledger, LedgerSettings
from router.sandbox import VirtualClock
from router.training_log import from_ledger
from router.v1 import feedback_service_pb2 as feedback
from router.v1 import operator_service_pb2 as pb
from router.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from tests.classifier.drifted import a_request
from tests.e2e.builders import OPUS, START_TIME_S, config, generate, user
from tests.e2e.service import TIMEOUT_S, Service, serving
from tests.e2e.test_hot_swap import under_load

REQUESTS = 1_500
MORE = 750
"""Requests that follow when the gate has not seen enough."""
CALLERS = 8
FLASH_DOES, OPUS_DOES = (0.97, 0.1), 0.97
"""Chance that an answer is good: of Flash where it suffices and where it does not, of Opus always."""


class Traffic:
    """People whose requests drifted, who judge what they get, and a count of how often it was good."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service = service
        self.feedback = FeedbackServiceStub(service.channel)
        self.draw = random.Random(seed)

    async def send(self, count: int) -> float:
        """Send `count` requests, say of each how it turned out, and return the share of good answers."""
        asked = [(number, *a_request(self.draw)) for number in range(count)]
        good: list[bool] = []

        async def work() -> None:
            while asked:
                number, text, needs_opus = asked.pop()
                good.append(await self._ask(f"s{number // 2}", text, needs_opus))

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(work())
        return sum(good) / count

    async def _ask(self, session: str, text: str, needs_opus: bool) -> bool:
        self.service.clock.advance(1)
        response = await self.service.generate(generate(user(text), application="", session=session))
        chance = OPUS_DOES if response.decision.route == OPUS else FLASH_DOES[needs_opus]
        good = self.draw.random() < chance
        verdict = feedback.FEEDBACK_VERDICT_GOOD if good else feedback.FEEDBACK_VERDICT_BAD
        await self.feedback.SubmitFeedback(
            feedback.SubmitFeedbackRequest(
                request_id=response.request_id, verdict=verdict, source="user", tenant="acme"
            ),
            timeout=TIMEOUT_S,
        )
        return good


async def command(*arguments: str | Path) -> tuple[int, str]:
    """Run a verb as an operator does, in a process of its own; gives its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router", *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    printed = await process.stdout.read()
    return await process.wait(), printed.decode()


@pytest.mark.timeout(240)
async def test_outcomes_make_a_better_model_that_serves_without_a_failed_request(tmp_path: Path) -> None:
    """Drift is answered: 1,500 requests, their feedback, one command, one swap under load; quality is up after it.

    What is worse is refused: the new champion turned upside down, judged by what both models' requests came to.
    """
    registry = Registry(tmp_path / "models")
    shipped = registry.add(DEFAULT_DIRECTORY)
    registry.promote(shipped, now_s=START_TIME_S - 60, how=How.OPERATOR, reason="first")
    settings = config(
        classifier=ClassifierConfig(registry=str(registry.path), watch_s=0.05),
        routing=RoutingConfig(exploration_share=0.2),
    )
    directory = tmp_path / "ledger"
    ledger = Ledger.open(directory, clock=VirtualClock(START_TIME_S), settings=LedgerSettings(sync=False))
    try:
        async with serving(settings, ledger=ledger) as service:
            traffic = Traffic(service, seed=1)
            before = await traffic.send(REQUESTS)
            await ledger.flush()

            async with under_load(service, workers=2) as others:
                code, report = await retrained(directory, registry.path)
                for _ in range(3):
                    if code != REFUSED:
                        break
                    # What it cannot prove yet it refuses, and chance draws the log: an operator waits for more of it.
                    await traffic.send(MORE)
                    await ledger.flush()
                    code, report = await retrained(directory, registry.path)
                assert (code, report["promoted"]) == (0, True), report["verdict"]
                async with asyncio.timeout(TIMEOUT_S):
                    while await serving_digest(service) != report["candidate"]:
                        pass
            assert others, "requests ran while it was trained and swapped"

            after = await traffic.send(REQUESTS // 4)
            print(f"good answers {before:.3f} before, {after:.3f} after; {registry.history()[-1].reason}")
            assert after > before + 0.08
            assert registry.history()[-1].how is How.GATE

            await ledger.flush()
            log = collect(from_ledger(directory))
            champion = Model(registry.load(report["candidate"]))
            settings_of_judge = RetrainingSettings()
            slices = cut(log.labelled, settings_of_judge)
            verdict, _ = judge_candidate(log, slices, upside_down(champion), champion, settings_of_judge)
            assert "quality" in {each.name for each in verdict.conditions if not each.passed}
    finally:
        await ledger.close()


async def retrained(ledger: Path, registry: Path) -> tuple[int, dict[str, Any]]:
    """What `retrain` says of the log."""
    code, printed = await command(
        "retrain", "--ledger", ledger, "--registry", registry, "--quick", "--promote", "--json"
    )
    return code, json.loads(printed)


def upside_down(model: Model) -> Model:
    """A model that sends to Flash what the given one sends to Opus."""
    names = ("ngram_weights", "name_weights", "structure_weights")
    arrays = {name: -array if name in names else array for name, array in model.artifact.arrays.items()}
    return Model(Artifact(manifest=model.manifest, digest="0" * 12, arrays=arrays))


async def serving_digest(service: Service) -> str:
    """Digest of the classifier that scores."""
    found = await service.operator.GetClassifier(pb.GetClassifierRequest(), timeout=TIMEOUT_S)
    return found.classifier.digest
