"""How long answers take to begin, rebuilt from the ledger: the same line as if the process had never ended."""

from math import inf, nan

import pytest

from cache.first_byte import FirstByte
from router.first_byte_recall import LIMIT, recall_first_bytes
from router.ledger.recent import PastFirstByte
from router.settlement import Outcome, Purpose
from router.usage import Usage
from tests.router.ledger_samples import START_S, StillClock, a_settlement, an_intent
from tests.router.test_ledger_warms import ledger  # noqa: F401 (a fixture)

MODEL = "claude-opus-5-5"


def an_answer(
    number: int, uncached_tokens: int, seconds: float, outcome: Outcome = Outcome.OK, **asked: object
):
    """A settled call that read so many tokens anew and began so late."""
    intent = an_intent(
        **({"request_id": f"r{number}", "model": MODEL, "started_time_s": START_S + number} | asked)
    )
    usage = Usage(input_tokens=uncached_tokens + 1_000, cache_read_tokens=1_000, output_tokens=5)
    return a_settlement(intent, usage=usage, first_byte_s=seconds, outcome=outcome)


async def recalled(ledger, clock) -> dict[str, FirstByte]:  # noqa: F811
    """What is known of each model after a start."""
    lines: dict[str, FirstByte] = {}
    await recall_first_bytes(
        lambda model: lines.setdefault(model, FirstByte()), frozenset({MODEL}), ledger, clock
    )
    return lines


async def test_what_streamed_answers_took_is_known_again(ledger):  # noqa: F811
    """In order, and nothing else: whole answers, warms, Flash, failures and other models say nothing of it."""
    live = FirstByte()
    for number in range(60):
        tokens, seconds = 500 * number, 1.5 + 30e-6 * 500 * number
        ledger.settle(an_answer(number, tokens, seconds))
        live.observe(tokens, seconds)
    others = ({"stream": False}, {"purpose": Purpose.WARM}, {"route": "flash"}, {"model": "claude-opus-5"})
    for number, asked in enumerate(others, 60):
        ledger.settle(an_answer(number, 100_000, 60.0, **asked))
    ledger.settle(an_answer(70, 100_000, 60.0, Outcome.INTERRUPTED))
    lines = await recalled(ledger, StillClock(START_S + 100))
    assert lines == {MODEL: live}
    t0_s, kappa_s = lines[MODEL].line()
    assert t0_s == pytest.approx(1.5, abs=0.2), "as it was seen, and no longer 0.8 s as assumed"
    assert kappa_s == pytest.approx(30e-6, rel=0.2)


async def test_what_is_old_or_too_many_is_left_out(ledger):  # noqa: F811
    """A day, and so many answers that the oldest of them counts for nothing: the line is that of the whole past."""
    ledger.settle(an_answer(0, 100_000, 60.0, started_time_s=START_S - 2 * 86_400))
    live = FirstByte()
    for number in range(LIMIT + 50):
        ledger.settle(an_answer(number + 1, 100 * (number % 50), 1.0))
        live.observe(100 * (number % 50), 1.0)
    lines = await recalled(ledger, StillClock(START_S + 1_000))
    assert [round(value, 3) for value in lines[MODEL].line()] == [round(value, 3) for value in live.line()]


async def test_a_ledger_that_fails_leaves_what_was_assumed(ledger, monkeypatch, caplog):  # noqa: F811
    """It is logged, and the start goes on."""

    async def broken(*_: object) -> list:
        raise OSError("disk")

    monkeypatch.setattr(ledger, "first_bytes", broken)
    assert await recalled(ledger, StillClock()) == {}
    assert "is not known: OSError" in caplog.text


async def test_a_row_that_cannot_be_says_nothing(ledger, monkeypatch):  # noqa: F811
    """Time that went backwards, no number, more read than there was: learnt from, the line would stay so for a day."""

    async def odd(*_: object) -> list[PastFirstByte]:
        pairs = ((5_000, -3.0), (5_000, nan), (5_000, inf), (-200, 1.0))
        return [PastFirstByte(MODEL, *pair) for pair in pairs] + [PastFirstByte(MODEL, 5_000, 1.2)]

    monkeypatch.setattr(ledger, "first_bytes", odd)
    live = FirstByte()
    live.observe(5_000, 1.2)
    assert await recalled(ledger, StillClock()) == {MODEL: live}
