"""The classifier exchanged under load, foretold, followed, shadowed, and taken back when it does worse: real gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import msgspec
import pytest

from classifier import artifact as artifacts
from classifier.artifact import MANIFEST_NAME
from classifier.model import DEFAULT_DIRECTORY
from classifier.registry import REPORT_NAME, How, Registry
from router.config import ClassifierConfig, RoutingConfig, TelemetryConfig
from router.ledger import Ledger
from router.sandbox import VirtualClock
from router.v1 import feedback_service_pb2 as feedback
from router.v1 import operator_service_pb2 as pb
from router.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from tests.e2e.builders import FLASH, OPUS, START_TIME_S, config, generate, user
from tests.e2e.service import TIMEOUT_S, Service, serving
from tests.e2e.test_metrics import free_port, scraped

HARD = "Prove that the algorithm terminates, analyse its complexity, and compare it with two alternatives in depth."
EASY = "Hi, thanks!"


def an_artifact(directory: Path, threshold: float) -> Path:
    """The shipped model with another threshold, so with another digest."""
    shipped = artifacts.load(DEFAULT_DIRECTORY)
    artifacts.save(directory, msgspec.structs.replace(shipped.manifest, threshold=threshold), shipped.arrays)
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry whose champion sends what is hard to Opus; `bad` sends everything to Flash, `dear` all to Opus."""
    registry = Registry(tmp_path / "models")
    digests = [registry.add(an_artifact(tmp_path / str(value), value)) for value in (0.3, 1.0, 0.0)]
    registry.promote(digests[0], now_s=START_TIME_S - 60, how=How.GATE, reason="first")
    return registry


def digest_of(registry: Registry, threshold: float) -> str:
    """The registry's model with this threshold."""
    (found,) = (each.digest for each in registry.entries() if each.manifest.threshold == threshold)
    return found


def settings(registry: Registry | None, **changes: object):
    """Settings of a router on a registry."""
    path = "" if registry is None else str(registry.path)
    return config(classifier=ClassifierConfig(**({"registry": path, "watch_s": 0.0} | changes)))


async def shown(service: Service) -> pb.GetClassifierResponse:
    """What GetClassifier says."""
    return await service.operator.GetClassifier(pb.GetClassifierRequest(), timeout=TIMEOUT_S)


async def promote(
    service: Service, digest: str, force_reason: str = "the test insists"
) -> pb.PromoteClassifierResponse:
    """Promote by RPC."""
    return await service.operator.PromoteClassifier(
        pb.PromoteClassifierRequest(digest=digest, force_reason=force_reason), timeout=TIMEOUT_S
    )


def judged(registry: Registry, digest: str, champion: str, *, passed: bool = True) -> None:
    """Say beside a model what a gate would have said of it."""
    conditions = [{"name": "quality", "passed": passed}]
    report = {
        "candidate": digest,
        "champion": champion,
        "verdict": {"passed": passed, "conditions": conditions},
    }
    (registry.path / digest / REPORT_NAME).write_text(json.dumps(report))


async def test_the_rpc_asks_the_gate_and_force_is_noted(registry: Registry) -> None:
    """Unjudged or refused: FAILED_PRECONDITION and nothing changes; passed against the one that serves: promoted."""
    champion, bad, dear = (digest_of(registry, value) for value in (0.3, 1.0, 0.0))
    judged(registry, bad, champion, passed=False)
    judged(registry, dear, champion)
    async with serving(settings(registry)) as service:
        before = registry.history()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await promote(service, bad, "")
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "the gate refused it for quality" in refused.value.details()
        with pytest.raises(grpc.aio.AioRpcError) as odd:
            await promote(service, bad, "two\nlines")
        assert odd.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert registry.history() == before
        assert (await shown(service)).classifier.digest == champion
        assert (await promote(service, dear, "")).classifier.digest == dear
        assert registry.history()[-1].how is How.GATE
        forced = await promote(service, bad, "we know better")
        assert forced.previous_digest == dear
    last = registry.history()[-1]
    assert last.how is How.FORCE
    assert last.reason.endswith("we know better (the gate refused it for quality)")


