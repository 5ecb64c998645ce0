"""Demand: priors first, evidence soon, no windows counted before they close, bounded memory."""

from random import Random

import pytest

from cache.demand import Demand
from cache.economics import Rates, write_threshold
from cache.forecast import FIRST_TURN, LATER_TURN, Forecast
from cache.prefix import prefix_digests
from cache.prompt import Block, BlockKind, CacheScope, Layer, Prompt

SCOPE = CacheScope("anthropic", "workspace", "claude-opus-5-5")
THRESHOLD = write_threshold(Rates(1.25, 2.0, 0.05))


def arrive(demand, prompt, now, kind=""):
    demand.arrive(SCOPE, prompt, prefix_digests(prompt), now, kind)


def forecast(demand, prompt, now, kind=""):
    return demand.forecasts(SCOPE, prompt, prefix_digests(prompt), now, kind)


def test_priors_hold_where_nothing_was_seen(saas):
    """A first turn is below break-even, a later one above it, the shared layers far above it."""
    demand = Demand()
    for turns, prior in ((1, FIRST_TURN), (2, LATER_TURN)):
        for found, expected in zip(forecast(demand, saas(turns=turns), 0), prior, strict=True):
            assert found.p_5m == pytest.approx(expected.p_5m)
            assert found.p_1h >= expected.p_1h - 1e-9, "a context is used whenever its conversation goes on"
    assert FIRST_TURN[Layer.TURN].p_5m < THRESHOLD < LATER_TURN[Layer.TURN].p_5m


def test_a_busy_shared_prefix_is_certain_to_be_used_again(saas):
    """A hundred users in an hour: the next use within five minutes is sure, each user's own is not."""
    demand = Demand()
    for user in range(100):
        arrive(demand, saas(f"user {user}"), 36.0 * user)
    found = forecast(demand, saas("user 7"), 3601)
    assert found[Layer.SYSTEM].p_5m > 0.99
    assert found[Layer.CONTEXT].p_5m < 0.6


def test_a_prefix_used_once_a_day_falls_below_every_threshold(saas):
    """Neither five minutes nor an hour pays for it."""
    demand = Demand()
    for day in range(5):
        arrive(demand, saas(), 86_400.0 * day)
    found = forecast(demand, saas(), 86_400.0 * 5)
    assert found[Layer.SYSTEM].p_5m < 0.05
    assert found[Layer.SYSTEM].p_1h < 0.2


def test_old_arrivals_fade(saas):
    """A prefix that was busy last week is not busy now."""
    demand = Demand()
    for step in range(200):
        arrive(demand, saas(), 30.0 * step)
    assert forecast(demand, saas(), 6_000)[Layer.SYSTEM].p_5m > 0.99
    assert forecast(demand, saas(), 6_000 + 7 * 86_400)[Layer.SYSTEM].p_5m < 0.1


def test_windows_count_when_they_close(saas):
    """A quick return is not evidence before its five minutes are over, or slow ones would come too late."""
    demand = Demand()
    for user in range(40):
        arrive(demand, saas(f"user {user}"), 0.0)
        arrive(demand, saas(f"user {user}", 2), 0.0)
    assert forecast(demand, saas(), 200)[Layer.TURN] == pytest.approx(FIRST_TURN[Layer.TURN])
    arrive(demand, saas("late"), 301.0)
    assert forecast(demand, saas(), 301)[Layer.TURN].p_5m > 0.5


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_returns_is_found(saas, share):
    """First turns that come back within five minutes with this chance are forecast so, to a few points."""
    demand, random = Demand(), Random(7)
    now = 0.0
    for user in range(600):
        now += 400.0
        arrive(demand, saas(f"user {user}"), now)
        if random.random() < share:
            arrive(demand, saas(f"user {user}", 2), now + 60)
    assert forecast(demand, saas(), now + 4000)[Layer.TURN].p_5m == pytest.approx(share, abs=0.06)


def test_pauses_within_the_hour_are_told_from_those_within_five_minutes(saas):
    """Everyone returns after 20 minutes: nothing for five minutes, nearly certain for the hour."""
    demand = Demand()
    for user in range(200):
        arrive(demand, saas(f"user {user}"), 5000.0 * user)
        arrive(demand, saas(f"user {user}", 2), 5000.0 * user + 1200)
    found = forecast(demand, saas(), 5000.0 * 200)[Layer.TURN]
    assert found.p_5m < 0.05
    assert found.p_1h > 0.85


def test_kinds_of_traffic_are_learnt_apart(saas):
    """An API key that never returns does not spoil the chat's forecast; an unknown kind gets what all have in
    common.
    """
    demand = Demand()
    for user in range(150):
        arrive(demand, saas(f"job {user}"), 700.0 * user, "batch")
        arrive(demand, saas(f"chat {user}"), 700.0 * user + 1, "chat")
        arrive(demand, saas(f"chat {user}", 2), 700.0 * user + 30, "chat")
    now = 700.0 * 150
    batch, chat, other = (
        forecast(demand, saas(), now, kind)[Layer.TURN].p_5m for kind in ("batch", "chat", "new")
    )
    assert batch < 0.15 < other < 0.85 < chat


def test_forecasts_are_chances_and_ordered(saas):
    """Whatever came, 0 <= P(5 min) <= P(1 h) <= 1, and reads within a TTL follow."""
    demand, random = Demand(), Random(3)
    now = 0.0
    for _ in range(500):
        now += random.expovariate(1 / 200)
        arrive(demand, saas(f"user {random.randrange(9)}", random.randrange(1, 4)), now)
        for found in forecast(demand, saas("user 1", 2), now):
            assert 0 <= found.p_5m <= found.p_1h <= 1
    assert Forecast(0.5, 0.75).reads(300) == 1
    assert Forecast(0.5, 0.75).reads(3600) == 3
    assert Forecast(1.0, 1.0).reads(300) == 1000


def test_turns_teach_where_prefixes_are_not_counted(saas):
    """A scope that is never asked for forecasts keeps no prefix, and its turns' returns count all the same."""
    counted, bare = Demand(), Demand()
    for now in range(0, 60_000, 400):
        arrive(counted, saas(), float(now))
        bare.arrive(SCOPE, saas(), prefix_digests(saas()), float(now), keyed=False)
    assert forecast(bare, saas(), 60_000.0)[Layer.TURN] == forecast(counted, saas(), 60_000.0)[Layer.TURN]
    assert bare.entry_count < counted.entry_count


def test_memory_is_bounded(saas):
    """Users and turns pass by the thousand; what is kept does not grow."""
    demand = Demand(max_prefixes=50, max_waiting=40)
    for user in range(2000):
        arrive(demand, saas(f"user {user}"), 0.01 * user)
    assert demand.entry_count <= 50 + 41


def test_growing_first_message_is_a_conversation_from_its_second_request() -> None:
    """A client that appends to one user message comes back like one that adds turns; it has no history to show it."""
    demand = Demand()
    grown = [Prompt(blocks=tuple(_said(f"part {part}") for part in range(count))) for count in (1, 2)]
    first, second = (prefix_digests(prompt) for prompt in grown)
    assert demand.forecasts(SCOPE, grown[0], first, 0.0)[Layer.TURN] == pytest.approx(FIRST_TURN[Layer.TURN])
    demand.arrive(SCOPE, grown[0], first, 0.0)
    found = demand.forecasts(SCOPE, grown[1], second, 20.0)[Layer.TURN]
    assert found == pytest.approx(LATER_TURN[Layer.TURN])


def _said(text: str) -> Block:
    return Block(Layer.TURN, BlockKind.TEXT, text.encode(), "user")
