"""Warms by score and by foresight over real gRPC: a session that Flash answered finds its prefix warm on Opus.

Time is virtual, the sandbox's first token comes after 0.8 s and 40 us per token read anew.
"""

from classifier.foresight import artifact as artifacts
from classifier.foresight.windows import COUNT
from router.settlement import Purpose
from router.v1 import router_service_pb2 as pb
from router.v1 import routing_pb2
from tests.classifier.foresights import arrays_of, artifact_of
from tests.e2e.builders import FLASH, OPUS, assistant, generate, prose, user
from tests.e2e.service import Service
from tests.e2e.test_warming import (
    AUTO,
    SAY,
    costs,
    done,
    first_byte_s,
    opened,
    passing,
    turn,
    warming,
    warms,
)

KNOWN = (prose("Known", 800),)
EASY = user(f"Thanks! {SAY}")
HARDER = user(
    f"Compare the two contracts clause by clause, derive which one costs less over five years and prove it. {SAY}"
)
AND_THEN = user(f"And if the rate doubles? {SAY}")


def chat(*messages: object, session: str = "s", **fields: object) -> pb.GenerateRequest:
    """A turn of somebody with a large context."""
    return generate(*messages, **({"session": session, "context": KNOWN, "strategy": AUTO} | fields))


async def score_of(service: Service, message: object, **fields: object) -> float:
    """Answer it on Flash; give what it had scored."""
    answer = await done(service, service.generate(chat(message, route=FLASH, **fields)))
    assert answer.decision.route == routing_pb2.ROUTE_FLASH
    return answer.decision.score


async def test_a_turn_on_flash_that_scored_high_is_warmed_on_opus_and_the_next_one_reads_it() -> None:
    """By the invoice: the user's request on Opus reads to the token what the warm wrote; its first token is earlier."""
    waits, saved_s = {}, 0.0
    for policy in ("off", "predictive"):
        async with warming(policy) as service:
            assert await score_of(service, HARDER) > 0.2
            await passing(service, 5)
            waits[policy] = await first_byte_s(
                service, chat(HARDER, assistant("Three."), AND_THEN, route=OPUS)
            )
            if policy == "off":
                assert warms(service) == []
                continue
            (warm,) = warms(service)
            wrote, line = warm.write_5m_tokens + warm.write_1h_tokens, service.invoice.lines[-1]
            assert line.read_tokens == wrote > 10_000
            saved_s = 40e-6 * line.read_tokens
            settled = await service.settled(3)
            (booked,) = (each for each in settled if each.intent.purpose is Purpose.WARM)
            assert booked.cost.total_nano_usd == warm.cost_nano_usd
            assert booked.intent.tenant == "acme"
            report = await costs(service)
            assert (report.used_count, report.spent_nano_usd) == (1, warm.cost_nano_usd)
            await service.ledger.flush()
            (row,) = await service.ledger.warms(("trigger",))
            assert row.group["trigger"] == "score"
    print(f"first token {waits['off']:.3f} s cold, {waits['predictive']:.3f} s warmed by score")
    assert waits["off"] - waits["predictive"] > saved_s - 0.3 > 0.6


async def test_a_held_session_is_warmed_with_what_it_holds() -> None:
    """Its next turn names the session and a sentence; all of what came before is read."""
    async with warming("predictive", score=0.0) as service:
        await opened(service)
        request = turn("Which tickets are overdue?")
        request.constraints.forced_route = FLASH
        await done(service, service.generate(request))
        await passing(service, 5)
        await done(service, service.generate(turn("And before?")))
        (warm,) = warms(service)
        assert service.invoice.lines[-1].read_tokens == warm.write_5m_tokens + warm.write_1h_tokens > 4000


async def test_a_low_score_no_session_and_no_caching_leave_nothing_to_warm() -> None:
    """Each for a reason of its own; and a warm prefix is not warmed again."""
    async with warming("predictive") as service:
        assert await score_of(service, EASY) < 0.2
        assert await score_of(service, HARDER, session="") > 0.2
        assert await score_of(service, HARDER, session="uncached", no_cache=True) > 0.2
        await passing(service, 5)
        assert warms(service) == []
        cached = chat(HARDER, route=OPUS)
        cached.constraints.expected_follow_up_count = 9
        await done(service, service.generate(cached))
        await score_of(service, HARDER)
        await passing(service, 5)
        assert warms(service) == []


async def test_auto_warms_by_score_what_pays_and_nothing_where_time_is_worth_nothing(tmp_path) -> None:
    """A certain return on Opus is foreseen: at ten cents a second the warm is sent, at nothing never."""
    hazards = (0.5, *(0.99,) * (COUNT - 1))
    artifacts.save(tmp_path, artifact_of(arrays_of(hazards)))
    for second_usd, expected in ((0.0, 0), (0.1, 1)):
        async with warming("auto", second_usd=second_usd, foresight=str(tmp_path)) as service:
            await score_of(service, EASY)
            await passing(service, 5)
            await done(service, service.generate(chat(EASY, assistant("Three."), AND_THEN, route=OPUS)))
            assert len(warms(service)) == expected
            if expected:
                (warm,) = warms(service)
                assert service.invoice.lines[-1].read_tokens == warm.write_5m_tokens + warm.write_1h_tokens
