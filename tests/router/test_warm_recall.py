"""What warming learns, rebuilt from the ledger: the same as if the process had never ended."""

from dataclasses import replace as replace_fields
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.chances import Chances
from cache.demand import place_of, turn_path
from cache.hazard import Path
from cache.pace import Pace
from cache.regret import LEAST, REPROBE_S, Regret, Result, Tried
from cache.returns import WINDOW_S, WINDOWS, Returns
from cache.rules import TTL_5M_S
from cache.schedule import Policy
from classifier.foresight.history import Turn as Seen
from router.foresight import Foreseer
from router.ledger import PastWarm, Turn
from router.settlement import Purpose
from router.warm_recall import TURN_LIMIT, WARM_LIMIT, recall, replay
from router.warm_score import ScoreHints
from tests.router.ledger_samples import START_S, StillClock, a_settlement, a_verdict, an_intent
from tests.router.test_ledger_warms import ledger  # noqa: F401 (a fixture)

OWNERS = (("acme", "desk"), ("globex", "desk"))


class Learner:
    """As much of warming as is taught."""

    def __init__(self) -> None:
        self.regret = Regret()
        self.returns = Returns()
        self.chances = Chances(within_s=300)
        self.pace = Pace(usd_per_hour=1.0, requests_per_minute=10)
        self.foreseer = Foreseer(None)
        self.hints = ScoreHints(Policy.AUTO, 0.2)
        self.left: dict[tuple[str, str], bytes] = {}

    def left_by(self, tenant: str, session: str, key: bytes) -> None:
        self.left[tenant, session] = key


def lived(regret: Regret, warms) -> list[PastWarm]:
    """Let decisions be settled one after the other; what the ledger would have kept of them."""
    past = []
    for number, (owner, used, held_out) in enumerate(warms):
        at = 400.0 * number
        tried = Tried(
            owner=owner,
            trigger="session_start",
            held_out=held_out,
            from_s=at,
            until_s=at + 300,
            tokens=20_000,
            private_tokens=16_000,
            gain_usd=0.05,
            gain_s=0.5,
            name=f"warm-{number}",
        )
        regret.tried(b"k", tried, at)
        regret.spent(b"k", 0.03125)
        settled = regret.used([b"k"], 20_000, at + 10) if used else regret.close(at + 300)
        past += [
            PastWarm(
                each.owner,
                each.trigger,
                each.decided_s,
                each.settled_s,
                each.result is Result.HELD_OUT,
                each.came,
                each.benefit_usd,
                each.benefit_s,
            )
            for each in settled
        ]
    return past


WARMS = st.lists(
    st.tuples(
        st.sampled_from(OWNERS), st.sampled_from([False, False, True]), st.sampled_from([False] * 9 + [True])
    ),
    max_size=160,
)


@given(warms=WARMS, later_s=st.floats(0, 2 * REPROBE_S))
def test_who_may_be_warmed_survives_a_restart(warms, later_s):
    """Sums and switches of every owner are those of the process that ended, at any time after."""
    live = Regret()
    past = lived(live, warms)
    again = Learner()
    now_s = 400.0 * len(warms) + later_s
    replay(again, past, (), now_s)
    assert [again.regret.allowed(owner, now_s) for owner in OWNERS] == [
        live.allowed(owner, now_s) for owner in OWNERS
    ]
    assert again.regret._records == live._records
    assert again.regret.switched_off(now_s) == live.switched_off(now_s)
    assert again.regret.settled() == [], "nothing is settled twice"


def test_an_owner_that_lost_stays_off_until_its_time():
    """Thirty that nobody came for; off over the restart, and tried again six hours after the last."""
    past = lived(Regret(), [(OWNERS[0], False, False)] * 30)
    again = Learner()
    replay(again, past, (), past[-1].settled_s)
    assert not again.regret.allowed(OWNERS[0], past[-1].settled_s + REPROBE_S - 1)
    assert again.regret.allowed(OWNERS[0], past[-1].settled_s + REPROBE_S)
    assert again.regret.allowed(OWNERS[1], past[-1].settled_s)


def test_how_often_a_session_is_begun_is_known_again():
    """Of opened sessions that were decided on, by application; those held out say it as well."""
    past = lived(Regret(), [(OWNERS[0], True, number % 3 == 0) for number in range(60)])
    again = Learner()
    replay(again, past, (), 1e6)
    assert again.chances.of(("session", "desk"), 0.2) > 0.8
    assert again.chances.of(("session", "other"), 0.2) == 0.2