async def test_what_was_taken_back_is_not_promoted_again_without_force(registry: Registry) -> None:
    """It passed its gate against the very model that serves again; that it did worse since says more."""
    champion, dear = (digest_of(registry, value) for value in (0.3, 0.0))
    judged(registry, dear, champion)
    async with serving(settings(registry)) as service:
        await promote(service, dear, "")
        registry.rollback(now_s=START_TIME_S, reason="worse by 9 points", if_champion=dear)
        await service.operator.ReloadClassifier(pb.ReloadClassifierRequest(), timeout=TIMEOUT_S)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await promote(service, dear, "")
        assert "it served and was taken back: worse by 9 points" in refused.value.details()
        assert (await shown(service)).classifier.digest == champion
        assert (await promote(service, dear, "fixed what it met")).classifier.digest == dear


async def until(
    condition: Callable[[pb.GetClassifierResponse], bool], service: Service
) -> pb.GetClassifierResponse:
    """What GetClassifier says once the condition holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition(found := await shown(service)):
            pass
    return found


@asynccontextmanager
async def under_load(service: Service, workers: int = 4) -> AsyncIterator[list]:
    """Send hard and easy requests without pause while the block runs; gives the responses. A failure fails the test."""
    responses: list = []
    ended = asyncio.Event()

    async def work(number: int) -> None:
        while not ended.is_set():
            number += 1
            responses.append(await service.generate(generate(user((HARD, EASY)[number % 2]))))

    async with asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(work(number))
        try:
            yield responses
        finally:
            ended.set()


async def test_promotion_under_load_fails_no_request(registry: Registry) -> None:
    """Back and forth ten times: every request is answered, by the model whose digest it names and at its threshold."""
    good, bad = digest_of(registry, 0.3), digest_of(registry, 1.0)
    async with serving(settings(registry, rollback_margin=1.0)) as service:
        async with under_load(service) as responses:
            for number in range(10):
                candidate, before = ((bad, good), (good, bad))[number % 2]
                answer = await promote(service, candidate)
                assert (answer.classifier.digest, answer.previous_digest) == (candidate, before)
                seen = len(responses)
                while len(responses) < seen + 8:
                    await service.generate(generate(user(EASY)))
        thresholds = {good: 0.3, bad: 1.0}
        assert {each.decision.classifier_digest for each in responses} == {good, bad}
        for each in responses:
            assert each.decision.threshold == thresholds[each.decision.classifier_digest]
    assert registry.champion_digest() == good
    assert [change.how for change in registry.history()[1:]] == [How.FORCE, How.OPERATOR] * 5


async def test_promotion_foretells_the_route_shares(registry: Registry) -> None:
    """The last requests, scored by the candidate at its own threshold; nothing is said before there were any."""
    async with serving(settings(registry, rollback_margin=1.0)) as service:
        assert not (await promote(service, digest_of(registry, 1.0))).expected_shares
        for number in range(8):
            await service.generate(generate(user(EASY if number % 4 else HARD)))
        shares = (await promote(service, digest_of(registry, 0.3))).expected_shares
        assert {each.route: each.share for each in shares} == {FLASH: 0.75, OPUS: 0.25}


async def test_an_operators_threshold_outlives_promotion(registry: Registry) -> None:
    """Where the settings name a threshold, a model's own is not taken."""
    pinned = msgspec.structs.replace(settings(registry), routing=RoutingConfig(threshold=0.2))
    async with serving(pinned) as service:
        answer = await promote(service, digest_of(registry, 1.0))
        assert answer.classifier.threshold == 0.2
        assert (await service.generate(generate(user(HARD)))).decision.threshold == 0.2


