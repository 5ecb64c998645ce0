"""Feedback over real gRPC: early, late, repeated, replaced, refused; durable when it was answered; no text anywhere."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from classifier.features import Features
from router.client import AsyncClient, Client, InvalidRequest, NotFound
from router.clock import SystemClock
from router.config import ClassifierConfig
from router.feedback import Verdict
from router.ledger import Ledger
from router.v1 import feedback_service_pb2 as pb
from router.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from tests.e2e.builders import FLASH, OPUS, as_stream, config, generate, user
from tests.e2e.process import server_process, verb, write_config
from tests.e2e.service import TIMEOUT_S, Service, detail, serving, status_of

HOLD = "[[sandbox fault=stall after_events=6 thinking=0 tokens=200]]"


async def submit(service: Service, request_id: str, **fields: object) -> pb.SubmitFeedbackResponse:
    """Send one judgement, of acme by a reviewer if nothing else is said."""
    said = {"source": "reviewer", "tenant": "acme"} | fields
    stub = FeedbackServiceStub(service.channel)
    return await stub.SubmitFeedback(
        pb.SubmitFeedbackRequest(request_id=request_id, **said), timeout=TIMEOUT_S
    )


async def decided(service: Service) -> dict:
    """Decided requests in the ledger by id."""
    return {each.request_id: each async for each in service.ledger.decided()}


@pytest.mark.parametrize(
    ("fields", "verdict", "score"),
    [
        ({"verdict": pb.FEEDBACK_VERDICT_BAD}, Verdict.BAD, None),
        ({"score": 0.0}, None, 0.0),
        ({"verdict": pb.FEEDBACK_VERDICT_FLASH_SUFFICED, "score": 1.0}, Verdict.FLASH_SUFFICED, 1.0),
    ],
    ids=["verdict", "score", "both"],
)
async def test_feedback_is_joined_to_its_decision(
    service: Service, fields: dict, verdict: Verdict | None, score: float | None
) -> None:
    """A verdict, a score or both stand beside the decision they are about, under the clock's time."""
    response = await service.generate(generate(user("List my open tickets."), route=OPUS))
    recorded = await submit(service, response.request_id, **fields)
    assert recorded.record_time.seconds == int(service.clock.now())
    assert not recorded.replaced
    row = (await decided(service))[response.request_id]
    assert [(each.source, each.verdict, each.score) for each in row.feedback] == [
        ("reviewer", verdict, score)
    ]
    assert row.decision.model_digest == response.decision.classifier_digest


async def test_features_are_kept_once_per_request(service: Service) -> None:
    """What the score was computed from, on the first attempt only, enough to compute it again, and no word of it."""
    text = "Zanzibarian quokkas: prove [[sandbox fault=overloaded times=1]] that xylographs bend."
    response = await service.generate(generate(user(text), route=FLASH))
    row = (await decided(service))[response.request_id]
    assert Features.unpack(row.decision.features).ngrams
    later = [each.decision.features for each in await service.settlements() if each.intent.attempt > 1]
    assert later == [""]


async def test_features_may_be_left_out() -> None:
    """The operator's switch: nothing derived from words is kept."""
    async with serving(config(classifier=ClassifierConfig(keep_features=False))) as service:
        response = await service.generate(generate(user("List my open tickets.")))
        row = (await decided(service))[response.request_id]
    assert (row.decision.features, row.decision.score is None) == ("", False)


