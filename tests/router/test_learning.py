"""Learning beside requests: what fails in it fails alone, and what it says of itself is what happened."""

import asyncio

import msgspec
import pytest

from classifier import artifact as artifacts
from classifier.drift import FIGURES, METRIC, figures_of, references_of, to_metrics
from classifier.features import STRUCTURE_NAMES
from classifier.model import DEFAULT_DIRECTORY, Model
from classifier.route import Route
from router import attributes as names
from router.classifiers import Classifiers
from router.config import ClassifierConfig
from router.drift import MINIMUM_REQUESTS, Level
from router.feedback import Feedback, Receipt, Received, Verdict
from router.learning import WINDOW, Learning
from router.tasks import Tasks
from router.telemetry import Telemetry
from tests.e2e.builders import config
from tests.router.ledger_samples import StillClock
from tests.router.rig import asked, rigged, said


class Gauges:
    """Telemetry that remembers what it was asked to watch."""

    def __init__(self):
        self.watched, self.swaps, self.shadows = {}, [], []

    def watch(self, name, unit, description, observe):
        self.watched[name] = observe

    watch_each = watch

    def record_swap(self, *, rolled_back):
        self.swaps.append(rolled_back)

    def record_shadow(self, *, disagreed):
        self.shadows.append(disagreed)


def learning_of(tasks, telemetry=None, **sections):
    """Learning about the shipped classifier."""
    settings = ClassifierConfig(**sections)
    return Learning(
        Classifiers("", registry=settings.registry, shadow=settings.shadow),
        clock=StillClock(),
        telemetry=telemetry or Telemetry.off(),
        tasks=tasks,
        margin=settings.rollback_margin,
        window=settings.drift_window,
    )


async def test_a_shadow_that_fails_fails_alone(caplog):
    """The request is decided as without it, and the log names the shadow without a word of the request."""

    class Broken:
        digest = "brokenbroken"

        def score_measures(self, measures):
            raise ValueError("".join(("sec", "ret")))

    async with rigged() as rig:
        rig.preparation._model = Model.default
        alone = rig.prepare(asked(said("Prove this in detail.")))
        rig.preparation._shadow = Broken
        beside = rig.prepare(asked(said("Prove this in detail.")))
    assert beside.shadow is None
    assert beside.decision == alone.decision
    assert "brokenbroken" in caplog.text
    assert "secret" not in caplog.text


async def test_a_fault_in_learning_is_logged_and_the_call_is_booked(caplog):
    """Nothing that is learnt may lose a bill."""
    async with rigged() as rig, Tasks() as tasks:
        learning = learning_of(tasks)
        learning._drift = None
        rig.preparation._model = learning.classifiers.current
        rig.settler.learn = learning.settled
        attempt = rig.settler.open(
            rig.prepare(asked()), Route.FLASH, number=1, stream=False, trace_id="", fell_back=False
        )
        attempt.left(asyncio.CancelledError())
        assert len(await rig.settlements()) == 1
        learning._guard = None
        feedback = Feedback(
            request_id="r", tenant="", source="s", verdict=Verdict.BAD, score=None, time_s=0.0
        )
        learning.judged(feedback, Receipt(received=Received.RECORDED, time_s=0.0))
    assert caplog.text.count("learning from a") == 2


async def test_every_scored_request_is_heard_of_once(monkeypatch):
    """First attempts only, whatever came of them; a request nobody scored is none."""
    monkeypatch.setattr("router.drift.REFERENCE_REQUESTS", 2)
    async with rigged() as rig, Tasks() as tasks:
        gauges = Gauges()
        learning = learning_of(tasks, gauges, drift_window=200)
        rig.settler.learn = learning.settled

        def attempt(number, request_id):
            opened = rig.settler.open(
                rig.prepare(asked(said(f"Question {request_id}"), request_id=request_id)),
                Route.FLASH,
                number=number,
                stream=False,
                trace_id="",
                fell_back=number > 1,
            )
            opened.left(asyncio.CancelledError())

        attempt(1, "unscored")
        assert learning.opus_share(Model.default(), 0.5) is None
        rig.preparation._model = learning.classifiers.current
        for request in range(5):
            attempt(1, f"r{request}")
            attempt(2, f"r{request}")
        assert learning.opus_share(Model.default(), 0.0) == 1.0
        assert len(learning._measures) == 5 <= WINDOW
        assert [each.request_count for each in learning.drift] == [3] * len(FIGURES)
        assert gauges.watched[names.DRIFT_PSI]() == []
        levels = gauges.watched[names.DRIFT_LEVEL]()
        assert {labels[names.FIGURE]: level for labels, level in levels} == dict.fromkeys(FIGURES, 0)
        assert gauges.watched[names.CLASSIFIER_TAKEN_BACK]() == 0
        ((labels, one),) = gauges.watched[names.CLASSIFIER_SERVING]()
        assert (labels[names.CLASSIFIER], one) == (Model.default().digest, 1)


@pytest.mark.parametrize("section", [{}, {"rollback_margin": 1.0}])
async def test_without_a_registry_nothing_is_taken_back(section):
    """Bad outcomes are counted and nothing is done."""
    async with Tasks() as tasks:
        learning = learning_of(tasks, **section)
        for number in range(500):
            learning._guard.decided(
                "m", f"r{number}", reason="score_below_threshold", opus=False, failed=True
            )
        learning._guard.arm("m", "n")
        learning._look()
        assert learning.rollback_count == 0
    assert config().classifier.registry == ""


def with_metrics(directory, metrics):
    """The shipped model with more figures in its manifest."""
    shipped = artifacts.load(DEFAULT_DIRECTORY)
    manifest = msgspec.structs.replace(shipped.manifest, metrics=shipped.manifest.metrics | metrics)
    artifacts.save(directory, manifest, shipped.arrays)
    return str(directory)


async def test_a_reference_in_the_manifest_is_taken_and_a_wrong_one_is_not(tmp_path, caplog):
    """With one, drift is told after the fewest requests; without a usable one the first requests make it."""
    structure = [0.0] * len(STRUCTURE_NAMES)
    rows = [figures_of(number / 500, number > 400, structure) for number in range(500)]
    sound = with_metrics(tmp_path / "sound", to_metrics(references_of(rows)))
    wrong = with_metrics(tmp_path / "wrong", {METRIC: {"score": {}}})
    async with Tasks() as tasks:
        seen = {}
        for name in (sound, wrong):
            learning = Learning(
                Classifiers(name),
                clock=StillClock(),
                telemetry=Telemetry.off(),
                tasks=tasks,
                margin=1.0,
                window=500,
            )
            for _ in range(MINIMUM_REQUESTS):
                learning._drift.observe(0.99, True, structure)
            seen[name] = {each.name: each.level for each in learning.drift}
    assert seen[sound]["score"] is seen[sound]["opus_share"] is Level.ACT
    assert seen[sound]["length"] is Level.NONE
    assert set(seen[wrong].values()) == {Level.NONE}
    assert "against the first requests" in caplog.text