@pytest.mark.parametrize(
    ("digest", "code", "words"),
    [
        ("", grpc.StatusCode.INVALID_ARGUMENT, "digest"),
        ("0123456789ab", grpc.StatusCode.NOT_FOUND, "holds no model"),
        ("damaged", grpc.StatusCode.FAILED_PRECONDITION, "nothing was changed"),
    ],
)
async def test_what_cannot_be_promoted_changes_nothing(
    registry: Registry, digest: str, code: grpc.StatusCode, words: str
) -> None:
    """The error says why; the champion goes on, here and in the registry."""
    good, bad = digest_of(registry, 0.3), digest_of(registry, 1.0)
    if digest == "damaged":
        path = registry.path / bad / MANIFEST_NAME
        path.write_bytes(path.read_bytes() + b"\n")
        digest = bad
    async with serving(settings(registry)) as service:
        with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
            await promote(service, digest)
        assert caught.value.code() is code
        assert (await shown(service)).classifier.digest == good
    assert registry.champion_digest() == good


async def test_without_a_registry_nothing_is_promoted() -> None:
    """FAILED_PRECONDITION names the setting."""
    async with serving(settings(None)) as service:
        with pytest.raises(grpc.aio.AioRpcError, match=r"classifier\.registry") as caught:
            await promote(service, "0123456789ab")
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_champion_named_beside_the_process_is_followed(registry: Registry) -> None:
    """What a command promotes or rolls back serves soon, without an RPC; a damaged one does not, and says so."""
    good, bad = digest_of(registry, 0.3), digest_of(registry, 1.0)
    async with serving(settings(registry, watch_s=0.01)) as service, under_load(service):
        registry.promote(bad, now_s=START_TIME_S, how=How.FORCE, reason="by hand")
        await until(lambda found: found.classifier.digest == bad, service)
        registry.rollback(now_s=START_TIME_S, reason="by hand")
        await until(lambda found: found.classifier.digest == good, service)