async def test_a_request_in_progress_can_be_judged(service: Service) -> None:
    """Feedback before the answer has ended is kept, and stands beside the decision once there is one."""
    call = service.router.StreamGenerate(
        as_stream(generate(user(f"Wait. {HOLD}"), route=OPUS)), timeout=TIMEOUT_S
    )
    request_id = (await call.read()).decided.request_id
    await call.read()
    await submit(service, request_id, verdict=pb.FEEDBACK_VERDICT_BAD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(service, request_id, verdict=pb.FEEDBACK_VERDICT_BAD, tenant="other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    call.cancel()
    await service.settled(1)
    assert len((await decided(service))[request_id].feedback) == 1


async def test_a_source_changes_its_mind_and_repeats_itself(service: Service) -> None:
    """Late by days is fine; another verdict replaces, the same one changes nothing."""
    request_id = (await service.generate(generate(user("Which tickets are overdue?")))).request_id
    first = await submit(service, request_id, verdict=pb.FEEDBACK_VERDICT_GOOD)
    service.clock.advance(3 * 86_400)
    again = await submit(service, request_id, verdict=pb.FEEDBACK_VERDICT_GOOD)
    assert (again.replaced, again.record_time) == (False, first.record_time)
    other = await submit(service, request_id, verdict=pb.FEEDBACK_VERDICT_BAD)
    assert other.replaced
    assert other.record_time.seconds == first.record_time.seconds + 3 * 86_400


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"verdict": 0}, "verdict", "not set"),
        ({"verdict": 99}, "verdict", "99"),
        ({"score": 1.5}, "score", "is 1.5; it must be from 0 to 1"),
        ({"score": float("nan")}, "score", "nan"),
        ({"verdict": 1, "source": ""}, "source", "empty"),
        ({"verdict": 1, "source": "x" * 65}, "source", "65 characters; at most 64"),
        ({"verdict": 1, "source": "the boss says no"}, "source", "no name"),
        ({"verdict": 1, "request_id": ""}, "request_id", "empty"),
        ({"verdict": 1, "request_id": "x" * 200}, "request_id", "200 characters; at most 192"),
    ],
)
async def test_wrong_fields_are_named(service: Service, fields: dict, field: str, words: str) -> None:
    """INVALID_ARGUMENT says which field, what it is and what is allowed."""
    request_id = str(fields.pop("request_id", "r1"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(service, request_id, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()
    from google.rpc.error_details_pb2 import BadRequest

    assert detail(status_of(caught.value), BadRequest).field_violations[0].field == field


async def test_the_callers_own_id_is_not_the_requests(service: Service) -> None:
    """NOT_FOUND says which id to give; a caller's may repeat."""
    metadata = (("x-request-id", "mine"),)
    await service.router.Generate(generate(user("Hello there")), metadata=metadata, timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError, match="request_id of the response"):
        await submit(service, "mine", verdict=pb.FEEDBACK_VERDICT_GOOD)


async def test_feedback_answered_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    """kill -9 right after the answer: the judgement, of a finished and of a broken-off request, is in the ledger."""
    path = write_config(tmp_path)
    async with server_process(path) as server, asyncio.timeout(60):
        stub = FeedbackServiceStub(server.channel)
        done = await server.router.Generate(
            generate(user("Which are overdue?"), route=FLASH), timeout=TIMEOUT_S
        )
        held = server.router.StreamGenerate(
            as_stream(generate(user(f"Case. {HOLD}"), route=OPUS, no_fallback=True)), timeout=TIMEOUT_S
        )
        held_id = (await held.read()).decided.request_id
        await held.read()
        for request_id in (done.request_id, held_id):
            said = pb.SubmitFeedbackRequest(request_id=request_id, verdict=2, source="user", tenant="acme")
            await stub.SubmitFeedback(said, timeout=TIMEOUT_S)
        await server.kill()
        await held.code()
    ledger = Ledger.open(tmp_path / "ledger", clock=SystemClock())
    try:
        kept = await ledger.feedback_for([done.request_id, held_id])
        assert {key: [each.verdict for each in found] for key, found in kept.items()} == {
            done.request_id: [Verdict.BAD],
            held_id: [Verdict.BAD],
        }
    finally:
        await ledger.close()
    stored = b"".join(each.read_bytes() for each in (tmp_path / "ledger").rglob("*") if each.is_file())
    assert held_id.encode() in stored
    assert b"overdue" not in stored
    assert b"Case." not in stored


async def test_the_verb_sends_one_and_many(tmp_path: Path) -> None:
    """One by hand; a file with a count of what was refused, by line; the same file again changes nothing."""
    path = write_config(tmp_path)
    async with server_process(path) as server:
        ids = [
            (
                await server.router.Generate(generate(user(f"Case {n}?"), route=FLASH), timeout=TIMEOUT_S)
            ).request_id
            for n in range(5)
        ]
        common = ("--address", server.address, "--tenant", "acme")
        code, out, err = await verb("feedback", ids[0], "--verdict", "opus-needed", *common, cwd=tmp_path)
        assert (code, out.strip(), err) == (0, "1 recorded, 0 replaced, 0 refused", "")
        lines = [{"request_id": each, "verdict": "good", "source": "judge-model"} for each in ids]
        lines += [
            {"request_id": ids[0], "score": 0.5},
            {"request_id": "never", "verdict": "bad"},
            {"verdict": "bad"},
        ]
        lines += [{"request_id": ids[0], "verdict": "meh"}]
        (tmp_path / "said.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
        for _ in range(2):
            code, out, err = await verb("feedback", "--file", "said.jsonl", "--json", *common, cwd=tmp_path)
            assert (code, json.loads(out)["refused"]) == (1, 3)
            assert {line.split(":")[1].strip() for line in err.splitlines()} == {
                "line 13",
                "line 15",
                "line 17",
            }
        code, _, err = await verb(
            "feedback", ids[0], "--verdict", "good", "--address", "127.0.0.1:1", cwd=tmp_path
        )
        assert code == 2
        assert "can be sent again" in err
        code, _, err = await verb("feedback", cwd=tmp_path)
        assert (code, "REQUEST_ID or --file" in err) == (2, True)
        await server.kill()
    ledger = Ledger.open(tmp_path / "ledger", clock=SystemClock())
    try:
        kept = (await ledger.feedback_for(ids))[ids[0]]
        assert [(each.source, each.verdict, each.score) for each in kept] == [
            ("judge-model", Verdict.GOOD, None),
            ("user", None, 0.5),
        ]
    finally:
        await ledger.close()


async def test_both_clients_send_feedback(service: Service) -> None:
    """By names, with the client's own tenant; what is refused is a typed error."""
    request_id = (await service.generate(generate(user("Hello there")))).request_id
    async with AsyncClient(service.app.address, tenant="acme") as client:
        response = await client.feedback(request_id, "flash_sufficed", score=1.0)
        assert not response.replaced
        with pytest.raises(NotFound):
            await client.feedback(request_id, "good", tenant="other")
        with pytest.raises(InvalidRequest, match="score"):
            await client.feedback(request_id, score=7.0)
        with pytest.raises(ValueError, match="'meh' is none of good, bad, flash_sufficed, opus_needed"):
            await client.feedback(request_id, "meh")

    def blocking() -> bool:
        with Client(service.app.address, tenant="acme") as client:
            return client.feedback(request_id, "bad", source="user").replaced

    assert await asyncio.to_thread(blocking)