def path(place: str, *, begins_run: bool = True, application: str = "desk") -> Path:
    """Kind of a turn of unknown size."""
    return turn_path(application, place, begins_run, None, 0)


def turn(number: int, session: str, started_s: float, **fields) -> Turn:
    """One answered turn."""
    known = {
        "request_id": f"r{number}",
        "route": "opus",
        "tenant": "acme",
        "application": "desk",
        "session": session,
        "started_s": started_s,
        "finish_reason": "end_turn",
        "cached_tokens": 5_000,
    }
    return Turn(**(known | fields))


GAPS = st.lists(st.floats(1, WINDOW_S * WINDOWS), min_size=1, max_size=30)


@given(gaps=GAPS)
def test_who_comes_back_is_learnt_as_it_was(gaps):
    """Turns of one session, whatever their gaps: the hazards are those of having seen them."""
    live, key, at = Returns(), b"", START_S
    turns, paths = [], []
    for number, gap_s in enumerate([0.0, *gaps]):
        at += gap_s
        run = live.returned(key, at) if key else ()
        key = f"{number}".encode()
        begins_run = number == 0 or at - turns[-1].started_s >= TTL_5M_S
        paths.append(path(place_of(number + 1), begins_run=begins_run))
        live.quiet(key, paths[-1], at, run=run)
        turns.append(turn(number, "s", at))
    end_s = at + WINDOW_S * WINDOWS
    live.close(end_s)
    again = Learner()
    replay(again, (), turns, end_s)
    for kind in paths:
        assert list(again.returns.hazards(kind)) == list(live.hazards(kind))
        assert list(again.returns.run_hazards(kind)) == list(live.run_hazards(kind))


def test_a_turn_that_is_quiet_at_the_restart_is_waited_for():
    """Its session's next turn counts as its return, by the key that was left."""
    again = Learner()
    replay(again, (), [turn(1, "s", START_S)], START_S + 60)
    key = again.left["acme", "s"]
    again.returns.returned(key, START_S + 100)
    again.returns.close(START_S + 2 * WINDOW_S)
    assert again.returns.hazards(path("first"))[0] > 0.03
    assert again.returns.waiting == 0


def test_kinds_of_turns_are_told_apart_by_what_the_ledger_knows():
    """A step after a tool call is a tool loop's; one on Flash counts and is not waited for; a retry does not."""
    again = Learner()
    turns = [
        turn(1, "s", START_S, finish_reason="tool_call"),
        turn(2, "s", START_S + 10),
        turn(3, "s", START_S + 20, route="flash"),
        turn(4, "s", START_S + 30),
        turn(4, "s", START_S + 31),
        turn(5, "t", START_S + 40, cached_tokens=0),
    ]
    replay(again, (), turns, START_S + 10 * WINDOW_S)
    cells = again.returns._cells
    places = {key[1] for key in cells}
    assert places == {"first", "tool loop", "third"}, "on Opus it is the third"
    assert set(again.left) == {("acme", "s")}
    assert again.foreseer.noted(("acme", "s"), Seen(START_S + 50, True)).turns == 5, "four, and this one"


@given(turns=st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(1, 250)), max_size=60))
def test_what_scores_were_worth_survives_a_restart(turns):
    """How often a turn of such a score on Flash was followed by Opus in time: counted as it was."""
    live, past = ScoreHints(Policy.AUTO, 0.2), []
    for number, (score, came, after_s) in enumerate(turns):
        at, session = START_S + 1000.0 * number, f"s{number}"
        past.append(turn(2 * number, session, at, route="flash", score=score))
        live.recalled("desk", ("acme", session), score, None, at)
        if came:
            past.append(turn(2 * number + 1, session, at + after_s))
            live.followed(("acme", session), at + after_s)
    end_s = START_S + 1000.0 * len(turns) + 300
    live.close(end_s)
    again = Learner()
    replay(again, (), past, end_s)
    assert again.hints._chances._counts == live._chances._counts


