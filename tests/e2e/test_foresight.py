"""Foresight over real gRPC: what is foreseen is believed once it came true, and verdicts name who foresaw."""

from pathlib import Path

import pytest

from cache.regret import Regret
from classifier.foresight import artifact as artifacts
from classifier.foresight.history import Turn
from classifier.foresight.windows import COUNT
from router.config import WarmingConfig
from router.foresight import Foreseer
from router.ledger import Ledger
from router.settlement import Purpose
from tests.classifier.foresights import arrays_of, artifact_of
from tests.e2e.builders import FLASH, OPUS, START_TIME_S, assistant, generate, prose, user
from tests.e2e.service import WatchedClock, serving
from tests.e2e.test_cascade import failing, settings
from tests.e2e.test_warm_restart import living
from tests.e2e.test_warming import (
    SAY,
    ask,
    costs,
    done,
    opened,
    passing,
    reported,
    turn,
    warm_sent,
    warming,
    warms,
)

COMES_LATE = (0.01, 0.01, *(0.99,) * (COUNT - 2))
MAY_COME_LATE = (0.01, 0.01, *(0.25,) * (COUNT - 2))
NEVER = (0.001,) * COUNT


def kept(directory: Path, hazards: tuple[float, ...]) -> str:
    """A foresight on disk that says the same of every session; gives its digest."""
    artifact = artifact_of(arrays_of(hazards))
    artifacts.save(directory, artifact)
    return artifact.digest


async def kept_after_one_return(ledger: Ledger, foresight: str) -> tuple[int, int]:
    """Keep-alives that a first conversation gets, and a second one after the first came back ten minutes later."""
    question = user(f"{prose('The first case', 800)} {SAY}")
    async with living(ledger, policy="auto", foresight=foresight) as service:
        await done(service, service.generate(ask(question, session="first")))
        await passing(service, 600)
        again = ask(question, assistant("Three."), user(f"And before? {SAY}"), session="first")
        await done(service, service.generate(again))
        before = len(warms(service))
        await passing(service, 280)
        await done(
            service, service.generate(ask(user(f"{prose('The second case', 57)} {SAY}"), session="second"))
        )
        await passing(service, 600)
        await costs(service)  # which settles what has ended
        return before, len(warms(service)) - before


async def test_what_was_foreseen_and_came_true_is_kept_alive(tmp_path) -> None:
    """One in four foreseen a window: nothing is spent on the word of it, and one return makes it believed of another
    kind of turn, whose prefix that return alone would not keep."""
    digest = kept(tmp_path / "late", MAY_COME_LATE)
    kept(tmp_path / "never", NEVER)
    ledger = Ledger.temporary(clock=WatchedClock(START_TIME_S))
    try:
        before, after = await kept_after_one_return(ledger, str(tmp_path / "late"))
        assert (before, after > 0) == (0, True)
        await ledger.flush()
        assert [row.group["foresight"] for row in await ledger.warms(("foresight",))] == [digest]
    finally:
        await ledger.close()
    for foresight in ("default", str(tmp_path / "never")):
        ledger = Ledger.temporary(clock=WatchedClock(START_TIME_S))
        try:
            assert await kept_after_one_return(ledger, foresight) == (0, 0)
        finally:
            await ledger.close()


async def test_an_action_is_weighed_by_what_is_foreseen_of_its_session(tmp_path) -> None:
    """A session that has talked before: the verdict on an action says what was foreseen, and by whom."""
    digest = kept(tmp_path, COMES_LATE)
    ledger = Ledger.temporary(clock=WatchedClock(START_TIME_S))
    try:
        async with living(ledger, policy="auto", foresight=str(tmp_path), second_usd=0.1) as service:
            await opened(service, "held")
            assert "foresight" not in (await reported(service, "looked")).reason
            await done(service, service.generate(turn("And now?")))
            await passing(service, 700)
            verdict = await reported(service, "looked")
            assert f"foresight {digest}: 0.99" in verdict.reason
            # A turn on Flash is a turn of the session as well.
            thanks = generate(user(f"Thanks {SAY}"), session="held", application="", route=FLASH)
            await done(service, service.generate(thanks))
            # How far the clock was moved while that was answered is the loop's to say, and so is the exact chance.
            _, told, chance = (await reported(service, "looked")).reason.partition(f"foresight {digest}: ")
            assert told
            assert 0.1 < float(chance) < 0.6
    finally:
        await ledger.close()


async def test_a_request_that_opus_answered_in_the_place_of_flash_is_one_turn(monkeypatch) -> None:
    """As in training: what was discarded is no turn of the session, nor is anything warmed for it."""
    noted: list[Turn] = []
    note = Foreseer.noted
    monkeypatch.setattr(
        Foreseer,
        "noted",
        lambda self, whose, turn, *rest: noted.append(turn) or note(self, whose, turn, *rest),
    )
    running = settings(warming=WarmingConfig(policy="predictive", score=0.0, usd_per_hour=1000.0))
    async with serving(running) as service:
        answer = await service.generate(failing("refusal", session="s"))
        assert answer.decision.route == OPUS
        assert [turn.opus for turn in noted] == [True]
        assert [each.intent.purpose for each in await service.settled(2)] == [Purpose.USER] * 2


@pytest.mark.fault_expected
async def test_a_fault_in_what_judges_warms_fails_no_request(monkeypatch, caplog) -> None:
    """The answer is paid for: it is handed on, and the log says where the fault was."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Regret, "used", broken)
    async with warming("session_start") as service:
        await opened(service)
        await warm_sent(service)
        answer = await done(service, service.generate(turn("Which tickets are overdue?")))
        assert answer.answer.parts[0].text.text == "Three."
    assert "was not noted" in caplog.text