async def test_a_damaged_champion_does_not_replace_a_sound_one(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one goes on when told to reload, and says why; mended, the new one is taken."""
    good, bad = digest_of(registry, 0.3), digest_of(registry, 1.0)
    async with serving(settings(registry)) as service:
        registry.promote(bad, now_s=START_TIME_S, how=How.FORCE, reason="by hand")
        path = registry.path / bad / MANIFEST_NAME
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        with pytest.raises(grpc.aio.AioRpcError, match="old classifier goes on") as caught:
            await service.operator.ReloadClassifier(pb.ReloadClassifierRequest(), timeout=TIMEOUT_S)
        assert caught.value.code() is grpc.StatusCode.ABORTED
        assert (await shown(service)).classifier.digest == good
        path.write_bytes(whole)
        reloaded = await service.operator.ReloadClassifier(pb.ReloadClassifierRequest(), timeout=TIMEOUT_S)
        assert (reloaded.classifier.digest, reloaded.previous_digest) == (bad, good)


async def test_a_shadow_scores_and_decides_nothing(registry: Registry) -> None:
    """Its score is in decisions and ledger, its disagreements are counted; routes are the champion's."""
    shadow = digest_of(registry, 0.0)
    arrays = artifacts.load(registry.path / shadow)
    # A shadow that thinks little of everything disagrees about what is hard.
    meek = registry.path.parent / "meek"
    artifacts.save(
        meek, msgspec.structs.replace(arrays.manifest, bias=arrays.manifest.bias - 50.0), arrays.arrays
    )
    async with serving(settings(registry, shadow=str(meek))) as service:
        responses = [await service.generate(generate(user(text))) for text in (HARD, EASY, HARD, EASY)]
        assert [each.decision.route for each in responses] == [OPUS, FLASH, OPUS, FLASH]
        assert all(each.decision.shadow_score < 0.01 for each in responses)
        report = (await shown(service)).shadow
        assert (report.scored_count, report.disagreement_count) == (4, 2)
        mean = sum(each.decision.shadow_score - each.decision.score for each in responses) / 4
        assert report.mean_score_difference == pytest.approx(mean)
        rows = [each async for each in service.ledger.decided()]
        assert {each.decision.shadow_digest for each in rows} == {report.classifier.digest}
        assert [each.decision.shadow_score for each in rows] == [
            each.decision.shadow_score for each in responses
        ]


async def judge(service: Service, responses: list) -> int:
    """Say of every hard request that Flash answered that Opus was needed, of every other that it was good."""
    stub = FeedbackServiceStub(service.channel)
    async with asyncio.TaskGroup() as group:
        for text, response in responses:
            wrong = text == HARD and response.decision.route == FLASH
            said = feedback.FEEDBACK_VERDICT_OPUS_NEEDED if wrong else feedback.FEEDBACK_VERDICT_GOOD
            request = feedback.SubmitFeedbackRequest(
                request_id=response.request_id, verdict=said, source="judge-model", tenant="acme"
            )
            group.create_task(_sent(stub, request))
    return len(responses)


async def _sent(stub: FeedbackServiceStub, request: feedback.SubmitFeedbackRequest) -> None:
    await stub.SubmitFeedback(request, timeout=TIMEOUT_S)


async def asked(service: Service, count: int) -> list:
    """Ask so many, half of them hard."""
    texts = [(HARD, EASY)[number % 2] for number in range(count)]
    return [(text, await service.generate(generate(user(text)))) for text in texts]


async def test_a_bad_model_forced_in_is_taken_back_by_itself(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """Feedback on its decisions shows it worse beyond chance: the former champion serves again, no request fails."""
    good, bad = digest_of(registry, 0.3), digest_of(registry, 1.0)
    port = free_port()
    measured = msgspec.structs.replace(settings(registry), telemetry=TelemetryConfig(prometheus_port=port))
    async with serving(measured) as service, under_load(service, workers=2) as others:
        await judge(service, await asked(service, 60))
        await promote(service, bad)
        before = await shown(service)
        assert before.classifier.digest == bad
        async with asyncio.timeout(60):
            while (await shown(service)).classifier.digest == bad:
                await judge(service, await asked(service, 20))
        after = (await shown(service)).classifier
        assert (after.digest, after.metrics["rollbacks"]) == (good, 1.0)
        last = registry.history()[-1]
        assert (last.how, last.digest, last.previous) == (How.ROLLBACK, good, bad)
        assert "bad outcomes rose by at least" in last.reason
        judged = await asked(service, 20)
        assert {each.decision.route for text, each in judged if text == HARD} == {OPUS}
        await judge(service, judged)
        assert registry.champion_digest() == good, "what it was taken back for is over"
        seen = {(each.name, *each.labels.values()): each.value for each in await scraped(port)}
        swaps = "hybrid_router_classifier_swaps_total"
        assert (seen[swaps, "promoted"], seen[swaps, "rolled_back"]) == (1, 1)
        assert seen["hybrid_router_classifier_taken_back",] == 1
        assert seen["hybrid_router_classifier_serving", good] == 1
        assert seen["hybrid_router_feedback_total", "recorded", "flash", "opus_needed"] >= 5
        assert seen["hybrid_router_feedback_total", "recorded", "opus", "good"] >= 40
    assert others
    assert "was taken back for" in caplog.text


async def test_a_good_model_stays(registry: Registry, tmp_path: Path) -> None:
    """One that does as well as the one before is left alone, however much feedback there is."""
    twin = registry.add(an_artifact(tmp_path / "twin", 0.31))
    async with serving(settings(registry)) as service:
        await judge(service, await asked(service, 60))
        await promote(service, twin)
        await judge(service, await asked(service, 60))
        found = (await shown(service)).classifier
        assert found.digest == twin
        assert found.metrics["trial_worsening_low"] < 0
        assert (found.metrics["rollbacks"], found.metrics["judged_bad"]) == (0.0, 0.0)


async def test_a_restart_does_not_end_a_trial(registry: Registry, tmp_path: Path) -> None:
    """What the ledger says of both models is counted again, and the bad one is taken back by the next process."""
    good, bad = digest_of(registry, 0.3), digest_of(registry, 1.0)
    clock = VirtualClock(START_TIME_S)
    booked = Ledger.temporary(clock=clock)
    try:
        async with serving(settings(registry, rollback_margin=1.0), ledger=booked) as service:
            await judge(service, await asked(service, 60))
            service.clock.advance(10)
            await promote(service, bad)
            await judge(service, await asked(service, 40))
            assert (await shown(service)).classifier.digest == bad
        async with serving(settings(registry), ledger=booked) as service:
            found = await until(lambda found: found.classifier.digest == good, service)
            assert found.classifier.metrics["rollbacks"] == 1.0
    finally:
        await booked.close()