def test_tokens_that_a_turn_added_are_told_by_the_turn_before_it():
    """What was asked and answered before is no part of it; after a turn on Flash, whose tokens are others, unknown."""
    known = {"input_tokens": 5_000, "output_tokens": 500}
    turns = [
        turn(1, "s", START_S, **known),
        turn(2, "s", START_S + 10, **(known | {"input_tokens": 7_000})),
        turn(3, "s", START_S + 20, route="flash", **known),
        turn(4, "s", START_S + 30, **(known | {"input_tokens": 12_000})),
    ]
    again = Learner()
    replay(again, (), turns, START_S + 2 * WINDOW_S)
    sized = {key for key in again.returns._cells if len(key) > 3}
    assert sized == {("desk", "second", False, 10), ("desk", "second", False, 10, 6)}, "1,500 tokens of 7,000"


def test_what_was_booked_by_a_clock_that_was_put_back_stops_nothing():
    """A year ahead: nobody is switched off until then, and who comes back now is learnt."""
    ahead_s = START_S + 365 * 86_400.0
    past = [
        PastWarm(OWNERS[0], "session_start", ahead_s + number, ahead_s + number + 300, False, False, -1e-3, 0)
        for number in range(LEAST)
    ]
    straddling = [replace_fields(each, decided_s=START_S, owner=OWNERS[1]) for each in past]
    again = Learner()
    replay(again, past + straddling, [turn(1, "s", ahead_s)], START_S + 60)
    assert again.regret.allowed(OWNERS[0], START_S + 60)
    assert not again.regret.allowed(OWNERS[1], START_S + 60)
    assert again.regret.allowed(OWNERS[1], START_S + 60 + REPROBE_S)
    assert again.left == {}
    again.returns.quiet(b"now", path("first"), START_S + 60)
    again.returns.returned(b"now", START_S + 100)
    again.returns.close(START_S + 60 + 2 * WINDOW_S)
    assert again.returns.hazards(path("first"))[0] > 0.03


async def test_the_hours_budget_survives_a_restart(ledger):  # noqa: F811
    """What warms cost in the last hour is spent already, an interrupted one at the most it can have cost."""
    clock = StillClock(START_S + 1800)
    spent = a_settlement(an_intent(request_id="warm-1", purpose=Purpose.WARM, started_time_s=START_S + 900))
    ledger.settle(spent)
    ledger.settle(a_settlement(an_intent(request_id="r", started_time_s=START_S + 1790)))
    ledger.warm(a_verdict())
    again = Learner()
    await recall(again, ledger, clock)
    left_usd = 1.0 - spent.cost.total_nano_usd / 1e9
    assert again.pace.refusal(left_usd - 1e-6, clock.now()) == ""
    assert "an hour is spent" in again.pace.refusal(left_usd + 1e-6, clock.now())


async def test_a_ledger_that_fails_does_not_stop_the_start(ledger, monkeypatch, caplog):  # noqa: F811
    """It is logged, and warming begins with nothing."""

    async def broken(limit: int) -> list[PastWarm]:
        raise OSError("disk")

    monkeypatch.setattr(ledger, "last_warms", broken)
    again = Learner()
    await recall(again, ledger, StillClock())
    assert "begins anew" in caplog.text
    assert again.regret.allowed(OWNERS[0], START_S)


async def test_what_cannot_be_replayed_does_not_stop_the_start(ledger, monkeypatch, caplog):  # noqa: F811
    """A fault in learning it again is logged; what was spent is spent all the same."""
    again = Learner()
    ledger.warm(a_verdict())
    monkeypatch.delattr(Regret, "restore")
    await recall(again, ledger, StillClock())
    assert "not all that warming had learnt" in caplog.text


@pytest.mark.slow
def test_replaying_all_that_is_read_does_not_grow_with_its_square():
    """It takes half a second of CPU; a pass over all for each row would take minutes."""
    past = [
        PastWarm(
            (f"t{number % 500}", "desk"),
            "session_start",
            number,
            number + 300.0,
            False,
            number % 3 == 0,
            1e-3,
            0,
        )
        for number in range(WARM_LIMIT)
    ]
    turns = [turn(number, f"s{number // 3}", START_S + 5.0 * number) for number in range(TURN_LIMIT)]
    begun_s = process_time()
    replay(Learner(), past, turns, START_S + 5.0 * TURN_LIMIT)
    taken_s = process_time() - begun_s
    print(f"{WARM_LIMIT:,} verdicts and {TURN_LIMIT:,} turns: {taken_s:.2f} s")
    assert taken_s < 10.0
