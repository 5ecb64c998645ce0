"""Never switching, over real gRPC: the counterfactual of a session that switched is the bill of one that did not.

The same turns are asked twice, once with detours and once on the first route throughout; each world has providers of
its own. What the first is said to have cost without switching is held against what the second did cost, call by call.
"""

import pytest

from router.settlement import Settlement
from router.v1 import content_pb2
from router.v1.operator_service_pb2 import GetCostsRequest
from tests.e2e.builders import FLASH, OPUS, assistant, generate, prose, user
from tests.e2e.service import TIMEOUT_S, Service, serving
from tests.e2e.test_cascade import failing, settings

ROUTES = {"o": OPUS, "f": FLASH}
ANSWER = "Three tickets are overdue, two of them since Monday."
DIRECTIVE = f'[[sandbox say="{ANSWER}" thinking=0]]'
TOLERANCE = 0.15
"""Of a call: what the other route would have counted is an estimate."""


def turns(number: int) -> list[content_pb2.Message]:
    """The conversation up to the user's turn `number`, 0-based, whoever answered before."""
    asked = [user(f"{prose(f'Point {past}', 25)} {DIRECTIVE}") for past in range(number + 1)]
    return [message for each in asked[:-1] for message in (each, assistant(ANSWER))] + asked[-1:]


async def asked(service: Service, routes: str, gap_s: float, session: str = "s") -> list[Settlement]:
    """Ask a turn per route, `gap_s` apart; what was settled, in order. The caller and GetCosts are told the same."""
    told = []
    for number, route in enumerate(routes):
        request = generate(*turns(number), session=session, route=ROUTES[route], no_fallback=True)
        otherwise = (await service.generate(request)).accounting.counterfactuals
        told.append(otherwise.never_switch_nano_usd if otherwise.HasField("never_switch_nano_usd") else None)
        service.clock.advance(gap_s)
    settlements = await service.settlements()
    assert told == [stayed(each) for each in settlements[-len(told) :]]
    summed = (await service.operator.GetCosts(GetCostsRequest(), timeout=TIMEOUT_S)).total.never_switch
    assert summed.baseline_nano_usd == sum(stayed(each) or 0 for each in settlements)
    return settlements


async def booked(routes: str, gap_s: float) -> list[Settlement]:
    """A world of its own in which these were asked."""
    async with serving() as service:
        return await asked(service, routes, gap_s)


def cost_of(settlement: Settlement) -> int:
    """What it cost."""
    assert settlement.cost is not None
    return settlement.cost.total_nano_usd


def stayed(settlement: Settlement) -> int | None:
    """What it is said to have cost had the session stayed."""
    assert settlement.counterfactuals is not None
    return settlement.counterfactuals.never_switch_nano_usd


@pytest.mark.parametrize("gap_s", [20.0, 400.0], ids=["within the TTL", "beyond it"])
@pytest.mark.parametrize("routes", ["ofo", "offoo", "offfo"])
async def test_a_detour_from_opus_is_compared_with_a_cache_that_stayed_warm(
    routes: str, gap_s: float
) -> None:
    """What the detour let lapse would have been read, and what it never wrote too; beyond the TTL nobody reads."""
    detour, straight = await booked(routes, gap_s), await booked("o" * len(routes), gap_s)
    for away, there in zip(detour, straight, strict=True):
        assert stayed(there) == cost_of(there)
        assert stayed(away) == pytest.approx(cost_of(there), rel=TOLERANCE)


async def test_a_cold_return_is_dearer_than_staying() -> None:
    """After a detour longer than the TTL between answers of Opus, the return pays for the prefix once more."""
    *_, back = await booked("offffo", 100.0)
    assert stayed(back) < 0.4 * cost_of(back)


@pytest.mark.parametrize("routes", ["fof", "ffoof"])
async def test_a_detour_from_flash_is_compared_with_flash(routes: str) -> None:
    """A session begun on Flash would have paid Flash's prices throughout; its implicit cache is taken as it was."""
    detour, straight = await booked(routes, 20.0), await booked("f" * len(routes), 20.0)
    for route, away, there in zip(routes, detour, straight, strict=True):
        assert stayed(there) == cost_of(there)
        if route == "f":
            assert stayed(away) == cost_of(away)
        else:
            assert stayed(away) == pytest.approx(cost_of(there), rel=TOLERANCE)


async def test_where_a_conversation_began_is_known_or_nothing_is_said() -> None:
    """Without a session the first turn stands alone; a later one began where nobody saw."""
    async with serving() as service:
        await asked(service, "of", 20.0, session="")
        late = generate(*turns(3), session="late", route=OPUS, no_fallback=True)
        await service.generate(late)
        await service.generate(generate(*turns(4), session="late", route=OPUS, no_fallback=True))
        first, second, *unseen = await service.settlements()
    assert stayed(first) == cost_of(first)
    assert stayed(second) is None
    assert [stayed(each) for each in unseen] == [None, None]


async def test_of_two_answers_of_one_request_a_session_that_stays_makes_one() -> None:
    """Flash's discarded answer is what a session of Flash pays, Opus's in its place nothing; begun on Opus, the
    other way round.
    """
    async with serving(settings()) as service:
        await service.generate(failing("empty", session="begun on flash"))
        flash, opus = await service.settlements()
        assert (flash.intent.route, opus.intent.route) == ("flash", "opus")
        assert (stayed(flash), stayed(opus)) == (cost_of(flash), 0)
        opening = generate(user("Which tickets are overdue?"), session="begun on opus", route=OPUS)
        await service.generate(opening)
        await service.generate(failing("empty", user("Which?"), assistant("Three."), session="begun on opus"))
        *_, flash, opus = await service.settlements()
        assert (flash.intent.route, opus.intent.route) == ("flash", "opus")
        assert (stayed(flash), stayed(opus)) == (0, cost_of(opus))
