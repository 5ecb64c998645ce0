"""What Opus leaves warm, in money: the private part if this conversation returns, the shared if anyone comes."""

import pytest

from cache.plan import Strategy
from classifier.policy import SessionState
from classifier.route import Route, Score
from router.call import Role
from router.memory import Remembered
from router.pricing import Price, PriceTable
from router.request import Request
from router.returns import Premium, Returns, opus_leaves_nano_usd
from tests.router.rig import START_TIME_S, Rig, asked, rigged, said

SYSTEM = ("Answer from the records you are shown and name the record for every figure. " * 80,)
HISTORY = "The record names an owner, a period and an amount. " * 300


def turn(number: int = 0, session: str = "s", system: tuple[str, ...] = SYSTEM) -> Request:
    """One request of a conversation that grows."""
    messages = [said(f"{session} turn 0. {HISTORY}")]
    for earlier in range(number):
        messages += [said("Noted.", Role.ASSISTANT), said(f"{session} turn {earlier + 1}. {HISTORY}")]
    return asked(*messages, session=session, system=system)


def price() -> Price:
    """Of Opus, on the day the rig starts."""
    return PriceTable().price("claude-opus-5-5", START_TIME_S)


def premium(rig: Rig, returns: Returns, request: Request, follow_ups: int | None = None) -> Premium:
    """What the service would ask for this request."""
    view = rig.prepare(request).views[Route.OPUS]
    return returns.premium(view, price(), "", rig.clock.now(), follow_ups)


async def test_the_private_part_is_the_write_premium_of_what_returns() -> None:
    """A caller that expects nobody gets none; one that expects many gets nearly (w - r) p_O per private token."""
    async with rigged(strategy=Strategy.C, limit=100) as rig:
        returns = Returns(100)
        request = turn(2)
        view = rig.prepare(request).views[Route.OPUS]
        marks = view.plan.breakpoints
        private_tokens = marks[-1].prefix_tokens - marks[0].prefix_tokens
        assert private_tokens > 1_000
        assert premium(rig, returns, request, 0).private_nano_usd == 0
        many = premium(rig, returns, request, 9_999).private_nano_usd
        rates = price().rates()
        per_token = (rates.write_5m - rates.read) * price().femto_usd[0] / 1e6
        assert many == pytest.approx(private_tokens * per_token, rel=1e-3)


async def test_the_shared_part_counts_while_it_is_cold_and_somebody_comes() -> None:
    """Cold and busy: nearly its whole write premium, so the first is not charged for all; rare: little; warm: none."""
    async with rigged(strategy=Strategy.C, limit=100) as rig:
        busy, rare = Returns(100), Returns(100)
        for number in range(40):
            other = rig.prepare(turn(session=f"o{number}"))
            busy.arrive(other.views[Route.OPUS], "", rig.clock.now(), 0.5)
            rig.clock.advance(5)
        other = rig.prepare(turn(session="rare", system=("Something else. " * 400,)))
        rare.arrive(other.views[Route.OPUS], "", rig.clock.now(), 0.0)
        rates, mark = price().rates(), rig.prepare(turn()).views[Route.OPUS].plan.breakpoints[0]
        whole = (rates.write_5m - rates.read) * mark.prefix_tokens * price().femto_usd[0] / 1e6
        assert premium(rig, busy, turn()).shared_nano_usd == pytest.approx(whole, rel=0.3)
        assert premium(rig, rare, turn()).shared_nano_usd < 0.5 * whole
        view = rig.prepare(turn()).views[Route.OPUS]
        warm = view.plan.breakpoints[0]._replace(p_warm=1.0)
        held = type(view)(
            view.scope,
            view.prompt,
            view.digests,
            view.counts,
            view.plan._replace(breakpoints=(warm, *view.plan.breakpoints[1:])),
        )
        assert busy.premium(held, price(), "", rig.clock.now(), None).shared_nano_usd == 0


async def test_turns_are_counted_whatever_route_they_took() -> None:
    """Conversations that always return in time raise the chance; nothing of it asks where they were answered."""
    async with rigged(strategy=Strategy.C, limit=1_000) as rig:
        returns = Returns(1_000)
        before = premium(rig, returns, turn(1, "x")).private_nano_usd
        for number in range(30):
            for step in range(4):
                view = rig.prepare(turn(step, f"c{number}")).views[Route.OPUS]
                returns.arrive(view, "", rig.clock.now(), 0.1)
                rig.clock.advance(20)
        rig.clock.advance(7_200)
        view = rig.prepare(turn(0, "last")).views[Route.OPUS]
        returns.arrive(view, "", rig.clock.now(), 0.1)
        rig.clock.advance(20)
        assert premium(rig, returns, turn(1, "last")).private_nano_usd > 1.1 * before


def test_what_was_wanted_scales_the_private_part_alone() -> None:
    """A session that scored high keeps nearly all of it; a bare follow-up says nothing; what is shared stays whole."""
    found, new = Premium(1_000_000, 50), SessionState()
    low = Score(value=0.0, raw=0.0, model_digest="m")
    keen = Remembered(Route.OPUS, 4, score_mean=0.9, scored_count=4)
    cool = Remembered(Route.OPUS, 4, score_mean=0.05, scored_count=4)
    assert opus_leaves_nano_usd(found, low, new, keen) > 4 * opus_leaves_nano_usd(found, low, new, cool)
    follow_up = SessionState(is_follow_up=True, previous_route=Route.OPUS)
    assert opus_leaves_nano_usd(found, low, follow_up, keen) > opus_leaves_nano_usd(found, low, new, keen)
    assert opus_leaves_nano_usd(Premium(0, 50), None, new, None) == 50
