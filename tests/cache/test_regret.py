"""What came of warms: the three results, the benefit against the hold-out, and being switched off."""

import random

import pytest

from cache.regret import LEAST, REPROBE_S, Regret, Result, Tried, estimate

OWNER = ("acme", "desk")


def tried(at: float, *, held_out: bool = False, gain_usd: float = 0.10, owner=OWNER) -> Tried:
    """A keep-alive at 285 s of a prefix of 20,000 tokens that would lapse at 300."""
    return Tried(
        owner=owner,
        trigger="idle",
        held_out=held_out,
        from_s=at + 15,
        until_s=at + 300,
        tokens=20_000,
        private_tokens=16_000,
        gain_usd=gain_usd,
        gain_s=0.8,
        cost_usd=None,
    )


def warmed(regret: Regret, key: bytes, at: float, cost_usd: float = 0.004, **fields) -> None:
    regret.tried(key, tried(at, **fields), at)
    regret.spent(key, cost_usd)


@pytest.mark.parametrize(
    ("after_s", "read", "result", "benefit_usd"),
    [
        (100.0, 20_000, Result.USED, 0.096),
        (10.0, 20_000, Result.SUPERFLUOUS, -0.004),
        (100.0, 4_000, Result.WASTED, -0.004),
        (100.0, 0, Result.WASTED, -0.004),
    ],
)
def test_a_warm_is_what_the_next_request_makes_it(after_s, read, result, benefit_usd):
    """In the window and read; before it; in it and not read."""
    regret = Regret()
    warmed(regret, b"k", 1000.0)
    (settled,) = regret.used([b"x", b"k"], read, 1000.0 + after_s)
    assert settled.result is result
    assert settled.benefit_usd == pytest.approx(benefit_usd)
    assert regret.open_count == 0


def test_a_warm_nobody_came_for_is_wasted_when_it_ends():
    """Not before; one that was never sent is not counted."""
    regret = Regret()
    warmed(regret, b"k", 0.0)
    regret.tried(b"unsent", tried(0.0), 0.0)
    assert not regret.close(299.0)
    (settled,) = regret.close(300.0)
    assert (settled.result, settled.benefit_usd) == (Result.WASTED, pytest.approx(-0.004))
    assert not regret.used([b"k"], 20_000, 400.0)


def played(count: int, p_return: float, benefit_off: float, draw: random.Random) -> Regret:
    """Warms of prefixes that come back with a chance; held-out ones lose by `benefit_off` more than predicted."""
    regret = Regret()
    for number in range(count):
        key, held = b"%d" % number, draw.random() < 0.05
        regret.tried(key, tried(0.0, held_out=held), 0.0)
        regret.spent(key, 0.004)
        if draw.random() < p_return:
            # A held-out prefix that somebody else kept warm is read all the same: that is what predictions miss.
            kept = held and draw.random() < benefit_off
            regret.used([key], 0 if held and not kept else 20_000, 100.0)
        else:
            regret.close(300.0)
    return regret


@pytest.mark.parametrize(("p_return", "kept"), [(0.3, 0.0), (0.3, 0.5), (0.02, 0.0), (0.9, 0.2)])
def test_a_planted_benefit_lies_within_its_interval(p_return, kept):
    """Also where half of the prefixes held out are kept warm by others, which the prediction does not know."""
    truth = p_return * 0.10 * (1 - kept) - 0.004
    hits = 0
    for seed in range(20):
        found = estimate(played(2000, p_return, kept, random.Random(seed)).settled())
        hits += found.low_usd <= truth <= found.high_usd
    assert hits >= 17, "95 % of 20, less two deviations"


def test_without_a_hold_out_nothing_is_claimed():
    """Two of each at least."""
    regret = Regret()
    for number in range(50):
        warmed(regret, b"%d" % number, 0.0)
    regret.close(300.0)
    assert estimate(regret.settled()) is None


def test_an_owner_that_loses_is_switched_off_and_tries_again():
    """Of thirty none was read: off for six hours, then judged anew; another owner is not touched."""
    regret = Regret()
    for number in range(LEAST):
        assert regret.allowed(OWNER, 0.0)
        warmed(regret, b"%d" % number, 0.0)
    regret.close(300.0)
    assert not regret.allowed(OWNER, 301.0)
    assert regret.allowed(("other", "desk"), 301.0)
    assert regret.allowed(OWNER, 300.0 + REPROBE_S)


def test_an_owner_that_gains_goes_on():
    """Every third is read and saves 25 times what a warm costs."""
    regret = Regret()
    for number in range(200):
        key, at = b"%d" % number, number * 1000.0
        warmed(regret, key, at)
        if number % 3 == 0:
            regret.used([key], 20_000, at + 100)
        else:
            regret.close(at + 300)
        assert regret.allowed(OWNER, at + 301)


def test_what_is_kept_is_bounded():
    """Open, settled, owners."""
    regret = Regret(max_open=10, max_settled=20, max_owners=5)
    for number in range(100):
        warmed(regret, b"%d" % number, float(number), owner=(f"t{number}", ""))
    assert regret.open_count == 10
    regret.close(1e6)
    assert len(regret._records) == 5
